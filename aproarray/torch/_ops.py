"""The operators that torch sees: what a backend computes, its shapes for torch.compile, its gradients.

Layouts are flat: values (I, C, N), N pixels; trees (B, N), (B, N-1), (B, N-1, 2). Items and features name
their tree or image by index. `functional` checks kinds and shapes. Numbers that kernels trust are looked at
here, where torch.compile keeps the look.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, cast, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from aproarray import _arrays, _dispatch, _edges, _validate
from aproarray._backend import Backend, RootedTrees
from aproarray.cpu import _check
from aproarray.related._windows import mean_field_steps

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result", covariant=True)

_SCHEMA_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    Sequence[int]: "SymInt[]",
    int: "SymInt",
    float: "float",
    bool: "bool",
    str: "str",
}


class _Operator(Protocol[Parameters, Result]):
    """A function that torch knows as an operator."""

    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result: ...
    def register_autograd(
        self, backward: Callable[..., Any], /, *, setup_context: Callable[..., Any] | None = None
    ) -> None: ...


def _operator(
    shapes: Callable[..., Any],
) -> Callable[[Callable[Parameters, Result]], _Operator[Parameters, Result]]:
    """Register a function as the operator aproarray::<its name>.

    For torch.compile, `shapes` returns empty tensors like the operator's. Its parameters are those of the
    operator, by their names, that they depend on.
    """
    needed = tuple(inspect.signature(shapes).parameters)

    def register(function: Callable[Parameters, Result]) -> _Operator[Parameters, Result]:
        signature = inspect.signature(function)
        # torch < 2.5 cannot read postponed annotations, hence a schema of our own.
        *parameters, (_, result) = get_type_hints(function).items()
        inputs = ", ".join(f"{_SCHEMA_TYPES[kind]} {name}" for name, kind in parameters)
        outputs = ", ".join(_SCHEMA_TYPES[kind] for kind in get_args(result) or (result,))
        operator = torch.library.custom_op(
            f"aproarray::{function.__name__}", function, mutates_args=(), schema=f"({inputs}) -> ({outputs})"
        )

        def fake(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            return shapes(*(given[name] for name in needed))

        operator.register_fake(fake)
        return cast(_Operator[Parameters, Result], operator)

    return register


def _array(tensor: Tensor) -> Any:
    """Return the backend's array over a tensor's memory."""
    return _arrays.array_over(tensor.detach(), "a tensor", "torch")


def _pixels_first(tensor: Tensor) -> Any:
    """Return (I, C, N) as the backend's (I, N, C)."""
    return _array(tensor.transpose(1, 2))


def _new_like(tensor: Tensor) -> Tensor:
    """Return an empty tensor of the same kind.

    On the CPU it lies in NumPy's memory, which asks for huge pages where it is large. Writing to torch's own
    made propagation of 21 channels a tenth to a quarter slower.
    """
    if tensor.device.type != "cpu":
        return torch.empty_like(tensor)
    like = torch.empty_like(tensor, device="meta")
    memory = torch.from_numpy(np.empty(tensor.numel(), str(tensor.dtype).removeprefix("torch.")))
    return tensor.new_empty(0).set_(memory.untyped_storage(), 0, like.shape, like.stride())


def _booleans(tensor: Tensor | None) -> Any:
    """Return the backend's array of a mask or a region, where there is one."""
    return None if tensor is None else _array(tensor.contiguous())


def _index(tensor: Tensor) -> Any:
    """Return indices of trees or images on the host, where the work is laid out (waits for a device)."""
    return tensor.cpu().numpy()


@contextlib.contextmanager
def _backend(tensor: Tensor) -> Iterator[tuple[Backend, int]]:
    """Enter a tensor's device; its backend, and the threads it may use: torch's own number, at most."""
    with _arrays.on_device_of(tensor.detach()):
        backend = _dispatch.backend(tensor=_array(tensor))
        yield backend, min(backend.available_workers(), torch.get_num_threads())


def _checked(zeta: Tensor) -> float:
    """Return zeta as a number, after a look whether it is above 0 (waits for its device)."""
    return _validate.positive(zeta.item(), "zeta")


def _in_memory(tensor: Tensor, low: int, stop: int, name: str) -> None:
    """Check numbers of pixels, which kernels trust; on a device, a look would wait for it."""
    if tensor.device.type == "cpu" and tensor.numel():
        least, most = map(int, tensor.aminmax())
        if least < low or most >= stop:
            raise ValueError(f"{name} must be of {stop} pixels, got numbers from {least} to {most}")


