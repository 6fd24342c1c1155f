"""Labels from seeds on the device: floods, which of their labels to take, votes.

The functions are those of `aproarray.cpu._labels`. Kernels are in kernels/flood.cu, settle.cu, votes.cu.
Floods with a spacing run on the host: of equal edges the nearest seed's goes first there, which no relaxation
tells.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import cupy
import numpy as np

from aproarray import _edges
from aproarray import cpu as on_host
from aproarray.gpu import _compile
from aproarray.gpu._arguments import NULL, struct_of, struct_of_pointers
from aproarray.gpu._compile import Struct, kernel
from aproarray.gpu._sort import sort

_WAY = struct_of(level=np.uint32, count=np.uint32, gate=np.int32)
_GRID = struct_of(
    **dict.fromkeys(("maps", "planes", "height", "width", "across", "down", "n", "n_beside"), np.uint32)
)
_WAVES = struct_of_pointers("now", "next", "awake", "moved", "any")
# Pixels along both sides of a tile, as kernels/flood.cu says.
_SIDE = 32


class Floods:
    """The floods of one image's reliefs (M, N); see `aproarray.cpu.Floods`.

    Each call floods from all seeds.
    """

    def __init__(self, reliefs: Any, steps: Any, shape: tuple[int, ...], spacing: tuple[float, ...] | None):
        self._on_host = None
        if spacing is not None:
            self._on_host = on_host.Floods(reliefs.get(), steps, shape, spacing)
            return
        *planes, height, width = (1, *shape)
        across, down = -(-width // _SIDE), -(-height // _SIDE)
        n, n_planes = math.prod(shape), math.prod(planes)
        beside = [step for step in steps.tolist() if abs(step) not in (1, width)]
        self._beside = cupy.asarray(np.array(beside, np.int32))
        sizes = (len(reliefs), n_planes, height, width, across, down, n, len(beside))
        self._grid, self._n_tiles = Struct(_GRID, *sizes), len(reliefs) * n_planes * across * down
        self._reliefs = reliefs
        # The bits of the weight from which on weights are told apart; see kernels' `list_of`.
        heaviest = 2 * reliefs.max(axis=1).get() if reliefs.size else np.zeros(len(reliefs), np.float32)
        bits = heaviest.astype(np.float32).view(np.int32) - ((16 << 23) - (1 << 23))
        self._lightest_bits = cupy.asarray(bits & ~((1 << 23) - 1))

    @contextlib.contextmanager
    def labels(self, seeds: Any, names: list[Any], workers: int) -> Iterator[list[Any]]:
        """Give labels (N) by each relief, of seeds (N): above 0, 0, or -1 where a pixel takes no part."""
        if self._on_host is not None:
            with self._on_host.labels(seeds.get(), names, workers) as maps:
                yield [cupy.asarray(labels) for labels in maps]
            return
        n_maps, n = self._reliefs.shape
        counts = np.uint32(n_maps), np.uint32(n)
        ways, following = (cupy.empty((n_maps, 3 * n), np.uint32) for _ in range(2))
        kernel("flood", "begin_ways")(n_maps * n, seeds, *counts, ways)
        awake, moved = cupy.zeros(2 * self._n_tiles, np.uint8), cupy.zeros(self._n_tiles, np.uint8)
        kernel("flood", "find_ways")(
            self._n_tiles * _compile.BLOCK, self._reliefs, seeds, self._lightest_bits, self._grid,
            self._beside, Struct(_WAVES, ways, following, awake, moved, cupy.zeros(3, np.uint32)),
        )  # fmt: skip
        labels = cupy.empty((n_maps, n), np.int32)
        kernel("flood", "label_by_ways")(labels.size, seeds, *counts, ways, labels)
        yield [labels[m] for m in range(n_maps)]


_EVIDENCE = struct_of(
    begins=np.uintp, places=np.uintp, colours=np.uintp, features=np.uintp, n_axes=np.uint32,
    channels=np.uint32, strides=(np.uint64, (_edges.MAX_NDIM,)), spacing=(np.float64, (_edges.MAX_NDIM,)),
)  # fmt: skip
_SCORES = struct_of(
    trust=(np.float64, (3,)), strength=np.float64, most=np.float64, per_distance=np.uintp,
    per_difference=np.uintp,
)  # fmt: skip


class _Evidence:
    """The comparisons of the device; see `aproarray.cpu._labels.Evidence`."""

    def __init__(
        self, begins: Any, places: Any, colours: Any, features: Any, shape: tuple[int, ...], units: Any
    ):
        unused = (1,) * (_edges.MAX_NDIM - len(shape))
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        arrays = (cupy.asarray(array) for array in (begins, places, colours))
        self._struct = Struct(
            _EVIDENCE,
            *arrays,
            features,
            len(shape),
            features.shape[1],
            (*strides, *unused),
            (*units, *unused),
        )

    def sample(self, maps: Any, seeds: Any, every: Any) -> tuple[Any, Any, Any]:
        first, second, third = maps
        agreed = (first > 0) & (first == second) & (first == third) & (seeds <= 0)
        pixels = cupy.flatnonzero(agreed).astype(np.uint32)
        labels = first[pixels].astype(np.uint32)
        pixels = sort(labels, len(every).bit_length(), pixels)
        counts = cupy.bincount(labels, minlength=len(every))
        before = (cupy.cumsum(counts) - counts)[labels]
        sampled = (cupy.arange(len(pixels)) - before) % cupy.asarray(every)[labels] == 0
        pixels, labels = pixels[sampled], labels[sampled].get()
        distances, differences = (cupy.empty(len(pixels), np.float64) for _ in range(2))
        kernel("settle", "measure")(
            len(pixels), self._struct, pixels, first, np.uint32(len(pixels)), distances, differences
        )
        n_labels = len(every)
        return (
            np.bincount(labels, distances.get(), n_labels),
            np.bincount(labels, differences.get(), n_labels),
            np.bincount(labels, minlength=n_labels),
        )

    def choose(
        self, maps: Any, trust: Any, strength: float, most: float, per_distance: Any, per_difference: Any,
        pixels: Any,
    ) -> Any:  # fmt: skip
        labels = maps[0].copy()
        scores = Struct(_SCORES, trust, strength, most, *map(cupy.asarray, (per_distance, per_difference)))
        kernel("settle", "choose")(
            len(pixels), self._struct, scores, cupy.concatenate(list(maps)), np.uint32(len(labels)),
            pixels.astype(np.int64), np.uint32(len(pixels)), labels,
        )  # fmt: skip
        return labels


def settle(
    maps: Sequence[Any],
    seeds: Any,
    features: Any,
    shape: tuple[int, ...],
    spacing: tuple[float, ...] | None,
    trust: tuple[float, float, float],
    strength: float,
    workers: int,
) -> Any:
    """Return one label for each pixel, of the three that maps give it; see `aproarray.cpu.settle`."""
    del workers
    units = (1.0,) * len(shape) if spacing is None else spacing
    compare = functools.partial(_Evidence, features=features, shape=shape, units=units)
    return on_host.settle_with(compare, cupy, maps, seeds, features, shape, units, trust, strength)


_BALLOTS = struct_of(
    features=np.uintp, labels=np.uintp, zones=np.uintp, held=np.uintp, steps=np.uintp, n_steps=np.uint32,
    channels=np.uint32, scale=np.float64,
)  # fmt: skip


def vote(
    features: Any,
    labels: Any,
    zones: Any,
    held: Any,
    steps: Any,
    neighbours: Any,
    scale: float,
    iterations: int,
    shares: Any,
    workers: int,
) -> None:
    """Give pixels the label of the largest vote over their window; see `aproarray.cpu.vote`.

    `shares` is the transpose of a contiguous array (n_labels, N). This waits for the device after each vote.
    """
    del neighbours, workers
    n, wanted = len(labels), len(shares) > 0
    ways = cupy.asarray(np.asarray(steps, np.int32))
    chosen, rows = cupy.empty(n, np.int32), shares.T if wanted else NULL
    for turn in range(iterations):
        ballots = Struct(
            _BALLOTS, features, labels, zones if zones.size else NULL, held, ways, len(steps),
            features.shape[1], scale,
        )  # fmt: skip
        changed, last = cupy.zeros((), np.uint32), wanted and turn == iterations - 1
        if last:
            kernel("votes", "own_shares")(n, labels, np.uint32(n), rows)
        kernel("votes", "cast_votes")(n, ballots, np.uint32(n), chosen, rows if last else NULL, changed)
        labels[...] = chosen
        if not wanted and not int(changed):
            break
    if wanted and not iterations:
        kernel("votes", "own_shares")(n, labels, np.uint32(n), rows)
