"""Local propagation: window sums over slabs, compiled by Numba.

A *slab* is what remains of an image at one index of its first spatial axis: a row of pixels in 2-D,
a plane in 3-D. Slabs are padded by the window's radius and flattened, so that a step inside a window
is a number of slabs and a shift along the slab, whatever the dimension and the size of the window.

The slabs stream through many iterations at once: as soon as slab s has entered, iteration t can be
computed for slab ``s - t * radius``. Only the last few slabs of every iteration are kept, and every
weight of the symmetric W is computed once per stream and kept just as long, so that memory does not
grow with the image's height.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from aproarray import _grid
from aproarray.cpu import _workers
from aproarray.cpu._vectors import BYTES, load, multiply, multiply_add, store, subtract, zeros


def _compile(function: Any, *signature: Any) -> Any:
    """Compile for calls without the GIL, cached on disk wherever there is a place to write to."""
    # Products and sums may fuse here: no window sum has to be equal to another machine's, bit for bit.
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return numba.njit(*signature, cache=True, **options)(function)
    except RuntimeError:  # neither this folder nor the user's is writable
        return numba.njit(*signature, **options)(function)


class Window(NamedTuple):
    """A window over padded slabs: the half of its steps that lead to later pixels."""

    interior: NDArray[np.uintp]
    """Where the pixels of a slab lie in its padded form (P,)."""
    stop: int
    """Behind the last of the pixels of a padded slab that are computed: all from its first on, or _TILE."""
    padded: int
    """Length of a padded slab, with room for a vector that begins at its last pixel."""
    slabs: NDArray[np.uintp]
    """Slabs from a pixel to its neighbour, for every step (K,)."""
    shifts: NDArray[np.uintp]
    """Shift along the padded slab modulo 2^64, for every step (K,)."""
    runs: NDArray[np.uintp]
    """First step of every run of steps to consecutive pixels, and K."""


# Pixels of a slab that are summed up together, at most: as many as four vectors of float32 have.
_TILE = 32


@functools.lru_cache(16)
def window(slab_shape: tuple[int, ...], kernel_size: int) -> Window:
    """Return the window of `kernel_size` pixels along every axis, over slabs of `slab_shape`."""
    radius = kernel_size // 2
    padded = tuple(extent + 2 * radius for extent in slab_shape)
    strides = [math.prod(padded[axis + 1 :]) for axis in range(len(padded))]
    inside = np.indices(slab_shape).reshape(len(slab_shape), math.prod(slab_shape)) + radius
    interior = (np.array(strides, np.intp) @ inside).astype(np.uintp)
    ndim = 1 + len(slab_shape)
    steps = [step for step in _grid.window_steps(ndim, kernel_size) if step > (0,) * ndim]
    shifts = np.array([sum(a * b for a, b in zip(step[1:], strides, strict=True)) for step in steps], np.intp)
    stop = max(int(interior[-1]) + 1, int(interior[0]) + _TILE)
    return Window(
        interior,
        stop,
        stop + int(abs(shifts).max(initial=0)) + BYTES // 4,
        np.array([step[0] for step in steps], np.uintp),
        shifts.astype(np.uintp),
        np.array(
            [i for i, step in enumerate(steps) if i == 0 or step[-1] == -radius] + [len(steps)], np.uintp
        ),
    )


@intrinsic
def _float_from_bits(typing_context: Any, bits: Any) -> Any:
    """Reinterpret an int32 as a float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@_compile
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


