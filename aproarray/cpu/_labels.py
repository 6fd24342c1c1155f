"""Labels from seeds: floods of several reliefs at once, and votes. Pieces are some milliseconds of work."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aproarray.cpu import _flood, _workers

__all__ = ["flood", "vote"]

Array = NDArray[Any]

# What one pixel takes, in pixels of `_workers.STEP`: of a flood, of a window's votes or a look at it for each
# pixel of the window.
_FLOOD = 8
_BALLOT = 1.0
_LOOK = 0.1


def flood(
    reliefs: Array,
    maps: Array,
    steps: Array,
    workers: int,
    shape: tuple[int, ...] = (),
    spacing: tuple[float, ...] | None = None,
) -> None:
    """Flood labels maps (M, N) over their reliefs (M, N).

    See `_flood.Flood`, or with a spacing of the axes of shape `_flood.SpacedFlood`.
    """

    def one(relief: Array, labels: Array) -> None:
        heaviest = 2 * float(relief.max(initial=0))
        if spacing is None:
            state: _flood.Flood | _flood.SpacedFlood = _flood.Flood(relief, labels, steps, heaviest)
        else:
            state = _flood.SpacedFlood(relief, labels, steps, heaviest, shape, spacing)
        while state.run(max(1, _workers.STEP // _FLOOD)):
            _workers.check_stop()

    if len(steps):
        _workers.run(
            [functools.partial(one, *pair) for pair in zip(reliefs, maps, strict=True)],
            _workers.threads_for(maps.size, workers),
        )


def vote(
    features: Array,
    labels: Array,
    zones: Array,
    held: Array,
    steps: Array,
    scale: float,
    iterations: int,
    shares: Array,
    workers: int,
) -> None:
    """Give pixels the label of the largest vote over their window, `iterations` times, all at once.

    See `_flood.cast_votes` for a vote. Only pixels that are not `held` and have a label change. `shares`
    (N, n_labels, or no rows) receives the votes of the last iteration; without one, 1 for the label there is.
    """
    n = len(labels)
    wanted = len(shares) > 0
    active = np.empty(n, np.int32)
    following, chosen = np.empty_like(active), np.empty_like(active)
    queued = np.zeros(n, np.uint8)

    def look() -> int:
        """Make the pixels with a mixed window the active ones."""
        ranges = _workers.ranges(n, workers, _LOOK * len(steps))
        counts = _workers.run(
            [
                functools.partial(_flood.with_mixed_window, labels, held, steps, active, *bounds)
                for bounds in ranges
            ],
            workers,
        )
        end = 0
        for (first, _), count in zip(ranges, counts, strict=True):
            active[end : end + count] = active[first : first + count]
            end += count
        return end

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
        n_active = 0
        for first, last in _workers.ranges(n_changed, 1, _LOOK * len(steps)):
            _workers.check_stop()
            n_active = _flood.queue_windows(
                labels, held, steps, active, queued, following, first, last, n_active
            )
        active, following = following, active
    if wanted:
        own = functools.partial(_flood.own_shares, labels, shares)
        _workers.run_ranges(own, n, workers, _workers.LINEAR)
        cast(look() if iterations else 0, shares)
