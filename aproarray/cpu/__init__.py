"""The NumPy backend: trees and sweeps in Cython, windows in Numba.

The functions here are what a backend is. They take arrays that `aproarray._api` has checked and laid
out, and split the work over threads so that the result does not depend on how.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aproarray import _grid
from aproarray.cpu import _flood, _gradient, _mst, _sweep, _tree_filter, _weigh, _workers

xp = np  # the arrays' own namespace
sweeps, weighing = _sweep, _weigh
if _sweep.has_avx2():
    from aproarray.cpu import _sweep_avx2 as sweeps  # type: ignore[no-redef]
    from aproarray.cpu import _weigh_avx2 as weighing  # type: ignore[no-redef]

Array = NDArray[Any]
available_workers = _workers.available_cpus
vote = _flood.vote
RootedTrees = _tree_filter.RootedTrees
rooted_trees = _tree_filter.rooted_trees
edge_distances = _tree_filter.edge_distances
tree_filter = _tree_filter.tree_filter
tree_filter_gradients = _tree_filter.tree_filter_gradients


def flood(reliefs: Array, maps: Array, steps: Array, workers: int) -> None:
    """Flood labels maps (M, N) over their reliefs (M, N); see _flood.flood."""
    _workers.run(
        [
            functools.partial(_flood.flood, relief, labels, steps, 2 * float(relief.max(initial=0)))
            for relief, labels in zip(reliefs, maps, strict=True)
        ],
        _workers.threads_for(maps.size, workers),
    )


# Up to here, an image is faster without tiles, as its working arrays fit the cache: on one thread, on more.
_UNTILED_PIXELS = 1 << 19, 1 << 18
# Binary logarithm of the pixels in a tile, at most: what one thread works on should fit the L2 cache.
_TILE_BITS = 14
# What a pixel of a pass that reads and writes once takes, of a pixel's time in `_workers.STEP`.
_LINEAR = 0.2


class TreeArrays(NamedTuple):
    """B trees over N nodes: order (B, N), gaps (B, N-1), and gap_edges (B, N-1, 2), the edge of each gap."""

    order: Array
    gaps: Array
    gap_edges: Array

    def with_leading(self, leading: tuple[int, ...]) -> tuple[Array, Array, Array]:
        """Return the arrays with the batch axis B replaced by leading axes."""
        order, gaps, gap_edges = (array.reshape(leading + array.shape[1:]) for array in self)
        return order, gaps, gap_edges


def _index_dtype(n_nodes: int, n_ids: int, weight_dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of indices and working numbers: 32 bits where weights have no more and edge ids fit."""
    fits = weight_dtype == np.float32 and _grid.fits_32_bits(n_nodes, n_ids)
    return np.dtype(np.int32 if fits else np.int64)


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
    index_dtype = _index_dtype(n_nodes, n_nodes << grid.id_bits, images.dtype)
    no_ends = np.empty((0, 2), index_dtype)

    def build(b: int, *tree: Array) -> bool:
        mask = np.empty(0, np.uint8) if masks is None else masks[b % len(masks)].view(np.uint8)
        weights = np.empty((len(grid.offsets), n_nodes), images.dtype)
        weigh = functools.partial(weighing.weigh_slabs, images[b], mask, grid, weights)
        slabs = shape[0] if len(shape) > 1 else 1
        _workers.run_ranges(weigh, slabs, threads, _LINEAR * n_nodes / slabs)
        tiled = n_nodes > _UNTILED_PIXELS[threads > 1]
        runs = _solve_tiles(weights, shape, grid, index_dtype, threads) if tiled else None
        items, n_items = _unmarked_edges(
            weights, grid, n_nodes if runs is None else len(runs.starts), tree[0], threads
        )
        return _connect(items, n_items, (no_ends, grid.strides, grid.id_bits), runs, tree, threads)

    return _build_trees(n_trees, n_nodes, index_dtype, images.dtype, build, workers)


