"""Local propagation over dask arrays: every chunk with as much around it as the iterations reach."""

from __future__ import annotations

import functools
import itertools
from typing import Any, Literal

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from aproarray import _api, _edges, _validate
from aproarray.chunked import _arguments, _overlap

Array = NDArray[Any]


def _propagate(
    values: Array, image: Array, mask: Array | None, inner: Any, chunk: str, **options: Any
) -> Array:
    """Propagate over a chunk and its surroundings, and return what is inside."""
    try:
        result: Array = _api.local_propagate(values, image, mask=mask, workers=1, **options)
    except ValueError as error:
        raise ValueError(f"in {chunk} or around it: {error}") from error
    inside: Array = result[inner]
    return inside


def local_propagate(
    values: Any,
    image: Any,
    *,
    zeta: float,
    kernel_size: int = 5,
    iterations: int = 20,
    mask: Any = None,
    channel_axis: int | Literal["auto"] | None = "auto",
    image_channel_axis: int | Literal["auto"] | None = "auto",
    spatial_ndim: int = 2,
    workers: int | None = None,
    out: Any = None,
    check_finite: bool = True,
) -> Any:
    """Propagate locally over dask arrays, as a dask array; see `aproarray.local_propagate`.

    Chunks overlap by ``iterations * (kernel_size // 2)`` pixels; smaller ones are put together for that.
    The result has the image's chunks, and the same bits as in memory.
    """
    _arguments.refuse({"out": out, "workers": workers}, "local_propagate")
    zeta = _validate.positive(zeta, "zeta")
    kernel_size = _validate.odd(kernel_size, "kernel_size")
    iterations = _validate.integer(iterations, "iterations", 0)
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM)
    values, image = _arguments.lazy(values, "values"), _arguments.lazy(image, "image")
    option = "image_channel_axis"
    if _validate.is_auto(image_channel_axis):
        image_channel_axis, option = channel_axis, "channel_axis"
    image_layout = _validate.image_layout(image.shape, spatial_ndim, image_channel_axis, option=option)
    if _validate.is_auto(channel_axis):
        channel_axis = -1
    layout = _validate.layout_over(
        values.shape, image_layout.leading, image_layout.spatial, channel_axis, "values", "an image"
    )
    ndim, n_leading = values.ndim, len(image_layout.leading)
    image_shape = image.shape
    image, values = _arguments.channels_last(image, image_layout), _arguments.channels_last(values, layout)
    image = image.rechunk({image.ndim - 1: -1})
    chunks = image.chunks[n_leading:-1]
    surroundings = _overlap.surroundings(chunks, iterations * (kernel_size // 2))
    wide = surroundings.chunks
    mask = _arguments.mask(mask, image_layout, image.chunks[:-1], image_shape)
    image = _arguments.floats(image, mask, n_leading)

    values = values.rechunk(dict(enumerate(image.chunks[:n_leading])))
    rest = values.chunks[n_leading : values.ndim - spatial_ndim - 1]
    inputs = [
        surroundings.around(values, values.ndim - 1 - spatial_ndim), surroundings.around(image, n_leading)
    ]  # fmt: skip
    if mask is not None:
        inputs.append(surroundings.around(mask, mask.ndim - spatial_ndim))
    name = f"local-propagate-{tokenize(*inputs, zeta, kernel_size, iterations, check_finite)}"
    graph: dict[Any, Any] = {}
    leading = image.chunks[:n_leading]
    axes = [range(len(along)) for along in (*leading, *rest, *wide, values.chunks[-1])]
    for index in itertools.product(*axes):
        lead, place = index[:n_leading], index[-1 - spatial_ndim : -1]
        task = functools.partial(
            _propagate,
            inner=(..., *surroundings.inner(place), slice(None)),
            chunk=f"chunk {(*lead, *place)}",
            zeta=zeta,
            kernel_size=kernel_size,
            iterations=iterations,
            channel_axis=-1,
            image_channel_axis=-1,
            spatial_ndim=spatial_ndim,
            check_finite=check_finite,
        )
        mask_key = None
        if mask is not None:
            mask_key = (inputs[2].name, *(lead if mask.ndim > spatial_ndim else ()), *place)
        graph[(name, *index)] = task, (inputs[0].name, *index), (inputs[1].name, *lead, *place, 0), mask_key
    compute = _validate.compute_dtype(values.dtype)
    dtype = np.dtype(np.float16) if values.dtype == np.float16 else compute
    layers = HighLevelGraph.from_collections(name, graph, dependencies=inputs)
    result_chunks = (*leading, *rest, *wide, values.chunks[-1])
    result = da.Array(layers, name, result_chunks, dtype=dtype)
    result = result.rechunk((*leading, *rest, *chunks, values.chunks[-1]))
    return _arguments.channels_back(result, layout, ndim)
