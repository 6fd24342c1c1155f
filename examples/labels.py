"""
===================
From marks to masks
===================

`propagate_labels` on two photographs, from a few strokes, with no parameter.

Run it with ``python examples/labels.py``.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage import color, data, draw, segmentation

import aproarray

Array = NDArray[Any]

# Corners (row, column) of the strokes of each class.
SCENES = {
    "coffee": [
        [[(20, 60), (20, 560)], [(380, 40), (380, 120)], [(330, 560), (380, 500)], [(180, 520), (250, 570)]],
        [[(200, 130), (330, 230), (345, 400), (280, 480)]],
        [[(130, 230), (240, 300), (150, 370)]],
    ],
    "rocket": [
        [[(20, 20), (200, 60), (300, 120)], [(20, 620), (250, 600)]],
        [[(130, 322), (330, 322)]],
        [[(410, 30), (415, 610)]],
    ],
}


def strokes(name: str, shape: tuple[int, int]) -> Array:
    """Return the strokes of a scene as labels from 1, five pixels wide."""
    labels = np.zeros(shape, int)
    for label, lines in enumerate(SCENES[name], 1):
        for line in lines:
            for (r0, c0), (r1, c1) in itertools.pairwise(line):
                rows, columns = draw.line(r0, c0, r1, c1)
                for row, column in zip(rows, columns, strict=True):
                    labels[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = label
    return labels


def main(out: Path) -> dict[str, Array]:
    """Draw the figure and return the labels of each scene."""
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    axes = figure.subplots(2, len(SCENES))
    results = {}
    colours = [(0.2, 0.45, 1), (1, 0.25, 0.2), (1, 0.85, 0.1)]
    for (above, below), name in zip(axes.T, SCENES, strict=True):
        image = getattr(data, name)()
        marks = strokes(name, image.shape[:2])
        start = time.perf_counter()
        results[name] = aproarray.propagate_labels(image, marks)
        milliseconds = 1e3 * (time.perf_counter() - start)
        drawn = color.label2rgb(marks, colors=colours, bg_label=0)
        above.imshow(np.where(marks[..., None] > 0, drawn, image / 255))
        painted = color.label2rgb(results[name], image, colours, alpha=0.35, saturation=1)
        below.imshow(segmentation.mark_boundaries(painted, results[name], (1, 1, 1)))
        above.set_title(f"{name}, {image.shape[0]} x {image.shape[1]}", fontsize=9)
        print(f"{name}: {milliseconds:.0f} ms")
        for axis in (above, below):
            axis.set_axis_off()
    figure.savefig(out, dpi=100)
    print(f"saved {out}")
    return results


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "labels.png"))
