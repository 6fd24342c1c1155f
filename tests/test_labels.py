"""From marks to masks: the two kernels against their definitions, and what callers rely on."""

import copy
import importlib
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aproarray
from aproarray import LabelPropagator, SpanningTree, _edges, _relief, cpu, propagate_labels, reference
from aproarray.cpu import _processor, _sweep


def neighbours(shape):
    return _edges.flat_steps(shape, _edges.hops(len(shape)))


def padded(array, fill, pad):
    return np.pad(array, pad, constant_values=fill)


def floods_of(reliefs, spacing=None):
    """Return the floods of reliefs (M, ...), which are padded first."""
    ndim = reliefs.ndim - 1
    full = np.pad(reliefs, [(0, 0)] + [(1, 1)] * ndim).astype(np.float32)
    shape = full.shape[1:]
    return cpu.Floods(full.reshape(len(full), -1), neighbours(shape), shape, spacing)


def flooded_by(floods, labels, names=(1, 2, 3), workers=1):
    """Flood from labels (-1: takes no part), and return a map for each relief."""
    inner = (slice(1, -1),) * labels.ndim
    full = padded(labels, -1, 1).astype(np.int32)
    with floods.labels(full.reshape(-1), list(names), workers) as maps:
        return [one.reshape(full.shape)[inner].copy() for one in maps]


@st.composite
def seeded_reliefs(draw):
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    relief = rng.integers(0, draw(st.integers(1, 60)) + 1, shape).astype(np.float32)
    labels = rng.choice([0, 0, 0, 0, 1, 2, 3, -1], shape)
    return relief, labels


@given(seeded_reliefs(), st.sampled_from([None, (1.0, 2.5, 7.0)]))
def test_flood_takes_the_label_of_a_nearest_seed_by_minimax_distance(drawn, spacing):
    relief, labels = drawn
    floods = floods_of(relief[None], spacing and spacing[: relief.ndim])
    (result,) = flooded_by(floods, labels)
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


@given(st.integers(0, 2**32), st.integers(1, 3), st.sampled_from([1, 2, 8, 60, 10**6]))
def test_floods_follow_seeds_as_they_change(seed, ndim, levels):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, (60, 20, 7)[ndim - 1], ndim))
    reliefs = rng.integers(0, levels, (2, *shape), endpoint=True).astype(np.float32)
    takes_part = rng.random(shape) < rng.choice([1, 0.8])
    seeds, names = np.zeros(shape, int), np.array([3, 7, 9, 20])
    floods = floods_of(reliefs)
    for _ in range(5):
        changed = rng.random(shape) < rng.choice([0, 0.02, 0.3])
        seeds[changed] = rng.choice([0, 0, *names], np.count_nonzero(changed))
        if rng.random() < 0.3:  # a label is taken back, or renamed
            seeds[seeds == rng.choice(names)] = rng.choice([0, *names])
        seeded = takes_part & (seeds > 0)
        values, numbers = np.unique(seeds[seeded], return_inverse=True)
        labels = np.where(takes_part, 0, -1)
        labels[seeded] = numbers + 1
        result = flooded_by(floods, labels, values.tolist(), workers=2)
        expected = flooded_by(floods_of(reliefs), labels, values.tolist())
        assert np.array_equal(result, expected)


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
        cpu.vote(
            full_features,
            flat,
            np.empty(0, np.int32),
            full_held,
            window,
            neighbours(full.shape),
            3.0,
            iterations,
            shares,
            workers=2,
        )
        assert np.array_equal(flat.reshape(full.shape)[inner], expected)
    np.testing.assert_allclose(shares.reshape(*full.shape, 3)[inner], expected_shares, atol=1e-6)


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 4))
def test_votes_follow_labels_as_they_change(seed, ndim, iterations):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, (80, 20, 7)[ndim - 1], ndim))
    full_shape = tuple(extent + 2 for extent in shape)
    features = rng.random((math.prod(full_shape), 2), np.float32)
    window = np.array(list(_window_steps(full_shape)), np.intp)
    near = neighbours(full_shape)
    takes_part = rng.random(shape) < rng.choice([1, 0.8])
    parts = padded(rng.integers(0, rng.choice([1, 3]), shape), 0, 1).astype(np.int32).reshape(-1)
    zones = parts if rng.random() < 0.5 else np.empty(0, np.int32)
    names = np.array([3, 7, 9, 20])
    votes = cpu.Votes(features, zones, window, near, 2.0, iterations)
    labels, seeds = rng.choice([0, *names[:3]], shape), np.zeros(shape, int)
    for _ in range(5):
        changed = rng.random(shape) < rng.choice([0, 0.02, 0.3])
        labels[changed] = rng.choice([0, *names], np.count_nonzero(changed))
        if rng.random() < 0.3:  # a label is taken back, or renamed
            labels[labels == rng.choice(names)] = rng.choice([0, *names])
        changed = rng.random(shape) < rng.choice([0, 0.1])
        seeds = np.where(changed, rng.choice([0, 1], shape), seeds)
        own = np.unique(labels[takes_part & (labels > 0)])
        numbers = np.where(takes_part, np.searchsorted(own, labels) + 1, -1)
        numbers[takes_part & (labels == 0)] = 0
        flat = padded(numbers, -1, 1).astype(np.int32).reshape(-1)
        held = np.where(padded(seeds, 0, 1).reshape(-1) > 0, flat, 0)
        expected = flat.copy()
        cpu.vote(
            features, expected, zones, (held > 0).view(np.uint8), window, near, 2.0, iterations,
            np.zeros((0, 0), np.float32), workers=1,
        )  # fmt: skip
        votes.cast(flat, own.tolist(), held, workers=2)
        assert np.array_equal(flat, expected)


