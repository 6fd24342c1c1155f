// Affinities to the pixels of windows, one by one, and averages with them. REAL is the type of everything.
//
// steps (K, NDIM) lead to the neighbours. Weights and affinities are (images, K, pixels).

#include "common.cuh"

// The pixel one step away; beyond the border, the nearest along each axis if `clamped`, else NONE.
__device__ u32 neighbour(const Extents &shape, u32 pixel, const int *step, bool clamped) {
    int there[NDIM];
    u32 rest = pixel, index = 0;
    for (int axis = NDIM - 1; axis >= 0; axis--) {
        const int extent = (int)shape.of[axis];
        there[axis] = (int)(rest % extent) + step[axis];
        rest /= extent;
        if (there[axis] < 0 || there[axis] >= extent) {
            if (!clamped) return NONE;
            there[axis] = there[axis] < 0 ? 0 : extent - 1;
        }
    }
    for (int axis = 0; axis < NDIM; axis++) index = index * shape.of[axis] + there[axis];
    return index;
}

// PAMR's softmax over the steps. The centre counts n_centres times in the deviations.
KERNEL weigh_neighbours(
    const Images<REAL> images, u32 n_pixels, const Extents shape, const int *steps, u32 n_steps, u32 n_centres,
    REAL *weights
) {
    const u32 channels = images.channels;
    const REAL n_samples = (REAL)(n_steps + n_centres);
    FOR_EACH(i, (u64)images.count * n_pixels) {
        const u32 pixel = (u32)(i % n_pixels);
        const REAL *const image = images.image(i / n_pixels, n_pixels);
        REAL *const own = weights + (i / n_pixels) * n_steps * n_pixels + pixel;
        for (u32 k = 0; k < n_steps; k++) own[(u64)k * n_pixels] = 0;
        for (u32 c = 0; c < channels; c++) {
            const REAL centre = image[(u64)pixel * channels + c];
            REAL mean = n_centres * centre, squares;
            for (u32 k = 0; k < n_steps; k++)
                mean += image[(u64)neighbour(shape, pixel, steps + k * NDIM, true) * channels + c];
            mean /= n_samples;
            squares = n_centres * (centre - mean) * (centre - mean);
            for (u32 k = 0; k < n_steps; k++) {
                const REAL off = image[(u64)neighbour(shape, pixel, steps + k * NDIM, true) * channels + c] - mean;
                squares += off * off;
            }
            const REAL scale = 1 / (((REAL)1e-8 + (REAL)0.1 * sqrt(squares / (n_samples - 1))) * channels);
            for (u32 k = 0; k < n_steps; k++) {
                const REAL off = image[(u64)neighbour(shape, pixel, steps + k * NDIM, true) * channels + c] - centre;
                own[(u64)k * n_pixels] += (off < 0 ? -off : off) * scale;
            }
        }
        REAL least = own[0], total = 0;
        for (u32 k = 1; k < n_steps; k++)
            if (own[(u64)k * n_pixels] < least) least = own[(u64)k * n_pixels];
        for (u32 k = 0; k < n_steps; k++) {
            const REAL w = falling_exponential(own[(u64)k * n_pixels] - least);
            own[(u64)k * n_pixels] = w;
            total += w;
        }
        for (u32 k = 0; k < n_steps; k++) own[(u64)k * n_pixels] /= total;
    }
}

// One average of values (items, pixels, channels), item i with the weights of image image_index[i].
KERNEL average_neighbours(
    const Strided<const REAL> values, const REAL *weights, const u32 *image_index, const Sizes sizes,
    const Extents shape, const int *steps, u32 n_steps, const Strided<REAL> out
) {
    const u32 n_items = sizes.items, n_pixels = sizes.n, channels = sizes.channels;
    FOR_EACH(i, (u64)n_items * channels * n_pixels) {
        const u32 pixel = (u32)(i % n_pixels);
        const u64 channel = i / n_pixels % channels, item = i / n_pixels / channels;
        const REAL *const own = weights + (u64)image_index[item] * n_steps * n_pixels + pixel;
        REAL sum = 0;
        for (u32 k = 0; k < n_steps; k++)
            sum += own[(u64)k * n_pixels] * values(item, neighbour(shape, pixel, steps + k * NDIM, true), channel);
        out(item, pixel, channel) = sum;
    }
}

// out: exp(-|I_i - I_j| scale), 0 where a pixel of masks (1 or images, pixels), or the other one, is not there.
KERNEL relate_neighbours(
    const Images<REAL> images, u32 n_pixels, const Extents shape, const int *steps, u32 n_steps, REAL scale, REAL *out
) {
    const u32 channels = images.channels;
    FOR_EACH(i, (u64)images.count * n_steps * n_pixels) {
        const u32 pixel = (u32)(i % n_pixels), k = (u32)(i / n_pixels % n_steps);
        const u64 number = i / n_pixels / n_steps;
        const u32 other = neighbour(shape, pixel, steps + k * NDIM, false);
        const u8 *const mask = images.mask(number, n_pixels);
        REAL affinity = 0;
        if (other != NONE && (!mask || (mask[pixel] && mask[other]))) {
            const REAL *const image = images.image(number, n_pixels);
            REAL distance = 0;
            for (u32 c = 0; c < channels; c++) {
                const REAL difference = image[(u64)pixel * channels + c] - image[(u64)other * channels + c];
                distance += difference * difference;
            }
            affinity = falling_exponential(sqrt(distance) * scale);
        }
        out[i] = affinity;
    }
}
