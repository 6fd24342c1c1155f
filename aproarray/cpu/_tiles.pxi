"""Kruskal's algorithm over tiles of a pixel graph: the first step to its tree. See _mst.pyx."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

import numpy as np

from aproarray.cpu._collect cimport collect
from aproarray.cpu._items cimport bits_of, id_of, is_negative, key_of, put, radix_sort, real
from aproarray.cpu._unionfind cimport find, find_together, node_t

cdef extern from *:
    int64_t LARGEST32 "INT32_MAX"
    int64_t LARGEST64 "INT64_MAX"
    int64_t SMALLEST32 "INT32_MIN"  # its only bit is the sign
    int64_t SMALLEST64 "INT64_MIN"

cdef enum:
    TOGETHER = 8  # edges whose ends are looked up together
    MAX_NDIM = 8
    MAX_OFFSETS = 64


cdef struct TileView:
    # The pixel graph, and one tile of it: a box of `extent` pixels from pixel `base` on. Local indices
    # have 2^bits pixels to an axis, so that a step has the same local stride in every tile.
    Py_ssize_t ndim
    Py_ssize_t n
    Py_ssize_t n_offsets
    int id_bits
    const Py_ssize_t *shape
    const Py_ssize_t *offsets
    const Py_ssize_t *strides
    const Py_ssize_t *pixel_strides
    int bits
    Py_ssize_t n_local
    const void *pixel_of  # node_t: pixels from the tile's first one, for every local index
    Py_ssize_t base
    Py_ssize_t corner[MAX_NDIM]
    Py_ssize_t extent[MAX_NDIM]
    Py_ssize_t local_strides[MAX_OFFSETS]


cdef void place_tile(TileView *view, Py_ssize_t tile) noexcept nogil:
    """Move the view to the tile of that number."""
    cdef Py_ssize_t axis, across, side = <Py_ssize_t> 1 << view.bits
    view.base = 0
    for axis in range(view.ndim - 1, -1, -1):
        across = (view.shape[axis] + side - 1) // side
        view.corner[axis] = (tile % across) * side
        view.extent[axis] = min(side, view.shape[axis] - view.corner[axis])
        view.base += view.corner[axis] * view.pixel_strides[axis]
        tile //= across


cdef Py_ssize_t n_rows_of(const TileView *view) noexcept nogil:
    """Rows along the last axis in a tile."""
    cdef Py_ssize_t axis, n_rows = 1
    for axis in range(view.ndim - 1):
        n_rows *= view.extent[axis]
    return n_rows


cdef Py_ssize_t first_of_row(const TileView *view, Py_ssize_t row) noexcept nogil:
    """The local index of a row's first pixel."""
    cdef Py_ssize_t axis, local = 0
    for axis in range(view.ndim - 2, -1, -1):
        local += (row % view.extent[axis]) << (view.bits * (view.ndim - 1 - axis))
        row //= view.extent[axis]
    return local


cdef void find_inside(
    const TileView *view, Py_ssize_t row, Py_ssize_t k, Py_ssize_t *first, Py_ssize_t *stop
) noexcept nogil:
    """Find the pixels [first, stop) of a row whose edges with offset k stay in the tile."""
    cdef Py_ssize_t last = view.ndim - 1, width = view.extent[last], axis, step
    first[0] = 0
    stop[0] = 0
    for axis in range(last - 1, -1, -1):
        step = row % view.extent[axis] + view.offsets[k * view.ndim + axis]
        row //= view.extent[axis]
        if not 0 <= step < view.extent[axis]:
            return
    step = view.offsets[k * view.ndim + last]
    first[0] = min(width, max(<Py_ssize_t> 0, -step))
    stop[0] = max(first[0], width - max(<Py_ssize_t> 0, step))