@pytest.mark.parametrize("channels", [1, 3, 300])
@pytest.mark.parametrize("scale", [0.01, 1, 30, 1e4])
def test_votes_counted_roughly_decide_as_those_counted_with_care(channels, scale):
    rng = np.random.default_rng(0)
    n, n_labels = 1500, 3
    features = rng.random((n, channels), np.float32)
    labels = rng.integers(1, n_labels, n, np.int32, endpoint=True)
    window = np.array([step for step in range(-62, 63) if step], np.intp)
    pixels = np.arange(62, n - 62, dtype=np.int32)
    arguments = features, labels, np.empty(0, np.int32), window, scale, pixels
    chosen = np.empty((2, n), np.int32)
    for row, rows_of_shares in zip(chosen, (0, n), strict=True):  # with shares, all are counted with care
        shares = np.empty((rows_of_shares, n_labels), np.float32)
        cpu._labels._flood.cast_votes(*arguments, row, shares, 0, len(pixels))
    assert np.array_equal(chosen[0, : len(pixels)], chosen[1, : len(pixels)])
    assert (chosen[0, : len(pixels)] == labels[pixels]).any()


def settled(maps, labels, features, units, trust, strength):
    """Settle by the definition. No label has more than 32 seeds, nor more pixels than are compared."""
    places = np.stack(np.indices(labels.shape), axis=-1) * units
    agreed = (maps[0] == maps[1]) & (maps[0] == maps[2])
    if agreed.all():
        return maps[0]
    n_labels = labels.max() + 1
    seeds = [labels == label for label in range(n_labels)]

    def nearest(pixel, label):
        far = np.sqrt(((places[seeds[label]] - places[pixel]) ** 2).sum(-1)).min()
        return far, np.sqrt(((features[seeds[label]] - features[pixel]) ** 2).sum(-1)).min()

    usual, weights, sums, counts = np.zeros((n_labels, 2)), np.zeros(n_labels), {}, {}
    for label in range(1, n_labels):
        own = np.argwhere(agreed & (maps[0] == label) & (labels == 0))
        sums[label] = sum((np.array(nearest(tuple(pixel), label)) for pixel in own), np.zeros(2))
        counts[label] = len(own)
    overall = sum(sums.values())[0] / max(sum(counts.values()), 1)
    for label in sums:
        usual[label] = sums[label] / max(counts[label], 1)
        reach = (sums[label][0] + 16 * overall) / (counts[label] + 16)
        around = places[seeds[label]] - places[seeds[label]].mean(0)
        extent = np.sqrt((around**2).sum(-1).mean())
        weights[label] = extent / (extent + reach) if extent > 0 else 0
    brought = maps[:, ~agreed]
    strength *= weights[brought].mean() ** 3
    typical = usual[brought, 1].mean()
    result = maps[0].copy()
    for pixel in np.argwhere(~agreed):
        pixel, scores = tuple(pixel), {}
        for one, trusted in zip(maps, trust, strict=True):
            scores[one[pixel]] = scores.get(one[pixel], 0) + trusted
        for label in scores:
            far, unlike = nearest(pixel, label)
            scores[label] -= strength * np.log1p(far / (1 + usual[label, 0]))
            if typical > 0:
                scores[label] -= strength * np.log1p(unlike / (0.3 * typical + usual[label, 1]))
        result[pixel] = max(scores, key=scores.get)
    return result


@given(st.integers(0, 2**32), st.integers(1, 3), st.booleans())
def test_labels_where_forests_disagree_by_definition(seed, ndim, spaced):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(3, 9 if ndim < 3 else 5, ndim))
    labels = np.zeros(shape, np.int32)
    n_labels = min(4, labels.size - 1)
    labels.flat[rng.permutation(labels.size)[:n_labels]] = np.arange(1, n_labels + 1)
    labels[(rng.random(shape) < 0.2) & (labels == 0)] = 2
    maps = np.where(labels, labels, rng.integers(1, n_labels + 1, shape)).astype(np.int32)
    maps = np.where(
        (rng.random((3, *shape)) < 0.3) & (labels == 0), rng.integers(1, n_labels + 1, (3, *shape)), maps
    )
    features = rng.random((*shape, 2)).astype(np.float32)
    spacing = tuple(rng.uniform(1, 3, ndim)) if spaced else None
    for strength in (0.0, 4.0, 40.0):
        got = [
            cpu.settle(
                [one.reshape(-1).astype(np.int32) for one in maps], labels.reshape(-1),
                cpu.Pixels(features.reshape(-1, 2), shape, (0,) * ndim, spacing), (1.5, 1.3, 1.2), strength,
                workers,
            )
            for workers in (1, 3)
        ]  # fmt: skip
        assert np.array_equal(*got)
        expected = settled(maps, labels, features, spacing or (1,) * ndim, (1.5, 1.3, 1.2), strength)
        assert np.array_equal(got[0].reshape(shape), expected)


