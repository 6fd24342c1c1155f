"""The functions that JAX calls on the host: NumPy arrays in and out, for one item or for a batch of them.

An argument has the axes of one item, and before these the axes that `jax.vmap` adds: as many for every
argument of a call, of extent 1 where it is not mapped. Results have them all. Forward, trees and images that
items share are therefore there once, and go to the backend as one batch. A gradient is that of each item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aproarray import _validate, _zeta
from aproarray import cpu as backend
from aproarray.cpu import _check

Array = NDArray[Any]
Shape = tuple[int, ...]


def _owners(ndims: Sequence[int], *arrays: Array | None) -> tuple[Shape, list[Any]]:
    """Return the leading axes that arrays have in common, and the arrays with one axis (K) for them."""
    given = [(array, ndim) for array, ndim in zip(arrays, ndims, strict=True) if array is not None]
    leading = np.broadcast_shapes(*(array.shape[: array.ndim - ndim] for array, ndim in given))

    def flat(array: Array | None, ndim: int) -> Array | None:
        if array is None:
            return None
        core = array.shape[array.ndim - ndim :]
        whole = np.broadcast_to(array, leading + core).reshape(math.prod(leading), *core)
        return np.ascontiguousarray(whole)

    return leading, [flat(array, ndim) for array, ndim in zip(arrays, ndims, strict=True)]


def _index(leading: Shape, owners: Shape) -> NDArray[np.intp]:
    """Return the owner of each item, of owners that have these leading axes."""
    return np.broadcast_to(np.arange(math.prod(owners)).reshape(owners), leading).ravel()


def _each(array: Any, index: NDArray[np.intp]) -> Any:
    """Return each item's own array, of those that owners have."""
    return array if array is None or len(array) == len(index) else array[index]


def _with_leading(leading: Shape, *arrays: Array) -> tuple[Array, ...]:
    return tuple(array.reshape(leading + array.shape[1:]) for array in arrays)


def _for_scales(zeta: Array, compute: Callable[..., None], *outs: Array) -> None:
    """Call compute(zeta, items, *outs) for each of the numbers that items (I) have as zeta."""
    scales, group = np.unique(zeta, return_inverse=True)
    for k, scale in enumerate(scales.tolist()):
        _validate.positive(scale, "zeta")
        if len(scales) == 1:
            compute(scale, slice(None), *outs)
            continue
        items = np.flatnonzero(group == k)
        parts = [np.empty((len(items), *out.shape[1:]), out.dtype) for out in outs]
        compute(scale, items, *parts)
        for out, part in zip(outs, parts, strict=True):
            out[items] = part


def mst(
    image: Array, mask: Array | None, shape: Shape, connectivity: int, check_finite: bool
) -> tuple[Array, ...]:
    """Return order (N), gaps (N-1) and gap_edges (N-1, 2) of an image (N, C), where its mask (N) is True."""
    leading, (images, masks) = _owners((2, 1), image, mask)
    if check_finite:
        _validate.finite(images, "image", masks, _validate.BY_MASK)
    trees, weights_finite = backend.grid_trees(
        images, shape, connectivity, masks, backend.available_workers()
    )
    if check_finite:
        _validate.no_overflow(weights_finite, "image", images.dtype)
    return trees.with_leading(leading)


class _OverTrees(NamedTuple):
    """Items, and the trees that they are propagated over."""

    leading: Shape
    values: Array
    zeta: Array
    order: Array
    gaps: Array
    gap_edges: Array
    features: Array | None
    """Those that weigh the trees, one for each of them."""
    tree_index: NDArray[np.intp]


_TREE_NDIMS = 1, 1, 2


def _over_trees(
    values: Array, tree: Sequence[Array], features: Array | None, zeta: Any, with_edges: bool = True
) -> _OverTrees:
    """Lay the arguments out, after a look at the numbers that kernels trust: anybody can make a tree."""
    owners, (order, gaps, gap_edges, weighing) = _owners((*_TREE_NDIMS, 2), *tree, features)
    n_nodes = order.shape[1]
    if not all(map(_check.is_permutation, order)):
        raise ValueError(f"tree.order must hold each of {n_nodes} pixels once")
    if with_edges and gap_edges.size and (gap_edges.min() < -1 or gap_edges.max() >= n_nodes):
        raise ValueError(f"tree.gap_edges must be of {n_nodes} pixels, got others")
    if with_edges and not np.array_equal(gap_edges[..., 0] < 0, gap_edges[..., 1] < 0):
        raise ValueError("tree.gap_edges must be -1 at both ends or at none, got edges with one end")
    leading = np.broadcast_shapes(owners, values.shape[:-2], np.shape(zeta))
    _, (flat,) = _owners((2,), np.broadcast_to(values, leading + values.shape[-2:]))
    scales = np.broadcast_to(zeta, leading).ravel()
    return _OverTrees(leading, flat, scales, order, gaps, gap_edges, weighing, _index(leading, owners))


