"""The sweeps of `_sweep.pxi`, compiled for processors with AVX2; same results, bit for bit."""

include "_sweep.pxi"
