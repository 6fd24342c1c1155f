"""Score masks and their time beside other packages': ``python -m benchmarks.quality [SET [FOLDER]]``.

Prints the tables of docs/quality.md. Without FOLDER, the scenes are generated, so that anybody can run it;
without SET, those of all sets are. Evidence is made of the regions that are true:

* scribble: the skeleton of each region's largest piece, kept 3 pixels off its border (1 in volumes);
* slices: the same in every fifth slice of a volume, for each region of the slice;
* point: a disk of radius 3 at the innermost pixel of each region (in volumes a ball of radius 1);
* coarse: the segmentation averaged over 16 x 16 patches, one patch in five having the scores of another;
* sparse, detailed: strokes of people, two sets for each image.

The score is the mean IoU of a scene's regions. "Halves" are its means over even and odd scenes. Methods are
called in turns on one thread: "s" is the median of a method's processor time for a scene, "times ours" the
median of its ratios to the first row's.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import aproarray
from aproarray import _labels, _relief, _sure, related
from benchmarks import machine, peers
from benchmarks.scenes import PATCH, SETS, Scene
from benchmarks.timing import Skip

Array = NDArray[Any]
Method = Callable[[Scene, Array], Array]


def mean_iou(labels: Array, scene: Scene) -> float:
    """Return the intersection over union of labels with a scene's regions, averaged over the regions."""
    classes = range(1, scene.regions.max() + 1) if scene.scored is None else scene.scored
    return related.mean_iou(labels, scene.regions, classes=classes, ignore_index=0)


def propagated(scene: Scene, seeds: Array, **options: Any) -> Array:
    """Return the labels, or with return_full_prob the shares, that ours makes of seeds."""
    return aproarray.propagate_labels(
        scene.image, seeds, channel_axis=scene.channel_axis, spacing=scene.spacing, workers=1, **options
    )


def refined(scene: Scene, scores: Array, **options: Any) -> Array:
    """Return the labels of refined scores."""
    return aproarray.refine(scene.image, scores, workers=1, **options).argmax(-1) + 1


def refined_patches(scene: Scene, scores: Array) -> Array:
    """Return the labels of scores that are refined from one for each patch."""
    return refined(scene, scores[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH])


def with_changes(method: Method, *changes: tuple[Any, str, Any], **options: Any) -> Method:
    """Return a method for which attributes of modules are others."""

    def changed(scene: Scene, evidence: Array) -> Array:
        with contextlib.ExitStack() as stack:
            for module, name, value in changes:
                stack.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, value)
            return method(scene, evidence, **options)

    return changed


def combined(combine: Callable[[Array], Array]) -> tuple[Any, str, Any]:
    """Return a change: the same relief three times, made of the three."""
    original = _relief.over_what_is_usual

    def three_times(*arguments: Any) -> Array:
        return np.repeat(combine(original(*arguments))[None], 3, axis=0)

    return _relief, "over_what_is_usual", three_times


OF_SEEDS: dict[str, Method] = {
    "**`propagate_labels`**": propagated,
    "one relief: the finest": with_changes(propagated, combined(lambda r: r[1])),
    "one relief: the middle one": with_changes(propagated, combined(lambda r: r[0])),
    "one relief: the coarsest": with_changes(propagated, combined(lambda r: r[2])),
    "one relief: their sum": with_changes(propagated, combined(lambda r: r.sum(0))),
    "gradients as they are": with_changes(
        propagated, (_relief, "over_what_is_usual", lambda gradients, *_: gradients)
    ),
    "usual: over 8 pixels": with_changes(propagated, (_relief, "_AROUND", (2, 4, 8, 8))),
    "usual: over 26 pixels": with_changes(propagated, (_relief, "_AROUND", (4, 8, 16, 32))),
    "RGB": with_changes(propagated, convert2lab=False),
    "two scales that agree, else the middle one": with_changes(propagated, (_labels, "STRENGTH", 0.0)),
    "strength halved": with_changes(propagated, (_labels, "STRENGTH", 6.0)),
    "strength doubled": with_changes(propagated, (_labels, "STRENGTH", 24.0)),
    "no sure pixels": with_changes(propagated, (_sure, "step_between", lambda *_: None)),
    "no votes": with_changes(propagated, (_labels, "_VOTES", (0, 0))),
    "1 vote": with_changes(propagated, (_labels, "_VOTES", (1, 1))),
    "20 votes": with_changes(propagated, (_labels, "_VOTES", (20, 20))),
    "zeta of votes halved": with_changes(propagated, (_labels, "_ZETA_STEPS", 1.5)),
    "zeta of votes doubled": with_changes(propagated, (_labels, "_ZETA_STEPS", 6.0)),
}
OF_SCORES: dict[str, Method] = {
    "**`refine`**": refined,
    "unrefined": lambda scene, scores: scores.argmax(-1) + 1,
    "`refine` of one score for each patch": refined_patches,
    **{
        f'mode="{mode}"': with_changes(refined, mode=mode)
        for mode in ("global", "global-local", "local-global", "parallel")
    },
    "20 iterations": with_changes(refined, iterations=20),
    "100 iterations": with_changes(refined, iterations=100),
    "zeta 1 step": with_changes(refined, (_labels, "_REFINE_STEPS", 1.0)),
    "zeta 3 steps": with_changes(refined, (_labels, "_REFINE_STEPS", 3.0)),
}


