"""Local propagation: window sums over slabs, compiled by Numba for each window size.

A *slab* is what remains of an image at one index of its first spatial axis: a row of pixels in 2-D,
a plane in 3-D. Slabs are padded by the window's radius and flattened, so that a step inside a window
is a number of slabs and a shift along the slab, whatever the dimension.

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
    padded: int
    """Length of a padded slab."""
    slabs: NDArray[np.uintp]
    """Slabs from a pixel to its neighbour, for every step (K,)."""
    shifts: NDArray[np.intp]
    """Shift along the padded slab, for every step (K,), consecutive within a run."""
    runs: NDArray[np.uintp]
    """First step of every run of kernel_size consecutive steps (the first run: of radius steps)."""


def window(slab_shape: tuple[int, ...], kernel_size: int) -> Window:
    """Return the window of `kernel_size` pixels along every axis, over slabs of `slab_shape`."""
    radius = kernel_size // 2
    padded = tuple(extent + 2 * radius for extent in slab_shape)
    strides = [math.prod(padded[axis + 1 :]) for axis in range(len(padded))]
    inside = np.indices(slab_shape).reshape(len(slab_shape), math.prod(slab_shape)) + radius
    ndim = 1 + len(slab_shape)
    steps = [step for step in _grid.window_steps(ndim, kernel_size) if step > (0,) * ndim]
    return Window(
        (np.array(strides, np.intp) @ inside).astype(np.uintp),
        math.prod(padded),
        np.array([step[0] for step in steps], np.uintp),
        np.array([sum(a * b for a, b in zip(step[1:], strides, strict=True)) for step in steps], np.intp),
        np.array([i for i, step in enumerate(steps) if i == 0 or step[-1] == -radius], np.uintp),
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
def _weigh(here, there, valid_here, valid_there, first, last, shift, scale, distances, weights):
    """weights[x] <- exp(-|here[:, x] - there[:, x + shift]|^2 scale) where both pixels are valid."""
    for x in range(first, last):
        distances[x] = 0
    for c in range(here.shape[0]):
        for x in range(first, last):
            difference = here[c, x] - there[c, x + shift]
            distances[x] += difference * difference
    if weights.itemsize == 4:
        for x in range(first, last):
            weights[x] = _exp(np.float32(-distances[x] * scale)) * valid_here[x] * valid_there[x + shift]
    else:
        for x in range(first, last):
            weights[x] = math.exp(-distances[x] * scale) * valid_here[x] * valid_there[x + shift]


@_compile
def _add_run(totals, ahead, behind, c, two, weights, weights_behind, step, run, shift, first, last):
    """Add consecutive steps of the window, as many as the tuple `run` is long, to totals[:, first:last].

    totals[0] are channel c's, totals[1], if there are two, those of c + 1. Each step counts twice: ahead
    and, as its mirror image, behind. A tuple's length is part of its type, so that the compiler unrolls the
    steps.
    """
    if two:  # for whom a weight is loaded once
        for x in range(first, last):
            sum_ = totals[0, x]
            sum2 = totals[1, x]
            for i in range(np.uint64(len(run))):
                there = x + shift + i
                back = x - shift - i
                w = weights[step + i, x]
                w_behind = weights_behind[step + i, back]
                sum_ += w * ahead[c, there] + w_behind * behind[c, back]
                sum2 += w * ahead[c + np.uint64(1), there] + w_behind * behind[c + np.uint64(1), back]
            totals[0, x] = sum_
            totals[1, x] = sum2
    else:
        for x in range(first, last):
            sum_ = totals[0, x]
            for i in range(np.uint64(len(run))):
                there = x + shift + i
                back = x - shift - i
                w = weights[step + i, x]
                w_behind = weights_behind[step + i, back]
                sum_ += w * ahead[c, there] + w_behind * behind[c, back]
            totals[0, x] = sum_


# All indices are unsigned: Numba wraps negative ones round, at the price of the vector loop.
def _stream(
    source, target, image, mask, sums, iterates, done, n_slabs, band_first, band_last, iterations, scale,
    interior, padded, step_slabs, step_shifts, runs, half_run, full_run,
    state, weights, norms, planes, valid, move_first, move_last,
):  # fmt: skip
    """Take slabs [band_first, band_last) of source (N, C) through `iterations` into target (N, C).

    The stream is made of `_moves`, and this call makes some of them: [move_first, move_last). What it keeps
    between them is the `_stream_state`. sums (N), where it is not empty, receives W 1 of the band, and
    iterates (slabs, T, C, padded) the values after each iteration but the last, from index done + 1 on, 0
    outside the mask. The tuples half_run and full_run are as long as the window's first run and its others.
    """
    one = np.uint64(1)
    zero = np.uint64(0)
    radius = np.uint64(len(half_run))
    size = np.uint64(len(full_run))
    n_channels = np.uint64(source.shape[1])
    n_steps = np.uint64(len(step_slabs))
    slab_pixels = np.uint64(len(interior))
    x_first, x_last = interior[0], interior[slab_pixels - one] + one
    reach = iterations * radius
    begin = band_first - reach if band_first > reach else zero
    end = min(n_slabs, band_last + reach)
    depth = reach + radius + one

    distances = np.zeros(padded, image.dtype)
    totals = np.zeros((2, padded), source.dtype)
    nothing = np.zeros((n_channels, padded), source.dtype)

    for s in range(begin + move_first, begin + move_last):
        # The image enters `radius` slabs before the values, for the weights between slabs.
        if s < end:
            slot = s % (radius + one)
            for p in range(slab_pixels):
                pixel = s * slab_pixels + p
                takes_part = len(mask) == 0 or mask[pixel] != 0
                valid[slot, interior[p]] = takes_part
                for c in range(np.uint64(image.shape[1])):
                    planes[slot, c, interior[p]] = image[pixel, c] if takes_part else 0
        if s < begin + radius:
            continue
        entering = s - radius
        if entering < end:
            here = entering % (radius + one)
            slot = entering % depth
            for step in range(n_steps):
                there = entering + step_slabs[step]
                if there < end:
                    other = there % (radius + one)
                    _weigh(
                        planes[here], planes[other], valid[here], valid[other],
                        x_first, x_last, step_shifts[step], scale, distances, weights[slot, step],
                    )  # fmt: skip
                else:
                    weights[slot, step] = 0
            slot = entering % size
            for p in range(slab_pixels):
                pixel = entering * slab_pixels + p
                takes_part = len(mask) == 0 or mask[pixel] != 0
                for c in range(n_channels):
                    state[zero, slot, c, interior[p]] = source[pixel, c] if takes_part else 0

        for t in range(one, iterations + one):
            # The slabs of iteration t that the band still depends on.
            margin = (iterations - t) * radius
            t_first = band_first - margin if band_first > margin else zero
            t_last = min(n_slabs, band_last + margin)
            if entering < t * radius + t_first or entering >= t * radius + t_last:
                continue
            j = entering - t * radius
            if t == one:
                norms[j % depth] = 1
                for run in range(np.uint64(len(runs))):
                    step = runs[run]
                    for i in range(radius if run == zero else size):
                        shift = step_shifts[step + i]
                        w = weights[j % depth, step + i]
                        d = step_slabs[step + i]
                        for x in range(x_first, x_last):
                            norms[j % depth, x] += w[x]
                        if j >= begin + d:
                            w = weights[(j - d) % depth, step + i]
                            for x in range(x_first, x_last):
                                norms[j % depth, x] += w[x - shift]
                if len(sums) != 0 and j >= band_first and j < band_last:
                    for p in range(slab_pixels):
                        sums[j * slab_pixels + p] = norms[j % depth, interior[p]]
                for x in range(x_first, x_last):
                    norms[j % depth, x] = 1 / norms[j % depth, x]
            norm = norms[j % depth]
            for c in range(zero, n_channels, np.uint64(2)):
                two = c + one < n_channels
                for i in range(np.uint64(2) if two else one):
                    for x in range(x_first, x_last):
                        totals[i, x] = state[t - one, j % size, c + i, x]
                for run in range(np.uint64(len(runs))):
                    step = runs[run]
                    d = step_slabs[step]
                    ahead = state[t - one, (j + d) % size]
                    if j >= begin + d:
                        behind = state[t - one, (j - d) % size]
                        weights_behind = weights[(j - d) % depth]
                    else:  # above the image: no weight, whatever lies in the buffers
                        behind = nothing
                        weights_behind = weights[j % depth]
                    if run == zero:
                        _add_run(
                            totals, ahead, behind, c, two, weights[j % depth], weights_behind,
                            step, half_run, step_shifts[step], x_first, x_last,
                        )  # fmt: skip
                    else:
                        _add_run(
                            totals, ahead, behind, c, two, weights[j % depth], weights_behind,
                            step, full_run, step_shifts[step], x_first, x_last,
                        )  # fmt: skip
                for i in range(np.uint64(2) if two else one):
                    total = totals[i]
                    if t < iterations:
                        following = state[t, j % size, c + i]
                        for x in range(x_first, x_last):
                            following[x] = total[x] * norm[x]
                        if len(iterates) != 0 and j >= band_first and j < band_last:
                            kept = iterates[j, done + t, c + i]
                            for x in range(padded):
                                kept[x] = following[x]
                    else:
                        for p in range(slab_pixels):
                            pixel = j * slab_pixels + p
                            if len(mask) == 0 or mask[pixel] != 0:
                                target[pixel, c + i] = total[interior[p]] * norm[interior[p]]
                            else:
                                target[pixel, c + i] = source[pixel, c + i]


@functools.cache
def _kernel(kernel_size: int, dtype: Any, image_dtype: Any) -> Any:
    """Compile `_stream` for a window size and the two dtypes, whatever the arrays' strides.

    The signature is given, so that neither strides nor read-only arrays lead to further compilations.
    The disk cache finds it again by the signature: nothing compiled here may be a closure.
    """
    real, image_real = numba.from_dtype(dtype), numba.from_dtype(image_dtype)

    def strided(scalar: Any, readonly: bool) -> Any:
        return types.Array(scalar, 2, "A", readonly=readonly)

    index = types.Array(types.uint64, 1, "C")
    signature = types.void(
        strided(real, True), strided(real, False), strided(image_real, True),
        types.Array(types.uint8, 1, "A", readonly=True), types.Array(real, 1, "C"), types.Array(real, 4, "C"),
        types.uint64, types.uint64, types.uint64, types.uint64, types.uint64, image_real,
        index, types.uint64, index, index, index,
        numba.typeof((0,) * (kernel_size // 2)), numba.typeof((0,) * kernel_size),
        types.Array(real, 4, "C"), types.Array(real, 3, "C"), types.Array(real, 2, "C"),
        types.Array(image_real, 3, "C"), types.Array(real, 2, "C"), types.uint64, types.uint64,
    )  # fmt: skip
    return _workers.run_apart(_compile, _stream, signature)


def _moves(n_slabs: int, first: int, last: int, reach: int, radius: int) -> int:
    """Return how many moves of a stream take slabs [first, last) to their end."""
    return min(n_slabs, last + reach) - max(0, first - reach) + reach + radius


def _stream_state(
    iterations: int, view: Window, kernel_size: int, channels: int, dtype: Any, image: NDArray[Any]
) -> tuple[NDArray[Any], ...]:
    """Return what a stream keeps: values after each iteration, weights, 1 / W 1, the image and its mask."""
    radius = kernel_size // 2
    depth = iterations * radius + radius + 1  # slabs for which weights are kept
    return (
        np.zeros((iterations, kernel_size, channels, view.padded), dtype),
        np.zeros((depth, len(view.slabs), view.padded), dtype),
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
    iterates: NDArray[Any] | None = None,
) -> None:
    """Propagate values (I, N, C) into out (I, N, C), item i along images[image_of[i]] (G, N, Ci).

    N pixels of `shape`; masks are (G or 1, N). sums (G, N), of the values' dtype, receive W 1 of the images
    that have items. iterates (slabs, iterations + 1, C, padded) receive the values of one item before and
    after each iteration, as `_pad` pads them. One task streams a band of slabs of some channels of one item.
    """
    if out.size == 0:
        return
    shape, kernel_size, images = _prepared(shape, kernel_size, images, zeta)
    if kernel_size == 1:
        out[...] = values
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
    shifts = view.shifts.astype(np.uintp)  # modulo 2^64
    stream = _kernel(kernel_size, values.dtype, images.dtype)
    half_run, full_run = (0,) * (kernel_size // 2), (0,) * kernel_size
    scale = _scale(zeta, images.dtype)
    no_mask, no_sums = np.empty(0, np.uint8), np.empty(0, values.dtype)
    no_iterates = np.empty((0, 0, 0, 0), values.dtype)
    # The first item of each image hands out its sums.
    summing = set() if sums is None else set(np.unique(image_of, return_index=True)[1].tolist())

    radius = kernel_size // 2
    slab_bytes = view.padded * values.dtype.itemsize
    blocks = [slice(c, c + _STREAM_CHANNELS) for c in range(0, values.shape[2], _STREAM_CHANNELS)]
    channels = min(values.shape[2], _STREAM_CHANNELS)
    kept = slab_bytes * (kernel_size * channels + radius * len(shifts))  # per iteration
    per_pass = int(np.clip(_STREAM_BYTES // kept, min(4, iterations), iterations))
    n_bands = max(1, min(workers // (len(values) * len(blocks)), n_slabs // (per_pass * radius)))
    bounds = np.linspace(0, n_slabs, n_bands + 1).astype(int)
    # One band may be propagated in place, as a stream reads ahead of what it writes; several may not.
    other = np.empty_like(out) if n_bands > 1 and per_pass < iterations else out

    def keep(index: int, values: NDArray[Any]) -> None:
        if iterates is not None:
            mask = None if masks is None else masks[image_of[0] % len(masks)]
            _pad(values, shape, radius, mask, iterates[:, index])

    def stream_band(
        iterations: int, first: int, last: int, source: NDArray[Any], target: NDArray[Any],
        image: NDArray[Any], *given: Any,
    ) -> None:  # fmt: skip
        n_channels = source.shape[1]
        state = _stream_state(iterations, view, kernel_size, n_channels, values.dtype, image)
        moves = _moves(n_slabs, first, last, iterations * radius, radius)
        taps = 2 * len(shifts) * len(view.interior) * iterations * n_channels
        for move in _workers.ranges(moves, 1, taps / _TAPS):
            _workers.check_stop()
            stream(
                source, target, image, *given, n_slabs, first, last, iterations, scale,
                view.interior, view.padded, view.slabs, shifts, view.runs, half_run, full_run,
                *state, *move,
            )  # fmt: skip

    source = values
    keep(0, values[0])
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
                    no_iterates if iterates is None else iterates, done,
                )
                for i in range(len(values))
                for block in blocks
                for first, last in itertools.pairwise(bounds.tolist())
            ],
            workers,
        )  # fmt: skip
        keep(done + steps, target[0])
        source = target


def _pad(
    values: NDArray[Any],
    shape: tuple[int, ...],
    radius: int,
    mask: NDArray[np.bool_] | None,
    out: NDArray[Any],
) -> None:
    """Fill out (slabs, C, padded) with values (N, C), N pixels of `shape`; 0 around and outside the mask."""
    out[...] = 0
    inside = out.reshape(*out.shape[:2], *(extent + 2 * radius for extent in shape[1:]))
    place: tuple[Any, ...] = (..., *(slice(radius, radius + extent) for extent in shape[1:]))
    where = True if mask is None else mask.reshape(shape)[:, None]
    np.copyto(inside[place], np.moveaxis(values.reshape(*shape, values.shape[1]), -1, 1), where=where)


@_compile
def _add_pairs(slopes, a_here, a_there, y_here, y_there, run, shift, first, last):
    """slopes[i, x] += (a_x - a_z) (y_z - y_x) for the pixels z = x + shift + i, as many as `run` is long."""
    for x in range(first, last):
        for i in range(np.uint64(len(run))):
            there = x + shift + i
            slopes[i, x] += (a_here[x] - a_there[there]) * (y_there[there] - y_here[x])


def _pair_gradients(
    iterates, image, mask, first, last, scale,
    interior, padded, step_slabs, step_shifts, runs, half_run, full_run, out,
):  # fmt: skip
    """Add to out (M, Ci) what pairs of pixels say of slabs [first, last) of an image (M, Ci).

    iterates (slabs, T + 1, 2 C, padded) are y_0 to y_T in the first C channels, and the gradients of y_T
    to y_0, divided by W 1, in the others. The normalised sums y_t+1 = W y_t / W 1 make of a weight

        dL/dW_ij = sum_t a_ti (y_tj - y_t+1,i) + a_tj (y_ti - y_t+1,j)
                 = sum_t (a_ti - a_tj) (y_tj - y_ti) + own_i + own_j,  own_i = sum_t a_ti (y_ti - y_t+1,i)

    for both of its places in W. Returns sum_ij dL/d(d_ij) d_ij over the pairs that begin in those slabs,
    d_ij = |I_i - I_j|^2.
    """
    n_slabs, n_iterations, n_channels = len(iterates), iterates.shape[1] - 1, iterates.shape[2] // 2
    n_colors = image.shape[1]
    slab_pixels = len(interior)
    x_first, x_last = interior[0], interior[slab_pixels - 1] + np.uint64(1)
    ring = len(half_run) + 1  # slabs that a pair may join
    begin, end = max(0, first - ring + 1), min(n_slabs, last + ring - 1)

    planes = np.zeros((ring, n_colors, padded), image.dtype)
    valid = np.zeros((ring, padded), iterates.dtype)
    own = np.zeros((ring, padded), iterates.dtype)
    distances = np.zeros(padded, image.dtype)
    weights = np.zeros(padded, iterates.dtype)
    slopes = np.zeros((len(full_run), padded), iterates.dtype)
    found = np.zeros((end - begin, n_colors, padded), np.float64)
    total = 0.0

    for s in range(begin, end):
        slot = s % ring
        for p in range(slab_pixels):
            pixel, x = s * slab_pixels + p, interior[p]
            valid[slot, x] = len(mask) == 0 or mask[pixel] != 0
            for c in range(n_colors):
                planes[slot, c, x] = image[pixel, c] if valid[slot, x] else 0
        own[slot] = 0
        for t in range(n_iterations):
            for c in range(n_channels):
                a, y = iterates[s, n_iterations - 1 - t, n_channels + c], iterates[s, t, c]
                after = iterates[s, t + 1, c]
                for x in range(x_first, x_last):
                    own[slot, x] += a[x] * (y[x] - after[x])
        for run in range(len(runs)):
            first_step = runs[run]
            n_steps = len(full_run) if run else len(half_run)
            j = s - np.int64(step_slabs[first_step])
            if j < begin:
                continue
            slopes[:n_steps] = 0
            shift = step_shifts[first_step]
            for t in range(n_iterations):
                back = n_iterations - 1 - t
                for c in range(n_channels):
                    a_here, a_there = iterates[j, back, n_channels + c], iterates[s, back, n_channels + c]
                    y_here, y_there = iterates[j, t, c], iterates[s, t, c]
                    if run:
                        _add_pairs(slopes, a_here, a_there, y_here, y_there, full_run, shift, x_first, x_last)
                    else:
                        _add_pairs(slopes, a_here, a_there, y_here, y_there, half_run, shift, x_first, x_last)
            other = j % ring
            for i in range(n_steps):
                shift = step_shifts[first_step + np.uint64(i)]
                slope = slopes[i]
                _weigh(
                    planes[other], planes[slot], valid[other], valid[slot],
                    x_first, x_last, shift, scale, distances, weights,
                )  # fmt: skip
                for x in range(x_first, x_last):
                    by_weight = slope[x] + own[other, x] + own[slot, x + shift]
                    slope[x] = -weights[x] * by_weight
                if first <= j < last:
                    for x in range(x_first, x_last):
                        total += np.float64(slope[x]) * distances[x]
                for c in range(n_colors):
                    for x in range(x_first, x_last):
                        change = 2.0 * slope[x] * (planes[other, c, x] - planes[slot, c, x + shift])
                        found[j - begin, c, x] += change
                        found[s - begin, c, x + shift] -= change
    # Scaled last and in float64: the scale may be near the largest float32 number.
    for s in range(first, last):
        for p in range(slab_pixels):
            for c in range(n_colors):
                out[s * slab_pixels + p, c] += scale * found[s - begin, c, interior[p]]
    return scale * total


@functools.cache
def _pair_kernel(kernel_size: int, dtype: Any, image_dtype: Any) -> Any:
    """Compile `_pair_gradients`, as `_kernel` does `_stream`."""
    real, image_real = numba.from_dtype(dtype), numba.from_dtype(image_dtype)
    index = types.Array(types.uint64, 1, "C")
    signature = types.float64(
        types.Array(real, 4, "C"), types.Array(image_real, 2, "A", readonly=True),
        types.Array(types.uint8, 1, "A", readonly=True), types.int64, types.int64, image_real,
        index, types.uint64, index, index, index,
        numba.typeof((0,) * (kernel_size // 2)), numba.typeof((0,) * kernel_size),
        types.Array(types.float64, 2, "C"),
    )  # fmt: skip
    return _workers.run_apart(_compile, _pair_gradients, signature)


# Channels whose iterates are kept at the same time, and how many bytes of them, where slabs are small.
_GRADIENT_CHANNELS = 4
_GRADIENT_BYTES = 160 << 20


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
) -> None:
    """Fill by_values (I, N, C), by_image (G, N, Ci) and by_zeta (1), the latter two float64.

    grad (I, N, C) is dL/dresult, the other arguments are those of `propagate`, `sums` what it filled. W
    is symmetric: with S = diag(W 1) and P = S^-1 W, the gradient of y_t is S P^(T-t) S^-1 grad, so that
    forward steps make it, along with the values. One task keeps all iterates of a band of slabs, with the
    slabs around it that the band depends on.
    """
    by_values[...] = grad
    by_image[...] = 0
    by_zeta[...] = 0
    shape, kernel_size, images = _prepared(shape, kernel_size, images, zeta)
    if values.size == 0 or kernel_size == 1:
        return
    n_slabs, slab_pixels, radius = shape[0], math.prod(shape[1:]), kernel_size // 2
    view = window(shape[1:], kernel_size)
    shifts = view.shifts.astype(np.uintp)
    scale = _scale(zeta, images.dtype)
    n_channels = min(values.shape[2], _GRADIENT_CHANNELS)
    blocks = [slice(c, c + n_channels) for c in range(0, values.shape[2], n_channels)]
    margin = (iterations + 1) * radius
    kept = 2 * (iterations + 1) * n_channels * slab_pixels * values.itemsize
    n_bands = -(-n_slabs // max(2 * margin, _GRADIENT_BYTES // kept - 2 * margin))
    bounds = np.linspace(0, n_slabs, n_bands + 1).astype(int).tolist()
    no_mask = np.empty(0, np.uint8)
    pair_gradients = _pair_kernel(kernel_size, values.dtype, images.dtype)

    def one_band(i: int, block: slice, first: int, last: int) -> tuple[NDArray[np.float64], float]:
        begin, end = max(0, first - margin), min(n_slabs, last + margin)
        pixels = slice(begin * slab_pixels, end * slab_pixels)
        g = image_of[i]
        image = images[g, pixels]
        mask = None if masks is None else masks[g % len(masks), pixels]
        band = (end - begin, *shape[1:])
        phi = values[i, pixels, block]
        upstream = grad[i, pixels, block] / sums[g, pixels, None]
        start = np.concatenate([phi, upstream], axis=1)
        result = np.empty_like(start)
        iterates = np.empty((end - begin, iterations + 1, start.shape[1], view.padded), values.dtype)
        propagate(
            start[None], result[None], image[None], band, np.zeros(1, np.intp),
            None if mask is None else mask[None], zeta, kernel_size, iterations, 1, iterates=iterates,
        )  # fmt: skip
        inner = slice((first - begin) * slab_pixels, (last - begin) * slab_pixels)
        target = slice(first * slab_pixels, last * slab_pixels)
        by_values[i, target, block] = result[inner, phi.shape[1] :] * sums[g, target, None]
        found = np.zeros(image.shape)
        total = pair_gradients(
            iterates, image, no_mask if mask is None else mask.view(np.uint8),
            first - begin, last - begin, scale, view.interior, view.padded, view.slabs, shifts, view.runs,
            (0,) * radius, (0,) * kernel_size, found,
        )  # fmt: skip
        return found[inner], total

    for i in range(len(values)):
        tasks = [(block, *bound) for block in blocks for bound in itertools.pairwise(bounds)]
        results = _workers.run([functools.partial(one_band, i, *task) for task in tasks], workers)
        for (_, first, last), (found, share) in zip(tasks, results, strict=True):
            by_image[image_of[i], first * slab_pixels : last * slab_pixels] += found
            by_zeta += share
    by_zeta *= -2 / zeta
