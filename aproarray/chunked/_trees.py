"""ChunkedTree: the minimum spanning tree of a dask array, in pieces that are computed when needed."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import dask.array as da
import numpy as np
from dask.base import DaskMethodsMixin, tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.threaded import get as threaded_get
from numpy.typing import ArrayLike, NDArray

from aproarray import _edges, _validate, cpu
from aproarray.chunked import _arguments, _line, _passes
from aproarray.chunked._boxes import Box, Boxes, Index
from aproarray.chunked._line import FullLine, Joined, Line, OwnLine
from aproarray.chunked._passes import Graph, Key

Array = NDArray[Any]
NO_PIXELS = np.empty(0, np.int64)
_LARGEST = np.iinfo(np.int64).max


class Source(NamedTuple):
    """An image in chunks, and how trees are made of it."""

    image: Any
    """Dask array: leading axes, spatial axes, channels in one chunk."""
    mask: Any
    """Dask array or None: the leading axes or none, spatial axes."""
    n_leading: int
    connectivity: int
    check: bool

    @property
    def inputs(self) -> list[Any]:
        """The dask arrays."""
        return [self.image] if self.mask is None else [self.image, self.mask]


class Item(NamedTuple):
    """A tree of a batch."""

    number: int
    block: Index
    """The chunk along the leading axes that it is in."""
    within: Index
    """Its place in the chunk."""


def items_of(leading_chunks: tuple[tuple[int, ...], ...]) -> Iterator[Item]:
    """Run over the trees of a batch, by its chunks, in C order."""
    along = [
        [(block, place) for block, extent in enumerate(extents) for place in range(extent)]
        for extents in leading_chunks
    ]
    for number, places in enumerate(itertools.product(*along)):
        yield Item(number, tuple(block for block, _ in places), tuple(place for _, place in places))


def assembled(blocks: list[Array], leading: tuple[int, ...], axis: int) -> Array:
    """Return the results of the trees of a chunk with the chunk's leading axes, put where `axis` is."""
    if not leading:
        return blocks[0]
    stacked = np.stack(blocks, axis)
    return stacked.reshape(*stacked.shape[:axis], *leading, *stacked.shape[axis + 1 :])


def _own_line(
    block: Array, mask: Array | None, within: Index, mask_within: Index, **options: Any
) -> tuple[OwnLine, Line]:
    return _line.own_line(block[within], None if mask is None else mask[mask_within], **options)


