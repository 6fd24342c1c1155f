"""What is computed of the lines of chunks: they are reduced, joined, seen from inside, and summed over.

A line is items and the gaps between them: the minimax distance of two items is the largest gap between them.
An image's line reduced to some kept pixels (`Line`) says what is seen from them: every other item stands for
all pixels at one distance from a kept one. Whatever joins a chunk through its border sees the same sums at
the same distances, in a line reduced to the border.

Going up, the lines of neighbouring chunks are joined (Kruskal's algorithm over their gaps and the edges
between them) and reduced to the border of what they make up. Going down, a chunk's *context* is the line of
all that lies outside of it, reduced to its border. In the end, a chunk's own line is joined to its context.

Sums (*masses*, (items, columns)) are kept apart from lines: they follow what was done to those.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aproarray import _edges, _validate, cpu
from aproarray.chunked._boxes import Box

Array = NDArray[Any]

_EVERY_ONE = np.empty(0)  # counts: 1 each


class Line(NamedTuple):
    """A reduced line."""

    ids: NDArray[np.int64]
    """The kept pixels' places in the image, -1 for other items (E)."""
    gaps: Array
    """Between the items (E-1)."""
    counts: NDArray[np.float64]
    """Pixels in each item (E)."""
    features: Array
    """What the image has at the kept pixels, in the order of the line."""


class OwnLine(NamedTuple):
    """The line of a chunk's own pixels, in entries: stretches that a reduced line has one item for."""

    pixels: Array
    """The pixels on the line, those that take no part left out (P)."""
    gaps: Array
    """Between them (P-1)."""
    starts: NDArray[np.int64]
    """Where the entries start (E)."""
    left_out: Array
    """The pixels that take no part."""
    n_pixels: int


class FullLine(NamedTuple):
    """The line of a chunk's N pixels and the K items of its context, which are numbered from N on.

    Pixels that take no part are alone at its end.
    """

    pixels: Array
    gaps: Array
    starts: NDArray[np.int64]
    """Where the own entries start (E), in their own order."""
    ends: NDArray[np.int64]
    counts: NDArray[np.float64]
    """Pixels in each item of the context (K)."""
    n_pixels: int


class Joined(NamedTuple):
    """The line over the items of several reduced lines, and how it is reduced."""

    order: NDArray[np.int64]
    """Items on the line, by their places in the given lines one after the other."""
    gaps: Array
    ids: NDArray[np.int64]
    counts: NDArray[np.float64]
    bounds: tuple[int, ...]
    """Where each of the given lines starts."""
    starts: NDArray[np.int64]
    """Where the items of the reduced line start."""


class Contexts(NamedTuple):
    """How the contexts of the parts of a box follow from those parts and the context of the box."""

    order: NDArray[np.int64]
    bounds: tuple[int, ...]
    starts: list[NDArray[np.int64]]
    """Where the items of each part's context start."""


def own_line(
    block: Array, mask: Array | None, box: Box, chunk: str, connectivity: int, also: Array, check: bool
) -> tuple[OwnLine, Line]:
    """Return the line of a chunk (spatial + channels), and reduced to its border and some pixels `also`."""
    flat = np.ascontiguousarray(block.reshape(1, -1, block.shape[-1]), _validate.compute_dtype(block.dtype))
    takes_part = None if mask is None else np.ascontiguousarray(mask.reshape(1, -1))
    if check:
        _validate.finite(flat, f"image in {chunk}", takes_part)
    trees, finite = cpu.grid_trees(flat, box.shape, connectivity, takes_part, 1)
    if check:
        _validate.no_overflow(finite, f"image in {chunk}", flat.dtype)
    pixels, gaps, left_out = trees.order[0], trees.gaps[0], np.empty(0, trees.order.dtype)
    if takes_part is not None and not takes_part.all():
        # Pixels left out are alone between infinite gaps.
        places = np.flatnonzero(takes_part[0][pixels])
        left_out = np.flatnonzero(~takes_part[0]).astype(pixels.dtype)
        gaps = gaps[places[1:] - 1]
        gaps[np.diff(places) > 1] = np.inf
        pixels = pixels[places]
    keep = box.border().ravel()
    inside = box.pixels(also)
    keep[inside[inside >= 0]] = True
    kept = keep[pixels]
    starts, between, kept_entries = cpu.reduce_line(gaps, kept.view(np.uint8), _EVERY_ONE)
    ids = np.full(len(starts), -1, np.int64)
    ids[kept_entries] = box.ids(pixels[kept])
    counts = np.diff(starts, append=len(pixels)).astype(np.float64)
    own = OwnLine(pixels, gaps, starts, left_out, flat.shape[1])
    return own, Line(ids, between, counts, flat[0][pixels[kept]])


