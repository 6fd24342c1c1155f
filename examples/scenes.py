"""Scenes that a laptop trains on, what a network may be told of them, and a small network: for the examples.

Images are composed of real textures (brick, grass, gravel) and photographs from scikit-image, in generated
shapes: what is where is known. A class is a kind of texture, and loosely a colour. Annotations are drawn from
the masks.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage import data, draw, measure, morphology, transform
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from aproarray.torch import Tree, mst

Array = NDArray[Any]

VOID = 255  # pixels without a label
SUPERVISIONS = ("boxes", "points", "scribbles")
# A class is a texture and, loosely, a colour.
KINDS = (("brick", (0.75, 0.40, 0.35)), ("grass", (0.45, 0.70, 0.35)), ("gravel", (0.50, 0.50, 0.75)))
COLORS = ("#10141c", "#e4572e", "#4fb06d", "#4d8af0", "#e0b13c", "#a05cc9")  # of classes in figures
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # ImageNet's


class Scenes(NamedTuple):
    """Images (B, 3, H, W), normalised, their masks (B, H, W) of classes or VOID, and the images' trees."""

    images: Tensor
    masks: Tensor
    trees: Tree

    @classmethod
    def of(cls, images: Sequence[Array], masks: Sequence[Array]) -> Scenes:
        """Make them of images (H, W, 3) in [0, 1] and masks (H, W)."""
        normalised = (np.stack(images) - MEAN) / DEVIATION
        tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(normalised, -1, 1), np.float32))
        return cls(tensor, torch.from_numpy(np.stack(masks).astype(np.int64)), mst(tensor))

    def mirrored(self) -> Scenes:
        """Return the scenes and their mirror images."""
        images = self.images.flip(-1)
        trees = zip(self.trees, mst(images), strict=True)
        return Scenes(
            torch.cat([self.images, images]),
            torch.cat([self.masks, self.masks.flip(-1)]),
            Tree(*(torch.cat(parts) for parts in trees)),
        )

    def to(self, device: torch.device) -> Scenes:
        """Return the scenes on a device."""
        return Scenes(self.images.to(device), self.masks.to(device), self.trees.to(device))


class Annotations(NamedTuple):
    """What the network is told of scenes."""

    labels: Tensor
    """Class or VOID of every pixel (B, H, W)."""
    boxes: Tensor
    """Boxes of instances (K, 1, H, W), for supervision by boxes."""
    image_index: Tensor
    """The image of each box (K,)."""
    class_of: Tensor
    """The class of each box (K,)."""

    def mirrored(self) -> Annotations:
        """Return the annotations of the scenes and of their mirror images."""
        return Annotations(
            torch.cat([self.labels, self.labels.flip(-1)]),
            torch.cat([self.boxes, self.boxes.flip(-1)]),
            torch.cat([self.image_index, self.image_index + len(self.labels)]),
            torch.cat([self.class_of, self.class_of]),
        )

    def to(self, device: torch.device) -> Annotations:
        """Return the annotations on a device."""
        return Annotations(*(part.to(device) for part in self))


def photographs() -> list[Array]:
    """Return the photographs that backgrounds are cut from."""
    return [getattr(data, name)() / 255 for name in ("coffee", "chelsea", "rocket", "astronaut")]


def crop(picture: Array, size: int, scale: int, rng: np.random.Generator) -> Array:
    """Cut a random square out of a picture and scale it down."""
    row, column = (rng.integers(extent - size * scale + 1) for extent in picture.shape[:2])
    square = picture[row : row + size * scale, column : column + size * scale]
    return np.asarray(transform.downscale_local_mean(square, (scale, scale, 1)[: picture.ndim]))


def shape(size: int, rng: np.random.Generator) -> Array:
    """Return a random ellipse, rectangle or star, turned."""
    centre, radius = rng.uniform(0.2, 0.8, 2) * size, rng.uniform(0.13, 0.28) * size
    corners = {"ellipse": 40, "rectangle": 4, "star": 10}
    kind = str(rng.choice(list(corners)))
    angle = 2 * np.pi * (np.arange(corners[kind]) / corners[kind] + rng.random())
    reach = np.full(len(angle), radius)
    if kind == "star":
        reach[::2] *= 0.55
    stretch, turn = rng.uniform(0.6, 1.0), rng.uniform(0, np.pi)
    row, column = reach * np.cos(angle), stretch * reach * np.sin(angle)
    rows = centre[0] + np.cos(turn) * row - np.sin(turn) * column
    columns = centre[1] + np.sin(turn) * row + np.cos(turn) * column
    return np.asarray(draw.polygon2mask((size, size), np.stack([rows, columns], 1)))


