"""The paper's comparisons in small: ``python -m benchmarks.paper_tables``, from the repository's root.

The paper is W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023. It trains
networks on Pascal VOC and COCO. Here, the methods refine given scores on scenes composed of bundled pictures
(those of examples/train_weak_segmentation.py), whose masks are known.
"""

from __future__ import annotations

import argparse
import math
import shlex
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

import aproarray
from aproarray.related import mean_field, pamr, tree_filter
from benchmarks import inputs, machine
from benchmarks.timing import check_equal, paired

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from train_weak_segmentation import VOID, annotate, generate

Array = NDArray[Any]

N_CLASSES = 4
PATCH = 8
# The published scales, for images normalised by ImageNet's mean and standard deviation, which is 0.226. The
# tree filter's is the tree energy loss's sigma of 0.02, for images in [0, 1].
GLOBAL, SEMANTIC, LOCAL = 0.01, 0.07, 0.15
TREE_FILTER = math.sqrt(0.02) / 0.226


class Table(NamedTuple):
    """A table of the paper, as it came out here."""

    title: str
    what: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    paper: str
    why: str


@numba.njit(cache=True)
def _search_from_each(first: Array, ends: Array, affinities: Array, values: Array, out: Array) -> None:
    """GP by its definition: walk the tree from each pixel; the least affinity on the way is a pair's."""
    n, channels = values.shape
    queue, origin, least = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n)
    total = np.empty(channels)
    for i in range(n):
        queue[0], origin[0], least[0] = i, -1, 1.0
        last, z = 1, 0.0
        total[:] = 0
        for place in range(n):
            if place == last:
                break
            node = queue[place]
            z += least[place]
            for c in range(channels):
                total[c] += least[place] * values[node, c]
            for end in range(first[node], first[node + 1]):
                if ends[end] != origin[place]:
                    queue[last], origin[last] = ends[end], node
                    least[last] = min(least[place], affinities[end])
                    last += 1
        for c in range(channels):
            out[i, c] = total[c] / z


def propagate_by_search(values: Array, tree: aproarray.SpanningTree, zeta: float) -> Array:
    """Return GP of values (H, W, C) by a breadth-first search from each pixel: O(N^2 C)."""
    ends = np.concatenate([tree.edges, tree.edges[:, ::-1]]).astype(np.int64)
    affinities = np.exp(-np.tile(tree.weights, 2).astype(np.float64) / zeta**2)
    order = np.argsort(ends[:, 0], kind="stable")
    n = tree.order.size
    first = np.searchsorted(ends[order, 0], np.arange(n + 1))
    out = np.empty((n, values.shape[-1]))
    _search_from_each(first, ends[order, 1], affinities[order], values.reshape(n, -1).astype(np.float64), out)
    return out.reshape(values.shape)


