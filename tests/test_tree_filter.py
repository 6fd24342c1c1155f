"""The tree filters: the definition's result, over every kind of tree, and their properties."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, LAYOUTS, graphs, maybe_a_forest, pictures, values_over, zetas

import aproarray
import aproarray.related
from aproarray import cpu, reference

pytestmark = pytest.mark.any_backend

RTOL = {np.float32: 1e-5, np.float64: 1e-12}


def tree_with_ties(seed=0, shape=(6, 7), mask=True):
    rng = np.random.default_rng(seed)
    image = rng.integers(4, size=(*shape, 2)) / 4
    return aproarray.mst(image, mask=rng.random(shape) < 0.8 if mask else None)


def definition(values, tree, zeta, features=None):
    """Return the tree filter of spatial + (C,) values by the reference, over one tree's finite edges."""
    n, n_edges = tree.order.size, np.count_nonzero(np.isfinite(tree.weights))
    edges, weights = tree.edges[:n_edges], tree.weights[:n_edges]
    if features is not None:
        weights = reference.edge_weights(features, edges)
    return reference.tree_filter(edges, weights, values.reshape(n, -1), zeta).reshape(values.shape)


@given(pictures(), zetas, st.sampled_from([np.float32, np.float64]), st.integers(1, 3), st.data())
def test_result_is_the_definition(picture, zeta, dtype, channels, data):
    values = data.draw(values_over((*picture.shape, channels), dtype))
    expected = reference.tree_filter(*picture.reference_tree(), values.reshape(-1, channels), zeta)
    result = aproarray.related.tree_filter(values, picture.tree(), zeta=zeta)
    assert result.dtype == dtype
    np.testing.assert_allclose(result.reshape(-1, channels), expected, rtol=RTOL[dtype], atol=1e-30)


@given(graphs(), zetas, st.data())
def test_result_over_a_graph_is_the_definition(graph, zeta, data):
    edges, weights, n = graph
    values = data.draw(values_over((n, 2)))
    rows = reference.mst(edges, weights, n)
    tree = aproarray.SpanningTree.from_edges(edges, weights, n)
    result = aproarray.related.tree_filter(values, tree, zeta=zeta)
    expected = reference.tree_filter(edges[rows], weights[rows], values, zeta)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-30)


@given(pictures(), zetas, st.sampled_from([0.0, 0.3, -1.5]), st.sampled_from([0.0, 1.0, -0.5]), st.data())
def test_second_filter_is_the_definition(picture, zeta, beta, gamma, data):
    values = data.draw(values_over((*picture.shape, 2)))
    confidence = data.draw(values_over(picture.shape)) + 0.5
    mask = np.ones(picture.shape, bool) if picture.mask is None else picture.mask
    result = aproarray.related.tree_filter_v2(
        values, picture.tree(), beta=beta, gamma=gamma, confidence=confidence, zeta=zeta
    )
    expected = reference.tree_filter_v2(
        *picture.reference_tree(), values.reshape(-1, 2), confidence.ravel(), zeta, beta, gamma
    ).reshape(values.shape)
    np.testing.assert_allclose(result, np.where(mask[..., None], expected, values), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [0, 1, 2, 7, 8, 15, 16, 17, 35])
@pytest.mark.parametrize("channel_axis", [-1, 0])
def test_any_number_of_channels(dtype, channels, channel_axis):
    tree = tree_with_ties()
    values = np.random.default_rng(1).random((6, 7, channels)).astype(dtype)
    result = aproarray.related.tree_filter(
        np.moveaxis(values, -1, channel_axis).copy(), tree, zeta=0.5, channel_axis=channel_axis
    )
    assert result.dtype == dtype
    np.testing.assert_allclose(
        np.moveaxis(result, channel_axis, -1), definition(values, tree, 0.5), rtol=RTOL[dtype]
    )


@given(pictures(), zetas, st.data())
def test_features_weigh_the_trees_edges(picture, zeta, data):
    values = data.draw(values_over((*picture.shape, 2)))
    features = data.draw(values_over((*picture.shape, 3)))
    edges, _ = picture.reference_tree()
    weights = reference.edge_weights(features, edges)
    result = aproarray.related.tree_filter(values, picture.tree(), zeta=zeta, features=features)
    expected = reference.tree_filter(edges, weights, values.reshape(-1, 2), zeta)
    np.testing.assert_allclose(result.reshape(-1, 2), expected, rtol=1e-10, atol=1e-30)


