"""
==========================================
Training a network with weak annotations
==========================================

A small segmentation network learns from boxes, points or scribbles alone, with and without affinity
propagation: the paper's Table 4 (unary loss, with GP, with LP, with both) and Table 7 (cascades of the two)
at a size that a laptop trains.

Images are composed of textures and photographs in generated shapes (see ``scenes.py``): what is where is
known, for the mean IoU over held-out images.

Run it with ``python examples/train_weak_segmentation.py --quick`` (minutes), without ``--quick`` for the
whole table, and with ``--data FOLDER`` for images and masks in the layout of Pascal VOC:
``JPEGImages/*.jpg`` and ``SegmentationClass/*.png``, 255 for pixels that do not count. The lists
``ImageSets/Segmentation/train.txt`` and ``val.txt``, where they are there, say what is held out.
"""

# sphinx_gallery_thumbnail_path = "images/weak_segmentation.png"

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from scenes import (
    SUPERVISIONS,
    VOID,
    Annotations,
    Network,
    Scenes,
    annotate,
    batch_of,
    draw_figure,
    fit,
    generate,
    load,
    percent,
    select,
    split,
)
from torch import Tensor

from aproarray.related import mean_iou
from aproarray.torch import (
    AffinityPropagation,
    GlobalPropagation,
    LocalPropagation,
    apro_loss,
    partial_cross_entropy,
    projection_loss,
)

# The published scales, for images normalised as ImageNet's.
GLOBAL, LOCAL = GlobalPropagation(0.01, feature_zeta=0.07), LocalPropagation(0.15)
# The weights of the terms of GP and LP, and how the two are combined.
METHODS = {
    "unary": ((0.0, 0.0), "parallel"),
    "+ GP": ((1.0, 0.0), "parallel"),
    "+ LP": ((0.0, 1.0), "parallel"),
    "+ GP and LP": ((1.0, 1.0), "parallel"),
    "LP of GP": ((1.0, 1.0), "global-local"),
    "GP of LP": ((1.0, 1.0), "local-global"),
}


def loss(scores: Tensor, scenes: Scenes, told: Annotations, method: str, trust: float) -> Tensor:
    """Return the loss of class scores: the unary term of the annotation, and `trust` times propagation's."""
    weights, mode = METHODS[method]
    probabilities = scores.softmax(1)
    total = partial_cross_entropy(scores, told.labels, ignore_index=VOID)
    region, image_index = (told.labels == VOID).unsqueeze(1), None
    with_boxes = len(told.boxes) > 0
    if with_boxes:
        probabilities = probabilities[told.image_index, told.class_of].unsqueeze(1)
        total = total + projection_loss(probabilities * told.boxes, told.boxes)
        region, image_index = told.boxes, told.image_index
    if any(weights):
        propagation = AffinityPropagation(mode, GLOBAL, LOCAL)  # type: ignore[arg-type]
        total = total + trust * apro_loss(
            probabilities, scenes.images, region, propagation=propagation, per_instance=with_boxes,
            weights=weights, tree=scenes.trees, image_index=image_index,
        )  # fmt: skip
    return total


def train(
    scenes: Scenes, told: Annotations, n_classes: int, method: str, seed: int, steps: int, progress: str
) -> Network:
    """Train a network, showing a progress bar."""
    torch.manual_seed(seed)
    network = Network(n_classes)

    def loss_of(index: Tensor, done: float) -> Tensor:
        # What is propagated is the network's own prediction, which is not worth much at first.
        trust = min(1.0, 2 * done)
        batch = select(scenes, index)
        return loss(network(batch.images), batch, batch_of(told, index), method, trust)

    fit(network, loss_of, len(scenes.images), steps, progress)
    return network


@torch.no_grad()
def predict(network: Network, scenes: Scenes) -> Tensor:
    """Return the class of every pixel (B, H, W)."""
    return network.eval()(scenes.images).argmax(1)


def table(results: dict[tuple[str, str], list[float]], supervisions: Sequence[str]) -> str:
    """Return the mean IoU in percent, mean and standard deviation over the seeds, as markdown."""
    lines = ["| loss | " + " | ".join(supervisions) + " |", "|---|" + "---:|" * len(supervisions)]
    for method in METHODS:
        cells = [percent(results[supervision, method]) for supervision in supervisions]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def count(text: str) -> int:
    """Return an option's number, which is at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def arguments() -> argparse.ArgumentParser:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--quick", action="store_true", help="scribbles only, one seed, fewer steps")
    parser.add_argument("--data", type=Path, help="a folder in the layout of Pascal VOC")
    parser.add_argument("--size", type=count, default=64, help="pixels along an image's side (default 64)")
    parser.add_argument("--steps", type=count, default=200, help="training steps of a network (default 200)")
    parser.add_argument("--seeds", type=count, default=3, help="networks per cell of the table (default 3)")
    parser.add_argument("--figure", type=Path, default=Path("weak_segmentation.png"))
    return parser


def main(argv: Sequence[str] | None = None) -> dict[tuple[str, str], list[float]]:
    """Train all networks, print the table and save the figure."""
    parser = arguments()
    options = parser.parse_args(argv)
    if options.size < 16:
        parser.error(f"argument --size: must be at least 16, got {options.size}")
    if not options.figure.absolute().parent.is_dir():
        parser.error(f"argument --figure: {options.figure.absolute().parent} is not a folder")
    steps, seeds, supervisions = options.steps, options.seeds, list(SUPERVISIONS)
    if options.quick:
        steps, seeds, supervisions = min(steps, 120), 1, ["scribbles"]
    results: dict[tuple[str, str], list[float]] = {}
    runs = len(supervisions) * len(METHODS) * seeds
    for seed in range(seeds):
        if options.data:
            scenes, held_out = split(options.data, *load(options.data, options.size), seed)
        else:
            scenes, held_out = (generate(n, options.size, 2 * seed + k) for k, n in enumerate((160, 64)))
        seen = torch.cat([scenes.masks.flatten(), held_out.masks.flatten()])
        n_classes = int(seen[seen != VOID].max()) + 1
        for supervision in supervisions:
            told = annotate(scenes.masks, supervision, seed)
            predictions = {}
            for method in METHODS:
                done = sum(map(len, results.values()))
                progress = f"{done + 1:>3}/{runs} {supervision}, {method}, seed {seed}"
                network = train(scenes, told, n_classes, method, seed, steps, progress)
                predictions[method] = predict(network, held_out)
                score = mean_iou(predictions[method], held_out.masks, ignore_index=VOID)
                results.setdefault((supervision, method), []).append(score)
                print(f"  mIoU {100 * score:.1f}", file=sys.stderr)
    print(
        f"\nMean IoU in percent over {len(held_out.masks)} held-out images, {seeds} seed(s), {steps} steps:\n"
    )
    print(table(results, supervisions))
    figure = draw_figure(
        held_out, annotate(held_out.masks, supervision, seed).labels, predictions, supervision
    )
    figure.savefig(options.figure)
    print(f"\nsaved {options.figure}")
    return results


if __name__ == "__main__":
    main()
