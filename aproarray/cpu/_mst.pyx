"""Minimum spanning trees and their linear order, from weights: tiles, Kruskal's algorithm.

A pixel graph is solved in two steps. First, Kruskal's algorithm runs over the edges of each tile, which fits
the cache. An edge that closes a cycle is dropped. A merge lighter than every edge that leaves the two sides
is final. Any other merge is put off. The final merges make *runs* of pixels: stretches of the linear order
that no later merge parts. Second, Kruskal's algorithm runs over the runs and the edges that are left, a fifth
to a third of the pixels on photographs. Other graphs start with the second step, and every node is a run.

Where weights are float32 and edge ids fit 32 bits, working arrays hold 32-bit numbers. Otherwise everything
is 64 bits wide. `node_t` says which. See `_items.pxd` for what is sorted.

Two pixels whose lightest edge is the same one are a *pair*. No other edge of theirs is as light, so that the
second step may begin with all pairs merged (`_weigh.join_pairs`), and with fewer edges.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import numpy as np

from aproarray.cpu._items cimport bits_of, from_bits, id_of, is_negative, key_of, put, real
from aproarray.cpu._prefetch cimport prefetch
from aproarray.cpu._unionfind cimport find, find_together, make_sets, node_t

cdef extern from *:
    int64_t LARGEST32 "INT32_MAX"
    int64_t LARGEST64 "INT64_MAX"
    int64_t SMALLEST32 "INT32_MIN"  # its only bit is the sign
    int64_t SMALLEST64 "INT64_MIN"

cdef enum:
    DIGIT_BITS = 11
    RADIX = 1 << 11
    MAX_DIGITS = 6
    TOGETHER = 8  # edges whose ends are looked up together
    GROUPS = 6  # of edges, at different stages of getting ready
    AHEAD = 12  # runs that are prefetched before their turn
    MAX_NDIM = 8
    MAX_OFFSETS = 64


cdef uint64_t *radix_sort(
    uint64_t *items, uint64_t *other, Py_ssize_t n, node_t kind
) noexcept nogil:
    """Sort stably by key, returning the one of the two buffers that holds the result.

    Digits that all keys share are passed over: images of few distinct weights cost one or two passes.
    """
    cdef Py_ssize_t counts[MAX_DIGITS][RADIX]
    cdef Py_ssize_t i, place, total, count
    cdef int digit, value, shift
    cdef int n_digits = ((31 if node_t is int32_t else 63) + DIGIT_BITS - 1) // DIGIT_BITS
    cdef uint64_t key
    cdef uint64_t *swap
    if n == 0:
        return items
    for digit in range(n_digits):
        memset(counts[digit], 0, RADIX * sizeof(Py_ssize_t))
    for i in range(n):
        key = key_of(items, i, kind)
        for digit in range(n_digits):
            counts[digit][(key >> (digit * DIGIT_BITS)) & (RADIX - 1)] += 1
    for digit in range(n_digits):
        shift = digit * DIGIT_BITS
        if counts[digit][(key_of(items, 0, kind) >> shift) & (RADIX - 1)] == n:
            continue
        total = 0
        for value in range(RADIX):
            count = counts[digit][value]
            counts[digit][value] = total
            total += count
        for i in range(n):
            value = (key_of(items, i, kind) >> shift) & (RADIX - 1)
            place = counts[digit][value]
            counts[digit][value] = place + 1
            if node_t is int32_t:
                other[place] = items[i]
            else:
                other[2 * place] = items[2 * i]
                other[2 * place + 1] = items[2 * i + 1]
        swap = items
        items = other
        other = swap
    return items


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
    const TileView *view, const real *weights, uint64_t *items, node_t *bound
) noexcept nogil:
    """Collect a tile's unmarked edges in the order of their ids; return how many there are.

    bound[x] becomes the weight of the lightest edge that leaves the tile from local pixel x.
    """
    cdef Py_ssize_t ndim = view.ndim, last = ndim - 1, width = view.extent[last]
    cdef Py_ssize_t row, rest, axis, k, x, step, back, first, stop, u, local, count = 0
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
        x = 0
        while x < width:
            if x == all_first:
                for x in range(all_first, all_stop):
                    for k in range(n_offsets):
                        weight = row_of[k][x]
                        put(items, count, bits_of(weight), <uint64_t> (local + x) << id_bits | k, kind)
                        count += not is_negative(weight)
                x = all_stop
                if x == width:
                    break
            for k in range(n_offsets):
                weight = row_of[k][x]
                if first_inside[k] <= x < stop_inside[k]:
                    put(items, count, bits_of(weight), <uint64_t> (local + x) << id_bits | k, kind)
                    count += not is_negative(weight)
                elif not is_negative(weight):
                    bound[local + x] = min(bound[local + x], <node_t> bits_of(weight))
            x += 1
    return count


cdef struct TileWork:
    # Scratch of one thread: two buffers for a tile's edges, node_t[2 * n_local] and node_t[n_local]; a byte
    # for each pixel's edge of one offset, then of the next.
    uint64_t *items
    uint64_t *other
    void *sets
    void *bound
    unsigned char *settled


cdef Py_ssize_t solve_tile(
    const TileView *view, const TileWork *work, real *weights, Py_ssize_t start,
    node_t *run_pixels, node_t *run_keys, node_t *run_ids, node_t *run_of,
) noexcept nogil:
    """Kruskal over one tile: mark all edges but those put off, write the runs from `start` on.

    A run is a stretch of run_pixels, each with the weight and the edge of the gap before it; the first one
    has minus the length of the run in place of a weight. run_of is ~start for the first pixel of a run,
    which also is its smallest, and that first pixel for the others. Returns the number of runs.
    """
    cdef node_t *sets = <node_t *> work.sets
    cdef node_t *links
    cdef node_t *bound = <node_t *> work.bound
    cdef const node_t *pixel_of = <const node_t *> view.pixel_of
    cdef node_t *runs = bound  # of every local pixel, once edges are through
    cdef node_t a, b, low, high, low_last, high_last, lightest, final, apart, key, kind = 0
    cdef node_t sign = SMALLEST32 if node_t is int32_t else SMALLEST64
    cdef node_t[2 * TOGETHER] ends
    cdef Py_ssize_t i, count, local, row, there, x, k, head, first, stop, width = view.extent[view.ndim - 1]
    cdef Py_ssize_t n_runs = 0
    cdef uint64_t id, k_mask = (<uint64_t> 1 << view.id_bits) - 1
    cdef uint64_t *items
    cdef unsigned char *settled = work.settled
    cdef const unsigned char *marks
    cdef node_t *bits
    make_sets(sets, view.n_local)
    memset(settled, 0, view.n_local * view.n_offsets)
    count = gather_tile(view, weights, work.items, bound)
    items = radix_sort(work.items, work.other, count, kind)
    links = <node_t *> (work.other if items == work.items else work.items)
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
        # Nobody can predict the outcome of an edge: masks (0 or -1) instead of branches. A link written after
        # the end of a list does no harm.
        final = -<node_t> (key < lightest)
        apart = -<node_t> (low != high)
        low_last = sets[2 * low + 1]
        high_last = sets[2 * high + 1]
        links[2 * low_last] = high
        links[2 * low_last + 1] = <node_t> i
        sets[2 * high] = low
        sets[2 * high + 1] = high_last | (final & apart)  # -1: no head of a run any more
        sets[2 * low + 1] = (high_last & final) | (low_last & ~final)
        # Whatever comes after an edge that is put off is heavier than it, and it leaves both sides.
        bound[low] = lightest | (sign & apart & ~final)
        settled[(id & k_mask) * view.n_local + (id >> view.id_bits)] = <unsigned char> ((final | ~apart) & 1)

    for row in range(n_rows_of(view)):
        local = first_of_row(view, row)
        for x in range(width):
            a = <node_t> (local + x)
            b = sets[2 * a + 1]
            if b < 0:
                continue
            head = view.base + pixel_of[a]
            runs[a] = ~(<node_t> start)
            run_pixels[start] = <node_t> head
            there = start
            while a != b:
                i = links[2 * a + 1]
                a = links[2 * a]
                start += 1
                id = id_of(items, i, kind)
                run_keys[start] = <node_t> key_of(items, i, kind)
                run_ids[start] = <node_t> (
                    <uint64_t> (view.base + pixel_of[id >> view.id_bits]) << view.id_bits | (id & k_mask)
                )
                run_pixels[start] = <node_t> (view.base + pixel_of[a])
                runs[a] = <node_t> head
            start += 1
            run_keys[there] = <node_t> (there - start)
            n_runs += 1
    # Results are written to the image along rows: neither edges nor runs come in that order. Edges that leave
    # the tile are not touched, as the tiles they enter may be reading them.
    for row in range(n_rows_of(view)):
        local = first_of_row(view, row)
        memcpy(run_of + view.base + pixel_of[local], runs + local, width * sizeof(node_t))
        for k in range(view.n_offsets):
            bits = <node_t *> (weights + k * view.n + view.base + pixel_of[local])
            marks = settled + k * view.n_local + local
            find_inside(view, row, k, &first, &stop)
            for x in range(first, stop):
                bits[x] |= sign * marks[x]
    return n_runs


def solve_tiles(
    grid, real[:, ::1] weights,
    node_t[::1] run_pixels, node_t[::1] run_keys, node_t[::1] run_ids, node_t[::1] run_of,
    int bits, Py_ssize_t first, Py_ssize_t last,
):
    """Solve tiles [first, last) of a pixel graph; return the number of runs. See `solve_tile`.

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
                    &view, &work, &weights[0, 0], start, &run_pixels[0], &run_keys[0], &run_ids[0], &run_of[0]
                )
            start += size
    return n_runs


