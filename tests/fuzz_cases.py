"""What `tests.fuzz` runs: each case draws a call from random numbers and compares it with its definition.

A case is a function of a random generator, and names the public functions that it calls. It raises an
AssertionError where a result is wrong. Definitions are those of `aproarray.reference`, or stand in the case.
Images are small, since the definitions take O(N^2) time, but of any dtype, layout, mask and batch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from strategies import DTYPES, LAYOUTS, Array, Picture, assert_is_tree, levels

import aproarray
from aproarray import SpanningTree, reference, related

Generator = np.random.Generator

CASES: dict[str, Callable[[Generator], None]] = {}
COVERED: dict[str, set[str]] = {}
"""The public functions that each case calls."""


def case(*covered: str) -> Callable[[Callable[[Generator], None]], Callable[[Generator], None]]:
    def add(function: Callable[[Generator], None]) -> Callable[[Generator], None]:
        CASES[function.__name__] = function
        COVERED[function.__name__] = set(covered)
        return function

    return add


def some_shape(rng: Generator, most: int = 60) -> tuple[int, ...]:
    """Return 1 to 3 extents of at most `most` pixels in all."""
    ndim = int(rng.integers(1, 4))
    while True:
        shape = tuple(int(n) for n in rng.integers(1, (most, 11, 6)[ndim - 1] + 1, ndim))
        if math.prod(shape) <= most:
            return shape


def some_numbers(rng: Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return few levels with many ties, noise, or a ramp with steps."""
    kind = rng.integers(3)
    if kind == 0 or dtype.kind == "b":
        palette = rng.choice(np.array(levels(dtype), dtype), rng.integers(1, 5))
        return rng.choice(palette, shape)
    if kind == 1:
        if dtype.kind == "f":
            return (rng.random(shape) * 10.0 ** rng.integers(-3, 3)).astype(dtype)
        return rng.integers(0, 100, shape).astype(dtype)
    ramp = np.arange(math.prod(shape)).reshape(shape) // rng.integers(1, 9) % 50
    return ramp.astype(dtype)


def laid_out(rng: Generator, array: Array) -> Array:
    """Return the same numbers, otherwise laid out in memory."""
    return LAYOUTS[rng.choice(list(LAYOUTS))](array) if rng.random() < 0.5 else array


def some_picture(rng: Generator, dtypes: list[np.dtype[Any]] = DTYPES, most: int = 60) -> Picture:
    shape = some_shape(rng, most)
    image = some_numbers(rng, (*shape, int(rng.integers(1, 5))), dtypes[rng.integers(len(dtypes))])
    mask = rng.random(shape) < rng.choice([0.3, 0.8, 1.0]) if rng.random() < 0.4 else None
    return Picture(image, mask, int(rng.integers(1, len(shape) + 1)))


def some_values(rng: Generator, shape: tuple[int, ...], dtype: Any = None) -> Array:
    """Return seeds, scores or numbers of both signs."""
    dtype = rng.choice(["f4", "f8"]) if dtype is None else dtype
    values = rng.normal(size=shape) if rng.random() < 0.5 else rng.random(shape)
    return (values * (rng.random(shape) < rng.choice([0.1, 1.0])) * 10.0 ** rng.integers(-2, 3)).astype(dtype)


def some_zeta(rng: Generator) -> float:
    return float(10.0 ** rng.uniform(-3, 3))


def one_of(rng: Generator, *choices: Any) -> Any:
    return choices[rng.integers(len(choices))]


def assert_near(result: Array, expected: Array, scale: Array, tolerance: float) -> None:
    """Compare, relative to the sum of the magnitudes that a result is the sum of."""
    assert result.shape == expected.shape, (result.shape, expected.shape)
    error = np.abs(result.astype(np.float64) - expected)
    allowed = tolerance * scale + 1e-300
    if result.dtype == np.float32:
        allowed = allowed + np.finfo(np.float32).tiny
    assert (error <= allowed).all(), f"off by {(error / allowed).max():.3g} times the tolerance"


def tolerance_of(result: Array) -> float:
    return 2e-6 if result.dtype == np.float32 else 1e-11


def same(a: Array, b: Array) -> None:
    """Compare bit for bit, NaN and all."""
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def channels_at(rng: Generator, *arrays: Array) -> tuple[tuple[Array, ...], int]:
    """Return arrays with their last axis elsewhere, and where."""
    axis = int(rng.integers(arrays[0].ndim))
    return tuple(np.moveaxis(array, -1, axis) for array in arrays), axis


@case("mst", "SpanningTree", "release_memory")
def trees_of_images(rng: Generator) -> None:
    picture = some_picture(rng)
    if rng.random() < 0.1:
        aproarray.release_memory()
    options = {"spatial_ndim": len(picture.shape), "connectivity": picture.connectivity}
    (image,), axis = channels_at(rng, picture.image)
    tree = aproarray.mst(
        laid_out(rng, image), channel_axis=axis, mask=picture.mask, workers=int(rng.integers(1, 4)), **options
    )
    assert_is_tree(tree, *picture.reference_tree(), picture.n_nodes)
    other = some_numbers(rng, picture.image.shape, picture.image.dtype)
    batch = aproarray.mst(np.stack([other, picture.image]), channel_axis=-1, mask=picture.mask, **options)
    assert batch[1] == tree
    assert batch[0] == aproarray.mst(other, channel_axis=-1, mask=picture.mask, **options)


@case("SpanningTree")
def trees_of_edges(rng: Generator) -> None:
    n = int(rng.integers(1, 20))
    edges = rng.integers(0, n, (rng.integers(0, 40), 2))
    weights = rng.choice([0.0, 0.5, 1.0, 7.0, rng.random()], len(edges)).astype(one_of(rng, "f4", "f8"))
    tree = SpanningTree.from_edges(laid_out(rng, edges), laid_out(rng, weights), n)
    ends = np.sort(edges, 1)
    rows = reference.mst(ends, weights, n)
    assert_is_tree(tree, ends[rows], weights[rows], n)


