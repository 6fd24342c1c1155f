"""The GPU backend without a GPU: its kernels, built by g++, run the tests of the CPU backend.

See `emulated_cupy`. Threads and blocks run in another order at every launch. Of a test's parameters and
examples, a few are taken (conftest.py): the rest is for devices, see test_gpu.py.
"""

import shutil

import emulated_cupy
import pytest
from on_device import TESTS, Device

if not shutil.which("g++"):
    pytest.skip("the emulation needs g++", allow_module_level=True)

device = Device(emulated_cupy, BLOCK=64, DIGIT_BITS=4)
for module, names in TESTS.items():
    globals().update(device.tests(module, names, max_examples=6))