class ChunkedTree(DaskMethodsMixin):  # type: ignore[misc]
    """The minimum spanning tree of a dask array, or a batch of them. Made by `mst`.

    This is a dask collection. ``tree.persist()`` computes all that depends on the image, and keeps it.
    Otherwise every call computes that from the image, twice.

    Notes
    -----
    A persisted tree takes 8 bytes per pixel with float32 weights, and its reduced lines: about 7 items for
    each pixel on the border of a chunk.
    """

    def __init__(self, source: Source, name: str | None = None, kept: Any = None):
        """Take an image, and where the trees have been computed the graph that has them."""
        self.source = source
        first = source.n_leading
        self.boxes = Boxes(source.image.chunks[first:-1])
        self.kept = kept
        self.name = name or f"tree-{tokenize(*source)}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape of the image."""
        return self.boxes.shape

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Leading axes of the image: () for one tree."""
        shape: tuple[int, ...] = self.source.image.shape[: self.source.n_leading]
        return shape

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Chunks along the leading and the spatial axes."""
        chunks: tuple[tuple[int, ...], ...] = self.source.image.chunks[:-1]
        return chunks

    @property
    def weights_dtype(self) -> np.dtype[Any]:
        """Dtype of the weights."""
        return _validate.compute_dtype(self.source.image.dtype)

    def __repr__(self) -> str:
        """Say what matters: shape, batch, chunks."""
        batch = f", batch_shape={self.batch_shape}" if self.batch_shape else ""
        persisted = ", persisted" if self.kept is not None else ""
        n_chunks = "x".join(str(len(along)) for along in self.boxes.chunks)
        return f"ChunkedTree(shape={self.shape}{batch}, chunks={n_chunks}{persisted})"

    def items(self) -> Iterator[Item]:
        """Run over the trees of the batch."""
        return items_of(self.chunks[: self.source.n_leading])

    def label_of(self, item: Item, index: Index) -> str:
        """Return how errors name a chunk."""
        return f"chunk {(*item.block, *index)}"

    def chunk_task(
        self, source: Source, item: Item, index: Index, also: Array
    ) -> tuple[Callable[..., Any], Key, Key | None]:
        """Return the task that makes a chunk's own line and reduces it, as a function and two keys."""
        mask_key: Key | None = None
        mask_within: Index = ()
        if source.mask is not None:
            shared = source.mask.ndim == len(self.shape)
            mask_key = (source.mask.name, *(() if shared else item.block), *index)
            mask_within = () if shared else item.within
        function = functools.partial(
            _own_line,
            within=item.within,
            mask_within=mask_within,
            box=self.boxes.box(0, index),
            chunk=self.label_of(item, index),
            connectivity=source.connectivity,
            also=also,
            check=source.check,
        )
        return function, (source.image.name, *item.block, *index, 0), mask_key

    def lines(self, name: str, also: Array, downwards: bool) -> Graph:
        """Return a graph of all lines: "own" and "line" of chunks, what `_passes.join` adds, and "full"."""
        graph: Graph = {}
        for item in self.items():
            both, own, line, full, context = (
                _passes.key_of(f"{name}-{what}", item.number)
                for what in ("own-and-line", "own", "line", "full", "context")
            )
            for index in self.boxes.nodes(0):
                graph[both(0, index)] = self.chunk_task(self.source, item, index, also)
                graph[own(0, index)] = _passes.part_of(both(0, index), 0)
                graph[line(0, index)] = _passes.part_of(both(0, index), 1)
                if downwards:
                    above = _passes.above(context, self.boxes, 0, index)
                    graph[full(0, index)] = _line.full_line, own(0, index), line(0, index), above
            _passes.join(
                graph, name, item.number, self.boxes, self.source.connectivity, also, self.source.check,
                downwards,
            )  # fmt: skip
        return graph

    def kept_graph(self) -> Any:
        """Return the graph that has "full", "joined" and "contexts" under the tree's name."""
        if self.kept is not None:
            return self.kept
        graph = self.lines(self.name, NO_PIXELS, downwards=True)
        return HighLevelGraph.from_collections(self.name, graph, dependencies=self.source.inputs)

    # The protocol of dask's collections.

    def __dask_graph__(self) -> Any:
        return self.kept_graph()

    def __dask_keys__(self) -> list[Key]:
        levels = range(self.boxes.n_levels)
        return [
            (f"{self.name}-{what}", item.number, level, *index)
            for item in self.items()
            for level in levels
            for index in self.boxes.nodes(level)
            for what in (("joined", "contexts") if level else ("full",))
        ]

    def __dask_layers__(self) -> tuple[str, ...]:
        return (self.name,)

    def __dask_tokenize__(self) -> Any:
        return self.name, self.kept is not None

    __dask_optimize__ = staticmethod(da.optimization.optimize)
    __dask_scheduler__ = staticmethod(threaded_get)

    def __dask_postcompute__(self) -> Any:
        return self._from_results, ()

    def _from_results(self, results: list[Any]) -> ChunkedTree:
        graph = dict(zip(self.__dask_keys__(), results, strict=True))
        return self._with_graph(graph)

    def __dask_postpersist__(self) -> Any:
        return self._with_graph, ()

    def _with_graph(self, graph: Any, *, rename: dict[str, str] | None = None) -> ChunkedTree:
        if rename:
            raise TypeError("a ChunkedTree cannot be renamed in a graph: make it again with mst")
        if not isinstance(graph, HighLevelGraph):
            graph = HighLevelGraph.from_collections(self.name, graph, dependencies=())
        return ChunkedTree(self.source, self.name, graph)

    # Distances and components.

    def _graph_over(self, name: str, graph: Graph) -> Any:
        """Return a graph that needs the tree's lines."""
        return HighLevelGraph.from_collections(name, graph, dependencies=[self])

    def _array(self, name: str, graph: Graph, dtype: Any, layers: Any) -> Any:
        """Return an array over the tree's batch and pixels from the tasks "result" of chunks."""
        of_block: dict[Index, list[Item]] = {}
        for item in self.items():
            of_block.setdefault(item.block, []).append(item)
        for block, items in of_block.items():
            leading = tuple(self.chunks[axis][b] for axis, b in enumerate(block))
            for index in self.boxes.nodes(0):
                task = functools.partial(assembled, leading=leading, axis=0)
                graph[(name, *block, *index)] = (
                    task,
                    [(f"{name}-result", item.number, 0, *index) for item in items],
                )
        return da.Array(layers(name, graph), name, self.chunks, dtype=dtype)

    def cut(self, threshold: float) -> Any:
        """Label the components that remain without the edges heavier than `threshold`.

        The same as `SpanningTree.cut`, as a dask array of integers.

        Parameters
        ----------
        threshold : float
            At least 0, in the units of the weights (squared differences).

        Returns
        -------
        dask array of integers, of shape batch_shape + shape
            Zones from 1, numbered by their first pixel in C order, and 0 where the mask is False.

        Raises
        ------
        TypeError, ValueError
            The threshold is not a number of at least 0.

        Notes
        -----
        Two passes: the first carries the first pixel of each zone, the second its number. The tree's lines
        stay in memory between them, 8 bytes per pixel.
        """
        threshold = _validate.real_number(threshold, "threshold")
        if not threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {threshold!r}")
        n_ids = math.prod(self.shape) << _edges.grid(self.shape, self.source.connectivity).id_bits
        small = self.weights_dtype == np.float32 and _edges.fits_32_bits(math.prod(self.shape), n_ids)
        dtype = np.dtype(np.int32 if small else np.int64)
        name = f"cut-{tokenize(self, threshold)}"
        graph: Graph = {}
        for item in self.items():
            self._first_pixels(graph, name, item, threshold)
            self._number_zones(graph, name, item, threshold, dtype)
        return self._array(name, graph, dtype, self._graph_over)

    def _first_pixels(self, graph: Graph, name: str, item: Item, threshold: float) -> None:
        """Add "first": the first pixel of each pixel's zone; and "counts": the zones that start in a row."""
        boxes = self.boxes
        low = f"{name}-low"
        masses, outside, first, counts, full = (
            _passes.key_of(key, item.number)
            for key in (
                f"{low}-masses",
                f"{low}-outside",
                f"{name}-first",
                f"{name}-counts",
                f"{self.name}-full",
            )
        )
        for index in boxes.nodes(0):
            box = boxes.box(0, index)
            graph[masses(0, index)] = functools.partial(_lowest_ids, box=box), full(0, index)
            graph[first(0, index)] = (
                functools.partial(_zone_starts, box=box, threshold=threshold),
                full(0, index),
                _passes.above(outside, boxes, 0, index),
            )
            graph[counts(0, index)] = functools.partial(_starts_in_rows, box=box), first(0, index)
        _passes.add_up(graph, low, self.name, item.number, boxes, np.minimum, _LARGEST)

    def _number_zones(
        self, graph: Graph, name: str, item: Item, threshold: float, dtype: np.dtype[Any]
    ) -> None:
        """Add "result": the number of each pixel's zone."""
        boxes = self.boxes
        high = f"{name}-high"
        masses, outside, first, counts, full, before, number, result = (
            _passes.key_of(key, item.number)
            for key in (
                f"{high}-masses",
                f"{high}-outside",
                f"{name}-first",
                f"{name}-counts",
                f"{self.name}-full",
                f"{name}-before",
                f"{name}-number",
                f"{name}-result",
            )
        )
        indices = list(boxes.nodes(0))
        all_before = (f"{name}-all-before", item.number)
        graph[all_before] = (
            functools.partial(_zones_before, boxes=boxes),
            [counts(0, index) for index in indices],
        )
        for place, index in enumerate(indices):
            box = boxes.box(0, index)
            graph[before(0, index)] = _passes.part_of(all_before, place)
            graph[number(0, index)] = functools.partial(_numbers, box=box), first(0, index), before(0, index)
            graph[masses(0, index)] = _highest, full(0, index), number(0, index)
            graph[result(0, index)] = (
                functools.partial(_zone_numbers, box=box, threshold=threshold, dtype=dtype),
                full(0, index),
                number(0, index),
                _passes.above(outside, boxes, 0, index),
            )
        _passes.add_up(graph, high, self.name, item.number, boxes, np.maximum, 0)

    @property
    def n_components(self) -> Any:
        """Number of trees in the forest, masked-out pixels not counted: a dask array of the batch's shape."""
        name = f"components-{tokenize(self)}"
        graph: Graph = {}
        for item in self.items():
            self._first_pixels(graph, name, item, np.inf)
            counts = [(f"{name}-counts", item.number, 0, *index) for index in self.boxes.nodes(0)]
            graph[(f"{name}-sum", item.number)] = _total, counts
        numbers = [(f"{name}-sum", item.number) for item in self.items()]
        graph[(name, *(0 for _ in self.batch_shape))] = (
            functools.partial(_as_array, shape=self.batch_shape, dtype=np.int64),
            numbers,
        )
        chunks = tuple((extent,) for extent in self.batch_shape)
        return da.Array(self._graph_over(name, graph), name, chunks, dtype=np.int64)

    def _check_single(self, method: str) -> None:
        if self.batch_shape:
            raise ValueError(f"{method} takes one tree, not a batch of shape {self.batch_shape}")

    def _nodes(self, index: Any, name: str) -> NDArray[np.int64]:
        """Return places in the image, in C order, from such ones or from a tuple of coordinates."""
        if not isinstance(index, tuple):
            indices = _validate.integer_array(index, name, np.asarray(index).shape)
            return _validate.in_range(indices, math.prod(self.shape), name).astype(np.int64, copy=False)
        if len(index) != len(self.shape):
            raise ValueError(f"{name} must have one coordinate for each axis of {self.shape}, got {index}")
        coordinates = np.broadcast_arrays(*(np.asarray(axis) for axis in index))
        for axis, (coordinate, extent) in enumerate(zip(coordinates, self.shape, strict=True)):
            label = f"{name}[{axis}]"
            _validate.in_range(_validate.integer_array(coordinate, label, coordinate.shape), extent, label)
        return np.asarray(np.ravel_multi_index(tuple(coordinates), self.shape), np.int64)

    def minimax(self, i: ArrayLike, j: ArrayLike) -> Any:
        """Return d_ij, the largest weight on the tree path from i to j.

        The same as `SpanningTree.minimax`, as a dask array.

        Parameters
        ----------
        i, j : int, array_like of int, or tuple
            Flat indices, broadcast against one another; or tuples with one index (array) per spatial axis.

        Returns
        -------
        dask array of float
            In the weights' dtype: 0 for i = j, inf between components of a forest.

        Raises
        ------
        TypeError, ValueError
            Indices that are not integers or out of range, or a batch of trees.

        Notes
        -----
        One pass up, from the image: the pixels asked for are kept on the reduced lines.
        """
        self._check_single("minimax")
        first, second = np.broadcast_arrays(self._nodes(i, "i"), self._nodes(j, "j"))
        also = np.unique(np.concatenate([first.ravel(), second.ravel()]))
        name = f"minimax-{tokenize(self.name, first, second)}"
        graph = self.lines(name, also, downwards=False)
        task = functools.partial(_distances_on, first=first, second=second)
        top = self.boxes.n_levels - 1
        graph[(name, *(0 for _ in first.shape))] = task, (f"{name}-line", 0, top, *(0 for _ in self.shape))
        layers = HighLevelGraph.from_collections(name, graph, dependencies=self.source.inputs)
        return da.Array(layers, name, tuple((extent,) for extent in first.shape), dtype=self.weights_dtype)

    def affinity(self, index: Any, zeta: float | Delayed) -> Any:
        """Return psi of one pixel to all, ``exp(-d_ij / zeta^2)``.

        The same as `SpanningTree.affinity`, as a dask array of the tree's shape.

        Parameters
        ----------
        index : int or tuple of int
            The pixel: its flat index, or its coordinates.
        zeta : float or dask.delayed.Delayed
            Scale, above 0, in the units of the image.

        Returns
        -------
        dask array of the tree's shape
            In the weights' dtype, from 0 (another component) to 1 (the pixel itself).

        Raises
        ------
        TypeError, ValueError
            An index that is not one pixel of the tree, zeta not above 0, or a batch of trees.

        Notes
        -----
        Passes up and down from the image: the pixel is kept on all reduced lines.
        """
        self._check_single("affinity")
        node = self._nodes(index, "index")
        if node.ndim:
            raise ValueError(f"index must be one pixel, got {node.size} of shape {node.shape}")
        later = [zeta] if isinstance(zeta, Delayed) else []
        scale = later[0].key if later else _validate.positive(zeta, "zeta")
        name = f"affinity-{tokenize(self.name, node, scale)}"
        graph = self.lines(name, node.ravel(), downwards=True)
        for chunk in self.boxes.nodes(0):
            graph[(f"{name}-result", 0, 0, *chunk)] = (
                functools.partial(_affinities, box=self.boxes.box(0, chunk), node=int(node)),
                (f"{name}-full", 0, 0, *chunk),
                _passes.above(_passes.key_of(f"{name}-context", 0), self.boxes, 0, chunk),
                scale,
            )

        def layers(name: str, graph: Graph) -> Any:
            return HighLevelGraph.from_collections(name, graph, dependencies=[*self.source.inputs, *later])

        return self._array(name, graph, self.weights_dtype, layers)

    def sum_of_gaps(self) -> Delayed:
        """Return the sum of the weights of a tree's edges, and how many there are.

        Joining boxes puts edges between them in the place of others. The difference of the sums of their
        lines is that of the sums of their trees.
        """
        self._check_single("sum_of_gaps")
        name = f"sum-of-gaps-{tokenize(self.name)}"
        graph = self.lines(name, NO_PIXELS, downwards=False)
        own, line, joined = (_passes.key_of(f"{name}-{what}", 0) for what in ("own", "line", "joined"))
        sums: list[Key] = []
        for level in range(self.boxes.n_levels):
            for index in self.boxes.nodes(level):
                key: Key = (f"{name}-sum", level, *index)
                children = self.boxes.children(level, index) if level else []
                whole = joined(level, index) if level else own(0, index)
                graph[key] = _difference_of_gaps, whole, [line(level - 1, child) for child in children]
                sums.append(key)
        graph[name] = _all_gaps, sums
        layers = HighLevelGraph.from_collections(name, graph, dependencies=self.source.inputs)
        return Delayed(name, layers, layer=name)


