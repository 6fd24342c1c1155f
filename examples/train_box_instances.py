"""
=================================
Instances, told nothing but boxes
=================================

A detector learns the masks of instances from their boxes: the projection loss says that a mask fills its box
from side to side, and a term of affinity propagation says where its outline is. The term is compared with
those of other methods (the paper's Tables 1 and 4 to 7), by the average precision of COCO (``pycocotools``).

The detector is a small one-stage network as CondInst and BoxInst have it. It finds the centres of instances,
and at each centre it reads the weights of a small convolutional network that draws this instance's mask over
the whole image. To train a detector of your own with boxes, take `box_loss`: it needs the masks (K, 1, H, W)
of the matched instances, their boxes as masks, and the image of each.

Run it with ``python examples/train_box_instances.py --quick`` (minutes), without ``--quick`` for the whole
table, and with ``--data FOLDER`` for images ``SPLIT/image/NAME.png`` (or ``.jpg``) and labels
``SPLIT/label/NAME.png``, the number of an instance or 0. Without a folder, scenes of blobs are generated.

Results go to a JSON file after each run. The same command goes on where it was stopped, and a higher
``--seeds`` adds to what is there.
"""

# sphinx_gallery_thumbnail_path = "images/box_instances.png"

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from results import Results
from scenes import DEVIATION, MEAN, Network, fit, percent, read, unit
from scipy import ndimage
from skimage.color import label2rgb, rgb2lab
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from aproarray.torch import (
    AffinityPropagation,
    LocalPropagation,
    Tree,
    apro_loss,
    mean_field_loss,
    mst,
    pairwise_loss,
    projection_loss,
    tree_energy_loss,
    tree_filter,
)

Array = NDArray[Any]

WIDTH, N_FEATURES, N_MASK, HIDDEN = 16, 16, 8, 8
REACH = 16.0  # pixels of an instance: the unit of places relative to its centre
BATCH, MOST = 4, 32  # crops in a batch, and instances whose masks are trained
SIGMA = 0.002  # of the tree energy loss, for images in [0, 1]
TREE_FILTER = np.sqrt(SIGMA) / 0.226  # the same, for images normalised as ImageNet's


class Pictures(NamedTuple):
    """Images (H, W, 3) in [0, 1] and the instance of each pixel (H, W), 0 outside of all."""

    images: list[Array]
    labels: list[Array]


class Batch(NamedTuple):
    """Crops and the boxes of their instances."""

    images: Tensor
    """(B, 3, H, W), normalised as ImageNet's."""
    boxes: Tensor
    """(K, 1, H, W), 1 inside."""
    masks: Tensor
    """(K, 1, H, W): for full supervision alone."""
    image_index: Tensor
    """The image of each box (K,)."""
    centres: Tensor
    """Row and column of the middle of each box (K, 2)."""
    sides: Tensor
    """Height and width of each box (K, 2)."""


def generate(count: int, size: int, seed: int) -> Pictures:
    """Draw bright blobs, some of which touch, on a noisy ground."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    images, labels = [], []
    for _ in range(count):
        label = np.zeros((size, size), np.int64)
        light = 0.15 + 0.6 * ndimage.gaussian_filter(rng.standard_normal((size, size)), 8)
        for number in range(1, int(rng.integers(8, 20) * (size / 128) ** 2) + 2):
            (row, column), radii, turn = rng.uniform(0, size, 2), rng.uniform(5, 10, 2), rng.uniform(0, np.pi)
            along = (rows - row) * np.cos(turn) + (columns - column) * np.sin(turn)
            across = (columns - column) * np.cos(turn) - (rows - row) * np.sin(turn)
            inside = ((along / radii[0]) ** 2 + (across / radii[1]) ** 2 < 1) & (label == 0)
            label[inside] = number
            light = np.where(inside, rng.uniform(0.35, 0.8), light)
        light = ndimage.gaussian_filter(light, 0.8) + 0.04 * rng.standard_normal((size, size))
        images.append(np.repeat(np.clip(light, 0, 1)[..., None], 3, axis=-1))
        labels.append(label)
    return Pictures(images, labels)


def load(folder: Path, split: str) -> Pictures:
    """Read images and labels of instances, of any sizes; stretch the contrast of each image to [0, 1]."""
    images, labels = [], []
    for _, image, label in read(folder, split):
        low, high = np.percentile(image, (1, 99.8))
        images.append(np.clip((image - low) / max(high - low, 1e-6), 0, 1))
        labels.append(label.astype(np.int64))
    return Pictures(images, labels)


def hold_back(pictures: Pictures) -> tuple[Pictures, Pictures]:
    """Return the pictures without each fifth, and these: for choices, which the test split must not see."""
    rest = Pictures(*([one for place, one in enumerate(part) if place % 5] for part in pictures))
    return rest, Pictures(*(part[::5] for part in pictures))


def normalised(images: Sequence[Array]) -> Tensor:
    """Return images of one size as a tensor (B, 3, H, W), normalised as ImageNet's."""
    stacked = (np.stack(images) - MEAN) / DEVIATION
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(stacked, -1, 1), np.float32))


