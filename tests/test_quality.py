"""The scorer of docs/quality.md: what it makes of segmentations, and what it prints."""

import sys

import numpy as np
import pytest

pytest.importorskip("skimage")
pytest.importorskip("scipy")
imageio = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
quality = pytest.importorskip("benchmarks.quality", reason="not in a checkout")


@pytest.fixture
def folder(tmp_path):
    """Two photographs of three plain regions, numbered with gaps."""
    for name, rows in (("a", 30), ("b", 45)):
        drawn = np.full((64, 80), 2, np.uint8)
        drawn[:rows, 40:], drawn[rows:] = 5, 9
        np.savez(tmp_path / f"{name}.npz", segmentation=drawn)
        palette = np.zeros((10, 3), np.uint8)
        palette[[2, 5, 9]] = (200, 60, 40), (40, 90, 200), (90, 200, 90)
        imageio.fromarray(palette[drawn]).save(tmp_path / f"{name}.jpg", quality=95)
    return tmp_path


def test_evidence_is_that_of_the_regions(folder):
    (photograph,) = quality.read(folder, limit=1)
    regions = photograph.regions
    assert np.unique(regions).tolist() == [1, 2, 3]
    for kind in ("scribble", "point"):
        seeds = photograph.evidence[kind]
        assert np.array_equal(seeds[seeds > 0], regions[seeds > 0])
        assert set(np.unique(seeds)) == {0, 1, 2, 3}
        for region in (1, 2, 3):
            assert quality.depth(regions == region)[seeds == region].min() > 2
    scores = photograph.evidence["coarse"]
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
    assert 0.6 < (scores.argmax(-1) + 1 == regions).mean() < 1


def test_mean_iou_by_definition():
    rng = np.random.default_rng(0)
    regions, labels = rng.integers(1, 5, (2, 20, 30))
    labels[0] = 0
    expected = [
        ((labels == k) & (regions == k)).sum() / ((labels == k) | (regions == k)).sum() for k in range(1, 5)
    ]
    assert quality.mean_iou(labels, regions) == pytest.approx(np.mean(expected))
    assert quality.mean_iou(regions, regions) == 1


def test_tables(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["quality", str(folder), "--only", "**"])
    quality.main()
    scores = [
        float(cell)
        for line in capsys.readouterr().out.splitlines()
        if "**" in line
        for cell in line.split("|")[2:-1:2]
    ]
    assert len(scores) == 3  # scribble, point, coarse
    assert min(scores) > 0.8


def test_changes_are_taken_back(folder):
    from aproarray import _labels

    photograph = next(quality.read(folder, limit=1))
    votes = _labels._VOTES
    seen = []
    method = quality.with_changes(lambda *_: seen.append(_labels._VOTES), (_labels, "_VOTES", 3))
    method(photograph.image, photograph.regions)
    assert (seen, _labels._VOTES) == ([3], votes)


def test_no_photographs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["quality", str(tmp_path)])
    with pytest.raises(SystemExit):
        quality.main()
    assert "at least 2 photographs" in capsys.readouterr().err
