// Minimum spanning trees by Boruvka's algorithm, and the chain tree, which gives their linear order.
//
// edge(c) is the lightest edge that leaves the component of node c, as (weight, number); a tree has none. parent(c) is
// the node that c becomes part of. chain(c) is the first proper ancestor A with edge(A) > edge(c): single linkage takes
// the chain children of A by their edges, one after the other. The first of them has no edge of its own (the second
// one's joins the two); every other one has one edge of the tree, and is a row. Numbers of components, and the order
// of lists, depend on the order in which threads run. Nothing that leaves these kernels does.

#include "mst.cuh"

// So few edges are left to block 0: a wait for the grid takes longer than the work.
#define FEW_EDGES (4 * BLOCK)
// The rows of a chain that has more are sorted; in others, every row counts those before it.
#define SHORT 32

// The rows of the trees, by chain and edge.
struct Rows {
    u32 *starts, *counts;  // of each chain: its first row, and how many (P)
    u32 *children;  // the node that each row is of (P)
    u32 *chain;  // of each node: NONE for a tree, and what never came (2 P)
    u32 *size, *smallest;  // of each node: pixels below it along chains, and the smallest of them (2 P)
    u32 *place;  // of each node: its row among those of its chain, in any order (2 P)
    u32 *arrived;  // children of each chain that have told it what is below them (P)
    u32 *marks, *marks_before;  // the edges of long chains, a bit each, and how many are before each word
    u64 *of_blocks;
    u32 *marks_of_blocks;
};

// The threads that share a round: all of the grid, or those of block 0.
struct Team {
    u64 first, step;
    u32 *barrier;  // null: of the block alone
    __device__ void wait() const {
        if (barrier) grid_sync(barrier);
        else __syncthreads();
    }
};
#define EACH_OF(team, i, n) for (u64 i = team.first; i < (u64)(n); i += team.step)
// The same, for blocks as a whole: a thread may have nothing to do.
#define EVERY_THREAD_OF(team, i, n) for (u64 i = team.first; i - threadIdx.x < (u64)(n); i += team.step)

// Offers an edge to both components. Looking first keeps most edges from queueing for a hot one.
__device__ void offer(const Edge &one, KEY *weight) {
    if (weight[one.a] > one.weight) atomicMin(&weight[one.a], one.weight);
    if (weight[one.b] > one.weight) atomicMin(&weight[one.b], one.weight);
}

