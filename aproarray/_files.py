"""Pictures and arrays in files: the command line's reading and writing.

NPY needs nothing, TIFF needs tifffile, NIfTI needs nibabel, a zarr folder zarr, and all other pictures need
Pillow. Each is imported when a file asks for it. `aproarray._paint` says which classes the colours of a
picture are.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import math
import os
import re
import shutil
import stat
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".nii", ".nii.gz", ".zarr")
_TIFF = (".tif", ".tiff")
_NIFTI = (".nii", ".nii.gz")

# Pillow knows the names of these formats. It reads them with another program, or not at all.
_UNREAD_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


class FileError(ValueError):
    """A file that cannot be used. The message names it."""


@dataclass(frozen=True)
class Raster:
    """A file's array, upright, and what the file says of it."""

    path: Path
    values: Array
    """Spatial axes, then channels if there are any. An alpha channel is not among them."""
    channels: bool | None = None
    """Whether the last axis holds channels; None: the file does not say."""
    alpha: NDArray[np.uint8] | None = None
    """Of the spatial shape: 0 where the picture is transparent, 255 where it hides what is below."""
    palette: NDArray[np.uint8] | None = None
    """(K, 4), the RGBA colours of the indices that `values` then holds."""
    nodata: float | None = None
    """The number that stands for no data (GDAL's tag in TIFF)."""
    spacing: tuple[float, ...] | None = None
    """Extents of a voxel, in millimetres."""
    affine: Array | None = None
    """From a voxel's index to the scanner's coordinates (NIfTI)."""

    @property
    def opaque(self) -> NDArray[np.bool_] | None:
        """Where the picture is not more transparent than opaque; None: everywhere."""
        return None if self.alpha is None else self.alpha >= 128

    @property
    def soft(self) -> bool:
        """Whether some pixels are neither transparent nor opaque: the borders of smooth strokes."""
        return self.alpha is not None and bool(((self.alpha > 0) & (self.alpha < 255)).any())

    @property
    def spatial_shapes(self) -> list[tuple[int, ...]]:
        """The spatial shape; both possible ones where the file does not say whether it has channels."""
        shape = self.values.shape
        return [shape] * (self.channels is not True) + [shape[:-1]] * (self.channels is not False)


def listed(pattern: str) -> list[Path]:
    """Return the image files that a file name, a folder or a glob pattern stands for, sorted."""
    path = Path(pattern)
    if is_folder(path):
        known = _image_suffixes()
        files = [file for file in path.iterdir() if not hidden(file) and suffix(file) in known]
    elif is_image(path):
        files = [path]
    else:
        files = [Path(name) for name in glob.glob(pattern, recursive=True) if is_image(Path(name))]
    if not files:
        raise FileError(f"no image files at {pattern}")
    return sorted(set(files))  # a pattern with ** finds some files twice


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder of files: one of zarr is an array."""
    return path.is_dir() and suffix(path) != ".zarr"


def is_image(path: Path) -> bool:
    """Return whether a path may hold an image."""
    return path.is_file() or (path.is_dir() and suffix(path) == ".zarr")


def hidden(path: Path) -> bool:
    """Return whether a file is hidden, as macOS's ._photo.png beside photo.png, which holds no picture."""
    return path.name.startswith(".")


def suffix(path: Path) -> str:
    """Return how a file's name ends, in lower case: .nii.gz is one suffix."""
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def stem(path: Path) -> str:
    """Return a file's name without its suffix."""
    return path.name[: len(path.name) - len(suffix(path))]


def _image_suffixes() -> set[str]:
    """Return the suffixes of all files that can be read here."""
    suffixes = {".npy", ".zarr", *_TIFF, *_NIFTI}
    with contextlib.suppress(ModuleNotFoundError):
        from PIL import Image

        Image.init()
        for ending, name in Image.registered_extensions().items():
            if name in Image.OPEN and name not in _UNREAD_FORMATS:
                suffixes.add(ending)
    return suffixes


