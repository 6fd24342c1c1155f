from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def flood(relief: Array, labels: Array, steps: Array, heaviest: float) -> None: ...
def vote(
    features: Array,
    labels: Array,
    zones: Array,
    held: Array,
    steps: Array,
    scale: float,
    iterations: int,
    n_labels: int,
    shares: Array,
) -> None: ...
