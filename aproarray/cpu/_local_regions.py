"""Crop images around regions, such as boxes: values held there depend on no pixel outside the crop."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST = np.zeros(1, np.intp)  # the image of the only item


class Crop:
    """The part of an image that values in an item's region depend on."""

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


def crops_of(region: NDArray[np.bool_], shape: tuple[int, ...], kernel_size: int) -> list[Crop]:
    """Return the crops of the items whose region has pixels."""
    crops = [Crop(item, own, shape, kernel_size // 2) for item, own in enumerate(region)]
    return [crop for crop in crops if not crop.empty]
