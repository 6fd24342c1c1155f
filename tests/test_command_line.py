"""The commands on files: what they read and write, and how they fail."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import aproarray
from aproarray import _files
from aproarray.__main__ import main

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")


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
    save(tmp_path / "image.png", image)
    save(tmp_path / "scribbles.png", scribbles)
    return tmp_path


def contents(path):
    return _files.read(path).values


def save(path, array):
    rgb = array.ndim == 3 and array.shape[-1] in (3, 4)
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="rgb" if rgb else "minisblack")
    elif path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


COLOURS = np.array([[0, 0, 0], [0, 0, 255], [255, 0, 0]], np.uint8)  # 1 is blue: colours are sorted


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_numbers_in_numbers_out(files, scene, suffix):
    image, scribbles, truth = scene
    marks, out = files / f"marks{suffix}", files / f"out{suffix}"
    save(marks, scribbles)
    assert main(["propagate", str(files / "image.png"), str(marks), "-o", str(out)]) == 0
    labels = contents(out)
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
    save(files / "coloured.png", coloured)
    expected = aproarray.propagate_labels(image, scribbles)
    command = ["propagate", str(files / "image.png"), str(files / "coloured.png"), "-o"]
    assert main([*command, str(files / "out.png")]) == 0
    assert np.array_equal(contents(files / "out.png"), COLOURS[expected])
    assert main([*command, str(files / "out.npy")]) == 0
    assert np.array_equal(np.load(files / "out.npy"), expected)
    assert main([*command, str(files / "overlay.png"), "--overlay"]) == 0
    painted = contents(files / "overlay.png").astype(int)
    assert painted.shape == (40, 50, 3)
    assert painted[0, 0, 2] > image[0, 0, 2]  # bluer
    assert painted[20, 25, 0] > painted[20, 25, 2]


def test_grey_image_with_alpha_and_16_bits(files, scene):
    image, scribbles, truth = scene
    grey = np.dstack([image[..., 0], np.full((40, 50), 255, np.uint8)])
    save(files / "grey.png", grey)
    out = files / "labels.png"
    marks = scribbles.astype(np.uint16) * 1000
    np.save(files / "marks.npy", marks)
    assert main(["propagate", str(files / "grey.png"), str(files / "marks.npy"), "-o", str(out)]) == 0
    assert (contents(out) == truth * 1000).mean() > 0.97


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
        save(files / "in" / f"{name}.png", image)
    for name in ("a", "b"):
        save(files / "marks" / f"{name}.png", scribbles)
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
    assert (contents(files / "refined.png") == truth - 1).mean() > 0.9


def test_affinity(files, scene):
    image, _, _ = scene
    command = ["affinity", str(files / "image.png"), "--at", "20", "25", "-o"]
    assert main([*command, str(files / "map.npy")]) == 0
    expected = aproarray.affinity_map(image, (20, 25))
    np.testing.assert_array_equal(np.load(files / "map.npy"), expected)
    assert main([*command, str(files / "map.png")]) == 0
    assert np.abs(contents(files / "map.png") / 255 - expected).max() < 0.01
    assert main([*command, str(files / "local.png"), "--kind", "local"]) == 0


def test_no_input_is_written_over(files, scene, capsys):
    image, scribbles, _ = scene
    folder, linked = files / "in", files / "linked"
    folder.mkdir()
    linked.mkdir()
    for name in ("b.jpg", "b.png", "c.bmp"):
        Image.fromarray(image).save(folder / name)
    save(files / "c.png", scribbles)
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
        save(path, scene[0])
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
    save(folder / "whole.png", scene[0])

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
        save(image, volume)
        command = ["affinity", str(image), "--at", "1", "2", "3", "-o"]
        assert main([*command, str(out)]) == 0
        assert contents(out).shape == (7, 8, 9)
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
    save(path, image)
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
        (["propagate", "image.png", "many.npy", "-o", "out.png"], "write them to .tif or .npy"),
        (["refine", "image.png", "bad.npy", "-o", "out.png"], "scores"),
        (["affinity", "image.png", "--at", "50", "0", "-o", "out.png"], "[0] must be"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_failures_are_one_line(arguments, message, as_json, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    save(Path("small.png"), np.zeros((4, 5), np.uint8))
    save(Path("photo.png"), np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
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


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"aproarray {aproarray.__version__}\n"


def test_pictures_as_people_see_them(files, scene, capsys):
    image, scribbles, _truth = scene
    exif = Image.Exif()
    exif[274] = 6
    stored = np.ascontiguousarray(image.swapaxes(0, 1)[::-1])
    Image.fromarray(stored).save(files / "turned.png", exif=exif)
    first = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    tifffile.imwrite(files / "first.tif", first, imagej=True, metadata={"axes": "CYX"})
    Image.fromarray(image).quantize(16).save(files / "indexed.png")
    expected = aproarray.propagate_labels(image, scribbles)
    for name in ("turned.png", "first.tif", "indexed.png"):
        out = files / "labels.png"
        assert main(["propagate", str(files / name), str(files / "scribbles.png"), "-o", str(out)]) == 0
        assert np.array_equal(contents(out), expected), name


def test_grey_images_of_three_columns(tmp_path):
    image = np.repeat(np.array([[0, 200, 200]], np.uint8), 9, axis=0)
    save(tmp_path / "image.png", image)
    marks = np.zeros((9, 3), np.uint8)
    marks[0] = 1, 0, 2
    for suffix in (".png", ".npy"):
        save(tmp_path / f"marks{suffix}", marks)
        out = tmp_path / "out.npy"
        command = ["propagate", str(tmp_path / "image.png"), str(tmp_path / f"marks{suffix}"), "-o", str(out)]
        assert main(command) == 0
        assert np.array_equal(np.load(out), aproarray.propagate_labels(image, marks, channel_axis=None))


def test_a_class_has_one_number_in_all_files(files, scene, capsys):
    image, scribbles, _truth = scene
    for folder in ("in", "marks"):
        (files / folder).mkdir()
    both, one = COLOURS[scribbles], COLOURS[np.where(scribbles == 2, 2, 0)]
    green = np.where(one.any(-1, keepdims=True), np.array([0, 200, 0], np.uint8), 0).astype(np.uint8)
    for name, marks in (("a", both), ("b", one), ("c", green)):
        save(files / "in" / f"{name}.png", image)
        save(files / "marks" / f"{name}.png", marks)
    command = ["propagate", str(files / "in"), str(files / "marks"), "-o", str(files / "out"), "--json"]
    assert main(command) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [report["classes"] for report in reports] == [{"1": "#0000ff", "2": "#00c800", "3": "#ff0000"}] * 3
    assert [sorted(report["pixels"]) for report in reports] == [["1", "3"], ["3"], ["2"]]
    assert (contents(files / "out" / "c.png") == (0, 200, 0)).all()


@pytest.mark.parametrize("kind", ["mask", "nodata", "tag", "nan"])
def test_pixels_without_data_take_no_part(kind, files, scene, tmp_path):
    image, scribbles, truth = scene
    inside = np.ones((40, 50), bool)
    inside[30:] = inside[:, :4] = False
    bands = np.where(inside[..., None], image.astype(np.float32), np.float32(-9999))
    if kind == "nan":
        bands[~inside, 1] = np.nan
    options = {"mask": ["--mask", str(files / "mask.png")], "nodata": ["--nodata", "-9999"]}.get(kind, [])
    save(files / "mask.png", np.where(inside, 255, 0).astype(np.uint8))
    tags = [(42113, "s", 0, "-9999", True)] if kind == "tag" else []
    path, out = files / "bands.tif", files / "out.npy"
    tifffile.imwrite(path, bands, photometric="rgb", extratags=tags)
    assert main(["propagate", str(path), str(files / "scribbles.png"), "-o", str(out), *options]) == 0
    expected = aproarray.propagate_labels(bands, scribbles, mask=inside)
    assert np.array_equal(np.load(out), expected)
    assert (expected[inside] == truth[inside]).mean() > 0.97
    overlay = ["propagate", str(path), str(files / "scribbles.png"), "-o", str(files / "o.png"), "--overlay"]
    assert main([*overlay, *options]) == 0
    assert main(["affinity", str(path), "--at", "20", "25", "-o", str(out), *options]) == 0
    assert not np.load(out)[~inside].any()


def test_masks_must_fit_and_are_inputs(files, scene, capsys):
    save(files / "mask.png", np.ones((4, 5), np.uint8))
    command = ["propagate", str(files / "image.png"), str(files / "scribbles.png")]
    assert main([*command, "-o", str(files / "o.png"), "--mask", str(files / "mask.png")]) == 1
    assert "mask.png of shape (4, 5) does not fit an image of (40, 50) pixels" in capsys.readouterr().err
    assert main([*command, "-o", str(files / "mask.png"), "--mask", str(files / "mask.png")]) == 1
    assert "mask.png is an input" in capsys.readouterr().err


@pytest.fixture
def walls(files):
    """Two cells that differ in nothing, and a map of the wall between them, on disk."""
    image = np.full((40, 50), 90, np.uint8) + np.arange(40, dtype=np.uint8)[:, None] % 3
    marks = np.zeros((40, 50), np.uint8)
    marks[3, 3], marks[3, 20] = 1, 2
    edges = np.zeros((40, 50), np.uint8)
    edges[:, 30] = 200
    save(files / "grey.png", image)
    save(files / "points.png", marks)
    save(files / "edges.png", edges)
    return image, marks, edges


@pytest.mark.parametrize("kind", [".png", ".tif", ".npy", "rgb", "folder"])
def test_a_map_of_boundaries(kind, files, walls):
    image, marks, edges = walls
    path = files / f"map{kind if kind[0] == '.' else '.png'}"
    save(path, edges if kind != "rgb" else np.stack([edges] * 3, axis=-1))
    if kind == "folder":
        path = files / "maps"
        path.mkdir()
        save(path / "grey.tif", edges / np.float32(7))
    command = ["propagate", str(files / "grey.png"), str(files / "points.png"), "--edges", str(path)]
    assert main([*command, "-o", str(files / "out.npy")]) == 0
    labels = np.load(files / "out.npy")
    assert np.array_equal(labels, aproarray.propagate_labels(image, marks, edges=edges))
    assert (labels[:, 32:] == 2).all()
    mask = np.ones((40, 50), np.uint8)
    mask[30:] = 0
    save(files / "mask.png", mask)
    assert main([*command, "-o", str(files / "out.npy"), "--mask", str(files / "mask.png")]) == 0
    expected = aproarray.propagate_labels(image, marks, edges=edges, mask=mask > 0)
    assert np.array_equal(np.load(files / "out.npy"), expected)


def test_scores_follow_a_map_of_boundaries(files, walls):
    image, _, edges = walls
    scores = np.zeros((4, 5, 2))
    scores[:, :3, 0] = scores[:, 3:, 1] = 1
    scores[1, 1] = 0, 1
    np.save(files / "scores.npy", scores)
    command = ["refine", str(files / "grey.png"), str(files / "scores.npy"), "-o", str(files / "out.npy")]
    assert main([*command, "--edges", str(files / "edges.png")]) == 0
    assert np.array_equal(np.load(files / "out.npy"), aproarray.refine(image, scores, edges=edges))


@pytest.mark.parametrize("beside", [(), ("mask",), ("edges",), ("mask", "edges")])
def test_features_of_each_pixel(files, walls, beside):
    image, marks, edges = walls
    features = np.random.default_rng(0).random((40, 50, 4), np.float32)
    maps = {"features": features, "edges": edges, "mask": np.arange(2000).reshape(40, 50) > 100}
    arguments = []
    for name in ("features", *beside):
        np.save(files / f"of_{name}.npy", maps[name])
        arguments += [f"--{name}", str(files / f"of_{name}.npy")]
    given = {name: maps[name] for name in ("features", *beside)}
    command = ["propagate", str(files / "grey.png"), str(files / "points.png"), "-o", str(files / "out.npy")]
    assert main([*command, *arguments]) == 0
    labels = np.load(files / "out.npy")
    assert np.array_equal(labels, aproarray.propagate_labels(image, marks, **given))
    scores = np.random.default_rng(1).random((4, 5, 2))
    np.save(files / "scores.npy", scores)
    command = ["refine", str(files / "grey.png"), str(files / "scores.npy"), "-o", str(files / "out.npy")]
    assert main([*command, *arguments]) == 0
    refined = np.load(files / "out.npy")
    assert np.array_equal(refined, aproarray.refine(image, scores, **given))
    del given["features"]
    assert not np.array_equal(refined, aproarray.refine(image, scores, **given))


def test_features_must_fit(files, walls, capsys):
    command = ["propagate", str(files / "grey.png"), str(files / "points.png"), "-o", str(files / "o.png")]
    np.save(files / "channels_first.npy", np.zeros((4, 40, 50)))
    assert main([*command, "--features", str(files / "channels_first.npy")]) == 1
    assert "(4, 40, 50) does not fit an image of (40, 50) pixels" in capsys.readouterr().err
    np.save(files / "complex.npy", np.zeros((40, 50, 3), complex))
    assert main([*command, "--features", str(files / "complex.npy")]) == 1
    assert "must hold a number for each pixel, features, got complex128" in capsys.readouterr().err
    np.save(files / "one.npy", walls[2] / 3)  # one number for each pixel
    assert main([*command, "--features", str(files / "one.npy")]) == 0


def test_maps_of_boundaries_must_fit_and_are_inputs(files, walls, scene, capsys):
    command = ["propagate", str(files / "grey.png"), str(files / "points.png")]
    assert main([*command, "-o", str(files / "o.png"), "--edges", str(files / "image.png")]) == 1
    assert (
        "image.png of shape (40, 50, 3) does not fit an image of (40, 50) pixels" in capsys.readouterr().err
    )
    np.save(files / "complex.npy", walls[2] * 1j)
    assert main([*command, "-o", str(files / "o.png"), "--edges", str(files / "complex.npy")]) == 1
    assert "must hold a number for each pixel, a map of boundaries, got complex128" in capsys.readouterr().err
    edges = str(files / "edges.png")
    assert main([*command, "-o", edges, "--edges", edges]) == 1
    assert "edges.png is an input" in capsys.readouterr().err


def test_unlabelled_values(files, scene, capsys):
    image, scribbles, _truth = scene
    marks = np.where(scribbles == 0, 255, scribbles - 1).astype(np.uint8)  # classes 0 and 1
    save(files / "marks.png", marks)
    command = ["propagate", str(files / "image.png"), str(files / "marks.png"), "-o", str(files / "out.png")]
    assert main(command) == 1
    assert "give --unlabelled 255" in capsys.readouterr().err
    assert main([*command, "--unlabelled", "255"]) == 0
    expected = aproarray.propagate_labels(image, scribbles) - 1
    assert np.array_equal(contents(files / "out.png"), expected)
    save(files / "marks.png", np.where(scribbles[..., None] == 0, np.uint8(7), COLOURS[scribbles]))
    assert main([*command, "--unlabelled", "#070707"]) == 0
    with pytest.raises(SystemExit):
        main([*command, "--unlabelled", "no colour"])
    assert "must be a number, or a colour" in capsys.readouterr().err


def test_scores_that_are_none(files, scene, capsys):
    image, _, truth = scene
    scores = np.eye(3)[truth][::5, ::5]
    np.save(files / "photo.npy", image)
    np.save(files / "floats.npy", image / 255)
    np.save(files / "small.npy", np.zeros((10, 10, 3)))
    np.save(files / "classes_first.npy", np.zeros((21, 8, 10)))
    out = str(files / "out.npy")
    for first, second, message in (
        ("image.png", "image.png", "is no .npy file"),
        ("image.png", "photo.npy", "dtype uint8 holds no scores"),
        ("small.npy", "floats.npy", "pixels, more than the image's 10 x 10. The image comes first"),
        (
            "image.png",
            "classes_first.npy",
            "pixels, and have another height to width than the image's 40 x 50; pass class_axis=0",
        ),
    ):
        assert main(["refine", str(files / first), str(files / second), "-o", out]) == 1
        assert message in capsys.readouterr().err
    np.save(files / "last.npy", scores)
    np.save(files / "first.npy", np.moveaxis(scores, -1, 0))
    for name, options in (("last", []), ("first", ["--class-axis", "0"])):
        command = ["refine", str(files / "image.png"), str(files / f"{name}.npy"), "-o"]
        assert main([*command, str(files / f"refined_{name}.npy"), *options]) == 0
        assert main([*command, str(files / f"refined_{name}.png"), *options]) == 0
    last, first = np.load(files / "refined_last.npy"), np.load(files / "refined_first.npy")
    assert last.shape == (40, 50, 3)
    assert np.array_equal(np.moveaxis(first, 0, -1), last)
    assert np.array_equal(contents(files / "refined_first.png"), contents(files / "refined_last.png"))
    assert main([*command, out, "--class-axis", "3"]) == 1
    assert "class_axis=3 is not an axis of scores" in capsys.readouterr().err


def test_too_little_memory_ends_no_batch(files, scene, monkeypatch, capsys):
    (files / "in").mkdir()
    for name in ("a", "b", "c"):
        save(files / "in" / f"{name}.png", scene[0])
    real = aproarray.affinity_map
    calls = []

    def sometimes(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("Unable to allocate 3 TiB")
        return real(*arguments, **options)

    monkeypatch.setattr(aproarray, "affinity_map", sometimes)
    command = ["affinity", str(files / "in"), "--at", "1", "2", "-o", str(files / "out")]
    assert main([*command, "--json"]) == 1
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["error" in report for report in reports] == [False, True, False]
    assert reports[1]["error"].endswith("b.png: not enough memory: Unable to allocate 3 TiB")
    calls.clear()
    assert main(command) == 1
    error, summary = capsys.readouterr().err.splitlines()
    assert error.count("b.png") == 1
    assert summary.startswith("aproarray: 2 of 3 images done, 1 failed; ")


def test_errors_name_a_file_once(files, capsys):
    (files / "text.png").write_text("no picture")
    for arguments in (
        ["propagate", "text.png", "scribbles.png", "-o", "out.png"],
        ["propagate", "image.png", "text.png", "-o", "out.png"],
        ["affinity", "text.png", "--at", "1", "1", "-o", "out.png"],
    ):
        assert main([str(files / name) if name.endswith(".png") else name for name in arguments]) == 1
        assert capsys.readouterr().err.count(str(files / "text.png")) == 1


def test_no_labels_is_an_error(files, capsys):
    for array in (np.zeros((40, 50), np.uint8), np.full((40, 50, 3), 255, np.uint8)):
        save(files / "empty.png", array)
        command = [
            "propagate",
            str(files / "image.png"),
            str(files / "empty.png"),
            "-o",
            str(files / "o.npy"),
        ]
        if array.ndim == 3:
            command += ["--unlabelled", "white"]
        assert main(command) == 1
        assert "empty.png holds no labels" in capsys.readouterr().err


def test_nifti_volumes(files, capsys):
    nibabel = pytest.importorskip("nibabel")
    volume = np.zeros((8, 9, 6), np.float32)
    volume[4:] = 100
    marks = np.zeros(volume.shape, np.float32)  # as many tools save labels
    marks[0, 4, 3], marks[7, 4, 3] = 1, 2
    affine = np.diag([1.0, 1, 4, 1])
    for folder, array in (("in", volume), ("marks", marks)):
        (files / folder).mkdir()
        nibabel.save(nibabel.Nifti1Image(array, affine), files / folder / "a.nii.gz")
    assert main(["propagate", str(files / "in"), str(files / "marks"), "-o", str(files / "out")]) == 0
    labels = nibabel.load(files / "out" / "a.nii.gz")
    assert np.array_equal(labels.affine, affine)
    assert np.array_equal(np.asanyarray(labels.dataobj), 1 + (volume > 0))
    # Voxels are as large as the file says: on a flat volume, the nearest seed in millimetres wins.
    flat, marks = np.zeros((8, 9, 6), np.float32), np.zeros((8, 9, 6), np.int16)
    marks[0, 0, 0], marks[6, 0, 4] = 1, 2
    for name, array in (("flat", flat), ("dots", marks)):
        nibabel.save(nibabel.Nifti1Image(array, affine), files / f"{name}.nii.gz")
    command = [
        "propagate",
        str(files / "flat.nii.gz"),
        str(files / "dots.nii.gz"),
        "-o",
        str(files / "near.nii.gz"),
    ]
    assert main(command) == 0
    near = np.asanyarray(nibabel.load(files / "near.nii.gz").dataobj)
    assert near[6, 0, 0] == 1  # 6 mm from the first, 16 from the second, which is 4 voxels away
    assert np.array_equal(near, aproarray.propagate_labels(flat, marks, spacing=(1, 1, 4)))


def shell(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "aproarray", *map(str, arguments)],
        cwd=Path(aproarray.__file__).parents[1],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        **options,
    )


@pytest.mark.skipif(os.name == "nt", reason="signals and devices of POSIX")
class TestInAShell:
    """How the command ends when its user or the system ends it."""

    def test_interrupted(self, files):
        (files / "in").mkdir()
        for number in range(200):
            (files / "in" / f"{number}.png").hardlink_to(files / "image.png")
        # A process inherits an ignored signal, as jobs of a script have it. It does not inherit a handler.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            run = shell(
                "affinity", files / "in", "--at", 1, 1, "-o", files / "out", stdout=subprocess.DEVNULL
            )
        finally:
            signal.signal(signal.SIGINT, handler)
        deadline = time.monotonic() + 60
        while not (files / "out").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        _, message = run.communicate(timeout=300)
        assert (run.returncode, message) == (130, "aproarray: interrupted\n")
        assert all(not path.name.startswith(".") for path in (files / "out").iterdir())

    def test_nobody_reads(self, files):
        reader, writer = os.pipe()
        os.close(reader)
        run = shell("info", stdout=writer)
        os.close(writer)
        assert run.communicate(timeout=300)[1] == ""
        assert run.returncode == 141

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
    @pytest.mark.parametrize("command", [["info"], ["--version"], ["affinity", "--json"]])
    def test_full_output(self, command, files):
        if "--json" in command:
            command = [*command, files / "image.png", "--at", 1, 1, "-o", files / "out.png"]
        with open("/dev/full", "w") as full:
            run = shell(*command, stdout=full)
            _, message = run.communicate(timeout=300)
        assert run.returncode == 1
        assert message == "aproarray: error: cannot write to standard output: No space left on device\n"

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
    def test_full_device_and_loops(self, files, capsys):
        (files / "full.png").symlink_to("/dev/full")
        (files / "loop.png").symlink_to("loop.png")
        for name, message in (
            ("full", "No space left on device"),
            ("loop", "Too many levels of symbolic links"),
        ):
            out = files / f"{name}.png"
            assert main(["affinity", str(files / "image.png"), "--at", "1", "1", "-o", str(out)]) == 1
            error = capsys.readouterr().err
            assert message in error
            assert error.count("\n") == 1
            assert out.is_symlink()


@pytest.mark.parametrize("entry", ["-c import aproarray", "-m aproarray", "-m aproarray info"])
def test_a_tree_that_is_not_compiled_says_how_to(entry, tmp_path):
    package = Path(aproarray.__file__).parent
    if not list((package / "cpu").glob("*.pyx")):
        pytest.skip("installed without sources")
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(package, tmp_path / "aproarray", ignore=ignored)
    flag, _, rest = entry.partition(" ")
    arguments = [flag, rest] if flag == "-c" else [flag, *rest.split()]
    run = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert "is not compiled for this Python" in last
    assert "run `pip install .` or `python setup.py build_ext --inplace`" in last
    assert "circular import" not in run.stderr
    if flag == "-m":
        assert run.stderr.count("\n") == 1
