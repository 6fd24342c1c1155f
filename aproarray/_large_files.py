"""Images in files that are larger than memory: zarr, and TIFF in tiles, as dask arrays.

Reading needs dask and zarr, and tifffile for TIFF. Each is imported when a file asks for it.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aproarray import _files
from aproarray._files import FileError

# Pixels along the sides of what is computed together: chunks of files are put together to that.
_SIDE = {1: 1 << 22, 2: 2048, 3: 192}


def is_larger(path: Path, megapixels: float) -> bool:
    """Return whether a file holds an image in chunks of more than so many megapixels."""
    shape = _shape(path)
    return shape is not None and math.prod(shape) > megapixels * 1e6


def _shape(path: Path) -> tuple[int, ...] | None:
    """Return the spatial shape of a file that can be read in chunks; None: it cannot."""
    with _files.reading(path):
        if _files.suffix(path) == ".zarr":
            shape = _files.zarr_array(path).shape
        elif _files.suffix(path) in (".tif", ".tiff") and path.is_file():
            import tifffile

            with tifffile.TiffFile(path) as file:
                series = file.series[0]
                page = series.keyframe
                upright = page.tags.valueof(274, default=1) == 1
                if not upright or page.photometric == tifffile.PHOTOMETRIC.PALETTE:
                    return None
                if len(series.pages) == 1 and len(page.dataoffsets) == 1:  # one strip: one chunk
                    return None
                return tuple(
                    extent for extent, axis in zip(series.shape, series.axes, strict=True) if axis not in "CS"
                )
        else:
            return None
    spatial: tuple[int, ...] = shape if len(shape) < 3 or shape[-1] > 4 else shape[:-1]
    return spatial


@contextlib.contextmanager
def opened(path: Path) -> Iterator[_files.Raster]:
    """Open a file's image, channels last, as a dask array that is read when it is needed."""
    import dask.array as da

    with contextlib.ExitStack() as stack:
        with _files.reading(path):
            if _files.suffix(path) == ".zarr":
                array, axes, nodata = _files.zarr_array(path), None, None
            else:
                array, axes, nodata = _tiff_array(path, stack)
            values = da.from_array(array, chunks=_chunks(array.shape, array.chunks))
        found = [at for at, axis in enumerate(axes or "") if axis in "CS"]
        if len(found) > 1:
            raise FileError(f"{path} has axes {axes}: of an image in chunks, one of them may hold channels")
        if found:
            values = da.moveaxis(values, found[0], -1)
        yield _files.Raster(path, values, None if axes is None else bool(found), nodata=nodata)


def _tiff_array(path: Path, stack: contextlib.ExitStack) -> tuple[Any, str, float | None]:
    """Return the array in a TIFF file, which the stack closes, its axes, and what stands for no data."""
    import tifffile
    import zarr

    with tifffile.TiffFile(path) as file:
        axes, nodata = file.series[0].axes, _files.nodata_of(file.series[0].keyframe)
    store = tifffile.imread(path, aszarr=True, level=0, series=0)
    stack.callback(store.close)
    return zarr.open(store, mode="r"), axes, nodata


def _chunks(shape: tuple[int, ...], own: tuple[int, ...]) -> tuple[int, ...]:
    """Return chunks of some millions of pixels, made of the file's own."""
    n_long = sum(extent > 4 for extent in shape)
    side = _SIDE.get(n_long, 64)
    return tuple(
        extent if extent <= 4 else min(extent, max(1, side // chunk) * chunk)
        for extent, chunk in zip(shape, own, strict=True)
    )


def valid(image: Any, n_spatial: int, nodata: float | None) -> Any:
    """Return where a dask array holds data, None: everywhere that can be told now; see `_files.valid`."""
    if image.dtype.kind not in "fc" and (nodata is None or math.isnan(nodata)):
        return None
    bands = image if image.ndim > n_spatial else image[..., None]
    bands = bands.rechunk({bands.ndim - 1: -1})
    return bands.map_blocks(
        _is_valid, n_spatial=n_spatial, nodata=nodata, drop_axis=bands.ndim - 1, dtype=bool,
        meta=np.empty((0,) * n_spatial, bool),
    )  # fmt: skip


def _is_valid(block: Any, n_spatial: int, nodata: float | None) -> Any:
    found = _files.valid(block, n_spatial, nodata)
    return np.ones(block.shape[:n_spatial], bool) if found is None else found


def write(path: Path, array: Any, progress: bool) -> Any:
    """Compute a dask array into a zarr folder, and return it as it is there."""
    import dask.array as da
    from dask.diagnostics import ProgressBar

    def writer(beside: Path) -> None:
        with ProgressBar(out=sys.stderr) if progress else contextlib.nullcontext():
            da.to_zarr(array, str(beside), overwrite=True)

    _files.write_folder(path, writer)
    return da.from_zarr(str(path))