cdef Py_ssize_t gather_tile(
    const TileView *view, const real *weights, const uint8_t *pairs, uint64_t *items, uint64_t *paired,
    node_t *bound, Py_ssize_t *n_pairs,
) noexcept nogil:
    """Collect a tile's unmarked edges in the order of their ids, but for those of pairs; return their number.

    Edges of pairs within the tile go to `paired`, and n_pairs is how many there are. bound[x] becomes the
    weight of the lightest edge that leaves the tile from local pixel x.
    """
    cdef Py_ssize_t ndim = view.ndim, last = ndim - 1, width = view.extent[last]
    cdef Py_ssize_t row, rest, axis, k, x, step, back, first, stop, u, local, count = 0, found = 0
    cdef const uint8_t *pair
    cdef const real *row_of[MAX_OFFSETS]
    cdef Py_ssize_t first_inside[MAX_OFFSETS]
    cdef Py_ssize_t stop_inside[MAX_OFFSETS]
    cdef Py_ssize_t all_first, all_stop  # pixels from which all edges stay in the tile
    cdef Py_ssize_t n_offsets = view.n_offsets
    cdef int id_bits = view.id_bits
    cdef bint behind_inside, behind_in_image
    cdef node_t kind = 0
    cdef real weight
    cdef node_t furthest = LARGEST32 if node_t is int32_t else LARGEST64
    for row in range(n_rows_of(view)):
        local = first_of_row(view, row)
        u = view.base + (<const node_t *> view.pixel_of)[local]
        for x in range(width):
            bound[local + x] = furthest
        all_first = 0
        all_stop = width
        for k in range(view.n_offsets):
            find_inside(view, row, k, first_inside + k, stop_inside + k)
            all_first = max(all_first, first_inside[k])
            all_stop = max(all_first, min(all_stop, stop_inside[k]))
            row_of[k] = weights + k * view.n + u
            behind_inside = True
            behind_in_image = True
            rest = row
            for axis in range(last - 1, -1, -1):
                back = rest % view.extent[axis] - view.offsets[k * ndim + axis]
                rest //= view.extent[axis]
                behind_inside = behind_inside and 0 <= back < view.extent[axis]
                back += view.corner[axis]
                behind_in_image = behind_in_image and 0 <= back < view.shape[axis]
            step = view.offsets[k * ndim + last]
            if not behind_in_image:
                continue
            # Edges that enter the tile from earlier pixels: all along a row, or at one of its ends.
            first = 0
            stop = width
            if behind_inside:
                first = width - 1 if step < 0 else 0
                stop = first + (1 if step else 0)
            for x in range(first, stop):
                back = view.corner[last] + x - step
                if back < 0 or back >= view.shape[last]:
                    continue
                weight = weights[k * view.n + u + x - view.strides[k]]
                if not is_negative(weight):
                    bound[local + x] = min(bound[local + x], <node_t> bits_of(weight))
        # Edges are written in any case, kept if unmarked: no branch, which could not be predicted.
        pair = pairs + u
        x = 0
        while x < width:
            if x == all_first:
                collect(
                    row_of, n_offsets, pair, id_bits, local, all_first, all_stop, items, &count,
                    view.n_local * n_offsets, kind,
                )
                x = all_stop
                if x == width:
                    break
            for k in range(n_offsets):
                weight = row_of[k][x]
                if first_inside[k] <= x < stop_inside[k]:
                    put(items, count, bits_of(weight), <uint64_t> (local + x) << id_bits | k, kind)
                    count += (not is_negative(weight)) & (pair[x] != 2 * k + 1)
                elif not is_negative(weight):
                    bound[local + x] = min(bound[local + x], <node_t> bits_of(weight))
            x += 1
        for x in range(width):
            k = (pair[x] >> 1) & -(pair[x] & 1)  # of pixels that do not begin a pair, anything
            put(paired, found, bits_of(row_of[k][x]), <uint64_t> (local + x) << id_bits | k, kind)
            found += pair[x] & (first_inside[k] <= x) & (x < stop_inside[k])
    n_pairs[0] = found
    return count


cdef struct TileWork:
    # Scratch of one thread: two buffers for a tile's edges, and one for those of pairs; node_t[2 * n_local]
    # and node_t[n_local]; a byte for each pixel's edge of one offset, then of the next.
    uint64_t *items
    uint64_t *other
    uint64_t *paired
    void *sets
    void *bound
    unsigned char *settled


