"""
====================================================
Classes without masks, by similarity from those with
====================================================

Similarity transfer (SimFormer): scenes of base classes have masks, scenes with novel classes nothing but the
list of their classes. Whether two pixels are of one class is learned on the base classes, and what was
learned tells the scenes with novel classes which of their pixels belong together. Pairs are of pixels of one
image (self-pair) or of two (cross-pair).

Run it with ``python examples/transfer_similarity.py --quick`` (minutes), without ``--quick`` for the whole
table.
"""

# sphinx_gallery_thumbnail_path = "images/similarity_transfer.png"

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from scenes import KINDS, VOID, Network, Scenes, draw_figure, fit, generate, percent, select
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from aproarray.related import mean_iou
from aproarray.torch import (
    PairSimilarity,
    gather_pixels,
    sample_pixels,
    similarity_distillation_loss,
    similarity_learning_loss,
)

# Three base classes and two novel ones, each of a texture of its own.
BRICK, GRASS, GRAVEL = KINDS
ALL_KINDS = (BRICK, GRASS, ("checkerboard", (0.65, 0.4, 0.65)), GRAVEL, ("page", (0.8, 0.75, 0.3)))
BASE, NOVEL = (0, 1, 2, 3), (4, 5)
N_CLASSES, N_FEATURES = 6, 16
BATCH = 4  # scenes with masks, and as many without
METHODS = ("basic", "self-pair", "cross-pair")


class Segmenter(nn.Module):
    """A U-Net whose pixels have embeddings, and what is read off them: classes, and the likeness of pairs."""

    def __init__(self):
        super().__init__()
        self.pixels = Network(N_FEATURES)
        self.classify = nn.Conv2d(N_FEATURES, N_CLASSES, 1)
        self.similarity = PairSimilarity(N_FEATURES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pixels' embeddings and the classes' shares of every pixel."""
        embeddings = self.pixels(images)
        return embeddings, self.classify(embeddings).softmax(1)


def is_base(scenes: Scenes) -> Tensor:
    """Return which scenes hold base classes alone."""
    return (scenes.masks <= max(BASE)).flatten(1).all(1)


def train(scenes: Scenes, method: str, seed: int, steps: int, progress: str) -> Segmenter:
    """Train with masks of the base scenes and tags of the novel ones."""
    torch.manual_seed(seed)
    network = Segmenter()
    parts = [select(scenes, torch.nonzero(chosen)[:, 0]) for chosen in (is_base(scenes), ~is_base(scenes))]
    everywhere = torch.ones(BATCH, *scenes.masks.shape[1:], dtype=torch.bool)

    def loss(_: Tensor, done: float) -> Tensor:
        base, novel = (select(part, torch.randperm(len(part.images))[:BATCH]) for part in parts)
        embeddings, shares = network(torch.cat([base.images, novel.images]))
        count = len(base.images)
        total = F.nll_loss((shares[:count] + 1e-6).log(), base.masks)
        # A class that a scene has should have its surest pixels, one that it has not should have none.
        tags = F.one_hot(novel.masks.flatten(1), N_CLASSES).amax(1).float()
        surest = shares[count:].flatten(2).topk(novel.masks[0].numel() // 20).values.mean(2)
        total = total + F.binary_cross_entropy(surest.clamp(1e-6, 1 - 1e-6), tags)
        if method == "basic":
            return total
        # The pixels of an image, and those they are compared with: its own, or another image's.
        shift = int(method == "cross-pair")
        index = sample_pixels(everywhere[:count])
        features = gather_pixels(embeddings[:count], index)
        labels = base.masks.flatten(1).gather(1, index)
        logits = network.similarity(features, features.roll(shift, 0))
        total = total + similarity_learning_loss(logits, labels, labels.roll(shift, 0))
        index = sample_pixels(everywhere[: len(novel.images)])
        features = gather_pixels(embeddings[count:], index)
        soft = gather_pixels(shares[count:], index)
        logits = network.similarity(features, features.roll(shift, 0))
        # What has been learned is not worth much at first.
        trust = max(0.0, 2 * done - 1)
        return total + trust * similarity_distillation_loss(logits, soft, soft.roll(shift, 0))

    fit(network, loss, len(scenes.images), steps, progress)
    return network.eval()


def table(results: dict[str, list[tuple[float, float]]]) -> str:
    """Return the mean IoU in percent, mean and standard deviation over the seeds, as markdown."""
    rows = [
        f"| {method} | {percent([base for base, _ in scores])} | {percent([novel for _, novel in scores])} |"
        for method, scores in results.items()
    ]
    return "\n".join(["| similarity | base classes | novel classes |", "|---|---:|---:|", *rows])


def figure(scenes: Scenes, predictions: dict[str, Tensor]) -> Figure:
    """Draw two scenes of base classes and two of others."""
    base = is_base(scenes)
    index = torch.cat([torch.nonzero(part)[:2, 0] for part in (base, ~base)])
    told = scenes.masks.where(base[:, None, None], VOID)[index]
    shown = {name: predicted[index] for name, predicted in predictions.items()}
    return draw_figure(
        select(scenes, index), told, shown, "scenes of base classes have masks, the others tags"
    )


def main(argv: Sequence[str] | None = None) -> dict[str, list[tuple[float, float]]]:
    """Train all networks, print the table and save the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--quick", action="store_true", help="one seed, fewer steps")
    parser.add_argument("--size", type=int, default=48, help="pixels along an image's side (default 48)")
    parser.add_argument("--steps", type=int, default=300, help="training steps of a network (default 300)")
    parser.add_argument("--seeds", type=int, default=3, help="networks per row of the table (default 3)")
    parser.add_argument("--figure", type=Path, default=Path("similarity_transfer.png"))
    options = parser.parse_args(argv)
    steps, seeds = (min(options.steps, 150), 1) if options.quick else (options.steps, options.seeds)
    results: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    for seed in range(seeds):
        scenes, held_out = (
            generate(n, options.size, 2 * seed + k, ALL_KINDS) for k, n in enumerate((600, 64))
        )
        predictions = {}
        for method in METHODS:
            network = train(scenes, method, seed, steps, f"{method}, seed {seed}")
            with torch.no_grad():
                predictions[method] = network(held_out.images)[1].argmax(1)
            scores = tuple(
                mean_iou(predictions[method], held_out.masks, classes=classes) for classes in (BASE, NOVEL)
            )
            results[method].append(scores)
            print(f"  mIoU {100 * scores[0]:.1f} base, {100 * scores[1]:.1f} novel", file=sys.stderr)
    figure(held_out, predictions).savefig(options.figure)
    print(
        f"\nMean IoU in percent over {len(held_out.masks)} held-out images, {seeds} seed(s), {steps} steps:\n"
    )
    print(table(results))
    print(f"\nsaved {options.figure}")
    return results


if __name__ == "__main__":
    main()
