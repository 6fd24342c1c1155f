"""aproarray.torch: the same results as the verbs on arrays, exact gradients, and torch's own machinery."""

import copy
import functools
import importlib
import pickle
import sys
import tracemalloc

import numpy as np
import pytest

import aproarray

torch = pytest.importorskip("torch", reason="torch is not installed")

from aproarray.torch import (  # noqa: E402
    AffinityPropagation,
    GlobalPropagation,
    LocalPropagation,
    Tree,
    apro_loss,
    global_propagate,
    local_propagate,
    mst,
    tree_filter,
    tree_filter_v2,
)

D = torch.float64
gradcheck = functools.partial(torch.autograd.gradcheck, atol=1e-6)


def rand(*shape, seed=0, dtype=D, grad=False):
    tensor = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return tensor.requires_grad_(grad)


IMAGE = rand(2, 3, 4, 5)
MASK = rand(4, 5, seed=5) < 0.7
ZETA = torch.tensor(0.5, dtype=D, requires_grad=True)
INDEX = torch.tensor([0, 1, 1])


def as_last(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


@pytest.mark.parametrize("mask", [None, MASK, torch.stack([MASK, ~MASK])], ids=["all", "mask", "masks"])
def test_results_are_those_of_arrays(mask):
    values, features = rand(2, 4, 4, 5, dtype=torch.float32), rand(2, 2, 4, 5, seed=1, dtype=torch.float32)
    image = IMAGE.float()
    tree = mst(image, mask=mask)
    tree_of_arrays = aproarray.mst(as_last(image), mask=None if mask is None else mask.numpy())
    for tensor, array in zip(
        tree, (tree_of_arrays.order, tree_of_arrays.gaps, tree_of_arrays.gap_edges), strict=True
    ):
        np.testing.assert_array_equal(tensor.reshape(array.shape), array)
    np.testing.assert_array_equal(
        as_last(global_propagate(values, tree, zeta=[0.3, 2.0], features=features)[1]),
        aproarray.global_propagate(as_last(values), tree_of_arrays, zeta=2.0, features=as_last(features)),
    )
    np.testing.assert_array_equal(
        as_last(local_propagate(values, image, iterations=3, mask=mask)),
        aproarray.local_propagate(
            as_last(values),
            as_last(image),
            zeta=0.15,
            iterations=3,
            mask=None if mask is None else mask.numpy(),
        ),
    )


def test_one_image_is_a_batch_without_its_axis():
    values = rand(4, 4, 5)
    tree = mst(IMAGE[0])
    assert (tree.order.shape, tree.gaps.shape, tree.gap_edges.shape) == ((4, 5), (19,), (19, 2))
    batch = global_propagate(values[None], mst(IMAGE[:1]), zeta=0.4)
    assert torch.equal(global_propagate(values, tree, zeta=0.4), batch[0])
    assert torch.equal(local_propagate(values, IMAGE[0]), local_propagate(values[None], IMAGE[:1])[0])


@pytest.mark.parametrize("mask", [None, MASK], ids=["tree", "forest"])
@pytest.mark.parametrize("index", [None, INDEX], ids=["batch", "tree_index"])
@pytest.mark.parametrize("with_features", [False, True])
def test_global_gradients(mask, index, with_features):
    tree = mst(IMAGE, mask=mask)
    n = 2 if index is None else 3
    values, features = rand(n, 2, 4, 5, seed=1, grad=True), rand(n, 2, 4, 5, seed=2, grad=True)

    def propagate(values, features, zeta):
        return global_propagate(
            values, tree, zeta=zeta, features=features if with_features else None, tree_index=index
        )

    inputs = (values, features if with_features else None, ZETA)
    assert gradcheck(propagate, inputs)


@pytest.mark.parametrize("zeta", [0.05, 30.0])
def test_global_gradients_where_affinities_vanish_or_are_all_one(zeta):
    # Values one after the other on a line: the gaps are far apart, and small zetas cut it in pieces.
    image = torch.tensor([0.0, 0.1, 0.15, 1.0, 1.02, 3.0, 3.04, 3.09], dtype=D)[None, None, None]
    values, features = rand(1, 2, 1, 8, grad=True), image.clone().requires_grad_()
    scale = torch.tensor(zeta, dtype=D, requires_grad=True)
    tree = mst(image)
    assert gradcheck(lambda v, f, z: global_propagate(v, tree, zeta=z, features=f), (values, features, scale))


def test_global_gradients_of_wide_values():
    # More channels than one sweep takes, side by side and not.
    values, features = rand(1, 35, 2, 3, grad=True), rand(1, 1, 2, 3, seed=1, grad=True)
    tree = mst(IMAGE[:1, :, :2, :3])
    for layout in (torch.contiguous_format, torch.channels_last):
        assert gradcheck(
            lambda v, f, layout=layout: global_propagate(
                v.contiguous(memory_format=layout), tree, zeta=0.7, features=f
            ),
            (values, features),
        )


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "mask"])
@pytest.mark.parametrize("index", [None, INDEX], ids=["batch", "image_index"])
@pytest.mark.parametrize(("kernel_size", "iterations"), [(3, 1), (3, 4), (5, 2), (1, 3)])
def test_local_gradients(mask, index, kernel_size, iterations):
    values, image = rand(2 if index is None else 3, 2, 4, 5, grad=True), IMAGE.clone().requires_grad_()

    def propagate(values, image, zeta):
        return local_propagate(
            values, image, zeta=zeta, kernel_size=kernel_size, iterations=iterations, mask=mask,
            image_index=index,
        )  # fmt: skip

    assert gradcheck(propagate, (values, image, ZETA))


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (2, 40)])
def test_local_gradients_of_windows_much_larger_than_the_image(shape):
    """A window reaches no further than the image along any axis, whatever its size."""
    values, image = rand(1, 2, *shape, grad=True), rand(1, 2, *shape, seed=1, grad=True)
    phi, pixels = (x.flatten(2).mT[0] for x in (values, image))
    weights = torch.exp(-(pixels[:, None] - pixels).square().sum(-1) / 0.25)
    for _ in range(2):
        phi = weights @ phi / weights.sum(1, keepdim=True)
    expected = torch.autograd.grad(phi.square().sum(), (values, image))
    for kernel_size in (2 * max(shape) - 1, 10**30 + 1):
        result = local_propagate(values, image, zeta=0.5, kernel_size=kernel_size, iterations=2)
        torch.testing.assert_close(torch.autograd.grad(result.square().sum(), (values, image)), expected)


