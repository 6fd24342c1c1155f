// Sums over ranges of a line, or of a chain's rows: for global propagation and its gradients.
//
// A range is made of fixed pieces: groups of 8, groups of 8 groups, and so on, counted from the start of the
// item's own line. So the same terms are added in the same order whatever else is computed along, and
// nothing is ever subtracted. REAL is the type of values and results, sums are double.

#include "global_line.cuh"

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

// The trees of items: in a list, or each tree has `repeat` items in a row. Values may be divided along the line.
struct Trees {
    const u32 *of_items;
    u32 repeat;
    const int *order;
    const double *divisors;
    __device__ u32 of(u32 item) const { return of_items ? of_items[item] : item / repeat; }
};

// What is summed over for channel c of an item, whose tree has n positions.
__device__ Leaves leaves_of(const Strided<const REAL> &values, const Trees &trees, u32 item, u32 tree, u32 c, u32 n) {
    return {
        values.values ? values.values + item * values.item + c * values.channel : 0, values.pixel,
        trees.order + (u64)tree * n, trees.divisors ? trees.divisors + (u64)tree * n : 0
    };
}
