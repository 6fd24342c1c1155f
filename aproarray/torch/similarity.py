"""Transferring the likeness of pixels from classes with masks to classes without (SimFormer).

Classes that have masks are the base classes, those that have image-level labels alone the novel ones. Whether
two pixels are of one class is learned on the base classes, and holds for the novel ones, too.
Of float16 and bfloat16, and under autocast, losses are float32, and computed in it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from aproarray import _validate
from aproarray.torch import _tensors


def sample_pixels(masks: Tensor, count: int = 100, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw pixels of each image, without repetition as long as there are enough.

    Parameters
    ----------
    masks : (B, H, W) boolean tensor
        True where a pixel may be drawn: everywhere, or where it is labelled.
    count : int
        J, pixels per image (paper: 100).
    generator : torch.Generator, optional
        On the device of `masks` (None: torch's own).

    Returns
    -------
    (B, J) integer tensor
        Places among the H W pixels, for `gather_pixels`. An image with fewer than J pixels has them again and
        again, each as often as any other or once more.

    Raises
    ------
    ValueError
        An image without any pixel.

    Notes
    -----
    O(B N) time, N pixels.

    References
    ----------
    .. [1] J. Chen et al., "Weakly supervised semantic segmentation via dual similarity transfer" (SimFormer),
       2022, "Pixel-pixel similarity transfer".

    Examples
    --------
    >>> import torch
    >>> from aproarray.torch import sample_pixels
    >>> sample_pixels(torch.tensor([[[True, False, True]]]), 2).sort().values
    tensor([[0, 2]])
    """
    count = _validate.integer(count, "count", 1)
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(f"expected masks (B, H, W), boolean, got {masks.dtype} {tuple(masks.shape)}")
    allowed = masks.flatten(1)
    available = allowed.sum(1, keepdim=True)
    if not (available > 0).all():
        empty = torch.nonzero(available[:, 0] == 0)[:, 0].tolist()
        raise ValueError(f"no pixel can be drawn in images {empty}: the masks are False everywhere")
    keys = torch.rand(allowed.shape, generator=generator, device=masks.device)
    order = keys.masked_fill(~allowed, 2).argsort(1)
    return order.gather(1, torch.arange(count, device=masks.device) % available)


def gather_pixels(values: Tensor, pixel_index: Tensor) -> Tensor:
    """Return the values of sampled pixels.

    Parameters
    ----------
    values : (B, D, H, W) tensor
        Of all pixels.
    pixel_index : (B, J) integer tensor
        Places among the H W pixels, from `sample_pixels`.

    Returns
    -------
    (B, J, D) tensor

    Raises
    ------
    ValueError
        Shapes that do not fit.

    Notes
    -----
    O(B D J) time.
    """
    if values.ndim != 4 or pixel_index.ndim != 2 or len(pixel_index) != len(values):
        raise ValueError(
            f"expected values (B, D, H, W) and pixel_index (B, J), got {tuple(values.shape)} and "
            f"{tuple(pixel_index.shape)}"
        )
    return values.flatten(2).gather(2, pixel_index[:, None].expand(-1, values.shape[1], -1)).transpose(1, 2)


class PairSimilarity(nn.Module):
    """The learned likeness of pairs of pixels: a perceptron over the features of both.

    ``s_ij = v . relu(U [f_i, g_j] + b) + c``, before the sigmoid. U is applied to each side once and the
    results are added, so that the J x J pairs of features are never held.

    Parameters
    ----------
    features : int
        D, of a pixel.
    hidden : int
        Of the hidden layer.
    """

    def __init__(self, features: int, hidden: int = 64):
        """Make the layers."""
        super().__init__()
        self.first = nn.Linear(features, hidden)
        self.second = nn.Linear(features, hidden, bias=False)
        self.score = nn.Linear(hidden, 1)

    def forward(self, features: Tensor, reference: Tensor) -> Tensor:
        """Return the logits (B, J, J') of all pairs of features (B, J, D) and (B, J', D)."""
        hidden = self.first(features)[:, :, None] + self.second(reference)[:, None]
        logits: Tensor = self.score(F.relu(hidden))[..., 0]
        return logits


