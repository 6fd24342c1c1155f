"""Count the clicks until masks are good: ``python -m benchmarks.clicks [SET [FOLDER]]``.

A user is simulated who looks for the largest error: the largest connected piece of wrong pixels of a region.
The user clicks at its innermost pixel. A disk of radius 3 (in volumes a ball of radius 1) gets the region's
label, as far as it lies in the region. The first click is in the largest piece of a region, as all pixels are
wrong then. Regions of less than `--smallest` of the image, which hardly anybody would click at, do not count.
Clicks are counted until the mean IoU of the regions is `--target`, and at most `--most` of them.
Sets and folders are those of benchmarks.quality. "ms" is the median and the 90th percentile of the
processor time of an answer, on one thread, after all that depends on the image alone is computed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage import measure, segmentation

import aproarray
from benchmarks import machine, peers
from benchmarks.quality import mean_iou
from benchmarks.scenes import SETS, Scene, depth, disk

Array = NDArray[Any]
Answer = Callable[[Array], Array]


class Session(NamedTuple):
    """How a simulated user got on with a scene."""

    clicks: int
    reached: bool
    ious: list[float]
    seconds: list[float]


def without_small(scene: Scene, share: float) -> Scene:
    """Return a scene in which regions of less than a share of the pixels are not scored."""
    sizes = np.bincount(scene.regions.ravel())
    kept = np.flatnonzero((sizes >= share * scene.regions.size) & (np.arange(len(sizes)) > 0))
    number_of = np.zeros(len(sizes), np.int64)
    number_of[kept] = np.arange(len(kept)) + 1
    return scene._replace(regions=number_of[scene.regions])


def largest_error(labels: Array, regions: Array) -> Array | None:
    """Return the largest connected piece of a region's wrong pixels; None if all pixels are right."""
    pieces = measure.label(np.where(labels == regions, 0, regions), background=0, connectivity=1)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return pieces == sizes.argmax() if sizes.any() else None


def click(error: Array, regions: Array) -> tuple[Array, int]:
    """Return the pixels that a click in the middle of an error marks, and their label."""
    at = np.unravel_index(depth(error).argmax(), error.shape)
    label = int(regions[at])
    return disk(at, regions == label), label


def session(scene: Scene, answer: Answer, target: float, most: int) -> Session:
    """Click until the mean IoU is the target's, or so many times."""
    seeds = np.zeros(scene.regions.shape, np.int64)
    labels, iou = seeds, 0.0
    ious: list[float] = []
    seconds: list[float] = []
    while iou < target and len(ious) < most:
        error = largest_error(labels, scene.regions)
        if error is None:
            break
        marked, label = click(error, scene.regions)
        seeds[marked] = label
        start = time.process_time()
        labels = answer(seeds)
        seconds.append(time.process_time() - start)
        iou = mean_iou(labels, scene)
        ious.append(iou)
    return Session(len(ious), iou >= target, ious, seconds)


def propagator(scene: Scene) -> Answer:
    """Prepare ours."""
    ready = aproarray.LabelPropagator(scene.image, channel_axis=scene.channel_axis, spacing=scene.spacing)
    return lambda seeds: ready.propagate(seeds, workers=1)


def watershed(scene: Scene) -> Answer:
    """Prepare scikit-image's watershed."""
    gradient = peers.gradient(scene, 1.0)
    return lambda seeds: segmentation.watershed(gradient, seeds)


def random_walker(scene: Scene) -> Answer:
    """Return scikit-image's random walker, which prepares nothing; of one label it makes a plain image."""

    def answer(seeds: Array) -> Array:
        if len(np.unique(seeds)) < 3:
            return np.full_like(seeds, seeds.max())
        return peers.random_walker(scene, seeds)

    return answer


METHODS: dict[str, Callable[[Scene], Answer]] = {
    "**`LabelPropagator`**": propagator,
    "skimage `watershed`, gradient of sigma 1": watershed,
}
SLOW: dict[str, Callable[[Scene], Answer]] = {"skimage `random_walker`, beta 130": random_walker}


def line(name: str, sessions: list[Session]) -> str:
    """Return a row of the table."""
    clicks = np.array([one.clicks for one in sessions])
    seconds = np.concatenate([one.seconds for one in sessions])
    after = [float(np.mean([(one.ious[:n] or [0.0])[-1] for one in sessions])) for n in (10, 20)]
    missed = sum(not one.reached for one in sessions)
    cells = [
        f"{clicks.mean():.1f}",
        f"{np.median(clicks):.0f}",
        f"{missed}",
        *(f"{iou:.3f}" for iou in after),
    ]
    cells += [f"{1e3 * np.quantile(seconds, q):.0f}" for q in (0.5, 0.9)]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Simulate, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.clicks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("set", nargs="?", choices=SETS, default="photographs", help=", ".join(SETS))
    parser.add_argument("folder", nargs="?", type=Path, help="generated scenes without one")
    parser.add_argument("--limit", type=int, default=12, metavar="N", help="the first N scenes (default 12)")
    parser.add_argument("--target", type=float, default=0.8, metavar="IOU", help="mean IoU (default 0.8)")
    parser.add_argument("--most", type=int, default=100, metavar="N", help="clicks on a scene (default 100)")
    parser.add_argument(
        "--smallest", type=float, default=0.01, metavar="SHARE", help="of the image (default 0.01)"
    )
    parser.add_argument("--random-walker", action="store_true", help="score it as well: many minutes")
    options = parser.parse_args()
    if not 0 < options.target <= 1:
        parser.error(f"--target must be above 0 and at most 1, got {options.target}")
    if not 0 <= options.smallest < 1:
        parser.error(f"--smallest must be at least 0 and below 1, got {options.smallest}")
    if min(options.limit, options.most) < 1:
        parser.error("--limit and --most must be at least 1")
    set_ = SETS[options.set]
    read = set_.generate() if options.folder is None else set_.read(options.folder)
    scenes = [without_small(scene, options.smallest) for scene in itertools.islice(read, options.limit)]
    if not scenes:
        parser.error(f"{options.folder} has no scenes; expected {set_.layout}")
    methods = {**METHODS, **(SLOW if options.random_walker else {})}
    n_regions = sum(int(scene.regions.max()) for scene in scenes)
    sessions: dict[str, list[Session]] = {name: [] for name in methods}
    for number, scene in enumerate(scenes, 1):
        for name, prepare in methods.items():
            answer = prepare(scene)
            sessions[name].append(session(scene, answer, options.target, options.most))
        print(f"\r{number} of {len(scenes)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for name, value in machine.describe().items():
        print(f"{name}: {value}")
    kind = options.set if options.folder else f"{options.set}, generated"
    print(f"\n{kind}: {len(scenes)} scenes, {n_regions} regions\n")
    print(f"| | clicks to {options.target:g} | median | missed | IoU at 10 | IoU at 20 | ms | ms, 90 % |")
    print("|---|" + "---:|" * 7)
    for name, rows in sessions.items():
        print(line(name, rows))


if __name__ == "__main__":
    main()
