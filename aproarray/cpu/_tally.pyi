from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def tally(
    labels: Array,
    held: Array,
    maps: Array,
    coarse: Array,
    block: Array,
    zones: Array,
    common: Array,
    weights: Array,
    shares: Array,
    first: int,
    last: int,
) -> None: ...
