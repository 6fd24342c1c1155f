"""Pictures of arrays for a browser, and the pixels under a brush: arrays in, bytes or pixels out."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# Speed counts: a picture goes to the browser after every stroke.
_COMPRESSION = 1
_GREY, _RGB, _INDEXED = 0, 2, 3
# Shares of an image's numbers that are shown black, and white.
_DARKEST, _BRIGHTEST = 0.5, 99.5
_SAMPLED = 1 << 20


class Box(NamedTuple):
    """A rectangle of pixels: its first and its one after last row and column."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rectangle as an index."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def size(self) -> int:
        """The number of pixels."""
        return (self.bottom - self.top) * (self.right - self.left)

    def step(self, most: int) -> int:
        """Return the smallest step between pixels such that at most `most` of them are shown."""
        height, width = self.bottom - self.top, self.right - self.left
        step = max(math.isqrt(max(self.size // most, 1)), 1)
        while math.ceil(height / step) * math.ceil(width / step) > most:
            step += 1
        return step


def around(changed: NDArray[np.bool_]) -> Box | None:
    """Return the smallest box around all that is True; None: nothing is."""
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    if not rows.size:
        return None
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def png(pixels: NDArray[np.uint8], palette: NDArray[np.uint8] | None = None) -> bytes:
    """Return grey levels (H, W), colours (H, W, 3), or indices (H, W) of a palette (K, 3 or 4) as PNG."""
    kind = _INDEXED if palette is not None else _GREY if pixels.ndim == 2 else _RGB
    height, width = pixels.shape[:2]
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))]
    if palette is not None:
        parts.append((b"PLTE", palette[:, :3].tobytes()))
        if palette.shape[1] == 4:
            parts.append((b"tRNS", palette[:, 3].tobytes()))
    lines = np.zeros((height, 1 + pixels[0].size), np.uint8)  # the first byte of a line: not filtered
    lines[:, 1:] = pixels.reshape(height, -1)
    parts += [(b"IDAT", zlib.compress(lines.data, _COMPRESSION)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def every(pixels: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return the pixel in the middle of every `step` x `step` of (H, W), cut off at the borders."""
    return pixels[np.ix_(*(_middles(extent, step) for extent in pixels.shape))] if step > 1 else pixels


def _middles(extent: int, step: int) -> NDArray[np.intp]:
    return np.minimum(np.arange(0, extent, step) + step // 2, extent - 1)


def largest(pixels: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return the largest number of every `step` x `step` pixels of (H, W): thin lines stay."""
    return _reduced(np.maximum, pixels, step) if step > 1 else pixels


def _reduced(function: np.ufunc, pixels: Array, step: int, **options: Any) -> Array:
    for axis in (0, 1):
        starts = np.arange(0, pixels.shape[axis], step)
        pixels = function.reduceat(pixels, starts, axis=axis, **options)
    return pixels


class Shades:
    """How the numbers of an image (H, W, C) are shown: which is black, and which is white."""

    def __init__(self, image: Array, mask: NDArray[np.bool_] | None):
        """Look at a sample of the image's numbers, where `mask` is True."""
        self._image = image
        if image.dtype == np.uint8:
            self._low, self._high = 0.0, 255.0
            return
        every = max(math.isqrt(image.size // _SAMPLED), 1)
        sample = image[::every, ::every]
        sample = sample[np.isfinite(sample) if mask is None else mask[::every, ::every]].astype(float)
        sample = sample[np.isfinite(sample)]
        self._low, self._high = np.percentile(sample, [_DARKEST, _BRIGHTEST]) if sample.size else (0.0, 1.0)
        if self._low == self._high and sample.size:
            self._low, self._high = float(sample.min()), float(sample.max())

    def picture(self, box: Box, step: int) -> NDArray[np.uint8]:
        """Return the mean of every `step` x `step` pixels of a box as grey levels or colours."""
        pixels = self._image[box.slices]
        n_channels = pixels.shape[-1]
        pixels = pixels[..., :3] if n_channels in (3, 4) else pixels  # without alpha, or a fourth band
        if step > 1:
            height, width = pixels.shape[:2]
            counts = np.outer(_lengths(height, step), _lengths(width, step))[..., None]
            pixels = _reduced(np.add, pixels, step, dtype=np.float64) / counts
        elif pixels.dtype == np.uint8 and n_channels in (1, 3, 4):
            return pixels if n_channels > 1 else pixels[..., 0]
        else:
            pixels = pixels.astype(np.float64)
        if n_channels not in (3, 4):
            pixels = pixels.mean(-1)
        range_ = self._high - self._low
        unit = (pixels - self._low) / (range_ if range_ > 0 else 1)
        return np.asarray(np.clip(np.nan_to_num(unit), 0, 1) * 255 + 0.5, np.uint8)


def _lengths(extent: int, step: int) -> NDArray[np.intp]:
    """Return how many pixels each step holds: the last one may hold fewer."""
    starts = np.arange(0, extent, step)
    return np.minimum(starts + step, extent) - starts


def brushed(
    points: NDArray[np.float64], size: float, shape: tuple[int, ...]
) -> tuple[Box, NDArray[np.bool_]] | None:
    """Return a box and which of its pixels a round brush covers on its way; None: it is outside the image.

    Parameters
    ----------
    points : (N, 2) float64
        Rows and columns. Pixel (r, c) has its middle at (r + 0.5, c + 0.5).
    size : float
        The brush's diameter, in pixels.
    shape : (int, int)
        The image's.

    Returns
    -------
    Box, (h, w) bool array
        Pixels whose middle is at most half a diameter from the way, and those that hold a point.
    """
    limits = np.array(shape)
    radius = size / 2
    top_left = np.clip(np.floor(points.min(0) - radius), 0, limits).astype(int)
    bottom_right = np.clip(np.ceil(points.max(0) + radius) + 1, 0, limits).astype(int)
    if not (top_left < bottom_right).all():
        return None
    box = Box(*map(int, (*top_left, *bottom_right)))
    covered = np.zeros(bottom_right - top_left, bool)
    points = points - top_left
    ends = points[1:] if len(points) > 1 else points
    for start, end in zip(points, ends, strict=False):
        first = np.clip(np.floor(np.minimum(start, end) - radius), 0, covered.shape).astype(int)
        last = np.clip(np.ceil(np.maximum(start, end) + radius), 0, covered.shape).astype(int)
        row = np.arange(first[0], last[0])[:, None] + 0.5 - start[0]
        column = np.arange(first[1], last[1]) + 0.5 - start[1]
        way = end - start
        square = float(way @ way)
        along = np.clip((row * way[0] + column * way[1]) / square, 0, 1) if square > 0 else 0.0
        distance = (row - along * way[0]) ** 2 + (column - along * way[1]) ** 2
        covered[first[0] : last[0], first[1] : last[1]] |= distance <= radius**2
    held = np.floor(points).astype(int)
    held = held[((held >= 0) & (held < covered.shape)).all(1)]
    covered[held[:, 0], held[:, 1]] = True
    return box, covered
