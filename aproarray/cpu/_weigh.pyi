from typing import Any

from numpy.typing import NDArray

from aproarray._edges import Grid

Array = NDArray[Any]

def weigh_slabs(image: Array, mask: Array, grid: Grid, weights: Array, first: int, last: int) -> None: ...
def weigh_edges(features: Array, ends: Array, weights: Array) -> None: ...
