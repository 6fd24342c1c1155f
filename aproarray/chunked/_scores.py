"""Soft scores and affinity maps over dask arrays: local propagation over the features of chunks."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, Literal

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from aproarray import _edges, _labels, _relief, _validate
from aproarray._api import local_propagate
from aproarray.chunked import _arguments, _overlap, _statistics
from aproarray.chunked._again import read_again
from aproarray.chunked._boxes import Array, Boxes, Shape
from aproarray.chunked._passes import Graph
from aproarray.chunked._statistics import Image, Known
from aproarray.chunked._trees import mst


def _propagated(
    pixels: Array,
    takes_part: Array | None,
    scores: Array,
    known: Known,
    inner: Any,
    within: tuple[slice, ...],
    shape: Shape,
    convert2lab: bool | None,
    zeta: float | None,
    iterations: int,
    chunk: str,
) -> Array:
    """Return the scores of a chunk, propagated over its features.

    `within` is where it lies in the image, with what is around it. Scores of fewer pixels than the image come
    as a whole.
    """
    mask = known.mask(takes_part)
    scores = scores.astype(_validate.compute_dtype(scores.dtype), copy=False)
    if mask is None:
        _validate.finite(scores.reshape(1, -1, scores.shape[-1]), f"scores in {chunk}")
    try:
        if scores.shape[:-1] != pixels.shape[:-1]:
            scores = _labels.resampled(scores, shape, mask, within)
        else:
            scores = _labels.resampled(scores, scores.shape[:-1], mask)
    except ValueError as error:
        raise ValueError(f"in {chunk} or around it: {error}") from error
    features, _ = known.features(pixels, takes_part, convert2lab)
    if zeta is None:
        zeta = _labels.local_zeta(known.step)
    result: Array = local_propagate(
        scores, features, zeta=zeta, kernel_size=_labels.KERNEL_SIZE, iterations=iterations, mask=mask,
        channel_axis=-1, spatial_ndim=features.ndim - 1, workers=1,
    )[inner]  # fmt: skip
    return result


def _over(
    image: Image, scores: Any, known: Delayed, zeta: float | None, iterations: int, shape: Shape
) -> Any:
    """Return scores (*spatial, classes) propagated over an image, as a dask array."""
    reach = iterations * (_labels.KERNEL_SIZE // 2) + _relief.FEATURES_REACH
    surroundings = _overlap.surroundings(image.chunks, reach)
    name = f"scores-{tokenize(*image, scores, zeta, iterations)}"
    wide = image.again(known, name).around(surroundings)
    is_whole = scores.shape[:-1] == shape
    if is_whole:
        scores = surroundings.around(scores, 0)
    else:
        scores = scores.rechunk(dict.fromkeys(range(len(shape)), -1))
    boxes = Boxes(surroundings.chunks)
    graph: Graph = {}
    for index, column in itertools.product(boxes.nodes(0), range(len(scores.chunks[-1]))):
        box, inner = boxes.box(0, index), surroundings.inner(index)
        within = tuple(
            slice(low - part.start, min(high + depth, extent))
            for low, high, part, depth, extent in zip(
                box.low, box.high, inner, surroundings.depths, shape, strict=True
            )
        )
        task = functools.partial(
            _propagated, inner=inner, within=within, shape=shape, convert2lab=image.convert2lab, zeta=zeta,
            iterations=iterations, chunk=f"chunk {index}",
        )  # fmt: skip
        place = index if is_whole else (0,) * len(index)
        graph[(name, *index, column)] = task, *wide.keys(index), (scores.name, *place, column), known.key
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[*wide.inputs, scores, known])
    dtype = _validate.compute_dtype(scores.dtype)
    return da.Array(layers, name, (*surroundings.chunks, scores.chunks[-1]), dtype=dtype).rechunk(
        dict(enumerate(image.chunks))
    )


def refine(
    image: Any,
    scores: Any,
    *,
    mode: Literal["local"] | None = None,
    iterations: int = 60,
    edges: Any = None,
    features: Any = None,
    class_axis: int | None = -1,
    channel_axis: int | Literal["auto"] | None = "auto",
    spatial_ndim: int = 2,
    mask: Any = None,
    convert2lab: bool | None = None,
    workers: int | None = None,
) -> Any:
    """Return scores that follow a dask array, as one; see `aproarray.refine`.

    The result has the image's chunks, and the same bits as in memory. Mode "local" alone: zeta of the others
    is a median of the whole tree.
    """
    if mode is not None:
        _validate.choice(mode, "mode", _labels.MODES)
    if mode not in (None, "local"):
        raise ValueError(
            f"refine of dask arrays has mode 'local' alone, got {mode!r}: call global_propagate with "
            "mst(image) and a zeta"
        )
    _arguments.refuse({"edges": edges, "features": features, "workers": workers}, "refine")
    iterations = _validate.integer(iterations, "iterations", 0)
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM)
    pixels, values = _arguments.lazy(image, "image"), _arguments.lazy(scores, "scores")
    layout = _validate.image_layout(pixels.shape, spatial_ndim, channel_axis)
    own = _labels.scores_layout(
        values.shape, _labels.Images(layout.leading, layout.spatial, pixels, None, None, None), class_axis
    )
    pixels, takes_part = _laid_out(pixels, layout, mask)
    values = _arguments.channels_last(values, own)
    each = []
    for item in np.ndindex(layout.leading):
        shared = takes_part is None or takes_part.ndim == spatial_ndim
        over = Image(pixels[item], takes_part if shared else takes_part[item], mask is not None, convert2lab)
        known = _statistics.known(over)
        each.append(_over(over, values[item], known, None, iterations, layout.spatial))
    shape = (*layout.leading, *layout.spatial, own.n_channels)
    if 0 in shape:
        result = da.zeros(shape, dtype=_validate.compute_dtype(values.dtype))
    else:
        result = da.stack(each).reshape(shape) if layout.leading else each[0]
    return result[..., 0] if own.channel_axis is None else da.moveaxis(result, -1, own.channel_axis)


def _laid_out(pixels: Any, layout: _validate.Layout, mask: Any) -> tuple[Any, Any]:
    """Return an image with its channels last, in one chunk, and its mask."""
    shape = pixels.shape
    pixels = _arguments.channels_last(pixels, layout)
    pixels = pixels.rechunk({pixels.ndim - 1: -1})
    return pixels, _arguments.mask(mask, layout, pixels.chunks[:-1], shape)


def affinity_map(
    image: Any,
    pixel: Any,
    *,
    kind: Literal["global", "local"] = "global",
    zeta: float | None = None,
    iterations: int = 60,
    channel_axis: int | Literal["auto"] | None = "auto",
    spatial_ndim: int = 2,
    mask: Any = None,
    convert2lab: bool | None = None,
) -> Any:
    """Return how alike all pixels of a dask array are to one, as such; see `aproarray.affinity_map`."""
    _validate.choice(kind, "kind", ("global", "local"))
    if zeta is not None:
        zeta = _validate.positive(zeta, "zeta")
    iterations = _validate.integer(iterations, "iterations", 0)
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM)
    pixels = _arguments.lazy(image, "image")
    layout = _validate.image_layout(pixels.shape, spatial_ndim, channel_axis)
    if layout.leading:
        raise ValueError(
            f"image of shape {pixels.shape} has more than {spatial_ndim} spatial axes beside its channels: "
            "expected one image, not a batch"
        )
    index = _labels.pixel_of(pixel, layout.spatial)
    pixels, takes_part = _laid_out(pixels, layout, mask)
    over = Image(pixels, takes_part, mask is not None, convert2lab)
    known = _statistics.known(over)
    if kind == "global":
        (again,) = read_again([takes_part], known, "tree") if takes_part is not None else (None,)
        tree = mst(_features(over, known), channel_axis=-1, spatial_ndim=spatial_ndim, mask=again)
        return tree.affinity(index, _map_zeta(tree, known) if zeta is None else zeta)
    start = da.map_blocks(
        _one_at, chunks=over.chunks, dtype=np.float32, meta=np.empty((0,) * spatial_ndim, np.float32),
        place=index,
    )  # fmt: skip
    spread = _over(over, start[..., None], known, zeta, iterations, layout.spatial)[..., 0]
    largest = spread.max()
    return da.where(largest > 0, spread / da.where(largest > 0, largest, 1), start).astype(np.float32)


def _one_at(place: tuple[int, ...], block_info: Any = None) -> Array:
    """Return a chunk that is 1 at a pixel of the image, and 0 elsewhere."""
    ends = block_info[None]["array-location"]
    block = np.zeros([high - low for low, high in ends], np.float32)
    if all(low <= at < high for at, (low, high) in zip(place, ends, strict=True)):
        block[tuple(at - low for at, (low, _) in zip(place, ends, strict=True))] = 1
    return block


def _features(image: Image, known: Delayed) -> Any:
    """Return the features of an image, as a dask array; channels that are not compared are left out."""
    surroundings = _overlap.surroundings(image.chunks, _relief.FEATURES_REACH)
    name = f"features-{tokenize(*image)}"
    wide = image.again(known, name).around(surroundings)
    graph: Graph = {}
    for index in Boxes(surroundings.chunks).nodes(0):
        task = functools.partial(
            _own_features, inner=surroundings.inner(index), convert2lab=image.convert2lab
        )
        graph[(name, *index, 0)] = task, *wide.keys(index), known.key
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[*wide.inputs, known])
    chunks = (*surroundings.chunks, image.pixels.shape[-1:])
    return da.Array(layers, name, chunks, dtype=np.float32)


def _own_features(
    pixels: Array, takes_part: Array | None, known: Known, inner: Any, convert2lab: bool | None
) -> Array:
    features, _ = known.features(pixels, takes_part, convert2lab)
    own: Array = features[inner]
    return np.concatenate([own, np.zeros((*own.shape[:-1], pixels.shape[-1] - own.shape[-1]), own.dtype)], -1)


def _map_zeta(tree: Any, known: Delayed) -> Delayed:
    """Return the zeta of a global map: twice the root mean square step of the tree's edges."""
    total = tree.sum_of_gaps()
    name = f"zeta-{tokenize(tree)}"
    graph = {name: (_zeta_of, total.key, known.key)}
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[total, known])
    return Delayed(name, layers, layer=name)


def _zeta_of(total: tuple[float, int], known: Known) -> float:
    if known.range_ is not None and known.range_.has_outliers:
        raise ValueError(
            "image has outliers, whose edges do not count where zeta is chosen from the image: over dask "
            "arrays, pass zeta"
        )
    return 2 * math.sqrt(total[0] / total[1]) if total[1] and total[0] > 0 else 1.0
