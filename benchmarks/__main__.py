"""Print the table of comparisons: ``python -m benchmarks``, from the repository's root."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from benchmarks import machine, rows
from benchmarks.timing import Row, Skip

HEAD = ("what", "ours", "against", "theirs", "unit", "ratio", "ratio of")
RIGHT_ALIGNED = {"ours", "theirs", "ratio"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", metavar="NAME", default="", help=f"rows whose name has it: {', '.join(rows.ROWS)}"
    )
    parser.add_argument(
        "--repeats", metavar="N", type=int, default=7, help="pairs of calls per row (default 7)"
    )
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table there as well")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {arguments.repeats}")
    return arguments


def _measure(only: str, repeats: int) -> tuple[list[Row], list[str]]:
    measured, skipped = [], []
    for name, benchmark in rows.ROWS.items():
        if only not in name:
            continue
        start = time.perf_counter()
        try:
            for row in benchmark(repeats):
                measured.append(row)
                print(f"{row.what}: {_cells(row)[-2]}", file=sys.stderr, flush=True)
        except Skip as reason:
            skipped.append(f"{name}: {reason}")
            print(f"skipped {skipped[-1]}", file=sys.stderr)
        print(f"({name} took {time.perf_counter() - start:.0f} s)", file=sys.stderr)
    return measured, skipped


def _cells(row: Row) -> tuple[str, ...]:
    ours, theirs, ratio = (f"{x:.0f}" if x >= 100 else f"{x:.3g}" for x in (row.ours, row.theirs, row.ratio))
    return row.what, ours, row.against, theirs, row.unit, ratio, row.ratio_of


def _table(measured: list[Row]) -> list[str]:
    """Return the lines of the table, which is markdown and aligned."""
    lines = [HEAD, *map(_cells, measured)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [name in RIGHT_ALIGNED for name in HEAD]

    def line(cells: tuple[str, ...]) -> str:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(cells, widths, right, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = tuple(
        "-" * (width - 1) + (":" if to_right else "-") for width, to_right in zip(widths, right, strict=True)
    )
    return [line(lines[0]), line(rule), *map(line, lines[1:])]


def _markdown(table: list[str], skipped: list[str], command: str) -> str:
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Measured by this command, from the repository's root, after `pip install '.[benchmarks]'`:",
            "",
            f"    {command}",
            "",
            "The two sides of a row are called in turns, on one thread unless the row says more. The",
            "ratio is the median of the ratios of neighbouring calls. Where both sides should compute the",
            "same numbers, the row checks this first (trees: the same total weight). Peak memory is the",
            "memory of a call beyond its input and output.",
            "",
            *table,
            *(["", *(f"Not measured: {reason}." for reason in skipped)] if skipped else []),
            "",
            "On:",
            "",
            *(f"* {name}: {value}" for name, value in machine.describe().items()),
            "",
        ]
    )


def main() -> int:
    arguments = _arguments()
    for name, value in machine.describe().items():
        print(f"{name}: {value}")
    measured, skipped = _measure(arguments.only, arguments.repeats)
    if not measured and not skipped:
        print(f"no row's name has {arguments.only!r} in it: {', '.join(rows.ROWS)}", file=sys.stderr)
        return 2
    table = _table(measured)
    print("", *table, sep="\n")
    for reason in skipped:
        print(f"not measured: {reason}")
    if arguments.markdown:
        command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        arguments.markdown.write_text(_markdown(table, skipped, command), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
