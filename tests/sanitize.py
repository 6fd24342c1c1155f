"""Run the tests with checks of every memory access of compiled code: ``python -m tests.sanitize``.

Builds the Cython modules in a copy of the repository with gcc's address and undefined-behaviour sanitizers,
and runs the tests of the CPU there. Other arguments go to pytest. Numba's kernels are not looked into, but
memory that they write outside of an array of NumPy's may be noticed. Takes a quarter of an hour on two cores,
on Linux with gcc. Needs ``pip install '.[test,compile]'``. Prints what the sanitizers have to say, and a
count. Exits with 1 if they say anything or a test fails. With ``--folder``, later runs need no build.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.instrumented import arguments, built_with

FLAGS = "-O0 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=float-divide-by-zero"
# No compiled code of ours runs in the first ones, and the last one measures memory.
SKIPPED = ["test_gpu*.py", "test_device_check.py", "test_docs.py", "test_structure.py", "test_napari.py"]


def _library(name: str) -> str:
    found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def environment(reports: Path) -> dict[str, str]:
    """Return the environment in which Python loads the sanitizers first, and their reports go to a folder."""
    options = f"log_path={reports}/report:print_stacktrace=1"
    return os.environ | {
        # Without the C++ library, the sanitizer does not find how exceptions are thrown.
        "LD_PRELOAD": " ".join(map(_library, ("libasan.so", "libubsan.so", "libstdc++.so"))),
        # Python frees little at its end. Tests ask for more memory than there is.
        "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:{options}",
        "UBSAN_OPTIONS": options,
        "PYTHONMALLOC": "malloc",  # a block of its own for each object
    }


def _said(report: Path) -> str:
    """Return what a report says, but for arrays that are larger than any memory: tests ask for some."""
    lines = report.read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if "AddressSanitizer failed to allocate" not in line)


def main() -> int:
    """Build, run the tests, print the reports; return the exit code."""
    kept, of_pytest = arguments(__doc__)
    with built_with(FLAGS, kept) as folder:
        reports = folder / "reports"
        reports.mkdir(exist_ok=True)
        ignored = [f"--ignore-glob=*/{pattern}" for pattern in SKIPPED]
        arguments_or_all = of_pytest or ["tests", *ignored]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments_or_all]
        tests = subprocess.run(command, cwd=folder, env=environment(reports)).returncode
        found = list(filter(None, map(_said, sorted(reports.iterdir()))))
    print(*found, f"{len(found)} reports of the sanitizers", sep="\n\n")
    return 1 if tests or found else 0


if __name__ == "__main__":
    sys.exit(main())
