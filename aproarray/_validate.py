"""Checks and layouts: what came, what was expected, and where the axes of an array are.

Every check raises TypeError for the wrong kind of thing and ValueError for a wrong value, and says
both what it got and what it wanted.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]


def real_array(array: ArrayLike, name: str, xp: Any = np) -> Array:
    """Return `array` as an `xp` array of real numbers in native byte order, without a copy where possible."""
    result = as_array(array, name, xp)
    if result.dtype.kind not in "biuf" or result.dtype.itemsize > 8:
        raise TypeError(
            f"{name} must hold bool, integer, float16, float32 or float64 numbers, got dtype {result.dtype}"
        )
    # A device has no foreign byte orders, nor unaligned numbers.
    return np.require(result, result.dtype.newbyteorder("="), "A") if xp is np else result


def as_array(array: Any, name: str, xp: Any = np) -> Array:
    """Return `array` as an `xp` array of any kind; an error that its conversion raises names the argument."""
    try:
        result: Array = xp.asarray(array)
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:  # an object's own __array__ may raise anything
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name} cannot be made an array: {error}") from error
    return result


def compute_dtype(*dtypes: np.dtype[Any]) -> np.dtype[Any]:
    """Return the float type to compute in: float32, or float64 where that is needed to hold a dtype."""
    return np.result_type(np.float32, *dtypes)


def as_floats(array: Array, takes_part: Array | None, xp: Any = np) -> Array:
    """Return features (I, N, C) in the float type to compute in, without a copy where possible.

    Only differences within an item count. 64-bit integers that float64 does not hold are therefore taken less
    the smallest number of their channel, over the pixels that take part (1 or I, N; None: all), where that
    makes differences exact: up to a range of 2^53. Those of a wider range are rounded as they are.
    """
    dtype = compute_dtype(array.dtype)
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8 or array.size == 0:
        return array.astype(dtype, copy=False)
    low = high = array
    if takes_part is not None:
        limits = np.iinfo(array.dtype)
        low = xp.where(takes_part[..., None], array, array.dtype.type(limits.max))
        high = xp.where(takes_part[..., None], array, array.dtype.type(limits.min))
    return floats_between(array, low.min(1, keepdims=True), high.max(1, keepdims=True), xp)


def floats_between(array: Array, low: Array, high: Array, xp: Any = np) -> Array:
    """Return 64-bit integers as float64, from the smallest and the largest number of their channel.

    See `as_floats`; the arrays are broadcast.
    """
    dtype = compute_dtype(array.dtype)
    as_they_are = array.astype(dtype)
    range_ = high.astype(np.uint64) - low.astype(np.uint64)  # modulo 2^64
    beyond = high > 2**53
    if array.dtype.kind == "i":
        beyond |= low < -(2**53)
    shifted = beyond & (range_ <= 2**53)
    if not shifted.any():
        return as_they_are
    less_the_smallest = (array.astype(np.uint64) - low.astype(np.uint64)).astype(dtype)
    result: Array = xp.where(shifted, less_the_smallest, as_they_are)
    return result


def _not_finite(array: Array, takes_part: Array | None) -> int:
    """Return how many numbers of pixels of (I, N, C) that take part (1 or I, N; None: all) are NaN or inf."""
    if array.dtype.kind != "f":
        return 0
    with np.errstate(all="ignore"):
        # A finite sum has finite terms. The converse fails where the sum overflows: look closer then.
        if np.isfinite(array.sum(dtype=compute_dtype(array.dtype))):
            return 0
    bad = ~np.isfinite(array)
    if takes_part is not None:
        bad &= takes_part[..., None]
    return int(bad.sum())


BY_MASK = " (mask= leaves pixels out)"
BY_TREE = " (the mask= of the tree's mst leaves pixels out)"


def finite(array: Array, name: str, takes_part: Array | None = None, advice: str = "") -> None:
    """Check that the pixels of (I, N, C) that take part (1 or I, N; None: all) hold no NaN or inf.

    The advice says how pixels are left out, where they can be.
    """
    if bad := _not_finite(array, takes_part):
        raise ValueError(
            f"{name} must be finite, but {bad} of its {array.size} numbers are NaN or inf{advice}"
        )


def no_overflow(weights_finite: bool, name: str, dtype: np.dtype[Any]) -> None:
    """Check that the squared differences of a finite array were finite too."""
    if not weights_finite:
        _overflow(f"squared differences of {name}", name, dtype)


def finite_means(means: Array, name: str, takes_part: Array | None) -> None:
    """Check that the means (I, N, C) of a finite array are finite: the sums behind them may overflow."""
    if _not_finite(means, takes_part):
        _overflow(f"sums of {name}", name, means.dtype)


def _overflow(what: str, name: str, dtype: np.dtype[Any]) -> NoReturn:
    advice = " or pass it as float64" if dtype != np.float64 else ""
    raise ValueError(f"{what} overflow {dtype}: scale {name} down{advice}")


def integer(value: Any, name: str, minimum: float = -math.inf, maximum: float = math.inf) -> int:
    """Return `value` as an int between two bounds."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if not minimum <= result <= maximum:
        bound = f"at least {minimum}" if maximum == math.inf else f"between {minimum} and {maximum}"
        raise ValueError(f"{name} must be {bound}, got {result}")
    return result


