"""
=============================
An image larger than memory
=============================

A few strokes on a large image: their labels propagate over all of it, chunk by chunk, without seams.

1. The image and the strokes are written to zarr in chunks.
2. `propagate_labels` of dask arrays says what is to be computed. Nothing is computed yet.
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

CLASSES = 5  # shown by the colours of "tab10"
FIELD = 700  # pixels along the side of a field, which is no multiple of a chunk


def scene(rows: Array, columns: Array) -> tuple[Array, Array, Array]:
    """Return part of an image of fields with wavy borders, uint8 RGB, the label of each pixel, and strokes.

    There is a stroke across the middle of each field.
    """
    y, x = rows[:, None], columns[None]
    wavy_y = (y + 90 * np.sin(x / 400)).astype(np.int64)
    wavy_x = (x + 90 * np.sin(y / 300)).astype(np.int64)
    field_y, field_x = wavy_y // FIELD, wavy_x // FIELD
    labels = ((3 * field_y + 2 * field_x + field_y * field_x) % CLASSES + 1).astype(np.uint8)
    colours = np.array([[70, 110, 60], [150, 140, 70], [60, 80, 130], [180, 175, 165], [110, 70, 60]])
    rng = np.random.default_rng([int(rows[0]) + 1000, int(columns[0]) + 1000])
    image = colours[labels - 1] + rng.normal(0, 4, (*labels.shape, 3))
    in_the_middle = (abs(wavy_y % FIELD - FIELD // 2) < 3) & (abs(wavy_x % FIELD - FIELD // 2) < FIELD // 6)
    return image.clip(0, 255).astype(np.uint8), labels, np.where(in_the_middle, labels, np.uint8(0))


def write_inputs(folder: Path, side: int, chunk: int) -> None:
    """Write the image and the strokes, chunk by chunk."""

    def one(block_info: Any = None, which: int = 0) -> Array:
        (first, last), (left, right) = block_info[None]["array-location"][:2]
        return scene(np.arange(first, last), np.arange(left, right))[which]

    along = da.core.normalize_chunks(chunk, (side, side))
    image = da.map_blocks(one, chunks=(*along, (3,)), dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    strokes = da.map_blocks(one, chunks=along, dtype=np.uint8, meta=np.empty((0, 0), np.uint8), which=2)
    da.to_zarr(image, str(folder / "image.zarr"), overwrite=True)
    da.to_zarr(strokes, str(folder / "strokes.zarr"), overwrite=True)


def propagate(folder: Path) -> None:
    """Write the labels of all pixels."""
    image, strokes = (da.from_zarr(str(folder / f"{name}.zarr")) for name in ("image", "strokes"))
    labels = aproarray.propagate_labels(image, strokes)
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
    _, right, _ = scene(np.arange(0, labels.shape[0], step), np.arange(0, labels.shape[1], step))
    return float((labels[::step, ::step].compute() == right).mean())


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
    print(f"{right_share(options.folder):.2%} of the pixels have their field's label")
    print(overview(options.folder))


if __name__ == "__main__":
    main()
