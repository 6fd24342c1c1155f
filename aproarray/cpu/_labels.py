"""Labels from seeds: floods of several reliefs at once, and votes. Pieces are some milliseconds of work."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aproarray.cpu import _flood, _tally, _workers

__all__ = ["Floods", "Votes", "tally", "vote"]

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
        if len(names) > _flood.MOST_LABELS:
            raise ValueError(f"labels must have at most {_flood.MOST_LABELS} values, got {len(names)}")
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
    changed: Array | None = None,
) -> None:
    """Give pixels the label of the largest vote over their window, `iterations` times, all at once.

    `steps` lead to the others of a window, a box of pixels, and `neighbours` one pixel along an axis.

    See `_flood.cast_votes` for a vote. Only pixels that are not `held` and have a label change. `shares`
    (N, n_labels, or no rows) receives the votes of the last iteration; without one, 1 for the label there is.
    With `changed`, pixels vote in the first iteration if their window holds one of these.
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
        counts = _workers.run_over(task, ranges, workers)
        end = 0
        for (first, _), count in zip(ranges, counts, strict=True):
            following[end : end + count] = following[first : first + count]
            end += count
        return queue(following, end, active)

    def queue(changed: Array, n_changed: int, windows: Array) -> int:
        """List the pixels whose window holds one that has changed, and return how many they are."""
        task = functools.partial(_flood.queue_windows, labels, held, steps, changed, queued, windows)
        return _workers.collected(task, n_changed, _LOOK * len(steps))

    def cast(n_active: int, shares: Array) -> int:
        """Let the active pixels vote, and return how many of them have changed."""
        task = functools.partial(
            _flood.cast_votes, features, labels, zones, steps, scale, active, chosen, shares
        )
        _workers.run_ranges(task, n_active, workers, _BALLOT * len(steps))
        change = functools.partial(_flood.change_labels, labels, active, chosen, queued)
        return _workers.collected(change, n_active, _workers.LINEAR)

    rounds = iterations - wanted
    if rounds > 0:
        n_active = look() if changed is None else queue(changed, len(changed), active)
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


class Votes:
    """The votes over windows of one image, which follow labels as they change.

    See `vote` for the arguments. In the first call, pixels along all borders of labels vote once. In later
    ones, those alone do that other labels, or other pixels that are held, may change. The result is the same.
    From then on, pixels vote whose window has changed.
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
        if self._iterations == 0:
            return
        held = (seeds > 0).view(np.uint8)
        settled = labels.copy()
        try:
            last = self._last.pop()  # see `Floods.labels`
        except IndexError:
            self._vote(labels, held, 1, None, workers)
            changed = _differences(settled, labels)
        else:
            changed = self._follow(last, labels, names, held, workers)
        changed_to = labels[changed]
        self._vote(labels, held, self._iterations - 1, changed, workers)
        self._last[:] = [_Voted(names, settled, held, changed, changed_to)]

    def shares(self, labels: Array, n_labels: int, seeds: Array, workers: int) -> NDArray[np.float32]:
        """Change labels (N) likewise, and return their shares of the last votes (n_labels, N)."""
        shares = np.zeros((n_labels, labels.size), np.float32)
        vote(
            self._features, labels, self._zones, (seeds > 0).view(np.uint8), self._steps, self._neighbours,
            self._scale, self._iterations, shares.T, workers,
        )  # fmt: skip
        return shares

    def _vote(self, labels: Array, held: Array, iterations: int, changed: Array | None, workers: int) -> None:
        vote(
            self._features, labels, self._zones, held, self._steps, self._neighbours, self._scale,
            iterations, np.empty((0, 0), np.float32), workers, changed,
        )  # fmt: skip

    def _follow(
        self, last: _Voted, labels: Array, names: list[Any], held: Array, workers: int
    ) -> NDArray[np.int32]:
        """Let pixels vote once; return those that change."""
        before, changed_to = last.labels, last.changed_to
        if names != last.names:
            renumbered = _renumbered(last.names, names)
            before, changed_to = renumbered[before], renumbered[changed_to]
        n = len(labels)
        differing = _differences(before, labels)
        listed, voters = np.empty(n, np.int32), np.empty(n, np.int32)
        queued = np.zeros(n, np.uint8)
        n_listed = _flood.queue_pixels(
            labels, np.flatnonzero(held != last.held).astype(np.int32), queued, listed, 0
        )
        near = np.intersect1d(self._steps, self._neighbours)
        n_listed = _workers.collected(
            functools.partial(
                _flood.queue_differences, before, labels, near, self._steps, differing, queued, listed
            ),
            len(differing), _LOOK * len(self._steps), n_listed,
        )  # fmt: skip
        n_voters = _workers.collected(
            functools.partial(_flood.find_voters, labels, held, listed, voters), n_listed, _workers.LINEAR
        )
        chosen, changed = np.empty(n_voters, np.int32), np.empty(n, np.int32)
        task = functools.partial(
            _flood.cast_votes, self._features, labels, self._zones, self._steps, self._scale, voters,
            chosen, np.empty((0, 0), np.float32),
        )  # fmt: skip
        _workers.run_ranges(task, n_voters, workers, _BALLOT * len(self._steps))
        n_changed = _workers.collected(
            functools.partial(
                _flood.change_as_before, labels, queued, last.changed, changed_to, changed
            ),
            len(changed_to), _workers.LINEAR,
        )  # fmt: skip
        n_changed = _workers.collected(
            functools.partial(_flood.change_voters, labels, voters, chosen, changed),
            n_voters, _workers.LINEAR, n_changed,
        )  # fmt: skip
        return changed[:n_changed].copy()


def _differences(before: Array, labels: Array) -> NDArray[np.int32]:
    """Return the pixels that have another label than before."""
    pixels = np.empty(len(labels), np.int32)
    find = functools.partial(_flood.find_differences, before, labels, pixels)
    return pixels[: _workers.collected(find, len(labels), _workers.LINEAR)].copy()


class _Voted(NamedTuple):
    """What votes start from, and the pixels that the first one changes, with their labels."""

    names: list[Any]
    labels: Array
    held: Array
    changed: Array
    changed_to: Array


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
