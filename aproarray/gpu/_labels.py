"""Labels from seeds on the device: floods, which of their labels to take, votes.

The functions are those of `aproarray.cpu._labels`. Kernels are in kernels/flood.cu, settle.cu, votes.cu.
Floods with a spacing run on the host: of equal edges the nearest seed's goes first there, which no relaxation
tells.
"""

from __future__ import annotations

import contextlib
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


_OF_AXES = _edges.MAX_NDIM
_EVIDENCE = struct_of(
    begins=np.uintp, seeds=np.uintp, features=np.uintp, n_axes=np.uint32, channels=np.uint32,
    strides=(np.uint32, (_OF_AXES,)), origin=(np.int64, (_OF_AXES,)), spacing=(np.float32, (_OF_AXES,)),
    ratios=(np.uint32, (_OF_AXES,)),
)  # fmt: skip
_LEADS = struct_of(
    of_two=(np.float32, (3,)), of_first=(np.float32, (3,)), per_distance=np.uintp, per_difference=np.uintp
)


def settle(
    maps: Sequence[Any],
    seeds: Any,
    pixels: on_host.Pixels,
    trust: tuple[float, float, float],
    strength: float,
    workers: int,
) -> Any:
    """Return one label for each pixel, of the three that maps give it; see `aproarray.cpu.settle`.

    What is known of seeds, and of each label, is found on the host.
    """
    del workers
    first, second, third = maps
    apart = cupy.flatnonzero((first != second) | (first != third)).astype(np.uint32)
    if len(apart) == 0:
        return first.copy()
    n_labels, at = int(seeds.max()) + 1, cupy.flatnonzero(seeds > 0)
    table = on_host.Seeds.at(at.get(), seeds[at].get(), pixels, n_labels)
    begins, blocks = table.blocks()
    shape, ndim = pixels.shape, len(pixels.shape)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(ndim)]
    of_axes = (strides, pixels.origin, pixels.units, on_host.ratios(ndim))
    evidence = Struct(
        _EVIDENCE, cupy.asarray(begins), cupy.asarray(blocks), pixels.features, ndim,
        pixels.features.shape[1], *((*numbers, *(1,) * (_OF_AXES - ndim)) for numbers in of_axes),
    )  # fmt: skip
    together = cupy.concatenate(list(maps))
    survey = _survey(evidence, together, seeds, n_labels)
    brought = sum(cupy.bincount(labels[apart], minlength=n_labels).get() for labels in maps)
    weights = on_host.Weights.of(table, survey._replace(brought=brought), trust, strength)
    labels = first.copy()
    kernel("settle", "choose")(
        len(apart), evidence, Struct(_LEADS, *weights[:2], *map(cupy.asarray, weights[2:])), together,
        np.uint32(len(labels)), apart, np.uint32(len(apart)), labels,
    )  # fmt: skip
    return labels


def _survey(evidence: Struct, maps: Any, seeds: Any, n_labels: int) -> on_host.Survey:
    """Return the survey of an image, but for the labels that are brought where maps (3 N) disagree."""
    n = len(seeds)
    found = on_host.Survey.empty(n_labels)
    n_ranks = found.counts.shape[1]
    counts, marks = cupy.zeros(found.counts.shape, np.uint32), cupy.empty(n, np.uint8)
    look = kernel("settle", "survey")
    look(n, evidence, maps, seeds, np.uint32(n), NULL, counts, NULL)
    lowest = on_host.lowest_of(counts.get().astype(np.int64))
    look(n, evidence, maps, seeds, np.uint32(n), cupy.asarray(lowest), NULL, marks)
    pixels = cupy.flatnonzero(marks).astype(np.uint32)
    distances, differences = (cupy.empty(len(pixels), np.float32) for _ in range(2))
    ranks = cupy.empty(len(pixels), np.uint32)
    kernel("settle", "measure")(
        len(pixels), evidence, pixels, maps, np.uint32(len(pixels)), distances, differences, ranks
    )
    cells = maps[pixels].get() * n_ranks + ranks.get().astype(np.intp)

    def table(weights: Any) -> Any:
        return np.bincount(cells, weights, n_labels * n_ranks).reshape(n_labels, n_ranks)

    return found._replace(
        lowest=lowest,
        counts=table(None).astype(np.int64),
        distances=table(distances.get()),
        differences=table(differences.get()),
    )


_BALLOTS = struct_of(
    features=np.uintp, labels=np.uintp, zones=np.uintp, held=np.uintp, steps=np.uintp, n_steps=np.uint32,
    channels=np.uint32, scale=np.float64,
)  # fmt: skip


class Votes:
    """The votes over windows of one image; see `aproarray.cpu.Votes`. Each call casts all of them.

    This waits for the device after each vote.
    """

    def __init__(self, features: Any, zones: Any, steps: Any, neighbours: Any, scale: float, iterations: int):
        del neighbours  # whose labels tell the CPU where borders are
        self._features, self._zones, self._scale, self._iterations = features, zones, scale, iterations
        self._steps = cupy.asarray(np.asarray(steps, np.int32))

    def cast(self, labels: Any, names: list[Any], seeds: Any, workers: int) -> None:
        """Change labels (N), where seeds (N) above 0 are held."""
        del names, workers
        held = (seeds > 0).view(np.uint8)
        for _ in range(self._iterations):
            if not self._vote(labels, held, NULL):
                break

    def shares(self, labels: Any, n_labels: int, seeds: Any, workers: int) -> Any:
        """Change labels (N) likewise, and return their shares of the last votes (n_labels, N)."""
        del workers
        held, shares = (seeds > 0).view(np.uint8), cupy.zeros((n_labels, len(labels)), np.float32)
        for _ in range(self._iterations - 1):
            if not self._vote(labels, held, NULL):
                break
        kernel("votes", "own_shares")(len(labels), labels, np.uint32(len(labels)), shares)
        if self._iterations:
            self._vote(labels, held, shares)
        return shares

    def _vote(self, labels: Any, held: Any, shares: Any) -> bool:
        """Vote once, and return whether a label has changed."""
        n, changed = len(labels), cupy.zeros((), np.uint32)
        ballots = Struct(
            _BALLOTS, self._features, labels, self._zones if self._zones.size else NULL, held, self._steps,
            len(self._steps), self._features.shape[1], self._scale,
        )  # fmt: skip
        chosen = cupy.empty(n, np.int32)
        kernel("votes", "cast_votes")(n, ballots, np.uint32(n), chosen, shares, changed)
        labels[...] = chosen
        return bool(changed)
