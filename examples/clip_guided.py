"""
=============================================
From a language-image model's scores to masks
=============================================

The CLIP-guided path: the dense scores of a frozen model are denoised, smoothed by its keys, and propagated
over the image, to be the labels that a network is trained with.

With any model that has saved (h, w, classes) probabilities and (h, w, features) keys of an image::

    python examples/clip_guided.py --image photo.jpg --scores scores.npy --keys keys.npy

Without one, ``python examples/clip_guided.py`` makes both from a bundled photograph, and says so.

``python examples/clip_guided.py --data FOLDER`` compares the steps over the test images of a folder, laid out
as for ``train_weak_segmentation.py``, in the order of the paper's Table A1. A small network stands in for the
language-image model: it is trained with few images, and its scores and features are averaged over patches.
The table shows the order of the steps, not how well they would do on a model's scores.
"""

# sphinx_gallery_thumbnail_path = "images/clip_guided.png"

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage
from skimage import color, data, draw, io, transform

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
    widened: Array = ndimage.grey_dilation(labels, (5, 5))
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


def stand_in(options: argparse.Namespace) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Yield image, scores, keys and truth of held-out images, of a network trained with few of a folder's.

    Scores are its probabilities, keys the features that it classifies, both averaged over patches. After
    their ReLU, features of any two patches are alike. The image's mean is therefore subtracted from its keys.
    """
    import torch
    from scenes import VOID, Network, fit, load, pictures, select

    from aproarray.torch import partial_cross_entropy

    scenes = load(options.data, "train", options.shrink, options.ignore)
    torch.manual_seed(options.seed)
    # As far from one another as they can be: neighbours in a list are often alike.
    few = select(scenes, torch.linspace(0, len(scenes.masks) - 1, options.images).round().long()).mirrored()
    network = Network(int(scenes.masks[scenes.masks != VOID].max()) + 1, 16)

    def loss_of(index: torch.Tensor, done: float) -> torch.Tensor:
        scores = network(few.images[index])
        return partial_cross_entropy(scores, few.masks[index], ignore_index=VOID)

    fit(network, loss_of, len(few.images), options.steps, f"stand-in trained with {options.images} images")
    network.eval()
    features: list[torch.Tensor] = []
    network.classify.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    held_out = load(options.data, options.held_out, options.shrink, options.ignore)
    rows, columns = (extent // PATCH * PATCH for extent in held_out.masks.shape[1:])
    for image, normalised, mask in zip(
        pictures(held_out), held_out.images[:, :, :rows, :columns], held_out.masks, strict=True
    ):
        with torch.no_grad():
            scores = network(normalised[None]).softmax(1)
        patches = [
            np.moveaxis(torch.nn.functional.avg_pool2d(values, PATCH)[0].numpy(), 0, -1)
            for values in (scores, features.pop())
        ]
        patches[1] -= patches[1].mean((0, 1))
        yield image[:rows, :columns], *patches, mask[:rows, :columns].numpy()


def published(image: Array, scores: Array, keys: Array) -> dict[str, Array]:
    """Return the scores of every pixel, in the order of the paper's Table A1."""
    denoised = prompt_denoising(scores)

    def upsampled(values: Array) -> Array:
        return np.asarray(
            transform.resize(values, (*image.shape[:2], values.shape[-1]), order=1, mode="edge")
        )

    return {
        "the model's scores": upsampled(scores),
        "+ KS": upsampled(key_smoothing(scores, keys)),
        "+ KS + PD": upsampled(key_smoothing(denoised, keys)),
        "+ APro": aproarray.refine(image, scores),
        "+ APro + PD": aproarray.refine(image, denoised),
    }


def compare(options: argparse.Namespace) -> dict[str, float]:
    """Print and return the mean IoU of every step over a folder's held-out images, and write it as JSON."""
    predicted: dict[str, list[Array]] = {}
    truths = []
    start = time.perf_counter()
    for image, scores, keys, truth in stand_in(options):
        truths.append(truth)
        for name, values in published(image, scores, keys).items():
            predicted.setdefault(name, []).append(values.argmax(-1))
    truth = np.stack(truths)
    results = {name: mean_iou(np.stack(classes), truth) for name, classes in predicted.items()}
    print(
        f"\nMean IoU in percent, {len(truths)} images of {options.held_out}. A network trained with "
        f"{options.images} images stands in for the model ({options.steps} steps, seed {options.seed}):\n\n"
        "| scores | mean IoU |\n|---|---:|"
    )
    for name, value in results.items():
        print(f"| {name} | {100 * value:.1f} |")
    if options.results:
        settings = {
            name: getattr(options, name) for name in ("held_out", "images", "steps", "seed", "shrink")
        }
        seconds = round(time.perf_counter() - start)
        made = {"data": options.data.name, **settings, "mean_iou": results, "seconds": seconds}
        options.results.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return results


def main(argv: Sequence[str] | None = None) -> dict[str, Array] | dict[str, float]:
    """Refine the scores, draw every step, and save the labels."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--image", type=Path)
    parser.add_argument("--scores", type=Path, help="(h, w, classes) probabilities, .npy")
    parser.add_argument("--keys", type=Path, help="(h, w, features) keys of the same patches, .npy")
    parser.add_argument("--figure", type=Path, default=Path("clip_guided.png"))
    parser.add_argument("--labels", type=Path, help="where to save the labels (.npy)")
    folder = parser.add_argument_group("the comparison over a folder")
    folder.add_argument(
        "--data", type=Path, help="images and labels: train/image, train/label, test/image, ..."
    )
    folder.add_argument("--shrink", type=int, default=1, help="average images over N x N pixels (default 1)")
    folder.add_argument(
        "--ignore", type=int, default=255, help="label of pixels without a class (default 255)"
    )
    folder.add_argument(
        "--images", type=int, default=24, help="that the stand-in is trained with (default 24)"
    )
    folder.add_argument("--steps", type=int, default=150, help="of its training, 8 images each (default 150)")
    folder.add_argument("--held-out", choices=("val", "test"), default="test", help="val for choices")
    folder.add_argument("--seed", type=int, default=0, help="of the stand-in (default 0)")
    folder.add_argument("--results", type=Path, help="where to write the comparison (.json)")
    options = parser.parse_args(argv)
    if options.data:
        return compare(options)
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
