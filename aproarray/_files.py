"""Images, scribbles and scores in files: the command line's reading and writing.

NPY needs nothing, TIFF needs tifffile, and PNG, JPEG and BMP need Pillow; they are imported when used.
"""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".npy")

# More colours than this are no classes: a photograph, or scribbles that were smoothed or saved as JPEG.
_MOST_COLOURS = 256


class Scribbles(NamedTuple):
    """Labels that were read from a file, and the colour of each if they were colours."""

    labels: Array
    colours: NDArray[np.uint8] | None
    """(K, 3), the colour of labels 1 to K."""


def listed(pattern: str) -> list[Path]:
    """Return the files that a file name, a folder or a glob pattern stands for, sorted."""
    path = Path(pattern)
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    elif path.is_file():
        files = [path]
    else:
        files = [Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file()]
    if not files:
        raise FileNotFoundError(f"no image files at {pattern}")
    return sorted(set(files))  # a pattern with ** finds some files twice


def read(path: Path, modes_to_convert: tuple[str, ...] = ()) -> Array:
    """Return the array in a file; a picture of Pillow's `modes_to_convert` as RGB."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if path.suffix.lower() == ".npy":
        with _reading(path), path.open("rb") as file:
            return np.lib.format.read_array(file)  # np.load would also open archives
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        with _reading(path):
            return np.asarray(tifffile.imread(path))
    from PIL import Image

    with _reading(path), Image.open(path) as picture:
        return np.asarray(picture.convert("RGB") if picture.mode in modes_to_convert else picture)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file in what a reader raises, which for a damaged file can be any exception."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}") from error


def read_image(path: Path) -> Array:
    """Return an image without its alpha channel."""
    image = read(path, ("P", "PA", "CMYK", "YCbCr", "HSV"))
    if path.suffix.lower() != ".npy" and image.ndim == 3 and image.shape[-1] in (2, 4):
        image = image[..., :-1]
        if image.shape[-1] == 1:
            image = image[..., 0]
    return image


def check_spatial_ndim(path: Path, image: Array, ndim: int) -> None:
    """Refuse a number of spatial axes that a picture does not have; the axes of an array may be any."""
    if path.suffix.lower() == ".npy":
        return
    possible = [image.ndim]
    if image.ndim > 2:  # the last axis may be channels, and three of a picture always are
        possible = [image.ndim - 1] if image.shape[-1] == 3 else [image.ndim - 1, image.ndim]
    if ndim not in possible:
        indices = " or ".join(map(str, possible))
        raise ValueError(f"a pixel of an image of shape {image.shape} has {indices} indices, got {ndim}")


def read_scribbles(path: Path, image_shape: tuple[int, ...]) -> Scribbles:
    """Return labels: integers as they are, or colours numbered from 1, black and transparent being 0.

    The numbers of a picture with a palette are labels, as in Pascal VOC.
    """
    array = read(path)
    fits = array.shape in (image_shape, image_shape[:-1])
    if fits and array.shape != (*image_shape[:-1], 3) and array.dtype.kind in "iu":
        return Scribbles(array, None)
    if fits and array.dtype == np.bool_:
        return Scribbles(array.astype(np.uint8), None)
    if array.shape[:2] == image_shape[:2] and array.ndim == 3 and array.dtype == np.uint8:
        if array.shape[-1] in (2, 4):
            array = np.where(array[..., -1:] > 0, array[..., :-1], 0)
        if array.shape[-1] == 1:
            return Scribbles(array[..., 0], None)
        if (array == array[..., :1]).all():  # grey numbers that were saved as colours
            return Scribbles(array[..., 0], None)
        codes = array.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        colours = np.unique(codes[codes > 0])
        if len(colours) > _MOST_COLOURS:
            raise ValueError(
                f"{path} has {len(colours)} colours, expected a class each, at most {_MOST_COLOURS}: save "
                "scribbles as PNG, without smoothing, on black or transparent"
            )
        labels = np.searchsorted(colours, codes) + 1
        labels[codes == 0] = 0
        parts = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1)
        return Scribbles(labels, parts.astype(np.uint8))
    raise ValueError(
        f"{path} of shape {array.shape} and dtype {array.dtype} does not fit an image of shape "
        f"{image_shape}: expected integer labels or 8-bit colours of the same size"
    )


def write(path: Path, array: Array) -> None:
    """Write an array, whose dtype the format must be able to hold."""
    if path.suffix.lower() == ".npy":
        np.save(path, array)
        return
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        tifffile.imwrite(path, array)
        return
    from PIL import Image

    Image.fromarray(array).save(path)


def write_labels(path: Path, labels: Array, colours: NDArray[np.uint8] | None = None) -> None:
    """Write labels: as colours into a PNG if they came as such, as numbers otherwise."""
    if path.suffix.lower() == ".npy":
        write(path, labels)
        return
    if path.suffix.lower() == ".png" and colours is not None:
        write(path, np.concatenate([np.zeros((1, 3), np.uint8), colours])[labels])
        return
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or high > 65535:
        raise ValueError(f"labels from {low} to {high} do not fit {path.suffix}: write them to .npy")
    check_fits(path, labels.shape)
    write(path, labels.astype(np.uint8 if high < 256 else np.uint16))


def check_fits(path: Path, shape: tuple[int, ...]) -> None:
    """Refuse to write numbers of more than two axes to a picture."""
    if path.suffix.lower() == ".png" and len(shape) != 2:
        raise ValueError(f"an array of shape {shape} does not fit a .png: write it to .tif or .npy")


def grey(unit: Array) -> NDArray[np.uint8]:
    """Return numbers in [0, 1] as 8-bit grey."""
    return np.asarray(np.clip(unit, 0, 1) * 255 + 0.5, np.uint8)


def overlay(image: Array, labels: Array, colours: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Return the image (H, W) or (H, W, C) under its labels' colours, with their borders drawn."""
    if labels.ndim != 2:
        raise ValueError(f"an overlay needs a 2-D image, got labels of shape {labels.shape}")
    picture = image.astype(float)
    if picture.ndim == 3:
        picture = picture if picture.shape[-1] == 3 else picture.mean(-1)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=-1)
    low, high = picture.min(initial=0), picture.max(initial=0)
    if image.dtype == np.uint8:
        low, high = 0, 255
    picture = (picture - low) / (high - low if high > low else 1)
    values, index = np.unique(labels, return_inverse=True)
    palette = (
        _palette(values) if colours is None else np.concatenate([np.zeros((1, 3)), colours / 255])[values]
    )
    paint = palette[index.reshape(labels.shape)]
    weight = np.where(labels > 0, 0.45, 0.0)[..., None]
    picture = picture * (1 - weight) + paint * weight
    border = np.zeros(labels.shape, bool)
    border[1:] |= labels[1:] != labels[:-1]
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    picture[border] = 1
    return grey(picture)


def _palette(labels: Array) -> NDArray[np.float64]:
    """Return a colour in [0, 1] for each label, hues a golden angle apart."""
    hue = np.mod(labels * 0.61803398875, 1)[:, None] * 6
    return np.asarray(np.clip(np.abs(np.mod(hue + np.array([0, 4, 2]), 6) - 3) - 1, 0, 1) * 0.9)
