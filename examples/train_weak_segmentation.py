"""
==========================================
Training a network with weak annotations
==========================================

A small segmentation network learns from boxes, points or scribbles alone: with the unary loss, with
affinity propagation (the paper's Table 4: GP, LP, both; Table 7: cascades), and with the losses that the
paper compares with (Table 2). Full supervision is the ceiling.

Images are composed of textures and photographs in generated shapes (see ``scenes.py``): what is where is
known, for the mean IoU over held-out images.

Run it with ``python examples/train_weak_segmentation.py --quick`` (minutes), without ``--quick`` for the
whole table, and with ``--data FOLDER`` for images and labels ``SPLIT/image/NAME.jpg`` (or ``.png``) and
``SPLIT/label/NAME.png``. The splits are ``train``, ``val`` for choices, and ``test``.

Results go to a JSON file after each run. The same command goes on where it was stopped, and a higher
``--seeds`` adds to what is there.
"""

# sphinx_gallery_thumbnail_path = "images/weak_segmentation.png"

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from results import Results
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
    unit,
)
from torch import Tensor

from aproarray.related import mean_iou
from aproarray.torch import (
    AffinityPropagation,
    GlobalPropagation,
    apro_loss,
    gated_crf_loss,
    mean_field_loss,
    partial_cross_entropy,
    projection_loss,
    tree_energy_loss,
)

Mode = Literal["parallel", "global-local", "local-global"]
# A term that is added to the unary loss: of probabilities (B, C, H, W) of classes, or (K, 1, H, W) of
# instances with the image of each, in a region.
Term = Callable[[Tensor, Scenes, Tensor, Tensor | None], Tensor]


def propagation(shares: tuple[float, float], propagate: AffinityPropagation | None = None) -> Term:
    """Return the term of GP and LP with these shares of the default weights of `apro_loss`.

    The modules are the published ones, or those of `propagate`.
    """

    def term(probabilities: Tensor, scenes: Scenes, region: Tensor, image_index: Tensor | None) -> Tensor:
        default = 0.3 if image_index is None else 1.0
        return apro_loss(
            probabilities, scenes.images, region, propagation=propagate,
            weights=(default * shares[0], default * shares[1]), per_instance=image_index is not None,
            tree=scenes.trees, image_index=image_index,
        )  # fmt: skip

    return term


def published(weights: tuple[float, float], mode: Mode = "parallel", constant_targets: bool = True) -> Term:
    """Return the published term of GP and LP with these weights."""
    propagation = AffinityPropagation(mode)

    def term(probabilities: Tensor, scenes: Scenes, region: Tensor, image_index: Tensor | None) -> Tensor:
        return apro_loss(
            probabilities, scenes.images, region, propagation=propagation, weights=weights,
            constant_targets=constant_targets, per_instance=image_index is not None, tree=scenes.trees,
            image_index=image_index,
        )  # fmt: skip

    return term


def tree_energy(probabilities: Tensor, scenes: Scenes, region: Tensor, image_index: Tensor | None) -> Tensor:
    """Return the tree energy loss, with its published weight and its sigma for street scenes."""
    if image_index is not None:
        scenes = select(scenes, image_index)
    return tree_energy_loss(probabilities, unit(scenes.images), region, sigma=0.002, tree=scenes.trees)


def mean_field(probabilities: Tensor, scenes: Scenes, region: Tensor, image_index: Tensor | None) -> Tensor:
    """Return the mean-field loss: each class, or instance, is a mask of its own."""
    if image_index is None:
        count, n_classes = probabilities.shape[:2]
        image_index = torch.arange(count, device=region.device).repeat_interleave(n_classes)
        region = region.repeat_interleave(n_classes, 0)
        probabilities = probabilities.flatten(0, 1).unsqueeze(1)
    return mean_field_loss(probabilities, scenes.images, region, iterations=10, image_index=image_index)


