from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def smooth(
    source: Array,
    target: Array,
    row_length: int,
    n_channels: int,
    extent: int,
    stride: int,
    across: int,
    across_rest: float,
    across_share: float,
    along: int,
    along_rest: float,
    along_share: float,
    first: int,
    last: int,
) -> None: ...
def gradients(
    image: Array,
    mask: Array,
    magnitudes: Array,
    shape: tuple[int, ...],
    n_channels: int,
    spacing: tuple[float, ...],
    first: int,
    last: int,
) -> None: ...
def square_steps(
    image: Array,
    mask: Array,
    sums: Array,
    counts: Array,
    shape: tuple[int, ...],
    n_channels: int,
    units: tuple[float, ...],
    first: int,
    last: int,
) -> None: ...
