"""Masks from marks: what most people want, made of the relief of an image and two kernels.

`propagate_labels` for seeds, `LabelPropagator` where strokes follow one another on one image, `refine`
for soft scores, `affinity_map` to look at what a pixel sees.
"""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aproarray import _arrays, _dispatch, _edges, _relief, _validate
from aproarray._api import global_propagate, local_propagate, mst
from aproarray._tree import SpanningTree

Array = NDArray[Any]

# One set of choices for all images and kinds of seeds; docs/quality.md has what each of them brings.
_RADIUS = 2  # of the window that votes: 5 x 5
_VOTES = 20
_ZETA_STEPS = 3.0  # zeta of a vote, in root mean square steps between neighbours
_REFINE_STEPS = 1.5  # the same for scores


class LabelPropagator:
    """An image made ready for propagating labels over it again and again, as strokes are added.

    ``LabelPropagator(image).propagate(labels)`` is ``propagate_labels(image, labels)``. Everything that
    depends on the image alone is computed once.

    Parameters
    ----------
    image : array_like
        Bool, integer or float, at any scale: spatial axes, and channels.
    channel_axis : int or None
        Axis of the channels; None: there is none.
    spatial_ndim : int
        Number of spatial axes (2: images, 3: volumes).
    mask : array_like of bool, optional
        True where a pixel takes part, of the spatial shape. NaN is allowed elsewhere.
    convert2lab : bool or None
        Whether the channels are sRGB, to be compared as CIE L*a*b*. None: if there are three.

    Raises
    ------
    TypeError, ValueError
        As for `propagate_labels`.

    Notes
    -----
    O(N C) time. Holds 4 (C + 3) + 1 bytes per pixel.

    This is what stands in for a `SpanningTree` between strokes: labels follow three forests, whose edges
    weigh reliefs rather than differences of colours, and whose roots are the seeds, which a tree cannot know.

    Examples
    --------
    >>> import numpy as np
    >>> import aproarray
    >>> image = np.zeros((6, 6))
    >>> image[:, 3:] = 1
    >>> propagator = aproarray.LabelPropagator(image)
    >>> strokes = np.zeros((6, 6), int)
    >>> strokes[0, 0], strokes[5, 5] = 1, 2
    >>> propagator.propagate(strokes)[2].tolist()
    [1, 1, 1, 2, 2, 2]
    """

    @_arrays.takes_dlpack
    def __init__(
        self,
        image: ArrayLike,
        *,
        channel_axis: int | None = -1,
        spatial_ndim: int = 2,
        mask: ArrayLike | None = None,
        convert2lab: bool | None = None,
    ):
        """Smooth the image and compute its relief."""
        _dispatch.cpu_backend("LabelPropagator", image=image, mask=mask)
        pixels, takes_part = _image_and_mask(image, channel_axis, spatial_ndim, mask)
        self.shape: tuple[int, ...] = pixels.shape[:-1]
        self._mask = takes_part
        colours = _relief.colours(pixels, takes_part, _is_rgb(convert2lab, pixels))
        features = _relief.features(colours, takes_part)
        step = _relief.typical_step(features, takes_part)
        # On a plain image every neighbour has the same vote, whatever the scale.
        self._scale = 1 / (_ZETA_STEPS * step) ** 2 if step > 0 else 1.0
        # Padded by pixels that take no part, so that a window is the same steps from every pixel.
        self._inner = tuple(slice(_RADIUS, _RADIUS + extent) for extent in self.shape)
        padded = tuple(extent + 2 * _RADIUS for extent in self.shape)
        if np.prod(padded, dtype=float) >= 2**31:
            raise ValueError(f"labels are propagated over at most 2^31 pixels, got an image of {self.shape}")
        self._padded_shape = padded
        self._features = np.zeros((*padded, features.shape[-1]), np.float32)
        self._features[self._inner] = features
        self._features = self._features.reshape(math.prod(padded), features.shape[-1])
        reliefs = _relief.reliefs(features, takes_part)
        self._reliefs = np.zeros((len(reliefs), *padded), np.float32)
        self._reliefs[(slice(None), *self._inner)] = reliefs
        self._reliefs = self._reliefs.reshape(len(reliefs), -1)
        self._neighbours = _steps(padded, 1)
        self._window = _steps(padded, _RADIUS)

    def __repr__(self) -> str:
        """Say what it is made for."""
        return f"LabelPropagator(shape={self.shape})"

    @overload
    def propagate(
        self, labels: ArrayLike, *, return_prob: Literal[False] = False, workers: int | None = None
    ) -> Array: ...
    @overload
    def propagate(
        self, labels: ArrayLike, *, return_prob: Literal[True], workers: int | None = None
    ) -> NDArray[np.float32]: ...
    @overload
    def propagate(self, labels: ArrayLike, *, return_prob: bool, workers: int | None = None) -> Array: ...

    @_arrays.takes_dlpack
    def propagate(self, labels: ArrayLike, *, return_prob: bool = False, workers: int | None = None) -> Array:
        """Return the labels of all pixels; see `propagate_labels`."""
        backend = _dispatch.cpu_backend("propagate", labels=labels)
        seeds = np.asarray(labels)
        if seeds.dtype.kind not in "iu":
            raise TypeError(f"labels must hold integers (0: unlabelled), got dtype {seeds.dtype}")
        if seeds.shape != self.shape:
            raise ValueError(f"labels must have the image's spatial shape {self.shape}, got {seeds.shape}")
        seeded = seeds > 0
        if self._mask is not None:
            seeded &= self._mask
        values, numbers = np.unique(seeds[seeded], return_inverse=True)
        excluded = seeds < 0
        if self._mask is not None:
            excluded |= ~self._mask

        padded = np.full(self._padded_shape, -1, np.int32)
        inner = padded[self._inner]
        inner[...] = 0
        inner[excluded] = -1
        inner[seeded] = numbers + 1
        flat = padded.reshape(-1)
        held = (flat > 0).view(np.uint8)
        zones = np.empty(0, np.int32)
        if excluded.any():  # a window may reach across walls that labels must not cross
            zones = np.zeros(self._padded_shape, np.int32)
            graph = mst(np.zeros(self.shape, np.uint8), mask=~excluded, spatial_ndim=len(self.shape))
            zones[self._inner] = graph.cut(0)
            zones = zones.reshape(-1)
        maps = np.repeat(flat[None], len(self._reliefs), axis=0)
        workers = _validate.workers(workers, backend.available_workers())
        backend.flood(self._reliefs, maps, self._neighbours, workers)
        # What two of the three scales say; the middle one, where each says something else.
        flat = np.where(maps[1] == maps[2], maps[1], maps[0])
        shares = np.zeros((flat.size if return_prob else 0, len(values)), np.float32)
        backend.vote(
            self._features, flat, zones, held, self._window, self._scale, _VOTES, len(values), shares
        )
        if return_prob:
            return np.ascontiguousarray(
                np.moveaxis(shares.reshape(*self._padded_shape, len(values))[self._inner], -1, 0)
            )
        result = seeds.copy()
        found = ~excluded
        chosen = flat.reshape(self._padded_shape)[self._inner]
        result[found] = np.concatenate([np.zeros(1, seeds.dtype), values])[chosen[found]]
        return result


