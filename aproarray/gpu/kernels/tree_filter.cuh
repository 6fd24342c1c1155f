// Trees laid out breadth first, n places each: the children of a node, and all nodes of one depth, are ranges.

#include "common.cuh"

struct Forests {
    const int *parents;  // the place of each place's parent
    const long long *n_roots;  // of each tree: its first places
    u32 *stops;  // the place after the last child of each place
    u32 *levels;  // the first place of every depth of each tree, and n after the last (n + 1)
    u32 *n_levels;  // depths of each tree
};
