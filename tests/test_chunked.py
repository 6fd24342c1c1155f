"""Dask arrays: the results of the whole image for any chunks, computed when they are asked for."""

from __future__ import annotations

import math
import subprocess
import sys

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import pictures, values_over, zetas

import aproarray
from aproarray import _edges, chunked, cpu
from aproarray.chunked import _line
from aproarray.chunked._boxes import Box

TOLERANCES = {np.dtype(np.float16): 1e-3, np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-12}


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def parts(extent):
    """Chunks along an axis: any, thin ones and a single one among them."""
    cuts = st.lists(st.integers(1, max(extent - 1, 1)), max_size=4, unique=True)
    ends = cuts.map(lambda inner: [0, *sorted(cut for cut in inner if cut < extent), extent])
    return ends.map(lambda ends: tuple(int(n) for n in np.diff(ends)))


def chunkings(shape):
    return st.tuples(*map(parts, shape))


@st.composite
def cases(draw):
    """A picture, its chunks, its tree in memory and its chunked tree."""
    picture = draw(pictures())
    chunks = draw(chunkings(picture.image.shape))
    mask = picture.mask
    if mask is not None and draw(st.booleans()):
        mask = da.from_array(mask, chunks=draw(chunkings(mask.shape)))
    tree = aproarray.mst(
        da.from_array(picture.image, chunks=chunks),
        spatial_ndim=len(picture.shape),
        connectivity=picture.connectivity,
        mask=mask,
    )
    if draw(st.booleans()):
        tree = tree.persist()
    return picture, picture.tree(), tree


def assert_close(result, expected, values):
    """Compare to so many of the largest value's digits."""
    assert isinstance(result, da.Array)
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    computed = result.compute()
    assert computed.dtype == expected.dtype
    largest = max(float(np.abs(values.astype(np.float64)).max(initial=0)), 1e-300)
    tolerance = TOLERANCES[expected.dtype] * largest
    np.testing.assert_allclose(computed, expected, rtol=0, atol=tolerance)


@given(cases(), st.data())
def test_global_propagation_is_that_of_the_whole_image(case, data):
    picture, tree, lazy = case
    own = data.draw(st.sampled_from([(), (2,), (1, 3)]))
    shape = (*own, *picture.shape, data.draw(st.sampled_from([1, 2, 9])))
    values = data.draw(values_over(shape, data.draw(st.sampled_from(["f2", "f4", "f8"]))))
    zeta = data.draw(zetas | st.lists(zetas, min_size=1, max_size=2))
    expected = aproarray.global_propagate(values, tree, zeta=zeta)
    given_values = values
    if data.draw(st.booleans()):
        given_values = da.from_array(values, chunks=data.draw(chunkings(shape)))
    assert_close(aproarray.global_propagate(given_values, lazy, zeta=zeta), expected, values)


@given(cases(), st.sampled_from([0, 0.02, 1, 4.5, 1e5, math.inf]))
def test_zones_have_the_same_numbers(case, threshold):
    _, tree, lazy = case
    result, expected = lazy.cut(threshold), tree.cut(threshold)
    computed = result.compute()
    np.testing.assert_array_equal(computed, expected)
    assert computed.dtype == result.dtype == expected.dtype
    assert lazy.n_components.compute() == tree.n_components


@given(cases(), st.data())
def test_distances_are_the_same_bits(case, data):
    picture, tree, lazy = case
    node = st.integers(0, picture.n_nodes - 1)
    i, j = (data.draw(st.lists(node, min_size=1, max_size=5)) for _ in range(2))
    i = np.array(i)[:, None]
    result = lazy.minimax(i, j)
    np.testing.assert_array_equal(result.compute(), tree.minimax(i, j))
    assert result.dtype == tree.gaps.dtype
    places = np.unravel_index(i, picture.shape)
    np.testing.assert_array_equal(lazy.minimax(places, 0).compute(), tree.minimax(i, 0))
    zeta = data.draw(zetas)
    result = lazy.affinity(int(i[0, 0]), zeta)
    np.testing.assert_array_equal(result.compute(), tree.affinity(int(i[0, 0]), zeta))
    assert result.dtype == tree.gaps.dtype


def batch():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 5, (3, 2, 9, 12)).astype("f4")  # two channels, before the spatial axes
    values = rng.random((3, 2, 4, 9, 12))
    return image, values, rng.random((3, 9, 12)) < 0.8


