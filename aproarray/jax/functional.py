"""The verbs for JAX: check arrays, flatten their pixels, map the operators of `_ops` over batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aproarray import _edges, _validate
from aproarray.jax import _host, _ops

Shape = tuple[int, ...]


class Tree(NamedTuple):
    """The minimum spanning tree of an image, or of a batch, as arrays. Made by `mst`.

    It is a pytree: `jax.jit` takes and returns it, `jax.vmap` and `jax.lax.scan` run over the trees of a
    batch, and ``jax.tree.map(lambda array: array[index], tree)`` picks some. `aproarray.SpanningTree` is the
    same for NumPy arrays, and has more methods.

    Attributes
    ----------
    order : (..., H, W) integer array
        The pixels of each image along its line; see `aproarray.SpanningTree`.
    gaps : (..., H W - 1) float array
        The gaps of the lines: weights of the trees' edges; inf between the components of a forest.
    gap_edges : (..., H W - 1, 2) integer array
        The edge (u, v) of each gap; (-1, -1) where it is inf.
    """

    order: jax.Array
    gaps: jax.Array
    gap_edges: jax.Array


def mst(
    image: jax.typing.ArrayLike,
    *,
    mask: jax.typing.ArrayLike | None = None,
    spatial_ndim: int = 2,
    connectivity: int = 1,
    check_finite: bool = True,
) -> Tree:
    """Return the minimum spanning tree of an image, or of each of a batch, for `global_propagate`.

    It is `aproarray.mst` under JAX's transformations. The structure of a tree is locally constant, so that
    there is no gradient: those of its weights come from `features` of `global_propagate`.

    Parameters
    ----------
    image : (..., H, W, C) array
        Of any real dtype, never rescaled; leading axes are a batch. With `spatial_ndim` 3, (..., D, H, W, C).
    mask : bool array, optional
        (H, W) or (..., H, W), True where a pixel takes part. Gives a minimum spanning forest.
    spatial_ndim : int
        Number of spatial axes.
    connectivity : int
        Neighbours are at most this many orthogonal hops apart, from 1 to `spatial_ndim`.
    check_finite : bool
        Whether to look for NaN and inf. Without it the tree of such an image is undefined.

    Returns
    -------
    Tree
        Its weights are float32 for images of up to 16 bits and float32, float64 above.

    Raises
    ------
    TypeError, ValueError
        An array or option of the wrong kind or shape; an image to be computed in float64 without JAX's x64.
        NaN, inf, and differences too large to square are found while the call runs: JAX wraps the error in
        one of its own.
    NotImplementedError
        An image that is differentiated by, or arrays on a device other than the CPU.

    Notes
    -----
    O(N) time for N pixels.

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023,
       "Global affinity propagation".

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from aproarray.jax import mst
    >>> jax.jit(mst)(jnp.array([[[0.0], [1.0]], [[3.0], [2.0]]])).gaps.tolist()
    [1.0, 1.0, 1.0]
    """
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM)
    connectivity = _validate.integer(connectivity, "connectivity", 1, spatial_ndim)
    check_finite = _validate.flag(check_finite, "check_finite")
    image = _wide(image, "image")
    leading, shape = _axes(image, "image", spatial_ndim)
    masks = _mask(mask, leading, shape)

    def one(image: Any, mask: Any) -> Any:
        return _ops.mst(image, mask, shape, connectivity, check_finite)

    order, gaps, gap_edges = _mapped(one, leading, (_flat(image, leading), len(leading)), masks)
    return Tree(order.reshape(leading + shape), gaps, gap_edges)


def global_propagate(
    values: jax.typing.ArrayLike,
    tree: Tree,
    *,
    zeta: float | jax.Array,
    features: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Average values over all pixels, each weighted by how alike the tree says they are.

    It is `aproarray.global_propagate` under JAX's transformations, with gradients to values, features and
    zeta. They are exact: of what the forward pass computes, with the structure of the tree as it is.

    Parameters
    ----------
    values : (..., H, W, C) floating-point array
        phi, over the pixels of the tree; leading axes begin with the tree's, and those beyond share a tree.
        float16 and bfloat16 are computed in float32 and returned as they were. NaN and inf are not looked
        for: they spread over their component, those of `features` over all.
    tree : Tree
        From `mst`.
    zeta : float or array of one number
        Scale, above 0, in the image's units. An array may be traced; a float is not rounded to float32.
    features : (..., H, W, C') array, optional
        Weigh the tree's edges by ``|f_u - f_v|^2`` of these (the paper's semantic affinity). Leading axes
        begin with the tree's, and values' begin with theirs.

    Returns
    -------
    array of values' shape and dtype

    Raises
    ------
    TypeError, ValueError
        An array of the wrong kind, shape or dtype; zeta not above 0. That of an array is found while the call
        runs: JAX wraps the error in one of its own.
    NotImplementedError
        Derivatives of second order, or arrays on a device other than the CPU.

    Notes
    -----
    O(N C) time, forward and backward. A backward pass to the values keeps 4 bytes per pixel and the tree; one
    to features or zeta also keeps values and result. Items that share a tree share it forward; backward to
    features or zeta, each has a copy of its own.

    Where weights tie, the largest weight on a path has no derivative: the result is the one-sided derivative
    that belongs to one order of the tied edges.

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023,
       "Global affinity propagation".

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from aproarray.jax import global_propagate, mst
    >>> tree = mst(jnp.array([[[0.0], [0.1], [5.0], [5.1]]]))
    >>> seeds = jnp.array([[[1.0], [0], [0], [0]]])
    >>> gradient = jax.grad(lambda x: global_propagate(x, tree, zeta=1.0)[0, 1, 0])(seeds)
    >>> print(np.asarray(gradient).ravel().round(3))
    [0.498 0.502 0.    0.   ]
    """
    return _over_tree(_ops.global_propagate, values, tree, zeta, features)