def label(value: Any, name: str) -> int:
    """Return `value` as an int that an int64 array can hold."""
    return integer(value, name, np.iinfo(np.int64).min, np.iinfo(np.int64).max)


def odd(value: Any, name: str) -> int:
    """Return `value` as an odd int of at least 1."""
    result = integer(value, name, 1)
    if result % 2 == 0:
        raise ValueError(f"{name} must be odd, as a window has a centre, got {result}")
    return result


def real_number(value: Any, name: str) -> float:
    """Return `value` as a float."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must fit a float64, got a number that is too large") from None


def positive(value: Any, name: str) -> float:
    """Return `value` as a float above 0 (inf is one)."""
    result = real_number(value, name)
    if not result > 0:
        raise ValueError(f"{name} must be above 0, got {result!r}")
    return result


def positives(value: Any, name: str) -> tuple[list[float], bool]:
    """Return one or several numbers above 0 as a list, and whether they came as a sequence."""
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim):
        shape = as_array(value, name).shape
        if len(shape) != 1:
            raise ValueError(f"{name} must be a number or a flat sequence, got shape {shape}")
        return [positive(one, f"{name}[{i}]") for i, one in enumerate(value)], True
    return [positive(value, name)], False


def flag(value: Any, name: str) -> bool:
    """Return `value` as a bool, which it must be."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {_shown(value)}")
    return bool(value)


def choice(value: Any, name: str, choices: tuple[str, ...]) -> None:
    """Check that `value` is one of several words."""
    expected = f"{name} must be one of {', '.join(map(repr, choices))}"
    if not isinstance(value, str):
        raise TypeError(f"{expected}, got {_shown(value)}")
    if value not in choices:
        raise ValueError(f"{expected}, got {value!r}")


def _shown(value: Any) -> str:
    """Return a value for a message: a number or a word as it is, and the type of anything else."""
    return repr(value) if isinstance(value, numbers.Number | str) else f"a {type(value).__name__}"


def workers(value: Any, available: int) -> int:
    """Return how many threads to use."""
    return available if value is None else integer(value, "workers", 1)


class Layout(NamedTuple):
    """Where an array's axes are: leading axes, then spatial ones, with one of channels anywhere."""

    leading: Shape
    spatial: Shape
    channel_axis: int | None
    n_channels: int

    def flatten(self, array: Array) -> Array:
        """Return `array` as (items, pixels, channels), a view where strides allow."""
        if self.channel_axis is None:
            array = array[..., None]
        else:
            axes = [axis for axis in range(array.ndim) if axis != self.channel_axis % array.ndim]
            array = array.transpose(*axes, self.channel_axis % array.ndim)
        return array.reshape(math.prod(self.leading), math.prod(self.spatial), self.n_channels)


def layout(
    shape: Shape,
    spatial_ndim: int,
    channel_axis: Any,
    name: str,
    one_channel: Shape | None = None,
    option: str = "channel_axis",
) -> Layout:
    """Return where the axes are of an array of `shape`; `option` is what callers know channel_axis by.

    It has no channels if channel_axis is None, if there are only spatial axes, or if the shape is
    `one_channel`. The last `spatial_ndim` axes that remain are spatial, those before are leading.
    """
    ndim = len(shape)
    if channel_axis is not None:
        channel_axis = integer(channel_axis, option)
    if ndim == spatial_ndim or shape == one_channel:
        channel_axis = None
    if channel_axis is None:
        rest, n_channels = shape, 1
    elif not -ndim <= channel_axis < ndim:
        raise ValueError(f"{option}={channel_axis} is not an axis of {name} of shape {shape}")
    else:
        channel_axis %= ndim
        rest, n_channels = shape[:channel_axis] + shape[channel_axis + 1 :], shape[channel_axis]
    if len(rest) < spatial_ndim:
        raise ValueError(
            f"{name} of shape {shape} has too few axes: expected {spatial_ndim} spatial ones"
            + (f" beside {option}={channel_axis}" if channel_axis is not None else "")
        )
    split = len(rest) - spatial_ndim
    return Layout(rest[:split], rest[split:], channel_axis, n_channels)


# A last axis of more is not taken for channels without being told so: it may be a volume's, or a batch's.
_MOST_CHANNELS = 4


def image_layout(
    shape: Shape, spatial_ndim: int, channel_axis: Any, batches: bool = True, option: str = "channel_axis"
) -> Layout:
    """Return where the axes are of an image; with channel_axis="auto", its last axis may be channels.

    An error that asks offers a batch as one of the readings, if `batches` are taken.
    """
    if not is_auto(channel_axis):
        return layout(shape, spatial_ndim, channel_axis, "image", option=option)
    if len(shape) > spatial_ndim and not 1 <= shape[-1] <= _MOST_CHANNELS:
        raise ValueError(
            f"image of shape {shape} can be read in several ways. Pass "
            + ", or ".join(_readings(shape, spatial_ndim, batches))
        )
    return layout(shape, spatial_ndim, -1, "image")


