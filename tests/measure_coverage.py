"""Measure which lines the tests reach, of Python and of Cython: ``python -m tests.measure_coverage``.

Builds a copy of the repository with gcc's counters, and runs the tests there under coverage.py. gcc counts
what threads do without the GIL, where Cython's own line trace would take the GIL for each line. Of Python,
lines and branches count; of Cython, lines, since most branches of its C code are its own. Numba's kernels are
not counted. Other arguments go to pytest. Prints a table, and exits with 1 if a floor is missed. Needs gcc
and ``pip install '.[coverage]'``. With ``--folder``, several runs of some tests each add up to one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from tests.instrumented import arguments, built_with

FLOORS = {"Python, lines": 96.5, "Python, branches": 92.5, "Cython, lines": 97.5}
"""Percent: what was measured (docs/reliability.md), less a small margin."""


def cython_lines(folder: Path) -> dict[str, dict[int, bool]]:
    """Return, for each Cython file, the lines that make code, and whether any copy of them has run.

    A line is many in C: one for each type it is compiled for. C that Cython does not mark as a line's own,
    such as declarations and its utilities, seems to follow the line before it: such numbers are left out.
    """
    made_code = set()
    for translated in (folder / "build" / "cython").rglob("*.c"):
        made_code.update(re.findall(r'^#line (\d+) "(aproarray/.*)"$', translated.read_text(), re.MULTILINE))
    lines: dict[str, dict[int, bool]] = defaultdict(dict)
    for counters in sorted((folder / "build").rglob("*.gcda")):
        command = ["gcov", "--json-format", "--stdout", str(counters)]
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
        for report in map(json.loads, made.splitlines()):
            for file in report["files"]:
                if (folder / file["file"]).is_file():  # ours, not Cython's own
                    for line in file["lines"]:
                        number, of_file = line["line_number"], lines[file["file"]]
                        if (str(number), file["file"]) in made_code:
                            of_file[number] = of_file.get(number, False) or line["count"] > 0
    return {name: of for name, of in lines.items() if of}


def _python(folder: Path) -> tuple[list[tuple[str, float, str]], dict[str, int]]:
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "combine", "-q", "--append"], cwd=folder, check=True)
    # Some tests import a copy of the package, which is gone by now.
    of_this_copy = ["--include", "aproarray/*"]
    subprocess.run([*coverage, "json", "-q", *of_this_copy, "-o", "coverage.json"], cwd=folder, check=True)
    report = json.loads((folder / "coverage.json").read_text())
    rows = []
    for name, file in sorted(report["files"].items()):
        missed = [str(line) for line in file["missing_lines"]]
        missed += [
            f"{a}>{'exit' if b < 0 else b}" for a, b in file["missing_branches"] if str(a) not in missed
        ]
        rows.append((name, file["summary"]["percent_covered"], ", ".join(missed)))
    return rows, report["totals"]


def main() -> int:
    """Build, run the tests, print the table; return the exit code."""
    kept, of_pytest = arguments(__doc__)
    with built_with("-O0 --coverage -fprofile-update=atomic", kept) as folder:
        command = [
            sys.executable,
            "-m",
            "coverage",
            "run",
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            *of_pytest,
        ]
        tests = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}).returncode
        rows, of_python = _python(folder)
        lines = cython_lines(folder)
    cython = [has_run for of in lines.values() for has_run in of.values()]
    measured = {
        "Python, lines": 100 * of_python["covered_lines"] / of_python["num_statements"],
        "Python, branches": 100 * of_python["covered_branches"] / of_python["num_branches"],
        "Cython, lines": 100 * sum(cython) / len(cython),
    }
    for name, of in sorted(lines.items()):
        missed = ", ".join(str(number) for number, has_run in sorted(of.items()) if not has_run)
        rows.append((name, 100 * sum(of.values()) / len(of), missed))
    print("\n| file | % | not reached |", "|---|---:|---|", sep="\n")
    for name, percent, missed in rows:
        print(f"| {name} | {percent:.1f} | {missed} |")
    print()
    for what, floor in FLOORS.items():
        print(f"{what}: {measured[what]:.1f} % (at least {floor})")
    return 1 if tests or any(measured[what] < floor for what, floor in FLOORS.items()) else 0


if __name__ == "__main__":
    sys.exit(main())
