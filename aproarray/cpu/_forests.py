"""Floods of parts of an image: see `_forest` for arrivals and their tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aproarray.cpu import _forest

__all__ = ["contracted", "edge_levels", "flood_from", "flood_graph_from"]

Array = NDArray[Any]
Table = tuple[Array, Array, Array]


def edge_levels(first: Array, second: Array, heaviest: float) -> NDArray[np.uint16]:
    """Return the levels of edges between pixels of these reliefs, the heaviest edge weighing so much."""
    levels = np.empty(len(first), np.uint16)
    _forest.edge_levels(first, second, heaviest, levels)
    return levels


def flood_from(
    relief: Array,
    steps: Array,
    heaviest: float,
    sources: Array,
    source_arrivals: Array,
    table: Table,
    arrivals: Array,
) -> Table:
    """Flood a padded image from sources, given in any order; fill `arrivals`, and return their table."""
    return _flooded(
        _forest.Shores.over_grid, (relief, steps, heaviest), sources, source_arrivals, table, arrivals
    )


def flood_graph_from(
    starts: Array,
    targets: Array,
    levels: Array,
    sources: Array,
    source_arrivals: Array,
    table: Table,
    arrivals: Array,
) -> Table:
    """Flood a graph from sources, given in any order; fill `arrivals`, and return their table."""
    return _flooded(
        _forest.Shores.over_graph, (starts, targets, levels), sources, source_arrivals, table, arrivals
    )


def _flooded(
    over: Callable[..., int],
    place: tuple[Any, ...],
    sources: Array,
    source_arrivals: Array,
    table: Table,
    arrivals: Array,
) -> Table:
    """Flood a place, a grid or a graph, by the method of `_forest.Shores` for it."""
    if not len(sources):
        return table
    order = _forest.in_order(*table, source_arrivals)
    room = _with_room(table, len(arrivals) + len(sources))
    shores = _forest.Shores(*room, len(table[0]), arrivals)
    n = over(shores, *place, sources[order], source_arrivals[order], arrivals)
    return room[0][:n], room[1][:n], room[2][:n]


def _with_room(table: Table, more: int) -> Table:
    """Return a table with room for so many entries more."""
    n = len(table[0])
    dtypes = np.int32, np.int64, np.int64
    longer: Table = tuple(np.empty(n + more, dtype) for dtype in dtypes)  # type: ignore[assignment]
    for column, source in zip(longer, table, strict=True):
        column[:n] = source
    return longer


def contracted(
    n: int, us: Array, vs: Array, levels: Array, kept: Array
) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
    """Contract a graph of n nodes; return the ends (2, E) of the edges that are left, and their levels.

    The arrivals at the kept nodes, which keep their numbers, stay the same whatever comes in at these.
    """
    keep = np.zeros(n, np.uint8)
    keep[kept] = 1
    found, zones_kept = _forest.contract(
        n, np.ascontiguousarray(us, np.int32), np.ascontiguousarray(vs, np.int32), levels, keep
    )
    levels = levels[found[2]]
    # Most dead ends have one edge. What is left is looked at again: edges between the same zones count once.
    needed = _forest.needed_edges(
        found, zones_kept, levels, np.ones(len(levels), np.uint8), keep.copy()
    ).view(bool)
    found, zones_kept, levels = np.ascontiguousarray(found[:, needed]), zones_kept[needed], levels[needed]
    low, high = np.sort(found[3:], 0)
    order = np.lexsort((high, low, levels))
    first = np.ones(len(order), np.uint8)
    same = [np.diff(column[order].astype(np.int32)) == 0 for column in (low, high, levels)]
    first[1:][same[0] & same[1] & same[2]] = 0
    found, zones_kept, levels = np.ascontiguousarray(found[:, order]), zones_kept[order], levels[order]
    needed = _forest.needed_edges(found, zones_kept, levels, first, keep).view(bool)
    return found[:2, needed], levels[needed]
