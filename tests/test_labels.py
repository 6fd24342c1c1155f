"""From marks to masks: the two kernels against their definitions, and what callers rely on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aproarray
from aproarray import LabelPropagator, SpanningTree, cpu, propagate_labels, reference
from aproarray._labels import _steps


def padded(array, fill, pad):
    return np.pad(array, pad, constant_values=fill)


def flooded(relief, labels):
    """Flood a relief with labels (-1: takes no part)."""
    inner = (slice(1, -1),) * relief.ndim
    full = padded(labels, -1, 1).astype(np.int32)
    one_map = full.reshape(1, -1)
    relief = padded(relief, 0, 1).astype(np.float32).reshape(1, -1)
    cpu.flood(relief, one_map, _steps(full.shape, 1), workers=1)
    return full[inner]


@st.composite
def seeded_reliefs(draw):
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    relief = rng.integers(0, draw(st.integers(1, 60)) + 1, shape).astype(np.float32)
    labels = rng.choice([0, 0, 0, 0, 1, 2, 3, -1], shape)
    return relief, labels


@given(seeded_reliefs())
def test_flood_takes_the_label_of_a_nearest_seed_by_minimax_distance(drawn):
    relief, labels = drawn
    result = flooded(relief, labels)
    n = relief.size
    edges = reference.pixel_graph(relief.shape, 1, labels != -1)
    weights = relief.reshape(-1)[edges].sum(-1)
    rows = reference.mst(edges, weights, n)
    distances = reference.minimax_distances(edges[rows], weights[rows], n)
    seeds = np.flatnonzero(labels.reshape(-1) > 0)
    for pixel in range(n):
        own, got = labels.reshape(-1)[pixel], result.reshape(-1)[pixel]
        if own:
            assert got == own
            continue
        to_seeds = distances[pixel, seeds]
        if not np.isfinite(to_seeds).any():
            assert got == 0
        else:
            nearest = seeds[to_seeds == to_seeds.min()]
            assert got in labels.reshape(-1)[nearest]


def voted(features, labels, held, scale, iterations, n_labels, radius=1):
    """Vote by the definition, every pixel in every iteration."""
    shape = labels.shape
    labels = labels.copy()
    shares = np.zeros((*shape, n_labels))
    for _ in range(iterations):
        votes = np.zeros((*shape, n_labels))
        for pixel in np.ndindex(shape):
            window = tuple(slice(max(0, i - radius), i + radius + 1) for i in pixel)
            distance = ((features[window] - features[pixel]) ** 2).sum(-1)
            for label, d in zip(labels[window].reshape(-1), distance.reshape(-1), strict=True):
                if label > 0:
                    votes[pixel][label - 1] += np.exp(-d * scale)
        following = labels.copy()
        for pixel in np.ndindex(shape):
            if labels[pixel] <= 0:
                continue
            shares[pixel] = votes[pixel] / votes[pixel].sum()
            if held[pixel]:
                shares[pixel] = np.arange(1, n_labels + 1) == labels[pixel]
            elif votes[pixel].max() > votes[pixel][labels[pixel] - 1] * (1 + 1e-9):
                following[pixel] = votes[pixel].argmax() + 1
        labels = following
    return labels, shares


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 6))
def test_votes_by_definition(seed, ndim, iterations):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9 if ndim < 3 else 4, ndim))
    features = rng.random((*shape, 2)).astype(np.float32)
    labels = rng.choice([-1, 0, 1, 2, 3], shape, p=[0.05, 0.05, 0.3, 0.3, 0.3]).astype(np.int32)
    held = (rng.random(shape) < 0.1) & (labels > 0)
    expected, expected_shares = voted(features, labels, held, 3.0, iterations, 3)

    full = padded(labels, -1, 1)
    full_features = np.pad(features, [(1, 1)] * ndim + [(0, 0)]).reshape(-1, 2)
    full_held = padded(held, False, 1).astype(np.uint8).reshape(-1)
    window = np.array(list(_window_steps(full.shape)), np.intp)
    inner = (slice(1, -1),) * ndim
    for with_shares in (False, True):
        flat = full.copy().reshape(-1)
        shares = np.zeros((flat.size if with_shares else 0, 3), np.float32)
        cpu.vote(full_features, flat, np.empty(0, np.int32), full_held, window, 3.0, iterations, 3, shares)
        assert np.array_equal(flat.reshape(full.shape)[inner], expected)
    np.testing.assert_allclose(shares.reshape(*full.shape, 3)[inner], expected_shares, atol=1e-6)


def _window_steps(shape):
    strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    for step in np.ndindex(*(3,) * len(shape)):
        flat = sum((a - 1) * b for a, b in zip(step, strides, strict=True))
        if flat:
            yield flat


@pytest.fixture(scope="module")
def scene():
    """Three noisy regions of a colour image, and a stroke in each."""
    rng = np.random.default_rng(0)
    truth = np.ones((60, 80), int)
    rows, columns = np.ogrid[:60, :80]
    truth[np.hypot(rows - 25, columns - 25) < 16] = 2
    truth[35:, 50:] = 3
    palette = np.array([[0, 0, 0], [0.3, 0.5, 0.3], [0.7, 0.4, 0.3], [0.2, 0.3, 0.7]])
    image = np.clip(palette[truth] + 0.04 * rng.standard_normal((60, 80, 3)), 0, 1)
    seeds = np.zeros((60, 80), int)
    seeds[4, 50:70], seeds[20:30, 25], seeds[45, 60:70] = 1, 2, 3
    return image, seeds, truth


def test_regions_get_the_label_of_their_stroke(scene):
    image, seeds, truth = scene
    assert (propagate_labels(image, seeds) == truth).mean() > 0.98


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
def test_labels_keep_their_dtype_and_values(scene, dtype):
    image, seeds, _ = scene
    values = np.array([0, 120, 7, 55], dtype)
    result = propagate_labels(image, values[seeds])
    assert result.dtype == dtype
    assert np.array_equal(result, values[propagate_labels(image, seeds)])  # names do not matter


@pytest.mark.parametrize(
    "rescale",
    [
        lambda image: image * 4,
        lambda image: image * 2**-20,
        lambda image: image.astype(np.float32),
        lambda image: image * 1000 - 300,
        lambda image: (image * 65535).astype(np.uint16),
        lambda image: (image * 255).round().astype(np.uint8),
        lambda image: image * 1e200,
    ],
)
def test_scale_of_the_image_does_not_matter(scene, rescale):
    image, seeds, _ = scene
    assert (propagate_labels(rescale(image), seeds) == propagate_labels(image, seeds)).mean() > 0.99


def test_layout_of_the_image_does_not_matter(scene):
    image, seeds, _ = scene
    expected = propagate_labels(image, seeds)
    assert np.array_equal(propagate_labels(np.moveaxis(image, -1, 0), seeds, channel_axis=0), expected)
    image.setflags(write=False)
    seeds.setflags(write=False)
    flipped = image[::-1], seeds[::-1]
    assert np.array_equal(propagate_labels(*flipped), propagate_labels(*(x.copy() for x in flipped)))
    assert np.array_equal(propagate_labels(np.asfortranarray(image), seeds.astype(">i4")), expected)


def test_grey_bands_and_volumes(scene):
    image, seeds, truth = scene
    grey = image @ [0.2, 0.1, 0.7]
    assert (propagate_labels(grey, seeds) == truth).mean() > 0.95
    bands = np.concatenate([image, image**2], axis=-1)
    assert (propagate_labels(bands, seeds) == truth).mean() > 0.98
    volume, marks = np.stack([grey] * 7), np.zeros((7, 60, 80), int)
    marks[3] = seeds
    assert (propagate_labels(volume, marks) == truth).mean() > 0.95
    assert np.array_equal(
        propagate_labels(volume[..., None], marks), propagate_labels(volume, marks, channel_axis=None)
    )
    row = propagate_labels(np.array([0, 0, 1, 1.0]), np.array([5, 0, 0, 6]))
    assert row.tolist() == [5, 5, 6, 6]


SCALES = {  # of images of integers from 0 to 3
    "uint8": lambda image: (image * 85).astype(np.uint8),
    "bool": lambda image: image > 1,
    "unit floats": lambda image: image / 3,
    "16 bits": lambda image: (image * 21845).astype(np.uint16),
    "signed": lambda image: (image * 1000 - 2000).astype(np.int32),
    "tiny": lambda image: image * 1e-300,
    "huge": lambda image: image * 1e300,
    "faint": lambda image: 1e6 + image * 1e-3,
    "one outlier": lambda image: np.where(np.arange(image.size).reshape(image.shape) == 0, 1e30, image),
    "colours": lambda image: np.stack([image, 3 - image, image * 0], -1) / 3,
    "12 bands": lambda image: image[..., None] * np.arange(12) * 100.0,
}


@pytest.mark.parametrize("scale", SCALES)
@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_seeds_keep_and_every_pixel_that_may_gets_a_label(scale, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 12, rng.integers(1, 4)))
    image = SCALES[scale](rng.integers(0, 4, shape))
    labels = rng.choice([0, 0, 0, 0, 0, 0, 1, 2, 9, -1, -3], shape)
    mask = rng.random(shape) < 0.9
    result = propagate_labels(image, labels, mask=mask)
    takes_part = mask & (labels >= 0)
    assert np.array_equal(result[~takes_part], labels[~takes_part])
    seeds = takes_part & (labels > 0)
    assert np.array_equal(result[seeds], labels[seeds])
    zones = aproarray.mst(np.zeros(shape), mask=takes_part, spatial_ndim=len(shape)).cut(np.inf)
    for zone in range(1, zones.max() + 1):
        inside = zones == zone
        reachable = set(labels[inside & seeds])
        assert set(result[inside]) <= reachable if reachable else set(result[inside]) == {0}


def test_what_takes_no_part_is_not_looked_at(scene):
    image, seeds, _ = scene
    mask = np.ones(seeds.shape, bool)
    mask[:, 70:] = False
    hidden, marks = image.copy(), seeds.copy()
    hidden[:, 70:] = np.nan
    marks[5, 75] = 9  # a seed where nothing takes part
    result = propagate_labels(hidden, marks, mask=mask)
    hidden[:, 70:] = 1e6
    marks[5, 75] = 0
    again = propagate_labels(hidden, marks, mask=mask)
    assert np.array_equal(result[:, :70], again[:, :70])
    assert result[5, 75] == 9
    assert 9 not in result[:, :70]


def test_shares_of_the_vote(scene):
    image, seeds, _ = scene
    renamed = np.array([0, 30, 10, 20])[seeds]
    renamed[-1] = -1
    labels = propagate_labels(image, renamed)
    shares = propagate_labels(image, renamed, return_prob=True)
    assert shares.shape == (3, 60, 80)
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares[:, :-1].sum(0), 1, rtol=1e-5)
    assert not shares[:, -1].any()
    assert np.array_equal(np.array([10, 20, 30])[shares.argmax(0)][:-1], labels[:-1])
    seeded = renamed > 0
    assert (shares.max(0)[seeded] == 1).all()


def test_plain_area_is_shared_out_by_steps():
    seeds = np.zeros((9, 21), int)
    seeds[4, 0], seeds[4, 20] = 1, 2
    result = propagate_labels(np.full((9, 21, 3), 7, np.uint8), seeds)
    assert (result[:, :10] == 1).all()
    assert (result[:, 11:] == 2).all()


@pytest.mark.parametrize("workers", [1, 2, 3, None])
def test_workers_change_nothing(scene, workers):
    image, seeds, _ = scene
    expected = propagate_labels(image, seeds, workers=1)
    assert np.array_equal(propagate_labels(image, seeds, workers=workers), expected)


def test_no_seed_and_no_pixels():
    image = np.random.default_rng(0).random((5, 6, 3))
    nothing = np.zeros((5, 6), int)
    assert not propagate_labels(image, nothing).any()
    assert propagate_labels(image, nothing, return_prob=True).shape == (0, 5, 6)
    assert propagate_labels(np.zeros((0, 4, 3)), np.zeros((0, 4), int)).shape == (0, 4)
    assert propagate_labels(np.zeros((1, 1)), np.ones((1, 1), int)).tolist() == [[1]]
    assert not propagate_labels(image, nothing, mask=np.zeros((5, 6), bool)).any()


def test_stroke_after_stroke(scene):
    image, seeds, _ = scene
    propagator = LabelPropagator(image)
    assert repr(propagator) == "LabelPropagator(shape=(60, 80))"
    first = np.where(seeds == 3, 0, seeds)
    for strokes in (first, seeds, first):
        assert np.array_equal(propagator.propagate(strokes), propagate_labels(image, strokes))


def test_many_labels():
    seeds = np.zeros((120, 120), int)
    seeds[::4, ::4] = np.arange(900).reshape(30, 30) + 1
    image = np.random.default_rng(0).random((120, 120))
    assert sorted(np.unique(propagate_labels(image, seeds))) == list(range(1, 901))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels": np.zeros((4, 5))}, TypeError, "integers"),
        ({"labels": np.zeros((4, 5), bool)}, TypeError, "integers"),
        ({"labels": np.zeros((5, 4), int)}, ValueError, r"\(4, 5\), got \(5, 4\)"),
        ({"labels": np.zeros(4, int)}, ValueError, "not a batch"),
        ({"image": np.full((4, 5, 3), np.nan)}, ValueError, "finite"),
        ({"image": np.zeros((4, 5, 3), complex)}, TypeError, "complex"),
        ({"image": np.zeros((2, 4, 5, 3))}, ValueError, "not a batch"),
        ({"mask": np.ones((4, 5))}, TypeError, "boolean"),
        ({"workers": 0}, ValueError, "workers"),
        ({"mask": np.ones((4, 4), bool)}, ValueError, r"expected \(4, 5\)"),
        ({"image": np.zeros((4, 5, 4)), "convert2lab": True}, ValueError, "3 channels, got 4"),
        ({"image": SpanningTree.from_edges([[0, 1]], [1.0], 2)}, TypeError, "SpanningTree"),
        ({"labels": np.ma.zeros((4, 5), int)}, TypeError, "MaskedArray"),
    ],
)
def test_what_does_not_fit_says_so(arguments, error, message):
    given_all = {"image": np.zeros((4, 5, 3)), "labels": np.zeros((4, 5), int)} | arguments
    with pytest.raises(error, match=message):
        propagate_labels(**given_all)
