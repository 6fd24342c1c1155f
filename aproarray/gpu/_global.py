"""Global propagation on the device: tiles of a line, and chains of what they leave.

The kernels are those of kernels/global_tiles.cu and global.cu.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from aproarray import _zeta
from aproarray.gpu import _arguments, _compile
from aproarray.gpu._arguments import (
    KEY,
    NO_VALUES,
    NULL,
    REAL,
    SIZES,
    items_at_once,
    picked,
    strided,
    struct_of,
    trees_of_items,
)
from aproarray.gpu._compile import Struct, kernel
from aproarray.gpu._line import Lines, Tiles, n_groups, n_tiles, tiles_of

_TREES = struct_of(of_items=np.uintp, repeat=np.uint32)
_ALONG = struct_of(
    order=np.uintp, gaps=np.uintp, inverse_zeta=np.float64, divisors=np.uintp, z=np.uintp, finds_z=np.uint32
)
_WORK = struct_of(
    sums=np.uintp, to_branch=np.uintp, from_branch=np.uintp, groups=np.uintp, n_groups=np.uint32,
    kappas=np.uintp,
)  # fmt: skip
# What a column takes, in bytes per position: its sums, what rows hand on, groups of both.
_BYTES_OF_COLUMN = 27
# Blocks of tiles on a multiprocessor, by bytes of a value: one works while others wait. With more of them,
# registers spill.
RESIDENT = {4: 3, 8: 2}


def affinities(distances: Any, zeta: float) -> Any:
    """Return exp(-d / zeta^2) in float64, 0 where d is inf, for distances (M,) and any zeta > 0."""
    inverse = _zeta.inverse(zeta)
    wide = distances.astype(np.float64)
    return cupy.where(np.isinf(wide), 0.0, np.exp(-(wide * inverse) * inverse))


def _sum_over(
    tiles: Tiles, values: Any, of_items: tuple[Any, np.uint32], zeta: float, divisors: Any, z: Any,
    finds_z: bool, out: Any,
) -> None:  # fmt: skip
    """Fill out (items, n, channels) with K times values.

    Values are divided by `divisors` first, results by z, unless these are NULL. If it finds z, z (B, n) is
    filled for the trees that have items, unless it is NULL.
    """
    n_items, n, channels = values.shape
    names = {"REAL": REAL[values.dtype], "GAP": REAL[tiles.gaps.dtype]}
    inverse, trees = np.float64(_zeta.inverse(zeta)), Struct(_TREES, *of_items)
    along = Struct(_ALONG, tiles.order, tiles.gaps, inverse, divisors, z, finds_z)
    columns, at_once = channels + finds_z, _compile.COLUMNS - finds_z
    sums, to_branch, from_branch = (cupy.empty((n_items, n, columns), np.float64) for _ in range(3))
    groups = cupy.empty((n_items, n_groups(n), columns), np.float64)
    kappas = cupy.empty(len(tiles.order) * n, np.float64)
    given = strided(values), trees, tiles.tiles, along, Struct(SIZES, n_items, n, channels), sums
    n_threads = n_items * n_tiles(n) * -(-channels // at_once) * _compile.BLOCK
    cross_tiles = kernel("global_tiles", "cross_tiles", **names, RESIDENT=RESIDENT[values.itemsize])
    cross_tiles(n_threads, *given, NO_VALUES)
    heights, lines, chains = tiles.left
    kernel("global", "propagate_chains", KEY=KEY[tiles.gaps.dtype])(
        sums.size, heights, trees, lines, chains, Struct(SIZES, n_items, n, columns), inverse,
        Struct(_WORK, sums, to_branch, from_branch, groups, n_groups(n), kappas),
    )  # fmt: skip
    cross_tiles(n_threads, *given, strided(out))


def _parts(values: Any, tree_index: Any, n_trees: int) -> Any:
    """Yield (trees, items, channels, trees of these items) such that the work fits memory and 32 bits."""
    _, n, channels = values.shape
    trees_at_once = items_at_once(n_trees, 2 * n, "a tree")
    # One column more is that of z.
    columns = max(1, _arguments.WORKING_BYTES // (_BYTES_OF_COLUMN * n) - 1)
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


def global_propagate(
    values: Any,
    out: Any,
    lines: Lines,
    tree_index: Any,
    zeta: float,
    workers: int,
    sums: Any = None,
    transposed: bool = False,
) -> bool:
    """Propagate values (I, N, C) into out (I, N, C), item i over tree tree_index[i] of `lines`.

    sums (B, N), of the values' dtype, receive z = K 1 of the trees that have items, in the order of the
    line. Transposed, they hold it, and out becomes K (values / z): what y = K phi / z makes of a gradient.
    Returns whether all means are known to be finite, which they are not here.
    """
    del workers
    order, gaps = lines
    n_trees, n = order.shape
    if values.size == 0:
        return False
    if n == 1:
        out[...] = values
        if sums is not None and not transposed:
            sums[...] = 1
        return False
    tiles, shown = None, None
    for trees, items, channels in _parts(values, tree_index, n_trees):
        if tiles is None or shown != trees:
            shown, tiles = trees, tiles_of(order[trees], gaps[trees])
            divisors = sums[trees].astype(np.float64) if transposed else NULL
        # The first channels of items find z, which the others know.
        finds_z, wanted = channels.start == 0 and not transposed, sums is not None and not transposed
        if channels.start == 0:
            kept = finds_z and (wanted or channels.stop < values.shape[2])
            z: Any = cupy.empty((trees.stop - trees.start, n), np.float64) if kept else NULL
        where = trees_of_items(tree_index[items] - trees.start, trees.stop - trees.start)
        chosen = picked(items)
        source, target = values[chosen][..., channels], out[chosen][..., channels]
        if not isinstance(chosen, slice):
            target = cupy.empty(source.shape, out.dtype)
        _sum_over(tiles, source, where, zeta, divisors, z, finds_z, target)
        if finds_z and wanted:
            found = picked(np.unique(tree_index[items]) - trees.start)
            sums[trees][found] = z[found]
        if not isinstance(chosen, slice):
            out[chosen, :, channels] = target
    return False
