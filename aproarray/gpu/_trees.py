"""Spanning trees on the device: Boruvka in tiles, then on what is left, the chain tree, the linear order.

The kernels are those of kernels/grid_edges.cu, listed_edges.cu and mst.cu.
"""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from aproarray import _edges
from aproarray import cpu as on_host
from aproarray._backend import TreeArrays
from aproarray.gpu import _compile
from aproarray.gpu._arguments import (
    BITS,
    KEY,
    NULL,
    REAL,
    extents,
    images_with,
    items_at_once,
    struct_of,
    struct_of_pointers,
    trees_of_items,
)
from aproarray.gpu._compile import Struct, kernel
from aproarray.gpu._sort import key_bits, sort

_ARRAYS = ("weight", "edge", "hook", "pixel", "node", "fresh", "active", "rivals")
_COMPONENTS = struct_of(most=np.uint32, **dict.fromkeys(_ARRAYS, np.uintp))
_NODES = struct_of_pointers("weight", "edge", "parent", "first_of")
_ROWS = struct_of_pointers(
    "starts", "counts", "children", "chain", "size", "smallest", "place", "arrived", "marks", "marks_before",
    "of_blocks", "marks_of_blocks",
)  # fmt: skip
_LAYOUT = struct_of_pointers("sizes_before", "fronts_before", "offset", "tree_starts", "of_blocks")
# Where the state has the number of rows of long chains, which have more than _SHORT, and whether a weight of
# a tree overflowed (mst.cuh, mst.cu).
_N_LONG, _OVERFLOW, _SHORT = 7, 9, 32


class _Forest:
    """What the kernels share that make trees of n_pixels nodes. Its lists are empty yet."""

    def __init__(self, n_pixels: int, n_components: int, n_edges: int, dtype: Any):
        bits = BITS[dtype]
        self.n_pixels, self.n_edges, self.dtype = n_pixels, n_edges, dtype
        self.state = cupy.zeros(16, np.uint32)
        self.components = Struct(
            _COMPONENTS,
            np.uint32(n_components),
            cupy.empty(2 * n_components, bits),
            *(cupy.empty(n * n_components, np.uint32) for n in (1, 1, 1, 1, 1, 2, 2)),
        )
        self.nodes = Struct(
            _NODES,
            cupy.empty(2 * n_pixels, bits),
            *(cupy.empty(n * n_pixels, np.uint32) for n in (2, 2, 1)),
        )
        # Two lists, in turns, of a weight and three numbers.
        self.lists = cupy.empty(2 * n_edges * (16 if bits.itemsize == 4 else 24), np.uint8)


