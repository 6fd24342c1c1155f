"""
=============================
An image larger than memory
=============================

A few strokes on a large image: their classes propagate over all of it, chunk by chunk, without seams.

1. The image and the strokes' scores, one channel for each class, are written to zarr in chunks.
2. `mst` and `global_propagate` of dask arrays say what is to be computed. Nothing is computed yet.
3. Writing labels to zarr computes them. An overview picture shows one pixel in 16 along each axis.

Run it with ``python examples/large_image.py folder --side 4096``; a side of 32768 is a gigapixel.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.diagnostics import ProgressBar
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

import aproarray

Array = NDArray[Any]

ZETA = 10.0  # in grey values: noise has a standard deviation of 4
CLASSES = 5  # shown by the colours of "tab10"
FIELD = 700  # pixels along the side of a field, which is no multiple of a chunk


def scene(rows: Array, columns: Array) -> tuple[Array, Array]:
    """Return part of an image of fields with wavy borders, uint8 RGB, and the class of each pixel."""
    y, x = rows[:, None], columns[None]
    field_y = (y + 90 * np.sin(x / 400)).astype(np.int64) // FIELD
    field_x = (x + 90 * np.sin(y / 300)).astype(np.int64) // FIELD
    classes = (3 * field_y + 2 * field_x + field_y * field_x) % CLASSES
    colours = np.array([[70, 110, 60], [150, 140, 70], [60, 80, 130], [180, 175, 165], [110, 70, 60]])
    rng = np.random.default_rng([int(rows[0]) + 1000, int(columns[0]) + 1000])
    image = colours[classes] + rng.normal(0, 4, (*classes.shape, 3))
    return image.clip(0, 255).astype(np.uint8), classes


def strokes(classes: Array) -> NDArray[np.float32]:
    """Return a stroke across the middle of the first field of each class in a chunk, as scores."""
    scores = np.zeros((*classes.shape, CLASSES), np.float32)
    row = len(classes) // 2
    for label in range(CLASSES):
        (places,) = np.nonzero(classes[row] == label)
        scores[row, places[20:120], label] = 1
    return scores


def write_inputs(folder: Path, side: int, chunk: int) -> None:
    """Write the image and the scores of strokes, chunk by chunk."""

    def blocks(which: int, n_channels: int, dtype: Any) -> Any:
        def one(block_info: Any = None) -> Array:
            (first, last), (left, right) = block_info[None]["array-location"][:2]
            image, classes = scene(np.arange(first, last), np.arange(left, right))
            return image if which == 0 else strokes(classes)

        along = da.core.normalize_chunks(chunk, (side, side))
        return da.map_blocks(
            one, chunks=(*along, (n_channels,)), dtype=dtype, meta=np.empty((0, 0, 0), dtype)
        )

    da.to_zarr(blocks(0, 3, np.uint8), str(folder / "image.zarr"), overwrite=True)
    da.to_zarr(blocks(1, CLASSES, np.float32), str(folder / "strokes.zarr"), overwrite=True)


def propagate(folder: Path) -> None:
    """Write the labels of all pixels."""
    image, scores = (da.from_zarr(str(folder / f"{name}.zarr")) for name in ("image", "strokes"))
    tree = aproarray.mst(image)
    result = aproarray.global_propagate(scores, tree, zeta=ZETA)
    labels = result.argmax(-1).astype(np.uint8)
    da.to_zarr(labels, str(folder / "labels.zarr"), overwrite=True)


def overview(folder: Path, step: int = 16) -> Path:
    """Write a picture of one pixel in `step` along each axis: image and labels side by side."""
    image, labels = (
        da.from_zarr(str(folder / f"{name}.zarr"))[::step, ::step] for name in ("image", "labels")
    )
    colours = (255 * np.array(colormaps["tab10"].colors)).astype(np.uint8)
    picture = np.concatenate([image.compute(), colours[labels.compute()]], 1)
    path = folder / "overview.png"
    Image.fromarray(picture).save(path)
    return path


def right_share(folder: Path, step: int = 16) -> float:
    """Return the share of pixels, one in `step` along each axis, whose label is that of their field."""
    labels = da.from_zarr(str(folder / "labels.zarr"))
    _, classes = scene(np.arange(0, labels.shape[0], step), np.arange(0, labels.shape[1], step))
    return float((labels[::step, ::step].compute() == classes).mean())


def main() -> None:
    """Write everything to a folder."""
    parser = argparse.ArgumentParser(
        description="Propagate strokes over an image that need not fit in memory."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=4096, help="pixels along the image's sides")
    parser.add_argument("--chunk", type=int, default=1024, help="pixels along a chunk's sides")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with ProgressBar():
        write_inputs(options.folder, options.side, options.chunk)
        propagate(options.folder)
    print(f"{right_share(options.folder):.2%} of the pixels have their field's class")
    print(overview(options.folder))


if __name__ == "__main__":
    main()
