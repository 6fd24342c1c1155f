"""Scales as the kernels take them: 1 / zeta and 1 / zeta^2, held below infinity so that 0 times them is 0."""

from __future__ import annotations

from typing import Any

import numpy as np

_FLOAT64 = np.dtype(np.float64)


def inverse(zeta: float, dtype: np.dtype[Any] = _FLOAT64) -> float:
    """Return 1 / zeta, or the largest number of `dtype` where that is smaller."""
    return min(1 / zeta, float(np.finfo(dtype).max))


def inverse_square(zeta: float, dtype: np.dtype[Any] = _FLOAT64) -> float:
    """Return 1 / zeta^2, or the largest number of `dtype` where that is smaller."""
    return min(1 / zeta / zeta, float(np.finfo(dtype).max))
