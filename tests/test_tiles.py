"""Trees of images larger than a tile, whose merges are partly put off: against Kruskal, entry for entry."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import aproarray
from aproarray.cpu import _mst, _processor, _sweep, _trees, _workers


def kruskal(image, connectivity, mask):
    """Return order, gaps and gap_edges by Kruskal's algorithm on linked lists, in plain Python."""
    shape, n = image.shape[:-1], image[..., 0].size
    flat = image.reshape(n, -1)
    pixel = np.arange(n).reshape(shape)
    ends = []
    for step in np.ndindex(*(3,) * len(shape)):
        step = np.array(step) - 1
        if tuple(step) > (0,) * len(shape) and np.abs(step).sum() <= connectivity:
            here = tuple(slice(max(0, -d), extent - max(0, d)) for d, extent in zip(step, shape, strict=True))
            there = tuple(
                slice(max(0, d), extent - max(0, -d)) for d, extent in zip(step, shape, strict=True)
            )
            ends.append(np.stack([pixel[here].ravel(), pixel[there].ravel()], axis=1))
    ends = np.concatenate(ends)
    if mask is not None:
        ends = ends[mask.ravel()[ends].all(1)]
    weights = np.zeros(len(ends), flat.dtype)
    for channel in flat.T:
        weights = weights + (channel[ends[:, 0]] - channel[ends[:, 1]]) ** 2
    by_weight = np.lexsort((ends[:, 1], ends[:, 0], weights))

    parent, tail = list(range(n)), list(range(n))
    link = {}

    def find(node):
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for (u, v), weight in zip(ends[by_weight].tolist(), weights[by_weight].tolist(), strict=True):
        a, b = sorted((find(u), find(v)))
        if a != b:
            link[tail[a]] = (b, weight, (u, v))
            tail[a], parent[b] = tail[b], a

    order, gaps, gap_edges = [], [], []
    for root in range(n):
        if parent[root] == root:
            if order:
                gaps.append(np.inf)
                gap_edges.append((-1, -1))
            order.append(root)
            while order[-1] in link:
                node, weight, edge = link[order[-1]]
                order.append(node)
                gaps.append(weight)
                gap_edges.append(edge)
    return np.array(order), np.array(gaps, flat.dtype), np.array(gap_edges)


def spiral(shape):
    """A corridor that winds inwards, rising gently: the tree's path along it visits every tile many times."""
    length = np.zeros(shape)  # from the corridor's mouth, 0 on its walls
    place, direction, n = np.array([0, 0]), np.array([0, 1]), 0

    def is_free(cell):
        return (cell >= 0).all() and (cell < shape).all() and length[tuple(cell)] == 0

    def is_wall_behind(cell):  # the cell beyond is not part of the corridor
        return not ((cell >= 0).all() and (cell < shape).all()) or length[tuple(cell)] == 0

    while True:
        n += 1
        length[tuple(place)] = n
        for _ in range(2):
            if is_free(place + direction) and is_wall_behind(place + 2 * direction):
                break
            direction = np.array([direction[1], -direction[0]])  # turn right
        else:
            return np.where(length > 0, 10 + np.sqrt(length), 0)
        place = place + direction


def pictures(shape):
    """Return images of a shape that are easy, tied, or as bad as they get."""
    rng = np.random.default_rng(sum(shape))
    index = np.indices(shape)
    ramp = np.cumsum(np.arange(np.prod(shape), dtype=float)).reshape(shape) * 1e-6
    serpentine = index[0] * shape[-1] + np.where(index[0] % 2, shape[-1] - 1 - index[-1], index[-1])
    heavy = np.zeros(shape)
    heavy[..., shape[-1] // 2 :] = 1
    return {
        "noise": rng.random((*shape, 2)),
        "ties": rng.integers(0, 3, (*shape, 3)).astype(float),
        "flat": np.zeros(shape),
        "checkerboard": index.sum(0) % 2.0,
        "ramp": ramp,
        "falling ramp": np.flip(ramp),
        "serpentine": np.sqrt(serpentine.astype(float)),
        "spiral": spiral(shape) if len(shape) == 2 else ramp,
        "one heavy edge": heavy,
    }


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("shape", "connectivity"),
    [
        ((64, 64), 1), ((65, 64), 1), ((64, 65), 1), ((63, 130), 1), ((129, 66), 2), ((150, 3), 1),
        ((3, 150), 2),
        ((18, 17, 33), 1), ((17, 16, 16), 3), ((6000,), 1), ((3, 9, 10, 9), 2),
    ],
)  # fmt: skip
def test_tiles_give_kruskals_line(shape, connectivity, masked, monkeypatch):
    monkeypatch.setattr(_trees, "_UNTILED_PIXELS", (0, 0))
    monkeypatch.setattr(_trees, "_TILE_BITS", 12)
    mask = np.random.default_rng(1).random(shape) < 0.8 if masked else None
    for name, image in pictures(shape).items():
        image = image.reshape(*shape, -1).astype(np.float32 if masked else np.float64)
        order, gaps, gap_edges = kruskal(image, connectivity, mask)
        for workers in (1, 3):
            tree = aproarray.mst(
                image, spatial_ndim=len(shape), connectivity=connectivity, mask=mask, workers=workers
            )
            np.testing.assert_array_equal(tree.order, order, err_msg=name)
            np.testing.assert_array_equal(tree.gaps, gaps, err_msg=name)
            np.testing.assert_array_equal(tree.gap_edges, gap_edges, err_msg=name)


