"""Collecting the edges that are left of a pixel graph, as items to sort."""

from libc.stdint cimport int32_t, uint8_t, uint64_t

from aproarray.cpu._items cimport bits_of, is_negative, put, real
from aproarray.cpu._unionfind cimport node_t

cdef extern from *:
    """
    #if defined(__AVX2__) && (defined(__GNUC__) || defined(__clang__))
    #include <immintrin.h>
    /* Of the bits that are set in a number, which halves of items, from the lowest byte on. */
    #define APRO_CHOSEN(first, second, third, fourth) \\
        {2 * first, 2 * first + 1, 2 * second, 2 * second + 1, 2 * third, 2 * third + 1, 2 * fourth, \\
         2 * fourth + 1}
    static const unsigned char apro_chosen[16][8] = {
        APRO_CHOSEN(0, 0, 0, 0), APRO_CHOSEN(0, 0, 0, 0), APRO_CHOSEN(1, 0, 0, 0), APRO_CHOSEN(0, 1, 0, 0),
        APRO_CHOSEN(2, 0, 0, 0), APRO_CHOSEN(0, 2, 0, 0), APRO_CHOSEN(1, 2, 0, 0), APRO_CHOSEN(0, 1, 2, 0),
        APRO_CHOSEN(3, 0, 0, 0), APRO_CHOSEN(0, 3, 0, 0), APRO_CHOSEN(1, 3, 0, 0), APRO_CHOSEN(0, 1, 3, 0),
        APRO_CHOSEN(2, 3, 0, 0), APRO_CHOSEN(0, 2, 3, 0), APRO_CHOSEN(1, 2, 3, 0), APRO_CHOSEN(0, 1, 2, 3)
    };
    static inline uint64_t *apro_choose(uint64_t *items, __m256i four, int bits) {
        __m256i chosen = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)apro_chosen[bits]));
        _mm256_storeu_si256((__m256i *)items, _mm256_permutevar8x32_epi32(four, chosen));
        return items + __builtin_popcount(bits);
    }
    /* What `collect` does, for two offsets and as many pixels as fill vectors; returns the next. */
    static Py_ssize_t apro_collect_vectors(
        const int32_t *first_weights, const int32_t *second_weights, const uint8_t *pairs, Py_ssize_t pixel,
        Py_ssize_t u, Py_ssize_t last, uint64_t *items, Py_ssize_t *place, Py_ssize_t stop
    ) {
        const __m256i lanes = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14), one = _mm256_set1_epi32(1);
        uint64_t *at = items + *place;
        for (; u + 8 <= last && items + stop - at >= 16; u += 8) {
            __m256i w0 = _mm256_loadu_si256((const __m256i *)(first_weights + u));
            __m256i w1 = _mm256_loadu_si256((const __m256i *)(second_weights + u));
            __m256i code = _mm256_setzero_si256();
            if (pairs) code = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(pairs + u)));
            __m256i id0 = _mm256_add_epi32(_mm256_set1_epi32((int)(2 * (pixel + u))), lanes);
            __m256i id1 = _mm256_or_si256(id0, one);
            __m256i gone0 = _mm256_or_si256(w0, _mm256_cmpeq_epi32(code, one));
            __m256i gone1 = _mm256_or_si256(w1, _mm256_cmpeq_epi32(code, _mm256_set1_epi32(3)));
            /* Bits, two for each pixel: 0, 1, 4, 5 in the lower half, 2, 3, 6, 7 in the upper one. */
            __m256i low = _mm256_unpacklo_epi32(gone0, gone1), high = _mm256_unpackhi_epi32(gone0, gone1);
            int low_bits = ~_mm256_movemask_ps(_mm256_castsi256_ps(low));
            int high_bits = ~_mm256_movemask_ps(_mm256_castsi256_ps(high));
            __m256i a = _mm256_unpacklo_epi32(id0, w0), b = _mm256_unpacklo_epi32(id1, w1);
            __m256i c = _mm256_unpackhi_epi32(id0, w0), d = _mm256_unpackhi_epi32(id1, w1);
            __m256i even = _mm256_unpacklo_epi64(a, b), odd = _mm256_unpackhi_epi64(a, b);
            at = apro_choose(at, _mm256_permute2x128_si256(even, odd, 0x20), low_bits & 15);
            __m256i later_even = _mm256_unpacklo_epi64(c, d), later_odd = _mm256_unpackhi_epi64(c, d);
            at = apro_choose(at, _mm256_permute2x128_si256(later_even, later_odd, 0x20), high_bits & 15);
            at = apro_choose(at, _mm256_permute2x128_si256(even, odd, 0x31), low_bits >> 4 & 15);
            at = apro_choose(at, _mm256_permute2x128_si256(later_even, later_odd, 0x31), high_bits >> 4 & 15);
        }
        *place = at - items;
        return u;
    }
    #else
    #define apro_collect_vectors(w0, w1, pairs, pixel, u, last, items, place, stop) (u)
    #endif
    """
    Py_ssize_t collect_vectors "apro_collect_vectors"(
        const int32_t *first_weights, const int32_t *second_weights, const uint8_t *pairs, Py_ssize_t pixel,
        Py_ssize_t u, Py_ssize_t last, uint64_t *items, Py_ssize_t *place, Py_ssize_t stop
    ) noexcept nogil


cdef inline void collect(
    const real **weights, Py_ssize_t n_offsets, const uint8_t *pairs, int id_bits, Py_ssize_t pixel,
    Py_ssize_t first, Py_ssize_t last, uint64_t *items, Py_ssize_t *place, Py_ssize_t stop, node_t kind,
) noexcept nogil:
    """Write the unmarked edges of pixels [first, last) to items [place, stop), in the order of their ids.

    weights[k] are those of offset k, and pixel 0 has the number `pixel` in ids. Edges of `pairs` (see
    `find_pairs` in _weigh.pxi; may be NULL) are left out.
    """
    cdef Py_ssize_t u = first, k, at = place[0]
    cdef int paired
    if real is float and node_t is int32_t:
        if n_offsets == 2:
            u = collect_vectors(
                <const int32_t *> weights[0], <const int32_t *> weights[1], pairs, pixel, u, last, items, &at,
                stop,
            )
    # Written in any case, kept if unmarked: no branch, which could not be predicted.
    while u < last and stop - at >= n_offsets:
        paired = pairs[u] if pairs != NULL else 0
        for k in range(n_offsets):
            put(items, at, bits_of(weights[k][u]), <uint64_t> (pixel + u) << id_bits | k, kind)
            at += (not is_negative(weights[k][u])) & (paired != 2 * k + 1)
        u += 1
    for u in range(u, last):  # where others write, from `stop` on, nothing is
        paired = pairs[u] if pairs != NULL else 0
        for k in range(n_offsets):
            if at < stop:
                put(items, at, bits_of(weights[k][u]), <uint64_t> (pixel + u) << id_bits | k, kind)
                at += (not is_negative(weights[k][u])) & (paired != 2 * k + 1)
    place[0] = at
