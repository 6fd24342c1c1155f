// Local propagation: phi <- (W phi) / (W 1) over windows, W_ij = exp(-|I_i - I_j|^2 * scale).
//
// REAL is the type of values and results, PIXEL that of the image. Item i is along image i / repeat. Between
// iterations, values are kept as planes: (items, channels, pixels). Where there are regions (items, pixels),
// values are 0 outside before and after every iteration.
//
// Any number of axes and any radius, one iteration. A thread has one pixel and DEEP channels of it. With
// `planes`, values come from there, with `to_planes` they go there.
KERNEL propagate_windows(
    const REAL *values, long long item_stride, long long pixel_stride, long long channel_stride,
    const PIXEL *images, u32 image_channels, const u8 *masks, u32 n_masks, u32 repeat, const u8 *regions,
    u32 n_items, u32 s0, u32 s1, u32 s2, u32 s3, u32 s4, u32 s5, u32 s6, u32 s7, u32 n_pixels,
    u32 channels, PIXEL scale, int radius, const REAL *planes, REAL *to_planes,
    REAL *out, long long out_item_stride, long long out_pixel_stride, long long out_channel_stride
) {
    const u32 shape[8] = {s0, s1, s2, s3, s4, s5, s6, s7};
    const Strided<REAL> source = {values, item_stride, pixel_stride, channel_stride};
    const u32 blocks = (channels + DEEP - 1) / DEEP;
    FOR_EACH(i, (u64)n_items * n_pixels * blocks) {
        const u64 pixel = i % n_pixels, item = i / n_pixels / blocks, image = item / repeat;
        const u32 channel = (u32)(i / n_pixels % blocks) * DEEP;
        const u32 depth = channels - channel < DEEP ? channels - channel : DEEP;
        const u8 *const mask = masks ? masks + (image % n_masks) * n_pixels : 0;
        const u8 *const region = regions ? regions + item * n_pixels : 0;
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
        const PIXEL *const own = images + (image * n_pixels + pixel) * image_channels;
        for (bool more = inside; more;) {
            u64 other = 0;
            for (int axis = 0; axis < NDIM; axis++) other = other * shape[axis] + (at[axis] + step[axis]);
            if (!mask || mask[other]) {
                const PIXEL *const its = images + (image * n_pixels + other) * image_channels;
                const REAL w = (REAL)falling_exponential(window_distance(its, own, image_channels) * scale);
                weights += w;
                for (u32 c = 0; c < depth && (!region || region[other]); c++)
                    sum[c] += w * (planes ? planes[(item * channels + channel + c) * n_pixels + other]
                                          : source(item, other, channel + c));
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
            if (!region || region[pixel]) result = inside ? sum[c] / weights : source(item, pixel, channel + c);
            if (to_planes) to_planes[(item * channels + channel + c) * n_pixels + pixel] = result;
            else
                out[item * out_item_stride + pixel * out_pixel_stride + (channel + c) * out_channel_stride] = result;
        }
    }
}
