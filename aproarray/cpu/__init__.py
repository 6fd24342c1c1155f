"""The NumPy backend: trees and sweeps in Cython, windows in Numba.

The functions here are what a backend is. They take arrays that `aproarray._api` has checked and laid
out, and split the work over threads so that the result does not depend on how.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aproarray import _grid
from aproarray.cpu import _mst, _sweep, _workers

Array = NDArray[Any]
available_workers = _workers.available_cpus


class TreeArrays(NamedTuple):
    """B trees over N nodes: edges (B, N-1, 2), weights (B, N-1), order (B, N), gaps (B, N-1)."""

    edges: Array
    weights: Array
    order: Array
    gaps: Array

    def with_leading(self, leading: tuple[int, ...]) -> tuple[Array, Array, Array, Array]:
        """Return the arrays with the batch axis B replaced by leading axes."""
        edges, weights, order, gaps = (array.reshape(leading + array.shape[1:]) for array in self)
        return edges, weights, order, gaps


def _build_trees(
    n_trees: int,
    n_nodes: int,
    dtype: np.dtype[Any],
    build: Callable[..., bool],
    workers: int,
) -> tuple[TreeArrays, bool]:
    """Make a batch of trees, filled by build(b, edges, weights, order, gaps); all weights finite?"""
    if n_trees * n_nodes > np.iinfo(np.intp).max // 64:  # for which numpy would raise a ValueError
        raise MemoryError(f"{n_trees} trees over {n_nodes} nodes are more than a process can address")
    index_dtype = np.intc if n_nodes <= np.iinfo(np.intc).max else np.longlong
    n_edges = max(n_nodes - 1, 0)
    trees = TreeArrays(
        np.empty((n_trees, n_edges, 2), index_dtype),
        np.empty((n_trees, n_edges), dtype),
        np.empty((n_trees, n_nodes), index_dtype),
        np.empty((n_trees, n_edges), dtype),
    )
    finite = [True] * n_trees

    def build_one(b: int) -> None:
        finite[b] = build(b, *(array[b] for array in trees))

    _workers.run([functools.partial(build_one, b) for b in range(n_trees)], workers)
    return trees, all(finite)


def grid_trees(
    images: Array, shape: tuple[int, ...], connectivity: int, masks: Array | None, workers: int
) -> tuple[TreeArrays, bool]:
    """Build the trees of images (B, N, C), N pixels of `shape`, where masks (B or 1, N) are True."""
    grid = _grid.grid(shape, connectivity)

    def build(b: int, *tree: Array) -> bool:
        mask = np.empty(0, np.uint8) if masks is None else masks[b % len(masks)].view(np.uint8)
        return _mst.grid_tree(images[b], mask, grid, *tree)

    return _build_trees(len(images), images.shape[1], images.dtype, build, workers)


def edge_list_tree(ends: Array, weights: Array, n_nodes: int) -> tuple[TreeArrays, bool]:
    """Build the tree of one graph, of edges (E, 2) with weights (E), as a batch of one."""

    def build(_: int, edges: Array, *tree: Array) -> bool:
        return _mst.edge_list_tree(np.ascontiguousarray(ends, edges.dtype), weights, edges, *tree)

    return _build_trees(1, n_nodes, weights.dtype, build, workers=1)


def reweighed_trees(edges: Array, tree_of: Array, features: Array, workers: int) -> tuple[TreeArrays, bool]:
    """Weigh trees by features (F, N, C): tree f has the edges (B, N-1, 2) of tree tree_of[f]."""

    def build(f: int, *tree: Array) -> bool:
        ends, weights = edges[tree_of[f]], np.empty(edges.shape[1], features.dtype)
        _mst.weigh_edges(features[f], ends, weights)
        return _mst.edge_list_tree(ends, weights, *tree)

    return _build_trees(len(features), features.shape[1], features.dtype, build, workers)


def linkage(edges: Array, weights: Array) -> Array:
    """Return the linkage matrix (N-1, 4) of one connected tree."""
    result = np.empty((len(edges), 4))
    _mst.linkage(edges, weights, result)
    return result


def largest_between(gaps: Array, first: Array, last: Array) -> Array:
    """Return the largest of gaps[first:last] for every pair of positions (Q), 0 where that is empty."""
    result = np.empty(len(first), gaps.dtype)
    _mst.largest_between(gaps, first, last, result)
    return result


def affinities(distances: Array, zeta: float) -> Array:
    """Return exp(-d / zeta^2) in float64, 0 where d is inf, for distances (M,) and any zeta > 0."""
    result = np.empty(len(distances))
    _sweep.affinities(distances, zeta, result)
    return result


def global_propagate(
    values: Array, out: Array, order: Array, gaps: Array, tree_of: Array, zeta: float, workers: int
) -> None:
    """Propagate values (I, N, C) into out (I, N, C), item i over tree tree_of[i] of order (B, N)."""
    n_channels = values.shape[2]
    used, group = np.unique(tree_of, return_inverse=True)
    shares = max(1, workers // max(len(used), 1))  # tasks per tree, where there are fewer trees than workers
    tasks = []
    for g, tree in enumerate(used):
        items = np.flatnonzero(group == g)
        columns = np.empty((len(items) * n_channels, 2), np.intp)  # (item, channel)
        columns[:, 0] = np.repeat(items, n_channels)
        columns[:, 1] = np.tile(np.arange(n_channels), len(items))
        n_blocks = -(-len(columns) // _sweep.MAX_COLUMNS)
        n_blocks = min(len(columns), -(-n_blocks // shares) * shares)
        blocks = np.array_split(columns, n_blocks) if n_blocks else []
        tasks += [
            functools.partial(
                _sweep_blocks, values, out, blocks[share::shares], order[tree], gaps[tree], zeta
            )
            for share in range(min(shares, n_blocks))
        ]
    _workers.run(tasks, workers)


def _sweep_blocks(
    values: Array, out: Array, blocks: list[Array], order: Array, gaps: Array, zeta: float
) -> None:
    kappa = affinities(gaps, zeta)
    ones = np.empty(len(order), values.dtype)
    for columns in blocks:
        _sweep.global_propagate(values, out, columns, order, kappa, ones)


def local_propagate(*args: Any) -> None:
    """Propagate along windows; see `_stencil.propagate`, which is imported here as it imports Numba."""
    from aproarray.cpu import _stencil

    _stencil.propagate(*args)
