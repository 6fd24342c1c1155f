"""The GPU backend on a device: the CPU backend's tests and its very bits, streams, CUDA graphs."""

import importlib
import os

import label_tests
import numpy as np
import pytest
from on_device import Device, usable_cupy

import aproarray

cupy = usable_cupy()

pytestmark = pytest.mark.gpu
if os.environ.get("WITHOUT_POOL"):  # an array is an allocation then, beyond which a sanitizer sees
    cupy.cuda.set_allocator(None)
device = Device(cupy)
globals().update(device.tests(max_examples=80))
globals().update({name: test for name, test in vars(label_tests).items() if name.startswith("test_")})


@pytest.fixture(autouse=True)
def _active():
    with device.active():
        yield


@pytest.mark.parametrize("shape", [(512, 512), (300, 700), (40, 50, 60), (2000, 1500)], ids=str)
@pytest.mark.parametrize("levels", [1, 3, 256])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_trees_are_the_cpus_bit_for_bit(shape, levels, dtype):
    image = np.random.default_rng(0).integers(levels, size=(*shape, 3)).astype(dtype)
    ours = aproarray.mst(cupy.asarray(image), spatial_ndim=len(shape))
    theirs = aproarray.mst(image, spatial_ndim=len(shape))
    for name in ("edges", "weights", "order", "gaps", "gap_edges"):
        np.testing.assert_array_equal(getattr(ours, name).get(), getattr(theirs, name))


@pytest.fixture
def there():
    return label_tests.There(cupy, importlib.import_module("aproarray.gpu"), tolerance=5e-3)


@pytest.mark.parametrize("shape", [(700, 900), (2000, 1500), (40, 70, 80)], ids=str)
@pytest.mark.parametrize("levels", [1, 3, 1 << 20])
def test_large_floods_are_the_cpus_bit_for_bit(there, shape, levels):
    label_tests.test_floods_are_the_cpus_bit_for_bit(there, shape, levels)


def some_input(n=4):
    rng = np.random.default_rng(1)
    images = cupy.asarray(rng.random((n, 200, 300, 3), np.float32))
    return images, cupy.asarray(rng.random((n, 200, 300, 5), np.float32))


def pipeline(images, values):
    trees = aproarray.mst(images, check_finite=False)
    soft = aproarray.global_propagate(values, trees, zeta=0.3, check_finite=False)
    return aproarray.local_propagate(soft, images, check_finite=False, zeta=0.15)


def test_results_repeat_bit_for_bit_whatever_else_is_in_the_batch():
    images, values = some_input()
    whole = pipeline(images, values).get()
    np.testing.assert_array_equal(pipeline(images, values).get(), whole)
    for b in range(len(images)):
        alone = pipeline(images[b : b + 1], values[b : b + 1]).get()
        np.testing.assert_array_equal(alone[0], whole[b])


def test_work_is_done_on_the_current_stream():
    images, values = some_input()
    expected = pipeline(images, values).get()
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(3)]
    results = []
    for stream in streams:
        with stream:
            results.append(pipeline(images, values))
    for stream, result in zip(streams, results, strict=True):
        stream.synchronize()
        np.testing.assert_array_equal(result.get(), expected)


def test_a_pipeline_of_fixed_shapes_can_be_captured_and_replayed():
    images, values = some_input()
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    # What the graph works in must stay its own: a pool, which a first call fills. That call also
    # compiles the kernels.
    pool = cupy.cuda.MemoryPool()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        out = cupy.empty_like(values)
        out[...] = pipeline(images, values)
        stream.synchronize()
        stream.begin_capture()
        out[...] = pipeline(images, values)
        graph = stream.end_capture()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        images[...] = cupy.asarray(rng.random(images.shape, np.float32))
        values[...] = cupy.asarray(rng.random(values.shape, np.float32))
        cupy.cuda.Device().synchronize()
        graph.launch(stream)
        stream.synchronize()
        np.testing.assert_array_equal(out.get(), pipeline(images, values).get())


def test_lists_and_numpy_arrays_do_not_mix_with_device_arrays():
    images, values = some_input()
    trees = aproarray.mst(images)
    with pytest.raises(TypeError, match="all arrays of one call must be of one library"):
        aproarray.global_propagate(values.get(), trees, zeta=0.1)
    with pytest.raises(TypeError, match="all arrays of one call must be of one library"):
        aproarray.local_propagate(values, images.get(), zeta=0.15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel_size", [3, 5, 9])
def test_gradients_of_cuda_tensors_are_the_cpus(dtype, kernel_size):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    from aproarray.torch import global_propagate, local_propagate, mst

    generator = torch.Generator().manual_seed(0)
    image, values, upstream = (
        torch.rand(2, channels, 150, 210, generator=generator, dtype=torch.float64) for channels in (3, 6, 6)
    )

    def gradients(device, dtype):
        inputs = [x.to(device, dtype).requires_grad_() for x in (values, image, torch.tensor(0.3))]
        mask = (image[0, 0] < 0.95).to(device)
        tree = mst(inputs[1].detach(), mask=mask)
        result = global_propagate(inputs[0], tree, zeta=inputs[2], features=inputs[1])
        options = {"zeta": inputs[2], "kernel_size": kernel_size, "iterations": 4}
        result = local_propagate(result, inputs[1], mask=mask, **options)
        boxes = torch.zeros(2, 1, 150, 210, device=device)
        boxes[:, :, 20:120, 30:190] = 1
        result = result + local_propagate(result, inputs[1], region=boxes, **options)
        return torch.autograd.grad(result, inputs, upstream.to(result))

    tolerance = 1e-4 if dtype == "float32" else 1e-10
    ours = gradients("cuda", getattr(torch, dtype))
    again = gradients("cuda", getattr(torch, dtype))
    for one, same, other in zip(ours, again, gradients("cpu", torch.float64), strict=True):
        assert torch.equal(one, same)
        assert (one.cpu() - other).norm() < tolerance * other.norm()


def test_tensors_come_back_in_memory_of_torchs():
    # CuPy's pool knows nothing of torch's streams: its memory could be written to while they read it.
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    from aproarray.torch import mst

    image = torch.rand(1, 3, 256, 256, device="cuda")

    def allocated(act):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        result = act()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated() - before, result

    used, tree = allocated(lambda: mst(image))
    assert used >= tree.order.nbytes + tree.gaps.nbytes + tree.gap_edges.nbytes
    used, result = allocated(lambda: aproarray.local_propagate(image[0, 0], image[0, 0], zeta=0.1))
    assert used >= result.nbytes
