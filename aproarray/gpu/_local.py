"""Local propagation on the device, and its gradients: fused tiles on two axes, any window elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import cupy
import numpy as np

from aproarray import _arrays, _edges, _zeta
from aproarray.gpu import _compile
from aproarray.gpu._compile import kernel
from aproarray.gpu._global import _slice, _strided
from aproarray.gpu._trees import _NULL, _REAL, items_at_once

# Pixels of a thread's column, and blocks on a multiprocessor, by (radius, bytes of a value): the weights of
# a window have to fit the registers. Windows that are not here take the kernel for any number of axes.
TILES = {(1, 4): (2, 2), (2, 4): (2, 1), (3, 4): (1, 1), (1, 8): (2, 1), (2, 8): (1, 1)}
_DEEP = 4  # channels that go through shared memory together


def _prepared(images: Any, image_index: Any, zeta: float) -> tuple[Any, Any, Any]:
    """Return contiguous images that zeta fits, the scale of their distances, and image_index on the host."""
    # Their squares times the scale should neither overflow float32 nor be flushed to 0, as numbers below
    # 1.2e-38 are here.
    if images.dtype == np.float32 and not 1e-16 <= zeta <= 1e18:
        images = images.astype(np.float64)
    scale = images.dtype.type(_zeta.inverse_square(zeta, images.dtype))
    return cupy.ascontiguousarray(images), scale, _arrays.on_host(image_index)


def _extents(shape: tuple[int, ...]) -> tuple[np.uint32, ...]:
    """Return the extents that kernels for any number of axes take."""
    return tuple(map(np.uint32, (*shape, *(1,) * (_edges.MAX_NDIM - len(shape)))))


def propagate(
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
    iterates: Any = None,
    region: Any = None,
) -> None:
    """Propagate values (I, N, C) into out (I, N, C), item i along images[image_index[i]] (G, N, Ci).

    N pixels of `shape`; masks are (G or 1, N). sums (G, N), of the values' dtype, receive W 1. iterates
    (iterations - 1, I, C, N) receive the values before the last iteration, anything outside the mask. Values
    outside of the items' region (I, N) are 0 before and after every iteration.
    Kernels take it that equally many items of each image follow one another; other items get copies of
    their images.
    """
    del workers
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
    images, scale, image_index = _prepared(images, image_index, zeta)
    dtype, pixel = values.dtype, images.dtype
    names = {"REAL": _REAL[dtype], "PIXEL": _REAL[pixel], "DEEP": _DEEP}
    if sums is not None:
        kernel("gradients", "window_sums", **names, NDIM=len(shape))(
            len(images) * n_pixels, images, np.uint32(images.shape[2]), *_masks(masks),
            np.uint32(len(images)), *_extents(shape), np.uint32(n_pixels), scale,
            np.int32(kernel_size // 2), sums,
        )  # fmt: skip
    if not np.array_equal(image_index, np.repeat(np.arange(len(images)), max(1, n_items // len(images)))):
        images = images[cupy.asarray(image_index)]
        masks = masks if masks is None or len(masks) == 1 else masks[cupy.asarray(image_index)]
    source = (
        *_strided(values), images, np.uint32(images.shape[2]), *_masks(masks),
        np.uint32(max(1, n_items // len(images))),
        _NULL if region is None else cupy.ascontiguousarray(region), np.uint32(n_items),
    )  # fmt: skip
    if iterates is None:
        iterates = cupy.empty((min(iterations - 1, 2), n_items, channels, n_pixels), dtype)
    n_planes = max(1, len(iterates))
    if _tiled(shape, kernel_size, dtype):
        tall, resident = TILES[kernel_size // 2, dtype.itemsize]
        tiles = kernel(
            "tiles", "propagate_tiles", **names, RADIUS=kernel_size // 2, TALL=tall, RESIDENT=resident
        )
        tiles(
            n_items * _n_tiles(shape, tall) * _compile.BLOCK, *source, *map(np.uint32, shape),
            np.uint32(channels), scale, np.uint32(iterations), iterates, np.uint32(n_planes), *_strided(out),
        )  # fmt: skip
        return
    windows = kernel("windows", "propagate_windows", **names, NDIM=len(shape))
    before: Any = _NULL
    for step in range(iterations):
        after = iterates[step % n_planes] if step + 1 < iterations else _NULL
        windows(
            n_items * n_pixels * -(-channels // _DEEP), *source, *_extents(shape), np.uint32(n_pixels),
            np.uint32(channels), scale, np.int32(kernel_size // 2), before, after, *_strided(out),
        )  # fmt: skip
        before = after


def _masks(masks: Any) -> tuple[Any, np.uint32]:
    return (_NULL, np.uint32(1)) if masks is None else (masks, np.uint32(len(masks)))


def _tiled(shape: tuple[int, ...], kernel_size: int, dtype: Any) -> bool:
    return len(shape) == 2 and (kernel_size // 2, dtype.itemsize) in TILES


def _n_tiles(shape: tuple[int, ...], tall: int) -> int:
    """Return how many tiles, whose threads have columns of `tall` pixels, an image of two axes makes."""
    return -(-shape[0] // (_compile.BLOCK // 32 * tall)) * -(-shape[1] // 32)


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
        if channels > columns:  # blocks of whole _DEEP, all but the last one as wide
            turns = -(-channels // (max(1, columns // _DEEP) * _DEEP))
            width = -(-channels // (turns * _DEEP)) * _DEEP
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


def gradients(
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

    grad (I, N, C) is dL/dresult, the other arguments are those of `propagate`, `sums` what it filled. W
    is symmetric: with S = diag(W 1) and P = S^-1 W, the gradient of y_t is S P^(T-t) S^-1 grad, so that
    forward steps make it, too. (With D = diag(region), P is D S^-1 W.) What pairs contribute is summed up in
    the values' dtype for _DEEP channels, then in float64, item after item.
    """
    by_values[...] = grad if region is None else cupy.where(region[:, :, None], grad, 0)
    by_image[...] = 0
    by_zeta[...] = 0
    _, n_pixels, channels = values.shape
    kernel_size = min(kernel_size, 2 * max(shape) - 1)
    if values.size == 0 or kernel_size == 1:
        return
    n_images, radius, dtype = len(images), kernel_size // 2, values.dtype
    images, scale, image_index = _prepared(images, image_index, zeta)
    sorted_items = np.argsort(image_index, kind="stable")
    image_index = image_index[sorted_items]
    counts = np.bincount(image_index, minlength=n_images)
    half = math.prod(2 * min(radius, extent - 1) + 1 for extent in shape) // 2
    extents, n_pixels_32 = _extents(shape), np.uint32(n_pixels)
    names = {"REAL": _REAL[dtype], "PIXEL": _REAL[images.dtype], "DEEP": _DEEP, "NDIM": len(shape)}
    shares = cupy.empty((n_images, n_pixels), np.float64)
    of_column = ((2 * iterations + 2) * _DEEP + half + 1) * n_pixels * dtype.itemsize // _DEEP
    for chosen, turns in _parts(counts, channels, max(1, _GRADIENT_BYTES // of_column)):
        some_images = images[chosen]
        some_masks = masks if masks is None or len(masks) == 1 else masks[chosen]
        total = cupy.zeros((len(some_images), half + 1, n_pixels), np.float64)
        for items, block in turns:
            of_items, picked = image_index[items], _slice(sorted_items[items])
            own_sums = sums[cupy.asarray(of_items)][:, None]
            phi, upstream = (array.transpose(0, 2, 1)[picked, block] for array in (values, grad))
            iterates = cupy.empty((iterations + 1, *phi.shape), dtype)
            adjoints = cupy.empty_like(iterates)
            iterates[0], adjoints[0] = phi, upstream / own_sums
            inside = None
            if region is not None:
                inside = region[picked]
                for steps in (iterates, adjoints):
                    steps[0] = cupy.where(inside[:, None], steps[0], 0)
            for steps in (iterates, adjoints):
                propagate(
                    steps[0].transpose(0, 2, 1), steps[-1].transpose(0, 2, 1), some_images, shape,
                    of_items - chosen.start, some_masks, zeta, kernel_size, iterations, 1,
                    iterates=steps[1:-1], region=inside,
                )  # fmt: skip
            by_values.transpose(0, 2, 1)[picked, block] = adjoints[-1] * own_sums
            blocks = -(-phi.shape[1] // _DEEP)
            pairs = cupy.empty((len(of_items), blocks, half + 1, n_pixels), dtype)
            _pair_up(iterates, adjoints, shape, kernel_size, pairs, names)
            first_items = np.searchsorted(of_items, np.arange(chosen.start, chosen.stop + 1))
            kernel("gradients", "add_pairs", **names)(
                total.size, pairs, cupy.asarray(first_items.astype(np.uint32)), np.uint32(len(some_images)),
                np.uint32(blocks), np.uint64((half + 1) * n_pixels), total,
            )  # fmt: skip
        kernel("gradients", "gather_pairs", **names)(
            len(some_images) * n_pixels, some_images, np.uint32(images.shape[2]), *_masks(some_masks),
            np.uint32(len(some_images)), *extents, n_pixels_32, scale, np.int32(radius), total,
            by_image[chosen], shares[chosen],
        )  # fmt: skip
    n, factor = shares.size, -2 / zeta
    while True:
        n_sums = -(-n // (8 * _compile.BLOCK))
        target = by_zeta if n_sums == 1 else cupy.empty(n_sums, np.float64)
        kernel("gradients", "sum_pieces", **names)(n, shares, np.uint64(n), np.float64(factor), target)
        if n_sums == 1:
            return
        shares, n, factor = target, n_sums, 1.0


def _pair_up(
    iterates: Any, adjoints: Any, shape: tuple[int, ...], kernel_size: int, pairs: Any, names: dict[str, Any]
) -> None:
    """Fill pairs (I, blocks of channels, pairs of a pixel + 1, N) from planes (T + 1, I, C, N)."""
    iterations, (n_items, channels, n_pixels) = len(iterates) - 1, iterates.shape[1:]
    radius, dtype = kernel_size // 2, iterates.dtype
    if _tiled(shape, kernel_size, dtype) and radius < min(shape):
        tall, _ = TILES[radius, dtype.itemsize]
        kernel("pair_tiles", "pair_tiles", REAL=names["REAL"], DEEP=_DEEP, RADIUS=radius, TALL=tall)(
            n_items * pairs.shape[1] * _n_tiles(shape, tall) * _compile.BLOCK, iterates, adjoints,
            np.uint32(n_items), *map(np.uint32, shape), np.uint32(channels), np.uint32(iterations), pairs,
        )  # fmt: skip
        return
    kernel("gradients", "pair_windows", **names)(
        pairs.size, iterates, adjoints, np.uint32(n_items), *_extents(shape), np.uint32(n_pixels),
        np.int32(radius), np.uint32(channels), np.uint32(iterations), pairs,
    )  # fmt: skip
