"""The moves of `_stream.pxi`, compiled for processors with AVX2 and FMA."""

include "_stream.pxi"
