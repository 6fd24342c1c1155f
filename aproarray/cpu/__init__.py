"""The NumPy backend: trees and sweeps in Cython, windows in Numba.

The functions here are what a backend is. They take arrays that `aproarray._api` has checked and laid
out, and split the work over threads so that the result does not depend on how.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aproarray import _grid
from aproarray.cpu import _mst, _sweep, _workers

xp = np  # the arrays' own namespace
sweeps = _sweep
if _sweep.has_avx2():
    from aproarray.cpu import _sweep_avx2 as sweeps  # type: ignore[no-redef]

Array = NDArray[Any]
available_workers = _workers.available_cpus


# Up to here, one thread is faster without tiles: its working arrays fit the cache.
_UNTILED_PIXELS = 1 << 19


class TreeArrays(NamedTuple):
    """B trees over N nodes: order (B, N), gaps (B, N-1), and gap_edges (B, N-1, 2), the edge of each gap."""

    order: Array
    gaps: Array
    gap_edges: Array

    def with_leading(self, leading: tuple[int, ...]) -> tuple[Array, Array, Array]:
        """Return the arrays with the batch axis B replaced by leading axes."""
        order, gaps, gap_edges = (array.reshape(leading + array.shape[1:]) for array in self)
        return order, gaps, gap_edges


def _index_dtype(n_ids: int, weight_dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of indices and working numbers: 32 bits where weights and edge ids have no more."""
    return np.dtype(np.int32 if weight_dtype == np.float32 and n_ids < 1 << 31 else np.int64)


def _build_trees(
    n_trees: int,
    n_nodes: int,
    index_dtype: np.dtype[Any],
    dtype: np.dtype[Any],
    build: Callable[..., bool],
    workers: int,
) -> tuple[TreeArrays, bool]:
    """Make a batch of trees, filled by build(b, order, gaps, gap_edges); all weights finite?"""
    if n_trees * n_nodes > np.iinfo(np.intp).max // 64:  # for which numpy would raise a ValueError
        raise MemoryError(f"{n_trees} trees over {n_nodes} nodes are more than a process can address")
    n_gaps = max(n_nodes - 1, 0)
    trees = TreeArrays(
        np.empty((n_trees, n_nodes), index_dtype),
        np.empty((n_trees, n_gaps), dtype),
        np.empty((n_trees, n_gaps, 2), index_dtype),
    )
    finite = [True] * n_trees

    def build_one(b: int) -> None:
        finite[b] = build(b, *(array[b] for array in trees))

    if n_nodes:
        _workers.run([functools.partial(build_one, b) for b in range(n_trees)], workers)
    return trees, all(finite)


