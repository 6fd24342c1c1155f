"""The napari plugin, which `napari.yaml` announces: labels of all pixels, after every stroke.

Only what concerns layers and widgets is here; napari imports it when the widget is opened.
"""

from __future__ import annotations

import time
from typing import Any

import napari
import numpy as np
from magicgui.widgets import CheckBox, ComboBox, Container, Label, PushButton
from napari.layers import Image, Labels
from numpy.typing import NDArray
from superqt.utils import qdebounced

from aproarray._labels import LabelPropagator

# A stroke's end, which may be told before the data changes; new data; and all that undo tells.
_CHANGES = ("paint", "data", "set_data")
# Pieces of a stroke come faster than this.
_PAUSE_MS = 50


class PropagateLabels(Container):  # type: ignore[misc]  # magicgui is not there where types are checked
    """A widget that turns the strokes of a Labels layer into the labels of all pixels of an Image layer.

    The labels are in a layer of their own, which follows every stroke, undo included, while `live` is
    ticked. Everything that depends on the image alone is computed once (`LabelPropagator`).

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Whose layers there are to choose from.
    """

    def __init__(self, viewer: napari.viewer.Viewer):
        """Make the widget, and propagate if there are strokes already."""
        self._viewer = viewer
        self._result: Labels | None = None
        self._placed_by: tuple[Image, Labels] | None = None
        self._watched: Labels | None = None
        self._last_strokes: NDArray[Any] | None = None
        self._prepared: tuple[Any, Any, LabelPropagator] | None = None  # image, edges, and what is made of it
        self.image = ComboBox(label="image", choices=self._images)
        self.strokes = ComboBox(label="strokes", choices=self._strokes)
        self.edges = ComboBox(
            label="edges", choices=self._maps, value=None, nullable=True,
            tooltip="a map of boundaries of the image's shape, higher where they are: a membrane stain, say",
        )  # fmt: skip
        self.live = CheckBox(label="live", value=True, tooltip="propagate after every stroke")
        self.run = PushButton(label="Propagate")
        self.status = Label(value="")
        super().__init__(widgets=[self.image, self.strokes, self.edges, self.live, self.run, self.status])
        self._after_a_pause = qdebounced(self._follow, timeout=_PAUSE_MS)
        self.image.changed.connect(self._follow)
        self.strokes.changed.connect(self._watch)
        self.edges.changed.connect(self._follow)
        self.live.changed.connect(self._follow)
        self.run.changed.connect(self.propagate)
        self._watch()

    def _images(self, _: Any = None) -> list[Image]:
        return [layer for layer in self._viewer.layers if isinstance(layer, Image)]

    def _maps(self, _: Any = None) -> list[Image]:
        return [layer for layer in self._images() if not layer.rgb]

    def _strokes(self, _: Any = None) -> list[Labels]:
        return [
            layer for layer in self._viewer.layers if isinstance(layer, Labels) and layer is not self._result
        ]

    def _watch(self) -> None:
        """Follow the layer that is chosen for strokes, and no other."""
        if self._watched is not None:
            for event in map(self._watched.events.__getattr__, _CHANGES):
                event.disconnect(self._later)
        self._watched, self._last_strokes = self.strokes.value, None
        if self._watched is not None:
            for event in map(self._watched.events.__getattr__, _CHANGES):
                event.connect(self._later)
        self._follow()

    def _later(self, _: Any = None) -> None:
        self._after_a_pause()

    def _follow(self, _: Any = None) -> None:
        """Propagate if it is wanted and there is anything new."""
        image, strokes = self.image.value, self.strokes.value
        if not self.live.value or image is None or strokes is None:
            return
        marks = np.asarray(strokes.data)
        new_image = not self._is_prepared(image)
        if new_image or self._last_strokes is None or not np.array_equal(marks, self._last_strokes):
            self.propagate()

    def propagate(self, _: Any = None) -> None:
        """Propagate the strokes, and show the labels, or say what is wrong."""
        image, strokes = self.image.value, self.strokes.value
        if image is None or strokes is None:
            self.status.value = "choose an image, and a Labels layer of strokes"
            return
        marks = np.asarray(strokes.data)
        start = time.perf_counter()
        try:
            propagator = self._propagator(image)
            is_empty = marks.shape == propagator.shape and not (marks > 0).any()
            labels = marks.copy() if is_empty else propagator.propagate(marks)
        except (TypeError, ValueError) as problem:
            self.status.value = str(problem)
            return
        finally:
            self._last_strokes = marks.copy()
        milliseconds = 1e3 * (time.perf_counter() - start)
        n_labels = len(np.unique(marks[marks > 0]))
        self.status.value = f"{n_labels} label{'s' * (n_labels != 1)}: {milliseconds:.0f} ms"
        self._show(labels, image, strokes)

    def _edges_data(self) -> Any:
        return None if self.edges.value is None else self.edges.value.data

    def _is_prepared(self, image: Image) -> bool:
        prepared = self._prepared
        return prepared is not None and prepared[0] is image.data and prepared[1] is self._edges_data()

    def _propagator(self, image: Image) -> LabelPropagator:
        if self._prepared is None or not self._is_prepared(image):
            pixels = _finest(image)
            edges = None if self.edges.value is None else _finest(self.edges.value)
            if image.rgb:  # without alpha
                made = LabelPropagator(pixels[..., :3], edges=edges, spatial_ndim=pixels.ndim - 1)
            else:
                made = LabelPropagator(pixels, edges=edges, spatial_ndim=pixels.ndim, channel_axis=None)
            self._prepared = image.data, self._edges_data(), made
        return self._prepared[2]

    def _show(self, labels: NDArray[Any], image: Image, strokes: Labels) -> None:
        """Put labels into their layer: over the image, below the strokes, in the colours of the strokes."""
        if self._result is not None and self._result in self._viewer.layers:
            if self._placed_by == (image, strokes) and self._result.ndim == labels.ndim:
                self._result.data = labels
                return
            self._viewer.layers.remove(self._result)
        active = self._viewer.layers.selection.active
        self._result = Labels(
            labels, name="propagated", opacity=0.4, colormap=strokes.colormap, scale=image.scale,
            translate=image.translate, rotate=image.rotate, shear=image.shear, affine=image.affine,
        )  # fmt: skip
        self._placed_by = image, strokes
        self._viewer.layers.insert(self._viewer.layers.index(strokes), self._result)
        self._viewer.layers.selection.active = active  # whoever draws goes on drawing


def _finest(image: Image) -> NDArray[Any]:
    """Return the pixels of a layer, those of the finest level where it has several."""
    return np.asarray(image.data[0] if image.multiscale else image.data)
