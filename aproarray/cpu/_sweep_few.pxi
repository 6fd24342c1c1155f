# Sweeps over one to three columns.
#
# Each step waits for the one before, through the top of the stack. So a sweep forward and one backward take
# turns: one is computed while the other waits. Pixels are read and written apart from that, a chunk at a time.

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


cdef inline few_t *move_over(
    double affinity, int move, const few_t *value, few_t *seen, few_t *top,
) noexcept nogil:
    """Move over a gap from a pixel of some value, and return the new top: `seen` becomes its T."""
    cdef int c
    cdef int64_t take = -<int64_t> (move & TAKE), join = -<int64_t> (move >> 1)
    cdef int64_t through = -<int64_t> (affinity != 0)  # else nothing passed is seen from ahead
    cdef few_t *below = top + 2 * take
    cdef few_t *slot = below + 2 + 2 * join
    cdef pair_t acc, sum, total, zero = pair_of(0, 0)
    for c in range(<int> (sizeof(few_t) // sizeof(pair_t))):
        acc = add(value.v[c], select(take, top.v[c], zero))
        sum = add(acc, select(join, below.v[c], zero))
        total = select(through, add(below[1].v[c], scale(acc, affinity)), zero)
        slot[0].v[c] = select(through, sum, zero)
        slot[1].v[c] = total
        seen.v[c] = total
    return slot


cdef struct Chunk:
    # Pixels of a sweep from `place` on, and the gaps between them and after the last one.
    Py_ssize_t place
    Py_ssize_t length
    Py_ssize_t n_gaps


cdef void read_chunk(
    const Block *block, const index_t *order, const double *kappa, const uint8_t *moves, Py_ssize_t n,
    const real *counts, const Side *side, Chunk *chunk, few_t *values, double *gap_kappa, uint8_t *gap_moves,
    mode_t *_mode,
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
        gap_moves[i] = move_of(moves[p], step)
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
    const Block *block, const index_t *order, const double *kappa, const uint8_t *moves, Py_ssize_t n,
    real *counts, const Side *side, Chunk *chunk, bint later, few_t *values, double *gap_kappa,
    uint8_t *gap_moves, few_t *seen, mode_t *mode,
) noexcept nogil:
    """Write a chunk and read the next one; its length is 0 if there is none. False: out of memory."""
    write_chunk(block, order, counts, side, chunk, later, values, seen, mode)
    chunk.place += chunk.length * side.step
    chunk.length = min(<Py_ssize_t> CHUNK, (side.end - chunk.place) * side.step)
    # The last pixel of the line has no gap after it.
    chunk.n_gaps = min(chunk.length, n - 1 - chunk.place if side.step > 0 else chunk.place)
    read_chunk(block, order, kappa, moves, n, counts, side, chunk, values, gap_kappa, gap_moves, mode)
    return reserve(side.stack, CHUNK + 1)


cdef bint sweep_few(
    const Block *block, const index_t *order, const double *kappa, const uint8_t *moves, Py_ssize_t n,
    real *counts, const Side *ahead, const Side *behind, bint later, few_t *_width, mode_t *mode,
) noexcept nogil:
    """Move a sweep forward and one backward, each over its range of the line, of which one may be empty.

    For what they do see `sweep_many`. False: out of memory.
    """
    cdef few_t[2][CHUNK + 1] values
    cdef few_t[2][CHUNK + 1] seen
    cdef double[2][CHUNK] gap_kappa
    cdef uint8_t[2][CHUNK] gap_moves
    cdef const Side *sides[2]
    cdef Chunk[2] chunks
    cdef Py_ssize_t[2] at
    cdef few_t *tops[2]
    cdef few_t *ahead_top
    cdef few_t *behind_top
    cdef bint[2] goes
    cdef Py_ssize_t i, j
    cdef int side
    sides[0], sides[1] = ahead, behind
    for side in range(2):
        goes[side] = sides[side].place != sides[side].end  # else the stack may be another thread's
        chunks[side] = Chunk(sides[side].place, 0, 0)
        at[side] = 0
        if goes[side]:
            tops[side] = <few_t *> sides[side].stack.slots + 2 * sides[side].stack.top
    while True:
        for side in range(2):
            if goes[side] and at[side] == chunks[side].n_gaps:
                sides[side].stack.top = (tops[side] - <few_t *> sides[side].stack.slots) // 2
                if not next_chunk(
                    block, order, kappa, moves, n, counts, sides[side], &chunks[side], later,
                    values[side], gap_kappa[side], gap_moves[side], seen[side], mode,
                ):
                    return False
                goes[side] = chunks[side].length > 0
                at[side] = 0
                tops[side] = <few_t *> sides[side].stack.slots + 2 * sides[side].stack.top
                seen[side][0] = tops[side][1]
        if not goes[0] and not goes[1]:
            return True
        i, j = at[0], at[1]
        ahead_top, behind_top = tops[0], tops[1]
        while i < chunks[0].n_gaps and j < chunks[1].n_gaps:
            ahead_top = move_over(gap_kappa[0][i], gap_moves[0][i], &values[0][i], &seen[0][i + 1], ahead_top)
            behind_top = move_over(gap_kappa[1][j], gap_moves[1][j], &values[1][j], &seen[1][j + 1], behind_top)
            i += 1
            j += 1
        if not goes[1]:
            while i < chunks[0].n_gaps:
                ahead_top = move_over(gap_kappa[0][i], gap_moves[0][i], &values[0][i], &seen[0][i + 1], ahead_top)
                i += 1
        if not goes[0]:
            while j < chunks[1].n_gaps:
                behind_top = move_over(
                    gap_kappa[1][j], gap_moves[1][j], &values[1][j], &seen[1][j + 1], behind_top
                )
                j += 1
        at[0], at[1] = i, j
        tops[0], tops[1] = ahead_top, behind_top
