"""The benchmarks of the GPU backend, in the emulation: that they run, and that what they compare agrees."""

import contextlib
import shutil

import emulated_cupy
import numpy as np
import pytest
from on_device import Device

if not shutil.which("g++"):
    pytest.skip("the emulation needs g++", allow_module_level=True)
torch = pytest.importorskip("torch")
gpu = pytest.importorskip("benchmarks.gpu")

device = Device(emulated_cupy, BLOCK=64, DIGIT_BITS=4, SPAN=16, COLUMNS=3)


class Emulated(gpu.Device):
    """The emulation, whose calls take a millisecond each, by its own account."""

    divisor = 64

    def properties(self):
        return "an emulation", 1 << 10

    def median_ms(self, call, rotated):
        super().median_ms(call, rotated[:2])
        return 1.0

    def copies(self, n_bytes):
        return 2

    def to_torch(self, array):
        return torch.from_numpy(array.get())

    def from_torch(self, tensor):
        return emulated_cupy.asarray(tensor.numpy())

    def torch_stream(self):
        return contextlib.nullcontext()


@pytest.mark.parametrize("name", gpu.ROWS)
def test_rows_are_measured(name, monkeypatch):
    # Photographs come from an extra.
    rng = np.random.default_rng(0)
    monkeypatch.setattr(gpu.inputs, "mosaic", lambda side: rng.random((side, side, 3), np.float32))
    with device.active():
        one = Emulated(1)
        rows = list(gpu.ROWS[name](one))
    lines = gpu._lines(rows, one)
    assert len(lines) == 2 + len(rows) > 2
    for row in rows:
        assert row.ms == 1
        assert row.megabytes > 0
    compared = {"lp": "torch Unfold 1 ms", "apro": "APro as published, copies both ways, 1 ms"}
    if name in compared:
        assert compared[name] in lines[-1]
