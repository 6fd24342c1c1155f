"""
====================================================
Classes without masks, by similarity from those with
====================================================

Similarity transfer (SimFormer): some images have the masks of base classes, the others nothing but the list
of their classes. Whether two pixels are of one class is learned on the base classes, and what was learned
tells the other images which of their pixels belong together. Pairs are of pixels of one image (self-pair) or
of two (cross-pair). The networks classify pixels, or proposals whose masks are the similarity of proposals
and pixels.

Two things differ from the published form. The likeness of two pixels is the cosine of their projected
features. A perceptron of both carries over to other classes less well. Between two images, few pairs are of
one class, but likeness is learned as if half of them were: it is moved to their share before it teaches.

Run it with ``python examples/transfer_similarity.py --quick`` (minutes), without ``--quick`` for the whole
table, and with ``--data FOLDER`` for images and labels ``SPLIT/image/NAME.jpg`` and ``SPLIT/label/NAME.png``.

Results go to a JSON file after each run. The same command goes on where it was stopped, and a higher
``--seeds`` adds to what is there.
"""

# sphinx_gallery_thumbnail_path = "images/similarity_transfer.png"

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from results import Results
from scenes import (
    KINDS,
    VOID,
    Network,
    Scenes,
    crops,
    draw_figure,
    fit,
    generate,
    load,
    percent,
    select,
    tags_of,
)
from scipy.stats import rankdata
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

# Generated scenes have a background, three base classes and two novel ones, each of a texture of its own.
BRICK, GRASS, GRAVEL = KINDS
ALL_KINDS = (BRICK, GRASS, ("checkerboard", (0.65, 0.4, 0.65)), GRAVEL, ("page", (0.8, 0.75, 0.3)))
GENERATED_NOVEL = (4, 5)
N_FEATURES, WIDTH, N_PROPOSALS = 16, 16, 24
BATCH = 4  # images with masks, and as many with tags
TAGGED = 0.03  # the share of an image from which on a class is among its tags
SUREST = 0.1  # the share of the pixels that stand for a class of the image
TAG_WEIGHT = 3.0


class Cosine(nn.Module):
    """The learned likeness of pairs of pixels: the cosine of their projected features, scaled and moved."""

    def __init__(self, features: int):
        super().__init__()
        self.project = nn.Linear(features, 16)
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.offset = nn.Parameter(torch.tensor(-2.5))

    def forward(self, features: Tensor, reference: Tensor) -> Tensor:
        """Return the logits (B, J, J') of all pairs."""
        one, other = (F.normalize(self.project(of), dim=-1) for of in (features, reference))
        return self.scale * one @ other.transpose(1, 2) + self.offset


class Method(NamedTuple):
    """How a network is trained."""

    pairs: str | None = None
    """Pixels are compared with those of their own image ("self"), or of another one ("cross")."""
    likeness: type[nn.Module] = Cosine
    """The part that learns whether two pixels are of one class."""
    counted: bool = False
    """Whether the learned likeness is moved to the share of pairs of one class that was counted."""
    distilled: bool = True
    """Whether the learned similarity teaches the images with tags."""
    proposals: bool = False
    """Whether classes are those of proposals."""
    all_masks: bool = False
    """Whether all images have the masks of all classes."""


METHODS = {
    "basic": Method(),
    "self-pair": Method("self"),
    "self-pair, not distilled": Method("self", distilled=False),
    "self-pair, counted": Method("self", counted=True),
    "self-pair, perceptron": Method("self", PairSimilarity),
    "cross-pair": Method("cross", counted=True),
    "cross-pair, perceptron, counted": Method("cross", PairSimilarity, counted=True),
    "cross-pair, perceptron": Method("cross", PairSimilarity),
    "proposals, basic": Method(proposals=True),
    "proposals, self-pair": Method("self", proposals=True),
    "proposals, cross-pair": Method("cross", counted=True, proposals=True),
    "all masks": Method(all_masks=True),
}
HEADS: dict[str, type[nn.Module]] = {"perceptron": PairSimilarity, "cosine": Cosine}
FORGOTTEN = 0.01  # of the counted share of pairs, in a step


