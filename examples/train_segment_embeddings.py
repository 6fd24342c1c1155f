"""
=========================================
Learning embeddings from labelled pixels
=========================================

Universal weakly supervised segmentation (SPML): a network learns an embedding of every pixel by contrasting
pixels with segments, told points, scribbles, or nothing but the classes of each image (tags). Classes are
then read off the embeddings, which stay as they are:

* a segment takes the label of the most similar labelled segments of all images ("neighbors");
* a softmax classifier S1 learns from the labelled pixels;
* a second one, S2, learns from pseudo-labels. With points and scribbles, these are the results of S1 after a
  random walk over the embeddings. With tags, class activation maps and a random walk make the first labels,
  and nearest neighbors mend those that S1 learns from, and those of S1 that S2 learns from.

The same network with a softmax, trained on the same pixels, is the baseline.

Run it with ``python examples/train_segment_embeddings.py --quick`` (minutes), without ``--quick`` for the
whole table, and with ``--data FOLDER`` for images and labels ``SPLIT/image/NAME.jpg`` and
``SPLIT/label/NAME.png``.

Results go to a JSON file after each run. The same command goes on where it was stopped, and a higher
``--seeds`` adds to what is there.
"""

# sphinx_gallery_thumbnail_path = "images/segment_embeddings.png"

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from results import Results
from scenes import (
    VOID,
    Network,
    Scenes,
    annotate,
    crops,
    draw_figure,
    fit,
    generate,
    load,
    percent,
    select,
    tags_of,
)
from skimage import measure
from skimage.segmentation import felzenszwalb
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from aproarray.related import (
    cam_to_scores,
    mean_iou,
    nearest_neighbor_labels,
    random_walk_propagate,
    spherical_kmeans,
)
from aproarray.torch import (
    SPML_WEIGHTS,
    SegmentBank,
    SegmentWeights,
    partial_cross_entropy,
    segment_prototypes,
    spml_loss,
)

N_FEATURES = 16
GRID = 4  # cells along an axis that k-means begins with
CONFIDENCE = 0.2  # of labels that are made of tags
NOTHING = (0.0, 1.0)
METHODS = ("softmax", "annotation", "+ image similarity", "+ co-occurrence", "+ both")
WAYS = ("neighbors", "S1", "S2")  # in which classes are read off embeddings


class Told(NamedTuple):
    """What a network is told of scenes, at half their size but for the labels."""

    labels: Tensor
    """Class or VOID of every pixel (B, H, W)."""
    tags: Tensor
    """The classes of each image (B, C), the background among them, if there is one."""
    zones: Tensor
    """An over-segmentation (B, H / 2, W / 2)."""
    background: bool
    """Whether class 0 is a background."""

    @property
    def named(self) -> Tensor:
        """The tags without the background."""
        return self.tags[:, int(self.background) :]


def halved(labels: Tensor) -> Tensor:
    """Return labels at half the size: no labelled pixel is lost."""
    return -F.max_pool2d(-labels[:, None].float(), 2)[:, 0].long()


def doubled(labels: Tensor) -> Tensor:
    """Return labels at twice the size."""
    return labels.repeat_interleave(2, 1).repeat_interleave(2, 2)


def regions(scenes: Scenes) -> Tensor:
    """Return an over-segmentation at half the size."""
    images = F.avg_pool2d(scenes.images, 2).movedim(1, -1).numpy()
    zones = [felzenszwalb(image, scale=100, sigma=0.5, min_size=24) for image in images]
    return torch.from_numpy(np.stack(zones))


def shortened(labels: Tensor, length: int, seed: int) -> Tensor:
    """Return scribbles of which `length` percent are left, around a random pixel; with 0, this pixel."""
    rng = np.random.default_rng(seed)
    kept = np.full(labels.shape, VOID)
    for label, out in zip(labels.numpy(), kept, strict=True):
        pieces = measure.label(label, background=VOID, connectivity=2)
        for piece in range(1, pieces.max() + 1):
            places = np.argwhere(pieces == piece)
            middle = places[rng.integers(len(places))]
            near = np.argsort(((places - middle) ** 2).sum(1), kind="stable")
            chosen = places[near[: max(1, math.ceil(length / 100 * len(places)))]]
            out[tuple(chosen.T)] = label[tuple(chosen.T)]
    return torch.from_numpy(kept)


