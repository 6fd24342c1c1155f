"""The methods that affinity propagation is compared with, builds on, or stands beside, on arrays.

On the same trees (`aproarray.SpanningTree`), windows and kinds of arrays as the verbs of `aproarray`, so that
each can stand in for another in one line. docs/related.md says what differs from the published code. Losses
and functions with gradients are in `aproarray.torch`.
"""

# One import for each module, and the public names in alphabetical order.
from aproarray.related._evaluation import mean_iou
from aproarray.related._language import cam_to_labels, cam_to_scores, key_smoothing, prompt_denoising
from aproarray.related._segments import (
    keypoints_to_regions,
    nearest_neighbor_labels,
    random_walk_propagate,
    spherical_kmeans,
)

__all__ = [
    "cam_to_labels",
    "cam_to_scores",
    "key_smoothing",
    "keypoints_to_regions",
    "mean_iou",
    "nearest_neighbor_labels",
    "prompt_denoising",
    "random_walk_propagate",
    "spherical_kmeans",
]
