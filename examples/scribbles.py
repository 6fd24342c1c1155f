"""
==========================
From scribbles to segments
==========================

A few strokes say what is what in a photograph; affinity propagation says it of every other pixel.

1. *Smooth* the colours with `local_propagate` of the image over itself, an edge-preserving filter.
2. *Global propagation* (GP) of the strokes along the minimum spanning tree of the smoothed image.
   It reaches every pixel of an object, however far away, as long as no strong edge is in between.
3. *Local propagation* (LP) of the result over small windows, which settles what the tree leaves
   undecided: specks, thin lines, and the seams between objects.

Run it with ``python examples/scribbles.py`` or ``python -m aproarray demo``.
"""

# sphinx_gallery_thumbnail_path = "images/scribbles.png"

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from skimage import color, data, draw, measure, morphology, segmentation

import aproarray

Array = NDArray[Any]
Result = TypeVar("Result")

# Corners (row, column) of the strokes of each class, which are rounded and drawn five pixels wide.
STROKES = {
    "background": [
        [(15, 100), (70, 120), (150, 100)],
        [(20, 335), (130, 345), (290, 345)],
        [(60, 490), (255, 490)],
        [(290, 400), (330, 470), (420, 505)],
    ],
    "astronaut": [
        [(60, 175), (25, 225), (35, 270), (95, 288)],
        [(120, 205), (150, 220), (160, 240)],
        [(170, 140), (235, 150), (290, 205), (292, 255), (272, 285)],
        [(190, 200), (225, 160), (268, 235), (230, 280)],
        [(240, 90), (385, 170), (480, 110)],
        [(300, 80), (350, 34), (400, 40), (450, 65)],
        [(350, 248), (440, 242)],
        [(310, 275), (362, 285), (362, 325), (300, 345)],
        [(470, 282), (420, 300), (435, 360), (440, 440)],
        [(350, 430), (395, 480), (480, 500)],
    ],
    "flag": [
        [(112, 3), (60, 4), (5, 5), (15, 35), (75, 45), (115, 20)],
        [(104, 58), (125, 68), (160, 78)],
        [(140, 52), (195, 80)],
        [(150, 30), (215, 75)],
        [(215, 15), (300, 30)],
        [(315, 10), (390, 20)],
        [(440, 8), (480, 30), (505, 8)],
    ],
    "shuttle": [
        [(15, 410), (90, 425), (160, 434)],
        [(60, 387), (120, 390), (195, 388), (215, 372), (218, 425)],
        [(60, 443), (225, 445)],
        [(235, 382), (265, 372)],
        [(240, 445), (268, 450)],
    ],
}
COLORS = np.array([(0.80, 0.82, 0.86), (0.95, 0.25, 0.42), (0.12, 0.40, 0.95), (0.00, 0.70, 0.52)])
ASTRONAUT = list(STROKES).index("astronaut")
CHEEK = (145, 200)

# Colours are CIELAB / 100: 0.01 is about the smallest difference one can see. Each zeta is the step between
# two pixels that lowers their affinity to 1/e.
SMOOTHING_ZETA = 0.012  # evens out grain and weave, leaves every visible edge
GLOBAL_ZETA = 0.004  # even a barely visible edge counts: a white stripe and a shuttle on a pale wall
LOCAL_ZETA = 0.1  # specks and thin lines should go, so that only a strong edge may stop labels here
MAP_ZETA = 0.05  # wide enough to see the affinity of one pixel fade in the figure


class Propagation(NamedTuple):
    """What the steps gave: the tree, and the share of each class in each pixel (H, W, C)."""

    tree: aproarray.SpanningTree
    after_global: Array
    after_local: Array


def scribble(shape: tuple[int, int]) -> Array:
    """Return the class of every scribbled pixel, and -1 elsewhere."""
    classes = np.full(shape, -1)
    for number, strokes in enumerate(STROKES.values()):
        ink = np.zeros(shape, bool)
        for corners in strokes:
            curve = np.array(corners)
            for _ in range(3):
                curve = measure.subdivide_polygon(curve, degree=2, preserve_ends=True)
            for start, end in itertools.pairwise(curve.round().astype(int)):
                ink[draw.line(*start, *end)] = True
        classes[morphology.isotropic_dilation(ink, 2)] = number
    return classes


def timed(step: str, compute: Callable[[], Result]) -> Result:
    """Call twice, as the first call loads modules. Say how long each took. Return the result."""
    milliseconds = []
    for _ in range(2):
        start = time.perf_counter()
        result = compute()
        milliseconds.append(1000 * (time.perf_counter() - start))
    print(f"  {step:<48}{milliseconds[1]:8.1f} ms{milliseconds[0]:11.1f} ms")
    return result


