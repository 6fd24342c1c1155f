"""
=============================================
From a language-image model's scores to masks
=============================================

The CLIP-guided path: the dense scores of a frozen model are denoised, smoothed by its keys, and propagated
over the image, to be the labels that a network is trained with.

With any model that has saved (h, w, classes) probabilities and (h, w, features) keys of an image::

    python examples/clip_guided.py --image photo.jpg --scores scores.npy --keys keys.npy

Without one, ``python examples/clip_guided.py`` makes both from a bundled photograph, and says so.
"""

# sphinx_gallery_thumbnail_path = "images/clip_guided.png"

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage import color, data, draw, io, morphology, transform

import aproarray
from aproarray.related import key_smoothing, mean_iou, prompt_denoising

Array = NDArray[Any]

PATCH = 16  # pixels along a side of what a vision transformer sees as one
ABSENT = 4  # classes that the model is asked for and that the photograph does not show
# Corners (row, column) of the strokes of each class on the photograph.
STROKES = {
    1: [[(20, 60), (20, 560)], [(380, 40), (380, 120)], [(330, 560), (380, 500)], [(180, 520), (250, 570)]],
    2: [[(200, 130), (330, 230), (345, 400), (280, 480)]],
    3: [[(130, 230), (240, 300), (150, 370)]],
}


def strokes(shape: tuple[int, int]) -> Array:
    """Return the labels of the strokes, five pixels wide."""
    labels = np.zeros(shape, int)
    for label, lines in STROKES.items():
        for start, end in itertools.chain.from_iterable(map(itertools.pairwise, lines)):
            labels[draw.line(*start, *end)] = label
    widened: Array = morphology.dilation(labels, np.ones((5, 5)))
    return widened


def made_up(seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Return a photograph, scores and keys like those of a model with 16 x 16 patches, and the truth.

    The truth comes from strokes on the photograph. Scores are its patches, with errors in blobs and noise,
    and classes that are not there. Keys are of the patches' colours and places. They show what the steps do,
    not how well they would do on a model's scores.
    """
    rng = np.random.default_rng(seed)
    image = data.coffee()
    truth = aproarray.propagate_labels(image, strokes(image.shape[:2])) - 1
    n_classes = int(truth.max()) + 1

    def patches(pixels: Array) -> Array:
        whole = pixels[: len(pixels) // PATCH * PATCH, : pixels.shape[1] // PATCH * PATCH]
        return transform.downscale_local_mean(whole, (PATCH, PATCH, 1))

    there = patches(np.eye(n_classes)[truth])
    grid = there.shape[:2]
    logits = np.concatenate([2 * there, np.full((*grid, ABSENT), -1.5)], axis=-1)
    blobs = transform.resize(rng.normal(size=(9, 13, logits.shape[-1])), logits.shape, order=1)
    logits += 0.8 * blobs + 0.9 * rng.normal(size=logits.shape)
    scores = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    # Random waves over colours and places: alike patches have alike keys, others nothing in common.
    colours, places = patches(color.rgb2lab(image)) / 20, np.moveaxis(np.indices(grid), 0, -1) / 4
    waves = np.concatenate([colours, places], axis=-1) @ rng.normal(size=(5, 128))
    waves += rng.uniform(0, 2 * np.pi, 128)
    keys = np.cos(waves) + 0.5 * rng.normal(size=waves.shape)
    return image, scores, keys, truth


def stages(image: Array, scores: Array, keys: Array) -> dict[str, Array]:
    """Return the scores of each step."""
    denoised = prompt_denoising(scores)
    smoothed = np.maximum(key_smoothing(denoised, keys), 0)
    smoothed /= np.maximum(smoothed.sum(-1, keepdims=True), 1e-12)
    return {
        "the model's scores": scores,
        "prompt denoising": denoised,
        "key smoothing": smoothed,
        "propagated": aproarray.refine(image, smoothed),
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Array]:
    """Refine the scores, draw every step, and save the labels."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--image", type=Path)
    parser.add_argument("--scores", type=Path, help="(h, w, classes) probabilities, .npy")
    parser.add_argument("--keys", type=Path, help="(h, w, features) keys of the same patches, .npy")
    parser.add_argument("--figure", type=Path, default=Path("clip_guided.png"))
    parser.add_argument("--labels", type=Path, help="where to save the labels (.npy)")
    options = parser.parse_args(argv)
    files = (options.image, options.scores, options.keys)
    truth = None
    if all(files):
        image, scores, keys = io.imread(options.image), np.load(options.scores), np.load(options.keys)
    elif any(files):
        parser.error("--image, --scores and --keys go together")
    else:
        print("no model's scores given: scores and keys are made up from scikit-image's 'coffee'")
        image, scores, keys, truth = made_up()
    results = stages(image, scores, keys)
    kept = results["prompt denoising"].max((0, 1)) > 0
    print(f"prompt denoising drops {(~kept).sum()} of {len(kept)} classes")
    figure = Figure(figsize=(2.1 * (1 + len(results)), 2.0), dpi=100, layout="constrained")
    axes = figure.subplots(1, 1 + len(results))
    axes[0].imshow(image)
    axes[0].set_title("image", fontsize=9)
    n_classes = scores.shape[-1]
    shown = ListedColormap(
        ["#3b6fd4", "#e4572e", "#f0c63c", *(f"C{i}" for i in range(2, n_classes))][:n_classes]
    )
    for place, (name, values) in zip(axes[1:], results.items(), strict=True):
        labels = values.argmax(-1)
        place.imshow(labels, cmap=shown, vmin=0, vmax=n_classes - 1, interpolation="nearest")
        title = name
        if truth is not None:
            at_size = transform.resize(labels, truth.shape, order=0, preserve_range=True).astype(int)
            title += f"\nmean IoU {100 * mean_iou(at_size, truth, classes=range(truth.max() + 1)):.0f}"
        place.set_title(title, fontsize=9)
        print(title.replace("\n", ": "))
    for place in axes:
        place.set_axis_off()
    figure.savefig(options.figure, bbox_inches="tight")
    print(f"saved {options.figure}")
    if options.labels:
        np.save(options.labels, results["propagated"].argmax(-1))
        print(f"saved {options.labels}")
    return results


if __name__ == "__main__":
    main()
