"""What propagation of labels sees of an image: smoothed colours, and reliefs whose ridges are its edges.

Both come from a small scale space: the image is smoothed by [1 2 1]/4 with steps of 1, 2 and 4 pixels
in turn (Gaussians of 0.7, 1.6 and 3.2 pixels, nearly), and there is a relief at each scale: the magnitude of
the gradient, over what is usual around the pixel. An edge of a plain region then counts as much as a
stronger one among texture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aproarray import cpu

Array = NDArray[Any]

_STEPS = (1, 2, 4)
_AROUND = (4, 8, 16, 16)  # together nearly a Gaussian of 17 pixels

# sRGB's primaries in CIE XYZ, D65 (IEC 61966-2-1), over the white point.
_RGB_TO_XYZ = (
    np.array(
        [
            [0.412453, 0.357580, 0.180423],
            [0.212671, 0.715160, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    / np.array([[0.95047], [1.0], [1.08883]])
).astype(np.float32)


# Pixels that are converted together: the arrays in between stay in the cache, and Ctrl-C need not wait.
_CONVERTED = 1 << 14


def rgb_to_lab(rgb: Array) -> NDArray[np.float32]:
    """Return CIE L*a*b* of sRGB values, (..., 3), as float32: beyond [0, 1] by the same formulas."""
    rgb = np.asarray(rgb, np.float32)
    lab = np.empty(rgb.shape, np.float32)
    source, target = rgb.reshape(-1, 3), lab.reshape(-1, 3)
    for first in range(0, len(source), _CONVERTED):
        part = source[first : first + _CONVERTED]
        linear = ((np.maximum(part, 0) + np.float32(0.055)) / np.float32(1.055)) ** np.float32(2.4)
        np.divide(part, np.float32(12.92), out=linear, where=part <= 0.04045)
        xyz = linear @ _RGB_TO_XYZ.T
        f = np.where(xyz > 0.008856, np.cbrt(xyz), np.float32(7.787) * xyz + np.float32(16 / 116))
        target[first : first + _CONVERTED, 0] = 116 * f[:, 1] - 16
        target[first : first + _CONVERTED, 1] = 500 * (f[:, 0] - f[:, 1])
        target[first : first + _CONVERTED, 2] = 200 * (f[:, 1] - f[:, 2])
    return lab


def stretched(
    image: Array, mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Map an image (..., C) from its ordinary range to [0, 1], and return it with its outliers.

    The range is that of the numbers without outliers (see `_ordinary_range`). Outliers keep their order
    beyond it, on a logarithmic scale: a small bright object on a dark ground still is one. An outlier without
    another one beside it is a defect of the sensor, and is moved to the end of the range. Pixels that take no
    part are 0. The outliers (...) that are left are None if there are none.
    """
    inside = image if mask is None else image[mask]
    if inside.size == 0:
        return np.zeros(image.shape, np.float32), None
    if image.dtype == np.bool_:
        image, inside = image.view(np.uint8), inside.view(np.uint8)
    low, high = _ordinary_range(inside)
    if mask is not None:
        image = np.where(mask[..., None], image, low)
    ordinary = np.clip(image, low, high) if inside.min() < low or inside.max() > high else image
    outside = None if ordinary is image else (image != ordinary)
    if outside is not None and np.count_nonzero(outside.any(-1)) > _OUTLYING_PIXELS * inside[..., 0].size:
        low, high, ordinary, outside = inside.min(), inside.max(), image, None
    with np.errstate(over="ignore"):
        scale = float(_differences(high, low))
    if not scale > 0:
        return np.zeros(image.shape, np.float32), None
    too_large = not np.isfinite(scale)  # for the numbers' type
    if too_large:
        scale = float(high / 2 - low / 2)
    result = np.empty(image.shape, np.float32)
    source, target = ordinary.reshape(-1), result.reshape(-1)
    for first in range(0, len(source), _CONVERTED):
        part = source[first : first + _CONVERTED]
        exact = part / 2 - low / 2 if too_large else _differences(part, low)
        exact /= scale
        target[first : first + _CONVERTED] = exact
    if outside is None:
        return result, None
    odd: NDArray[np.bool_] = outside.any(-1)
    odd &= _n_around(odd) > 1
    outside &= odd[..., None]
    numbers = image[outside].astype(np.float64)
    with np.errstate(over="ignore"):
        beyond = np.maximum(float(low) - numbers, numbers - float(high)) / scale
    beyond = 2 * np.log1p(np.minimum(beyond, np.finfo(np.float64).max) / 2)
    result[outside] = np.where(numbers > float(high), 1 + beyond, -beyond)
    return result, odd if odd.any() else None