def read(path: Path, *, any_size: bool = False) -> Raster:
    """Return what is in a file; a picture above Pillow's limit of pixels only if it may have any size."""
    if not is_image(path):
        raise FileError(f"no file {path}")
    ending = suffix(path)
    if ending == ".zarr":
        with reading(path):
            return Raster(path, np.asarray(zarr_array(path)[...]))
    if ending == ".npy":
        with reading(path), path.open("rb") as file:
            return Raster(path, np.lib.format.read_array(file))  # np.load would also open archives
    if ending in _TIFF:
        return _read_tiff(path, any_size)
    if ending in _NIFTI:
        return _read_nifti(path)
    return _read_picture(path, any_size)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file in what a reader raises, which for a damaged file can be any exception."""
    try:
        yield
    except (FileError, MemoryError):
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        reason = reason.replace(f" {str(path)!r}", "")
        raise FileError(f"{path} cannot be read: {reason}") from error


def _read_nifti(path: Path) -> Raster:
    import nibabel

    with reading(path):
        image = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
        spacing = tuple(float(extent) for extent in image.header.get_zooms()[:3])
        return Raster(path, values, channels=values.ndim > 3, spacing=spacing, affine=image.affine)


def _read_tiff(path: Path, any_size: bool) -> Raster:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong is said by exceptions
    with reading(path), tifffile.TiffFile(path) as file:
        series = file.series[0]
        page = series.keyframe
        try:
            values = np.asarray(series.asarray())
        except (NotImplementedError, ValueError) as error:
            if not re.search("imagecodecs|not supported", str(error)):  # older ones say the second
                raise
            return _read_tiff_by_pillow(path, series, any_size, error)
        spatial, axes = _channels_last(values, series.axes)
        alpha = None
        if "S" in series.axes:
            spatial, alpha = _without_alpha(spatial, [int(extra) for extra in page.extrasamples])
        nodata = nodata_of(page)
        palette = None
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
            colours = (page.colormap.T >> 8).astype(np.uint8)
            palette = np.concatenate([colours, np.full((len(colours), 1), 255, np.uint8)], axis=1)
        orientation = page.tags.valueof(274, default=1)
        if "Y" in axes and "X" in axes:
            at = axes.index("Y"), axes.index("X")
            spatial = _upright(spatial, orientation, *at)
            alpha = None if alpha is None else _upright(alpha, orientation, *at)
        channels: bool | None = any(axis in "SC" for axis in series.axes)
        if not channels and "Q" in series.axes and spatial.ndim > 2:
            channels = None  # an array that was saved without a word about its axes
        return Raster(path, spatial, channels, alpha, palette, nodata)


def nodata_of(page: Any) -> float | None:
    """Return the number that GDAL's tag says stands for no data."""
    tag = page.tags.valueof(42113)
    try:
        return None if tag is None else float(str(tag).strip(" \0"))
    except ValueError:
        return None


def _channels_last(values: Array, axes: str) -> tuple[Array, str]:
    """Return an array of tifffile's axes with its samples and channels last, as one axis; and the others."""
    found = [at for at, axis in enumerate(axes) if axis in "CS"]
    rest = "".join(axis for axis in axes if axis not in "CS")
    if not found:
        return values, rest
    values = np.moveaxis(values, found, range(-len(found), 0))
    return values.reshape(*values.shape[: len(rest)], -1), rest


def _without_alpha(values: Array, extra_samples: list[int]) -> tuple[Array, NDArray[np.uint8] | None]:
    """Return the samples that are no alpha, and alpha."""
    first = values.shape[-1] - len(extra_samples)
    alphas = [first + at for at, kind in enumerate(extra_samples) if kind in (1, 2)]  # TIFF 6.0, page 31
    if not alphas:
        return values, None
    alpha = values[..., alphas[0]]
    full = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1
    return np.delete(values, alphas, axis=-1), np.asarray(np.rint(alpha * (255 / full)), np.uint8)


