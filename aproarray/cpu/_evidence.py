"""Settle which label a pixel takes where floods disagree, by the seeds of each label.

Everything that is known of a whole image is a table that adds up over parts of it, `Seeds` and `Survey`. In
memory, the image is the one part. Which pixels count is told by a key of their place, not by their order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aproarray.cpu import _processor, _workers
from aproarray.cpu._settle import KEY_RANKS, SAMPLED, SEEDS_AT_ONCE, Evidence

__all__ = ["Pixels", "Seeds", "Survey", "Weights", "lowest_of", "ratios", "settle"]

Maps = Sequence[NDArray[np.int32]]

_KEPT = 128  # seeds of each label that a table keeps: those of the lowest keys
_COMPARED = 32  # of these, which pixels are compared with: evenly spaced in their order in the image
_DOUBT = 16  # Pixels of all labels that count beside a label's own, where little is known of it.
_COMPARISONS = 2.0  # what a pixel takes that is compared, in pixels of `_workers.STEP`
_LEAST = 0.3  # of the usual difference: labels of one colour are not held to it more closely

# The solutions of x^(d + 1) = x + 1. The fractions of a / x + b / x^2 + ..., over the pixels (a, b, ...) of a
# grid of d axes, are spread evenly (Roberts, 2018): pixels of low keys are spread over any region.
_GOLDEN = (
    1.618033988749895, 1.324717957244746, 1.2207440846057596, 1.1673039782614187, 1.1347241384015194,
    1.1127756842787055, 1.0969815577985598, 1.085070245491451,
)  # fmt: skip


def ratios(ndim: int) -> tuple[int, ...]:
    """Return what a pixel's coordinates are multiplied by in its key, modulo 2^32."""
    ratio, numbers = 1.0, []
    for _ in range(ndim):
        ratio /= _GOLDEN[ndim - 1]
        numbers.append(int(2**32 * ratio) | 1)
    return tuple(numbers)