class Task(NamedTuple):
    """Images to train with, those that have masks, and images to ask about."""

    seen: Scenes
    has_masks: Tensor
    """Which images have masks of the base classes (B,); the others have tags."""
    held_out: Scenes
    novel: tuple[int, ...]
    n_classes: int

    @property
    def told(self) -> Tensor:
        """The masks with nothing but the base classes."""
        return self.seen.masks.masked_fill(torch.isin(self.seen.masks, torch.tensor(self.novel)), VOID)

    @property
    def base(self) -> tuple[int, ...]:
        """The classes that have masks."""
        return tuple(number for number in range(self.n_classes) if number not in self.novel)


class Proposals(nn.Module):
    """Classes of pixels by proposals: queries look at the image, and get a class and a mask each."""

    def __init__(self, n_classes: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(N_PROPOSALS, N_FEATURES))
        self.look = nn.MultiheadAttention(N_FEATURES, 2, batch_first=True)
        self.norm = nn.LayerNorm(N_FEATURES)
        self.mask = nn.Sequential(
            nn.Linear(N_FEATURES, N_FEATURES), nn.ReLU(), nn.Linear(N_FEATURES, N_FEATURES)
        )
        self.classify = nn.Linear(N_FEATURES, n_classes + 1)  # the last: no object

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the classes' shares of every pixel (B, C, H, W), of embeddings (B, D, H, W)."""
        coarse = F.avg_pool2d(embeddings, 4).flatten(2).transpose(1, 2)
        queries = self.queries.expand(len(embeddings), -1, -1)
        proposals = self.norm(queries + self.look(queries, coarse, coarse, need_weights=False)[0])
        masks = proposal_masks(self.mask(proposals), embeddings)
        scores = proposal_segmentation(self.classify(proposals).softmax(2)[..., :-1], masks)
        return scores / scores.sum(1, keepdim=True).clamp(min=1e-6)