@pytest.mark.skipif(not _sweep.has_avx2(), reason="this processor has no AVX2")
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("ndim", [2, 3])
def test_vector_code_settles_the_same_labels(channels, ndim, monkeypatch):
    rng = np.random.default_rng(channels)
    shape = (40, 50, 3)[:ndim]
    seeds = np.zeros(math.prod(shape), np.int32)
    seeds[rng.integers(0, seeds.size, 150)] = rng.integers(1, 6, 150)
    maps = [np.where(seeds, seeds, rng.integers(1, 6, seeds.size)).astype(np.int32) for _ in range(3)]
    features = rng.random((seeds.size, channels), np.float32)
    results = []
    for name in ("_settle", "_settle_avx2"):
        monkeypatch.setattr(_processor, "settling", importlib.import_module(f"aproarray.cpu.{name}"))
        pixels = cpu.Pixels(features, shape, (0,) * ndim, None)
        results.append(cpu.settle(maps, seeds, pixels, (1.5, 1.3, 1.3), 12.0, 1))
    assert np.array_equal(*results)
    assert (results[0] != maps[0]).any()


def test_no_scribble_reaches_over_what_another_is_drawn_all_over():
    """Noise has no boundaries: forests disagree. Strokes say how far a label reaches."""
    rng = np.random.default_rng(0)
    image = rng.random((60, 90))
    truth = 1 + np.arange(90)[None] // 30 * np.ones((60, 1), int)
    seeds = np.zeros((60, 90), int)
    seeds[5:55, 14::30] = truth[5:55, 14::30]
    assert (propagate_labels(image, seeds) == truth).mean() > 0.9


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


@pytest.mark.filterwarnings("ignore:labels hold no seed")
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
    shares = propagate_labels(image, renamed, return_full_prob=True)
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


def nearest(seeds, spacing):
    """Return the distance of each pixel to each label's pixels, in units, and which label is nearest."""
    units = np.stack(np.indices(seeds.shape), -1) * np.array(spacing)
    distances = np.stack(
        [
            np.linalg.norm(units[..., None, :] - units[seeds == label], axis=-1).min(-1)
            for label in range(1, seeds.max() + 1)
        ]
    )
    return distances, distances.argmin(0) + 1


@pytest.mark.parametrize(
    ("shape", "spacing", "n_seeds"),
    [
        ((8, 40, 40), (10, 1, 1), 3),
        ((8, 40, 40), (10, 1, 1), 12),
        ((12, 30, 30), (2.5, 1, 2), 8),
        ((60, 90), (1, 4), 6),
    ],
)
def test_plain_volume_is_shared_out_by_distance(shape, spacing, n_seeds):
    rng = np.random.default_rng(0)
    seeds = np.zeros(shape, int)
    seeds.reshape(-1)[rng.choice(seeds.size, n_seeds, replace=False)] = np.arange(n_seeds) + 1
    flat = np.full(shape, 7, np.uint8)
    result = propagate_labels(flat, seeds, spacing=spacing)
    distances, _ = nearest(seeds, spacing)
    own = np.take_along_axis(distances, result[None] - 1, 0)[0]
    assert np.isclose(own, distances.min(0)).mean() > 0.998
    in_steps = propagate_labels(flat, seeds)
    own = np.take_along_axis(distances, in_steps[None] - 1, 0)[0]
    assert np.isclose(own, distances.min(0)).mean() < 0.95  # the spacing is what does it
    shares = propagate_labels(flat, seeds, spacing=spacing, return_full_prob=True)
    assert np.array_equal(shares.argmax(0) + 1, result)
    for unit in (0.001, 25.4):  # in any unit
        assert np.array_equal(propagate_labels(flat, seeds, spacing=np.array(spacing) * unit), result)


def test_equal_spacing_is_none(scene):
    image, seeds, _ = scene
    expected = propagate_labels(image, seeds, return_full_prob=True)
    for spacing in ((1, 1), [0.3, 0.3], np.array([7.0, 7.0])):
        shares = propagate_labels(image, seeds, spacing=spacing, return_full_prob=True)
        assert np.array_equal(shares, expected)


def test_spacing_of_an_image_that_was_sampled_coarsely(scene):
    image, seeds, truth = scene
    image, seeds, truth = image[1::3], seeds.reshape(20, 3, 80).max(1), truth[1::3]
    result = propagate_labels(image, seeds, spacing=(3, 1))
    assert (result == truth).mean() > 0.97
    assert np.array_equal(result, LabelPropagator(image, spacing=(0.3, 0.1)).propagate(seeds))
    turned = propagate_labels(image.swapaxes(0, 1), seeds.T, spacing=(1, 3)).T
    assert (turned == result).mean() > 0.995


