"""Kernels: the .cu files beside this module, compiled by NVRTC when first needed, once for each device.

Everything runs on CuPy's current stream and device, and nothing here waits for the device.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import cupy
import numpy as np

# Threads of a block. Kernels take it as a constant, and are held to 1024 threads on a multiprocessor.
BLOCK = 512
# Bits of a key that one pass of the radix sort looks at.
DIGIT_BITS = 8


def code_of(source: str) -> str:
    """Return the text of kernels/<source>.cu, as it is compiled."""
    folder = resources.files("aproarray") / "gpu" / "kernels"
    return "".join((folder / file).read_text(encoding="utf-8") for file in ("common.cuh", source + ".cu"))


def options_for(**defines: Any) -> tuple[str, ...]:
    """Return the compiler's options. Nothing here may change what a weight is, see exact_add."""
    constants = {"BLOCK": BLOCK, "DIGIT_BITS": DIGIT_BITS, **defines}
    return ("-std=c++17", *(f"-D{name}={value}" for name, value in constants.items()))


class Kernel:
    """A kernel on one device, launched over things to do: ``kernel(n, *arguments)``."""

    def __init__(self, source: str, name: str, **defines: Any):
        code = code_of(source)
        self._function = cupy.RawModule(code=code, options=options_for(**defines)).get_function(name).kernel
        self._cooperative = "grid_sync(" in code[code.index(f"KERNEL {name}(") :].partition("\nKERNEL ")[0]
        per_multiprocessor = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
            self._function.ptr, BLOCK, 0
        )
        multiprocessors = cupy.cuda.Device().attributes["MultiProcessorCount"]
        # A cooperative launch fails if its blocks are not all resident; others profit from a few waves.
        self._most_blocks = per_multiprocessor * multiprocessors * (1 if self._cooperative else 8)

    def n_blocks(self, n: int) -> int:
        """Return how many blocks work on n things."""
        return max(1, min(int(self._most_blocks), -(-n // BLOCK)))

    @staticmethod
    def n_tiles(n: int) -> int:
        """Return how many tiles of one thing per thread n things make."""
        return -(-n // BLOCK)

    def __call__(self, n: int, *arguments: Any) -> None:
        """Launch enough threads for n things. A cooperative kernel's last argument is its barrier."""
        if self._cooperative:
            arguments = (*arguments, cupy.zeros(1, np.uint32))
        self._function((self.n_blocks(n),), (BLOCK,), arguments, enable_cooperative_groups=self._cooperative)


def kernel(source: str, name: str, **defines: Any) -> Kernel:
    """Return a kernel of kernels/<source>.cu for the current device, compiled with these constants."""
    return _kernel(cupy.cuda.Device().id, source, name, tuple(defines.items()))


@functools.cache
def _kernel(_device: int, source: str, name: str, defines: tuple[tuple[str, Any], ...]) -> Kernel:
    return Kernel(source, name, **dict(defines))
