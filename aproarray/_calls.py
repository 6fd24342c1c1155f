"""The layout of a call: arguments are checked and laid out for the backend, and results are put back.

`over_trees` serves what is propagated over trees, `over_windows` what is propagated over windows. A `Result`
holds what the backend writes. The verbs themselves are in `_api` and `related`.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aproarray import _arrays, _dispatch, _edges, _validate
from aproarray._backend import Backend
from aproarray._tree import SpanningTree

Array = NDArray[Any]


class OverTrees(NamedTuple):
    """Values that are to be propagated over trees, and which."""

    backend: Backend
    xp: Any
    values: Array
    layout: _validate.Layout
    leading: tuple[int, ...]
    """The leading axes that trees, or masks with a tree each, have in common with values."""
    tree_index: NDArray[np.intp]
    """The tree of each of their flattened indices."""


def over_trees(
    values: ArrayLike,
    tree: SpanningTree,
    features: ArrayLike | None,
    tree_index: ArrayLike | None,
    channel_axis: int | None,
    out: Array | None,
    **also: ArrayLike | None,
) -> OverTrees:
    """Check the arguments of what is propagated over trees; `also` are further arrays of the call."""
    if not isinstance(tree, SpanningTree):
        raise TypeError(f"tree must be a SpanningTree (see aproarray.mst), got a {type(tree).__name__}")
    tree_index = _arrays.on_host(tree_index)
    on_device = _arrays.is_cupy(tree.order)
    backend = _dispatch.backend(
        values=values,
        tree=tree.order,
        features=features,
        tree_index=None if on_device else tree_index,
        out=out,
        **also,
    )
    values = _validate.real_array(values, "values", backend.xp)
    n_trees = math.prod(tree.batch_shape)
    if tree_index is None:
        leading, tree_index = tree.batch_shape, np.arange(n_trees)
    else:
        if len(tree.batch_shape) != 1:
            raise ValueError(
                f"tree_index needs a batch of trees along one axis, got shape {tree.batch_shape}"
            )
        tree_index = _validate.in_range(
            _validate.integer_array(tree_index, "tree_index", (None,)), n_trees, "tree_index"
        )
        leading = tree_index.shape
    layout = _validate.layout_over(values.shape, leading, tree.shape, channel_axis, "values", "a tree")
    return OverTrees(backend, backend.xp, values, layout, leading, tree_index)


def check_features_lead(leading: tuple[int, ...], layout: _validate.Layout) -> None:
    """Check that the leading axes of values begin with those of features."""
    if layout.leading[: len(leading)] != leading:
        raise ValueError(
            f"features with leading axes {leading} do not fit values with leading axes "
            f"{layout.leading}: those of values must begin with those of features"
        )


class OverWindows(NamedTuple):
    """Values that are to be propagated over the windows of images."""

    backend: Backend
    values: Array
    image: Array
    flat: Array
    """The values as (items, pixels, channels), in the type to compute in."""
    images: Array
    """The images as (images, pixels, channels)."""
    layout: _validate.Layout
    image_index: NDArray[np.intp]
    """The image of each item."""
    takes_part: NDArray[np.bool_] | None
    threads: int

    def masks_of_items(self) -> NDArray[np.bool_] | None:
        """Return the items' masks, (1 or items, pixels), or None."""
        if self.takes_part is None or len(self.takes_part) == 1:
            return self.takes_part
        masks: NDArray[np.bool_] = self.takes_part[self.backend.xp.asarray(self.image_index)]
        return masks

    def check_finite(self, advice: str = "") -> None:
        """Look for NaN and inf where pixels take part."""
        _validate.finite(self.images, "image", self.takes_part, advice)
        _validate.finite(self.flat, "values", self.masks_of_items(), advice)


