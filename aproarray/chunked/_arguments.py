"""Arguments of calls over dask arrays: what came, laid out as leading axes, spatial axes and channels."""

from __future__ import annotations

import math
from typing import Any

import dask.array as da
import numpy as np

from aproarray import _arrays, _validate

Chunks = tuple[tuple[int, ...], ...]


def refuse(options: dict[str, Any], verb: str) -> None:
    """Refuse options that are given, and that chunked arrays cannot have."""
    for name, value in options.items():
        if value is not None:
            raise TypeError(f"{verb} of dask arrays takes no {name}, got a {_arrays.kind_of(value)}")


def lazy(array: Any, name: str) -> Any:
    """Return real numbers as a dask array, those in memory in one chunk."""
    if not isinstance(array, da.Array):
        if _arrays.is_foreign(array) or _arrays.is_cupy(array):
            raise TypeError(
                f"{name} must be a dask or NumPy array beside dask arrays, got {_described(array)}"
            )
        array = _validate.real_array(array, name)
        array = da.from_array(array, chunks=-1)
    if any(math.isnan(extent) for extent in array.shape):
        raise ValueError(
            f"{name} must have chunks of known sizes, got shape {array.shape}: call "
            f"{name}.compute_chunk_sizes() first"
        )
    if isinstance(array._meta, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a dask array of masked arrays, whose mask would be lost: pass da.ma.getdata({name}), "
            "and mask=~da.ma.getmaskarray(...) where pixels are to take no part"
        )
    if not isinstance(array._meta, np.ndarray):
        raise TypeError(
            f"{name} must be a dask array over NumPy arrays, got chunks of {_described(array._meta)}"
        )
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(
            f"{name} must hold bool, integer, float16, float32 or float64 numbers, got dtype {array.dtype}"
        )
    if math.prod(array.shape) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} of shape {array.shape} has more than 2^63 numbers")
    return array


def _described(array: Any) -> str:
    return f"a {_arrays.kind_of(array)}"


def channels_last(array: Any, layout: _validate.Layout) -> Any:
    """Return a dask array as leading axes, spatial axes and channels (one if it has none)."""
    if layout.channel_axis is None:
        return array[..., None]
    return da.moveaxis(array, layout.channel_axis, -1)


def channels_back(array: Any, layout: _validate.Layout, ndim: int) -> Any:
    """Undo `channels_last` in a result, which may have an axis more in front."""
    if layout.channel_axis is None:
        return array[..., 0]
    return da.moveaxis(array, -1, layout.channel_axis % ndim - ndim)


def floats(image: Any, mask: Any, n_leading: int) -> Any:
    """Return an image (leading, spatial, channels) whose chunks can become floats one by one.

    64-bit integers are made floats by the range of the whole image, which is a reduction of its own.
    """
    if image.dtype.kind not in "iu" or image.dtype.itemsize < 8 or image.size == 0:
        return image
    limits, low, high = np.iinfo(image.dtype), image, image
    if mask is not None:
        low = da.where(mask[..., None], image, image.dtype.type(limits.max))
        high = da.where(mask[..., None], image, image.dtype.type(limits.min))
    axes = tuple(range(n_leading, image.ndim - 1))
    low, high = low.min(axes, keepdims=True), high.max(axes, keepdims=True)
    dtype = _validate.compute_dtype(image.dtype)
    meta = np.empty((0,) * image.ndim, dtype)
    return da.map_blocks(_validate.floats_between, image, low, high, dtype=dtype, meta=meta)


def mask(value: Any, layout: _validate.Layout, chunks: Chunks, image_shape: tuple[int, ...]) -> Any:
    """Return a mask as a dask array with the image's chunks along the axes that it has, or None."""
    if value is None:
        return None
    value = lazy(value, "mask")
    if value.dtype != np.bool_:
        raise TypeError(f"mask must be boolean (True: the pixel takes part), got dtype {value.dtype}")
    if value.shape not in (layout.spatial, layout.leading + layout.spatial):
        raise ValueError(
            f"mask of shape {value.shape} does not fit an image of shape {image_shape}: expected "
            f"{layout.spatial}" + (f" or {layout.leading + layout.spatial}" if layout.leading else "")
        )
    return value.rechunk(chunks[len(chunks) - value.ndim :])