def number_runs(node_t[::1] run_of, node_t[::1] starts):
    """Number the runs by their first pixels: run_of (N) becomes each pixel's run, starts where it is."""
    cdef Py_ssize_t pixel, count = 0
    with nogil:
        for pixel in range(run_of.shape[0]):
            if run_of[pixel] < 0:
                starts[count] = ~run_of[pixel]
                run_of[pixel] = <node_t> count
                count += 1
            else:  # the first pixel of its run is smaller, and has its number by now
                run_of[pixel] = run_of[run_of[pixel]]


cdef struct Graph:
    # The meaning of edge ids: rows of `ends` or, where that is NULL, edges of a pixel graph.
    const void *ends
    const Py_ssize_t *strides
    int id_bits


cdef inline void ends_of(const Graph *graph, uint64_t id, node_t *u, node_t *v) noexcept nogil:
    cdef const node_t *ends = <const node_t *> graph.ends
    if ends != NULL:
        u[0] = ends[2 * id]
        v[0] = ends[2 * id + 1]
    else:
        u[0] = <node_t> (id >> graph.id_bits)
        v[0] = <node_t> (u[0] + graph.strides[id & ((<uint64_t> 1 << graph.id_bits) - 1)])


cdef void kruskal(
    const uint64_t *items, Py_ssize_t n_items, const Graph *graph, const node_t *run_of,
    node_t *sets, node_t *merges,
) noexcept nogil:
    """Merge runs into lists, by edges sorted by (weight, id). `run_of` NULL: every node is a run.

    A list starts with its root, which keeps the list's length in pixels: that of the run at first. A merge
    puts the list with the larger root after the other one. Of that root, sets then keeps the offset in the
    list of the smaller one, and merges (R, 2) the smaller root and the item. Of pairs, which come merged, it
    has ~root and the key. Nobody can predict whether an
    edge merges anything, so there is no branch. An edge that merges nothing writes to a root's merges, which
    the merge of the root writes again.

    The ends of edges are known long before their turn, and lie far apart in memory. While one group of edges
    is merged, the memory of later groups is prefetched.
    """
    cdef Py_ssize_t n_groups = (n_items + TOGETHER - 1) // TOGETHER, group, i
    cdef node_t[GROUPS][2 * TOGETHER] ring
    cdef node_t *ends
    cdef node_t low, high, length, kind = 0
    cdef int x
    for group in range(1 - GROUPS, n_groups):
        if group + 5 < n_groups:
            i = (group + 5) * TOGETHER
            ends = ring[(group + 5) % GROUPS]
            for x in range(TOGETHER):
                ends_of(graph, id_of(items, min(i + x, n_items - 1), kind), ends + 2 * x, ends + 2 * x + 1)
            for x in range(2 * TOGETHER):
                if run_of == NULL:
                    prefetch(sets + 2 * ends[x])
                else:
                    prefetch(run_of + ends[x])
        if run_of != NULL and 0 <= group + 3 < n_groups:
            ends = ring[(group + 3) % GROUPS]
            for x in range(2 * TOGETHER):
                ends[x] = run_of[ends[x]]
                prefetch(sets + 2 * ends[x])
        if 0 <= group + 2 < n_groups:
            ends = ring[(group + 2) % GROUPS]
            for x in range(2 * TOGETHER):
                prefetch(sets + 2 * sets[2 * ends[x]])
        if 0 <= group + 1 < n_groups:
            ends = ring[(group + 1) % GROUPS]
            find_together(sets, ends, 2 * TOGETHER)
            for x in range(TOGETHER):
                prefetch(merges + 2 * max(ends[2 * x], ends[2 * x + 1]))
        if group < 0:
            continue
        ends = ring[group % GROUPS]
        for x in range(<int> min(<Py_ssize_t> TOGETHER, n_items - group * TOGETHER)):
            ends[2 * x] = find(sets, ends[2 * x])
            ends[2 * x + 1] = find(sets, ends[2 * x + 1])
            low = min(ends[2 * x], ends[2 * x + 1])
            high = max(ends[2 * x], ends[2 * x + 1])
            merges[2 * high] = low
            merges[2 * high + 1] = <node_t> (group * TOGETHER + x)
            length = sets[2 * low + 1] + (sets[2 * high + 1] & -<node_t> (low != high))
            sets[2 * high] = low
            sets[2 * high + 1] = sets[2 * low + 1]
            sets[2 * low + 1] = length


