// The gradients of global propagation to the gaps. GAP is the type of gaps.

#include "global.cuh"

// b = sum over channels of grad / z * result, along the line: (items, n). The trees' divisors are z.
KERNEL weigh_results(
    const Strided<const REAL> grad, const Strided<const REAL> result, const Trees trees, const Sizes sizes, double *b
) {
    const u32 n = sizes.n, channels = sizes.channels;
    FOR_EACH_32(i, sizes.items * n) {
        const u32 p = i % n, item = i / n, tree = trees.of(item);
        const long long pixel = trees.order[(u64)tree * n + p];
        double sum = 0;
        for (u32 c = 0; c < channels; c++)
            sum += (double)grad(item, pixel, c) * (double)result(item, pixel, c);
        b[i] = sum / trees.divisors[(u64)tree * n + p];
    }
}

// Adds dL/dgap of one item over one tree to out (n - 1). a = grad / z.
//
// With sums over the two sides of a merge: -(k / zeta^2) (A_L Phi_R + A_R Phi_L - B_L n_R - B_R n_L).
KERNEL gap_gradients(
    const Strided<const REAL> grad, const Strided<const REAL> values, const int *order, const double *z, const double *b,
    const double *grad_groups, const double *value_groups, const double *b_groups, const GAP *gaps, const Line line,
    double inverse_zeta, u32 n, u32 channels, double *out
) {
    FOR_EACH(row, n - 1) {
        const u32 cut = line.cuts[row], low = line.lows[row], middle = cut + 1, high = line.highs[row] + 1;
        const double kappa = affinity((double)gaps[cut], inverse_zeta);
        if (kappa == 0) continue;
        double sum = 0;
        for (u32 c = 0; c < channels; c++) {
            const Leaves a = {grad.values + c * grad.channel, grad.pixel, order, z};
            const Leaves phi = {values.values + c * values.channel, values.pixel, order, 0};
            sum += range_sum(a, grad_groups, n, channels, c, low, middle) *
                       range_sum(phi, value_groups, n, channels, c, middle, high) +
                   range_sum(a, grad_groups, n, channels, c, middle, high) *
                       range_sum(phi, value_groups, n, channels, c, low, middle);
        }
        const Rows rows = {b, 1};
        sum -= range_sum(rows, b_groups, n, 1, 0, low, middle) * (high - middle) +
               range_sum(rows, b_groups, n, 1, 0, middle, high) * (middle - low);
        out[cut] -= kappa * inverse_zeta * inverse_zeta * sum;
    }
}
