"""Affinity propagation for weakly supervised segmentation, on arrays.

Carry sparse evidence (points, scribbles, coarse scores) to the other pixels of an image: globally,
along its minimum spanning tree, and locally, over a small window.
"""

from aproarray._api import global_propagate, local_propagate, mst
from aproarray._tree import SpanningTree

__all__ = ["SpanningTree", "global_propagate", "local_propagate", "mst"]
__version__ = "0.1.0"