def is_auto(channel_axis: Any) -> bool:
    """Return whether an image itself is to say which of its axes are channels."""
    return isinstance(channel_axis, str) and channel_axis == "auto"


def _readings(shape: Shape, spatial_ndim: int, batches: bool) -> list[str]:
    """Return the arguments that say what the axes of an image are, and what each of them makes of it."""

    def pixels(extents: Shape) -> str:
        before = (
            f"{' x '.join(map(str, extents[:-spatial_ndim]))} images of " if extents[:-spatial_ndim] else ""
        )
        return f"{before}{' x '.join(map(str, extents[-spatial_ndim:]))} pixels"

    first = len(shape) - spatial_ndim - 1
    readings = [f"channel_axis=-1 ({pixels(shape[:-1])} with {shape[-1]} channels)"]
    if 1 <= shape[first] <= _MOST_CHANNELS:
        rest = shape[:first] + shape[first + 1 :]
        readings.append(f"channel_axis={first} ({pixels(rest)} with {shape[first]} channels)")
    if len(shape) == spatial_ndim + 1:
        readings.append(f"spatial_ndim={len(shape)} ({' x '.join(map(str, shape))} pixels, no channels)")
    if batches:
        readings.append(f"channel_axis=None ({pixels(shape)}, no channels)")
    return readings


def layout_over(
    shape: Shape, leading: Shape, spatial: Shape, channel_axis: Any, name: str, owner: str
) -> Layout:
    """Return where the axes are of an array over the pixels of `owner`, whose axes are leading + spatial."""
    found = layout(shape, len(spatial), channel_axis, name, one_channel=leading + spatial)
    if found.spatial != spatial or found.leading[: len(leading)] != leading:
        expected = ", ".join(map(str, (*leading, "...", *spatial)))
        raise ValueError(
            f"{name} of shape {shape} does not fit {owner} of shape {leading + spatial}: with "
            f"channel_axis={channel_axis} its other axes are {found.leading + found.spatial}, expected "
            f"({expected})"
            + ("" if channel_axis is None else "; pass channel_axis=None if it has no channels")
        )
    return found


def mask(value: Any, leading: Shape, spatial: Shape, owner: str, xp: Any = np) -> NDArray[np.bool_] | None:
    """Return a boolean mask as (1 or items, pixels), or None."""
    if value is None:
        return None
    result = as_array(value, "mask", xp)
    if result.dtype != np.bool_:
        raise TypeError(f"mask must be boolean (True: the pixel takes part), got dtype {result.dtype}")
    if result.shape not in (spatial, leading + spatial):
        raise ValueError(
            f"mask of shape {result.shape} does not fit {owner}: expected {spatial}"
            + (f" or {leading + spatial}" if leading else "")
        )
    items = math.prod(leading) if result.shape != spatial else 1
    flat: NDArray[np.bool_] = xp.ascontiguousarray(result).reshape(items, math.prod(spatial))
    return flat


def output(out: Any, shape: Shape, dtype: np.dtype[Any], xp: Any = np) -> None:
    """Check an array that results are to be written to."""
    if not isinstance(out, xp.ndarray):
        library = "NumPy" if xp is np else "CuPy"
        raise TypeError(f"out must be a {library} array, got a {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out must have the result's dtype {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have the result's shape {shape}, got {out.shape}")
    if out.size and any(n > 1 and step == 0 for n, step in zip(out.shape, out.strides, strict=True)):
        raise ValueError(
            f"out must have a place for every number, got strides {out.strides} for shape {shape}"
        )
    if xp is np and not out.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array")


def integer_array(value: ArrayLike, name: str, shape: Sequence[int | None], xp: Any = np) -> Array:
    """Return `value` as an `xp` array of integers whose shape matches (None: any length)."""
    result = as_array(value, name, xp)
    if result.size == 0 and result.dtype.kind == "f" and not isinstance(value, np.ndarray | xp.ndarray):
        # An empty list, which has neither a dtype nor all of its axes.
        result = xp.empty([n or 0 for n in shape] if result.ndim == 1 else result.shape, np.intp)
    if result.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {result.dtype}")
    wanted = tuple("any" if n is None else n for n in shape)
    if result.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, result.shape, strict=True)):
        raise ValueError(f"{name} must have shape {wanted}, got {result.shape}")
    return result


def in_range(array: Array, stop: int, name: str) -> Array:
    """Check that all entries are in [0, stop), and return them as intp.

    A copy is checked and returned: another thread may write into the caller's array meanwhile.
    """
    array = array.copy()
    if array.size and not (array.min() >= 0 and array.max() < stop):
        raise ValueError(f"{name} must be in [0, {stop}), got values from {array.min()} to {array.max()}")
    return array.astype(np.intp, copy=False)
