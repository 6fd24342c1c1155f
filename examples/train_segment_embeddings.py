"""
=========================================
Learning embeddings from labelled points
=========================================

Universal weakly supervised segmentation (SPML): a network learns an embedding of every pixel by contrasting
pixels with segments, told one point for each object. An image is then cut into segments by its embeddings,
and each segment takes the label of the most similar ones that are labelled. The same network with a softmax,
trained on the same points, is the baseline.

Run it with ``python examples/train_segment_embeddings.py --quick`` (minutes), without ``--quick`` for the
whole table.
"""

# sphinx_gallery_thumbnail_path = "images/segment_embeddings.png"

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scenes import VOID, Network, Scenes, annotate, draw_figure, fit, generate, percent
from skimage.segmentation import felzenszwalb
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from aproarray.related import mean_iou, nearest_neighbor_labels, spherical_kmeans
from aproarray.torch import (
    SPML_WEIGHTS,
    SegmentBank,
    partial_cross_entropy,
    segment_prototypes,
    spml_loss,
)

N_CLASSES, N_FEATURES = 4, 16
GRID = 4  # cells along an axis that k-means begins with
POINTS = SPML_WEIGHTS["points"]
NOTHING = (0.0, 1.0)
METHODS = {
    "softmax": None,
    "annotation": POINTS._replace(image=NOTHING, cooccurrence=NOTHING),
    "+ image similarity": POINTS._replace(cooccurrence=NOTHING),
    "+ co-occurrence": POINTS,
}


def halved(labels: Tensor) -> Tensor:
    """Return labels at half the size: no point is lost."""
    return -F.max_pool2d(-labels[:, None].float(), 2)[:, 0].long()


def regions(scenes: Scenes) -> Tensor:
    """Return an over-segmentation at half the size."""
    images = F.avg_pool2d(scenes.images, 2).movedim(1, -1).numpy()
    zones = [felzenszwalb(image, scale=100, sigma=0.5, min_size=24) for image in images]
    return torch.from_numpy(np.stack(zones))


def train(
    scenes: Scenes, labels: Tensor, zones: Tensor, method: str, seed: int, steps: int, progress: str
) -> Network:
    """Train a network to tell classes, or to embed pixels."""
    torch.manual_seed(seed)
    weights = METHODS[method]
    network = Network(N_CLASSES if weights is None else N_FEATURES)
    bank, points = SegmentBank(1), halved(labels)
    tags = F.one_hot(scenes.masks.flatten(1), N_CLASSES).amax(1)[:, 1:].bool()  # without the background

    def loss(index: Tensor, _: float) -> Tensor:
        output = network(scenes.images[index])
        if weights is None:
            return partial_cross_entropy(output, labels[index], ignore_index=VOID)
        embeddings = F.avg_pool2d(output, 2)
        with torch.no_grad():
            segments = spherical_kmeans(embeddings, grid=GRID, regions=zones[index], channel_axis=1)
        return spml_loss(
            embeddings, segments, labels=points[index], regions=zones[index], tags=tags[index],
            weights=weights, bank=bank, ignore_index=VOID,
        )  # fmt: skip

    fit(network, loss, len(scenes.images), steps, progress)
    return network.eval()


@torch.no_grad()
def predict(network: Network, method: str, scenes: Scenes, labels: Tensor, held_out: Scenes) -> Tensor:
    """Return the classes of held-out scenes: the largest scores, or the labels of the nearest segments."""
    if METHODS[method] is None:
        return network(held_out.images).argmax(1)
    bank, queries = (network(part.images) for part in (scenes, held_out))
    known, _ = segment_prototypes(
        bank, spherical_kmeans(bank, grid=GRID, channel_axis=1), labels=labels, ignore_index=VOID
    )
    segments, index = segment_prototypes(queries, spherical_kmeans(queries, grid=GRID, channel_axis=1))
    return nearest_neighbor_labels(segments.prototypes, known.prototypes, known.labels, ignore_index=VOID)[
        index
    ]


def table(results: dict[str, list[float]]) -> str:
    """Return the mean IoU in percent, mean and standard deviation over the seeds, as markdown."""
    rows = [f"| {method} | {percent(scores)} |" for method, scores in results.items()]
    return "\n".join(["| trained with | mean IoU |", "|---|---:|", *rows])


def main(argv: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Train all networks, print the table and save the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--quick", action="store_true", help="one seed, fewer steps")
    parser.add_argument("--size", type=int, default=64, help="pixels along an image's side (default 64)")
    parser.add_argument("--steps", type=int, default=200, help="training steps of a network (default 200)")
    parser.add_argument("--seeds", type=int, default=3, help="networks per row of the table (default 3)")
    parser.add_argument("--figure", type=Path, default=Path("segment_embeddings.png"))
    options = parser.parse_args(argv)
    steps, seeds = (min(options.steps, 120), 1) if options.quick else (options.steps, options.seeds)
    results: dict[str, list[float]] = {method: [] for method in METHODS}
    for seed in range(seeds):
        scenes, held_out = (generate(n, options.size, 2 * seed + k) for k, n in enumerate((160, 64)))
        labels, zones = annotate(scenes.masks, "points", seed).labels, regions(scenes)
        predictions = {}
        for method in METHODS:
            network = train(scenes, labels, zones, method, seed, steps, f"{method}, seed {seed}")
            predictions[method] = predict(network, method, scenes, labels, held_out)
            score = mean_iou(predictions[method], held_out.masks)
            results[method].append(score)
            print(f"  mIoU {100 * score:.1f}", file=sys.stderr)
    told = annotate(held_out.masks, "points", seed).labels
    draw_figure(held_out, told, predictions, "points").savefig(options.figure)
    print(
        f"\nMean IoU in percent over {len(held_out.masks)} held-out images, {seeds} seed(s), {steps} steps:\n"
    )
    print(table(results))
    print(f"\nsaved {options.figure}")
    return results


if __name__ == "__main__":
    main()
