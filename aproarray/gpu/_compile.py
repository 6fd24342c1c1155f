"""Kernels: the .cu files beside this module, compiled by NVRTC when first needed, once for each device.

Everything runs on CuPy's current stream and device, and nothing here waits for the device.
"""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import Any

import cupy
import numpy as np

# Threads of a block. Kernels take it as a constant, and are held to 1024 threads on a multiprocessor.
BLOCK = 512
# Bits of a key that one pass of the radix sort looks at.
DIGIT_BITS = 8
# Positions of a line that a block takes into shared memory, and columns of them: 48 kB with all else.
SPAN, COLUMNS = 256, 11


class Struct:
    """A struct that a kernel takes by value: its members in the order of the dtype they are laid out by.

    An array among them gives its address, and lives as long as the struct: memory that is free again may
    be another array's before the launch.
    """

    __slots__ = ("members", "packed")

    def __init__(self, kind: np.dtype[Any], *members: Any):
        self.members = members
        # CuPy passes the bytes of a NumPy array by value ("custom user types" in its guide to kernels).
        self.packed = np.array(tuple(map(_address, members)), kind)


def _address(member: Any) -> Any:
    if not isinstance(member, cupy.ndarray):
        return member
    if not member.flags.c_contiguous:
        raise AssertionError("kernels take contiguous arrays")
    return member.data.ptr


def code_of(source: str) -> str:
    """Return the text of kernels/<source>.cu, with every header where it is first included."""
    folder = resources.files("aproarray") / "gpu" / "kernels"
    seen = set()

    def text_of(file: str) -> str:
        if file in seen:
            return ""
        seen.add(file)
        text = (folder / file).read_text(encoding="utf-8")
        return re.sub(r'^#include "(.+)"$', lambda found: text_of(found[1]), text, flags=re.MULTILINE)

    return text_of(source + ".cu")


def kernels_of(code: str) -> dict[str, bool]:
    """Return the names of a source's kernels, and whether each is a COOPERATIVE_KERNEL."""
    found = re.findall(r"^(COOPERATIVE_)?KERNEL (\w+)\(", code, re.MULTILINE)
    return {name: bool(cooperative) for cooperative, name in found}


def options_for(**defines: Any) -> tuple[str, ...]:
    """Return the compiler's options. Nothing here may change what a weight is, see exact_add."""
    constants = {"BLOCK": BLOCK, "DIGIT_BITS": DIGIT_BITS, "SPAN": SPAN, "COLUMNS": COLUMNS, **defines}
    return ("-std=c++17", *(f"-D{name}={value}" for name, value in constants.items()))


class Kernel:
    """A kernel on one device, launched over things to do: ``kernel(n, *arguments)``."""

    def __init__(self, source: str, name: str, **defines: Any):
        code = code_of(source)
        self.name, self.defines = name, defines
        self.function = cupy.RawModule(code=code, options=options_for(**defines)).get_function(name).kernel
        self.cooperative = kernels_of(code)[name]
        per_multiprocessor = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
            self.function.ptr, BLOCK, 0
        )
        multiprocessors = cupy.cuda.Device().attributes["MultiProcessorCount"]
        # A cooperative launch fails if its blocks are not all resident; others profit from a few waves.
        self.most_blocks = per_multiprocessor * multiprocessors * (1 if self.cooperative else 8)

    def n_blocks(self, n: int) -> int:
        """Return how many blocks work on n things."""
        return max(1, min(int(self.most_blocks), -(-n // BLOCK)))

    @staticmethod
    def n_tiles(n: int) -> int:
        """Return how many tiles of one thing per thread n things make."""
        return -(-n // BLOCK)

    def __call__(self, n: int, *arguments: Any) -> None:
        """Launch enough threads for n things. The barrier of a cooperative kernel comes last, by itself."""
        passed = [a.packed if isinstance(a, Struct) else a for a in arguments]
        if self.cooperative:
            passed.append(cupy.zeros(1, np.uint32))
        self.function((self.n_blocks(n),), (BLOCK,), passed, enable_cooperative_groups=self.cooperative)


def kernel(source: str, name: str, **defines: Any) -> Kernel:
    """Return a kernel of kernels/<source>.cu for the current device, compiled with these constants."""
    return _kernel(cupy.cuda.Device().id, source, name, tuple(defines.items()))


@functools.cache
def _kernel(_device: int, source: str, name: str, defines: tuple[tuple[str, Any], ...]) -> Kernel:
    return Kernel(source, name, **dict(defines))
