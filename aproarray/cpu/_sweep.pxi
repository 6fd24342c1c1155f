"""Global propagation over the linear order: two sweeps with a stack each, up to 32 columns at a time.

A *column* is one channel of one item: what is propagated over a tree. The columns of a block lie side
by side; where they do not, they are gathered into rows in the order of the line, and scattered back.
Only affinities enter here, kappa = exp(-gap / zeta^2): the affinity of two pixels is the smallest kappa
between their positions.
"""

from libc.math cimport INFINITY, exp
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

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

# What a sweep does with the sums' weights z; a type, so that the compiler makes a loop of each.
cdef struct Averaging:  # divide results by z
    char nothing

cdef struct Transposing:  # divide values by it
    char nothing

ctypedef fused mode_t:
    Averaging
    Transposing

MAX_COLUMNS = 32

cdef enum:
    AHEAD = 12  # pixels that a gather is prefetched before its turn
    GROUP = 4  # lanes that are loaded and stored together
    STRETCH = 256  # pixels that are gathered or scattered together


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


cdef struct Entries:
    # Entries from the heaviest gap (the affinity rises upwards); entry 0 is a sentinel that stays.
    Py_ssize_t capacity
    Py_ssize_t top
    Entry *entries
    void *sums  # lanes_t[2 * capacity]: S, then T, of every entry
    size_t sum_bytes  # of lanes_t


cdef bint grow(Entries *stack) noexcept nogil:
    cdef Py_ssize_t capacity = 2 * stack.capacity
    cdef void *moved = realloc(stack.sums, 2 * capacity * stack.sum_bytes)
    if moved == NULL:
        return False
    stack.sums = moved
    moved = realloc(stack.entries, capacity * sizeof(Entry))
    if moved == NULL:
        return False
    stack.entries = <Entry *> moved
    stack.capacity = capacity
    return True


cdef int lanes_for(int columns) noexcept nogil:
    return (
        columns if columns <= 4 else 8 if columns <= 8 else 12 if columns <= 12
        else 16 if columns <= 16 else 24 if columns <= 24 else 32
    )


cdef class Stack:
    """What a sweep over `columns` columns knows of the pixels behind it; at first, that there are none."""

    cdef Entries data

    def __cinit__(self, int columns):
        self.data.capacity = 64
        self.data.top = 0
        self.data.sum_bytes = lanes_for(columns) * sizeof(double)
        self.data.sums = malloc(2 * self.data.capacity * self.data.sum_bytes)
        self.data.entries = <Entry *> malloc(self.data.capacity * sizeof(Entry))
        if self.data.sums == NULL or self.data.entries == NULL:
            raise MemoryError("no memory for the stack of a sweep")
        memset(self.data.sums, 0, 2 * self.data.sum_bytes)
        self.data.entries[0].kappa = -1
        self.data.entries[0].n = 0
        self.data.entries[0].n_seen = 0

    def __dealloc__(self):
        free(self.data.sums)
        free(self.data.entries)


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


