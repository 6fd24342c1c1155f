"""Arrays are whatever `numpy.asarray` takes, alone or beside NumPy arrays. Results are NumPy arrays."""

import collections
from array import array as buffer

import dask.array
import numpy as np
import PIL.Image
import pytest

import aproarray

IMAGE = np.random.default_rng(0).random((6, 7)).astype(np.float32)
SEEDS = np.zeros((6, 7), int)
SEEDS[0, 0], SEEDS[5, 6] = 1, 2


class Convertible:
    """An object that NumPy can convert, as those of xarray, pandas and zarr."""

    def __init__(self, data):
        self.data = data

    def __array__(self, dtype=None, copy=None):
        return self.data.astype(dtype or self.data.dtype)


class Lazy(Convertible):
    """An object of xarray over dask."""

    def __dask_graph__(self):
        return {"name": 1}


class InMemory(Convertible):
    """An object of xarray that could be over dask, and is not."""

    def __dask_graph__(self):
        return None


class Exporting(Convertible):
    """An array of a library that exports by DLPack and cannot import, as pyarrow's."""

    def __dlpack__(self, **options):
        raise AssertionError("not needed")

    def __dlpack_device__(self):
        return 1, 0


KINDS = {
    "object": Convertible,
    "in memory": InMemory,
    "exporting": Exporting,
    "list": np.ndarray.tolist,
    "memoryview": memoryview,
    "sequence": lambda image: collections.UserList(image.tolist()),
    "picture": PIL.Image.fromarray,
}


@pytest.mark.parametrize("kind", KINDS)
def test_verbs_take_it_alone_and_beside_numpy_arrays(kind):
    like = KINDS[kind](IMAGE)
    tree = aproarray.mst(like, channel_axis=None)
    np.testing.assert_array_equal(tree.order, aproarray.mst(IMAGE).order)
    expected = (
        aproarray.global_propagate(IMAGE, tree, zeta=0.1),
        aproarray.local_propagate(IMAGE, IMAGE, zeta=0.1),
    )
    for given, image in ((like, like), (like, IMAGE), (IMAGE, like)):
        results = (
            aproarray.global_propagate(given, tree, zeta=0.1),
            aproarray.local_propagate(given, image, zeta=0.1),
        )
        for result, wanted in zip(results, expected, strict=True):
            assert type(result) is np.ndarray
            np.testing.assert_allclose(result, wanted, rtol=1e-5)
    labels = aproarray.propagate_labels(like, SEEDS)
    assert type(labels) is np.ndarray
    np.testing.assert_array_equal(labels, aproarray.propagate_labels(IMAGE, SEEDS))
    assert type(aproarray.affinity_map(like, (0, 0))) is np.ndarray


def test_seeds_and_masks_are_taken_too():
    mask = IMAGE > 0.1
    mask[0, 0] = mask[5, 6] = True
    expected = aproarray.propagate_labels(IMAGE, SEEDS, mask=mask)
    result = aproarray.propagate_labels(IMAGE, Convertible(SEEDS), mask=Convertible(mask))
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, expected)
    assert aproarray.mst(IMAGE, mask=Convertible(mask)) == aproarray.mst(IMAGE, mask=mask)


def test_a_buffer_is_an_array():
    weights = buffer("f", [1.0, 2.0])
    tree = aproarray.SpanningTree.from_edges([[0, 1], [1, 2]], weights, 3)
    assert tree.gaps.tolist() == [1, 2]


def test_lazy_arrays_are_refused_with_what_to_do():
    with pytest.raises(
        TypeError, match=r"image holds a dask array .*, which is not in memory: pass image.compute\(\)"
    ):
        aproarray.mst(Lazy(IMAGE))
    with pytest.raises(TypeError, match=r"labels holds a dask array .*map_overlap"):
        aproarray.propagate_labels(IMAGE, Lazy(SEEDS))
    with pytest.raises(TypeError, match=r"image holds a dask array .* functions take dask .* classes do not"):
        aproarray.LabelPropagator(dask.array.from_array(IMAGE))


@pytest.mark.parametrize("value", [{}, "abc", b"abc", {1, 2}, object(), lambda: 0])
def test_other_things_are_named(value):
    for call in (
        lambda: aproarray.mst(value),
        lambda: aproarray.local_propagate(IMAGE, value, zeta=1),
        lambda: aproarray.propagate_labels(value, SEEDS),
    ):
        with pytest.raises(TypeError, match=rf"image must be an array .*, got an? {type(value).__name__}"):
            call()
