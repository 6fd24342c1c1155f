"""What propagation of labels sees of an image: smoothed colours, and a relief whose ridges are its edges.

Both come from a small scale space: the image is smoothed by [1 2 1]/4 with steps of 1, 2 and 4 pixels
in turn (Gaussians of 0.7, 1.6 and 3.2 pixels, nearly), and the relief is the sum of the three gradients'
magnitudes. Edges that are there at several scales stand out from texture and noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_STEPS = (1, 2, 4)

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
    """Return CIE L*a*b* of sRGB values in [0, 1], (..., 3), as float32."""
    rgb = np.asarray(rgb, np.float32)
    lab = np.empty(rgb.shape, np.float32)
    source, target = rgb.reshape(-1, 3), lab.reshape(-1, 3)
    for first in range(0, len(source), _CONVERTED):
        part = source[first : first + _CONVERTED]
        linear = ((part + np.float32(0.055)) / np.float32(1.055)) ** np.float32(2.4)
        np.divide(part, np.float32(12.92), out=linear, where=part <= 0.04045)
        xyz = linear @ _RGB_TO_XYZ.T
        f = np.where(xyz > 0.008856, np.cbrt(xyz), np.float32(7.787) * xyz + np.float32(16 / 116))
        target[first : first + _CONVERTED, 0] = 116 * f[:, 1] - 16
        target[first : first + _CONVERTED, 1] = 500 * (f[:, 0] - f[:, 1])
        target[first : first + _CONVERTED, 2] = 200 * (f[:, 1] - f[:, 2])
    return lab


def stretched(image: Array, mask: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Return an image (..., C) mapped from its own range to [0, 1], and 0 where the mask is False."""
    inside = image if mask is None else image[mask]
    if inside.size == 0:
        return np.zeros(image.shape, np.float32)
    low, high = float(inside.min()), float(inside.max())
    # Halves first: the difference of two numbers may be too large for their type.
    scale = high / 2 - low / 2
    result = ((image / 2 - low / 2) / scale if scale > 0 else np.zeros(image.shape)).astype(np.float32)
    if mask is not None:
        result[~mask] = 0
    return result


def _shifted_sum(array: Array, axis: int, step: int) -> Array:
    """Return [1 2 1]/4 at a step along an axis, the first and last pixel repeated beyond the ends."""
    extent = array.shape[axis]
    moved = np.moveaxis(array, axis, 0)
    result = moved * np.float32(0.5)
    quarter = moved * np.float32(0.25)
    inner = max(extent - step, 0)
    result[:inner] += quarter[extent - inner :]
    result[inner:] += quarter[-1:]
    result[extent - inner :] += quarter[:inner]
    result[: extent - inner] += quarter[:1]
    return np.moveaxis(result, 0, axis)


def smoothed(image: Array, step: int, mask: NDArray[np.bool_] | None) -> Array:
    """Return an image (..., C) smoothed along all spatial axes, over the pixels of the mask alone."""
    weight = None if mask is None else mask.astype(np.float32)[..., None]
    result = image
    for axis in range(image.ndim - 1):
        result = _shifted_sum(result, axis, step)
        if weight is not None:
            weight = _shifted_sum(weight, axis, step)
    if weight is not None and mask is not None:
        result = np.divide(result, weight, where=mask[..., None], out=np.zeros_like(result))
    return result


def _gradient(image: Array, mask: NDArray[np.bool_] | None) -> Array:
    """Return the magnitude of the gradient of an image (..., C), from differences inside the mask alone."""
    square = np.zeros(image.shape[:-1], np.float32)
    for axis in range(image.ndim - 1):
        if image.shape[axis] < 2:
            continue
        along = np.moveaxis(image, axis, 0)
        total = np.zeros_like(along)
        if mask is None:
            total[1:-1] = (along[2:] - along[:-2]) * np.float32(0.5)
            total[0], total[-1] = along[1] - along[0], along[-1] - along[-2]
        else:
            valid = np.moveaxis(mask, axis, 0)
            both = valid[1:] & valid[:-1]
            step = (along[1:] - along[:-1]) * both[..., None]
            count = np.zeros(valid.shape, np.float32)
            total[1:] += step
            total[:-1] += step
            count[1:] += both
            count[:-1] += both
            total /= np.maximum(count, 1)[..., None]
        square += np.moveaxis(np.einsum("...c,...c->...", total, total), 0, axis)
    return np.sqrt(square)


def colours(image: Array, mask: NDArray[np.bool_] | None, convert2lab: bool) -> Array:
    """Return the image (..., C) in the units that distances are measured in: L*a*b* / 100, or stretched."""
    result = stretched(image, mask)
    return rgb_to_lab(result) / np.float32(100) if convert2lab else result


def features_and_relief(colours: Array, mask: NDArray[np.bool_] | None) -> tuple[Array, Array]:
    """Return smoothed colours (..., C) and the relief (...) of an image (..., C)."""
    features = image = smoothed(colours, _STEPS[0], mask)
    relief = _gradient(image, mask)
    for step in _STEPS[1:]:
        image = smoothed(image, step, mask)
        relief += _gradient(image, mask)
    return features, relief


def typical_step(features: Array, mask: NDArray[np.bool_] | None) -> float:
    """Return the root mean square distance of neighbours in features (..., C), 0 if there are none."""
    total, count = 0.0, 0
    for axis in range(features.ndim - 1):
        along = np.moveaxis(features, axis, 0)
        step = along[1:] - along[:-1]
        square = np.einsum("...c,...c->...", step, step)
        if mask is None:
            total += float(square.sum(dtype=np.float64))
            count += square.size
        else:
            valid = np.moveaxis(mask, axis, 0)
            both = valid[1:] & valid[:-1]
            total += float(square[both].sum(dtype=np.float64))
            count += int(np.count_nonzero(both))
    return float(np.sqrt(total / count)) if count else 0.0
