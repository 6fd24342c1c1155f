"""Learning embeddings from few labels by contrasting pixels with segments (SPML), with a memory bank.

Segments come from `aproarray.related.spherical_kmeans`, without gradients; their prototypes are computed
here, with gradients. Each of four relationships says how a pixel's segment and another one belong together.
Of float16 and bfloat16, and under autocast, prototypes and losses are float32, and computed in it.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from aproarray import _validate
from aproarray.torch import _tensors

RELATIONSHIPS = ("image", "annotation", "cooccurrence", "affinity")


class SegmentWeights(NamedTuple):
    """Weight and concentration (kappa) of the loss of each relationship; of weight 0: it is not computed."""

    image: tuple[float, float] = (0.0, 16.0)
    annotation: tuple[float, float] = (0.0, 6.0)
    cooccurrence: tuple[float, float] = (0.0, 8.0)
    affinity: tuple[float, float] = (0.0, 12.0)


_OF_TAGS = SegmentWeights(image=(0.3, 16.0), annotation=(1.0, 6.0), cooccurrence=(1.0, 8.0))
SPML_WEIGHTS: Mapping[str, SegmentWeights] = MappingProxyType(
    {
        "scribbles": SegmentWeights(image=(0.1, 16.0), annotation=(1.0, 6.0), cooccurrence=(0.5, 12.0)),
        "points": SegmentWeights(image=(1.0, 16.0), annotation=(1.0, 6.0), cooccurrence=(1.0, 8.0)),
        "boxes": _OF_TAGS,
        "tags": _OF_TAGS,
        "densepose": SegmentWeights(image=(0.1, 16.0), annotation=(1.0, 6.0), affinity=(0.5, 12.0)),
    }
)
"""The published weights by kind of annotation (ICLR 2021, experiments)."""


class Segments(NamedTuple):
    """Segments of a batch, or of several. From `segment_prototypes`; a `SegmentBank` keeps them."""

    prototypes: Tensor
    """Mean directions (S, D), of unit length."""
    labels: Tensor
    """The class of each (S,), and the ignore_index where there is none."""
    images: Tensor
    """The image of each in the batch (S,); -1 for those of a memory bank."""
    regions: Tensor
    """The region of an over-segmentation that each lies in (S,), by image."""
    tags: Tensor
    """The classes of each one's image (S, C), boolean."""


