"""The tests of the CPU backend, over device arrays: the same bodies, loaded again with another `aproarray`.

That one takes the tests' NumPy arrays to the device, calls the real one, and brings the results back.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import importlib
import importlib.util
import pickle
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import aproarray
from aproarray import cpu, reference, related

_FOLDER = Path(__file__).parent
# How a file says that its tests run on any backend. One of them that does not is marked `numpy_only`.
_ANY_BACKEND = re.compile(r"^pytestmark = pytest\.mark\.any_backend$", re.MULTILINE)
_bound: list[Device] = []
# Whether the run asks for tests on a device, which it may not pass over then: conftest.py.
asked_for = False


def usable_cupy() -> types.ModuleType:
    """Return CuPy if it can use a device, skip what calls this if there is none, and fail if CuPy cannot.

    A device is one that NVIDIA's driver counts. Where CuPy is not installed, only a run that asks
    for tests on a device fails.
    """
    before = set(sys.modules)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it finds beside it: the tests are about its kernels
            import cupy

            cupy.zeros(1)
    except Exception as error:  # whatever keeps CuPy from working
        for name in set(sys.modules) - before:  # the import of aproarray is tested to be light
            if name.partition(".")[0] in ("cupy", "cupyx", "cupy_backends"):
                del sys.modules[name]
        reason = f"{type(error).__name__}: {error}"
    else:
        return cupy
    if _devices() and (asked_for or importlib.util.find_spec("cupy")):
        pytest.fail(f"there is a CUDA device, and CuPy does not work on it: {reason}")
    pytest.skip(f"needs a CUDA device and CuPy ({reason})", allow_module_level=True)


def _devices() -> int:
    """Return how many devices NVIDIA's driver counts."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    return count.value if driver.cuInit(0) == driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