// Merges along all lightest edges, round by round, until no edges are left between components. Fills `nodes`. At first
// the components know their lightest edges, or none do.
//
// Large components have many edges in common, of which a round drops most: those that are heavier than the rival that
// it finds for them. No order of threads drops the lightest. Also clears `rows`.
COOPERATIVE_KERNEL boruvka(
    Edge *lists /* 2 x most_edges */, u64 most_edges, u32 n_pixels, u32 n_marks, int known,
    const Components components, const Nodes nodes, const Rows rows, u32 *state, u32 *barrier
) {
    u32 *const edge = components.edge, *const hook = components.hook, *const fresh = components.fresh;
    Team team = {THREAD, STRIDE, barrier};
    u32 sweep = 0;
    FOR_EACH(i, n_pixels) rows.counts[i] = rows.arrived[i] = 0;
    FOR_EACH(i, n_marks) rows.marks[i] = 0;
    FOR_EACH(i, 2 * (u64)n_pixels) {
        rows.size[i] = i < n_pixels;
        rows.smallest[i] = i < n_pixels ? (u32)i : NONE;
    }
    if (!known) {
        EACH_OF(team, i, state[N_EDGES]) offer(lists[i], components.weight);
        team.wait();
    }
    for (int now = 0;; now = 1 - now) {
        const u32 count = state[N_EDGES + now], n_active = state[N_ACTIVE + now];
        if (count == 0) return;
        if (count <= FEW_EDGES && team.barrier) {
            if (blockIdx.x) return;
            team = Team{threadIdx.x, BLOCK, 0};
        }
        const u64 own_half = now ? components.most : 0, other_half = now ? 0 : components.most;
        const Edge *const list = lists + now * most_edges;
        Edge *const next = lists + (1 - now) * most_edges;
        KEY *const weight = components.weight + own_half, *const next_weight = components.weight + other_half;
        u32 *const rivals = components.rivals + own_half, *const next_rivals = components.rivals + other_half;
        const u32 *const active = components.active + own_half;
        u32 *const next_active = components.active + other_half;
        if (team.first == 0) state[N_EDGES + 1 - now] = state[N_ACTIVE + 1 - now] = 0;

        if (!known) {
            EACH_OF(team, i, count) {
                const Edge one = list[i];
                if (weight[one.a] == one.weight && edge[one.a] > one.number) atomicMin(&edge[one.a], one.number);
                if (weight[one.b] == one.weight && edge[one.b] > one.number) atomicMin(&edge[one.b], one.number);
            }
            team.wait();
        }
        known = 0;

        // No two edges are equal: following lightest edges ends at two components that share theirs.
        EACH_OF(team, i, count) {
            const Edge one = list[i];
            const bool of_a = edge[one.a] == one.number, of_b = edge[one.b] == one.number;
            if (of_a && of_b) {
                const u32 root = one.a < one.b ? one.a : one.b, other = one.a < one.b ? one.b : one.a;
                const u32 pixel = components.pixel[other];
                hook[other] = root;
                fresh[root] = n_pixels + pixel;
                nodes.parent[n_pixels + pixel] = NONE;
                nodes.first_of[pixel] = components.node[root];
            } else if (of_a) hook[one.a] = one.b;
            else if (of_b) hook[one.b] = one.a;
            u32 *const rival = &rivals[rivals_of(one, components.most)];
            if (is_beaten(list[*rival], one)) *rival = (u32)i;
        }
        EACH_OF(team, i, n_active) next_weight[active[i]] = ~(KEY)0;
        team.wait();

        // Shorten the ways to the roots, up to 33-fold a sweep (others' progress may be seen or not).
        for (;; sweep++) {
            if (team.first == 0) state[UNFINISHED + (sweep + 1) % 3] = 0;
            EACH_OF(team, i, n_active) {
                const u32 c = active[i];
                u32 to = hook[c];
                for (int hops = 0; hops < 32; hops++) {
                    const u32 further = hook[to];
                    if (further == to) break;
                    to = further;
                }
                if (hook[to] != to) state[UNFINISHED + sweep % 3] = 1;
                hook[c] = to;
            }
            team.wait();
            if (!state[UNFINISHED + sweep % 3]) break;
        }
        sweep++;

        EVERY_THREAD_OF(team, i, n_active) {
            bool stays = false;
            u32 c = 0;
            if (i < n_active) {
                c = active[i];
                const u32 root = hook[c];
                if (edge[c] != NONE) {
                    const u32 node = components.node[c];
                    nodes.weight[node] = weight[c];
                    nodes.edge[node] = edge[c];
                    nodes.parent[node] = fresh[root];
                    stays = root == c;
                }
                if (stays) {
                    components.node[c] = fresh[c];
                    edge[c] = NONE;
                }
            }
            const u64 place = reserve(stays, &state[N_ACTIVE + 1 - now]);
            if (stays) next_active[place] = c;
        }
        EVERY_THREAD_OF(team, i, count) {
            Edge one = {};
            bool stays = false;
            if (i < count) {
                one = list[i];
                stays = !is_beaten(one, list[rivals[rivals_of(one, components.most)]]);
                one.a = hook[one.a];
                one.b = hook[one.b];
                stays = stays && one.a != one.b;
            }
            const u64 place = reserve(stays, &state[N_EDGES + 1 - now]);
            if (stays) {
                next[place] = one;
                next_rivals[rivals_of(one, components.most)] = (u32)place;
                offer(one, next_weight);
            }
        }
        team.wait();
    }
}

// Orders long chains. Each has more than SHORT rows, so that no two get one number.
__device__ u32 chain_key(const Rows &rows, u32 chain) { return rows.starts[chain] / SHORT; }

// The node's chain. All edges of ancestors are known.
__device__ u32 chain_of(const Nodes &nodes, u32 node) {
    const u32 parent = nodes.parent[node];
    if (parent >= ABSENT) return NONE;
    const KEY weight = nodes.weight[node];
    const u32 edge = nodes.edge[node];
    u32 above = parent;
    for (;;) {
        const u32 further = nodes.parent[above];
        if (further == NONE || is_lighter(weight, edge, nodes.weight[above], nodes.edge[above])) return above;
        above = further;
    }
}

