// Minimum spanning trees by Boruvka's algorithm, and the chain tree, which gives their linear order.
//
// Edges come sorted, so that an edge's rank, 32 bits, stands for its weight and its tie-break. Every
// component of every round is a node: the pixels are nodes 0 .. P - 1, and every merged component gets
// the next free number. best(c) is the rank of the lightest edge that leaves c (NONE: there is none),
// parent(c) the component that c was merged into.
//
// chain(c) is the first proper ancestor A with best(A) > best(c): single linkage takes the chain
// children of A in the order of best, one after the other. The first of them has no edge of its own
// (the second one's joins the two); every other one has one edge of the tree. Numbers of nodes depend on
// the order in which threads run. Nothing that leaves these kernels does.

#include "common.cuh"

enum {
    LIST_0,  // length of the list of edges that is read or written, in turns
    LIST_1,
    N_NODES,
    N_ROWS,  // edges in the trees
    UNFINISHED,  // three flags in turns
    N_ROUNDS = UNFINISHED + 3,
    ROUND_STARTS  // first node of each round, and of the one that never came
};

// The components of all rounds, and the rows of the trees' edges.
struct Components {
    u32 *best, *parent, *chain, *size, *smallest;  // of each node (2 P)
    u32 *child_of;  // the component that an edge hooks on (E), NONE for edges that are in no tree
    u32 *first_of;  // the first chain child of node P + i (P)
    u32 *row_chains, *row_ranks;  // (chain - P, rank) of the trees' edges (P)
    u32 *state;
};

