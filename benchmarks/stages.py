"""Where the CPU backend's time goes: ns per pixel of every stage, on one thread.

`python -m benchmarks.stages` prints the table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import aproarray
from aproarray.cpu import _mst, _processor
from benchmarks import inputs, machine

STAGES: dict[str, tuple[ModuleType, str]] = {
    "weigh, drop from squares": (_processor.weighing, "weigh_slabs"),
    "tiles: sort, union-find, runs": (_mst, "solve_tiles"),
    "number the runs": (_mst, "number_runs"),
    "count the edges left": (_mst, "count_unmarked"),
    "collect them": (_mst, "collect_unmarked"),
    "sort, union-find": (_mst, "connect"),
    "line of pixels": (_mst, "lay_out_nodes"),
    "places of runs": (_mst, "place_runs"),
    "line of runs": (_mst, "write_runs"),
    "moves of sweeps": (_processor.sweeps, "line_moves"),
    "exp": (_processor.sweeps, "affinities"),
    "gather": (_processor.sweeps, "gather"),
    "both sweeps": (_processor.sweeps, "sweep"),
    "scatter": (_processor.sweeps, "scatter"),
}


@contextlib.contextmanager
def timed(seconds: dict[str, float]) -> Iterator[None]:
    """Add to seconds the CPU time of each stage."""

    def timing(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.process_time()
            result = function(*args)
            seconds[stage] = seconds.get(stage, 0.0) + time.process_time() - start
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
            seconds["all, with checks and memory"] = time.process_time() - start
        del result
        runs.append(seconds)
    return {stage: 1e9 / pixels * statistics.median(run[stage] for run in runs[1:]) for stage in runs[0]}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument(
        "--repeats", type=int, default=9, help="calls that are measured (default: %(default)s)"
    )
    repeats = parser.parse_args().repeats
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
    print(f"{machine.describe()['CPU']}, one thread, ns per pixel")
    for column, stages in columns.items():
        print(f"\n{column}")
        for stage, ns in stages.items():
            print(f"  {stage:32}{ns:8.1f}")


if __name__ == "__main__":
    main()
