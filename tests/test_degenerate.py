"""Nothing, one of a kind, or all of the same: the defined answer, never a crash."""

import copy
import pickle

import numpy as np
import pytest

import aproarray
from aproarray import SpanningTree

pytestmark = pytest.mark.any_backend

EMPTY_SHAPES = [(0,), (0, 5), (5, 0), (0, 0), (0, 3, 4), (2, 0, 4)]


def options_of(shape, masked):
    return {"spatial_ndim": len(shape), "mask": np.ones(shape, bool) if masked else None}


@pytest.mark.parametrize("shape", EMPTY_SHAPES)
@pytest.mark.parametrize("leading", [(), (0,), (3,)])
@pytest.mark.parametrize("masked", [False, True])
def test_images_without_pixels(shape, leading, masked):
    options = options_of(shape, masked)
    image = np.zeros((*leading, *shape, 3))
    tree = aproarray.mst(image, **options)
    assert tree.shape == shape
    assert tree.batch_shape == leading
    assert tree.edges.shape == (*leading, 0, 2)
    assert tree.order.shape == (*leading, 0)
    assert np.all(tree.n_components == 0)
    assert tree.cut(1).shape == (*leading, *shape)
    assert tree.reweight(image) == tree
    assert pickle.loads(pickle.dumps(tree)) == copy.deepcopy(tree) == tree
    assert "weights=none" in repr(tree)
    values = np.zeros((*leading, 2, *shape, 4), np.float32)
    for result in (
        aproarray.global_propagate(values, tree, zeta=1.0),
        aproarray.global_propagate(values, tree, zeta=1.0, features=image),
        aproarray.local_propagate(values, image, zeta=0.15, **options),
    ):
        assert result.shape == values.shape
        assert result.dtype == np.float32


@pytest.mark.parametrize("masked", [False, True])
def test_batches_of_nothing(masked):
    images = np.zeros((0, 3, 4, 2))
    mask = np.ones((0, 3, 4), bool) if masked else None
    trees = aproarray.mst(images, mask=mask)
    assert trees.batch_shape == (0,)
    assert len(trees) == 0
    assert list(trees) == []
    assert trees.n_components.shape == (0,)
    assert trees.cut(1).shape == (0, 3, 4)
    assert trees.reweight(images).batch_shape == (0,)
    assert "batch_shape=(0,)" in repr(trees)
    for result in (
        aproarray.global_propagate(images, trees, zeta=1.0),
        aproarray.global_propagate(images, trees, zeta=1.0, features=images),
        aproarray.global_propagate(images, trees, zeta=1.0, tree_index=[]),
        aproarray.local_propagate(images, images, mask=mask, zeta=0.15),
    ):
        assert result.shape == images.shape


@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_one_pixel(shape, masked):
    options = options_of(shape, masked)
    tree = aproarray.mst(np.full(shape, 7), **options)
    assert tree.n_components == 1
    assert tree.edges.shape == (0, 2)
    assert tree.order.tolist() == [0]
    assert tree.minimax(0, 0) == 0
    assert tree.affinity(0, 1.0).ravel().tolist() == [1]
    assert tree.cut(0).ravel().tolist() == [1]
    values = np.full((*shape, 3), 0.3)
    np.testing.assert_array_equal(aproarray.global_propagate(values, tree, zeta=1.0), values)
    result = aproarray.local_propagate(values, np.full(shape, 7), zeta=0.15, **options)
    np.testing.assert_array_equal(result, values)
    with pytest.raises(ValueError, match="at least two pixels"):
        tree.to_linkage()


@pytest.mark.parametrize("shape", [(1, 1), (4, 5), (2, 3, 4)])
def test_all_masked_out(shape):
    mask = np.zeros(shape, bool)
    image = np.full((*shape, 2), np.nan)
    tree = aproarray.mst(image, spatial_ndim=len(shape), mask=mask)
    assert tree.n_components == 0
    assert (tree.edges == -1).all()
    assert (tree.cut(1) == 0).all()
    values = np.random.default_rng(0).random((*shape, 3))
    np.testing.assert_array_equal(aproarray.global_propagate(values, tree, zeta=1.0), values)
    result = aproarray.local_propagate(values, image, spatial_ndim=len(shape), mask=mask, zeta=0.15)
    np.testing.assert_array_equal(result, values)


def test_images_without_channels_are_flat():
    image = np.zeros((3, 4, 0), np.float32)
    assert aproarray.mst(image, channel_axis=-1) == aproarray.mst(np.zeros((3, 4), np.float32))
    tree = aproarray.mst(np.random.default_rng(0).random((3, 4)))
    assert (tree.reweight(image).weights == 0).all()
    values = np.eye(12, dtype=np.float32).reshape(3, 4, 12)
    result = aproarray.local_propagate(values, image, kernel_size=7, zeta=0.15, channel_axis=-1)
    np.testing.assert_allclose(result, np.full((3, 4, 12), 1 / 12), rtol=1e-5)


def test_values_without_channels_stay_empty():
    tree = aproarray.mst(np.zeros((3, 4)))
    values = np.zeros((2, 3, 4, 0), np.float16)
    for result in (
        aproarray.global_propagate(values, tree, zeta=1.0),
        aproarray.global_propagate(values, tree, zeta=[1.0, 2.0])[0],
        aproarray.local_propagate(values, np.zeros((3, 4)), zeta=0.15),
    ):
        assert result.shape == values.shape
        assert result.dtype == np.float16


def test_flat_image_is_averaged_whole():
    tree = aproarray.mst(np.full((30, 40, 3), 9, np.uint8))
    values = np.random.default_rng(1).random((30, 40, 2))
    result = aproarray.global_propagate(values, tree, zeta=1e-9)
    expected = np.broadcast_to(values.mean((0, 1)), values.shape)
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_graph_without_nodes():
    tree = SpanningTree.from_edges([], [], 0)
    assert tree.shape == (0,)
    assert tree.n_components == 0
    assert aproarray.global_propagate(np.zeros((0, 2)), tree, zeta=1.0).shape == (0, 2)


def test_graph_of_loops_alone():
    tree = SpanningTree.from_edges([[0, 0], [1, 1]], [0.0, 2.0], 2)
    assert tree.n_components == 2
    assert tree.minimax(0, 1) == np.inf
