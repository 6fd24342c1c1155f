"""Affinity propagation under the transformations of JAX: channels last, exact gradients, on the CPU.

The verbs of `aproarray` take JAX arrays as well, but neither their traces nor gradients. The functions here
work under `jax.jit`, `jax.grad`, `jax.vmap` and `jax.lax.scan`.
"""

try:
    import jax
except ImportError as error:
    raise ImportError("aproarray.jax needs JAX: pip install 'aproarray[jax]'") from error

if tuple(map(int, jax.__version__.split(".")[:2])) < (0, 5):
    raise ImportError(f"aproarray.jax needs JAX 0.5 or later, found {jax.__version__}")

from aproarray.jax.functional import Tree, global_propagate, local_propagate, mst, tree_filter

__all__ = ["Tree", "global_propagate", "local_propagate", "mst", "tree_filter"]
