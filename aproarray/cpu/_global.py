"""Global propagation and its gradients: sweeps over the trees' lines, split over threads."""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aproarray.cpu import _global_gradients, _processor, _workers
from aproarray.cpu._recent import recent
from aproarray.cpu._workspace import Workspace

Array = NDArray[Any]


def affinities(distances: Array, zeta: float) -> Array:
    """Return exp(-d / zeta^2) in float64, 0 where d is inf, for distances (M,) and any zeta > 0."""
    result = np.empty(len(distances))
    _processor.sweeps.affinities(distances, zeta, result, 0, len(result))
    return result


class Lines(NamedTuple):
    """The lines of B trees: order (B, N), gaps (B, N-1), and what sweeps do at gaps (B, N-1)."""

    order: Array
    gaps: Array
    moves: Array
    """See `_sweep.find_moves`."""


def lines(order: Array, gaps: Array, workers: int) -> Lines:
    """Return the lines of trees (B, N) and (B, N-1) for the functions below; 1 byte per pixel is new."""
    moves = np.empty(gaps.shape, np.uint8)
    threads = max(1, workers // max(len(gaps), 1))  # for one tree
    find = [functools.partial(_find_moves, gaps[b], moves[b], threads) for b in range(len(gaps))]
    _workers.run(find, workers)
    return Lines(order, gaps, moves)


def recent_lines(order: Array, gaps: Array, workers: int) -> Lines:
    """Return what `lines` does, of trees that do not keep it: it is kept here for the last calls' trees."""
    moves = np.empty(gaps.shape, np.uint8)
    threads = max(1, workers // max(len(gaps), 1))

    def find(b: int) -> None:
        kept = recent.find(gaps[b])
        if kept is not None:
            moves[b] = kept
            return
        _find_moves(gaps[b], moves[b], threads)
        recent.keep(gaps[b], moves[b])

    _workers.run([functools.partial(find, b) for b in range(len(gaps))], workers)
    return Lines(order, gaps, moves)


def _find_moves(gaps: Array, moves: Array, workers: int) -> None:
    """Fill moves (N-1) of one line; see `_sweep.find_moves`."""
    with Workspace() as workspace:
        left = workspace.array(gaps.shape, np.intp)
        ranges = _workers.ranges(len(gaps), workers, _workers.LINEAR)
        find = functools.partial(_processor.sweeps.find_moves, gaps, moves, left)
        counts = _workers.run_over(find, ranges, workers)
        found = np.array([(first, first + count) for (first, _), count in zip(ranges, counts, strict=True)])
        _workers.run_apart(
            _processor.sweeps.close_moves, gaps, moves, left, found.reshape(-1, 2), pixels=sum(counts)
        )


# Columns that become rows, at most, where the channels of a pixel are not side by side. More buffers than
# these take were given back to the system after every call, and asked for at the next.
_GATHERED_COLUMNS = 24
# Columns of a block, at least, where those of a pixel lie side by side and are shared out: fetching the pixel
# takes most of the time, and each block fetches it anew.
_NARROWEST = 8


def global_propagate(
    values: Array,
    out: Array,
    lines: Lines,
    tree_index: Array,
    zeta: float,
    workers: int,
    sums: Array | None = None,
    transposed: bool = False,
) -> bool:
    """Propagate values (I, N, C) into out (I, N, C), item i over tree tree_index[i] of `lines`.

    sums (B, N), of the values' dtype, receive z = K 1 of the trees that have items, in the order of the
    line. Transposed, they hold it, and out becomes K (values / z): the gradient to phi of y = K phi / z.
    Returns whether all means are known to be finite.
    """
    n_channels = values.shape[2]
    order, gaps, moves = lines
    side_by_side = values.strides[2] == out.strides[2] == values.itemsize
    used = sorted(set(tree_index.tolist()))
    threads = max(1, workers // max(len(used), 1))  # for one tree

    def one_tree(tree: int) -> bool:
        with Workspace() as workspace:
            return propagate(workspace, tree)

    def propagate(workspace: Workspace, tree: int) -> bool:
        items = np.flatnonzero(tree_index == tree)
        columns = np.empty((len(items), n_channels, 2), np.intp)  # (item, channel)
        columns[..., 0], columns[..., 1] = items[:, None], np.arange(n_channels)
        # Both sweeps at once, and if that is too few tasks, columns shared out.
        shares = max(1, _workers.threads_for(_sweep_pixels(order.shape[1], columns.size // 2), threads) // 2)
        if side_by_side and n_channels >= _GATHERED_COLUMNS // 4:
            at_least = min(-(-shares // len(items)), max(1, n_channels // _NARROWEST))
            blocks = [
                block
                for of_item in columns
                for block in _split(of_item, _processor.sweeps.MAX_COLUMNS, at_least)
            ]
        else:
            blocks = _split(columns.reshape(-1, 2), _GATHERED_COLUMNS, shares)
        kappa = workspace.array(gaps.shape[1:], np.float64)
        weigh = functools.partial(_processor.sweeps.affinities, gaps[tree], zeta, kappa)
        _workers.run_ranges(weigh, len(kappa), threads, _workers.LINEAR)
        tasks = [
            functools.partial(
                _sweep_blocks,
                values,
                out,
                blocks[share::shares],
                order[tree],
                kappa,
                moves[tree],
                # Tasks of one tree compute the same sums: one of them hands them out.
                workspace.array(order.shape[1:], values.dtype)
                if sums is None or (share and not transposed)
                else sums[tree],
                workspace.array(
                    (2, order.shape[1] * _widest(blocks[share::shares], side_by_side)), values.dtype
                ),
                transposed,
                -(-threads // shares),
            )
            for share in range(min(shares, len(blocks)))
        ]
        return all(_workers.run(tasks, threads))

    return all(_workers.run([functools.partial(one_tree, tree) for tree in used], workers))


def _sweep_pixels(n_pixels: int, n_columns: int) -> float:
    """Return the work of two sweeps, in pixels of `_workers.STEP`."""
    return n_pixels * (2 + n_columns / 8)


def _split(columns: Array, most: int, at_least: int) -> list[Array]:
    """Split columns into blocks of at most `most`, as many as a multiple of `at_least` if possible."""
    if at_least == 1:  # full ones, and one of what is left: fewer lanes without a column
        return [columns[first : first + most] for first in range(0, len(columns), most)]
    n_blocks = -(-len(columns) // most)
    n_blocks = min(len(columns), -(-n_blocks // at_least) * at_least)
    return np.array_split(columns, n_blocks) if n_blocks else []


def _stays(columns: Array, side_by_side: bool) -> bool:
    """Return whether a block of columns (item, channel) need not be gathered into rows."""
    one_item = bool(columns[0, 0] == columns[-1, 0])
    return one_item and (side_by_side or len(columns) <= _processor.sweeps.FEW_COLUMNS)


def _widest(blocks: list[Array], side_by_side: bool) -> int:
    """Return how many columns are gathered at a time."""
    return max((len(columns) for columns in blocks if not _stays(columns, side_by_side)), default=0)


def _sweep_blocks(
    values: Array,
    out: Array,
    blocks: list[Array],
    order: Array,
    kappa: Array,
    moves: Array,
    counts: Array,
    gathered: Array,
    transposed: bool,
    workers: int,
) -> bool:
    """Propagate blocks of columns over a tree, with room for rows of them (2, M); are all means finite?"""
    finite = True
    for columns in blocks:
        if _stays(columns, side_by_side=values.strides[2] == out.strides[2] == values.itemsize):
            (item, first), last = columns[0], columns[-1, 1]
            block = np.s_[item, :, first : last + 1]
            finite &= _both_sweeps(
                values[block], out[block], order, kappa, moves, counts, transposed, workers
            )
            continue
        rows = [room[: len(order) * len(columns)].reshape(len(order), len(columns)) for room in gathered]
        gather = functools.partial(_processor.sweeps.gather, values, columns, rows[0])
        _workers.run_ranges(gather, len(order), workers, _workers.LINEAR * len(columns))
        finite &= _both_sweeps(rows[0], rows[1], order, kappa, moves, counts, transposed, workers)
        scatter = functools.partial(_processor.sweeps.scatter, rows[1], columns, out)
        _workers.run_ranges(scatter, len(order), workers, _workers.LINEAR * len(columns))
    return finite


def _both_sweeps(
    values: Array,
    out: Array,
    order: Array,
    kappa: Array,
    moves: Array,
    counts: Array,
    transposed: bool,
    workers: int,
) -> bool:
    """Propagate values (N, C) into out (N, C) by two sweeps that meet in the middle; see `_sweep.sweep`.

    Up to the middle, each sweep is the first to reach a pixel; after it, the second. They can therefore move
    at once: on two threads, or in turns on one. Returns whether all means are finite.
    """
    n_pixels, n_columns = values.shape
    workers = _workers.threads_for(_sweep_pixels(n_pixels, n_columns), workers)
    halves = (0, n_pixels // 2), (n_pixels // 2, n_pixels)
    stacks = _processor.sweeps.Stack(n_columns), _processor.sweeps.Stack(n_columns)

    def steps(start: int, stop: int) -> list[tuple[int, int]]:
        ranges = _workers.ranges(stop - start, 1, _sweep_pixels(1, n_columns))
        return [(start + first, start + last) for first, last in ranges]

    def move(second: bool, ahead: list[tuple[int, int]], behind: list[tuple[int, int]]) -> None:
        for bounds in itertools.zip_longest(ahead, behind, fillvalue=(0, 0)):
            _workers.check_stop()
            _processor.sweeps.sweep(
                values, out, order, kappa, moves, counts, *stacks, second, transposed, *bounds[0], *bounds[1]
            )

    for second in (False, True):
        ahead, behind = steps(*halves[second]), steps(*halves[not second])[::-1]
        if workers > 1:
            both = [functools.partial(move, second, ahead, []), functools.partial(move, second, [], behind)]
            _workers.run(both, workers)
        else:
            move(second, ahead, behind)
    return all(stack.finite for stack in stacks)


def global_gap_gradients(
    grad: Array,
    values: Array,
    result: Array,
    order: Array,
    gaps: Array,
    tree_index: Array,
    zeta: float,
    sums: Array,
    out: Array,
    workers: int,
) -> None:
    """Fill out (B, N-1), float64, with dL/dgap, for grad (I, N, C) = dL/dresult.

    result (I, N, C) is the result of `global_propagate` for values, and sums (B, N) is its z. Of tied gaps,
    the later one counts as the heavier.
    """

    def one_tree(tree: int) -> None:
        out[tree] = 0
        kappa = affinities(gaps[tree], zeta)
        for item in np.flatnonzero(tree_index == tree):
            arrays = grad[item], values[item], result[item]
            side_by_side = all(array.strides[1] == array.itemsize for array in arrays)
            most = _global_gradients.MAX_COLUMNS if side_by_side else _GATHERED_COLUMNS
            for columns in _split(np.arange(values.shape[2]), most, 1):
                g, phi, y = (array[:, columns[0] : columns[-1] + 1] for array in arrays)
                if not side_by_side:
                    g, phi, y = map(np.ascontiguousarray, (g, phi, y))
                _global_gradients.gap_gradient(
                    g, phi, y, order[tree], gaps[tree], kappa, sums[tree], zeta, out[tree]
                )

    _workers.run([functools.partial(one_tree, b) for b in range(len(order))], workers)


def feature_gradients(
    gap_gradients: Array, features: Array, gap_edges: Array, out: Array, workers: int
) -> None:
    """Fill out (F, N, C) with dL/dfeatures, from dL/dgap (F, N-1) of the trees they weigh."""

    def one_tree(f: int) -> None:
        with Workspace() as workspace:
            rows = workspace.contiguous(features[f])  # an edge asks for all channels of a pixel
            found = workspace.array(rows.shape, out.dtype)
            found[...] = 0
            _global_gradients.feature_gradient(gap_gradients[f], rows, gap_edges[f], found)
            out[f] = found

    _workers.run([functools.partial(one_tree, f) for f in range(len(features))], workers)
