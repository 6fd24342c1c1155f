"""Items to sort: the bits of a weight, which are its key, and the id of its edge, in one number or in two.

Weights are never negative. Their bits therefore order them as integers do, and their sign is free to mark
edges that need no more looking at. Where weights are float32 and edge ids fit 32 bits, an item is one number,
and two otherwise. `node_t` says which.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from aproarray.cpu._unionfind cimport node_t

ctypedef fused real:
    float
    double

cdef enum:
    DIGIT_BITS = 11
    RADIX = 1 << 11
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


cdef inline bint is_negative(real weight) noexcept nogil:
    """Whether the sign is set, of -0 as well."""
    return bits_of(weight) >> (31 if real is float else 63)


cdef inline real from_bits(uint64_t bits, const real *_kind) noexcept nogil:
    cdef uint32_t single = <uint32_t> bits
    cdef real weight
    if real is float:
        memcpy(&weight, &single, sizeof(weight))
    else:
        memcpy(&weight, &bits, sizeof(weight))
    return weight


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


cdef inline int digit_of(const uint64_t *items, Py_ssize_t i, int digit, node_t kind) noexcept nogil:
    """A digit of a key, from the lowest on."""
    return <int> (key_of(items, i, kind) >> (digit * DIGIT_BITS) & (RADIX - 1))


cdef inline uint64_t *radix_sort(
    uint64_t *items, uint64_t *other, Py_ssize_t n, node_t kind
) noexcept nogil:
    """Sort stably by key, returning the one of the two buffers that holds the result.

    Digits that all keys share are passed over: images of few distinct weights cost one or two passes.
    """
    cdef Py_ssize_t counts[MAX_DIGITS][RADIX]
    cdef Py_ssize_t i, place, total, count
    cdef int digit, value, shift
    cdef int n_digits = ((31 if node_t is int32_t else 63) + DIGIT_BITS - 1) // DIGIT_BITS
    cdef uint64_t key
    cdef uint64_t *swap
    if n == 0:
        return items
    for digit in range(n_digits):
        memset(counts[digit], 0, RADIX * sizeof(Py_ssize_t))
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
            if node_t is int32_t:
                other[place] = items[i]
            else:
                other[2 * place] = items[2 * i]
                other[2 * place + 1] = items[2 * i + 1]
        swap = items
        items = other
        other = swap
    return items
