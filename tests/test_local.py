"""local_propagate(): the definition's result for every window, mask, batch and way of streaming."""

import importlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import DTYPES, LAYOUTS, pixels, shapes, values_over

import aproarray
from aproarray import reference
from aproarray.cpu import _processor, _sweep

pytestmark = pytest.mark.any_backend

# kernel_size, dtype of the values, dtype of the image
KERNELS = [
    (3, "f4", "f4"),
    (3, "f8", "f8"),
    (3, "f4", "f8"),
    (3, "f8", "f4"),
    (5, "f4", "f4"),
    (5, "f8", "f8"),
    (7, "f4", "f4"),
]
SINGLE = {"rtol": 1e-5, "atol": 1e-6}
DOUBLE = {"rtol": 1e-11, "atol": 1e-14}


def tolerance(*dtypes):
    return SINGLE if np.dtype(np.float32) in map(np.dtype, dtypes) else DOUBLE


def definition(values, image, zeta, kernel_size, iterations, mask=None):
    """Return LP of spatial + (C,) values along a spatial + (Ci,) image by the reference."""
    flat = values.reshape(-1, values.shape[-1])
    expected = reference.local_propagate(flat, image, zeta, kernel_size, iterations, mask)
    return expected.reshape(values.shape)


@pytest.fixture
def small_passes(monkeypatch):
    """Make a stream take no more than 4 iterations, so that 20 take 5 passes."""
    from aproarray.cpu import _local

    monkeypatch.setattr(_local, "_STREAM_BYTES", 1)


def some_input(shape, channels=2, dtype="f8", image_dtype="f8", seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.random((*shape, channels)).astype(dtype),
        (rng.integers(4, size=(*shape, 2)) / 10).astype(image_dtype),
        rng.random(shape) < 0.8,
    )


@pytest.mark.parametrize(("kernel_size", "dtype", "image_dtype"), KERNELS)
@pytest.mark.parametrize("shape", [(1,), (2,), (23,), (1, 1), (2, 9), (9, 2), (11, 12), (3, 4, 5), (1, 5, 2)])
@pytest.mark.parametrize("masked", [False, True])
def test_result_is_the_definition(kernel_size, dtype, image_dtype, shape, masked):
    values, image, mask = some_input(shape, 3, dtype, image_dtype)
    mask = mask if masked else None
    for zeta, iterations in [(0.15, 1), (0.3, 2), (0.15, 20)]:
        result = aproarray.local_propagate(
            values,
            image,
            zeta=zeta,
            kernel_size=kernel_size,
            iterations=iterations,
            mask=mask,
            spatial_ndim=len(shape),
        )
        assert result.dtype == dtype
        expected = definition(values, image, zeta, kernel_size, iterations, mask)
        np.testing.assert_allclose(result, expected, **tolerance(dtype, image_dtype))


@given(shapes, st.integers(0, 7), st.sampled_from([0.05, 0.15, 1.0, 40.0]), st.booleans(), st.data())
def test_result_is_the_definition_for_any_small_image(shape, iterations, zeta, masked, data):
    values = data.draw(values_over((*shape, data.draw(st.integers(0, 3)))))
    image = data.draw(pixels(np.dtype(np.float64), (*shape, data.draw(st.integers(0, 3)))))
    mask = data.draw(hnp.arrays(np.bool_, shape)) if masked else None
    result = aproarray.local_propagate(
        values,
        image,
        zeta=zeta,
        kernel_size=3,
        iterations=iterations,
        mask=mask,
        channel_axis=-1,
        spatial_ndim=len(shape),
    )
    expected = definition(values, image, zeta, 3, iterations, mask) if values.size else values
    np.testing.assert_allclose(result, expected, **DOUBLE)