@pytest.mark.parametrize(
    ("spacing", "error", "message"),
    [
        (2.0, TypeError, "sequence of numbers, one for each spatial axis, got 2.0"),
        ("12", TypeError, "sequence of numbers"),
        ((1, "2"), TypeError, r"spacing\[1\] must be a real number"),
        ((1, 0), ValueError, r"spacing\[1\] must be above 0"),
        ((1, np.inf), ValueError, "finite"),
        ((1, np.nan), ValueError, "above 0"),
        ((1, 2, 3), ValueError, "each of 2 spatial axes, got 3"),
        ((), ValueError, "each of 2 spatial axes, got 0"),
    ],
)
def test_spacing_that_does_not_fit_says_so(spacing, error, message):
    with pytest.raises(error, match=message):
        propagate_labels(np.zeros((4, 5, 3)), np.eye(4, 5, dtype=int), spacing=spacing)


@pytest.fixture
def void_scene():
    """A comb on a noisy ground; in the last rows there is nothing, which says -9999."""
    rng = np.random.default_rng(0)
    comb = np.zeros((80, 80), bool)
    for row in range(5, 55, 10):
        comb[row : row + 4, 5:75] = True
    comb[5:55, 5:8] = True
    image = 50 + rng.normal(0, 0.5, (80, 80)) + 20 * comb
    void = np.zeros((80, 80), bool)
    void[62:] = True
    image[void] = -9999
    seeds = np.zeros((80, 80), int)
    seeds[5:7, 5:8] = 1
    seeds[[0, 58, 10, 20, 30, 40, 50], 40] = 2
    return image, seeds, void, comb


@pytest.mark.parametrize("nothing", [-9999, np.nan, np.inf, 1e300])
@pytest.mark.parametrize("shares", [False, True])
def test_labels_below_0_leave_out_what_a_mask_leaves_out(void_scene, nothing, shares):
    image, seeds, void, comb = void_scene
    image[void] = nothing
    expected = propagate_labels(image, seeds, mask=~void, return_full_prob=shares)
    result = propagate_labels(image, np.where(void, -3, seeds), return_full_prob=shares)
    if not shares:
        assert ((result == 1) & comb).sum() / ((result == 1) | comb).sum() > 0.95
        assert (result[void] == -3).all()
        result, expected = result[~void], expected[~void]
    assert np.array_equal(result, expected)
    half = void & (np.arange(80) < 40)  # some by labels, some by a mask
    result = propagate_labels(image, np.where(half, -1, seeds), mask=~(void & ~half), return_full_prob=shares)
    assert np.array_equal(result if shares else result[~void], expected)


def test_labels_below_0_of_a_batch(void_scene):
    image, seeds, void, _ = void_scene
    marks = np.stack([np.where(void, -1, seeds), np.maximum(seeds, 0)])
    images = np.stack([image, np.where(void, 50.0, image)])
    result = propagate_labels(images, marks, spatial_ndim=2)
    for item in range(2):
        assert np.array_equal(result[item], propagate_labels(images[item], marks[item]))


def test_stroke_after_stroke_beside_a_void(void_scene, monkeypatch):
    image, seeds, void, _ = void_scene
    mask = np.ones((80, 80), bool)
    mask[:3] = False
    other = void & (np.arange(80) < 50)
    voids = [np.zeros_like(void), void, void, other, void, np.zeros_like(void)]
    expected = [propagate_labels(image, np.where(one, -1, seeds), mask=mask) for one in voids]
    prepared = []
    scales = _relief.scales
    monkeypatch.setattr(_relief, "scales", lambda *args: prepared.append(1) or scales(*args))
    data = image.copy()
    propagator = LabelPropagator(data, mask=mask)
    data[...] = 0  # the caller's array may change between strokes
    made = []
    for one, labels in zip(voids, expected, strict=True):
        assert np.array_equal(propagator.propagate(np.where(one, -1, seeds)), labels)
        made.append(len(prepared))
    assert made == [1, 2, 2, 3, 4, 4]  # a stroke with the void of the one before costs nothing


@pytest.mark.parametrize("workers", [1, 2, 3, None])
def test_workers_change_nothing(scene, workers):
    image, seeds, _ = scene
    expected = propagate_labels(image, seeds, workers=1)
    assert np.array_equal(propagate_labels(image, seeds, workers=workers), expected)


def test_an_image_without_seed_is_warned_of():
    image = np.random.default_rng(0).random((5, 6, 3))
    nothing = np.zeros((5, 6), int)
    nothing[0] = -2
    seeded = np.eye(5, 6, dtype=int)
    labels = [(nothing, None), (seeded, np.zeros((5, 6), bool))]
    for given_labels, mask in labels:
        with pytest.warns(UserWarning, match="labels hold no seed, a number above 0 that takes") as caught:
            result = propagate_labels(image, given_labels, mask=mask)
        assert caught[0].filename == __file__  # where the caller can see which call it was
        assert np.array_equal(result, given_labels)
    with pytest.warns(UserWarning, match="labels hold no seed") as caught:
        assert propagate_labels(image, nothing, return_full_prob=True).shape == (0, 5, 6)
    with pytest.warns(UserWarning, match=r"for 2 of 3 images \(number 0 first\)") as caught:
        LabelPropagator(np.stack([image] * 3), spatial_ndim=2).propagate([nothing, seeded, nothing])
    assert caught[0].filename == __file__
    assert propagate_labels(np.zeros((1, 1)), np.ones((1, 1), int)).tolist() == [[1]]


