// The edges of a pixel graph: their weights, the forests of tiles, which are made in shared memory, and what is left.
//
// KEY and REAL are the weights' bits and type; NDIM, N_STEPS and STEPS say which pixels are neighbours (see
// aproarray/_edges.py). Edge k of pixel u has the number u * N_STEPS + k, which orders edges by (u, v). A
// batch is one graph: pixel u of image b is node b * N + u. The key of an edge that is not there is ~0.

#include "mst.cuh"

#define EACH 2  // pixels of a thread
#define TILE (EACH * BLOCK)

__constant__ const int STEP_OF[N_STEPS][NDIM] = STEPS;

KERNEL weigh_grid(const Images<REAL> images, u32 n_nodes, const Extents shape, KEY *keys) {
    FOR_EACH_32(i, images.count * n_nodes) {
        const u32 b = i / n_nodes, u = i % n_nodes;
        const u64 channels = images.channels;
        const u8 *const mask = images.mask(b, n_nodes);
        const bool present = !mask || mask[u];
        for (int k = 0; k < N_STEPS; k++) {
            bool inside = present;
            u32 rest = u;
            long long v = u, stride = 1;
            for (int axis = NDIM - 1; axis >= 0; axis--) {
                const long long at = (long long)(rest % shape.of[axis]) + STEP_OF[k][axis];
                inside = inside && at >= 0 && at < shape.of[axis];
                v += STEP_OF[k][axis] * stride;
                stride *= shape.of[axis];
                rest /= shape.of[axis];
            }
            inside = inside && (!mask || mask[v]);
            const REAL *const pixels = images.image(b, n_nodes);
            keys[(u64)i * N_STEPS + k] =
                inside ? square_distance(pixels + u * channels, pixels + v * channels, channels) : ~(KEY)0;
        }
    }
}

// How far the pixel is that a step leads to.
__device__ u32 flat_step(const Extents &shape, int k) {
    u32 step = 0, stride = 1;
    for (int axis = NDIM - 1; axis >= 0; axis--) {
        step += (u32)STEP_OF[k][axis] * stride;
        stride *= shape.of[axis];
    }
    return step;
}

// Whether an edge is there, and not the heaviest of a square of four pixels: that one is in no tree. Of equal edges
// the later one is the heavier. Steps are those along an axis if there are as many as axes.
__device__ bool is_kept(const KEY *keys, u32 edge, u32 n_nodes, const Extents &shape) {
    const KEY own = keys[edge];
    if (own == ~(KEY)0) return false;
    if (N_STEPS != NDIM) return true;
    const u32 node = edge / N_STEPS, k = edge % N_STEPS, along = flat_step(shape, k);
    for (u32 j = 0; j < N_STEPS; j++) {
        if (j == k) continue;
        const u32 across = flat_step(shape, j), extent = shape.of[NDIM - 1 - j];
        for (u32 before = 0; before < 2; before++) {
            if (before && node % n_nodes / across % extent == 0) break;
            const u32 corner = node - before * across;
            const u32 first = corner * N_STEPS + k, second = corner * N_STEPS + j;
            if (keys[first] == ~(KEY)0 || keys[second] == ~(KEY)0) continue;
            const u32 others[3] = {
                before ? first : (corner + across) * N_STEPS + k, second, (corner + along) * N_STEPS + j
            };
            bool heaviest = true;
            for (u32 other : others) {
                const KEY key = keys[other];
                heaviest = heaviest && (key < own || (key == own && other < edge));
            }
            if (heaviest) return false;
        }
    }
    return true;
}

// Where a tile is in a batch: its first pixel's place in the image, and how far steps along an axis are.
struct Tile {
    u32 origin[NDIM], stride[NDIM], first;
    __device__ int at(u32 local, int axis, const Extents &bits) const {
        u32 rest = local;
        for (int a = NDIM - 1; a > axis; a--) rest >>= bits.of[a];
        return (int)(rest & ((1u << bits.of[axis]) - 1));
    }
    // The number of a pixel of the tile, NONE outside of the image.
    __device__ u32 pixel(u32 local, const Extents &shape, const Extents &bits) const {
        u32 pixel = first;
        for (int axis = NDIM - 1; axis >= 0; axis--) {
            const u32 at = origin[axis] + (local & ((1u << bits.of[axis]) - 1));
            if (at >= shape.of[axis]) return NONE;
            pixel += at * stride[axis];
            local >>= bits.of[axis];
        }
        return pixel;
    }
};

__device__ Tile tile_at(u32 number, u32 n_nodes, const Extents &shape, const Extents &bits) {
    Tile tile;
    u32 stride = 1;
    for (int axis = NDIM - 1; axis >= 0; axis--) {
        const u32 tiles = ((shape.of[axis] - 1) >> bits.of[axis]) + 1;
        tile.origin[axis] = number % tiles << bits.of[axis];
        tile.stride[axis] = stride;
        number /= tiles;
        stride *= shape.of[axis];
    }
    tile.first = number * n_nodes;
    return tile;
}

