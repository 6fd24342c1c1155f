"""Arguments of kernels: names of types, structs laid out as kernels/*.cuh declare them, parts of a batch.

A dtype named after a struct has its members in their order, under their names.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from aproarray import _edges
from aproarray.gpu._compile import Struct

# A pointer that leads nowhere.
NULL = np.uintp(0)

# The names of a type, of its bits, and their dtype.
REAL = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
KEY = {np.dtype(np.float32): "u32", np.dtype(np.float64): "u64"}
BITS: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(np.float32): np.dtype(np.uint32),
    np.dtype(np.float64): np.dtype(np.uint64),
}

# Indices on the device have 32 bits, one of which marks things.
MOST_EDGES = 1 << 31
# What one launch may take for sums or weights, in bytes: more channels, items and images take turns.
WORKING_BYTES = 1 << 30


def struct_of(**members: Any) -> np.dtype[Any]:
    """Return the dtype of a struct, by its members' names and types, laid out as C++ does."""
    fields = [(name, *(kind if isinstance(kind, tuple) else (kind,))) for name, kind in members.items()]
    return np.dtype(fields, align=True)


def struct_of_pointers(*names: str) -> np.dtype[Any]:
    """Return the dtype of a struct whose members are pointers."""
    return struct_of(**dict.fromkeys(names, np.uintp))


STRIDED = struct_of(values=np.uintp, item=np.int64, pixel=np.int64, channel=np.int64)
EXTENTS = struct_of(of=(np.uint32, (_edges.MAX_NDIM,)))
IMAGES = struct_of(pixels=np.uintp, channels=np.uint32, masks=np.uintp, n_masks=np.uint32, count=np.uint32)
SIZES = struct_of(items=np.uint32, n=np.uint32, channels=np.uint32)

NO_VALUES = Struct(STRIDED, 0, 0, 0, 0)


def strided(array: Any) -> Struct:
    """Return an (items, pixels, channels) array of any strides."""
    steps = (stride // array.itemsize for stride in array.strides)
    held = Struct(STRIDED, array.data.ptr, *steps)
    held.members = (array,)
    return held


def extents(shape: tuple[int, ...]) -> Struct:
    """Return the extents of an image, which must fit 32 bits, for kernels of any number of axes."""
    return Struct(EXTENTS, (*shape, *(1,) * (_edges.MAX_NDIM - len(shape))))


def images_with(masks: Any, images: Any) -> Struct:
    """Return images (G, N, C) and their masks (1 or G, N), or None."""
    count, _, channels = images.shape
    if masks is None:
        return Struct(IMAGES, images, channels, NULL, 1, count)
    return Struct(IMAGES, images, channels, masks, len(masks), count)


def numbers(index: Any) -> Any:
    """Return indices on the host as the device's."""
    return cupy.asarray(np.asarray(index, np.uint32))


def items_at_once(n_items: int, edges_of_item: int, what: str) -> int:
    """Return how many items of a batch are worked on in one go; an item alone must fit 32-bit indices."""
    if edges_of_item >= MOST_EDGES:
        raise ValueError(
            f"{what} has {edges_of_item} edges, the GPU backend takes fewer than 2^31: cut it into parts, or "
            "use NumPy arrays"
        )
    return max(1, min(n_items, (MOST_EDGES - 1) // max(edges_of_item, 1)))


def trees_of_items(tree_index: Any, n_trees: int) -> tuple[Any, np.uint32]:
    """Return how kernels find the items' trees: a list on the device, or null and the items of each tree.

    Nothing is copied where it can be told.
    """
    repeat = max(1, len(tree_index) // max(n_trees, 1))
    if np.array_equal(tree_index, np.repeat(np.arange(n_trees), repeat)):
        return NULL, np.uint32(repeat)
    return numbers(tree_index), np.uint32(1)


def picked(items: Any) -> Any:
    """Return consecutive items as a slice, which is a view, and others as the device's indices."""
    if len(items) and np.array_equal(items, np.arange(items[0], items[0] + len(items))):
        return slice(int(items[0]), int(items[-1]) + 1)
    return cupy.asarray(items)
