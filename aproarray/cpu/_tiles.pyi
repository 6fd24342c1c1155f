from typing import Any

from numpy.typing import NDArray

from aproarray._edges import Grid

Array = NDArray[Any]

def solve_tiles(
    grid: Grid,
    weights: Array,
    pairs: Array,
    run_pixels: Array,
    run_keys: Array,
    run_ids: Array,
    run_of: Array,
    bits: int,
    first: int,
    last: int,
) -> int: ...
