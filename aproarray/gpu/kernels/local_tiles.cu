// Local propagation: phi <- (W phi) / (W 1) over windows, W_ij = exp(-|I_i - I_j|^2 * scale).
//
// REAL is the type of values and results, PIXEL that of the image. Item i is along image i / repeat. Between
// iterations, values are kept as planes: (items, channels, pixels), n_planes of which take turns. Where there
// is a region (items, pixels), values are 0 outside before and after every iteration.
//
// Two axes, windows of 2 RADIUS + 1. A block holds a tile: each thread TALL pixels of a column. Weights are computed
// once, into memory that lies as threads read it: in every iteration if a block has several tiles, and once if it has
// one. Values come through shared memory, DEEP channels at a time.

#include "common.cuh"

#define SIDE (2 * RADIUS + 1)
#define WINDOW (SIDE * SIDE)
#define TILE_X 32
#define TILE_Y (BLOCK / TILE_X * TALL)
#define HALO_X (TILE_X + 2 * RADIUS)
#define HALO_Y (TILE_Y + 2 * RADIUS)
#define STAGED ((HALO_X * HALO_Y + BLOCK - 1) / BLOCK)  // places that a thread brings to shared memory

// The tiles of images of two axes.
struct Tiling {
    int height, width;
    __device__ u32 across() const { return (width + TILE_X - 1) / TILE_X; }
    __device__ u32 of_image() const { return (height + TILE_Y - 1) / TILE_Y * across(); }
    __device__ int left(u32 tile) const { return (int)(tile % across()) * TILE_X; }
    __device__ int top(u32 tile) const { return (int)(tile % of_image() / across()) * TILE_Y; }
    __device__ bool holds(int x, int y) const { return x >= 0 && x < width && y >= 0 && y < height; }
    __device__ u64 pixel(int x, int y) const { return (u64)y * width + x; }
};

// Fills the weights of images (images, tiles, TALL, WINDOW, BLOCK), which add up to 1 in the window of each pixel; those of
// pixels that are not there are 0.
KERNEL weigh_tiles(const Images<PIXEL> images, u32 first_image, u32 n_images, const Tiling tiling, PIXEL scale, REAL *weights) {
    const u64 n_pixels = (u64)tiling.height * tiling.width;
    for (u32 tile = blockIdx.x; tile < n_images * tiling.of_image(); tile += gridDim.x) {
        const u64 image = first_image + tile / tiling.of_image();
        const u8 *const mask = images.mask(image, n_pixels);
        const PIXEL *const pixels = images.image(image, n_pixels);
        const int x = tiling.left(tile) + threadIdx.x % TILE_X, y = tiling.top(tile) + threadIdx.x / TILE_X * TALL;
#pragma unroll 1
        for (int k = 0; k < TALL; k++) {
            const u64 pixel = tiling.pixel(x, y + k);
            const bool inside = tiling.holds(x, y + k) && (!mask || mask[pixel]);
            REAL weight[WINDOW], sum = 0;
#pragma unroll
            for (int j = 0; j < WINDOW; j++) {
                const int qx = x + j % SIDE - RADIUS, qy = y + k + j / SIDE - RADIUS;
                const u64 other = tiling.pixel(qx, qy);
                weight[j] = 0;
                if (inside && tiling.holds(qx, qy) && (!mask || mask[other])) {
                    const PIXEL distance = window_distance(
                        pixels + other * images.channels, pixels + pixel * images.channels, images.channels
                    );
                    weight[j] = (REAL)falling_exponential(distance * scale);
                }
                sum += weight[j];
            }
            const REAL norm = inside ? 1 / sum : 0;
            REAL *const own = weights + ((u64)tile * TALL + k) * WINDOW * BLOCK + threadIdx.x;
#pragma unroll
            for (int j = 0; j < WINDOW; j++) own[j * BLOCK] = weight[j] * norm;
        }
    }
}

// Items of a batch: `count` of them from `first` on, of `all`, with `channels` each.
struct Items {
    u32 first, count, all, channels;
    u32 repeat;  // items of an image
};

