"""Labels over dask arrays: chunks are compared with the seeds, flooded in two passes, settled, and vote.

Nothing of the image's size is kept between passes but the labels that floods bring, compressed.
"""

from __future__ import annotations

import functools
import zlib
from typing import Any, Literal, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from aproarray import _labels, _relief, _sure, _validate, cpu
from aproarray.chunked import _arguments, _forest, _overlap, _passes, _statistics
from aproarray.chunked._again import read_again
from aproarray.chunked._boxes import Array, Box, Boxes, Shape
from aproarray.chunked._forest import Border, Part
from aproarray.chunked._passes import Graph
from aproarray.chunked._statistics import Image, Known
from aproarray.chunked._trees import mst


class _Table(NamedTuple):
    """The seeds of an image, or of a part of one: label l of `seeds` is values[l - 1], ascending."""

    values: Array
    seeds: cpu.Seeds
    lattices: list[tuple[Shape, Array]]
    """Features (*grid, C) of the closest lattice that may be asked for, and where a chunk's begin in it."""


class _Sown(NamedTuple):
    """The seeds of an image, and the pixels whose label is sure."""

    values: Array
    seeds: cpu.Seeds
    step: int
    sure: NDArray[np.int32] | None
    """Label l of every `step`-th pixel, 0 elsewhere; None: there are none."""

    def labels(self, labels: Array, box: Box) -> Array:
        """Return the labels of a chunk's seeds, and of the pixels that are sure."""
        if self.sure is None:
            return labels
        labels = labels.copy()
        every, grid = _lattice_in(box, self.step)
        brought = np.append(labels.dtype.type(0), self.values)
        own = labels[every]
        own[...] = np.where(own == 0, brought[self.sure[grid]], own)
        return labels