def table_8(sides: Sequence[int]) -> Table:
    """Return the time of GP by its definition and by our sweeps."""
    rows = []
    photograph = inputs.astronaut()
    propagate_by_search(np.zeros((2, 2, 1)), aproarray.mst(np.zeros((2, 2))), 1.0)  # compiles
    for side in sides:
        step = 512 // side
        image = np.ascontiguousarray(photograph[::step, ::step])
        values = inputs.values((side, side, 1))
        tree = aproarray.mst(image, workers=1)

        def ours(values: Array = values, tree: aproarray.SpanningTree = tree) -> Array:
            return aproarray.global_propagate(values, tree, zeta=0.1, workers=1)

        def by_search(values: Array = values, tree: aproarray.SpanningTree = tree) -> Array:
            return propagate_by_search(values, tree, 0.1)

        first, start = ours(), time.perf_counter()
        found, searching = by_search(), [time.perf_counter() - start]
        check_equal(first, found, 1e-4, f"GP of {side} x {side} pixels")
        if searching[0] < 10:
            sweeping, searching = paired(ours, by_search, 3)
        else:  # minutes: once is enough
            sweeping, _ = paired(ours, lambda: None, 5)
        fast, slow = (1e3 * statistics.median(seconds) for seconds in (sweeping, searching))
        building, _ = paired(lambda image=image: aproarray.mst(image, workers=1), lambda: None, 5)
        rows.append(
            (
                f"{side} x {side}",
                f"{slow:.0f}",
                f"{fast:.3g}",
                f"{1e3 * statistics.median(building):.3g}",
                f"{slow / fast:.0f}",
            )
        )
    return Table(
        "Table 8: GP with and without an efficient algorithm",
        """One channel over a photograph at several sizes, on one thread. The tree is given. Both sides give
        the same numbers (checked). Numba compiles the search. The last size is about that of the paper: a
        quarter of its images' sides. A search of more than ten seconds is run once.""",
        ("pixels", "search from each pixel, ms", "ours, ms", "the tree, ms", "ratio"),
        rows,
        """times of GP with and without its Algorithm 1: 4300 ms and 0.8 ms on the average, on a GeForce RTX
        3090, one image at a time.""",
        """A search visits N pixels from each of N pixels. Four times the pixels take sixteen times as long,
        and longer once they do not fit a cache. Ours takes two sweeps. A GPU searches from many pixels at
        once, but from as many in total.""",
    )


class Scenes(NamedTuple):
    """Scenes in the layout of the verbs."""

    images: Array
    """Normalised by ImageNet's mean and standard deviation, (B, H, W, 3)."""
    masks: Array
    """Classes (B, H, W)."""
    coarse: Array
    """Scores of classes (B, H, W, C): averages over patches, one patch in five with those of another."""
    scribbles: Array
    """Scores that are 1 for the class of a scribble's pixels, and 0 elsewhere."""
    trees: aproarray.SpanningTree


def scenes(count: int, side: int) -> Scenes:
    """Compose scenes and what is told of them."""
    rng = np.random.default_rng(0)
    made = generate(count, side, seed=0)
    images = np.ascontiguousarray(np.moveaxis(made.images.numpy(), 1, -1))
    masks = made.masks.numpy()
    one_hot = np.eye(N_CLASSES, dtype=np.float32)
    n = side // PATCH
    patches = one_hot[masks].reshape(count, n, PATCH, n, PATCH, N_CLASSES).mean((2, 4))
    wrong = rng.random((count, n, n)) < 0.2
    shuffled = rng.permuted(patches.reshape(count, n * n, N_CLASSES), axis=1).reshape(patches.shape)
    patches = np.where(wrong[..., None], shuffled, patches)
    coarse = patches.repeat(PATCH, 1).repeat(PATCH, 2)
    told = annotate(made.masks, "scribbles", seed=0).labels.numpy()
    scribbles = np.where((told == VOID)[..., None], 0, one_hot[np.where(told == VOID, 0, told)])
    return Scenes(images, masks, coarse, scribbles.astype(np.float32), aproarray.mst(images))


def mean_iou(scores: Array, masks: Array) -> float:
    """Return the mean over classes of intersection over union, counted over all scenes, in percent."""
    labels = scores.argmax(-1)
    counts = np.bincount(N_CLASSES * masks.ravel() + labels.ravel(), minlength=N_CLASSES**2)
    counts = counts.reshape(N_CLASSES, N_CLASSES)
    either = counts.sum(0) + counts.sum(1) - counts.diagonal()
    return 100 * float((counts.diagonal() / either)[either > 0].mean())


