"""Which backend serves a call: chosen by the type of its arrays, which must be the same for all of them.

Dask arrays are served by verbs of their own, in `aproarray.chunked`.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import numpy as np

from aproarray import _arrays
from aproarray._backend import Backend

if TYPE_CHECKING:
    from aproarray import cpu, gpu

    _BACKENDS: tuple[Backend, ...] = (cpu, gpu)  # both are what is declared

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def _is_chunked(value: Any) -> bool:
    """Return whether this is a dask array or the tree of one; where dask was not imported, there are none."""
    kinds = (("dask.array", "Array"), ("aproarray.chunked", "ChunkedTree"))
    return any(
        name in sys.modules and isinstance(value, getattr(sys.modules[name], kind)) for name, kind in kinds
    )


def takes_dask(verb: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let the verb of that name in `aproarray.chunked` serve the calls that have dask arrays."""

    @functools.wraps(verb)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if any(map(_is_chunked, (*args, *kwargs.values()))):
            chunked: Any = getattr(importlib.import_module("aproarray.chunked"), verb.__name__)
            return cast(Result, chunked(*args, **kwargs))
        return verb(*args, **kwargs)

    return call


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
                "dask.array.map_overlap. The package's functions take dask arrays, such as the .data of an "
                "xarray.DataArray; its classes do not"
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
