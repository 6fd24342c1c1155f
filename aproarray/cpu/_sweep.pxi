"""Global propagation over the linear order: two sweeps with a stack, up to 32 columns at a time.

A *column* is one channel of one item: what is propagated over a tree. The columns of a block lie side
by side; where they do not, they are gathered into rows in the order of the line, and scattered back.
Only affinities enter here, kappa = exp(-gap / zeta^2): the affinity of two pixels is the smallest kappa
between their positions.
"""

from libc.math cimport INFINITY, exp
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc, realloc

from aproarray.cpu._prefetch cimport prefetch

ctypedef fused real:
    float
    double

ctypedef fused index_t:
    int32_t
    int64_t

# The sums of a stack entry, in double: a sum over millions of float32 pixels keeps its digits. One
# struct per vector width makes the width a constant of the compiled loops.
cdef struct Lanes1:
    double v[1]

cdef struct Lanes2:
    double v[2]

cdef struct Lanes3:
    double v[3]

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
    Lanes1
    Lanes2
    Lanes3
    Lanes4
    Lanes8
    Lanes12
    Lanes16
    Lanes24
    Lanes32

MAX_COLUMNS = 32

cdef enum:
    AHEAD = 12  # pixels that a gather is prefetched before its turn
    GROUP = 4  # lanes that are loaded and stored together
    STRETCH = 1024  # pixels that are gathered or scattered together


cdef struct Block:
    # Where the columns of a block lie: the addresses of the first one at pixel 0, and bytes from one pixel
    # to the next; a pixel's columns are consecutive. Lanes beyond the last column repeat columns, so
    # that a group of lanes always is a full one: `columns` is the first column of each group.
    const char *source
    char *target
    Py_ssize_t source_stride
    Py_ssize_t target_stride
    Py_ssize_t last_byte
    int columns[8]


cdef struct Entry:
    # What a stack entry is but for its sums: an affinity, and the number of pixels as S and T.
    double kappa
    double n
    double n_seen


cdef struct Stack:
    # Entries from the heaviest gap (the affinity rises upwards); entry 0 is a sentinel that stays.
    Py_ssize_t capacity
    Entry *entries
    void *sums  # lanes_t[2 * capacity]: S, then T, of every entry


cdef bint grow(Stack *stack, size_t sum_bytes) noexcept nogil:
    cdef Py_ssize_t capacity = 2 * stack.capacity
    cdef void *moved = realloc(stack.sums, 2 * capacity * sum_bytes)
    if moved == NULL:
        return False
    stack.sums = moved
    moved = realloc(stack.entries, capacity * sizeof(Entry))
    if moved == NULL:
        return False
    stack.entries = <Entry *> moved
    stack.capacity = capacity
    return True


