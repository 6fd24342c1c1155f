// The edges of a pixel graph: their weights, as keys to sort them by, and their ends, in the order of the weights.
//
// KEY and REAL are the weights' bits and type; NDIM, N_STEPS and STEPS say which pixels are neighbours (see
// aproarray/_edges.py). Edge k of pixel u has the number u * N_STEPS + k, which orders edges by (u, v). A
// batch is one graph: pixel u of image b is node b * N + u. The key of an edge that is not there is ~0.

#include "common.cuh"

__constant__ const int STEP_OF[N_STEPS][NDIM] = STEPS;

KERNEL weigh_grid(const Images<REAL> images, u32 n_nodes, const Extents shape, KEY *keys) {
    FOR_EACH_32(i, images.count * n_nodes) {
        const u32 b = i / n_nodes, u = i % n_nodes;
        const u64 channels = images.channels;
        const u8 *const mask = images.mask(b, n_nodes);
        const bool present = !mask || mask[u];
        for (int k = 0; k < N_STEPS; k++) {
            bool inside = present;
            u32 rest = u;
            long long v = u, stride = 1;
            for (int axis = NDIM - 1; axis >= 0; axis--) {
                const long long at = (long long)(rest % shape.of[axis]) + STEP_OF[k][axis];
                inside = inside && at >= 0 && at < shape.of[axis];
                v += STEP_OF[k][axis] * stride;
                stride *= shape.of[axis];
                rest /= shape.of[axis];
            }
            inside = inside && (!mask || mask[v]);
            const REAL *const pixels = images.image(b, n_nodes);
            keys[(u64)i * N_STEPS + k] =
                inside ? square_distance(pixels + u * channels, pixels + v * channels, channels) : ~(KEY)0;
        }
    }
}

// How far the pixel is that a step leads to.
__device__ u32 flat_step(const Extents &shape, int k) {
    u32 step = 0, stride = 1;
    for (int axis = NDIM - 1; axis >= 0; axis--) {
        step += (u32)STEP_OF[k][axis] * stride;
        stride *= shape.of[axis];
    }
    return step;
}

// Whether an edge is there, and not the heaviest of a square of four pixels: that one is in no tree. Of equal edges
// the later one is the heavier. Steps are those along an axis if there are as many as axes.
__device__ bool is_kept(const KEY *keys, u32 edge, u32 n_nodes, const Extents &shape) {
    const KEY own = keys[edge];
    if (own == ~(KEY)0) return false;
    if (N_STEPS != NDIM) return true;
    const u32 node = edge / N_STEPS, k = edge % N_STEPS, along = flat_step(shape, k);
    for (u32 j = 0; j < N_STEPS; j++) {
        if (j == k) continue;
        const u32 across = flat_step(shape, j), extent = shape.of[NDIM - 1 - j];
        for (u32 before = 0; before < 2; before++) {
            if (before && node % n_nodes / across % extent == 0) break;
            const u32 corner = node - before * across;
            const u32 first = corner * N_STEPS + k, second = corner * N_STEPS + j;
            if (keys[first] == ~(KEY)0 || keys[second] == ~(KEY)0) continue;
            const u32 others[3] = {
                before ? first : (corner + across) * N_STEPS + k, second, (corner + along) * N_STEPS + j
            };
            bool heaviest = true;
            for (u32 other : others) {
                const KEY key = keys[other];
                heaviest = heaviest && (key < own || (key == own && other < edge));
            }
            if (heaviest) return false;
        }
    }
    return true;
}

// The edges that may be in a tree, in their order, with their numbers; `count` of them.
COOPERATIVE_KERNEL keep_edges(
    const KEY *keys, u32 n_edges, u32 n_nodes, const Extents shape, KEY *kept, u32 *ids, u32 *of_blocks, u32 *count,
    u32 *barrier
) {
    const u64 begin = first_of_block(n_edges, blockIdx.x), end = first_of_block(n_edges, blockIdx.x + 1);
    u32 own = 0, total;
    for (u64 e = begin + threadIdx.x; e < end; e += BLOCK) own += is_kept(keys, (u32)e, n_nodes, shape);
    block_scan(own, &total);
    if (threadIdx.x == 0) of_blocks[blockIdx.x] = total;
    grid_sync(barrier);
    u32 place = sum_before_block(of_blocks);
    for (u64 first = begin; first < end; first += BLOCK) {
        const u32 e = (u32)first + threadIdx.x;
        const bool wanted = e < end && is_kept(keys, e, n_nodes, shape);
        const u32 before = block_scan((u32)wanted, &total);
        if (wanted) {
            kept[place + before] = keys[e];
            ids[place + before] = e;
        }
        place += total;
    }
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) *count = place;
}

// The ends of the first `count` edges, which are sorted by weight; NONE for the others.
KERNEL grid_ends(const u32 *ids, const u32 *count, u32 n_edges, const Extents shape, u32 *ends) {
    FOR_EACH(e, n_edges) {
        if (e >= *count) {
            ends[2 * e] = ends[2 * e + 1] = NONE;
            continue;
        }
        const u32 u = ids[e] / N_STEPS;
        ends[2 * e] = u;
        ends[2 * e + 1] = u + flat_step(shape, ids[e] % N_STEPS);
    }
}