def _kruskal(edges: Array, weights: Array, n_items: int) -> tuple[NDArray[np.int64], Array]:
    trees, _ = cpu.edge_list_tree(edges, weights, n_items)
    return trees.order[0].astype(np.int64, copy=False), trees.gaps[0]


def _path_edges(gaps: Array, order: Array) -> tuple[Array, Array]:
    """Return the edges between neighbours on a line, and their weights."""
    there = np.isfinite(gaps)
    return np.stack([order[:-1][there], order[1:][there]], 1), gaps[there]


def edges_between(ids: Array, part_of: Array, box: Box, connectivity: int) -> NDArray[np.int64]:
    """Return the edges (E, 2), rows of `ids`, between pixels of different parts."""
    by_id = np.argsort(ids)
    sorted_ids = ids[by_id]
    coordinates = np.unravel_index(ids, box.image)
    found = [np.empty((0, 2), np.int64)]
    for step in _edges.grid(box.image, connectivity).offsets:
        there = [c + s for c, s in zip(coordinates, step, strict=True)]
        inside = np.ones(len(ids), bool)
        for c, extent in zip(there, box.image, strict=True):
            inside &= (c >= 0) & (c < extent)
        rows = np.flatnonzero(inside)
        if not len(rows):
            continue
        wanted = np.ravel_multi_index(tuple(c[rows] for c in there), box.image)
        place = np.minimum(np.searchsorted(sorted_ids, wanted), len(ids) - 1)
        other = by_id[place]
        is_edge = (sorted_ids[place] == wanted) & (part_of[other] != part_of[rows])
        found.append(np.stack([rows[is_edge], other[is_edge]], 1))
    return np.concatenate(found)


def join(lines: list[Line], box: Box, connectivity: int, also: Array, check: bool) -> tuple[Joined, Line]:
    """Join the lines of the parts of a box; also return the line reduced to the box's border and `also`."""
    bounds = tuple(itertools.accumulate((len(line.ids) for line in lines), initial=0))
    ids = np.concatenate([line.ids for line in lines])
    counts = np.concatenate([line.counts for line in lines])
    features = np.concatenate([line.features for line in lines])
    items = np.flatnonzero(ids >= 0)
    part_of = np.searchsorted(bounds, items, "right")
    ends = edges_between(ids[items], part_of, box, connectivity)
    weights = cpu.edge_weights(np.ascontiguousarray(features), ends)
    if check:
        _validate.no_overflow(bool(np.isfinite(weights).all()), "image between chunks", features.dtype)
    edges, all_weights = [items[ends]], [weights]
    for line, first in zip(lines, bounds, strict=False):
        path, path_weights = _path_edges(line.gaps, np.arange(first, first + len(line.ids)))
        edges.append(path)
        all_weights.append(path_weights)
    order, gaps = _kruskal(np.concatenate(edges), np.concatenate(all_weights), len(ids))
    keep = np.zeros(len(ids), bool)
    keep[items] = box.on_border(ids[items]) | np.isin(ids[items], also)
    feature_of = np.empty(len(ids), np.int64)
    feature_of[items] = np.arange(len(items))
    starts, reduced = _reduced(order, gaps, ids, counts, keep)
    kept = order[keep[order]]
    joined = Joined(order, gaps, ids, counts, bounds, starts)
    return joined, reduced._replace(features=features[feature_of[kept]])


def _reduced(
    order: Array, gaps: Array, ids: Array, counts: Array, keep: Array
) -> tuple[NDArray[np.int64], Line]:
    """Reduce a line over items to the kept ones; features are left out."""
    kept = keep[order]
    starts, between, kept_entries = cpu.reduce_line(gaps, kept.view(np.uint8), counts[order])
    kept_ids = np.full(len(starts), -1, np.int64)
    kept_ids[kept_entries] = ids[order[kept]]
    return starts, Line(kept_ids, between, sums(counts[order], starts), np.empty((0, 0), gaps.dtype))


def sums(masses: Array, starts: Array, add: np.ufunc = np.add) -> Array:
    """Add masses of items on a line over the stretches that start there."""
    result: Array = add.reduceat(masses, starts, axis=0) if len(starts) else masses[:0]
    return result


