"""Losses of weakly supervised segmentation: affinity propagation's, and those it is compared with.

Probabilities and masks are (B, C, H, W) or (K, 1, H, W), in [0, 1], not logits: on the CPU, others are an
error (a look at CUDA tensors would wait for the device). An `image_index` (K,) names the image of each of K
masks. A `region` (B or K, 1, H, W) is 1 or True where a loss is taken, or inside of boxes. Every loss is a
mean over its pixels or pairs, and 0, with a gradient of 0, where there are none.
Of float16 and bfloat16, and under autocast, a loss is float32, and computed in it; its gradients are what
their tensors are. Images may be integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from aproarray import _edges, _validate
from aproarray.torch import _ops, _tensors, functional
from aproarray.torch.functional import Tree
from aproarray.torch.modules import AffinityPropagation

# torch.compile cannot trace a module that is made within the loss. It has no parameters, and no state.
_PUBLISHED = AffinityPropagation()


def apro_loss(
    probabilities: Tensor,
    image: Tensor,
    region: Tensor,
    *,
    propagation: AffinityPropagation | None = None,
    per_instance: bool = False,
    weights: tuple[float, float] | None = None,
    constant_targets: bool | None = None,
    tree: Tree | None = None,
    image_index: Tensor | None = None,
) -> Tensor:
    """Return how far probabilities are from what affinity propagation makes of them.

    For every target y: ``sum(|y - p| region) / max(sum(region), 1)``; `per_instance`, the mean of that over
    the K masks.

    Parameters
    ----------
    probabilities : (B, C, H, W) tensor
        p: of classes, or (K, 1, H, W) of instances.
    image : (B, C', H, W) tensor
        In the units of the propagation's zeta; normalised by the ImageNet mean and standard deviation for
        the default one.
    region : (B, 1, H, W) tensor
        Where the loss is taken, 1 or True: inside the boxes, or where pixels are unlabelled.
    propagation : AffinityPropagation, optional
        The modules that make the targets (None: the published options, GP and LP in parallel).
    per_instance : bool
        Whether each of the K masks is an instance with a region of its own, its box: the loss is a mean over
        the masks, and p is 0 where the region is 0, before and after every step of LP. In images of little
        contrast, zeros from outside of a small box empty its target: compare targets of true masks with the
        masks, and stretch the contrast.
    weights : (float, float), optional
        Of the terms of GP and LP; a term of weight 0 is not computed. A cascade has one term, and the
        first weight. None: 1 and 1 for instances, 0.3 and 0.3 for classes. The paper has 2 and 1 with one
        detector, else 1 and 1.
    constant_targets : bool, optional
        Whether targets are constants, as published. Else they have a gradient: to p, through the values that
        are propagated, not through the affinities. None: as `per_instance`.
    tree : Tree, optional
        Of the images, where it is known already.
    image_index : (K,) integer tensor, optional
        The image of each of K masks.

    Returns
    -------
    tensor of no axes

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind or shape. On the CPU, also numbers outside [0, 1].

    Notes
    -----
    O(N C) time for the term of GP, O(N C k^2 iterations) for that of LP: see `local_propagate`.

    The published form is ``weights=(1.0, 1.0), constant_targets=True``. It is the default for boxes. Where a
    network learns from points, it can merge classes that the points hardly tell apart: constant targets pull
    an unsure network away from a class even where they are right. The defaults for points and scribbles
    have gained accuracy with both, and mean IoU with scribbles. Let the loss rise from 0 in the first half
    of the training. See "Training with weak annotations" in the documentation.

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023, section 3.1
       and Table 7.

    Examples
    --------
    >>> import torch
    >>> from aproarray.torch import apro_loss
    >>> p, image = torch.rand(2, 21, 16, 16).softmax(1), torch.rand(2, 3, 16, 16)
    >>> bool(apro_loss(p, image, region=torch.rand(2, 1, 16, 16) < 0.9) > 0)
    True
    """
    probabilities, region, loss = _checked(region, probabilities=probabilities, image=image)
    _check_images_of(probabilities, image, image_index)
    if propagation is None:
        propagation = _PUBLISHED
    if not isinstance(propagation, AffinityPropagation):
        raise TypeError(f"propagation must be an AffinityPropagation, got a {type(propagation).__name__}")
    if weights is None:
        weights = (1.0, 1.0) if per_instance else (0.3, 0.3)
    if not isinstance(weights, tuple | list) or len(weights) != 2:
        raise TypeError(f"weights must be two numbers, of GP and LP, got {weights!r}")
    if constant_targets is None:
        constant_targets = per_instance
    if not isinstance(constant_targets, bool):
        raise TypeError(f"constant_targets must be True, False or None, got {constant_targets!r}")
    of_tree, of_window = weights
    p, inside = (
        probabilities.detach() if constant_targets else probabilities,
        region if per_instance else None,
    )
    image = image.detach()
    if propagation.mode != "parallel":
        (target,) = _with_constants(propagation, p, image, tree=tree, region=inside, image_index=image_index)
        of_targets = [(of_tree, target)]
    else:
        of_targets = []
        if of_tree:
            along = image if tree is None else tree
            target = _with_constants(propagation.global_propagation, p, along, tree_index=image_index)
            of_targets.append((of_tree, target))
        if of_window:
            target = _with_constants(
                propagation.local_propagation, p, image, region=inside, image_index=image_index
            )
            of_targets.append((of_window, target))
    loss = loss + probabilities.sum() * 0
    for weight, target in of_targets:
        difference = (target - probabilities).abs() * region
        if per_instance:
            size = region.sum((1, 2, 3)).clamp(min=1)
            loss = loss + weight * _tensors.mean(difference.sum((1, 2, 3)) / size)
        else:
            loss = loss + weight * difference.sum() / region.sum().clamp(min=1)
    return loss


def projection_loss(masks: Tensor, region: Tensor) -> Tensor:
    """Return the dice losses of the maxima of every row and of every column: of masks against their boxes.

    The unary term for boxes: ``dice(max_x m, max_x b) + dice(max_y m, max_y b)``, with
    ``dice(u, v) = 1 - 2 sum(u v) / (sum(u^2) + sum(v^2))``, mean over the K masks.

    Parameters
    ----------
    masks : (K, 1, H, W) tensor
        Probabilities of instances.
    region : (K, 1, H, W) tensor
        1 or True inside each instance's box.

    Returns
    -------
    tensor of no axes

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind or shape. On the CPU, also numbers outside [0, 1].

    Notes
    -----
    O(K N) time.

    References
    ----------
    .. [1] Z. Tian et al., "BoxInst: High-performance instance segmentation with box annotations", CVPR 2021.
    """
    masks, region, looked = _checked(region, masks=masks)
    rows, columns = (_dice(masks.amax(axis), region.amax(axis)) for axis in (-1, -2))
    return looked + _tensors.mean(rows + columns)


def partial_cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int = -100) -> Tensor:
    """Return the mean cross-entropy of the labelled pixels: the unary term for points and scribbles.

    Parameters
    ----------
    logits : (B, C, H, W) tensor
        Class scores before the softmax.
    labels : (B, H, W) integer tensor
        Classes, and `ignore_index` where a pixel is unlabelled.
    ignore_index : int
        The mark of unlabelled pixels: torch's own by default, 255 in many data sets.

    Returns
    -------
    tensor of no axes

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind or shape; on the CPU, a label that is neither a class nor `ignore_index`.

    Notes
    -----
    O(N C) time.
    """
    _tensors.check_floating(logits, "logits")
    _tensors.check_tensor(labels, "labels")
    _tensors.check_device(logits, logits=logits, labels=labels)
    if logits.ndim != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"expected logits (B, C, H, W) and labels (B, H, W), got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    ignore_index = _validate.label(ignore_index, "ignore_index")
    labels = _ops.checked_labels(labels, logits.shape[1], ignore_index)
    total = F.cross_entropy(_tensors.wide(logits), labels, ignore_index=ignore_index, reduction="sum")
    return total / (labels != ignore_index).sum().clamp(min=1)


def pairwise_loss(
    masks: Tensor,
    lab: Tensor,
    region: Tensor,
    *,
    threshold: float = 0.3,
    kernel_size: int = 3,
    dilation: int = 2,
    image_index: Tensor | None = None,
) -> Tensor:
    """Return BoxInst's pairwise term: pixels of one colour should have one label.

    ``-log(p_i p_j + (1 - p_i)(1 - p_j))``, mean over pairs of a pixel i inside its box and a pixel j of the
    window around it, centre left out, with ``exp(-|Lab_i - Lab_j| / 2)`` of at least `threshold`. The paper
    warms its weight up over the first 10,000 iterations.

    Parameters
    ----------
    masks : (K, 1, H, W) tensor
        Probabilities of instances.
    lab : (B, 3, H, W) tensor
        The images in CIELAB, L from 0 to 100.
    region : (K, 1, H, W) tensor
        1 or True inside each instance's box.
    threshold, kernel_size, dilation
        As published.
    image_index : (K,) integer tensor, optional
        The image of each of K masks.

    Returns
    -------
    tensor of no axes

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind or shape. On the CPU, also numbers outside [0, 1].

    Notes
    -----
    O(K N k^2) time, for windows of k x k pixels.

    References
    ----------
    .. [1] Z. Tian et al., "BoxInst: High-performance instance segmentation with box annotations", CVPR 2021.
    """
    masks, region, total = _checked(region, masks=masks, lab=lab)
    threshold = _validate.real_number(threshold, "threshold")
    if math.isnan(threshold):
        raise ValueError("threshold must be a number, got nan")
    kernel_size = _validate.odd(kernel_size, "kernel_size")
    dilation = _validate.integer(dilation, "dilation", 1)
    of_masks = _images_of(masks, lab, image_index).to(masks.device)
    total, count = total + masks.sum() * 0, masks.new_zeros(())
    # Logarithms of probabilities of 0 would be -inf, and 0 times that NaN.
    tiny = torch.finfo(masks.dtype).tiny
    shape = masks.shape[-2:]
    radii = _edges.radii_within(shape, kernel_size // 2, dilation)
    similar = _ops.pairwise_affinities(_pixels(lab), list(shape), 2.0, list(radii), dilation) >= threshold
    similar = similar.reshape(*similar.shape[:2], *shape)
    for k, step in enumerate(_edges.box_steps(radii, dilation)):
        here, there = _pairs(shape, step)
        p, q = masks[here], masks[there]
        chosen = similar[of_masks, k : k + 1][here] * region[here]
        agreement = p * q + (1 - p) * (1 - q)
        total = total - (agreement.clamp(min=tiny).log() * chosen).sum()
        count = count + chosen.sum()
    return total / count.clamp(min=1)


def tree_energy_loss(
    probabilities: Tensor,
    image: Tensor,
    region: Tensor,
    *,
    features: Tensor | None = None,
    sigma: float = 0.02,
    weight: float = 0.4,
    tree: Tree | None = None,
    feature_tree: Tree | None = None,
) -> Tensor:
    """Return the tree energy loss: a target by tree filters, along which distances add up.

    The filter averages with affinities that are products of ``exp(-d^2 / sigma)`` along the path in the
    image's minimum spanning tree, and then of ``exp(-d^2)`` in that of the features. The loss is
    ``weight * sum(|p - y| region) / sum(region)``. The target y keeps its gradient.

    Parameters
    ----------
    probabilities : (B, C, H, W) tensor
        p, of classes.
    image : (B, C', H, W) tensor
        In [0, 1].
    region : (B, 1, H, W) tensor
        1 or True where pixels are unlabelled.
    features : (B, C'', H, W) tensor, optional
        High-level features with a tree of their own (None: there is no second filter).
    sigma : float
        Of the image's filter (paper: 0.02 for Pascal VOC, 0.002 for Cityscapes and ADE20K).
    weight : float
        Of the loss.
    tree, feature_tree : Tree, optional
        Of the image and of the features, where they are known already.

    Returns
    -------
    tensor of no axes

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind or shape. On the CPU, also numbers outside [0, 1].

    Notes
    -----
    O(N C) time; see `tree_filter`.

    References
    ----------
    .. [1] Z. Liang et al., "Tree energy loss: Towards sparsely annotated semantic segmentation", CVPR 2022.
    """
    probabilities, region, looked = _checked(region, probabilities=probabilities, image=image)
    sigma = _validate.positive(sigma, "sigma")
    _check_images(image, probabilities, len(probabilities))
    image = _tensors.wide_image(image)
    tree = functional.mst(image.detach()) if tree is None else tree
    y = functional.tree_filter(probabilities, tree, zeta=math.sqrt(sigma), features=image)
    if features is not None:
        features = _tensors.wide(features)
        if feature_tree is None:
            feature_tree = functional.mst(features.detach())
        y = functional.tree_filter(y, feature_tree, features=features)
    return looked + weight * ((probabilities - y).abs() * region).sum() / region.sum().clamp(min=1)


def mean_field_loss(
    masks: Tensor,
    image: Tensor,
    region: Tensor,
    *,
    zeta: float = 0.1,
    kernel_size: int = 3,
    iterations: int = 100,
    image_index: Tensor | None = None,
) -> Tensor:
    """Return the dice loss against labels by mean-field inference of a CRF over small windows.

    Of background and foreground, starting with 1 - p and p: ``q <- exp(-sum_j K_ij (-log q_j))`` with
    ``K_ij = exp(-|I_i - I_j|^2 / (2 zeta^2))`` over the window, centre included; the foreground is
    multiplied by the box, both are divided by their sum (plus 1e-6) and held within [0.1, 0.9]. The labels
    are where the foreground is above 0.5 in the end. They are constants.

    Parameters
    ----------
    masks : (K, 1, H, W) tensor
        Probabilities of instances.
    image : (B, C', H, W) tensor
        In the units of zeta.
    region : (K, 1, H, W) tensor
        1 or True inside each instance's box.
    zeta, kernel_size, iterations
        As published.
    image_index : (K,) integer tensor, optional
        The image of each of K masks.

    Returns
    -------
    tensor of no axes

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind or shape. On the CPU, also numbers outside [0, 1].

    Notes
    -----
    O(K N k^2 iterations) time, for windows of k x k pixels.

    References
    ----------
    .. [1] S. Lan et al., "Vision transformers are good mask auto-labelers", CVPR 2023.
    """
    masks, region, looked = _checked(region, masks=masks, image=image)
    zeta, kernel_size = _validate.positive(zeta, "zeta"), _validate.odd(kernel_size, "kernel_size")
    iterations = _validate.integer(iterations, "iterations", 0)
    labels = _ops.mean_field(
        _pixels(masks), _pixels(region), _pixels(image), _images_of(masks, image, image_index),
        list(masks.shape[-2:]), zeta, kernel_size, iterations,
    )  # fmt: skip
    labels = (labels > 0.5).to(masks.dtype)
    return looked + _tensors.mean(_dice(masks.flatten(1), labels.flatten(1)))


def gated_crf_loss(
    probabilities: Tensor,
    image: Tensor,
    region: Tensor | None = None,
    *,
    radius: int = 5,
    position_sigma: float = 6.0,
    color_sigma: float = 0.1,
) -> Tensor:
    """Return the gated CRF loss: alike pixels of a window should have one class.

    ``sum_i gate_i sum_j k_ij (1 - p_i . p_j) / sum_i gate_i`` over the (2 r + 1)^2 window without its centre,
    ``k_ij = exp(-|x_i - x_j|^2 / (2 s_x^2) - |I_i - I_j|^2 / (2 s_I^2))``.

    Parameters
    ----------
    probabilities : (B, C, H, W) tensor
        p, of classes.
    image : (B, C', H, W) tensor
        In the units of `color_sigma`.
    region : (B, 1, H, W) tensor, optional
        The gate, 1 or True where the loss is taken (None: everywhere).
    radius, position_sigma, color_sigma
        As published, for images in [0, 1].

    Returns
    -------
    tensor of no axes

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind or shape. On the CPU, also numbers outside [0, 1].

    Notes
    -----
    O(N C r^2) time, r being the radius.

    References
    ----------
    .. [1] A. Obukhov et al., "Gated CRF loss for weakly supervised semantic image segmentation", 2019.
    """
    _tensors.check_tensor(probabilities, "probabilities")
    if region is None:
        region = torch.ones_like(probabilities[:, :1])
    probabilities, region, total = _checked(region, probabilities=probabilities, image=image)
    _check_images(image, probabilities, len(probabilities))
    radius = _validate.integer(radius, "radius", 0)
    position_sigma = _validate.positive(position_sigma, "position_sigma")
    color_sigma = _validate.positive(color_sigma, "color_sigma")
    image = _tensors.wide_image(image)
    total = total + probabilities.sum() * 0
    shape = probabilities.shape[-2:]
    for step in _edges.box_steps(_edges.radii_within(shape, radius)):
        if step < (0, 0):  # the same pairs again
            continue
        here, there = _pairs(shape, step)
        squared = step[0] ** 2 + step[1] ** 2
        distance = (image[here] - image[there]).square().sum(1, keepdim=True) / (2 * color_sigma**2)
        k = (-distance - squared / (2 * position_sigma**2)).exp().to(probabilities.dtype)
        apart = 1 - (probabilities[here] * probabilities[there]).sum(1, keepdim=True)
        total = total + (k * apart * (region[here] + region[there])).sum()
    return total / region.sum().clamp(min=1)


def _checked(region: Tensor, **tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Check a loss's tensors: a region, probabilities (B, C, H, W) or masks (K, 1, H, W), and any images.

    Return probabilities in the type to compute in, the region in theirs, and 0, to be added to the loss.
    """
    (name, probabilities), *_ = tensors.items()
    tensors = {name: probabilities, "region": region, **tensors}
    for each, tensor in tensors.items():
        _tensors.check_tensor(tensor, each)
    _tensors.check_device(probabilities, **tensors)
    layout = "(K, 1, H, W)" if name == "masks" else "(B, C, H, W)"
    if (
        probabilities.ndim != 4
        or not probabilities.is_floating_point()
        or (name == "masks" and probabilities.shape[1] != 1)
    ):
        raise ValueError(
            f"expected {name} {layout} of floating point, got {probabilities.dtype} "
            f"{tuple(probabilities.shape)}"
        )
    expected = (probabilities.shape[0], 1, *probabilities.shape[2:])
    if tuple(region.shape) != expected:
        raise ValueError(f"expected a region of shape {expected}, got {tuple(region.shape)}")
    looked = _tensors.look_at_shares(probabilities, name)
    if region.dtype != torch.bool:
        looked = looked + _tensors.look_at_shares(region, "region", "pass region > 0")
    wide = _tensors.wide(probabilities)
    return wide, region.to(wide.dtype), looked


def _with_constants(propagation: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return a module's result, with its parameters as constants: a loss would make learned scales small."""
    if not isinstance(propagation, nn.Module) or not any(True for _ in propagation.parameters()):
        return propagation(*arguments, **options)
    constants = {name: parameter.detach() for name, parameter in propagation.named_parameters()}
    return torch.func.functional_call(propagation, constants, arguments, options)


def _dice(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 - 2 sum(a b) / (sum(a^2) + sum(b^2)) over all axes but the first, and 0 for 0 against 0."""
    a, b = a.flatten(1), b.flatten(1)
    total = a.square().sum(1) + b.square().sum(1)
    overlap = 2 * (a * b).sum(1) / torch.where(total == 0, 1, total)
    return torch.where(total == 0, 0, 1 - overlap)


def _pixels(tensor: Tensor) -> Tensor:
    """Return (B, C, H, W) as a constant (B, C, N), in the type to compute in."""
    return _tensors.wide_image(tensor.detach()).flatten(2)


def _check_images(image: Tensor, masks: Tensor, n_images: int, advice: str = "") -> None:
    if image.ndim != 4 or (len(image), *image.shape[2:]) != (n_images, *masks.shape[2:]):
        raise ValueError(
            f"images of shape {tuple(image.shape)} do not fit masks or probabilities of shape "
            f"{tuple(masks.shape)}{advice}"
        )


def _images_of(masks: Tensor, image: Tensor, image_index: Tensor | None) -> Tensor:
    """Return the image of each mask, after a look whether there is one, of its size."""
    _check_images_of(masks, image, image_index)
    if image_index is None:
        return torch.arange(len(masks))
    return _tensors.indices(image_index, len(image), "image_index")


def _check_images_of(masks: Tensor, image: Tensor, image_index: Tensor | None) -> None:
    n_images = len(masks) if image_index is None else len(image)
    advice = ": pass image_index, the image of each mask" if image_index is None else ""
    _check_images(image, masks, n_images, advice)


def _pairs(shape: torch.Size, step: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return indices (here, there) of a (B, C, H, W) tensor: all pairs of pixels that are one step apart."""
    here, there = [slice(None)] * 2, [slice(None)] * 2
    for along, extent in zip(step, shape, strict=True):
        here.append(slice(max(0, -along), max(0, min(extent, extent - along))))
        there.append(slice(max(0, along), max(0, min(extent, extent + along))))
    return tuple(here), tuple(there)
