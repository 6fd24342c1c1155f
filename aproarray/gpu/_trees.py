"""Spanning trees on the device: sort the edges, Boruvka's rounds, the chain tree, the linear order."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from aproarray import _edges
from aproarray._backend import TreeArrays
from aproarray.gpu import _compile
from aproarray.gpu._compile import kernel

# Indices on the device have 32 bits, one of which marks things.
MOST_EDGES = 1 << 31
_NULL = np.intp(0)

_BITS = {np.dtype(np.float32): np.dtype(np.uint32), np.dtype(np.float64): np.dtype(np.uint64)}
_KEY = {np.dtype(np.float32): "u32", np.dtype(np.float64): "u64"}
_REAL = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


def items_at_once(n_items: int, edges_of_item: int, what: str) -> int:
    """Return how many items of a batch are worked on in one go; an item alone must fit 32-bit indices."""
    if edges_of_item >= MOST_EDGES:
        raise ValueError(
            f"{what} has {edges_of_item} edges, the GPU backend takes fewer than 2^31: cut it into parts, or "
            "use NumPy arrays"
        )
    return max(1, min(n_items, (MOST_EDGES - 1) // max(edges_of_item, 1)))


def trees_of_items(tree_index: Any, n_trees: int) -> tuple[Any, np.uint32]:
    """Return how kernels find the items' trees: a list on the device, or null and the items of each tree.

    Nothing is copied where it can be told.
    """
    repeat = max(1, len(tree_index) // max(n_trees, 1))
    if np.array_equal(tree_index, np.repeat(np.arange(n_trees), repeat)):
        return _NULL, np.uint32(repeat)
    return cupy.asarray(np.asarray(tree_index, np.uint32)), np.uint32(1)


def _sort(keys: Any, n_bits: int, values: Any = None, n_device: Any = _NULL) -> Any:
    """Sort keys in place and stably, and return the values (None: places) that went with them."""
    n, digits = len(keys), 1 << _compile.DIGIT_BITS
    sort = kernel("sort", "sort_pairs", KEY="u64" if keys.itemsize == 8 else "u32")
    number = values is None
    if number:
        values = cupy.empty(n, np.uint32)
    sort(
        -(-n // 4), keys, cupy.empty_like(keys), values, cupy.empty_like(values), np.uint32(n), n_device,
        np.int32(n_bits), np.int32(number), cupy.empty(digits * sort.n_blocks(-(-n // 4)), np.uint32),
        cupy.empty(digits, np.uint32),
    )  # fmt: skip
    return values


def _key_bits(dtype: Any) -> int:
    """Return how many bits of a key matter: weights have no sign, but a missing edge has all bits set."""
    return 8 * int(np.dtype(dtype).itemsize)


def _connect(keys: Any, ends: Any, n_trees: int, n_nodes: int, dtype: Any) -> tuple[TreeArrays, Any]:
    """Build trees over n_trees x n_nodes nodes from edges sorted by weight; also whether one overflowed."""
    n_edges, n_pixels = len(keys), n_trees * n_nodes
    rounds = kernel("tree", "boruvka", KEY=_KEY[dtype])
    width = max(n_edges, n_pixels)
    best, parent, chain, size, smallest = (cupy.empty(2 * n_pixels, np.uint32) for _ in range(5))
    child_of = cupy.empty(n_edges, np.uint32)
    first_of, row_chains, row_ranks = (cupy.empty(n_pixels, np.uint32) for _ in range(3))
    state = cupy.zeros(48, np.uint32)
    rounds(
        width, ends, np.uint32(n_edges), np.uint32(n_pixels), cupy.empty(6 * n_edges, np.uint32),
        best, parent, chain, size, smallest, child_of, first_of, row_chains, row_ranks,
        cupy.empty(rounds.n_blocks(width), np.uint32), state,
    )  # fmt: skip
    row_ranks = _sort(row_chains, n_pixels.bit_length(), row_ranks, state[3:])

    lay_out = kernel("tree", "lay_out", KEY=_KEY[dtype])
    n_gaps = max(n_nodes - 1, 0)
    order = cupy.empty((n_trees, n_nodes), np.int32)
    gaps = cupy.empty((n_trees, n_gaps), dtype)
    gap_edges = cupy.empty((n_trees, n_gaps, 2), np.int32)
    overflow = cupy.zeros((), np.uint32)
    row_starts, row_stops, offset, tree_starts = (
        cupy.empty(n, np.uint32) for n in (n_pixels, n_pixels, 2 * n_pixels, n_pixels)
    )
    sizes_before, fronts_before = (cupy.empty(n_pixels, np.uint64) for _ in range(2))
    lay_out(
        n_pixels, keys, ends, np.uint32(n_pixels), np.uint32(n_nodes), best, chain, size, smallest, child_of,
        first_of, row_chains, row_ranks, state, row_starts, row_stops, sizes_before, fronts_before, offset,
        tree_starts, cupy.empty(4 * lay_out.n_blocks(n_pixels), np.uint64), order, gaps, gap_edges, overflow,
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
    n_trees, n_nodes, channels = images.shape
    dtype, n_steps = images.dtype, len(grid.offsets)
    step = items_at_once(n_trees, n_nodes * max(n_steps, 1), f"an image of shape {shape}")
    defines = {
        "KEY": _KEY[dtype],
        "REAL": _REAL[dtype],
        "NDIM": len(shape),
        "N_STEPS": n_steps,
        "STEPS": steps_of(grid),
    }
    extents = tuple(map(np.uint32, (*shape, *(1,) * (_edges.MAX_NDIM - len(shape)))))
    parts = []
    for first in range(0, n_trees if n_nodes else 0, step):
        image = images[first : first + step]
        mask = masks if masks is None or len(masks) == 1 else masks[first : first + step]
        n_edges = len(image) * n_nodes * n_steps
        keys = cupy.empty(n_edges, _BITS[dtype])
        kernel("grid", "weigh_grid", **defines)(
            len(image) * n_nodes, image, np.uint64(channels), _NULL if mask is None else mask,
            np.uint32(1 if mask is None else len(mask)), np.uint32(len(image)), np.uint32(n_nodes),
            *extents, keys,
        )  # fmt: skip
        ids = _sort(keys, _key_bits(dtype))
        ends = cupy.empty((n_edges, 2), np.uint32)
        kernel("grid", "grid_ends", **defines)(n_edges, keys, ids, np.uint32(n_edges), *extents, ends)
        del ids
        parts.append(_connect(keys, ends, len(image), n_nodes, dtype))
    if n_trees and not n_nodes:
        return _without_nodes(n_trees, dtype)
    return _joined(parts, n_nodes, dtype)


def _without_nodes(n_trees: int, dtype: Any) -> tuple[TreeArrays, Any]:
    empty = TreeArrays(
        cupy.empty((n_trees, 0), np.int32),
        cupy.empty((n_trees, 0), dtype),
        cupy.empty((n_trees, 0, 2), np.int32),
    )
    return empty, cupy.ones((), np.bool_)


def _list_trees(
    ends: Any, list_of: Any, n_trees: int, n_nodes: int, features: Any, weights: Any, dtype: Any
) -> tuple[TreeArrays, Any]:
    """Build trees of listed edges (L, E, 2), weighed by features (F, N, C) or, if null, by weights (E)."""
    if not n_nodes:
        return _without_nodes(n_trees, dtype)
    n_edges = n_trees * ends.shape[1]
    node_bits = max(1, (n_trees * n_nodes - 1).bit_length())
    of_edges, ties = cupy.empty(n_edges, _BITS[dtype]), cupy.empty(n_edges, np.uint64)
    names = {"KEY": _KEY[dtype], "REAL": _REAL[dtype]}
    kernel("list", "weigh_list", **names)(
        n_edges, ends, *list_of, np.uint32(ends.shape[1]), np.uint32(n_trees), np.uint32(n_nodes),
        np.int32(node_bits), features, np.uint64(0 if features is _NULL else features.shape[2]), weights,
        of_edges, ties,
    )  # fmt: skip
    rows = _sort(ties.copy(), 2 * node_bits)
    keys = cupy.empty_like(of_edges)
    kernel("list", "pick_keys", **names)(n_edges, of_edges, rows, np.uint32(n_edges), keys)
    rows = _sort(keys, _key_bits(dtype), rows)
    sorted_ends = cupy.empty((n_edges, 2), np.uint32)
    kernel("list", "list_ends", **names)(
        n_edges, keys, rows, ties, np.uint32(n_edges), np.int32(node_bits), sorted_ends
    )
    return _connect(keys, sorted_ends, n_trees, n_nodes, dtype)


def edge_list_tree(ends: Any, weights: Any, n_nodes: int) -> tuple[TreeArrays, Any]:
    """Build the tree of one graph, of edges (E, 2) with weights (E), as a batch of one."""
    items_at_once(1, max(n_nodes, len(ends)), "a graph")
    ends = cupy.ascontiguousarray(ends, np.int32)[None]
    return _list_trees(ends, (_NULL, np.uint32(1)), 1, n_nodes, _NULL, weights, weights.dtype)


def reweighed_trees(gap_edges: Any, tree_index: Any, features: Any, workers: int) -> tuple[TreeArrays, Any]:
    """Weigh trees by features (F, N, C): tree f has the edges (B, N-1, 2) of tree tree_index[f]."""
    del workers
    n_trees, n_nodes, _ = features.shape
    gap_edges = cupy.ascontiguousarray(gap_edges, np.int32)
    step = items_at_once(n_trees, n_nodes, "a tree")
    parts = []
    for first in range(0, n_trees, step):
        some = features[first : first + step]
        list_of = trees_of_items(tree_index[first : first + step], len(gap_edges))
        parts.append(_list_trees(gap_edges, list_of, len(some), n_nodes, some, _NULL, features.dtype))
    return _joined(parts, n_nodes, features.dtype)


def sorted_edges(gap_edges: Any, gaps: Any, n_nodes: int) -> tuple[Any, Any]:
    """Return one tree's edges (N-1, 2) by (weight, u, v) and their weights (N-1), missing ones last."""
    ends = cupy.ascontiguousarray(gap_edges, np.int64)
    missing = ends[:, 0] < 0
    node_bits = max(1, (n_nodes - 1).bit_length())
    ties = (ends[:, 0] << node_bits | ends[:, 1]).view(np.uint64)
    rows = _sort(ties.copy(), 64)
    weights = cupy.where(missing, np.inf, gaps).astype(gaps.dtype).view(_BITS[gaps.dtype])[rows]
    rows = _sort(weights, _key_bits(gaps.dtype), rows)
    return gap_edges[rows], weights.view(gaps.dtype)
