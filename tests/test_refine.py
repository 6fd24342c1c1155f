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
    result = refine(image, scores, mode=mode)
    assert result.shape == (64, 80, 2)
    np.testing.assert_allclose(result.sum(-1), 1, rtol=1e-5)
    assert iou(result.argmax(-1) == 1, truth) > iou(unrefined, truth)


@pytest.mark.parametrize("mode", MODES)
def test_what_does_not_matter(scene, mode):
    image, scores, _ = scene
    result = refine(image, scores, mode=mode)
    assert result.dtype == np.float64
    single = refine(image, scores.astype(np.float32), mode=mode, workers=1)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, result, atol=1e-4)
    first = refine(
        np.moveaxis(image, -1, 0), np.moveaxis(scores, -1, 0), mode=mode, channel_axis=0, class_axis=0
    )
    np.testing.assert_array_equal(first, np.moveaxis(result, -1, 0))
    np.testing.assert_allclose(refine(image, scores[..., 1], mode=mode), result[..., 1], atol=1e-12)


def test_modes_are_what_they_say(scene):
    image, scores, _ = scene
    local, global_ = refine(image, scores), refine(image, scores, mode="global")
    np.testing.assert_allclose(refine(image, scores, mode="parallel"), (local + global_) / 2)
    np.testing.assert_allclose(
        refine(image, local, mode="global"), refine(image, scores, mode="local-global")
    )
    np.testing.assert_allclose(refine(image, global_), refine(image, scores, mode="global-local"))
    assert np.array_equal(refine(image, local, iterations=0), local)


def test_mask_leaves_scores_alone(scene):
    image, scores, _ = scene
    mask = np.ones((64, 80), bool)
    mask[:, :20] = False
    hidden = image.copy()
    hidden[:, :20] = np.nan
    for mode in MODES:
        result = refine(hidden, scores, mode=mode, mask=mask)
        assert np.isfinite(result).all()
        np.testing.assert_array_equal(result[:, :20], refine(image, scores, iterations=0)[:, :20])


def test_volumes_and_plain_images():
    volume = np.zeros((6, 8, 8))
    volume[:, :, 4:] = 1
    scores = np.stack([1 - volume, volume], axis=-1)[::2, ::2, ::2]
    refined = refine(volume, scores, spatial_ndim=3)
    assert np.array_equal(refined.argmax(-1), volume)
    plain = refine(np.full((8, 8), 5), scores[0], mode="global-local")
    assert np.isfinite(plain).all()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20))
