"""The examples of the related methods run, on what they make up and on files."""

import importlib
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
io = pytest.importorskip("skimage.io", reason="scikit-image is not installed")
pytest.importorskip("scenes", reason="needs a checkout: run from the repository")


def drawn(path):
    return np.ptp(io.imread(path)[..., :3]) > 200


@pytest.fixture(scope="module")
def clip_guided():
    return importlib.import_module("clip_guided")


def test_clip_guided_path_improves_what_it_makes_up(clip_guided, tmp_path, capsys):
    results = clip_guided.main(["--figure", str(tmp_path / "figure.png")])
    printed = capsys.readouterr().out
    assert "made up from scikit-image's 'coffee'" in printed
    quality = [int(line.rpartition(" ")[2]) for line in printed.splitlines() if "mean IoU" in line]
    assert quality[0] <= quality[1] < quality[2] < quality[3]
    assert results["propagated"].shape == (400, 600, 7)
    assert drawn(tmp_path / "figure.png")


def test_clip_guided_path_on_files(clip_guided, tmp_path, capsys):
    image, scores, keys, _ = clip_guided.made_up()
    io.imsave(tmp_path / "image.png", image)
    np.save(tmp_path / "scores.npy", scores)
    np.save(tmp_path / "keys.npy", keys)
    files = [
        f"--{name}={tmp_path / file}" for name, file in (("image", "image.png"), ("scores", "scores.npy"))
    ]
    figure = f"--figure={tmp_path / 'figure.png'}"
    labels = tmp_path / "labels.npy"
    results = clip_guided.main([*files, f"--keys={tmp_path / 'keys.npy'}", figure, f"--labels={labels}"])
    np.testing.assert_array_equal(np.load(labels), results["propagated"].argmax(-1))
    assert "made up" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        clip_guided.main([*files, figure])


def test_clip_guided_path_over_a_folder(clip_guided, tmp_path, capsys):
    scenes = importlib.import_module("scenes")
    for split, seed in (("train", 0), ("test", 1)):
        made = scenes.generate(4, 48, seed)
        for kind in ("image", "label"):
            (tmp_path / split / kind).mkdir(parents=True)
        for number, (picture, mask) in enumerate(zip(scenes.pictures(made), made.masks.numpy(), strict=True)):
            io.imsave(tmp_path / split / "image" / f"{number}.png", (255 * picture).astype(np.uint8))
            io.imsave(
                tmp_path / split / "label" / f"{number}.png", mask.astype(np.uint8), check_contrast=False
            )
    results = tmp_path / "results.json"
    arguments = ["--data", str(tmp_path), "--images", "3", "--steps", "4", "--results", str(results)]
    compared = clip_guided.main(arguments)
    assert list(compared) == ["the model's scores", "+ KS", "+ KS + PD", "+ APro", "+ APro + PD"]
    assert all(0 < value < 1 for value in compared.values())
    printed = capsys.readouterr().out
    assert "4 test images. A network trained with 3 images stands in for the model" in printed
    assert printed.count("| ") == 2 * 6
    assert json.loads(results.read_text())["mean_iou"] == compared
    assert clip_guided.main(arguments) == compared


@pytest.mark.parametrize("name", ["train_segment_embeddings", "transfer_similarity"])
def test_training_examples_run(name, tmp_path, capsys):
    example = importlib.import_module(name)
    figure = tmp_path / "figure.png"
    results = example.main(["--quick", "--size", "24", "--steps", "2", "--figure", str(figure)])
    assert list(results) == list(example.METHODS)
    assert all(0 <= np.min(scores) <= np.max(scores) < 1 for scores in results.values())
    assert capsys.readouterr().out.count("| ") >= len(results)
    assert drawn(figure)
