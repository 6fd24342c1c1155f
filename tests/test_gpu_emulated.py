"""The GPU backend without a GPU: its kernels, built by g++, run the tests of the CPU backend.

See `emulated_cupy`. Threads and blocks run in another order at every launch. Hypothesis
draws few examples: more are for devices, see test_gpu.py.
"""

import contextlib
import math
import pickle
import re
import shutil
import sys

import emulated_cupy
import numpy as np
import pytest
from on_device import Device
from strategies import maybe_a_forest

import aproarray
import aproarray.related
from aproarray import SpanningTree, cpu

if not shutil.which("g++"):
    pytest.skip("the emulation needs g++", allow_module_level=True)

# A tile of 34 positions is more than one warp: threads of another one show whether a barrier is there.
device = Device(emulated_cupy, BLOCK=64, DIGIT_BITS=4, SPAN=34, COLUMNS=3)
globals().update(device.tests(max_examples=4, but="numpy_only not_emulated"))


def to_device(array):
    return emulated_cupy.asarray(array)


@pytest.fixture
def gpu():
    with device.active():
        yield sys.modules["aproarray.gpu"]


@pytest.mark.parametrize(
    "shape", [(21, 30), (5, 7, 8), (70, 64)]
)  # the last one has rounds of the whole grid
@pytest.mark.parametrize(("levels", "dtype"), [(1, np.float32), (4, np.float64), (1 << 20, np.float32)])
def test_trees_are_the_cpus_bit_for_bit(gpu, shape, levels, dtype):
    rng = np.random.default_rng(levels)
    images = rng.integers(levels, size=(2, math.prod(shape), 2)).astype(dtype)
    masks = rng.random((2, math.prod(shape))) < 0.9
    connectivity = len(shape) - 1
    ours, finite = gpu.grid_trees(to_device(images), shape, connectivity, to_device(masks), 1)
    theirs, _ = cpu.grid_trees(images, shape, connectivity, masks, 1)
    assert finite
    features = rng.integers(3, size=images.shape).astype(dtype)
    trees = [(ours, theirs)]
    trees += [
        (
            gpu.reweighed_trees(gpu.edges(ours.gap_edges), np.array([1, 0]), to_device(features), 1)[0],
            cpu.reweighed_trees(cpu.edges(theirs.gap_edges), np.array([1, 0]), features, 1)[0],
        )
    ]
    for one, other in trees:
        for name in ("order", "gaps", "gap_edges"):
            np.testing.assert_array_equal(getattr(one, name).get(), getattr(other, name))


@pytest.mark.parametrize("backwards", [False, True])
def test_ways_to_a_root_may_be_long(gpu, backwards):
    # The steps grow: every pixel's lightest edge leads to the one before it, in tiles and in a list of edges.
    image = np.arange(300.0).cumsum()[:: -1 if backwards else 1, None].copy()
    ours, theirs = aproarray.mst(to_device(image[:, None])), aproarray.mst(image[:, None])
    ends = np.stack([np.arange(299), np.arange(1, 300)], axis=1)
    listed = aproarray.SpanningTree.from_edges(
        to_device(ends), to_device(np.square(np.diff(image[:, 0]))), 300
    )
    for tree in (ours, listed):
        for name in ("order", "gaps", "gap_edges"):
            np.testing.assert_array_equal(getattr(tree, name).get(), getattr(theirs, name))