def batch_of(pictures: Pictures, index: Tensor, size: int) -> Batch:
    """Cut a random square out of each picture, flip it, and find the boxes of its instances."""
    images, boxes, masks, owners, corners = [], [], [], [], []
    for place, number in enumerate(index.tolist()):
        image, label = pictures.images[number], pictures.labels[number]
        row, column = (int(torch.randint(extent - size + 1, ())) for extent in label.shape)
        area = (slice(row, row + size), slice(column, column + size))
        image, label = image[area], label[area]
        for axis in (0, 1):
            if torch.rand(()) < 0.5:
                image, label = np.flip(image, axis), np.flip(label, axis)
        images.append(image)
        for instance, found in enumerate(ndimage.find_objects(label), 1):
            if found is None or min(part.stop - part.start for part in found) < 4:
                continue  # too little of it is in the crop
            box = np.zeros((size, size), np.float32)
            box[found] = 1
            boxes.append(box)
            masks.append((label == instance).astype(np.float32))
            owners.append(place)
            corners.append([[part.start, part.stop - 1] for part in found])
    kept = torch.randperm(len(owners))[:MOST]
    ends = torch.tensor(corners, dtype=torch.float32).reshape(-1, 2, 2)
    drawn = (
        torch.from_numpy(np.array(one, np.float32).reshape(-1, 1, size, size))[kept] for one in (boxes, masks)
    )
    return Batch(
        normalised(images), *drawn, torch.tensor(owners, dtype=torch.int64)[kept], ends.mean(2)[kept],
        (ends[..., 1] - ends[..., 0] + 1)[kept],
    )  # fmt: skip


class Detector(nn.Module):
    """A U-Net, the likelihood of centres, and a small network for the mask of each instance."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = Network(N_FEATURES, WIDTH)
        for block in (*self.pixels.down, *self.pixels.up):
            for place, layer in enumerate(block):  # bright and dark images in one batch share no statistics
                if isinstance(layer, nn.BatchNorm2d):
                    block[place] = nn.GroupNorm(4, layer.num_features)
        self.centre = nn.Conv2d(N_FEATURES, 1, 1)
        nn.init.constant_(self.centre.bias, -3.0)  # type: ignore[arg-type]  # centres are rare
        self.of_mask = nn.Conv2d(N_FEATURES, N_MASK, 1)
        self.sizes = (HIDDEN * (N_MASK + 2), HIDDEN, HIDDEN, 1)
        self.controller = nn.Sequential(nn.Linear(N_FEATURES, 32), nn.ReLU(), nn.Linear(32, sum(self.sizes)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of centres (B, H, W), and features (B, D, H, W) for `masks`."""
        with torch.autocast("cpu", torch.bfloat16):  # half the time
            features = self.pixels(images.contiguous(memory_format=torch.channels_last))
        features = features.float().contiguous()
        return self.centre(features)[:, 0], features

    def masks(self, features: Tensor, centres: Tensor, image_index: Tensor) -> Tensor:
        """Return the masks (K, 1, H, W) of instances with these centres (K, 2), in these images."""
        rows, columns = centres.round().long().T
        weights = self.controller(features[image_index, :, rows, columns]).split(self.sizes, 1)
        height, width = features.shape[2:]
        grid = torch.stack(
            torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
        )
        relative = (grid - centres[:, :, None, None]) / REACH
        inputs = torch.cat([self.of_mask(features)[image_index], relative], 1).flatten(2)
        first = weights[0].unflatten(1, (HIDDEN, N_MASK + 2))
        hidden = torch.baddbmm(weights[1][..., None], first, inputs).relu()
        logits = torch.baddbmm(weights[3][..., None], weights[2][:, None], hidden)
        return logits.unflatten(2, (height, width)).sigmoid()


