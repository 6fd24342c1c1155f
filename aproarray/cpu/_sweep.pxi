"""Global propagation over the linear order: two sweeps with a stack each, up to 32 columns at a time.

A *column* is one channel of one item. The columns of a block lie side by side; where they do not, they are
gathered into rows, and scattered back. Only affinities enter here: kappa = exp(-gap / zeta^2). The affinity
of two pixels is the smallest kappa between their positions.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from aproarray import _zeta

from aproarray.cpu._prefetch cimport prefetch

cdef extern from *:
    """
    #if defined(_MSC_VER)
    #pragma fp_contract (off)  /* /fp:precise fused products and sums before Visual Studio 2022 */
    #endif
    """
    int64_t LARGEST32 "INT32_MAX"
    int64_t LARGEST64 "INT64_MAX"

ctypedef fused real:
    float
    double

ctypedef fused index_t:
    int32_t
    int64_t

cdef extern from *:
    """
    /* Four doubles. Compilers make no vector code of them by themselves where pointers may be the same. */
    #if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 9)
    typedef double apro_quad __attribute__((vector_size(32)));
    typedef float apro_singles __attribute__((vector_size(16), aligned(4), may_alias));
    typedef double apro_doubles __attribute__((vector_size(32), aligned(8), may_alias));
    #if defined(__AVX__)
    #include <immintrin.h>
    /* What gcc 12 makes of __builtin_convertvector here goes by way of memory. */
    #define APRO_READ_FLOAT(x) ((apro_quad)_mm256_cvtps_pd(_mm_loadu_ps(x)))
    #else
    #define APRO_READ_FLOAT(x) __builtin_convertvector(*(const apro_singles *)(x), apro_quad)
    #endif
    #define APRO_READ_DOUBLE(x) ((apro_quad)*(const apro_doubles *)(x))
    #define APRO_WRITE_FLOAT(x, quad) (*(apro_singles *)(x) = __builtin_convertvector(quad, apro_singles))
    #define APRO_WRITE_DOUBLE(x, quad) (*(apro_doubles *)(x) = (quad))
    #define APRO_LANE(quad, c) ((quad)[c])
    #define APRO_PLUS(a, b) ((a) + (b))
    #define APRO_TIMES(quad, factor) ((quad) * (apro_quad){factor, factor, factor, factor})
    #else
    typedef struct { double v[4]; } apro_quad;
    #define APRO_READ(name, type) \\
        static __inline apro_quad name(const type *x) { \\
            apro_quad quad; \\
            for (int c = 0; c < 4; c++) quad.v[c] = x[c]; \\
            return quad; \\
        }
    #define APRO_WRITE(name, type) \\
        static __inline void name(type *x, apro_quad quad) { \\
            for (int c = 0; c < 4; c++) x[c] = (type)quad.v[c]; \\
        }
    APRO_READ(APRO_READ_FLOAT, float)
    APRO_READ(APRO_READ_DOUBLE, double)
    APRO_WRITE(APRO_WRITE_FLOAT, float)
    APRO_WRITE(APRO_WRITE_DOUBLE, double)
    #define APRO_LANE(quad, c) ((quad).v[c])
    static __inline apro_quad APRO_PLUS(apro_quad a, apro_quad b) {
        for (int c = 0; c < 4; c++) a.v[c] += b.v[c];
        return a;
    }
    static __inline apro_quad APRO_TIMES(apro_quad quad, double factor) {
        for (int c = 0; c < 4; c++) quad.v[c] *= factor;
        return quad;
    }
    #endif
    """
    ctypedef struct quad_t "apro_quad":
        pass
    quad_t read_float "APRO_READ_FLOAT"(const float *x) noexcept nogil
    quad_t read_double "APRO_READ_DOUBLE"(const double *x) noexcept nogil
    void write_float "APRO_WRITE_FLOAT"(float *x, quad_t quad) noexcept nogil
    void write_double "APRO_WRITE_DOUBLE"(double *x, quad_t quad) noexcept nogil
    double lane_of "APRO_LANE"(quad_t quad, int c) noexcept nogil
    quad_t plus "APRO_PLUS"(quad_t a, quad_t b) noexcept nogil
    quad_t times "APRO_TIMES"(quad_t quad, double factor) noexcept nogil

# A slot of the stack of a sweep over many columns: S, T, and the number of pixels as S and T. All in double:
# a sum over millions of float32 pixels keeps its digits. One struct per vector width makes the width a
# constant of the compiled loops.
cdef struct Slot4:
    quad_t sum[1]
    quad_t seen[1]
    double n
    double n_seen
    double unused[2]

cdef struct Slot8:
    quad_t sum[2]
    quad_t seen[2]
    double n
    double n_seen
    double unused[2]

cdef struct Slot12:
    quad_t sum[3]
    quad_t seen[3]
    double n
    double n_seen
    double unused[2]

cdef struct Slot16:
    quad_t sum[4]
    quad_t seen[4]
    double n
    double n_seen
    double unused[2]

cdef struct Slot24:
    quad_t sum[6]
    quad_t seen[6]
    double n
    double n_seen
    double unused[2]

cdef struct Slot32:
    quad_t sum[8]
    quad_t seen[8]
    double n
    double n_seen
    double unused[2]

ctypedef fused slot_t:
    Slot4
    Slot8
    Slot12
    Slot16
    Slot24
    Slot32

# How a sweep uses the sums' weights z. These are types, so that the compiler makes a loop of each.
cdef struct Averaging:  # divide results by z
    char nothing

cdef struct Transposing:  # divide values by it
    char nothing

ctypedef fused mode_t:
    Averaging
    Transposing

cdef enum:
    FEW = 3
    LINE = 64  # bytes of a line of the cache
    AHEAD = 16  # pixels that rows are prefetched before their turn, ...
    AHEAD_OF_FEW = 32  # ... and single numbers
    GROUP = 4  # lanes that are loaded and stored together
    STRETCH = 64  # pixels that are gathered or scattered together
    CHUNK = 256  # numbers and pixels that are worked on in buffers
    BLOCK = 1024  # gaps whose moves are found together
    SMALLEST_LOG = -708

MAX_COLUMNS = 32
FEW_COLUMNS = FEW  # up to here, a pixel's columns need not be consecutive, and sweeps go another way


cdef struct Block:
    # Where the columns of a block lie: the addresses of the first one at pixel 0, and bytes from one pixel
    # to the next, and from one column to the next. Many columns are side by side. Lanes beyond the last one
    # repeat columns, so that a group of lanes always is a full one: `columns` is the first column of each.
    int n_columns
    const char *source
    char *target
    Py_ssize_t source_stride
    Py_ssize_t target_stride
    Py_ssize_t source_column
    Py_ssize_t target_column
    Py_ssize_t source_last
    Py_ssize_t target_last
    int columns[8]


cdef struct Slots:
    # The stack of a sweep. Gaps that the same later gap outweighs share a slot. Slot 0 holds zeros and is
    # only read, slot 1 is there from the start.
    Py_ssize_t capacity
    Py_ssize_t top
    size_t slot_bytes
    bint finite  # all means that the sweep has completed
    void *memory
    void *slots  # slot_t[capacity] or few_t[2 * capacity] (S, then T), from the start of a cache line on


cdef bint reserve(Slots *stack, Py_ssize_t more) noexcept nogil:
    """Make room for so many slots more."""
    cdef Py_ssize_t capacity = max(stack.capacity, <Py_ssize_t> 64)
    cdef void *memory
    cdef void *slots
    if stack.memory != NULL and stack.top + more < capacity:
        return True
    while stack.top + more >= capacity:
        capacity *= 2
    memory = calloc(capacity * stack.slot_bytes + LINE, 1)
    if memory == NULL:
        return False
    slots = <char *> memory + (LINE - <size_t> memory % LINE)
    if stack.memory != NULL:
        memcpy(slots, stack.slots, stack.capacity * stack.slot_bytes)
        free(stack.memory)
    stack.memory = memory
    stack.slots = slots
    stack.capacity = capacity
    return True


cdef int lanes_for(int columns) noexcept nogil:
    return (
        2 if columns == 1 else 4 if columns <= 4 else 8 if columns <= 8 else 12 if columns <= 12
        else 16 if columns <= 16 else 24 if columns <= 24 else 32
    )


cdef class Stack:
    """The sums of a sweep over `columns` columns: of all pixels that it has passed, at first of none."""

    cdef Slots data

    def __cinit__(self, int columns):
        self.data.top = 1
        self.data.finite = True
        self.data.slot_bytes = (2 * lanes_for(columns) + (0 if columns <= FEW else 4)) * sizeof(double)
        if not reserve(&self.data, 0):
            raise MemoryError("no memory for the stack of a sweep")

    @property
    def finite(self):
        """Whether all means that the sweep completed are finite."""
        return bool(self.data.finite)

    @property
    def capacity(self):
        """How many slots there is room for."""
        return self.data.capacity

    def __dealloc__(self):
        free(self.data.memory)


cdef enum:  # what a sweep does at a gap
    TAKE = 1  # the sum of the top slot comes along: the gap outweighs its gaps
    JOIN = 2  # the sum is added to the slot that is then on top: one later gap outweighs both


cdef inline int move_of(int moves, Py_ssize_t step) noexcept nogil:
    """Return what a sweep forward (step 1) or backward (-1) does at a gap of `find_moves`."""
    return moves & 3 if step > 0 else moves >> 2


# Bits that order gaps as their weights do: those of float32 in 32 bits, for twice as many in a vector.
ctypedef fused bits_t:
    int32_t
    int64_t


cdef inline bits_t bits_of(real gap, bits_t _kind) noexcept nogil:
    """Return the bits that order a gap; NaN counts as inf."""
    cdef int32_t single
    cdef int64_t both
    gap = (gap if gap == gap else <real> INFINITY) + 0  # -0 becomes 0
    if real is float:
        memcpy(&single, &gap, sizeof(single))
        return <bits_t> (single ^ (single >> 31 & <int32_t> LARGEST32))
    else:
        memcpy(&both, &gap, sizeof(both))
        return <bits_t> (both ^ (both >> 63 & LARGEST64))


cdef extern from *:
    """
    #if defined(__AVX2__) && (defined(__GNUC__) || defined(__clang__))
    #include <immintrin.h>
    #define APRO_ROUNDS_PAY 16
    static unsigned char apro_lanes[256][8]; /* of the bits that are set in a number: which, then anything */
    static void apro_fill_lanes(void) {
        for (int bits = 0; bits < 256; bits++) {
            int count = 0;
            for (int lane = 0; lane < 8; lane++) {
                apro_lanes[bits][count] = (unsigned char)lane;
                count += bits >> lane & 1;
            }
        }
    }
    /* What `drop_minima` does, for as many gaps from the first on as fill vectors; returns how many. */
    static int apro_drop_vectors(
        const int32_t *keys, const int32_t *places, int n, int32_t *kept_keys, int32_t *kept_places,
        int *kept, int32_t *dropped, int *n_dropped
    ) {
        int i = 1, k = *kept, d = *n_dropped;
        for (; i + 8 < n; i += 8) {
            __m256i left = _mm256_loadu_si256((const __m256i *)(keys + i - 1));
            __m256i key = _mm256_loadu_si256((const __m256i *)(keys + i));
            __m256i right = _mm256_loadu_si256((const __m256i *)(keys + i + 1));
            __m256i place = _mm256_loadu_si256((const __m256i *)(places + i));
            __m256i drop = _mm256_cmpgt_epi32(left, key), twice = _mm256_slli_epi32(place, 1);
            __m256i side = _mm256_cmpgt_epi32(left, right); /* 2 place, and 1 if the left is the parent */
            side = _mm256_add_epi32(_mm256_or_si256(twice, _mm256_set1_epi32(1)), side);
            drop = _mm256_andnot_si256(_mm256_cmpgt_epi32(key, right), drop);
            int mask = _mm256_movemask_ps(_mm256_castsi256_ps(drop));
            __m256i stay = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)apro_lanes[255 ^ mask]));
            __m256i go = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)apro_lanes[mask]));
            int count = __builtin_popcount(mask);
            _mm256_storeu_si256((__m256i *)(kept_keys + k), _mm256_permutevar8x32_epi32(key, stay));
            _mm256_storeu_si256((__m256i *)(kept_places + k), _mm256_permutevar8x32_epi32(place, stay));
            _mm256_storeu_si256((__m256i *)(dropped + d), _mm256_permutevar8x32_epi32(side, go));
            k += 8 - count;
            d += count;
        }
        *kept = k;
        *n_dropped = d;
        return i;
    }
    #else
    #define APRO_ROUNDS_PAY 8
    static void apro_fill_lanes(void) {}
    static int apro_drop_vectors(
        const int32_t *keys, const int32_t *places, int n, int32_t *kept_keys, int32_t *kept_places,
        int *kept, int32_t *dropped, int *n_dropped
    ) {
        (void)keys, (void)places, (void)n, (void)kept_keys, (void)kept_places, (void)kept, (void)dropped;
        (void)n_dropped;
        return 1;
    }
    #endif
    """
    int ROUNDS_PAY "APRO_ROUNDS_PAY"  # one of so many gaps has to be dropped in a round
    void fill_lanes "apro_fill_lanes"()
    int drop_vectors "apro_drop_vectors"(
        const int32_t *keys, const int32_t *places, int n, int32_t *kept_keys, int32_t *kept_places,
        int *kept, int32_t *dropped, int *n_dropped
    ) noexcept nogil

fill_lanes()


cdef int drop_minima(
    const bits_t *keys, const int32_t *places, int n, bits_t *kept_keys, int32_t *kept_places,
    int32_t *dropped, int *n_dropped,
) noexcept nogil:
    """Drop the gaps that are lighter than both neighbours, but for the ends; return how many are kept.

    The parent of such a gap is the lighter one of the two. Its place is appended to `dropped`, twice, and 1
    is added if the parent is on the left. All are written in any case, kept or dropped: no branch.
    """
    cdef int i = 1, kept = 1, gone
    kept_keys[0] = keys[0]
    kept_places[0] = places[0]
    if bits_t is int32_t:
        i = drop_vectors(keys, places, n, kept_keys, kept_places, &kept, dropped, n_dropped)
    for i in range(i, n - 1):
        gone = (keys[i - 1] > keys[i]) & (keys[i] <= keys[i + 1])
        kept_keys[kept] = keys[i]
        kept_places[kept] = places[i]
        dropped[n_dropped[0]] = 2 * places[i] + (keys[i - 1] <= keys[i + 1])
        kept += 1 - gone
        n_dropped[0] += gone
    kept_keys[kept] = keys[n - 1]
    kept_places[kept] = places[n - 1]
    return kept + 1


cdef Py_ssize_t block_moves(
    const real *gaps, Py_ssize_t n, Py_ssize_t start, int count, uint8_t *moves, Py_ssize_t *left,
    bits_t kind,
) noexcept nogil:
    """Find the moves at `count` gaps from `start` on; `left` becomes those whose parents are to be found."""
    cdef bits_t[2][BLOCK + 16] keys  # those of a block, and one on either side; vectors write further
    cdef int32_t[2][BLOCK + 16] places
    cdef int32_t[BLOCK + 16] dropped
    cdef uint8_t *at = moves + start
    cdef const real *given = gaps + start
    cdef bits_t outside = <bits_t> (LARGEST32 if bits_t is int32_t else LARGEST64)
    cdef int i, now = 0, kept = count, before = 2 * count, n_dropped = 0
    keys[0][0] = bits_of(gaps[start - 1], kind) if start else outside
    for i in range(count):
        keys[0][i + 1] = bits_of(given[i], kind)
        places[0][i] = i
    keys[0][count + 1] = bits_of(given[count], kind) if start + count < n else outside
    for i in range(count):
        at[i] = (
            JOIN << 2 | (keys[0][i] <= keys[0][i + 1]) * TAKE
            | (keys[0][i + 2] < keys[0][i + 1]) * (TAKE << 2)
        )
    for i in range(count):
        keys[0][i] = keys[0][i + 1]
    while kept > 2 and ROUNDS_PAY * kept < (ROUNDS_PAY - 1) * before:
        before = kept
        kept = drop_minima(
            &keys[now][0], &places[now][0], kept, &keys[1 - now][0], &places[1 - now][0],
            &dropped[0], &n_dropped,
        )
        now = 1 - now
    for i in range(n_dropped):
        at[dropped[i] >> 1] ^= (dropped[i] & 1) * (JOIN | JOIN << 2)
    for i in range(kept):
        left[i] = start + places[now][i]
    return kept


def find_moves(
    const real[::1] gaps, uint8_t[::1] moves, Py_ssize_t[::1] left, Py_ssize_t first, Py_ssize_t last
):
    """Write what sweeps over a line do at gaps [first, last) to moves (N-1), as far as their blocks tell.

    Forward is in the lower two bits, backward above. In the Cartesian tree of the gaps (ties: the later one
    is heavier), a sweep forward takes along what lies between a gap and its left child, and joins the slot of
    its parent where that is on the left. `close_moves` finds the parents of the gaps left [first, first + the
    number returned). O(N).

    A stack finds parents, but nobody can predict how many gaps the next one closes. Of a block of gaps, most
    are therefore dropped before, in rounds without such a branch.
    """
    cdef Py_ssize_t n = gaps.shape[0], start = first, count = 0
    cdef int size
    with nogil:
        while start < last:
            size = <int> min(<Py_ssize_t> BLOCK, last - start)
            if real is float:
                count += block_moves(&gaps[0], n, start, size, &moves[0], &left[first + count], <int32_t> 0)
            else:
                count += block_moves(&gaps[0], n, start, size, &moves[0], &left[first + count], <int64_t> 0)
            start += size
    return count


def close_moves(
    const real[::1] gaps, uint8_t[::1] moves, Py_ssize_t[::1] left, const Py_ssize_t[:, ::1] ranges
):
    """Find the parents of the gaps in ranges (R, 2) of `left`, which is overwritten: see `find_moves`."""
    # The gaps whose parents may still come, weights falling, are left[:top]; `lightest` is the last one's.
    cdef Py_ssize_t r, i, place, top = 0, first
    cdef int64_t key, lightest = LARGEST64
    with nogil:
        for r in range(ranges.shape[0]):
            for i in range(ranges[r, 0], ranges[r, 1]):
                place = left[i]
                key = bits_of(gaps[place], <int64_t> 0)
                first = top
                while lightest <= key:
                    top -= 1
                    moves[left[top]] ^= JOIN | JOIN << 2  # the parent is on the left ...
                    lightest = bits_of(gaps[left[top - 1]], <int64_t> 0) if top else LARGEST64
                if top < first:  # ... but for the heaviest of them, whose parent is this gap
                    moves[left[top]] ^= JOIN | JOIN << 2
                left[top] = place
                lightest = key
                top += 1
        for i in range(1, top):
            moves[left[i]] ^= JOIN | JOIN << 2


cdef struct Side:
    # A sweep on its way along a range of the line, from `place` to before `end`, in steps of 1 or -1.
    Slots *stack
    Py_ssize_t step
    Py_ssize_t place
    Py_ssize_t end


cdef Side side_of(Slots *stack, Py_ssize_t first, Py_ssize_t last, bint backward) noexcept nogil:
    cdef Side side
    side.stack = stack
    side.step = -1 if backward else 1
    side.place = last - 1 if backward else first
    side.end = first - 1 if backward else last
    return side


cdef inline quad_t read_four(const real *at) noexcept nogil:
    if real is float:
        return read_float(at)
    else:
        return read_double(at)


cdef inline void write_four(real *at, quad_t lanes) noexcept nogil:
    if real is float:
        write_float(at, lanes)
    else:
        write_double(at, lanes)


cdef bint sweep_many(
    const Block *given, const index_t *order, const double *kappa, const uint8_t *moves, Py_ssize_t n,
    real *counts, const Side *side, bint second, slot_t *_width, const real *_kind, mode_t *_mode,
) noexcept nogil:
    """Move a sweep over its range of the line. False: out of memory.

    T, on top of the stack, is the sum over all pixels passed, each weighted by its affinity to the next
    pixel. S is the unweighted sum of a slot. At a gap, `moves` says whether the top slot's S comes along, and
    whether what comes along joins the slot below or begins a new one (see `find_moves`). Neither is a branch.
    Only terms of one sign are added; nothing is ever subtracted. The first sweep to reach a pixel leaves the
    mean so far in the result (a sum might overflow float32), and its weight in `counts`. The second sweep
    completes both. Transposed, `counts` holds the final z from the start: values are divided by it, and sums
    stay sums.
    """
    cdef Block own = given[0]  # which no store can change
    cdef const Block *block = &own
    cdef Slots *stack = side.stack
    cdef Py_ssize_t p = side.place, step = side.step, pixel, gap, take, join, column
    cdef Py_ssize_t last = 0 if step < 0 else n - 1
    cdef int c, group, n_groups = <int> ((sizeof(slot_t) // sizeof(quad_t) - 1) // 2), move
    cdef slot_t *zeros
    cdef slot_t *top
    cdef slot_t *end
    cdef slot_t *taken
    cdef slot_t *below
    cdef slot_t *joined
    cdef quad_t[8] values
    cdef quad_t[8] results
    cdef quad_t value, together, nothing  # 0, or NaN from when a result is not finite
    cdef const char *source
    cdef char *target
    cdef Py_ssize_t at
    cdef double z, n_behind = 0, n_acc, affinity
    if p == side.end:  # the stack may be another thread's
        return True
    zeros = <slot_t *> stack.slots
    top = zeros + stack.top
    end = zeros + stack.capacity - 1
    nothing = zeros.sum[0]
    while p != side.end:
        if 0 <= p + AHEAD * step < n:
            pixel = order[p + AHEAD * step]
            source = block.source + pixel * block.source_stride
            target = block.target + pixel * block.target_stride
            at = 0
            while at < block.source_last:  # a row that is not aligned may touch a line between its ends
                prefetch(source + at)
                prefetch(target + at)
                at += LINE
            prefetch(source + block.source_last)
            prefetch(target + block.target_last)
        pixel = order[p]
        source = block.source + pixel * block.source_stride
        target = block.target + pixel * block.target_stride
        if mode_t is Transposing:
            z = 1 / counts[p]
        elif second:
            n_behind = counts[p]
            z = n_behind + top.n_seen
            counts[p] = <real> z
            z = 1 / z
        else:
            counts[p] = <real> (1 + top.n_seen)
            z = 1 / counts[p]
        for group in range(n_groups):  # all are read before one is written, as the last two may overlap
            column = GROUP * group if group < n_groups - 2 else own.columns[group]
            value = read_four(<const real *> source + column)
            if mode_t is Transposing:
                value = times(value, z)
                results[group] = top.seen[group]
                if second:
                    results[group] = plus(
                        plus(value, read_four(<const real *> target + column)), results[group]
                    )
            elif second:
                results[group] = times(
                    plus(
                        plus(value, times(read_four(<const real *> target + column), n_behind)),
                        top.seen[group],
                    ),
                    z,
                )
            else:
                results[group] = times(top.seen[group], z)
            values[group] = value
        for group in range(n_groups):
            column = GROUP * group if group < n_groups - 2 else own.columns[group]
            write_four(<real *> target + column, results[group])
        if mode_t is Averaging:
            if second:
                together = results[0]
                for group in range(1, n_groups):
                    together = plus(together, results[group])
                nothing = plus(nothing, times(together, 0))

        if p == last:
            break
        gap = min(p, p + step)
        affinity = kappa[gap]
        move = move_of(moves[gap], step)
        p += step
        if top == end:
            stack.top = top - zeros
            if not reserve(stack, 1):
                return False
            zeros = <slot_t *> stack.slots
            top = zeros + stack.top
            end = zeros + stack.capacity - 1
        take = -<Py_ssize_t> (move & TAKE)  # all bits, or none
        join = -<Py_ssize_t> (move >> 1)
        below = <slot_t *> (<char *> top - (take & <Py_ssize_t> sizeof(slot_t)))
        taken = <slot_t *> (<char *> zeros + (take & (<char *> top - <char *> zeros)))
        joined = <slot_t *> (<char *> zeros + (join & (<char *> below - <char *> zeros)))
        top = <slot_t *> (<char *> below + (~join & <Py_ssize_t> sizeof(slot_t)))
        if affinity == 0:  # nothing passed is seen from ahead, and heavier gaps let through no more
            memset(top, 0, sizeof(slot_t))
            continue
        n_acc = 1 + taken.n
        top.n_seen = below.n_seen + affinity * n_acc
        top.n = n_acc + joined.n
        for group in range(n_groups):
            value = plus(values[group], taken.sum[group])
            together = plus(below.seen[group], times(value, affinity))
            top.sum[group] = plus(value, joined.sum[group])
            top.seen[group] = together
    stack.top = top - zeros
    for c in range(GROUP):
        stack.finite = stack.finite and lane_of(nothing, c) == 0
    return True


cdef void exp_of(const double *x, double *result, Py_ssize_t n) noexcept nogil:
    """result[i] <- exp(x[i]), at most CHUNK of them, in [-708, 0], to 2 units in the last place; 0 at -708.

    Callers raise what is below to -708, where numbers cease to be normal. In loops that the compiler turns
    into vector code: x = k ln 2 + r, exp(r) from its series up to r^12 (|r| < 0.35: 2e-16), and k added to
    the exponent.
    """
    cdef double[CHUNK] shifted  # k, in the lowest bits
    cdef double[CHUNK] series
    cdef const uint64_t *shifted_bits = <const uint64_t *> shifted
    cdef uint64_t *bits = <uint64_t *> series
    cdef double to_integer = 6755399441055744.0  # 1.5 * 2^52: what is added to it is rounded
    cdef double k, r, r2, r4
    cdef Py_ssize_t i
    for i in range(n):
        shifted[i] = x[i] * 1.4426950408889634 + to_integer
        k = shifted[i] - to_integer
        r = (x[i] - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10  # ln 2, in two parts
        r2 = r * r
        r4 = r2 * r2
        series[i] = (1 + r) + (1. / 2 + r * (1. / 6)) * r2 + (
            ((1. / 24 + r * (1. / 120)) + (1. / 720 + r * (1. / 5040)) * r2) * r4
            + (
                ((1. / 40320 + r * (1. / 362880)) + (1. / 3628800 + r * (1. / 39916800)) * r2)
                + r4 * (1. / 479001600)
            ) * (r4 * r4)
        )
    for i in range(n):
        bits[i] += shifted_bits[i] << 52
    for i in range(n):
        result[i] = series[i] if x[i] > SMALLEST_LOG else 0


def affinities(const real[::1] distances, double zeta, double[::1] result, Py_ssize_t first, Py_ssize_t last):
    """result[first:last] <- exp(-d / zeta^2), for any zeta > 0: never 0 * inf, and 0 where d is inf."""
    cdef double[CHUNK] exponents
    cdef Py_ssize_t i, n
    cdef double inverse = _zeta.inverse(zeta), exponent
    with nogil:
        while first < last:
            n = min(<Py_ssize_t> CHUNK, last - first)
            for i in range(n):
                exponent = -(distances[first + i] * inverse) * inverse
                exponents[i] = exponent if exponent > SMALLEST_LOG else SMALLEST_LOG
            exp_of(exponents, &result[first], n)
            first += n


def gather(
    const real[:, :, :] values, const Py_ssize_t[:, ::1] columns, real[:, ::1] rows,
    Py_ssize_t first, Py_ssize_t last,
):
    """Rows [first, last) of rows (N, K) <- the values (I, N, C) of K columns."""
    cdef Py_ssize_t p, k, stop
    cdef const char *at
    cdef Py_ssize_t stride = values.strides[1]
    with nogil:
        while first < last:  # a stretch of pixels of one column after the other
            stop = min(first + STRETCH, last)
            for k in range(columns.shape[0]):
                at = <const char *> &values[columns[k, 0], first, columns[k, 1]]
                for p in range(first, stop):
                    rows[p, k] = (<const real *> at)[0]
                    at += stride
            first = stop


def scatter(
    const real[:, ::1] rows, const Py_ssize_t[:, ::1] columns, real[:, :, :] out,
    Py_ssize_t first, Py_ssize_t last,
):
    """The reverse of `gather`."""
    cdef Py_ssize_t p, k, stop
    cdef char *at
    cdef Py_ssize_t stride = out.strides[1]
    with nogil:
        while first < last:
            stop = min(first + STRETCH, last)
            for k in range(columns.shape[0]):
                at = <char *> &out[columns[k, 0], first, columns[k, 1]]
                for p in range(first, stop):
                    (<real *> at)[0] = rows[p, k]
                    at += stride
            first = stop


include "_sweep_few.pxi"


cdef bint move_few(
    const Block *block, const index_t *order, const double *kappa, const uint8_t *moves, Py_ssize_t n,
    real *counts, const Side *ahead, const Side *behind, bint second, bint transposed, few_t *width,
) noexcept nogil:
    if transposed:
        return sweep_few(
            block, order, kappa, moves, n, counts, ahead, behind, second, width, <Transposing *> NULL
        )
    return sweep_few(block, order, kappa, moves, n, counts, ahead, behind, second, width, <Averaging *> NULL)


cdef bint move_many(
    const Block *block, const index_t *order, const double *kappa, const uint8_t *moves, Py_ssize_t n,
    real *counts, const Side *ahead, const Side *behind, bint second, bint transposed, slot_t *width,
) noexcept nogil:
    if transposed:
        return sweep_many(
            block, order, kappa, moves, n, counts, ahead, second, width, counts, <Transposing *> NULL
        ) and sweep_many(
            block, order, kappa, moves, n, counts, behind, second, width, counts, <Transposing *> NULL
        )
    return sweep_many(
        block, order, kappa, moves, n, counts, ahead, second, width, counts, <Averaging *> NULL
    ) and sweep_many(
        block, order, kappa, moves, n, counts, behind, second, width, counts, <Averaging *> NULL
    )


def sweep(
    const real[:, :] values, real[:, :] out, const index_t[::1] order, const double[::1] kappa,
    const uint8_t[::1] moves, real[::1] counts, Stack ahead_stack, Stack behind_stack,
    bint second, bint transposed,
    Py_ssize_t first, Py_ssize_t last, Py_ssize_t behind_first, Py_ssize_t behind_last,
):
    """Move two sweeps over N pixels of C columns (at most 32): `ahead`, forward over pixels [first, last) of
    the line, and `behind`, backward over pixels [behind_first, behind_last). Either range may be empty.

    Global propagation of values (N, C) into out (N, C) is a sweep forward and one backward, each with a
    stack of its own, each in any number of moves. Every pixel needs both; for the later one, `second` is set.

    The values of a pixel must be consecutive, in `out` as well, if there are more than FEW_COLUMNS. `order`
    (N) names the pixels along the line. `counts` (N) becomes z = K 1 along the line. Transposed, it holds
    that z, and out becomes K (values / z), the gradient of values from that of out.
    """
    cdef Py_ssize_t n = values.shape[0]
    cdef int count = <int> values.shape[1], width = lanes_for(count), group
    cdef const double *gaps = &kappa[0] if n > 1 else NULL
    cdef const uint8_t *moves_at = &moves[0] if n > 1 else NULL
    cdef Side ahead = side_of(&ahead_stack.data, first, last, False)
    cdef Side behind = side_of(&behind_stack.data, behind_first, behind_last, True)
    cdef Block block
    cdef bint done = False
    if n == 0 or count == 0:
        return
    block.n_columns = count
    block.source = <const char *> &values[0, 0]
    block.target = <char *> &out[0, 0]
    block.source_stride = values.strides[0]
    block.target_stride = out.strides[0]
    block.source_column = values.strides[1]
    block.target_column = out.strides[1]
    block.source_last = (count - 1) * block.source_column
    block.target_last = (count - 1) * block.target_column
    for group in range(width // GROUP):
        block.columns[group] = min(GROUP * group, count - GROUP)
    with nogil:
        if count == 1:
            done = move_few(
                &block, &order[0], gaps, moves_at, n, &counts[0], &ahead, &behind, second, transposed,
                <Pairs1 *> NULL,
            )
        elif count <= FEW:
            done = move_few(
                &block, &order[0], gaps, moves_at, n, &counts[0], &ahead, &behind, second, transposed,
                <Pairs2 *> NULL,
            )
        elif width == 4:
            done = move_many(
                &block, &order[0], gaps, moves_at, n, &counts[0], &ahead, &behind, second, transposed,
                <Slot4 *> NULL,
            )
        elif width == 8:
            done = move_many(
                &block, &order[0], gaps, moves_at, n, &counts[0], &ahead, &behind, second, transposed,
                <Slot8 *> NULL,
            )
        elif width == 12:
            done = move_many(
                &block, &order[0], gaps, moves_at, n, &counts[0], &ahead, &behind, second, transposed,
                <Slot12 *> NULL,
            )
        elif width == 16:
            done = move_many(
                &block, &order[0], gaps, moves_at, n, &counts[0], &ahead, &behind, second, transposed,
                <Slot16 *> NULL,
            )
        elif width == 24:
            done = move_many(
                &block, &order[0], gaps, moves_at, n, &counts[0], &ahead, &behind, second, transposed,
                <Slot24 *> NULL,
            )
        else:
            done = move_many(
                &block, &order[0], gaps, moves_at, n, &counts[0], &ahead, &behind, second, transposed,
                <Slot32 *> NULL,
            )
    if not done:
        raise MemoryError(f"no memory for the stack of a sweep over {n} pixels and {count} channels")
