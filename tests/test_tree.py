"""SpanningTree: trees of graphs, distances, cuts, dendrograms, other weights, batches, copies."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from skimage.measure import label
from strategies import DTYPES, LAYOUTS, assert_is_tree, graphs, pictures, zetas

import aproarray
from aproarray import SpanningTree, cpu, reference

pytestmark = pytest.mark.any_backend


def batch_of_trees(mask="each"):
    rng = np.random.default_rng(0)
    masks = {"none": None, "shared": rng.random((4, 5)) < 0.8, "each": rng.random((2, 3, 4, 5)) < 0.8}
    return aproarray.mst(rng.integers(4, size=(2, 3, 4, 5, 1)), mask=masks[mask])


@given(graphs())
def test_tree_of_a_graph_is_the_references(graph):
    edges, weights, n = graph
    rows = reference.mst(edges, weights, n)
    tree = SpanningTree.from_edges(edges, weights, n)
    assert tree.shape == (n,)
    assert_is_tree(tree, np.sort(edges[rows], axis=1), weights[rows], n)


@given(graphs(), st.data())
def test_order_and_direction_of_edges_do_not_matter(graph, data):
    edges, weights, n = graph
    rows = np.array(data.draw(st.permutations(range(len(edges)))), int)
    flip = np.array(data.draw(st.lists(st.booleans(), min_size=len(edges), max_size=len(edges))), bool)
    shuffled = np.where(flip[:, None], edges[rows, ::-1], edges[rows])
    assert SpanningTree.from_edges(shuffled, weights[rows], n) == SpanningTree.from_edges(edges, weights, n)


@given(pictures())
def test_tree_of_a_pixel_graph_is_that_of_the_image(picture):
    tree = picture.tree()
    flat = SpanningTree.from_edges(*picture.graph(), picture.n_nodes)
    for name in ("edges", "weights", "order", "gaps"):
        np.testing.assert_array_equal(getattr(flat, name), getattr(tree, name))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_edges_and_weights_of_any_dtype_and_layout(dtype, layout):
    edges, weights = np.array([[0, 1], [1, 2], [2, 0], [3, 3]]), np.array([5, 3, 4, 1])
    expected = SpanningTree.from_edges(edges, weights, 4)
    ends = LAYOUTS[layout](edges if dtype.kind == "f" else edges.astype(dtype))
    tree = SpanningTree.from_edges(ends, LAYOUTS[layout](weights.astype(dtype)), 4)
    np.testing.assert_array_equal(tree.edges, expected.edges)
    np.testing.assert_array_equal(tree.weights, expected.weights)


@pytest.mark.parametrize("edges", [[], np.zeros((0, 2), int)])
def test_graph_without_edges_is_a_forest_of_nodes(edges):
    tree = SpanningTree.from_edges(edges, [], 3)
    assert tree.n_components == 3
    assert tree.cut(0).tolist() == [1, 2, 3]
    assert SpanningTree.from_edges(edges, [], 0).n_components == 0


@given(graphs())
def test_linkage_is_scipys_single_linkage(graph):
    edges, weights, n = graph
    path = np.stack([np.arange(n - 1), np.arange(1, n)], 1)  # makes it connected
    edges, weights = np.concatenate([edges, path]), np.concatenate([weights, np.full(n - 1, 9.0)])
    if n == 1:
        return
    distances = np.full((n, n), 10.0)  # of edges that the graph does not have: never taken
    for (u, v), weight in zip(edges, weights, strict=True):
        distances[u, v] = distances[v, u] = min(distances[u, v], weight)
    np.fill_diagonal(distances, 0)
    linkage = SpanningTree.from_edges(edges, weights, n).to_linkage()
    assert hierarchy.is_valid_linkage(linkage)
    expected = hierarchy.single(squareform(distances))
    np.testing.assert_array_equal(hierarchy.cophenet(linkage), hierarchy.cophenet(expected))
    np.testing.assert_array_equal(linkage[:, 2], expected[:, 2])


@given(pictures())
def test_linkage_heights_are_minimax_distances(picture):
    tree, d = picture.tree(), picture.distances()
    if np.isinf(d).any() or picture.n_nodes < 2:
        with pytest.raises(ValueError, match="needs one tree over at least two pixels, got SpanningTree"):
            tree.to_linkage()
        return
    linkage = tree.to_linkage()
    assert hierarchy.is_valid_linkage(linkage)
    assert (linkage[:, 0] < linkage[:, 1]).all()
    np.testing.assert_array_equal(squareform(hierarchy.cophenet(linkage)), d)


@given(pictures())
def test_minimax_is_the_references(picture):
    n, tree, d = picture.n_nodes, picture.tree(), picture.distances()
    every = np.arange(n)
    result = tree.minimax(every[:, None], every)
    np.testing.assert_array_equal(result, d)
    assert result.dtype == tree.weights.dtype
    # Coordinates say the same as flat indices, and numbers come back for numbers.
    coordinates = tuple(axis.tolist() for axis in np.unravel_index(every, picture.shape))
    np.testing.assert_array_equal(tree.minimax(coordinates, 0), d[:, 0])
    assert tree.minimax(n - 1, tuple(axis[0] for axis in coordinates)) == d[-1, 0]
    assert np.ndim(tree.minimax(0, n - 1)) == 0


def test_minimax_of_no_pairs_is_empty():
    tree = aproarray.mst(np.zeros((2, 3)))
    assert tree.minimax([], []).shape == (0,)
    assert tree.minimax(np.zeros((0, 4), int), 2).shape == (0, 4)


@given(pictures(), zetas, st.data())
def test_affinity_falls_exponentially_with_minimax_distance(picture, zeta, data):
    tree, d = picture.tree(), picture.distances()
    node = data.draw(st.integers(0, picture.n_nodes - 1))
    affinity = tree.affinity(node, zeta)
    assert affinity.dtype == tree.weights.dtype
    assert affinity.shape == picture.shape
    expected = np.exp(-d[node].reshape(picture.shape) / zeta**2)
    np.testing.assert_allclose(affinity, expected, rtol=1e-6, atol=1.2e-38)
    place = tuple(int(axis) for axis in np.unravel_index(node, picture.shape))
    np.testing.assert_array_equal(tree.affinity(place, zeta), affinity)


@given(pictures(), zetas)
def test_affinity_is_symmetric_and_from_0_to_1(picture, zeta):
    tree = picture.tree()
    matrix = np.array([tree.affinity(i, zeta).ravel() for i in range(picture.n_nodes)])
    np.testing.assert_array_equal(matrix, matrix.T)
    assert matrix.min() >= 0
    assert matrix.max() <= 1
    assert (np.diag(matrix) == 1).all()


@given(pictures(), st.sampled_from([0, 0.01, 0.25, 1, 1.5, 10, 1e9, 1e300, math.inf]))
def test_cut_labels_the_components_of_the_light_edges(picture, threshold):
    tree = picture.tree()
    edges, weights = picture.graph()
    light = weights <= threshold if threshold < 1e39 else np.ones(len(weights), bool)
    zone = np.arange(picture.n_nodes)
    for _ in range(picture.n_nodes):  # the smallest pixel of a component spreads over it
        for u, v in edges[light]:
            zone[u] = zone[v] = min(zone[u], zone[v])
    mask = np.ones(picture.n_nodes, bool) if picture.mask is None else picture.mask.ravel()
    firsts = sorted(set(zone[mask].tolist()))
    expected = [firsts.index(z) + 1 if part else 0 for z, part in zip(zone, mask, strict=True)]
    labels = tree.cut(threshold)
    assert labels.shape == picture.shape
    np.testing.assert_array_equal(labels.ravel(), expected)


@given(pictures(), st.sampled_from([0, 0.01, 0.25, 1, 10, math.inf]))
def test_cut_joins_exactly_what_minimax_says(picture, threshold):
    tree = picture.tree()
    every = np.arange(picture.n_nodes)[
        np.ones(picture.n_nodes, bool) if picture.mask is None else picture.mask.ravel()
    ]
    labels, d = tree.cut(threshold).ravel()[every], tree.minimax(every[:, None], every)
    np.testing.assert_array_equal(labels[:, None] == labels, (d <= threshold) & np.isfinite(d))


@given(pictures(), st.sampled_from([0, 0.01, 0.25, 1, math.inf]), st.integers(1, 12))
def test_cut_joins_small_zones_at_the_lowest_gap(picture, threshold, min_size):
    tree = picture.tree()
    zones = [{i} for i in range(picture.n_nodes)]
    for (u, v), weight in zip(tree.edges.tolist(), tree.weights, strict=True):
        if u >= 0 and (weight <= threshold or min(len(zones[u]), len(zones[v])) < min_size):
            joined = zones[u] | zones[v]
            for pixel in joined:
                zones[pixel] = joined
    mask = np.ones(picture.n_nodes, bool) if picture.mask is None else picture.mask.ravel()
    firsts = sorted({min(zone) for zone, part in zip(zones, mask, strict=True) if part})
    expected = [firsts.index(min(zone)) + 1 if part else 0 for zone, part in zip(zones, mask, strict=True)]
    labels = tree.cut(threshold, min_size=min_size)
    assert labels.dtype == tree.cut(threshold).dtype
    np.testing.assert_array_equal(labels.ravel(), expected)
    whole = tree.cut(math.inf)
    for zone in range(1, labels.max(initial=0) + 1):
        pixels = labels == zone
        assert pixels.sum() >= min_size or (pixels == (whole == whole[pixels][0])).all()


@pytest.mark.parametrize("mask", ["none", "shared", "each"])
def test_cut_of_a_batch_joins_small_zones_tree_by_tree(mask):
    trees = batch_of_trees(mask)
    labels = trees.cut(0, min_size=4)
    for b in np.ndindex(2, 3):
        np.testing.assert_array_equal(labels[b], trees[b].cut(0, min_size=4))
    np.testing.assert_array_equal(trees.cut(1, min_size=10**30), trees.cut(math.inf))
    assert aproarray.mst(np.zeros((0, 3))).cut(0, min_size=5).shape == (0, 3)


@pytest.mark.parametrize(
    ("min_size", "error"), [(0, ValueError), (2.0, TypeError), (None, TypeError), (True, TypeError)]
)
def test_min_size_of_cut_is_a_positive_integer(min_size, error):
    with pytest.raises(error, match="min_size must be"):
        aproarray.mst(np.zeros((2, 3))).cut(0, min_size=min_size)


def test_zones_are_numbered_by_their_first_pixel_as_by_scikit_image():
    image = np.random.default_rng(1).integers(3, size=(2, 20, 15))
    trees = aproarray.mst(image, channel_axis=None)
    for b in range(2):
        np.testing.assert_array_equal(trees.cut(0)[b], label(image[b], connectivity=1, background=-1))


@pytest.mark.parametrize("mask", ["none", "shared", "each"])
def test_cut_and_n_components_of_a_batch_are_loops(mask):
    trees = batch_of_trees(mask)
    labels, counts = trees.cut(1), trees.n_components
    assert labels.shape == (2, 3, 4, 5)
    assert counts.shape == (2, 3)
    for b in np.ndindex(2, 3):
        np.testing.assert_array_equal(labels[b], trees[b].cut(1))
        assert counts[b] == trees[b].n_components == trees[b].cut(math.inf).max()


@given(pictures(), st.data())
def test_reweighed_tree_is_the_references_over_the_trees_edges(picture, data):
    dtype = data.draw(st.sampled_from([np.uint8, np.float16, np.float32, np.float64]))
    features = data.draw(
        st.lists(st.sampled_from([0, 1, 2, 4]), min_size=picture.n_nodes, max_size=picture.n_nodes)
    )
    features = np.array(features, dtype).reshape(*picture.shape, 1) * np.array([1, 2], dtype)
    edges, _ = picture.reference_tree()
    weights = reference.edge_weights(features, edges)
    rows = reference.mst(edges, weights, picture.n_nodes)  # all of them, in the new order
    tree = picture.tree().reweight(features)
    assert_is_tree(tree, edges[rows], weights[rows], picture.n_nodes)
    assert tree.shape == picture.shape
    assert picture.mask is None or (tree.mask == picture.mask).all()


@given(pictures())
def test_weighing_by_the_image_changes_nothing(picture):
    tree = picture.tree()
    assert tree.reweight(picture.image) == tree


@pytest.mark.parametrize("mask", ["none", "shared", "each"])
@pytest.mark.parametrize("more", [(), (2,), (0,)])
def test_features_with_more_leading_axes_give_a_batch(mask, more):
    trees = batch_of_trees(mask)
    features = np.random.default_rng(2).integers(5, size=(2, 3, *more, 4, 5, 2))
    result = trees.reweight(features)
    assert result.batch_shape == (2, 3, *more)
    for b in np.ndindex(result.batch_shape):
        assert result[b] == trees[b[:2]].reweight(features[b])


def test_reweighing_ignores_what_is_masked_out():
    mask = np.array([[True, True, False], [True, True, True]])
    tree = aproarray.mst(np.zeros((2, 3)), mask=mask)
    features = np.arange(6.0).reshape(2, 3)
    with_nan = np.where(mask, features, np.nan)
    assert tree.reweight(with_nan) == tree.reweight(features)


@pytest.mark.parametrize("mask", ["none", "shared", "each"])
def test_batches_are_indexed_like_arrays(mask):
    trees = batch_of_trees(mask)
    assert len(trees) == 2
    assert [len(row) for row in trees] == [3, 3]
    for i, row in enumerate(trees):
        for j, tree in enumerate(row):
            assert tree.batch_shape == ()
            assert tree == trees[i, j] == trees[i][j] == trees[i - 2, j - 3] == trees[:, j][i]
    assert trees[1, ::-1].batch_shape == (3,)
    assert trees[1, ::-1][0] == trees[1, 2]
    assert trees[[1, 0, 1], 2][2] == trees[1, 2]
    with pytest.raises(IndexError):
        trees[2]


def test_a_single_tree_is_not_a_batch():
    tree = aproarray.mst(np.zeros((2, 3)))
    for act in (len, iter, lambda tree: tree[0]):
        with pytest.raises(TypeError, match="it is not a batch"):
            act(tree)


@pytest.mark.parametrize("act", ["minimax", "affinity", "to_linkage"])
def test_what_takes_one_tree_says_so(act):
    arguments = {"minimax": (0, 1), "affinity": (0, 1.0), "to_linkage": ()}[act]
    with pytest.raises(ValueError, match=rf"{act} takes one tree, not a batch of shape \(2, 3\)"):
        getattr(batch_of_trees(), act)(*arguments)


def test_equality_looks_at_shape_edges_weights_and_mask():
    image = np.arange(6).reshape(2, 3)
    tree = aproarray.mst(image)
    assert tree == aproarray.mst(image + 1)
    others = [
        aproarray.mst(image * 2),
        aproarray.mst(image.astype(np.uint8)),
        aproarray.mst(image.reshape(1, 6)),
        aproarray.mst(image, connectivity=2, mask=image > 0),
        aproarray.mst(image, mask=np.ones((2, 3), bool)),
        aproarray.mst(image[None], channel_axis=None),
        aproarray.mst(image[:, ::-1] ** 2),
        "a tree",
        None,
    ]
    for other in others:
        assert tree != other
    with pytest.raises(TypeError, match="unhashable"):
        hash(tree)


@pytest.mark.numpy_only("memory of a device cannot be made read-only")
@pytest.mark.parametrize("mask", ["none", "shared", "each"])
@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        *(lambda tree, p=p: pickle.loads(pickle.dumps(tree, p)) for p in range(2, 6)),
    ],
)
def test_copies_are_equal_and_read_only(mask, duplicate):
    tree = batch_of_trees(mask)
    twin = duplicate(tree)
    assert twin == tree
    assert twin.batch_shape == tree.batch_shape
    np.testing.assert_array_equal(twin.order, tree.order)
    np.testing.assert_array_equal(twin.gaps, tree.gaps)
    for name in ("order", "gaps", "gap_edges", "mask"):
        array = getattr(twin, name)
        assert array is None or not array.flags.writeable


@pytest.mark.numpy_only("looks at the addresses of NumPy arrays")
def test_deepcopy_shares_no_memory():
    tree = batch_of_trees()
    twin = copy.deepcopy(tree)
    for name in ("order", "gaps", "gap_edges", "mask"):
        assert not np.shares_memory(getattr(tree, name), getattr(twin, name))


def forged(tree, name, change):
    """Return the fields of a tree, one of them changed in place or replaced."""
    fields = {key: getattr(tree, key) for key in ("shape", "order", "gaps", "gap_edges", "mask")}
    array = fields[name] if fields[name] is None or name == "shape" else fields[name].copy()
    result = change(array)
    return fields | {name: array if result is None else result}


def put(place, value):
    return lambda array: array.__setitem__(place, value)


# Of a batch of two trees over 3 x 4 pixels. The last pixels on the line are those that the mask leaves out.
FORGERIES = {
    "a pixel twice": ("order", put((1, 3), 0), ValueError, "order must hold every index from 0 to 11 once"),
    "all zero": ("order", put(..., 0), ValueError, "order must hold"),
    "a pixel after the last": ("order", put((0, 11), 12), ValueError, "order must hold"),
    "a huge pixel": ("order", put((0, 11), 2**31 - 1), ValueError, "order must hold"),
    "a negative pixel": ("order", put((0, 0), -1), ValueError, "order must hold"),
    "order too short": ("order", lambda a: a[:, :-1], ValueError, r"order must be \(..., 12\)"),
    "order of floats": ("order", lambda a: a.astype(float), TypeError, "order must be of dtype int32 or"),
    "unsigned order": ("order", lambda a: a.astype(np.uint32), TypeError, "order must be of dtype int32 or"),
    "ragged order": ("order", lambda _: [[1, 2], [3]], ValueError, "order cannot be made an array"),
    "order without an axis": ("order", lambda _: np.int32(3), ValueError, "order must be"),
    "no order": ("order", lambda _: {}, TypeError, "order must be an array"),
    "another batch": ("order", lambda a: a[:1], ValueError, r"gaps must have shape \(1, 11\)"),
    "an end after the last": ("gap_edges", put((1, 4, 1), 12), ValueError, "0 <= u < v < 12"),
    "a huge end": ("gap_edges", put((0, 0, 1), 2**31 - 1), ValueError, "0 <= u < v < 12"),
    "a negative end": ("gap_edges", put((0, 2, 0), -2), ValueError, "0 <= u < v < 12"),
    "one end": ("gap_edges", put((0, 2, 0), -1), ValueError, "0 <= u < v < 12"),
    "one end at inf": ("gap_edges", put((0, 10, 1), 3), ValueError, "where a gap is inf, got .-1, 3. beside"),
    "a loop": ("gap_edges", put((0, 2), 5), ValueError, r"0 <= u < v < 12 .* got \(5, 5\)"),
    "no edge": ("gap_edges", put((0, 2), -1), ValueError, "0 <= u < v < 12"),
    "an edge at inf": ("gap_edges", put((0, 10), (0, 1)), ValueError, "must be .-1, -1. where a gap is inf"),
    "edges the other way": ("gap_edges", lambda a: a[..., ::-1], ValueError, "0 <= u < v < 12"),
    "few edges": ("gap_edges", lambda a: a[:, :-1], ValueError, r"gap_edges must have shape \(2, 11, 2\)"),
    "flat edges": ("gap_edges", lambda a: a[..., 0], ValueError, "gap_edges must have shape"),
    "other indices": ("gap_edges", lambda a: a.astype(np.int64), TypeError, "must have order's dtype int32"),
    "an edge of a pixel that is left out": (
        "gap_edges", put((0, 3), (0, 11)), ValueError, "must not join pixels that mask leaves out"
    ),
    "NaN": ("gaps", put((1, 2), np.nan), ValueError, "gaps must be at least 0, got .* beside a gap of nan"),
    "NaN without an edge": ("gaps", put((1, 10), np.nan), ValueError, "gaps must be at least 0"),
    "a negative gap": ("gaps", put((1, 2), -1), ValueError, "gaps must be at least 0"),
    "a negative gap without an edge": ("gaps", put((1, 10), -np.inf), ValueError, "gaps must be at least 0"),
    "an infinite gap": ("gaps", put((1, 2), np.inf), ValueError, "where a gap is inf"),
    "a gap without an edge": ("gaps", put((1, 10), 2), ValueError, "0 <= u < v < 12"),
    "half gaps": ("gaps", lambda a: a.astype(np.float16), TypeError, "gaps must be of dtype float32 or"),
    "few gaps": ("gaps", lambda a: a[:, 1:], ValueError, r"gaps must have shape \(2, 11\)"),
    "no gaps": ("gaps", lambda _: 0, TypeError, "gaps must be of dtype"),
    "a mask of numbers": ("mask", lambda a: a.astype(int), TypeError, "mask must be of dtype bool"),
    "a mask of another shape": ("mask", lambda a: a.T, ValueError, r"mask of shape \(4, 3\) does not fit"),
    "another mask": ("mask", lambda a: ~a, ValueError, "must not join pixels that mask leaves out"),
    "another shape": ("shape", lambda _: (3, 5), ValueError, r"order must be \(..., 15\)"),
    "negative extents": ("shape", lambda _: (-3, -4), ValueError, "shape must be at least 0"),
    "extents of floats": ("shape", lambda _: (3, 4.0), TypeError, "shape must be an integer"),
    "no axes": ("shape", lambda _: (), TypeError, "shape must be a tuple"),
    "a number for a shape": ("shape", lambda _: 12, TypeError, "shape must be a tuple"),
}  # fmt: skip


class Forged:
    """Pickles as a tree does, with other fields."""

    def __init__(self, tree, fields):
        self.reduced = tree.__reduce__()[0], tuple(fields.values())

    def __reduce__(self):
        return self.reduced


@pytest.mark.numpy_only("the dtypes of indices are those of the CPU")
@pytest.mark.parametrize("name", FORGERIES)
def test_no_tree_of_arrays_that_kernels_cannot_trust(name):
    mask = np.ones((3, 4), bool)
    mask[2, 2:] = False
    tree = aproarray.mst(np.random.default_rng(0).random((2, 3, 4, 1), np.float32), mask=mask)
    assert tree.order[:, -2:].tolist() == [[10, 11]] * 2
    field, change, error, message = FORGERIES[name]
    fields = forged(tree, field, change)
    with pytest.raises(error, match=message):
        SpanningTree(**fields)
    with pytest.raises(error, match=message):
        pickle.loads(pickle.dumps(Forged(tree, fields)))


@pytest.mark.numpy_only("the constructor takes arrays of the tree's library")
@pytest.mark.parametrize("mask", ["none", "shared", "each"])
def test_constructor_copies_what_it_checks(mask):
    tree = batch_of_trees(mask)
    fields = forged(tree, "gaps", lambda array: None)
    fields["order"], fields["gap_edges"] = tree.order.copy(), tree.gap_edges.copy()
    twin = SpanningTree(**fields)
    assert twin == tree
    fields["order"][...] = 99
    fields["gap_edges"][...] = 99
    assert twin == tree


@pytest.mark.numpy_only("a device has one byte order")
@pytest.mark.parametrize("make", [lambda a: a.astype(a.dtype.newbyteorder()), np.asfortranarray])
def test_trees_pickled_elsewhere_are_read(make):
    tree = batch_of_trees()
    fields = [make(array) for array in (tree.order, tree.gaps, tree.gap_edges)]
    twin = pickle.loads(pickle.dumps(Forged(tree, dict(enumerate((tree.shape, *fields, tree.mask))))))
    assert twin == tree
    np.testing.assert_array_equal(twin.cut(1), tree.cut(1))


@pytest.mark.numpy_only("a device is not asked for the results of such trees")
@given(st.data())
def test_edges_that_form_no_tree_do_no_harm(data):
    """Only their indices and weights are checked: the rest takes time. Results are then anything."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n = data.draw(st.integers(2, 40))
    index, real = data.draw(st.sampled_from([np.int32, np.int64])), data.draw(st.sampled_from(DTYPES[-2:]))
    later = rng.integers(1, n, n - 1)
    edges = np.stack([rng.integers(0, later), later], 1).astype(index)
    if data.draw(st.booleans()):
        edges[:] = edges[0]
    gaps = rng.random(n - 1).astype(real)
    missing = rng.random(n - 1) < data.draw(st.sampled_from([0, 0.3]))
    gaps[missing], edges[missing] = np.inf, -1
    tree = SpanningTree((n,), rng.permutation(n).astype(index), gaps, edges)
    features = rng.random((n, 2))
    again = tree.reweight(features)
    for found in (tree, again):
        SpanningTree(found.shape, found.order, found.gaps, found.gap_edges)
        assert found.edges.shape == (n - 1, 2)
        assert found.cut(0.5).shape == (n,)
        assert np.isfinite(aproarray.global_propagate(features, found, zeta=0.5)).all()
    if not missing.any():
        assert tree.to_linkage().shape == (n - 1, 4)


