"""Moves of a stream of slabs through window sums (`_local_stream.py`), and sums over pairs that follow it.

Loops over the pixels of a slab are in `_stream_loops.h`. Products and sums may be fused here: no window sum
has to be equal to another machine's, bit for bit.
"""

from libc.math cimport exp
from libc.stdint cimport uint8_t
from libc.string cimport memset

ctypedef fused real:
    float
    double

ctypedef fused image_real:
    float
    double

cdef extern from *:
    """
    #include <string.h>
    #define REAL float
    #include "_stream_loops.h"
    #undef REAL
    #define REAL double
    #include "_stream_loops.h"
    #undef REAL

    /* The loops for numbers of 4 or 8 bytes: fused code in Cython has one name for both. */
    static inline void apro_squares(
        size_t bytes, const void *here, const void *there, Py_ssize_t padded, Py_ssize_t n_colors,
        Py_ssize_t first, Py_ssize_t last, void *squares
    ) {
        if (bytes == 4) apro_squares_float(here, there, padded, n_colors, first, last, squares);
        else apro_squares_double(here, there, padded, n_colors, first, last, squares);
    }
    static inline void apro_norms(
        size_t bytes, const void *weights, const Py_ssize_t *places, Py_ssize_t n_places, Py_ssize_t first,
        Py_ssize_t last, void *norms
    ) {
        if (bytes == 4) apro_norms_float(weights, places, n_places, first, last, norms);
        else apro_norms_double(weights, places, n_places, first, last, norms);
    }
    static inline void apro_sum(
        size_t bytes, Py_ssize_t n_channels, const void *values, const void *weights, const void *norms,
        const Py_ssize_t *places, Py_ssize_t n_places, Py_ssize_t own, Py_ssize_t apart, Py_ssize_t first,
        Py_ssize_t stop, void *sums
    ) {
        if (bytes == 4)
            apro_sum_float(
                n_channels, values, weights, norms, places, n_places, own, apart, first, stop, sums);
        else
            apro_sum_double(
                n_channels, values, weights, norms, places, n_places, own, apart, first, stop, sums);
    }
    static inline void apro_add_own(
        size_t bytes, const void *a, const void *before, const void *after, Py_ssize_t first, Py_ssize_t last,
        void *own
    ) {
        if (bytes == 4) apro_add_own_float(a, before, after, first, last, own);
        else apro_add_own_double(a, before, after, first, last, own);
    }
    static inline void apro_add_pairs(
        size_t bytes, const void *here, const void *there, Py_ssize_t adjoint, Py_ssize_t n_steps,
        Py_ssize_t padded, Py_ssize_t first, Py_ssize_t last, void *slopes
    ) {
        if (bytes == 4) apro_add_pairs_float(here, there, adjoint, n_steps, padded, first, last, slopes);
        else apro_add_pairs_double(here, there, adjoint, n_steps, padded, first, last, slopes);
    }
    """
    void take_exp "apro_exp"(
        const float *valid_here, const float *valid_there, Py_ssize_t first, Py_ssize_t last, float *weights
    ) noexcept nogil
    void square_distances "apro_squares"(
        size_t bytes, const void *here, const void *there, Py_ssize_t padded, Py_ssize_t n_colors,
        Py_ssize_t first, Py_ssize_t last, void *squares,
    ) noexcept nogil
    void sum_weights "apro_norms"(
        size_t bytes, const void *weights, const Py_ssize_t *places, Py_ssize_t n_places, Py_ssize_t first,
        Py_ssize_t last, void *norms,
    ) noexcept nogil
    void sum_windows "apro_sum"(
        size_t bytes, Py_ssize_t n_channels, const void *values, const void *weights, const void *norms,
        const Py_ssize_t *places, Py_ssize_t n_places, Py_ssize_t own, Py_ssize_t apart, Py_ssize_t first,
        Py_ssize_t stop, void *sums,
    ) noexcept nogil
    void add_own "apro_add_own"(
        size_t bytes, const void *a, const void *before, const void *after, Py_ssize_t first, Py_ssize_t last,
        void *own,
    ) noexcept nogil
    void add_pairs "apro_add_pairs"(
        size_t bytes, const void *here, const void *there, Py_ssize_t adjoint, Py_ssize_t n_steps,
        Py_ssize_t padded, Py_ssize_t first, Py_ssize_t last, void *slopes,
    ) noexcept nogil


