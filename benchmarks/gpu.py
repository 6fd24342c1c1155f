"""Print the table of the GPU backend: ``python -m benchmarks.gpu``, from the repository's root, on a device.

Times are medians between CUDA events, around calls whose inputs take turns, so that none finds its data in
the L2 cache. The floor is what input and output alone would take at the speed of a plain copy on the same
device, measured first: how far a row is from it shows.

Rows stand beside what a user has today on a GPU: `torch.nn.Unfold` for LP; APro as published, whose tree is
built on the CPU; cuCIM's random walker for labels, as there is no watershed for CuPy arrays; CuPy's `label`
for components. Those that are not installed are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import aproarray
from aproarray import related
from benchmarks import algorithm_1, inputs, machine
from benchmarks.timing import Skip

N_CLASSES = 21


class Row(NamedTuple):
    """One line of the table: milliseconds, megabytes of input and output, and what is aimed at."""

    what: str
    ms: float
    megabytes: float
    target: str
    against: str = ""


class Device:
    """A CUDA device and its copy bandwidth."""

    # What the sides of images are divided by: tests do not measure anything.
    divisor = 1

    def __init__(self, repeats: int):
        self.cupy, self.repeats = importlib.import_module("cupy"), repeats
        self.name, self.l2_bytes = self.properties()
        source = self.cupy.ones((1 << 29) // self.divisor**2, np.float32)  # 2 GiB
        target = self.cupy.empty_like(source)
        ms = self.median_ms(lambda _: self.cupy.copyto(target, source), [None])
        self.bytes_per_ms = 2 * source.nbytes / ms

    def properties(self) -> tuple[str, int]:
        """Return the device's name, and the bytes of its L2 cache."""
        found = self.cupy.cuda.runtime.getDeviceProperties(self.cupy.cuda.Device().id)
        return found["name"].decode(), found["l2CacheSize"]

    def side(self, side: int) -> int:
        """Return the side of images whose rows are named after `side`."""
        return side // self.divisor

    def to_torch(self, array: Any) -> Any:
        """Return a tensor over the memory of an array."""
        return importlib.import_module("torch").from_dlpack(array)

    def from_torch(self, tensor: Any) -> Any:
        """Return an array over the memory of a tensor."""
        return self.cupy.from_dlpack(tensor.contiguous())

    def torch_stream(self) -> contextlib.AbstractContextManager[Any]:
        """Let torch work on the null stream, which CuPy works on here, too."""
        cuda = importlib.import_module("torch").cuda
        stream: contextlib.AbstractContextManager[Any] = cuda.stream(cuda.default_stream())
        return stream

    def median_ms(self, call: Callable[[Any], Any], rotated: list[Any]) -> float:
        """Return the median milliseconds of a call over inputs that take turns."""
        for one in rotated[:2]:
            call(one)
        times = []
        for _, one in zip(range(self.repeats), itertools.cycle(rotated), strict=False):
            start, stop = self.cupy.cuda.Event(), self.cupy.cuda.Event()
            start.record()
            result = call(one)
            stop.record()
            stop.synchronize()
            del result
            times.append(self.cupy.cuda.get_elapsed_time(start, stop))
        return statistics.median(times)

    def copies(self, n_bytes: int) -> int:
        """Return how many inputs of that size are four times as large as the L2 cache."""
        return max(2, -(-4 * self.l2_bytes // n_bytes))

    def images(self, side: int, batch: int) -> list[Any]:
        """Return batches of different photographs, more than fit the L2 cache."""
        image = self.cupy.asarray(inputs.mosaic(self.side(side)))
        n = self.copies(batch * image.nbytes)
        shifts = itertools.count(1, 37)
        made = [
            self.cupy.stack([self.cupy.roll(image, next(shifts), axis=(0, 1)) for _ in range(batch)])
            for _ in range(n)
        ]
        return made if batch > 1 else [one[0] for one in made]

    def values(self, shape: tuple[int, ...]) -> Any:
        """Return random values, as a network's probabilities."""
        return self.cupy.asarray(np.random.default_rng(1).random(shape, np.float32))


def tree(device: Device) -> Iterator[Row]:
    for side, batch, target in [(512, 1, "0.45"), (512, 16, "1.6 (0.10 each)"), (4096, 1, "15")]:
        images = device.images(side, batch)
        ms = device.median_ms(lambda image: aproarray.mst(image, check_finite=False), images)
        pixels = device.side(side) ** 2 * batch
        yield Row(f"tree, {batch} x {side} x {side} RGB", ms, pixels * 28 / 1e6, target)


def gp(device: Device) -> Iterator[Row]:
    for batch, target in [(1, "0.2"), (16, "0.96 (0.06 each)")]:
        trees = [aproarray.mst(image) for image in device.images(512, batch)]
        values = device.values((*trees[0].batch_shape, device.side(512), device.side(512), N_CLASSES))
        n = device.copies(values.nbytes)
        rotated = [(trees[k % len(trees)], values.copy()) for k in range(n)]

        def call(one: Any) -> Any:
            return aproarray.global_propagate(one[1], one[0], zeta=0.01, check_finite=False)

        megabytes = (2 * values.nbytes + 8 * values.size // N_CLASSES) / 1e6
        what = f"GP, {batch} x 512 x 512, {N_CLASSES} channels, trees ready"
        yield Row(what, device.median_ms(call, rotated), megabytes, target)


def apro(device: Device) -> Iterator[Row]:
    """Tree and GP together, beside APro as published: its tree, and its walk over it, are the CPU's."""
    images = device.images(512, 1)
    values = device.values((N_CLASSES, device.side(512), device.side(512)))
    zeta = 0.1

    def call(image: Any) -> Any:
        tree = aproarray.mst(image, check_finite=False)
        return aproarray.global_propagate(values, tree, zeta=zeta, channel_axis=0, check_finite=False)

    def published(image: Any) -> Any:
        edges, weights = algorithm_1.spanning_tree(image.get())
        return device.cupy.asarray(algorithm_1.propagate(values.get(), edges, weights, zeta))

    ms = device.median_ms(call, images)

    def against() -> str:
        _agree("GP", call(images[0]), published(images[0]), 1e-3)
        theirs = device.median_ms(published, images[:2])
        return f"APro as published, copies both ways, {theirs:.3g} ms, {theirs / ms:.1f} x"

    megabytes = (2 * values.nbytes + images[0].nbytes) / 1e6
    what = f"tree + GP, 512 x 512, {N_CLASSES} channels"
    yield Row(what, ms, megabytes, "0.65", _measured(against, "APro as published"))


def _agree(what: str, ours: Any, theirs: Any, tolerance: float) -> None:
    worst = float(abs(theirs - ours).max())
    if not worst < tolerance:
        raise AssertionError(f"{what}: results differ by {worst:.2g}")


def _measured(against: Callable[[], str], what: str) -> str:
    """Return what a comparison says, or why there is none."""
    try:
        return against()
    except (ImportError, Skip) as error:
        return f"{what} not measured: {error}"


def lp(device: Device) -> Iterator[Row]:
    images = device.images(512, 1)
    values = device.values((device.side(512), device.side(512), N_CLASSES))
    out = device.cupy.empty_like(values)

    def call(image: Any) -> Any:
        return aproarray.local_propagate(values, image, zeta=0.034, out=out, check_finite=False)

    ms = device.median_ms(call, images)

    def against() -> str:
        theirs = _unfold_ms(device, images, values, out)
        return f"torch Unfold {theirs:.3g} ms, {theirs / ms:.1f} x (target 15)"

    megabytes = (2 * values.nbytes + images[0].nbytes) / 1e6
    what = f"LP, 5 x 5, 20 iterations, 512 x 512, {N_CLASSES} channels"
    yield Row(what, ms, megabytes, "0.5", _measured(against, "torch Unfold"))


def _unfold_ms(device: Device, images: list[Any], values: Any, ours: Any) -> float:
    """Return the median of the windows as `torch.nn.Unfold` makes them, on the same device and stream."""
    import torch

    from benchmarks import torch_lp

    phi = device.to_torch(values).movedim(-1, 0)[:, None].contiguous()

    def call(image: Any) -> Any:
        x = device.to_torch(image).movedim(-1, 0)[None].contiguous()
        return torch_lp.local_propagate(phi, x, 0.034, 5, 20, at_once=len(phi))

    with torch.no_grad(), device.torch_stream():
        aproarray.local_propagate(values, images[0], zeta=0.034, out=ours)
        _agree("LP", ours, device.from_torch(call(images[0])[:, 0].movedim(0, -1)), 1e-4)
        return device.median_ms(call, images)


def lp_gradients(device: Device) -> Iterator[Row]:
    try:
        import torch

        from aproarray.torch import local_propagate
    except ImportError as error:
        print(f"gradients of LP not measured: {error}", file=sys.stderr)
        return
    with device.torch_stream():
        shape = (1, N_CLASSES, device.side(512), device.side(512))
        values = device.to_torch(device.values(shape)).requires_grad_()
        images = [device.to_torch(image).movedim(-1, 0)[None] for image in device.images(512, 1)]
        upstream = device.to_torch(device.values(shape))
        for what, by_image, target in [("values", False, "0.6"), ("values and image", True, "2")]:
            rotated = [image.clone().requires_grad_(by_image) for image in images]
            results = [local_propagate(values, image, zeta=0.034) for image in rotated]

            def call(one: Any) -> Any:
                result, image = one
                wanted = (values, image) if image.requires_grad else (values,)
                return torch.autograd.grad(result, wanted, upstream, retain_graph=True)

            ms = device.median_ms(call, list(zip(results, rotated, strict=True)))
            n_bytes = 12 * values.numel() + 24 * device.side(512) ** 2
            yield Row(f"its gradients to {what}", ms, n_bytes / 1e6, target)


def pipeline(device: Device) -> Iterator[Row]:
    def call(image: Any, values: Any) -> Any:
        trees = aproarray.mst(image, check_finite=False)
        soft = aproarray.global_propagate(values, trees, zeta=0.01, check_finite=False)
        return aproarray.local_propagate(soft, image, zeta=0.034, check_finite=False)

    images = device.images(2048, 1)
    values = device.values((device.side(2048), device.side(2048), N_CLASSES))
    ms = device.median_ms(lambda image: call(image, values), images)
    on_host = images[0].get(), values.get()
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        call(*on_host)
        seconds.append(time.perf_counter() - start)
    theirs = 1e3 * statistics.median(seconds[1:])
    megabytes = (2 * values.nbytes + images[0].nbytes) / 1e6
    against = f"CPU backend, {machine.cores()} cores, {theirs:.0f} ms, {theirs / ms:.1f} x (target 60)"
    yield Row(f"tree + GP + LP, 2048 x 2048, {N_CLASSES} channels", ms, megabytes, "", against)


def labels(device: Device) -> Iterator[Row]:
    images = device.images(512, 1)
    strokes = np.zeros((device.side(512), device.side(512)), np.int32)
    strokes[4::40, 4::40] = 1 + np.arange(strokes[4::40, 4::40].size).reshape(strokes[4::40, 4::40].shape) % 5
    seeds = device.cupy.asarray(strokes)
    ms = device.median_ms(lambda image: aproarray.propagate_labels(image, seeds), images)

    def walker() -> str:
        module = importlib.import_module("cucim.skimage.segmentation")
        theirs = device.median_ms(
            lambda image: module.random_walker(image, seeds, mode="cg_j", channel_axis=-1), images[:2]
        )
        return f"cuCIM's random_walker {theirs:.3g} ms, {theirs / ms:.1f} x"

    megabytes = (images[0].nbytes + 2 * seeds.nbytes) / 1e6
    yield Row(
        "labels, 512 x 512 RGB, 5 of them", ms, megabytes, "", _measured(walker, "cuCIM's random_walker")
    )

    mask = images[0][..., 0] > 0.5
    plain = device.cupy.zeros(mask.shape, np.uint8)
    ms = device.median_ms(lambda _: aproarray.mst(plain, mask=mask).cut(0), [None])

    def components() -> str:
        module = importlib.import_module("cupyx.scipy.ndimage")
        ours, (theirs, n) = aproarray.mst(plain, mask=mask).cut(0), module.label(mask)
        if len(device.cupy.unique(ours[mask])) != int(n):
            raise AssertionError(f"components: {n}, and other ones here")
        del theirs
        theirs_ms = device.median_ms(lambda _: module.label(mask), [None])
        return f"cupyx.scipy.ndimage.label {theirs_ms:.3g} ms, {theirs_ms / ms:.1f} x"

    megabytes = (mask.nbytes + 4 * mask.size) / 1e6
    yield Row("components of a mask, 512 x 512", ms, megabytes, "", _measured(components, "CuPy's label"))


def tree_filter(device: Device) -> Iterator[Row]:
    """Build a tree and filter over it: what a network's layer does in each step."""
    images = device.images(512, 1)
    values = device.values((device.side(512), device.side(512), N_CLASSES))

    def call(image: Any) -> Any:
        return related.tree_filter(values, aproarray.mst(image, check_finite=False), zeta=0.1)

    def published() -> str:
        def on_the_cpu(image: Any) -> Any:
            edges, _ = algorithm_1.spanning_tree(image.get())
            return device.cupy.asarray(edges)

        theirs = device.median_ms(on_the_cpu, images[:2])
        return f"the published one's tree alone, on the CPU, copies both ways: {theirs:.3g} ms"

    megabytes = 2 * values.nbytes / 1e6
    what = f"tree + tree filter, 512 x 512, {N_CLASSES} channels"
    yield Row(what, device.median_ms(call, images), megabytes, "", _measured(published, "the published one"))


ROWS = {
    "tree": tree,
    "gp": gp,
    "apro": apro,
    "lp": lp,
    "gradients": lp_gradients,
    "filter": tree_filter,
    "labels": labels,
    "pipeline": pipeline,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", choices=ROWS, help="one group of rows")
    parser.add_argument("--repeats", metavar="N", type=int, default=50, help="calls per row (default 50)")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table there as well")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {arguments.repeats}")
    return arguments


def _lines(rows: list[Row], device: Device) -> list[str]:
    lines = [
        "| what | ms | target ms | floor ms | times the floor | against |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        floor = 1e6 * row.megabytes / device.bytes_per_ms
        cells = (row.what, f"{row.ms:.3g}", row.target, f"{floor:.2g}", f"{row.ms / floor:.1f}", row.against)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> int:
    arguments = _arguments()
    try:
        device = Device(arguments.repeats)
    except Exception as error:  # whatever keeps CuPy from working
        print(f"nothing measured, there is no device: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    rows = []
    for name, measure in ROWS.items():
        if arguments.only in (None, name):
            for row in measure(device):
                rows.append(row)
                print(f"{row.what}: {row.ms:.3g} ms", file=sys.stderr, flush=True)
    lines = [
        f"On {device.name}, copy bandwidth {device.bytes_per_ms / 1e9:.2f} TB/s (bytes read and written):",
        "",
        *_lines(rows, device),
    ]
    print(*lines, sep="\n")
    if arguments.markdown:
        command = shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]])
        text = ["# Benchmarks of the GPU backend", "", f"    {command}", "", *lines, ""]
        arguments.markdown.write_text("\n".join(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
