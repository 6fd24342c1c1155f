// Local propagation: phi <- (W phi) / (W 1) over windows, W_ij = exp(-|I_i - I_j|^2 * scale).
//
// REAL is the type of values and results, PIXEL that of the image. Item i is along image i / repeat. Between
// iterations, values are kept as planes: (items, channels, pixels), n_planes of which take turns. Where there
// is a region (items, pixels), values are 0 outside before and after every iteration.
//
// Two axes, windows of 2 RADIUS + 1. A block holds a tile: each thread TALL pixels of a column, whose
// weights stay in registers for all iterations if the block has one tile, and are computed anew for each
// tile and iteration if it has several. Values come through shared memory, DEEP channels at a time.

#include "common.cuh"

#define SIDE (2 * RADIUS + 1)
#define TILE_X 32
#define TILE_Y (BLOCK / TILE_X * TALL)
#define HALO_X (TILE_X + 2 * RADIUS)
#define HALO_Y (TILE_Y + 2 * RADIUS)

COOPERATIVE_KERNEL propagate_tiles(
    const Strided<const REAL> values, const Images<PIXEL> images, u32 repeat, const u8 *region, u32 n_items, u32 height,
    u32 width, u32 channels, PIXEL scale, u32 iterations, REAL *planes, u32 n_planes, const Strided<REAL> out,
    u32 *barrier
) {
    __shared__ REAL shared[DEEP][HALO_Y][HALO_X];
    const u32 across = (width + TILE_X - 1) / TILE_X, down = (height + TILE_Y - 1) / TILE_Y;
    const u64 n_pixels = (u64)height * width, n_tiles = (u64)across * down * n_items;
    const u64 n_values = n_items * n_pixels * channels;
    const bool one_tile = n_tiles <= gridDim.x;
    REAL weight[TALL][SIDE * SIDE];
    bool inside[TALL];

    for (u32 step = 0; step < iterations; step++) {
        REAL *const to = planes + step % n_planes * n_values;
        const REAL *const from = planes + (step + n_planes - 1) % n_planes * n_values;
        for (u64 tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
            const u64 item = tile / ((u64)across * down), image = item / repeat;
            const int left = (int)(tile % across) * TILE_X, top = (int)(tile / across % down) * TILE_Y;
            const int x = threadIdx.x % TILE_X, y = threadIdx.x / TILE_X * TALL;
            const u8 *const mask = images.mask(image, n_pixels);
            const u8 *const own_region = region ? region + item * n_pixels : 0;
            const bool last = step + 1 == iterations;
            if (own_region) {  // a tile without a pixel of it is 0
                bool mine = false;
                for (int k = 0; k < TALL; k++) {
                    const int px = left + x, py = top + y + k;
                    mine = mine || (px < (int)width && py < (int)height && own_region[(u64)py * width + px]);
                }
                if (!__syncthreads_or(mine)) {
                    for (u32 c = 0; c < channels; c++)
                        for (int k = 0; k < TALL; k++) {
                            const int px = left + x, py = top + y + k;
                            if (px >= (int)width || py >= (int)height) continue;
                            const u64 pixel = (u64)py * width + px;
                            if (last) out(item, pixel, c) = 0;
                            else to[(item * channels + c) * n_pixels + pixel] = 0;
                        }
                    continue;
                }
            }
            if (step == 0 || !one_tile)
#pragma unroll
                for (int k = 0; k < TALL; k++) {
                    const int px = left + x, py = top + y + k;
                    const u64 pixel = (u64)py * width + px;
                    inside[k] = px < (int)width && py < (int)height && (!mask || mask[pixel]);
                    const PIXEL *const own = images.image(image, n_pixels) + pixel * images.channels;
                    REAL sum = 0;
#pragma unroll
                    for (int j = 0; j < SIDE * SIDE; j++) {
                        const int qx = px + j % SIDE - RADIUS, qy = py + j / SIDE - RADIUS;
                        const u64 other = (u64)qy * width + qx;
                        const bool part = inside[k] && qx >= 0 && qx < (int)width && qy >= 0 && qy < (int)height &&
                                          (!mask || mask[other]);
                        REAL w = 0;
                        if (part) {
                            const PIXEL *const its = images.image(image, n_pixels) + other * images.channels;
                            w = (REAL)falling_exponential(window_distance(its, own, images.channels) * scale);
                        }
                        weight[k][j] = w;
                        sum += w;
                    }
                    const REAL norm = inside[k] && (!own_region || own_region[pixel]) ? 1 / sum : 0;
#pragma unroll
                    for (int j = 0; j < SIDE * SIDE; j++) weight[k][j] *= norm;
                }
            for (u32 channel = 0; channel < channels; channel += DEEP) {
                const u32 depth = channels - channel < DEEP ? channels - channel : DEEP;
                __syncthreads();
                for (u32 i = threadIdx.x; i < depth * HALO_Y * HALO_X; i += BLOCK) {
                    const u32 c = i / (HALO_Y * HALO_X), hy = i / HALO_X % HALO_Y, hx = i % HALO_X;
                    const int qx = left + (int)hx - RADIUS, qy = top + (int)hy - RADIUS;
                    const u64 pixel = (u64)qy * width + qx;
                    REAL value = 0;
                    if (qx >= 0 && qx < (int)width && qy >= 0 && qy < (int)height &&
                        (!mask || mask[pixel]) && (!own_region || own_region[pixel]))
                        value = step == 0 ? values(item, pixel, channel + c)
                                          : from[(item * channels + channel + c) * n_pixels + pixel];
                    shared[c][hy][hx] = value;
                }
                __syncthreads();
                for (u32 c = 0; c < depth; c++) {
                    REAL sum[TALL];
#pragma unroll
                    for (int k = 0; k < TALL; k++) sum[k] = 0;
#pragma unroll
                    for (int row = 0; row < SIDE + TALL - 1; row++)
#pragma unroll
                        for (int column = 0; column < SIDE; column++) {
                            const REAL value = shared[c][y + row][x + column];
#pragma unroll
                            for (int k = 0; k < TALL; k++)
                                if (row >= k && row - k < SIDE) sum[k] += weight[k][(row - k) * SIDE + column] * value;
                        }
#pragma unroll
                    for (int k = 0; k < TALL; k++) {
                        const int px = left + x, py = top + y + k;
                        if (px >= (int)width || py >= (int)height) continue;
                        const u64 pixel = (u64)py * width + px;
                        if (!inside[k] && !last) continue;  // nobody reads it
                        REAL result = sum[k];
                        if (!inside[k]) result = !own_region || own_region[pixel] ? values(item, pixel, channel + c) : 0;
                        if (last) out(item, pixel, channel + c) = result;
                        else to[(item * channels + channel + c) * n_pixels + pixel] = result;
                    }
                }
            }
        }
        if (step + 1 < iterations) grid_sync(barrier);
    }
}
