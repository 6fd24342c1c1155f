"""Trees of images and of lists of edges: the steps of `_weigh`, `_tiles` and `_mst`, split over threads."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aproarray import _edges
from aproarray._backend import TreeArrays
from aproarray.cpu import _check, _mst, _processor, _workers, _zones
from aproarray.cpu._workspace import Workspace

Array = NDArray[Any]

# Up to here, an image is faster without tiles, as its working arrays fit the cache: on one thread, on more.
_UNTILED_PIXELS = 1 << 19, 1 << 18
# Binary logarithm of the pixels in a tile, at most: the memory of one thread should fit the L2 cache.
_TILE_BITS = 14


def _index_dtype(n_nodes: int, n_ids: int, weight_dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of indices and working numbers: 32 bits where weights have no more and edge ids fit."""
    fits = weight_dtype == np.float32 and _edges.fits_32_bits(n_nodes, n_ids)
    return np.dtype(np.int32 if fits else np.int64)


def _build_trees(
    n_trees: int,
    n_nodes: int,
    index_dtype: np.dtype[Any],
    dtype: np.dtype[Any],
    build: Callable[..., bool],
    workers: int,
) -> tuple[TreeArrays, bool]:
    """Make a batch of trees, filled by build(workspace, b, room, order, gaps, gap_edges); all weights finite?

    A single tree's gap_edges begin at `room`, which may hold 2 N other numbers until they are written. Large
    trees thus need less memory that the system has to find. Of more trees, it holds none.
    """
    if n_trees * n_nodes > np.iinfo(np.intp).max // 64:  # for which numpy would raise a ValueError
        raise MemoryError(f"{n_trees} trees over {n_nodes} nodes are more than a process can address")
    n_gaps = max(n_nodes - 1, 0)
    ends = np.empty(2 * (n_trees * n_gaps + 1), index_dtype)
    room = ends if n_trees == 1 else ends[:0]
    trees = TreeArrays(
        np.empty((n_trees, n_nodes), index_dtype),
        np.empty((n_trees, n_gaps), dtype),
        ends[:-2].reshape(n_trees, n_gaps, 2),
    )
    finite = [True] * n_trees

    def build_one(b: int) -> None:
        with Workspace() as workspace:
            finite[b] = build(workspace, b, room, *(array[b] for array in trees))

    if n_nodes:
        _workers.run([functools.partial(build_one, b) for b in range(n_trees)], workers)
    return trees, all(finite)


