"""The gradients of local propagation on the device: forward steps both ways, then pairs of pixels.

The kernels are those of kernels/local_gradients_tiles.cu and local_gradients.cu.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import cupy
import numpy as np

from aproarray.gpu import _compile
from aproarray.gpu._arguments import REAL, SIZES, extents, images_with, numbers, picked
from aproarray.gpu._compile import Struct, kernel
from aproarray.gpu._local import DEEP, TILES, n_tiles, prepared, propagate, tiled

# What the iterates of one launch may take, in bytes: more items, and more channels of one item, take turns.
_GRADIENT_BYTES = 1 << 30


def _parts(counts: Any, channels: int, columns: int) -> Iterator[tuple[slice, list[tuple[slice, slice]]]]:
    """Yield images, and how their items and channels take turns: `columns` of them at a time.

    Items follow one another by image, counts (G) of each. Images share a turn with all of their items.
    """
    starts = np.concatenate([[0], np.cumsum(counts)]).tolist()
    first = 0
    while first < len(counts):
        stop = first + 1
        while stop < len(counts) and (starts[stop + 1] - starts[first]) * channels <= columns:
            stop += 1
        width = channels
        if channels > columns:  # blocks of whole DEEP, all but the last one as wide
            turns = -(-channels // (max(1, columns // DEEP) * DEEP))
            width = -(-channels // (turns * DEEP)) * DEEP
        at_once = max(1, columns // channels)
        yield (
            slice(first, stop),
            [
                (slice(item, min(item + at_once, starts[stop])), slice(channel, channel + width))
                for item in range(starts[first], starts[stop], at_once)
                for channel in range(0, channels, width)
            ],
        )
        first = stop


def local_gradients(
    grad: Any,
    values: Any,
    images: Any,
    shape: tuple[int, ...],
    image_index: Any,
    masks: Any,
    zeta: float,
    kernel_size: int,
    iterations: int,
    workers: int,
    sums: Any,
    by_values: Any,
    by_image: Any,
    by_zeta: Any,
    region: Any = None,
) -> None:
    """Fill by_values (I, N, C), by_image (G, N, Ci) and by_zeta (1), the latter two float64.

    grad (I, N, C) is dL/dresult, the other arguments are those of `local_propagate`, `sums` what it filled. W
    is symmetric: with S = diag(W 1) and P = S^-1 W, the gradient of y_t is S P^(T-t) S^-1 grad, so that
    forward steps make it, too. (With D = diag(region), P is D S^-1 W.) What pairs contribute is summed up in
    the values' dtype for DEEP channels, then in float64, item after item.
    """
    by_values[...] = grad if region is None else cupy.where(region[:, :, None], grad, 0)
    by_image[...] = 0
    by_zeta[...] = 0
    _, n_pixels, channels = values.shape
    kernel_size = min(kernel_size, 2 * max(shape) - 1)
    if values.size == 0 or kernel_size == 1:
        return
    n_images, radius, dtype = len(images), kernel_size // 2, values.dtype
    images, scale, image_index = prepared(images, image_index, zeta)
    sorted_items = np.argsort(image_index, kind="stable")
    image_index = image_index[sorted_items]
    counts = np.bincount(image_index, minlength=n_images)
    half = math.prod(2 * min(radius, extent - 1) + 1 for extent in shape) // 2
    names = {"REAL": REAL[dtype], "PIXEL": REAL[images.dtype], "DEEP": DEEP, "NDIM": len(shape)}
    shares = cupy.empty((n_images, n_pixels), np.float64)
    of_column = ((2 * iterations + 2) * DEEP + half + 1) * n_pixels * dtype.itemsize // DEEP
    for chosen, turns in _parts(counts, channels, max(1, _GRADIENT_BYTES // of_column)):
        some_images = images[chosen]
        some_masks = masks if masks is None or len(masks) == 1 else masks[chosen]
        total = cupy.zeros((len(some_images), half + 1, n_pixels), np.float64)
        for items, block in turns:
            of_items, chosen_items = image_index[items], picked(sorted_items[items])
            own_sums = sums[cupy.asarray(of_items)][:, None]
            phi, upstream = (array.transpose(0, 2, 1)[chosen_items, block] for array in (values, grad))
            iterates = cupy.empty((iterations + 1, *phi.shape), dtype)
            adjoints = cupy.empty_like(iterates)
            iterates[0], adjoints[0] = phi, upstream / own_sums
            some_region = None
            if region is not None:
                some_region = region[chosen_items]
                for steps in (iterates, adjoints):
                    steps[0] = cupy.where(some_region[:, None], steps[0], 0)
            for steps in (iterates, adjoints):
                propagate(
                    steps[0].transpose(0, 2, 1), steps[-1].transpose(0, 2, 1), some_images, shape,
                    of_items - chosen.start, some_masks, zeta, kernel_size, iterations, None, steps[1:-1],
                    some_region,
                )  # fmt: skip
            by_values.transpose(0, 2, 1)[chosen_items, block] = adjoints[-1] * own_sums
            blocks = -(-phi.shape[1] // DEEP)
            pairs = cupy.empty((len(of_items), blocks, half + 1, n_pixels), dtype)
            _pair_up(iterates, adjoints, shape, kernel_size, pairs, names)
            first_items = np.searchsorted(of_items, np.arange(chosen.start, chosen.stop + 1))
            kernel("local_gradients", "add_pairs", **names)(
                total.size, pairs, numbers(first_items), np.uint32(len(some_images)),
                np.uint32(blocks), np.uint64((half + 1) * n_pixels), total,
            )  # fmt: skip
        kernel("local_gradients", "gather_pairs", **names)(
            len(some_images) * n_pixels, images_with(some_masks, some_images), extents(shape),
            np.uint32(n_pixels), scale, np.int32(radius), total, by_image[chosen], shares[chosen],
        )  # fmt: skip
    n, factor = shares.size, -2 / zeta
    while True:
        n_sums = -(-n // (8 * _compile.BLOCK))
        target = by_zeta if n_sums == 1 else cupy.empty(n_sums, np.float64)
        kernel("local_gradients", "sum_pieces", **names)(n, shares, np.uint64(n), np.float64(factor), target)
        if n_sums == 1:
            return
        shares, n, factor = target, n_sums, 1.0


def _pair_up(
    iterates: Any, adjoints: Any, shape: tuple[int, ...], kernel_size: int, pairs: Any, names: dict[str, Any]
) -> None:
    """Fill pairs (I, blocks of channels, pairs of a pixel + 1, N) from planes (T + 1, I, C, N)."""
    iterations, (n_items, channels, n_pixels) = len(iterates) - 1, iterates.shape[1:]
    radius, dtype = kernel_size // 2, iterates.dtype
    if tiled(shape, kernel_size, dtype) and radius < min(shape):
        tall, _ = TILES[radius, dtype.itemsize]
        constants = {"REAL": names["REAL"], "DEEP": DEEP, "RADIUS": radius, "TALL": tall}
        kernel("local_gradients_tiles", "pair_tiles", **constants)(
            n_items * pairs.shape[1] * n_tiles(shape, tall) * _compile.BLOCK, iterates, adjoints,
            np.uint32(n_items), *map(np.uint32, shape), np.uint32(channels), np.uint32(iterations), pairs,
        )  # fmt: skip
        return
    kernel("local_gradients", "pair_windows", **names)(
        pairs.size, iterates, adjoints, Struct(SIZES, n_items, n_pixels, channels), extents(shape),
        np.int32(radius), np.uint32(iterations), pairs,
    )  # fmt: skip
