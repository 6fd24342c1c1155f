"""Masks from marks: what most people want, made of the relief of an image and two kernels.

`propagate_labels` for seeds, `LabelPropagator` where strokes follow one another on one image, `refine`
for soft scores, `affinity_map` to look at what a pixel sees.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aproarray import _dispatch, _grid, _relief, _validate
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
    O(N C) time. Holds 4 (C + 2) + 1 bytes per pixel.

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
        _dispatch.backend(image=image, mask=mask)
        pixels, takes_part = _image_and_mask(image, channel_axis, spatial_ndim, mask)
        self.shape: tuple[int, ...] = pixels.shape[:-1]
        self._mask = takes_part
        colours = _relief.colours(pixels, takes_part, _is_rgb(convert2lab, pixels))
        features, relief = _relief.features_and_relief(colours, takes_part)
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
        self._features = self._features.reshape(-1, features.shape[-1])
        self._relief = np.zeros(padded, np.float32)
        self._relief[self._inner] = relief
        self._heaviest = 2 * float(relief.max(initial=0))
        self._neighbours = _steps(padded, 1)
        self._window = _steps(padded, _RADIUS)

    def __repr__(self) -> str:
        """Say what it is made for."""
        return f"LabelPropagator(shape={self.shape})"

    @overload
    def propagate(self, labels: ArrayLike, *, return_prob: Literal[False] = False) -> Array: ...
    @overload
    def propagate(self, labels: ArrayLike, *, return_prob: Literal[True]) -> NDArray[np.float32]: ...
    @overload
    def propagate(self, labels: ArrayLike, *, return_prob: bool) -> Array: ...

    def propagate(self, labels: ArrayLike, *, return_prob: bool = False) -> Array:
        """Return the labels of all pixels; see `propagate_labels`."""
        from aproarray.cpu import _flood

        _dispatch.backend(labels=labels)
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
        _flood.flood(self._relief.reshape(-1), flat, self._neighbours, self._heaviest)
        shares = np.zeros((flat.size if return_prob else 0, len(values)), np.float32)
        _flood.vote(self._features, flat, held, self._window, self._scale, _VOTES, len(values), shares)
        if return_prob:
            return np.ascontiguousarray(
                np.moveaxis(shares.reshape(*self._padded_shape, len(values))[self._inner], -1, 0)
            )
        result = seeds.copy()
        found = ~excluded
        result[found] = np.concatenate([np.zeros(1, seeds.dtype), values])[inner[found]]
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
) -> NDArray[np.float32]: ...


def propagate_labels(
    image: ArrayLike,
    labels: ArrayLike,
    *,
    return_prob: bool = False,
    channel_axis: int | None = -1,
    mask: ArrayLike | None = None,
    convert2lab: bool | None = None,
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
    The relief of the image is the sum of its gradients at three scales (see docs/quality.md). Labels
    first follow the minimum spanning forest rooted at the seeds, edges weighing the relief of
    their two pixels: every pixel gets the label of a seed at the smallest minimax distance, as in
    `global_propagate` when zeta goes to 0, and whatever its distance from all seeds. Plain areas are
    shared out by the number of steps. Then pixels take the label of the largest vote over a 5 x 5
    window, weighted by likeness as in `local_propagate`, with the seeds held.

    O(N C) time and 4 C + 40 bytes per pixel, whatever the number of labels, but for return_prob.

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
    _dispatch.backend(image=image, labels=labels, mask=mask)
    shape = np.shape(labels)
    if np.shape(image) == shape:
        channel_axis = None
    propagator = LabelPropagator(
        image, channel_axis=channel_axis, spatial_ndim=max(len(shape), 1), mask=mask, convert2lab=convert2lab
    )
    return propagator.propagate(labels, return_prob=return_prob)


def _image_and_mask(
    image: ArrayLike, channel_axis: int | None, spatial_ndim: int, mask: ArrayLike | None
) -> tuple[Array, NDArray[np.bool_] | None]:
    """Return one image with its channels last, and its mask."""
    pixels = _validate.real_array(image, "image")
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _grid.MAX_NDIM)
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
        return pixels.shape[-1] == 3
    if convert2lab and pixels.shape[-1] != 3:
        raise ValueError(f"convert2lab needs an image of 3 channels, got {pixels.shape[-1]}")
    return bool(convert2lab)


def _steps(shape: tuple[int, ...], reach: int) -> NDArray[np.intp]:
    """Return the flat steps in an array to a pixel's neighbours: reach 1, one hop; more, a whole window."""
    strides = [int(np.prod(shape[axis + 1 :], dtype=np.intp)) for axis in range(len(shape))]
    steps = [
        sum(a * b for a, b in zip(step, strides, strict=True))
        for step in itertools.product(range(-reach, reach + 1), repeat=len(shape))
        if any(step) and (reach > 1 or sum(map(abs, step)) == 1)
    ]
    return np.array(steps, np.intp)
