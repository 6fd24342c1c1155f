"""The checks for a device, in the emulation: so that they follow what they drive."""

import shutil
import subprocess
import sys
from pathlib import Path

import device_check
import emulated_cupy
import pytest
from on_device import Device

if not shutil.which("g++"):
    pytest.skip("the emulation needs g++", allow_module_level=True)

device = Device(emulated_cupy, BLOCK=64, DIGIT_BITS=4, SPAN=16, COLUMNS=3)
STEPS = {
    "smoke": (lambda: device_check.smoke(emulated_cupy, 12), "all results agree"),
    "kernels": (lambda: device_check.kernels(emulated_cupy, 24, (1, 2), 1), "x propagate_tiles REAL=float"),
    "soak": (lambda: device_check.soak(emulated_cupy, 0, [((9, 11), 2)]), "3 calls gave the same bits"),
    "profile": (lambda: device_check.profile(emulated_cupy, 20), "profiled"),
}


@pytest.mark.parametrize("step", STEPS)
def test_steps_run(step):
    run, expected = STEPS[step]
    with device.active():
        assert expected in run()


def test_every_step_is_run_here_and_by_the_script():
    assert set(STEPS) == set(device_check.STEPS)
    script = Path(__file__).with_name("device_check.sh").read_text()
    for step in STEPS:
        assert f"tests/device_check.py {step}" in script


def test_smoke_sees_a_wrong_result(monkeypatch):
    with device.active():
        gpu = sys.modules["aproarray.gpu"]
        right = gpu.pamr
        monkeypatch.setattr(gpu, "pamr", lambda *given: (right(*given), given[1].fill(0)))
        with pytest.raises(AssertionError, match="results differ by"):
            device_check.smoke(emulated_cupy, 5)


def test_the_script_goes_on_without_a_device(tmp_path):
    # It says what did not work, and ends in an error.
    environment = {
        "PATH": "/usr/bin:/bin",
        "OUT": str(tmp_path),
        "PYTHON": sys.executable,
        "STEPS": "env smoke",
    }
    script = Path(__file__).with_name("device_check.sh")
    result = subprocess.run(
        ["bash", str(script)],
        env=environment,
        cwd=script.parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 1, result.stdout
    summary = (tmp_path / "summary.txt").read_text()
    assert "-- smoke: failed" in summary
    assert summary.splitlines()[-1].startswith("1 step")
