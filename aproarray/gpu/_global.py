"""Global propagation on the device, and its gradients: sums over the chains of a line (kernels/line.cu)."""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np

from aproarray import _zeta
from aproarray.gpu._compile import kernel
from aproarray.gpu._trees import _KEY, _NULL, _REAL, _sort, items_at_once, trees_of_items

# What one launch may take for sums, in bytes: more channels and items than fit take turns.
_WORKING_BYTES = 1 << 30


class Line(NamedTuple):
    """The chains of a batch of lines, from bottom to top: rows, one for each gap."""

    order: Any
    gaps: Any
    lows: Any
    cuts: Any
    highs: Any
    branch_on_left: Any
    row_stops: Any
    row_merges: Any
    position_merges: Any

    @property
    def n_nodes(self) -> int:
        """Positions of one line."""
        return int(self.order.shape[1])


def _line(order: Any, gaps: Any) -> Line:
    """Find the chains of lines of order (B, N), N > 1, and gaps (B, N-1)."""
    order, gaps = cupy.ascontiguousarray(order), cupy.ascontiguousarray(gaps)
    n_images, n_nodes = order.shape
    n_slots, n_rows = n_images * n_nodes, n_images * (n_nodes - 1)
    n_entries = 2 * n_slots + (n_nodes.bit_length() + 2) * n_images
    names = {"KEY": _KEY[gaps.dtype]}
    heights = cupy.empty(n_slots, np.uint32 if gaps.itemsize == 4 else np.uint64)
    slots, up = (cupy.empty(n_entries, np.uint32) for _ in range(2))
    entry_of, chain_of, row_of, position_merges = (cupy.empty(n_slots, np.uint32) for _ in range(4))
    state = cupy.empty(40, np.uint32)
    levels = kernel("line", "levels", **names)
    levels(
        n_slots, gaps, np.uint32(n_images), np.uint32(n_nodes), heights, slots, up, entry_of,
        cupy.empty(levels.n_blocks(n_slots) + 1, np.uint32), state,
    )  # fmt: skip
    chains = kernel("line", "chains", **names)
    starts, stops, bottoms = (cupy.empty(n_entries, np.uint32) for _ in range(3))
    line_rows, lows, cuts, highs, row_stops, row_merges = (cupy.empty(n_rows, np.uint32) for _ in range(6))
    branch_on_left = cupy.empty(n_slots, np.uint8)
    chains(
        n_slots, heights, slots, up, entry_of, state, np.uint32(n_images), np.uint32(n_nodes), chain_of,
        cupy.empty(n_images * 32 * chains.n_tiles(n_nodes), np.uint32),
        cupy.empty(chains.n_blocks(n_slots), np.uint32),
        line_rows, starts, stops, bottoms, row_of, branch_on_left, lows, cuts, highs, row_stops, row_merges,
        position_merges,
    )  # fmt: skip
    return Line(order, gaps, lows, cuts, highs, branch_on_left, row_stops, row_merges, position_merges)


