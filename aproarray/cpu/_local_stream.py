"""Local propagation: window sums over slabs, compiled by Numba.

A *slab* is what remains of an image at one index of its first spatial axis: a row of pixels in 2-D,
a plane in 3-D. Slabs are padded by the window's radii and flattened, so that a step inside a window
is a number of slabs and a shift along the slab, whatever the dimension and the size of the window.

The slabs stream through many iterations at once: as soon as slab s has entered, iteration t can be
computed for slab ``s - t * radius``. Only the last few slabs of every iteration are kept, and every
weight of the symmetric W is computed once per stream and kept just as long, so that memory does not
grow with the image's height.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from aproarray import _edges
from aproarray.cpu import _workers
from aproarray.cpu._compile import compiled, inlined
from aproarray.cpu._vectors import BYTES, load, multiply, multiply_add, store, subtract, zeros


class Window(NamedTuple):
    """A window over padded slabs: the half of its steps that lead to later pixels."""

    interior: NDArray[np.uintp]
    """Where the pixels of a slab lie in its padded form (P,)."""
    stop: int
    """One past the last computed pixel of a padded slab; at least TILE pixels are computed."""
    padded: int
    """Length of a padded slab, with room for a vector that begins at its last pixel."""
    slabs: NDArray[np.uintp]
    """Slabs from a pixel to its neighbour, for every step (K,)."""
    shifts: NDArray[np.uintp]
    """Shift along the padded slab modulo 2^64, for every step (K,)."""
    runs: NDArray[np.uintp]
    """First step of every run of steps to consecutive pixels, and K."""


# Pixels of a slab that are summed up together, at most: as many as four vectors of float32 have.
TILE = 32


@functools.lru_cache(16)
def window(slab_shape: tuple[int, ...], radii: tuple[int, ...]) -> Window:
    """Return the window that reaches `radii` along the axes, over slabs of `slab_shape`."""
    padded = tuple(extent + 2 * radius for extent, radius in zip(slab_shape, radii[1:], strict=True))
    strides = [math.prod(padded[axis + 1 :]) for axis in range(len(padded))]
    inside = np.indices(slab_shape).reshape(len(slab_shape), math.prod(slab_shape))
    interior = (np.array(strides, np.intp) @ (inside + np.array(radii[1:])[:, None])).astype(np.uintp)
    steps = [step for step in _edges.box_steps(radii) if step > (0,) * len(radii)]
    shifts = np.array([sum(a * b for a, b in zip(step[1:], strides, strict=True)) for step in steps], np.intp)
    stop = max(int(interior[-1]) + 1, int(interior[0]) + TILE)
    return Window(
        interior,
        stop,
        stop + int(abs(shifts).max(initial=0)) + BYTES // 4,
        np.array([step[0] for step in steps], np.uintp),
        shifts.astype(np.uintp),
        np.array(
            [i for i, step in enumerate(steps) if i == 0 or step[-1] == -radii[-1]] + [len(steps)], np.uintp
        ),
    )


# Constants of compiled code: a call such as np.uint64(1) in it takes milliseconds to compile. So does any
# statement, and a slice, `min` or `np.zeros` much more. Kernels therefore index flat arrays they are given.
_0, _1, _2, _3, _4 = (np.uint64(number) for number in range(5))


@intrinsic
def _bits(typing_context: Any, value: Any) -> Any:
    """Take the bits of a float32 as an int32, or the other way round: the last 32 bits of an integer."""
    of_float = value == types.float32

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if of_float:
            return builder.bitcast(args[0], ir.IntType(32))
        return builder.bitcast(context.cast(builder, args[0], value, types.int32), ir.FloatType())

    return (types.int32 if of_float else types.float32)(value), generate


# Of exp, as in Cephes: ln 2 in two parts, and a polynomial. Added to a small number, _ROUND rounds it:
# the last bits of the sum are the integer.
_LEAST, _PER_LN2, _LN2, _LN2_REST = map(np.float32, (-88, 1.4426950408889634, 0.693359375, -2.12194440e-4))
_E0, _E1, _E2 = map(np.float32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3))
_E3, _E4, _E5 = map(np.float32, (4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1))
_ROUND, _UNIT = map(np.float32, (3 << 22, 1))
_MANTISSA_BITS, _BIAS = map(np.int32, (23, 127 << 23))


@inlined
def _exp(x: Any) -> Any:
    """exp(x) of a float32 x <= 0, to about one unit in the last place; 0 where that would be subnormal.

    Written out (2^n times a polynomial), because a call of the C library would keep the loop around it from
    being vectorised.
    """
    x = x if x > _LEAST else _LEAST
    rounded = x * _PER_LN2 + _ROUND
    n = rounded - _ROUND
    r = x - n * _LN2 - n * _LN2_REST
    p = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
    return (p * r * r + r + _UNIT) * _bits((_bits(rounded) << _MANTISSA_BITS) + _BIAS)


@inlined
def weigh(
    planes, padded, n_colors, here, there, valid, valid_here, valid_there, first, last, scale, distances,
    weights, to,
):  # fmt: skip
    """weights[to + x] <- exp(-|planes[here + x] - planes[there + x]|^2 scale), where both pixels are valid.

    Planes of colors are `padded` numbers apart. All arrays are flat; distances[x] become the squares.
    """
    for x in range(first, last, np.uint64(BYTES // planes.itemsize)):  # and a few after the last one
        distance = zeros(planes)
        y, z = here + x, there + x
        for _ in range(n_colors):
            difference = subtract(load(planes, y), load(planes, z))
            distance = multiply_add(difference, difference, distance)
            y, z = y + padded, z + padded
        store(distances, x, distance)
    if weights.itemsize == 4:
        for x in range(first, last):
            both = valid[valid_here + x] * valid[valid_there + x]
            weights[to + x] = _exp(np.float32(-distances[x] * scale)) * both
    else:
        for x in range(first, last):
            both = valid[valid_here + x] * valid[valid_there + x]
            weights[to + x] = math.exp(-distances[x] * scale) * both


@inlined
def enter(image, mask, s, slab_pixels, interior, valid, valid_at, planes, planes_at, n_colors, padded):
    """Fill a slab of valid and of planes (both flat) with slab s of an image (N, Ci): 0 outside the mask."""
    pixel = s * slab_pixels
    for p in range(slab_pixels):
        valid[valid_at + interior[p]] = len(mask) == 0 or mask[pixel + p] != 0
    for c in range(n_colors):
        for p in range(slab_pixels):
            x = interior[p]
            planes[planes_at + x] = image[pixel + p, c] if valid[valid_at + x] != 0 else 0
        planes_at += padded


@inlined
def _sum_two(values, weights, norms, own, places, n_places, norm, to, channel, apart, first, stop):
    """values[to + x] <- norms[norm + x] (values[own + x] + window sum), of two channels.

    Indices are those of a slab; its channels are `channel` and channel + apart further. Every step of the
    window has two pairs of them in `places` (4 K): of the values that come after and of their weights, of the
    values before and of theirs. The last pixels may be summed up twice.
    """
    lanes, apart_too = np.uint64(BYTES // values.itemsize), apart + np.uint64(BYTES // values.itemsize)
    pixels = lanes + lanes
    x = first
    while True:
        y = own + channel + x
        a0, a1 = load(values, y), load(values, y + lanes)
        b0, b1 = load(values, y + apart), load(values, y + apart_too)
        y = channel + x
        for k in range(_0, n_places, _2):
            z, w = places[k] + y, places[k + _1] + x
            w0, w1 = load(weights, w), load(weights, w + lanes)
            a0 = multiply_add(w0, load(values, z), a0)
            a1 = multiply_add(w1, load(values, z + lanes), a1)
            b0 = multiply_add(w0, load(values, z + apart), b0)
            b1 = multiply_add(w1, load(values, z + apart_too), b1)
        w0, w1, y = load(norms, norm + x), load(norms, norm + x + lanes), to + channel + x
        store(values, y, multiply(a0, w0))
        store(values, y + lanes, multiply(a1, w1))
        store(values, y + apart, multiply(b0, w0))
        store(values, y + apart_too, multiply(b1, w1))
        if x + pixels >= stop:
            break
        x = x + pixels if x + pixels + pixels <= stop else stop - pixels


@inlined
def _sum_one(values, weights, norms, own, places, n_places, norm, to, channel, first, stop):
    """Sum one channel, as `_sum_two` sums two."""
    lanes = np.uint64(BYTES // values.itemsize)
    lanes2, lanes3, pixels = lanes + lanes, _3 * lanes, _4 * lanes
    x = first
    while True:
        y = own + channel + x
        a, b = load(values, y), load(values, y + lanes)
        c, d = load(values, y + lanes2), load(values, y + lanes3)
        y = channel + x
        for k in range(_0, n_places, _2):
            z, w = places[k] + y, places[k + _1] + x
            a = multiply_add(load(weights, w), load(values, z), a)
            b = multiply_add(load(weights, w + lanes), load(values, z + lanes), b)
            c = multiply_add(load(weights, w + lanes2), load(values, z + lanes2), c)
            d = multiply_add(load(weights, w + lanes3), load(values, z + lanes3), d)
        w, y = norm + x, to + channel + x
        store(values, y, multiply(a, load(norms, w)))
        store(values, y + lanes, multiply(b, load(norms, w + lanes)))
        store(values, y + lanes2, multiply(c, load(norms, w + lanes2)))
        store(values, y + lanes3, multiply(d, load(norms, w + lanes3)))
        if x + pixels >= stop:
            break
        x = x + pixels if x + pixels + pixels <= stop else stop - pixels


# All indices are unsigned: Numba wraps negative ones round, at the price of the vector loop.
def _stream(
    source, target, image, mask, region, sums, n_slabs, band_first, band_last, iterations, scale,
    interior, slab_pixels, x_stop, step_slabs, step_shifts, n_steps,
    state, n_channels, padded, ring, n_levels, weights, norms, planes, n_colors, radius, valid, distances,
    places, move_first, move_last,
):  # fmt: skip
    """Take slabs [band_first, band_last) of source (N, C) through `iterations` into target (N, C).

    Pixels outside the mask (N) take no part; outside the region (N), where source is 0, values are 0 after
    each iteration. Either may be empty: all pixels. sums (N), if not empty, receives W 1 of the band.

    A stream has as many moves as `moves_of` says. This call makes moves [move_first, move_last). The
    `stream_state` is kept between calls.
    """
    x_first, x_last = interior[_0], interior[slab_pixels - _1] + _1
    reach = iterations * radius
    begin = band_first - reach if band_first > reach else _0
    end = band_last + reach if band_last + reach < n_slabs else n_slabs
    around, depth = radius + _1, reach + radius + _1

    # Slabs after those of the iterations: one for the last iteration's result, one for above the image.
    n_kept = n_levels * ring
    plane, colors, weighed = n_channels * padded, n_colors * padded, n_steps * padded
    nothing, no_weights = (n_kept + _1) * plane, depth * weighed
    n_places = _4 * n_steps

    for s in range(begin + move_first, begin + move_last):
        # The image enters `radius` slabs before the values, for the weights between slabs.
        if s < end:
            slot = s % around
            enter(
                image, mask, s, slab_pixels, interior, valid, slot * padded, planes, slot * colors, n_colors,
                padded,
            )  # fmt: skip
        if s < begin + radius:
            continue
        entering = s - radius
        if entering < end:
            slot, to = entering % around, entering % depth * weighed
            for step in range(n_steps):
                later = entering + step_slabs[step]
                if later < end:
                    other, shift = later % around, step_shifts[step]
                    weigh(
                        planes, padded, n_colors, slot * colors, other * colors + shift, valid, slot * padded,
                        other * padded + shift, x_first, x_last, scale, distances, weights, to,
                    )  # fmt: skip
                else:
                    for x in range(x_first, x_last):
                        weights[to + x] = 0
                to += padded
            pixel, row = entering * slab_pixels, entering % ring * plane
            for c in range(n_channels):
                for p in range(slab_pixels):
                    state[row + c * padded + interior[p]] = source[pixel + p, c]
            for p in range(slab_pixels if len(mask) != 0 else _0):
                if mask[pixel + p] == 0:
                    for c in range(n_channels):
                        state[row + c * padded + interior[p]] = 0

        for t in range(_1, iterations + _1):
            # The slabs of iteration t that the band still depends on.
            margin = (iterations - t) * radius
            t_first = band_first - margin if band_first > margin else _0
            t_last = band_last + margin if band_last + margin < n_slabs else n_slabs
            if entering < t * radius + t_first or entering >= t * radius + t_last:
                continue
            j = entering - t * radius
            pixel, level = j * slab_pixels, (t - _1) * ring
            for step in range(n_steps):
                shift, d, place = step_shifts[step], step_slabs[step], _4 * step
                # Of the values that come after, and of their weights; of those before, and of theirs.
                places[place] = (level + (j + d) % ring) * plane + shift
                places[place + _1] = j % depth * weighed + step * padded
                places[place + _2] = nothing - shift
                places[place + _3] = no_weights + step * padded - shift
                if j >= begin + d:
                    places[place + _2] = (level + (j - d) % ring) * plane - shift
                    places[place + _3] = (j - d) % depth * weighed + step * padded - shift
            norm = j % depth * padded
            if t == _1:
                for x in range(x_first, x_last):
                    norms[norm + x] = 1
                for of_weights in range(_1, n_places, _2):
                    weight = places[of_weights]
                    for x in range(x_first, x_last):
                        norms[norm + x] += weights[weight + x]
                if len(sums) != 0 and j >= band_first and j < band_last:
                    for p in range(slab_pixels):
                        sums[pixel + p] = norms[norm + interior[p]]
                for x in range(x_first, x_last):
                    norms[norm + x] = 1 / norms[norm + x]
                for p in range(slab_pixels if len(region) != 0 else _0):
                    if region[pixel + p] == 0:
                        norms[norm + interior[p]] = 0
            own = (level + j % ring) * plane
            to = (level + ring + j % ring if t < n_levels else n_kept) * plane
            for c in range(_0, n_channels, _2):
                channel = c * padded
                if c + _1 < n_channels:
                    _sum_two(
                        state, weights, norms, own, places, n_places, norm, to, channel, padded, x_first,
                        x_stop,
                    )  # fmt: skip
                else:
                    _sum_one(state, weights, norms, own, places, n_places, norm, to, channel, x_first, x_stop)
            if t == iterations:
                for c in range(n_channels):
                    for p in range(slab_pixels):
                        if len(mask) == 0 or mask[pixel + p] != 0:
                            target[pixel + p, c] = state[to + c * padded + interior[p]]
                        else:
                            target[pixel + p, c] = source[pixel + p, c]


@functools.cache
def stream_kernel(dtype: Any, image_dtype: Any) -> Any:
    """Compile `_stream` for two dtypes, whatever the window and the arrays' strides.

    The signature is given, so that neither strides nor read-only arrays lead to further compilations.
    The disk cache finds it again by the signature: nothing compiled here may be a closure.
    """
    real, image_real = numba.from_dtype(dtype), numba.from_dtype(image_dtype)

    def strided(scalar: Any, readonly: bool) -> Any:
        return types.Array(scalar, 2, "A", readonly=readonly)

    flat, image_flat = types.Array(real, 1, "C"), types.Array(image_real, 1, "C")
    index, bits = types.Array(types.uint64, 1, "C"), types.Array(types.uint8, 1, "A", readonly=True)
    number = types.uint64
    signature = types.void(
        strided(real, True), strided(real, False), strided(image_real, True), bits, bits, flat,
        number, number, number, number, image_real,
        index, number, number, index, index, number,
        flat, number, number, number, number, flat, flat, image_flat, number, number, flat, image_flat, index,
        number, number,
    )  # fmt: skip
    return _workers.run_apart(compiled, _stream, signature)


def moves_of(n_slabs: int, first: int, last: int, reach: int, radius: int) -> int:
    """Return how many moves of a stream take slabs [first, last) to their end; `radius` is that of slabs."""
    return min(n_slabs, last + reach) - max(0, first - reach) + reach + radius


class Stream(NamedTuple):
    """What a stream keeps: its memory, flat, and what that consists of; see `_stream`."""

    state: NDArray[Any]
    """Slabs of `ring` for each level, of the values before an iteration, and two more."""
    channels: int
    padded: int
    ring: int
    levels: int
    weights: NDArray[Any]
    norms: NDArray[Any]
    """1 / W 1."""
    planes: NDArray[Any]
    """The image."""
    colors: int
    radius: int
    valid: NDArray[Any]
    """Its mask."""
    distances: NDArray[Any]
    places: NDArray[np.uintp]


def stream_state(
    iterations: int, view: Window, radius: int, levels: int, ring: int, channels: int, dtype: Any,
    image: NDArray[Any],
) -> Stream:  # fmt: skip
    """Return the memory of a stream.

    The values before each of the first `levels` iterations are kept, `ring` slabs of each.
    """
    depth = iterations * radius + radius + 1  # slabs for which weights are kept
    n_steps, padded, colors = len(view.slabs), view.padded, image.shape[1]
    return Stream(
        np.zeros((levels * ring + 2) * channels * padded, dtype),
        channels,
        padded,
        ring,
        levels,
        np.zeros((depth + 1) * n_steps * padded, dtype),  # none above the image
        np.zeros(depth * padded, dtype),
        np.zeros((radius + 1) * colors * padded, image.dtype),
        colors,
        radius,
        np.zeros((radius + 1) * padded, dtype),
        np.zeros(padded, image.dtype),
        np.zeros(4 * n_steps, np.uintp),
    )


def prepared(
    shape: tuple[int, ...], kernel_size: int, images: NDArray[Any], zeta: float
) -> tuple[tuple[int, ...], tuple[int, ...], NDArray[Any]]:
    """Return at least two axes, how far a window reaches along each, and images in which zeta fits.

    A window reaches no further than the image. An axis of one pixel is left out, as no step leads along it:
    a single row, or a single column, is one slab.
    """
    shape = tuple(extent for extent in shape if extent > 1)
    shape = (1,) * (2 - len(shape)) + shape
    radii = tuple(min(kernel_size // 2, extent - 1) for extent in shape)
    if images.dtype == np.float32 and not 1e-18 <= zeta <= 1e18:  # whose square float32 cannot hold
        images = images.astype(np.float64)
    return shape, radii, images
