"""Images with the regions that are true of them, and the evidence that a user would give.

Each set of `SETS` is read from a folder in the layout that its `layout` names, or generated from fixed seeds.
Evidence is made of the regions, except for strokes that people drew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage import io, measure, morphology

Array = NDArray[Any]

PATCH = 16  # of coarse scores, in pixels
RADIUS = {2: 3, 3: 1}  # of the disk or ball of a point, by the number of spatial axes
OFF_BORDER = {2: 3, 3: 1}  # of scribbles, in pixels


class Scene(NamedTuple):
    """An image in [0, 1], its regions and the evidence of each kind.

    `regions` (spatial axes) are numbered from 1; pixels of 0 are not scored. `edges` is high on boundaries,
    None if the image has no such thing. `spacing` is the distance of pixels along each axis.
    """

    name: str
    image: Array
    regions: Array
    evidence: dict[str, Array]
    scored: tuple[int, ...] | None = None  # the regions whose IoU counts; None: all
    edges: Array | None = None
    spacing: tuple[float, ...] | None = None

    @property
    def channel_axis(self) -> int | None:
        """The axis of the channels of the image."""
        return -1 if self.image.ndim > self.regions.ndim else None


class Set(NamedTuple):
    """A kind of scenes, and where they come from."""

    what: str
    layout: str
    evidence: tuple[str, ...]
    read: Callable[[Path], Iterator[Scene]]
    generate: Callable[[], Iterator[Scene]]


def depth(piece: Array) -> Array:
    """Return the distance of a piece's pixels to its border, or the image's."""
    inside = (slice(1, -1),) * piece.ndim
    distance: Array = ndimage.distance_transform_edt(np.pad(piece, 1))[inside]
    return distance


def scribble(piece: Array) -> Array:
    """Mark the skeleton of the pixels that are off the border, if any are."""
    core = depth(piece) > OFF_BORDER[piece.ndim]
    skeleton: Array = morphology.skeletonize(core if core.any() else piece) > 0
    return skeleton if skeleton.any() else point(piece)


def point(piece: Array) -> Array:
    """Mark a disk or ball at the innermost pixel."""
    return disk(np.unravel_index(depth(piece).argmax(), piece.shape), piece)


def disk(centre: tuple[Any, ...], inside: Array) -> Array:
    """Return a disk or ball of a point's radius, as far as it is inside."""
    axes = np.ogrid[tuple(map(slice, inside.shape))]
    square = sum((axis - at) ** 2 for axis, at in zip(axes, centre, strict=True))
    return (square <= RADIUS[inside.ndim] ** 2) & inside


def seeds(regions: Array, draw: Callable[[Array], Array]) -> Array:
    """Return labels: those of the regions where `draw` marks their largest piece, 0 elsewhere."""
    labels = np.zeros_like(regions)
    for region, box in enumerate(ndimage.find_objects(regions), 1):
        if box is not None:
            pieces = measure.label(regions[box] == region)
            labels[box][draw(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1)] = region
    return labels