def _connect(forest: _Forest, n_nodes: int, n_numbers: int, known: bool) -> tuple[TreeArrays, Any]:
    """Build trees over n_nodes nodes each from the components and edges that are listed.

    Edges have numbers below n_numbers. The components know their lightest edges, or none do. Also return
    whether a weight overflowed. The first of a gap's two ends is the number of its edge.
    """
    n_pixels, dtype, nodes, state = forest.n_pixels, forest.dtype, forest.nodes, forest.state
    find_rows = kernel("mst", "find_rows", KEY=KEY[dtype])
    starts, counts, children, arrived, unsorted = (cupy.empty(n_pixels, np.uint32) for _ in range(5))
    chain, size, smallest, place = (cupy.empty(2 * n_pixels, np.uint32) for _ in range(4))
    n_marks, n_blocks = -(-n_numbers // 32), find_rows.n_blocks(2 * n_pixels)
    marks, marks_before = (cupy.empty(n_marks, np.uint32) for _ in range(2))
    rows = Struct(
        _ROWS, starts, counts, children, chain, size, smallest, place, arrived, marks, marks_before,
        cupy.empty(n_blocks, np.uint64), cupy.empty(n_blocks, np.uint32),
    )  # fmt: skip
    sizes = np.uint32(n_pixels), np.uint32(n_marks)
    kernel("mst", "boruvka", KEY=KEY[dtype])(
        max(forest.n_edges, n_pixels), forest.lists, np.uint64(forest.n_edges), *sizes, np.int32(known),
        forest.components, nodes, rows, state,
    )  # fmt: skip
    del forest.lists, forest.components

    keys = cupy.empty(n_pixels, np.uint64)
    find_rows(2 * n_pixels, *sizes, nodes, rows, unsorted, keys, state)
    n_long, chain_bits = state[_N_LONG:], (n_pixels // _SHORT).bit_length()
    if key_bits(dtype) == 32:
        sort(keys, 32 + chain_bits, children, n_long)
    else:
        sort(keys, 64, children, n_long)
        kernel("mst", "chain_keys", KEY=KEY[dtype])(n_pixels, rows, sizes[0], state, unsorted)
        sort(unsorted, chain_bits, children, n_long)
    del keys, unsorted

    lay_out = kernel("mst", "lay_out", KEY=KEY[dtype])
    n_trees, n_gaps = n_pixels // n_nodes, n_nodes - 1
    order = cupy.empty((n_trees, n_nodes), np.int32)
    gaps = cupy.empty((n_trees, n_gaps), dtype)
    gap_edges = cupy.empty((n_trees, n_gaps, 2), np.int32)
    layout = Struct(
        _LAYOUT,
        *(cupy.empty(n_pixels, np.uint64) for _ in range(2)),
        *(cupy.empty(n, np.uint32) for n in (2 * n_pixels, n_pixels)),
        cupy.empty(4 * lay_out.n_blocks(n_pixels), np.uint64),
    )
    lay_out(n_pixels, sizes[0], np.uint32(n_nodes), nodes, rows, state, layout, order, gaps, gap_edges)
    return TreeArrays(order, gaps, gap_edges), state[_OVERFLOW]


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


def _tiles(shape: tuple[int, ...]) -> tuple[tuple[int, ...], int, int]:
    """Return the sides of an image's tiles, as powers of 2, and how many tiles there are.

    A tile has two pixels for each thread of a block, and is as square as the image allows. Also return how
    many of its pixels may have an edge that leaves it, of which each component that is left has one.
    """
    bits = [0] * len(shape)
    for _ in range((2 * _compile.BLOCK).bit_length() - 1):
        grows = [axis for axis, extent in enumerate(shape) if 1 << bits[axis] < extent] or [0]
        bits[min(reversed(grows), key=bits.__getitem__)] += 1
    sides = [(extent, 1 << bit) for extent, bit in zip(shape, bits, strict=True)]
    n_tiles = math.prod(-(-extent // side) for extent, side in sides)
    inside = math.prod(extent if extent <= side else max(side - 2, 0) for extent, side in sides)
    return tuple(bits), n_tiles, math.prod(min(pair) for pair in sides) - inside


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
        n_pixels = len(image) * n_nodes
        bits, n_tiles, n_waiting = _tiles(shape)
        # Inside of a component, there is an edge less than pixels.
        n_components = min(n_pixels, len(image) * n_tiles * n_waiting)
        n_edges = n_pixels * n_steps
        forest = _Forest(n_pixels, n_components, n_edges - n_pixels + n_components, dtype)
        nodes = np.uint32(n_pixels), np.uint32(n_nodes)
        keys, index = cupy.empty(n_edges, BITS[dtype]), cupy.empty(n_pixels, np.uint32)
        kernel("grid_edges", "weigh_grid", **defines)(
            n_pixels, images_with(mask, image), nodes[1], of_axes, keys
        )
        kernel("grid_edges", "merge_tiles", **defines)(
            len(image) * n_tiles * _compile.BLOCK, keys, *nodes, np.uint32(len(image) * n_tiles), of_axes,
            extents(bits), forest.components, forest.nodes, index, forest.state,
        )  # fmt: skip
        kernel("grid_edges", "list_crossings", **defines)(
            n_pixels, keys, index, *nodes, of_axes, forest.components, forest.lists, forest.state
        )
        del keys, index
        trees, overflow = _connect(forest, n_nodes, n_edges, known=True)
        n_gaps = trees.gaps.size
        kernel("grid_edges", "grid_ends", **defines)(
            n_gaps, np.uint32(n_gaps), nodes[1], of_axes, trees.gap_edges
        )
        parts.append((trees, overflow))
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
    rows = sort(ties, 2 * node_bits)
    forest = _Forest(n_trees * n_nodes, n_trees * n_nodes, n_edges, dtype)
    kernel("listed_edges", "list_edges", **names)(
        max(n_edges, forest.n_pixels), of_edges, rows, ties, np.uint32(n_edges), np.uint32(forest.n_pixels),
        np.int32(node_bits), forest.components, forest.nodes, forest.lists, forest.state,
    )  # fmt: skip
    del rows, of_edges
    trees, overflow = _connect(forest, n_nodes, n_edges, known=False)
    n_gaps = trees.gaps.size
    kernel("listed_edges", "list_ends", **names)(
        n_gaps, ties, np.uint32(n_gaps), np.uint32(n_nodes), np.int32(node_bits), trees.gap_edges
    )
    return trees, overflow


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
