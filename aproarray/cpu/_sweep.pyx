"""The sweeps of `_sweep.pxi`, compiled for any processor of the platform."""

include "_sweep.pxi"

cdef extern from *:
    """
    #if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__i386__))
    static int apro_has_avx2(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    }
    #elif defined(_MSC_VER) && defined(_M_X64)
    #include <intrin.h>
    #include <immintrin.h>
    static int apro_has_avx2(void) {
        int info[4];
        __cpuid(info, 1);
        if (!(info[2] & (1 << 27)) || (_xgetbv(0) & 6) != 6) return 0;  /* the system saves its registers */
        if (!(info[2] & (1 << 12))) return 0;  /* fused multiply-add */
        __cpuidex(info, 7, 0);
        return (info[1] & (1 << 5)) != 0;
    }
    #else
    static int apro_has_avx2(void) { return 0; }
    #endif
    """
    bint apro_has_avx2() noexcept nogil


def has_avx2():
    """Whether this processor can run the modules that are compiled for AVX2, and fused multiply-add."""
    return apro_has_avx2()
