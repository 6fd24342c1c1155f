"""Score masks against human segmentations: ``python -m benchmarks.quality FOLDER``.

FOLDER holds photographs NAME.jpg, and for each its segmentation NAME.npz: an array `segmentation` (H, W) of
integers, a number for each region. Prints the tables of docs/quality.md. Evidence is made of it:

* scribble: the skeleton of each region's largest piece, kept 3 pixels off its border;
* point: a disk of radius 3 at the innermost pixel of each region;
* coarse: the segmentation averaged over 16 x 16 patches, one patch in five having the scores of another.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import color, filters, io, measure, morphology, segmentation

import aproarray
from aproarray import _labels, _relief, related

Array = NDArray[Any]
Method = Callable[[Array, Array], Array]

PATCH = 16


class Photograph(NamedTuple):
    """An image in [0, 1], its regions, numbered from 1, and the evidence of each kind."""

    image: Array
    regions: Array
    evidence: dict[str, Array]


def read(folder: Path, limit: int | None) -> Iterator[Photograph]:
    """Read the photographs of a folder, in the order of their names."""
    for path in sorted(folder.glob("*.jpg"))[:limit]:
        with np.load(path.with_suffix(".npz")) as arrays:
            drawn = arrays["segmentation"]
        regions = np.unique(drawn, return_inverse=True)[1].reshape(drawn.shape) + 1
        yield Photograph(
            io.imread(path) / 255,
            regions,
            {
                "scribble": seeds(regions, scribble),
                "point": seeds(regions, point),
                "coarse": coarse(regions),
            },
        )


def seeds(regions: Array, draw: Callable[[Array], Array]) -> Array:
    """Return labels: those of the regions where `draw` marks their largest piece, 0 elsewhere."""
    labels = np.zeros_like(regions)
    for region in range(1, regions.max() + 1):
        pieces = measure.label(regions == region)
        labels[draw(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1)] = region
    return labels


def depth(piece: Array) -> Array:
    """Return the distance of a piece's pixels to its border, or the image's."""
    return ndimage.distance_transform_edt(np.pad(piece, 1))[1:-1, 1:-1]


def scribble(piece: Array) -> Array:
    """Mark the skeleton of what is more than 3 pixels off the border, if anything is."""
    core = depth(piece) > 3
    return morphology.skeletonize(core if core.any() else piece)


def point(piece: Array) -> Array:
    """Mark a disk of radius 3 at the innermost pixel."""
    row, column = np.unravel_index(depth(piece).argmax(), piece.shape)
    rows, columns = np.ogrid[: piece.shape[0], : piece.shape[1]]
    return ((rows - row) ** 2 + (columns - column) ** 2 <= 9) & piece


def coarse(regions: Array) -> Array:
    """Return scores (H, W, regions) that are the same within a patch, one patch in five having another's."""
    shares = np.eye(regions.max(), dtype=np.float32)[regions - 1]
    height, width, n = shares.shape
    rows, columns = -(-height // PATCH), -(-width // PATCH)
    shares = np.pad(shares, ((0, rows * PATCH - height), (0, columns * PATCH - width), (0, 0)), mode="edge")
    patches = shares.reshape(rows, PATCH, columns, PATCH, n).mean((1, 3)).reshape(-1, n)
    rng = np.random.default_rng(0)
    wrong = rng.random(len(patches)) < 0.2
    patches[wrong] = patches[rng.integers(0, len(patches), wrong.sum())]
    return patches.reshape(rows, columns, n).repeat(PATCH, 0).repeat(PATCH, 1)[:height, :width]


def mean_iou(labels: Array, regions: Array) -> float:
    """Return the intersection over union of labels with regions, averaged over the regions."""
    return related.mean_iou(labels, regions, classes=range(1, regions.max() + 1), ignore_index=0)


def nearest_seed(image: Array, labels: Array) -> Array:
    at = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    return labels[tuple(at)]


def random_walker(image: Array, labels: Array) -> Array:
    return segmentation.random_walker(image, labels, beta=130, mode="cg_j", tol=1e-3, channel_axis=-1)


def watershed(image: Array, labels: Array) -> Array:
    return segmentation.watershed(filters.sobel(color.rgb2gray(image)), labels)


def refined(image: Array, scores: Array, **options: Any) -> Array:
    return aproarray.refine(image, scores, **options).argmax(-1) + 1


def refined_patches(image: Array, scores: Array) -> Array:
    return refined(image, scores[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH])


def with_changes(method: Method, *changes: tuple[Any, str, Any], **options: Any) -> Method:
    """Return a method for which attributes of modules are others."""

    def changed(image: Array, evidence: Array) -> Array:
        with contextlib.ExitStack() as stack:
            for module, name, value in changes:
                stack.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, value)
            return method(image, evidence, **options)

    return changed


