from typing import Any

from numpy.typing import NDArray

from aproarray._edges import Grid

Array = NDArray[Any]

def weigh_slabs(image: Array, mask: Array, grid: Grid, weights: Array, first: int, last: int) -> None: ...
def weigh_edges(features: Array, ends: Array, weights: Array) -> None: ...
def find_lightest(weights: Array, strides: Array, edges: Array, first: int, last: int) -> None: ...
def find_pairs(lightest: Array, strides: Array, pairs: Array, first: int, last: int) -> None: ...
def join_pairs(weights: Array, strides: Array, pairs: Array, lists: Array, first: int, last: int) -> None: ...
def count_unmarked(weights: Array, pairs: Array, first: int, last: int) -> int: ...
def collect_unmarked(
    weights: Array,
    pairs: Array,
    id_bits: int,
    items: Array,
    like: Array,
    place: int,
    stop: int,
    first: int,
    last: int,
) -> None: ...
