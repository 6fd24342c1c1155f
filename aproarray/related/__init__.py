"""Related methods on arrays: those that affinity propagation is compared with, and those it builds on.

They take the same trees (`aproarray.SpanningTree`), windows and kinds of arrays as the verbs of `aproarray`.
One method thus replaces another in one line. docs/related.md says how each differs from the published code.
Losses and functions with gradients are in `aproarray.torch`.
"""

from aproarray.related._evaluation import mean_iou
from aproarray.related._language import cam_to_labels, cam_to_scores, key_smoothing, prompt_denoising
from aproarray.related._segments import (
    keypoints_to_regions,
    nearest_neighbor_labels,
    random_walk_propagate,
    spherical_kmeans,
)
from aproarray.related._tree_filter import tree_filter, tree_filter_v2
from aproarray.related._windows import mean_field, pairwise_affinity, pamr

__all__ = [
    "cam_to_labels",
    "cam_to_scores",
    "key_smoothing",
    "keypoints_to_regions",
    "mean_field",
    "mean_iou",
    "nearest_neighbor_labels",
    "pairwise_affinity",
    "pamr",
    "prompt_denoising",
    "random_walk_propagate",
    "spherical_kmeans",
    "tree_filter",
    "tree_filter_v2",
]
