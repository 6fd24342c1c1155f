"""A copy of the repository whose compiled modules are built with other flags, in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PARTS = ["aproarray", "benchmarks", "docs", "examples", "tests", "README.md", "pyproject.toml", "setup.py"]


@contextlib.contextmanager
def built_with(flags: str) -> Iterator[Path]:
    """Build a copy with flags of the compiler, and yield its folder. Nothing is changed here."""
    with tempfile.TemporaryDirectory(prefix="aproarray_") as folder:
        copy = Path(folder)
        for name in _PARTS:
            if (_ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
                shutil.copytree(_ROOT / name, copy / name, ignore=ignored)
            elif (_ROOT / name).is_file():
                shutil.copy(_ROOT / name, copy)
        environment = os.environ | {"APROARRAY_CFLAGS": flags}
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        subprocess.run(build, cwd=copy, env=environment, check=True)
        yield copy
