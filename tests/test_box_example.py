"""The example of instances told by boxes: its measure, its batches and losses, and a table that goes on."""

import importlib

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
io = pytest.importorskip("skimage.io", reason="scikit-image is not installed")
pytest.importorskip("pycocotools", reason="pycocotools is not installed")
pytest.importorskip("scenes", reason="needs a checkout: run from the repository")


@pytest.fixture(scope="module")
def example():
    return importlib.import_module("train_box_instances")


@pytest.fixture(scope="module")
def pictures(example):
    return example.generate(8, 64, seed=0)


@pytest.fixture(scope="module")
def batch(example, pictures):
    torch.manual_seed(0)
    return example.batch_of(pictures, torch.arange(4), 48)


def test_pictures_repeat_and_differ(example, pictures):
    again, other = example.generate(8, 64, seed=0), example.generate(8, 64, seed=1)
    assert all(map(np.array_equal, pictures.images, again.images))
    assert not np.array_equal(pictures.labels[0], other.labels[0])
    assert all(len(np.unique(label)) > 2 for label in pictures.labels)


def test_boxes_hold_their_masks_tightly(batch):
    assert batch.images.shape == (4, 3, 48, 48)
    assert len(batch.boxes) == len(batch.masks) == len(batch.image_index) > 4
    for box, mask, centre, sides in zip(
        batch.boxes[:, 0], batch.masks[:, 0], batch.centres, batch.sides, strict=True
    ):
        for axis in (0, 1):
            assert torch.equal(mask.amax(axis), box.amax(axis))
        places = torch.nonzero(box)
        assert torch.equal(places.float().mean(0), centre)
        assert (places.amax(0) - places.amin(0) + 1).tolist() == sides.tolist()


def test_ellipses_touch_their_boxes_from_within(example, batch):
    drawn = example.ellipses(batch)
    assert drawn.shape == batch.boxes.shape
    assert (drawn <= batch.boxes).all()
    for axis in (2, 3):
        assert torch.equal(drawn.amax(axis), batch.boxes.amax(axis))
    filled = drawn.sum((1, 2, 3)) / batch.boxes.sum((1, 2, 3))
    large = batch.sides.amin(1) >= 8
    assert large.any()
    assert (filled[large] - torch.pi / 4).abs().max() < 0.08


def test_each_mask_depends_on_its_own_centre_and_image(example, batch):
    torch.manual_seed(0)
    network = example.Detector().eval()
    _, features = network(batch.images)
    together = network.masks(features, batch.centres, batch.image_index)
    assert together.shape == batch.masks.shape
    for place in (0, 3):
        alone = network.masks(
            features[batch.image_index[place]][None], batch.centres[place][None], torch.tensor([0])
        )
        torch.testing.assert_close(together[place][None], alone)


