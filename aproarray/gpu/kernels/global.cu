// Global propagation over the chains of a line (see line.cu), any number of items and channels at a time.
//
// Sums are over ranges, of positions or of a chain's rows, and a range is made of fixed pieces: groups
// of 8, groups of 8 groups, and so on, counted from the start of the item's own line. So the same terms are
// added in the same order whatever else is computed along, and nothing is ever subtracted.
//
// An item is n things by `channels`, and one launch has at most 2^31 sums. REAL is the type of values and results, sums are double.

#define GROUP 8

__device__ double affinity(double gap, double inverse_zeta) {
    return gap < 1.0 / 0.0 ? exp(-(gap * inverse_zeta) * inverse_zeta) : 0.0;
}

// What is summed over: values along the line, divided by `divisors` where there are any; ones without values.
struct Leaves {
    const REAL *values;
    long long pixel_stride;
    const int *order;
    const double *divisors;
    __device__ double operator()(u32 p, u32) const {
        const double value = values ? (double)values[order[p] * pixel_stride] : 1.0;
        return divisors ? value / divisors[p] : value;
    }
};

// What is summed over: consecutive things of an item.
struct Rows {
    const double *values;
    u32 channels;
    __device__ double operator()(u32 i, u32 c) const { return values[(u64)i * channels + c]; }
};

// The sum over [first, stop) of channel c. `groups` are the sums of the item's groups, smallest first.
template <typename Things>
__device__ double range_sum(const Things &things, const double *groups, u32 n, u32 channels, u32 c, u32 first, u32 stop) {
    double sum = 0;
    if (first >= stop) return sum;
    while (first < stop && first % GROUP) sum += things(first++, c);
    while (first < stop && stop % GROUP) sum += things(--stop, c);
    while (first < stop) {
        first /= GROUP;
        stop /= GROUP;
        while (first < stop && first % GROUP) sum += groups[(u64)first++ * channels + c];
        while (first < stop && stop % GROUP) sum += groups[(u64)--stop * channels + c];
        n = (n + GROUP - 1) / GROUP;
        groups += (u64)n * channels;
    }
    return sum;
}

// Where item i's tree is: in a list, or each tree has `repeat` items in a row.
__device__ u32 tree_of_item(const u32 *trees, u32 repeat, u32 item) {
    return trees ? trees[item] : item / repeat;
}

// Fills the groups of items of n positions, by their values.
KERNEL group_positions(
    const REAL *values, long long item_stride, long long pixel_stride, long long channel_stride,
    const u32 *trees, u32 repeat, const int *order, const double *divisors,
    u32 n_items, u32 n, u32 channels, u32 n_groups, double *groups, u32 *barrier
) {
    const u32 first_groups = (n + GROUP - 1) / GROUP;
    FOR_EACH_32(i, n_items * first_groups * channels) {
        const u32 c = i % channels, group = i / channels % first_groups;
        const u32 item = i / channels / first_groups, tree = tree_of_item(trees, repeat, item);
        const Leaves leaves = {
            values ? values + item * item_stride + c * channel_stride : 0, pixel_stride,
            order + (u64)tree * n, divisors ? divisors + (u64)tree * n : 0
        };
        double sum = 0;
        for (u32 p = group * GROUP; p < (group + 1) * GROUP && p < n; p++) sum += leaves(p, c);
        groups[((u64)item * n_groups + group) * channels + c] = sum;
    }
    u32 below = 0;
    for (u32 level = first_groups; level > 1; level = (level + GROUP - 1) / GROUP) {
        grid_sync(barrier);
        const u32 count = (level + GROUP - 1) / GROUP;
        FOR_EACH_32(i, n_items * count * channels) {
            const u32 c = i % channels, group = i / channels % count;
            double *const own = groups + (u64)(i / channels / count) * n_groups * channels + c;
            double sum = 0;
            for (u32 k = group * GROUP; k < (group + 1) * GROUP && k < level; k++)
                sum += own[(u64)(below + k) * channels];
            own[(u64)(below + level + group) * channels] = sum;
        }
        below += level;
    }
}

