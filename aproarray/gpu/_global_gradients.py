"""The gradients of global propagation on the device, to the gaps and to the features that weigh them.

The kernels are those of kernels/global_gradients.cu and feature_gradients.cu.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from aproarray import _zeta
from aproarray.gpu._arguments import NULL, REAL, strided
from aproarray.gpu._compile import kernel
from aproarray.gpu._line import line_of, n_groups
from aproarray.gpu._sort import sort

# Channels whose sums are kept at once, which a thread adds up one after the other.
_GRADIENT_CHANNELS = 64


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
    names = {"REAL": REAL[values.dtype], "GAP": REAL[gaps.dtype]}
    groups_of_item = np.uint32(n_groups(n))
    inverse = np.float64(_zeta.inverse(zeta))
    # A tree at a time, item by item: sums of several items are added in their order.
    for tree in range(n_trees):
        line, z = None, sums[tree].astype(np.float64)
        for item in np.flatnonzero(tree_index == tree).tolist():
            if line is None:
                places, heights = cupy.ascontiguousarray(order[tree]), cupy.ascontiguousarray(gaps[tree])
                line = line_of(heights)
            one = slice(item, item + 1)
            for first in range(0, values.shape[2], _GRADIENT_CHANNELS):
                channels = slice(first, first + _GRADIENT_CHANNELS)
                parts = [array[one, :, channels] for array in (grad, values, result)]
                a, phi, y = map(strided, parts)
                size = np.uint32(n), np.uint32(parts[0].shape[2])
                groups = []
                for array, divisors in ((a, z), (phi, NULL)):
                    groups.append(cupy.empty((groups_of_item, parts[0].shape[2]), np.float64))
                    kernel("global_gradients", "group_positions", **names)(
                        -(-n // 16) * parts[0].shape[2], array, places, divisors, *size, groups_of_item,
                        groups[-1],
                    )  # fmt: skip
                b, b_groups = cupy.empty(n, np.float64), cupy.empty(groups_of_item, np.float64)
                kernel("global_gradients", "weigh_results", **names)(
                    n, a, y, places, z, *size, b, groups_of_item, b_groups
                )
                kernel("global_gradients", "gap_gradients", **names)(
                    n, a, phi, places, z, b, *groups, b_groups, heights, line.chains, inverse, *size,
                    out[tree : tree + 1],
                )  # fmt: skip


def feature_gradients(gap_gradients: Any, features: Any, gap_edges: Any, out: Any, workers: int) -> None:
    """Fill out (F, N, C) with dL/dfeatures, from dL/dgap (F, N-1) of the trees they weigh."""
    del workers
    n_items, n, channels = features.shape
    out[...] = 0
    if n == 1 or features.size == 0:
        return
    # Each pixel adds up its edges in the order of the gaps: ends are sorted by (pixel, gap).
    names = {"REAL": REAL[features.dtype]}
    for f in range(n_items):
        ends = cupy.ascontiguousarray(gap_edges[f], np.int32).reshape(-1).view(np.uint32)
        pixels = ends.copy()
        places = sort(pixels, 32)
        target = cupy.empty((n, channels), features.dtype)
        starts = cupy.empty(n + 1, np.uint32)
        kernel("feature_gradients", "first_ends", **names)(
            len(pixels) + 1, pixels, np.uint32(len(pixels)), np.uint32(n), starts
        )
        kernel("feature_gradients", "gather_gradients", **names)(
            n * channels, cupy.ascontiguousarray(gap_gradients[f], np.float64),
            cupy.ascontiguousarray(features[f]), ends, places, starts, np.uint32(n), np.uint32(channels),
            target,
        )  # fmt: skip
        out[f] = target
