from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MOST_LABELS: int

class Flood:
    n_entered: int
    def __init__(
        self,
        relief: Array,
        labels: Array,
        steps: Array,
        heaviest: float,
        order: Array,
        levels: Array,
        directions: Array,
    ) -> None: ...
    def run(self, pixels: int) -> bool: ...

MARK: np.dtype[Any]

def mark_pixels(seeds: Array, order: Array, n_entered: int, marks: Array) -> None: ...

class Repair:
    n_entered: int
    def __init__(
        self,
        relief: Array,
        labels: Array,
        steps: Array,
        heaviest: float,
        order: Array,
        levels: Array,
        directions: Array,
        n_entered: int,
        marks: Array,
        seeds: Array,
        added: Array,
        removed: Array,
        new_order: Array,
        new_levels: Array,
    ) -> None: ...
    def run(self, pixels: int) -> bool: ...

class SpacedFlood:
    def __init__(
        self,
        relief: Array,
        labels: Array,
        steps: Array,
        heaviest: float,
        shape: tuple[int, ...],
        spacing: tuple[float, ...],
    ) -> None: ...
    def run(self, pixels: int) -> bool: ...

def cast_votes(
    features: Array,
    labels: Array,
    zones: Array,
    steps: Array,
    scale: float,
    active: Array,
    chosen: Array,
    shares: Array,
    first: int,
    last: int,
) -> None: ...
def change_labels(
    labels: Array, active: Array, chosen: Array, queued: Array, first: int, last: int, n_changed: int
) -> int: ...
def queue_windows(
    labels: Array,
    held: Array,
    steps: Array,
    changed: Array,
    queued: Array,
    following: Array,
    first: int,
    last: int,
    n_queued: int,
) -> int: ...
def find_borders(labels: Array, steps: Array, pixels: Array, first: int, last: int) -> int: ...
def own_shares(labels: Array, shares: Array, first: int, last: int) -> None: ...
def find_differences(
    before: Array, labels: Array, pixels: Array, first: int, last: int, count: int
) -> int: ...
def queue_differences(
    before: Array,
    labels: Array,
    near: Array,
    steps: Array,
    differing: Array,
    queued: Array,
    listed: Array,
    first: int,
    last: int,
    n_listed: int,
) -> int: ...
def queue_pixels(labels: Array, pixels: Array, queued: Array, listed: Array, n_listed: int) -> int: ...
def find_voters(
    labels: Array, held: Array, listed: Array, voters: Array, first: int, last: int, count: int
) -> int: ...
def change_as_before(
    labels: Array,
    queued: Array,
    pixels: Array,
    changed_to: Array,
    changed: Array,
    first: int,
    last: int,
    n_changed: int,
) -> int: ...
def change_voters(
    labels: Array, voters: Array, chosen: Array, changed: Array, first: int, last: int, n_changed: int
) -> int: ...
