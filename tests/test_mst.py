"""mst() of images: the reference's tree, bit for bit, and what must not change it."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse import csgraph
from skimage.measure import label
from strategies import DTYPES, Picture, assert_is_tree, pictures

import aproarray
from aproarray import reference

pytestmark = pytest.mark.any_backend


@given(pictures())
@example(Picture(np.zeros((6, 6, 2), np.uint8), None, 2))
@example(Picture(np.zeros((5, 1, 1), np.float32), np.array([[1], [0], [1], [1], [0]], bool), 1))
def test_tree_is_the_references(picture):
    tree = picture.tree()
    assert tree.shape == picture.shape
    assert_is_tree(tree, *picture.reference_tree(), picture.n_nodes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_are_float32_up_to_16_bits_and_float64_above(dtype):
    tree = aproarray.mst(np.array([[0, 1, 1]], dtype))
    wide = dtype.itemsize > 4 or dtype in (np.int32, np.uint32)
    assert tree.weights.dtype == (np.float64 if wide else np.float32)
    assert tree.weights.tolist() == [0, 1]


@pytest.mark.parametrize("connectivity", [1, 2])
@pytest.mark.parametrize("n_levels", [1, 2, 7, 256])
def test_large_image_with_ties_has_the_tree_of_scipy(connectivity, n_levels):
    # scipy drops edges of weight 0 and breaks ties as it likes: it gets the edges' ranks for weights,
    # which are unique, and with them the tree.
    rng = np.random.default_rng(n_levels)
    shape = (200, 150)
    image = rng.integers(n_levels, size=(*shape, 3), dtype=np.uint8)
    mask = rng.random(shape) < 0.97
    index = np.arange(image[..., 0].size).reshape(shape)
    pairs = [(index[:, :-1], index[:, 1:]), (index[:-1], index[1:])]
    if connectivity == 2:
        pairs += [(index[:-1, :-1], index[1:, 1:]), (index[:-1, 1:], index[1:, :-1])]
    edges = np.concatenate([np.stack([a.ravel(), b.ravel()], 1) for a, b in pairs])
    edges = edges[mask.ravel()[edges].all(1)]
    weights = reference.edge_weights(image, edges)
    edges, weights = (rows[np.lexsort((edges[:, 1], edges[:, 0], weights))] for rows in (edges, weights))
    ends = edges.T.astype(np.int32)  # which SciPy before 1.12 needs
    ranks = sparse.coo_array((np.arange(1.0, len(edges) + 1), (ends[0], ends[1])), shape=(index.size,) * 2)
    taken = np.sort(csgraph.minimum_spanning_tree(ranks.tocsr()).data).astype(int) - 1

    tree = aproarray.mst(image, connectivity=connectivity, mask=mask)
    np.testing.assert_array_equal(tree.edges[: len(taken)], edges[taken])
    np.testing.assert_array_equal(tree.weights[: len(taken)], weights[taken])
    for threshold in (0, *np.quantile(weights[taken], [0.3, 0.7]), np.max(weights)):
        light = weights <= threshold
        ones = sparse.coo_array((np.ones(light.sum()), edges[light].T), shape=(index.size,) * 2)
        _, component = csgraph.connected_components(ones, directed=False)
        zones = tree.cut(float(threshold)).ravel()
        assert (zones[~mask.ravel()] == 0).all()
        together = np.unique(np.stack([component, zones])[:, mask.ravel()], axis=1)
        assert len(together.T) == len(set(together[0])) == len(set(together[1]))


@given(pictures(DTYPES[1:3]), st.integers(-3, 3), st.sampled_from([0.5, 2.0, 16.0]))
def test_structure_depends_on_differences_alone_and_not_on_scale(picture, shift, scale):
    tree = picture.tree()
    moved = picture._replace(image=picture.image.astype(np.float64) * scale + shift).tree()
    np.testing.assert_array_equal(moved.edges, tree.edges)
    np.testing.assert_array_equal(moved.order, tree.order)
    np.testing.assert_array_equal(moved.weights, tree.weights.astype(np.float64) * scale**2)


@given(pictures())
def test_grey_images_need_no_channel_axis(picture):
    grey = picture.image[..., 0]
    options = {"spatial_ndim": grey.ndim, "connectivity": picture.connectivity, "mask": picture.mask}
    expected = aproarray.mst(grey[..., None], **options)
    assert aproarray.mst(grey, **options) == expected
    assert aproarray.mst(grey, channel_axis=None, **options) == expected


@given(pictures())
def test_channel_axis_may_be_anywhere(picture):
    tree = picture.tree()
    for axis in range(-picture.image.ndim, picture.image.ndim):
        moved = picture._replace(image=np.moveaxis(picture.image, -1, axis))
        assert (
            aproarray.mst(
                moved.image,
                channel_axis=axis,
                spatial_ndim=picture.image.ndim - 1,
                connectivity=picture.connectivity,
                mask=picture.mask,
            )
            == tree
        )


@pytest.mark.parametrize("leading", [(0,), (1,), (3,), (2, 3), (2, 0)])
@pytest.mark.parametrize("masks", ["none", "shared", "each"])
@pytest.mark.parametrize("channel_axis", [-1, 0, 1])
def test_batch_is_a_loop(leading, masks, channel_axis):
    rng = np.random.default_rng(0)
    images = rng.integers(3, size=(*leading, 4, 5, 2), dtype=np.uint8)
    mask = {
        "none": None,
        "shared": rng.random((4, 5)) < 0.7,
        "each": rng.random((*leading, 4, 5)) < 0.7,
    }[masks]
    trees = aproarray.mst(np.moveaxis(images, -1, channel_axis), channel_axis=channel_axis, mask=mask)
    assert trees.batch_shape == leading
    assert trees.shape == (4, 5)
    for b in np.ndindex(leading):
        assert trees[b] == aproarray.mst(images[b], mask=mask[b] if masks == "each" else mask)


def test_mask_cuts_the_image_out():
    rng = np.random.default_rng(1)
    image = rng.integers(4, size=(6, 7))
    mask = np.zeros((6, 7), bool)
    mask[1:5, 2:6] = True
    tree, crop = aproarray.mst(image, mask=mask), aproarray.mst(image[1:5, 2:6])
    index = np.arange(42).reshape(6, 7)[1:5, 2:6].ravel()
    np.testing.assert_array_equal(tree.edges[:15], index[crop.edges])
    np.testing.assert_array_equal(tree.weights[:15], crop.weights)
    assert tree.n_components == crop.n_components == 1


def test_masked_out_pixels_may_hold_anything():
    image = np.array([[0.0, np.nan, 2.0], [1.0, np.inf, 3.0]])
    mask = np.isfinite(image)
    assert aproarray.mst(image, mask=mask) == aproarray.mst(np.where(mask, image, 0), mask=mask)


def test_tree_keeps_its_own_mask():
    mask = np.ones((2, 3), bool)
    tree = aproarray.mst(np.zeros((2, 3)), mask=mask)
    mask[0, 0] = False
    assert tree.mask.all()
    assert tree.n_components == 1


@pytest.mark.parametrize("connectivity", [1, 2])
def test_flat_zones_are_those_of_scikit_image(connectivity):
    image = np.random.default_rng(2).integers(3, size=(40, 30))
    expected = label(image, connectivity=connectivity, background=-1)
    np.testing.assert_array_equal(aproarray.mst(image, connectivity=connectivity).cut(0), expected)


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_components_of_a_mask_are_those_of_scikit_image(connectivity):
    mask = np.random.default_rng(3).random((7, 8, 9)) < 0.3
    tree = aproarray.mst(np.zeros((7, 8, 9)), spatial_ndim=3, connectivity=connectivity, mask=mask)
    np.testing.assert_array_equal(tree.cut(0), label(mask, connectivity=connectivity))
    assert tree.n_components == tree.cut(0).max()


def test_axes_of_one_pixel_change_nothing():
    image = np.random.default_rng(4).integers(5, size=(1, 3, 4))
    tree = aproarray.mst(image[0])
    volume = aproarray.mst(image, spatial_ndim=3)
    for name in ("edges", "weights", "order", "gaps"):
        np.testing.assert_array_equal(getattr(volume, name), getattr(tree, name))


def test_heavier_connectivity_never_raises_distances():
    image = np.random.default_rng(5).integers(9, size=(4, 3, 3))
    trees = [aproarray.mst(image, spatial_ndim=3, connectivity=c) for c in (1, 2, 3)]
    pairs = np.array(list(itertools.combinations(range(36), 2))).T
    d = np.array([tree.minimax(*pairs) for tree in trees])
    assert (np.diff(d, axis=0) <= 0).all()
    assert (np.diff(d, axis=0) < 0).any()