def test_local_gradients_do_not_depend_on_how_the_work_is_cut(monkeypatch):
    from aproarray.cpu import _local, _local_gradients

    image, values = rand(1, 2, 30, 7, grad=True), rand(1, 9, 30, 7, seed=1, grad=True)

    def gradients():
        result = local_propagate(values, image, zeta=ZETA, kernel_size=3, iterations=6)
        return torch.autograd.grad(result.square().sum(), (values, image, ZETA))

    expected = gradients()
    monkeypatch.setattr(_local, "_STREAM_BYTES", 1)  # several passes ...
    monkeypatch.setattr(_local_gradients, "_GRADIENT_PIXELS", 1)  # over several bands ...
    monkeypatch.setattr(_local_gradients, "_GRADIENT_MOVES", 1)  # with as few slabs kept as there can be
    for ours, other in zip(gradients(), expected, strict=True):
        assert torch.equal(ours, other)


def test_many_iterations_do_not_keep_more_rows_than_there_are():
    image, values = rand(1, 1, 30, 7, grad=True), rand(1, 1, 30, 7, seed=1)
    result = local_propagate(values, image, kernel_size=3, iterations=400)
    tracemalloc.start()
    try:
        result.sum().backward()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30e6
    assert image.grad.isfinite().all()


def test_volumes():
    image, values = rand(2, 1, 3, 4, 2), rand(2, 2, 3, 4, 2, seed=1, grad=True)
    tree = mst(image, spatial_ndim=3, connectivity=3)
    assert gradcheck(lambda v: global_propagate(v, tree, zeta=0.5), (values,))
    assert gradcheck(
        lambda v, i: local_propagate(v, i, zeta=0.5, kernel_size=3, iterations=2, spatial_ndim=3),
        (values, image.requires_grad_()),
    )


def test_mirrored_lines_have_mirrored_gradients():
    # Ever smaller steps make a stack as deep as the line is long; mirrored, they make it two deep.
    line = torch.cumsum(torch.arange(400, 0, -1, dtype=D) / 400, 0)[None, None, None]
    values, upstream = rand(1, 5, 1, 400), rand(1, 5, 1, 400, seed=1)

    def gradients(line, values, upstream):
        inputs = values.clone().requires_grad_(), line.clone().requires_grad_(), ZETA
        result = global_propagate(inputs[0], mst(line), zeta=ZETA, features=inputs[1])
        return torch.autograd.grad(result, inputs, upstream)

    straight = gradients(line, values, upstream)
    mirrored = gradients(line.flip(-1), values.flip(-1), upstream.flip(-1))
    for ours, other in zip(straight, mirrored, strict=True):
        torch.testing.assert_close(ours, other.flip(-1) if other.ndim else other, rtol=1e-10, atol=1e-12)


def test_single_precision_gradients_are_those_of_double():
    skimage = pytest.importorskip("skimage", reason="scikit-image is not installed")
    picture = torch.from_numpy(skimage.data.astronaut()[:128, 150:278].copy()).permute(2, 0, 1)[None] / 255
    # Noise, as ties of integers would be broken by rounding, otherwise in each precision.
    picture = picture + 0.02 * rand(1, 3, 128, 128, seed=2, dtype=torch.float32)

    def gradients(dtype):
        image = picture.to(dtype).requires_grad_()
        values = rand(1, 4, 128, 128, dtype=D).to(dtype).requires_grad_()
        zeta = torch.tensor(0.05, dtype=dtype, requires_grad=True)
        result = global_propagate(values, mst(image.detach()), zeta=zeta, features=image)
        result = local_propagate(result, image, zeta=0.1, iterations=5)
        upstream = rand(1, 4, 128, 128, seed=1).to(dtype)
        return torch.autograd.grad(result, (values, image, zeta), upstream)

    for single, double in zip(gradients(torch.float32), gradients(D), strict=True):
        assert (single - double).norm() < 1e-4 * double.norm()


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("zeta", [1e-25, 1e-200])
def test_gradients_where_the_square_of_zeta_is_no_number(zeta, dtype):
    # Ties have a derivative of 1 / zeta^2 to their weights, and one of 0 to features.
    values, upstream = rand(1, 2, 4, 5, dtype=dtype, grad=True), 1000 * rand(1, 2, 4, 5, seed=1, dtype=dtype)
    features = IMAGE[:1].to(dtype).clone()
    features[..., 3:] = features[..., 3:4]
    scale = torch.tensor(zeta, dtype=D, requires_grad=True)
    tree = mst(features)
    result = global_propagate(values, tree, zeta=scale, features=features.requires_grad_())
    by_values, by_features, by_zeta = torch.autograd.grad(result, (values, features, scale), upstream)
    assert torch.isfinite(by_values).all()
    assert (by_features == 0).all()
    assert by_zeta == 0