def test_tiles_do_not_change_a_tree(monkeypatch):
    image = np.random.default_rng(0).integers(0, 5, (200, 300, 3), np.uint8)
    whole = aproarray.mst(image, workers=1)
    monkeypatch.setattr(_trees, "_UNTILED_PIXELS", (0, 0))
    for bits in (0, 2, 7, 12, _trees._TILE_BITS, 20):
        monkeypatch.setattr(_trees, "_TILE_BITS", bits)
        assert aproarray.mst(image, workers=1) == whole
        assert aproarray.mst(image, workers=5) == whole


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("connectivity", [1, 2])
def test_sorting_and_numbering_in_ranges_do_not_change_a_tree(dtype, connectivity, monkeypatch):
    image = np.random.default_rng(0).integers(0, 200, (150, 130, 2)).astype(dtype)
    whole = aproarray.mst(image, connectivity=connectivity, workers=1)
    monkeypatch.setattr(_workers, "STEP", 1 << 10)  # ranges are as small as many threads' of a large image
    monkeypatch.setattr(_trees, "_TILE_BITS", 10)
    for untiled in (0, image.size):
        monkeypatch.setattr(_trees, "_UNTILED_PIXELS", (untiled, untiled))
        for workers in (1, 3):
            assert aproarray.mst(image, connectivity=connectivity, workers=workers) == whole


@pytest.mark.skipif(not _sweep.has_avx2(), reason="this processor has no AVX2")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("shape", "connectivity"),
    [((1, 1), 1), ((1, 9), 1), ((9, 1), 2), ((2, 2), 2), ((30, 41), 1), ((65, 96), 1), ((37, 33), 2),
     ((2, 2, 2), 3), ((9, 10, 11), 1), ((500,), 1)],
)  # fmt: skip
def test_trees_of_vector_code_are_those_of_code_for_any_processor(shape, connectivity, masked, monkeypatch):
    mask = np.random.default_rng(2).random(shape) < 0.7 if masked else None
    for name, image in pictures(shape).items():
        image = image.reshape(*shape, -1)
        for dtype in (np.float32, np.float64):
            options = {
                "spatial_ndim": len(shape),
                "connectivity": min(connectivity, len(shape)),
                "mask": mask,
            }
            trees = []
            for suffix in ("", "_avx2"):
                for topic, module in (("weighing", "_weigh"), ("tiles", "_tiles")):
                    code = importlib.import_module(f"aproarray.cpu.{module}{suffix}")
                    monkeypatch.setattr(_processor, topic, code)
                for untiled in (1 << 19, 0):
                    monkeypatch.setattr(_trees, "_UNTILED_PIXELS", (untiled, untiled))
                    monkeypatch.setattr(_trees, "_TILE_BITS", 8)
                    trees.append(aproarray.mst(image.astype(dtype), **options))
            for tree in trees[1:]:
                assert tree == trees[0], (name, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "levels",
    [
        [0],
        [3],
        [0, 1],
        [0, 1, 195_075],
        range(256),
        [0, 2.0**-126, 2.0**127],
        [2.0**-126, 1, np.inf],
        [1, 1 + 2.0**-23, 2 - 2.0**-23],
        [0.1, 0.1000001, 1e-30, 1e30],
    ],
    ids=str,
)
def test_edges_are_sorted_by_any_weights_and_stably(dtype, levels):
    rng = np.random.default_rng(0)
    weights = rng.choice(np.array(list(levels), dtype), 700)
    expected = np.argsort(weights, kind="stable")
    rows = np.empty(len(weights), np.intp)
    _mst.sort_by_weight(weights, rows)
    np.testing.assert_array_equal(rows, expected)
    # As 32-bit items: a star, whose edges all merge something.
    weights = weights[np.isfinite(weights)]
    ends = np.stack([np.zeros(len(weights), int), 1 + np.arange(len(weights))], axis=1)
    tree = aproarray.SpanningTree.from_edges(ends, weights, len(weights) + 1)
    np.testing.assert_array_equal(tree.order[1:], 1 + np.argsort(weights, kind="stable"))
    np.testing.assert_array_equal(tree.gaps, np.sort(weights))
