"""PAMR and pairwise affinities on the device: kernels/neighbours.cu, for `aproarray.cpu._neighbours`."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from aproarray import _arrays, _edges, _zeta
from aproarray.gpu._arguments import REAL, SIZES, extents, images_with, items_at_once, numbers, strided
from aproarray.gpu._compile import Struct, kernel


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
    items_at_once(1, n_pixels, f"an image of shape {shape}")
    steps, of_axes = _edges.dilated_steps(len(shape), dilations), extents(shape)
    ways, n_steps = cupy.asarray(np.array(steps, np.int32)), np.uint32(len(steps))
    weights = cupy.empty((len(images), len(steps), n_pixels), images.dtype)
    kernel("neighbours", "weigh_neighbours", REAL=REAL[images.dtype], NDIM=len(shape))(
        len(images) * n_pixels, images_with(None, cupy.ascontiguousarray(images)), np.uint32(n_pixels),
        of_axes, ways, n_steps, np.uint32(len(dilations)), weights,
    )  # fmt: skip
    weights = weights.astype(values.dtype, copy=False)
    owners = numbers(_arrays.on_host(image_index))
    average = kernel("neighbours", "average_neighbours", REAL=REAL[values.dtype], NDIM=len(shape))
    # Between iterations, pixels of one channel lie side by side.
    planes = [cupy.empty((n_items, channels, n_pixels), values.dtype) for _ in range(min(iterations - 1, 2))]
    sizes, source = Struct(SIZES, n_items, n_pixels, channels), values
    for step in range(iterations):
        target = planes[step % 2].transpose(0, 2, 1) if step + 1 < iterations else out
        average(values.size, strided(source), weights, owners, sizes, of_axes, ways, n_steps, strided(target))
        source = target


def pairwise_affinities(
    images: Any,
    shape: tuple[int, ...],
    masks: Any,
    theta: float,
    radii: tuple[int, ...],
    dilation: int,
    out: Any,
    workers: int,
) -> None:
    """Fill out (G, K, N) with exp(-|I_i - I_j| / theta) of images (G, N, Ci), for K `_edges.box_steps`."""
    del workers
    if out.size == 0:
        return
    n_pixels = images.shape[1]
    items_at_once(1, n_pixels, f"an image of shape {shape}")
    steps = _edges.box_steps(radii, dilation)
    scale = images.dtype.type(_zeta.inverse(theta, images.dtype))
    masks = None if masks is None else cupy.ascontiguousarray(masks)
    kernel("neighbours", "relate_neighbours", REAL=REAL[images.dtype], NDIM=len(shape))(
        out.size, images_with(masks, cupy.ascontiguousarray(images)), np.uint32(n_pixels), extents(shape),
        cupy.asarray(np.array(steps, np.int32)), np.uint32(len(steps)), scale, out,
    )  # fmt: skip
