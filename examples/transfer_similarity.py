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

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from scenes import KINDS, VOID, Network, Scenes, draw_figure, fit, generate, percent, select
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from aproarray.related import mean_iou
from aproarray.torch import (
    PairSimilarity,
    gather_pixels,
    proposal_masks,
    proposal_segmentation,
    sample_pixels,
    similarity_distillation_loss,
    similarity_learning_loss,
)

# Of each texture, a base class in its usual colour; two come in another one, too: those are novel.
ALL_KINDS = (*KINDS, ("grass", (0.70, 0.65, 0.30)), ("gravel", (0.65, 0.40, 0.60)))
BASE, NOVEL = (0, 1, 2, 3), (4, 5)
N_CLASSES, N_FEATURES, N_PROPOSALS = 6, 16, 12
METHODS = ("basic", "self-pair", "cross-pair")


class Segmenter(nn.Module):
    """Proposals with a class and a mask each, over the pixel embeddings of a U-Net."""

    def __init__(self):
        super().__init__()
        self.pixels = Network(N_FEATURES)
        self.queries = nn.Parameter(torch.randn(N_PROPOSALS, N_FEATURES))
        self.mix = nn.Sequential(nn.Linear(2 * N_FEATURES, 64), nn.ReLU(), nn.Linear(64, N_FEATURES))
        self.classify = nn.Linear(N_FEATURES, N_CLASSES + 1)  # the last one: no object
        self.similarity = PairSimilarity(N_FEATURES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return embeddings, classes of proposals, and the classes' shares of every pixel."""
        embeddings = self.pixels(images)
        flat = embeddings.flatten(2)
        looked_at = (self.queries @ flat).softmax(2) @ flat.transpose(1, 2)
        proposals = self.mix(torch.cat([self.queries.expand_as(looked_at), looked_at], 2))
        classes = self.classify(proposals).softmax(2)[..., :-1]
        scores = proposal_segmentation(classes, proposal_masks(proposals, embeddings))
        return embeddings, classes, scores / (scores.sum(1, keepdim=True) + 1e-6)


def is_base(scenes: Scenes) -> Tensor:
    """Return which scenes hold base classes alone."""
    return (scenes.masks <= max(BASE)).flatten(1).all(1)


def train(scenes: Scenes, method: str, seed: int, steps: int, progress: str) -> Segmenter:
    """Train with masks of the base scenes and tags of the novel ones."""
    torch.manual_seed(seed)
    network = Segmenter()
    parts = [select(scenes, torch.nonzero(chosen)[:, 0]) for chosen in (is_base(scenes), ~is_base(scenes))]
    everywhere = torch.ones(8, *scenes.masks.shape[1:], dtype=torch.bool)

    def loss(_: Tensor, done: float) -> Tensor:
        base, novel = (select(part, torch.randperm(len(part.images))[:8]) for part in parts)
        embeddings, classes, shares = network(torch.cat([base.images, novel.images]))
        count = len(base.images)
        total = F.nll_loss((shares[:count] + 1e-6).log(), base.masks)
        tags = F.one_hot(torch.cat([base.masks, novel.masks]).flatten(1), N_CLASSES).amax(1).float()
        total = total + F.binary_cross_entropy(classes.amax(1).clamp(1e-6, 1 - 1e-6), tags)
        if method == "basic":
            return total
        # The pixels of an image, and those they are compared with: its own, or another image's.
        shift = int(method == "cross-pair")
        learned, index = embeddings[:count], sample_pixels(everywhere[:count])
        features = gather_pixels(learned, index)
        labels = gather_pixels(base.masks[:, None].float(), index)[..., 0].long()
        logits = network.similarity(features, features.roll(shift, 0))
        total = total + similarity_learning_loss(logits, labels, labels.roll(shift, 0))
        index = sample_pixels(everywhere[: len(novel.images)])
        features = gather_pixels(embeddings[count:], index)
        soft = gather_pixels(shares[count:], index)
        logits = network.similarity(features, features.roll(shift, 0))
        # What has been learned is not worth much at first.
        return total + min(1.0, 2 * done) * similarity_distillation_loss(logits, soft, soft.roll(shift, 0))

    fit(network, loss, len(scenes.images), steps, progress)
    return network.eval()


def table(results: dict[str, list[tuple[float, float]]]) -> str:
    """Return the mean IoU in percent, mean and standard deviation over the seeds, as markdown."""
    rows = [
        f"| {method} | {percent([base for base, _ in scores])} | {percent([novel for _, novel in scores])} |"
        for method, scores in results.items()
    ]
    return "\n".join(["| similarity | base classes | novel classes |", "|---|---:|---:|", *rows])


def main(argv: Sequence[str] | None = None) -> dict[str, list[tuple[float, float]]]:
    """Train all networks, print the table and save the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--quick", action="store_true", help="one seed, fewer steps")
    parser.add_argument("--size", type=int, default=64, help="pixels along an image's side (default 64)")
    parser.add_argument("--steps", type=int, default=300, help="training steps of a network (default 300)")
    parser.add_argument("--seeds", type=int, default=3, help="networks per row of the table (default 3)")
    parser.add_argument("--figure", type=Path, default=Path("similarity_transfer.png"))
    options = parser.parse_args(argv)
    steps, seeds = (min(options.steps, 150), 1) if options.quick else (options.steps, options.seeds)
    results: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    for seed in range(seeds):
        scenes, held_out = (
            generate(n, options.size, 2 * seed + k, ALL_KINDS) for k, n in enumerate((240, 64))
        )
        predictions = {}
        for method in METHODS:
            network = train(scenes, method, seed, steps, f"{method}, seed {seed}")
            with torch.no_grad():
                predictions[method] = network(held_out.images)[2].argmax(1)
            scores = tuple(
                mean_iou(predictions[method], held_out.masks, classes=classes) for classes in (BASE, NOVEL)
            )
            results[method].append(scores)
            print(f"  mIoU {100 * scores[0]:.1f} base, {100 * scores[1]:.1f} novel", file=sys.stderr)
    told = held_out.masks.where(is_base(held_out)[:, None, None], VOID)
    title = "scenes of base classes have masks, the others tags"
    draw_figure(held_out, told, predictions, title).savefig(options.figure)
    print(
        f"\nMean IoU in percent over {len(held_out.masks)} held-out images, {seeds} seed(s), {steps} steps:\n"
    )
    print(table(results))
    print(f"\nsaved {options.figure}")
    return results


if __name__ == "__main__":
    main()