@overload
def propagate_labels(
    image: ArrayLike,
    labels: ArrayLike,
    *,
    return_prob: Literal[False] = False,
    channel_axis: int | None = -1,
    mask: ArrayLike | None = None,
    convert2lab: bool | None = None,
    workers: int | None = None,
) -> Array: ...
@overload
def propagate_labels(
    image: ArrayLike,
    labels: ArrayLike,
    *,
    return_prob: Literal[True],
    channel_axis: int | None = -1,
    mask: ArrayLike | None = None,
    convert2lab: bool | None = None,
    workers: int | None = None,
) -> NDArray[np.float32]: ...


@_arrays.takes_dlpack
def propagate_labels(
    image: ArrayLike,
    labels: ArrayLike,
    *,
    return_prob: bool = False,
    channel_axis: int | None = -1,
    mask: ArrayLike | None = None,
    convert2lab: bool | None = None,
    workers: int | None = None,
) -> Array:
    """Segment an image from a few labelled pixels: scribbles, points, boxes.

    Takes what `skimage.segmentation.random_walker` takes, and needs no parameter. To propagate again on
    the same image, keep a `LabelPropagator`.

    Parameters
    ----------
    image : array_like
        Bool, integer or float, at any scale (it is mapped from its own range to [0, 1]): the axes of
        `labels`, and channels. An image of the shape of `labels` has no channels.
    labels : array_like of int
        Seeds: above 0 a label, 0 unlabelled, below 0 a pixel that takes no part. Any number of axes.
    return_prob : bool
        Whether to return shares of the vote for each label rather than labels.
    channel_axis : int or None
        Axis of the channels of `image`; None: there is none.
    mask : array_like of bool, optional
        True where a pixel takes part, of the shape of `labels`. NaN is allowed elsewhere in the image,
        and seeds are ignored there.
    convert2lab : bool or None
        Whether the channels are sRGB, to be compared as CIE L*a*b*. None: if there are three.
    workers : int or None
        Threads (None: the CPUs this process may use). The result does not depend on it.

    Returns
    -------
    array of labels' shape and dtype
        Seeds keep their label. A pixel that no seed can reach (a region that the mask or negative labels
        cut off, or no seed at all) stays 0; pixels that take no part come back as they went in.
    or, with return_prob, float32 array (n_labels, *labels.shape)
        In ascending order of labels: the share of a pixel's window that votes for each. Sums to 1, or is
        0 where no label is. The labels are where it is largest.

    Raises
    ------
    TypeError
        Labels that are not integers, an image or mask of the wrong kind, arrays of more than one library.
    ValueError
        Shapes that do not fit, NaN or inf in the image.

    Notes
    -----
    The relief of the image is its gradient, over what is usual around a pixel, at each of three scales (see
    docs/quality.md). At each, labels follow the minimum spanning forest rooted at the seeds, edges weighing
    the relief of their two pixels: every pixel gets the label of a seed at the smallest minimax distance, as
    in `global_propagate` when zeta goes to 0, and whatever its distance from all seeds. Plain areas are
    shared out by the number of steps. Pixels take the label of two of the scales, or of the middle one where
    all differ; then that of the largest vote over a 5 x 5 window, weighted by likeness as in
    `local_propagate`, with the seeds held.

    O(N C) time and 30 C + 50 bytes per pixel at most, 50 more with a mask or negative labels, whatever the
    number of labels, but for return_prob.

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023.
    .. [2] J. Cousty et al., "Watershed Cuts: Minimum Spanning Forests and the Drop of Water Principle",
       IEEE TPAMI 31, 2009.

    Examples
    --------
    >>> import numpy as np
    >>> import aproarray
    >>> image = np.zeros((5, 8), np.uint8)
    >>> image[:, 3:] = 200
    >>> seeds = np.zeros((5, 8), int)
    >>> seeds[2, 0], seeds[2, 7] = 1, 2
    >>> aproarray.propagate_labels(image, seeds)[0].tolist()
    [1, 1, 1, 2, 2, 2, 2, 2]
    """
    _dispatch.cpu_backend("propagate_labels", image=image, labels=labels, mask=mask)
    shape = np.shape(labels)
    if np.shape(image) == shape:
        channel_axis = None
    propagator = LabelPropagator(
        image, channel_axis=channel_axis, spatial_ndim=max(len(shape), 1), mask=mask, convert2lab=convert2lab
    )
    return propagator.propagate(labels, return_prob=return_prob, workers=workers)