cdef Py_ssize_t solve_tile(
    const TileView *view, const TileWork *work, real *weights, const uint8_t *pairs, Py_ssize_t start,
    node_t *run_pixels, node_t *run_keys, node_t *run_ids, node_t *run_of,
) noexcept nogil:
    """Kruskal over one tile: mark all edges but those put off, write the runs from `start` on.

    A run is a stretch of run_pixels, each with the weight and the edge of the gap before it; the first one
    has minus the length of the run in place of a weight. run_of is ~start for the first pixel of a run,
    which also is its smallest, and that first pixel for the others. Returns the number of runs.
    """
    cdef node_t *sets = <node_t *> work.sets
    cdef node_t *merges
    cdef node_t *bound = <node_t *> work.bound
    cdef const node_t *pixel_of = <const node_t *> view.pixel_of
    cdef node_t a, b, low, high, length, high_length, lightest, final, apart, key, head, pixel, kind = 0
    cdef node_t place = <node_t> start, at
    cdef node_t sign = SMALLEST32 if node_t is int32_t else SMALLEST64
    cdef node_t[2 * TOGETHER] ends
    cdef Py_ssize_t i, count, n_pairs, local, row, x, k, first, stop
    cdef Py_ssize_t width = view.extent[view.ndim - 1]
    cdef Py_ssize_t n_runs = 0
    cdef uint64_t id, k_mask = (<uint64_t> 1 << view.id_bits) - 1
    cdef uint64_t *items
    cdef unsigned char *settled = work.settled
    cdef const unsigned char *marks
    cdef node_t *bits
    memset(settled, 0, view.n_local * view.n_offsets)
    count = gather_tile(view, weights, pairs, work.items, work.paired, bound, &n_pairs)
    items = radix_sort(work.items, work.other, count, kind)
    if count + n_pairs == 0:  # pixels without a merge look up an item, too
        put(items, 0, 0, 0, kind)
    # Sets and merges are those of `kruskal` in _mst.pyx, but for merges that are not final: their item is -1.
    merges = <node_t *> (work.other if items == work.items else work.items)
    for i in range(view.n_local):
        sets[2 * i] = <node_t> i
        sets[2 * i + 1] = 1
        merges[2 * i] = <node_t> i
        merges[2 * i + 1] = -1
    # No edge of a pair's two pixels is lighter than the one between them: it is merged before all others.
    for i in range(n_pairs):
        id = id_of(work.paired, i, kind)
        a = <node_t> (id >> view.id_bits)
        b = <node_t> (a + view.local_strides[id & k_mask])
        put(items, count + i, key_of(work.paired, i, kind), id, kind)
        merges[2 * b] = a
        merges[2 * b + 1] = <node_t> (count + i)
        sets[2 * a + 1] = 2
        sets[2 * b] = a
        bound[a] = min(bound[a], bound[b])
        settled[(id & k_mask) * view.n_local + a] = 1
    for i in range(count):
        if i % TOGETHER == 0:
            for x in range(min(<Py_ssize_t> TOGETHER, count - i)):
                id = id_of(items, i + x, kind)
                ends[2 * x] = <node_t> (id >> view.id_bits)
                ends[2 * x + 1] = <node_t> (ends[2 * x] + view.local_strides[id & k_mask])
            find_together(sets, ends, <int> (2 * min(<Py_ssize_t> TOGETHER, count - i)))
        id = id_of(items, i, kind)
        key = <node_t> key_of(items, i, kind)
        a = find(sets, ends[2 * (i % TOGETHER)])
        b = find(sets, ends[2 * (i % TOGETHER) + 1])
        low = min(a, b)
        high = max(a, b)
        lightest = min(bound[low], bound[high])
        # Nobody can predict the outcome of an edge: masks (0 or -1) instead of branches.
        apart = -<node_t> (low != high)
        final = -<node_t> (key < lightest)
        settled[(id & k_mask) * view.n_local + (id >> view.id_bits)] = <unsigned char> ((final | ~apart) & 1)
        # Whatever comes after an edge that is put off is heavier than it, and it leaves both sides.
        bound[low] = lightest | (sign & apart & ~final)
        final &= apart
        length = sets[2 * low + 1]
        high_length = sets[2 * high + 1]
        merges[2 * high] = low
        merges[2 * high + 1] = <node_t> i | ~final
        sets[2 * high] = low
        sets[2 * high + 1] = (length & final) | (high_length & ~final)
        sets[2 * low + 1] = length + (high_length & final)

    # From now on, sets keep a pixel's place and the first pixel of its run, which follow from smaller pixels.
    for row in range(n_rows_of(view)):
        local = first_of_row(view, row)
        for x in range(width):
            a = <node_t> (local + x)
            pixel = <node_t> (view.base + pixel_of[local] + x)
            head = -<node_t> (merges[2 * a + 1] < 0)  # masks again
            low = merges[2 * a]
            length = sets[2 * a + 1]  # or its offset, if it is no head
            at = (place & head) | ((sets[2 * low] + length) & ~head)
            sets[2 * a] = at
            sets[2 * a + 1] = (pixel & head) | (sets[2 * low + 1] & ~head)
            i = merges[2 * a + 1] & ~head
            id = id_of(items, i, kind)
            run_pixels[at] = pixel
            run_keys[at] = (-length & head) | (<node_t> key_of(items, i, kind) & ~head)
            run_ids[at] = <node_t> (
                <uint64_t> (view.base + pixel_of[id >> view.id_bits]) << view.id_bits | (id & k_mask)
            )
            run_of[pixel] = sets[2 * a + 1] ^ ((pixel ^ ~place) & head)
            place += length & head
            n_runs -= head
    # Edges are marked along rows, as they do not come in that order. Those that leave the tile are not
    # touched, as the tiles they enter may be reading them.
    for row in range(n_rows_of(view)):
        local = first_of_row(view, row)
        for k in range(view.n_offsets):
            bits = <node_t *> (weights + k * view.n + view.base + pixel_of[local])
            marks = settled + k * view.n_local + local
            find_inside(view, row, k, &first, &stop)
            for x in range(first, stop):
                bits[x] |= sign * marks[x]
    return n_runs


