"""Numba's compiler, with its cache on disk, and without the cache where that fails."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Any) -> Any:
    """Compile for calls without the GIL, and cache the result on disk."""
    # Products and sums may fuse here: no sum over a window has to be equal to another machine's, bit for bit.
    options = {"error_model": "numpy", "fastmath": {"contract"}, "no_cfunc_wrapper": True}
    result = numba.njit(nogil=True, **options)(function)
    with contextlib.suppress(RuntimeError):  # neither this folder nor the user's is writable
        result.enable_caching()
        result._cache = _ForgivingCache(result._cache)
    return result


class _ForgivingCache:
    """A cache of Numba's that is not there where it fails: files that are damaged, a disk that is full."""

    def __init__(self, cache: Any):
        self._cache = cache

    def load_overload(self, *arguments: Any) -> Any:
        """Return what is cached, or None; a damaged cache is emptied."""
        found = self._tried(self._cache.load_overload, *arguments)
        if found is _FAILED:
            self._tried(self._cache.flush)
            return None
        return found

    def save_overload(self, *arguments: Any) -> None:
        """Cache what was compiled, if that is possible."""
        self._tried(self._cache.save_overload, *arguments)

    def __getattr__(self, name: str) -> Any:
        """Return what else a cache has."""
        return getattr(self._cache, name)

    def _tried(self, action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except Exception as error:  # what unpickling raises depends on the damage
            if not _warned:
                _warned.append(True)
                warnings.warn(
                    f"Numba's cache in {self._cache.cache_path} cannot be used ({type(error).__name__}: "
                    f"{error}): PAMR and pairwise affinities are compiled anew, which takes some seconds. "
                    "Delete it, or set NUMBA_CACHE_DIR to one that can be written to.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return _FAILED


_FAILED = object()
_warned: list[bool] = []  # once for each process
