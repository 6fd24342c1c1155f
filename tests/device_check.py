"""Check the GPU backend on a device: ``PYTHONPATH=. python tests/device_check.py STEP``.

The steps are `smoke` (every kernel, against the CPU backend), `kernels` (registers, blocks and times), `soak`
(the same calls again and again: do bits ever change?) and `profile` (one pipeline, for Nsight Compute).
`device_check.sh` runs them beside the tests, the benchmarks and the sanitizers. test_device_check.py runs
them in the emulation.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import aproarray
from aproarray import related

N_CLASSES = 21


def smoke(cupy: Any, side: int = 97) -> str:
    """Call every kernel on small inputs, and compare with the CPU backend."""
    worst = 0.0

    def near(ours: Any, theirs: Any, tolerance: float) -> None:
        nonlocal worst
        error = np.abs(ours.get() - theirs).max() / max(np.abs(theirs).max(), 1e-30)
        worst = max(worst, error / tolerance)
        if not error < tolerance:
            raise AssertionError(f"results differ by {error:.2g}, more than {tolerance}")

    for dtype, tolerance in ((np.float32, 2e-5), (np.float64, 1e-11)):
        _verbs(cupy, side, np.dtype(dtype), lambda a, b, most=tolerance: near(a, b, most))
    for size, dtype, tolerance in ((5, np.float32, 1e-3), (3, np.float64, 1e-9), (9, np.float64, 1e-9)):
        found = [_gradients(name, cupy, side, size, np.dtype(dtype)) for name in ("gpu", "cpu")]
        for ours, theirs in zip(*found, strict=True):
            near(ours, theirs, tolerance)
    return f"all results agree; the worst error is {worst:.2g} of its tolerance"


def _verbs(cupy: Any, side: int, dtype: np.dtype[Any], near: Callable[[Any, Any], None]) -> None:
    rng, d = np.random.default_rng(0), cupy.asarray
    shape = (side, side + 34)
    image = rng.integers(0, 9, (2, *shape, 3)).astype(dtype) / dtype.type(8)
    values, features = rng.random((2, *shape, 5)).astype(dtype), rng.random((2, *shape, 2)).astype(dtype)
    mask = rng.random(shape) < 0.9
    ours, theirs = aproarray.mst(d(image), mask=d(mask)), aproarray.mst(image, mask=mask)
    _same_trees(ours, theirs)

    def over_trees(verb: Any, features: Any = None, **options: Any) -> None:
        given = [{} if features is None else {"features": put(features)} for put in (d, np.asarray)]
        near(verb(d(values), ours, **options, **given[0]), verb(values, theirs, **options, **given[1]))

    over_trees(aproarray.global_propagate, zeta=0.05)
    over_trees(aproarray.global_propagate, zeta=0.6)
    over_trees(aproarray.global_propagate, zeta=0.4, features=features)
    over_trees(related.tree_filter, zeta=0.5)
    for size in (3, 5, 7, 9):
        options = {"zeta": 0.3, "kernel_size": size, "iterations": 3}
        near(
            aproarray.local_propagate(d(values), d(image), mask=d(mask), **options),
            aproarray.local_propagate(values, image, mask=mask, **options),
        )
    # These take square roots, or divide by small numbers.
    double = image.astype(np.float64)
    near(
        related.pamr(d(values), d(double), dilations=(1, 2), iterations=2),
        related.pamr(values, double, dilations=(1, 2), iterations=2),
    )
    near(related.pairwise_affinity(d(double)), related.pairwise_affinity(double))
    one, other = ours[0], theirs[0]
    i, j = rng.integers(0, mask.size, (2, 50))
    np.testing.assert_array_equal(one.minimax(d(i), d(j)).get(), other.minimax(i, j))
    np.testing.assert_array_equal(one.cut(0.1).get(), other.cut(0.1))
    _labels(cupy, image[0], values[0], mask)
    volume = rng.integers(0, 5, (6, 7, 9, 2)).astype(dtype)
    options = {"spatial_ndim": 3, "connectivity": 3}
    _same_trees(aproarray.mst(d(volume), **options), aproarray.mst(volume, **options))
    ends, weights = rng.integers(0, 300, (900, 2)), rng.integers(0, 20, 900).astype(dtype)
    from_edges = aproarray.SpanningTree.from_edges
    _same_trees(from_edges(d(ends), d(weights), 300), from_edges(ends, weights, 300))


def _labels(cupy: Any, image: Any, scores: Any, mask: Any) -> None:
    """Compare labels, whose floods are the CPU's, and refined scores."""
    seeds = np.zeros(mask.shape, np.int32)
    seeds[2::9, 1::7] = 1 + np.arange(seeds[2::9, 1::7].size).reshape(seeds[2::9, 1::7].shape) % 5
    grey, d = image[..., 0], cupy.asarray
    for options in ({}, {"mask": mask}, {"edges": image[..., 1]}, {"features": image[..., 1:]}):
        given = {name: d(value) for name, value in options.items()}
        ours = aproarray.propagate_labels(d(grey), d(seeds), **given).get()
        wrong = float((ours != aproarray.propagate_labels(grey, seeds, **options)).mean())
        if wrong > 1e-3:  # logarithms and exponentials are rounded in other ways
            raise AssertionError(f"labels with {list(options)}: {wrong:.2%} differ from the CPU's")
    volume, strokes = grey.reshape(-1, 3, grey.shape[1])[:9], seeds.reshape(-1, 3, grey.shape[1])[:9]
    shares = [
        aproarray.propagate_labels(put(volume), put(strokes), return_full_prob=True) for put in (d, np.array)
    ]
    np.testing.assert_allclose(shares[0].get().mean(), shares[1].mean(), rtol=1e-3)
    for mode in ("local", "global"):
        options = {"mode": mode, "iterations": 2, "convert2lab": False}
        np.testing.assert_allclose(
            aproarray.refine(d(image), d(scores), **options).get(),
            aproarray.refine(image, scores, **options), rtol=1e-3, atol=1e-5,
        )  # fmt: skip
    _same_floods(cupy, image.shape[:2])


