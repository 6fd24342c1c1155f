"""What propagation of labels sees of an image: smoothed colours, and reliefs whose ridges are its edges.

Both come from a small scale space: the image is smoothed by [1 2 1]/4 with steps of 1, 2 and 4 pixels
in turn (Gaussians of 0.7, 1.6 and 3.2 pixels, nearly). In volumes the steps are 1, 1 and 2. There is a relief
at each scale: the magnitude of the gradient, over what is usual around the pixel. An edge of a plain region
then counts as much as a stronger one among texture.

Arrays are of NumPy or CuPy, and all that comes of one is of the same library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aproarray import _arrays, _dispatch, _validate
from aproarray._backend import Backend

Array = NDArray[Any]


def _backend_of(array: Array) -> Backend:
    return _dispatch.backend(image=array)


_STEPS = (1, 2, 4)
_STEPS_OF_VOLUMES = (1, 1, 2)  # whose objects are a few pixels wide
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


# Numbers that are converted together: the arrays in between stay in the cache, and Ctrl-C need not wait.
_CONVERTED = 1 << 14


def _pieces(array: Array) -> list[slice]:
    """Return the pieces that an array is converted in: on a device it is one."""
    n = len(array)
    step = max(n, 1) if _arrays.is_cupy(array) else _CONVERTED
    return [slice(first, first + step) for first in range(0, n, step)]


def _quotient(array: Array, by: Any, where: Array, otherwise: Array) -> Array:
    """Return array / by where that is asked for; `otherwise` elsewhere, which may be written to."""
    xp = _backend_of(array).xp
    if xp is np:
        return np.asarray(np.divide(array, by, where=where, out=otherwise))
    result: Array = xp.where(where, array / by, otherwise)
    return result


def rgb_to_lab(rgb: Array) -> NDArray[np.float32]:
    """Return CIE L*a*b* of sRGB values, (..., 3), as float32: beyond [0, 1] by the same formulas."""
    xp = _backend_of(rgb).xp
    rgb = xp.asarray(rgb, np.float32)
    lab: NDArray[np.float32] = xp.empty(rgb.shape, np.float32)
    source, target, to_xyz = rgb.reshape(-1, 3), lab.reshape(-1, 3), xp.asarray(_RGB_TO_XYZ.T)
    for piece in _pieces(source):
        part = source[piece]
        linear = ((xp.maximum(part, 0) + np.float32(0.055)) / np.float32(1.055)) ** np.float32(2.4)
        linear = _quotient(part, np.float32(12.92), part <= 0.04045, linear)
        xyz = linear @ to_xyz
        f = xp.where(xyz > 0.008856, xp.cbrt(xyz), np.float32(7.787) * xyz + np.float32(16 / 116))
        target[piece, 0] = 116 * f[:, 1] - 16
        target[piece, 1] = 500 * (f[:, 0] - f[:, 1])
        target[piece, 2] = 200 * (f[:, 1] - f[:, 2])
    return lab


class Range(NamedTuple):
    """The numbers of an image that are mapped to [0, 1], in its own dtype, on the host."""

    low: Any
    high: Any
    has_outliers: bool
    """Whether numbers beyond are outliers. Otherwise there are none."""


def image_range(image: Array, mask: NDArray[np.bool_] | None) -> Range | None:
    """Return the ordinary range of an image (..., C), None if no pixel takes part (see `_ordinary_range`).

    It is the whole range where more than one pixel in ten would be an outlier: those are a channel of its own
    scale, say.
    """
    inside = _numbers(image if mask is None else image[mask])
    if inside.size == 0:
        return None
    low, high = _ordinary_range(inside)
    whole = Range(_number(inside.min()), _number(inside.max()), has_outliers=False)
    ordinary = Range(low, high, has_outliers=whole.low < low or whole.high > high)
    if ordinary.has_outliers and too_many_outliers(n_outlying(image, mask, ordinary), inside[..., 0].size):
        return whole
    return ordinary


def n_outlying(image: Array, mask: NDArray[np.bool_] | None, ordinary: Range) -> int:
    """Return how many pixels of an image (..., C) have a number beyond a range."""
    inside = _numbers(image if mask is None else image[mask])
    return _count(((inside < ordinary.low) | (inside > ordinary.high)).any(-1))


def too_many_outliers(n_outlying: int, n_pixels: int) -> bool:
    """Return whether so many pixels are no outliers."""
    return n_outlying > _OUTLYING_PIXELS * n_pixels


def _number(found: Any) -> Any:
    """Return what an array's `min` or `max` finds, as a number on the host."""
    return _arrays.on_host(found)[()]


