"""Calls of Python functions by XLA, on arrays over XLA's own memory: inputs are not copied, nor are results.

`jax.pure_callback` copies results, which takes half as long as to propagate 21 channels. XLA's foreign
function interface calls a C function with the addresses of the buffers. ctypes makes it of a Python one.
The structs are those of xla/ffi/api/c_api.h, whose layout major version 0 of that interface keeps.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aproarray.jax import _host

_TARGET = "aproarray_call"
_METADATA = 1  # the type of the extension by which XLA asks for the version
_EXECUTE = 3
_INVALID_ARGUMENT, _INTERNAL = 3, 13
_DTYPES = {1: np.bool_, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 11: np.float32, 12: np.float64}
_POINTER, _SIZE, _INT, _INT64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64


def _version() -> tuple[int, int]:
    """Return the version of the interface that JAX comes with: handlers must name it."""
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text(encoding="utf-8")
    major, minor = map(int, re.findall(r"^#define XLA_FFI_API_M(?:AJ|IN)OR (\d+)", header, flags=re.M))
    if major != 0:
        raise ImportError(
            f"aproarray.jax knows version 0 of XLA's FFI, but JAX {jax.__version__} has {major}"
        )
    return major, minor


_VERSION = _version()


class _Extension(ctypes.Structure):
    _fields_ = [("struct_size", _SIZE), ("type", _INT), ("next", _POINTER), ("metadata", _POINTER)]


class _Version(ctypes.Structure):
    _fields_ = [("struct_size", _SIZE), ("extension", _POINTER), ("major", _INT), ("minor", _INT)]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", _SIZE), ("version", _Version)]


class _ErrorArgs(ctypes.Structure):
    _fields_ = [
        ("struct_size", _SIZE),
        ("extension", _POINTER),
        ("message", ctypes.c_char_p),
        ("code", _INT),
    ]


_ErrorCreate = ctypes.CFUNCTYPE(_POINTER, ctypes.POINTER(_ErrorArgs))


class _Api(ctypes.Structure):
    _fields_ = [
        ("struct_size", _SIZE),
        ("extension", _POINTER),
        ("version", _Version),
        ("internal", _POINTER),
        ("create_error", _ErrorCreate),
    ]


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("struct_size", _SIZE),
        ("extension", _POINTER),
        ("dtype", _INT),
        ("data", _POINTER),
        ("rank", _INT64),
        ("dims", ctypes.POINTER(_INT64)),
    ]


class _Buffers(ctypes.Structure):
    _fields_ = [
        ("struct_size", _SIZE),
        ("extension", _POINTER),
        ("size", _INT64),
        ("types", _POINTER),
        ("buffers", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    ]


class _Text(ctypes.Structure):
    _fields_ = [("start", _POINTER), ("length", _SIZE)]


class _Attributes(ctypes.Structure):
    _fields_ = [
        ("struct_size", _SIZE),
        ("extension", _POINTER),
        ("size", _INT64),
        ("types", _POINTER),
        ("names", _POINTER),
        ("values", ctypes.POINTER(ctypes.POINTER(_Text))),
    ]


class _Frame(ctypes.Structure):
    _fields_ = [
        ("struct_size", _SIZE),
        ("extension", ctypes.POINTER(_Extension)),
        ("api", ctypes.POINTER(_Api)),
        ("context", _POINTER),
        ("stage", _INT),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    ]


def _arrays(buffers: _Buffers, writeable: bool) -> list[Any]:
    """Return arrays over buffers."""
    arrays = []
    for buffer in (buffers.buffers[i].contents for i in range(buffers.size)):
        shape, dtype = buffer.dims[: buffer.rank], np.dtype(_DTYPES[buffer.dtype])
        memory = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(buffer.data or 0)
        array: Any = (
            np.frombuffer(memory, dtype).reshape(shape) if math.prod(shape) else np.empty(shape, dtype)
        )
        array.setflags(write=writeable)
        arrays.append(array)
    return arrays


def _tuples(value: Any) -> Any:
    """Return what JSON made of nested tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@functools.lru_cache(maxsize=1024)
def _planned(plan: bytes) -> Callable[[list[Any], list[Any]], None]:
    """Return the call that a plan describes, of arrays given and memories of results."""
    name, places, named_places, options = json.loads(plan)
    function: Callable[..., Any] = getattr(_host, name)
    options = {name: _tuples(value) for name, value in options.items()}
    writes = "out" in inspect.signature(function).parameters

    def on_arrays(given: list[Any], memories: list[Any]) -> None:
        args, named = jax.tree.map(given.__getitem__, (places, named_places))
        in_place = {"out": memories[0]} if writes else {}
        computed = function(*args, **named, **options, **in_place)
        for memory, result in zip(memories, computed, strict=True):
            if not np.may_share_memory(memory, result):
                memory[...] = result

    return on_arrays


def _call_back(pointer: Any) -> int | None:
    frame = pointer.contents
    if frame.extension and frame.extension.contents.type == _METADATA:
        version = _Metadata.from_address(frame.extension.contents.metadata).version
        version.major, version.minor = _VERSION
        return None
    try:
        if frame.stage == _EXECUTE:
            text = frame.attributes.values[0].contents
            plan = ctypes.string_at(text.start, text.length)
            _planned(plan)(_arrays(frame.arguments, False), _arrays(frame.results, True))
        return None
    except BaseException as error:  # to C, none can be raised
        wrong = isinstance(error, ValueError)
        message = str(error) if wrong else f"{type(error).__name__}: {error}"
        code = _INVALID_ARGUMENT if wrong else _INTERNAL
        arguments = _ErrorArgs(ctypes.sizeof(_ErrorArgs), None, message.encode(), code)
        made: int | None = frame.api.contents.create_error(ctypes.byref(arguments))
        return made


_handler = ctypes.CFUNCTYPE(_POINTER, ctypes.POINTER(_Frame))(_call_back)
_capsule = jax.ffi.pycapsule(_handler)  # type: ignore[no-untyped-call]
jax.ffi.register_ffi_target(_TARGET, _capsule, platform="cpu")


def call(
    function: Callable[..., Any],
    results: tuple[Any, ...],
    args: tuple[Any, ...],
    named: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    """Return the results of a function of `_host`, by one call for all items of `jax.vmap`.

    The arrays in args and named become NumPy's; options are JSON's numbers and nested tuples. A function with
    a parameter `out` gets the memory of its first result, and returns what it has written there.
    """
    flat, structure = jax.tree.flatten((args, named))
    places = jax.tree.unflatten(structure, range(len(flat)))
    # The program says all of the call: JAX may keep it on disk, for another process.
    plan = json.dumps([function.__name__, *places, options])
    return jax.ffi.ffi_call(_TARGET, results, vmap_method="expand_dims")(*flat, plan=plan)
