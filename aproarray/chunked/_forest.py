"""What is computed of the parts of an image to flood it as a whole: see `aproarray.cpu._forest` for arrivals.

Going up, a chunk is flooded from its own seeds, and its pixels' graph is contracted to a small one that has
the same arrivals at its border, whatever comes in there. The graphs of neighbouring chunks are joined by the
edges between them, flooded and contracted in their turn. At the top nothing comes in: the arrivals there are
those of the whole image. Going down, each box is flooded with the arrivals at its border, and so are the
chunks in the end.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aproarray import _edges, cpu
from aproarray.chunked import _line
from aproarray.chunked._boxes import Array, Box


class Arrivals(NamedTuple):
    """A table of arrivals."""

    levels: NDArray[np.int32]
    """-1: a seed."""
    counts: NDArray[np.int64]
    """Of a seed: its label."""
    befores: NDArray[np.int64]
    """Entries of the table; of a seed: its place in the image."""

    def labels(self) -> NDArray[np.int64]:
        """Return the label that each entry brings."""
        seeds = np.where(self.levels < 0, np.arange(len(self.levels)), self.befores)
        while True:
            further = seeds[seeds]
            if np.array_equal(further, seeds):
                return np.asarray(self.counts[seeds], np.int64)
            seeds = further


class Border(NamedTuple):
    """When the pixels of a border are entered."""

    table: Arrivals
    arrivals: NDArray[np.int32]
    """Entries of the table, -1: never (K)."""


class Part(NamedTuple):
    """A box as it is seen through its border, for one relief."""

    ids: NDArray[np.int64]
    """The places in the image of the border's pixels that take part (K)."""
    relief: NDArray[np.float32]
    """At these pixels."""
    n_nodes: int
    """Nodes of the graph: these pixels first."""
    ends: NDArray[np.int32]
    """Of the graph's edges (E, 2)."""
    levels: NDArray[np.uint16]
    border: Border
    """By the box's own seeds."""


class _Graph(NamedTuple):
    """The graphs of several parts, and the edges between them."""

    n_nodes: int
    ends: NDArray[np.int32]
    levels: NDArray[np.uint16]
    borders: list[NDArray[np.int32]]
    """The nodes that are the pixels of each part's border."""
    sources: NDArray[np.int32]
    table: Arrivals
    arrivals: NDArray[np.int32]
    """Of the sources."""


_NO_ARRIVALS = Arrivals(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int64))


def _excerpt(table: Arrivals, arrivals: Array) -> Border:
    """Return arrivals with the entries of the table that they need."""
    needed = np.zeros(len(table.levels), bool)
    entries = np.unique(arrivals[arrivals >= 0])
    while len(entries):
        needed[entries] = True
        before = np.unique(table.befores[entries[table.levels[entries] >= 0]])
        entries = before[~needed[before]]
    numbers = np.append(np.cumsum(needed) - 1, -1)
    levels, befores = table.levels[needed], table.befores[needed]
    befores[levels >= 0] = numbers[befores[levels >= 0]]
    return Border(Arrivals(levels, table.counts[needed], befores), numbers[arrivals].astype(np.int32))


def _together(borders: list[Border]) -> tuple[Arrivals, list[Array]]:
    """Return several tables as one, and the arrivals of each in it."""
    firsts = list(itertools.accumulate((len(border.table.levels) for border in borders), initial=0))
    befores = [
        border.table.befores + np.where(border.table.levels < 0, 0, first)
        for border, first in zip(borders, firsts, strict=False)
    ]
    tables = [border.table for border in borders]
    table = Arrivals(
        np.concatenate([_NO_ARRIVALS.levels, *(one.levels for one in tables)]),
        np.concatenate([_NO_ARRIVALS.counts, *(one.counts for one in tables)]),
        np.concatenate([_NO_ARRIVALS.befores, *befores]),
    )
    arrivals = [
        np.where(border.arrivals < 0, -1, border.arrivals + first).astype(np.int32)
        for border, first in zip(borders, firsts, strict=False)
    ]
    return table, arrivals


