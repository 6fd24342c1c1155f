"""Probabilities of labels, from what witnesses say of them. See `aproarray._certainty`."""

from libc.math cimport exp
from libc.stdint cimport int32_t


def tally(
    const int32_t[::1] labels, const unsigned char[::1] held, const int32_t[:, ::1] maps,
    const int32_t[:, ::1] coarse, const int32_t[::1] block, const int32_t[::1] zones,
    const float[:, ::1] common, const double[::1] weights, float[:, ::1] shares,
    Py_ssize_t first, Py_ssize_t last,
):
    """Turn the votes of pixels [first, last) into probabilities, in place of `shares` (N, n_labels).

    `labels` (N) are those that were chosen, from 1 on. Those of `held` pixels are certain. Witnesses are
    `maps` (M, N), and `coarse` (n, K + 1) where pixel i is `block`[i]; the last one knows of distance alone.
    Below 1 they know nothing. The chosen label's probability is the logistic function of
    `weights`[0], and of `weights`[1:] times: the share of the K coarse maps that agree, whether the last
    one does, the share of the maps that agree, the share of votes. The other labels share the rest: by the
    witnesses that name them, and by `common` (n_zones, n_labels), their shares of the pixel's zone (no
    `zones`: all are one). None of them gets as much as the chosen one.
    """
    cdef Py_ssize_t i, m, k, n_maps = maps.shape[0], n_coarse = coarse.shape[1] - 1
    cdef Py_ssize_t n_labels = shares.shape[1]
    cdef int32_t own, other, zone, known, agreeing
    cdef double evidence, agreed, probability, total, largest
    cdef float *row
    cdef const int32_t *witnesses
    with nogil:
        for i in range(first, last):
            own = labels[i] - 1
            if own < 0 or held[i]:
                continue
            row, witnesses = &shares[i, 0], &coarse[block[i], 0]
            zone = zones[i] if zones.shape[0] else 0
            evidence = weights[0] + weights[4] * row[own]
            for k in range(n_labels):
                row[k] = common[zone, k]
            agreeing = 0
            for m in range(n_maps):
                other = maps[m, i] - 1
                if other == own:
                    agreeing += 1
                elif other >= 0:
                    row[other] += 1
            agreed = agreeing / <double> n_maps
            evidence += weights[3] * agreed
            known = agreeing = 0
            for m in range(n_coarse):
                other = witnesses[m] - 1
                if other < 0:
                    continue
                known += 1
                if other == own:
                    agreeing += 1
                else:
                    row[other] += 1
            evidence += weights[1] * (agreeing / <double> known if known else agreed)
            other = witnesses[n_coarse] - 1
            if other < 0:
                evidence += weights[2] * agreed
            elif other == own:
                evidence += weights[2]
            else:
                row[other] += 1
            row[own] = 0
            total = largest = 0
            for k in range(n_labels):
                total += row[k]
                largest = max(largest, row[k])
            if total == 0:
                row[own] = 1
                continue
            # As much as the next label gets when the two are equal, and a little more.
            probability = max(1 / (1 + exp(-evidence)), 1.0001 * largest / (total + largest))
            for k in range(n_labels):
                row[k] = <float> (row[k] * (1 - probability) / total)
            row[own] = <float> probability
