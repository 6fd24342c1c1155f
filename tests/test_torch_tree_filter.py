"""The tree filters of aproarray.torch: the results of those on arrays, exact gradients, torch's machinery."""

import functools

import numpy as np
import pytest

import aproarray
from aproarray import related

torch = pytest.importorskip("torch", reason="torch is not installed")

from aproarray.torch import _ops, mst, tree_filter, tree_filter_v2  # noqa: E402

D = torch.float64
gradcheck = functools.partial(torch.autograd.gradcheck, atol=1e-6)


def rand(*shape, seed=0, dtype=D, grad=False):
    tensor = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return tensor.requires_grad_(grad)


def number(value):
    return torch.tensor(value, dtype=D, requires_grad=True)


IMAGE = rand(2, 3, 4, 5)
MASK = rand(4, 5, seed=5) < 0.7
INDEX = torch.tensor([0, 1, 1])


def as_last(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


@pytest.mark.parametrize("mask", [None, MASK], ids=["tree", "forest"])
@pytest.mark.parametrize("index", [None, INDEX], ids=["batch", "tree_index"])
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_results_are_those_of_arrays(mask, index, dtype):
    n = 2 if index is None else 3
    values, features = rand(n, 4, 4, 5, dtype=dtype), rand(n, 2, 4, 5, seed=1, dtype=dtype)
    confidence = rand(n, 1, 4, 5, seed=2, dtype=dtype)
    tree = mst(IMAGE, mask=mask)
    arrays = aproarray.mst(as_last(IMAGE), mask=None if mask is None else mask.numpy())
    which = None if index is None else index.numpy()
    tolerance = {"rtol": 1e-12 if dtype == D else 1e-5, "atol": 1e-7}
    for of, of_arrays in ((None, None), (features, as_last(features))):
        ours = tree_filter(values, tree, zeta=0.4, features=of, tree_index=index)
        theirs = related.tree_filter(as_last(values), arrays, zeta=0.4, features=of_arrays, tree_index=which)
        assert ours.dtype == dtype
        np.testing.assert_allclose(as_last(ours), theirs, **tolerance)
        ours = tree_filter_v2(
            values, tree, beta=0.6, gamma=0.5, confidence=confidence, zeta=0.4, features=of, tree_index=index
        )
        theirs = related.tree_filter_v2(
            as_last(values), arrays, beta=0.6, gamma=0.5, confidence=confidence[:, 0].numpy(), zeta=0.4,
            features=of_arrays, tree_index=which,
        )  # fmt: skip
        # A pixel that takes no part is its own component there, and comes back here but for the 1e-8.
        taking = slice(None) if mask is None else mask.numpy()
        np.testing.assert_allclose(as_last(ours)[:, taking], theirs[:, taking], **tolerance)


@pytest.mark.parametrize("mask", [None, MASK], ids=["tree", "forest"])
@pytest.mark.parametrize("index", [None, INDEX], ids=["batch", "tree_index"])
def test_gradients(mask, index):
    tree, n = mst(IMAGE, mask=mask), 2 if index is None else 3
    values, features = rand(n, 2, 4, 5, seed=1, grad=True), rand(n, 2, 4, 5, seed=2, grad=True)

    def filtered(values, features, zeta):
        return tree_filter(values, tree, zeta=zeta, features=features, tree_index=index)

    assert gradcheck(filtered, (values, features, number(0.5)))
    assert gradcheck(lambda v, z: filtered(v, None, z), (values, number(0.5)))
    assert gradcheck(lambda z: filtered(values.detach(), None, z), (number(0.01),))


@pytest.mark.parametrize("mask", [None, MASK], ids=["tree", "forest"])
def test_gradients_of_the_second_filter(mask):
    tree = mst(IMAGE, mask=mask)
    values, features = rand(2, 2, 4, 5, seed=1, grad=True), rand(2, 2, 4, 5, seed=2, grad=True)
    confidence = rand(2, 1, 4, 5, seed=3).add(0.1).requires_grad_()
    assert gradcheck(
        lambda v, f, c, b, g, z: tree_filter_v2(v, tree, beta=b, gamma=g, confidence=c, zeta=z, features=f),
        (values, features, confidence, number(0.6), number(0.3), number(0.7)),
    )


def test_more_channels_than_a_pass_takes():
    tree, values = mst(IMAGE), rand(2, 37, 4, 5, seed=1, grad=True)
    zeta, weights = number(0.5), rand(2, 37, 4, 5, seed=2)
    (tree_filter(values, tree, zeta=zeta) * weights).sum().backward()
    by_zeta = 0
    for c in range(37):
        one, scale = values[:, c : c + 1].detach().requires_grad_(), number(0.5)
        (tree_filter(one, tree, zeta=scale) * weights[:, c : c + 1]).sum().backward()
        torch.testing.assert_close(values.grad[:, c : c + 1], one.grad)
        by_zeta = by_zeta + scale.grad
    torch.testing.assert_close(zeta.grad, by_zeta)


def test_gradients_repeat_bit_for_bit_with_any_number_of_threads():
    found = []
    for threads in (1, 2, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            values, features = rand(2, 20, 4, 5, grad=True), rand(2, 3, 4, 5, seed=1, grad=True)
            y = tree_filter(values, mst(IMAGE), features=features)
            found.append(torch.autograd.grad((y * rand(2, 20, 4, 5, seed=2)).sum(), (values, features)))
        finally:
            torch.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b)


def test_half_precision_and_one_image():
    tree, values = mst(IMAGE[0]), rand(4, 4, 5)
    expected = tree_filter(values[None], mst(IMAGE[:1]), zeta=0.4)[0]
    assert torch.equal(tree_filter(values, tree, zeta=0.4), expected)
    half = tree_filter(values.bfloat16(), tree, zeta=0.4)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), expected, atol=0.02, rtol=0.02)
    second = tree_filter_v2(values, tree, beta=0.5, gamma=1.0, confidence=values[:1], zeta=0.4)
    assert second.shape == values.shape


