"""aproarray.jax: the results of the verbs, torch's gradients, under every transformation."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import aproarray
from aproarray import related

jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = jax.numpy
test_util = pytest.importorskip("jax.test_util")
ours = pytest.importorskip("aproarray.jax", reason="JAX is too old")
PAGE = Path(__file__).parents[1] / "docs" / "jax.md"
PLATFORM = jax.devices()[0].platform

pytestmark = pytest.mark.skipif(PLATFORM != "cpu", reason="aproarray.jax computes on the CPU")


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Return a type to compute in; JAX has float64 for the time of the test."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", request.param == "float64")
    yield np.dtype(request.param)
    jax.config.update("jax_enable_x64", before)


def arrays(dtype, *shape, seed=0):
    rng = np.random.default_rng(seed)
    image, values, features = (rng.random((*shape, 6, 7, channels)).astype(dtype) for channels in (3, 2, 4))
    return image, values, features


def tolerance(dtype):
    return {"rtol": 2e-4, "atol": 2e-5} if dtype == np.float32 else {"rtol": 1e-9, "atol": 1e-11}


def verb_over_tree(name):
    return aproarray.global_propagate if name == "global_propagate" else related.tree_filter


OVER_TREES = pytest.mark.parametrize("name", ["global_propagate", "tree_filter"])


def test_trees_are_those_of_the_verb(dtype):
    image, _, _ = arrays(dtype, 3)
    mask = np.random.default_rng(1).random((3, 6, 7)) < 0.8
    for options in ({}, {"connectivity": 2}, {"mask": mask}, {"mask": mask[0]}):
        expected = aproarray.mst(image, **options)
        for function in (ours.mst, jax.jit(ours.mst, static_argnames="connectivity")):
            tree = function(jnp.asarray(image), **options)
            np.testing.assert_array_equal(tree.order.reshape(3, -1), expected.order)
            np.testing.assert_array_equal(tree.gaps, expected.gaps)
            np.testing.assert_array_equal(tree.gap_edges, expected.gap_edges)
    mapped = jax.vmap(lambda image, mask: ours.mst(image, mask=mask))(image, mask)
    np.testing.assert_array_equal(mapped.gap_edges, aproarray.mst(image, mask=mask).gap_edges)
    shared = jax.vmap(lambda mask: ours.mst(image[0], mask=mask))(mask)
    for one, m in zip(shared.gaps, mask, strict=True):
        np.testing.assert_array_equal(one, aproarray.mst(image[0], mask=m).gaps)


def test_volumes(dtype):
    volume = np.random.default_rng(0).random((3, 4, 5, 2)).astype(dtype)
    tree = ours.mst(volume, spatial_ndim=3, connectivity=3)
    expected = aproarray.mst(volume, spatial_ndim=3, connectivity=3)
    np.testing.assert_array_equal(tree.order.ravel(), expected.order)
    np.testing.assert_array_equal(
        ours.global_propagate(volume, tree, zeta=0.3), aproarray.global_propagate(volume, expected, zeta=0.3)
    )
    np.testing.assert_array_equal(
        ours.local_propagate(volume, volume, zeta=0.3, iterations=2, spatial_ndim=3),
        aproarray.local_propagate(volume, volume, zeta=0.3, iterations=2, spatial_ndim=3),
    )


@OVER_TREES
@pytest.mark.parametrize("weighed", [False, True])
def test_results_over_trees_are_those_of_the_verb(name, weighed, dtype):
    image, values, features = arrays(dtype, 3)
    function, verb = getattr(ours, name), verb_over_tree(name)
    options = {"features": features} if weighed else {}
    expected = verb(values, aproarray.mst(image), zeta=0.3, **options)
    tree = ours.mst(image)
    for jitted in (False, True):

        def call(values, tree, options):
            return function(values, tree, zeta=0.3, **options)

        result = (jax.jit(call) if jitted else call)(values, tree, options)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(jax.vmap(call)(values, tree, options), expected)
    # Leading axes beyond the tree's share it.
    several = np.stack([values, 2 * values], 1)
    np.testing.assert_allclose(
        function(several, tree, zeta=0.3, **options)[:, 1],
        2 * expected,
        rtol=1e-5 if dtype == np.float32 else 1e-12,
    )


def test_local_results_are_those_of_the_verb(dtype):
    image, values, _ = arrays(dtype, 3)
    mask = np.random.default_rng(1).random((3, 6, 7)) < 0.8
    for options in ({}, {"mask": mask}, {"mask": mask[1]}, {"iterations": 0}, {"kernel_size": 1}):
        expected = aproarray.local_propagate(values, image, zeta=0.3, **options)
        result = ours.local_propagate(values, image, zeta=0.3, **options)
        np.testing.assert_array_equal(result, expected)
    mapped = jax.jit(jax.vmap(lambda v, i, m: ours.local_propagate(v, i, zeta=0.3, mask=m)))(
        values, image, mask
    )
    np.testing.assert_array_equal(mapped, aproarray.local_propagate(values, image, zeta=0.3, mask=mask))


def losses(name, image, mask=None):
    """Return a loss of (values, weighing, zeta) in JAX, and the same in torch, for one image."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    theirs = pytest.importorskip("aproarray.torch")
    last = lambda x: x.movedim(0, -1)  # noqa: E731
    first = lambda x: x.movedim(-1, 0)  # noqa: E731
    target = np.random.default_rng(5).random((6, 7, 2)).astype(image.dtype)
    if name == "local_propagate":
        masks = None if mask is None else torch.tensor(mask)

        def loss(values, image, zeta):
            result = ours.local_propagate(values, image, zeta=zeta, kernel_size=3, iterations=4, mask=mask)
            return (result * target).sum()

        def of_torch(values, image, zeta):
            result = theirs.local_propagate(
                first(values), first(image), zeta=zeta, kernel_size=3, iterations=4, mask=masks
            )
            return (last(result) * torch.tensor(target)).sum()

        return loss, of_torch
    tree = ours.mst(image, mask=mask)
    tree_of_torch = theirs.Tree(*(torch.tensor(np.asarray(part)) for part in tree))

    def loss(values, features, zeta):
        return (getattr(ours, name)(values, tree, features=features, zeta=zeta) * target).sum()

    def of_torch(values, features, zeta):
        options = {} if features is None else {"features": first(features)}
        result = getattr(theirs, name)(first(values), tree_of_torch, zeta=zeta, **options)
        return (last(result) * torch.tensor(target)).sum()

    return loss, of_torch