@pytest.mark.parametrize("channels", [0, 1, 3, 32, 33, 40, 65])
@pytest.mark.parametrize("channel_axis", [-1, 0])
def test_any_number_of_channels(channels, channel_axis):
    values, image, mask = some_input((6, 7), channels)
    result = aproarray.local_propagate(
        np.moveaxis(values, -1, channel_axis).copy(),
        np.moveaxis(image, -1, channel_axis),
        kernel_size=3,
        iterations=3,
        mask=mask,
        channel_axis=channel_axis,
        zeta=0.15,
    )
    assert result.shape == np.moveaxis(values, -1, channel_axis).shape
    if channels:
        expected = definition(values, image, 0.15, 3, 3, mask)
        np.testing.assert_allclose(np.moveaxis(result, channel_axis, -1), expected, **DOUBLE)


@pytest.mark.numpy_only("about the passes of the CPU's streams")
@pytest.mark.parametrize(("kernel_size", "dtype", "image_dtype"), [KERNELS[1], KERNELS[4]])
@pytest.mark.parametrize("shape", [(3, 20), (33, 6), (50,), (9, 4, 3)])
@pytest.mark.parametrize("iterations", [3, 4, 5, 8, 20])
@pytest.mark.usefixtures("small_passes")
def test_several_passes_are_one(kernel_size, dtype, image_dtype, shape, iterations):
    values, image, mask = some_input(shape, 3, dtype, image_dtype)
    result = aproarray.local_propagate(
        values,
        image,
        kernel_size=kernel_size,
        iterations=iterations,
        mask=mask,
        spatial_ndim=len(shape),
        zeta=0.15,
    )
    expected = definition(values, image, 0.15, kernel_size, iterations, mask)
    np.testing.assert_allclose(result, expected, **tolerance(dtype, image_dtype))


@pytest.mark.parametrize("iterations", [1, 2, 9])
def test_iterations_are_calls(iterations):
    values, image, mask = some_input((10, 11), dtype="f4", image_dtype="f4")
    options = {"zeta": 0.15, "kernel_size": 5, "mask": mask}
    step = values
    for _ in range(iterations):
        step = aproarray.local_propagate(step, image, iterations=1, **options)
    whole = aproarray.local_propagate(values, image, iterations=iterations, **options)
    np.testing.assert_array_equal(whole, step)


