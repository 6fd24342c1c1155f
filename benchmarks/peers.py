"""Other packages' ways from seeds to labels, on one thread, with the settings that their names state.

A method takes a scene and its seeds (0: unlabelled) and returns labels. `methods` skips what is not installed
or cannot take the scenes, and says why.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage import color, graph, segmentation

from benchmarks.scenes import Scene
from benchmarks.timing import Skip

Array = NDArray[Any]
Method = Callable[[Scene, Array], Array]

# The largest scene of a method that takes longer than linear time, in pixels.
SLOW_BEYOND = 500_000


class Peer(NamedTuple):
    """A method, what must be installed for it, and what it cannot take."""

    call: Method
    module: str | None = None
    two_labels: bool = False
    two_axes: bool = False
    with_edges: bool = False  # for scenes with a map of edges alone
    slow: bool = False


def colours(scene: Scene) -> Array:
    """Return L*a*b* of colour images, else 100 times the intensity: (..., C)."""
    if scene.channel_axis is None:
        return scene.image[..., None] * 100
    lab: Array = color.rgb2lab(scene.image)
    return lab


def gradient(scene: Scene, sigma: float) -> Array:
    """Return the magnitude of the gradient of the smoothed colours."""
    parts = np.moveaxis(colours(scene), -1, 0)
    return np.sqrt(sum(ndimage.gaussian_gradient_magnitude(part, sigma) ** 2 for part in parts))


def edges_of(scene: Scene) -> Array:
    """Return the scene's map of edges, which must be there."""
    if scene.edges is None:
        raise ValueError(f"scene {scene.name} has no map of edges")
    return scene.edges


def nearest_seed(scene: Scene, seeds: Array) -> Array:
    """Give each pixel the label of the nearest seed."""
    at = ndimage.distance_transform_edt(
        seeds == 0, sampling=scene.spacing, return_distances=False, return_indices=True
    )
    labels: Array = seeds[tuple(at)]
    return labels


def watershed(scene: Scene, seeds: Array, sigma: float = 1.0) -> Array:
    labels: Array = segmentation.watershed(gradient(scene, sigma), seeds)
    return labels


def watershed_of_edges(scene: Scene, seeds: Array) -> Array:
    labels: Array = segmentation.watershed(edges_of(scene), seeds)
    return labels


def random_walker(scene: Scene, seeds: Array, **options: Any) -> Array:
    """Return the walker's labels, or with return_full_prob its probabilities (n_labels, ...)."""
    result: Array = segmentation.random_walker(
        scene.image, seeds, beta=130, mode="cg_j", tol=1e-3, channel_axis=scene.channel_axis,
        spacing=scene.spacing, prob_tol=1, **options,  # a tolerance of warnings alone
    )  # fmt: skip
    return result


def geodesic_labels(relief: Array, seeds: Array, spacing: tuple[float, ...] | None) -> Array:
    """Give each pixel the label of the seed at the smallest cost: of the relief and a tenth of its mean."""
    cost = relief - relief.min() + 0.1 * relief.mean() + 1e-9
    walk = graph.MCP_Geometric(cost, fully_connected=False, sampling=spacing)
    _, traced = walk.find_costs(np.argwhere(seeds > 0))
    offsets = np.concatenate([np.asarray(walk.offsets), np.zeros((1, seeds.ndim), int)])
    strides = np.array([int(np.prod(seeds.shape[axis + 1 :])) for axis in range(seeds.ndim)])
    steps = (offsets @ strides)[np.where(traced < 0, len(offsets) - 1, traced).ravel()]
    source = np.arange(seeds.size) - steps
    while True:
        further = source[source]
        if np.array_equal(further, source):
            break
        source = further
    return seeds.ravel()[source].reshape(seeds.shape)


def geodesic(scene: Scene, seeds: Array, sigma: float = 1.0) -> Array:
    return geodesic_labels(gradient(scene, sigma), seeds, scene.spacing)


def geodesic_of_edges(scene: Scene, seeds: Array) -> Array:
    return geodesic_labels(edges_of(scene), seeds, scene.spacing)


def nearest_in_colour(scene: Scene, seeds: Array, sigma: float = 1.0) -> Array:
    """Let the 5 seeds vote that are nearest in colour (smoothed by sigma) and position."""
    parts = np.moveaxis(colours(scene), -1, 0) / 100
    smooth = [ndimage.gaussian_filter(part, sigma) for part in parts]
    spacing = np.ones(seeds.ndim) if scene.spacing is None else np.array(scene.spacing)
    extent = float(np.max(spacing * seeds.shape))
    places = [axis * unit / extent for axis, unit in zip(np.indices(seeds.shape), spacing, strict=True)]
    points = np.stack([*smooth, *places], -1).reshape(-1, len(smooth) + seeds.ndim)
    flat = seeds.reshape(-1)
    marked = np.flatnonzero(flat)
    votes = flat[marked[cKDTree(points[marked]).query(points, k=min(5, len(marked)))[1]]]
    votes = votes.reshape(len(flat), -1)
    counts = (votes[:, :, None] == votes[:, None, :]).sum(2)  # of equals: the nearest seed's
    result = votes[np.arange(len(flat)), counts.argmax(1)]
    return np.where(flat > 0, flat, result).reshape(seeds.shape)