cdef inline bint write_gap(
    Py_ssize_t place, const Graph *graph, uint64_t key, uint64_t id, real *gaps, node_t *gap_edges
) noexcept nogil:
    """Write the gap after a place; return whether it is finite."""
    gaps[place] = from_bits(key, gaps)
    ends_of(graph, id, gap_edges + 2 * place, gap_edges + 2 * place + 1)
    return gaps[place] < <real> INFINITY


cdef inline void write_missing_gap(Py_ssize_t place, real *gaps, node_t *gap_edges) noexcept nogil:
    gaps[place] = <real> INFINITY
    gap_edges[2 * place] = -1
    gap_edges[2 * place + 1] = -1


cdef void canonical_ends(
    const node_t *ends, Py_ssize_t n_edges, Py_ssize_t n, Py_ssize_t *counts,
    Py_ssize_t *rows, Py_ssize_t *by_higher, node_t *sorted_ends,
) noexcept nogil:
    """Sort edges by (lower end, higher end) with two counting sorts: O(E + N) for any graph.

    rows[i] becomes the row of `ends` that sorted_ends[i] came from. Edges marked -1 go to the end.
    """
    cdef Py_ssize_t e, i, total, count
    cdef int pass_
    cdef node_t u, v, key
    for pass_ in range(2):  # by the higher end, then, stably, by the lower one
        memset(counts, 0, (n + 1) * sizeof(Py_ssize_t))
        for e in range(n_edges):
            u = ends[2 * e]
            v = ends[2 * e + 1]
            key = <node_t> n if u < 0 else (min(u, v) if pass_ else max(u, v))
            counts[key] += 1
        total = 0
        for i in range(n + 1):
            count = counts[i]
            counts[i] = total
            total += count
        for i in range(n_edges):
            e = by_higher[i] if pass_ else i
            u = ends[2 * e]
            v = ends[2 * e + 1]
            key = <node_t> n if u < 0 else (min(u, v) if pass_ else max(u, v))
            if pass_:
                rows[counts[key]] = e
            else:
                by_higher[counts[key]] = e
            counts[key] += 1
    for i in range(n_edges):
        u = ends[2 * rows[i]]
        v = ends[2 * rows[i] + 1]
        sorted_ends[2 * i] = min(u, v)
        sorted_ends[2 * i + 1] = max(u, v)


