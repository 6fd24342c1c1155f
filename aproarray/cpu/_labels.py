"""Labels from seeds: floods of several reliefs at once, and votes. Pieces are some milliseconds of work."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aproarray.cpu import _flood, _processor, _tally, _workers

__all__ = [
    "Floods",
    "Votes",
    "compared_seeds",
    "every_of",
    "leads_of",
    "settle",
    "tally",
    "vote",
]

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
                renumbered = _renumbered(last_names, names)
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
    Products are compared rather than sums of logarithms, in float32.
    """
    first, second, third = maps
    n = len(first)
    # No label is larger than the largest seed's, which all floods bring.
    n_labels = int(seeds.max(initial=0)) + 1
    apart, at = np.empty(n, np.int32), np.empty(n, np.int32)
    agreed, brought = np.zeros(n_labels, np.int64), np.zeros(n_labels, np.int64)
    n_apart = n_seeds = 0
    for bounds in _workers.ranges(n, 1, _workers.LINEAR):
        _workers.check_stop()
        n_apart, n_seeds = _processor.settling.survey(
            first, second, third, seeds, apart, at, agreed, brought, *bounds, n_apart, n_seeds
        )
    if n_apart == 0:
        return first.copy()
    units = (1.0,) * len(shape) if spacing is None else spacing
    at = at[:n_seeds]
    compared = compared_seeds(at, seeds[at], n_labels, shape, units)
    evidence = _processor.settling.Evidence(
        compared.begins, compared.blocks(features[compared.pixels]), features, shape, units
    )
    every = every_of(agreed)
    until, counts = np.zeros(n_labels, np.int64), np.zeros(n_labels, np.int64)
    distances, differences = np.zeros(n_labels), np.zeros(n_labels)
    for bounds in _workers.ranges(n, 1, _workers.LINEAR):
        _workers.check_stop()
        evidence.sample(first, second, third, seeds, every, until, distances, differences, counts, *bounds)
    leads = leads_of(distances, differences, counts, brought, compared.extents, trust, strength)
    labels = first.copy()
    task = functools.partial(evidence.choose, first, second, third, *leads, apart, labels)
    _workers.run_ranges(task, n_apart, workers, _COMPARISONS)
    return labels


class ComparedSeeds(NamedTuple):
    """The seeds of each label that pixels are compared with, in blocks."""

    begins: NDArray[np.int32]
    """The first block of each label."""
    pixels: NDArray[np.int64]
    """Of all blocks' seeds."""
    places: NDArray[np.float64]
    """Of these, (seeds, ndim), in units."""
    extents: NDArray[np.float64]
    """Of the seeds of each label, compared or not: their root mean square distance to their centre."""

    def blocks(self, colours: Array) -> NDArray[np.float32]:
        """Return places and colours (seeds, C) as `_settle.Evidence` takes them."""
        rows, lanes = np.concatenate([self.places, colours], axis=1), _processor.settling.SEEDS_AT_ONCE
        return np.ascontiguousarray(rows.reshape(-1, lanes, rows.shape[1]).transpose(0, 2, 1), np.float32)


