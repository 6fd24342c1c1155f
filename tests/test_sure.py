"""Pixels whose label is sure before labels spread: parts of an object that no stroke touches."""

import importlib
import itertools

import numpy as np
import pytest

import aproarray
from aproarray import _sure, cpu, propagate_labels
from aproarray.cpu import _processor, _sweep


@pytest.fixture
def halves():
    """An object in two parts on a ground of another colour, with strokes on one part and on the ground."""
    rng = np.random.default_rng(0)
    image = rng.normal(0, 0.02, (120, 150, 3))
    truth = np.full((120, 150), 2)
    truth[30:90, 20:60] = truth[30:90, 90:130] = 1
    image[truth == 1] += 0.8, 0.2, 0.2
    seeds = np.zeros(truth.shape, int)
    seeds[40:80, 30], seeds[5, 5:140] = 1, 2
    return image, seeds, truth


def without(monkeypatch, function, *arguments, **options):
    """Return what a function does where no pixel is sure."""
    with monkeypatch.context() as patch:
        patch.setattr(_sure, "step_between", lambda *_: None)
        return function(*arguments, **options)


def test_a_part_that_no_stroke_touches_has_the_label_of_its_colour(halves, monkeypatch):
    image, seeds, truth = halves
    assert (propagate_labels(image, seeds) == truth).mean() > 0.99
    assert (without(monkeypatch, propagate_labels, image, seeds) == truth)[30:90, 90:130].mean() < 0.1


def test_the_names_of_labels_do_not_matter(halves):
    image, seeds, truth = halves
    labels = propagate_labels(image.astype(np.float32), np.where(seeds, 70 - 30 * seeds, 0).astype(np.uint8))
    np.testing.assert_array_equal(labels, 70 - 30 * propagate_labels(image.astype(np.float32), seeds))
    assert (labels == 70 - 30 * truth).mean() > 0.99


@pytest.mark.parametrize("chunks", [(50, 70), (37, 41), (3, 150)])
def test_chunks_have_the_same_labels(halves, chunks):
    da = pytest.importorskip("dask.array")
    image, seeds, truth = halves
    found = propagate_labels(da.from_array(image, chunks=(*chunks, 3)), seeds).compute()
    np.testing.assert_array_equal(found, propagate_labels(image, seeds))
    assert (found == truth).mean() > 0.99


def test_many_labels_have_a_sparser_lattice_than_chunks_have_kept():
    da = pytest.importorskip("dask.array")
    rng = np.random.default_rng(0)
    image = rng.normal(0, 0.02, (260, 310))
    image[60:220, 20:120] = image[60:220, 130:230] = 1
    seeds = np.zeros(image.shape, int)
    seeds[70:210:2, 110], seeds[5, 5:300] = 1, 2
    seeds[250, 2:12:2] = np.arange(3, 8)
    assert _sure.step_between(image.shape, 2) < _sure.step_between(image.shape, 7)
    expected = propagate_labels(image, seeds)
    np.testing.assert_array_equal(
        propagate_labels(da.from_array(image, chunks=90), seeds).compute(), expected
    )
    assert (expected[80:200, 140:220] == 1).mean() > 0.99


def test_a_stroke_after_others_has_the_labels_of_a_first_call(halves):
    image, seeds, _ = halves
    propagator = aproarray.LabelPropagator(image)
    for strokes in (np.where(seeds == 2, 0, seeds), seeds, seeds[::-1].copy(), seeds):
        np.testing.assert_array_equal(propagator.propagate(strokes), propagate_labels(image, strokes))


def test_no_pixel_is_sure_within_a_mask_or_beside_edges(halves, monkeypatch):
    """A part of the mask without seeds stays without a label."""
    image, seeds, _ = halves
    wall = np.ones(seeds.shape, bool)
    wall[:, 75] = False
    for options in ({"mask": wall}, {"edges": image[..., 0]}):
        found = propagate_labels(image, seeds, **options)
        np.testing.assert_array_equal(found, without(monkeypatch, propagate_labels, image, seeds, **options))
    left = np.where(np.arange(150) < 75, seeds, 0)
    assert not propagate_labels(image, left, mask=wall)[:, 76:].any()
    assert (propagate_labels(image, np.where(wall, left, -1))[:, 76:] == 0).all()


