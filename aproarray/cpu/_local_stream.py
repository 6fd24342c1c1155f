"""Local propagation: window sums over slabs, which `_stream.pxi` computes.

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

import numpy as np
from numpy.typing import NDArray

from aproarray import _edges
from aproarray.cpu import _processor


class Window(NamedTuple):
    """A window over padded slabs: the half of its steps that lead to later pixels."""

    interior: NDArray[np.intp]
    """Where the pixels of a slab lie in its padded form (P,)."""
    stop: int
    """One past the last computed pixel of a padded slab; at least TILE pixels are computed."""
    padded: int
    """Length of a padded slab, with room for a vector that begins at its last pixel."""
    slabs: NDArray[np.intp]
    """Slabs from a pixel to its neighbour, for every step (K,)."""
    shifts: NDArray[np.intp]
    """Shift along the padded slab, for every step (K,)."""
    runs: NDArray[np.intp]
    """First step of every run of steps to consecutive pixels, and K."""


# Numbers of a vector, and pixels of a slab that are summed up together, at most (`_stream_loops.h`).
VECTOR = 8
TILE = 32


@functools.lru_cache(16)
def window(slab_shape: tuple[int, ...], radii: tuple[int, ...]) -> Window:
    """Return the window that reaches `radii` along the axes, over slabs of `slab_shape`."""
    padded = tuple(extent + 2 * radius for extent, radius in zip(slab_shape, radii[1:], strict=True))
    strides = [math.prod(padded[axis + 1 :]) for axis in range(len(padded))]
    inside = np.indices(slab_shape).reshape(len(slab_shape), math.prod(slab_shape))
    interior = np.array(strides, np.intp) @ (inside + np.array(radii[1:], np.intp)[:, None])
    steps = [step for step in _edges.box_steps(radii) if step > (0,) * len(radii)]
    shifts = np.array([sum(a * b for a, b in zip(step[1:], strides, strict=True)) for step in steps], np.intp)
    stop = max(int(interior[-1]) + 1, int(interior[0]) + TILE)
    return Window(
        interior,
        stop,
        stop + int(abs(shifts).max(initial=0)) + VECTOR,
        np.array([step[0] for step in steps], np.intp),
        shifts,
        np.array(
            [i for i, step in enumerate(steps) if i == 0 or step[-1] == -radii[-1]] + [len(steps)], np.intp
        ),
    )


def stream_kernel(dtype: Any, image_dtype: Any) -> Any:
    """Return `stream` of `_stream.pxi` for two dtypes."""
    return _processor.windows.stream[_NUMBERS[dtype], _NUMBERS[image_dtype]]


def pair_kernel(dtype: Any, image_dtype: Any) -> Any:
    """Return `pair_up` of `_stream.pxi` for two dtypes."""
    return _processor.windows.pair_up[_NUMBERS[dtype], _NUMBERS[image_dtype]]


_NUMBERS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


def moves_of(n_slabs: int, first: int, last: int, reach: int, radius: int) -> int:
    """Return how many moves of a stream take slabs [first, last) to their end; `radius` is that of slabs."""
    return min(n_slabs, last + reach) - max(0, first - reach) + reach + radius


class Stream(NamedTuple):
    """What a stream keeps: its memory, flat, and what that consists of; see `stream` of `_stream.pxi`."""

    state: NDArray[Any]
    """Slabs of `ring` for each level, of the values before an iteration, and two more."""
    padded: int
    ring: int
    levels: int
    weights: NDArray[Any]
    norms: NDArray[Any]
    """1 / W 1."""
    planes: NDArray[Any]
    """The image."""
    radius: int
    valid: NDArray[Any]
    """Its mask."""
    squares: NDArray[Any]
    places: NDArray[np.intp]


def stream_state(
    iterations: int, view: Window, radius: int, levels: int, ring: int, channels: int, dtype: Any,
    image: NDArray[Any],
) -> Stream:  # fmt: skip
    """Return the memory of a stream.

    The values before each of the first `levels` iterations are kept, `ring` slabs of each.
    """
    depth = iterations * radius + radius + 1  # slabs for which weights are kept
    n_steps, padded = len(view.slabs), view.padded
    return Stream(
        np.zeros((levels * ring + 2) * channels * padded, dtype),
        padded,
        ring,
        levels,
        np.zeros((depth + 1) * n_steps * padded, dtype),  # none above the image
        np.zeros(depth * padded, dtype),
        np.zeros((radius + 1) * image.shape[1] * padded, image.dtype),
        radius,
        np.zeros((radius + 1) * padded, dtype),
        np.zeros(padded, image.dtype),
        np.zeros(4 * n_steps, np.intp),
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
