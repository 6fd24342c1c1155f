"""The chains of a batch of lines, which sums over them follow (kernels/global_line.cu)."""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np

from aproarray.gpu._arguments import KEY, struct_of_pointers
from aproarray.gpu._compile import Struct, kernel

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
    """A batch of lines, and their chains from bottom to top: rows, one for each gap."""

    order: Any
    gaps: Any
    chains: Struct
    """The struct `Line` of kernels/global_line.cuh."""


def line_of(order: Any, gaps: Any) -> Line:
    """Find the chains of lines of order (B, N), N > 1, and gaps (B, N-1)."""
    order, gaps = cupy.ascontiguousarray(order), cupy.ascontiguousarray(gaps)
    n_images, n_nodes = order.shape
    n_slots, n_rows = n_images * n_nodes, n_images * (n_nodes - 1)
    n_entries = 2 * n_slots + (n_nodes.bit_length() + 2) * n_images
    names = {"KEY": KEY[gaps.dtype]}
    counts = np.uint32(n_images), np.uint32(n_nodes)
    heights = cupy.empty(n_slots, np.uint32 if gaps.itemsize == 4 else np.uint64)
    slots, up = (cupy.empty(n_entries, np.uint32) for _ in range(2))
    entry_of, state = cupy.empty(n_slots, np.uint32), cupy.empty(40, np.uint32)
    found = Struct(_LEVELS, heights, slots, up, entry_of, state)
    levels = kernel("global_line", "levels", **names)
    of_blocks = cupy.empty(levels.n_blocks(n_slots) + 1, np.uint32)
    levels(n_slots, gaps, *counts, found, of_blocks)
    chains = kernel("global_line", "chains", **names)
    chain_of, row_of, position_merges = (cupy.empty(n_slots, np.uint32) for _ in range(3))
    starts, stops, bottoms = (cupy.empty(n_entries, np.uint32) for _ in range(3))
    line_rows, lows, cuts, highs, row_stops, row_merges = (cupy.empty(n_rows, np.uint32) for _ in range(6))
    table = cupy.empty(n_images * 32 * chains.n_tiles(n_nodes), np.uint32)
    of_blocks = cupy.empty(chains.n_blocks(n_slots), np.uint32)
    branch_on_left = cupy.empty(n_slots, np.uint8)
    work = Struct(_CHAINS, chain_of, row_of, table, of_blocks, line_rows, starts, stops, bottoms)
    line = Struct(_LINE, lows, cuts, highs, branch_on_left, row_stops, row_merges, position_merges)
    chains(n_slots, found, *counts, work, line)
    return Line(order, gaps, line)


def n_groups(n: int) -> int:
    """Return the number of groups of 8, of groups of 8 groups ... until one holds everything."""
    total = 0
    while n > 1 or not total:
        n = -(-n // 8)
        total += n
    return total
