"""Spanning trees on the device: sort the edges, Boruvka's rounds, the chain tree, the linear order.

The kernels are those of kernels/grid_edges.cu, listed_edges.cu and mst.cu.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from aproarray import _edges
from aproarray import cpu as on_host
from aproarray._backend import TreeArrays
from aproarray.gpu._arguments import (
    BITS,
    KEY,
    NULL,
    REAL,
    extents,
    images_with,
    items_at_once,
    struct_of_pointers,
    trees_of_items,
)
from aproarray.gpu._compile import Struct, kernel
from aproarray.gpu._sort import key_bits, sort

_COMPONENTS = struct_of_pointers(
    "best", "parent", "chain", "size", "smallest", "child_of", "first_of", "row_chains", "row_ranks", "state"
)
# Where `boruvka` leaves the number of rows, in its state.
_N_ROWS = 3
_LAYOUT = struct_of_pointers(
    "row_starts", "row_stops", "sizes_before", "fronts_before", "offset", "tree_starts", "of_blocks"
)


def _connect(keys: Any, ends: Any, n_trees: int, n_nodes: int, dtype: Any) -> tuple[TreeArrays, Any]:
    """Build trees over n_trees x n_nodes nodes from edges sorted by weight; also whether one overflowed."""
    n_edges, n_pixels = len(keys), n_trees * n_nodes
    rounds = kernel("mst", "boruvka", KEY=KEY[dtype])
    width = max(n_edges, n_pixels)
    of_nodes = [cupy.empty(2 * n_pixels, np.uint32) for _ in range(5)]
    child_of = cupy.empty(n_edges, np.uint32)
    first_of, row_chains, row_ranks = (cupy.empty(n_pixels, np.uint32) for _ in range(3))
    state = cupy.zeros(48, np.uint32)
    components = Struct(_COMPONENTS, *of_nodes, child_of, first_of, row_chains, row_ranks, state)
    rounds(
        width, ends, np.uint32(n_edges), np.uint32(n_pixels), cupy.empty(6 * n_edges, np.uint32), components,
        cupy.empty(rounds.n_blocks(width), np.uint32),
    )  # fmt: skip
    sort(row_chains, n_pixels.bit_length(), row_ranks, state[_N_ROWS:])

    lay_out = kernel("mst", "lay_out", KEY=KEY[dtype])
    n_gaps = max(n_nodes - 1, 0)
    order = cupy.empty((n_trees, n_nodes), np.int32)
    gaps = cupy.empty((n_trees, n_gaps), dtype)
    gap_edges = cupy.empty((n_trees, n_gaps, 2), np.int32)
    overflow = cupy.zeros((), np.uint32)
    row_starts, row_stops, offset, tree_starts = (
        cupy.empty(n, np.uint32) for n in (n_pixels, n_pixels, 2 * n_pixels, n_pixels)
    )
    sizes_before, fronts_before = (cupy.empty(n_pixels, np.uint64) for _ in range(2))
    of_blocks = cupy.empty(4 * lay_out.n_blocks(n_pixels), np.uint64)
    layout = Struct(
        _LAYOUT, row_starts, row_stops, sizes_before, fronts_before, offset, tree_starts, of_blocks
    )
    lay_out(
        n_pixels, keys, ends, np.uint32(n_pixels), np.uint32(n_nodes), components, layout, order, gaps,
        gap_edges, overflow,
    )  # fmt: skip
    return TreeArrays(order, gaps, gap_edges), overflow


def _joined(parts: list[tuple[TreeArrays, Any]], n_nodes: int, dtype: Any) -> tuple[TreeArrays, Any]:
    """Return the trees of all parts, and a device scalar: were all weights finite?"""
    if not parts:
        n_gaps = max(n_nodes - 1, 0)
        empty = TreeArrays(
            cupy.empty((0, n_nodes), np.int32),
            cupy.empty((0, n_gaps), dtype),
            cupy.empty((0, n_gaps, 2), np.int32),
        )
        return empty, cupy.ones((), np.bool_)
    trees, overflows = zip(*parts, strict=True)
    if len(parts) == 1:
        return trees[0], overflows[0] == 0
    return TreeArrays(*map(cupy.concatenate, zip(*trees, strict=True))), sum(overflows) == 0


def steps_of(grid: _edges.Grid) -> str:
    """Return the steps to a pixel's later neighbours, as C++ says it."""
    return "{" + ",".join("{" + ",".join(map(str, row)) + "}" for row in grid.offsets.tolist()) + "}"


