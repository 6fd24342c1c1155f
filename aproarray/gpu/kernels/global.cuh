// Sums over ranges of a line, or of a chain's rows: for global propagation and its gradients.
//
// A range is made of fixed pieces: groups of 4, groups of 4 groups, and so on, counted from the start of the
// item's own line. So the same terms are added in the same order whatever else is computed along, and
// nothing is ever subtracted. Sums are double.

#include "global_line.cuh"

#define GROUP 4

__device__ double affinity(double gap, double inverse_zeta) {
    return gap < 1.0 / 0.0 ? exp(-(gap * inverse_zeta) * inverse_zeta) : 0.0;
}

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

// The trees of items: in a list, or each tree has `repeat` items in a row.
struct Trees {
    const u32 *of_items;
    u32 repeat;
    __device__ u32 of(u32 item) const { return of_items ? of_items[item] : item / repeat; }
};

// Fills the groups of items of `count` things: things_of(item)(k, c) is the k-th of column c. The items' groups are laid
// out for n things. All threads of the grid must call. A thread sums up two levels: that halves the waits.
template <typename ThingsOf>
__device__ void sum_groups(
    const ThingsOf &things_of, u32 n, u32 count, u32 n_items, u32 channels, u32 n_groups, double *groups, u32 *barrier
) {
    u64 from = 0, to = 0;  // where the groups of a level begin: those that are summed, and their sums
    for (bool first = true; first || count > 1; first = false) {
        const u32 fewer = (count + GROUP - 1) / GROUP, fewest = (fewer + GROUP - 1) / GROUP;
        n = (n + GROUP - 1) / GROUP;
        if (!first) grid_sync(barrier);
        FOR_EACH_32(i, n_items * fewest * channels) {
            const u32 c = i % channels, place = i / channels % fewest, item = i / channels / fewest;
            double *const own = groups + (u64)item * n_groups * channels + c;
            const auto things = things_of(item);
            double all = 0;
            for (u32 group = place * GROUP; group < (place + 1) * GROUP && group < fewer; group++) {
                double sum = 0;
                for (u32 k = group * GROUP; k < (group + 1) * GROUP && k < count; k++)
                    sum += first ? things(k, c) : own[(from + k) * channels];
                own[(to + group) * channels] = sum;
                all += sum;
            }
            if (fewer > 1) own[(to + n + place) * channels] = all;
        }
        from = to + n;
        n = (n + GROUP - 1) / GROUP;
        to = from + n;
        count = fewest;
    }
}
