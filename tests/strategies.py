"""What hypothesis draws: small images with many ties, small graphs, masks, and arrays of every layout.

And the one comparison that several files need: of a tree with the reference's.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from aproarray import SpanningTree, mst, reference

Array = NDArray[Any]

DTYPES = [np.dtype(kind) for kind in ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]]


def levels(dtype: np.dtype[Any]) -> list[Any]:
    """Return numbers of a dtype whose differences tie, are tiny, or are as large as they get."""
    if dtype.kind == "b":
        return [False, True]
    if dtype.kind in "iu":
        # Neighbours far from 0 are one number to float64 if they have 64 bits.
        return [0, 1, 2, 3, 7, np.iinfo(dtype).min, *(np.iinfo(dtype).max - k for k in (0, 1, 5))]
    # 3e-20 has a square below float32's smallest normal number, 2e-19 has one just above.
    return [0.0, 0.1, 0.25, 0.5, 1.0, -2.5, 3e-20, 2e-19, 300.0]


class Picture(NamedTuple):
    """An image (spatial + channels), and how its pixel graph is made."""

    image: Array
    mask: NDArray[np.bool_] | None
    connectivity: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.image.shape[:-1]

    @property
    def n_nodes(self) -> int:
        return math.prod(self.shape)

    def graph(self) -> tuple[Array, Array]:
        """Return the reference's edges and weights of the whole pixel graph."""
        edges = reference.pixel_graph(self.shape, self.connectivity, self.mask)
        return edges, reference.edge_weights(self.image, edges, self.mask)

    def reference_tree(self) -> tuple[Array, Array]:
        """Return the reference's edges and weights of the minimum spanning forest."""
        edges, weights = self.graph()
        rows = reference.mst(edges, weights, self.n_nodes)
        return edges[rows], weights[rows]

    def distances(self) -> Array:
        return reference.minimax_distances(*self.reference_tree(), self.n_nodes)

    def tree(self, **options: Any) -> SpanningTree:
        return mst(
            self.image,
            spatial_ndim=len(self.shape),
            connectivity=self.connectivity,
            mask=self.mask,
            **options,
        )


def assert_is_tree(tree: SpanningTree, edges: Array, weights: Array, n_nodes: int) -> None:
    """Compare with tree edges and weights of the reference, and with their line."""
    n_edges = len(edges)
    order, gaps, rows = reference.linear_order(edges, weights, n_nodes)
    np.testing.assert_array_equal(tree.edges[:n_edges], edges)
    np.testing.assert_array_equal(tree.weights[:n_edges], weights)
    assert (tree.edges[n_edges:] == -1).all()
    assert np.isinf(tree.weights[n_edges:]).all()
    np.testing.assert_array_equal(tree.order, order)
    np.testing.assert_array_equal(tree.gaps, gaps)
    np.testing.assert_array_equal(
        tree.gap_edges, np.where(rows[:, None] < 0, -1, np.append(edges, [[-1, -1]], 0)[rows])
    )
    assert tree.weights.dtype == tree.gaps.dtype == weights.dtype
    assert tree.n_components == n_nodes - n_edges - (0 if tree.mask is None else np.sum(~tree.mask))


shapes = st.one_of(
    st.tuples(st.integers(1, 14)),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
)


def pixels(dtype: np.dtype[Any], shape: tuple[int, ...]) -> st.SearchStrategy[Array]:
    """Arrays of at most four different numbers, often of one."""
    palettes = st.lists(st.sampled_from(levels(dtype)), min_size=1, max_size=4)
    return palettes.flatmap(
        lambda palette: hnp.arrays(np.uint8, shape, elements=st.integers(0, len(palette) - 1)).map(
            lambda index: np.array(palette, dtype)[index]
        )
    )


@st.composite
def pictures(draw: st.DrawFn, dtypes: list[np.dtype[Any]] = DTYPES) -> Picture:
    shape = draw(shapes)
    image = draw(pixels(draw(st.sampled_from(dtypes)), (*shape, draw(st.integers(1, 4)))))
    mask = draw(st.none() | hnp.arrays(np.bool_, shape))
    return Picture(image, mask, draw(st.integers(1, len(shape))))


@st.composite
def graphs(draw: st.DrawFn, dtype: Any = np.float64) -> tuple[Array, Array, int]:
    """Edges, weights and number of nodes: loops, parallel edges, ties and several components occur."""
    n_nodes = draw(st.integers(1, 12))
    node = st.integers(0, n_nodes - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=30))
    weight = st.sampled_from([0.0, 0.5, 1.0, 1.5, 7.0, 1e-3])
    weights = draw(st.lists(weight, min_size=len(edges), max_size=len(edges)))
    return np.array(edges, np.int64).reshape(-1, 2), np.array(weights, dtype), n_nodes


def values_over(shape: tuple[int, ...], dtype: Any = np.float64) -> st.SearchStrategy[Array]:
    """Values of at least 0, mostly 0: seeds."""
    numbers = st.sampled_from([0.0, 0.0, 0.0, 1.0, 0.25, 3.0])
    return hnp.arrays(dtype, shape, elements=numbers)


zetas = st.sampled_from([1e-3, 0.07, 0.4, 1.0, 3.0, 1e3])


def _reversed(array: Array) -> Array:
    return np.flip(np.flip(array).copy())


def _sparse(array: Array) -> Array:
    larger = np.zeros([2 * extent for extent in array.shape], array.dtype)
    view = larger[(slice(None, None, 2),) * array.ndim]
    view[...] = array
    return view


def _unaligned(array: Array) -> Array:
    view = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def _read_only(array: Array) -> Array:
    result = array.copy()
    result.setflags(write=False)
    return result


# The same numbers, otherwise laid out in memory.
LAYOUTS = {
    "fortran": np.asfortranarray,
    "reversed": _reversed,
    "sparse": _sparse,
    "unaligned": _unaligned,
    "byte-swapped": lambda array: array.astype(array.dtype.newbyteorder()),
    "read-only": _read_only,
}


def maybe_a_forest(rng: np.random.Generator, dtype: Any, n_changes: int) -> tuple[Array, Array]:
    """Return the order and the gap edges of a small forest, of which so many numbers are drawn anew."""
    n = int(rng.integers(1, 9))
    order = rng.permutation(n).astype(dtype)
    edges = np.stack([[rng.integers(u) for u in range(1, n)], np.arange(1, n)], 1).astype(dtype)
    edges = order[edges].reshape(-1, 2)
    edges[rng.random(n - 1) < 0.2] = -1
    for _ in range(n_changes):
        array = (order, edges)[int(rng.integers(2))]
        if array.size:
            array[tuple(rng.integers(extent) for extent in array.shape)] = rng.integers(-2, n + 2)
    return order, edges
