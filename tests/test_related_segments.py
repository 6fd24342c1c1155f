"""Language-image scores, segments, their labels: against the formulas pixel by pixel, for every library."""

import inspect
import itertools
import math
import re
import sys
import tracemalloc

import emulated_cupy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from on_device import usable_cupy

from aproarray import related
from aproarray.related import (
    _pixels,
    cam_to_labels,
    cam_to_scores,
    key_smoothing,
    keypoints_to_regions,
    mean_iou,
    nearest_neighbor_labels,
    prompt_denoising,
    random_walk_propagate,
    spherical_kmeans,
)

RNG = np.random.default_rng(0)
SHAPE = (4, 5)
N = math.prod(SHAPE)
SCORES = RNG.dirichlet(np.full(3, 0.3), (2, *SHAPE))
SCORES[0, 0, 0] = [0, 1, 0]
FEATURES = RNG.normal(size=(2, *SHAPE, 6))
CAMS = RNG.normal(size=(2, *SHAPE, 3))
BOXES = np.array([[0, 1, 3, 4], [1, 0, 4, 3], [0, 0, 2, 2]])
CLASSES, OF_IMAGE = np.array([2, 2, 0]), np.array([1, 1, 0])
BANK, BANK_LABELS = RNG.normal(size=(9, 6)), np.array([3, 0, 3, 255, 5, 0, 0, 5, 3])
REGIONS = RNG.integers(3, size=(2, *SHAPE))


def unit(vector):
    return vector / np.linalg.norm(vector)


# Every function with a batch, channels last, and with arrays of integers beside.
CALLS = {
    "key_smoothing": lambda x: key_smoothing(x(SCORES), x(FEATURES), threshold=0.9),
    "prompt_denoising": lambda x: prompt_denoising(x(SCORES), threshold=0.9),
    "cam_to_scores": lambda x: cam_to_scores(x(CAMS), tags=x(np.array([[True] * 3, [True, False, True]]))),
    "cam_to_labels": lambda x: cam_to_labels(
        x(CAMS), boxes=x(BOXES), box_classes=x(CLASSES), box_images=x(OF_IMAGE)
    ),
    "spherical_kmeans": lambda x: spherical_kmeans(x(FEATURES), grid=(2, 3), regions=x(REGIONS)),
    "random_walk_propagate": lambda x: random_walk_propagate(x(SCORES), x(FEATURES), steps=2),
    "random_walk_propagate by columns": lambda x: random_walk_propagate(
        x(SCORES), x(FEATURES), normalization="columns"
    ),
    "nearest_neighbor_labels": lambda x: nearest_neighbor_labels(
        x(FEATURES[0, 0]),
        x(BANK),
        x(BANK_LABELS),
        k=3,
        images=x(np.array([0, 1, 0, 1, 2])),
        bank_images=x(np.arange(9) % 2),
    ),
    "keypoints_to_regions": lambda x: keypoints_to_regions(
        x(np.array([[0.5, 1], [3, 3]])), x(np.array([2, 7])), x(np.array([8, 12])), SHAPE
    ),
    "mean_iou": lambda x: mean_iou(x(REGIONS), x(REGIONS[::-1].copy()), classes=[0, 2]),
}


@pytest.mark.parametrize("name", CALLS)
def test_torch_tensors_come_back_as_tensors(name):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    result, expected = CALLS[name](torch.from_numpy), CALLS[name](np.asarray)
    assert isinstance(result, torch.Tensor) == isinstance(expected, np.ndarray)
    np.testing.assert_array_equal(np.asarray(result), expected)


@pytest.fixture
def cupy(monkeypatch):
    """CuPy's stand-in; what the backend compiles is not looked at, only its name of the namespace is."""
    backend = type(sys)("aproarray.gpu")
    backend.xp = emulated_cupy
    monkeypatch.setitem(sys.modules, "cupy", emulated_cupy)
    monkeypatch.setitem(sys.modules, "aproarray.gpu", backend)
    return emulated_cupy


