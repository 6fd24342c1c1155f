"""Minimum spanning trees and their linear order, from weights: Kruskal's algorithm.

A large pixel graph is solved in two steps. First, Kruskal's algorithm runs over the edges of each tile, which
fits the cache (`_tiles.pxi`). An edge that closes a cycle is dropped. A merge lighter than every edge that
leaves the two sides is final. Any other merge is put off. The final merges make *runs* of pixels: stretches
of the linear order that no later merge parts. Second, Kruskal's algorithm runs over the runs and the edges
that are left, a fifth to a third of the pixels on photographs. Other graphs start with the second step, and
every node is a run. Both steps of a pixel graph begin with its pairs merged (`_weigh.pxi`).

Where weights are float32 and edge ids fit 32 bits, working arrays hold 32-bit numbers. Otherwise everything
is 64 bits wide. `node_t` says which. See `_items.pxd` for what is sorted.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

import numpy as np

from aproarray.cpu._items cimport (
    RADIX, bits_of, digit_of, from_bits, id_of, key_of, put, radix_sort, real,
)
from aproarray.cpu._prefetch cimport prefetch
from aproarray.cpu._unionfind cimport find, find_together, make_sets, node_t

cdef enum:
    TOGETHER = 8  # edges whose ends are looked up together
    GROUPS = 6  # of edges, at different stages of getting ready
    AHEAD = 12  # runs that are prefetched before their turn

N_VALUES = RADIX  # of a digit


def count_runs(const node_t[::1] run_of, Py_ssize_t first, Py_ssize_t last):
    """Return how many runs begin at pixels [first, last); run_of (N) is as `solve_tiles` leaves it."""
    cdef Py_ssize_t pixel, count = 0
    with nogil:
        for pixel in range(first, last):
            count += run_of[pixel] < 0
    return count


def number_runs(node_t[::1] run_of, node_t[::1] starts, Py_ssize_t number, Py_ssize_t first, Py_ssize_t last):
    """Number the runs that begin at pixels [first, last), from `number` on.

    Their run_of becomes ~number, and starts (R) where they begin. So does run_of of their other pixels here.
    """
    cdef Py_ssize_t pixel
    with nogil:
        for pixel in range(first, last):
            if run_of[pixel] < 0:
                starts[number] = ~run_of[pixel]
                run_of[pixel] = <node_t> ~number
                number += 1
            elif run_of[pixel] >= first:  # the first pixel of the run, which is smaller
                run_of[pixel] = run_of[run_of[pixel]]


def name_runs(node_t[::1] run_of, Py_ssize_t first, Py_ssize_t last):
    """Do so for the pixels [first, last) whose runs begin before, once all runs have numbers."""
    cdef Py_ssize_t pixel
    with nogil:
        for pixel in range(first, last):
            if run_of[pixel] >= 0:
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
    """Merge runs into lists, by edges sorted by (weight, id). run_of[u] is ~run; NULL: every node is a run.

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
                ends[x] = ~run_of[ends[x]]
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


def count_digits(
    const uint64_t[::1] items, const node_t[::1] _like, int digit, int64_t[::1] counts,
    Py_ssize_t first, Py_ssize_t last,
):
    """Fill counts (RADIX) with how often that digit of keys has each value, among items [first, last)."""
    cdef Py_ssize_t i
    cdef node_t kind = 0
    with nogil:
        for i in range(RADIX):
            counts[i] = 0
        for i in range(first, last):
            counts[digit_of(&items[0], i, digit, kind)] += 1


def move_by_digit(
    const uint64_t[::1] items, uint64_t[::1] other, const node_t[::1] _like, int digit, int64_t[::1] places,
    Py_ssize_t first, Py_ssize_t last,
):
    """Move items [first, last) to other, each to the next one of the places (RADIX) of its digit."""
    cdef Py_ssize_t i
    cdef int value
    cdef node_t kind = 0
    with nogil:
        for i in range(first, last):
            value = digit_of(&items[0], i, digit, kind)
            put(&other[0], places[value], key_of(&items[0], i, kind), id_of(&items[0], i, kind), kind)
            places[value] += 1


def lists_of_runs(
    node_t[::1] lists, const node_t[::1] starts, const node_t[::1] run_keys, Py_ssize_t first, Py_ssize_t last
):
    """Make a list of each of the runs [first, last), for `connect`."""
    cdef Py_ssize_t run
    with nogil:
        for run in range(first, last):
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
    or, if that has none, of the pixel graph. `run_of` (N) is ~run of every node; with no entries, every node
    is a run.
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
