"""Labels from seeds: floods of several reliefs at once, and votes."""

from __future__ import annotations

import functools
from typing import Any

from numpy.typing import NDArray

from aproarray.cpu import _flood, _workers
from aproarray.cpu._flood import vote

__all__ = ["flood", "vote"]

Array = NDArray[Any]


def flood(reliefs: Array, maps: Array, steps: Array, workers: int) -> None:
    """Flood labels maps (M, N) over their reliefs (M, N); see _flood.flood."""
    _workers.run(
        [
            functools.partial(_flood.flood, relief, labels, steps, 2 * float(relief.max(initial=0)))
            for relief, labels in zip(reliefs, maps, strict=True)
        ],
        _workers.threads_for(maps.size, workers),
    )
