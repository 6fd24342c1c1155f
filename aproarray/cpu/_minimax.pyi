from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def largest_between(gaps: Array, first: Array, last: Array) -> Array: ...
def distances_from(gaps: Array, position: int) -> Array: ...
