"""Affinity propagation for training code in PyTorch: (B, C, H, W) tensors, exact gradients, modules, losses.

The verbs of `aproarray` take torch tensors as well, without gradients. The functions here are those that
a network is trained with.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("aproarray.torch needs PyTorch: pip install 'aproarray[torch]'") from error

from aproarray.torch.functional import Tree, global_propagate, local_propagate, mst

__all__ = ["Tree", "global_propagate", "local_propagate", "mst"]
