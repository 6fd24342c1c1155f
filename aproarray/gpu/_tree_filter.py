"""The tree filter on the device, level after level of trees laid out breadth first.

The kernels are those of kernels/rooted.cu and tree_filter*.cu. The functions are those of
`aproarray.cpu._tree_filter`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np

from aproarray import _zeta
from aproarray import cpu as on_host
from aproarray._backend import RootedTrees
from aproarray.gpu import _arguments, _compile
from aproarray.gpu._arguments import (
    NULL,
    REAL,
    SIZES,
    items_at_once,
    numbers,
    picked,
    strided,
    struct_of_pointers,
)
from aproarray.gpu._compile import Struct, kernel
from aproarray.gpu._sort import sort

_FORESTS = struct_of_pointers("parents", "n_roots", "stops", "levels", "n_levels")
_ARCS = struct_of_pointers("numbers", "starts", "stops")


def rooted_trees(order: Any, gap_edges: Any, workers: int) -> RootedTrees:
    """Lay trees of order (B, N) and gap_edges (B, N-1, 2) out breadth first.

    This waits for the device, to look whether they are trees.
    """
    del workers
    n_trees, n = order.shape
    step = items_at_once(n_trees, 2 * n, "a tree")
    parts = [_rooted(order[at : at + step], gap_edges[at : at + step]) for at in range(0, n_trees, step)]
    if len(parts) == 1:
        return parts[0]
    if not parts:
        nothing = cupy.empty((0, n), np.int32)
        return RootedTrees(nothing, nothing, nothing, cupy.empty(0, np.int64))
    return RootedTrees(*map(cupy.concatenate, zip(*parts, strict=True)))


def _rooted(order: Any, gap_edges: Any) -> RootedTrees:
    n_trees, n = order.shape
    nodes, parents, gaps = (cupy.zeros((n_trees, n), np.int32) for _ in range(3))
    n_roots, broken = cupy.zeros(n_trees, np.int64), cupy.zeros(2, np.uint32)
    if n:
        lines, edges = cupy.ascontiguousarray(order, np.int32), cupy.ascontiguousarray(gap_edges, np.int32)
        arcs = cupy.empty(edges.size, np.uint32)
        starts, stops = (cupy.zeros(n_trees * n, np.uint32) for _ in range(2))
        counts = np.uint32(n_trees), np.uint32(n)
        kernel("rooted", "arc_nodes")(arcs.size, edges, *counts, arcs, broken)
        # A missing edge's arcs have all bits set.
        numbers_of = sort(arcs, 32)
        kernel("rooted", "find_arcs")(arcs.size, arcs, np.uint64(arcs.size), starts, stops)
        kernel("rooted", "lay_out_breadth_first")(
            n_trees * _compile.BLOCK, lines, edges, Struct(_ARCS, numbers_of, starts, stops), *counts,
            cupy.zeros(n_trees * n, np.uint8), nodes, parents, gaps, n_roots, broken,
        )  # fmt: skip
        if broken.any():  # The host looks again, and says in which way.
            on_host.rooted_trees(order.get(), gap_edges.get(), 1)
            raise AssertionError("a tree that the device refuses is one to the host")
    return RootedTrees(nodes, parents, gaps, n_roots)


def edge_distances(features: Any, gap_edges: Any, tree_index: Any, workers: int) -> tuple[Any, Any]:
    """Return |f_u - f_v|^2 (F, N-1) of features (F, N, C), and a device scalar: are those of edges finite?"""
    del workers
    n_sets, n, channels = features.shape
    distances = cupy.empty((n_sets, gap_edges.shape[1]), features.dtype)
    overflow = cupy.zeros((), np.uint32)
    if distances.size:
        kernel("tree_filter", "edge_distances", REAL=REAL[features.dtype])(
            distances.size, cupy.ascontiguousarray(features), np.uint32(channels),
            cupy.ascontiguousarray(gap_edges, np.int32), numbers(tree_index), np.uint32(n_sets),
            np.uint32(n), distances, overflow,
        )  # fmt: skip
    return distances, overflow == 0


class _Sums(NamedTuple):
    """Sums over trees: rooted trees with their levels, and sets of weights."""

    trees: RootedTrees
    forests: Struct
    weights: Any
    tree_index: Any

    @classmethod
    def over(cls, trees: RootedTrees, distances: Any, tree_index: Any, zeta: float, decay: float) -> _Sums:
        """Find the levels of trees, and weigh them by distances (F, N-1)."""
        nodes, parents, gaps, n_roots = map(cupy.ascontiguousarray, trees)
        n_trees, n = nodes.shape
        stops, levels = cupy.empty((n_trees, n), np.uint32), cupy.empty((n_trees, n + 1), np.uint32)
        n_levels, weights = cupy.empty(n_trees, np.uint32), cupy.empty((len(distances), n), np.float64)
        forests = Struct(_FORESTS, parents, n_roots, stops, levels, n_levels)
        of_sets, names = numbers(tree_index), {"REAL": REAL[distances.dtype]}
        counts = np.uint32(n_trees), np.uint32(n)
        kernel("tree_filter", "child_stops", **names)(n_trees * n, forests, *counts)
        jumps, depths = (cupy.empty(2 * n_trees * n, np.uint32) for _ in range(2))
        kernel("tree_filter", "find_levels", **names)(
            n_trees * n, forests, *counts, jumps, depths, cupy.zeros(33, np.uint32)
        )
        kernel("tree_filter", "edge_weights", **names)(
            weights.size, cupy.ascontiguousarray(distances), gaps, of_sets, np.uint32(len(distances)),
            np.uint32(n), np.float64(_zeta.inverse(zeta)), np.float64(decay), weights,
        )  # fmt: skip
        return cls(RootedTrees(nodes, parents, gaps, n_roots), forests, weights, of_sets)

    def __call__(self, rows: Any, set_of: Any) -> Any:
        """Turn rows (I, C, N) of phi into those of A, and return S phi."""
        total = cupy.empty(rows.shape, np.float64)
        n_items, columns, n = rows.shape
        kernel("tree_filter", "sum_trees", REAL="double")(
            n_items * -(-columns // 4) * _compile.BLOCK, self.weights, self.forests, self.tree_index, set_of,
            Struct(SIZES, n_items, n, columns), rows, total,
        )  # fmt: skip
        return total


def tree_filter(
    values: Any,
    out: Any,
    trees: RootedTrees,
    distances: Any,
    tree_index: Any,
    set_of: Any,
    zeta: float,
    workers: int,
    decay: float = 1.0,
    sums: Any = None,
    transposed: bool = False,
) -> None:
    """Fill out (I, N, C) with sums S of values; see `aproarray.cpu._tree_filter.tree_filter`."""
    del workers
    n_items, n, channels = values.shape
    if n_items == 0 or n == 0:
        return
    over = _Sums.over(trees, distances, tree_index, zeta, decay)
    lacking = np.float64(1 - decay)
    if sums is not None and not transposed:
        n_sets = len(distances)
        ones = cupy.ones((n_sets, 1, n), np.float64)
        total = over(ones, numbers(np.arange(n_sets)))
        kernel("tree_filter", "normalisers", REAL="double")(
            sums.size, total, np.uint32(n_sets), np.uint32(n), lacking, sums
        )
    divisors = NULL if sums is None else sums
    before, after = (divisors, NULL) if transposed else (NULL, divisors)
    names = {"REAL": REAL[values.dtype]}
    # Items and channels take turns, if there are more than fit the working memory.
    columns = max(1, _arguments.WORKING_BYTES // (16 * n))
    width = max(1, min(channels, columns))
    at_once = max(1, columns // width)
    for first in range(0, n_items, at_once):
        items = picked(np.arange(first, min(first + at_once, n_items)))
        sets = numbers(set_of[items])
        for channel in range(0, channels, width):
            source, target = (array[items][..., channel : channel + width] for array in (values, out))
            sizes = Struct(SIZES, len(source), n, source.shape[2])
            rows = cupy.empty((source.shape[0], source.shape[2], n), np.float64)
            gather = kernel("tree_filter", "gather_places", **names)
            gather(rows.size, strided(source), over.trees.nodes, before, over.tree_index, sets, sizes, rows)
            total = over(rows, sets)
            kernel("tree_filter", "scatter_places", **names)(
                rows.size, total, strided(source), over.trees.nodes, before, after, over.tree_index, sets,
                sizes, lacking, strided(target),
            )  # fmt: skip


def tree_filter_gradients(
    grad: Any,
    values: Any,
    result: Any,
    trees: RootedTrees,
    distances: Any,
    tree_index: Any,
    set_of: Any,
    sums: Any,
    out: Any,
    workers: int,
) -> None:
    """Fill out (F, N-1), float64, with dL/dd for weights exp(-d), of grad (I, N, C) = dL/dresult."""
    del workers
    out[...] = 0
    n_items, n, channels = values.shape
    if n < 2 or values.size == 0:
        return
    over = _Sums.over(trees, distances, tree_index, 1.0, 1.0)
    width = max(1, min(channels, (_arguments.WORKING_BYTES // (16 * n) - 2) // 2))
    names = {"REAL": REAL[values.dtype]}
    for item in range(n_items):
        f = int(set_of[item])
        tree, z = int(tree_index[f]), NULL if sums is None else sums[f]
        for channel in range(0, channels, width):
            block = slice(channel, channel + width)
            g, phi, y = (array[item : item + 1, :, block] for array in (grad, values, result))
            count = g.shape[2]
            rows = cupy.empty((1, 2 * count + 2, n), np.float64)
            kernel("tree_filter_gradients", "gather_gradients", **names)(
                n, strided(g), strided(phi), strided(y), over.trees.nodes[tree], z, np.uint32(n),
                np.uint32(count), rows,
            )  # fmt: skip
            total = over(rows, numbers([f]))
            target = out[f]
            kernel("tree_filter_gradients", "weight_gradients", REAL="double")(
                n, rows, total, over.weights[f], over.trees.parents[tree], over.trees.gaps[tree],
                np.uint32(n), np.uint32(count), np.uint32(sums is not None), target,
            )  # fmt: skip
