/* The loops of `_stream.pxi` over the pixels of a slab, with vectors written out: for numbers of the type REAL.

   Compilers make vectors of such loops by themselves, but begin each with checks for overlap, and end it with
   the pixels that do not fill a vector. The loops are short, so that this takes most of the time.
   `_stream.pxi` includes this file once for float and once for double. All arrays are flat, and padded for a
   vector that begins at the last pixel. */

#ifndef APRO_STREAM_LOOPS
#define APRO_STREAM_LOOPS
#define APRO_JOINED(name, type) name##_##type
#define APRO_JOIN(name, type) APRO_JOINED(name, type)
#define NAME(name) APRO_JOIN(name, REAL)
#define VECTOR NAME(apro_vector)
#define LANES ((Py_ssize_t)(sizeof(VECTOR) / sizeof(REAL)))

#if defined(__GNUC__) || defined(__clang__)
#ifdef __AVX__
#define APRO_BYTES 32
#else
#define APRO_BYTES 16
#endif
#define APRO_VECTOR(type) \
    typedef type apro_vector_##type __attribute__((vector_size(APRO_BYTES))); \
    typedef type apro_loose_##type __attribute__((vector_size(APRO_BYTES), aligned(sizeof(type)), may_alias));
APRO_VECTOR(float)
APRO_VECTOR(double)
#define LOAD(place) ((VECTOR) * (const NAME(apro_loose) *)(place))
#define STORE(place, vector) (*(NAME(apro_loose) *)(place) = (vector))
#define ALL(number) ((VECTOR){0} + (REAL)(number))
#define SUBTRACT(a, b) ((a) - (b))
#define MULTIPLY(a, b) ((a) * (b))
/* Rounded once where there is an instruction for it (-ffp-contract=fast), else twice. */
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
typedef unsigned int apro_bits __attribute__((vector_size(APRO_BYTES)));
static inline apro_vector_float apro_at_least(apro_vector_float a, apro_vector_float least) {
    apro_bits above = (apro_bits)(a > least);
    return (apro_vector_float)(((apro_bits)a & above) | ((apro_bits)least & ~above));
}
#define AT_LEAST(a, least) apro_at_least(a, least)
#define POWER_OF_2(rounded) ((apro_vector_float)(((apro_bits)(rounded) << 23) + (127u << 23)))
#elif defined(_MSC_VER) && defined(__AVX2__)
#include <immintrin.h>
#define APRO_BYTES 32
typedef __m256 apro_vector_float;
typedef __m256d apro_vector_double;
#define APRO_SUFFIX_float ps
#define APRO_SUFFIX_double pd
#define APRO_CALL(name) APRO_JOIN(_mm256##name, APRO_JOIN(APRO_SUFFIX, REAL))
#define LOAD(place) APRO_CALL(_loadu)(place)
#define STORE(place, vector) APRO_CALL(_storeu)(place, vector)
#define ALL(number) APRO_CALL(_set1)(number)
#define SUBTRACT(a, b) APRO_CALL(_sub)(a, b)
#define MULTIPLY(a, b) APRO_CALL(_mul)(a, b)
#define MULTIPLY_ADD(a, b, c) APRO_CALL(_fmadd)(a, b, c)
#define AT_LEAST(a, least) _mm256_max_ps(a, least)
#define POWER_OF_2(rounded) _mm256_castsi256_ps(_mm256_add_epi32( \
    _mm256_slli_epi32(_mm256_castps_si256(rounded), 23), _mm256_set1_epi32(127 << 23)))
#else /* one number at a time */
#define APRO_BYTES ((Py_ssize_t)sizeof(REAL))
typedef float apro_vector_float;
typedef double apro_vector_double;
#define LOAD(place) (*(place))
#define STORE(place, vector) (*(place) = (vector))
#define ALL(number) ((REAL)(number))
#define SUBTRACT(a, b) ((a) - (b))
#define MULTIPLY(a, b) ((a) * (b))
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#define AT_LEAST(a, least) ((a) > (least) ? (a) : (least))
static inline float apro_power_of_2(float rounded) {
    unsigned int bits;
    memcpy(&bits, &rounded, sizeof bits);
    bits = (bits << 23) + (127u << 23);
    memcpy(&rounded, &bits, sizeof bits);
    return rounded;
}
#define POWER_OF_2(rounded) apro_power_of_2(rounded)
#endif