@pytest.mark.parametrize("shared_mask", [False, True])
@pytest.mark.parametrize("persisted", [False, True])
def test_batches_and_channels_anywhere(shared_mask, persisted):
    image, values, mask = batch()
    mask = mask[0] if shared_mask else mask
    tree = aproarray.mst(image, channel_axis=1, mask=mask)
    lazy = aproarray.mst(da.from_array(image, chunks=(2, 1, 4, 5)), channel_axis=1, mask=mask)
    assert (lazy.shape, lazy.batch_shape) == (tree.shape, tree.batch_shape)
    lazy = lazy.persist() if persisted else lazy
    for zeta in (0.7, [0.7, 3.0]):
        expected = aproarray.global_propagate(values, tree, zeta=zeta, channel_axis=2)
        result = aproarray.global_propagate(
            da.from_array(values, chunks=(1, 1, 3, 9, 12)), lazy, zeta=zeta, channel_axis=2
        )
        assert_close(result, expected, values)
    one_channel = aproarray.global_propagate(values[:, 0, 0], lazy, zeta=1)
    assert_close(one_channel, aproarray.global_propagate(values[:, 0, 0], tree, zeta=1), values)
    np.testing.assert_array_equal(lazy.cut(1).compute(), tree.cut(1))
    np.testing.assert_array_equal(lazy.n_components.compute(), tree.n_components)
    with pytest.raises(ValueError, match="minimax takes one tree, not a batch"):
        lazy.minimax(0, 1)


@given(st.data())
def test_local_propagation_has_the_same_bits(data):
    ndim = data.draw(st.sampled_from([1, 2, 2, 3]))
    shape = data.draw(st.tuples(*[st.integers(1, {1: 40, 2: 17, 3: 6}[ndim])] * ndim))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    leading, own = data.draw(st.sampled_from([((), ()), ((2,), ()), ((2,), (2,)), ((), (3,))]))
    image = rng.random((*leading, *shape, 2)).astype(data.draw(st.sampled_from(["f4", "f8"])))
    values = rng.random((*leading, *own, *shape, 5)).astype(data.draw(st.sampled_from(["f2", "f4", "f8"])))
    options = {
        "zeta": 0.3,
        "kernel_size": data.draw(st.sampled_from([1, 3, 5])),
        "iterations": data.draw(st.integers(0, 4)),
        "mask": rng.random(data.draw(st.sampled_from([shape, leading + shape]))) < 0.8,
        "spatial_ndim": ndim,
    }
    expected = aproarray.local_propagate(values, image, **options)
    lazy_image = da.from_array(image, chunks=data.draw(chunkings(image.shape)))
    lazy_values = da.from_array(values, chunks=data.draw(chunkings(values.shape)))
    result = aproarray.local_propagate(lazy_values, lazy_image, **options)
    n_leading = len(leading)
    assert result.chunks[values.ndim - 1 - ndim : -1] == lazy_image.chunks[n_leading:-1]
    computed = result.compute()
    assert computed.dtype == result.dtype == expected.dtype
    np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize("dtype", ["i8", "u8"])
@pytest.mark.parametrize("spread", [9, 2**62])
def test_differences_of_large_integers_are_those_of_the_whole_image(dtype, spread):
    rng = np.random.default_rng(5)
    image = (2**61 + rng.integers(0, spread, (2, 8, 9, 2))).astype(dtype)
    mask = rng.random((8, 9)) < 0.8
    image[:, ~mask] = 0  # which takes no part in the range
    lazy_image = da.from_array(image, chunks=(1, 3, 4, 1))
    tree = aproarray.mst(image, mask=mask)
    lazy = aproarray.mst(lazy_image, mask=mask)
    for threshold in (3, 2.0**120):
        np.testing.assert_array_equal(lazy.cut(threshold).compute(), tree.cut(threshold))
    values = rng.random((2, 8, 9, 1))
    options = {"zeta": float(spread), "kernel_size": 3, "iterations": 2, "mask": mask}
    expected = aproarray.local_propagate(values, image, **options)
    result = aproarray.local_propagate(values, lazy_image, **options)
    np.testing.assert_array_equal(result.compute(), expected)


def photograph():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 8, (9, 9, 3)).repeat(7, 0).repeat(7, 1) * 30 + rng.integers(0, 9, (63, 63, 3))
    values = np.zeros((63, 63, 2), np.float32)
    values[rng.integers(0, 63, 9), rng.integers(0, 63, 9), rng.integers(0, 2, 9)] = 1
    return image.astype(np.uint8), values


PROCESSES = pytest.param(
    "processes", marks=pytest.mark.slow("starts processes; those of a cluster are tried by default")
)


