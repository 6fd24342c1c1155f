"""Local propagation of values that are 0 outside of regions, such as boxes: in crops around the regions."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aproarray.cpu import _stencil, _workers

_ONE = np.zeros(1, np.intp)  # the image of the only item


class _Crop:
    """What the values of an item's region see of an image."""

    def __init__(self, item: int, region: NDArray[np.bool_], shape: tuple[int, ...], radius: int):
        self.item, self.image_shape = item, shape
        inside = region.reshape(shape)
        axes = range(len(shape))
        bounds = [np.flatnonzero(inside.any(axis=tuple({*axes} - {axis}))) for axis in axes]
        self.empty = not len(bounds[0])
        if not self.empty:
            self.where = tuple(slice(max(0, at[0] - radius), at[-1] + 1 + radius) for at in bounds)
            self.shape = inside[self.where].shape

    def view(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the part of an array (N, ...), with the axes of the image."""
        return array.reshape(*self.image_shape, *array.shape[1:])[self.where]

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the part of an array (N, ...) as one of a batch (1, n, ...)."""
        return self.view(array).reshape(1, -1, *array.shape[1:])


def _crops(regions: NDArray[np.bool_], shape: tuple[int, ...], kernel_size: int) -> list[_Crop]:
    """Return the crops of the items whose regions have pixels."""
    crops = [_Crop(item, region, shape, kernel_size // 2) for item, region in enumerate(regions)]
    return [crop for crop in crops if not crop.empty]


def propagate(
    values: NDArray[Any],
    out: NDArray[Any],
    images: NDArray[Any],
    shape: tuple[int, ...],
    image_of: NDArray[np.intp],
    masks: NDArray[np.bool_] | None,
    zeta: float,
    kernel_size: int,
    iterations: int,
    workers: int,
    sums: NDArray[Any] | None,
    regions: NDArray[np.bool_],
) -> None:
    """Propagate as `_stencil.propagate` does, each item in its region of regions (I, N).

    sums (G, N) receive W 1 in the regions, and 1 elsewhere.
    """
    out[...] = 0
    if sums is not None:
        sums[...] = 1
    crops = _crops(regions, shape, kernel_size)

    def one_item(crop: _Crop) -> NDArray[Any] | None:
        g, source = image_of[crop.item], crop.of(values[crop.item])
        target = np.empty_like(source)
        its_sums = None if sums is None else np.empty(source.shape[:2], sums.dtype)
        _stencil.propagate(
            source, target, crop.of(images[g]), crop.shape, _ONE,
            None if masks is None else crop.of(masks[g % len(masks)]), zeta, kernel_size, iterations,
            max(1, workers // len(crops)), its_sums, crop.of(regions[crop.item])[0],
        )  # fmt: skip
        crop.view(out[crop.item])[...] = target.reshape(*crop.shape, -1)
        return its_sums

    results = _workers.run([functools.partial(one_item, crop) for crop in crops], workers)
    for crop, its_sums in zip(crops, results, strict=True):
        if sums is not None and its_sums is not None:
            target = crop.view(sums[image_of[crop.item]])
            np.copyto(target, its_sums.reshape(crop.shape), where=crop.view(regions[crop.item]))


def gradients(
    grad: NDArray[Any],
    values: NDArray[Any],
    images: NDArray[Any],
    shape: tuple[int, ...],
    image_of: NDArray[np.intp],
    masks: NDArray[np.bool_] | None,
    zeta: float,
    kernel_size: int,
    iterations: int,
    workers: int,
    sums: NDArray[Any],
    by_values: NDArray[Any],
    by_image: NDArray[np.float64],
    by_zeta: NDArray[np.float64],
    regions: NDArray[np.bool_],
) -> None:
    """Fill by_values, by_image and by_zeta as `_stencil.gradients` does, for what `propagate` here did."""
    for array in (by_values, by_image, by_zeta):
        array[...] = 0
    crops = _crops(regions, shape, kernel_size)

    def one_item(crop: _Crop) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        g, source = image_of[crop.item], crop.of(values[crop.item])
        image = crop.of(images[g])
        target, of_image, of_zeta = np.empty_like(source), np.empty(image.shape), np.empty(1)
        _stencil.gradients(
            crop.of(grad[crop.item]), source, image, crop.shape, _ONE,
            None if masks is None else crop.of(masks[g % len(masks)]), zeta, kernel_size, iterations,
            max(1, workers // len(crops)), crop.of(sums[g]), target, of_image, of_zeta,
            crop.of(regions[crop.item])[0],
        )  # fmt: skip
        crop.view(by_values[crop.item])[...] = target.reshape(*crop.shape, -1)
        return of_image, of_zeta

    results = _workers.run([functools.partial(one_item, crop) for crop in crops], workers)
    for crop, (of_image, of_zeta) in zip(crops, results, strict=True):
        crop.view(by_image[image_of[crop.item]])[...] += of_image.reshape(*crop.shape, -1)
        by_zeta += of_zeta