// Tells a chain what is below `n` children of it, and goes on with it if these are the last.
__device__ void tell_chain(const Rows &rows, u32 n_pixels, u32 above, u32 size, u32 smallest, u32 n) {
    for (;;) {
        atomicAdd(&rows.size[above], size);
        atomicMin(&rows.smallest[above], smallest);
        __threadfence();  // what is told comes before that it is told
        const u32 chain = above - n_pixels;
        if (atomicAdd(&rows.arrived[chain], n) + n <= rows.counts[chain]) return;
        __threadfence();
        size = *(volatile u32 *)&rows.size[above];
        smallest = *(volatile u32 *)&rows.smallest[above];
        above = rows.chain[above];
        n = 1;
        if (above == NONE) return;
    }
}

// Finds the chains and what is below them, and lines up the rows: those of long chains first, chain by chain, then those
// of short ones. The rows of short chains are in order, those of long ones come in the order of the edges, with keys to
// sort them by: (chain, weight), or the weight alone where it has 64 bits.
COOPERATIVE_KERNEL find_rows(
    u32 n_pixels, u32 n_marks, const Nodes nodes, const Rows rows, u32 *unsorted, u64 *keys, u32 *state, u32 *barrier
) {
    const u32 n_nodes = 2 * n_pixels;
    if (threadIdx.x == 0) rows.marks_of_blocks[blockIdx.x] = 0;
    // A thread works on a strip of neighbours, which often have one chain (a flat image's pixels all do).
    FOR_EACH(strip, ((u64)n_nodes + 7) / 8) {
        const u64 stop = 8 * strip + 8 < n_nodes ? 8 * strip + 8 : n_nodes;
        for (u64 i = 8 * strip; i < stop; i++) rows.chain[i] = chain_of(nodes, (u32)i);
        for (u64 from = 8 * strip, to; from < stop; from = to) {
            const u32 above = rows.chain[from];
            u32 count = 0;
            for (to = from; to < stop && rows.chain[to] == above; to++)
                count += above != NONE && nodes.first_of[above - n_pixels] != to;
            if (count == 0) continue;
            u32 place = atomicAdd(&rows.counts[above - n_pixels], count);
            for (u64 i = from; i < to; i++)
                if (nodes.first_of[above - n_pixels] != i) rows.place[i] = place++;
        }
    }
    grid_sync(barrier);

    FOR_EACH(strip, ((u64)n_pixels + 7) / 8) {
        const u64 stop = 8 * strip + 8 < n_pixels ? 8 * strip + 8 : n_pixels;
        for (u64 from = 8 * strip, to; from < stop; from = to) {
            const u32 above = rows.chain[from];
            for (to = from; to < stop && rows.chain[to] == above; to++) {}
            if (above != NONE) tell_chain(rows, n_pixels, above, (u32)(to - from), (u32)from, (u32)(to - from));
        }
    }
    // Rows of long chains are counted in the upper half.
    const u64 own = first_of_block(n_pixels, blockIdx.x), own_stop = first_of_block(n_pixels, blockIdx.x + 1);
    u64 sum = 0, total;
    for (u64 i = own + threadIdx.x; i < own_stop; i += BLOCK)
        sum += rows.counts[i] > SHORT ? (u64)rows.counts[i] << 32 : rows.counts[i];
    block_scan(sum, &total);
    if (threadIdx.x == 0) rows.of_blocks[blockIdx.x] = total;
    grid_sync(barrier);

    u64 place = sum_before_block(rows.of_blocks);
    sum = 0;
    for (u32 block = threadIdx.x; block < gridDim.x; block += BLOCK) sum += rows.of_blocks[block];
    block_scan(sum, &total);
    const u32 n_long = (u32)(total >> 32), n_rows = n_long + (u32)total;
    if (THREAD == 0) {
        state[N_LONG] = n_long;
        state[N_ROWS] = n_rows;
    }
    for (u64 tile = own; tile < own_stop; tile += BLOCK) {
        const u64 i = tile + threadIdx.x;
        const u32 count = i < own_stop ? rows.counts[i] : 0;
        const u64 before = place + block_scan(count > SHORT ? (u64)count << 32 : count, &total);
        if (i < own_stop) rows.starts[i] = count > SHORT ? (u32)(before >> 32) : n_long + (u32)before;
        place += total;
    }
    grid_sync(barrier);

    const u32 words_of_block = (n_marks + gridDim.x * BLOCK - 1) / (gridDim.x * BLOCK) * BLOCK;
    FOR_EACH(i, n_nodes) {
        const u32 above = rows.chain[i];
        if (above == NONE || nodes.first_of[above - n_pixels] == i) continue;
        const u32 chain = above - n_pixels, edge = nodes.edge[i];
        if (rows.counts[chain] > SHORT) {
            atomicAdd(&rows.marks[edge / 32], 1u << edge % 32);
            atomicAdd(&rows.marks_of_blocks[edge / 32 / words_of_block], 1u);
        } else unsorted[rows.starts[chain] + rows.place[i]] = (u32)i;
    }
    grid_sync(barrier);

    FOR_EACH(i, n_rows - n_long) {
        const u32 child = unsorted[n_long + i], chain = rows.chain[child] - n_pixels;
        const u32 start = rows.starts[chain], stop = start + rows.counts[chain], edge = nodes.edge[child];
        const KEY weight = nodes.weight[child];
        u32 before = 0;
        for (u32 other = start; other < stop; other++) {
            const u32 node = unsorted[other];
            before += is_lighter(nodes.weight[node], nodes.edge[node], weight, edge);
        }
        rows.children[start + before] = child;
    }
    if (n_long == 0) return;
    const u64 word = (u64)blockIdx.x * words_of_block, word_stop = word + words_of_block;
    u32 marked;
    u32 marks_before = sum_before_block(rows.marks_of_blocks);
    for (u64 tile = word; tile < word_stop && tile < n_marks; tile += BLOCK) {
        const u64 i = tile + threadIdx.x;
        const u32 before = block_scan(i < n_marks ? (u32)__popc(rows.marks[i]) : 0u, &marked);
        if (i < n_marks) rows.marks_before[i] = marks_before + before;
        marks_before += marked;
    }
    grid_sync(barrier);
    FOR_EACH(i, n_nodes) {
        const u32 above = rows.chain[i];
        if (above == NONE || nodes.first_of[above - n_pixels] == i) continue;
        if (rows.counts[above - n_pixels] <= SHORT) continue;
        const u32 edge = nodes.edge[i], below = rows.marks[edge / 32] & ((1u << edge % 32) - 1);
        const u32 at = rows.marks_before[edge / 32] + __popc(below);
        keys[at] = sizeof(KEY) == 4 ? (u64)chain_key(rows, above - n_pixels) << 32 | nodes.weight[i] : nodes.weight[i];
        rows.children[at] = (u32)i;
    }
}

