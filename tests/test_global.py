"""global_propagate(): the definition's result, over every kind of tree, and its properties."""

import copy
import importlib
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, graphs, pictures, values_over, zetas

import aproarray
from aproarray import SpanningTree, reference
from aproarray.cpu import _processor, _sweep

pytestmark = pytest.mark.any_backend

RTOL = {np.float32: 1e-5, np.float64: 1e-12}

# Around the widths of the vectors that hold a pixel's sums, and around the 32 columns of a block.
CHANNELS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 23, 24, 25, 31, 32, 33, 70]


def picture_with_ties(seed=0, shape=(6, 7), mask=True):
    rng = np.random.default_rng(seed)
    image = rng.integers(4, size=(*shape, 2)) / 4
    return image, (rng.random(shape) < 0.8 if mask else None)


def definition(values, tree, zeta):
    """Return GP of spatial + (C,) values by the reference, over one tree's finite edges."""
    n, n_edges = tree.order.size, np.count_nonzero(np.isfinite(tree.weights))
    d = reference.minimax_distances(tree.edges[:n_edges], tree.weights[:n_edges], n)
    return reference.global_propagate(values.reshape(n, -1), d, zeta).reshape(values.shape)


@given(pictures(), zetas, st.sampled_from([np.float32, np.float64]), st.integers(1, 3), st.data())
def test_result_is_the_definition(picture, zeta, dtype, channels, data):
    values = data.draw(values_over((*picture.shape, channels), dtype))
    expected = reference.global_propagate(values.reshape(-1, channels), picture.distances(), zeta)
    result = aproarray.global_propagate(values, picture.tree(), zeta=zeta)
    assert result.dtype == dtype
    np.testing.assert_allclose(result.reshape(-1, channels), expected, rtol=RTOL[dtype], atol=1e-37)