cdef inline void load(const Block *block, const char *at, lanes_t *lanes, const real *_kind) noexcept nogil:
    """lanes <- the columns that begin at an address."""
    cdef int width = <int> (sizeof(lanes_t) // sizeof(double)), group, c
    cdef const real *row = <const real *> at
    if width < GROUP:
        for c in range(width):
            lanes.v[c] = row[c]
    else:
        for group in range(width // GROUP):
            row = <const real *> at + block.columns[group]
            for c in range(GROUP):
                lanes.v[GROUP * group + c] = row[c]


cdef inline void store(const Block *block, char *at, const lanes_t *lanes, const real *_kind) noexcept nogil:
    """The columns that begin at an address <- lanes."""
    cdef int width = <int> (sizeof(lanes_t) // sizeof(double)), group, c
    cdef real *row = <real *> at
    if width < GROUP:
        for c in range(width):
            row[c] = <real> lanes.v[c]
    else:
        for group in range(width // GROUP):
            row = <real *> at + block.columns[group]
            for c in range(GROUP):
                row[c] = <real> lanes.v[GROUP * group + c]


cdef bint sweep(
    const Block *block, const index_t *order, const double *kappa, Py_ssize_t n, real *counts,
    bint transposed, bint backward, Stack *stack, lanes_t *_width, const real *_kind,
) noexcept nogil:
    """One sweep over one block of columns, forward and then backward. False: out of memory.

    On the way, T, on top of the stack, is the sum over all pixels behind, each weighted by its affinity
    to the pixel ahead. Moving over a gap, entries that it outweighs are one with it from then on. Only
    terms of one kind are added, nothing is ever subtracted. Forward leaves the mean over what lies
    behind in the result (a sum might overflow float32) and its weight in `counts`; backward adds the rest,
    to both. Transposed, `counts` holds these z from the start: values are divided by them and sums stay sums.
    """
    cdef Py_ssize_t i, p, pixel, top = 0, at, popped
    cdef int c, width = <int> (sizeof(lanes_t) // sizeof(double))
    cdef lanes_t acc, result
    cdef lanes_t *sums = <lanes_t *> stack.sums
    cdef Entry *entries = stack.entries
    cdef double z, n_behind, n_acc, affinity
    for c in range(width):
        sums[0].v[c] = 0
        sums[1].v[c] = 0
    entries[0].kappa = -1
    entries[0].n = 0
    entries[0].n_seen = 0
    for i in range(n):
        p = n - 1 - i if backward else i
        if order != NULL and i + AHEAD < n:
            pixel = order[p - AHEAD if backward else p + AHEAD]
            prefetch(block.source + pixel * block.source_stride)
            prefetch(block.source + pixel * block.source_stride + block.last_byte)
            prefetch(block.target + pixel * block.target_stride)
            prefetch(block.target + pixel * block.target_stride + block.last_byte)
        pixel = p if order == NULL else order[p]
        load(block, block.source + pixel * block.source_stride, &acc, _kind)
        n_behind = z = 1
        if transposed:
            affinity = 1 / <double> counts[p]
            for c in range(width):
                acc.v[c] *= affinity
        elif backward:
            n_behind = counts[p]
            counts[p] = <real> (n_behind + entries[top].n_seen)
            z = 1 / (n_behind + entries[top].n_seen)
        else:
            counts[p] = <real> (1 + entries[top].n_seen)
            z = 1 / counts[p]
        if backward:
            load(block, block.target + pixel * block.target_stride, &result, _kind)
            for c in range(width):
                result.v[c] = (acc.v[c] + result.v[c] * n_behind + sums[2 * top + 1].v[c]) * z
        else:
            for c in range(width):
                result.v[c] = sums[2 * top + 1].v[c] * z
        store(block, block.target + pixel * block.target_stride, &result, _kind)

        if i + 1 == n:
            break
        affinity = kappa[p - 1 if backward else p]
        if affinity == 0:  # nothing behind is seen from ahead
            top = 0
            continue
        # Whether there is anything to pop cannot be predicted: pop the sentinel's zeros if not.
        popped = entries[top].kappa >= affinity
        at = top * popped
        for c in range(width):
            acc.v[c] += sums[2 * at].v[c]
        n_acc = 1 + entries[at].n
        top -= popped
        while entries[top].kappa >= affinity:
            for c in range(width):
                acc.v[c] += sums[2 * top].v[c]
            n_acc += entries[top].n
            top -= 1
        top += 1
        if top == stack.capacity:
            if not grow(stack, sizeof(lanes_t)):
                return False
            sums = <lanes_t *> stack.sums
            entries = stack.entries
        entries[top].kappa = affinity
        entries[top].n = n_acc
        entries[top].n_seen = entries[top - 1].n_seen + affinity * n_acc
        for c in range(width):
            sums[2 * top].v[c] = acc.v[c]
            sums[2 * top + 1].v[c] = sums[2 * top - 1].v[c] + affinity * acc.v[c]
    return True


cdef bint both_sweeps(
    const Block *block, const index_t *order, const double *kappa, Py_ssize_t n, real *counts,
    bint transposed, lanes_t *width,
) noexcept nogil:
    cdef Stack stack
    cdef bint done = False
    stack.capacity = 64
    stack.sums = malloc(2 * stack.capacity * sizeof(lanes_t))
    stack.entries = <Entry *> malloc(stack.capacity * sizeof(Entry))
    if stack.sums != NULL and stack.entries != NULL:
        done = (
            sweep(block, order, kappa, n, counts, transposed, False, &stack, width, counts)
            and sweep(block, order, kappa, n, counts, transposed, True, &stack, width, counts)
        )
    free(stack.sums)
    free(stack.entries)
    return done


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


def gather(
    const real[:, :, :] values, const Py_ssize_t[:, ::1] columns, const index_t[::1] order, real[:, ::1] rows
):
    """rows (N, K) <- the values (I, N, C) of K columns, pixels in `order`; see `global_propagate`."""
    cdef Py_ssize_t n = order.shape[0], first = 0, p, k, item, channel
    with nogil:
        while first < n:  # a stretch of pixels, which lie near one another, of one column after the other
            for k in range(columns.shape[0]):
                item = columns[k, 0]
                channel = columns[k, 1]
                for p in range(first, min(first + STRETCH, n)):
                    rows[p, k] = values[item, order[p], channel]
            first += STRETCH


def scatter(
    const real[:, ::1] rows, const Py_ssize_t[:, ::1] columns, const index_t[::1] order, real[:, :, :] out
):
    """The reverse of `gather`."""
    cdef Py_ssize_t n = order.shape[0], first = 0, p, k, item, channel
    with nogil:
        while first < n:
            for k in range(columns.shape[0]):
                item = columns[k, 0]
                channel = columns[k, 1]
                for p in range(first, min(first + STRETCH, n)):
                    out[item, order[p], channel] = rows[p, k]
            first += STRETCH


def global_propagate(
    const real[:, :] values, real[:, :] out, const index_t[::1] order, const double[::1] kappa,
    real[::1] counts, bint transposed,
):
    """Propagate values (N, C) over one tree into out (N, C), C at most 32.

    The values of a pixel must be consecutive, in `out` as well. `order` (N) names the pixels along the line;
    with no entries it says that they are in that order. `counts` (N) becomes z = K 1 along the line.
    Transposed, it holds that z, and out becomes K (values / z), the gradient of values from that of out.
    """
    cdef Py_ssize_t n = values.shape[0]
    cdef int count = <int> values.shape[1], width, group
    cdef const index_t *order_data = &order[0] if order.shape[0] else NULL
    cdef Block block
    cdef bint done = False
    if n == 0 or count == 0:
        return
    width = (
        count if count <= 4 else 8 if count <= 8 else 12 if count <= 12
        else 16 if count <= 16 else 24 if count <= 24 else 32
    )
    block.source = <const char *> &values[0, 0]
    block.target = <char *> &out[0, 0]
    block.source_stride = values.strides[0]
    block.target_stride = out.strides[0]
    block.last_byte = (count - 1) * sizeof(real)
    for group in range(width // GROUP):
        block.columns[group] = min(GROUP * group, count - GROUP)
    with nogil:
        if width == 1:
            done = both_sweeps(&block, order_data, &kappa[0], n, &counts[0], transposed, <Lanes1 *> NULL)
        elif width == 2:
            done = both_sweeps(&block, order_data, &kappa[0], n, &counts[0], transposed, <Lanes2 *> NULL)
        elif width == 3:
            done = both_sweeps(&block, order_data, &kappa[0], n, &counts[0], transposed, <Lanes3 *> NULL)
        elif width == 4:
            done = both_sweeps(&block, order_data, &kappa[0], n, &counts[0], transposed, <Lanes4 *> NULL)
        elif width == 8:
            done = both_sweeps(&block, order_data, &kappa[0], n, &counts[0], transposed, <Lanes8 *> NULL)
        elif width == 12:
            done = both_sweeps(&block, order_data, &kappa[0], n, &counts[0], transposed, <Lanes12 *> NULL)
        elif width == 16:
            done = both_sweeps(&block, order_data, &kappa[0], n, &counts[0], transposed, <Lanes16 *> NULL)
        elif width == 24:
            done = both_sweeps(&block, order_data, &kappa[0], n, &counts[0], transposed, <Lanes24 *> NULL)
        else:
            done = both_sweeps(&block, order_data, &kappa[0], n, &counts[0], transposed, <Lanes32 *> NULL)
    if not done:
        raise MemoryError(f"no memory for the stack of a sweep over {n} pixels and {count} channels")
