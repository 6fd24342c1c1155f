"""The one union-find: path halving, and the smaller index becomes the root.

A component's root therefore is its smallest node. A node's entry is two numbers: its parent, itself for a
root, and whatever the owner keeps there for a root.
"""

from libc.stdint cimport int32_t, int64_t

ctypedef fused node_t:
    int32_t
    int64_t

cdef enum:
    MOST_TOGETHER = 16  # nodes in a call of find_together


cdef inline void make_sets(node_t *sets, Py_ssize_t n) noexcept nogil:
    """n components of one node each, which keep their own number."""
    cdef Py_ssize_t i
    for i in range(n):
        sets[2 * i] = <node_t> i
        sets[2 * i + 1] = <node_t> i


cdef inline void find_together(node_t *sets, node_t *nodes, int count) noexcept nogil:
    """Replace nodes by the roots, or nearly so, that they have now: `find` has the last word on each.

    Reads first, for all of them, and then writes: reads after writes would wait for one another. Three
    steps, which are enough nearly always, without a branch to predict.
    """
    cdef int i
    cdef node_t[MOST_TOGETHER] above
    for i in range(count):
        above[i] = sets[2 * sets[2 * sets[2 * nodes[i]]]]
    for i in range(count):
        sets[2 * nodes[i]] = above[i]
        nodes[i] = above[i]


cdef inline node_t find(node_t *sets, node_t node) noexcept nogil:
    """Return a node's root."""
    cdef node_t above = sets[2 * node]
    while above != node:
        sets[2 * node] = sets[2 * above]
        node = sets[2 * node]
        above = sets[2 * node]
    return node
