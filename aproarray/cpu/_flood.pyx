"""Labels from seeds: the minimum spanning forest rooted at the seeds, and votes over small windows.

Both work on images that are padded on all sides by pixels that take no part (label -1), so that a
neighbour is a fixed step away from every pixel. Neither depends on the number of labels.
"""

from libc.math cimport exp
from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static int32_t apro_float_bits(float x) { int32_t bits; memcpy(&bits, &x, 4); return bits; }
    #if defined(_MSC_VER)
    #include <intrin.h>
    static int apro_lowest_bit(uint64_t x) {
        unsigned long i;
        if (_BitScanForward(&i, (unsigned long) x)) return (int) i;
        _BitScanForward(&i, (unsigned long) (x >> 32));
        return (int) i + 32;
    }
    #else
    static int apro_lowest_bit(uint64_t x) { return __builtin_ctzll(x); }
    #endif
    """
    int32_t apro_float_bits(float x) noexcept nogil
    int apro_lowest_bit(uint64_t x) noexcept nogil

cdef enum:
    # Edges wait in lists of nearly equal weight: 2^10 to a power of two, over 16 powers of two.
    DROPPED_BITS = 13  # of the 23 of a float's fraction
    N_LISTS = 1 << 14
    N_WORDS = N_LISTS // 64  # which lists hold edges: a bit each, ...
    N_TOP_WORDS = N_WORDS // 64  # ... and which of those words are not 0
    UNREACHED = N_LISTS  # compares as heavier than any list
    DONE = -1


cdef struct Pixel:
    # All there is to know of a pixel in one place, as neighbours are far away in memory. If it waits, it does
    # at the end of the lightest edge that has reached it, between two others in its list.
    int32_t before
    int32_t after
    int32_t in_list  # or DONE: has a label or takes no part, or UNREACHED
    int32_t label
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


cdef inline void append(Queue *queue, int32_t pixel, int32_t k, int32_t label) noexcept nogil:
    cdef Pixel *own = &queue.pixels[pixel]
    cdef int32_t word = k >> 6
    own.in_list = k
    own.label = label
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


cdef inline void reach(
    Queue *queue, const Py_ssize_t *steps, int n_steps, int32_t pixel, int32_t lightest_bits
) noexcept nogil:
    """Let a pixel's unlabelled neighbours wait for its label, if its edge is the lightest to reach them."""
    cdef int s
    cdef int32_t there, k, label = queue.pixels[pixel].label
    cdef float relief = queue.pixels[pixel].relief
    for s in range(n_steps):
        there = <int32_t> (pixel + steps[s])
        if queue.pixels[there].in_list == DONE:
            continue
        k = (apro_float_bits(relief + queue.pixels[there].relief) - lightest_bits) >> DROPPED_BITS
        k = max(0, min(k, N_LISTS - 1))
        if k < queue.pixels[there].in_list:
            if queue.pixels[there].in_list != UNREACHED:
                remove(queue, there)
            append(queue, there, k, label)


def flood(const float[::1] relief, int32_t[::1] labels, const Py_ssize_t[::1] steps, float heaviest):
    """Give unlabelled pixels (0) the label that Prim's algorithm brings them, from all seeds at once.

    An edge weighs relief[u] + relief[v], at most `heaviest`. Weights are compared to 11 significant bits,
    and as equal below heaviest / 2^15; of equal edges the one reached first goes first, so that a plain
    area is shared out by the number of steps from the seeds. Pixels of label -1 are never entered.
    """
    cdef Py_ssize_t n = relief.shape[0], i
    cdef int n_steps = <int> steps.shape[0]
    cdef int32_t pixel, bits = apro_float_bits(heaviest) - ((16 << 23) - (1 << 23))
    cdef Queue *queue
    if n == 0 or n_steps == 0:
        return
    bits &= ~((1 << 23) - 1)
    queue = <Queue *> calloc(1, sizeof(Queue))
    if queue != NULL:
        queue.pixels = <Pixel *> malloc(n * sizeof(Pixel))
        queue.first = <int32_t *> malloc(N_LISTS * sizeof(int32_t))
        queue.last = <int32_t *> malloc(N_LISTS * sizeof(int32_t))
    if queue == NULL or queue.pixels == NULL or queue.first == NULL or queue.last == NULL:
        if queue != NULL:
            free(queue.pixels)
            free(queue.first)
            free(queue.last)
            free(queue)
        raise MemoryError(f"no memory to flood {n} pixels")
    with nogil:
        for i in range(N_LISTS):
            queue.first[i] = -1
        for i in range(n):
            queue.pixels[i].in_list = DONE if labels[i] else UNREACHED
            queue.pixels[i].label = labels[i]
            queue.pixels[i].relief = relief[i]
        for i in range(n):
            if labels[i] > 0:
                reach(queue, &steps[0], n_steps, <int32_t> i, bits)
        while True:
            pixel = lightest(queue)
            if pixel < 0:
                break
            remove(queue, pixel)
            queue.pixels[pixel].in_list = DONE
            reach(queue, &steps[0], n_steps, pixel, bits)
        for i in range(n):
            if queue.pixels[i].in_list == DONE:
                labels[i] = queue.pixels[i].label
        free(queue.pixels)
        free(queue.first)
        free(queue.last)
        free(queue)


cdef struct Ballot:
    # Votes of one pixel's window: the labels it holds, in the order they are met, and their votes.
    double *votes
    int32_t *met
    int n_met
    double total