/* weights[x] <- exp(weights[x]) where both pixels are valid, else 0. No weight is above 0.

   As in Cephes, 2^n times a polynomial, to about one unit in the last place; 0 where that would be subnormal.
   (REAL is float where this is read.) ln 2 is in two parts. Added to a small number, 1.5 2^23 rounds it: the last bits of the sum are n. */
static inline void apro_exp(
    const float *valid_here, const float *valid_there, Py_ssize_t first, Py_ssize_t last, float *weights
) {
    static const float factors[] = {
        1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
        5.0000001201e-1f};
    const VECTOR round = ALL(12582912);
    for (Py_ssize_t x = first; x < last; x += LANES) {
        VECTOR y = AT_LEAST(LOAD(weights + x), ALL(-88));
        VECTOR rounded = MULTIPLY_ADD(y, ALL(1.4426950408889634), round);
        VECTOR n = SUBTRACT(rounded, round), r, p;
        int k;
        r = MULTIPLY_ADD(n, ALL(-0.693359375), y);
        r = MULTIPLY_ADD(n, ALL(2.12194440e-4), r);
        p = ALL(factors[0]);
        for (k = 1; k < 6; k++) p = MULTIPLY_ADD(p, r, ALL(factors[k]));
        p = MULTIPLY_ADD(MULTIPLY(p, r), r, MULTIPLY_ADD(ALL(1), r, ALL(1)));
        p = MULTIPLY(p, POWER_OF_2(rounded));
        STORE(weights + x, MULTIPLY(p, MULTIPLY(LOAD(valid_here + x), LOAD(valid_there + x))));
    }
}

#if defined(__GNUC__) || defined(__clang__)
#define APRO_UNROLLED static inline __attribute__((always_inline))
#else
#define APRO_UNROLLED static __forceinline
#endif
/* Channels that are summed up together, at most: their sums and their weights have to fit the registers. */
#if defined(__AVX__) || defined(__aarch64__)
#define APRO_CHANNELS 4
#else
#define APRO_CHANNELS 2
#endif
/* Bytes that are summed up together: of one channel alone, and of each of several. */
#define APRO_ALONE 128
#define APRO_TOGETHER 64
#endif

/* squares[x] <- |planes[here + x] - planes[there + x]|^2. Planes of colors are `padded` numbers apart. */
static inline void NAME(apro_squares)(
    const REAL *here, const REAL *there, Py_ssize_t padded, Py_ssize_t n_colors, Py_ssize_t first,
    Py_ssize_t last, REAL *squares
) {
    for (Py_ssize_t x = first; x < last; x += LANES) {
        VECTOR sum = ALL(0), difference;
        Py_ssize_t c, y = x;
        for (c = 0; c < n_colors; c++, y += padded) {
            difference = SUBTRACT(LOAD(here + y), LOAD(there + y));
            sum = MULTIPLY_ADD(difference, difference, sum);
        }
        STORE(squares + x, sum);
    }
}

/* norms[x] <- 1 + the sum of the weights. The second of each pair of `places` is that of weights. */
static inline void NAME(apro_norms)(
    const REAL *weights, const Py_ssize_t *places, Py_ssize_t n_places, Py_ssize_t first, Py_ssize_t last,
    REAL *norms
) {
    for (Py_ssize_t x = first; x < last; x += LANES) {
        VECTOR sum = ALL(1);
        Py_ssize_t k;
        for (k = 1; k < n_places; k += 2) sum = MULTIPLY_ADD(ALL(1), LOAD(weights + places[k] + x), sum);
        STORE(norms + x, sum);
    }
}

/* sums[x] <- norms[x] (values[own + x] + window sum), of n_channels, which are `apart` numbers from one another.

   Every step of the window has two pairs of `places`: of the values that come after and of their weights, of
   the values before and of theirs. The last pixels may be summed up twice: there are at least `bytes` of them.
   n_channels and bytes are constants where this is called. */
