"""The levels at which a flood compares edges: lists of nearly equal weight, in which pixels wait."""

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