cdef inline void vote_at(
    Ballot *ballot, const int32_t *labels, const int32_t *zones, const float *features, int n_channels,
    const Py_ssize_t *steps, int n_steps, Py_ssize_t pixel, double scale,
) noexcept nogil:
    cdef int s, c
    cdef int32_t label
    cdef Py_ssize_t there
    cdef double distance, difference
    ballot.n_met = 1
    ballot.met[0] = labels[pixel]
    ballot.votes[labels[pixel]] = 1  # its own
    ballot.total = 1
    for s in range(n_steps):
        there = pixel + steps[s]
        label = labels[there]
        if label <= 0 or (zones != NULL and zones[there] != zones[pixel]):
            continue
        distance = 0
        for c in range(n_channels):
            difference = features[pixel * n_channels + c] - features[there * n_channels + c]
            distance += difference * difference
        if ballot.votes[label] == 0:
            ballot.met[ballot.n_met] = label
            ballot.n_met += 1
            ballot.votes[label] = 1e-300  # has been met, whatever its votes
        distance = exp(-distance * scale)
        ballot.votes[label] += distance
        ballot.total += distance


def vote(
    const float[:, ::1] features, int32_t[::1] labels, const int32_t[::1] zones,
    const unsigned char[::1] held, const Py_ssize_t[::1] steps, double scale, int iterations,
    int n_labels, float[:, ::1] shares,
):
    """Give pixels the label of the largest vote over their window, `iterations` times, all at once.

    A neighbour at squared distance d in `features` (N, C) votes with exp(-d scale), the pixel itself
    with 1; `steps` lead to the others of the window. Pixels of different `zones` (no entries: there is
    one) do not hear one another. Ties keep the label. Only pixels that are not `held` and have a label
    change. `shares` (N, n_labels, or no rows) receives the votes of the last
    iteration, as shares.
    """
    cdef Py_ssize_t n = labels.shape[0], i, pixel, n_active = 0, n_next, n_changed
    cdef int n_steps = <int> steps.shape[0], n_channels = <int> features.shape[1], s, iteration, m
    cdef int32_t best
    cdef bint last, wanted = shares.shape[0] > 0
    cdef const int32_t *zones_data = &zones[0] if zones.shape[0] else NULL
    cdef Ballot ballot
    cdef Py_ssize_t *active
    cdef Py_ssize_t *following
    cdef int32_t *chosen
    cdef unsigned char *queued
    if n == 0:
        return
    ballot.votes = <double *> calloc(n_labels + 1, sizeof(double))
    ballot.met = <int32_t *> malloc((n_steps + 1) * sizeof(int32_t))
    active = <Py_ssize_t *> malloc(n * sizeof(Py_ssize_t))
    following = <Py_ssize_t *> malloc(n * sizeof(Py_ssize_t))
    chosen = <int32_t *> malloc(n * sizeof(int32_t))
    queued = <unsigned char *> calloc(n, 1)
    if (ballot.votes == NULL or ballot.met == NULL or active == NULL or following == NULL
            or chosen == NULL or queued == NULL):
        free(ballot.votes)
        free(ballot.met)
        free(active)
        free(following)
        free(chosen)
        free(queued)
        raise MemoryError(f"no memory for the votes of {n} pixels")
    with nogil:
        n_active = with_mixed_window(&labels[0], &held[0], &steps[0], n_steps, n, active)
        for iteration in range(iterations):
            last = iteration + 1 == iterations
            if last and wanted:
                n_active = with_mixed_window(&labels[0], &held[0], &steps[0], n_steps, n, active)
                for i in range(n):
                    if labels[i] > 0:
                        shares[i, labels[i] - 1] = 1
            for i in range(n_active):
                pixel = active[i]
                vote_at(
                    &ballot, &labels[0], zones_data, &features[0, 0], n_channels, &steps[0], n_steps, pixel,
                    scale,
                )
                best = labels[pixel]
                for m in range(ballot.n_met):
                    if ballot.votes[ballot.met[m]] > ballot.votes[best]:
                        best = ballot.met[m]
                chosen[i] = best
                for m in range(ballot.n_met):
                    if last and wanted:
                        shares[pixel, ballot.met[m] - 1] = <float> (
                            ballot.votes[ballot.met[m]] / ballot.total
                        )
                    ballot.votes[ballot.met[m]] = 0
            # Next, only windows in which something has changed can vote otherwise than they did.
            n_changed = 0
            for i in range(n_active):
                pixel = active[i]
                queued[pixel] = 0
                if chosen[i] != labels[pixel]:
                    labels[pixel] = chosen[i]
                    active[n_changed] = pixel
                    n_changed += 1
            if n_changed == 0 and not (wanted and not last):
                break
            n_next = 0
            for i in range(n_changed):
                for s in range(n_steps + 1):
                    pixel = active[i] + (steps[s] if s < n_steps else 0)
                    if labels[pixel] > 0 and not held[pixel] and not queued[pixel]:
                        queued[pixel] = 1
                        following[n_next] = pixel
                        n_next += 1
            active, following = following, active
            n_active = n_next
        free(ballot.votes)
        free(ballot.met)
        free(active)
        free(following)
        free(chosen)
        free(queued)


cdef Py_ssize_t with_mixed_window(
    const int32_t *labels, const unsigned char *held, const Py_ssize_t *steps, int n_steps, Py_ssize_t n,
    Py_ssize_t *pixels,
) noexcept nogil:
    """List the pixels that may change: those whose window holds another label than theirs."""
    cdef Py_ssize_t i, count = 0
    cdef int32_t label, other
    cdef int s
    for i in range(n):
        label = labels[i]
        if label <= 0 or held[i]:
            continue
        for s in range(n_steps):
            other = labels[i + steps[s]]
            if other > 0 and other != label:
                pixels[count] = i
                count += 1
                break
    return count