@pytest.mark.parametrize("shape", [(0, 4), (2**31, 0), (2**28, 0), (0,), (3, 0, 2**40)])
def test_images_without_pixels_take_nothing(shape):
    image, labels = np.broadcast_to(np.float32(0), (*shape, 3)), np.broadcast_to(np.int8(0), shape)
    assert propagate_labels(image, labels).shape == shape
    assert propagate_labels(image, labels, return_full_prob=True).shape == (0, *shape)


def test_stroke_after_stroke(scene):
    image, seeds, _ = scene
    propagator = LabelPropagator(image)
    assert repr(propagator) == "LabelPropagator(shape=(60, 80), spatial_ndim=2)"
    first = np.where(seeds == 3, 0, seeds)
    for strokes in (first, seeds, first):
        assert np.array_equal(propagator.propagate(strokes), propagate_labels(image, strokes))


@pytest.mark.filterwarnings("ignore:labels hold no seed")
@given(st.integers(0, 2**32), st.integers(1, 3), st.booleans(), st.sampled_from([None, (1, 2.5, 4)]))
@settings(max_examples=30)
def test_any_strokes_after_any_others_give_the_labels_of_a_first_call(seed, ndim, in_batch, spacing):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, (90, 25, 8)[ndim - 1], ndim))
    leading = (2,) if in_batch else ()
    image = rng.integers(0, rng.choice([2, 20, 1000]), (*leading, *shape)).astype(np.float32)
    options = {"spatial_ndim": ndim, "channel_axis": None, "spacing": spacing and spacing[:ndim]}
    if rng.random() < 0.5:
        options["mask"] = rng.random(shape) < 0.9
    if rng.random() < 0.3:
        options["edges"] = rng.integers(0, 9, shape)
    if rng.random() < 0.3:
        options["features"] = rng.random((*shape, 2), np.float32)
    propagator = LabelPropagator(image, **options)
    seeds = np.zeros((*leading, *shape), int)
    for _ in range(4):
        changed = rng.random(seeds.shape) < rng.choice([0, 0.02, 0.3])
        seeds[changed] = rng.choice([0, 0, 5, 7, 31], np.count_nonzero(changed))
        strokes = seeds.astype(rng.choice([np.int16, np.int64, np.float32]))
        if rng.random() < 0.3:
            strokes[rng.random(seeds.shape) < 0.05] = -1
        with_shares = bool(rng.random() < 0.5)
        result = propagator.propagate(strokes, return_full_prob=with_shares, workers=2)
        first = LabelPropagator(image, **options).propagate(strokes, return_full_prob=with_shares)
        assert np.array_equal(result, first)


def test_another_stroke_after_one_that_failed(scene, monkeypatch):
    image, seeds, _ = scene
    propagator = LabelPropagator(image)
    propagator.propagate(np.where(seeds == 3, 0, seeds))

    def fails(*_):
        raise MemoryError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(cpu._labels._flood, "Repair", fails)
        with pytest.raises(MemoryError, match="no more"):
            propagator.propagate(seeds)
    assert np.array_equal(propagator.propagate(seeds), propagate_labels(image, seeds))


def test_only_what_a_stroke_wins_is_flooded_and_voted_on_again(scene, monkeypatch):
    image, seeds, _ = scene
    propagator = LabelPropagator(image)
    propagator.propagate(seeds)
    monkeypatch.delattr(cpu._labels._flood, "Flood")  # which floods from the start
    monkeypatch.delattr(cpu._labels._flood, "find_borders")  # along all of which the first votes are cast
    more = seeds.copy()
    more[50, 60:70] = 3
    result = propagator.propagate(more)
    monkeypatch.undo()
    assert np.array_equal(result, propagate_labels(image, more))