def segment_prototypes(
    embeddings: Tensor,
    segments: Tensor,
    *,
    labels: Tensor | None = None,
    regions: Tensor | None = None,
    tags: Tensor | None = None,
    ignore_index: int = -100,
) -> tuple[Segments, Tensor]:
    """Return the segments of a batch with the mean direction of their pixels' embeddings, and each pixel's.

    ``mu_s = normalise(sum_{i in s} e_i)``, e being of unit length. A segment has the label that most of its
    labelled pixels have, and the region that most of its pixels have (of equally many, the smaller number).

    Parameters
    ----------
    embeddings : (B, D, H, W) tensor
        Of pixels. They are brought to unit length.
    segments : (B, H, W) integer tensor
        From `aproarray.related.spherical_kmeans`: numbers of segments, not negative. Those of different
        images are different segments.
    labels : (B, H, W) integer tensor, optional
        Classes, and `ignore_index` where a pixel is unlabelled.
    regions : (B, H, W) integer tensor, optional
        An over-segmentation, not negative (None: each segment is a region).
    tags : (B, C) boolean tensor, optional
        The classes of each image, without those that all images have (the background).
    ignore_index : int
        The mark of unlabelled pixels: torch's own by default, 255 in many data sets.

    Returns
    -------
    segments : Segments
        S of them, by image and number.
    own : (B, H, W) integer tensor
        The place of each pixel's own segment in ``segments``.

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind or shape. Negative numbers of segments or regions.

    Notes
    -----
    O(N (D + log N)) time for N pixels: numbers of segments are sorted.

    References
    ----------
    .. [1] T.-W. Ke et al., "Universal weakly supervised segmentation by pixel-to-segment contrastive
       learning", ICLR 2021.

    Examples
    --------
    >>> import torch
    >>> from aproarray.torch import segment_prototypes
    >>> embeddings = torch.tensor([[[[3.0, 4.0]], [[4.0, 3.0]]]])  # (1, 2, 1, 2)
    >>> segments, index = segment_prototypes(embeddings, torch.tensor([[[0, 0]]]))
    >>> segments.prototypes.round(decimals=3), index.tolist()
    (tensor([[0.7070, 0.7070]]), [[[0, 0]]])
    """
    _check_embeddings(embeddings)
    batch, features = embeddings.shape[:2]
    numbers = {"segments": segments, "labels": labels, "regions": regions}
    for name, value in numbers.items():
        _check_map(value, name, (batch, *embeddings.shape[2:]), ignore_index if name == "labels" else None)
    image = torch.arange(batch, device=segments.device).repeat_interleave(segments[0].numel() if batch else 0)
    n_numbers = int(segments.max()) + 1 if segments.numel() else 1
    which, index = torch.unique(image * n_numbers + segments.flatten().long(), return_inverse=True)
    e = F.normalize(_tensors.wide(embeddings), dim=1).movedim(1, -1).reshape(-1, features)
    sums = e.new_zeros(len(which), features).index_add(0, index, e)
    images = which // n_numbers
    chosen = torch.full_like(which, ignore_index)
    if labels is not None:
        flat = labels.flatten().long()
        known = flat != ignore_index
        chosen = _majority(index[known], flat[known], len(which), chosen)
    own = torch.arange(len(which), device=which.device)
    of_regions = own if regions is None else _majority(index, regions.flatten().long(), len(which), own)
    if tags is None:
        tags = torch.zeros(batch, 0, dtype=torch.bool, device=segments.device)
    elif tags.dtype != torch.bool or tags.ndim != 2 or len(tags) != batch:
        raise ValueError(f"expected tags ({batch}, C), boolean, got {tags.dtype} {tuple(tags.shape)}")
    return Segments(F.normalize(sums, dim=1), chosen, images, of_regions, tags[images]), index.view_as(
        segments
    )


class SegmentBank:
    """Segments of the batches before, for more to contrast with. Their prototypes are constants.

    Parameters
    ----------
    batches : int
        How many batches are kept, at least 1; the oldest ones go first (paper's code: 2).
    """

    def __init__(self, batches: int = 2):
        """Begin with none."""
        self._batches: deque[Segments] = deque(maxlen=_validate.integer(batches, "batches", 1))

    def __len__(self) -> int:
        """Return how many segments are kept."""
        return sum(len(batch.labels) for batch in self._batches)

    def append(self, segments: Segments) -> None:
        """Keep the segments of a batch, and let go of the oldest."""
        self._check(segments)
        kept = Segments(*(part.detach() for part in segments))
        self._batches.append(kept._replace(images=torch.full_like(kept.images, -1)))

    def after(self, segments: Segments) -> Segments:
        """Return segments with those of the bank after them."""
        self._check(segments)
        parts = zip(segments, *self._batches, strict=True)
        return Segments(*(torch.cat(part) for part in parts)) if self._batches else segments

    def _check(self, segments: Segments) -> None:
        for batch in self._batches:
            for name, old, new in zip(Segments._fields, batch, segments, strict=True):
                if old.shape[1:] != new.shape[1:]:
                    raise ValueError(
                        f"all batches of a bank must have the same features and tags, but {name} of one are "
                        f"{tuple(new.shape)} after {tuple(old.shape)}"
                    )


