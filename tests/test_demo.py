"""The demo: what a first-time user sees, in a checkout and in an installed package alike."""

import contextlib
import io
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from aproarray import __main__ as command_line

matplotlib_image = pytest.importorskip("matplotlib.image")
pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def example():
    return command_line._example("scribbles")


@pytest.fixture(scope="module")
def demo(example, tmp_path_factory):
    """Run the demo once for all tests: its result, its picture, and what it printed."""
    out, results, printed = tmp_path_factory.mktemp("demo") / "demo.png", [], io.StringIO()
    kept = SimpleNamespace(main=lambda out: results.append(example.main(out)))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(command_line, "_example", {"scribbles": kept}.get)
        assert command_line.main(["demo", "--out", str(out)]) == 0
    return SimpleNamespace(result=results[0], out=out, printed=printed.getvalue())


@pytest.fixture(scope="module")
def result(demo):
    return demo.result


def test_demo_draws_and_says_what_it_did(demo):
    picture = matplotlib_image.imread(demo.out)
    assert picture.shape == (690, 960, 4)
    assert np.ptp(picture[..., :3]) == 1  # not a blank page
    for step in ("512 x 512", "smooth", "spanning tree", "global", "local", f"saved {demo.out}"):
        assert step in demo.printed
    assert demo.printed.count(" ms") == 8


def test_strokes_keep_their_class(example, result):
    scribbles = example.scribble((512, 512))
    assert sorted(np.unique(scribbles)) == [-1, 0, 1, 2, 3]
    kept = example.labels(result.after_local) == scribbles
    assert kept[scribbles >= 0].all()


@pytest.mark.parametrize(
    ("name", "row", "column"),
    [
        ("background", 40, 130),
        ("background", 150, 350),
        ("background", 320, 490),
        ("astronaut", 100, 240),
        ("astronaut", 80, 170),
        ("astronaut", 300, 170),
        ("astronaut", 480, 380),
        ("astronaut", 360, 430),
        ("flag", 60, 38),
        ("flag", 150, 70),
        ("flag", 290, 10),
        ("shuttle", 50, 420),
        ("shuttle", 150, 395),
        ("shuttle", 200, 448),
    ],
)
def test_objects_get_the_class_of_their_strokes(example, result, name, row, column):
    assert example.scribble((512, 512))[row, column] == -1  # nobody told it
    assert list(example.STROKES)[example.labels(result.after_local)[row, column]] == name


def test_shares_are_shares(result):
    total = result.after_global.sum(axis=-1)
    assert np.all(np.isclose(total, 1) | (total == 0))
    assert np.mean(total == 0) < 0.05
    np.testing.assert_allclose(result.after_local.sum(axis=-1), 1)


@pytest.mark.parametrize("missing", ["matplotlib", "skimage"])
def test_missing_dependency_is_one_line(missing, tmp_path, monkeypatch, capsys):
    for module in [missing, *(name for name in sys.modules if name.startswith(f"{missing}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    assert command_line.main(["demo", "--out", str(tmp_path / "demo.png")]) == 1
    assert capsys.readouterr().err == (
        "aproarray: error: the demo needs matplotlib and scikit-image: pip install 'aproarray[examples]'\n"
    )


@pytest.mark.parametrize(
    ("out", "message"), [("no/such/folder/demo.png", "no folder"), ("demo", "end in .png"), (".png", ".png")]
)
def test_hopeless_output_is_refused_before_the_work(out, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command_line.main(["demo", "--out", out])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_unwritable_output_is_one_line(tmp_path, example, result, monkeypatch, capsys):
    folder = tmp_path / "folder.png"
    folder.mkdir()
    monkeypatch.setattr(command_line, "_example", lambda name: example)
    monkeypatch.setattr(example, "propagate", lambda *_: result)
    assert command_line.main(["demo", "--out", str(folder)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"aproarray: error: cannot save {folder}: ")
    assert error.count("\n") == 1


def test_no_command_shows_the_usage():
    run = subprocess.run([sys.executable, "-m", "aproarray"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 2
    assert "usage: aproarray" in run.stderr