def gated_crf(probabilities: Tensor, scenes: Scenes, region: Tensor, image_index: Tensor | None) -> Tensor:
    """Return the gated CRF loss, with its published weight."""
    images = scenes.images if image_index is None else scenes.images[image_index]
    if image_index is not None:  # of one class and the rest
        probabilities = torch.cat([probabilities, 1 - probabilities], 1)
    return 0.1 * gated_crf_loss(probabilities, unit(images), region)


class Method(NamedTuple):
    """A term beside the unary loss. Its weight rises from 0 to its own between two points of the training."""

    term: Term | None = None
    rises: tuple[float, float] = (0.0, 0.5)

    def trust(self, done: float) -> float:
        """Return the share of the weight, when this much of the training is done."""
        start, end = self.rises
        return min(1.0, max(0.0, (done - start) / (end - start)))


CEILING = "full supervision"
METHODS = {
    "unary": Method(),
    "+ GP": Method(propagation((1.0, 0.0))),
    "+ LP": Method(propagation((0.0, 1.0))),
    "+ GP and LP": Method(propagation((1.0, 1.0))),
    "published GP and LP": Method(published((1.0, 1.0))),
    "published LP of GP": Method(published((1.0, 1.0), "global-local")),
    "published GP of LP": Method(published((1.0, 1.0), "local-global")),
    "tree energy loss": Method(tree_energy),
    "mean-field loss": Method(mean_field),
    "gated CRF loss": Method(gated_crf),
    CEILING: Method(),
}
# Rows that are trained if --methods names them: how the defaults were chosen.
TRIALS = {
    "GP of zeta 0.06, and LP": Method(
        propagation((1.0, 1.0), AffinityPropagation(global_propagation=GlobalPropagation(0.06)))
    ),
    "published GP": Method(published((1.0, 0.0))),
    "published LP": Method(published((0.0, 1.0))),
    "published, weight 0.1": Method(published((0.1, 0.1))),
    "published, weight 0.3": Method(published((0.3, 0.3))),
    "published, in the last 30 %": Method(published((1.0, 1.0)), (0.7, 1.0)),
    "targets with gradients, weight 1": Method(published((1.0, 1.0), constant_targets=False)),
    "targets with gradients, weight 0.3": Method(published((0.3, 0.3), constant_targets=False)),
}


def loss(scores: Tensor, scenes: Scenes, told: Annotations, method: Method, done: float) -> Tensor:
    """Return the loss of class scores: the unary term of the annotation, and the method's."""
    probabilities = scores.softmax(1)
    total = partial_cross_entropy(scores, told.labels, ignore_index=VOID)
    region, image_index = (told.labels == VOID).unsqueeze(1), None
    if len(told.boxes):
        probabilities = probabilities[told.image_index, told.class_of].unsqueeze(1)
        total = total + projection_loss(probabilities * told.boxes, told.boxes)
        region, image_index = told.boxes, told.image_index
    trust = method.trust(done)  # a network's own predictions are not worth much at first
    if method.term is not None and trust:
        total = total + trust * method.term(probabilities, scenes, region, image_index)
    return total