def test_torchs_own_checks_of_operators_raise_nothing():
    tree, tests = mst(IMAGE, mask=MASK), ("test_schema", "test_faketensor", "test_autograd_registration")
    order, both = tree.order.flatten(1), torch.arange(2)
    torch.library.opcheck(_ops.root_trees, (order, tree.gap_edges), test_utils=tests)
    features = rand(2, 3, 20, grad=True)
    torch.library.opcheck(_ops.edge_distances, (features, tree.gap_edges, both), test_utils=tests)
    exponents = torch.where(torch.isinf(tree.gaps), 0, tree.gaps).requires_grad_()
    torch.library.opcheck(_ops.exponents, (exponents, number(0.5)), test_utils=tests)
    rooted = _ops.root_trees(order, tree.gap_edges)
    for normalised in (False, True):
        arguments = (rand(2, 2, 20, grad=True), *rooted, exponents, both, both, normalised)
        # z is as it comes where pixels have no part in it, never: all have.
        torch.library.opcheck(_ops.tree_filter, arguments, test_utils=tests)


def test_compile_without_graph_breaks():
    def step(values, features):
        return tree_filter(values, mst(IMAGE), zeta=0.5, features=features)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = []
    for function in (step, compiled):
        values, features = rand(2, 2, 4, 5, seed=1, grad=True), rand(2, 2, 4, 5, seed=2, grad=True)
        y = function(values, features)
        results.append((y, *torch.autograd.grad(y.square().sum(), (values, features))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_compiled_filters_look_at_zeta():
    tree, values = mst(IMAGE), rand(2, 2, 4, 5)
    for function in (
        lambda z: tree_filter(values, tree, zeta=z),
        lambda z: tree_filter_v2(values, tree, beta=0.5, gamma=1.0, zeta=z),
    ):
        compiled = torch.compile(function, backend="aot_eager")
        torch.testing.assert_close(compiled(number(0.4)), function(number(0.4)))
        for zeta in (-1.0, 0.0, float("nan")):
            with pytest.raises(ValueError, match="zeta must be above 0"):
                compiled(torch.tensor(zeta, dtype=D))


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("zeta", [1e-25, 1e-200])
def test_gradients_where_the_square_of_zeta_is_no_number(zeta, dtype):
    # Ties have a derivative of 1 / zeta^2 to their distances, and one of 0 to features.
    values, upstream = rand(1, 2, 4, 5, dtype=dtype, grad=True), 1000 * rand(1, 2, 4, 5, seed=1, dtype=dtype)
    features = IMAGE[:1].to(dtype).clone()
    features[..., 3:] = features[..., 3:4]
    scale, tree = number(zeta), mst(features)
    result = tree_filter(values, tree, zeta=scale, features=features.requires_grad_())
    by_values, by_features, by_zeta = torch.autograd.grad(result, (values, features, scale), upstream)
    assert torch.isfinite(by_values).all()
    assert (by_features == 0).all()
    assert by_zeta == 0


def test_gradients_beyond_single_precision_are_those_of_double():
    # Scaling features and zeta scales the gradient to features back.
    values, unit = rand(1, 2, 4, 5, dtype=torch.float32), rand(1, 3, 4, 5, seed=1)
    found = []
    for factor, dtype in ((1.0, D), (2.0**-66, torch.float32)):
        features = (factor * unit).to(dtype).requires_grad_()
        result = tree_filter(values, mst(unit), zeta=0.5 * factor, features=features)
        found.append(factor * torch.autograd.grad(result.square().sum(), features)[0].double())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_empty_tensors():
    values = torch.empty(0, 2, 4, 5, dtype=D, requires_grad=True)
    tree_filter(values, mst(IMAGE[:0])).sum().backward()
    assert values.grad.shape == values.shape
    assert tree_filter(torch.empty(2, 0, 4, 5), mst(IMAGE)).shape == (2, 0, 4, 5)


@pytest.mark.parametrize(
    ("error", "message", "act"),
    [
        (TypeError, "tree must come from", lambda v, t: tree_filter(v, IMAGE)),
        (TypeError, "values must be floating point", lambda v, t: tree_filter(v.int(), t)),
        (ValueError, "does not fit a tree", lambda v, t: tree_filter(v[..., :4], t)),
        (ValueError, "zeta must be above 0", lambda v, t: tree_filter(v, t, zeta=0.0)),
        (ValueError, "zeta must be above 0", lambda v, t: tree_filter(v, t, zeta=number(-1.0))),
        (
            ValueError,
            r"confidence must have shape \(2, 1, 4, 5\), got \(2, 2, 4, 5\)",
            lambda v, t: tree_filter_v2(v, t, beta=0.0, gamma=1.0, confidence=v),
        ),
    ],
)
def test_errors(error, message, act):
    with pytest.raises(error, match=message):
        act(rand(2, 2, 4, 5), mst(IMAGE))