# Shares of the numbers that may be outliers at either end. The next one counts where all others are equal.
_TAILS = (0.05, 0.005, 0.0005)
_OUTLYING_PIXELS = 0.1  # at most: more are a channel of its own scale, say
_GAP = 4  # Outliers are so many times farther off than any number before them.
_GAPS = 3  # at most: numbers with more of them fall off over many scales, as those of a formula do


def _ordinary_range(numbers: Array) -> tuple[Any, Any]:
    """Return the smallest and the largest of many numbers but for outliers, in their own dtype.

    Outliers are at most one in twenty at either end, beyond a gap that is wider than three times the range up
    to there. An object that shades off has no such gap, however bright and small it is.
    """
    flat = numbers.reshape(-1)
    low, high = flat.min(), flat.max()
    if _spread_out(flat, low, high):
        return low, high
    for share in _TAILS:
        tail = int(share * flat.size)
        if tail == 0:
            break
        ranked = np.partition(flat, (tail, flat.size - 1 - tail))
        inner_low, inner_high = ranked[tail], ranked[-1 - tail]
        if inner_low == inner_high:
            continue
        with np.errstate(over="ignore"):
            far = _GAP * float(_differences(inner_high, inner_low))
            if float(_differences(high, inner_low)) > far:
                above = np.sort(ranked[-1 - tail :])
                high = above[_last_before_gap(_differences(above, inner_low))]
            if float(_differences(inner_high, low)) > far:
                below = np.sort(ranked[: tail + 1])[::-1]
                low = below[_last_before_gap(_differences(inner_high, below))]
        break
    return low, high


