"""The weights of `_weigh.pxi`, compiled for processors with AVX2; same results, bit for bit."""

include "_weigh.pxi"
