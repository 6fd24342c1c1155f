"""A stand-in for CuPy on machines without a GPU: what aproarray uses of it, over NumPy, and no more.

An array is an opaque box, as a device array is: NumPy functions do not take it, `.get()` copies it out.
Kernels are the package's own sources, built by g++ over emulation.h, and run with blocks and
threads in an order that is shuffled anew in every launch.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
from types import SimpleNamespace
from typing import Any

import emulated_compiler
import numpy as np

__version__ = "0 (emulated)"
_N_MULTIPROCESSORS = 3


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):  # noqa: N801 - CuPy's name
    """Memory of the device. Only this module looks inside."""

    __module__ = "cupy"

    def __init__(self, host: Any):
        self._host = host

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if any(isinstance(x, np.ndarray) and x.ndim for x in inputs):
            raise TypeError(f"Unsupported type {np.ndarray}")
        with np.errstate(all="ignore"):
            return _boxed(getattr(ufunc, method)(*map(_opened, inputs), **_opened(options)))

    def __array_function__(self, function: Any, _: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"{function} of a device array: use the backend's own namespace")

    def __getitem__(self, key: Any) -> ndarray:
        return _boxed(self._host[_opened(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim:
            raise TypeError("Unsupported type ndarray")
        self._host[_opened(key)] = _opened(value)

    def __len__(self) -> int:
        return len(self._host)

    def __bool__(self) -> bool:
        return bool(self._host)

    def __int__(self) -> int:
        return int(self._host)

    def __float__(self) -> float:
        return float(self._host)

    def __index__(self) -> int:
        return self._host.__index__()

    def __format__(self, spec: str) -> str:
        return format(self._host.item() if spec else self._host, spec)

    def __reduce__(self) -> Any:
        return array, (self._host,)

    __hash__ = None  # type: ignore[assignment]

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self._host.ctypes.data)

    @property
    def flags(self) -> Any:
        flags = self._host.flags
        return SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous)

    @property
    def device(self) -> Any:
        return SimpleNamespace(id=0)

    def get(self) -> Any:
        return self._host.copy()


def _method(name: str) -> Any:
    def call(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        with np.errstate(all="ignore"):
            return _boxed(getattr(self._host, name)(*map(_opened, args), **_opened(kwargs)))

    return call


_METHODS = """
    all any argmax astype copy fill item max mean min ravel reshape squeeze sum take tolist transpose view
"""
for _name in _METHODS.split():
    setattr(ndarray, _name, _method(_name))
for _name in ("dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides"):
    setattr(ndarray, _name, property(lambda self, name=_name: getattr(self._host, name)))
ndarray.T = property(lambda self: _boxed(self._host.T))  # type: ignore[attr-defined]


def _opened(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, tuple | list):
        return type(value)(map(_opened, value))
    if isinstance(value, dict):
        return {key: _opened(item) for key, item in value.items()}
    return value


def _boxed(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(np.asarray(value))
    if isinstance(value, tuple | list):
        return type(value)(map(_boxed, value))
    return value


def _function(name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, np.ndarray) and x.ndim for x in args):
            raise TypeError(f"Unsupported type {np.ndarray}")
        with np.errstate(all="ignore"):
            return _boxed(getattr(np, name)(*map(_opened, args), **_opened(kwargs)))

    return call


_FUNCTIONS = """
    arange array_equal ascontiguousarray bincount broadcast_arrays broadcast_to cbrt clip concatenate
    count_nonzero cumsum exp flatnonzero full isfinite log log1p maximum may_share_memory median minimum
    moveaxis nonzero ones packbits partition ravel_multi_index rint roll sort sqrt stack take unique
    unravel_index where zeros
"""
for _name in _FUNCTIONS.split():
    globals()[_name] = _function(_name)


def byte_bounds(array: ndarray) -> tuple[int, int]:
    return np.lib.array_utils.byte_bounds(array._host)


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """Memory that nothing has been written to: whoever counts on zeros is found out."""
    result = np.empty(shape, dtype)
    result.view(np.uint8).fill(0xFF) if result.ndim and result.flags.c_contiguous else None
    return ndarray(result)


def copyto(target: ndarray, source: ndarray) -> None:
    target[...] = source


def empty_like(array: ndarray) -> ndarray:
    return empty(array.shape, array.dtype)


def asarray(value: Any, dtype: Any = None) -> ndarray:
    return ndarray(np.asarray(_opened(value), dtype))


def array(value: Any, dtype: Any = None) -> ndarray:
    return ndarray(np.array(_opened(value), dtype))


def asnumpy(value: Any) -> Any:
    return value.get() if isinstance(value, ndarray) else np.asarray(value)


class RawModule:
    """A module of kernels, compiled by g++ for each (code, options)."""

    def __init__(self, *, code: str, options: tuple[str, ...]):
        self._code, self._options = code, options

    def get_function(self, name: str) -> Any:
        return SimpleNamespace(kernel=_Function(_library(self._code, self._options), name))


# A kernel as the sources declare it, and a struct: its name, then what is in between.
_KERNEL = re.compile(r"^(?:COOPERATIVE_)?KERNEL (\w+)\((.*?)\) \{", re.MULTILINE | re.DOTALL)
_STRUCT = re.compile(r"^(?:template <typename T> )?struct (\w+) \{\n(.*?)^\};", re.MULTILINE | re.DOTALL)


def _members(body: str) -> list[str]:
    """Return the names of a struct's members, from the text between its braces."""
    text = re.sub(r"//.*|/\*.*?\*/|\[\w+\]", "", body.partition("__device__")[0])
    return [re.sub(r".*[ *]", "", name.strip()) for name in re.split(r"[,;]", text) if name.strip()]


