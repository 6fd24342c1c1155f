"""The tree filters: averages over a spanning tree whose edge weights add up along paths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aproarray import _arrays, _calls, _validate
from aproarray._tree import SpanningTree, flat_features, masks_of, rooted_trees

Array = NDArray[Any]


@_arrays.takes_dlpack(gradients="aproarray.torch.tree_filter")
def tree_filter(
    values: ArrayLike,
    tree: SpanningTree,
    *,
    zeta: float,
    features: ArrayLike | None = None,
    tree_index: ArrayLike | None = None,
    channel_axis: int | None = -1,
    workers: int | None = None,
    out: Array | None = None,
    check_finite: bool = True,
) -> Array:
    """Average values over all pixels, with affinities that are products along the paths of a tree.

    ``y_i = sum_j S_ij phi_j / sum_j S_ij`` with ``S_ij = exp(-sum of w_kl / zeta^2)`` over the edges (k, l)
    between i and j. `aproarray.global_propagate` takes the maximum of these weights where this filter takes
    their sum.

    Parameters
    ----------
    values, tree, tree_index, channel_axis, workers, out, check_finite
        As in `aproarray.global_propagate`.
    zeta : float
        Scale, above 0, in the units of the image or the features. Weights are squared differences. The paper
        has 1, with learned features.
    features : array_like, optional
        Weigh the tree's edges by ``|f_u - f_v|^2`` of these features instead of the image. Their layout is
        that of values. Their leading axes begin with the tree's, and the leading axes of values begin with
        theirs.

    Returns
    -------
    array of values' shape
        Dtypes as in `aproarray.global_propagate`. Pixels outside the tree's mask keep their values.

    Raises
    ------
    TypeError
        An argument of the wrong kind, or arrays of more than one library.
    ValueError
        Shapes that do not fit (such as a tree of another image), zeta not above 0, NaN or inf, or features
        whose differences are too large to square.

    Notes
    -----
    O(N C) time: one pass up the tree and one down. Sums are float64. The first call computes the tree's
    breadth-first order, which the tree then keeps, in 12 bytes per pixel. A thread needs 8 bytes per pixel
    for each of up to 16 channels at a time.

    References
    ----------
    .. [1] L. Song et al., "Learnable Tree Filter for Structure-preserving Feature Transform", NeurIPS 2019.

    Examples
    --------
    >>> import numpy as np
    >>> import aproarray
    >>> from aproarray.related import tree_filter
    >>> tree = aproarray.mst(np.array([[0.0, 1.0, 2.0]]))
    >>> tree_filter(np.array([[1.0, 0, 0]]), tree, zeta=1).round(3)  # affinities 1, 1/e, 1/e^2
    array([[0.665, 0.212, 0.09 ]])
    """
    return _filtered(
        values, tree, zeta, features, tree_index, channel_axis, workers, out, check_finite, v2=None
    )


@_arrays.takes_dlpack(gradients="aproarray.torch.tree_filter_v2")
def tree_filter_v2(
    values: ArrayLike,
    tree: SpanningTree,
    *,
    beta: float,
    gamma: float,
    confidence: ArrayLike | None = None,
    zeta: float,
    features: ArrayLike | None = None,
    tree_index: ArrayLike | None = None,
    channel_axis: int | None = -1,
    workers: int | None = None,
    out: Array | None = None,
    check_finite: bool = True,
) -> Array:
    """Add to values an average over the tree, weighted by confidence: the second tree filter.

    ``y = x + gamma F(c x) / (1e-8 + F(c))`` with ``F(x)_i = s x_i + sum_j S_ij x_j`` over j other than i.
    S_ij is the product of ``s exp(-w_kl / zeta^2)`` over the edges between i and j. ``s = exp(-beta^2)`` is
    the self term.

    Parameters
    ----------
    values, tree, zeta, features, tree_index, channel_axis, workers, out, check_finite
        As in `tree_filter`. The paper weighs edges by two embeddings, of values and of a guide. Their squared
        distances add up: concatenate them along the channels, and pass them as `features`.
    beta, gamma : float
        The paper learns them, from 0 on.
    confidence : array_like, optional
        c, at least 0, of values' shape without its channels (None: 1 everywhere). The paper takes a sigmoid
        of a learned projection of values.

    Returns
    -------
    array of values' shape
        As in `tree_filter`.

    Raises
    ------
    TypeError, ValueError
        As in `tree_filter`. Also a confidence that does not fit or is below 0, beta or gamma NaN or inf.

    Notes
    -----
    O(N C) time. It takes two copies of values with one channel more.

    References
    ----------
    .. [1] L. Song et al., "Rethinking Learnable Tree Filter for Generic Feature Transform", NeurIPS 2020.

    Examples
    --------
    >>> import numpy as np
    >>> import aproarray
    >>> from aproarray.related import tree_filter_v2
    >>> tree = aproarray.mst(np.array([[0.0, 1.0, 2.0]]))
    >>> tree_filter_v2(np.array([[1.0, 0, 0]]), tree, beta=0.0, gamma=1.0, zeta=1).round(3)
    array([[1.665, 0.212, 0.09 ]])
    """
    beta, gamma = _finite(beta, "beta"), _finite(gamma, "gamma")
    return _filtered(
        values, tree, zeta, features, tree_index, channel_axis, workers, out, check_finite,
        v2=(beta, gamma, confidence),
    )  # fmt: skip


def _filtered(
    values: ArrayLike,
    tree: SpanningTree,
    zeta: float,
    features: ArrayLike | None,
    tree_index: ArrayLike | None,
    channel_axis: int | None,
    workers: int | None,
    out: Array | None,
    check_finite: bool,
    v2: tuple[float, float, ArrayLike | None] | None,
) -> Array:
    check_finite = _validate.flag(check_finite, "check_finite")
    given = None if v2 is None else v2[2]
    over = _calls.over_trees(values, tree, features, tree_index, channel_axis, out, confidence=given)
    backend, xp, values, layout, leading, tree_index = over
    zeta = _validate.positive(zeta, "zeta")
    threads = _validate.workers(workers, backend.available_workers())
    n_trees, n_nodes = math.prod(tree.batch_shape), tree.order.shape[-1]
    item_trees = np.repeat(tree_index, math.prod(layout.leading[len(leading) :]))
    n_items = len(item_trees)
    masks = masks_of(tree, item_trees)
    confidence = None if given is None else _confidence(given, layout, xp, check_finite, masks)

    dtype = _validate.compute_dtype(values.dtype)
    flat = layout.flatten(values).astype(dtype, copy=False)
    result = _calls.Result(xp, values, layout, dtype, None, out)
    if check_finite:
        _validate.finite(flat, "values", masks, _validate.BY_TREE)
    if features is None:
        # Each tree has one set of weights.
        distances, set_trees, set_of = (
            tree.gaps.reshape(n_trees, max(n_nodes - 1, 0)),
            np.arange(n_trees),
            item_trees,
        )
    else:
        f, of_features, set_trees = flat_features(
            tree, features, leading, channel_axis, check_finite, tree_index
        )
        _calls.check_features_lead(of_features.leading, layout)
        set_of = np.repeat(np.arange(len(f)), n_items // max(len(f), 1))
        edges = tree.gap_edges.reshape(n_trees, max(n_nodes - 1, 0), 2)
        distances, all_finite = backend.edge_distances(f, edges, set_trees, threads)
        if check_finite:
            _validate.no_overflow(all_finite, "features", f.dtype)
    rooted = rooted_trees(tree, threads)

    if v2 is None:
        sums = xp.empty((len(distances), n_nodes), np.float64)
        backend.tree_filter(
            flat, result.flat[0], rooted, distances, set_trees, set_of, zeta, threads, sums=sums
        )
        if check_finite:
            _validate.finite_means(result.flat[0], "values", masks)
        return result.finish()
    beta, gamma, _ = v2
    joined, sums = (xp.empty((n_items, n_nodes, layout.n_channels + 1), dtype) for _ in range(2))
    joined[..., :-1] = flat if confidence is None else flat * confidence[..., None]
    joined[..., -1] = 1 if confidence is None else confidence
    decay = math.exp(-beta * beta)
    backend.tree_filter(joined, sums, rooted, distances, set_trees, set_of, zeta, threads, decay=decay)
    y = flat + dtype.type(gamma) * (sums[..., :-1] / (dtype.type(1e-8) + sums[..., -1:]))
    result.flat[0][...] = y if masks is None else xp.where(masks[..., None], y, flat)
    return result.finish()


def _confidence(
    confidence: ArrayLike, layout: _validate.Layout, xp: Any, check_finite: bool, masks: Array | None
) -> Array:
    """Return a confidence as (items, pixels)."""
    c = _validate.real_array(confidence, "confidence", xp)
    expected = layout.leading + layout.spatial
    if c.shape != expected:
        raise ValueError(
            f"confidence must have values' shape without its channels, {expected}, got {c.shape}"
        )
    flat = c.reshape(math.prod(layout.leading), math.prod(layout.spatial))
    if check_finite:
        _validate.finite(flat[..., None], "confidence", masks, _validate.BY_TREE)
        taking_part = flat if masks is None else xp.where(masks, flat, 0)
        if flat.size and taking_part.min() < 0:
            raise ValueError(f"confidence must be at least 0, got {float(taking_part.min())}")
    return flat.astype(_validate.compute_dtype(c.dtype), copy=False)


def _finite(value: Any, name: str) -> float:
    result = _validate.real_number(value, name)
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, got {result}")
    return result
