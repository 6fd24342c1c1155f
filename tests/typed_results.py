"""What a type checker is to find: arrays come back as what went in. Checked by mypy, and run by no test."""

from typing import Any, assert_type

import dask.array as da
import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import NDArray

import aproarray
from aproarray._arrays import DaskArray
from aproarray.chunked import ChunkedTree

image = np.ones((4, 5))
tensor = torch.ones(4, 5)
traced: jax.Array = jnp.ones((4, 5))
tree = aproarray.mst(tensor)
assert_type(tree, aproarray.SpanningTree)
assert_type(aproarray.mst(image), aproarray.SpanningTree)
chunked: DaskArray = da.ones((4, 5))
lazy = aproarray.mst(chunked, mask=chunked, check_finite=False)
assert_type(lazy, ChunkedTree)
assert_type(lazy.persist(), Any)
aproarray.global_propagate(chunked, lazy, zeta=1)
aproarray.global_propagate(image, lazy, zeta=1)
aproarray.global_propagate(chunked, tree, zeta=1)  # type: ignore[call-overload]  # a tree in memory
aproarray.local_propagate(image, chunked, zeta=1, mask=chunked)
aproarray.propagate_labels(chunked, chunked, mask=chunked)
aproarray.refine(chunked, image)
aproarray.affinity_map(chunked, (0, 0))
assert_type(aproarray.affinity_map(image, (0, 0)), NDArray[Any])

assert_type(aproarray.global_propagate(image, tree, zeta=1), NDArray[Any])
assert_type(aproarray.global_propagate([[1.0]], tree, zeta=1), NDArray[Any])
assert_type(aproarray.global_propagate(tensor, tree, zeta=[1.0, 2.0], workers=1), torch.Tensor)
assert_type(aproarray.global_propagate(traced, tree, zeta=1), jax.Array)

assert_type(aproarray.local_propagate(image, image, zeta=1), NDArray[Any])
assert_type(aproarray.local_propagate(values=tensor, image=tensor, zeta=1), torch.Tensor)
assert_type(aproarray.local_propagate(traced, traced, zeta=1), jax.Array)
aproarray.local_propagate(image, image)  # type: ignore[call-overload]  # zeta is missing
aproarray.local_propagate(image, image, zeta=1, kernel=3)  # type: ignore[call-overload]

assert_type(aproarray.propagate_labels(image, image), NDArray[Any])
assert_type(aproarray.propagate_labels(image, [[1, 0]]), NDArray[Any])
assert_type(aproarray.propagate_labels(image, image, return_full_prob=True), NDArray[np.float32])
assert_type(aproarray.propagate_labels(tensor, tensor, spatial_ndim=2), torch.Tensor)
assert_type(aproarray.propagate_labels(traced, traced, return_full_prob=True), jax.Array)
aproarray.propagate_labels(image, image, 130)  # type: ignore[call-overload]  # options have names
propagator = aproarray.LabelPropagator(image)
assert_type(propagator.propagate(image), NDArray[Any])
assert_type(propagator.propagate(image, return_full_prob=True), NDArray[np.float32])
assert_type(propagator.propagate(tensor, workers=1), torch.Tensor)