// The same for items of n rows that are doubles.
KERNEL group_rows(const double *rows, u32 n_items, u32 n, u32 channels, u32 n_groups, double *groups, u32 *barrier) {
    u32 level = n, below = 0;
    while (level > 1 || below == 0) {
        const u32 count = (level + GROUP - 1) / GROUP;
        FOR_EACH_32(i, n_items * count * channels) {
            const u32 c = i % channels, group = i / channels % count;
            const u64 item = i / channels / count;
            double *const own = groups + item * n_groups * channels + c;
            const double *const things = below == 0 ? rows + item * n * channels + c : own + (u64)(below - n) * channels;
            double sum = 0;
            for (u32 k = group * GROUP; k < (group + 1) * GROUP && k < level; k++) sum += things[(u64)k * channels];
            own[(u64)(below == 0 ? group : below - n + level + group) * channels] = sum;
        }
        below += level;
        level = count;
        if (level > 1) grid_sync(barrier);
    }
}

// For each row: what its gap hands to the other side, to its branch (v) and from it (w).
KERNEL exchange(
    const REAL *values, long long item_stride, long long pixel_stride, long long channel_stride,
    const u32 *trees, u32 repeat, const int *order, const double *divisors,
    const double *groups, u32 n_groups, const GAP *gaps,
    const u32 *lows, const u32 *cuts, const u32 *highs, const u8 *branch_on_left,
    double inverse_zeta, u32 n_items, u32 n, u32 channels, double *to_branch, double *from_branch
) {
    FOR_EACH_32(i, n_items * (n - 1) * channels) {
        const u32 c = i % channels, item = i / channels / (n - 1);
        const u32 tree = tree_of_item(trees, repeat, item);
        const u64 row = (u64)tree * (n - 1) + i / channels % (n - 1);
        const u32 start = tree * n, cut = cuts[row];
        const double kappa = affinity((double)gaps[cut - tree], inverse_zeta);
        double to = 0, from = 0;
        if (kappa != 0) {
            const u32 low = lows[row] - start, middle = cut - start + 1, high = highs[row] - start + 1;
            double left, right;
            if (values || divisors) {
                const Leaves leaves = {
                    values ? values + item * item_stride + c * channel_stride : 0, pixel_stride,
                    order + (u64)tree * n, divisors ? divisors + (u64)tree * n : 0
                };
                const double *own = groups + (u64)item * n_groups * channels;
                left = range_sum(leaves, own, n, channels, c, low, middle);
                right = range_sum(leaves, own, n, channels, c, middle, high);
            } else {
                left = middle - low;
                right = high - middle;
            }
            const bool on_left = branch_on_left[cut];
            to = kappa * (on_left ? right : left);
            from = kappa * (on_left ? left : right);
        }
        to_branch[i] = to;
        from_branch[i] = from;
    }
}

// A branch also gets what the branches above it in its chain hand on; so does what the bottom gathers.
KERNEL accumulate(
    const u32 *trees, u32 repeat, const double *groups, u32 n_groups, const u32 *row_stops,
    u32 n_items, u32 n, u32 channels, double *to_branch, double *from_branch
) {
    FOR_EACH_32(i, n_items * (n - 1) * channels) {
        const u32 c = i % channels, item = i / channels / (n - 1);
        const u32 local = i / channels % (n - 1);
        const u64 first = (u64)tree_of_item(trees, repeat, item) * (n - 1);
        const u32 stop = row_stops[first + local] - (u32)first;
        const Rows rows = {from_branch + (u64)item * (n - 1) * channels, channels};
        const double above =
            range_sum(rows, groups + (u64)item * n_groups * channels, n - 1, channels, c, local + 1, stop);
        to_branch[i] += above;
        // Only a chain's first row is no part of any sum here, and only its own is asked for.
        if (local == 0 || row_stops[first + local - 1] != row_stops[first + local]) from_branch[i] += above;
    }
}

