"""Global propagation over a chunked tree: masses go up and down, then chunks are swept with contexts."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import ArrayLike, NDArray

from aproarray import _arrays, _validate, cpu
from aproarray.chunked import _arguments, _line, _passes
from aproarray.chunked._again import read_again
from aproarray.chunked._boxes import Index
from aproarray.chunked._line import FullLine, Line, OwnLine
from aproarray.chunked._passes import Graph
from aproarray.chunked._trees import NO_PIXELS, ChunkedTree

Array = NDArray[Any]

# Columns that are swept together: in float64 and twice, they are most of a chunk's memory.
_COLUMNS = 8


def _items(block: Array, within: Index, n_spatial: int) -> Array:
    """Return the values of a tree in a block (leading, spatial, channels) as (items, pixels, channels)."""
    values = block[within]
    n_pixels = math.prod(values.shape[-1 - n_spatial : -1])
    items: Array = values.reshape(math.prod(values.shape[: -1 - n_spatial]), n_pixels, values.shape[-1])
    return items


def _masses(
    line: OwnLine | FullLine, blocks: list[Array], within: Index, n_spatial: int, chunk: str, check: bool
) -> Array:
    """Return the sums of all values of a chunk over the entries of its line."""
    found = [np.empty((len(line.starts), 0))]
    for block in blocks:
        for columns in _items(block, within, n_spatial):
            columns = columns.astype(_validate.compute_dtype(columns.dtype), copy=False)
            masses = _line.own_masses(line, columns)
            if check and not np.isfinite(masses).all():
                places = [np.arange(*ends) for ends in zip(*_bounds(line), strict=True)]
                takes_part = np.zeros((1, len(columns)), bool)
                takes_part[0, line.pixels[np.concatenate(places)]] = True
                _validate.finite(columns[None], f"values in {chunk}", takes_part)
            found.append(masses)
    return np.concatenate(found, 1)


def _bounds(line: OwnLine | FullLine) -> tuple[Array, Array]:
    if isinstance(line, FullLine):
        return line.starts, line.ends
    return line.starts, np.append(line.starts[1:], len(line.pixels))


def _line_and_masses(
    block: Array, mask: Array | None, blocks: list[Array], own_line: Any, **options: Any
) -> tuple[Line, Array]:
    """Reduce a chunk's line, and sum its values; the chunk's own line is not kept."""
    own, line = own_line(block, mask)
    return line, _masses(own, blocks, **options)


class Needed(NamedTuple):
    """What a chunk of values needs beside itself and the image: for each tree of its block, or none."""

    lines: list[FullLine]
    """If the tree is kept."""
    contexts: list[Line | None]
    """If it is not."""
    outside: list[Array | None]
    own_lines: list[Any]
    columns: slice
    """Which columns of `outside` belong to the chunk."""
    chunk: str


def _across_block(
    block: Array,
    needed: Needed,
    *inputs: Array,
    n_leading: int,
    dtype: np.dtype[Any],
    zetas: tuple[float, ...],
    **options: Any,
) -> Array:
    """Propagate the values of a chunk, over each of its trees; `inputs` are image and mask, or nothing."""
    result = np.empty((len(zetas), *block.shape), dtype)
    for k, within in enumerate(np.ndindex(block.shape[:n_leading])):
        if needed.lines:
            line = needed.lines[k]
        else:
            own, reduced = needed.own_lines[k](inputs[0], inputs[1] if len(inputs) > 1 else None)
            line = _line.full_line(own, reduced, needed.contexts[k])
            del own
        outside = needed.outside[k]
        outside = None if outside is None else outside[:, needed.columns]
        into = result[(slice(None), *within)]
        _propagate(line, outside, block, into, within, zetas=zetas, chunk=needed.chunk, **options)
    return result


def _propagate(
    line: FullLine,
    outside: Array | None,
    block: Array,
    result: Array,
    within: Index,
    n_spatial: int,
    zetas: tuple[float, ...],
    chunk: str,
    check: bool,
) -> None:
    """Write the means of a chunk's values over one tree to (zetas, leading, spatial, channels).

    Sums are swept, and the pixels that they are of in a column of their own: items of a context stand for
    many pixels.
    """
    items = _items(block, within, n_spatial)
    n_channels = items.shape[2]
    n_columns = items.shape[0] * n_channels
    out = result.reshape(len(zetas), *items.shape)
    n_pixels, n_all = line.n_pixels, len(line.pixels)
    rows = np.empty((1, n_all, min(_COLUMNS, n_columns + 1)))
    swept = np.empty_like(rows)
    ones = np.ones((1, n_all), np.float64)
    lines = cpu.lines(line.pixels[None], line.gaps[None], 1)
    for k, zeta in enumerate(zetas):
        counts = np.empty(0)
        done = -1  # the column before the first is that of counts
        while done < n_columns and n_all:
            width = min(_COLUMNS, n_columns - done)
            if width == 0:
                break
            for place, column in enumerate(range(done, done + width)):
                target = rows[0, :, place]
                if column < 0:
                    target[:n_pixels], target[n_pixels:] = 1, line.counts
                    continue
                target[:n_pixels] = items[column // n_channels, :, column % n_channels]
                if outside is not None:
                    target[n_pixels:] = outside[:, column]
            cpu.global_propagate(
                rows[..., :width], swept[..., :width], lines, np.zeros(1, np.intp), zeta, 1,
                sums=ones, transposed=True,
            )  # fmt: skip
            if done < 0:
                counts = swept[0, :n_pixels, 0].copy()
            for place, column in enumerate(range(done, done + width)):
                if column >= 0:
                    means = swept[0, :n_pixels, place] / counts
                    out[k, column // n_channels, :, column % n_channels] = means
            done += width
    if check:
        takes_part = np.ones((1, n_pixels), bool)
        takes_part[0, line.pixels[int((line.ends - line.starts).sum()) + len(line.counts) :]] = False
        for means in out:
            _validate.finite_means(means, f"values in {chunk}", takes_part)


def global_propagate(
    values: Any,
    tree: ChunkedTree,
    *,
    zeta: float | ArrayLike,
    features: Any = None,
    tree_index: Any = None,
    channel_axis: int | None = -1,
    workers: int | None = None,
    out: Any = None,
    check_finite: bool = True,
) -> Any:
    """Propagate values over the tree of a dask array, as a dask array; see `aproarray.global_propagate`.

    Values take the tree's chunks along its leading and spatial axes. Further leading axes and channels
    keep theirs. Values and image are read twice, once in each direction: they are not kept in between.
    """
    _arguments.refuse(
        {"features": features, "tree_index": tree_index, "out": out, "workers": workers}, "global_propagate"
    )
    if not isinstance(tree, ChunkedTree):
        raise TypeError(
            f"tree must be that of a dask array (see aproarray.mst) where values are one, got a "
            f"{_arrays.kind_of(tree)}"
        )
    values = _arguments.lazy(values, "values")
    zetas, several = _validate.positives(zeta, "zeta")
    layout = _validate.layout_over(
        values.shape, tree.batch_shape, tree.shape, channel_axis, "values", "a tree"
    )
    ndim = values.ndim
    values = _arguments.channels_last(values, layout)
    n_trees_axes, n_spatial = len(tree.batch_shape), len(tree.shape)
    chunks = dict(enumerate(tree.chunks[:n_trees_axes]))
    chunks |= {axis - n_spatial - 1: along for axis, along in enumerate(tree.boxes.chunks)}
    values = values.rechunk(chunks)
    compute = _validate.compute_dtype(values.dtype)
    dtype = np.dtype(np.float16) if values.dtype == np.float16 else compute
    name = f"global-propagate-{tokenize(tree, values, zetas, check_finite)}"
    graph = _up_and_down(name, values, tree, check_finite)
    dependencies = [values, *(tree.source.inputs if tree.kept is None else [tree])]
    # Every chunk is needed twice. Read again when its second task can begin, it is not kept until then.
    ready = f"{name}-ready"
    needed = [
        _passes.above(_passes.key_of(f"{name}-outside", item.number), tree.boxes, 0, index)
        for item in tree.items()
        for index in tree.boxes.nodes(0)
    ]
    graph[ready] = _passes.wait_for, needed
    up_and_down = HighLevelGraph.from_collections(name, graph, dependencies=dependencies)
    barrier = Delayed(ready, up_and_down, layer=name)
    again, *source = read_again([values, *(tree.source.inputs if tree.kept is None else [])], barrier, name)
    result = _across(name, again, source, up_and_down, tree, zetas, dtype, check_finite)
    return _arguments.channels_back(result if several else result[0], layout, ndim)


def _blocks(values: Any, tree: ChunkedTree, block: Index) -> list[tuple[Index, int, int]]:
    """Return the chunks along values' own leading axes and channels, and the columns of each."""
    n_trees_axes, n_spatial = len(tree.batch_shape), len(tree.shape)
    rest = values.chunks[n_trees_axes : values.ndim - n_spatial - 1]
    found, first = [], 0
    for index in itertools.product(*(range(len(along)) for along in (*rest, values.chunks[-1]))):
        width = math.prod(along[i] for along, i in zip((*rest, values.chunks[-1]), index, strict=True))
        found.append((index, first, width))
        first += width
    return found