def test_many_labels():
    seeds = np.zeros((120, 120), int)
    seeds[::4, ::4] = np.arange(900).reshape(30, 30) + 1
    image = np.random.default_rng(0).random((120, 120))
    assert sorted(np.unique(propagate_labels(image, seeds))) == list(range(1, 901))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels": np.zeros((4, 5), complex)}, TypeError, "integers .*, got dtype complex128"),
        ({"labels": np.full((4, 5), "a")}, TypeError, "integers .*, got dtype <U1"),
        ({"labels": [[1], [2, 3]]}, ValueError, "labels cannot be made an array"),
        (
            {"labels": np.zeros((5, 4), int)},
            ValueError,
            r"labels of shape \(5, 4\) .*: expected shape \(4, 5\)$",
        ),
        (
            {"labels": np.zeros(4, int)},
            ValueError,
            r"labels of shape \(4,\) do not fit an image of shape \(4, 5, 3\)",
        ),
        ({"labels": 1}, ValueError, r"labels of shape \(\) must have at least 1 axes"),
        ({"image": np.full((4, 5, 3), np.nan)}, ValueError, "finite"),
        ({"image": np.zeros((4, 5, 3), complex)}, TypeError, "complex"),
        ({"image": np.zeros((2, 4, 5, 3))}, ValueError, r"expected shape \(2, 4, 5\)"),
        ({"image": np.zeros((3, 4, 5))}, ValueError, "pass channel_axis=0 if that is the axis"),
        ({"channel_axis": 3}, ValueError, "channel_axis=3 is not an axis of image"),
        ({"channel_axis": "last"}, TypeError, "channel_axis must be an integer"),
        ({"spatial_ndim": 3}, ValueError, "at least 3 axes"),
        (
            {"return_full_prob": np.ones(2)},
            TypeError,
            "return_full_prob must be True or False, got a ndarray",
        ),
        ({"convert2lab": np.ones(2, bool)}, TypeError, "convert2lab must be True or False, got a ndarray"),
        ({"mask": np.ones((4, 5))}, TypeError, "boolean"),
        ({"workers": 0}, ValueError, "workers"),
        ({"mask": np.ones((4, 4), bool)}, ValueError, r"expected \(4, 5\)"),
        (
            {"image": np.zeros((4, 5, 5)), "convert2lab": True},
            ValueError,
            "3 channels, or 4 with alpha, got 5",
        ),
        (
            {"image": np.zeros((4, 5, 2)), "convert2lab": True},
            ValueError,
            "3 channels, or 4 with alpha, got 2",
        ),
        ({"image": SpanningTree.from_edges([[0, 1]], [1.0], 2)}, TypeError, "SpanningTree"),
        ({"labels": np.ma.zeros((4, 5), int)}, TypeError, "MaskedArray"),
    ],
)
def test_what_does_not_fit_says_so(arguments, error, message):
    given_all = {"image": np.zeros((4, 5, 3)), "labels": np.zeros((4, 5), int)} | arguments
    with pytest.raises(error, match=message):
        propagate_labels(**given_all)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8"])
def test_float_labels_that_are_whole_numbers_are_taken(scene, dtype):
    image, seeds, _ = scene
    labels = seeds - (seeds == 3) * 5.0
    result = propagate_labels(image, labels.astype(dtype))
    assert result.dtype == dtype
    assert np.array_equal(result, propagate_labels(image, labels.astype(int)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (0.5, r"1 of 4800 are not, such as 0.5. Pass np.rint\(labels\).astype\(int\)"),
        (np.nan, r"1 of 4800 are not, such as nan. Pass np.nan_to_num\(labels\).astype\(int\) if NaN means"),
        (np.inf, "such as inf"),
    ],
)
def test_other_float_labels_are_refused_with_what_to_write(scene, bad, message):
    image, seeds, _ = scene
    labels = seeds.astype(float)
    labels[7, 7] = bad
    with pytest.raises(ValueError, match="labels must be whole numbers .*" + message):
        propagate_labels(image, labels)


def test_boolean_labels_are_refused_with_what_to_write(scene):
    image, seeds, _ = scene
    with pytest.raises(TypeError, match=r"one class alone.* pass np.where\(background, 2, foreground\)"):
        propagate_labels(image, seeds == 1)
    foreground, background = seeds == 1, seeds == 2
    labels = np.where(background, 2, foreground)
    assert np.array_equal(np.unique(propagate_labels(image, labels)), [1, 2])


def test_pictures_are_no_labels(scene):
    image, seeds, _ = scene
    painted = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 9, 200]], np.uint8)[seeds]
    numbered = np.unique(painted.reshape(-1, painted.shape[-1]), axis=0, return_inverse=True)[1]
    numbered = numbered.reshape(painted.shape[:-1])
    for marks in (painted, np.dstack([painted, painted[..., :1]])):
        for given_image in (image, image.mean(-1), np.dstack([image, seeds == 0])):
            said = "labels of shape .* look like an RGB picture.*expected shape"
            if marks.shape != given_image.shape:
                said = "labels of shape .*expected shape .*look like an RGB picture"
            with pytest.raises(ValueError, match=said) as caught:
                propagate_labels(given_image, marks)
            # It says how to number the colours.
            assert "np.unique(labels.reshape(-1, labels.shape[-1]), axis=0, return_inverse=True)[1]" in str(
                caught.value
            )
        with pytest.raises(ValueError, match="look like an RGB picture"):
            LabelPropagator(image).propagate(marks)
    assert numbered[0, 0] == 0
    assert len(np.unique(propagate_labels(image, numbered))) == 3
    with pytest.raises(ValueError, match="as the image is"):  # marks drawn into a copy of the image
        propagate_labels(image, np.zeros_like(image))
    with pytest.raises(ValueError, match="is the image given second"):
        propagate_labels(seeds, image)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_an_axis_too_many_is_said(scene, channels):
    image, seeds, _ = scene
    image = image if channels else image[..., 0]
    message = r"labels of shape \(60, 80, 1\) .*: expected shape \(60, 80\); pass labels\[..., 0\]"
    with pytest.raises(ValueError, match=message):
        propagate_labels(image, seeds[..., None])
    with pytest.raises(ValueError, match=message):
        LabelPropagator(image).propagate(seeds[..., None])


