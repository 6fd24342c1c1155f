"""The tiles of `_tiles.pxi`, compiled for processors with AVX2; same results, bit for bit."""

include "_tiles.pxi"