def similarity_learning_loss(logits: Tensor, labels: Tensor, reference_labels: Tensor) -> Tensor:
    """Return the class-balanced binary cross-entropy of pairs of pixels: of one class, or not.

    ``(mean over pairs of one class of -log s + mean over the others of -log(1 - s)) / 2``, s being the
    sigmoid of the logits. Where all pairs are of one kind, its mean alone.

    Logits learn from it as if half of the pairs were of one class. Where a share r is, add
    ``log(r / (1 - r))`` before they teach: see `similarity_distillation_loss`.

    Parameters
    ----------
    logits : (B, J, J') tensor
        From `PairSimilarity`.
    labels, reference_labels : (B, J) and (B, J') integer tensors
        Classes of the sampled pixels. Cross-pair: the reference is another image; self-pair: the same one.

    Returns
    -------
    tensor of no axes

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind or shape.

    Notes
    -----
    O(B J J') time.

    References
    ----------
    .. [1] J. Chen et al., "Weakly supervised semantic segmentation via dual similarity transfer" (SimFormer),
       2022, "Pixel-pixel similarity transfer".

    Examples
    --------
    >>> import torch
    >>> from aproarray.torch import similarity_learning_loss
    >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])
    >>> similarity_learning_loss(logits, torch.tensor([[0, 1]]), torch.tensor([[0, 1]])).round(decimals=3)
    tensor(0.)
    """
    _check_pairs(logits, labels, reference_labels, 2)
    logits = _tensors.wide(logits)
    same = labels[:, :, None] == reference_labels[:, None]
    each = F.binary_cross_entropy_with_logits(logits, same.to(logits.dtype), reduction="none")
    counts = torch.stack([same.sum(), (~same).sum()])
    sums = torch.stack([(each * same).sum(), (each * ~same).sum()])
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def similarity_distillation_loss(
    logits: Tensor, assignments: Tensor, reference_assignments: Tensor
) -> Tensor:
    """Return the cross-entropy between the learned likeness of pixels and that of their classes.

    ``-(s log a + (1 - s) log(1 - a))``, mean over the pairs: s is the sigmoid of the logits, a constant; a is
    the cosine of the pixels' soft class assignments, which learn from it.

    With logits from `similarity_learning_loss`, s is too large where pairs of one class are rare, as between
    two images. Assignments of different classes then become alike. Add ``log(r / (1 - r))`` to the logits, r
    being the share of pairs of one class, as ``examples/transfer_similarity.py`` does.

    Parameters
    ----------
    logits : (B, J, J') tensor
        From `PairSimilarity`.
    assignments, reference_assignments : (B, J, C) and (B, J', C) tensors
        Probabilities of classes, not negative. Cross-pair: the reference is another image; self-pair: the
        same one.

    Returns
    -------
    tensor of no axes

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind or shape. On the CPU, also numbers outside [0, 1].

    Notes
    -----
    O(B J J' C) time.

    References
    ----------
    .. [1] J. Chen et al., "Weakly supervised semantic segmentation via dual similarity transfer" (SimFormer),
       2022, "Pixel-pixel similarity transfer".

    Examples
    --------
    >>> import torch
    >>> from aproarray.torch import similarity_distillation_loss
    >>> one_hot = torch.eye(2)[None]
    >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])
    >>> similarity_distillation_loss(logits, one_hot, one_hot) < 0.01
    tensor(True)
    """
    _check_pairs(logits, assignments, reference_assignments, 3)
    looked = _tensors.look_at_shares(assignments, "assignments")
    looked = looked + _tensors.look_at_shares(reference_assignments, "reference_assignments")
    target = _tensors.wide(logits.detach()).sigmoid()
    one, other = (F.normalize(_tensors.wide(x), dim=-1) for x in (assignments, reference_assignments))
    a = _tensors.matmul(one, other.transpose(1, 2))
    # Logarithms of 0 would be -inf. Rounding takes cosines above 1.
    tiny = torch.finfo(a.dtype).eps
    a = a.clamp(tiny, 1 - tiny)
    return looked + _tensors.mean(-(target * a.log() + (1 - target) * (1 - a).log()))


def proposal_masks(proposals: Tensor, embeddings: Tensor) -> Tensor:
    """Return the soft masks of proposals: the sigmoid of their embeddings' products with those of pixels.

    Parameters
    ----------
    proposals : (B, K, D) tensor
        Embeddings of K proposals.
    embeddings : (B, D, H, W) tensor
        Of pixels.

    Returns
    -------
    (B, K, H, W) tensor
        ``m_kx = sigmoid(q_k . e_x)``.

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind or shape.

    Notes
    -----
    O(B K D N) time, N pixels.

    References
    ----------
    .. [1] J. Chen et al., "Weakly supervised semantic segmentation via dual similarity transfer" (SimFormer),
       2022, "Proposal-pixel similarity transfer".
    .. [2] B. Cheng et al., "Per-pixel classification is not all you need for semantic segmentation"
       (MaskFormer), NeurIPS 2021.
    """
    if proposals.ndim != 3 or embeddings.ndim != 4 or proposals.shape[::2] != embeddings.shape[:2]:
        raise ValueError(
            f"expected proposals (B, K, D) and embeddings (B, D, H, W), got {tuple(proposals.shape)} and "
            f"{tuple(embeddings.shape)}"
        )
    return torch.einsum("bkd,bdhw->bkhw", proposals, embeddings).sigmoid()


def proposal_segmentation(class_scores: Tensor, masks: Tensor) -> Tensor:
    """Return the scores of classes at every pixel: those of proposals times their masks, summed.

    Parameters
    ----------
    class_scores : (B, K, C) tensor
        Probabilities of the classes of K proposals, without "no object".
    masks : (B, K, H, W) tensor
        From `proposal_masks`.

    Returns
    -------
    (B, C, H, W) tensor
        ``P_cx = sum_k s_kc m_kx``.

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind or shape. On the CPU, also numbers outside [0, 1].

    Notes
    -----
    O(B K C N) time, N pixels.

    References
    ----------
    .. [1] J. Chen et al., "Weakly supervised semantic segmentation via dual similarity transfer" (SimFormer),
       2022.
    """
    if class_scores.ndim != 3 or masks.ndim != 4 or class_scores.shape[:2] != masks.shape[:2]:
        raise ValueError(
            f"expected class_scores (B, K, C) and masks (B, K, H, W), got {tuple(class_scores.shape)} and "
            f"{tuple(masks.shape)}"
        )
    looked = _tensors.look_at_shares(class_scores, "class_scores") + _tensors.look_at_shares(masks, "masks")
    return looked + torch.einsum("bkc,bkhw->bchw", class_scores, masks)


def _check_pairs(logits: Tensor, one: Tensor, other: Tensor, ndim: int) -> None:
    if (
        logits.ndim != 3
        or (one.ndim, other.ndim) != (ndim, ndim)
        or one.shape[:2] != logits.shape[:2]
        or other.shape[:2] != logits.shape[::2]
        or one.shape[2:] != other.shape[2:]
    ):
        more = ", C" if ndim == 3 else ""
        raise ValueError(
            f"expected logits (B, J, J') of pixels (B, J{more}) and (B, J'{more}), got "
            f"{tuple(logits.shape)}, {tuple(one.shape)} and {tuple(other.shape)}"
        )
