"""Smoothing and gradients of images whose channels are last, row after row.

A row is a line of pixels along the last axis, and rows are numbered in order over the other axes. Along one
of those, neighbouring rows are `stride` rows apart, and there are `extent` of them. Sums are added in the
order that is written here. Results are therefore the same for any split into rows.
"""

from libc.math cimport sqrtf
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc


cdef inline void blend(
    float *out, const float *own, const float *following, const float *before, Py_ssize_t n, float rest,
    float share,
) noexcept nogil:
    """Write [share rest share] over three rows."""
    cdef Py_ssize_t j
    for j in range(n):
        out[j] = own[j] * rest + following[j] * share + before[j] * share


cdef inline float following_at(const float *row, Py_ssize_t j, Py_ssize_t n, int n_channels) noexcept nogil:
    """Return number j of a row of n, whose last pixel is repeated beyond its end."""
    return row[j] if j < n else row[n - n_channels + j % n_channels]


cdef inline void blend_along(
    float *out, const float *row, Py_ssize_t n, int n_channels, Py_ssize_t step, float rest, float share
) noexcept nogil:
    """Write [share rest share] over pixels `step` apart in a row of n numbers."""
    cdef Py_ssize_t j, apart = step * n_channels, first = min(apart, n), last = max(n - apart, first)
    cdef float following
    for j in range(first):
        following = following_at(row, j + apart, n, n_channels)
        out[j] = row[j] * rest + following * share + row[j % n_channels] * share
    blend(&out[first], &row[first], &row[first + apart], &row[first - apart], last - first, rest, share)
    for j in range(last, n):
        following = following_at(row, j + apart, n, n_channels)
        out[j] = row[j] * rest + following * share + row[j - apart] * share


cdef inline const float *row_beside(
    const float *source, Py_ssize_t row, Py_ssize_t step, Py_ssize_t extent, Py_ssize_t stride, Py_ssize_t n
) noexcept nogil:
    """Return the row `step` rows along an axis, or the last one of the axis on that side."""
    cdef Py_ssize_t place = row // stride % extent
    step = max(-place, min(step, extent - 1 - place))
    return source + (row + step * stride) * n


def smooth(
    const float[::1] source, float[::1] target, Py_ssize_t row_length, int n_channels,
    Py_ssize_t extent, Py_ssize_t stride, Py_ssize_t across, float across_rest, float across_share,
    Py_ssize_t along, float along_rest, float along_share, Py_ssize_t first, Py_ssize_t last,
):
    """Smooth rows [first, last) across the rows of one axis, and then along the last axis.

    Each is [share rest share] over pixels so many steps apart, or nothing if that is 0. The first and last
    pixels of an axis are repeated beyond its ends.
    """
    cdef Py_ssize_t n = row_length * n_channels, row
    cdef const float *own
    cdef const float *blended
    cdef float *buffer
    cdef float *out
    if first == last or n == 0:
        return
    buffer = <float *> malloc(n * sizeof(float))
    if buffer == NULL:
        raise MemoryError(f"no memory to smooth rows of {row_length} pixels")
    with nogil:
        for row in range(first, last):
            own = blended = &source[row * n]
            out = &target[row * n]
            if across:
                blend(
                    buffer if along else out, own, row_beside(&source[0], row, across, extent, stride, n),
                    row_beside(&source[0], row, -across, extent, stride, n), n, across_rest, across_share,
                )
                blended = buffer
            if along:
                blend_along(out, blended, n, n_channels, along, along_rest, along_share)
    free(buffer)


cdef inline void add_squares(
    float *total, float *differences, Py_ssize_t row_length, int n_channels, float spacing
) noexcept nogil:
    """Add to each pixel's total the squares of its channels' differences, per unit, added in order."""
    cdef Py_ssize_t i, j, n = row_length * n_channels
    cdef int c
    cdef float square
    if spacing != 1:
        for j in range(n):
            differences[j] = differences[j] / spacing
    for j in range(n):
        differences[j] = differences[j] * differences[j]
    if n_channels == 1:
        for i in range(row_length):
            total[i] += differences[i]
    elif n_channels == 3:
        for i in range(row_length):
            total[i] += differences[3 * i] + differences[3 * i + 1] + differences[3 * i + 2]
    else:
        for i in range(row_length):
            square = 0
            for c in range(n_channels):
                square += differences[i * n_channels + c]
            total[i] += square


