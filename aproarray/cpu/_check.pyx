"""Checks of trees that come from outside: kernels trust the indices in them."""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t

import numpy as np

ctypedef fused real:
    float
    double

ctypedef fused node_t:
    int32_t
    int64_t


def is_permutation(const node_t[:] order):
    """Return whether the numbers are 0 to N-1, each of them once."""
    cdef Py_ssize_t n = order.shape[0], i, found = 0
    cdef unsigned char[::1] seen = np.zeros(n, np.uint8)
    with nogil:
        for i in range(n):
            if not 0 <= order[i] < n:
                break
            seen[order[i]] = 1
        for i in range(n):
            found += seen[i]
    return found == n


def edges_fit(
    const real[::1] gaps, const node_t[:, ::1] gap_edges, const unsigned char[::1] mask, node_t n,
    Py_ssize_t first, Py_ssize_t last,
):
    """Return whether gaps [first, last) have edges u < v below n, and -1 twice where they are inf.

    Gaps are not negative, nor NaN. Both ends take part by the mask (N, or 0 for none).
    """
    cdef Py_ssize_t i
    cdef const real *gap = &gaps[0]
    cdef const node_t *end = &gap_edges[0, 0]
    cdef node_t wrong = 0
    with nogil:
        # Without branches, and of one type, so that compilers make vector code of it.
        for i in range(first, last):
            wrong |= <node_t> (
                ((gap[i] != INFINITY) | (end[2 * i] != -1) | (end[2 * i + 1] != -1))
                & (
                    (gap[i] < 0) | (not gap[i] < INFINITY)
                    | (end[2 * i] < 0) | (end[2 * i] >= end[2 * i + 1]) | (end[2 * i + 1] >= n)
                )
            )
        if not wrong and mask.shape[0]:
            for i in range(first, last):
                if end[2 * i] >= 0:
                    wrong |= not (mask[end[2 * i]] and mask[end[2 * i + 1]])
    return wrong == 0
