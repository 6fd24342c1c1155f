"""Cut images into segments by embeddings, and carry labels between pixels and between segments."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aproarray import _arrays, _dispatch, _edges, _validate
from aproarray.related._pixels import BLOCK, blocks, pixels, same_pixels, unit

Array = NDArray[Any]


@_arrays.takes_dlpack
def spherical_kmeans(
    embeddings: ArrayLike,
    *,
    grid: int | tuple[int, ...] = 6,
    iterations: int = 10,
    regions: ArrayLike | None = None,
    channel_axis: int | None = -1,
    spatial_ndim: int = 2,
    check_finite: bool = True,
) -> Array:
    """Cut an image into segments of pixels whose embeddings have similar directions.

    A pixel has the vector ``e_i = normalise([phi(i) / |phi(i)|, position])``, with positions from -0.5 to 0.5
    along each axis. Clusters start as the cells of a regular grid. A step computes the mean direction of
    every cluster, ``mu_s = normalise(sum_{i in s} e_i)``, then the cluster of every pixel,
    ``z_i = argmax_s mu_s . e_i``. If regions of an over-segmentation are given, they split the clusters
    at the end.

    Parameters
    ----------
    embeddings : array_like
        phi: leading axes, spatial axes, and an axis of features.
    grid : int or tuple of int
        Cells along each axis, at most as many as pixels (paper: 6 x 6 for Pascal VOC).
    iterations : int
        Number of steps (paper: 10). 0 returns the cells.
    regions : array_like of int, optional
        An over-segmentation: an integer for each pixel, without an axis of features.
    channel_axis : int or None
        Axis of the features of `embeddings`; None: there is one feature, without an axis.
    spatial_ndim : int
        Number of spatial axes (2: images, 3: volumes).
    check_finite : bool
        Whether to look for NaN and inf.

    Returns
    -------
    array of int64
        The segment of every pixel: leading and spatial axes. The segments of each image have numbers from 0
        on, without gaps. A segment need not be connected.

    Raises
    ------
    TypeError
        An argument of the wrong kind, or arrays of more than one library.
    ValueError
        Shapes that do not fit, a grid below 1, negative iterations, NaN or inf.

    Notes
    -----
    O(N S D iterations) time for S cells. Of two equally near clusters, a pixel takes the first. A cluster
    that loses all its pixels keeps its direction. Nothing is random.

    References
    ----------
    .. [1] T.-W. Ke et al., "Universal weakly supervised segmentation by pixel-to-segment contrastive
       learning", ICLR 2021, "Pixel-to-segment contrastive learning".
    .. [2] J.-J. Hwang et al., "SegSort: Segmentation by discriminative sorting of segments", ICCV 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from aproarray.related import spherical_kmeans
    >>> embeddings = np.array([[[9.0, 0.0], [9, 1], [0, 9], [1, 9]]])
    >>> spherical_kmeans(embeddings, grid=(1, 2))
    array([[0, 0, 1, 1]])
    """
    xp = _dispatch.backend(embeddings=embeddings, regions=regions).xp
    iterations = _validate.integer(iterations, "iterations", 0)
    phi = pixels(embeddings, "embeddings", xp, channel_axis, spatial_ndim, check_finite)
    spatial, shape = phi.layout.spatial, phi.layout.leading + phi.layout.spatial
    counts = grid if isinstance(grid, tuple | list) else (grid,) * len(spatial)
    if len(counts) != len(spatial):
        raise ValueError(f"grid must have one number for each of {len(spatial)} axes, got {grid!r}")
    counts = tuple(
        min(_validate.integer(n, "grid", 1), max(extent, 1))
        for n, extent in zip(counts, spatial, strict=True)
    )
    parts = None
    if regions is not None:
        parts = _validate.integer_array(regions, "regions", shape, xp).reshape(len(phi.flat), -1)
    cells, positions = (xp.asarray(part) for part in _places(spatial, counts, phi.flat.dtype))
    n_clusters = int(np.prod(counts))
    labels: Array = xp.empty(phi.flat.shape[:2], np.int64)
    for image in range(len(phi.flat) if phi.flat.shape[1] else 0):
        e = unit(xp.concatenate([unit(phi.flat[image], xp), positions], axis=-1), xp)
        z = _kmeans(e, cells, n_clusters, iterations, xp)
        if parts is not None:
            _, part = xp.unique(parts[image], return_inverse=True)
            z = z * (int(part.max()) + 1) + part
        labels[image] = xp.unique(z, return_inverse=True)[1]
    return labels.reshape(shape)


def _places(spatial: tuple[int, ...], counts: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return the cell of a grid that each pixel lies in (N,), and its position from -0.5 to 0.5 (N, d)."""
    axes = np.indices(spatial).reshape(len(spatial), -1)
    cells, positions = [], []
    for at, count, extent in zip(axes, counts, spatial, strict=True):
        cells.append(at * count // max(extent, 1))
        positions.append(at / (extent - 1) - 0.5 if extent > 1 else 0.0 * at)
    return np.ravel_multi_index(cells, counts), np.stack(positions, axis=-1).astype(dtype)


def _kmeans(e: Array, z: Array, n_clusters: int, iterations: int, xp: Any) -> Array:
    """Return the cluster of every vector of unit length (N, D), from initial ones none of which is empty."""
    clusters, directions = xp.arange(n_clusters), xp.zeros((n_clusters, e.shape[1]), e.dtype)
    for _ in range(iterations):
        sums = xp.zeros(directions.shape, e.dtype)
        for rows in blocks(len(e), n_clusters):
            sums += (clusters[:, None] == z[rows]).astype(e.dtype) @ e[rows]
        directions = xp.where((sums != 0).any(axis=1, keepdims=True), unit(sums, xp), directions)
        z = xp.concatenate([(e[rows] @ directions.T).argmax(axis=1) for rows in blocks(len(e), n_clusters)])
    return z


@_arrays.takes_dlpack
def random_walk_propagate(
    values: ArrayLike,
    embeddings: ArrayLike,
    *,
    gamma: float = 5.0,
    beta: float = 20.0,
    normalization: Literal["rows", "columns"] = "rows",
    steps: int | None = None,
    channel_axis: int | None = -1,
    spatial_ndim: int = 2,
    check_finite: bool = True,
) -> Array:
    """Carry values from pixel to pixel by a random walk over the similarity of their embeddings.

    Each step is ``M <- T^T M``, with embeddings e of unit length and

    * rows (the paper): ``T_ij = (exp(gamma e_i . e_j) / sum_j exp(gamma e_i . e_j))^beta``, 6 steps. The sums
      of T are far from 1, and the result has any magnitude, such as 1e-100. The result of each image is
      therefore divided by its largest number.
    * columns (the authors' code): ``T_ij = exp(gamma e_i . e_j)^beta / sum_i exp(gamma e_i . e_j)^beta``, 64
      steps. Each pixel gets an average. The authors' code squares T six times for these 64 steps.

    Parameters
    ----------
    values : array_like
        M, such as class activation maps with a background: leading axes, spatial axes, and an axis of
        classes.
    embeddings : array_like
        Features of the same pixels, with any number of channels. The paper has 1/8 of the image's size.
    gamma, beta : float
        Above 0. The published numbers are 5 and 20.
    normalization : {"rows", "columns"}
        Which T to use.
    steps : int, optional
        None: 6 with rows, 64 with columns.
    channel_axis : int or None
        Axis of the channels of `values`, and of `embeddings`; None: there is none.
    spatial_ndim : int
        Number of spatial axes (2: images, 3: volumes).
    check_finite : bool
        Whether to look for NaN and inf.

    Returns
    -------
    array of the shape of `values`
        Float32 or float64; float16 for float16. With rows, numbers are from -1 to 1. A pixel's numbers may be
        too small for the dtype. They are then raised, all channels by one factor. The largest channel of
        every pixel is thus right at any magnitude.

    Raises
    ------
    TypeError
        An argument of the wrong kind, or arrays of more than one library.
    ValueError
        Shapes that do not fit, numbers out of range, NaN or inf.

    Notes
    -----
    By rows, pixels with few similar pixels count far more than others. A small group can take over the whole
    image in 6 steps. By columns, it cannot.

    O(N^2 (D + C) steps) time, and O(N (D + C)) memory beside a block of 2^24 similarities. If N^2 is larger,
    every step computes them again.

    References
    ----------
    .. [1] T.-W. Ke et al., "Universal weakly supervised segmentation by pixel-to-segment contrastive
       learning", ICLR 2021, and its code (https://github.com/twke18/SPML).
    .. [2] J. Ahn, S. Kwak, "Learning pixel-level semantic affinity with image-level supervision for weakly
       supervised semantic segmentation", CVPR 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from aproarray.related import random_walk_propagate
    >>> embeddings = np.array([[[1.0, 0.0], [1, 0.1], [0, 1], [0.1, 1]]])
    >>> random_walk_propagate(np.array([[1.0, 0, 0, 0]]), embeddings).round(3)
    array([[1.   , 0.964, 0.   , 0.   ]])
    """
    xp = _dispatch.backend(values=values, embeddings=embeddings).xp
    gamma, beta = _validate.positive(gamma, "gamma"), _validate.positive(beta, "beta")
    _validate.choice(normalization, "normalization", ("rows", "columns"))
    by_rows = normalization == "rows"
    steps = (6 if by_rows else 64) if steps is None else _validate.integer(steps, "steps", 0)
    m = pixels(values, "values", xp, channel_axis, spatial_ndim, check_finite)
    phi = pixels(embeddings, "embeddings", xp, channel_axis, spatial_ndim, check_finite)
    same_pixels(m, phi, "values", "embeddings")
    if not m.flat.size:
        return m.restore(m.flat.copy(), xp)
    dtype = _validate.compute_dtype(m.flat.dtype, phi.flat.dtype)
    # The largest exponent, twice: similarities, and the sums of a row, at every step.
    largest = 2 * beta * (gamma + math.log(m.flat.shape[1])) * max(steps, 1)
    if not largest < float(np.finfo(dtype).max):
        raise ValueError(f"gamma={gamma!r} and beta={beta!r} are too large: exponents overflow {dtype}")
    result = xp.empty(m.flat.shape, m.flat.dtype)
    walk = _walk_by_rows if by_rows else _walk_by_columns
    for image, (one, of_pixels) in enumerate(zip(m.flat, phi.flat, strict=True)):
        e = unit(of_pixels, xp).astype(dtype, copy=False)
        result[image] = walk(one.astype(dtype, copy=False), e, gamma, beta, steps, xp)
    return m.restore(result, xp)


def _walk_by_rows(m: Array, e: Array, gamma: float, beta: float, steps: int, xp: Any) -> Array:
    """Return M after some steps, divided by its largest number; magnitudes are kept apart, as logarithms."""
    n = len(e)
    of_rows = xp.empty(n, e.dtype)  # log of the sums over rows
    for rows in blocks(n, n):
        exponents = gamma * (e[rows] @ e.T)
        top = exponents.max(axis=1, keepdims=True)
        of_rows[rows] = xp.log(xp.exp(exponents - top).sum(axis=1)) + top[:, 0]
    m, log_scale = _apart(m, xp.zeros(n, e.dtype), xp)
    for _ in range(steps):
        log_scale = log_scale - beta * of_rows
        walked, log_walked = xp.empty(m.shape, m.dtype), xp.empty(n, e.dtype)
        for rows in blocks(n, n):
            exponents = (gamma * beta) * (e[rows] @ e.T)
            exponents += log_scale
            top = exponents.max(axis=1, keepdims=True)
            top = xp.where(xp.isfinite(top), top, 0)  # nothing anywhere
            exponents -= top
            walked[rows] = xp.exp(exponents) @ m
            log_walked[rows] = top[:, 0]
        m, log_scale = _apart(walked, log_walked, xp)
    highest = log_scale.max()
    # Magnitudes that the dtype cannot hold beside the largest one: see Returns.
    lowest = np.log(np.finfo(e.dtype).tiny) / 2
    relative: Array = xp.maximum(log_scale - xp.where(xp.isfinite(highest), highest, 0), lowest)
    result: Array = m * xp.exp(relative)[:, None]
    return result


def _apart(m: Array, log_scale: Array, xp: Any) -> tuple[Array, Array]:
    """Return M with rows of magnitude 1, and the logarithms of the rows' factors."""
    largest = abs(m).max(axis=1)
    there = largest > 0
    factor = xp.where(there, largest, 1)
    return m / factor[:, None], xp.where(there, log_scale + xp.log(factor), -np.inf)


def _walk_by_columns(m: Array, e: Array, gamma: float, beta: float, steps: int, xp: Any) -> Array:
    """Return M after some steps of averaging."""
    n = len(e)

    def weights(rows: slice) -> Array:
        exponents = (gamma * beta) * (e[rows] @ e.T)
        exponents -= exponents.max(axis=1, keepdims=True)
        shares: Array = xp.exp(exponents)
        shares /= shares.sum(axis=1, keepdims=True)
        return shares

    kept = weights(slice(0, n)) if n * n <= BLOCK else None
    for _ in range(steps):
        m = xp.concatenate([(weights(rows) if kept is None else kept) @ m for rows in blocks(n, n)])
    return m


@_arrays.takes_dlpack
def nearest_neighbor_labels(
    embeddings: ArrayLike,
    bank: ArrayLike,
    bank_labels: ArrayLike,
    *,
    k: int = 20,
    images: ArrayLike | None = None,
    bank_images: ArrayLike | None = None,
    ignore_index: int = 255,
    check_finite: bool = True,
) -> Array:
    """Give segments the majority label of the most similar labelled segments.

    Similarity is the cosine of embeddings. The `k` most similar labelled segments vote. They come from the
    same image if images are given, and from the whole memory bank otherwise.

    Parameters
    ----------
    embeddings : (Q, D) array_like
        Embeddings of the segments to label, such as their mean directions.
    bank : (R, D) array_like
        Embeddings of segments that may be labelled.
    bank_labels : (R,) array_like of int
        Labels of the bank: not negative, or `ignore_index` for a segment that takes no part.
    k : int
        Number of segments that vote (paper: 20), at most as many as are labelled.
    images, bank_images : (Q,) and (R,) array_like of int, optional
        The image of each segment: both arrays or none. Votes are then counted within an image.
    ignore_index : int
        Label of unlabelled segments.
    check_finite : bool
        Whether to look for NaN and inf.

    Returns
    -------
    (Q,) array of int64
        Labels; `ignore_index` where no segment votes.

    Raises
    ------
    TypeError
        An argument of the wrong kind, or arrays of more than one library.
    ValueError
        Shapes that do not fit, k below 1, negative labels, NaN or inf.

    Notes
    -----
    O(Q R (D + classes)) time, and O(Q + R) memory beside a block of 2^24 similarities. Of equally similar
    segments, the first ones vote. Of labels with equally many votes, the smallest wins.

    References
    ----------
    .. [1] T.-W. Ke et al., "Universal weakly supervised segmentation by pixel-to-segment contrastive
       learning", ICLR 2021, "Semantic segmentation by nearest neighbor retrievals".

    Examples
    --------
    >>> from aproarray.related import nearest_neighbor_labels
    >>> bank, labels = [[1.0, 0.0], [1, 1], [0, 1]], [4, 255, 7]
    >>> nearest_neighbor_labels([[3.0, 1.0], [1, 2]], bank, labels, k=1)
    array([4, 7])
    """
    xp = _dispatch.backend(
        embeddings=embeddings, bank=bank, bank_labels=bank_labels, images=images, bank_images=bank_images
    ).xp
    k = _validate.integer(k, "k", 1)
    ignore_index = _validate.label(ignore_index, "ignore_index")
    check_finite = _validate.flag(check_finite, "check_finite")
    queries, references = (
        _validate.real_array(array, name, xp) for array, name in ((embeddings, "embeddings"), (bank, "bank"))
    )
    for array, name in ((queries, "embeddings"), (references, "bank")):
        if array.ndim != 2:
            raise ValueError(f"{name} must have shape (segments, features), got {array.shape}")
        if check_finite:
            _validate.finite(array[None], name)
    if queries.shape[1] != references.shape[1]:
        raise ValueError(
            f"embeddings and bank must have the same features, got shapes {queries.shape} and "
            f"{references.shape}"
        )
    labels = _validate.integer_array(bank_labels, "bank_labels", (len(references),), xp)
    if (images is None) != (bank_images is None):
        raise ValueError("images and bank_images go together, got one of them")
    if images is not None:
        images = _validate.integer_array(images, "images", (len(queries),), xp)
        bank_images = _validate.integer_array(bank_images, "bank_images", (len(references),), xp)  # type: ignore[arg-type]

    labelled = labels != ignore_index
    references, labels = references[labelled], labels[labelled]
    image_index = None if bank_images is None else xp.asarray(bank_images)[labelled]
    if labels.size and labels.min() < 0:
        raise ValueError(f"bank_labels must not be negative, got {int(labels.min())}")
    result: Array = xp.full(len(queries), ignore_index, np.int64)
    if not labels.size or not result.size:
        return result
    dtype = _validate.compute_dtype(queries.dtype, references.dtype)
    queries, references = (unit(array.astype(dtype), xp) for array in (queries, references))
    classes, class_of = xp.unique(labels, return_inverse=True)
    is_of_class = (class_of[:, None] == xp.arange(len(classes))).astype(dtype)
    k = min(k, len(labels))
    for rows in blocks(len(queries), len(labels)):
        similarity = queries[rows] @ references.T
        if image_index is not None:
            similarity = xp.where(xp.asarray(images)[rows, None] == image_index, similarity, -np.inf)
        # The last one in; of those as similar as it is, the first ones.
        least = xp.partition(similarity, len(labels) - k, axis=1)[:, len(labels) - k, None]
        votes = similarity > least
        tied = similarity == least
        votes |= tied & (xp.cumsum(tied, axis=1) <= k - votes.sum(axis=1, keepdims=True))
        votes &= similarity > -np.inf
        counts = votes.astype(dtype) @ is_of_class
        winner = classes[counts.argmax(axis=1)]
        result[rows] = xp.where(counts.max(axis=1) > 0, winner, ignore_index)
    return result


@_arrays.takes_dlpack
def keypoints_to_regions(
    keypoints: ArrayLike,
    labels: ArrayLike,
    sizes: ArrayLike,
    shape: tuple[int, ...],
    *,
    spread: float = 0.1,
    labeled: float = 0.5,
    background: float = 0.1,
    ignore_index: int = 255,
) -> Array:
    """Turn keypoints into labelled regions, each with an unlabelled band around it.

    A keypoint has the weight ``g_k(x) = exp(-|x - x_k|^2 / (2 s_k^2))``, ``s_k = spread * sizes_k``. The
    keypoint with the largest g decides about a pixel. If g is at least `labeled`, the pixel gets the
    keypoint's label. Otherwise, if g is at least `background`, the pixel stays unlabelled. All other pixels
    are background.

    Parameters
    ----------
    keypoints : (K, d) array_like
        Coordinates (row, column). Pixel centres are integers. Keypoints may lie outside the image.
    labels : (K,) array_like of int
        Label of each keypoint, such as a part of the body. 0 is the background.
    sizes : float or (K,) array_like
        Extent in pixels of the instance that a keypoint belongs to, above 0, such as the square root of its
        box's area.
    shape : tuple of int
        Spatial shape of the image.
    spread : float
        Standard deviation of g, as a part of the instance's size.
    labeled, background : float
        Thresholds, ``0 < background <= labeled <= 1``.
    ignore_index : int
        Label of unlabelled pixels.

    Returns
    -------
    array of int64
        Labels, of shape `shape`.

    Raises
    ------
    TypeError
        An argument of the wrong kind, or arrays of more than one library.
    ValueError
        Shapes that do not fit, sizes, spread or thresholds out of range, NaN or inf.

    Notes
    -----
    O(N K) time and O(N) memory. Of two equally near keypoints, the first decides. The paper gives no `spread`
    and no thresholds: these are this library's choice.

    References
    ----------
    .. [1] T.-W. Ke et al., "Universal weakly supervised segmentation by pixel-to-segment contrastive
       learning", ICLR 2021, experiments on DensePose.

    Examples
    --------
    >>> from aproarray.related import keypoints_to_regions
    >>> keypoints_to_regions([[0, 1]], [3], 10, (1, 6))
    array([[  3,   3,   3, 255,   0,   0]])
    """
    xp = _dispatch.backend(keypoints=keypoints, labels=labels).xp
    spread = _validate.positive(spread, "spread")
    ignore_index = _validate.label(ignore_index, "ignore_index")
    thresholds = [
        _validate.real_number(labeled, "labeled"),
        _validate.real_number(background, "background"),
    ]
    if not 0 < thresholds[1] <= thresholds[0] <= 1:
        raise ValueError(
            f"thresholds must be 0 < background <= labeled <= 1, got {thresholds[1]} and {thresholds[0]}"
        )
    if not isinstance(shape, tuple | list) or not 1 <= len(shape) <= _edges.MAX_NDIM:
        raise ValueError(f"shape must be a tuple of 1 to {_edges.MAX_NDIM} extents, got {shape!r}")
    shape = tuple(_validate.integer(extent, f"shape[{axis}]", 0) for axis, extent in enumerate(shape))
    points = _validate.real_array(_arrays.on_host(keypoints), "keypoints").astype(np.float64)
    if points.size == 0:
        points = points.reshape(0, len(shape))
    if points.ndim != 2 or points.shape[1] != len(shape):
        raise ValueError(f"keypoints must have shape (K, {len(shape)}), got {points.shape}")
    _validate.finite(points[None], "keypoints")
    classes = _validate.integer_array(_arrays.on_host(labels), "labels", (len(points),))
    extents = _validate.real_array(_arrays.on_host(sizes), "sizes")
    if extents.shape not in ((), (len(points),)):
        raise ValueError(f"sizes must be a number or have shape ({len(points)},), got shape {extents.shape}")
    if not (np.isfinite(extents) & (extents > 0)).all():
        raise ValueError(f"sizes must be finite and above 0, got {extents.min()} to {extents.max()}")
    with np.errstate(over="ignore"):
        deviations = spread * np.broadcast_to(extents.astype(np.float64), len(points))
    deviations = np.maximum(deviations, np.finfo(np.float64).tiny)  # a product of small numbers may be 0

    nearest: Array = xp.full(shape, np.inf)
    result: Array = xp.zeros(shape, np.int64)
    axes = [
        xp.asarray(np.arange(extent, dtype=np.float64).reshape(-1, *(1,) * (len(shape) - 1 - axis)))
        for axis, extent in enumerate(shape)
    ]
    for point, class_, deviation in zip(points.tolist(), classes.tolist(), deviations.tolist(), strict=True):
        with np.errstate(over="ignore"):
            distance = sum(((at - x) / deviation) ** 2 for at, x in zip(axes, point, strict=True)) / 2
        nearer = distance < nearest
        nearest, result = xp.where(nearer, distance, nearest), xp.where(nearer, class_, result)
    result = xp.where(xp.exp(-nearest) >= thresholds[0], result, ignore_index)
    result = xp.where(xp.exp(-nearest) >= thresholds[1], result, 0)
    return result.astype(np.int64, copy=False)
