"""The Python of docs/torch.md runs, in one go, and its two ways to the loss are the same."""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

PAGE = Path(__file__).parents[1] / "docs" / "torch.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="needs a checkout: the docs are not installed")
def test_python_of_the_page_runs():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S):
        exec(compile(block, str(PAGE), "exec"), names)
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
