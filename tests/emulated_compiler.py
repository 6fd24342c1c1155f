"""Compiles the kernels of the emulation by g++, each once for all processes and all runs."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

_HEADER = Path(__file__).parent / "emulation.h"
_FLAGS = ("-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing")
_KEPT_FOR = 14 * 24 * 3600  # seconds since the last use
_kept_in: Path | None = None


def keep(root: Path) -> None:
    """Keep what is compiled in a folder, for other processes and for later runs."""
    global _kept_in
    _kept_in = root


@functools.cache
def library(source: str) -> ctypes.CDLL:
    """Return the library of a source that includes emulation.h."""
    stem = _folder() / _digest(source)
    header = _folder() / _HEADER.name
    _write(header, _HEADER.read_text())
    _compile(header, header.with_suffix(".h.gch"), "-x", "c++-header")
    _write(stem.with_suffix(".cpp"), source)
    _compile(stem.with_suffix(".cpp"), stem.with_suffix(".so"), "-shared")
    return ctypes.CDLL(str(stem.with_suffix(".so")))


@functools.cache
def _folder() -> Path:
    """Return the folder of this header, these flags and this compiler. Remove others, and what is unused."""
    if _kept_in is None:
        temporary = tempfile.TemporaryDirectory(prefix="emulated_cupy_")
        weakref.finalize(_compile, temporary.cleanup)
        return Path(temporary.name)
    compiler = subprocess.run(["g++", "--version"], capture_output=True, check=True, timeout=60).stdout
    folder = _kept_in / _digest(compiler, _HEADER.read_bytes(), _FLAGS)
    if not folder.exists():
        for other in _kept_in.iterdir():
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        if file.stat().st_mtime < time.time() - _KEPT_FOR:
            file.unlink(missing_ok=True)
    return folder


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _write(target: Path, text: str) -> None:
    if not _is_there(target):
        _unfinished(target).write_text(text)
        _unfinished(target).replace(target)


def _compile(source: Path, target: Path, *kind: str) -> None:
    if not _is_there(target):
        command = ["g++", *_FLAGS, *kind, str(source), "-o", str(_unfinished(target))]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if result.returncode:
            raise RuntimeError(result.stderr)
        _unfinished(target).replace(target)


def _is_there(target: Path) -> bool:
    try:
        os.utime(target)
    except FileNotFoundError:
        return False
    return True


def _unfinished(target: Path) -> Path:
    """Return where a file is written before it takes its name: no process sees half of one."""
    return target.with_name(f"{os.getpid()}.{target.name}")
