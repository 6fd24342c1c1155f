"""The napari plugin, on napari's model of a viewer; and in a window, where there is a display."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

# Qt draws nowhere, but needs no display: the model of a viewer has no canvas.
DISPLAY = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
if not DISPLAY:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("napari", reason="napari is not installed: pip install '.[napari]' PyQt6 pytest-qt")
pytest.importorskip("pytestqt", reason="pytest-qt is not installed")
pytest.importorskip("qtpy.QtWidgets", reason="no Qt binding is installed", exc_type=Exception)

import npe2  # noqa: E402

import aproarray  # noqa: E402
from aproarray import LabelPropagator, propagate_labels  # noqa: E402
from aproarray._napari import PropagateLabels  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def viewer(qtbot):
    from napari.components import ViewerModel

    return ViewerModel()


@pytest.fixture
def photograph():
    rng = np.random.default_rng(0)
    image = np.full((40, 60, 3), 60, np.uint8)
    image[8:30, 20:45] = 180, 120, 60
    return image + rng.integers(0, 9, image.shape, np.uint8)


@pytest.fixture
def result(viewer, qtbot):
    """Wait for a result that is as it should be, and return it: changes are followed after a pause."""

    def wait(expected):
        qtbot.waitUntil(lambda: "propagated" in viewer.layers and expected(viewer.layers["propagated"].data))
        return viewer.layers["propagated"]

    return wait


@pytest.fixture
def widget(viewer, photograph):
    viewer.add_image(photograph, name="photograph", scale=(2, 3))
    viewer.add_labels(np.zeros((40, 60), int), name="strokes", scale=(2, 3))
    widget = PropagateLabels(viewer)
    return widget


def draw(layer):
    layer.paint((3, 3), 1)
    layer.paint((20, 30), 2)


def test_follows_every_stroke(viewer, widget, photograph, result):
    strokes = viewer.layers["strokes"]
    strokes.paint((3, 3), 1)
    result(lambda labels: (labels == 1).all())
    strokes.paint((20, 30), 2)
    labels = result(lambda labels: (labels == 2).any()).data
    assert np.array_equal(labels, propagate_labels(photograph, strokes.data))
    assert (labels[10:28, 22:43] == 2).all()
    assert widget.status.value.startswith("2 labels")
    assert np.array_equal(np.unique(strokes.data), [0, 1, 2])  # the strokes themselves are left alone


def test_follows_undo_and_new_data(viewer, widget, result):
    strokes = viewer.layers["strokes"]
    draw(strokes)
    result(lambda labels: (labels == 2).any())
    strokes.undo()
    result(lambda labels: (labels == 1).all())
    strokes.redo()
    result(lambda labels: (labels == 2).any())
    strokes.data = np.full((40, 60), 7)
    assert np.array_equal(result(lambda labels: (labels == 7).all()).data, strokes.data)


def test_what_depends_on_the_image_is_computed_once(viewer, widget, result, monkeypatch):
    made = []
    monkeypatch.setattr(
        "aproarray._napari.LabelPropagator", lambda *a, **k: made.append(1) or LabelPropagator(*a, **k)
    )
    strokes, image = viewer.layers["strokes"], viewer.layers["photograph"]
    image.data = image.data[::-1].copy()
    strokes.paint((3, 3), 1)
    result(lambda labels: (labels == 1).all())
    strokes.paint((20, 30), 2)
    result(lambda labels: (labels == 2).any())
    assert len(made) == 1
    image.data = image.data[::-1].copy()
    strokes.paint((3, 3), 3)
    result(lambda labels: (labels == 3).any())
    assert len(made) == 2


def test_follows_a_map_of_boundaries(viewer, widget, photograph, result):
    edges = np.zeros((40, 60))
    edges[:, 50] = 1
    viewer.add_image(edges, name="walls")
    widget.reset_choices()
    assert widget.edges.value is None
    assert viewer.layers["photograph"] not in widget.edges.choices
    strokes = viewer.layers["strokes"]
    draw(strokes)
    without = result(lambda labels: (labels == 2).any()).data
    widget.edges.value = viewer.layers["walls"]
    expected = propagate_labels(photograph, strokes.data, edges=edges)
    assert not np.array_equal(without, expected)
    result(lambda labels: np.array_equal(labels, expected))
    widget.edges.value = None
    result(lambda labels: np.array_equal(labels, without))


def test_only_on_demand(viewer, widget, qtbot):
    widget.live.value = False
    before = viewer.layers["propagated"].data
    draw(viewer.layers["strokes"])
    qtbot.wait(200)
    assert viewer.layers["propagated"].data is before
    widget.run.changed.emit(True)
    assert set(np.unique(viewer.layers["propagated"].data)) == {1, 2}


def test_result_lies_over_the_image_and_whoever_draws_goes_on(viewer, photograph, result):
    viewer.add_image(photograph, scale=(2, 3), translate=(5, 1))
    strokes = viewer.add_labels(np.zeros((40, 60), int), name="strokes", scale=(2, 3), translate=(5, 1))
    widget = PropagateLabels(viewer)
    draw(strokes)
    layer = result(lambda labels: (labels == 2).any())
    assert viewer.layers.index(layer) + 1 == viewer.layers.index(strokes)
    assert viewer.layers.selection.active is strokes
    assert layer.scale.tolist() == [2, 3]
    assert layer.translate.tolist() == [5, 1]
    widget.reset_choices()
    assert widget.strokes.choices == (strokes,)  # not its own result
    viewer.layers.remove(layer)
    strokes.paint((3, 50), 3)
    result(lambda labels: 3 in labels)


def test_another_image_and_other_strokes(viewer, widget, photograph, result, qtbot):
    viewer.add_image(photograph[:30, :30, 0].astype(float), name="grey")
    more = viewer.add_labels(np.zeros((30, 30), int), name="more")
    widget.reset_choices()
    widget.image.value = viewer.layers["grey"]
    assert "labels of shape (40, 60) do not fit the image: expected shape (30, 30)" in widget.status.value
    widget.strokes.value = more
    more.paint((3, 3), 5)
    before = result(lambda labels: (labels == 5).all()).data
    viewer.layers["strokes"].paint((30, 50), 9)
    qtbot.wait(200)
    assert viewer.layers["propagated"].data is before  # no longer watched


@pytest.mark.parametrize("kind", ["volume", "pyramid", "alpha"])
def test_kinds_of_images(viewer, photograph, result, kind):
    grey = photograph[..., 0].astype(np.float32)
    opaque = np.concatenate([photograph, np.full((40, 60, 1), 255, np.uint8)], -1)
    options = {
        "volume": {"data": np.stack([grey] * 4)},
        "pyramid": {"data": [photograph, photograph[::2, ::2]], "multiscale": True},
        "alpha": {"data": opaque, "rgb": True},
    }[kind]
    viewer.add_image(**options)
    strokes = viewer.add_labels(np.zeros((4, 40, 60) if kind == "volume" else (40, 60), int))
    widget = PropagateLabels(viewer)
    strokes.data[..., 3, 3], strokes.data[..., 20, 30] = 1, 2
    strokes.refresh()
    labels = result(lambda labels: (labels == 2).any()).data
    assert labels.shape == widget.strokes.value.data.shape
    assert (labels[..., 10:28, 22:43] == 2).all()


def test_nothing_to_work_on(viewer):
    widget = PropagateLabels(viewer)
    widget.propagate()
    assert widget.status.value.startswith("choose")


def manifest_of_the_plugin():
    return npe2.PluginManifest.from_file(Path(aproarray.__file__).with_name("napari.yaml"))


def test_manifest_leads_to_the_widget():
    manifest = manifest_of_the_plugin()
    (command,) = manifest.contributions.commands
    (widget,) = manifest.contributions.widgets
    assert widget.command == command.id
    assert command.python_name == f"{PropagateLabels.__module__}:{PropagateLabels.__qualname__}"


@pytest.mark.skipif(not DISPLAY, reason="a window needs a display (try xvfb-run)")
def test_in_a_window(make_napari_viewer, photograph, qtbot):
    viewer = make_napari_viewer()
    viewer.add_image(photograph)
    plugins = npe2.PluginManager.instance()
    if "aproarray" not in plugins:  # in a checkout that is not installed
        plugins.register(manifest_of_the_plugin())
    _, widget = viewer.window.add_plugin_dock_widget("aproarray", "Propagate labels")
    strokes = viewer.add_labels(np.zeros((40, 60), int))  # a layer of which the widget is told
    draw(strokes)
    qtbot.waitUntil(lambda: "propagated" in viewer.layers and (viewer.layers["propagated"].data == 2).any())
    assert np.array_equal(viewer.layers["propagated"].data, propagate_labels(photograph, strokes.data))
    assert widget.strokes.choices == (strokes,)