def _count(flags: NDArray[np.bool_]) -> int:
    return int(_backend_of(flags).xp.count_nonzero(flags))


def _numbers(image: Array) -> Array:
    return image.view(np.uint8) if image.dtype == np.bool_ else image


def stretched(
    image: Array, mask: NDArray[np.bool_] | None, range_: Range | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Map an image (..., C) from a range (None: its own) to [0, 1], and return it with its outliers.

    Outliers keep their order beyond the range, on a logarithmic scale: a small bright object on a dark ground
    still is one. An outlier without another one beside it is a defect of the sensor, and is moved to the end
    of the range. Pixels that take no part are 0. The outliers (...) that are left are None if there are none.
    """
    xp = _backend_of(image).xp
    if range_ is None:
        range_ = image_range(image, mask)
    if range_ is None:
        return xp.zeros(image.shape, np.float32), None
    image = _numbers(image)
    low, high = range_.low, range_.high
    if mask is not None:
        image = xp.where(mask[..., None], image, low)
    ordinary = xp.clip(image, low, high) if range_.has_outliers else image
    outside = (image != ordinary) if range_.has_outliers else None
    with np.errstate(over="ignore"):
        scale = float(_differences(high, low))
    if not scale > 0:
        return xp.zeros(image.shape, np.float32), None
    too_large = not np.isfinite(scale)  # for the numbers' type
    if too_large:
        scale = float(high / 2 - low / 2)
    result = xp.empty(image.shape, np.float32)
    source, target = ordinary.reshape(-1), result.reshape(-1)
    for piece in _pieces(source):
        part = source[piece]
        exact = part / 2 - low / 2 if too_large else _differences(part, low)
        exact /= scale
        target[piece] = exact
    if outside is None:
        return result, None
    odd: NDArray[np.bool_] = outside.any(-1)
    odd &= _n_around(odd) > 1
    outside &= odd[..., None]
    numbers = image[outside].astype(np.float64)
    with np.errstate(over="ignore"):
        beyond = xp.maximum(float(low) - numbers, numbers - float(high)) / scale
    beyond = 2 * xp.log1p(xp.minimum(beyond, np.finfo(np.float64).max) / 2)
    result[outside] = xp.where(numbers > float(high), 1 + beyond, -beyond)
    return result, odd if odd.any() else None


# Shares of the numbers that may be outliers at either end. The next one counts where all others are equal.
_TAILS = (0.05, 0.005, 0.0005)
_OUTLYING_PIXELS = 0.1  # at most
_GAP = 4  # Outliers are so many times farther off than any number before them.
_GAPS = 3  # at most: numbers with more of them fall off over many scales, as those of a formula do


def _ordinary_range(numbers: Array) -> tuple[Any, Any]:
    """Return the smallest and the largest of many numbers but for outliers, in their own dtype.

    Outliers are at most one in twenty at either end, beyond a gap that is wider than three times the range up
    to there. An object that shades off has no such gap, however bright and small it is.
    """
    flat = numbers.reshape(-1)
    low, high = _number(flat.min()), _number(flat.max())
    if spread_out(n_beyond(flat, marks(low, high)), flat.size):
        return low, high
    for share in _TAILS:
        tail = int(share * flat.size)
        if tail == 0:
            break
        ranked = _backend_of(flat).xp.partition(flat, (tail, flat.size - 1 - tail))
        inner = _number(ranked[tail]), _number(ranked[-1 - tail])
        if inner[0] != inner[1]:
            tails = (_arrays.on_host(some) for some in (ranked[: tail + 1], ranked[-1 - tail :]))
            return _without_gaps(low, high, *inner, *tails)
    return low, high


def ordinary_range_of_counts(numbers: Array, counts: NDArray[np.int64]) -> tuple[Any, Any]:
    """Return the same of distinct numbers, ascending, each of which there is so many times."""
    low, high = numbers[0], numbers[-1]
    ends = np.cumsum(counts)
    n = int(ends[-1])
    first, last = marks(low, high)
    if spread_out((int(counts[numbers <= first].sum()), int(counts[numbers >= last].sum())), n):
        return low, high
    for share in _TAILS:
        tail = int(share * n)
        if tail == 0:
            break
        at = np.searchsorted(ends, (tail, n - 1 - tail), "right")
        if at[0] != at[1]:
            below, above = numbers[: at[0] + 1], numbers[at[1] :]
            return _without_gaps(low, high, numbers[at[0]], numbers[at[1]], below, above)
    return low, high


def _without_gaps(
    low: Any, high: Any, inner_low: Any, inner_high: Any, below: Array, above: Array
) -> tuple[Any, Any]:
    """Move the ends of a range to the first gap beyond the inner one, among the numbers below and above."""
    with np.errstate(over="ignore"):
        far = _GAP * float(_differences(inner_high, inner_low))
        if float(_differences(high, inner_low)) > far:
            above = np.sort(above)
            high = above[_last_before_gap(_differences(above, inner_low))]
        if float(_differences(inner_high, low)) > far:
            below = np.sort(below)[::-1]
            low = below[_last_before_gap(_differences(inner_high, below))]
    return low, high


def marks(low: Any, high: Any) -> tuple[Any, Any]:
    """Return two numbers of a range, near a third and two thirds of it."""
    if low.dtype.kind == "f":
        with np.errstate(all="ignore"):
            range_ = float(high) - float(low)
            first, last = (low.dtype.type(float(low) + share * range_) for share in (0.35, 0.65))
    else:
        first, last = (low.dtype.type(int(low) + (int(high) - int(low)) * share // 100) for share in (35, 66))
    return first, last


def n_beyond(numbers: Array, marks: tuple[Any, Any]) -> tuple[int, int]:
    """Return how many numbers lie up to the first mark, and from the last one on."""
    return _count(numbers <= marks[0]), _count(numbers >= marks[1])


def spread_out(n_beyond: tuple[int, int], n: int) -> bool:
    """Return whether it is plain, without sorting, that no number is far enough beyond the others."""
    # Then 5 % lie below the first mark, and 5 % above the second: a quarter of the range apart, and more.
    return min(n_beyond) > int(_TAILS[0] * n)


def _last_before_gap(distances: NDArray[np.float64]) -> int:
    """Return the place of the last of ascending distances before outliers, or of the last one."""
    gaps = np.flatnonzero(distances[1:] > _GAP * distances[:-1])
    return int(gaps[0]) if 0 < gaps.size <= _GAPS else len(distances) - 1


def _differences(larger: Array, smaller: Array) -> NDArray[np.float64]:
    """Return differences that are not negative as float64, C order, exact until they are rounded."""
    if larger.dtype.kind in "iu" and larger.dtype.itemsize == 8:  # modulo 2^64, where no difference is lost
        whole: NDArray[np.uint64] = _wide(larger, np.uint64) - _wide(smaller, np.uint64)
        return whole.astype(np.float64)
    difference: NDArray[np.float64] = _wide(larger, np.float64) - _wide(smaller, np.float64)
    return difference


def _wide(numbers: Any, dtype: Any) -> Any:
    """Return numbers in another dtype, C order, as an array unless it is one on a device."""
    return (numbers if _arrays.is_cupy(numbers) else np.asarray(numbers)).astype(dtype, order="C")


def _n_around(pixels: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Count the pixels that are True among each one and those that touch it, corners included."""
    count, xp = pixels.astype(np.int32), _backend_of(pixels).xp
    for axis in range(pixels.ndim):
        own = xp.moveaxis(count.copy(), axis, 0)
        total = xp.moveaxis(count, axis, 0)
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
    backend = _backend_of(image)
    result = backend.smooth(image, steps, workers)
    if mask is not None:
        weight = backend.smooth(mask[..., None], steps, workers)
        nothing = backend.xp.zeros(result.shape, np.float32)
        result = _quotient(result, weight, mask[..., None], nothing)
    return result


def colours(
    image: Array, mask: NDArray[np.bool_] | None, convert2lab: bool, range_: Range | None = None
) -> tuple[Array, NDArray[np.bool_] | None]:
    """Return the image (..., C) in the units that distances are measured in, and its outliers.

    The units are L*a*b* / 100, or the image's own range. See `stretched` for the outliers.
    """
    result, outliers = stretched(image, mask, range_)
    return rgb_to_lab(result) / np.float32(100) if convert2lab else result, outliers


def features(
    colours: Array,
    mask: NDArray[np.bool_] | None,
    spacing: Sequence[float] | None = None,
    workers: int = 1,
) -> Array:
    """Return smoothed colours, (..., C) as they are."""
    return smoothed(colours, _STEPS[0], mask, spacing, workers)


def features_of(
    pixels: Array,
    mask: NDArray[np.bool_] | None,
    convert2lab: bool | None,
    spacing: Sequence[float] | None = None,
    workers: int = 1,
    constant_end: bool | None = None,
    range_: Range | None = None,
) -> tuple[Array, NDArray[np.bool_] | None]:
    """Return the smoothed colours of an image (..., C), without an alpha channel, and its outliers.

    None: `constant_end` and `range_` are those of these pixels.
    """
    if constant_end is None:
        constant_end = has_constant_end(pixels, mask)
    numbers, is_rgb = colour_channels(pixels, convert2lab, constant_end)
    units, outliers = colours(numbers, mask, is_rgb, range_)
    return features(units, mask, spacing, workers), outliers


def colour_channels(pixels: Array, convert2lab: bool | None, constant_end: bool) -> tuple[Array, bool]:
    """Return the channels of an image (..., C) that are compared, and whether they are sRGB.

    The last one of four, or a constant one of two or four, is left out.
    """
    is_rgb = None if convert2lab is None else _validate.flag(convert2lab, "convert2lab")
    n_channels = pixels.shape[-1]
    if (is_rgb and n_channels == 4) or (n_channels in (2, 4) and constant_end):
        pixels = pixels[..., :-1]
    if is_rgb is None:
        is_rgb = pixels.shape[-1] == 3
    if is_rgb and pixels.shape[-1] != 3:
        raise ValueError(f"convert2lab needs an image of 3 channels, or 4 with alpha, got {n_channels}")
    return pixels, is_rgb


def has_constant_end(pixels: Array, mask: NDArray[np.bool_] | None) -> bool:
    """Return whether the last channel is one number wherever pixels take part: it says nothing then."""
    inside = pixels[..., -1] if mask is None else pixels[..., -1][mask]
    return bool(inside.size == 0 or inside.min() == inside.max())


def blurred_with(outliers: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels whose features hold a share of an outlier's."""
    return _grown(outliers, _STEPS[0])


def reliefs(
    features: Array,
    mask: NDArray[np.bool_] | None,
    outliers: NDArray[np.bool_] | None = None,
    spacing: Sequence[float] | None = None,
    workers: int = 1,
    usual: np.float32 | None = None,
) -> Array:
    """Return the reliefs (3, ...) of features (..., C): the middle scale, the finest, the coarsest.

    Gradients are divided by what is usual around them, plus what is usual in the image: `usual`, or the mean
    of the former.
    """
    gradients = scales(features, mask, spacing, workers)
    return over_what_is_usual(gradients, mask, outliers, spacing, workers, usual)


def over_what_is_usual(
    gradients: Array,
    mask: NDArray[np.bool_] | None,
    outliers: NDArray[np.bool_] | None,
    spacing: Sequence[float] | None,
    workers: int,
    usual: np.float32 | None,
) -> Array:
    """Make reliefs of the gradients (3, ...) of `scales`, in place, and return them."""
    around, counted = usual_around(gradients, mask, outliers, spacing, workers)
    around += mean_of(*usual_sum(around, counted, mask)) if usual is None else usual
    gradients /= _backend_of(around).xp.where(around > 0, around, np.float32(1))
    return gradients


def is_volume(shape: tuple[int, ...]) -> bool:
    """Return whether an image of a shape has depth: three axes or more, of more than one pixel each."""
    return sum(extent > 1 for extent in shape) > 2


def _steps_between(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return _STEPS_OF_VOLUMES if is_volume(shape) else _STEPS


def scales(
    features: Array, mask: NDArray[np.bool_] | None, spacing: Sequence[float] | None, workers: int
) -> Array:
    """Return the gradients (3, ...) of features at the scales of `reliefs`."""
    _, to_middle, to_coarsest = _steps_between(features.shape[:-1])
    middle = smoothed(features, to_middle, mask, spacing, workers)
    coarsest = smoothed(middle, to_coarsest, mask, spacing, workers)
    backend = _backend_of(features)
    gradients: Array = backend.xp.zeros((3, *features.shape[:-1]), np.float32)
    for number, scale in enumerate((middle, features, coarsest)):
        backend.gradient(scale, mask, spacing, workers, out=gradients[number])
    return gradients


def usual_around(
    gradients: Array,
    mask: NDArray[np.bool_] | None,
    outliers: NDArray[np.bool_] | None,
    spacing: Sequence[float] | None,
    workers: int,
) -> tuple[Array, NDArray[np.bool_] | None]:
    """Return the local mean of the sum of gradients (scales, ...), and the pixels that count in means.

    Pixels as near to an outlier as its gradient reaches do not count, unless there are no others near.
    """
    total: Array = sum(gradients[1:], gradients[0])
    around = _local_mean(total, mask, spacing, workers)
    if outliers is None:
        return around, mask
    counted = _far_from(outliers, mask)
    weight = _local_mean(counted.astype(np.float32), mask, spacing, workers)
    inside = _backend_of(total).xp.where(counted, total, np.float32(0))
    mean = _local_mean(inside, mask, spacing, workers)
    return _quotient(mean, weight, weight > 1e-3, around), counted


# From a pixel to the farthest one that its features and its relief depend on. Outliers are those beside
# another one.
FEATURES_REACH = 1 + _STEPS[0]
REACH = 1 + sum(_STEPS) + 1 + sum(_AROUND)


def usual_sum(
    around: Array, counted: NDArray[np.bool_] | None, mask: NDArray[np.bool_] | None
) -> tuple[float, int]:
    """Return the sum of the local means of the pixels that count, and their number.

    In float64: the order of the sum is not seen in a mean that is rounded to float32.
    """
    inside = around if counted is None else around[counted]
    if counted is not None and not inside.size and mask is not counted:
        return usual_sum(around, mask, mask)
    return float(inside.sum(dtype=np.float64)), inside.size


def _far_from(outliers: NDArray[np.bool_], mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Return the pixels of the mask whose gradients hold nothing of an outlier."""
    far = ~_grown(outliers, sum(_steps_between(outliers.shape)) + 1)
    if mask is not None:
        far &= mask
    return far


# Of the finest gradient over the middle one, root mean squares. A sharp edge makes it 1.38 to 1.43, by its
# direction, and a blurred one makes it less; thin lines 2.2 and more, and white noise 3.7.
_CLEAN = 1.45


def square_sums(
    gradients: Array, mask: NDArray[np.bool_] | None, outliers: NDArray[np.bool_] | None
) -> tuple[float, float]:
    """Return the sums of squares of gradients (3, ...) far from outliers: of the middle and the finest."""
    counted = mask if outliers is None else _far_from(outliers, mask)
    middle, finest = (gradients[k] if counted is None else gradients[k][counted] for k in (0, 1))
    return float((middle * middle).sum(dtype=np.float64)), float((finest * finest).sum(dtype=np.float64))


def is_clean(middle: float, finest: float) -> bool:
    """Return whether an image has edges alone, no noise and no fine texture, from `square_sums`.

    The other scales only see less then than the finest one. The ratio is rounded: the order of the sums is
    not seen.
    """
    return middle > 0 and bool(np.float32(math.sqrt(finest / middle)) < _CLEAN)


def mean_of(total: float, count: int) -> np.float32:
    """Return a mean, 0 of nothing."""
    return np.float32(total / count if count else 0)


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
    stacked: Array = boundaries[None] if alone else _backend_of(edges).xp.stack(results)
    return stacked


def _centred(array: Array, mask: NDArray[np.bool_] | None) -> tuple[NDArray[np.float64], float]:
    """Return the numbers of the mask less their mean, and their standard deviation."""
    inside = (array if mask is None else array[mask]).astype(np.float64).reshape(-1)
    if inside.size == 0:
        return inside, 0.0
    inside -= inside.mean()
    return inside, math.sqrt(float((inside * inside).mean()))


def smoothed_features(
    features: Array,
    mask: NDArray[np.bool_] | None,
    spacing: Sequence[float] | None = None,
    workers: int = 1,
) -> Array:
    """Return features (..., D), at any scale, smoothed as colours are, in shares of their largest number."""
    xp = _backend_of(features).xp
    inside = features if mask is None else xp.where(mask[..., None], features, features.dtype.type(0))
    largest = max(float(inside.max()), -float(inside.min()), 0.0) if inside.size else 0.0
    zero = xp.zeros(features.shape, np.float32)
    shares = (inside / largest).astype(np.float32) if largest > 0 else zero
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
    joined: Array = _backend_of(features).xp.concatenate([features, others], axis=-1)
    return joined


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
    for counted in (without_outliers(mask, outliers), mask):
        along = _backend_of(features).square_steps(features, counted, spacing, workers)
        step = root_mean(sum(total for total, _ in along), sum(count for _, count in along))
        if step > 0 or counted is mask:
            break
    return step


def without_outliers(
    mask: NDArray[np.bool_] | None, outliers: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """Return the pixels whose features hold nothing of an outlier."""
    if outliers is None:
        return mask
    counted = ~blurred_with(outliers)
    if mask is not None:
        counted &= mask
    return counted


def root_mean(total: float, count: int) -> float:
    """Return the root of a mean, 0 of nothing. It is rounded: the order of the sum is not seen."""
    return float(np.float32(math.sqrt(total / count))) if count else 0.0