// Adds up what every position gets on its way up the chains, and divides by z (line order) if it is given;
// without values, the result is z.
KERNEL collect(
    const REAL *values, long long item_stride, long long pixel_stride, long long channel_stride,
    const u32 *trees, u32 repeat, const int *order, const double *divisors,
    const u32 *row_merges, const u32 *position_merges, const double *to_branch, const double *from_branch,
    u32 n_items, u32 n, u32 channels, const double *z,
    REAL *out, long long out_item_stride, long long out_pixel_stride, long long out_channel_stride, double *z_out
) {
    FOR_EACH_32(i, n_items * n * channels) {
        const u32 c = i % channels, p = i / channels % n, item = i / channels / n;
        const u32 tree = tree_of_item(trees, repeat, item);
        const Leaves leaves = {
            values ? values + item * item_stride + c * channel_stride : 0, pixel_stride,
            order + (u64)tree * n, divisors ? divisors + (u64)tree * n : 0
        };
        const u64 first = (u64)tree * (n - 1), own = (u64)item * (n - 1);
        double sum = leaves(p, c);
        for (u32 merge = position_merges[(u64)tree * n + p]; merge != NONE;) {
            const u64 row = merge / 2;
            const double *got = merge % 2 ? from_branch : to_branch;
            sum += got[(own + row - first) * channels + c];
            merge = row_merges[row];
        }
        if (z) sum /= z[(u64)tree * n + p];
        if (z_out) z_out[i] = sum;
        else
            out[item * out_item_stride + order[(u64)tree * n + p] * out_pixel_stride + c * out_channel_stride] =
                (REAL)sum;
    }
}

// b = sum over channels of grad / z * result, along the line: (items, n).
KERNEL weigh_results(
    const REAL *grad, long long item_stride, long long pixel_stride, long long channel_stride,
    const REAL *result, long long result_item_stride, long long result_pixel_stride, long long result_channel_stride,
    const u32 *trees, u32 repeat, const int *order, const double *z, u32 n_items, u32 n, u32 channels, double *b
) {
    FOR_EACH_32(i, n_items * n) {
        const u32 p = i % n, item = i / n, tree = tree_of_item(trees, repeat, item);
        const long long pixel = order[(u64)tree * n + p];
        double sum = 0;
        for (u32 c = 0; c < channels; c++)
            sum += (double)grad[item * item_stride + pixel * pixel_stride + c * channel_stride] *
                   (double)result[item * result_item_stride + pixel * result_pixel_stride + c * result_channel_stride];
        b[i] = sum / z[(u64)tree * n + p];
    }
}

// Adds dL/dgap of one item over one tree to out (n - 1). a = grad / z.
//
// With sums over the two sides of a merge: -(k / zeta^2) (A_L Phi_R + A_R Phi_L - B_L n_R - B_R n_L).
KERNEL gap_gradients(
    const REAL *grad, long long item_stride, long long pixel_stride, long long channel_stride,
    const REAL *values, long long value_item_stride, long long value_pixel_stride, long long value_channel_stride,
    const int *order, const double *z, const double *b,
    const double *grad_groups, const double *value_groups, const double *b_groups,
    const GAP *gaps, const u32 *lows, const u32 *cuts, const u32 *highs,
    double inverse_zeta, u32 n, u32 channels, double *out
) {
    FOR_EACH(row, n - 1) {
        const u32 cut = cuts[row], low = lows[row], middle = cut + 1, high = highs[row] + 1;
        const double kappa = affinity((double)gaps[cut], inverse_zeta);
        if (kappa == 0) continue;
        double sum = 0;
        for (u32 c = 0; c < channels; c++) {
            const Leaves a = {grad + c * channel_stride, pixel_stride, order, z};
            const Leaves phi = {values + c * value_channel_stride, value_pixel_stride, order, 0};
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