def test_batch_is_a_loop():
    rng = np.random.default_rng(4)
    images, masks = rng.random((2, 3, 5, 6, 2)), rng.random((2, 3, 5, 6)) < 0.8
    trees = aproarray.mst(images, mask=masks)
    values, features = rng.random((2, 3, 4, 5, 6, 7)), rng.random((2, 3, 5, 6, 3))
    plain = aproarray.related.tree_filter(values, trees, zeta=0.4)
    weighed = aproarray.related.tree_filter(values, trees, zeta=0.4, features=features)
    second = aproarray.related.tree_filter_v2(
        values, trees, beta=0.5, gamma=0.5, confidence=values[..., 0], zeta=0.4
    )
    for b in np.ndindex(2, 3):
        for k in range(4):
            one = (*b, k)
            np.testing.assert_array_equal(
                plain[one], aproarray.related.tree_filter(values[one], trees[b], zeta=0.4)
            )
            np.testing.assert_allclose(
                weighed[one], definition(values[one], trees[b], 0.4, features[b]), rtol=1e-12
            )
            expected = aproarray.related.tree_filter_v2(
                values[one], trees[b], beta=0.5, gamma=0.5, confidence=values[one][..., 0], zeta=0.4
            )
            np.testing.assert_array_equal(second[one], expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_tree_index_names_the_tree_of_each_mask(channels):
    rng = np.random.default_rng(5)
    trees, index = aproarray.mst(rng.random((3, 4, 5, 2))), np.array([2, 0, 0, 1, 2])
    values, features = rng.random((5, 4, 5, channels)), rng.random((5, 4, 5, 2))
    plain = aproarray.related.tree_filter(values, trees, zeta=0.5, tree_index=index)
    weighed = aproarray.related.tree_filter(values, trees, zeta=0.5, tree_index=index, features=features)
    for k, b in enumerate(index.tolist()):
        np.testing.assert_allclose(plain[k], definition(values[k], trees[b], 0.5), rtol=1e-12)
        np.testing.assert_allclose(weighed[k], definition(values[k], trees[b], 0.5, features[k]), rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    tree = tree_with_ties()
    values = (np.arange(84).reshape(6, 7, 2) % 2).astype(dtype)
    computed = np.result_type(np.float32, dtype)
    expected = definition(values.astype(np.float64), tree, 0.5)
    for result in (
        aproarray.related.tree_filter(values, tree, zeta=0.5),
        aproarray.related.tree_filter_v2(values, tree, beta=0.0, gamma=1.0, zeta=0.5)
        - values.astype(computed),
    ):
        assert result.dtype in (dtype, computed)
        # The second one leaves 1e-8 out, and pixels that take no part as they are.
        np.testing.assert_allclose(result[tree.mask], expected[tree.mask], atol=5e-3)
    assert aproarray.related.tree_filter(values, tree, zeta=1.0).dtype == (
        dtype if dtype == np.float16 else computed
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_changes_nothing(layout):
    rng = np.random.default_rng(6)
    values, features = rng.random((6, 7, 3)), rng.random((6, 7, 2))
    tree = tree_with_ties()
    expected = aproarray.related.tree_filter(values, tree, features=features, zeta=1.0)
    values, features = LAYOUTS[layout](values), LAYOUTS[layout](features)
    np.testing.assert_array_equal(
        aproarray.related.tree_filter(values, tree, features=features, zeta=1.0), expected
    )


@pytest.mark.numpy_only("devices share no work out by workers")
@pytest.mark.parametrize("channels", [1, 3, 40])
def test_workers_change_no_bit(channels):
    rng = np.random.default_rng(7)
    trees = aproarray.mst(rng.integers(8, size=(3, 24, 20, 1)))
    values, features = rng.random((3, 2, 24, 20, channels), np.float32), rng.random((3, 24, 20, 2))
    for options in ({}, {"features": features}):
        results = [
            aproarray.related.tree_filter(values, trees, zeta=2.0, workers=workers, **options)
            for workers in (1, 2, 7)
        ]
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])


def test_out_may_be_the_values():
    tree, values = tree_with_ties(), np.random.default_rng(8).random((6, 7, 3))
    expected = aproarray.related.tree_filter(values, tree, zeta=0.4)
    again = values.copy()
    assert aproarray.related.tree_filter(again, tree, zeta=0.4, out=again) is again
    np.testing.assert_array_equal(again, expected)
    out = np.empty_like(values)
    aproarray.related.tree_filter_v2(values, tree, beta=0.1, gamma=0.5, out=out, zeta=1.0)
    np.testing.assert_array_equal(
        out, aproarray.related.tree_filter_v2(values, tree, beta=0.1, gamma=0.5, zeta=1.0)
    )


def test_constants_are_fixed_points_and_masked_out_pixels_come_back():
    tree = tree_with_ties()
    values = np.random.default_rng(9).random((6, 7, 2))
    for result in (
        aproarray.related.tree_filter(values, tree, zeta=0.3),
        aproarray.related.tree_filter_v2(values, tree, beta=0.2, gamma=2.0, zeta=1.0),
    ):
        np.testing.assert_array_equal(result[~tree.mask], values[~tree.mask])
    flat = aproarray.related.tree_filter(np.full((6, 7, 2), 0.3), tree, zeta=0.3)
    np.testing.assert_allclose(flat, 0.3, rtol=1e-14)


def test_on_the_path_distances_add_up_where_gp_takes_the_largest():
    tree = aproarray.mst(np.arange(50.0), spatial_ndim=1)
    one = np.eye(50)[0]
    filtered = aproarray.related.tree_filter(one, tree, zeta=3.0)
    i = np.arange(50)
    sums = np.exp(-np.abs(i[:, None] - i) / 9).sum(1)
    np.testing.assert_allclose(filtered, np.exp(-i / 9) / sums, rtol=1e-12)
    propagated = aproarray.global_propagate(one, tree, zeta=3.0)
    assert np.ptp(propagated[1:]) < 1e-15


def test_deep_trees():
    n = 100_000
    tree = aproarray.mst(np.zeros(n), spatial_ndim=1)
    values = np.random.default_rng(10).random(n)
    np.testing.assert_allclose(
        aproarray.related.tree_filter(values, tree, zeta=1.0), values.mean(), rtol=1e-10
    )


def test_order_is_found_once_and_not_pickled():
    tree = tree_with_ties()
    before = pickle.dumps(tree)
    aproarray.related.tree_filter(np.ones((6, 7)), tree, zeta=1.0)
    rooted = tree._rooted
    assert rooted is not None
    aproarray.related.tree_filter(np.ones((6, 7)), tree, zeta=2.0)
    assert tree._rooted is rooted
    assert pickle.dumps(tree) == before
    assert pickle.loads(before) == tree


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (2, 0, 4)])
def test_nothing_to_filter(shape):
    tree = aproarray.mst(np.zeros(shape), spatial_ndim=len(shape))
    values = np.ones((*shape, 2))
    np.testing.assert_array_equal(aproarray.related.tree_filter(values, tree, zeta=1.0), values)
    none = aproarray.mst(np.zeros((0, 4, 5, 1)))
    assert aproarray.related.tree_filter(np.ones((0, 4, 5, 2)), none, zeta=1.0).shape == (0, 4, 5, 2)


