// What all kernels share. `_compile.code_of` puts the text of a header where it is included.
//
// Kernels are 1-D and hold no dynamic shared memory. They take contiguous arrays, numbers, and structs by value, which
// `_arguments` lays out as they are declared here. A COOPERATIVE_KERNEL may call grid_sync: all its blocks are resident,
// and its last parameter is their barrier. Nothing in shared memory outlives a grid_sync. tests/emulation.h builds the
// same sources with g++.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define NONE 0xFFFFFFFFu
#define FULL_WARP 0xFFFFFFFFu
#define N_WARPS (BLOCK / 32)

// Registers are kept low enough for so many blocks on a multiprocessor.
#ifndef RESIDENT
#define RESIDENT (1024 / BLOCK)
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800  // no more than 1024 threads fit one
#define MOST_RESIDENT (RESIDENT * BLOCK > 1024 ? 1024 / BLOCK : RESIDENT)
#else
#define MOST_RESIDENT RESIDENT
#endif
#define KERNEL extern "C" __global__ void __launch_bounds__(BLOCK, MOST_RESIDENT)
#define COOPERATIVE_KERNEL KERNEL

// The kernel's threads in a row: where each begins a loop over n things, and its step.
#define THREAD ((u64)blockIdx.x * BLOCK + threadIdx.x)
#define STRIDE ((u64)gridDim.x * BLOCK)
#define FOR_EACH(i, n) for (u64 i = THREAD; i < (u64)(n); i += STRIDE)
// The same for at most 2^31 things, whose numbers are divided: that takes long with 64 bits.
#define FOR_EACH_32(i, n) for (u32 i = (u32)THREAD; i < (u32)(n); i += (u32)STRIDE)

#ifndef EMULATED
// Wait for all threads of the grid; what they wrote before is seen by all after. `arrived` begins as 0.
__device__ void grid_sync(u32 *arrived) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        // Block 0 brings the sum of all steps to 2^31: the top bit flips when everyone has arrived.
        const u32 step = blockIdx.x == 0 ? 0x80000000u - (gridDim.x - 1) : 1;
        const u32 before = atomicAdd(arrived, step);
        while (((before ^ *(volatile u32 *)arrived) & 0x80000000u) == 0) {}
        __threadfence();
    }
    __syncthreads();
}

// IEEE operations one at a time: neither fused nor flushed to zero, whatever the compiler's options.
__device__ float exact_subtract(float a, float b) {
    float result;
    asm("sub.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
__device__ float exact_add(float a, float b) {
    float result;
    asm("add.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
__device__ float exact_multiply(float a, float b) {
    float result;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
__device__ float exact_divide(float a, float b) {
    float result;
    asm("div.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
__device__ float exact_root(float x) {
    float result;
    asm("sqrt.rn.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}
__device__ double exact_subtract(double a, double b) { return __dsub_rn(a, b); }
__device__ double exact_add(double a, double b) { return __dadd_rn(a, b); }
__device__ double exact_multiply(double a, double b) { return __dmul_rn(a, b); }
__device__ u32 bits_of(float x) { return __float_as_uint(x); }
__device__ u64 bits_of(double x) { return (u64)__double_as_longlong(x); }
__device__ float from_bits(u32 bits) { return __uint_as_float(bits); }
__device__ double from_bits(u64 bits) { return __longlong_as_double((long long)bits); }
#endif

// Weights are never negative, so that their bits order them as integers do. No weight has all bits set.
__device__ u32 infinity_bits(u32) { return 0x7F800000u; }
__device__ u64 infinity_bits(u64) { return 0x7FF0000000000000ull; }
__device__ u32 smallest_normal_bits(u32) { return 0x00800000u; }
__device__ u64 smallest_normal_bits(u64) { return 0x0010000000000000ull; }

// The bits of |u - v|^2, channels in order; below the smallest normal number it is 0, as on every backend.
template <typename Real> __device__ auto square_distance(const Real *u, const Real *v, u64 channels) {
    Real total = 0;
    for (u64 c = 0; c < channels; c++) {
        const Real difference = exact_subtract(u[c], v[c]);
        total = exact_add(total, exact_multiply(difference, difference));
    }
    const auto bits = bits_of(total);
    return bits < smallest_normal_bits(bits) ? 0 : bits;
}

__device__ float falling_exponential(float x) { return expf(-x); }
__device__ double falling_exponential(double x) { return exp(-x); }

// |u - v|^2 where its last bits do not matter.
template <typename Real> __device__ Real window_distance(const Real *u, const Real *v, u32 channels) {
    Real distance = 0;
#pragma unroll 1
    for (u32 c = 0; c < channels; c++) {
        const Real difference = u[c] - v[c];
        distance += difference * difference;
    }
    return distance;
}

// An (items, pixels, channels) array of any strides.
template <typename T> struct Strided {
    T *values;
    long long item, pixel, channel;
    __device__ T &operator()(u64 i, u64 p, u64 c) const { return values[i * item + p * pixel + c * channel]; }
};

// The extents of up to 8 axes; those that are not there are 1.
struct Extents {
    u32 of[8];
};

// Images (count, pixels, channels), and which pixels take part: masks (n_masks, pixels), 1 or `count`, or null.
template <typename T> struct Images {
    const T *pixels;
    u32 channels;
    const u8 *masks;
    u32 n_masks, count;
    __device__ const T *image(u64 number, u64 n_pixels) const { return pixels + number * n_pixels * channels; }
    __device__ const u8 *mask(u64 number, u64 n_pixels) const {
        return masks ? masks + number % n_masks * n_pixels : 0;
    }
};

// Items, things of each, and channels (or columns).
struct Sizes {
    u32 items, n, channels;
};

// The sum of `value` over the threads before this one in its block, and over all of the block (`total`).
template <typename T> __device__ T block_scan(T value, T *total) {
    __shared__ T of_warps[N_WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    T sum = value;
    for (int step = 1; step < 32; step *= 2) {
        const T below = __shfl_up_sync(FULL_WARP, sum, step);
        if (lane >= step) sum += below;
    }
    __syncthreads();  // of_warps may still be read from the last call
    if (lane == 31) of_warps[warp] = sum;
    __syncthreads();
    T before = 0, all = 0;
    for (int w = 0; w < N_WARPS; w++) {
        if (w < warp) before += of_warps[w];
        all += of_warps[w];
    }
    *total = all;
    return before + sum - value;
}

// The sum over the blocks before this one of what each has written to of_blocks.
template <typename T> __device__ T sum_before_block(const T *of_blocks) {
    T sum = 0, total;
    for (u32 block = threadIdx.x; block < blockIdx.x; block += BLOCK) sum += of_blocks[block];
    block_scan(sum, &total);
    return total;
}

// The part of [0, n) that is a block's own, in whole tiles of BLOCK: the parts follow one another.
__device__ u64 first_of_block(u64 n, u64 block) {
    const u64 tiles = (n + BLOCK - 1) / BLOCK, each = (tiles + gridDim.x - 1) / gridDim.x;
    const u64 first = block * each * BLOCK;
    return first < n ? first : n;
}

// The first of as many places in a list as the thread wants; all threads of the block must call. One atomic for
// a block: all of them are on one address.
__device__ u32 reserve(u32 wanted, u32 *counter) {
    __shared__ u32 first;
    u32 total;
    const u32 before = block_scan(wanted, &total);
    if (threadIdx.x == 0 && total) first = atomicAdd(counter, total);
    __syncthreads();  // the next call waits twice before it writes `first`
    return first + before;
}