def segment_relationship(
    segments: Segments, others: Segments, kind: str, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Return which segments attract and which repel each other, by one of four relationships.

    ============  ====================================  =====================================
    kind          attract                               repel
    ============  ====================================  =====================================
    image         of one region of one image            of other regions of the same image
    annotation    labelled alike                        labelled differently
    cooccurrence  of images that share a class          of images that share none
    affinity      labelled alike, after every           labelled differently, then
                  unlabelled one took the label of
                  the most similar labelled segment
                  of its image
    ============  ====================================  =====================================

    Parameters
    ----------
    segments : Segments
        The S segments of a batch.
    others : Segments
        T segments: themselves, and those of a memory bank after them (`SegmentBank.after`).
    kind : {"image", "annotation", "cooccurrence", "affinity"}
        The relationship.
    ignore_index : int
        The label of unlabelled segments.

    Returns
    -------
    positive, negative : (S, T) boolean tensors
        C+ and C- of each segment's pixels, its own segment among C+.

    Raises
    ------
    TypeError, ValueError
        An unknown kind, or tags that the kind needs and that are not there.

    Notes
    -----
    O(S T) time.

    References
    ----------
    .. [1] T.-W. Ke et al., "Universal weakly supervised segmentation by pixel-to-segment contrastive
       learning", ICLR 2021.
    """
    if kind not in RELATIONSHIPS:
        raise ValueError(f"kind must be one of {', '.join(RELATIONSHIPS)}, got {kind!r}")
    if kind == "image":
        together = segments.images[:, None] == others.images
        same = segments.regions[:, None] == others.regions
        return together & same, together & ~same
    if kind == "cooccurrence":
        if segments.tags.shape[1] == 0:
            raise ValueError("co-occurrence needs the tags of the images, got none")
        shared = (segments.tags.float() @ others.tags.float().T) > 0
        known = segments.tags.any(1)[:, None] & others.tags.any(1)
        return shared, known & ~shared
    ours, theirs = segments.labels, others.labels
    if kind == "affinity":
        ours, theirs = (_with_nearest_labels(part, ignore_index) for part in (segments, others))
    known = (ours != ignore_index)[:, None] & (theirs != ignore_index)
    same = ours[:, None] == theirs
    return known & same, known & ~same


def segment_contrastive_loss(
    embeddings: Tensor, own: Tensor, prototypes: Tensor, positive: Tensor, negative: Tensor, *, kappa: float
) -> Tensor:
    """Return how little pixels are drawn to the segments that they should be like.

    ``-log( sum_{t in C+} exp(kappa mu_t . e_i) / sum_{t in C+ and C-} exp(kappa mu_t . e_i) )``, mean over
    the pixels that have a C+. A pixel's own segment is left out of C+, unless it is the only one.

    Parameters
    ----------
    embeddings : (P, D) tensor
        e, of pixels. They are brought to unit length.
    own : (P,) integer tensor
        The segment of each pixel, among the S first of the prototypes.
    prototypes : (T, D) tensor
        mu, of unit length: of S segments, and any others after them.
    positive, negative : (S, T) boolean tensors
        C+ and C- of each segment's pixels (`segment_relationship`).
    kappa : float
        Concentration, above 0.

    Returns
    -------
    tensor of no axes

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind or shape.

    Notes
    -----
    O(P T D) time and O(P T) memory.

    References
    ----------
    .. [1] T.-W. Ke et al., "Universal weakly supervised segmentation by pixel-to-segment contrastive
       learning", ICLR 2021, "Pixel-to-segment contrastive learning".
    """
    kappa = _validate.positive(kappa, "kappa")
    expected = (len(positive), len(prototypes))
    if positive.shape != expected or negative.shape != expected:
        raise ValueError(
            f"expected positive and negative (S, {len(prototypes)}), got {tuple(positive.shape)} and "
            f"{tuple(negative.shape)}"
        )
    if (
        embeddings.ndim != 2
        or embeddings.shape[1:] != prototypes.shape[1:]
        or own.shape != embeddings.shape[:1]
    ):
        raise ValueError(
            f"expected embeddings (P, {prototypes.shape[-1]}) and own (P,), got "
            f"{tuple(embeddings.shape)} and {tuple(own.shape)}"
        )
    own = _tensors.indices(own, len(positive), "own")
    rows = torch.arange(len(positive), device=positive.device)
    alone = positive.sum(1) == 1
    attracts = positive.clone()
    attracts[rows, rows] &= alone
    takes_part = attracts | (negative & ~positive)
    chosen = attracts.any(1)[own]
    own = own[chosen]
    if len(own) == 0:
        return (_tensors.wide(embeddings).sum() + _tensors.wide(prototypes).sum()) * 0
    # Segments that no pixel is told about, as most are where labels are few.
    used = takes_part[torch.unique(own)].any(0)
    logits = kappa * _tensors.matmul(
        F.normalize(_tensors.wide(embeddings[chosen]), dim=1), _tensors.wide(prototypes[used]).T
    )
    logits = logits.masked_fill(~takes_part[:, used][own], -torch.inf)
    attracted = logits.masked_fill(~attracts[:, used][own], -torch.inf)
    return (logits.logsumexp(1) - attracted.logsumexp(1)).mean()


def spml_loss(
    embeddings: Tensor,
    segments: Tensor,
    *,
    labels: Tensor | None = None,
    regions: Tensor | None = None,
    tags: Tensor | None = None,
    weights: SegmentWeights | str = "points",
    bank: SegmentBank | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Return the weighted sum of the segment contrastive losses of four relationships.

    Parameters
    ----------
    embeddings : (B, D, H, W) tensor
        Of pixels. They are brought to unit length.
    segments : (B, H, W) integer tensor
        From `aproarray.related.spherical_kmeans`.
    labels : (B, H, W) integer tensor, optional
        Classes, and `ignore_index` where a pixel is unlabelled: for annotation and affinity.
    regions : (B, H, W) integer tensor, optional
        An over-segmentation, for image similarity (None: every segment is a region of its own).
    tags : (B, C) boolean tensor, optional
        The classes of each image, without the background: for co-occurrence.
    weights : SegmentWeights or str
        Weight and kappa of each relationship, or the name of published ones, a key of `SPML_WEIGHTS`.
    bank : SegmentBank, optional
        Segments of the batches before, for annotation, co-occurrence and affinity. The batch's own are
        appended.
    ignore_index : int
        The mark of unlabelled pixels: torch's own by default, 255 in many data sets.

    Returns
    -------
    tensor of no axes

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind or shape. Unknown weights.

    Notes
    -----
    O(P T D) time and O(P T) memory for P pixels and T segments, those of the bank included: the paper has
    embeddings at 1/8 of the image's size.

    References
    ----------
    .. [1] T.-W. Ke et al., "Universal weakly supervised segmentation by pixel-to-segment contrastive
       learning", ICLR 2021.

    Examples
    --------
    >>> import torch
    >>> from aproarray.related import spherical_kmeans
    >>> from aproarray.torch import SegmentBank, spml_loss
    >>> embeddings, labels = torch.rand(2, 8, 16, 16), torch.randint(0, 3, (2, 16, 16))
    >>> segments = spherical_kmeans(embeddings, grid=3, channel_axis=1)
    >>> tags = torch.tensor([[True, False], [True, True]])
    >>> bool(spml_loss(embeddings, segments, labels=labels, tags=tags, bank=SegmentBank()) > 0)
    True
    """
    if isinstance(weights, str):
        if weights not in SPML_WEIGHTS:
            raise ValueError(f"weights must be one of {', '.join(SPML_WEIGHTS)}, got {weights!r}")
        weights = SPML_WEIGHTS[weights]
    needed = {
        "annotation": ("labels", labels),
        "affinity": ("labels", labels),
        "cooccurrence": ("tags", tags),
    }
    for kind, (name, value) in needed.items():
        if getattr(weights, kind)[0] and value is None:
            raise ValueError(
                f"the weight of {kind} is {getattr(weights, kind)[0]}: it needs {name}, got none"
            )
    _check_embeddings(embeddings)
    embeddings = _tensors.wide(embeddings)
    ours, index = segment_prototypes(
        embeddings, segments, labels=labels, regions=regions, tags=tags, ignore_index=ignore_index
    )
    others = ours if bank is None else bank.after(ours)
    flat, index = embeddings.movedim(1, -1).reshape(-1, embeddings.shape[1]), index.flatten()
    loss = flat.sum() * 0
    for kind in RELATIONSHIPS:
        weight, kappa = getattr(weights, kind)
        if weight and kind == "image":
            loss = loss + weight * _image_similarity(flat, index, ours, kappa)
        elif weight:
            positive, negative = segment_relationship(ours, others, kind, ignore_index)
            loss = loss + weight * segment_contrastive_loss(
                flat, index, others.prototypes, positive, negative, kappa=kappa
            )
    if bank is not None:
        bank.append(ours)
    return loss


def _image_similarity(flat: Tensor, index: Tensor, segments: Segments, kappa: float) -> Tensor:
    """Return the loss of image similarity: image by image, as those of others have no part in it."""
    n_images = int(segments.images[-1]) + 1 if len(segments.images) else 0
    total, first = flat.sum() * 0, 0
    for image, pixels in enumerate(flat.tensor_split(n_images) if n_images else ()):
        here = Segments(*(part[segments.images == image] for part in segments))
        own = index[image * len(pixels) : (image + 1) * len(pixels)] - first
        positive, negative = segment_relationship(here, here, "image")
        # All pixels have an own segment, and all images as many pixels.
        total = total + segment_contrastive_loss(
            pixels, own, here.prototypes, positive, negative, kappa=kappa
        )
        first += len(here.labels)
    return total / max(n_images, 1)


def _check_embeddings(embeddings: Tensor) -> None:
    if embeddings.ndim != 4 or not embeddings.is_floating_point():
        raise ValueError(
            f"expected embeddings (B, D, H, W) of floating point, got {embeddings.dtype} "
            f"{tuple(embeddings.shape)}"
        )


def _check_map(value: Tensor | None, name: str, shape: tuple[int, ...], ignore_index: int | None) -> None:
    """Check an integer map over the pixels of a batch; ignore_index is that of labels."""
    if value is None:
        return
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got {value.dtype}")
    if value.shape != shape:
        raise ValueError(f"expected {name} of shape {shape}, got {tuple(value.shape)}")
    if ignore_index is not None:
        value = value[value != ignore_index]
    if value.numel() and value.min() < 0:
        raise ValueError(f"{name} must not be negative, got {int(value.min())}")
    if ignore_index not in (None, 255) and value.numel() and value.max() == 255:
        warnings.warn(
            f"the largest of the {name} is 255, which many data sets write where a pixel is unlabelled: here "
            f"it is a class like others, and {ignore_index} is that mark. Pass ignore_index=255 if it is not "
            "so",
            stacklevel=4,
        )


def _majority(index: Tensor, numbers: Tensor, count: int, otherwise: Tensor) -> Tensor:
    """Return the most frequent number of each of `count` groups (the smallest of those), or `otherwise`."""
    if not len(index):
        return otherwise
    n = int(numbers.max()) + 1
    pairs, times = torch.unique(index * n + numbers, return_counts=True)
    group, number = pairs // n, pairs % n
    most = torch.zeros(count, dtype=times.dtype, device=times.device).scatter_reduce(
        0, group, times, "amax", include_self=True
    )
    best = times == most[group]
    smallest = torch.full_like(otherwise, n).scatter_reduce(0, group[best], number[best], "amin")
    return torch.where(smallest < n, smallest, otherwise)


def _with_nearest_labels(segments: Segments, ignore_index: int) -> Tensor:
    """Return labels, with that of the most similar labelled segment of their image where there was none."""
    prototypes, labels = segments.prototypes.detach(), segments.labels
    labelled = labels != ignore_index
    similarity = _tensors.matmul(prototypes, prototypes[labelled].T)
    elsewhere = (segments.images[:, None] != segments.images[labelled]) | (segments.images < 0)[:, None]
    if not labelled.any():
        return labels
    best, place = similarity.masked_fill(elsewhere, -torch.inf).max(1)
    nearest = torch.where(best > -torch.inf, labels[labelled][place], ignore_index)
    return torch.where(labelled, labels, nearest)