# A term beside the projection loss: of masks (K, 1, H, W), a batch, and the trees of its images.
Term = Callable[[Tensor, Batch, Tree], Tensor]


def propagation(
    weights: tuple[float, float] = (1.0, 1.0),
    mode: Literal["parallel", "global-local", "local-global"] = "parallel",
    by_tree: nn.Module | None = None,
    iterations: int = 20,
) -> Term:
    """Return the term of GP and LP with these weights."""
    modules = AffinityPropagation(mode, by_tree, LocalPropagation(iterations=iterations))  # type: ignore[arg-type]

    def term(masks: Tensor, batch: Batch, trees: Tree) -> Tensor:
        return apro_loss(
            masks, batch.images, batch.boxes, propagation=modules, per_instance=True, weights=weights,
            tree=trees, image_index=batch.image_index,
        )  # fmt: skip

    return term


class TreeFilter(nn.Module):
    """The tree filter, in the place of GP."""

    def forward(self, values: Tensor, tree: Tree, tree_index: Tensor | None = None) -> Tensor:
        """Filter values (K, 1, H, W) along the trees of their images."""
        return tree_filter(values, tree, zeta=TREE_FILTER, tree_index=tree_index)


def pairwise(masks: Tensor, batch: Batch, _: Tree) -> Tensor:
    """Return BoxInst's pairwise loss."""
    lab = torch.from_numpy(rgb2lab(unit(batch.images).movedim(1, -1).numpy())).movedim(-1, 1)
    return pairwise_loss(masks, lab.float(), batch.boxes, image_index=batch.image_index)


def tree_energy(masks: Tensor, batch: Batch, trees: Tree) -> Tensor:
    """Return the tree energy loss."""
    of_masks = Tree(*(part[batch.image_index] for part in trees))
    images = unit(batch.images)[batch.image_index]
    return tree_energy_loss(masks, images, batch.boxes, sigma=SIGMA, tree=of_masks)


def mean_field(iterations: int) -> Term:
    """Return the mean-field (CRF) loss with a number of iterations."""

    def term(masks: Tensor, batch: Batch, _: Tree) -> Tensor:
        return mean_field_loss(
            masks, batch.images, batch.boxes, iterations=iterations, image_index=batch.image_index
        )

    return term


START, CEILING = "ellipses", "full supervision"
METHODS: dict[str, Term | None] = {
    START: None,
    "projection alone": None,
    "pairwise loss": pairwise,
    "tree energy loss": tree_energy,
    "CRF loss": mean_field(20),
    "GP": propagation((1.0, 0.0)),
    "LP": propagation((0.0, 1.0)),
    "GP and LP": propagation(),
    "LP of GP": propagation(mode="global-local"),
    "GP of LP": propagation(mode="local-global"),
    "tree filter": propagation((1.0, 0.0), by_tree=TreeFilter()),
    "tree filter and LP": propagation(by_tree=TreeFilter()),
    **{f"LP, {n} iterations": propagation((0.0, 1.0), iterations=n) for n in (10, 30, 50)},
    **{f"CRF loss, {n} iterations": mean_field(n) for n in (50, 100)},
    CEILING: None,
}


def dice(masks: Tensor, truth: Tensor) -> Tensor:
    """Return the dice loss of masks against the true ones, mean over the masks."""
    both = (masks * truth).sum((1, 2, 3))
    return (1 - 2 * both / ((masks**2).sum((1, 2, 3)) + truth.sum((1, 2, 3)))).mean()


def ellipses(batch: Batch) -> Tensor:
    """Return the ellipses (K, 1, H, W) that touch all sides of their boxes from within."""
    rows, columns = (torch.arange(extent).float() for extent in batch.boxes.shape[2:])
    down = 2 * (rows - batch.centres[:, :1]) / batch.sides[:, :1]
    across = 2 * (columns - batch.centres[:, 1:]) / batch.sides[:, 1:]
    return (down[:, None, :, None] ** 2 + across[:, None, None] ** 2 <= 1).float()