def _difference_of_gaps(line: OwnLine | Joined, parts: list[Line]) -> tuple[float, int]:
    """Return the sum of the finite gaps of a line less those of its parts, and the same of their number."""
    total, n = 0.0, 0
    for sign, gaps in ((1, line.gaps), *((-1, part.gaps) for part in parts)):
        there = gaps[np.isfinite(gaps)]
        total += sign * float(there.sum(dtype=np.float64))
        n += sign * len(there)
    return total, n


def _all_gaps(sums: list[tuple[float, int]]) -> tuple[float, int]:
    return math.fsum(total for total, _ in sums), sum(n for _, n in sums)


def _total(counts: list[Array]) -> int:
    return sum(int(one.sum()) for one in counts)


def _as_array(numbers: list[Any], shape: tuple[int, ...], dtype: Any) -> Array:
    return np.array(numbers, dtype).reshape(shape)


def _distances_on(line: Line, first: Array, second: Array) -> Array:
    """Return the distances between kept pixels of a line; a pixel that is not there takes no part."""
    asked = np.unique(np.concatenate([first.ravel(), second.ravel()]))
    place_of = np.full(len(asked), -1, np.intp)
    kept = np.flatnonzero(np.isin(line.ids, asked))
    place_of[np.searchsorted(asked, line.ids[kept])] = kept
    a, b = (place_of[np.searchsorted(asked, ids.ravel())] for ids in (first, second))
    there = (a >= 0) & (b >= 0)
    found = np.where(first.ravel() == second.ravel(), 0, np.inf).astype(line.gaps.dtype)
    found[there] = cpu.largest_between(
        line.gaps, np.minimum(a[there], b[there]), np.maximum(a[there], b[there])
    )
    return found.reshape(first.shape)