def test_swapped_image_and_labels_are_refused(scene):
    image, seeds, _ = scene
    for grey in ((image[..., 0] * 255).astype(np.uint8), (image[..., 2] * 30000).astype(np.int32)):
        expected = propagate_labels(grey, seeds)
        with pytest.raises(ValueError, match=r"labels and image look swapped.*The image comes first"):
            propagate_labels(seeds, grey)
        with pytest.raises(ValueError, match="labels and image look swapped"):
            LabelPropagator(seeds).propagate(grey)
        with pytest.raises(ValueError, match="labels and image look swapped"):
            propagate_labels(seeds, grey / 3)
        with pytest.raises(ValueError, match=r"whole numbers .* Are image and labels swapped"):
            propagate_labels(seeds, np.full((60, 80), 0.5))
        # What is alike, and is meant: labels everywhere, on an image that is mostly 0.
        sparse = np.where(image[..., 0] > 0.6, 1, 0)
        assert np.array_equal(propagate_labels(sparse, expected), expected)
        cells = np.arange(4800).reshape(60, 80) // 5 + 1
        assert np.array_equal(propagate_labels(sparse, cells), cells)
        assert np.array_equal(propagate_labels(grey, np.arange(1, 4801).reshape(60, 80))[:1, :2], [[1, 2]])


SAYS_WHAT_AN_IMAGE_IS = r"can be read in several ways. Pass channel_axis=-1 .* spatial_ndim=3"


def test_a_propagator_is_copied_and_pickled(scene):
    image, seeds, truth = scene
    more = np.where(np.arange(seeds.size).reshape(seeds.shape) % 97, seeds, 1)
    options = {"mask": truth < 3, "edges": image[..., 0], "features": image**2, "spacing": (2, 1)}
    for chosen in ({}, options):
        propagator = LabelPropagator(image, **chosen)
        propagator.propagate(seeds)
        for other in (pickle.loads(pickle.dumps(propagator)), copy.deepcopy(propagator)):
            assert np.array_equal(other.propagate(more), propagate_labels(image, more, **chosen))
        assert np.array_equal(propagator.propagate(more), propagate_labels(image, more, **chosen))


def test_a_propagator_reads_an_image_as_its_labels_would(scene):
    image, seeds, _ = scene
    grey = image[..., 0]
    volume, marks = np.stack([grey] * 7), np.stack([seeds] * 7)
    for same, labels in ((grey, seeds), (image, seeds), (grey[..., None], seeds), (grey[4], seeds[4])):
        assert np.array_equal(LabelPropagator(same).propagate(labels), propagate_labels(same, labels))
    colours = np.stack([image] * 7)  # a volume, as labels of three axes say
    assert np.array_equal(LabelPropagator(colours).propagate(marks), propagate_labels(colours, marks))
    with pytest.raises(ValueError, match=SAYS_WHAT_AN_IMAGE_IS):
        LabelPropagator(volume)
    expected = propagate_labels(volume, marks)
    for told in ({"channel_axis": None}, {"spatial_ndim": 3}):
        assert np.array_equal(LabelPropagator(volume, **told).propagate(marks), expected)
    bands = np.concatenate([image, image**2], axis=-1)
    with pytest.raises(ValueError, match=SAYS_WHAT_AN_IMAGE_IS):
        LabelPropagator(bands)
    assert np.array_equal(
        LabelPropagator(bands, channel_axis=-1).propagate(seeds), propagate_labels(bands, seeds)
    )
    for axis in (0, 1, 2, -2):
        moved = np.moveaxis(bands, -1, axis)
        assert np.array_equal(
            LabelPropagator(moved, channel_axis=axis).propagate(seeds), propagate_labels(bands, seeds)
        )
    row = LabelPropagator(bands[0], spatial_ndim=1, channel_axis=-1).propagate(seeds[4])
    assert np.array_equal(row, propagate_labels(bands[0], seeds[4]))


@pytest.mark.parametrize("with_shares", [False, True])
def test_a_batch_is_its_images(scene, with_shares):
    image, seeds, truth = scene
    images = np.stack([image, image[::-1], 1 - image])
    labels = np.stack([seeds, seeds[::-1] * 10, np.where(seeds == 1, 0, seeds)])
    masks = np.stack([truth > 0, truth < 3, truth > 1])
    for mask in (None, masks[1], masks):
        options = {"spatial_ndim": 2, "mask": mask}
        result = propagate_labels(images, labels, return_full_prob=with_shares, **options)
        propagator = LabelPropagator(images, **options)
        again = propagator.propagate(labels, return_full_prob=with_shares)
        assert np.array_equal(again, result)
        assert propagator.shape == labels.shape
        for k in range(3):
            one = masks[k] if mask is masks else mask
            alone = propagate_labels(images[k], labels[k], return_full_prob=with_shares, mask=one)
            if with_shares:  # of the labels of all images
                seeded = labels if mask is None else np.where(mask, labels, 0)
                of_all = np.unique(seeded[seeded > 0])
                of_one = np.isin(of_all, seeded[k])
                assert np.array_equal(result[of_one, k], alone)
                assert not result[~of_one, k].any()
            else:
                assert np.array_equal(result[k], alone)


