"""The widget: keeps strokes, labels and their history, and answers the browser's messages.

All of it is here; `painter.js` draws what it is sent, and says what was painted.
"""

from __future__ import annotations

import colorsys
import itertools
import re
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anywidget
import numpy as np
import traitlets
from numpy.typing import ArrayLike, NDArray

from aproarray import _arrays, _dispatch, _files, _validate
from aproarray._labels import LabelPropagator
from aproarray._widget import _pictures
from aproarray._widget._pictures import Box

Labels = NDArray[np.uint8]

# Pixels of a picture in the browser.
_MOST_SHOWN = 1 << 21
# An image of more is propagated over in the window, unless something else is asked for.
_MOST_IN_TIME = 1 << 22
# A window of more takes seconds, and gigabytes.
_MOST_IN_WINDOW = 1 << 24
_MOST_CLASSES = 255
# Okabe and Ito's, which the colour-blind tell apart as well.
_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
_FORMATS = (".png", ".npy", ".npz")


class _Change(NamedTuple):
    """Strokes and labels of a box before a change, or after one that was undone."""

    box: Box
    strokes: bytes
    labels: bytes


class Painter(anywidget.AnyWidget):  # type: ignore[misc]  # anywidget has no types where they are checked
    """What `aproarray.widget` returns; its parameters and attributes are described there.

    Examples
    --------
    >>> import numpy as np
    >>> import aproarray
    >>> painter = aproarray.widget(np.zeros((6, 8)), classes={"cat": "#e69f00", "dog": None})
    >>> strokes = np.zeros((6, 8), int)
    >>> strokes[2, 1], strokes[2, 6] = 1, 2
    >>> painter.strokes = strokes
    >>> painter.labels[0].tolist()
    [1, 1, 1, 1, 2, 2, 2, 2]
    >>> painter.undo()
    >>> painter.labels[0].tolist()
    [0, 0, 0, 0, 0, 0, 0, 0]
    """

    _esm = Path(__file__).with_name("painter.js")
    _css = Path(__file__).with_name("painter.css")

    classes = traitlets.Any().tag(sync=True)
    active = traitlets.Int(1, min=0, max=_MOST_CLASSES).tag(sync=True)
    brush_size = traitlets.Float(9, min=1, max=999).tag(sync=True)
    opacity = traitlets.Float(0.5, min=0, max=1).tag(sync=True)
    extent = traitlets.Enum(("image", "window"), "image").tag(sync=True)
    labels = traitlets.Any(read_only=True)

    # Pictures: of the whole image, every `_step` pixels, and of `_box`, which is seen closer: its last
    # number is its own step.
    _shape = traitlets.List().tag(sync=True)
    _box = traitlets.List().tag(sync=True)
    _image = traitlets.Bytes().tag(sync=True)
    _image_labels = traitlets.Bytes().tag(sync=True)
    _image_strokes = traitlets.Bytes().tag(sync=True)
    _closer = traitlets.Bytes().tag(sync=True)
    _closer_labels = traitlets.Bytes().tag(sync=True)
    _closer_strokes = traitlets.Bytes().tag(sync=True)
    _step = traitlets.Int(1).tag(sync=True)
    _can_undo = traitlets.Bool(False).tag(sync=True)
    _can_redo = traitlets.Bool(False).tag(sync=True)
    _status = traitlets.Unicode("").tag(sync=True)
    _answered = traitlets.List(["", 0]).tag(sync=True)

    def __init__(
        self,
        image: ArrayLike,
        classes: Any,
        *,
        strokes: ArrayLike | None,
        extent: str | None,
        channel_axis: Any,
        mask: ArrayLike | None,
        convert2lab: bool | None,
    ):
        """Check all arguments, and make the image ready, and the pictures of it."""
        _dispatch.backend(image=image, strokes=strokes, mask=mask)
        image, strokes, mask = map(_arrays.on_host, (image, strokes, mask))
        if extent is not None:
            _validate.choice(extent, "extent", ("image", "window"))
        pixels = _validate.real_array(image, "image")
        layout = _validate.image_layout(pixels.shape, 2, channel_axis, batches=False)
        if layout.leading or 0 in layout.spatial:
            raise ValueError(
                f"image must be one 2-D image with pixels, (H, W) or with channels, got shape {pixels.shape}"
            )
        axis = layout.channel_axis
        self._pixels = pixels[..., None] if axis is None else np.moveaxis(pixels, axis, -1)
        takes_part = _validate.mask(mask, (), layout.spatial, f"an image of shape {pixels.shape}")
        self._mask = None if takes_part is None else takes_part.reshape(layout.spatial)
        self._convert2lab = convert2lab
        self._whole = Box(0, 0, *layout.spatial)
        self._prepared: tuple[Box, LabelPropagator] | None = None
        self._done: list[_Change] = []
        self._undone: list[_Change] = []
        self._strokes = _read_only(np.zeros(layout.spatial, np.uint8))
        if extent is None:
            extent = "image" if self._whole.size <= _MOST_IN_TIME else "window"

        super().__init__(classes=classes, extent=extent, _shape=list(layout.spatial))
        self.set_trait("labels", _read_only(np.zeros(layout.spatial, np.uint8)))
        self._shades = _pictures.Shades(self._pixels, self._mask)
        self._step = self._whole.step(_MOST_SHOWN)
        self._image = _pictures.png(self._shades.picture(self._whole, self._step))
        self._load_compiled()
        if extent == "image":
            self._propagator(self._whole)
        if strokes is not None:
            self.strokes = strokes
        self._show()
        self.observe(self._follow_classes, "classes")
        self.on_msg(self._receive)

    @traitlets.validate("classes")  # type: ignore[untyped-decorator]  # as above
    def _normal_classes(self, proposal: dict[str, Any]) -> list[dict[str, str]]:
        classes = _classes(proposal["value"])
        most = int(self._strokes.max())
        if len(classes) < most:
            raise ValueError(f"classes must be at least the {most} that strokes have, got {len(classes)}")
        return classes

    @property
    def strokes(self) -> Labels:
        """The strokes: read-only uint8 array (H, W), 0 where none is. Assigning an array can be undone."""
        return self._strokes

    @strokes.setter
    def strokes(self, strokes: ArrayLike) -> None:
        given = _validate.integer_array(strokes, "strokes", self._strokes.shape)
        low, high = given.min(), given.max()
        if low < 0 or high > len(self.classes):
            raise ValueError(
                f"strokes must be classes from 1 to {len(self.classes)}, or 0, got {low} to {high}"
            )
        taken = np.array(given, np.uint8)
        if self._mask is not None:
            taken *= self._mask
        self._change(taken, self._whole)

    def undo(self) -> None:
        """Take the last change of strokes back. Does nothing if there is none."""
        self._swap(self._done, self._undone, "taken back")

    def redo(self) -> None:
        """Make the last change again that was taken back. Does nothing if there is none."""
        self._swap(self._undone, self._done, "made again")

    def save(self, path: str | Path) -> None:
        """Write labels to a file, in one piece: a file that is there is replaced when all is written.

        Parameters
        ----------
        path : str or Path
            Ends in ".png" (numbers of classes, in their colors), ".npy", or ".npz": the arrays ``labels``,
            ``strokes``, ``names`` and ``colors`` of classes.

        Raises
        ------
        ValueError
            Another ending, or a file that cannot be written.
        """
        path = Path(path)
        palette = self._palette()[:, :3]

        def write(beside: Path) -> None:
            if path.suffix == ".png":
                beside.write_bytes(_pictures.png(self.labels, palette))
            elif path.suffix == ".npy":
                np.save(beside, self.labels)
            else:
                names = np.array([one["name"] for one in self.classes])
                np.savez_compressed(
                    beside, labels=self.labels, strokes=self._strokes, names=names, colors=palette[1:]
                )

        if path.suffix not in _FORMATS:
            raise ValueError(f"path must end in {' or '.join(_FORMATS)}, got {str(path)!r}")
        _files.write_whole(path, write)

    def _load_compiled(self) -> None:
        """Load compiled code, so that the first stroke is answered as fast as others."""
        small = LabelPropagator(np.zeros((8, 8, self._pixels.shape[-1])), channel_axis=-1)
        small.propagate(np.ones((8, 8), np.uint8))

    def _propagator(self, box: Box) -> LabelPropagator:
        """Return what is ready for the pixels of a box; the last one is kept."""
        if self._prepared is None or self._prepared[0] != box:
            self._prepared = None  # before the next one takes memory
            mask = None if self._mask is None else self._mask[box.slices]
            made = LabelPropagator(
                self._pixels[box.slices],
                channel_axis=-1,
                spatial_ndim=2,
                mask=mask,
                convert2lab=self._convert2lab,
            )
            self._prepared = box, made
        return self._prepared[1]

    def _change(self, strokes: Labels, box: Box) -> None:
        """Propagate strokes over a box; only if that works, take them, remember what was, and show all."""
        start = time.perf_counter()
        labels = np.zeros_like(self.labels) if box == self._whole else self.labels.copy()
        seeds = strokes[box.slices]
        labels[box.slices] = self._propagator(box).propagate(seeds) if seeds.any() else 0
        milliseconds = 1e3 * (time.perf_counter() - start)
        changed = _pictures.around((labels != self.labels) | (strokes != self._strokes))
        if changed is None:
            return
        self._done.append(self._packed(changed))
        self._undone.clear()
        self._take(strokes, labels)
        self._show()
        names = [self.classes[number - 1]["name"] for number in np.unique(seeds[seeds > 0])]
        self._status = f"{_listed(names)}: {milliseconds:.0f} ms" if names else "no strokes"

    def _packed(self, box: Box) -> _Change:
        return _Change(box, *(_pack(one[box.slices]) for one in (self._strokes, self.labels)))

    def _take(self, strokes: Labels, labels: Labels) -> None:
        self._strokes = _read_only(strokes)
        self.set_trait("labels", _read_only(labels))

    def _swap(self, taken: list[_Change], given: list[_Change], said: str) -> None:
        """Put strokes and labels back as they were beside the last change in one list, kept in the other."""
        if not taken:
            return
        change = taken.pop()
        given.append(self._packed(change.box))
        strokes, labels = self._strokes.copy(), self.labels.copy()
        for whole, packed in ((strokes, change.strokes), (labels, change.labels)):
            part = whole[change.box.slices]
            part[...] = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(part.shape)
        self._take(strokes, labels)
        self._show()
        self._status = said

    def _palette(self) -> Labels:
        """Return the colours (K + 1, 4) of labels; 0 is black, and not seen."""
        colors = [int(one["color"][at : at + 2], 16) for one in self.classes for at in (1, 3, 5)]
        palette = np.full((len(self.classes) + 1, 4), 255, np.uint8)
        palette[0] = 0
        palette[1:, :3] = np.reshape(colors, (-1, 3))
        return palette

    def _follow_classes(self, _: Any) -> None:
        self.active = min(self.active, len(self.classes))
        self._show()

    def _show(self) -> None:
        """Send pictures of labels and strokes, in one message."""
        palette = self._palette()
        with self.hold_sync():
            self._can_undo, self._can_redo = bool(self._done), bool(self._undone)
            self._image_labels, self._image_strokes = self._pair(self._whole, self._step, palette)
            if self._box:
                *corners, step = self._box
                self._closer_labels, self._closer_strokes = self._pair(Box(*corners), step, palette)

    def _pair(self, box: Box, step: int, palette: Labels) -> tuple[bytes, bytes]:
        labels = _pictures.every(self.labels[box.slices], step)
        strokes = _pictures.largest(self._strokes[box.slices], step)
        return _pictures.png(labels, palette), _pictures.png(strokes, palette)

    def _receive(self, _: Any, content: dict[str, Any], __: Any) -> None:
        """Do what a browser asks for, and tell it all in one message: also that it is done."""
        with self.hold_sync():
            try:
                self._act(content["actions"], self._inside(content["window"]))
            except (TypeError, ValueError, MemoryError) as problem:
                self._status = str(problem)
            finally:  # an interrupted browser waits no longer, either
                self._answered = content["message"]

    def _act(self, actions: list[dict[str, Any]], window: Box) -> None:
        for name, group in itertools.groupby(actions, lambda action: action["do"]):
            some = list(group)
            if name == "paint":  # strokes that waited for an answer are propagated together
                self._paint(some, window if self.extent == "window" else self._whole)
            elif name == "look":
                self._look(window if some[-1]["closer"] else None)
            else:
                for _ in some:
                    self.undo() if name == "undo" else self.redo()

    def _inside(self, corners: Sequence[float]) -> Box:
        """Return the box of pixels that corners (top, left, bottom, right) touch, inside of the image."""
        bottom, right = self._whole[2:]
        top, left = (
            int(min(max(at, 0), most - 1)) for at, most in zip(corners, (bottom, right), strict=False)
        )
        return Box(
            top,
            left,
            int(min(max(np.ceil(corners[2]), top + 1), bottom)),
            int(min(max(np.ceil(corners[3]), left + 1), right)),
        )

    def _look(self, box: Box | None) -> None:
        """Send pictures of a box of a large image, that is seen closer; None: the scaled image does."""
        with self.hold_sync():
            if box is None:
                self._box = []
                self._closer = self._closer_labels = self._closer_strokes = b""
            else:
                step = box.step(_MOST_SHOWN)
                self._box = [*box, step]
                self._closer = _pictures.png(self._shades.picture(box, step))
                self._closer_labels, self._closer_strokes = self._pair(box, step, self._palette())

    def _paint(self, actions: list[dict[str, Any]], box: Box) -> None:
        """Follow new strokes: brush their way, and propagate."""
        if box.size > _MOST_IN_WINDOW and self.extent == "window":
            raise ValueError(
                f"the window has {box.size / 1e6:.0f} million pixels, more than "
                f"{_MOST_IN_WINDOW / 1e6:.0f}: zoom in, or propagate over the image"
            )
        strokes = self._strokes.copy()
        for action in actions:
            label = _validate.integer(action["label"], "label", 0, len(self.classes))
            points = np.asarray(action["points"], np.float64).reshape(-1, 2)
            if points.size and (found := _pictures.brushed(points, action["size"], strokes.shape)):
                where, covered = found
                if self._mask is not None:
                    covered &= self._mask[where.slices]
                strokes[where.slices][covered] = label
        self._change(strokes, box)