def canonical_edges(const node_t[:, ::1] ends, Py_ssize_t n):
    """Return edges (E, 2) as pairs u < v in the order of (u, v), and the rows they came from.

    Edges marked -1 are left out.
    """
    cdef Py_ssize_t n_edges = ends.shape[0]
    cdef Py_ssize_t[::1] counts = np.empty(n + 1, np.intp)
    cdef Py_ssize_t[::1] by_higher = np.empty(n_edges, np.intp)
    cdef Py_ssize_t[::1] rows = np.empty(n_edges, np.intp)
    cdef node_t[:, ::1] result = np.empty((n_edges, 2), np.asarray(ends).dtype)
    if n_edges == 0:
        return np.asarray(result), np.asarray(rows)
    with nogil:
        canonical_ends(&ends[0, 0], n_edges, n, &counts[0], &rows[0], &by_higher[0], &result[0, 0])
        while n_edges and result[n_edges - 1, 0] < 0:
            n_edges -= 1
    return np.asarray(result)[:n_edges], np.asarray(rows)[:n_edges]


def listed_edges(const real[::1] weights, const node_t[:, ::1] ends, uint64_t[::1] items):
    """Write edges (E, 2) and their weights (E) to items; their rows are their ids."""
    cdef node_t kind = 0
    cdef Py_ssize_t e
    with nogil:
        for e in range(ends.shape[0]):
            put(&items[0], e, bits_of(weights[e]), e, kind)


