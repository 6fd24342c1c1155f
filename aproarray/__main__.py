"""The command line: `aproarray demo`, or `python -m aproarray demo`, runs an example of examples/."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


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
    out = parser.parse_args(arguments).out

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
