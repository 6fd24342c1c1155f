from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def zones(edges: Array, weights: Array, threshold: float, min_size: int, first: Array) -> None: ...