// Merges along all lightest edges, round by round, until no edges are left between components. Fills
// the components: best, parent and chain of the nodes, size and smallest (pixel) of what is below each node along
// chains, and the rows by rank.
COOPERATIVE_KERNEL boruvka(
    const u32 *ends, u32 n_edges, u32 n_pixels, u32 *lists /* 2 x 3 x n_edges */,
    const Components components /* whose state begins as zeros */, u32 *of_blocks, u32 *barrier
) {
    u32 *const best = components.best, *const parent = components.parent, *const chain = components.chain;
    u32 *const size = components.size, *const smallest = components.smallest, *const state = components.state;
    u32 *const child_of = components.child_of, *const first_of = components.first_of;
    u32 *const row_chains = components.row_chains, *const row_ranks = components.row_ranks;
    // Needed at different times: where a component hooks on, and the number of what becomes of a root.
    u32 *const hook = size, *const fresh = smallest;
    FOR_EACH(c, 2 * (u64)n_pixels) best[c] = parent[c] = NONE;
    FOR_EACH(e, n_edges) child_of[e] = NONE;
    if (THREAD == 0) state[N_NODES] = n_pixels;
    for (u64 e = THREAD; e - threadIdx.x < n_edges; e += STRIDE) {
        const bool wanted = e < n_edges && ends[2 * e] != NONE && ends[2 * e] != ends[2 * e + 1];
        const u64 place = reserve(wanted, &state[LIST_0]);
        if (wanted) {
            lists[3 * place] = ends[2 * e];
            lists[3 * place + 1] = ends[2 * e + 1];
            lists[3 * place + 2] = (u32)e;
        }
    }
    grid_sync(barrier);

    u32 first = 0, stop = n_pixels, sweep = 0;
    int now = 0, round = 0;
    for (;; round++) {
        const u32 count = state[LIST_0 + now];
        const u32 *list = lists + (u64)now * 3 * n_edges;
        u32 *next = lists + (u64)(1 - now) * 3 * n_edges;
        if (THREAD == 0) state[ROUND_STARTS + round] = first;
        if (count == 0) break;
        if (THREAD == 0) state[LIST_0 + 1 - now] = 0;

        FOR_EACH(i, count) {
            const u32 a = list[3 * i], b = list[3 * i + 1], rank = list[3 * i + 2];
            // Looking first keeps most edges from queueing for a hot component.
            if (best[a] > rank) atomicMin(&best[a], rank);
            if (best[b] > rank) atomicMin(&best[b], rank);
        }
        FOR_EACH(i, stop - first) hook[first + i] = first + (u32)i;
        grid_sync(barrier);

        // Ranks are unique: following lightest edges ends at two components that share theirs. The
        // one with the smaller number is the root.
        for (u64 i = THREAD; i - threadIdx.x < count; i += STRIDE) {
            u32 root = NONE;
            if (i < count) {
                const u32 a = list[3 * i], b = list[3 * i + 1], rank = list[3 * i + 2];
                const bool of_a = best[a] == rank, of_b = best[b] == rank;
                if (of_a && of_b) {
                    root = a < b ? a : b;
                    hook[a] = hook[b] = root;
                    child_of[rank] = a < b ? b : a;
                } else if (of_a) {
                    hook[a] = b;
                    child_of[rank] = a;
                } else if (of_b) {
                    hook[b] = a;
                    child_of[rank] = b;
                }
            }
            const u32 number = reserve(root != NONE, &state[N_NODES]);
            if (root != NONE) {
                fresh[root] = number;
                first_of[number - n_pixels] = root;
            }
        }
        grid_sync(barrier);

        // Shorten the ways to the roots, up to 33-fold a sweep (others' progress may be seen or not).
        for (;; sweep++) {
            if (THREAD == 0) state[UNFINISHED + (sweep + 1) % 3] = 0;
            FOR_EACH(i, stop - first) {
                u32 c = first + (u32)i, to = hook[c];
                for (int hops = 0; hops < 32; hops++) {
                    const u32 further = hook[to];
                    if (further == to) break;
                    to = further;
                }
                if (hook[to] != to) state[UNFINISHED + sweep % 3] = 1;
                hook[c] = to;
            }
            grid_sync(barrier);
            if (!state[UNFINISHED + sweep % 3]) break;
        }
        sweep++;

        FOR_EACH(i, stop - first) {
            const u32 c = first + (u32)i;
            if (best[c] != NONE) parent[c] = fresh[hook[c]];
        }
        for (u64 i = THREAD; i - threadIdx.x < count; i += STRIDE) {
            u32 a = 0, b = 0;
            if (i < count) {
                a = fresh[hook[list[3 * i]]];
                b = fresh[hook[list[3 * i + 1]]];
            }
            const u64 place = reserve(a != b, &state[LIST_0 + 1 - now]);
            if (a != b) {
                next[3 * place] = a;
                next[3 * place + 1] = b;
                next[3 * place + 2] = list[3 * i + 2];
            }
        }
        grid_sync(barrier);
        first = stop;
        stop = state[N_NODES];
        now = 1 - now;
    }
    if (THREAD == 0) {
        state[N_ROUNDS] = round;
        state[ROUND_STARTS + round + 1] = stop;
    }

    FOR_EACH(i, stop) {
        u32 above = parent[i];
        if (above != NONE)
            while (best[above] < best[i]) above = parent[above];
        chain[i] = above;
        size[i] = i < n_pixels;
        smallest[i] = i < n_pixels ? (u32)i : NONE;
    }
    grid_sync(barrier);

    // What is below a node along chains is from earlier rounds. A thread adds up a strip of
    // neighbours, which often have one chain (a flat image's pixels all do).
    for (int r = 0; r < round; r++) {
        const u32 from = state[ROUND_STARTS + r], to = state[ROUND_STARTS + r + 1];
        FOR_EACH(strip, ((u64)to - from + 7) / 8) {
            u32 above = NONE, sum = 0, least = NONE;
            for (u64 c = from + 8 * strip; c < from + 8 * strip + 8 && c < to; c++) {
                if (chain[c] != above) {
                    if (above != NONE) {
                        atomicAdd(&size[above], sum);
                        atomicMin(&smallest[above], least);
                    }
                    above = chain[c];
                    sum = 0;
                    least = NONE;
                }
                sum += size[c];
                least = smallest[c] < least ? smallest[c] : least;
            }
            if (above != NONE) {
                atomicAdd(&size[above], sum);
                atomicMin(&smallest[above], least);
            }
        }
        grid_sync(barrier);
    }

    const u64 own = first_of_block(n_edges, blockIdx.x), own_stop = first_of_block(n_edges, blockIdx.x + 1);
    u32 count = 0, total;
    for (u64 e = own + threadIdx.x; e < own_stop; e += BLOCK) count += child_of[e] != NONE;
    block_scan(count, &total);
    if (threadIdx.x == 0) of_blocks[blockIdx.x] = total;
    grid_sync(barrier);
    u32 place = sum_before_block(of_blocks);
    for (u64 tile = own; tile < own_stop; tile += BLOCK) {
        const u64 e = tile + threadIdx.x;
        const bool taken = e < own_stop && child_of[e] != NONE;
        const u32 before = block_scan((u32)taken, &total);
        if (taken) {
            row_chains[place + before] = chain[child_of[e]] - n_pixels;
            row_ranks[place + before] = (u32)e;
        }
        place += total;
    }
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) state[N_ROWS] = place;
}

// A running minimum that may begin anew.
struct Least {
    u32 begun, least;
};
__device__ Least then(Least a, Least b) {
    return b.begun ? b : Least{a.begun, a.least < b.least ? a.least : b.least};
}