def test_resampling(extent, channels, wanted):
    constant = np.full((extent, channels), 0.25)
    longer = np.zeros(extent + wanted)
    refined = refine(longer, constant, iterations=0, spatial_ndim=1)
    assert np.array_equal(refined, np.full((extent + wanted, channels), 0.25))
    ramp = np.arange(extent, dtype=float)[:, None]
    result = refine(np.zeros((2 * extent, 1)), ramp, iterations=0)[:, 0]
    inside = np.clip((np.arange(2 * extent) + 0.5) / 2 - 0.5, 0, extent - 1)
    np.testing.assert_allclose(result, inside)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mode": "both"}, ValueError, "mode must be one of 'local', 'global', .* got 'both'"),
        ({"mode": np.array(["local", "global"])}, TypeError, "mode must be one of .*, got a ndarray"),
        ({"scores": [[1.0], [2.0, 3.0]]}, ValueError, "scores cannot be made an array"),
        ({"scores": np.zeros((2, 3, 4, 5))}, ValueError, r"scores of shape .*expected 2 axes, and one"),
        ({"scores": np.zeros((0, 4, 2))}, ValueError, "0 x 4 pixels, too few for the image's 8 x 8"),
        ({"class_axis": 3}, ValueError, "class_axis=3 is not an axis of scores"),
        ({"class_axis": None}, ValueError, "expected 2 axes"),
        ({"class_axis": 1.0}, TypeError, "class_axis must be an integer"),
        ({"scores": np.full((4, 4, 2), np.inf)}, ValueError, "scores must be finite"),
        ({"image": np.full((8, 8, 3), np.nan)}, ValueError, "image must be finite"),
        ({"image": np.zeros((1, 8, 8, 3))}, ValueError, r"leading axes \(4,\), expected the image's \(1,\)"),
        ({"image": np.zeros((1, 8, 8, 3)), "scores": np.zeros((2, 4, 4, 2))}, ValueError, "leading axes"),
        ({"image": np.zeros((64, 8, 8))}, ValueError, "can be read in several ways"),
        ({"iterations": -1}, ValueError, "iterations"),
        ({"iterations": -1, "mode": "global"}, ValueError, "iterations"),
        ({"scores": "cat"}, TypeError, "scores must be an array"),
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
        for same in ([32, 40], np.array(pixel), np.array([32, 40], np.uint8), np.array(32 * 80 + 40)):
            np.testing.assert_array_equal(affinity_map(image, same, kind=kind), result)
    assert affinity_map(np.zeros((3, 3)), 4).tolist() == np.ones((3, 3)).tolist()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kind": "both"}, ValueError, "kind must be"),
        ({"kind": np.array(["global"])}, TypeError, "kind must be one of 'global', 'local', got a ndarray"),
        ({"zeta": 0}, ValueError, "zeta"),
        ({"pixel": (8, 0)}, ValueError, r"pixel\[0\] must be between 0 and 7, got 8"),
        ({"pixel": 64}, ValueError, "pixel must be between 0 and 63"),
        ({"pixel": (1,)}, ValueError, "one coordinate for each axis"),
        ({"pixel": (1, 2, 3)}, ValueError, "one coordinate for each axis"),
        ({"pixel": (1.5, 2)}, TypeError, "integer"),
        ({"pixel": np.array([1.0, 2.0])}, TypeError, r"pixel\[0\] must be an integer"),
        ({"pixel": np.ones((2, 2), int)}, TypeError, r"pixel\[0\] must be an integer"),
        ({"pixel": "a"}, TypeError, "pixel must be an integer"),
        ({"pixel": [[1], [1, 2]]}, ValueError, "pixel cannot be made an array"),
        ({"image": np.zeros((0, 5)), "pixel": 0}, ValueError, "pixels to choose one of, got 0 x 5"),
        ({"image": np.zeros((3, 0, 3)), "pixel": (0, 0)}, ValueError, "pixels to choose one of, got 3 x 0"),
        ({"image": np.zeros((2, 8, 8, 3))}, ValueError, "not a batch"),
        ({"image": np.zeros((8, 8, 8))}, ValueError, "channel_axis=-1 .* spatial_ndim=3"),
        ({"pixel": 0, "mask": np.arange(64).reshape(8, 8) > 0}, ValueError, "not in the mask"),
        ({"iterations": -1}, ValueError, "iterations"),
    ],
)
@pytest.mark.parametrize("kind", ["global", "local"])
def test_affinity_map_says_what_does_not_fit(arguments, error, message, kind):
    with pytest.raises(error, match=message):
        affinity_map(**({"image": np.zeros((8, 8)), "pixel": (1, 1), "kind": kind} | arguments))


def test_a_tree_has_affinity_of_its_own():
    with pytest.raises(TypeError, match=r"got a SpanningTree, which has affinity\(pixel, zeta\) itself"):
        affinity_map(aproarray.mst(np.zeros((8, 8))), 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("shape", "extents"), [((0, 5), (0, 5)), ((0, 5), (0, 3)), ((7, 0), (7, 0)), ((2**31, 0), (0, 0))]
)
def test_images_of_nothing(mode, shape, extents):
    image = np.broadcast_to(np.float32(1), (*shape, 3))
    scores = np.broadcast_to(np.float32(1), (*extents, 2))
    assert refine(image, scores, mode=mode).shape == (*shape, 2)


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


EXTENTS = st.tuples(st.integers(1, 700), st.integers(1, 700))


