"""Methods on windows: mean-field inference of a CRF, pixel-adaptive refinement, pairwise affinities."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aproarray import _arrays, _calls, _dispatch, _edges, _validate
from aproarray._backend import Backend

Array = NDArray[Any]


@_arrays.takes_dlpack
def mean_field(
    values: ArrayLike,
    image: ArrayLike,
    *,
    region: ArrayLike | None = None,
    zeta: float,
    kernel_size: int = 3,
    iterations: int = 100,
    mask: ArrayLike | None = None,
    channel_axis: int | Literal["auto"] | None = "auto",
    image_channel_axis: int | Literal["auto"] | None = "auto",
    spatial_ndim: int = 2,
    workers: int | None = None,
    out: Array | None = None,
    check_finite: bool = True,
) -> Array:
    """Refine masks by mean-field inference of a CRF whose pairwise terms reach over a small window.

    Each mask has a foreground p and a background 1 - p, clipped to [0.1, 0.9]. A step does this:

    1. ``q_i <- exp(sum_j K_ij log q_j)`` for both, with ``K_ij = exp(-|I_i - I_j|^2 / (2 zeta^2))`` over the
       window around i, its centre included.
    2. Multiply the foreground by the box.
    3. Divide both by their sum (plus 1e-6), and clip them to [0.1, 0.9] again.

    Parameters
    ----------
    values : array_like
        Foreground probabilities p, in [0, 1], of one mask per channel, over the image's pixels; see
        `aproarray.local_propagate`.
    image, mask, channel_axis, image_channel_axis, spatial_ndim, workers, out, check_finite
        As in `aproarray.local_propagate`.
    region : array_like, optional
        1 or True inside each mask's box, of values' shape (None: everywhere).
    zeta : float
        Scale, above 0, in the image's units (paper: 0.1). Note the 2 beside its square.
    kernel_size : int
        Pixels along each axis of the window, odd (paper: 3).
    iterations : int
        Number of steps (paper: 100). The paper's mask is where the result is above 0.5.

    Returns
    -------
    array of values' shape
        Foreground probabilities in [0.1, 0.9]. Dtypes as in `aproarray.global_propagate`. Pixels outside the
        mask keep their values.

    Raises
    ------
    TypeError
        An argument of the wrong kind, or arrays of more than one library.
    ValueError
        Shapes that do not fit, values or region outside of [0, 1], zeta not above 0, an even kernel_size,
        negative iterations, NaN or inf.

    Notes
    -----
    O(N C k^d iterations) time. A step is one step of `aproarray.local_propagate`, without its division by the
    sum of the weights, over two channels for each mask.

    References
    ----------
    .. [1] S. Lan et al., "Vision transformers are good mask auto-labelers", CVPR 2023, the
       conditional random field.

    Examples
    --------
    >>> import numpy as np
    >>> from aproarray.related import mean_field
    >>> image = np.array([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
    >>> mean_field(np.array([[0.8, 0.6, 0.4, 0.4, 0.4, 0.2]]), image, zeta=0.1).round(3)
    array([[0.9, 0.9, 0.9, 0.1, 0.1, 0.1]])
    """
    zeta = _validate.positive(zeta, "zeta")
    kernel_size = _validate.odd(kernel_size, "kernel_size")
    iterations = _validate.integer(iterations, "iterations", 0)
    check_finite = _validate.flag(check_finite, "check_finite")
    over = _calls.over_windows(
        values, image, mask, (channel_axis, image_channel_axis), spatial_ndim, workers, out, region=region
    )
    backend, flat = over.backend, over.flat
    inside = None
    if region is not None:
        region = _validate.real_array(region, "region", backend.xp)
        if region.shape != over.values.shape:
            raise ValueError(f"region must have values' shape {over.values.shape}, got {region.shape}")
        inside = over.layout.flatten(region).astype(flat.dtype, copy=False)
    result = _calls.Result(
        backend.xp, over.values, over.layout, flat.dtype, None, out, over.image, mask, region
    )
    masks = over.masks_of_items()
    if check_finite:
        over.check_finite(_validate.BY_MASK)
        _in_unit_interval(flat, "values", masks, backend.xp)
        if inside is not None:
            _in_unit_interval(inside, "region", masks, backend.xp)
    refined = mean_field_steps(
        backend, flat, inside, over.images, over.layout.spatial, over.image_index, over.takes_part, zeta,
        kernel_size, iterations, over.threads,
    )  # fmt: skip
    result.flat[0][...] = refined if masks is None else backend.xp.where(masks[..., None], refined, flat)
    return result.finish()


def mean_field_steps(
    backend: Backend,
    values: Array,
    region: Array | None,
    images: Array,
    shape: tuple[int, ...],
    image_index: Array,
    masks: Array | None,
    zeta: float,
    kernel_size: int,
    iterations: int,
    workers: int,
) -> Array:
    """Return `mean_field` of values (I, N, C) in regions (I, N, C), by a backend's local_propagate."""
    xp = backend.xp  # whose arrays take NumPy's ufuncs
    n_channels = values.shape[2]
    # Foregrounds, then backgrounds.
    q: Array = xp.empty((*values.shape[:2], 2 * n_channels), values.dtype)
    q[..., :n_channels], q[..., n_channels:] = values, 1 - values
    q = np.minimum(np.maximum(q, 0.1), 0.9)
    if q.size == 0:
        return q[..., :n_channels]
    means, sums = xp.empty_like(q), xp.empty(images.shape[:2], values.dtype)
    on_device = xp.asarray(image_index)
    for _ in range(iterations):
        backend.local_propagate(
            np.log(q),
            means,
            images,
            shape,
            image_index,
            masks,
            zeta * math.sqrt(2),
            kernel_size,
            1,
            workers,
            sums,
        )
        q = np.exp(means * sums[on_device][..., None])
        if region is not None:
            q[..., :n_channels] *= region
        both = q[..., :n_channels] + q[..., n_channels:] + values.dtype.type(1e-6)
        q[..., :n_channels] /= both
        q[..., n_channels:] /= both
        q = np.minimum(np.maximum(q, 0.1), 0.9)
    return q[..., :n_channels]


@_arrays.takes_dlpack
def pamr(
    values: ArrayLike,
    image: ArrayLike,
    *,
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24),
    iterations: int = 10,
    channel_axis: int | Literal["auto"] | None = "auto",
    image_channel_axis: int | Literal["auto"] | None = "auto",
    spatial_ndim: int = 2,
    workers: int | None = None,
    out: Array | None = None,
    check_finite: bool = True,
) -> Array:
    """Refine scores by pixel-adaptive averages over dilated windows (PAMR).

    A step is ``phi_i <- sum_j a_ij phi_j`` over the neighbours j of i. Every dilation has a window of three
    pixels along each axis, and its pixels without the centre are neighbours. The weights are
    ``a_i = softmax_j(mean_c(-|I_ic - I_jc| / (1e-8 + 0.1 sd_ic)))``. ``sd_ic`` is the standard deviation of
    channel c over all these windows with their centres. Outside the image, the pixels of its border are
    repeated.

    Parameters
    ----------
    values, image, channel_axis, image_channel_axis, spatial_ndim, workers, out, check_finite
        As in `aproarray.local_propagate`. The image's scale does not matter.
    dilations : sequence of int
        Pixels between neighbours, each at least 1. The default is the published one.
    iterations : int
        Number of steps (paper: 10). 0 returns the values.

    Returns
    -------
    array of values' shape
        Dtypes as in `aproarray.global_propagate`.

    Raises
    ------
    TypeError
        An argument of the wrong kind, or arrays of more than one library.
    ValueError
        Shapes that do not fit, no dilation or one below 1, negative iterations, NaN or inf.

    Notes
    -----
    O(N C D 3^d iterations) time for D dilations and d axes. The weights of one image take 4 D (3^d - 1) bytes
    per pixel: 192 for the dilations of the paper.

    References
    ----------
    .. [1] N. Araslanov and S. Roth, "Single-stage semantic segmentation from image labels", CVPR 2020,
       pixel-adaptive mask refinement.

    Examples
    --------
    >>> import numpy as np
    >>> from aproarray.related import pamr
    >>> image = np.array([[0.0, 0.0, 1.0, 1.0]])
    >>> pamr(np.array([[1.0, 0.0, 0.0, 0.0]]), image, dilations=(1,)).round(2)
    array([[0.62, 0.62, 0.  , 0.  ]])
    """
    if _validate.as_array(dilations, "dilations").ndim != 1 or len(dilations) == 0:
        raise ValueError(f"dilations must be a sequence of one integer or more, got {dilations!r}")
    apart = tuple(_validate.integer(one, f"dilations[{i}]", 1) for i, one in enumerate(dilations))
    iterations = _validate.integer(iterations, "iterations", 0)
    check_finite = _validate.flag(check_finite, "check_finite")
    over = _calls.over_windows(
        values, image, None, (channel_axis, image_channel_axis), spatial_ndim, workers, out
    )
    result = _calls.Result(over.backend.xp, over.values, over.layout, over.flat.dtype, None, out, over.image)
    if check_finite:
        over.check_finite()
    # Beyond the whole image, all dilations are the same.
    apart = tuple(min(one, max(1, *over.layout.spatial)) for one in apart)
    over.backend.pamr(
        over.flat, result.flat[0], over.images, over.layout.spatial, over.image_index, apart, iterations,
        over.threads,
    )  # fmt: skip
    return result.finish()


@_arrays.takes_dlpack
def pairwise_affinity(
    image: ArrayLike,
    *,
    theta: float = 2.0,
    kernel_size: int = 3,
    dilation: int = 2,
    mask: ArrayLike | None = None,
    channel_axis: int | Literal["auto"] | None = "auto",
    spatial_ndim: int = 2,
    workers: int | None = None,
    check_finite: bool = True,
) -> Array:
    """Return how similar each pixel is to its neighbours in a dilated window: ``exp(-|I_i - I_j| / theta)``.

    These are the colour similarities of BoxInst. Its pairwise loss takes the pairs above 0.3.

    Parameters
    ----------
    image, mask, channel_axis, spatial_ndim, workers, check_finite
        As in `aproarray.local_propagate`. The paper's images are CIELAB, with L from 0 to 100.
    theta : float
        Scale, above 0, in the image's units. The distance is not squared.
    kernel_size : int
        Pixels along each axis of the window, odd.
    dilation : int
        Pixels between neighbours, at least 1.

    Returns
    -------
    (..., spatial axes, kernel_size^d - 1) array
        The neighbours come in lexicographic order of the steps to them, without the centre. For a window of
        three pixels, they are above left, above, above right, left, right, below left, below, below right. A
        similarity is 0 if the neighbour or the pixel itself is outside the image or the mask. The dtype is
        float32 for images of up to 16 bits and float32, float64 above; float16 for float16.

    Raises
    ------
    TypeError
        An argument of the wrong kind, or arrays of more than one library.
    ValueError
        Shapes that do not fit, theta not above 0, an even kernel_size, a dilation below 1, NaN or inf.

    Notes
    -----
    O(N C k^d) time. In memory, the pixels of one neighbour lie side by side.

    References
    ----------
    .. [1] Z. Tian et al., "BoxInst: High-performance instance segmentation with box annotations", CVPR 2021,
       the colour similarity of its pairwise loss.

    Examples
    --------
    >>> import numpy as np
    >>> from aproarray.related import pairwise_affinity
    >>> pairwise_affinity(np.array([0.0, 0.0, 2.0]), spatial_ndim=1, dilation=1).round(3)  # before, after
    array([[0.   , 1.   ],
           [1.   , 0.368],
           [0.368, 0.   ]])
    """
    backend = _dispatch.backend(image=image, mask=mask)
    xp = backend.xp
    image = _validate.real_array(image, "image", xp)
    theta = _validate.positive(theta, "theta")
    kernel_size = _validate.odd(kernel_size, "kernel_size")
    dilation = _validate.integer(dilation, "dilation", 1)
    check_finite = _validate.flag(check_finite, "check_finite")
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM)
    threads = _validate.workers(workers, backend.available_workers())
    layout = _validate.image_layout(image.shape, spatial_ndim, channel_axis)
    takes_part = _validate.mask(mask, layout.leading, layout.spatial, f"an image of shape {image.shape}", xp)
    flat = _validate.as_floats(layout.flatten(image), takes_part, xp)
    if check_finite:
        _validate.finite(flat, "image", takes_part, _validate.BY_MASK)
    dilation = min(dilation, max(1, *layout.spatial))  # which reaches beyond the image
    result = xp.empty((len(flat), kernel_size**spatial_ndim - 1, flat.shape[1]), flat.dtype)
    backend.pairwise_affinities(
        flat, layout.spatial, takes_part, theta, (kernel_size // 2,) * spatial_ndim, dilation, result, threads
    )
    if image.dtype == np.float16:
        result = result.astype(np.float16)
    shape = (*layout.leading, result.shape[1], *layout.spatial)
    neighbours_last: Array = xp.moveaxis(result.reshape(shape), len(layout.leading), -1)
    return neighbours_last


def _in_unit_interval(array: Array, name: str, masks: Array | None, xp: Any) -> None:
    outside = (array < 0) | (array > 1)
    if masks is not None:
        outside = outside & masks[..., None]
    if bool(outside.any()):
        raise ValueError(
            f"{name} must be in [0, 1], got values from {float(array.min())} to {float(array.max())}"
        )
