from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

MAX_COLUMNS: int

def affinities(distances: Array, zeta: float, result: Array) -> None: ...
def global_propagate(
    values: Array, out: Array, columns: Array, order: Array, kappa: Array, ones: Array
) -> None: ...
def has_avx2() -> bool: ...
