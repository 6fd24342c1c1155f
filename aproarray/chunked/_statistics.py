"""What labels and scores need to know of a whole image: reductions over its chunks, one after another.

Each of them reads the image again. Otherwise all of its chunks would be kept from the first to the last.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from aproarray import _relief, _validate, cpu
from aproarray.chunked import _overlap
from aproarray.chunked._again import read_again
from aproarray.chunked._boxes import Array, Boxes, Index
from aproarray.chunked._passes import Graph, Key

_TOGETHER = 16  # results that one task adds up
_MOST_NUMBERS = 1 << 16  # distinct ones of an image of wide numbers whose outliers can be told


class Image(NamedTuple):
    """An image in chunks, and what lies over it."""

    pixels: Any
    """Dask array: spatial axes, channels in one chunk."""
    takes_part: Any
    """Dask array of bool over the spatial axes, or None."""
    masked: bool
    """Whether there is a mask. Otherwise pixels that take no part may be found."""
    convert2lab: bool | None

    def again(self, barrier: Delayed, what: str) -> Image:
        """Return the same image, to be read after the barrier."""
        bound = iter(read_again(self.inputs, barrier, what))
        return self._replace(pixels=next(bound), takes_part=None if self.takes_part is None else next(bound))

    def around(self, surroundings: _overlap.Surroundings) -> Image:
        """Return the image in chunks that overlap."""
        return self._replace(
            pixels=surroundings.around(self.pixels, 0),
            takes_part=None if self.takes_part is None else surroundings.around(self.takes_part, 0),
        )

    def keys(self, index: Index) -> tuple[Key, Key | None]:
        """Return the tasks of a chunk's pixels and of what takes part of it."""
        takes_part = None if self.takes_part is None else (self.takes_part.name, *index)
        return (self.pixels.name, *index, 0), takes_part

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Chunks along the spatial axes."""
        chunks: tuple[tuple[int, ...], ...] = self.pixels.chunks[:-1]
        return chunks

    @property
    def inputs(self) -> list[Any]:
        """The dask arrays."""
        return [array for array in (self.pixels, self.takes_part) if array is not None]


class Known(NamedTuple):
    """What is known of the whole image."""

    masked: bool
    """Whether some pixels take no part. Otherwise there is no mask, as in memory."""
    constant_end: bool
    n_pixels: int
    """That take part."""
    range_: _relief.Range | None
    whole: _relief.Range | None
    """The range of all numbers."""
    is_settled: bool = True
    """Whether `range_` is that of the numbers without outliers."""
    step: float = 0.0
    usual: np.float32 = np.float32(0)
    clean: bool = False
    heaviest: tuple[float, ...] = ()
    """Twice the largest number of each relief."""

    def mask(self, takes_part: Array | None) -> Array | None:
        """Return a chunk's mask."""
        return takes_part if self.masked else None

    def features(
        self, pixels: Array, takes_part: Array | None, convert2lab: bool | None
    ) -> tuple[Array, NDArray[np.bool_] | None]:
        """Return the features of a chunk, and its outliers."""
        return _relief.features_of(
            pixels, self.mask(takes_part), convert2lab, constant_end=self.constant_end, range_=self.range_
        )

    def reliefs(
        self, pixels: Array, takes_part: Array | None, convert2lab: bool | None
    ) -> tuple[Array, Array]:
        """Return the features of a chunk, and its reliefs."""
        features, outliers = self.features(pixels, takes_part, convert2lab)
        return features, _relief.reliefs(features, self.mask(takes_part), outliers, usual=self.usual)


def reduction(
    name: str,
    image: Image,
    reach: int,
    task: Callable[..., Any],
    add: Callable[[list[Any]], Any],
    finish: Callable[[Any, Any], Any],
    before: Delayed | None,
) -> Delayed:
    """Return what a task says of each chunk, added up and finished.

    The task gets a chunk with its surroundings, what takes part of these, and what is known before; by name,
    where the chunk is in them, the chunk's name, and `convert2lab`. `finish` gets the total, and what is
    known before.
    """
    surroundings = _overlap.surroundings(image.chunks, reach)
    image = (image if before is None else image.again(before, name)).around(surroundings)
    key_before = None if before is None else before.key
    graph: Graph = {}
    found: list[Key] = []
    for index in Boxes(surroundings.chunks).nodes(0):
        own = functools.partial(
            task, inner=surroundings.inner(index), chunk=f"chunk {index}", convert2lab=image.convert2lab
        )
        graph[(f"{name}-chunk", *index)] = own, *image.keys(index), key_before
        found.append((f"{name}-chunk", *index))
    add_up(graph, f"{name}-total", found, add)
    graph[name] = finish, f"{name}-total", key_before
    inputs = image.inputs if before is None else [*image.inputs, before]
    layers = HighLevelGraph.from_collections(name, graph, dependencies=inputs)
    return Delayed(name, layers, layer=name)


