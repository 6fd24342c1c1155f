"""The notebook's widget as Python sees it: messages of a browser in, labels and pictures out."""

import io
import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("anywidget", reason="anywidget is not installed: pip install '.[widget]'")
pytest.importorskip("PIL", reason="Pillow is not installed")

from PIL import Image

import aproarray
from aproarray._widget import _painter, _pictures
from aproarray._widget._pictures import Box

SHAPE = (40, 60)


def photograph(shape=SHAPE):
    """Return a photograph of a box on a plain ground."""
    rng = np.random.default_rng(0)
    image = np.full((*shape, 3), 60, np.uint8)
    image[shape[0] // 5 : 3 * shape[0] // 4, shape[1] // 3 : 3 * shape[1] // 4] = 180, 120, 60
    return image + rng.integers(0, 9, image.shape, np.uint8)


class Browser:
    """What `painter.js` does to a widget, without a picture."""

    def __init__(self, widget, window=None):
        self.widget = widget
        self.window = window or [0, 0, *widget.labels.shape]
        self.messages = 0

    def act(self, *actions):
        """Send actions in one message."""
        self.messages += 1
        message = {"message": ["a", self.messages], "window": self.window, "actions": list(actions)}
        try:
            self.widget._handle_custom_msg(message, [])
        finally:
            assert self.widget._answered == ["a", self.messages]

    def paint(self, label, *points, size=3):
        self.act(stroke(label, *points, size=size))


def stroke(label, *points, size=3):
    return {"do": "paint", "label": label, "size": size, "points": list(points)}


def decoded(picture):
    return np.asarray(Image.open(io.BytesIO(picture)))


@pytest.fixture
def widget():
    return aproarray.widget(photograph(), classes={"box": "#ff0000", "ground": None})


@pytest.fixture
def browser(widget):
    return Browser(widget)


def test_two_strokes_give_the_labels_of_the_propagator(widget, browser):
    assert not widget.labels.any()
    browser.paint(1, [20, 25], [20, 40])
    assert (widget.labels == 1).all()  # there is one class so far
    browser.paint(2, [2, 5], [36, 5])
    strokes = widget.strokes
    assert strokes[20, 30] == 1
    assert strokes[30, 5] == 2
    assert np.array_equal(widget.labels, aproarray.propagate_labels(photograph(), strokes))
    assert widget.labels[15, 35] == 1
    assert widget.labels[2, 58] == 2
    assert re.fullmatch(r"2 classes: \d+ ms", widget._status)


def test_undo_and_redo_give_back_every_state(widget, browser):
    states = [(widget.strokes, widget.labels)]
    for painted in (
        stroke(1, [20, 25], [20, 40]),
        stroke(2, [2, 5], [36, 5]),
        stroke(2, [10, 50]),
        stroke(0, [2, 5], [20, 5]),
    ):
        browser.act(painted)
        states.append((widget.strokes, widget.labels))

    def shows(state):
        return all(map(np.array_equal, (widget.strokes, widget.labels), state))

    assert not widget._can_redo
    for state in states[-2::-1]:
        browser.act({"do": "undo"})
        assert shows(state)
    assert not widget._can_undo
    widget.undo()  # does nothing
    for state in states[1:]:
        assert widget._can_redo
        widget.redo()
        assert shows(state)
    widget.redo()
    assert shows(states[-1])
    browser.act({"do": "undo"}, {"do": "undo"})
    browser.paint(1, [1, 1])
    assert not widget._can_redo  # another way was taken


def test_strokes_that_waited_are_propagated_and_undone_together(widget, browser):
    browser.act(stroke(1, [20, 30]), stroke(2, [3, 3]))
    assert set(np.unique(widget.labels)) == {1, 2}
    widget.undo()
    assert not widget.strokes.any()
    browser.act(stroke(1, [20, 30]), {"do": "undo"}, stroke(2, [3, 3]))
    assert set(np.unique(widget.strokes)) == {0, 2}


def test_erasing_the_last_stroke_leaves_no_label(widget, browser):
    browser.paint(1, [20, 30])
    browser.paint(0, [20, 30], size=9)
    assert not widget.strokes.any()
    assert not widget.labels.any()
    assert widget._status == "no strokes"


def test_pictures_are_those_of_the_arrays(widget, browser):
    assert np.array_equal(decoded(widget._image), photograph())
    browser.paint(1, [20, 25], [20, 40])
    browser.paint(2, [2, 5], [36, 5])
    for picture, array in ((widget._image_labels, widget.labels), (widget._image_strokes, widget.strokes)):
        assert np.array_equal(decoded(picture), array)
        rgba = np.asarray(Image.open(io.BytesIO(picture)).convert("RGBA"))
        assert (rgba[array == 1] == (255, 0, 0, 255)).all()
        assert (rgba[array == 2] == (0x56, 0xB4, 0xE9, 255)).all()  # the second default color
        assert (rgba[array == 0, 3] == 0).all()  # nothing is seen
    widget.classes = {"box": (0, 255, 0), "ground": None}
    picture = Image.open(io.BytesIO(widget._image_strokes)).convert("RGBA")
    assert (np.asarray(picture)[widget.strokes == 1] == (0, 255, 0, 255)).all()


def test_labels_are_observed_and_read_only(widget, browser):
    seen = []
    widget.observe(lambda change: seen.append(change["new"]), "labels")
    browser.paint(1, [20, 25])
    widget.undo()
    assert [labels.any() for labels in seen] == [True, False]
    for array in (widget.labels, widget.strokes):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    with pytest.raises(Exception, match="read-only"):
        widget.labels = np.zeros(SHAPE, np.uint8)


def test_strokes_are_assigned_and_undone(widget):
    strokes = np.zeros(SHAPE, np.int64)
    strokes[20, 30], strokes[2, 2] = 1, 2
    again = aproarray.widget(photograph(), 2, strokes=strokes)
    widget.strokes = strokes
    expected = aproarray.propagate_labels(photograph(), strokes)
    assert np.array_equal(widget.labels, expected)
    assert np.array_equal(again.labels, expected)
    strokes[:] = 0
    assert widget.strokes.any()  # a copy
    widget.undo()
    assert not widget.labels.any()
    for bad, error, message in (
        (strokes[1:], ValueError, r"strokes must .* \(39, 60\)"),
        (strokes - 1, ValueError, "strokes must be classes from 1 to 2, or 0, got -1 to -1"),
        (strokes + 3, ValueError, "got 3 to 3"),
        (strokes + 0.5, TypeError, "strokes must"),
    ):
        with pytest.raises(error, match=message):
            widget.strokes = bad
    assert not widget.labels.any()


def test_an_error_is_shown_and_nothing_changes(widget, browser):
    browser.paint(7, [20, 30])
    assert widget._status == "label must be between 0 and 2, got 7"
    assert not widget.strokes.any()
    assert not widget._can_undo


def test_a_browser_is_answered_whatever_goes_wrong(widget, browser, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(widget, "_paint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        browser.paint(1, [1, 1])


def test_strokes_outside_of_the_image_or_its_mask_are_none():
    image = photograph().astype(float)
    mask = np.ones(SHAPE, bool)
    mask[:, 50:] = False
    image[~mask] = np.nan
    widget = aproarray.widget(image, 2, mask=mask)
    browser = Browser(widget)
    browser.paint(1, [-30, -30], [-20, -5])
    browser.paint(1, [20, 55])
    assert not widget.strokes.any()
    assert not widget._can_undo
    browser.paint(2, [20, 45], [20, 99])
    assert widget.strokes[20, 49] == 2
    assert np.array_equal(widget.labels != 0, mask)
    widget.strokes = np.ones(SHAPE, int)
    assert np.array_equal(widget.strokes, mask)


@pytest.mark.parametrize("layout", ["grey", "first", "floats", "bands", "bool", "bytes swapped"])
def test_images_of_all_kinds(layout):
    image = photograph()
    grey = image[..., 0]
    given, options = {
        "grey": (grey, {}),
        "first": (np.moveaxis(image, -1, 0), {"channel_axis": 0}),
        "floats": (image / 255.0, {}),
        "bands": (np.repeat(grey[..., None], 7, -1), {"channel_axis": -1}),
        "bool": (grey > 100, {}),
        "bytes swapped": (grey.astype(">i4") * 1000, {}),
    }[layout]
    widget = aproarray.widget(given, 2, **options)
    browser = Browser(widget)
    browser.paint(1, [20, 30])
    browser.paint(2, [3, 3])
    assert widget.labels[25, 40] == 1
    assert widget.labels[38, 58] == 2
    picture = decoded(widget._image)
    assert picture.dtype == np.uint8
    assert picture.shape[:2] == SHAPE
    assert picture[20, 30].mean() > picture[2, 2].mean() + 50


def test_large_images_are_shown_scaled_and_in_full_where_looked_closer(monkeypatch):
    monkeypatch.setattr(_painter, "_MOST_SHOWN", 700)
    image = photograph((81, 122))
    widget = aproarray.widget(image, 2, extent="image")
    browser = Browser(widget)
    assert widget._step == 4
    assert decoded(widget._image).shape == (21, 31, 3)
    browser.paint(1, [40.5, 45], [40.5, 80], size=1)
    browser.paint(2, [3, 3])
    whole = aproarray.propagate_labels(image, widget.strokes)
    assert np.array_equal(widget.labels, whole)
    assert (decoded(widget._image_strokes)[10, 12:20] == 1).all()  # a thin line is still seen
    browser.window = [30.2, 40.7, 49.5, 69.1]
    browser.act({"do": "look", "closer": True})
    assert widget._box == [30, 40, 50, 70, 1]
    part = np.s_[30:50, 40:70]
    assert np.array_equal(decoded(widget._closer), image[part])
    assert np.array_equal(decoded(widget._closer_labels), whole[part])
    browser.paint(2, [41, 50], size=2)
    assert np.array_equal(decoded(widget._closer_strokes), widget.strokes[part])
    browser.act({"do": "look", "closer": False})
    assert widget._box == []
    assert widget._closer == b""


def test_propagation_in_the_window_leaves_the_rest():
    image = photograph()
    widget = aproarray.widget(image, 2, extent="window")
    browser = Browser(widget)
    browser.paint(1, [20, 30])
    assert (widget.labels == 1).all()
    browser.window = [0, 0, 40, 35.5]
    browser.paint(2, [3, 3])
    assert (widget.labels[:, 36:] == 1).all()
    inside = aproarray.propagate_labels(image[:, :36], widget.strokes[:, :36])
    assert np.array_equal(widget.labels[:, :36], inside)
    browser.paint(0, [3, 3], size=9)
    browser.paint(0, [20, 30], size=9)
    assert not widget.labels[:, :36].any()
    assert (widget.labels[:, 36:] == 1).all()
    for _ in range(2):
        browser.act({"do": "undo"})
    assert np.array_equal(widget.labels[:, :36], inside)


def test_a_window_that_takes_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(_painter, "_MOST_IN_TIME", 2000)
    monkeypatch.setattr(_painter, "_MOST_IN_WINDOW", 2100)
    widget = aproarray.widget(photograph())
    assert widget.extent == "window"
    browser = Browser(widget)
    browser.paint(1, [20, 30])
    assert widget._status.startswith("the window has 0 million pixels, more than 0: zoom in")
    assert not widget.strokes.any()
    browser.window = [5, 5, 30, 40]
    browser.paint(1, [20, 30])
    assert widget.labels[20, 30] == 1


@pytest.mark.parametrize("ending", ["png", "npy", "npz"])
def test_save(widget, browser, tmp_path, ending):
    browser.paint(1, [20, 25], [20, 40])
    browser.paint(2, [2, 5], [36, 5])
    path = tmp_path / f"labels.{ending}"
    path.write_bytes(b"old")
    widget.save(str(path))
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    if ending == "png":
        picture = Image.open(path)
        assert np.array_equal(np.asarray(picture), widget.labels)
        assert picture.getpalette()[:9] == [0, 0, 0, 255, 0, 0, 0x56, 0xB4, 0xE9]
    elif ending == "npy":
        assert np.array_equal(np.load(path), widget.labels)
    else:
        saved = np.load(path)
        assert np.array_equal(saved["labels"], widget.labels)
        assert saved["names"].tolist() == ["box", "ground"]
        classes = dict(zip(saved["names"].tolist(), saved["colors"].tolist(), strict=True))
        again = aproarray.widget(photograph(), classes, strokes=saved["strokes"])
        assert np.array_equal(again.labels, widget.labels)
        assert again.classes == widget.classes


def test_save_says_what_is_wrong(widget, tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.png or \.npy or \.npz, got .*labels\.jpg"):
        widget.save(tmp_path / "labels.jpg")
    with pytest.raises(ValueError, match="cannot be written: No such file"):
        widget.save(tmp_path / "nowhere" / "labels.png")


def test_classes_are_numbers_names_or_names_with_colors():
    image = np.zeros((4, 4))
    assert [one["name"] for one in aproarray.widget(image, 3).classes] == ["1", "2", "3"]
    assert [one["name"] for one in aproarray.widget(image).classes] == ["object", "background"]
    colors = [one["color"] for one in aproarray.widget(image, 255).classes]
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)
    assert len(set(colors)) > 200
    given = aproarray.widget(image, {"a": "#ABCDEF", "b": np.array([1, 2, 255])}).classes
    assert given == [{"name": "a", "color": "#abcdef"}, {"name": "b", "color": "#0102ff"}]


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (0, ValueError, "classes must be between 1 and 255, got 0"),
        (256, ValueError, "classes must be between 1 and 255, got 256"),
        ([], ValueError, "classes must be 1 to 255, got 0"),
        (1.5, TypeError, "classes must be an integer, got 1.5"),
        ("cat", TypeError, "classes must be a number, a sequence of names or a mapping, got 'cat'"),
        ([1, 2], TypeError, "classes must have str as names, got 1"),
        (["a", "a"], ValueError, "classes must have names that differ"),
        ({"a": "red"}, ValueError, r"classes\['a'\] must be a color #rrggbb, got 'red'"),
        ({"a": 3}, TypeError, r"classes\['a'\] must be a color, #rrggbb or three integers, got 3"),
        ({"a": (0, 0, 256)}, ValueError, r"classes\['a'\] must be between 0 and 255, got 256"),
        ({"a": (0.5, 0, 0)}, TypeError, r"classes\['a'\] must be an integer, got 0.5"),
    ],
)
def test_bad_classes(classes, error, message):
    with pytest.raises(error, match=message):
        aproarray.widget(np.zeros((4, 4)), classes)


def test_classes_that_strokes_have_stay(widget, browser):
    browser.paint(2, [3, 3])
    widget.active = 2
    with pytest.raises(ValueError, match="classes must be at least the 2 that strokes have, got 1"):
        widget.classes = ["one"]
    widget.undo()
    widget.classes = ["one"]
    assert widget.active == 1


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        (np.zeros((2, 4, 4, 3)), {}, ValueError, "image must be one 2-D image"),
        (np.zeros((0, 4)), {}, ValueError, "image must be one 2-D image with pixels"),
        (np.zeros((4, 4, 9)), {}, ValueError, "can be read in several ways"),
        (np.zeros((4, 4), complex), {}, TypeError, "image must hold"),
        (np.full((4, 4), np.nan), {}, ValueError, "image must be finite"),
        (np.zeros((4, 4)), {"mask": np.ones((3, 4), bool)}, ValueError, "mask of shape"),
        (np.zeros((4, 4)), {"extent": "view"}, ValueError, "extent must be one of 'image', 'window'"),
    ],
)
def test_bad_images(image, options, error, message):
    with pytest.raises(error, match=message):
        aproarray.widget(image, **options)