def _n_groups(n: int) -> int:
    """Return the number of groups of 8, of groups of 8 groups ... until one holds everything."""
    total = 0
    while n > 1 or not total:
        n = -(-n // 8)
        total += n
    return total


class Items(NamedTuple):
    """Values (I, N, C) of any strides, and the trees of a `Line` that they are over."""

    values: Any
    trees: Any
    """Tree of each item (I,), or null: every tree has `repeat` items in a row."""
    repeat: np.uint32

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What kernels take: the values, their strides, and where their trees are."""
        return (*_strided(self.values), self.trees, self.repeat)


def _strided(values: Any) -> tuple[Any, ...]:
    # Kernels get the address, as an array of theirs must be contiguous.
    return np.intp(values.data.ptr), *(np.int64(stride // values.itemsize) for stride in values.strides)


_NO_VALUES = (_NULL, np.int64(0), np.int64(0), np.int64(0))


def _sum_over(
    line: Line, source: tuple[Any, ...], shape: tuple[int, int, int], zeta: float, divisors: Any, dtype: Any,
    z: Any, out: tuple[Any, ...], z_out: Any,
) -> None:  # fmt: skip
    """Fill out with K times what `source` gives, divided by z if that is not null."""
    n_items, n, channels = shape
    names = {"REAL": _REAL[dtype], "GAP": _REAL[line.gaps.dtype]}
    sizes = (np.uint32(n_items), np.uint32(n), np.uint32(channels))
    n_groups = _n_groups(n)
    inverse = np.float64(_zeta.inverse(zeta))
    total = n_items * n * channels
    groups = cupy.empty((n_items, n_groups, channels), np.float64)
    of_leaves = (*source, line.order, divisors)
    if source[0] or divisors is not _NULL:
        first = n_items * -(-n // 8) * channels
        kernel("global", "group_positions", **names)(first, *of_leaves, *sizes, np.uint32(n_groups), groups)
    to_branch, from_branch = (cupy.empty((n_items, n - 1, channels), np.float64) for _ in range(2))
    kernel("global", "exchange", **names)(
        total, *of_leaves, groups, np.uint32(n_groups), line.gaps, line.lows, line.cuts, line.highs,
        line.branch_on_left, inverse, *sizes, to_branch, from_branch,
    )  # fmt: skip
    n_groups = _n_groups(n - 1)
    groups = cupy.empty((n_items, n_groups, channels), np.float64)
    kernel("global", "group_rows", **names)(
        n_items * -(-n // 8) * channels, from_branch, sizes[0], np.uint32(n - 1), sizes[2],
        np.uint32(n_groups), groups,
    )  # fmt: skip
    kernel("global", "accumulate", **names)(
        total, *source[-2:], groups, np.uint32(n_groups), line.row_stops, *sizes, to_branch, from_branch
    )
    kernel("global", "collect", **names)(
        total, *of_leaves, line.row_merges, line.position_merges, to_branch, from_branch, *sizes, z, *out,
        z_out,
    )  # fmt: skip


def _normalisers(line: Line, zeta: float) -> Any:
    """Return z = K 1 of every tree (B, N), along the line."""
    n_trees, n = line.order.shape
    z = cupy.empty((n_trees, n), np.float64)
    source = (*_NO_VALUES, _NULL, np.uint32(1))
    _sum_over(line, source, (n_trees, n, 1), zeta, _NULL, np.dtype(np.float32), _NULL, _NO_VALUES, z)
    return z


def _parts(values: Any, tree_index: Any, n_trees: int) -> Any:
    """Yield (trees, items, channels, trees of these items) such that the work fits memory and 32 bits."""
    _, n, channels = values.shape
    trees_at_once = items_at_once(n_trees, 2 * n, "a tree")
    columns = max(1, _WORKING_BYTES // (24 * max(n, 1)))
    for first in range(0, n_trees, trees_at_once):
        trees = slice(first, min(first + trees_at_once, n_trees))
        inside = np.flatnonzero((tree_index >= trees.start) & (tree_index < trees.stop))
        width = min(channels, columns)
        at_once = max(1, columns // width)
        for start in range(0, len(inside), at_once):
            items = inside[start : start + at_once]
            for channel in range(0, channels, width):
                # Items of these trees are consecutive unless tree_index says otherwise.
                yield trees, items, slice(channel, channel + width)


def _slice(items: Any) -> Any:
    """Return consecutive items as a slice, which is a view, and others as they are."""
    if len(items) and items[-1] - items[0] + 1 == len(items):
        return slice(int(items[0]), int(items[-1]) + 1)
    return cupy.asarray(items)


def global_propagate(
    values: Any,
    out: Any,
    order: Any,
    gaps: Any,
    tree_index: Any,
    zeta: float,
    workers: int,
    sums: Any = None,
    transposed: bool = False,
) -> bool:
    """Propagate values (I, N, C) into out (I, N, C), item i over tree tree_index[i] of order (B, N).

    sums (B, N), of the values' dtype, receive z = K 1 of the trees that have items, in the order of the
    line. Transposed, they hold it, and out becomes K (values / z): what y = K phi / z makes of a gradient.
    Returns whether all means are known to be finite, which they are not here.
    """
    del workers
    n_trees, n = order.shape
    if values.size == 0:
        return False
    if n == 1:
        out[...] = values
        if sums is not None and not transposed:
            sums[...] = 1
        return False
    line, shown = None, None
    for trees, items, channels in _parts(values, tree_index, n_trees):
        if line is None or shown != trees:
            shown, line = trees, _line(order[trees], gaps[trees])
            z = sums[trees].astype(np.float64) if transposed else _normalisers(line, zeta)
            if sums is not None and not transposed:
                sums[trees] = z
        where = trees_of_items(tree_index[items] - trees.start, trees.stop - trees.start)
        picked = _slice(items)
        source, target = values[picked][..., channels], out[picked][..., channels]
        if not isinstance(picked, slice):
            target = cupy.empty(source.shape, out.dtype)
        _sum_over(
            line, Items(source, *where).arguments, source.shape, zeta, z if transposed else _NULL,
            values.dtype, _NULL if transposed else z, _strided(target), _NULL,
        )  # fmt: skip
        if not isinstance(picked, slice):
            out[picked, :, channels] = target
    return False


def global_gap_gradients(
    grad: Any,
    values: Any,
    result: Any,
    order: Any,
    gaps: Any,
    tree_index: Any,
    zeta: float,
    sums: Any,
    out: Any,
    workers: int,
) -> None:
    """Fill out (B, N-1), float64, with dL/dgap, for grad (I, N, C) = dL/dresult.

    result (I, N, C) is what `global_propagate` made of values, and sums (B, N) is its z. Where gaps
    tie, which side an edge is on is settled as if the later one was the heavier.
    """
    del workers
    out[...] = 0
    n_trees, n = order.shape
    if n == 1 or values.size == 0:
        return
    names = {"REAL": _REAL[values.dtype], "GAP": _REAL[gaps.dtype]}
    n_groups = _n_groups(n)
    inverse = np.float64(_zeta.inverse(zeta))
    # A tree at a time, item by item: sums of several items are added in their order.
    for tree in range(n_trees):
        line, z = None, sums[tree : tree + 1].astype(np.float64)
        for item in np.flatnonzero(tree_index == tree).tolist():
            if line is None:
                line = _line(order[tree : tree + 1], gaps[tree : tree + 1])
            one = slice(item, item + 1)
            for first in range(0, values.shape[2], _GRADIENT_CHANNELS):
                channels = slice(first, first + _GRADIENT_CHANNELS)
                a, phi, y = (array[one, :, channels] for array in (grad, values, result))
                width = np.uint32(a.shape[2])
                one_tree = (_NULL, np.uint32(1), line.order)
                groups = []
                for array, divisors in ((a, z), (phi, _NULL)):
                    sums_of_groups = cupy.empty((n_groups, a.shape[2]), np.float64)
                    kernel("global", "group_positions", **names)(
                        -(-n // 8) * a.shape[2], *_strided(array), *one_tree, divisors, np.uint32(1),
                        np.uint32(n), width, np.uint32(n_groups), sums_of_groups,
                    )  # fmt: skip
                    groups.append(sums_of_groups)
                b, b_groups = cupy.empty(n, np.float64), cupy.empty(n_groups, np.float64)
                kernel("global", "weigh_results", **names)(
                    n, *_strided(a), *_strided(y), *one_tree, z, np.uint32(1), np.uint32(n), width, b
                )
                kernel("global", "group_rows", **names)(
                    -(-n // 8), b, np.uint32(1), np.uint32(n), np.uint32(1), np.uint32(n_groups), b_groups
                )
                kernel("global", "gap_gradients", **names)(
                    n, *_strided(a), *_strided(phi), line.order, z, b, *groups, b_groups,
                    line.gaps, line.lows, line.cuts, line.highs, inverse, np.uint32(n), width,
                    out[tree : tree + 1],
                )  # fmt: skip


# Channels whose sums are kept at once for gradients, which a thread adds up one after the other.
_GRADIENT_CHANNELS = 64


def feature_gradients(gap_gradients: Any, features: Any, gap_edges: Any, out: Any, workers: int) -> None:
    """Fill out (F, N, C) with dL/dfeatures, from dL/dgap (F, N-1) of the trees they weigh."""
    del workers
    n_items, n, channels = features.shape
    out[...] = 0
    if n == 1 or features.size == 0:
        return
    # Each pixel adds up its edges in the order of the gaps: ends are sorted by (pixel, gap).
    names = {"REAL": _REAL[features.dtype]}
    for f in range(n_items):
        ends = cupy.ascontiguousarray(gap_edges[f], np.int32).reshape(-1).view(np.uint32)
        pixels = ends.copy()
        places = _sort(pixels, 32)
        target = cupy.empty((n, channels), features.dtype)
        starts = cupy.empty(n + 1, np.uint32)
        kernel("ends", "first_ends", **names)(
            len(pixels) + 1, pixels, np.uint32(len(pixels)), np.uint32(n), starts
        )
        kernel("ends", "gather_gradients", **names)(
            n * channels, cupy.ascontiguousarray(gap_gradients[f], np.float64),
            cupy.ascontiguousarray(features[f]), ends, places, starts, np.uint32(n), np.uint32(channels),
            target,
        )  # fmt: skip
        out[f] = target