def _not_finite(features: Array) -> Array:
    """Return which of features (F, N, C) hold NaN or inf: the weights that they give have no order."""
    unknown: Array = np.asarray(~np.isfinite(features).all(axis=(1, 2)))
    return unknown


def _reweighed(over: _OverTrees) -> _OverTrees:
    """Return what is propagated over the trees that the features weigh."""
    if over.features is None:
        return over
    index = np.arange(len(over.order))
    trees, _ = backend.reweighed_trees(
        backend.edges(over.gap_edges), index, over.features, backend.available_workers()
    )
    given, kept = ((edges[..., 0] >= 0).sum(1) for edges in (over.gap_edges, trees.gap_edges))
    if not np.array_equal(given, kept):
        raise ValueError("tree.gap_edges must be the edges of a tree, but some of them close a circle")
    trees.gaps[_not_finite(over.features)] = np.nan
    return over._replace(**trees._asdict())


def global_propagate(
    values: Array, tree: Sequence[Array], features: Array | None, zeta: Any, for_gradients: bool, out: Array
) -> tuple[Array, ...]:
    """Return the result (N, C) and, for gradients, z (N) along the line and a tree that features weigh."""
    over = _reweighed(_over_trees(values, tree, features, zeta, with_edges=features is not None))
    workers = backend.available_workers()
    lines = backend.recent_lines(over.order, over.gaps, workers)

    def propagate(scale: float, items: Any, out: Array, sums: Array | None = None) -> None:
        of_trees = None if sums is None else np.empty(over.order.shape, values.dtype)
        tree_index = over.tree_index[items]
        backend.global_propagate(over.values[items], out, lines, tree_index, scale, workers, of_trees)
        if sums is not None and of_trees is not None:
            sums[...] = of_trees[tree_index]

    results = [out.reshape(over.values.shape)]
    if for_gradients:
        results.append(np.empty(over.values.shape[:2], values.dtype))
    _for_scales(over.zeta, propagate, *results)
    unknown = np.isnan(over.gaps.sum(1))
    if unknown.any():
        results[0][unknown[over.tree_index]] = np.nan
    if for_gradients and features is not None:
        results += [_each(part, over.tree_index) for part in (over.order, over.gaps, over.gap_edges)]
    return _with_leading(over.leading, *results)


def global_gradients(
    grad: Array,
    of_weights: tuple[Array, Array] | None,
    sums: Array,
    tree: Sequence[Array],
    features: Array | None,
    zeta: Any,
    out: Array,
) -> tuple[Array, ...]:
    """Return dL/dvalues, dL/dfeatures (dL/dgaps where there are none) and dL/dzeta, from dL/dresult.

    of_weights are values and result; without them, dL/dvalues is all. The tree is as features weigh it.
    """
    phi, y = of_weights or (None, None)
    leading, arrays = _owners(
        (2, 2, 2, 1, *_TREE_NDIMS, 2, 0), grad, phi, y, sums, *tree, features, np.asarray(zeta)
    )
    grad, phi, y, sums, order, gaps, gap_edges, features, zeta = arrays
    sums = sums.copy()  # sweeps take them by one argument for both ways: it has to be writeable
    workers = backend.available_workers()

    def by_values(scale: float, items: Any, out: Array) -> None:
        lines, index = backend.recent_lines(order[items], gaps[items], workers), np.arange(len(out))
        backend.global_propagate(grad[items], out, lines, index, scale, workers, sums[items], True)

    def by_gaps(scale: float, items: Any, out: Array) -> None:
        backend.global_gap_gradients(
            grad[items], phi[items], y[items], order[items], gaps[items], np.arange(len(out)), scale,
            sums[items], out, workers,
        )  # fmt: skip

    of_values = out.reshape(grad.shape)
    _for_scales(zeta, by_values, of_values)
    of_values[np.isnan(gaps.sum(1))] = np.nan
    if phi is None:
        return _with_leading(leading, of_values)
    of_gaps = np.empty(gaps.shape)
    _for_scales(zeta, by_gaps, of_gaps)
    of_zeta = _zeta_gradients(of_gaps, np.where(np.isinf(gaps), 0, gaps), zeta)
    return _with_leading(leading, of_values, _weight_gradients(of_gaps, gaps, gap_edges, features), of_zeta)


