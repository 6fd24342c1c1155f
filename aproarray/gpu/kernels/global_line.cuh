// The chains of a batch of lines as rows, one for every gap: see `chains` of global_line.cu.

#include "common.cuh"

struct Line {
    u32 *lows, *cuts, *highs;  // of each row
    u8 *branch_on_left;  // of each gap
    u32 *row_stops, *row_merges;  // of each row
    u32 *position_merges;  // of each position
};