def box_loss(masks: Tensor, batch: Batch, term: Term | None, trust: float) -> Tensor:
    """Return the loss of masks that are told their boxes: projections, and `trust` times a term."""
    total = projection_loss(masks, batch.boxes)
    if term is not None:
        total = total + trust * term(masks, batch, mst(batch.images))
    return total


def centre_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Return the focal loss of centres: 1 at each, and less to lose around it (CenterNet)."""
    rows, columns = (torch.arange(extent).float() for extent in logits.shape[1:])
    near = torch.zeros_like(logits)
    sigma = (batch.sides / 6).clamp(min=1)
    for place, (row, column), (a, b) in zip(batch.image_index, batch.centres.round(), sigma, strict=True):
        down, across = (
            torch.exp(-((rows - row) ** 2) / (2 * a**2)),
            torch.exp(-((columns - column) ** 2) / (2 * b**2)),
        )
        near[place] = torch.maximum(near[place], down[:, None] * across)
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    at = near == 1
    loss = -torch.where(at, (1 - p) ** 2 * p.log(), (1 - near) ** 4 * p**2 * (1 - p).log())
    return loss.sum() / at.sum().clamp(min=1)


def train(
    pictures: Pictures, method: str, seed: int, steps: int, size: int, start: Detector | None = None
) -> Detector:
    """Train a detector, showing a progress bar: a new one of ellipses, or `start` by another method."""
    torch.manual_seed(seed)
    network = Detector() if start is None else copy.deepcopy(start).train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(index: Tensor, done: float) -> Tensor:
        batch = batch_of(pictures, index[:BATCH], size)
        logits, features = network(batch.images)
        total = centre_loss(logits, batch)
        if not len(batch.image_index):
            return total
        # A mask is drawn alike from anywhere near the centre.
        shifted = batch.centres + (torch.rand(batch.sides.shape) - 0.5) * batch.sides / 3
        masks = network.masks(features, shifted.clamp(0, size - 1), batch.image_index)
        if method == CEILING:
            return total + dice(masks, batch.masks)
        if method == START:
            return total + dice(masks, ellipses(batch))
        # The term takes its targets from the masks. It takes over from the ellipses in the first half.
        trust = min(1.0, 2 * done)
        held = (1 - trust) * dice(masks, ellipses(batch))
        return total + held + box_loss(masks, batch, METHODS[method], trust)

    fit(network, loss, len(pictures.images), steps, f"{method}, seed {seed}")
    return network.eval()


@torch.no_grad()
def masks_at_centres(network: Detector, pictures: Pictures) -> dict[str, float]:
    """Draw a mask at the centre of every true box; return their mean IoU, and mean area over the true one.

    They tell of the masks alone, not of how centres are found. Masks that shrink have a small area.
    """
    overlaps, areas = [], []
    for image, label in zip(pictures.images, pictures.labels, strict=True):
        _, features = network(normalised([padded(image)]))
        boxes = [(number, box) for number, box in enumerate(ndimage.find_objects(label), 1) if box]
        middles = [[(part.start + part.stop - 1) / 2 for part in box] for _, box in boxes]
        for group in range(0, len(boxes), 32):
            centres = torch.tensor(middles[group : group + 32])
            drawn = network.masks(features, centres, torch.zeros(len(centres), dtype=torch.int64))[:, 0] > 0.5
            for (number, _), mask in zip(boxes[group:], drawn.numpy(), strict=False):
                truth, found = label == number, mask[: len(label), : label.shape[1]]
                overlaps.append((found & truth).sum() / (found | truth).sum())
                areas.append(found.sum() / truth.sum())
    return {"IoU": float(np.mean(overlaps)), "area": float(np.mean(areas))}


def padded(image: Array) -> Array:
    """Mirror an image (H, W, 3) at its ends, so that 4 divides its sides."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % 4), (0, -width % 4), (0, 0)), mode="reflect")