def tree_filter(
    values: jax.typing.ArrayLike,
    tree: Tree,
    *,
    zeta: float | jax.Array = 1.0,
    features: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Average values over all pixels, with affinities that are products along the paths of a tree.

    It is `aproarray.related.tree_filter` under JAX's transformations, with exact gradients to values,
    features and zeta.

    Parameters
    ----------
    values, tree, features
        As in `global_propagate`.
    zeta : float or array of one number
        Scale, above 0, in the units of the image or the features (paper: 1).

    Returns
    -------
    array of values' shape and dtype

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As in `global_propagate`.

    Notes
    -----
    O(N C) time, forward and backward. A backward pass lays the tree out again.

    References
    ----------
    .. [1] L. Song et al., "Learnable Tree Filter for Structure-preserving Feature Transform", NeurIPS 2019.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from aproarray.jax import mst, tree_filter
    >>> tree = mst(jnp.array([[[0.0], [1.0], [2.0]]]))
    >>> result = tree_filter(jnp.array([[[1.0], [0.0], [0.0]]]), tree)
    >>> print(np.asarray(result).ravel().round(2))
    [0.67 0.21 0.09]
    """
    return _over_tree(_ops.tree_filter, values, tree, zeta, features)


def local_propagate(
    values: jax.typing.ArrayLike,
    image: jax.typing.ArrayLike,
    *,
    zeta: float | jax.Array,
    kernel_size: int = 5,
    iterations: int = 20,
    mask: jax.typing.ArrayLike | None = None,
    spatial_ndim: int = 2,
) -> jax.Array:
    """Average values over a small window, weighted by likeness to its centre, again and again.

    It is `aproarray.local_propagate` under JAX's transformations, with exact gradients to values, image and
    zeta.

    Parameters
    ----------
    values : (..., H, W, C) floating-point array
        phi; leading axes begin with the image's. float16 and bfloat16 are computed in float32 and returned as
        they were.
    image : (..., H, W, C') array
        Of any real dtype, never rescaled.
    zeta : float or array of one number
        Scale, above 0, in the image's units. An array may be traced; a float is not rounded to float32.
    kernel_size : int
        Pixels along each axis of the window, odd (paper: 5 for Pascal VOC, 3 for COCO).
    iterations : int
        Number of steps (paper: 20); 0 returns the values.
    mask : bool array, optional
        (H, W) or the image's (..., H, W), True where a pixel takes part.
    spatial_ndim : int
        Number of spatial axes.

    Returns
    -------
    array of values' shape and dtype

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As in `global_propagate`; an even kernel_size, negative iterations.

    Notes
    -----
    O(N C k^2 iterations) time. The gradient to values costs one more forward pass, the one to image or zeta
    about four, which compute all iterates again.

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023,
       "Local affinity propagation".

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from aproarray.jax import local_propagate
    >>> image = jnp.array([[[0.0], [0.0], [1.0], [1.0]]])
    >>> seeds = jnp.array([[[1.0], [0.0], [0.0], [0.0]]])
    >>> local_propagate(seeds, image, zeta=0.15, kernel_size=3).ravel().round(3).tolist()
    [0.5, 0.5, 0.0, 0.0]
    """
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM)
    kernel_size = _validate.odd(kernel_size, "kernel_size")
    iterations = _validate.integer(iterations, "iterations", 0)
    number, scale = _scale(zeta)
    given, image = _floating(values, "values"), _wide(image, "image")
    leading, shape = _axes(image, "image", spatial_ndim)
    phi = _wide(given, "values")
    batch = _fitting(phi, leading, shape, "values", "an image")
    masks = _mask(mask, leading, shape)
    if iterations == 0:
        return given
    window = _host.Window(shape, kernel_size, iterations)

    def one(values: Any, image: Any, mask: Any, zeta: Any) -> Any:
        return _ops.local_propagate(values, image, mask, zeta, number, window)

    flat = _flat(phi, batch), len(batch)
    result = _mapped(one, batch, flat, (_flat(image, leading), len(leading)), masks, (scale, 0))
    shaped: jax.Array = result.reshape(given.shape).astype(given.dtype)
    return shaped


def _over_tree(operator: Callable[..., Any], values: Any, tree: Any, zeta: Any, features: Any) -> jax.Array:
    """Check the arguments of what is propagated over a tree, and return the operator's result."""
    number, scale = _scale(zeta)
    leading, shape = _tree_axes(tree)
    given = _floating(values, "values")
    phi = _wide(given, "values")
    batch = _fitting(phi, leading, shape, "values", "a tree")
    weighing: Any = None, 0
    if features is not None:
        f = _wide(_floating(features, "features"), "features")
        of_features = _fitting(f, leading, shape, "features", "a tree")
        if batch[: len(of_features)] != of_features:
            raise ValueError(
                f"features with leading axes {of_features} do not fit values with leading axes {batch}: "
                "those of values must begin with those of features"
            )
        weighing = _flat(f, of_features), len(of_features)
    line = tree.order.reshape(*leading, math.prod(shape)), *tree[1:]

    def one(values: Any, tree: Any, features: Any, zeta: Any) -> Any:
        return operator(values, tree, features, zeta, number)

    result = _mapped(one, batch, (_flat(phi, batch), len(batch)), (line, len(leading)), weighing, (scale, 0))
    shaped: jax.Array = result.reshape(given.shape).astype(given.dtype)
    return shaped


def _mapped(one: Callable[..., Any], leading: Shape, *args: tuple[Any, int]) -> Any:
    """Map a function of single items over leading axes, of which each argument has its first few."""
    for axis in reversed(range(len(leading))):
        one = jax.vmap(one, in_axes=tuple(0 if axis < n_axes else None for _, n_axes in args))
    return one(*(arg for arg, _ in args))


def _array(value: Any, name: str) -> jax.Array:
    if not isinstance(value, jax.Array | np.ndarray | np.generic):
        raise TypeError(f"{name} must be a JAX or NumPy array, got a {type(value).__name__}")
    if not (value.dtype == np.bool_ or jnp.issubdtype(value.dtype, np.integer) or _is_floating(value)):
        raise TypeError(f"{name} must hold real numbers, got dtype {value.dtype}")
    return value  # type: ignore[return-value]


def _is_floating(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, np.floating)


def _floating(value: Any, name: str) -> jax.Array:
    array = _array(value, name)
    if not _is_floating(array):
        raise TypeError(
            f"{name} must be floating point, got dtype {array.dtype}: pass {name}.astype(jnp.float32)"
        )
    return array


def _wide(value: Any, name: str) -> jax.Array:
    """Return an array in the float type to compute in, as `_validate.compute_dtype` does; bfloat16 too."""
    array = _array(value, name)
    narrow = array.dtype in (jnp.bfloat16, np.float32) or np.dtype(array.dtype).itemsize <= 2
    dtype = np.dtype(np.float32 if narrow else np.float64)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise TypeError(
            f"{name} of dtype {array.dtype} is computed in float64, which JAX is set not to have: call "
            f"jax.config.update('jax_enable_x64', True), or pass {name}.astype(jnp.float32)"
        )
    return jnp.asarray(array).astype(dtype)


def _axes(image: jax.Array, name: str, spatial_ndim: int) -> tuple[Shape, Shape]:
    """Return the leading and the spatial shape of (..., H, W, C)."""
    if image.ndim < spatial_ndim + 1:
        advice = f": pass {name}[..., None] if it has no channels" if image.ndim == spatial_ndim else ""
        raise ValueError(
            f"{name} must have {spatial_ndim} spatial axes and a last one of channels, got shape "
            f"{image.shape}{advice}"
        )
    first = image.ndim - spatial_ndim - 1
    return image.shape[:first], image.shape[first:-1]


def _fitting(array: jax.Array, leading: Shape, shape: Shape, name: str, owner: str) -> Shape:
    """Return the leading axes of an array over the pixels of `owner`, whose own are `leading`."""
    first = array.ndim - len(shape) - 1
    if first < len(leading) or array.shape[: len(leading)] != leading or array.shape[first:-1] != shape:
        expected = ", ".join(map(str, (*leading, "...", *shape, "channels")))
        raise ValueError(
            f"{name} of shape {array.shape} does not fit {owner} of shape {leading + shape}: expected "
            f"({expected})"
        )
    return array.shape[:first]


def _flat(array: jax.Array, leading: Shape) -> jax.Array:
    """Return (..., H, W, C) as (..., N, C)."""
    return array.reshape(*leading, math.prod(array.shape[len(leading) : -1]), array.shape[-1])


def _mask(mask: Any, leading: Shape, shape: Shape) -> tuple[Any, int]:
    """Return a mask as (..., N), and how many leading axes it has."""
    if mask is None:
        return None, 0
    array = _array(mask, "mask")
    if array.dtype != np.bool_:
        raise TypeError(f"mask must be boolean (True: the pixel takes part), got dtype {array.dtype}")
    if array.shape not in (shape, leading + shape):
        raise ValueError(
            f"mask of shape {array.shape} does not fit an image of shape {leading + shape}: expected {shape}"
            + (f" or {leading + shape}" if leading else "")
        )
    own = leading if array.shape != shape else ()
    return jnp.asarray(array).reshape(*own, math.prod(shape)), len(own)


def _scale(zeta: Any) -> tuple[float | None, Any]:
    """Return zeta as a number and no array, or as none and an array."""
    if not isinstance(zeta, jax.Array):
        return _validate.positive(zeta, "zeta"), None
    if zeta.ndim or not _is_floating(zeta):
        raise ValueError(
            f"zeta must be one floating-point number, got {zeta.dtype} of shape {zeta.shape}: jax.vmap maps "
            "over several"
        )
    return None, zeta.astype(jnp.promote_types(zeta.dtype, np.float32))


def _tree_axes(tree: Any) -> tuple[Shape, Shape]:
    """Return the leading and the spatial shape of a tree, after a look at what its arrays are."""
    if not isinstance(tree, Tree):
        raise TypeError(f"tree must come from aproarray.jax.mst, got a {type(tree).__name__}")
    order, gaps, gap_edges = (_array(array, f"tree.{name}") for name, array in tree._asdict().items())
    integers = np.int32, np.int64
    if (
        order.dtype not in integers
        or gap_edges.dtype not in integers
        or gaps.dtype not in (np.float32, np.float64)
    ):
        raise TypeError(
            "tree must have int32 or int64 order and gap_edges, and float32 or float64 gaps, got "
            f"{order.dtype}, {gap_edges.dtype} and {gaps.dtype}"
        )
    leading, shape = order.shape[: gaps.ndim - 1], order.shape[gaps.ndim - 1 :]
    n_gaps = max(math.prod(shape) - 1, 0)
    if not shape or (gaps.shape, gap_edges.shape) != ((*leading, n_gaps), (*leading, n_gaps, 2)):
        raise ValueError(
            "tree must have order (..., H, W), gaps (..., H W - 1) and gap_edges (..., H W - 1, 2), got "
            f"{order.shape}, {gaps.shape} and {gap_edges.shape}"
        )
    return leading, shape
