// CUDA on one thread of the CPU: enough of it to run the kernels of aproarray/gpu unchanged.
//
// Every thread of a block is a fiber that runs until it waits (for its warp, its block or the grid), or pauses
// before an atomic. Blocks, warps and threads are shuffled anew after every wait, and a warp may run on through its
// own waits. A wait that not all reach is an error, not a hang.

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#define EMULATED
#define __global__
#define __device__ inline
#define __constant__
#define __shared__ static  // blocks take turns only where nothing in shared memory lives on
#define __launch_bounds__(...)
#define __forceinline__

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

enum Wait { READY, WARP, ALL_OF_BLOCK, GRID, DONE };

struct Fiber {
    ucontext_t start;
    jmp_buf here;
    bool begun;
    Wait wait;
    unsigned warp_calls;
    char *stack;
};

const size_t STACK = 1 << 16;
static std::vector<Fiber> fibers;
static jmp_buf scheduler;
static ucontext_t scheduler_context;
static Fiber *current;
static void (*body)();
static std::mt19937 shuffler;
static std::vector<uint64_t> warp_values;  // two per thread, used in turns
static bool together;  // all blocks are alive at once; else each in turn uses the fibers of one

static size_t fiber_of(unsigned block, unsigned thread) {
    return together ? (size_t)block * blockDim.x + thread : thread;
}

static void wait_for(Wait wait) {
    current->wait = wait;
    const Index thread = threadIdx, block = blockIdx;
    if (!_setjmp(current->here)) _longjmp(scheduler, 1);
    threadIdx = thread;
    blockIdx = block;
}

static void enter() {
    body();
    current->wait = DONE;
    _longjmp(scheduler, 1);
}

static void run(unsigned block, unsigned thread) {
    current = &fibers[fiber_of(block, thread)];
    if (_setjmp(scheduler)) return;
    blockIdx = {block, 0, 0};
    threadIdx = {thread, 0, 0};
    if (current->begun) _longjmp(current->here, 1);
    current->begun = true;
    getcontext(&current->start);
    current->start.uc_stack.ss_sp = current->stack;
    current->start.uc_stack.ss_size = STACK;
    current->start.uc_link = 0;
    makecontext(&current->start, enter, 0);
    swapcontext(&scheduler_context, &current->start);
}

// Run a block until all its threads wait for the grid or are done; false: they wait for one another.
//
// The order is unfair: a warp may run on through its own waits, alone, until it waits for the block.
static bool run_block(unsigned block, std::vector<unsigned> &warps) {
    Fiber *own = &fibers[fiber_of(block, 0)];
    std::vector<unsigned> lanes(32);
    for (unsigned l = 0; l < 32; l++) lanes[l] = l;
    for (;;) {
        std::shuffle(warps.begin(), warps.end(), shuffler);
        bool progress = false;
        for (unsigned w : warps)
            do {
                std::shuffle(lanes.begin(), lanes.end(), shuffler);
                unsigned waiting = 0;
                for (unsigned l : lanes)
                    if (own[32 * w + l].wait == READY) {
                        run(block, 32 * w + l);
                        progress = true;
                    }
                for (unsigned l : lanes) waiting += own[32 * w + l].wait == WARP;
                if (waiting < 32) break;
                progress = true;
                for (unsigned l : lanes) own[32 * w + l].wait = READY;
            } while (shuffler() % 8);
        size_t at_barrier = 0, at_grid = 0, done = 0;
        for (unsigned t = 0; t < blockDim.x; t++) {
            at_barrier += own[t].wait == ALL_OF_BLOCK;
            at_grid += own[t].wait == GRID;
            done += own[t].wait == DONE;
        }
        if (at_barrier == blockDim.x) {
            progress = true;
            for (unsigned t = 0; t < blockDim.x; t++) own[t].wait = READY;
        }
        if (at_grid == blockDim.x || done == blockDim.x) return true;
        if (!progress) return false;
    }
}

// Run a kernel; 0, or 1 if threads wait for one another.
static int launch(unsigned grid, unsigned block, bool cooperative, unsigned seed, void (*kernel)()) {
    shuffler.seed(seed);
    body = kernel;
    together = cooperative;
    gridDim = {grid, 1, 1};
    blockDim = {block, 1, 1};
    const size_t alive = cooperative ? (size_t)grid * block : block;
    if (fibers.size() < alive) fibers.resize(alive);
    for (size_t i = 0; i < alive; i++) {
        if (!fibers[i].stack)
            fibers[i].stack =
                (char *)mmap(0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        fibers[i].begun = false;
        fibers[i].wait = READY;
    }
    warp_values.assign(2 * alive, 0);
    std::vector<unsigned> warps(block / 32), blocks(grid);
    for (unsigned w = 0; w < warps.size(); w++) warps[w] = w;
    for (unsigned b = 0; b < grid; b++) blocks[b] = b;
    for (;;) {
        std::shuffle(blocks.begin(), blocks.end(), shuffler);
        size_t done = 0;
        for (unsigned b : blocks) {
            if (!run_block(b, warps)) return 1;
            const bool block_done = fibers[fiber_of(b, 0)].wait == DONE;
            if (!cooperative && !block_done) return 1;  // it waits for a grid that is not there
            done += block_done;
            if (!cooperative)
                for (size_t i = 0; i < alive; i++) {
                    fibers[i].begun = false;
                    fibers[i].wait = READY;
                }
        }
        if (done == grid) return 0;
        if (done) return 1;
        for (size_t i = 0; i < alive; i++) fibers[i].wait = READY;
    }
}

// Hand a value to all threads of the warp; returns where the 32 values are, two apart.
static uint64_t *share(const void *value, size_t bytes) {
    const size_t thread = fiber_of(blockIdx.x, threadIdx.x);
    const unsigned turn = current->warp_calls++ % 2;
    memcpy(&warp_values[2 * thread + turn], value, bytes);
    wait_for(WARP);
    return &warp_values[2 * (thread - threadIdx.x % 32) + turn];
}

template <typename T> static T value_of(const uint64_t *values, int lane) {
    T result;
    memcpy(&result, values + 2 * lane, sizeof(T));
    return result;
}

// A launch with packed arguments, for ctypes.
template <typename... A> struct Call {
    static void (*kernel)(A...);
    static void **arguments;
    template <size_t... I> static void spread(std::index_sequence<I...>) {
        kernel(*(A *)arguments[I]...);
    }
    static void now() { spread(std::index_sequence_for<A...>()); }
};
template <typename... A> void (*Call<A...>::kernel)(A...);
template <typename... A> void **Call<A...>::arguments;

template <typename... A>
static int call(void (*kernel)(A...), void **arguments, unsigned grid, unsigned block, int cooperative, unsigned seed) {
    Call<A...>::kernel = kernel;
    Call<A...>::arguments = arguments;
    return launch(grid, block, cooperative, seed, Call<A...>::now);
}

// The kinds of a kernel's parameters: their sizes, negative for pointers.
template <typename... A> static int kinds(void (*)(A...), int *sizes) {
    const int found[] = {(std::is_pointer<A>::value ? -1 : 1) * (int)sizeof(A)..., 0};
    memcpy(sizes, found, sizeof...(A) * sizeof(int));
    return sizeof...(A);
}

}  // namespace emulation

