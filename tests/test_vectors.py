"""The vectors that compiled loops are written with, and docs/design.md's description of them."""

import re
from pathlib import Path

import llvmlite.binding
import numba
import numpy as np
import pytest

from aproarray.cpu import _vectors as vectors

PAGE = Path(__file__).parents[1] / "docs" / "design.md"
SCALARS = {"f4": numba.types.float32, "f8": numba.types.float64}


def on_arrays(function, dtype):
    """Compile function(x, y, z, i) for contiguous arrays."""
    arrays = [SCALARS[dtype][::1]] * 3
    return numba.njit(numba.void(*arrays, numba.types.uint64))(function)


def load_and_store(x, y, z, i):
    vectors.store(z, i, vectors.load(x, i))


def store_zeros(x, y, z, i):
    vectors.store(z, i, vectors.zeros(x))


def subtract(x, y, z, i):
    vectors.store(z, i, vectors.subtract(vectors.load(x, i), vectors.load(y, i)))


def multiply(x, y, z, i):
    vectors.store(z, i, vectors.multiply(vectors.load(x, i), vectors.load(y, i)))


def multiply_add(x, y, z, i):
    vectors.store(z, i, vectors.multiply_add(vectors.load(x, i), vectors.load(y, i), vectors.load(z, i)))


EXPECTED = {
    load_and_store: lambda x, y, z: x,
    store_zeros: lambda x, y, z: 0 * x,
    subtract: lambda x, y, z: x - y,
    multiply: lambda x, y, z: x * y,
    multiply_add: lambda x, y, z: x * y + z,
}


@pytest.mark.parametrize("dtype", SCALARS)
@pytest.mark.parametrize("function", EXPECTED, ids=lambda function: function.__name__)
def test_vectors_do_what_numpy_does_at_every_place(function, dtype):
    compiled = on_arrays(function, dtype)
    n = vectors.BYTES // np.dtype(dtype).itemsize
    rng = np.random.default_rng(0)
    # Integers, so that one rounding and two are the same.
    x, y, z = rng.integers(-9, 10, (3, 3 * n)).astype(dtype)
    for place in range(2 * n + 1):
        result, part = z.copy(), slice(place, place + n)
        compiled(x, y, result, place)
        expected = z.copy()
        expected[part] = EXPECTED[function](x[part], y[part], z[part])
        np.testing.assert_array_equal(result, expected)


@pytest.mark.skipif(not PAGE.is_file(), reason="needs a checkout: the docs are not installed")
def test_the_page_shows_what_llvm_is_given(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    names = {}
    exec(compile(block, str(PAGE), "exec"), names)
    operations = [
        re.search(r"load|store|fsub|fmul contract|fadd contract", line).group()
        for line in capsys.readouterr().out.splitlines()
    ]
    assert sorted(operations) == ["fadd contract", "fmul contract", "fsub", "load", "load", "load", "store"]
    assert all("align 4" in line for line in names["llvm"] if "load" in line or "store" in line)
    if not numba.config.CPU_NAME and llvmlite.binding.get_host_cpu_features().get("fma"):
        assert names["fused"]