def _lattice_in(box: Box, step: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where the pixels of a lattice are in a chunk, and in the whole lattice."""
    begins = [-(-low // step) for low in box.low]
    ends = [-(-(low + extent) // step) for low, extent in zip(box.low, box.shape, strict=True)]
    every = tuple(slice(begin * step - low, None, step) for begin, low in zip(begins, box.low, strict=True))
    return every, tuple(map(slice, begins, ends))


class _Flooded(NamedTuple):
    """What three floods bring to a chunk, by the numbers of the whole image's labels."""

    survey: cpu.Survey
    """Label l of it is numbers[l]."""
    numbers: NDArray[np.int32]
    maps: bytes
    """Compressed."""
    dtype: np.dtype[Any]
    shape: Shape

    def unpacked(self) -> NDArray[np.int32]:
        """Return the labels (reliefs, *spatial)."""
        return np.frombuffer(zlib.decompress(self.maps), self.dtype).reshape(self.shape).astype(np.int32)


def _inside(takes_part: Array | None, known: Known, inner: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = known.mask(takes_part)
    return np.ones(shape, bool) if mask is None else mask[inner]


def _own_pixels(features: Array, inner: Any, box: Box) -> cpu.Pixels:
    """Return a chunk's pixels, without those around them."""
    own = np.ascontiguousarray(features[inner], np.float32)
    return cpu.Pixels(own.reshape(-1, own.shape[-1]), box.shape, box.low, None)


def _table(
    pixels: Array,
    takes_part: Array | None,
    labels: Array,
    known: Known,
    inner: Any,
    box: Box,
    convert2lab: bool | None,
    chunk: str,
) -> _Table:
    """Return the seeds of a chunk, and the pixels of it that are compared with all seeds."""
    if labels.dtype.kind == "f":
        bad = labels[~(np.isfinite(labels) & (labels == np.rint(labels)))]
        if bad.size:
            raise ValueError(
                f"labels must be whole numbers (0: unlabelled), but {bad.size} of {labels.size} in {chunk} "
                f"are not, such as {bad[0]}"
            )
    features, _ = known.features(pixels, takes_part, convert2lab)
    own = _inside(takes_part, known, inner, box.shape)
    values, numbers = _numbered(labels, own)
    seeds = cpu.Seeds.of(numbers.reshape(-1), _own_pixels(features, inner, box), len(values) + 1)
    lattices = []
    step = _sure.step_between(box.image, 2)
    if step is not None and not known.masked:
        every, grid = _lattice_in(box, step)
        lattices = [(tuple(part.start for part in grid), features[inner][every].astype(np.float32))]
    return _Table(values, seeds, lattices)


def _parts(
    pixels: Array,
    takes_part: Array | None,
    labels: Array,
    known: Known,
    sown: _Sown,
    inner: Any,
    box: Box,
    convert2lab: bool | None,
) -> list[Part]:
    """Return a chunk as it is seen through its border, for each relief."""
    _, reliefs = known.reliefs(pixels, takes_part, convert2lab)
    own, labels = _inside(takes_part, known, inner, box.shape), sown.labels(labels, box)
    return [
        _forest.chunk_part(relief[inner], own, labels, heaviest, box)
        for relief, heaviest in zip(reliefs, known.heaviest, strict=True)
    ]


def _numbered(labels: Array, own: NDArray[np.bool_]) -> tuple[Array, NDArray[np.int32]]:
    """Return the labels of seeds, ascending, and in their place their numbers from 1 on, 0 elsewhere."""
    seeded = (labels > 0) & own
    values, numbers = np.unique(labels[seeded], return_inverse=True)
    dense = np.zeros(labels.shape, np.int32)
    dense[seeded] = numbers + 1
    return values, dense


def _all_seeds(tables: list[_Table]) -> _Table:
    values = np.unique(np.concatenate([table.values for table in tables]))
    numbers = [_numbers_of(table.values, values) for table in tables]
    seeds = cpu.Seeds.joined([table.seeds for table in tables], numbers, len(values) + 1)
    return _Table(values, seeds, [one for table in tables for one in table.lattices])


def _sown(table: _Table, shape: Shape) -> _Sown:
    """Return the seeds of an image of a shape, and its pixels whose label is sure."""
    values, seeds, lattices = table
    step = _sure.step_between(shape, len(values))
    if step is None or not lattices:
        return _Sown(values, seeds, 0, None)
    closest = _sure.step_between(shape, 2)
    assert closest is not None
    grid = [-(-extent // closest) for extent in shape]
    features = np.empty((*grid, lattices[0][1].shape[-1]), np.float32)
    for begins, part in lattices:
        features[tuple(slice(b, b + n) for b, n in zip(begins, part.shape[:-1], strict=True))] = part
    every = (slice(None, None, step // closest),) * len(shape)
    sure = _sure.sure_labels(features[every], step, seeds, (1.0,) * len(shape))
    return _Sown(values, seeds, step, sure if sure.any() else None)


def _numbers_of(values: Array, among: Array) -> NDArray[np.int32]:
    """Return the numbers, from 1 on, of values among ascending ones, after a 0."""
    return np.append(0, np.searchsorted(among, values) + 1).astype(np.int32)


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
    sown: _Sown,
    inner: Any,
    box: Box,
    convert2lab: bool | None,
) -> _Flooded:
    """Return the labels that floods bring to a chunk, and how its pixels compare with the seeds."""
    features, reliefs = known.reliefs(pixels, takes_part, convert2lab)
    own, seeded = _inside(takes_part, known, inner, box.shape), sown.labels(labels, box)
    maps = np.stack(
        [
            _forest.chunk_labels(
                relief[inner], own, seeded, None if border is None else border[k], heaviest, box, sown.values
            )
            for k, (relief, heaviest) in enumerate(zip(reliefs, known.heaviest, strict=True))
        ]
    )
    numbers, local = _present(maps, len(sown.values))
    evidence = sown.seeds.only(numbers[1:]).evidence(_own_pixels(features, inner, box))
    seeds = ((labels > 0) & own).astype(np.int32).reshape(-1)
    survey, _ = cpu.Survey.of(list(local.reshape(len(maps), -1)), seeds, evidence, len(numbers))
    packed = maps.astype(np.min_scalar_type(len(sown.values)))
    return _Flooded(survey, numbers, zlib.compress(packed.tobytes(), 1), packed.dtype, packed.shape)


def _present(maps: NDArray[np.int32], n: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the numbers that there are in maps, from 1 to n, after a 0, and the maps by their places."""
    found = np.zeros(n + 1, bool)
    found[maps] = True
    found[0] = True
    numbers = np.flatnonzero(found).astype(np.int32)
    places = np.zeros(n + 1, np.int32)
    places[numbers] = np.arange(len(numbers))
    return numbers, places[maps]


def _surveyed(flooded: _Flooded) -> tuple[NDArray[np.int32], cpu.Survey]:
    return flooded.numbers, flooded.survey


def _all_surveys(
    parts: list[tuple[NDArray[np.int32], cpu.Survey]],
) -> tuple[NDArray[np.int32], cpu.Survey]:
    """Return the survey of several parts, by the numbers that there are in any of them."""
    numbers = np.unique(np.concatenate([own for own, _ in parts]))
    places = [np.searchsorted(numbers, own).astype(np.int32) for own, _ in parts]
    return numbers, cpu.Survey.joined([survey for _, survey in parts], places, len(numbers))


def _weights(
    total: tuple[NDArray[np.int32], cpu.Survey], sown: _Sown, known: Known, shape: Shape
) -> cpu.Weights | None:
    """Return how comparisons with seeds count; None: the floods agree everywhere."""
    numbers, survey = total
    if not survey.brought.any():
        return None
    n_labels = len(sown.values) + 1
    whole = cpu.Survey.joined([survey], [numbers], n_labels)
    trust = _labels.trust_in_forests(shape, known.clean, known.n_pixels, len(sown.values))
    return cpu.Weights.of(sown.seeds, whole, trust, _labels.STRENGTH)


def _unpacked(flooded: _Flooded, _: Any) -> NDArray[np.int32]:
    return flooded.unpacked()


def _voted(
    pixels: Array,
    takes_part: Array | None,
    labels: Array,
    maps: NDArray[np.int32],
    zones: Array | None,
    known: Known,
    sown: _Sown,
    weights: cpu.Weights | None,
    inner: Any,
    box: Box,
    convert2lab: bool | None,
) -> Array:
    """Return the labels of a chunk, from those that floods bring to it and around it."""
    features, _ = known.features(pixels, takes_part, convert2lab)
    own = _inside(takes_part, known, slice(None), labels.shape)
    voters = _labels.Voters(features, known.step, _labels.votes_over(box.image), None)
    numbers, local = _present(maps, len(sown.values))
    if weights is None:
        chosen = local[0]
    else:
        by_flood = list(local.reshape(len(maps), -1))
        first, second, third = by_flood
        apart = np.flatnonzero((first != second) | (first != third)).astype(np.int32)
        origin = tuple(low - part.start for low, part in zip(box.low, inner, strict=True))
        area = cpu.Pixels(features.reshape(-1, features.shape[-1]), labels.shape, origin, None)
        evidence = sown.seeds.only(numbers[1:]).evidence(area)
        chosen = weights.only(numbers[1:]).choose(by_flood, apart, evidence, 1).reshape(labels.shape)
    padded = np.full((3, *voters.shape), -1, np.int32)
    padded[0][voters.inner] = np.where(own, chosen, -1)
    padded[1][voters.inner] = (labels > 0) & own
    masked = False
    if known.masked and zones is not None:
        masked = True
        padded[2][voters.inner] = np.unique(zones, return_inverse=True)[1].reshape(labels.shape)
    flat = padded.reshape(3, -1)
    held = (flat[1] > 0).view(np.uint8)
    voters.vote(flat[0], flat[2] if masked else flat[2][:0], held, np.zeros((0, 0), np.float32), 1)
    result = labels[inner].copy()
    brought = np.zeros(len(numbers), labels.dtype)
    brought[1:] = sown.values[numbers[1:] - 1]
    result[own[inner]] = brought[padded[0][voters.inner][inner][own[inner]]]
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

    They are those in memory, in the chunks of `labels`.
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
    sown = _all_sown(f"{name}-sown", image, seeds, known)
    maps, settling = _floods(name, image, seeds, known, sown)
    surroundings = _overlap.surroundings(image.chunks, _labels.VOTES_REACH)
    image = image.again(settling, "votes").around(surroundings)
    zones = None
    if takes_part is not None:
        plain = da.zeros(seeds.shape, chunks=seeds.chunks, dtype=np.uint8)
        tree = mst(plain, spatial_ndim=seeds.ndim, channel_axis=None, mask=takes_part)
        zones = surroundings.around(tree.cut(0), 0)
    (labels,) = read_again([seeds], settling, "labels to vote")
    labels, maps = surroundings.around(labels, 0), surroundings.around(maps, 1)
    graph: Graph = {}
    boxes = Boxes(surroundings.chunks)
    for index in boxes.nodes(0):
        task = functools.partial(
            _voted, inner=surroundings.inner(index), box=boxes.box(0, index), convert2lab=convert2lab
        )
        graph[(name, *index)] = (
            task, *image.keys(index), (labels.name, *index), (maps.name, 0, *index),
            None if zones is None else (zones.name, *index), known.key, f"{name}-sown", settling.key,
        )  # fmt: skip
    inputs = [*image.inputs, labels, maps, known, sown, settling, *([] if zones is None else [zones])]
    layers = HighLevelGraph.from_collections(name, graph, dependencies=inputs)
    return da.Array(layers, name, surroundings.chunks, dtype=seeds.dtype)


def _all_sown(name: str, image: Image, seeds: Any, known: Delayed) -> Delayed:
    """Return the seeds of an image, and the pixels whose label is sure."""
    surroundings = _overlap.surroundings(image.chunks, _relief.FEATURES_REACH)
    boxes = Boxes(surroundings.chunks)
    image = image.again(known, "seeds").around(surroundings)
    (labels,) = read_again([seeds.rechunk(surroundings.chunks)], known, "labels")
    graph: Graph = {}
    seeds_of = _passes.key_of(f"{name}-chunk", 0)
    for index in boxes.nodes(0):
        task = functools.partial(
            _table, inner=surroundings.inner(index), box=boxes.box(0, index), convert2lab=image.convert2lab,
            chunk=f"chunk {index}",
        )  # fmt: skip
        graph[seeds_of(0, index)] = task, *image.keys(index), (labels.name, *index), known.key
    _statistics.add_up(graph, f"{name}-table", [seeds_of(0, index) for index in boxes.nodes(0)], _all_seeds)
    graph[name] = functools.partial(_sown, shape=seeds.shape), f"{name}-table"
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[*image.inputs, labels, known])
    return Delayed(name, layers, layer=name)


def _floods(name: str, image: Image, seeds: Any, known: Delayed, sown: Delayed) -> tuple[Any, Delayed]:
    """Return the labels that floods bring, as a dask array (reliefs, *spatial), and how they are settled."""
    surroundings = _overlap.surroundings(image.chunks, _relief.REACH)
    boxes = Boxes(surroundings.chunks)
    graph: Graph = {}
    part, borders, border = (_passes.key_of(f"{name}-{what}", 0) for what in ("part", "borders", "border"))
    wide = image.again(sown, "parts").around(surroundings)
    (labels,) = read_again([seeds.rechunk(surroundings.chunks)], sown, "seeds")
    for index in boxes.nodes(0):
        task = functools.partial(
            _parts, inner=surroundings.inner(index), box=boxes.box(0, index), convert2lab=image.convert2lab
        )
        graph[part(0, index)] = task, *wide.keys(index), (labels.name, *index), known.key, sown.key
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
        f"{name}-passes", graph, dependencies=[*wide.inputs, labels, known, sown]
    )
    barrier = Delayed(ready, layers, layer=f"{name}-passes")
    wide = image.again(barrier, "floods").around(surroundings)
    (labels,) = read_again([seeds.rechunk(surroundings.chunks)], barrier, "seeds again")
    graph = {}
    flooded, survey = (_passes.key_of(f"{name}-{what}", 0) for what in ("flooded", "survey"))
    weights, maps = f"{name}-weights", f"{name}-maps"
    for index in boxes.nodes(0):
        flood = functools.partial(
            _flooded, inner=surroundings.inner(index), box=boxes.box(0, index), convert2lab=image.convert2lab
        )
        graph[flooded(0, index)] = (
            flood, *wide.keys(index), (labels.name, *index), known.key,
            _passes.above(border, boxes, 0, index), sown.key,
        )  # fmt: skip
        graph[survey(0, index)] = _surveyed, flooded(0, index)
        # Not before all are surveyed: until then they stay compressed.
        graph[(maps, 0, *index)] = _unpacked, flooded(0, index), weights
    _statistics.add_up(graph, f"{name}-surveys", [survey(0, index) for index in boxes.nodes(0)], _all_surveys)
    graph[weights] = functools.partial(_weights, shape=seeds.shape), f"{name}-surveys", sown.key, known.key
    inputs = [*wide.inputs, labels, known, sown, barrier]
    layers = HighLevelGraph.from_collections(maps, graph, dependencies=inputs)
    chunks = ((3,), *surroundings.chunks)
    return da.Array(layers, maps, chunks, dtype=np.int32), Delayed(weights, layers, layer=maps)
