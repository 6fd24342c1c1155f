// Stable radix sort of (KEY, u32) pairs, DIGIT_BITS a pass, all passes in one cooperative launch.

#include "common.cuh"

#define DIGITS (1 << DIGIT_BITS)
#define ITEMS 4  // pairs of a thread in each tile
#define TILE (BLOCK * ITEMS)

// Sorts `keys` and `values` by the lowest n_bits of the keys. With `number`, the values begin as 0, 1, 2 ...
// There are n pairs, or *n_device (which is at most n) if that is not null. A pass over a digit that all
// keys share is left out: images of few distinct weights take few passes.
//
// What blocks count is also added up over groups of blocks. So a block finds what is before it from few numbers, and
// needs no other wait. There are no more groups than the root of the blocks, rounded up. Passes take turns with
// the counts: a block may be a pass ahead.
COOPERATIVE_KERNEL sort_pairs(
    KEY *keys, KEY *other_keys, u32 *values, u32 *other_values, u32 n, const u32 *n_device,
    int n_bits, int number, u32 *counts /* 2 x blocks x DIGITS */, u32 *groups /* 3 x groups x DIGITS, of zeros */,
    u32 *barrier
) {
    __shared__ u32 count_of[N_WARPS][DIGITS];
    __shared__ u32 place_of[DIGITS];
    __shared__ int skip;
    if (n_device) n = *n_device;
    if (n == 0) return;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, blocks = gridDim.x;
    const u64 tiles = ((u64)n + TILE - 1) / TILE, each = (tiles + blocks - 1) / blocks;
    const u64 first = blockIdx.x * each * TILE, stop = first + each * TILE < n ? first + each * TILE : n;
    bool swapped = false;
    u32 group_size = 1;
    while (group_size * group_size < blocks) group_size *= 2;
    const u32 group = blockIdx.x / group_size, n_groups = (blocks + group_size - 1) / group_size;

    for (int shift = 0, pass = 0; shift < n_bits; shift += DIGIT_BITS, pass++) {
        u32 *const own_counts = counts + pass % 2 * blocks * DIGITS;
        u32 *const own_groups = groups + pass % 3 * n_groups * DIGITS;
        u32 *const later_groups = groups + (pass + 2) % 3 * n_groups * DIGITS;
        const KEY *from = swapped ? other_keys : keys;
        const u32 *from_values = swapped ? other_values : values;
        KEY *to = swapped ? keys : other_keys;
        u32 *to_values = swapped ? values : other_values;

        for (u32 d = threadIdx.x; d < DIGITS; d += BLOCK) place_of[d] = 0;
        __syncthreads();
        for (u64 i = first + threadIdx.x; i < stop; i += BLOCK)
            atomicAdd(&place_of[(u32)(from[i] >> shift) & (DIGITS - 1)], 1u);
        __syncthreads();
        for (u32 d = threadIdx.x; d < DIGITS; d += BLOCK) {
            own_counts[blockIdx.x * DIGITS + d] = place_of[d];
            if (place_of[d]) atomicAdd(&own_groups[group * DIGITS + d], place_of[d]);
        }
        grid_sync(barrier);

        if (threadIdx.x == 0) skip = 0;  // block_scan waits before it becomes 1
        u32 smaller = 0;
        for (u32 first_digit = 0; first_digit < DIGITS; first_digit += BLOCK) {
            u32 count = 0, before = 0, total;
            const u32 d = first_digit + threadIdx.x;
            if (d < DIGITS) {
                for (u32 g = 0; g < n_groups; g++) {
                    const u32 of_group = own_groups[g * DIGITS + d];
                    if (g < group) before += of_group;
                    count += of_group;
                }
                for (u32 block = group * group_size; block < blockIdx.x; block++)
                    before += own_counts[block * DIGITS + d];
                if (blockIdx.x < n_groups) later_groups[blockIdx.x * DIGITS + d] = 0;
            }
            const u32 sum = block_scan(count, &total);
            if (d < DIGITS) {
                place_of[d] = smaller + sum + before;
                if (count == n) skip = 1;
            }
            smaller += total;
        }
        __syncthreads();
        if (skip && !(number && shift == 0)) continue;  // the next pass waits before it is 0 again

        for (u64 tile = first; tile < stop; tile += TILE) {
            for (u32 i = threadIdx.x; i < N_WARPS * DIGITS; i += BLOCK) (&count_of[0][0])[i] = 0;
            __syncthreads();
            KEY key[ITEMS];
            u32 value[ITEMS], rank[ITEMS];
            for (int j = 0; j < ITEMS; j++) {  // a warp's pairs follow one another
                const u64 i = tile + (warp * ITEMS + j) * 32 + lane;
                const bool inside = i < stop;
                key[j] = inside ? from[i] : 0;
                value[j] = !inside ? 0 : number && shift == 0 ? (u32)i : from_values[i];
                const u32 digit = inside ? (u32)(key[j] >> shift) & (DIGITS - 1) : DIGITS;
                const u32 same = __match_any_sync(FULL_WARP, digit);
                u32 before = 0;
                const int leader = __ffs(same) - 1;
                if ((int)lane == leader && inside) {
                    before = count_of[warp][digit];
                    count_of[warp][digit] = before + __popc(same);
                }
                __syncwarp();  // the digit's next leader may be another thread
                before = __shfl_sync(FULL_WARP, before, leader);
                rank[j] = before + __popc(same & ((1u << lane) - 1));
            }
            __syncthreads();
            for (u32 d = threadIdx.x; d < DIGITS; d += BLOCK) {
                u32 place = place_of[d];
                for (int w = 0; w < N_WARPS; w++) {
                    const u32 count = count_of[w][d];
                    count_of[w][d] = place;
                    place += count;
                }
                place_of[d] = place;
            }
            __syncthreads();
            for (int j = 0; j < ITEMS; j++) {
                const u64 i = tile + (warp * ITEMS + j) * 32 + lane;
                if (i >= stop) continue;
                const u32 place = count_of[warp][(u32)(key[j] >> shift) & (DIGITS - 1)] + rank[j];
                to[place] = key[j];
                to_values[place] = value[j];
            }
            __syncthreads();
        }
        swapped = !swapped;
        grid_sync(barrier);
    }
    if (swapped)
        FOR_EACH(i, n) {
            keys[i] = other_keys[i];
            values[i] = other_values[i];
        }
}
