"""The declaration of a backend: the functions that `aproarray.cpu` and `aproarray.gpu` both have.

Sizes: B trees over N nodes, I items of N pixels and C channels, G images of Ci channels, F sets of features.
Arrays are of the backend's own library (`xp`), contiguous unless they hold values or results. ``tree_index``
(I) and ``image_index`` (I) name the tree or image of each item, and are NumPy arrays. ``lines`` are what the
backend's own `lines` returns: all that propagation needs of B trees. `recent_lines` returns the same, of
trees that do not keep it, and may remember the last ones. `edges` are as opaque. A flag that says whether
numbers are finite is a bool, or a scalar on the device, which need not be waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]


class TreeArrays(NamedTuple):
    """B trees over N nodes: order (B, N), gaps (B, N-1), and gap_edges (B, N-1, 2), the edge of each gap."""

    order: Array
    gaps: Array
    gap_edges: Array

    def with_leading(self, leading: tuple[int, ...]) -> tuple[Array, Array, Array]:
        """Return the arrays with the batch axis B replaced by leading axes."""
        order, gaps, gap_edges = (array.reshape(leading + array.shape[1:]) for array in self)
        return order, gaps, gap_edges


class RootedTrees(NamedTuple):
    """B forests over N nodes, breadth first: nodes, places of parents, gaps of the edges to them (B, N)."""

    nodes: Array
    parents: Array
    gaps: Array
    n_roots: Array
    """Roots of each forest (B,): its first places."""


class Backend(Protocol):
    """The functions of a backend; the docstrings of `aproarray.cpu` say what each of them computes."""

    __name__: str
    """The module's, for pickling."""
    xp: Any
    """The arrays' own namespace."""

    def available_workers(self) -> int: ...

    # Trees
    def grid_trees(
        self, images: Array, shape: tuple[int, ...], connectivity: int, masks: Array | None, workers: int
    ) -> tuple[TreeArrays, Any]: ...
    def edge_list_tree(self, ends: Array, weights: Array, n_nodes: int) -> tuple[TreeArrays, Any]: ...
    def edges(self, gap_edges: Array) -> Any: ...
    def reweighed_trees(
        self, edges: Any, tree_index: Array, features: Array, workers: int
    ) -> tuple[TreeArrays, Any]: ...
    def are_trees(self, trees: TreeArrays, masks: Array | None, workers: int) -> bool: ...
    def sorted_edges(self, gap_edges: Array, gaps: Array, n_nodes: int) -> tuple[Array, Array]: ...
    def sorted_weights(self, gaps: Array) -> Array: ...
    def zones(self, edges: Array, weights: Array, threshold: float, min_size: int) -> Array: ...
    def linkage(self, edges: Array, weights: Array) -> Array: ...
    def largest_between(self, gaps: Array, first: Array, last: Array) -> Array: ...
    def distances_from(self, gaps: Array, position: int) -> Array: ...
    def affinities(self, distances: Array, zeta: float) -> Array: ...

    # Global propagation
    def lines(self, order: Array, gaps: Array, workers: int) -> Any: ...
    def recent_lines(self, order: Array, gaps: Array, workers: int) -> Any: ...
    def global_propagate(
        self,
        values: Array,
        out: Array,
        lines: Any,
        tree_index: Array,
        zeta: float,
        workers: int,
        sums: Array | None = None,
        transposed: bool = False,
    ) -> bool: ...
    def global_gap_gradients(
        self,
        grad: Array,
        values: Array,
        result: Array,
        order: Array,
        gaps: Array,
        tree_index: Array,
        zeta: float,
        sums: Array,
        out: Array,
        workers: int,
    ) -> None: ...
    def feature_gradients(
        self, gap_gradients: Array, features: Array, gap_edges: Array, out: Array, workers: int
    ) -> None: ...

    # Local propagation
    def local_propagate(
        self,
        values: Array,
        out: Array,
        images: Array,
        shape: tuple[int, ...],
        image_index: Array,
        masks: Array | None,
        zeta: float,
        kernel_size: int,
        iterations: int,
        workers: int,
        sums: Array | None = None,
        region: Array | None = None,
    ) -> None: ...
    def local_gradients(
        self,
        grad: Array,
        values: Array,
        images: Array,
        shape: tuple[int, ...],
        image_index: Array,
        masks: Array | None,
        zeta: float,
        kernel_size: int,
        iterations: int,
        workers: int,
        sums: Array,
        by_values: Array,
        by_image: Array,
        by_zeta: Array,
        region: Array | None = None,
    ) -> None: ...

    # Labels: images (*shape, C) and masks (*shape)
    def smooth(self, image: Array, steps: Sequence[tuple[int, float]], workers: int) -> Array: ...
    def gradient(
        self,
        image: Array,
        mask: Array | None,
        spacing: Sequence[float] | None,
        workers: int,
        out: Array | None = None,
    ) -> Array: ...
    def square_steps(
        self, image: Array, mask: Array | None, spacing: Sequence[float] | None, workers: int
    ) -> list[tuple[float, int]]: ...

    def Floods(  # noqa: N802 - a class
        self, reliefs: Array, steps: Array, shape: tuple[int, ...], spacing: tuple[float, ...] | None
    ) -> Any: ...

    def settle(
        self,
        maps: Sequence[Array],
        seeds: Array,
        pixels: Any,
        trust: tuple[float, float, float],
        strength: float,
        workers: int,
    ) -> Array: ...
    def Votes(  # noqa: N802 - a class
        self, features: Array, zones: Array, steps: Array, neighbours: Array, scale: float, iterations: int
    ) -> Any: ...

    # Related methods
    def rooted_trees(self, order: Array, gap_edges: Array, workers: int) -> RootedTrees: ...
    def edge_distances(
        self, features: Array, gap_edges: Array, tree_index: Array, workers: int
    ) -> tuple[Array, Any]: ...
    def tree_filter(
        self,
        values: Array,
        out: Array,
        trees: RootedTrees,
        distances: Array,
        tree_index: Array,
        set_of: Array,
        zeta: float,
        workers: int,
        decay: float = 1.0,
        sums: Array | None = None,
        transposed: bool = False,
    ) -> None: ...
    def tree_filter_gradients(
        self,
        grad: Array,
        values: Array,
        result: Array,
        trees: RootedTrees,
        distances: Array,
        tree_index: Array,
        set_of: Array,
        sums: Array | None,
        out: Array,
        workers: int,
    ) -> None: ...
    def pamr(
        self,
        values: Array,
        out: Array,
        images: Array,
        shape: tuple[int, ...],
        image_index: Array,
        dilations: tuple[int, ...],
        iterations: int,
        workers: int,
    ) -> None: ...
    def pairwise_affinities(
        self,
        images: Array,
        shape: tuple[int, ...],
        masks: Array | None,
        theta: float,
        radii: tuple[int, ...],
        dilation: int,
        out: Array,
        workers: int,
    ) -> None: ...
