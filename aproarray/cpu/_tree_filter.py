"""The tree filter: how its sums over trees (`_rooted`) are split over threads.

Sets of distances (F, N-1) weigh the gaps of trees: set f those of tree tree_index[f]. Item i is filtered with
set set_of[i].
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aproarray._backend import RootedTrees
from aproarray.cpu import _rooted, _sweep, _workers

Array = NDArray[Any]


def rooted_trees(order: Array, gap_edges: Array, workers: int) -> RootedTrees:
    """Lay trees of order (B, N) and gap_edges (B, N-1, 2) out breadth first, after a look that they are."""
    n_trees, n_nodes = order.shape
    index_dtype = np.dtype(np.int32 if 2 * n_nodes < 1 << 31 else np.int64)
    nodes, parents, gaps = (np.empty((n_trees, n_nodes), index_dtype) for _ in range(3))
    n_roots = np.zeros(n_trees, np.intp)

    def one_tree(b: int) -> None:
        line, edges = (np.ascontiguousarray(array[b], index_dtype) for array in (order, gap_edges))
        room = (
            np.empty(n_nodes + 2, index_dtype),
            np.empty((2 * n_nodes, 2), index_dtype),
            np.empty(n_nodes, np.uint8),
        )
        n_roots[b] = _workers.run_apart(
            _rooted.root_trees, line, edges, *room, nodes[b], parents[b], gaps[b], pixels=n_nodes
        )

    if n_nodes:
        _workers.run([functools.partial(one_tree, b) for b in range(n_trees)], workers)
    return RootedTrees(nodes, parents, gaps, n_roots)


def edge_distances(features: Array, gap_edges: Array, tree_index: Array, workers: int) -> tuple[Array, bool]:
    """Return |f_u - f_v|^2 (F, N-1) of features (F, N, C) along the edges (B, N-1, 2) of tree tree_index[f].

    inf where there is no edge; and whether they are finite elsewhere.
    """
    distances = np.empty((len(features), gap_edges.shape[1]), features.dtype)

    def one_set(f: int) -> bool:
        return _rooted.edge_distances(features[f], gap_edges[tree_index[f]], distances[f])

    return distances, all(
        _workers.run([functools.partial(one_set, f) for f in range(len(features))], workers)
    )


def _weights(gaps: Array, n_roots: int, distances: Array, zeta: float, decay: float) -> Array:
    """Return the weights (N) of the edges to the parents, by places; those of roots are not used."""
    affinities, weights = np.empty(len(distances)), np.zeros(len(gaps))
    _sweep.affinities(distances, zeta, affinities, 0, len(affinities))
    weights[n_roots:] = affinities[gaps[n_roots:]] * decay
    return weights


def _blocks(n_channels: int, most: int, at_least: int) -> list[slice]:
    """Split channels into at most `most` at a time, for `at_least` threads if possible."""
    n_blocks = min(n_channels, max(-(-n_channels // most), at_least))
    return [
        slice(*bounds)
        for bounds in itertools.pairwise(n_channels * b // max(n_blocks, 1) for b in range(n_blocks + 1))
    ]


def tree_filter(
    values: Array,
    out: Array,
    trees: RootedTrees,
    distances: Array,
    tree_index: Array,
    set_of: Array,
    zeta: float,
    workers: int,
    decay: float = 1.0,
    sums: Array | None = None,
    transposed: bool = False,
) -> None:
    """Fill out (I, N, C) with sums S of values (I, N, C): products of decay * exp(-d / zeta^2) along paths.

    S_ii is the decay. sums (F, N), in float64, receive S 1 by places, by which out is then divided.
    Transposed, they hold it, and values are divided by them instead. Without sums nothing is divided.
    """
    if values.shape[0] == 0 or values.shape[1] == 0:
        return
    n_nodes = values.shape[1]
    used = np.unique(set_of)
    weights: dict[int, Array] = {}

    def weigh(f: int) -> None:
        tree = tree_index[f]
        n_roots = trees.n_roots[tree]
        weights[f] = _weights(trees.gaps[tree], n_roots, distances[f], zeta, decay)
        if sums is not None and not transposed:
            _rooted.normalizers(trees.parents[tree], weights[f], n_roots, decay, sums[f])

    _workers.run([functools.partial(weigh, f) for f in used.tolist()], workers)

    def columns(f: int, source: Array, target: Array) -> None:
        tree = tree_index[f]
        _rooted.filter_columns(
            source, target, trees.nodes[tree], trees.parents[tree], weights[f], trees.n_roots[tree], decay,
            np.empty(0) if sums is None else sums[f], transposed, np.empty(n_nodes * source.shape[1]),
        )  # fmt: skip

    pieces = []
    if values.shape[2] == 1:
        # Masks that share their weights are channels of one item.
        starts = np.flatnonzero(np.diff(set_of, prepend=-1)).tolist()
        for a, b in itertools.pairwise([*starts, len(values)]):
            pieces.append((int(set_of[a]), values[a:b, :, 0].T, out[a:b, :, 0].T))
    else:
        pieces = [(int(f), values[i], out[i]) for i, f in enumerate(set_of)]
    shares = -(-workers // len(pieces))
    _workers.run(
        [
            functools.partial(columns, f, source[:, block], target[:, block])
            for f, source, target in pieces
            for block in _blocks(source.shape[1], _rooted.MAX_COLUMNS, shares)
        ],
        workers,
    )


def tree_filter_gradients(
    grad: Array,
    values: Array,
    result: Array,
    trees: RootedTrees,
    distances: Array,
    tree_index: Array,
    set_of: Array,
    sums: Array | None,
    out: Array,
    workers: int,
) -> None:
    """Fill out (F, N-1), float64, with dL/dd for weights exp(-d), of grad (I, N, C) = dL/dresult.

    result and sums are those of `tree_filter` for values, with a zeta and decay of 1.
    """

    no_sums = np.empty(0)

    def one_set(f: int) -> None:
        out[f] = 0
        tree = tree_index[f]
        nodes, parents, gaps = trees.nodes[tree], trees.parents[tree], trees.gaps[tree]
        n_roots = trees.n_roots[tree]
        weights = _weights(gaps, n_roots, distances[f], 1.0, 1.0)
        for item in np.flatnonzero(set_of == f):
            for block in _blocks(values.shape[2], _rooted.MAX_COLUMNS, 1):
                g, phi, y = (array[item, :, block] for array in (grad, values, result))
                up, total = np.empty((2, len(nodes) * (2 * g.shape[1] + 2)))
                _rooted.weight_gradient(
                    g, phi, y, nodes, parents, gaps, weights, n_roots, no_sums if sums is None else sums[f],
                    up, total, out[f],
                )  # fmt: skip

    if distances.size:
        _workers.run([functools.partial(one_set, f) for f in range(len(distances))], workers)
