# Sweeps over one to three columns.
#
# Such a sweep is made of steps. A step pops an entry, or it pushes one and moves on to the next pixel. Nobody
# can predict which, so there is no branch: both outcomes are computed, and a mask selects one. A step waits
# for the step before it most of its time. A sweep forward and a sweep backward therefore take turns. Pixels
# are read and written in chunks, apart from these steps.

cdef extern from *:
    """
    /* Two doubles. Compilers do not make vector code of `apro_select` by themselves. */
    #if defined(__GNUC__) || defined(__clang__)
    typedef double apro_pair __attribute__((vector_size(16)));
    typedef long long apro_pair_bits __attribute__((vector_size(16)));
    #define APRO_PAIR(first, second) ((apro_pair){first, second})
    #define APRO_FIRST(pair) ((pair)[0])
    #define APRO_SECOND(pair) ((pair)[1])
    #define APRO_ADD(a, b) ((a) + (b))
    #define APRO_SCALE(pair, factor) ((pair) * (apro_pair){factor, factor})
    static inline apro_pair apro_select(long long mask, apro_pair a, apro_pair b) {
        apro_pair_bits both = {mask, mask};
        return (apro_pair)(((apro_pair_bits)a & both) | ((apro_pair_bits)b & ~both));
    }
    #else
    typedef struct { double v[2]; } apro_pair;
    static __inline apro_pair APRO_PAIR(double first, double second) {
        apro_pair pair;
        pair.v[0] = first;
        pair.v[1] = second;
        return pair;
    }
    #define APRO_FIRST(pair) ((pair).v[0])
    #define APRO_SECOND(pair) ((pair).v[1])
    static __inline apro_pair APRO_ADD(apro_pair a, apro_pair b) {
        return APRO_PAIR(a.v[0] + b.v[0], a.v[1] + b.v[1]);
    }
    static __inline apro_pair APRO_SCALE(apro_pair pair, double factor) {
        return APRO_PAIR(pair.v[0] * factor, pair.v[1] * factor);
    }
    static __inline apro_pair apro_select(long long mask, apro_pair a, apro_pair b) {
        return mask ? a : b;
    }
    #endif
    """
    ctypedef struct pair_t "apro_pair":
        pass
    pair_t pair_of "APRO_PAIR"(double first, double second) noexcept nogil
    double first_of "APRO_FIRST"(pair_t pair) noexcept nogil
    double second_of "APRO_SECOND"(pair_t pair) noexcept nogil
    pair_t add "APRO_ADD"(pair_t a, pair_t b) noexcept nogil
    pair_t scale "APRO_SCALE"(pair_t pair, double factor) noexcept nogil
    pair_t select "apro_select"(int64_t mask, pair_t a, pair_t b) noexcept nogil  # a for -1, b for 0

# The columns, and last the number of pixels.
cdef struct Pairs1:
    pair_t v[1]

cdef struct Pairs2:
    pair_t v[2]

ctypedef fused few_t:
    Pairs1
    Pairs2