def _image_and_mask(
    image: ArrayLike, channel_axis: int | None, spatial_ndim: int, mask: ArrayLike | None
) -> tuple[Array, NDArray[np.bool_] | None]:
    """Return one image with its channels last, and its mask."""
    pixels = _validate.real_array(image, "image")
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM)
    layout = _validate.layout(pixels.shape, spatial_ndim, channel_axis, "image")
    if layout.leading:
        raise ValueError(
            f"image of shape {pixels.shape} has more than {spatial_ndim} spatial axes beside "
            f"channel_axis={channel_axis}: expected one image, not a batch"
        )
    takes_part = _validate.mask(mask, (), layout.spatial, f"an image of shape {pixels.shape}")
    flat = layout.flatten(pixels)
    _validate.finite(flat, "image", takes_part)
    inside = None if takes_part is None else takes_part.reshape(layout.spatial)
    return flat[0].reshape(*layout.spatial, layout.n_channels), inside


def _is_rgb(convert2lab: bool | None, pixels: Array) -> bool:
    """Return whether to compare channels as L*a*b*."""
    if convert2lab is None:
        return int(pixels.shape[-1]) == 3
    if convert2lab and pixels.shape[-1] != 3:
        raise ValueError(f"convert2lab needs an image of 3 channels, got {pixels.shape[-1]}")
    return bool(convert2lab)


