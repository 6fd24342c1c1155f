"""Arrays of all libraries: what kind an array is, and how it comes in and goes out.

Arrays of other libraries come in and go out through DLPack, without a copy: on the CPU as NumPy
arrays, on a CUDA device as CuPy arrays. No library is imported for that: an array's own is there already.
Which backend then computes is `_dispatch`'s business.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

import numpy as np

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class DLPackArray(Protocol):
    """An array of a library that speaks DLPack: CuPy, torch, JAX."""

    def __dlpack__(self, *args: Any, **options: Any) -> Any:
        """Export the array."""


class DaskArray(Protocol):
    """An array in chunks, as a type checker sees it where dask need not be installed."""

    def __dask_graph__(self) -> Any:
        """Return the tasks that compute it."""

    def compute(self) -> Any:
        """Return it in memory."""


# The kind of array that goes in and comes out.
ForeignArray = TypeVar("ForeignArray", bound=DLPackArray)

# Device types of the DLPack standard.
_DLPACK_CPU, _DLPACK_CUDA = 1, 2


def library_of(array: Any) -> str:
    """Return the library whose arrays this is computed with: "numpy" for whatever `numpy.asarray` takes."""
    if is_cupy(array):
        return "cupy"
    if isinstance(array, np.ndarray | np.generic | list | tuple | int | float | complex | memoryview):
        return "numpy"
    if _is_tensor(array):
        return "torch"
    library = type(array).__module__.partition(".")[0].replace("jaxlib", "jax")
    if not speaks_dlpack(array) and _numpy_takes(array):
        return "numpy"
    return library


def _numpy_takes(array: Any) -> bool:
    """Return whether `numpy.asarray` reads the numbers of an object that is no array."""
    if any(hasattr(array, name) for name in ("__array__", "__array_interface__", "__array_struct__")):
        return True
    if isinstance(array, str | bytes | bytearray):
        return False
    if isinstance(array, Sequence):
        return True
    try:
        memoryview(array)
    except TypeError:
        return False
    return True


def speaks_dlpack(array: Any) -> bool:
    """Return whether an array of another library can come in, and a result go back to it, by DLPack."""
    if not hasattr(type(array), "__dlpack__"):
        return False
    library = sys.modules.get(type(array).__module__.partition(".")[0])
    return hasattr(array, "__array_namespace__") or hasattr(library, "from_dlpack")


def _is_tensor(array: Any) -> bool:
    """Return whether this is a torch tensor, of a subclass too, wherever that is defined."""
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return kind is not None and isinstance(array, kind)


def kind_of(array: Any) -> str:
    """Return the full name of an array's type, for messages."""
    return f"{type(array).__module__}.{type(array).__qualname__}".removeprefix("builtins.")


def is_foreign(value: Any) -> bool:
    """Return whether a value is an array of a library that has no backend of its own."""
    return library_of(value) not in ("numpy", "cupy") and (_is_tensor(value) or speaks_dlpack(value))


def one_library(given: dict[str, Any]) -> str | None:
    """Return the library that all arrays of a call belong to."""
    for name, array in given.items():
        if not (is_cupy(array) or library_of(array) == "numpy" or is_foreign(array)):
            article = "an" if kind_of(array)[0] in "aeiou" else "a"
            raise TypeError(
                f"{name} must be an array (of NumPy or CuPy, or what numpy.asarray or DLPack takes), got "
                f"{article} {kind_of(array)}"
            )
    libraries = {library_of(array) for array in given.values()}
    if len(libraries) > 1:
        kinds = ", ".join(f"{name} is a {kind_of(array)}" for name, array in given.items())
        raise TypeError(f"all arrays of one call must be of one library, but {kinds}")
    return libraries.pop() if libraries else None


