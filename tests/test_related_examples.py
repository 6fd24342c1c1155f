"""The examples of the related methods run, on what they make up and on files."""

import argparse
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


@pytest.fixture
def folder(tmp_path):
    """Return a folder of generated scenes in two splits."""
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
    return tmp_path


def test_clip_guided_path_over_a_folder(clip_guided, folder, tmp_path, capsys):
    results = tmp_path / "results.json"
    arguments = ["--data", str(folder), "--images", "3", "--steps", "4", "--results", str(results)]
    compared = clip_guided.main(arguments)
    assert list(compared) == ["the model's scores", "+ KS", "+ KS + PD", "+ APro", "+ APro + PD"]
    assert all(0 < value < 1 for value in compared.values())
    printed = capsys.readouterr().out
    assert "4 images of test. A network trained with 3 images stands in for the model" in printed
    assert printed.count("| ") == 2 * 6
    assert json.loads(results.read_text())["mean_iou"] == compared
    assert clip_guided.main(arguments) == compared


def test_keys_of_the_stand_in_point_away_from_one_another(clip_guided, folder):
    options = argparse.Namespace(
        data=folder, images=3, steps=2, seed=0, shrink=1, ignore=255, held_out="test"
    )
    made = [keys for _, _, keys, _ in clip_guided.stand_in(options)]
    assert len(made) == 4
    for keys in made:
        np.testing.assert_allclose(keys.mean((0, 1)), 0, atol=1e-6)
        directions = keys.reshape(9, -1)
        assert (directions @ directions.T).min() < 0


@pytest.fixture(scope="module")
def embeddings():
    return importlib.import_module("train_segment_embeddings")


@pytest.fixture(scope="module")
def transfer():
    return importlib.import_module("transfer_similarity")


def test_embeddings_of_generated_scenes(embeddings, tmp_path, capsys):
    figure = tmp_path / "figure.png"
    arguments = ["--quick", "--size", "24", "--images", "12", "8", "--steps", "2", "--figure", str(figure)]
    runs = embeddings.main(arguments).runs
    assert [run["method"] for run in runs] == list(embeddings.METHODS)
    assert all(0 <= run[way] < 1 for run in runs for way in embeddings.WAYS if way in run)
    assert capsys.readouterr().out.count("| ") >= len(runs)
    assert drawn(figure)


def never(*arguments, **options):
    raise AssertionError("trained again")


def test_a_table_of_embeddings_goes_on(embeddings, folder, tmp_path, monkeypatch):
    results = tmp_path / "results.json"
    shared = [
        "--data", str(folder), "--size", "24", "--images", "12", "8", "--steps", "1", "--seeds", "1",
        "--methods", "+ both", "--results", str(results),
    ]  # fmt: skip
    scribbles = [*shared, "--supervision", "scribbles", "--lengths", "100", "0"]
    embeddings.main([*shared, "--supervision", "tags"])
    runs = embeddings.main(scribbles).runs
    assert [(run["supervision"], run["length"]) for run in runs] == [
        ("tags", 100), ("scribbles", 100), ("scribbles", 0)
    ]  # fmt: skip
    monkeypatch.setattr(embeddings, "train", never)
    assert embeddings.main(scribbles).runs == runs
    with pytest.raises(AssertionError, match="trained again"):
        embeddings.main([*scribbles, "--seeds", "2"])


def test_shortened_scribbles(embeddings):
    labels = torch.full((2, 9, 12), 255)
    labels[0, 2, 1:11] = 3
    labels[0, 6, 2:8] = 3
    labels[1, 1:6, 4] = 0
    for length, kept in ((0, [2, 1]), (30, [5, 2]), (50, [8, 3]), (100, [16, 5])):
        short = embeddings.shortened(labels, length, seed=0)
        marked = short != 255
        assert marked.flatten(1).sum(1).tolist() == kept
        assert torch.equal(short[marked], labels[marked])


def test_classes_are_read_off_embeddings_that_tell_them(embeddings):
    rng = np.random.default_rng(0)
    classes = torch.from_numpy(np.kron(np.resize([0, 1, 2], (6, 2, 2)), np.ones((8, 8), np.int64)))
    directions = torch.from_numpy(np.linalg.qr(rng.normal(size=(16, 16)))[0][:3]).float()
    images = (directions[classes] + 0.02).movedim(-1, 1).contiguous()
    labels = torch.full_like(classes, 255)
    labels[:, ::4, ::4] = classes[:, ::4, ::4]
    maps = 0.9 * torch.nn.functional.one_hot(embeddings.halved(classes), 3).movedim(-1, 1).float()
    for scores in (None, maps):
        torch.manual_seed(0)
        found = embeddings.read_off(torch.nn.Identity(), images, images, labels, 3, scores)
        assert all(torch.equal(found[way], classes) for way in embeddings.WAYS)


