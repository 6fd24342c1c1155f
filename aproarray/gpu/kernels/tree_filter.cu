// Sums over trees of products along paths: the tree filter. See aproarray/cpu/_rooted.pyx for the formulas.
//
// Set f of weights is of tree tree_index[f], item i has set set_of[i]. Rows of places are doubles (items, columns, n).
// REAL is the type of values, features and distances.

#include "tree_filter.cuh"

__device__ REAL infinite() { return from_bits(infinity_bits(bits_of((REAL)0))); }

// stops[b, p]: the place after the last child of p.
KERNEL child_stops(const Forests forests, u32 n_trees, u32 n) {
    FOR_EACH(i, (u64)n_trees * n) {
        const u64 tree = i / n;
        const int place = (int)(i % n);
        u32 low = (u32)forests.n_roots[tree], high = n;
        while (low < high) {
            const u32 middle = low + (high - low) / 2;
            if (forests.parents[tree * n + middle] > place) high = middle;
            else low = middle + 1;
        }
        forests.stops[i] = low;
    }
}

// levels[b]: the first place of every depth, and n after the last; n_levels[b] depths.
//
// A place's depth is the sum of the steps to its root, which doubles with every round. jumps and depths (2, n_trees, n)
// are read from one half and written to the other; unfinished begins as 0.
COOPERATIVE_KERNEL find_levels(
    const Forests forests, u32 n_trees, u32 n, u32 *jumps, u32 *depths, u32 *unfinished, u32 *barrier
) {
    const u64 all = (u64)n_trees * n;
    FOR_EACH(i, all) {
        const u32 parent = (u32)forests.parents[i];
        jumps[i] = parent;
        depths[i] = parent != i % n;
    }
    u64 from = 0, to = all;
    for (u32 round = 0;; round++) {
        grid_sync(barrier);
        FOR_EACH(i, all) {
            const u64 there = i / n * n + jumps[from + i];
            const u32 further = depths[from + there];
            depths[to + i] = depths[from + i] + further;
            jumps[to + i] = jumps[from + there];
            if (further) unfinished[round] = 1;
        }
        grid_sync(barrier);
        const u64 read = from;
        from = to;
        to = read;
        if (!unfinished[round]) break;
    }
    FOR_EACH(i, all) {
        const u64 tree = i / n, place = i % n;
        const u32 depth = depths[from + i];
        u32 *const first = forests.levels + tree * (n + 1);
        if (place == 0 || depths[from + i - 1] != depth) first[depth] = (u32)place;
        if (place == n - 1) {
            first[depth + 1] = n;
            forests.n_levels[tree] = depth + 1;
        }
    }
}

KERNEL edge_distances(
    const REAL *features, u32 channels, const int *gap_edges, const u32 *tree_index, u32 n_sets, u32 n, REAL *out,
    u32 *overflow
) {
    FOR_EACH(i, (u64)n_sets * (n - 1)) {
        const u64 set = i / (n - 1), gap = i % (n - 1);
        const int *const ends = gap_edges + 2 * ((u64)tree_index[set] * (n - 1) + gap);
        REAL total = infinite();
        if (ends[0] >= 0) {
            const REAL *const u = features + (set * n + ends[0]) * channels;
            const REAL *const v = features + (set * n + ends[1]) * channels;
            total = 0;
            for (u32 c = 0; c < channels; c++) total += (u[c] - v[c]) * (u[c] - v[c]);
            if (!(total < infinite())) *overflow = 1;
        }
        out[i] = total;
    }
}

// The weights of the edges to the parents, by places; those of roots are not used.
KERNEL edge_weights(
    const REAL *distances, const int *gaps, const u32 *tree_index, u32 n_sets, u32 n, double inverse, double decay,
    double *weights
) {
    FOR_EACH(i, (u64)n_sets * n) {
        const u64 set = i / n;
        const int gap = gaps[(u64)tree_index[set] * n + i % n];
        double w = 0;
        if (gap >= 0) {
            const REAL d = distances[set * (n - 1) + gap];
            if (!(d == infinite())) w = exp(-((double)d * inverse) * inverse) * decay;
        }
        weights[i] = w;
    }
}

