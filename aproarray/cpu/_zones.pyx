"""Zones of a tree: its components without heavy edges, small ones joined to others."""

import numpy as np

from aproarray.cpu._unionfind cimport find, make_sets, node_t

ctypedef fused real:
    float
    double


def zones(
    const node_t[:, ::1] edges, const real[::1] weights, real threshold, Py_ssize_t min_size,
    node_t[::1] first,
):
    """Fill first (N) with the first node of each node's zone, from edges (N-1, 2), lightest first.

    An edge joins two zones if it is no heavier than the threshold, or one of them has less than `min_size`
    nodes. A missing edge, (-1, -1), joins none.
    """
    cdef Py_ssize_t n = first.shape[0], i
    cdef node_t[::1] sets = np.empty(2 * n, np.asarray(first).dtype)  # a root keeps the size of its zone
    cdef node_t a, b
    with nogil:
        make_sets(&sets[0], n)
        for i in range(n):
            sets[2 * i + 1] = 1
        for i in range(n - 1):
            if edges[i, 0] < 0:
                break  # all that follow are missing, too
            a = find(&sets[0], edges[i, 0])
            b = find(&sets[0], edges[i, 1])
            if a != b and (
                weights[i] <= threshold or sets[2 * a + 1] < min_size or sets[2 * b + 1] < min_size
            ):
                if a > b:
                    a, b = b, a
                sets[2 * b] = a
                sets[2 * a + 1] += sets[2 * b + 1]
        for i in range(n):
            first[i] = find(&sets[0], <node_t> i)
