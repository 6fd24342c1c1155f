"""The evidence of `_settle.pxi`, compiled for any processor of the platform."""

include "_settle.pxi"
