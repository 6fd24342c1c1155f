"""Arrays of other libraries: in and out of the verbs without a copy, as what they were."""

import contextlib
import importlib
import inspect
import types

import numpy as np
import pytest
from on_device import usable_cupy

import aproarray
from aproarray import _arrays, related

RNG = np.random.default_rng(0)
IMAGE = RNG.random((2, 6, 5, 3), np.float32)
VALUES = RNG.random((2, 6, 5, 4), np.float32)
MASK = RNG.random((6, 5)) < 0.8


class Foreign:
    """An array of a library that nobody has heard of: all it can do is DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __array_namespace__(self):
        return ForeignNamespace


class ForeignNamespace:
    @staticmethod
    def from_dlpack(array):
        return Foreign(np.from_dlpack(array))


class Elsewhere(Foreign):
    def __dlpack_device__(self):
        return (8, 0)  # a Metal GPU


def arrays_of(library):
    """Return functions that make an array of a library, and NumPy's of it."""
    if library == "torch":
        torch = pytest.importorskip("torch", reason="torch is not installed")
        return torch.from_numpy, lambda tensor: tensor.numpy()
    if library == "jax":
        numpy = pytest.importorskip("jax.numpy", reason="JAX is not installed")
        return numpy.asarray, np.asarray
    return Foreign, lambda array: array.array


@pytest.fixture(params=["foreign", "torch", "jax"])
def library(request):
    return arrays_of(request.param)


def test_verbs_return_what_they_are_given(library):
    make, back = library
    tree = aproarray.mst(make(IMAGE), mask=make(MASK))
    assert tree == aproarray.mst(IMAGE, mask=MASK)
    for result, expected in (
        (
            aproarray.global_propagate(make(VALUES), tree, zeta=0.3),
            aproarray.global_propagate(VALUES, tree, zeta=0.3),
        ),
        (
            aproarray.global_propagate(make(VALUES), tree, zeta=[0.3, 1.0], features=make(IMAGE)),
            aproarray.global_propagate(VALUES, tree, zeta=[0.3, 1.0], features=IMAGE),
        ),
        (
            aproarray.global_propagate(make(VALUES), tree, zeta=0.3, tree_index=[1, 0]),
            aproarray.global_propagate(VALUES, tree, zeta=0.3, tree_index=[1, 0]),
        ),
        (
            aproarray.local_propagate(make(VALUES), make(IMAGE), mask=make(MASK), iterations=2, zeta=0.15),
            aproarray.local_propagate(VALUES, IMAGE, mask=MASK, iterations=2, zeta=0.15),
        ),
        (
            related.tree_filter(make(VALUES), tree, zeta=0.3, features=make(IMAGE)),
            related.tree_filter(VALUES, tree, zeta=0.3, features=IMAGE),
        ),
        (
            related.mean_field(make(VALUES), make(IMAGE), region=make(VALUES), iterations=2, zeta=0.1),
            related.mean_field(VALUES, IMAGE, region=VALUES, iterations=2, zeta=0.1),
        ),
        (
            related.pamr(make(VALUES), make(IMAGE), dilations=(1, 2), iterations=2),
            related.pamr(VALUES, IMAGE, dilations=(1, 2), iterations=2),
        ),
        (
            related.pairwise_affinity(make(IMAGE), mask=make(MASK)),
            related.pairwise_affinity(IMAGE, mask=MASK),
        ),
    ):
        assert type(result) is type(make(VALUES))
        np.testing.assert_array_equal(back(result), expected)


STROKES = np.zeros((6, 5), np.int32)
STROKES[0, 0], STROKES[4, 3] = 1, 2


@pytest.mark.parametrize(
    "act",
    [
        lambda make: aproarray.propagate_labels(make(IMAGE[0]), make(STROKES), mask=make(MASK)),
        lambda make: aproarray.propagate_labels(make(IMAGE[0]), make(STROKES), return_full_prob=True),
        lambda make: aproarray.LabelPropagator(make(IMAGE[0])).propagate(make(STROKES)),
        lambda make: aproarray.refine(make(IMAGE[0]), make(VALUES[0, :3, :2]), mask=make(MASK)),
        lambda make: aproarray.affinity_map(make(IMAGE[0]), (1, 2), kind="local", iterations=2),
    ],
)
def test_labels_and_scores_return_what_they_are_given(library, act):
    make, back = library
    result = act(make)
    assert type(result) is type(make(VALUES))
    np.testing.assert_array_equal(back(result), act(lambda array: array))


