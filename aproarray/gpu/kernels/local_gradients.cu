// Gradients of local propagation over windows of any number of axes and any radius.
//
// REAL is the type of values, PIXEL that of the image. The steps of a window are numbered, axes in order,
// over what fits the image along each axis. A pair is a pixel and a step beyond the middle one.

#include "common.cuh"

struct Window {
    u32 shape[NDIM];
    int radius[NDIM];
    u32 steps;

    __device__ Window(const Extents &extents, int widest) : steps(1) {
        for (int axis = 0; axis < NDIM; axis++) {
            shape[axis] = extents.of[axis];
            radius[axis] = widest < (int)shape[axis] ? widest : (int)shape[axis] - 1;
            steps *= 2 * radius[axis] + 1;
        }
    }

    // The pixel that a step leads to, NONE where that is outside the image.
    __device__ u32 neighbour(u32 pixel, u32 step) const {
        u32 other = 0, stride = 1;
        for (int axis = NDIM - 1; axis >= 0; axis--) {
            const u32 side = 2 * radius[axis] + 1;
            const int at = (int)(pixel % shape[axis]) + (int)(step % side) - radius[axis];
            if (at < 0 || at >= (int)shape[axis]) return NONE;
            other += at * stride;
            stride *= shape[axis];
            pixel /= shape[axis];
            step /= side;
        }
        return other;
    }
};

// sums <- W 1 of images (G, N), 1 outside the mask.
KERNEL window_sums(
    const Images<PIXEL> images, const Extents extents, u32 n_pixels, PIXEL scale, int radius, REAL *sums
) {
    const Window window(extents, radius);
    FOR_EACH(i, (u64)images.count * n_pixels) {
        const u64 image = i / n_pixels;
        const u32 pixel = (u32)(i % n_pixels);
        const u8 *const mask = images.mask(image, n_pixels);
        const PIXEL *const pixels = images.image(image, n_pixels);
        REAL sum = 1;
        for (u32 step = 0; step < window.steps && (!mask || mask[pixel]); step++) {
            if (step == window.steps / 2) continue;
            const u32 other = window.neighbour(pixel, step);
            if (other == NONE || (mask && !mask[other])) continue;
            const PIXEL *const own = pixels + (u64)pixel * images.channels;
            const PIXEL *const its = pixels + (u64)other * images.channels;
            sum += (REAL)falling_exponential(window_distance(its, own, images.channels) * scale);
        }
        sums[i] = sum;
    }
}

// What pairs contribute: see local_gradients_tiles.cu, where a thread has all pairs of a pixel; here it has one.
KERNEL pair_windows(
    const REAL *iterates, const REAL *adjoints, const Sizes sizes, const Extents extents, int radius, u32 iterations,
    REAL *pairs
) {
    const u32 n_items = sizes.items, n_pixels = sizes.n, channels = sizes.channels;
    const Window window(extents, radius);
    const u32 blocks = (channels + DEEP - 1) / DEEP, half = window.steps / 2;
    const u64 step_size = (u64)n_items * channels * n_pixels;
    FOR_EACH(i, (u64)n_items * blocks * (half + 1) * n_pixels) {
        const u32 pixel = (u32)(i % n_pixels), h = (u32)(i / n_pixels % (half + 1));
        const u64 unit = i / n_pixels / (half + 1), item = unit / blocks;
        const u32 channel = (u32)(unit % blocks) * DEEP;
        const u32 depth = channels - channel < DEEP ? channels - channel : DEEP;
        const u32 other = h < half ? window.neighbour(pixel, half + 1 + h) : pixel;
        REAL sum = 0;
        for (u32 t = 0; t < iterations && other != NONE; t++)
            for (u32 c = channel; c < channel + depth; c++) {
                const REAL *const y = iterates + t * step_size + (item * channels + c) * n_pixels;
                const REAL *const a =
                    adjoints + (iterations - 1 - t) * step_size + (item * channels + c) * n_pixels;
                sum += h < half ? (a[pixel] - a[other]) * (y[other] - y[pixel])
                                : a[pixel] * (y[pixel] - y[step_size + pixel]);
            }
        pairs[i] = sum;
    }
}