def table_6(given: Scenes, iterations: Sequence[int]) -> Table:
    """Return the quality of LP and of mean field over their iterations."""
    methods: dict[str, Callable[[int], Array]] = {
        "LP, 5 x 5, zeta 0.15": lambda n: aproarray.local_propagate(
            given.coarse, given.images, zeta=LOCAL, kernel_size=5, iterations=n
        ),
        "LP, 3 x 3, zeta 0.15": lambda n: aproarray.local_propagate(
            given.coarse, given.images, zeta=LOCAL, kernel_size=3, iterations=n
        ),
        "mean field, 3 x 3, zeta 0.1 (as published)": lambda n: mean_field(
            given.coarse, given.images, zeta=0.1, kernel_size=3, iterations=n
        ),
        "mean field, LP's window and affinities": lambda n: mean_field(
            given.coarse, given.images, zeta=LOCAL / math.sqrt(2), kernel_size=5, iterations=n
        ),
    }
    rows = []
    for name, method in methods.items():
        method(1)  # compiles
        start = time.perf_counter()
        method(20)
        elapsed = time.perf_counter() - start
        qualities = (mean_iou(method(n) if n else given.coarse, given.masks) for n in iterations)
        rows.append(
            (name, *(f"{quality:.1f}" for quality in qualities), f"{1e3 * elapsed / len(given.images):.2g}")
        )
    return Table(
        "Table 6: local propagation and mean field over iterations",
        f"""Mean IoU in percent of refined coarse scores: averages over {PATCH} x {PATCH} pixels, where one
        patch in five has the scores of another patch. Mean field takes each class as a mask of its own. Times
        are for 20 iterations over one scene.""",
        ("method", *(f"{n} it." for n in iterations), "ms"),
        rows,
        """the mask AP of networks trained with either term on Pascal VOC. LP has 35.8, 36.0, 35.7 and 35.6
        after 10, 20, 30 and 50 iterations. Mean field has 35.2, 35.5, 35.5 and 35.9 after 20, 30, 50 and
        100. LP therefore does not gain there after 20 iterations, and mean field gains slowly.""",
        """LP averages linearly, and more steps let evidence travel further. Mean field multiplies the
        neighbours' votes, and is held within [0.1, 0.9]. It decides after a few steps, for right scores and
        for wrong ones, and then stands still. The larger the window, the more the first vote decides. In the
        paper, a network learns from the result and changes its own scores. Scores that are refined once
        cannot change.""",
    )


def table_5(given: Scenes) -> Table:
    """Return the quality of what is made of coarse scores and of scribbles."""

    def once(scores: Array) -> Array:
        return aproarray.global_propagate(scores, given.trees, zeta=GLOBAL)

    def twice(scores: Array) -> Array:
        first = once(scores)
        return aproarray.global_propagate(first, given.trees, zeta=SEMANTIC, features=first)

    def local(scores: Array) -> Array:
        return aproarray.local_propagate(scores, given.images, zeta=LOCAL, kernel_size=5, iterations=20)

    def filtered(scores: Array) -> Array:
        return tree_filter(scores, given.trees, zeta=TREE_FILTER)

    def shares(scores: Array) -> Array:
        """Return scores that sum to 1 in each pixel, for sums of two targets."""
        return scores / np.maximum(scores.sum(-1, keepdims=True), 1e-30)

    methods: dict[str, Callable[[Array], Array]] = {
        "unrefined": lambda scores: scores,
        "tree filter": filtered,
        "tree filter, the scale of GP": lambda scores: tree_filter(scores, given.trees, zeta=GLOBAL),
        "GP, once": once,
        "GP, the scale of the tree filter": lambda scores: aproarray.global_propagate(
            scores, given.trees, zeta=TREE_FILTER
        ),
        "GP, twice": twice,
        "LP": local,
        "PAMR": lambda scores: pamr(scores, given.images),
        "tree filter and LP": lambda scores: shares(filtered(scores)) + shares(local(scores)),
        "GP, twice, and LP": lambda scores: shares(twice(scores)) + shares(local(scores)),
        "LP of GP, twice": lambda scores: local(twice(scores)),
    }
    rows = [
        (
            name,
            f"{mean_iou(method(given.coarse), given.masks):.1f}",
            f"{mean_iou(method(given.scribbles), given.masks):.1f}",
        )
        for name, method in methods.items()
    ]
    return Table(
        "Tables 5 and 4: tree filter, global and local propagation, both",
        """Mean IoU in percent of the targets made from coarse scores, and from scribbles (scores of 1 on a
        few pixels, 0 elsewhere). "And" is the sum of both targets' class shares. Scales are the published
        ones unless a row says otherwise.""",
        ("target", "coarse", "scribbles"),
        rows,
        """the mask AP of networks trained on the boxes of Pascal VOC. Table 4 has 25.9 for the unary loss
        alone, 36.3 with GP, 36.0 with LP, and 38.4 with both. Table 5 has 36.1 for the tree filter, 36.8
        for the tree filter and LP, and 38.4 for GP and LP. [training.md](training.md) and
        [box_instances.md](box_instances.md) train networks. On street scenes with scribbles, either term
        gains about 3 points of mean IoU, and both together no more. On nuclei, most rows lie near full
        supervision.""",
        """This table shows the targets themselves, not the networks that learn from them. In these noisy
        textures, a step from pixel to pixel is wider than the published zeta of GP, so scores hardly move. At
        a wider scale they move, but GP leaks. The largest step of a path decides, so one weak edge between
        two regions joins all their pixels. The tree filter's affinities fall with every step. Scribbles are
        right where they are given, as are a network's predictions in training. GP gains most there over its
        input. Coarse scores are wrong in whole patches. Methods that average widely gain there, PAMR with its
        dilated windows most of all. The sum of two targets lies between the two, close to the better one, or
        above both where they err in different places. The paper's gain from both comes from training with
        two losses.""",
    )


