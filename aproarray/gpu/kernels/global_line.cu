// The dendrograms of lines, cut into chains, for sums over them.
//
// Position p of the line is followed by gap p; the last position of a line is followed by a wall. A batch
// is one line. Gaps are ordered by (gap, position), walls being heavier than all; KEY is the type of their
// bits, the heights. All that enters is heights: a tree is propagated over wherever it came from.
//
// Levels: of a level's gaps, those heavier than both of their neighbours make the next level. So a gap that
// goes no further lies in a *block* of the next level, between two gaps that do. Every level has
// at most half the gaps of the one below.
//
// Chains: gap p belongs to the first block D, of those that hold it, whose two borders are both heavier.
// The gaps of D fall along the line to the bottom and then rise: sorted, they are the merges that
// single linkage adds to the bottom's, one after the other. Each joins what D has gathered so far to its
// *branch*, which is one position, or all of a block of a lower level. (The bottom's branch is its left
// side.) So chains make a tree no deeper than there are levels. Towards its lighter border, a chain reaches to
// the border; towards the other one, to the first gap that is heavier than the lighter border, as any
// heavier gaps of D belong to chains above.

#include "global_line.cuh"

enum {
    N_LEVELS,
    LEVEL_STARTS  // first entry of each level in the lists, and of the one that never came
};

struct Levels {
    const KEY *heights;  // of each gap and wall (S)
    u32 *slots;  // the gaps of the levels, one list after the other
    u32 *up;  // the number of entries before each entry that go further
    u32 *entry_of;  // where each gap ends in the lists (S)
    u32 *state;
};

// Fills the levels.
COOPERATIVE_KERNEL levels(const Lines lines, const Levels found, u32 *of_blocks, u32 *barrier) {
    const KEY *const heights = found.heights;
    u32 *const slots = found.slots, *const up = found.up, *const entry_of = found.entry_of, *const state = found.state;
    const u32 n_slots = lines.n_slots();
    FOR_EACH(s, n_slots) slots[s] = (u32)s;
    grid_sync(barrier);
    u32 start = 0, count = n_slots;
    int level = 0;
    bool alone = false;  // few gaps are left: one block goes on without the others
    while (count > lines.count) {
        if (count <= 8 * BLOCK && !alone) {
            if (blockIdx.x) break;
            alone = true;
        }
        if (THREAD == 0) state[LEVEL_STARTS + level] = start;
        const u64 own = alone ? 0 : first_of_block(count, blockIdx.x);
        const u64 stop = alone ? count : first_of_block(count, blockIdx.x + 1);
        u32 *const next = slots + start + count;
        u32 place = 0, total;
        for (int writing = alone; writing < 2; writing++) {
            for (u64 tile = own; tile < stop; tile += BLOCK) {
                const u64 i = tile + threadIdx.x;
                bool further = false;
                u32 slot = 0;
                if (i < stop) {
                    const u32 *entry = slots + start + i;
                    slot = entry[0];
                    further = is_wall(heights[slot]) || (i != 0 && !heavier(heights, entry[-1], slot) && !heavier(heights, entry[1], slot));
                }
                const u32 before = block_scan((u32)further, &total);
                if (writing && i < stop) {
                    up[start + i] = place + before;
                    if (further) next[place + before] = slot;
                    else entry_of[slot] = start + (u32)i;
                }
                place += total;
            }
            if (!writing) {
                if (threadIdx.x == 0) of_blocks[blockIdx.x] = place;
                grid_sync(barrier);
                place = sum_before_block(of_blocks);
            }
        }
        // The last block (alone: the only one) knows how many there are.
        if (blockIdx.x == (alone ? 0 : gridDim.x - 1) && threadIdx.x == 0) of_blocks[gridDim.x] = place;
        if (alone) __syncthreads();
        else grid_sync(barrier);
        start += count;
        count = of_blocks[gridDim.x];  // block_scan waits before it is written again
        level++;
    }
    if (THREAD == 0) {
        state[LEVEL_STARTS + level] = start;
        state[LEVEL_STARTS + level + 1] = start + count;
        state[N_LEVELS] = level;
    }
    // Walls and where they lead, above the last level: one block for each line.
}

// A cluster of the line, between two gaps, is merged over the lighter of them. Returns twice that gap's
// row, plus one if the cluster is what the chain has gathered, and not a branch; NONE for a whole line.
__device__ u32 merge_of(
    const KEY *heights, const u32 *row_of, const u8 *branch_on_left, long long left, long long right
) {
    const bool over_right = heavier(heights, left, right);
    const u32 gap = (u32)(over_right ? right : left);
    if (is_wall(heights[gap])) return NONE;
    return 2 * row_of[gap] + (over_right != (bool)branch_on_left[gap]);
}

