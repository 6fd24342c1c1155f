from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

SEEDS_AT_ONCE: int
KEY_RANKS: int
SAMPLED: int

class Evidence:
    def __init__(
        self,
        begins: Array,
        seeds: Array,
        features: Array,
        shape: tuple[int, ...],
        origin: tuple[int, ...],
        spacing: tuple[float, ...],
        ratios: tuple[int, ...],
    ) -> None: ...
    def compare(self, distances: Array, differences: Array) -> None: ...
    def survey(
        self,
        first_map: Array,
        second_map: Array,
        third_map: Array,
        seeds: Array,
        apart: Array,
        brought: Array,
        lowest: Array,
        counts: Array,
        distances: Array,
        differences: Array,
        first: int,
        last: int,
        n_apart: int,
    ) -> int: ...
    def choose(
        self,
        first_map: Array,
        second_map: Array,
        third_map: Array,
        lead_of_two: Array,
        lead_of_first: Array,
        per_distance: Array,
        per_difference: Array,
        pixels: Array,
        labels: Array,
        first: int,
        last: int,
    ) -> None: ...
