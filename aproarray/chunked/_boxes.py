"""Where chunks lie, and which of them are joined: boxes of pixels, two along each axis made one.

All of this is known before anything is computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Index = tuple[int, ...]
Array = NDArray[Any]


@dataclass(frozen=True)
class Box:
    """A box of an image's pixels, from `low` to before `high` along each axis."""

    low: Shape
    high: Shape
    image: Shape
    """The image's shape."""

    @property
    def shape(self) -> Shape:
        """Pixels along each axis."""
        return tuple(high - low for low, high in zip(self.low, self.high, strict=True))

    def ids(self, pixels: Array) -> NDArray[np.int64]:
        """Return the places in the image, in C order, of pixels of the box."""
        coordinates = np.unravel_index(pixels, self.shape)
        shifted = tuple(c + low for c, low in zip(coordinates, self.low, strict=True))
        return np.ravel_multi_index(shifted, self.image).astype(np.int64, copy=False)

    def pixels(self, ids: Array) -> NDArray[np.int64]:
        """Return which of the box's pixels those are, -1 for pixels outside of it."""
        coordinates = np.unravel_index(ids, self.image)
        shifted = tuple(c - low for c, low in zip(coordinates, self.low, strict=True))
        inside = np.ones(ids.shape, bool)
        for c, extent in zip(shifted, self.shape, strict=True):
            inside &= (c >= 0) & (c < extent)
        found = np.full(ids.shape, -1, np.int64)
        if inside.any():
            found[inside] = np.ravel_multi_index(tuple(c[inside] for c in shifted), self.shape)
        return found

    def border(self) -> NDArray[np.bool_]:
        """Return, in the box's shape, which pixels have a neighbour in the image but outside of the box."""
        found = np.zeros(self.shape, bool)
        for axis, (low, high, extent) in enumerate(zip(self.low, self.high, self.image, strict=True)):
            along = np.moveaxis(found, axis, 0)
            if len(along) and low > 0:
                along[0] = True
            if len(along) and high < extent:
                along[-1] = True
        return found

    def on_border(self, ids: Array) -> NDArray[np.bool_]:
        """Return which of the box's pixels, by their places in the image, are on its border."""
        found = np.zeros(ids.shape, bool)
        for c, low, high, extent in zip(
            np.unravel_index(ids, self.image), self.low, self.high, self.image, strict=True
        ):
            if low > 0:
                found |= c == low
            if high < extent:
                found |= c == high - 1
        return found


@dataclass(frozen=True)
class Boxes:
    """The chunks of an image, and the boxes that they are joined to.

    A node is named by its level and an index along each axis: at level 0 those of a chunk, at each level
    above half of them. The last level has one node, the image.
    """

    chunks: tuple[Shape, ...]

    @property
    def shape(self) -> Shape:
        """The image's shape."""
        return tuple(map(sum, self.chunks))

    @property
    def n_levels(self) -> int:
        """Levels, that of the chunks included."""
        return max((math.ceil(math.log2(len(along))) for along in self.chunks), default=0) + 1

    def nodes(self, level: int) -> Iterator[Index]:
        """Run over the nodes of a level."""
        return itertools.product(*(range(-(-len(along) // (1 << level))) for along in self.chunks))

    def children(self, level: int, index: Index) -> list[Index]:
        """Return the nodes of the level below that a node joins."""
        below = tuple(-(-len(along) // (1 << (level - 1))) for along in self.chunks)
        return list(
            itertools.product(*(range(2 * i, min(2 * i + 2, n)) for i, n in zip(index, below, strict=True)))
        )

    def box(self, level: int, index: Index) -> Box:
        """Return the pixels of a node."""
        low, high = [], []
        for i, along in zip(index, self.chunks, strict=True):
            first = i << level
            low.append(sum(along[:first]))
            high.append(sum(along[: first + (1 << level)]))
        return Box(tuple(low), tuple(high), self.shape)
