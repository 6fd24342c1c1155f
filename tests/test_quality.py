"""The scorer of docs/quality.md: its scenes, evidence and scores, and what it prints."""

import importlib.util
import sys

import numpy as np
import pytest

pytest.importorskip("skimage")
pytest.importorskip("scipy")
imageio = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
fit_certainty = pytest.importorskip("benchmarks.fit_certainty", reason="not in a checkout")
quality = pytest.importorskip("benchmarks.quality", reason="not in a checkout")
peers = pytest.importorskip("benchmarks.peers", reason="not in a checkout")
scenes = pytest.importorskip("benchmarks.scenes", reason="not in a checkout")


def drawing(rows):
    """Three plain regions, numbered with gaps."""
    drawn = np.full((64, 80), 2, np.uint8)
    drawn[:rows, 40:], drawn[rows:] = 5, 9
    palette = np.zeros((10, 3), np.uint8)
    palette[[2, 5, 9]] = (200, 60, 40), (40, 90, 200), (90, 200, 90)
    return drawn, palette[drawn]


def save(path, array, **options):
    path.parent.mkdir(exist_ok=True)
    imageio.fromarray(array).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Two photographs."""
    for name, rows in (("a", 30), ("b", 45)):
        drawn, image = drawing(rows)
        np.savez(tmp_path / f"{name}.npz", segmentation=drawn)
        save(tmp_path / f"{name}.jpg", image, quality=95)
    return tmp_path


def command(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def table_rows(out):
    return {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in out.splitlines()
        if line.startswith("| ") and not line.startswith("| |")
    }


def test_evidence_is_that_of_the_regions(folder):
    photograph = next(scenes.read_photographs(folder))
    regions = photograph.regions
    assert np.unique(regions).tolist() == [1, 2, 3]
    for kind in ("scribble", "point"):
        seeds = photograph.evidence[kind]
        assert np.array_equal(seeds[seeds > 0], regions[seeds > 0])
        assert set(np.unique(seeds)) == {0, 1, 2, 3}
        for region in (1, 2, 3):
            assert scenes.depth(regions == region)[seeds == region].min() > 2
    scores = photograph.evidence["coarse"]
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
    assert 0.6 < (scores.argmax(-1) + 1 == regions).mean() < 1


@pytest.mark.parametrize("name", scenes.SETS)
def test_generated_scenes(name):
    set_ = scenes.SETS[name]
    made, again = (next(set_.generate()) for _ in range(2))
    assert np.array_equal(made.image, again.image)
    assert made.image.min() >= 0
    assert made.image.max() <= 1
    assert made.regions.shape == made.image.shape[: made.regions.ndim]
    numbers = np.unique(made.regions)
    assert numbers[numbers > 0].tolist() == list(range(1, made.regions.max() + 1))
    for kind in set_.evidence:
        seeds = made.evidence[kind]
        assert np.array_equal(seeds[seeds > 0], made.regions[seeds > 0])
        assert np.array_equal(np.unique(seeds[seeds > 0]), numbers[numbers > 0])


def test_strokes_are_read(tmp_path):
    drawn, image = drawing(30)
    label = np.where(drawn == 5, 1, 0).astype(np.uint8)
    label[29:31] = 255
    strokes = np.zeros_like(drawn)
    strokes[10, 50:70], strokes[50, 10:70] = 1, 2
    save(tmp_path / "image/a.jpg", image)
    for part, array in (("label", label), ("scribble1", strokes), ("scribble2", 2 * (strokes > 1))):
        picture = imageio.fromarray(array.astype(np.uint8))
        picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])  # whose colours are no numbers
        (tmp_path / part).mkdir()
        picture.save(tmp_path / part / "a.png")
    (scene,) = scenes.SETS["strokes"].read(tmp_path)
    assert np.array_equal(scene.regions, np.select([label == 1, label == 0], [1, 2], 0))
    assert np.array_equal(scene.evidence["sparse"], strokes)
    assert np.array_equal(scene.evidence["detailed"], 2 * (strokes > 1))
    whole = np.ones_like(scene.regions)  # the object's IoU alone, over the pixels that are sure
    assert quality.mean_iou(whole, scene) == (label == 1).sum() / (label != 255).sum()


def test_nuclei_and_their_background_are_read(tmp_path):
    label = np.zeros((40, 40), np.uint8)
    label[5:15, 5:15], label[20:30, 15:30] = 3, 7
    save(tmp_path / "image/a.png", label * 30)
    save(tmp_path / "label/a.png", label)
    (scene,) = scenes.SETS["nuclei"].read(tmp_path)
    assert np.array_equal(scene.regions, np.select([label == 3, label == 7], [1, 2], 3))
    assert scene.channel_axis is None
    assert scene.image.max() == 210 / 255
    np.savez(tmp_path / "v.npz", image=np.stack([label] * 6).astype(np.uint16), label=np.stack([label] * 6))
    (volume,) = scenes.SETS["nuclei3d"].read(tmp_path)
    assert np.array_equal(volume.regions, np.stack([scene.regions] * 6))
    marked = volume.evidence["slices"].any((1, 2))
    assert marked.tolist() == [False, False, True, False, False, False]


def test_membranes_are_read(tmp_path):
    cell = np.full((60, 70), 255, np.uint8)
    cell[:, 30], cell[28] = 0, 0
    cell[40:44, 50:54], cell[41:43, 51:53] = 0, 255  # too small a piece
    for k in range(6):
        save(tmp_path / f"image/{k}.jpg", cell)
        save(tmp_path / f"label/{k}.png", cell)
    sections = list(scenes.SETS["membranes"].read(tmp_path))
    assert len(sections) == 6
    assert sections[0].regions.max() == 4
    assert (sections[0].regions[cell == 0] == 0).all()
    assert sections[0].regions[41, 51] == 0
    assert sections[0].edges[28, 10] > 0.9 > 0.1 > sections[0].edges[10, 10]
    (stack,) = scenes.SETS["membranes3d"].read(tmp_path)
    assert np.array_equal(stack.regions, np.stack([sections[0].regions] * 6))


def test_linked_pieces():
    pieces = np.zeros((3, 4, 12), int)
    pieces[0, :, :4], pieces[0, :, 6:] = 1, 2
    pieces[1, :, 1:5], pieces[1, :, 6:8], pieces[1, :, 9:] = 2, 1, 3  # one goes on, one falls apart
    pieces[2, :, 1:5], pieces[2, :, 8:] = 1, 2
    objects = scenes.linked(pieces)
    assert objects[0, 0, [0, 6]].tolist() == [1, 2]
    assert objects[1, 0, 1] == objects[2, 0, 1] == 1
    assert objects[1, 0, 9] == objects[2, 0, 9] == 2 or objects[1, 0, 9] == objects[2, 0, 9] > 2
    assert objects[1, 0, 6] not in (1, objects[1, 0, 9])
    assert np.array_equal(objects > 0, pieces > 0)


def test_mean_iou_by_definition():
    rng = np.random.default_rng(0)
    regions, labels = rng.integers(1, 5, (2, 20, 30))
    labels[0] = 0
    regions[1] = 0  # not scored
    counted = regions > 0
    expected = [
        (((labels == k) & (regions == k)).sum() / (((labels == k) | (regions == k)) & counted).sum())
        for k in range(1, 5)
    ]
    scene = scenes.Scene("", regions, regions, {})
    assert quality.mean_iou(labels, scene) == pytest.approx(np.mean(expected))
    assert quality.mean_iou(regions, scene) == 1


def test_auroc_by_definition():
    rng = np.random.default_rng(0)
    confidence, wrong = rng.integers(0, 6, 60) / 5, rng.random(60) < 0.3
    pairs = confidence[wrong][:, None] - confidence[~wrong]
    assert quality.auroc(confidence, wrong) == pytest.approx(((pairs < 0) + 0.5 * (pairs == 0)).mean())
    assert np.isnan(quality.auroc(confidence, np.zeros(60, bool)))


def test_calibration_error_by_definition():
    rng = np.random.default_rng(0)
    confidence, right = rng.random(500), rng.random(500) < 0.7
    expected = 0.0
    for k in range(quality.BINS):
        inside = (confidence >= k / quality.BINS) & (confidence < (k + 1) / quality.BINS)
        expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert quality.calibration_error(confidence, right) == pytest.approx(expected)
    assert quality.calibration_error(np.ones(10), np.ones(10, bool)) == 0


def test_geodesic_by_definition():
    """Every pixel has the label of a seed at the smallest cost: the mean of two pixels' cost for a step."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    rng = np.random.default_rng(0)
    relief = rng.random((12, 15))
    seeds = np.zeros((12, 15), int)
    seeds[2, 3], seeds[9, 12], seeds[10, 2:5] = 1, 2, 3
    cost = relief - relief.min() + 0.1 * relief.mean()
    number = np.arange(relief.size).reshape(relief.shape)
    pairs = [(number[:-1], number[1:]), (number[:, :-1], number[:, 1:])]
    u, v = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    graph = coo_array(((cost.ravel()[u] + cost.ravel()[v]) / 2, (u, v)), shape=(relief.size,) * 2)
    far = [
        dijkstra(graph.tocsr(), False, np.flatnonzero(seeds == label), min_only=True) for label in (1, 2, 3)
    ]
    expected = np.argmin(far, axis=0).reshape(relief.shape) + 1
    assert np.array_equal(peers.geodesic_labels(relief, seeds, None), expected)


