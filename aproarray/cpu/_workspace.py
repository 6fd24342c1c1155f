"""Working memory that threads keep between calls, so that the system need not find its pages anew each time.

A thread keeps one buffer. A call takes it out, and puts it back when it has succeeded: nobody else can be
using it. After an error or Ctrl-C it is dropped, as a thread that was left may still write to it. Nested
calls find none, and use memory of their own.
"""

from __future__ import annotations

import collections
import math
import os
import threading
import weakref
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from aproarray.cpu._recent import recent

# Bytes that a thread keeps, at most: trees of a megapixel take 40 MB.
LARGEST = 1 << 26
# Arrays begin at cache lines.
_ALIGNMENT = 64


class _Kept:
    """What a thread keeps: `idle` holds its buffer while no call uses it. Taking it out is atomic."""

    def __init__(self) -> None:
        self.idle: collections.deque[NDArray[np.uint8]] = collections.deque(maxlen=1)


_local = threading.local()  # `kept`, which ends with its thread
_all: weakref.WeakSet[_Kept] = weakref.WeakSet()
_lock = threading.Lock()  # of `_all`


def _renew_lock() -> None:
    """Forget a lock that another thread held while this process was forked."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Workspace:
    """Arrays for the duration of a ``with`` statement, in this thread's buffer as far as they fit."""

    def __enter__(self) -> Workspace:
        if not hasattr(_local, "kept"):
            _local.kept = _Kept()
            with _lock:
                _all.add(_local.kept)
        self._kept: _Kept = _local.kept
        try:
            self._buffer = self._kept.idle.pop()
        except IndexError:
            self._buffer = _aligned(0)
        self._wanted = 0
        return self

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array of any contents. It must not be used after the ``with`` statement."""
        dtype = np.dtype(dtype)
        first, size = self._wanted, math.prod(shape) * dtype.itemsize
        self._wanted += -(-size // _ALIGNMENT) * _ALIGNMENT
        if first + size > len(self._buffer):
            return np.empty(shape, dtype)
        array: NDArray[Any] = self._buffer[first : first + size].view(dtype).reshape(shape)
        return array

    def contiguous(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return an array if its numbers lie in C order, else a copy that does."""
        if array.flags.c_contiguous:
            return array
        copy = self.array(array.shape, array.dtype)
        copy[...] = array
        return copy

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        buffer = self._buffer
        del self._buffer
        if kind is None:
            if self._wanted > len(buffer):  # for the next call: pages are not found before they are used
                buffer = _aligned(min(self._wanted, LARGEST))
            self._kept.idle.append(buffer)


def _aligned(size: int) -> NDArray[np.uint8]:
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    first = -buffer.ctypes.data % _ALIGNMENT
    aligned: NDArray[np.uint8] = buffer[first : first + size]
    return aligned


def release_memory() -> None:
    """Give back the memory that CPU threads keep between calls.

    Each thread that calls this library keeps up to 64 MB of working memory for its next call, until it ends.
    Calls in progress keep theirs. The process keeps up to 64 MB for the last trees of torch and JAX that were
    propagated over. Any thread may call this at any time. It changes no result.

    Examples
    --------
    >>> import aproarray
    >>> aproarray.release_memory()
    """
    with _lock:
        kept = list(_all)
    for one in kept:
        one.idle.clear()
    recent.forget()
