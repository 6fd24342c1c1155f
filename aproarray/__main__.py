"""The command line: `aproarray COMMAND`, or `python -m aproarray COMMAND`."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import aproarray

# What reading and writing files needs beyond NumPy, and how to install it.
_INSTALL = {
    "PIL": "Pillow: pip install 'aproarray[cli]'",
    "tifffile": "tifffile: pip install 'aproarray[cli]'",
    "nibabel": "nibabel: pip install 'aproarray[nifti]'",
    "dask": "dask and zarr: pip install 'aproarray[dask]' zarr",
    "zarr": "dask and zarr: pip install 'aproarray[dask]' zarr",
}
_INTERRUPTED = 130  # 128 and the number of the signal, as shells have it
_BROKEN_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: all done; 1: something failed; 2: wrong usage; 130: Ctrl-C; 141: nobody reads the output any more.
    """
    try:
        try:
            options = _parser().parse_args(arguments)
            run: Callable[[argparse.Namespace], int] = options.run
            return run(options)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("aproarray: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return _BROKEN_PIPE
    except OSError as error:
        _drop_output()
        return _fail(f"cannot write to standard output: {error.strerror or error}")
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in _INSTALL:
            raise
        return _fail(f"reading and writing images needs {_INSTALL[module]}")


def _drop_output() -> None:
    """Let Python, which flushes standard output at its end, flush it to nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aproarray", description="Affinity propagation on arrays.")
    parser.add_argument("--version", action="version", version=f"aproarray {aproarray.__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)

    demo = commands.add_parser(
        "demo",
        help="propagate scribbles over a photograph and draw what happens",
        description="Run examples/scribbles.py: propagate scribbles over a photograph, and draw it.",
    )
    demo.add_argument(
        "--out",
        type=_picture,
        default=Path("demo.png"),
        metavar="FILE",
        help="where to save the figure, a .png, .pdf or .svg (default: %(default)s)",
    )
    demo.set_defaults(run=_demo)

    propagate = commands.add_parser(
        "propagate",
        help="from scribbles or points to masks",
        description="Propagate the labels of scribbles to all pixels. SCRIBBLES is a picture or an array of "
        "that size: integers (0: unlabelled; below 0: takes no part), or colours, each of which is a class. "
        "Their background is black, transparent, white, or else the colour of the border; it "
        "is unlabelled. Smooth borders of strokes are left out. A .png of coloured scribbles gets their "
        "colours, other outputs get class numbers: --json says which number a colour has, for all images of "
        "the call.",
    )
    _add_files(propagate, "scribbles", "SCRIBBLES", "a file, or a folder with a file of each image's name")
    propagate.add_argument(
        "--unlabelled",
        type=_number_or_colour,
        metavar="VALUE",
        help="the number of unlabelled pixels (255 in many data sets; 0 is then a class), or their colour, "
        "as white or #ffffff",
    )
    propagate.add_argument(
        "--overlay", action="store_true", help="write the labels painted over the image, not the labels"
    )
    _add_maps(propagate)
    propagate.add_argument(
        "--in-memory",
        type=float,
        default=100,
        metavar="MEGAPIXELS",
        help="read a .zarr or a tiled .tif of more than that in chunks, and write the labels to a .zarr "
        "(default: %(default)s)",
    )
    propagate.set_defaults(run=_propagate)

    refine = commands.add_parser(
        "refine",
        help="make coarse class scores follow an image",
        description="Refine soft class scores: an array of floats (H, W, classes), of the image's size, or "
        "of fewer pixels in its proportions. "
        "A .npy output gets the refined scores, others the number of the best class, from 0.",
    )
    _add_files(refine, "scores", "SCORES", "a .npy file, or a folder with a .npy of each image's name")
    refine.add_argument(
        "--class-axis",
        type=int,
        default=-1,
        metavar="AXIS",
        help="the axis of the classes in SCORES: 0 for (classes, H, W) (default: %(default)s)",
    )
    refine.add_argument(
        "--mode",
        choices=("local", "global", "global-local", "local-global", "parallel"),
        help="which propagation (default: local; with --edges, local of the mean of the scores and global)",
    )
    _add_maps(refine)
    refine.set_defaults(run=_refine)

    affinity = commands.add_parser(
        "affinity",
        help="draw how alike all pixels are to one",
        description="Compute the affinity of one pixel to all: 0 to 1 in a .npy, grey in other files.",
    )
    _add_files(affinity)
    affinity.add_argument(
        "--at", nargs="+", type=int, required=True, metavar="INDEX", help="the pixel: ROW COLUMN"
    )
    affinity.add_argument(
        "--kind", choices=("global", "local"), default="global", help="which affinity (default: %(default)s)"
    )
    affinity.set_defaults(run=_affinity)

    info = commands.add_parser(
        "info",
        help="print versions, the backends found, and why one is not available",
        description="Print versions, the backends found, and why one is not available.",
    )
    info.set_defaults(run=_info)
    return parser


def _add_files(
    command: argparse.ArgumentParser, name: str = "", metavar: str = "", description: str = ""
) -> None:
    command.add_argument("image", metavar="IMAGE", help="a file, a folder, or a glob pattern in quotes")
    if name:
        command.add_argument(name, type=Path, metavar=metavar, help=description)
    command.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT",
        help="a .png, .tif, .npy, .nii.gz or .zarr; for a folder or a pattern, a folder, in which .png "
        "files are written (.nii.gz for NIfTI)",
    )  # fmt: skip
    command.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="which pixels take part: those that are neither 0 nor black in a file of the image's size, or "
        "in a folder's file of each image's name",
    )
    command.add_argument(
        "--nodata",
        type=float,
        metavar="VALUE",
        help="the image's number for pixels without data, which take no part (default: as the file says; NaN "
        "and infinity always are)",
    )
    command.add_argument(
        "--any-size", action="store_true", help="also read pictures above Pillow's limit of 179 megapixels"
    )
    command.add_argument(
        "--json", action="store_true", help="print a line of JSON for each image, errors included"
    )


def _add_maps(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--edges",
        type=Path,
        metavar="FILE",
        help="a map of boundaries, a number for each pixel, higher where they are: a file of the image's "
        "size, or a folder with a file of each image's name",
    )
    command.add_argument(
        "--features",
        type=Path,
        metavar="FILE",
        help="what else is known of each pixel, such as a network's embedding: a .npy (H, W, D), or a folder "
        "with a file of each image's name",
    )


def _number_or_colour(argument: str) -> int | tuple[int, int, int]:
    """Return an integer, or a colour that Pillow knows the name of."""
    with contextlib.suppress(ValueError):
        return int(argument)
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(argument)[:3]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{argument} must be a number, or a colour such as white or #ffffff"
        ) from error
    return red, green, blue


def _picture(argument: str) -> Path:
    """Refuse what could not be written anyway before the work is done rather than after it."""
    path = Path(argument)
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise argparse.ArgumentTypeError(f"{argument} must end in .png, .pdf or .svg")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"no folder {path.parent} to save {path.name} in")
    return path


def _demo(options: argparse.Namespace) -> int:
    try:
        _example("scribbles").main(options.out)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("matplotlib", "skimage"):
            raise
        return _fail("the demo needs matplotlib and scikit-image: pip install 'aproarray[examples]'")
    except OSError as error:
        return _fail(f"cannot save {options.out}: {error.strerror or error}")
    return 0


def _example(name: str) -> ModuleType:
    """Load an example, which lies in the installed package, and beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    path = package / "examples" / f"{name}.py"
    if not path.is_file():
        path = package.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"aproarray.examples.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _propagate(options: argparse.Namespace) -> int:
    import numpy as np

    from aproarray import _batch, _files, _large_files, _paint, propagate_labels

    suffixes = (*_files.LABEL_SUFFIXES, ".webp", ".bmp", ".gif")
    companion = _batch.Companion(options.scribbles, suffixes)

    def prepare(images: list[Path]) -> _batch.Work:
        several = _files.is_folder(options.scribbles)
        every = _colours_of_all(options, companion, images) if several else None

        def work(image_path: Path, paths: Sequence[Path], out: Path) -> dict[str, Any]:
            if _large_files.is_larger(image_path, options.in_memory):
                return _propagate_large(options, image_path, paths, out)
            raster = _files.read(image_path, any_size=options.any_size)
            image = _files.image_of(raster)
            scribbles = _files.read(paths[0], any_size=options.any_size)
            strokes = _paint.strokes(scribbles, raster, options.unlabelled)
            if every is not None:
                strokes = strokes.numbered(every)
            shape = strokes.numbers.shape
            if not options.overlay:
                _files.check_fits(out, shape)
            if not (strokes.numbers > 0).any():
                raise _files.FileError(f"{paths[0]} holds no labels: all of its pixels are unlabelled")
            mask = _mask(options, raster, image, len(shape), paths)
            edges, features = (
                _beside(options, name, image.shape[: len(shape)], paths) for name in ("edges", "features")
            )
            # A file that says how large its voxels are (NIfTI) says it for three axes.
            spacing = raster.spacing if raster.spacing and len(raster.spacing) == len(shape) else None
            found = propagate_labels(
                image, strokes.numbers, edges=edges, features=features,
                channel_axis=None if image.ndim == len(shape) else -1, mask=mask, spacing=spacing,
            )  # fmt: skip
            labels = strokes.as_in_file(found)
            if options.overlay:
                painted = _paint.overlay(image, found, strokes.colours, mask)
                _files.write(out, painted, coloured=True)
            else:
                _files.write_labels(out, labels, colours=strokes.colours, like=raster)
            values, counts = np.unique(labels, return_counts=True)
            report: dict[str, Any] = {
                "pixels": {str(value): int(count) for value, count in zip(values, counts, strict=True)}
            }
            if strokes.colours is not None:
                report["classes"] = {
                    str(number): _paint.hexadecimal(colour)
                    for number, colour in enumerate(strokes.colours, 1)
                }
            return report

        return work

    return _batch.run(options, [companion, *_companions(options)], prepare)


def _propagate_large(
    options: argparse.Namespace, image_path: Path, paths: Sequence[Path], out: Path
) -> dict[str, Any]:
    """Propagate over an image in chunks, into a zarr folder."""
    import dask.array as da

    from aproarray import _files, _large_files, _paint, propagate_labels

    if _files.suffix(out) != ".zarr":
        raise _files.FileError(
            f"{image_path} has more than {options.in_memory:g} megapixels, whose labels go to a .zarr, got "
            f"{out}; --in-memory says up to how many are computed in memory"
        )
    for name in ("overlay", "edges", "features"):
        if getattr(options, name):
            raise _files.FileError(
                f"{image_path} has more than {options.in_memory:g} megapixels: no --{name} then"
            )
    with contextlib.ExitStack() as stack:
        raster = stack.enter_context(_large_files.opened(image_path))
        image, labels, colours = raster.values, None, None
        if _large_files.is_larger(paths[0], 0):
            if options.unlabelled is not None:
                raise _files.FileError(
                    f"{paths[0]} is read in chunks, where --unlabelled is not known: it is 0"
                )
            labels = stack.enter_context(_large_files.opened(paths[0])).values
            if labels.shape not in raster.spatial_shapes:
                labels = None  # colours, say
        if labels is None:
            strokes = _paint.strokes(_files.read(paths[0], any_size=True), raster, options.unlabelled)
            labels, colours = da.from_array(strokes.numbers), strokes.colours
        shape = labels.shape
        nodata = raster.nodata if options.nodata is None else options.nodata
        mask = _large_files.valid(image, len(shape), nodata)
        if options.mask is not None:
            given = da.from_array(_files.read_mask(paths[1], shape, any_size=True))
            mask = given if mask is None else mask & given
        found = propagate_labels(
            image, labels, channel_axis=None if image.ndim == len(shape) else -1, mask=mask
        )
        written = _large_files.write(out, found, progress=sys.stderr.isatty() and not options.json)
    values, counts = da.compute(*da.unique(written, return_counts=True))
    report: dict[str, Any] = {
        "pixels": {str(value): int(count) for value, count in zip(values, counts, strict=True)}
    }
    if colours is not None:
        report["classes"] = {
            str(number): _paint.hexadecimal(colour) for number, colour in enumerate(colours, 1)
        }
    return report


def _colours_of_all(options: argparse.Namespace, companion: Any, images: list[Path]) -> Any:
    """Return the colours of all scribbles of a call, sorted, so that a class has one number in all."""
    import numpy as np

    from aproarray import _files, _paint

    found = [np.zeros((0, 3), np.uint8)]
    for image in images:
        with contextlib.suppress(OSError, ValueError, MemoryError):  # which is said when it is its turn
            raster = _files.read(companion.of(image), any_size=options.any_size)
            strokes = _paint.strokes(raster, unlabelled=options.unlabelled)
            if strokes.colours is not None:
                found.append(strokes.colours)
    return np.unique(np.concatenate(found), axis=0)


def _refine(options: argparse.Namespace) -> int:
    from aproarray import _batch, _files, refine

    companion = _batch.Companion(options.scores, (".npy",))

    def work(image_path: Path, paths: Sequence[Path], out: Path) -> dict[str, Any]:
        raster = _files.read(image_path, any_size=options.any_size)
        image = _files.image_of(raster)
        if _files.suffix(paths[0]) != ".npy":
            raise _files.FileError(f"{paths[0]} is no .npy file, which scores must be: the image comes first")
        scores = _files.read(paths[0]).values
        if scores.dtype.kind not in "fb":
            raise _files.FileError(
                f"{paths[0]} of dtype {scores.dtype} holds no scores, which are floats: an image or labels?"
            )
        n_spatial = len(raster.spatial_shapes[-1])
        mask = _mask(options, raster, image, n_spatial, paths)
        refined = refine(
            image, scores, mode=options.mode, class_axis=options.class_axis, spatial_ndim=n_spatial,
            channel_axis=-1 if image.ndim > n_spatial else None, mask=mask,
            edges=_beside(options, "edges", image.shape[:n_spatial], paths),
            features=_beside(options, "features", image.shape[:n_spatial], paths),
        )  # fmt: skip
        if _files.suffix(out) == ".npy":
            _files.write(out, refined)
        else:
            best = refined.argmax(options.class_axis) if refined.ndim > n_spatial else refined > 0.5
            _files.write_labels(out, best, like=raster)
        return {"shape": list(refined.shape)}

    return _batch.run(options, [companion, *_companions(options)], lambda _: work)


def _affinity(options: argparse.Namespace) -> int:
    from aproarray import _batch, _files, _paint, affinity_map

    def work(image_path: Path, paths: Sequence[Path], out: Path) -> dict[str, Any]:
        raster = _files.read(image_path, any_size=options.any_size)
        image = _files.image_of(raster)
        n_spatial = len(options.at)
        possible = {len(shape) for shape in raster.spatial_shapes}
        if n_spatial not in possible:
            indices = " or ".join(map(str, sorted(possible)))
            raise ValueError(
                f"a pixel of an image of shape {image.shape} has {indices} indices, got {n_spatial}"
            )
        _files.check_fits(out, image.shape[:n_spatial])
        affinity = affinity_map(
            image, tuple(options.at), kind=options.kind, spatial_ndim=n_spatial,
            channel_axis=-1 if image.ndim > n_spatial else None,
            mask=_mask(options, raster, image, n_spatial, paths),
        )  # fmt: skip
        as_numbers = _files.suffix(out) in (".npy", ".nii", ".nii.gz")
        _files.write(out, affinity if as_numbers else _paint.grey(affinity), like=raster)
        return {"at": options.at}

    return _batch.run(options, _companions(options), lambda _: work)


# Options that name a file for each image, in the order in which the files come after the others.
_BESIDE = ("mask", "edges", "features")


def _companions(options: argparse.Namespace) -> list[Any]:
    """Return the places of the options of `_BESIDE` that were given."""
    from aproarray import _batch, _files

    return [_batch.Companion(getattr(options, name), _files.LABEL_SUFFIXES) for name in _given(options)]


def _given(options: argparse.Namespace) -> list[str]:
    return [name for name in _BESIDE if getattr(options, name, None) is not None]


def _beside(
    options: argparse.Namespace, name: str, spatial_shape: tuple[int, ...], paths: Sequence[Path]
) -> Any:
    """Return what is in the file of an option of `_BESIDE` for an image; None: it was not given.

    `paths` are the image's companions, those of `_companions` last.
    """
    from aproarray import _files

    given = _given(options)
    if name not in given:
        return None
    read = {"mask": _files.read_mask, "edges": _files.read_edges, "features": _files.read_features}[name]
    return read(paths[given.index(name) - len(given)], spatial_shape, any_size=options.any_size)


def _mask(options: argparse.Namespace, raster: Any, image: Any, n_spatial: int, paths: Sequence[Path]) -> Any:
    """Return where pixels hold data and are in the mask of the call, None: everywhere."""
    from aproarray import _files

    nodata = raster.nodata if options.nodata is None else options.nodata
    mask = _files.valid(image, n_spatial, nodata)
    given = _beside(options, "mask", image.shape[:n_spatial], paths)
    if given is None:
        return mask
    return given if mask is None else mask & given


def _fail(message: str) -> int:
    print(f"aproarray: error: {message}", file=sys.stderr)
    return 1


def _info(_options: argparse.Namespace) -> int:
    print(f"aproarray: {aproarray.__version__}")
    for name in ("numpy", "numba", "llvmlite", "cupy", "scikit-image", "scipy", "torch", "jax", "dask"):
        print(f"{name}: {_version(name)}")
    print(f"Python: {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(f"processor: {_processor()}")
    print(f"cpu backend (NumPy arrays): {_cpu()}")
    print(f"gpu backend (CuPy arrays): {_gpu()}")
    return 0


def _version(name: str) -> str:
    """Return the version that is installed of a library; CuPy's wheels are named after CUDA's versions."""
    names = ("cupy-cuda13x", "cupy-cuda12x", "cupy") if name == "cupy" else (name,)
    for distribution in names:
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        return version if distribution == name else f"{version} ({distribution})"
    return "not installed"


def _processor() -> str:
    """Return what Numba's compiler knows of the processor."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    vectors = [name for name in ("sse4.2", "avx2", "fma", "avx512f", "neon", "sve") if features.get(name)]
    return f"{binding.get_host_cpu_name()} with {', '.join(vectors) or 'no vectors that we know of'}"


def _cpu() -> str:
    from aproarray import cpu
    from aproarray.cpu._processor import sweeps

    name = sweeps.__name__.rpartition(".")[2]
    return f"available, {cpu.available_workers()} CPUs, sweeps by {name}"


def _gpu() -> str:
    try:
        import cupy

        # Arithmetic on the device: what a broken installation fails at last.
        device = cupy.cuda.Device()
        assert int(cupy.arange(3).sum()) == 3
        name = cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()
        driver = cupy.cuda.runtime.driverGetVersion()
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise
        return "not available: CuPy is not installed; pip install 'aproarray[cuda13]' or 'aproarray[cuda12]'"
    except Exception as error:  # drivers and libraries fail in many ways, each with its own error
        return f"not available: {type(error).__name__}: {error}"
    capability = f"{device.compute_capability[:-1]}.{device.compute_capability[-1]}"
    return (
        f"available, {name}, compute capability {capability}, driver for CUDA "
        f"{driver // 1000}.{driver % 1000 // 10}"
    )


if __name__ == "__main__":
    sys.exit(main())