VALUES = np.ones((6, 7, 2))


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ValueError, r"values of shape \(5, 7, 2\) does not fit a tree", {"values": np.ones((5, 7, 2))}),
        (ValueError, "zeta must be above 0, got 0.0", {"zeta": 0}),
        (TypeError, "zeta must be a real number", {"zeta": "1"}),
        (TypeError, "tree must be a SpanningTree", {"tree": VALUES}),
        (ValueError, "values must be finite", {"values": VALUES * math.nan}),
        (ValueError, "features must be finite", {"features": VALUES * math.inf}),
        (ValueError, "squared differences of features overflow float32", {"features": "huge"}),
        (ValueError, "tree_index needs a batch", {"tree_index": [0]}),
        (ValueError, "workers must be at least 1", {"workers": 0}),
        (TypeError, "out must have the result's dtype float64", {"out": np.ones((6, 7, 2), np.float32)}),
    ],
)
def test_errors(error, match, options):
    given = {"values": VALUES, "tree": tree_with_ties(mask=False), "zeta": 1.0, **options}
    if isinstance(given.get("features"), str):
        given["features"] = np.random.default_rng(0).random((6, 7, 1), np.float32) * np.float32(1e30)
    with pytest.raises(error, match=match):
        aproarray.related.tree_filter(given.pop("values"), given.pop("tree"), **given)


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (
            ValueError,
            r"confidence must have values' shape .* \(6, 7\), got \(6, 6\)",
            {"confidence": np.ones((6, 6))},
        ),
        (ValueError, "confidence must be at least 0, got -1.0", {"confidence": -np.ones((6, 7))}),
        (ValueError, "confidence must be finite", {"confidence": np.full((6, 7), math.nan)}),
        (ValueError, "confidence must be at least 0, got -2", {"confidence": -2 + VALUES[..., 0] * 0}),
        (ValueError, "beta must be finite, got nan", {"beta": math.nan}),
        (TypeError, "gamma must be a real number, got None", {"gamma": None}),
    ],
)
def test_errors_of_the_second_filter(error, match, options):
    with pytest.raises(error, match=match):
        aproarray.related.tree_filter_v2(
            VALUES, tree_with_ties(), **({"beta": 0.0, "gamma": 1.0, "zeta": 1.0} | options)
        )


