"""The gallery: every script runs, and does what its figure is to show."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

for module in ("matplotlib", "skimage", "dask", "PIL"):
    pytest.importorskip(module)

DOCS = Path(__file__).parents[1] / "docs"
if not DOCS.is_dir():
    pytest.skip("needs a checkout: the docs are not installed", allow_module_level=True)
spec = importlib.util.spec_from_file_location("draw_gallery", DOCS / "draw_gallery.py")
gallery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gallery)


@pytest.fixture(scope="module")
def drawn():
    """Return the variables of a script, which ran once."""
    cache = {}

    def get(name):
        if name not in cache:
            figure, cache[name] = gallery.drawn(name)
            assert len(figure.axes) > 1
        return cache[name]

    return get


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize(("name", "row", "column", "label"), [
    ("coffee", 60, 20, 1), ("coffee", 80, 540, 1), ("coffee", 250, 120, 2), ("coffee", 130, 300, 3),
    ("rocket", 100, 200, 1), ("rocket", 250, 322, 2), ("rocket", 420, 500, 3),
])  # fmt: skip
def test_strokes_reach_their_objects(drawn, name, row, column, label):
    assert drawn("scribbles")["labels"][name][row, column] == label


def test_coins_are_round(drawn):
    from skimage import data, measure

    labels = drawn("clicks")["labels"]
    assert labels.shape == data.coins().shape
    regions = [region for region in measure.regionprops(labels) if region.label > 1]
    assert len(regions) == 24
    for region in regions:
        assert region.solidity > 0.9
        assert 1000 < region.area < 4000


def test_boxes_hold_their_objects(drawn):
    labels = drawn("boxes")["labels"]
    coffee, chelsea = labels["coffee"], labels["chelsea"]
    rows, columns = np.ogrid[:400, :600]
    saucer = ((rows - 205) / 195) ** 2 + ((columns - 280) / 202) ** 2 < 1
    assert iou(coffee == 2, saucer) > 0.85
    for label in (2, 3):
        assert 1000 < (chelsea == label).sum() < 4500


def test_wrong_patches_are_overruled(drawn):
    results = drawn("coarse")
    assert iou(results["refined"] > 0.5, results["cat"]) > 0.9


@pytest.mark.parametrize(("name", "inside", "outside"), [
    ("coffee", np.s_[330:360, 200:320], np.s_[5:20, 300:550]),
    ("rocket", np.s_[180:300, 320:326], np.s_[20:150, 200:280]),
    ("chelsea", np.s_[110:125, 145:160], np.s_[200:290, 60:400]),
])  # fmt: skip
def test_the_object_of_a_pixel_lights_up(drawn, name, inside, outside):
    seen = drawn("affinity")["maps"][name, "global"]
    assert seen.max() == 1
    assert np.median(seen[inside]) > 0.35
    assert np.median(seen[outside]) < 0.6 * np.median(seen[inside])
    near = drawn("affinity")["maps"][name, "local"]
    assert near.max() == 1
    assert 0.0001 < (near > 0.3).mean() < 0.05


def test_a_sum_of_steps_is_no_nearer_than_the_largest(drawn):
    import aproarray

    script = drawn("affinity")
    image, pixel = script["photographs"]["chelsea"] / 255, script["pixels"]["chelsea"]
    filtered = script["by_tree_filter"](image, pixel, zeta=0.1)
    largest = aproarray.mst(image).affinity(pixel, 0.1)
    assert filtered[pixel] == largest[pixel] == 1
    assert (filtered <= largest + 1e-5).all()
    assert (filtered < 0.5 * largest).mean() > 0.01
    window = script["maps"]["chelsea", "window of full size"]
    assert window[pixel] == 1
    assert window.min() >= 0


def test_grains_come_apart(drawn):
    results = drawn("volume")
    assert np.mean([iou(results["labels"] == k, results["truth"] == k) for k in range(1, 32)]) > 0.9


def test_all_three_functions_label_all_pixels(drawn):
    results = drawn("comparison")["labels"]
    assert set(results) == {"random_walker", "watershed", "propagate_labels"}
    for labels in results.values():
        assert labels.min() == 1
        assert labels.max() == 3


def test_superpixels_carry_labels(drawn):
    labels = drawn("superpixels")["labels"]
    assert [labels[at] for at in ((60, 20), (330, 300), (180, 200))] == [1, 2, 3]


def test_tiles_give_the_whole(drawn):
    np.testing.assert_allclose(drawn("tiles")["tiled"], drawn("tiles")["whole"], rtol=0, atol=1e-12)


def test_steps_find_the_face(drawn):
    results = drawn("verbs")
    face, wall = np.s_[110:170, 205:235], np.s_[25:55, 305:335]
    for shares in (results["after_global"], results["after_local"]):
        assert shares[(*face, 0)].mean() > 0.9
        assert shares[(*wall, 1)].mean() > 0.9
    assert np.mean(results["labels"] == 0) < 0.001
    assert np.median(results["seen"][face]) > 5 * np.median(results["seen"])


def test_figures_are_saved_and_the_page_shows_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["draw_gallery.py", "clicks", "--out", str(tmp_path)])
    gallery.main()
    assert f"saved {tmp_path / 'gallery_clicks.png'}" in capsys.readouterr().out
    assert (tmp_path / "gallery_clicks.png").stat().st_size > 10_000
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"\(gallery/plot_(\w+)\.py\).*?images/gallery_(\w+)\.png", page, flags=re.S)
    assert all(script == picture for script, picture in shown)
    scripts = {path.stem for path in (DOCS / "gallery").glob("*.py")}
    assert {f"plot_{script}" for script, _ in shown} == scripts
    assert [script for script, _ in shown] == list(gallery.SCRIPTS)
    for name in gallery.SCRIPTS:
        assert (DOCS / "images" / f"gallery_{name}.png").stat().st_size < 150_000
