"""A notebook's widget to paint strokes on an image: the function that makes one, without the widget itself.

`_painter.py` holds what needs anywidget; `_pictures.py` turns arrays into pictures for the browser;
`painter.js` and `painter.css` run in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from numpy.typing import ArrayLike

from aproarray import _arrays

if TYPE_CHECKING:
    from aproarray._widget._painter import Painter

__all__ = ["widget"]


@_arrays.takes_dlpack
def widget(
    image: ArrayLike,
    classes: int | Sequence[str] | Mapping[str, str | Sequence[int] | None] = ("object", "background"),
    *,
    strokes: ArrayLike | None = None,
    extent: Literal["image", "window"] | None = None,
    channel_axis: int | Literal["auto"] | None = "auto",
    mask: ArrayLike | None = None,
    convert2lab: bool | None = None,
) -> Painter:
    """Return a notebook's widget to paint strokes on an image, and to see all labels after each stroke.

    It runs wherever anywidget does: Jupyter, VS Code, Colab, marimo. Labels are those of `LabelPropagator`.
    ``painter = aproarray.widget(image, ["cat", "dog"])`` and a line ``painter`` are a cell.

    Parameters
    ----------
    image : array_like
        A 2-D image, at any scale: bool, integer or float, (H, W), or with channels. Arrays on a device are
        copied to the host, which shows them and computes labels.
    classes : int, sequence of str, or mapping
        The classes to paint, 1 to 255 of them: their number, their names, or their names with colors
        ("#rrggbb", three integers from 0 to 255, or None). The first is label 1.
    strokes : array_like of int, optional
        (H, W): strokes to begin with, such as those of an earlier session. 0: unlabelled.
    extent : str, optional
        Pixels that a stroke is propagated over: those of the whole "image", or those of the "window" that
        is seen. Labels outside of the window stay. None: the image, if it has at most 4 million pixels.
    channel_axis : int, None or "auto"
        Axis of the channels; None: there is none. "auto": the last one of three axes, if it has at most 4.
    mask : array_like of bool, optional
        (H, W): True where a pixel takes part. NaN is allowed elsewhere.
    convert2lab : bool or None
        As for `propagate_labels`.

    Returns
    -------
    Painter
        The widget. Show it as the last value of a cell. Any time, also from other cells, it has

        * ``labels``: read-only uint8 array (H, W), 0 where no stroke reaches. ``observe(function, "labels")``
          calls a function after every change.
        * ``strokes``: read-only uint8 array (H, W), 0 where none is. Another array may be assigned.
        * ``classes``: a list of names with colors. What this function takes for it may be assigned.
        * ``brush_size`` (pixels), ``active`` (the class to paint with, 0: the eraser), ``opacity`` (of
          labels, 0 to 1), ``extent``: may be assigned.
        * ``undo()``, ``redo()``, and ``save(path)``.

    Raises
    ------
    ImportError
        anywidget is not installed.
    TypeError
        An argument of the wrong kind.
    ValueError
        An image that is not 2-D, shapes that do not fit, no or too many classes, two of one name, a color
        that is none, strokes of a class that is not there, NaN or inf in the image.

    Notes
    -----
    A stroke on an image of N pixels costs what `LabelPropagator.propagate` does over the extent, and O(N) to
    compress labels for the browser and for undo. Images of more than 2 million pixels are shown scaled, and
    what is seen after zooming in is shown in full. The image is not copied: leave it as it is.
    """
    try:
        import anywidget  # noqa: F401
    except ImportError as error:
        raise ImportError("aproarray.widget needs anywidget: pip install 'aproarray[widget]'") from error
    from aproarray._widget._painter import Painter

    return Painter(
        image,
        classes,
        strokes=strokes,
        extent=extent,
        channel_axis=channel_axis,
        mask=mask,
        convert2lab=convert2lab,
    )
