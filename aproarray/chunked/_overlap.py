"""Chunks with as much around them as a pixel sees."""

from __future__ import annotations

from typing import Any, NamedTuple

from dask.array.overlap import ensure_minimum_chunksize, overlap

from aproarray.chunked._arguments import Chunks
from aproarray.chunked._boxes import Index, Shape


class Surroundings(NamedTuple):
    """How far chunks overlap along each spatial axis."""

    depths: Shape
    chunks: Chunks
    """Those of the image; smaller ones than it takes are put together."""

    def inner(self, index: Index) -> tuple[slice, ...]:
        """Return where a chunk's own pixels are among those around them."""
        found = []
        for i, depth, along in zip(index, self.depths, self.chunks, strict=True):
            before = depth if i else 0
            found.append(slice(before, before + along[i]))
        return tuple(found)

    def around(self, array: Any, first: int) -> Any:
        """Return an array, spatial axes from `first` on, whose chunks overlap."""
        array = array.rechunk({first + axis: along for axis, along in enumerate(self.chunks)})
        depth = dict.fromkeys(range(array.ndim), 0)
        depth |= {first + axis: reach for axis, reach in enumerate(self.depths)}
        return overlap(array, depth=depth, boundary="none", allow_rechunk=False)


def surroundings(chunks: Chunks, reach: int) -> Surroundings:
    """Return how chunks overlap by so many pixels, or by all that there are."""
    depths = tuple(min(reach, sum(along)) for along in chunks)
    wide = tuple(
        ensure_minimum_chunksize(depth, along) if depth else along
        for depth, along in zip(depths, chunks, strict=True)
    )
    return Surroundings(depths, wide)
