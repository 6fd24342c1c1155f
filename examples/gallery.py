"""
=======
Gallery
=======

What the library does for images, one figure each, on pictures that come with scikit-image.

Run it with ``python examples/gallery.py`` for all, or ``python examples/gallery.py clicks boxes`` for some;
docs/gallery.md shows what comes out.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage import color, data, draw, filters, segmentation, util

import aproarray

Array = NDArray[Any]
Pixel = tuple[int, int]

BACKGROUND, RED, YELLOW = (0.20, 0.45, 1.0), (1.0, 0.25, 0.20), (1.0, 0.85, 0.10)
COLOURS = [BACKGROUND, RED, YELLOW]  # of labels 1, 2, 3


class Drawn(NamedTuple):
    """A figure, and the labels, scores or maps that are in it."""

    figure: Figure
    results: dict[str, Array]


def strokes(shape: Pixel, lines: dict[int, list[list[Pixel]]]) -> Array:
    """Return labels of lines, five pixels wide, whose corners (row, column) are given for each label."""
    labels = np.zeros(shape, int)
    for label, corners in lines.items():
        for (r0, c0), (r1, c1) in itertools.chain.from_iterable(map(itertools.pairwise, corners)):
            for row, column in zip(*draw.line(r0, c0, r1, c1), strict=True):
                labels[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = label
    return labels


def points(shape: Pixel, at: dict[int, list[Pixel]], radius: int = 3) -> Array:
    """Return labels of disks."""
    labels = np.zeros(shape, int)
    for label, centres in at.items():
        for centre in centres:
            labels[draw.disk(centre, radius + 0.5, shape=shape)] = label
    return labels


def marked(image: Array, marks: Array, colours: Sequence[Any] = COLOURS) -> Array:
    """Draw marks, with white rims, over an image."""
    picture = image / 255 if image.ndim == 3 else color.gray2rgb(image / 255)
    picture[segmentation.find_boundaries(marks, mode="outer")] = 1
    return np.where(marks[..., None] > 0, np.array([(0, 0, 0), *colours])[marks], picture)


def painted(image: Array, labels: Array, colours: Sequence[Any] = COLOURS) -> Array:
    """Paint labels over an image, with white contours."""
    picture = image / 255 if image.ndim == 3 else color.gray2rgb(image / 255)
    tinted = 0.6 * picture + 0.4 * np.array([(0, 0, 0), *colours])[labels]
    tinted = np.where(labels[..., None] > 0, tinted, picture)
    tinted[segmentation.find_boundaries(labels, mode="inner")] = 1
    return tinted


def panels(pictures: Sequence[tuple[str, Array]], columns: int, width: float = 9) -> Figure:
    """Show pictures with their titles, in rows."""
    rows = -(-len(pictures) // columns)
    height, across = pictures[0][1].shape[:2]
    figure = Figure(
        figsize=(width, rows * (width / columns * height / across + 0.3)), layout="constrained", dpi=80
    )
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    for axes, (title, picture) in zip(figure.subplots(rows, columns).flat, pictures, strict=True):
        axes.imshow(picture, cmap="magma", vmin=0, vmax=1)
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    return figure


COFFEE: dict[int, list[list[Pixel]]] = {
    1: [[(20, 60), (20, 560)], [(380, 40), (380, 120)], [(330, 560), (380, 500)], [(180, 520), (250, 570)]],
    2: [[(200, 130), (330, 230), (345, 400), (280, 480)]],
    3: [[(130, 230), (240, 300), (150, 370)]],
}
ROCKET: dict[int, list[list[Pixel]]] = {
    1: [[(20, 20), (200, 60), (300, 120)], [(20, 620), (250, 600)]],
    2: [[(130, 322), (330, 322)]],
    3: [[(410, 30), (415, 610)]],
}


def scribbles() -> Drawn:
    """Strokes, as one draws them."""
    results, above, below = {}, [], []
    for name, corners in (("coffee", COFFEE), ("rocket", ROCKET)):
        image = getattr(data, name)()
        marks = strokes(image.shape[:2], corners)
        results[name] = aproarray.propagate_labels(image, marks)
        above.append((f"{name}: strokes", marked(image, marks)))
        below.append(("labels", painted(image, results[name])))
    return Drawn(panels(above + below, columns=2), results)


COINS = [
    (54, 44), (56, 100), (51, 155), (52, 216), (52, 276), (44, 335),
    (124, 45), (126, 102), (127, 154), (124, 205), (119, 271), (125, 336),
    (197, 44), (195, 102), (198, 154), (193, 212), (194, 274), (187, 347),
    (260, 46), (266, 114), (261, 172), (263, 244), (263, 301), (268, 358),
]  # fmt: skip
BETWEEN_COINS = [(row, column) for row in (8, 90, 160, 230, 295) for column in range(20, 310, 40)]


def clicks() -> Drawn:
    """One click on every coin, some between them: each coin gets a label of its own."""
    image = data.coins()
    marks = points(image.shape, {1: BETWEEN_COINS, **{k: [at] for k, at in enumerate(COINS, 2)}})
    labels = aproarray.propagate_labels(image, marks)
    coins = np.where(labels > 1, labels - 1, 0)
    colours = np.random.default_rng(4).permuted(
        color.hsv2rgb(np.linspace([0, 0.8, 1], [0.95, 0.8, 1], len(COINS))), axis=0
    )
    pictures = [
        ("clicks", marked(image, marks, [BACKGROUND, *colours])),
        ("24 coins", painted(image, coins, colours)),
    ]
    return Drawn(panels(pictures, columns=2), {"labels": labels})


def boxes() -> Drawn:
    """Boxes: what is outside all of them is background, what is in the middle of one is its object."""
    corners = {
        "coffee": [((5, 70), (392, 490))],
        "chelsea": [((84, 132), (150, 210)), ((104, 292), (166, 346))],
    }
    results, pictures = {}, []
    for name, pairs in corners.items():
        image = getattr(data, name)()
        seeds = np.ones(image.shape[:2], int)
        for (top, left), (bottom, right) in pairs:
            seeds[top:bottom, left:right] = 0
        for label, ((top, left), (bottom, right)) in enumerate(pairs, 2):
            centre, radii = ((top + bottom) / 2, (left + right) / 2), ((bottom - top) / 6, (right - left) / 6)
            seeds[draw.ellipse(*centre, *radii)] = label
        results[name] = aproarray.propagate_labels(image, seeds)
        pictures.append(
            (f"{name}: boxes and their middles", marked(image, np.maximum(seeds - 1, 0), COLOURS[1:]))
        )
        pictures.append(("labels", painted(image, np.maximum(results[name] - 1, 0), COLOURS[1:])))
    figure = panels(pictures, columns=2)
    for pairs, row in zip(corners.values(), (figure.axes[:2], figure.axes[2:]), strict=True):
        for ((top, left), (bottom, right)), axes in itertools.product(pairs, row):
            axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color="white", lw=1)
    return Drawn(figure, results)


# A rough outline of the cat's head and chest, for a classifier to have been taught with: (row, column).
CAT = [
    (299, 0), (175, 0), (90, 30), (0, 36), (0, 345), (20, 350), (85, 352), (165, 345), (225, 320), (262, 300),
    (285, 320), (299, 330),
]  # fmt: skip


def coarse() -> Drawn:
    """Scores for patches of 20 pixels, one in ten of them wrong, as a patch classifier gives them."""
    image = data.chelsea()[:, :440]
    cat = draw.polygon2mask(image.shape[:2], CAT)
    share = cat.reshape(15, 20, 22, 20).mean((1, 3))
    wrong = np.random.default_rng(1).random(share.shape) < 0.1
    scores = np.where(wrong, 1 - share, share)
    refined = aproarray.refine(image, scores)
    pictures = [
        ("scores of 15 x 22 patches", scores.repeat(20, 0).repeat(20, 1)),
        ("refined", refined),
        ("above 0.5", painted(image, (refined > 0.5).astype(int), [RED])),
    ]
    return Drawn(panels(pictures, columns=3), {"refined": refined, "cat": cat})


def affinity() -> Drawn:
    """What a pixel sees (the paper's Figure 3): along the tree, and through windows."""
    pixels: dict[str, Pixel] = {"coffee": (330, 330), "rocket": (200, 322), "chelsea": (120, 160)}
    results, rows = {}, []
    for name, pixel in pixels.items():
        image = getattr(data, name)()
        for kind in ("global", "local"):
            results[f"{name}, {kind}"] = aproarray.affinity_map(image, pixel, kind=kind)
        spot = points(image.shape[:2], {1: [pixel]}, radius=6)
        rows += [
            (name, marked(image, spot, [RED])),
            ("global affinity", results[f"{name}, global"]),
            ("local affinity", results[f"{name}, local"]),
        ]
    return Drawn(panels(rows, columns=3), results)


def volume() -> Drawn:
    """Touching grains in a noisy volume, from one point in each: nothing changes but the number of axes."""
    rng = np.random.default_rng(0)
    shape = (48, 96, 144)
    centres = np.array([(z, y, x) for z in (12, 36) for y in (16, 48, 80) for x in range(16, 144, 28)])
    centres += rng.integers(-4, 5, centres.shape)
    pixels = np.moveaxis(np.indices(shape, np.float32), 0, -1)
    radii = rng.uniform(12, 16, len(centres))
    outside = np.stack([np.linalg.norm(pixels - c, axis=-1) - r for c, r in zip(centres, radii, strict=True)])
    nearest, second = np.partition(outside, 1, axis=0)[:2]
    grain = np.where(nearest < 0, outside.argmin(0) + 2, 1)
    clean = np.where(grain > 1, 0.55, 0.2) + 0.12 * np.tanh(nearest / -4)
    clean -= 0.3 * np.exp(-(((second - nearest) / 1.5) ** 2)) * (grain > 1)  # dark seams
    image = (clean + 0.06 * rng.standard_normal(shape)).clip(0, 1)
    seeds = np.zeros(shape, int)
    seeds[:, ::24, ::24] = np.where(grain[:, ::24, ::24] == 1, 1, 0)
    for label, (z, y, x) in enumerate(centres, 2):
        seeds[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = label
    labels = aproarray.propagate_labels(image, seeds)
    colours = rng.permuted(color.hsv2rgb(np.linspace([0, 0.8, 1], [0.95, 0.8, 1], len(centres))), axis=0)
    pictures = []
    for name, at in (("z = 12", np.s_[12]), ("y = 48", np.s_[:, 48]), ("x = 72", np.s_[..., 72])):
        pictures.append((name, painted(255 * image[at], np.maximum(labels[at] - 1, 0), colours)))
    return Drawn(panels(pictures, columns=3), {"labels": labels, "truth": grain})


def comparison() -> Drawn:
    """The same strokes given to three functions, and the processor time they take."""
    image = data.coffee()[::2, ::2] / 255  # at full size, random_walker takes half a minute
    marks = strokes(data.coffee().shape[:2], COFFEE)[::2, ::2]
    edges = filters.sobel(color.rgb2gray(image))
    functions: dict[str, Callable[[], Array]] = {
        "random_walker": lambda: segmentation.random_walker(
            image, marks, beta=130, mode="cg_j", tol=1e-3, channel_axis=-1
        ),
        "watershed": lambda: segmentation.watershed(edges, marks),
        "propagate_labels": lambda: aproarray.propagate_labels(image, marks),
    }
    aproarray.propagate_labels(image, marks)  # loads what is needed
    results, pictures = {}, [("strokes", marked(255 * image, marks))]
    for name, function in functions.items():
        start = time.process_time()
        results[name] = function()
        milliseconds = 1e3 * (time.process_time() - start)
        pictures.append((f"{name}: {milliseconds:.0f} ms", painted(255 * image, results[name])))
    return Drawn(panels(pictures, columns=2), results)


def superpixels() -> Drawn:
    """A tree over SLIC's superpixels instead of pixels: any graph will do (`SpanningTree.from_edges`)."""
    image = data.coffee()
    segments = segmentation.slic(image, n_segments=1500, compactness=5, start_label=0)
    n_segments = segments.max() + 1

    # Neighbours are what touches; an edge weighs the squared difference of mean colours.
    lab = color.rgb2lab(image).reshape(-1, 3) / 100
    size = np.bincount(segments.ravel())
    mean = np.stack([np.bincount(segments.ravel(), lab[:, c]) / size for c in range(3)], -1)
    touching = np.concatenate(
        [
            np.stack([segments[:-1].ravel(), segments[1:].ravel()], -1),
            np.stack([segments[:, :-1].ravel(), segments[:, 1:].ravel()], -1),
        ]
    )
    edges = np.unique(np.sort(touching[touching[:, 0] != touching[:, 1]], axis=1), axis=0)
    weights = ((mean[edges[:, 0]] - mean[edges[:, 1]]) ** 2).sum(-1)
    tree = aproarray.SpanningTree.from_edges(edges, weights, n_nodes=n_segments)

    marks = strokes(image.shape[:2], COFFEE)
    evidence = np.zeros((n_segments, marks.max()))
    np.add.at(evidence, (segments[marks > 0], marks[marks > 0] - 1), 1)
    evidence /= evidence.sum(0)  # a long stroke counts as much as a short one
    scores = aproarray.global_propagate(evidence, tree, zeta=0.04)
    labels = (scores.argmax(-1) + 1)[segments]
    borders = segmentation.mark_boundaries(marked(image, marks), segments, (1, 1, 1), mode="inner")
    pictures = [(f"{n_segments} superpixels", borders), ("labels", painted(image, labels))]
    return Drawn(panels(pictures, columns=2), {"labels": labels})


def tiles() -> Drawn:
    """Local propagation of an image over itself, a filter that keeps edges, by `apply_parallel` in tiles.

    A step of k x k windows sees k // 2 pixels far: with tiles that overlap by that for each step, the result
    is that of the whole image, of which no more than some tiles need be in memory.
    """
    image = data.immunohistochemistry() / 255
    iterations = 6
    settings = {"zeta": 0.06, "kernel_size": 5, "iterations": iterations}

    def smooth(tile: Array) -> Array:
        return aproarray.local_propagate(tile, tile, **settings, workers=1)

    smoothed = util.apply_parallel(
        smooth, image, chunks=(192, 192), depth=2 * iterations, mode="none", channel_axis=-1
    )
    pictures = [("image", image), ("smoothed, in 9 tiles", smoothed)]
    return Drawn(panels(pictures, columns=2), {"tiles": smoothed, "whole": smooth(image)})


EXAMPLES = {
    example.__name__: example
    for example in (
        scribbles, clicks, boxes, coarse, affinity, volume, comparison, superpixels, tiles,
    )
}  # fmt: skip


def save(figure: Figure, path: Path) -> None:
    """Save a figure as a PNG of 256 colours, which is a third of the size."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = PIL.Image.fromarray(np.array(canvas.buffer_rgba())[..., :3])
    picture.quantize(256, PIL.Image.Quantize.FASTOCTREE, dither=PIL.Image.Dither.NONE).save(
        path, optimize=True
    )


def main() -> None:
    """Draw the examples that are named on the command line."""
    parser = argparse.ArgumentParser(description="Draw the gallery's figures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXAMPLES)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="FOLDER", help="where (default: here)")
    options = parser.parse_args()
    for name in options.names:
        if name not in EXAMPLES:
            parser.error(f"no example is called {name}, there are {', '.join(EXAMPLES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or EXAMPLES:
        path = options.out / f"gallery_{name}.png"
        start = time.perf_counter()
        save(EXAMPLES[name]().figure, path)
        print(f"saved {path} after {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
