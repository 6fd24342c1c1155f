from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

N_VALUES: int

def count_runs(run_of: Array, first: int, last: int) -> int: ...
def number_runs(run_of: Array, starts: Array, number: int, first: int, last: int) -> None: ...
def name_runs(run_of: Array, first: int, last: int) -> None: ...
def listed_edges(weights: Array, ends: Array, items: Array) -> None: ...
def sort_items(items: Array, n_items: int, like: Array) -> int: ...
def count_digits(items: Array, like: Array, digit: int, counts: Array, first: int, last: int) -> None: ...
def move_by_digit(
    items: Array, other: Array, like: Array, digit: int, places: Array, first: int, last: int
) -> None: ...
def lists_of_runs(lists: Array, starts: Array, run_keys: Array, first: int, last: int) -> None: ...
def lists_of_nodes(lists: Array, first: int, last: int) -> None: ...
def connect(
    items: Array,
    n_items: int,
    lists: Array,
    n_runs: int,
    ends: Array,
    strides: Array,
    id_bits: int,
    run_of: Array,
) -> None: ...
def lay_out_nodes(
    items: Array,
    lists: Array,
    ends: Array,
    strides: Array,
    id_bits: int,
    order: Array,
    gaps: Array,
    gap_edges: Array,
) -> bool: ...
def place_runs(lists: Array, n_runs: int) -> None: ...
def write_runs(
    items: Array,
    lists: Array,
    starts: Array,
    run_pixels: Array,
    run_keys: Array,
    run_ids: Array,
    ends: Array,
    strides: Array,
    id_bits: int,
    order: Array,
    gaps: Array,
    gap_edges: Array,
    first: int,
    last: int,
) -> bool: ...
def canonical_edges(ends: Array, n: int) -> tuple[Array, Array]: ...
def sort_by_weight(weights: Array, rows: Array) -> None: ...
def linkage(edges: Array, weights: Array, result: Array) -> None: ...
