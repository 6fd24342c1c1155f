"""Threads: independent pieces of work, run in any order without changing the result."""

from __future__ import annotations

import _thread
import collections
import functools
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

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


_local = threading.local()  # `stop`: an event that ends the tasks of this thread
# Seconds after which a thread that was started, and has not begun, is no longer waited for.
_PATIENCE = 1.0
# Seconds between two looks of a thread that waits for another one.
_LOOK = 0.05


def run(tasks: Sequence[Callable[[], Result]], workers: int) -> list[Result]:
    """Call all tasks, at most `workers` at a time. This thread takes its share of them.

    When one fails, or Ctrl-C interrupts the call, no other task is begun. Those that run end at their next
    `check_stop`. The error is raised once all have ended. A task belongs to a thread when that takes it, and
    not before: where threads cannot be started, or die as they start, the others do the work.
    """
    if min(workers, len(tasks)) <= 1:
        results = []
        for task in tasks:
            check_stop()
            results.append(task())
        return results
    outer = getattr(_local, "stop", None)
    stop = outer or threading.Event()
    waiting = collections.deque(enumerate(tasks))
    found: dict[int, Result] = {}
    errors: list[BaseException] = []
    running = 0
    changed = threading.Condition()

    def work(apart: bool) -> None:
        nonlocal running
        _local.stop = stop
        try:
            while True:
                with changed:
                    if not waiting:
                        return
                    number, task = waiting.popleft()
                    running += apart
                try:
                    check_stop()
                    found[number] = task()
                finally:
                    with changed:
                        running -= apart
                        changed.notify()
        except BaseException as error:
            errors.append(error)
            stop.set()

    try:
        for _ in range(min(workers, len(tasks)) - 1):
            if not _start(functools.partial(work, True)):
                break
        work(False)
    except KeyboardInterrupt as error:  # between two tasks
        errors.append(error)
        stop.set()
    _local.stop = outer
    while True:
        try:
            with changed:
                if errors:
                    waiting.clear()
                while running:
                    changed.wait(_PATIENCE)
            break
        except KeyboardInterrupt as error:
            errors.append(error)
            stop.set()
    try:
        if errors:
            raise min(errors, key=lambda error: isinstance(error, Stopped))
    finally:
        errors.clear()  # whose tracebacks hold this frame, and all arrays of the tasks
    return [found[number] for number in range(len(tasks))]


def _start(function: Callable[[], None]) -> bool:
    """Start a thread, if the system lets us.

    `threading.Thread.start` waits until the thread has begun: for good, if it dies before for want of memory.
    """
    try:
        _thread.start_new_thread(function, ())
    except (RuntimeError, MemoryError):
        return False
    return True


def check_stop() -> None:
    """Raise `Stopped` if the tasks of this thread are to end."""
    stop = getattr(_local, "stop", None)
    if stop is not None and stop.is_set():
        raise Stopped


def run_apart(function: Callable[..., Result], *args: object, pixels: float = math.inf) -> Result:
    """Call in a thread of its own, if many pixels are to be worked on; it ends when it is done.

    Ctrl-C interrupts the caller then, but not what was called, whose result is lost: for what cannot be left
    and resumed. Numba, too, if interrupted while it is imported or compiles, fails from then on. Where no
    thread can be started, or it does not begin, this thread makes the call.
    """
    if pixels <= STEP:
        return function(*args)
    turn = collections.deque([None])  # one thread takes it
    done = threading.Event()
    found: list[Result] = []
    errors: list[BaseException] = []
    left = False  # by the caller, so that an error would stay in a circle with the frame of `call`

    def call() -> None:
        try:
            turn.popleft()
        except IndexError:  # the caller did not wait any longer
            return
        try:
            found.append(function(*args))
        except BaseException as error:
            if not left:
                errors.append(error)
        finally:
            done.set()

    patience = _PATIENCE if _start(call) else 0
    try:
        while not done.is_set():
            if turn and patience <= 0:
                call()
            done.wait(_LOOK)
            patience -= _LOOK
            check_stop()
        if errors:
            raise errors[0]
    finally:
        left = True
        errors.clear()
    return found[0]


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


def collected(function: Callable[[int, int, int], int], stop: int, pixels: float, count: int = 0) -> int:
    """Call function(first, last, count) for ranges that make up [0, stop), and return the last count.

    For work in this thread that goes on from what it has counted; see `ranges`.
    """
    for first, last in ranges(stop, 1, pixels):
        check_stop()
        count = function(first, last, count)
    return count


def run_ranges(task: Callable[[int, int], Result], stop: int, workers: int, pixels: float) -> list[Result]:
    """Call task(first, last) for ranges that make up [0, stop); see `ranges`."""
    return run_over(task, ranges(stop, workers, pixels), workers)


def run_over(
    task: Callable[..., Result], bounds: Sequence[tuple[int, int]], workers: int, *each: Iterable[Any]
) -> list[Result]:
    """Call task(*own, first, last) for these ranges, a range's own arguments being its items of `each`."""
    own = zip(*each, strict=True) if each else itertools.repeat((), len(bounds))
    return run(
        [functools.partial(task, *args, *ends) for args, ends in zip(own, bounds, strict=True)], workers
    )
