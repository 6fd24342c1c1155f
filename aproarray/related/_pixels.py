"""Lay arrays over images out as (items, pixels, channels), for methods written with array operators alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aproarray import _edges, _validate

Array = NDArray[Any]

# Numbers that a block of pixels by pixels (or by segments) may hold at a time: 64 MB of float32.
BLOCK = 1 << 24


class Pixels(NamedTuple):
    """An array as (items, pixels, channels) of float32 or float64, and where its axes were."""

    flat: Array
    layout: _validate.Layout
    dtype: np.dtype[Any]
    """Dtype of results: the array's own, as in the verbs."""

    def restore(self, flat: Array, xp: Any) -> Array:
        """Return (items, pixels, channels), of any number of channels, with the array's own axes."""
        axis = self.layout.channel_axis
        result = flat.reshape(*self.layout.leading, *self.layout.spatial, flat.shape[-1])
        if axis is not None:
            result = xp.moveaxis(result, -1, axis)
        elif flat.shape[-1] == 1:
            result = result[..., 0]
        return result.astype(self.dtype, copy=False)


def pixels(
    array: Any, name: str, xp: Any, channel_axis: int | None, spatial_ndim: int, check_finite: bool
) -> Pixels:
    """Check an array over images."""
    array = _validate.real_array(array, name, xp)
    check_finite = _validate.flag(check_finite, "check_finite")
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM)
    layout = _validate.layout(array.shape, spatial_ndim, channel_axis, name)
    dtype = _validate.compute_dtype(array.dtype)
    flat = layout.flatten(array).astype(dtype, copy=False)
    if check_finite:
        _validate.finite(flat, name)
    return Pixels(flat, layout, np.dtype(np.float16) if array.dtype == np.float16 else dtype)


def same_pixels(one: Pixels, other: Pixels, name: str, other_name: str) -> None:
    """Check that two arrays are over the same images."""
    shapes = [part.layout.leading + part.layout.spatial for part in (one, other)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{name} and {other_name} must be over the same pixels, got {shapes[0]} and {shapes[1]} "
            "beside their channels"
        )


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yield slices of rows; a slice by all columns has at most `BLOCK` numbers, or one row."""
    step = max(1, BLOCK // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def unit(vectors: Array, xp: Any) -> Array:
    """Return vectors (..., D) scaled to unit length; vectors of length 0 stay 0."""
    largest = abs(vectors).max(axis=-1, keepdims=True) if vectors.shape[-1] else vectors
    # Scaled before they are squared, so that no square overflows or vanishes.
    scaled = vectors / xp.where(largest > 0, largest, 1)
    length = xp.sqrt((scaled * scaled).sum(axis=-1, keepdims=True))
    result: Array = scaled / xp.where(length > 0, length, 1)
    return result
