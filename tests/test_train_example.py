"""The training example: its data and annotations are what they claim, and it runs on both kinds of data."""

import importlib
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("skimage", reason="scikit-image is not installed")

from PIL import Image  # noqa: E402

from aproarray.torch import mst  # noqa: E402

made = pytest.importorskip("scenes", reason="needs a checkout: run from the repository")
results_of = pytest.importorskip("results", reason="needs a checkout: run from the repository")


@pytest.fixture(scope="module")
def example():
    return importlib.import_module("train_weak_segmentation")


@pytest.fixture(scope="module")
def scenes():
    return made.generate(12, 32, seed=0)


def test_scenes_repeat_and_differ(scenes):
    assert torch.equal(scenes.images, made.generate(12, 32, seed=0).images)
    assert not torch.equal(scenes.masks, made.generate(12, 32, seed=1).masks)
    assert set(scenes.masks.unique().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("supervision", ["points", "scribbles"])
def test_marks_are_few_and_right(scenes, supervision):
    labels = made.annotate(scenes.masks, supervision, seed=0).labels
    marked = labels != made.VOID
    assert (labels == scenes.masks)[marked].all()
    assert 0 < marked.float().mean() < 0.1
    if supervision == "points":
        instances = sum(len(list(made.instances(mask.numpy()))) for mask in scenes.masks)
        assert marked.sum() == instances


def test_boxes_hold_their_instances_tightly(scenes):
    told = made.annotate(scenes.masks, "boxes", seed=0)
    outside = told.labels == 0
    covered = torch.zeros(scenes.masks.shape, dtype=torch.bool)
    for box, image, class_ in zip(told.boxes[:, 0] > 0, told.image_index, told.class_of, strict=True):
        inside = (scenes.masks[image] == class_) & box
        for axis in (0, 1):
            assert torch.equal(inside.any(axis), box.any(axis))
        covered[image] |= box
    assert torch.equal(covered, ~outside)


def test_quick_mode(example, tmp_path, capsys):
    figure = tmp_path / "figure.png"
    arguments = ["--quick", "--size", "24", "--steps", "2", "--figure", str(figure)]
    runs = example.main(arguments).runs
    assert [run["method"] for run in runs] == list(example.METHODS)
    assert {run["supervision"] for run in runs} == {"scribbles", "all"}
    assert all(0 < run["mean_iou"] < 1 and len(run["iou"]) == 4 for run in runs)
    printed = capsys.readouterr()
    assert printed.out.count("|") == 3 * (len(example.METHODS) + 2)
    assert "full supervision, 0: 100%" in printed.err
    assert np.ptp(np.asarray(Image.open(figure))[..., :3]) > 200


def test_every_loss_takes_boxes(example, scenes):
    told = made.annotate(scenes.masks, "boxes", seed=0)
    scores = torch.randn(12, 4, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    methods = example.METHODS | example.TRIALS
    losses = {name: example.loss(scores, scenes, told, method, 1.0) for name, method in methods.items()}
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, scores, retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert name in ("unary", example.CEILING) or loss > losses["unary"]


@pytest.fixture
def folder(scenes, tmp_path):
    """Return a folder of three splits, of which half have JPEGs; 9 marks pixels without a class."""
    for number, split in enumerate(("train", "train", "val", "test", "test")):
        for kind in ("image", "label"):
            (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
        picture = np.moveaxis(scenes.images[number].numpy(), 0, -1) * made.DEVIATION + made.MEAN
        Image.fromarray((255 * picture).clip(0, 255).astype(np.uint8)).save(
            tmp_path / split / "image" / f"{number}{('.png', '.jpg')[number % 2]}"
        )
        mask = scenes.masks[number].numpy().astype(np.uint8)
        mask[:, 0] = 9
        picture = Image.fromarray(mask)
        if number % 2:  # classes are indices of colours
            picture.putpalette(np.random.default_rng(0).permutation(768).astype(np.uint8).tobytes())
        picture.save(tmp_path / split / "label" / f"{number}.png")
    return tmp_path


def test_a_folder(scenes, folder):
    loaded = made.load(folder, "train", ignore=9)
    assert (loaded.masks[:, :, 0] == made.VOID).all()
    assert torch.equal(loaded.masks[:, :, 1:], scenes.masks[:2, :, 1:])
    assert (loaded.images[0] - scenes.images[0]).abs().max() < 0.03
    small = made.load(folder, "test", 3, 9)
    assert torch.equal(small.masks, scenes.masks[3:5, 1:30:3, 1:30:3])
    whole = made.load(folder, "test", ignore=9).images[:, :, :30, :30]
    assert torch.allclose(small.images, torch.nn.functional.avg_pool2d(whole, 3), atol=1e-5)


def test_mirror_images_have_mirrored_trees_and_annotations(scenes):
    told = made.annotate(scenes.masks, "boxes", seed=0)
    twice, told_twice = scenes.mirrored(), told.mirrored()
    mirror = made.select(twice, torch.arange(12, 24))
    assert torch.equal(mirror.images, scenes.images.flip(-1))
    assert torch.equal(mirror.masks, scenes.masks.flip(-1))
    assert all(map(torch.equal, mirror.trees, mst(mirror.images)))
    assert torch.equal(told_twice.labels[12:], told.labels.flip(-1))
    some = made.batch_of(told_twice, torch.tensor([15, 2]))
    here = told.image_index == 3
    assert torch.equal(some.boxes[some.image_index == 0], told.boxes[here].flip(-1))
    assert torch.equal(some.class_of[some.image_index == 0], told.class_of[here])


def test_a_stopped_table_goes_on(example, folder, tmp_path, capsys, monkeypatch):
    results = tmp_path / "results.json"
    arguments = ["--data", str(folder), "--ignore", "9", "--shrink", "2", "--steps", "1", "--width", "2"]
    arguments += ["--methods", "unary", "+ GP and LP", "full supervision", "--results", str(results)]
    names = ["--names", "none", "brick", "grass", "gravel"]
    trained = []
    fit = example.fit

    def stop_at_the_fourth(*given):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(given[-1])
        fit(*given)

    monkeypatch.setattr(example, "fit", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        example.main([*arguments, "--seeds", "1"])
    stopped = json.loads(results.read_text())["runs"]
    assert len(stopped) == 3
    monkeypatch.setattr(example, "fit", fit)
    runs = example.main([*arguments, *names, "--seeds", "1"]).runs
    assert runs[:3] == stopped
    assert len(runs) == 5  # points and scribbles by two methods, and all labels
    printed = capsys.readouterr().out
    assert "2 images of test" in printed
    assert printed.count("| brick |") == 2
    assert len(example.main([*arguments, "--seeds", "2"]).runs) == 10
    anew = example.main([*arguments[:-2], "--seeds", "1"]).runs
    for run in (*runs, *anew):
        run.pop("seconds")
    assert anew == runs
    with pytest.raises(SystemExit, match="other settings: steps 1, now 2"):
        example.main([*arguments, "--steps", "2"])
    first, second = (results_of.Results(tmp_path / "shared.json", {"steps": 1}) for _ in range(2))
    first.add({"seed": 0}, {"value": 1})
    second.add({"seed": 1}, {"value": 2})
    first.add({"seed": 0}, {"value": 3})
    assert second.get({"seed": 0}) == {"seed": 0, "value": 3}
    assert [run["value"] for run in first.runs] == [2, 3]
    results.write_text("[]")
    with pytest.raises(SystemExit, match="no file of results"):
        example.main(arguments)


def test_choices_are_made_on_other_images(example, folder, capsys):
    example.main([
        "--data", str(folder), "--ignore", "9", "--steps", "1", "--seeds", "1", "--held-out", "val",
        "--methods", "unary", "--supervision", "points",
    ])  # fmt: skip
    assert "1 images of val" in capsys.readouterr().out


def test_folders_that_cannot_be(folder):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "train" / "label" / "0.png")
    with pytest.raises(SystemExit, match="has 3 channels"):
        made.load(folder, "train")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "train" / "label" / "0.png")
    with pytest.raises(SystemExit, match=r"is \(9, 9\), but its image is \(32, 32\)"):
        made.load(folder, "train")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "train" / "image" / "0.png")
    with pytest.raises(SystemExit, match="must be of one size"):
        made.load(folder, "train")
    (folder / "train" / "label" / "0.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"0\.png cannot be read"):
        made.load(folder, "train")
    (folder / "train" / "image" / "0.png").unlink()
    with pytest.raises(SystemExit, match=r"label 0\.png has no image"):
        made.load(folder, "train")
    Image.fromarray(np.full((32, 32), 9, np.uint8)).save(folder / "val" / "label" / "2.png")
    with pytest.raises(SystemExit, match="no pixel with a class"):
        made.load(folder, "val", ignore=9)
    with pytest.raises(SystemExit, match="no labels"):
        made.load(folder, "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds: must be at least 1, got 0"),
        (["--size", "8"], "--size: must be at least 16, got 8"),
        (["--figure", "/no/such/folder/x.png"], "--figure: /no/such/folder is not a folder"),
        (["--results", "/no/such/folder/x.json"], "--results: /no/such/folder is not a folder"),
        (["--methods", "none"], "invalid choice: 'none'"),
        (["--names", "one", "--steps", "1"], "--names: 1 names for 4 classes"),
    ],
)
def test_options_that_cannot_be(example, arguments, message, capsys):
    with pytest.raises(SystemExit):
        example.main(arguments)
    assert message in capsys.readouterr().err
