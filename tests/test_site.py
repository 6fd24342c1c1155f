"""The documentation site: no public name is missing, and links lead to pages. `.ci/run` builds it."""

import ast
import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest

import aproarray

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "aproarray"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="needs a checkout: the docs are not installed")


@pytest.fixture(scope="module")
def conf():
    """Return the site's configuration."""
    spec = importlib.util.spec_from_file_location("conf", DOCS / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public_names():
    """Yield the dotted names in `__all__` of public modules, without an import. Backends are not public."""
    for path in PACKAGE.rglob("*.py"):
        parts = [part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"]
        if any(part.startswith("_") for part in parts) or parts[1:2] in (["cpu"], ["gpu"]):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                yield from (".".join([*parts, name]) for name in ast.literal_eval(node.value))


def documented_names():
    """Yield the dotted names that the API reference lists."""
    for page in (DOCS / "api").glob("*.rst"):
        text = page.read_text(encoding="utf-8")
        for module, rest in re.findall(r"^\.\. currentmodule:: (\S+)$(.*)", text, flags=re.S | re.M):
            for names in re.findall(r"^\.\. autosummary::\n(?:   :.*\n)*\n((?:   \w+\n)+)", rest, flags=re.M):
                yield from (f"{module}.{name}" for name in names.split())
            for name in re.findall(r"^\.\. py:data:: (\w+)$", rest, flags=re.M):
                yield f"{module}.{name}"


def test_the_reference_lists_every_public_name_once():
    public, documented = sorted(public_names()), sorted(documented_names())
    assert {"aproarray.mst", "aproarray.torch.apro_loss", "aproarray.jax.mst"} < set(public)
    assert documented == public


def test_every_page_has_a_place_in_the_navigation():
    pages = {page.stem: page.read_text(encoding="utf-8") for page in DOCS.glob("*.md")}
    trees = [
        re.findall(r"^```{toctree}\n(?::[^\n]*\n)*(.*?)^```", text, flags=re.S | re.M)
        for text in pages.values()
    ]
    listed = [line for tree in trees for lines in tree for line in lines.split("\n") if line]
    assert set(pages) - set(listed) == {"index", "gallery"}  # the site has a gallery of its own
    assert len(set(listed)) == len(listed)


def test_links_to_files_become_links_to_pages(conf):
    text = (
        "[a](gallery.md) [b](../README.md#speed) [c](gallery/plot_clicks.py) [d](../examples/scribbles.py) "
        "[e](../examples/scenes.py) [f](torch.md#in-jax) [g](https://a.org/b.md) [h](nothing.md) "
        "[torch.md](torch.md) [scenes.py](../examples/scenes.py)"
    )
    assert conf.to_the_site(text, DOCS) == (
        "[a](auto_gallery/index.rst) [b](concepts.md#speed) [c](auto_gallery/plot_clicks.rst) "
        "[d](auto_programs/scribbles.rst) [e](../examples/scenes.py) [f](torch.md#in-jax) "
        "[g](https://a.org/b.md) [h](nothing.md) [](torch.md) [scenes.py](../examples/scenes.py)"
    )
    assert conf.to_the_site("[a](docs/torch.md) [b](aproarray/reference.py) [c](README.md)", ROOT) == (
        "[a](torch.md) [b](api/definitions.rst) [c](index.md)"
    )


def test_the_switcher_knows_this_version(conf):
    versions = json.loads((DOCS / "versions.json").read_text(encoding="utf-8"))
    assert conf.release == aproarray.__version__
    assert [entry["version"] for entry in versions].count(conf.version) == 1
    assert [entry.get("preferred", False) for entry in versions].count(True) == 1
    for entry in versions:
        assert re.fullmatch(r"(https://.*)?/[\w.]+/", entry["url"])


def test_contributing_lists_the_public_modules():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.search(r"\*Public\* are the names in `__all__` of (.*?), their parameters", text, re.S)[1]
    modules = re.findall(r"`(aproarray[\w.]*)`", listed)
    assert sorted(modules) == sorted({name.rpartition(".")[0] for name in public_names()})


def test_extras_are_those_of_the_package():
    extras = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
    )
    pages = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob(".github/workflows/*"), ROOT / ".ci" / "run"]
    named = {
        extra
        for page in [*pages, *PACKAGE.rglob("*.py"), *(ROOT / "tests").glob("*.py")]
        for found in re.findall(r"(?:\.|aproarray)\[([a-z0-9,]+)\]'", page.read_text(encoding="utf-8"))
        for extra in found.split(",")
    }
    assert {"test", "torch", "coverage"} < named <= extras
