// Local propagation: phi <- (W phi) / (W 1) over windows, W_ij = exp(-|I_i - I_j|^2 * scale).
//
// REAL is the type of values and results, PIXEL that of the image. Item i is along image i / repeat. Between
// iterations, values are kept as planes: (items, channels, pixels). Where there is a region (items, pixels),
// values are 0 outside before and after every iteration.

#include "common.cuh"

// Any number of axes and any radius, one iteration. A thread has one pixel and DEEP channels of it. With
// `planes`, values come from there, with `to_planes` they go there.
KERNEL propagate_windows(
    const Strided<const REAL> values, const Images<PIXEL> images, u32 repeat, const u8 *region, const Sizes sizes,
    const Extents extents, PIXEL scale, int radius, const REAL *planes, REAL *to_planes, const Strided<REAL> out
) {
    const u32 n_items = sizes.items, n_pixels = sizes.n, channels = sizes.channels;
    u32 shape[NDIM];
    for (int axis = 0; axis < NDIM; axis++) shape[axis] = extents.of[axis];
    const u32 blocks = (channels + DEEP - 1) / DEEP;
    FOR_EACH(i, (u64)n_items * n_pixels * blocks) {
        const u64 pixel = i % n_pixels, item = i / n_pixels / blocks, image = item / repeat;
        const u32 channel = (u32)(i / n_pixels % blocks) * DEEP;
        const u32 depth = channels - channel < DEEP ? channels - channel : DEEP;
        const u8 *const mask = images.mask(image, n_pixels);
        const u8 *const own_region = region ? region + item * n_pixels : 0;
        const bool inside = !mask || mask[pixel];
        REAL sum[DEEP], weights = 0;
        for (u32 c = 0; c < DEEP; c++) sum[c] = 0;
        int at[NDIM], first[NDIM], last[NDIM], step[NDIM];
        u64 rest = pixel;
        for (int axis = NDIM - 1; axis >= 0; axis--) {
            at[axis] = (int)(rest % shape[axis]);
            rest /= shape[axis];
            first[axis] = at[axis] < radius ? -at[axis] : -radius;
            last[axis] = at[axis] + radius < (int)shape[axis] ? radius : (int)shape[axis] - 1 - at[axis];
            step[axis] = first[axis];
        }
        const PIXEL *const own = images.image(image, n_pixels) + pixel * images.channels;
        for (bool more = inside; more;) {
            u64 other = 0;
            for (int axis = 0; axis < NDIM; axis++) other = other * shape[axis] + (at[axis] + step[axis]);
            if (!mask || mask[other]) {
                const PIXEL *const its = images.image(image, n_pixels) + other * images.channels;
                const REAL w = (REAL)falling_exponential(window_distance(its, own, images.channels) * scale);
                weights += w;
                for (u32 c = 0; c < depth && (!own_region || own_region[other]); c++)
                    sum[c] += w * (planes ? planes[(item * channels + channel + c) * n_pixels + other]
                                          : values(item, other, channel + c));
            }
            int axis = NDIM - 1;
            while (axis >= 0 && step[axis] == last[axis]) {
                step[axis] = first[axis];
                axis--;
            }
            if (axis < 0) break;
            step[axis]++;
        }
        for (u32 c = 0; c < depth; c++) {
            REAL result = 0;
            if (!own_region || own_region[pixel]) result = inside ? sum[c] / weights : values(item, pixel, channel + c);
            if (to_planes) to_planes[(item * channels + channel + c) * n_pixels + pixel] = result;
            else out(item, pixel, channel + c) = result;
        }
    }
}
