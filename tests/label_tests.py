"""Tests of labels and refined scores over device arrays, for the emulation and for devices.

Floods, smoothed colours and reliefs are the CPU's bit for bit. Colours of CIELAB, logarithms and exponentials
are rounded in other ways on a device, so that a few labels may differ: docs/gpu.md. The fixture `there` is
a `There`.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest

import aproarray
from aproarray import _edges, cpu


class There(NamedTuple):
    """Where device arrays are, and the share of labels that may differ from the CPU's."""

    cupy: Any
    gpu: Any
    tolerance: float

    def same_labels(self, ours, theirs):
        assert ours.shape == theirs.shape
        assert np.mean(ours != theirs) <= self.tolerance


def padded_case(rng, shape, levels, n_seeds, walls):
    """Return reliefs (2, N) of few heights, and seeds (N), padded by pixels that take no part."""
    padded = tuple(extent + 2 for extent in shape)
    inner = (slice(1, -1),) * len(shape)
    reliefs = np.zeros((2, *padded), np.float32)
    reliefs[(slice(None), *inner)] = rng.integers(levels, size=(2, *shape)) / np.float32(max(levels - 1, 1))
    seeds = np.full(padded, -1, np.int32)
    seeds[inner] = np.where(rng.random(shape) < walls, -1, 0)
    at = tuple(rng.integers(extent, size=n_seeds) for extent in shape)
    seeds[inner][at] = rng.integers(1, 4, n_seeds)
    return padded, reliefs.reshape(2, -1), seeds.reshape(-1)


@pytest.mark.parametrize(
    "shape", [(70, 45), (1, 90), (90, 1), (33, 31), (100,), (7, 9, 11), (2, 3, 4, 5), (1, 1)], ids=str
)
@pytest.mark.parametrize("levels", [1, 2, 3, 40, 1 << 20])
def test_floods_are_the_cpus_bit_for_bit(there, shape, levels):
    rng = np.random.default_rng(levels + math.prod(shape))
    for walls, n_seeds in ((0, 2), (0.3, 6), (0.1, 30)):
        padded, reliefs, seeds = padded_case(rng, shape, levels, n_seeds, walls)
        steps = _edges.flat_steps(padded, _edges.hops(len(padded)))
        with cpu.Floods(reliefs, steps, padded, None).labels(seeds, [1, 2, 3], 1) as maps:
            theirs = np.stack(maps)
        with there.gpu.Floods(there.cupy.asarray(reliefs), steps, padded, None).labels(
            there.cupy.asarray(seeds), [1, 2, 3], 1
        ) as maps:
            ours = np.stack([labels.get() for labels in maps])
        np.testing.assert_array_equal(ours, theirs)