def test_peers_find_plain_regions(folder):
    photograph = next(scenes.read_photographs(folder))
    two = photograph._replace(
        regions=np.minimum(photograph.regions, 2),
        evidence={"scribble": np.minimum(photograph.evidence["scribble"], 2)},
    )
    called = 0
    for name, peer in peers.PEERS.items():
        scene = two if peer.two_labels else photograph
        scene = scene._replace(edges=peers.gradient(scene, 1.0))
        if peer.module is not None and importlib.util.find_spec(peer.module) is None:
            continue
        peers.ready(peer, [scene])
        labels = peer.call(scene, scene.evidence["scribble"])
        floor = 0.5 if name == "nearest seed" else 0.9
        assert quality.mean_iou(labels, scene) > floor, name
        called += 1
    assert called >= 6


def test_peers_are_skipped_with_a_reason(folder):
    photograph = next(scenes.read_photographs(folder))
    volume = next(scenes.SETS["nuclei3d"].generate())
    large = photograph._replace(regions=np.broadcast_to(1, (2000, 2000)))
    for peer, scene, reason in (
        (peers.Peer(peers.watershed, two_labels=True), photograph, "two labels alone"),
        (peers.Peer(peers.watershed, two_axes=True), volume, "two axes alone"),
        (peers.Peer(peers.watershed, with_edges=True), photograph, "no map of edges"),
        (peers.Peer(peers.watershed, slow=True), large, "takes minutes for 4000000 pixels"),
        (peers.Peer(peers.watershed, "no_such_package"), photograph, "not installed"),
    ):
        with pytest.raises(peers.Skip, match=reason):
            peers.ready(peer, [scene])


