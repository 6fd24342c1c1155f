from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

SEEDS_AT_ONCE: int

class Evidence:
    def __init__(
        self,
        begins: Array,
        places: Array,
        colours: Array,
        features: Array,
        shape: tuple[int, ...],
        spacing: tuple[float, ...],
    ) -> None: ...
    def sample(
        self,
        first_map: Array,
        second_map: Array,
        third_map: Array,
        seeds: Array,
        every: Array,
        seen: Array,
        distances: Array,
        differences: Array,
        counts: Array,
        first: int,
        last: int,
    ) -> None: ...
    def choose(
        self,
        first_map: Array,
        second_map: Array,
        third_map: Array,
        trust: Array,
        strength: float,
        most: float,
        per_distance: Array,
        per_difference: Array,
        pixels: Array,
        labels: Array,
        first: int,
        last: int,
    ) -> None: ...
