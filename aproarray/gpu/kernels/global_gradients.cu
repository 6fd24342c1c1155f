// The gradients of global propagation to the gaps, of one item over one tree. GAP is the type of gaps, REAL of values.

#include "global.cuh"

// What is summed over: values along the line, divided by `divisors` where there are any.
struct Leaves {
    const Strided<const REAL> values;
    const int *order;
    const double *divisors;
    __device__ double operator()(u32 p, u32 c) const {
        const double value = values(0, order[p], c);
        return divisors ? value / divisors[p] : value;
    }
};

// Fills the groups of the values of n positions.
COOPERATIVE_KERNEL group_positions(
    const Strided<const REAL> values, const int *order, const double *divisors, u32 n, u32 channels, u32 n_groups,
    double *groups, u32 *barrier
) {
    const auto leaves_of = [&](u32) { return Leaves{values, order, divisors}; };
    sum_groups(leaves_of, n, n, 1, channels, n_groups, groups, barrier);
}

// Fills b = sum over channels of grad / z * result, along the line, and its groups.
COOPERATIVE_KERNEL weigh_results(
    const Strided<const REAL> grad, const Strided<const REAL> result, const int *order, const double *z, u32 n,
    u32 channels, double *b, u32 n_groups, double *groups, u32 *barrier
) {
    FOR_EACH_32(p, n) {
        double sum = 0;
        for (u32 c = 0; c < channels; c++) sum += (double)grad(0, order[p], c) * (double)result(0, order[p], c);
        b[p] = sum / z[p];
    }
    grid_sync(barrier);
    const auto rows_of = [&](u32) { return Rows{b, 1}; };
    sum_groups(rows_of, n, n, 1, 1, n_groups, groups, barrier);
}

// Adds dL/dgap to out (n - 1). a = grad / z.
//
// With sums over the two sides of a merge: -(k / zeta^2) (A_L Phi_R + A_R Phi_L - B_L n_R - B_R n_L).
KERNEL gap_gradients(
    const Strided<const REAL> grad, const Strided<const REAL> values, const int *order, const double *z, const double *b,
    const double *grad_groups, const double *value_groups, const double *b_groups, const GAP *gaps, const Line line,
    double inverse_zeta, u32 n, u32 channels, double *out
) {
    const Leaves a = {grad, order, z}, phi = {values, order, 0};
    const Rows rows = {b, 1};
    FOR_EACH(row, n - 1) {
        const u32 cut = line.cuts[row], low = line.lows[row], middle = cut + 1, high = line.highs[row] + 1;
        const double kappa = affinity((double)gaps[cut], inverse_zeta);
        if (kappa == 0) continue;
        double sum = 0;
        for (u32 c = 0; c < channels; c++) {
            sum += range_sum(a, grad_groups, n, channels, c, low, middle) *
                       range_sum(phi, value_groups, n, channels, c, middle, high) +
                   range_sum(a, grad_groups, n, channels, c, middle, high) *
                       range_sum(phi, value_groups, n, channels, c, low, middle);
        }
        sum -= range_sum(rows, b_groups, n, 1, 0, low, middle) * (high - middle) +
               range_sum(rows, b_groups, n, 1, 0, middle, high) * (middle - low);
        out[cut] -= kappa * inverse_zeta * inverse_zeta * sum;
    }
}