class Call(NamedTuple):
    """A method's score on a scene and the seconds that it took."""

    score: float
    seconds: float


def called(
    methods: dict[str, Method], scenes: list[Scene], kinds: list[str]
) -> dict[str, dict[str, list[Call]]]:
    """Call the methods in turns, after one call each that does not count. Return calls by name and kind."""
    calls: dict[str, dict[str, list[Call]]] = {name: {kind: [] for kind in kinds} for name in methods}
    for kind, (number, scene) in itertools.product(kinds, enumerate(scenes)):
        for name, method in methods.items():
            if number == 0 and kind == kinds[0]:
                method(scene, scene.evidence[kind])
            start = time.process_time()
            labels = method(scene, scene.evidence[kind])
            seconds = time.process_time() - start
            calls[name][kind].append(Call(mean_iou(labels, scene), seconds))
        print(f"\r{kind}: {number + 1} of {len(scenes)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return calls


def halves(scores: list[float]) -> str:
    """Return a mean, and those of even and odd scenes."""
    parts = [part for part in (scores[::2], scores[1::2]) if part]
    return f"{np.mean(scores):.3f} | {' '.join(f'{np.mean(part):.3f}' for part in parts)}"


def table(calls: dict[str, dict[str, list[Call]]], kinds: list[str]) -> list[str]:
    """Return the lines of a table of scores and seconds."""
    lines = [
        f"| | {' | '.join(f'{kind} | halves' for kind in kinds)} | s | times ours |",
        "|---|" + "---:|---|" * len(kinds) + "---:|---:|",
    ]
    (first, *_) = calls.values()
    ours = np.array([call.seconds for kind in kinds for call in first[kind]])
    for name, by_kind in calls.items():
        seconds = np.array([call.seconds for kind in kinds for call in by_kind[kind]])
        scores = [halves([call.score for call in by_kind[kind]]) for kind in kinds]
        ratio = float(np.median(seconds / ours))
        lines.append(f"| {name} | {' | '.join(scores)} | {np.median(seconds):.3g} | {ratio:.3g} |")
    return lines


# --- certainty --------------------------------------------------------------------------------------------

BINS = 15  # of confidence, equally wide


def auroc(confidence: Array, wrong: Array) -> float:
    """Return the share of pairs of a wrong and a right pixel in which the wrong one has less confidence.

    Equals count half. NaN if no pixel is wrong, or none right.
    """
    n_wrong, n = int(wrong.sum()), wrong.size
    if n_wrong in (0, n):
        return float("nan")
    _, at, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # of equals: their mean
    lower = float(ranks[at][wrong].sum()) - n_wrong * (n_wrong + 1) / 2  # pairs whose right one has less
    return 1 - lower / (n_wrong * (n - n_wrong))


def calibration_error(confidence: Array, right: Array) -> float:
    """Return the mean distance of confidence and the share of right pixels, over bins of confidence."""
    at = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(at, confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / confidence.size)


def certainty(
    scenes: list[Scene], kind: str, shares: Method, labels: Method
) -> tuple[float, float, float, float]:
    """Return the AUROC of errors, the calibration error of all pixels and by scene, and a ratio of times.

    The first and the third are means over scenes. Pixels that are seeds or not scored do not count. The ratio
    is that of shares to labels alone.
    """
    areas, errors, ratios = [], [], []
    every: list[tuple[Array, Array]] = []
    for number, scene in enumerate(scenes):
        seeds = scene.evidence[kind]
        for _ in range(2 if number == 0 else 1):
            start = time.process_time()
            labels(scene, seeds)
            between = time.process_time()
            found = shares(scene, seeds)
            end = time.process_time()
        ratios.append((end - between) / (between - start))
        counted = (seeds == 0) & (scene.regions > 0)
        confidence = found.max(0)[counted].astype(np.float64)
        chosen = np.unique(seeds[seeds > 0])[found.argmax(0)[counted]]
        right = chosen == scene.regions[counted]
        areas.append(auroc(confidence, ~right))
        errors.append(calibration_error(confidence, right))
        every.append((confidence, right))
    pooled = calibration_error(*map(np.concatenate, zip(*every, strict=True)))
    return float(np.nanmean(areas)), pooled, float(np.mean(errors)), float(np.median(ratios))


CERTAIN: dict[str, tuple[Method, Method]] = {
    "**`propagate_labels`**": (
        lambda scene, seeds: propagated(scene, seeds, return_full_prob=True),
        propagated,
    ),
    "skimage `random_walker`, beta 130": (
        lambda scene, seeds: peers.random_walker(scene, seeds, return_full_prob=True),
        peers.random_walker,
    ),
}


def print_certainty(scenes: list[Scene], kinds: list[str], only: str) -> None:
    """Print how well shares tell where labels are wrong."""
    print(
        "| return_full_prob | evidence | AUROC of errors | calibration error | of each scene | times labels |"
    )
    print("|---|---|---:|---:|---:|---:|")
    for name, (shares, labels) in CERTAIN.items():
        slow = labels is not propagated and scenes[0].regions.size > peers.SLOW_BEYOND
        if only in name and not slow:
            for kind in kinds:
                area, pooled, each, ratio = certainty(scenes, kind, shares, labels)
                print(
                    f"| {name} | {kind} | {area:.3f} | {pooled:.3f} | {each:.3f} | {ratio:.2f} |", flush=True
                )
    print()


# --- the command ------------------------------------------------------------------------------------------


def of_peers(scenes: list[Scene], only: str, without: str | None) -> tuple[dict[str, Method], list[str]]:
    """Return ours and the peers that can be called on scenes, and why the others cannot."""
    methods: dict[str, Method] = {"**`propagate_labels`**": propagated}
    if all(scene.edges is not None for scene in scenes):
        methods["**`propagate_labels`, `edges=`**"] = lambda scene, seeds: propagated(
            scene, seeds, edges=peers.edges_of(scene)
        )
    skipped = []
    for name, peer in peers.PEERS.items():
        if only not in name or (without is not None and without in name):
            continue
        try:
            peers.ready(peer, scenes)
        except Skip as reason:
            skipped.append(f"{name}: {reason}")
        else:
            methods[name] = peer.call
    return methods, skipped


def main() -> None:
    """Score, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        epilog="sets, and the layout of their folders:\n"
        + "\n".join(f"  {name}: {one.what}\n      {one.layout}" for name, one in SETS.items()),
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("set", nargs="?", choices=SETS, metavar="SET", help=", ".join(SETS))
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="generated scenes without one")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N scenes")
    parser.add_argument(
        "--half", choices=("even", "odd"), help="scenes 0, 2, 4 ... or 1, 3, 5 ..., of which N are taken"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="peers or rows whose name has it")
    parser.add_argument("--without", metavar="TEXT", help="peers whose name has it are left out")
    parser.add_argument("--ablations", action="store_true", help="rows that change one part of ours each")
    parser.add_argument("--certainty", action="store_true", help="what return_full_prob is worth")
    options = parser.parse_args()
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit must be at least 1, got {options.limit}")
    for name, value in machine.describe().items():
        print(f"{name}: {value}")
    for name in [options.set] if options.set else SETS:
        set_ = SETS[name]
        read = set_.generate() if options.folder is None else set_.read(options.folder)
        start, step = {None: (0, 1), "even": (0, 2), "odd": (1, 2)}[options.half]
        scenes = list(itertools.islice(itertools.islice(read, start, None, step), options.limit))
        if not scenes:
            parser.error(f"{options.folder} has no scenes; expected {set_.layout}")
        n_regions = sum(int(scene.regions.max()) for scene in scenes)
        print(
            f"\n{name}{'' if options.folder else ', generated'}: {len(scenes)} scenes, {n_regions} regions\n"
        )
        kinds = list(set_.evidence)
        if options.certainty:
            print_certainty(scenes, kinds, options.only)
            continue
        skipped: list[str] = []
        if options.ablations:
            rows = {
                row: method for row, method in OF_SEEDS.items() if options.only in row or method is propagated
            }
        else:
            rows, skipped = of_peers(scenes, options.only, options.without)
        print(*table(called(rows, scenes, kinds), kinds), sep="\n", flush=True)
        print("", *(f"Not called: {reason}." for reason in skipped), sep="\n")
        if "coarse" in scenes[0].evidence and (options.ablations or not options.only):
            rows = dict(itertools.islice(OF_SCORES.items(), None if options.ablations else 3))
            print("", *table(called(rows, scenes, ["coarse"]), ["coarse"]), sep="\n", flush=True)


if __name__ == "__main__":
    main()