def _same_floods(cupy: Any, shape: tuple[int, int]) -> None:
    """Compare floods of plain reliefs, of few heights and of many: bit for bit."""
    rng, (gpu, cpu) = (
        np.random.default_rng(3),
        map(importlib.import_module, ("aproarray.gpu", "aproarray.cpu")),
    )
    seeds = np.full(shape, -1, np.int32)
    seeds[1:-1, 1:-1] = np.where(rng.random((shape[0] - 2, shape[1] - 2)) < 0.1, -1, 0)
    seeds[1, 1], seeds[-2, -2], seeds[shape[0] // 2, 1] = 1, 2, 3
    heights = [rng.integers(levels, size=seeds.size) / levels for levels in (1, 3, 1 << 20)]
    reliefs = np.stack(heights).astype(np.float32)
    steps = np.array([-shape[1], -1, 1, shape[1]])
    found = []
    for backend, put in ((gpu, cupy.asarray), (cpu, np.array)):
        with backend.Floods(put(reliefs), steps, shape, None).labels(
            put(seeds.ravel()), [1, 2, 3], 1
        ) as maps:
            found.append([labels if backend is cpu else labels.get() for labels in maps])
    np.testing.assert_array_equal(*found)


def _same_trees(ours: Any, theirs: Any) -> None:
    for name in ("order", "gaps", "gap_edges", "edges", "weights"):
        np.testing.assert_array_equal(getattr(ours, name).get(), getattr(theirs, name), err_msg=name)


def _gradients(name: str, cupy: Any, side: int, size: int, dtype: np.dtype[Any]) -> list[Any]:
    """Return the gradients of both propagations, and of the tree filter, of one backend."""
    backend, put = importlib.import_module(f"aproarray.{name}"), {"gpu": cupy.asarray, "cpu": np.array}[name]
    rng, shape = np.random.default_rng(0), (side, side + 34)
    n, index = shape[0] * shape[1], np.zeros(2, int)
    values, grad = map(put, rng.standard_normal((2, 2, n, 6)).astype(dtype))
    images = put(rng.random((1, n, 3)).astype(dtype))

    def like(*shape: int, of: Any = dtype) -> Any:
        return put(np.zeros(shape, of))

    sums, out, z, y, filtered = like(1, n), like(2, n, 6), like(1, n), like(2, n, 6), like(2, n, 6)
    windows = (images, shape, index, None, 0.5, size, 3, 1)
    found = [like(2, n, 6), like(1, n, 3, of=float), like(1, of=float)]
    backend.local_propagate(values, out, *windows, sums)
    backend.local_gradients(grad, values, *windows, sums, *found)
    trees, _ = backend.grid_trees(images, shape, 1, None, 1)
    by_gaps, by_distances = like(1, n - 1, of=float), like(1, n - 1, of=float)
    backend.global_propagate(values, y, backend.lines(trees.order, trees.gaps, 1), index, 0.3, 1, z)
    backend.global_gap_gradients(grad, values, y, trees.order, trees.gaps, index, 0.3, z, by_gaps, 1)
    by_features = like(1, n, 3)
    backend.feature_gradients(by_gaps, images, trees.gap_edges, by_features, 1)
    rooted, of_sets = backend.rooted_trees(trees.order, trees.gap_edges, 1), like(1, n, of=float)
    sets = (trees.gaps, np.zeros(1, int), index)
    backend.tree_filter(values, filtered, rooted, *sets, 1.0, 1, sums=of_sets)
    backend.tree_filter_gradients(grad, values, filtered, rooted, *sets, of_sets, by_distances, 1)
    return [*found, by_gaps, by_features, by_distances]


def _inputs(cupy: Any, side: int, batch: int = 1) -> tuple[Any, Any]:
    """Return photographs, and values of as many classes as Pascal VOC has."""
    inputs = importlib.import_module("benchmarks.inputs")
    host = inputs.mosaic(side)
    images = np.stack([np.roll(host, 37 * k, axis=(0, 1)) for k in range(batch)])
    values = np.random.default_rng(1).random((*images.shape[:-1], N_CLASSES), np.float32)
    return (cupy.asarray(a if batch > 1 else a[0]) for a in (images, values))


def _pipeline(image: Any, values: Any) -> Any:
    tree = aproarray.mst(image, check_finite=False)
    soft = aproarray.global_propagate(values, tree, zeta=0.01, check_finite=False)
    return aproarray.local_propagate(soft, image, zeta=0.034, check_finite=False)


def kernels(cupy: Any, side: int = 512, batches: tuple[int, ...] = (1, 16), repeats: int = 10) -> str:
    """Return what every kernel of a pipeline takes, and its registers and blocks."""
    compiler = importlib.import_module("aproarray.gpu._compile")
    launch, seen = compiler.Kernel.__call__, {}
    lines = []

    def timed(self: Any, n: int, *arguments: Any) -> None:
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        launch(self, n, *arguments)
        stop.record()
        seen.setdefault(self, []).append((start, stop, self.n_blocks(n)))

    compiler.Kernel.__call__ = timed
    try:
        for batch in batches:
            image, values = _inputs(cupy, side, batch)
            for _ in range(3):
                _pipeline(image, values)
            seen.clear()
            for _ in range(repeats):
                _pipeline(image, values)
            cupy.cuda.Device().synchronize()
            lines.append(f"batch of {batch}, {side} x {side}, {N_CLASSES} channels: ms of a call's launches")
            total = 0.0
            for kernel, events in seen.items():
                ms = sum(cupy.cuda.get_elapsed_time(a, b) for a, b, _ in events) / repeats
                total += ms
                defines = "".join(
                    f" {key}={value}" for key, value in kernel.defines.items() if key != "STEPS"
                )
                lines.append(
                    f"  {ms:8.3f}  {len(events) // repeats:2d} x {kernel.name}{defines}: "
                    f"{_resources(cupy, kernel)}, {kernel.most_blocks} blocks at most, {events[0][2]} used"
                )
            lines.append(f"  {total:8.3f}  all")
    finally:
        compiler.Kernel.__call__ = launch
    return "\n".join([*_overheads(cupy), *lines])


def _resources(cupy: Any, kernel: Any) -> str:
    """Return a kernel's registers, and its bytes of shared and of local memory."""
    # Numbers of CUfunction_attribute.
    registers, shared, local = (
        cupy.cuda.driver.funcGetAttribute(attribute, kernel.function.ptr) for attribute in (4, 1, 3)
    )
    return f"{registers} registers, {shared} B shared, {local} B local"


def _median_ms(cupy: Any, call: Callable[[], Any], repeats: int = 20) -> float:
    times = []
    for turn in range(repeats + 3):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        call()
        stop.record()
        stop.synchronize()
        times.extend([cupy.cuda.get_elapsed_time(start, stop)] if turn >= 3 else [])
    return float(np.median(times))


def _overheads(cupy: Any) -> list[str]:
    """Return what a wait for the grid takes, and the host's part of a call."""
    compiler = importlib.import_module("aproarray.gpu._compile")
    code = compiler.code_of("minimax") + (
        "\nCOOPERATIVE_KERNEL syncs(u32 n, u32 *barrier) "
        "{ for (u32 i = 0; i < n; i++) grid_sync(barrier); }\n"
    )
    options = compiler.options_for(REAL="float")
    sync = cupy.RawModule(code=code, options=options).get_function("syncs").kernel
    n_blocks = cupy.cuda.Device().attributes["MultiProcessorCount"]

    def syncs(n: int) -> float:
        def call() -> None:
            arguments = (np.uint32(n), cupy.zeros(1, np.uint32))
            sync((n_blocks,), (compiler.BLOCK,), arguments, enable_cooperative_groups=True)

        return _median_ms(cupy, call)

    lines = [f"grid_sync, {n_blocks} blocks of {compiler.BLOCK}: {syncs(101) - syncs(1):.4f} ms for 100"]
    image = cupy.asarray(np.random.default_rng(0).random((16, 16, 3), np.float32))
    values = cupy.asarray(np.zeros((16, 16, N_CLASSES), np.float32))
    ms = _median_ms(cupy, lambda: _pipeline(image, values))
    begin = time.perf_counter()
    for _ in range(20):
        _pipeline(image, values)
    host = (time.perf_counter() - begin) / 20 * 1e3
    cupy.cuda.Device().synchronize()
    return [*lines, f"16 x 16, the pipeline: {ms:.3f} ms between events, {host:.3f} ms of the host"]


SOAKED = (((512, 512), 1), ((131, 257), 7), ((2048, 2048), 1), ((33, 47), 64))


def soak(cupy: Any, seconds: float = 25, shapes: Any = SOAKED) -> str:
    """Repeat calls beside other work, and fail if a bit changes."""
    rng = np.random.default_rng(2)
    noise, block = cupy.cuda.Stream(non_blocking=True), cupy.ones(1 << 16, np.float32)
    cases = []
    for shape, batch in shapes:
        for levels in (2, 40, 1 << 20):
            host = rng.integers(levels, size=(batch, *shape, 3)).astype(np.float32) / np.float32(levels)
            given = cupy.asarray(host), cupy.asarray(rng.random((batch, *shape, 3), np.float32))
            first = [array.copy() for array in _soaked(*given)]
            theirs = aproarray.mst(host)
            np.testing.assert_array_equal(first[0].get(), theirs.order)
            np.testing.assert_array_equal(first[1].get(), theirs.gaps)
            cases.append((f"{batch} x {shape}, {levels} levels", given, first))
    stop, calls = time.perf_counter() + seconds, 0
    while not calls or time.perf_counter() < stop:
        for what, given, first in cases:
            if calls % 2:
                with noise:
                    for _ in range(int(rng.integers(1, 9))):
                        cupy.sqrt(block)
            for name, now, then in zip(_SOAKED_NAMES, _soaked(*given), first, strict=True):
                if not bool((now == then).all()):
                    raise AssertionError(f"{what}: {name} differs in call {calls}")
            calls += 1
    return f"{calls} calls gave the same bits"


_SOAKED_NAMES = ("order", "gaps", "gap_edges", "GP", "LP")


def _soaked(image: Any, values: Any) -> tuple[Any, ...]:
    tree = aproarray.mst(image, check_finite=False)
    soft = aproarray.global_propagate(values, tree, zeta=0.2, check_finite=False)
    result = aproarray.local_propagate(soft, image, zeta=0.15, iterations=4, check_finite=False)
    return tree.order, tree.gaps, tree.gap_edges, soft, result


def profile(cupy: Any, side: int = 512) -> str:
    """Run a pipeline and LP's gradients once, between the marks that Nsight Compute looks for."""
    image, values = _inputs(cupy, side)
    backend, n = importlib.import_module("aproarray.gpu"), side * side
    flat, images = values.reshape(1, n, N_CLASSES), image.reshape(1, n, 3)
    sums, out = cupy.empty((1, n), np.float32), cupy.empty(flat.shape, np.float32)
    by = [cupy.empty(flat.shape, np.float32), cupy.empty((1, n, 3), float), cupy.empty(1, float)]
    windows = (images, (side, side), np.zeros(1, int), None, 0.034, 5, 20, 1)
    for profiled in (False, True):  # compile first
        if profiled:
            cupy.cuda.profiler.start()
        _pipeline(image, values)
        backend.local_propagate(flat, out, *windows, sums)
        backend.local_gradients(flat, flat, *windows, sums, *by)
        cupy.cuda.Device().synchronize()
    cupy.cuda.profiler.stop()
    return "profiled"


STEPS = {"smoke": smoke, "kernels": kernels, "soak": soak, "profile": profile}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/device_check.py", description=__doc__)
    parser.add_argument("step", choices=STEPS)
    step = parser.parse_args().step
    cupy = importlib.import_module("cupy")
    if os.environ.get("WITHOUT_POOL"):  # an array is an allocation then, beyond which a sanitizer sees
        cupy.cuda.set_allocator(None)
    begin = time.perf_counter()
    print(STEPS[step](cupy), f"{step}: {time.perf_counter() - begin:.1f} s", sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
