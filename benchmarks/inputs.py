"""The images and values that are measured: photographs, and images made to be hard."""

from __future__ import annotations

from typing import Any

import numpy as np
import skimage.data
from numpy.typing import NDArray

Array = NDArray[Any]


def astronaut() -> Array:
    """Return the 512 x 512 RGB photograph, float32 in [0, 1]."""
    return np.asarray(skimage.data.astronaut(), np.float32) / np.float32(255)


def mosaic(side: int) -> Array:
    """Return side x side RGB float32 in [0, 1]: photographs at their own scale, reflected to fill cells.

    Noise of one grey level keeps copies of a photograph from repeating the very same numbers.
    """
    cell = 512
    photographs = []
    for load in ("astronaut", "coffee", "chelsea", "rocket"):
        picture = getattr(skimage.data, load)()[:cell, :cell]
        margins = [(0, cell - extent) for extent in picture.shape[:2]]
        photographs.append(np.asarray(np.pad(picture, [*margins, (0, 0)], mode="reflect"), np.float32) / 255)
    cells = -(-side // cell)
    image = np.empty((cells * cell, cells * cell, 3), np.float32)
    for row in range(cells):
        for column in range(cells):
            flipped = photographs[(row + column) % 4][:: (-1) ** (row // 2), :: (-1) ** (column // 2)]
            image[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = flipped
    image = np.ascontiguousarray(image[:side, :side])
    noise = np.random.default_rng(0).standard_normal(image.shape, np.float32)
    noise *= np.float32(1 / 255)
    image += noise
    return image


def values(shape: tuple[int, ...]) -> Array:
    """Return float32 values in [0, 1), such as a network's probabilities."""
    return np.random.default_rng(1).random(shape, np.float32)


def boxes(count: int, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Return boxes (top, left, height, width), from an eighth to two thirds of the image along each axis."""
    rng = np.random.default_rng(0)
    result = []
    for _ in range(count):
        tall, wide = (int(rng.integers(extent // 8, 2 * extent // 3)) for extent in (height, width))
        top, left = int(rng.integers(height - tall)), int(rng.integers(width - wide))
        result.append((top, left, tall, wide))
    return result


def strokes(shape: tuple[int, int], n_labels: int) -> Array:
    """Return seeds: a stroke of 40 x 3 pixels for each label at random places, 0 elsewhere."""
    rng = np.random.default_rng(3)
    seeds = np.zeros(shape, np.int32)
    for label in range(1, n_labels + 1):
        row, column = rng.integers(0, shape[0] - 3), rng.integers(0, shape[1] - 40)
        seeds[row : row + 3, column : column + 40] = label
    return seeds


def more_strokes(seeds: Array, count: int) -> list[Array]:
    """Return seeds with 1, 2 ... more strokes of labels that are there, at random places."""
    rng = np.random.default_rng(4)
    result = []
    for k in range(count):
        seeds = seeds.copy()
        row, column = rng.integers(0, seeds.shape[0] - 3), rng.integers(0, seeds.shape[1] - 40)
        seeds[row : row + 3, column : column + 40] = k % seeds.max() + 1
        result.append(seeds)
    return result


def adversarial(side: int) -> dict[str, Array]:
    """Return grey images that are hard for sorting, union-find, stacks or tiles, by name."""
    rows, columns = np.indices((side, side))
    raster = np.arange(side * side, dtype=np.float64).reshape(side, side)
    # A walk over all pixels, row after row, turning round at the ends; the values along it are monotone
    # and its steps are the lightest edges, so that the tree is the walk.
    walk = np.where(rows % 2, raster[:, ::-1], raster)
    noise = np.random.default_rng(2).random((side, side), np.float32)
    return {
        "constant": np.zeros((side, side), np.float32),
        "checkerboard": ((rows + columns) % 2).astype(np.float32),
        "monotone ramp of growing steps": raster**2,
        "spiral": _spiral(side),
        "one heavy edge column": noise / 255 + (columns >= side // 2).astype(np.float32),
        "serpentine, sorted weights": walk**2,
        "serpentine, reverse-sorted weights": (walk.max() - walk) ** 2,
    }


def _spiral(side: int) -> Array:
    """Return the position of every pixel along the spiral from the corner to the centre."""
    rows, columns = np.indices((side, side))
    ring = np.minimum.reduce([rows, columns, side - 1 - rows, side - 1 - columns])
    inner = side - 2 * ring - 1  # pixels along one side of the ring, less one
    row, column = rows - ring, columns - ring
    along = np.select(
        [row == 0, column == inner, row == inner], [column, inner + row, 3 * inner - column], 4 * inner - row
    )
    before = side * side - (side - 2 * ring) ** 2
    return np.asarray(before + along, np.float32)