def on_device(there, function, *arrays, **options):
    """Call a function with device arrays, and return its result as NumPy's."""
    given = [there.cupy.asarray(array) if isinstance(array, np.ndarray) else array for array in arrays]
    options = {
        name: there.cupy.asarray(value) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    result = function(*given, **options)
    assert isinstance(result, there.cupy.ndarray)
    return result.get()


def scene(rng, shape, channels, dtype=np.float32):
    """Return a noisy image of a few regions, and strokes in it."""
    places = np.stack(np.meshgrid(*(np.linspace(0, 1, extent) for extent in shape), indexing="ij"), -1)
    regions = (np.sin(7 * places).sum(-1) > 0.5).astype(int) + 2 * (places[..., -1] > 0.6)
    colours = rng.random((4, channels))
    image = colours[regions] + 0.1 * rng.standard_normal((*shape, channels))
    image = (255 * np.clip(image, 0, 1)).astype(dtype) if dtype != np.float32 else image.astype(dtype)
    seeds = np.where(rng.random(shape) < 0.02, regions + 1, 0)
    return image, seeds


CASES = {
    "plain": {},
    "mask": {"mask": True},
    "probabilities": {"return_full_prob": True},
    "edges": {"edges": True},
    "features": {"features": True},
    "spacing": {"spacing": (2.0, 1.0)},
    "spacing and mask, probabilities": {"spacing": (1.0, 3.0), "mask": True, "return_full_prob": True},
    "everything": {"mask": True, "edges": True, "features": True, "return_full_prob": True},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("channels", [1, 3])
def test_labels_are_the_cpus(there, options, channels):
    rng = np.random.default_rng(channels)
    image, seeds = scene(rng, (37, 45), channels)
    drawn = {
        "mask": rng.random((37, 45)) < 0.8,
        "edges": rng.random((37, 45)),
        "features": rng.random((37, 45, 2)),
    }
    options = {
        name: drawn[name] if value is True and name in drawn else value for name, value in options.items()
    }
    if "mask" in options:
        image[~options["mask"]] = np.nan
    theirs = aproarray.propagate_labels(image, seeds, channel_axis=-1, **options)
    ours = on_device(there, aproarray.propagate_labels, image, seeds, channel_axis=-1, **options)
    assert ours.dtype == theirs.dtype
    if "return_full_prob" in options:
        there.same_labels(ours.argmax(0), theirs.argmax(0))
        ours, theirs = ours.mean((1, 2)), theirs.mean((1, 2))
        np.testing.assert_allclose(ours, theirs, atol=1e-5 + there.tolerance)
    else:
        there.same_labels(ours, theirs)


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.int64, np.float64])
def test_labels_of_batches_and_volumes_and_other_types(there, dtype):
    rng = np.random.default_rng(5)
    image, seeds = (
        np.stack(both) for both in zip(*(scene(rng, (20, 31), 1, dtype) for _ in range(2)), strict=True)
    )
    seeds[0, :4, :4] = -1  # a void in one image alone
    for ndim in (2, 3):
        for probabilities in (False, True):
            options = {"spatial_ndim": ndim, "return_full_prob": probabilities}
            theirs = aproarray.propagate_labels(image[..., 0], seeds.astype(np.int16), **options)
            ours = on_device(
                there, aproarray.propagate_labels, image[..., 0], seeds.astype(np.int16), **options
            )
            assert ours.dtype == theirs.dtype
            there.same_labels(*(found.argmax(0) if probabilities else found for found in (ours, theirs)))


def test_plain_images_are_shared_out_by_steps_and_outliers_are_left_out(there):
    seeds = np.zeros((40, 51), int)
    seeds[3, 4], seeds[30, 47], seeds[38, 2] = 7, 3, 5
    for image in (np.zeros((40, 51)), np.arange(40 * 51.0).reshape(40, 51)):
        hot = image.copy()
        hot[10:12, 20:22] = 1e6
        for one in (image, hot):
            theirs = aproarray.propagate_labels(one, seeds)
            there.same_labels(on_device(there, aproarray.propagate_labels, one, seeds), theirs)


def test_parts_that_no_stroke_touches_are_found_as_on_the_cpu(there):
    image = np.random.default_rng(0).normal(0, 0.02, (80, 120)).astype(np.float32)
    image[20:60, 10:50] += 1
    image[20:60, 66:106] += 1
    seeds = np.zeros((80, 120), int)
    seeds[24:56, 40], seeds[5, 5:115] = 1, 2
    ours = on_device(there, aproarray.propagate_labels, image, seeds)
    there.same_labels(ours, aproarray.propagate_labels(image, seeds))
    assert (ours[25:55, 70:100] == 1).mean() > 0.95