def _affinities(line: FullLine, context: Line | None, zeta: float, box: Box, node: int) -> Array:
    pixel = int(box.pixels(np.array([node]))[0])
    if pixel < 0 and context is not None:
        there = np.flatnonzero(context.ids == node)
        pixel = line.n_pixels + int(there[0]) if len(there) else -1
    result = np.zeros(len(line.pixels), line.gaps.dtype)
    if pixel >= 0:
        place = int((line.pixels == pixel).argmax())
        distances = cpu.distances_from(line.gaps, place)
        result[line.pixels] = cpu.affinities(distances, zeta)
    return result[: line.n_pixels].reshape(box.shape)


def _n_placed(line: FullLine) -> int:
    """Return how many places of a line have items that take part."""
    return int((line.ends - line.starts).sum()) + len(line.counts)


def _over_entries(line: FullLine, values: Array, add: np.ufunc, nothing: int) -> Array:
    """Return what values of a chunk's pixels add up to over its entries."""
    if not len(line.starts):
        return values[:0]
    items = np.concatenate([values, np.full(len(line.counts), nothing, values.dtype)])
    on_line = np.append(items[line.pixels], values.dtype.type(nothing))
    pairs = np.stack([line.starts, line.ends], 1).ravel()
    result: Array = add.reduceat(on_line, pairs)[::2]
    return result


