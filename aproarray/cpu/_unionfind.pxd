"""The one union-find: path halving, and the smaller index becomes the root.

A component's root therefore is its smallest node. A root's own entry is negative: ``~x`` for whatever
number x >= 0 its owner keeps there.
"""

from libc.stdint cimport int32_t, int64_t

ctypedef fused node_t:
    int32_t
    int64_t


cdef inline node_t find(node_t *parent, node_t node) noexcept nogil:
    cdef node_t above = parent[node], top
    while above >= 0:
        top = parent[above]
        if top < 0:
            return above
        parent[node] = top
        node = top
        above = parent[node]
    return node