def add_up(graph: Graph, name: str, found: list[Key], add: Callable[[list[Any]], Any]) -> None:
    """Add the tasks that add up the results of tasks, a few at a time; the total goes by the name."""
    level = 0
    while len(found) > _TOGETHER:
        groups = [found[first : first + _TOGETHER] for first in range(0, len(found), _TOGETHER)]
        found = [(f"{name}-some", level, number) for number in range(len(groups))]
        graph.update({key: (add, group) for key, group in zip(found, groups, strict=True)})
        level += 1
    graph[name] = add, found


def known(image: Image) -> Delayed:
    """Return what is known of an image, `Known`, but for its reliefs."""
    name = f"statistics-{tokenize(*image)}"
    dtype, n_channels = image.pixels.dtype, image.pixels.shape[-1]
    finish = functools.partial(
        _from_numbers, masked=image.masked, dtype=dtype, n_channels=n_channels, convert2lab=image.convert2lab
    )
    found = reduction(f"{name}-numbers", image, 0, _numbers, _all_numbers, finish, None)
    if not _is_narrow(dtype):
        found = reduction(f"{name}-beyond", image, 0, _beyond, _added, _if_spread_out, found)
        found = reduction(f"{name}-counts", image, 0, _counts, _all_counts, _from_counts, found)
    found = reduction(f"{name}-outlying", image, 0, _outlying, sum, _unless_too_many, found)
    return reduction(f"{name}-sums", image, _relief.REACH, _sums, _added, _with_means, found)


def with_reliefs(image: Image, found: Delayed) -> Delayed:
    """Return what is known of an image, and of its reliefs."""
    return reduction(
        f"{found.key}-reliefs", image, _relief.REACH, _largest, _largest_of_all, _with_heaviest, found
    )


def _added(rows: list[Any]) -> Any:
    """Add up tuples of numbers."""
    return tuple(map(sum, zip(*rows, strict=True)))


class _Numbers(NamedTuple):
    """The numbers of pixels that take part: of all channels but the last, and of the last one."""

    n_pixels: int
    n_left_out: int
    counts: list[Array]
    """How often there is each number of at most 16 bits. Empty: they are wider."""
    lows: list[list[Any]]
    """The smallest, if there are any."""
    highs: list[list[Any]]


def _is_narrow(dtype: np.dtype[Any]) -> bool:
    """Return whether there are few enough numbers to count them all."""
    return dtype.itemsize <= 2


def _as_bits(numbers: Array) -> Array:
    return np.ascontiguousarray(numbers).view(f"u{numbers.dtype.itemsize}")


def _inside(pixels: Array, takes_part: Array | None) -> Array:
    """Return the pixels (P, C) that take part, booleans as integers."""
    inside = pixels.reshape(-1, pixels.shape[-1]) if takes_part is None else pixels[takes_part]
    return inside.view(np.uint8) if inside.dtype == np.bool_ else inside


def _numbers(
    pixels: Array, takes_part: Array | None, _: None, inner: Any, chunk: str, convert2lab: bool | None
) -> _Numbers:
    mask = None if takes_part is None else takes_part.reshape(1, -1)
    _validate.finite(pixels.reshape(1, -1, pixels.shape[-1]), f"image in {chunk}", mask, _validate.BY_MASK)
    inside = _inside(pixels, takes_part)
    groups = [inside[:, :-1].reshape(-1), inside[:, -1]]
    counts: list[Array] = []
    lows: list[list[Any]] = [[], []]
    highs: list[list[Any]] = [[], []]
    if _is_narrow(inside.dtype):
        n = 1 << 8 * inside.dtype.itemsize
        counts = [np.bincount(_as_bits(group), minlength=n) for group in groups]
    else:
        lows = [[group.min()] if group.size else [] for group in groups]
        highs = [[group.max()] if group.size else [] for group in groups]
    return _Numbers(len(inside), pixels[..., 0].size - len(inside), counts, lows, highs)


