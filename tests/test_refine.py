"""Scores that follow an image, affinity maps, and what both see of the image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aproarray
from aproarray import _relief, affinity_map, refine

MODES = ["local", "global", "global-local", "local-global", "parallel"]


@pytest.fixture(scope="module")
def scene():
    """A noisy image of a disk, and its patch scores, some of which are wrong."""
    rng = np.random.default_rng(0)
    truth = np.hypot(*np.ogrid[-32:32, -40:40]) < 22
    image = np.where(truth[..., None], [0.7, 0.4, 0.3], [0.3, 0.5, 0.6]) + 0.03 * rng.standard_normal(
        (64, 80, 3)
    )
    cells = truth.reshape(8, 8, 10, 8).mean((1, 3))
    cells[1, 1], cells[4, 4] = 0.8, 0.2
    return image, np.stack([1 - cells, cells], axis=-1), truth


def iou(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


@pytest.mark.parametrize("mode", MODES)
def test_scores_follow_the_image(scene, mode):
    image, scores, truth = scene
    unrefined = np.kron(scores[..., 1], np.ones((8, 8))) > 0.5
    result = refine(scores, image, mode=mode)
    assert result.shape == (64, 80, 2)
    np.testing.assert_allclose(result.sum(-1), 1, rtol=1e-5)
    assert iou(result.argmax(-1) == 1, truth) > iou(unrefined, truth)


@pytest.mark.parametrize("mode", MODES)
def test_what_does_not_matter(scene, mode):
    image, scores, _ = scene
    result = refine(scores, image, mode=mode)
    assert result.dtype == np.float64
    single = refine(scores.astype(np.float32), image, mode=mode, workers=1)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, result, atol=1e-4)
    first = refine(np.moveaxis(scores, -1, 0), np.moveaxis(image, -1, 0), mode=mode, channel_axis=0)
    np.testing.assert_array_equal(first, np.moveaxis(result, -1, 0))
    np.testing.assert_allclose(refine(scores[..., 1], image, mode=mode), result[..., 1], atol=1e-12)


def test_modes_are_what_they_say(scene):
    image, scores, _ = scene
    local, global_ = refine(scores, image), refine(scores, image, mode="global")
    np.testing.assert_allclose(refine(scores, image, mode="parallel"), (local + global_) / 2)
    np.testing.assert_allclose(
        refine(local, image, mode="global"), refine(scores, image, mode="local-global")
    )
    np.testing.assert_allclose(refine(global_, image), refine(scores, image, mode="global-local"))
    assert np.array_equal(refine(local, image, iterations=0), local)


def test_mask_leaves_scores_alone(scene):
    image, scores, _ = scene
    mask = np.ones((64, 80), bool)
    mask[:, :20] = False
    hidden = image.copy()
    hidden[:, :20] = np.nan
    for mode in MODES:
        result = refine(scores, hidden, mode=mode, mask=mask)
        assert np.isfinite(result).all()
        np.testing.assert_array_equal(result[:, :20], refine(scores, image, iterations=0)[:, :20])


def test_volumes_and_plain_images():
    volume = np.zeros((6, 8, 8))
    volume[:, :, 4:] = 1
    scores = np.stack([1 - volume, volume], axis=-1)[::2, ::2, ::2]
    refined = refine(scores, volume, spatial_ndim=3)
    assert np.array_equal(refined.argmax(-1), volume)
    plain = refine(scores[0], np.full((8, 8), 5), mode="global-local")
    assert np.isfinite(plain).all()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20))
def test_resampling(extent, channels, wanted):
    constant = np.full((extent, 3, channels), 0.25)
    assert np.array_equal(
        refine(constant, np.zeros((wanted, 3)), iterations=0)[..., 0], np.full((wanted, 3), 0.25)
    )
    ramp = np.arange(extent, dtype=float)[:, None]
    result = refine(ramp, np.zeros((2 * extent, 1)), iterations=0)[:, 0]
    inside = np.clip((np.arange(2 * extent) + 0.5) / 2 - 0.5, 0, extent - 1)
    np.testing.assert_allclose(result, inside)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mode": "both"}, ValueError, "mode must be one of local, global"),
        ({"scores": np.zeros((2, 3, 4, 5))}, ValueError, "scores of shape"),
        ({"scores": np.zeros((0, 4, 2))}, ValueError, "no pixels"),
        ({"scores": np.full((4, 4, 2), np.inf)}, ValueError, "scores must be finite"),
        ({"image": np.full((8, 8, 3), np.nan)}, ValueError, "image must be finite"),
        ({"image": np.zeros((1, 8, 8, 3))}, ValueError, "not a batch"),
        ({"iterations": -1}, ValueError, "iterations"),
        ({"iterations": -1, "mode": "global"}, ValueError, "iterations"),
        ({"scores": "cat"}, TypeError, "one library"),
    ],
)
def test_refine_says_what_does_not_fit(arguments, error, message):
    with pytest.raises(error, match=message):
        refine(**({"scores": np.zeros((4, 4, 2)), "image": np.zeros((8, 8, 3))} | arguments))


def test_affinity_maps(scene):
    image, _, truth = scene
    pixel = (32, 40)
    for kind in ("global", "local"):
        result = affinity_map(image, pixel, kind=kind)
        assert result.shape == truth.shape
        assert result[pixel] == result.max() == 1
        assert result.min() >= 0
        assert result[truth].mean() > 2 * result[~truth].mean()
        np.testing.assert_array_equal(affinity_map(image, 32 * 80 + 40, kind=kind), result)
        mask = truth.copy()
        assert not affinity_map(image, pixel, kind=kind, mask=mask)[~mask].any()
    tree = aproarray.mst(image)
    np.testing.assert_array_equal(affinity_map(tree, pixel, zeta=0.1), tree.affinity(pixel, 0.1))
    assert affinity_map(tree, pixel).max() == 1
    np.testing.assert_allclose(
        affinity_map(aproarray.mst(image * 100), pixel), affinity_map(tree, pixel), rtol=1e-3
    )
    assert affinity_map(np.zeros((3, 3)), 4).tolist() == np.ones((3, 3)).tolist()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kind": "both"}, ValueError, "kind must be"),
        ({"zeta": 0}, ValueError, "zeta"),
        ({"pixel": (8, 0)}, ValueError, r"pixel\[0\] must be between 0 and 7, got 8"),
        ({"pixel": 64}, ValueError, "pixel must be between 0 and 63"),
        ({"pixel": (1,)}, ValueError, "one coordinate for each axis"),
        ({"pixel": (1, 2, 3)}, ValueError, "one coordinate for each axis"),
        ({"pixel": (1.5, 2)}, TypeError, "integer"),
        ({"pixel": 0, "mask": np.arange(64).reshape(8, 8) > 0}, ValueError, "not in the mask"),
        ({"iterations": -1}, ValueError, "iterations"),
    ],
)
@pytest.mark.parametrize("kind", ["global", "local"])
def test_affinity_map_says_what_does_not_fit(arguments, error, message, kind):
    with pytest.raises(error, match=message):
        affinity_map(**({"image": np.zeros((8, 8)), "pixel": (1, 1), "kind": kind} | arguments))


def test_affinity_map_of_a_tree_takes_what_fits_a_tree():
    tree = aproarray.mst(np.zeros((8, 8)))
    with pytest.raises(TypeError, match="needs the image"):
        affinity_map(tree, 0, kind="local")
    with pytest.raises(TypeError, match="a SpanningTree has its own"):
        affinity_map(tree, 0, mask=np.ones((8, 8), bool))


def test_images_of_nothing():
    assert refine(np.ones((3, 4, 2)), np.ones((0, 5, 3))).shape == (0, 5, 2)
    assert refine(np.ones((3, 4, 2)), np.ones((7, 0, 3)), mode="global").shape == (7, 0, 2)
    assert (aproarray.propagate_labels(np.ones((4, 4, 0)), np.eye(4, dtype=int) * 3) == 3).all()


def test_lab_is_that_of_scikit_image():
    color = pytest.importorskip("skimage.color")
    rgb = np.random.default_rng(0).random((200, 200, 3)) ** 2
    np.testing.assert_allclose(_relief.rgb_to_lab(rgb), color.rgb2lab(rgb), atol=1e-3)
    np.testing.assert_allclose(_relief.rgb_to_lab(np.zeros((1, 3))), 0, atol=1e-5)


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 4]), st.booleans())
def test_smoothing_is_an_average_over_the_mask(seed, step, with_mask):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9, rng.integers(1, 4)))
    mask = rng.random(shape) < 0.7 if with_mask else None
    image = rng.random((*shape, 2)).astype(np.float32)
    if mask is not None:
        image[~mask] = 0
    result = _relief.smoothed(image, step, mask)
    inside = np.ones(shape, bool) if mask is None else mask
    if inside.any():
        assert result[inside].max() <= image[inside].max() * (1 + 1e-5)
        assert result[inside].min() >= image[inside].min() * (1 - 1e-5)
    assert not result[~inside].any()
    ones = _relief.smoothed(np.where(inside[..., None], np.float32(3), np.float32(0)), step, mask)
    np.testing.assert_allclose(ones[inside], 3, rtol=1e-5)


def test_reliefs_of_a_ramp_are_even():
    ramp = np.arange(160, dtype=np.float32)[:, None, None] * np.ones((1, 30, 1), np.float32)
    reliefs = _relief.reliefs(ramp, None)
    # Away from the ends its slope is 1 at all three scales, of which the sum and its mean are what is usual.
    inner = reliefs[:, 60:-60]
    np.testing.assert_allclose(inner, inner[0, 0, 0], rtol=1e-4)
    assert 0.15 < inner[0, 0, 0] < 0.18
    np.testing.assert_allclose(_relief.reliefs(ramp, np.ones((160, 30), bool)), reliefs, rtol=1e-4)


def test_reliefs_are_relative_to_what_is_usual():
    rng = np.random.default_rng(0)
    image = (rng.random((60, 200, 1)) * 0.3).astype(np.float32)
    image[:, 100:] *= 0.1  # plain here, texture there, ...
    image[:, 150:] += 0.2  # ... and an edge on plain ground
    image = _relief.features(image, None)
    reliefs = _relief.reliefs(image, None)
    for relief in reliefs:
        assert relief[:, 148:152].max(1).min() > 2 * np.median(relief[:, 20:80])
    np.testing.assert_allclose(_relief.reliefs(image * np.float32(8), None), reliefs, rtol=1e-3)
    assert not _relief.reliefs(np.zeros((5, 6, 3), np.float32), None).any()
