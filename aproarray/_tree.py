"""SpanningTree: the minimum spanning tree of an image or a graph, laid out on a line.

This file holds a tree's arrays, distances, cuts and conversions. The backends build trees and propagate over
them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aproarray import _arrays, _dispatch, _edges, _validate
from aproarray._backend import Backend, TreeArrays

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SpanningTree:
    """A minimum spanning tree (forest, with a mask), or a batch of them.

    Made by `aproarray.mst` and `SpanningTree.from_edges`. Whoever calls the class gets copies of the arrays,
    once they are checked, and so does unpickling. The arrays are read-only. N is the number of pixels
    (nodes), and a pixel's index its place in C order.

    Attributes
    ----------
    shape : tuple of int
        Spatial shape of the image, or ``(n_nodes,)`` for a graph.
    order : (..., N) integer array
        The pixels on a line, such that the minimax distance of two pixels is the largest gap between
        their positions.
    gaps : (..., N-1) float array
        The gaps of the line; inf between the components of a forest.
    gap_edges : (..., N-1, 2) integer array
        The tree's edge (u, v), u < v, whose weight each gap is; (-1, -1) where it is inf.
    mask : bool array or None
        The pixels that take part (None: all). The others are components of their own.

    Notes
    -----
    The line is built by Kruskal's algorithm [1]_: where two components merge at weight w, their lists of
    pixels are put one after the other, the one with the smaller first pixel in front, and w is written
    in the gap. The dendrogram of single linkage is the Cartesian tree of the gaps. Leading axes (...)
    are those of a batch, and ``len``, iteration and indexing run over them.

    A tree takes 4 numbers per pixel: 16 bytes with float32 weights and up to 2^31 pixels. What calls find in
    it stays with it: 1 byte per pixel for `aproarray.global_propagate`, 8 for features.

    References
    ----------
    .. [1] J. B. Kruskal, "On the shortest spanning subtree of a graph", Proc. AMS 7, 1956.
    """

    shape: tuple[int, ...]
    order: Array
    gaps: Array
    gap_edges: Array
    mask: NDArray[np.bool_] | None = None
    # Found when it is first asked for, and kept: the trees breadth first, the backend's `lines` and `edges`.
    _rooted: Any = field(default=None, init=False)
    _lines: Any = field(default=None, init=False)
    _edges: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Check copies of the arrays, and keep those: kernels trust the indices in them."""
        _fill(self, *_checked(True, self.shape, self.order, self.gaps, self.gap_edges, self.mask))

    @classmethod
    def _loaded(cls, *fields: Any) -> SpanningTree:
        """Return a tree that was pickled. Its arrays are checked, and copied where others may have them."""
        return trusted_tree(*_checked(False, *fields))

    @classmethod
    @_arrays.takes_dlpack
    def from_edges(cls, edges: ArrayLike, weights: ArrayLike, n_nodes: int) -> SpanningTree:
        """Return the minimum spanning tree of any graph: superpixels, meshes, point clouds.

        Parameters
        ----------
        edges : (E, 2) array_like of int
            Node indices in [0, n_nodes). Loops and parallel edges are allowed.
        weights : (E,) array_like of float
            Weight of each edge: finite, not negative. float32 is kept, as are ties: they are ordered by
            (weight, lower node, higher node), so that the order of the rows does not matter.
        n_nodes : int
            Number of nodes. A graph that is not connected gives a forest.

        Returns
        -------
        SpanningTree
            Of shape ``(n_nodes,)``: values to propagate over it are (n_nodes,) or (n_nodes, C).

        Raises
        ------
        TypeError
            Edges are not integers, or weights not real numbers.
        ValueError
            Shapes do not match, an index is out of range, or a weight is negative, NaN or inf.

        Notes
        -----
        O(E + N) time for sorting plus O(E a(N)) for the union-find.

        Examples
        --------
        >>> tree = SpanningTree.from_edges([[0, 1], [1, 2], [0, 2]], [1.0, 4.0, 9.0], n_nodes=3)
        >>> tree.edges.tolist(), tree.weights.tolist()
        ([[0, 1], [1, 2]], [1.0, 4.0])
        >>> float(tree.minimax(0, 2))
        4.0
        """
        backend = _dispatch.backend(edges=edges, weights=weights)
        xp = backend.xp
        n_nodes = _validate.integer(n_nodes, "n_nodes", 0)
        ends = _validate.in_range(_validate.integer_array(edges, "edges", (None, 2), xp), n_nodes, "edges")
        w = _validate.real_array(weights, "weights", xp)
        if w.shape != ends.shape[:1]:
            raise ValueError(f"weights must have one entry per edge, shape {ends.shape[:1]}, got {w.shape}")
        # A copy, too: the caller may write into theirs.
        w = xp.ascontiguousarray(w.astype(_validate.compute_dtype(w.dtype)))
        if not (np.isfinite(w).all() and (w >= 0).all()):
            raise ValueError("weights must be finite and at least 0, got negative, NaN or inf ones")
        trees, _ = backend.edge_list_tree(ends, xp.where(w < np.finfo(w.dtype).tiny, 0, w), n_nodes)
        order, gaps, gap_edges = trees.with_leading(())
        return trusted_tree((n_nodes,), order, gaps, gap_edges)

    @property
    def edges(self) -> Array:
        """The edges (..., N-1, 2), lightest first: pairs u < v, ties ordered by (u, v).

        A forest of k components has k - 1 rows of (-1, -1) at the end. Sorted anew at each access, O(N).
        """
        return self._sorted_edges()[0]

    @property
    def weights(self) -> Array:
        """The weights (..., N-1) of `edges`, ascending; inf where a forest has no edge."""
        result: Array = self._backend.xp.sort(self.gaps, axis=-1)
        return result

    def _sorted_edges(self) -> tuple[Array, Array]:
        backend = self._backend
        n_nodes = self.order.shape[-1]
        edges, weights = backend.xp.empty_like(self.gap_edges), backend.xp.empty_like(self.gaps)
        for b in np.ndindex(self.batch_shape):
            edges[b], weights[b] = backend.sorted_edges(self.gap_edges[b], self.gaps[b], n_nodes)
        return edges, weights

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch: () for one tree."""
        return self.order.shape[:-1]

    @property
    def n_components(self) -> Any:
        """Number of trees in the forest, masked-out pixels not counted (an array for a batch)."""
        isolated = 0 if self.mask is None else (~self._flat_mask()).sum(-1)
        total = np.isinf(self.gaps).sum(-1) + min(self.order.shape[-1], 1) - isolated
        return total if self.batch_shape else int(total.squeeze())

    def __len__(self) -> int:
        """Return the length of the batch's first axis."""
        if not self.batch_shape:
            raise TypeError("a single SpanningTree has no length: it is not a batch")
        return self.batch_shape[0]

    def __getitem__(self, key: Any) -> SpanningTree:
        """Return some trees of a batch, by anything that indexes an array of its batch_shape."""
        if not self.batch_shape:
            raise TypeError("a single SpanningTree cannot be indexed: it is not a batch")
        n_trees, n_nodes, n_gaps = math.prod(self.batch_shape), self.order.shape[-1], self.gaps.shape[-1]
        picked = np.arange(n_trees).reshape(self.batch_shape)[_arrays.on_host(key)]
        picked = self._backend.xp.asarray(picked) if picked.ndim else int(picked)
        mask = self.mask
        if mask is not None and mask.shape != self.shape:
            mask = mask.reshape(n_trees, *self.shape)[picked]
        return trusted_tree(
            self.shape,
            self.order.reshape(n_trees, n_nodes)[picked],
            self.gaps.reshape(n_trees, n_gaps)[picked],
            self.gap_edges.reshape(n_trees, n_gaps, 2)[picked],
            mask,
        )

    def __iter__(self) -> Iterator[SpanningTree]:
        """Run over the batch's first axis."""
        return (self[b] for b in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Return whether two trees have the same shape, dtype, line, edges and mask."""
        if not isinstance(other, SpanningTree):
            return NotImplemented
        equal = self._backend.xp.array_equal
        return bool(
            self.shape == other.shape
            and self.gaps.dtype == other.gaps.dtype
            and self._backend is other._backend
            and equal(self.order, other.order)
            and equal(self.gaps, other.gaps)
            and equal(self.gap_edges, other.gap_edges)
            and (self.mask is None) == (other.mask is None)
            and (self.mask is None or equal(self.mask, other.mask))
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the fields, which are checked and locked again."""
        return SpanningTree._loaded, (self.shape, self.order, self.gaps, self.gap_edges, self.mask)

    def __repr__(self) -> str:
        """Say what matters: shape, batch, components, weights."""
        finite = self.gaps[np.isfinite(self.gaps)]
        weights = f"{float(finite.min()):.3g}..{float(finite.max()):.3g}" if finite.size else "none"
        batch = f", batch_shape={self.batch_shape}" if self.batch_shape else ""
        components = np.array2string(
            np.asarray(_arrays.on_host(self.n_components)), separator=", ", threshold=8
        )
        return (
            f"SpanningTree(shape={self.shape}{batch}, n_components={components}, "
            f"weights={weights} {self.gaps.dtype})"
        )

    @_arrays.takes_dlpack
    def reweight(
        self, features: ArrayLike, *, channel_axis: int | None = -1, workers: int | None = None
    ) -> SpanningTree:
        """Return the tree with the same edges and the weights ``|f_u - f_v|^2`` of other features.

        This is the paper's semantic affinity: the tree comes from the image, the weights from a
        network's features, or from a first result of propagation.

        Parameters
        ----------
        features : array_like of real numbers
            Over the tree's pixels, as `values` of `global_propagate`. Leading axes beyond the tree's
            give a batch of trees, one for each.
        channel_axis : int or None
            Axis of `features` that holds the channels; None if there is none.
        workers : int or None
            Threads (None: the CPUs this process may use). The result does not depend on it.

        Returns
        -------
        SpanningTree
            Its line is that of the new weights. Note that its edges need not be a minimum spanning tree
            of the new weights over the whole pixel graph.

        Raises
        ------
        TypeError, ValueError
            Features of a wrong kind or shape, NaN or inf in them.

        Notes
        -----
        O(N log N) worst case, O(N) in practice (two counting sorts and a radix sort).
        """
        return reweigh(self, features, self.batch_shape, channel_axis, workers, check_finite=True)

    def minimax(self, i: ArrayLike, j: ArrayLike) -> Any:
        """Return d_ij, the largest weight on the tree path from i to j.

        Parameters
        ----------
        i, j : int, array_like of int, or tuple
            Flat indices, broadcast against one another; or tuples with one index (array) per spatial
            axis, as for indexing the image: ``tree.minimax((r0, c0), (r1, c1))``.

        Returns
        -------
        float or array
            In the weights' dtype: 0 for i = j, inf between components of a forest. d is an ultrametric.

        Raises
        ------
        TypeError, ValueError
            Indices that are not integers or out of range, or a batch of trees.

        Notes
        -----
        O(N) once per call, O(log N) per pair.
        """
        self._check_single("minimax")
        backend = self._backend
        xp = backend.xp
        first, second = self._nodes(i, "i"), self._nodes(j, "j")
        try:
            first, second = xp.broadcast_arrays(first, second)
        except ValueError:
            raise ValueError(
                f"i and j must be broadcast together, got shapes {first.shape} and {second.shape}"
            ) from None
        position = xp.empty(self.order.size, np.intp)
        position[self.order] = xp.arange(self.order.size)
        a, b = position[first.ravel()], position[second.ravel()]
        return backend.largest_between(self.gaps, np.minimum(a, b), np.maximum(a, b)).reshape(first.shape)[()]

    def affinity(self, index: Any, zeta: float) -> Array:
        """Return psi of one pixel to all, ``exp(-d_ij / zeta^2)`` (the paper's Figure 3).

        Parameters
        ----------
        index : int or tuple of int
            The pixel: its flat index, or its coordinates.
        zeta : float
            Scale, above 0, in the units of the image: affinities fall to 1/e where d = zeta^2.

        Returns
        -------
        array of the tree's shape
            In the weights' dtype, from 0 (another component) to 1 (the pixel itself).

        Raises
        ------
        TypeError, ValueError
            An index that is not one pixel of the tree, zeta not above 0, or a batch of trees.

        Notes
        -----
        O(N): one pass outwards from the pixel's position on the line.
        """
        self._check_single("affinity")
        node = self._nodes(index, "index")
        if node.ndim:
            raise ValueError(f"index must be one pixel, got {node.size} of shape {node.shape}")
        zeta = _validate.positive(zeta, "zeta")
        position = int((self.order == node).argmax())
        distances = self._backend.distances_from(self.gaps, position)
        result: Array = self._backend.xp.empty_like(distances)
        result[self.order] = self._backend.affinities(distances, zeta)
        return result.reshape(self.shape)

    def cut(self, threshold: float, *, min_size: int = 1) -> Array:
        """Label the components that remain without the edges heavier than `threshold`.

        These are the quasi-flat zones of the image at that level: pixels i and j are in one zone if
        and only if ``d_ij <= threshold`` and some path joins them (inf: the components of the forest).

        Parameters
        ----------
        threshold : float
            At least 0, in the units of the weights (squared differences).
        min_size : int
            Zones of fewer pixels are joined to others, as by Felzenszwalb and Huttenlocher [1]_: of the
            heavier edges, lightest first, each one joins its two zones if one of them is that small. A whole
            component of the forest may be smaller.

        Returns
        -------
        integer array of shape batch_shape + shape
            Zones from 1, numbered by their first pixel in C order, and 0 where the mask is False, as
            by `skimage.measure.label`.

        Raises
        ------
        TypeError, ValueError
            The threshold is not a number of at least 0, or min_size no integer of at least 1.

        Notes
        -----
        O(N log N) for numbering, O(N) otherwise; with min_size, the edges are sorted first. On a device, they
        are then joined on the host.

        References
        ----------
        .. [1] P. F. Felzenszwalb and D. P. Huttenlocher, "Efficient graph-based image segmentation", IJCV 59,
           2004: its implementation's treatment of small components.
        """
        threshold = _validate.real_number(threshold, "threshold")
        if not threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {threshold!r}")
        with np.errstate(over="ignore"):
            threshold = self.gaps.dtype.type(threshold)
        min_size = _validate.integer(min_size, "min_size", 1)
        n, xp = self.order.shape[-1], self._backend.xp
        labels: Array = xp.zeros(self.order.shape, self.order.dtype)
        flat_mask = None if self.mask is None else self._flat_mask()
        for b in np.ndindex(self.batch_shape):
            mask = None if flat_mask is None else flat_mask[b if flat_mask.ndim > 1 else ()]
            if min_size > 1 and n > 1:
                edges, weights = self._backend.sorted_edges(self.gap_edges[b], self.gaps[b], n)
                zone_of = self._backend.zones(edges, weights, float(threshold), min(min_size, n))
                starts, first_pixels = None, xp.arange(n)[zone_of == xp.arange(n)]
            else:
                # A zone is a stretch of the line that starts with its first pixel.
                starts = xp.ones(n, bool)
                starts[1:] = (self.gaps[b] > threshold) | np.isinf(self.gaps[b])
                first_pixels = self.order[b][starts]
            counted = first_pixels if mask is None else first_pixels[mask[first_pixels]]
            number = xp.zeros(n, self.order.dtype)
            number[xp.sort(counted)] = xp.arange(1, len(counted) + 1)
            if starts is None:
                labels[b] = number[zone_of]
            elif n:
                labels[b][self.order[b]] = number[first_pixels][xp.cumsum(starts) - 1]
        return labels.reshape(self.batch_shape + self.shape)

    def to_linkage(self) -> NDArray[np.float64]:
        """Return the single-linkage dendrogram as a linkage matrix of `scipy.cluster.hierarchy`.

        Returns
        -------
        (N-1, 4) float64 array
            Row k merges clusters Z[k, 0] < Z[k, 1] (below N: pixels) at height Z[k, 2], the minimax
            distance, into cluster N + k of Z[k, 3] pixels.

        Raises
        ------
        ValueError
            A forest (a dendrogram has one root), fewer than two pixels, or a batch of trees.

        Notes
        -----
        O(N a(N)).
        """
        self._check_single("to_linkage")
        if len(self.gaps) == 0 or np.isinf(self.gaps).any():
            raise ValueError(f"a linkage matrix needs one tree over at least two pixels, got {self!r}")
        result: NDArray[np.float64] = self._backend.linkage(*self._sorted_edges())
        return result

    @property
    def _backend(self) -> Backend:
        return _dispatch.backend(order=self.order)

    def _flat_mask(self) -> NDArray[np.bool_]:
        assert self.mask is not None
        return self.mask.reshape(*self.mask.shape[: self.mask.ndim - len(self.shape)], self.order.shape[-1])

    def _check_single(self, method: str) -> None:
        if self.batch_shape:
            raise ValueError(f"{method} takes one tree, not a batch of shape {self.batch_shape}: use tree[b]")

    def _nodes(self, index: Any, name: str) -> NDArray[np.intp]:
        """Return flat indices from flat ones or from a tuple of coordinates."""
        xp = self._backend.xp
        if not isinstance(index, tuple):
            shape = _validate.as_array(index, name, xp).shape
            indices = _validate.integer_array(index, name, shape, xp)
            return _validate.in_range(indices, self.order.size, name)
        if len(index) != len(self.shape):
            raise ValueError(f"{name} must have one coordinate for each axis of {self.shape}, got {index}")
        coordinates = [_validate.as_array(along, f"{name}[{axis}]", xp) for axis, along in enumerate(index)]
        try:
            coordinates = xp.broadcast_arrays(*coordinates)
        except ValueError:
            shapes = ", ".join(str(along.shape) for along in coordinates)
            raise ValueError(f"the coordinates of {name} must be broadcast together, got {shapes}") from None
        for axis, (coordinate, extent) in enumerate(zip(coordinates, self.shape, strict=True)):
            label = f"{name}[{axis}]"
            _validate.in_range(
                _validate.integer_array(coordinate, label, coordinate.shape, xp), extent, label
            )
        nodes: NDArray[np.intp] = xp.asarray(xp.ravel_multi_index(tuple(coordinates), self.shape), np.intp)
        return nodes


def trusted_tree(
    shape: tuple[int, ...], order: Array, gaps: Array, gap_edges: Array, mask: NDArray[np.bool_] | None = None
) -> SpanningTree:
    """Return the tree of arrays that a backend has made, or that are checked, without a look at them."""
    tree = object.__new__(SpanningTree)
    _fill(tree, shape, order, gaps, gap_edges, mask)
    for kept in ("_rooted", "_lines", "_edges"):
        object.__setattr__(tree, kept, None)
    return tree


def _fill(tree: SpanningTree, *fields: Any) -> None:
    """Set the fields of a tree, and lock its arrays."""
    for name, value in zip(("shape", "order", "gaps", "gap_edges", "mask"), fields, strict=True):
        if isinstance(value, np.ndarray):  # other libraries have no locks
            value.setflags(write=False)
        object.__setattr__(tree, name, value)


def _checked(
    copy: bool, shape: Any, order: Any, gaps: Any, gap_edges: Any, mask: Any
) -> tuple[tuple[int, ...], Array, Array, Array, NDArray[np.bool_] | None]:
    """Return the fields of a tree, or copies of them, once kernels may trust them."""
    backend = _dispatch.backend(order=order, gaps=gaps, gap_edges=gap_edges, mask=mask)
    xp = backend.xp
    if not isinstance(shape, tuple | list) or not shape:
        raise TypeError(f"shape must be a tuple of at least one integer, got {shape!r}")
    shape = tuple(_validate.integer(extent, "shape", 0) for extent in shape)
    n_nodes = math.prod(shape)
    # As backends make them: a device has 32 bits only, and the CPU has them for twice an index, too.
    index_types: tuple[str, ...] = ("int32",)
    if xp is np:
        index_types = ("int32", "int64") if _edges.fits_32_bits(n_nodes, n_nodes) else ("int64",)
    order = _of_type(order, "order", index_types, xp, copy)
    gaps = _of_type(gaps, "gaps", ("float32", "float64"), xp, copy)
    gap_edges = _of_type(gap_edges, "gap_edges", index_types, xp, copy)
    if gap_edges.dtype != order.dtype:
        raise TypeError(f"gap_edges must have order's dtype {order.dtype}, got {gap_edges.dtype}")
    if order.ndim == 0 or order.shape[-1] != n_nodes:
        raise ValueError(f"order must be (..., {n_nodes}) for a tree of shape {shape}, got {order.shape}")
    batch_shape, n_gaps = order.shape[:-1], max(n_nodes - 1, 0)
    for name, array, expected in (
        ("gaps", gaps, (*batch_shape, n_gaps)),
        ("gap_edges", gap_edges, (*batch_shape, n_gaps, 2)),
    ):
        if array.shape != expected:
            raise ValueError(
                f"{name} must have shape {expected} beside an order of {order.shape}, got {array.shape}"
            )
    n_trees = math.prod(batch_shape)
    trees = TreeArrays(
        order.reshape(n_trees, n_nodes), gaps.reshape(n_trees, n_gaps), gap_edges.reshape(n_trees, n_gaps, 2)
    )
    if mask is not None:
        mask = _of_type(mask, "mask", ("bool",), xp, copy)
    masks = _validate.mask(mask, batch_shape, shape, f"a tree of shape {batch_shape + shape}", xp)
    if not backend.are_trees(trees, masks, backend.available_workers()):
        raise ValueError(_fault(*map(_arrays.on_host, trees)))
    return shape, order, gaps, gap_edges, mask


def _of_type(array: Any, name: str, types: tuple[str, ...], xp: Any, copy: bool) -> Array:
    """Return a contiguous array of one of some types, in native byte order."""
    result = _validate.as_array(array, name, xp)
    native = result.dtype.newbyteorder("=")
    if native.name not in types:
        raise TypeError(f"{name} must be of dtype {' or '.join(types)}, got {result.dtype}")
    if xp is np:  # a device has no foreign byte orders, nor unaligned numbers
        result = np.require(result, native, ("C", "A"))
    contiguous: Array = xp.ascontiguousarray(result)
    return contiguous.copy() if copy or _is_lent(contiguous) else contiguous


def _is_lent(array: Any) -> bool:
    """Return whether an array lies in memory that is not NumPy's, such as a buffer of `pickle.loads`."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return not isinstance(array, np.ndarray | bytes)


def _fault(order: Array, gaps: Array, gap_edges: Array) -> str:
    """Say what is wrong with arrays that are no trees."""
    n_nodes, u, v = order.shape[1], gap_edges[..., 0], gap_edges[..., 1]
    missing = gaps == np.inf
    wrong = {
        f"order must hold every index from 0 to {n_nodes - 1} once": (
            np.sort(order, axis=1) != np.arange(n_nodes)
        ).any(axis=1),
        "gaps must be at least 0": ~(gaps >= 0),
        "gap_edges must be (-1, -1) where a gap is inf": missing & ((u != -1) | (v != -1)),
        f"gap_edges must be pairs 0 <= u < v < {n_nodes} where a gap is finite": (
            ~missing & ~((u >= 0) & (u < v) & (v < n_nodes))
        ),
    }
    for expected, where in wrong.items():
        if where.any():
            b, *place = (int(found[0]) for found in np.nonzero(where))
            if not place:
                return f"{expected}, got others"
            p = place[0]
            return f"{expected}, got ({int(u[b, p])}, {int(v[b, p])}) beside a gap of {float(gaps[b, p])}"
    return "gap_edges must not join pixels that mask leaves out, got some that do"


def reweigh(
    tree: SpanningTree,
    features: ArrayLike,
    leading: tuple[int, ...],
    channel_axis: int | None,
    workers: int | None,
    check_finite: bool,
    tree_index: NDArray[np.intp] | None = None,
) -> SpanningTree:
    """Weigh a tree by features that lead with `leading`; `tree_index` names the tree of each."""
    backend = _dispatch.backend(order=tree.order, features=features)
    flat, layout, tree_index = flat_features(tree, features, leading, channel_axis, check_finite, tree_index)
    mask = masks_of(tree, tree_index)
    if tree._edges is None:
        n_trees, n_nodes = math.prod(tree.batch_shape), tree.order.shape[-1]
        edges = backend.edges(tree.gap_edges.reshape(n_trees, max(n_nodes - 1, 0), 2))
        object.__setattr__(tree, "_edges", edges)
    trees, weights_finite = backend.reweighed_trees(
        tree._edges, tree_index, flat, _validate.workers(workers, backend.available_workers())
    )
    if check_finite:
        _validate.no_overflow(weights_finite, "features", flat.dtype)
    order, gaps, gap_edges = trees.with_leading(layout.leading)
    if mask is not None:
        shared = tree.mask is not None and tree.mask.shape == tree.shape
        mask = mask.reshape(tree.shape if shared else layout.leading + tree.shape)
    return trusted_tree(tree.shape, order, gaps, gap_edges, mask)


def flat_features(
    tree: SpanningTree,
    features: ArrayLike,
    leading: tuple[int, ...],
    channel_axis: int | None,
    check_finite: bool,
    tree_index: NDArray[np.intp] | None = None,
) -> tuple[Array, _validate.Layout, NDArray[np.intp]]:
    """Return features over trees as (F, N, C) with their layout, and the tree of each (F)."""
    xp = tree._backend.xp
    f = _validate.real_array(features, "features", xp)
    layout = _validate.layout_over(f.shape, leading, tree.shape, channel_axis, "features", "a tree")
    if tree_index is None:
        tree_index = np.arange(math.prod(tree.batch_shape))
    tree_index = np.repeat(tree_index, math.prod(layout.leading[len(leading) :]))
    masks = masks_of(tree, tree_index)
    flat = xp.ascontiguousarray(_validate.as_floats(layout.flatten(f), masks, xp))
    if check_finite:
        _validate.finite(flat, "features", masks, _validate.BY_TREE)
    return flat, layout, tree_index


def masks_of(tree: SpanningTree, tree_index: NDArray[np.intp]) -> NDArray[np.bool_] | None:
    """Return the masks of some trees of a flattened batch, (1 or len(tree_index), N), or None."""
    if tree.mask is None:
        return None
    if tree.mask.shape == tree.shape:
        return tree._flat_mask()[None]
    masks: NDArray[np.bool_] = tree.mask.reshape(math.prod(tree.batch_shape), tree.order.shape[-1])[
        tree._backend.xp.asarray(tree_index)
    ]
    return masks


def rooted_trees(tree: SpanningTree, workers: int) -> Any:
    """Return the trees of the flattened batch, breadth first from a root: found once, and kept."""
    if tree._rooted is None:
        n_trees, n_nodes = math.prod(tree.batch_shape), tree.order.shape[-1]
        rooted = tree._backend.rooted_trees(
            tree.order.reshape(n_trees, n_nodes),
            tree.gap_edges.reshape(n_trees, max(n_nodes - 1, 0), 2),
            workers,
        )
        object.__setattr__(tree, "_rooted", rooted)
    return tree._rooted


def lines_of(tree: SpanningTree, workers: int) -> Any:
    """Return the backend's lines of the trees of the flattened batch: found once, and kept."""
    if tree._lines is None:
        n_trees, n_nodes = math.prod(tree.batch_shape), tree.order.shape[-1]
        lines = tree._backend.lines(
            tree.order.reshape(n_trees, n_nodes), tree.gaps.reshape(n_trees, max(n_nodes - 1, 0)), workers
        )
        object.__setattr__(tree, "_lines", lines)
    return tree._lines
