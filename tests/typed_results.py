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
