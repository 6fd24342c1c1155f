"""Probabilities of labels, from what witnesses say of them. See `aproarray._certainty`."""

from libc.math cimport exp
from libc.stdint cimport int32_t

cdef enum:
    MAX_WITNESSES = 64


cdef struct Named:
    # Labels (from 0) that witnesses name instead of the chosen one, and how many do.
    Py_ssize_t labels[MAX_WITNESSES]
    int times[MAX_WITNESSES]
    int n


cdef inline void name(Named *named, Py_ssize_t label) noexcept nogil:
    cdef int m = 0
    while m < named.n and named.labels[m] != label:
        m += 1
    if m == named.n:
        named.labels[m] = label
        named.times[m] = 0
        named.n += 1
    named.times[m] += 1


def tally(
    const int32_t[::1] labels, const unsigned char[::1] held, const int32_t[:, ::1] maps,
    const int32_t[:, ::1] coarse, const int32_t[::1] block, const int32_t[::1] zones,
    const float[:, ::1] common, const double[::1] weights, float[:, :] shares,
    Py_ssize_t first, Py_ssize_t last,
):
    """Turn the votes of pixels [first, last) into probabilities, in place of `shares` (N, n_labels).

    `labels` (N) are those that were chosen, from 1 on. Those of `held` pixels are certain. Witnesses are
    `maps` (M, N), and `coarse` (n, K + 1) where pixel i is `block`[i]; the last one knows of distance alone.
    Below 1 they know nothing. The chosen label's probability is the logistic function of `weights`[0], and of
    `weights`[1:] times: the share of the K coarse maps that agree, whether the last one does, the share of
    the maps that agree, the share of votes. The other labels share the rest: by the witnesses that name
    them, and by `common` (n_zones, n_labels), their shares of the pixel's zone (no `zones`: all are one).
    None of them gets as much as the chosen one.
    """
    cdef Py_ssize_t i, k, own, zone, n_labels = shares.shape[1]
    cdef Py_ssize_t m, n_maps = maps.shape[0], n_coarse = coarse.shape[1] - 1
    cdef int agreeing, known
    cdef double evidence, agreed, probability, total, largest
    cdef const int32_t *witnesses
    cdef Named named
    if n_maps + n_coarse + 1 > MAX_WITNESSES:
        raise ValueError(f"{n_maps + n_coarse + 1} witnesses are too many, at most {MAX_WITNESSES}")
    with nogil:
        for i in range(first, last):
            own = labels[i] - 1
            if own < 0 or held[i]:
                continue
            zone = zones[i] if zones.shape[0] else 0
            evidence = weights[0] + weights[4] * shares[i, own]
            named.n = agreeing = 0
            for m in range(n_maps):
                if maps[m, i] - 1 == own:
                    agreeing += 1
                elif maps[m, i] > 0:
                    name(&named, maps[m, i] - 1)
            agreed = agreeing / <double> n_maps
            evidence += weights[3] * agreed
            witnesses = &coarse[block[i], 0]
            known = agreeing = 0
            for m in range(n_coarse):
                if witnesses[m] > 0:
                    known += 1
                    if witnesses[m] - 1 == own:
                        agreeing += 1
                    else:
                        name(&named, witnesses[m] - 1)
            evidence += weights[1] * (agreeing / <double> known if known else agreed)
            if witnesses[n_coarse] <= 0:
                evidence += weights[2] * agreed
            elif witnesses[n_coarse] - 1 == own:
                evidence += weights[2]
            else:
                name(&named, witnesses[n_coarse] - 1)

            total = largest = 0
            for k in range(n_labels):
                if k != own:
                    total += common[zone, k]
                    largest = max(largest, common[zone, k])
            for m in range(named.n):
                total += named.times[m]
                largest = max(largest, named.times[m] + common[zone, named.labels[m]])
            if total == 0:  # there is no other label
                shares[i, own] = 1
                continue
            # At least as much as the next label would get if both had the same, and a little more.
            probability = max(1 / (1 + exp(-evidence)), 1.0001 * largest / (total + largest))
            total = (1 - probability) / total
            for k in range(n_labels):
                shares[i, k] = <float> (common[zone, k] * total)
            for m in range(named.n):
                k = named.labels[m]
                shares[i, k] = <float> ((named.times[m] + common[zone, k]) * total)
            shares[i, own] = <float> probability
