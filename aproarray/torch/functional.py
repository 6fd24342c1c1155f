"""The verbs for training code: check tensors, flatten their pixels, call the operators of `_ops`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aproarray import _edges, _validate
from aproarray.torch import _ops, _tensors


class Tree(NamedTuple):
    """The minimum spanning trees of a batch of images, as tensors. Made by `mst`.

    A data loader collates and pins them as any tuple of tensors. Trees of images of several sizes stay a
    list, or the images are padded and masked; see docs/torch.md. `aproarray.SpanningTree` is the same for
    arrays, and has more methods.

    Attributes
    ----------
    order : (B, H, W) integer tensor
        The pixels of each image along its line; see `aproarray.SpanningTree`. One image has no axis B.
    gaps : (B, H W - 1) float tensor
        The gaps of the lines: weights of the trees' edges; inf between the components of a forest.
    gap_edges : (B, H W - 1, 2) integer tensor
        The edge (u, v) of each gap; (-1, -1) where it is inf.

    Notes
    -----
    Anybody can make a tree of other tensors. On the CPU, each function looks at the tensors that it trusts:
    numbers of pixels in range, edges that form a forest. A look at CUDA tensors would wait for the device:
    there, a tree that `mst` did not make may read and write anywhere.
    """

    order: Tensor
    gaps: Tensor
    gap_edges: Tensor

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> Tree:
        """Return the trees on another device, as `torch.Tensor.to` does. Dtypes stay."""
        where = torch.device(device)
        return Tree(*(tensor.to(where, non_blocking=non_blocking) for tensor in self))

    def pin_memory(self) -> Tree:
        """Return the trees in page-locked memory, as `torch.Tensor.pin_memory` does."""
        return Tree(*(tensor.pin_memory() for tensor in self))


def mst(
    image: Tensor,
    *,
    mask: Tensor | None = None,
    spatial_ndim: int = 2,
    connectivity: int = 1,
    check_finite: bool = True,
) -> Tree:
    """Return the minimum spanning tree of every image of a batch, for `global_propagate`.

    It is `aproarray.mst` for tensors. The structure of a tree is locally constant, so that there is no
    gradient: those of its weights come from `features` of `global_propagate`.

    Parameters
    ----------
    image : (B, C, H, W) or (C, H, W) tensor
        Of any real dtype, never rescaled. With `spatial_ndim` 3, (B, C, D, H, W) or (C, D, H, W).
    mask : bool tensor, optional
        (H, W) or (B, H, W), True where a pixel takes part. Gives a minimum spanning forest.
    spatial_ndim : int
        Number of spatial axes.
    connectivity : int
        Neighbours are at most this many orthogonal hops apart, from 1 to `spatial_ndim`.
    check_finite : bool
        Whether to look for NaN and inf (on a GPU, that waits for the device).

    Returns
    -------
    Tree

    Raises
    ------
    TypeError, ValueError
        A tensor or option of the wrong kind, shape or device, NaN or inf, or an image that requires grad.

    Notes
    -----
    O(N) time for N pixels. As many threads as `torch.get_num_threads`.

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023,
       "Global affinity propagation".

    Examples
    --------
    >>> import torch
    >>> from aproarray.torch import mst
    >>> mst(torch.tensor([[[0.0, 1.0], [3.0, 2.0]]])).gaps
    tensor([1., 1., 1.])
    """
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM)
    connectivity = _validate.integer(connectivity, "connectivity", 1, spatial_ndim)
    check_finite = _validate.flag(check_finite, "check_finite")
    _tensors.check_tensor(image, "image")
    _tensors.check_device(image, image=image, mask=mask)
    if image.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "mst is not differentiable, but image requires grad: pass image.detach(), and the same tensor as "
            "features= of global_propagate for gradients through the weights of the edges"
        )
    image = _tensors.wide_image(image, spatial_ndim)
    shape = _tensors.spatial_shape(image, "image", spatial_ndim)
    flat = _tensors.flatten(image, spatial_ndim)
    order, gaps, gap_edges = _ops.mst(
        flat, _tensors.masks(mask, flat, shape, "mask"), list(shape), connectivity, check_finite
    )
    if image.ndim == spatial_ndim + 1:
        order, gaps, gap_edges = order[0], gaps[0], gap_edges[0]
    return Tree(order.reshape(order.shape[:-1] + shape), gaps, gap_edges)


def global_propagate(
    values: Tensor,
    tree: Tree,
    *,
    zeta: float | Tensor | Sequence[float],
    features: Tensor | None = None,
    tree_index: Tensor | None = None,
) -> Tensor:
    """Average values over all pixels, each weighted by how alike the tree says they are.

    It is `aproarray.global_propagate` for tensors, with gradients to values, features and zeta. They are
    exact: of what the forward pass computes, with the structure of the tree as it is.

    Parameters
    ----------
    values : (B, C, H, W) or (C, H, W) floating-point tensor
        phi, over the pixels of the tree. float16 and bfloat16 are computed in float32 and returned as they
        were. NaN and inf are not looked for: they spread over their component, those of `features` over all.
    tree : Tree
        From `mst`, on the same device.
    zeta : float, tensor of one number, or sequence of either
        Scale, above 0, in the image's units; a sequence (or 1-D tensor) puts one result per zeta along a new
        first axis. A tensor may require grad.
    features : (B, C', H, W) tensor, optional
        Weigh the tree's edges by ``|f_u - f_v|^2`` of these (the paper's semantic affinity). The first axis
        is the tree's, or that of `tree_index`.
    tree_index : (K,) integer tensor, optional
        For each of K masks, (K, C, H, W), the tree of the batch that it is propagated over.

    Returns
    -------
    tensor of values' shape and dtype

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind, shape, dtype or device; zeta not above 0.

    Notes
    -----
    O(N C) time, forward and backward. A backward pass to the values keeps 4 bytes per pixel of a tree; one
    to features or zeta also keeps values and result. Derivatives of second order are not implemented.

    Where weights tie, the largest weight on a path has no derivative: what is returned is the one-sided
    derivative that belongs to one order of the tied edges.

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023,
       "Global affinity propagation".

    Examples
    --------
    >>> import torch
    >>> from aproarray.torch import global_propagate, mst
    >>> tree = mst(torch.tensor([[[0.0, 0.1, 5.0, 5.1]]]))
    >>> seeds = torch.tensor([[[1.0, 0, 0, 0]]], requires_grad=True)
    >>> global_propagate(seeds, tree, zeta=1.0)[0, 0, 1].backward()
    >>> seeds.grad.round(decimals=3)
    tensor([[[0.4980, 0.5020, 0.0000, 0.0000]]])
    """
    over = _over_tree(values, tree, features, tree_index)
    order, gaps, tree_index = over.order, over.gaps, over.tree_index
    if over.features is not None:
        order, gaps, _ = _ops.reweigh(over.features, over.gap_edges, tree_index)
        tree_index = torch.arange(order.shape[0])

    def at(scale: Tensor) -> Tensor:
        result = _ops.global_propagate(over.flat, order, gaps, tree_index, scale)[0]
        return result.reshape(values.shape).to(values.dtype)

    if isinstance(zeta, list | tuple) or getattr(zeta, "ndim", 0) == 1:
        scales: Any = zeta
        results = [at(_tensors.scale(one)) for one in scales]
        return torch.stack(results) if results else values[None][:0]
    return at(_tensors.scale(zeta))


def tree_filter(
    values: Tensor,
    tree: Tree,
    *,
    zeta: float | Tensor = 1.0,
    features: Tensor | None = None,
    tree_index: Tensor | None = None,
) -> Tensor:
    """Average values over all pixels, with affinities that are products along the paths of a tree.

    It is `aproarray.related.tree_filter` for tensors, with exact gradients to values, features and zeta.

    Parameters
    ----------
    values, tree, features, tree_index
        As in `global_propagate`.
    zeta : float or tensor of one number
        Scale, above 0, in the units of the image or the features (paper: 1). A tensor may require grad.

    Returns
    -------
    tensor of values' shape and dtype

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind, shape, dtype or device; zeta not above 0.

    Notes
    -----
    O(N C) time, forward and backward; see `aproarray.related.tree_filter`. For a backward pass, 28 bytes per
    pixel of a tree are kept, and values and result where it goes to features or zeta. Derivatives of second
    order are not implemented.

    References
    ----------
    .. [1] L. Song et al., "Learnable Tree Filter for Structure-preserving Feature Transform", NeurIPS 2019.

    Examples
    --------
    >>> import torch
    >>> from aproarray.torch import mst, tree_filter
    >>> tree = mst(torch.tensor([[[0.0, 1.0, 2.0]]]))
    >>> tree_filter(torch.tensor([[[1.0, 0, 0]]]), tree).round(decimals=3)
    tensor([[[0.6650, 0.2120, 0.0900]]])
    """
    over = _over_tree(values, tree, features, tree_index)
    return _filtered(over, over.flat, _exponents(over, zeta), True).reshape(values.shape).to(values.dtype)


def tree_filter_v2(
    values: Tensor,
    tree: Tree,
    *,
    beta: float | Tensor,
    gamma: float | Tensor,
    confidence: Tensor | None = None,
    zeta: float | Tensor = 1.0,
    features: Tensor | None = None,
    tree_index: Tensor | None = None,
) -> Tensor:
    """Return the second tree filter: values, and what their confident relatives along the tree add to them.

    It is `aproarray.related.tree_filter_v2` for tensors, with exact gradients to all that may have one.

    Parameters
    ----------
    values, tree, zeta, features, tree_index
        As in `tree_filter`. The paper weighs edges by embeddings of values and of a guide: pass both as
        `features`, one after the other along the channels.
    beta, gamma : float or tensor of one number
        Learned in the paper, from 0.
    confidence : (B, 1, H, W) tensor, optional
        At least 0 (None: 1 everywhere). The paper has a sigmoid of a learned projection of values.

    Returns
    -------
    tensor of values' shape and dtype

    Raises
    ------
    TypeError, ValueError
        As `tree_filter`.

    Notes
    -----
    A group of channels with a beta and a confidence of its own is a call of its own. The published code
    trains over random spanning trees, and takes the minimum one for inference. A `Tree` does not know its
    mask: the pixels that it left out are components of their own, and add to themselves alone.

    References
    ----------
    .. [1] L. Song et al., "Rethinking Learnable Tree Filter for Generic Feature Transform", NeurIPS 2020.
    """
    over = _over_tree(values, tree, features, tree_index)
    beta, gamma = _tensors.one_number(beta, "beta"), _tensors.one_number(gamma, "gamma")
    c = torch.ones_like(over.flat[:, :1])
    if confidence is not None:
        _tensors.check_floating(confidence, "confidence")
        _tensors.check_device(values, values=values, confidence=confidence)
        channel = values.ndim - len(over.shape) - 1
        expected = (*values.shape[:channel], 1, *over.shape)
        if tuple(confidence.shape) != expected:
            raise ValueError(f"confidence must have shape {expected}, got {tuple(confidence.shape)}")
        c = _tensors.flatten(confidence, len(over.shape)).to(over.flat.dtype)
    penalty = beta.to(values.device, torch.float64).square()
    # Each edge has a factor of exp(-beta^2), and a pixel itself has one.
    exponents, lacking = _exponents(over, zeta) + penalty, (1 - (-penalty).exp()).to(over.flat.dtype)

    def total(x: Tensor) -> Tensor:
        return _filtered(over, x, exponents, False) - lacking * x

    y = over.flat + gamma.to(over.flat) * (total(c * over.flat) / (1e-8 + total(c)))
    return y.reshape(values.shape).to(values.dtype)


def local_propagate(
    values: Tensor,
    image: Tensor,
    *,
    zeta: float | Tensor = 0.15,
    kernel_size: int = 5,
    iterations: int = 20,
    mask: Tensor | None = None,
    region: Tensor | None = None,
    image_index: Tensor | None = None,
    spatial_ndim: int = 2,
) -> Tensor:
    """Average values over a small window, weighted by likeness to its centre, again and again.

    It is `aproarray.local_propagate` for tensors, with exact gradients to values, image and zeta.

    Parameters
    ----------
    values : (B, C, H, W) or (C, H, W) floating-point tensor
        phi. float16 and bfloat16 are computed in float32 and returned as they were.
    image : (B, C', H, W) or (C', H, W) tensor
        Of any real dtype, never rescaled.
    zeta : float or tensor of one number
        Scale, above 0, in the image's units. A tensor may require grad.
    kernel_size : int
        Pixels along each axis of the window, odd (paper: 5 for Pascal VOC, 3 for COCO).
    iterations : int
        Number of steps (paper: 20).
    mask : bool tensor, optional
        (H, W) or (B, H, W), True where a pixel takes part.
    region : (B, 1, H, W) tensor, optional
        Not 0 inside the region of each item of values, such as a box, and 0 outside. Values are 0 outside
        before and after every step, as the paper has it for box supervision. Only the surroundings of the
        regions are worked on. Not differentiable.
    image_index : (K,) integer tensor, optional
        For each of K masks, (K, C, H, W), the image of the batch that it is propagated along.
    spatial_ndim : int
        Number of spatial axes.

    Returns
    -------
    tensor of values' shape and dtype

    Raises
    ------
    TypeError, ValueError
        A tensor of the wrong kind, shape, dtype or device; zeta not above 0; an even kernel_size.

    Notes
    -----
    O(N C k^2 iterations) time. The gradient to values costs one more forward pass and keeps 4 bytes per
    pixel. The one to image or zeta costs about four, which compute all iterates again. They are kept, for 4
    channels at a time, for the last (kernel_size // 2) x (iterations + 1) + 9 rows: 18 MB per thread for an
    image 512 pixels wide. (On CUDA, see docs/gpu.md.)

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023,
       "Local affinity propagation".

    Examples
    --------
    >>> import torch
    >>> from aproarray.torch import local_propagate
    >>> image = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    >>> local_propagate(torch.tensor([[[1.0, 0, 0, 0]]]), image, kernel_size=3).round(decimals=3)
    tensor([[[0.5000, 0.5000, 0.0000, 0.0000]]])
    """
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM)
    kernel_size = min(_validate.odd(kernel_size, "kernel_size"), _LARGEST)  # no image is wider
    iterations = _validate.integer(iterations, "iterations", 0, _LARGEST)
    _tensors.check_floating(values, "values")
    _tensors.check_tensor(image, "image")
    _tensors.check_device(
        values, values=values, image=image, mask=mask, region=region, image_index=image_index
    )
    shape = _tensors.spatial_shape(image, "image", spatial_ndim)
    flat_image = _tensors.flatten(_tensors.wide_image(image, spatial_ndim), spatial_ndim)
    if image_index is None:
        owners, image_index = image.shape[: image.ndim - spatial_ndim - 1], torch.arange(flat_image.shape[0])
    else:
        if image.ndim == spatial_ndim + 1:
            raise ValueError(f"image_index needs a batch of images, got one of shape {tuple(image.shape)}")
        image_index = _tensors.indices(image_index, image.shape[0], "image_index")
        owners = image_index.shape
    flat = _tensors.flatten(_tensors.fitting(values, owners, shape, "values", "an image"), spatial_ndim)
    masks = _tensors.masks(mask, flat_image, shape, "mask")
    inside = None
    if region is not None:
        _tensors.check_tensor(region, "region")
        if tuple(region.shape) != (*owners, 1, *shape):
            raise ValueError(f"region must have shape {(*owners, 1, *shape)}, got {tuple(region.shape)}")
        inside = _tensors.flatten(region, spatial_ndim)[:, 0] != 0
    if iterations == 0:
        return values.clone() if region is None else values.where(region != 0, 0)
    scale = _tensors.scale(zeta)
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (flat, flat_image, scale))
    result = _ops.local_propagate(
        _tensors.wide(flat), flat_image, scale, image_index, masks, inside, list(shape),
        kernel_size, iterations, learns,
    )[0]  # fmt: skip
    return result.reshape(values.shape).to(values.dtype)


# Of options that are passed to operators, whose integers have 64 bits.
_LARGEST = 2**31 - 1


class _OverTree(NamedTuple):
    """Checked arguments of what is propagated over trees, flattened."""

    order: Tensor
    gaps: Tensor
    gap_edges: Tensor
    tree_index: Tensor
    """The tree of each item, and of each of the features."""
    shape: tuple[int, ...]
    flat: Tensor
    """Values (I, C, N), in the type to compute in."""
    features: Tensor | None


def _over_tree(values: Tensor, tree: Tree, features: Tensor | None, tree_index: Tensor | None) -> _OverTree:
    if not isinstance(tree, Tree):
        raise TypeError(f"tree must come from aproarray.torch.mst, got a {type(tree).__name__}")
    _tensors.check_floating(values, "values")
    _check_tree(tree)
    _tensors.check_device(
        values, values=values, order=tree.order, gaps=tree.gaps, gap_edges=tree.gap_edges, features=features,
        tree_index=tree_index,
    )  # fmt: skip
    batched = tree.gaps.ndim > 1
    shape = tuple(tree.order.shape[1:] if batched else tree.order.shape)
    order, gaps, gap_edges = (part.contiguous() for part in (tree.order.flatten(-len(shape)), *tree[1:]))
    if not batched:
        order, gaps, gap_edges = order[None], gaps[None], gap_edges[None]
    if tree_index is None:
        owners, tree_index = tree.order.shape[: int(batched)], torch.arange(order.shape[0])
    else:
        if not batched:
            raise ValueError(f"tree_index needs a batch of trees, got one of shape {shape}")
        tree_index = _tensors.indices(tree_index, order.shape[0], "tree_index")
        owners = tree_index.shape
    flat = _tensors.flatten(_tensors.fitting(values, owners, shape, "values", "a tree"), len(shape))
    weighing = None
    if features is not None:
        _tensors.check_floating(features, "features")
        weighing = _tensors.flatten(
            _tensors.fitting(_tensors.wide(features), owners, shape, "features", "a tree"), len(shape)
        )
    return _OverTree(order, gaps, gap_edges, tree_index, shape, _tensors.wide(flat), weighing)


def _check_tree(tree: Tree) -> None:
    """Check what a tree's tensors are, as anybody can make one of them, or cast them."""
    for name, tensor in zip(tree._fields, tree, strict=True):
        _tensors.check_tensor(tensor, f"tree.{name}")
    order, gaps, gap_edges = tree
    dtypes = torch.int32, torch.int64
    if order.dtype not in dtypes or gap_edges.dtype not in dtypes or gaps.dtype not in _tensors.WIDE:
        raise TypeError(
            "tree must have int32 or int64 order and gap_edges, and float32 or float64 gaps, got "
            f"{order.dtype}, {gap_edges.dtype} and {gaps.dtype}"
        )
    n_trees = gaps.shape[:-1]
    n_gaps = max(math.prod(order.shape[len(n_trees) :]) - 1, 0)
    expected = [(*n_trees, n_gaps), (*n_trees, n_gaps, 2)]
    if (
        gaps.ndim not in (1, 2)
        or order.ndim <= len(n_trees)
        or order.shape[: len(n_trees)] != n_trees
        or [gaps.shape, gap_edges.shape] != expected
    ):
        raise ValueError(
            "tree must have order (B, H, W), gaps (B, H W - 1) and gap_edges (B, H W - 1, 2), got "
            f"{tuple(order.shape)}, {tuple(gaps.shape)} and {tuple(gap_edges.shape)}"
        )


def _exponents(over: _OverTree, zeta: float | Tensor) -> Tensor:
    """Return w / zeta^2 (F, N-1) of the trees' own weights, or of those by features; 0 where no edge is."""
    missing = over.gap_edges[..., 0] < 0
    if over.features is None:
        distances = over.gaps
    else:
        distances = _ops.edge_distances(over.features, over.gap_edges, over.tree_index)
        missing = missing[over.tree_index.to(missing.device)]
    return _ops.exponents(distances.double().masked_fill(missing, 0), _tensors.scale(zeta))


def _filtered(over: _OverTree, values: Tensor, exponents: Tensor, normalised: bool) -> Tensor:
    set_trees, set_of = torch.arange(over.order.shape[0]), over.tree_index
    if over.features is not None:
        set_trees, set_of = over.tree_index, torch.arange(len(over.tree_index))
    rooted = _ops.root_trees(over.order, over.gap_edges)
    return _ops.tree_filter(values, *rooted, exponents, set_trees, set_of, normalised)[0]
