"""Labels from seeds: floods of several reliefs at once, and votes. Pieces are some milliseconds of work."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aproarray import _arrays
from aproarray.cpu import _flood, _settle, _tally, _workers

__all__ = ["Evidence", "Floods", "settle", "settle_with", "tally", "vote"]

Array = NDArray[Any]

# What one pixel takes, in pixels of `_workers.STEP`: of a flood, of a window's votes or a look at it for each
# pixel of the window.
_FLOOD = 8
_BALLOT = 1.0
_LOOK = 0.1


class Floods:
    """The floods of one image's reliefs (M, N), which follow the seeds as they change.

    `steps` lead to a pixel's neighbours, in an image whose shape is padded by pixels that take no part. See
    `_flood.Flood`, or with a spacing of the axes `_flood.SpacedFlood`. The first call floods from all seeds.
    Later ones flood again only what other seeds change (see `_flood.Repair`), and without a spacing alone.
    Calls at the same time are allowed: one of them goes on from the last, the others from the start.
    """

    def __init__(
        self, reliefs: Array, steps: Array, shape: tuple[int, ...], spacing: tuple[float, ...] | None
    ):
        self._reliefs = reliefs
        self._steps = steps
        self._shape = shape
        self._spacing = spacing
        self._heaviest = [2 * float(relief.max(initial=0)) for relief in reliefs]
        self._last: list[tuple[Array, list[Any], list[_Flooded]]] = []  # seeds, names, floods; or nothing yet

    @contextlib.contextmanager
    def labels(self, seeds: Array, names: list[Any], workers: int) -> Iterator[list[Array]]:
        """Give labels (N) by each relief, of seeds (N): above 0, 0, or -1 where a pixel takes no part.

        Label 1 goes by the first of the names, and so on: the same label may have another number in the next
        call. The arrays are to be read alone, and within the context. Pixels of -1 must be the same in all
        calls.
        """
        threads = _workers.threads_for(self._reliefs.size, workers)
        if self._spacing is not None:
            by_distance = functools.partial(self._flood_by_distance, seeds=seeds, spacing=self._spacing)
            numbers = range(len(self._reliefs))
            yield _workers.run([functools.partial(by_distance, m) for m in numbers], threads)
            return
        try:
            # Taken away: an interrupted call, and one at the same time, find nothing to go on from.
            last, last_names, floods = self._last.pop()
        except IndexError:
            tasks = [functools.partial(self._flood, m, seeds) for m in range(len(self._reliefs))]
            floods = _workers.run(tasks, threads)
        else:
            if names != last_names:
                number_of = {name: number for number, name in enumerate(names, 1)}
                # A label that has gone is one that no seed has.
                renumbered = np.array(
                    [0, *(number_of.get(name, len(names) + 1) for name in last_names), -1], np.int32
                )
                for labels in (last, *(flooded.labels for flooded in floods)):
                    labels[:] = renumbered[labels]
            changed = np.flatnonzero(seeds != last).astype(np.int32)
            added, removed = changed[seeds[changed] > 0], changed[last[changed] > 0]
            if len(changed):
                _workers.run(
                    [
                        functools.partial(self._repair, m, flooded, last, seeds, added, removed)
                        for m, flooded in enumerate(floods)
                    ],
                    threads,
                )
        yield [flooded.labels for flooded in floods]
        self._last[:] = [(seeds.copy(), names, floods)]

    def _flood(self, number: int, seeds: Array) -> _Flooded:
        flooded = _Flooded(seeds)
        state = _flood.Flood(
            self._reliefs[number], flooded.labels, self._steps, self._heaviest[number],
            flooded.order, flooded.levels, flooded.directions,
        )  # fmt: skip
        _drive(state)
        flooded.n_entered = state.n_entered
        return flooded

    def _flood_by_distance(self, number: int, seeds: Array, spacing: tuple[float, ...]) -> Array:
        labels = seeds.copy()
        if len(self._steps):
            _drive(
                _flood.SpacedFlood(
                    self._reliefs[number], labels, self._steps, self._heaviest[number], self._shape, spacing
                )
            )
        return labels

    def _repair(
        self, number: int, flooded: _Flooded, last: Array, seeds: Array, added: Array, removed: Array
    ) -> None:
        if flooded.marks is None:
            flooded.marks = np.empty(len(seeds), _flood.MARK)
            _flood.mark_pixels(last, flooded.order, flooded.n_entered, flooded.marks)
        order, levels = np.empty_like(flooded.order), np.empty_like(flooded.levels)
        state = _flood.Repair(
            self._reliefs[number], flooded.labels, self._steps, self._heaviest[number],
            flooded.order, flooded.levels, flooded.directions, flooded.n_entered, flooded.marks,
            seeds, added, removed, order, levels,
        )  # fmt: skip
        _drive(state)
        flooded.order, flooded.levels, flooded.n_entered = order, levels, state.n_entered


class _Flooded:
    """What a flood of one relief leaves; see `_flood.Flood`."""

    def __init__(self, seeds: Array):
        n = len(seeds)
        self.labels = seeds.copy()
        self.order = np.empty(n, np.int32)
        self.levels = np.empty(n, np.uint16)
        self.directions = np.empty(n, np.uint8)
        self.n_entered = 0
        self.marks: Array | None = None  # see `_flood.mark_pixels`


def _drive(state: _flood.Flood | _flood.SpacedFlood | _flood.Repair) -> None:
    while state.run(max(1, _workers.STEP // _FLOOD)):
        _workers.check_stop()


# Seeds of each label that pixels are compared with, and pixels whose comparison is taken for usual.
_COMPARED = 32
_SAMPLED = 256
_DOUBT = 16  # Pixels of all labels that count beside a label's own, where little is known of it.
_COMPARISONS = 2.0  # what a pixel takes that is compared, in pixels of `_workers.STEP`
_LEAST = 0.3  # of the usual difference: labels of one colour are not held to it more closely


def settle(
    maps: Sequence[Array],
    seeds: Array,
    features: Array,
    shape: tuple[int, ...],
    spacing: tuple[float, ...] | None,
    trust: tuple[float, float, float],
    strength: float,
    workers: int,
) -> NDArray[np.int32]:
    """Return one label for each pixel, of the three that maps (N) give it, flooded from the same seeds (N).

    Where the maps disagree, the label of the highest score is taken. It is the sum of `trust` over the maps
    that bring it, less w (log(1 + d / (1 + d')) + log(1 + c / (0.3 c'' + c'))). Here d is the distance of the
    label's nearest seed, and c the least difference in `features` (N, C) to any of its seeds. d' and c' are
    their means over pixels that all maps give the label, or 0 if there are none. c'' is the mean of c' over
    labels, each as often as it is brought where maps disagree.

    The weight w is `strength` times the cube of the mean over labels, counted likewise, of e / (e + d'). Here
    e is the extent of the label's seeds, their root mean square distance to their centre. For this, the d' of
    a label that few pixels surely have is drawn to that of all labels. Seeds that are drawn all over a region
    say how far it reaches, and a point says nothing of that.

    Distances are in pixels of an image of `shape`, or in units of `spacing`. Of many seeds, 32 are compared.
    """
    units = (1.0,) * len(shape) if spacing is None else spacing
    compare = functools.partial(_Evidence, features=features, shape=shape, units=units, workers=workers)
    labels: NDArray[np.int32] = settle_with(compare, np, maps, seeds, features, shape, units, trust, strength)
    return labels


class Evidence(Protocol):
    """Pixels compared with some seeds of each label; see `_settle.Evidence`."""

    def sample(
        self, maps: Sequence[Array], seeds: Array, every: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Return sums of distances and differences by labels, and their number, on the host."""

    def choose(
        self,
        maps: Sequence[Array],
        trust: tuple[float, float, float],
        strength: float,
        most: float,
        per_distance: NDArray[np.float64],
        per_difference: NDArray[np.float64],
        pixels: Array,
    ) -> Array:
        """Return the labels, chosen anew for some pixels."""


class _Evidence:
    """The comparisons of the CPU."""

    def __init__(
        self,
        begins: NDArray[np.int32],
        places: NDArray[np.float64],
        colours: NDArray[np.float64],
        features: Array,
        shape: tuple[int, ...],
        units: tuple[float, ...],
        workers: int,
    ):
        self._state = _settle.Evidence(begins, places, colours, features, shape, units)
        self._workers = workers

    def sample(
        self, maps: Sequence[Array], seeds: Array, every: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        n_labels = len(every)
        seen, counts = np.zeros(n_labels, np.int64), np.zeros(n_labels, np.int64)
        distances, differences = np.zeros(n_labels), np.zeros(n_labels)
        first, second, third = maps
        for bounds in _workers.ranges(len(seeds), 1, _workers.LINEAR):
            _workers.check_stop()
            self._state.sample(
                first, second, third, seeds, every, seen, distances, differences, counts, *bounds
            )
        return distances, differences, counts

    def choose(
        self,
        maps: Sequence[Array],
        trust: tuple[float, float, float],
        strength: float,
        most: float,
        per_distance: NDArray[np.float64],
        per_difference: NDArray[np.float64],
        pixels: Array,
    ) -> NDArray[np.int32]:
        first, second, third = maps
        labels: NDArray[np.int32] = first.copy()
        task = functools.partial(
            self._state.choose, first, second, third, np.array(trust), strength, most, per_distance,
            per_difference, pixels, labels,
        )  # fmt: skip
        _workers.run_ranges(task, len(pixels), self._workers, _COMPARISONS)
        return labels


def settle_with(
    compare: Callable[..., Evidence],
    xp: Any,
    maps: Sequence[Array],
    seeds: Array,
    features: Array,
    shape: tuple[int, ...],
    units: tuple[float, ...],
    trust: tuple[float, float, float],
    strength: float,
) -> Any:
    """Do what `settle` does, over arrays of `xp`: ``compare(begins, places, colours)`` compares pixels.

    What is known of the seeds, and of each label, is found on the host.
    """
    first, second, third = maps
    apart = xp.flatnonzero((first != second) | (first != third))
    if len(apart) == 0:
        return first.copy()
    seeded = xp.flatnonzero(seeds > 0)
    at, of_seeds = _arrays.on_host(seeded), _arrays.on_host(seeds[seeded])
    by_label = np.argsort(of_seeds, kind="stable")
    at, of_seeds = at[by_label], of_seeds[by_label]
    n_seeds = np.bincount(of_seeds)
    n_labels = len(n_seeds)
    places = np.stack(np.unravel_index(at, shape), axis=-1) * np.array(units)
    extents = _extents(places, of_seeds, n_seeds)

    n_compared = np.minimum(n_seeds, _COMPARED)
    lanes = _settle.SEEDS_AT_ONCE
    n_filled = -(-n_compared // lanes) * lanes  # the last block of a label repeats its last seed
    begins = np.concatenate([[0], np.cumsum(n_filled)])
    number = np.arange(begins[-1]) - np.repeat(begins[:-1], n_filled)
    of_each = np.repeat(n_compared, n_filled)
    number = np.minimum(number, of_each - 1)
    seeds_before = np.repeat(np.cumsum(n_seeds) - n_seeds, n_filled)
    chosen = seeds_before + number * np.repeat(n_seeds, n_filled) // of_each

    def blocks(rows: Array) -> NDArray[np.float64]:
        return np.ascontiguousarray(rows.reshape(-1, lanes, rows.shape[1]).transpose(0, 2, 1), np.float64)

    def counted(labels: Array) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = _arrays.on_host(xp.bincount(labels, minlength=n_labels))
        return counts

    colours = _arrays.on_host(features[xp.asarray(at[chosen])])
    evidence = compare((begins // lanes).astype(np.int32), blocks(places[chosen]), blocks(colours))
    agreed = counted(xp.maximum(first, 0)) - counted(xp.maximum(first[apart], 0)) - n_seeds
    every = np.maximum(agreed // _SAMPLED, 1)
    distances, differences, counts = evidence.sample(maps, seeds, every)
    usual, usual_difference = distances / np.maximum(counts, 1), differences / np.maximum(counts, 1)
    reach = (distances + _DOUBT * distances.sum() / max(counts.sum(), 1)) / (counts + _DOUBT)

    brought = counted(xp.concatenate([one[apart] for one in maps]))
    weight = np.divide(extents, extents + reach, out=np.zeros(n_labels), where=extents > 0)
    strength *= float((weight * brought).sum() / brought.sum()) ** 3
    typical = float((usual_difference * brought).sum() / brought.sum())
    per_difference = 1 / (_LEAST * typical + usual_difference) if typical > 0 else np.zeros(n_labels)

    farthest = math.hypot(*(extent * unit for extent, unit in zip(shape, units, strict=True)))
    differs = math.hypot(*(float(channel.max()) - float(channel.min()) for channel in features.T))
    most = strength * (math.log1p(farthest) + math.log1p(differs * float(per_difference.max())))
    return evidence.choose(maps, trust, strength, most, 1 / (1 + usual), per_difference, apart)


def _extents(places: Array, labels: Array, counts: Array) -> NDArray[np.float64]:
    """Return the root mean square distance of each label's places (S, ndim) to their centre."""
    squares = np.zeros(len(counts))
    for axis in range(places.shape[1]):
        centre = np.bincount(labels, places[:, axis]) / np.maximum(counts, 1)
        squares += np.bincount(labels, (places[:, axis] - centre[labels]) ** 2)
    return np.asarray(np.sqrt(squares / np.maximum(counts, 1)))


def vote(
    features: Array,
    labels: Array,
    zones: Array,
    held: Array,
    steps: Array,
    neighbours: Array,
    scale: float,
    iterations: int,
    shares: Array,
    workers: int,
) -> None:
    """Give pixels the label of the largest vote over their window, `iterations` times, all at once.

    `steps` lead to the others of a window, a box of pixels, and `neighbours` one pixel along an axis.

    See `_flood.cast_votes` for a vote. Only pixels that are not `held` and have a label change. `shares`
    (N, n_labels, or no rows) receives the votes of the last iteration; without one, 1 for the label there is.
    """
    n = len(labels)
    wanted = len(shares) > 0
    near = np.intersect1d(steps, neighbours)
    active = np.empty(n, np.int32)
    following, chosen = np.empty_like(active), np.empty_like(active)
    queued = np.zeros(n, np.uint8)

    def look() -> int:
        """Make the pixels active whose window holds a step from one label to another, or to none."""
        queued[:] = 0
        ranges = _workers.ranges(n, workers, _workers.LINEAR)
        task = functools.partial(_flood.find_borders, labels, near, following)
        counts = _workers.run([functools.partial(task, *bounds) for bounds in ranges], workers)
        end = 0
        for (first, _), count in zip(ranges, counts, strict=True):
            following[end : end + count] = following[first : first + count]
            end += count
        return queue(following, end, active)

    def queue(changed: Array, n_changed: int, windows: Array) -> int:
        """List the pixels whose window holds one that has changed, and return how many they are."""
        n_queued = 0
        for first, last in _workers.ranges(n_changed, 1, _LOOK * len(steps)):
            _workers.check_stop()
            n_queued = _flood.queue_windows(
                labels, held, steps, changed, queued, windows, first, last, n_queued
            )
        return n_queued

    def cast(n_active: int, shares: Array) -> int:
        """Let the active pixels vote, and return how many of them have changed."""
        task = functools.partial(
            _flood.cast_votes, features, labels, zones, steps, scale, active, chosen, shares
        )
        _workers.run_ranges(task, n_active, workers, _BALLOT * len(steps))
        n_changed = 0
        for first, last in _workers.ranges(n_active, 1, _workers.LINEAR):
            _workers.check_stop()
            n_changed = _flood.change_labels(labels, active, chosen, queued, first, last, n_changed)
        return n_changed

    rounds = iterations - wanted
    n_active = look() if rounds > 0 else 0
    for _ in range(rounds):
        n_changed = cast(n_active, shares[:0])
        if n_changed == 0:
            break
        n_active = queue(active, n_changed, following)
        active, following = following, active
    if wanted:
        own = functools.partial(_flood.own_shares, labels, shares)
        _workers.run_ranges(own, n, workers, _workers.LINEAR)
        cast(look() if iterations else 0, shares)


def tally(
    labels: Array,
    held: Array,
    maps: Array,
    coarse: Array,
    block: Array,
    zones: Array,
    common: Array,
    weights: Array,
    shares: Array,
    workers: int,
) -> None:
    """Turn shares of votes (N, n_labels) into probabilities, by what witnesses say; see `_tally.tally`."""
    task = functools.partial(_tally.tally, labels, held, maps, coarse, block, zones, common, weights, shares)
    _workers.run_ranges(task, len(labels), workers, _LOOK * (shares.shape[1] + coarse.shape[1]))
