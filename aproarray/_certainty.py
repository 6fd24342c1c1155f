"""How sure labels are: their probabilities, from forests that other noise and other scales would have given.

A label is certain where no image that might as well have been taken gives another one. The witnesses are the
forests of the reliefs themselves, twelve forests of reliefs that smooth noise disturbs, and one of a plain
image, which knows of distance alone. All but the first are at half the resolution. `cpu.tally` turns their
labels and the share of votes into probabilities. docs/quality.md says how well these are calibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aproarray import _edges, _relief, cpu

Array = NDArray[Any]

_DISTURBED = 12
_AMPLITUDE = 0.7  # standard deviation of the noise, by whose exponential a relief is multiplied
_SMOOTHED = (1, 2, 4)  # steps that smooth the noise, to 3.2 pixels of half the resolution

# A logistic regression of "the label is right": a constant, and the weights of the share of disturbed forests
# that agree with it, of the plain one, of the share of the reliefs' own forests, and of the share of votes.
_WEIGHTS = np.array([-6.3, 2.9, 1.0, 4.1, 2.4])


class Witnesses:
    """Forests of one image that follow the seeds as they change; see `probabilities`.

    `reliefs` (M, *shape) are those of the labels, `mask` (*shape) says which pixels take part, `spacing` is
    in units of its smallest number. Labels and seeds come in arrays of `shape` that are padded by `margin` on
    all sides.
    O(N) time. Holds 4 bytes per pixel, and 52 and more per pixel of half the resolution.
    """

    def __init__(
        self,
        reliefs: Array,
        mask: NDArray[np.bool_] | None,
        spacing: tuple[float, ...] | None,
        margin: int,
        workers: int,
    ):
        shape = reliefs.shape[1:]
        units = spacing or (1.0,) * len(shape)
        # Pixels that are twice as far apart along an axis as along others stay as they are along it.
        self._axes = [axis for axis, unit in enumerate(units) if unit < 2]
        self._within = tuple(slice(margin, margin + extent) for extent in shape)
        # Pixels that take no part are no part of a block. No label leaks through it then.
        self._mask = None if mask is None else _halved(mask, self._axes, np.logical_and)
        coarse = _halved(reliefs, [axis + 1 for axis in self._axes], lambda a, b: (a + b) / np.float32(2))
        padded = tuple(extent + 2 for extent in coarse.shape[1:])
        self._inner = (slice(1, -1),) * len(shape)
        self._padded = padded

        disturbed = np.zeros((_DISTURBED + 1, *padded), np.float32)  # the last one stays plain
        noise = np.exp(np.float32(_AMPLITUDE) * _noise(coarse.shape[1:], workers))
        for number, relief in enumerate(disturbed[:-1]):
            relief[self._inner] = noise[..., number] * coarse[number % len(coarse)]
        units = tuple(unit * 2 if axis in self._axes else unit for axis, unit in enumerate(units))
        self._floods = cpu.Floods(
            disturbed.reshape(len(disturbed), -1),
            _edges.flat_steps(padded, _edges.hops(len(padded))),
            padded,
            None if min(units) == max(units) else units,
        )
        blocks: NDArray[np.int32] = np.zeros(1, np.int32)
        for axis, (extent, at) in enumerate(zip(shape, padded, strict=True)):
            pixel = np.clip(np.arange(-margin, extent + margin), 0, extent - 1)
            block = 1 + (pixel // 2 if axis in self._axes else pixel)
            blocks = (blocks[:, None] * np.int32(at) + block.astype(np.int32)).reshape(-1)
        self._blocks = blocks

    def probabilities(
        self,
        seeds: NDArray[np.int32],
        names: list[Any],
        maps: NDArray[np.int32],
        labels: NDArray[np.int32],
        zones: NDArray[np.int32],
        shares: NDArray[np.float32],
        workers: int,
    ) -> None:
        """Put probabilities in place of the shares of votes (N, n_labels).

        `seeds` (padded shape) and `names` are those of `cpu.Floods.labels`, `maps` (M, N) the labels by each
        of the reliefs, `labels` (N) those that were chosen. Pixels of different `zones` (N, or no numbers)
        have nothing to do with one another.
        """
        coarse = np.full(self._padded, -1, np.int32)
        coarse[self._inner] = _halved(seeds[self._within], self._axes, np.maximum)
        if self._mask is not None:
            coarse[self._inner][~self._mask] = -1
        flat = seeds.reshape(-1)
        n_labels = shares.shape[1]
        chosen = np.flatnonzero((flat >= 0) & (labels > 0))
        at = labels[chosen] - 1
        if zones.size:
            at += n_labels * zones[chosen]
        n_zones = 1 + int(zones.max(initial=0))
        common = np.bincount(at, minlength=n_zones * n_labels).reshape(n_zones, n_labels)
        common = common / np.maximum(common.sum(1, keepdims=True), 1)
        with self._floods.labels(coarse.reshape(-1), names, workers) as others:
            cpu.tally(
                labels, (flat > 0).view(np.uint8), maps, np.stack(others, axis=1), self._blocks, zones,
                common.astype(np.float32), _WEIGHTS, shares, workers,
            )  # fmt: skip


def _halved(array: Array, axes: Sequence[int], join: Callable[[Array, Array], Array]) -> Array:
    """Join pixels two by two along axes; the last of an odd number is joined with itself."""
    for axis in axes:
        moved = np.moveaxis(array, axis, 0)
        first, second = moved[::2], moved[1::2]
        if len(first) > len(second):
            second = np.concatenate([second, first[-1:]])
        array = np.moveaxis(join(first, second), 0, axis)
    return array


def _noise(shape: tuple[int, ...], workers: int) -> NDArray[np.float32]:
    """Return smooth noise (*shape, _DISTURBED) of mean 0 and standard deviation 1, the same on any system."""
    numbers = np.arange(np.prod(shape, dtype=np.intp) * _DISTURBED, dtype=np.uint64)
    # The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    numbers = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers ^= numbers >> np.uint64(shift)
        numbers *= np.uint64(factor)
    numbers ^= numbers >> np.uint64(31)
    noise = (numbers >> np.uint64(40)).astype(np.float32).reshape(*shape, _DISTURBED)
    noise -= np.float32(2.0**23)
    for step in _SMOOTHED:
        noise = _relief.smoothed(noise, step, None, None, workers)
    axes = tuple(range(len(shape)))
    noise -= noise.mean(axes, dtype=np.float64).astype(np.float32)
    deviation = noise.std(axes, dtype=np.float64)
    noise /= np.where(deviation > 0, deviation, 1).astype(np.float32)
    return noise