def test_tables(folder, monkeypatch, capsys):
    command(monkeypatch, quality, "photographs", folder)
    out = capsys.readouterr().out
    rows = table_rows(out)
    assert len([line for line in out.splitlines() if line.startswith("|---")]) == 2  # coarse scores as well
    for name, n_kinds in (("**`propagate_labels`**", 2), ("skimage `watershed`, gradient of sigma 1", 2)):
        *cells, seconds, ratio = rows[name]
        scores = [float(score) for score in cells[::2]]
        assert len(scores) == n_kinds
        assert min(scores) > 0.8
        assert float(seconds) > 0 < float(ratio)
        for score, both in zip(scores, cells[1::2], strict=True):
            assert np.mean([float(half) for half in both.split()]) == pytest.approx(score, abs=2e-3)
    assert float(rows["**`refine`**"][0]) > 0.8 > float(rows["unrefined"][0])
    assert "Not called: OpenCV `grabCut`, 5 iterations: takes two labels alone." in out


def test_maps_of_edges_are_passed_on(monkeypatch, capsys):
    command(monkeypatch, quality, "membranes", "--limit", "1", "--only", "edges", "--without", "MCP")
    rows = table_rows(capsys.readouterr().out)
    assert list(rows) == [
        "**`propagate_labels`**",
        "**`propagate_labels`, `edges=`**",
        "skimage `watershed`, edges",
    ]
    plain, beside_edges, *_ = (float(cells[2]) for cells in rows.values())
    assert beside_edges > plain