@_compile
def _weigh(planes, here, there, valid, first, last, shift, scale, distances, weights):
    """weights[x] <- exp(-|planes[here, :, x] - planes[there, :, x + shift]|^2 scale), both pixels valid."""
    n_colors, padded = np.uint64(planes.shape[1]), np.uint64(planes.shape[2])
    colors, valid_here, valid_there = planes.reshape(planes.size), valid[here], valid[there]
    for x in range(first, last, np.uint64(BYTES // planes.itemsize)):  # and a few behind the last one
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


@_compile
def _enter(image, mask, s, interior, valid, planes):
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


@_compile
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


@_compile
def _sum_one(values, weights, norms, own, places, norm, to, channel, first, stop):
    """Do for one channel what `_sum_two` does for two."""
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

    The stream is made of `_moves`, and this call makes some of them: [move_first, move_last). What it keeps
    between them is the `_stream_state`.
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

    # Slabs behind those of the iterations: for the last one's result, and for what is above the image.
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
            _enter(image, mask, s, interior, valid[s % (radius + one)], planes[s % (radius + one)])
        if s < begin + radius:
            continue
        entering = s - radius
        if entering < end:
            slot = entering % (radius + one)
            for step in range(n_steps):
                later = entering + step_slabs[step]
                if later < end:
                    other = later % (radius + one)
                    _weigh(
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
def _kernel(dtype: Any, image_dtype: Any) -> Any:
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
    return _workers.run_apart(_compile, _stream, signature)


def _moves(n_slabs: int, first: int, last: int, reach: int, radius: int) -> int:
    """Return how many moves of a stream take slabs [first, last) to their end."""
    return min(n_slabs, last + reach) - max(0, first - reach) + reach + radius


def _stream_state(
    iterations: int, view: Window, radius: int, levels: int, ring: int, channels: int, dtype: Any,
    image: NDArray[Any],
) -> tuple[Any, ...]:  # fmt: skip
    """Return what a stream keeps: values, slabs of each level, weights, 1 / W 1, the image and its mask.

    Values are kept before the first iterations, as many as there are `levels`, `ring` slabs of each.
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


def _prepared(
    shape: tuple[int, ...], kernel_size: int, images: NDArray[Any], zeta: float
) -> tuple[tuple[int, ...], int, NDArray[Any]]:
    """Return at least two axes, a window no larger than the image, and images in which zeta fits."""
    if len(shape) == 1:
        shape = (1, *shape)
    if images.dtype == np.float32 and not 1e-18 <= zeta <= 1e18:  # whose square float32 cannot hold
        images = images.astype(np.float64)
    return shape, min(kernel_size, 2 * max(shape) - 1), images


def _scale(zeta: float, dtype: np.dtype[Any]) -> Any:
    return dtype.type(min(1 / zeta / zeta, float(np.finfo(dtype).max)))


# What one stream may keep between slabs, in bytes (it has to stay in the cache that the cores share), and the
# channels that share its weights.
_STREAM_BYTES = 3 << 20
_STREAM_CHANNELS = 32
# Terms of window sums that take as long as a pixel of `_workers.STEP`.
_TAPS = 128


def propagate(
    values: NDArray[Any],
    out: NDArray[Any],
    images: NDArray[Any],
    shape: tuple[int, ...],
    image_of: NDArray[np.intp],
    masks: NDArray[np.bool_] | None,
    zeta: float,
    kernel_size: int,
    iterations: int,
    workers: int,
    sums: NDArray[Any] | None = None,
    region: NDArray[np.bool_] | None = None,
) -> None:
    """Propagate values (I, N, C) into out (I, N, C), item i along images[image_of[i]] (G, N, Ci).

    N pixels of `shape`; masks are (G or 1, N). sums (G, N), of the values' dtype, receive W 1 of the images
    that have items. A single item may have a region (N): outside, values are 0 before and after every
    iteration. One task streams a band of slabs of some channels of one item.
    """
    if out.size == 0:
        return
    shape, kernel_size, images = _prepared(shape, kernel_size, images, zeta)
    if kernel_size == 1:
        out[...] = values if region is None else np.where(region[:, None], values, 0)
        if sums is not None:
            sums[...] = 1
        return
    starts = np.flatnonzero(np.diff(image_of, prepend=-1))
    if values.shape[2] == 1 and len(starts) < len(values):
        # Masks of one image are channels of one item: they share its weights.
        tasks = []
        for first, stop in itertools.pairwise([*starts, len(values)]):
            n_parts = min(stop - first, max(1, workers // len(starts)))
            bounds = np.linspace(first, stop, n_parts + 1).astype(int)
            tasks += [
                functools.partial(
                    propagate, values[a:b].T, out[a:b].T, images, shape, image_of[a : a + 1], masks, zeta,
                    kernel_size, iterations, 1, sums if a == first else None,
                )
                for a, b in itertools.pairwise(bounds)
            ]  # fmt: skip
        _workers.run(tasks, workers)
        return
    n_slabs = shape[0]
    view = window(shape[1:], kernel_size)
    steps_of = (view.interior, view.stop, view.slabs, view.shifts)
    stream = _kernel(values.dtype, images.dtype)
    scale = _scale(zeta, images.dtype)
    no_mask, no_sums = np.empty(0, np.uint8), np.empty(0, values.dtype)
    inside = no_mask if region is None else region.view(np.uint8)
    # The first item of each image hands out its sums.
    summing = set() if sums is None else set(np.unique(image_of, return_index=True)[1].tolist())

    radius = kernel_size // 2
    slab_bytes = view.padded * values.dtype.itemsize
    blocks = [slice(c, c + _STREAM_CHANNELS) for c in range(0, values.shape[2], _STREAM_CHANNELS)]
    channels = min(values.shape[2], _STREAM_CHANNELS)
    kept = slab_bytes * (kernel_size * channels + radius * len(view.slabs))  # per iteration
    per_pass = int(np.clip(_STREAM_BYTES // kept, min(4, iterations), iterations))
    n_bands = max(1, min(workers // (len(values) * len(blocks)), n_slabs // (per_pass * radius)))
    bounds = np.linspace(0, n_slabs, n_bands + 1).astype(int)
    # One band may be propagated in place, as a stream reads ahead of what it writes; several may not.
    other = np.empty_like(out) if n_bands > 1 and per_pass < iterations else out

    def stream_band(
        iterations: int, first: int, last: int, source: NDArray[Any], target: NDArray[Any],
        image: NDArray[Any], mask: NDArray[Any], sums: NDArray[Any],
    ) -> None:  # fmt: skip
        n_channels = source.shape[1]
        state = _stream_state(
            iterations, view, radius, iterations, kernel_size, n_channels, values.dtype, image
        )
        moves = _moves(n_slabs, first, last, iterations * radius, radius)
        taps = 2 * len(view.slabs) * len(view.interior) * iterations * n_channels
        for move in _workers.ranges(moves, 1, taps / _TAPS):
            _workers.check_stop()
            stream(
                source, target, image, mask, inside, sums, n_slabs, first, last, iterations, scale,
                *steps_of, *state, *move,
            )  # fmt: skip

    source = values
    for done in range(0, iterations, per_pass):
        steps = min(per_pass, iterations - done)
        target = other if -((done + steps - iterations) // per_pass) % 2 else out  # the last one: out
        _workers.run(
            [
                functools.partial(
                    stream_band, steps, first, last,
                    source[i, :, block], target[i, :, block], images[image_of[i]],
                    no_mask if masks is None else masks[image_of[i] % len(masks)].view(np.uint8),
                    sums[image_of[i]]  # type: ignore[index]
                    if i in summing and done == 0 and block.start == 0
                    else no_sums,
                )
                for i in range(len(values))
                for block in blocks
                for first, last in itertools.pairwise(bounds.tolist())
            ],
            workers,
        )  # fmt: skip
        source = target


@_compile
def _add_pairs(values, here, there, adjoint, slopes, step, n_steps, first, last):
    """slopes[step + i, x] += (a_x - a_z) (y_z - y_x) for the pixels z = x + i, i in range(n_steps).

    y_x is values[here + x], y_z is values[there + z], and a lies `adjoint` (modulo 2^64) further. What comes
    behind the last pixel, up to a whole vector, is written to as well.
    """
    lanes, padded = np.uint64(BYTES // values.itemsize), np.uint64(slopes.shape[1])
    flat = slopes.reshape(slopes.size)
    for x in range(first, last, lanes):
        y = load(values, here + x)
        a = load(values, here + adjoint + x)
        z, slope = there + x, step * padded + x
        for _ in range(n_steps):
            by_pair = subtract(a, load(values, z + adjoint))
            store(flat, slope, multiply_add(by_pair, subtract(load(values, z), y), load(flat, slope)))
            z, slope = z + np.uint64(1), slope + padded


# All that the pairs of these pixels of a row take stays in the L1 cache.
_PAIR_PIXELS = 512


def _pair_up(
    state, ring, image, mask, first, last, begin, scale,
    interior, step_slabs, step_shifts, runs, planes, valid, own, slopes, found, shares,
):  # fmt: skip
    """Add to found (slabs, Ci, padded) what pairs say that end in slabs [first, last) of an image (N, Ci).

    state has y_0 to y_T of these slabs, and of those before that they make pairs with, in the first C of 2 C
    channels, and the gradients of y_T to y_0, divided by W 1, in the others. The normalised sums
    y_t+1 = W y_t / W 1 make of a weight

        dL/dW_ij = sum_t a_ti (y_tj - y_t+1,i) + a_tj (y_ti - y_t+1,j)
                 = sum_t (a_ti - a_tj) (y_tj - y_ti) + own_i + own_j,  own_i = sum_t a_ti (y_ti - y_t+1,i)

    for both of its places in W. shares (slabs) receive sum_ij dL/d(d_ij) d_ij over the pairs that begin in
    each slab, d_ij = |I_i - I_j|^2. planes, valid, own and slopes are kept between calls; no pair begins
    before slab `begin`. All is yet to be multiplied by the scale.
    """
    one, two = np.uint64(1), np.uint64(2)
    n_iterations = (np.uint64(len(state)) - two) // ring - one
    n_channels, padded = np.uint64(state.shape[1]) // two, np.uint64(state.shape[2])
    plane, values = two * n_channels * padded, state.reshape(state.size)
    around, n_colors = np.uint64(len(planes)), np.uint64(image.shape[1])
    slab_pixels = np.uint64(len(interior))
    x_first, x_last = interior[0], interior[slab_pixels - one] + one
    n_steps = np.uint64(len(step_slabs))
    distances, weights = np.zeros(padded, image.dtype), np.zeros(padded, state.dtype)

    for s in range(first, last):
        slot = s % around
        _enter(image, mask, s, interior, valid[slot], planes[slot])
        own[slot] = 0
        slopes[:] = 0
        for tile in range(x_first, x_last, np.uint64(_PAIR_PIXELS)):
            stop = min(tile + np.uint64(_PAIR_PIXELS), x_last)
            for t in range(n_iterations):
                for c in range(n_channels):
                    y, after = state[t * ring + s % ring, c], state[(t + one) * ring + s % ring, c]
                    a = state[(n_iterations - one - t) * ring + s % ring, n_channels + c]
                    for x in range(tile, stop):
                        own[slot, x] += a[x] * (y[x] - after[x])
                    level, channel = t * ring * plane, c * padded
                    adjoint = (n_iterations - one - t) * ring * plane + n_channels * padded - level
                    for run in range(np.uint64(len(runs)) - one):
                        step, d = runs[run], step_slabs[runs[run]]
                        if s >= begin + d:
                            _add_pairs(
                                values, level + ((s - d) % ring) * plane + channel,
                                level + (s % ring) * plane + channel + step_shifts[step], adjoint,
                                slopes, step, runs[run + one] - step, tile, stop,
                            )  # fmt: skip
        for step in range(n_steps):
            if s < begin + step_slabs[step]:
                continue
            j, shift, slope = s - step_slabs[step], step_shifts[step], slopes[step]
            other = j % around
            _weigh(planes, other, slot, valid, x_first, x_last, shift, scale, distances, weights)
            for x in range(x_first, x_last):
                by_weight = slope[x] + own[other, x] + own[slot, x + shift]
                slope[x] = -weights[x] * by_weight
            for x in range(x_first, x_last):
                shares[j] += np.float64(slope[x]) * distances[x]
            for c in range(n_colors):
                for x in range(x_first, x_last):
                    change = 2.0 * slope[x] * (planes[other, c, x] - planes[slot, c, x + shift])
                    found[j, c, x] += change
                    found[s, c, x + shift] -= change


@functools.cache
def _pair_kernel(dtype: Any, image_dtype: Any) -> Any:
    """Compile `_pair_up`, as `_kernel` does `_stream`."""
    real, image_real = numba.from_dtype(dtype), numba.from_dtype(image_dtype)
    index = types.Array(types.uint64, 1, "C")
    signature = types.void(
        types.Array(real, 3, "C"), types.uint64, types.Array(image_real, 2, "A", readonly=True),
        types.Array(types.uint8, 1, "A", readonly=True), types.uint64, types.uint64, types.uint64, image_real,
        index, index, index, index,
        types.Array(image_real, 3, "C"), *(types.Array(real, 2, "C") for _ in range(3)),
        types.Array(types.float64, 3, "C"), types.Array(types.float64, 1, "C"),
    )  # fmt: skip
    return _workers.run_apart(_compile, _pair_up, signature)


# Channels whose gradients are found at the same time, and moves of their stream between looks at the pairs:
# all iterates are kept for as long as pairs need them, which should not be for longer than the cache lasts.
_GRADIENT_CHANNELS = 4
_GRADIENT_MOVES = 8
# Pixels of a band, which a task keeps its input, output and gradients to the image of, where slabs are small.
_GRADIENT_PIXELS = 1 << 20


def gradients(
    grad: NDArray[Any],
    values: NDArray[Any],
    images: NDArray[Any],
    shape: tuple[int, ...],
    image_of: NDArray[np.intp],
    masks: NDArray[np.bool_] | None,
    zeta: float,
    kernel_size: int,
    iterations: int,
    workers: int,
    sums: NDArray[Any],
    by_values: NDArray[Any],
    by_image: NDArray[np.float64],
    by_zeta: NDArray[np.float64],
    region: NDArray[np.bool_] | None = None,
) -> None:
    """Fill by_values (I, N, C), by_image (G, N, Ci) and by_zeta (1), the latter two float64.

    grad (I, N, C) is dL/dresult, the other arguments are those of `propagate`, `sums` what it filled. W
    is symmetric: with S = diag(W 1) and P = S^-1 W, the gradient of y_t is S P^(T-t) S^-1 grad, so that
    forward steps make it, along with the values. (With D = diag(region), P is D S^-1 W.) One task streams
    both through a band of slabs.
    """
    by_values[...] = grad if region is None else np.where(region[:, None], grad, 0)
    by_image[...] = 0
    by_zeta[...] = 0
    shape, kernel_size, images = _prepared(shape, kernel_size, images, zeta)
    if values.size == 0 or kernel_size == 1:
        return
    n_slabs, slab_pixels, radius = shape[0], math.prod(shape[1:]), kernel_size // 2
    view = window(shape[1:], kernel_size)
    steps = (view.interior, view.stop, view.slabs, view.shifts)
    scale = _scale(zeta, images.dtype)
    n_channels = min(values.shape[2], _GRADIENT_CHANNELS)
    blocks = [slice(c, c + n_channels) for c in range(0, values.shape[2], n_channels)]
    reach = iterations * radius
    n_bands = -(-n_slabs // max(4 * reach, _GRADIENT_PIXELS // slab_pixels))
    n_bands = max(n_bands, min(workers // len(blocks), n_slabs // (2 * reach)))
    bounds = np.linspace(0, n_slabs, n_bands + 1).astype(int).tolist()
    no_mask, no_sums = np.empty(0, np.uint8), np.empty(0, values.dtype)
    stream = _kernel(values.dtype, images.dtype)
    pair_up = _pair_kernel(values.dtype, images.dtype)

    def one_band(i: int, block: slice, first: int, last: int) -> tuple[NDArray[Any], NDArray[Any]]:
        # Slabs that make pairs with the band's, and those that they depend on.
        pairs_first, pairs_last = max(0, first - radius), min(n_slabs, last + radius)
        begin, end = max(0, pairs_first - reach), min(n_slabs, pairs_last + reach)
        n, start, stop = end - begin, pairs_first - begin, pairs_last - begin
        pixels = slice(begin * slab_pixels, end * slab_pixels)
        g = image_of[i]
        image = images[g, pixels]
        mask = no_mask if masks is None else masks[g % len(masks), pixels].view(np.uint8)
        inside = no_mask if region is None else region[pixels].view(np.uint8)
        phi = values[i, pixels, block]
        source = np.concatenate([phi, grad[i, pixels, block] / sums[g, pixels, None]], axis=1)
        target = np.empty_like(source)
        ring = min(_GRADIENT_MOVES + reach + radius + 1, n + radius)  # what is below the image stays 0
        state = _stream_state(
            iterations, view, radius, iterations + 1, ring, source.shape[1], values.dtype, image
        )
        kept = (
            np.zeros((radius + 1, image.shape[1], view.padded), image.dtype),
            *(np.zeros((radius + 1, view.padded), values.dtype) for _ in range(2)),
            np.zeros((len(view.slabs), view.padded + _TILE), values.dtype),
        )
        found, shares = np.zeros((n, image.shape[1], view.padded)), np.zeros(n)
        paired = start
        moves = _moves(n, start, stop, reach, radius)
        for move in range(0, moves, _GRADIENT_MOVES):
            _workers.check_stop()
            next_move = min(move + _GRADIENT_MOVES, moves)
            stream(
                source, target, image, mask, inside, no_sums, n, start, stop, iterations, scale,
                *steps, *state, move, next_move,
            )  # fmt: skip
            complete = min(next_move - radius - reach, stop)
            if complete > paired:
                pair_up(
                    state[0], ring, image, mask, paired, complete, start, scale,
                    view.interior, view.slabs, view.shifts, view.runs, *kept, found, shares,
                )  # fmt: skip
                paired = complete
        inner, out = slice(first - begin, last - begin), slice(first * slab_pixels, last * slab_pixels)
        adjoint = target.reshape(n, slab_pixels, -1)[inner, :, phi.shape[1] :]
        by_values[i, out, block] = adjoint.reshape(-1, phi.shape[1]) * sums[g, out, None]
        by_pixels = found[inner][:, :, view.interior].transpose(0, 2, 1)
        return by_pixels.reshape(-1, image.shape[1]), shares[inner]

    # Scaled last and in float64: the scale may be near the largest float32 number.
    for i in range(len(values)):
        tasks = [(block, *bound) for block in blocks for bound in itertools.pairwise(bounds)]
        results = _workers.run([functools.partial(one_band, i, *task) for task in tasks], workers)
        for (_, first, last), (found, shares) in zip(tasks, results, strict=True):
            by_image[image_of[i], first * slab_pixels : last * slab_pixels] += float(scale) * found
            for share in shares.tolist():
                by_zeta += float(scale) * share
    by_zeta *= -2 / zeta
