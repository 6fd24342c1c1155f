"""Which label a pixel takes where floods disagree: how far its seeds are, and how alike, for each."""

from libc.math cimport INFINITY, sqrtf
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memcpy, memset  # for the code below

cdef enum:
    MAX_NDIM = 8
    LANES = 8  # seeds that a pixel is compared with at a time
    RANKS = 32  # of keys: the number of leading zeros, of 32 bits
    MOST_SAMPLED = 511  # pixels of a label whose comparison is taken for usual

SEEDS_AT_ONCE, KEY_RANKS, SAMPLED = LANES, RANKS, MOST_SAMPLED


cdef extern from *:
    """
    /* The least squared distance of n numbers to 8 seeds at a time. Compilers do not make vector code of the
       comparison by themselves. */
    #if defined(__GNUC__) || defined(__clang__)
    #ifdef __AVX2__
    #define APRO_WIDTH 8
    #else
    #define APRO_WIDTH 4
    #endif
    typedef float apro_lanes __attribute__((vector_size(4 * APRO_WIDTH)));
    typedef int apro_lanes_bits __attribute__((vector_size(4 * APRO_WIDTH)));
    typedef float apro_unaligned __attribute__((vector_size(4 * APRO_WIDTH), aligned(4), may_alias));
    static inline apro_lanes apro_less_lanes(apro_lanes a, apro_lanes b) {
        apro_lanes_bits less = a < b;
        return (apro_lanes) (((apro_lanes_bits) a & less) | ((apro_lanes_bits) b & ~less));
    }
    #define APRO_DIFFERENCE(number, there) ((number) - *(const apro_unaligned *) (there))
    #else
    #define APRO_WIDTH 1
    typedef float apro_lanes;
    #define apro_less_lanes apro_less
    #define APRO_DIFFERENCE(number, there) ((number) - *(there))
    #endif
    static inline float apro_less(float a, float b) { return a < b ? a : b; }
    static inline float apro_least_square(
        const float *here, const float *there, Py_ssize_t n_blocks, Py_ssize_t stride, int n
    ) {
        float found[8];
        apro_lanes least[8 / APRO_WIDTH], squares, step;
        Py_ssize_t block;
        int c, part;
        memset(least, 0x7f, sizeof least);  /* 3.4e38 */
        for (block = 0; block < n_blocks; block++, there += stride)
            for (part = 0; part < 8 / APRO_WIDTH; part++) {
                const float *seeds = there + part * APRO_WIDTH;
                step = APRO_DIFFERENCE(here[0], seeds);
                squares = step * step;
                for (c = 1; c < n; c++) {
                    step = APRO_DIFFERENCE(here[c], seeds + 8 * c);
                    squares += step * step;
                }
                least[part] = apro_less_lanes(least[part], squares);
            }
        memcpy(found, least, sizeof found);
        return apro_less(
            apro_less(apro_less(found[0], found[1]), apro_less(found[2], found[3])),
            apro_less(apro_less(found[4], found[5]), apro_less(found[6], found[7])));
    }
    """
    # Seeds are in blocks, of which there is one or more, `stride` numbers apart.
    float least_square "apro_least_square"(
        const float *here, const float *there, Py_ssize_t n_blocks, Py_ssize_t stride, int n
    ) noexcept nogil


