"""mean_field(), pamr() and pairwise_affinity(): the definitions' results, and their properties."""

import functools
import math

import numpy as np
import pytest

import aproarray
import aproarray.related
from aproarray import reference

pytestmark = pytest.mark.any_backend

RTOL = {np.float32: 2e-5, np.float64: 1e-12}
SHAPES = [(1,), (13,), (1, 1), (6, 7), (9, 1), (3, 4, 5)]


def scene(shape, channels=2, seed=0, dtype=np.float64):
    """Return values, an image with ties, a mask and boxes."""
    rng = np.random.default_rng(seed)
    image = (rng.integers(4, size=(*shape, 3)) / 8).astype(dtype)
    values = rng.random((*shape, channels)).astype(dtype)
    return values, image, rng.random(shape) < 0.8, rng.random(values.shape) < 0.7


def flat(array, shape):
    return array.reshape(math.prod(shape), -1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_field_is_the_definition(shape, dtype):
    values, image, mask, boxes = scene(shape, dtype=dtype)
    for kernel_size, iterations, given in [(3, 7, {}), (5, 3, {"mask": mask}), (3, 4, {"region": boxes})]:
        options = {"kernel_size": kernel_size, "iterations": iterations, "zeta": 0.4, **given}
        result = aproarray.related.mean_field(values, image, spatial_ndim=len(shape), **options)
        assert result.dtype == dtype
        if "region" in given:
            options["region"] = flat(boxes, shape)
        expected = reference.mean_field(flat(values, shape), image, **options).reshape(values.shape)
        if "mask" in given:
            expected = np.where(mask[..., None], expected, values)
        np.testing.assert_allclose(result, expected, rtol=1e-4 if dtype == np.float32 else 1e-11)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dilations", [(1,), (1, 2, 4, 8, 12, 24), (3, 3)])
def test_pamr_is_the_definition(shape, dtype, dilations):
    values, image, *_ = scene(shape, dtype=dtype)
    result = aproarray.related.pamr(values, image, dilations=dilations, iterations=3, spatial_ndim=len(shape))
    assert result.dtype == dtype
    expected = reference.pamr(flat(values, shape), image, dilations, 3)
    np.testing.assert_allclose(flat(result, shape), expected, rtol=RTOL[dtype])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (3, 1), (3, 2), (5, 3)])
def test_pairwise_affinity_is_the_definition(shape, dtype, kernel_size, dilation):
    _, image, mask, _ = scene(shape, dtype=dtype)
    for given in ({}, {"mask": mask}):
        result = aproarray.related.pairwise_affinity(
            image, theta=0.5, kernel_size=kernel_size, dilation=dilation, spatial_ndim=len(shape), **given
        )
        assert result.dtype == dtype
        assert result.shape == (*shape, kernel_size ** len(shape) - 1)
        expected = reference.pairwise_affinity(image, 0.5, kernel_size, dilation, **given)
        np.testing.assert_allclose(result.reshape(expected.shape), expected, rtol=RTOL[dtype])


def test_batches_are_loops():
    rng = np.random.default_rng(1)
    images, values = rng.random((2, 6, 7, 3)), rng.random((2, 3, 6, 7, 2))
    masks, boxes = rng.random((2, 6, 7)) < 0.8, rng.random(values.shape) < 0.8
    refined = aproarray.related.mean_field(values, images, region=boxes, mask=masks, iterations=4, zeta=0.1)
    averaged = aproarray.related.pamr(values, images, dilations=(1, 2), iterations=2)
    related = aproarray.related.pairwise_affinity(images, mask=masks)
    for b in range(2):
        np.testing.assert_array_equal(
            related[b], aproarray.related.pairwise_affinity(images[b], mask=masks[b])
        )
        for k in range(3):
            one = aproarray.related.mean_field(
                values[b, k], images[b], region=boxes[b, k], mask=masks[b], iterations=4, zeta=0.1
            )
            np.testing.assert_allclose(refined[b, k], one, rtol=1e-12)
            one = aproarray.related.pamr(values[b, k], images[b], dilations=(1, 2), iterations=2)
            np.testing.assert_array_equal(averaged[b, k], one)