def _lowest_ids(line: FullLine, box: Box) -> Array:
    return _over_entries(line, box.ids(np.arange(line.n_pixels)), np.minimum, _LARGEST)


def _highest(line: FullLine, numbers: Array) -> Array:
    return _over_entries(line, numbers, np.maximum, 0)


def _over_zones(
    line: FullLine, values: Array, outside: Array | None, threshold: float, add: np.ufunc
) -> Array:
    """Return what values add up to over each pixel's zone, and themselves where pixels take no part."""
    items = values if outside is None else np.concatenate([values, outside])
    if not len(line.pixels):
        return values
    with np.errstate(over="ignore"):
        threshold = line.gaps.dtype.type(threshold)
    starts = np.ones(len(line.pixels), bool)
    starts[1:] = (line.gaps > threshold) | np.isinf(line.gaps)
    of_zone = add.reduceat(items[line.pixels], np.flatnonzero(starts))
    result = np.empty_like(items)
    result[line.pixels] = of_zone[np.cumsum(starts) - 1]
    return result[: line.n_pixels]


def _zone_starts(line: FullLine, outside: Array | None, box: Box, threshold: float) -> Array:
    """Return the first pixel of each pixel's zone, -1 where the pixel takes no part."""
    first = _over_zones(line, box.ids(np.arange(line.n_pixels)), outside, threshold, np.minimum)
    first[line.pixels[_n_placed(line) :]] = -1
    return first


