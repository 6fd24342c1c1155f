// Global propagation inside of tiles of lines (see line_tiles.cu): up to the stretches, and down again.
//
// REAL is the type of values and results, GAP that of gaps. A block has a tile of one item and up to COLUMNS of its
// columns in shared memory. Columns are channels, and one more for z, whose values are 1. What is added to what
// depends on the tree alone.

#include "global.cuh"
#include "line_tiles.cuh"

// What is propagated over: lines of n positions, and which pixels they hold. Where there are divisors (trees, n), values
// are divided by them. Results are divided by z (trees, n), which is found on the way or known.
struct Along {
    const int *order;
    const GAP *gaps;
    double inverse_zeta;
    const double *divisors;
    double *z;
    u32 finds_z;  // then z may be null
};

// Without `out`: fills the sums of stretches (items, n, columns). With it, those are what stretches get from elsewhere, and
// results go to out.
KERNEL cross_tiles(
    const Strided<const REAL> values, const Trees trees, const Tiles tiles, const Along along, const Sizes sizes,
    double *of_stretches, const Strided<REAL> out
) {
    __shared__ double sums[2 * SPAN][COLUMNS];
    __shared__ double kappas[SPAN];
    __shared__ u32 merges[SPAN], rounds[SPAN];  // where rounds begin, and where the last one stops
    const u32 n = sizes.n, channels = sizes.channels, across = (n + SPAN - 1) / SPAN;
    const u32 with_z = along.finds_z, columns = channels + with_z;
    const u32 groups = (channels + COLUMNS - with_z - 1) / (COLUMNS - with_z), most = (channels + groups - 1) / groups;
    const bool down = out.values != 0;
    for (u64 unit = blockIdx.x; unit < (u64)sizes.items * across * groups; unit += gridDim.x) {
        const u32 group = (u32)(unit % groups), item = (u32)(unit / groups / across), tree = trees.of(item);
        const u64 tile = (u64)tree * across + unit / groups % across;
        const u32 first = (u32)(tile - (u64)tree * across) * SPAN, count = n - first < SPAN ? n - first : SPAN;
        const u32 channel = group * most, width = (channels - channel < most ? channels - channel : most) + with_z;
        const u64 start = (u64)tree * n + first;  // of what the tree has for positions
        // A thread's column, and every `step`-th thing of it. Without a column, a thread has nothing to do.
        const u32 c = threadIdx.x % width, step = BLOCK / width;
        const u32 begin = threadIdx.x / width < step ? threadIdx.x / width : 2 * SPAN;
        const bool is_z = with_z && c == width - 1;
        const u32 column = is_z ? channels : channel + c;

        const u32 *const own_merges = tiles.merges + tile * SPAN, n_merges = tiles.n_merges[tile];
        if (threadIdx.x < n_merges) {
            const u32 merge = own_merges[threadIdx.x], round = round_of(merge);
            merges[threadIdx.x] = merge;
            if (threadIdx.x == 0 || round_of(own_merges[threadIdx.x - 1]) != round) rounds[round] = threadIdx.x;
            if (threadIdx.x + 1 == n_merges) rounds[round + 1] = n_merges;
            if (down) kappas[threadIdx.x] = affinity((double)along.gaps[start - tree + cut_of(merge)], along.inverse_zeta);
        }
        const u32 n_rounds = n_merges ? round_of(own_merges[n_merges - 1]) + 1 : 0;
#pragma unroll 2  // more take more registers than three blocks have
        for (u32 p = begin; p < count; p += step) {
            double value = is_z ? 1.0 : (double)values(item, along.order[start + p], column);
            if (along.divisors) value /= along.divisors[start + p];
            sums[tiles.on_left[start + p] ? SPAN + p : p][c] = value;
        }
        __syncthreads();
        for (u32 round = 0; round < n_rounds; round++) {
            for (u32 i = rounds[round] + begin; i < rounds[round + 1]; i += step) {
                const Merge merge(merges[i]);
                sums[merge.slot][c] = sums[merge.left][c] + sums[merge.right][c];
            }
            __syncthreads();
        }

        const u32 *const firsts = tiles.first_stretches + tile + tree, *const stretches = tiles.stretches + tile * SPAN;
        double *const its = of_stretches + ((u64)item * n + firsts[0]) * columns + column;
        const u32 n_stretches = firsts[1] - firsts[0];
        if (!down) {
            if (!is_z || group == 0)
                for (u32 k = begin; k < n_stretches; k += step) its[(u64)k * columns] = sums[slot_of(stretches[k])][c];
        } else {
            // Every slot gets what its cluster gets from elsewhere; single positions keep their own.
            for (u32 k = begin; k < n_stretches; k += step) {
                double &sum = sums[slot_of(stretches[k])][c];
                sum = its[(u64)k * columns] + (is_single(stretches[k]) ? sum : 0);
            }
            __syncthreads();
            for (u32 round = n_rounds; round-- > 0;) {
                for (u32 i = rounds[round] + begin; i < rounds[round + 1]; i += step) {
                    const Merge merge(merges[i]);
                    const double got = sums[merge.slot][c], kappa = kappas[i];
                    const double left = sums[merge.left][c], right = sums[merge.right][c];
                    const double to_left = kappa ? got + kappa * right : got, to_right = kappa ? got + kappa * left : got;
                    sums[merge.left][c] = to_left + (merge.left_single ? left : 0);
                    sums[merge.right][c] = to_right + (merge.right_single ? right : 0);
                }
                __syncthreads();
            }
            for (u32 p = begin; p < count; p += step) {
                const double *const own = sums[tiles.on_left[start + p] ? SPAN + p : p];
                if (!is_z) {
                    const double z = with_z ? own[width - 1] : along.z ? along.z[start + p] : 1;
                    out(item, along.order[start + p], column) = (REAL)(own[c] / z);
                } else if (along.z && group == 0) {  // items of one tree write the same
                    along.z[start + p] = own[c];
                }
            }
        }
        __syncthreads();  // before the next tile is written
    }
}
