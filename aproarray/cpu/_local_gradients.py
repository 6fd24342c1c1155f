"""Gradients of local propagation: sums over pairs of pixels, which follow the stream."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aproarray import _zeta
from aproarray.cpu import _local_stream, _workers
from aproarray.cpu._local_regions import FIRST, Crop, crops_of

# Channels whose gradients are found at the same time, and moves of their stream between looks at the pairs:
# all iterates are kept for as long as pairs need them, which should not be for longer than the cache lasts.
_GRADIENT_CHANNELS = 4
_GRADIENT_MOVES = 8
# Pixels of a band, which a task keeps its input, output and gradients to the image of, where slabs are small.
_GRADIENT_PIXELS = 1 << 20


def local_gradients(
    grad: NDArray[Any],
    values: NDArray[Any],
    images: NDArray[Any],
    shape: tuple[int, ...],
    image_index: NDArray[np.intp],
    masks: NDArray[np.bool_] | None,
    zeta: float,
    kernel_size: int,
    iterations: int,
    workers: int,
    sums: NDArray[Any],
    by_values: NDArray[Any],
    by_image: NDArray[np.float64],
    by_zeta: NDArray[np.float64],
    region: NDArray[np.bool_] | None = None,
) -> None:
    """Fill by_values (I, N, C), by_image (G, N, Ci) and by_zeta (1), the latter two float64.

    grad (I, N, C) is dL/dresult. The other arguments are those of `local_propagate`, which has filled `sums`.
    """
    arguments = (
        grad, values, images, shape, image_index, masks, zeta, kernel_size, iterations, workers, sums,
        by_values, by_image, by_zeta,
    )  # fmt: skip
    if region is None:
        _gradients(*arguments)
    else:
        _gradients_in_regions(*arguments, region)


def _gradients(
    grad: NDArray[Any],
    values: NDArray[Any],
    images: NDArray[Any],
    shape: tuple[int, ...],
    image_index: NDArray[np.intp],
    masks: NDArray[np.bool_] | None,
    zeta: float,
    kernel_size: int,
    iterations: int,
    workers: int,
    sums: NDArray[Any],
    by_values: NDArray[Any],
    by_image: NDArray[np.float64],
    by_zeta: NDArray[np.float64],
    region: NDArray[np.bool_] | None = None,
) -> None:
    """Fill by_values (I, N, C), by_image (G, N, Ci) and by_zeta (1), the latter two float64.

    grad (I, N, C) is dL/dresult. The other arguments are those of `local_propagate`, which has filled `sums`.
    W is symmetric: with S = diag(W 1) and P = S^-1 W, the gradient of y_t is S P^(T-t) S^-1 grad, so that
    forward steps make it, along with the values. (With D = diag(region), P is D S^-1 W.) One task streams
    both through a band of slabs.
    """
    by_values[...] = grad if region is None else np.where(region[:, None], grad, 0)
    by_image[...] = 0
    by_zeta[...] = 0
    if values.size == 0:
        return
    shape, radii, images = _local_stream.prepared(shape, kernel_size, images, zeta)
    if not any(radii):
        return
    n_slabs, slab_pixels, radius = shape[0], math.prod(shape[1:]), radii[0]
    view = _local_stream.window(shape[1:], radii)
    steps = (view.interior, view.stop, view.slabs, view.shifts)
    scale = images.dtype.type(_zeta.inverse_square(zeta, images.dtype))
    n_channels = min(values.shape[2], _GRADIENT_CHANNELS)
    blocks = [slice(c, c + n_channels) for c in range(0, values.shape[2], n_channels)]
    reach = iterations * radius
    n_bands = -(-n_slabs // max(4 * reach, _GRADIENT_PIXELS // slab_pixels, 1))
    n_bands = max(n_bands, min(workers // len(blocks), n_slabs // max(2 * reach, 1)))
    bounds = np.linspace(0, n_slabs, n_bands + 1).astype(int).tolist()
    no_mask, no_sums = np.empty(0, np.uint8), np.empty(0, values.dtype)
    stream = _local_stream.stream_kernel(values.dtype, images.dtype)
    pair_up = _local_stream.pair_kernel(values.dtype, images.dtype)

    def one_band(i: int, block: slice, first: int, last: int) -> tuple[NDArray[Any], NDArray[Any]]:
        # Slabs that make pairs with the band's, and those that they depend on.
        pairs_first, pairs_last = max(0, first - radius), min(n_slabs, last + radius)
        begin, end = max(0, pairs_first - reach), min(n_slabs, pairs_last + reach)
        n, start, stop = end - begin, pairs_first - begin, pairs_last - begin
        pixels = slice(begin * slab_pixels, end * slab_pixels)
        g = image_index[i]
        image = images[g, pixels]
        mask = no_mask if masks is None else masks[g % len(masks), pixels].view(np.uint8)
        inside = no_mask if region is None else region[pixels].view(np.uint8)
        phi = values[i, pixels, block]
        source = np.concatenate([phi, grad[i, pixels, block] / sums[g, pixels, None]], axis=1)
        if region is not None:
            source[~region[pixels]] = 0
        target = np.empty_like(source)
        ring = min(_GRADIENT_MOVES + reach + radius + 1, n + radius)  # what is below the image stays 0
        state = _local_stream.stream_state(
            iterations, view, radius, iterations + 1, ring, source.shape[1], values.dtype, image
        )
        colors, padded = image.shape[1], view.padded
        planes = np.zeros((radius + 1) * colors * padded, image.dtype)
        valid, own = (np.zeros((radius + 1) * padded, values.dtype) for _ in range(2))
        squares, weights = np.zeros(padded, image.dtype), np.zeros(padded, values.dtype)
        slopes = np.zeros(len(view.slabs) * padded, values.dtype)
        found, shares = np.zeros((n, colors, padded)), np.zeros(n)
        paired = start
        moves = _local_stream.moves_of(n, start, stop, reach, radius)
        for move in range(0, moves, _GRADIENT_MOVES):
            _workers.check_stop()
            next_move = min(move + _GRADIENT_MOVES, moves)
            stream(
                source, target, image, mask, inside, no_sums, n, start, stop, iterations, scale,
                *steps, *state, move, next_move,
            )  # fmt: skip
            complete = min(next_move - radius - reach, stop)
            if complete > paired:
                pair_up(
                    state.state, phi.shape[1], padded, ring, iterations, image, mask, paired, complete, start,
                    scale, view.interior, view.slabs, view.shifts, view.runs, planes, radius + 1, valid,
                    squares, weights, own, slopes, found, shares,
                )  # fmt: skip
                paired = complete
        inner, out = slice(first - begin, last - begin), slice(first * slab_pixels, last * slab_pixels)
        adjoint = target.reshape(n, slab_pixels, -1)[inner, :, phi.shape[1] :]
        by_values[i, out, block] = adjoint.reshape(-1, phi.shape[1]) * sums[g, out, None]
        by_pixels = found[inner][:, :, view.interior].transpose(0, 2, 1)
        return by_pixels.reshape(-1, image.shape[1]), shares[inner]

    # Scaled last and in float64: the scale may be near the largest float32 number.
    for i in range(len(values)):
        tasks = [(block, *bound) for block in blocks for bound in itertools.pairwise(bounds)]
        results = _workers.run([functools.partial(one_band, i, *task) for task in tasks], workers)
        for (_, first, last), (found, shares) in zip(tasks, results, strict=True):
            by_image[image_index[i], first * slab_pixels : last * slab_pixels] += float(scale) * found
            for share in shares.tolist():
                by_zeta += float(scale) * share
    by_zeta *= -2 / zeta


def _gradients_in_regions(
    grad: NDArray[Any],
    values: NDArray[Any],
    images: NDArray[Any],
    shape: tuple[int, ...],
    image_index: NDArray[np.intp],
    masks: NDArray[np.bool_] | None,
    zeta: float,
    kernel_size: int,
    iterations: int,
    workers: int,
    sums: NDArray[Any],
    by_values: NDArray[Any],
    by_image: NDArray[np.float64],
    by_zeta: NDArray[np.float64],
    region: NDArray[np.bool_],
) -> None:
    """Fill by_values, by_image and by_zeta as `_gradients` does, each item in its row of region (I, N)."""
    for array in (by_values, by_image, by_zeta):
        array[...] = 0
    crops = crops_of(region, shape, kernel_size)

    def one_item(crop: Crop) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        g, source = image_index[crop.item], crop.of(values[crop.item])
        image = crop.of(images[g])
        target, of_image, of_zeta = np.empty_like(source), np.empty(image.shape), np.empty(1)
        _gradients(
            crop.of(grad[crop.item]), source, image, crop.shape, FIRST,
            None if masks is None else crop.of(masks[g % len(masks)]), zeta, kernel_size, iterations,
            max(1, workers // len(crops)), crop.of(sums[g]), target, of_image, of_zeta,
            crop.of(region[crop.item])[0],
        )  # fmt: skip
        crop.view(by_values[crop.item])[...] = target.reshape(*crop.shape, -1)
        return of_image, of_zeta

    results = _workers.run([functools.partial(one_item, crop) for crop in crops], workers)
    for crop, (of_image, of_zeta) in zip(crops, results, strict=True):
        crop.view(by_image[image_index[crop.item]])[...] += of_image.reshape(*crop.shape, -1)
        by_zeta += of_zeta
