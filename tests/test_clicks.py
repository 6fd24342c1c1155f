"""The simulated user of benchmarks.clicks."""

import sys

import numpy as np
import pytest

pytest.importorskip("skimage")
pytest.importorskip("scipy")
clicks = pytest.importorskip("benchmarks.clicks", reason="not in a checkout")
scenes = pytest.importorskip("benchmarks.scenes", reason="not in a checkout")


@pytest.fixture
def scene():
    """Three regions of 12 x 60, 20 x 30 and 20 x 30 pixels; pixels of a line are not scored."""
    regions = np.ones((33, 60), np.int64)
    regions[12], regions[13:, :30], regions[13:, 30:] = 0, 2, 3
    return scenes.Scene("plain", regions / 3, regions, {})


def test_the_largest_error_is_clicked_in_its_middle(scene):
    labels = scene.regions.copy()
    labels[14:20, 3:12] = 3
    labels[2:9, 40:47] = 2
    error = clicks.largest_error(labels, scene.regions)
    assert np.array_equal(np.nonzero(error), np.nonzero((scene.regions == 2) & (labels == 3)))
    marked, label = clicks.click(error, scene.regions)
    assert label == 2
    rows, columns = np.nonzero(marked)
    assert 14 <= rows.mean() < 20
    assert 3 <= columns.mean() < 12
    assert (scene.regions[marked] == 2).all()
    assert clicks.largest_error(scene.regions, scene.regions) is None
    unscored = np.where(scene.regions == 0, 1, scene.regions)
    assert clicks.largest_error(unscored, scene.regions) is None


def test_errors_of_two_regions_are_two(scene):
    """They touch, and the larger one is clicked at."""
    labels = np.ones_like(scene.regions)
    error = clicks.largest_error(labels, scene.regions)
    assert len(np.unique(scene.regions[error])) == 1


def test_a_session_ends_at_the_target(scene):
    nearest = []

    def perfect(seeds):
        """Know the regions that have a click."""
        nearest.append(seeds.copy())
        return np.where(np.isin(scene.regions, np.unique(seeds[seeds > 0])), scene.regions, 0)

    session = clicks.session(scene, perfect, target=1.0, most=10)
    assert (session.clicks, session.reached) == (3, True)
    assert session.ious == pytest.approx([1 / 3, 2 / 3, 1])
    assert [np.unique(seeds).tolist() for seeds in nearest] == [[0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert len(session.seconds) == 3
    session = clicks.session(scene, perfect, target=0.5, most=10)
    assert session.clicks == 2
    session = clicks.session(scene, np.zeros_like, target=0.5, most=4)
    assert (session.clicks, session.reached) == (4, False)


def test_the_table(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["clicks", "strokes", "--limit", "1", "--most", "6"])
    clicks.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row.split("|")[1].strip() for row in rows] == [
        "**`LabelPropagator`**",
        "skimage `watershed`, gradient of sigma 1",
    ]
    for row in rows:
        counted, _, missed, *_ = map(float, row.split("|")[2:-1])
        assert (1 <= counted < 6 and missed == 0) or (counted == 6 and missed in (0, 1))


def test_small_regions_are_not_scored(scene):
    regions = scene.regions.copy()
    regions[0, :5] = 4
    found = clicks.without_small(scene._replace(regions=regions + (regions > 1)), 0.01)
    assert np.array_equal(found.regions, np.where(regions == 4, 0, regions))


def test_random_walker_of_one_label_and_of_more(scene):
    answer = clicks.random_walker(scene)
    seeds = np.zeros_like(scene.regions)
    seeds[5, 30] = 1
    assert (answer(seeds) == 1).all()
    seeds[25, 15], seeds[25, 45] = 2, 3
    assert clicks.mean_iou(answer(seeds), scene) > 0.9


@pytest.mark.parametrize(
    "arguments",
    [["--target", "0"], ["--target", "1.5"], ["--most", "0"], ["--limit", "0"], ["--smallest", "1"]],
)
def test_bad_options(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["clicks", *arguments])
    with pytest.raises(SystemExit):
        clicks.main()
    assert arguments[0] in capsys.readouterr().err