def _steps(shape: tuple[int, ...], reach: int) -> NDArray[np.intp]:
    """Return the flat steps in an array to a pixel's neighbours: reach 1, one hop; more, a whole window."""
    strides = [int(np.prod(shape[axis + 1 :], dtype=np.intp)) for axis in range(len(shape))]
    steps = [
        sum(a * b for a, b in zip(step, strides, strict=True))
        for step in _edges.window_steps(len(shape), 2 * reach + 1)
        if reach > 1 or sum(map(abs, step)) == 1
    ]
    return np.array(steps, np.intp)


_MODES = ("local", "global", "global-local", "local-global", "parallel")


@_arrays.takes_dlpack
def refine(
    scores: ArrayLike,
    image: ArrayLike,
    *,
    mode: Literal["local", "global", "global-local", "local-global", "parallel"] = "local",
    iterations: int = 60,
    channel_axis: int | None = -1,
    spatial_ndim: int = 2,
    mask: ArrayLike | None = None,
    convert2lab: bool | None = None,
    workers: int | None = None,
) -> Array:
    """Make soft class scores follow an image: those of a network, of CLIP, class activation maps.

    Parameters
    ----------
    scores : array_like of real numbers
        Spatial axes, and channels (classes). Scores of fewer pixels than the image are resampled to its
        shape first (linearly, pixels being areas): 14 x 14 or 32 x 32 for a photograph, say.
    image : array_like
        Bool, integer or float, at any scale (it is mapped from its own range to [0, 1]): spatial axes, and
        channels.
    mode : str
        Which propagation, as in the paper's Table 7: "local", "global", one after the other
        ("global-local", "local-global"), or the mean of both ("parallel").
    iterations : int
        Number of local steps, 5 x 5 each.
    channel_axis : int or None
        Axis of the channels of `scores`, and of `image`; None: there is none. An array of just
        `spatial_ndim` axes has no channels.
    spatial_ndim : int
        Number of spatial axes (2: images, 3: volumes).
    mask : array_like of bool, optional
        True where a pixel takes part, of the image's spatial shape.
    convert2lab : bool or None
        Whether the image is sRGB, to be compared as CIE L*a*b*. None: if it has three channels.
    workers : int or None
        Threads (None: the CPUs this process may use). The result does not depend on it.

    Returns
    -------
    array of the image's spatial shape and the scores' channels
        float32 for scores of up to 16 bits and float32, float64 above. Propagation averages: scores that
        sum to 1 still do. Pixels that the mask leaves out keep their (resampled) scores.

    Raises
    ------
    TypeError
        An argument of the wrong kind, or arrays of more than one library.
    ValueError
        Shapes that do not fit, an unknown mode, NaN or inf.

    Notes
    -----
    zeta is chosen from the smoothed image: 1.5 root mean square steps between neighbours for the local part,
    a quarter of the median step of the spanning tree for the global one. With global propagation,
    wrong scores spread as far as right ones: it pays where scores are sparse, or errors small.

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023, Table 7.

    Examples
    --------
    >>> import numpy as np
    >>> import aproarray
    >>> image = np.zeros((8, 8))
    >>> image[:, 3:] = 1
    >>> coarse = np.array([[1.0, 0.0], [1.0, 0.0]])
    >>> (aproarray.refine(coarse, image)[0] > 0.5).tolist()
    [True, True, True, False, False, False, False, False]
    """
    _dispatch.cpu_backend("refine", scores=scores, image=image, mask=mask)
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}")
    iterations = _validate.integer(iterations, "iterations", 0)
    values = _validate.real_array(scores, "scores")
    values = values.astype(_validate.compute_dtype(values.dtype), copy=False)
    pixels, takes_part = _image_and_mask(image, channel_axis, spatial_ndim, mask)
    layout = _validate.layout(values.shape, spatial_ndim, channel_axis, "scores")
    if layout.leading:
        raise ValueError(
            f"scores of shape {values.shape} have more than {spatial_ndim} spatial axes beside "
            f"channel_axis={channel_axis}: expected those of one image, not of a batch"
        )
    if values.size == 0 and 0 in layout.spatial:
        raise ValueError(f"scores of shape {values.shape} hold no pixels to resample")
    _validate.finite(layout.flatten(values), "scores")
    last = values[..., None] if layout.channel_axis is None else np.moveaxis(values, layout.channel_axis, -1)
    last = _resampled(last, pixels.shape[:-1])
    colours = _relief.colours(pixels, takes_part, _is_rgb(convert2lab, pixels))
    features = _relief.features(colours, takes_part)

    def local_part(scores: Array) -> Array:
        step = _relief.typical_step(features, takes_part)
        return local_propagate(
            scores, features, zeta=_REFINE_STEPS * step if step > 0 else 1.0, iterations=iterations,
            mask=takes_part, spatial_ndim=spatial_ndim, workers=workers,
        )  # fmt: skip

    def global_part(scores: Array) -> Array:
        tree = mst(features, mask=takes_part, spatial_ndim=spatial_ndim, workers=workers)
        return global_propagate(scores, tree, zeta=_tree_zeta(tree), workers=workers)

    if mode == "local":
        result = local_part(last)
    elif mode == "global":
        result = global_part(last)
    elif mode == "global-local":
        result = local_part(global_part(last))
    elif mode == "local-global":
        result = global_part(local_part(last))
    else:
        result = (local_part(last) + global_part(last)) / 2
    return result[..., 0] if layout.channel_axis is None else np.moveaxis(result, -1, layout.channel_axis)


