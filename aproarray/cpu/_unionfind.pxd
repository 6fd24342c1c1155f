"""The one union-find: path halving, and the smaller index becomes the root.

A root therefore is the smallest node of its component, which is what makes the linear order canonical.
"""

ctypedef fused index_t:
    int
    long long


cdef inline index_t find(index_t *parent, index_t node) noexcept nogil:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node
