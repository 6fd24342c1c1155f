"""Other packages' minimum spanning trees of a pixel graph, on one thread.

A function takes the edges (u, v, weights) of N nodes, each once, and makes the package's own graph of them,
which no row counts. It returns what its row calls the package, and a call that finds the tree's total weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Prepared = tuple[str, Callable[[], float]]


def csgraph(n_nodes: int, u: Array, v: Array, weights: Array) -> Prepared:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    graph = csr_array((weights, (u, v)), shape=(n_nodes, n_nodes))
    return "scipy csgraph, CSR ready", lambda: float(minimum_spanning_tree(graph).sum())


def rustworkx(n_nodes: int, u: Array, v: Array, weights: Array) -> Prepared:
    import rustworkx

    graph = rustworkx.PyGraph(multigraph=False)
    graph.add_nodes_from(range(n_nodes))
    graph.add_edges_from(list(zip(u.tolist(), v.tolist(), weights.tolist(), strict=True)))

    def call() -> float:
        edges = rustworkx.minimum_spanning_edges(graph, weight_fn=float)
        return float(sum(weight for _, _, weight in edges))

    return "rustworkx, graph ready", call


def fast_hdbscan(n_nodes: int, u: Array, v: Array, weights: Array) -> Prepared:
    import numba
    from fast_hdbscan.core_graph import CoreGraph, boruvka_mst

    numba.set_num_threads(1)
    ends, others, both = np.concatenate([u, v]), np.concatenate([v, u]), np.concatenate([weights] * 2)
    by_weight = np.lexsort((both, ends))  # it takes the first neighbour that is left as the nearest
    starts = np.searchsorted(ends[by_weight], np.arange(n_nodes + 1)).astype(np.int32)
    neighbours, lengths = others[by_weight].astype(np.int32), both[by_weight].astype(np.float32)
    graph = CoreGraph(lengths, lengths, neighbours, starts)
    return "fast_hdbscan, graph ready", lambda: float(boruvka_mst(graph)[2][:, 2].sum())


def networkit(n_nodes: int, u: Array, v: Array, weights: Array) -> Prepared:
    import networkit

    networkit.setNumberOfThreads(1)
    graph = networkit.GraphFromCoo((weights, (u, v)), n=n_nodes, weighted=True, directed=False)

    def call() -> float:
        kruskal = networkit.graph.KruskalMSF(graph)
        kruskal.run()
        return float(kruskal.getTotalWeight())

    return "networkit, graph ready", call
