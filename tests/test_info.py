"""`python -m aproarray info`: what is there, and why something is not."""

import builtins
import re
import sys

import emulated_cupy
import pytest
from on_device import Device

import aproarray
from aproarray.__main__ import main


def lines(capsys):
    assert main(["info"]) == 0
    return dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())


@pytest.fixture
def without_cupy(monkeypatch):
    real = builtins.__import__

    def imported(name, *args, **kwargs):
        if name == "cupy":
            raise ModuleNotFoundError("No module named 'cupy'", name="cupy")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", imported)


@pytest.mark.usefixtures("without_cupy")
def test_info_names_versions_and_backends(capsys):
    found = lines(capsys)
    assert found["numpy"] == sys.modules["numpy"].__version__
    assert found["aproarray"] == aproarray.__version__
    assert re.fullmatch(r"[\w.-]+ with [\w., ]+", found["processor"])
    assert re.match(r"available, \d+ CPUs, sweeps by _sweep", found["cpu backend (NumPy arrays)"])
    assert "CuPy is not installed; pip install 'aproarray[cuda13]'" in found["gpu backend (CuPy arrays)"]


def test_info_says_why_a_device_cannot_be_used(capsys):
    # The stand-in has no runtime that knows of devices.
    with Device(emulated_cupy).active():
        found = lines(capsys)
    assert found["gpu backend (CuPy arrays)"].startswith("not available: AttributeError: ")
