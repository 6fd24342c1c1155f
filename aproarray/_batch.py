"""Do a command's work for each image of a call: where to write, what to report, how to go on after errors."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aproarray import _files


class Companion(NamedTuple):
    """The files beside the images: one for all of them, or a folder with one of each image's name."""

    place: Path
    suffixes: tuple[str, ...]

    def of(self, image: Path) -> Path:
        """Return the file that belongs to an image."""
        if not _files.is_folder(self.place):
            return self.place
        found = {
            _files.suffix(path): path
            for path in sorted(self.place.iterdir())
            if not _files.hidden(path) and _files.stem(path) == _files.stem(image)
        }
        for suffix in self.suffixes:
            if suffix in found and _files.is_image(found[suffix]):
                return found[suffix]
        raise _files.FileError(f"no {_files.stem(image)}{{{','.join(self.suffixes)}}} in {self.place}")


Work = Callable[[Path, Sequence[Path], Path], dict[str, Any]]
"""Do the work for an image, with its companions, into a file; return what to report."""


def run(
    options: argparse.Namespace,
    companions: Sequence[Companion],
    prepare: Callable[[list[Path]], Work],
) -> int:
    """Do the work for each image; go on after an error, and return the exit code."""
    try:
        outs = _outputs(options, companions)
        work = prepare(list(outs))
    except (OSError, ValueError) as error:
        return _report(options, {"image": options.image, "error": _in_words(error)}, print)
    start, failed = time.perf_counter(), 0
    with _progress(outs) as (images, say):
        for image in images:
            failed += _report(options, _one(image, outs[image], companions, work), say)
    if len(outs) > 1 and not options.json:
        seconds = time.perf_counter() - start
        print(
            f"aproarray: {len(outs) - failed} of {len(outs)} images done, {failed} failed; {seconds:.1f} s",
            file=sys.stderr,
        )
    return int(failed > 0)


def _one(image: Path, out: Path, companions: Sequence[Companion], work: Work) -> dict[str, Any]:
    """Do the work for one image, and return the report of it."""
    start = time.perf_counter()
    report: dict[str, Any] = {"image": str(image), "out": str(out)}
    try:
        if _files.suffix(out) not in _files.LABEL_SUFFIXES:
            raise _files.FileError(f"{out} must end in {', '.join(_files.LABEL_SUFFIXES)}")
        if not out.parent.is_dir():
            raise _files.FileError(f"no folder {out.parent} to save {out.name} in")
        report |= work(image, [companion.of(image) for companion in companions], out)
        report["seconds"] = round(time.perf_counter() - start, 3)
    except _files.FileError as error:
        report["error"] = str(error)
    except MemoryError as error:
        report["error"] = f"{image}: not enough memory{f': {error}' if str(error) else ''}"
    except (OSError, TypeError, ValueError) as error:
        report["error"] = f"{image}: {_in_words(error)}"
    return report


def _outputs(options: argparse.Namespace, companions: Sequence[Companion]) -> dict[Path, Path]:
    """Return where to write what is made of each image: to a file of its own, which is no input."""
    images = _files.listed(options.image)
    out: Path = options.out
    several = len(images) > 1 or not _files.is_image(Path(options.image))
    if several and out.suffix and not _files.is_folder(out):
        raise ValueError(f"{len(images)} images need a folder to write to, got {out}")
    outs = {image: _inside(out, image) if several or _files.is_folder(out) else out for image in images}

    inputs = {_identity(image) for image in images}
    for companion in companions:
        for image in images:
            with contextlib.suppress(ValueError):  # which is said when it is this image's turn
                inputs.add(_identity(companion.of(image)))
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


def _inside(folder: Path, image: Path) -> Path:
    """Return the file in a folder for what is made of an image: a volume of voxels does not fit a PNG."""
    suffix = ".nii.gz" if _files.suffix(image) in (".nii", ".nii.gz") else ".png"
    return folder / (_files.stem(image) + suffix)


def _identity(path: Path) -> object:
    """Return what all names of a file have in common, links included."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def _in_words(error: Exception) -> str:
    """Return an error's message, of the system's errors without their numbers."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


@contextlib.contextmanager
def _progress(images: dict[Path, Path]) -> Iterator[tuple[Any, Callable[..., None]]]:
    """Show on a terminal how far a call with several images is, by tqdm where it is installed."""
    tqdm = None
    if len(images) > 1 and sys.stderr.isatty():
        with contextlib.suppress(ModuleNotFoundError):
            tqdm = importlib.import_module("tqdm").tqdm
    if tqdm is None:
        yield images, print
    else:
        with tqdm(images, unit="image", leave=False) as bar:
            yield bar, tqdm.write


def _report(options: argparse.Namespace, report: dict[str, Any], say: Callable[..., None]) -> int:
    """Say how an image went, as JSON if asked for and in words only if it failed; return 1 if it did."""
    if options.json:
        say(json.dumps(report))
        sys.stdout.flush()
    elif "error" in report:
        say(f"aproarray: error: {report['error']}", file=sys.stderr)
    return int("error" in report)
