"""Asking for memory ahead of its use. To be called in loops that do more: compilers take a function that
only prefetches for one without effect, and drop its calls."""

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define APRO_PREFETCH(address) __builtin_prefetch(address)
    #else
    #define APRO_PREFETCH(address) ((void)0)
    #endif
    """
    void prefetch "APRO_PREFETCH" (const void *address) noexcept nogil
