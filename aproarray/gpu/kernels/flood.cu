// Labels from seeds: the forest that Prim's algorithm grows from all seeds at once, found by relaxation.
//
// See aproarray/cpu/_flood.pyx: edges wait in lists, the lightest list comes first, and in a list the edge that was
// reached first. Which of two ways is the earlier one then depends on nothing else that waits. Of a way along edges of
// lists k1, k2, ..., let M be the heaviest, c how often it occurs, and the gate the pixel before it first occurs.
//
// * The way whose M is lighter is earlier. Of equal ones, that whose c is smaller: edges of one list take turns.
// * Of equal ones, the edge that has waited longer came first to begin with: compare the ways to the two gates. A way
//   that begins with M has no gate, and is earlier. Of two such ways, that of the seed with the smaller number is.
//
// One more edge at the end changes no order between ways. A pixel's earliest way therefore is the earliest of those that
// go on from its neighbours' earliest ones. Tiles relax their pixels in shared memory until nothing changes, and then
// wake their neighbours. A way holds a gate by number: if the way to the gate gets earlier, so do all that use it.
// Edges, weights and lists are the CPU's, so that the labels are its labels bit for bit.

#include "common.cuh"

#define N_LISTS (1 << 14)
#define DROPPED_BITS 13
#define SIDE 32  // of a tile
#define HALO (SIDE + 2)
#define PER_THREAD (SIDE * SIDE / BLOCK)

// The earliest way to a pixel. Levels are lists from 1 on: 0 is that of a seed, UNREACHED is beyond all.
#define UNREACHED (N_LISTS + 1)
struct Way {
    u32 level, count;
    int gate;  // ~seed where there is none
};

// Images of planes (planes, height, width), the last two axes of a padded one, `maps` of them.
struct Grid {
    u32 maps, planes, height, width, across, down;  // tiles across and down a plane
    u32 n;  // pixels of a map
    u32 n_beside;  // steps to neighbours in other planes
};

struct Waves {
    Way *now;  // (maps, n)
    Way *next;  // of tiles that have changed
    u8 *awake;  // (2, tiles)
    u8 *moved;  // (tiles)
    u32 *any;  // 3, beginning as 0: whether a tile changed in this round
};

__device__ u32 list_of(float weight, int lightest_bits) {
    const int k = ((int)bits_of(weight) - lightest_bits) >> DROPPED_BITS;
    return 1 + (u32)(k < 0 ? 0 : k < N_LISTS ? k : N_LISTS - 1);
}

// What a block holds of its tile, and of the pixels around it.
struct Tile {
    Way *ways;
    const Way *others;  // of the whole map, as they were before this round
    u32 plane, top, left, height, width;
    __device__ Way at(u32 pixel) const {
        const u32 x = pixel % width, row = pixel / width, y = row % height;
        if (row / height == plane && y - top < SIDE && x - left < SIDE)
            return ways[(y - top + 1) * HALO + x - left + 1];
        return others[pixel];
    }
    __device__ bool earlier(Way a, Way b) const {
        for (;;) {
            if (a.level != b.level) return a.level < b.level;
            if (a.count != b.count) return a.count < b.count;
            if (a.gate == b.gate) return false;
            if (a.gate < 0 || b.gate < 0) return b.gate < 0 && a.gate < 0 ? ~a.gate < ~b.gate : a.gate < 0;
            a = at((u32)a.gate);
            b = at((u32)b.gate);
        }
    }
    // Let a way to a pixel go on along an edge of list k, if that is earlier than `best`.
    __device__ void go_on(Way way, u32 pixel, u32 k, Way *best) const {
        if (way.level > best->level || k > best->level) return;
        if (k > way.level) way = {k, 1, way.level ? (int)pixel : ~(int)pixel};
        else if (k == way.level) way.count++;
        if (earlier(way, *best)) *best = way;
    }
};

// The ways to seeds, and to pixels that none has reached.
KERNEL begin_ways(const int *seeds, u32 maps, u32 n, Way *ways) {
    FOR_EACH(i, (u64)maps * n) {
        const u32 pixel = (u32)(i % n);
        ways[i] = {seeds[pixel] > 0 ? 0 : (u32)UNREACHED, 0, ~(int)pixel};
    }
}

