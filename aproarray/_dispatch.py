"""Which backend serves a call: chosen by the type of its arrays, which must be the same for all of them."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from aproarray import _arrays
from aproarray._backend import Backend

if TYPE_CHECKING:
    from aproarray import cpu, gpu

    _BACKENDS: tuple[Backend, ...] = (cpu, gpu)  # both are what is declared


def _on_current_device(arrays: dict[str, Any]) -> None:
    current = sys.modules["cupy"].cuda.Device().id
    for name, array in arrays.items():
        if array.device.id != current:
            raise ValueError(
                f"{name} is on CUDA device {array.device.id}, but the current one is {current}: call under "
                f"`with cupy.cuda.Device({array.device.id}):`, with all arrays there"
            )


def backend(**arrays: Any) -> Backend:
    """Return the backend module that serves these arrays (None: not given), by their types alone."""
    given = {name: array for name, array in arrays.items() if array is not None}
    library = _arrays.one_library(given)
    if given and all(_arrays.is_cupy(array) for array in given.values()):
        _on_current_device(given)
        # By name: tests put another module in its place.
        return cast(Backend, importlib.import_module("aproarray.gpu"))
    for name, array in given.items():
        if hasattr(array, "__dask_graph__") and array.__dask_graph__() is not None:
            raise TypeError(
                f"{name} holds a dask array ({_arrays.kind_of(array)}), which is not in memory: pass "
                f"{name}.compute() if it fits there, or call this on overlapping blocks by "
                "dask.array.map_overlap"
            )
        if library != "numpy":
            raise TypeError(f"{name} must be a NumPy or CuPy array here, got a {_arrays.kind_of(array)}")
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(
                f"{name} is a numpy.ma.MaskedArray, whose mask would be lost: pass {name}.data, and "
                "mask=~numpy.ma.getmaskarray(...) where pixels are to take no part"
            )
    from aproarray import cpu

    return cpu


def cpu_backend(verb: str, **arrays: Any) -> ModuleType:
    """Return the NumPy backend, for what has no kernels on a device."""
    for name, array in arrays.items():
        if _arrays.is_cupy(array):
            raise TypeError(
                f"{name} is on a CUDA device, where {verb} does not run: "
                f"pass {name}.get(), or {name}.cpu() of a tensor"
            )
    backend(**arrays)
    from aproarray import cpu

    return cpu
