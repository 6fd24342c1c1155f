"""Peak memory of one call, beyond its input and output, in a process of its own (Linux).

``python -m benchmarks.memory IMAGE.npy tree`` or ``... lp KERNEL_SIZE`` prints bytes per pixel. What counts
is the resident memory that the kernel reports, so that no allocator is overlooked: compiled
kernels allocate where tracemalloc does not look.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import aproarray
from benchmarks.timing import Skip

Array = NDArray[Any]

# Blocks freed by the warm-up must not be there to be taken again unseen.
_RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
_RESET_PEAK = Path("/proc/self/clear_refs")


def peak(image: Array, *call: str) -> float:
    """Return the bytes per pixel that a call on this image takes at most beyond its input and output."""
    if not os.access(_RESET_PEAK, os.W_OK):
        raise Skip("peak memory is measured through Linux's /proc")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.npy"
        np.save(path, image)
        output = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", path, *call],
            env={**os.environ, **_RETURN_FREED_MEMORY},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
    return float(output)


def _status(name: str) -> int:
    """Return a line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


def _measure(function: Callable[[], list[Array]]) -> int:
    _RESET_PEAK.write_text("5")
    before = _status("VmRSS")
    outputs = function()
    return _status("VmHWM") - before - sum(array.nbytes for array in outputs)


def _call(what: str, image: Array, values: Array, kernel_size: int) -> list[Array]:
    if what == "tree":
        tree = aproarray.mst(image, workers=1)
        return [tree.order, tree.gaps, tree.gap_edges]
    return [aproarray.local_propagate(values, image, zeta=0.034, kernel_size=kernel_size, workers=1)]


def _main() -> None:
    image = np.load(sys.argv[1])
    kernel_size = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    values = np.random.default_rng(0).random(image.shape[:2], np.float32)
    small = np.s_[:64, :64]
    _call(sys.argv[2], image[small], values[small], kernel_size)
    print(_measure(lambda: _call(sys.argv[2], image, values, kernel_size)) / values.size)


if __name__ == "__main__":
    _main()