def test_ablations(folder, monkeypatch, capsys):
    command(monkeypatch, quality, "photographs", folder, "--ablations", "--only", "RGB", "--limit", "1")
    rows = table_rows(capsys.readouterr().out)
    assert {"**`propagate_labels`**", "RGB"} <= set(rows)


def test_certainty(folder, monkeypatch, capsys):
    command(monkeypatch, quality, "photographs", folder, "--certainty", "--only", "**")
    lines = [line for line in capsys.readouterr().out.splitlines() if "**" in line]
    assert len(lines) == 2
    for line in lines:
        area, pooled, each, ratio = map(float, line.split("|")[3:-1])
        assert 0.5 < area <= 1
        assert 0 <= pooled <= each < 0.5  # gaps of opposite signs cancel in the pool alone
        assert ratio > 0


def test_regression_by_definition():
    """Weights that made the outcomes are found again."""
    rng = np.random.default_rng(0)
    terms = np.stack([np.ones(40000), *rng.random((2, 40000))], 1)
    wanted = np.array([-1.0, 3.0, -0.5])
    right = rng.random(40000) < 1 / (1 + np.exp(-terms @ wanted))
    found = fit_certainty.regression(terms, right, np.ones(40000))
    np.testing.assert_allclose(found, wanted, atol=0.15)


def test_evidence_of_certainty(folder):
    """The weights in use make the probabilities that are returned of it."""
    from aproarray import _certainty

    scene = next(scenes.read_photographs(folder))
    seeds = scene.evidence["scribble"]
    terms, right = fit_certainty.evidence(scene, seeds)
    shares = quality.propagated(scene, seeds, return_full_prob=True)
    pixels = (seeds == 0).reshape(-1)
    confidence = shares.max(0).reshape(-1)[pixels][:: fit_certainty.EVERY]
    expected = 1 / (1 + np.exp(-terms @ _certainty._WEIGHTS))
    certain = expected > 0.6  # below, a probability may be raised above the next label's
    assert certain.mean() > 0.5
    np.testing.assert_allclose(confidence[certain], expected[certain], rtol=1e-5)
    labels = (shares.argmax(0) + 1 == scene.regions).reshape(-1)[pixels][:: fit_certainty.EVERY]
    assert np.array_equal(right, labels)


def test_changes_are_taken_back(folder):
    from aproarray import _labels

    photograph = next(scenes.read_photographs(folder))
    votes = _labels._VOTES
    seen = []
    method = quality.with_changes(lambda *_: seen.append(_labels._VOTES), (_labels, "_VOTES", 3))
    method(photograph, photograph.regions)
    assert (seen, _labels._VOTES) == ([3], votes)


def test_no_photographs(tmp_path, monkeypatch, capsys):
    for arguments, said in (
        (("photographs", tmp_path), "has no scenes; expected NAME.jpg"),
        (("photographs", tmp_path, "--limit", "0"), "--limit must be at least 1"),
        (("paintings",), "invalid choice"),
    ):
        with pytest.raises(SystemExit):
            command(monkeypatch, quality, *arguments)
        assert said in capsys.readouterr().err