def _tree_zeta(tree: SpanningTree) -> float:
    """Return a quarter of the median step of a tree's edges: of those that are not 0, if the median is."""
    weights = tree.gaps[np.isfinite(tree.gaps)]
    if not np.median(weights) > 0 if weights.size else True:
        weights = weights[weights > 0]
    return 0.25 * float(np.sqrt(np.median(weights))) if weights.size else 1.0


def _map_zeta(tree: SpanningTree) -> float:
    """Return twice the root mean square step of a tree's edges.

    An object's texture is below that, and its outline above. On photographs it is the root mean square step
    between all neighbours, of which a tree does not know.
    """
    weights = tree.gaps[np.isfinite(tree.gaps)]
    largest = float(weights.max()) if weights.size else 0.0
    # Shares of the largest: the sum of weights may be too large for their type.
    return 2 * float(np.sqrt(largest * (weights / largest).mean(dtype=np.float64))) if largest > 0 else 1.0


def _resampled(scores: Array, shape: tuple[int, ...]) -> Array:
    """Return scores (..., C) on a grid of another shape, linearly, where pixels are areas."""
    for axis, (extent, wanted) in enumerate(zip(scores.shape[:-1], shape, strict=True)):
        if extent == wanted:
            continue
        at = np.clip((np.arange(wanted) + 0.5) * (extent / max(wanted, 1)) - 0.5, 0, extent - 1)
        below = at.astype(np.intp)
        above = np.minimum(below + 1, extent - 1)
        weight = (at - below).astype(scores.dtype).reshape(-1, *(1,) * (scores.ndim - axis - 1))
        scores = scores.take(below, axis) * (1 - weight) + scores.take(above, axis) * weight
    return scores


