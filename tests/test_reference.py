"""The definitions agree with one another, and with what can be computed by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import graphs, pictures, shapes, values_over, zetas

from aproarray import reference


def test_pixel_graph_of_two_by_two_pixels():
    assert reference.pixel_graph((2, 2)).tolist() == [[0, 1], [0, 2], [1, 3], [2, 3]]
    assert reference.pixel_graph((2, 2), 2).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert reference.pixel_graph((2, 2), 2, [[True, False], [True, True]]).tolist() == [
        [0, 2],
        [0, 3],
        [2, 3],
    ]


@pytest.mark.parametrize(
    ("ndim", "connectivity", "neighbours"),
    [(1, 1, 2), (2, 1, 4), (2, 2, 8), (3, 1, 6), (3, 2, 18), (3, 3, 26)],
)
def test_neighbours_of_an_inner_pixel(ndim, connectivity, neighbours):
    edges = reference.pixel_graph((3,) * ndim, connectivity)
    assert np.count_nonzero(edges == 3**ndim // 2) == neighbours


def test_edge_weights_are_squared_distances_that_do_not_wrap():
    edges = [[0, 1], [1, 2]]
    np.testing.assert_array_equal(
        reference.edge_weights(np.array([[0, 255], [255, 255], [250, 0]], np.uint8), edges),
        np.array([65025, 25 + 65025], np.float32),
    )
    assert reference.edge_weights(np.zeros((3, 1), np.int32), edges).dtype == np.float64


def test_edge_weights_below_the_smallest_normal_number_are_0():
    image = np.array([[0], [1e-19], [3]], np.float32)
    assert reference.edge_weights(image, [[0, 1], [1, 2]]).tolist() == [0, 9]


def test_ties_are_taken_by_lower_then_higher_node():
    square = [[2, 3], [3, 1], [2, 0], [1, 0]]
    assert reference.mst(square, [1, 1, 1, 1], 4).tolist() == [3, 2, 1]
    assert reference.mst(square, [0, 1, 2, 3], 4).tolist() == [0, 1, 2]


def test_linear_order_of_a_small_tree():
    # 1 and 3 meet at 1, then 0 and 2 at 2, then both pairs at 5: the pair that holds 0 goes first.
    order, gaps, rows = reference.linear_order([[1, 3], [0, 2], [2, 3]], [1, 2, 5], 4)
    assert order.tolist() == [0, 2, 1, 3]
    assert gaps.tolist() == [2, 5, 1]
    assert rows.tolist() == [1, 2, 0]


def test_linear_order_of_a_forest():
    order, gaps, rows = reference.linear_order([[1, 2]], [4], 4)
    assert order.tolist() == [0, 1, 2, 3]
    assert gaps.tolist() == [math.inf, 4, math.inf]
    assert rows.tolist() == [-1, 0, -1]


def test_minimax_distances_of_a_path():
    d = reference.minimax_distances([[0, 1], [1, 2]], [3, 1], 4)
    inf = math.inf
    assert d.tolist() == [[0, 3, 3, inf], [3, 0, 1, inf], [3, 1, 0, inf], [inf, inf, inf, 0]]


def test_global_propagation_of_two_pixels():
    k = math.exp(-2 / 0.5**2)
    y = reference.global_propagate([[1.0], [3.0]], [[0, 2], [2, 0]], 0.5)
    np.testing.assert_allclose(y.ravel(), [(1 + 3 * k) / (1 + k), (3 + k) / (1 + k)], rtol=1e-15)


def test_local_propagation_of_a_flat_row_is_a_moving_average():
    y = reference.local_propagate([[3.0], [0], [0], [6]], np.zeros((1, 4, 1)), 1.0, 3, 1)
    np.testing.assert_allclose(y.ravel(), [1.5, 1, 2, 3], rtol=1e-15)


def test_local_propagation_of_two_pixels_twice():
    k = math.exp(-0.09 / 0.15**2)
    step = np.array([[1, k], [k, 1]]) / (1 + k)
    y = reference.local_propagate([[1.0], [0]], [[[0.0], [0.3]]], 0.15, 5, 2)
    np.testing.assert_allclose(y, step @ step @ [[1], [0]], rtol=1e-14)


@given(shapes, st.sampled_from([1, 3, 5, 7]), st.data())
def test_window_affinity_is_symmetric_and_reaches_half_a_window(shape, kernel_size, data):
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape))))
    affinity = reference.window_affinity(np.zeros((*shape, 1)), 1.0, kernel_size, mask.reshape(shape))
    for i, j in itertools.product(range(math.prod(shape)), repeat=2):
        reach = np.abs(np.subtract(np.unravel_index(i, shape), np.unravel_index(j, shape))).max()
        assert affinity[i, j] == (i == j or (mask[i] and mask[j] and reach <= (kernel_size - 1) / 2))


@given(graphs(), st.data())
def test_algorithm_1_is_the_matrix_definition(graph, data):
    edges, weights, n = graph
    rows = reference.mst(edges, weights, n)
    phi = data.draw(values_over((n,)))
    zeta = data.draw(zetas)
    shuffled = data.draw(st.permutations(range(len(rows))))  # the paper sorts the edges itself
    matrix = reference.global_propagate(
        phi[:, None], reference.minimax_distances(edges[rows], weights[rows], n), zeta
    )
    steps = reference.algorithm_1(edges[rows][shuffled], weights[rows][shuffled], phi, zeta)
    np.testing.assert_allclose(steps, matrix[:, 0], rtol=1e-12, atol=1e-12)


@given(graphs())
def test_minimax_distances_are_least_over_all_paths_of_the_graph(graph):
    edges, weights, n = graph
    least = np.full((n, n), np.inf)
    np.fill_diagonal(least, 0)
    for (u, v), weight in zip(edges, weights, strict=True):
        least[u, v] = least[v, u] = min(least[u, v], weight)
    for via in range(n):  # Floyd and Warshall, with the largest edge of a path for its length
        least = np.minimum(least, np.maximum(least[:, via, None], least[None, via]))
    rows = reference.mst(edges, weights, n)
    np.testing.assert_array_equal(reference.minimax_distances(edges[rows], weights[rows], n), least)


@given(pictures())
def test_largest_gap_of_the_line_is_the_minimax_distance(picture):
    edges, weights = picture.reference_tree()
    order, gaps, _ = reference.linear_order(edges, weights, picture.n_nodes)
    d = reference.minimax_distances(edges, weights, picture.n_nodes)
    for first, last in itertools.combinations(range(picture.n_nodes), 2):
        assert d[order[first], order[last]] == gaps[first:last].max()


def test_algorithm_1_compresses_deep_paths():
    """Of components of equal size, whose roots lie one step deeper with every merge."""
    n, edges, weights = 32, [], []
    for level in range(5):
        half = 1 << level
        for start in range(0, n, 2 * half):
            edges.append((start + half - 1, start + 2 * half - 1))
            weights.append(level + 1.0)
    phi = np.random.default_rng(0).random(n)
    matrix = reference.global_propagate(
        phi[:, None], reference.minimax_distances(np.array(edges), np.array(weights), n), 2.0
    )
    steps = reference.algorithm_1(np.array(edges), np.array(weights), phi, 2.0)
    np.testing.assert_allclose(steps, matrix[:, 0], rtol=1e-12)