def activation_maps(scenes: Scenes, told: Told, seed: int, steps: int) -> Tensor:
    """Return class activation maps (B, C, H / 2, W / 2) of a network that learns the tags of images."""
    torch.manual_seed(seed)
    network = Network(told.named.shape[1])

    def surest(maps: Tensor) -> Tensor:
        return maps.flatten(2).topk(maps[0, 0].numel() // 5).values.mean(2)

    def loss(index: Tensor, _: float) -> Tensor:
        scores = surest(network(scenes.images[index]))
        return F.binary_cross_entropy_with_logits(scores, told.named[index].float())

    fit(network, loss, len(scenes.images), steps, f"activation maps, seed {seed}")
    network.eval()
    with torch.no_grad():
        return torch.cat([F.avg_pool2d(network(part), 2).relu() for part in scenes.images.split(64)])


def scores_of_maps(maps: Tensor, told: Told) -> Tensor:
    """Return the scores of classes by activation maps and tags: with a background, if there is one."""
    scores = cam_to_scores(maps, tags=told.named, channel_axis=1)
    return scores if told.background else scores[:, 1:]


def sure_labels(scores: Tensor) -> Tensor:
    """Return the class of every pixel whose largest score is high enough."""
    best = scores.max(1)
    return best.indices.where(best.values >= CONFIDENCE, VOID)


def train(
    scenes: Scenes, told: Told, weights: SegmentWeights | None, seed: int, steps: int, progress: str
) -> Network:
    """Train a network to tell classes (no weights), or to embed pixels."""
    torch.manual_seed(seed)
    network = Network(told.tags.shape[1] if weights is None else N_FEATURES)
    bank, half = SegmentBank(1), halved(told.labels)

    def loss(index: Tensor, _: float) -> Tensor:
        output = network(scenes.images[index])
        if weights is None:
            return partial_cross_entropy(output, told.labels[index], ignore_index=VOID)
        embeddings = F.avg_pool2d(output, 2)
        with torch.no_grad():
            segments = spherical_kmeans(embeddings, grid=GRID, regions=told.zones[index], channel_axis=1)
        return spml_loss(
            embeddings, segments, labels=half[index], regions=told.zones[index], tags=told.named[index],
            weights=weights, bank=bank, ignore_index=VOID,
        )  # fmt: skip

    fit(network, loss, len(scenes.images), steps, progress)
    return network.eval()


class Embedded(NamedTuple):
    """Fixed embeddings of pixels, the segments by them, and each pixel's."""

    pixels: Tensor
    """Of unit length (B, D, H, W)."""
    segments: Tensor
    """(B, H, W), from `spherical_kmeans`."""

    @classmethod
    @torch.no_grad()
    def of(cls, network: Network, images: Tensor, shrink: int) -> Embedded:
        """Embed images, at their size or at half of it."""
        pixels = torch.cat([F.avg_pool2d(network(part), shrink) for part in images.split(64)])
        return cls(F.normalize(pixels, dim=1), spherical_kmeans(pixels, grid=GRID, channel_axis=1))


def by_neighbors(queries: Embedded, bank: Embedded, labels: Tensor) -> Tensor:
    """Label pixels by their segment's nearest labelled segments among those of a bank."""
    known, _ = segment_prototypes(bank.pixels, bank.segments, labels=labels, ignore_index=VOID)
    asked, own = segment_prototypes(queries.pixels, queries.segments)
    found: Tensor = nearest_neighbor_labels(
        asked.prototypes, known.prototypes, known.labels, ignore_index=VOID
    )
    return found[own]


def classifier(embedded: Embedded, labels: Tensor, n_classes: int, steps: int = 300) -> nn.Linear:
    """Train a softmax on fixed embeddings of the labelled pixels."""
    layer = nn.Linear(N_FEATURES, n_classes)
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    features, classes = embedded.pixels.movedim(1, -1)[labels != VOID], labels[labels != VOID]
    for _ in range(steps):
        index = torch.randint(len(classes), (4096,))
        loss = F.cross_entropy(layer(features[index]), classes[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return layer


@torch.no_grad()
def classified(layer: nn.Linear, embedded: Embedded) -> Tensor:
    """Return the shares of classes (B, C, H, W)."""
    return layer(embedded.pixels.movedim(1, -1)).softmax(-1).movedim(-1, 1)


def walked(scores: Tensor, embedded: Embedded) -> Tensor:
    """Carry scores over similar pixels of each image, as the authors' code does."""
    result: Tensor = random_walk_propagate(scores, embedded.pixels, normalization="columns", channel_axis=1)
    return result


def read_off(
    network: Network, seen: Tensor, held_out: Tensor, labels: Tensor, n_classes: int, maps: Tensor | None
) -> dict[str, Tensor]:
    """Return the classes of held-out images in three ways, from labels of others, or from scores of tags."""
    # The random walk takes the square of the number of pixels.
    half, whole, asked = (Embedded.of(network, *of) for of in ((seen, 2), (seen, 1), (held_out, 1)))
    if maps is None:
        first = classifier(half, halved(labels), n_classes)
        pseudo = walked(classified(first, half), half).argmax(1)
    else:
        near = by_neighbors(half, half, sure_labels(walked(maps, half)))
        labels, first = doubled(near), classifier(half, near, n_classes)
        pseudo = by_neighbors(half, half, classified(first, half).argmax(1))
    second = classifier(half, pseudo, n_classes)
    return {
        "neighbors": by_neighbors(asked, whole, labels),
        "S1": classified(first, asked).argmax(1),
        "S2": classified(second, asked).argmax(1),
    }


def weights_of(method: str, supervision: str) -> SegmentWeights | None:
    """Return the published weights of the relationships that a method has."""
    weights = SPML_WEIGHTS[supervision]
    if method == "softmax":
        return None
    if method in ("annotation", "+ image similarity"):
        weights = weights._replace(cooccurrence=NOTHING)
    if method in ("annotation", "+ co-occurrence"):
        weights = weights._replace(image=NOTHING)
    return weights


def data(options: argparse.Namespace, seed: int) -> tuple[Scenes, Scenes, bool]:
    """Return scenes to train with, those held out, and whether class 0 is a background."""
    apart = {"test": 1, "val": 10_001}[options.held_out]
    counts = options.images
    if options.data is None:
        parts = [generate(n, options.size, 2 * seed + k) for n, k in zip(counts, (0, apart), strict=True)]
        return parts[0], parts[1], True
    parts = []
    for split, count, chosen_by in zip(("train", options.held_out), counts, (seed, 0), strict=True):
        scenes, _ = crops(load(options.data, split, options.shrink, options.ignore), options.size)
        order = torch.from_numpy(np.random.default_rng(chosen_by).permutation(len(scenes.masks)))
        parts.append(select(scenes, order[:count]))
    return parts[0], parts[1], False


def table(results: Results, rows: Sequence[tuple[str, int, str]]) -> str:
    """Return the mean IoU in percent, mean and standard deviation over the seeds, as markdown."""
    lines = [f"| told | trained with | {' | '.join(WAYS)} |", "|---|---|---:|---:|---:|"]
    for supervision, length, method in rows:
        runs = [
            run
            for run in results.runs
            if (run["supervision"], run["length"], run["method"]) == (supervision, length, method)
        ]
        cells = [percent([run[way] for run in runs]) if way in runs[0] else "" for way in WAYS]
        name = f"{supervision}, {length} %" if supervision == "scribbles" else supervision
        lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--quick", action="store_true", help="one seed, fewer steps")
    parser.add_argument("--data", type=Path, help="a folder of images and labels: SPLIT/image, SPLIT/label")
    parser.add_argument("--shrink", type=int, default=1, help="average the folder's images over N x N pixels")
    parser.add_argument("--ignore", type=int, default=VOID, help="label of pixels without a class")
    parser.add_argument("--size", type=int, default=64, help="side of an image, or of a crop (default 64)")
    parser.add_argument(
        "--images", type=int, nargs=2, default=(160, 64), help="images to train with and held out (160 64)"
    )
    parser.add_argument(
        "--supervision", choices=("points", "scribbles", "tags"), default="points", help="(default points)"
    )
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[100],
        help="percent of the scribbles that are left; 0: a point of each, trained with the weights of points",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=200, help="training steps of a network (default 200)")
    parser.add_argument("--seeds", type=int, default=3, help="networks per row of the table (default 3)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="rows of the table (default: all)")
    parser.add_argument("--held-out", choices=("val", "test"), default="test", help="val for choices")
    parser.add_argument("--results", type=Path, help="JSON file of the runs: go on with it if it is there")
    parser.add_argument(
        "--figure", type=Path, help="draw what the last seed's networks say; trains them anew"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> Results:
    """Train all networks, print the table, and save results and figure."""
    options = arguments().parse_args(argv)
    steps, seeds = (min(options.steps, 120), 1) if options.quick else (options.steps, options.seeds)
    supervision = options.supervision
    lengths = options.lengths if supervision == "scribbles" else [100]
    # Softmax learns from labelled pixels, which tags do not have.
    methods = [m for m in options.methods or METHODS if supervision != "tags" or m != "softmax"]
    rows = [(supervision, length, method) for length in lengths for method in methods]
    shared: dict[str, Any] = {
        name: getattr(options, name) for name in ("held_out", "shrink", "size", "images")
    }
    shared |= {"data": options.data.name if options.data else "generated", "steps": steps}
    results = Results(options.results, shared)
    predictions: dict[str, Tensor] = {}
    for seed in range(seeds):
        scenes, held_out, background = data(options, seed)
        labels = torch.cat([scenes.masks.flatten(), held_out.masks.flatten()])
        n_classes = int(labels[labels != VOID].max()) + 1
        told = Told(scenes.masks, tags_of(scenes.masks, n_classes), regions(scenes), background)
        for length in lengths:
            maps = None
            if supervision != "tags":
                drawn = annotate(scenes.masks, supervision, seed).labels
                told = told._replace(labels=shortened(drawn, length, seed) if length < 100 else drawn)
            for method in methods:
                key: dict[str, str | int] = {
                    "supervision": supervision, "length": length, "method": method, "seed": seed
                }  # fmt: skip
                if results.get(key) and not (options.figure and seed == seeds - 1):
                    continue
                if supervision == "tags" and maps is None:
                    maps = scores_of_maps(activation_maps(scenes, told, seed, steps), told)
                    labels = sure_labels(maps)
                    told = told._replace(labels=doubled(labels))
                start = time.perf_counter()
                weights = weights_of(method, supervision if length else "points")
                network = train(scenes, told, weights, seed, steps, f"{method}, {length} %, seed {seed}")
                if weights is None:
                    with torch.no_grad():
                        found = {WAYS[1]: network(held_out.images).argmax(1)}
                else:
                    images = scenes.images, held_out.images
                    found = read_off(network, *images, told.labels, n_classes, maps)
                scores = {
                    way: mean_iou(classes, held_out.masks, ignore_index=VOID)
                    for way, classes in found.items()
                }
                results.add(key, scores | {"seconds": round(time.perf_counter() - start)})
                predictions[method] = next(iter(found.values()))
                print(", ".join(f"{way} {100 * score:.1f}" for way, score in scores.items()), file=sys.stderr)
    print(
        f"\nMean IoU in percent over {len(held_out.masks)} images of {options.held_out}, {seeds} seed(s), "
        f"{steps} steps:\n"
    )
    print(table(results, rows))
    if options.figure:
        shown = torch.full_like(held_out.masks, VOID)
        if supervision != "tags":
            shown = annotate(held_out.masks, supervision, seed).labels
        draw_figure(held_out, shown, predictions, supervision).savefig(options.figure)
        print(f"\nsaved {options.figure}")
    return results


if __name__ == "__main__":
    main()