@pytest.mark.parametrize("scheduler", ["threads", PROCESSES, "synchronous"])
def test_schedulers_give_the_same_bits(scheduler):
    image, values = photograph()
    lazy = aproarray.mst(da.from_array(image, chunks=(16, 20, 3)))
    result = aproarray.global_propagate(da.from_array(values, chunks=(16, 20, 2)), lazy, zeta=9.0)
    again = aproarray.global_propagate(da.from_array(values, chunks=(16, 20, 2)), lazy.persist(), zeta=9.0)
    expected = result.compute()
    np.testing.assert_array_equal(result.compute(scheduler=scheduler, num_workers=2), expected)
    np.testing.assert_array_equal(again.compute(scheduler=scheduler, num_workers=2), expected)
    assert_close(result, aproarray.global_propagate(values, aproarray.mst(image), zeta=9.0), values)


def counted(array, chunks):
    """Return a dask array, and a list that grows by one whenever one of its chunks is computed."""
    calls = []

    def count(block):
        if block.size:
            calls.append(block.shape)
        return block

    return da.from_array(array, chunks=chunks).map_blocks(count, dtype=array.dtype, meta=array[:0]), calls


def test_nothing_is_computed_before_it_is_asked_for_and_a_persisted_tree_needs_no_image():
    image, values = photograph()
    lazy_image, image_calls = counted(image, (21, 63, 3))
    lazy_values, value_calls = counted(values, (21, 63, 2))
    tree = aproarray.mst(lazy_image)
    result = aproarray.global_propagate(lazy_values, tree, zeta=9.0)
    local = aproarray.local_propagate(lazy_values, lazy_image, zeta=9.0, kernel_size=3, iterations=2)
    tree.cut(1.0), tree.minimax(0, 9), tree.affinity(0, 1.0), repr(tree)
    assert isinstance(local, da.Array)
    assert image_calls == value_calls == []
    expected = result.compute()
    assert len(image_calls) == len(value_calls) == 6  # three chunks, twice
    kept = tree.persist()
    assert len(image_calls) == 9
    assert "persisted" in repr(kept)
    np.testing.assert_array_equal(aproarray.global_propagate(lazy_values, kept, zeta=9.0).compute(), expected)
    aproarray.global_propagate(lazy_values, kept, zeta=[1.0, 2.0]).compute()
    kept.cut(3.0).compute()
    assert len(image_calls) == 9
    (computed,) = dask.compute(tree)
    np.testing.assert_array_equal(aproarray.global_propagate(values, computed, zeta=9.0).compute(), expected)


def test_results_keep_the_values_chunks():
    image, values = photograph()
    lazy = aproarray.mst(da.from_array(image, chunks=(20, 33, 1)))
    result = aproarray.global_propagate(da.from_array(values, chunks=(20, 33, 1)), lazy, zeta=1)
    assert result.chunks == ((20, 20, 20, 3), (33, 30), (1, 1))
    # Others than the tree's are changed to those.
    assert aproarray.global_propagate(da.from_array(values, chunks=9), lazy, zeta=1).chunks[:2] == lazy.chunks


def test_what_an_image_is_chunked_as_is_not_seen_in_its_flat_parts():
    """No seam: a constant image gives the mean everywhere, in every chunk."""
    values = np.zeros((20, 30))
    values[3, 4] = 600
    lazy = aproarray.mst(da.zeros((20, 30), chunks=(7, 4), dtype="u1"))
    np.testing.assert_array_equal(aproarray.global_propagate(values, lazy, zeta=1).compute(), 1)


def test_pixels_of_more_than_2_to_the_31():
    """Places in the image are counted in 64 bits."""
    image = (1 << 17, 1 << 17)
    upper, lower = Box((0, 0), (image[0] - 2, image[1]), image), Box((image[0] - 2, 0), image, image)
    corner = Box((image[0] - 2, image[1] - 3), image, image)
    ids = corner.ids(np.arange(6))
    assert ids.tolist() == [
        (image[0] - 2 + r) * image[1] + image[1] - 3 + c for r in range(2) for c in range(3)
    ]
    assert ids.min() > 1 << 33
    assert corner.pixels(ids).tolist() == list(range(6))
    above = ids[:3] - image[1]
    assert upper.on_border(above).all()
    lines = [_line.Line(some, np.ones(2), np.ones(3), np.zeros((3, 1))) for some in (above, ids[:3])]
    whole = Box((0, 0), image, image)
    joined, line = _line.join(lines, whole, 1, np.empty(0, np.int64), check=True)
    assert sorted(joined.gaps) == [0, 0, 0, 1, 1]
    assert _edges.grid(image, 1).strides.tolist() == [1, image[1]]
    assert len(line.ids) == 1
    assert lower.on_border(ids).tolist() == [True] * 3 + [False] * 3


