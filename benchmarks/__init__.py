"""Speed and memory of aproarray beside what does the same elsewhere: ``python -m benchmarks``.

One row, one comparison (`rows.py`). What others compute is first checked to be the same numbers, then both
sides are timed alternately and the median of the paired ratios is shown, which is what stays
meaningful on a machine that does other things as well.
"""