def _all_numbers(parts: list[_Numbers]) -> _Numbers:
    return _Numbers(
        sum(part.n_pixels for part in parts),
        sum(part.n_left_out for part in parts),
        [sum(counts) for counts in zip(*(part.counts for part in parts), strict=True)],
        [_one(min, [part.lows[k] for part in parts]) for k in range(2)],
        [_one(max, [part.highs[k] for part in parts]) for k in range(2)],
    )


def _one(choose: Callable[..., Any], several: list[list[Any]]) -> list[Any]:
    """Return the smallest or the largest of several numbers, if there are any."""
    numbers = list(itertools.chain.from_iterable(several))
    return [choose(numbers)] if numbers else []


def _from_numbers(
    numbers: _Numbers,
    before: None,
    masked: bool,
    dtype: np.dtype[Any],
    n_channels: int,
    convert2lab: bool | None,
) -> Known:
    masked = masked or numbers.n_left_out > 0
    if not numbers.n_pixels:
        return Known(masked, True, 0, None, None)
    if numbers.counts:
        end = _distinct(numbers.counts[1], dtype)[0]
    else:
        end = np.unique([numbers.lows[1][0], numbers.highs[1][0]])
    constant_end = len(end) == 1
    compared, _ = _relief.colour_channels(np.empty((0, n_channels)), convert2lab, constant_end)
    groups = [0] if compared.shape[-1] < n_channels else [0, 1]
    if not numbers.counts:
        (low,) = _one(min, [numbers.lows[k] for k in groups])
        (high,) = _one(max, [numbers.highs[k] for k in groups])
        whole = _relief.Range(low, high, has_outliers=False)
        return Known(masked, constant_end, numbers.n_pixels, whole, whole, is_settled=False)
    found = Known(masked, constant_end, numbers.n_pixels, None, None)
    return _with_range(found, *_distinct(np.sum([numbers.counts[k] for k in groups], 0), dtype))