cdef inline void weigh(
    const image_real *here, const image_real *there, Py_ssize_t padded, Py_ssize_t n_colors,
    const real *valid_here, const real *valid_there, Py_ssize_t first, Py_ssize_t last, image_real scale,
    image_real *squares, real *weights,
) noexcept nogil:
    """weights[x] <- exp(-|here[x] - there[x]|^2 scale) where both pixels are valid, else 0.

    Planes of colors are `padded` numbers apart. squares[x] become the squares. (A few numbers after the last
    one are written to as well.)
    """
    cdef Py_ssize_t x
    square_distances(sizeof(image_real), here, there, padded, n_colors, first, last, squares)
    if real is float:
        for x in range(first, last):
            weights[x] = <float> (-squares[x] * scale)
        take_exp(valid_here, valid_there, first, last, weights)
    else:
        for x in range(first, last):
            weights[x] = exp(-squares[x] * scale) * (valid_here[x] * valid_there[x])


cdef inline void enter(
    const image_real[:, :] image, const uint8_t[:] mask, Py_ssize_t s, const Py_ssize_t[::1] interior,
    real *valid, image_real *planes, Py_ssize_t padded,
) noexcept nogil:
    """Fill a slab of valid and of planes (both flat) with slab s of an image (N, Ci): 0 outside the mask."""
    cdef Py_ssize_t slab_pixels = interior.shape[0], pixel = s * slab_pixels, p, c, x
    for p in range(slab_pixels):
        valid[interior[p]] = mask.shape[0] == 0 or mask[pixel + p] != 0
    for c in range(image.shape[1]):
        for p in range(slab_pixels):
            x = interior[p]
            planes[x] = image[pixel + p, c] if valid[x] != 0 else 0
        planes += padded


