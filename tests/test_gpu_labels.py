"""Labels and refined scores over device arrays, in the emulation."""

import shutil
import sys

import emulated_cupy
import label_tests
import pytest
from on_device import Device

if not shutil.which("g++"):
    pytest.skip("the emulation needs g++", allow_module_level=True)

device = Device(emulated_cupy, BLOCK=64, DIGIT_BITS=4, SPAN=16, COLUMNS=3)
globals().update({name: test for name, test in vars(label_tests).items() if name.startswith("test_")})


@pytest.fixture
def there():
    with device.active():
        yield label_tests.There(emulated_cupy, sys.modules["aproarray.gpu"], tolerance=0)
