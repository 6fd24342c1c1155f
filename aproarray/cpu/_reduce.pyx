"""Reduce a line to what is seen from some of its items, put it together again, and sum over its stretches.

A line is items and the gaps between them; the distance of two items is the largest gap between them. A
reduced line has *entries*: stretches of the line, in its order, that together cover it.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t

import numpy as np

ctypedef fused real:
    float
    double

ctypedef fused node_t:
    int32_t
    int64_t


cdef struct Entries:
    int64_t *starts
    double *gaps  # before every entry
    Py_ssize_t n


cdef inline double count_of(const double[::1] counts, Py_ssize_t i) noexcept nogil:
    return counts[i] if counts.shape[0] else 1


cdef inline void emit(Entries *entries, Py_ssize_t start, double gap) noexcept nogil:
    entries.starts[entries.n] = start
    entries.gaps[entries.n] = gap
    entries.n += 1


cdef void see_ahead(
    Entries *entries, const real[::1] gaps, const double[::1] counts, Py_ssize_t kept, Py_ssize_t last
) noexcept nogil:
    """Add the entries that a kept item sees after itself, up to the item `last`.

    Every new largest gap starts an entry: its items are all at that distance. An entry that holds nothing
    is made one with the next; the last one, with the one before.
    """
    cdef Py_ssize_t own = entries.n, i
    cdef double largest = 0, count = 0
    for i in range(kept, last):
        if gaps[i] > largest:
            largest = gaps[i]
            if entries.n > own and count == 0:
                entries.gaps[entries.n - 1] = largest
            else:
                emit(entries, i + 1, largest)
            count = 0
        count += count_of(counts, i + 1)
    if entries.n > own and count == 0:
        entries.n -= 1


cdef void see_behind(
    Entries *entries, const real[::1] gaps, const double[::1] counts, Py_ssize_t kept, Py_ssize_t first,
    double gap, Entries *seen,
) noexcept nogil:
    """Add the entries that a kept item sees before itself, down to the item `first`, and its own.

    `gap` lies before `first`; `seen` is room to collect them in, as they come furthest last.
    """
    cdef Py_ssize_t i, own_start = kept
    cdef double largest = 0, count = 0
    seen.n = 0
    for i in range(kept - 1, first - 1, -1):
        if gaps[i] > largest:
            largest = gaps[i]
            if seen.n and count == 0:
                seen.gaps[seen.n - 1] = largest
            else:
                emit(seen, i, largest)
            count = 0
        count += count_of(counts, i)
        if seen.n:
            seen.starts[seen.n - 1] = i
        else:
            own_start = i
    if seen.n and count == 0:
        seen.n -= 1
        if seen.n:
            seen.starts[seen.n - 1] = first
        else:
            own_start = first
    for i in range(seen.n - 1, -1, -1):
        emit(entries, seen.starts[i], gap)
        gap = seen.gaps[i]
    emit(entries, own_start, gap)


def reduce_line(const real[::1] gaps, const uint8_t[::1] keep, const double[::1] counts):
    """Reduce a line of N items to the kept ones, and to one entry for all items at one distance from them.

    `counts` (N; without entries: 1 each) says what items hold: nothing is recorded of items of count 0.
    Returns where entries start (E), the gaps between them (E-1), and the entries of the kept items in their
    order. A line without kept items becomes one entry. O(N).
    """
    cdef Py_ssize_t n = keep.shape[0], i, j, middle, previous = -1, n_kept = 0
    cdef int64_t[::1] starts = np.empty(n, np.int64)
    cdef double[::1] between = np.empty(n)
    cdef int64_t[::1] seen_starts = np.empty(n, np.int64)
    cdef double[::1] seen_gaps = np.empty(n)
    cdef int64_t[::1] kept_entries = np.empty(np.count_nonzero(keep), np.int64)
    cdef Entries entries, seen
    kind = np.asarray(gaps).dtype
    if n == 0:
        return np.empty(0, np.int64), np.empty(0, kind), np.empty(0, np.int64)
    entries.starts, entries.gaps, entries.n = &starts[0], &between[0], 0
    seen.starts, seen.gaps, seen.n = &seen_starts[0], &seen_gaps[0], 0
    with nogil:
        for i in range(n):
            if not keep[i]:
                continue
            if previous < 0:
                see_behind(&entries, gaps, counts, i, 0, 0, &seen)
            else:
                middle = previous
                for j in range(previous + 1, i):
                    if gaps[j] > gaps[middle]:
                        middle = j
                see_ahead(&entries, gaps, counts, previous, middle)
                see_behind(&entries, gaps, counts, i, middle + 1, gaps[middle], &seen)
            kept_entries[n_kept] = entries.n - 1
            n_kept += 1
            previous = i
        if previous < 0:
            emit(&entries, 0, 0)
        else:
            see_ahead(&entries, gaps, counts, previous, n - 1)
    return (
        np.array(starts[:entries.n]),
        np.asarray(between[min(1, entries.n):entries.n]).astype(kind),
        np.asarray(kept_entries),
    )


def expand_line(
    const node_t[::1] pixels, const real[::1] gaps, const int64_t[::1] bounds,
    const int64_t[::1] order, const real[::1] gaps_between, Py_ssize_t n_pixels,
):
    """Put stretches of a line of pixels and K other items into another order; O(N + K).

    Entry e < E is the stretch bounds[e] to bounds[e+1], entry E + k the k-th other item, whose number on the
    line becomes n_pixels + k. Returns the line, its gaps, and where the entries start.
    """
    cdef Py_ssize_t n_own = bounds.shape[0] - 1, i, k, entry, place = 0
    cdef Py_ssize_t n_all = pixels.shape[0] + order.shape[0] - n_own
    new_pixels, new_gaps = np.empty(n_all, np.asarray(pixels).dtype), np.empty(n_all, np.asarray(gaps).dtype)
    new_starts = np.empty(order.shape[0], np.int64)
    cdef node_t[::1] out_pixels = new_pixels
    cdef real[::1] out_gaps = new_gaps  # before every item
    cdef int64_t[::1] out_starts = new_starts
    with nogil:
        for k in range(order.shape[0]):
            entry = order[k]
            out_starts[k] = place
            if k:
                out_gaps[place] = gaps_between[k - 1]
            if entry >= n_own:
                out_pixels[place] = <node_t> (n_pixels + entry - n_own)
                place += 1
                continue
            for i in range(bounds[entry], bounds[entry + 1]):
                out_pixels[place] = pixels[i]
                if i > bounds[entry]:
                    out_gaps[place] = gaps[i - 1]
                place += 1
    return new_pixels, new_gaps[1:], new_starts


def sum_stretches(
    const real[:, :] values, const node_t[::1] pixels, const int64_t[::1] starts, const int64_t[::1] ends,
    double[:, ::1] out,
):
    """Fill out (E, C) with the sums of values (N, C) over stretches of a line of pixels; O(N C)."""
    cdef Py_ssize_t n_columns = values.shape[1], e, i, c
    with nogil:
        for e in range(starts.shape[0]):
            for c in range(n_columns):
                out[e, c] = 0
            for i in range(starts[e], ends[e]):
                for c in range(n_columns):
                    out[e, c] += values[pixels[i], c]
