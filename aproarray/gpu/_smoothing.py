"""Smoothed images and their gradients on the device: kernels/smoothing.cu, for `aproarray.cpu._smoothing`.

Smoothed images and gradients are the CPU's bit for bit. Sums of squared steps are added in another order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cupy
import numpy as np

from aproarray import _edges
from aproarray.gpu._arguments import NULL, extents, struct_of
from aproarray.gpu._compile import Struct, kernel

_AXIS = struct_of(extent=np.uint32, stride=np.uint64)
_UNITS = struct_of(of=(np.float32, (_edges.MAX_NDIM,)))


def smooth(image: Any, steps: Sequence[tuple[int, float]], workers: int) -> Any:
    """Return an image (..., C) smoothed along its axes, one after another; see `aproarray.cpu.smooth`."""
    del workers
    source = cupy.ascontiguousarray(image, np.float32)
    for axis, (step, share) in enumerate(steps):
        target = cupy.empty(source.shape, np.float32)
        kernel("smoothing", "blend_along")(
            source.size, source, np.uint64(source.size), _axis(source.shape, axis), np.uint32(step),
            np.float32(1 - 2 * share), np.float32(share), target,
        )  # fmt: skip
        source = target
    return source


def _axis(shape: tuple[int, ...], axis: int) -> Struct:
    return Struct(_AXIS, shape[axis], math.prod(shape[axis + 1 :]))


def _inside(mask: Any) -> Any:
    return NULL if mask is None else cupy.ascontiguousarray(mask).view(np.uint8)


def gradient(image: Any, mask: Any, spacing: Sequence[float] | None, workers: int, out: Any = None) -> Any:
    """Return the magnitude of the gradient of an image (..., C); see `aproarray.cpu.gradient`."""
    del workers
    *shape, channels = image.shape
    if out is None:
        out = cupy.empty(tuple(shape), np.float32)
    units = (1.0,) * len(shape) if spacing is None else tuple(spacing)
    padded = (*units, *(1.0,) * (_edges.MAX_NDIM - len(units)))
    kernel("smoothing", "gradients")(
        out.size, cupy.ascontiguousarray(image, np.float32), _inside(mask), np.uint64(out.size),
        np.uint32(channels), np.uint32(len(shape)), extents(tuple(shape)), Struct(_UNITS, padded), out,
    )  # fmt: skip
    return out


def square_steps(
    image: Any, mask: Any, spacing: Sequence[float] | None, workers: int
) -> list[tuple[float, int]]:
    """Return for each axis the sum of squared steps and their number; see `aproarray.cpu.square_steps`.

    This waits for the device.
    """
    del workers
    *shape, channels = image.shape
    image, inside = cupy.ascontiguousarray(image, np.float32), _inside(mask)
    found = []
    for axis, extent in enumerate(shape):
        unit = 1.0 if spacing is None else spacing[axis] ** 2
        squares = cupy.empty(tuple(shape), np.float32)
        if extent < 2 or squares.size == 0:
            found.append((0.0, 0))
            continue
        kernel("smoothing", "square_steps")(
            squares.size, image, inside, np.uint64(squares.size), np.uint32(channels),
            _axis(tuple(shape), axis), np.float32(unit), squares,
        )  # fmt: skip
        if mask is None:
            count = squares.size // extent * (extent - 1)
        else:
            along = cupy.moveaxis(mask, axis, 0)
            count = int((along[1:] & along[:-1]).sum())
        found.append((float(squares.sum(dtype=np.float64)), count))
    return found