cdef inline void pop_or_push(
    const double *kappa, const few_t *values, few_t *seen, Py_ssize_t *at,
    few_t *acc, few_t **sums, double **top,
) noexcept nogil:
    """Make one step from pixel `at` of a chunk, acc being the sum of it and of what was popped there.

    seen[i] becomes T at pixel i: what is pushed last, or written in vain before, counts.
    """
    cdef int c
    cdef Py_ssize_t i = at[0]
    cdef double affinity = kappa[i]
    cdef int64_t pop, bits, top_bits
    cdef pair_t sum
    cdef few_t *entry = sums[0]
    if affinity == 0:  # no pixel passed is seen from here on
        while top[0][0] >= 0:
            top[0] -= 1
            sums[0] -= 2
        at[0] += 1
        acc[0] = values[i + 1]
        seen[i + 1] = sums[0][1]
        return
    memcpy(&bits, &affinity, sizeof(affinity))  # that are not negative are ordered as their bits are
    memcpy(&top_bits, top[0], sizeof(affinity))
    pop = -<int64_t> (top_bits >= bits)
    top[0][1] = affinity
    for c in range(<int> (sizeof(few_t) // sizeof(pair_t))):
        sum = add(entry[1].v[c], scale(acc.v[c], affinity))
        entry[2].v[c] = acc.v[c]
        entry[3].v[c] = sum
        seen[i + 1].v[c] = sum
        acc.v[c] = select(pop, add(acc.v[c], entry[0].v[c]), values[i + 1].v[c])
    sums[0] += 2 + 4 * pop
    top[0] += 1 + 2 * pop
    at[0] = i + 1 + pop


cdef struct Chunk:
    # Pixels of a sweep from `place` on, and the gaps between them and after the last one.
    Py_ssize_t place
    Py_ssize_t length
    Py_ssize_t n_gaps


cdef void read_chunk(
    const Block *block, const index_t *order, const double *kappa, Py_ssize_t n, const real *counts,
    const Side *side, Chunk *chunk, few_t *values, double *gap_kappa, mode_t *_mode,
) noexcept nogil:
    """Read the pixels of a chunk, and have the memory for their results ready."""
    cdef const char *source = block.source
    cdef char *target = block.target
    cdef Py_ssize_t stride = block.source_stride, target_stride = block.target_stride, step = side.step
    cdef Py_ssize_t i, p = chunk.place, last_ahead = n - 1 if step > 0 else 0
    cdef Py_ssize_t second = min(1, block.n_columns - 1) * block.source_column
    cdef Py_ssize_t third = min(2, block.n_columns - 1) * block.source_column
    cdef Py_ssize_t target_second = min(1, block.n_columns - 1) * block.target_column
    cdef Py_ssize_t target_third = min(2, block.n_columns - 1) * block.target_column
    cdef const char *at
    cdef double z = 1
    cdef Py_ssize_t pixel
    for i in range(chunk.length):
        pixel = order[p + AHEAD * step if (last_ahead - p) * step >= AHEAD else last_ahead]
        at = source + pixel * stride
        prefetch(at)
        if few_t is Pairs2:
            prefetch(at + second)
            prefetch(at + third)
        at = target + pixel * target_stride
        prefetch(at)
        if few_t is Pairs2:
            prefetch(at + target_second)
            prefetch(at + target_third)
        at = source + order[p] * stride
        if mode_t is Transposing:
            z = 1 / counts[p]
        if few_t is Pairs1:
            values[i].v[0] = pair_of((<const real *> at)[0] * z, 1)
        else:
            values[i].v[0] = pair_of((<const real *> at)[0] * z, (<const real *> (at + second))[0] * z)
            values[i].v[1] = pair_of((<const real *> (at + third))[0] * z, 1)
        p += step
    p = min(chunk.place, chunk.place + step)
    for i in range(chunk.n_gaps):
        gap_kappa[i] = kappa[p]
        p += step


cdef void write_chunk(
    const Block *block, const index_t *order, real *counts, const Side *side, const Chunk *chunk, bint later,
    const few_t *values, const few_t *seen, mode_t *_mode,
) noexcept nogil:
    """Write the results of a chunk, the pixels of which another sweep has come to before if `later`."""
    cdef char *target = block.target
    cdef Py_ssize_t stride = block.target_stride, step = side.step, i, p = chunk.place
    cdef Py_ssize_t second = min(1, block.n_columns - 1) * block.target_column
    cdef Py_ssize_t third = min(2, block.n_columns - 1) * block.target_column
    cdef double[CHUNK] n_behind
    cdef double[CHUNK] factor
    cdef double z
    cdef pair_t result, other, nothing = pair_of(0, 0)  # 0, or NaN from when a result is not finite
    cdef char *at
    for i in range(chunk.length):
        n_behind[i] = 1
        factor[i] = 1
        if mode_t is Averaging:
            if later:
                n_behind[i] = counts[p]
            z = n_behind[i] + second_of(seen[i].v[0] if few_t is Pairs1 else seen[i].v[1])
            counts[p] = <real> z
            factor[i] = 1 / (z if later else <double> counts[p])  # what is read later is undone exactly
        p += step
    p = chunk.place
    for i in range(chunk.length):
        at = target + order[p] * stride
        result = seen[i].v[0]
        if later:
            other = pair_of((<real *> at)[0], (<real *> (at + second))[0] if few_t is Pairs2 else 0)
            result = add(add(values[i].v[0], scale(other, n_behind[i])), result)
        result = scale(result, factor[i])
        nothing = add(nothing, scale(result, 0))
        if few_t is Pairs2:
            z = first_of(seen[i].v[1])
            if later:
                z = (first_of(values[i].v[1]) + (<real *> (at + third))[0] * n_behind[i]) + z
            z *= factor[i]
            nothing = add(nothing, scale(pair_of(z, 0), 0))
            (<real *> (at + third))[0] = <real> z
            (<real *> (at + second))[0] = <real> second_of(result)
        (<real *> at)[0] = <real> first_of(result)
        p += step
    if later:
        side.stack.finite = side.stack.finite and first_of(nothing) == 0 and second_of(nothing) == 0


cdef bint next_chunk(
    const Block *block, const index_t *order, const double *kappa, Py_ssize_t n, real *counts,
    const Side *side, Chunk *chunk, bint later, few_t *values, double *gap_kappa, few_t *seen, mode_t *mode,
) noexcept nogil:
    """Write a chunk and read the next one; its length is 0 if there is none. False: out of memory."""
    write_chunk(block, order, counts, side, chunk, later, values, seen, mode)
    chunk.place += chunk.length * side.step
    chunk.length = min(<Py_ssize_t> CHUNK, (side.end - chunk.place) * side.step)
    # The last pixel of the line has no gap after it.
    chunk.n_gaps = min(chunk.length, n - 1 - chunk.place if side.step > 0 else chunk.place)
    read_chunk(block, order, kappa, n, counts, side, chunk, values, gap_kappa, mode)
    return reserve(side.stack, CHUNK + 1)


cdef inline void enter_chunk(
    const Side *side, const few_t *values, few_t *seen, Py_ssize_t *at, few_t *acc, few_t **sums, double **top
) noexcept nogil:
    at[0] = 0
    acc[0] = values[0]
    top[0] = <double *> side.stack.entries + side.stack.top
    sums[0] = <few_t *> side.stack.sums + 2 * side.stack.top
    seen[0] = sums[0][1]


cdef bint sweep_few(
    const Block *block, const index_t *order, const double *kappa, Py_ssize_t n, real *counts,
    const Side *ahead, const Side *behind, bint later, few_t *_width, mode_t *mode,
) noexcept nogil:
    """Move a sweep forward and one backward, each over its range of the line, of which one may be empty.

    For what they do see `sweep_many`. False: out of memory.
    """
    cdef few_t[2][CHUNK + 1] values
    cdef few_t[2][CHUNK + 1] seen
    cdef double[2][CHUNK] gap_kappa
    cdef few_t ahead_acc, behind_acc
    cdef few_t *ahead_sums = NULL
    cdef few_t *behind_sums = NULL
    cdef double *ahead_top = NULL
    cdef double *behind_top = NULL
    cdef bint ahead_goes = ahead.place != ahead.end, behind_goes = behind.place != behind.end
    cdef Chunk ahead_chunk = Chunk(ahead.place, 0, 0)
    cdef Chunk behind_chunk = Chunk(behind.place, 0, 0)
    cdef Py_ssize_t ahead_at = 0, behind_at = 0
    if ahead_goes:  # else the stack may be another thread's
        ahead_top = <double *> ahead.stack.entries + ahead.stack.top
    if behind_goes:
        behind_top = <double *> behind.stack.entries + behind.stack.top
    while True:
        if ahead_goes and ahead_at == ahead_chunk.n_gaps:
            ahead.stack.top = ahead_top - <double *> ahead.stack.entries
            if not next_chunk(
                block, order, kappa, n, counts, ahead, &ahead_chunk, later,
                values[0], gap_kappa[0], seen[0], mode,
            ):
                return False
            ahead_goes = ahead_chunk.length > 0
            enter_chunk(ahead, values[0], seen[0], &ahead_at, &ahead_acc, &ahead_sums, &ahead_top)
        if behind_goes and behind_at == behind_chunk.n_gaps:
            behind.stack.top = behind_top - <double *> behind.stack.entries
            if not next_chunk(
                block, order, kappa, n, counts, behind, &behind_chunk, later,
                values[1], gap_kappa[1], seen[1], mode,
            ):
                return False
            behind_goes = behind_chunk.length > 0
            enter_chunk(behind, values[1], seen[1], &behind_at, &behind_acc, &behind_sums, &behind_top)
        if not ahead_goes and not behind_goes:
            return True
        while ahead_at < ahead_chunk.n_gaps and behind_at < behind_chunk.n_gaps:
            pop_or_push(gap_kappa[0], values[0], seen[0], &ahead_at, &ahead_acc, &ahead_sums, &ahead_top)
            pop_or_push(gap_kappa[1], values[1], seen[1], &behind_at, &behind_acc, &behind_sums, &behind_top)
        if not behind_goes:
            while ahead_at < ahead_chunk.n_gaps:
                pop_or_push(gap_kappa[0], values[0], seen[0], &ahead_at, &ahead_acc, &ahead_sums, &ahead_top)
        if not ahead_goes:
            while behind_at < behind_chunk.n_gaps:
                pop_or_push(
                    gap_kappa[1], values[1], seen[1], &behind_at, &behind_acc, &behind_sums, &behind_top
                )