def test_batches_of_grey_images_and_of_volumes(scene):
    image, seeds, _ = scene
    grey, marks = image[..., 0], np.stack([seeds, seeds[::-1]])
    stack = np.stack([grey, grey[::-1]])
    both = propagate_labels(stack, marks, spatial_ndim=2)
    assert np.array_equal(both[1], propagate_labels(grey[::-1], seeds[::-1]))
    assert not np.array_equal(both, propagate_labels(stack, marks))  # a volume of two slices
    volumes, volume_marks = stack[:, None, None], marks[:, None, None]
    result = propagate_labels(volumes, volume_marks, spatial_ndim=3)
    assert np.array_equal(result[:, 0, 0], both)
    first = propagate_labels(
        np.stack([image, 1 - image]).transpose(0, 3, 1, 2), marks, channel_axis=1, spatial_ndim=2
    )
    assert np.array_equal(first[0], propagate_labels(image, seeds))
    assert propagate_labels(stack[:0], marks[:0], spatial_ndim=2).shape == (0, 60, 80)
    assert propagate_labels(stack[:0], marks[:0], spatial_ndim=2, return_full_prob=True).shape == (
        0,
        0,
        60,
        80,
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_opaque_alpha_changes_no_label(scene, dtype):
    image, seeds, _ = scene
    most = 1.0 if dtype is np.float32 else np.iinfo(dtype).max
    image = (image * most * 0.7).astype(dtype)
    for opaque in (most, 0, most // 2):  # what is the same everywhere tells nothing
        alpha = np.full((60, 80, 1), opaque, dtype)
        for picture in (image, image[..., :1]):
            expected = propagate_labels(picture, seeds)
            with_alpha = np.concatenate([picture, alpha], axis=-1)
            assert np.array_equal(propagate_labels(with_alpha, seeds), expected)
            assert np.array_equal(LabelPropagator(with_alpha).propagate(seeds), expected)
            last = propagate_labels(with_alpha, seeds, convert2lab=False)
            assert np.array_equal(last, propagate_labels(picture, seeds, convert2lab=False))


def test_alpha_that_varies_is_a_channel_unless_said_otherwise(scene):
    image, seeds, truth = scene
    expected = propagate_labels(image, seeds)
    rgba = np.dstack([image, np.random.default_rng(0).random(truth.shape)])
    assert np.array_equal(propagate_labels(rgba, seeds, convert2lab=True), expected)
    bands = np.dstack([np.zeros((60, 80, 3)), truth])  # near infrared alone tells regions apart
    assert (propagate_labels(bands, seeds) == truth).mean() > 0.98
    mask = np.ones((60, 80), bool)
    mask[:, 75:] = False
    where_it_counts = np.dstack([image, mask])
    assert np.array_equal(
        propagate_labels(where_it_counts, seeds, mask=mask), propagate_labels(image, seeds, mask=mask)
    )


OPTIONS_OF_RANDOM_WALKER = {
    "beta": (130, "no penalty to choose"),
    "mode": ("cg_j", "no system of equations is solved"),
    "tol": (1e-3, "no system of equations is solved"),
    "copy": (True, "never written to"),
    "prob_tol": (1e-3, "shares are exact"),
    "rng": (None, "nothing is random"),
}


@pytest.mark.parametrize("name", OPTIONS_OF_RANDOM_WALKER)
def test_options_of_random_walker_that_mean_nothing_say_so(scene, name):
    image, seeds, _ = scene
    value, why = OPTIONS_OF_RANDOM_WALKER[name]
    with pytest.raises(TypeError, match=f"has no {name} as random_walker has .*{why}.*Leave it out"):
        propagate_labels(image, seeds, **{name: value})


def test_positional_options_of_random_walker_say_so(scene):
    image, seeds, _ = scene
    for given_options in ((130,), (130, "cg_j", 1e-3, True, False)):
        with pytest.raises(TypeError, match=r"has no beta as random_walker has \(got 130\)"):
            propagate_labels(image, seeds, *given_options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'return_prob'"):
        propagate_labels(image, seeds, return_prob=True)


@pytest.mark.filterwarnings("ignore:The probability range is outside")
@pytest.mark.filterwarnings(
    "ignore:.*`tol` is deprecated:DeprecationWarning"
)  # old scikit-image, newer SciPy
def test_takes_what_random_walker_takes(scene):
    segmentation = pytest.importorskip("skimage.segmentation")
    image, seeds, truth = scene
    shares = segmentation.random_walker(image, seeds, channel_axis=-1, return_full_prob=True)
    ours = propagate_labels(image, seeds, channel_axis=-1, return_full_prob=True)
    assert ours.shape == shares.shape
    assert (ours.argmax(0) == shares.argmax(0)).mean() > 0.95
    assert (ours.argmax(0) + 1 == truth).mean() > 0.98


def test_more_labels_than_a_flood_tells_apart(scene, monkeypatch):
    image, seeds, _ = scene
    monkeypatch.setattr(cpu._labels._flood, "MOST_LABELS", 1)
    with pytest.raises(ValueError, match="labels must have at most 1 values, got 3"):
        aproarray.propagate_labels(image, seeds)
