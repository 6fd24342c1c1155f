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
    int64_t LARGEST32 "INT32_MAX"
    int64_t LARGEST64 "INT64_MAX"

ctypedef fused real:
    float
    double

ctypedef fused index_t:
    int32_t
    int64_t

# The sums of a stack entry, in double: a sum over millions of float32 pixels keeps its digits. One
# struct per vector width makes the width a constant of the compiled loops.
cdef struct Lanes4:
    double v[4]

cdef struct Lanes8:
    double v[8]

cdef struct Lanes12:
    double v[12]

cdef struct Lanes16:
    double v[16]

cdef struct Lanes24:
    double v[24]

cdef struct Lanes32:
    double v[32]

ctypedef fused lanes_t:
    Lanes4
    Lanes8
    Lanes12
    Lanes16
    Lanes24
    Lanes32

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
    AHEAD = 12  # pixels that a gather is prefetched before its turn
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


cdef struct Count:
    # The number of pixels as S and T of a slot.
    double n
    double n_seen


cdef struct Slots:
    # The stack of a sweep. Gaps that the same later gap outweighs share a slot. Slot 0 holds zeros and is only
    # read, slot 1 is there from the start.
    Py_ssize_t capacity
    Py_ssize_t top
    size_t sum_bytes
    bint finite  # all means that the sweep has completed
    Count *counts  # of many columns; of few, the number of pixels is a lane
    void *sums  # lanes_t[2 * capacity] or few_t[2 * capacity]: S, then T, of every slot


cdef bint reserve(Slots *stack, Py_ssize_t more) noexcept nogil:
    """Make room for so many slots more."""
    cdef Py_ssize_t capacity = stack.capacity
    cdef void *moved
    if stack.top + more < capacity:
        return True
    while stack.top + more >= capacity:
        capacity *= 2
    moved = realloc(stack.sums, 2 * capacity * stack.sum_bytes)
    if moved == NULL:
        return False
    stack.sums = moved
    moved = realloc(stack.counts, capacity * sizeof(Count))
    if moved == NULL:
        return False
    stack.counts = <Count *> moved
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
        self.data.capacity = 64
        self.data.top = 1
        self.data.finite = True
        self.data.sum_bytes = lanes_for(columns) * sizeof(double)
        self.data.sums = calloc(2 * self.data.capacity, self.data.sum_bytes)
        self.data.counts = <Count *> calloc(self.data.capacity, sizeof(Count))
        if self.data.sums == NULL or self.data.counts == NULL:
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
        free(self.data.sums)
        free(self.data.counts)


cdef enum:  # what a sweep does at a gap
    TAKE = 1  # the sum of the top slot comes along: the gap outweighs its gaps
    JOIN = 2  # the sum is added to the slot that is then on top: one later gap outweighs both


cdef inline int move_of(int moves, Py_ssize_t step) noexcept nogil:
    """Return what a sweep forward (step 1) or backward (-1) does at a gap of `line_moves`."""
    return moves & 3 if step > 0 else moves >> 2


cdef struct Opened:
    int64_t key
    Py_ssize_t place


cdef inline int64_t key_of(real gap) noexcept nogil:
    """Return a number that orders gaps as their weights do; NaN counts as inf."""
    cdef int32_t single
    cdef int64_t both
    if gap != gap:
        gap = <real> INFINITY
    gap += 0  # -0 becomes 0
    if real is float:
        memcpy(&single, &gap, sizeof(single))
        return single ^ (single >> 31 & LARGEST32)
    else:
        memcpy(&both, &gap, sizeof(both))
        return both ^ (both >> 63 & LARGEST64)


cdef Py_ssize_t drop_minima(int64_t *keys, int32_t *places, uint8_t *on_left, Py_ssize_t n) noexcept nogil:
    """Drop the gaps that are lighter than both neighbours, never the first and the last; return how many are left.

    The parent of such a gap is the lighter one of the two. `on_left` says whether it is the left one, and is of no
    meaning for gaps that stay.
    """
    cdef Py_ssize_t i, kept = 1
    cdef int64_t left = keys[0], key = keys[1], right
    cdef int32_t place
    for i in range(1, n - 1):
        right = keys[i + 1]
        place = places[i]
        on_left[place] = left <= right
        keys[kept] = key  # written in any case, kept unless it is dropped: no branch
        places[kept] = place
        kept += (left <= key) | (right < key)
        left = key
        key = right
    keys[kept] = key
    places[kept] = places[n - 1]
    return kept + 1