def grid_trees(
    images: Array, shape: tuple[int, ...], connectivity: int, masks: Array | None, workers: int
) -> tuple[TreeArrays, bool]:
    """Build the trees of images (B, N, C), N pixels of `shape`, where masks (B or 1, N) are True."""
    grid = _edges.grid(shape, connectivity)
    n_trees, n_nodes, _ = images.shape
    threads = max(1, workers // max(n_trees, 1))  # for one tree
    index_dtype = _index_dtype(n_nodes, n_nodes << grid.id_bits, images.dtype)
    no_ends, no_pairs = np.empty((0, 2), index_dtype), np.empty(0, np.uint8)

    def build(workspace: Workspace, b: int, room: Array, *tree: Array) -> bool:
        mask = np.empty(0, np.uint8) if masks is None else masks[b % len(masks)].view(np.uint8)
        weights = _weights(workspace, room.view(images.dtype), len(grid.offsets), n_nodes)
        weigh = functools.partial(_processor.weighing.weigh_slabs, images[b], mask, grid, weights)
        slabs = shape[0] if len(shape) > 1 else 1
        _workers.run_ranges(weigh, slabs, threads, _workers.LINEAR * n_nodes / slabs)
        pairs = _find_pairs(workspace, weights, grid, threads)
        graph = no_ends, grid.strides, grid.id_bits
        if n_nodes > _UNTILED_PIXELS[threads > 1]:
            runs = _solve_tiles(workspace, weights, pairs, shape, grid, tree[0], threads)
            n_runs = len(runs.starts)
            items, n_items = _unmarked_edges(workspace, weights, no_pairs, grid, tree[0], n_runs, threads)
            return _connect_runs(items, n_items, graph, runs, tree, threads)
        items, n_items = _unmarked_edges(workspace, weights, pairs, grid, tree[0], n_nodes, threads)
        begin = functools.partial(_processor.weighing.join_pairs, weights, grid.strides, pairs)
        return _connect_nodes(items, n_items, graph, begin, tree, threads)

    return _build_trees(n_trees, n_nodes, index_dtype, images.dtype, build, workers)


def _weights(workspace: Workspace, room: Array, n_offsets: int, n_nodes: int) -> Array:
    """Return an array for weights (K, N): if it fits, where edges are written at the end."""
    if n_offsets * n_nodes <= len(room):
        return room[: n_offsets * n_nodes].reshape(n_offsets, n_nodes)
    return workspace.array((n_offsets, n_nodes), room.dtype)


class _Runs(NamedTuple):
    """Stretches of the line that tiles have settled; see `_tiles.solve_tile`."""

    starts: Array
    """Where each run (R) starts in the following three."""
    pixels: Array
    keys: Array
    ids: Array
    run_of: Array
    """~ the run of every pixel (N)."""


def _solve_tiles(
    workspace: Workspace,
    weights: Array,
    pairs: Array,
    shape: tuple[int, ...],
    grid: _edges.Grid,
    run_of: Array,
    workers: int,
) -> _Runs:
    """Solve the tiles of a pixel graph; its weights are marked but for the edges between runs.

    run_of (N) may be memory of the tree: the order is written when runs are not looked up any more.
    """
    pixels, keys, ids = (workspace.array(run_of.shape, run_of.dtype) for _ in range(3))
    bits = _TILE_BITS // len(shape)
    solve = functools.partial(
        _processor.tiles.solve_tiles, grid, weights, pairs, pixels, keys, ids, run_of, bits
    )
    n_tiles = math.prod(-(-extent // (1 << bits)) for extent in shape)
    n_runs = _workers.run_ranges(solve, n_tiles, workers, 2 << bits * len(shape))
    starts = workspace.array((sum(n_runs),), run_of.dtype)
    ranges = _workers.ranges(len(run_of), workers, _workers.LINEAR) if workers > 1 else [(0, len(run_of))]
    count = functools.partial(_mst.count_runs, run_of)
    counts = _workers.run_over(count, ranges, workers)
    number = functools.partial(_mst.number_runs, run_of, starts)
    _workers.run_over(number, ranges, workers, itertools.accumulate(counts[:-1], initial=0))
    _workers.run_over(functools.partial(_mst.name_runs, run_of), ranges[1:], workers)
    return _Runs(starts, pixels, keys, ids, run_of)


def _item_buffers(workspace: Workspace, n_items: int, n_runs: int, index_dtype: np.dtype[Any]) -> Array:
    """Return two rows with room to sort items, or for the lists of runs of `_mst.connect`."""
    words = 1 if index_dtype == np.int32 else 2
    return workspace.array((2, words * max(n_items + 1, 2 * n_runs)), np.uint64)


def _find_pairs(workspace: Workspace, weights: Array, grid: _edges.Grid, workers: int) -> Array:
    """Return which pixels (N) have their lightest edge in common with another: see `_weigh.find_pairs`."""
    lightest, pairs = (workspace.array(weights.shape[1:], np.uint8) for _ in range(2))
    weighing, strides = _processor.weighing, grid.strides
    for find in (
        functools.partial(weighing.find_lightest, weights, strides, lightest),
        functools.partial(weighing.find_pairs, lightest, strides, pairs),
    ):
        _workers.run_ranges(find, len(pairs), workers, _workers.LINEAR)
    return pairs


def _unmarked_edges(
    workspace: Workspace,
    weights: Array,
    pairs: Array,
    grid: _edges.Grid,
    like: Array,
    n_runs: int,
    workers: int,
) -> tuple[Array, int]:
    """Return a pixel graph's unmarked edges but for those of pairs (N) as items, and how many there are."""
    ranges = _workers.ranges(weights.shape[1], workers, _workers.LINEAR)
    count = functools.partial(_processor.weighing.count_unmarked, weights, pairs)
    counts = _workers.run_over(count, ranges, workers)
    items = _item_buffers(workspace, sum(counts), n_runs, like.dtype)
    collect = functools.partial(
        _processor.weighing.collect_unmarked, weights, pairs, grid.id_bits, items[0], like
    )
    ends = list(itertools.accumulate(counts))
    begins = [end - n for end, n in zip(ends, counts, strict=True)]
    _workers.run_over(collect, ranges, workers, begins, ends)
    return items, sum(counts)


def _sort_items(items: Array, n_items: int, like: Array, workers: int) -> tuple[Array, Array]:
    """Return the row of items that then holds them by weight, and the other one as numbers for lists."""
    ranges = _workers.ranges(n_items, workers, _workers.LINEAR)
    if min(workers, len(ranges)) <= 1:
        row = _workers.run_apart(_mst.sort_items, items, n_items, like, pixels=n_items)
        return items[row], items[1 - row].view(like.dtype)
    source, target = items
    counts = np.empty((len(ranges), _mst.N_VALUES), np.int64)
    for digit in range(3 if like.dtype == np.int32 else 6):
        count = functools.partial(_mst.count_digits, source, like, digit)
        _workers.run_over(count, ranges, workers, counts)
        if n_items in counts.sum(0):  # all keys have the same digit
            continue
        # Places of a value: one range after the other, so that equal keys stay in order.
        places = np.ascontiguousarray((np.cumsum(counts.T) - counts.T.reshape(-1)).reshape(counts.T.shape).T)
        move = functools.partial(_mst.move_by_digit, source, target, like, digit)
        _workers.run_over(move, ranges, workers, places)
        source, target = target, source
    return source, target.view(like.dtype)


def _connect_nodes(
    items: Array,
    n_items: int,
    graph: tuple[Array, Array, int],
    begin: Callable[[Array, int, int], None],
    tree: tuple[Array, ...],
    workers: int,
) -> bool:
    """Connect nodes by edges, and fill a tree; are all its weights finite?

    `graph` is (ends, strides, id_bits): what the ids of edges stand for. begin(lists, first, last) makes
    lists of nodes [first, last) for `_mst.connect`.
    """
    order, no_runs = tree[0], tree[0][:0]
    in_order, lists = _sort_items(items, n_items, order, workers)
    _workers.run_ranges(functools.partial(begin, lists), len(order), workers, _workers.LINEAR)
    _workers.run_apart(_mst.connect, in_order, n_items, lists, len(order), *graph, no_runs, pixels=len(order))
    return _workers.run_apart(_mst.lay_out_nodes, in_order, lists, *graph, *tree, pixels=len(order))


def _connect_runs(
    items: Array,
    n_items: int,
    graph: tuple[Array, Array, int],
    runs: _Runs,
    tree: tuple[Array, ...],
    workers: int,
) -> bool:
    """Do what `_connect_nodes` does, for runs."""
    n_runs = len(runs.starts)
    in_order, lists = _sort_items(items, n_items, tree[0], workers)
    begin = functools.partial(_mst.lists_of_runs, lists, runs.starts, runs.keys)
    _workers.run_ranges(begin, n_runs, workers, _workers.LINEAR)
    _workers.run_apart(_mst.connect, in_order, n_items, lists, n_runs, *graph, runs.run_of, pixels=n_runs)
    _workers.run_apart(_mst.place_runs, lists, n_runs, pixels=n_runs)

    order, gaps, gap_edges = tree

    def write(first: int, last: int) -> bool:
        return _mst.write_runs(
            in_order, lists, runs.starts, runs.pixels, runs.keys, runs.ids, *graph, order, gaps, gap_edges,
            first, last,
        )  # fmt: skip

    return all(_workers.run_ranges(write, n_runs, workers, 1))


def _connect_listed(workspace: Workspace, edges: Array, weights: Array, *tree: Array) -> bool:
    """Fill a tree from canonical edges (E, 2) and their weights (E)."""
    items = _item_buffers(workspace, len(edges), len(tree[0]), edges.dtype)
    _mst.listed_edges(weights, edges, items[0])
    return _connect_nodes(items, len(edges), (edges, np.empty(0, np.intp), 0), _mst.lists_of_nodes, tree, 1)


def _canonical_edges(ends: Array, n_nodes: int) -> tuple[Array, Array]:
    return _workers.run_apart(_mst.canonical_edges, ends, n_nodes, pixels=len(ends))


def edge_list_tree(ends: Array, weights: Array, n_nodes: int) -> tuple[TreeArrays, bool]:
    """Build the tree of one graph, of edges (E, 2) with weights (E), as a batch of one."""
    index_dtype = _index_dtype(n_nodes, len(ends), weights.dtype)

    def build(workspace: Workspace, _b: int, _room: Array, *tree: Array) -> bool:
        edges, rows = _canonical_edges(np.ascontiguousarray(ends, index_dtype), n_nodes)
        return _connect_listed(workspace, edges, weights[rows], *tree)

    return _build_trees(1, n_nodes, index_dtype, weights.dtype, build, workers=1)


class Edges(NamedTuple):
    """The edges of B trees: gap_edges (B, N-1, 2), and those in canonical order that calls have asked for."""

    gap_edges: Array
    canonical: dict[tuple[int, np.dtype[Any]], Array]
    """By the number of the tree and the type of indices."""


def edges(gap_edges: Array) -> Edges:
    """Return the edges (B, N-1, 2) of trees for `reweighed_trees`, which adds 8 or 16 bytes per pixel."""
    return Edges(gap_edges, {})


def reweighed_trees(
    edges: Edges, tree_index: Array, features: Array, workers: int
) -> tuple[TreeArrays, bool]:
    """Weigh trees by features (F, N, C): tree f has the edges of tree tree_index[f]."""
    n_trees, n_nodes, _ = features.shape
    index_dtype = _index_dtype(n_nodes, n_nodes, features.dtype)

    def canonical(b: int) -> Array:
        found = edges.canonical.get((b, index_dtype))
        if found is None:
            found = _canonical_edges(np.ascontiguousarray(edges.gap_edges[b], index_dtype), n_nodes)[0]
            edges.canonical[b, index_dtype] = found
        return found

    used, place = np.unique(tree_index, return_inverse=True)
    edges_of = _workers.run([functools.partial(canonical, b) for b in used.tolist()], workers)

    def build(workspace: Workspace, f: int, _room: Array, *tree: Array) -> bool:
        ends = edges_of[place[f]]
        weights = workspace.array((len(ends),), features.dtype)
        rows = workspace.contiguous(features[f])  # an edge asks for all channels of a pixel
        _processor.weighing.weigh_edges(rows, ends, weights)
        return _connect_listed(workspace, ends, weights, *tree)

    return _build_trees(n_trees, n_nodes, index_dtype, features.dtype, build, workers)


def are_trees(trees: TreeArrays, masks: Array | None, workers: int) -> bool:
    """Return whether kernels may trust trees over N nodes, with masks (B or 1, N) or none.

    Order is a permutation. A gap is finite, at least 0, and has an edge u < v between nodes that take part;
    or it is inf, and has (-1, -1). Whether the edges form that tree is not looked at.
    """
    no_mask = np.empty(0, np.uint8)

    def is_tree(b: int) -> bool:
        order, gaps, gap_edges = (array[b] for array in trees)
        mask = no_mask if masks is None else masks[b % len(masks)].view(np.uint8)

        def edges_fit(first: int, last: int) -> bool:
            return _check.edges_fit(gaps, gap_edges, mask, len(order), first, last)

        # In this order: masks are looked up at the ends of edges.
        permuted = _workers.run_apart(_check.is_permutation, order, pixels=len(order))
        return permuted and all(_workers.run_ranges(edges_fit, len(gaps), workers, _workers.LINEAR))

    return all(_workers.run([functools.partial(is_tree, b) for b in range(len(trees.order))], workers))


def sorted_edges(gap_edges: Array, gaps: Array, n_nodes: int) -> tuple[Array, Array]:
    """Return one tree's edges (N-1, 2) by (weight, u, v) and their weights (N-1), missing ones last."""
    return _workers.run_apart(_sort_edges, gap_edges, gaps, n_nodes, pixels=n_nodes)


def _sort_edges(gap_edges: Array, gaps: Array, n_nodes: int) -> tuple[Array, Array]:
    edges, rows = _mst.canonical_edges(gap_edges, n_nodes)
    weights = gaps[rows]
    by_weight = np.empty(len(rows), np.intp)
    _mst.sort_by_weight(weights, by_weight)
    all_edges, all_weights = np.full_like(gap_edges, -1), np.full_like(gaps, np.inf)
    all_edges[: len(rows)], all_weights[: len(rows)] = edges[by_weight], weights[by_weight]
    return all_edges, all_weights


def sorted_weights(gaps: Array) -> Array:
    """Return the gaps (..., N-1) of each tree, in ascending order."""
    return _workers.run_apart(np.sort, gaps, -1, pixels=gaps.size)


def zones(edges: Array, weights: Array, threshold: float, min_size: int) -> Array:
    """Return the first node (N) of each node's zone, from one tree's edges and weights, lightest first."""
    first = np.empty(len(edges) + 1, edges.dtype)
    _workers.run_apart(_zones.zones, edges, weights, threshold, min_size, first, pixels=len(first))
    return first


def linkage(edges: Array, weights: Array) -> Array:
    """Return the linkage matrix (N-1, 4) of one connected tree."""
    result = np.empty((len(edges), 4))
    _workers.run_apart(_mst.linkage, edges, weights, result, pixels=len(edges))
    return result
