"""Minimum spanning trees and their linear order: weigh, sort, Kruskal.

One function per source of edges (`grid_tree`, `edge_list_tree`), both filling arrays that the caller
owns. Weights are never negative, so that their bits order them as integers do.
"""

from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

import numpy as np

from aproarray.cpu._unionfind cimport find, index_t

ctypedef fused real:
    float
    double

ctypedef fused bits_t:
    uint32_t
    uint64_t

# What is sorted: the bits of a weight and the id of its edge. Packed into 64 bits where both fit.
cdef struct Packed:
    uint64_t bits

cdef struct Pair:
    uint64_t key
    uint64_t id

ctypedef fused item_t:
    Packed
    Pair

cdef enum:
    DIGIT_BITS = 11
    RADIX = 1 << DIGIT_BITS
    MAX_DIGITS = 6


cdef inline uint64_t bits_of(real weight) noexcept nogil:
    cdef uint32_t single
    cdef uint64_t both
    if real is float:
        memcpy(&single, &weight, sizeof(single))
        return single
    else:
        memcpy(&both, &weight, sizeof(both))
        return both


cdef inline uint64_t key_of(item_t *item) noexcept nogil:
    if item_t is Packed:
        return item.bits >> 32
    else:
        return item.key


cdef inline uint64_t id_of(item_t *item) noexcept nogil:
    if item_t is Packed:
        return <uint32_t> item.bits
    else:
        return item.id


cdef inline void pack(item_t *item, uint64_t key, uint64_t id) noexcept nogil:
    if item_t is Packed:
        item.bits = key << 32 | id
    else:
        item.key = key
        item.id = id


cdef inline real square_distance(const real *u, const real *v, Py_ssize_t channels) noexcept nogil:
    """|u - v|^2, channels in order; below the smallest normal number it is 0, as on every backend."""
    cdef real total = 0, difference
    cdef Py_ssize_t c
    for c in range(channels):
        difference = u[c] - v[c]
        total += difference * difference
    if real is float:
        return total if total >= <float> 1.1754943508222875e-38 else 0
    else:
        return total if total >= 2.2250738585072014e-308 else 0


cdef item_t *radix_sort(item_t *items, item_t *other, Py_ssize_t n, int key_bits) noexcept nogil:
    """Sort stably by key, returning the one of the two buffers that holds the result.

    Digits that all keys share are passed over: images of few distinct weights cost one or two passes.
    """
    cdef Py_ssize_t counts[MAX_DIGITS][RADIX]
    cdef Py_ssize_t i, total, count
    cdef int digit, value, shift, n_digits = (key_bits + DIGIT_BITS - 1) // DIGIT_BITS
    cdef uint64_t key
    cdef item_t *swap
    if n == 0:
        return items
    memset(counts, 0, sizeof(counts))
    for i in range(n):
        key = key_of(&items[i])
        for digit in range(n_digits):
            counts[digit][(key >> (digit * DIGIT_BITS)) & (RADIX - 1)] += 1
    for digit in range(n_digits):
        shift = digit * DIGIT_BITS
        if counts[digit][(key_of(&items[0]) >> shift) & (RADIX - 1)] == n:
            continue
        total = 0
        for value in range(RADIX):
            count = counts[digit][value]
            counts[digit][value] = total
            total += count
        for i in range(n):
            value = (key_of(&items[i]) >> shift) & (RADIX - 1)
            other[counts[digit][value]] = items[i]
            counts[digit][value] += 1
        swap = items
        items = other
        other = swap
    return items