cdef Graph graph_of(const node_t[:, ::1] ends, const Py_ssize_t[::1] strides, int id_bits) noexcept:
    cdef Graph graph
    graph.ends = &ends[0, 0] if ends.shape[0] else NULL
    graph.strides = &strides[0]
    graph.id_bits = id_bits
    return graph


def sort_items(uint64_t[:, ::1] items, Py_ssize_t n_items, const node_t[::1] _like):
    """Sort the items in the first of two rows by weight; return which of the two then holds them."""
    cdef uint64_t *by_weight
    cdef node_t kind = 0
    with nogil:
        by_weight = radix_sort(&items[0, 0], &items[1, 0], n_items, kind)
    return 0 if by_weight == &items[0, 0] else 1


def lists_of_runs(node_t[::1] lists, const node_t[::1] starts, const node_t[::1] run_keys):
    """Make a list of each run (R), for `connect`."""
    cdef Py_ssize_t run
    with nogil:
        for run in range(starts.shape[0]):
            lists[2 * run] = <node_t> run
            lists[2 * run + 1] = -run_keys[starts[run]]


def lists_of_nodes(node_t[::1] lists, Py_ssize_t first, Py_ssize_t last):
    """Make a list of each of the nodes [first, last), for `connect`."""
    cdef Py_ssize_t node
    with nogil:
        for node in range(first, last):
            lists[2 * node] = <node_t> node
            lists[2 * node + 1] = 1


def connect(
    const uint64_t[::1] items, Py_ssize_t n_items, node_t[::1] lists, Py_ssize_t n_runs,
    const node_t[:, ::1] ends, const Py_ssize_t[::1] strides, int id_bits, const node_t[::1] run_of,
):
    """Merge lists of runs by sorted edges.

    `lists` hold sets and merges of `kruskal` one after the other, with lists begun. Edges are rows of `ends`
    or, if that has none, of the pixel graph. `run_of` (N) is the run of every node, and runs are as
    `solve_tile` leaves them; with no entries, every node is a run.
    """
    cdef Graph graph = graph_of(ends, strides, id_bits)
    with nogil:
        kruskal(
            &items[0], n_items, &graph, &run_of[0] if run_of.shape[0] else NULL, &lists[0], &lists[2 * n_runs]
        )


