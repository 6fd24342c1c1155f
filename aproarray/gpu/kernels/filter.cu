// Sums over trees of products along paths: the tree filter. See aproarray/cpu/_rooted.pyx for the formulas.
//
// Nodes are numbered by their places, breadth first, so that the children of a node, and all nodes of one
// depth, are ranges. Set f of weights is of tree tree_index[f], item i has set set_of[i]. Rows of places are
// doubles (items, columns, n). REAL is the type of values, features and distances.

__device__ REAL infinite() { return from_bits(infinity_bits(bits_of((REAL)0))); }

// stops[b, p]: the place behind the last child of p.
KERNEL child_stops(const int *parents, const long long *n_roots, u32 n_trees, u32 n, u32 *stops) {
    FOR_EACH(i, (u64)n_trees * n) {
        const u64 tree = i / n;
        const int place = (int)(i % n);
        u32 low = (u32)n_roots[tree], high = n;
        while (low < high) {
            const u32 middle = low + (high - low) / 2;
            if (parents[tree * n + middle] > place) high = middle;
            else low = middle + 1;
        }
        stops[i] = low;
    }
}

// levels[b]: the first place of every depth, and n behind the last; n_levels[b] depths.
KERNEL find_levels(
    const u32 *stops, const long long *n_roots, u32 n_trees, u32 n, u32 *levels, u32 *n_levels
) {
    FOR_EACH(tree, n_trees) {
        u32 *const first = levels + tree * (n + 1);
        u32 count = 0, begin = 0, end = (u32)n_roots[tree];
        while (begin < end) {
            first[count++] = begin;
            begin = end;
            end = stops[tree * n + end - 1];
        }
        first[count] = n;
        n_levels[tree] = count;
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
    const REAL *values, long long item_stride, long long pixel_stride, long long channel_stride,
    const int *nodes, const double *divisors, const u32 *tree_index, const u32 *set_of, u32 n_items, u32 n, u32 columns,
    double *rows
) {
    const Strided<REAL> source = {values, item_stride, pixel_stride, channel_stride};
    FOR_EACH(i, (u64)n_items * columns * n) {
        const u64 place = i % n, column = i / n % columns, item = i / n / columns, set = set_of[item];
        const double value = source(item, nodes[(u64)tree_index[set] * n + place], column);
        rows[i] = divisors ? value / divisors[set * n + place] : value;
    }
}

// Turns rows of phi into A, and fills total with S phi. A block has 4 columns of one item at a time.
KERNEL sum_trees(
    const double *weights, const u32 *stops, const int *parents, const long long *n_roots, const u32 *levels,
    const u32 *n_levels, const u32 *tree_index, const u32 *set_of, u32 n_items, u32 n, u32 columns, double *rows,
    double *total
) {
    const u32 groups = (columns + 3) / 4;
    for (u64 job = blockIdx.x; job < (u64)n_items * groups; job += gridDim.x) {
        const u64 item = job / groups, column = job % groups * 4, set = set_of[item], tree = tree_index[set];
        const u32 width = columns - column < 4 ? (u32)(columns - column) : 4;
        const double *const w = weights + set * n;
        const u32 *const stop = stops + tree * n, *const first = levels + tree * (n + 1);
        double *const up = rows + (item * columns + column) * n, *const down = total + (item * columns + column) * n;
        const u32 roots = (u32)n_roots[tree], depth = n_levels[tree];
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
                    level ? (1 - weight * weight) * own + weight * down[plane + parents[tree * n + place]] : own;
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
    const double *total, const REAL *values, long long item_stride, long long pixel_stride, long long channel_stride,
    const int *nodes, const double *before, const double *behind, const u32 *tree_index, const u32 *set_of, u32 n_items,
    u32 n, u32 columns, double lacking, REAL *out, long long out_item_stride, long long out_pixel_stride,
    long long out_channel_stride
) {
    const Strided<REAL> source = {values, item_stride, pixel_stride, channel_stride};
    FOR_EACH(i, (u64)n_items * columns * n) {
        const u64 place = i % n, column = i / n % columns, item = i / n / columns, set = set_of[item];
        const u64 pixel = nodes[(u64)tree_index[set] * n + place];
        double result = total[i];
        if (lacking != 0) {
            const double own = source(item, pixel, column);
            result -= lacking * (before ? own / before[set * n + place] : own);
        }
        if (behind) result = result / behind[set * n + place];
        out[item * out_item_stride + pixel * out_pixel_stride + column * out_channel_stride] = (REAL)result;
    }
}

// Fills rows with the columns a_c, phi_c, b and 1 of one item; see `weight_gradient` of _rooted.pyx.
KERNEL gather_gradients(
    const REAL *grad, long long grad_pixel, long long grad_channel, const REAL *values, long long pixel_stride,
    long long channel_stride, const REAL *result, long long result_pixel, long long result_channel, const int *nodes,
    const double *sums, u32 n, u32 channels, double *rows
) {
    FOR_EACH(place, n) {
        const long long pixel = nodes[place];
        double dot = 0;
        for (u32 c = 0; c < channels; c++) {
            double a = grad[pixel * grad_pixel + c * grad_channel];
            if (sums) {
                a = a / sums[place];
                dot += a * result[pixel * result_pixel + c * result_channel];
            }
            rows[(u64)c * n + place] = a;
            rows[(u64)(channels + c) * n + place] = values[pixel * pixel_stride + c * channel_stride];
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
