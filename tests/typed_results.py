"""What a type checker is to find: arrays come back as what went in. Checked by mypy, and run by no test."""

from typing import Any, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpy.typing import NDArray

import aproarray

image = np.ones((4, 5))
tensor = torch.ones(4, 5)
traced: jax.Array = jnp.ones((4, 5))
tree = aproarray.mst(tensor)
assert_type(tree, aproarray.SpanningTree)

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