cdef inline Py_ssize_t place_of(
    node_t *sets, node_t *merges, Py_ssize_t run, Py_ssize_t *total
) noexcept nogil:
    """Return a run's place on the line, which sets keeps from now on, and the merges of roots -1.

    Runs come in order. The list of a root begins where the lists of smaller roots end, at `total`.
    """
    cdef Py_ssize_t place
    cdef node_t low = merges[2 * run]
    if sets[2 * run] == run:
        place = total[0]
        total[0] += sets[2 * run + 1]
        merges[2 * run + 1] = -1
    else:
        low ^= low >> (31 if node_t is int32_t else 63)  # ~low of a pair
        place = sets[2 * low + 1] + sets[2 * run + 1]
    sets[2 * run + 1] = <node_t> place
    return place


def lay_out_nodes(
    const uint64_t[::1] items, node_t[::1] lists,
    const node_t[:, ::1] ends, const Py_ssize_t[::1] strides, int id_bits,
    node_t[::1] order, real[::1] gaps, node_t[:, ::1] gap_edges,
):
    """Write the lists that `connect` made of nodes one after the other, by their first nodes.

    Fills order (N), gaps (N-1) and gap_edges (N-1, 2); returns whether all weights are finite. Places are
    found node by node, and gaps are written place by place: what lies far apart is known long before.
    """
    cdef Graph graph = graph_of(ends, strides, id_bits)
    cdef Py_ssize_t n = order.shape[0], node, place, total = 0, at, item
    cdef uint64_t key
    cdef node_t low, u, v, paired
    cdef node_t *sets = &lists[0]
    cdef node_t *merges = &lists[2 * n]
    cdef node_t kind = 0
    cdef bint finite = True
    with nogil:
        for node in range(n):
            order[place_of(sets, merges, node, &total)] = <node_t> node
        for place in range(1, n):
            if place + 2 * AHEAD < n:
                prefetch(&merges[2 * order[place + 2 * AHEAD]])
            if place + AHEAD < n:
                node = order[place + AHEAD]
                at = merges[2 * node + 1] & (merges[2 * node] >> (31 if node_t is int32_t else 63) ^ -1)
                prefetch(&items[max(<Py_ssize_t> 0, at) * (1 if node_t is int32_t else 2)])
            node = order[place]
            low = merges[2 * node]
            at = merges[2 * node + 1]
            if at < 0:
                write_missing_gap(place - 1, &gaps[0], &gap_edges[0, 0])
                continue
            # Of a pair, merges has the key itself. Nobody can predict pairs: masks instead of branches.
            paired = low >> (31 if node_t is int32_t else 63)
            item = at & ~<Py_ssize_t> paired
            key = (key_of(&items[0], item, kind) & ~<uint64_t> paired) | (<uint64_t> at & <uint64_t> paired)
            ends_of(&graph, id_of(&items[0], item, kind), &u, &v)
            gaps[place - 1] = from_bits(key, &gaps[0])
            gap_edges[place - 1, 0] = (u & ~paired) | (~low & paired)
            gap_edges[place - 1, 1] = (v & ~paired) | (<node_t> node & paired)
            finite &= gaps[place - 1] < <real> INFINITY
    return finite


def place_runs(node_t[::1] lists, Py_ssize_t n_runs):
    """Find the places of runs on the line, in the lists of `connect`, for `write_runs`."""
    cdef Py_ssize_t run, total = 0
    with nogil:
        for run in range(n_runs):
            place_of(&lists[0], &lists[2 * n_runs], run, &total)


