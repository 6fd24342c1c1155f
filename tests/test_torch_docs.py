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
