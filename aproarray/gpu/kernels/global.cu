// Global propagation over the chains of a line (see global_line.cu), any number of items and channels at a time.
//
// An item is n things by `channels`, and one launch has at most 2^31 sums. GAP is the type of gaps.

#include "global.cuh"

// Fills the groups of items of n positions, by their values.
COOPERATIVE_KERNEL group_positions(
    const Strided<const REAL> values, const Trees trees, const Sizes sizes, u32 n_groups, double *groups, u32 *barrier
) {
    const u32 n_items = sizes.items, n = sizes.n, channels = sizes.channels;
    const u32 first_groups = (n + GROUP - 1) / GROUP;
    FOR_EACH_32(i, n_items * first_groups * channels) {
        const u32 c = i % channels, group = i / channels % first_groups;
        const u32 item = i / channels / first_groups, tree = trees.of(item);
        const Leaves leaves = leaves_of(values, trees, item, tree, c, n);
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
COOPERATIVE_KERNEL group_rows(const double *rows, const Sizes sizes, u32 n_groups, double *groups, u32 *barrier) {
    const u32 n_items = sizes.items, n = sizes.n, channels = sizes.channels;
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

// The affinities of the gaps of all rows: `trees` trees over n nodes, whose rows follow one another.
KERNEL row_affinities(const GAP *gaps, const Line line, u32 trees, u32 n, double inverse_zeta, double *kappas) {
    FOR_EACH_32(row, trees * (n - 1)) {
        kappas[row] = affinity((double)gaps[line.cuts[row] - row / (n - 1)], inverse_zeta);
    }
}

// For each row: what its gap hands to the other side, to its branch (v) and from it (w).
KERNEL exchange(
    const Strided<const REAL> values, const Trees trees, const double *groups, u32 n_groups, const double *kappas,
    const Line line, const Sizes sizes, double *to_branch, double *from_branch
) {
    const u32 n = sizes.n, channels = sizes.channels;
    FOR_EACH_32(i, sizes.items * (n - 1) * channels) {
        const u32 c = i % channels, item = i / channels / (n - 1);
        const u32 tree = trees.of(item);
        const u64 row = (u64)tree * (n - 1) + i / channels % (n - 1);
        const u32 start = tree * n, cut = line.cuts[row];
        const double kappa = kappas[row];
        double to = 0, from = 0;
        if (kappa != 0) {
            const u32 low = line.lows[row] - start, middle = cut - start + 1, high = line.highs[row] - start + 1;
            double left, right;
            if (values.values || trees.divisors) {
                const Leaves leaves = leaves_of(values, trees, item, tree, c, n);
                const double *own = groups + (u64)item * n_groups * channels;
                left = range_sum(leaves, own, n, channels, c, low, middle);
                right = range_sum(leaves, own, n, channels, c, middle, high);
            } else {
                left = middle - low;
                right = high - middle;
            }
            const bool on_left = line.branch_on_left[cut];
            to = kappa * (on_left ? right : left);
            from = kappa * (on_left ? left : right);
        }
        to_branch[i] = to;
        from_branch[i] = from;
    }
}

// A branch also gets what the branches above it in its chain hand on; so does what the bottom gathers.
KERNEL accumulate(
    const Trees trees, const double *groups, u32 n_groups, const Line line, const Sizes sizes, double *to_branch,
    double *from_branch
) {
    const u32 n = sizes.n, channels = sizes.channels;
    const u32 *const row_stops = line.row_stops;
    FOR_EACH_32(i, sizes.items * (n - 1) * channels) {
        const u32 c = i % channels, item = i / channels / (n - 1);
        const u32 local = i / channels % (n - 1);
        const u64 first = (u64)trees.of(item) * (n - 1);
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
    const Strided<const REAL> values, const Trees trees, const Line line, const double *to_branch,
    const double *from_branch, const Sizes sizes, const double *z, const Strided<REAL> out, double *z_out
) {
    const u32 n = sizes.n, channels = sizes.channels;
    FOR_EACH_32(i, sizes.items * n * channels) {
        const u32 c = i % channels, p = i / channels % n, item = i / channels / n;
        const u32 tree = trees.of(item);
        const Leaves leaves = leaves_of(values, trees, item, tree, c, n);
        const u64 first = (u64)tree * (n - 1), own = (u64)item * (n - 1);
        double sum = leaves(p, c);
        for (u32 merge = line.position_merges[(u64)tree * n + p]; merge != NONE;) {
            const u64 row = merge / 2;
            const double *got = merge % 2 ? from_branch : to_branch;
            sum += got[(own + row - first) * channels + c];
            merge = line.row_merges[row];
        }
        if (z) sum /= z[(u64)tree * n + p];
        if (z_out) z_out[i] = sum;
        else out(item, trees.order[(u64)tree * n + p], c) = (REAL)sum;
    }
}
