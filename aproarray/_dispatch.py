"""Which backend serves an array: chosen by the array's type, which must be the same for the whole call."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import numpy as np


def _library(array: Any) -> str:
    """Return the library that an array-like belongs to."""
    if isinstance(array, np.ndarray | np.generic | list | tuple | int | float | complex):
        return "numpy"
    return type(array).__module__.partition(".")[0]


def _kind(array: Any) -> str:
    return f"{type(array).__module__}.{type(array).__qualname__}".removeprefix("builtins.")


def is_cupy(array: Any) -> bool:
    """Return whether this is a CuPy array; where CuPy has not been imported, there are none."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def on_host(array: Any) -> Any:
    """Return a CuPy array as a NumPy array, which waits for the device, and anything else as it is."""
    return array.get() if is_cupy(array) else array


def _on_current_device(arrays: dict[str, Any]) -> None:
    current = sys.modules["cupy"].cuda.Device().id
    for name, array in arrays.items():
        if array.device.id != current:
            raise ValueError(
                f"{name} is on CUDA device {array.device.id}, but the current one is {current}: call under "
                f"`with cupy.cuda.Device({array.device.id}):`, with all arrays there"
            )


def backend(**arrays: Any) -> ModuleType:
    """Return the backend module that serves these arrays (None: not given), by their types alone."""
    given = {name: array for name, array in arrays.items() if array is not None}
    libraries = {name: _library(array) for name, array in given.items()}
    if len(set(libraries.values())) > 1:
        kinds = ", ".join(f"{name} is a {_kind(array)}" for name, array in given.items())
        raise TypeError(f"all arrays of one call must be of one library, but {kinds}")
    if given and all(is_cupy(array) for array in given.values()):
        _on_current_device(given)
        return importlib.import_module("aproarray.gpu")
    for name, array in given.items():
        if libraries[name] != "numpy":
            raise TypeError(f"{name} must be a NumPy or CuPy array, got a {_kind(array)}")
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(
                f"{name} is a numpy.ma.MaskedArray, whose mask would be lost: pass {name}.data, and "
                "mask=~numpy.ma.getmaskarray(...) where pixels are to take no part"
            )
    from aproarray import cpu

    return cpu
