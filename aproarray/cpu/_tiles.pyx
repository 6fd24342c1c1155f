"""The tiles of `_tiles.pxi`, compiled for any processor of the platform."""

include "_tiles.pxi"