def _read_only(array: Labels) -> Labels:
    array.flags.writeable = False
    return array


def _pack(array: Labels) -> bytes:
    return zlib.compress(array.tobytes(), 1)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} classes"


def _classes(classes: Any) -> list[dict[str, str]]:
    """Return names and colors of classes, however they are given."""
    if isinstance(classes, Mapping):
        pairs = list(classes.items())
    elif isinstance(classes, str | bytes) or not np.iterable(classes):
        if isinstance(classes, str | bytes):
            raise TypeError(f"classes must be a number, a sequence of names or a mapping, got {classes!r}")
        n_classes = _validate.integer(classes, "classes", 1, _MOST_CLASSES)
        pairs = [(str(number), None) for number in range(1, n_classes + 1)]
    else:
        pairs = [
            (one.get("name"), one.get("color")) if isinstance(one, Mapping) else (one, None)
            for one in classes
        ]
    if not 1 <= len(pairs) <= _MOST_CLASSES:
        raise ValueError(f"classes must be 1 to {_MOST_CLASSES}, got {len(pairs)}")
    for name, _ in pairs:
        if not isinstance(name, str):
            raise TypeError(f"classes must have str as names, got {name!r}")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"classes must have names that differ, got {names}")
    return [
        {"name": name, "color": _color(color, name, number)} for number, (name, color) in enumerate(pairs)
    ]


def _color(color: Any, name: str, number: int) -> str:
    """Return a color as #rrggbb; None: the one of a class by its number."""
    if color is None:
        if number < len(_COLORS):
            return _COLORS[number]
        return _hexadecimal(255 * part for part in colorsys.hsv_to_rgb(number * 0.61803398875 % 1, 0.8, 0.9))
    if isinstance(color, str):
        if not re.fullmatch("#[0-9a-fA-F]{6}", color):
            raise ValueError(f"classes[{name!r}] must be a color #rrggbb, got {color!r}")
        return color.lower()
    if np.ndim(color) != 1 or len(color) != 3:
        raise TypeError(f"classes[{name!r}] must be a color, #rrggbb or three integers, got {color!r}")
    return _hexadecimal(_validate.integer(part, f"classes[{name!r}]", 0, 255) for part in color)


def _hexadecimal(parts: Any) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in parts)
