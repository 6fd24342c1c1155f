"""Threads: independent pieces of work, run in any order without changing the result."""

from __future__ import annotations

import functools
import itertools
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

# Pixels that are worked on between two looks at whether to go on, a pixel being about 20 ns of work. A thread
# should have an eighth of that to do, lest starting it takes longer.
STEP = 1 << 18
_PARTS = 8


def available_workers() -> int:
    """Return the CPUs that this process may use: its affinity, and its cgroup's quota where there is one."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        cpus = os.cpu_count() or 1
    return int(max(1, min(cpus, _quota())))


@functools.cache
def _quota() -> float:
    """Return the CPUs' worth of time that the process's cgroup had when this was first asked for."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.inf if quota == "max" else math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return math.inf


# What a pixel of a pass that reads and writes once takes, of a pixel's time in `STEP`.
LINEAR = 0.2


class Stopped(Exception):  # noqa: N818 - no error of its own
    """Raised in tasks that end because another one failed, or because the call was interrupted."""


_thread = threading.local()  # `stop`: an event that ends the tasks of this thread


def run(tasks: Sequence[Callable[[], Result]], workers: int) -> list[Result]:
    """Call all tasks, at most `workers` at a time.

    When one fails, or Ctrl-C interrupts the call, no other task is begun, those that run end at their next
    `check_stop`, and the error is raised once all have ended.
    """
    if min(workers, len(tasks)) <= 1:
        results = []
        for task in tasks:
            check_stop()
            results.append(task())
        return results
    stop = getattr(_thread, "stop", None) or threading.Event()

    def call(task: Callable[[], Result]) -> Result:
        _thread.stop = stop
        check_stop()
        return task()

    with ThreadPoolExecutor(min(workers, len(tasks))) as pool:
        futures = [pool.submit(call, task) for task in tasks]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if not all(future.done() for future in futures):
                stop.set()
    errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        raise error
    return [future.result() for future in futures]


def check_stop() -> None:
    """Raise `Stopped` if the tasks of this thread are to end."""
    stop = getattr(_thread, "stop", None)
    if stop is not None and stop.is_set():
        raise Stopped


def run_apart(function: Callable[..., Result], *args: object, pixels: float = math.inf) -> Result:
    """Call in a thread of its own, if many pixels are to be worked on; it ends when it is done.

    Ctrl-C interrupts the caller then, but not what was called, whose result is lost: for what cannot be left
    and resumed. Numba, too, if interrupted while it is imported or compiles, fails from then on.
    """
    if pixels <= STEP:
        return function(*args)
    pool = ThreadPoolExecutor(1)
    future = pool.submit(function, *args)
    pool.shutdown(wait=False)
    return future.result()


def threads_for(pixels: float, workers: int) -> int:
    """Return how many threads, at most `workers`, are worth starting for that many pixels."""
    return max(1, min(workers, int(_PARTS * pixels // STEP)))


def ranges(stop: int, workers: int, pixels: float) -> list[tuple[int, int]]:
    """Return ranges (first, last) that make up [0, stop), each number of which stands for so many pixels.

    No range is of more than STEP pixels, and there is one for each thread that is worth starting.
    """
    parts = max(math.ceil(stop * pixels / STEP), threads_for(stop * pixels, workers))
    parts = max(1, min(parts, stop))
    return list(itertools.pairwise(stop * part // parts for part in range(parts + 1)))


def run_ranges(task: Callable[[int, int], Result], stop: int, workers: int, pixels: float) -> list[Result]:
    """Call task(first, last) for ranges that make up [0, stop); see `ranges`."""
    return run([functools.partial(task, *bounds) for bounds in ranges(stop, workers, pixels)], workers)
