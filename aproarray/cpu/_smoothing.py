"""Smoothed images and their gradients, rows split over threads. Pieces are some milliseconds of work."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aproarray.cpu import _smooth, _workers

__all__ = ["gradient", "smooth", "square_steps"]

Array = NDArray[Any]

# What one channel of a pixel takes, in pixels of `_workers.STEP`.
_BLEND = 0.1
_SQUARE = 0.1


def smooth(image: Array, steps: Sequence[tuple[int, float]], workers: int) -> NDArray[np.float32]:
    """Return an image (..., C), float32, smoothed along its axes, one after another.

    `steps` has for each axis a step in pixels and a share w: [w 1-2w w] at that step, the first and last
    pixels repeated beyond the ends.
    """
    *extents, row_length, n_channels = image.shape
    n_rows, axis = math.prod(extents), 0
    source = _flat(image)
    for axis in range(max(len(extents), 1)):
        stride = math.prod(extents[axis + 1 :])
        last = axis >= len(extents) - 1
        across = _blend(*steps[axis]) if extents else _NOTHING
        along = _blend(*steps[-1]) if last else _NOTHING
        target = np.empty_like(source)
        task = functools.partial(
            _smooth.smooth, source, target, row_length, n_channels,
            extents[axis] if extents else 1, stride, *across, *along,
        )  # fmt: skip
        _workers.run_ranges(task, n_rows, workers, _BLEND * row_length * n_channels)
        source = target
    return source.reshape(image.shape)


_NOTHING = 0, 1.0, 0.0


def _blend(step: int, share: float) -> tuple[int, float, float]:
    return step, 1 - 2 * share, share


def gradient(
    image: Array,
    mask: NDArray[np.bool_] | None,
    spacing: Sequence[float] | None,
    workers: int,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return the magnitude of the gradient of an image (..., C), from differences inside the mask alone."""
    *extents, row_length, n_channels = image.shape
    magnitudes = np.zeros(image.shape[:-1], np.float32) if out is None else out
    task = functools.partial(
        _smooth.gradients, _flat(image), _inside(mask), magnitudes.reshape(-1), image.shape[:-1], n_channels,
        (1.0,) * (image.ndim - 1) if spacing is None else tuple(spacing),
    )  # fmt: skip
    per_row = _SQUARE * row_length * n_channels * (len(extents) + 1)
    _workers.run_ranges(task, math.prod(extents), workers, per_row)
    return magnitudes


def square_steps(
    image: Array, mask: NDArray[np.bool_] | None, spacing: Sequence[float] | None, workers: int
) -> list[tuple[float, int]]:
    """Return for each axis of an image (..., C) the sum of squared distances of neighbours, and their number.

    Both take part, and distances are per unit.
    """
    *extents, row_length, n_channels = image.shape
    n_rows, ndim = math.prod(extents), image.ndim - 1
    sums, counts = np.zeros((n_rows, ndim)), np.zeros((n_rows, ndim), np.int64)
    task = functools.partial(
        _smooth.square_steps, _flat(image), _inside(mask), sums, counts, image.shape[:-1], n_channels,
        (1.0,) * ndim if spacing is None else tuple(unit * unit for unit in spacing),
    )  # fmt: skip
    _workers.run_ranges(task, n_rows, workers, _SQUARE * row_length * n_channels * ndim)
    # Without a rounding error that depends on how NumPy adds.
    return [(math.fsum(sums[:, axis]), int(counts[:, axis].sum())) for axis in range(ndim)]


def _flat(image: Array) -> NDArray[np.float32]:
    return np.ascontiguousarray(image, np.float32).reshape(-1)


def _inside(mask: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """Return a mask as bytes, or no entries if all pixels take part."""
    return np.empty(0, np.uint8) if mask is None else np.ascontiguousarray(mask).view(np.uint8).reshape(-1)
