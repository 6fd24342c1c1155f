"""Global propagation on the device: sums over the chains of a line (kernels/global.cu)."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from aproarray import _zeta
from aproarray.gpu import _arguments
from aproarray.gpu._arguments import (
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
from aproarray.gpu._line import Line, Lines, line_of, n_groups

TREES = struct_of(of_items=np.uintp, repeat=np.uint32, order=np.uintp, divisors=np.uintp)
_ONE_EACH = (NULL, np.uint32(1))


def affinities(distances: Any, zeta: float) -> Any:
    """Return exp(-d / zeta^2) in float64, 0 where d is inf, for distances (M,) and any zeta > 0."""
    inverse = _zeta.inverse(zeta)
    wide = distances.astype(np.float64)
    return cupy.where(np.isinf(wide), 0.0, np.exp(-(wide * inverse) * inverse))


def _sum_over(
    line: Line, values: Any, of_items: tuple[Any, np.uint32], shape: tuple[int, int, int], kappas: Any,
    divisors: Any, z: Any, out: Any,
) -> None:  # fmt: skip
    """Fill out (items, n, channels) with K times values, which are divided by `divisors` first, by z last.

    Without values, they are 1, and out is z (items, n). `kappas` are those of `_row_affinities`.
    """
    n_items, n, channels = shape
    of_ones = values is None
    source, target = (NO_VALUES, NO_VALUES) if of_ones else (strided(values), strided(out))
    names = {"REAL": REAL[np.dtype(np.float32) if of_ones else values.dtype], "GAP": REAL[line.gaps.dtype]}
    trees = Struct(TREES, *of_items, line.order, divisors)
    sizes = Struct(SIZES, *shape)
    groups_of_item, total = n_groups(n), n_items * n * channels
    groups = cupy.empty((n_items, groups_of_item, channels), np.float64)
    if not of_ones or divisors is not NULL:
        kernel("global", "group_positions", **names)(
            n_items * -(-n // 8) * channels, source, trees, sizes, np.uint32(groups_of_item), groups
        )
    to_branch, from_branch = (cupy.empty((n_items, n - 1, channels), np.float64) for _ in range(2))
    kernel("global", "exchange", **names)(
        total, source, trees, groups, np.uint32(groups_of_item), kappas, line.chains, sizes, to_branch,
        from_branch,
    )  # fmt: skip
    groups_of_item = n_groups(n - 1)
    groups = cupy.empty((n_items, groups_of_item, channels), np.float64)
    kernel("global", "group_rows", **names)(
        n_items * -(-n // 8) * channels, from_branch, Struct(SIZES, n_items, n - 1, channels),
        np.uint32(groups_of_item), groups,
    )  # fmt: skip
    kernel("global", "accumulate", **names)(
        total, trees, groups, np.uint32(groups_of_item), line.chains, sizes, to_branch, from_branch
    )
    kernel("global", "collect", **names)(
        total, source, trees, line.chains, to_branch, from_branch, sizes, z, target, out if of_ones else NULL
    )


def _row_affinities(line: Line, zeta: float) -> Any:
    """Return the affinity of each row's gap: once for all channels, and for z."""
    n_trees, n = line.order.shape
    kappas = cupy.empty(n_trees * (n - 1), np.float64)
    kernel("global", "row_affinities", REAL="float", GAP=REAL[line.gaps.dtype])(
        kappas.size, line.gaps, line.chains, np.uint32(n_trees), np.uint32(n),
        np.float64(_zeta.inverse(zeta)), kappas,
    )  # fmt: skip
    return kappas


def _normalisers(line: Line, kappas: Any) -> Any:
    """Return z = K 1 of every tree (B, N), along the line."""
    n_trees, n = line.order.shape
    z = cupy.empty((n_trees, n), np.float64)
    _sum_over(line, None, _ONE_EACH, (n_trees, n, 1), kappas, NULL, NULL, z)
    return z


def _parts(values: Any, tree_index: Any, n_trees: int) -> Any:
    """Yield (trees, items, channels, trees of these items) such that the work fits memory and 32 bits."""
    _, n, channels = values.shape
    trees_at_once = items_at_once(n_trees, 2 * n, "a tree")
    columns = max(1, _arguments.WORKING_BYTES // (24 * max(n, 1)))
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
    line, shown = None, None
    for trees, items, channels in _parts(values, tree_index, n_trees):
        if line is None or shown != trees:
            shown, line = trees, line_of(order[trees], gaps[trees])
            kappas = _row_affinities(line, zeta)
            z = sums[trees].astype(np.float64) if transposed else _normalisers(line, kappas)
            if sums is not None and not transposed:
                sums[trees] = z
        where = trees_of_items(tree_index[items] - trees.start, trees.stop - trees.start)
        chosen = picked(items)
        source, target = values[chosen][..., channels], out[chosen][..., channels]
        if not isinstance(chosen, slice):
            target = cupy.empty(source.shape, out.dtype)
        divisors, z_last = (z, NULL) if transposed else (NULL, z)
        _sum_over(line, source, where, source.shape, kappas, divisors, z_last, target)
        if not isinstance(chosen, slice):
            out[chosen, :, channels] = target
    return False
