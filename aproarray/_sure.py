"""Pixels whose label is sure before labels spread: those that are like its seeds alone, and near them.

A label spreads from its seeds, and cannot leap over an edge to a part of the object that no stroke touches.
Pixels that are sure become seeds there. Only a lattice of pixels is compared. How labels spread is left to
others.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from aproarray import _relief, cpu

# docs/quality.md has what these bring.
_COMPARISONS = 2**15  # of a pixel with a label's seeds, at most
_CLOSEST = 4  # pixels between those of the lattice, at least
_WIDTH = 0.05  # of the likelihood of a difference in features
_UNLIKE = 0.001  # the least likelihood
_ITERATIONS = 5  # of averages over 5 x 5 pixels of the lattice
_RADIUS = 2
_ZETA_STEPS = 1.5  # zeta of the averages, in root mean square steps between neighbours of the lattice
_SURE = 0.9  # probability


def step_between(shape: tuple[int, ...], n_labels: int) -> int | None:
    """Return how many pixels those of the lattice are apart: a power of two.

    None: there is no lattice, as there is one label, or more labels than pixels of it.
    """
    if not 1 < n_labels <= math.isqrt(_COMPARISONS):
        return None
    step = _CLOSEST
    while math.prod(-(-extent // step) for extent in shape) * n_labels > _COMPARISONS:
        step *= 2
    return step


def sure_labels(
    features: NDArray[np.float32], step: int, seeds: cpu.Seeds, units: tuple[float, ...]
) -> NDArray[np.int32]:
    """Return the labels (*grid) of the pixels of a lattice that are sure, and 0 elsewhere.

    `features` (*grid, C) are of every `step`-th pixel along each axis. Pixels are `units` apart.

    The probability of a label goes with sqrt(exp(-c^2 / (2 0.05^2)) + 0.001) / (1 + d). Here c is the least
    difference in features to any of its seeds, and d the distance of the nearest one, in pixels of the
    lattice. The probabilities of pixels that are alike are then averaged, five times over 5 x 5. A label is
    sure above 0.9. Of many seeds of a label, 32 are compared.
    """
    grid, n_labels = features.shape[:-1], len(seeds.counts) - 1
    flat = np.ascontiguousarray(features).reshape(-1, features.shape[-1])
    apart = tuple(step * unit for unit in units)
    evidence = seeds.evidence(cpu.Pixels(flat, grid, (0,) * len(grid), apart))
    distances, differences = np.empty((2, n_labels, len(flat)), np.float32)
    evidence.compare(distances, differences)
    likely = np.exp(differences * differences / np.float32(-2 * _WIDTH**2))
    likely = np.sqrt(likely + np.float32(_UNLIKE)) / (1 + distances / np.float32(step))
    likely /= likely.sum(0)
    found = np.zeros(grid, np.int32)
    # An average is no larger than the largest number.
    some = np.flatnonzero((likely > _SURE).any(1))
    if some.size:
        averages = _averaged(likely[some].reshape(-1, *grid), features)
        for label, average in zip(some.tolist(), averages, strict=True):
            found[average > _SURE] = label + 1
    return found


def _averaged(numbers: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return numbers (K, *grid) averaged over windows, by the affinity of features (*grid, C).

    It is `aproarray.local_propagate`, of which a first call waits for Numba.
    """
    grid = features.shape[:-1]
    step = _relief.typical_step(features, None)
    scale = np.float32(-1 / (_ZETA_STEPS * step) ** 2 if step > 0 else -1)
    total = np.ones(grid, np.float32)
    pairs = []
    for hop in itertools.product(range(-_RADIUS, _RADIUS + 1), repeat=len(grid)):
        if hop <= (0,) * len(grid) or any(abs(by) >= extent for by, extent in zip(hop, grid, strict=True)):
            continue
        here = tuple(slice(max(0, -by), extent - max(0, by)) for by, extent in zip(hop, grid, strict=True))
        there = tuple(slice(max(0, by), extent - max(0, -by)) for by, extent in zip(hop, grid, strict=True))
        affinity = np.exp(scale * ((features[here] - features[there]) ** 2).sum(-1))
        total[here] += affinity
        total[there] += affinity
        pairs.append(((slice(None), *here), (slice(None), *there), affinity))
    for _ in range(_ITERATIONS):
        sums = numbers.copy()
        for here, there, affinity in pairs:
            sums[here] += affinity * numbers[there]
            sums[there] += affinity * numbers[here]
        numbers = sums / total
    return numbers
