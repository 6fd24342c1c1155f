# Sweeps over one to three columns.
#
# Each step waits for the one before, through the top of the stack. So a sweep forward and one backward take
# turns: one is computed while the other waits. Pixels are read and written apart from that, in chunks.

cdef extern from *:
    """
    /* Two doubles. Compilers do not make vector code of `apro_masked` by themselves. */
    #if defined(__GNUC__) || defined(__clang__)
    typedef double apro_pair __attribute__((vector_size(16)));
    typedef long long apro_pair_bits __attribute__((vector_size(16)));
    #define APRO_PAIR(first, second) ((apro_pair){first, second})
    #define APRO_FIRST(pair) ((pair)[0])
    #define APRO_SECOND(pair) ((pair)[1])
    #define APRO_ADD(a, b) ((a) + (b))
    #define APRO_SCALE(pair, factor) ((pair) * (apro_pair){factor, factor})
    static inline apro_pair apro_masked(long long mask, apro_pair pair) {
        apro_pair_bits both = {mask, mask};
        return (apro_pair)((apro_pair_bits)pair & both);
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
    static __inline apro_pair apro_masked(long long mask, apro_pair pair) {
        return mask ? pair : APRO_PAIR(0, 0);
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
    pair_t masked "apro_masked"(int64_t mask, pair_t pair) noexcept nogil  # the pair for -1, zeros for 0

# The columns, and last the number of pixels.
cdef struct Pairs1:
    pair_t v[1]

cdef struct Pairs2:
    pair_t v[2]

ctypedef fused few_t:
    Pairs1
    Pairs2


cdef inline few_t *move_over(
    double affinity, int move, const few_t *value, few_t *seen, few_t *top, const few_t *zeros, bint may_cut,
) noexcept nogil:
    """Move over a gap from a pixel of some value, and return the new top: `seen` becomes its T."""
    cdef int c
    cdef Py_ssize_t take = -<Py_ssize_t> (move & TAKE), join = -<Py_ssize_t> (move >> 1)  # all bits, or none
    cdef few_t *below = top + 2 * take
    cdef const char *base = <const char *> zeros
    cdef const few_t *taken = <const few_t *> (base + (take & (<const char *> top - base)))
    cdef const few_t *joined = <const few_t *> (base + (join & (<const char *> below - base)))
    cdef few_t *slot = below + 2 + 2 * join
    cdef int64_t through = -<int64_t> (affinity != 0)  # else nothing passed is seen from ahead
    cdef pair_t acc, sum, total
    for c in range(<int> (sizeof(few_t) // sizeof(pair_t))):
        acc = add(value.v[c], taken.v[c])
        sum = add(acc, joined.v[c])
        total = add(below[1].v[c], scale(acc, affinity))
        if may_cut:
            sum = masked(through, sum)
            total = masked(through, total)
        slot[0].v[c] = sum
        slot[1].v[c] = total
        seen.v[c] = total
    return slot


cdef struct Chunk:
    # Pixels of a sweep from `place` on, and the gaps between them and after the last one.
    Py_ssize_t place
    Py_ssize_t length
    Py_ssize_t n_gaps
    bint cut  # an affinity is 0


cdef void read_chunk(
    const Block *block, const index_t *order, const double *kappa, Py_ssize_t n, const real *counts,
    const Side *side, Chunk *chunk, few_t *values, mode_t *_mode,
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
        pixel = order[p + AHEAD_OF_FEW * step if (last_ahead - p) * step >= AHEAD_OF_FEW else last_ahead]
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
    p = chunk.place if step > 0 else chunk.place - chunk.n_gaps
    chunk.cut = False
    for i in range(p, p + chunk.n_gaps):
        chunk.cut |= kappa[i] == 0


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
    const Side *side, Chunk *chunk, bint later, few_t *values, few_t *seen, mode_t *mode,
) noexcept nogil:
    """Write a chunk and read the next one; its length is 0 if there is none. False: out of memory."""
    write_chunk(block, order, counts, side, chunk, later, values, seen, mode)
    chunk.place += chunk.length * side.step
    chunk.length = min(<Py_ssize_t> CHUNK, (side.end - chunk.place) * side.step)
    # The last pixel of the line has no gap after it.
    chunk.n_gaps = min(chunk.length, n - 1 - chunk.place if side.step > 0 else chunk.place)
    read_chunk(block, order, kappa, n, counts, side, chunk, values, mode)
    return reserve(side.stack, CHUNK + 1)


cdef inline void move_on(
    const double *kappa, const uint8_t *moves, const Chunk *chunks, few_t[2][CHUNK + 1] values,
    few_t[2][CHUNK + 1] seen, few_t **tops, const few_t **zeros, Py_ssize_t *at, const bint *goes,
    bint may_cut,
) noexcept nogil:
    """Move both sides on until one is through with its chunk; alone, if the other side has nowhere to go."""
    cdef Py_ssize_t i = at[0], j = at[1]
    cdef Py_ssize_t p = chunks[0].place + i, q = chunks[1].place - 1 - j
    cdef few_t *ahead = tops[0]
    cdef few_t *behind = tops[1]
    while i < chunks[0].n_gaps and j < chunks[1].n_gaps:
        ahead = move_over(
            kappa[p], move_of(moves[p], 1), &values[0][i], &seen[0][i + 1], ahead, zeros[0], may_cut
        )
        behind = move_over(
            kappa[q], move_of(moves[q], -1), &values[1][j], &seen[1][j + 1], behind, zeros[1], may_cut
        )
        i += 1
        j += 1
        p += 1
        q -= 1
    if not goes[1]:
        while i < chunks[0].n_gaps:
            ahead = move_over(
                kappa[p], move_of(moves[p], 1), &values[0][i], &seen[0][i + 1], ahead, zeros[0], may_cut
            )
            i += 1
            p += 1
    if not goes[0]:
        while j < chunks[1].n_gaps:
            behind = move_over(
                kappa[q], move_of(moves[q], -1), &values[1][j], &seen[1][j + 1], behind, zeros[1], may_cut
            )
            j += 1
            q -= 1
    at[0], at[1] = i, j
    tops[0], tops[1] = ahead, behind


cdef bint sweep_few(
    const Block *block, const index_t *order, const double *kappa, const uint8_t *moves, Py_ssize_t n,
    real *counts, const Side *ahead, const Side *behind, bint later, few_t *_width, mode_t *mode,
) noexcept nogil:
    """Move a sweep forward and one backward, each over its range of the line, of which one may be empty.

    For what they do see `sweep_many`. False: out of memory.
    """
    cdef few_t[2][CHUNK + 1] values
    cdef few_t[2][CHUNK + 1] seen
    cdef const Side *sides[2]
    cdef Chunk[2] chunks
    cdef Py_ssize_t[2] at
    cdef few_t *tops[2]
    cdef const few_t *zeros[2]
    cdef bint[2] goes
    cdef int side
    sides[0], sides[1] = ahead, behind
    for side in range(2):
        goes[side] = sides[side].place != sides[side].end  # else the stack may be another thread's
        chunks[side] = Chunk(sides[side].place, 0, 0, False)
        at[side] = 0
        if goes[side]:
            zeros[side] = <few_t *> sides[side].stack.slots
            tops[side] = <few_t *> sides[side].stack.slots + 2 * sides[side].stack.top
    while True:
        for side in range(2):
            if goes[side] and at[side] == chunks[side].n_gaps:
                sides[side].stack.top = (tops[side] - zeros[side]) // 2
                if not next_chunk(
                    block, order, kappa, n, counts, sides[side], &chunks[side], later, values[side],
                    seen[side], mode,
                ):
                    return False
                goes[side] = chunks[side].length > 0
                at[side] = 0
                zeros[side] = <few_t *> sides[side].stack.slots
                tops[side] = <few_t *> sides[side].stack.slots + 2 * sides[side].stack.top
                seen[side][0] = tops[side][1]
        if not goes[0] and not goes[1]:
            return True
        if (goes[0] and chunks[0].cut) or (goes[1] and chunks[1].cut):
            move_on(kappa, moves, chunks, values, seen, tops, zeros, at, goes, True)
        else:
            move_on(kappa, moves, chunks, values, seen, tops, zeros, at, goes, False)
