// Tiles of a line, SPAN positions each, and what they hold of its dendrogram: see `find_tiles` of line_tiles.cu.
//
// A cluster that is merged inside of its tile has a slot: SPAN + its last position if it is on the left of that
// merge, its first position if it is on the right. Any other cluster has the slot that its lighter border says.

#include "global_line.cuh"

struct Tiles {
    u32 *merges;  // (trees, tiles, SPAN): see merge_bits
    u32 *n_merges;  // (trees, tiles)
    u8 *on_left;  // (trees, n): whether a single position is on the left of its merge
    u32 *stretches;  // (trees, tiles, SPAN): see stretch_bits
    u32 *first_stretches;  // (trees, tiles + 1): how many stretches of the tree there are before those of a tile
};

// A merge: the last position on its left, which of its sides are single positions, the slot of what it makes, its round.
__device__ u32 merge_bits(u32 cut, bool left_single, bool right_single, u32 slot, u32 round) {
    return cut | left_single << 9 | right_single << 10 | slot << 11 | round << 21;
}
struct Merge {
    u32 left, right, slot;  // slots of the two sides, and of what it makes
    bool left_single, right_single;
    __device__ Merge(u32 bits)
        : left(SPAN + bits % 512), right(bits % 512 + 1), slot(bits >> 11 & 1023), left_single(bits >> 9 & 1),
          right_single(bits >> 10 & 1) {}
};
__device__ u32 cut_of(u32 merge) { return merge % 512; }
__device__ u32 round_of(u32 merge) { return merge >> 21; }

// A stretch that no merge of its tile parts, or joins to others: its last position, its slot, whether it is one position.
__device__ u32 stretch_bits(u32 last, u32 slot, bool single) { return last | slot << 16 | (u32)single << 31; }
__device__ u32 last_of(u32 stretch) { return stretch & 0xFFFF; }
__device__ u32 slot_of(u32 stretch) { return stretch >> 16 & 0x7FFF; }
__device__ bool is_single(u32 stretch) { return stretch >> 31; }