def _held(gradient: Array, dtype: Any) -> Array:
    """Return a gradient that fits another type twice: inf times 0 would be NaN."""
    most = np.finfo(dtype).max / 2
    return np.clip(gradient, -most, most)


def _zeta_gradients(by_weights: Array, weights: Array, zeta: Array) -> Array:
    """Return dL/dzeta (I) of what depends on weights (I, N-1) / zeta^2 alone, from dL/dweights."""
    result: Array = -2 * (_held(by_weights, np.float64) * weights).sum(1) / zeta
    return result


def _weight_gradients(by_gaps: Array, gaps: Array, gap_edges: Array, features: Array | None) -> Array:
    """Return dL/dfeatures (I, N, C) or, where there are none, dL/dgaps, from the latter in float64."""
    by_gaps = _held(by_gaps, gaps.dtype)
    if features is None:
        return by_gaps.astype(gaps.dtype)
    result = np.empty_like(features)
    backend.feature_gradients(by_gaps, features, gap_edges, result, backend.available_workers())
    return result


class _Filter(NamedTuple):
    """Trees laid out for the tree filter, and the exponents of their affinities, one set for each item."""

    trees: Any
    exponents: Array
    missing: Array
    tree_index: NDArray[np.intp]

    def apply(self, values: Array, result: Array, sums: Array, transposed: bool) -> Array:
        """Fill and return the filtered values (I, N, C); sums (I, N) are written or, transposed, read."""
        sets = self.exponents, self.tree_index, np.arange(len(values))
        workers = backend.available_workers()
        backend.tree_filter(values, result, self.trees, *sets, 1.0, workers, sums=sums, transposed=transposed)
        result[np.isnan(self.exponents.sum(1))] = np.nan
        return result


def _filter(over: _OverTrees) -> _Filter:
    workers = backend.available_workers()
    trees = backend.rooted_trees(over.order, over.gap_edges, workers)
    missing = over.gap_edges[..., 0] < 0
    distances = over.gaps.astype(np.float64)
    if over.features is not None:
        index = np.arange(len(over.order))
        distances = backend.edge_distances(over.features, over.gap_edges, index, workers)[0].astype(
            np.float64
        )
        distances[_not_finite(over.features)] = np.nan
    distances[missing] = 0
    inverse = np.empty(len(over.zeta))

    def invert(scale: float, _: Any, out: Array) -> None:
        out[...] = _zeta.inverse(scale)

    _for_scales(over.zeta, invert, inverse)
    # One factor after the other, as the square may be beyond any number.
    exponents = distances[over.tree_index] * inverse[:, None] * inverse[:, None]
    return _Filter(trees, exponents, missing[over.tree_index], over.tree_index)


def tree_filter(
    values: Array, tree: Sequence[Array], features: Array | None, zeta: Any, out: Array
) -> tuple[Array, ...]:
    """Return the result (N, C) of the tree filter."""
    over = _over_trees(values, tree, features, zeta)
    sums = np.empty(over.values.shape[:2])
    return _with_leading(
        over.leading, _filter(over).apply(over.values, out.reshape(over.values.shape), sums, False)
    )