// The keys that bring rows, sorted by weight, in the order of their chains.
KERNEL chain_keys(const Rows rows, u32 n_pixels, const u32 *state, u32 *keys) {
    FOR_EACH(i, state[N_LONG]) keys[i] = chain_key(rows, rows.chain[rows.children[i]] - n_pixels);
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
#pragma unroll 4  // all at once take more registers than there are
    for (int w = 0; w < N_WARPS; w++) {
        if (w < warp) own = then(own, of_warps[w]);
        *total = then(*total, of_warps[w]);
    }
    return then(own, last);
}

// What `lay_out` works in.
struct Layout {
    u64 *sizes_before, *fronts_before;  // of each row (P)
    u32 *offset, *tree_starts;  // of each node (2 P), of each tree's smallest pixel (P)
    u64 *of_blocks;  // 4 x blocks
};

// Lays the chain tree out: order (B, N), gaps (B, N - 1) and gap_edges (B, N - 1, 2).
//
// Of the children of a chain, one after the other by rank, each goes behind those before it, or in
// front of them if it holds a smaller pixel than they all do. The trees of a forest follow one
// another by their smallest pixels. `rows` are sorted by (chain, edge). The first of a gap's gap_edges is the edge.
COOPERATIVE_KERNEL lay_out(
    u32 n_pixels, u32 n_nodes /* N: pixels of one image */, const Nodes nodes, const Rows rows, u32 *state,
    const Layout layout, int *order, KEY *gaps, int *gap_edges, u32 *barrier
) {
    const u32 *const chain = rows.chain, *const size = rows.size, *const smallest = rows.smallest;
    const u32 *const children = rows.children, *const first_of = nodes.first_of;
    u64 *const sizes_before = layout.sizes_before, *const fronts_before = layout.fronts_before;
    u32 *const offset = layout.offset, *const tree_starts = layout.tree_starts;
    u64 *const of_blocks = layout.of_blocks;
    const u32 FRONT = 0x80000000u;  // marks the offset of a child that goes in front
    const u32 n_rows = state[N_ROWS], blocks = gridDim.x;
    u32 *const least_of_blocks = (u32 *)(of_blocks + 2 * blocks);
    const KEY infinity = infinity_bits((KEY)0);
    const u64 n_gaps = n_pixels - n_pixels / n_nodes;
    FOR_EACH(i, n_gaps) {
        gaps[i] = infinity;
        gap_edges[2 * i] = gap_edges[2 * i + 1] = -1;
    }
    FOR_EACH(i, n_pixels) tree_starts[i] = 0;
    const u32 own = (u32)first_of_block(n_rows, blockIdx.x), own_stop = (u32)first_of_block(n_rows, blockIdx.x + 1);

    // Sizes before each row, over all rows; and whether a child goes in front, chain by chain.
    u64 sum = 0, total;
    Least least = {0, NONE}, all;
    for (u32 tile = own; tile < own_stop; tile += BLOCK) {
        const u32 i = tile + threadIdx.x;
        Least value = {0, NONE};
        u64 extent = 0;
        if (i < own_stop) {
            const u32 child = children[i], above = chain[child] - n_pixels;
            extent = size[child];
            value.least = smallest[child];
            if (rows.starts[above] == i) {
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

    FOR_EACH(c, 2 * (u64)n_pixels)
        if (nodes.parent[c] == NONE) tree_starts[smallest[c]] = size[c];
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
    for (u32 tile = own; tile < own_stop; tile += BLOCK) {
        const u32 i = tile + threadIdx.x;
        Least value = {0, NONE};
        u64 extent = 0;
        u32 child = 0, first = NONE;
        bool start = false;
        if (i < own_stop) {
            child = children[i];
            const u32 above = chain[child] - n_pixels;
            extent = size[child];
            value.least = smallest[child];
            start = rows.starts[above] == i;
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
    for (u32 i = own + threadIdx.x; i < own_stop; i += BLOCK) fronts_before[i] += fronts;
    // Where the trees of the forest start, by their smallest pixels: sizes before each pixel.
    const u32 pixel = (u32)first_of_block(n_pixels, blockIdx.x);
    const u32 pixel_stop = (u32)first_of_block(n_pixels, blockIdx.x + 1);
    u32 extent = 0, extents;
    for (u32 i = pixel + threadIdx.x; i < pixel_stop; i += BLOCK) extent += tree_starts[i];
    block_scan(extent, &extents);
    // The sizes of the blocks' rows were read before the last wait.
    if (threadIdx.x == 0) of_blocks[blockIdx.x] = extents;
    grid_sync(barrier);
    u64 start = sum_before_block(of_blocks);
    for (u32 tile = pixel; tile < pixel_stop; tile += BLOCK) {
        const u32 i = tile + threadIdx.x;
        const u32 before = block_scan(i < pixel_stop ? tree_starts[i] : 0u, &extents);
        if (i < pixel_stop) tree_starts[i] = (u32)start + before;
        start += extents;
    }
    FOR_EACH(i, n_rows) {
        const u32 child = children[i], above = chain[child] - n_pixels, first = first_of[above];
        const u32 begin = rows.starts[above], last = begin + rows.counts[above] - 1, last_child = children[last];
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
        const u32 node = i < n_pixels ? (u32)i : children[i - n_pixels];
        u32 at = 0, c = node;
        for (; chain[c] != NONE; c = chain[c]) at += offset[c] & ~FRONT;
        at += tree_starts[smallest[c]];
        const u32 image = at / n_nodes;
        if (i < n_pixels) {
            order[at] = (int)(node - image * n_nodes);
        } else {
            const u64 gap = (offset[node] & FRONT ? at + size[node] - 1 : at - 1) - image;
            const KEY weight = nodes.weight[node];
            gaps[gap] = weight;
            if (weight >= infinity) state[OVERFLOW] = 1;
            gap_edges[2 * gap] = (int)nodes.edge[node];
        }
    }
}