def test_every_term_adds_to_the_loss_of_boxes(example, batch):
    soft = torch.rand(batch.masks.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    losses = {
        name: example.box_loss(soft, batch, term, 1.0)
        for name, term in example.METHODS.items()
        if name not in (example.START, example.CEILING)
    }
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, soft, retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert name == "projection alone" or loss > losses["projection alone"]
    assert len({round(loss.item(), 6) for loss in losses.values()}) >= len(losses) - 4


def test_average_precision(example):
    label = np.zeros((20, 30), np.int64)
    label[2:12, 2:12], label[2:12, 15:25] = 1, 2
    masks = np.stack([label == 1, label == 2])
    right = example.average_precision([(masks, np.array([0.9, 0.8]))], [label])
    assert right == {"AP": 1, "AP50": 1, "AP75": 1}
    # Shifted by two of ten rows: an IoU of 2 / 3.
    shifted = example.average_precision([(np.roll(masks, 2, 1), np.array([0.9, 0.8]))], [label])
    assert shifted["AP50"] == 1
    assert shifted["AP75"] == 0
    assert shifted["AP"] == pytest.approx(0.4)
    half = example.average_precision([(masks[:1], np.array([0.9]))], [label])
    assert half["AP50"] == pytest.approx(51 / 101)
    nothing = (np.zeros((0, 20, 30), bool), np.zeros(0))
    assert example.average_precision([nothing], [label])["AP"] == 0


def test_masks_at_centres(example, pictures, monkeypatch):
    """Masks that are the boxes have an IoU of the share that instances take of them; nothing, of 0."""
    # Numbers have gaps.
    labels = [np.where((label == 2) | (label == 4), label, 0) for label in pictures.labels]
    boxes, areas = [], []
    for label in labels:
        for number in np.unique(label[label > 0]):
            rows, columns = np.nonzero(label == number)
            mask = torch.zeros(1, 1, 64, 64)
            mask[..., rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1
            boxes.append(mask)
            areas.append(len(rows) / mask.sum().item())
    assert len(areas) > 4
    drawn = iter(boxes)
    network = example.Detector().eval()
    monkeypatch.setattr(network, "masks", lambda *of: torch.cat([next(drawn) for _ in of[1]]))
    measured = example.masks_at_centres(network, example.Pictures(pictures.images, labels))
    assert measured["IoU"] == pytest.approx(np.mean(areas))
    assert measured["area"] == pytest.approx(np.mean([1 / area for area in areas]))
    monkeypatch.setattr(network, "masks", lambda *of: torch.zeros(len(of[1]), 1, 64, 64))
    measured = example.masks_at_centres(network, example.Pictures(pictures.images, labels))
    assert measured == {"IoU": 0, "area": 0}


def test_choices_are_made_without_the_test_split(example, pictures):
    rest, held = example.hold_back(pictures)
    assert [len(rest.images), len(held.labels)] == [6, 2]
    assert held.images[1] is pictures.images[5]
    assert all(one is not other for one in held.images for other in rest.images)


def test_quick_mode(example, monkeypatch, tmp_path, capsys):
    generate = example.generate
    monkeypatch.setattr(example, "generate", lambda n, _, seed: generate(min(n, 8), 48, seed))
    figure = tmp_path / "figure.png"
    few = ["--quick", "--size", "32", "--first-steps", "2", "--steps", "2"]
    runs = example.main([*few, "--figure", str(figure)]).runs
    expected = [example.START, "projection alone", "GP and LP", example.CEILING]
    assert [run["method"] for run in runs] == expected
    assert capsys.readouterr().out.count("| ") >= len(runs)
    assert np.ptp(io.imread(figure)[..., :3]) > 200


def test_a_folder_and_a_table_that_goes_on(example, pictures, tmp_path, monkeypatch):
    for split in ("train", "test"):
        for kind, some in zip(("image", "label"), pictures, strict=True):
            (tmp_path / split / kind).mkdir(parents=True)
            for number, picture in enumerate(some):
                pixels = (51 * picture if kind == "image" else picture).astype(np.uint8)  # dark images
                cut = pixels[: 64 - number]  # sizes differ
                io.imsave(tmp_path / split / kind / f"{number}.png", cut, check_contrast=False)
    loaded = example.load(tmp_path, "train")
    assert all(map(np.array_equal, loaded.labels, (a[: 64 - n] for n, a in enumerate(pictures.labels))))
    low, high = np.percentile(pictures.images[0], (1, 99.8))
    stretched = np.clip((pictures.images[0] - low) / (high - low), 0, 1)
    assert np.abs(loaded.images[0] - stretched).max() < 3 / 51
    arguments = [
        "--data", str(tmp_path), "--size", "32", "--first-steps", "1", "--steps", "1", "--seeds", "1",
        "--methods", "LP", "--results", str(tmp_path / "results.json"),
    ]  # fmt: skip
    runs = example.main(arguments).runs
    assert [run["method"] for run in runs] == ["LP"]

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(example, "train", never)
    assert example.main(arguments).runs == runs
    with pytest.raises(SystemExit, match="no labels"):
        example.load(tmp_path / "train", "train")


def test_a_detector_learns_blobs_of_full_masks(example):
    """The centres and masks of bright discs, in some seconds."""
    pictures = example.generate(8, 48, seed=3)
    network = example.train(pictures, example.CEILING, 0, 60, 48)
    found = [example.detect(network, image) for image in pictures.images]
    assert example.average_precision(found, pictures.labels)["AP50"] > 0.2
    measured = example.masks_at_centres(network, pictures)
    assert measured["IoU"] > 0.5
    assert 0.6 < measured["area"] < 1.5


def test_methods_start_from_the_same_detector(example, pictures):
    start = example.train(pictures, example.START, 0, 1, 32)
    before = {name: values.clone() for name, values in start.state_dict().items()}
    again = example.train(pictures, example.START, 0, 1, 32).state_dict()
    example.train(pictures, "LP", 0, 2, 32, start)
    for name, values in start.state_dict().items():
        assert torch.equal(values, before[name])
        assert torch.equal(values, again[name])