def test_trees_are_made_and_weighed_by_what_is_given(library):
    make, _ = library
    edges, weights = np.array([[0, 1], [1, 2], [0, 2]], np.int32), np.array([1, 4, 9], np.float32)
    tree = aproarray.SpanningTree.from_edges(make(edges), make(weights), 3)
    assert tree == aproarray.SpanningTree.from_edges(edges, weights, 3)
    tree = aproarray.mst(IMAGE)
    assert tree.reweight(make(VALUES)) == tree.reweight(VALUES)


def test_verbs_without_gradients_do_not_offer_them():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    values = torch.from_numpy(VALUES).clone().requires_grad_()
    with pytest.raises(
        TypeError, match=r"values requires grad, and pamr has no gradients: pass values\.detach"
    ):
        related.pamr(values, torch.from_numpy(IMAGE))
    with pytest.raises(TypeError, match=r"and LabelPropagator has no gradients: pass image\.detach"):
        aproarray.LabelPropagator(torch.from_numpy(IMAGE[0]).clone().requires_grad_())
    with torch.no_grad():
        assert related.pamr(values, torch.from_numpy(IMAGE)).shape == VALUES.shape


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes_are_kept(library, dtype):
    make, back = library
    result = aproarray.local_propagate(
        make(VALUES[..., :1].astype(dtype)), make(IMAGE), iterations=1, zeta=0.15
    )
    if back(make(np.zeros(1, dtype))).dtype == dtype:  # JAX makes float32 of float64
        assert back(result).dtype == dtype


def test_nothing_is_copied_on_the_way_in(library):
    make, back = library
    for array in (VALUES.copy(), MASK.copy()):
        given = make(array)
        over = _arrays.array_over(given, "values", "mst")
        assert over.dtype == array.dtype
        assert over.ctypes.data == back(given).ctypes.data


def test_nothing_is_copied_on_the_way_out():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    result = VALUES.copy()
    assert _arrays._like(torch.zeros(1), result).data_ptr() == result.ctypes.data


def test_out_is_written_to():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tree = aproarray.mst(torch.from_numpy(IMAGE))
    values, out = torch.from_numpy(VALUES), torch.empty(VALUES.shape)
    assert aproarray.global_propagate(values, tree, zeta=0.3, out=out) is out
    np.testing.assert_array_equal(out, aproarray.global_propagate(VALUES, tree, zeta=0.3))


def test_negated_views_of_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    values = torch.from_numpy(VALUES)
    negated = torch.complex(values, values).conj().imag
    assert negated.is_neg()
    tree = aproarray.mst(IMAGE)
    result = aproarray.global_propagate(negated, tree, zeta=0.3)
    np.testing.assert_array_equal(result, aproarray.global_propagate(-VALUES, tree, zeta=0.3))
    with pytest.raises(ValueError, match="out must not be a negated view"):
        aproarray.global_propagate(values, tree, zeta=0.3, out=negated)


def test_verbs_break_the_graph_of_torch_compile():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tree = aproarray.mst(IMAGE)

    def act(values):
        return aproarray.global_propagate(values * 2, tree, zeta=0.3) + 1

    values = torch.from_numpy(VALUES)
    assert torch.equal(torch.compile(act, backend="eager")(values), act(values))


def test_layouts_of_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tree = aproarray.mst(IMAGE)
    for view in (
        torch.from_numpy(VALUES).permute(0, 3, 1, 2),
        torch.from_numpy(VALUES).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(VALUES)[..., :1].permute(0, 3, 1, 2).expand(-1, 4, -1, -1),
    ):
        expected = aproarray.global_propagate(view.numpy(), tree, zeta=0.3, channel_axis=1)
        np.testing.assert_array_equal(
            aproarray.global_propagate(view, tree, zeta=0.3, channel_axis=1), expected
        )


def test_two_libraries_are_refused():
    message = (
        "all arrays of one call must be of one library, but values is a .*Foreign, image is a numpy.ndarray"
    )
    with pytest.raises(TypeError, match=message):
        aproarray.local_propagate(Foreign(VALUES), IMAGE, zeta=0.15)


def test_two_devices_are_refused():
    message = "must be on one device, but got values on cpu, image on DLPack device type 8:0"
    with pytest.raises(TypeError, match=message):
        aproarray.local_propagate(Foreign(VALUES), Elsewhere(IMAGE), zeta=0.15)


def test_a_device_without_backend_is_refused():
    with pytest.raises(
        TypeError, match="image must be on the CPU or a CUDA device, got DLPack device type 8"
    ):
        aproarray.mst(Elsewhere(IMAGE))


def test_what_requires_grad_is_told_where_to_go():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tree, values = aproarray.mst(IMAGE), torch.from_numpy(VALUES).requires_grad_()
    with pytest.raises(TypeError, match=r"values requires grad.*use aproarray\.torch\.global_propagate"):
        aproarray.global_propagate(values, tree, zeta=1)
    with torch.no_grad():
        result = aproarray.global_propagate(values, tree, zeta=1)
    np.testing.assert_array_equal(result, aproarray.global_propagate(VALUES, tree, zeta=1))