def generate(
    count: int, size: int, seed: int, kinds: Sequence[tuple[str, tuple[float, float, float]]] = KINDS
) -> Scenes:
    """Compose scenes of two to four textured shapes on photographs."""
    rng = np.random.default_rng(seed)
    textures, backgrounds = [getattr(data, name)() / 255 for name, _ in kinds], photographs()
    images, masks = [], []
    for _ in range(count):
        image = crop(backgrounds[rng.integers(len(backgrounds))], size, 3, rng)
        mask = np.zeros((size, size), np.int64)
        for _ in range(rng.integers(2, 5)):
            inside, kind = shape(size, rng), rng.integers(len(textures))
            texture = crop(textures[kind], size, 2, rng)
            color = kinds[kind][1] + rng.uniform(-0.25, 0.25, 3)
            shaded = color * (1 + 0.9 * (texture - texture.mean()))[..., None]
            image = np.where(inside[..., None], np.clip(shaded, 0, 1), image)
            mask[inside] = 1 + kind
        images.append(ndimage.gaussian_filter(image, (0.5, 0.5, 0)))
        masks.append(mask)
    return Scenes.of(images, masks)


def unit(images: Tensor) -> Tensor:
    """Return normalised images (B, 3, H, W) in [0, 1] again."""
    mean, deviation = (
        torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None]
        for values in (MEAN, DEVIATION)
    )
    return images * deviation + mean


def read(folder: Path, split: str) -> Iterator[tuple[Path, Array, Array]]:
    """Read the labels SPLIT/label/NAME.png of a folder (H, W), and their images SPLIT/image/NAME.jpg or .png.

    Yield the path of the label, the image (H, W, 3) in [0, 1], and the label.
    """
    paths = sorted((folder / split / "label").glob("*.png"))
    if not paths:
        raise SystemExit(f"no labels in {folder / split / 'label'} (expected *.png)")
    for path in paths:
        candidates = [folder / split / "image" / f"{path.stem}{ending}" for ending in (".jpg", ".png")]
        image = next((candidate for candidate in candidates if candidate.is_file()), None)
        if image is None:
            raise SystemExit(f"label {path.name} has no image {candidates[0]} or .png")
        try:
            pixels = np.asarray(Image.open(image).convert("RGB")) / 255
            mask = np.asarray(Image.open(path))
        except OSError as error:
            raise SystemExit(f"{image.name} or {path.name} cannot be read: {error}") from error
        if mask.ndim != 2:
            raise SystemExit(f"{path} has {mask.shape[2]} channels, but labels have one: grey or a palette")
        if mask.shape != pixels.shape[:2]:
            raise SystemExit(f"{path} is {mask.shape}, but its image is {pixels.shape[:2]}")
        yield path, pixels, mask


