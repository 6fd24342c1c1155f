"""The commands on files: what they read and write, and how they fail."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

import aproarray
from aproarray import _files
from aproarray.__main__ import main

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tifffile")


@pytest.fixture(scope="module")
def scene():
    rows, columns = np.ogrid[:40, :50]
    truth = 1 + (np.hypot(rows - 20, columns - 25) < 12)
    image = np.array([[0, 0, 0], [60, 120, 60], [200, 90, 80]], np.uint8)[truth]
    scribbles = np.zeros((40, 50), np.uint8)
    scribbles[2, 5:45], scribbles[20, 20:30] = 1, 2
    return image, scribbles, truth


@pytest.fixture
def files(scene, tmp_path):
    image, scribbles, _ = scene
    _files.write(tmp_path / "image.png", image)
    _files.write(tmp_path / "scribbles.png", scribbles)
    return tmp_path


COLOURS = np.array([[0, 0, 0], [0, 0, 255], [255, 0, 0]], np.uint8)  # 1 is blue: colours are sorted


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_numbers_in_numbers_out(files, scene, suffix):
    image, scribbles, truth = scene
    marks, out = files / f"marks{suffix}", files / f"out{suffix}"
    _files.write(marks, scribbles)
    assert main(["propagate", str(files / "image.png"), str(marks), "-o", str(out)]) == 0
    labels = _files.read(out)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, aproarray.propagate_labels(image, scribbles))
    assert (labels == truth).mean() > 0.97


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_are_classes(files, scene, alpha):
    image, scribbles, _ = scene
    coloured = COLOURS[scribbles]
    if alpha:
        coloured[scribbles == 0] = 200  # whatever colour, it is transparent
        coloured = np.dstack([coloured, np.where(scribbles > 0, 255, 0).astype(np.uint8)])
    _files.write(files / "coloured.png", coloured)
    expected = aproarray.propagate_labels(image, scribbles)
    command = ["propagate", str(files / "image.png"), str(files / "coloured.png"), "-o"]
    assert main([*command, str(files / "out.png")]) == 0
    assert np.array_equal(_files.read(files / "out.png"), COLOURS[expected])
    assert main([*command, str(files / "out.npy")]) == 0
    assert np.array_equal(np.load(files / "out.npy"), expected)
    assert main([*command, str(files / "overlay.png"), "--overlay"]) == 0
    painted = _files.read(files / "overlay.png").astype(int)
    assert painted.shape == (40, 50, 3)
    assert painted[0, 0, 2] > image[0, 0, 2]  # bluer
    assert painted[20, 25, 0] > painted[20, 25, 2]


def test_grey_image_with_alpha_and_16_bits(files, scene):
    image, scribbles, truth = scene
    grey = np.dstack([image[..., 0], np.full((40, 50), 255, np.uint8)])
    _files.write(files / "grey.png", grey)
    out = files / "labels.png"
    marks = scribbles.astype(np.uint16) * 1000
    np.save(files / "marks.npy", marks)
    assert main(["propagate", str(files / "grey.png"), str(files / "marks.npy"), "-o", str(out)]) == 0
    assert (_files.read(out) == truth * 1000).mean() > 0.97


def test_palettes(files, scene):
    image, scribbles, _ = scene
    indexed = Image.fromarray(scribbles * 3).convert("P")
    indexed.putpalette([0, 0, 0] * 3 + [250, 10, 10] * 253)  # the numbers count, not the colours
    indexed.save(files / "indexed.png")
    Image.fromarray(image).quantize(16).save(files / "quantized.png")
    out = files / "labels.npy"
    assert main(["propagate", str(files / "quantized.png"), str(files / "indexed.png"), "-o", str(out)]) == 0
    assert np.array_equal(np.load(out), 3 * aproarray.propagate_labels(image, scribbles))


def test_folders_and_patterns(files, scene, capsys):
    image, scribbles, _ = scene
    (files / "in").mkdir()
    (files / "marks").mkdir()
    for name in ("a", "b", "c"):
        _files.write(files / "in" / f"{name}.png", image)
    for name in ("a", "b"):
        _files.write(files / "marks" / f"{name}.png", scribbles)
    out = files / "out"
    command = ["propagate", str(files / "in"), str(files / "marks"), "-o", str(out), "--json"]
    assert main(command) == 1  # c has no marks, and the others are done
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["error" in report for report in reports] == [False, False, True]
    assert "no c{" in reports[2]["error"]
    assert reports[0]["out"] == str(out / "a.png")
    assert sum(reports[0]["pixels"].values()) == 2000
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png"]

    pattern = str(files / "in" / "[ab].png")
    assert main(["propagate", pattern, str(files / "scribbles.png"), "-o", str(files / "again")]) == 0
    assert sorted(path.name for path in (files / "again").iterdir()) == ["a.png", "b.png"]
    assert capsys.readouterr().out == ""


def test_refine(files, scene):
    image, _, truth = scene
    scores = np.eye(2)[truth - 1].reshape(5, 8, 5, 10, 2).mean((1, 3))
    np.save(files / "scores.npy", scores)
    command = ["refine", str(files / "image.png"), str(files / "scores.npy"), "-o"]
    assert main([*command, str(files / "refined.npy")]) == 0
    np.testing.assert_array_equal(np.load(files / "refined.npy"), aproarray.refine(image, scores))
    assert main([*command, str(files / "refined.png"), "--mode", "global-local"]) == 0
    assert (_files.read(files / "refined.png") == truth - 1).mean() > 0.9


def test_affinity(files, scene):
    image, _, _ = scene
    command = ["affinity", str(files / "image.png"), "--at", "20", "25", "-o"]
    assert main([*command, str(files / "map.npy")]) == 0
    expected = aproarray.affinity_map(image, (20, 25))
    np.testing.assert_array_equal(np.load(files / "map.npy"), expected)
    assert main([*command, str(files / "map.png")]) == 0
    assert np.abs(_files.read(files / "map.png") / 255 - expected).max() < 0.01
    assert main([*command, str(files / "local.png"), "--kind", "local"]) == 0


def test_no_input_is_written_over(files, scene, capsys):
    image, scribbles, _ = scene
    folder, linked = files / "in", files / "linked"
    folder.mkdir()
    linked.mkdir()
    for name in ("b.jpg", "b.png", "c.bmp"):
        Image.fromarray(image).save(folder / name)
    _files.write(files / "c.png", scribbles)
    (linked / "c.png").hardlink_to(folder / "b.png")
    before = {path: path.read_bytes() for path in files.rglob("*.*")}
    for images, marks, out, over in (
        ("in", "scribbles.png", "in", "in/b.png"),  # what is made of b.jpg
        ("in/[c]*", "c.png", ".", "c.png"),  # over the scribbles
        ("in/[bc].[pb]*", "scribbles.png", "linked", "linked/c.png"),  # over b.png
    ):
        for options in ([], ["--overlay"]):
            command = ["propagate", str(files / images), str(files / marks), "-o", str(files / out)]
            assert main([*command, *options]) == 1
            message = capsys.readouterr().err
            assert message.startswith(f"aproarray: error: {files / over} is an input")
            assert message.count("\n") == 1
            assert {path: path.read_bytes() for path in files.rglob("*.*")} == before
    command = ["affinity", str(folder), "--at", "1", "2", "-o", str(folder), "--json"]
    assert main(command) == 1
    assert "is an input" in json.loads(capsys.readouterr().out)["error"]
    assert {path: path.read_bytes() for path in files.rglob("*.*")} == before


def test_no_output_is_written_over(files, scene, capsys):
    for name in ("in/b.jpg", "in/b.png", "in/deep/a.png", "in/a.png"):
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene[0]).save(files / name)
    out = files / "out"
    for images, one, other in (
        ("in/b.*", "in/b.jpg", "in/b.png"),
        ("in/**/a.png", "in/a.png", "in/deep/a.png"),
    ):
        command = ["propagate", str(files / images), str(files / "scribbles.png"), "-o", str(out)]
        assert main(command) == 1
        message = (
            f"{files / one} and {files / other} would both be written to {out / (Path(one).stem + '.png')}"
        )
        assert capsys.readouterr().err == f"aproarray: error: {message}\n"
        assert not out.exists()
    pattern = str(files / "in/**/**/b.png")  # finds b.png twice
    assert main(["affinity", pattern, "--at", "1", "2", "-o", str(out)]) == 0
    assert [path.name for path in out.iterdir()] == ["b.png"]


def test_damaged_files_are_errors_that_name_them(files, scene, capsys):
    folder = files / "in"
    folder.mkdir()
    for suffix in (".npy", ".png", ".jpg", ".tif", ".bmp"):
        path = files / f"whole{suffix}"
        _files.write(path, scene[0])
        (folder / f"empty_{suffix[1:]}{suffix}").touch()
        (folder / f"text_{suffix[1:]}{suffix}").write_text("no picture, but as long as a header")
        (folder / f"short_{suffix[1:]}{suffix}").write_bytes(path.read_bytes()[:60])
    width = struct.pack("<HHI", 256, 4, 1)  # tifffile divides by it
    tif = (files / "whole.tif").read_bytes()
    assert width + struct.pack("<I", 50) in tif
    (folder / "flat.tif").write_bytes(tif.replace(width + struct.pack("<I", 50), width + bytes(4)))
    (folder / "zip.npy").write_bytes(b"PK\x03\x04")
    np.save(folder / "objects.npy", np.array([None]), allow_pickle=True)
    damaged = sorted(path.name for path in folder.iterdir())
    _files.write(folder / "whole.png", scene[0])

    assert main(["affinity", str(folder), "--at", "1", "2", "-o", str(files / "out"), "--json"]) == 1
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    errors = {Path(report["image"]).name: report["error"] for report in reports if "error" in report}
    assert sorted(errors) == damaged
    for name, error in errors.items():
        assert f"{folder / name} cannot be read: " in error
    assert [path.name for path in (files / "out").iterdir()] == ["whole.png"]


def test_bugs_are_not_taken_for_damaged_files(files, monkeypatch):
    def broken(*_arguments, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr(aproarray, "affinity_map", broken)
    with pytest.raises(ZeroDivisionError):
        main(["affinity", str(files / "image.png"), "--at", "1", "1", "-o", str(files / "map.npy")])


def test_affinity_in_volumes(files, scene, capsys):
    volume = np.random.default_rng(0).integers(0, 255, (7, 8, 9), np.uint8)
    for suffix in (".npy", ".tif"):
        image, out = files / f"volume{suffix}", files / f"map{suffix}"
        _files.write(image, volume)
        command = ["affinity", str(image), "--at", "1", "2", "3", "-o"]
        assert main([*command, str(out)]) == 0
        assert _files.read(out).shape == (7, 8, 9)
        assert main([*command, str(files / "map.png")]) == 1
        message = "an array of shape (7, 8, 9) does not fit a .png: write it to .tif or .npy"
        assert message in capsys.readouterr().err
        assert not (files / "map.png").exists()
    assert main(["affinity", str(image), "--at", "1", "-o", str(out)]) == 1
    assert "has 2 or 3 indices, got 1" in capsys.readouterr().err
    assert main(["propagate", str(image), str(image), "-o", str(files / "map.png")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("suffix", "channels"), [(".png", 3), (".png", 4), (".tif", 3), (".png", 0), (".jpg", 3)]
)
def test_affinity_takes_no_picture_for_a_volume(files, scene, capsys, suffix, channels):
    image = scene[0] if channels else scene[0][..., 0]
    if channels == 4:
        image = np.dstack([image, np.full((40, 50), 255, np.uint8)])
    path = files / f"picture{suffix}"
    _files.write(path, image)
    for pixel in (["1"], ["1", "2", "1"]):
        assert main(["affinity", str(path), "--at", *pixel, "-o", str(files / "map.npy")]) == 1
        assert f"has 2 indices, got {len(pixel)}" in capsys.readouterr().err
    assert main(["affinity", str(path), "--at", "1", "2", "-o", str(files / "map.npy")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["propagate", "none.png", "scribbles.png", "-o", "out.png"], "no image files at none.png"),
        (["propagate", "image.png", "none.png", "-o", "out.png"], "no file none.png"),
        (["propagate", "image.png", "scribbles.png", "-o", "out.jpg"], "must end in .png, .tif"),
        (["propagate", "image.png", "scribbles.png", "-o", "no/out.png"], "no folder no"),
        (["propagate", "image.png", "scribbles.png", "-o", "image.png"], "written over"),
        (["propagate", "*.png", "scribbles.png", "-o", "out.png"], "need a folder"),
        (["propagate", "*.png", "scribbles.png", "-o", "file"], "file"),
        (
            ["propagate", "image.png", "small.png", "-o", "out.png"],
            "does not fit an image of shape (40, 50, 3)",
        ),
        (["propagate", "image.png", "photo.png", "-o", "out.png"], "colours, expected a class each"),
        (["propagate", "text.png", "scribbles.png", "-o", "out.png"], "text.png"),
        (["propagate", "image.png", "many.npy", "-o", "out.png"], "write them to .npy"),
        (["refine", "image.png", "bad.npy", "-o", "out.png"], "scores"),
        (["affinity", "image.png", "--at", "50", "0", "-o", "out.png"], "[0] must be"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_failures_are_one_line(arguments, message, as_json, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    _files.write(Path("small.png"), np.zeros((4, 5), np.uint8))
    _files.write(Path("photo.png"), np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    np.save("bad.npy", np.zeros((2, 2, 2, 2)))
    np.save("many.npy", np.full((40, 50), 70000))
    (files / "text.png").write_text("no picture")
    (files / "file").touch()
    assert main([*arguments, "--json"] if as_json else arguments) == 1
    captured = capsys.readouterr()
    if as_json:
        assert message in json.loads(captured.out)["error"]
        assert captured.err == ""
    else:
        assert captured.err.startswith("aproarray: error: ")
        assert message in captured.err
        assert captured.err.count("\n") == 1


def test_wrong_usage(capsys):
    for arguments in (
        ["propagate", "image.png"],
        ["affinity", "a.png", "-o", "b.png"],
        ["refine", "--mode", "x"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    assert "usage: aproarray" in capsys.readouterr().err


def test_missing_image_library_is_one_line(files, monkeypatch, capsys):
    for module in ["PIL", *(name for name in sys.modules if name.startswith("PIL."))]:
        monkeypatch.setitem(sys.modules, module, None)
    arguments = ["affinity", str(files / "image.png"), "--at", "1", "1", "-o", str(files / "map.npy")]
    assert main(arguments) == 1
    assert capsys.readouterr().err == (
        "aproarray: error: reading and writing images needs Pillow: pip install 'aproarray[cli]'\n"
    )
    np.save(files / "image.npy", np.zeros((4, 4)))  # what NumPy can do needs nothing
    arguments[1] = str(files / "image.npy")
    assert main(arguments) == 0
