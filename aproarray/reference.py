"""Define every result in plain NumPy and Python, to be read beside the formulas.

All backends are tested against this module, and share no code with it. It is slow: O(N^2) and worse. Images
are ``spatial + (C,)`` arrays. Values are ``(N, C)`` over the flattened pixels. Computations are in float64
unless a function says otherwise.

The paper is W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "algorithm_1",
    "algorithm_a1",
    "edge_weights",
    "global_propagate",
    "linear_order",
    "local_propagate",
    "mean_field",
    "minimax_distances",
    "mst",
    "pairwise_affinity",
    "pamr",
    "path_distances",
    "pixel_graph",
    "tree_filter",
    "tree_filter_v2",
    "window_affinity",
]


def pixel_graph(
    shape: Sequence[int], connectivity: int = 1, mask: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Return the edges ``(E, 2)`` between neighbouring pixels, as pairs u < v of flat C-order indices.

    Two pixels are neighbours if their coordinates differ by at most 1 along every axis, and along at most
    `connectivity` axes. Edges are listed by (u, v): this is the canonical order that breaks ties. With
    `mask`, edges join only pixels where it is True.
    """
    allowed = np.ones(shape, bool) if mask is None else np.asarray(mask)
    pixels = list(np.ndindex(*shape))
    edges = [
        (u, v)
        for u, v in itertools.combinations(range(len(pixels)), 2)
        if max(steps := [abs(a - b) for a, b in zip(pixels[u], pixels[v], strict=True)]) <= 1
        and sum(steps) <= connectivity
        and allowed[pixels[u]]
        and allowed[pixels[v]]
    ]
    return np.array(edges, np.int64).reshape(-1, 2)


def edge_weights(features: ArrayLike, edges: ArrayLike, mask: ArrayLike | None = None) -> NDArray[Any]:
    """Return ``w_uv = |f_u - f_v|^2`` for features ``(N, C)`` (or ``spatial + (C,)``), without a square root.

    The precision is that of the features: float32 for up to 16 bits and float32, float64 above. Channels are
    added in order. The backends order edges by the same weights, bit for bit. A weight below the smallest
    normal number is 0. Differences of 64-bit integers are exact in channels whose range, where the mask is
    True, is at most 2^53. In others the integers are rounded to float64 first.
    """
    exact = np.asarray(features)
    exact = exact.reshape(math.prod(exact.shape[:-1]), exact.shape[-1])
    f = exact.astype(np.result_type(exact.dtype, np.float32))
    if exact.dtype in (np.int64, np.uint64):
        inside = np.ones(len(exact), bool) if mask is None else np.asarray(mask).reshape(-1)
        for channel, numbers in enumerate(exact.T):
            smallest = min(numbers[inside].tolist(), default=0)
            if max(numbers[inside].tolist(), default=0) - smallest <= 2**53:
                f[:, channel] = [number - smallest for number in numbers.tolist()]
    u, v = np.asarray(edges).reshape(-1, 2).T
    w = np.zeros(len(u), f.dtype)
    for channel in range(f.shape[1]):
        difference = f[u, channel] - f[v, channel]
        w = w + difference * difference
    w[w < np.finfo(f.dtype).tiny] = 0
    return w


def mst(edges: ArrayLike, weights: ArrayLike, n_nodes: int) -> NDArray[np.intp]:
    """Return the rows of `edges` in the minimum spanning forest, in the order in which Kruskal takes them.

    Edges are ordered by (weight, lower endpoint, higher endpoint).
    """
    ends = np.sort(np.asarray(edges).reshape(-1, 2), axis=1)
    component = list(range(n_nodes))
    taken = []
    for row in np.lexsort((ends[:, 1], ends[:, 0], np.asarray(weights))):
        u, v = (component[end] for end in ends[row])
        if u != v:
            component = [u if c == v else c for c in component]
            taken.append(row)
    return np.array(taken, np.intp)