@case("SpanningTree")
def questions_to_trees(rng: Generator) -> None:
    picture = some_picture(rng)
    tree, n = picture.tree(), picture.n_nodes
    distances = picture.distances()
    i, j = rng.integers(0, n, (2, 30))
    np.testing.assert_array_equal(tree.minimax(i, j), distances[i, j].astype(tree.weights.dtype))
    where = tuple(int(k) for k in np.unravel_index(i[0], picture.shape))
    zeta = some_zeta(rng)
    if picture.mask is None or picture.mask[where]:
        expected = np.exp(-distances[i[0]] / zeta**2).reshape(picture.shape)
        np.testing.assert_allclose(tree.affinity(where, zeta), expected, rtol=1e-5, atol=1e-37)
    finite = distances[np.isfinite(distances)]
    threshold = float(rng.choice(finite))
    joined = distances <= threshold
    labels = np.zeros(n, int)
    for pixel in range(n):
        if (picture.mask is None or picture.mask.flat[pixel]) and not labels[pixel]:
            labels[joined[pixel]] = labels.max() + 1
    np.testing.assert_array_equal(tree.cut(threshold).ravel(), labels)
    few = int(rng.integers(2, 6))
    coarse = tree.cut(threshold, min_size=few).ravel()
    for label in range(1, labels.max() + 1):  # zones are joined, never parted
        assert len(set(coarse[labels == label].tolist())) == 1
    whole = np.isfinite(distances)
    for pixel in np.flatnonzero(coarse):
        assert (coarse == coarse[pixel]).sum() >= min(few, whole[pixel].sum())


@case("SpanningTree")
def linkage_of_trees(rng: Generator) -> None:
    picture = some_picture(rng)._replace(mask=None)
    if picture.n_nodes < 2:
        return
    distances, n = picture.distances(), picture.n_nodes
    members: list[list[int]] = [[pixel] for pixel in range(n)]
    for a, b, height, size in picture.tree().to_linkage():
        left, right = members[int(a)], members[int(b)]
        assert a < b
        assert (distances[np.ix_(left, right)] == height).all()
        members.append(left + right)
        assert len(members[-1]) == size
    assert len(members) == 2 * n - 1


@case("global_propagate", "SpanningTree")
def global_propagation(rng: Generator) -> None:
    picture = some_picture(rng)
    tree, n = picture.tree(), picture.n_nodes
    values = some_values(rng, (*picture.shape, int(rng.integers(1, 40))))
    zetas = [some_zeta(rng) for _ in range(rng.integers(1, 3))]
    distances, options = picture.distances(), {}
    if rng.random() < 0.3:
        features = some_numbers(rng, (*picture.shape, 2), np.dtype(one_of(rng, "f4", "f8")))
        edges, _ = picture.reference_tree()
        distances = reference.minimax_distances(edges, reference.edge_weights(features, edges), n)
        (moved, features), axis = channels_at(rng, values, features)
        options["features"] = features
    else:
        (moved,), axis = channels_at(rng, values)
    result = aproarray.global_propagate(
        laid_out(rng, moved), tree, zeta=zetas, channel_axis=axis, workers=int(rng.integers(1, 4)), **options
    )
    for k, zeta in enumerate(zetas):
        expected = reference.global_propagate(values.reshape(n, -1), distances, zeta)
        scale = reference.global_propagate(np.abs(values).reshape(n, -1), distances, zeta)
        ours = np.moveaxis(result[k], axis, -1).reshape(n, -1)
        inside = slice(None) if picture.mask is None else picture.mask.ravel()
        assert_near(ours[inside], expected[inside], scale[inside], tolerance_of(values))
        if picture.mask is not None:
            same(ours[~inside], values.reshape(n, -1)[~inside])
    column = int(rng.integers(values.shape[-1]))
    alone = aproarray.global_propagate(values[..., column], tree, zeta=zetas[0], **{
        name: np.moveaxis(array, axis, -1) for name, array in options.items()
    })  # fmt: skip
    same(alone, np.ascontiguousarray(np.moveaxis(result[0], axis, -1)[..., column]))


@case("global_propagate", "mst")
def masks_of_a_batch(rng: Generator) -> None:
    shape = (int(rng.integers(1, 7)), int(rng.integers(1, 7)))
    images = some_numbers(rng, (3, *shape, 2), np.dtype("f4"))
    trees = aproarray.mst(images, channel_axis=-1)
    masks, of = some_values(rng, (5, *shape)), rng.integers(0, 3, 5)
    zeta = some_zeta(rng)
    result = aproarray.global_propagate(masks, trees, zeta=zeta, tree_index=of, channel_axis=None)
    for mask, tree, ours in zip(masks, of, result, strict=True):
        same(aproarray.global_propagate(mask, trees[int(tree)], zeta=zeta, channel_axis=None), ours)


SMALL = [dtype for dtype in DTYPES if dtype.itemsize < 4 or dtype.kind == "f"]
"""Dtypes whose levels float64 holds exactly, and whose squares it can add up."""


@case("local_propagate")
def local_propagation(rng: Generator) -> None:
    picture = some_picture(rng, SMALL)
    image, n = picture.image, picture.n_nodes
    values = some_values(rng, (*picture.shape, int(rng.integers(1, 12))))
    zeta, size, steps = some_zeta(rng), int(one_of(rng, 1, 3, 5, 7)), int(rng.integers(0, 7))
    (moved, other), axis = channels_at(rng, values, image)
    result = aproarray.local_propagate(
        laid_out(rng, moved), laid_out(rng, other), zeta=zeta, kernel_size=size, iterations=steps,
        mask=picture.mask, channel_axis=axis, spatial_ndim=len(picture.shape),
        workers=int(rng.integers(1, 4)),
    )  # fmt: skip
    flat = values.reshape(n, -1)
    options = {"zeta": zeta, "kernel_size": size, "iterations": steps, "mask": picture.mask}
    expected = reference.local_propagate(flat, image, **options)
    scale = reference.local_propagate(np.abs(flat), image, **options)
    # Distances are rounded in the image's or values' precision, and stand in an exponent of up to some 100.
    single = result.dtype == np.float32 or image.dtype.itemsize < 8
    inside = slice(None) if picture.mask is None else picture.mask.ravel()
    ours = np.moveaxis(result, axis, -1).reshape(n, -1)
    largest = scale.max(initial=0) if single else scale  # weights of nearly 0 have few digits in float32
    assert_near(
        ours[inside], expected[inside], largest if single else scale[inside], 3e-5 if single else 1e-10
    )
    if picture.mask is not None:
        same(ours[~inside], flat[~inside])