def test_tags_without_a_background(embeddings):
    maps = torch.tensor([[[[4.0, 1.0]], [[0.0, 2.0]], [[9.0, 9.0]]]])
    told = embeddings.Told(
        torch.zeros(1, 2, 4), torch.tensor([[True, True, False]]), torch.zeros(1, 1, 2), False
    )
    assert embeddings.scores_of_maps(maps, told).tolist() == [[[[1.0, 0.25]], [[0.0, 1.0]], [[0.0, 0.0]]]]
    scores = torch.tensor([[[[0.5, 0.1]], [[0.3, 0.15]]]])
    assert embeddings.sure_labels(scores).tolist() == [[[0, 255]]]


def test_crops_are_the_images_in_pieces():
    scenes = importlib.import_module("scenes")
    made = scenes.generate(2, 48, 0)
    cut, of_scene = scenes.crops(made, 20)
    assert of_scene.tolist() == 4 * [0] + 4 * [1]
    for piece, (image, row, column) in zip((1, 2, 7), ((0, 0, 20), (0, 20, 0), (1, 20, 20)), strict=True):
        place = np.s_[image, ..., row : row + 20, column : column + 20]
        assert torch.equal(cut.images[piece], made.images[place])
        assert torch.equal(cut.masks[piece], made.masks[place])


def test_transfer_between_generated_scenes(transfer, tmp_path, capsys):
    figure = tmp_path / "figure.png"
    runs = transfer.main(["--quick", "--size", "24", "--steps", "2", "--figure", str(figure)]).runs
    assert [run["method"] for run in runs] == list(transfer.METHODS)
    assert all(0 <= run[part] < 1 for run in runs for part in ("base", "novel"))
    assert capsys.readouterr().out.count("| ") >= len(runs)
    assert drawn(figure)


def test_a_table_of_transfer_goes_on(transfer, folder, tmp_path, capsys, monkeypatch):
    arguments = [
        "--data", str(folder), "--novel", "1", "3", "--size", "24", "--steps", "1", "--seeds", "1",
        "--pixels", "9", "20", "--methods", "basic", "proposals, cross-pair",
        "--results", str(tmp_path / "results.json"),
    ]  # fmt: skip
    runs = transfer.main(arguments).runs
    assert [(run["method"], run["pixels"]) for run in runs] == [
        ("basic", 9), ("proposals, cross-pair", 9), ("proposals, cross-pair", 20)
    ]  # fmt: skip
    assert "proposals, cross-pair, J = 20 |" in capsys.readouterr().out
    monkeypatch.setattr(transfer, "train", never)
    assert transfer.main(arguments).runs == runs
    with pytest.raises(SystemExit):
        transfer.main(["--data", str(folder)])
    with pytest.raises(SystemExit, match="other settings"):
        transfer.main([*arguments, "--steps", "2"])


def test_the_area_under_the_curve(transfer):
    scores = torch.tensor([0.1, 0.4, 0.4, 0.9])
    assert transfer.roc_area(scores, torch.tensor([False, False, True, True])) == 0.875
    assert np.isnan(transfer.roc_area(scores, torch.ones(4, dtype=torch.bool)))


def test_likeness_of_base_classes_carries_over_where_features_tell_novel_ones(transfer):
    class Telling(torch.nn.Module):
        def forward(self, images):
            return images, images.softmax(1)

    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 6, (16, 12, 12), generator=generator)
    images = torch.randn(6, 16, generator=generator)[masks].movedim(-1, 1).contiguous()
    scenes = importlib.import_module("scenes")
    parts = scenes.Scenes(images, masks, None)
    task = transfer.Task(parts, torch.ones(16, dtype=torch.bool), parts, (4, 5), 6)
    areas = transfer.study(Telling(), task, seed=0, steps=60)
    assert len(areas) == 16
    assert all(area > 0.99 for name, area in areas.items() if "base" in name or "cosine" in name)
    # Features that are the same everywhere tell nothing.
    same = scenes.Scenes(torch.ones_like(images), masks, None)
    areas = transfer.study(Telling(), task._replace(seen=same, held_out=same), seed=0, steps=2)
    assert all(abs(area - 0.5) < 0.1 for area in areas.values())
