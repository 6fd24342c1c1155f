"""The NumPy backend: trees, sweeps and window sums in Cython, PAMR and pairwise affinities in Numba.

This is the list of what `aproarray._backend.Backend` asks for, with what labels and lines of chunks need. The
functions take arrays that the verbs have checked and laid out. They split the work over threads so that the
result does not depend on how.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as xp

from aproarray.cpu._evidence import Pixels, Seeds, Survey, Weights, lowest_of, ratios, settle
from aproarray.cpu._forests import contracted, edge_levels, flood_from, flood_graph_from
from aproarray.cpu._global import (
    affinities,
    feature_gradients,
    global_gap_gradients,
    global_propagate,
    lines,
    recent_lines,
)
from aproarray.cpu._labels import Floods, Votes, tally, vote
from aproarray.cpu._lines import edge_weights, expand_line, reduce_line, sum_stretches
from aproarray.cpu._local import local_propagate
from aproarray.cpu._local_gradients import local_gradients
from aproarray.cpu._minimax import distances_from, largest_between
from aproarray.cpu._smoothing import gradient, smooth, square_steps
from aproarray.cpu._tree_filter import edge_distances, rooted_trees, tree_filter, tree_filter_gradients
from aproarray.cpu._trees import (
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
from aproarray.cpu._workers import available_workers, run_apart

if TYPE_CHECKING:
    from aproarray.cpu._neighbours import pairwise_affinities, pamr

__all__ = [
    "Floods",
    "Pixels",
    "Seeds",
    "Survey",
    "Votes",
    "Weights",
    "affinities",
    "are_trees",
    "available_workers",
    "contracted",
    "distances_from",
    "edge_distances",
    "edge_levels",
    "edge_list_tree",
    "edge_weights",
    "edges",
    "expand_line",
    "feature_gradients",
    "flood_from",
    "flood_graph_from",
    "global_gap_gradients",
    "global_propagate",
    "gradient",
    "grid_trees",
    "largest_between",
    "lines",
    "linkage",
    "local_gradients",
    "local_propagate",
    "lowest_of",
    "pairwise_affinities",
    "pamr",
    "ratios",
    "recent_lines",
    "reduce_line",
    "reweighed_trees",
    "rooted_trees",
    "settle",
    "smooth",
    "sorted_edges",
    "sorted_weights",
    "square_steps",
    "sum_stretches",
    "tally",
    "tree_filter",
    "tree_filter_gradients",
    "vote",
    "xp",
    "zones",
]


def __getattr__(name: str) -> Any:
    """Import what Numba compiles when it is first asked for: its import takes longer than many a call."""
    if name not in ("pairwise_affinities", "pamr"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = run_apart(importlib.import_module, f"{__name__}._neighbours")
    globals()[name] = found = getattr(module, name)
    return found
