"""Count what the kernels compile to, without a device: ``PYTHONPATH=. python tests/count_instructions.py``.

Prints for each kernel its instructions, registers, bytes of shared memory and of registers that spill. These
are counts of the code, not times: an instruction may run once or a thousand times. An instruction has 16
bytes in machine code, which is padded to a multiple of 128. Needs nvidia-cuda-nvrtc and cuda-bindings.
"""

from __future__ import annotations

import argparse
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import test_gpu_compiles as compiled

_INSTRUCTION = 16


class Counts(NamedTuple):
    """What a kernel compiles to."""

    kernel: str
    instructions: int
    registers: int
    shared: int
    spilled: int


def counts(source: str, constants: dict[str, Any], arch: str) -> Iterator[Counts]:
    """Yield the counts of each kernel of a source."""
    said, machine_code = compiled.compile_kernels(arch, source, constants)
    sizes = _text_sizes(machine_code)
    for part in re.split(r"Compiling entry function '", said)[1:]:
        name = part.partition("'")[0]
        numbers = [
            sum(map(int, re.findall(pattern, part)))
            for pattern in (r"Used (\d+) registers", r"(\d+) bytes smem", r"(\d+) bytes spill")
        ]
        yield Counts(name, sizes[name] // _INSTRUCTION, *numbers)


def _text_sizes(elf: bytes) -> dict[str, int]:
    """Return the bytes of each kernel's code in a cubin, which is an ELF file of 64 bits."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    entry_size, n_entries, names_at = struct.unpack_from("<HHH", elf, 58)
    entries = [struct.unpack_from("<IIQQQQ", elf, table + k * entry_size) for k in range(n_entries)]
    names = entries[names_at][4]
    found = {}
    for name_at, _, _, _, _, size in entries:
        begin = names + name_at
        name = elf[begin : elf.index(b"\0", begin)].decode()
        if name.startswith(".text."):
            found[name.removeprefix(".text.")] = size
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/count_instructions.py", description=__doc__)
    parser.add_argument("--only", metavar="SOURCE", choices=compiled.CONSTANTS, help="such as mst")
    parser.add_argument("--arch", default="sm_90")
    arguments = parser.parse_args()
    print(
        "| kernel | instructions | registers | shared bytes | spilled bytes |",
        "|---|---:|---:|---:|---:|",
        sep="\n",
    )
    for source, cases in compiled.CONSTANTS.items():
        if arguments.only in (None, source):
            for constants in cases:
                said = " ".join(f"{name}={value}" for name, value in constants.items() if name != "STEPS")
                for one in counts(source, constants, arguments.arch):
                    print(f"| {one.kernel} {said} | {' | '.join(map(str, one[1:]))} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
