// The lines of a batch, and their chains as rows, one for every gap: see `chains` of global_line.cu.

#include "common.cuh"

// Lines one after the other: where each starts, where the last one stops, and the longest length.
struct Lines {
    const u32 *starts;
    u32 count;
    __device__ u32 start(u32 line) const { return starts[line]; }
    __device__ u32 length(u32 line) const { return starts[line + 1] - starts[line]; }
    __device__ u32 n_slots() const { return starts[count]; }
    __device__ u32 longest() const { return starts[count + 1]; }
};

struct Line {
    u32 *lows, *cuts, *highs;  // of each row
    u8 *branch_on_left;  // of each gap
    u32 *row_stops, *row_merges;  // of each row
    u32 *position_merges;  // of each position
};

// The last position of a line is followed by a wall, which is heavier than any gap.
template <typename Key> __device__ bool is_wall(Key height) { return height == ~(Key)0; }

// Of gaps that weigh the same, the later one is the heavier.
template <typename Key> __device__ bool heavier(const Key *heights, long long a, long long b) {
    if (a < 0) return true;  // before the first position
    return heights[a] != heights[b] ? heights[a] > heights[b] : a > b;
}
