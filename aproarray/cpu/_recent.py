"""What sweeps do over the lines of the last calls' trees, for callers whose trees keep nothing.

A `SpanningTree` keeps its own. A tree of torch or JAX is arrays alone, of which anybody may change some. A
line is therefore known by all of its gaps.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Bytes that are kept, at most: 13 million pixels of float32 gaps.
LARGEST = 1 << 26
# Bytes of an entry beside its arrays, and gaps that tell entries apart before all of them are looked at.
_OVERHEAD, _SAMPLE = 1 << 10, 64


class RecentMoves:
    """The moves of the last lines, by their gaps: see `find_moves` in _sweep.pxi."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._kept: dict[Any, tuple[Array, Array]] = {}
            self._bytes = 0

    def find(self, gaps: Array) -> Array | None:
        """Return the moves (N-1) that are kept for gaps (N-1), bit for bit the same."""
        known, moves = self._kept.get(_sample_of(gaps), (None, None))
        return moves if known is not None and np.array_equal(known, _bits_of(gaps)) else None

    def keep(self, gaps: Array, moves: Array) -> None:
        """Keep copies of gaps (N-1) and their moves (N-1), and drop the oldest ones for them."""
        sample, size = _sample_of(gaps), _size_of(gaps, moves)
        if size > LARGEST:
            return
        entry = _bits_of(gaps).copy(), moves.copy()  # the caller's memory may be used for something else
        with self._lock:
            self._drop(sample)
            while self._bytes + size > LARGEST:
                self._drop(next(iter(self._kept)))
            self._kept[sample] = entry
            self._bytes += size

    def _drop(self, sample: Any) -> None:
        dropped = self._kept.pop(sample, None)
        if dropped is not None:
            self._bytes -= _size_of(*dropped)


def _size_of(gaps: Array, moves: Array) -> int:
    return gaps.nbytes + moves.nbytes + _OVERHEAD


def _bits_of(gaps: Array) -> Array:
    """Return gaps as integers: NaN is equal to itself, and 0 is not to -0."""
    return gaps.view(np.int32 if gaps.itemsize == 4 else np.int64)


def _sample_of(gaps: Array) -> Any:
    return gaps.dtype.char, len(gaps), gaps[:: max(1, len(gaps) // _SAMPLE)].tobytes()


recent = RecentMoves()

if hasattr(os, "register_at_fork"):  # another thread may have held the lock
    os.register_at_fork(after_in_child=recent.__init__)  # type: ignore[misc]
