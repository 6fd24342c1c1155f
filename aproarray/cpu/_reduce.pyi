from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def reduce_line(gaps: Array, keep: Array, counts: Array) -> tuple[Array, Array, Array]: ...
def expand_line(
    pixels: Array, gaps: Array, bounds: Array, order: Array, gaps_between: Array, n_pixels: int
) -> tuple[Array, Array, Array]: ...
def sum_stretches(values: Array, pixels: Array, starts: Array, ends: Array, out: Array) -> None: ...
