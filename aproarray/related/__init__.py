"""The methods that affinity propagation is compared with, builds on, or stands beside, on arrays.

On the same trees (`aproarray.SpanningTree`), windows and kinds of arrays as the verbs of `aproarray`, so that
each can stand in for another in one line. docs/related.md says what differs from the published code. Losses
and functions with gradients are in `aproarray.torch`.
"""

from aproarray.related._tree_filter import tree_filter, tree_filter_v2
from aproarray.related._windows import mean_field, pairwise_affinity, pamr

__all__ = [
    "mean_field",
    "pairwise_affinity",
    "pamr",
    "tree_filter",
    "tree_filter_v2",
]