@pytest.mark.parametrize("shape", [(40, 33), (1, 300), (7, 9, 10), (3, 5)])
@pytest.mark.parametrize("kind", ["noise", "stripes", "plain"])
@pytest.mark.parametrize("masked", [False, True])
def test_lists_hold_what_tiles_leave(gpu, shape, kind, masked, monkeypatch):
    # Stripes leave more edges between components than anything else: nothing may be written behind the lists.
    rng, n = np.random.default_rng(0), math.prod(shape)
    images = {
        "noise": rng.random((2, n, 1), np.float32),
        "stripes": (np.arange(2 * n) // shape[-1] % 2 + rng.random(2 * n) / 9).astype(np.float32),
        "plain": np.zeros((2, n, 1), np.float32),
    }[kind].reshape(2, n, 1)
    masks = to_device(rng.random((2, n)) < 0.8) if masked else None
    module, seen = sys.modules["aproarray.gpu._trees"], []
    connect = module._connect

    def watched(forest, *sizes, known):
        n_edges, _, n_components = forest.state.get()[:3].tolist()
        most = int(forest.components.packed["most"])
        seen.append((n_edges, forest.n_edges, n_components, most))
        return connect(forest, *sizes, known=known)

    monkeypatch.setattr(module, "_connect", watched)
    gpu.grid_trees(to_device(images), shape, len(shape), masks, 1)
    ((n_edges, most_edges, n_components, most_components),) = seen
    assert n_edges <= most_edges
    assert n_components <= most_components
    assert (n_components > 0) == (n > 128)  # of one tile, trees are left alone


def test_results_repeat_bit_for_bit_whatever_else_is_in_the_batch(gpu):
    rng = np.random.default_rng(0)
    image = rng.integers(5, size=(3, 17, 21, 1)).astype(np.float32)
    values = rng.random((3, 17, 21, 3), np.float32)
    trees = aproarray.mst(to_device(image))
    results = [
        aproarray.global_propagate(to_device(values[b]), trees[b], zeta=0.7).get()
        for b in range(3)
        for _ in range(2)
    ]
    whole = aproarray.global_propagate(to_device(values), trees, zeta=0.7).get()
    for place, result in enumerate(results):
        np.testing.assert_array_equal(result, whole[place // 2])


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("tree_index", [[0, 0, 1], [1, 0, 1]])
def test_gradients_are_those_of_finite_differences(gpu, features, tree_index):
    rng = np.random.default_rng(1)
    n, zeta, tree_index = 24, 0.6, np.array(tree_index)
    images = rng.random((2, n, 2))
    values, grad = rng.standard_normal((2, 3, n, 2))
    trees, _ = gpu.grid_trees(to_device(images), (4, 6), 1, None, 1)

    def propagate(values, gaps):
        out = emulated_cupy.empty(values.shape, np.float64)
        z = emulated_cupy.empty((2, n), np.float64)
        gpu.global_propagate(to_device(values), out, gpu.lines(trees.order, gaps, 1), tree_index, zeta, 1, z)
        return out, z

    result, z = propagate(values, trees.gaps)
    out = emulated_cupy.empty((2, n - 1), np.float64)
    gpu.global_gap_gradients(
        to_device(grad), to_device(values), result, trees.order, trees.gaps, tree_index, zeta, z, out, 1
    )
    gaps, step = trees.gaps.get(), 1e-6

    def loss(values, gaps):
        return (propagate(values, to_device(gaps))[0].get() * grad).sum()

    if features:
        edges = trees.gap_edges.get()
        target = emulated_cupy.empty(images.shape, np.float64)
        gpu.feature_gradients(out, to_device(images), trees.gap_edges, target, 1)
        for b, pixel, channel in [(0, 0, 0), (1, 7, 1)]:
            losses = []
            for sign in (1, -1):
                moved = images.copy()
                moved[b, pixel, channel] += sign * step
                differences = [moved[t][edges[t, :, 0]] - moved[t][edges[t, :, 1]] for t in range(2)]
                losses.append(loss(values, np.stack([(d**2).sum(-1) for d in differences])))
            expected = (losses[0] - losses[1]) / (2 * step)
            np.testing.assert_allclose(target.get()[b, pixel, channel], expected, rtol=1e-5, atol=1e-8)
        return
    for b, gap in [(0, 0), (0, 11), (1, 22)]:
        moved = np.stack([gaps, gaps])
        moved[:, b, gap] += [step, -step]
        expected = (loss(values, moved[0]) - loss(values, moved[1])) / (2 * step)
        np.testing.assert_allclose(out.get()[b, gap], expected, rtol=1e-5, atol=1e-8)
    transposed = emulated_cupy.empty(values.shape, np.float64)
    gpu.global_propagate(
        to_device(grad),
        transposed,
        gpu.lines(trees.order, trees.gaps, 1),
        tree_index,
        zeta,
        1,
        z,
        transposed=True,
    )
    units = rng.standard_normal(values.shape)
    np.testing.assert_allclose(
        (transposed.get() * units).sum(), (propagate(units, trees.gaps)[0].get() * grad).sum(), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("shape", "levels"), [((9, 14), 3), ((1, 200), 1), ((130, 1), 9), ((3, 4, 5), 2), ((1, 1), 1)]
)
def test_trees_are_laid_out_breadth_first_as_on_the_cpu(gpu, shape, levels, monkeypatch):
    n = math.prod(shape)
    # Trees take turns.
    monkeypatch.setattr(sys.modules["aproarray.gpu._arguments"], "MOST_EDGES", 4 * n + 1)
    rng = np.random.default_rng(n)
    images, masks = rng.integers(levels, size=(3, n, 1)).astype(np.float32), rng.random((3, n)) < 0.9
    trees, _ = cpu.grid_trees(images, shape, 1, masks, 1)
    ours = gpu.rooted_trees(to_device(trees.order), to_device(trees.gap_edges), 1)
    for one, other in zip(ours, cpu.rooted_trees(trees.order, trees.gap_edges, 1), strict=True):
        np.testing.assert_array_equal(one.get(), other)
    none = gpu.rooted_trees(to_device(trees.order[:0]), to_device(trees.gap_edges[:0]), 1)
    assert [array.shape for array in none] == [(0, n)] * 3 + [(0,)]


def test_what_is_no_forest_is_refused_as_on_the_cpu(gpu):
    rng, refused = np.random.default_rng(0), 0
    for trial in range(300):
        order, edges = maybe_a_forest(rng, np.int32, trial % 3)
        try:
            theirs = cpu.rooted_trees(order[None], edges[None], 1)
        except ValueError as error:
            refused += 1
            with pytest.raises(ValueError, match=re.escape(str(error))):
                gpu.rooted_trees(to_device(order[None]), to_device(edges[None]), 1)
        else:
            for one, other in zip(
                gpu.rooted_trees(to_device(order[None]), to_device(edges[None]), 1), theirs, strict=True
            ):
                np.testing.assert_array_equal(one.get(), other)
    assert 50 < refused < 200


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("set_of", [[0, 1, 1], [1, 0, 1]])
def test_tree_filters_and_their_gradients_are_the_cpus(gpu, normalised, set_of, monkeypatch):
    # Channels take turns.
    monkeypatch.setattr(sys.modules["aproarray.gpu._arguments"], "WORKING_BYTES", 16 * 42 * 12)
    rng = np.random.default_rng(4)
    images, masks = rng.random((2, 42, 2)), rng.random((2, 42)) < 0.9
    trees, _ = cpu.grid_trees(images, (6, 7), 1, masks, 1)
    values, grad = rng.standard_normal((2, 3, 42, 7))
    tree_index, set_of = np.array([1, 0]), np.array(set_of)
    distances, _ = cpu.edge_distances(images, trees.gap_edges, tree_index, 1)
    ours_distances, finite = gpu.edge_distances(to_device(images), to_device(trees.gap_edges), tree_index, 1)
    assert finite
    np.testing.assert_allclose(ours_distances.get(), distances, rtol=1e-14)
    found = []
    for backend, place in ((cpu, np.asarray), (gpu, to_device)):
        rooted = backend.rooted_trees(place(trees.order), place(trees.gap_edges), 1)
        sets = place(distances), tree_index, set_of
        sums = backend.xp.zeros((2, 42), np.float64) if normalised else None
        y, by_values = (backend.xp.zeros(values.shape, np.float64) for _ in range(2))
        by_distances = backend.xp.zeros((2, 41), np.float64)
        backend.tree_filter(place(values), y, rooted, *sets, 1.0, 1, sums=sums)
        backend.tree_filter(place(grad), by_values, rooted, *sets, 1.0, 1, sums=sums, transposed=True)
        backend.tree_filter_gradients(place(grad), place(values), y, rooted, *sets, sums, by_distances, 1)
        found.append([y, by_values, by_distances, *([] if sums is None else [sums])])
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours.get(), theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("image_index", [[0, 0, 1, 1], [1, 0, 1, 1]])
def test_windows_know_the_image_of_each_item(gpu, image_index):
    rng = np.random.default_rng(0)
    values, images = rng.random((4, 30, 2)), rng.random((2, 30, 3))
    masks = rng.random((2, 30)) < 0.8
    ours, theirs = to_device(np.zeros_like(values)), np.zeros_like(values)
    options = (0.5, 3, 2, 1)
    index = np.array(image_index)
    gpu.local_propagate(to_device(values), ours, to_device(images), (5, 6), index, to_device(masks), *options)
    cpu.local_propagate(values, theirs, images, (5, 6), index, masks, *options)
    np.testing.assert_allclose(ours.get(), theirs, rtol=1e-12)


def test_output_may_overlap_the_input(gpu):
    rng = np.random.default_rng(0)
    image, host = rng.random((2, 5, 6, 3)), rng.random((3, 5, 6, 2))
    expected = aproarray.local_propagate(host[:2], image, zeta=0.15)
    both = to_device(host.copy())
    assert aproarray.local_propagate(both[:2], to_device(image), out=both[1:], zeta=0.15) is not None
    np.testing.assert_allclose(both[1:].get(), expected, rtol=1e-12)


def window_gradients(backend, array, values, images, grad, shape, image_index, masks, *options, region=None):
    """Return W 1, the result, and the gradients of values, images and zeta."""
    given = [array(x) for x in (grad, values, images)]
    out, sums = array(np.zeros_like(values)), array(np.zeros(images.shape[:2], values.dtype))
    by_values, by_image, by_zeta = (
        array(np.full(like.shape, np.nan, like.dtype)) for like in (values, images.astype(float), np.zeros(1))
    )
    masks, region = (None if x is None else array(x) for x in (masks, region))
    backend.local_propagate(
        given[1], out, given[2], shape, image_index, masks, *options, 1, sums, region=region
    )
    backend.local_gradients(
        *given, shape, image_index, masks, *options, 1, sums, by_values, by_image, by_zeta, region=region
    )
    return [x if isinstance(x, np.ndarray) else x.get() for x in (sums, out, by_values, by_image, by_zeta)]


@pytest.mark.parametrize(
    ("shape", "image_index", "channels", "kernel_size", "iterations"),
    [
        ((9, 40), [0, 1], 6, 5, 3),  # a tile and a bit, two blocks of channels
        ((5, 6), [1, 0, 0, 3], 1, 3, 4),
        ((4, 5), [0, 1], 2, 9, 1),  # windows larger than the image
        ((3, 4, 3), [0], 5, 3, 2),
        ((13,), [1, 1], 2, 5, 3),
        ((5, 6), [0, 0], 2, 1, 3),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("held", [False, True], ids=["everywhere", "regions"])
def test_gradients_of_windows_are_the_cpus(
    gpu, shape, image_index, channels, kernel_size, iterations, masked, held
):
    rng = np.random.default_rng(len(shape))
    n = math.prod(shape)
    image_index = np.array(image_index)
    values, grad = rng.standard_normal((2, len(image_index), n, channels))
    images = rng.random((image_index.max() + 1, n, 5))
    masks = rng.random((len(images), n)) < 0.8 if masked else None
    regions = rng.random((len(image_index), n)) < 0.6 if held else None
    if held:
        regions[0] = np.arange(n) % shape[-1] < 3  # whole tiles without a pixel
    arguments = (values, images, grad, shape, image_index, masks, 0.5, kernel_size, iterations)
    ours = window_gradients(gpu, to_device, *arguments, region=regions)
    theirs = window_gradients(cpu, np.array, *arguments, region=regions)
    if held:  # the CPU leaves out the sums outside of regions
        for g, region in zip(image_index, regions, strict=True):
            np.testing.assert_allclose(ours[0][g, region], theirs[0][g, region], rtol=1e-12)
    else:  # and of images without items
        used = np.unique(image_index)
        np.testing.assert_allclose(ours[0][used], theirs[0][used], rtol=1e-12)
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_gradients_of_windows_in_single_precision(gpu):
    rng = np.random.default_rng(0)
    values, grad = rng.random((2, 1, 7 * 36, 5), np.float32)
    image = rng.random((1, 7 * 36, 3), np.float32)
    options = ((7, 36), np.zeros(1, int), None, 0.4, 5, 6)
    ours = window_gradients(gpu, to_device, values, image, grad, *options)
    wide = window_gradients(cpu, np.array, *(x.astype(float) for x in (values, image, grad)), *options)
    for one, other in zip(ours, wide, strict=True):
        assert np.linalg.norm(one - other) < 1e-5 * np.linalg.norm(other)


def test_gradients_of_windows_are_the_same_bits_in_any_company(gpu, monkeypatch):
    rng = np.random.default_rng(4)
    values, grad = rng.standard_normal((2, 5, 30, 9))
    images, image_index, options = rng.random((3, 30, 2)), np.array([2, 0, 0, 1, 0]), (None, 0.6, 3, 3)
    together = window_gradients(gpu, to_device, values, images, grad, (5, 6), image_index, *options)
    alone = [
        window_gradients(
            gpu, to_device, values[image_index == g], images[g : g + 1], grad[image_index == g], (5, 6),
            np.zeros((image_index == g).sum(), int), *options,
        )
        for g in range(3)
    ]  # fmt: skip
    for g in range(3):
        np.testing.assert_array_equal(together[2][image_index == g], alone[g][2])
        np.testing.assert_array_equal(together[3][g], alone[g][3][0])
    bytes_of_column = ((2 * 3 + 2) * 4 + 5) * 30 * 8 // 4
    for columns in (1, 9, 20):  # a block of an item's channels, an item, two items at a time
        monkeypatch.setattr(
            sys.modules["aproarray.gpu._local_gradients"], "_GRADIENT_BYTES", columns * bytes_of_column
        )
        for one, other in zip(
            window_gradients(gpu, to_device, values, images, grad, (5, 6), image_index, *options),
            together,
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_overflow_of_sums_is_seen(gpu, dtype):
    host = np.full((5, 6), np.finfo(dtype).max, dtype)
    values, image = to_device(host), to_device(np.zeros((5, 6), np.float32))
    tree = aproarray.mst(image)
    message = f"sums of values overflow {np.dtype(dtype)}: scale values down"
    over_trees = (aproarray.global_propagate, aproarray.related.tree_filter)
    if dtype == np.float64:  # sums over trees are float64
        for propagate in over_trees:
            with pytest.raises(ValueError, match=message):
                propagate(values, tree, zeta=1e9)
    else:
        for propagate in over_trees:
            np.testing.assert_array_equal(propagate(values, tree, zeta=1e9).get(), host)
    with pytest.raises(ValueError, match=message):
        aproarray.local_propagate(values, image, zeta=1e9, kernel_size=9)


@pytest.fixture
def tensors_on_device(gpu, monkeypatch):
    """Let the operators of torch compute with CPU tensors as if they were the device's."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from aproarray.torch import _ops

    def over(tensor):
        return emulated_cupy.ndarray(tensor.detach().numpy())

    monkeypatch.setattr(_ops, "_array", over)
    monkeypatch.setattr(_ops, "_backend", lambda _: contextlib.nullcontext((gpu, 1)))
    monkeypatch.setattr(_ops, "_tensors", lambda trees: tuple(torch.from_numpy(x.get()) for x in trees))
    return torch


def test_gradients_of_tensors(tensors_on_device):
    torch = tensors_on_device
    from aproarray.torch import global_propagate, local_propagate, mst

    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()

    image, zeta = rand(2, 2, 2, 3), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    values, features, index = rand(3, 1, 2, 3), rand(3, 1, 2, 3), torch.tensor([0, 1, 1])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    tree = mst(image.detach(), mask=mask)
    inputs = (values, image, features, zeta)

    def windows(values, image, _, zeta):
        options = {"kernel_size": 3, "iterations": 3, "mask": mask, "image_index": index}
        return local_propagate(values, image, zeta=zeta, **options)

    def line(values, _, features, zeta):
        return global_propagate(values, tree, zeta=zeta, features=features, tree_index=index)

    for propagate in (windows, line):
        assert torch.autograd.gradcheck(propagate, inputs, atol=1e-6)


def test_one_item_must_fit_32_bits(gpu):
    class Huge:
        shape, dtype = (1, 1 << 30, 1), np.dtype(np.float32)

    with pytest.raises(ValueError, match=r"shape \(32768, 32768\) has 2147483648 edges, .* fewer than 2\^31"):
        gpu.grid_trees(Huge, (1 << 15, 1 << 15), 1, None, 1)


def test_large_batches_and_many_channels_take_turns(gpu, monkeypatch):
    rng = np.random.default_rng(2)
    images = to_device(rng.random((5, 4, 6, 1), np.float32))
    values = to_device(rng.random((5, 3, 4, 6, 7), np.float32))
    trees = aproarray.mst(images)
    expected = aproarray.global_propagate(values, trees, zeta=0.5).get()
    monkeypatch.setattr(sys.modules["aproarray.gpu._arguments"], "MOST_EDGES", 2 * 4 * 6 * 2 + 1)
    monkeypatch.setattr(sys.modules["aproarray.gpu._arguments"], "WORKING_BYTES", 27 * 4 * 6 * 4)
    assert aproarray.mst(images) == trees
    np.testing.assert_array_equal(aproarray.global_propagate(values, trees, zeta=0.5).get(), expected)


def test_weights_of_large_batches_take_turns(gpu, monkeypatch):
    rng = np.random.default_rng(2)
    images, masks = rng.random((3, 9 * 40, 2), np.float32), rng.random((3, 9 * 40)) < 0.8
    values, region = rng.random((6, 9 * 40, 5), np.float32), rng.random((6, 9 * 40)) < 0.6
    region[3] = False
    given = [to_device(array) for array in (values, images, masks, region)]
    found = []
    for n_bytes in (1, 1 << 30):
        monkeypatch.setattr(sys.modules["aproarray.gpu._arguments"], "WORKING_BYTES", n_bytes)
        out = to_device(np.zeros_like(values))
        gpu.local_propagate(
            given[0], out, given[1], (9, 40), np.arange(6) // 2, given[2], 0.5, 5, 3, 1, region=given[3]
        )
        found.append(out.get())
    np.testing.assert_array_equal(*found)
    theirs = np.zeros_like(values)
    cpu.local_propagate(
        values, theirs, images, (9, 40), np.arange(6) // 2, masks, 0.5, 5, 3, 1, region=region
    )
    np.testing.assert_allclose(found[0], theirs, rtol=1e-5, atol=1e-7)


def test_nothing_becomes_a_numpy_array_unasked(gpu):
    image = to_device(np.random.default_rng(3).random((5, 6, 2)))
    tree = aproarray.mst(image)
    for array in (tree.order, tree.gaps, tree.gap_edges, tree.edges, tree.weights, tree.cut(0.1)):
        assert isinstance(array, emulated_cupy.ndarray)
    soft = aproarray.global_propagate(image, tree, zeta=1.0)
    assert isinstance(aproarray.local_propagate(soft, image, zeta=0.15), emulated_cupy.ndarray)
    assert isinstance(tree.to_linkage(), np.ndarray)
    assert pickle.loads(pickle.dumps(tree)) == tree
    with pytest.raises(TypeError, match="all arrays of one call must be of one library"):
        aproarray.global_propagate(image.get(), tree, zeta=1.0)
    with pytest.raises(TypeError, match=r"confidence is a numpy\.ndarray"):
        aproarray.related.tree_filter_v2(
            image, tree, beta=0.0, gamma=1.0, confidence=image.get()[..., 0], zeta=1.0
        )
    with pytest.raises(TypeError, match="out is a list"):
        aproarray.local_propagate(image, image, out=[], zeta=0.15)


def test_waits_that_not_all_threads_reach_are_errors():
    code = "KERNEL lost(int *x) { if (threadIdx.x) __syncthreads(); }"
    with device.active():
        from aproarray.gpu import _compile

        code, options = _compile.code_of("feature_gradients") + code, _compile.options_for(REAL="float")
    lost = emulated_cupy.RawModule(code=code, options=options).get_function("lost").kernel
    with pytest.raises(RuntimeError, match="lost: threads wait for one another"):
        lost((1,), (64,), (emulated_cupy.zeros(1, np.int32),))


def test_trees_that_kernels_cannot_trust_are_refused_on_the_device(gpu):
    mask = np.ones((3, 4), bool)
    mask[2, 2:] = False
    tree = aproarray.mst(np.random.default_rng(0).random((2, 3, 4, 1), np.float32), mask=mask)

    def again(**changed):
        names = ("shape", "order", "gaps", "gap_edges", "mask")
        fields = {name: getattr(tree, name) for name in names} | changed
        return SpanningTree(tree.shape, *(to_device(fields[name]) for name in names[1:]))

    assert again().order.get().tolist() == tree.order.tolist()
    for name, place, value, message in (
        ("order", (1, 3), 0, "order must hold every index"),
        ("gap_edges", (1, 4, 1), 12, "0 <= u < v < 12"),
        ("gap_edges", (0, 10), (0, 1), "where a gap is inf"),
        ("gap_edges", (0, 3), (0, 11), "mask leaves out"),
        ("gaps", (1, 2), np.nan, "gaps must be at least 0"),
    ):
        array = getattr(tree, name).copy()
        array[place] = value
        with pytest.raises(ValueError, match=message):
            again(**{name: array})
