from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def is_permutation(order: Array) -> bool: ...
def edges_fit(gaps: Array, gap_edges: Array, mask: Array, n: int, first: int, last: int) -> bool: ...