def _distinct(counts: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return the numbers there are, ascending, and how often."""
    bits = np.flatnonzero(counts).astype(f"u{dtype.itemsize}")
    values, places = np.unique(bits.view(np.uint8 if dtype == np.bool_ else dtype), return_inverse=True)
    totals = np.zeros(len(values), np.int64)
    np.add.at(totals, places, counts[bits])
    return values, totals


def _with_range(found: Known, values: Array, counts: Array) -> Known:
    low, high = _relief.ordinary_range_of_counts(values, counts)
    whole = _relief.Range(values[0], values[-1], has_outliers=False)
    has_outliers = bool(whole.low < low or whole.high > high)
    return found._replace(range_=_relief.Range(low, high, has_outliers), whole=whole, is_settled=True)


def _compared(pixels: Array, takes_part: Array | None, before: Known, convert2lab: bool | None) -> Array:
    """Return the numbers that are compared, of the pixels that take part."""
    compared, _ = _relief.colour_channels(pixels, convert2lab, before.constant_end)
    return _inside(compared, takes_part)


def _beyond(
    pixels: Array, takes_part: Array | None, before: Known, inner: Any, chunk: str, convert2lab: bool | None
) -> tuple[int, int, int]:
    if before.range_ is None:
        return 0, 0, 0
    numbers = _compared(pixels, takes_part, before, convert2lab)
    marks = _relief.marks(before.range_.low, before.range_.high)
    return *_relief.n_beyond(numbers, marks), numbers.size


def _if_spread_out(total: tuple[int, int, int], before: Known) -> Known:
    return before._replace(is_settled=before.is_settled or _relief.spread_out(total[:2], total[2]))


def _counts(
    pixels: Array, takes_part: Array | None, before: Known, inner: Any, chunk: str, convert2lab: bool | None
) -> list[tuple[Array, Array]] | None:
    """Return the distinct numbers, and how often there is each, if that is asked for; None: too many."""
    if before.is_settled:
        return []
    return _if_few(np.unique(_compared(pixels, takes_part, before, convert2lab), return_counts=True))


def _if_few(distinct: tuple[Array, Array]) -> list[tuple[Array, Array]] | None:
    return [distinct] if len(distinct[0]) <= _MOST_NUMBERS else None


def _all_counts(parts: list[Any]) -> Any:
    if any(part is None for part in parts):
        return None
    some = [one for part in parts for one in part]
    if not some:
        return []
    values, places = np.unique(np.concatenate([values for values, _ in some]), return_inverse=True)
    totals = np.zeros(len(values), np.int64)
    np.add.at(totals, places, np.concatenate([counts for _, counts in some]))
    return _if_few((values, totals))


def _from_counts(total: list[tuple[Array, Array]] | None, before: Known) -> Known:
    if before.is_settled:
        return before
    if total is None:
        raise ValueError(
            f"image has more than {_MOST_NUMBERS} distinct numbers, fewer than one in twenty of them near an "
            "end of its range: over chunks, outliers cannot be told among them. Pass it as 16-bit integers, "
            "or clipped to the range that counts, such as dask.array.clip((image - low) * (65535 / (high - "
            "low)), 0, 65535).astype('uint16')"
        )
    return _with_range(before, *total[0])


def _outlying(
    pixels: Array, takes_part: Array | None, before: Known, inner: Any, chunk: str, convert2lab: bool | None
) -> int:
    if before.range_ is None or not before.range_.has_outliers:
        return 0
    compared, _ = _relief.colour_channels(pixels, convert2lab, before.constant_end)
    return _relief.n_outlying(compared, takes_part, before.range_)


def _unless_too_many(total: int, before: Known) -> Known:
    if _relief.too_many_outliers(total, before.n_pixels):
        return before._replace(range_=before.whole)
    return before


def _sums(
    pixels: Array, takes_part: Array | None, before: Known, inner: Any, chunk: str, convert2lab: bool | None
) -> tuple[float, ...]:
    """Return sums and numbers of steps between neighbours and of usual gradients, of pixels far from outliers
    and of all; and the sums of squares of gradients."""
    mask = before.mask(takes_part)
    features, outliers = before.features(pixels, takes_part, convert2lab)
    found: list[tuple[float, ...]] = []
    far = _relief.without_outliers(mask, outliers)
    gradients = _relief.scales(features, mask, None, 1)
    around, counted = _relief.usual_around(gradients, mask, outliers, None, 1)
    around = around[inner]
    for beside_steps, beside_means in ((far, counted), (mask, mask)):
        steps = []
        for axis in range(len(inner)):
            after = list(inner)  # the chunk, and the pixels after it along the axis
            after[axis] = slice(inner[axis].start, inner[axis].stop + 1)
            place = tuple(after)
            own = None if beside_steps is None else beside_steps[place]
            steps.append(cpu.square_steps(features[place], own, None, 1)[axis])
        own = None if beside_means is None else beside_means[inner]
        found += [_added(steps), _relief.usual_sum(around, own, own)]
    own = None if counted is None else counted[inner]
    found.append(_relief.square_sums(gradients[(slice(None), *inner)], own, None))
    return tuple(number for pair in found for number in pair)


def _with_means(total: tuple[float, ...], before: Known) -> Known:
    far_steps, far_means, all_steps, all_means = (
        (total[place], int(total[place + 1])) for place in (0, 2, 4, 6)
    )
    step = _relief.root_mean(*far_steps)
    if not step > 0:
        step = _relief.root_mean(*all_steps)
    return before._replace(
        step=step,
        usual=_relief.mean_of(*(far_means if far_means[1] else all_means)),
        clean=_relief.is_clean(*total[8:]),
    )


def _largest(
    pixels: Array, takes_part: Array | None, before: Known, inner: Any, chunk: str, convert2lab: bool | None
) -> list[float]:
    _, reliefs = before.reliefs(pixels, takes_part, convert2lab)
    return [float(relief[inner].max(initial=0)) for relief in reliefs]


def _largest_of_all(parts: list[list[float]]) -> list[float]:
    return [max(largest) for largest in zip(*parts, strict=True)]


def _with_heaviest(total: list[float], before: Known) -> Known:
    return before._replace(heaviest=tuple(2 * largest for largest in total))