def _offsets(code: str) -> str:
    """Return functions that tell where the members of a kernel's structs are, for every parameter."""
    structs = {name: _members(body) for name, body in _STRUCT.findall(code)}
    text = "#include <cstddef>\n"
    for kernel, parameters in _KERNEL.findall(code):
        parameters = re.sub(r"/\*.*?\*/", "", parameters)
        for place, parameter in enumerate(parameters.split(",")):
            kind = parameter.replace("const ", "", 1).strip().rpartition(" ")[0]
            members = structs.get(kind.partition("<")[0])
            if members is not None and "*" not in parameter:
                found = "".join(f'"{name} " << offsetof(S, {name}) << " " << ' for name in members)
                text += (
                    f'extern "C" const char *members_{kernel}_{place}() {{ using S = {kind}; '
                    f'static std::string text = (std::ostringstream() << {found}"").str(); '
                    "return text.c_str(); }\n"
                )
    return text


@functools.cache
def _library(code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    calls = "".join(
        f'extern "C" int launch_{name}(void **arguments, unsigned grid, unsigned block, int cooperative, '
        f"unsigned seed) {{ return emulation::call({name}, arguments, grid, block, cooperative, seed); }}\n"
        f'extern "C" int kinds_{name}(int *sizes) {{ return emulation::kinds({name}, sizes); }}\n'
        for name, _ in _KERNEL.findall(code)
    )
    defines = "".join(
        f"#define {option.removeprefix('-D').replace('=', ' ', 1)}\n"
        for option in options
        if option.startswith("-D")
    )
    return emulated_compiler.library(f'#include "emulation.h"\n{defines}{code}\n{calls}{_offsets(code)}')


def shuffle(seed: int) -> None:
    """Choose the orders in which threads and blocks run from here on."""
    _Function.launches = seed


class _Function:
    """A kernel. Its arguments are checked as a device would not: their sizes, and the layout of structs."""

    launches = 0

    def __init__(self, library: ctypes.CDLL, name: str):
        self.ptr, self._name = self, name
        self._launch = getattr(library, f"launch_{name}")
        sizes = (ctypes.c_int * 64)()
        count = getattr(library, f"kinds_{name}")(sizes)
        self._kinds = sizes[:count]
        self._structs = {}
        for place in range(count):
            members = getattr(library, f"members_{name}_{place}", None)
            if members is not None:
                members.restype = ctypes.c_char_p
                told = members().decode().split()
                self._structs[place] = dict(zip(told[::2], map(int, told[1::2]), strict=True))

    def __call__(self, grid: Any, block: Any, args: Any, *, enable_cooperative_groups: bool = False) -> None:
        assert len(args) == len(self._kinds), f"{self._name}: {len(args)} of {len(self._kinds)} arguments"
        packed = []
        for place, (value, kind) in enumerate(zip(args, self._kinds, strict=True)):
            where = f"{self._name}, argument {place}"
            if isinstance(value, ndarray):
                assert kind < 0, f"{where}: an array for a number"
                assert value._host.flags.c_contiguous, f"{where}: not contiguous"
                value = np.uintp(value._host.ctypes.data)
            if isinstance(value, np.ndarray):  # CuPy passes what is in its memory, if that is a struct
                assert value.dtype.names, f"{where}: an array of the host"
                given = {name: value.dtype.fields[name][1] for name in value.dtype.names}
                assert given == self._structs.get(place), f"{where}: {given}, not {self._structs.get(place)}"
            else:
                assert isinstance(value, np.generic), f"{where}: a {type(value).__name__} has no fixed size"
                assert place not in self._structs, f"{where}: a number for a struct"
            assert value.nbytes == abs(kind), f"{where}: {value.nbytes} bytes, expected {abs(kind)}"
            packed.append(np.array(value))
        pointers = (ctypes.c_void_p * len(packed))(*(value.ctypes.data for value in packed))
        _Function.launches += 1
        seed = int(os.environ.get("EMULATION_SEED", "0")) + _Function.launches
        if self._launch(pointers, grid[0], block[0], int(enable_cooperative_groups), seed):
            raise RuntimeError(f"{self._name}: threads wait for one another")


class Device:
    id = 0
    attributes = {"MultiProcessorCount": _N_MULTIPROCESSORS}  # noqa: RUF012

    def synchronize(self) -> None:
        """Nothing is ever left to wait for."""


class Event:
    """A moment; nothing takes any time here."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


class Stream(contextlib.nullcontext):
    def __init__(self, non_blocking: bool = False):
        super().__init__()


cuda = SimpleNamespace(
    Device=Device,
    Event=Event,
    Stream=Stream,
    get_elapsed_time=lambda start, stop: 0.0,
    profiler=SimpleNamespace(start=lambda: None, stop=lambda: None),
    driver=SimpleNamespace(
        occupancyMaxActiveBlocksPerMultiprocessor=lambda *_: 1, funcGetAttribute=lambda *_: 0
    ),
)