def _spread_out(flat: Array, low: Any, high: Any) -> bool:
    """Return whether it is plain, without sorting, that no number is far enough beyond the others."""
    if flat.dtype.kind == "f":
        with np.errstate(all="ignore"):
            range_ = float(high) - float(low)
            marks = [flat.dtype.type(float(low) + share * range_) for share in (0.35, 0.65)]
    else:
        marks = [flat.dtype.type(int(low) + (int(high) - int(low)) * share // 100) for share in (35, 66)]
    tail = int(_TAILS[0] * flat.size)
    # Then 5 % lie below the first mark, and 5 % above the second: a quarter of the range apart, and more.
    return bool(min(np.count_nonzero(flat <= marks[0]), np.count_nonzero(flat >= marks[1])) > tail)


def _last_before_gap(distances: NDArray[np.float64]) -> int:
    """Return the place of the last of ascending distances before outliers, or of the last one."""
    gaps = np.flatnonzero(distances[1:] > _GAP * distances[:-1])
    return int(gaps[0]) if 0 < gaps.size <= _GAPS else len(distances) - 1


def _differences(larger: Array, smaller: Array) -> NDArray[np.float64]:
    """Return differences that are not negative as float64, C order, exact until they are rounded."""
    if larger.dtype.kind in "iu" and larger.dtype.itemsize == 8:  # modulo 2^64, where no difference is lost
        larger, smaller = (
            np.asarray(larger).astype(np.uint64, order="C"),
            np.asarray(smaller).astype(np.uint64),
        )
        return (larger - smaller).astype(np.float64)
    return np.asarray(larger).astype(np.float64, order="C") - np.asarray(smaller).astype(np.float64)


def _n_around(pixels: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Count the pixels that are True among each one and those that touch it, corners included."""
    count = pixels.astype(np.int32)
    for axis in range(pixels.ndim):
        own = np.moveaxis(count.copy(), axis, 0)
        total = np.moveaxis(count, axis, 0)
        total[1:] += own[:-1]
        total[:-1] += own[1:]
    return count


def _grown(pixels: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Return the pixels that are at most `reach` pixels from one that is True, along each axis."""
    for _ in range(reach):
        pixels = _n_around(pixels) > 0
    return pixels


def smoothed(
    image: Array,
    step: int,
    mask: NDArray[np.bool_] | None,
    spacing: Sequence[float] | None = None,
    workers: int = 1,
) -> NDArray[np.float32]:
    """Return an image (..., C) smoothed along all spatial axes, over the pixels of the mask alone.

    The width is that of [1 2 1]/4 at `step` pixels. Along an axis whose pixels are `spacing` apart it is the
    same length: fewer pixels, and a smaller share of them where that is less than one pixel.
    """
    steps = []
    for axis in range(image.ndim - 1):
        pixels = step if spacing is None else step / spacing[axis]
        whole = max(1, math.ceil(pixels))
        steps.append((whole, (pixels / whole) ** 2 / 4))
    result = cpu.smooth(image, steps, workers)
    if mask is not None:
        weight = cpu.smooth(mask[..., None], steps, workers)
        result = np.divide(result, weight, where=mask[..., None], out=np.zeros_like(result))
    return result


def colours(
    image: Array, mask: NDArray[np.bool_] | None, convert2lab: bool
) -> tuple[Array, NDArray[np.bool_] | None]:
    """Return the image (..., C) in the units that distances are measured in, and its outliers.

    The units are L*a*b* / 100, or the image's own range. See `stretched` for the outliers.
    """
    result, outliers = stretched(image, mask)
    return rgb_to_lab(result) / np.float32(100) if convert2lab else result, outliers


def features(
    colours: Array,
    mask: NDArray[np.bool_] | None,
    spacing: Sequence[float] | None = None,
    workers: int = 1,
) -> Array:
    """Return smoothed colours, (..., C) as they are."""
    return smoothed(colours, _STEPS[0], mask, spacing, workers)


def blurred_with(outliers: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels whose features hold a share of an outlier's."""
    return _grown(outliers, _STEPS[0])


def reliefs(
    features: Array,
    mask: NDArray[np.bool_] | None,
    outliers: NDArray[np.bool_] | None = None,
    spacing: Sequence[float] | None = None,
    workers: int = 1,
) -> Array:
    """Return the reliefs (3, ...) of features (..., C): the middle scale, the finest, the coarsest."""
    middle = smoothed(features, _STEPS[1], mask, spacing, workers)
    coarsest = smoothed(middle, _STEPS[2], mask, spacing, workers)
    gradients = np.zeros((3, *features.shape[:-1]), np.float32)
    for scale, gradient in zip((middle, features, coarsest), gradients, strict=True):
        cpu.gradient(scale, mask, spacing, workers, out=gradient)
    return _over_what_is_usual(gradients, mask, outliers, spacing, workers)


def _over_what_is_usual(
    gradients: Array,
    mask: NDArray[np.bool_] | None,
    outliers: NDArray[np.bool_] | None = None,
    spacing: Sequence[float] | None = None,
    workers: int = 1,
) -> Array:
    """Divide gradients (scales, ...) by their sum's local mean, plus its mean over the image.

    Pixels as near to an outlier as its gradient reaches do not count in the means, unless there are no others
    near.
    """
    total = gradients.sum(0)
    around = _local_mean(total, mask, spacing, workers)
    counted = mask
    if outliers is not None:
        counted = ~_grown(outliers, sum(_STEPS) + 1)
        if mask is not None:
            counted &= mask
        weight = _local_mean(counted.astype(np.float32), mask, spacing, workers)
        mean = _local_mean(np.where(counted, total, np.float32(0)), mask, spacing, workers)
        around = np.divide(mean, weight, out=around, where=weight > 1e-3)
        if not counted.any():
            counted = mask
    inside = around if counted is None else around[counted]
    around += inside.mean() if inside.size else 0
    gradients /= np.where(around > 0, around, 1)
    return gradients


def edge_map(edges: Array, mask: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Return a map of boundaries (...), at any scale, from 0: its ordinary range is 1 wide."""
    result = stretched(edges[..., None], mask)[0][..., 0]
    inside = result if mask is None else result[mask]
    return result - inside.min() if inside.size else result


def with_edges(reliefs: Array, edges: Array, mask: NDArray[np.bool_] | None) -> Array | None:
    """Return the reliefs (3, ...) with a map of boundaries (...), or (1, ...) where the map alone counts.

    None: the map is plain, and says nothing.

    Each is the sum of the map and the relief in standard deviations, the relief times the correlation of the
    two: a gradient that knows nothing of the boundaries is left out, and one that contradicts them.
    """
    boundaries = edge_map(edges, mask)
    centred, spread = _centred(boundaries, mask)
    if not spread > 0:
        return None
    boundaries /= np.float32(spread)
    results = []
    for relief in reliefs:
        own, own_spread = _centred(relief, mask)
        if own_spread > 0:
            agreement = float((centred * own).mean(dtype=np.float64)) / (spread * own_spread)
            if agreement > 0:
                results.append(boundaries + relief * np.float32(agreement / own_spread))
                continue
        results.append(boundaries)
    alone = all(result is boundaries for result in results)
    return boundaries[None] if alone else np.stack(results)


def _centred(array: Array, mask: NDArray[np.bool_] | None) -> tuple[NDArray[np.float64], float]:
    """Return the numbers of the mask less their mean, and their standard deviation."""
    inside = (array if mask is None else array[mask]).astype(np.float64).reshape(-1)
    if inside.size == 0:
        return inside, 0.0
    inside -= inside.mean()
    return inside, float(np.sqrt((inside * inside).mean()))


def smoothed_features(
    features: Array,
    mask: NDArray[np.bool_] | None,
    spacing: Sequence[float] | None = None,
    workers: int = 1,
) -> Array:
    """Return features (..., D), at any scale, smoothed as colours are, in shares of their largest number."""
    inside = features if mask is None else np.where(mask[..., None], features, features.dtype.type(0))
    shares = np.zeros(features.shape, np.float32)
    largest = max(float(inside.max(initial=0)), -float(inside.min(initial=0)))
    if largest > 0:
        np.divide(inside, largest, out=shares, casting="unsafe")
    return smoothed(shares, _STEPS[0], mask, spacing, workers)


def beside(
    features: Array,
    others: Array,
    mask: NDArray[np.bool_] | None,
    outliers: NDArray[np.bool_] | None = None,
    spacing: Sequence[float] | None = None,
    share: float = 1.0,
    workers: int = 1,
) -> Array:
    """Return features (..., C) with others (..., D) as more channels, (..., C + D).

    The others' root mean square step between neighbours is then `share` times that of the features, or 1
    where they have none.
    """
    step = typical_step(others, mask, None, spacing, workers)
    own = typical_step(features, mask, outliers, spacing, workers)
    if step > 0:
        others = others * np.float32((share * own if own > 0 else 1.0) / step)
    return np.concatenate([features, others], axis=-1)


def _local_mean(
    array: Array, mask: NDArray[np.bool_] | None, spacing: Sequence[float] | None, workers: int
) -> Array:
    """Return the mean over some 17 pixels around each pixel of the mask."""
    mean = array[..., None]
    for step in _AROUND:
        mean = smoothed(mean, step, mask, spacing, workers)
    return mean[..., 0]


def typical_step(
    features: Array,
    mask: NDArray[np.bool_] | None,
    outliers: NDArray[np.bool_] | None = None,
    spacing: Sequence[float] | None = None,
    workers: int = 1,
) -> float:
    """Return the root mean square distance of neighbours in features (..., C), 0 if there are none.

    With a spacing, it is the distance per unit of length. Outliers and the pixels that are smoothed with them
    do not count, unless there are no others.
    """
    if outliers is not None:
        counted = ~blurred_with(outliers)
        if mask is not None:
            counted &= mask
        step = typical_step(features, counted, None, spacing, workers)
        if step > 0:
            return step
    return math.sqrt(cpu.mean_square_step(features, mask, spacing, workers))
