"""The command line: `aproarray COMMAND`, or `python -m aproarray COMMAND`."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import aproarray

# What reading and writing images needs beyond numpy: the extra `cli`.
_IMAGE_MODULES = {"PIL": "Pillow", "tifffile": "tifffile"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 if something failed (2: wrong usage)."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in _IMAGE_MODULES:
            raise
        return _fail(
            f"reading and writing images needs {_IMAGE_MODULES[module]}: pip install 'aproarray[cli]'"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aproarray", description="Affinity propagation on arrays.")
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
        description="Propagate the labels of scribbles to all pixels. SCRIBBLES is an image of that size: "
        "integers (0: unlabelled), or colours, each of which is a class (black or transparent: unlabelled). "
        "A .png of coloured scribbles gets their colours, other outputs get class numbers.",
    )
    _add_files(propagate, "scribbles", "SCRIBBLES", "a file, or a folder with a file of each image's name")
    propagate.add_argument(
        "--overlay", action="store_true", help="write the labels painted over the image, not the labels"
    )
    propagate.set_defaults(run=_propagate)

    refine = commands.add_parser(
        "refine",
        help="make coarse class scores follow an image",
        description="Refine soft class scores, an array (H, W, classes) of any size. "
        "A .npy output gets the refined scores, others the number of the best class, from 0.",
    )
    _add_files(refine, "scores", "SCORES", "a .npy file, or a folder with a .npy of each image's name")
    refine.add_argument(
        "--mode",
        choices=("local", "global", "global-local", "local-global", "parallel"),
        default="local",
        help="which propagation (default: %(default)s)",
    )
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
        help="a .png, .tif or .npy; for a folder or a pattern, a folder, in which .png files are written",
    )  # fmt: skip
    command.add_argument(
        "--json", action="store_true", help="print a line of JSON for each image, errors included"
    )


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
    from aproarray import _files, propagate_labels

    def work(image_path: Path, scribbles_path: Path, out: Path) -> dict[str, Any]:
        image = _files.read_image(image_path)
        scribbles = _files.read_scribbles(scribbles_path, image.shape)
        labels = propagate_labels(image, scribbles.labels)
        if options.overlay:
            _files.write(out, _files.overlay(image, labels, scribbles.colours))
        else:
            _files.write_labels(out, labels, scribbles.colours)
        return {"pixels": {str(label): int((labels == label).sum()) for label in _distinct(labels)}}

    return _for_each(options, options.scribbles, _files.LABEL_SUFFIXES, work)


def _refine(options: argparse.Namespace) -> int:
    from aproarray import _files, refine

    def work(image_path: Path, scores_path: Path, out: Path) -> dict[str, Any]:
        scores = refine(_files.read_image(image_path), _files.read(scores_path), mode=options.mode)
        if out.suffix.lower() == ".npy":
            _files.write(out, scores)
        else:
            _files.write_labels(out, scores.argmax(-1) if scores.ndim == 3 else scores > 0.5)
        return {"shape": list(scores.shape)}

    return _for_each(options, options.scores, (".npy",), work)


def _affinity(options: argparse.Namespace) -> int:
    from aproarray import _files, affinity_map

    def work(image_path: Path, _: Path, out: Path) -> dict[str, Any]:
        image = _files.read_image(image_path)
        ndim = len(options.at)
        _files.check_spatial_ndim(image_path, image, ndim)
        _files.check_fits(out, image.shape[:ndim])
        affinity = affinity_map(image, options.at, kind=options.kind, channel_axis=-1, spatial_ndim=ndim)
        _files.write(out, affinity if out.suffix.lower() == ".npy" else _files.grey(affinity))
        return {"at": options.at}

    return _for_each(options, None, (), work)


def _distinct(labels: Any) -> list[int]:
    import numpy as np

    return [int(label) for label in np.unique(labels)]


def _for_each(
    options: argparse.Namespace,
    evidence: Path | None,
    suffixes: tuple[str, ...],
    work: Callable[[Path, Path, Path], dict[str, Any]],
) -> int:
    """Do the work for each image and what belongs to it; go on after an error, and return the exit code."""
    from aproarray import _files

    try:
        outs = _outputs(options, evidence, suffixes)
    except (OSError, ValueError) as error:
        return _report(options, {"image": options.image, "error": str(error)})
    several = len(outs) > 1
    code = 0
    for number, (image, out) in enumerate(outs.items(), 1):
        if several and sys.stderr.isatty():
            print(f"\r{number}/{len(outs)} {image.name}\033[K", end="", file=sys.stderr, flush=True)
        start = time.perf_counter()
        report: dict[str, Any] = {"image": str(image), "out": str(out)}
        try:
            if out.suffix.lower() not in _files.LABEL_SUFFIXES:
                raise ValueError(f"{out} must end in {', '.join(_files.LABEL_SUFFIXES)}")
            if not out.parent.is_dir():
                raise FileNotFoundError(f"no folder {out.parent} to save {out.name} in")
            own = image if evidence is None else _belonging(evidence, image, suffixes)
            report |= work(image, own, out)
            report["seconds"] = round(time.perf_counter() - start, 3)
        except (OSError, TypeError, ValueError) as error:
            report["error"] = f"{image}: {error}"
        code |= _report(options, report)
    if several and sys.stderr.isatty():
        print(file=sys.stderr)
    return code


def _outputs(
    options: argparse.Namespace, evidence: Path | None, suffixes: tuple[str, ...]
) -> dict[Path, Path]:
    """Return where to write what is made of each image: to a file of its own, which is no input."""
    from aproarray import _files

    images = _files.listed(options.image)
    out: Path = options.out
    several = len(images) > 1 or not Path(options.image).is_file()
    if several and out.suffix and not out.is_dir():
        raise ValueError(f"{len(images)} images need a folder to write to, got {out}")
    outs = {image: out / f"{image.stem}.png" if several or out.is_dir() else out for image in images}

    inputs = {_identity(image) for image in images}
    if evidence is not None:
        for image in images:
            with contextlib.suppress(FileNotFoundError):  # which is said when it is this image's turn
                inputs.add(_identity(_belonging(evidence, image, suffixes)))
    written: dict[object, Path] = {}
    for image, path in outs.items():
        identity = _identity(path)
        if identity in inputs:
            raise ValueError(f"{path} is an input: what is made of {image} would be written over it")
        if identity in written:
            raise ValueError(f"{written[identity]} and {image} would both be written to {path}")
        written[identity] = image
    if several:
        out.mkdir(parents=True, exist_ok=True)
    return outs


def _identity(path: Path) -> object:
    """Return what all names of a file have in common, links included."""
    if not path.exists():
        return path.resolve()
    status = path.stat()
    return status.st_dev, status.st_ino


def _belonging(evidence: Path, image: Path, suffixes: tuple[str, ...]) -> Path:
    """Return the file of evidence that belongs to an image."""
    if not evidence.is_dir():
        return evidence
    for suffix in suffixes:
        path = evidence / (image.stem + suffix)
        if path.is_file():
            return path
    raise FileNotFoundError(f"no {image.stem}{{{','.join(suffixes)}}} in {evidence}")


def _report(options: argparse.Namespace, report: dict[str, Any]) -> int:
    """Say how an image went, as JSON if asked for and in words only if it failed; return the exit code."""
    if options.json:
        print(json.dumps(report), flush=True)
    elif "error" in report:
        _fail(report["error"])
    return int("error" in report)


def _fail(message: str) -> int:
    print(f"aproarray: error: {message}", file=sys.stderr)
    return 1


def _info(_options: argparse.Namespace) -> int:
    print(f"aproarray: {aproarray.__version__}")
    for name in ("numpy", "numba", "cupy", "scikit-image", "scipy", "torch"):
        print(f"{name}: {_version(name)}")
    print(f"Python: {platform.python_version()}, {platform.system()} {platform.machine()}")
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


def _cpu() -> str:
    try:
        from aproarray import cpu
    except ImportError as error:
        return f"not available: {error}; build it with `pip install .`"
    sweeps = cpu.sweeps.__name__.rpartition(".")[2]
    return f"available, {cpu.available_workers()} CPUs, sweeps by {sweeps}"


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
