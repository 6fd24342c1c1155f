"""Axes and memory: where channels and batches lie, strides, byte order, and what `out` may be."""

import functools

import numpy as np
import pytest
from strategies import DTYPES, LAYOUTS

import aproarray
from aproarray import SpanningTree


def propagate_globally(values, tree, image, **options):
    return aproarray.global_propagate(values, tree, zeta=0.5, **options)


def propagate_locally(values, tree, image, **options):
    return aproarray.local_propagate(
        values, image, zeta=0.5, kernel_size=3, iterations=3, mask=tree.mask, **options
    )


VERBS = [propagate_globally, propagate_locally]


def some_input(leading=(), dtype="f8", channels=3):
    rng = np.random.default_rng(0)
    image = rng.integers(4, size=(*leading, 5, 6, 2)).astype(dtype) / np.array(4, dtype)
    tree = aproarray.mst(image, mask=rng.random((5, 6)) < 0.8)
    return rng.random((*leading, 5, 6, channels)).astype(dtype), tree, image


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layout_of_the_image_does_not_change_its_tree(layout, dtype):
    rng = np.random.default_rng(1)
    image = rng.integers(2, size=(2, 5, 6, 3)).astype(dtype)
    mask = rng.random((2, 5, 6)) < 0.8
    expected = aproarray.mst(image, mask=mask)
    assert aproarray.mst(LAYOUTS[layout](image), mask=LAYOUTS[layout](mask)) == expected
    features = LAYOUTS[layout](image)
    assert expected.reweight(features) == expected


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("leading", [(), (2,)])
def test_layout_of_values_does_not_change_the_result(layout, dtype, leading):
    values, tree, image = some_input(leading)
    values = (4 * values).astype(dtype)
    expected = propagate_globally(values, tree, image)
    result = propagate_globally(LAYOUTS[layout](values), tree, image)
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == expected.dtype
    assert result.dtype.isnative


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_channel_axis_may_be_anywhere(verb, leading, channels):
    values, tree, image = some_input(leading, channels=channels)
    expected = verb(values, tree, image)
    for axis in range(-values.ndim, values.ndim):
        moved = np.moveaxis(values, -1, axis)
        own_image = np.moveaxis(image, -1, axis)
        for v, i in [(moved, own_image), (moved.copy(), own_image.copy())]:
            result = verb(v, tree, i, channel_axis=axis)
            assert result.shape == moved.shape
            np.testing.assert_array_equal(np.moveaxis(result, axis, -1), expected)
        out = np.empty_like(moved)
        assert verb(moved, tree, own_image, channel_axis=axis, out=out) is out
        np.testing.assert_array_equal(out, result)


@pytest.mark.parametrize("verb", VERBS)
def test_channel_axis_none_leaves_axes_leading(verb):
    values, tree, image = some_input(channels=4)
    masks, grey = np.moveaxis(values, -1, 0).copy(), image[..., 0]
    result = verb(masks, aproarray.mst(grey, mask=tree.mask), grey, channel_axis=None)
    for k in range(4):
        expected = verb(masks[k], aproarray.mst(grey, mask=tree.mask), grey)
        np.testing.assert_array_equal(result[k], expected)


@pytest.mark.parametrize("channel_axis", [-1, 0, None, 2])
@pytest.mark.parametrize("verb", VERBS)
def test_values_of_exactly_the_trees_shape_are_one_channel(verb, channel_axis):
    values, _, image = some_input((2,), channels=1)
    grey = image[..., 0]
    image = grey if channel_axis is None else np.moveaxis(grey[..., None], -1, channel_axis)
    tree = aproarray.mst(image, channel_axis=channel_axis)
    expected = verb(values, aproarray.mst(grey[..., None]), grey[..., None])[..., 0]
    result = verb(values[..., 0], tree, image, channel_axis=channel_axis)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("layout", ["contiguous", "fortran", "reversed", "sparse", "unaligned"])