def over_windows(
    values: ArrayLike,
    image: ArrayLike,
    mask: ArrayLike | None,
    channel_axes: tuple[int | Literal["auto"] | None, int | Literal["auto"] | None],
    spatial_ndim: int,
    workers: int | None,
    out: Array | None,
    **also: ArrayLike | None,
) -> OverWindows:
    """Check the arguments of what is propagated over windows; `also` are further arrays of the call.

    channel_axes are those of the values and of the image, the latter "auto" if it is the same.
    """
    channel_axis, image_channel_axis = channel_axes
    option = "image_channel_axis"
    if _validate.is_auto(image_channel_axis):
        image_channel_axis, option = channel_axis, "channel_axis"
    backend = _dispatch.backend(values=values, image=image, mask=mask, out=out, **also)
    xp = backend.xp
    values, image = _validate.real_array(values, "values", xp), _validate.real_array(image, "image", xp)
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM)
    threads = _validate.workers(workers, backend.available_workers())
    image_layout = _validate.image_layout(image.shape, spatial_ndim, image_channel_axis, option=option)
    if _validate.is_auto(channel_axis):
        channel_axis = -1
    layout = _validate.layout_over(
        values.shape, image_layout.leading, image_layout.spatial, channel_axis, "values", "an image"
    )
    takes_part = _validate.mask(
        mask, image_layout.leading, image_layout.spatial, f"an image of shape {image.shape}", xp
    )
    n_images = math.prod(image_layout.leading)
    image_index = np.repeat(np.arange(n_images), math.prod(layout.leading[len(image_layout.leading) :]))
    flat = layout.flatten(values).astype(_validate.compute_dtype(values.dtype), copy=False)
    images = _validate.as_floats(image_layout.flatten(image), takes_part, xp)
    return OverWindows(backend, values, image, flat, images, layout, image_index, takes_part, threads)


def _overlap(xp: Any, a: Array, b: ArrayLike) -> bool:
    """Return whether two arrays may share memory."""
    if xp is np:
        return np.may_share_memory(a, b)
    # To CuPy, what two tensors that overlap bring along are memories of their own.
    (first, last), (other_first, other_last) = xp.byte_bounds(a), xp.byte_bounds(b)
    return bool(a.size and first < other_last and other_first < last)


class Result:
    """The array a verb returns, and the (items, pixels, channels) arrays that the backend fills."""

    def __init__(
        self,
        xp: Any,
        values: Array,
        layout: _validate.Layout,
        dtype: np.dtype[Any],
        n_results: int | None,
        out: Array | None,
        *also_read: ArrayLike | None,
    ):
        self._xp = xp
        self._dtype = np.dtype(np.float16) if values.dtype == np.float16 else dtype
        shape = values.shape if n_results is None else (n_results, *values.shape)
        self._out = out
        if out is not None:
            _validate.output(out, shape, self._dtype, xp)
            # The backend reads its input after it has begun to write: the result cannot lie over that.
            apart = not any(_overlap(xp, out, a) for a in (values, *also_read) if a is not None)
            if self._dtype == dtype and getattr(out.flags, "aligned", True) and apart:
                flat = self._views(out, layout, n_results)
                if flat is not None:
                    self._array, self.flat = out, flat
                    return
        self._array = xp.empty(shape, dtype)
        flat = self._views(self._array, layout, n_results)
        if flat is None:  # the channels lie between axes that become one: (H, C, W), say
            assert layout.channel_axis is not None
            axis = layout.channel_axis - values.ndim
            channels_last = xp.moveaxis(self._array, axis, -1).shape
            self._array = xp.moveaxis(xp.empty(channels_last, dtype), -1, axis)
            flat = self._views(self._array, layout, n_results)
            assert flat is not None
        self.flat = flat

    def _views(self, array: Array, layout: _validate.Layout, n_results: int | None) -> list[Array] | None:
        """Return `array` as (items, pixels, channels), one for each result, or None if that takes copies."""
        flat = [layout.flatten(one) for one in (array[None] if n_results is None else array)]
        return flat if all(self._xp.may_share_memory(one, array) for one in flat if one.size) else None

    def finish(self) -> Array:
        """Return the array, in the caller's dtype and place."""
        if self._out is None:
            return self._array.astype(self._dtype, copy=False)
        if self._array is not self._out:
            self._out[...] = self._array
        return self._out
