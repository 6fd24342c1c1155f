"""Minimum spanning trees and their linear order: weigh, drop what closes a square, sort, Kruskal.

One function per source of edges (`grid_tree`, `edge_list_tree`), both filling arrays that the caller
owns. Weights are never negative, so that their bits order them as integers do.

Where weights are float32 and edge ids fit 32 bits, all working arrays hold 32-bit numbers and a weight
and an id are sorted as one 64-bit number; else everything is 64 bits wide. `node_t` says which.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import numpy as np

from aproarray.cpu._unionfind cimport find, node_t

ctypedef fused real:
    float
    double

ctypedef fused index_t:
    int32_t
    int64_t

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define APRO_PREFETCH(address) __builtin_prefetch(address)
    #else
    #define APRO_PREFETCH(address) ((void)0)
    #endif
    """
    void APRO_PREFETCH(const void *address) noexcept nogil

cdef enum:
    DIGIT_BITS = 11
    RADIX = 1 << DIGIT_BITS
    MAX_DIGITS = 6
    AHEAD = 16  # edges whose ends are prefetched before their turn
    CHUNK = 256
    MAX_NDIM = 8


cdef inline uint64_t bits_of(real weight) noexcept nogil:
    cdef uint32_t single
    cdef uint64_t both
    if real is float:
        memcpy(&single, &weight, sizeof(single))
        return single
    else:
        memcpy(&both, &weight, sizeof(both))
        return both


cdef inline real from_bits(uint64_t bits, const real *_kind) noexcept nogil:
    cdef uint32_t single = <uint32_t> bits
    cdef real weight
    if real is float:
        memcpy(&weight, &single, sizeof(weight))
    else:
        memcpy(&weight, &bits, sizeof(weight))
    return weight


# An item to sort: the bits of a weight (its key) and the id of its edge, in one number or in two.

cdef inline uint64_t key_of(const uint64_t *items, Py_ssize_t i, node_t _kind) noexcept nogil:
    return items[i] >> 32 if node_t is int32_t else items[2 * i]


cdef inline uint64_t id_of(const uint64_t *items, Py_ssize_t i, node_t _kind) noexcept nogil:
    return <uint32_t> items[i] if node_t is int32_t else items[2 * i + 1]


cdef inline void put(uint64_t *items, Py_ssize_t i, uint64_t key, uint64_t id, node_t _kind) noexcept nogil:
    if node_t is int32_t:
        items[i] = key << 32 | id
    else:
        items[2 * i] = key
        items[2 * i + 1] = id


cdef uint64_t *radix_sort(uint64_t *items, uint64_t *other, Py_ssize_t n, node_t kind) noexcept nogil:
    """Sort stably by key, returning the one of the two buffers that holds the result.

    Digits that all keys share are passed over: images of few distinct weights cost one or two passes.
    """
    cdef Py_ssize_t counts[MAX_DIGITS][RADIX]
    cdef Py_ssize_t i, place, total, count
    cdef int digit, value, shift, n_digits = 3 if node_t is int32_t else MAX_DIGITS
    cdef uint64_t key
    cdef uint64_t *swap
    if n == 0:
        return items
    memset(counts, 0, sizeof(counts))
    for i in range(n):
        key = key_of(items, i, kind)
        for digit in range(n_digits):
            counts[digit][(key >> (digit * DIGIT_BITS)) & (RADIX - 1)] += 1
    for digit in range(n_digits):
        shift = digit * DIGIT_BITS
        if counts[digit][(key_of(items, 0, kind) >> shift) & (RADIX - 1)] == n:
            continue
        total = 0
        for value in range(RADIX):
            count = counts[digit][value]
            counts[digit][value] = total
            total += count
        for i in range(n):
            value = (key_of(items, i, kind) >> shift) & (RADIX - 1)
            place = counts[digit][value]
            counts[digit][value] = place + 1
            put(other, place, key_of(items, i, kind), id_of(items, i, kind), kind)
        swap = items
        items = other
        other = swap
    return items


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


cdef void weigh_run(
    const real *u, const real *v, Py_ssize_t channels, Py_ssize_t count, real *weights
) noexcept nogil:
    """Weigh the edges from `count` consecutive pixels to as many others."""
    cdef Py_ssize_t x
    if channels == 3:  # constants, for the compiler to unroll
        for x in range(count):
            weights[x] = square_distance(u + 3 * x, v + 3 * x, 3)
    elif channels == 1:
        for x in range(count):
            weights[x] = square_distance(u + x, v + x, 1)
    else:
        for x in range(count):
            weights[x] = square_distance(u + channels * x, v + channels * x, channels)