def _known_order(order: Tensor, n_nodes: int) -> None:
    """Check that a CPU tensor's lines (B, N) hold each pixel once: others would get no result."""
    if order.device.type == "cpu" and not all(map(_check.is_permutation, order.numpy())):
        _in_memory(order, 0, n_nodes, "order")
        raise ValueError(f"order must hold each of {n_nodes} pixels once, got one of them twice")


def _known_edges(gap_edges: Tensor, n_nodes: int) -> None:
    _in_memory(gap_edges, -1, n_nodes, "gap_edges")
    if gap_edges.device.type == "cpu" and not torch.equal(gap_edges[..., 0] < 0, gap_edges[..., 1] < 0):
        raise ValueError("gap_edges must be -1 at both ends or at none, got edges with one end")


@_operator(lambda index: torch.empty_like(index, dtype=torch.int64))
def checked_index(index: Tensor, stop: int, name: str) -> Tensor:
    """Return indices as int64 after a look whether all are in [0, stop): kernels trust them."""
    if index.numel() and not (index.min() >= 0 and index.max() < stop):
        raise ValueError(
            f"{name} must be in [0, {stop}), got values from {int(index.min())} to {int(index.max())}"
        )
    return index.to(torch.int64, copy=True)


@_operator(lambda shares: shares.new_empty((), dtype=torch.float32))
def checked_shares(shares: Tensor, name: str, advice: str) -> Tensor:
    """Return 0 after a look whether all numbers are in [0, 1], but for rounding; no device is waited for.

    It is to be added to something that is used: a look whose result nobody uses is none under torch.compile.
    """
    if shares.device.type == "cpu" and shares.numel():
        least, most = (bound.item() for bound in shares.aminmax())
        slack = 4 * max(torch.finfo(shares.dtype).eps, 2.5e-4) if shares.is_floating_point() else 0
        if least < -slack or most > 1 + slack:
            raise ValueError(
                f"{name} must be in [0, 1], got numbers from {least:.6g} to {most:.6g}: {advice}"
            )
    return torch.zeros((), dtype=torch.float32, device=shares.device)


@_operator(lambda labels: torch.empty_like(labels, dtype=torch.int64))
def checked_labels(labels: Tensor, n_classes: int, ignore_index: int) -> Tensor:
    """Return labels as int64 after a look whether all are classes or ignored; no device is waited for."""
    if labels.device.type == "cpu":
        strange = labels[(labels != ignore_index) & ((labels < 0) | (labels >= n_classes))]
        if strange.numel():
            raise ValueError(
                f"labels must be in [0, {n_classes}), or {ignore_index} where a pixel is unlabelled, got "
                f"{int(strange[0])}: pass ignore_index={int(strange[0])} if it marks unlabelled pixels"
            )
    return labels.to(torch.int64, copy=True)


def _new_trees(like: Tensor, n_trees: int, n_nodes: int, n_ids: int) -> tuple[Tensor, Tensor, Tensor]:
    n_gaps = max(n_nodes - 1, 0)
    fits = like.dtype == torch.float32 and _edges.fits_32_bits(n_nodes, n_ids)
    index_dtype = torch.int32 if fits else torch.int64
    return (
        like.new_empty((n_trees, n_nodes), dtype=index_dtype),
        like.new_empty((n_trees, n_gaps)),
        like.new_empty((n_trees, n_gaps, 2), dtype=index_dtype),
    )


def _tensor(array: Any) -> Tensor:
    """Return the backend's array as a tensor; on a device, copied to torch's own memory.

    CuPy gives memory to another array as soon as its stream may write there. Torch's streams, and
    `Tensor.record_stream`, are nothing to it.
    """
    tensor: Tensor = torch.utils.dlpack.from_dlpack(array)
    return tensor.clone() if tensor.is_cuda else tensor


def _tensors(trees: Any) -> tuple[Tensor, Tensor, Tensor]:
    order, gaps, gap_edges = map(_tensor, trees)
    return order, gaps, gap_edges


def _shapes_of_mst(image: Tensor, shape: Sequence[int], connectivity: int) -> tuple[Tensor, Tensor, Tensor]:
    n_trees, _, n_nodes = image.shape
    id_bits = _edges.grid((2,) * len(shape), connectivity).id_bits
    return _new_trees(image, n_trees, n_nodes, n_nodes << id_bits)


