"""Threads: independent pieces of work, run in any order without changing the result."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


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


def run(tasks: Sequence[Callable[[], None]], workers: int) -> None:
    """Call all tasks, at most `workers` at a time; the first error is raised once all have stopped."""
    if min(workers, len(tasks)) <= 1:
        for task in tasks:
            task()
        return
    with ThreadPoolExecutor(min(workers, len(tasks))) as pool:
        futures = [pool.submit(task) for task in tasks]
    for future in futures:
        future.result()
