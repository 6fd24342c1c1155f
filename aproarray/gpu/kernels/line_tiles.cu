// The dendrograms of lines inside of tiles of SPAN positions, and the lines that are left.
//
// A gap is *resolved* by its tile if gaps of the tile, or the ones at its two ends, are heavier on both sides: then
// all that it merges lies in the tile. In rounds, gaps that are lighter than both neighbours that are left go. What
// stays rises to one gap and then falls. Between two gaps that stay lies a *stretch*, which is one position of
// the line that is left. KEY is the type of the bits of gaps.

#include "line_tiles.cuh"

// Finds the tiles of `n_trees` lines of n positions; fills heights, starts (n_trees + 2, zeros before): the lines of their
// stretches, see `Lines`.
COOPERATIVE_KERNEL find_tiles(
    const KEY *gaps, u32 n_trees, u32 n, const Tiles tiles, KEY *heights, u32 *starts, u32 *barrier
) {
    static_assert(SPAN <= BLOCK && SPAN <= 512, "one thread for each gap");
    __shared__ KEY weights[SPAN + 1];  // the gap before the tile, and its own
    __shared__ u32 before[SPAN + 1], after[SPAN + 1];  // gaps that are left, by their numbers in `weights`
    __shared__ u32 n_merges;
    const u32 across = (n + SPAN - 1) / SPAN, own = threadIdx.x + 1;
    for (u64 tile = blockIdx.x; tile < (u64)n_trees * across; tile += gridDim.x) {
        const u32 tree = (u32)(tile / across), first = (u32)(tile % across) * SPAN;
        const u32 count = n - first < SPAN ? n - first : SPAN;
        const KEY *const of_tree = gaps + (u64)tree * (n - 1);
        if (own <= count) {
            weights[own] = first + own == n ? ~(KEY)0 : of_tree[first + own - 1];
            before[own] = own - 1;
            after[own] = own + 1;
        }
        if (threadIdx.x == 0) {
            weights[0] = first ? of_tree[first - 1] : ~(KEY)0;
            after[0] = 1;
            n_merges = 0;
        }
        __syncthreads();
        if (own <= count) tiles.on_left[(u64)tree * n + first + own - 1] = heavier(weights, own - 1, own);
        bool left = own <= count;
        for (u32 round = 0;; round++) {
            const u32 a = left ? before[own] : 0, b = left ? after[own] : 0;
            const bool goes = left && own < count && heavier(weights, a, own) && heavier(weights, b, own);
            if (!__syncthreads_or(goes)) break;
            if (goes) {  // its neighbours stay in this round
                left = false;
                after[a] = b;
                before[b] = a;
                // In any order within a round: none needs another one.
                tiles.merges[tile * SPAN + atomicAdd(&n_merges, 1u)] = merge_bits(
                    own - 1, a + 1 == own, own + 1 == b, heavier(weights, a, b) ? SPAN + b - 1 : a, round
                );
            }
            __syncthreads();
        }
        u32 stretch = 0, total;
        if (left) {
            const u32 a = before[own];
            stretch = stretch_bits(own - 1, heavier(weights, a, own) ? SPAN + own - 1 : a, a + 1 == own);
        }
        if (threadIdx.x == 0) tiles.n_merges[tile] = n_merges;
        const u32 place = block_scan((u32)left, &total);  // waits, before the next tile is written
        if (left) tiles.stretches[tile * SPAN + place] = stretch;
        if (threadIdx.x == 0) tiles.first_stretches[tile + tree] = total;
    }
    grid_sync(barrier);

    for (u32 tree = blockIdx.x; tree < n_trees; tree += gridDim.x) {
        u32 *const counts = tiles.first_stretches + (u64)tree * (across + 1);
        u32 sum = 0, total;
        for (u32 tile = threadIdx.x; tile - threadIdx.x < across; tile += BLOCK) {
            const u32 before_own = block_scan(tile < across ? counts[tile] : 0u, &total);
            if (tile < across) counts[tile] = sum + before_own;
            sum += total;
        }
        if (threadIdx.x == 0) {
            counts[across] = sum;
            atomicMax(starts + n_trees + 1, sum);
        }
    }
    grid_sync(barrier);

    if (blockIdx.x == 0) {
        u32 sum = 0, total;
        for (u32 tree = threadIdx.x; tree - threadIdx.x <= n_trees; tree += BLOCK) {
            const u64 last = (u64)tree * (across + 1) + across;
            const u32 before_own = block_scan(tree < n_trees ? tiles.first_stretches[last] : 0u, &total);
            if (tree <= n_trees) starts[tree] = sum + before_own;
            sum += total;
        }
    }
    grid_sync(barrier);

    for (u64 tile = blockIdx.x; tile < (u64)n_trees * across; tile += gridDim.x) {
        const u32 tree = (u32)(tile / across), first = (u32)(tile % across) * SPAN;
        const u32 *const begin = tiles.first_stretches + tile + tree;
        if (threadIdx.x < begin[1] - begin[0]) {
            const u32 position = first + last_of(tiles.stretches[tile * SPAN + threadIdx.x]);
            heights[starts[tree] + begin[0] + threadIdx.x] =
                position == n - 1 ? ~(KEY)0 : gaps[(u64)tree * (n - 1) + position];
        }
    }
}
