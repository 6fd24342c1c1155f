"""The training example: its data and annotations are what they claim, and it runs on both kinds of data."""

import importlib

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("skimage", reason="scikit-image is not installed")

from PIL import Image  # noqa: E402

made = pytest.importorskip("scenes", reason="needs a checkout: run from the repository")


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
    results = example.main(arguments)
    assert set(results) == {("scribbles", method) for method in example.METHODS}
    assert all(0 < score < 1 for scores in results.values() for score in scores)
    printed = capsys.readouterr()
    assert printed.out.count("|") == 3 * (len(example.METHODS) + 2)
    assert "#####" in printed.err
    assert np.ptp(np.asarray(Image.open(figure))[..., :3]) > 200


def test_a_folder_like_pascal_voc(example, scenes, tmp_path, capsys):
    for folder in ("JPEGImages", "SegmentationClass"):
        (tmp_path / folder).mkdir()
    for number in range(6):
        picture = np.moveaxis(scenes.images[number].numpy(), 0, -1) * made.DEVIATION + made.MEAN
        Image.fromarray((255 * picture).clip(0, 255).astype(np.uint8)).save(
            tmp_path / "JPEGImages" / f"{number}.jpg"
        )
        mask = scenes.masks[number].numpy().astype(np.uint8)
        mask[:, 0] = made.VOID
        picture = Image.fromarray(mask)
        if number % 2:  # as Pascal VOC's own: classes are indices of colours
            picture.putpalette(np.random.default_rng(0).permutation(768).astype(np.uint8).tobytes())
        picture.save(tmp_path / "SegmentationClass" / f"{number}.png")
    names, loaded = made.load(tmp_path, 32)
    assert names == list("012345")
    assert (loaded.masks[:, :, 0] == made.VOID).all()
    assert torch.equal(loaded.masks[:, :, 1:], scenes.masks[:6, :, 1:])
    arguments = ["--data", str(tmp_path), "--size", "16", "--steps", "1", "--seeds", "1"]
    results = example.main([*arguments, "--figure", str(tmp_path / "figure.png")])
    assert len(results) == 3 * len(example.METHODS)
    assert [len(part.masks) for part in made.split(tmp_path, names, loaded, seed=0)] == [5, 1]
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n2\n")
    (lists / "val.txt").write_text("5\n")
    train, held_out = made.split(tmp_path, names, loaded, seed=0)
    assert torch.equal(train.images, loaded.images[[0, 2]])
    assert torch.equal(held_out.masks, loaded.masks[[5]])
    (lists / "val.txt").write_text("")
    with pytest.raises(SystemExit, match="too few images"):
        made.split(tmp_path, names, loaded, seed=0)
    (lists / "val.txt").write_text("7\n")
    with pytest.raises(SystemExit, match="names 1 images without a mask: 7"):
        made.split(tmp_path, names, loaded, seed=0)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "SegmentationClass" / "0.png")
    with pytest.raises(SystemExit, match="has 3 channels"):
        made.load(tmp_path, 32)
    (tmp_path / "SegmentationClass" / "0.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"0\.png cannot be read"):
        made.load(tmp_path, 32)
    (tmp_path / "SegmentationClass" / "0.png").unlink()
    (tmp_path / "JPEGImages" / "3.jpg").unlink()
    with pytest.raises(SystemExit, match=r"mask 3\.png has no image"):
        made.load(tmp_path, 32)
    with pytest.raises(SystemExit, match="no masks"):
        made.load(tmp_path / "JPEGImages", 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds: must be at least 1, got 0"),
        (["--size", "8"], "--size: must be at least 16, got 8"),
        (["--figure", "/no/such/folder/x.png"], "/no/such/folder is not a folder"),
    ],
)
def test_options_that_cannot_be(example, arguments, message, capsys):
    with pytest.raises(SystemExit):
        example.main(arguments)
    assert message in capsys.readouterr().err
