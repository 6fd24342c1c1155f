from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

MAX_COLUMNS: int

def root_trees(
    order: Array,
    gap_edges: Array,
    first: Array,
    ends: Array,
    seen: Array,
    nodes: Array,
    parents: Array,
    gaps: Array,
) -> int: ...
def edge_distances(features: Array, gap_edges: Array, out: Array) -> bool: ...
def normalizers(parents: Array, weights: Array, n_roots: int, self_weight: float, out: Array) -> None: ...
def filter_columns(
    values: Array,
    out: Array,
    nodes: Array,
    parents: Array,
    weights: Array,
    n_roots: int,
    self_weight: float,
    normalizers: Array,
    transposed: bool,
    rows: Array,
) -> None: ...
def weight_gradient(
    grad: Array,
    values: Array,
    result: Array,
    nodes: Array,
    parents: Array,
    gaps: Array,
    weights: Array,
    n_roots: int,
    normalizers: Array,
    up: Array,
    total: Array,
    out: Array,
) -> None: ...
