from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

MAX_COLUMNS: int

def gap_gradient(
    grad: Array,
    values: Array,
    result: Array,
    order: Array,
    gaps: Array,
    kappa: Array,
    sums: Array,
    zeta: float,
    out: Array,
) -> None: ...
def feature_gradient(gap_gradient: Array, features: Array, gap_edges: Array, out: Array) -> None: ...
