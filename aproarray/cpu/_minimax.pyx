"""Minimax distances on the line: the largest gap between two positions."""

import numpy as np

ctypedef fused real:
    float
    double


def largest_between(const real[::1] gaps, const Py_ssize_t[::1] first, const Py_ssize_t[::1] last):
    """Return the largest of gaps[first:last] for every pair of positions (Q), 0 where that is empty.

    A tree of maxima over the gaps: O(N) to build, O(log N) a query.
    """
    cdef Py_ssize_t n = gaps.shape[0], i, a, b
    cdef real[::1] tree = np.zeros(2 * max(n, 1), np.asarray(gaps).dtype)
    cdef real best
    found = np.empty(first.shape[0], np.asarray(gaps).dtype)
    cdef real[::1] result = found
    with nogil:
        for i in range(n):
            tree[n + i] = gaps[i]
        for i in range(n - 1, 0, -1):
            tree[i] = max(tree[2 * i], tree[2 * i + 1])
        for i in range(first.shape[0]):
            a = first[i] + n
            b = last[i] + n
            best = 0
            while a < b:
                if a & 1:
                    best = max(best, tree[a])
                    a += 1
                if b & 1:
                    b -= 1
                    best = max(best, tree[b])
                a >>= 1
                b >>= 1
            result[i] = best
    return found


def distances_from(gaps, Py_ssize_t position):
    """Return the minimax distance from one position of a line to all."""
    distances = np.zeros(len(gaps) + 1, gaps.dtype)
    distances[position + 1:] = np.maximum.accumulate(gaps[position:])
    distances[:position] = np.maximum.accumulate(gaps[:position][::-1])[::-1]
    return distances
