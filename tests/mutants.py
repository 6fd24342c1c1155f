"""Break the kernels, one line at a time, and see whether the emulation notices: ``python -m tests.mutants``.

A mutant lacks a barrier, or has a plain read and write in place of an atomic, or asks no other thread. It is
built in a copy of the repository, where the tests of the emulation that it may fail are run. Takes from
minutes to an hour; nothing is changed here. Prints a table of the mutants and what became of them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).parents[1]
_KERNELS = Path("aproarray/gpu/kernels")
_MUTATIONS = {
    r"__syncthreads\(\);": ";",
    r"grid_sync\(barrier\);": ";",
    r"team\.wait\(\);": ";",
    r"__syncthreads_or\(": "alone_or(",
    r"\batomicAdd\(": "plainAdd(",
    r"\batomicMin\(": "plainMin(",
    r"\batomicMax\(": "plainMax(",
}
_SECONDS = 900
# The tests that run a source's kernels, as pytest selects them. Others: all.
_TESTS = {
    "radix_sort": "mst or tree",
    "mst": "mst or tree",
    "minimax": "minimax",
    "global": "repeat or turns or finite_differences",
    "global_gradients": "finite_differences",
    "global_line": "repeat or turns or finite_differences",
    "global_tiles": "repeat or turns or finite_differences",
    "line_tiles": "repeat or turns or finite_differences",
    "local_tiles": "local or window",
    "local_gradients_tiles": "window",
    "local_gradients": "window",
    "tree_filter": "filter or breadth",
    "rooted": "breadth or no_forest",
    "grid_edges": "mst or tree",
    "listed_edges": "mst or tree",
    "flood": "floods",
    "settle": "settles",
}


class Mutant(NamedTuple):
    """A file of the kernels, with another text."""

    file: str
    line: int
    was: str
    text: str


def mutants() -> Iterator[Mutant]:
    """Yield every mutant there is."""
    for path in sorted((_ROOT / _KERNELS).iterdir()):
        text = path.read_text()
        # The emulation has a barrier of the grid of its own.
        begin = text.index("#endif", text.index("#ifndef EMULATED")) if "#ifndef EMULATED" in text else 0
        for pattern, replacement in _MUTATIONS.items():
            for found in re.finditer(pattern, text):
                if found.start() >= begin:
                    mutated = text[: found.start()] + replacement + text[found.end() :]
                    yield Mutant(path.name, text.count("\n", 0, found.start()) + 1, found[0], mutated)


def _fails(folder: Path, tests: str | None, seed: int) -> str | None:
    """Return which test fails in a copy of the repository, or None."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "tests/test_gpu_emulated.py",
        "tests/test_gpu_labels.py",
    ]
    environment = os.environ | {"EMULATION_SEED": str(1_000_000 * seed)}
    try:
        result = subprocess.run(
            [*command, *(["-k", tests] if tests else [])],
            cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no end after {_SECONDS} s"
    if result.returncode < 0:
        return "a crash"
    if result.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) \S*?::(\w+)", result.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(result.stdout + result.stderr)
    return found[1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", metavar="FILE", help="the mutants of one file, such as mst.cu")
    parser.add_argument(
        "--seeds", metavar="N", type=int, default=2, help="orders of threads to try (default 2)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants_") as temporary:
        folder = Path(temporary)
        for name in ("aproarray", "tests", "benchmarks", "examples"):
            shutil.copytree(_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(_ROOT / "pyproject.toml", folder)
        print("| mutant | killed by |", "|---|---|", sep="\n")
        killed = total = 0
        for mutant in mutants():
            if arguments.only not in (None, mutant.file):
                continue
            path = folder / _KERNELS / mutant.file
            before = path.read_text()
            path.write_text(mutant.text)
            tests = _TESTS.get(path.stem)
            by = next(filter(None, (_fails(folder, tests, seed) for seed in range(arguments.seeds))), None)
            path.write_text(before)
            total, killed = total + 1, killed + (by is not None)
            where = f"{mutant.file}:{mutant.line}"
            print(f"| {where} without `{mutant.was}` | {by or '**nothing**'} |", flush=True)
        print(f"\n{killed} of {total} mutants are killed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