class _Runs(NamedTuple):
    """Stretches of the line that tiles have settled; see `_mst.solve_tile`."""

    starts: Array
    """Where each run (R) starts in the following three."""
    pixels: Array
    keys: Array
    ids: Array
    run_of: Array
    """The run of every pixel (N)."""


def _solve_tiles(
    weights: Array, shape: tuple[int, ...], grid: _grid.Grid, index_dtype: np.dtype[Any], workers: int
) -> _Runs:
    """Solve the tiles of a pixel graph; its weights are marked but for the edges between runs."""
    pixels, keys, ids, run_of = (np.empty(weights.shape[1], index_dtype) for _ in range(4))
    bits = _TILE_BITS // len(shape)
    solve = functools.partial(_mst.solve_tiles, grid, weights, pixels, keys, ids, run_of, bits)
    n_tiles = math.prod(-(-extent // (1 << bits)) for extent in shape)
    n_runs = _workers.run_ranges(solve, n_tiles, workers, 2 << bits * len(shape))
    starts = np.empty(sum(n_runs), index_dtype)
    _mst.number_runs(run_of, starts)
    return _Runs(starts, pixels, keys, ids, run_of)


def _item_buffers(n_items: int, n_runs: int, index_dtype: np.dtype[Any]) -> Array:
    """Return two rows with room for items and to sort them in, or for what `_mst.connect` makes of runs."""
    words = 1 if index_dtype == np.int32 else 2
    return np.empty((2, words * max(n_items + 1, 2 * n_runs)), np.uint64)


def _unmarked_edges(
    weights: Array, grid: _grid.Grid, n_runs: int, like: Array, workers: int
) -> tuple[Array, int]:
    """Return a pixel graph's unmarked edges as items, and how many there are."""
    ranges = _workers.ranges(weights.shape[1], workers, _LINEAR)
    counts = _workers.run(
        [functools.partial(_mst.count_unmarked, weights, *bounds) for bounds in ranges], workers
    )
    items = _item_buffers(sum(counts), n_runs, like.dtype)
    collect = functools.partial(_mst.collect_unmarked, weights, grid.id_bits, items[0], like)
    places = itertools.pairwise(itertools.accumulate(counts, initial=0))
    _workers.run(
        [functools.partial(collect, *place, *bounds) for place, bounds in zip(places, ranges, strict=True)],
        workers,
    )
    return items, sum(counts)


def _connect(
    items: Array,
    n_items: int,
    graph: tuple[Array, Array, int],
    runs: _Runs | None,
    tree: tuple[Array, ...],
    workers: int,
) -> bool:
    """Connect runs, or nodes where there are none, by edges, and fill a tree; are all its weights finite?

    `graph` is (ends, strides, id_bits): what the ids of edges stand for.
    """
    order, gaps, gap_edges = tree
    if runs is None:
        row = _workers.run_apart(
            _mst.connect, items, n_items, *graph, len(order), order[:0], pixels=len(order)
        )
        lists = items[1 - row].view(order.dtype)
        return _workers.run_apart(_mst.lay_out_nodes, items[row], lists, *graph, *tree, pixels=len(order))
    n_runs = len(runs.starts)
    row = _workers.run_apart(_mst.connect, items, n_items, *graph, n_runs, runs.run_of, pixels=n_runs)
    chain = np.empty((len(runs.starts), 3), order.dtype)
    _mst.chain_runs(items[1 - row].view(order.dtype), runs.starts, runs.keys, chain)

    def write(first: int, last: int) -> bool:
        return _mst.write_runs(
            items[row], chain, runs.pixels, runs.keys, runs.ids, *graph, order, gaps, gap_edges, first, last
        )

    return all(_workers.run_ranges(write, len(chain), workers, 1))


def _connect_nodes(edges: Array, weights: Array, *tree: Array) -> bool:
    """Fill a tree from canonical edges (E, 2) and their weights (E)."""
    items = _item_buffers(len(edges), len(tree[0]), edges.dtype)
    _mst.listed_edges(weights, edges, items[0])
    return _connect(items, len(edges), (edges, np.empty(0, np.intp), 0), None, tree, workers=1)


def _canonical_edges(ends: Array, n_nodes: int) -> tuple[Array, Array]:
    return _workers.run_apart(_mst.canonical_edges, ends, n_nodes, pixels=len(ends))


def edge_list_tree(ends: Array, weights: Array, n_nodes: int) -> tuple[TreeArrays, bool]:
    """Build the tree of one graph, of edges (E, 2) with weights (E), as a batch of one."""
    index_dtype = _index_dtype(n_nodes, len(ends), weights.dtype)

    def build(_: int, *tree: Array) -> bool:
        edges, rows = _canonical_edges(np.ascontiguousarray(ends, index_dtype), n_nodes)
        return _connect_nodes(edges, weights[rows], *tree)

    return _build_trees(1, n_nodes, index_dtype, weights.dtype, build, workers=1)


def reweighed_trees(
    gap_edges: Array, tree_of: Array, features: Array, workers: int
) -> tuple[TreeArrays, bool]:
    """Weigh trees by features (F, N, C): tree f has the edges (B, N-1, 2) of tree tree_of[f]."""
    n_trees, n_nodes, _ = features.shape
    index_dtype = _index_dtype(n_nodes, n_nodes, features.dtype)

    def canonical(b: int) -> Array:
        return _canonical_edges(np.ascontiguousarray(gap_edges[b], index_dtype), n_nodes)[0]

    used, place = np.unique(tree_of, return_inverse=True)
    edges_of = _workers.run([functools.partial(canonical, b) for b in used], workers)

    def build(f: int, *tree: Array) -> bool:
        edges = edges_of[place[f]]
        weights = np.empty(len(edges), features.dtype)
        weighing.weigh_edges(features[f], edges, weights)
        return _connect_nodes(edges, weights, *tree)

    return _build_trees(n_trees, n_nodes, index_dtype, features.dtype, build, workers)


def sorted_edges(gap_edges: Array, gaps: Array, n_nodes: int) -> tuple[Array, Array]:
    """Return one tree's edges (N-1, 2) by (weight, u, v) and their weights (N-1), missing ones last."""
    edges, rows = _canonical_edges(gap_edges, n_nodes)
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
    sweeps.affinities(distances, zeta, result, 0, len(result))
    return result


# Columns that become rows, at most, where the channels of a pixel are not side by side. More buffers than
# these take were given back to the system after every call, and asked for at the next.
_GATHERED_COLUMNS = 24


def global_propagate(
    values: Array,
    out: Array,
    order: Array,
    gaps: Array,
    tree_of: Array,
    zeta: float,
    workers: int,
    sums: Array | None = None,
    transposed: bool = False,
) -> bool:
    """Propagate values (I, N, C) into out (I, N, C), item i over tree tree_of[i] of order (B, N).

    sums (B, N), of the values' dtype, receive z = K 1 of the trees that have items, in the order of the
    line. Transposed, they hold it, and out becomes K (values / z): what y = K phi / z makes of a gradient.
    Returns whether all means are known to be finite.
    """
    n_channels = values.shape[2]
    side_by_side = values.strides[2] == out.strides[2] == values.itemsize
    used = sorted(set(tree_of.tolist()))
    threads = max(1, workers // max(len(used), 1))  # for one tree

    def one_tree(tree: int) -> bool:
        items = np.flatnonzero(tree_of == tree)
        columns = np.empty((len(items), n_channels, 2), np.intp)  # (item, channel)
        columns[..., 0], columns[..., 1] = items[:, None], np.arange(n_channels)
        # Both sweeps at once, and if that is too few tasks, columns shared out.
        shares = max(1, _workers.threads_for(_sweep_pixels(order.shape[1], columns.size // 2), threads) // 2)
        if side_by_side and n_channels >= _GATHERED_COLUMNS // 4:
            blocks = [
                block
                for of_item in columns
                for block in _split(of_item, sweeps.MAX_COLUMNS, -(-shares // len(items)))
            ]
        else:
            blocks = _split(columns.reshape(-1, 2), _GATHERED_COLUMNS, shares)
        kappa = np.empty(gaps.shape[1])
        weigh = functools.partial(sweeps.affinities, gaps[tree], zeta, kappa)
        _workers.run_ranges(weigh, len(kappa), threads, _LINEAR)
        tasks = [
            functools.partial(
                _sweep_blocks,
                values,
                out,
                blocks[share::shares],
                order[tree],
                kappa,
                # Tasks of one tree compute the same sums: one of them hands them out.
                None if sums is None or (share and not transposed) else sums[tree],
                transposed,
                -(-threads // shares),
            )
            for share in range(min(shares, len(blocks)))
        ]
        return all(_workers.run(tasks, threads))

    return all(_workers.run([functools.partial(one_tree, tree) for tree in used], workers))


def _sweep_pixels(n_pixels: int, n_columns: int) -> float:
    """Return what two sweeps take, in pixels of `_workers.STEP`."""
    return n_pixels * (2 + n_columns / 8)


def _split(columns: Array, most: int, at_least: int) -> list[Array]:
    """Split columns into blocks of at most `most`, as many as a multiple of `at_least` if possible."""
    if at_least == 1:  # full ones, and one of what is left: fewer lanes without a column
        return [columns[first : first + most] for first in range(0, len(columns), most)]
    n_blocks = -(-len(columns) // most)
    n_blocks = min(len(columns), -(-n_blocks // at_least) * at_least)
    return np.array_split(columns, n_blocks) if n_blocks else []


def _sweep_blocks(
    values: Array,
    out: Array,
    blocks: list[Array],
    order: Array,
    kappa: Array,
    sums: Array | None,
    transposed: bool,
    workers: int,
) -> bool:
    """Propagate blocks of columns over a tree; are all means finite?"""
    finite = True
    counts = np.empty(len(order), values.dtype) if sums is None else sums
    gathered = np.empty(0, values.dtype)
    for columns in blocks:
        (item, first), (last_item, last) = columns[0], columns[-1]
        side_by_side = values.strides[2] == out.strides[2] == values.itemsize
        if item == last_item and (side_by_side or len(columns) <= sweeps.FEW_COLUMNS):
            block = np.s_[item, :, first : last + 1]
            finite &= _both_sweeps(values[block], out[block], order, kappa, counts, transposed, workers)
            continue
        if gathered.size == 0:
            gathered = np.empty(2 * len(order) * max(map(len, blocks)), values.dtype)
        rows = gathered[: 2 * len(order) * len(columns)].reshape(2, len(order), len(columns))
        gather = functools.partial(sweeps.gather, values, columns, rows[0])
        _workers.run_ranges(gather, len(order), workers, _LINEAR * len(columns))
        finite &= _both_sweeps(rows[0], rows[1], order, kappa, counts, transposed, workers)
        scatter = functools.partial(sweeps.scatter, rows[1], columns, out)
        _workers.run_ranges(scatter, len(order), workers, _LINEAR * len(columns))
    return finite


def _both_sweeps(
    values: Array, out: Array, order: Array, kappa: Array, counts: Array, transposed: bool, workers: int
) -> bool:
    """Propagate values (N, C) into out (N, C) by two sweeps that meet in the middle; see `_sweep.sweep`.

    Up to there each is the first to come to a pixel, from there on the second: they can move at once, on two
    threads or taking turns on one. Returns whether all means are finite.
    """
    n_pixels, n_columns = values.shape
    workers = _workers.threads_for(_sweep_pixels(n_pixels, n_columns), workers)
    halves = (0, n_pixels // 2), (n_pixels // 2, n_pixels)
    stacks = sweeps.Stack(n_columns), sweeps.Stack(n_columns)

    def steps(start: int, stop: int) -> list[tuple[int, int]]:
        ranges = _workers.ranges(stop - start, 1, _sweep_pixels(1, n_columns))
        return [(start + first, start + last) for first, last in ranges]

    def move(second: bool, ahead: list[tuple[int, int]], behind: list[tuple[int, int]]) -> None:
        for bounds in itertools.zip_longest(ahead, behind, fillvalue=(0, 0)):
            _workers.check_stop()
            sweeps.sweep(
                values, out, order, kappa, counts, *stacks, second, transposed, *bounds[0], *bounds[1]
            )

    for second in (False, True):
        ahead, behind = steps(*halves[second]), steps(*halves[not second])[::-1]
        if workers > 1:
            moves = [functools.partial(move, second, ahead, []), functools.partial(move, second, [], behind)]
            _workers.run(moves, workers)
        else:
            move(second, ahead, behind)
    return all(stack.finite for stack in stacks)


def global_gap_gradients(
    grad: Array,
    values: Array,
    result: Array,
    order: Array,
    gaps: Array,
    tree_of: Array,
    zeta: float,
    sums: Array,
    out: Array,
    workers: int,
) -> None:
    """Fill out (B, N-1), float64, with dL/dgap, for grad (I, N, C) = dL/dresult.

    result (I, N, C) is what `global_propagate` made of values, and sums (B, N) is its z. Where gaps
    tie, which side an edge is on is settled as if the later one was the heavier.
    """

    def one_tree(tree: int) -> None:
        out[tree] = 0
        kappa = affinities(gaps[tree], zeta)
        for item in np.flatnonzero(tree_of == tree):
            arrays = grad[item], values[item], result[item]
            side_by_side = all(array.strides[1] == array.itemsize for array in arrays)
            most = _gradient.MAX_COLUMNS if side_by_side else _GATHERED_COLUMNS
            for columns in _split(np.arange(values.shape[2]), most, 1):
                g, phi, y = (array[:, columns[0] : columns[-1] + 1] for array in arrays)
                if not side_by_side:
                    g, phi, y = map(np.ascontiguousarray, (g, phi, y))
                _gradient.gap_gradient(g, phi, y, order[tree], gaps[tree], kappa, sums[tree], zeta, out[tree])

    _workers.run([functools.partial(one_tree, b) for b in range(len(order))], workers)


def feature_gradients(
    gap_gradients: Array, features: Array, gap_edges: Array, out: Array, workers: int
) -> None:
    """Fill out (F, N, C) with dL/dfeatures, from dL/dgap (F, N-1) of the trees they weigh."""

    def one_tree(f: int) -> None:
        out[f] = 0
        _gradient.feature_gradient(gap_gradients[f], features[f], gap_edges[f], out[f])

    _workers.run([functools.partial(one_tree, f) for f in range(len(features))], workers)


def local_propagate(*args: Any, regions: Array | None = None) -> None:
    """Propagate along windows; see `_stencil.propagate`, and `_regions` for values held in regions (I, N)."""
    if regions is None:
        _compiled("_stencil").propagate(*args)
    else:
        _compiled("_regions").propagate(*args, regions)


def pamr(*args: Any) -> None:
    """Average over dilated windows; see `_neighbours.pamr`."""
    _compiled("_neighbours").pamr(*args)


def pairwise_affinities(*args: Any) -> None:
    """Compute the affinities of pixels to their windows; see `_neighbours.pairwise_affinities`."""
    _compiled("_neighbours").pairwise_affinities(*args)


def local_gradients(*args: Any, regions: Array | None = None) -> None:
    """Differentiate by values, image and zeta; see `_stencil.gradients`, and `_regions`."""
    if regions is None:
        _compiled("_stencil").gradients(*args)
    else:
        _compiled("_regions").gradients(*args, regions)


@functools.cache
def _compiled(name: str) -> ModuleType:
    """Import a module, and with it Numba, when it is needed."""
    return _workers.run_apart(importlib.import_module, f"aproarray.cpu.{name}")