def compared_seeds(
    at: Array, labels: Array, n_labels: int, shape: tuple[int, ...], units: tuple[float, ...]
) -> ComparedSeeds:
    """Choose among the seeds at some pixels, in their order, those that pixels are compared with."""
    by_label = np.argsort(labels, kind="stable")
    at, labels = at[by_label], labels[by_label]
    of_label = np.bincount(labels, minlength=n_labels)
    places = np.stack(np.unravel_index(at, shape), axis=-1) * np.array(units)
    n_compared = np.minimum(of_label, _COMPARED)
    lanes = _processor.settling.SEEDS_AT_ONCE
    n_filled = -(-n_compared // lanes) * lanes  # the last block of a label repeats its last seed
    begins = np.concatenate([[0], np.cumsum(n_filled)])
    number = np.arange(begins[-1]) - np.repeat(begins[:-1], n_filled)
    of_each = np.repeat(n_compared, n_filled)
    number = np.minimum(number, of_each - 1)
    seeds_before = np.repeat(np.cumsum(of_label) - of_label, n_filled)
    chosen = seeds_before + number * np.repeat(of_label, n_filled) // of_each
    return ComparedSeeds(
        (begins // lanes).astype(np.int32), at[chosen], places[chosen], _extents(places, labels, of_label)
    )


def every_of(agreed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many pixels of each label are left alone for each one that is sampled."""
    return np.maximum(agreed // _SAMPLED, 1)


def leads_of(
    distances: NDArray[np.float64],
    differences: NDArray[np.float64],
    counts: NDArray[np.int64],
    brought: NDArray[np.int64],
    extents: NDArray[np.float64],
    trust: tuple[float, float, float],
    strength: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return what `_settle.Evidence.choose` weighs labels by, from sums over the pixels that were sampled."""
    usual, usual_difference = distances / np.maximum(counts, 1), differences / np.maximum(counts, 1)
    reach = (distances + _DOUBT * distances.sum() / max(counts.sum(), 1)) / (counts + _DOUBT)
    n_labels = len(counts)
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
    return lead_of_two, lead_of_first, per_distance, per_difference


def _exponential(leads: Array, strength: float) -> NDArray[np.float32]:
    """Return exp(lead / strength), in the limit where strength is 0."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore", under="ignore"):
        exponents = np.where(leads == 0, 0.0, leads / np.float64(strength))
        return np.exp(exponents).astype(np.float32)


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
    changes: list[tuple[Array, Array]] | None = None,
) -> None:
    """Give pixels the label of the largest vote over their window, `iterations` times, all at once.

    `steps` lead to the others of a window, a box of pixels, and `neighbours` one pixel along an axis.

    See `_flood.cast_votes` for a vote. Only pixels that are not `held` and have a label change. `shares`
    (N, n_labels, or no rows) receives the votes of the last iteration; without one, 1 for the label there is.
    `changes` receives the pixels that each of the iterations without shares changes, and their new labels.
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
        if changes is not None:
            changes.append((active[:n_changed].copy(), labels[active[:n_changed]]))
        n_active = queue(active, n_changed, following)
        active, following = following, active
    if wanted:
        own = functools.partial(_flood.own_shares, labels, shares)
        _workers.run_ranges(own, n, workers, _workers.LINEAR)
        cast(look() if iterations else 0, shares)


class Votes:
    """The votes over windows of one image, which follow labels as they change.

    See `vote` for the arguments. The first call casts votes along all borders of labels. Later ones cast
    those alone that other labels, and other pixels that are held, may change, and the result is the same.
    Calls at the same time are allowed: one of them goes on from the last, the others from the start.
    """

    def __init__(
        self, features: Array, zones: Array, steps: Array, neighbours: Array, scale: float, iterations: int
    ):
        self._features, self._zones, self._steps, self._neighbours = features, zones, steps, neighbours
        self._scale, self._iterations = scale, iterations
        self._last: list[_Voted] = []

    def cast(self, labels: Array, names: list[Any], seeds: Array, workers: int) -> None:
        """Change labels (N), where seeds (N) above 0 are held; `names` as for `Floods.labels`."""
        held = (seeds > 0).view(np.uint8)
        try:
            last = self._last.pop()  # see `Floods.labels`
        except IndexError:
            settled = labels.copy()
            changes: list[tuple[Array, Array]] = []
            vote(
                self._features, labels, self._zones, held, self._steps, self._neighbours, self._scale,
                self._iterations, np.empty((0, 0), np.float32), workers, changes,
            )  # fmt: skip
        else:
            settled = labels.copy()
            changes = self._follow(last, labels, names, held, workers)
        self._last[:] = [_Voted(names, settled, held, changes)]

    def shares(self, labels: Array, n_labels: int, seeds: Array, workers: int) -> NDArray[np.float32]:
        """Change labels (N) likewise, and return their shares of the last votes (n_labels, N)."""
        shares = np.zeros((n_labels, labels.size), np.float32)
        vote(
            self._features, labels, self._zones, (seeds > 0).view(np.uint8), self._steps, self._neighbours,
            self._scale, self._iterations, shares.T, workers,
        )  # fmt: skip
        return shares

    def _follow(
        self, last: _Voted, labels: Array, names: list[Any], held: Array, workers: int
    ) -> list[tuple[Array, Array]]:
        before, changes_before = last.labels, last.changes
        if names != last.names:
            renumbered = _renumbered(last.names, names)
            before = renumbered[before]
            changes_before = [(pixels, renumbered[to]) for pixels, to in changes_before]
        n = len(labels)
        near = np.intersect1d(self._steps, self._neighbours)
        differing, listed, voters = (np.empty(n, np.int32) for _ in range(3))
        chosen, changed = np.empty_like(voters), np.empty_like(voters)
        queued = np.zeros(n, np.uint8)
        other_held = np.flatnonzero(held != last.held).astype(np.int32)

        def collect(function: Callable[..., int], *arguments: Any, stop: int, pixels: float, n: int) -> int:
            for bounds in _workers.ranges(stop, 1, pixels):
                _workers.check_stop()
                n = function(*arguments, *bounds, n)
            return n

        n_differing = collect(
            _flood.find_differences, before, labels, differing, stop=n, pixels=_workers.LINEAR, n=0
        )
        changes: list[tuple[Array, Array]] = []
        nothing = np.empty(0, np.int32), np.empty(0, np.int32)
        for number in range(self._iterations):
            pixels, to = changes_before[number] if number < len(changes_before) else nothing
            n_listed = _flood.queue_pixels(labels, other_held, queued, listed, 0)
            n_listed = collect(
                _flood.queue_differences, before, labels, near, self._steps, differing, queued, listed,
                stop=n_differing, pixels=_LOOK * len(self._steps), n=n_listed,
            )  # fmt: skip
            n_voters = collect(
                _flood.find_voters, labels, held, listed, voters, stop=n_listed, pixels=_workers.LINEAR, n=0
            )
            task = functools.partial(
                _flood.cast_votes, self._features, labels, self._zones, self._steps, self._scale, voters,
                chosen, np.empty((0, 0), np.float32),
            )  # fmt: skip
            _workers.run_ranges(task, n_voters, workers, _BALLOT * len(self._steps))
            n_changed = collect(
                _flood.change_as_before, before, labels, queued, pixels, to, changed,
                stop=len(pixels), pixels=_workers.LINEAR, n=0,
            )  # fmt: skip
            n_changed = collect(
                _flood.change_voters, labels, voters, chosen, changed,
                stop=n_voters, pixels=_workers.LINEAR, n=n_changed,
            )  # fmt: skip
            changes.append((changed[:n_changed].copy(), labels[changed[:n_changed]]))
            differ = functools.partial(_flood.differences_among, before, labels, queued)
            n_differing = collect(
                differ, False, differing, differing, stop=n_differing, pixels=_workers.LINEAR, n=0
            )
            n_differing = collect(
                differ, True, listed, differing, stop=n_listed, pixels=_workers.LINEAR, n=n_differing
            )
        return changes


class _Voted(NamedTuple):
    """What votes start from, and what each of them changes: pixels, and their labels."""

    names: list[Any]
    labels: Array
    held: Array
    changes: list[tuple[Array, Array]]


def _renumbered(last: list[Any], names: list[Any]) -> NDArray[np.int32]:
    """Return the numbers of labels that had others: of 0, of each label by its last number, and of -1.

    A label that has gone is one that no pixel has.
    """
    number_of = {name: number for number, name in enumerate(names, 1)}
    return np.array([0, *(number_of.get(name, len(names) + 1) for name in last), -1], np.int32)


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
