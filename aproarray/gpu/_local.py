"""Local propagation on the device: fused tiles on two axes, any window elsewhere.

The kernels are those of kernels/local_tiles.cu and local_windows.cu.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from aproarray import _arrays, _zeta
from aproarray.gpu import _arguments, _compile
from aproarray.gpu._arguments import (
    NULL,
    REAL,
    SIZES,
    extents,
    images_with,
    items_at_once,
    strided,
    struct_of,
)
from aproarray.gpu._compile import Struct, kernel

_TILING = struct_of(height=np.int32, width=np.int32)
_ITEMS = struct_of(first=np.uint32, count=np.uint32, all=np.uint32, channels=np.uint32, repeat=np.uint32)

# Pixels of a thread's column, and blocks on a multiprocessor, by (radius, bytes of a value): the weights of
# a window have to fit the registers. Windows that are not here take the kernel for any number of axes.
TILES = {(1, 4): (4, 1), (2, 4): (2, 1), (3, 4): (1, 1), (1, 8): (2, 1), (2, 8): (1, 1)}
DEEP = 4  # channels that go through shared memory together


def prepared(images: Any, image_index: Any, zeta: float) -> tuple[Any, Any, Any]:
    """Return contiguous images that zeta fits, the scale of their distances, and image_index on the host."""
    # Their squares times the scale should neither overflow float32 nor be flushed to 0, as numbers below
    # 1.2e-38 are here.
    if images.dtype == np.float32 and not 1e-16 <= zeta <= 1e18:
        images = images.astype(np.float64)
    scale = images.dtype.type(_zeta.inverse_square(zeta, images.dtype))
    return cupy.ascontiguousarray(images), scale, _arrays.on_host(image_index)


def local_propagate(
    values: Any,
    out: Any,
    images: Any,
    shape: tuple[int, ...],
    image_index: Any,
    masks: Any,
    zeta: float,
    kernel_size: int,
    iterations: int,
    workers: int,
    sums: Any = None,
    region: Any = None,
) -> None:
    """Propagate values (I, N, C) into out (I, N, C), item i along images[image_index[i]] (G, N, Ci).

    N pixels of `shape`; masks are (G or 1, N). sums (G, N), of the values' dtype, receive W 1. Values
    outside of the items' region (I, N) are 0 before and after every iteration.
    """
    del workers
    options = (masks, zeta, kernel_size, iterations)
    propagate(values, out, images, shape, image_index, *options, sums, None, region)


def propagate(
    values: Any, out: Any, images: Any, shape: tuple[int, ...], image_index: Any, masks: Any, zeta: float,
    kernel_size: int, iterations: int, sums: Any, iterates: Any, region: Any,
) -> None:  # fmt: skip
    """Do as `local_propagate` does; iterates (iterations - 1, I, C, N) receive the values before the last.

    They hold anything outside the mask. Kernels take it that equally many items of each image follow one
    another; other items get copies of their images.
    """
    if out.size == 0:
        return
    n_items, n_pixels, channels = values.shape
    items_at_once(1, n_pixels, f"an image of shape {shape}")
    kernel_size = min(kernel_size, 2 * max(shape) - 1)  # holds the whole image
    if kernel_size == 1:
        out[...] = values if region is None else cupy.where(region[:, :, None], values, 0)
        if sums is not None:
            sums[...] = 1
        return
    images, scale, image_index = prepared(images, image_index, zeta)
    dtype, pixel = values.dtype, images.dtype
    names = {"REAL": REAL[dtype], "PIXEL": REAL[pixel], "DEEP": DEEP}
    if sums is not None:
        kernel("local_gradients", "window_sums", **names, NDIM=len(shape))(
            len(images) * n_pixels, images_with(masks, images), extents(shape), np.uint32(n_pixels), scale,
            np.int32(kernel_size // 2), sums,
        )  # fmt: skip
    if not np.array_equal(image_index, np.repeat(np.arange(len(images)), max(1, n_items // len(images)))):
        images = images[cupy.asarray(image_index)]
        masks = masks if masks is None or len(masks) == 1 else masks[cupy.asarray(image_index)]
    repeat = max(1, n_items // len(images))
    region = NULL if region is None else cupy.ascontiguousarray(region)
    if iterates is None:
        iterates = cupy.empty((min(iterations - 1, 2), n_items, channels, n_pixels), dtype)
    n_planes = max(1, len(iterates))
    if tiled(shape, kernel_size, dtype):
        tall, resident = TILES[kernel_size // 2, dtype.itemsize]
        of_kind = {"REAL": REAL[dtype], "DEEP": DEEP, "RADIUS": kernel_size // 2, "TALL": tall}
        weigh = kernel("local_tiles", "weigh_tiles", **of_kind, PIXEL=REAL[pixel], RESIDENT=resident)
        tiles = kernel("local_tiles", "propagate_tiles", **of_kind, PIXEL=REAL[pixel], RESIDENT=resident)
        threads, tiling = n_tiles(shape, tall) * _compile.BLOCK, Struct(_TILING, *shape)
        of_image = threads * tall * kernel_size**2
        at_once = max(1, _arguments.WORKING_BYTES // (of_image * dtype.itemsize))
        weights = cupy.empty(min(at_once, len(images)) * of_image, dtype)
        for first in range(0, len(images), at_once):
            count = min(at_once, len(images) - first)
            weigh(
                count * threads, images_with(masks, images), np.uint32(first), np.uint32(count), tiling,
                scale, weights,
            )  # fmt: skip
            tiles(
                count * repeat * threads, strided(values), NULL if masks is None else masks,
                np.uint32(1 if masks is None else len(masks)), region,
                Struct(_ITEMS, first * repeat, count * repeat, n_items, channels, repeat), tiling, weights,
                np.uint32(iterations), iterates, np.uint32(n_planes), strided(out),
            )  # fmt: skip
        return
    source = strided(values), images_with(masks, images), np.uint32(repeat), region
    windows = kernel("local_windows", "propagate_windows", **names, NDIM=len(shape))
    sizes, of_axes, target = Struct(SIZES, n_items, n_pixels, channels), extents(shape), strided(out)
    before: Any = NULL
    for step in range(iterations):
        after = iterates[step % n_planes] if step + 1 < iterations else NULL
        windows(
            n_items * n_pixels * -(-channels // DEEP), *source, sizes, of_axes, scale,
            np.int32(kernel_size // 2), before, after, target,
        )  # fmt: skip
        before = after


def tiled(shape: tuple[int, ...], kernel_size: int, dtype: Any) -> bool:
    """Return whether tiles serve this window."""
    return len(shape) == 2 and (kernel_size // 2, dtype.itemsize) in TILES


def n_tiles(shape: tuple[int, ...], tall: int) -> int:
    """Return how many tiles, whose threads have columns of `tall` pixels, an image of two axes makes."""
    return -(-shape[0] // (_compile.BLOCK // 32 * tall)) * -(-shape[1] // 32)
