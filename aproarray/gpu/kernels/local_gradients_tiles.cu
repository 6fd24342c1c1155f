// Gradients of local propagation: what pairs of pixels contribute, on two axes.
//
// REAL is the type of values. Windows are 2 RADIUS + 1 wide; each thread has TALL pixels of a column. The
// terms of DEEP channels, over all iterations, are summed up in registers: HALF pairs for each pixel,
// whose other pixels come through shared memory, STAGED terms at a time.

#include "common.cuh"

#define SIDE (2 * RADIUS + 1)
#define HALF (2 * RADIUS * (RADIUS + 1))
#define TILE_X 32
#define TILE_Y (BLOCK / TILE_X * TALL)
#define HALO_X (TILE_X + 2 * RADIUS)
#define HALO_Y (TILE_Y + RADIUS)  // the other pixel of a pair is in its row, or below
#define STAGED 2

// iterates (T + 1, items, channels, pixels) are y_0 to y_T; adjoints (T or more, ...) are a_T-1 to a_0, the
// gradients of y_T to y_1 divided by W 1. Pair h of pixel i, with the h-th pixel j after it in its window, becomes
//
//     pairs[item, block of channels, h, i] = sum_tc (a_ti - a_tj) (y_tj - y_ti)
//
// and place HALF of pixel i sum_tc a_ti (y_ti - y_t+1,i). What j outside the image gives is never read.
KERNEL pair_tiles(
    const REAL *iterates, const REAL *adjoints, u32 n_items, u32 height, u32 width, u32 channels,
    u32 iterations, REAL *pairs
) {
    __shared__ REAL y[STAGED][HALO_Y][HALO_X], a[STAGED][HALO_Y][HALO_X];
    const u32 across = (width + TILE_X - 1) / TILE_X, down = (height + TILE_Y - 1) / TILE_Y;
    const u32 blocks = (channels + DEEP - 1) / DEEP;
    const u64 n_pixels = (u64)height * width, n_tiles = (u64)across * down * n_items * blocks;
    const u64 step_size = n_items * channels * n_pixels;
    const int x = threadIdx.x % TILE_X, top = threadIdx.x / TILE_X * TALL;
    for (u64 tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
        const u64 unit = tile / ((u64)across * down), item = unit / blocks;
        const u32 channel = (u32)(unit % blocks) * DEEP;
        const u32 depth = channels - channel < DEEP ? channels - channel : DEEP;
        const int px = (int)(tile % across) * TILE_X, py = (int)(tile / across % down) * TILE_Y;
        const u64 first = (item * channels + channel) * n_pixels;
        REAL sum[TALL][HALF], own[TALL];
#pragma unroll
        for (int k = 0; k < TALL; k++) {
            own[k] = 0;
#pragma unroll
            for (int h = 0; h < HALF; h++) sum[k][h] = 0;
        }
        for (u32 term = 0; term < iterations * depth; term += STAGED) {
            const u32 left = iterations * depth - term, staged = left < STAGED ? left : STAGED;
            __syncthreads();
            for (u32 s = 0; s < staged; s++) {
                const u32 t = (term + s) / depth, c = (term + s) % depth;
                const REAL *const its_y = iterates + t * step_size + first + c * n_pixels;
                const REAL *const its_a = adjoints + (iterations - 1 - t) * step_size + first + c * n_pixels;
#pragma unroll 1
                for (u32 i = threadIdx.x; i < HALO_Y * HALO_X; i += BLOCK) {
                    const u32 hy = i / HALO_X, hx = i % HALO_X;
                    const int qx = px + (int)hx - RADIUS, qy = py + (int)hy;
                    const bool inside = qx >= 0 && qx < (int)width && qy < (int)height;
                    const u64 place = (u64)qy * width + qx;
                    y[s][hy][hx] = inside ? its_y[place] : 0;
                    a[s][hy][hx] = inside ? its_a[place] : 0;
                }
            }
            __syncthreads();
            for (u32 s = 0; s < staged; s++) {
                const u32 t = (term + s) / depth, c = (term + s) % depth;
                REAL own_y[TALL], own_a[TALL];
#pragma unroll
                for (int k = 0; k < TALL; k++) {
                    own_y[k] = y[s][top + k][x + RADIUS];
                    own_a[k] = a[s][top + k][x + RADIUS];
                    if (px + x >= (int)width || py + top + k >= (int)height) continue;
                    const u64 place = first + c * n_pixels + (u64)(py + top + k) * width + (px + x);
                    own[k] += own_a[k] * (own_y[k] - iterates[(t + 1) * step_size + place]);
                }
#pragma unroll
                for (int row = 0; row < RADIUS + TALL; row++)
#pragma unroll
                    for (int column = 0; column < SIDE; column++) {
                        const REAL its_y = y[s][top + row][x + column], its_a = a[s][top + row][x + column];
#pragma unroll
                        for (int k = 0; k < TALL; k++) {
                            const int h = (row - k) * SIDE + column - RADIUS - 1;
                            if (h >= 0 && h < HALF) sum[k][h] += (own_a[k] - its_a) * (its_y - own_y[k]);
                        }
                    }
            }
        }
#pragma unroll
        for (int k = 0; k < TALL; k++) {
            if (px + x >= (int)width || py + top + k >= (int)height) continue;
            REAL *const places = pairs + unit * (HALF + 1) * n_pixels + (u64)(py + top + k) * width + (px + x);
#pragma unroll
            for (int h = 0; h < HALF; h++) places[h * n_pixels] = sum[k][h];
            places[HALF * n_pixels] = own[k];
        }
    }
}
