from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

MAX_COLUMNS: int
FEW_COLUMNS: int

def affinities(distances: Array, zeta: float, result: Array, first: int, last: int) -> None: ...

class Stack:
    def __init__(self, columns: int) -> None: ...
    finite: bool
    capacity: int

def find_moves(gaps: Array, moves: Array, left: Array, first: int, last: int) -> int: ...
def close_moves(gaps: Array, moves: Array, left: Array, ranges: Array) -> None: ...
def gather(values: Array, columns: Array, rows: Array, first: int, last: int) -> None: ...
def scatter(rows: Array, columns: Array, out: Array, first: int, last: int) -> None: ...
def sweep(
    values: Array,
    out: Array,
    order: Array,
    kappa: Array,
    moves: Array,
    counts: Array,
    ahead_stack: Stack,
    behind_stack: Stack,
    second: bool,
    transposed: bool,
    first: int,
    last: int,
    behind_first: int,
    behind_last: int,
) -> None: ...
def has_avx2() -> bool: ...
