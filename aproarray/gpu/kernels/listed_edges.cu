// Listed edges: their weights, as keys to sort them by, and their ends, in the order of the weights.
//
// KEY and REAL are the weights' bits and type. A batch is one graph: node u of item f is node f * N + u.
// The key of an edge that is not there is ~0.

#include "common.cuh"

// ties becomes (lower end, higher end) as one number, by which equal weights are ordered. Edge
// e of item f has the ends of edge e of list list_of[f], or of list f / repeat if list_of is null.
KERNEL weigh_list(
    const int *ends, const u32 *list_of, u32 repeat, u32 n_lists_edges, u32 n_items, u32 n_nodes, int node_bits,
    const REAL *features, u64 channels, const REAL *weights, KEY *keys, u64 *ties
) {
    FOR_EACH_32(i, n_items * n_lists_edges) {
        const u32 f = i / n_lists_edges, e = i % n_lists_edges;
        const u64 list = list_of ? list_of[f] : f / repeat;
        const int u = ends[2 * (list * n_lists_edges + e)], v = ends[2 * (list * n_lists_edges + e) + 1];
        const bool missing = u < 0 || u == v;
        const u64 lower = (u64)f * n_nodes + (u < v ? u : v), higher = (u64)f * n_nodes + (u < v ? v : u);
        ties[i] = missing ? ~0ull : lower << node_bits | higher;
        if (missing) keys[i] = ~(KEY)0;
        else if (weights) keys[i] = bits_of(weights[i]);
        else {
            const REAL *pixels = features + (u64)f * n_nodes * channels;
            keys[i] = square_distance(pixels + u * channels, pixels + v * channels, channels);
        }
    }
}

// keys[i] <- the key of edge rows[i]
KERNEL pick_keys(const KEY *of_edges, const u32 *rows, u32 n, KEY *keys) {
    FOR_EACH(i, n) keys[i] = of_edges[rows[i]];
}

KERNEL list_ends(const KEY *keys, const u32 *rows, const u64 *ties, u32 n_edges, int node_bits, u32 *ends) {
    FOR_EACH(e, n_edges) {
        const bool missing = keys[e] == ~(KEY)0;
        const u64 both = missing ? 0 : ties[rows[e]];
        ends[2 * e] = missing ? NONE : (u32)(both >> node_bits);
        ends[2 * e + 1] = missing ? NONE : (u32)(both & ((1ull << node_bits) - 1));
    }
}