def class_shares(scores: Array) -> Array:
    """Divide scores by their sum over the classes; where every one is 0, no class has a share."""
    total = scores.sum(axis=-1, keepdims=True)
    shares: Array = np.divide(scores, total, out=np.zeros_like(scores), where=total > 0)
    return shares


def propagate(image: Array, scribbles: Array) -> Propagation:
    """Propagate scribbles, classes from 0 and -1 for none, over an RGB image."""
    lab = color.rgb2lab(image) / 100
    scribbled = (scribbles >= 0)[..., None]
    seeds = np.where(scribbled, np.eye(len(STROKES))[scribbles], 0.0)

    smooth = timed(
        "smooth the colours (LP of the image over itself)",
        lambda: aproarray.local_propagate(lab, lab, zeta=SMOOTHING_ZETA),
    )
    tree = timed("minimum spanning tree", lambda: aproarray.mst(smooth))
    scores = timed(
        f"global propagation of {len(STROKES)} classes",
        lambda: aproarray.global_propagate(seeds, tree, zeta=GLOBAL_ZETA),
    )
    # GP averages over all pixels, most of which have no stroke: the scores are small, but share one
    # denominator, which the shares of the classes do not see. A pixel behind an edge of d > 745 zeta^2
    # gets exactly 0 of each class (exp underflows): it stays undecided, and LP fills it in.
    after_global = class_shares(scores)
    held = np.where(scribbled, seeds, after_global)  # a stroke is right, whatever the tree says
    scores = timed(
        "local propagation, 20 steps of 5 x 5 windows",
        lambda: aproarray.local_propagate(held, lab, zeta=LOCAL_ZETA),
    )
    return Propagation(tree, after_global, np.where(scribbled, seeds, class_shares(scores)))


def labels(shares: Array) -> Array:
    """Return the class with the largest share in every pixel, -1 where none has any."""
    return np.where(shares.max(axis=-1) > 0, shares.argmax(axis=-1), -1)


def paint(image: Array, classes: Array) -> Array:
    """Tint a grey version of the image by class, white where there is none, with white contours."""
    grey = color.rgb2gray(image)[..., None]
    painted = np.where((classes >= 0)[..., None], 0.4 * grey + 0.6 * COLORS[classes], 1.0)
    painted[segmentation.find_boundaries(classes, mode="inner")] = 1.0
    return painted


def plot(image: Array, scribbles: Array, result: Propagation) -> Figure:
    """Draw the six panels."""
    scribbled = scribbles >= 0
    haloed = np.where(morphology.isotropic_dilation(scribbled, 2)[..., None], 1.0, image / 255)
    matte = result.after_local[..., [ASTRONAUT]]
    panels: list[tuple[str, Array]] = [
        ("A photograph", image),
        ("Scribbles", np.where(scribbled[..., None], COLORS[scribbles], haloed)),
        ("Affinity of one pixel to the others", result.tree.affinity(CHEEK, zeta=MAP_ZETA)),
        ("Global propagation (GP)", paint(image, labels(result.after_global))),
        ("GP, then local propagation (LP)", paint(image, labels(result.after_local))),
        ("The astronaut, cut out by her share", matte * image / 255 + (1 - matte)),
    ]
    figure = Figure(figsize=(9.6, 6.9), dpi=100, layout="constrained")
    for axes, (title, picture) in zip(figure.subplots(2, 3).flat, panels, strict=True):
        axes.imshow(picture, cmap="magma")
        axes.set_title(title, fontsize=11, color="0.15")
        axes.set_axis_off()
    figure.axes[2].plot(*CHEEK[::-1], "o", markersize=6, color="white", markeredgecolor="black")
    legend = [*zip(STROKES, COLORS, strict=True), ("undecided", "white")]
    handles = [Patch(facecolor=color, edgecolor="0.6", label=name) for name, color in legend]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def main(out: str | Path = "scribbles.png") -> Propagation:
    """Run the example, say what it does and how long it takes, and save the figure to `out`."""
    image = data.astronaut()
    scribbles = scribble(image.shape[:2])
    print(
        f"{image.shape[0]} x {image.shape[1]} pixels, {sum(map(len, STROKES.values()))} strokes of "
        f"{len(STROKES)} classes over {(scribbles >= 0).mean():.1%} of them"
    )
    print(f"{'time':>61}{'first call':>14}")
    result = propagate(image, scribbles)
    undecided = (labels(result.after_global) < 0).mean()
    moved = (labels(result.after_global) != labels(result.after_local)).mean()
    print(f"GP left {undecided:.1%} of the pixels undecided; LP changed the label of {moved:.1%}")
    plot(image, scribbles, result).savefig(out)
    print(f"saved {out}")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
