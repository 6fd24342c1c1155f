"""The CuPy backend: everything on the device, in the kernels of kernels/*.cu.

The functions here are those of `aproarray.cpu`, with the same signatures. They run on CuPy's current
stream and wait for the device only where they say so. Flags that they return are device scalars.
"""

from __future__ import annotations

from typing import Any

import cupy as xp
import numpy as np

from aproarray import _zeta, cpu
from aproarray.gpu._compile import kernel
from aproarray.gpu._global import feature_gradients, global_gap_gradients, global_propagate
from aproarray.gpu._local import gradients as local_gradients
from aproarray.gpu._local import propagate as local_propagate
from aproarray.gpu._neighbours import pairwise_affinities, pamr
from aproarray.gpu._tree_filter import (
    edge_distances,
    rooted_trees,
    tree_filter,
    tree_filter_gradients,
)
from aproarray.gpu._trees import _REAL, edge_list_tree, grid_trees, reweighed_trees, sorted_edges

__all__ = [
    "affinities",
    "available_workers",
    "distances_from",
    "edge_distances",
    "edge_list_tree",
    "feature_gradients",
    "global_gap_gradients",
    "global_propagate",
    "grid_trees",
    "largest_between",
    "linkage",
    "local_gradients",
    "local_propagate",
    "pairwise_affinities",
    "pamr",
    "reweighed_trees",
    "rooted_trees",
    "sorted_edges",
    "tree_filter",
    "tree_filter_gradients",
    "xp",
]


def available_workers() -> int:
    """Return 1: threads of the CPU have nothing to do here."""
    return 1


def linkage(edges: Any, weights: Any) -> np.ndarray[Any, Any]:
    """Return the linkage matrix (N-1, 4) of one connected tree, made on the host, where SciPy wants it."""
    return cpu.linkage(edges.get(), weights.get())


def largest_between(gaps: Any, first: Any, last: Any) -> Any:
    """Return the largest of gaps[first:last] for every pair of positions (Q), 0 where that is empty."""
    n, n_pairs = len(gaps), len(first)
    result = xp.zeros(n_pairs, gaps.dtype)
    if n == 0 or n_pairs == 0:
        return result
    largest = kernel("largest", "largest_between", REAL=_REAL[gaps.dtype])
    largest(
        max(n, n_pairs), xp.ascontiguousarray(gaps), np.uint32(n), xp.empty(n, gaps.dtype),
        xp.ascontiguousarray(first, np.int64), xp.ascontiguousarray(last, np.int64), np.uint32(n_pairs),
        result,
    )  # fmt: skip
    return result


def distances_from(gaps: Any, position: int) -> Any:
    """Return the minimax distance from one position of a line to all."""
    places = xp.arange(len(gaps) + 1)
    return largest_between(gaps, np.minimum(places, position), np.maximum(places, position))


def affinities(distances: Any, zeta: float) -> Any:
    """Return exp(-d / zeta^2) in float64, 0 where d is inf, for distances (M,) and any zeta > 0."""
    inverse = _zeta.inverse(zeta)
    wide = distances.astype(np.float64)
    return xp.where(np.isinf(wide), 0.0, np.exp(-(wide * inverse) * inverse))