KERNEL gather_places(
    const Strided<const REAL> values, const int *nodes, const double *divisors, const u32 *tree_index, const u32 *set_of,
    const Sizes sizes, double *rows
) {
    const u32 n = sizes.n, columns = sizes.channels;
    FOR_EACH(i, (u64)sizes.items * columns * n) {
        const u64 place = i % n, column = i / n % columns, item = i / n / columns, set = set_of[item];
        const double value = values(item, nodes[(u64)tree_index[set] * n + place], column);
        rows[i] = divisors ? value / divisors[set * n + place] : value;
    }
}

// Turns rows of phi into A, and fills total with S phi. A block has 4 columns of one item at a time.
KERNEL sum_trees(
    const double *weights, const Forests forests, const u32 *tree_index, const u32 *set_of, const Sizes sizes,
    double *rows, double *total
) {
    const u32 n = sizes.n, columns = sizes.channels, groups = (columns + 3) / 4;
    for (u64 job = blockIdx.x; job < (u64)sizes.items * groups; job += gridDim.x) {
        const u64 item = job / groups, column = job % groups * 4, set = set_of[item], tree = tree_index[set];
        const u32 width = columns - column < 4 ? (u32)(columns - column) : 4;
        const double *const w = weights + set * n;
        const u32 *const stop = forests.stops + tree * n, *const first = forests.levels + tree * (n + 1);
        const int *const parents = forests.parents + tree * n;
        double *const up = rows + (item * columns + column) * n, *const down = total + (item * columns + column) * n;
        const u32 roots = (u32)forests.n_roots[tree], depth = forests.n_levels[tree];
        for (u32 level = depth; level-- > 0;) {
            const u32 count = first[level + 1] - first[level];
            for (u64 t = threadIdx.x; t < (u64)count * width; t += BLOCK) {
                const u64 place = first[level] + t % count;
                double *const row = up + t / count * n;
                double sum = row[place];
                for (u32 child = place ? stop[place - 1] : roots; child < stop[place]; child++)
                    sum += w[child] * row[child];
                row[place] = sum;
            }
            __syncthreads();
        }
        for (u32 level = 0; level < depth; level++) {
            const u32 count = first[level + 1] - first[level];
            for (u64 t = threadIdx.x; t < (u64)count * width; t += BLOCK) {
                const u64 place = first[level] + t % count, plane = t / count * n;
                const double own = up[plane + place], weight = w[place];
                down[plane + place] =
                    level ? (1 - weight * weight) * own + weight * down[plane + parents[place]] : own;
            }
            __syncthreads();
        }
    }
}

KERNEL normalisers(const double *total, u32 n_sets, u32 n, double lacking, double *sums) {
    FOR_EACH(i, (u64)n_sets * n) sums[i] = total[i] - lacking;
}

// Writes S values to the pixels. A pixel's own affinity is less than 1 by `lacking`.
KERNEL scatter_places(
    const double *total, const Strided<const REAL> values, const int *nodes, const double *before, const double *after,
    const u32 *tree_index, const u32 *set_of, const Sizes sizes, double lacking, const Strided<REAL> out
) {
    const u32 n = sizes.n, columns = sizes.channels;
    FOR_EACH(i, (u64)sizes.items * columns * n) {
        const u64 place = i % n, column = i / n % columns, item = i / n / columns, set = set_of[item];
        const u64 pixel = nodes[(u64)tree_index[set] * n + place];
        double result = total[i];
        if (lacking != 0) {
            const double own = values(item, pixel, column);
            result -= lacking * (before ? own / before[set * n + place] : own);
        }
        if (after) result = result / after[set * n + place];
        out(item, pixel, column) = (REAL)result;
    }
}