def _seeds(labels: Array, takes_part: NDArray[np.bool_], box: Box) -> tuple[Array, Border]:
    """Return the pixels of a box's seeds, and their arrivals."""
    pixels = np.flatnonzero((labels > 0) & takes_part)
    n = len(pixels)
    table = Arrivals(np.full(n, -1, np.int32), labels.reshape(-1)[pixels].astype(np.int64), box.ids(pixels))
    return pixels, Border(table, np.arange(n, dtype=np.int32))


def _flooded(
    relief: Array, closed: NDArray[np.bool_], heaviest: float, sources: Array, border: Border
) -> Border:
    """Flood a box from pixels of known arrivals; return those of all pixels."""
    padded = tuple(extent + 2 for extent in relief.shape)
    inner = (slice(1, -1),) * relief.ndim
    reliefs = np.zeros(padded, np.float32)
    reliefs[inner] = relief
    arrivals = np.full(padded, -2, np.int32)
    arrivals[inner][~closed] = -1
    places = np.ravel_multi_index(
        tuple(along + 1 for along in np.unravel_index(sources, relief.shape)), padded
    )
    neighbours = _edges.grid(padded, 1).strides
    table = cpu.flood_from(
        reliefs.reshape(-1), np.concatenate([-neighbours[::-1], neighbours]), heaviest,
        places.astype(np.int32), border.arrivals, border.table, arrivals.reshape(-1),
    )  # fmt: skip
    return Border(Arrivals(*table), np.maximum(arrivals[inner].reshape(-1), -1))


def chunk_part(
    relief: Array, takes_part: NDArray[np.bool_], labels: Array, heaviest: float, box: Box
) -> Part:
    """Return a chunk as it is seen through its border."""
    kept = (box.border() & takes_part).reshape(-1)
    pixels = np.flatnonzero(kept)
    found = _flooded(relief, ~takes_part, heaviest, *_seeds(labels, takes_part, box))
    numbers = np.arange(relief.size, dtype=np.int32).reshape(relief.shape)
    pairs = []
    for axis in range(relief.ndim):
        along, open_ = np.moveaxis(numbers, axis, 0), np.moveaxis(takes_part, axis, 0)
        both = open_[1:] & open_[:-1]
        pairs.append(np.stack([along[:-1][both], along[1:][both]]))
    us, vs = np.concatenate(pairs, 1)
    flat = np.ascontiguousarray(relief, np.float32).reshape(-1)
    levels = cpu.edge_levels(flat[us], flat[vs], heaviest)
    n_nodes, ends, levels = _contracted(relief.size, us, vs, levels, pixels)
    border = _excerpt(found.table, found.arrivals[pixels])
    return Part(box.ids(pixels), flat[pixels], n_nodes, ends, levels, border)


def _contracted(
    n: int, us: Array, vs: Array, levels: Array, kept: Array
) -> tuple[int, NDArray[np.int32], NDArray[np.uint16]]:
    """Contract a graph of n nodes; return the number of nodes, the kept ones first, its edges and levels."""
    left = cpu.contracted(n, us, vs, levels, kept)
    ends, levels = np.sort(left[0], 0), left[1]
    # Several edges of a level between the same two nodes are one.
    order = np.lexsort((ends[1], ends[0], levels))
    ends, levels = ends[:, order], levels[order]
    new = np.ones(len(levels), bool)
    new[1:] = (np.diff(ends) != 0).any(0) | (np.diff(levels.astype(np.int32)) != 0)
    ends, levels = ends[:, new], levels[new]
    is_kept = np.zeros(n, bool)
    is_kept[kept] = True
    used = np.unique(ends)
    others = used[~is_kept[used]]
    numbers = np.zeros(n, np.int32)
    numbers[kept] = np.arange(len(kept))
    numbers[others] = np.arange(len(kept), len(kept) + len(others))
    return len(kept) + len(others), np.ascontiguousarray(numbers[ends].T), levels