@pytest.mark.parametrize("kind", ["bfloat16", "complex64"])
def test_dtypes_without_kernels_are_refused(kind):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(
        TypeError, match=r"image must hold bool, integer, float16, float32 or float64.* got dtype"
    ):
        aproarray.mst(torch.zeros(4, 4, 3, dtype=getattr(torch, kind)))


def test_tensors_without_memory_are_refused():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(TypeError, match=r"image must be a tensor with memory that can be shared, got .*meta"):
        aproarray.mst(torch.zeros(4, 4, 3, device="meta"))


@pytest.fixture
def jax():
    return pytest.importorskip("jax", reason="JAX is not installed")


def test_jax_arrays_stay_on_their_device_and_unchanged(jax):
    image, values = jax.numpy.asarray(IMAGE), jax.numpy.asarray(VALUES)
    over = _arrays.array_over(values, "values", "global_propagate")
    assert over.ctypes.data == values.unsafe_buffer_pointer()
    assert not over.flags.writeable
    tree = aproarray.mst(image)
    result = aproarray.global_propagate(values, tree, zeta=1)
    assert isinstance(result, jax.Array)
    assert result.devices() == values.devices()
    with pytest.raises(ValueError, match="out must be writeable"):
        aproarray.global_propagate(values, tree, zeta=1, out=values)
    np.testing.assert_array_equal(values, VALUES)


def test_jax_traces_are_refused_and_callbacks_work(jax):
    tree, image = aproarray.mst(jax.numpy.asarray(IMAGE[0])), jax.numpy.asarray(IMAGE[0])

    def propagate(values):
        return aproarray.local_propagate(aproarray.global_propagate(values, tree, zeta=0.3), image, zeta=0.15)

    values = jax.numpy.asarray(VALUES[0])
    message = r"(values|image) must be an array .*Tracer: .*aproarray\.jax.*outside, or through jax\.pure_"
    for traced in (
        jax.jit(propagate),
        jax.grad(jax.jit(lambda x: propagate(x).sum())),
        jax.jit(aproarray.mst),
    ):
        with pytest.raises(TypeError, match=message):
            traced(values)
    with pytest.raises(TypeError, match=message):
        jax.jit(lambda x: aproarray.local_propagate(x, image, zeta=0.15))(values)

    @jax.jit
    def twice(values):
        return 2 * jax.pure_callback(propagate, jax.ShapeDtypeStruct(values.shape, values.dtype), values)

    np.testing.assert_array_equal(twice(values), 2 * propagate(values))


def test_other_transforms_of_jax_are_told_what_helps(jax):
    tree, values = aproarray.mst(IMAGE[0]), jax.numpy.asarray(VALUES[0])

    def total(values):
        return aproarray.global_propagate(values, tree, zeta=0.3).sum()

    message = r"values must be an array .*no gradients.*aproarray\.jax.*jax\.lax\.stop_gradient\(values\)"
    for traced in (jax.grad(total), jax.jit(jax.grad(total)), lambda x: jax.jvp(total, (x,), (x,))):
        with pytest.raises(TypeError, match=message) as caught:
            traced(values)
        assert "pure_callback" not in str(caught.value)
    with pytest.raises(
        TypeError, match=r"not run inside jax\.vmap\. .*aproarray\.jax.* pass the whole batch"
    ):
        jax.vmap(total)(values[None])

    # Both pieces of advice work.
    @jax.grad
    def by_factor(values):
        return (aproarray.global_propagate(jax.lax.stop_gradient(values), tree, zeta=0.3) * values).sum()

    np.testing.assert_array_equal(by_factor(values), aproarray.global_propagate(values, tree, zeta=0.3))
    batch = aproarray.global_propagate(jax.numpy.stack([values, 2 * values]), tree, zeta=0.3)
    np.testing.assert_array_equal(batch[0], aproarray.global_propagate(values, tree, zeta=0.3))


@pytest.mark.parametrize("module", [aproarray, aproarray.related])
def test_only_what_has_gradients_is_named(module):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with_gradients = importlib.import_module("aproarray.torch")
    values = torch.from_numpy(VALUES).requires_grad_()
    for name in module.__all__:
        verb = getattr(module, name)
        if not hasattr(verb, "__wrapped__") or isinstance(verb, type):
            continue
        given = dict.fromkeys(inspect.signature(verb).parameters, values)
        with pytest.raises(TypeError, match=f"requires grad, and {name} has no gradients") as caught:
            verb(**given)
        has_gradients = name != "mst" and hasattr(with_gradients, name)
        assert (f"use aproarray.torch.{name}, which has" in str(caught.value)) == has_gradients