@given(EXTENTS, st.integers(1, 40), st.sampled_from([np.floor, np.ceil, np.round]))
def test_scores_of_whole_patches_fit_their_image(shape, patch, rounding):
    patches = tuple(max(1, int(rounding(extent / patch))) for extent in shape)
    refined = refine(np.zeros(shape, np.uint8), np.zeros((*patches, 1), np.float32), iterations=0)
    assert refined.shape == (*shape, 1)


@pytest.mark.parametrize(
    ("image", "scores", "options", "message"),
    [
        ((32, 32, 4), (128, 128, 3), {}, "more than the image's 32 x 32.* The image comes first"),
        ((32, 48), (33, 40), {}, "33 x 40 pixels, more than the image's 32 x 48"),
        ((3, 128, 128), (5, 32, 32), {"channel_axis": 0}, "another height to width .*; pass class_axis=0 if"),
        ((3, 128, 128), (5, 32, 32), {}, "can be read in several ways.*channel_axis=0"),
        ((512, 512, 3), (21, 32, 32), {}, "21 x 32 pixels, and have another .* 512 x 512; pass class_axis=0"),
        (
            (500, 375, 3),
            (32, 32, 5),
            {},
            r"32 x 32 pixels, and have another height to width than the image's 500 x 375. If a network saw "
            r"the image in other proportions, .*: skimage.transform.resize\(scores, \(500, 375, 5\)\)$",
        ),
        ((500, 375), (5, 32, 32), {"class_axis": 0}, r"resize\(scores, \(5, 500, 375\)\)$"),
        ((500, 375), (32, 32), {}, r"resize\(scores, \(500, 375\)\)$"),
        ((64, 96), (12, 8), {}, "12 x 8 pixels, and have another height to width"),
        ((2, 64, 64, 3), (2, 5, 16, 16), {}, "pass class_axis=1 if that is the axis of classes"),
        ((2, 64, 64, 3), (16, 16, 2, 5), {}, r"leading axes \(16,\), expected the image's \(2,\)$"),
    ],
)
def test_scores_that_do_not_lie_over_the_image_are_refused(image, scores, options, message):
    with pytest.raises(ValueError, match=message):
        refine(np.zeros(image, np.float32), np.zeros(scores, np.float32), **options)


