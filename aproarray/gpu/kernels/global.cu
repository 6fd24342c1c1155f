// Global propagation over the chains of lines (see global_line.cu), any number of items and columns at a time.
//
// A line is what tiles leave of a tree's (see line_tiles.cu): its positions are stretches of the tree's. Sums of an item
// lie n apart, however many positions its line has. One launch has at most 2^31 sums. KEY is the type of heights.

#include "global.cuh"

// What all items have: `sums` of the positions of their lines (items, n, channels), and for each row what its
// gap hands to its branch and what it hands on from it (items, n, channels).
struct Work {
    double *sums, *to_branch, *from_branch;
    double *groups;  // (items, n_groups, channels)
    u32 n_groups;
    double *kappas;  // the affinities of rows
};

// One row, or position, of one item in one column.
struct Place {
    u32 item, local, c, tree;
    u64 of_item;  // the item's first sum
    __device__ Place(u32 i, u32 most, const Sizes &sizes, const Trees &trees)
        : item(i / sizes.channels / most), local(i / sizes.channels % most), c(i % sizes.channels), tree(trees.of(item)),
          of_item((u64)item * sizes.n * sizes.channels) {}
};

// Hands what every position has to all others of its line: sums become what a position gets, without its own.
COOPERATIVE_KERNEL propagate_chains(
    const KEY *heights, const Trees trees, const Lines lines, const Line line, const Sizes sizes, double inverse_zeta,
    const Work work, u32 *barrier
) {
    const u32 n = sizes.n, channels = sizes.channels, longest = lines.longest(), most = longest - 1;
    double *const to_branch = work.to_branch, *const from_branch = work.from_branch;
    const auto groups_of = [&](const Place &at) { return work.groups + (u64)at.item * work.n_groups * channels; };
    if (longest == 1) {
        FOR_EACH_32(i, sizes.items * channels) work.sums[(u64)(i / channels) * n * channels + i % channels] = 0;
        return;
    }

    FOR_EACH_32(row, lines.n_slots() - lines.count) {
        work.kappas[row] = affinity((double)from_bits(heights[line.cuts[row]]), inverse_zeta);
    }
    const auto sums_of = [&](u32 item) { return Rows{work.sums + (u64)item * n * channels, channels}; };
    sum_groups(sums_of, n, longest, sizes.items, channels, work.n_groups, work.groups, barrier);
    grid_sync(barrier);

    // What a row's gap hands to the other side, to its branch and from it.
    FOR_EACH_32(i, sizes.items * most * channels) {
        const Place at(i, most, sizes, trees);
        const u32 start = lines.start(at.tree), row = start - at.tree + at.local;
        double to = 0, from = 0;
        if (at.local + 1 < lines.length(at.tree) && work.kappas[row] != 0) {
            const u32 cut = line.cuts[row], middle = cut - start + 1;
            const u32 low = line.lows[row] - start, high = line.highs[row] - start + 1;
            const Rows sums = sums_of(at.item);
            const double left = range_sum(sums, groups_of(at), n, channels, at.c, low, middle);
            const double right = range_sum(sums, groups_of(at), n, channels, at.c, middle, high);
            const bool on_left = line.branch_on_left[cut];
            to = work.kappas[row] * (on_left ? right : left);
            from = work.kappas[row] * (on_left ? left : right);
        }
        const u64 place = at.of_item + (u64)at.local * channels + at.c;
        to_branch[place] = to;
        from_branch[place] = from;
    }
    grid_sync(barrier);

    // A branch also gets what the branches above it in its chain hand on; so does what the bottom gathers.
    const auto rows_of = [&](u32 item) { return Rows{from_branch + (u64)item * n * channels, channels}; };
    sum_groups(rows_of, n, most, sizes.items, channels, work.n_groups, work.groups, barrier);
    grid_sync(barrier);
    FOR_EACH_32(i, sizes.items * most * channels) {
        const Place at(i, most, sizes, trees);
        const u32 first = lines.start(at.tree) - at.tree;
        if (at.local + 1 >= lines.length(at.tree)) continue;
        const u32 *const stops = line.row_stops + first;
        const u32 stop = stops[at.local] - first;
        const double above = range_sum(rows_of(at.item), groups_of(at), n, channels, at.c, at.local + 1, stop);
        const u64 place = at.of_item + (u64)at.local * channels + at.c;
        to_branch[place] += above;
        // Only a chain's first row is no part of any sum here, and only its own is asked for.
        if (at.local == 0 || stops[at.local - 1] != stops[at.local]) from_branch[place] += above;
    }
    grid_sync(barrier);

    // Add up what every position gets on its way up the chains.
    FOR_EACH_32(i, sizes.items * longest * channels) {
        const Place at(i, longest, sizes, trees);
        const u32 start = lines.start(at.tree), first = start - at.tree;
        if (at.local >= lines.length(at.tree)) continue;
        double sum = 0;
        for (u32 merge = line.position_merges[start + at.local]; merge != NONE;) {
            const u32 row = merge / 2;
            const double *const got = merge % 2 ? from_branch : to_branch;
            sum += got[at.of_item + (u64)(row - first) * channels + at.c];
            merge = line.row_merges[row];
        }
        work.sums[at.of_item + (u64)at.local * channels + at.c] = sum;
    }
}