def on_slices(regions: Array, step: int) -> Array:
    """Return scribbles on every `step`-th slice of a volume."""
    labels = np.zeros_like(regions)
    for k in range(step // 2, len(regions), step):
        labels[k] = seeds(regions[k], scribble)
    return labels


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


def numbered(segmentation: Array) -> Array:
    """Return regions numbered from 1 without gaps."""
    return np.unique(segmentation, return_inverse=True)[1].reshape(segmentation.shape) + 1


def drawn(path: Path) -> Array:
    """Read the numbers of a drawing: those of a palette rather than its colours."""
    with Image.open(path) as picture:
        return np.asarray(picture).astype(np.int64)


def unit(image: Array) -> Array:
    """Map an image to [0, 1] as float32."""
    image = np.asarray(image, np.float32)
    low, high = float(image.min()), float(image.max())
    return (image - np.float32(low)) / np.float32(max(high - low, 1e-12))


# --- photographs ------------------------------------------------------------------------------------------


def _photograph(name: str, image: Array, segmentation: Array) -> Scene:
    regions = numbered(segmentation)
    evidence = {"scribble": seeds(regions, scribble), "point": seeds(regions, point)}
    return Scene(name, image, regions, {**evidence, "coarse": coarse(regions)})


def read_photographs(folder: Path) -> Iterator[Scene]:
    """Read NAME.jpg, each with an array `segmentation` (H, W) of integers in NAME.npz."""
    for path in sorted(folder.glob("*.jpg")):
        with np.load(path.with_suffix(".npz")) as arrays:
            segmentation = arrays["segmentation"]
        yield _photograph(path.stem, io.imread(path) / 255, segmentation)


def generate_photographs() -> Iterator[Scene]:
    """Paint textures of 12 colours, lit from one side."""
    for k in range(4):
        rng = np.random.default_rng(k)
        regions = cells((160, 200), 12, rng)
        yield _photograph(f"textures {k}", painted(regions, rng), regions)


# --- one object against the background --------------------------------------------------------------------


def read_strokes(folder: Path) -> Iterator[Scene]:
    """Read image/ with label/ (0 background, 1 object, 255 unsure) and strokes, scribble1/ and scribble2/."""
    for path in sorted((folder / "image").glob("*.jpg")):
        label, sparse, detailed = (
            drawn(folder / part / f"{path.stem}.png") for part in ("label", "scribble1", "scribble2")
        )
        regions = np.choose(np.minimum(label, 2), (2, 1, 0))
        evidence = {"sparse": sparse, "detailed": detailed}
        yield Scene(path.stem, io.imread(path) / 255, regions, evidence, scored=(1,))


def generate_strokes() -> Iterator[Scene]:
    """Paint an object of three colours on a ground of five."""
    for k in range(4):
        rng = np.random.default_rng(100 + k)
        parts = cells((160, 200), 8, rng)
        off_centre = [np.hypot(*(np.mean(np.nonzero(parts == p), 1) - (80, 100))) for p in range(1, 9)]
        regions = np.where(np.isin(parts, np.argsort(off_centre)[:3] + 1), 1, 2)
        evidence = {"sparse": seeds(regions, point), "detailed": seeds(regions, scribble)}
        yield Scene(f"object {k}", painted(parts, rng), regions, evidence, scored=(1,))


# --- nuclei -----------------------------------------------------------------------------------------------


def _objects(name: str, image: Array, label: Array, spacing: tuple[float, ...] | None = None) -> Scene:
    """Return objects (1 and above) and the background as one more region."""
    regions = numbered(np.where(label > 0, label, np.iinfo(np.int64).max))
    evidence = {"scribble": seeds(regions, scribble), "point": seeds(regions, point)}
    if label.ndim == 3:
        evidence = {"slices": on_slices(regions, 5), "point": evidence["point"]}
    return Scene(name, image, regions, evidence, spacing=spacing)


def read_nuclei(folder: Path) -> Iterator[Scene]:
    """Read image/NAME.png or .jpg with label/NAME.png: 0 background, above 0 the number of a nucleus."""
    for path in sorted((folder / "image").iterdir()):
        label = drawn(folder / "label" / f"{path.stem}.png")
        if label.any():
            yield _objects(path.stem, io.imread(path) / 255, label)


def generate_nuclei() -> Iterator[Scene]:
    """Draw ellipses of different brightness, blurred and noisy; some touch."""
    for k in range(4):
        rng = np.random.default_rng(200 + k)
        label = blobs((160, 200), 25, (6, 12), rng)
        yield _objects(f"ellipses {k}", glowing(label, 1.0, 0.05, rng), label)


def read_nuclei3d(folder: Path) -> Iterator[Scene]:
    """Read NAME.npz with volumes `image` and `label`: 0 background, above 0 the number of a nucleus."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            yield _objects(path.stem, unit(arrays["image"]), arrays["label"].astype(np.int64))


def generate_nuclei3d() -> Iterator[Scene]:
    """Draw ellipsoids under noise of half their brightness."""
    for k in range(2):
        rng = np.random.default_rng(300 + k)
        label = blobs((32, 64, 64), 25, (4, 8), rng)
        yield _objects(f"noisy ellipsoids {k}", glowing(label, 1.0, 0.25, rng), label)


# --- membranes --------------------------------------------------------------------------------------------

SMALLEST_CELL = 50  # pixels: smaller pieces between membranes are not scored


def _cells_between(name: str, edges: Array, image: Array, cell: Array) -> Scene:
    """Return the cells of a section as regions."""
    pieces = measure.label(cell, connectivity=1)
    small = np.bincount(pieces.ravel()) < SMALLEST_CELL
    pieces[small[pieces]] = 0
    regions = np.searchsorted(np.unique(pieces), pieces)
    evidence = {"scribble": seeds(regions, scribble), "point": seeds(regions, point)}
    return Scene(name, image, regions, evidence, edges=edges)


def _sections(folder: Path) -> tuple[list[str], Array, Array]:
    """Read image/NAME.jpg with label/NAME.png: white inside of a cell, black on a membrane."""
    paths = sorted((folder / "image").glob("*.jpg"))
    images = np.stack([io.imread(path) for path in paths]).astype(np.float32) / 255
    inside = np.stack([drawn(folder / "label" / f"{path.stem}.png") > 0 for path in paths])
    return [path.stem for path in paths], images, inside


def read_membranes(folder: Path) -> Iterator[Scene]:
    """Read the sections one by one."""
    for name, image, cell in zip(*_sections(folder), strict=True):
        yield _cells_between(name, 1 - image, image, cell)


def generate_membranes() -> Iterator[Scene]:
    """Draw dark walls between cells that have a texture."""
    for k in range(4):
        rng = np.random.default_rng(400 + k)
        image, regions = walled((160, 200), 40, rng)
        yield _cells_between(f"walls {k}", 1 - image, image, regions > 0)


def linked(pieces: Array, share: float = 0.5) -> Array:
    """Number the pieces of a volume's slices (each numbered from 1; 0: none) so that objects keep theirs.

    A piece goes on in the next slice as the one that overlaps it most, if that holds for both, and if the
    two share more than `share` of their union. Return the volume with the objects' numbers.
    """
    objects = np.zeros(pieces.shape, np.int64)
    objects[0] = pieces[0]
    used = int(pieces[0].max())
    for k in range(1, len(pieces)):
        above, here = objects[k - 1], pieces[k]
        numbers = np.zeros(here.max() + 1, np.int64)
        both = np.zeros((above.max() + 1, len(numbers)), np.int64)
        np.add.at(both, (above, here), 1)
        union = both.sum(1)[:, None] + both.sum(0) - both
        iou = both / np.maximum(union, 1)
        iou[0], iou[:, 0] = 0, 0
        for piece in range(1, len(numbers)):
            best = int(iou[:, piece].argmax())
            if iou[best, piece] > share and iou[best].argmax() == piece:
                numbers[piece] = best
            else:
                used += 1
                numbers[piece] = used
        objects[k] = numbers[here]
    return objects


def _stack(name: str, edges: Array, image: Array, regions: Array, spacing: tuple[float, ...]) -> Scene:
    evidence = {"slices": on_slices(regions, 5), "point": seeds(regions, point)}
    return Scene(name, image, regions, evidence, edges=edges, spacing=spacing)


def read_membranes3d(folder: Path) -> Iterator[Scene]:
    """Read the sections as one stack. Cells that overlap most from section to section are one region.

    `spacing` is that of ISBI 2012: 50 nm between sections, 4 nm within. Cells of fewer than five sections are
    not scored, as no seed on a slice need reach them.
    """
    _, images, inside = _sections(folder)
    pieces = np.stack([measure.label(cell, connectivity=1) for cell in inside])
    for section in pieces:
        section[(np.bincount(section.ravel()) < SMALLEST_CELL)[section]] = 0
    objects = linked(pieces)
    n_sections = np.zeros(objects.max() + 1, np.int64)
    for section in objects:
        n_sections[np.unique(section)] += 1
    objects[n_sections[objects] < 5] = 0
    regions = np.searchsorted(np.unique(objects), objects)
    yield _stack("stack", 1 - images, images, regions, (50.0, 4.0, 4.0))


def generate_membranes3d() -> Iterator[Scene]:
    """Draw bright walls between cells of a volume."""
    for k in range(2):
        image, regions = walled((32, 64, 64), 20, np.random.default_rng(500 + k))
        yield _stack(f"walls 3-D {k}", 1 - image, 1 - image, regions, (1.0, 1.0, 1.0))


# --- what is generated ------------------------------------------------------------------------------------


def noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Array:
    """Return Gaussian noise of deviation 1, smoothed by sigma."""
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    return (smooth - smooth.mean()) / smooth.std()


def cells(shape: tuple[int, ...], n: int, rng: np.random.Generator) -> Array:
    """Return n regions (1 ... n) around random places, with wavy borders."""
    places = rng.random((n, len(shape))) * shape
    wavy = [axis + 4 * noise(shape, 8, rng) for axis in np.indices(shape).astype(float)]
    nearest = cKDTree(places).query(np.stack(wavy, -1).reshape(-1, len(shape)))[1]
    return numbered(nearest.reshape(shape))


def painted(regions: Array, rng: np.random.Generator) -> Array:
    """Return a picture (H, W, 3) of regions, each with its colour and texture, lit from one side."""
    image = np.zeros((*regions.shape, 3))
    for region in range(1, regions.max() + 1):
        colour = rng.uniform(0.2, 0.8, 3)
        texture = 0.08 * noise(regions.shape, rng.uniform(0.5, 3), rng)[..., None] * rng.uniform(0.5, 1, 3)
        image[regions == region] = (colour + texture)[regions == region]
    image *= np.linspace(0.8, 1.1, regions.shape[1])[:, None]
    image = ndimage.gaussian_filter(image, (0.7, 0.7, 0)) + 0.02 * rng.standard_normal(image.shape)
    return np.clip(image, 0, 1)


def blobs(shape: tuple[int, ...], n: int, radii: tuple[float, float], rng: np.random.Generator) -> Array:
    """Return n ellipses (1 ... n) on 0, at most a fifth of each hidden by the earlier ones."""
    label = np.zeros(shape, np.int64)
    axes = np.indices(shape).astype(float)
    drawn = 0
    while drawn < n:
        centre, radius = rng.random(len(shape)) * shape, rng.uniform(*radii, len(shape))
        scaled = (axes - centre.reshape(-1, *(1,) * len(shape))) / radius.reshape(-1, *(1,) * len(shape))
        inside = (scaled**2).sum(0) <= 1
        free = inside & (label == 0)
        if free.sum() > 0.8 * inside.sum() and free.sum() > 20:
            drawn += 1
            label[free] = drawn
    return label


def glowing(label: Array, blur: float, noisy: float, rng: np.random.Generator) -> Array:
    """Return bright objects on a dark ground, each with its brightness, under noise."""
    brightness = np.concatenate([[0.1], rng.uniform(0.4, 0.8, label.max())])
    image = ndimage.gaussian_filter(brightness[label], blur) + noisy * rng.standard_normal(label.shape)
    return np.clip(image, 0, 1).astype(np.float32)


def walled(shape: tuple[int, ...], n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return an image of cells with dark walls of 3 pixels, and the cells, 0 on the walls."""
    regions = cells(shape, n, rng)
    wall = ndimage.maximum_filter(regions, 3) != ndimage.minimum_filter(regions, 3)
    image = ndimage.gaussian_filter(np.where(wall, 0.25, 0.65), 0.8)
    image += 0.05 * noise(shape, 2, rng) + 0.05 * rng.standard_normal(shape)
    return np.clip(image, 0, 1).astype(np.float32), numbered(np.where(wall, 0, regions)) - 1


SETS: dict[str, Set] = {
    "photographs": Set(
        "photographs and human segmentations (BSDS500)",
        "NAME.jpg, NAME.npz with `segmentation` (H, W)",
        ("scribble", "point"),
        read_photographs,
        generate_photographs,
    ),
    "strokes": Set(
        "one object of a photograph, strokes that people drew (GrabCut); the IoU is the object's",
        "image/NAME.jpg, label/NAME.png (0 background, 1 object, 255 unsure), scribble1/NAME.png and "
        "scribble2/NAME.png (1 object, 2 background)",
        ("sparse", "detailed"),
        read_strokes,
        generate_strokes,
    ),
    "nuclei": Set(
        "nuclei and their background (Data Science Bowl 2018)",
        "image/NAME.png or .jpg, label/NAME.png (0 background, 1 ... N nuclei)",
        ("scribble", "point"),
        read_nuclei,
        generate_nuclei,
    ),
    "membranes": Set(
        "cells in sections of electron microscopy (ISBI 2012); membranes are not scored",
        "image/NAME.jpg, label/NAME.png (white cell, black membrane)",
        ("scribble", "point"),
        read_membranes,
        generate_membranes,
    ),
    "membranes3d": Set(
        "the same sections as a volume, cells linked by their overlap",
        "as membranes",
        ("slices", "point"),
        read_membranes3d,
        generate_membranes3d,
    ),
    "nuclei3d": Set(
        "nuclei of a volume and their background (stardist's example)",
        "NAME.npz with `image` and `label` (D, H, W)",
        ("slices", "point"),
        read_nuclei3d,
        generate_nuclei3d,
    ),
}