def line_moves(const real[::1] gaps, uint8_t[::1] moves):
    """moves (N-1) <- what sweeps over a line do at its gaps: forward in the lower two bits, backward above.

    In the Cartesian tree of the gaps (ties: the later one is heavier), a sweep forward takes along what lies
    between a gap and its left child, and joins the slot of its parent where that is on the left. O(N).

    A stack finds parents, but nobody can predict how many gaps the next one closes. Of a block of gaps, most are
    therefore dropped before, in rounds without such a branch.
    """
    cdef Py_ssize_t n = gaps.shape[0], start, count, left, last, i, top = 0, first
    cdef Opened *opened  # the gaps whose parents may still come, weights falling
    cdef int64_t[BLOCK + 2] keys  # those of a block, and one on either side
    cdef int32_t[BLOCK] places
    cdef uint8_t[BLOCK] on_left
    cdef uint8_t *at
    cdef int64_t key
    if n == 0:
        return
    opened = <Opened *> malloc(n * sizeof(Opened))
    if opened == NULL:
        raise MemoryError(f"no memory for the moves of sweeps over {n + 1} pixels")
    with nogil:
        keys[0] = LARGEST64
        start = 0
        while start < n:
            count = min(<Py_ssize_t> BLOCK, n - start)
            at = &moves[start]
            for i in range(count):
                keys[i + 1] = key_of(gaps[start + i])
            keys[count + 1] = key_of(gaps[start + count]) if start + count < n else <int64_t> LARGEST64
            last = keys[count]
            for i in range(count):
                at[i] = (keys[i] <= keys[i + 1]) * TAKE | (keys[i + 2] < keys[i + 1]) * (TAKE << 2)
                places[i] = <int32_t> i
            left = count
            i = 2 * count
            while left > 2 and 8 * left < 7 * i:  # rounds that drop little are left to the stack
                i = left
                left = drop_minima(keys + 1, places, on_left, left)
            for i in range(left):
                on_left[places[i]] = False
            for i in range(count):
                at[i] |= JOIN << 2 * (1 - on_left[i])
            for i in range(left):
                key = keys[i + 1]
                first = top
                while top > 0 and opened[top - 1].key <= key:
                    top -= 1
                    moves[opened[top].place] ^= JOIN | JOIN << 2  # the parent is on the left ...
                if top < first:  # ... but for the heaviest of them, whose parent is this gap
                    moves[opened[top].place] ^= JOIN | JOIN << 2
                opened[top].key = key
                opened[top].place = start + places[i]
                top += 1
            keys[0] = last
            start += BLOCK
        for i in range(1, top):
            moves[opened[i].place] ^= JOIN | JOIN << 2
        free(opened)


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


