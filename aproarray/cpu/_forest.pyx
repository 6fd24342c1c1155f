"""Floods of an image in parts, which give the labels of the flood of the whole image (`_flood.Flood`).

A flood enters pixels in the order of their *arrivals*. The arrival of a seed is its place in the image. The
path over an edge of level l from a pixel of arrival (L, n, before) arrives as

* the same, if l < L: what lies behind a heavier edge is entered at once;
* (L, n + 1, before), if l = L: so many edges of this level have been crossed, first come first served;
* (l, 1, (L, n, before)), if l > L.

Arrivals are ordered by level, by count, and by the arrivals before them; those of seeds come first. A step
keeps that order, and arrives no earlier than it left. Every pixel's arrival therefore is the earliest over
all paths from all seeds, whatever the order of work, and it names the seed that the label comes from.

Arrivals stand in a table: `levels` (-1: a seed), `counts` (of a seed: its label) and `befores` (the entry of
the arrival before; of a seed: its place in the image). An entry comes after the one before it.

Parts of an image see one another through the pixels of their borders. `contract` makes a small graph of a
part that has the same arrivals at its border, whatever comes in there.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t
from libc.stdlib cimport free, malloc

from aproarray.cpu._levels cimport (
    DONE, N_LISTS, N_TOP_WORDS, N_WORDS, UNREACHED, apro_lowest_bit, bits_of_lightest, list_of,
)
from aproarray.cpu._unionfind cimport find, make_sets

import numpy as np


def edge_levels(const float[::1] first, const float[::1] second, float heaviest, uint16_t[::1] levels):
    """Write the levels of edges between pixels of these reliefs."""
    cdef Py_ssize_t i
    cdef int32_t lightest_bits = bits_of_lightest(heaviest)
    with nogil:
        for i in range(first.shape[0]):
            levels[i] = <uint16_t> list_of(first[i] + second[i], lightest_bits)


cdef struct Pixel:
    # All there is to know of a pixel in one place, as neighbours are far away in memory. If it waits, it does
    # at the end of the lightest edge that has reached it, between two others in its list.
    int32_t before
    int32_t after
    int32_t in_list  # or DONE: has a label or takes no part, or UNREACHED
    int32_t arrival
    float relief


cdef struct Queue:
    Pixel *pixels
    int32_t *first
    int32_t *last
    uint64_t words[N_WORDS]
    uint64_t top_words[N_TOP_WORDS]


cdef inline void remove(Queue *queue, int32_t pixel) noexcept nogil:
    cdef Pixel *own = &queue.pixels[pixel]
    cdef int32_t k = own.in_list, word = k >> 6
    if own.before >= 0:
        queue.pixels[own.before].after = own.after
    else:
        queue.first[k] = own.after
    if own.after >= 0:
        queue.pixels[own.after].before = own.before
    else:
        queue.last[k] = own.before
    if queue.first[k] < 0:
        queue.words[word] &= ~(<uint64_t> 1 << (k & 63))
        if queue.words[word] == 0:
            queue.top_words[word >> 6] &= ~(<uint64_t> 1 << (word & 63))


cdef inline void append(Queue *queue, int32_t pixel, int32_t k, int32_t arrival) noexcept nogil:
    cdef Pixel *own = &queue.pixels[pixel]
    cdef int32_t word = k >> 6
    own.in_list = k
    own.arrival = arrival
    own.after = -1
    own.before = queue.last[k] if queue.first[k] >= 0 else -1
    if own.before >= 0:
        queue.pixels[own.before].after = pixel
    else:
        queue.first[k] = pixel
        queue.words[word] |= <uint64_t> 1 << (k & 63)
        queue.top_words[word >> 6] |= <uint64_t> 1 << (word & 63)
    queue.last[k] = pixel


cdef inline int32_t lightest(const Queue *queue) noexcept nogil:
    """The pixel that has waited longest in the lightest list that is not empty, or -1."""
    cdef int32_t i, word
    for i in range(N_TOP_WORDS):
        if queue.top_words[i]:
            word = (i << 6) + apro_lowest_bit(queue.top_words[i])
            return queue.first[(word << 6) + apro_lowest_bit(queue.words[word])]
    return -1


cdef struct Table:
    int32_t *levels
    int64_t *counts
    int64_t *befores
    Py_ssize_t n


cdef int compare(const Table *table, Py_ssize_t u, Py_ssize_t v) noexcept nogil:
    """Below 0 if arrival u is the earlier one, above 0 if it is the later one."""
    while u != v:
        if table.levels[u] != table.levels[v]:
            return -1 if table.levels[u] < table.levels[v] else 1
        if table.levels[u] >= 0 and table.counts[u] != table.counts[v]:
            return -1 if table.counts[u] < table.counts[v] else 1
        if table.levels[u] < 0:
            if table.befores[u] == table.befores[v]:
                return 0
            return -1 if table.befores[u] < table.befores[v] else 1
        u, v = table.befores[u], table.befores[v]
    return 0


cdef inline Py_ssize_t crossed(Table *table, Py_ssize_t arrival, int32_t level) noexcept nogil:
    """The entry of the arrival after an edge: a new one, unless it is the last that was made."""
    cdef int64_t count = 1, before = arrival
    cdef Py_ssize_t last = table.n - 1
    if level < table.levels[arrival]:
        return arrival
    if level == table.levels[arrival]:
        count, before = table.counts[arrival] + 1, table.befores[arrival]
    if table.levels[last] == level and table.counts[last] == count and table.befores[last] == before:
        return last
    table.levels[table.n], table.counts[table.n], table.befores[table.n] = level, count, before
    table.n += 1
    return table.n - 1


def in_order(
    const int32_t[::1] levels, const int64_t[::1] counts, const int64_t[::1] befores, int32_t[::1] arrivals
):
    """Return the places of arrivals (entries of a table) from the earliest to the latest."""
    cdef Table table
    cdef Py_ssize_t n = arrivals.shape[0], width = 1, start, middle, end, i, j, k
    order_array, spare_array = np.arange(n), np.empty(n, np.intp)
    cdef Py_ssize_t[::1] order = order_array, spare = spare_array
    if n == 0:
        return order_array
    table.levels, table.counts = <int32_t *> &levels[0], <int64_t *> &counts[0]
    table.befores, table.n = <int64_t *> &befores[0], levels.shape[0]
    with nogil:
        while width < n:
            start = 0
            while start < n:
                middle, end = min(start + width, n), min(start + 2 * width, n)
                i, j = start, middle
                for k in range(start, end):
                    if j == end or (
                        i < middle and compare(&table, arrivals[order[i]], arrivals[order[j]]) <= 0
                    ):
                        spare[k] = order[i]
                        i += 1
                    else:
                        spare[k] = order[j]
                        j += 1
                start = end
            order, spare = spare, order
            width *= 2
    return np.asarray(order)


cdef class Shores:
    """A flood of a part of an image, from sources of known arrivals.

    `sources` are pixels with arrivals (entries of the table) from the earliest to the latest. The table has
    room for one entry more for each pixel and source. `arrivals` (N) receives those of all pixels, -1 where
    none gets; where it is below -1, a pixel is never entered.
    """

    cdef Queue queue
    cdef Table table

    def __cinit__(
        self, int32_t[::1] levels, int64_t[::1] counts, int64_t[::1] befores, Py_ssize_t n_arrivals,
        const int32_t[::1] arrivals,
    ):
        cdef Py_ssize_t n = arrivals.shape[0], i
        self.table.levels, self.table.counts = &levels[0], &counts[0]
        self.table.befores, self.table.n = &befores[0], n_arrivals
        self.queue.pixels = <Pixel *> malloc(max(n, 1) * sizeof(Pixel))
        self.queue.first = <int32_t *> malloc(N_LISTS * sizeof(int32_t))
        self.queue.last = <int32_t *> malloc(N_LISTS * sizeof(int32_t))
        if self.queue.pixels == NULL or self.queue.first == NULL or self.queue.last == NULL:
            raise MemoryError(f"no memory to flood {n} pixels")
        with nogil:
            for i in range(N_LISTS):
                self.queue.first[i] = -1
            for i in range(n):
                self.queue.pixels[i].in_list = DONE if arrivals[i] < -1 else UNREACHED
                self.queue.pixels[i].arrival = -1

    def __dealloc__(self):
        free(self.queue.pixels)
        free(self.queue.first)
        free(self.queue.last)

    def over_grid(
        self, const float[::1] relief, const Py_ssize_t[::1] steps, float heaviest,
        const int32_t[::1] sources, const int32_t[::1] source_arrivals, int32_t[::1] arrivals,
    ):
        """Flood an image that is padded by pixels that are never entered. Return the entries of the table."""
        cdef Py_ssize_t i
        cdef int s, n_steps = <int> steps.shape[0]
        cdef int32_t pixel, there, lightest_bits = bits_of_lightest(heaviest)
        cdef Py_ssize_t source = 0
        cdef int32_t zone = -2
        cdef float own
        cdef Queue *queue = &self.queue
        with nogil:
            for i in range(relief.shape[0]):
                queue.pixels[i].relief = relief[i]
            while True:
                pixel = enter(queue, &self.table, sources, source_arrivals, &source, &zone)
                if pixel < 0:
                    break
                own = queue.pixels[pixel].relief
                for s in range(n_steps):
                    there = <int32_t> (pixel + steps[s])
                    if queue.pixels[there].in_list != DONE:
                        wait(queue, pixel, there, list_of(own + queue.pixels[there].relief, lightest_bits))
            store(queue, arrivals)
        return self.table.n

    def over_graph(
        self, const int64_t[::1] starts, const int32_t[::1] targets, const uint16_t[::1] levels,
        const int32_t[::1] sources, const int32_t[::1] source_arrivals, int32_t[::1] arrivals,
    ):
        """Flood a graph: edges from node u lead to targets[starts[u]:starts[u + 1]], at these levels."""
        cdef int64_t i
        cdef int32_t node
        cdef Py_ssize_t source = 0
        cdef int32_t zone = -2
        cdef Queue *queue = &self.queue
        with nogil:
            while True:
                node = enter(queue, &self.table, sources, source_arrivals, &source, &zone)
                if node < 0:
                    break
                for i in range(starts[node], starts[node + 1]):
                    if queue.pixels[targets[i]].in_list != DONE:
                        wait(queue, node, targets[i], levels[i])
            store(queue, arrivals)
        return self.table.n


cdef inline void wait(Queue *queue, int32_t pixel, int32_t there, int32_t level) noexcept nogil:
    """Let a neighbour wait at the end of this edge, if it is the lightest to reach it."""
    if level < queue.pixels[there].in_list:
        if queue.pixels[there].in_list != UNREACHED:
            remove(queue, there)
        append(queue, there, level, queue.pixels[pixel].arrival)


cdef inline int32_t enter(
    Queue *queue, Table *table, const int32_t[::1] sources, const int32_t[::1] source_arrivals,
    Py_ssize_t *source, int32_t *zone,
) noexcept nogil:
    """Enter the pixel that is next, and give it its arrival; -1: there is none.

    Pixels wait with the arrival at the other end of their edge. `zone` is the level of the last arrival: what
    waits at lower levels belongs to the same zone.
    """
    cdef int32_t pixel = lightest(queue), arrival = -1, other
    if pixel >= 0 and queue.pixels[pixel].in_list < zone[0]:
        remove(queue, pixel)
        queue.pixels[pixel].in_list = DONE
        return pixel
    while source[0] < sources.shape[0] and queue.pixels[sources[source[0]]].in_list == DONE:
        source[0] += 1
    if pixel >= 0:
        arrival = <int32_t> crossed(table, queue.pixels[pixel].arrival, queue.pixels[pixel].in_list)
    if source[0] < sources.shape[0] and (
        pixel < 0 or compare(table, source_arrivals[source[0]], arrival) < 0
    ):
        other = sources[source[0]]
        arrival = source_arrivals[source[0]]
        source[0] += 1
        if queue.pixels[other].in_list != UNREACHED:
            remove(queue, other)
        pixel = other
    elif pixel >= 0:
        remove(queue, pixel)
    else:
        return -1
    queue.pixels[pixel].in_list = DONE
    queue.pixels[pixel].arrival = arrival
    zone[0] = table.levels[arrival]
    return pixel


cdef inline void store(const Queue *queue, int32_t[::1] arrivals) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(arrivals.shape[0]):
        if arrivals[i] >= -1:
            arrivals[i] = queue.pixels[i].arrival


cdef inline int32_t union_of(int32_t *sets, int32_t u, int32_t v) noexcept nogil:
    """Make two roots one, which holds what one of them holds."""
    cdef int32_t low = min(u, v), high = max(u, v)
    if low != high:
        sets[2 * high] = low
        sets[2 * low + 1] |= sets[2 * high + 1]
    return low


def contract(
    Py_ssize_t n, const int32_t[::1] us, const int32_t[::1] vs, const uint16_t[::1] levels,
    const uint8_t[::1] keep,
):
    """Contract the zones of a graph of n nodes without a kept node, and drop the edges that no arrival needs.

    A *zone* of a level is what edges up to that level join. A zone without a kept node is entered through a
    heavier edge, so that all of it is entered at once: it becomes one node. An edge within a zone of lower
    edges is never the earliest way.

    Return for the edges that are left, in ascending order of levels: their two ends, their places in the
    given edges, the zones of lower levels at both ends (one of their nodes), and which of these have a kept
    node (bits 1 and 2).
    """
    cdef Py_ssize_t n_edges = us.shape[0], n_left = 0, m, i, j, first, last, largest = 0, level
    sets_array, nodes_array = np.empty((2, 2 * max(n, 1)), np.int32)
    counts_array = np.zeros(N_LISTS + 1, np.intp)
    order_array = np.empty(n_edges, np.int32)
    cdef int32_t[::1] sets = sets_array, nodes = nodes_array, order = order_array
    cdef Py_ssize_t[::1] ends = counts_array
    cdef int32_t e, u, v, root
    cdef int32_t *zone_of = &sets[0]
    cdef int32_t *node_of = &nodes[0]
    with nogil:
        make_sets(zone_of, n)
        make_sets(node_of, n)
        for i in range(n):
            zone_of[2 * i + 1] = keep[i]  # of a root: whether its zone has a kept node
            node_of[2 * i + 1] = 0
        for i in range(n_edges):
            ends[levels[i] + 1] += 1
        for i in range(N_LISTS):
            largest = max(largest, ends[i + 1])
            ends[i + 1] += ends[i]
        for i in range(n_edges):
            order[ends[levels[i]]] = <int32_t> i
            ends[levels[i]] += 1  # in the end, where the edges of a level end
    batch_array = np.empty((3, largest), np.int32)
    kept_array = np.empty(largest, np.uint8)
    found_array = np.empty((5, n_edges), np.int32)
    found_kept_array = np.empty(n_edges, np.uint8)
    cdef int32_t[:, ::1] batch = batch_array, found = found_array
    cdef uint8_t[::1] kept = kept_array, found_kept = found_kept_array
    with nogil:
        first = 0
        for level in range(N_LISTS):
            last, m = ends[level], 0
            for i in range(first, last):
                e = order[i]
                u, v = find(zone_of, us[e]), find(zone_of, vs[e])
                if u == v:
                    continue
                kept[m] = <uint8_t> ((zone_of[2 * u + 1] != 0) | ((zone_of[2 * v + 1] != 0) << 1))
                batch[0, m] = e
                batch[1, m] = u if zone_of[2 * u + 1] else find(node_of, us[e])
                batch[2, m] = v if zone_of[2 * v + 1] else find(node_of, vs[e])
                m += 1
            first = last
            for j in range(m):
                e = batch[0, j]
                union_of(zone_of, find(zone_of, us[e]), find(zone_of, vs[e]))
            for j in range(m):
                e = batch[0, j]
                root = find(zone_of, us[e])
                u, v = find(node_of, us[e]), find(node_of, vs[e])
                if zone_of[2 * root + 1] == 0:
                    union_of(node_of, u, v)
                    continue
                found[0, n_left], found[1, n_left], found[2, n_left] = u, v, e
                found[3, n_left], found[4, n_left] = batch[1, j], batch[2, j]
                found_kept[n_left] = kept[j]
                n_left += 1
    return found_array[:, :n_left].copy(), found_kept_array[:n_left].copy()


def needed_edges(
    const int32_t[:, ::1] found, const uint8_t[::1] kept, const uint16_t[::1] levels,
    const uint8_t[::1] first_of_pair, uint8_t[::1] wanted,
):
    """Return which edges of `contract` lead between kept nodes, and not into a dead end.

    `levels` ascend. `first_of_pair` says for each edge whether it counts: of several edges between the same
    two zones, one does. `wanted` (N) is 1 for kept nodes, and will be for all that edges are left at.
    """
    cdef Py_ssize_t n_edges = levels.shape[0], n = wanted.shape[0], start, end = n_edges, i
    alive_array = np.empty(n_edges, np.uint8)
    degree_array, others_array = np.zeros(n, np.int32), np.zeros(n, np.int32)
    fixed_array, dead_array = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    stack_array = np.empty(max(n, 1), np.int32)
    cdef uint8_t[::1] alive = alive_array, fixed = fixed_array, dead = dead_array
    cdef int32_t[::1] degree = degree_array, others = others_array, stack = stack_array
    cdef Py_ssize_t depth
    cdef int32_t a, b, zone, other
    cdef int side
    with nogil:
        while end > 0:
            start = end - 1
            while start > 0 and levels[start - 1] == levels[end - 1]:
                start -= 1
            for i in range(start, end):
                a, b = found[3, i], found[4, i]
                fixed[a], fixed[b] = kept[i] & 1, kept[i] >> 1  # a zone with kept nodes is no dead end
                if first_of_pair[i]:
                    degree[a] += 1
                    degree[b] += 1
                    others[a] ^= b
                    others[b] ^= a
            for i in range(start, end):
                for side in range(2):
                    zone = found[3 + side, i]
                    depth = 0
                    if degree[zone] == 1 and not fixed[zone] and not wanted[zone]:
                        stack[0], depth = zone, 1
                    while depth > 0:
                        depth -= 1
                        zone = stack[depth]
                        if degree[zone] != 1:
                            continue
                        other = others[zone]
                        dead[zone], degree[zone] = 1, 0
                        degree[other] -= 1
                        others[other] ^= zone
                        if degree[other] == 1 and not fixed[other] and not wanted[other]:
                            stack[depth] = other
                            depth += 1
            for i in range(start, end):
                alive[i] = not (dead[found[3, i]] or dead[found[4, i]])
            for i in range(start, end):
                a, b = found[3, i], found[4, i]
                degree[a], degree[b], others[a], others[b], dead[a], dead[b] = 0, 0, 0, 0, 0, 0
                if alive[i]:
                    wanted[found[0, i]], wanted[found[1, i]] = 1, 1
            end = start
    return alive_array