@pytest.mark.parametrize(("iterations", "kernel_size"), [(0, 5), (20, 1), (0, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_no_steps_and_windows_of_one_pixel_give_the_values_back(iterations, kernel_size, dtype):
    values, image, _ = some_input((4, 5))
    values = (10 * values).astype(dtype)
    result = aproarray.local_propagate(
        values, image, iterations=iterations, kernel_size=kernel_size, zeta=0.15
    )
    np.testing.assert_array_equal(result, values)
    assert not np.shares_memory(result, values)


def test_windows_larger_than_the_image_hold_all_of_it():
    values, image, _ = some_input((3, 4), dtype="f4", image_dtype="f4")
    seven = aproarray.local_propagate(values, image, kernel_size=7, zeta=0.15)
    for kernel_size in (9, 1001, 10**9 + 1):
        larger = aproarray.local_propagate(values, image, kernel_size=kernel_size, zeta=0.15)
        np.testing.assert_array_equal(larger, seven)


@pytest.mark.parametrize("kernel_size", [1199, 10**30 + 1])
@pytest.mark.parametrize("shape", [(1, 600), (600, 1), (2, 150), (150, 2), (1, 1, 90), (3, 1, 60), (1,)])
def test_windows_reach_no_further_than_the_image_along_any_axis(shape, kernel_size):
    """A window of 1199 x 1199 pixels over one row of 600 would take 11 TiB."""
    rng = np.random.default_rng(0)
    values, image = rng.random((*shape, 2)), rng.random((*shape, 3))
    options = {"zeta": 0.5, "iterations": 2, "spatial_ndim": len(shape)}
    result = aproarray.local_propagate(values, image, kernel_size=kernel_size, **options)
    squares = ((image.reshape(-1, 1, 3) - image.reshape(-1, 3)) ** 2).sum(-1)
    weights = np.exp(-squares / 0.25)
    expected = values.reshape(-1, 2)
    for _ in range(2):
        expected = weights @ expected / weights.sum(1, keepdims=True)
    np.testing.assert_allclose(result.reshape(-1, 2), expected, rtol=1e-12)


@pytest.mark.parametrize("zeta", [1e-300, 1e-30, 1e-4])
@pytest.mark.parametrize(("kernel_size", "dtype", "image_dtype"), [KERNELS[0], KERNELS[1]])
def test_tiny_zeta_lets_only_equal_pixels_meet(zeta, kernel_size, dtype, image_dtype):
    values = np.random.default_rng(1).random((5, 6)).astype(dtype)
    distinct = np.arange(30, dtype=image_dtype).reshape(5, 6)
    options = {"kernel_size": kernel_size, "zeta": zeta, "iterations": 3}
    np.testing.assert_array_equal(aproarray.local_propagate(values, distinct, **options), values)
    halves = np.repeat(np.array([[0, 1]], image_dtype), 3, axis=1).repeat(5, axis=0)
    result = aproarray.local_propagate(values, halves, **options)
    left = aproarray.local_propagate(values[:, :3], halves[:, :3], **options)
    right = aproarray.local_propagate(values[:, 3:], halves[:, 3:], **options)
    np.testing.assert_allclose(result, np.hstack([left, right]), rtol=1e-6)


@pytest.mark.parametrize("zeta", [1e6, 1e30, 1e300, np.inf])
@pytest.mark.parametrize(("kernel_size", "dtype", "image_dtype"), [KERNELS[0], KERNELS[1]])
def test_huge_zeta_is_a_moving_average(zeta, kernel_size, dtype, image_dtype):
    values, image, mask = some_input((6, 7), 2, dtype, image_dtype)
    result = aproarray.local_propagate(
        values, image, zeta=zeta, kernel_size=kernel_size, iterations=2, mask=mask
    )
    expected = definition(values, np.zeros_like(image), 1.0, kernel_size, 2, mask)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-15, 1e15, 1e20, 1e35])
def test_scale_of_image_and_zeta_does_not_matter(scale):
    # Squares of such numbers are out of float32's range, they themselves are not.
    values, image, mask = some_input((6, 7), 2, "f4", "f4")
    options = {"kernel_size": 3, "iterations": 4, "mask": mask}
    expected = aproarray.local_propagate(values, image, zeta=0.15, **options)
    scaled = (image * scale).astype(np.float32)
    result = aproarray.local_propagate(values, scaled, zeta=0.15 * scale, **options)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize("zeta", [1.0, 1e10, 1e25, np.inf])
def test_image_differences_beyond_float32_when_squared(zeta):
    image = np.array([[0, 0, 1e25, 1e25]], np.float32)
    values = np.array([[1, 0, 0, 0]], np.float32)
    result = aproarray.local_propagate(values, image, zeta=zeta, kernel_size=3, iterations=2)
    expected = definition(values[..., None], image[..., None], zeta, 3, 2)[..., 0]
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize("masks", ["none", "shared", "each"])
@pytest.mark.parametrize("leading", [(), (0,), (2,), (2, 2)])
@pytest.mark.parametrize("more", [(), (3,), (0,), (1, 2)])
def test_batch_is_a_loop(masks, leading, more):
    rng = np.random.default_rng(2)
    images = rng.integers(3, size=(*leading, 5, 6, 1)) / 8
    mask = {"none": None, "shared": rng.random((5, 6)) < 0.8, "each": rng.random((*leading, 5, 6)) < 0.8}[
        masks
    ]
    values = rng.random((*leading, *more, 5, 6, 2))
    options = {"zeta": 0.15, "kernel_size": 3, "iterations": 3}
    result = aproarray.local_propagate(values, images, mask=mask, **options)
    assert result.shape == values.shape
    for b in np.ndindex(*leading, *more):
        own = b[: len(leading)]
        one = aproarray.local_propagate(
            values[b], images[own], mask=mask[own] if masks == "each" else mask, **options
        )
        np.testing.assert_array_equal(result[b], one)


@pytest.mark.parametrize("value_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("image_dtype", DTYPES, ids=str)
def test_dtypes(value_dtype, image_dtype):
    def computed(dtype):
        return np.float64 if dtype.itemsize > 4 or dtype in (np.int32, np.uint32) else np.float32

    rng = np.random.default_rng(3)
    values = rng.integers(2, size=(4, 5, 1)).astype(value_dtype)
    image = rng.integers(2, size=(4, 5, 1)).astype(image_dtype)
    result = aproarray.local_propagate(values, image, zeta=1.0, kernel_size=3, iterations=3)
    assert result.dtype == (np.float16 if value_dtype == np.float16 else computed(value_dtype))
    tolerances = {"rtol": 1e-3} if value_dtype == np.float16 else SINGLE
    np.testing.assert_allclose(result, definition(values, image, 1.0, 3, 3), **tolerances)


@pytest.mark.numpy_only("devices share no work out by workers")
@pytest.mark.parametrize("workers", [2, 3, 8, 64])
@pytest.mark.parametrize("iterations", [1, 4, 5, 20])
@pytest.mark.parametrize(("kernel_size", "dtype", "image_dtype"), [KERNELS[1], KERNELS[4]])
@pytest.mark.usefixtures("small_passes")
def test_bands_are_one_stream_bit_for_bit(workers, iterations, kernel_size, dtype, image_dtype):
    values, image, mask = some_input((70, 5), 3, dtype, image_dtype)
    options = {"zeta": 0.15, "kernel_size": kernel_size, "iterations": iterations, "mask": mask}
    expected = aproarray.local_propagate(values, image, workers=1, **options)
    result = aproarray.local_propagate(values, image, workers=workers, **options)
    np.testing.assert_array_equal(result, expected)
    aproarray.local_propagate(values, image, workers=workers, out=values, **options)
    np.testing.assert_array_equal(values, expected)


@given(
    shapes,
    st.sampled_from([0.05, 1.0, 40.0]),
    st.sampled_from([0.1, -3.0, 255.0, 1e30]),
    st.sampled_from(["f4", "f8"]),
    st.data(),
)
def test_constants_are_fixed_points(shape, zeta, constant, dtype, data):
    image = data.draw(pixels(np.dtype(np.float32), (*shape, 2)))
    mask = data.draw(hnp.arrays(np.bool_, shape))
    values = np.full(shape, constant, dtype)
    result = aproarray.local_propagate(
        values, image, zeta=zeta, kernel_size=3, mask=mask, spatial_ndim=len(shape)
    )
    np.testing.assert_allclose(result, values, rtol=100 * np.finfo(dtype).eps)


@given(shapes, st.data())
def test_result_is_a_convex_combination_and_channels_do_not_mix(shape, data):
    image = data.draw(pixels(np.dtype(np.float64), (*shape, 1)))
    values = data.draw(values_over((*shape, 4)))
    channels = data.draw(st.permutations(range(4)))
    options = {"zeta": 0.15, "kernel_size": 3, "iterations": 5, "spatial_ndim": len(shape)}
    result = aproarray.local_propagate(values, image, **options)
    assert result.min() >= 0
    assert result.max() <= values.max() * (1 + 1e-14)
    permuted = aproarray.local_propagate(values[..., channels], image, **options)
    np.testing.assert_array_equal(permuted, result[..., channels])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_masked_out_pixels_come_back_and_change_nothing(dtype):
    values, image, mask = some_input((8, 9), 3, dtype, "f4")
    expected = aproarray.local_propagate(values, image, kernel_size=3, mask=mask, zeta=0.15)
    np.testing.assert_array_equal(expected[~mask], values[~mask])
    values[~mask] = np.resize([np.nan, np.inf, -np.inf, np.finfo(dtype).max], values[~mask].shape)
    image[~mask] = np.resize([np.inf, np.nan, 1e38], image[~mask].shape)
    result = aproarray.local_propagate(values, image, kernel_size=3, mask=mask, zeta=0.15)
    np.testing.assert_array_equal(result[~mask], values[~mask])
    np.testing.assert_array_equal(result[mask], expected[mask])


def test_propagation_inside_a_mask_is_that_of_the_crop():
    values, image, _ = some_input((8, 9))
    mask = np.zeros((8, 9), bool)
    mask[2:6, 1:8] = True
    result = aproarray.local_propagate(values, image, kernel_size=3, mask=mask, zeta=0.15)
    crop = aproarray.local_propagate(values[2:6, 1:8], image[2:6, 1:8], kernel_size=3, zeta=0.15)
    np.testing.assert_allclose(result[2:6, 1:8], crop, **DOUBLE)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", ["values", "image", "mask"])
def test_memory_layout_does_not_matter(layout, which):
    values, image, mask = some_input((6, 7), dtype="f4", image_dtype="f4")
    arguments = {"values": values, "image": image, "mask": mask, "zeta": 0.15}
    expected = aproarray.local_propagate(**arguments, kernel_size=3)
    arguments[which] = LAYOUTS[layout](arguments[which])
    np.testing.assert_array_equal(aproarray.local_propagate(**arguments, kernel_size=3), expected)


@pytest.mark.numpy_only("devices share no work out by workers")
@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.usefixtures("small_passes")
def test_out_may_be_the_image(workers):
    values, image, mask = some_input((30, 5), 2, "f4", "f4")
    expected = aproarray.local_propagate(values, image, kernel_size=3, mask=mask, zeta=0.15)
    options = {"zeta": 0.15, "kernel_size": 3, "mask": mask, "workers": workers}
    assert aproarray.local_propagate(values, image, out=image, **options) is image
    np.testing.assert_array_equal(image, expected)


@pytest.mark.numpy_only("about the processor")
@pytest.mark.skipif(not _sweep.has_avx2(), reason="this processor has no AVX2")
@pytest.mark.parametrize(("kernel_size", "dtype", "image_dtype"), KERNELS)
def test_code_for_any_processor_gives_the_same_to_rounding(kernel_size, dtype, image_dtype, monkeypatch):
    results = []
    for name in ("_stream", "_stream_avx2"):
        monkeypatch.setattr(_processor, "windows", importlib.import_module(f"aproarray.cpu.{name}"))
        # Slabs that vectors fill, that they do not, and that are shorter than what is summed up together.
        for shape, channels in itertools.product([(4, 64), (9, 71), (5, 3), (4, 5, 6)], range(1, 7)):
            values, image, mask = some_input(shape, channels, dtype, image_dtype)
            options = {"zeta": 0.15, "kernel_size": kernel_size, "mask": mask, "spatial_ndim": len(shape)}
            results.append(aproarray.local_propagate(values, image, iterations=3, **options))
    n = len(results) // 2
    for result, expected in zip(results[:n], results[n:], strict=True):
        np.testing.assert_allclose(result, expected, **tolerance(dtype, image_dtype))


@pytest.mark.numpy_only("about vectors")
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_channels_do_not_depend_on_the_others(dtype):
    values, image, mask = some_input((7, 21), 9, dtype, dtype)
    expected = aproarray.local_propagate(values, image, kernel_size=5, mask=mask, zeta=0.15)
    for first, last in itertools.combinations(range(10), 2):
        part = slice(first, last)
        result = aproarray.local_propagate(values[..., part], image, kernel_size=5, mask=mask, zeta=0.15)
        np.testing.assert_array_equal(result, expected[..., part])


@pytest.mark.numpy_only("about float32")
@pytest.mark.parametrize("channels", [1, 2])
def test_weights_of_float32_are_those_of_the_exponential(channels):
    # Two pixels: the result of one step tells their weight w, as y = w / (1 + w).
    differences = np.geomspace(1e-3, 12, 500).astype("f4")
    image = np.stack([np.zeros_like(differences), differences], axis=1)
    values = np.broadcast_to(np.array([1, 0], "f4")[:, None], (500, 2, channels))
    found = np.array(
        [
            aproarray.local_propagate(
                v, i, zeta=1, kernel_size=3, iterations=1, spatial_ndim=1, image_channel_axis=None
            )
            for v, i in zip(values, image, strict=True)
        ]
    )
    weights = np.exp(-(differences * differences).astype("f8"))
    expected = weights / (1 + weights)
    np.testing.assert_allclose(found[:, 1, 0], expected, rtol=5e-7, atol=1e-38)