def test_torch_without_its_bridge_to_numpy(monkeypatch):
    # As torch 2.0 to 2.2 are beside NumPy 2. Bool came to its DLPack with 2.2, newer options came later.
    torch = pytest.importorskip("torch", reason="torch is not installed")

    def numpy(self, **_):
        raise RuntimeError("Numpy is not available")

    def dlpack(self, stream=None):
        if self.dtype == torch.bool:
            raise RuntimeError("Bool type is not supported by dlpack")
        return torch.utils.dlpack.to_dlpack(self)

    image, values, mask = map(torch.from_numpy, (IMAGE, VALUES, MASK))
    monkeypatch.setattr(torch.Tensor, "numpy", numpy)
    monkeypatch.setattr(torch.Tensor, "__dlpack__", dlpack)
    monkeypatch.delattr(torch.Tensor, "__array__")
    tree = aproarray.mst(image, mask=mask)
    result = aproarray.global_propagate(values, tree, zeta=0.3)
    assert isinstance(result, torch.Tensor)
    expected = aproarray.global_propagate(VALUES, aproarray.mst(IMAGE, mask=MASK), zeta=0.3)
    np.testing.assert_array_equal(np.from_dlpack(result), expected)


@pytest.mark.gpu
def test_cuda_tensors_stay_on_their_device_and_stream():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    usable_cupy()
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)  # the values are not there yet when the call is made
        image, values = torch.from_numpy(IMAGE).cuda(), torch.from_numpy(VALUES).cuda()
        tree = aproarray.mst(image)
        result = aproarray.global_propagate(values, tree, zeta=0.3)
    assert result.device == values.device
    stream.synchronize()
    expected = aproarray.global_propagate(VALUES, aproarray.mst(IMAGE), zeta=0.3)
    np.testing.assert_allclose(result.cpu().numpy(), expected, rtol=1e-5)


def test_tensors_of_a_subclass_are_tensors():
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Wrapped(torch.Tensor):
        pass

    image = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    negated = torch.complex(image, image).conj().imag
    for values in (image, negated):
        expected = aproarray.local_propagate(values, image, channel_axis=0, zeta=0.15)
        result = aproarray.local_propagate(values.as_subclass(Wrapped), image, channel_axis=0, zeta=0.15)
        assert torch.equal(result, expected)


def test_tensors_that_are_not_dense_say_so():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(
        TypeError, match=r"image must be a dense tensor of numbers, got a torch.sparse_coo one"
    ):
        aproarray.mst(torch.eye(4).to_sparse())


def test_writing_to_a_tensor_is_seen_by_autograd():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    image, out = torch.rand(3, 4, 5), torch.rand(3, 4, 5)
    factor = torch.ones(3, 4, 5, requires_grad=True)
    product = (factor * out).sum()
    aproarray.local_propagate(image, image, channel_axis=0, out=out, zeta=0.15)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_output_must_have_a_place_for_every_number():
    image = np.zeros((4, 5, 2))
    with pytest.raises(ValueError, match="out must have a place for every number, got strides"):
        aproarray.local_propagate(
            image, image, out=np.lib.stride_tricks.as_strided(np.zeros(9), (4, 5, 2), (16, 8, 0)), zeta=0.15
        )


def test_cupy_works_on_torchs_stream(monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    stream = types.SimpleNamespace(cuda_stream=0x5EED)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    new = types.SimpleNamespace(from_external=lambda other: other.__cuda_stream__())
    cupy_14 = types.SimpleNamespace(cuda=types.SimpleNamespace(Stream=new))
    cupy_13 = types.SimpleNamespace(
        cuda=types.SimpleNamespace(Stream=object, ExternalStream=lambda *given: given)
    )
    assert _arrays._stream_over(cupy_14, torch.zeros(1), 2) == (0, 0x5EED)
    assert _arrays._stream_over(cupy_13, torch.zeros(1), 2) == (0x5EED, 2)


def test_results_are_handed_over_on_the_devices_stream(monkeypatch):
    # To hand an array over is work on CuPy's current stream: outside, that is the null stream.
    entered = []

    @contextlib.contextmanager
    def on_device_of(array):
        entered.append(True)
        yield
        entered.pop()

    like, seen = _arrays._like, []
    monkeypatch.setattr(_arrays, "on_device_of", on_device_of)
    monkeypatch.setattr(_arrays, "_like", lambda *given: (seen.append(list(entered)), like(*given))[1])
    aproarray.local_propagate(Foreign(VALUES), Foreign(IMAGE), zeta=0.15)
    assert seen == [[True]]