def grab_cut(scene: Scene, seeds: Array) -> Array:
    """Return 1 (object) or 2 (background) after 5 iterations; unmarked pixels start as background."""
    import cv2

    mask = np.select([seeds == 1, seeds == 2], [cv2.GC_FGD, cv2.GC_BGD], cv2.GC_PR_BGD).astype(np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(_bytes(scene), mask, None, *models, 5, cv2.GC_INIT_WITH_MASK)
    return np.where((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD), 1, 2)


def opencv_watershed(scene: Scene, seeds: Array) -> Array:
    """Return OpenCV's watershed of colours; its lines take the label of the nearest pixel."""
    import cv2

    labels = cv2.watershed(_bytes(scene), seeds.astype(np.int32))
    at = ndimage.distance_transform_edt(labels <= 0, return_distances=False, return_indices=True)
    filled: Array = labels[tuple(at)]
    return filled


def _bytes(scene: Scene) -> Array:
    image = scene.image if scene.channel_axis is not None else np.repeat(scene.image[..., None], 3, -1)
    return np.ascontiguousarray((image * 255).round().astype(np.uint8))


def itk_watershed(scene: Scene, seeds: Array, sigma: float = 1.0) -> Array:
    import SimpleITK

    labels = SimpleITK.MorphologicalWatershedFromMarkers(
        SimpleITK.GetImageFromArray(gradient(scene, sigma).astype(np.float32)),
        SimpleITK.GetImageFromArray(seeds.astype(np.uint32)),
        markWatershedLine=False,
    )
    result: Array = SimpleITK.GetArrayFromImage(labels).astype(np.int64)
    return result


BINS = 8  # of each channel of colour models


def graph_cut(scene: Scene, seeds: Array) -> Array:
    """Cut between object (1) and background (2): Boykov and Jolly, colour models of the strokes.

    An edge costs 50 exp(-d^2 / (2 mean d^2)); a pixel costs -log of the share of its colour in the strokes,
    of 8 x 8 x 8 bins smoothed by one bin.
    """
    import maxflow

    parts = colours(scene)
    bins = tuple(
        np.clip((unit_range(part) * BINS).astype(int), 0, BINS - 1) for part in np.moveaxis(parts, -1, 0)
    )
    costs = []
    for label in (1, 2):
        counts = np.zeros((BINS,) * len(bins))
        np.add.at(counts, tuple(one[seeds == label] for one in bins), 1)
        counts = ndimage.gaussian_filter(counts, 1) + 1e-6
        costs.append(-np.log((counts / counts.sum())[bins]))
    cut = maxflow.GraphFloat()
    nodes = cut.add_grid_nodes(seeds.shape)
    squares = []
    for axis in range(seeds.ndim):
        square = np.zeros(seeds.shape)
        square[tuple(slice(None, -1) if a == axis else slice(None) for a in range(seeds.ndim))] = (
            np.diff(parts, axis=axis) ** 2
        ).sum(-1)
        squares.append(square)
    mean = np.mean(squares)
    for axis, square in enumerate(squares):
        structure = np.zeros((3,) * seeds.ndim)
        structure[tuple(2 if a == axis else 1 for a in range(seeds.ndim))] = 1
        cut.add_grid_edges(nodes, 50 * np.exp(-square / (2 * mean)), structure, symmetric=True)
    certain = 1e9
    cut.add_grid_tedges(
        nodes,
        np.where(seeds == 1, certain, np.where(seeds == 2, 0, costs[1])),
        np.where(seeds == 2, certain, np.where(seeds == 1, 0, costs[0])),
    )
    cut.maxflow()
    return np.where(cut.get_grid_segments(nodes), 2, 1)


def unit_range(part: Array) -> Array:
    """Map numbers to [0, 1]."""
    return (part - part.min()) / max(np.ptp(part), 1e-12)


PEERS: dict[str, Peer] = {
    "nearest seed": Peer(nearest_seed),
    "5 nearest seeds in colour (sigma 1) and position": Peer(nearest_in_colour, slow=True),
    "skimage `watershed`, gradient of sigma 1": Peer(watershed, "skimage"),
    "skimage `watershed`, gradient of sigma 2": Peer(functools.partial(watershed, sigma=2.0), "skimage"),
    "skimage `watershed`, edges": Peer(watershed_of_edges, "skimage", with_edges=True),
    "skimage `MCP_Geometric`, gradient of sigma 1 + mean / 10": Peer(geodesic, "skimage"),
    "skimage `MCP_Geometric`, edges + mean / 10": Peer(geodesic_of_edges, "skimage", with_edges=True),
    "skimage `random_walker`, beta 130": Peer(random_walker, "skimage", slow=True),
    "SimpleITK morphological watershed, gradient of sigma 1": Peer(itk_watershed, "SimpleITK"),
    "OpenCV `watershed`": Peer(opencv_watershed, "cv2", two_axes=True),
    "OpenCV `grabCut`, 5 iterations": Peer(grab_cut, "cv2", two_labels=True, two_axes=True),
    "PyMaxflow, colour models": Peer(graph_cut, "maxflow", two_labels=True),
}


def ready(peer: Peer, scenes: list[Scene]) -> None:
    """Raise Skip with the reason if a peer cannot be called on scenes. Hold its package to one thread."""
    largest = max(scene.regions.size for scene in scenes)
    if peer.with_edges and any(scene.edges is None for scene in scenes):
        raise Skip("these images have no map of edges")
    if peer.two_axes and any(scene.regions.ndim != 2 for scene in scenes):
        raise Skip("takes images of two axes alone")
    if peer.two_labels and any(scene.regions.max() > 2 for scene in scenes):
        raise Skip("takes two labels alone")
    if peer.slow and largest > SLOW_BEYOND:
        raise Skip(f"takes minutes for {largest} pixels")
    if peer.module is not None:
        try:
            module = importlib.import_module(peer.module)
        except ImportError as reason:
            raise Skip(f"not installed ({reason})") from None
        if peer.module == "cv2":
            module.setNumThreads(1)
        elif peer.module == "SimpleITK":
            module.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
