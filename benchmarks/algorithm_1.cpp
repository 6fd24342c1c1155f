// The paper's Algorithm 1 as it is commonly had: a spanning tree by Boruvka's algorithm over a list of
// edges, then one channel at a time over the sorted tree edges, with a union by size that compresses no
// paths and lazy tags that are pushed down at the end. See aproarray/reference.py for the tags.
//
// Written for this benchmark from the description in W. Li et al., "Label-efficient Segmentation via
// Affinity Propagation", NeurIPS 2023.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

namespace {

struct Edge {
    int u, v;
    float weight;
};

int find_halving(std::vector<int>& parent, int node) {
    while (parent[node] != node) {
        parent[node] = parent[parent[node]];
        node = parent[node];
    }
    return node;
}

int find(const std::vector<int>& parent, int node) {
    while (parent[node] != node) node = parent[node];
    return node;
}

std::vector<Edge> pixel_edges(const float* image, int height, int width, int channels) {
    std::vector<Edge> edges;
    edges.reserve(2 * static_cast<std::size_t>(height) * width);
    auto add = [&](int u, int v) {
        float weight = 0;
        for (int c = 0; c < channels; ++c) {
            const float difference = image[u * channels + c] - image[v * channels + c];
            weight += difference * difference;
        }
        edges.push_back({u, v, weight});
    };
    for (int row = 0; row < height; ++row)
        for (int column = 0; column < width; ++column) {
            const int pixel = row * width + column;
            if (column + 1 < width) add(pixel, pixel + 1);
            if (row + 1 < height) add(pixel, pixel + width);
        }
    return edges;
}

}  // namespace

extern "C" {

// Writes the H W - 1 tree edges of an image (H, W, C), in no particular order.
void boruvka_tree(const float* image, int height, int width, int channels, int* tree_edges, float* tree_weights) {
    const std::vector<Edge> edges = pixel_edges(image, height, width, channels);
    const int n_pixels = height * width;
    std::vector<int> parent(n_pixels), size(n_pixels, 1), lightest(n_pixels);
    std::iota(parent.begin(), parent.end(), 0);
    // Ties are broken by the edge's place in the list, without which a round could close a cycle.
    auto lighter = [&](int a, int b) {
        return edges[a].weight < edges[b].weight || (edges[a].weight == edges[b].weight && a < b);
    };
    int taken = 0;
    while (taken < n_pixels - 1) {
        std::fill(lightest.begin(), lightest.end(), -1);
        for (int e = 0; e < static_cast<int>(edges.size()); ++e) {
            const int a = find_halving(parent, edges[e].u), b = find_halving(parent, edges[e].v);
            if (a == b) continue;
            if (lightest[a] < 0 || lighter(e, lightest[a])) lightest[a] = e;
            if (lightest[b] < 0 || lighter(e, lightest[b])) lightest[b] = e;
        }
        for (int node = 0; node < n_pixels; ++node) {
            if (lightest[node] < 0) continue;
            const Edge& edge = edges[lightest[node]];
            int a = find_halving(parent, edge.u), b = find_halving(parent, edge.v);
            if (a == b) continue;
            if (size[a] < size[b]) std::swap(a, b);
            parent[b] = a;
            size[a] += size[b];
            tree_edges[2 * taken] = edge.u;
            tree_edges[2 * taken + 1] = edge.v;
            tree_weights[taken++] = edge.weight;
        }
    }
}

// Propagates one channel phi (N) into y (N).
void algorithm_1(const int* tree_edges, const float* tree_weights, const float* phi, int n_pixels, double zeta,
                 float* y) {
    std::vector<int> by_weight(n_pixels - 1), parent(n_pixels), size(n_pixels, 1);
    std::iota(by_weight.begin(), by_weight.end(), 0);
    std::sort(by_weight.begin(), by_weight.end(), [&](int a, int b) { return tree_weights[a] < tree_weights[b]; });
    std::iota(parent.begin(), parent.end(), 0);
    std::vector<double> total(phi, phi + n_pixels), tag(n_pixels, 0), tag_ones(n_pixels, 0);
    std::vector<int> hung;  // in the order of the merges: a node is hung before its parent is
    hung.reserve(n_pixels);

    const double scale = -1 / (zeta * zeta);
    for (const int e : by_weight) {
        int a = find(parent, tree_edges[2 * e]), b = find(parent, tree_edges[2 * e + 1]);
        if (size[a] < size[b]) std::swap(a, b);
        const double alike = std::exp(scale * tree_weights[e]);
        tag[a] += alike * total[b];
        tag_ones[a] += alike * size[b];
        tag[b] += alike * total[a] - tag[a];
        tag_ones[b] += alike * size[a] - tag_ones[a];
        parent[b] = a;
        total[a] += total[b];
        size[a] += size[b];
        hung.push_back(b);
    }
    for (auto node = hung.rbegin(); node != hung.rend(); ++node) {
        tag[*node] += tag[parent[*node]];
        tag_ones[*node] += tag_ones[parent[*node]];
    }
    for (int node = 0; node < n_pixels; ++node)
        y[node] = static_cast<float>((phi[node] + tag[node]) / (1 + tag_ones[node]));
}
}
