"""Local propagation on the device: fused tiles where there are two axes, any window elsewhere."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from aproarray import _dispatch, _grid
from aproarray.gpu import _compile
from aproarray.gpu._compile import kernel
from aproarray.gpu._sums import _strided
from aproarray.gpu._trees import _NULL, _REAL, items_at_once

# Pixels of a thread's column, and blocks on a multiprocessor, by (radius, bytes of a value): the weights of
# a window have to fit the registers. Windows that are not here take the kernel for any number of axes.
TILES = {(1, 4): (2, 2), (2, 4): (2, 1), (3, 4): (1, 1), (1, 8): (2, 1), (2, 8): (1, 1)}
_DEEP = 4  # channels that go through shared memory together


def propagate(
    values: Any,
    out: Any,
    images: Any,
    shape: tuple[int, ...],
    image_of: Any,
    masks: Any,
    zeta: float,
    kernel_size: int,
    iterations: int,
    workers: int,
    sums: Any = None,
) -> None:
    """Propagate values (I, N, C) into out (I, N, C), item i along images[image_of[i]] (G, N, Ci).

    N pixels of `shape`; masks are (G or 1, N). sums (G, N), of the values' dtype, receive W 1. Kernels take
    it that equally many items of each image follow one another; other items get copies of their images.
    """
    del workers
    if out.size == 0:
        return
    n_items, n_pixels, channels = values.shape
    items_at_once(1, n_pixels, f"an image of shape {shape}")
    kernel_size = min(kernel_size, 2 * max(shape) - 1)  # holds the whole image
    if kernel_size == 1:
        out[...] = values
        if sums is not None:
            sums[...] = 1
        return
    if images.dtype == np.float32 and not 1e-18 <= zeta <= 1e18:  # whose square float32 cannot hold
        images = images.astype(np.float64)
    dtype, pixel = values.dtype, images.dtype
    scale = pixel.type(min(1 / zeta / zeta, float(np.finfo(pixel).max)))
    names = {"REAL": _REAL[dtype], "PIXEL": _REAL[pixel], "DEEP": _DEEP}
    extents = tuple(map(np.uint32, (*shape, *(1,) * (_grid.MAX_NDIM - len(shape)))))
    image_of = _dispatch.on_host(image_of)

    def source_of(values: Any, images: Any, masks: Any) -> tuple[Any, ...]:
        return (
            *_strided(values), images, np.uint32(images.shape[2]), _NULL if masks is None else masks,
            np.uint32(1 if masks is None else len(masks)), np.uint32(max(1, len(values) // len(images))),
            np.uint32(len(values)),
        )  # fmt: skip

    if sums is not None:
        # One step of one channel for each image, for the sake of the weights.
        images = cupy.ascontiguousarray(images)
        nothing = cupy.zeros((*images.shape[:2], 1), dtype)
        kernel("windows", "propagate_windows", **names, NDIM=len(shape))(
            len(images) * n_pixels, *source_of(nothing, images, masks), *extents, np.uint32(n_pixels),
            np.uint32(1), scale, np.int32(kernel_size // 2), _NULL, _NULL,
            *_strided(cupy.empty(nothing.shape, dtype)), sums,
        )  # fmt: skip
    if not np.array_equal(image_of, np.repeat(np.arange(len(images)), max(1, n_items // len(images)))):
        images = images[cupy.asarray(image_of)]
        masks = masks if masks is None or len(masks) == 1 else masks[cupy.asarray(image_of)]
    images = cupy.ascontiguousarray(images)
    source = source_of(values, images, masks)
    n_planes = 0 if iterations == 1 else min(iterations - 1, 2)
    planes = [cupy.empty((n_items, channels, n_pixels), dtype) for _ in range(n_planes)]
    planes += [_NULL] * (2 - n_planes)
    tall, resident = TILES.get((kernel_size // 2, dtype.itemsize), (0, 0))
    if len(shape) == 2 and tall:
        tiles = kernel(
            "tiles", "propagate_tiles", **names, RADIUS=kernel_size // 2, TALL=tall, RESIDENT=resident
        )
        rows = _compile.BLOCK // 32 * tall
        n_tiles = n_items * -(-shape[0] // rows) * -(-shape[1] // 32)
        tiles(
            n_tiles * _compile.BLOCK, *source, *map(np.uint32, shape), np.uint32(channels), scale,
            np.uint32(iterations), *planes, *_strided(out),
        )  # fmt: skip
        return
    windows = kernel("windows", "propagate_windows", **names, NDIM=len(shape))
    before: Any = _NULL
    for step in range(iterations):
        after = planes[step % 2] if step + 1 < iterations else _NULL
        windows(
            n_items * n_pixels * -(-channels // _DEEP), *source, *extents, np.uint32(n_pixels),
            np.uint32(channels), scale, np.int32(kernel_size // 2), before, after, *_strided(out), _NULL,
        )  # fmt: skip
        before = after
