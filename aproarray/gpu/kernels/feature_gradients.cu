// Gradients of features from those of the edges they weigh: every pixel adds up the edges that end in it.
//
// End e of the 2 (N - 1) is one of edge e / 2; `places` sorts them by (pixel, end). No pixel: NONE.

#include "common.cuh"

KERNEL first_ends(const u32 *pixels, u32 n_ends, u32 n, u32 *starts) {
    FOR_EACH(i, (u64)n_ends + 1) {
        const u32 from = i ? pixels[i - 1] + 1 : 0, to = i < n_ends ? pixels[i] : n;
        if (i && pixels[i - 1] == NONE) continue;
        for (u32 pixel = from; pixel <= (to < n ? to : n); pixel++) starts[pixel] = (u32)i;
    }
}

// d |f_u - f_v|^2 / d f_u = 2 (f_u - f_v)
KERNEL gather_gradients(
    const double *of_gaps, const REAL *features, const u32 *ends, const u32 *places, const u32 *starts,
    u32 n, u32 channels, REAL *out
) {
    FOR_EACH(i, (u64)n * channels) {
        const u64 pixel = i / channels, c = i % channels;
        double sum = 0;
        for (u32 k = starts[pixel]; k < starts[pixel + 1]; k++) {
            const u64 other = ends[places[k] ^ 1];
            sum += of_gaps[places[k] / 2] * ((double)features[i] - (double)features[other * channels + c]);
        }
        out[i] = (REAL)(2 * sum);
    }
}
