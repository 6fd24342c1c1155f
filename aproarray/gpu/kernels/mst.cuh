// What the kernels of spanning trees share: edges in a list, components, and the nodes of the chain tree.
//
// Edges are ordered by (weight, number), which no two share. An edge's number orders edges by (u, v).
//
// A component is a set of pixels that is merged by Boruvka's rounds. A node stands for a component with a lightest
// edge of its own: pixel p is node p. Two components that share their lightest edge make a new one, of a new node. A
// component that hooks on one whose lightest edge is lighter makes that one larger: no node is new. The
// component that hooks on its partner by their shared edge ends, and the new node is P + its pixel: no two are equal.

#include "common.cuh"

#define ABSENT 0xFFFFFFFEu  // the parent of a node that never came

enum {
    N_EDGES,  // of the list of edges that is read or written, in turns
    N_ACTIVE = N_EDGES + 2,  // of the components that may merge, the same
    UNFINISHED = N_ACTIVE + 2,  // three flags in turns
    N_LONG = UNFINISHED + 3,  // edges in the trees: those of long chains, and all
    N_ROWS,
    OVERFLOW  // whether a tree has an edge without a finite weight
};

// An edge between two components, read at once where it has 16 bytes.
struct alignas(sizeof(KEY) == 4 ? 16 : 8) Edge {
    KEY weight;
    u32 number, a, b;
};

// Components, of which there are at most `most`.
struct Components {
    u32 most;
    KEY *weight;  // of the lightest edge that leaves it (~0: none), of this round and the next in turns (2 x most)
    u32 *edge;  // its number (NONE)
    u32 *hook;  // the component that it hooks on: itself
    u32 *pixel, *node;  // one of its pixels, its node
    u32 *fresh;  // the node that it becomes
    u32 *active;  // those that may merge, in turns (2 x most)
    u32 *rivals;  // of a few pairs of components: the place of an edge between them in the list, in turns (2 x most)
};

// The nodes of the chain tree: pixels, and those that are new (2 P).
struct Nodes {
    KEY *weight;  // of the edge by which it hooks on another, or that it shares with its partner
    u32 *edge;
    u32 *parent;  // the node that it becomes part of. NONE: it is a tree
    u32 *first_of;  // the partner, of the two that make node P + i, which has no edge of its own (P)
};

// Whether edge (weight, number) is lighter than another.
__device__ bool is_lighter(KEY weight, u32 edge, KEY other, u32 other_edge) {
    return weight < other || (weight == other && edge < other_edge);
}

// Where the rivals of an edge are: edges between the same two components, and others by chance.
__device__ u32 rivals_of(const Edge &one, u32 most) {
    const u32 least = one.a < one.b ? one.a : one.b, hash = least * 0x9E3779B1u ^ (one.a + one.b) * 0x85EBCA6Bu;
    return (u32)((u64)hash * most >> 32);
}

// Whether an edge joins the same two components as a lighter one: it is in no tree.
__device__ bool is_beaten(const Edge &one, const Edge &by) {
    const bool same = (one.a == by.a && one.b == by.b) || (one.a == by.b && one.b == by.a);
    return same && is_lighter(by.weight, by.number, one.weight, one.number);
}
