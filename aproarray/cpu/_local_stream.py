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
from aproarray.cpu._compile import compiled
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


@intrinsic
def _float_from_bits(typing_context: Any, bits: Any) -> Any:
    """Reinterpret an int32 as a float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@compiled
def _exp(x: Any) -> Any:
    """exp(x) of a float32 x <= 0, to about one unit in the last place; 0 where that would be subnormal.

    Written out (2^n times a polynomial, as in Cephes), because a call of the C library would keep the
    loop around it from being vectorised.
    """
    x = max(x, np.float32(-88))
    n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    power = _float_from_bits((np.int32(n) + np.int32(127)) << np.int32(23))
    return (p * r * r + r + np.float32(1)) * power


@compiled
def weigh(planes, here, there, valid, first, last, shift, scale, distances, weights):
    """weights[x] <- exp(-|planes[here, :, x] - planes[there, :, x + shift]|^2 scale), both pixels valid."""
    n_colors, padded = np.uint64(planes.shape[1]), np.uint64(planes.shape[2])
    colors, valid_here, valid_there = planes.reshape(planes.size), valid[here], valid[there]
    for x in range(first, last, np.uint64(BYTES // planes.itemsize)):  # and a few after the last one
        distance = zeros(colors)
        y, z = here * n_colors * padded + x, there * n_colors * padded + x + shift
        for _ in range(n_colors):
            difference = subtract(load(colors, y), load(colors, z))
            distance = multiply_add(difference, difference, distance)
            y, z = y + padded, z + padded
        store(distances, x, distance)
    if weights.itemsize == 4:
        for x in range(first, last):
            weights[x] = _exp(np.float32(-distances[x] * scale)) * valid_here[x] * valid_there[x + shift]
    else:
        for x in range(first, last):
            weights[x] = math.exp(-distances[x] * scale) * valid_here[x] * valid_there[x + shift]


@compiled
def enter(image, mask, s, interior, valid, planes):
    """Fill valid and planes (Ci, padded) with slab s of an image (N, Ci): 0 outside the mask."""
    slab_pixels = np.uint64(len(interior))
    pixel = s * slab_pixels
    for p in range(slab_pixels):
        valid[interior[p]] = len(mask) == 0 or mask[pixel + p] != 0
    for c in range(np.uint64(image.shape[1])):
        row = planes[c]
        for p in range(slab_pixels):
            row[interior[p]] = image[pixel + p, c]
    for p in range(slab_pixels if len(mask) else np.uint64(0)):
        if mask[pixel + p] == 0:
            planes[:, interior[p]] = 0


@compiled
def _sum_two(values, weights, norms, own, places, norm, to, channel, apart, first, stop):
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
        for k in range(np.uint64(0), np.uint64(len(places)), np.uint64(2)):
            z, w = places[k] + y, places[k + np.uint64(1)] + x
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
        x = min(x + pixels, stop - pixels)


@compiled
def _sum_one(values, weights, norms, own, places, norm, to, channel, first, stop):
    """Sum one channel, as `_sum_two` sums two."""
    lanes = np.uint64(BYTES // values.itemsize)
    lanes2, lanes3, pixels = np.uint64(2) * lanes, np.uint64(3) * lanes, np.uint64(4) * lanes
    x = first
    while True:
        y = own + channel + x
        a, b = load(values, y), load(values, y + lanes)
        c, d = load(values, y + lanes2), load(values, y + lanes3)
        y = channel + x
        for k in range(np.uint64(0), np.uint64(len(places)), np.uint64(2)):
            z, w = places[k] + y, places[k + np.uint64(1)] + x
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
        x = min(x + pixels, stop - pixels)


# All indices are unsigned: Numba wraps negative ones round, at the price of the vector loop.
def _stream(
    source, target, image, mask, region, sums, n_slabs, band_first, band_last, iterations, scale,
    interior, x_stop, step_slabs, step_shifts,
    state, ring, weights, norms, planes, valid, move_first, move_last,
):  # fmt: skip
    """Take slabs [band_first, band_last) of source (N, C) through `iterations` into target (N, C).

    Pixels outside the mask (N) take no part; outside the region (N), values are 0 before and after each
    iteration. Either may be empty: all pixels. sums (N), where it is not empty, receives W 1 of the band.

    A stream has as many moves as `moves_of` says. This call makes moves [move_first, move_last). The
    `stream_state` is kept between calls.
    """
    one, two = np.uint64(1), np.uint64(2)
    zero = np.uint64(0)
    radius = np.uint64(len(planes)) - one
    n_channels, padded = np.uint64(state.shape[1]), np.uint64(state.shape[2])
    n_steps = np.uint64(len(step_slabs))
    slab_pixels = np.uint64(len(interior))
    x_first, x_last = interior[0], interior[slab_pixels - one] + one
    reach = iterations * radius
    begin = band_first - reach if band_first > reach else zero
    end = min(n_slabs, band_last + reach)
    depth = reach + radius + one

    # Slabs after those of the iterations: one for the last iteration's result, one for above the image.
    n_kept = np.uint64(len(state)) - two
    n_levels, nothing = n_kept // ring, n_kept + one
    plane = n_channels * padded
    flat = state.reshape(state.size), weights.reshape(weights.size), norms.reshape(norms.size)
    values = flat[0]
    places = np.empty(np.uint64(4) * n_steps, np.uint64)
    distances = np.zeros(padded, image.dtype)

    for s in range(begin + move_first, begin + move_last):
        # The image enters `radius` slabs before the values, for the weights between slabs.
        if s < end:
            enter(image, mask, s, interior, valid[s % (radius + one)], planes[s % (radius + one)])
        if s < begin + radius:
            continue
        entering = s - radius
        if entering < end:
            slot = entering % (radius + one)
            for step in range(n_steps):
                later = entering + step_slabs[step]
                if later < end:
                    other = later % (radius + one)
                    weigh(
                        planes, slot, other, valid, x_first, x_last, step_shifts[step], scale, distances,
                        weights[entering % depth, step],
                    )  # fmt: skip
                else:
                    weights[entering % depth, step] = 0
            pixel = entering * slab_pixels
            for c in range(n_channels):
                row = state[entering % ring, c]
                for p in range(slab_pixels):
                    row[interior[p]] = source[pixel + p, c]
            for part in (mask, region):
                for p in range(slab_pixels if len(part) else zero):
                    if part[pixel + p] == 0:
                        state[entering % ring, :, interior[p]] = 0

        for t in range(one, iterations + one):
            # The slabs of iteration t that the band still depends on.
            margin = (iterations - t) * radius
            t_first = band_first - margin if band_first > margin else zero
            t_last = min(n_slabs, band_last + margin)
            if entering < t * radius + t_first or entering >= t * radius + t_last:
                continue
            j = entering - t * radius
            if t == one:
                norm = norms[j % depth]
                norm[:] = 1
                for step in range(n_steps):
                    shift, d = step_shifts[step], step_slabs[step]
                    w = weights[j % depth, step]
                    for x in range(x_first, x_last):
                        norm[x] += w[x]
                    if j >= begin + d:
                        w = weights[(j - d) % depth, step]
                        for x in range(x_first, x_last):
                            norm[x] += w[x - shift]
                if len(sums) != 0 and j >= band_first and j < band_last:
                    for p in range(slab_pixels):
                        sums[j * slab_pixels + p] = norm[interior[p]]
                for x in range(x_first, x_last):
                    norm[x] = 1 / norm[x]
                if len(region) != 0:
                    for p in range(slab_pixels):
                        if region[j * slab_pixels + p] == 0:
                            norm[interior[p]] = 0
            level = (t - one) * ring
            for step in range(n_steps):
                shift, d, place = step_shifts[step], step_slabs[step], np.uint64(4) * step
                if step == zero or d != step_slabs[step - one]:
                    after, weighed = (level + (j + d) % ring) * plane, (j % depth) * n_steps * padded
                    before, weighed_before = nothing * plane, depth * n_steps * padded
                    if j >= begin + d:
                        before = (level + (j - d) % ring) * plane
                        weighed_before = ((j - d) % depth) * n_steps * padded
                places[place] = after + shift
                places[place + one] = weighed + step * padded
                places[place + two] = before - shift
                places[place + np.uint64(3)] = weighed_before + step * padded - shift
            own, norm_at = (level + j % ring) * plane, (j % depth) * padded
            to = (level + ring + j % ring if t < n_levels else n_kept) * plane
            for c in range(zero, n_channels, two):
                if c + one < n_channels:
                    _sum_two(*flat, own, places, norm_at, to, c * padded, padded, x_first, x_stop)
                else:
                    _sum_one(*flat, own, places, norm_at, to, c * padded, x_first, x_stop)
            if t == iterations:
                for c in range(n_channels):
                    result = to + c * padded
                    for p in range(slab_pixels):
                        pixel = j * slab_pixels + p
                        if len(mask) == 0 or mask[pixel] != 0:
                            target[pixel, c] = values[result + interior[p]]
                        else:
                            inside = len(region) == 0 or region[pixel] != 0
                            target[pixel, c] = source[pixel, c] if inside else 0


@functools.cache
def stream_kernel(dtype: Any, image_dtype: Any) -> Any:
    """Compile `_stream` for two dtypes, whatever the window and the arrays' strides.

    The signature is given, so that neither strides nor read-only arrays lead to further compilations.
    The disk cache finds it again by the signature: nothing compiled here may be a closure.
    """
    real, image_real = numba.from_dtype(dtype), numba.from_dtype(image_dtype)

    def strided(scalar: Any, readonly: bool) -> Any:
        return types.Array(scalar, 2, "A", readonly=readonly)

    index, bits = types.Array(types.uint64, 1, "C"), types.Array(types.uint8, 1, "A", readonly=True)
    signature = types.void(
        strided(real, True), strided(real, False), strided(image_real, True),
        bits, bits, types.Array(real, 1, "C"),
        types.uint64, types.uint64, types.uint64, types.uint64, image_real,
        index, types.uint64, index, index,
        types.Array(real, 3, "C"), types.uint64, types.Array(real, 3, "C"), types.Array(real, 2, "C"),
        types.Array(image_real, 3, "C"), types.Array(real, 2, "C"), types.uint64, types.uint64,
    )  # fmt: skip
    return _workers.run_apart(compiled, _stream, signature)


def moves_of(n_slabs: int, first: int, last: int, reach: int, radius: int) -> int:
    """Return how many moves of a stream take slabs [first, last) to their end; `radius` is that of slabs."""
    return min(n_slabs, last + reach) - max(0, first - reach) + reach + radius


def stream_state(
    iterations: int, view: Window, radius: int, levels: int, ring: int, channels: int, dtype: Any,
    image: NDArray[Any],
) -> tuple[Any, ...]:  # fmt: skip
    """Return the memory of a stream: values, slabs of each level, weights, 1 / W 1, the image and its mask.

    The values before each of the first `levels` iterations are kept, `ring` slabs of each.
    """
    depth = iterations * radius + radius + 1  # slabs for which weights are kept
    return (
        np.zeros((levels * ring + 2, channels, view.padded), dtype),
        ring,
        np.zeros((depth + 1, len(view.slabs), view.padded), dtype),  # none above the image
        np.zeros((depth, view.padded), dtype),
        np.zeros((radius + 1, image.shape[1], view.padded), image.dtype),
        np.zeros((radius + 1, view.padded), dtype),
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
