"""Painted strokes and label numbers: which labels a picture of them means, and labels painted over an image.

A picture of numbers (grey levels, indices of a palette, arrays) holds labels. In a picture of colours, every
colour that somebody painted is a class. Painting programs smooth the border of a stroke, so that most of the
colours in a picture may be mixtures, which nobody chose.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aproarray._api import mst
from aproarray._files import FileError, Raster

Array = NDArray[Any]
Colour = tuple[int, int, int]

# More colours than this are a photograph, or were saved as JPEG.
_MOST_COLOURS = 1 << 14
_MOST_CLASSES = 256
# Distances between colours, of 255 levels in each of three channels.
_UNSEEN = 8  # nobody sees the difference
_NEAR = 32  # one paint, where the strokes are smooth
_STRAIGHT = 6  # from the line between two colours to a mixture of them that was rounded
_OFF = 24  # the same, where the picture was resampled besides
_FAINT = 48  # a stroke so near the background is a trace of one
_OVERSHOT = 1.4  # what the shares of a mixture sum to at most: resampling can exceed 1
_TRACES_REACH = 6  # pixels that resampling carries traces of a stroke
# More colours than this that are nowhere pure are no strokes.
_MOST_THIN = 16


class Strokes(NamedTuple):
    """The labels that a file holds."""

    numbers: Array
    """Above 0 a label, 0 unlabelled, below 0 a pixel that takes no part."""
    colours: NDArray[np.uint8] | None = None
    """(K, 3), the colours of labels 1 to K, if the file holds colours."""
    unlabelled: int = 0
    """The file's number for unlabelled pixels. If that is not 0, labels are the file's plus 1."""

    def as_in_file(self, labels: Array) -> Array:
        """Return propagated labels as the file numbers them."""
        if self.unlabelled == 0:
            return labels
        return np.where(labels > 0, labels - 1, np.where(labels == 0, self.unlabelled, labels))

    def numbered(self, colours: NDArray[np.uint8]) -> Strokes:
        """Return the strokes with the numbers that their colours have in a longer list."""
        if self.colours is None:
            return self
        codes = _codes(colours)
        order = np.argsort(codes)
        places = order[np.searchsorted(codes[order], _codes(self.colours))] + 1
        return Strokes(np.concatenate([[0], places])[self.numbers], colours)


def strokes(raster: Raster, image: Raster | None = None, unlabelled: int | Colour | None = None) -> Strokes:
    """Return the labels in a file.

    Parameters
    ----------
    raster : Raster
        Integers, float integers, bools, or 8-bit colours.
    image : Raster, optional
        The image that they must fit. None: any.
    unlabelled : int or (int, int, int), optional
        The number, or the colour, of unlabelled pixels. None: 0, GDAL's nodata, or the background's colour.
    """
    spatial_shapes = raster.spatial_shapes if image is None else image.spatial_shapes
    values = raster.values
    if values.size == 0:
        raise FileError(f"{raster.path} of shape {values.shape} holds no pixels")
    coloured = raster.channels is True or (
        raster.channels is None
        and values.dtype == np.uint8
        and values.ndim == 3
        and values.shape[-1] in (3, 4)
    )
    fits = values.shape in spatial_shapes
    if raster.channels is None and fits and not (coloured and values.shape[:-1] in spatial_shapes):
        coloured = False
    if values.shape[: 2 if coloured else None] not in spatial_shapes:
        raise FileError(
            f"{raster.path} of shape {values.shape} and dtype {values.dtype} does not fit an image of shape "
            f"{raster.values.shape if image is None else image.values.shape}: expected labels of the shape "
            f"{' or '.join(map(str, dict.fromkeys(spatial_shapes)))}"
        )
    if coloured:
        return _of_colours(raster, unlabelled)
    if raster.palette is not None and not _is_numbers(raster, unlabelled):
        rgba = raster.palette[np.minimum(values, len(raster.palette) - 1)]
        return _of_paint(raster, rgba[..., :3], rgba[..., 3] >= 128, unlabelled)
    opaque = raster.opaque
    if raster.palette is not None:
        opaque = raster.palette[np.minimum(values, len(raster.palette) - 1), 3] >= 128
    return _of_numbers(raster, values, opaque, unlabelled)


def _of_colours(raster: Raster, unlabelled: int | Colour | None) -> Strokes:
    values, opaque = raster.values, raster.opaque
    if values.shape[-1] == 1:
        return _of_numbers(raster, values[..., 0], opaque, unlabelled)
    if values.dtype != np.uint8 or values.shape[-1] not in (3, 4):
        raise FileError(
            f"{raster.path} of shape {values.shape} and dtype {values.dtype} holds no labels: expected a "
            "number for each pixel, or 8-bit colours"
        )
    if values.shape[-1] == 4:  # an array, which does not say what the last channel is
        values, opaque = values[..., :3], values[..., 3] >= 128
    seen = values if opaque is None else values[opaque]
    if not isinstance(unlabelled, tuple) and (seen == seen[..., :1]).all():  # numbers, saved as colours
        return _of_numbers(raster, values[..., 0], opaque, unlabelled)
    return _of_paint(raster, values, opaque, unlabelled)


def _is_numbers(raster: Raster, unlabelled: int | Colour | None) -> bool:
    """Return whether the indices of a palette are labels (as in Pascal VOC), rather than its colours."""
    if unlabelled is not None:
        return not isinstance(unlabelled, tuple)
    palette = raster.palette
    assert palette is not None
    used = palette[np.unique(np.minimum(raster.values, len(palette) - 1))]
    if (used[:, :3] == used[:, :1]).all() and (palette[:, 0] == np.arange(len(palette))).all():
        return True  # grey levels
    if palette[0, :3].any() and palette[0, 3] >= 128:
        return False
    border = palette[np.minimum(_border(raster.values), len(palette) - 1)]
    return not _is_white(border[:, :3].mean(0))


def _of_numbers(
    raster: Raster, values: Array, opaque: NDArray[np.bool_] | None, unlabelled: int | Colour | None
) -> Strokes:
    path = raster.path
    if isinstance(unlabelled, tuple):
        if values.dtype != np.uint8 or values.ndim != 2:
            raise FileError(f"{path} holds numbers: --unlabelled must be a number, got a colour")
        return _of_paint(raster, np.repeat(values[..., None], 3, axis=-1), opaque, unlabelled)
    missing = np.zeros(values.shape, bool) if opaque is None else ~opaque
    if values.dtype.kind == "f":
        missing |= np.isnan(values)
        whole = np.where(missing, 0, values)
        if not (np.abs(whole) < 2**53).all() or (whole != np.rint(whole)).any():
            raise FileError(f"{path} of dtype {values.dtype} must hold whole numbers (0: unlabelled)")
        values = whole.astype(np.int64)
    elif values.dtype.kind == "b":
        values = values.astype(np.uint8)
    elif values.dtype.kind not in "iu":
        raise FileError(f"{path} of dtype {values.dtype} must hold integers (0: unlabelled)")
    if unlabelled is None and raster.nodata is not None and raster.nodata.is_integer():
        unlabelled = int(raster.nodata)
    if unlabelled is None and values.dtype == np.uint8:
        _refuse_what_is_no_number(path, values, missing)
    if not unlabelled:
        return Strokes(np.where(missing, 0, values).astype(values.dtype) if missing.any() else values)
    if int(values.max(initial=0)) >= 2**63 - 1:
        raise FileError(f"{path} holds labels above 2^63 - 2, which --unlabelled {unlabelled} cannot go with")
    signed = values.astype(np.int64)
    missing |= signed == unlabelled
    return Strokes(np.where(missing, 0, np.where(signed >= 0, signed + 1, signed)), None, unlabelled)


def _refuse_what_is_no_number(path: Path, values: Array, missing: NDArray[np.bool_]) -> None:
    """Refuse 8-bit numbers of which most are 255, and grey strokes with smooth borders."""
    if values.ndim != 2:
        return
    most = (values == 255) & ~missing
    if 2 * most.sum() > values.size and np.median(_border(values)) == 255 and (values[~missing] != 255).any():
        raise FileError(
            f"{path} holds 255 in most pixels: give --unlabelled 255 if these are unlabelled, "
            "--unlabelled 0 if 255 is a label, --unlabelled white if strokes were painted on white"
        )
    grey = np.repeat(np.where(missing, 0, values)[..., None], 3, axis=-1)
    blends = _Colours(grey, ~missing, (0, 0, 0)).blends.sum()
    if blends >= _SMOOTH:
        raise FileError(
            f"{path} has grey strokes with smooth borders, {blends} of whose levels are mixtures and no "
            "labels: paint them without smoothing, or give --unlabelled black to take the others for paint, "
            "--unlabelled 0 to take all levels for labels"
        )


_SMOOTH = 3  # colours that are mixtures of their neighbours, at least: a picture was smoothed


def _of_paint(
    raster: Raster, rgb: Array, opaque: NDArray[np.bool_] | None, unlabelled: int | Colour | None
) -> Strokes:
    path = raster.path
    if isinstance(unlabelled, int):
        raise FileError(
            f"{path} holds colours: --unlabelled must be a colour such as white, got {unlabelled}"
        )
    seen = np.ones(rgb.shape[:2], bool) if opaque is None else opaque
    background = _background(raster, rgb, seen, unlabelled)
    picture = _Colours(rgb, seen, background, hidden=unlabelled is None and _is_hidden(seen))
    if len(picture.colours) > _MOST_COLOURS:
        raise FileError(_listing(path, picture.colours, picture.counts))
    paints = picture.paints()
    if len(paints) > _MOST_CLASSES:
        raise FileError(_listing(path, picture.colours[paints], picture.counts[paints]))
    smooth = picture.blends.sum() >= _SMOOTH or raster.soft
    if smooth:
        _refuse_noise(path, picture)
        paints = _merged(picture, paints)
    else:
        _refuse_near(path, picture.colours[paints], picture.counts[paints])
    chosen, of_colour = picture.colours[paints], np.zeros(len(picture.colours) + 1, np.intp)
    of_colour[paints] = np.arange(1, len(paints) + 1)
    if smooth and len(paints):  # the border of a stroke is hardly mixed where it is near its colour
        distance = np.linalg.norm(picture.colours[:, None] - chosen[None].astype(float), axis=-1)
        near = (distance.min(1) <= _NEAR) & (picture.distances > _NEAR)
        of_colour[:-1][near] = distance[near].argmin(1) + 1
    labels = of_colour[picture.index]
    if smooth:
        labels, chosen = _with_thin_strokes(path, picture, labels, chosen)
    order = np.argsort(_codes(chosen))
    rank = np.zeros(len(chosen) + 1, np.intp)
    rank[order + 1] = np.arange(1, len(chosen) + 1)
    return Strokes(rank[labels], chosen[order].astype(np.uint8))


class _Colours:
    """The colours of a picture, and how each of them lies in it."""

    def __init__(self, rgb: Array, seen: NDArray[np.bool_], background: Colour, hidden: bool = False):
        """Count the colours of the pixels that are seen; if the background is hidden, these are all paint."""
        self.background = np.array(background, np.int16)
        self.rgb = np.where(seen[..., None], rgb, np.array(background, np.uint8)).astype(np.int16)
        codes = _codes(self.rgb)
        self.painted = seen if hidden else codes != _codes(self.background)
        of_code = np.bincount(codes[self.painted], minlength=1 << 24)  # faster than sorting
        found = np.flatnonzero(of_code)
        counts = of_code[found]
        of_code[found] = np.arange(len(found))
        self.colours = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=-1).astype(np.int16)
        """(K, 3), in ascending order, without the background."""
        self.distances = np.linalg.norm(self.colours - self.background.astype(float), axis=-1)
        """(K,), from the background."""
        self.distances[self.distances == 0] = _FAINT + 1  # opaque paint over a hidden colour that is the same
        self.counts = counts
        self.index = np.where(self.painted, of_code[codes], len(found)).astype(np.int32)
        """The number of each pixel's colour, K for the background."""
        self.between = np.zeros(codes.shape, bool)
        """Where a pixel's colour is a mixture of those at either side of it."""
        self.alone = np.zeros(codes.shape, bool)
        """Where none of a pixel's eight neighbours has its colour, and some are painted."""
        self.solid = np.zeros(len(found) + 1, bool)
        """Which colours fill a square of 3 x 3 pixels somewhere."""
        if len(found) <= _MOST_COLOURS:
            self._look_around()
        between = np.bincount(self.index[self.between], minlength=len(found))[: len(found)]
        self.blends = between > 0.8 * counts
        """Colours that are mixtures nearly wherever they are."""

    def _look_around(self) -> None:
        padded = np.pad(self.index, 1, constant_values=-1)
        height, width = self.painted.shape
        same, plain = np.zeros((height, width), bool), np.ones((height, width), bool)
        uniform = np.ones((height, width), bool)
        for row in range(3):
            for column in range(3):
                if (row, column) != (1, 1):
                    near = padded[row : row + height, column : column + width]
                    same |= near == self.index
                    plain &= (near == len(self.colours)) | (near == -1)
                    uniform &= near == self.index
        self.alone = self.painted & ~same & ~plain
        self.solid[self.index[uniform & self.painted]] = True
        y, x = np.nonzero(self.painted & ~uniform)
        around = np.pad(self.rgb, ((2, 2), (2, 2), (0, 0)), mode="edge").astype(np.float32)
        y, x = y + 2, x + 2
        centre, found = around[y, x], np.zeros(len(y), bool)
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            for ahead in (1, 2):
                for behind in (1, 2):
                    start = around[y - behind * dy, x - behind * dx]
                    way = around[y + ahead * dy, x + ahead * dx] - start
                    length = np.linalg.norm(way, axis=-1)
                    along = ((centre - start) * way).sum(-1) / np.maximum(length, 1)
                    off = np.linalg.norm(
                        centre - start - (along / np.maximum(length, 1))[:, None] * way, axis=-1
                    )
                    found |= (off <= _STRAIGHT) & (along >= _STRAIGHT) & (along <= length - _STRAIGHT)
        self.between[y - 2, x - 2] = found

    def paints(self) -> NDArray[np.intp]:
        """Return the colours that somebody chose: they lie side by side, and are no mixtures."""
        if self.blends.sum() < _SMOOTH:
            return np.nonzero(~self.blends)[0]
        own = ~self.between & ~self.alone & self.painted
        support = np.bincount(self.index[own], minlength=len(self.colours))[: len(self.colours)]
        return np.nonzero(~self.blends & (2 * support >= self.counts))[0]