@case("tree_filter", "tree_filter_v2")
def tree_filters(rng: Generator) -> None:
    picture = some_picture(rng, [np.dtype("f4"), np.dtype("f8"), np.dtype("u1")])
    tree, n = picture.tree(), picture.n_nodes
    edges, weights = picture.reference_tree()
    values = some_values(rng, (*picture.shape, int(rng.integers(1, 20))), "f8")
    flat, zeta = values.reshape(n, -1), some_zeta(rng)
    inside = np.ones(n, bool) if picture.mask is None else picture.mask.ravel()
    result = related.tree_filter(laid_out(rng, values), tree, zeta=zeta, workers=2).reshape(n, -1)
    expected = reference.tree_filter(edges, weights, flat, zeta)
    scale = reference.tree_filter(edges, weights, np.abs(flat), zeta)
    assert_near(result[inside], expected[inside], scale[inside], 1e-10)
    confidence = rng.random(picture.shape)
    beta, gamma = float(rng.uniform(0, 1)), float(rng.uniform(-1, 2))
    result = related.tree_filter_v2(
        values, tree, beta=beta, gamma=gamma, confidence=confidence, zeta=zeta
    ).reshape(n, -1)
    options = (confidence.ravel(), zeta, beta, gamma)
    expected = reference.tree_filter_v2(edges, weights, flat, *options)
    scale = np.abs(flat) + abs(gamma) * reference.tree_filter_v2(
        edges, weights, np.abs(flat), *options[:3], 1.0
    )
    assert_near(result[inside], expected[inside], scale[inside], 1e-10)


@case("mean_field", "pamr", "pairwise_affinity")
def related_windows(rng: Generator) -> None:
    shape = some_shape(rng, 40)
    n, ndim = math.prod(shape), len(shape)
    image = some_numbers(rng, (*shape, 3), np.dtype("f8")) if rng.random() < 0.5 else rng.random((*shape, 3))
    mask = rng.random(shape) < 0.8 if rng.random() < 0.5 else None
    theta, size, dilation = some_zeta(rng), int(one_of(rng, 1, 3, 5)), int(rng.integers(1, 4))
    result = related.pairwise_affinity(
        laid_out(rng, image), theta=theta, kernel_size=size, dilation=dilation, mask=mask, spatial_ndim=ndim,
        channel_axis=-1,
    )  # fmt: skip
    expected = reference.pairwise_affinity(image, theta, size, dilation, mask)
    np.testing.assert_allclose(result.reshape(expected.shape), expected, rtol=1e-9, atol=1e-300)

    values = rng.random((*shape, 2))
    steps, zeta = int(rng.integers(0, 4)), float(rng.uniform(0.1, 2))
    result = related.mean_field(
        values,
        image,
        zeta=zeta,
        kernel_size=3,
        iterations=steps,
        mask=mask,
        spatial_ndim=ndim,
        channel_axis=-1,
    )
    expected = reference.mean_field(values.reshape(n, -1), image, zeta, 3, steps, mask).reshape(values.shape)
    if mask is not None:
        expected = np.where(mask[..., None], expected, values)
    np.testing.assert_allclose(result, expected, rtol=1e-9)

    dilations = tuple(int(d) for d in rng.integers(1, 9, rng.integers(1, 4)))
    noise = rng.random((*shape, 3))  # of a plain image, the deviation is the rounding of a mean
    result = related.pamr(
        values, noise, dilations=dilations, iterations=steps, spatial_ndim=ndim, channel_axis=-1
    )
    expected = reference.pamr(values.reshape(n, -1), noise, dilations, steps)
    np.testing.assert_allclose(result.reshape(expected.shape), expected, rtol=1e-8)


