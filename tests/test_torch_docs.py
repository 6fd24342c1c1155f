"""The Python of pages about torch runs, in one go, and gives what the pages say."""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

DOCS = Path(__file__).parents[1] / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="needs a checkout: the docs are not installed")


def run(page):
    """Return the names that the Python of a page defines."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.S):
        exec(compile(block, page, "exec"), names)
    return names


def test_python_of_the_page_runs():
    names = run("torch.md")
    torch.testing.assert_close(names["loss"], names["all_at_once"])
    assert names["scores"].grad.abs().sum() > 0
    # An image that was padded to others' size is propagated over as it is alone.
    images = [torch.rand(3, *size) for size in ((5, 9), (8, 4))]
    batch, inside, trees = names["padded"](images)
    soft = names["global_propagate"](batch, trees, zeta=0.3)
    smooth = names["local_propagate"](batch, batch, zeta=0.3, mask=inside)
    for i, (one, tree) in enumerate(zip(*names["listed"](images), strict=True)):
        part = i, slice(None), slice(one.shape[1]), slice(one.shape[2])
        torch.testing.assert_close(soft[part], names["global_propagate"](one, tree, zeta=0.3))
        torch.testing.assert_close(smooth[part], names["local_propagate"](one, one, zeta=0.3))


def test_the_published_operators_have_counterparts():
    import aproarray
    from aproarray import related

    names = run("published.md")
    assert names["filtered"].shape == names["values"].shape
    tree = aproarray.mst(names["guide"].numpy(), channel_axis=1)
    same = related.tree_filter(
        names["values"].detach().numpy(),
        tree,
        zeta=1,
        features=names["embedding"].detach().numpy(),
        channel_axis=1,
    )
    torch.testing.assert_close(names["filtered"].detach(), torch.from_numpy(same))
    # The loss is theirs, written with the tree filter.
    mst, tree_filter = names["mst"], names["tree_filter"]
    prob, guide, embedding = names["scores"].softmax(1), names["guide"], names["embedding"]
    y = tree_filter(prob, mst(guide), zeta=0.02**0.5, features=guide)
    y = tree_filter(y, mst(embedding.detach()), features=embedding)
    unlabeled = names["unlabeled"]
    torch.testing.assert_close(names["loss"], 0.4 * (unlabeled * (prob - y).abs()).sum() / unlabeled.sum())