def stream(
    const real[:, :] source, real[:, :] target, const image_real[:, :] image, const uint8_t[:] mask,
    const uint8_t[:] region, real[::1] sums, Py_ssize_t n_slabs, Py_ssize_t band_first, Py_ssize_t band_last,
    Py_ssize_t iterations, double zeta_scale, const Py_ssize_t[::1] interior, Py_ssize_t x_stop,
    const Py_ssize_t[::1] step_slabs, const Py_ssize_t[::1] step_shifts, real[::1] state_array,
    Py_ssize_t padded, Py_ssize_t ring, Py_ssize_t n_levels, real[::1] weights_array, real[::1] norms_array,
    image_real[::1] planes_array, Py_ssize_t radius, real[::1] valid_array, image_real[::1] squares,
    Py_ssize_t[::1] places, Py_ssize_t move_first, Py_ssize_t move_last,
):
    """Take slabs [band_first, band_last) of source (N, C) through `iterations` into target (N, C).

    Pixels outside the mask (N) take no part; outside the region (N), where source is 0, values are 0 after
    each iteration. Either may be empty: all pixels. sums (N), if not empty, receives W 1 of the band.

    A stream has as many moves as `moves_of` says. This call makes moves [move_first, move_last). The
    `stream_state` is kept between calls.
    """
    cdef Py_ssize_t slab_pixels = interior.shape[0], n_steps = step_slabs.shape[0], n_places = 4 * n_steps
    cdef Py_ssize_t n_channels = source.shape[1], n_colors = image.shape[1]
    cdef Py_ssize_t x_first = interior[0], x_last = interior[slab_pixels - 1] + 1
    cdef Py_ssize_t reach = iterations * radius
    cdef Py_ssize_t begin = max(band_first - reach, 0), end = min(band_last + reach, n_slabs)
    cdef Py_ssize_t around = radius + 1, depth = reach + radius + 1
    # Slabs after those of the iterations: one for the last iteration's result, one for above the image.
    cdef Py_ssize_t n_kept = n_levels * ring
    cdef Py_ssize_t plane = n_channels * padded, colors = n_colors * padded, weighed = n_steps * padded
    cdef Py_ssize_t nothing = (n_kept + 1) * plane, no_weights = depth * weighed
    cdef image_real scale = <image_real> zeta_scale
    cdef real *state = &state_array[0]
    cdef real *weights = &weights_array[0]
    cdef real *valid = &valid_array[0]
    cdef image_real *planes = &planes_array[0]
    cdef real *norms
    cdef Py_ssize_t s, t, j, c, p, x, k, d, slot, other, entering, later, pixel, row, level, shift, margin, to
    with nogil:
        for s in range(begin + move_first, begin + move_last):
            # The image enters `radius` slabs before the values, for the weights between slabs.
            if s < end:
                slot = s % around
                enter(image, mask, s, interior, valid + slot * padded, planes + slot * colors, padded)
            entering = s - radius
            if entering < begin:
                continue
            if entering < end:
                slot, to = entering % around, entering % depth * weighed
                for k in range(n_steps):
                    later, shift = entering + step_slabs[k], step_shifts[k]
                    if later < end:
                        other = later % around
                        weigh(
                            planes + slot * colors, planes + other * colors + shift, padded, n_colors,
                            valid + slot * padded, valid + other * padded + shift, x_first, x_last, scale,
                            &squares[0], weights + to,
                        )
                    else:
                        memset(weights + to, 0, padded * sizeof(real))
                    to += padded
                pixel, row = entering * slab_pixels, entering % ring * plane
                for c in range(n_channels):
                    for p in range(slab_pixels):
                        state[row + c * padded + interior[p]] = source[pixel + p, c]
                if mask.shape[0] != 0:
                    for p in range(slab_pixels):
                        if mask[pixel + p] == 0:
                            for c in range(n_channels):
                                state[row + c * padded + interior[p]] = 0

            for t in range(1, iterations + 1):
                # The slabs of iteration t that the band still depends on.
                margin = (iterations - t) * radius
                j = entering - t * radius
                if j < max(band_first - margin, 0) or j >= min(band_last + margin, n_slabs):
                    continue
                pixel, level = j * slab_pixels, (t - 1) * ring
                for k in range(n_steps):
                    shift, d = step_shifts[k], step_slabs[k]
                    # Of the values that come after, and of their weights; of those before, and of theirs.
                    places[4 * k] = (level + (j + d) % ring) * plane + shift
                    places[4 * k + 1] = j % depth * weighed + k * padded
                    if j >= begin + d:
                        places[4 * k + 2] = (level + (j - d) % ring) * plane - shift
                        places[4 * k + 3] = (j - d) % depth * weighed + k * padded - shift
                    else:
                        places[4 * k + 2] = nothing - shift
                        places[4 * k + 3] = no_weights + k * padded - shift
                norms = &norms_array[j % depth * padded]
                if t == 1:
                    sum_weights(sizeof(real), weights, &places[0], n_places, x_first, x_last, norms)
                    if sums.shape[0] != 0 and band_first <= j < band_last:
                        for p in range(slab_pixels):
                            sums[pixel + p] = norms[interior[p]]
                    for x in range(x_first, x_last):
                        norms[x] = 1 / norms[x]
                    if region.shape[0] != 0:
                        for p in range(slab_pixels):
                            if region[pixel + p] == 0:
                                norms[interior[p]] = 0
                row = (level + j % ring) * plane
                to = (level + ring + j % ring if t < n_levels else n_kept) * plane
                sum_windows(
                    sizeof(real), n_channels, state, weights, norms, &places[0], n_places, row, padded,
                    x_first, x_stop, state + to,
                )
                if t == iterations:
                    for c in range(n_channels):
                        for p in range(slab_pixels):
                            if mask.shape[0] == 0 or mask[pixel + p] != 0:
                                target[pixel + p, c] = state[to + c * padded + interior[p]]
                            else:
                                target[pixel + p, c] = source[pixel + p, c]


cdef enum:
    PAIR_PIXELS = 512  # all that the pairs of these pixels of a row take stays in the L1 cache