def tree_filter_gradients(
    grad: Array,
    of_weights: tuple[Array, Array] | None,
    tree: Sequence[Array],
    features: Array | None,
    zeta: Any,
    out: Array,
) -> tuple[Array, ...]:
    """Return the gradients that `global_gradients` returns, of the tree filter.

    Trees are laid out again, and sums computed again: to keep them would take 16 bytes per pixel.
    """
    leads = (array.shape[:-2] for array in (grad, *(of_weights or ())))
    grad = np.broadcast_to(grad, np.broadcast_shapes(*leads) + grad.shape[-2:])
    over = _over_trees(grad, tree, features, zeta)
    of, leading, index = _filter(over), over.leading, over.tree_index
    n_items, n_nodes, _ = over.values.shape
    sums = np.empty((n_items, n_nodes))
    nothing = np.empty((n_items, n_nodes, 0), grad.dtype)
    of.apply(nothing, nothing, sums, False)
    of_values = of.apply(over.values, out.reshape(over.values.shape), sums, True)
    if of_weights is None:
        return _with_leading(leading, of_values)
    phi, y = (_owners((2,), np.broadcast_to(array, leading + grad.shape[-2:]))[1][0] for array in of_weights)
    of_exponents = np.empty(of.exponents.shape)
    backend.tree_filter_gradients(
        over.values, phi, y, of.trees, of.exponents, index, np.arange(n_items), sums, of_exponents,
        backend.available_workers(),
    )  # fmt: skip
    of_exponents[of.missing] = 0
    inverse = np.minimum(1 / over.zeta, np.finfo(np.float64).max)[:, None]
    of_distances = _held(of_exponents * inverse * inverse, np.float64)
    of_zeta = _zeta_gradients(of_exponents, of.exponents, over.zeta)
    own = [_each(array, index) for array in (over.gaps, over.gap_edges, over.features)]
    return _with_leading(leading, of_values, _weight_gradients(of_distances, *own), of_zeta)


class Window(NamedTuple):
    """The options of local propagation."""

    shape: Shape
    kernel_size: int
    iterations: int


def local_propagate(
    values: Array,
    image: Array,
    mask: Array | None,
    zeta: Any,
    window: Window,
    for_gradients: bool,
    out: Array,
) -> tuple[Array, ...]:
    """Return the result (N, C) along an image (N, C') and, for gradients, W 1 (N)."""
    shape, kernel_size, iterations = window
    owners, (images, masks) = _owners((2, 1), image, mask)
    leading = np.broadcast_shapes(owners, values.shape[:-2], np.shape(zeta))
    _, (flat,) = _owners((2,), np.broadcast_to(values, leading + values.shape[-2:]))
    image_index, workers = _index(leading, owners), backend.available_workers()

    def propagate(scale: float, items: Any, out: Array, sums: Array | None = None) -> None:
        of_images = None if sums is None else np.empty(images.shape[:2], values.dtype)
        index = image_index[items]
        backend.local_propagate(
            flat[items], out, images, shape, index, masks, scale, kernel_size,
            iterations, workers, of_images,
        )  # fmt: skip
        if sums is not None and of_images is not None:
            sums[...] = of_images[index]

    results = [out.reshape(flat.shape)]
    if for_gradients:
        results.append(np.empty(flat.shape[:2], values.dtype))
    _for_scales(np.broadcast_to(zeta, leading).ravel(), propagate, *results)
    return _with_leading(leading, *results)


def local_gradients(
    grad: Array,
    values: Array | None,
    sums: Array,
    image: Array,
    mask: Array | None,
    zeta: Any,
    window: Window,
    out: Array,
) -> tuple[Array, ...]:
    """Return dL/dvalues, dL/dimage and dL/dzeta, from dL/dresult; without values, the first alone."""
    leading, arrays = _owners((2, 2, 1, 2, 1, 0), grad, values, sums, image, mask, np.asarray(zeta))
    grad, values, sums, images, masks, zeta = arrays
    shape, kernel_size, iterations = window
    workers = backend.available_workers()

    def by_values(scale: float, items: Any, out: Array) -> None:
        # (S^-1 W)^T = S (S^-1 W) S^-1: the steps back are steps forth between a division and a product.
        backend.local_propagate(
            grad[items] / sums[items, :, None], out, images[items], shape, np.arange(len(out)),
            None if masks is None else masks[items], scale, kernel_size, iterations, workers,
        )  # fmt: skip

    of_values = out.reshape(grad.shape)
    if values is None:
        _for_scales(zeta, by_values, of_values)
        return _with_leading(leading, np.multiply(of_values, sums[..., None], out=of_values))
    of_image, of_zeta = np.empty(images.shape), np.empty((len(grad), 1))
    for i in range(len(grad)):  # the backend's dL/dzeta is that of all of a call
        item = slice(i, i + 1)
        backend.local_gradients(
            grad[item], values[item], images[item], shape, np.arange(1),
            None if masks is None else masks[item],
            _validate.positive(float(zeta[i]), "zeta"), kernel_size, iterations, workers, sums[item],
            of_values[item], of_image[item], of_zeta[i],
        )  # fmt: skip
    return _with_leading(leading, of_values, of_image.astype(images.dtype), of_zeta[:, 0])
