"""The weights of `_weigh.pxi`, compiled for any processor of the platform."""

include "_weigh.pxi"
