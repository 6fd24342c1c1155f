"""Pixels whose label is sure before labels spread: those that are like its seeds alone, and near them.

A label spreads from its seeds, and cannot leap over an edge to a part of the object that no stroke touches.
Pixels that are sure become seeds there. Only a lattice of pixels is compared. How labels spread is left to
others.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from aproarray import _relief, cpu
from aproarray._api import local_propagate

# docs/quality.md has what these bring.
_COMPARISONS = 2**15  # of a pixel with a label's seeds, at most
_CLOSEST = 4  # pixels between those of the lattice, at least
_WIDTH = 0.05  # of the likelihood of a difference in features
_UNLIKE = 0.001  # the least likelihood
_ITERATIONS = 5  # of averages over windows of the lattice
_WINDOW = 5
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
        roughness = _relief.typical_step(features, None)
        averages = local_propagate(
            np.ascontiguousarray(likely[some].T).reshape(*grid, -1), features,
            zeta=_ZETA_STEPS * roughness if roughness > 0 else 1.0, kernel_size=_WINDOW,
            iterations=_ITERATIONS, channel_axis=-1, spatial_ndim=len(grid), workers=1,
        )  # fmt: skip
        for label, average in zip(some.tolist(), np.moveaxis(averages, -1, 0), strict=True):
            found[average > _SURE] = label + 1
    return found
