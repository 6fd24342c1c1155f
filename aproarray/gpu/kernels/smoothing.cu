// Smoothing and gradients of images whose channels are last, in the order of sums of aproarray/cpu/_smooth.pyx.
//
// Everything is float32, so that the results are the CPU's bit for bit.

#include "common.cuh"

// One axis of n numbers: where a number is along it, out of `extent`, places being `stride` numbers apart.
struct Axis {
    u32 extent;
    u64 stride;
    __device__ u32 place(u64 i) const { return (u32)(i / stride % extent); }
};

// [share rest share] over places `step` apart; the first and last ones are repeated beyond the ends.
KERNEL blend_along(const float *source, u64 n, const Axis axis, u32 step, float rest, float share, float *target) {
    FOR_EACH(i, n) {
        const u32 place = axis.place(i), after = axis.extent - 1 - place;
        const float following = source[i + (u64)(step < after ? step : after) * axis.stride];
        const float before = source[i - (u64)(step < place ? step : place) * axis.stride];
        const float sum = exact_add(exact_multiply(source[i], rest), exact_multiply(following, share));
        target[i] = exact_add(sum, exact_multiply(before, share));
    }
}

struct Units {
    float of[8];
};

// Whether a pixel takes part: by a mask, or all do.
__device__ bool takes_part(const u8 *mask, u64 pixel) { return !mask || mask[pixel]; }

// Magnitudes of gradients: of both neighbours, or of the one that there is and that takes part, per unit.
KERNEL gradients(
    const float *image, const u8 *mask, u64 n_pixels, u32 channels, u32 n_axes, const Extents shape, const Units units,
    float *magnitudes
) {
    FOR_EACH(pixel, n_pixels) {
        u64 strides[8];
        u64 stride = 1;
        for (u32 axis = n_axes; axis-- > 0;) {
            strides[axis] = stride;
            stride *= shape.of[axis];
        }
        const bool is_own = takes_part(mask, pixel);
        float total = 0;
        for (u32 axis = 0; axis < n_axes; axis++) {
            const u32 extent = shape.of[axis];
            if (extent < 2) continue;
            const u32 place = (u32)(pixel / strides[axis] % extent);
            const bool is_before = place > 0 && is_own && takes_part(mask, pixel - strides[axis]);
            const bool is_following = place < extent - 1 && is_own && takes_part(mask, pixel + strides[axis]);
            const u64 apart = strides[axis] * channels;
            float square = 0;
            for (u32 c = 0; c < channels; c++) {
                const float *const own = image + pixel * channels + c;
                float difference = 0;
                if (!mask && is_before && is_following) {
                    difference = exact_multiply(exact_subtract(own[apart], own[-(long long)apart]), 0.5f);
                } else {
                    if (is_before) difference = exact_add(difference, exact_subtract(*own, own[-(long long)apart]));
                    if (is_following) difference = exact_add(difference, exact_subtract(own[apart], *own));
                    if (is_before && is_following) difference = exact_multiply(difference, 0.5f);
                }
                if (units.of[axis] != 1) difference = exact_divide(difference, units.of[axis]);
                square = exact_add(square, exact_multiply(difference, difference));
            }
            total = exact_add(total, square);
        }
        magnitudes[pixel] = exact_root(total);
    }
}

// Squared distances to the next pixel along an axis, per `unit`, where both take part; 0 elsewhere.
KERNEL square_steps(
    const float *image, const u8 *mask, u64 n_pixels, u32 channels, const Axis axis, float unit, float *squares
) {
    FOR_EACH(pixel, n_pixels) {
        float square = 0;
        const u64 next = pixel + axis.stride;
        if (axis.place(pixel) + 1 < axis.extent && takes_part(mask, pixel) && takes_part(mask, next)) {
            for (u32 c = 0; c < channels; c++) {
                const float step = exact_subtract(image[next * channels + c], image[pixel * channels + c]);
                square = exact_add(square, exact_multiply(step, step));
            }
            if (unit != 1) square = exact_divide(square, unit);
        }
        squares[pixel] = square;
    }
}
