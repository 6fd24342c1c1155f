"""Run the scripts of the gallery and save their figures, as docs/gallery.md shows them.

Run it with ``python docs/draw_gallery.py --out docs/images``. Names, such as ``clicks``, draw some alone.
"""

from __future__ import annotations

import argparse
import re
import runpy
import time
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib
import numpy as np
import PIL.Image
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

DOCS = Path(__file__).parent
# In the order of the page, which is from simple to less so.
NAMES = re.findall(r"\(gallery/plot_(\w+)\.py\)", (DOCS / "gallery.md").read_text(encoding="utf-8"))
SCRIPTS = {name: DOCS / "gallery" / f"plot_{name}.py" for name in NAMES}


class Place:
    """The place of a script in the gallery; programs follow one another by name."""

    def __init__(self, folder: str):
        """Sphinx-Gallery makes one for each folder."""

    def __call__(self, file_name: str) -> tuple[int, str]:
        """Return what to sort by."""
        name = Path(file_name).stem.removeprefix("plot_")
        return (NAMES.index(name) if name in NAMES else len(NAMES), name)


def drawn(name: str) -> tuple[Figure, dict[str, Any]]:
    """Run a script without a screen; return its figure and its variables."""
    matplotlib.use("agg")
    plt.close("all")
    with mock.patch.object(plt, "show"):
        variables = runpy.run_path(str(SCRIPTS[name]))
    return plt.gcf(), variables


def save(figure: Figure, path: Path) -> None:
    """Save a figure as a PNG of 256 colours, which is a third of the size."""
    figure.set_dpi(80)
    figure.canvas.draw()
    picture = PIL.Image.fromarray(np.array(figure.canvas.buffer_rgba())[..., :3])
    picture = picture.quantize(256, PIL.Image.Quantize.FASTOCTREE, dither=PIL.Image.Dither.NONE)
    picture.save(path, optimize=True)


def main() -> None:
    """Draw the figures that are named on the command line."""
    parser = argparse.ArgumentParser(description="Draw the gallery's figures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCRIPTS)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="FOLDER", help="where (default: here)")
    options = parser.parse_args()
    for name in options.names:
        if name not in SCRIPTS:
            parser.error(f"no script is called {name}, there are {', '.join(SCRIPTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or SCRIPTS:
        path = options.out / f"gallery_{name}.png"
        start = time.perf_counter()
        save(drawn(name)[0], path)
        print(f"saved {path} after {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