def linear_order(
    tree_edges: ArrayLike, tree_weights: ArrayLike, n_nodes: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Return ``order`` (N,), ``gaps`` (N-1,) and each gap's edge (N-1,): the tree laid out on a line.

    Tree edges come lightest first. Each edge merges two lists of pixels. The list that holds the smaller
    pixel index goes first, and the weight is written in the gap between them. The trees of a forest follow
    one another by their smallest pixels, with a gap of inf between them. The minimax distance of two pixels
    is the largest gap between their positions. A gap's edge is a row of `tree_edges`, or -1.
    """
    line = {node: [node] for node in range(n_nodes)}  # by the smallest node, which is also the first
    gap_before = dict.fromkeys(range(n_nodes), (math.inf, -1))
    member = list(range(n_nodes))
    for row, ((u, v), weight) in enumerate(
        zip(np.asarray(tree_edges).reshape(-1, 2), np.asarray(tree_weights), strict=True)
    ):
        left, right = sorted((member[u], member[v]))
        gap_before[right] = float(weight), row
        for node in line[right]:
            member[node] = left
        line[left] += line.pop(right)
    order = [node for first in sorted(line) for node in line[first]]
    gaps = [gap_before[node][0] for node in order[1:]]
    rows = [gap_before[node][1] for node in order[1:]]
    return np.array(order, np.int64), np.array(gaps, np.float64), np.array(rows, np.int64)


def minimax_distances(tree_edges: ArrayLike, tree_weights: ArrayLike, n_nodes: int) -> NDArray[np.float64]:
    """Return d (N, N): d_ij is the largest weight on the tree path from i to j (inf: no path)."""
    return _along_paths(tree_edges, tree_weights, n_nodes, max)


def path_distances(tree_edges: ArrayLike, tree_weights: ArrayLike, n_nodes: int) -> NDArray[np.float64]:
    """Return d (N, N): d_ij is the sum of the weights on the tree path from i to j (inf: no path)."""
    return _along_paths(tree_edges, tree_weights, n_nodes, operator.add)


def _along_paths(
    tree_edges: ArrayLike,
    tree_weights: ArrayLike,
    n_nodes: int,
    longer: Callable[[float, float], float],
) -> NDArray[np.float64]:
    neighbours: list[list[tuple[int, float]]] = [[] for _ in range(n_nodes)]
    for (u, v), weight in zip(np.asarray(tree_edges).reshape(-1, 2), np.asarray(tree_weights), strict=True):
        neighbours[u].append((v, float(weight)))
        neighbours[v].append((u, float(weight)))
    d = np.full((n_nodes, n_nodes), np.inf)
    for source in range(n_nodes):
        d[source, source] = 0
        stack = [source]
        while stack:
            here = stack.pop()
            for there, weight in neighbours[here]:
                if np.isinf(d[source, there]):
                    d[source, there] = longer(d[source, here], weight)
                    stack.append(there)
    return d


def global_propagate(values: ArrayLike, distances: ArrayLike, zeta: float) -> NDArray[np.float64]:
    """Return ``y_ic = sum_j K_ij phi_jc / z_i``, ``K_ij = exp(-d_ij / zeta^2)``, ``z_i = sum_j K_ij``."""
    affinity = np.exp(-np.asarray(distances, np.float64) / float(zeta) ** 2)
    result: NDArray[np.float64] = affinity @ np.asarray(values, np.float64) / affinity.sum(1)[:, None]
    return result


def tree_filter(
    tree_edges: ArrayLike, tree_weights: ArrayLike, values: ArrayLike, zeta: float
) -> NDArray[np.float64]:
    """Return ``y_ic = sum_j S_ij phi_jc / sum_j S_ij``, ``S_ij = exp(-d_ij / zeta^2)`` of `path_distances`.

    Global propagation takes the maximum of a path's weights, this filter their sum (Song et al., NeurIPS
    2019).
    """
    return global_propagate(values, path_distances(tree_edges, tree_weights, len(np.asarray(values))), zeta)


def tree_filter_v2(
    tree_edges: ArrayLike,
    tree_weights: ArrayLike,
    values: ArrayLike,
    confidence: ArrayLike,
    zeta: float,
    beta: float,
    gamma: float,
) -> NDArray[np.float64]:
    """Return ``y = x + gamma F(c x) / (1e-8 + F(c))``, for values x (N, C) and their confidence c (N,).

    F sums with the affinities S. S_ij is the product of ``exp(-beta^2 - w / zeta^2)`` over the path's edges,
    and ``S_ii = exp(-beta^2)`` (Song et al., NeurIPS 2020).
    """
    x, c = np.asarray(values, np.float64), np.asarray(confidence, np.float64)[:, None]
    weights = np.asarray(tree_weights, np.float64) / float(zeta) ** 2 + beta**2
    affinity = np.exp(-path_distances(tree_edges, weights, len(x)))
    np.fill_diagonal(affinity, math.exp(-(beta**2)))
    result: NDArray[np.float64] = x + gamma * (affinity @ (c * x)) / (1e-8 + affinity @ c)
    return result


def window_affinity(
    image: ArrayLike, zeta: float, kernel_size: int, mask: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return W (N, N): ``W_ij = exp(-|I_i - I_j|^2 / zeta^2)`` inside the window, 0 elsewhere.

    The window has `kernel_size` pixels along every axis, its centre included. A pixel where `mask` is False
    has an affinity only to itself.
    """
    image = np.asarray(image, np.float64)
    shape, flat = image.shape[:-1], image.reshape(math.prod(image.shape[:-1]), image.shape[-1])
    position = np.array(list(np.ndindex(*shape))).reshape(-1, len(shape))
    inside = (np.abs(position[:, None] - position[None]) <= kernel_size // 2).all(-1)
    allowed = np.ones(len(flat), bool) if mask is None else np.asarray(mask).ravel()
    inside &= allowed[:, None] & allowed[None]
    np.fill_diagonal(inside, True)
    distances = ((flat[:, None] - flat[None]) ** 2).sum(-1)
    return np.where(inside, np.exp(-distances / float(zeta) ** 2), 0.0)


def local_propagate(
    values: ArrayLike,
    image: ArrayLike,
    zeta: float,
    kernel_size: int,
    iterations: int,
    mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return phi after `iterations` steps of ``phi <- (W phi) / (W 1)``."""
    affinity = window_affinity(image, zeta, kernel_size, mask)
    affinity = affinity / affinity.sum(1)[:, None]
    phi = np.asarray(values, np.float64)
    for _ in range(iterations):
        phi = affinity @ phi
    return phi


def mean_field(
    values: ArrayLike,
    image: ArrayLike,
    zeta: float,
    kernel_size: int,
    iterations: int,
    mask: ArrayLike | None = None,
    region: ArrayLike = 1.0,
) -> NDArray[np.float64]:
    """Return the foreground after steps of ``q_i <- exp(sum_j K_ij log q_j)``.

    ``K_ij = exp(-|I_i - I_j|^2 / (2 zeta^2))``. Each step then multiplies the foreground by its region,
    divides foreground and background by their sum plus 1e-6, and clips both to [0.1, 0.9]. Both are also
    clipped at the start (Lan et al., CVPR 2023).
    """
    affinity = window_affinity(image, zeta * math.sqrt(2), kernel_size, mask)
    foreground = np.clip(np.asarray(values, np.float64), 0.1, 0.9)
    background = np.clip(1 - np.asarray(values, np.float64), 0.1, 0.9)
    for _ in range(iterations):
        foreground, background = (np.exp(affinity @ np.log(q)) for q in (foreground, background))
        foreground = foreground * np.asarray(region)
        total = foreground + background + 1e-6
        foreground, background = (np.clip(q / total, 0.1, 0.9) for q in (foreground, background))
    return foreground


def pamr(
    values: ArrayLike, image: ArrayLike, dilations: Sequence[int], iterations: int
) -> NDArray[np.float64]:
    """Return phi after steps of ``phi_i <- sum_j a_ij phi_j`` over the neighbours of dilated windows.

    ``a_i = softmax_j(mean_c(-|I_ic - I_jc| / (1e-8 + 0.1 sd_ic)))``. sd is the sample standard deviation of
    the neighbours and of the centre, which counts once for every dilation. A neighbour outside the image is
    replaced by the border pixel nearest along each axis (Araslanov and Roth, CVPR 2020).
    """
    image = np.asarray(image, np.float64)
    shape, flat = image.shape[:-1], image.reshape(math.prod(image.shape[:-1]), image.shape[-1])
    phi = np.asarray(values, np.float64)
    affinity = np.zeros((len(flat), len(flat)))
    steps = list(itertools.product((-1, 0, 1), repeat=len(shape)))
    for i, position in enumerate(np.ndindex(*shape)):
        sampled = [
            (any(step), np.ravel_multi_index(tuple(np.array(position) + d * np.array(step)), shape, "clip"))
            for d in dilations
            for step in steps
        ]
        neighbours = [j for off_centre, j in sampled if off_centre]
        deviation = flat[[j for _, j in sampled]].std(0, ddof=1)
        logits = -(np.abs(flat[i] - flat[neighbours]) / (1e-8 + 0.1 * deviation)).mean(1)
        weights = np.exp(logits - logits.max())
        np.add.at(affinity[i], neighbours, weights / weights.sum())
    for _ in range(iterations):
        phi = affinity @ phi
    return phi


def pairwise_affinity(
    image: ArrayLike, theta: float, kernel_size: int, dilation: int, mask: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return ``exp(-|I_i - I_j| / theta)`` (N, K) for the neighbours j in a dilated window, 0 where none is.

    Neighbours come in lexicographic order of the steps to them (Tian et al., CVPR 2021).
    """
    image = np.asarray(image, np.float64)
    shape = image.shape[:-1]
    allowed = np.ones(shape, bool) if mask is None else np.asarray(mask)
    radius = kernel_size // 2
    steps = [s for s in itertools.product(range(-radius, radius + 1), repeat=len(shape)) if any(s)]
    affinity = np.zeros((math.prod(shape), len(steps)))
    for i, here in enumerate(np.ndindex(*shape)):
        for k, step in enumerate(steps):
            there = tuple(a + dilation * b for a, b in zip(here, step, strict=True))
            inside = all(0 <= a < extent for a, extent in zip(there, shape, strict=True))
            if inside and allowed[here] and allowed[there]:
                affinity[i, k] = math.exp(-np.linalg.norm(image[here] - image[there]) / theta)
    return affinity


def algorithm_1(
    tree_edges: ArrayLike, tree_weights: ArrayLike, values: ArrayLike, zeta: float
) -> NDArray[Any]:
    """Return GP of one channel (N,) by the paper's Algorithm 1, step by step.

    Tree edges are taken lightest first. Every node of the union-find carries a *lazy tag*: a number that is
    added to the sums of all its members later. When the components a and b meet over an edge of weight w,
    every pixel of a gains exp(-w/zeta^2) times b's sum, and every pixel of b gains exp(-w/zeta^2) times a's
    sum. The smaller component is hung under the larger (union by size). From then on, it also inherits the
    larger one's tag. This tag is therefore subtracted from its own first.
    """
    phi = np.asarray(values, np.float64)
    n = len(phi)
    parent, size = list(range(n)), [1] * n
    total = phi.tolist()  # the sum of phi over a root's component
    tag, tag_ones = [0.0] * n, [0.0] * n  # the lazy tags of y's numerator and of z

    edges, weights = np.asarray(tree_edges).reshape(-1, 2), np.asarray(tree_weights, np.float64)
    for row in np.argsort(weights, kind="stable"):
        a = algorithm_a1(int(edges[row, 0]), parent, tag, tag_ones)
        b = algorithm_a1(int(edges[row, 1]), parent, tag, tag_ones)
        if size[a] < size[b]:
            a, b = b, a
        alike = math.exp(-weights[row] / float(zeta) ** 2)
        tag[a], tag[b] = tag[a] + alike * total[b], tag[b] + alike * total[a]
        tag_ones[a], tag_ones[b] = tag_ones[a] + alike * size[b], tag_ones[b] + alike * size[a]
        tag[b] -= tag[a]
        tag_ones[b] -= tag_ones[a]
        parent[b] = a
        total[a] += total[b]
        size[a] += size[b]

    y = np.empty(n)
    for node in range(n):
        root = algorithm_a1(node, parent, tag, tag_ones)
        gained, gained_ones = tag[node], tag_ones[node]
        if root != node:
            gained, gained_ones = gained + tag[root], gained_ones + tag_ones[root]
        y[node] = (phi[node] + gained) / (1 + gained_ones)
    return y


def algorithm_a1(node: int, parent: list[int], *tags: list[float]) -> int:
    """Return the root of `node`, compressing the path to it (the paper's Algorithm A1).

    Every node on the path is hung directly under the root. The tags of the ancestors that it no longer passes
    are added to its own.
    """
    path = []
    while parent[node] != node:
        path.append(node)
        node = parent[node]
    for below, above in zip(reversed(path[:-1]), reversed(path[1:]), strict=True):
        for tag in tags:
            tag[below] += tag[above]
        parent[below] = node
    return node
