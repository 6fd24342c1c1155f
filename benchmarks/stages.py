"""Where the CPU backend's time goes: ns per pixel of every stage.

`python -m benchmarks.stages` prints the table of docs/performance.md, for one thread. With ``--serial``, it
prints which part of the work runs on one thread whatever their number, and what follows for more cores.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import aproarray
from aproarray.cpu import _mst, _processor
from benchmarks import inputs, machine

STAGES: dict[str, tuple[ModuleType, str]] = {
    "weigh, drop from squares": (_processor.weighing, "weigh_slabs"),
    "tiles: sort, union-find, runs": (_processor.tiles, "solve_tiles"),
    "count the runs": (_mst, "count_runs"),
    "number them": (_mst, "number_runs"),
    "name them": (_mst, "name_runs"),
    "lightest edges of pixels": (_processor.weighing, "find_lightest"),
    "pairs of pixels": (_processor.weighing, "find_pairs"),
    "count the edges left": (_processor.weighing, "count_unmarked"),
    "collect them": (_processor.weighing, "collect_unmarked"),
    "sort": (_mst, "sort_items"),
    "sort on threads: count": (_mst, "count_digits"),
    "sort on threads: move": (_mst, "move_by_digit"),
    "lists of pairs": (_processor.weighing, "join_pairs"),
    "lists of runs": (_mst, "lists_of_runs"),
    "union-find": (_mst, "connect"),
    "line of pixels": (_mst, "lay_out_nodes"),
    "places of runs": (_mst, "place_runs"),
    "line of runs": (_mst, "write_runs"),
    "moves of sweeps": (_processor.sweeps, "find_moves"),
    "the rest of them": (_processor.sweeps, "close_moves"),
    "exp": (_processor.sweeps, "affinities"),
    "gather": (_processor.sweeps, "gather"),
    "both sweeps": (_processor.sweeps, "sweep"),
    "scatter": (_processor.sweeps, "scatter"),
}
ALL = "all, with checks and memory"
# Stages that one thread does for a tree, whatever the number of workers.
SERIAL = {"sort", "union-find", "line of pixels", "places of runs", "the rest of them"}
SWEEPS = "both sweeps"


@contextlib.contextmanager
def timed(seconds: dict[str, float]) -> Iterator[None]:
    """Add to seconds the CPU time of each stage, of all threads."""
    lock = threading.Lock()

    def timing(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.thread_time()
            result = function(*args)
            elapsed = time.thread_time() - start
            with lock:
                seconds[stage] = seconds.get(stage, 0.0) + elapsed
            return result

        return call

    originals = {stage: getattr(module, name) for stage, (module, name) in STAGES.items()}
    for stage, (module, name) in STAGES.items():
        setattr(module, name, timing(stage, originals[stage]))
    try:
        yield
    finally:
        for stage, (module, name) in STAGES.items():
            setattr(module, name, originals[stage])


def measure(call: Callable[[], Any], pixels: int, repeats: int) -> dict[str, float]:
    """Return the median ns per pixel of every stage of a call, and of the whole."""
    runs = []
    for _ in range(repeats + 1):
        seconds: dict[str, float] = {}
        with timed(seconds):
            start = time.process_time()
            result = call()
            seconds[ALL] = time.process_time() - start
        del result
        runs.append(seconds)
    return {stage: 1e9 / pixels * statistics.median(run[stage] for run in runs[1:]) for stage in runs[0]}


def print_stages(repeats: int) -> None:
    """Print the ns per pixel of every stage on one thread."""
    columns: dict[str, dict[str, float]] = {}
    for side in (512, 2048):
        image = inputs.mosaic(side)
        tree = aproarray.mst(image, workers=1)
        columns[f"mst, {side}"] = measure(
            lambda image=image: aproarray.mst(image, workers=1), side**2, repeats
        )
        for channels, axis in ((1, -1), (21, -1), (21, 0)):
            if side > 512 and channels > 1:
                continue
            shape = (side, side, channels) if axis else (channels, side, side)
            values = inputs.values(shape)
            # A copy of a tree has nothing of what calls keep with it.
            columns[f"GP, {side}, {channels} ch, {'last' if axis else 'first'}"] = measure(
                lambda values=values, tree=tree, axis=axis: aproarray.global_propagate(
                    values, copy.copy(tree), zeta=0.02, channel_axis=axis, workers=1
                ),
                side**2,
                repeats,
            )
    for column, stages in columns.items():
        print(f"\n{column}")
        for stage, ns in stages.items():
            print(f"  {stage:32}{ns:8.1f}")


def print_serial(repeats: int) -> None:
    """Print, for a tree and GP over it, the work of one thread and of all, and the speed-ups that follow.

    The work is CPU time at that number of workers. A stage that is split is taken to be split evenly, and
    sweeps into two for each channel at most. All that is in no stage (checks, Python) is taken as serial.
    """
    print("predicted from CPU times, ns per pixel; speed-up over one worker")
    print(f"{'image, channels':16}{'workers':>8}{'serial':>8}{'all':>8}{'serial %':>10}{'speed-up':>10}")
    for side, channels in ((512, 1), (512, 21), (2048, 1), (2048, 21)):
        image, values = inputs.mosaic(side), inputs.values((side, side, channels))
        one_worker = 0.0
        for workers in (1, 4, 16, 64):

            def call(image: Any = image, values: Any = values, workers: int = workers) -> Any:
                tree = aproarray.mst(image, workers=workers)
                return aproarray.global_propagate(values, tree, zeta=0.02, channel_axis=-1, workers=workers)

            stages = measure(call, side**2, repeats)
            everything = stages.pop(ALL)
            split = {stage: ns for stage, ns in stages.items() if stage not in SERIAL}
            serial = everything - sum(split.values())
            sweeps = split.pop(SWEEPS)
            predicted = serial + sum(split.values()) / workers + sweeps / min(workers, 2 * channels)
            one_worker = one_worker or everything
            print(
                f"{f'{side}, {channels}':16}{workers:8}{serial:8.1f}{everything:8.1f}"
                f"{100 * serial / everything:10.1f}{one_worker / predicted:10.1f}"
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument(
        "--repeats", type=int, default=9, help="calls that are measured (default: %(default)s)"
    )
    parser.add_argument("--serial", action="store_true", help="count the work of one thread")
    arguments = parser.parse_args()
    print(f"{machine.describe()['CPU']}")
    (print_serial if arguments.serial else print_stages)(arguments.repeats)


if __name__ == "__main__":
    main()
