"""Which label a pixel takes where floods disagree: how far its seeds are, and how alike, for each."""

from libc.math cimport INFINITY, log, sqrt
from libc.stdint cimport int32_t, int64_t

cdef enum:
    MAX_NDIM = 8
    LANES = 8  # seeds that a pixel is compared with at a time

SEEDS_AT_ONCE = LANES


cdef inline void add_squares(double *squares, double here, const double *there) noexcept nogil:
    cdef int lane
    cdef double step
    for lane in range(LANES):
        step = here - there[lane]
        squares[lane] += step * step


cdef inline void keep_least(double *least, const double *squares) noexcept nogil:
    cdef int lane
    for lane in range(LANES):
        least[lane] = min(least[lane], squares[lane])


cdef class Evidence:
    """Some seeds of each label, which pixels are compared with.

    Those of label l, from 1 on, are the blocks begins[l] to begins[l + 1]: at `places` (B, ndim, 8), in
    units, with `colours` (B, C, 8). A block that is not full repeats its last seed. `features` (N, C) are the
    pixels' own, in an image of a shape whose axes have a spacing.
    """

    cdef const int32_t[::1] begins
    cdef const double[:, :, ::1] places
    cdef const double[:, :, ::1] colours
    cdef const float[:, ::1] features
    cdef int ndim
    cdef Py_ssize_t strides[MAX_NDIM]
    cdef double spacing[MAX_NDIM]

    def __cinit__(
        self, const int32_t[::1] begins, const double[:, :, ::1] places, const double[:, :, ::1] colours,
        const float[:, ::1] features, tuple shape, tuple spacing,
    ):
        cdef Py_ssize_t stride = 1, axis
        self.begins, self.places, self.colours, self.features = begins, places, colours, features
        self.ndim = len(shape)
        for axis in range(self.ndim - 1, -1, -1):
            self.strides[axis] = stride
            self.spacing[axis] = spacing[axis]
            stride *= shape[axis]

    cdef inline void nearest(
        self, Py_ssize_t pixel, int32_t label, double *distance, double *difference
    ) noexcept nogil:
        """Measure how far the nearest seed of a label is, and how much the most alike one differs."""
        cdef double place[MAX_NDIM]
        cdef double[LANES] near, alike, squares
        cdef Py_ssize_t rest = pixel, c, block, n_channels = self.features.shape[1]
        cdef int axis, lane
        for axis in range(self.ndim):
            place[axis] = <double> (rest // self.strides[axis]) * self.spacing[axis]
            rest %= self.strides[axis]
        for lane in range(LANES):
            near[lane] = alike[lane] = INFINITY
        for block in range(self.begins[label], self.begins[label + 1]):
            for lane in range(LANES):
                squares[lane] = 0
            for axis in range(self.ndim):
                add_squares(squares, place[axis], &self.places[block, axis, 0])
            keep_least(near, squares)
            for lane in range(LANES):
                squares[lane] = 0
            for c in range(n_channels):
                add_squares(squares, self.features[pixel, c], &self.colours[block, c, 0])
            keep_least(alike, squares)
        for lane in range(1, LANES):
            near[0] = min(near[0], near[lane])
            alike[0] = min(alike[0], alike[lane])
        distance[0], difference[0] = sqrt(near[0]), sqrt(alike[0])

    def sample(
        self, const int32_t[::1] first_map, const int32_t[::1] second_map, const int32_t[::1] third_map,
        const int32_t[::1] seeds, const int64_t[::1] every, int64_t[::1] seen, double[::1] distances,
        double[::1] differences, int64_t[::1] counts, Py_ssize_t first, Py_ssize_t last,
    ):
        """Add up distances and differences of pixels [first, last) that all floods give one label.

        Of those of label l that are no seeds, every[l]-th counts; `seen` of them were there before.
        """
        cdef Py_ssize_t i
        cdef int32_t label
        cdef double distance, difference
        with nogil:
            for i in range(first, last):
                label = first_map[i]
                if label <= 0 or label != second_map[i] or label != third_map[i] or seeds[i] > 0:
                    continue
                if seen[label] % every[label] == 0:
                    self.nearest(i, label, &distance, &difference)
                    distances[label] += distance
                    differences[label] += difference
                    counts[label] += 1
                seen[label] += 1

    def choose(
        self, const int32_t[::1] first_map, const int32_t[::1] second_map, const int32_t[::1] third_map,
        const double[::1] trust, double strength, double most, const double[::1] per_distance,
        const double[::1] per_difference, const Py_ssize_t[::1] pixels, int32_t[::1] labels,
        Py_ssize_t first, Py_ssize_t last,
    ):
        """Give pixels[first:last], of the three labels that floods bring, the one of the highest score.

        It is the sum of `trust` (3) over the floods that bring it, less `strength` times two numbers. One is
        log(1 + d), d being the distance of its nearest seed times per_distance[label]. The other is the same
        for the difference to the most alike one. Both together are at most `most`, strength included: where
        trust alone leads by more, nothing is compared.
        """
        cdef Py_ssize_t i, pixel
        cdef int32_t label, best_label
        cdef int32_t brought[3]
        cdef double distance, difference, score, best
        cdef int k, other
        with nogil:
            for i in range(first, last):
                pixel = pixels[i]
                brought[0], brought[1], brought[2] = first_map[pixel], second_map[pixel], third_map[pixel]
                best_label, best = brought[0], 0
                if brought[1] == brought[2] and trust[1] + trust[2] - trust[0] > most:
                    labels[pixel] = brought[1]
                    continue
                if (
                    (brought[0] == brought[1] and trust[0] + trust[1] - trust[2] > most)
                    or (brought[0] == brought[2] and trust[0] + trust[2] - trust[1] > most)
                ):
                    labels[pixel] = brought[0]
                    continue
                for k in range(3):
                    label = brought[k]
                    if k > 0 and (label == brought[0] or (k == 2 and label == brought[1])):
                        continue  # which has its score already
                    score = trust[k]
                    for other in range(k + 1, 3):
                        if brought[other] == label:
                            score += trust[other]
                    if k > 0 and score <= best:
                        continue  # it only gets lower
                    self.nearest(pixel, label, &distance, &difference)
                    score -= strength * log(
                        (1 + per_distance[label] * distance) * (1 + per_difference[label] * difference)
                    )
                    if k == 0 or score > best:
                        best_label, best = label, score
                labels[pixel] = best_label