@_arrays.takes_dlpack
def affinity_map(
    image: ArrayLike | SpanningTree,
    pixel: int | tuple[int, ...],
    *,
    kind: Literal["global", "local"] = "global",
    zeta: float | None = None,
    iterations: int = 60,
    channel_axis: int | None = -1,
    spatial_ndim: int = 2,
    mask: ArrayLike | None = None,
    convert2lab: bool | None = None,
) -> Array:
    """Return how alike all pixels are to one pixel, as propagation sees it (the paper's Figure 3).

    Parameters
    ----------
    image : array_like or SpanningTree
        An image, at any scale; or, for global affinity, its tree, which is kept for the next pixel.
    pixel : int or tuple of int
        The pixel: its flat index, or its coordinates.
    kind : str
        "global": ``exp(-d / zeta^2)``, d being the largest edge weight on the tree's path to the pixel.
        "local": what reaches the others of a 1 at the pixel in `iterations` steps over 5 x 5 windows.
    zeta : float, optional
        Scale, above 0: of the tree's steps; for an image, of steps of its smoothed colours (L*a*b* / 100,
        or channels mapped to [0, 1]). None: chosen from the image: twice the root mean square step of the
        tree's edges (global), or 1.5 times that between neighbours (local).
    iterations : int
        Number of local steps.
    channel_axis : int or None
        Axis of the channels of `image`; None: there is none.
    spatial_ndim : int
        Number of spatial axes (2: images, 3: volumes).
    mask : array_like of bool, optional
        True where a pixel takes part, of the spatial shape.
    convert2lab : bool or None
        Whether the channels are sRGB, to be compared as CIE L*a*b*. None: if there are three.

    Returns
    -------
    array of the spatial shape
        From 0 to 1; float32, or the tree's dtype. Global affinity is 1 at the pixel itself. A local map is
        divided by its largest number, which is near the pixel, where most neighbours are like it.

    Raises
    ------
    TypeError
        An argument of the wrong kind; a tree for a local map, which needs the image, or with a mask.
    ValueError
        A pixel outside the image or the mask, an unknown kind, zeta not above 0, NaN or inf.

    Examples
    --------
    >>> import numpy as np
    >>> import aproarray
    >>> image = np.zeros((3, 6))
    >>> image[:, 3:] = 1
    >>> aproarray.affinity_map(image, (1, 0), zeta=0.4)[1].round().tolist()
    [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    """
    if kind not in ("global", "local"):
        raise ValueError(f"kind must be 'global' or 'local', got {kind!r}")
    if zeta is not None:
        zeta = _validate.positive(zeta, "zeta")
    iterations = _validate.integer(iterations, "iterations", 0)
    if isinstance(image, SpanningTree):
        if kind == "local":
            raise TypeError("a local affinity map needs the image, got a SpanningTree")
        if mask is not None:
            raise TypeError("mask goes with an image: a SpanningTree has its own")
        return image.affinity(pixel, _map_zeta(image) if zeta is None else zeta)
    _dispatch.cpu_backend("affinity_map of an image", image=image, mask=mask)
    pixels, takes_part = _image_and_mask(image, channel_axis, spatial_ndim, mask)
    shape = pixels.shape[:-1]
    index = pixel if isinstance(pixel, tuple) else (pixel,)
    extents = shape if isinstance(pixel, tuple) else (math.prod(shape),)
    if len(index) != len(extents):
        raise ValueError(f"pixel must have one coordinate for each axis of {shape}, got {pixel}")
    for axis, (coordinate, extent) in enumerate(zip(index, extents, strict=True)):
        _validate.integer(coordinate, f"pixel[{axis}]" if len(index) > 1 else "pixel", 0, extent - 1)
    one = np.zeros(extents, np.float32)
    one[index] = 1
    one = one.reshape(shape)
    if takes_part is not None and not one[takes_part].any():
        raise ValueError(f"pixel {pixel} is not in the mask")
    colours = _relief.colours(pixels, takes_part, _is_rgb(convert2lab, pixels))
    features = _relief.features(colours, takes_part)
    if kind == "global":
        tree = mst(features, mask=takes_part, spatial_ndim=spatial_ndim)
        return tree.affinity(pixel, _map_zeta(tree) if zeta is None else zeta)
    if zeta is None:
        step = _relief.typical_step(features, takes_part)
        zeta = _REFINE_STEPS * step if step > 0 else 1.0
    spread = local_propagate(
        one, features, zeta=zeta, iterations=iterations, mask=takes_part, spatial_ndim=spatial_ndim
    )
    largest = spread.max()
    return spread / largest if largest > 0 else one