def test_the_last_chunk_of_more_than_2_to_the_31_pixels():
    """Its own tasks alone are run: the other three chunks would not fit in memory."""
    side = 1 << 17
    chunks = ((side - 5, 5),) * 2
    tree = aproarray.mst(da.zeros((side, side), chunks=chunks, dtype=np.uint8))
    graph = tree.__dask_graph__()
    key = (f"{tree.name}-line", 0, 0, 1, 1)
    line = dask.get(dask.optimization.cull(dict(graph), [key])[0], key)
    assert line.ids.min() > 1 << 33
    assert set(line.ids % side) <= set(range(side - 5, side))


def with_nan(array, place):
    array = array.astype(np.float64)
    array[place] = np.nan
    return array


def test_bad_numbers_are_found_in_their_chunk():
    image, values = photograph()
    bad_image = da.from_array(with_nan(image, (40, 3, 0)), chunks=(20, 30, 3))
    bad_values = da.from_array(with_nan(values, (40, 61, 1)), chunks=(20, 30, 2))
    tree = aproarray.mst(bad_image)
    result = aproarray.global_propagate(values, tree, zeta=1)
    with pytest.raises(
        ValueError, match=r"image in chunk \(2, 0\) must be finite, but 1 of its 1800 numbers"
    ):
        result.compute()
    good = aproarray.mst(da.from_array(image, chunks=(20, 30, 3)))
    for tree in (good, good.persist()):
        result = aproarray.global_propagate(bad_values, tree, zeta=1)
        with pytest.raises(ValueError, match=r"values in chunk \(2, 2\) must be finite, but 1 of its"):
            result.compute()
    local = aproarray.local_propagate(bad_values, image, zeta=1, kernel_size=3, iterations=1)
    with pytest.raises(ValueError, match=r"in chunk \(0, 0\) or around it: values must be finite"):
        local.compute()
    mask = np.ones(image.shape[:2], bool)
    mask[40, [3, 61]] = False
    tree = aproarray.mst(bad_image, mask=mask)
    result = aproarray.global_propagate(bad_values, tree, zeta=1).compute()
    assert np.isnan(result[40, 61, 1])
    assert np.isfinite(np.delete(result.ravel(), np.ravel_multi_index((40, 61, 1), result.shape))).all()


def test_overflow_is_found():
    image = np.zeros((6, 6))
    image[2] = 1e200  # which only edges between chunks lead to
    with pytest.raises(ValueError, match="squared differences of image between chunks overflow float64"):
        aproarray.mst(da.from_array(image, chunks=1)).cut(1).compute()
    with pytest.raises(ValueError, match=r"squared differences of image in chunk \(0, 0\) overflow float64"):
        aproarray.mst(da.from_array(image, chunks=6)).cut(1).compute()
    values = np.full((6, 6), 1.7e308)
    result = aproarray.global_propagate(values, aproarray.mst(da.zeros((6, 6), chunks=3)), zeta=1)
    with (
        pytest.raises(ValueError, match=r"sums of values in chunk .* overflow float64"),
        np.errstate(all="ignore"),
    ):
        result.compute()


def test_arguments_are_checked_at_once():
    image, values = photograph()
    lazy_image, lazy_values = da.from_array(image, chunks=20), da.from_array(values, chunks=20)
    tree = aproarray.mst(lazy_image)
    known = lazy_image[lazy_image[:, 0, 0] > 3]
    with pytest.raises(ValueError, match=r"image must have chunks of known sizes, .*compute_chunk_sizes"):
        aproarray.mst(known)
    with pytest.raises(
        TypeError, match=r"tree must be that of a dask array .* got a aproarray._tree.SpanningTree"
    ):
        aproarray.global_propagate(lazy_values, aproarray.mst(image), zeta=1)
    for option in ({"features": values}, {"tree_index": [0]}, {"out": values}, {"workers": 2}):
        (name,) = option
        with pytest.raises(TypeError, match=f"global_propagate of dask arrays takes no {name}"):
            aproarray.global_propagate(lazy_values, tree, zeta=1, **option)
    for option in ({"out": values}, {"workers": 2}):
        (name,) = option
        with pytest.raises(TypeError, match=f"local_propagate of dask arrays takes no {name}"):
            aproarray.local_propagate(lazy_values, lazy_image, zeta=1, **option)
    with pytest.raises(TypeError, match="mst of dask arrays takes no workers"):
        aproarray.mst(lazy_image, workers=1)
    with pytest.raises(ValueError, match="does not fit a tree"):
        aproarray.global_propagate(lazy_values[:-1], tree, zeta=1)
    with pytest.raises(ValueError, match="does not fit an image"):
        aproarray.local_propagate(lazy_values[:-1], lazy_image, zeta=1)
    with pytest.raises(ValueError, match="mask of shape"):
        aproarray.mst(lazy_image, mask=np.ones((3, 3), bool))
    with pytest.raises(TypeError, match="mask must be boolean"):
        aproarray.mst(lazy_image, mask=lazy_image[..., 0])
    with pytest.raises(TypeError, match="image must hold bool, integer"):
        aproarray.mst(lazy_image.astype(complex))
    with pytest.raises(ValueError, match="zeta must be above 0"):
        aproarray.global_propagate(lazy_values, tree, zeta=0)
    with pytest.raises(ValueError, match="threshold must be at least 0"):
        tree.cut(-1)
    with pytest.raises(ValueError, match="index must be one pixel"):
        tree.affinity([0, 1], 1)
    with pytest.raises(ValueError, match="must be in"):
        tree.minimax(0, 63 * 63)