@pytest.mark.parametrize("channels", [1, 3, 4, 7, 12])
@pytest.mark.parametrize("last", [False, True])
def test_feature_gradients_of_any_number_of_channels_and_layout(channels, last):
    tree, index = mst(IMAGE), torch.tensor([0, 1, 1])
    features = rand(3, channels, 4, 5, seed=2)
    if last:
        features = features.contiguous(memory_format=torch.channels_last)
    values = rand(3, 1, 4, 5, seed=1)

    def propagate(features):
        return global_propagate(values, tree, zeta=ZETA, features=features, tree_index=index)

    assert gradcheck(propagate, features.requires_grad_())


def test_tied_features_have_a_one_sided_derivative():
    # |f_0 - f_1| = |f_1 - f_2|: the sum over both must be that of scaling f, which keeps the tie.
    features = torch.tensor([0.0, 1.0, 2.0], dtype=D)[None, None, None].requires_grad_()
    values = rand(1, 1, 1, 3)
    tree = mst(features.detach())

    def of_scale(scale):
        return global_propagate(values, tree, zeta=1.0, features=features * scale)[0, 0, 0, 0]

    scale = torch.ones((), dtype=D, requires_grad=True)
    (by_scale,) = torch.autograd.grad(of_scale(scale), scale)
    step = 1e-6
    expected = (of_scale(1 + step) - of_scale(1 - step)) / (2 * step)
    torch.testing.assert_close(by_scale, expected, rtol=1e-6, atol=1e-9)


def test_pixels_outside_the_mask_pass_their_gradient():
    values, image = rand(1, 2, 4, 5, grad=True), IMAGE[:1].clone()
    with torch.no_grad():
        values[..., ~MASK] = torch.nan
    image[..., ~MASK] = torch.nan
    image.requires_grad_()
    upstream = rand(1, 2, 4, 5, seed=3)
    tree = mst(image.detach(), mask=MASK)
    (gradient,) = torch.autograd.grad(global_propagate(values, tree, zeta=0.4), values, upstream)
    assert torch.equal(gradient[..., ~MASK], upstream[..., ~MASK])
    assert torch.isfinite(gradient).all()
    result = local_propagate(values, image, mask=MASK, iterations=2)
    by_values, by_image = torch.autograd.grad(result, (values, image), upstream)
    assert torch.equal(by_values[..., ~MASK], upstream[..., ~MASK])
    assert torch.isfinite(by_values).all()
    assert torch.isfinite(by_image).all()
    assert (by_image[..., ~MASK] == 0).all()


def test_a_tree_may_be_used_twice_in_a_graph():
    values = rand(1, 2, 4, 5, grad=True)
    tree = mst(IMAGE[:1])

    def twice(values, zeta):
        first = global_propagate(values, tree, zeta=zeta)
        return global_propagate(first, tree, zeta=0.8, features=first) * first

    assert gradcheck(twice, (values, ZETA))


def test_gradients_repeat_bit_for_bit_with_any_number_of_threads():
    image, values = rand(3, 3, 40, 40, dtype=torch.float32), rand(3, 40, 40, 40, dtype=torch.float32)
    features = rand(3, 2, 40, 40, seed=4, dtype=torch.float32)

    def gradients():
        inputs = values.clone().requires_grad_(), features.clone().requires_grad_()
        result = global_propagate(inputs[0], mst(image), zeta=0.1, features=inputs[1])
        result = local_propagate(result, inputs[1], zeta=0.3, iterations=3)
        return torch.autograd.grad(result.square().sum(), inputs)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = gradients()
        torch.set_num_threads(4)
        four = gradients()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, four, strict=True))


def test_mst_says_that_it_has_no_gradient():
    image = rand(1, 3, 4, 5, grad=True)
    with pytest.raises(ValueError, match=r"mst is not differentiable.*image\.detach\(\)"):
        mst(image)
    with torch.no_grad():
        mst(image)


@pytest.mark.parametrize("wrt", [0, 1, 2], ids=["values", "image", "zeta"])
@pytest.mark.parametrize("verb", ["global", "local"])
def test_second_order_derivatives_say_that_they_are_not_there(verb, wrt):
    inputs = rand(1, 2, 4, 5, grad=True), IMAGE[:1].clone().requires_grad_(), ZETA
    if verb == "global":
        result = global_propagate(inputs[0], mst(IMAGE[:1]), zeta=ZETA, features=inputs[1])
    else:
        result = local_propagate(inputs[0], inputs[1], zeta=ZETA, iterations=2)
    (first,) = torch.autograd.grad(result.square().sum(), inputs[wrt], create_graph=True)
    with pytest.raises(NotImplementedError, match="derivatives of second order are not implemented"):
        first.sum().backward()


def test_nothing_is_kept_without_a_gradient():
    tree = mst(IMAGE)
    result = global_propagate(rand(2, 2, 4, 5), tree, zeta=0.3)
    assert not result.requires_grad
    assert result.grad_fn is None