class Training(NamedTuple):
    """How networks are trained."""

    steps: int
    width: int
    device: torch.device
    bfloat16: bool

    def fit(
        self, scenes: Scenes, told: Annotations, n_classes: int, method: Method, seed: int, progress: str
    ) -> Network:
        """Train a network, showing a progress bar."""
        torch.manual_seed(seed)
        network = Network(n_classes, self.width).to(self.device, memory_format=torch.channels_last)

        def loss_of(index: Tensor, done: float) -> Tensor:
            batch = select(scenes, index).to(self.device)
            scores = self.scores(network, batch.images)
            return loss(scores, batch, batch_of(told, index).to(self.device), method, done)

        fit(network, loss_of, len(scenes.images), self.steps, progress)
        return network

    def scores(self, network: Network, images: Tensor) -> Tensor:
        """Return class scores of images (B, 3, H, W), on the device, in float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            scores: Tensor = network(images.contiguous(memory_format=torch.channels_last))
        return scores.float().contiguous()

    @torch.no_grad()
    def predict(self, network: Network, scenes: Scenes) -> Tensor:
        """Return the class of every pixel (B, H, W)."""
        network.eval()
        parts = (self.scores(network, part.to(self.device)).argmax(1) for part in scenes.images.split(16))
        return torch.cat([part.cpu() for part in parts])


def measure(predicted: Tensor, truth: Tensor, n_classes: int) -> dict[str, Any]:
    """Return the mean IoU, the pixel accuracy and the IoU of each class (None: it is nowhere)."""
    counted = truth != VOID
    of_classes = [mean_iou(predicted, truth, classes=[n], ignore_index=VOID) for n in range(n_classes)]
    return {
        "mean_iou": mean_iou(predicted, truth, ignore_index=VOID),
        "accuracy": float((predicted == truth)[counted].float().mean()),
        "iou": [None if math.isnan(value) else round(value, 4) for value in of_classes],
    }


def of_runs(results: Results, supervision: str, method: str, key: str) -> list[Any]:
    """Return one number of all runs of a method."""
    return [run[key] for run in results.runs if (run["supervision"], run["method"]) == (supervision, method)]


def table(results: Results, methods: Sequence[str], supervisions: Sequence[str]) -> str:
    """Return mean IoU, its share of full supervision, and pixel accuracy, in percent, as markdown."""
    lines = ["| loss | " + " | ".join(supervisions) + " |", "|---|" + "---:|" * len(supervisions)]
    ceilings = of_runs(results, "all", CEILING, "mean_iou")
    for method in methods:
        cells = []
        for supervision in supervisions:
            key = "all" if method == CEILING else supervision
            scores = of_runs(results, key, method, "mean_iou")
            share = f" ({100 * np.mean(scores) / np.mean(ceilings):.0f} %)" if any(ceilings) else ""
            cells.append(f"{percent(scores)}{share}, {percent(of_runs(results, key, method, 'accuracy'))}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def class_table(results: Results, methods: Sequence[str], supervision: str, names: Sequence[str]) -> str:
    """Return the IoU of each class in percent, mean of the seeds, as markdown."""
    lines = [f"| {supervision} | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for method in methods:
        runs = of_runs(results, "all" if method == CEILING else supervision, method, "iou")
        cells = []
        for values in zip(*runs, strict=True):
            there = [value for value in values if value is not None]
            cells.append(f"{100 * np.mean(there):.0f}" if there else "")
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
    parser.add_argument("--data", type=Path, help="a folder of images and labels: SPLIT/image, SPLIT/label")
    parser.add_argument(
        "--shrink", type=count, default=1, help="average the folder's images over N x N pixels"
    )
    parser.add_argument(
        "--ignore", type=int, default=VOID, help="label of pixels without a class (default 255)"
    )
    parser.add_argument(
        "--names", nargs="+", help="names of the classes 0, 1, ...: also print the IoU of each"
    )
    parser.add_argument(
        "--size", type=count, default=64, help="side of generated images in pixels (default 64)"
    )
    parser.add_argument("--steps", type=count, default=200, help="training steps of a network (default 200)")
    parser.add_argument(
        "--width", type=count, default=12, help="channels of a network's first level (default 12)"
    )
    parser.add_argument("--seeds", type=count, default=3, help="networks per cell of the table (default 3)")
    parser.add_argument(
        "--supervision", nargs="+", choices=SUPERVISIONS,
        help="default: all three; points and scribbles with --data, as boxes need a background, class 0",
    )  # fmt: skip
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS | TRIALS, help="rows of the table (default: all)"
    )
    parser.add_argument("--held-out", choices=("val", "test"), default="test", help="val for choices")
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda")
    parser.add_argument("--bfloat16", action="store_true", help="compute networks in bfloat16")
    parser.add_argument("--results", type=Path, help="JSON file of the runs: go on with it if it is there")
    parser.add_argument(
        "--figure", type=Path, help="draw what the last seed's networks say; trains them anew"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> Results:
    """Train all networks, print the tables, and save results and figure."""
    parser = arguments()
    options = parser.parse_args(argv)
    if options.size < 16:
        parser.error(f"argument --size: must be at least 16, got {options.size}")
    for name in ("figure", "results"):
        path = getattr(options, name)
        if path and not path.absolute().parent.is_dir():
            parser.error(f"argument --{name}: {path.absolute().parent} is not a folder")
    steps, seeds = options.steps, options.seeds
    supervisions = options.supervision or SUPERVISIONS[1 if options.data else 0 :]
    if options.quick:
        steps, seeds, supervisions = min(steps, 120), 1, ["scribbles"]
    methods = options.methods or list(METHODS)
    runs = [
        ("all" if method == CEILING else supervision, method)
        for method in methods
        for supervision in (supervisions[:1] if method == CEILING else supervisions)
    ]
    predictions: dict[str, Tensor] = {}
    shared = {name: getattr(options, name) for name in ("held_out", "shrink", "width", "bfloat16")}
    shared |= {"data": options.data.name if options.data else f"generated, {options.size}", "steps": steps}
    results = Results(options.results, shared | {"device": options.device.type})
    training = Training(steps, options.width, options.device, options.bfloat16)
    parts = [] if options.data is None else [
        load(options.data, split, options.shrink, options.ignore) for split in ("train", options.held_out)
    ]  # fmt: skip
    for seed in range(seeds):
        if options.data is None:
            apart = {"test": 1, "val": 10_001}[options.held_out]
            parts = [generate(n, options.size, 2 * seed + k) for n, k in ((160, 0), (64, apart))]
        scenes, held_out = parts
        labels = torch.cat([scenes.masks.flatten(), held_out.masks.flatten()])
        n_classes = int(labels[labels != VOID].max()) + 1
        if options.names and len(options.names) != n_classes:
            parser.error(f"argument --names: {len(options.names)} names for {n_classes} classes")
        seen = scenes.mirrored() if options.data else scenes
        for supervision, method in runs:
            key: dict[str, str | int] = {"supervision": supervision, "method": method, "seed": seed}
            drawn = options.figure and seed == seeds - 1 and supervision == supervisions[-1]
            if results.get(key) and not drawn:
                continue
            told = annotate(scenes.masks, supervision, seed)
            told = told.mirrored() if options.data else told
            start = time.perf_counter()
            network = training.fit(
                seen, told, n_classes, (METHODS | TRIALS)[method], seed, f"{supervision}, {method}, {seed}"
            )
            seconds = round(time.perf_counter() - start)
            predicted = training.predict(network, held_out)
            measured = measure(predicted, held_out.masks, n_classes)
            results.add(key, measured | {"seconds": seconds})
            print(
                f"{supervision}, {method}, seed {seed}: mIoU {100 * measured['mean_iou']:.1f}",
                file=sys.stderr,
            )
            predictions[method] = predicted
    images = f"{len(held_out.masks)} images of {options.held_out}"
    print(
        f"\nMean IoU (share of full supervision) and pixel accuracy in percent, {images}, {seeds} seed(s), "
        f"{steps} steps:\n"
    )
    print(table(results, methods, supervisions))
    for supervision in supervisions if options.names else ():
        print(f"\n{class_table(results, methods, supervision, options.names)}")
    if options.figure:
        drawn = {method: predictions[method] for method in methods if method != CEILING}
        told = annotate(held_out.masks, supervisions[-1], seed).labels
        draw_figure(held_out, told, drawn, supervisions[-1]).savefig(options.figure)
        print(f"\nsaved {options.figure}")
    return results


if __name__ == "__main__":
    main()
