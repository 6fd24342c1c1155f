from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

SEEDS_AT_ONCE: int

def survey(
    first_map: Array,
    second_map: Array,
    third_map: Array,
    seeds: Array,
    apart: Array,
    places: Array,
    agreed: Array,
    brought: Array,
    first: int,
    last: int,
    n_apart: int,
    n_places: int,
) -> tuple[int, int]: ...

class Evidence:
    def __init__(
        self, begins: Array, seeds: Array, features: Array, shape: tuple[int, ...], spacing: tuple[float, ...]
    ) -> None: ...
    def sample(
        self,
        first_map: Array,
        second_map: Array,
        third_map: Array,
        seeds: Array,
        every: Array,
        until: Array,
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
        lead_of_two: Array,
        lead_of_first: Array,
        per_distance: Array,
        per_difference: Array,
        pixels: Array,
        labels: Array,
        first: int,
        last: int,
    ) -> None: ...