def solve_tiles(
    grid, real[:, ::1] weights, const uint8_t[::1] pairs,
    node_t[::1] run_pixels, node_t[::1] run_keys, node_t[::1] run_ids, node_t[::1] run_of,
    int bits, Py_ssize_t first, Py_ssize_t last,
):
    """Solve tiles [first, last) of a pixel graph with pairs (N); return the number of runs. See `solve_tile`.

    A tile has 2^bits pixels along each axis. It writes its runs from the position on that is the number of
    pixels in the tiles before it.
    """
    cdef const Py_ssize_t[::1] shape = grid.shape
    cdef const Py_ssize_t[:, ::1] offsets = grid.offsets
    cdef const Py_ssize_t[::1] strides = grid.strides
    cdef Py_ssize_t ndim = shape.shape[0], n = run_of.shape[0], axis, k, i, rest, start = 0, size, tile
    cdef Py_ssize_t n_runs = 0
    cdef Py_ssize_t n_local = <Py_ssize_t> 1 << (bits * ndim)
    cdef Py_ssize_t[::1] pixel_strides = np.ones(ndim, np.intp)
    cdef node_t[::1] pixel_of = np.empty(n_local, np.asarray(run_of).dtype)
    cdef node_t[:, ::1] scratch = np.empty((3, n_local), np.asarray(run_of).dtype)  # for TileWork
    cdef unsigned char[::1] settled = np.empty(n_local * offsets.shape[0], np.uint8)
    cdef uint64_t[:, ::1] items = np.empty((2, 2 * (n_local * offsets.shape[0] + 1)), np.uint64)
    cdef uint64_t[::1] paired = np.empty(n_local + 2, np.uint64)
    cdef TileView view
    cdef TileWork work
    for axis in range(ndim - 2, -1, -1):
        pixel_strides[axis] = pixel_strides[axis + 1] * shape[axis + 1]
    view.ndim = ndim
    view.n = n
    view.n_offsets = offsets.shape[0]
    view.id_bits = grid.id_bits
    view.shape = &shape[0]
    view.offsets = &offsets[0, 0]
    view.strides = &strides[0]
    view.pixel_strides = &pixel_strides[0]
    view.bits = bits
    view.n_local = n_local
    view.pixel_of = &pixel_of[0]
    for i in range(n_local):
        pixel_of[i] = 0
        rest = i
        for axis in range(ndim - 1, -1, -1):
            pixel_of[i] += <node_t> ((rest & ((1 << bits) - 1)) * pixel_strides[axis])
            rest >>= bits
    for k in range(offsets.shape[0]):
        view.local_strides[k] = 0
        for axis in range(ndim):
            view.local_strides[k] += offsets[k, axis] * (<Py_ssize_t> 1 << (bits * (ndim - 1 - axis)))
    work.items = &items[0, 0]
    work.other = &items[1, 0]
    work.paired = &paired[0]
    work.sets = &scratch[0, 0]
    work.bound = &scratch[2, 0]
    work.settled = &settled[0]
    with nogil:
        for tile in range(last):
            place_tile(&view, tile)
            size = 1
            for axis in range(ndim):
                size *= view.extent[axis]
            if tile >= first:
                n_runs += solve_tile(
                    &view, &work, &weights[0, 0], &pairs[0], start, &run_pixels[0], &run_keys[0], &run_ids[0],
                    &run_of[0],
                )
            start += size
    return n_runs
