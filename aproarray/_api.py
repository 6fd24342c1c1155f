"""The verbs: check the arguments, choose the backend, lay the axes out and put them back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, Required, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aproarray import _arrays, _calls, _dispatch, _edges, _validate
from aproarray._arrays import DaskArray, ForeignArray
from aproarray._tree import SpanningTree, lines_of, masks_of, reweigh, trusted_tree

if TYPE_CHECKING:
    import dask.array

    from aproarray.chunked import ChunkedTree

Array = NDArray[Any]


class _TreeOptions(TypedDict, total=False):
    """The options of `mst`, for its overloads."""

    channel_axis: int | Literal["auto"] | None
    spatial_ndim: int
    connectivity: int
    mask: ArrayLike | DaskArray | None
    workers: int | None
    check_finite: bool


@overload
def mst(image: DaskArray, **options: Unpack[_TreeOptions]) -> ChunkedTree: ...
@overload
def mst(image: ArrayLike, **options: Unpack[_TreeOptions]) -> SpanningTree: ...


# They bring arrays of dask and of other libraries in.
@_dispatch.takes_dask  # type: ignore[misc]
@_arrays.takes_dlpack
def mst(
    image: ArrayLike,
    *,
    channel_axis: int | Literal["auto"] | None = "auto",
    spatial_ndim: int = 2,
    connectivity: int = 1,
    mask: ArrayLike | None = None,
    workers: int | None = None,
    check_finite: bool = True,
) -> SpanningTree:
    """Return the minimum spanning tree of an image, laid out for `global_propagate`.

    Pixels are nodes, neighbouring pixels share an edge of weight ``w_kl = |I_k - I_l|^2`` (squared
    Euclidean distance over the channels, no square root).

    Parameters
    ----------
    image : array_like
        Bool, integer or float16/32/64, never rescaled: spatial axes, optionally channels, optionally
        leading batch axes. An image of just `spatial_ndim` axes is grey.
    channel_axis : int, None or "auto"
        Axis of the channels; None: all axes are spatial or leading. "auto": the last one, where there are
        more axes than `spatial_ndim`. An axis of more than 4 is not taken for channels unasked: the error
        names the readings.
    spatial_ndim : int
        Number of spatial axes (2: images, 3: volumes), the last ones beside the channels.
    connectivity : int
        Neighbours are at most this many orthogonal hops apart: 1 (4 in 2-D, 6 in 3-D) to `spatial_ndim`.
    mask : array_like of bool, optional
        True where a pixel takes part: of the spatial shape, or with the image's leading axes. Gives a
        minimum spanning forest. NaN is allowed where it is False.
    workers : int or None
        Threads (None: the CPUs this process may use). The result does not depend on it.
    check_finite : bool
        Whether to look for NaN and inf. Without it the tree of such an image is undefined.

    Returns
    -------
    SpanningTree
        Of the image's spatial shape, its `batch_shape` the leading axes. Its weights are float32 for
        images of up to 16 bits and float32, float64 above. Those of 64-bit integers come from exact
        differences, if a channel's range is at most 2^53; integers of a wider range are rounded to float64.

    Raises
    ------
    TypeError
        An image, mask or option of the wrong kind.
    ValueError
        Axes that do not fit, connectivity out of range, NaN or inf, or differences too large to square.
    MemoryError
        The image is too large.

    Notes
    -----
    Time is O(N) for the sort (radix) and O(N a(N)) for the union-find, N pixels. Ties are ordered by
    (weight, u, v), so that the tree is the same on every backend, bit for bit; a weight below the
    smallest normal number is 0.

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023,
       "Global affinity propagation".

    Examples
    --------
    >>> import numpy as np
    >>> import aproarray
    >>> tree = aproarray.mst(np.array([[0.0, 1.0], [3.0, 2.0]]))
    >>> tree.edges.tolist(), tree.weights.tolist()
    ([[0, 1], [1, 3], [2, 3]], [1.0, 1.0, 1.0])
    """
    check_finite = _validate.flag(check_finite, "check_finite")
    backend = _dispatch.backend(image=image, mask=mask)
    xp = backend.xp
    image = _validate.real_array(image, "image", xp)
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM)
    connectivity = _validate.integer(connectivity, "connectivity", 1, spatial_ndim)
    layout = _validate.image_layout(image.shape, spatial_ndim, channel_axis)
    takes_part = _validate.mask(mask, layout.leading, layout.spatial, f"an image of shape {image.shape}", xp)
    threads = _validate.workers(workers, backend.available_workers())
    flat = xp.ascontiguousarray(_validate.as_floats(layout.flatten(image), takes_part, xp))
    if check_finite and image.dtype.kind == "f":
        _validate.finite(flat, "image", takes_part, _validate.BY_MASK)
    trees, weights_finite = backend.grid_trees(flat, layout.spatial, connectivity, takes_part, threads)
    if check_finite:
        _validate.no_overflow(weights_finite, "image", flat.dtype)
    order, gaps, gap_edges = trees.with_leading(layout.leading)
    tree_mask = None if takes_part is None else takes_part.reshape(xp.asarray(mask).shape).copy()
    return trusted_tree(layout.spatial, order, gaps, gap_edges, tree_mask)


class _GlobalOptions(TypedDict, total=False):
    """The options of `global_propagate`, for its overloads."""

    zeta: Required[float | ArrayLike]
    features: ArrayLike | None
    tree_index: ArrayLike | None
    channel_axis: int | None
    workers: int | None
    out: Any
    check_finite: bool


@overload
def global_propagate(
    values: ArrayLike | DaskArray, tree: ChunkedTree, **options: Unpack[_GlobalOptions]
) -> dask.array.Array: ...
@overload
def global_propagate(values: Array, tree: SpanningTree, **options: Unpack[_GlobalOptions]) -> Array: ...
@overload
def global_propagate(
    values: ForeignArray, tree: SpanningTree, **options: Unpack[_GlobalOptions]
) -> ForeignArray: ...
@overload
def global_propagate(values: ArrayLike, tree: SpanningTree, **options: Unpack[_GlobalOptions]) -> Array: ...


# They bring arrays of dask and of other libraries in and out.
@_dispatch.takes_dask  # type: ignore[misc]
@_arrays.takes_dlpack(gradients="aproarray.torch.global_propagate")
def global_propagate(
    values: ArrayLike,
    tree: SpanningTree,
    *,
    zeta: float | ArrayLike,
    features: ArrayLike | None = None,
    tree_index: ArrayLike | None = None,
    channel_axis: int | None = -1,
    workers: int | None = None,
    out: Any = None,
    check_finite: bool = True,
) -> Any:
    """Average values over all pixels, each weighted by how alike the tree says they are.

    ``y_i = sum_j K_ij phi_j / sum_j K_ij`` with ``K_ij = exp(-d_ij / zeta^2)``, d_ij being the largest
    edge weight on the tree's path from i to j, and K_ij = 0 between the components of a forest.

    Parameters
    ----------
    values : array_like
        phi: the tree's spatial axes, optionally channels, optionally leading axes, which begin with the
        tree's own: each of them may hold any number of arrays that share a tree. Values of
        exactly the tree's shape (its batch's, then its spatial) are one channel, whatever `channel_axis`
        says. They are neither normalised nor clipped.
    tree : SpanningTree
        From `mst` or `SpanningTree.from_edges`.
    zeta : float or sequence of float
        Scale, above 0, in the image's units: weights are squared differences, so that a step of zeta has
        affinity 1/e. The published 0.01 is for images normalised by the ImageNet mean and standard
        deviation; the same is 0.0023 for images in [0, 1] and 0.58 for 0..255. A sequence puts one result
        per zeta along a new first axis.
    features : array_like, optional
        Weigh the tree's edges by ``|f_u - f_v|^2`` of these instead of the image's (the paper's semantic
        affinity). Laid out as values; leading axes begin with the tree's and values' begin with theirs.
    tree_index : (K,) array_like of int, optional
        For each of K masks (values' first axis) which of the tree's B batch items it is propagated
        over. `features` then are one per mask.
    channel_axis : int or None
        Axis of the channels of `values`, and of `features`; None: there is none.
    workers : int or None
        Threads (None: the CPUs this process may use). The result does not depend on it.
    out : array, optional
        Where to write the result. It may be `values` itself.
    check_finite : bool
        Whether to look for NaN and inf in values and features. A NaN spreads over its whole component.

    Returns
    -------
    array of values' shape
        Float32 for values of up to 16 bits and float32, float64 above; float16 for float16, which is
        computed in float32. Pixels that the tree's mask leaves out come back as they went in.

    Raises
    ------
    TypeError
        An argument of the wrong kind, or arrays of more than one library.
    ValueError
        Shapes that do not fit (a tree of another image, say), zeta not above 0, NaN or inf, or values whose
        sums overflow.

    Notes
    -----
    O(N C) time, two sweeps over the tree's line for 32 channels at a time; sums are kept in float64. A
    thread needs 12 (float32) or 16 (float64) bytes per pixel beyond input and output, up to 192 or 384 more
    where the channels of a pixel do not lie side by side, and a small stack (tens of entries on photographs).

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023,
       "Global affinity propagation" and Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import aproarray
    >>> tree = aproarray.mst(np.array([[0.0, 0.1, 5.0, 5.1]]))
    >>> aproarray.global_propagate(np.array([[1.0, 0, 0, 0]]), tree, zeta=1.0).round(3)
    array([[0.502, 0.498, 0.   , 0.   ]])
    """
    check_finite = _validate.flag(check_finite, "check_finite")
    over = _calls.over_trees(values, tree, features, tree_index, channel_axis, out)
    backend, xp, values, layout, leading, tree_index = over
    zetas, several = _validate.positives(zeta, "zeta")
    threads = _validate.workers(workers, backend.available_workers())
    if features is not None:
        tree = reweigh(tree, features, leading, channel_axis, workers, check_finite, tree_index)
        _calls.check_features_lead(tree.batch_shape, layout)
        leading, tree_index = tree.batch_shape, np.arange(math.prod(tree.batch_shape))
    tree_index = np.repeat(tree_index, math.prod(layout.leading[len(leading) :]))

    dtype = _validate.compute_dtype(values.dtype)
    flat = layout.flatten(values).astype(dtype, copy=False)
    # Before the numbers are looked at: what is too large should say so at once.
    result = _calls.Result(xp, values, layout, dtype, len(zetas) if several else None, out)
    if check_finite and out is not None:  # a call that fails leaves that as it was
        _validate.finite(flat, "values", masks_of(tree, tree_index), _validate.BY_TREE)
    lines, all_finite = lines_of(tree, threads), len(zetas) > 0
    for k, one_zeta in enumerate(zetas):
        means_finite = backend.global_propagate(flat, result.flat[k], lines, tree_index, one_zeta, threads)
        all_finite = all_finite and means_finite
    if check_finite and not all_finite:  # every value is part of a mean: where means are finite, values are
        masks = masks_of(tree, tree_index)
        if out is None:
            _validate.finite(flat, "values", masks, _validate.BY_TREE)
        for means in result.flat:
            _validate.finite_means(means, "values", masks)
    return result.finish()


class _LocalOptions(TypedDict, total=False):
    """The options of `local_propagate`, for its overloads."""

    zeta: Required[float]
    kernel_size: int
    iterations: int
    mask: ArrayLike | DaskArray | None
    channel_axis: int | Literal["auto"] | None
    image_channel_axis: int | Literal["auto"] | None
    spatial_ndim: int
    workers: int | None
    out: Any
    check_finite: bool


@overload
def local_propagate(
    values: ArrayLike | DaskArray, image: DaskArray, **options: Unpack[_LocalOptions]
) -> dask.array.Array: ...
@overload
def local_propagate(
    values: DaskArray, image: ArrayLike, **options: Unpack[_LocalOptions]
) -> dask.array.Array: ...
@overload
def local_propagate(values: Array, image: ArrayLike, **options: Unpack[_LocalOptions]) -> Array: ...
@overload
def local_propagate(
    values: ForeignArray, image: ForeignArray | ArrayLike, **options: Unpack[_LocalOptions]
) -> ForeignArray: ...
@overload
def local_propagate(values: ArrayLike, image: ArrayLike, **options: Unpack[_LocalOptions]) -> Array: ...


# They bring arrays of dask and of other libraries in and out.
@_dispatch.takes_dask  # type: ignore[misc]
@_arrays.takes_dlpack(gradients="aproarray.torch.local_propagate")
def local_propagate(
    values: ArrayLike,
    image: ArrayLike,
    *,
    zeta: float,
    kernel_size: int = 5,
    iterations: int = 20,
    mask: ArrayLike | None = None,
    channel_axis: int | Literal["auto"] | None = "auto",
    image_channel_axis: int | Literal["auto"] | None = "auto",
    spatial_ndim: int = 2,
    workers: int | None = None,
    out: Any = None,
    check_finite: bool = True,
) -> Any:
    """Average values over a small window, weighted by likeness to its centre, again and again.

    ``phi_i <- sum_j W_ij phi_j / sum_j W_ij`` with ``W_ij = exp(-|I_i - I_j|^2 / zeta^2)`` over the window
    around i, its centre included. Pixels outside the image or the mask take no part.

    Parameters
    ----------
    values : array_like
        phi: the image's spatial axes, optionally channels, optionally leading axes, which begin with the
        image's own. Values of exactly the image's shape without its channels are one channel.
    image : array_like
        Bool, integer or float16/32/64, never rescaled: spatial axes, optionally channels, leading axes.
    zeta : float
        Scale, above 0, in the image's units: two pixels a step of zeta apart have affinity 1/e. The
        published 0.15 is for images normalised by the ImageNet mean and standard deviation; the same is 0.034
        for images in [0, 1] and 8.6 for 0..255. Larger values smooth more.
    kernel_size : int
        Pixels along each axis of the window, odd (paper: 5 for Pascal VOC, 3 for COCO).
    iterations : int
        Number of steps (paper: 20); 0 returns the values.
    mask : array_like of bool, optional
        True where a pixel takes part: of the spatial shape, or with the image's leading axes.
    channel_axis : int, None or "auto"
        Axis of the channels of `values`; None: there is none. "auto": the last one.
    image_channel_axis : int, None or "auto"
        Axis of the channels of `image`. "auto": the same as `channel_axis`; where that is "auto" too, the
        last one, as in `mst`.
    spatial_ndim : int
        Number of spatial axes (2: images, 3: volumes).
    workers : int or None
        Threads (None: the CPUs this process may use). The result does not depend on it.
    out : array, optional
        Where to write the result. It may be `values` itself.
    check_finite : bool
        Whether to look for NaN and inf in values and image.

    Returns
    -------
    array of values' shape
        Dtypes as in `global_propagate`. Pixels that the mask leaves out come back as they went in.

    Raises
    ------
    TypeError
        An argument of the wrong kind, or arrays of more than one library.
    ValueError
        Shapes that do not fit, zeta not above 0, an even kernel_size, negative iterations, NaN or inf, or
        values whose sums overflow.

    Notes
    -----
    O(N C k^d iterations) time for windows of k pixels along d axes. W is symmetric: each weight is
    computed once per pass over the image and used for both pixels. A pass takes several iterations, and
    keeps a few rows of each, whatever the height of the image.

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023,
       "Local affinity propagation".

    Examples
    --------
    >>> import numpy as np
    >>> import aproarray
    >>> image = np.array([[0.0, 0.0, 1.0, 1.0]])
    >>> seeds = np.array([[1.0, 0.0, 0.0, 0.0]])
    >>> aproarray.local_propagate(seeds, image, zeta=0.15, kernel_size=3).round(3)
    array([[0.5, 0.5, 0. , 0. ]])
    """
    zeta = _validate.positive(zeta, "zeta")
    kernel_size = _validate.odd(kernel_size, "kernel_size")
    iterations = _validate.integer(iterations, "iterations", 0)
    check_finite = _validate.flag(check_finite, "check_finite")
    over = _calls.over_windows(
        values, image, mask, (channel_axis, image_channel_axis), spatial_ndim, workers, out
    )
    backend, threads, takes_part = over.backend, over.threads, over.takes_part
    result = _calls.Result(backend.xp, over.values, over.layout, over.flat.dtype, None, out, over.image, mask)
    if check_finite:
        over.check_finite(_validate.BY_MASK)
    flat, images, shape, image_index = over.flat, over.images, over.layout.spatial, over.image_index
    if iterations and kernel_size > 1:
        backend.local_propagate(
            flat, result.flat[0], images, shape, image_index, takes_part,
            zeta, kernel_size, iterations, threads,
        )  # fmt: skip
        if check_finite:
            _validate.finite_means(result.flat[0], "values", over.masks_of_items())
    else:
        result.flat[0][...] = flat
    return result.finish()
