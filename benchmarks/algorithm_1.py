"""The paper's Algorithm 1 in C++ (`algorithm_1.cpp`), compiled when it is first asked for."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import Skip

Array = NDArray[Any]


def compiler() -> str:
    """Return the path of the C++ compiler: $CXX, or g++."""
    name = os.environ.get("CXX", "g++")
    path = shutil.which(name)
    if path is None:
        raise Skip(f"no C++ compiler: {name} not found (set CXX)")
    return path


@functools.cache
def _library() -> Any:
    source = Path(__file__).with_name("algorithm_1.cpp")
    # The library stays loaded when its file is gone.
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "algorithm_1.so"
        subprocess.run(
            [compiler(), "-O3", "-std=c++17", "-shared", "-fPIC", "-o", built, source],
            check=True,
        )
        library = ctypes.CDLL(str(built))
    for function in (library.boruvka_tree, library.algorithm_1):
        function.restype = None
    return library


def _pointer(array: Array) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def spanning_tree(image: Array) -> tuple[Array, Array]:
    """Return the tree edges (N-1, 2) and weights (N-1) of a float32 image (H, W, C)."""
    height, width, channels = image.shape
    edges = np.empty((height * width - 1, 2), np.int32)
    weights = np.empty(height * width - 1, np.float32)
    _library().boruvka_tree(_pointer(image), height, width, channels, _pointer(edges), _pointer(weights))
    return edges, weights


def propagate(values: Array, edges: Array, weights: Array, zeta: float) -> Array:
    """Return GP of float32 values (C, ...) over the tree, one channel after the other."""
    result = np.empty_like(values)
    for channel, out in zip(values, result, strict=True):
        _library().algorithm_1(
            _pointer(edges),
            _pointer(weights),
            _pointer(channel),
            channel.size,
            ctypes.c_double(zeta),
            _pointer(out),
        )
    return result
