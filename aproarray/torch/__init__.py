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
from aproarray.torch.segments import (
    SPML_WEIGHTS,
    SegmentBank,
    Segments,
    SegmentWeights,
    segment_contrastive_loss,
    segment_prototypes,
    segment_relationship,
    spml_loss,
)
from aproarray.torch.similarity import (
    PairSimilarity,
    gather_pixels,
    proposal_masks,
    proposal_segmentation,
    sample_pixels,
    similarity_distillation_loss,
    similarity_learning_loss,
)

__all__ = [
    "SPML_WEIGHTS",
    "AffinityPropagation",
    "GlobalPropagation",
    "LocalPropagation",
    "PairSimilarity",
    "SegmentBank",
    "SegmentWeights",
    "Segments",
    "Tree",
    "apro_loss",
    "gated_crf_loss",
    "gather_pixels",
    "global_propagate",
    "local_propagate",
    "mean_field_loss",
    "mst",
    "pairwise_loss",
    "partial_cross_entropy",
    "projection_loss",
    "proposal_masks",
    "proposal_segmentation",
    "sample_pixels",
    "segment_contrastive_loss",
    "segment_prototypes",
    "segment_relationship",
    "similarity_distillation_loss",
    "similarity_learning_loss",
    "spml_loss",
    "tree_energy_loss",
    "tree_filter",
    "tree_filter_v2",
]