def _upright(values: Array, orientation: int, y: int, x: int) -> Array:
    """Return an array as it is to be seen; orientations are those of TIFF and EXIF."""
    if orientation in (5, 6, 7, 8):
        values = np.swapaxes(values, y, x)
    if orientation in (3, 4, 7, 8):
        values = np.flip(values, y)
    if orientation in (2, 3, 6, 7):
        values = np.flip(values, x)
    return values


def _read_tiff_by_pillow(path: Path, series: Any, any_size: bool, error: Exception) -> Raster:
    """Read what tifffile needs imagecodecs for, where Pillow reads all of it."""
    page = series.keyframe
    advice = FileError(f"{path} cannot be read: {error}: pip install imagecodecs")
    try:
        from PIL import Image, ImageSequence

        with _pixel_limit(path, any_size), Image.open(path) as opened:
            if len(series.pages) > 1:
                if page.samplesperpixel > 1:
                    raise advice
                frames = [np.asarray(frame) for frame in ImageSequence.Iterator(opened)]
                values, _ = _channels_last(np.stack(frames).reshape(series.shape), series.axes)
                raster = Raster(path, values, "C" in series.axes, nodata=nodata_of(page))
            else:
                opened.load()  # which also turns it upright
                raster = _picture(path, opened, nodata_of(page))
    except (ModuleNotFoundError, OSError, SyntaxError, ValueError) as second:
        if isinstance(second, FileError) and second is not advice:
            raise
        raise advice from error
    n_alpha = sum(int(extra) in (1, 2) for extra in page.extrasamples)
    n_read = raster.values.shape[-1] if raster.channels and len(series.pages) == 1 else 1
    if len(series.pages) == 1 and n_read != page.samplesperpixel - n_alpha:
        raise advice from error  # Pillow leaves out bands that it has no colour for
    if page.bitspersample in (2, 4) and raster.palette is None:  # Pillow stretches these to 8 bits
        step = 255 // (2**page.bitspersample - 1)
        raster = Raster(path, raster.values // step, raster.channels, raster.alpha, None, raster.nodata)
    return raster


def _read_picture(path: Path, any_size: bool) -> Raster:
    from PIL import Image, ImageOps

    with reading(path), _pixel_limit(path, any_size), Image.open(path) as opened:
        return _picture(path, ImageOps.exif_transpose(opened))


@contextlib.contextmanager
def _pixel_limit(path: Path, any_size: bool) -> Iterator[None]:
    """Lift Pillow's limit of pixels, or say how to; its warning below the limit is no news."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None if any_size else limit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except Image.DecompressionBombError as error:
        raise FileError(
            f"{path} has more than {2 * (limit or 0) // 10**6} megapixels: give --any-size to read it"
        ) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _picture(path: Path, picture: Any, nodata: float | None = None) -> Raster:
    """Return a Pillow image that is upright."""
    if picture.mode == "P":
        return Raster(path, np.array(picture), False, palette=_palette(picture), nodata=nodata)
    converted = {"PA": "RGBA", "RGBa": "RGBA", "La": "LA", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
    if "transparency" in picture.info and picture.mode in ("1", "L", "RGB"):  # one colour is transparent
        picture = picture.convert("RGBA" if picture.mode == "RGB" else "LA")
    elif picture.mode in converted:
        picture = picture.convert(converted[picture.mode])
    values, alpha = np.array(picture), None
    if picture.mode in ("RGBA", "LA"):
        values, alpha = values[..., :-1], values[..., -1]
    if picture.mode == "LA":
        values = values[..., 0]
    return Raster(path, values, values.ndim == 3, alpha, nodata=nodata)


def _palette(picture: Any) -> NDArray[np.uint8]:
    """Return the 256 RGBA colours of a picture's indices: those that it does not name are black."""
    palette = np.zeros((256, 4), np.uint8)
    colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette[: len(colours), :3] = colours
    palette[:, 3] = 255
    transparency = picture.info.get("transparency")
    if isinstance(transparency, bytes):
        palette[: len(transparency), 3] = np.frombuffer(transparency, np.uint8)
    elif transparency is not None:
        palette[transparency, 3] = 0
    return palette


def image_of(raster: Raster) -> Array:
    """Return a file's array as an image to compute with: indices become colours."""
    if raster.palette is None:
        return raster.values
    colours = raster.palette[np.minimum(raster.values, len(raster.palette) - 1), :3]
    grey_ones = bool((colours == colours[..., :1]).all())
    return colours[..., 0] if grey_ones else colours


def valid(image: Array, n_spatial: int, nodata: float | None) -> NDArray[np.bool_] | None:
    """Return where an image holds data, None: everywhere.

    A pixel without data is nodata in all its bands (0 in one band is a colour), or not finite in one of them.
    """
    bands = image.reshape(*image.shape[:n_spatial], -1)
    missing = np.zeros(image.shape[:n_spatial], bool)
    if nodata is not None and not math.isnan(nodata):
        number = image.dtype.type(nodata) if image.dtype.kind == "f" else nodata  # as the file rounds it
        missing |= (bands == number).all(-1)
    if image.dtype.kind in "fc":
        missing |= ~np.isfinite(bands).all(-1)
    return ~missing if missing.any() else None


def read_mask(path: Path, spatial_shape: tuple[int, ...], *, any_size: bool = False) -> NDArray[np.bool_]:
    """Return where a file's pixels are neither 0, black nor transparent."""
    raster = read(path, any_size=any_size)
    values = image_of(raster)
    if values.ndim == len(spatial_shape) + 1 and (raster.channels or raster.palette is not None):
        values = (values != 0).any(-1)
    _check_numbers(path, raster, values, spatial_shape, " (0: leave it out)")
    inside: NDArray[np.bool_] = (values != 0) & ~np.isnan(values)
    return inside if raster.opaque is None else inside & raster.opaque


def read_edges(path: Path, spatial_shape: tuple[int, ...], *, any_size: bool = False) -> Array:
    """Return a file's map of boundaries: numbers, or the grey of a picture."""
    raster = read(path, any_size=any_size)
    values = image_of(raster)
    if values.ndim == len(spatial_shape) + 1 and raster.channels and (values == values[..., :1]).all():
        values = values[..., 0]
    _check_numbers(path, raster, values, spatial_shape, ", a map of boundaries")
    return values


def read_features(path: Path, spatial_shape: tuple[int, ...], *, any_size: bool = False) -> Array:
    """Return a file's features: numbers for each pixel, on a last axis."""
    raster = read(path, any_size=any_size)
    values = image_of(raster)
    if values.shape == spatial_shape:
        values = values[..., None]
    if values.shape[:-1] == spatial_shape:
        spatial_shape = values.shape
    _check_numbers(path, raster, values, spatial_shape, ", features")
    return values


def _check_numbers(
    path: Path, raster: Raster, values: Array, spatial_shape: tuple[int, ...], purpose: str
) -> None:
    """Refuse a file whose values are not one number for each pixel of an image."""
    if values.shape != spatial_shape:
        raise FileError(
            f"{path} of shape {raster.values.shape} does not fit an image of {spatial_shape} pixels"
        )
    if values.dtype.kind not in "biuf":
        raise FileError(f"{path} must hold a number for each pixel{purpose}, got {values.dtype}")


def write(path: Path, array: Array, *, coloured: bool = False, like: Raster | None = None) -> None:
    """Write an array, or colours (H, W, 3), of a dtype that the format holds; NIfTI lies as `like` does."""
    writer: Callable[[Path], None]
    if suffix(path) == ".npy":

        def writer(beside: Path) -> None:
            with beside.open("wb") as file:  # which need not be one that seeks: a pipe
                stream: Any = types.SimpleNamespace(write=file.write)
                np.save(stream, array)

    elif suffix(path) == ".zarr":
        import zarr

        write_folder(path, lambda beside: zarr.create_array(beside, data=array, overwrite=True))
        return

    elif suffix(path) in _TIFF:
        import tifffile

        axes = {"axes": "ZYX"} if array.ndim == 3 and not coloured else {}

        def writer(beside: Path) -> None:
            tifffile.imwrite(beside, array, photometric="rgb" if coloured else "minisblack", metadata=axes)

    elif suffix(path) in _NIFTI:
        import nibabel

        affine = np.eye(4) if like is None or like.affine is None else like.affine

        def writer(beside: Path) -> None:
            nibabel.save(nibabel.Nifti1Image(array, affine), beside)

    else:
        from PIL import Image

        def writer(beside: Path) -> None:
            Image.fromarray(array).save(beside)

    write_whole(path, writer)


def write_whole(path: Path, writer: Callable[[Path], None]) -> None:
    """Write a file beside, then move it into place: whatever goes wrong, the old file stays as it was."""
    try:
        _write_beside(path, writer)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error


def _write_beside(path: Path, writer: Callable[[Path], None]) -> None:
    try:
        status: os.stat_result | None = path.stat()
    except FileNotFoundError:
        status = None
    if status is not None and not stat.S_ISREG(status.st_mode):
        writer(path)  # a device or a pipe has no old content
        return
    place = Path(os.path.realpath(path))  # a link stays a link
    handle, name = tempfile.mkstemp(prefix=".", suffix=suffix(path), dir=place.parent)
    os.close(handle)
    beside = Path(name)
    try:
        writer(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())  # some disks say only now that they are full
        beside.chmod(stat.S_IMODE(status.st_mode) if status is not None else 0o666 & ~_umask())
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def write_folder(path: Path, writer: Callable[[Path], Any]) -> None:
    """Write a folder beside, then move it into place: whatever goes wrong, the old one stays as it was."""
    beside = Path(tempfile.mkdtemp(prefix=".", suffix=suffix(path), dir=path.parent))
    old = Path(tempfile.mkdtemp(prefix=".", dir=path.parent))
    try:
        writer(beside)
        beside.chmod(0o777 & ~_umask())
        with contextlib.suppress(FileNotFoundError):
            path.replace(old / path.name)
        beside.replace(path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def zarr_array(path: Path) -> Any:
    """Return the array in a zarr folder: of a group, the first of its arrays, which OME names 0."""
    import zarr

    found = zarr.open(path, mode="r")
    if isinstance(found, zarr.Group):
        names = sorted(found.array_keys())
        if not names:
            raise FileError(f"{path} is a zarr group without arrays: name one of the folders in it")
        found = found[names[0]]
    return found


def _umask() -> int:
    """Return which permissions new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_labels(path: Path, labels: Array, *, colours: Array | None = None, like: Raster) -> None:
    """Write labels: as colours (K, 3) of labels 1 to K into a PNG if they came as such, or as numbers."""
    ending = suffix(path)
    if ending in (".npy", ".zarr"):
        write(path, labels)
        return
    check_fits(path, labels.shape)
    if ending == ".png" and colours is not None:
        write(path, np.concatenate([np.zeros((1, 3), np.uint8), colours])[np.maximum(labels, 0)])
        return
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    held = (np.uint8, np.uint16) if ending == ".png" else (np.uint8, np.uint16, np.uint32, np.int32)
    for dtype in held:
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            write(path, labels.astype(dtype), like=like)
            return
    wider = ".npy" if ending != ".png" or low < -(2**31) or high >= 2**32 else ".tif or .npy"
    raise FileError(f"{path}: labels from {low} to {high} do not fit {ending}: write them to {wider}")


def check_fits(path: Path, shape: tuple[int, ...]) -> None:
    """Refuse to write numbers of more than two axes to a picture."""
    if suffix(path) == ".png" and len(shape) != 2:
        raise FileError(f"{path}: an array of shape {shape} does not fit a .png: write it to .tif or .npy")