cdef void weigh_grid(
    const real *image, Py_ssize_t channels, const unsigned char *mask, Py_ssize_t n,
    const Py_ssize_t[::1] shape, const Py_ssize_t[:, ::1] offsets, const Py_ssize_t[::1] strides,
    real *weights, Py_ssize_t[::1] coordinates,
) noexcept nogil:
    """Write the weight of edge (u, k) to weights[k * n + u], -inf where there is no such edge."""
    cdef Py_ssize_t last = shape.shape[0] - 1, width = shape[last]
    cdef Py_ssize_t row, x, k, axis, step, first, stop, u
    cdef bint inside
    for axis in range(last + 1):
        coordinates[axis] = 0
    for row in range(n // width):
        for k in range(offsets.shape[0]):
            inside = True
            for axis in range(last):
                step = coordinates[axis] + offsets[k, axis]
                inside = inside and 0 <= step < shape[axis]
            first = max(0, -offsets[k, last]) if inside else width
            stop = width - max(0, offsets[k, last])
            u = row * width
            for x in range(min(first, width)):
                weights[k * n + u + x] = -<real> INFINITY
            if first < stop:
                weigh_run(
                    image + (u + first) * channels, image + (u + first + strides[k]) * channels, channels,
                    stop - first, weights + k * n + u + first,
                )
                if mask != NULL:
                    for x in range(first, stop):
                        if not (mask[u + x] and mask[u + x + strides[k]]):
                            weights[k * n + u + x] = -<real> INFINITY
            for x in range(max(stop, first), width):
                weights[k * n + u + x] = -<real> INFINITY
        axis = last - 1
        while axis >= 0:
            coordinates[axis] += 1
            if coordinates[axis] < shape[axis]:
                break
            coordinates[axis] = 0
            axis -= 1


cdef void drop_from_run(node_t *e0, node_t *e1, node_t *e2, node_t *e3, Py_ssize_t count) noexcept nogil:
    """Mark, by its sign, the heaviest of e0[x], e1[x], e2[x], e3[x] (in the order of their ids), for each x.

    Weights are taken as their bits. In loops without branches or overlapping writes, which the compiler
    turns into vector code.
    """
    cdef node_t heaviest[CHUNK]
    cdef node_t w0, w1, w2, w3, which, most, unsigned_mask = (
        <node_t> 0x7FFFFFFF if node_t is int32_t else <node_t> 0x7FFFFFFFFFFFFFFF
    )
    cdef Py_ssize_t start = 0, x, length
    while start < count:
        length = min(<Py_ssize_t> CHUNK, count - start)
        for x in range(length):
            w0 = e0[start + x] & unsigned_mask
            w1 = e1[start + x] & unsigned_mask
            w2 = e2[start + x] & unsigned_mask
            w3 = e3[start + x] & unsigned_mask
            which = 1 if w1 >= w0 else 0
            most = w1 if w1 >= w0 else w0
            which = 2 if w2 >= most else which
            most = w2 if w2 >= most else most
            heaviest[x] = 3 if w3 >= most else which
        mark(e0 + start, heaviest, 0, length)
        mark(e1 + start, heaviest, 1, length)
        mark(e2 + start, heaviest, 2, length)
        mark(e3 + start, heaviest, 3, length)
        start += CHUNK


cdef inline void mark(node_t *weights, const node_t *heaviest, node_t which, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t x
    cdef node_t sign = <node_t> 1 << (31 if node_t is int32_t else 63)
    for x in range(count):
        weights[x] |= sign if heaviest[x] == which else 0


cdef void drop_from_squares(
    real *weights, Py_ssize_t n, const Py_ssize_t[::1] shape,
    const Py_ssize_t[:, ::1] offsets, const Py_ssize_t[::1] strides,
) noexcept nogil:
    """Mark, by its sign, the heaviest edge of every square of four pixels.

    The heaviest edge of a cycle is in no minimum spanning tree. On photographs that is most of the
    edges that Kruskal would find to close a cycle, for a fraction of the time. A missing edge is heavier
    than any other, so that a square that lacks one loses nothing.
    """
    cdef Py_ssize_t ndim = shape.shape[0], i, j, k, axis, steps
    cdef Py_ssize_t along_i, outer, middle, n_outer, n_middle, n_inner, u
    cdef Py_ssize_t unit[MAX_NDIM]  # the row of `offsets` that is one step along an axis
    for k in range(offsets.shape[0]):
        steps = 0
        for axis in range(ndim):
            if offsets[k, axis] != 0:
                steps += 1
                i = axis
        if steps == 1:
            unit[i] = k
    for i in range(ndim):
        for j in range(i + 1, ndim):
            # Pixels are (outer, i, middle, j, inner): all axes but these two are merged.
            n_inner = strides[unit[j]]
            n_middle = strides[unit[i]] // (n_inner * shape[j])
            n_outer = n // (strides[unit[i]] * shape[i])
            for outer in range(n_outer):
                for along_i in range(shape[i] - 1):
                    for middle in range(n_middle):
                        u = ((outer * shape[i] + along_i) * n_middle + middle) * shape[j] * n_inner
                        if real is float:
                            drop_from_run(
                                <int32_t *> weights + unit[j] * n + u,
                                <int32_t *> weights + unit[i] * n + u,
                                <int32_t *> weights + unit[i] * n + u + strides[unit[j]],
                                <int32_t *> weights + unit[j] * n + u + strides[unit[i]],
                                (shape[j] - 1) * n_inner,
                            )
                        else:
                            drop_from_run(
                                <int64_t *> weights + unit[j] * n + u,
                                <int64_t *> weights + unit[i] * n + u,
                                <int64_t *> weights + unit[i] * n + u + strides[unit[j]],
                                <int64_t *> weights + unit[j] * n + u + strides[unit[i]],
                                (shape[j] - 1) * n_inner,
                            )


cdef void kruskal(
    const uint64_t *items, Py_ssize_t n_items, Py_ssize_t n,
    const index_t *ends, const Py_ssize_t *strides, int id_bits, node_t *parent, node_t *links,
) noexcept nogil:
    """Merge nodes into lists, by edges sorted by (weight, id).

    An id stands for row `id` of `ends` or, where that is NULL, for the pixel graph's edge. A
    component's list starts with its root, which keeps the list's last node. A merge puts the list with
    the larger root behind the other one: links[3 x] says which node follows x, by which edge and weight.
    """
    cdef Py_ssize_t i, taken = 0
    cdef uint64_t id, k_mask = (<uint64_t> 1 << id_bits) - 1
    cdef node_t a, b, node, kind = 0
    cdef node_t *link
    for i in range(n):
        parent[i] = ~(<node_t> i)
    for i in range(n_items):
        if ends != NULL:
            id = id_of(items, i, kind)
            a = <node_t> ends[2 * id]
            b = <node_t> ends[2 * id + 1]
        else:
            id = id_of(items, min(i + AHEAD, n_items - 1), kind)
            APRO_PREFETCH(parent + (id >> id_bits))
            APRO_PREFETCH(parent + (id >> id_bits) + strides[id & k_mask])
            id = id_of(items, i, kind)
            a = <node_t> (id >> id_bits)
            b = <node_t> (a + strides[id & k_mask])
        a = find(parent, a)
        b = find(parent, b)
        if a == b:
            continue
        if a > b:
            node = a
            a = b
            b = node
        link = links + 3 * (~parent[a])
        link[0] = b
        link[1] = <node_t> id
        link[2] = <node_t> key_of(items, i, kind)
        parent[a] = parent[b]
        parent[b] = a
        taken += 1
        if taken == n - 1:
            break


cdef bint lay_out(
    Py_ssize_t n, const index_t *ends, const Py_ssize_t *strides, int id_bits,
    const node_t *parent, const node_t *links,
    index_t *order, real *gaps, index_t *gap_edges,
) noexcept nogil:
    """Write the lists one after the other, by their first nodes; return whether all weights are finite."""
    cdef Py_ssize_t root, place = 0
    cdef node_t node, last
    cdef uint64_t id
    cdef bint finite = True
    cdef index_t u
    for root in range(n):
        if parent[root] >= 0:
            continue
        if place:
            gaps[place - 1] = <real> INFINITY
            gap_edges[2 * place - 2] = -1
            gap_edges[2 * place - 1] = -1
        node = <node_t> root
        last = ~parent[root]
        while True:
            order[place] = <index_t> node
            place += 1
            if node == last:
                break
            if node_t is int32_t:
                id = <uint32_t> links[3 * node + 1]
            else:
                id = <uint64_t> links[3 * node + 1]
            if ends != NULL:
                gap_edges[2 * place - 2] = ends[2 * id]
                gap_edges[2 * place - 1] = ends[2 * id + 1]
            else:
                u = <index_t> (id >> id_bits)
                gap_edges[2 * place - 2] = u
                gap_edges[2 * place - 1] = <index_t> (u + strides[id & ((<uint64_t> 1 << id_bits) - 1)])
            gaps[place - 1] = from_bits(<uint64_t> links[3 * node + 2], gaps)
            finite = finite and gaps[place - 1] < <real> INFINITY
            node = links[3 * node]
    return finite


cdef Py_ssize_t collect_grid(
    const real *weights, Py_ssize_t n, Py_ssize_t n_offsets, int id_bits, uint64_t *items, node_t kind
) noexcept nogil:
    """Write the edges that are left, in the order of their ids; return how many there are."""
    cdef Py_ssize_t u, k, count = 0
    cdef uint64_t bits
    for u in range(n):
        for k in range(n_offsets):
            bits = bits_of(weights[k * n + u])
            put(items, count, bits, <uint64_t> u << id_bits | <uint64_t> k, kind)
            count += not (bits >> (31 if real is float else 63))
    return count


cdef Py_ssize_t count_left(const real *weights, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i, count = 0
    for i in range(n):
        count += not (bits_of(weights[i]) >> (31 if real is float else 63))
    return count


cdef bint build(
    uint64_t *items, uint64_t *other, Py_ssize_t n_items, Py_ssize_t n,
    const index_t *ends, const Py_ssize_t *strides, int id_bits, node_t *working,
    index_t *order, real *gaps, index_t *gap_edges,
) noexcept nogil:
    cdef node_t *parent = working
    cdef node_t *links = working + n
    cdef node_t kind = 0
    items = radix_sort(items, other, n_items, kind)
    kruskal(items, n_items, n, ends, strides, id_bits, parent, links)
    return lay_out(n, ends, strides, id_bits, parent, links, order, gaps, gap_edges)


cdef bint is_narrow(Py_ssize_t n_ids, object weight_dtype):
    """Whether 32-bit numbers will do: see the module's first lines."""
    return weight_dtype == np.float32 and n_ids <= 1 << 31


def grid_tree(
    const real[:, ::1] image, const unsigned char[::1] mask, grid,
    index_t[::1] order, real[::1] gaps, index_t[:, ::1] gap_edges,
):
    """Fill order (N), gaps (N-1) and gap_edges (N-1, 2) with the tree of image (N, C).

    `mask` (N, or 0 for none) says which pixels take part. Returns whether all weights are finite.
    """
    cdef Py_ssize_t n = order.shape[0], n_items
    cdef const Py_ssize_t[::1] shape = grid.shape
    cdef const Py_ssize_t[:, ::1] offsets = grid.offsets
    cdef const Py_ssize_t[::1] strides = grid.strides
    cdef int id_bits = grid.id_bits
    cdef const unsigned char *mask_data = &mask[0] if mask.shape[0] else NULL
    cdef Py_ssize_t[::1] coordinates = np.zeros(shape.shape[0], np.intp)
    cdef real[::1] weights
    cdef uint64_t[:, ::1] items
    cdef int32_t[::1] narrow
    cdef int64_t[::1] wide
    cdef const index_t *no_ends = NULL
    cdef int32_t narrow_kind = 0
    cdef int64_t wide_kind = 0
    cdef bint finite
    if n == 0:
        return True
    weights = np.empty(n * offsets.shape[0], np.asarray(gaps).dtype)
    with nogil:
        weigh_grid(
            &image[0, 0], image.shape[1], mask_data, n, shape, offsets, strides, &weights[0], coordinates
        )
        drop_from_squares(&weights[0], n, shape, offsets, strides)
        n_items = count_left(&weights[0], weights.shape[0])
    if is_narrow(n << id_bits, np.asarray(gaps).dtype):
        items = np.empty((2, n_items + 1), np.uint64)
        with nogil:
            collect_grid(&weights[0], n, offsets.shape[0], id_bits, &items[0, 0], narrow_kind)
        weights = None
        narrow = np.empty(4 * n, np.int32)
        with nogil:
            finite = build(
                &items[0, 0], &items[1, 0], n_items, n, no_ends, &strides[0], id_bits, &narrow[0],
                &order[0], &gaps[0], &gap_edges[0, 0],
            )
    else:
        items = np.empty((2, 2 * (n_items + 1)), np.uint64)
        with nogil:
            collect_grid(&weights[0], n, offsets.shape[0], id_bits, &items[0, 0], wide_kind)
        weights = None
        wide = np.empty(4 * n, np.int64)
        with nogil:
            finite = build(
                &items[0, 0], &items[1, 0], n_items, n, no_ends, &strides[0], id_bits, &wide[0],
                &order[0], &gaps[0], &gap_edges[0, 0],
            )
    return finite


cdef void canonical_ends(
    const index_t *ends, Py_ssize_t n_edges, Py_ssize_t n, Py_ssize_t *counts,
    Py_ssize_t *rows, Py_ssize_t *by_higher, index_t *sorted_ends,
) noexcept nogil:
    """Sort edges by (lower end, higher end) with two counting sorts: O(E + N) for any graph.

    rows[i] becomes the row of `ends` that sorted_ends[i] came from. Edges marked -1 go to the end.
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


def canonical_edges(const index_t[:, ::1] ends, Py_ssize_t n):
    """Return edges (E, 2) as pairs u < v in the order of (u, v), and the rows they came from.

    Edges marked -1 are left out.
    """
    cdef Py_ssize_t n_edges = ends.shape[0]
    cdef Py_ssize_t[::1] counts = np.empty(n + 1, np.intp)
    cdef Py_ssize_t[::1] by_higher = np.empty(n_edges, np.intp)
    cdef Py_ssize_t[::1] rows = np.empty(n_edges, np.intp)
    cdef index_t[:, ::1] result = np.empty((n_edges, 2), np.asarray(ends).dtype)
    if n_edges == 0:
        return np.asarray(result), np.asarray(rows)
    with nogil:
        canonical_ends(&ends[0, 0], n_edges, n, &counts[0], &rows[0], &by_higher[0], &result[0, 0])
        while n_edges and result[n_edges - 1, 0] < 0:
            n_edges -= 1
    return np.asarray(result)[:n_edges], np.asarray(rows)[:n_edges]


cdef void collect_list(const real *weights, Py_ssize_t n_edges, uint64_t *items, node_t kind) noexcept nogil:
    cdef Py_ssize_t e
    for e in range(n_edges):
        put(items, e, bits_of(weights[e]), e, kind)


def edge_list_tree(
    const index_t[:, ::1] ends, const real[::1] weights,
    index_t[::1] order, real[::1] gaps, index_t[:, ::1] gap_edges,
):
    """Fill a tree as `grid_tree` does, from canonical edges (E, 2) and their weights (E)."""
    cdef Py_ssize_t n = order.shape[0], n_edges = ends.shape[0]
    cdef uint64_t[:, ::1] items
    cdef int32_t[::1] narrow
    cdef int64_t[::1] wide
    cdef int32_t narrow_kind = 0
    cdef int64_t wide_kind = 0
    cdef bint finite
    if n == 0:
        return True
    if is_narrow(max(n, n_edges), np.asarray(gaps).dtype):
        items = np.empty((2, n_edges + 1), np.uint64)
        narrow = np.empty(4 * n, np.int32)
        with nogil:
            collect_list(&weights[0], n_edges, &items[0, 0], narrow_kind)
            finite = build(
                &items[0, 0], &items[1, 0], n_edges, n, &ends[0, 0], NULL, 0, &narrow[0],
                &order[0], &gaps[0], &gap_edges[0, 0],
            )
    else:
        items = np.empty((2, 2 * (n_edges + 1)), np.uint64)
        wide = np.empty(4 * n, np.int64)
        with nogil:
            collect_list(&weights[0], n_edges, &items[0, 0], wide_kind)
            finite = build(
                &items[0, 0], &items[1, 0], n_edges, n, &ends[0, 0], NULL, 0, &wide[0],
                &order[0], &gaps[0], &gap_edges[0, 0],
            )
    return finite


def sort_by_weight(const real[::1] weights, Py_ssize_t[::1] rows):
    """Fill rows (E) with the stable order of weights (E), none negative."""
    cdef Py_ssize_t n = weights.shape[0], i
    cdef uint64_t[:, ::1] items = np.empty((2, 2 * n + 1), np.uint64)
    cdef uint64_t *in_order
    cdef int64_t kind = 0
    with nogil:
        collect_list(&weights[0], n, &items[0, 0], kind)
        in_order = radix_sort(&items[0, 0], &items[1, 0], n, kind)
        for i in range(n):
            rows[i] = <Py_ssize_t> id_of(in_order, i, kind)


def weigh_edges(const real[:, ::1] features, const index_t[:, ::1] ends, real[::1] weights):
    """Fill weights (E) with |f_u - f_v|^2 of features (N, C)."""
    cdef Py_ssize_t e, channels = features.shape[1]
    cdef const real *f = &features[0, 0]
    with nogil:
        for e in range(ends.shape[0]):
            weights[e] = square_distance(f + ends[e, 0] * channels, f + ends[e, 1] * channels, channels)


def linkage(const index_t[:, ::1] edges, const real[::1] weights, double[:, ::1] result):
    """Fill result (N-1, 4) with the linkage matrix of a tree of N nodes, edges lightest first."""
    cdef Py_ssize_t n = edges.shape[0] + 1, i
    cdef index_t[::1] parent = np.full(n, -1, np.asarray(edges).dtype)
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