@pytest.mark.parametrize("name", CALLS)
def test_device_arrays_stay_on_their_device(name, cupy):
    result, expected = CALLS[name](cupy.asarray), CALLS[name](np.asarray)
    if isinstance(expected, np.ndarray):
        assert isinstance(result, cupy.ndarray)
        result = result.get()
        assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CALLS)
def test_on_a_device(name):
    cupy = usable_cupy()
    result, expected = CALLS[name](cupy.asarray), CALLS[name](np.asarray)
    np.testing.assert_allclose(cupy.asnumpy(result), expected, rtol=1e-9, atol=1e-12)


OVER_IMAGES = {
    "key_smoothing": lambda a, b, **o: key_smoothing(a, b, **o),
    "prompt_denoising": lambda a, b, **o: prompt_denoising(a, **o),
    "cam_to_scores": lambda a, b, **o: cam_to_scores(a, **o),
    "random_walk_propagate": lambda a, b, **o: random_walk_propagate(a, b, **o),
}


@pytest.mark.parametrize("name", OVER_IMAGES)
def test_channels_may_be_anywhere_and_batches_are_their_images(name):
    function = OVER_IMAGES[name]
    whole = function(SCORES, FEATURES)
    for axis in (0, 1, 2):
        moved = (np.moveaxis(array, -1, axis) for array in (SCORES, FEATURES))
        np.testing.assert_array_equal(np.moveaxis(function(*moved, channel_axis=axis), axis, -1), whole)
    for image in range(2):
        np.testing.assert_allclose(function(SCORES[image], FEATURES[image]), whole[image], rtol=1e-12)