COOPERATIVE_KERNEL propagate_tiles(
    const Strided<const REAL> values, const u8 *masks, u32 n_masks, const u8 *region, const Items items,
    const Tiling tiling, const REAL *weights, u32 iterations, REAL *planes, u32 n_planes, const Strided<REAL> out,
    u32 *barrier
) {
    __shared__ REAL shared[DEEP][HALO_Y][HALO_X];
    const u32 channels = items.channels;
    const u32 n_tiles = tiling.of_image() * items.count;
    const u64 n_pixels = (u64)tiling.height * tiling.width, plane_size = items.all * n_pixels * channels;
    const bool one_tile = n_tiles <= gridDim.x;
    const int x = threadIdx.x % TILE_X, y = threadIdx.x / TILE_X * TALL;
    REAL weight[TALL][WINDOW];

    for (u32 step = 0; step < iterations; step++) {
        const bool first = step == 0, last = step + 1 == iterations;
        for (u32 tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
            const u32 number = tile % tiling.of_image(), within = tile / tiling.of_image() / items.repeat;
            const u64 item = items.first + tile / tiling.of_image(), image = items.first / items.repeat + within;
            const int left = tiling.left(tile), top = tiling.top(tile);
            const u8 *const mask = masks ? masks + image % n_masks * n_pixels : 0;
            const u8 *const own_region = region ? region + item * n_pixels : 0;
            // Where values are read and written: channel c of a pixel is at pixel * pixel step + c * channel step.
            const u64 of_planes = item * channels * n_pixels;
            const REAL *const from = first ? &values(item, 0, 0) : planes + (step - 1) % n_planes * plane_size + of_planes;
            REAL *const to = last ? &out(item, 0, 0) : planes + step % n_planes * plane_size + of_planes;
            const long long from_pixel = first ? values.pixel : 1, to_pixel = last ? out.pixel : 1;
            const long long from_channel = first ? values.channel : (long long)n_pixels;
            const long long to_channel = last ? out.channel : (long long)n_pixels;
            bool there[TALL], kept[TALL], any = false;  // pixels of the image, and those that may be other than 0
            REAL *result = to + (long long)tiling.pixel(left + x, top + y) * to_pixel;  // in the next channel
            const long long to_row = tiling.width * to_pixel;
#pragma unroll
            for (int k = 0; k < TALL; k++) {
                const u64 pixel = tiling.pixel(left + x, top + y + k);
                there[k] = tiling.holds(left + x, top + y + k);
                kept[k] = there[k] && (!own_region || own_region[pixel]);
                any = any || kept[k];
                // Outside of the mask, nothing is read between iterations, and values stay what they are.
                if (!there[k] || !mask || mask[pixel]) continue;
                there[k] = false;
                if (last)
                    for (u32 c = 0; c < channels; c++) result[k * to_row + c * to_channel] = kept[k] ? values(item, pixel, c) : 0;
            }
            if (own_region && !__syncthreads_or(any)) {  // a tile without a pixel of it is 0
                for (int k = 0; k < TALL; k++)
                    if (there[k])
                        for (u32 c = 0; c < channels; c++) result[k * to_row + c * to_channel] = 0;
                continue;
            }
            if (first || !one_tile) {
                const REAL *const own =
                    weights + ((u64)within * tiling.of_image() + number) * (TALL * WINDOW * BLOCK) + threadIdx.x;
#pragma unroll
                for (int k = 0; k < TALL; k++)
#pragma unroll
                    for (int j = 0; j < WINDOW; j++) weight[k][j] = own[(k * WINDOW + j) * BLOCK];
            }
            const REAL *source[STAGED];  // in the next channel; null for what is 0
#pragma unroll
            for (int s = 0; s < STAGED; s++) {
                const u32 i = s * BLOCK + threadIdx.x;
                const int qx = left + (int)(i % HALO_X) - RADIUS, qy = top + (int)(i / HALO_X) - RADIUS;
                const u64 pixel = tiling.pixel(qx, qy);
                const bool part = tiling.holds(qx, qy) && (!mask || mask[pixel]) && (!own_region || own_region[pixel]);
                source[s] = part ? from + (long long)pixel * from_pixel : 0;
            }
            for (u32 channel = 0; channel < channels; channel += DEEP) {
                const u32 depth = channels - channel < DEEP ? channels - channel : DEEP;
                __syncthreads();
                for (u32 c = 0; c < depth; c++)
#pragma unroll
                    for (int s = 0; s < STAGED; s++) {
                        const u32 i = s * BLOCK + threadIdx.x;
                        REAL value = 0;
                        if (source[s]) {
                            value = *source[s];
                            source[s] += from_channel;
                        }
                        if (i < HALO_X * HALO_Y) (&shared[c][0][0])[i] = value;
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
                    for (int k = 0; k < TALL; k++)
                        if (there[k]) result[k * to_row] = kept[k] ? sum[k] : 0;
                    result += to_channel;
                }
            }
        }
        if (!last) grid_sync(barrier);
    }
}
