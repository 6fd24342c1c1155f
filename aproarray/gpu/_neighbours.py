"""PAMR and pairwise affinities on the device: kernels/neighbours.cu, for `aproarray.cpu._neighbours`."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from aproarray import _arrays, _edges, _zeta
from aproarray.gpu._compile import kernel
from aproarray.gpu._global import _strided
from aproarray.gpu._trees import _NULL, _REAL, items_at_once


def _extents(shape: tuple[int, ...]) -> tuple[np.uint32, ...]:
    items_at_once(1, int(np.prod(shape)), f"an image of shape {shape}")
    return tuple(map(np.uint32, (*shape, *(1,) * (_edges.MAX_NDIM - len(shape)))))


def _steps(steps: list[tuple[int, ...]]) -> Any:
    return cupy.asarray(np.array(steps, np.int32))


def pamr(
    values: Any,
    out: Any,
    images: Any,
    shape: tuple[int, ...],
    image_index: Any,
    dilations: tuple[int, ...],
    iterations: int,
    workers: int,
) -> None:
    """Average values (I, N, C) into out, item i on image image_index[i] of images (G, N, Ci)."""
    del workers
    if out.size == 0:
        return
    if iterations == 0:
        out[...] = values
        return
    n_items, n_pixels, channels = values.shape
    extents, steps = _extents(shape), _edges.dilated_steps(len(shape), dilations)
    ways, n_steps = _steps(steps), np.uint32(len(steps))
    weights = cupy.empty((len(images), len(steps), n_pixels), images.dtype)
    kernel("neighbours", "weigh_neighbours", REAL=_REAL[images.dtype], NDIM=len(shape))(
        len(images) * n_pixels, cupy.ascontiguousarray(images), np.uint32(len(images)), np.uint32(n_pixels),
        np.uint32(images.shape[2]), *extents, ways, n_steps, np.uint32(len(dilations)), weights,
    )  # fmt: skip
    weights = weights.astype(values.dtype, copy=False)
    owners = cupy.asarray(np.asarray(_arrays.on_host(image_index), np.uint32))
    average = kernel("neighbours", "average_neighbours", REAL=_REAL[values.dtype], NDIM=len(shape))
    # Between iterations, pixels of one channel lie side by side.
    planes = [cupy.empty((n_items, channels, n_pixels), values.dtype) for _ in range(min(iterations - 1, 2))]
    source = values
    for step in range(iterations):
        target = planes[step % 2].transpose(0, 2, 1) if step + 1 < iterations else out
        average(
            values.size, *_strided(source), weights, owners, np.uint32(n_items), np.uint32(n_pixels),
            np.uint32(channels), *extents, ways, n_steps, *_strided(target),
        )  # fmt: skip
        source = target


def pairwise_affinities(
    images: Any,
    shape: tuple[int, ...],
    masks: Any,
    theta: float,
    kernel_size: int,
    dilation: int,
    out: Any,
    workers: int,
) -> None:
    """Fill out (G, K, N) with exp(-|I_i - I_j| / theta) of images (G, N, Ci) for the K steps of a window."""
    del workers
    if out.size == 0:
        return
    steps = _edges.window_steps(len(shape), kernel_size, dilation)
    scale = images.dtype.type(_zeta.inverse(theta, images.dtype))
    kernel("neighbours", "relate_neighbours", REAL=_REAL[images.dtype], NDIM=len(shape))(
        out.size, cupy.ascontiguousarray(images), np.uint32(len(images)), np.uint32(images.shape[1]),
        np.uint32(images.shape[2]), _NULL if masks is None else cupy.ascontiguousarray(masks),
        np.uint32(1 if masks is None else len(masks)), *_extents(shape), _steps(steps),
        np.uint32(len(steps)), scale, out,
    )  # fmt: skip