def _merged(picture: _Colours, paints: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the commonest of near colours, without traces, and without mixtures that cover no area."""
    away = picture.colours - picture.background.astype(float)
    kept: list[int] = []

    def keep(candidates: NDArray[np.intp], thin: bool) -> None:
        for at in candidates[np.argsort(-picture.counts[candidates], kind="stable")]:
            near = np.linalg.norm(away[kept] - away[at], axis=-1) <= _NEAR
            if not near.any() and not (thin and _mixed(away[at : at + 1], away[kept])[0]):
                kept.append(int(at))

    paints = paints[picture.distances[paints] > _NEAR]
    keep(paints[picture.solid[paints]], thin=False)
    paints = paints[~picture.solid[paints]]
    keep(paints[~_mixed(away[paints], away[kept])], thin=True)
    return np.array(sorted(kept), np.intp)


def _refuse_noise(path: Path, picture: _Colours) -> None:
    """Refuse a background that is not plain: JPEG leaves traces far from all strokes, and changes colours."""
    distances = np.append(picture.distances, 0)[picture.index]
    near = distances > _OFF
    for axis in (0, 1):
        for _ in range(_TRACES_REACH):
            beside = near.copy()
            one, other = (slice(1, None), slice(None)), (slice(None, -1), slice(None))
            if axis:
                one, other = one[::-1], other[::-1]
            beside[one] |= near[other]
            beside[other] |= near[one]
            near = beside
    traces = (distances > 0) & ~near
    if 10 * traces.sum() > (distances > _OFF).sum():
        raise FileError(_listing(path, picture.colours, picture.counts))


def _refuse_near(path: Path, colours: Array, counts: Array) -> None:
    """Refuse colours that nobody can tell apart."""
    for at in range(len(colours)):
        distance = np.linalg.norm(colours[:at] - colours[at].astype(float), axis=-1)
        if (distance < _UNSEEN).any():
            one, same = (
                f"{hexadecimal(colours[i])} ({counts[i]} pixels)" for i in (int(distance.argmin()), at)
            )
            raise FileError(
                f"{path} has colours that look the same, {one} and {same}: paint both in one colour, or save "
                "labels as numbers if they are two classes"
            )


def _with_thin_strokes(path: Path, picture: _Colours, labels: Array, colours: Array) -> tuple[Array, Array]:
    """Add the colours of strokes so thin that all of their pixels are mixtures, and label these strokes.

    The colour that is farthest from the background cannot be a mixture of others: it is taken for pure, until
    all colours are explained as mixtures.
    """
    background = picture.background.astype(float)
    away, paints = picture.colours - background, colours - background
    unexplained = (picture.distances > _FAINT) & ~_mixed(away, paints)
    odd = 0
    while unexplained.any():
        purest = np.flatnonzero(unexplained)[picture.distances[unexplained].argmax()]
        more = np.concatenate([paints, away[purest : purest + 1]])
        left = unexplained & ~_mixed(away, more)
        if len(more) > _MOST_THIN or odd > 0.03 * picture.counts.sum():
            raise FileError(_listing(path, picture.colours, picture.counts))
        if picture.counts[unexplained & ~left].sum() < _SMOOTH:
            odd += picture.counts[purest]
            left[purest] = False
        else:
            paints = more
        unexplained = left

    shares = (away @ paints.T) / np.maximum((paints**2).sum(-1), 1)
    off = np.linalg.norm(away[:, None] - shares[..., None] * paints, axis=-1)
    off[(shares < 0.5) | (shares > 1.5)] = np.inf
    of_colour = np.zeros(len(away) + 1, np.intp)
    if len(paints):
        of_colour[:-1] = np.where(off.min(1) <= _OFF, off.argmin(1) + 1, 0)
    peaks = (labels == 0) & picture.painted & ~picture.between
    labels = np.where(peaks, of_colour[picture.index], labels)
    zones = mst(np.zeros(labels.shape, np.uint8), mask=picture.painted, connectivity=2).cut(0)
    few = np.bincount(labels[labels > 0]).max(initial=0) / 100
    for added in range(len(colours), len(paints)):
        own = labels == added + 1
        crossing = np.isin(zones[own], zones[(labels > 0) & ~own]).all()
        others = np.delete(paints, added, axis=0)
        if crossing and (
            own.sum() <= _SMOOTH or (own.sum() < few and _mixed(paints[added : added + 1], others, 3)[0])
        ):
            labels[own] = 0  # strokes that cross are mixed with one another
    _refuse_lost_strokes(path, picture, labels, zones)
    return _in_use(labels, paints + background)


def _in_use(labels: Array, colours: Array) -> tuple[Array, Array]:
    """Return labels, and their colours, without those that no pixel has."""
    used = np.unique(labels[labels > 0])
    ranks = np.zeros(len(colours) + 1, np.intp)
    ranks[used] = np.arange(1, len(used) + 1)
    return ranks[labels], colours[used - 1]


def _refuse_lost_strokes(path: Path, picture: _Colours, labels: Array, zones: Array) -> None:
    """Refuse a stroke of which no pixel has a label, unless it is so faint that nobody sees it."""
    strong = picture.painted & (np.append(picture.distances, 0)[picture.index] > _FAINT)
    lost = strong & ~np.isin(zones, zones[labels > 0])
    if lost.any():
        row, column = np.argwhere(lost)[0]
        raise FileError(
            f"{path} has a stroke at row {row}, column {column} too thin and pale to tell its colour, "
            f"{hexadecimal(picture.rgb[row, column])}: paint it without smoothing"
        )


def _mixed(away: Array, paints: Array, most: int = 2) -> NDArray[np.bool_]:
    """Return which colours are mixtures of the background and a few paints, all relative to it."""
    mixed = np.zeros(len(away), bool)
    for several in itertools.combinations(range(len(paints)), min(most, len(paints))):
        group = paints[list(several)]
        parts = np.maximum(away @ np.linalg.pinv(group), 0)
        mixed |= (parts.sum(-1) <= _OVERSHOT) & (np.linalg.norm(away - parts @ group, axis=-1) <= _OFF)
    return mixed


def _background(raster: Raster, rgb: Array, seen: NDArray[np.bool_], unlabelled: Colour | None) -> Colour:
    """Return the colour of what is not painted; that of hidden pixels, where most of them are."""
    if unlabelled is not None:
        return unlabelled
    if _is_hidden(seen):
        return _commonest(rgb[~seen])
    if not seen.any():
        return 0, 0, 0
    most, at_border = _commonest(rgb[seen]), _commonest(_border(rgb)[_border(seen)])
    black = (rgb[seen] == 0).all(-1).mean()
    if most == (0, 0, 0) or (not _is_white(most) and black and most != at_border):
        return 0, 0, 0
    if black and not _is_white(most):
        name = hexadecimal(most)
        raise FileError(
            f"{raster.path}: is {name} or black ({black:.1%} of all pixels) the background, which is no "
            f"class? Give --unlabelled '{name}' or --unlabelled black"
        )
    return most


def _is_hidden(seen: NDArray[np.bool_]) -> bool:
    """Return whether the background is transparent: most of the border is."""
    return bool(2 * np.count_nonzero(_border(seen)) <= len(_border(seen)))


def _border(values: Array) -> Array:
    return np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])


def _commonest(colours: Array) -> Colour:
    code = int(np.bincount(_codes(colours).reshape(-1)).argmax())
    return code >> 16, code >> 8 & 255, code & 255


def _is_white(colour: Any) -> bool:
    return bool(min(colour) >= 240)


def _codes(colours: Array) -> NDArray[np.int32]:
    """Return a number for each colour, by which they are sorted."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return np.asarray(red << 16 | green << 8 | blue)


def hexadecimal(colour: Any) -> str:
    """Return a colour as #rrggbb."""
    return "#" + "".join(f"{int(part):02x}" for part in colour)


def _listing(path: Path, colours: Array, counts: Array) -> str:
    commonest = np.argsort(-counts, kind="stable")[:6]
    names = ", ".join(f"{hexadecimal(colours[at])} ({counts[at]} pixels)" for at in commonest)
    return (
        f"{path} has {len(colours)} colours, expected a class each: {names}, ...; save strokes as PNG, "
        "painted without smoothing on black, white or transparent, or give labels as numbers"
    )


def grey(unit: Array) -> NDArray[np.uint8]:
    """Return numbers in [0, 1] as 8-bit grey."""
    return np.asarray(np.clip(unit, 0, 1) * 255 + 0.5, np.uint8)


def overlay(
    image: Array, labels: Array, colours: NDArray[np.uint8] | None, mask: NDArray[np.bool_] | None
) -> NDArray[np.uint8]:
    """Return the image (H, W) or (H, W, C) under its labels' colours, with their borders drawn."""
    if labels.ndim != 2:
        raise ValueError(f"an overlay needs a 2-D image, got labels of shape {labels.shape}")
    picture = image.astype(float)
    if picture.ndim == 3:
        picture = picture if picture.shape[-1] == 3 else picture.mean(-1)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=-1)
    if mask is not None:
        picture[~mask] = picture[mask].min(initial=np.inf) if mask.any() else 0
    low, high = picture.min(initial=np.inf), picture.max(initial=-np.inf)
    if image.dtype == np.uint8:
        low, high = 0, 255
    picture = (picture - low) / (high - low if high > low else 1)
    values, index = np.unique(labels, return_inverse=True)
    palette = (
        _hues(values)
        if colours is None
        else np.concatenate([np.zeros((1, 3)), colours / 255])[np.maximum(values, 0)]
    )
    paint = palette[index.reshape(labels.shape)]
    weight = np.where(labels > 0, 0.45, 0.0)[..., None]
    picture = picture * (1 - weight) + paint * weight
    border = np.zeros(labels.shape, bool)
    border[1:] |= labels[1:] != labels[:-1]
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    picture[border] = 1
    return grey(picture)


def _hues(labels: Array) -> NDArray[np.float64]:
    """Return a colour in [0, 1] for each label, hues a golden angle apart."""
    hue = np.mod(labels * 0.61803398875, 1)[:, None] * 6
    return np.asarray(np.clip(np.abs(np.mod(hue + np.array([0, 4, 2]), 6) - 3) - 1, 0, 1) * 0.9)
