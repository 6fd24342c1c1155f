"""The evidence of `_settle.pxi`, compiled for processors with AVX2; same results, bit for bit."""

include "_settle.pxi"
