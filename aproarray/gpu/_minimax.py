"""Minimax distances on the device: the largest gap between two positions of a line (kernels/minimax.cu)."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from aproarray.gpu._arguments import REAL
from aproarray.gpu._compile import kernel


def largest_between(gaps: Any, first: Any, last: Any) -> Any:
    """Return the largest of gaps[first:last] for every pair of positions (Q), 0 where that is empty."""
    n, n_pairs = len(gaps), len(first)
    result = cupy.zeros(n_pairs, gaps.dtype)
    if n == 0 or n_pairs == 0:
        return result
    kernel("minimax", "largest_between", REAL=REAL[gaps.dtype])(
        max(n, n_pairs), cupy.ascontiguousarray(gaps), np.uint32(n), cupy.empty(n, gaps.dtype),
        cupy.ascontiguousarray(first, np.int64), cupy.ascontiguousarray(last, np.int64), np.uint32(n_pairs),
        result,
    )  # fmt: skip
    return result


def distances_from(gaps: Any, position: int) -> Any:
    """Return the minimax distance from one position of a line to all."""
    places = cupy.arange(len(gaps) + 1)
    return largest_between(gaps, np.minimum(places, position), np.maximum(places, position))
