"""The command line: `aproarray demo` (or `python -m aproarray demo`) runs an example, `aproarray info` tells
versions and backends."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType

import aproarray


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
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
    demo.set_defaults(run=lambda options: _demo(options.out))
    info = commands.add_parser(
        "info",
        help="print versions, the backends found, and why one is not available",
        description="Print versions, the backends found, and why one is not available.",
    )
    info.set_defaults(run=lambda _: _info())
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code


def _info() -> int:
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


def _demo(out: Path) -> int:
    try:
        _example("scribbles").main(out)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("matplotlib", "skimage"):
            raise
        return _fail("the demo needs matplotlib and scikit-image: pip install 'aproarray[examples]'")
    except OSError as error:
        return _fail(f"cannot save {out}: {error.strerror or error}")
    return 0


def _picture(argument: str) -> Path:
    """Refuse what could not be written anyway before the work is done rather than after it."""
    path = Path(argument)
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise argparse.ArgumentTypeError(f"{argument} must end in .png, .pdf or .svg")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"no folder {path.parent} to save {path.name} in")
    return path


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


def _fail(message: str) -> int:
    print(f"aproarray: error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
