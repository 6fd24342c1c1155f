// The gradients of the tree filter to the weights of its edges. REAL is the type of values.

#include "common.cuh"

// Fills rows with the columns a_c, phi_c, b and 1 of one item; see `weight_gradient` of _rooted.pyx.
KERNEL gather_gradients(
    const Strided<const REAL> grad, const Strided<const REAL> values, const Strided<const REAL> result,
    const int *nodes, const double *sums, u32 n, u32 channels, double *rows
) {
    FOR_EACH(place, n) {
        const long long pixel = nodes[place];
        double dot = 0;
        for (u32 c = 0; c < channels; c++) {
            double a = grad(0, pixel, c);
            if (sums) {
                a = a / sums[place];
                dot += a * result(0, pixel, c);
            }
            rows[(u64)c * n + place] = a;
            rows[(u64)(channels + c) * n + place] = values(0, pixel, c);
        }
        rows[(u64)2 * channels * n + place] = dot;
        rows[(u64)(2 * channels + 1) * n + place] = 1;
    }
}

KERNEL weight_gradients(
    const double *up, const double *total, const double *weights, const int *parents, const int *gaps, u32 n,
    u32 channels, u32 normalised, double *out
) {
    FOR_EACH(place, n) {
        if (gaps[place] < 0) continue;
        const u64 parent = parents[place];
        const double w = weights[place];
        double found = 0;
        for (u64 c = 0; c < channels; c++) {
            const u64 a = c * n, phi = (channels + c) * n;
            found += up[a + place] * (total[phi + parent] - w * up[phi + place]);
            found += (total[a + parent] - w * up[a + place]) * up[phi + place];
        }
        if (normalised) {
            const u64 b = (u64)2 * channels * n, one = b + n;
            found -= up[b + place] * (total[one + parent] - w * up[one + place]);
            found -= (total[b + parent] - w * up[b + place]) * up[one + place];
        }
        out[gaps[place]] -= w * found;
    }
}