def _lines(table: Table) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]

    def line(cells: Sequence[str], fill: str = " ") -> str:
        padded = [
            cell.ljust(width, fill) if not place else cell.rjust(width, fill)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    yield from (f"## {table.title}", "", _paragraph(table.what), "", line(table.head))
    yield line(["", *[":"] * (len(widths) - 1)], "-")
    yield from map(line, table.rows)
    yield from ("", _paragraph(f"**The paper** reports {table.paper}"))
    yield from ("", _paragraph(f"**Why they differ.** {table.why}"), "")


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 118)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper_tables", description=__doc__)
    parser.add_argument("--scenes", metavar="N", type=int, default=64, help="scenes (default 64)")
    parser.add_argument(
        "--quick", action="store_true", help="8 scenes, and no search from more than 4096 pixels"
    )
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables there as well")
    arguments = parser.parse_args()
    if arguments.scenes < 1:
        parser.error(f"--scenes must be at least 1, got {arguments.scenes}")
    given = scenes(8 if arguments.quick else arguments.scenes, side=64)
    lines = []
    for table in (
        table_8((32, 64) if arguments.quick else (32, 64, 128, 256)),
        table_6(given, (0, 1, 2, 5, 10, 20, 50, 100)),
        table_5(given),
    ):
        lines += _lines(table)
        print("\n".join(_lines(table)), flush=True)
    if arguments.markdown:
        command = shlex.join(["python", "-m", "benchmarks.paper_tables", *sys.argv[1:]])
        head = [
            "# The paper's comparisons, in small",
            "",
            "Printed by this, in the repository's root, after `pip install '.[benchmarks,examples]'`:",
            "",
            f"    {command}",
            "",
            _paragraph(
                f"""The {len(given.images)} scenes of 64 x 64 pixels are the first that
                [training.md](training.md) trains with (seed 0): shapes with the textures of three classes
                on photographs. Each method refines given scores, and the result is compared with the known
                masks. Nothing is trained. The paper trains networks on Pascal VOC and COCO: it asks the same
                questions, but its numbers cannot be compared with these.""",
            ),
            "",
        ]
        told = ("CPU", "Python", "aproarray", "numpy", "numba")
        foot = ["On:", "", *(f"* {name}: {machine.describe()[name]}" for name in told), ""]
        arguments.markdown.write_text("\n".join([*head, *lines, *foot]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
