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

// The ends of edges that are sorted by weight; NONE where there is no edge.
KERNEL grid_ends(const KEY *keys, const u32 *ids, u32 n_edges, const Extents shape, u32 *ends) {
    FOR_EACH(e, n_edges) {
        const u32 u = ids[e] / N_STEPS, k = ids[e] % N_STEPS;
        long long v = u, stride = 1;
        for (int axis = NDIM - 1; axis >= 0; axis--) {
            v += STEP_OF[k][axis] * stride;
            stride *= shape.of[axis];
        }
        const bool missing = keys[e] == ~(KEY)0;
        ends[2 * e] = missing ? NONE : u;
        ends[2 * e + 1] = missing ? NONE : (u32)v;
    }
}