class Segmenter(nn.Module):
    """A U-Net whose pixels have embeddings; of these: classes, and the likeness of pairs."""

    def __init__(self, n_classes: int, method: Method, bfloat16: bool):
        super().__init__()
        self.bfloat16 = bfloat16
        self.pixels = Network(N_FEATURES, WIDTH)
        self.classify = (
            Proposals(n_classes)
            if method.proposals
            else nn.Sequential(nn.Conv2d(N_FEATURES, n_classes, 1), nn.Softmax(1))
        )
        self.similarity = method.likeness(N_FEATURES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pixels' embeddings and the classes' shares of every pixel."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            embeddings = self.pixels(images)
        embeddings = embeddings.float()
        return embeddings, self.classify(embeddings)


def train(
    task: Task, method: Method, n_pixels: int, seed: int, steps: int, bfloat16: bool, progress: str
) -> Segmenter:
    """Train with masks of base classes in some images, and tags of all classes in the others."""
    torch.manual_seed(seed)
    network = Segmenter(task.n_classes, method, bfloat16)
    images, masks = task.seen.images, task.seen.masks if method.all_masks else task.told
    tags = tags_of(task.seen.masks, task.n_classes, TAGGED)
    known = (masks != VOID).flatten(1).any(1)  # pairs need a pixel of a known class
    with_masks, with_tags = task.has_masks & known, ~task.has_masks
    parts = [torch.nonzero(chosen)[:, 0] for chosen in (with_masks, with_tags)]
    everywhere = torch.ones(BATCH, *masks.shape[1:], dtype=torch.bool)
    shift = int(method.pairs == "cross")
    alike = torch.tensor(0.5)  # the share of pairs that are of one class

    def pairs(features: Tensor) -> Tensor:
        return network.similarity(features, features.roll(shift, 0))

    def loss(_: Tensor, done: float) -> Tensor:
        chosen = torch.cat([part[torch.randint(len(part), (BATCH,))] for part in parts])
        batch, labels = images[chosen], masks[chosen]
        if torch.rand(()) < 0.5:
            batch, labels = batch.flip(-1), labels.flip(-1)
        embeddings, shares = network(batch)
        if method.all_masks:
            return F.nll_loss((shares + 1e-6).log(), labels, ignore_index=VOID)
        labels = labels[:BATCH]
        total = F.nll_loss((shares[:BATCH] + 1e-6).log(), labels, ignore_index=VOID)
        # A class that an image has should have its surest pixels, one that it has not should have none.
        surest = shares[BATCH:].flatten(2).topk(int(SUREST * masks[0].numel())).values.mean(2)
        of_tags = F.binary_cross_entropy(surest.clamp(1e-6, 1 - 1e-6), tags[chosen[BATCH:]].float())
        total = total + TAG_WEIGHT * of_tags
        if method.pairs is None:
            return total
        index = sample_pixels(labels != VOID, n_pixels)
        classes = labels.flatten(1).gather(1, index)
        logits = pairs(gather_pixels(embeddings[:BATCH], index))
        total = total + similarity_learning_loss(logits, classes, classes.roll(shift, 0))
        same = classes[:, :, None] == classes.roll(shift, 0)[:, None]
        alike.lerp_(same.float().mean(), FORGOTTEN)
        if not method.distilled:
            return total
        index = sample_pixels(everywhere, n_pixels)
        logits = pairs(gather_pixels(embeddings[BATCH:], index))
        if method.counted:
            # The loss above weighs pairs of one class and of two as if there were as many of both.
            logits = logits + alike.logit()
        soft = gather_pixels(shares[BATCH:], index)
        # What has been learned is not worth much at first.
        trust = max(0.0, 2 * done - 1)
        return total + trust * similarity_distillation_loss(logits, soft, soft.roll(shift, 0))

    fit(network, loss, len(images), steps, progress)
    return network.eval()


@torch.no_grad()
def predict(network: Segmenter, images: Tensor) -> Tensor:
    """Return the class of every pixel (B, H, W)."""
    return torch.cat([network(part)[1].argmax(1) for part in images.split(64)])


def roc_area(scores: Tensor, positive: Tensor) -> float:
    """Return the area under the ROC curve: how often a positive one of two scores is the larger; or NaN."""
    ranks, chosen = rankdata(scores.numpy()), positive.numpy()
    n = int(chosen.sum())
    if not 0 < n < len(ranks):
        return float("nan")
    return float((ranks[chosen].sum() - n * (n + 1) / 2) / (n * (len(ranks) - n)))


def study(network: Segmenter, task: Task, seed: int, steps: int = 300) -> dict[str, float]:
    """Return how well likeness that is learned on base classes tells others apart, on fixed embeddings.

    Of self-pairs and of cross-pairs, by two kinds of heads: the mean area under the ROC curve over held-out
    images that have pixels of several classes, base or novel. Pairs are of one image, or of two.
    """
    generator = torch.Generator().manual_seed(seed)

    def sampled(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings (B, J, D) and classes (B, J) of pixels with a class."""
        chosen = torch.nonzero((labels != VOID).flatten(1).any(1))[:, 0]
        chosen = chosen[torch.randperm(len(chosen), generator=generator)[:256]]
        index = sample_pixels(labels[chosen] != VOID, 100, generator=generator)
        with torch.no_grad():
            embeddings = [
                gather_pixels(network(images[part])[0], places)
                for part, places in zip(chosen.split(64), index.split(64), strict=True)
            ]
        return torch.cat(embeddings), labels[chosen].flatten(1).gather(1, index)

    features, labels = sampled(task.seen.images[task.has_masks], task.told[task.has_masks])
    is_novel = torch.isin(task.held_out.masks, torch.tensor(task.novel))
    asked = {
        "base": sampled(task.held_out.images, task.held_out.masks.masked_fill(is_novel, VOID)),
        "novel": sampled(task.held_out.images, task.held_out.masks.masked_fill(~is_novel, VOID)),
    }
    areas = {}
    for pairs, head in itertools.product(("self", "cross"), HEADS):
        torch.manual_seed(seed)
        similarity = HEADS[head](N_FEATURES)
        optimizer = torch.optim.Adam(similarity.parameters(), 3e-3)
        shift = int(pairs == "cross")
        for _ in range(steps):
            index = torch.randint(len(features), (BATCH,))
            one, classes = features[index, :50], labels[index, :50]
            loss = similarity_learning_loss(
                similarity(one, one.roll(shift, 0)), classes, classes.roll(shift, 0)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for (kind, (one, classes)), (where, step) in itertools.product(
            asked.items(), (("one image", 0), ("two images", 1))
        ):
            with torch.no_grad():
                logits = torch.cat(
                    [
                        similarity(a, b)
                        for a, b in zip(one.split(32), one.roll(step, 0).split(32), strict=True)
                    ]
                )
            same = classes[:, :, None] == classes.roll(step, 0)[:, None]
            each = [roc_area(a.flatten(), b.flatten()) for a, b in zip(logits, same, strict=True)]
            areas[f"{pairs}-pairs, {head}, {kind}, {where}"] = float(np.nanmean(each))
    return areas


def study_table(results: Results) -> str:
    """Return the areas under the ROC curve in percent, as markdown."""
    columns = [f"{kind}, {where}" for kind in ("base", "novel") for where in ("one image", "two images")]
    lines = [
        f"| network | learned from | likeness | {' | '.join(columns)} |",
        f"|---|---|---|{'---:|' * len(columns)}",
    ]
    for method in METHODS:
        areas = [run["study"] for run in results.runs if run["method"] == method and "study" in run]
        for pairs, head in itertools.product(("self", "cross"), HEADS if areas else ()):
            cells = [
                percent([area[f"{pairs}-pairs, {head}, {column}"] for area in areas]) for column in columns
            ]
            lines.append(f"| {method} | {pairs}-pairs | {head} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table(results: Results, methods: Sequence[str], n_pixels: Sequence[int]) -> str:
    """Return the mean IoU in percent, mean and standard deviation over the seeds, as markdown."""
    lines = ["| similarity | base classes | novel classes |", "|---|---:|---:|"]
    for method in methods:
        for n in n_pixels if METHODS[method].pairs else n_pixels[:1]:
            runs = [run for run in results.runs if run["method"] == method and run["pixels"] == n]
            name = f"{method}, J = {n}" if METHODS[method].pairs and len(n_pixels) > 1 else method
            base, novel = (percent([run[part] for run in runs]) for part in ("base", "novel"))
            lines.append(f"| {name} | {base} | {novel} |")
    return "\n".join(lines)


def figure(task: Task, predictions: dict[str, Tensor]) -> Figure:
    """Draw two held-out images of base classes alone, and two others."""
    base = ~torch.isin(task.held_out.masks, torch.tensor(task.novel)).flatten(1).any(1)
    index = torch.cat([torch.nonzero(part)[:2, 0] for part in (base, ~base)])
    told = task.held_out.masks.where(base[:, None, None], VOID)[index]
    shown = {name: predicted[index] for name, predicted in predictions.items()}
    title = "some images have the masks of base classes, the others tags"
    return draw_figure(select(task.held_out, index), told, shown, title)


def tasks(options: argparse.Namespace, seed: int) -> Task:
    """Return the images of a folder, or generated ones, and what is told of them."""
    if options.data is None:
        apart = {"test": 1, "val": 10_001}[options.held_out]
        seen, held_out = (
            generate(n, options.size, 2 * seed + k, ALL_KINDS) for n, k in ((600, 0), (64, apart))
        )
        novel = tuple(options.novel or GENERATED_NOVEL)
        has_masks = ~torch.isin(seen.masks, torch.tensor(novel)).flatten(1).any(1)
        return Task(seen, has_masks, held_out, novel, 1 + len(ALL_KINDS))
    parts = [
        crops(load(options.data, split, options.shrink, options.ignore), options.size)
        for split in ("train", options.held_out)
    ]
    (seen, of_scene), (held_out, _) = parts
    n_scenes = int(of_scene.max()) + 1
    with_masks = torch.from_numpy(np.random.default_rng(seed).permutation(n_scenes) < n_scenes / 2)
    labels = torch.cat([seen.masks.flatten(), held_out.masks.flatten()])
    n_classes = int(labels[labels != VOID].max()) + 1
    return Task(seen, with_masks[of_scene], held_out, tuple(options.novel), n_classes)


def arguments() -> argparse.ArgumentParser:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--quick", action="store_true", help="one seed, fewer steps")
    parser.add_argument("--data", type=Path, help="a folder of images and labels: SPLIT/image, SPLIT/label")
    parser.add_argument("--shrink", type=int, default=1, help="average the folder's images over N x N pixels")
    parser.add_argument("--ignore", type=int, default=VOID, help="label of pixels without a class")
    parser.add_argument("--novel", type=int, nargs="+", help="classes without masks (needed with --data)")
    parser.add_argument("--size", type=int, default=48, help="side of a crop in pixels (default 48)")
    parser.add_argument("--steps", type=int, default=1200, help="training steps of a network (default 1200)")
    parser.add_argument("--bfloat16", action="store_true", help="compute networks in bfloat16")
    parser.add_argument("--pixels", type=int, nargs="+", default=[100], help="J, pixels of an image")
    parser.add_argument("--seeds", type=int, default=3, help="networks per row of the table (default 3)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="rows of the table (default: all)")
    parser.add_argument(
        "--study", action="store_true", help="also learn likeness on the fixed embeddings of rows without it"
    )
    parser.add_argument("--held-out", choices=("val", "test"), default="test", help="val for choices")
    parser.add_argument("--results", type=Path, help="JSON file of the runs: go on with it if it is there")
    parser.add_argument(
        "--figure", type=Path, help="draw what the last seed's networks say; trains them anew"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> Results:
    """Train all networks, print the table, and save results and figure."""
    parser = arguments()
    options = parser.parse_args(argv)
    if options.data and not options.novel:
        parser.error("argument --novel: --data needs the classes without masks")
    steps, seeds = (min(options.steps, 150), 1) if options.quick else (options.steps, options.seeds)
    methods = options.methods or list(METHODS)
    shared: dict[str, Any] = {
        name: getattr(options, name) for name in ("held_out", "shrink", "size", "novel", "bfloat16")
    }
    shared |= {"data": options.data.name if options.data else "generated", "steps": steps}
    results = Results(options.results, shared)
    predictions: dict[str, Tensor] = {}
    for seed in range(seeds):
        task = tasks(options, seed)
        for method in methods:
            for n in options.pixels if METHODS[method].pairs else options.pixels[:1]:
                key: dict[str, str | int] = {"method": method, "pixels": n, "seed": seed}
                if results.get(key) and not (options.figure and seed == seeds - 1):
                    continue
                start = time.perf_counter()
                progress = f"{method}, J {n}, seed {seed}"
                network = train(task, METHODS[method], n, seed, steps, options.bfloat16, progress)
                seconds = round(time.perf_counter() - start)
                predictions[method] = predicted = predict(network, task.held_out.images)
                measured: dict[str, Any] = {
                    name: mean_iou(predicted, task.held_out.masks, classes=classes, ignore_index=VOID)
                    for name, classes in (("base", task.base), ("novel", task.novel))
                }
                if options.study and METHODS[method].pairs is None:
                    measured["study"] = study(network, task, seed)
                results.add(key, measured | {"seconds": seconds})
                print(
                    f"{method}, J {n}, seed {seed}: mIoU {100 * measured['base']:.1f} base, "
                    f"{100 * measured['novel']:.1f} novel",
                    file=sys.stderr,
                )
    print(
        f"\nMean IoU in percent over {len(task.held_out.masks)} images of {options.held_out}, "
        f"{seeds} seed(s), {steps} steps:\n"
    )
    print(table(results, methods, options.pixels))
    if options.study:
        print(
            "\nLikeness learned on base classes and fixed embeddings, area under the ROC curve in percent:\n"
        )
        print(study_table(results))
    if options.figure:
        figure(task, predictions).savefig(options.figure)
        print(f"\nsaved {options.figure}")
    return results


if __name__ == "__main__":
    main()
