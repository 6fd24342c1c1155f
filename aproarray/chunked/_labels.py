"""Labels over dask arrays: chunks are flooded in two passes, and then vote with what is around them."""

from __future__ import annotations

import functools
from typing import Any, Literal

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from aproarray import _labels, _relief, _validate, cpu
from aproarray.chunked import _arguments, _forest, _overlap, _passes, _statistics
from aproarray.chunked._again import read_again
from aproarray.chunked._boxes import Array, Box, Boxes
from aproarray.chunked._forest import Border, Part
from aproarray.chunked._passes import Graph
from aproarray.chunked._statistics import Image, Known
from aproarray.chunked._trees import mst


def _prepared(
    pixels: Array, takes_part: Array | None, known: Known, convert2lab: bool | None
) -> _labels.PreparedImage:
    image = _labels.OneImage(pixels, known.mask(takes_part), None, None)
    return _labels.PreparedImage(image, convert2lab, None, 1, known.statistics)


def _inside(takes_part: Array | None, known: Known, inner: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = known.mask(takes_part)
    return np.ones(shape, bool) if mask is None else mask[inner]


def _parts(
    pixels: Array,
    takes_part: Array | None,
    labels: Array,
    known: Known,
    inner: Any,
    box: Box,
    convert2lab: bool | None,
    chunk: str,
) -> list[Part]:
    """Return a chunk as it is seen through its border, for each relief."""
    if labels.dtype.kind == "f":
        bad = labels[~(np.isfinite(labels) & (labels == np.rint(labels)))]
        if bad.size:
            raise ValueError(
                f"labels must be whole numbers (0: unlabelled), but {bad.size} of {labels.size} in {chunk} "
                f"are not, such as {bad[0]}"
            )
    reliefs = _prepared(pixels, takes_part, known, convert2lab).reliefs
    own = _inside(takes_part, known, inner, box.shape)
    return [
        _forest.chunk_part(relief[inner], own, labels, heaviest, box)
        for relief, heaviest in zip(reliefs, known.heaviest, strict=True)
    ]


def _join(children: list[list[Part]], known: Known, box: Box) -> list[Part]:
    return [
        _forest.join([child[k] for child in children], heaviest, box)
        for k, heaviest in enumerate(known.heaviest)
    ]


def _down(children: list[list[Part]], own: list[Border] | None, known: Known, box: Box) -> list[list[Border]]:
    """Return the borders of a box's parts, for each relief, from its own."""
    of_relief = [
        _forest.down([child[k] for child in children], None if own is None else own[k], heaviest, box)
        for k, heaviest in enumerate(known.heaviest)
    ]
    return [[borders[place] for borders in of_relief] for place in range(len(children))]


def _flooded(
    pixels: Array,
    takes_part: Array | None,
    labels: Array,
    known: Known,
    border: list[Border] | None,
    inner: Any,
    box: Box,
    convert2lab: bool | None,
) -> NDArray[np.int64]:
    """Return the labels that floods bring to a chunk."""
    reliefs = _prepared(pixels, takes_part, known, convert2lab).reliefs
    own = _inside(takes_part, known, inner, box.shape)
    maps = [
        _forest.chunk_labels(relief[inner], own, labels, None if border is None else border[k], heaviest, box)
        for k, (relief, heaviest) in enumerate(zip(reliefs, known.heaviest, strict=True))
    ]
    return agreed(maps)


def agreed(maps: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return what two of the labels of three reliefs say; the first, where each says something else.

    In memory, `cpu.settle` also looks at the seeds of the whole image where they disagree.
    """
    return np.where(maps[1] == maps[2], maps[1], maps[0])


def _voted(
    pixels: Array,
    takes_part: Array | None,
    labels: Array,
    found: NDArray[np.int64],
    zones: Array | None,
    known: Known,
    inner: Any,
    convert2lab: bool | None,
) -> Array:
    """Return the labels of a chunk, from those that floods bring to it and around it."""
    own = _inside(takes_part, known, slice(None), labels.shape)
    values, numbers = np.unique(found[found != 0], return_inverse=True)
    chosen = np.where(own, np.int32(0), np.int32(-1))
    chosen[found != 0] = numbers + 1
    if known.masked and zones is not None:
        zones = np.unique(zones, return_inverse=True)[1].reshape(labels.shape)
    prepared = _prepared(pixels, takes_part, known, convert2lab)
    chosen = prepared.voted(cpu, chosen, (labels > 0) & own, zones if known.masked else None)
    result = labels[inner].copy()
    brought = np.append(0, values).astype(labels.dtype)
    result[own[inner]] = brought[chosen[inner][own[inner]]]
    return np.asarray(result)


def propagate_labels(
    image: Any,
    labels: Any,
    *,
    return_full_prob: bool = False,
    channel_axis: int | Literal["auto"] | None = "auto",
    spatial_ndim: int | None = None,
    mask: Any = None,
    edges: Any = None,
    features: Any = None,
    convert2lab: bool | None = None,
    spacing: Any = None,
    workers: int | None = None,
) -> Any:
    """Return the labels of all pixels of a dask array, as one; see `aproarray.propagate_labels`.

    They are those in memory, in the chunks of `labels`, where the three reliefs bring one label. Elsewhere,
    they are what two of them say, or the middle one: the seeds of the whole image are not compared with.
    """
    if _validate.flag(return_full_prob, "return_full_prob"):
        raise TypeError(
            "propagate_labels of dask arrays returns labels, and no shares, got return_full_prob=True"
        )
    options = {"edges": edges, "features": features, "spacing": spacing, "workers": workers}
    _arguments.refuse(options, "propagate_labels")
    if convert2lab is not None:
        convert2lab = _validate.flag(convert2lab, "convert2lab")
    pixels, seeds = _arguments.lazy(image, "image"), _arguments.lazy(labels, "labels")
    if seeds.dtype == np.bool_:
        raise TypeError("labels must hold integers (0: unlabelled), got booleans, which know one class alone")
    ndim, channel_axis = _labels.axes_beside_labels(pixels.shape, seeds.shape, channel_axis, spatial_ndim)
    layout = _validate.image_layout(pixels.shape, ndim, channel_axis)
    pixels = _arguments.channels_last(pixels, layout)
    pixels = pixels.rechunk({pixels.ndim - 1: -1})
    takes_part = _arguments.mask(mask, layout, pixels.chunks[:-1], image.shape)
    chunks = seeds.chunks
    seeds = seeds.rechunk(pixels.chunks[:-1])
    if not layout.leading:
        result = _one(pixels, seeds, takes_part, convert2lab)
    else:
        shared = takes_part is None or takes_part.ndim == ndim
        each = [
            _one(pixels[item], seeds[item], takes_part if shared else takes_part[item], convert2lab)
            for item in np.ndindex(layout.leading)
        ]
        result = da.stack(each).reshape(seeds.shape) if each else seeds
    return result.rechunk(chunks)


def _one(pixels: Any, seeds: Any, mask: Any, convert2lab: bool | None) -> Any:
    """Return the labels of one image."""
    if 0 in seeds.shape:
        return seeds
    takes_part = mask
    if seeds.dtype.kind != "u":
        takes_part = seeds >= 0 if mask is None else (seeds >= 0) & mask
    image = Image(pixels, takes_part, mask is not None, convert2lab)
    known = _statistics.with_reliefs(image, _statistics.known(image))
    name = f"propagate-labels-{tokenize(*image, seeds)}"
    maps = _floods(name, image, seeds, known)
    surroundings = _overlap.surroundings(image.chunks, _labels.VOTES_REACH)
    image = image.again(known, "votes").around(surroundings)
    zones = None
    if takes_part is not None:
        plain = da.zeros(seeds.shape, chunks=seeds.chunks, dtype=np.uint8)
        tree = mst(plain, spatial_ndim=seeds.ndim, channel_axis=None, mask=takes_part)
        zones = surroundings.around(tree.cut(0), 0)
    (labels,) = read_again([seeds], known, "labels to vote")
    labels, found = surroundings.around(labels, 0), surroundings.around(maps, 0)
    graph: Graph = {}
    for index in Boxes(surroundings.chunks).nodes(0):
        task = functools.partial(_voted, inner=surroundings.inner(index), convert2lab=convert2lab)
        graph[(name, *index)] = (
            task, *image.keys(index), (labels.name, *index), (found.name, *index),
            None if zones is None else (zones.name, *index), known.key,
        )  # fmt: skip
    inputs = [*image.inputs, labels, found, known, *([] if zones is None else [zones])]
    layers = HighLevelGraph.from_collections(name, graph, dependencies=inputs)
    return da.Array(layers, name, surroundings.chunks, dtype=seeds.dtype)


def _floods(name: str, image: Image, seeds: Any, known: Delayed) -> Any:
    """Return the labels that floods bring, as a dask array."""
    surroundings = _overlap.surroundings(image.chunks, _relief.REACH)
    boxes = Boxes(surroundings.chunks)
    graph: Graph = {}
    part, borders, border = (_passes.key_of(f"{name}-{what}", 0) for what in ("part", "borders", "border"))
    wide = image.again(known, "parts").around(surroundings)
    (labels,) = read_again([seeds.rechunk(surroundings.chunks)], known, "seeds")
    for index in boxes.nodes(0):
        task = functools.partial(
            _parts, inner=surroundings.inner(index), box=boxes.box(0, index), convert2lab=image.convert2lab,
            chunk=f"chunk {index}",
        )  # fmt: skip
        graph[part(0, index)] = task, *wide.keys(index), (labels.name, *index), known.key
    top = boxes.n_levels - 1
    for level in range(1, boxes.n_levels):
        for index in boxes.nodes(level):
            children = [part(level - 1, child) for child in boxes.children(level, index)]
            box = boxes.box(level, index)
            if level < top:
                graph[part(level, index)] = functools.partial(_join, box=box), children, known.key
            above = _passes.above(border, boxes, level, index)
            graph[borders(level, index)] = functools.partial(_down, box=box), children, above, known.key
            for place, child in enumerate(boxes.children(level, index)):
                graph[border(level - 1, child)] = _passes.part_of(borders(level, index), place)
    ready = f"{name}-ready"
    needed = [_passes.above(border, boxes, 0, index) for index in boxes.nodes(0)]
    graph[ready] = _passes.wait_for, needed
    layers = HighLevelGraph.from_collections(
        f"{name}-passes", graph, dependencies=[*wide.inputs, labels, known]
    )
    barrier = Delayed(ready, layers, layer=f"{name}-passes")
    wide = image.again(barrier, "floods").around(surroundings)
    (labels,) = read_again([seeds.rechunk(surroundings.chunks)], barrier, "seeds again")
    graph = {}
    for index in boxes.nodes(0):
        flood = functools.partial(
            _flooded, inner=surroundings.inner(index), box=boxes.box(0, index), convert2lab=image.convert2lab
        )
        graph[(f"{name}-floods", *index)] = (
            flood, *wide.keys(index), (labels.name, *index), known.key,
            _passes.above(border, boxes, 0, index),
        )  # fmt: skip
    layers = HighLevelGraph.from_collections(
        f"{name}-floods", graph, dependencies=[*wide.inputs, labels, known, barrier]
    )
    return da.Array(layers, f"{name}-floods", surroundings.chunks, dtype=np.int64)