def contexts(joined: Joined, context: Line | None, also: Array) -> tuple[Contexts, list[Line]]:
    """Return the contexts of a box's parts, from its own context (None: it is the image)."""
    order, gaps, ids, counts = joined.order, joined.gaps, joined.ids, joined.counts
    if context is not None:
        order, gaps, ids, counts = _with_context(order, gaps, ids, counts, context)
    starts, lines = [], []
    items = np.arange(len(ids))
    for first, last in itertools.pairwise(joined.bounds):
        own = (items >= first) & (items < last)
        keep = (ids >= 0) & (own | np.isin(ids, also))
        one_starts, line = _reduced(order, gaps, ids, np.where(own, 0, counts), keep)
        starts.append(one_starts)
        lines.append(line)
    return Contexts(order, joined.bounds, starts), lines


def _with_context(
    order: Array, gaps: Array, ids: Array, counts: Array, context: Line
) -> tuple[Array, Array, Array, Array]:
    """Join a line to its context, in which the pixels of its border stand a second time."""
    n, n_context = len(ids), len(context.ids)
    mine = np.flatnonzero(ids >= 0)
    mine = mine[np.argsort(ids[mine])]
    again = np.flatnonzero(context.ids >= 0)
    if len(mine) and len(again):
        place = np.minimum(np.searchsorted(ids[mine], context.ids[again]), len(mine) - 1)
        same = ids[mine[place]] == context.ids[again]
        links = np.stack([mine[place][same], n + again[same]], 1)
    else:
        links = np.empty((0, 2), np.int64)
    path, weights = _path_edges(gaps, order)
    context_path, context_weights = _path_edges(context.gaps, np.arange(n, n + n_context))
    edges = np.concatenate([links, path, context_path])
    all_weights = np.concatenate([np.zeros(len(links), gaps.dtype), weights, context_weights])
    order, gaps = _kruskal(edges, all_weights, n + n_context)
    context_ids = context.ids.copy()
    context_ids[links[:, 1] - n] = -1
    return order, gaps, np.concatenate([ids, context_ids]), np.concatenate([counts, context.counts])


def full_line(own: OwnLine, line: Line, context: Line | None) -> FullLine:
    """Join a chunk's own line, which `line` is reduced from, to its context (None: it is the image)."""
    n_entries, n_placed = len(own.starts), len(own.pixels)
    bounds = np.append(own.starts, n_placed)
    if context is None:
        order, between, counts = np.arange(n_entries), line.gaps, _EVERY_ONE
    else:
        order, between, _, _ = _with_context(np.arange(n_entries), line.gaps, line.ids, line.counts, context)
        counts = context.counts
    pixels, gaps, starts = cpu.expand_line(own.pixels, own.gaps, bounds, order, between, own.n_pixels)
    mine = np.empty(n_entries, np.int64)
    is_mine = order < n_entries
    mine[order[is_mine]] = starts[is_mine]
    n_alone = len(own.left_out)
    if n_alone:
        pixels = np.concatenate([pixels, own.left_out])
        gaps = np.concatenate([gaps, np.full(min(n_alone, len(pixels) - 1), np.inf, gaps.dtype)])
    return FullLine(pixels, gaps, mine, mine + np.diff(bounds), counts, own.n_pixels)


def own_masses(line: OwnLine | FullLine, columns: Array) -> NDArray[np.float64]:
    """Return the sums of the columns (N, C) of a chunk's pixels over its entries."""
    ends = line.ends if isinstance(line, FullLine) else np.append(line.starts[1:], len(line.pixels))
    masses = np.empty((len(line.starts), columns.shape[1]))
    cpu.sum_stretches(columns, line.pixels, line.starts, ends, masses)
    return masses


def joined_masses(joined: Joined, parts: list[Array], add: np.ufunc = np.add) -> Array:
    """Return the masses of a box's reduced line, from those of its parts' reduced lines."""
    return sums(np.concatenate(parts)[joined.order], joined.starts, add)


def context_masses(
    down: Contexts, parts: list[Array], context: Array | None, add: np.ufunc = np.add, nothing: float = 0
) -> list[Array]:
    """Return the masses of the contexts of a box's parts, from the parts' and its own context's."""
    masses = np.concatenate(parts if context is None else [*parts, context])
    found = []
    for part, starts in enumerate(down.starts):
        others = masses.copy()
        others[down.bounds[part] : down.bounds[part + 1]] = nothing
        found.append(sums(others[down.order], starts, add))
    return found