@pytest.mark.numpy_only("buffers of a pickle are of NumPy's arrays")
def test_buffers_of_a_pickle_stay_the_callers():
    """Who lends their memory to pickle.loads may write into it afterwards."""
    tree, buffers = batch_of_trees(), []
    pickled = pickle.dumps(tree, 5, buffer_callback=buffers.append)
    lent = [bytearray(buffer.raw()) for buffer in buffers]
    assert len(lent) == 4
    twin = pickle.loads(pickled, buffers=lent)
    for memory in lent:
        memory[:] = b"\x7f" * len(memory)
    assert twin == tree


@pytest.mark.numpy_only("it replaces a function of the CPU backend")
def test_edges_are_copied_before_they_are_checked(monkeypatch):
    """Another thread may write into the caller's arrays between the check and the use."""
    edges, weights = np.array([[0, 1], [1, 2]]), np.array([1.0, 2.0])
    expected = SpanningTree.from_edges(edges, weights, 3)
    build = cpu.edge_list_tree

    def write_and_build(*args):
        edges[...], weights[...] = 2**40, np.nan
        return build(*args)

    monkeypatch.setattr(cpu, "edge_list_tree", write_and_build)
    assert SpanningTree.from_edges(edges, weights, 3) == expected


@pytest.mark.numpy_only("memory of a device cannot be made read-only")
@pytest.mark.parametrize(
    "make", [batch_of_trees, lambda: batch_of_trees()[0, 1], lambda: batch_of_trees()[[1]]]
)
def test_trees_are_read_only(make):
    tree = make()
    for name in ("order", "gaps", "gap_edges", "mask"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(tree, name)[...] = 0
        with pytest.raises(AttributeError):
            setattr(tree, name, None)


def test_callers_mask_stays_writeable():
    mask = np.ones((2, 3), bool)
    tree = aproarray.mst(np.zeros((2, 3)), mask=mask)
    mask[0, 0] = False
    assert tree.mask[0, 0]


def test_repr_says_what_the_tree_is():
    image = np.array([[0, 1, 3]], np.float32)
    assert repr(aproarray.mst(image)) == ("SpanningTree(shape=(1, 3), n_components=1, weights=1..4 float32)")
    assert repr(aproarray.mst(image, mask=image != 1)) == (
        "SpanningTree(shape=(1, 3), n_components=2, weights=none float32)"
    )
    assert repr(aproarray.mst(np.stack([image, 2 * image]), channel_axis=None)) == (
        "SpanningTree(shape=(1, 3), batch_shape=(2,), n_components=[1, 1], weights=1..16 float32)"
    )


def test_minimax_of_a_long_line_is_its_largest_step():
    rng = np.random.default_rng(3)
    steps = rng.random(10_000)
    tree = aproarray.mst(np.concatenate([[0], np.cumsum(steps)]), spatial_ndim=1)
    i, j = np.sort(rng.integers(10_001, size=(2, 200)), axis=0)
    expected = [steps[a:b].max(initial=0) ** 2 for a, b in zip(i, j, strict=True)]
    np.testing.assert_allclose(tree.minimax(i, j), expected, rtol=1e-9)


@given(pictures())
def test_minimax_is_an_ultrametric(picture):
    tree = picture.tree()
    every = np.arange(picture.n_nodes)
    d = tree.minimax(every[:, None], every)
    np.testing.assert_array_equal(d, d.T)
    for i, j in itertools.combinations(range(picture.n_nodes), 2):
        assert (d[i, j] <= np.maximum(d[i], d[j])).all()


def test_places_that_do_not_fit_each_other_say_so():
    tree = aproarray.mst(np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"i and j must be broadcast together, got shapes \(2,\) and \(3,\)"):
        tree.minimax([0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match=r"coordinates of i must be broadcast .*, got \(2,\), \(3,\)"):
        tree.minimax(([0, 1], [0, 1, 2]), 0)
