"""An image's own scale: outliers, the ends of every dtype, memory layouts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import aproarray
from aproarray import _relief, affinity_map, cpu, local_propagate, mst, propagate_labels, refine, related


@pytest.fixture(scope="module", params=["colour", "grey"])
def scene(request):
    """Three noisy regions in [0, 1], and a stroke in each."""
    rng = np.random.default_rng(0)
    truth = np.ones((60, 80), int)
    rows, columns = np.ogrid[:60, :80]
    truth[np.hypot(rows - 25, columns - 25) < 16] = 2
    truth[35:, 50:] = 3
    palette = np.array([[0, 0, 0], [0.3, 0.5, 0.3], [0.7, 0.4, 0.3], [0.2, 0.3, 0.7]])
    image = np.clip(palette[truth] + 0.04 * rng.standard_normal((60, 80, 3)), 0, 1)
    seeds = np.zeros((60, 80), int)
    seeds[4, 50:70], seeds[20:30, 25], seeds[45, 60:70] = 1, 2, 3
    return (image if request.param == "colour" else image @ [0.2, 0.1, 0.7]), seeds


OUTLIERS = {
    "hot pixel in a region": ((50, 30), 1e6),
    "hot pixel in another": ((22, 20), 1e30),
    "dead pixel": ((22, 30), -1e6),
    "hot pixel in the corner": ((0, 0), 100.0),
    "corner without data": (np.s_[:5, :5], -9999),
    "last corner without data": (np.s_[-5:, -5:], -9999),
    "line without data": (np.s_[10, 40:48], 1e20),
}


@pytest.mark.parametrize("outliers", OUTLIERS)
def test_outliers_change_no_label_elsewhere(scene, outliers):
    image, seeds = scene
    expected = propagate_labels(image, seeds)
    where, number = OUTLIERS[outliers]
    spoiled = image.copy()
    spoiled[where] = number
    changed = propagate_labels(spoiled, seeds) != expected
    changed[where] = False
    assert changed.mean() < 0.002
    assert not changed[:, 60:][8:30].any()


@pytest.mark.parametrize("outliers", OUTLIERS)
@pytest.mark.parametrize("kind", ["global", "local"])
def test_outliers_change_no_affinity_map_elsewhere(scene, outliers, kind):
    image, _ = scene
    expected = affinity_map(image, (30, 25), kind=kind)
    where, number = OUTLIERS[outliers]
    spoiled = image.copy()
    spoiled[where] = number
    near = np.zeros((60, 80), bool)
    near[where] = True
    for _ in range(8):
        near = _relief.blurred_with(near)
    apart = affinity_map(spoiled, (30, 25), kind=kind) - expected
    assert np.abs(apart[~near]).max() < 0.15


@pytest.mark.parametrize("number", [0, 65535])
def test_one_pixel_at_the_end_of_16_bits(scene, number):
    image, seeds = scene
    image = (image * 3000 + 20000).astype(np.uint16)
    expected = propagate_labels(image, seeds)
    image[50, 30] = number
    assert (propagate_labels(image, seeds) != expected).mean() < 0.002


@pytest.mark.parametrize("ground", ["black", "noise", "two levels"])
@pytest.mark.parametrize("radius", [4, 6, 9])
def test_a_small_bright_object_is_no_outlier(ground, radius):
    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:150, :150]
    distance = np.hypot(rows - 75, columns - 50)
    truth = distance <= radius
    image = {
        "black": truth * 1.0,
        "noise": truth + 0.01 * rng.standard_normal((150, 150)),
        "two levels": truth * 200.0 + rng.integers(0, 2, (150, 150)),
    }[ground]
    seeds = np.zeros((150, 150), int)
    seeds[75, 50], seeds[[3, -4], 3:-3] = 2, 1
    found = propagate_labels(image, seeds) == 2
    assert (found & truth).sum() / (found | truth).sum() > 0.85
    image[20, 20] = 1e6
    assert (found != (propagate_labels(image, seeds) == 2)).mean() < 0.001


@pytest.mark.parametrize("sigma", [1, 2, 5])
@pytest.mark.parametrize("noise", [0, 1e-6, 0.01, 0.05])
def test_what_shades_off_is_no_outlier(sigma, noise):
    rows, columns = np.ogrid[:150, :150]
    square = (rows - 75) ** 2 + (columns - 50) ** 2
    image = np.exp(-square / (2 * sigma**2)) + noise * np.random.default_rng(0).standard_normal((150, 150))
    stretched, outliers = _relief.stretched(image[..., None], None)
    if noise in (0, 0.05) or sigma > 1:
        assert outliers is None
        assert np.array_equal(
            stretched[..., 0], ((image - image.min()) / (image.max() - image.min())).astype(np.float32)
        )
    along = image[75, 50:54]  # whatever is done to the range, numbers keep their order
    assert np.array_equal(np.diff(stretched[75, 50:54, 0]) < 0, np.diff(along) < 0)


def test_the_ordinary_range():
    stretched, outliers = _relief.stretched(np.arange(100.0).reshape(10, 10, 1), None)
    assert outliers is None
    np.testing.assert_array_equal(stretched.ravel(), (np.arange(100) / 99).astype(np.float32))
    image = np.arange(400.0).reshape(20, 20, 1)
    image[0, :2], image[7, 7], image[12, :3] = -9999, 1e9, [[5000], [6000], [1e5]]
    stretched, outliers = _relief.stretched(image, None)
    expected = np.zeros((20, 20), bool)
    expected[0, :2] = expected[12, :3] = True
    assert np.array_equal(outliers, expected)
    assert stretched[0, 2] == 0
    assert stretched[-1, -1] == 1
    assert stretched[7, 7] == 1  # alone
    assert (stretched[0, :2] < 0).all()
    assert 1 < stretched[12, 0] < stretched[12, 1] < stretched[12, 2] < 50
    mask = np.ones((20, 20), bool)
    mask[0], mask[12], mask[7] = False, False, False
    assert _relief.stretched(image, mask)[1] is None


RANGES = [
    (np.float16, 0, 6e-8),
    (np.float16, -65504, 65504),
    (np.float32, 0, 1e-45),
    (np.float32, -3.4e38, 3.4e38),
    (np.float64, 0, 5e-324),
    (np.float64, 1e-310, 1.5e-310),
    (np.float64, -1.7e308, 1.7e308),
    (np.float64, 1e300, 1.0000001e300),
    (np.int64, 2**62, 2**62 + 255),
    (np.int64, 2**62, 2**62 + 1),
    (np.int64, -(2**63), 2**63 - 1),
    (np.uint64, 2**64 - 256, 2**64 - 1),
    (np.uint64, 0, 2**64 - 1),
    (np.int8, -128, 127),
    (np.bool_, False, True),
]


@pytest.mark.parametrize(("dtype", "low", "high"), RANGES)
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_every_range_is_the_same_to_labels(dtype, low, high, channels):
    half = np.arange(12) < 5
    pattern = np.broadcast_to(half.reshape(1, 12, *(1,) * len(channels)), (9, 12, *channels))
    image = np.where(pattern, np.array(low, dtype), np.array(high, dtype))
    plain = np.where(pattern, 0.0, 1.0)
    seeds = np.zeros((9, 12), int)
    seeds[0, 0], seeds[8, 11] = 1, 2
    shares = propagate_labels(image, seeds, return_full_prob=True)
    assert np.array_equal(shares, propagate_labels(plain, seeds, return_full_prob=True))
    assert np.array_equal(propagate_labels(image, seeds), np.broadcast_to(np.where(half, 1, 2), (9, 12)))
    scores = np.eye(9, 12)
    assert np.array_equal(refine(image, scores), refine(plain, scores))
    for kind in ("local", "global"):
        assert np.array_equal(affinity_map(image, (0, 0), kind=kind), affinity_map(plain, (0, 0), kind=kind))


@given(st.integers(0, 2**32))
@settings(max_examples=30)
def test_half_precision_is_stretched_in_single_precision(seed):
    rng = np.random.default_rng(seed)
    image = (rng.random((9, 11, 3)) * 10.0 ** rng.integers(-6, 4)).astype(np.float16)
    seeds = rng.choice([0, 0, 0, 1, 2], (9, 11))
    seeds[0, 0] = 1
    for take in (np.float32, np.float64):
        assert np.array_equal(propagate_labels(image, seeds), propagate_labels(image.astype(take), seeds))


@pytest.mark.parametrize(
    ("dtype", "nothing"), [("f2", 65504), ("f4", 3.4e38), ("f8", 1.7e308), ("f4", np.nan)]
)
def test_numbers_outside_the_mask_are_not_computed_with(dtype, nothing):
    rng = np.random.default_rng(0)
    image = rng.random((10, 12, 3)).astype(dtype)
    mask = np.ones((10, 12), bool)
    mask[:2] = mask[8:] = False
    seeds = np.zeros((10, 12), int)
    seeds[2, 0], seeds[7, 11] = 1, 2
    scores = rng.random((10, 12))
    calls = [
        lambda: propagate_labels(image, seeds, mask=mask, return_full_prob=True),
        lambda: refine(image, scores, mask=mask, mode="global-local"),
        lambda: affinity_map(image, (3, 3), mask=mask),
        lambda: affinity_map(image, (3, 3), mask=mask, kind="local"),
        lambda: mst(image, mask=mask).gaps,
        lambda: mst(np.zeros((10, 12)), mask=mask).reweight(image).gaps,
        lambda: local_propagate(scores, image, zeta=0.2, mask=mask),
        lambda: related.pairwise_affinity(image, mask=mask),
    ]
    image[~mask] = 0
    expected = [call() for call in calls]
    image[:2], image[8:] = nothing, -nothing
    for call, one in zip(calls, expected, strict=True):
        np.testing.assert_array_equal(call(), one)


LAYOUTS = {
    "channels first": lambda image: np.moveaxis(np.moveaxis(image, -1, 0).copy(), 0, -1),
    "Fortran": np.asfortranarray,
    "reversed": lambda image: image[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "columns first": lambda image: image.swapaxes(0, 1).copy().swapaxes(0, 1),
    "every other": lambda image: np.repeat(np.repeat(image, 2, axis=1), 2, axis=2)[:, ::2, ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 3, 4, 5, 12]), st.booleans())
@settings(max_examples=40)
def test_bits_do_not_depend_on_the_memory_layout(layout, seed, channels, masked):
    rng = np.random.default_rng(seed)
    image = rng.random((7, 9, channels)).astype(rng.choice(["f2", "f4", "f8"]))
    seeds = rng.choice([0, 0, 0, 0, 1, 2, 3], (7, 9))
    seeds[3, 3] = 1
    mask = rng.random((7, 9)) < 0.9 if masked else None
    if masked:
        mask[3, 3] = True
    options = {"channel_axis": -1, "mask": mask}
    laid_out = LAYOUTS[layout](image)
    assert np.array_equal(laid_out, image)
    expected = propagate_labels(image, seeds, return_full_prob=True, **options)
    assert np.array_equal(propagate_labels(laid_out, seeds, return_full_prob=True, **options), expected)
    scores = rng.random((7, 9))
    assert np.array_equal(refine(laid_out, scores, **options), refine(image, scores, **options))


INTEGERS = [(np.int64, 2**60), (np.int64, -(2**63)), (np.uint64, 2**64 - 300), (np.int64, -(2**60) - 7)]


@pytest.mark.parametrize(("dtype", "offset"), INTEGERS)
def test_differences_of_64_bit_integers_are_exact(dtype, offset):
    small = np.random.default_rng(0).integers(0, 256, (3, 6, 7, 2))
    # As Python's numbers: the sum fits, though not all of its parts do.
    image = np.array([int(number) + offset for number in small.ravel()], dtype).reshape(small.shape)
    image[1] = small[1]  # an item of its own range
    mask = np.ones((6, 7), bool)
    mask[0] = False
    image[2, 0] = 5
    trees, expected = mst(image, mask=mask), mst(small.astype(float), mask=mask)
    assert np.array_equal(trees.gaps, expected.gaps)
    assert np.array_equal(trees.order, expected.order)
    assert mst(image[0], mask=mask) == trees[0]
    values = np.random.default_rng(1).random((3, 6, 7))
    for take in (
        lambda image: local_propagate(values, image, zeta=30.0, kernel_size=3, mask=mask),
        lambda image: expected.reweight(image).gaps,
        lambda image: related.pairwise_affinity(image, mask=mask, theta=30.0),
    ):
        np.testing.assert_array_equal(take(image), take(small.astype(float)))


def test_64_bit_integers_of_a_wide_range_are_rounded_as_they_are():
    image = np.array([[0, 2**60, 2**60 + 1, 3]])
    assert mst(image) == mst(image.astype(float))
    assert aproarray.mst([[2**60, 2**60 + 1]]).weights.tolist() == [1.0]


def test_smoothing_over_units():
    rng = np.random.default_rng(0)
    image = rng.random((40, 50, 2), np.float32)
    for step in (1, 2, 4, 16):
        np.testing.assert_array_equal(
            _relief.smoothed(image, step, None, (1.0, 1.0)), _relief.smoothed(image, step, None)
        )
    # The variance of the kernel is step^2 / 2, in units.
    impulse = np.zeros((81, 81, 1), np.float32)
    impulse[40, 40] = 1
    for spacing in ((1.0, 2.5), (3.0, 1.0), (1.0, 10.0)):
        for step in (1, 2, 4, 8):
            spread = _relief.smoothed(impulse, step, None, spacing)[..., 0]
            for axis in (0, 1):
                places = (np.arange(81) - 40) * spacing[axis]
                variance = spread.sum(1 - axis) @ places**2
                assert variance == pytest.approx(step**2 / 2, rel=1e-4)


def by_definition(image, steps):
    """Smooth an image (..., C) by [w 1-2w w] at a step along each axis in turn."""
    for axis, (step, share) in enumerate(steps):
        at = np.arange(image.shape[axis])
        following = image.take(at + step, axis, mode="clip") * np.float32(share)
        before = image.take(at - step, axis, mode="clip") * np.float32(share)
        image = image * np.float32(1 - 2 * share) + following + before
    return image


def gradient_by_definition(image, mask, spacing):
    """Return the root of the sum of squared mean differences to the neighbours inside a mask."""
    square = np.zeros(image.shape[:-1], np.float32)
    for axis, unit in enumerate(spacing):
        along, inside = np.moveaxis(image, axis, 0), np.moveaxis(mask, axis, 0)
        mean = np.zeros_like(along)
        for i in range(len(along)):
            before = inside[i - 1] & inside[i] if i > 0 else np.zeros_like(inside[i])
            following = inside[i + 1] & inside[i] if i + 1 < len(along) else np.zeros_like(inside[i])
            low = np.where(before[..., None], along[i - 1], along[i])
            high = np.where(following[..., None], along[(i + 1) % len(along)], along[i])
            count = np.maximum(before.astype(np.float32) + following, 1)[..., None]
            mean[i] = (high - low) / count / np.float32(unit)
        square += np.moveaxis((mean * mean).sum(-1), 0, axis)
    return np.sqrt(square)


@given(st.integers(0, 2**32), st.integers(1, 4), st.sampled_from([1, 2, 3, 5]), st.integers(1, 3))
def test_smoothing_and_gradients_by_definition(seed, ndim, channels, workers):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 30 if ndim < 3 else 7, ndim))
    image = rng.standard_normal((*shape, channels)).astype(np.float32)
    steps = [(int(rng.integers(1, 9)), float(rng.random() / 4)) for _ in range(ndim)]
    assert np.array_equal(cpu.smooth(image, steps, workers), by_definition(image, steps))
    spacing = tuple(rng.choice([0.3, 1, 1, 7], ndim))
    mask = rng.random(shape) < 0.8
    for inside in (mask, np.ones(shape, bool)):
        expected = gradient_by_definition(image, inside, spacing)
        result = cpu.gradient(image, inside, spacing, workers)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cpu.gradient(image, None, spacing, workers), expected, rtol=1e-5, atol=1e-6)


def test_rows_are_split_over_threads_without_a_change():
    image = np.random.default_rng(0).random((700, 500, 3), np.float32)
    steps = [(4, 0.25), (4, 0.2)]
    assert np.array_equal(cpu.smooth(image, steps, 3), cpu.smooth(image, steps, 1))
    assert np.array_equal(cpu.gradient(image, None, None, 3), cpu.gradient(image, None, None, 1))


@pytest.mark.parametrize("volume", [False, True])
def test_outliers_within_a_mask(volume):
    """Hot pixels change no label but near themselves, and pixels outside of the mask none at all."""
    rng = np.random.default_rng(0)
    shape = (12, 30, 40) if volume else (60, 80)
    image = np.where(np.arange(shape[-1]) < shape[-1] // 2, 100.0, 160) + 4 * rng.standard_normal(shape)
    mask = np.ones(shape, bool)
    mask[..., :6, :] = False
    seeds = np.zeros(shape, int)
    seeds[..., 20, 5], seeds[..., 20, -5] = 1, 2
    expected = propagate_labels(image, seeds, mask=mask)
    hot = image.copy()
    hot.flat[rng.integers(0, image.size, image.size // 400)] = 60000
    found = propagate_labels(hot, seeds, mask=mask)
    assert (found != expected).mean() < 0.02
    hot[~mask] = rng.choice([-9999, 1e9], (~mask).sum())
    assert np.array_equal(propagate_labels(hot, seeds, mask=mask), found)


def test_outliers_of_which_none_is_far_from_another():
    """The mean gradient is that of all pixels, where all are near an outlier."""
    image = np.zeros((7, 6))
    image[:, 3:] = 1
    image[3, 3] = 1000
    seeds = np.zeros((7, 6), int)
    seeds[1, 1], seeds[5, 4] = 1, 2
    found = propagate_labels(image, seeds)
    assert (found[:, 3:] == 2).all()
    assert (found[:, :2] == 1).all()


def test_a_few_pixels_of_their_own_level_are_no_outliers():
    """Neither a dot on a plain image, nor one of so few pixels that none may be left out."""
    for n, level in ((10_000, 7), (15, 1000)):
        image = np.zeros(n)
        image[: max(n // 30, 1)] = level
        stretched, outliers = _relief.stretched(image.reshape(-1, 1, 1), None)
        assert outliers is None
        assert np.array_equal(stretched.ravel(), (image > 0).astype(np.float32))


def test_a_channel_of_its_own_scale_is_no_outlier():
    image = np.random.default_rng(0).random((40, 50))
    image[:, :6] = 1000 + image[:, :6]  # one pixel in eight
    for one in (image, image.T, -image):
        _, outliers = _relief.stretched(one[..., None], None)
        assert outliers is None


def discs(ndim, sigma, noise=0.0, n_along=4):
    """Return a grey image of bright balls of radius 6, one each 20 pixels, blurred, and a seed for each."""
    shape = (20 * n_along,) * ndim
    axes = np.meshgrid(*(np.arange(extent) % 20 - 10 for extent in shape), indexing="ij")
    image = ndimage.gaussian_filter((sum(axis**2 for axis in axes) < 36).astype(np.float32), sigma)
    image += np.float32(noise) * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    seeds = np.zeros(shape, int)
    seeds[(slice(10, None, 20),) * ndim] = np.arange(1, n_along**ndim + 1).reshape((n_along,) * ndim)
    seeds[(0,) * ndim] = n_along**ndim + 1
    return image, seeds


def is_clean(image, mask=None, outliers=None):
    gradients = _relief.scales(_relief.smoothed(image[..., None], 1, mask), mask, None, 1)
    return _relief.is_clean(*_relief.square_sums(gradients, mask, outliers))


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_an_image_is_clean_that_has_edges_alone(sigma):
    assert is_clean(discs(2, sigma)[0])
    assert is_clean(1000 * discs(2, sigma)[0])
    assert not is_clean(discs(2, sigma, noise=0.3)[0])
    assert not is_clean(np.zeros((5, 6), np.float32))


def test_what_takes_no_part_and_outliers_do_not_make_it_less_clean():
    image, mask = discs(2, 2.0)[0], np.ones((80, 80), bool)
    image[:, 60:] = 3 * np.random.default_rng(0).random((80, 20))
    mask[:, 60:] = False
    assert not is_clean(image)
    assert is_clean(image, mask=mask)
    assert is_clean(image, outliers=~mask)
    assert not is_clean(image, outliers=np.ones_like(mask))  # nothing is known


@pytest.mark.parametrize(
    ("image", "seeds", "finest_leads"),
    [
        (*discs(2, 2.0), True),
        (*discs(2, 2.0, noise=0.3), False),
        (discs(2, 2.0)[0], np.diag(1 + np.arange(80) % 2), True),
        (discs(2, 2.0, n_along=8)[0], np.diag(1 + np.arange(160) % 2), False),  # no small object
        (*discs(3, 0.0, n_along=2), True),
        (discs(3, 0.0, n_along=2, noise=0.3)[0][:1], discs(3, 0.0, n_along=2)[1][:1], False),  # no depth
    ],
)
def test_the_finest_forest_leads_in_volumes_and_for_small_objects_in_clean_images(
    monkeypatch, image, seeds, finest_leads
):
    asked, settle = [], cpu.settle

    def listening(*arguments):
        asked.append(arguments[3])
        return settle(*arguments)

    monkeypatch.setattr(cpu, "settle", listening)
    propagate_labels(image, seeds)
    propagate_labels(image, seeds, edges=image + np.linspace(0, 1, image.shape[-1]))
    (middle, finest, coarsest), beside_edges = asked
    assert (finest > middle + coarsest) == finest_leads
    assert beside_edges[1] < beside_edges[0] + beside_edges[2]


def test_scales_are_finer_in_volumes():
    plane = np.zeros((1, 40, 8, 1), np.float32)
    plane[:, 18:22] = 1
    for shape, farthest in (((1, 40, 8), 6), ((8, 40, 8), 3)):  # from the plane, at the coarsest scale
        gradients = _relief.scales(np.broadcast_to(plane, (*shape, 1)).copy(), None, None, 1)
        reached = np.flatnonzero(gradients[2, 0, :, 0])
        assert (17 - reached.min(), reached.max() - 22) == (farthest, farthest)
