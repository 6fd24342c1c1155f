"""The command line on images in chunks: zarr folders, and TIFF in tiles."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import zarr

import aproarray
from aproarray import _large_files
from aproarray.__main__ import main


def scene(shape=(150, 170)):
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 255, (shape[0] // 30 + 1, shape[1] // 30 + 1, 3)).repeat(30, 0).repeat(30, 1)
    image = (cells[: shape[0], : shape[1]] * 0.7 + rng.normal(0, 9, (*shape, 3)) + 30).clip(0, 255)
    seeds = np.zeros(shape, np.uint8)
    seeds[rng.integers(0, shape[0], 9), rng.integers(0, shape[1], 9)] = rng.integers(1, 4, 9)
    return image.astype(np.uint8), seeds


def save(path, array, chunk):
    if path.suffix == ".zarr":
        chunks = (chunk, chunk, *array.shape[2:])
        zarr.create_array(path, data=array, chunks=chunks)
    else:
        tifffile.imwrite(path, array, tile=(chunk, chunk), photometric="rgb" if array.ndim > 2 else None)
    return str(path)


@pytest.mark.parametrize("suffix", [".zarr", ".tif"])
@pytest.mark.parametrize("limit", ["0.001", "100"])
def test_propagate(tmp_path, capsys, suffix, limit):
    image, seeds = scene()
    paths = [
        save(tmp_path / f"{name}{suffix}", array, 64) for name, array in (("image", image), ("seeds", seeds))
    ]
    out = tmp_path / "labels.zarr"
    for _ in range(2):  # over what is there
        assert main(["propagate", *paths, "-o", str(out), "--in-memory", limit, "--json"]) == 0
    expected = aproarray.propagate_labels(image, seeds)
    np.testing.assert_array_equal(zarr.open(out, mode="r")[:], expected)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["pixels"] == {str(value): int((expected == value).sum()) for value in np.unique(expected)}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f"image{suffix}", "labels.zarr", f"seeds{suffix}"]
    )


def test_masks_nodata_and_colours(tmp_path):
    image, seeds = scene()
    image[:20, :30] = 1
    mask = np.ones(seeds.shape, np.uint8)
    mask[100:, 100:] = 0
    colours = np.array([[0, 0, 0], [250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8)
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    tifffile.imwrite(tmp_path / "strokes.tif", colours[seeds], photometric="rgb")
    path = save(tmp_path / "image.zarr", image, 64)
    out = tmp_path / "labels.zarr"
    arguments = ["propagate", path, str(tmp_path / "strokes.tif"), "-o", str(out), "--nodata", "1"]
    assert main([*arguments, "--mask", str(tmp_path / "mask.tif"), "--in-memory", "0.001"]) == 0
    numbers = np.array([0, 3, 2, 1])[seeds]  # colours are sorted
    takes_part = (mask != 0) & (image != 1).any(-1)
    expected = aproarray.propagate_labels(image, numbers, mask=takes_part)
    np.testing.assert_array_equal(zarr.open(out, mode="r")[:], expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "labels.png"], "whose labels go to a .zarr, got"),
        (["-o", "labels.zarr", "--overlay"], "no --overlay then"),
        (["-o", "labels.zarr", "--unlabelled", "255"], "where --unlabelled is not known"),
    ],
)
def test_options_that_images_in_chunks_do_not_have(tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    image, seeds = scene((80, 90))
    paths = [save(tmp_path / "image.zarr", image, 64), save(tmp_path / "seeds.zarr", seeds, 64)]
    assert main(["propagate", *paths, *arguments, "--in-memory", "0.001"]) == 1
    assert said in capsys.readouterr().err


def test_files_that_are_no_arrays(tmp_path, capsys):
    image, seeds = scene((60, 60))
    (tmp_path / "empty.zarr").mkdir()
    zarr.create_group(tmp_path / "group.zarr")
    seeds = save(tmp_path / "seeds.zarr", seeds, 60)
    out = str(tmp_path / "out.zarr")
    assert main(["propagate", str(tmp_path / "empty.zarr"), seeds, "-o", out]) == 1
    assert "empty.zarr cannot be read" in capsys.readouterr().err
    assert main(["propagate", str(tmp_path / "group.zarr"), seeds, "-o", out]) == 1
    assert "is a zarr group without arrays" in capsys.readouterr().err
    zarr.open_group(tmp_path / "group.zarr")["0"] = image
    assert main(["propagate", str(tmp_path / "group.zarr"), seeds, "-o", out, "--in-memory", "0.001"]) == 0


def test_what_is_read_in_chunks(tmp_path):
    image, _ = scene((80, 90))
    assert _large_files.is_larger(save_path(tmp_path / "a.tif", image, 16), 0.001)
    assert not _large_files.is_larger(save_path(tmp_path / "b.tif", image, 16), 0.01)
    tifffile.imwrite(tmp_path / "strip.tif", image, photometric="rgb", rowsperstrip=80)
    assert not _large_files.is_larger(tmp_path / "strip.tif", 0.001)
    tifffile.imwrite(
        tmp_path / "turned.tif", image, tile=(16, 16), photometric="rgb", extratags=[(274, "H", 1, 6, True)]
    )
    assert not _large_files.is_larger(tmp_path / "turned.tif", 0.001)
    assert not _large_files.is_larger(tmp_path / "image.png", 0.001)


def save_path(path, array, chunk):
    save(path, array, chunk)
    return path
