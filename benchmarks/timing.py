"""Measuring two things so that their ratio means something on a noisy machine; what a row of the table is."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratio` is the median of paired ratios, not the ratio of the medians."""

    what: str
    ours: float
    against: str
    theirs: float
    ratio: float
    ratio_of: str = "theirs / ours"
    unit: str = "ms"


class Skip(Exception):  # noqa: N818 - nothing went wrong
    """A row that cannot be measured here, and why."""


def paired(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int) -> tuple[list[float], list[float]]:
    """Return the seconds that each took, called alternately `pairs` times after one warm-up each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for measured in range(-1, pairs):
        for function, times in zip((ours, theirs), seconds, strict=True):
            start = time.perf_counter()
            result = function()
            elapsed = time.perf_counter() - start
            del result  # giving the memory back is not part of the work
            if measured >= 0:
                times.append(elapsed)
    return seconds


def speedup(what: str, against: str, ours: Any, theirs: Any, pairs: int) -> Row:
    """Return a row in ms whose ratio says how many times faster ours is."""
    a, b = paired(ours, theirs, pairs)
    ratios = [their / our for our, their in zip(a, b, strict=True)]
    return Row(
        what, 1e3 * statistics.median(a), against, 1e3 * statistics.median(b), statistics.median(ratios)
    )


def cost(
    what: str,
    against: str,
    ours: Any,
    theirs: Any,
    pairs: int,
    *,
    per: tuple[int, int] = (1, 1),
    scale: float = 1e3,
    unit: str = "ms",
) -> Row:
    """Return a row whose ratio says how many times more ours takes, of `unit` = 1/`scale` s `per` so much."""
    a, b = paired(ours, theirs, pairs)
    a, b = [scale * s / per[0] for s in a], [scale * s / per[1] for s in b]
    ratios = [our / their for our, their in zip(a, b, strict=True)]
    return Row(
        what,
        statistics.median(a),
        against,
        statistics.median(b),
        statistics.median(ratios),
        "ours / theirs",
        unit,
    )


def check_equal(ours: Any, theirs: Any, rtol: float, what: str) -> None:
    """Raise unless all of ours is within rtol of theirs."""
    worst = float(np.max(np.abs(np.asarray(ours, np.float64) / np.asarray(theirs, np.float64) - 1)))
    if not worst <= rtol:
        raise AssertionError(f"{what}: results differ by {worst:.2g} relative, more than {rtol:g}")


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    """Hold this thread, and those it starts, to one CPU: for libraries that would use more unasked."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
