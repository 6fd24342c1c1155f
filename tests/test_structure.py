"""What holds the package together: backends that are alike."""

import importlib
import inspect

import emulated_cupy
import pytest
from on_device import Device

from aproarray import cpu
from aproarray._backend import Backend

device = Device(emulated_cupy)
with device.active():
    gpu = importlib.import_module("aproarray.gpu")

FUNCTIONS = [name for name, value in vars(Backend).items() if inspect.isfunction(value) and name[0] != "_"]


def parameters(function):
    """Return names, kinds and defaults, in their order."""
    given = inspect.signature(function).parameters.values()
    return [(one.name, one.kind, one.default) for one in given]


@pytest.mark.parametrize("backend", [cpu, gpu], ids=["cpu", "gpu"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_backends_have_the_declared_signatures(backend, name):
    declared = parameters(getattr(Backend, name))[1:]  # without self
    assert parameters(getattr(backend, name)) == declared


def test_backends_list_what_is_declared():
    declared = {*FUNCTIONS, "xp"}
    assert set(gpu.__all__) == declared
    assert set(cpu.__all__) >= declared