def test_a_propagator_follows_strokes_as_on_the_cpu(there):
    rng = np.random.default_rng(6)
    image, seeds = scene(rng, (33, 40), 3, np.uint8)
    ours, theirs = aproarray.LabelPropagator(there.cupy.asarray(image)), aproarray.LabelPropagator(image)
    for _ in range(3):
        there.same_labels(ours.propagate(there.cupy.asarray(seeds)).get(), theirs.propagate(seeds))
        seeds = np.where(rng.random(seeds.shape) < 0.3, 0, seeds)
        seeds[rng.integers(33), rng.integers(40)] = 4
    with pytest.raises(
        TypeError, match=r"labels must be a CuPy array, as the image was, got a numpy\.ndarray"
    ):
        ours.propagate(seeds)
    with pytest.raises(
        TypeError, match=r"labels must be a NumPy array, as the image was, got a cupy\.ndarray"
    ):
        theirs.propagate(there.cupy.asarray(seeds))
    with pytest.raises(TypeError, match="all arrays of one call must be of one library"):
        aproarray.propagate_labels(there.cupy.asarray(image), seeds)
    with pytest.warns(UserWarning, match="labels hold no seed"):
        assert not ours.propagate(there.cupy.asarray(np.zeros_like(seeds))).get().any()
    with pytest.raises(ValueError, match="labels must be whole numbers"):
        ours.propagate(there.cupy.asarray(seeds + 0.5))
    with pytest.raises(ValueError, match="labels and image look swapped"):
        aproarray.propagate_labels(
            there.cupy.asarray(seeds), there.cupy.asarray(rng.integers(1, 1000, seeds.shape))
        )


@pytest.mark.parametrize("mode", [None, "global", "parallel", "local-global"])
@pytest.mark.parametrize("case", ["plain", "mask", "edges", "mask and edges"])
def test_refined_scores_are_the_cpus(there, mode, case):
    rng = np.random.default_rng(7)
    image, _ = scene(rng, (24, 30), 3, np.uint8)
    scores = rng.random((4, 5, 3))
    options = {"mode": mode, "iterations": 3}
    if "mask" in case:
        options["mask"] = rng.random((24, 30)) < 0.8
        scores[0, 0] = np.nan
        options["mask"][:7, :7] = False
    if "edges" in case:
        options["edges"] = rng.random((24, 30))
    theirs = aproarray.refine(image, scores, **options)
    ours = on_device(there, aproarray.refine, image, scores, **options)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    if "mask" in case:
        options["mask"][...] = True
        with pytest.raises(ValueError, match="scores must be finite where mask is True"):
            on_device(there, aproarray.refine, image, scores, **options)


@pytest.mark.parametrize("kind", ["global", "local"])
def test_affinity_maps_are_the_cpus(there, kind):
    image, _ = scene(np.random.default_rng(8), (21, 26), 3)
    image[4:6, 4:6] = 90  # outliers
    theirs = aproarray.affinity_map(image, (3, 20), kind=kind)
    ours = on_device(there, aproarray.affinity_map, image, (3, 20), kind=kind)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((60, 70), None), ((60, 70), (1.0, 2.5)), ((9, 20, 21), None)]
)
def test_what_settles_labels_is_the_cpus_bit_for_bit(there, shape, spacing):
    rng, n = np.random.default_rng(9), math.prod(shape)
    features = rng.random((n, 3), np.float32)
    # Of label 1, one pixel more is sure than may count.
    sure = np.arange(n) < 512 + 20
    maps = [np.where(sure, 1, 1 + rng.integers(3, size=n)).astype(np.int32)] * 3
    for k in (1, 2):
        others = np.where(maps[0] == 1, 2, 1 + rng.integers(3, size=n))
        maps[k] = np.where(~sure & ((maps[0] == 1) | (rng.random(n) < 0.3)), others, maps[0]).astype(np.int32)
    seeds = np.where(rng.random(n) < 0.05, maps[0], 0).astype(np.int32)
    seeds[sure], seeds[rng.permutation(512 + 20)[:20]] = 0, 1
    maps = [np.where(seeds > 0, seeds, one) for one in maps]
    found = []
    for backend, put in ((there.gpu, there.cupy.asarray), (cpu, np.asarray)):
        pixels = cpu.Pixels(put(features), shape, (-2,) * len(shape), spacing)
        settled = backend.settle([put(one) for one in maps], put(seeds), pixels, (1.5, 1.3, 1.3), 12.0, 1)
        found.append(settled if backend is cpu else settled.get())
    np.testing.assert_array_equal(*found)
    assert (found[1] != maps[0]).any()