class Device:
    """CuPy, or its stand-in, and the GPU backend bound to it."""

    def __init__(self, cupy: types.ModuleType, **constants: int):
        self.cupy = cupy
        self._modules: dict[str, types.ModuleType] = {"cupy": cupy}
        with self.active():
            compiler = importlib.import_module("aproarray.gpu._compile")
            for name, value in constants.items():
                setattr(compiler, name, value)
            importlib.import_module("aproarray.gpu")
        self.api = self._api()
        _bound.append(self)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Let `cupy` and `aproarray.gpu` be this device's."""

        def ours() -> dict[str, types.ModuleType]:
            return {
                name: module
                for name, module in sys.modules.items()
                if name == "cupy" or name.startswith("aproarray.gpu")
            }

        before = ours()
        for name in before:
            del sys.modules[name]
        sys.modules.update(self._modules)
        try:
            yield
        finally:
            self._modules = ours()
            for name in self._modules:
                del sys.modules[name]
            sys.modules.update(before)

    def to(self, value: Any) -> Any:
        """Return a NumPy array or a tree as the device's; lists of numbers too where they are data."""
        if isinstance(value, Tree):
            return value.tree
        if isinstance(value, np.ndarray) and value.ndim:
            return self.cupy.asarray(value.astype(value.dtype.newbyteorder("=")))
        return value

    def back(self, value: Any) -> Any:
        """Return what came from the device as NumPy arrays, and trees as a `Tree`."""
        if isinstance(value, aproarray.SpanningTree):
            return Tree(self, value)
        if isinstance(value, self.cupy.ndarray):
            return value.get()[()]
        return value

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of the package with device arrays."""
        out = kwargs.get("out")
        seen: dict[int, Any] = {}  # what is one array, `out` and the values say, is one array there

        def to(value: Any) -> Any:
            if id(value) not in seen:
                seen[id(value)] = self.to(value)
            return seen[id(value)]

        with self.active():
            given = {key: to(value) for key, value in kwargs.items()}
            if isinstance(kwargs.get("zeta"), np.ndarray):
                given["zeta"] = kwargs["zeta"]
            result = function(*map(to, args), **given)
            if out is None:
                return self.back(result)
            assert result is given["out"]
            out[...] = result.get()
            return out

    def verb(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a verb over NumPy arrays that is computed on the device. Its first arrays are data."""

        def call(*args: Any, **kwargs: Any) -> Any:
            data = [np.asarray(a) if isinstance(a, list | float | int) else a for a in args]
            for name in ("values", "image", "features", "mask"):
                if isinstance(kwargs.get(name), list):
                    kwargs[name] = np.asarray(kwargs[name])
            return self.call(function, *data, **kwargs)

        return call

    def _api(self) -> Any:
        api = types.ModuleType("aproarray")
        for name in ("mst", "global_propagate", "local_propagate"):
            setattr(api, name, self.verb(getattr(aproarray, name)))
        verbs = {name: self.verb(getattr(related, name)) for name in related.__all__}
        api.related = types.SimpleNamespace(**verbs)
        api.cpu, api.reference, api.__file__ = cpu, reference, aproarray.__file__

        def from_edges(edges: Any, weights: Any, n_nodes: int) -> Any:
            edges, weights = np.asarray(edges), np.asarray(weights)
            if edges.size == 0:
                edges = np.zeros((0, 2), np.int64)
            return self.call(aproarray.SpanningTree.from_edges, edges, weights, n_nodes)

        api.SpanningTree = types.SimpleNamespace(from_edges=from_edges)
        return api

    def load(self, name: str) -> types.ModuleType:
        """Load a test module again, over this device."""
        path = _FOLDER / f"{name}.py"
        module = types.ModuleType(f"{name}_on_device")
        module.__file__ = str(path)
        before = {key: sys.modules.get(key) for key in ("aproarray", "strategies")}
        sys.modules["aproarray"] = self.api
        if name != "strategies":
            sys.modules["strategies"] = self.load("strategies")
        sys.modules[module.__name__] = module  # dataclasses and pickles look it up
        try:
            exec(compile(path.read_text(), str(path), "exec"), vars(module))
        finally:
            for key, old in before.items():
                if old is None:
                    sys.modules.pop(key, None)
                else:
                    sys.modules[key] = old
        return module

    def tests(self, max_examples: int, but: str = "numpy_only") -> dict[str, Any]:
        """Return the tests that run on any backend, under names that begin with their files'.

        Tests with a mark that `but` names are left out.
        """
        result = {}
        for path in sorted(_FOLDER.glob("test_*.py")):
            if not _ANY_BACKEND.search(path.read_text(encoding="utf-8")):
                continue
            for name, test in vars(self.load(path.stem)).items():
                marks = {mark.name for mark in getattr(test, "pytestmark", ())}
                if not name.startswith("test_") or marks & set(but.split()):
                    continue
                if hasattr(test, "hypothesis"):
                    test = settings(
                        max_examples=max_examples,
                        derandomize=True,
                        database=None,
                        deadline=None,
                        suppress_health_check=list(HealthCheck),
                    )(test)
                result[f"{path.stem}_{name.removeprefix('test_')}"] = test
        return result


class Tree:
    """A tree of the device that shows NumPy arrays."""

    def __init__(self, device: Device, tree: Any):
        self.device, self.tree = device, tree

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.tree, name) if name != "n_components" else None
        if callable(value) and not isinstance(value, self.device.cupy.ndarray):
            return lambda *args, **kwargs: self.device.call(value, *args, **kwargs)
        with self.device.active():
            return self.device.back(getattr(self.tree, name))

    @property
    def edges(self) -> Any:
        return self._get("edges")

    @property
    def weights(self) -> Any:
        return self._get("weights")

    @property
    def n_components(self) -> Any:
        return self._get("n_components")

    def _get(self, name: str) -> Any:
        with self.device.active():
            return self.device.back(getattr(self.tree, name))

    def __getitem__(self, key: Any) -> Any:
        return self.device.call(self.tree.__getitem__, key)

    def __len__(self) -> int:
        return len(self.tree)

    def __iter__(self) -> Iterator[Any]:
        return (self[b] for b in range(len(self)))

    def __eq__(self, other: object) -> bool:
        with self.device.active():
            return bool(self.tree == (other.tree if isinstance(other, Tree) else other))

    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> Tree:
        return self.device.call(copy.copy, self)

    def __deepcopy__(self, memo: Any) -> Tree:
        return self.device.call(copy.deepcopy, self)

    def __reduce__(self) -> Any:
        with self.device.active():
            return _unpickled, (_bound.index(self.device), pickle.dumps(self.tree))

    def __repr__(self) -> str:
        with self.device.active():
            return repr(self.tree)


def _unpickled(place: int, data: bytes) -> Tree:
    return _bound[place].call(pickle.loads, data)