def is_cupy(array: Any) -> bool:
    """Return whether this is a CuPy array; where CuPy has not been imported, there are none."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def on_host(array: Any) -> Any:
    """Return a CuPy array as a NumPy array, which waits for the device, and anything else as it is."""
    return array.get() if is_cupy(array) else array


@overload
def takes_dlpack(verb: Callable[Parameters, Result], /) -> Callable[Parameters, Result]: ...
@overload
def takes_dlpack(
    *, gradients: str
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]: ...
def takes_dlpack(verb: Callable[..., Any] | None = None, /, *, gradients: str | None = None) -> Any:
    """Let a verb take arrays of any library that speaks DLPack, and return its arrays as the same kind.

    Lists and numbers may stand beside such arrays; arrays of two libraries, or on two devices, may not.
    `gradients` names the function that has gradients, for messages: ``@takes_dlpack(gradients="...")``.
    """
    if verb is None:
        return functools.partial(_taking_dlpack, gradients=gradients)
    return _taking_dlpack(verb, gradients)


def _taking_dlpack(verb: Callable[Parameters, Result], gradients: str | None) -> Callable[Parameters, Result]:
    names = tuple(inspect.signature(verb).parameters)
    said = verb.__qualname__.removesuffix(".__init__")

    def translated(given: dict[str, Any], foreign: dict[str, Any]) -> Any:
        arrays = {
            name: value for name, value in given.items() if name in foreign or hasattr(value, "__array__")
        }
        one_library(arrays)
        devices = {name: _device(value, name) for name, value in foreign.items()}
        if len(set(devices.values())) > 1:
            where = ", ".join(f"{name} on {_device_name(device)}" for name, device in devices.items())
            raise TypeError(f"all arrays of one call must be on one device, but got {where}")
        first = next(iter(foreign.values()))
        with on_device_of(first):
            given |= {name: array_over(value, name, said, gradients) for name, value in foreign.items()}
            result: Any = cast(Callable[..., Any], verb)(**given)
            if "out" not in foreign and hasattr(result, "__dlpack__"):
                result = _like(first, result)  # here, as that waits for CuPy's current stream
        if "out" in foreign:
            result = foreign["out"]
            if _is_tensor(result) and not result.is_inference():
                # For autograd, which may have kept what was in there (early versions cannot be told).
                told = getattr(sys.modules["torch"].autograd.graph, "increment_version", None)
                if told is not None:
                    told(result)
        return result

    @functools.wraps(verb)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        given = dict(zip(names, args, strict=False)) | kwargs
        foreign = {name: value for name, value in given.items() if is_foreign(value)}
        if not foreign:
            return verb(*args, **kwargs)
        dynamo = sys.modules.get("torch._dynamo")  # which cannot follow what happens here
        act = (
            dynamo.disable(translated)
            if dynamo and "torch" in map(library_of, foreign.values())
            else translated
        )
        return cast(Result, act(given, foreign))

    return call


# What to do about a tracer, by the module of JAX that it comes from.
_TRACED = {
    "ad": "there are no gradients here. Use the function of aproarray.jax, if there is one, or pass "
    "jax.lax.stop_gradient({}) where it is to be a constant in jax.grad",
    "batching": "this does not run inside jax.vmap. Use the function of aproarray.jax, if there is one, or "
    "pass the whole batch, whose axes come first",
    "partial_eval": "this does not run inside jax.jit. Use the function of aproarray.jax, if there is one. "
    "Call others outside, or through jax.pure_callback, which has no gradients",
}


def _device(array: Any, name: str) -> tuple[int, int]:
    try:
        kind, number = map(int, array.__dlpack_device__())
    except AttributeError as error:  # one of JAX's tracers: the methods are there in name only
        raise TypeError(
            f"{name} must be an array that holds numbers, got a {kind_of(array)}: "
            + _TRACED.get(type(array).__module__.rpartition(".")[2], _TRACED["partial_eval"]).format(name)
        ) from error
    except (ValueError, BufferError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be a tensor with memory that can be shared, got a {kind_of(array)} on "
            f"{getattr(array, 'device', 'an unknown device')} ({error})"
        ) from error
    return kind, number


def _device_name(device: tuple[int, ...]) -> str:
    kind = {_DLPACK_CPU: "cpu", _DLPACK_CUDA: "cuda"}.get(device[0], f"DLPack device type {device[0]}")
    return kind if device[0] == _DLPACK_CPU else f"{kind}:{device[1]}"


def array_over(array: Any, name: str, verb: str, gradients: str | None = None) -> Any:
    """Return the NumPy or CuPy array over the memory of another library's array.

    For messages: the argument's name, the verb's, and that of a function that has gradients.
    """
    if getattr(array, "requires_grad", False):
        if sys.modules["torch"].is_grad_enabled():
            instead = f"use {gradients}, which has, or " if gradients else ""
            raise TypeError(
                f"{name} requires grad, and {verb} has no gradients: {instead}pass {name}.detach()"
            )
        array = array.detach()
    if str(getattr(array, "dtype", "")) == "torch.bool":  # which torch < 2.2 cannot hand over
        return array_over(array.view(sys.modules["torch"].uint8), name, verb, gradients).view(np.bool_)
    if _is_tensor(array):
        if array.layout != sys.modules["torch"].strided or array.is_quantized:
            kind = "quantized" if array.is_quantized else f"{array.layout}"
            raise TypeError(f"{name} must be a dense tensor of numbers, got a {kind} one")
        if array.is_neg():  # minus what is in its memory
            if name == "out":
                raise ValueError("out must not be a negated view, got a tensor with is_neg()")
            array = array.resolve_neg()
    device = _device(array, name)
    try:
        if device[0] == _DLPACK_CUDA:
            return _cupy(name, device).from_dlpack(array)
        if device[0] == _DLPACK_CPU:
            return _numpy_over(array)
    except (TypeError, BufferError, RuntimeError) as error:
        raise TypeError(
            f"{name} must hold bool, integer, float16, float32 or float64 numbers, and share its memory, got "
            f"dtype {getattr(array, 'dtype', 'unknown')} ({error})"
        ) from error
    raise TypeError(f"{name} must be on the CPU or a CUDA device, got {_device_name(device)}")


def _numpy_over(array: Any) -> Any:
    if library_of(array) == "torch":
        # NumPy makes what comes by DLPack read-only where torch does not speak the newer version of it.
        with contextlib.suppress(RuntimeError):  # "Numpy is not available": torch < 2.3 beside NumPy 2
            return array.numpy()
    return np.from_dlpack(array)


def _cupy(name: str, device: tuple[int, ...]) -> ModuleType:
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise ImportError(f"{name} is on {_device_name(device)}, which needs CuPy ({error})") from error


def _like(array: Any, result: Any) -> Any:
    """Return a NumPy or CuPy array as one of the library that `array` is of."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__().from_dlpack(result)
    tensor = sys.modules[library_of(array)].from_dlpack(result)
    # CuPy's memory would be another array's while a stream of torch still reads it: torch's own is not.
    return tensor.clone() if _is_tensor(array) and array.is_cuda else tensor


@contextlib.contextmanager
def on_device_of(array: Any) -> Iterator[None]:
    """Let CuPy work on an array's CUDA device and, for a torch tensor, on torch's current stream."""
    kind, number = _device(array, "the array")
    if kind != _DLPACK_CUDA:
        yield
        return
    cupy = _cupy("the array", (kind, number))
    with cupy.cuda.Device(number), contextlib.ExitStack() as stack:
        if library_of(array) == "torch":
            stack.enter_context(_stream_over(cupy, array, number))
        yield
        if (
            library_of(array) != "torch"
        ):  # whose memory may be used for something else as soon as this returns
            cupy.cuda.get_current_stream().synchronize()


class _Address(NamedTuple):
    """A stream of another library, as CuPy 14 takes it."""

    stream: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.stream


def _stream_over(cupy: Any, tensor: Any, number: int) -> Any:
    """Return torch's current stream on a tensor's device as one of CuPy's."""
    address = sys.modules["torch"].cuda.current_stream(tensor.device).cuda_stream
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_Address(address))
    return cupy.cuda.ExternalStream(address, number)  # CuPy 13; deprecated since