def test_only_what_is_asked_for_is_kept(monkeypatch):
    tree = mst(IMAGE)
    values = rand(2, 7, 4, 5, grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        global_propagate(values, tree, zeta=0.3)
        local_propagate(values, IMAGE)
    assert max(kept) < values.numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    values, image = rand(1, 2, 4, 5, dtype=torch.float32).to(dtype), rand(1, 3, 4, 5).to(dtype)
    assert mst(image).gaps.dtype == torch.float32
    for propagate in (
        lambda v: global_propagate(v, mst(image), zeta=0.4, features=v),
        lambda v: local_propagate(v, image, iterations=2),
    ):
        result = propagate(values.clone().requires_grad_())
        assert result.dtype == dtype
        assert torch.equal(result, propagate(values.float()).to(dtype))
        result.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    network = torch.nn.Conv2d(3, 2, 1)
    image = IMAGE.float()
    with torch.autocast("cpu", dtype=dtype):
        values = network(image)
        assert values.dtype == dtype
        tree = mst(image)
        result = local_propagate(global_propagate(values, tree, zeta=0.4), image, iterations=2)
        assert result.dtype == dtype
        wide = local_propagate(global_propagate(values.float(), tree, zeta=0.4), image, iterations=2)
        torch.testing.assert_close(result.float(), wide, rtol=0.02, atol=0.02)
        loss = apro_loss(values.softmax(1), image, MASK.expand(2, 1, 4, 5), tree=tree)
        (result.float().square().mean() + loss).backward()
    assert network.weight.grad.dtype == torch.float32
    assert torch.isfinite(network.weight.grad).all()
    assert network.weight.grad.abs().sum() > 0


def everything(values, image, features, zeta):
    result = global_propagate(values, mst(image.detach()), zeta=zeta, features=features)
    return local_propagate(result, image, zeta=zeta, kernel_size=3, iterations=2)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(dynamic):
    compiled = torch.compile(everything, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for shape in ((4, 5), (6, 3)):
        inputs = [rand(2, n, *shape, seed=n, grad=True) for n in (2, 3, 4)]
        results = [function(*inputs, ZETA) for function in (everything, compiled)]
        torch.testing.assert_close(*results, rtol=0, atol=0)
        gradients = [torch.autograd.grad(result.square().sum(), (*inputs, ZETA)) for result in results]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def test_torchs_own_checks_of_operators_raise_nothing():
    from aproarray.torch import _ops

    values, image = rand(2, 2, 20, grad=True), rand(2, 3, 20)
    order, gaps, gap_edges = _ops.mst(image, None, [4, 5], 1, True)
    trees = torch.arange(2)
    zeta = torch.tensor(0.4, dtype=D)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for operator, arguments in (
        (_ops.mst, (image, None, [4, 5], 1, True)),
        (_ops.reweigh, (values, gap_edges, trees)),
        (_ops.global_propagate, (values, order, gaps, trees, zeta)),
        (_ops.local_propagate, (values, image, zeta, trees, None, None, [4, 5], 3, 2, True)),
        (_ops.local_propagate, (values, image, zeta, trees, None, values[:, 0] > 0, [4, 5], 3, 2, True)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=tests)


def test_vmap():
    values, image, tangent = rand(3, 2, 4, 5, grad=True), rand(3, 3, 4, 5), rand(3, 2, 4, 5, seed=9)
    mask = image[:, 0] < 0.8
    tree = mst(image)
    for one, many in (
        (lambda v, i, m: global_propagate(v, mst(i), zeta=0.4), global_propagate(values, tree, zeta=0.4)),
        (
            lambda v, i, m: local_propagate(v, i, iterations=2, mask=m),
            local_propagate(values, image, iterations=2, mask=mask),
        ),
        (
            lambda v, i, m: local_propagate(v, i, iterations=2, region=m[None]),
            local_propagate(values, image, iterations=2, region=mask[:, None]),
        ),
    ):
        result = torch.func.vmap(one)(values, image, mask)
        torch.testing.assert_close(result, many, rtol=1e-12, atol=1e-14)
        gradients = [torch.autograd.grad(r, values, tangent)[0] for r in (result, many)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings("ignore:.torch.jit.script.:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("name", ["values", "image", "zeta"])
def test_forward_mode_says_that_it_is_not_there(name):
    inputs = {"values": rand(1, 2, 4, 5), "image": IMAGE[:1], "zeta": torch.tensor(0.5, dtype=D)}

    def propagate(x):
        given = inputs | {name: x}
        first = global_propagate(given["values"], mst(given["image"]), zeta=given["zeta"])
        return local_propagate(first, given["image"], zeta=given["zeta"])

    with pytest.raises(NotImplementedError, match=f"{name} has a tangent, .* no forward-mode derivatives"):
        torch.func.jvp(propagate, (inputs[name],), (torch.ones_like(inputs[name]),))


@pytest.mark.filterwarnings("ignore:.torch.jit.script.:DeprecationWarning")  # torch's own
def test_forward_mode_of_what_stands_beside_values():
    tree, one = mst(IMAGE), torch.ones((), dtype=D)
    for propagate, x in (
        (lambda beta: tree_filter_v2(IMAGE, tree, beta=beta, gamma=one), 0.3 * one),
        (lambda gamma: tree_filter_v2(IMAGE, tree, beta=one, gamma=gamma), one),
        (lambda gaps: global_propagate(IMAGE, tree._replace(gaps=gaps), zeta=1), tree.gaps),
    ):
        with pytest.raises(NotImplementedError, match="has a tangent"):
            torch.func.jvp(propagate, (x,), (torch.ones_like(x),))


def test_older_versions_are_told_what_is_needed(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("aproarray.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(torch.library, "custom_op")
    with pytest.raises(ImportError, match=r"aproarray\.torch needs PyTorch 2\.4 or later, found 2\."):
        importlib.import_module("aproarray.torch")


def test_trees_collate_pickle_and_copy():
    trees = [mst(image) for image in IMAGE]
    batch = torch.utils.data.default_collate(trees)
    assert isinstance(batch, Tree)
    for tensor, expected in zip(batch, mst(IMAGE), strict=True):
        assert torch.equal(tensor, expected)
    for again in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch)):
        assert all(torch.equal(a, b) for a, b in zip(again, batch, strict=True))


def test_trees_move_and_are_pinned(monkeypatch):
    tree = mst(IMAGE)
    there = tree.to("meta")
    assert isinstance(there, Tree)
    assert [tensor.device.type for tensor in there] == ["meta"] * 3
    assert [tensor.dtype for tensor in there] == [tensor.dtype for tensor in tree]
    assert all(a is b for a, b in zip(tree.to("cpu", non_blocking=True), tree, strict=True))
    with pytest.raises(TypeError):  # a cast would make numbers of pixels floats
        tree.to(D)
    # Memory can be pinned where there is an accelerator alone.
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self.clone())
    again = tree.pin_memory()
    assert isinstance(again, Tree)
    assert [id(tensor) for tensor in pinned] == [id(tensor) for tensor in tree]
    assert all(torch.equal(a, b) for a, b in zip(again, tree, strict=True))


@pytest.mark.parametrize(
    ("error", "message", "act"),
    [
        (ValueError, "image must have 4 axes", lambda: mst(rand(4, 5))),
        (TypeError, "image must be a torch.Tensor, got a ndarray", lambda: mst(np.zeros((3, 4, 5)))),
        (TypeError, "must be boolean", lambda: mst(IMAGE, mask=MASK.float())),
        (ValueError, r"mask of shape \(5, 4\) does not fit", lambda: mst(IMAGE, mask=MASK.T)),
        (ValueError, "NaN or inf", lambda: mst(IMAGE / 0)),
        (ValueError, "connectivity", lambda: mst(IMAGE, connectivity=3)),
        (TypeError, "tree must come from", lambda: global_propagate(IMAGE, IMAGE, zeta=1)),
        (TypeError, "values must be floating", lambda: global_propagate(MASK, mst(IMAGE), zeta=1)),
        (ValueError, "zeta must be above 0", lambda: global_propagate(IMAGE, mst(IMAGE), zeta=0.0)),
        (
            ValueError,
            "zeta must be above 0",
            lambda: global_propagate(IMAGE, mst(IMAGE), zeta=torch.tensor(-1.0)),
        ),
        (
            ValueError,
            r"shape \(2, 3, 5, 4\), which does not fit a tree of shape \(4, 5\): expected \(2, channels, "
            r"4, 5\)",
            lambda: global_propagate(IMAGE.mT, mst(IMAGE), zeta=1),
        ),
        (
            ValueError,
            "features has shape",
            lambda: global_propagate(IMAGE, mst(IMAGE), zeta=1, features=IMAGE[:1]),
        ),
        (
            ValueError,
            r"tree_index must be in \[0, 2\), got values from 0 to 2",
            lambda: global_propagate(
                rand(3, 1, 4, 5), mst(IMAGE), zeta=1, tree_index=torch.tensor([0, 2, 1])
            ),
        ),
        (
            ValueError,
            "tree_index needs a batch",
            lambda: global_propagate(IMAGE, mst(IMAGE[0]), zeta=1, tree_index=torch.tensor([0, 0])),
        ),
        (ValueError, "kernel_size must be odd", lambda: local_propagate(IMAGE, IMAGE, kernel_size=4)),
        (ValueError, "values has shape", lambda: local_propagate(IMAGE[:1], IMAGE)),
        (
            TypeError,
            "must be on one device, but got values on cpu, image on meta",
            lambda: local_propagate(IMAGE, IMAGE.to("meta")),
        ),
        (ValueError, "mode must be one of", lambda: AffinityPropagation("serial")),
        (TypeError, "global_propagation must be a module", lambda: AffinityPropagation("parallel", 0)),
        (
            TypeError,
            "local_propagation must be a module",
            lambda: AffinityPropagation("parallel", None, GlobalPropagation()),
        ),
        (TypeError, r"image \(or tree\) must be a torch.Tensor", lambda: GlobalPropagation()(IMAGE, [])),
        (ValueError, "zeta must be finite to be learned", lambda: GlobalPropagation(np.inf, learnable=True)),
        (TypeError, r"tree_index must be .* got 'first'", lambda: over(tree_index="first")),
        (
            TypeError,
            "integers up to int64, got torch.uint64",
            lambda: over(tree_index=torch.ones(2).to(torch.uint64)),
        ),
        (
            TypeError,
            "must be a dense tensor",
            lambda: global_propagate(IMAGE[0, 0].to_sparse(), mst(IMAGE), zeta=1),
        ),
        (
            ValueError,
            "iterations must be between 0 and",
            lambda: local_propagate(IMAGE, IMAGE, iterations=10**30),
        ),
        (ValueError, "beta must be finite", lambda: tree_filter_v2(IMAGE, mst(IMAGE), beta=np.nan, gamma=1)),
        (
            ValueError,
            "gamma must be one floating-point number",
            lambda: tree_filter_v2(IMAGE, mst(IMAGE), beta=0, gamma=torch.ones(20)),
        ),
    ],
)
def test_errors(error, message, act):
    with pytest.raises(error, match=message):
        act()


def over(tree=None, **options):
    return global_propagate(IMAGE, mst(IMAGE) if tree is None else tree, zeta=1, **options)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "got torch.int64, torch.int64 and torch.float16", lambda o, g, e: (o, g.half(), e)),
        (TypeError, "must have int32 or int64 order", lambda o, g, e: (o.double(), g, e)),
        (ValueError, r"got \(2, 4, 5\), \(2, 5\) and", lambda o, g, e: (o, g[:, :5], e)),
        (ValueError, "tree must have order", lambda o, g, e: (o[:1], g, e)),
        (ValueError, "tree must have order", lambda o, g, e: (o, g, e[..., 0])),
        (
            ValueError,
            "order must be of 20 pixels, got numbers from 100 to 119",
            lambda o, g, e: (o + 100, g, e),
        ),
        (ValueError, "gap_edges must be of 20 pixels", lambda o, g, e: (o, g, e - 5)),
        (
            ValueError,
            "-1 at both ends or at none",
            lambda o, g, e: (o, g, e * torch.tensor([1, 0]) - torch.tensor([0, 1])),
        ),
    ],
)
def test_trees_that_cannot_be(error, message, change):
    tree = Tree(*change(*mst(IMAGE)))
    with pytest.raises(error, match=message):
        over(tree, features=IMAGE if "gap_edges" in message or "both" in message else None)
    with pytest.raises(error, match=message):
        tree_filter(IMAGE, tree)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_lines_that_leave_pixels_out(dtype):
    tree = mst(IMAGE)
    order = tree.order.flatten(1).to(dtype)
    order[1, 7] = order[1, 3]
    for line in (order, torch.zeros_like(order)):
        with pytest.raises(ValueError, match="order must hold each of 20 pixels once"):
            over(tree._replace(order=line.view_as(tree.order)))


def test_trees_of_any_memory_layout():
    tree = mst(IMAGE)
    strided = Tree(*(torch.stack([part, part], -1)[..., 0] for part in tree))
    one = Tree(*(part[:1].expand_as(part) for part in tree))
    for given, expected in ((strided, tree), (one, mst(IMAGE[:1].expand_as(IMAGE)))):
        for function in (global_propagate, tree_filter):
            for features in (None, IMAGE):
                result = function(IMAGE, given, zeta=0.5, features=features)
                assert torch.equal(result, function(IMAGE, expected, zeta=0.5, features=features))


def changed_edges():
    """Return edges of `mst(IMAGE)` that form no forest, all of them in range."""
    edges = mst(IMAGE).gap_edges
    twice, loop, circle = edges.clone(), edges.clone(), edges.clone()
    twice[1, 7] = edges[1, 3]
    loop[0, 0] = 4
    circle[1, :3] = torch.tensor([[0, 1], [1, 2], [0, 2]])
    return {"zeros": torch.zeros_like(edges), "twice": twice, "loop": loop, "circle": circle}


@pytest.mark.parametrize("name", changed_edges())
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_edges_that_form_no_forest(name, dtype):
    tree = mst(IMAGE)._replace(gap_edges=changed_edges()[name].to(dtype))
    for act in (
        lambda: tree_filter(IMAGE, tree),
        lambda: tree_filter(IMAGE, tree, features=IMAGE),
        lambda: tree_filter_v2(IMAGE, tree, beta=0.5, gamma=1.0),
        lambda: over(tree, features=IMAGE),
    ):
        with pytest.raises(ValueError, match="gap_edges must be the edges of a tree"):
            act()


def test_missing_edges_elsewhere_than_in_order():
    # Two components of two pixels, both of whose roots would be in the first.
    edges = torch.tensor([[0, 1], [-1, -1], [2, 3]])
    tree = Tree(torch.tensor([[0, 1, 2, 3]]), torch.tensor([1.0, torch.inf, 1.0]), edges)
    values = torch.arange(4.0)[None, None]
    expected = tree_filter(values, tree)
    assert expected[..., :2].mean() < 1 < 2 < expected[..., 2:].mean()
    with pytest.raises(ValueError, match="whose trees begin in order where an edge is missing"):
        tree_filter(values, tree._replace(order=torch.tensor([[0, 2, 1, 3]])))


def test_windows_of_any_size_hold_the_whole_image():
    expected = local_propagate(IMAGE, IMAGE, kernel_size=9)
    assert torch.equal(local_propagate(IMAGE, IMAGE, kernel_size=10**30 + 1), expected)


def test_features_that_are_not_finite_spread_over_all():
    features = IMAGE.clone()
    features[0, 0, 1, 2] = torch.nan
    values = rand(2, 3, 4, 5, grad=True)
    result = over(features=features.requires_grad_())
    assert result[0].isnan().all()
    assert torch.equal(result[1:], global_propagate(IMAGE[1:], mst(IMAGE[1:]), zeta=1, features=features[1:]))
    global_propagate(values, mst(IMAGE), zeta=1, features=features).sum().backward()
    assert values.grad[0].isnan().all()
    assert features.grad[0].isnan().any()
    assert tree_filter(IMAGE, mst(IMAGE), features=features)[0].isnan().any()


def test_small_scales_can_be_learned():
    module = GlobalPropagation(1e-60, learnable=True)
    assert torch.equal(module(IMAGE, IMAGE), global_propagate(IMAGE, mst(IMAGE), zeta=1e-60))


@pytest.mark.parametrize("zeta", [[], torch.tensor([])], ids=["list", "tensor"])
def test_no_zeta_at_all(zeta):
    values, tree = rand(2, 3, 4, 5, grad=True), mst(IMAGE)
    result = global_propagate(values, tree, zeta=zeta)
    of_arrays = aproarray.global_propagate(as_last(values), aproarray.mst(as_last(IMAGE)), zeta=[])
    assert of_arrays.shape == (0, 2, 4, 5, 3)
    assert result.shape == (0, 2, 3, 4, 5)
    assert result.dtype == values.dtype
    result.sum().backward()
    assert (values.grad == 0).all()
    with pytest.raises(ValueError, match="does not fit a tree"):
        global_propagate(values[..., :4], tree, zeta=zeta)


def test_empty_tensors():
    assert global_propagate(rand(0, 2, 4, 5), mst(rand(0, 3, 4, 5)), zeta=1).shape == (0, 2, 4, 5)
    tree = mst(IMAGE)
    for shape, index in (((2, 0, 4, 5), None), ((0, 1, 4, 5), torch.empty(0, dtype=torch.int64))):
        values = rand(*shape, grad=True)
        global_propagate(values, tree, zeta=ZETA, tree_index=index).sum().backward()
        assert values.grad.shape == shape
        values = rand(*shape, grad=True)
        local_propagate(values, IMAGE, zeta=ZETA, image_index=index).sum().backward()
        assert values.grad.shape == shape
    pixel = rand(1, 2, 1, 1, grad=True)
    global_propagate(pixel, mst(rand(1, 3, 1, 1)), zeta=1).sum().backward()
    assert (pixel.grad == 1).all()


def test_modules():
    values = rand(2, 2, 4, 5)
    tree = mst(IMAGE)
    first = global_propagate(values, tree, zeta=0.3)
    second = global_propagate(first, tree, zeta=0.7, features=first)
    by_tree = GlobalPropagation(0.3, feature_zeta=0.7)
    assert torch.equal(by_tree(values, IMAGE), second)
    assert torch.equal(by_tree(values, tree), second)
    assert torch.equal(
        GlobalPropagation(0.3)(values, tree, features=first),
        global_propagate(values, tree, zeta=0.3, features=first),
    )
    by_window = LocalPropagation(0.4, kernel_size=3, iterations=2)
    after = local_propagate(values, IMAGE, zeta=0.4, kernel_size=3, iterations=2)
    assert torch.equal(by_window(values, IMAGE), after)
    for mode, expected in (
        ("parallel", (second, after)),
        ("global-local", (by_window(second, IMAGE),)),
        ("local-global", (by_tree(after, IMAGE),)),
    ):
        results = AffinityPropagation(mode, by_tree, by_window)(values, IMAGE)
        assert len(results) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def regions(*shape):
    """Return a box, all, nothing, a corner, and pixels here and there, as often as there are items."""
    result = torch.zeros(5, *shape[2:])
    inner = tuple(slice(1, max(2, extent - 1)) for extent in shape[2:])
    result[0][inner] = 1
    result[1] = 1
    result[3][(0,) * (len(shape) - 2)] = 1
    result[4] = torch.rand(shape[2:], generator=torch.Generator().manual_seed(0)) < 0.4
    return result[torch.arange(shape[0]) % 5][:, None]


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize(
    ("shape", "kernel_size", "iterations"),
    [
        ((5, 2, 9, 11), 3, 6),
        ((6, 1, 20, 8), 5, 3),
        ((5, 1, 3, 30), 7, 2),
        ((5, 2, 4, 5, 6), 3, 2),
        ((5, 1, 4, 4), 1, 2),
    ],
)
def test_regions_hold_local_propagation_in(shape, kernel_size, iterations, with_mask, dtype):
    values, image = rand(*shape).to(dtype), rand(2, 3, *shape[2:]).to(dtype)
    region, index = regions(*shape), torch.arange(shape[0]) % 2
    mask = torch.rand(2, *shape[2:], generator=torch.Generator().manual_seed(1)) < 0.8 if with_mask else None
    options = {"kernel_size": kernel_size, "image_index": index, "spatial_ndim": len(shape) - 2, "mask": mask}
    expected = values * region
    for _ in range(iterations):
        expected = region * local_propagate(expected, image, zeta=0.4, iterations=1, **options)
    values[(region == 0).expand_as(values)] = torch.nan  # nobody looks there
    result = local_propagate(values, image, zeta=0.4, iterations=iterations, region=region, **options)
    torch.testing.assert_close(result, expected.to(dtype))
    assert (result[(region == 0).expand_as(result)] == 0).all()
    nothing = local_propagate(values, image, zeta=0.4, iterations=0, region=region, **options)
    assert torch.equal(nothing, values.where(region != 0, 0))
    if not with_mask and len(shape) == 4:
        module = LocalPropagation(0.4, kernel_size=kernel_size, iterations=iterations)
        assert torch.equal(module(values, image, region=region.bool(), image_index=index), result)


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "mask"])
@pytest.mark.parametrize(("kernel_size", "iterations"), [(3, 1), (3, 4), (5, 2), (1, 3)])
def test_gradients_within_regions(mask, kernel_size, iterations):
    values, image = rand(5, 2, 4, 5, grad=True), IMAGE.clone().requires_grad_()
    region, index = regions(5, 2, 4, 5), torch.tensor([1, 0, 0, 1, 1])

    def propagate(values, image, zeta):
        return local_propagate(
            values, image, zeta=zeta, kernel_size=kernel_size, iterations=iterations, mask=mask,
            region=region, image_index=index,
        )  # fmt: skip

    assert gradcheck(propagate, (values, image, ZETA))
    # Values alone take another way.
    both = torch.autograd.grad(propagate(values, image, 0.4).sin().sum(), (values, image))[0]
    alone = torch.autograd.grad(propagate(values, image.detach(), 0.4).sin().sum(), values)[0]
    torch.testing.assert_close(alone, both, rtol=1e-12, atol=1e-14)


