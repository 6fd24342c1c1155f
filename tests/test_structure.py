"""The structure of the package: backends that are alike, no circles, private names that stay at home."""

import ast
import importlib
import inspect
from pathlib import Path

import emulated_cupy
import pytest
from on_device import Device

import aproarray
from aproarray import cpu
from aproarray._backend import Backend

device = Device(emulated_cupy)
with device.active():
    gpu = importlib.import_module("aproarray.gpu")

FUNCTIONS = [name for name, value in vars(Backend).items() if inspect.isfunction(value) and name[0] != "_"]


def parameters(function):
    """Return names, kinds and defaults, in their order."""
    given = inspect.signature(function).parameters.values()
    return [(one.name, one.kind, one.default) for one in given]


@pytest.mark.parametrize("backend", [cpu, gpu], ids=["cpu", "gpu"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_backends_have_the_declared_signatures(backend, name):
    declared = parameters(getattr(Backend, name))[1:]  # without self
    assert parameters(getattr(backend, name)) == declared


def test_backends_list_what_is_declared():
    declared = {*FUNCTIONS, "xp"}
    assert set(gpu.__all__) == declared
    assert set(cpu.__all__) >= declared


PACKAGE = Path(aproarray.__file__).parent


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def is_module(name):
    return name in MODULES or PACKAGE.joinpath(*name.split(".")).with_suffix(".pyx").exists()


def imports(module):
    """Yield (module of the package, name in it or None) for all that a module imports, anywhere in it.

    What type checkers alone see is left out.
    """
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "aproarray":
                    yield alias.name.partition(".")[2], None
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "aproarray":
            package = node.module.partition(".")[2]
            for alias in node.names:
                inner = f"{package}.{alias.name}".lstrip(".")
                yield (inner, None) if is_module(inner) else (package, alias.name)


def test_no_circle_between_modules():
    done = set()

    def below(module, path=()):
        assert module not in path, f"circular import: {' -> '.join((*path, module))}"
        if module in done:
            return
        parents = {module.rpartition(".")[0], ""}  # which every import of a module imports first
        for name in {name for name, _ in imports(module) if name in MODULES} - {module} - parents:
            below(name, (*path, module))
        done.add(module)

    for module in MODULES:
        below(module)


@pytest.mark.parametrize("module", MODULES)
def test_private_names_are_used_at_home(module):
    found = list(imports(module))
    private = {f"{name}.{of}" for name, of in found if of and of.startswith("_") and not of.endswith("__")}
    aliases = {name.rpartition(".")[2] for name, of in found if of is None}
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in aliases
            and node.attr.startswith("_")
            and not node.attr.endswith("__")
        ):
            private.add(f"{node.value.id}.{node.attr}")
    assert not private, f"{module} uses private names of other modules: {private}"