#define MOST_LEVELS 32

// The gaps on both sides of a block.
struct Borders {
    long long left, right;
};
__device__ Borders borders_of(u32 block, const u32 *slots, const u32 *level_starts) {
    u32 level = 0;
    while (level_starts[level + 1] <= block) level++;
    return {block == level_starts[level] ? -1 : (long long)slots[block - 1], (long long)slots[block]};
}

// What `chains` works in.
struct Chains {
    u32 *chain_of, *row_of;  // of each gap (S)
    u32 *table;  // lines x MOST_LEVELS x tiles
    u32 *of_blocks;
    u32 *line_rows;  // rows in the order of the line
    u32 *starts, *stops, *bottoms;  // of each chain, by its entry in the lists
};

// Fills the rows, one for every gap, by line and chain, and from the bottom of a chain upwards: the
// positions [low, cut] and [cut + 1, high] that the gap joins, where the chain's rows stop, and the merge
// (see merge_of) of the chain's block; row_of(gap), whether the branch is on the left of the gap, and
// the merge of every single position.
COOPERATIVE_KERNEL chains(
    const Lines lines, const Levels found, const Chains work, const Line line, u32 *barrier
) {
    const KEY *const heights = found.heights;
    const u32 *const slots = found.slots, *const up = found.up, *const entry_of = found.entry_of;
    const u32 *const state = found.state;
    u32 *const chain_of = work.chain_of, *const row_of = work.row_of, *const table = work.table;
    u32 *const of_blocks = work.of_blocks, *const line_rows = work.line_rows;
    u32 *const starts = work.starts, *const stops = work.stops, *const bottoms = work.bottoms;
    u32 *const lows = line.lows, *const cuts = line.cuts, *const highs = line.highs;
    u32 *const row_stops = line.row_stops, *const row_merges = line.row_merges;
    u32 *const position_merges = line.position_merges;
    u8 *const branch_on_left = line.branch_on_left;
    __shared__ u32 count_of[N_WARPS][MOST_LEVELS];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 n_lines = lines.count, n_slots = lines.n_slots(), n_rows = n_slots - n_lines;
    const u32 tiles = (lines.longest() + BLOCK - 1) / BLOCK;
    const u32 *const level_starts = state + LEVEL_STARTS;

    // Count the chains' levels, in tiles of each line; then their places; then put them there. Chains of
    // one level lie side by side on the line, so that their rows do not mix.
    for (int writing = 0; writing < 2; writing++) {
        for (u64 tile = blockIdx.x; tile < (u64)n_lines * tiles; tile += gridDim.x) {
            const u32 number = (u32)(tile / tiles), p = (u32)(tile % tiles) * BLOCK + threadIdx.x;
            const u32 slot = lines.start(number) + p;
            u32 level = MOST_LEVELS;
            if (p + 1 < lines.length(number)) {
                u32 block = entry_of[slot];
                level = 0;
                while (level_starts[level + 1] <= block) level++;
                if (writing) block = chain_of[slot];
                else {
                    long long left, right;
                    do {
                        block = level_starts[++level] + up[block];
                        left = block == level_starts[level] ? -1 : (long long)slots[block - 1];
                        right = slots[block];
                    } while (!heavier(heights, left, slot) || !heavier(heights, right, slot));
                    chain_of[slot] = block;
                }
                level = 0;
                while (level_starts[level + 1] <= block) level++;
            }
            __syncthreads();
            for (u32 i = threadIdx.x; i < N_WARPS * MOST_LEVELS; i += BLOCK) (&count_of[0][0])[i] = 0;
            __syncthreads();
            const u32 same = __match_any_sync(FULL_WARP, level);
            if ((int)lane == __ffs(same) - 1 && level < MOST_LEVELS) count_of[warp][level] = __popc(same);
            __syncthreads();
            if (threadIdx.x < MOST_LEVELS) {
                u32 *const cell = table + ((u64)number * MOST_LEVELS + threadIdx.x) * tiles + tile % tiles;
                u32 place = writing ? *cell : 0;
                for (int w = 0; w < N_WARPS; w++) {
                    const u32 count = count_of[w][threadIdx.x];
                    count_of[w][threadIdx.x] = place;
                    place += count;
                }
                if (!writing) *cell = place;
            }
            __syncthreads();
            if (writing && level < MOST_LEVELS)
                line_rows[count_of[warp][level] + __popc(same & ((1u << lane) - 1))] = slot;
        }
        grid_sync(barrier);
        if (writing) break;
        const u64 cells = (u64)n_lines * MOST_LEVELS * tiles;
        const u64 own = first_of_block(cells, blockIdx.x), stop = first_of_block(cells, blockIdx.x + 1);
        u32 sum = 0, total;
        for (u64 i = own + threadIdx.x; i < stop; i += BLOCK) sum += table[i];
        block_scan(sum, &total);
        if (threadIdx.x == 0) of_blocks[blockIdx.x] = total;
        grid_sync(barrier);
        u32 place = sum_before_block(of_blocks);
        for (u64 cell = own; cell < stop; cell += BLOCK) {
            const u64 i = cell + threadIdx.x;
            const u32 before = block_scan(i < stop ? table[i] : 0u, &total);
            if (i < stop) table[i] = place + before;
            place += total;
        }
        grid_sync(barrier);
    }

    FOR_EACH(i, n_rows) {
        const u32 slot = line_rows[i], chain = chain_of[slot];
        const bool first = i == 0 || chain_of[line_rows[i - 1]] != chain;
        const bool last = i + 1 == n_rows || chain_of[line_rows[i + 1]] != chain;
        if (first) starts[chain] = (u32)i;
        if (last) stops[chain] = (u32)i + 1;
        if ((first || heavier(heights, line_rows[i - 1], slot)) && (last || heavier(heights, line_rows[i + 1], slot)))
            bottoms[chain] = (u32)i;
    }
    grid_sync(barrier);

    FOR_EACH(i, n_rows) {
        const u32 slot = line_rows[i], chain = chain_of[slot];
        const u32 start = starts[chain], stop = stops[chain], bottom = bottoms[chain];
        const bool on_left = i <= bottom;  // of what the chain has gathered
        // Of the gaps on the bottom's other side, those that are lighter: they are [bottom + 1, nearer).
        u32 lighter = 0, heavier_ones = on_left ? stop - 1 - bottom : bottom - start;
        if (i != bottom)
            while (lighter < heavier_ones) {
                const u32 middle = (lighter + heavier_ones) / 2;
                const u32 other = line_rows[on_left ? bottom + 1 + middle : bottom - 1 - middle];
                if (heavier(heights, other, slot)) heavier_ones = middle;
                else lighter = middle + 1;
            }
        const u32 rank = (on_left ? bottom - (u32)i : (u32)i - bottom) + lighter, row = start + rank;
        const long long before = on_left ? (long long)i - 1 : (long long)bottom - 1 - lighter;
        const u64 after = on_left ? (u64)bottom + 1 + lighter : i + 1;
        lows[row] = before >= (long long)start ? line_rows[before] + 1 : NONE;
        cuts[row] = slot;
        highs[row] = after < stop ? line_rows[after] : NONE;
        row_stops[row] = stop;
        row_of[slot] = row;
        branch_on_left[slot] = on_left;
    }
    grid_sync(barrier);

    FOR_EACH(s, n_slots)
        position_merges[s] = merge_of(heights, row_of, branch_on_left, (long long)s - 1, (long long)s);
    FOR_EACH(row, n_rows) {
        const u32 chain = chain_of[cuts[row]];
        const Borders own = borders_of(chain, slots, level_starts);
        row_merges[row] = merge_of(heights, row_of, branch_on_left, own.left, own.right);
        // Beyond the chain's own rows: up the chains, until one knows. Other threads fill in meanwhile what
        // is asked for here; either is right.
        u32 low = lows[row], high = highs[row];
        for (u32 above = chain; low == NONE;) {
            const Borders at = borders_of(above, slots, level_starts);
            const bool to_right = heavier(heights, at.left, at.right);
            if (!to_right || is_wall(heights[at.right])) low = (u32)(at.left + 1);
            else {
                low = lows[row_of[at.right]];
                above = chain_of[at.right];
            }
        }
        for (u32 above = chain; high == NONE;) {
            const Borders at = borders_of(above, slots, level_starts);
            const bool to_right = heavier(heights, at.left, at.right);
            if (to_right || is_wall(heights[at.left])) high = (u32)at.right;
            else {
                high = highs[row_of[at.left]];
                above = chain_of[at.left];
            }
        }
        lows[row] = low;
        highs[row] = high;
    }
}
