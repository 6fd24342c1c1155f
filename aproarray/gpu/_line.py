"""The chains of a batch of lines, and their tiles, which sums over them follow.

The kernels are those of kernels/line_tiles.cu and global_line.cu.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np

from aproarray.gpu import _compile
from aproarray.gpu._arguments import BITS, KEY, struct_of, struct_of_pointers
from aproarray.gpu._compile import Struct, kernel

_LINES = struct_of(starts=np.uintp, count=np.uint32)
_TILES = struct_of_pointers("merges", "n_merges", "on_left", "stretches", "first_stretches")
_LEVELS = struct_of_pointers("heights", "slots", "up", "entry_of", "state")
_CHAINS = struct_of_pointers(
    "chain_of", "row_of", "table", "of_blocks", "line_rows", "starts", "stops", "bottoms"
)
_LINE = struct_of_pointers(
    "lows", "cuts", "highs", "branch_on_left", "row_stops", "row_merges", "position_merges"
)


class Lines(NamedTuple):
    """The lines of B trees: order (B, N) and gaps (B, N-1).

    Chains are found anew for as many trees at a time as a call works on. They take more memory than the
    trees, and a stream that did not find them would have to wait for them.
    """

    order: Any
    gaps: Any


def lines(order: Any, gaps: Any, workers: int) -> Lines:
    """Return the lines of trees (B, N) and (B, N-1), for global propagation."""
    del workers
    return Lines(order, gaps)


def recent_lines(order: Any, gaps: Any, workers: int) -> Lines:
    """Return what `lines` does: there is nothing to keep."""
    return lines(order, gaps, workers)


class Line(NamedTuple):
    """Lines one after the other, and their chains from bottom to top: rows, one for each gap."""

    heights: Any
    """What follows each position: the bits of its gap, or of a wall."""
    lines: Struct
    chains: Struct
    """The structs `Lines` and `Line` of kernels/global_line.cuh."""


class Tiles(NamedTuple):
    """The tiles of lines of order (B, N) and gaps (B, N-1), and the lines of stretches that they leave."""

    order: Any
    gaps: Any
    tiles: Struct
    """The struct `Tiles` of kernels/line_tiles.cuh."""
    left: Line


def n_tiles(n: int) -> int:
    """Return how many tiles a line of n positions makes."""
    return -(-n // _compile.SPAN)


def tiles_of(order: Any, gaps: Any) -> Tiles:
    """Find the tiles of lines of order (B, N), N > 1, and gaps (B, N-1); the chains of what they leave."""
    order, gaps = cupy.ascontiguousarray(order), cupy.ascontiguousarray(gaps)
    n_trees, n = order.shape
    across = n_tiles(n)
    merges, stretches = (cupy.empty(n_trees * across * _compile.SPAN, np.uint32) for _ in range(2))
    n_merges, first_stretches = (cupy.empty(n_trees * k, np.uint32) for k in (across, across + 1))
    tiles = Struct(_TILES, merges, n_merges, cupy.empty(n_trees * n, np.uint8), stretches, first_stretches)
    heights, starts = cupy.empty(n_trees * n, BITS[gaps.dtype]), cupy.zeros(n_trees + 2, np.uint32)
    kernel("line_tiles", "find_tiles", KEY=KEY[gaps.dtype])(
        n_trees * across * _compile.BLOCK, gaps, np.uint32(n_trees), np.uint32(n), tiles, heights, starts
    )
    return Tiles(order, gaps, tiles, _chains_of(heights, starts, n))


def line_of(gaps: Any) -> Line:
    """Find the chains of one line of gaps (N-1,), N > 1."""
    n = len(gaps) + 1
    heights = cupy.full(n, -1, np.dtype(f"i{gaps.itemsize}"))
    heights[:-1] = cupy.ascontiguousarray(gaps).view(heights.dtype)
    starts = cupy.full(3, n, np.uint32)
    starts[:1] = 0
    return _chains_of(heights, starts, n)


def _chains_of(heights: Any, starts: Any, n: int) -> Line:
    """Find the chains of lines of at most n positions each; starts are those of kernels/global_line.cuh."""
    n_lines, n_slots = len(starts) - 2, len(heights)
    n_entries = 2 * n_slots + (n.bit_length() + 2) * n_lines
    names, lines = {"KEY": "u32" if heights.itemsize == 4 else "u64"}, Struct(_LINES, starts, n_lines)
    slots, up = (cupy.empty(n_entries, np.uint32) for _ in range(2))
    entry_of, state = cupy.empty(n_slots, np.uint32), cupy.empty(40, np.uint32)
    found = Struct(_LEVELS, heights, slots, up, entry_of, state)
    levels = kernel("global_line", "levels", **names)
    of_blocks = cupy.empty(levels.n_blocks(n_slots) + 1, np.uint32)
    levels(n_slots, lines, found, of_blocks)
    chains = kernel("global_line", "chains", **names)
    chain_of, row_of, position_merges = (cupy.empty(n_slots, np.uint32) for _ in range(3))
    starts, stops, bottoms = (cupy.empty(n_entries, np.uint32) for _ in range(3))
    line_rows, lows, cuts, highs, row_stops, row_merges = (cupy.empty(n_slots, np.uint32) for _ in range(6))
    table = cupy.empty(n_lines * 32 * chains.n_tiles(n), np.uint32)
    of_blocks = cupy.empty(chains.n_blocks(n_slots), np.uint32)
    branch_on_left = cupy.empty(n_slots, np.uint8)
    work = Struct(_CHAINS, chain_of, row_of, table, of_blocks, line_rows, starts, stops, bottoms)
    line = Struct(_LINE, lows, cuts, highs, branch_on_left, row_stops, row_merges, position_merges)
    chains(n_slots, lines, found, work, line)
    return Line(heights, lines, line)


def n_groups(n: int) -> int:
    """Return the number of groups of 4, of groups of 4 groups ... until one holds everything."""
    total = 0
    while n > 1 or not total:
        n = -(-n // 4)
        total += n
    return total