@pytest.mark.parametrize("name", OVER_IMAGES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes(name, dtype):
    result = OVER_IMAGES[name](SCORES.astype(dtype), FEATURES.astype(dtype))
    widened = name == "key_smoothing" and dtype == np.float16
    assert result.dtype == (np.float32 if widened else dtype)
    expected = OVER_IMAGES[name](SCORES, FEATURES)
    np.testing.assert_allclose(
        result, expected, rtol=0, atol={2: 0.05, 4: 1e-3, 8: 0}[np.dtype(dtype).itemsize]
    )


@pytest.mark.parametrize("name", OVER_IMAGES)
def test_nothing(name):
    for shape in [(0, 3, 2), (2, 0, 3, 2)]:
        result = OVER_IMAGES[name](np.zeros(shape), np.zeros(shape))
        assert result.shape[:-1] == shape[:-1]
    assert OVER_IMAGES[name](np.zeros((3, 3)), np.zeros((3, 3)), channel_axis=None).shape[:2] == (3, 3)


@pytest.mark.parametrize("threshold", [1.0, 0.7, 0.0])
def test_key_smoothing(threshold):
    result = key_smoothing(SCORES, FEATURES, threshold=threshold)
    for image in range(2):
        p, k = SCORES[image].reshape(N, 3), FEATURES[image].reshape(N, 6)
        for i in range(N):
            expected = p[i]
            if max(p[i]) < threshold:
                expected = sum(unit(k[i]) @ unit(k[j]) * p[j] for j in range(N))
            np.testing.assert_allclose(result[image].reshape(N, 3)[i], expected)


def test_key_smoothing_takes_keys_of_any_magnitude():
    expected = key_smoothing(SCORES, FEATURES)
    for factor in (1e-200, 1e200):
        np.testing.assert_allclose(key_smoothing(SCORES, factor * FEATURES), expected)
    np.testing.assert_array_equal(key_smoothing(SCORES, 0 * FEATURES)[1], 0 * SCORES[1])


def test_prompt_denoising_is_a_softmax_over_the_classes_kept():
    logits = RNG.normal(size=(*SHAPE, 5))
    logits[..., 2] -= 4
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    kept = p.reshape(N, 5).max(0) >= 0.5
    assert 0 < kept.sum() < 5
    expected = np.where(kept, np.exp(logits), 0)
    np.testing.assert_allclose(prompt_denoising(p), expected / expected.sum(-1, keepdims=True))
    assert not prompt_denoising(p, threshold=1.01).any()


def test_cam_to_scores_of_tags():
    tags = np.array([[True, True, False], [False, False, False]])
    result = cam_to_scores(CAMS, tags=tags, alpha=2.5)
    for image, (row, column) in itertools.product(range(2), np.ndindex(*SHAPE)):
        maps = [
            max(CAMS[image, row, column, c], 0) / CAMS[image, ..., c].max() if tags[image, c] else 0
            for c in range(3)
        ]
        np.testing.assert_allclose(result[image, row, column], [(1 - max(maps)) ** 2.5, *maps])
    np.testing.assert_array_equal(cam_to_scores(-np.ones((2, 2, 1)))[0, 0], [1, 0])
    labels = cam_to_labels(CAMS, tags=tags)
    np.testing.assert_array_equal(labels, cam_to_scores(CAMS, tags=tags).argmax(-1))
    assert (cam_to_labels(CAMS, tags=tags, confidence=0.8) == 255).any()


def test_cam_to_scores_of_boxes():
    result = cam_to_scores(CAMS, boxes=BOXES, box_classes=CLASSES, box_images=OF_IMAGE)
    labels = cam_to_labels(CAMS, boxes=BOXES, box_classes=CLASSES, box_images=OF_IMAGE, ignore_index=-1)
    for image, (row, column) in itertools.product(range(2), np.ndindex(*SHAPE)):
        expected, background = np.zeros(3), True
        for (top, left, bottom, right), class_, of in zip(BOXES, CLASSES, OF_IMAGE, strict=True):
            if of == image and top <= row < bottom and left <= column < right:
                inside = np.maximum(CAMS[image, top:bottom, left:right, class_], 0)
                expected[class_] = max(
                    expected[class_], CAMS[image, row, column, class_] / (inside.max() or 1)
                )
                background = False
        np.testing.assert_allclose(result[image, row, column], [background, *expected])
        best = 0 if background else expected.argmax() + 1 if expected.max() >= 0.5 else -1
        assert labels[image, row, column] == best


def brute_kmeans(phi, grid, iterations):
    height, width, _ = phi.shape
    vectors, z = {}, {}
    for i in np.ndindex(height, width):
        where = [i[0] / (height - 1) - 0.5, i[1] / (width - 1) - 0.5]
        vectors[i] = unit(np.concatenate([unit(phi[i]), where]))
        z[i] = (i[0] * grid[0] // height) * grid[1] + i[1] * grid[1] // width
    means = {}
    for _ in range(iterations):
        for s in set(z.values()):
            means[s] = unit(sum(e for i, e in vectors.items() if z[i] == s))
        for i, e in vectors.items():
            z[i] = max(sorted(means), key=lambda s, e=e: means[s] @ e)
    return np.array([z[i] for i in np.ndindex(height, width)]).reshape(height, width)


def counted(labels):
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


@pytest.mark.parametrize("iterations", [0, 1, 10])
def test_spherical_kmeans(iterations):
    result = spherical_kmeans(FEATURES, grid=(2, 3), iterations=iterations)
    split = spherical_kmeans(FEATURES, grid=(2, 3), iterations=iterations, regions=REGIONS)
    for image in range(2):
        expected = brute_kmeans(FEATURES[image], (2, 3), iterations)
        np.testing.assert_array_equal(result[image], counted(expected))
        np.testing.assert_array_equal(split[image], counted(3 * expected + REGIONS[image]))


def test_spherical_kmeans_in_blocks(monkeypatch):
    whole = spherical_kmeans(FEATURES, grid=3)
    monkeypatch.setattr(_pixels, "BLOCK", 30)
    np.testing.assert_array_equal(spherical_kmeans(FEATURES, grid=3), whole)


def test_spherical_kmeans_finds_what_is_there():
    truth = np.zeros((24, 24), int)
    truth[:, 10:] = 1
    truth[15:] = 2
    embeddings = np.eye(3)[truth] + 0.1 * RNG.normal(size=(24, 24, 3))
    segments = spherical_kmeans(embeddings, grid=3)
    for segment in range(segments.max() + 1):
        assert len(np.unique(truth[segments == segment])) == 1


def test_spherical_kmeans_of_few_pixels():
    assert spherical_kmeans(np.ones((1, 1, 2))).tolist() == [[0]]
    assert spherical_kmeans(np.zeros((2, 3, 2)), iterations=0).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert spherical_kmeans(np.zeros((0, 3, 2))).shape == (0, 3)
    volume = spherical_kmeans(RNG.normal(size=(4, 4, 4, 3)), grid=2, spatial_ndim=3)
    assert volume.shape == (4, 4, 4)
    assert set(volume.ravel()) == set(range(volume.max() + 1))


def brute_walk(m, phi, gamma, beta, steps, by_rows):
    e = [unit(vector) for vector in phi]
    affinity = np.array([[math.exp(gamma * (a @ b)) for b in e] for a in e])
    if by_rows:
        t = (affinity / affinity.sum(1, keepdims=True)) ** beta
    else:
        t = affinity**beta / (affinity**beta).sum(0, keepdims=True)
    for _ in range(steps):
        m = t.T @ m
    return m / abs(m).max() if by_rows else m


@pytest.mark.parametrize("normalization", ["rows", "columns"])
@pytest.mark.parametrize("block", [1 << 24, 50])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_random_walk_propagate(normalization, block, steps, monkeypatch):
    monkeypatch.setattr(_pixels, "BLOCK", block)
    monkeypatch.setattr("aproarray.related._segments.BLOCK", block)
    options = {"gamma": 2.0, "beta": 3.0, "steps": steps}
    result = random_walk_propagate(SCORES, FEATURES, normalization=normalization, **options)
    for image in range(2):
        expected = brute_walk(
            SCORES[image].reshape(N, 3),
            FEATURES[image].reshape(N, 6),
            **options,
            by_rows=normalization == "rows",
        )
        np.testing.assert_allclose(result[image].reshape(N, 3), expected, rtol=1e-9)


def test_the_published_options_of_random_walks():
    for normalization, steps in (("rows", 6), ("columns", 64)):
        result = random_walk_propagate(SCORES, FEATURES, normalization=normalization)
        expected = brute_walk(
            SCORES[0].reshape(N, 3), FEATURES[0].reshape(N, 6), 5.0, 20.0, 1, normalization == "rows"
        )
        one = random_walk_propagate(SCORES, FEATURES, normalization=normalization, steps=1)
        np.testing.assert_allclose(one[0].reshape(N, 3), expected, rtol=1e-9, atol=1e-150)
        named = random_walk_propagate(SCORES, FEATURES, normalization=normalization, steps=steps)
        np.testing.assert_array_equal(result, named)


def test_shares_survive_whatever_the_magnitudes():
    """Two groups of pixels, one much larger: its numbers are smaller by 1e-50 in a single step."""
    where = np.repeat([0, 1], [3, 60])
    embeddings = np.eye(2, dtype=np.float32)[where]
    values = np.zeros((63, 2), np.float32)
    values[0], values[62] = [1, 0.001], [0.25, 0.75]
    for steps in (1, 2, 6):
        result = random_walk_propagate(values[None], embeddings[None], steps=steps)[0]
        exponents = 5.0 * np.equal.outer(where, where)
        log_t = 20 * (exponents - np.logaddexp.reduce(exponents, axis=1)[:, None])
        with np.errstate(divide="ignore"):
            log_m = np.log(values.astype(float))
        for _ in range(steps):
            log_m = np.logaddexp.reduce(log_t[:, :, None] + log_m[:, None], axis=0)
        assert result.max() == 1
        assert (result > 0).all()
        np.testing.assert_allclose(
            np.log(result[:, 1] / result[:, 0]), log_m[:, 1] - log_m[:, 0], rtol=1e-3, atol=1e-4
        )
    averages = random_walk_propagate(values[None], embeddings[None], normalization="columns")[0]
    np.testing.assert_allclose(averages[where == 1], [[0.25 / 60, 0.75 / 60]] * 60, rtol=1e-4)


@pytest.mark.parametrize("normalization", ["rows", "columns"])
def test_random_walks_never_hold_all_pairs(normalization, monkeypatch):
    for module in (_pixels, sys.modules["aproarray.related._segments"]):
        monkeypatch.setattr(module, "BLOCK", 1 << 14)
    n = 1024
    values, embeddings = RNG.random((1, n, 2)), RNG.normal(size=(1, n, 4))
    random_walk_propagate(values[:, :2], embeddings[:, :2])  # what is imported on the way
    tracemalloc.start()
    random_walk_propagate(values, embeddings, normalization=normalization, steps=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * n * n / 4  # bytes: the matrix of all pairs has 8 N^2


@given(st.integers(1, 12), st.booleans(), st.integers(0, 5))
def test_nearest_neighbor_labels(k, within, seed):
    rng = np.random.default_rng(seed)
    queries, bank = rng.normal(size=(7, 3)), rng.normal(size=(10, 3))
    bank[3] = 2 * bank[1]  # as similar to anything
    labels = rng.choice([0, 4, 9, 255], 10)
    images, bank_images = rng.integers(3, size=7), rng.integers(2, size=10)
    given_images = {"images": images, "bank_images": bank_images} if within else {}
    result = nearest_neighbor_labels(queries, bank, labels, k=k, **given_images)
    for q, query in enumerate(queries):
        similar = [
            (-round(unit(query) @ unit(bank[r]), 9), r)
            for r in range(10)
            if labels[r] != 255 and (not within or bank_images[r] == images[q])
        ]
        votes = [int(labels[r]) for _, r in sorted(similar)[:k]]
        expected = min(set(votes), key=lambda label: (-votes.count(label), label)) if votes else 255
        assert result[q] == expected


def test_nearest_neighbor_labels_in_blocks(monkeypatch):
    queries = RNG.normal(size=(30, 6))
    whole = nearest_neighbor_labels(queries, BANK, BANK_LABELS, k=3)
    monkeypatch.setattr(_pixels, "BLOCK", 20)
    np.testing.assert_array_equal(nearest_neighbor_labels(queries, BANK, BANK_LABELS, k=3), whole)
    assert nearest_neighbor_labels(queries, BANK[:0], BANK_LABELS[:0]).tolist() == [255] * 30
    assert nearest_neighbor_labels(queries[:0], BANK, BANK_LABELS).shape == (0,)


def test_keypoints_to_regions():
    points, labels, sizes = [[2.5, 3], [10, 12], [-3, 0]], [4, 2, 9], [20.0, 30.0, 90.0]
    options = {"spread": 0.12, "labeled": 0.6, "background": 0.2, "ignore_index": -1}
    result = keypoints_to_regions(points, labels, sizes, (16, 18), **options)
    for pixel in np.ndindex(16, 18):
        g = [
            math.exp(-sum((a - b) ** 2 for a, b in zip(pixel, point, strict=True)) / 2 / (0.12 * size) ** 2)
            for point, size in zip(points, sizes, strict=True)
        ]
        best = max(range(3), key=lambda k, g=g: g[k])
        assert result[pixel] == (labels[best] if g[best] >= 0.6 else -1 if g[best] >= 0.2 else 0)
    assert set(result.ravel()) == {0, -1, 2, 4, 9}
    assert not keypoints_to_regions([], [], 1.0, (3, 4)).any()
    for size in (1e-300, 5e-324):  # of a point alone
        only = keypoints_to_regions([[1, 2], [0.5, 0]], [7, 8], size, (3, 4))
        assert only[1, 2] == 7 == only.sum()


def test_mean_iou():
    predicted, truth = RNG.integers(4, size=(2, 3, 9, 9))
    truth[:, 0], predicted[:, 1] = 255, 255
    pairs = [(int(p), int(t)) for p, t in zip(predicted.flat, truth.flat, strict=True) if t != 255]

    def iou(c):
        return sum(p == c == t for p, t in pairs) / sum(c in (p, t) for p, t in pairs)

    assert mean_iou(predicted, truth) == pytest.approx(sum(map(iou, range(4))) / 4)
    assert mean_iou(predicted, truth, classes=[3, 1]) == pytest.approx((iou(1) + iou(3)) / 2)
    assert mean_iou(predicted, truth, classes=[3, 77]) == pytest.approx(iou(3))
    assert math.isnan(mean_iou(predicted, truth, classes=[]))
    assert mean_iou(truth, truth) == 1


def nan(array):
    array = array.copy()
    array.flat[3] = np.nan
    return array


@pytest.mark.parametrize(
    ("error", "message", "act"),
    [
        (
            ValueError,
            r"scores and keys .* got \(2, 4, 5\) and \(4, 5\)",
            lambda: key_smoothing(SCORES, FEATURES[0]),
        ),
        (
            TypeError,
            "threshold must be a real number",
            lambda: key_smoothing(SCORES, FEATURES, threshold="1"),
        ),
        (ValueError, "keys must be finite", lambda: key_smoothing(SCORES, nan(FEATURES))),
        (TypeError, "scores must hold", lambda: key_smoothing(SCORES + 0j, FEATURES)),
        (ValueError, "take the softmax", lambda: prompt_denoising(FEATURES)),
        (
            ValueError,
            "sums of scores overflow float64",
            lambda: prompt_denoising(np.full((1, 2, 3), 1e308)),
        ),
        (
            ValueError,
            "sums of scores overflow float64",
            lambda: key_smoothing(np.full((1, 20, 3), 1e308), np.ones((1, 20, 2)), threshold=np.inf),
        ),
        (ValueError, "expected tags or boxes", lambda: cam_to_scores(CAMS[0], tags=[True] * 3, boxes=BOXES)),
        (ValueError, "box_classes needs boxes", lambda: cam_to_scores(CAMS, box_classes=CLASSES)),
        (ValueError, "boxes need box_classes", lambda: cam_to_scores(CAMS, boxes=BOXES)),
        (
            ValueError,
            "boxes over 2 images need box_images",
            lambda: cam_to_labels(CAMS, boxes=BOXES, box_classes=CLASSES),
        ),
        (
            ValueError,
            r"boxes\[0\] must have corners .* within \(4, 5\), got \[0, 0, 5, 1\]",
            lambda: cam_to_scores(CAMS[0], boxes=[[0, 0, 5, 1]], box_classes=[0]),
        ),
        (
            ValueError,
            r"box_classes must be in \[0, 3\)",
            lambda: cam_to_scores(CAMS[0], boxes=BOXES, box_classes=[0, 1, 3]),
        ),
        (
            ValueError,
            r"boxes must have shape \('any', 4\)",
            lambda: cam_to_scores(CAMS[0], boxes=BOXES[0], box_classes=[0]),
        ),
        (
            ValueError,
            "alpha is of the background of tags",
            lambda: cam_to_scores(CAMS[0], boxes=BOXES, box_classes=CLASSES, alpha=3),
        ),
        (ValueError, "alpha must be above 0", lambda: cam_to_scores(CAMS, alpha=0)),
        (TypeError, "tags must be boolean", lambda: cam_to_scores(CAMS[0], tags=[1, 0, 1])),
        (ValueError, r"tags must have shape \(2, 3\)", lambda: cam_to_scores(CAMS, tags=[True] * 3)),
        (ValueError, "grid must be at least 1", lambda: spherical_kmeans(FEATURES, grid=0)),
        (
            ValueError,
            "grid must have one number for each of 2",
            lambda: spherical_kmeans(FEATURES, grid=(2,) * 3),
        ),
        (ValueError, "regions must have shape", lambda: spherical_kmeans(FEATURES, regions=REGIONS[0])),
        (TypeError, "regions must hold integers", lambda: spherical_kmeans(FEATURES, regions=REGIONS / 2)),
        (ValueError, "iterations must be at least 0", lambda: spherical_kmeans(FEATURES, iterations=-1)),
        (ValueError, "gamma must be above 0", lambda: random_walk_propagate(SCORES, FEATURES, gamma=0)),
        (
            ValueError,
            "gamma=inf and beta=20.0 are too large: exponents overflow float64",
            lambda: random_walk_propagate(SCORES, FEATURES, gamma=math.inf),
        ),
        (
            ValueError,
            "gamma=1e-300 and beta=1e[+]38 are too large: exponents overflow float32",
            lambda: random_walk_propagate(
                SCORES.astype("f4"), FEATURES.astype("f4"), gamma=1e-300, beta=1e38
            ),
        ),
        (
            ValueError,
            "normalization must be one of 'rows', 'columns', got 'both'",
            lambda: random_walk_propagate(SCORES, FEATURES, normalization="both"),
        ),
        (ValueError, "k must be at least 1", lambda: nearest_neighbor_labels(BANK, BANK, BANK_LABELS, k=0)),
        (
            ValueError,
            "must have the same features",
            lambda: nearest_neighbor_labels(BANK[:, 1:], BANK, BANK_LABELS),
        ),
        (ValueError, "not be negative, got -1", lambda: nearest_neighbor_labels(BANK, BANK, BANK_LABELS - 1)),
        (
            ValueError,
            "images and bank_images go together",
            lambda: nearest_neighbor_labels(BANK, BANK, BANK_LABELS, images=BANK_LABELS),
        ),
        (
            ValueError,
            r"embeddings must have shape \(segments, features\), got \(6,\)",
            lambda: nearest_neighbor_labels(BANK[0], BANK, BANK_LABELS),
        ),
        (
            ValueError,
            "sizes must be finite and above 0",
            lambda: keypoints_to_regions([[0, 0]], [1], 0, SHAPE),
        ),
        (
            ValueError,
            r"keypoints must have shape \(K, 2\)",
            lambda: keypoints_to_regions([0, 0], [1], 1, SHAPE),
        ),
        (
            ValueError,
            "background <= labeled",
            lambda: keypoints_to_regions([[0, 0]], [1], 1, SHAPE, background=0.6),
        ),
        (ValueError, "shape must be a tuple", lambda: keypoints_to_regions([[0, 0]], [1], 1, 7)),
        (
            ValueError,
            "ignore_index must be between -9223372036854775808 and",
            lambda: keypoints_to_regions([[0, 0]], [1], 1, SHAPE, ignore_index=2**63),
        ),
        (
            ValueError,
            "ignore_index must be between",
            lambda: mean_iou([1], [1], ignore_index=-(2**63) - 1),
        ),
        (TypeError, "predicted must hold integers", lambda: mean_iou([0.5], [1])),
        (ValueError, r"truth must have shape \(1,\), got \(2,\)", lambda: mean_iou([1], [1, 2])),
    ],
)
def test_errors(error, message, act):
    with pytest.raises(error, match=message):
        act()


def test_two_libraries_are_refused():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(TypeError, match="must be of one library"):
        key_smoothing(torch.from_numpy(SCORES), FEATURES)


def test_gradients_are_not_cut_silently():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(TypeError, match=r"scores requires grad, and .*key_smoothing has no gradients: pass"):
        key_smoothing(torch.from_numpy(SCORES).requires_grad_(), torch.from_numpy(FEATURES))


@pytest.mark.parametrize("name", related.__all__)
def test_docstrings_name_every_parameter(name):
    function = getattr(related, name)
    text = inspect.getdoc(function)
    head = text.partition("Parameters\n---")[2].partition("\nReturns\n---")[0]
    listed = [
        one for names in re.findall(r"^(\w[\w, ]*)(?: : |$)", head, re.MULTILINE) for one in names.split(", ")
    ]
    assert sorted(listed) == sorted(inspect.signature(function).parameters)
    assert "References\n---" in text
