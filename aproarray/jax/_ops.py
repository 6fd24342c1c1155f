"""The operators that JAX sees, of one item each: calls of the functions in `_host`, and their gradients.

Layouts are flat: values (N, C), N pixels; trees (N), (N-1), (N-1, 2). `jax.vmap` makes one call of a batch.
`functional` checks kinds and shapes. A zeta that is a Python number stays one: float32 would round it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from aproarray import _edges
from aproarray.jax import _foreign, _host


def _on_host(x: Any, refusal: str) -> Any:
    """Return an array that is to go to the host: an error if it has a tangent, or is on another device."""
    return _on_host_p.bind(x, refusal=refusal)  # type: ignore[no-untyped-call]


_on_host_p = Primitive("aproarray_on_host")


def _elsewhere(platform: str) -> str:
    return (
        f"aproarray.jax computes on the CPU, but the arrays are on {platform}: put them there by "
        "jax.device_put(array, jax.devices('cpu')[0]), or run under jax.default_device"
    )


def _impl(x: Any, *, refusal: str) -> Any:
    for device in x.devices() if isinstance(x, jax.Array) else ():
        if device.platform != "cpu":
            raise NotImplementedError(_elsewhere(device.platform))
    return x


def _abstract(x: Any, *, refusal: str) -> Any:
    return x


def _batched(args: Any, axes: Any, *, refusal: str) -> Any:
    return _on_host(args[0], refusal), axes[0]


def _refuse_tangent(primals: Any, tangents: Any, *, refusal: str) -> Any:
    raise NotImplementedError(refusal)


def _lower(ctx: Any, x: Any, *, refusal: str) -> Any:
    return [x]


def _refuse_platform(ctx: Any, x: Any, *, refusal: str) -> Any:
    raise NotImplementedError(_elsewhere(" and ".join(ctx.module_context.platforms)))


_on_host_p.def_impl(_impl)  # type: ignore[no-untyped-call]
_on_host_p.def_abstract_eval(_abstract)  # type: ignore[no-untyped-call]
batching.primitive_batchers[_on_host_p] = _batched
ad.primitive_jvps[_on_host_p] = _refuse_tangent
mlir.register_lowering(_on_host_p, _lower, platform="cpu")
mlir.register_lowering(_on_host_p, _refuse_platform)

_SECOND_ORDER = "derivatives of second order are not implemented in aproarray.jax"


def _call(
    function: Callable[..., Any],
    results: Any,
    first: Any,
    *args: Any,
    zeta: Any = None,
    refusal: str = _SECOND_ORDER,
    **options: Any,
) -> Any:
    """Call a function of `_host` with arrays, of which `first` is one item's; one call for a batch of items.

    The options are no arrays, and nor is zeta where it is a number.
    """
    named = {"zeta": zeta} if isinstance(zeta, jax.Array) else {}
    if zeta is not None and not named:
        options["zeta"] = float(zeta)
    return _foreign.call(function, tuple(results), (_on_host(first, refusal), *args), named, options)


def _shape(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    result: jax.ShapeDtypeStruct = jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]
    return result


def _like(array: Any, *shape: int) -> jax.ShapeDtypeStruct:
    """Return the shape, another one if given, and the dtype of an array."""
    return _shape(shape or array.shape, array.dtype)


def _tree_shapes(n_nodes: int, n_ids: int, dtype: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
    fits = dtype == np.float32 and _edges.fits_32_bits(n_nodes, n_ids)
    index = np.dtype(np.int32 if fits else np.int64)
    if jax.dtypes.canonicalize_dtype(index) != index:
        raise ValueError(
            f"trees of {n_nodes} pixels have 64-bit numbers of pixels: call "
            "jax.config.update('jax_enable_x64', True)"
        )
    n_gaps = max(n_nodes - 1, 0)
    return (
        _shape((n_nodes,), index),
        _shape((n_gaps,), dtype),
        _shape((n_gaps, 2), index),
    )


def mst(image: Any, mask: Any, shape: tuple[int, ...], connectivity: int, check_finite: bool) -> Any:
    """Return order, gaps and gap_edges of an image (N, C), where its mask (N) is True."""
    n_nodes = image.shape[0]
    id_bits = _edges.grid((2,) * len(shape), connectivity).id_bits
    return _call(
        _host.mst, _tree_shapes(n_nodes, n_nodes << id_bits, image.dtype), image, mask,
        shape=shape, connectivity=connectivity, check_finite=check_finite,
        refusal="mst is not differentiable, but image has a tangent: pass jax.lax.stop_gradient(image), and "
        "the same array as features= of global_propagate for gradients through the weights of the edges",
    )  # fmt: skip


def _primal(given: Any) -> Any:
    """Return what `jax.custom_vjp` hands to a rule, without its notes on tangents."""
    return jax.tree.map(lambda x: x.value, given, is_leaf=_is_noted)


def _is_noted(x: Any) -> bool:
    return isinstance(x, jax.custom_derivatives.CustomVJPPrimal)


def _perturbed(given: Any) -> bool:
    """Return whether anything of what `jax.custom_vjp` hands to a rule has a tangent."""
    return any(x.perturbed for x in jax.tree.leaves(given, is_leaf=_is_noted))


def _whole(grad: Any) -> Any:
    """Return a gradient as an array: some versions of JAX hand over a note that it is 0."""
    if isinstance(grad, jax.custom_derivatives.SymbolicZero):
        return jnp.zeros(grad.shape, grad.dtype)
    return grad


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def global_propagate(values: Any, tree: Any, features: Any, zeta: Any, number: float | None) -> Any:
    """Return the result (N, C) of values over a tree, weighed by features (N, C') where there are any.

    The scale is zeta, or a number that has no gradient.
    """
    return _call(
        _host.global_propagate, (_like(values),), values, tree, features,
        zeta=number if zeta is None else zeta, for_gradients=False,
    )[0]  # fmt: skip


def _global_forward(values: Any, tree: Any, features: Any, zeta: Any, number: float | None) -> Any:
    by_weight = _perturbed((tree, features, zeta))
    values, tree, features, zeta = _primal((values, tree, features, zeta))
    n_nodes = values.shape[0]
    weighed = () if features is None else _tree_shapes(n_nodes, n_nodes, features.dtype)
    result, sums, *line = _call(
        _host.global_propagate, (_like(values), _like(values, n_nodes), *weighed), values, tree, features,
        zeta=number if zeta is None else zeta, for_gradients=True,
    )  # fmt: skip
    of_weights = (values, result) if by_weight else None
    return result, (of_weights, sums, tuple(line) or tree, features if by_weight else None, zeta)


def _global_backward(number: float | None, saved: Any, grad: Any) -> Any:
    return _backward(_host.global_gradients, number, grad, *saved)


def _backward(
    function: Callable[..., Any], number: float | None, grad: Any, of_weights: Any, *saved: Any
) -> tuple[Any, ...]:
    """Return the gradients of values, tree, features and zeta; see `_host.global_gradients`."""
    *_, tree, features, zeta = saved
    grad = _whole(grad)
    results = [_like(grad)]
    scale = _shape((), np.float32) if zeta is None else _like(zeta)
    if of_weights is not None:
        results += [_like(tree[1] if features is None else features), scale]
    by_values, *more = _call(
        function, results, grad, of_weights, *saved[:-1], zeta=number if zeta is None else zeta
    )
    by_weight, by_zeta = more or (None, None)
    by_zeta = None if zeta is None else by_zeta
    if features is None:
        return by_values, (None, by_weight, None), None, by_zeta
    return by_values, (None, None, None), by_weight, by_zeta


global_propagate.defvjp(_global_forward, _global_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def tree_filter(values: Any, tree: Any, features: Any, zeta: Any, number: float | None) -> Any:
    """Return the tree filter's result (N, C); arguments as of `global_propagate`."""
    zeta = number if zeta is None else zeta
    return _call(_host.tree_filter, (_like(values),), values, tree, features, zeta=zeta)[0]


def _filter_forward(values: Any, tree: Any, features: Any, zeta: Any, number: float | None) -> Any:
    by_weight = _perturbed((tree, features, zeta))
    values, tree, features, zeta = _primal((values, tree, features, zeta))
    result = tree_filter(values, tree, features, zeta, number)
    return result, ((values, result) if by_weight else None, tree, features, zeta)


def _filter_backward(number: float | None, saved: Any, grad: Any) -> Any:
    return _backward(_host.tree_filter_gradients, number, grad, *saved)


tree_filter.defvjp(_filter_forward, _filter_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def local_propagate(
    values: Any, image: Any, mask: Any, zeta: Any, number: float | None, window: _host.Window
) -> Any:
    """Return the result (N, C) of values along an image (N, C') where its mask (N) is True."""
    return _call(
        _host.local_propagate, (_like(values),), values, image, mask,
        zeta=number if zeta is None else zeta, window=window, for_gradients=False,
    )[0]  # fmt: skip


def _local_forward(
    values: Any, image: Any, mask: Any, zeta: Any, number: float | None, window: _host.Window
) -> Any:
    by_weight = _perturbed((image, zeta))
    values, image, mask, zeta = _primal((values, image, mask, zeta))
    result, sums = _call(
        _host.local_propagate, (_like(values), _like(values, values.shape[0])), values, image, mask,
        zeta=number if zeta is None else zeta, window=window, for_gradients=True,
    )  # fmt: skip
    return result, (values if by_weight else None, sums, image, mask, zeta)


def _local_backward(number: float | None, window: _host.Window, saved: Any, grad: Any) -> Any:
    values, *along, zeta = saved
    grad = _whole(grad)
    results = [_like(grad)]
    if values is not None:
        scale = _shape((), np.float32) if zeta is None else _like(zeta)
        results += [_like(along[1]), scale]
    by_values, *more = _call(
        _host.local_gradients, results, grad, values, *along,
        zeta=number if zeta is None else zeta, window=window,
    )  # fmt: skip
    by_image, by_zeta = more or (None, None)
    return by_values, by_image, None, None if zeta is None else by_zeta


local_propagate.defvjp(_local_forward, _local_backward, symbolic_zeros=True)