// The minimum over the threads before this one, after `before`, and over all of the block.
__device__ Least block_scan_least(Least value, Least before, Least *total) {
    __shared__ Least of_warps[N_WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Least sum = value;
    for (int step = 1; step < 32; step *= 2) {
        const Least below = {
            __shfl_up_sync(FULL_WARP, sum.begun, step), __shfl_up_sync(FULL_WARP, sum.least, step)
        };
        if (lane >= step) sum = then(below, sum);
    }
    Least last = {__shfl_up_sync(FULL_WARP, sum.begun, 1), __shfl_up_sync(FULL_WARP, sum.least, 1)};
    if (lane == 0) last = Least{0, NONE};
    __syncthreads();
    if (lane == 31) of_warps[warp] = sum;
    __syncthreads();
    Least own = before;
    *total = before;
    for (int w = 0; w < N_WARPS; w++) {
        if (w < warp) own = then(own, of_warps[w]);
        *total = then(*total, of_warps[w]);
    }
    return then(own, last);
}

// What `lay_out` works in.
struct Layout {
    u32 *row_starts, *row_stops;  // of each chain (P)
    u64 *sizes_before, *fronts_before;  // of each row (P)
    u32 *offset, *tree_starts;  // of each node (2 P), of each tree's smallest pixel (P)
    u64 *of_blocks;  // 4 x blocks
};

// Lays the chain tree out: order (B, N), gaps (B, N - 1) and gap_edges (B, N - 1, 2).
//
// Of the children of a chain, one after the other by rank, each goes behind those before it, or in
// front of them if it holds a smaller pixel than they all do. The trees of a forest follow one
// another by their smallest pixels. `rows` are sorted by (chain, rank).
COOPERATIVE_KERNEL lay_out(
    const KEY *keys, const u32 *ends, u32 n_pixels, u32 n_nodes /* N: pixels of one image */,
    const Components components, const Layout layout, int *order, KEY *gaps, int *gap_edges, u32 *overflow, u32 *barrier
) {
    const u32 *const best = components.best, *const chain = components.chain, *const state = components.state;
    const u32 *const size = components.size, *const smallest = components.smallest;
    const u32 *const child_of = components.child_of, *const first_of = components.first_of;
    const u32 *const row_chains = components.row_chains, *const row_ranks = components.row_ranks;
    u32 *const row_starts = layout.row_starts, *const row_stops = layout.row_stops;
    u64 *const sizes_before = layout.sizes_before, *const fronts_before = layout.fronts_before;
    u32 *const offset = layout.offset, *const tree_starts = layout.tree_starts;
    u64 *const of_blocks = layout.of_blocks;
    const u32 FRONT = 0x80000000u;  // marks the offset of a child that goes in front
    const u32 n_rows = state[N_ROWS], n_all = state[N_NODES], blocks = gridDim.x;
    u32 *const least_of_blocks = (u32 *)(of_blocks + 2 * blocks);
    const KEY infinity = infinity_bits((KEY)0);
    const u64 n_gaps = n_pixels - n_pixels / n_nodes;
    FOR_EACH(i, n_gaps) {
        gaps[i] = infinity;
        gap_edges[2 * i] = gap_edges[2 * i + 1] = -1;
    }
    FOR_EACH(i, n_pixels) tree_starts[i] = 0;
    FOR_EACH(i, n_rows) {
        if (i == 0 || row_chains[i - 1] != row_chains[i]) row_starts[row_chains[i]] = (u32)i;
        if (i + 1 == n_rows || row_chains[i + 1] != row_chains[i]) row_stops[row_chains[i]] = (u32)i + 1;
    }
    const u64 own = first_of_block(n_rows, blockIdx.x), own_stop = first_of_block(n_rows, blockIdx.x + 1);

    // Sizes before each row, over all rows; and whether a child goes in front, chain by chain.
    u64 sum = 0, total;
    Least least = {0, NONE}, all;
    for (u64 tile = own; tile < own_stop; tile += BLOCK) {
        const u64 i = tile + threadIdx.x;
        Least value = {0, NONE};
        u64 extent = 0;
        if (i < own_stop) {
            const u32 child = child_of[row_ranks[i]], above = row_chains[i];
            extent = size[child];
            value.least = smallest[child];
            if (i == 0 || row_chains[i - 1] != above) {
                const u32 first = smallest[first_of[above]];
                value = Least{1, first < value.least ? first : value.least};
            }
        }
        block_scan(extent, &total);
        sum += total;
        block_scan_least(value, least, &all);
        least = all;
    }
    if (threadIdx.x == 0) {
        of_blocks[blockIdx.x] = sum;
        least_of_blocks[2 * blockIdx.x] = least.begun;
        least_of_blocks[2 * blockIdx.x + 1] = least.least;
    }
    grid_sync(barrier);

    FOR_EACH(c, n_all)
        if (best[c] == NONE) tree_starts[smallest[c]] = size[c];
    sum = sum_before_block(of_blocks);
    least = Least{0, NONE};
    for (u32 block = 0; block < blockIdx.x; block += BLOCK) {
        const u32 i = block + threadIdx.x;
        Least value = {0, NONE};
        if (i < blockIdx.x) value = Least{least_of_blocks[2 * i], least_of_blocks[2 * i + 1]};
        block_scan_least(value, least, &all);
        least = all;
    }
    u64 fronts = 0;
    for (u64 tile = own; tile < own_stop; tile += BLOCK) {
        const u64 i = tile + threadIdx.x;
        Least value = {0, NONE};
        u64 extent = 0;
        u32 child = 0, first = NONE;
        bool start = false;
        if (i < own_stop) {
            const u32 above = row_chains[i];
            child = child_of[row_ranks[i]];
            extent = size[child];
            value.least = smallest[child];
            start = i == 0 || row_chains[i - 1] != above;
            if (start) {
                first = smallest[first_of[above]];
                value = Least{1, first < value.least ? first : value.least};
            }
        }
        const u64 before = block_scan(extent, &total);
        const Least least_before = block_scan_least(value, least, &all);
        bool front = false;
        if (i < own_stop) {
            sizes_before[i] = sum + before;
            front = smallest[child] < (start ? first : least_before.least);
            offset[child] = front ? FRONT : 0;
        }
        sum += total;
        least = all;
        const u64 before_front = block_scan(front ? extent : 0ull, &total);
        if (i < own_stop) fronts_before[i] = fronts + before_front;  // from the block's first row on
        fronts += total;
    }
    if (threadIdx.x == 0) of_blocks[blocks + blockIdx.x] = fronts;
    grid_sync(barrier);

    fronts = sum_before_block(of_blocks + blocks);
    for (u64 i = own + threadIdx.x; i < own_stop; i += BLOCK) fronts_before[i] += fronts;
    // Where the trees of the forest start, by their smallest pixels: sizes before each pixel.
    const u64 pixel = first_of_block(n_pixels, blockIdx.x), pixel_stop = first_of_block(n_pixels, blockIdx.x + 1);
    u32 extent = 0, extents;
    for (u64 i = pixel + threadIdx.x; i < pixel_stop; i += BLOCK) extent += tree_starts[i];
    block_scan(extent, &extents);
    // The sizes of the blocks' rows were read before the last wait.
    if (threadIdx.x == 0) of_blocks[blockIdx.x] = extents;
    grid_sync(barrier);
    u64 start = sum_before_block(of_blocks);
    for (u64 tile = pixel; tile < pixel_stop; tile += BLOCK) {
        const u64 i = tile + threadIdx.x;
        const u32 before = block_scan(i < pixel_stop ? tree_starts[i] : 0u, &extents);
        if (i < pixel_stop) tree_starts[i] = (u32)start + before;
        start += extents;
    }
    FOR_EACH(i, n_rows) {
        const u32 above = row_chains[i], child = child_of[row_ranks[i]], first = first_of[above];
        const u32 begin = row_starts[above], last = row_stops[above] - 1, last_child = child_of[row_ranks[last]];
        const bool front = offset[child] & FRONT;
        const u64 all_fronts =
            fronts_before[last] - fronts_before[begin] + (offset[last_child] & FRONT ? size[last_child] : 0);
        const u64 fronts_until = fronts_before[i] - fronts_before[begin] + (front ? size[child] : 0);
        u64 place = all_fronts - fronts_until;
        if (!front) place += sizes_before[i] - sizes_before[begin] + size[first];
        // Only the mark of other rows' offsets is looked at, and it stays.
        offset[child] = (u32)place | (front ? FRONT : 0);
        if (i == begin) offset[first] = (u32)all_fronts;
    }
    grid_sync(barrier);

    FOR_EACH(i, (u64)n_pixels + n_rows) {
        const u32 rank = i < n_pixels ? 0 : row_ranks[i - n_pixels];
        const u32 node = i < n_pixels ? (u32)i : child_of[rank];
        u32 at = 0, c = node;
        for (; chain[c] != NONE; c = chain[c]) at += offset[c] & ~FRONT;
        at += tree_starts[smallest[c]];
        const u32 image = at / n_nodes, base = image * n_nodes;
        if (i < n_pixels) {
            order[at] = (int)(node - base);
        } else {
            const u64 gap = (offset[node] & FRONT ? at + size[node] - 1 : at - 1) - image;
            gaps[gap] = keys[rank];
            if (keys[rank] >= infinity) *overflow = 1;
            gap_edges[2 * gap] = (int)(ends[2 * (u64)rank] - base);
            gap_edges[2 * gap + 1] = (int)(ends[2 * (u64)rank + 1] - base);
        }
    }
}
