"""Images in chunks: the verbs over dask arrays, exact and lazy.

`aproarray`'s verbs come here when an argument is a dask array or a `ChunkedTree`. Nothing is computed before
``.compute()``, ``.persist()`` or ``to_zarr``.
"""

from aproarray.chunked._global import global_propagate
from aproarray.chunked._labels import propagate_labels
from aproarray.chunked._local import local_propagate
from aproarray.chunked._scores import affinity_map, refine
from aproarray.chunked._trees import ChunkedTree, mst

__all__ = [
    "ChunkedTree",
    "affinity_map",
    "global_propagate",
    "local_propagate",
    "mst",
    "propagate_labels",
    "refine",
]