def grid_trees(
    images: Any, shape: tuple[int, ...], connectivity: int, masks: Any, workers: int
) -> tuple[TreeArrays, Any]:
    """Build the trees of images (B, N, C), N pixels of `shape`, where masks (B or 1, N) are True."""
    del workers
    grid = _edges.grid(shape, connectivity)
    n_trees, n_nodes, _ = images.shape
    dtype, n_steps = images.dtype, len(grid.offsets)
    step = items_at_once(n_trees, n_nodes * max(n_steps, 1), f"an image of shape {shape}")
    defines = {
        "KEY": KEY[dtype],
        "REAL": REAL[dtype],
        "NDIM": len(shape),
        "N_STEPS": n_steps,
        "STEPS": steps_of(grid),
    }
    of_axes = extents(shape)
    parts = []
    for first in range(0, n_trees if n_nodes else 0, step):
        image = images[first : first + step]
        mask = masks if masks is None or len(masks) == 1 else masks[first : first + step]
        n_edges = len(image) * n_nodes * n_steps
        keys = cupy.empty(n_edges, BITS[dtype])
        kernel("grid_edges", "weigh_grid", **defines)(
            len(image) * n_nodes, images_with(mask, image), np.uint32(n_nodes), of_axes, keys
        )
        keep = kernel("grid_edges", "keep_edges", **defines)
        kept, ids, count = cupy.empty_like(keys), cupy.empty(n_edges, np.uint32), cupy.empty(1, np.uint32)
        keep(
            n_edges, keys, np.uint32(n_edges), np.uint32(n_nodes), of_axes, kept, ids,
            cupy.empty(keep.n_blocks(n_edges), np.uint32), count,
        )  # fmt: skip
        keys, ids = kept, sort(kept, key_bits(dtype), ids, count)
        ends = cupy.empty((n_edges, 2), np.uint32)
        kernel("grid_edges", "grid_ends", **defines)(n_edges, ids, count, np.uint32(n_edges), of_axes, ends)
        del ids, kept
        parts.append(_connect(keys, ends, len(image), n_nodes, dtype))
    if n_trees and not n_nodes:
        return _without_nodes(n_trees, dtype), cupy.ones((), np.bool_)
    return _joined(parts, n_nodes, dtype)


def _without_nodes(n_trees: int, dtype: Any) -> TreeArrays:
    return TreeArrays(
        cupy.empty((n_trees, 0), np.int32),
        cupy.empty((n_trees, 0), dtype),
        cupy.empty((n_trees, 0, 2), np.int32),
    )


def _list_trees(
    ends: Any, list_of: Any, n_trees: int, n_nodes: int, features: Any, weights: Any, dtype: Any
) -> tuple[TreeArrays, Any]:
    """Build trees of listed edges (L, E, 2), weighed by features (F, N, C) or, if null, by weights (E).

    Also return whether a weight overflowed, as a number that is 0 if none did.
    """
    if not n_nodes:
        return _without_nodes(n_trees, dtype), cupy.zeros((), np.uint32)
    n_edges = n_trees * ends.shape[1]
    node_bits = max(1, (n_trees * n_nodes - 1).bit_length())
    of_edges, ties = cupy.empty(n_edges, BITS[dtype]), cupy.empty(n_edges, np.uint64)
    names = {"KEY": KEY[dtype], "REAL": REAL[dtype]}
    kernel("listed_edges", "weigh_list", **names)(
        n_edges, ends, *list_of, np.uint32(ends.shape[1]), np.uint32(n_trees), np.uint32(n_nodes),
        np.int32(node_bits), features, np.uint64(0 if features is NULL else features.shape[2]), weights,
        of_edges, ties,
    )  # fmt: skip
    rows = sort(ties.copy(), 2 * node_bits)
    keys = cupy.empty_like(of_edges)
    kernel("listed_edges", "pick_keys", **names)(n_edges, of_edges, rows, np.uint32(n_edges), keys)
    rows = sort(keys, key_bits(dtype), rows)
    sorted_ends = cupy.empty((n_edges, 2), np.uint32)
    kernel("listed_edges", "list_ends", **names)(
        n_edges, keys, rows, ties, np.uint32(n_edges), np.int32(node_bits), sorted_ends
    )
    return _connect(keys, sorted_ends, n_trees, n_nodes, dtype)