FILTERS = {
    "mean_field": functools.partial(aproarray.related.mean_field, zeta=0.1),
    "pamr": aproarray.related.pamr,
}


@pytest.mark.parametrize("verb", FILTERS)
def test_layouts_dtypes_and_out(verb):
    function = FILTERS[verb]
    values, image, *_ = scene((6, 7))
    expected = function(values, image, iterations=3)
    first = function(np.moveaxis(values, -1, 0), np.moveaxis(image, -1, 0), iterations=3, channel_axis=0)
    np.testing.assert_allclose(np.moveaxis(first, 0, -1), expected, rtol=1e-13)
    one = function(values[..., 0], image, iterations=3)
    np.testing.assert_allclose(one, expected[..., 0], rtol=1e-13)
    out = values.copy()
    assert function(out, image, iterations=3, out=out) is out
    np.testing.assert_array_equal(out, expected)
    half = function(values.astype(np.float16), (image * 255).astype(np.uint8), iterations=3)
    assert half.dtype == np.float16
    empty = np.empty((0, 6, 7, 2))
    assert function(empty, np.empty((0, 6, 7, 3))).shape == empty.shape
    assert function(np.empty((0, 7, 2)), np.empty((0, 7, 3))).shape == (0, 7, 2)
    assert function(np.empty((6, 7, 0)), image).shape == (6, 7, 0)


def test_nothing_to_relate():
    assert aproarray.related.pairwise_affinity(np.empty((0, 6, 7, 3))).shape == (0, 6, 7, 8)
    assert aproarray.related.pairwise_affinity(np.empty((0, 7, 3))).shape == (0, 7, 8)
    half = aproarray.related.pairwise_affinity(np.zeros((2, 2), np.float16), dilation=1)
    assert half.dtype == np.float16
    assert half[0, 0].tolist() == [0, 0, 0, 0, 1, 0, 1, 1]


@pytest.mark.parametrize("verb", FILTERS)
def test_no_steps(verb):
    values, image, *_ = scene((6, 7))
    result = FILTERS[verb](values, image, iterations=0)
    np.testing.assert_array_equal(result, np.clip(values, 0.1, 0.9) if verb == "mean_field" else values)


@pytest.mark.numpy_only("devices share no work out by workers")
def test_workers_change_no_bit():
    rng = np.random.default_rng(2)
    values, image = rng.random((2, 40, 9, 3), np.float32), rng.random((2, 40, 9, 3), np.float32)
    for function, arguments in [
        (FILTERS["mean_field"], (values, image)),
        (FILTERS["pamr"], (values, image)),
        (aproarray.related.pairwise_affinity, (image,)),
    ]:
        expected = function(*arguments, workers=1)
        np.testing.assert_array_equal(function(*arguments, workers=5), expected)


def test_pamr_does_not_care_for_the_images_scale_and_keeps_constants():
    values, image, *_ = scene((6, 7))
    expected = aproarray.related.pamr(values, image)
    np.testing.assert_allclose(aproarray.related.pamr(values, 255 * image - 3), expected, rtol=1e-5)
    constant = aproarray.related.pamr(np.full((6, 7), 0.3), image)
    np.testing.assert_allclose(constant, 0.3, rtol=1e-13)


def test_dilations_beyond_the_image():
    values, image, *_ = scene((6, 7))
    for dilations in ((7,), (1, 10**12)):
        expected = reference.pamr(flat(values, (6, 7)), image, [min(d, 50) for d in dilations], 2)
        result = aproarray.related.pamr(values, image, dilations=dilations, iterations=2)
        np.testing.assert_allclose(flat(result, (6, 7)), expected, rtol=1e-12)
    assert not aproarray.related.pairwise_affinity(image, dilation=10**12).any()