def load(folder: Path, split: str, shrink: int = 1, ignore: int = VOID) -> Scenes:
    """Read the images of a folder and the class of each of their pixels; see `read`.

    Images are averaged over shrink x shrink pixels, and labels are those in the middle. `ignore` is the label
    of pixels without a class.
    """
    images, masks = [], []
    for path, pixels, mask in read(folder, split):
        rows, columns = (extent // shrink * shrink for extent in mask.shape)
        images.append(transform.downscale_local_mean(pixels[:rows, :columns], (shrink, shrink, 1)))
        masks.append(mask[shrink // 2 : rows : shrink, shrink // 2 : columns : shrink])
        if masks[0].shape != masks[-1].shape:
            raise SystemExit(
                f"{path} is {mask.shape}, but all images of {folder / split} must be of one size"
            )
    labels = np.stack(masks)
    labels = np.where(labels == ignore, VOID, labels)
    if (labels == VOID).all():
        raise SystemExit(f"{folder / split} has no pixel with a class")
    return Scenes.of(images, list(labels))


def select(scenes: Scenes, index: Tensor) -> Scenes:
    """Return some of the scenes."""
    return Scenes(scenes.images[index], scenes.masks[index], Tree(*(part[index] for part in scenes.trees)))


def tags_of(masks: Tensor, n_classes: int, least: float = 0.0) -> Tensor:
    """Return which classes (B, n_classes) take more than a share of each image (B, H, W)."""
    classes = F.one_hot(masks.where(masks != VOID, n_classes).flatten(1), n_classes + 1)
    return classes.float().mean(1)[:, :-1] > least


def crops(scenes: Scenes, size: int) -> tuple[Scenes, Tensor]:
    """Cut scenes into squares that do not overlap; return them, and the scene that each is from."""
    rows, columns = (extent // size for extent in scenes.masks.shape[1:])
    if not rows * columns:
        raise SystemExit(f"no crop of {size} fits into images of {tuple(scenes.masks.shape[1:])}")
    cut = scenes.images[..., : rows * size, : columns * size].unflatten(-1, (columns, size))
    images = cut.unflatten(-3, (rows, size)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2).contiguous()
    cut = scenes.masks[..., : rows * size, : columns * size].unflatten(-1, (columns, size))
    masks = cut.unflatten(-3, (rows, size)).permute(0, 1, 3, 2, 4).flatten(0, 2).contiguous()
    of_scene = torch.arange(len(scenes.masks)).repeat_interleave(rows * columns)
    return Scenes(images, masks, mst(images)), of_scene


def instances(mask: Array) -> Iterator[tuple[int, Array]]:
    """Yield class and pixels of every connected piece of a mask that is worth annotating."""
    for class_ in np.unique(mask[mask != VOID]):
        pieces = measure.label(mask == class_, connectivity=1)
        for piece in range(1, pieces.max() + 1):
            if (pieces == piece).sum() >= 12:
                yield int(class_), pieces == piece


def annotate(masks: Tensor, supervision: str, seed: int) -> Annotations:
    """Draw boxes, points or scribbles for masks, or tell all of them.

    Boxes leave what is outside of all of them as background. A point is somewhere in the middle half of
    its instance; a scribble is the skeleton there. The background gets them as well.
    """
    rng = np.random.default_rng(seed)
    labels = masks.numpy().copy() if supervision == "all" else np.full(masks.shape, VOID)
    boxes, image_index, class_of = [], [], []
    for number, mask in enumerate(() if supervision == "all" else masks.numpy()):
        if supervision == "boxes":
            labels[number][mask != VOID] = 0
        for class_, inside in instances(mask):
            if supervision == "boxes":
                if class_ == 0:
                    continue
                box = np.zeros_like(inside)
                rows, columns = np.nonzero(inside)
                box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
                labels[number][box] = VOID
                boxes.append(box)
                image_index.append(number)
                class_of.append(class_)
                continue
            depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
            if supervision == "points":
                middle = np.argwhere(depth >= 0.5 * depth.max())
                labels[number][tuple(middle[rng.integers(len(middle))])] = class_
            else:
                labels[number][morphology.skeletonize(inside) & (depth >= 0.5 * depth.max())] = class_
    size = masks.shape[1:]
    return Annotations(
        torch.from_numpy(labels),
        torch.from_numpy(np.array(boxes, np.float32).reshape(-1, 1, *size)),
        torch.tensor(image_index, dtype=torch.int64),
        torch.tensor(class_of, dtype=torch.int64),
    )


def batch_of(told: Annotations, index: Tensor) -> Annotations:
    """Return the annotations of some of the scenes."""
    place = torch.full((len(told.labels),), -1)
    place[index] = torch.arange(len(index))
    chosen = place[told.image_index] >= 0
    return Annotations(
        told.labels[index], told.boxes[chosen], place[told.image_index[chosen]], told.class_of[chosen]
    )


class Network(nn.Module):
    """A small U-Net."""

    def __init__(self, n_classes: int, width: int = 12):
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for n in (inputs, outputs):
                layers += [
                    nn.Conv2d(n, outputs, 3, padding=1, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(),
                ]
            return nn.Sequential(*layers)

        widths = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList(block(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(block(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.classify = nn.Conv2d(width, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores (B, n_classes, H, W)."""
        skipped = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skipped.append(x)
        skipped.pop()
        for block in self.up:
            above = skipped.pop()
            x = block(torch.cat([F.interpolate(x, above.shape[2:], mode="bilinear"), above], 1))
        scores: Tensor = self.classify(x)
        return scores


def fit(
    network: nn.Module, loss: Callable[[Tensor, float], Tensor], count: int, steps: int, progress: str
) -> None:
    """Train a network on batches of 8 out of `count` scenes, showing a progress bar.

    `loss` gets the places of a batch's scenes, and how much of the training is done, from 0 to 1.
    """
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    for step in tqdm(range(steps), progress, unit="step", mininterval=1):
        value = loss(torch.randperm(count)[:8], step / steps)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()


def pictures(scenes: Scenes) -> Array:
    """Return the images (B, H, W, 3) in [0, 1] again."""
    return np.clip(np.moveaxis(scenes.images.numpy(), 1, -1) * DEVIATION + MEAN, 0, 1)


def percent(scores: Sequence[float]) -> str:
    """Return mean and standard deviation in percent."""
    spread = f" ± {100 * statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{100 * statistics.mean(scores):.1f}{spread}"


def draw_figure(scenes: Scenes, told: Tensor, predictions: dict[str, Tensor], title: str) -> Figure:
    """Draw four scenes: image, annotation, what the networks say, and the truth."""
    drawn = torch.stack([scenes.masks, told, *predictions.values()])
    n_classes = int(drawn[drawn != VOID].max()) + 1
    colors = ListedColormap([*[*COLORS, *(f"C{i}" for i in range(n_classes))][:n_classes], "white"])
    images = pictures(scenes)
    rows = min(4, len(scenes.images))
    columns = 3 + len(predictions)
    figure = Figure(figsize=(1.6 * columns, 1.65 * rows + 0.4), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=11)
    for row, axes in enumerate(figure.subplots(rows, columns, squeeze=False)):
        labels = {"told": told[row]}
        labels |= {name: predicted[row] for name, predicted in predictions.items()}
        labels["truth"] = scenes.masks[row]
        axes[0].imshow(images[row])
        axes[0].set_title("image" if row == 0 else "", fontsize=9)
        for place, (name, classes) in zip(axes[1:], labels.items(), strict=True):
            shown = np.where(classes == VOID, n_classes, classes)
            place.imshow(shown, cmap=colors, vmin=0, vmax=n_classes, interpolation="nearest")
            place.set_title(name if row == 0 else "", fontsize=9)
        for place in axes:
            place.set_axis_off()
    return figure
