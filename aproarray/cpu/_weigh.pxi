"""Weigh edges by squared distances of features, and mark edges of a pixel graph that no tree needs.

Weights are never negative. Their bits therefore order them as integers do, and their sign is free to mark
edges that need no more looking at.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t

ctypedef fused real:
    float
    double

ctypedef fused node_t:
    int32_t
    int64_t

cdef extern from *:
    """
    #if defined(_MSC_VER)
    #pragma fp_contract (off)  /* /fp:precise fused products and sums before Visual Studio 2022 */
    #endif
    """
    int64_t LARGEST32 "INT32_MAX"
    int64_t LARGEST64 "INT64_MAX"
    int64_t SMALLEST32 "INT32_MIN"  # its only bit is the sign
    int64_t SMALLEST64 "INT64_MIN"

cdef enum:
    CHUNK = 256
    MAX_NDIM = 8


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


cdef void weigh_rows(
    const real *image, Py_ssize_t channels, const unsigned char *mask, Py_ssize_t n,
    const Py_ssize_t[::1] shape, const Py_ssize_t[:, ::1] offsets, const Py_ssize_t[::1] strides,
    Py_ssize_t first_row, Py_ssize_t last_row, real *weights,
) noexcept nogil:
    """Write the weight of edge (u, k) to weights[k * n + u], -inf where there is no such edge.

    A row is what lies along the last axis; rows [first_row, last_row) are written.
    """
    cdef Py_ssize_t last = shape.shape[0] - 1, width = shape[last]
    cdef Py_ssize_t row, rest, x, k, axis, step, first, stop, u
    cdef bint inside
    cdef real *out
    for row in range(first_row, last_row):
        u = row * width
        for k in range(offsets.shape[0]):
            inside = True
            rest = row
            for axis in range(last - 1, -1, -1):
                step = rest % shape[axis] + offsets[k, axis]
                inside = inside and 0 <= step < shape[axis]
                rest //= shape[axis]
            first = min(max(<Py_ssize_t> 0, -offsets[k, last]), width) if inside else width
            stop = max(width - max(<Py_ssize_t> 0, offsets[k, last]), first)
            out = weights + k * n + u
            for x in range(first):
                out[x] = -<real> INFINITY
            for x in range(stop, width):
                out[x] = -<real> INFINITY
            if first == stop:
                continue
            weigh_run(
                image + (u + first) * channels, image + (u + first + strides[k]) * channels, channels,
                stop - first, out + first,
            )
            if mask != NULL:
                for x in range(first, stop):
                    if not (mask[u + x] and mask[u + x + strides[k]]):
                        out[x] = -<real> INFINITY


cdef void drop_from_run(node_t *e0, node_t *e1, node_t *e2, node_t *e3, Py_ssize_t count) noexcept nogil:
    """Mark, by its sign, the heaviest of e0[x], e1[x], e2[x], e3[x] (in the order of their ids), for each x.

    Weights are taken as their bits. In loops without branches or overlapping writes, which the compiler
    turns into vector code.
    """
    cdef node_t heaviest[CHUNK]
    cdef node_t w0, w1, w2, w3, which, most, unsigned_mask = LARGEST32 if node_t is int32_t else LARGEST64
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
    cdef node_t sign = SMALLEST32 if node_t is int32_t else SMALLEST64
    for x in range(count):
        weights[x] |= sign if heaviest[x] == which else 0


cdef void drop_from_squares(
    node_t *weights, Py_ssize_t n, const Py_ssize_t[::1] shape, const Py_ssize_t[:, ::1] offsets,
    const Py_ssize_t[::1] strides, Py_ssize_t first_slab, Py_ssize_t last_slab,
) noexcept nogil:
    """Mark, by its sign, the heaviest edge of every square of four pixels in slabs [first, last) of axis 0.

    The heaviest edge of a cycle is in no minimum spanning tree. On photographs that is most of the
    edges that Kruskal would find to close a cycle, for a fraction of the time. A missing edge is heavier
    than any other, so that a square that lacks one loses nothing. Weights are taken as their bits.
    """
    cdef Py_ssize_t ndim = shape.shape[0], i, j, k, axis, steps
    cdef Py_ssize_t along_i, outer, middle, first_outer, last_outer, n_middle, n_inner, u
    cdef Py_ssize_t unit[MAX_NDIM]  # the row of `offsets` that is one step along an axis
    for k in range(offsets.shape[0]):
        steps = i = 0
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
            first_outer = 0 if i == 0 else first_slab * (strides[unit[0]] // (strides[unit[i]] * shape[i]))
            last_outer = 1 if i == 0 else last_slab * (strides[unit[0]] // (strides[unit[i]] * shape[i]))
            for outer in range(first_outer, last_outer):
                for along_i in range(first_slab if i == 0 else 0, (last_slab if i == 0 else shape[i]) - 1):
                    for middle in range(n_middle):
                        u = ((outer * shape[i] + along_i) * n_middle + middle) * shape[j] * n_inner
                        drop_from_run(
                            weights + unit[j] * n + u,
                            weights + unit[i] * n + u,
                            weights + unit[i] * n + u + strides[unit[j]],
                            weights + unit[j] * n + u + strides[unit[i]],
                            (shape[j] - 1) * n_inner,
                        )


def weigh_slabs(
    const real[:, ::1] image, const unsigned char[::1] mask, grid, real[:, ::1] weights,
    Py_ssize_t first, Py_ssize_t last,
):
    """Write the edges that leave slabs [first, last) of axis 0 to weights (K, N), some of them marked.

    `image` is (N, C), `mask` (N, or 0 for none) says which pixels take part. Unmarked edges, whose sign is
    not set, are enough for the minimum spanning tree. An image of one axis is a single slab.
    """
    cdef const Py_ssize_t[::1] shape = grid.shape
    cdef const Py_ssize_t[:, ::1] offsets = grid.offsets
    cdef const Py_ssize_t[::1] strides = grid.strides
    cdef Py_ssize_t n = image.shape[0], ndim = shape.shape[0]
    cdef Py_ssize_t rows = n // (shape[0] * shape[ndim - 1]) if ndim > 1 else 1  # in a slab
    cdef const unsigned char *mask_data = &mask[0] if mask.shape[0] else NULL
    with nogil:
        weigh_rows(
            &image[0, 0], image.shape[1], mask_data, n, shape, offsets, strides,
            first * rows, last * rows, &weights[0, 0],
        )
        if real is float:
            drop_from_squares(<int32_t *> &weights[0, 0], n, shape, offsets, strides, first, last)
        else:
            drop_from_squares(<int64_t *> &weights[0, 0], n, shape, offsets, strides, first, last)


def weigh_edges(const real[:, ::1] features, const node_t[:, ::1] ends, real[::1] weights):
    """Fill weights (E) with |f_u - f_v|^2 of features (N, C)."""
    cdef Py_ssize_t e, channels = features.shape[1]
    cdef const real *f = &features[0, 0]
    with nogil:
        for e in range(ends.shape[0]):
            weights[e] = square_distance(f + ends[e, 0] * channels, f + ends[e, 1] * channels, channels)