COOPERATIVE_KERNEL find_ways(
    const float *reliefs, const int *seeds, const int *lightest_bits, const Grid grid, const int *beside,
    const Waves waves, u32 *barrier
) {
    __shared__ Way ways[HALO * HALO];
    __shared__ float heights[HALO * HALO];
    __shared__ u32 moved[2];
    const u32 of_plane = grid.across * grid.down, of_map = of_plane * grid.planes, n_tiles = of_map * grid.maps;
    const u32 plane_size = grid.height * grid.width;
    bool all = true;  // whether every tile has its turn: gates that change far away wake nobody
    for (u32 round = 0;; round++) {
        u8 *const awake = waves.awake + (u64)(round % 2) * n_tiles, *const wake = waves.awake + (u64)((round + 1) % 2) * n_tiles;
        for (u32 tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
            const bool has_turn = all || awake[tile];
            __syncthreads();  // all have read it, and what is in shared memory
            if (threadIdx.x == 0) awake[tile] = waves.moved[tile] = 0;
            if (!has_turn) continue;
            const u32 map = tile / of_map, rest = tile % of_map, plane = rest / of_plane;
            const u32 top = rest % of_plane / grid.across * SIDE, left = rest % grid.across * SIDE;
            const float *const relief = reliefs + (u64)map * grid.n;
            const Way *const others = waves.now + (u64)map * grid.n;
            const Tile own = {ways, others, plane, top, left, grid.height, grid.width};
            const int lightest = lightest_bits[map];
            for (u32 i = threadIdx.x; i < HALO * HALO; i += BLOCK) {
                const u32 y = top + i / HALO - 1, x = left + i % HALO - 1;
                const bool inside = y < grid.height && x < grid.width;
                const u64 pixel = inside ? (u64)plane * plane_size + (u64)y * grid.width + x : 0;
                ways[i] = inside ? others[pixel] : Way{UNREACHED, 0, 0};
                heights[i] = inside ? relief[pixel] : 0;
            }
            if (threadIdx.x == 0) moved[0] = 0;
            __syncthreads();
            bool ever = false;
            for (u32 sweep = 0;; sweep++) {
                Way found[PER_THREAD];
                u32 changed = 0;  // a bit for each
#pragma unroll
                for (u32 j = 0; j < PER_THREAD; j++) {
                    const u32 i = threadIdx.x + j * BLOCK, y = top + i / SIDE, x = left + i % SIDE;
                    if (y >= grid.height || x >= grid.width) continue;
                    const u32 pixel = plane * plane_size + y * grid.width + x;
                    if (seeds[pixel] != 0) continue;
                    const u32 place = (i / SIDE + 1) * HALO + i % SIDE + 1;
                    const Way before = ways[place];
                    Way best = before;
                    const float height = heights[place];
#pragma unroll
                    for (u32 side = 0; side < 4; side++) {
                        const int step = side / 2 ? (int)(side % 2 * 2) - 1 : ((int)(side % 2 * 2) - 1) * HALO;
                        const int in_map = side / 2 ? (int)(side % 2 * 2) - 1 : ((int)(side % 2 * 2) - 1) * (int)grid.width;
                        const Way way = ways[(int)place + step];
                        if (way.level == UNREACHED) continue;
                        const u32 k = list_of(exact_add(height, heights[(int)place + step]), lightest);
                        own.go_on(way, pixel + in_map, k, &best);
                    }
                    for (u32 s = 0; s < grid.n_beside; s++) {
                        const u32 there = pixel + beside[s];
                        const Way way = others[there];
                        if (way.level == UNREACHED) continue;
                        own.go_on(way, there, list_of(exact_add(height, relief[there]), lightest), &best);
                    }
                    found[j] = best;
                    if (best.level != before.level || best.count != before.count || best.gate != before.gate)
                        changed |= 1u << j;
                }
                __syncthreads();
#pragma unroll
                for (u32 j = 0; j < PER_THREAD; j++) {
                    const u32 i = threadIdx.x + j * BLOCK;
                    if (changed & 1u << j) ways[(i / SIDE + 1) * HALO + i % SIDE + 1] = found[j];
                }
                if (changed) moved[sweep % 2] = 1;
                if (threadIdx.x == 0) moved[(sweep + 1) % 2] = 0;
                __syncthreads();
                if (!moved[sweep % 2]) break;
                ever = true;
            }
            if (!ever) continue;
            for (u32 i = threadIdx.x; i < SIDE * SIDE; i += BLOCK) {
                const u32 y = top + i / SIDE, x = left + i % SIDE;
                if (y < grid.height && x < grid.width)
                    waves.next[(u64)map * grid.n + (u64)plane * plane_size + (u64)y * grid.width + x] =
                        ways[(i / SIDE + 1) * HALO + i % SIDE + 1];
            }
            if (threadIdx.x == 0) {
                waves.moved[tile] = 1;
                waves.any[round % 3] = 1;
                if (top) wake[tile - grid.across] = 1;
                if (top + SIDE < grid.height) wake[tile + grid.across] = 1;
                if (left) wake[tile - 1] = 1;
                if (left + SIDE < grid.width) wake[tile + 1] = 1;
                for (u32 s = 0; s < grid.n_beside; s++) {
                    const u32 there = plane + beside[s] / (int)plane_size;  // wraps around where there is none
                    if (there < grid.planes) wake[tile + (there - plane) * of_plane] = 1;
                }
            }
        }
        if (THREAD == 0) waves.any[(round + 1) % 3] = 0;
        grid_sync(barrier);
        const bool any = waves.any[round % 3];
        for (u32 tile = blockIdx.x; any && tile < n_tiles; tile += gridDim.x) {
            if (!waves.moved[tile]) continue;
            const u32 map = tile / of_map, rest = tile % of_map, plane = rest / of_plane;
            const u32 top = rest % of_plane / grid.across * SIDE, left = rest % grid.across * SIDE;
            for (u32 i = threadIdx.x; i < SIDE * SIDE; i += BLOCK) {
                const u32 y = top + i / SIDE, x = left + i % SIDE;
                const u64 pixel = (u64)map * grid.n + (u64)plane * plane_size + (u64)y * grid.width + x;
                if (y < grid.height && x < grid.width) waves.now[pixel] = waves.next[pixel];
            }
        }
        if (!any && all) return;
        all = !any;
        grid_sync(barrier);
    }
}

// The label of the seed that each pixel's way begins at; those without a way keep their own.
KERNEL label_by_ways(const int *seeds, u32 maps, u32 n, const Way *ways, int *labels) {
    FOR_EACH(i, (u64)maps * n) {
        const Way *const map = ways + i / n * n;
        const u32 pixel = (u32)(i % n);
        Way way = map[pixel];
        if (way.level == UNREACHED) {
            labels[i] = seeds[pixel];
            continue;
        }
        while (way.gate >= 0) way = map[way.gate];
        labels[i] = seeds[~way.gate];
    }
}
