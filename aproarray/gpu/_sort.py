"""Sorting on the device (kernels/radix_sort.cu): stable, so that equal keys stay in their order."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from aproarray.gpu import _compile
from aproarray.gpu._arguments import NULL
from aproarray.gpu._compile import kernel


def sort(keys: Any, n_bits: int, values: Any = None, n_device: Any = NULL) -> Any:
    """Sort keys in place and stably, and return the values (None: places) that went with them."""
    n, digits = len(keys), 1 << _compile.DIGIT_BITS
    sort_pairs = kernel("radix_sort", "sort_pairs", KEY="u64" if keys.itemsize == 8 else "u32")
    number = values is None
    if number:
        values = cupy.empty(n, np.uint32)
    width = -(-n // 4)
    n_blocks = sort_pairs.n_blocks(width)
    n_groups = math.isqrt(n_blocks - 1) + 1
    sort_pairs(
        width, keys, cupy.empty_like(keys), values, cupy.empty_like(values), np.uint32(n), n_device,
        np.int32(n_bits), np.int32(number), cupy.empty(2 * n_blocks * digits, np.uint32),
        cupy.zeros(3 * n_groups * digits, np.uint32),
    )  # fmt: skip
    return values


def key_bits(dtype: Any) -> int:
    """Return how many bits of a key matter: weights have no sign, but a missing edge has all bits set."""
    return 8 * int(np.dtype(dtype).itemsize)