def edge_list_tree(ends: Any, weights: Any, n_nodes: int) -> tuple[TreeArrays, Any]:
    """Build the tree of one graph, of edges (E, 2) with weights (E), as a batch of one."""
    items_at_once(1, max(n_nodes, len(ends)), "a graph")
    ends = cupy.ascontiguousarray(ends, np.int32)[None]
    return _list_trees(ends, (NULL, np.uint32(1)), 1, n_nodes, NULL, weights, weights.dtype)


def edges(gap_edges: Any) -> Any:
    """Return the edges (B, N-1, 2) of trees for `reweighed_trees`."""
    return cupy.ascontiguousarray(gap_edges, np.int32)


def reweighed_trees(edges: Any, tree_index: Any, features: Any, workers: int) -> tuple[TreeArrays, Any]:
    """Weigh trees by features (F, N, C): tree f has the edges of tree tree_index[f]."""
    del workers
    n_trees, n_nodes, _ = features.shape
    step = items_at_once(n_trees, n_nodes, "a tree")
    parts = []
    for first in range(0, n_trees, step):
        some = cupy.ascontiguousarray(features[first : first + step])
        list_of = trees_of_items(tree_index[first : first + step], len(edges))
        parts.append(_list_trees(edges, list_of, len(some), n_nodes, some, NULL, features.dtype))
    return _joined(parts, n_nodes, features.dtype)


def are_trees(trees: TreeArrays, masks: Any, workers: int) -> bool:
    """Return whether kernels may trust trees, as the function of the CPU does; this waits for the device."""
    del workers
    order, gaps, gap_edges = trees
    n_nodes, u, v = order.shape[1], gap_edges[..., 0], gap_edges[..., 1]
    missing = gaps == np.inf
    edges_fit = cupy.where(missing, (u == -1) & (v == -1), (gaps >= 0) & (u >= 0) & (u < v) & (v < n_nodes))
    if not (cupy.sort(order, axis=1) == cupy.arange(n_nodes)).all() or not edges_fit.all():
        return False
    if masks is None:
        return True
    of_tree = cupy.arange(len(order))[:, None] % len(masks)
    both = [masks[of_tree, cupy.where(missing, 0, end)] for end in (u, v)]
    return bool((missing | (both[0] & both[1])).all())


def sorted_edges(gap_edges: Any, gaps: Any, n_nodes: int) -> tuple[Any, Any]:
    """Return one tree's edges (N-1, 2) by (weight, u, v) and their weights (N-1), missing ones last."""
    ends = cupy.ascontiguousarray(gap_edges, np.int64)
    missing = ends[:, 0] < 0
    node_bits = max(1, (n_nodes - 1).bit_length())
    ties = (ends[:, 0] << node_bits | ends[:, 1]).view(np.uint64)
    rows = sort(ties.copy(), 64)
    weights = cupy.where(missing, np.inf, gaps).astype(gaps.dtype).view(BITS[gaps.dtype])[rows]
    rows = sort(weights, key_bits(gaps.dtype), rows)
    return gap_edges[rows], weights.view(gaps.dtype)


def sorted_weights(gaps: Any) -> Any:
    """Return the gaps (..., N-1) of each tree, in ascending order."""
    return cupy.sort(gaps, axis=-1)


def zones(edges: Any, weights: Any, threshold: float, min_size: int) -> Any:
    """Return the first node (N) of each node's zone, found on the host."""
    return cupy.asarray(on_host.zones(edges.get(), weights.get(), threshold, min_size))


def linkage(edges: Any, weights: Any) -> np.ndarray[Any, Any]:
    """Return the linkage matrix (N-1, 4) of one connected tree, made on the host, where SciPy wants it."""
    return on_host.linkage(edges.get(), weights.get())
