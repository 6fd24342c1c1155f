"""Lists of pixels that wait for a label, by the weight of the edge that has reached them.

Edges wait in lists of nearly equal weight. The lists are the *levels* at which edges are compared.
"""

from libc.stdint cimport int32_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static int32_t apro_float_bits(float x) { int32_t bits; memcpy(&bits, &x, 4); return bits; }
    #if defined(_MSC_VER)
    #include <intrin.h>
    static int apro_lowest_bit(uint64_t x) {
        unsigned long i;
        if (_BitScanForward(&i, (unsigned long) x)) return (int) i;
        _BitScanForward(&i, (unsigned long) (x >> 32));
        return (int) i + 32;
    }
    #else
    static int apro_lowest_bit(uint64_t x) { return __builtin_ctzll(x); }
    #endif
    """
    int32_t apro_float_bits(float x) noexcept nogil
    int apro_lowest_bit(uint64_t x) noexcept nogil

cdef enum:
    # Edges wait in lists of nearly equal weight: 2^10 to a power of two, over 16 powers of two.
    DROPPED_BITS = 13  # of the 23 of a float's fraction
    N_LISTS = 1 << 14
    N_WORDS = N_LISTS // 64  # which lists hold edges: a bit each, ...
    N_TOP_WORDS = N_WORDS // 64  # ... and which of those words are not 0
    UNREACHED = N_LISTS  # compares as heavier than any list
    DONE = -1


cdef inline int32_t bits_of_lightest(float heaviest) noexcept nogil:
    """The bits of the weight from which on weights are told apart, as integers that order them."""
    cdef int32_t bits = apro_float_bits(heaviest) - ((16 << 23) - (1 << 23))
    return bits & ~((1 << 23) - 1)


cdef inline int32_t list_of(float weight, int32_t lightest_bits) noexcept nogil:
    """The list of an edge: lists of lighter edges come first."""
    cdef int32_t k = (apro_float_bits(weight) - lightest_bits) >> DROPPED_BITS
    return max(0, min(k, N_LISTS - 1))


cdef struct Pixel:
    # All there is to know of a pixel in one place, as neighbours are far away in memory. If it waits, it does
    # at the end of the lightest edge that has reached it, between two others in its list.
    int32_t before
    int32_t after
    int32_t in_list  # or DONE: has a label or takes no part, or UNREACHED
    int32_t label
    float relief


cdef struct Queue:
    Pixel *pixels
    int32_t *first
    int32_t *last
    uint64_t words[N_WORDS]
    uint64_t top_words[N_TOP_WORDS]


cdef inline void remove(Queue *queue, int32_t pixel) noexcept nogil:
    cdef Pixel *own = &queue.pixels[pixel]
    cdef int32_t k = own.in_list, word = k >> 6
    if own.before >= 0:
        queue.pixels[own.before].after = own.after
    else:
        queue.first[k] = own.after
    if own.after >= 0:
        queue.pixels[own.after].before = own.before
    else:
        queue.last[k] = own.before
    if queue.first[k] < 0:
        queue.words[word] &= ~(<uint64_t> 1 << (k & 63))
        if queue.words[word] == 0:
            queue.top_words[word >> 6] &= ~(<uint64_t> 1 << (word & 63))


cdef inline void append(Queue *queue, int32_t pixel, int32_t k, int32_t label) noexcept nogil:
    cdef Pixel *own = &queue.pixels[pixel]
    cdef int32_t word = k >> 6
    own.in_list = k
    own.label = label
    own.after = -1
    own.before = queue.last[k] if queue.first[k] >= 0 else -1
    if own.before >= 0:
        queue.pixels[own.before].after = pixel
    else:
        queue.first[k] = pixel
        queue.words[word] |= <uint64_t> 1 << (k & 63)
        queue.top_words[word >> 6] |= <uint64_t> 1 << (word & 63)
    queue.last[k] = pixel


cdef inline int32_t lightest(const Queue *queue) noexcept nogil:
    """The pixel that has waited longest in the lightest list that is not empty, or -1."""
    cdef int32_t i, word
    for i in range(N_TOP_WORDS):
        if queue.top_words[i]:
            word = (i << 6) + apro_lowest_bit(queue.top_words[i])
            return queue.first[(word << 6) + apro_lowest_bit(queue.words[word])]
    return -1