// An edge of a pixel: the local number of its other end, NONE outside of the tile.
struct Way {
    KEY weight;
    u32 edge, to;
};

// The lightest of a pixel's edges that leave its component; none has weight ~0.
__device__ Way lightest_way(
    const KEY *keys, const u16 *label, u32 local, u32 pixel, const Tile &tile, const Extents &shape, const Extents &bits
) {
    Way best = {~(KEY)0, NONE, NONE};
    const u32 own = label[local];
#pragma unroll(N_STEPS <= 4 ? N_STEPS : 1)
    for (int k = 0; k < N_STEPS; k++)
        for (int sign = 1; sign >= -1; sign -= 2) {
            bool in_image = true, in_tile = true;
            u32 to = 0, from = pixel;
            for (int axis = 0; axis < NDIM; axis++) {
                const int at = tile.at(local, axis, bits) + sign * STEP_OF[k][axis];
                in_tile = in_tile && at >= 0 && at < 1 << bits.of[axis];
                in_image = in_image && tile.origin[axis] + (u32)at < shape.of[axis];
                to = (to << bits.of[axis]) + (u32)at;
                if (sign < 0) from -= (u32)STEP_OF[k][axis] * tile.stride[axis];
            }
            if (!in_image || (in_tile && label[to] == own)) continue;
            const u32 edge = from * N_STEPS + k;
            const KEY weight = keys[edge];
            if (weight != ~(KEY)0 && is_lighter(weight, edge, best.weight, best.edge))
                best = Way{weight, edge, in_tile ? to : NONE};
        }
    return best;
}

// Boruvka's rounds inside of tiles of 2^bits pixels. A component whose lightest edge leaves the tile waits, and others
// hook on it. Fills the nodes of all pixels, and the components that are left, with their lightest edges, but for those
// that no edge leaves. index: the component of each pixel.
KERNEL merge_tiles(
    const KEY *keys, u32 n_pixels, u32 n_nodes, u32 n_tiles, const Extents shape, const Extents bits,
    const Components components, const Nodes nodes, u32 *index, u32 *state
) {
    const u16 NO_PARENT = 0xFFFF, NO_NODE = 0xFFFE;
    // Of components, by one of their pixels: the lightest edge, what they hook on, the node they are and become.
    __shared__ KEY weight[TILE];
    __shared__ u32 edge[TILE];
    __shared__ u16 hook[TILE], node[TILE], fresh[TILE];
    __shared__ u16 label[TILE];  // the component of each pixel
    __shared__ u16 parent[2 * TILE];  // of each node: pixels, and TILE + the pixel of a component that ended
    for (u32 number = blockIdx.x; number < n_tiles; number += gridDim.x) {
        const Tile tile = tile_at(number, n_nodes, shape, bits);
        u32 pixel[EACH];
        bool done[EACH];  // no edge of the pixel leaves its component
        for (int j = 0; j < EACH; j++) {
            const u32 i = j * BLOCK + threadIdx.x;
            pixel[j] = tile.pixel(i, shape, bits);
            done[j] = pixel[j] == NONE;
            label[i] = hook[i] = node[i] = fresh[i] = (u16)i;
            parent[i] = NO_PARENT;
            parent[TILE + i] = NO_NODE;
            weight[i] = ~(KEY)0;
            edge[i] = NONE;
        }
        __syncthreads();
        for (;;) {
            Way way[EACH];
            for (int j = 0; j < EACH; j++) {
                const u32 i = j * BLOCK + threadIdx.x;
                way[j] = Way{~(KEY)0, NONE, NONE};
                if (done[j]) continue;
                way[j] = lightest_way(keys, label, i, pixel[j], tile, shape, bits);
                done[j] = way[j].edge == NONE;
                if (!done[j]) atomicMin(&weight[label[i]], way[j].weight);
            }
            __syncthreads();
            for (int j = 0; j < EACH; j++) {
                const u32 of = label[j * BLOCK + threadIdx.x];
                if (!done[j] && way[j].weight == weight[of]) atomicMin(&edge[of], way[j].edge);
            }
            __syncthreads();
            int merges = 0;
            for (int j = 0; j < EACH; j++) {
                const u32 of = label[j * BLOCK + threadIdx.x];
                if (done[j] || way[j].edge != edge[of] || way[j].to == NONE) continue;
                const u32 on = label[way[j].to], own = node[of];
                const u32 name = own < TILE ? tile.pixel(own, shape, bits)
                                            : n_pixels + tile.pixel(own - TILE, shape, bits);
                nodes.weight[name] = way[j].weight;
                nodes.edge[name] = way[j].edge;
                merges = 1;
                if (edge[on] == way[j].edge && of < on) {
                    fresh[of] = (u16)(TILE + on);
                    parent[TILE + on] = NO_PARENT;
                    nodes.first_of[tile.pixel(on, shape, bits)] = name;
                } else hook[of] = (u16)on;
            }
            if (!__syncthreads_or(merges)) break;
            for (int unfinished = 1; unfinished;) {
                u32 root[EACH];
                unfinished = 0;
                for (int j = 0; j < EACH; j++) {
                    const u32 i = j * BLOCK + threadIdx.x;
                    root[j] = hook[i];
                    if (label[i] != i) continue;
                    for (int hops = 0; hops < 32 && hook[root[j]] != root[j]; hops++) root[j] = hook[root[j]];
                    unfinished |= hook[root[j]] != root[j];
                }
                unfinished = __syncthreads_or(unfinished);
                for (int j = 0; j < EACH; j++) hook[j * BLOCK + threadIdx.x] = (u16)root[j];
                __syncthreads();
            }
            for (int j = 0; j < EACH; j++) {
                const u32 i = j * BLOCK + threadIdx.x, root = hook[label[i]];
                if (label[i] == i) {
                    if (fresh[root] != node[i]) parent[node[i]] = fresh[root];
                    if (root == i) node[i] = fresh[i];
                    weight[i] = ~(KEY)0;
                    edge[i] = NONE;
                }
                label[i] = (u16)root;
            }
            __syncthreads();
        }

        u32 left = 0, lightest[EACH];
        bool stays[EACH];
        for (int j = 0; j < EACH; j++) {
            const u32 i = j * BLOCK + threadIdx.x;
            stays[j] = pixel[j] != NONE && label[i] == i && edge[i] != NONE;
            lightest[j] = edge[i];
            left += stays[j];
        }
        u32 place = reserve(left, &state[N_ACTIVE]);
        u32 *const number_of = edge;
        for (int j = 0; j < EACH; j++) {
            const u32 i = j * BLOCK + threadIdx.x;
            number_of[i] = stays[j] ? place : NONE;
            if (!stays[j]) continue;
            components.weight[place] = weight[i];
            components.edge[place] = lightest[j];
            components.hook[place] = components.active[place] = place;
            components.pixel[place] = pixel[j];
            components.node[place] =
                node[i] < TILE ? tile.pixel(node[i], shape, bits) : n_pixels + tile.pixel(node[i] - TILE, shape, bits);
            place++;
        }
        __syncthreads();
        for (int j = 0; j < EACH; j++) {
            const u32 i = j * BLOCK + threadIdx.x;
            if (pixel[j] == NONE) continue;
            index[pixel[j]] = number_of[label[i]];
            for (int is_new = 0; is_new < 2; is_new++) {
                const u32 above = parent[is_new * TILE + i];
                u32 name = above == NO_PARENT ? NONE : ABSENT;
                if (above < TILE) name = tile.pixel(above, shape, bits);
                else if (above < 2 * TILE) name = n_pixels + tile.pixel(above - TILE, shape, bits);
                nodes.parent[is_new * n_pixels + pixel[j]] = name;
            }
        }
        __syncthreads();
    }
}