cdef class Evidence:
    """Some seeds of each label, which pixels are compared with.

    Those of label l, from 1 on, are the blocks begins[l] to begins[l + 1] of `seeds` (B, ndim + C, 8): their
    places, in units, and their colours. A block that is not full repeats its last seed. `features` (N, C) are
    the pixels' own, in an array of a shape that begins at `origin` in the image. Its axes have a spacing.
    `ratios` make a pixel's key: the sum of its coordinates times these, modulo 2^32.
    """

    cdef const int32_t[::1] begins
    cdef const float[:, :, ::1] seeds
    cdef const float[:, ::1] features
    cdef int ndim
    cdef int n_channels
    cdef int32_t extents[MAX_NDIM]
    cdef int32_t strides[MAX_NDIM]
    cdef int64_t origin[MAX_NDIM]
    cdef float spacing[MAX_NDIM]
    cdef uint32_t ratios[MAX_NDIM]

    def __cinit__(
        self, const int32_t[::1] begins, const float[:, :, ::1] seeds, const float[:, ::1] features,
        tuple shape, tuple origin, tuple spacing, tuple ratios,
    ):
        cdef Py_ssize_t stride = 1, axis
        self.begins, self.seeds, self.features = begins, seeds, features
        self.ndim, self.n_channels = len(shape), <int> features.shape[1]
        for axis in range(self.ndim - 1, -1, -1):
            self.strides[axis], self.extents[axis] = <int32_t> stride, shape[axis]
            self.origin[axis], self.spacing[axis] = origin[axis], spacing[axis]
            self.ratios[axis] = ratios[axis]
            stride *= shape[axis]

    cdef inline void locate(self, int32_t pixel, float *place) noexcept nogil:
        """Write the place of a pixel, in units."""
        cdef int axis
        cdef int32_t along
        for axis in range(self.ndim):
            along = pixel // self.strides[axis]
            pixel -= along * self.strides[axis]
            place[axis] = <float> (along + self.origin[axis]) * self.spacing[axis]

    cdef inline uint32_t key(self, Py_ssize_t pixel) noexcept nogil:
        cdef int axis
        cdef Py_ssize_t along
        cdef uint32_t key = 0
        for axis in range(self.ndim):
            along = pixel // self.strides[axis]
            pixel -= along * self.strides[axis]
            key += <uint32_t> (along + self.origin[axis]) * self.ratios[axis]
        return key

    cdef inline void nearest(
        self, int32_t pixel, const float *place, int32_t label, float *distance, float *difference
    ) noexcept nogil:
        """Measure how far the nearest seed of a label is, and how much the most alike one differs."""
        cdef Py_ssize_t begin = self.begins[label], n_blocks = self.begins[label + 1] - begin
        cdef Py_ssize_t stride = (self.ndim + self.n_channels) * LANES
        cdef const float *places = &self.seeds[0, 0, 0] + begin * stride
        cdef const float *colours = places + self.ndim * LANES
        cdef const float *own = &self.features[pixel, 0]
        if self.ndim == 2:
            distance[0] = sqrtf(least_square(place, places, n_blocks, stride, 2))
        else:
            distance[0] = sqrtf(least_square(place, places, n_blocks, stride, self.ndim))
        if self.n_channels == 3:
            difference[0] = sqrtf(least_square(own, colours, n_blocks, stride, 3))
        else:
            difference[0] = sqrtf(least_square(own, colours, n_blocks, stride, self.n_channels))

    def compare(self, float[:, ::1] distances, float[:, ::1] differences):
        """Measure how far the nearest seed of labels from 1 on is, and how alike the most alike (L, N)."""
        cdef Py_ssize_t i, label
        cdef float place[MAX_NDIM]
        with nogil:
            for i in range(distances.shape[1]):
                self.locate(<int32_t> i, place)
                for label in range(distances.shape[0]):
                    self.nearest(
                        <int32_t> i, place, <int32_t> label + 1, &distances[label, i], &differences[label, i]
                    )

    def survey(
        self, const int32_t[::1] first_map, const int32_t[::1] second_map, const int32_t[::1] third_map,
        const int32_t[::1] seeds, int32_t[::1] apart, int64_t[::1] brought, int32_t[::1] lowest,
        int64_t[:, ::1] counts, double[:, ::1] distances, double[:, ::1] differences, Py_ssize_t first,
        Py_ssize_t last, Py_ssize_t n_apart,
    ):
        """List those of pixels [first, last) on which floods disagree; measure some of the others.

        `brought` counts for each label how often a flood brings it where they disagree. Of the pixels of
        label l on which floods agree, but for seeds, those count whose key has at least lowest[l] leading
        zeros. That is raised until they are at most SAMPLED. Row l of `counts`, `distances` and `differences`
        adds them up by their leading zeros. Return how many pixels are listed now.
        """
        cdef Py_ssize_t i, left = 0, row = self.extents[self.ndim - 1]
        cdef int32_t one, other, another
        cdef uint32_t key = 0, step = self.ratios[self.ndim - 1]
        with nogil:
            for i in range(first, last):
                if left == 0:
                    key, left = self.key(i), row - i % row
                one, other, another = first_map[i], second_map[i], third_map[i]
                if one != other or one != another:
                    apart[n_apart] = <int32_t> i
                    n_apart += 1
                    brought[one] += 1
                    brought[other] += 1
                    brought[another] += 1
                elif one > 0 and key <= (<uint32_t> 0xffffffff) >> lowest[one] and seeds[i] <= 0:
                    self.measure(<int32_t> i, one, key, &lowest[one], counts, distances, differences)
                key += step
                left -= 1
        return n_apart

    cdef void measure(
        self, int32_t pixel, int32_t label, uint32_t key, int32_t *lowest, int64_t[:, ::1] counts,
        double[:, ::1] distances, double[:, ::1] differences,
    ) noexcept nogil:
        cdef float distance, difference
        cdef float place[MAX_NDIM]
        cdef int64_t n = 0
        cdef int rank = lowest[0]
        while rank < RANKS - 1 and key <= (<uint32_t> 0xffffffff) >> (rank + 1):
            rank += 1
        self.locate(pixel, place)
        self.nearest(pixel, place, label, &distance, &difference)
        counts[label, rank] += 1
        distances[label, rank] += distance
        differences[label, rank] += difference
        for rank in range(lowest[0], RANKS):
            n += counts[label, rank]
        while n > MOST_SAMPLED and lowest[0] < RANKS - 1:
            n -= counts[label, lowest[0]]
            counts[label, lowest[0]] = 0
            distances[label, lowest[0]] = differences[label, lowest[0]] = 0
            lowest[0] += 1

    def choose(
        self, const int32_t[::1] first_map, const int32_t[::1] second_map, const int32_t[::1] third_map,
        const float[::1] lead_of_two, const float[::1] lead_of_first, const float[::1] per_distance,
        const float[::1] per_difference, const int32_t[::1] pixels, int32_t[::1] labels,
        Py_ssize_t first, Py_ssize_t last,
    ):
        """Give pixels[first:last] one of the three labels that floods bring: the one with least against it.

        Against a label speaks (1 + d) (1 + c): d is the distance of its nearest seed times
        per_distance[label], and c the difference to the most alike one times per_difference[label]. Where two
        floods bring a label, that of flood k has lead_of_two[k] times as much against it; where none do,
        lead_of_first[k] times (1 for the first). Of equal ones, the first counts.
        """
        cdef Py_ssize_t i
        cdef int32_t pixel, label
        cdef int32_t brought[3]
        cdef float place[MAX_NDIM]
        cdef float against, least
        cdef int k, lone, two
        with nogil:
            for i in range(first, last):
                pixel = pixels[i]
                brought[0], brought[1], brought[2] = first_map[pixel], second_map[pixel], third_map[pixel]
                if brought[0] != brought[1] and brought[0] != brought[2] and brought[1] != brought[2]:
                    labels[pixel] = label = brought[0]
                    if lead_of_first[1] == INFINITY and lead_of_first[2] == INFINITY:
                        continue
                    self.locate(pixel, place)
                    least = self.against(pixel, place, label, per_distance, per_difference)
                    for k in range(1, 3):
                        if least > lead_of_first[k]:  # there is at least 1 against a label
                            against = lead_of_first[k] * self.against(
                                pixel, place, brought[k], per_distance, per_difference
                            )
                            if against < least:
                                label, least = brought[k], against
                    labels[pixel] = label
                    continue
                lone = 0 if brought[1] == brought[2] else 1 if brought[0] == brought[2] else 2
                two = 1 if lone == 0 else 0
                labels[pixel] = brought[two]
                if lead_of_two[lone] == INFINITY:
                    continue
                self.locate(pixel, place)
                least = self.against(pixel, place, brought[two], per_distance, per_difference)
                if least < lead_of_two[lone]:
                    continue
                against = lead_of_two[lone] * self.against(
                    pixel, place, brought[lone], per_distance, per_difference
                )
                if against < least or (against == least and lone == 0):
                    labels[pixel] = brought[lone]

    cdef inline float against(
        self, int32_t pixel, const float *place, int32_t label, const float[::1] per_distance,
        const float[::1] per_difference,
    ) noexcept nogil:
        cdef float distance, difference
        self.nearest(pixel, place, label, &distance, &difference)
        return (1 + per_distance[label] * distance) * (1 + per_difference[label] * difference)
