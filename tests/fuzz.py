"""Look for wrong results with random calls until the time is up: ``python -m tests.fuzz --minutes 10``.

Every public function is called (`fuzz_cases.py`), one case after the other, each time with another seed.
Calls run in a process of their own: a crash or a call that hangs is found, too. Prints what failed and how to
repeat it, and a table of counts. Exits with 1 if anything failed. A failure that was mended is kept in FOUND,
which test_fuzz.py runs again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # as under pytest
from fuzz_cases import CASES

NEEDS = {
    "chunks_of_dask": "dask",
    "labels_and_scores_of_dask": "dask",
    "tensors": "torch",
    "arrays_of_jax": "jax",
}
FOUND: list[tuple[str, int, str]] = [
    ("bad_arguments", 1935, "an ignore_index beyond int64 was an OverflowError"),
    ("bad_arguments", 2977, "keypoints of next to no size: warnings of overflow"),
    ("bad_arguments", 6247, "a random walk with an infinite gamma: NaN"),
]
"""Case, seed and fault of what the fuzzer ever found.

Where a case changes what it draws, its seeds say nothing any more: each fault has a test of its own, too.
"""
PATIENCE = 120  # seconds, after which a call hangs
BATCH = 20  # seeds of one case that a process gets at once


def run(name: str, seed: int) -> None:
    """Run one case with one seed. Raises what it raises."""
    CASES[name](np.random.default_rng([zlib.crc32(name.encode()), seed]))


def _report(name: str, first: int, count: int, progress: str) -> list[tuple[int, str]]:
    """Run some seeds, in the process for it; return those that failed, and how."""
    failures = []
    for seed in range(first, first + count):
        Path(progress).write_text(str(seed))
        try:
            run(name, seed)
        except Exception:
            failures.append((seed, traceback.format_exc()))
    return failures


def _start() -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _stop(pool: concurrent.futures.ProcessPoolExecutor) -> None:
    for process in multiprocessing.active_children():
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)


def main() -> int:
    """Run the fuzzer and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="time box (default: %(default)s)")
    parser.add_argument(
        "--only", choices=sorted(CASES), metavar="CASE", help=f"one of {', '.join(sorted(CASES))}"
    )
    parser.add_argument("--first-seed", type=int, default=0, help="where seeds begin (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="run this one alone, in this process")
    parser.add_argument("--most", type=int, default=20, help="failures to stop after (default: %(default)s)")
    options = parser.parse_args()

    names = [options.only] if options.only else list(CASES)
    missing = {package for name, package in NEEDS.items() if name in names and not find_spec(package)}
    if missing:
        parser.error(f"needs {', '.join(sorted(missing))}: pip install '.[test]'")
    if options.seed is not None:
        for name in names:
            run(name, options.seed)
        return 0

    runs: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    progress = Path(tempfile.gettempdir()) / f"aproarray_fuzz_{os.getpid()}"
    end, seed, pool = time.monotonic() + 60 * options.minutes, options.first_seed, _start()
    try:
        while time.monotonic() < end and failed.total() < options.most:
            for name in names:
                if time.monotonic() >= end:
                    break
                try:
                    call = pool.submit(_report, name, seed, BATCH, str(progress))
                    failures = call.result(PATIENCE * 2 if seed == options.first_seed else PATIENCE)
                except (concurrent.futures.BrokenExecutor, TimeoutError) as error:
                    what = "hangs" if isinstance(error, TimeoutError) else "ends the process"
                    failures = [(int(progress.read_text()), f"the call {what}")]
                    _stop(pool)
                    pool = _start()
                runs[name] += BATCH
                for number, text in failures:
                    failed[name] += 1
                    print(f"\n{text}FAILED: python -m tests.fuzz --only {name} --seed {number}", flush=True)
            seed += BATCH
    except KeyboardInterrupt:
        print("interrupted")
    finally:
        _stop(pool)
        progress.unlink(missing_ok=True)
    print("\n| case | runs | failed |", "|---|---:|---:|", sep="\n")
    for name in names:
        print(f"| {name} | {runs[name]} | {failed[name]} |")
    print(f"| all, seeds {options.first_seed} to {seed - 1} | {runs.total()} | {failed.total()} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
