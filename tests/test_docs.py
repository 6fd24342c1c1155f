"""The documentation names what is there: links, files, and which file may import which."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
DESIGN = ROOT / "docs" / "design.md"
PACKAGE = ROOT / "aproarray"

pytestmark = pytest.mark.skipif(not DESIGN.is_file(), reason="needs a checkout: the docs are not installed")


def prose(page):
    """Return a page's text without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)\s]*)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_files_that_pages_for_developers_name_exist():
    text = prose(DESIGN) + prose(ROOT / "CONTRIBUTING.md")
    named = re.findall(r"`([\w/.]+\.(?:py|pyx|pxi|pxd|cu|cuh|md|yml|sh|cff))`", text)
    assert len(named) > 50
    files = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.*") if path.is_file()]
    elsewhere = {"numba/np/arrayobj.py"}
    missing = [name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in files)]
    assert set(missing) <= elsewhere


def floors():
    """Return the floor of each file or folder in the package, as the design's table has them."""
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", prose(DESIGN), flags=re.M)
    return {name: int(floor) for floor, names in rows for name in re.findall(r"`([\w.]+)/?`", names)}


def modules_imported(path):
    """Yield the dotted names that a file imports from the package, but for what type checkers alone see."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
    else:
        for module, names in re.findall(r"^ *from ([\w.]+) c?import (.+)$", text, flags=re.M):
            yield from (f"{module}.{name.strip()}" for name in names.split(","))


def owner(dotted):
    """Return the file or folder of the package's first level that a name comes from."""
    name = dotted.partition(".")[2].partition(".")[0] or "__init__"
    if (PACKAGE / name).is_dir():
        return name
    return f"{name}.py" if (PACKAGE / f"{name}.py").is_file() else "__init__.py"


def test_imports_run_from_higher_floors_to_lower_ones():
    floor_of = floors()
    sources = [path for pattern in ("*.py", "*.pyx", "*.pxi", "*.pxd") for path in PACKAGE.rglob(pattern)]
    assert len(sources) > 50
    for path in sources:
        own = path.relative_to(PACKAGE).parts[0]
        assert own in floor_of, f"docs/design.md has no floor for {own}"
        for dotted in modules_imported(path):
            if dotted.split(".")[0] == "aproarray" and owner(dotted) != own:
                assert floor_of[owner(dotted)] < floor_of[own], f"{path.name} imports {dotted}"