def _starts(first: Array, box: Box) -> NDArray[np.bool_]:
    starts: NDArray[np.bool_] = (first == box.ids(np.arange(len(first)))).reshape(box.shape)
    return starts


def _starts_in_rows(first: Array, box: Box) -> Array:
    counts: Array = _starts(first, box).sum(-1)
    return counts


def _zones_before(counts: list[Array], boxes: Boxes) -> list[Array]:
    """Return how many zones start before each row of each chunk."""
    table = np.zeros((*boxes.shape[:-1], len(boxes.chunks[-1])), np.int64)
    places = []
    for index, of_chunk in zip(boxes.nodes(0), counts, strict=True):
        box = boxes.box(0, index)
        rows: list[Any] = [slice(*ends) for ends in zip(box.low[:-1], box.high[:-1], strict=True)]
        place = (*rows, index[-1])
        table[place] = of_chunk
        places.append(place)
    before = (np.cumsum(table) - table.ravel()).reshape(table.shape)
    return [np.ascontiguousarray(before[place]) for place in places]


def _numbers(first: Array, before: Array, box: Box) -> Array:
    """Return the numbers of zones at their first pixels, 0 elsewhere."""
    starts = _starts(first, box)
    numbers: Array = np.where(starts, before[..., None] + np.cumsum(starts, -1), 0).ravel()
    return numbers


def _zone_numbers(
    line: FullLine, numbers: Array, outside: Array | None, box: Box, threshold: float, dtype: np.dtype[Any]
) -> Array:
    result = _over_zones(line, numbers, outside, threshold, np.maximum)
    return result.astype(dtype).reshape(box.shape)


def mst(
    image: Any,
    *,
    channel_axis: int | Literal["auto"] | None = "auto",
    spatial_ndim: int = 2,
    connectivity: int = 1,
    mask: Any = None,
    workers: int | None = None,
    check_finite: bool = True,
) -> ChunkedTree:
    """Return the tree of a dask array, of which nothing is computed yet; see `aproarray.mst`."""
    _arguments.refuse({"workers": workers}, "mst")
    image = _arguments.lazy(image, "image")
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM)
    connectivity = _validate.integer(connectivity, "connectivity", 1, spatial_ndim)
    layout = _validate.image_layout(image.shape, spatial_ndim, channel_axis)
    image = _arguments.channels_last(image, layout).rechunk(
        {image.ndim - (layout.channel_axis is not None): -1}
    )
    mask = _arguments.mask(mask, layout, image.chunks[:-1], image.shape)
    image = _arguments.floats(image, mask, len(layout.leading))
    return ChunkedTree(Source(image, mask, len(layout.leading), connectivity, check_finite))
