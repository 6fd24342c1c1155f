from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

def edge_levels(first: Array, second: Array, heaviest: float, levels: Array) -> None: ...
def in_order(levels: Array, counts: Array, befores: Array, arrivals: Array) -> NDArray[np.intp]: ...

class Shores:
    def __init__(
        self, levels: Array, counts: Array, befores: Array, n_arrivals: int, arrivals: Array
    ) -> None: ...
    def over_grid(
        self,
        relief: Array,
        steps: Array,
        heaviest: float,
        sources: Array,
        source_arrivals: Array,
        arrivals: Array,
    ) -> int: ...
    def over_graph(
        self,
        starts: Array,
        targets: Array,
        levels: Array,
        sources: Array,
        source_arrivals: Array,
        arrivals: Array,
    ) -> int: ...

def contract(n: int, us: Array, vs: Array, levels: Array, keep: Array) -> tuple[Array, Array]: ...
def needed_edges(found: Array, kept: Array, levels: Array, first_of_pair: Array, wanted: Array) -> Array: ...
