"""Global propagation, or labels, from zarr to zarr: peak memory, and time beside the call in memory.

Run with: python -m benchmarks.chunked [side ...] [--chunk 2048] [--in-memory SIDE] [--grey] [--labels]

Makes a mosaic with noise of each side (4096 8192 16384), RGB uint8, and values with 4 channels beside it, or
50 labelled points for each chunk, in a folder for temporary files. Every measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import aproarray

SEEDS = 4


def write_inputs(folder: Path, side: int, chunk: int, n_channels: int, labels: bool) -> None:
    """Write an image of flat cells with noise, and seeds of four classes: values, or labels."""
    import zarr

    image = zarr.create_array(
        folder / "image.zarr", shape=(side, side, n_channels), chunks=(chunk, chunk, n_channels), dtype="u1"
    )
    shape, dtype, n_seeds = ((), "u1", 50) if labels else ((SEEDS,), "f4", 400)
    values = zarr.create_array(
        folder / "values.zarr", shape=(side, side, *shape), chunks=(chunk, chunk, *shape), dtype=dtype
    )
    rng = np.random.default_rng(0)
    cell = 97  # which no chunk is a multiple of: cells cross the borders of chunks
    colours = rng.integers(30, 225, (side // cell + 2, side // cell + 2, n_channels))
    for row in range(0, side, chunk):
        for column in range(0, side, chunk):
            y, x = np.arange(row, min(row + chunk, side)), np.arange(column, min(column + chunk, side))
            bend = (20 * np.sin(x / 150)).astype(int)
            flat = colours[(y[:, None] + bend + 20) // cell, (x + 20) // cell]
            noisy = flat + rng.normal(0, 6, flat.shape)
            image[y[0] : y[-1] + 1, x[0] : x[-1] + 1] = noisy.clip(0, 255).astype(np.uint8)
            seeds = np.zeros((len(y), len(x), *shape), dtype)
            rows, columns, classes = (rng.integers(0, n, n_seeds) for n in (len(y), len(x), SEEDS))
            if labels:
                seeds[rows, columns] = 1 + classes
            else:
                seeds[rows, columns, classes] = 1
            values[y[0] : y[-1] + 1, x[0] : x[-1] + 1] = seeds


def propagated(image: Any, values: Any, labels: bool) -> Any:
    """Return what is measured."""
    if labels:
        return aproarray.propagate_labels(image, values)
    return aproarray.global_propagate(values, aproarray.mst(image), zeta=8.0)


def propagate(folder: Path, in_memory: bool, labels: bool) -> None:
    """Propagate from zarr to zarr, and print seconds, CPU seconds and the peak of memory in GB."""
    import dask.array as da
    import zarr

    before, cpu_before = time.perf_counter(), time.process_time()
    if in_memory:
        image, values = (zarr.open_array(folder / f"{name}.zarr")[:] for name in ("image", "values"))
        result = propagated(image, values, labels)
        chunks = zarr.open_array(folder / "values.zarr").chunks
        zarr.create_array(folder / "expected.zarr", data=result, chunks=chunks, overwrite=True)
    else:
        image, values = (da.from_zarr(folder / f"{name}.zarr") for name in ("image", "values"))
        result = propagated(image, values, labels)
        da.to_zarr(result, folder / "result.zarr", overwrite=True)
    seconds, cpu_seconds = time.perf_counter() - before, time.process_time() - cpu_before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{seconds:8.1f} s {cpu_seconds:8.1f} s of CPU time {peak:6.2f} GB", end="")


def largest_difference(folder: Path) -> float:
    """Return the largest difference of the results, relative to the largest value."""
    import dask.array as da

    result, expected = (
        da.from_zarr(folder / f"{name}.zarr").astype(np.float64) for name in ("result", "expected")
    )
    return float((abs(result - expected).max() / abs(expected).max()).compute())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sides", nargs="*", type=int, default=[4096, 8192, 16384])
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--in-memory", type=int, default=8192, help="up to this side, also in memory")
    parser.add_argument("--grey", action="store_true", help="one channel in place of three")
    parser.add_argument("--labels", action="store_true", help="propagate_labels in place of global_propagate")
    parser.add_argument("--one", choices=["chunked", "in-memory"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where to put the files (a temporary folder)")
    options = parser.parse_args()
    if options.one:
        propagate(options.folder, options.one == "in-memory", options.labels)
        return
    for side in options.sides:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            write_inputs(folder, side, options.chunk, 1 if options.grey else 3, options.labels)
            kinds = ["chunked", "in-memory"] if side <= options.in_memory else ["chunked"]
            for kind in kinds:
                command = [sys.executable, "-m", "benchmarks.chunked", "--one", kind, "--folder", name]
                command += ["--labels"] * options.labels
                found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                print(f"{side:6} x {side:<6} {kind:10} {found}", flush=True)
            if len(kinds) == 2:
                print(f"{'':16} largest difference {largest_difference(folder):.1e}", flush=True)


if __name__ == "__main__":
    main()