class Pixels(NamedTuple):
    """The pixels of an image, or of a part of one."""

    features: NDArray[np.float32]
    """(N, C)"""
    shape: tuple[int, ...]
    origin: tuple[int, ...]
    """The coordinates of the first one in the image."""
    spacing: tuple[float, ...] | None
    """Of the axes; None: 1."""

    def features_at(self, at: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the features of some pixels, on the host."""
        if isinstance(self.features, np.ndarray):
            return self.features[at]
        rows: NDArray[np.float32] = self.features.take(at.tolist(), axis=0).get()
        return rows

    @property
    def units(self) -> tuple[float, ...]:
        """The distance of neighbours along each axis."""
        return (1.0,) * len(self.shape) if self.spacing is None else self.spacing


class Seeds(NamedTuple):
    """The seeds of labels 1 to L - 1; row 0 is empty."""

    counts: NDArray[np.int64]
    """(L)"""
    centres: NDArray[np.float64]
    """Their mean places (L, ndim), in units."""
    squares: NDArray[np.float64]
    """The sum of their squared distances to the centre (L)."""
    labels: NDArray[np.int32]
    """Of the seeds that are kept, ascending, those of a label in C order (K)."""
    keys: NDArray[np.uint32]
    """Of these seeds (K)."""
    rows: NDArray[np.float32]
    """Their places, in units, and their features (K, ndim + C)."""

    @classmethod
    def of(cls, labels: NDArray[np.int32], pixels: Pixels, n_labels: int) -> Seeds:
        """Return the seeds of a part: pixels whose label (N) is above 0, and below `n_labels`."""
        at = np.flatnonzero(labels > 0)
        return cls.at(at, labels[at], pixels, n_labels)

    @classmethod
    def at(cls, at: NDArray[np.intp], own: NDArray[np.int32], pixels: Pixels, n_labels: int) -> Seeds:
        """Return the same of the pixels that are seeds, ascending, and their labels."""
        coordinates = np.stack(np.unravel_index(at, pixels.shape), axis=-1) + np.array(pixels.origin)
        places = coordinates * np.array(pixels.units)
        counts = np.bincount(own, minlength=n_labels)
        centres, squares = np.zeros((n_labels, places.shape[1])), np.zeros(n_labels)
        for axis in range(places.shape[1]):
            centres[:, axis] = np.bincount(own, places[:, axis], n_labels) / np.maximum(counts, 1)
            squares += np.bincount(own, (places[:, axis] - centres[own, axis]) ** 2, n_labels)
        factors = np.array(ratios(places.shape[1]), np.uint64)
        keys = (coordinates.astype(np.uint64) * factors).sum(-1).astype(np.uint32)
        kept = _lowest(own, keys)
        rows = np.concatenate([places[kept], pixels.features_at(at[kept])], axis=1).astype(np.float32)
        return cls(counts, centres, squares, own[kept], keys[kept], rows)

    @classmethod
    def joined(cls, parts: Sequence[Seeds], numbers: Sequence[NDArray[np.int32]], n_labels: int) -> Seeds:
        """Return the seeds of several parts, where label l of part p is label numbers[p][l]."""
        ndim = parts[0].centres.shape[1]
        counts, squares = np.zeros(n_labels, np.int64), np.zeros(n_labels)
        centres = np.zeros((n_labels, ndim))
        for part, to in zip(parts, numbers, strict=True):
            counts[to] += part.counts
            centres[to] += part.counts[:, None] * part.centres
        centres /= np.maximum(counts, 1)[:, None]
        for part, to in zip(parts, numbers, strict=True):
            squares[to] += part.squares + part.counts * ((part.centres - centres[to]) ** 2).sum(-1)
        labels = np.concatenate([to[part.labels] for part, to in zip(parts, numbers, strict=True)])
        keys = np.concatenate([part.keys for part in parts])
        rows = np.concatenate([part.rows for part in parts])
        order = np.lexsort([rows[:, axis] for axis in range(ndim - 1, -1, -1)])  # C order
        kept = order[_lowest(labels[order], keys[order])]
        return cls(counts, centres, squares, labels[kept], keys[kept], rows[kept])

    def only(self, labels: NDArray[np.int32]) -> Seeds:
        """Return the seeds of labels, ascending from 1 on, as labels 1, 2, ..."""
        rows = np.concatenate([np.zeros(1, np.int32), labels])
        numbers = np.zeros(len(self.counts), np.int32)
        numbers[rows] = np.arange(len(rows))
        kept = numbers[self.labels] > 0
        return Seeds(
            self.counts[rows], self.centres[rows], self.squares[rows], numbers[self.labels[kept]],
            self.keys[kept], self.rows[kept],
        )  # fmt: skip

    @property
    def extents(self) -> NDArray[np.float64]:
        """The root mean square distance of each label's seeds to their centre (L)."""
        return np.asarray(np.sqrt(self.squares / np.maximum(self.counts, 1)))

    def evidence(self, pixels: Pixels) -> Evidence:
        """Return what pixels are compared with."""
        return _processor.settling.Evidence(
            *self.blocks(), pixels.features, pixels.shape, pixels.origin, pixels.units,
            ratios(len(pixels.shape)),
        )  # fmt: skip

    def blocks(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the seeds of `_settle.Evidence`, and where those of each label begin."""
        n_kept = np.bincount(self.labels, minlength=len(self.counts))
        n_compared = np.minimum(n_kept, _COMPARED)
        lanes = SEEDS_AT_ONCE
        n_filled = -(-n_compared // lanes) * lanes  # the last block of a label repeats its last seed
        begins = np.concatenate([[0], np.cumsum(n_filled)])
        number = np.arange(begins[-1]) - np.repeat(begins[:-1], n_filled)
        of_each = np.repeat(n_compared, n_filled)
        number = np.minimum(number, of_each - 1) * np.repeat(n_kept, n_filled) // of_each
        rows = self.rows[np.repeat(np.cumsum(n_kept) - n_kept, n_filled) + number]
        blocks = np.ascontiguousarray(rows.reshape(-1, lanes, rows.shape[1]).transpose(0, 2, 1))
        return (begins // lanes).astype(np.int32), blocks


def _lowest(labels: NDArray[np.int32], keys: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Return which seeds have the lowest keys of each label, ordered by label and as they come."""
    order = np.lexsort((keys, labels))
    n_of_label = np.bincount(labels)
    first = np.cumsum(n_of_label) - n_of_label
    kept = np.sort(order[np.arange(len(order)) - first[labels[order]] < _KEPT])
    return kept[np.argsort(labels[kept], kind="stable")]


class Survey(NamedTuple):
    """How often labels are brought where floods disagree, and how pixels compare on which they agree.

    Of these, at most 511 count for each label, those of the lowest keys: all whose keys have so many leading
    zeros. They are added up by the leading zeros of their keys.
    """

    brought: NDArray[np.int64]
    """(L)"""
    lowest: NDArray[np.int32]
    """Leading zeros of the keys that count (L)."""
    counts: NDArray[np.int64]
    """(L, 32)"""
    distances: NDArray[np.float64]
    """Sums of the distances of the nearest seed (L, 32)."""
    differences: NDArray[np.float64]
    """Sums of the differences to the most alike one (L, 32)."""

    @classmethod
    def empty(cls, n_labels: int) -> Survey:
        """Return that of no pixels."""
        table = (n_labels, KEY_RANKS)
        return cls(
            np.zeros(n_labels, np.int64), np.zeros(n_labels, np.int32), np.zeros(table, np.int64),
            np.zeros(table), np.zeros(table),
        )  # fmt: skip

    @classmethod
    def of(
        cls, maps: Maps, seeds: NDArray[np.int32], evidence: Evidence, n_labels: int
    ) -> tuple[Survey, NDArray[np.int32]]:
        """Return the survey of a part, from labels by three floods (N), and where these disagree."""
        first, second, third = maps
        found, apart = cls.empty(n_labels), np.empty(len(seeds), np.int32)
        task = functools.partial(
            evidence.survey, first, second, third, seeds, apart, found.brought, found.lowest, found.counts,
            found.distances, found.differences,
        )  # fmt: skip
        n_apart = _workers.collected(task, len(seeds), _workers.LINEAR)
        return found, apart[:n_apart]

    @classmethod
    def joined(cls, parts: Sequence[Survey], numbers: Sequence[NDArray[np.int32]], n_labels: int) -> Survey:
        """Return the survey of several parts, where label l of part p is label numbers[p][l]."""
        found = cls.empty(n_labels)
        for part, to in zip(parts, numbers, strict=True):
            found.brought[to] += part.brought
            found.lowest[to] = np.maximum(found.lowest[to], part.lowest)
            found.counts[to] += part.counts
            found.distances[to] += part.distances
            found.differences[to] += part.differences
        ranks = np.arange(KEY_RANKS)
        lowest = np.maximum(
            found.lowest, lowest_of(np.where(ranks >= found.lowest[:, None], found.counts, 0))
        )
        for table in (found.counts, found.distances, found.differences):
            table[ranks < lowest[:, None]] = 0
        return found._replace(lowest=lowest)


def lowest_of(counts: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the leading zeros from which on few enough pixels count, of how many there are (L, 32)."""
    too_many = counts[:, ::-1].cumsum(1)[:, ::-1] > SAMPLED
    lowest: NDArray[np.int32] = np.minimum(too_many.sum(1), KEY_RANKS - 1).astype(np.int32)
    return lowest


class Weights(NamedTuple):
    """How comparisons of a whole image's pixels count; see `_settle.Evidence.choose`."""

    lead_of_two: NDArray[np.float32]
    lead_of_first: NDArray[np.float32]
    per_distance: NDArray[np.float32]
    per_difference: NDArray[np.float32]

    @classmethod
    def of(cls, seeds: Seeds, survey: Survey, trust: tuple[float, float, float], strength: float) -> Weights:
        """Return those of an image on some of whose pixels floods disagree; see `settle`."""
        counts, distances = survey.counts.sum(1), survey.distances.sum(1)
        usual = distances / np.maximum(counts, 1)
        usual_difference = survey.differences.sum(1) / np.maximum(counts, 1)
        reach = (distances + _DOUBT * distances.sum() / max(counts.sum(), 1)) / (counts + _DOUBT)

        n_labels, extents, brought = len(counts), seeds.extents, survey.brought
        weight = np.divide(extents, extents + reach, out=np.zeros(n_labels), where=extents > 0)
        strength *= float((weight * brought).sum() / brought.sum()) ** 3
        typical = float((usual_difference * brought).sum() / brought.sum())
        per_distance, per_difference = np.zeros(n_labels, np.float32), np.zeros(n_labels, np.float32)
        if strength > 0:
            per_distance[:] = 1 / (1 + usual)
            if typical > 0:
                per_difference[:] = 1 / (_LEAST * typical + usual_difference)
        own = np.array(trust)
        lead_of_two, lead_of_first = (
            _exponential(lead, strength) for lead in (own.sum() - 2 * own, own[0] - own)
        )
        return cls(lead_of_two, lead_of_first, per_distance, per_difference)

    def only(self, labels: NDArray[np.int32]) -> Weights:
        """Return those of labels, ascending from 1 on, as labels 1, 2, ..."""
        rows = np.concatenate([np.zeros(1, np.int32), labels])
        return self._replace(per_distance=self.per_distance[rows], per_difference=self.per_difference[rows])

    def choose(
        self, maps: Maps, apart: NDArray[np.int32], evidence: Evidence, workers: int
    ) -> NDArray[np.int32]:
        """Return the labels of the first map, but where floods disagree those with least against them."""
        first, second, third = maps
        labels = first.copy()
        task = functools.partial(
            evidence.choose, first, second, third, self.lead_of_two, self.lead_of_first, self.per_distance,
            self.per_difference, apart, labels,
        )  # fmt: skip
        _workers.run_ranges(task, len(apart), workers, _COMPARISONS)
        return labels


def _exponential(leads: NDArray[np.float64], strength: float) -> NDArray[np.float32]:
    """Return exp(lead / strength), in the limit where strength is 0."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore", under="ignore"):
        exponents = np.where(leads == 0, 0.0, leads / np.float64(strength))
        return np.asarray(np.exp(exponents), np.float32)


def settle(
    maps: Maps,
    seeds: NDArray[np.int32],
    pixels: Pixels,
    trust: tuple[float, float, float],
    strength: float,
    workers: int,
) -> NDArray[np.int32]:
    """Return one label for each pixel, of the three that maps (N) give it, flooded from the same seeds (N).

    Where the maps disagree, the label of the highest score is taken. It is the sum of `trust` over the maps
    that bring it, less w (log(1 + d / (1 + d')) + log(1 + c / (0.3 c'' + c'))). Here d is the distance of the
    label's nearest seed, and c the least difference in features to any of its seeds. d' and c' are
    their means over pixels that all maps give the label, or 0 if there are none. c'' is the mean of c' over
    labels, each as often as it is brought where maps disagree.

    The weight w is `strength` times the cube of the mean over labels, counted likewise, of e / (e + d'). Here
    e is the extent of the label's seeds, their root mean square distance to their centre. For this, the d' of
    a label that few pixels surely have is drawn to that of all labels. Seeds that are drawn all over a region
    say how far it reaches, and a point says nothing of that.

    Of many seeds of a label, 32 are compared. Of the pixels that surely have a label, some 256 to 511 count,
    or all if there are fewer. Products are compared rather than sums of logarithms, in float32.
    """
    # No label is larger than the largest seed's, which all floods bring.
    n_labels = int(seeds.max(initial=0)) + 1
    table = Seeds.of(seeds, pixels, n_labels)
    evidence = table.evidence(pixels)
    survey, apart = Survey.of(maps, seeds, evidence, n_labels)
    if not len(apart):
        return maps[0].copy()
    return Weights.of(table, survey, trust, strength).choose(maps, apart, evidence, workers)
