"""Labels and refined scores over device arrays, in the emulation: those of the CPU.

What is compared bit for bit is so by design: floods, smoothed colours, reliefs, the stages after them. Colours of
CIELAB, logarithms and exponentials are rounded in other ways on a device; see docs/gpu.md.
"""

import math
import shutil
import sys

import emulated_cupy
import numpy as np
import pytest
from on_device import Device

import aproarray
from aproarray import _edges, cpu

if not shutil.which("g++"):
    pytest.skip("the emulation needs g++", allow_module_level=True)

device = Device(emulated_cupy, BLOCK=64, DIGIT_BITS=4)


def to_device(array):
    return emulated_cupy.asarray(array)


@pytest.fixture
def gpu():
    with device.active():
        yield sys.modules["aproarray.gpu"]


def padded_case(rng, shape, levels, n_seeds, walls):
    """Return reliefs (2, N) of few heights, and seeds (N), padded by pixels that take no part."""
    padded = tuple(extent + 2 for extent in shape)
    inner = (slice(1, -1),) * len(shape)
    reliefs = np.zeros((2, *padded), np.float32)
    reliefs[(slice(None), *inner)] = rng.integers(levels, size=(2, *shape)) / np.float32(max(levels - 1, 1))
    seeds = np.full(padded, -1, np.int32)
    seeds[inner] = np.where(rng.random(shape) < walls, -1, 0)
    at = tuple(rng.integers(extent, size=n_seeds) for extent in shape)
    seeds[inner][at] = rng.integers(1, 4, n_seeds)
    return padded, reliefs.reshape(2, -1), seeds.reshape(-1)


@pytest.mark.parametrize(
    "shape", [(70, 45), (1, 90), (90, 1), (33, 31), (100,), (7, 9, 11), (2, 3, 4, 5), (1, 1)], ids=str
)
@pytest.mark.parametrize("levels", [1, 2, 3, 40, 1 << 20])
def test_floods_are_the_cpus_bit_for_bit(gpu, shape, levels):
    rng = np.random.default_rng(levels + math.prod(shape))
    for walls, n_seeds in ((0, 2), (0.3, 6), (0.1, 30)):
        padded, reliefs, seeds = padded_case(rng, shape, levels, n_seeds, walls)
        steps = _edges.flat_steps(padded, _edges.hops(len(padded)))
        with cpu.Floods(reliefs, steps, padded, None).labels(seeds, [1, 2, 3], 1) as maps:
            theirs = np.stack(maps)
        with gpu.Floods(to_device(reliefs), steps, padded, None).labels(to_device(seeds), [1, 2, 3], 1) as maps:
            ours = np.stack([labels.get() for labels in maps])
        np.testing.assert_array_equal(ours, theirs)
