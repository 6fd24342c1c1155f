"""Fit the weights of probabilities: ``python -m benchmarks.fit_certainty photographs FOLDER nuclei FOLDER``.

Takes the even scenes of each set, all kinds of evidence, and every fifth pixel that is scored and no seed. A
logistic regression of "the label is right" gives the weights of `aproarray._certainty`. All scenes of a set
weigh the same, and all sets and kinds do. ``benchmarks.quality --certainty --half odd`` judges them on the
others.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from aproarray import _certainty, _labels, cpu
from benchmarks.quality import propagated
from benchmarks.scenes import SETS, Scene

Array = NDArray[Any]

EVERY = 5  # pixels


def evidence(scene: Scene, seeds: Array) -> tuple[Array, Array]:
    """Return what the weights of a scene's pixels multiply (n, 5), and whether their labels are right (n)."""
    heard: list[tuple[Any, ...]] = []

    def tally(*arguments: Any) -> None:
        labels, held, maps, coarse, block, _, _, _, shares, _ = arguments
        heard.append((labels, held, maps, coarse, block, shares.copy()))

    with mock.patch.object(cpu, "tally", tally):
        propagated(scene, seeds, return_full_prob=True)
    ((labels, held, maps, coarse, block, votes),) = heard
    truth = np.pad(scene.regions, _labels._RADIUS).reshape(-1)
    pixels = np.flatnonzero((truth > 0) & (held == 0) & (labels > 0))[::EVERY]
    own, others = labels[pixels], coarse[block[pixels]]
    agreed = (maps[:, pixels] == own).mean(0)
    known = others[:, :-1] > 0
    share = (others[:, :-1] == own[:, None]).sum(1) / np.maximum(known.sum(1), 1)
    terms = [
        np.ones(len(pixels)),
        np.where(known.any(1), share, agreed),
        np.where(others[:, -1] > 0, others[:, -1] == own, agreed),
        agreed,
        votes[pixels, own - 1],
    ]
    return np.stack(terms, 1), np.unique(seeds[seeds > 0])[own - 1] == truth[pixels]


def regression(terms: Array, right: Array, weights: Array) -> Array:
    """Return the coefficients of a logistic regression, by Newton's method."""
    found = np.zeros(terms.shape[1])
    for _ in range(30):
        probability = 1 / (1 + np.exp(-terms @ found))
        slope = terms.T @ (weights * (right - probability)) - 1e-6 * found
        curvature = (terms * (weights * probability * (1 - probability))[:, None]).T @ terms
        found = found + np.linalg.solve(curvature + 1e-6 * np.eye(len(found)), slope)
    return found


def main() -> None:
    """Fit, and print the weights."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fit_certainty",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("sets", nargs="+", metavar="SET FOLDER", help=f"pairs; sets are {', '.join(SETS)}")
    parser.add_argument("--limit", type=int, metavar="N", help="N scenes of each set")
    options = parser.parse_args()
    if len(options.sets) % 2 or not set(options.sets[::2]) <= set(SETS):
        parser.error(f"expected pairs of a set ({', '.join(SETS)}) and its folder")
    parts: list[tuple[Array, Array, Array]] = []
    for name, folder in zip(options.sets[::2], options.sets[1::2], strict=True):
        scenes = list(itertools.islice(SETS[name].read(Path(folder)), 0, None, 2))[: options.limit]
        for kind, scene in itertools.product(SETS[name].evidence, scenes):
            terms, right = evidence(scene, scene.evidence[kind])
            parts.append((terms, right, np.full(len(right), 1 / max(len(right), 1) / len(scenes))))
        print(f"{name}: {len(scenes)} scenes", file=sys.stderr)
    print("fitted:", regression(*map(np.concatenate, zip(*parts, strict=True))).round(2).tolist())
    print("in use:", _certainty._WEIGHTS.tolist())


if __name__ == "__main__":
    main()