def combined(combine: Callable[[Array], Array]) -> tuple[Any, str, Any]:
    """Return a change: the same relief three times, made of the three."""
    original = _relief.reliefs
    return (
        _relief, "reliefs", lambda *arguments: np.repeat(combine(original(*arguments))[None], 3, axis=0),
    )  # fmt: skip


SEEDS: dict[str, Method] = {
    "nearest seed": nearest_seed,
    "skimage `watershed` of sobel": watershed,
    "**`propagate_labels`**": aproarray.propagate_labels,
    "one relief: the finest": with_changes(aproarray.propagate_labels, combined(lambda r: r[1])),
    "one relief: the middle one": with_changes(aproarray.propagate_labels, combined(lambda r: r[0])),
    "one relief: the coarsest": with_changes(aproarray.propagate_labels, combined(lambda r: r[2])),
    "one relief: their sum": with_changes(aproarray.propagate_labels, combined(lambda r: r.sum(0))),
    "gradients as they are": with_changes(
        aproarray.propagate_labels, (_relief, "_over_what_is_usual", lambda gradients, *_: gradients)
    ),
    "usual: over 8 pixels": with_changes(aproarray.propagate_labels, (_relief, "_AROUND", (2, 4, 8, 8))),
    "usual: over 26 pixels": with_changes(aproarray.propagate_labels, (_relief, "_AROUND", (4, 8, 16, 32))),
    "RGB": with_changes(aproarray.propagate_labels, convert2lab=False),
    "two scales that agree, else the middle one": with_changes(
        aproarray.propagate_labels, (_labels, "_STRENGTH", 0.0)
    ),
    "strength halved": with_changes(aproarray.propagate_labels, (_labels, "_STRENGTH", 6.0)),
    "strength doubled": with_changes(aproarray.propagate_labels, (_labels, "_STRENGTH", 24.0)),
    "no votes": with_changes(aproarray.propagate_labels, (_labels, "_VOTES", (0, 0))),
    "1 vote": with_changes(aproarray.propagate_labels, (_labels, "_VOTES", (1, 1))),
    "20 votes": with_changes(aproarray.propagate_labels, (_labels, "_VOTES", (20, 20))),
    "zeta of votes halved": with_changes(aproarray.propagate_labels, (_labels, "_ZETA_STEPS", 1.5)),
    "zeta of votes doubled": with_changes(aproarray.propagate_labels, (_labels, "_ZETA_STEPS", 6.0)),
}
SCORES: dict[str, Method] = {
    "unrefined": lambda image, scores: scores.argmax(-1) + 1,
    "**`refine`**": refined,
    "`refine` of one score for each patch": refined_patches,
    **{
        f'mode="{mode}"': with_changes(refined, mode=mode)
        for mode in ("global", "global-local", "local-global", "parallel")
    },
    "20 iterations": with_changes(refined, iterations=20),
    "100 iterations": with_changes(refined, iterations=100),
    "zeta 1 step": with_changes(refined, (_labels, "_REFINE_STEPS", 1.0)),
    "zeta 3 steps": with_changes(refined, (_labels, "_REFINE_STEPS", 3.0)),
}


def cells(scores: Array) -> str:
    """Return a mean, and those of even and odd images."""
    return f"{scores.mean():.3f} | {scores[::2].mean():.3f} {scores[1::2].mean():.3f}"


def main() -> None:
    """Score, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images (at least 2)")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name has it")
    parser.add_argument("--random-walker", action="store_true", help="score it as well: minutes")
    options = parser.parse_args()
    photographs = list(read(options.folder, options.limit))
    if len(photographs) < 2:
        parser.error(f"{options.folder} must hold at least 2 photographs NAME.jpg with NAME.npz")
    rows = {
        **SEEDS,
        **({"skimage `random_walker`, beta 130": random_walker} if options.random_walker else {}),
    }

    def score(method: Method, kind: str) -> Array:
        return np.array([mean_iou(method(p.image, p.evidence[kind]), p.regions) for p in photographs])

    for kinds, methods in ((("scribble", "point"), rows), (("coarse",), SCORES)):
        print("| |", " | ".join(f"{kind} | halves" for kind in kinds), "|")
        print("|---|" + "---:|---|" * len(kinds))
        for name, method in methods.items():
            if options.only in name:
                print(
                    "|", name, "|", " | ".join(cells(score(method, kind)) for kind in kinds), "|", flush=True
                )
        print()


if __name__ == "__main__":
    main()