@pytest.mark.parametrize("mode", MODES)
def test_classes_and_channels_have_axes_of_their_own(scene, mode):
    image, scores, _ = scene
    result = refine(image, scores, mode=mode)
    for axis in (0, 1, -3):
        moved = refine(image, np.moveaxis(scores, -1, axis), mode=mode, class_axis=axis)
        np.testing.assert_array_equal(moved, np.moveaxis(result, -1, axis))
    channels_first = refine(np.moveaxis(image, -1, 0), scores, mode=mode, channel_axis=0)
    np.testing.assert_array_equal(channels_first, result)
    alone = refine(image, scores[..., 0], mode=mode, class_axis=None)
    np.testing.assert_array_equal(alone, refine(image, scores[..., :1], mode=mode)[..., 0])


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_is_its_images(scene, mode):
    image, scores, truth = scene
    images = np.stack([image, image[::-1], 1 - image])[:, None]
    batch = np.moveaxis(np.stack([scores, scores[::-1], 1 - scores])[:, None], -1, 2)  # (3, 1, 2, 8, 10)
    masks = np.stack([truth, ~truth, truth])[:, None]
    for mask in (None, truth, masks):
        result = refine(images, batch, mode=mode, class_axis=2, mask=mask)
        assert result.shape == (3, 1, 2, 64, 80)
        for k in range(3):
            one = masks[k, 0] if mask is masks else mask
            np.testing.assert_array_equal(
                result[k, 0], refine(images[k, 0], batch[k, 0], mode=mode, class_axis=0, mask=one)
            )
    grey = refine(images.mean(-1), batch[:, :, 0], mode=mode, class_axis=None, channel_axis=None)
    np.testing.assert_array_equal(grey[1, 0], refine(images[1, 0].mean(-1), batch[1, 0, 0], mode=mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_outside_the_mask_may_be_anything(scene, mode, bad):
    image, coarse, _ = scene
    mask = np.zeros((64, 80), bool)
    mask[:, 24:] = True  # three of ten patches are outside
    full = np.kron(coarse, np.ones((8, 8, 1)))
    result = refine(image, np.where(mask[..., None], full, bad), mode=mode, mask=mask)
    np.testing.assert_array_equal(result[mask], refine(image, full, mode=mode, mask=mask)[mask])
    np.testing.assert_array_equal(result[~mask], bad)

    # Of coarse ones, the patches that are known say what is at the border: these are linear everywhere.
    linear = np.broadcast_to(np.arange(10.0)[:, None], (8, 10, 2)).copy()
    linear[:, 3:] = linear[:, 3:4]
    expected = refine(image, linear, mode=mode, mask=mask)
    linear[:, :3] = bad
    result = refine(image, linear, mode=mode, mask=mask)
    np.testing.assert_allclose(result[mask], np.full_like(expected[mask], 3), rtol=1e-12)
    assert np.isnan(result[:, :18]).all()

    linear[2, 3] = bad
    with pytest.raises(ValueError, match="scores must be finite where mask is True, but 64 of 3584 pixels"):
        refine(image, linear, mode=mode, mask=mask)
    with pytest.raises(ValueError, match="scores must be finite"):
        refine(image, linear, mode=mode)


def test_largest_scores_do_not_overflow():
    mask = np.eye(8, dtype=bool)
    scores = np.where(mask, 1, 1.5e308)
    result = refine(np.zeros((8, 8)), scores, mode="parallel", mask=mask)
    np.testing.assert_array_equal(result, scores)


def test_alpha_changes_no_map(scene):
    image, scores, _ = scene
    rgba = np.concatenate([image, np.ones((64, 80, 1))], axis=-1)
    np.testing.assert_array_equal(refine(rgba, scores), refine(image, scores))
    np.testing.assert_array_equal(affinity_map(rgba, (5, 6)), affinity_map(image, (5, 6)))


@pytest.mark.parametrize("mode", MODES)
def test_scores_follow_features_beside_the_colours(scene, mode):
    _, scores, truth = scene
    rng = np.random.default_rng(1)
    plain = 0.5 + 0.05 * rng.standard_normal((64, 80, 3))
    embedding = np.where(truth[..., None], 2.0, -1.0) * np.array([1, -1, 0.5]) + 0.1 * rng.standard_normal(
        (64, 80, 3)
    )
    alone = refine(plain, scores, mode=mode)
    result = refine(plain, scores, features=embedding, mode=mode)
    assert iou(result.argmax(-1) == 1, truth) > iou(alone.argmax(-1) == 1, truth)
    np.testing.assert_allclose(refine(plain, scores, features=4 * embedding, mode=mode), result, atol=1e-12)
    np.testing.assert_array_equal(refine(plain, scores, features=np.ones((64, 80, 1)), mode=mode), alone)


def test_features_of_scores_over_a_batch_in_a_mask_and_beside_edges(scene):
    image, scores, truth = scene
    embedding = np.random.default_rng(1).random((64, 80, 2))
    images, many = np.stack([image, image[::-1]]), np.stack([scores, scores])
    inside = np.ones((64, 80), bool)
    inside[:7] = False
    broken = np.where(inside[..., None], embedding, np.nan)
    maps = {"features": broken, "edges": truth, "mask": inside}
    found = refine(images, many, **maps)
    for item in range(2):
        np.testing.assert_array_equal(found[item], refine(images[item], scores, **maps))
    assert (found[0] != refine(image, scores, edges=truth, mask=inside))[inside].any()
    with pytest.raises(ValueError, match="features must be finite"):
        refine(image, scores, features=broken)
    with pytest.raises(ValueError, match=r"features of shape \(64, 80\) do not fit .* \(64, 80, D\)"):
        refine(image, scores, features=embedding[..., 0])