// total (images, places) += pairs (items, blocks, places): item after item, whatever they share a launch with.
KERNEL add_pairs(
    const REAL *pairs, const u32 *first_items, u32 n_images, u32 blocks, u64 n_places, double *total
) {
    FOR_EACH(i, n_images * n_places) {
        const u64 image = i / n_places, place = i % n_places;
        double sum = total[i];
        for (u64 unit = (u64)first_items[image] * blocks; unit < (u64)first_items[image + 1] * blocks; unit++)
            sum += pairs[unit * n_places + place];
        total[i] = sum;
    }
}

// Each pixel adds up the pairs that it is in: dL/dW_ij = pair_ij + own_i + own_j, with W_ij = exp(-d_ij scale)
// for d_ij = |I_i - I_j|^2. out (images, pixels, channels) <- dL/dI; by_scale (images, pixels) <- the sum of
// dL/d(d_ij) d_ij over the pairs that begin at a pixel.
KERNEL gather_pairs(
    const Images<PIXEL> images, const Extents extents, u32 n_pixels, PIXEL scale, int radius, const double *total,
    double *out, double *by_scale
) {
    const Window window(extents, radius);
    const u32 half = window.steps / 2;
    FOR_EACH(i, (u64)images.count * n_pixels) {
        const u64 image = i / n_pixels;
        const u32 pixel = (u32)(i % n_pixels);
        const u8 *const mask = images.mask(image, n_pixels);
        const PIXEL *const pixels = images.image(image, n_pixels);
        const PIXEL *const own = pixels + (u64)pixel * images.channels;
        const double *const pairs = total + image * (half + 1) * n_pixels;
        double share = 0;
        for (u32 channel = 0; channel < images.channels; channel += DEEP) {
            const u32 depth = images.channels - channel < DEEP ? images.channels - channel : DEEP;
            double sum[DEEP];
            for (u32 c = 0; c < DEEP; c++) sum[c] = 0;
            for (u32 step = 0; step < window.steps && (!mask || mask[pixel]); step++) {
                if (step == half) continue;
                const u32 other = window.neighbour(pixel, step);
                if (other == NONE || (mask && !mask[other])) continue;
                const PIXEL *const its = pixels + (u64)other * images.channels;
                const PIXEL distance = window_distance(its, own, images.channels);
                const REAL w = (REAL)falling_exponential(distance * scale);
                if (!(w > 0)) continue;  // one that underflows has no slope, however large the scale
                const bool ahead = step > half;
                const double pair =
                    ahead ? pairs[(u64)(step - half - 1) * n_pixels + pixel] : pairs[(u64)(half - 1 - step) * n_pixels + other];
                const double *const owns = pairs + (u64)half * n_pixels;
                const double slope = -(double)scale * w * (pair + owns[pixel] + owns[other]);
                for (u32 c = 0; c < depth; c++)
                    sum[c] += 2 * slope * ((double)own[channel + c] - its[channel + c]);
                if (ahead && channel == 0) share += slope * distance;
            }
            for (u32 c = 0; c < depth; c++) out[i * images.channels + channel + c] = sum[c];
        }
        by_scale[i] = share;
    }
}

// sums[p] <- factor times the sum of piece p of values (n): pieces of 8 numbers for each thread of a block.
KERNEL sum_pieces(const double *values, u64 n, double factor, double *sums) {
    const u64 size = 8 * BLOCK;
    for (u64 first = blockIdx.x * size; first < n; first += gridDim.x * size) {
        double sum = 0, total;
        for (u64 i = first + threadIdx.x; i < n && i < first + size; i += BLOCK) sum += values[i];
        block_scan(sum, &total);
        if (threadIdx.x == 0) sums[first / size] = factor * total;
    }
}