@torch.no_grad()
def detect(network: Detector, image: Array, most: int = 200) -> tuple[Array, Array]:
    """Return the masks (K, H, W) of the instances of an image, and their scores: the best first."""
    height, width = image.shape[:2]
    logits, features = network(normalised([padded(image)]))
    heat = logits[0, :height, :width].sigmoid()
    peaks = (F.max_pool2d(heat[None], 5, 1, 2)[0] == heat) & (heat > 0.1)
    order = heat[peaks].argsort(descending=True)[:most]
    centres = torch.nonzero(peaks)[order].float()
    if not len(centres):
        return np.zeros((0, height, width), bool), np.zeros(0)
    soft = torch.cat(
        [
            network.masks(features, part, torch.zeros(len(part), dtype=torch.int64))
            for part in centres.split(32)
        ]
    )[:, 0, :height, :width]
    masks = soft > 0.5
    areas = masks.sum((1, 2))
    sure = (soft * masks).sum((1, 2)) / areas.clamp(min=1)
    scores = heat[peaks][order] * sure
    flat, kept = masks.flatten(1).float(), list[int]()
    shared = flat @ flat.T  # pixels that two masks share
    for place in scores.argsort(descending=True).tolist():
        if areas[place] < 4:
            continue
        both = shared[place, kept]
        if not (both / (areas[kept] + areas[place] - both) > 0.5).any():  # else: found already
            kept.append(place)
    return masks[kept].numpy(), scores[kept].numpy()


def average_precision(found: Sequence[tuple[Array, Array]], labels: Sequence[Array]) -> dict[str, float]:
    """Return COCO's mask AP over IoU 0.5 to 0.95, AP50 and AP75."""
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for number, ((masks, scores), label) in enumerate(zip(found, labels, strict=True)):
        for instance in np.unique(label[label > 0]):
            code = run_lengths.encode(np.asfortranarray(label == instance, np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                    "segmentation": code, "area": int(run_lengths.area(code)),
                    "bbox": run_lengths.toBbox(code).tolist(),
                }
            )  # fmt: skip
        for mask, score in zip(masks, scores, strict=True):
            code = run_lengths.encode(np.asfortranarray(mask, np.uint8))
            detections.append(
                {"image_id": number, "category_id": 1, "segmentation": code, "score": float(score)}
            )
    if not detections:
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [
                {"id": number, "height": len(label), "width": label.shape[1]}
                for number, label in enumerate(labels)
            ],
            "categories": [{"id": 1, "name": "instance"}],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "segm")
        evaluation.params.maxDets = [1, 100, 200]  # an image may have more than 100 nuclei
        evaluation.evaluate()
        evaluation.accumulate()
    # IoU thresholds 0.5, 0.55, ..., 0.95; recalls; the category; all areas; the most detections.
    precision = evaluation.eval["precision"][:, :, 0, 0, -1]
    return {
        "AP": float(precision.mean()), "AP50": float(precision[0].mean()), "AP75": float(precision[5].mean())
    }  # fmt: skip


def table(results: Results, methods: Sequence[str]) -> str:
    """Return all measures in percent, mean and standard deviation over the seeds, as markdown.

    A network has collapsed if its masks are less than half as large as the true ones.
    """
    names = ("AP", "AP50", "AP75", "IoU", "area")
    lines = [f"| trained with | {' | '.join(names)} | collapsed |", "|---|" + 6 * "---:|"]
    for method in methods:
        runs = [run for run in results.runs if run["method"] == method]
        cells = [percent([run[name] for run in runs]) for name in names]
        collapsed = sum(run["area"] < 0.5 for run in runs)
        lines.append(f"| {method} | {' | '.join(cells)} | {collapsed} of {len(runs)} |")
    return "\n".join(lines)