def test_sure_pixels_are_no_strokes(halves):
    """They are not held where pixels vote, and a stroke on one keeps its label."""
    image, seeds, _ = halves
    seeds[60, 100] = 2  # a pixel of the lattice, in the part of the other colour
    labels = propagate_labels(image, seeds)
    assert labels[60, 100] == 2
    assert (labels[30:90, 90:130] == 1).mean() > 0.5


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_sure_labels_are_those_of_the_definition(ndim):
    rng = np.random.default_rng(ndim)
    grid, step, spacing = (40, 12, 7)[:ndim], 4, (1.0, 1.5, 1.0)[:ndim]
    shape = tuple(step * extent - 1 for extent in grid)
    features = (rng.random(grid)[..., None] > 0.5) * 0.4 + rng.normal(0, 0.02, (*grid, 2))
    features = np.sort(features, axis=0).astype(np.float32)
    features[2 * grid[0] // 5 : 3 * grid[0] // 5] = 0.2  # like neither label
    labels = np.zeros(shape, np.int32)
    ends = (slice(None, 8),), (slice(-8, None),)
    for label, at in enumerate(ends, 1):
        labels[at] = label * (rng.random(labels[at].shape) < 0.3)
    every = np.repeat(features.reshape(*grid, 2), step, 0)
    for axis in range(1, ndim):
        every = np.repeat(every, step, axis)
    every = every[tuple(map(slice, shape))]
    pixels = cpu.Pixels(np.ascontiguousarray(every).reshape(-1, 2), shape, (0,) * ndim, spacing)
    seeds = cpu.Seeds.of(labels.reshape(-1), pixels, 3)
    found = _sure.sure_labels(features, step, seeds, spacing)

    begins, blocks = seeds.blocks()
    rows = [blocks[begins[k] : begins[k + 1]].transpose(0, 2, 1).reshape(-1, ndim + 2) for k in (1, 2)]
    places = np.stack(np.indices(grid), -1) * step * np.array(spacing)
    likely = []
    for of_label in rows:
        d = np.sqrt(((places[..., None, :] - of_label[:, :ndim]) ** 2).sum(-1)).min(-1) / step
        c = np.sqrt(((features[..., None, :] - of_label[:, ndim:]).astype(float) ** 2).sum(-1)).min(-1)
        likely.append(np.sqrt(np.exp(-(c**2) / (2 * 0.05**2)) + 0.001) / (1 + d))
    likely = np.stack(likely, -1) / sum(likely)[..., None]
    steps = [np.diff(features.astype(float), axis=axis) ** 2 for axis in range(ndim)]
    zeta = 1.5 * np.sqrt(sum(one.sum() for one in steps) / sum(one.size / 2 for one in steps))
    averages = aproarray.local_propagate(
        likely, features.astype(float), zeta=zeta, kernel_size=5, iterations=5, channel_axis=-1,
        spatial_ndim=ndim,
    )  # fmt: skip
    expected = np.where(averages.max(-1) > 0.9, averages.argmax(-1) + 1, 0)
    clear = np.abs(averages.max(-1) - 0.9) > 1e-3
    np.testing.assert_array_equal(found[clear], expected[clear])
    assert set(np.unique(found)) == {0, 1, 2}


@pytest.mark.skipif(not _sweep.has_avx2(), reason="this processor has no AVX2")
def test_vector_code_compares_alike(monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.zeros(600, np.int32)
    labels[rng.integers(0, 600, 90)] = rng.integers(1, 4, 90)
    pixels = cpu.Pixels(rng.random((600, 3), np.float32), (20, 30), (0, 0), None)
    results = []
    for name in ("_settle", "_settle_avx2"):
        monkeypatch.setattr(_processor, "settling", importlib.import_module(f"aproarray.cpu.{name}"))
        found = np.zeros((2, 3, 600), np.float32)
        cpu.Seeds.of(labels, pixels, 4).evidence(pixels).compare(*found)
        results.append(found)
    np.testing.assert_array_equal(*results)
    assert (results[0] > 0).any()


def test_comparisons_are_bounded():
    assert _sure.step_between((481, 321), 1) is None
    assert _sure.step_between((481, 321), 182) is None
    for shape, n_labels in itertools.product([(481, 321), (10**5, 10**5), (300,) * 3, (7,)], [2, 15, 181]):
        step = _sure.step_between(shape, n_labels)
        assert step >= 4
        assert step % _sure.step_between(shape, 2) == 0
        assert n_labels * np.prod([-(-extent // step) for extent in shape]) <= 2**15


def test_a_plain_image_has_few_sure_pixels_and_the_same_labels(monkeypatch):
    seeds = np.zeros((60, 90), int)
    seeds[30, 20], seeds[30, 70] = 1, 2
    flat = np.ones(seeds.shape)
    expected = without(monkeypatch, propagate_labels, flat, seeds)
    assert (propagate_labels(flat, seeds) == expected).mean() > 0.97
