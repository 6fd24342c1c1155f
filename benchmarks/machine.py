"""What the numbers were measured on, and with which versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import aproarray
from benchmarks import algorithm_1
from benchmarks.timing import Skip

_PACKAGES = (
    "numpy", "numba", "scipy", "scikit-image", "higra", "torch",
    "rustworkx", "fast-hdbscan", "networkit", "opencv-python-headless", "SimpleITK", "PyMaxflow",
)  # fmt: skip


def describe() -> dict[str, str]:
    """Return the machine's description, by name."""
    return {
        "CPU": _cpu_model(),
        "cores": str(cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "aproarray": aproarray.__version__,
        **{name: _version(name) for name in _PACKAGES},
        "C++ compiler": _compiler_version(),
    }


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _compiler_version() -> str:
    try:
        command = [algorithm_1.compiler(), "--version"]
    except Skip as reason:
        return str(reason)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
