"""Every kernel compiles for the devices that CUDA 12 and 13 know, which takes NVRTC but no GPU."""

import itertools
import re
from importlib import resources

import emulated_cupy
import pytest
from on_device import Device

from aproarray import _edges

nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="needs nvidia-cuda-nvrtc and cuda-bindings")

device = Device(emulated_cupy)
with device.active():
    from aproarray.gpu import _compile, _global, _local
    from aproarray.gpu._trees import steps_of

KEYS = [{"KEY": "u32", "REAL": "float"}, {"KEY": "u64", "REAL": "double"}]
REALS = ["float", "double"]


def grids():
    for shape, connectivity in [((2, 2), 1), ((2, 2, 2), 3)]:
        grid = _edges.grid(shape, connectivity)
        yield {"NDIM": len(shape), "N_STEPS": len(grid.offsets), "STEPS": steps_of(grid)}


WINDOWS = [
    {"REAL": real, "PIXEL": pixel, "DEEP": 4, "NDIM": ndim}
    for real, pixel, ndim in [("float", "float", 2), ("double", "float", 3), ("float", "double", 1)]
]
# The constants that the package compiles each source with.
CONSTANTS = {
    "radix_sort": [{"KEY": key["KEY"]} for key in KEYS],
    "mst": [{"KEY": key["KEY"]} for key in KEYS],
    "listed_edges": KEYS,
    "grid_edges": [key | grid for key, grid in itertools.product(KEYS, grids())],
    "minimax": [{"REAL": real} for real in REALS],
    "global_line": [{"KEY": key["KEY"]} for key in KEYS],
    "line_tiles": [{"KEY": key["KEY"]} for key in KEYS],
    "global_tiles": [
        {"REAL": real, "GAP": gap, "RESIDENT": _global.RESIDENT[4 if real == "float" else 8]}
        for real, gap in [("float", "float"), ("float", "double"), ("double", "float")]
    ],
    "global": [{"KEY": key["KEY"]} for key in KEYS],
    "global_gradients": [{"REAL": real, "GAP": "float"} for real in REALS],
    "feature_gradients": [{"REAL": real} for real in REALS],
    "rooted": [{}],
    "smoothing": [{}],
    "flood": [{}],
    "settle": [{}],
    "votes": [{}],
    "tree_filter": [{"REAL": real} for real in REALS],
    "tree_filter_gradients": [{"REAL": real} for real in REALS],
    "neighbours": [{"REAL": real, "NDIM": ndim} for real, ndim in [("float", 2), ("double", 3)]],
    "local_windows": WINDOWS,
    "local_gradients": WINDOWS,
    "local_gradients_tiles": [
        {"REAL": REALS[size // 4 - 1], "DEEP": 4, "RADIUS": radius, "TALL": tall}
        for (radius, size), (tall, _) in _local.TILES.items()
    ],
    "local_tiles": [
        {"REAL": real, "PIXEL": pixel, "DEEP": 4, "RADIUS": radius, "TALL": tall, "RESIDENT": resident}
        for (radius, size), (tall, resident) in _local.TILES.items()
        for real in REALS
        for pixel in REALS
        if size == (4 if real == "float" else 8)
    ],
}
CASES = [("sm_90", source, constants) for source, all_ in CONSTANTS.items() for constants in all_]
CASES += [("sm_75", source, all_[0]) for source, all_ in CONSTANTS.items()]
between = pytest.mark.slow("the kernels tell no architectures apart: oldest and newest are tried by default")
CASES += [pytest.param("sm_80", source, all_[0], marks=between) for source, all_ in CONSTANTS.items()]


def _code_of(source):
    with device.active():  # the sources are those of a package that imports CuPy
        return _compile.code_of(source)


def compile_kernels(arch, source, constants):
    """Return what the compiler says, and the machine code."""
    code = _code_of(source)
    # CuPy adds the flag, whatever one asks for.
    options = (
        *_compile.options_for(**constants), f"-arch={arch}", "-ftz=true", "--ptxas-options=-v"
    )  # fmt: skip
    _, program = nvrtc.nvrtcCreateProgram(code.encode(), b"kernels.cu", 0, None, None)
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = bytes(size + 1)  # written to: Python shares bytes of one or none with everybody
    nvrtc.nvrtcGetProgramLog(program, log)
    said = log.rstrip(b"\0").decode()
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, said
    _, size = nvrtc.nvrtcGetCUBINSize(program)
    machine_code = bytes(size)
    nvrtc.nvrtcGetCUBIN(program, machine_code)
    nvrtc.nvrtcDestroyProgram(program)
    return said, machine_code


def test_every_source_is_compiled():
    files = (resources.files("aproarray") / "gpu" / "kernels").iterdir()
    assert {file.name.removesuffix(".cu") for file in files if file.name.endswith(".cu")} == set(CONSTANTS)


@pytest.mark.parametrize(
    ("arch", "source", "constants"),
    CASES,
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_kernels_compile(arch, source, constants):
    said, machine_code = compile_kernels(arch, source, constants)
    assert machine_code
    assert not re.sub(r"^ptxas (info|  ).*$", "", said, flags=re.MULTILINE).strip(), said
    spilled = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", said)]
    assert len(spilled) == 2 * len(_compile.kernels_of(_code_of(source))), said
    assert max(spilled) == 0, said


def test_instructions_are_counted():
    import count_instructions  # which imports this

    counted = list(count_instructions.counts("rooted", {}, "sm_90"))
    assert {one.kernel for one in counted} == {"arc_nodes", "find_arcs", "lay_out_breadth_first"}
    for one in counted:
        assert 20 < one.instructions < 2000
        assert 8 <= one.registers <= 64
        assert one.spilled == 0
        assert (one.shared > 0) == (one.kernel == "lay_out_breadth_first")