def _up_and_down(name: str, values: Any, tree: ChunkedTree, check: bool) -> Graph:
    """Return the graph of the masses of all nodes and contexts, and of lines unless the tree keeps them."""
    graph: Graph = {}
    trees = name if tree.kept is None else tree.name
    for item in tree.items():
        both, line, masses, full = (
            _passes.key_of(key, item.number)
            for key in (f"{name}-both", f"{name}-line", f"{name}-masses", f"{tree.name}-full")
        )
        for index in tree.boxes.nodes(0):
            options: dict[str, Any] = {
                "within": item.within,
                "n_spatial": len(tree.shape),
                "chunk": tree.label_of(item, index),
                "check": check,
            }
            blocks = [
                (values.name, *item.block, *rest[:-1], *index, rest[-1])
                for rest, _, _ in _blocks(values, tree, item.block)
            ]
            if tree.kept is None:
                own_line, image, mask = tree.chunk_task(tree.source, item, index, NO_PIXELS)
                task = functools.partial(_line_and_masses, own_line=own_line, **options)
                graph[both(0, index)] = task, image, mask, blocks
                graph[line(0, index)] = _passes.part_of(both(0, index), 0)
                graph[masses(0, index)] = _passes.part_of(both(0, index), 1)
            else:
                graph[masses(0, index)] = functools.partial(_masses, **options), full(0, index), blocks
        if tree.kept is None:
            source = tree.source
            _passes.join(
                graph, name, item.number, tree.boxes, source.connectivity, NO_PIXELS, source.check, True
            )
        _passes.add_up(graph, name, trees, item.number, tree.boxes)
    return graph