@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6, 3)])
def test_out_is_written_whatever_its_layout(verb, dtype, layout, shape):
    _, tree, image = some_input(shape[:-3] if len(shape) > 2 else ())
    image = image.astype("f4") if dtype != "f8" else image
    values = np.random.default_rng(2).random(shape).astype(dtype)
    expected = verb(values, tree, image)
    out = LAYOUTS.get(layout, np.copy)(np.full(shape, 7, dtype))
    assert verb(values, tree, image, out=out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_out_may_be_the_values_or_overlap_them(verb, dtype):
    values, tree, image = some_input()
    image = image.astype("f4") if dtype != "f8" else image
    values = values.astype(dtype)
    expected = verb(values, tree, image)
    in_place = values.copy()
    assert verb(in_place, tree, image, out=in_place) is in_place
    np.testing.assert_array_equal(in_place, expected)
    for shift in (1, 3, 40):  # less than a pixel, a pixel, rows
        for first, second in [(0, shift), (shift, 0)]:
            memory = np.zeros(values.size + shift, dtype)
            source, out = (memory[at : at + values.size].reshape(values.shape) for at in (first, second))
            source[...] = values
            verb(source, tree, image, out=out)
            np.testing.assert_array_equal(out, expected)
    flipped = values.copy()
    verb(flipped, tree, image, out=flipped[::-1])
    np.testing.assert_array_equal(flipped[::-1], expected)


def test_out_may_be_the_features():
    values, tree, image = some_input(channels=2)
    expected = propagate_globally(values, tree, image, features=image)
    propagate_globally(values, tree, image, features=image, out=image)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("dtype", ["?", "u1", "i8", "f2", "f4", "f8"])
def test_input_is_neither_changed_nor_returned(verb, dtype):
    values, _, image = some_input()
    values, image = (4 * values).astype(dtype), (4 * image).astype(dtype)
    tree = aproarray.mst(image)
    copies = values.copy(), image.copy()
    result = verb(values, tree, image)
    np.testing.assert_array_equal(values, copies[0])
    np.testing.assert_array_equal(image, copies[1])
    assert not np.shares_memory(result, values)
    assert result.flags.writeable
    assert values.flags.writeable
    assert image.flags.writeable


@pytest.mark.parametrize("verb", VERBS)
def test_lists_are_arrays(verb):
    values, tree, image = some_input()
    expected = verb(values, tree, image)
    np.testing.assert_array_equal(verb(values.tolist(), tree, image.tolist()), expected)
    assert aproarray.mst(image.tolist(), mask=tree.mask.tolist()) == tree


@pytest.mark.parametrize("verb", VERBS)
def test_broadcast_arrays_are_arrays(verb):
    values, tree, image = some_input()
    stacked = np.broadcast_to(values, (4, *values.shape))
    trees = aproarray.mst(np.broadcast_to(image, (4, *image.shape)), mask=tree.mask)
    result = verb(stacked, trees, np.broadcast_to(image, (4, *image.shape)))
    for one in result:
        np.testing.assert_array_equal(one, verb(values, tree, image))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_result_does_not_depend_on_the_company(verb, dtype):
    # Alone, in a batch, or with other channels: the same numbers, bit for bit.
    values, trees, images = some_input((3,), dtype, channels=40)
    result = verb(values, trees, images)
    for b in range(3):
        for channels in (slice(0, 1), slice(30, 33), slice(7, 40)):
            alone = verb(values[b, ..., channels], trees[b], images[b])
            np.testing.assert_array_equal(result[b, ..., channels], alone)


def test_values_over_a_graph():
    tree = SpanningTree.from_edges([[0, 1], [1, 2], [3, 2]], [1, 2, 3], 4)
    values = np.random.default_rng(3).random((4, 2))
    expected = aproarray.global_propagate(values, tree, zeta=1.0)
    transposed = aproarray.global_propagate(values.T, tree, zeta=1.0, channel_axis=0)
    np.testing.assert_array_equal(transposed, expected.T)
    sets = aproarray.global_propagate(values.T, tree, zeta=1.0, channel_axis=None)
    np.testing.assert_array_equal(sets, expected.T)


@pytest.mark.parametrize(
    "verb",
    [
        functools.partial(aproarray.local_propagate, zeta=0.3),
        functools.partial(aproarray.related.mean_field, zeta=0.3, iterations=2),
        functools.partial(aproarray.related.pamr, iterations=2),
    ],
    ids=lambda verb: verb.func.__name__,
)
def test_the_channels_of_values_and_image_may_be_elsewhere(verb):
    rng = np.random.default_rng(0)
    values, image = rng.random((6, 7, 2)), rng.random((6, 7, 3))
    expected = verb(values, image)
    first, image_first = np.moveaxis(values, -1, 0), np.moveaxis(image, -1, 0)
    np.testing.assert_array_equal(
        verb(first, image, channel_axis=0, image_channel_axis=-1), np.moveaxis(expected, -1, 0)
    )
    np.testing.assert_array_equal(verb(values, image_first, image_channel_axis=0), expected)
    np.testing.assert_array_equal(verb(first, image_first, channel_axis=0), np.moveaxis(expected, -1, 0))
    grey = verb(values, image[..., 0])
    np.testing.assert_array_equal(verb(values, image[..., 0], image_channel_axis=None), grey)
    with pytest.raises(ValueError, match="image_channel_axis=5 is not an axis of image of shape"):
        verb(values, image, image_channel_axis=5)
    with pytest.raises(TypeError, match="image_channel_axis must be an integer"):
        verb(values, image, image_channel_axis="first")