// Lists the edges between different components, but for those that are in no tree.
KERNEL list_crossings(
    const KEY *keys, const u32 *index, u32 n_pixels, u32 n_nodes, const Extents shape, const Components components,
    Edge *list, u32 *state
) {
    for (u64 u = THREAD; u - threadIdx.x < n_pixels; u += STRIDE)
        for (u32 first = 0; first < N_STEPS; first += 32) {
            u32 wanted = 0;
            for (u32 k = first; k < first + 32 && k < N_STEPS && u < n_pixels; k++) {
                const u32 edge = (u32)u * N_STEPS + k;
                if (keys[edge] != ~(KEY)0 && index[u] != index[(u32)u + flat_step(shape, k)])
                    wanted |= (u32)is_kept(keys, edge, n_nodes, shape) << (k - first);
            }
            u64 place = reserve(__popc(wanted), &state[N_EDGES]);
            for (; wanted; wanted &= wanted - 1) {
                const u32 k = first + __ffs(wanted) - 1, edge = (u32)u * N_STEPS + k;
                const Edge one = {keys[edge], edge, index[u], index[(u32)u + flat_step(shape, k)]};
                components.rivals[rivals_of(one, components.most)] = (u32)place;
                list[place++] = one;
            }
        }
}

// The ends of the edges in n_gaps gaps, n_nodes - 1 of each image. Before, the first of a gap's numbers is its edge.
KERNEL grid_ends(u32 n_gaps, u32 n_nodes, const Extents shape, int *gap_edges) {
    FOR_EACH_32(gap, n_gaps) {
        if (gap_edges[2 * (u64)gap] < 0) continue;
        const u32 edge = (u32)gap_edges[2 * (u64)gap], u = edge / N_STEPS - gap / (n_nodes - 1) * n_nodes;
        gap_edges[2 * (u64)gap] = (int)u;
        gap_edges[2 * (u64)gap + 1] = (int)(u + flat_step(shape, (int)(edge % N_STEPS)));
    }
}
