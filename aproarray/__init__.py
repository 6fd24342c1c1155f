"""Affinity propagation for weakly supervised segmentation, on arrays.

Carry sparse evidence (points, scribbles, coarse scores) to the other pixels of an image: globally,
along its minimum spanning tree, and locally, over a small window.

Arrays are NumPy's, or of any library that speaks DLPack (torch, JAX): results come back as the same kind.
CuPy arrays and CUDA tensors are computed with on their device, but for labels, `refine` and `affinity_map`.
Dask arrays are computed with chunk by chunk, on one machine or several. `aproarray.torch` has the same for
training code, with gradients, and `aproarray.jax` under the transformations of JAX. `widget` is for painting
strokes in a notebook.
"""

from aproarray import _built  # noqa: F401 (first: the others need the compiled modules)
from aproarray._api import global_propagate, local_propagate, mst
from aproarray._labels import LabelPropagator, affinity_map, propagate_labels, refine
from aproarray._tree import SpanningTree
from aproarray._widget import widget
from aproarray.cpu._workspace import release_memory

__all__ = [
    "LabelPropagator",
    "SpanningTree",
    "affinity_map",
    "global_propagate",
    "local_propagate",
    "mst",
    "propagate_labels",
    "refine",
    "release_memory",
    "widget",
]
__version__ = "0.1.0"