def write_runs(
    const uint64_t[::1] items, const node_t[::1] lists, const node_t[::1] starts,
    const node_t[::1] run_pixels, const node_t[::1] run_keys, const node_t[::1] run_ids,
    const node_t[:, ::1] ends, const Py_ssize_t[::1] strides, int id_bits,
    node_t[::1] order, real[::1] gaps, node_t[:, ::1] gap_edges,
    Py_ssize_t first, Py_ssize_t last,
):
    """Write runs [first, last) at their places to order, gaps and gap_edges; are their weights finite?"""
    cdef Graph graph = graph_of(ends, strides, id_bits)
    cdef Py_ssize_t i, k, at, place, item
    cdef const node_t *sets = &lists[0]
    cdef const node_t *merges = &lists[2 * starts.shape[0]]
    cdef node_t kind = 0
    cdef uint64_t id
    cdef bint finite = True
    with nogil:
        for i in range(first, last):
            if i + AHEAD < last:
                at = starts[i + AHEAD]
                place = sets[2 * (i + AHEAD) + 1]
                prefetch(&run_pixels[at])
                prefetch(&run_keys[at])
                prefetch(&run_ids[at])
                prefetch(&order[place])
                prefetch(&gap_edges[max(<Py_ssize_t> 0, place - 1), 0])
                item = merges[2 * (i + AHEAD) + 1]
                prefetch(&items[max(<Py_ssize_t> 0, item) * (1 if node_t is int32_t else 2)])
            at = starts[i]
            place = sets[2 * i + 1]
            item = merges[2 * i + 1]
            if item >= 0:
                finite &= write_gap(
                    place - 1, &graph, key_of(&items[0], item, kind), id_of(&items[0], item, kind),
                    &gaps[0], &gap_edges[0, 0],
                )
            elif place:
                write_missing_gap(place - 1, &gaps[0], &gap_edges[0, 0])
            order[place] = run_pixels[at]
            for k in range(1, -run_keys[at]):
                id = <uint32_t> run_ids[at + k] if node_t is int32_t else <uint64_t> run_ids[at + k]
                finite &= write_gap(
                    place + k - 1, &graph, <uint64_t> run_keys[at + k], id, &gaps[0], &gap_edges[0, 0]
                )
                order[place + k] = run_pixels[at + k]
    return finite


def sort_by_weight(const real[::1] weights, Py_ssize_t[::1] rows):
    """Fill rows (E) with the stable order of weights (E), none negative."""
    cdef Py_ssize_t n = weights.shape[0], i
    cdef uint64_t[:, ::1] items = np.empty((2, 2 * n + 1), np.uint64)
    cdef uint64_t *in_order
    cdef int64_t kind = 0
    with nogil:
        for i in range(n):
            put(&items[0, 0], i, bits_of(weights[i]), i, kind)
        in_order = radix_sort(&items[0, 0], &items[1, 0], n, kind)
        for i in range(n):
            rows[i] = <Py_ssize_t> id_of(in_order, i, kind)


def linkage(const node_t[:, ::1] edges, const real[::1] weights, double[:, ::1] result):
    """Fill result (N-1, 4) with the linkage matrix of a tree of N nodes, edges lightest first."""
    cdef Py_ssize_t n = edges.shape[0] + 1, i
    cdef node_t[::1] sets = np.empty(2 * n, np.asarray(edges).dtype)
    cdef Py_ssize_t[::1] cluster = np.arange(n, dtype=np.intp)
    cdef double[::1] size = np.ones(n)
    cdef node_t a, b
    with nogil:
        make_sets(&sets[0], n)
        for i in range(n - 1):
            a = find(&sets[0], edges[i, 0])
            b = find(&sets[0], edges[i, 1])
            if a > b:
                a, b = b, a
            sets[2 * b] = a
            size[a] += size[b]
            result[i, 0] = min(cluster[a], cluster[b])
            result[i, 1] = max(cluster[a], cluster[b])
            result[i, 2] = weights[i]
            result[i, 3] = size[a]
            cluster[a] = n + i