@given(graphs(), zetas, st.data())
def test_result_over_a_graph_is_the_definition(graph, zeta, data):
    edges, weights, n = graph
    values = data.draw(values_over((n, 2)))
    rows = reference.mst(edges, weights, n)
    d = reference.minimax_distances(edges[rows], weights[rows], n)
    tree = SpanningTree.from_edges(edges, weights, n)
    expected = reference.global_propagate(values, d, zeta)
    result = aproarray.global_propagate(values, tree, zeta=zeta)
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    one_channel = aproarray.global_propagate(values[:, 0], tree, zeta=zeta)
    np.testing.assert_allclose(one_channel, expected[:, 0], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("channel_axis", [-1, 0])
def test_any_number_of_channels(dtype, channels, channel_axis):
    image, mask = picture_with_ties()
    tree = aproarray.mst(image, mask=mask)
    values = np.random.default_rng(1).random((6, 7, channels)).astype(dtype)
    result = aproarray.global_propagate(
        np.moveaxis(values, -1, channel_axis).copy(), tree, zeta=0.5, channel_axis=channel_axis
    )
    assert result.dtype == dtype
    np.testing.assert_allclose(
        np.moveaxis(result, channel_axis, -1), definition(values, tree, 0.5), rtol=RTOL[dtype]
    )


@pytest.mark.parametrize("descending", [False, True])
def test_deep_dendrograms(descending):
    # Steps that shrink (or grow) along a line pile up in a sweep's stack, which has to grow.
    steps = np.linspace(2, 1, 300)[:: -1 if descending else 1]
    tree = aproarray.mst(np.cumsum(steps), spatial_ndim=1)
    values = np.random.default_rng(2).random((300, 33))
    result = aproarray.global_propagate(values, tree, zeta=1.0)
    np.testing.assert_allclose(result, definition(values, tree, 1.0), rtol=1e-12)


@pytest.mark.numpy_only("about the slots of the CPU's sweeps")
@pytest.mark.parametrize("backward", [False, True])
def test_gaps_that_close_from_the_middle_outwards_need_as_many_slots(backward):
    # On either side of a gap, all others are lighter, and the heaviest of them is at the far end.
    n = 1201
    weights = np.arange(n - 1, 0, -1.0)
    weights = np.concatenate([weights[::2], weights[1::2][::-1]])[:: -1 if backward else 1] / n
    tree = SpanningTree.from_edges(np.stack([np.arange(n - 1), np.arange(1, n)], axis=1), weights, n)
    np.testing.assert_array_equal(tree.gaps, weights)
    values = np.random.default_rng(6).random((n, 21))
    expected = definition(values, tree, 0.7)
    for channels in (1, 2, 3, 4, 21):
        result = aproarray.global_propagate(values[:, :channels], tree, zeta=0.7)
        np.testing.assert_allclose(result, expected[:, :channels], rtol=1e-12)


@pytest.mark.numpy_only("looks at the stacks of the CPU's sweeps")
@pytest.mark.parametrize("picture", ["photograph", "grey levels", "noise"])
def test_sweeps_over_pictures_need_few_slots(picture, monkeypatch):
    stacks = []

    class Kept(_processor.sweeps.Stack):
        def __init__(self, columns):
            stacks.append(self)

    monkeypatch.setattr(_processor.sweeps, "Stack", Kept)
    rng = np.random.default_rng(0)
    side = 512
    image = rng.random((side, side), np.float32)
    if picture != "noise":  # shades, sharp borders and a little noise
        shades = np.kron(rng.random((16, 16), np.float32), np.ones((side // 16, side // 16), np.float32))
        image = shades + np.sin(np.arange(side, dtype=np.float32) / 90) / 4 + image / 50
    if picture == "grey levels":
        image = np.round(image * 255)
    tree = aproarray.mst(image)
    aproarray.global_propagate(np.ones((side, side, 4), np.float32), tree, zeta=0.1, workers=1)
    assert len(stacks) == 2  # one forward, one backward
    assert max(stack.capacity for stack in stacks) <= 64


@pytest.mark.numpy_only("calls the CPU's code itself")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("line", ["noise", "levels", "rising", "falling", "valley", "inf", "NaN"])
@pytest.mark.parametrize("n_gaps", [1, 2, 3, 1023, 1024, 1025, 1026, 2049, 5000])
def test_moves_are_those_of_the_cartesian_tree(n_gaps, line, dtype):
    rng = np.random.default_rng(n_gaps)
    gaps = rng.random(n_gaps).astype(dtype)
    if line == "levels":
        gaps = np.floor(gaps * 4)
    elif line in ("rising", "falling"):
        gaps = np.sort(gaps)[:: 1 if line == "rising" else -1].copy()
    elif line == "valley":
        gaps = np.abs(np.arange(n_gaps) - n_gaps / 2).astype(dtype)
    elif line != "noise":
        gaps[rng.random(n_gaps) < 0.2] = float(line)
    keys = [(weight, place) for place, weight in enumerate(np.nan_to_num(gaps, nan=np.inf).tolist())]
    closed_by, left_of, opened = {}, {}, []  # the next heavier gap, the one before
    for place, key in enumerate(keys):
        while opened and keys[opened[-1]] < key:
            closed_by[opened.pop()] = place
        left_of[place] = opened[-1] if opened else None
        opened.append(place)
    expected = []
    for place, key in enumerate(keys):
        left, right = left_of[place], closed_by.get(place)
        joins_left = left is not None and (right is None or keys[left] < keys[right])
        takes_left = place > 0 and keys[place - 1] < key
        takes_right = place + 1 < n_gaps and keys[place + 1] < key
        expected.append(takes_left | joins_left << 1 | takes_right << 2 | (not joins_left) << 3)
    for sweeps, parts in itertools.product((_sweep, _processor.sweeps), (1, 3)):
        moves, left = np.empty(n_gaps, np.uint8), np.empty(n_gaps, np.intp)
        bounds = [n_gaps * part // parts for part in range(parts + 1)]
        counts = [sweeps.find_moves(gaps, moves, left, *pair) for pair in itertools.pairwise(bounds)]
        ranges = np.array([(first, first + count) for first, count in zip(bounds, counts, strict=False)])
        sweeps.close_moves(gaps, moves, left, ranges)
        np.testing.assert_array_equal(moves, expected)


@pytest.mark.numpy_only("makes trees by hand")
def test_what_is_kept_with_a_tree_changes_no_result():
    rng = np.random.default_rng(0)
    image, values, features = rng.random((3, 3, 20, 30))
    fresh = [aproarray.mst(image[b]) for b in range(3)]
    trees = aproarray.mst(image[..., None])
    index = [2, 0, 2]
    for read in (features, features.astype(np.float32), features):  # indices of two widths
        for options in ({}, {"features": read[index]}):
            result = aproarray.global_propagate(
                values[index], trees, zeta=0.2, tree_index=index, channel_axis=None, **options
            )
            for k, b in enumerate(index):
                again = {name: array[k] for name, array in options.items()}
                alone = aproarray.global_propagate(
                    values[b], copy.copy(fresh[b]), zeta=0.2, channel_axis=None, **again
                )
                np.testing.assert_array_equal(result[k], alone)


@pytest.mark.parametrize("zeta", [[0.1], [0.3, 5.0, 1e-3], (1.0, math.inf), np.array([0.2, 0.2]), []])
def test_sequence_of_zetas_is_a_loop_along_a_new_first_axis(zeta):
    image, mask = picture_with_ties()
    tree = aproarray.mst(image, mask=mask)
    values = np.random.default_rng(3).random((6, 7, 3))
    result = aproarray.global_propagate(values, tree, zeta=zeta)
    assert result.shape == (len(zeta), 6, 7, 3)
    for one, z in zip(result, zeta, strict=True):
        np.testing.assert_array_equal(one, aproarray.global_propagate(values, tree, zeta=z))
    out = np.empty_like(result)
    assert aproarray.global_propagate(values, tree, zeta=zeta, out=out) is out
    np.testing.assert_array_equal(out, result)


@given(pictures(), zetas, st.data())
def test_features_weigh_the_trees_edges(picture, zeta, data):
    values = data.draw(values_over((*picture.shape, 2)))
    features = data.draw(values_over((*picture.shape, 3)))
    edges, _ = picture.reference_tree()
    weights = reference.edge_weights(features, edges)
    d = reference.minimax_distances(edges, weights, picture.n_nodes)
    tree = picture.tree()
    result = aproarray.global_propagate(values, tree, zeta=zeta, features=features)
    expected = reference.global_propagate(values.reshape(-1, 2), d, zeta)
    np.testing.assert_allclose(result.reshape(-1, 2), expected, rtol=1e-12)
    same = aproarray.global_propagate(values, tree.reweight(features), zeta=zeta)
    np.testing.assert_array_equal(same, result)


@pytest.mark.parametrize("masks", ["none", "shared", "each"])
@pytest.mark.parametrize("leading", [(0,), (1,), (3,), (2, 2)])
@pytest.mark.parametrize("more", [(), (1,), (2, 3), (0,)])
@pytest.mark.parametrize("features", [None, "per tree", "per item"])
def test_batch_is_a_loop(masks, leading, more, features):
    rng = np.random.default_rng(4)
    mask = {
        "none": None,
        "shared": rng.random((3, 4)) < 0.8,
        "each": rng.random((*leading, 3, 4)) < 0.8,
    }[masks]
    trees = aproarray.mst(rng.integers(3, size=(*leading, 3, 4, 1)), mask=mask)
    values = rng.random((*leading, *more, 3, 4, 2))
    f = {
        None: None,
        "per tree": rng.random((*leading, 3, 4, 3)),
        "per item": rng.random((*leading, *more, 3, 4, 3)),
    }[features]
    result = aproarray.global_propagate(values, trees, zeta=1.0, features=f)
    assert result.shape == values.shape
    for b in np.ndindex(*leading, *more):
        tree = trees[b[: len(leading)]]
        own = None if f is None else f[b[: len(leading)]] if features == "per tree" else f[b]
        one = aproarray.global_propagate(values[b], tree, zeta=1.0, features=own)
        np.testing.assert_array_equal(result[b], one)


@pytest.mark.parametrize("masks", ["none", "shared", "each"])
@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("n_trees", [1, 3])
@pytest.mark.parametrize("tree_index", [[], [0], [2, 0, 0, 2, 1, 0], np.array([1, 2], ">u2")])
def test_tree_index_names_the_tree_of_each_mask(masks, features, n_trees, tree_index):
    rng = np.random.default_rng(5)
    mask = {
        "none": None,
        "shared": rng.random((3, 4)) < 0.8,
        "each": rng.random((n_trees, 3, 4)) < 0.8,
    }[masks]
    trees = aproarray.mst(rng.integers(3, size=(n_trees, 3, 4, 1)), mask=mask)
    index = np.minimum(tree_index, n_trees - 1).astype(int) if n_trees == 1 else tree_index
    values = rng.random((len(index), 2, 3, 4, 2))
    f = rng.random((len(index), 3, 4, 2)) if features else None
    result = aproarray.global_propagate(values, trees, zeta=1.0, tree_index=index, features=f)
    for k, b in enumerate(index):
        one = aproarray.global_propagate(values[k], trees[b], zeta=1.0, features=None if f is None else f[k])
        np.testing.assert_array_equal(result[k], one)


def test_masks_without_channels_over_shared_trees():
    rng = np.random.default_rng(6)
    trees = aproarray.mst(rng.random((2, 3, 4, 3)))
    masks = rng.random((5, 3, 4))
    index = [1, 1, 0, 1, 0]
    expected = aproarray.global_propagate(masks[..., None], trees, zeta=1.0, tree_index=index)[..., 0]
    # Values of exactly the trees' axes are one channel, whatever channel_axis says.
    for channel_axis in (None, -1, 0):
        result = aproarray.global_propagate(
            masks, trees, zeta=1.0, tree_index=index, channel_axis=channel_axis
        )
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype):
    image, mask = picture_with_ties()
    tree = aproarray.mst(image, mask=mask)
    values = np.random.default_rng(7).integers(2, size=(6, 7, 3)).astype(dtype)
    result = aproarray.global_propagate(values, tree, zeta=0.5)
    wide = dtype.itemsize > 4 or dtype in (np.int32, np.uint32)
    expected = np.float64 if wide else np.float16 if dtype == np.float16 else np.float32
    assert result.dtype == expected
    rtol = {np.float16: 1e-3, np.float32: 1e-6, np.float64: 1e-13}[expected]
    np.testing.assert_allclose(result, definition(values, tree, 0.5), rtol=rtol, atol=1e-7)


@given(pictures(), zetas, st.sampled_from([np.float32, np.float64]), st.sampled_from([0.1, -3, 255, 1e30]))
def test_constants_are_fixed_points(picture, zeta, dtype, constant):
    values = np.full(picture.shape, constant, dtype)
    result = aproarray.global_propagate(values, picture.tree(), zeta=zeta)
    np.testing.assert_allclose(result, values, rtol=4 * np.finfo(dtype).eps)


def test_sums_beyond_float32_do_not_overflow():
    values = np.full((50, 50), 3e38, np.float32)
    result = aproarray.global_propagate(values, aproarray.mst(np.zeros((50, 50))), zeta=1.0)
    np.testing.assert_allclose(result, values, rtol=1e-6)


@given(pictures(), zetas, st.permutations(range(5)), st.data())
def test_channels_do_not_mix(picture, zeta, channels, data):
    values = data.draw(values_over((*picture.shape, 5)))
    tree = picture.tree()
    result = aproarray.global_propagate(values, tree, zeta=zeta)
    permuted = aproarray.global_propagate(values[..., channels], tree, zeta=zeta)
    np.testing.assert_array_equal(permuted, result[..., channels])
    alone = aproarray.global_propagate(values[..., 0], tree, zeta=zeta)
    np.testing.assert_array_equal(alone, result[..., 0])


@given(pictures(), zetas, st.data())
def test_propagation_is_linear(picture, zeta, data):
    a, b = (data.draw(values_over(picture.shape)) for _ in range(2))
    tree = picture.tree()

    def propagate(values):
        return aproarray.global_propagate(values, tree, zeta=zeta)

    np.testing.assert_allclose(
        propagate(2 * a - 3 * b), 2 * propagate(a) - 3 * propagate(b), rtol=1e-12, atol=1e-12
    )


@given(pictures(), zetas, st.sampled_from([np.float32, np.float64]), st.data())
def test_result_is_a_convex_combination(picture, zeta, dtype, data):
    values = data.draw(values_over(picture.shape, dtype))
    result = aproarray.global_propagate(values, picture.tree(), zeta=zeta)
    margin = 4 * np.finfo(dtype).eps
    assert result.min() >= values.min() * (1 - margin)
    assert result.max() <= values.max() * (1 + margin)


@given(pictures(), zetas)
def test_affinity_is_symmetric_and_that_of_the_tree(picture, zeta):
    n, tree = picture.n_nodes, picture.tree()
    units = np.eye(n).reshape(*picture.shape, n)
    normalised = aproarray.global_propagate(units, tree, zeta=zeta).reshape(n, n)  # K_ij / z_i
    matrix = normalised / np.diag(normalised)[:, None]
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-12)
    one = tree.affinity(0, zeta).ravel()
    np.testing.assert_allclose(matrix[0], one, rtol=1e-6, atol=1e-45)


@given(pictures(), st.data())
def test_small_zeta_averages_flat_zones_alone(picture, data):
    values = data.draw(values_over(picture.shape))
    tree = picture.tree()
    result = aproarray.global_propagate(values, tree, zeta=1e-300)
    zones = tree.cut(0)
    for zone in range(1, zones.max() + 1):
        np.testing.assert_allclose(result[zones == zone], values[zones == zone].mean(), rtol=1e-12)
    np.testing.assert_array_equal(result[zones == 0], values[zones == 0])


@pytest.mark.parametrize("zeta", [5e-324, 1e-300, 1e-30, 1e-4])
def test_small_zeta_gives_the_values_back_where_no_pixels_are_equal(zeta):
    rng = np.random.default_rng(8)
    tree = aproarray.mst(rng.permutation(42).reshape(6, 7))
    values = rng.random((6, 7, 3))
    np.testing.assert_array_equal(aproarray.global_propagate(values, tree, zeta=zeta), values)


@given(pictures(), st.sampled_from([1e160, 1e300, math.inf]), st.data())
def test_large_zeta_gives_the_components_means(picture, zeta, data):
    values = data.draw(values_over(picture.shape))
    tree = picture.tree()
    result = aproarray.global_propagate(values, tree, zeta=zeta)
    components = tree.cut(math.inf)
    for component in range(1, components.max() + 1):
        inside = components == component
        np.testing.assert_allclose(result[inside], values[inside].mean(), rtol=1e-12)
    np.testing.assert_array_equal(result[components == 0], values[components == 0])


def test_no_component_sees_another():
    image, _ = picture_with_ties(shape=(12, 9))
    mask = np.random.default_rng(9).random((12, 9)) < 0.5
    values = np.random.default_rng(10).random((12, 9, 2))
    whole = aproarray.mst(image, mask=mask)
    result = aproarray.global_propagate(values, whole, zeta=0.5)
    components = whole.cut(math.inf)
    assert components.max() > 3
    for component in range(1, components.max() + 1):
        inside = components == component
        alone = aproarray.global_propagate(values, aproarray.mst(image, mask=inside), zeta=0.5)
        np.testing.assert_allclose(result[inside], alone[inside], rtol=1e-14)


def test_propagation_inside_a_mask_is_that_of_the_crop():
    image, _ = picture_with_ties(shape=(8, 9))
    mask = np.zeros((8, 9), bool)
    mask[2:6, 1:8] = True
    values = np.random.default_rng(11).random((8, 9, 3))
    result = aproarray.global_propagate(values, aproarray.mst(image, mask=mask), zeta=0.4)
    crop = aproarray.global_propagate(values[2:6, 1:8], aproarray.mst(image[2:6, 1:8]), zeta=0.4)
    np.testing.assert_allclose(result[2:6, 1:8], crop, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("features", [False, True])
def test_masked_out_pixels_come_back_as_they_went_in(dtype, features):
    image, mask = picture_with_ties()
    tree = aproarray.mst(image, mask=mask)
    values = np.random.default_rng(12).random((6, 7, 3)).astype(dtype)
    f = np.random.default_rng(13).random((6, 7, 2)) if features else None
    expected = aproarray.global_propagate(values, tree, zeta=0.5, features=f)
    np.testing.assert_array_equal(expected[~mask], values[~mask])
    values[~mask] = np.resize([np.nan, np.inf, -np.inf, np.finfo(dtype).max], values[~mask].shape)
    if features:
        f[~mask] = np.nan
    result = aproarray.global_propagate(values, tree, zeta=0.5, features=f)
    np.testing.assert_array_equal(result[~mask], values[~mask])
    np.testing.assert_array_equal(result[mask], expected[mask])


def test_nan_spreads_over_its_component_alone_where_it_is_not_looked_for():
    mask = np.array([[True, True, False, True, True]])
    tree = aproarray.mst(np.zeros((1, 5)), mask=mask)
    values = np.array([[1.0, np.nan, 2.0, 3.0, 5.0]])
    result = aproarray.global_propagate(values, tree, zeta=1.0, check_finite=False)
    np.testing.assert_array_equal(result, [[np.nan, np.nan, 2, 4, 4]])


@pytest.mark.not_emulated("4 million pixels take minutes there")
@pytest.mark.parametrize("kind", ["constant", "photograph"])
def test_float32_keeps_its_digits_over_4_million_pixels(kind):
    side = 2048
    rng = np.random.default_rng(14)
    if kind == "constant":
        image = np.ones((side, side), np.float32)
    else:  # smooth shades, sharp borders and a little noise
        coarse = rng.random((32, 32), np.float32)
        image = np.kron(coarse, np.ones((side // 32, side // 32), np.float32))
        image += np.sin(np.arange(side, dtype=np.float32) / 90) / 4
        image += rng.normal(scale=0.02, size=image.shape).astype(np.float32)
    tree = aproarray.mst(image)
    values = rng.random((side, side), np.float32)
    single = aproarray.global_propagate(values, tree, zeta=0.05)
    double = aproarray.global_propagate(values.astype(np.float64), tree, zeta=0.05)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, rtol=1e-5)
    if kind == "constant":
        np.testing.assert_allclose(double, values.mean(dtype=np.float64), rtol=1e-10)


@pytest.mark.numpy_only("compares the CPU's two kinds of code")
@pytest.mark.skipif(not _sweep.has_avx2(), reason="this processor has no AVX2")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 11, 13, 21, 32])
def test_vector_code_gives_the_same_bits_as_code_for_any_processor(channels, dtype, monkeypatch):
    rng = np.random.default_rng(channels)
    image = rng.random((30, 40, channels)).astype(dtype)
    values = rng.standard_normal((30, 40, channels)).astype(dtype)
    results = []
    for suffix in ("", "_avx2"):
        monkeypatch.setattr(_processor, "sweeps", importlib.import_module(f"aproarray.cpu._sweep{suffix}"))
        monkeypatch.setattr(_processor, "weighing", importlib.import_module(f"aproarray.cpu._weigh{suffix}"))
        tree = aproarray.mst(image, channel_axis=-1)  # more of it: tests/test_tiles.py
        results.append((tree.order, tree.gaps, aproarray.global_propagate(values, tree, zeta=0.3)))
    for plain, vector in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, vector)


@pytest.mark.parametrize("picture", ["noise", "ramp", "islands"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_few_channels_give_the_same_bits_as_among_many(channels, picture):
    rng = np.random.default_rng(channels)
    image = np.cumsum(np.arange(2000.0)).reshape(2, 1000) if picture == "ramp" else rng.random((2, 1000))
    mask = rng.random(image.shape) < 0.7 if picture == "islands" else None
    tree = aproarray.mst(image, channel_axis=None, mask=mask)
    values = rng.standard_normal((*image.shape, 8))
    for zeta in (1e-3, 0.2, 1e4):  # most affinities 0; some; none
        many = aproarray.global_propagate(values, tree, zeta=zeta)
        few = aproarray.global_propagate(values[..., :channels], tree, zeta=zeta)
        np.testing.assert_array_equal(few, many[..., :channels])
        apart = np.ascontiguousarray(np.moveaxis(values[..., :channels], -1, 0))
        apart = aproarray.global_propagate(apart, tree, zeta=zeta, channel_axis=0)
        np.testing.assert_array_equal(np.moveaxis(apart, 0, -1), few)


@pytest.mark.numpy_only("calls the CPU's code itself")
@pytest.mark.parametrize("sweeps", [_sweep, _processor.sweeps])
def test_affinities_are_exp_to_two_units_in_the_last_place(sweeps):
    d = np.concatenate([np.linspace(0, 708, 100_001), [709, 1e4, 1e300, np.inf]])
    for zeta in (1.0, 0.25, 5e-324, 1e200):
        affinities = np.empty(len(d))
        sweeps.affinities(d, zeta, affinities, 0, len(d))
        with np.errstate(over="ignore", invalid="ignore"):
            exponent = -d / zeta / zeta
        exponent[d == 0] = 0
        shown = exponent > -708
        np.testing.assert_allclose(affinities[shown], np.exp(exponent[shown]), rtol=1e-15)
        assert (affinities[~shown] <= 4e-308).all()
        assert affinities[-1] == 0
        assert (np.diff(affinities) <= 0).all()


def test_channels_give_the_same_bits_wherever_they_lie():
    rng = np.random.default_rng(0)
    tree = aproarray.mst(rng.random((30, 40, 3)))
    values = rng.standard_normal((40, 30, 40))
    first = aproarray.global_propagate(values, tree, zeta=0.3, channel_axis=0)
    last = aproarray.global_propagate(np.ascontiguousarray(np.moveaxis(values, 0, -1)), tree, zeta=0.3)
    np.testing.assert_array_equal(np.moveaxis(last, -1, 0), first)
    np.testing.assert_array_equal(
        aproarray.global_propagate(values, tree, zeta=0.3, channel_axis=None), first
    )