def test_dilations_beyond_the_image_along_one_axis():
    """Images are padded by no more than their extent along each axis: here, by 3 GB otherwise."""
    values, image, *_ = scene((1, 1, 60))
    options = {"spatial_ndim": 3, "workers": 1}
    result = aproarray.related.pamr(values, image, dilations=(1, 10**12), iterations=2, **options)
    expected = reference.pamr(flat(values, (1, 1, 60)), image, [1, 60], 2)
    np.testing.assert_allclose(flat(result, (1, 1, 60)), expected, rtol=1e-12)
    result = aproarray.related.pairwise_affinity(image, dilation=59, spatial_ndim=3)
    assert np.isclose(result[0, 0, 0, 13], np.exp(-np.linalg.norm(image[0, 0, 0] - image[0, 0, 59]) / 2))
    assert np.count_nonzero(result) == 2


def test_mean_field_settles_on_the_side_of_an_edge():
    image = np.zeros((12, 12))
    image[:, 6:] = 1
    values = np.where(image > 0, 0.6, 0.4) + np.random.default_rng(3).normal(0, 0.1, image.shape)
    refined = aproarray.related.mean_field(values.clip(0, 1), image, zeta=0.1)
    np.testing.assert_array_equal(refined > 0.5, image > 0)


def test_pixels_that_the_mask_leaves_out_may_hold_anything():
    values, image, mask, _ = scene((6, 7))
    expected = aproarray.related.mean_field(values, image, mask=mask, iterations=5, zeta=0.1)
    related = aproarray.related.pairwise_affinity(image, mask=mask)
    values[~mask], image[~mask] = math.nan, math.inf
    result = aproarray.related.mean_field(values, image, mask=mask, iterations=5, zeta=0.1)
    np.testing.assert_array_equal(result[mask], expected[mask])
    np.testing.assert_array_equal(result[~mask], values[~mask])
    np.testing.assert_array_equal(aproarray.related.pairwise_affinity(image, mask=mask), related)


VALUES, IMAGE = np.full((6, 7), 0.5), np.zeros((6, 7, 3))


@pytest.mark.parametrize(
    ("verb", "error", "match", "options"),
    [
        (
            "mean_field",
            ValueError,
            r"values must be in \[0, 1\], got values from 2.0",
            {"values": VALUES * 4},
        ),
        ("mean_field", ValueError, r"region must be in \[0, 1\]", {"region": -VALUES}),
        ("mean_field", ValueError, r"region must have values' shape \(6, 7\)", {"region": np.ones((6, 6))}),
        ("mean_field", ValueError, "kernel_size must be odd", {"kernel_size": 4}),
        ("mean_field", ValueError, "zeta must be above 0", {"zeta": 0.0}),
        ("mean_field", ValueError, "values must be finite", {"values": VALUES * math.nan}),
        ("pamr", ValueError, "does not fit an image", {"values": np.ones((7, 6))}),
        (
            "pamr",
            ValueError,
            "dilations must be a sequence of one integer or more, got ()",
            {"dilations": ()},
        ),
        ("pamr", ValueError, "dilations must be a sequence of one integer or more, got 3", {"dilations": 3}),
        ("pamr", ValueError, r"dilations\[1\] must be at least 1, got 0", {"dilations": (1, 0)}),
        ("pamr", TypeError, r"dilations\[0\] must be an integer", {"dilations": (1.5,)}),
        ("pamr", ValueError, "iterations must be at least 0", {"iterations": -1}),
        ("pamr", ValueError, "image must be finite", {"image": IMAGE * math.nan}),
        ("pairwise_affinity", ValueError, "theta must be above 0", {"theta": -1}),
        ("pairwise_affinity", ValueError, "dilation must be at least 1", {"dilation": 0}),
        ("pairwise_affinity", TypeError, "mask must be boolean", {"mask": VALUES}),
        ("pairwise_affinity", ValueError, "image must be finite", {"image": IMAGE + math.inf}),
    ],
)
def test_errors(verb, error, match, options):
    given = {"image": IMAGE, **options}
    if verb != "pairwise_affinity":
        given = {"values": VALUES, **given}
    if verb == "mean_field":
        given = {"zeta": 0.1, **given}
    with pytest.raises(error, match=match):
        getattr(aproarray.related, verb)(**given)
