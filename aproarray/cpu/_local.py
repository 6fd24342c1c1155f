"""Local propagation: split its stream (`_local_stream`) over threads and passes, confine it to regions."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aproarray import _zeta
from aproarray.cpu import _local_stream, _workers
from aproarray.cpu._local_regions import FIRST, Crop, crops_of

# Bytes that one stream may keep between slabs (they have to stay in the cache that the cores share), and
# channels that share its weights.
_STREAM_BYTES = 3 << 20
_STREAM_CHANNELS = 32
# Terms of window sums that take as long as a pixel of `_workers.STEP`.
_TAPS = 128


def local_propagate(
    values: NDArray[Any],
    out: NDArray[Any],
    images: NDArray[Any],
    shape: tuple[int, ...],
    image_index: NDArray[np.intp],
    masks: NDArray[np.bool_] | None,
    zeta: float,
    kernel_size: int,
    iterations: int,
    workers: int,
    sums: NDArray[Any] | None = None,
    region: NDArray[np.bool_] | None = None,
) -> None:
    """Propagate values (I, N, C) into out (I, N, C), item i along images[image_index[i]] (G, N, Ci).

    N pixels of `shape`; masks are (G or 1, N). sums (G, N), of the values' dtype, receive W 1 of the images
    that have items. Values outside of the items' region (I, N) are 0 before and after every iteration.
    """
    arguments = (
        values, out, images, shape, image_index, masks, zeta, kernel_size, iterations, workers, sums
    )  # fmt: skip
    if region is None:
        _propagate(*arguments)
    else:
        _propagate_in_regions(*arguments, region)


def _propagate(
    values: NDArray[Any],
    out: NDArray[Any],
    images: NDArray[Any],
    shape: tuple[int, ...],
    image_index: NDArray[np.intp],
    masks: NDArray[np.bool_] | None,
    zeta: float,
    kernel_size: int,
    iterations: int,
    workers: int,
    sums: NDArray[Any] | None = None,
    region: NDArray[np.bool_] | None = None,
) -> None:
    """Propagate values (I, N, C) into out (I, N, C), item i along images[image_index[i]] (G, N, Ci).

    N pixels of `shape`; masks are (G or 1, N). sums (G, N), of the values' dtype, receive W 1 of the images
    that have items. A single item may have a region (N): outside, values are 0 before and after every
    iteration. One task streams a band of slabs of some channels of one item.
    """
    if out.size == 0:
        return
    shape, radii, images = _local_stream.prepared(shape, kernel_size, images, zeta)
    if region is not None:
        values = np.where(region[:, None], values, 0)
    if not any(radii):
        out[...] = values
        if sums is not None:
            sums[...] = 1
        return
    starts = np.flatnonzero(np.diff(image_index, prepend=-1))
    if values.shape[2] == 1 and len(starts) < len(values):
        # Masks of one image are channels of one item: they share its weights.
        tasks = []
        for first, stop in itertools.pairwise([*starts, len(values)]):
            n_parts = min(stop - first, max(1, workers // len(starts)))
            bounds = np.linspace(first, stop, n_parts + 1).astype(int)
            tasks += [
                functools.partial(
                    _propagate, values[a:b].T, out[a:b].T, images, shape, image_index[a : a + 1], masks, zeta,
                    kernel_size, iterations, 1, sums if a == first else None,
                )
                for a, b in itertools.pairwise(bounds)
            ]  # fmt: skip
        _workers.run(tasks, workers)
        return
    n_slabs = shape[0]
    view = _local_stream.window(shape[1:], radii)
    steps_of = (view.interior, view.stop, view.slabs, view.shifts)
    stream = _local_stream.stream_kernel(values.dtype, images.dtype)
    scale = images.dtype.type(_zeta.inverse_square(zeta, images.dtype))
    no_mask, no_sums = np.empty(0, np.uint8), np.empty(0, values.dtype)
    inside = no_mask if region is None else region.view(np.uint8)
    # The first item of each image hands out its sums.
    summing = set() if sums is None else set(np.unique(image_index, return_index=True)[1].tolist())

    radius = radii[0]
    ring = 2 * radius + 1
    slab_bytes = view.padded * values.dtype.itemsize
    blocks = [slice(c, c + _STREAM_CHANNELS) for c in range(0, values.shape[2], _STREAM_CHANNELS)]
    channels = min(values.shape[2], _STREAM_CHANNELS)
    kept = slab_bytes * (ring * channels + radius * len(view.slabs))  # per iteration
    per_pass = int(np.clip(_STREAM_BYTES // kept, min(4, iterations), iterations))
    n_bands = max(1, min(workers // (len(values) * len(blocks)), n_slabs // max(per_pass * radius, 1)))
    bounds = np.linspace(0, n_slabs, n_bands + 1).astype(int)
    # One band may be propagated in place, as a stream reads ahead of what it writes; several may not.
    other = np.empty_like(out) if n_bands > 1 and per_pass < iterations else out

    def stream_band(
        iterations: int, first: int, last: int, source: NDArray[Any], target: NDArray[Any],
        image: NDArray[Any], mask: NDArray[Any], sums: NDArray[Any],
    ) -> None:  # fmt: skip
        n_channels = source.shape[1]
        state = _local_stream.stream_state(
            iterations, view, radius, iterations, ring, n_channels, values.dtype, image
        )
        moves = _local_stream.moves_of(n_slabs, first, last, iterations * radius, radius)
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
                    source[i, :, block], target[i, :, block], images[image_index[i]],
                    no_mask if masks is None else masks[image_index[i] % len(masks)].view(np.uint8),
                    sums[image_index[i]]  # type: ignore[index]
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


def _propagate_in_regions(
    values: NDArray[Any],
    out: NDArray[Any],
    images: NDArray[Any],
    shape: tuple[int, ...],
    image_index: NDArray[np.intp],
    masks: NDArray[np.bool_] | None,
    zeta: float,
    kernel_size: int,
    iterations: int,
    workers: int,
    sums: NDArray[Any] | None,
    region: NDArray[np.bool_],
) -> None:
    """Propagate as `_propagate` does, each item in its row of region (I, N).

    sums (G, N) receive W 1 inside the regions, and 1 elsewhere.
    """
    out[...] = 0
    if sums is not None:
        sums[...] = 1
    crops = crops_of(region, shape, kernel_size)

    def one_item(crop: Crop) -> NDArray[Any] | None:
        g, source = image_index[crop.item], crop.of(values[crop.item])
        target = np.empty_like(source)
        its_sums = None if sums is None else np.empty(source.shape[:2], sums.dtype)
        _propagate(
            source, target, crop.of(images[g]), crop.shape, FIRST,
            None if masks is None else crop.of(masks[g % len(masks)]), zeta, kernel_size, iterations,
            max(1, workers // len(crops)), its_sums, crop.of(region[crop.item])[0],
        )  # fmt: skip
        crop.view(out[crop.item])[...] = target.reshape(*crop.shape, -1)
        return its_sums

    results = _workers.run([functools.partial(one_item, crop) for crop in crops], workers)
    for crop, its_sums in zip(crops, results, strict=True):
        if sums is not None and its_sums is not None:
            target = crop.view(sums[image_index[crop.item]])
            np.copyto(target, its_sums.reshape(crop.shape), where=crop.view(region[crop.item]))