def test_regions_are_checked():
    values = rand(2, 1, 4, 5)
    for region, message in (
        (torch.ones(2, 4, 5), r"region must have shape \(2, 1, 4, 5\), got \(2, 4, 5\)"),
        (torch.ones(2, 3, 4, 5), r"region must have shape \(2, 1, 4, 5\), got \(2, 3, 4, 5\)"),
        (torch.ones(1, 1, 4, 5), r"region must have shape \(2, 1, 4, 5\), got \(1, 1, 4, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            local_propagate(values, IMAGE, region=region)


def test_learned_scales():
    module = AffinityPropagation(
        "global-local",
        GlobalPropagation(0.3, feature_zeta=0.5, learnable=True),
        LocalPropagation(0.4, kernel_size=3, iterations=2, learnable=True),
    ).double()
    assert len(list(module.parameters())) == 3
    (result,) = module(rand(2, 2, 4, 5), IMAGE)
    result.square().sum().backward()
    assert all(parameter.grad.abs() > 0 for parameter in module.parameters())
    assert "0.3, learnable" in repr(module)
    assert "mode='global-local'" in repr(module)
    again = copy.deepcopy(module)
    again.load_state_dict(module.state_dict())
    assert not list(GlobalPropagation(0.3).parameters())


def test_threads_of_one_process():
    # What DataParallel does: replicas in threads, each with its own forward and backward.
    from concurrent.futures import ThreadPoolExecutor

    module = GlobalPropagation(0.3, feature_zeta=0.5)

    def step(seed):
        values = rand(2, 3, 12, 12, seed=seed, grad=True)
        module(values, rand(2, 3, 12, 12, seed=100 + seed)).square().sum().backward()
        return values.grad

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(step, range(8)))
    assert all(torch.equal(a, step(seed)) for seed, a in enumerate(together))


@pytest.mark.parametrize("order", [[0, 0, 0, 1, 1], [1, 0, 1, 1, 0]])
def test_masks_of_one_image_are_as_each_alone(order):
    index = torch.tensor(order)
    values = rand(5, 1, 4, 5, grad=True)
    together = local_propagate(values, IMAGE, zeta=ZETA, iterations=3, image_index=index)
    alone = torch.cat(
        [
            local_propagate(values[k : k + 1], IMAGE[i : i + 1], zeta=ZETA, iterations=3)
            for k, i in enumerate(order)
        ]
    )
    assert torch.equal(together, alone)
    for ours, other in zip(
        *(torch.autograd.grad(result.square().sum(), (values, ZETA)) for result in (together, alone)),
        strict=True,
    ):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("zeta", "dtype"), [(1e-25, torch.float32), (1e-160, torch.float64)])