@pytest.mark.parametrize("name", ["global_propagate", "tree_filter", "local_propagate"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_torch(name, masked, dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    image, values, features = arrays(dtype)
    mask = np.random.default_rng(1).random((6, 7)) < 0.8 if masked else None
    loss, of_torch = losses(name, image, mask)
    given = values, image if name == "local_propagate" else features, np.asarray(0.4, dtype)
    tensors = [torch.tensor(array, requires_grad=True) for array in given]
    of_torch(*tensors).backward()
    given = tuple(map(jnp.asarray, given))
    by = (0, 1, 2)
    for function in (
        jax.grad(loss, by),
        jax.jit(jax.grad(loss, by)),
        jax.grad(jax.jit(loss), by),
        jax.grad(jax.checkpoint(loss), by),
    ):
        for gradient, array, tensor in zip(function(*given), given, tensors, strict=True):
            assert (gradient.shape, gradient.dtype) == (array.shape, array.dtype)
            np.testing.assert_allclose(gradient, tensor.grad, **tolerance(dtype))
    # Those of values alone take another way.
    np.testing.assert_allclose(jax.grad(loss)(*given), tensors[0].grad, **tolerance(dtype))


@pytest.mark.parametrize("name", ["global_propagate", "tree_filter", "local_propagate"])
def test_vmap_of_gradients_is_one_item_after_the_other(name, dtype):
    image, values, features = arrays(dtype, 3)
    loss, _ = losses(name, image[0])
    weighing = image if name == "local_propagate" else features
    zetas = jnp.asarray([0.3, 0.5, 0.4], dtype)
    values, weighing = jnp.asarray(values), jnp.asarray(weighing)
    gradient = jax.grad(loss, (0, 1, 2))
    # Mapped, shared, and in both orders: the gradient of a shared array is still each item's own.
    for axes in ((0, 0, 0), (0, None, None), (None, 0, None), (None, None, 0), (0, None, 0)):
        given = [
            array if axis == 0 else array[0]
            for array, axis in zip((values, weighing, zetas), axes, strict=True)
        ]
        mapped = jax.jit(jax.vmap(gradient, axes))(*given)
        for i in range(3):
            single = gradient(*(a[i] if axis == 0 else a for a, axis in zip(given, axes, strict=True)))
            for batch, one in zip(mapped, single, strict=True):
                np.testing.assert_allclose(batch[i], one, rtol=1e-6, atol=1e-7)
        total = jax.grad(lambda *x, axes=axes: jax.vmap(loss, axes)(*x).sum(), (0, 1, 2))(*given)
        for batch, one, axis in zip(mapped, total, axes, strict=True):
            np.testing.assert_allclose(batch if axis == 0 else batch.sum(0), one, rtol=1e-4, atol=1e-5)


@OVER_TREES
def test_gradients_to_a_trees_gaps_and_a_scale(name):
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        image, values, _ = arrays(np.float64)
        tree = ours.mst(image)

        def loss(values, gaps, zeta):
            return (getattr(ours, name)(values, tree._replace(gaps=gaps), zeta=zeta) ** 2).sum()

        given = jnp.asarray(values), tree.gaps, jnp.asarray(0.4)
        test_util.check_grads(loss, given, 1, ["rev"], atol=1e-6, rtol=1e-6, eps=1e-6)
    finally:
        jax.config.update("jax_enable_x64", before)


def test_local_gradients_are_finite_differences():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        image, values, _ = arrays(np.float64)

        def loss(values, image, zeta):
            return (ours.local_propagate(values, image, zeta=zeta, iterations=3) ** 2).sum()

        given = jnp.asarray(values), jnp.asarray(image), jnp.asarray(0.4)
        test_util.check_grads(loss, given, 1, ["rev"], atol=1e-6, rtol=1e-6, eps=1e-6)
    finally:
        jax.config.update("jax_enable_x64", before)


def test_scan_over_a_batch(dtype):
    image, values, _ = arrays(dtype, 3)

    def step(total, item):
        image, values = item
        soft = ours.global_propagate(values, ours.mst(image), zeta=0.3)
        return total + soft.sum(), ours.local_propagate(soft, image, zeta=0.3)

    _, result = jax.jit(lambda items: jax.lax.scan(step, jnp.zeros((), dtype), items))((image, values))
    soft = aproarray.global_propagate(values, aproarray.mst(image), zeta=0.3)
    np.testing.assert_array_equal(result, aproarray.local_propagate(soft, image, zeta=0.3))

    def total(values):
        return jax.lax.scan(step, jnp.zeros((), dtype), (image, values))[0]

    def at_once(values):
        return ours.global_propagate(values, ours.mst(image), zeta=0.3).sum()

    np.testing.assert_allclose(jax.grad(total)(values), jax.grad(at_once)(values), **tolerance(dtype))


def test_narrow_types_come_back_as_they_were():
    image, values, _ = arrays(np.float32)
    expected = aproarray.global_propagate(values, aproarray.mst((image * 255).astype(np.uint8)), zeta=30)
    tree = ours.mst((image * 255).astype(np.uint8))
    for dtype, close in ((jnp.bfloat16, 2e-2), (jnp.float16, 2e-3)):
        result = ours.global_propagate(jnp.asarray(values, dtype), tree, zeta=30)
        assert result.dtype == dtype
        np.testing.assert_allclose(result.astype(jnp.float32), expected, rtol=close)


def test_nan_spreads():
    image, values, features = arrays(np.float32, 2)
    tree = ours.mst(image)
    features[1, 2, 3] = np.nan
    for function in (ours.global_propagate, ours.tree_filter):
        result = function(values, tree, features=features, zeta=0.3)
        assert jnp.isfinite(result[0]).all()
        assert jnp.isnan(result[1]).all()
        gradient = jax.grad(lambda x, of=function: of(x, tree, features=features, zeta=0.3).sum())(values)
        assert jnp.isfinite(gradient[0]).all()
        assert jnp.isnan(gradient[1]).all()


def test_errors_say_what_came():
    image, values, _ = arrays(np.float32)
    tree = ours.mst(image)
    with pytest.raises(
        ValueError, match=r"image must have 2 spatial .*got shape \(6, 7\): pass image\[..., None\]"
    ):
        ours.mst(image[..., 0])
    with pytest.raises(TypeError, match=r"image of dtype int32 is computed in float64.*jax_enable_x64"):
        ours.mst(image.astype(np.int32))
    with pytest.raises(TypeError, match="image must be a JAX or NumPy array, got a list"):
        ours.mst(image.tolist())
    with pytest.raises(TypeError, match="image must hold real numbers, got dtype complex64"):
        ours.mst(image.astype(np.complex64))
    with pytest.raises(TypeError, match=r"mask must be boolean .* got dtype float32"):
        ours.mst(image, mask=image[..., 0])
    with pytest.raises(ValueError, match=r"mask of shape \(7, 6\) does not fit .*expected \(6, 7\)"):
        ours.mst(image, mask=np.ones((7, 6), bool))
    with pytest.raises(TypeError, match=r"tree must come from aproarray.jax.mst, got a SpanningTree"):
        ours.global_propagate(values, aproarray.mst(image), zeta=1)
    with pytest.raises(TypeError, match=r"tree must have int32 or int64 order .* got float32"):
        ours.global_propagate(values, tree._replace(order=tree.order.astype(jnp.float32)), zeta=1)
    with pytest.raises(ValueError, match=r"tree must have order .* got \(6, 7\), \(40,\)"):
        ours.global_propagate(values, tree._replace(gaps=tree.gaps[1:]), zeta=1)
    with pytest.raises(
        ValueError, match=r"values of shape \(5, 7, 2\) does not fit a tree of shape \(6, 7\)"
    ):
        ours.global_propagate(values[1:], tree, zeta=1)
    with pytest.raises(TypeError, match="values must be floating point, got dtype int32"):
        ours.global_propagate(values.astype(np.int32), tree, zeta=1)
    with pytest.raises(ValueError, match=r"zeta must be above 0, got -1"):
        ours.global_propagate(values, tree, zeta=-1)
    with pytest.raises(ValueError, match=r"zeta must be one .* of shape \(2,\): jax.vmap"):
        ours.global_propagate(values, tree, zeta=jnp.ones(2))
    with pytest.raises(ValueError, match=r"features with leading axes \(2,\) do not fit values"):
        ours.global_propagate(values, tree, zeta=1, features=np.stack([image, image]))
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        ours.local_propagate(values, image, zeta=1, kernel_size=4)


@pytest.mark.filterwarnings("ignore")  # JAX logs and wraps what callbacks raise
def test_numbers_are_looked_at_when_the_call_runs():
    image, values, _ = arrays(np.float32)
    tree = ours.mst(image)
    twice = tree._replace(order=tree.order.at[0, 0].set(tree.order[0, 1]))
    far = tree._replace(gap_edges=tree.gap_edges.at[0].set(1000))
    circle = tree._replace(gap_edges=tree.gap_edges.at[0].set(tree.gap_edges[1]))
    half = tree._replace(gap_edges=tree.gap_edges.at[0, 1].set(-1))
    cases = [
        (lambda: ours.mst(image * np.nan), "image must be finite"),
        (lambda: ours.global_propagate(values, twice, zeta=1), "order must hold each of 42 pixels once"),
        (lambda: ours.tree_filter(values, far, zeta=1), "gap_edges must be of 42 pixels"),
        (lambda: ours.tree_filter(values, half, zeta=1), "-1 at both ends or at none, got edges with one"),
        (lambda: ours.global_propagate(values, circle, zeta=1, features=image), "close a circle"),
        (lambda: ours.global_propagate(values, tree, zeta=jnp.asarray(-1.0)), "zeta must be above 0"),
        (lambda: ours.local_propagate(values, image, zeta=jnp.asarray(0.0)), "zeta must be above 0"),
    ]
    for call, message in cases:
        for transformed in (call, jax.jit(call)):
            with pytest.raises(Exception, match=message):
                jax.block_until_ready(transformed())


def test_what_has_no_derivative_says_so():
    image, values, _ = arrays(np.float32)
    tree = ours.mst(image)
    with pytest.raises(NotImplementedError, match=r"mst is not differentiable.*stop_gradient\(image\)"):
        jax.grad(lambda image: ours.global_propagate(values, ours.mst(image), zeta=1).sum())(image)

    def loss(values):
        return (ours.global_propagate(values, tree, zeta=1.0) ** 3).sum()

    with pytest.raises(NotImplementedError, match="second order are not implemented"):
        jax.grad(lambda x: jax.grad(loss)(x).sum())(values)


def test_trees_of_many_pixels_need_64_bits():
    """Told from the shape alone, before there is an image."""
    if jax.config.jax_enable_x64:
        pytest.skip("JAX has 64 bits here")
    image = jax.ShapeDtypeStruct((1 << 16, 1 << 16, 1), np.float32)
    with pytest.raises(ValueError, match="trees of 4294967296 pixels have 64-bit numbers of pixels: call"):
        jax.eval_shape(ours.mst, image)


def test_another_device_is_an_error():
    image, values, _ = arrays(np.float32)
    tree = ours.mst(image)
    traced = jax.jit(lambda values: ours.global_propagate(values, tree, zeta=1)).trace(values)
    with pytest.raises(NotImplementedError, match="computes on the CPU, but the arrays are on cuda"):
        traced.lower(lowering_platforms=("cuda",))


def test_batches_make_one_call(monkeypatch):
    from aproarray.jax import _host

    image, values, _ = arrays(np.float32, 3)
    tree = ours.mst(image)
    calls = []
    whole = _host.backend.global_propagate
    monkeypatch.setattr(_host.backend, "global_propagate", lambda *x: calls.append(x[0].shape) or whole(*x))
    jax.vmap(lambda v, t: ours.global_propagate(v, t, zeta=0.3))(values, tree)
    ours.global_propagate(np.stack([values] * 2, 1), tree, zeta=0.3)
    assert calls == [(3, 42, 2), (6, 42, 2)]


@pytest.mark.skipif(not PAGE.is_file(), reason="needs a checkout: the docs are not installed")
def test_python_of_the_page_runs():
    pytest.importorskip("optax", reason="optax is not installed")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S):
        exec(compile(block, str(PAGE), "exec"), names)
    first, *_, last = names["history"]
    assert last < 0.7 * first


def test_programs_that_jax_keeps_on_disk_make_the_same_call_elsewhere(tmp_path):
    image, values, _ = arrays(np.float32)
    np.savez(tmp_path / "given.npz", image=image, values=values)
    code = (
        "import sys, numpy as np, jax, aproarray.jax as ours\n"
        "jax.config.update('jax_compilation_cache_dir', sys.argv[1] + '/cache')\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)\n"
        "given = np.load(sys.argv[1] + '/given.npz'); image, values = given['image'], given['values']\n"
        "local = jax.jit(lambda x: ours.local_propagate(x, image, zeta=0.3, iterations=3))\n"
        "soft = jax.jit(lambda x: ours.global_propagate(x, ours.mst(image), zeta=0.3))\n"
        "order = (local, soft) if sys.argv[2] == '0' else (soft, local)\n"
        "print([float(function(values)[2, 3, 1]) for function in order])\n"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), turn],
            cwd=Path(aproarray.__file__).parents[1], capture_output=True, text=True, check=True, timeout=300,
        ).stdout
        for turn in "01"
    ]  # fmt: skip
    assert any((tmp_path / "cache").iterdir())
    assert json.loads(printed[0]) == json.loads(printed[1])[::-1]
