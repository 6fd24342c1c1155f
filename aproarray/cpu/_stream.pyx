"""The moves of `_stream.pxi`, compiled for any processor of the platform."""

include "_stream.pxi"