static inline void __syncthreads() { emulation::wait_for(emulation::ALL_OF_BLOCK); }
static inline int __syncthreads_or(int wanted) {
    static std::vector<int> of_threads;
    of_threads.resize(blockDim.x);
    of_threads[threadIdx.x] = wanted;
    __syncthreads();
    int any = 0;
    for (int one : of_threads) any |= one;
    __syncthreads();
    return any;
}
static inline void __syncwarp() { emulation::wait_for(emulation::WARP); }
static inline void __threadfence() {}
static inline void grid_sync(unsigned *) { emulation::wait_for(emulation::GRID); }

template <typename T> static T __shfl_sync(unsigned, T value, int lane) {
    return emulation::value_of<T>(emulation::share(&value, sizeof(T)), lane);
}
template <typename T> static T __shfl_up_sync(unsigned, T value, unsigned step) {
    const unsigned lane = threadIdx.x % 32;
    return emulation::value_of<T>(emulation::share(&value, sizeof(T)), lane >= step ? lane - step : lane);
}
template <typename T> static unsigned __match_any_sync(unsigned, T value) {
    const uint64_t *values = emulation::share(&value, sizeof(T));
    unsigned result = 0;
    for (int lane = 0; lane < 32; lane++)
        result |= (unsigned)(emulation::value_of<T>(values, lane) == value) << lane;
    return result;
}
static inline unsigned __ballot_sync(unsigned, bool vote) {
    const uint64_t *values = emulation::share(&vote, sizeof(vote));
    unsigned result = 0;
    for (int lane = 0; lane < 32; lane++) result |= (unsigned)emulation::value_of<bool>(values, lane) << lane;
    return result;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(unsigned x) { return __builtin_ffs((int)x); }

// Let others run, now and then: between what a thread has seen and what it makes of it.
static inline void maybe_pause() {
    if (emulation::shuffler() % 16 == 0) emulation::wait_for(emulation::READY);
}
template <typename T> static T atomicAdd(T *at, T value) {
    maybe_pause();
    const T before = *at;
    *at = before + value;
    return before;
}
template <typename T> static T atomicMin(T *at, T value) {
    maybe_pause();
    const T before = *at;
    *at = std::min(before, value);
    return before;
}
template <typename T> static T atomicMax(T *at, T value) {
    maybe_pause();
    const T before = *at;
    *at = std::max(before, value);
    return before;
}
// What becomes of these where they are not atomic or ask no other thread, for mutants.py.
static inline int alone_or(int wanted) { return wanted; }
template <typename T> static T plainAdd(T *at, T value) {
    const T before = *at;
    maybe_pause();
    *at = before + value;
    return before;
}
template <typename T> static T plainMin(T *at, T value) {
    const T before = *at;
    maybe_pause();
    *at = std::min(before, value);
    return before;
}

template <typename T> static T plainMax(T *at, T value) {
    const T before = *at;
    maybe_pause();
    *at = std::max(before, value);
    return before;
}

static inline float exact_subtract(float a, float b) { return a - b; }
static inline double exact_subtract(double a, double b) { return a - b; }
static inline float exact_add(float a, float b) { return a + b; }
static inline double exact_add(double a, double b) { return a + b; }
static inline float exact_multiply(float a, float b) { return a * b; }
static inline double exact_multiply(double a, double b) { return a * b; }
static inline float exact_divide(float a, float b) { return a / b; }
static inline float exact_root(float x) { return sqrtf(x); }
template <typename To, typename From> static To emulated_cast(From from) {
    To to;
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    memcpy(&to, &from, sizeof(to));
    return to;
}
static inline unsigned bits_of(float x) { return emulated_cast<unsigned>(x); }
static inline unsigned long long bits_of(double x) { return emulated_cast<unsigned long long>(x); }
static inline float from_bits(unsigned bits) { return emulated_cast<float>(bits); }
static inline double from_bits(unsigned long long bits) { return emulated_cast<double>(bits); }