def _graph(parts: list[Part], heaviest: float, box: Box) -> _Graph:
    """Join the graphs of the parts of a box."""
    firsts = list(itertools.accumulate((part.n_nodes for part in parts), initial=0))
    borders = [
        np.arange(first, first + len(part.ids), dtype=np.int32)
        for part, first in zip(parts, firsts, strict=False)
    ]
    ids = np.concatenate([part.ids for part in parts])
    relief = np.concatenate([part.relief for part in parts])
    part_of = np.repeat(np.arange(len(parts)), [len(part.ids) for part in parts])
    nodes = np.concatenate(borders)
    between = _line.edges_between(ids, part_of, box, 1)
    levels = cpu.edge_levels(relief[between[:, 0]], relief[between[:, 1]], heaviest)
    ends = [part.ends + np.int32(first) for part, first in zip(parts, firsts, strict=False)]
    table, arrivals = _together([part.border for part in parts])
    return _Graph(
        firsts[-1],
        np.concatenate([*ends, nodes[between]]),
        np.concatenate([*(part.levels for part in parts), levels]),
        borders,
        nodes,
        table,
        np.concatenate(arrivals),
    )


def _flooded_graph(graph: _Graph) -> Border:
    """Return the arrivals of all nodes."""
    ends = np.concatenate([graph.ends[:, 0], graph.ends[:, 1]])
    order = np.argsort(ends, kind="stable")
    starts = np.zeros(graph.n_nodes + 1, np.int64)
    np.cumsum(np.bincount(ends, minlength=graph.n_nodes), out=starts[1:])
    targets = np.concatenate([graph.ends[:, 1], graph.ends[:, 0]])[order]
    levels = np.concatenate([graph.levels, graph.levels])[order]
    arrivals = np.full(graph.n_nodes, -1, np.int32)
    reached = graph.arrivals >= 0
    table = cpu.flood_graph_from(
        starts, targets, levels, graph.sources[reached], graph.arrivals[reached], graph.table, arrivals
    )
    return Border(Arrivals(*table), arrivals)


def join(parts: list[Part], heaviest: float, box: Box) -> Part:
    """Return a box as it is seen through its border, from its parts."""
    graph = _graph(parts, heaviest, box)
    found = _flooded_graph(graph)
    ids = np.concatenate([part.ids for part in parts])
    on_border = box.on_border(ids)
    nodes = graph.sources[on_border]
    us, vs = np.ascontiguousarray(graph.ends.T)
    n_nodes, ends, levels = _contracted(graph.n_nodes, us, vs, graph.levels, nodes)
    relief = np.concatenate([part.relief for part in parts])[on_border]
    border = _excerpt(found.table, found.arrivals[nodes])
    return Part(ids[on_border], relief, n_nodes, ends, levels, border)


def down(parts: list[Part], own: Border | None, heaviest: float, box: Box) -> list[Border]:
    """Return the arrivals at the borders of a box's parts, from those at its own (None: it is the image)."""
    graph = _graph(parts, heaviest, box)
    if own is not None:
        ids = np.concatenate([part.ids for part in parts])
        table, (inner, outer) = _together([Border(graph.table, graph.arrivals), own])
        graph = graph._replace(
            sources=np.concatenate([graph.sources, graph.sources[box.on_border(ids)]]),
            table=table,
            arrivals=np.concatenate([inner, outer]),
        )
    found = _flooded_graph(graph)
    return [_excerpt(found.table, found.arrivals[nodes]) for nodes in graph.borders]


def chunk_labels(
    relief: Array,
    takes_part: NDArray[np.bool_],
    labels: Array,
    own: Border | None,
    heaviest: float,
    box: Box,
    values: Array,
) -> NDArray[np.int32]:
    """Return the labels of a chunk's pixels, from the arrivals at its border.

    Label k is values[k - 1], ascending. 0: there is none.
    """
    sources, border = _seeds(labels, takes_part, box)
    if own is not None:
        reached = own.arrivals >= 0
        pixels = np.flatnonzero((box.border() & takes_part).reshape(-1))[reached]
        table, (inner, outer) = _together([border, own._replace(arrivals=own.arrivals[reached])])
        sources, border = np.concatenate([sources, pixels]), Border(table, np.concatenate([inner, outer]))
    found = _flooded(relief, ~takes_part, heaviest, sources, border)
    labels = found.table.labels().astype(values.dtype)
    brought = np.append(np.searchsorted(values, labels) + 1, 0).astype(np.int32)
    return np.asarray(brought[found.arrivals].reshape(relief.shape))