@case("propagate_labels", "LabelPropagator")
def labels_from_seeds(rng: Generator) -> None:
    picture = some_picture(rng, most=300)
    image, mask, shape = picture.image, picture.mask, picture.shape
    numbers = np.sort(rng.choice(np.arange(1, 40), rng.integers(1, 5), replace=False))
    seeds = np.where(rng.random(shape) < 0.05, rng.choice(numbers, shape), 0)
    seeds.flat[rng.integers(seeds.size)] = numbers[0]
    seeds[rng.random(shape) < one_of(rng, 0, 0.1)] = -1
    inside = (seeds >= 0) & (mask if mask is not None else True)
    options: dict[str, Any] = {"channel_axis": -1, "mask": mask, "convert2lab": one_of(rng, None, False)}
    if rng.random() < 0.3:
        options["spacing"] = tuple(rng.uniform(0.5, 4, len(shape)))
    options |= some_maps(rng, shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no seed", UserWarning)
        labels = aproarray.propagate_labels(laid_out(rng, image), laid_out(rng, seeds), **options)
        shares = aproarray.propagate_labels(image, seeds, return_full_prob=True, workers=1, **options)
        kept = aproarray.LabelPropagator(image, spatial_ndim=len(shape), **{**options, "mask": inside})
        again = kept.propagate(np.where(inside, seeds, 0), workers=2)
        pair = {name: np.stack([given, given]) for name, given in options.items() if name in MAPS}
        batch = aproarray.propagate_labels(
            np.stack([image, image]), np.stack([seeds * 0, seeds]), return_full_prob=True,
            spatial_ndim=len(shape), **{**options, **pair},
        )  # fmt: skip
    same(batch[:, 1], shares)
    assert not batch[:, 0].any()
    np.testing.assert_array_equal(again[inside], labels[inside])
    held = inside & (seeds > 0)
    np.testing.assert_array_equal(labels[held], seeds[held])
    np.testing.assert_array_equal(labels[~inside], seeds[~inside])
    apart = reference.minimax_distances(*zero_graph(shape, inside), math.prod(shape))
    reached = np.isfinite(apart[:, held.ravel()]).any(1).reshape(shape) & inside
    assert (np.isin(labels, seeds[held]) == reached)[inside].all()
    known = np.unique(seeds[held])
    if len(known):
        assert shares.shape == (len(known), *shape)
        np.testing.assert_allclose(shares.sum(0), reached, atol=1e-5)
        own = np.take_along_axis(shares, np.searchsorted(known, labels)[None] * reached, 0)[0]
        assert (own >= shares.max(0) - 1e-6)[reached].all()
        assert (shares[:, held] == (known[:, None] == seeds[held])).all()
        assert not shares[:, ~reached].any()


MAPS = ("edges", "features")


def some_maps(rng: Generator, shape: tuple[int, ...]) -> dict[str, Array]:
    """Return edges, features, both or neither, often few levels."""
    maps = {}
    for name, channels in (("edges", ()), ("features", (int(rng.integers(1, 4)),))):
        if rng.random() < 0.3:
            maps[name] = laid_out(rng, some_numbers(rng, (*shape, *channels), one_of(rng, *DTYPES)))
    return maps


@case("LabelPropagator", "propagate_labels")
def strokes_one_after_another(rng: Generator) -> None:
    """What a propagator kept of its last call changes no label of the next one."""
    picture = some_picture(rng, most=300)
    image, shape, n_labels = picture.image, picture.shape, int(rng.integers(1, 5))
    options: dict[str, Any] = {"mask": picture.mask, "convert2lab": False, **some_maps(rng, shape)}
    if rng.random() < 0.2:
        options["spacing"] = tuple(rng.uniform(0.5, 4, len(shape)))
    propagator = aproarray.LabelPropagator(image, channel_axis=-1, spatial_ndim=len(shape), **options)
    seeds = np.zeros(shape, one_of(rng, "u1", "i4", "i8"))
    for _ in range(int(rng.integers(2, 7))):
        before, kind = seeds, rng.integers(8)
        seeds = before.copy()
        if kind == 0:  # all of a label goes, or changes
            seeds[seeds == rng.integers(1, n_labels + 1)] = rng.integers(0, n_labels + 1)
        elif kind == 1 and seeds.dtype != np.uint8:  # pixels are left out, or take part again
            seeds[rng.random(shape) < 0.1] = one_of(rng, -1, 0)
        elif kind == 2:
            seeds[rng.random(shape) < rng.choice([0.1, 1.0])] = 0
        else:  # a stroke, in a box
            low = [int(rng.integers(0, extent)) for extent in shape]
            box = tuple(slice(k, k + int(rng.integers(1, 4))) for k in low)
            seeds[box] = rng.integers(0, n_labels + 1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*no seed", UserWarning)
            labels = propagator.propagate(laid_out(rng, seeds), workers=int(rng.integers(1, 4)))
            fresh = aproarray.propagate_labels(image, seeds, channel_axis=-1, **options)
        np.testing.assert_array_equal(labels, fresh)


@case("propagate_labels")
def labels_of_edges_alone(rng: Generator) -> None:
    """Each pixel has the label of one of the nearest seeds by minimax distance."""
    picture = some_picture(rng)
    shape, n = picture.shape, picture.n_nodes
    height = rng.integers(0, int(one_of(rng, 1, 4, 1000)), shape).astype(one_of(rng, "i2", "u8", "f4", "f8"))
    seeds = np.where(rng.random(shape) < 0.1, rng.integers(-1, 5, shape), 0)
    inside = (seeds >= 0) & (True if picture.mask is None else picture.mask)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no seed", UserWarning)
        labels = aproarray.propagate_labels(
            None, laid_out(rng, seeds), edges=laid_out(rng, height), mask=picture.mask
        ).ravel()
    pairs = reference.pixel_graph(shape, 1, inside)
    weights = height.ravel()[pairs].astype(np.float64).sum(-1)
    rows = reference.mst(pairs, weights, n)
    distances = reference.minimax_distances(pairs[rows], weights[rows], n)
    flat = seeds.ravel()
    held = np.flatnonzero(inside.ravel() & (flat > 0))
    for pixel in range(n):
        to_seeds = distances[pixel, held]
        if not inside.flat[pixel] or flat[pixel]:
            assert labels[pixel] == flat[pixel]
        elif not np.isfinite(to_seeds).any():
            assert labels[pixel] == 0
        else:
            assert labels[pixel] in flat[held[to_seeds == to_seeds.min()]]


def zero_graph(shape: tuple[int, ...], inside: Array) -> tuple[Array, Array]:
    """Return a spanning forest of the pixels inside, all of whose weights are 0."""
    edges, n = reference.pixel_graph(shape, 1, inside), math.prod(shape)
    forest = edges[reference.mst(edges, np.zeros(len(edges)), n)]
    return forest, np.zeros(len(forest))


@case("refine", "affinity_map")
def maps_of_images(rng: Generator) -> None:
    picture = some_picture(rng, most=300)
    image, mask, shape = picture.image, picture.mask, picture.shape
    options: dict[str, Any] = {"channel_axis": -1, "spatial_ndim": len(shape), "mask": mask}
    inside = np.ones(shape, bool) if mask is None else mask
    scores = rng.random((*shape, 3)).astype(one_of(rng, "f2", "f4", "f8"))
    mode = one_of(rng, None, "local", "global", "global-local", "local-global", "parallel")
    seen_by_refine = options | {k: v for k, v in some_maps(rng, shape).items() if k == "edges"}
    result = aproarray.refine(
        laid_out(rng, image), laid_out(rng, scores), mode=mode, iterations=4, **seen_by_refine
    )
    assert result.shape == scores.shape
    for c in range(3):  # means of scores
        values, means = scores[inside, c].astype(np.float64), result[inside, c]
        if values.size:
            assert values.min() - 1e-5 <= means.min()
            assert means.max() <= values.max() + 1e-5
    constant = aproarray.refine(
        image, np.full(shape, 0.25), mode=mode, iterations=4, class_axis=None, **seen_by_refine
    )
    np.testing.assert_allclose(constant, 0.25, rtol=1e-5)
    alone = aproarray.refine(
        image, scores[..., 1], mode=mode, iterations=4, class_axis=None, workers=2, **seen_by_refine
    )
    same(alone[inside], result[..., 1][inside])
    if inside.any():
        pixel = tuple(int(k) for k in rng.choice(np.argwhere(inside)))
        kind = one_of(rng, "global", "local")
        seen = aproarray.affinity_map(image, pixel, kind=kind, iterations=4, **options)
        assert ((seen >= 0) & (seen <= 1)).all()
        assert not seen[~inside].any()
        assert seen[pixel] == 1 if kind == "global" else seen.max() == 1


@case("key_smoothing", "prompt_denoising", "random_walk_propagate")
def language_and_walks(rng: Generator) -> None:
    shape = some_shape(rng, 30)
    n, ndim = math.prod(shape), len(shape)
    scores, keys = rng.random((*shape, 3)), rng.normal(size=(*shape, 4))
    p, k = scores.reshape(n, 3), keys.reshape(n, 4)
    k = k / np.linalg.norm(k, axis=1, keepdims=True)
    threshold = float(rng.uniform(0.2, 1.1))
    (moved, others), axis = channels_at(rng, scores, keys)
    result = related.key_smoothing(
        laid_out(rng, moved), laid_out(rng, others), threshold=threshold, channel_axis=axis, spatial_ndim=ndim
    )
    expected = np.where(p.max(1, keepdims=True) < threshold, k @ k.T @ p, p)
    np.testing.assert_allclose(np.moveaxis(result, axis, -1).reshape(n, 3), expected, rtol=1e-9, atol=1e-12)

    kept = p * (p.max(0) >= threshold)
    total = kept.sum(1, keepdims=True)
    result = related.prompt_denoising(scores, threshold=threshold, spatial_ndim=ndim)
    np.testing.assert_allclose(result.reshape(n, 3), kept / np.where(total > 0, total, 1), rtol=1e-12)

    gamma, beta, steps = float(rng.uniform(0.1, 4)), float(rng.uniform(0.1, 4)), int(rng.integers(0, 4))
    affinity, by_rows = np.exp(gamma * k @ k.T), bool(rng.integers(2))
    if by_rows:
        walk = (affinity / affinity.sum(1, keepdims=True)) ** beta
    else:
        walk = affinity**beta / (affinity**beta).sum(0, keepdims=True)
    expected = np.linalg.matrix_power(walk.T, steps) @ p
    if by_rows:
        expected = expected / np.abs(expected).max()
    result = related.random_walk_propagate(
        scores, keys, gamma=gamma, beta=beta, steps=steps, spatial_ndim=ndim,
        normalization="rows" if by_rows else "columns",
    )  # fmt: skip
    np.testing.assert_allclose(result.reshape(n, 3), expected, rtol=1e-8)


@case("cam_to_scores", "cam_to_labels")
def activation_maps(rng: Generator) -> None:
    height, width = (int(k) for k in rng.integers(1, 9, 2))
    cams = rng.normal(size=(2, height, width, 3))
    maps, tags = np.maximum(cams, 0), rng.random((2, 3)) < 0.7
    if rng.random() < 0.5:
        options: dict[str, Any] = {"tags": tags, "alpha": float(rng.uniform(0.5, 8))}
        largest = maps.max((1, 2), keepdims=True)
        expected = maps / np.where(largest > 0, largest, 1) * tags[:, None, None]
        background, confidence = (1 - expected.max(-1)) ** options["alpha"], 0.2
    else:
        top, left = rng.integers(0, height, 4), rng.integers(0, width, 4)
        bottom, right = rng.integers(top, height) + 1, rng.integers(left, width) + 1
        classes, images = rng.integers(0, 3, 4), rng.integers(0, 2, 4)
        boxes = np.stack([top, left, bottom, right], 1)
        options = {"boxes": boxes, "box_classes": classes, "box_images": images}
        expected, background, confidence = np.zeros(maps.shape), np.ones(maps.shape[:3]), 0.5
        for (a, b, c, d), class_, image in zip(boxes.tolist(), classes, images, strict=True):
            inside = maps[image, a:c, b:d, class_]
            mine = expected[image, a:c, b:d, class_]
            np.maximum(mine, inside / (inside.max() or 1), out=mine)
            background[image, a:c, b:d] = 0
    expected = np.concatenate([background[..., None], expected], -1)
    np.testing.assert_allclose(related.cam_to_scores(laid_out(rng, cams), **options), expected, rtol=1e-12)
    labels = np.where(expected.max(-1) >= confidence, expected.argmax(-1), 255)
    np.testing.assert_array_equal(related.cam_to_labels(cams, **options), labels)


@case("spherical_kmeans", "nearest_neighbor_labels", "keypoints_to_regions", "mean_iou")
def segments_and_keypoints(rng: Generator) -> None:
    shape = tuple(int(k) for k in rng.integers(2, 9, 2))
    embeddings, grid = (
        rng.normal(size=(*shape, 3)),
        tuple(int(k) for k in rng.integers(1, np.array(shape) + 1)),
    )
    steps = int(rng.integers(0, 4))
    ours = related.spherical_kmeans(laid_out(rng, embeddings), grid=grid, iterations=steps)
    where = np.indices(shape)
    cells = [where[a] * grid[a] // shape[a] for a in range(2)]
    phi = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    position = np.stack([where[a] / (shape[a] - 1) - 0.5 for a in range(2)], -1)
    vectors = np.concatenate([phi, position], -1).reshape(-1, 5)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    z = (cells[0] * grid[1] + cells[1]).ravel()
    means = np.zeros((math.prod(grid), 5))  # a cluster that has lost its pixels keeps its mean
    for _ in range(steps):
        for s in np.unique(z):
            means[s] = vectors[z == s].sum(0) / np.linalg.norm(vectors[z == s].sum(0))
        z = (vectors @ means.T).argmax(1)
    np.testing.assert_array_equal(ours.ravel(), np.unique(z, return_inverse=True)[1].ravel())

    queries, bank = rng.normal(size=(9, 3)), rng.normal(size=(int(rng.integers(0, 14)), 3))
    labels, k = rng.choice([0, 4, 9, 255], len(bank)), int(rng.integers(1, 16))
    found = related.nearest_neighbor_labels(queries, bank, labels, k=k)
    likeness = queries @ (bank / np.linalg.norm(bank, axis=1, keepdims=True)).T
    for q in range(9):
        nearest = [int(labels[r]) for r in np.argsort(-likeness[q], kind="stable") if labels[r] != 255][:k]
        best = min(set(nearest), key=lambda one: (-nearest.count(one), one)) if nearest else 255
        assert found[q] == best

    points, sizes = rng.uniform(-3, 12, (4, 2)), rng.uniform(1, 60, 4)
    regions = related.keypoints_to_regions(points, [1, 2, 3, 4], sizes, shape)
    squared = ((np.moveaxis(where, 0, -1)[:, :, None] - points) ** 2).sum(-1)
    g = np.exp(-squared / 2 / (0.1 * sizes) ** 2)
    expected = np.where(g.max(-1) >= 0.5, 1 + g.argmax(-1), np.where(g.max(-1) >= 0.1, 255, 0))
    np.testing.assert_array_equal(regions, expected)

    predicted, truth = rng.choice([0, 1, 2, 255], (2, *shape))
    counted = truth != 255
    pairs = [
        (predicted == c, truth == c) for c in np.unique([predicted[counted], truth[counted]]) if c != 255
    ]
    each = [(a & b & counted).sum() / ((a | b) & counted).sum() for a, b in pairs]
    np.testing.assert_allclose(related.mean_iou(predicted, truth), np.mean(each) if each else np.nan)


@case("mst", "global_propagate", "local_propagate")
def chunks_of_dask(rng: Generator) -> None:
    import dask
    import dask.array as da

    picture = some_picture(rng, most=120)
    shape, ndim = picture.shape, len(picture.shape)
    chunks = tuple(int(rng.integers(1, extent + 1)) for extent in shape)
    image = da.from_array(picture.image, chunks=(*chunks, -1))
    options: dict[str, Any] = {"spatial_ndim": ndim, "channel_axis": -1, "mask": picture.mask}
    values = rng.random((*shape, 3))
    lazy, zeta = da.from_array(values, chunks=(*chunks, -1)), some_zeta(rng)
    with dask.config.set(scheduler="synchronous"):
        tree = aproarray.mst(image, connectivity=picture.connectivity, **options)
        ours = np.asarray(aproarray.global_propagate(lazy, tree, zeta=zeta))
        steps = {"zeta": zeta, "kernel_size": 3, "iterations": 3, **options}
        windows = np.asarray(aproarray.local_propagate(lazy, image, **steps))
    whole = aproarray.global_propagate(values, picture.tree(), zeta=zeta)
    np.testing.assert_allclose(ours, whole, rtol=1e-9, atol=1e-12 * values.max())
    expected = aproarray.local_propagate(values, picture.image, **steps)
    np.testing.assert_allclose(windows, expected, rtol=1e-4, atol=1e-6)


@case("propagate_labels", "refine", "affinity_map")
def labels_and_scores_of_dask(rng: Generator) -> None:
    import dask
    import dask.array as da

    # Chunks overlap by 53 pixels, and smaller ones are put together.
    shape = (int(rng.integers(100, 240)), int(rng.integers(1, 9)))[:: int(one_of(rng, 1, -1))]
    image = some_numbers(rng, (*shape, int(rng.integers(1, 5))), one_of(rng, *SMALL))
    mask = rng.random(shape) < rng.choice([0.9, 0.99]) if rng.random() < 0.4 else None
    chunks = tuple(int(rng.integers(max(extent // 4, 1), extent + 1)) for extent in shape)
    lazy = da.from_array(image, chunks=(*chunks, int(rng.integers(1, image.shape[-1] + 1))))
    options: dict[str, Any] = {"channel_axis": -1, "mask": mask, "convert2lab": one_of(rng, None, False)}
    seeds = np.where(rng.random(shape) < 0.02, rng.integers(1, 5, shape), 0).astype(one_of(rng, "u1", "i4"))
    seeds.flat[rng.integers(seeds.size)] = 1
    if seeds.dtype == np.int32:
        seeds[rng.random(shape) < one_of(rng, 0, 0.02)] = -1
    scores = rng.random((*shape, 2)).astype(one_of(rng, "f4", "f8"))
    pixel = tuple(int(k) for k in np.argwhere(np.ones(shape, bool) if mask is None else mask)[0])
    with warnings.catch_warnings(), dask.config.set(scheduler="synchronous"):
        warnings.filterwarnings("ignore", ".*no seed", UserWarning)
        labels = aproarray.propagate_labels(lazy, seeds, **options).compute()
        refined = aproarray.refine(lazy, scores, iterations=3, **options).compute()
        seen = aproarray.affinity_map(lazy, pixel, **options).compute()
        expected = aproarray.propagate_labels(image, seeds, **options)
    same(labels, expected)
    same(refined, aproarray.refine(image, scores, iterations=3, **options))
    in_memory = aproarray.affinity_map(image, pixel, **options)
    np.testing.assert_allclose(seen, in_memory, rtol=1e-5, atol=1e-7)


@case("torch.mst", "torch.global_propagate", "torch.tree_filter", "torch.local_propagate")
def tensors(rng: Generator) -> None:
    import torch

    import aproarray.torch as ours

    height, width = (int(k) for k in rng.integers(1, 7, 2))
    pixels, n = rng.permutation(3 * height * width).reshape(1, 3, height, width) / 10, height * width
    image, features = (
        torch.tensor(p, dtype=torch.float64) for p in (pixels, rng.random((1, 2, height, width)))
    )
    values = torch.tensor(rng.normal(size=(1, 3, height, width)), requires_grad=True)
    weight = torch.tensor(rng.normal(size=values.shape))
    zeta = torch.tensor(float(rng.uniform(0.3, 3)), dtype=torch.float64, requires_grad=True)
    mask = rng.random((height, width)) < 0.8 if rng.random() < 0.4 else None
    inside = np.ones(n, bool) if mask is None else mask.ravel()
    given = None if mask is None else torch.tensor(mask)[None]
    tree = ours.mst(image, mask=given)
    edges = tree.gap_edges[0].numpy()
    edges = edges[edges[:, 0] >= 0]
    columns = values.detach().numpy().reshape(3, n).T
    kind = one_of(rng, "global", "filter", "local")
    features.requires_grad_()

    def call(values: Any, features: Any, zeta: Any) -> Any:
        if kind == "global":
            return ours.global_propagate(values, tree, zeta=zeta, features=features)
        if kind == "filter":
            return ours.tree_filter(values, tree, zeta=zeta, features=features)
        return ours.local_propagate(values, features, zeta=zeta, kernel_size=3, iterations=2, mask=given)

    flat, scale = features.detach().numpy().reshape(2, n).T, float(zeta.detach())
    weights = reference.edge_weights(flat, edges)
    if kind == "global":
        expected = reference.global_propagate(columns, reference.minimax_distances(edges, weights, n), scale)
    elif kind == "filter":
        expected = reference.tree_filter(edges, weights, columns, scale)
    else:
        expected = reference.local_propagate(columns, flat.reshape(height, width, 2), scale, 3, 2, mask)
    result = call(values, features, zeta)
    found = result.detach().numpy().reshape(3, n).T
    np.testing.assert_allclose(found[inside], expected[inside], rtol=1e-9, atol=1e-12)
    if kind != "filter":  # which leaves pixels without edges alone with themselves, as the definition does
        same(found[~inside], columns[~inside])

    # The derivative along a random direction of all inputs together.
    inputs = [values, features, zeta]
    gradients = torch.autograd.grad((result * weight).sum(), inputs)
    steps = [torch.tensor(rng.normal(size=tuple(one.shape))) for one in inputs]
    slope = sum(float((g * s).sum()) for g, s in zip(gradients, steps, strict=True))
    with torch.no_grad():
        h = 1e-6
        ends = [
            float((call(*(one + sign * h * s for one, s in zip(inputs, steps, strict=True))) * weight).sum())
            for sign in (1, -1)
        ]
    size = sum(float((g * s).abs().sum()) for g, s in zip(gradients, steps, strict=True))
    assert abs(slope - (ends[0] - ends[1]) / (2 * h)) <= 1e-5 * size + 1e-6


@case("jax.mst", "jax.global_propagate", "jax.tree_filter", "jax.local_propagate")
def arrays_of_jax(rng: Generator) -> None:
    import aproarray.jax as ours

    height, width = (int(k) for k in rng.integers(1, 3, 2) * 3)  # few shapes: each is compiled
    image = some_numbers(rng, (height, width, 2), np.dtype("f4"))
    image[np.abs(image) < 1e-19] = 0  # XLA's threads take squares below 1.2e-38 for 0
    values, zeta = rng.random((height, width, 2), np.float32), some_zeta(rng)
    tree, theirs = ours.mst(image), aproarray.mst(image, channel_axis=-1)
    np.testing.assert_array_equal(tree.order, theirs.order.reshape(height, width))
    same(np.asarray(tree.gaps), theirs.gaps)
    for result, expected in [
        (
            ours.global_propagate(values, tree, zeta=zeta),
            aproarray.global_propagate(values, theirs, zeta=zeta),
        ),
        (ours.tree_filter(values, tree, zeta=zeta), related.tree_filter(values, theirs, zeta=zeta)),
        (
            ours.local_propagate(values, image, zeta=zeta, kernel_size=3, iterations=2),
            aproarray.local_propagate(values, image, zeta=zeta, kernel_size=3, iterations=2, channel_axis=-1),
        ),
    ]:
        np.testing.assert_allclose(np.asarray(result), expected, rtol=2e-6, atol=1e-30)


def junk(rng: Generator) -> Any:
    """Return what no argument, or few, should be."""
    shape = tuple(int(k) for k in rng.integers(0, 5, rng.integers(0, 5)))
    return one_of(
        rng, None, "text", b"bytes", -1, 0, 1, 2, 1.5, -0.0, math.nan, math.inf, 2**70, -(2**63), True,
        10**9, 1e-200, 5e-324, 1e200, [], {}, (), [[1], [2, 3]], 1j, object(), len, slice(None), range(4),
        iter([1, 2]), (0.5, 2), (1, 2, 3), (10**9,) * 3, np.float16(3), np.array(None), np.array("text"),
        np.array([1, "a", None], object), np.zeros(3, "M8[s]"), np.zeros(2, [("a", int), ("b", float)]),
        np.random.default_rng(0), np.ma.masked_array([[1, 2], [3, 4]], [[0, 1], [0, 0]]), rng.random(shape),
        rng.random(shape) < 0.5, rng.normal(size=shape).astype("f4"), rng.integers(-3, 9, shape),
        rng.random(shape) * 1e308, rng.random(shape) * 1e-310, np.full(shape, np.nan),
        np.full(shape, -np.inf), rng.random(shape) + 1j, rng.random(shape).astype(np.longdouble),
    )  # fmt: skip


def calls(rng: Generator) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Return a good call of each function, all of its options given."""
    image, values = rng.random((4, 5, 2)), rng.random((4, 5, 3))
    tree = aproarray.mst(image, channel_axis=-1)
    mask, seeds = rng.random((4, 5)) < 0.9, rng.integers(0, 3, (4, 5))
    mask[0, 0] = True
    over_tree = {
        "values": values,
        "tree": tree,
        "zeta": 0.5,
        "features": image,
        "channel_axis": -1,
        "workers": 2,
    }
    windows = {
        "values": values, "image": image, "iterations": 2, "channel_axis": -1, "spatial_ndim": 2,
        "image_channel_axis": -1, "workers": 2, "out": np.empty((4, 5, 3)), "check_finite": True,
    }  # fmt: skip
    labels = {
        "image": image, "channel_axis": -1, "mask": mask, "convert2lab": False, "spacing": (1.0, 2.0),
        "edges": values[..., 0], "features": values,
    }  # fmt: skip
    pixels = {"channel_axis": -1, "spatial_ndim": 2, "check_finite": True}
    boxes = {"boxes": [[0, 0, 2, 2]], "box_classes": [1], "box_images": [0]}
    return {
        "mst": (
            aproarray.mst,
            {
                "image": image,
                "channel_axis": -1,
                "spatial_ndim": 2,
                "connectivity": 2,
                "mask": mask,
                "workers": 1,
            },
        ),
        "global_propagate": (
            aproarray.global_propagate,
            {**over_tree, "out": np.empty((4, 5, 3)), "check_finite": True},
        ),
        "local_propagate": (
            aproarray.local_propagate,
            {**windows, "zeta": 0.5, "kernel_size": 3, "mask": mask},
        ),
        "propagate_labels": (
            aproarray.propagate_labels,
            {**labels, "labels": seeds, "return_full_prob": True, "spatial_ndim": 2, "workers": 1},
        ),
        "LabelPropagator": (
            lambda labels, **given: aproarray.LabelPropagator(**given).propagate(labels),
            {**labels, "labels": seeds, "spatial_ndim": 2},
        ),
        "refine": (
            aproarray.refine,
            {
                "image": image,
                "scores": values,
                "mode": "parallel",
                "iterations": 2,
                "class_axis": -1,
                "channel_axis": -1,
                "spatial_ndim": 2,
                "mask": mask,
                "edges": values[..., 0],
                "convert2lab": False,
                "workers": 1,
            },
        ),
        "affinity_map": (
            aproarray.affinity_map,
            {
                "image": image,
                "pixel": (0, 0),
                "kind": "local",
                "zeta": 0.5,
                "iterations": 2,
                "channel_axis": -1,
                "spatial_ndim": 2,
                "mask": mask,
                "convert2lab": False,
            },
        ),
        "from_edges": (
            SpanningTree.from_edges,
            {"edges": [[0, 1], [1, 2]], "weights": [1.0, 2.0], "n_nodes": 3},
        ),
        "reweight": (tree.reweight, {"features": image, "channel_axis": -1, "workers": 1}),
        "minimax": (tree.minimax, {"i": [0, 1], "j": (2, 3)}),
        "affinity": (tree.affinity, {"index": (1, 2), "zeta": 0.5}),
        "cut": (tree.cut, {"threshold": 0.5, "min_size": 2}),
        "tree_filter": (related.tree_filter, {**over_tree, "out": np.empty((4, 5, 3)), "check_finite": True}),
        "tree_filter_v2": (
            related.tree_filter_v2,
            {**over_tree, "beta": 0.1, "gamma": 0.5, "confidence": np.ones((4, 5))},
        ),
        "mean_field": (
            related.mean_field,
            {**windows, "zeta": 0.5, "kernel_size": 3, "mask": mask, "region": mask},
        ),
        "pamr": (related.pamr, {**windows, "dilations": (1, 2)}),
        "pairwise_affinity": (
            related.pairwise_affinity,
            {
                "image": image,
                "theta": 2.0,
                "kernel_size": 3,
                "dilation": 2,
                "mask": mask,
                "channel_axis": -1,
                "spatial_ndim": 2,
                "workers": 1,
            },
        ),
        "key_smoothing": (
            related.key_smoothing,
            {"scores": values, "keys": image, "threshold": 0.5, **pixels},
        ),
        "prompt_denoising": (related.prompt_denoising, {"scores": values, "threshold": 0.5, **pixels}),
        "random_walk_propagate": (
            related.random_walk_propagate,
            {
                "values": values,
                "embeddings": image,
                "gamma": 1.0,
                "beta": 2.0,
                "normalization": "rows",
                "steps": 2,
                **pixels,
            },
        ),
        "cam_to_scores": (
            related.cam_to_scores,
            {"cams": values, "tags": np.ones(3, bool), "alpha": 2.0, **pixels},
        ),
        "cam_to_labels": (
            related.cam_to_labels,
            {"cams": values, **boxes, "confidence": 0.5, "ignore_index": 255, **pixels},
        ),
        "spherical_kmeans": (
            related.spherical_kmeans,
            {"embeddings": values, "grid": (2, 2), "iterations": 2, "regions": seeds, **pixels},
        ),
        "nearest_neighbor_labels": (
            related.nearest_neighbor_labels,
            {
                "embeddings": image[0],
                "bank": image[1],
                "bank_labels": seeds[0],
                "k": 2,
                "images": seeds[0],
                "bank_images": seeds[1],
                "ignore_index": 255,
            },
        ),
        "keypoints_to_regions": (
            related.keypoints_to_regions,
            {
                "keypoints": [[1, 2]],
                "labels": [1],
                "sizes": 3.0,
                "shape": (4, 5),
                "spread": 0.1,
                "labeled": 0.5,
                "background": 0.1,
                "ignore_index": 255,
            },
        ),
        "mean_iou": (
            related.mean_iou,
            {"predicted": seeds, "truth": seeds, "classes": [0, 1], "ignore_index": 255},
        ),
    }


@case(
    "mst", "global_propagate", "local_propagate", "propagate_labels", "LabelPropagator", "refine",
    "affinity_map", "SpanningTree", *related.__all__,
)  # fmt: skip
def bad_arguments(rng: Generator) -> None:
    """Only a TypeError, ValueError or MemoryError with a message may come of what does not fit."""
    function, arguments = one_of(rng, *calls(rng).values())
    chosen = rng.choice(list(arguments), min(len(arguments), int(rng.integers(1, 3))), replace=False)
    given = {**arguments, **{str(name): junk(rng) for name in chosen}}
    for name in {"iterations", "steps"} & set(given):  # a billion steps are a good argument
        if isinstance(given[name], int):
            given[name] = min(given[name], 3)
    untouched = {name: value.copy() for name, value in given.items() if isinstance(value, np.ndarray)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*no seed", UserWarning)
        try:
            function(**given)
        except (TypeError, ValueError, MemoryError) as error:
            said = str(error)
        else:
            said = "it fits"
    assert said
    for name, before in untouched.items():
        if name != "out" and before.dtype.kind in "biuf":
            np.testing.assert_array_equal(given[name], before, err_msg=name)
