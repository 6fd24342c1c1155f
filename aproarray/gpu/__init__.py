"""The CuPy backend: everything on the device, in the kernels of kernels/*.cu.

This is the list of what `aproarray._backend.Backend` asks for. The functions run on CuPy's current stream
and wait for the device only where they say so. Flags that they return are device scalars.
"""

from __future__ import annotations

import cupy as xp

from aproarray.gpu._global import affinities, global_propagate
from aproarray.gpu._global_gradients import feature_gradients, global_gap_gradients
from aproarray.gpu._labels import Floods, Votes, settle
from aproarray.gpu._line import lines, recent_lines
from aproarray.gpu._local import local_propagate
from aproarray.gpu._local_gradients import local_gradients
from aproarray.gpu._minimax import distances_from, largest_between
from aproarray.gpu._neighbours import pairwise_affinities, pamr
from aproarray.gpu._smoothing import gradient, smooth, square_steps
from aproarray.gpu._tree_filter import edge_distances, rooted_trees, tree_filter, tree_filter_gradients
from aproarray.gpu._trees import (
    are_trees,
    edge_list_tree,
    edges,
    grid_trees,
    linkage,
    reweighed_trees,
    sorted_edges,
    sorted_weights,
    zones,
)
from aproarray.gpu._workers import available_workers

__all__ = [
    "Floods",
    "Votes",
    "affinities",
    "are_trees",
    "available_workers",
    "distances_from",
    "edge_distances",
    "edge_list_tree",
    "edges",
    "feature_gradients",
    "global_gap_gradients",
    "global_propagate",
    "gradient",
    "grid_trees",
    "largest_between",
    "lines",
    "linkage",
    "local_gradients",
    "local_propagate",
    "pairwise_affinities",
    "pamr",
    "recent_lines",
    "reweighed_trees",
    "rooted_trees",
    "settle",
    "smooth",
    "sorted_edges",
    "sorted_weights",
    "square_steps",
    "tree_filter",
    "tree_filter_gradients",
    "xp",
    "zones",
]
