// Listed edges: their weights, and their ends, which order equal weights.
//
// KEY and REAL are the weights' bits and type. A batch is one graph: node u of item f is node f * N + u.
// The key of an edge that is not there is ~0.

#include "mst.cuh"

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

// Lists the edges that are there, by their places in the order of `ties`; rows[i] is where ties[i] was before. Every
// node becomes a component.
KERNEL list_edges(
    const KEY *keys, const u32 *rows, const u64 *ties, u32 n_edges, u32 n_pixels, int node_bits,
    const Components components, const Nodes nodes, Edge *list, u32 *state
) {
    FOR_EACH(i, n_pixels) {
        const u32 node = (u32)i;
        components.weight[i] = ~(KEY)0;
        components.edge[i] = NONE;
        components.hook[i] = components.pixel[i] = components.node[i] = components.active[i] = node;
        nodes.parent[i] = NONE;
        nodes.parent[n_pixels + i] = ABSENT;
    }
    if (THREAD == 0) state[N_ACTIVE] = n_pixels;
    for (u64 i = THREAD; i - threadIdx.x < n_edges; i += STRIDE) {
        const bool there = i < n_edges && ties[i] != ~0ull;
        const u64 place = reserve(there, &state[N_EDGES]);
        if (!there) continue;
        const u64 both = ties[i];
        const Edge one = {
            keys[rows[i]], (u32)i, (u32)(both >> node_bits), (u32)(both & ((1ull << node_bits) - 1))
        };
        list[place] = one;
        components.rivals[rivals_of(one, components.most)] = (u32)place;
    }
}

// The ends of the edges in n_gaps gaps, n_nodes - 1 of each item. Before, the first of a gap's numbers is its edge.
KERNEL list_ends(const u64 *ties, u32 n_gaps, u32 n_nodes, int node_bits, int *gap_edges) {
    FOR_EACH_32(gap, n_gaps) {
        if (gap_edges[2 * (u64)gap] < 0) continue;
        const u64 both = ties[(u32)gap_edges[2 * (u64)gap]];
        const u32 base = gap / (n_nodes - 1) * n_nodes;
        gap_edges[2 * (u64)gap] = (int)((u32)(both >> node_bits) - base);
        gap_edges[2 * (u64)gap + 1] = (int)((u32)(both & ((1ull << node_bits) - 1)) - base);
    }
}