cdef inline void load(const Block *block, const char *at, lanes_t *lanes, const real *_kind) noexcept nogil:
    """lanes <- the columns that begin at an address."""
    cdef int group, c
    cdef const real *row
    for group in range(<int> (sizeof(lanes_t) // sizeof(double) // GROUP)):
        row = <const real *> at + block.columns[group]
        for c in range(GROUP):
            lanes.v[GROUP * group + c] = row[c]


cdef inline void store(const Block *block, char *at, const lanes_t *lanes, const real *_kind) noexcept nogil:
    """The columns that begin at an address <- lanes."""
    cdef int group, c
    cdef real *row
    for group in range(<int> (sizeof(lanes_t) // sizeof(double) // GROUP)):
        row = <real *> at + block.columns[group]
        for c in range(GROUP):
            row[c] = <real> lanes.v[GROUP * group + c]


cdef extern from *:
    """
    /* Four lanes of a move over a gap: sum = value + taken + joined, total = below + affinity (value + taken).
       Pointers may be the same. Compilers do not make vector code of it for that reason. */
    #if defined(__GNUC__) || defined(__clang__)
    typedef double apro_quad __attribute__((vector_size(32), aligned(8), may_alias));
    static inline __attribute__((always_inline)) void apro_move_four(
        const double *value, const double *taken, const double *joined, const double *below, double affinity,
        double *sum, double *total
    ) {
        const apro_quad acc = *(const apro_quad *)value + *(const apro_quad *)taken;
        const apro_quad joint = acc + *(const apro_quad *)joined;
        const apro_quad all = *(const apro_quad *)below + acc * affinity;
        *(apro_quad *)sum = joint;
        *(apro_quad *)total = all;
    }
    #else
    static __inline void apro_move_four(
        const double *value, const double *taken, const double *joined, const double *below, double affinity,
        double *sum, double *total
    ) {
        for (int c = 0; c < 4; c++) {
            const double acc = value[c] + taken[c], joint = acc + joined[c], all = below[c] + acc * affinity;
            sum[c] = joint;
            total[c] = all;
        }
    }
    #endif
    """
    void move_four "apro_move_four"(
        const double *value, const double *taken, const double *joined, const double *below, double affinity,
        double *sum, double *total,
    ) noexcept nogil


cdef bint sweep_many(
    const Block *given, const index_t *order, const double *kappa, const uint8_t *moves, Py_ssize_t n,
    real *counts, const Side *side, bint second, lanes_t *_width, const real *_kind, mode_t *_mode,
) noexcept nogil:
    """Move a sweep over its range of the line. False: out of memory.

    T, on top of the stack, is the sum over all pixels passed, each weighted by its affinity to the next
    pixel. S is the unweighted sum of a slot. At a gap, `moves` says whether the top slot's S comes along, and
    whether what comes along joins the slot below or begins a new one (see `line_moves`). Neither is a branch.
    Only terms of one sign are added; nothing is ever subtracted. The first sweep to reach a pixel leaves the
    mean so far in the result (a sum might overflow float32), and its weight in `counts`. The second sweep
    completes both. Transposed, `counts` holds the final z from the start: values are divided by it, and sums
    stay sums.
    """
    cdef Block own = given[0]  # which no store can change
    cdef const Block *block = &own
    cdef Slots *stack = side.stack
    cdef Py_ssize_t p = side.place, step = side.step, pixel, top = stack.top, gap, taken, below, joined
    cdef Py_ssize_t last = 0 if step < 0 else n - 1
    cdef int c, group, width = <int> (sizeof(lanes_t) // sizeof(double)), move
    cdef lanes_t acc, result
    cdef lanes_t *sums = <lanes_t *> stack.sums
    cdef Count *passed = stack.counts
    cdef const char *source
    cdef const char *target
    cdef Py_ssize_t at
    cdef double z, n_behind, n_acc, affinity, together
    cdef double[GROUP] nothing  # 0, or NaN from when a result is not finite
    if p == side.end:  # the stack may be another thread's
        return True
    for c in range(GROUP):
        nothing[c] = 0
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
        load(block, block.source + pixel * block.source_stride, &acc, _kind)
        if mode_t is Transposing:
            z = 1 / counts[p]
            for c in range(width):
                acc.v[c] *= z
            if second:
                load(block, block.target + pixel * block.target_stride, &result, _kind)
                for c in range(width):
                    result.v[c] = acc.v[c] + result.v[c] + sums[2 * top + 1].v[c]
            else:
                result = sums[2 * top + 1]
        elif second:
            n_behind = counts[p]
            z = n_behind + passed[top].n_seen
            counts[p] = <real> z
            z = 1 / z
            load(block, block.target + pixel * block.target_stride, &result, _kind)
            for c in range(width):
                result.v[c] = (acc.v[c] + result.v[c] * n_behind + sums[2 * top + 1].v[c]) * z
            for c in range(GROUP):
                together = result.v[c]
                for group in range(1, width // GROUP):
                    together += result.v[GROUP * group + c]
                nothing[c] += together * 0
        else:
            counts[p] = <real> (1 + passed[top].n_seen)
            z = 1 / counts[p]
            for c in range(width):
                result.v[c] = sums[2 * top + 1].v[c] * z
        store(block, block.target + pixel * block.target_stride, &result, _kind)

        if p == last:
            break
        gap = min(p, p + step)
        affinity = kappa[gap]
        move = move_of(moves[gap], step)
        p += step
        if top + 1 == stack.capacity:
            stack.top = top
            if not reserve(stack, 1):
                return False
            sums = <lanes_t *> stack.sums
            passed = stack.counts
        below = top - (move & TAKE)
        taken = top * (move & TAKE)  # slot 0, of zeros, where nothing is
        joined = below * (move >> 1)
        top = below + 1 - (move >> 1)
        if affinity == 0:  # nothing passed is seen from ahead, and heavier gaps let through no more
            passed[top].n = 0
            passed[top].n_seen = 0
            memset(&sums[2 * top], 0, 2 * sizeof(lanes_t))
            continue
        n_acc = 1 + passed[taken].n
        passed[top].n_seen = passed[below].n_seen + affinity * n_acc
        passed[top].n = n_acc + passed[joined].n
        for group in range(width // GROUP):
            c = GROUP * group
            move_four(
                &acc.v[c], &sums[2 * taken].v[c], &sums[2 * joined].v[c], &sums[2 * below + 1].v[c], affinity,
                &sums[2 * top].v[c], &sums[2 * top + 1].v[c],
            )
    stack.top = top
    for c in range(GROUP):
        stack.finite = stack.finite and nothing[c] == 0
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
    real *counts, const Side *ahead, const Side *behind, bint second, bint transposed, lanes_t *width,
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
    const uint8_t[::1] moves, real[::1] counts, Stack ahead_stack, Stack behind_stack, bint second, bint transposed,
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
                <Lanes4 *> NULL,
            )
        elif width == 8:
            done = move_many(
                &block, &order[0], gaps, moves_at, n, &counts[0], &ahead, &behind, second, transposed,
                <Lanes8 *> NULL,
            )
        elif width == 12:
            done = move_many(
                &block, &order[0], gaps, moves_at, n, &counts[0], &ahead, &behind, second, transposed,
                <Lanes12 *> NULL,
            )
        elif width == 16:
            done = move_many(
                &block, &order[0], gaps, moves_at, n, &counts[0], &ahead, &behind, second, transposed,
                <Lanes16 *> NULL,
            )
        elif width == 24:
            done = move_many(
                &block, &order[0], gaps, moves_at, n, &counts[0], &ahead, &behind, second, transposed,
                <Lanes24 *> NULL,
            )
        else:
            done = move_many(
                &block, &order[0], gaps, moves_at, n, &counts[0], &ahead, &behind, second, transposed,
                <Lanes32 *> NULL,
            )
    if not done:
        raise MemoryError(f"no memory for the stack of a sweep over {n} pixels and {count} channels")