APRO_UNROLLED void NAME(apro_sum_some)(
    int n_channels, int bytes, const REAL *values, const REAL *weights, const REAL *norms,
    const Py_ssize_t *places, Py_ssize_t n_places, Py_ssize_t own, Py_ssize_t apart, Py_ssize_t first,
    Py_ssize_t stop, REAL *sums
) {
    const int n_vectors = bytes / (int)APRO_BYTES;
    const Py_ssize_t pixels = n_vectors * LANES;
    Py_ssize_t x = first, k;
    int c, v;
    for (;;) {
        VECTOR sum[APRO_CHANNELS][APRO_ALONE / APRO_BYTES], weight;
        for (c = 0; c < n_channels; c++)
            for (v = 0; v < n_vectors; v++) sum[c][v] = LOAD(values + own + x + c * apart + v * LANES);
        for (k = 0; k < n_places; k += 2) {
            const REAL *there = values + places[k] + x, *its = weights + places[k + 1] + x;
            for (v = 0; v < n_vectors; v++) {
                weight = LOAD(its + v * LANES);
                for (c = 0; c < n_channels; c++)
                    sum[c][v] = MULTIPLY_ADD(weight, LOAD(there + c * apart + v * LANES), sum[c][v]);
            }
        }
        for (v = 0; v < n_vectors; v++) {
            weight = LOAD(norms + x + v * LANES);
            for (c = 0; c < n_channels; c++)
                STORE(sums + x + c * apart + v * LANES, MULTIPLY(sum[c][v], weight));
        }
        if (x + pixels >= stop) break;
        x = x + 2 * pixels <= stop ? x + pixels : stop - pixels;
    }
}

/* Sum up all channels of a slab, as above. */
static inline void NAME(apro_sum)(
    Py_ssize_t n_channels, const REAL *values, const REAL *weights, const REAL *norms,
    const Py_ssize_t *places, Py_ssize_t n_places, Py_ssize_t own, Py_ssize_t apart, Py_ssize_t first,
    Py_ssize_t stop, REAL *sums
) {
#define APRO_SUM(n, bytes) \
    NAME(apro_sum_some)( \
        n, bytes, values, weights, norms, places, n_places, own, apart, first, stop, sums)
    while (n_channels > 0) {
        Py_ssize_t n = n_channels < APRO_CHANNELS ? n_channels : APRO_CHANNELS;
#if APRO_CHANNELS > 2
        if (n == 4) APRO_SUM(4, APRO_TOGETHER);
        if (n == 3) APRO_SUM(3, APRO_TOGETHER);
#endif
        if (n == 2) APRO_SUM(2, APRO_TOGETHER);
        if (n == 1) APRO_SUM(1, APRO_ALONE);
        n_channels -= n, values += n * apart, sums += n * apart;
    }
#undef APRO_SUM
}

/* own[x] += a[x] (before[x] - after[x]) */
static inline void NAME(apro_add_own)(
    const REAL *a, const REAL *before, const REAL *after, Py_ssize_t first, Py_ssize_t last, REAL *own
) {
    for (Py_ssize_t x = first; x < last; x += LANES)
        STORE(own + x, MULTIPLY_ADD(LOAD(a + x), SUBTRACT(LOAD(before + x), LOAD(after + x)), LOAD(own + x)));
}

/* slopes[i padded + x] += (a_x - a_z) (y_z - y_x) for pixels z = x + i, i < n_steps.

   y_x is here[x], y_z is there[z], and a lies `adjoint` further. */
static inline void NAME(apro_add_pairs)(
    const REAL *here, const REAL *there, Py_ssize_t adjoint, Py_ssize_t n_steps, Py_ssize_t padded,
    Py_ssize_t first, Py_ssize_t last, REAL *slopes
) {
    for (Py_ssize_t x = first; x < last; x += LANES) {
        VECTOR y = LOAD(here + x), a = LOAD(here + adjoint + x);
        const REAL *z = there + x;
        REAL *slope = slopes + x;
        Py_ssize_t i;
        for (i = 0; i < n_steps; i++, z++, slope += padded)
            STORE(slope, MULTIPLY_ADD(SUBTRACT(a, LOAD(z + adjoint)), SUBTRACT(LOAD(z), y), LOAD(slope)));
    }
}
