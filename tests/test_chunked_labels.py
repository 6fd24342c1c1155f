"""Labels of dask arrays: those in memory, on every pixel, for any chunks."""

from __future__ import annotations

import itertools

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aproarray
from aproarray import _edges, _relief, cpu
from aproarray.chunked import _forest
from aproarray.chunked._boxes import Box, Boxes


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def parts(extent):
    cuts = st.lists(st.integers(1, max(extent - 1, 1)), max_size=3, unique=True)
    return cuts.map(
        lambda inner: tuple(np.diff([0, *sorted(c for c in inner if c < extent), extent]).tolist())
    )


def flooded_in_memory(relief, takes_part, labels):
    padded = tuple(extent + 2 for extent in relief.shape)
    inner = (slice(1, -1),) * relief.ndim
    reliefs, maps = np.zeros(padded, np.float32), np.full(padded, -1, np.int32)
    reliefs[inner] = relief
    maps[inner] = np.where(takes_part, labels, -1)
    steps = _edges.grid(padded, 1).strides
    floods = cpu.Floods(reliefs.reshape(1, -1), np.concatenate([-steps[::-1], steps]), padded, None)
    with floods.labels(maps.reshape(-1), [1, 2, 3], 1) as found:
        return np.maximum(found[0].reshape(padded)[inner], 0)


def flooded_in_parts(relief, takes_part, labels, heaviest, chunks):
    """Flood box by box, as the graph of `propagate_labels` does."""
    boxes = Boxes(chunks)
    top = boxes.n_levels - 1

    def of(box):
        return tuple(slice(*ends) for ends in zip(box.low, box.high, strict=True))

    seen, borders = {}, {(top, index): None for index in boxes.nodes(top)}
    for index in boxes.nodes(0):
        box = boxes.box(0, index)
        place = of(box)
        seen[0, index] = _forest.chunk_part(relief[place], takes_part[place], labels[place], heaviest, box)
    for level in range(1, top):
        for index in boxes.nodes(level):
            children = [seen[level - 1, child] for child in boxes.children(level, index)]
            seen[level, index] = _forest.join(children, heaviest, boxes.box(level, index))
    for level in range(top, 0, -1):
        for index in boxes.nodes(level):
            children = boxes.children(level, index)
            found = _forest.down(
                [seen[level - 1, child] for child in children], borders[level, index], heaviest,
                boxes.box(level, index),
            )  # fmt: skip
            borders.update({(level - 1, child): one for child, one in zip(children, found, strict=True)})
    result = np.empty(relief.shape, np.int32)
    for index in boxes.nodes(0):
        box = boxes.box(0, index)
        place = of(box)
        result[place] = _forest.chunk_labels(
            relief[place], takes_part[place], labels[place], borders[0, index], heaviest, box,
            np.array([1, 2, 3]),
        )  # fmt: skip
    return result


@given(st.data())
def test_a_flood_in_parts_is_the_flood_of_the_whole(data):
    """Levels with many ties, plain areas, walls, seeds anywhere, chunks of a pixel."""
    ndim = data.draw(st.sampled_from([1, 2, 2, 2, 3]))
    shape = data.draw(st.tuples(*[st.integers(1, {1: 60, 2: 14, 3: 6}[ndim])] * ndim))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    kinds = data.draw(st.sampled_from([1, 2, 5, 1000]))
    relief = rng.integers(0, kinds, shape).astype(np.float32)
    takes_part = rng.random(shape) < data.draw(st.sampled_from([0.6, 0.9, 1]))
    labels = np.zeros(shape, np.int64)
    n_seeds = data.draw(st.integers(0, 6))
    labels.reshape(-1)[rng.integers(0, labels.size, n_seeds)] = rng.integers(1, 4, n_seeds)
    heaviest = 2 * float(relief.max())
    chunks = data.draw(st.tuples(*map(parts, shape)))
    expected = flooded_in_memory(relief, takes_part, labels)
    result = flooded_in_parts(relief, takes_part, labels, heaviest, chunks)
    np.testing.assert_array_equal(np.where(takes_part, result, 0), np.where(takes_part, expected, 0))