def test_window_gradients_are_finite_for_any_zeta(zeta, dtype):
    image = (torch.randint(0, 3, (1, 3, 9, 8)).to(dtype) * zeta).requires_grad_()
    scale = torch.tensor(zeta, dtype=torch.float64, requires_grad=True)
    result = local_propagate(torch.rand(1, 2, 9, 8, dtype=dtype), image, zeta=scale, iterations=3)
    (result * torch.rand_like(result)).sum().backward()
    assert image.grad.isfinite().all()
    assert image.grad.any()
    assert scale.grad.isfinite()


@pytest.mark.parametrize(
    ("first", "dtype"), [(2**62, torch.int64), (-(2**62), torch.int64), (2**63, torch.uint64)]
)
def test_differences_of_large_integers_are_exact(first, dtype):
    image = torch.from_numpy(np.array([[[first, first + 1, first + 3]]], str(dtype).removeprefix("torch.")))
    expected = aproarray.mst(image[0].numpy())
    assert expected.gaps.tolist() == [1, 4]
    np.testing.assert_array_equal(mst(image).gaps, expected.gaps)
    values = torch.tensor([[[0.0, 0.0, 1.0]]])
    small = torch.tensor([[[0.0, 1.0, 3.0]]], dtype=torch.float64)
    by_window = [local_propagate(values, x, zeta=2.0, kernel_size=3, iterations=1) for x in (image, small)]
    torch.testing.assert_close(*by_window, rtol=0, atol=0)


def test_image_index_needs_a_batch():
    with pytest.raises(
        ValueError, match=r"image_index needs a batch of images, got one of shape \(2, 4, 5\)"
    ):
        local_propagate(torch.rand(3, 1, 4, 5), torch.rand(2, 4, 5), image_index=torch.zeros(3).long())
