"""Scores and affinity maps of dask arrays: the numbers in memory, for any chunks."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest

import aproarray


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def picture(shape, n_channels=3):
    rng = np.random.default_rng(1)
    cells = rng.integers(0, 255, (shape[0] // 9 + 1, shape[1] // 9 + 1, n_channels)).repeat(9, 0).repeat(9, 1)
    return (cells[: shape[0], : shape[1]] + rng.normal(0, 5, (*shape, n_channels))).clip(0, 255).astype("u1")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_refined_scores_have_the_same_bits(masked, coarse, dtype):
    rng = np.random.default_rng(2)
    image = picture((50, 70))
    scores = rng.random((4, 5, 7) if coarse else (4, 50, 70)).astype(dtype)
    mask = None
    if masked:
        mask = rng.random((50, 70)) < 0.9
        mask[:12, :12] = False
        scores[:, 0, 0] = np.nan
    options = {"iterations": 5, "class_axis": 0, "mask": mask}
    expected = aproarray.refine(image, scores, **options)
    result = aproarray.refine(
        da.from_array(image, chunks=(20, 33, 1)),
        da.from_array(scores, chunks=(3, 4, 5)),
        **options,
    )
    assert result.chunks[1:] == ((20, 20, 10), (33, 33, 4))
    computed = result.compute()
    assert computed.dtype == result.dtype == expected.dtype
    np.testing.assert_array_equal(computed, expected)


def test_refined_batches():
    images = np.stack([picture((30, 40)), picture((30, 40))[::-1]])
    scores = np.random.default_rng(0).random((2, 30, 40))
    expected = aproarray.refine(images, scores, iterations=3)
    result = aproarray.refine(da.from_array(images, chunks=(1, 20, 20, 3)), scores, iterations=3)
    np.testing.assert_array_equal(result.compute(), expected)


@pytest.mark.parametrize("kind", ["global", "local"])
@pytest.mark.parametrize("zeta", [None, 0.1])
@pytest.mark.parametrize("n_channels", [1, 3, 4])
def test_affinity_maps_are_those_in_memory(kind, zeta, n_channels):
    image = picture((40, 60), n_channels)
    if n_channels == 4:
        image[..., 3] = 255
    mask = np.random.default_rng(0).random((40, 60)) < 0.9
    mask[10, 20] = True
    options = {"kind": kind, "zeta": zeta, "iterations": 8, "mask": mask}
    expected = aproarray.affinity_map(image, (10, 20), **options)
    result = aproarray.affinity_map(da.from_array(image, chunks=(15, 31, 1)), (10, 20), **options)
    assert result.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(result.compute(), expected, rtol=1e-5, atol=1e-7)


def test_the_sum_of_gaps_is_that_of_the_tree():
    image = picture((40, 50)).astype(np.float32)
    mask = np.random.default_rng(3).random((40, 50)) < 0.7
    tree = aproarray.mst(image, mask=mask)
    weights = tree.gaps[np.isfinite(tree.gaps)]
    for chunks in ((13, 11, 3), (40, 50, 3), (1, 50, 3)):
        total, n = aproarray.mst(da.from_array(image, chunks=chunks), mask=mask).sum_of_gaps().compute()
        assert n == len(weights)
        np.testing.assert_allclose(total, weights.sum(dtype=np.float64), rtol=1e-12)


def test_arguments_are_checked():
    image, scores = da.from_array(picture((30, 40)), chunks=20), np.zeros((30, 40, 2))
    with pytest.raises(ValueError, match="refine of dask arrays has mode 'local' alone, got 'global'"):
        aproarray.refine(image, scores, mode="global")
    with pytest.raises(TypeError, match="refine of dask arrays takes no workers"):
        aproarray.refine(image, scores, workers=1)
    with pytest.raises(ValueError, match="scores of shape"):
        aproarray.refine(image, scores[:20])
    scores[25, 3, 1] = np.nan
    with pytest.raises(ValueError, match=r"scores in chunk \([01], 0\) must be finite, but 1 of its"):
        aproarray.refine(image, scores, iterations=2).compute()
    with pytest.raises(ValueError, match=r"pixel\[0\] must be"):
        aproarray.affinity_map(image, (30, 0))
    outliers = picture((30, 40))[..., 0].astype("u2")
    outliers[3:6, 3:6] = 60000
    with pytest.raises(ValueError, match=r"image has outliers.* pass zeta"):
        aproarray.affinity_map(da.from_array(outliers, chunks=20), (0, 0)).compute()
    with pytest.raises(ValueError, match=r"\(30, 40, 3\) has more than 1 spatial axes .* not a batch"):
        aproarray.affinity_map(image, (0,), spatial_ndim=1)


@pytest.mark.parametrize("mask", [None, np.ones((30, 40), bool)])
def test_scores_that_are_not_finite_name_the_chunk(mask):
    image, scores = da.from_array(picture((30, 40)), chunks=(15, 20, 3)), np.zeros((30, 40, 2))
    scores[20, 30, 1] = np.nan
    with pytest.raises(ValueError, match=r"in chunk \(1, 1\).* finite|finite.* chunk \(1, 1\)"):
        aproarray.refine(image, scores, iterations=1, mask=mask).compute()


def test_images_without_pixels_have_scores_of_their_shape():
    result = aproarray.refine(da.zeros((0, 40, 3), np.uint8, chunks=20), np.zeros((0, 40, 2), np.float16))
    assert result.shape == result.compute().shape == (0, 40, 2)