def grid_trees(
    images: Array, shape: tuple[int, ...], connectivity: int, masks: Array | None, workers: int
) -> tuple[TreeArrays, bool]:
    """Build the trees of images (B, N, C), N pixels of `shape`, where masks (B or 1, N) are True."""
    grid = _grid.grid(shape, connectivity)
    n_trees, n_nodes, _ = images.shape
    threads = max(1, workers // max(n_trees, 1))  # for one tree
    index_dtype = _index_dtype(n_nodes << grid.id_bits, images.dtype)
    no_ends = np.empty((0, 2), index_dtype)

    def build(b: int, *tree: Array) -> bool:
        mask = np.empty(0, np.uint8) if masks is None else masks[b % len(masks)].view(np.uint8)
        edges, runs = _edges_and_runs(images[b], shape, mask, grid, index_dtype, threads)
        return _mst.connect(*edges, no_ends, grid.strides, grid.id_bits, runs, *tree)

    return _build_trees(n_trees, n_nodes, index_dtype, images.dtype, build, workers)


def _edges_and_runs(
    image: Array,
    shape: tuple[int, ...],
    mask: Array,
    grid: _grid.Grid,
    index_dtype: np.dtype[Any],
    workers: int,
) -> tuple[tuple[Array, int], tuple[Array, ...] | None]:
    """Return the edges of a pixel graph that `_mst.connect` has to look at, and the runs they connect."""
    n_nodes = len(image)
    weights = np.empty((len(grid.offsets), n_nodes), image.dtype)
    weigh = functools.partial(_mst.weigh_slabs, image, mask, grid, weights)
    _workers.run_ranges(weigh, shape[0] if len(shape) > 1 else 1, workers)
    runs = None
    if workers > 1 or n_nodes > _UNTILED_PIXELS:
        pixels, keys, ids, run_of = (np.empty(n_nodes, index_dtype) for _ in range(4))
        solve = functools.partial(_mst.solve_tiles, grid, weights, pixels, keys, ids, run_of)
        side = 1 << _mst.tile_bits(len(shape))
        runs_of_ranges = _workers.run_ranges(
            solve, math.prod(-(-extent // side) for extent in shape), workers
        )
        starts = np.empty(sum(runs_of_ranges), index_dtype)
        _mst.number_runs(run_of, starts)
        runs = (starts, pixels, keys, ids, run_of)
    n_runs = n_nodes if runs is None else len(runs[0])
    return _mst.unmarked_edges(weights, grid.id_bits, n_runs, np.empty(0, index_dtype)), runs


def _connect_nodes(edges: Array, weights: Array, *tree: Array) -> bool:
    """Fill a tree from canonical edges (E, 2) and their weights (E)."""
    return _mst.connect(
        *_mst.listed_edges(weights, edges, len(tree[0])), edges, np.empty(0, np.intp), 0, None, *tree
    )


def edge_list_tree(ends: Array, weights: Array, n_nodes: int) -> tuple[TreeArrays, bool]:
    """Build the tree of one graph, of edges (E, 2) with weights (E), as a batch of one."""
    index_dtype = _index_dtype(max(n_nodes, len(ends)), weights.dtype)

    def build(_: int, *tree: Array) -> bool:
        edges, rows = _mst.canonical_edges(np.ascontiguousarray(ends, index_dtype), n_nodes)
        return _connect_nodes(edges, weights[rows], *tree)

    return _build_trees(1, n_nodes, index_dtype, weights.dtype, build, workers=1)


def reweighed_trees(
    gap_edges: Array, tree_of: Array, features: Array, workers: int
) -> tuple[TreeArrays, bool]:
    """Weigh trees by features (F, N, C): tree f has the edges (B, N-1, 2) of tree tree_of[f]."""
    n_trees, n_nodes, _ = features.shape
    index_dtype = _index_dtype(n_nodes, features.dtype)

    def canonical(b: int) -> Array:
        return _mst.canonical_edges(np.ascontiguousarray(gap_edges[b], index_dtype), n_nodes)[0]

    used, place = np.unique(tree_of, return_inverse=True)
    edges_of = _workers.run([functools.partial(canonical, b) for b in used], workers)

    def build(f: int, *tree: Array) -> bool:
        edges = edges_of[place[f]]
        weights = np.empty(len(edges), features.dtype)
        _mst.weigh_edges(features[f], edges, weights)
        return _connect_nodes(edges, weights, *tree)

    return _build_trees(n_trees, n_nodes, index_dtype, features.dtype, build, workers)


def sorted_edges(gap_edges: Array, gaps: Array, n_nodes: int) -> tuple[Array, Array]:
    """Return one tree's edges (N-1, 2) by (weight, u, v) and their weights (N-1), missing ones last."""
    edges, rows = _mst.canonical_edges(gap_edges, n_nodes)
    weights = gaps[rows]
    by_weight = np.empty(len(rows), np.intp)
    _mst.sort_by_weight(weights, by_weight)
    all_edges, all_weights = np.full_like(gap_edges, -1), np.full_like(gaps, np.inf)
    all_edges[: len(rows)], all_weights[: len(rows)] = edges[by_weight], weights[by_weight]
    return all_edges, all_weights


def linkage(edges: Array, weights: Array) -> Array:
    """Return the linkage matrix (N-1, 4) of one connected tree."""
    result = np.empty((len(edges), 4))
    _mst.linkage(edges, weights, result)
    return result


def largest_between(gaps: Array, first: Array, last: Array) -> Array:
    """Return the largest of gaps[first:last] for every pair of positions (Q), 0 where that is empty."""
    result = np.empty(len(first), gaps.dtype)
    _mst.largest_between(gaps, first, last, result)
    return result


def distances_from(gaps: Array, position: int) -> Array:
    """Return the minimax distance from one position of a line to all."""
    distances = np.zeros(len(gaps) + 1, gaps.dtype)
    distances[position + 1 :] = np.maximum.accumulate(gaps[position:])
    distances[:position] = np.maximum.accumulate(gaps[:position][::-1])[::-1]
    return distances


def affinities(distances: Array, zeta: float) -> Array:
    """Return exp(-d / zeta^2) in float64, 0 where d is inf, for distances (M,) and any zeta > 0."""
    result = np.empty(len(distances))
    sweeps.affinities(distances, zeta, result)
    return result


# Columns that are gathered together where the channels of a pixel are not side by side.
_GATHERED_COLUMNS = 16


def global_propagate(
    values: Array, out: Array, order: Array, gaps: Array, tree_of: Array, zeta: float, workers: int
) -> None:
    """Propagate values (I, N, C) into out (I, N, C), item i over tree tree_of[i] of order (B, N)."""
    n_channels = values.shape[2]
    side_by_side = values.strides[2] == out.strides[2] == values.itemsize
    used, group = np.unique(tree_of, return_inverse=True)
    shares = max(1, workers // max(len(used), 1))  # tasks per tree, where there are fewer trees than workers
    tasks = []
    for g, tree in enumerate(used):
        items = np.flatnonzero(group == g)
        columns = np.empty((len(items), n_channels, 2), np.intp)  # (item, channel)
        columns[..., 0], columns[..., 1] = items[:, None], np.arange(n_channels)
        if side_by_side and n_channels >= _GATHERED_COLUMNS // 2:
            blocks = [
                block
                for of_item in columns
                for block in _split(of_item, sweeps.MAX_COLUMNS, -(-shares // len(items)))
            ]
        else:
            blocks = _split(columns.reshape(-1, 2), _GATHERED_COLUMNS, shares)
        tasks += [
            functools.partial(
                _sweep_blocks, values, out, blocks[share::shares], order[tree], gaps[tree], zeta
            )
            for share in range(min(shares, len(blocks)))
        ]
    _workers.run(tasks, workers)


def _split(columns: Array, most: int, at_least: int) -> list[Array]:
    """Split columns into blocks of at most `most`, as many as a multiple of `at_least` if possible."""
    n_blocks = -(-len(columns) // most)
    n_blocks = min(len(columns), -(-n_blocks // at_least) * at_least)
    return np.array_split(columns, n_blocks) if n_blocks else []


def _sweep_blocks(
    values: Array, out: Array, blocks: list[Array], order: Array, gaps: Array, zeta: float
) -> None:
    kappa = affinities(gaps, zeta)
    counts = np.empty(len(order), values.dtype)
    widest = max(map(len, blocks))
    gathered = np.empty(0, values.dtype)
    for columns in blocks:
        (item, first), (last_item, last) = columns[0], columns[-1]
        side_by_side = item == last_item and values.strides[2] == out.strides[2] == values.itemsize
        if side_by_side or len(columns) == 1:
            block = np.s_[item, :, first : last + 1]
            sweeps.global_propagate(values[block], out[block], order, kappa, counts)
            continue
        if gathered.size == 0:
            gathered = np.empty(2 * len(order) * widest, values.dtype)
        rows = gathered[: 2 * len(order) * len(columns)].reshape(2, len(order), len(columns))
        sweeps.gather(values, columns, order, rows[0])
        sweeps.global_propagate(rows[0], rows[1], order[:0], kappa, counts)
        sweeps.scatter(rows[1], columns, order, out)


def local_propagate(*args: Any) -> None:
    """Propagate along windows; see `_stencil.propagate`, which is imported here as it imports Numba."""
    from aproarray.cpu import _stencil

    _stencil.propagate(*args)
