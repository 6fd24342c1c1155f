"""What a user of the package relies on besides its results."""

import ast
import inspect
import itertools
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import aproarray
from aproarray import SpanningTree, reference

PACKAGE = Path(aproarray.__file__).parent
VERBS = [aproarray.mst, aproarray.global_propagate, aproarray.local_propagate]
METHODS = [
    getattr(SpanningTree, name)
    for name in ("from_edges", "reweight", "minimax", "affinity", "cut", "to_linkage")
]


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=PACKAGE.parent,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout


def test_import_is_light():
    heavy = "'numba llvmlite torch cupy jax scipy skimage matplotlib Cython anywidget'"
    assert run(f"import sys, aproarray; print({{*{heavy}.split()}} & {{*sys.modules}})") == "set()\n"


def test_trees_and_both_propagations_do_without_numba():
    code = (
        "import sys, aproarray; image = [[1.0, 2], [3, 5]]; tree = aproarray.mst(image);"
        "aproarray.global_propagate([[1, 0], [0, 0]], tree, zeta=1); tree.cut(1); tree.minimax(0, 1);"
        "aproarray.local_propagate([[1, 0], [0, 0]], image, zeta=1); aproarray.refine(image, [image, image]);"
        "aproarray.propagate_labels(image, [[1, 0], [0, 2]]);"
        "print('numba' in sys.modules)"
    )
    assert run(code) == "False\n"


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").is_file()


def test_public_names():
    assert sorted(aproarray.__all__) == [
        "LabelPropagator",
        "SpanningTree",
        "affinity_map",
        "global_propagate",
        "local_propagate",
        "mst",
        "propagate_labels",
        "refine",
        "release_memory",
        "widget",
    ]
    for module in (aproarray, reference):
        for name in module.__all__:
            assert inspect.getdoc(getattr(module, name)), name


def test_public_members_of_a_tree_have_docstrings():
    for name, member in vars(SpanningTree).items():
        if not name.startswith("_") and (callable(member) or isinstance(member, property | classmethod)):
            assert inspect.getdoc(getattr(SpanningTree, name)), name


@pytest.mark.parametrize("function", VERBS + METHODS, ids=lambda function: function.__name__)
def test_docstrings_name_every_parameter(function):
    text = inspect.getdoc(function)
    listed = re.findall(r"^(\w[\w, ]*) : ", text.partition("Returns\n---")[0], re.MULTILINE)
    parameters = [name for name in inspect.signature(function).parameters if name != "self"]
    assert [name for names in listed for name in names.split(", ")] == parameters


@pytest.mark.parametrize("verb", VERBS)
def test_options_are_keywords(verb):
    arguments = list(inspect.signature(verb).parameters.values())
    n_positional = 1 if verb is aproarray.mst else 2
    assert all(argument.kind is argument.KEYWORD_ONLY for argument in arguments[n_positional:])


def test_the_version_has_one_source():
    citation = PACKAGE.parent / "CITATION.cff"
    known = re.findall(r"^version: (.*)$", citation.read_text(), re.MULTILINE) if citation.is_file() else []
    try:
        known.append(metadata.version("aproarray"))
    except metadata.PackageNotFoundError:
        assert known, "neither a checkout nor installed"
    assert set(known) == {aproarray.__version__}


@pytest.mark.skipif(not (PACKAGE.parent / "pyproject.toml").is_file(), reason="needs a checkout")
def test_everything_imported_is_declared():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {re.match(r"[\w-]+?(?=-cuda|[^\w-]|$)", requirement).group() for requirement in listed}
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.partition(".")[0] for name in names}
    others = imported - sys.stdlib_module_names - {"aproarray"}
    assert {"numba", "llvmlite", "cupy", "PIL"} <= others
    assert {{"PIL": "pillow"}.get(name, name) for name in others} <= declared


@pytest.mark.skipif(not (PACKAGE.parent / "pyproject.toml").is_file(), reason="needs a checkout")
def test_the_oldest_versions_that_are_tested_are_those_declared():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    text = (PACKAGE.parent / "tests" / "constraints-minimum.txt").read_text(encoding="utf-8")
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)$", text, re.MULTILINE))
    bounds = [re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement) for requirement in listed]
    declared = {(bound[1], bound[2]) for bound in bounds if bound and bound[1] in tested}
    assert len(declared) >= 10
    for name, bound in declared:
        assert f"{tested[name]}.".startswith(f"{bound}."), f"{name}>={bound}, tested with {tested[name]}"


@pytest.mark.slow("compiles several times")
@pytest.mark.parametrize("damage", ["cut", "a folder"])
def test_a_damaged_cache_is_not_used_and_mends(damage, tmp_path):
    code = (
        "import numpy as np, aproarray.related;"
        "print(aproarray.related.pairwise_affinity(np.zeros((4, 4))).max())"
    )

    def call():
        options = {"capture_output": True, "text": True, "check": True, "timeout": 300, "cwd": PACKAGE.parent}
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, **options)
        assert done.stdout == "1.0\n"
        return done.stderr.count("RuntimeWarning: Numba's cache in")

    assert call() == 0
    files = list(tmp_path.rglob("*.nb[ic]"))
    assert files
    for path in files:
        data = path.read_bytes()
        path.unlink()
        if damage == "a folder":
            path.mkdir()
        else:
            path.write_bytes(data[: len(data) // 2])
    assert call() == 1
    if damage != "a folder":
        assert call() == 0


def test_what_numba_compiled_is_found_on_disk_by_the_next_process(tmp_path):
    code = (
        "import numpy as np, aproarray.related; from aproarray.cpu import _neighbours;"
        "aproarray.related.pairwise_affinity(np.zeros((4, 4), 'f4'));"
        "print(*_neighbours._relate_lines.stats.cache_hits.values())"
    )
    assert [run(code, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)] == ["\n", "1\n"]


def test_numba_compiles_where_nothing_can_be_cached():
    code = """
import numba.core.caching as caching
for locator in vars(caching).values():
    if isinstance(locator, type) and hasattr(locator, "from_function"):
        locator.from_function = classmethod(lambda cls, *arguments: None)
import numpy as np, aproarray.related
print(aproarray.related.pairwise_affinity(np.zeros((4, 4))).max())
"""
    assert run(code) == "1.0\n"
