"""Threads: independent pieces of work, run in any order without changing the result."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


def available_cpus() -> int:
    """Return the CPUs that this process may use: its affinity, and its cgroup's quota where there is one."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        cpus = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cpus if quota == "max" else max(1, min(cpus, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cpus


def run(tasks: Sequence[Callable[[], Result]], workers: int) -> list[Result]:
    """Call all tasks, at most `workers` at a time; the first error is raised once all have stopped."""
    if min(workers, len(tasks)) <= 1:
        return [task() for task in tasks]
    with ThreadPoolExecutor(min(workers, len(tasks))) as pool:
        futures = [pool.submit(task) for task in tasks]
    return [future.result() for future in futures]


def ranges(stop: int, workers: int) -> list[tuple[int, int]]:
    """Return ranges (first, last) that make up [0, stop), one for each worker."""
    parts = max(1, min(workers, stop))
    return list(itertools.pairwise(stop * part // parts for part in range(parts + 1)))


def run_ranges(task: Callable[[int, int], Result], stop: int, workers: int) -> list[Result]:
    """Call task(first, last) for ranges that make up [0, stop), one for each worker."""
    return run([functools.partial(task, *bounds) for bounds in ranges(stop, workers)], workers)