def _across(
    name: str,
    values: Any,
    inputs: list[Any],
    up_and_down: Any,
    tree: ChunkedTree,
    zetas: list[float],
    dtype: np.dtype[Any],
    check: bool,
) -> Any:
    """Return the means (zetas, leading, spatial, channels) as a dask array.

    By `dask.array.blockwise`, which dask fuses with the reading of chunks: each is read when it is needed.
    It does so if no index is summed over. That of zetas therefore also is the image's channels', as both have
    one chunk.
    """
    n_leading, n_spatial, ndim = len(tree.batch_shape), len(tree.shape), values.ndim
    needed = _needed(f"{name}-needed", values, up_and_down, name, tree)
    leading, spatial = tuple(range(n_leading)), tuple(range(ndim - 1 - n_spatial, ndim - 1))
    zeta_axis = ndim
    arguments = [values, range(ndim), needed, range(ndim)]
    for one in inputs:  # image and mask
        before = leading if one.ndim > n_spatial else ()
        after = (zeta_axis,) if one is inputs[0] else ()
        arguments += [one, (*before, *spatial, *after)]
    function = functools.partial(
        _across_block, n_leading=n_leading, n_spatial=n_spatial, zetas=tuple(zetas), dtype=dtype, check=check
    )
    return da.blockwise(
        function,
        (zeta_axis, *range(ndim)),
        *arguments,
        **{"adjust_chunks" if inputs else "new_axes": {zeta_axis: len(zetas)}},
        align_arrays=False,
        name=f"{name}-result",
        dtype=dtype,
        meta=np.empty((0,) * (ndim + 1), dtype),
    )


def _needed(name: str, values: Any, up_and_down: Any, passes: str, tree: ChunkedTree) -> Any:
    """Return what the chunks of values need beside themselves, as a dask array of objects in their chunks."""
    boxes = tree.boxes
    graph: Graph = {}
    of_block: dict[Index, list[Any]] = {}
    for item in tree.items():
        of_block.setdefault(item.block, []).append(item)
    for block, items in of_block.items():
        for index, (rest, first, width) in itertools.product(boxes.nodes(0), _blocks(values, tree, block)):
            lines, contexts, outside = [], [], []
            for item in items:
                context, masses = (
                    _passes.key_of(f"{passes}-{what}", item.number) for what in ("context", "outside")
                )
                outside.append(_passes.above(masses, boxes, 0, index))
                if tree.kept is None:
                    contexts.append(_passes.above(context, boxes, 0, index))
                else:
                    lines.append((f"{tree.name}-full", item.number, 0, *index))
            task = functools.partial(
                Needed,
                own_lines=[tree.chunk_task(tree.source, item, index, NO_PIXELS)[0] for item in items],
                columns=slice(first, first + width),
                chunk=tree.label_of(items[0], index),
            )
            graph[(name, *block, *rest[:-1], *index, rest[-1])] = task, lines, contexts, outside
    layers = dict(up_and_down.layers) | {name: graph}
    below = {passes} | (set() if tree.kept is None else {tree.name})
    dependencies = dict(up_and_down.dependencies) | {name: below}
    meta = np.empty((0,) * values.ndim, object)
    return da.Array(HighLevelGraph(layers, dependencies), name, values.chunks, dtype=object, meta=meta)
