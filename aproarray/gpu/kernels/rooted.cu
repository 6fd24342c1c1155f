// Trees with a root, breadth first from the roots of every forest: what aproarray/cpu/_rooted.pyx lays out.
//
// An arc is one end of a tree's edge: arc 2 p + s leaves from gap_edges[p, s]. The arcs of a node lie side by side, in
// the order of gaps. All arrays are of n_trees trees over n nodes.

#include "common.cuh"

struct Arcs {
    const u32 *numbers;  // of all trees' arcs, by the nodes they leave from
    const u32 *starts;  // of each node's arcs among them,
    const u32 *stops;  // and where they end
};

// Which node each arc leaves from, over all trees; NONE where an edge is missing.
KERNEL arc_nodes(const int *gap_edges, u32 n_trees, u32 n, u32 *nodes, u32 *broken) {
    FOR_EACH(i, (u64)n_trees * (n - 1) * 2) {
        const int *const ends = gap_edges + i / 2 * 2;
        const int node = ends[i % 2];
        const bool missing = ends[0] < 0;
        if (missing ? ends[1] >= 0 : node < 0 || node >= (int)n) *broken = 1;
        nodes[i] = missing || node < 0 || node >= (int)n ? NONE : (u32)(i / 2 / (n - 1)) * n + node;
    }
}

// Where the arcs of each node are, which begins as none.
KERNEL find_arcs(const u32 *nodes, u64 n_arcs, u32 *starts, u32 *stops) {
    FOR_EACH(i, n_arcs) {
        const u32 node = nodes[i];
        if (node == NONE) continue;
        if (i == 0 || nodes[i - 1] != node) starts[node] = (u32)i;
        if (i == n_arcs - 1 || nodes[i + 1] != node) stops[node] = (u32)i + 1;
    }
}

// Fills nodes, parents and gaps by places, and n_roots, as `root_trees` of the CPU does. One block has a tree.
//
// nodes and seen begin as 0. Anybody can make a tree: where edges close a circle or leave nodes out, broken[1] is set,
// and nothing is written beyond the arrays. Where broken[0] is set, gap_edges are no numbers of nodes.
KERNEL lay_out_breadth_first(
    const int *order, const int *gap_edges, const Arcs arcs, u32 n_trees, u32 n, u8 *seen, int *nodes, int *parents,
    int *gaps, long long *n_roots, u32 *broken
) {
    if (broken[0]) return;
    for (u32 tree = blockIdx.x; tree < n_trees; tree += gridDim.x) {
        const int *const line = order + (u64)tree * n, *const edges = gap_edges + (u64)tree * (n - 1) * 2;
        int *const own = nodes + (u64)tree * n, *const parent_of = parents + (u64)tree * n;
        int *const gap_of = gaps + (u64)tree * n;
        u8 *const left = seen + (u64)tree * n;
        u32 roots = 0, total;
        for (u32 first = 0; first < n; first += BLOCK) {
            const u32 place = first + threadIdx.x;
            const bool is_root = place < n && (place == 0 || edges[2 * (u64)(place - 1)] < 0);
            const u32 at = roots + block_scan((u32)is_root, &total);
            if (is_root) {
                const bool fits = line[place] >= 0 && line[place] < (int)n;
                if (!fits) broken[1] = 1;
                own[at] = fits ? line[place] : 0;
                parent_of[at] = (int)at;
                gap_of[at] = -1;
            }
            roots += total;
        }
        __syncthreads();
        u32 begin = 0, end = roots;
        bool fits = true;
        while (fits && begin < end) {
            u32 next = end;
            for (u32 first = begin; fits && first < end; first += BLOCK) {
                const u32 place = first + threadIdx.x;
                u32 start = 0, stop = 0, count = 0;
                if (place < end) {
                    const u64 node = (u64)tree * n + own[place];
                    start = arcs.starts[node];
                    stop = arcs.stops[node];
                    count = stop - start - (place >= roots && stop > start);
                }
                const u32 before = block_scan(count, &total);
                fits = total <= n - next;
                if (!fits) break;  // as the whole block does
                u32 at = next + before;
                const u32 last = at + count;
                for (u32 a = start; a < stop && at < last; a++) {
                    const u32 arc = arcs.numbers[a], there = arc ^ 1;
                    const int gap = (int)(arc / 2 - tree * (n - 1));
                    if (place >= roots && gap == gap_of[place]) continue;
                    own[at] = gap_edges[there];
                    parent_of[at] = (int)place;
                    gap_of[at] = gap;
                    at++;
                }
                next += total;
            }
            begin = end;
            end = next;
            __syncthreads();
        }
        for (u32 place = threadIdx.x; place < end; place += BLOCK) left[own[place]] = 1;
        __syncthreads();
        for (u32 node = threadIdx.x; node < n; node += BLOCK)
            if (!fits || !left[node]) broken[1] = 1;
        if (threadIdx.x == 0) n_roots[tree] = roots;
    }
}