def figure(pictures: Pictures, found: dict[str, list[tuple[Array, Array]]]) -> Figure:
    """Draw three pictures with the boxes of their instances, the masks by each method, and the truth."""
    rows = min(3, len(pictures.images))
    drawn = Figure(figsize=(1.7 * (2 + len(found)), 1.7 * rows + 0.3), dpi=100, layout="constrained")
    for row, axes in enumerate(drawn.subplots(rows, 2 + len(found), squeeze=False)):
        image, label = pictures.images[row], pictures.labels[row]
        maps = {"truth": label}
        for method, of_method in found.items():
            maps[method] = np.zeros_like(label)
            masks, scores = of_method[row]
            for number, mask in reversed(list(enumerate(masks[scores > 0.3], 1))):
                maps[method][mask] = number
        axes[0].imshow(image)
        for down, across in filter(None, ndimage.find_objects(label)):
            corner = (across.start - 0.5, down.start - 0.5)
            sides = (across.stop - across.start, down.stop - down.start)
            axes[0].add_patch(Rectangle(corner, *sides, fill=False, edgecolor="orange", linewidth=0.8))
        for place, (name, numbers) in zip(axes[1:], maps.items(), strict=True):
            place.imshow(label2rgb(numbers, image, alpha=0.5, bg_label=0))
            place.set_title(name if row == 0 else "", fontsize=9)
        axes[0].set_title("boxes" if row == 0 else "", fontsize=9)
        for place in axes:
            place.set_axis_off()
    return drawn


def arguments() -> argparse.ArgumentParser:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--quick", action="store_true", help="four rows, one seed, fewer steps")
    parser.add_argument("--data", type=Path, help="a folder of images and labels: SPLIT/image, SPLIT/label")
    parser.add_argument("--size", type=int, default=96, help="side of a crop in pixels (default 96)")
    parser.add_argument(
        "--first-steps", type=int, default=600, help="steps with ellipses, before all methods (default 600)"
    )
    parser.add_argument("--steps", type=int, default=200, help="steps with each method (default 200)")
    parser.add_argument("--seeds", type=int, default=3, help="networks per row of the table (default 3)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="rows of the table (default: all)")
    parser.add_argument(
        "--held-out", choices=("test", "train"), default="test",
        help="train, for choices: train with four of five images of this split, ask about the others",
    )  # fmt: skip
    parser.add_argument("--results", type=Path, help="JSON file of the runs: go on with it if it is there")
    parser.add_argument(
        "--figure", type=Path, help="draw what the last seed's networks say; trains them anew"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> Results:
    """Train all networks, print the table, and save results and figure."""
    options = arguments().parse_args(argv)
    first, steps, seeds = options.first_steps, options.steps, options.seeds
    methods = options.methods or list(METHODS)
    if options.quick:
        first, steps, seeds = min(first, 150), min(steps, 100), 1
        methods = options.methods or [START, "projection alone", "GP and LP", CEILING]
    data = options.data.name if options.data else "generated"
    shared = {"held_out": options.held_out, "size": options.size, "data": data}
    results = Results(options.results, shared | {"first_steps": first, "steps": steps})
    if options.data:
        pictures, held_out = (load(options.data, split) for split in ("train", "test"))
        if options.held_out == "train":
            pictures, held_out = hold_back(pictures)
    found: dict[str, list[tuple[Array, Array]]] = {}
    for seed in range(seeds):
        if not options.data:
            pictures, held_out = (generate(n, 128, 2 * seed + k) for k, n in enumerate((60, 24)))
            if options.held_out == "train":
                pictures, held_out = hold_back(pictures)
        drawn = options.figure and seed == seeds - 1
        keys: dict[str, dict[str, str | int]] = {name: {"method": name, "seed": seed} for name in methods}
        missing = [method for method in methods if drawn or not results.get(keys[method])]
        if not missing:
            continue
        began = time.perf_counter()
        start = train(pictures, START, seed, first, options.size)
        for method in missing:
            network = start
            if method != START:
                began = time.perf_counter()
                network = train(pictures, method, seed, steps, options.size, start)
            seconds = round(time.perf_counter() - began)
            found[method] = [detect(network, image) for image in held_out.images]
            measured = average_precision(found[method], held_out.labels) | masks_at_centres(network, held_out)
            rounded = {name: round(value, 4) for name, value in measured.items()}
            results.add(keys[method], rounded | {"seconds": seconds})
            print(f"{method}, seed {seed}: {rounded}", file=sys.stderr)
    print(
        f"\nIn percent, {len(held_out.images)} images of {options.held_out}, {seeds} seed(s), "
        f"{first} steps with ellipses and {steps} with each method:\n"
    )
    print(table(results, methods))
    if options.figure:
        figure(held_out, found).savefig(options.figure)
        print(f"\nsaved {options.figure}")
    return results


if __name__ == "__main__":
    main()
