"""Global propagation over the linear order: two sweeps with a stack, up to 31 columns at a time.

A *column* is one channel of one item: what is propagated over a tree. Only affinities enter
here, kappa = exp(-gap / zeta^2): the affinity of two pixels is the smallest kappa between their positions.
"""

from libc.math cimport INFINITY, exp
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc, realloc

ctypedef fused real:
    float
    double

ctypedef fused index_t:
    int32_t
    int64_t

# The sums of a stack entry, in double: a sum over millions of float32 pixels keeps its digits. One
# struct per vector width makes the width a constant of the compiled loops. One lane counts pixels.
cdef struct Lanes2:
    double v[2]

cdef struct Lanes4:
    double v[4]

cdef struct Lanes8:
    double v[8]

cdef struct Lanes16:
    double v[16]

cdef struct Lanes24:
    double v[24]

cdef struct Lanes32:
    double v[32]

ctypedef fused lanes_t:
    Lanes2
    Lanes4
    Lanes8
    Lanes16
    Lanes24
    Lanes32

MAX_COLUMNS = 31

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define APRO_PREFETCH(address) __builtin_prefetch(address)
    #else
    #define APRO_PREFETCH(address) ((void)0)
    #endif
    """
    void APRO_PREFETCH(const void *address) noexcept nogil

cdef enum:
    AHEAD = 12  # pixels that a gather is prefetched before its turn
    CACHE_LINE = 64


cdef struct Block:
    # Where the columns of a block lie: addresses at pixel 0, and bytes from one pixel to the next.
    int n_columns
    bint contiguous
    Py_ssize_t n_whole  # pixels before this one may be read as many values as there are lanes
    const char *source[32]
    char *target[32]
    Py_ssize_t source_stride
    Py_ssize_t target_stride


cdef struct Stack:
    # Entries from the heaviest gap (the affinity rises upwards); entry 0 is a sentinel that stays.
    Py_ssize_t top
    Py_ssize_t capacity
    double *kappa
    void *sums  # lanes_t[2 * capacity]: S, then T, of every entry


cdef bint grow(Stack *stack, size_t entry_bytes) noexcept nogil:
    cdef Py_ssize_t capacity = 2 * stack.capacity
    cdef void *moved = realloc(stack.sums, capacity * entry_bytes)
    if moved == NULL:
        return False
    stack.sums = moved
    moved = realloc(stack.kappa, capacity * sizeof(double))
    if moved == NULL:
        return False
    stack.kappa = <double *> moved
    stack.capacity = capacity
    return True


cdef inline void prefetch(const Block *block, Py_ssize_t pixel, const real *_kind) noexcept nogil:
    """Ask for the values of a pixel and for the place of its result."""
    cdef int c
    cdef Py_ssize_t byte
    if block.contiguous:
        byte = 0
        while byte < <Py_ssize_t> (block.n_columns * sizeof(real)):
            APRO_PREFETCH(block.source[0] + pixel * block.source_stride + byte)
            APRO_PREFETCH(block.target[0] + pixel * block.target_stride + byte)
            byte += CACHE_LINE
        byte = <Py_ssize_t> (block.n_columns * sizeof(real)) - 1
        APRO_PREFETCH(block.source[0] + pixel * block.source_stride + byte)
        APRO_PREFETCH(block.target[0] + pixel * block.target_stride + byte)
    else:
        for c in range(block.n_columns):
            APRO_PREFETCH(block.source[c] + pixel * block.source_stride)
            APRO_PREFETCH(block.target[c] + pixel * block.target_stride)


cdef inline void load(
    const Block *block, Py_ssize_t pixel, lanes_t *phi, const real *_kind
) noexcept nogil:
    """phi <- the columns' values at a pixel, then the pixel's count 1."""
    cdef int c
    cdef const real *row
    if block.contiguous:
        row = <const real *> (block.source[0] + pixel * block.source_stride)
        if pixel < block.n_whole:
            # Lanes beyond the columns take what follows in memory: nobody looks at them.
            for c in range(<int> (sizeof(lanes_t) // sizeof(double))):
                phi.v[c] = row[c]
        else:
            for c in range(block.n_columns):
                phi.v[c] = row[c]
    else:
        for c in range(block.n_columns):
            phi.v[c] = (<const real *> (block.source[c] + pixel * block.source_stride))[0]
    phi.v[block.n_columns] = 1


cdef inline bint step_over(Stack *stack, double kappa, lanes_t *acc) noexcept nogil:
    """Move over a gap, leaving a pixel whose values are in acc behind (False: out of memory).

    Entries that the gap outweighs are one with it from now on. T, on top, is the sum over everything
    behind, each pixel weighted by its affinity to what lies ahead. Only terms of one kind are added,
    nothing is ever subtracted.
    """
    cdef int c, width = <int> (sizeof(lanes_t) // sizeof(double))
    cdef lanes_t *sums = <lanes_t *> stack.sums
    cdef Py_ssize_t top = stack.top
    if kappa == 0:  # nothing behind is seen from ahead
        stack.top = 0
        return True
    while stack.kappa[top] >= kappa:
        for c in range(width):
            acc.v[c] += sums[2 * top].v[c]
        top -= 1
    top += 1
    if top == stack.capacity:
        if not grow(stack, 2 * sizeof(lanes_t)):
            return False
        sums = <lanes_t *> stack.sums
    stack.kappa[top] = kappa
    for c in range(width):
        sums[2 * top].v[c] = acc.v[c]
        sums[2 * top + 1].v[c] = sums[2 * top - 1].v[c] + kappa * acc.v[c]
    stack.top = top
    return True


cdef bint sweep(
    Block *block, const index_t *order, const double *kappa, Py_ssize_t n, real *ones, Stack *stack,
    lanes_t *_width, const real *_kind,
) noexcept nogil:
    """Both sweeps over one block of columns; `ones` (N) is scratch. False: out of memory."""
    cdef Py_ssize_t p, pixel
    cdef int c, columns = block.n_columns
    cdef lanes_t acc
    cdef lanes_t *sums
    cdef real *row
    cdef double z, n_behind
    for c in range(<int> (sizeof(lanes_t) // sizeof(double))):
        acc.v[c] = 0
        (<lanes_t *> stack.sums)[0].v[c] = 0
        (<lanes_t *> stack.sums)[1].v[c] = 0
    stack.kappa[0] = -1

    stack.top = 0
    for p in range(n):
        if p + AHEAD < n:
            prefetch(block, order[p + AHEAD], _kind)
        pixel = order[p]
        sums = &(<lanes_t *> stack.sums)[2 * stack.top + 1]
        # What is left in the target is at most as large as the largest value: a sum might overflow float32.
        ones[p] = <real> (1 + sums.v[columns])
        z = 1 / ones[p]
        if block.contiguous:
            row = <real *> (block.target[0] + pixel * block.target_stride)
            for c in range(columns):
                row[c] = <real> (sums.v[c] * z)
        else:
            for c in range(columns):
                (<real *> (block.target[c] + pixel * block.target_stride))[0] = <real> (sums.v[c] * z)
        if p + 1 < n:
            load(block, pixel, &acc, _kind)
            if not step_over(stack, kappa[p], &acc):
                return False

    stack.top = 0
    for p in range(n - 1, -1, -1):
        if p >= AHEAD:
            prefetch(block, order[p - AHEAD], _kind)
        pixel = order[p]
        sums = &(<lanes_t *> stack.sums)[2 * stack.top + 1]
        load(block, pixel, &acc, _kind)
        n_behind = ones[p]
        z = 1 / (n_behind + sums.v[columns])
        if block.contiguous:
            row = <real *> (block.target[0] + pixel * block.target_stride)
            for c in range(columns):
                row[c] = <real> ((acc.v[c] + row[c] * n_behind + sums.v[c]) * z)
        else:
            for c in range(columns):
                row = <real *> (block.target[c] + pixel * block.target_stride)
                row[0] = <real> ((acc.v[c] + row[0] * n_behind + sums.v[c]) * z)
        if p > 0 and not step_over(stack, kappa[p - 1], &acc):
            return False
    return True


def affinities(const real[::1] distances, double zeta, double[::1] result):
    """Fill result with exp(-d / zeta^2), for any zeta > 0: never 0 * inf, and 0 where d is inf."""
    cdef Py_ssize_t i
    cdef double inverse = 1 / zeta
    if inverse > 1.7976931348623157e308:  # 1 / subnormal
        inverse = 1.7976931348623157e308
    with nogil:
        for i in range(distances.shape[0]):
            if distances[i] == INFINITY:
                result[i] = 0
            else:
                result[i] = exp(-(distances[i] * inverse) * inverse)


def global_propagate(
    const real[:, :, :] values, real[:, :, :] out, const Py_ssize_t[:, ::1] columns,
    const index_t[::1] order, const double[::1] kappa, real[::1] ones,
):
    """Propagate some columns of values (I, N, C) over one tree into out (I, N, C).

    `columns` (at most 31, 2) holds the item and the channel of each, `ones` (N) is scratch.
    """
    cdef Py_ssize_t n = order.shape[0], c
    cdef int count = <int> columns.shape[0]
    cdef Block block
    cdef Stack stack
    cdef bint done = False
    cdef size_t lane_bytes
    cdef const real *no_real = NULL
    if n == 0 or count == 0:
        return
    block.n_columns = count
    block.source_stride = values.strides[1]
    block.target_stride = out.strides[1]
    block.contiguous = True
    for c in range(count):
        block.source[c] = <const char *> &values[columns[c, 0], 0, columns[c, 1]]
        block.target[c] = <char *> &out[columns[c, 0], 0, columns[c, 1]]
        block.contiguous = (
            block.contiguous
            and block.source[c] == block.source[0] + c * sizeof(real)
            and block.target[c] == block.target[0] + c * sizeof(real)
        )
    # The last pixels of the array may lack values behind them; so may all where the strides run backwards.
    block.n_whole = n - (32 * sizeof(real) // block.source_stride + 1) if block.source_stride > 0 else 0
    lane_bytes = sizeof(double) * (
        2 if count < 2 else 4 if count < 4 else 8 if count < 8
        else 16 if count < 16 else 24 if count < 24 else 32
    )
    stack.capacity = 64
    stack.sums = malloc(stack.capacity * 2 * lane_bytes)
    stack.kappa = <double *> malloc(stack.capacity * sizeof(double))
    if stack.sums != NULL and stack.kappa != NULL:
        with nogil:
            if count < 2:
                done = sweep(&block, &order[0], &kappa[0], n, &ones[0], &stack, <Lanes2 *> NULL, no_real)
            elif count < 4:
                done = sweep(&block, &order[0], &kappa[0], n, &ones[0], &stack, <Lanes4 *> NULL, no_real)
            elif count < 8:
                done = sweep(&block, &order[0], &kappa[0], n, &ones[0], &stack, <Lanes8 *> NULL, no_real)
            elif count < 16:
                done = sweep(&block, &order[0], &kappa[0], n, &ones[0], &stack, <Lanes16 *> NULL, no_real)
            elif count < 24:
                done = sweep(&block, &order[0], &kappa[0], n, &ones[0], &stack, <Lanes24 *> NULL, no_real)
            else:
                done = sweep(&block, &order[0], &kappa[0], n, &ones[0], &stack, <Lanes32 *> NULL, no_real)
    free(stack.sums)
    free(stack.kappa)
    if not done:
        raise MemoryError(f"no memory for the stack of a sweep over {n} pixels and {count} channels")