@_operator(_shapes_of_mst)
def mst(
    image: Tensor, mask: Tensor | None, shape: Sequence[int], connectivity: int, check_finite: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return order, gaps and gap_edges of images (B, C, N), where masks (B or 1, N) are True."""
    flat = image.transpose(1, 2).contiguous()
    with _backend(image) as (backend, workers):
        if check_finite and not torch.isfinite(flat.sum()):
            seen = flat if mask is None else flat.masked_fill(~mask[:, :, None], 0)
            if not torch.isfinite(seen).all():
                raise ValueError(f"image must be finite, but holds NaN or inf{_validate.BY_MASK}")
        trees, weights_finite = backend.grid_trees(
            _array(flat), tuple(shape), connectivity, _booleans(mask), workers
        )
        if check_finite:
            _validate.no_overflow(weights_finite, "image", np.dtype(str(image.dtype).removeprefix("torch.")))
        return _tensors(trees)


@_operator(lambda features: _new_trees(features, features.shape[0], features.shape[2], features.shape[2]))
def reweigh(features: Tensor, gap_edges: Tensor, tree_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weigh trees by features (F, C, N): f on edges tree_index[f] of gap_edges (B, N-1, 2)."""
    _known_edges(gap_edges, features.shape[2])
    with _backend(features) as (backend, workers):
        trees, _ = backend.reweighed_trees(
            backend.edges(_array(gap_edges)), _index(tree_index), _pixels_first(features), workers
        )
        order, gaps, new_edges = _tensors(trees)
    if new_edges.device.type == "cpu":
        given, kept = ((edges[..., 0] >= 0).sum(1) for edges in (gap_edges, new_edges))
        if not torch.equal(kept, given[tree_index.cpu()]):
            raise ValueError(
                "gap_edges must be the edges of a tree or a forest, but some of them close a circle"
            )
    return order, _marked(gaps, features), new_edges


def _marked(weights: Tensor, features: Tensor) -> Tensor:
    """Fill weights (F, N-1) with NaN where features (F, C, N) are not all finite: NaN has no order."""
    # On a device, a look at the sum would wait for it.
    if features.device.type != "cpu" or not torch.isfinite(features.sum()):
        weights.masked_fill_(~torch.isfinite(features).flatten(1).all(1, keepdim=True), torch.nan)
    return weights


def _shape_of_reweigh_backward(features: Tensor) -> Tensor:
    return torch.empty_like(features, memory_format=torch.contiguous_format)


@_operator(_shape_of_reweigh_backward)
def reweigh_backward(gap_gradient: Tensor, features: Tensor, gap_edges: Tensor) -> Tensor:
    """Return dL/dfeatures (F, C, N) from dL/dgap (F, N-1), gap_edges (F, N-1, 2) being the reweighed ones."""
    result = _shape_of_reweigh_backward(features)
    with _backend(features) as (backend, workers):
        backend.feature_gradients(
            _array(gap_gradient.double().contiguous()),
            _pixels_first(features),
            _array(gap_edges),
            _pixels_first(result),
            workers,
        )
    return result


def _reweigh_setup(ctx: Any, inputs: Any, output: Any) -> None:
    features, _, _ = inputs
    _, _, gap_edges = output
    ctx.save_for_backward(features, gap_edges)


def _reweigh_gradient(ctx: Any, order: Any, gaps: Tensor, gap_edges: Any) -> tuple[Any, ...]:
    return reweigh_backward(gaps, *ctx.saved_tensors), None, None


reweigh.register_autograd(_reweigh_gradient, setup_context=_reweigh_setup)


@_operator(lambda values, order: (torch.empty_like(values), torch.empty_like(order, dtype=values.dtype)))
def global_propagate(
    values: Tensor, order: Tensor, gaps: Tensor, tree_index: Tensor, zeta: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the result (I, C, N) of values, item i over tree tree_index[i], and z (B, N) along the line.

    z is that of the trees that have items; the rest is left as it comes.
    """
    result, normalizers = _new_like(values), torch.empty_like(order, dtype=values.dtype)
    _known_order(order, values.shape[2])
    with _backend(values) as (backend, workers):
        lines = backend.recent_lines(_array(order), _array(gaps), workers)
        backend.global_propagate(
            _pixels_first(values), _pixels_first(result), lines, _index(tree_index), _checked(zeta), workers,
            _array(normalizers),
        )  # fmt: skip
    return _spoilt(result, gaps, tree_index), normalizers


def _spoilt(result: Tensor, weights: Tensor, of_items: Tensor) -> Tensor:
    """Fill what is over trees of `_marked` weights with NaN; on a device, it comes by itself."""
    if weights.device.type == "cpu" and (unknown := weights.sum(1).isnan()).any():
        result[unknown[of_items]] = torch.nan
    return result


@_operator(lambda grad: torch.empty_like(grad))
def global_transposed(
    grad: Tensor, order: Tensor, gaps: Tensor, tree_index: Tensor, zeta: Tensor, normalizers: Tensor
) -> Tensor:
    """Return K (grad / z): dL/dvalues from dL/dresult."""
    result = _new_like(grad)
    with _backend(grad) as (backend, workers):
        lines = backend.recent_lines(_array(order), _array(gaps), workers)
        backend.global_propagate(
            _pixels_first(grad), _pixels_first(result), lines, _index(tree_index), _checked(zeta), workers,
            _array(normalizers), True,
        )  # fmt: skip
    return _spoilt(result, gaps, tree_index)


@_operator(lambda gaps: torch.empty_like(gaps, dtype=torch.float64))
def global_gap_gradient(
    grad: Tensor,
    values: Tensor,
    result: Tensor,
    order: Tensor,
    gaps: Tensor,
    tree_index: Tensor,
    zeta: Tensor,
    normalizers: Tensor,
) -> Tensor:
    """Return dL/dgap (B, N-1), in float64."""
    gradient = torch.empty_like(gaps, dtype=torch.float64)
    with _backend(grad) as (backend, workers):
        backend.global_gap_gradients(
            _pixels_first(grad), _pixels_first(values), _pixels_first(result), _array(order), _array(gaps),
            _index(tree_index), _checked(zeta), _array(normalizers), _array(gradient), workers,
        )  # fmt: skip
    return gradient


def _global_setup(ctx: Any, inputs: Any, output: Any) -> None:
    values, order, gaps, tree_index, zeta = inputs
    result, normalizers = output
    # The gradient of values alone needs neither them nor the result.
    ctx.by_weight = ctx.needs_input_grad[2] or ctx.needs_input_grad[4]
    ctx.save_for_backward(
        order, gaps, tree_index, zeta, normalizers, *((values, result) if ctx.by_weight else ())
    )


def _global_gradient(ctx: Any, grad: Tensor, _normalizers: Any) -> tuple[Any, ...]:
    order, gaps, tree_index, zeta, normalizers, *more = ctx.saved_tensors
    by_values = by_gaps = by_zeta = None
    if ctx.needs_input_grad[0]:
        by_values = global_transposed(grad, order, gaps, tree_index, zeta, normalizers)
    if ctx.by_weight:
        values, result = more
        by_gaps = global_gap_gradient(grad, values, result, order, gaps, tree_index, zeta, normalizers)
        if ctx.needs_input_grad[4]:
            by_zeta = _by_zeta(by_gaps, torch.where(torch.isinf(gaps), 0, gaps), zeta)
        by_gaps = _held(by_gaps, gaps.dtype)
    return by_values, None, by_gaps, None, by_zeta


def _by_zeta(by_weights: Tensor, weights: Tensor, zeta: Tensor) -> Tensor:
    """Return dL/dzeta of what depends on weights / zeta^2 alone, from dL/dweights."""
    return (-2 * (_held(by_weights, by_weights.dtype) * weights).sum()).to(zeta) / zeta


def _held(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a gradient in another type, no larger than that twice it fits: inf times 0 would be NaN."""
    most = torch.finfo(dtype).max / 2
    return gradient.clamp(-most, most).to(dtype)


global_propagate.register_autograd(_global_gradient, setup_context=_global_setup)


def _shapes_of_root_trees(order: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = torch.int32 if 2 * order.shape[1] < 1 << 31 else torch.int64
    nodes, parents, gaps = (torch.empty_like(order, dtype=dtype) for _ in range(3))
    return nodes, parents, gaps, order.new_empty(order.shape[:1], dtype=torch.int64)


@_operator(_shapes_of_root_trees)
def root_trees(order: Tensor, gap_edges: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return trees (B, N) breadth first: nodes, places of parents, gaps of the edges to them; roots (B,)."""
    _known_order(order, order.shape[1])
    _known_edges(gap_edges, order.shape[1])
    with _backend(order) as (backend, workers):
        trees = backend.rooted_trees(_array(order), _array(gap_edges), workers)
        nodes, parents, gaps, n_roots = map(_tensor, trees)
    return nodes, parents, gaps, n_roots


@_operator(
    lambda features, gap_edges: features.new_empty(
        (features.shape[0], gap_edges.shape[1]), dtype=torch.float64
    )
)
def edge_distances(features: Tensor, gap_edges: Tensor, tree_index: Tensor) -> Tensor:
    """Return |f_u - f_v|^2 (F, N-1) of features (F, C, N) along the edges (B, N-1, 2) of tree tree_index[f].

    They are float64, as gradients by them are: divided by zeta^2, those may be beyond float32.
    """
    _known_edges(gap_edges, features.shape[2])
    with _backend(features) as (backend, workers):
        distances, _ = backend.edge_distances(
            _pixels_first(features), _array(gap_edges), _index(tree_index), workers
        )
        return _marked(_tensor(distances).double(), features)


def _distances_setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _distances_gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    features, gap_edges, tree_index = ctx.saved_tensors
    return reweigh_backward(grad, features, gap_edges[tree_index.to(gap_edges.device)]), None, None


edge_distances.register_autograd(_distances_gradient, setup_context=_distances_setup)


@_operator(lambda distances: torch.empty_like(distances))
def exponents(distances: Tensor, zeta: Tensor) -> Tensor:
    """Return d / zeta^2 of finite float64 distances d, after a look whether zeta is above 0."""
    inverse = min(1 / _checked(zeta), torch.finfo(distances.dtype).max)
    # One factor after the other, as the square may be beyond any number.
    return distances * inverse * inverse


def _exponents_setup(ctx: Any, inputs: Any, output: Tensor) -> None:
    _, zeta = inputs
    ctx.save_for_backward(zeta, output)


def _exponents_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    zeta, result = ctx.saved_tensors
    by_distances = by_zeta = None
    if ctx.needs_input_grad[0]:
        inverse = _held(1 / zeta.double(), grad.dtype).to(grad.device)
        by_distances = _held(grad * inverse * inverse, grad.dtype)
    if ctx.needs_input_grad[1]:
        by_zeta = _by_zeta(grad, torch.where(torch.isinf(result), 0, result), zeta)
    return by_distances, by_zeta


exponents.register_autograd(_exponents_gradient, setup_context=_exponents_setup)


def _forests(nodes: Tensor, parents: Tensor, gaps: Tensor, n_roots: Tensor) -> RootedTrees:
    return RootedTrees(*map(_array, (nodes, parents, gaps, n_roots)))


def _tree_normalizers(nodes: Tensor, exponents: Tensor, normalised: bool) -> Tensor:
    return exponents.new_empty((exponents.shape[0], nodes.shape[1]) if normalised else (0, 0))


@_operator(
    lambda values, nodes, exponents, normalised: (
        torch.empty_like(values),
        _tree_normalizers(nodes, exponents, normalised),
    )
)
def tree_filter(
    values: Tensor,
    nodes: Tensor,
    parents: Tensor,
    gaps: Tensor,
    n_roots: Tensor,
    exponents: Tensor,
    tree_index: Tensor,
    set_of: Tensor,
    normalised: bool,
) -> tuple[Tensor, Tensor]:
    """Return S values (I, C, N), divided by S 1 if normalised, and S 1 (F, N), empty if not.

    Item i has set set_of[i] of the exponents (F, N-1) of the gaps' affinities, and that tree tree_index[f].
    """
    result, normalizers = _new_like(values), _tree_normalizers(nodes, exponents, normalised)
    with _backend(values) as (backend, workers):
        backend.tree_filter(
            _pixels_first(values), _pixels_first(result), _forests(nodes, parents, gaps, n_roots),
            _array(exponents), _index(tree_index), _index(set_of), 1.0, workers,
            sums=_array(normalizers) if normalised else None,
        )  # fmt: skip
    return _spoilt(result, exponents, set_of), normalizers


def _by_exponents(exponents: Tensor, values: Tensor | None) -> Tensor:
    return exponents.new_empty((0, 0)) if values is None else torch.empty_like(exponents)


@_operator(lambda grad, values, exponents: (torch.empty_like(grad), _by_exponents(exponents, values)))
def tree_filter_backward(
    grad: Tensor,
    values: Tensor | None,
    result: Tensor | None,
    nodes: Tensor,
    parents: Tensor,
    gaps: Tensor,
    n_roots: Tensor,
    exponents: Tensor,
    tree_index: Tensor,
    set_of: Tensor,
    normalizers: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return dL/dvalues and dL/dexponents; the latter is empty without values and result."""
    by_values = _new_like(grad)
    by_exponents = _by_exponents(exponents, values)
    with _backend(grad) as (backend, workers):
        trees = _forests(nodes, parents, gaps, n_roots)
        sets = _array(exponents), _index(tree_index), _index(set_of)
        z = _array(normalizers) if normalizers.shape[1] else None
        backend.tree_filter(
            _pixels_first(grad), _pixels_first(by_values), trees, *sets, 1.0, workers, sums=z, transposed=True
        )
        if values is not None and result is not None:
            backend.tree_filter_gradients(
                _pixels_first(grad), _pixels_first(values), _pixels_first(result), trees, *sets, z,
                _array(by_exponents), workers,
            )  # fmt: skip
    return _spoilt(by_values, exponents, set_of), by_exponents


def _filter_setup(ctx: Any, inputs: Any, output: Any) -> None:
    values, *trees, exponents, tree_index, set_of, _ = inputs
    result, normalizers = output
    of_weights = (values, result) if ctx.needs_input_grad[5] else (None, None)
    ctx.save_for_backward(*of_weights, *trees, exponents, tree_index, set_of, normalizers)


def _filter_gradient(ctx: Any, grad: Tensor, _normalizers: Any) -> tuple[Any, ...]:
    by_values, by_exponents = tree_filter_backward(grad, *ctx.saved_tensors)
    return by_values, *(None,) * 4, by_exponents if ctx.needs_input_grad[5] else None, *(None,) * 3


tree_filter.register_autograd(_filter_gradient, setup_context=_filter_setup)


def _window_normalizers(values: Tensor, image: Tensor, with_normalizers: bool) -> Tensor:
    return values.new_empty((image.shape[0], image.shape[2]) if with_normalizers else (0, 0))


@_operator(
    lambda values, image, with_normalizers: (
        torch.empty_like(values),
        _window_normalizers(values, image, with_normalizers),
    )
)
def local_propagate(
    values: Tensor,
    image: Tensor,
    zeta: Tensor,
    image_index: Tensor,
    mask: Tensor | None,
    region: Tensor | None,
    shape: Sequence[int],
    kernel_size: int,
    iterations: int,
    with_normalizers: bool,
) -> tuple[Tensor, Tensor]:
    """Return the result (I, C, N) of values, item i along image image_index[i] of (G, C', N), and W 1 (G, N).

    Values outside of the items' region (I, N) are 0 before and after every iteration. W 1, which only
    gradients need, is empty where it is not asked for.
    """
    result = _new_like(values)
    normalizers = _window_normalizers(values, image, with_normalizers)
    with _backend(values) as (backend, workers):
        backend.local_propagate(
            _pixels_first(values), _pixels_first(result), _pixels_first(image), tuple(shape),
            _index(image_index), _booleans(mask), _checked(zeta), kernel_size, iterations, workers,
            _array(normalizers) if with_normalizers else None, region=_booleans(region),
        )  # fmt: skip
    return result, normalizers


@_operator(lambda grad: torch.empty_like(grad))
def local_transposed(
    grad: Tensor,
    image: Tensor,
    zeta: Tensor,
    image_index: Tensor,
    mask: Tensor | None,
    region: Tensor | None,
    normalizers: Tensor,
    shape: Sequence[int],
    kernel_size: int,
    iterations: int,
) -> Tensor:
    """Return dL/dvalues from dL/dresult (I, C, N)."""
    # (S^-1 W)^T = S (S^-1 W) S^-1: the steps back are steps forth between a division and a product.
    of_items = normalizers[image_index][:, None]
    result: Tensor = local_propagate(
        grad / of_items, image, zeta, image_index, mask, region, list(shape), kernel_size, iterations, False
    )[0]
    return result.mul_(of_items)


def _shapes_of_local_gradients(values: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    by_image = image.new_empty((image.shape[0], image.shape[2], image.shape[1]))
    return torch.empty_like(values), by_image.transpose(1, 2), image.new_empty(1, dtype=torch.float64)


@_operator(_shapes_of_local_gradients)
def local_gradients(
    grad: Tensor,
    values: Tensor,
    image: Tensor,
    zeta: Tensor,
    image_index: Tensor,
    mask: Tensor | None,
    region: Tensor | None,
    normalizers: Tensor,
    shape: Sequence[int],
    kernel_size: int,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dL/dvalues (I, C, N), dL/dimage (G, C', N) and, in float64 on their device, dL/dzeta (1)."""
    by_values = _new_like(values)
    by_image = image.new_empty((image.shape[0], image.shape[2], image.shape[1]), dtype=torch.float64)
    by_zeta = image.new_empty(1, dtype=torch.float64)
    with _backend(grad) as (backend, workers):
        backend.local_gradients(
            _pixels_first(grad), _pixels_first(values), _pixels_first(image), tuple(shape),
            _index(image_index), _booleans(mask), _checked(zeta), kernel_size, iterations, workers,
            _array(normalizers), _pixels_first(by_values), _array(by_image), _array(by_zeta),
            region=_booleans(region),
        )  # fmt: skip
    return by_values, by_image.transpose(1, 2).to(image.dtype), by_zeta


def _local_setup(ctx: Any, inputs: Any, output: Any) -> None:
    values, image, zeta, image_index, mask, region, *ctx.options, _ = inputs
    _, normalizers = output
    ctx.by_weight = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    ctx.save_for_backward(
        image, zeta, image_index, mask, region, normalizers, *((values,) if ctx.by_weight else ())
    )


def _local_gradient(ctx: Any, grad: Tensor, _normalizers: Any) -> tuple[Any, ...]:
    image, zeta, image_index, mask, region, normalizers, *more = ctx.saved_tensors
    by_values = by_image = by_zeta = None
    if not normalizers.numel():  # inside torch.func.vmap, where no tensor says that it requires grad
        shape, kernel_size, _ = ctx.options
        normalizers = local_propagate(
            grad, image, zeta, image_index, mask, region, shape, kernel_size, 1, True
        )[1]
    options = (image, zeta, image_index, mask, region, normalizers, *ctx.options)
    if ctx.by_weight:
        by_values, by_image, by_zeta = local_gradients(grad, *more, *options)
        # A scale on the CPU would have to wait for the device.
        by_zeta = by_zeta.to(zeta).reshape(()) if ctx.needs_input_grad[2] else None
    elif ctx.needs_input_grad[0]:
        by_values = local_transposed(grad, *options)
    return by_values, by_image, by_zeta, *(None,) * 7


local_propagate.register_autograd(_local_gradient, setup_context=_local_setup)


@_operator(lambda values: torch.empty_like(values))
def mean_field(
    values: Tensor,
    region: Tensor,
    image: Tensor,
    image_index: Tensor,
    shape: Sequence[int],
    zeta: float,
    kernel_size: int,
    iterations: int,
) -> Tensor:
    """Return the mean-field inference of values (I, C, N) in a region (I, C, N); see `aproarray.related`."""
    result = _new_like(values)
    with _backend(values) as (backend, workers):
        _pixels_first(result)[...] = mean_field_steps(
            backend, _pixels_first(values), _pixels_first(region), _pixels_first(image), tuple(shape),
            _index(image_index), None, zeta, kernel_size, iterations, workers,
        )  # fmt: skip
    return result


def _new_affinities(image: Tensor, radii: Sequence[int]) -> Tensor:
    return image.new_empty(
        (image.shape[0], math.prod(2 * radius + 1 for radius in radii) - 1, image.shape[2])
    )


@_operator(_new_affinities)
def pairwise_affinities(
    image: Tensor, shape: Sequence[int], theta: float, radii: Sequence[int], dilation: int
) -> Tensor:
    """Return the affinities (B, K, N) of images (B, C, N) to the K steps of `_edges.box_steps`."""
    result = _new_affinities(image, radii)
    with _backend(image) as (backend, workers):
        backend.pairwise_affinities(
            _pixels_first(image), tuple(shape), None, theta, tuple(radii), dilation, _array(result), workers
        )
    return result


def _second_order(ctx: Any, *gradients: Any) -> None:
    raise NotImplementedError("derivatives of second order are not implemented in aproarray.torch")


for _backward in (
    reweigh_backward, global_transposed, global_gap_gradient, local_transposed, local_gradients,
    tree_filter_backward,
):  # fmt: skip
    _backward.register_autograd(_second_order)
