from typing import Any

from numpy.typing import NDArray

from aproarray._grid import Grid

Array = NDArray[Any]

def grid_tree(
    image: Array, mask: Array, grid: Grid, edges: Array, weights: Array, order: Array, gaps: Array
) -> bool: ...
def edge_list_tree(
    ends: Array, edge_weights: Array, edges: Array, weights: Array, order: Array, gaps: Array
) -> bool: ...
def weigh_edges(features: Array, ends: Array, weights: Array) -> None: ...
def linkage(edges: Array, weights: Array, result: Array) -> None: ...
def largest_between(gaps: Array, first: Array, last: Array, result: Array) -> None: ...
