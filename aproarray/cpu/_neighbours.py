"""PAMR and pairwise affinities: a weight for each neighbour in a window, and averages with it (Numba).

Images are padded on all sides and flattened. A step to another pixel is then a shift, in any number of
dimensions. *Lines* are the rows of pixels along the last axis. Loops are vectorised along lines.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aproarray import _edges, _zeta
from aproarray.cpu import _workers
from aproarray.cpu._compile import compiled

Array = NDArray[Any]


class _Padded:
    """Where pixels of images of `shape` lie once they are padded by the reach of some steps.

    A step that leaves the image along an axis may as well be the shortest one that does, from every pixel.
    """

    def __init__(self, shape: tuple[int, ...], steps: list[tuple[int, ...]]):
        steps = [
            tuple(max(-extent, min(along, extent)) for along, extent in zip(step, shape, strict=True))
            for step in steps
        ]
        self._reach = [max((abs(step[axis]) for step in steps), default=0) for axis in range(len(shape))]
        self._shape = tuple(extent + 2 * reach for extent, reach in zip(shape, self._reach, strict=True))
        lines = np.indices(shape[:-1]).reshape(len(shape) - 1, math.prod(shape[:-1]))
        firsts = np.array([*lines, np.zeros(lines.shape[1], np.intp)]) + np.array(self._reach)[:, None]
        self.starts = np.ravel_multi_index(tuple(firsts), self._shape) if 0 not in shape else firsts[0]
        self.shifts = _edges.flat_steps(self._shape, steps)
        self._inside = tuple(
            slice(reach, reach + extent) for extent, reach in zip(shape, self._reach, strict=True)
        )
        self._extents = shape

    def planes(self, pixels: Array, mode: str) -> Array:
        """Return pixels (N, C) as padded planes (C, P); modes are those of `numpy.pad`."""
        planes = pixels.T.reshape(pixels.shape[1], *self._extents)
        padded = np.pad(planes, [(0, 0), *((reach, reach) for reach in self._reach)], mode)  # type: ignore[call-overload]
        return np.ascontiguousarray(padded).reshape(len(planes), math.prod(self._shape))

    def pixels(self, planes: Array) -> Array:
        """Return the pixels (N, C) of padded planes (C, P)."""
        inside = planes.reshape(len(planes), *self._shape)[(slice(None), *self._inside)]
        return inside.reshape(len(planes), math.prod(self._extents)).T


# Indices are unsigned: Numba wraps negative ones round, at the price of the vector loop.
@compiled
def _weigh_lines(planes, starts, shifts, length, n_centres, first, last, weights):
    """weights (K, N) <- PAMR's softmax over the K steps for lines [first, last) of planes (C, P).

    Deviations are those of all neighbours and of the centre, which counts `n_centres` times.
    """
    n_steps, n_channels = np.uint64(len(shifts)), np.uint64(len(planes))
    n_samples = n_steps + n_centres
    mean = np.empty(length, planes.dtype)
    scale = np.empty(length, planes.dtype)
    for line in range(first, last):
        start, pixel = starts[line], line * length
        for k in range(n_steps):
            for x in range(length):
                weights[k, pixel + x] = 0
        for c in range(n_channels):
            plane = planes[c]
            for x in range(length):
                mean[x] = n_centres * plane[start + x]
            for k in range(n_steps):
                there = start + shifts[k]
                for x in range(length):
                    mean[x] += plane[there + x]
            for x in range(length):
                mean[x] /= n_samples
                scale[x] = n_centres * (plane[start + x] - mean[x]) ** 2
            for k in range(n_steps):
                there = start + shifts[k]
                for x in range(length):
                    scale[x] += (plane[there + x] - mean[x]) ** 2
            for x in range(length):
                deviation = math.sqrt(scale[x] / (n_samples - np.uint64(1)))
                scale[x] = 1 / ((1e-8 + 0.1 * deviation) * n_channels)
            for k in range(n_steps):
                there = start + shifts[k]
                for x in range(length):
                    weights[k, pixel + x] += abs(plane[start + x] - plane[there + x]) * scale[x]
        # softmax(-weights)
        least, total = mean, scale
        for x in range(length):
            least[x] = weights[0, pixel + x]
            total[x] = 0
        for k in range(n_steps):
            for x in range(length):
                least[x] = min(least[x], weights[k, pixel + x])
        for k in range(n_steps):
            for x in range(length):
                w = math.exp(least[x] - weights[k, pixel + x])
                weights[k, pixel + x] = w
                total[x] += w
        for k in range(n_steps):
            for x in range(length):
                weights[k, pixel + x] /= total[x]


@compiled
def _average_lines(planes, starts, shifts, length, weights, first, last, target):
    """target <- sums over the steps of weights (K, N) and planes (C, P), for lines [first, last)."""
    total = np.empty(length, planes.dtype)
    for line in range(first, last):
        start, pixel = starts[line], line * length
        for c in range(np.uint64(len(planes))):
            plane = planes[c]
            for x in range(length):
                total[x] = 0
            for k in range(np.uint64(len(shifts))):
                there = start + shifts[k]
                for x in range(length):
                    total[x] += weights[k, pixel + x] * plane[there + x]
            for x in range(length):
                target[c, start + x] = total[x]


@compiled
def _relate_lines(planes, valid, starts, shifts, length, scale, first, last, out):
    """out (K, N) <- exp(-|I_i - I_j| * scale) for lines [first, last), 0 where a pixel is not valid."""
    distance = np.empty(length, planes.dtype)
    for line in range(first, last):
        start, pixel = starts[line], line * length
        for k in range(np.uint64(len(shifts))):
            there = start + shifts[k]
            for x in range(length):
                distance[x] = 0
            for c in range(np.uint64(len(planes))):
                plane = planes[c]
                for x in range(length):
                    distance[x] += (plane[start + x] - plane[there + x]) ** 2
            for x in range(length):
                both = valid[start + x] & valid[there + x]
                out[k, pixel + x] = math.exp(-math.sqrt(distance[x]) * scale) if both else 0


def pamr(
    values: Array,
    out: Array,
    images: Array,
    shape: tuple[int, ...],
    image_index: Array,
    dilations: tuple[int, ...],
    iterations: int,
    workers: int,
) -> None:
    """Average values (I, N, C) into out, item i on image image_index[i] of images (G, N, Ci)."""
    if out.size == 0:
        return
    steps = _edges.dilated_steps(len(shape), dilations)
    padded = _Padded(shape, steps)
    starts, shifts = padded.starts.astype(np.uint64), padded.shifts.astype(np.uint64)  # modulo 2^64
    length = np.uint64(shape[-1])
    lines = [
        (np.uint64(first), np.uint64(last))
        for first, last in _workers.ranges(len(starts), workers, len(steps) * shape[-1])
    ]
    for g in np.unique(image_index):
        planes = padded.planes(images[g], "edge")
        weights = np.empty((len(steps), images.shape[1]), images.dtype)
        n_centres = np.uint64(len(dilations))
        _workers.run(
            [
                functools.partial(_weigh_lines, planes, starts, shifts, length, n_centres, *part, weights)
                for part in lines
            ],
            workers,
        )
        weights = weights.astype(values.dtype, copy=False)
        for i in np.flatnonzero(image_index == g):
            phi = values[i]
            for _ in range(iterations):
                planes = padded.planes(phi, "edge")
                target = np.empty_like(planes)
                _workers.run(
                    [
                        functools.partial(
                            _average_lines, planes, starts, shifts, length, weights, *part, target
                        )
                        for part in lines
                    ],
                    workers,
                )
                phi = padded.pixels(target)
            out[i] = phi


def pairwise_affinities(
    images: Array,
    shape: tuple[int, ...],
    masks: Array | None,
    theta: float,
    radii: tuple[int, ...],
    dilation: int,
    out: Array,
    workers: int,
) -> None:
    """Fill out (G, K, N) with exp(-|I_i - I_j| / theta) of images (G, N, Ci), for K `_edges.box_steps`.

    0 where a pixel of masks (G or 1, N), or the other pixel, is not there.
    """
    if out.size == 0:
        return
    padded = _Padded(shape, _edges.box_steps(radii, dilation))
    starts, shifts = padded.starts.astype(np.uint64), padded.shifts.astype(np.uint64)
    scale = images.dtype.type(_zeta.inverse(theta, images.dtype))

    length = np.uint64(shape[-1])

    def one_image(g: int) -> None:
        mask = np.ones(images.shape[1], bool) if masks is None else masks[g % len(masks)]
        planes = padded.planes(np.where(mask[:, None], images[g], 0), "constant")
        valid = padded.planes(mask[:, None], "constant")[0]

        def some_lines(first: int, last: int) -> None:
            part = np.uint64(first), np.uint64(last)
            _relate_lines(planes, valid, starts, shifts, length, scale, *part, out[g])

        _workers.run_ranges(some_lines, len(starts), -(-workers // len(images)), shape[-1])

    _workers.run([functools.partial(one_image, g) for g in range(len(images))], workers)
