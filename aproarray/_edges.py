"""Define the pixel graph: which pixels are neighbours, and the canonical order of their edges (tie order).

Every edge joins a pixel u to a later one v = u + offset. u and v are flat C-order indices. An edge has the id
``u << id_bits | k``, where k is the row of its offset. Ids therefore order edges by (u, v). This order breaks
ties between equal weights, on every backend. Edges that are listed, of other graphs, are ordered the same way
where they are read: `cpu/_mst.pyx`, `gpu/kernels/listed_edges.cu`.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# The kernels have room for so many axes, and later neighbours of a pixel (4-D images have up to 40).
MAX_NDIM = 8
MAX_OFFSETS = 64


class Grid(NamedTuple):
    """A pixel graph, as the backends' kernels take it."""

    shape: NDArray[np.intp]
    """Pixels along each axis (ndim,)."""
    offsets: NDArray[np.intp]
    """Steps to the later neighbours (K, ndim), in lexicographic order."""
    strides: NDArray[np.intp]
    """The same steps as differences of flat indices (K,)."""
    id_bits: int
    """Bits of an edge's id that hold k."""


@functools.lru_cache
def grid(shape: tuple[int, ...], connectivity: int) -> Grid:
    """Return the graph of an image whose neighbours are at most `connectivity` orthogonal hops apart.

    Calls with the same arguments share its arrays, which are read-only.
    """
    ndim = len(shape)
    offsets = [
        step for step in window_steps(ndim, 3) if step > (0,) * ndim and sum(map(abs, step)) <= connectivity
    ]
    if len(offsets) > MAX_OFFSETS:
        raise ValueError(
            f"connectivity={connectivity} gives a pixel {2 * len(offsets)} neighbours along {ndim} axes, "
            f"at most {2 * MAX_OFFSETS} are supported"
        )
    steps = np.array(offsets, np.intp).reshape(-1, ndim)
    arrays = np.array(shape, np.intp), steps, flat_steps(shape, offsets)
    for array in arrays:
        array.flags.writeable = False
    return Grid(*arrays, (len(offsets) - 1).bit_length())


def ends(
    shape: tuple[int, ...], connectivity: int, mask: NDArray[np.bool_] | None = None, xp: Any = np
) -> NDArray[np.intp]:
    """Return the two pixels (E, 2) of each edge of a graph, the earlier one first, in no order.

    With `mask`, both take part. Arrays are of the namespace `xp`.
    """
    numbers = xp.arange(math.prod(shape)).reshape(shape)
    found = [xp.empty((0, 2), np.intp)]
    for offset in grid(shape, connectivity).offsets.tolist():
        here = tuple(
            slice(max(-step, 0), extent - max(step, 0)) for step, extent in zip(offset, shape, strict=True)
        )
        there = tuple(
            slice(max(step, 0), extent - max(-step, 0)) for step, extent in zip(offset, shape, strict=True)
        )
        pairs = xp.stack([numbers[here].reshape(-1), numbers[there].reshape(-1)], axis=-1)
        found.append(pairs if mask is None else pairs[mask.reshape(-1)[pairs].all(-1)])
    joined: NDArray[np.intp] = xp.concatenate(found)
    return joined


def window_steps(ndim: int, kernel_size: int, dilation: int = 1) -> list[tuple[int, ...]]:
    """Return the steps to the other pixels of a window, in lexicographic order.

    A window has `kernel_size` pixels along each axis, `dilation` apart. Steps to pixels after its centre are
    above 0. They are the mirror image of the steps to pixels before it.
    """
    return box_steps((kernel_size // 2,) * ndim, dilation)


def hops(ndim: int) -> list[tuple[int, ...]]:
    """Return the steps to the pixels before and after one along each axis, in lexicographic order."""
    return [step for step in window_steps(ndim, 3) if sum(map(abs, step)) == 1]


def radii_within(shape: Sequence[int], radius: int, dilation: int = 1) -> tuple[int, ...]:
    """Return a window's radius along each axis, less what is outside the image from every pixel."""
    return tuple(min(radius, max(extent - 1, 0) // dilation) for extent in shape)


def box_steps(radii: tuple[int, ...], dilation: int = 1) -> list[tuple[int, ...]]:
    """Return the steps of a window that reaches `radii` times the dilation along the axes."""
    along = [range(-radius * dilation, radius * dilation + 1, dilation) for radius in radii]
    return [step for step in itertools.product(*along) if any(step)]


def flat_steps(shape: tuple[int, ...], steps: list[tuple[int, ...]]) -> NDArray[np.intp]:
    """Return steps along the axes of an array of `shape` as differences of flat indices.

    In an array that is padded by as much as steps reach, they are valid from every pixel.
    """
    strides = [int(np.prod(shape[axis + 1 :], dtype=np.intp)) for axis in range(len(shape))]
    return np.array([sum(map(operator.mul, step, strides)) for step in steps], np.intp)


def dilated_steps(ndim: int, dilations: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the steps of windows of three pixels along each axis, one dilation after the other."""
    return [step for dilation in dilations for step in window_steps(ndim, 3, dilation)]


def fits_32_bits(n_nodes: int, n_ids: int) -> bool:
    """Return whether 32-bit numbers hold the ids of edges, and indices of two numbers for each node."""
    return max(2 * n_nodes, n_ids) < 1 << 31