cdef inline void differ(
    float *out, const float *larger, const float *smaller, Py_ssize_t n, float share
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        out[j] = (larger[j] - smaller[j]) * share


cdef inline void differ_inside(
    float *out, const float *before, const float *own, const float *following,
    const unsigned char *is_before, const unsigned char *is_own, const unsigned char *is_following,
    Py_ssize_t row_length, int n_channels,
) noexcept nogil:
    """Write the mean of the differences to those of a pixel's neighbours that take part, as it does."""
    cdef Py_ssize_t i, j
    cdef int c
    cdef bint to_before, to_following
    cdef float difference, count
    for i in range(row_length):
        to_before = is_own[i] and is_before != NULL and is_before[i]
        to_following = is_own[i] and is_following != NULL and is_following[i]
        count = max(1, to_before + to_following)
        for c in range(n_channels):
            j = i * n_channels + c
            difference = 0
            if to_before:
                difference += own[j] - before[j]
            if to_following:
                difference += following[j] - own[j]
            out[j] = difference / count


cdef enum:
    MAX_NDIM = 8


def gradients(
    const float[::1] image, const unsigned char[::1] mask, float[::1] magnitudes, tuple shape, int n_channels,
    tuple spacing, Py_ssize_t first, Py_ssize_t last,
):
    """Write the magnitude of the gradient of the pixels of rows [first, last).

    Differences are those of both neighbours, or of one at the ends of an axis, per `spacing`. With a mask
    (no entries: all pixels take part), both ends of a difference take part.
    """
    cdef int ndim = len(shape), axis
    cdef Py_ssize_t extents[MAX_NDIM]
    cdef Py_ssize_t strides[MAX_NDIM]
    cdef float units[MAX_NDIM]
    cdef Py_ssize_t row_length = shape[ndim - 1], n = row_length * n_channels, stride = 1
    cdef Py_ssize_t row, place, apart, i
    cdef const float *own
    cdef const unsigned char *inside = NULL
    cdef float *differences
    cdef float *out
    for axis in range(ndim - 1, -1, -1):
        extents[axis] = shape[axis]
        units[axis] = spacing[axis]
        if axis < ndim - 1:
            strides[axis] = stride
            stride *= extents[axis]
    if first == last or n == 0:
        return
    differences = <float *> malloc(n * sizeof(float))
    if differences == NULL:
        raise MemoryError(f"no memory for gradients of rows of {row_length} pixels")
    with nogil:
        for row in range(first, last):
            own = &image[row * n]
            out = &magnitudes[row * row_length]
            if mask.shape[0]:
                inside = &mask[row * row_length]
            for i in range(row_length):
                out[i] = 0
            for axis in range(ndim - 1):
                if extents[axis] < 2:
                    continue
                place = row // strides[axis] % extents[axis]
                apart = strides[axis]
                if inside != NULL:
                    differ_inside(
                        differences, own - apart * n, own, own + apart * n,
                        inside - apart * row_length if place > 0 else NULL, inside,
                        inside + apart * row_length if place < extents[axis] - 1 else NULL,
                        row_length, n_channels,
                    )
                elif place == 0:
                    differ(differences, own + apart * n, own, n, 1)
                elif place == extents[axis] - 1:
                    differ(differences, own, own - apart * n, n, 1)
                else:
                    differ(differences, own + apart * n, own - apart * n, n, 0.5)
                add_squares(out, differences, row_length, n_channels, units[axis])
            if row_length > 1:
                differences_along(differences, own, inside, row_length, n_channels)
                add_squares(out, differences, row_length, n_channels, units[ndim - 1])
            for i in range(row_length):
                out[i] = sqrtf(out[i])
    free(differences)


cdef inline void differences_along(
    float *out, const float *row, const unsigned char *inside, Py_ssize_t row_length, int n_channels
) noexcept nogil:
    """Write the differences of a row's pixels (two or more) along the row, as those across rows."""
    cdef Py_ssize_t n = row_length * n_channels
    if inside == NULL:
        differ(out, row + n_channels, row, n_channels, 1)
        differ(out + n_channels, row + 2 * n_channels, row, n - 2 * n_channels, 0.5)
        differ(out + n - n_channels, row + n - n_channels, row + n - 2 * n_channels, n_channels, 1)
    else:
        differ_inside(out, NULL, row, row + n_channels, NULL, inside, inside + 1, 1, n_channels)
        differ_inside(
            out + n_channels, row, row + n_channels, row + 2 * n_channels, inside, inside + 1, inside + 2,
            row_length - 2, n_channels,
        )
        differ_inside(
            out + n - n_channels, row + n - 2 * n_channels, row + n - n_channels, NULL,
            inside + row_length - 2, inside + row_length - 1, NULL, 1, n_channels,
        )


cdef inline double sum_of_squares(
    float *differences, const unsigned char *counted, Py_ssize_t row_length, int n_channels, float unit
) noexcept nogil:
    """Return the sum of squared differences over channels and pixels, all of them or those that count."""
    cdef Py_ssize_t i, j, n = row_length * n_channels
    cdef int c
    cdef float square
    cdef double even = 0, odd = 0
    for j in range(n):
        differences[j] = differences[j] * differences[j]
    for i in range(row_length):
        square = 0
        for c in range(n_channels):
            square += differences[i * n_channels + c]
        if unit != 1:
            square /= unit
        if counted != NULL and not counted[i]:
            continue
        if i & 1:
            odd += square
        else:
            even += square
    return even + odd


cdef inline Py_ssize_t count_both(
    unsigned char *both, const unsigned char *one, const unsigned char *other, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t i, count = 0
    for i in range(n):
        both[i] = one[i] & other[i]
        count += both[i]
    return count


def square_steps(
    const float[::1] image, const unsigned char[::1] mask, double[:, ::1] sums, int64_t[:, ::1] counts,
    tuple shape, int n_channels, tuple units, Py_ssize_t first, Py_ssize_t last,
):
    """Write for rows [first, last) the sum of squared steps along each axis, and how many there are.

    A step leads to the next pixel. Its square is divided by the axis's unit. Both ends take part by the
    mask (no entries: all pixels do).
    """
    cdef int ndim = len(shape), axis
    cdef Py_ssize_t extents[MAX_NDIM]
    cdef Py_ssize_t strides[MAX_NDIM]
    cdef float divisors[MAX_NDIM]
    cdef Py_ssize_t row_length = shape[ndim - 1], n = row_length * n_channels, stride = 1, row, ahead, length
    cdef const float *own
    cdef const unsigned char *inside
    cdef float *differences
    cdef unsigned char *both
    for axis in range(ndim - 1, -1, -1):
        extents[axis] = shape[axis]
        divisors[axis] = units[axis]
        strides[axis] = stride
        if axis < ndim - 1:
            stride *= extents[axis]
    if first == last or n == 0:
        return
    differences = <float *> malloc(n * sizeof(float))
    both = <unsigned char *> malloc(row_length)
    if differences == NULL or both == NULL:
        free(differences)
        free(both)
        raise MemoryError(f"no memory for the steps of rows of {row_length} pixels")
    with nogil:
        for row in range(first, last):
            own = &image[row * n]
            for axis in range(ndim):
                sums[row, axis], counts[row, axis] = 0, 0
                if axis == ndim - 1:
                    ahead, length = 1, row_length - 1
                elif row // strides[axis] % extents[axis] < extents[axis] - 1:
                    ahead, length = strides[axis] * row_length, row_length
                else:
                    continue
                differ(differences, own + ahead * n_channels, own, length * n_channels, 1)
                counts[row, axis] = length
                inside = NULL
                if mask.shape[0]:
                    inside = &mask[row * row_length]
                    counts[row, axis] = count_both(both, inside, inside + ahead, length)
                    inside = both
                sums[row, axis] = sum_of_squares(differences, inside, length, n_channels, divisors[axis])
    free(differences)
    free(both)