def test_confidence_outside_the_mask_does_not_matter():
    tree, confidence = tree_with_ties(mask=True), np.ones((6, 7))
    options = {"beta": 0.5, "gamma": 1.0, "zeta": 1.0}
    expected = aproarray.related.tree_filter_v2(VALUES, tree, confidence=confidence, **options)
    for other in (math.nan, -1.0):
        given = np.where(tree.mask, confidence, other)
        result = aproarray.related.tree_filter_v2(VALUES, tree, confidence=given, **options)
        np.testing.assert_array_equal(result[tree.mask], expected[tree.mask])


def test_a_large_beta_leaves_values_alone():
    result = aproarray.related.tree_filter_v2(VALUES, tree_with_ties(), beta=1e200, gamma=1.0, zeta=1.0)
    np.testing.assert_allclose(result, VALUES)


def is_forest(order, gap_edges):
    """Return whether edges form trees, one of which begins in order where an edge is missing."""
    n, near = len(order), {}
    for u, v in gap_edges.tolist():
        if (u < 0) != (v < 0) or max(u, v) >= n:
            return False
        if u >= 0:
            near.setdefault(u, []).append(v)
            near.setdefault(v, []).append(u)
    roots = [int(order[0]), *order[1:][gap_edges[:, 0] < 0].tolist()]
    if min(roots) < 0 or max(roots) >= n:
        return False
    seen = set()
    for root in roots:  # n - roots edges that reach all n nodes close no circle
        if root in seen:
            return False
        reached = {root}
        while reached:
            seen |= reached
            reached = {other for node in reached for other in near.get(node, ())} - seen
    return len(seen) == n


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_what_is_laid_out_breadth_first_is_a_forest(dtype):
    rng, refused = np.random.default_rng(0), 0
    for trial in range(2000):
        order, edges = maybe_a_forest(rng, dtype, trial % 3)
        arguments = order[None], edges[None], 1
        if is_forest(order, edges):
            nodes, parents, gaps, n_roots = (array[0] for array in cpu.rooted_trees(*arguments))
            n = len(order)
            assert sorted(nodes) == list(range(n))
            assert n_roots == 1 + (edges[:, 0] < 0).sum()
            for place in range(n):
                if place < n_roots:
                    assert (parents[place], gaps[place]) == (place, -1)
                else:
                    assert parents[place] < place
                    assert {nodes[place], nodes[parents[place]]} == set(edges[gaps[place]].tolist())
        else:
            refused += 1
            with pytest.raises(ValueError, match=r"must be the edges of a tree|must have numbers of pixels"):
                cpu.rooted_trees(*arguments)
    assert 300 < refused < 1500
