// The edges of a pixel graph: their weights, as keys to sort them by, and their ends, in the order of the weights.
//
// KEY and REAL are the weights' bits and type; NDIM, N_STEPS and STEPS say which pixels are neighbours (see
// aproarray/_edges.py). Edge k of pixel u has the number u * N_STEPS + k, which orders edges by (u, v). A
// batch is one graph: pixel u of image b is node b * N + u. The key of an edge that is not there is ~0.

__constant__ const int STEP_OF[N_STEPS][NDIM] = STEPS;

KERNEL weigh_grid(
    const REAL *image, u64 channels, const u8 *mask, u32 n_masks, u32 n_images, u32 n_nodes,
    u32 s0, u32 s1, u32 s2, u32 s3, u32 s4, u32 s5, u32 s6, u32 s7, KEY *keys
) {
    const u32 shape[8] = {s0, s1, s2, s3, s4, s5, s6, s7};
    FOR_EACH_32(i, n_images * n_nodes) {
        const u32 b = i / n_nodes, u = i % n_nodes;
        const u8 *own_mask = mask ? mask + (u64)(b % n_masks) * n_nodes : 0;
        const bool present = !own_mask || own_mask[u];
        for (int k = 0; k < N_STEPS; k++) {
            bool inside = present;
            u32 rest = u;
            long long v = u, stride = 1;
            for (int axis = NDIM - 1; axis >= 0; axis--) {
                const long long at = (long long)(rest % shape[axis]) + STEP_OF[k][axis];
                inside = inside && at >= 0 && at < shape[axis];
                v += STEP_OF[k][axis] * stride;
                stride *= shape[axis];
                rest /= shape[axis];
            }
            inside = inside && (!own_mask || own_mask[v]);
            const REAL *pixels = image + (u64)b * n_nodes * channels;
            keys[(u64)i * N_STEPS + k] =
                inside ? square_distance(pixels + u * channels, pixels + v * channels, channels) : ~(KEY)0;
        }
    }
}

// The ends of edges that are sorted by weight; NONE where there is no edge.
KERNEL grid_ends(
    const KEY *keys, const u32 *ids, u32 n_edges,
    u32 s0, u32 s1, u32 s2, u32 s3, u32 s4, u32 s5, u32 s6, u32 s7, u32 *ends
) {
    const u32 shape[8] = {s0, s1, s2, s3, s4, s5, s6, s7};
    FOR_EACH(e, n_edges) {
        const u32 u = ids[e] / N_STEPS, k = ids[e] % N_STEPS;
        long long v = u, stride = 1;
        for (int axis = NDIM - 1; axis >= 0; axis--) {
            v += STEP_OF[k][axis] * stride;
            stride *= shape[axis];
        }
        const bool missing = keys[e] == ~(KEY)0;
        ends[2 * e] = missing ? NONE : u;
        ends[2 * e + 1] = missing ? NONE : (u32)v;
    }
}