cdef bint sweep_lanes(
    const Block *block, const index_t *order, const double *kappa, Py_ssize_t n, real *counts,
    Py_ssize_t first, Py_ssize_t last, bint backward, bint second, Entries *stack,
    lanes_t *_width, const real *_kind, mode_t *_mode,
) noexcept nogil:
    """Move a sweep over pixels [first, last) of the line. False: out of memory.

    T, on top of the stack, is the sum over all pixels behind, each weighted by its affinity to the pixel
    ahead. Moving over a gap, entries that it outweighs are one with it from then on. Only terms of one kind
    are added, nothing is ever subtracted. The sweep that comes to a pixel first leaves the mean over what
    lies behind it in the result (a sum might overflow float32) and its weight in `counts`; the second adds
    the rest, to both. Transposed, `counts` holds these z from the start: values are divided by them and
    sums stay sums.
    """
    cdef Py_ssize_t i, p, pixel, top = stack.top, at, popped
    cdef Py_ssize_t step = -1 if backward else 1, end = 0 if backward else n - 1
    cdef int c, width = <int> (sizeof(lanes_t) // sizeof(double))
    cdef lanes_t acc, result
    cdef lanes_t *sums = <lanes_t *> stack.sums
    cdef Entry *entries = stack.entries
    cdef double z, n_behind, n_acc, affinity
    p = last if backward else first - 1
    for i in range(last - first):
        p += step
        if order != NULL and 0 <= p + AHEAD * step < n:
            pixel = order[p + AHEAD * step]
            prefetch(block.source + pixel * block.source_stride)
            prefetch(block.source + pixel * block.source_stride + block.last_byte)
            prefetch(block.target + pixel * block.target_stride)
            prefetch(block.target + pixel * block.target_stride + block.last_byte)
        pixel = p if order == NULL else order[p]
        load(block, block.source + pixel * block.source_stride, &acc, _kind)
        if mode_t is Transposing:
            z = 1 / counts[p]
            for c in range(width):
                acc.v[c] *= z
            if second:
                load(block, block.target + pixel * block.target_stride, &result, _kind)
                for c in range(width):
                    result.v[c] += acc.v[c] + sums[2 * top + 1].v[c]
            else:
                result = sums[2 * top + 1]
        elif second:
            n_behind = counts[p]
            z = n_behind + entries[top].n_seen
            counts[p] = <real> z
            z = 1 / z
            load(block, block.target + pixel * block.target_stride, &result, _kind)
            for c in range(width):
                result.v[c] = (acc.v[c] + result.v[c] * n_behind + sums[2 * top + 1].v[c]) * z
        else:
            counts[p] = <real> (1 + entries[top].n_seen)
            z = 1 / counts[p]
            for c in range(width):
                result.v[c] = sums[2 * top + 1].v[c] * z
        store(block, block.target + pixel * block.target_stride, &result, _kind)

        if p == end:
            break
        affinity = kappa[p - backward]
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
            if not grow(stack):
                return False
            sums = <lanes_t *> stack.sums
            entries = stack.entries
        entries[top].kappa = affinity
        entries[top].n = n_acc
        entries[top].n_seen = entries[top - 1].n_seen + affinity * n_acc
        for c in range(width):
            sums[2 * top].v[c] = acc.v[c]
            sums[2 * top + 1].v[c] = sums[2 * top - 1].v[c] + affinity * acc.v[c]
    stack.top = top
    return True


cdef bint sweep_in_mode(
    const Block *block, const index_t *order, const double *kappa, Py_ssize_t n, real *counts,
    Py_ssize_t first, Py_ssize_t last, bint backward, bint second, bint transposed, Entries *stack,
    lanes_t *width,
) noexcept nogil:
    if transposed:
        return sweep_lanes(
            block, order, kappa, n, counts, first, last, backward, second, stack,
            width, counts, <Transposing *> NULL,
        )
    return sweep_lanes(
        block, order, kappa, n, counts, first, last, backward, second, stack,
        width, counts, <Averaging *> NULL,
    )


def affinities(const real[::1] distances, double zeta, double[::1] result, Py_ssize_t first, Py_ssize_t last):
    """result[first:last] <- exp(-d / zeta^2), for any zeta > 0: never 0 * inf, and 0 where d is inf."""
    cdef Py_ssize_t i
    cdef double inverse = 1 / zeta
    if inverse > 1.7976931348623157e308:  # 1 / subnormal
        inverse = 1.7976931348623157e308
    with nogil:
        for i in range(first, last):
            if distances[i] == INFINITY:
                result[i] = 0
            else:
                result[i] = exp(-(distances[i] * inverse) * inverse)


def gather(
    const real[:, :, :] values, const Py_ssize_t[:, ::1] columns, const index_t[::1] order, real[:, ::1] rows,
    Py_ssize_t first, Py_ssize_t last,
):
    """Rows [first, last) of rows (N, K) <- the values (I, N, C) of K columns, pixels in `order`."""
    cdef Py_ssize_t p, k, item, channel
    with nogil:
        while first < last:  # a stretch of pixels, which lie near one another, of one column after the other
            for k in range(columns.shape[0]):
                item = columns[k, 0]
                channel = columns[k, 1]
                for p in range(first, min(first + STRETCH, last)):
                    rows[p, k] = values[item, order[p], channel]
            first += STRETCH


def scatter(
    const real[:, ::1] rows, const Py_ssize_t[:, ::1] columns, const index_t[::1] order, real[:, :, :] out,
    Py_ssize_t first, Py_ssize_t last,
):
    """The reverse of `gather`."""
    cdef Py_ssize_t p, k, item, channel
    with nogil:
        while first < last:
            for k in range(columns.shape[0]):
                item = columns[k, 0]
                channel = columns[k, 1]
                for p in range(first, min(first + STRETCH, last)):
                    out[item, order[p], channel] = rows[p, k]
            first += STRETCH


def sweep(
    const real[:, :] values, real[:, :] out, const index_t[::1] order, const double[::1] kappa,
    real[::1] counts, Stack stack, bint backward, bint second, bint transposed,
    Py_ssize_t first, Py_ssize_t last,
):
    """Move a sweep over pixels [first, last) of the line of N, C columns (at most 32) at a time.

    Global propagation of values (N, C) into out (N, C) is a sweep forward and one backward, each with a
    stack of its own, each in any number of moves. Every pixel needs both; for the later one, `second` is set.

    The values of a pixel must be consecutive, in `out` as well. `order` (N) names the pixels along the line;
    with no entries it says that they are in that order. `counts` (N) becomes z = K 1 along the line.
    Transposed, it holds that z, and out becomes K (values / z), the gradient of values from that of out.
    """
    cdef Py_ssize_t n = values.shape[0]
    cdef int count = <int> values.shape[1], width = lanes_for(count), group
    cdef const index_t *order_data = &order[0] if order.shape[0] else NULL
    cdef Block block
    cdef bint done = False
    if n == 0 or count == 0:
        return
    block.source = <const char *> &values[0, 0]
    block.target = <char *> &out[0, 0]
    block.source_stride = values.strides[0]
    block.target_stride = out.strides[0]
    block.last_byte = (count - 1) * sizeof(real)
    for group in range(width // GROUP):
        block.columns[group] = min(GROUP * group, count - GROUP)
    with nogil:
        if width == 1:
            done = sweep_in_mode(
                &block, order_data, &kappa[0], n, &counts[0], first, last, backward, second, transposed,
                &stack.data, <Lanes1 *> NULL,
            )
        elif width == 2:
            done = sweep_in_mode(
                &block, order_data, &kappa[0], n, &counts[0], first, last, backward, second, transposed,
                &stack.data, <Lanes2 *> NULL,
            )
        elif width == 3:
            done = sweep_in_mode(
                &block, order_data, &kappa[0], n, &counts[0], first, last, backward, second, transposed,
                &stack.data, <Lanes3 *> NULL,
            )
        elif width == 4:
            done = sweep_in_mode(
                &block, order_data, &kappa[0], n, &counts[0], first, last, backward, second, transposed,
                &stack.data, <Lanes4 *> NULL,
            )
        elif width == 8:
            done = sweep_in_mode(
                &block, order_data, &kappa[0], n, &counts[0], first, last, backward, second, transposed,
                &stack.data, <Lanes8 *> NULL,
            )
        elif width == 12:
            done = sweep_in_mode(
                &block, order_data, &kappa[0], n, &counts[0], first, last, backward, second, transposed,
                &stack.data, <Lanes12 *> NULL,
            )
        elif width == 16:
            done = sweep_in_mode(
                &block, order_data, &kappa[0], n, &counts[0], first, last, backward, second, transposed,
                &stack.data, <Lanes16 *> NULL,
            )
        elif width == 24:
            done = sweep_in_mode(
                &block, order_data, &kappa[0], n, &counts[0], first, last, backward, second, transposed,
                &stack.data, <Lanes24 *> NULL,
            )
        else:
            done = sweep_in_mode(
                &block, order_data, &kappa[0], n, &counts[0], first, last, backward, second, transposed,
                &stack.data, <Lanes32 *> NULL,
            )
    if not done:
        raise MemoryError(f"no memory for the stack of a sweep over {n} pixels and {count} channels")