def pair_up(
    const real[::1] state, Py_ssize_t n_channels, Py_ssize_t padded, Py_ssize_t ring, Py_ssize_t n_iterations,
    const image_real[:, :] image, const uint8_t[:] mask, Py_ssize_t first, Py_ssize_t last, Py_ssize_t begin,
    double zeta_scale, const Py_ssize_t[::1] interior, const Py_ssize_t[::1] step_slabs,
    const Py_ssize_t[::1] step_shifts, const Py_ssize_t[::1] runs, image_real[::1] planes_array,
    Py_ssize_t around, real[::1] valid_array, image_real[::1] squares, real[::1] weights,
    real[::1] own_array, real[::1] slopes_array, double[:, :, ::1] found, double[::1] shares,
):
    """Add to found (slabs, Ci, padded) the gradients of pairs that end in slabs [first, last) of an image.

    `state` has y_0 to y_T of these slabs, and of those before that they make pairs with, in the first C of
    2 C channels, and the gradients of y_T to y_0, divided by W 1, in the others. The normalised sums
    y_t+1 = W y_t / W 1 make of a weight

        dL/dW_ij = sum_t a_ti (y_tj - y_t+1,i) + a_tj (y_ti - y_t+1,j)
                 = sum_t (a_ti - a_tj) (y_tj - y_ti) + own_i + own_j,  own_i = sum_t a_ti (y_ti - y_t+1,i)

    for both of its places in W. shares (slabs) receive sum_ij dL/d(d_ij) d_ij over the pairs that begin in
    each slab, d_ij = |I_i - I_j|^2. planes, valid and own (`around` slabs) are kept between calls; no pair
    begins before slab `begin`. All is yet to be multiplied by the scale.
    """
    cdef Py_ssize_t slab_pixels = interior.shape[0], n_steps = step_slabs.shape[0], n_runs = runs.shape[0] - 1
    cdef Py_ssize_t n_colors = image.shape[1], plane = 2 * n_channels * padded, colors = n_colors * padded
    cdef Py_ssize_t x_first = interior[0], x_last = interior[slab_pixels - 1] + 1
    cdef image_real scale = <image_real> zeta_scale
    cdef const real *values = &state[0]
    cdef image_real *planes = &planes_array[0]
    cdef real *valid = &valid_array[0]
    cdef real *own
    cdef real *other_own
    cdef real *slopes
    cdef const image_real *one
    cdef const image_real *other
    cdef double *of_one
    cdef double *of_other
    cdef double share
    cdef Py_ssize_t s, t, c, x, k, d, j, shift, run, tile, stop, level, row, y, a
    with nogil:
        for s in range(first, last):
            own = &own_array[s % around * padded]
            enter(
                image, mask, s, interior, valid + s % around * padded, planes + s % around * colors, padded
            )
            memset(own, 0, padded * sizeof(real))
            memset(&slopes_array[0], 0, n_steps * padded * sizeof(real))
            stop = x_first
            while stop < x_last:
                tile, stop = stop, min(stop + PAIR_PIXELS, x_last)
                for t in range(n_iterations):
                    level = t * ring * plane
                    for c in range(n_channels):
                        row = s % ring * plane + c * padded
                        y = level + row
                        a = (n_iterations - 1 - t) * ring * plane + n_channels * padded + row
                        add_own(
                            sizeof(real), values + a, values + y, values + y + ring * plane, tile, stop, own
                        )
                        for run in range(n_runs):
                            k, d = runs[run], step_slabs[runs[run]]
                            if s >= begin + d:
                                add_pairs(
                                    sizeof(real), values + level + (s - d) % ring * plane + c * padded,
                                    values + y + step_shifts[k], a - y, runs[run + 1] - k, padded, tile, stop,
                                    &slopes_array[k * padded],
                                )
            for k in range(n_steps):
                j, shift = s - step_slabs[k], step_shifts[k]
                if j < begin:
                    continue
                slopes, other_own = &slopes_array[k * padded], &own_array[j % around * padded]
                one, other = planes + j % around * colors, planes + s % around * colors + shift
                weigh(
                    one, other, padded, n_colors, valid + j % around * padded,
                    valid + s % around * padded + shift, x_first, x_last, scale, &squares[0], &weights[0],
                )
                for x in range(x_first, x_last):
                    slopes[x] = -weights[x] * (slopes[x] + other_own[x] + own[shift + x])
                share = 0
                for x in range(x_first, x_last):
                    share += <double> slopes[x] * squares[x]
                shares[j] += share
                for c in range(n_colors):
                    of_one, of_other = &found[j, c, 0], &found[s, c, 0] + shift
                    for x in range(x_first, x_last):
                        of_one[x] += 2 * <double> slopes[x] * (one[x] - other[x])
                    for x in range(x_first, x_last):
                        of_other[x] -= 2 * <double> slopes[x] * (one[x] - other[x])
                    one, other = one + padded, other + padded