def test_what_travels_is_as_large_as_the_border():
    """On noise, which has the most basins: some nodes for each pixel of the border."""
    rng = np.random.default_rng(0)
    relief = rng.random((200, 200), np.float32)
    box = Boxes(((200, 1), (200, 1))).box(0, (0, 0))
    labels = np.zeros((200, 200), np.int64)
    labels[50, 50] = 1
    part = _forest.chunk_part(relief, np.ones_like(relief, bool), labels, 2.0, box)
    assert len(part.ids) == 399
    assert len(part.ends) < 25 * len(part.ids)
    assert len(part.border.table.levels) < 25 * len(part.ids)


def picture(shape, seed):
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 255, (*(extent // 20 + 1 for extent in shape), 3))
    for axis in range(len(shape)):
        cells = cells.repeat(20, axis)
    cells = cells[tuple(slice(0, extent) for extent in shape)]
    return (cells * 0.6 + rng.normal(0, 12, (*shape, 3)) + 40).clip(0, 255).astype(np.uint8)


def seeds_for(shape, seed, dtype=np.int64):
    rng = np.random.default_rng(seed)
    seeds = np.zeros(shape, dtype)
    seeds[tuple(rng.integers(0, extent, 14) for extent in shape)] = rng.integers(1, 5, 14)
    return seeds


IMAGES = {
    "photograph": lambda image: image,
    "plain": lambda image: image * np.uint8(0),
    "three levels": lambda image: image // 100,
    "grey": lambda image: image[..., 0],
    "16 bits with outliers": lambda image: np.where(image[..., 0] > 210, np.uint16(60000), image[..., 0]),
    "float": lambda image: (image / 255).astype(np.float32),
    "float16": lambda image: (image / 255).astype(np.float16),
    "opaque": lambda image: np.concatenate([image, np.full_like(image[..., :1], 255)], -1),
}


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("masked", [False, True])
def test_labels_are_those_in_memory(kind, masked):
    shape, number = (130, 150), list(IMAGES).index(kind)
    image, seeds = IMAGES[kind](picture(shape, number)), seeds_for(shape, number)
    mask = None
    if masked:
        rng = np.random.default_rng(number)
        mask = rng.random(shape) < 0.95
        seeds[rng.random(shape) < 0.02] = -1
    expected = aproarray.propagate_labels(image, seeds, mask=mask)
    chunks = [(60, 57), (130, 53)][number % 2]
    result = aproarray.propagate_labels(
        da.from_array(image, chunks=chunks + (1,) * (image.ndim - 2)), da.from_array(seeds, chunks=(41, 150)),
        mask=mask,
    )  # fmt: skip
    assert result.chunks == ((41, 41, 41, 7), (150,))
    computed = result.compute()
    assert computed.dtype == result.dtype == expected.dtype
    np.testing.assert_array_equal(computed, expected)


def strokes_for(shape, seed):
    """More seeds of a label, and more pixels, than are compared."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros(shape, np.uint8)
    for label in (1, 2, 3, 1, 2):
        row, column = rng.integers(0, shape[0] - 3), rng.integers(0, shape[1] - 40)
        seeds[row : row + 3, column : column + 40] = label
    return seeds


@pytest.mark.parametrize("seed", range(4))
def test_floods_that_disagree_are_settled_as_in_memory(seed, monkeypatch):
    """Noise: forests disagree on much of it, and strokes of several chunks say how far labels reach."""
    shape = (170, 180)
    image = (picture(shape, seed) * 0.3 + np.random.default_rng(seed).normal(90, 40, (*shape, 3))).astype(
        "u1"
    )
    seeds = strokes_for(shape, seed)
    expected = aproarray.propagate_labels(image, seeds)
    result = aproarray.propagate_labels(da.from_array(image, chunks=(60, 90, 3)), seeds).compute()
    np.testing.assert_array_equal(result, expected)
    monkeypatch.setattr(cpu.Weights, "choose", lambda self, maps, *_: maps[0].copy())
    assert (aproarray.propagate_labels(image, seeds) != expected).mean() > 0.01


def test_a_clean_image_of_small_objects_is_told_from_all_chunks(monkeypatch):
    """Part of it is noise: a chunk of that alone would not be clean."""
    rows, columns = np.indices((120, 160))
    image = 1 / (1 + np.exp((np.hypot(rows % 20 - 10, columns % 20 - 10) - 7) / 1.5))
    image[:40, :40] += np.random.default_rng(0).normal(0, 0.1, (40, 40))
    seeds = np.zeros((120, 160), int)
    seeds[10::20, 10::20] = np.arange(1, 49).reshape(6, 8)
    seeds[::40, ::40] = 49
    expected = aproarray.propagate_labels(image, seeds)
    result = aproarray.propagate_labels(da.from_array(image, chunks=40), seeds).compute()
    np.testing.assert_array_equal(result, expected)
    monkeypatch.setattr(_relief, "is_clean", lambda *_: False)
    assert (aproarray.propagate_labels(image, seeds) != expected).any()


@given(st.data())
def test_seeds_and_what_pixels_compare_as_add_up_over_parts(data):
    """Many seeds and pixels of a label; parts that lack some labels."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shape = data.draw(st.sampled_from([(60, 70), (9, 20, 30)]))
    n_labels = 5
    seeds = np.where(rng.random(shape) < 0.05, rng.integers(1, n_labels, shape), 0).astype(np.int32)
    seeds[tuple(rng.integers(0, extent // 2, 3) for extent in shape)] = n_labels - 1
    first = np.where(seeds, seeds, rng.integers(1, data.draw(st.integers(2, n_labels)), shape)).astype(
        np.int32
    )
    second = np.where((rng.random(shape) < 0.2) & (seeds == 0), 2, first).astype(np.int32)
    maps = np.stack([first, second, first])
    features = rng.random((*shape, 3), np.float32)

    def measured(low, high):
        place = tuple(slice(*ends) for ends in zip(low, high, strict=True))
        own = np.ascontiguousarray(features[place])
        pixels = cpu.Pixels(own.reshape(-1, 3), own.shape[:-1], low, None)
        return (
            pixels,
            np.ascontiguousarray(seeds[place]).reshape(-1),
            np.ascontiguousarray(maps[(slice(None), *place)]).reshape(3, -1),
        )

    pixels, flat, flat_maps = measured((0,) * len(shape), shape)
    whole = cpu.Seeds.of(flat, pixels, n_labels)
    survey, _ = cpu.Survey.of(list(flat_maps), flat, whole.evidence(pixels), n_labels)
    boxes = Boxes(data.draw(st.tuples(*map(parts, shape))))
    some = [measured(boxes.box(0, index).low, boxes.box(0, index).high) for index in boxes.nodes(0)]
    numbers = [np.arange(n_labels, dtype=np.int32)] * len(some)
    joined = cpu.Seeds.joined([cpu.Seeds.of(own, at, n_labels) for at, own, _ in some], numbers, n_labels)
    for name in ("counts", "labels", "keys", "rows"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    np.testing.assert_allclose(joined.extents, whole.extents, rtol=1e-12)
    surveys = []
    for at, own, own_maps in some:
        labels = np.unique(own_maps)  # those that there are in the part
        local = np.searchsorted(labels, own_maps).astype(np.int32) + 1
        evidence = joined.only(labels).evidence(at)
        found, _ = cpu.Survey.of(list(local), own, evidence, len(labels) + 1)
        surveys.append((found, np.append(0, labels).astype(np.int32)))
    total = cpu.Survey.joined(*zip(*surveys, strict=True), n_labels)
    for ours, theirs in zip(total, survey, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert (total.counts.sum(1) <= 511).all()


def test_places_of_more_than_2_to_the_31():
    """A part far from the image's corner is seen as one that is near it, and knows where it is."""
    rng = np.random.default_rng(0)
    far = 1 << 17
    image, seeds = rng.random((20, 30, 3), np.float32), np.zeros((20, 30), np.int32)
    seeds[rng.integers(0, 20, 90), rng.integers(0, 30, 90)] = rng.integers(1, 3, 90)
    relief, inside = image[..., 0], np.ones((20, 30), bool)
    found = {}
    for origin in ((1, 1), (far, far)):
        high = tuple(at + extent for at, extent in zip(origin, (20, 30), strict=True))
        box = Box(origin, high, (2 * far, 2 * far))
        found[origin] = _forest.chunk_part(relief, inside, seeds, 2.0, box)
        assert found[origin].ids[0] == origin[0] * 2 * far + origin[1]
        pixels = cpu.Pixels(image.reshape(-1, 3), (20, 30), origin, None)
        table = cpu.Seeds.of(seeds.reshape(-1), pixels, 3)
        np.testing.assert_array_equal(table.rows[:, 0].astype(np.int64) - origin[0] < 20, True)
        own = table.rows[:, :2].astype(np.int64) - origin
        np.testing.assert_array_equal(seeds[tuple(own.T)], table.labels)
    near, away = found.values()
    assert away.ids.min() > 1 << 34
    np.testing.assert_array_equal(near.ends, away.ends)
    np.testing.assert_array_equal(near.border.arrivals, away.border.arrivals)


@pytest.mark.parametrize("dtype", ["u1", "i4", "f8", "u8"])
def test_labels_of_any_dtype(dtype):
    image, seeds = picture((70, 110), 0), seeds_for((70, 110), 0, dtype)
    if dtype == "u8":
        seeds[seeds > 2] += 2**63
    result = aproarray.propagate_labels(image, da.from_array(seeds, chunks=(70, 54)))
    assert result.dtype == dtype
    np.testing.assert_array_equal(result.compute(), aproarray.propagate_labels(image, seeds))


@pytest.mark.slow("volumes overlap by 53 pixels on all sides")
def test_volumes():
    image, seeds = picture((56, 110, 60), 3)[..., 0], seeds_for((56, 110, 60), 3)
    result = aproarray.propagate_labels(da.from_array(image, chunks=(56, 55, 60)), seeds)
    np.testing.assert_array_equal(result.compute(), aproarray.propagate_labels(image, seeds))


def test_batches():
    images, seeds = (np.stack([one((60, 120), seed) for seed in range(3)]) for one in (picture, seeds_for))
    expected = aproarray.propagate_labels(images, seeds, spatial_ndim=2)
    result = aproarray.propagate_labels(
        da.from_array(images, chunks=(2, 60, 60, 3)), da.from_array(seeds, chunks=(1, 60, 60)), spatial_ndim=2
    )
    np.testing.assert_array_equal(result.compute(), expected)


def test_the_range_of_counted_numbers_is_that_of_the_numbers():
    rng = np.random.default_rng(0)
    for n, far, dtype in itertools.product([1, 30, 3000], [0, 1, 20, 200], ["u1", "u2", "i2", "f4"]):
        numbers = rng.integers(0, 9, n).astype(dtype)
        numbers[: min(far, n)] = rng.choice([100, 90, 60, 101], min(far, n))
        image = numbers[:, None]
        found = _relief.image_range(image, None)
        ends = _relief.ordinary_range_of_counts(*np.unique(numbers, return_counts=True))
        if found.has_outliers or (numbers.min(), numbers.max()) == ends:
            assert ends == (found.low, found.high)
        else:
            assert _relief.too_many_outliers(
                _relief.n_outlying(image, None, _relief.Range(*ends, has_outliers=True)), n
            )


def test_nothing_is_kept_of_the_image_between_its_readings():
    image, seeds = picture((120, 120), 0), seeds_for((120, 120), 0)
    calls = []

    def count(block):
        if block.size:
            calls.append(block.shape)
        return block

    chunked = da.from_array(image, chunks=(60, 60, 3)).rechunk((60, 120, 3))
    counted = chunked.map_blocks(count, dtype=image.dtype, meta=image[:0])
    result = aproarray.propagate_labels(counted, seeds)
    assert calls == []
    np.testing.assert_array_equal(result.compute(), aproarray.propagate_labels(image, seeds))
    assert len(calls) == 2 * 8  # numbers, outliers, sums, reliefs, seeds, two passes, votes


@pytest.mark.parametrize("chunks", [150, 300])
def test_numbers_that_cannot_be_told_from_outliers(chunks):
    image = np.random.default_rng(0).exponential(size=(300, 300))
    seeds = seeds_for(image.shape, 0)
    result = aproarray.propagate_labels(da.from_array(image, chunks=chunks), seeds)
    with pytest.raises(ValueError, match="more than 65536 distinct numbers"):
        result.compute()


def test_errors_name_the_chunk():
    image, seeds = picture((120, 130), 0), seeds_for((120, 130), 0, np.float64)
    bad = image.astype(np.float32)
    bad[100, 100, 1] = np.nan
    with pytest.raises(ValueError, match=r"image in chunk \(1, 1\) must be finite, but 1 of its"):
        aproarray.propagate_labels(da.from_array(bad, chunks=(60, 65, 3)), seeds).compute()
    seeds[100, 100] = 0.5
    with pytest.raises(ValueError, match=r"labels must be whole numbers .* in chunk \(1, 1\) are not, such"):
        aproarray.propagate_labels(da.from_array(image, chunks=(60, 65, 3)), seeds).compute()


def test_arguments_are_checked_at_once():
    image, seeds = da.from_array(picture((60, 60), 0)), seeds_for((60, 60), 0)
    with pytest.raises(TypeError, match="returns labels, and no shares, got return_full_prob=True"):
        aproarray.propagate_labels(image, seeds, return_full_prob=True)
    for option in ({"spacing": (1, 2)}, {"workers": 2}):
        with pytest.raises(TypeError, match=f"of dask arrays takes no {next(iter(option))}"):
            aproarray.propagate_labels(image, seeds, **option)
    with pytest.raises(TypeError, match="got booleans"):
        aproarray.propagate_labels(image, seeds > 0)
    with pytest.raises(ValueError, match=r"labels of shape \(60, 59\) do not fit an image of shape"):
        aproarray.propagate_labels(image, seeds[:, 1:])
    with pytest.raises(ValueError, match="convert2lab needs an image of 3 channels"):
        aproarray.propagate_labels(image[..., 0], seeds, convert2lab=True).compute()


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_schedulers_give_the_same_labels(scheduler):
    image, seeds = picture((120, 120), 5), seeds_for((120, 120), 5)
    result = aproarray.propagate_labels(da.from_array(image, chunks=(60, 60, 3)), seeds)
    computed = result.compute(scheduler=scheduler, num_workers=2)
    np.testing.assert_array_equal(computed, aproarray.propagate_labels(image, seeds))


def test_statistics_of_many_chunks_are_added_up_in_groups():
    image, seeds = picture((18 * 60, 5), 2), seeds_for((18 * 60, 5), 2)
    result = aproarray.propagate_labels(da.from_array(image, chunks=(60, 5, 3)), seeds)
    np.testing.assert_array_equal(result.compute(), aproarray.propagate_labels(image, seeds))


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_an_image_without_pixels_that_take_part_keeps_its_labels(dtype):
    image, seeds = picture((70, 120), 0).astype(dtype), seeds_for((70, 120), 0)
    mask = np.zeros((70, 120), bool)
    with pytest.warns(UserWarning, match="no seed"):
        expected = aproarray.propagate_labels(image, seeds, mask=mask)
    result = aproarray.propagate_labels(da.from_array(image, chunks=(70, 60, 3)), seeds, mask=mask)
    np.testing.assert_array_equal(result.compute(), expected)
    np.testing.assert_array_equal(expected, seeds)


def test_images_without_pixels_have_no_labels():
    empty = da.zeros((0, 50, 3), np.uint8, chunks=30)
    result = aproarray.propagate_labels(empty, np.zeros((0, 50), np.int32))
    assert result.shape == result.compute().shape == (0, 50)
    assert result.dtype == np.int32


def test_a_channel_of_its_own_scale_is_no_outlier():
    image, seeds = picture((120, 130), 4)[..., :2].astype("u2"), seeds_for((120, 130), 4)
    image[..., 1] = np.where(image[..., 0] > 160, 60_000, 0)  # more than one pixel in ten
    result = aproarray.propagate_labels(da.from_array(image, chunks=(60, 65, 2)), seeds)
    np.testing.assert_array_equal(result.compute(), aproarray.propagate_labels(image, seeds))