def test_dask_is_not_imported_without_dask_arrays():
    code = (
        "import sys, aproarray; tree = aproarray.mst([[1, 2], [3, 5]]);"
        "aproarray.global_propagate([[1, 0], [0, 0]], tree, zeta=1); print('dask' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def test_public_names():
    assert chunked.__all__ == [
        "ChunkedTree",
        "affinity_map",
        "global_propagate",
        "local_propagate",
        "mst",
        "propagate_labels",
        "refine",
    ]
    assert isinstance(aproarray.mst(da.zeros((3, 3), chunks=2)), chunked.ChunkedTree)


def test_a_line_is_reduced_to_what_is_seen_from_its_kept_items():
    """The example of the module: records at each new largest gap, from both sides of the largest."""
    gaps = np.array([2.0, 1, 3, 9, 1, 4, 2])
    keep = np.array([1, 0, 0, 0, 0, 0, 0, 1], np.uint8)
    starts, between, kept = cpu.reduce_line(gaps, keep, np.empty(0))
    assert starts.tolist() == [0, 1, 3, 4, 6, 7]
    assert between.tolist() == [2, 3, 9, 4, 2]
    assert kept.tolist() == [0, 5]
    # Nothing is recorded of items that count for nothing.
    counts = np.array([1.0, 0, 0, 5, 0, 0, 2, 1])
    starts, between, _ = cpu.reduce_line(gaps, keep, counts)
    assert starts.tolist() == [0, 1, 4, 7]
    assert between.tolist() == [3, 9, 2]
    assert np.add.reduceat(counts, starts).tolist() == [1, 5, 2, 1]


def test_arrays_that_are_computed_rather_than_read():
    """Their chunks are tasks without others before them. They are computed again for the second pass."""
    image = da.fromfunction(
        lambda y, x: (y * 7 + x * x) % 11, shape=(20, 30), chunks=(8, 9), dtype=np.float64
    )
    values = da.fromfunction(lambda y, x: (y - x) % 3, shape=(20, 30), chunks=(8, 9), dtype=np.float64)
    result = aproarray.global_propagate(values, aproarray.mst(image), zeta=2.0, channel_axis=None)
    expected = aproarray.global_propagate(
        values.compute(), aproarray.mst(image.compute()), zeta=2.0, channel_axis=None
    )
    np.testing.assert_allclose(result.compute(), expected, rtol=1e-12)


def test_values_without_channels_have_no_means():
    image = da.from_array(np.random.default_rng(0).random((9, 12)), chunks=(4, 5))
    result = aproarray.global_propagate(
        da.zeros((9, 12, 0), chunks=(4, 5, 1)), aproarray.mst(image), zeta=1.0
    )
    assert result.compute().shape == (9, 12, 0)


def test_what_no_chunk_can_hold_is_an_error():
    image = da.from_array(np.zeros((9, 12)), chunks=(4, 5))
    tree = aproarray.mst(image)
    with pytest.raises(ValueError, match=r"one coordinate for each axis of \(9, 12\), got \(1,\)"):
        tree.minimax((1,), 0)
    with pytest.raises(TypeError, match=r"would be lost: pass da\.ma\.getdata\(image\), and mask="):
        aproarray.mst(da.ma.masked_array(image, image > 1))
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(TypeError, match=r"values must be .* beside dask arrays, got a torch\.Tensor"):
        aproarray.global_propagate(torch.zeros(9, 12, 1), tree, zeta=1.0)