@pytest.mark.parametrize("size", [1, 2, 3.5, 8])
def test_a_brush_covers_what_is_near_its_way(size):
    rng = np.random.default_rng(1)
    shape = (30, 40)
    points = np.array([15, 20]) + np.cumsum(rng.normal(0, 4, (12, 2)), 0)
    box, covered = _pictures.brushed(points, size, shape)
    result = np.zeros(shape, bool)
    result[box.slices] = covered
    along = np.concatenate([np.linspace(a, b, 400) for a, b in itertools.pairwise(points)])
    middles = np.moveaxis(np.indices(shape), 0, -1)[..., None, :] + 0.5
    distance = np.hypot(*np.moveaxis(middles - along, -1, 0)).min(-1)
    held = np.zeros(shape, bool)
    inside = points[((points >= 0) & (points < shape)).all(1)].astype(int)
    held[tuple(inside.T)] = True
    near = np.abs(distance - size / 2) < 0.01  # samples of the way are not the way
    assert np.array_equal(result[~near], ((distance <= size / 2) | held)[~near])


def test_boxes_around_changes():
    changed = np.zeros((5, 7), bool)
    assert _pictures.around(changed) is None
    changed[1, 5] = changed[3, 2] = True
    assert _pictures.around(changed) == Box(1, 2, 4, 6)


@pytest.mark.parametrize("shape", [(1, 1000), (37, 53), (100, 100)])
@pytest.mark.parametrize("most", [1, 10, 99, 10_000])
def test_the_step_is_the_smallest_that_shows_so_many(shape, most):
    step = Box(0, 0, *shape).step(most)

    def shown(step):
        return np.prod([-(-extent // step) for extent in shape])

    assert shown(step) <= most
    assert step == 1 or shown(step - 1) > most


def test_it_says_how_to_get_anywidget():
    code = (
        "import sys; sys.modules['anywidget'] = None\n"
        "import aproarray\n"
        "try: aproarray.widget([[1, 2]])\n"
        "except ImportError as error: print(error)"
    )
    root = Path(aproarray.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "aproarray.widget needs anywidget: pip install 'aproarray[widget]'\n"