cdef Py_ssize_t weigh_grid(
    const real *image, Py_ssize_t channels, const unsigned char *mask,
    const Py_ssize_t[::1] shape, const Py_ssize_t[:, ::1] offsets, const Py_ssize_t[::1] strides,
    int id_bits, item_t *items, Py_ssize_t[::1] coordinates,
) noexcept nogil:
    """Write the edges of a pixel graph in the order of their ids; return how many there are."""
    cdef Py_ssize_t last = shape.shape[0] - 1, width = shape[last], n_offsets = offsets.shape[0]
    cdef Py_ssize_t n = 1, count = 0, row, x, k, axis, u, step
    cdef real weight
    cdef bint inside
    cdef Py_ssize_t usable[64]
    cdef Py_ssize_t n_usable, j
    for axis in range(shape.shape[0]):
        n *= shape[axis]
        coordinates[axis] = 0
    if n == 0:
        return 0
    for row in range(n // width):
        # Offsets whose steps along all axes but the last stay inside the image, for this whole row.
        n_usable = 0
        for k in range(n_offsets):
            inside = True
            for axis in range(last):
                step = coordinates[axis] + offsets[k, axis]
                inside = inside and 0 <= step < shape[axis]
            if inside:
                usable[n_usable] = k
                n_usable += 1
        for x in range(width):
            u = row * width + x
            if mask != NULL and not mask[u]:
                continue
            for j in range(n_usable):
                k = usable[j]
                step = x + offsets[k, last]
                if step < 0 or step >= width or (mask != NULL and not mask[u + strides[k]]):
                    continue
                weight = square_distance(
                    image + u * channels, image + (u + strides[k]) * channels, channels
                )
                pack(&items[count], bits_of(weight), <uint64_t> u << id_bits | <uint64_t> k)
                count += 1
        axis = last - 1
        while axis >= 0:
            coordinates[axis] += 1
            if coordinates[axis] < shape[axis]:
                break
            coordinates[axis] = 0
            axis -= 1
    return count


cdef void kruskal(
    item_t *items, Py_ssize_t n_items, Py_ssize_t n,
    const index_t *ends, const Py_ssize_t *strides, int id_bits,
    index_t *edges, bits_t *weights, index_t *order, bits_t *gaps,
    index_t *parent, index_t *tail, index_t *following, bits_t *gap_before,
) noexcept nogil:
    """Build the tree and its linear order from edges sorted by (weight, id).

    An id stands for row `id` of `ends` or, where that is NULL, for the pixel graph's edge. Every
    component is a list of pixels that starts at its root (its smallest pixel) and ends at its tail;
    a merge puts the list with the larger root behind the other one. Weights are moved as bits.
    """
    cdef Py_ssize_t i, taken = 0, place
    cdef uint64_t id
    cdef index_t u, v, a, b, node
    cdef bits_t infinity = <bits_t> (0x7F800000 if bits_t is uint32_t else 0x7FF0000000000000ULL)
    for i in range(n):
        parent[i] = <index_t> i
        tail[i] = <index_t> i
        following[i] = -1
        gap_before[i] = infinity
    for i in range(n_items):
        id = id_of(&items[i])
        if ends != NULL:
            u = ends[2 * id]
            v = ends[2 * id + 1]
        else:
            u = <index_t> (id >> id_bits)
            v = <index_t> (u + strides[id & ((<uint64_t> 1 << id_bits) - 1)])
        a = find(parent, u)
        b = find(parent, v)
        if a == b:
            continue
        if a > b:
            node = a
            a = b
            b = node
        parent[b] = a
        following[tail[a]] = b
        tail[a] = tail[b]
        gap_before[b] = <bits_t> key_of(&items[i])
        edges[2 * taken] = u
        edges[2 * taken + 1] = v
        weights[taken] = <bits_t> key_of(&items[i])
        taken += 1
        if taken == n - 1:
            break
    while taken < n - 1:  # a forest has fewer edges: the rest is marked as missing
        edges[2 * taken] = -1
        edges[2 * taken + 1] = -1
        weights[taken] = infinity
        taken += 1
    place = 0
    for i in range(n):
        if parent[i] != i:
            continue
        node = <index_t> i
        while node != -1:
            order[place] = node
            if place:
                gaps[place - 1] = gap_before[node]
            place += 1
            node = following[node]


cdef bint sort_and_build(
    item_t *items, item_t *other, Py_ssize_t n_items, Py_ssize_t n,
    const index_t *ends, const Py_ssize_t *strides, int id_bits,
    index_t *edges, real *weights, index_t *order, real *gaps, index_t *links, real *gap_before,
) noexcept nogil:
    """Sort the edges, then Kruskal; return whether all weights are finite."""
    items = radix_sort(items, other, n_items, 32 if real is float else 64)
    if real is float:
        kruskal(
            items, n_items, n, ends, strides, id_bits,
            edges, <uint32_t *> weights, order, <uint32_t *> gaps,
            links, links + n, links + 2 * n, <uint32_t *> gap_before,
        )
        return n_items == 0 or key_of(&items[n_items - 1]) < 0x7F800000
    else:
        kruskal(
            items, n_items, n, ends, strides, id_bits,
            edges, <uint64_t *> weights, order, <uint64_t *> gaps,
            links, links + n, links + 2 * n, <uint64_t *> gap_before,
        )
        return n_items == 0 or key_of(&items[n_items - 1]) < 0x7FF0000000000000ULL


cdef object two_buffers(Py_ssize_t n_items, bint packed):
    return np.empty((2, max(n_items, 1), 1 if packed else 2), np.uint64)


def grid_tree(
    const real[:, ::1] image, const unsigned char[::1] mask, grid,
    index_t[:, ::1] edges, real[::1] weights, index_t[::1] order, real[::1] gaps,
):
    """Fill edges (N-1, 2), weights (N-1), order (N) and gaps (N-1) with the tree of image (N, C).

    `mask` (N, or 0 for none) says which pixels take part. Returns whether all weights are finite.
    """
    cdef Py_ssize_t n = order.shape[0], n_items
    cdef const Py_ssize_t[::1] shape = grid.shape
    cdef const Py_ssize_t[:, ::1] offsets = grid.offsets
    cdef const Py_ssize_t[::1] strides = grid.strides
    cdef int id_bits = grid.id_bits
    cdef bint packed = real is float and <uint64_t> n <= (<uint64_t> 1 << 32) >> id_bits
    cdef uint64_t[:, :, ::1] items
    cdef Py_ssize_t[::1] coordinates = np.zeros(shape.shape[0], np.intp)
    cdef index_t[:, ::1] links
    cdef real[::1] gap_before
    cdef const unsigned char *mask_data = &mask[0] if mask.shape[0] else NULL
    cdef bint finite
    if n == 0:
        return True
    if offsets.shape[0] > 64:
        raise ValueError(f"a pixel has {2 * offsets.shape[0]} neighbours, at most 128 are supported")
    items = two_buffers(n * offsets.shape[0], packed)
    links = np.empty((3, n), np.asarray(order).dtype)
    gap_before = np.empty(n, np.asarray(gaps).dtype)
    if image.shape[1] == 0:
        image = np.zeros((n, 1), np.asarray(gaps).dtype)
    with nogil:
        if packed:
            n_items = weigh_grid(
                &image[0, 0], image.shape[1], mask_data, shape, offsets, strides, id_bits,
                <Packed *> &items[0, 0, 0], coordinates,
            )
            finite = sort_and_build(
                <Packed *> &items[0, 0, 0], <Packed *> &items[1, 0, 0], n_items, n,
                <const index_t *> NULL, &strides[0], id_bits, &edges[0, 0], &weights[0], &order[0], &gaps[0],
                &links[0, 0], &gap_before[0],
            )
        else:
            n_items = weigh_grid(
                &image[0, 0], image.shape[1], mask_data, shape, offsets, strides, id_bits,
                <Pair *> &items[0, 0, 0], coordinates,
            )
            finite = sort_and_build(
                <Pair *> &items[0, 0, 0], <Pair *> &items[1, 0, 0], n_items, n,
                <const index_t *> NULL, &strides[0], id_bits, &edges[0, 0], &weights[0], &order[0], &gaps[0],
                &links[0, 0], &gap_before[0],
            )
    return finite


cdef void canonical_ends(
    const index_t *ends, Py_ssize_t n_edges, Py_ssize_t n, Py_ssize_t *counts,
    Py_ssize_t *rows, Py_ssize_t *by_higher, index_t *sorted_ends,
) noexcept nogil:
    """Sort edges by (lower end, higher end) with two counting sorts: O(E + N) for any graph.

    rows[i] becomes the row of `ends` that sorted_ends[i] came from. Edges of no tree (-1) are dropped
    to the end, their rows with them.
    """
    cdef Py_ssize_t e, i, total, count
    cdef int pass_
    cdef index_t u, v, key
    for pass_ in range(2):  # by the higher end, then, stably, by the lower one
        memset(counts, 0, (n + 1) * sizeof(Py_ssize_t))
        for e in range(n_edges):
            u = ends[2 * e]
            v = ends[2 * e + 1]
            key = <index_t> n if u < 0 else (min(u, v) if pass_ else max(u, v))
            counts[key] += 1
        total = 0
        for i in range(n + 1):
            count = counts[i]
            counts[i] = total
            total += count
        for i in range(n_edges):
            e = by_higher[i] if pass_ else i
            u = ends[2 * e]
            v = ends[2 * e + 1]
            key = <index_t> n if u < 0 else (min(u, v) if pass_ else max(u, v))
            if pass_:
                rows[counts[key]] = e
            else:
                by_higher[counts[key]] = e
            counts[key] += 1
    for i in range(n_edges):
        u = ends[2 * rows[i]]
        v = ends[2 * rows[i] + 1]
        sorted_ends[2 * i] = min(u, v)
        sorted_ends[2 * i + 1] = max(u, v)


def edge_list_tree(
    const index_t[:, ::1] ends, const real[::1] edge_weights,
    index_t[:, ::1] edges, real[::1] weights, index_t[::1] order, real[::1] gaps,
):
    """Fill a tree as `grid_tree` does, from edges (E, 2) and their weights (E); -1 marks no edge."""
    cdef Py_ssize_t n = order.shape[0], n_edges = ends.shape[0], n_items = 0, e
    cdef uint64_t[:, :, ::1] items
    cdef index_t[:, ::1] links, sorted_ends
    cdef real[::1] gap_before
    cdef Py_ssize_t[::1] counts, rows, by_higher
    cdef Pair *pairs
    cdef bint finite
    if n == 0:
        return True
    items = two_buffers(n_edges, False)
    links = np.empty((3, n), np.asarray(order).dtype)
    gap_before = np.empty(n, np.asarray(gaps).dtype)
    sorted_ends = np.empty((max(n_edges, 1), 2), np.asarray(order).dtype)
    counts = np.empty(n + 1, np.intp)
    rows = np.empty(max(n_edges, 1), np.intp)
    by_higher = np.empty(max(n_edges, 1), np.intp)
    pairs = <Pair *> &items[0, 0, 0]
    with nogil:
        if n_edges:
            canonical_ends(&ends[0, 0], n_edges, n, &counts[0], &rows[0], &by_higher[0], &sorted_ends[0, 0])
        for e in range(n_edges):
            if sorted_ends[e, 0] >= 0:
                pack(&pairs[n_items], bits_of(edge_weights[rows[e]]), e)
                n_items += 1
        finite = sort_and_build(
            pairs, <Pair *> &items[1, 0, 0], n_items, n,
            &sorted_ends[0, 0], <const Py_ssize_t *> NULL, 0,
            &edges[0, 0], &weights[0], &order[0], &gaps[0], &links[0, 0], &gap_before[0],
        )
    return finite


def weigh_edges(const real[:, ::1] features, const index_t[:, ::1] ends, real[::1] weights):
    """Fill weights (E) with |f_u - f_v|^2 of features (N, C); inf for edges marked -1."""
    cdef Py_ssize_t e, channels = features.shape[1]
    if channels == 0:
        features = np.zeros((features.shape[0], 1), np.asarray(weights).dtype)
        channels = 1
    with nogil:
        for e in range(ends.shape[0]):
            if ends[e, 0] < 0:
                weights[e] = <real> INFINITY
            else:
                weights[e] = square_distance(&features[ends[e, 0], 0], &features[ends[e, 1], 0], channels)


def linkage(const index_t[:, ::1] edges, const real[::1] weights, double[:, ::1] result):
    """Fill result (N-1, 4) with the linkage matrix of a tree of N nodes, edges lightest first."""
    cdef Py_ssize_t n = edges.shape[0] + 1, i
    cdef index_t[::1] parent = np.arange(n, dtype=np.asarray(edges).dtype)
    cdef Py_ssize_t[::1] cluster = np.arange(n, dtype=np.intp)
    cdef double[::1] size = np.ones(n)
    cdef index_t a, b
    with nogil:
        for i in range(n - 1):
            a = find(&parent[0], edges[i, 0])
            b = find(&parent[0], edges[i, 1])
            if a > b:
                a, b = b, a
            parent[b] = a
            size[a] += size[b]
            result[i, 0] = min(cluster[a], cluster[b])
            result[i, 1] = max(cluster[a], cluster[b])
            result[i, 2] = weights[i]
            result[i, 3] = size[a]
            cluster[a] = n + i


def largest_between(
    const real[::1] gaps, const Py_ssize_t[::1] first, const Py_ssize_t[::1] last, real[::1] result,
):
    """Fill result (Q) with the largest of gaps[first:last] for every query (0 where that is empty).

    A tree of maxima over the gaps: O(N) to build, O(log N) a query.
    """
    cdef Py_ssize_t n = gaps.shape[0], i, a, b
    cdef real[::1] tree = np.zeros(2 * max(n, 1), np.asarray(gaps).dtype)
    cdef real best
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
