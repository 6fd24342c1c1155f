"""Affinity propagation for training code in PyTorch: (B, C, H, W) tensors, exact gradients, modules, losses.

The verbs of `aproarray` take torch tensors as well, without gradients. The functions here are those that
a network is trained with.
"""

try:
    import torch
except ImportError as error:
    raise ImportError("aproarray.torch needs PyTorch: pip install 'aproarray[torch]'") from error

if not hasattr(torch.library, "custom_op"):
    raise ImportError(f"aproarray.torch needs PyTorch 2.4 or later, found {torch.__version__}")

from aproarray.torch.functional import (
    Tree,
    global_propagate,
    local_propagate,
    mst,
    tree_filter,
    tree_filter_v2,
)
from aproarray.torch.losses import (
    apro_loss,
    gated_crf_loss,
    mean_field_loss,
    pairwise_loss,
    partial_cross_entropy,
    projection_loss,
    tree_energy_loss,
)
from aproarray.torch.modules import AffinityPropagation, GlobalPropagation, LocalPropagation

__all__ = [
    "AffinityPropagation",
    "GlobalPropagation",
    "LocalPropagation",
    "Tree",
    "apro_loss",
    "gated_crf_loss",
    "global_propagate",
    "local_propagate",
    "mean_field_loss",
    "mst",
    "pairwise_loss",
    "partial_cross_entropy",
    "projection_loss",
    "tree_energy_loss",
    "tree_filter",
    "tree_filter_v2",
]
