"""A copy of the repository whose compiled modules are built with other flags."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PARTS = [
    ".ci", ".github", ".pre-commit-config.yaml", "CHANGELOG.md", "CITATION.cff", "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "README.md", "SECURITY.md", "aproarray", "benchmarks",
    "docs", "examples", "pyproject.toml", "setup.py", "tests",
]  # fmt: skip


def arguments(description: str | None) -> tuple[Path | None, list[str]]:
    """Read the command line: the folder to keep the copy in, and the arguments of pytest."""
    parser = argparse.ArgumentParser(
        description=(description or "").partition("\n")[0], epilog="Other arguments go to pytest."
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="where the copy is built and kept: later runs there need no build, and add to what it has found",
    )
    options, of_pytest = parser.parse_known_args()
    return options.folder, of_pytest


@contextlib.contextmanager
def built_with(flags: str, kept: Path | None = None) -> Iterator[Path]:
    """Build a copy with flags of the compiler, and yield its folder. Nothing is changed here.

    The folder is temporary, or `kept`, where it is built only once.
    """
    with contextlib.ExitStack() as stack:
        if kept is None:
            kept = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aproarray_")))
        copy = kept.absolute()
        for name in _PARTS:
            if (_ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
                shutil.copytree(_ROOT / name, copy / name, ignore=ignored, dirs_exist_ok=True)
            elif (_ROOT / name).is_file():
                shutil.copy2(_ROOT / name, copy)
        environment = os.environ | {"APROARRAY_CFLAGS": flags}
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        subprocess.run(build, cwd=copy, env=environment, check=True)
        yield copy
