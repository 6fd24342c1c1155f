"""Weigh edges by squared distances of features, mark those of a pixel graph that no tree needs, find pairs.

See `_items.pxd` for the bits and the sign of a weight. Two pixels whose lightest edge is the same one are a
mutual *pair*. No other edge of theirs is as light. Kruskal's algorithm may therefore begin with all pairs
merged, and with fewer edges. Edges are compared by (weight, id).
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memset

from aproarray.cpu._collect cimport collect
from aproarray.cpu._items cimport bits_of, is_negative, real
from aproarray.cpu._unionfind cimport node_t

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
    MAX_OFFSETS = 64

cdef extern from *:
    """
    #if defined(__AVX2__) && (defined(__GNUC__) || defined(__clang__))
    #include <immintrin.h>
    /* What `join_pairs` does, for two offsets and as many pixels as fill vectors; returns the next. */
    static Py_ssize_t apro_join_vectors(
        const int32_t *first_weights, const int32_t *second_weights, Py_ssize_t first_stride,
        Py_ssize_t second_stride, const uint8_t *pairs, Py_ssize_t u, Py_ssize_t last, int32_t *sets,
        int32_t *merges
    ) {
        const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), one = _mm256_set1_epi32(1);
        const __m256i steps = _mm256_setr_epi32(
            0, 0, (int)first_stride, 0, (int)second_stride, 0, 0, 0
        );
        for (; u + 8 <= last; u += 8) {
            __m256i code = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(pairs + u)));
            __m256i w0 = _mm256_loadu_si256((const __m256i *)(first_weights + u - first_stride));
            __m256i w1 = _mm256_loadu_si256((const __m256i *)(second_weights + u - second_stride));
            __m256i node = _mm256_add_epi32(_mm256_set1_epi32((int)u), lanes);
            __m256i root = _mm256_sub_epi32(node, _mm256_permutevar8x32_epi32(steps, code));
            __m256i size = _mm256_add_epi32(one, _mm256_and_si256(code, one));
            __m256i key = _mm256_blendv_epi8(w0, w1, _mm256_cmpeq_epi32(code, _mm256_set1_epi32(4)));
            __m256i other = _mm256_xor_si256(root, _mm256_set1_epi32(-1));
            __m256i a = _mm256_unpacklo_epi32(root, size), b = _mm256_unpackhi_epi32(root, size);
            __m256i c = _mm256_unpacklo_epi32(other, key), d = _mm256_unpackhi_epi32(other, key);
            _mm256_storeu_si256((__m256i *)(sets + 2 * u), _mm256_permute2x128_si256(a, b, 0x20));
            _mm256_storeu_si256((__m256i *)(sets + 2 * u + 8), _mm256_permute2x128_si256(a, b, 0x31));
            _mm256_storeu_si256((__m256i *)(merges + 2 * u), _mm256_permute2x128_si256(c, d, 0x20));
            _mm256_storeu_si256((__m256i *)(merges + 2 * u + 8), _mm256_permute2x128_si256(c, d, 0x31));
        }
        return u;
    }
    #else
    #define apro_join_vectors(w0, w1, s0, s1, pairs, u, last, sets, merges) (u)
    #endif
    """
    Py_ssize_t join_vectors "apro_join_vectors"(
        const int32_t *first_weights, const int32_t *second_weights, Py_ssize_t first_stride,
        Py_ssize_t second_stride, const uint8_t *pairs, Py_ssize_t u, Py_ssize_t last, int32_t *sets,
        int32_t *merges
    ) noexcept nogil


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


# A pixel's lightest edge, as a number: 0 if it has none, 2k + 1 if the edge of offset k leaves it, 2k + 2 if
# that enters it. Edges that enter come first, as they belong to earlier pixels.

cdef inline void compare(
    const node_t *weights, node_t *lightest, node_t *which, node_t edge, Py_ssize_t count
) noexcept nogil:
    """Keep the lighter of two edges, for each pixel; of equal ones the first."""
    cdef Py_ssize_t x
    cdef node_t weight
    for x in range(count):
        # The sign is flipped, so that marked edges come after unmarked ones, and after 0.
        weight = weights[x] ^ <node_t> (SMALLEST32 if node_t is int32_t else SMALLEST64)
        which[x] = edge if weight < lightest[x] else which[x]
        lightest[x] = weight if weight < lightest[x] else lightest[x]


cdef void find_lightest_of(
    const node_t *weights, Py_ssize_t n, const Py_ssize_t[::1] strides, Py_ssize_t first, Py_ssize_t last,
    uint8_t *edges,
) noexcept nogil:
    cdef Py_ssize_t n_offsets = strides.shape[0], i, k, x, count, skipped, u = first
    cdef Py_ssize_t[MAX_OFFSETS] by_stride
    cdef node_t[CHUNK] lightest
    cdef node_t[CHUNK] which
    for k in range(n_offsets):  # from the largest stride on: from the earliest pixel on
        i = k
        while i > 0 and strides[by_stride[i - 1]] < strides[k]:
            by_stride[i] = by_stride[i - 1]
            i -= 1
        by_stride[i] = k
    while u < last:
        count = min(<Py_ssize_t> CHUNK, last - u)
        for x in range(count):
            lightest[x] = which[x] = 0
        for i in range(n_offsets):
            k = by_stride[i]
            skipped = max(<Py_ssize_t> 0, strides[k] - u)
            if strides[k] > 0 and skipped < count:  # else no pixel has such an edge
                compare(
                    weights + k * n + u + skipped - strides[k], lightest + skipped, which + skipped,
                    <node_t> (2 * k + 2), count - skipped,
                )
        for k in range(n_offsets):
            compare(weights + k * n + u, lightest, which, <node_t> (2 * k + 1), count)
        for x in range(count):
            edges[u + x] = <uint8_t> which[x]
        u += count


def find_lightest(
    const real[:, ::1] weights, const Py_ssize_t[::1] strides, uint8_t[::1] edges,
    Py_ssize_t first, Py_ssize_t last,
):
    """Write the lightest unmarked edges of pixels [first, last) of a pixel graph to edges (N), as above."""
    cdef const real *at = &weights[0, 0]
    with nogil:
        if real is float:
            find_lightest_of(<const int32_t *> at, weights.shape[1], strides, first, last, &edges[0])
        else:
            find_lightest_of(<const int64_t *> at, weights.shape[1], strides, first, last, &edges[0])


def find_pairs(
    const uint8_t[::1] lightest, const Py_ssize_t[::1] strides, uint8_t[::1] pairs,
    Py_ssize_t first, Py_ssize_t last,
):
    """Write which of the pixels [first, last) have their lightest edge in common with another pixel.

    For these, pairs (N) becomes the number of the edge, as in lightest (N), and 0 for others.
    """
    cdef const uint8_t *edge = &lightest[0]
    cdef uint8_t *pair = &pairs[0]
    cdef Py_ssize_t n = lightest.shape[0], k, step, u
    cdef uint8_t leaves, enters
    with nogil:
        memset(pair + first, 0, last - first)
        for k in range(strides.shape[0]):
            step = strides[k]
            leaves = <uint8_t> (2 * k + 1)
            enters = <uint8_t> (2 * k + 2)
            if step <= 0:
                continue
            for u in range(first, min(last, n - step)):
                pair[u] |= leaves if (edge[u] == leaves) & (edge[u + step] == enters) else 0
            for u in range(max(first, step), last):
                pair[u] |= enters if (edge[u] == enters) & (edge[u - step] == leaves) else 0


def join_pairs(
    const real[:, ::1] weights, const Py_ssize_t[::1] strides, const uint8_t[::1] pairs, node_t[::1] lists,
    Py_ssize_t first, Py_ssize_t last,
):
    """Make a list of each pair and each other pixel of [first, last): sets and merges of `_mst.kruskal`."""
    cdef Py_ssize_t n = pairs.shape[0], u = first, k
    cdef Py_ssize_t[2 * MAX_OFFSETS + 1] steps  # by the number of an edge: back to its first pixel, ...
    cdef Py_ssize_t[2 * MAX_OFFSETS + 1] places  # ... and to its weight
    cdef node_t *sets = &lists[0]
    cdef node_t *merges = &lists[2 * n]
    cdef const real *at = &weights[0, 0]
    cdef Py_ssize_t longest = 0
    with nogil:
        steps[0] = places[0] = 0
        for k in range(strides.shape[0]):
            longest = max(longest, strides[k])
            steps[2 * k + 1] = places[2 * k + 1] = 0
            steps[2 * k + 2] = strides[k]
            places[2 * k + 2] = k * n - strides[k]
        while u < last:
            if real is float and node_t is int32_t:
                if u >= longest and strides.shape[0] == 2:
                    u = join_vectors(
                        <const int32_t *> at, <const int32_t *> at + n, strides[0], strides[1], &pairs[0], u,
                        last, sets, merges,
                    )
                    if u == last:
                        break
            sets[2 * u] = <node_t> (u - steps[pairs[u]])
            sets[2 * u + 1] = 1 + (pairs[u] & 1)
            merges[2 * u] = ~sets[2 * u]
            merges[2 * u + 1] = <node_t> bits_of(at[u + places[pairs[u]]])
            u += 1


def count_unmarked(
    const real[:, ::1] weights, const uint8_t[::1] pairs, Py_ssize_t first, Py_ssize_t last
):
    """Return how many edges of pixels [first, last) `collect_unmarked` writes."""
    cdef Py_ssize_t k, u, count = 0
    with nogil:
        for k in range(weights.shape[0]):
            for u in range(first, last):
                count += not is_negative(weights[k, u])
        if pairs.shape[0]:
            for u in range(first, last):
                count -= pairs[u] & 1
    return count


def collect_unmarked(
    const real[:, ::1] weights, const uint8_t[::1] pairs, int id_bits, uint64_t[::1] items, node_t[::1] like,
    Py_ssize_t place, Py_ssize_t stop, Py_ssize_t first, Py_ssize_t last,
):
    """Write the unmarked edges of pixels [first, last) to items [place, stop), in the order of their ids.

    Edges of pairs (N, or 0 for none) are left out. `like` is any array of the type that says how wide items
    are.
    """
    cdef Py_ssize_t k, n = weights.shape[1]
    cdef node_t kind = 0
    cdef const real *rows[MAX_OFFSETS]
    with nogil:
        for k in range(weights.shape[0]):
            rows[k] = &weights[k, 0]
        collect(
            rows, weights.shape[0], &pairs[0] if pairs.shape[0] else NULL, id_bits, 0, first, last, &items[0],
            &place, stop, kind,
        )
