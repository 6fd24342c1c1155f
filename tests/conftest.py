"""How the tests are run: two processes, the same random numbers, examples of hypothesis that repeat.

`--slow` adds the tests marked `slow`; `--hypothesis-profile=ci` has more examples, `search` new ones.
"""

from __future__ import annotations

import os
import sys
import zlib
from pathlib import Path

import emulated_compiler
import emulated_cupy
import on_device
import pytest
from hypothesis import HealthCheck, settings

# torch is fastest with one thread where things are small, here and in the processes that tests start.
# Tests of threads ask for theirs.
os.environ["OMP_NUM_THREADS"] = "1"

# No deadlines: a property is not a benchmark, and the first call of a window compiles it.
COMMON = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", max_examples=80, derandomize=True, **COMMON)
settings.register_profile("ci", max_examples=300, derandomize=True, **COMMON)
settings.register_profile("search", max_examples=2000, **COMMON)
settings.load_profile("default")

collect_ignore = ["typed_results.py"]  # for mypy alone


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config):
    """Keep what the emulation compiles, for other processes and later runs, and see what is asked for."""
    on_device.asked_for = config.option.markexpr.strip() == "gpu"
    if hasattr(config, "cache"):
        emulated_compiler.keep(config.cache.mkdir("emulation"))


def pytest_xdist_auto_num_workers(config):
    """Run named files in this process, as debuggers and profilers like it, and else on up to 4 CPUs."""
    if all(Path(argument.partition("::")[0]).is_file() for argument in config.args):
        return 0
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if mark := item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason=f"slow, runs with --slow: {mark.args[0]}"))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Name the package that a file cannot be imported without, where pytest says that it cannot."""
    report = yield
    error = report.call.excinfo.value if report.skipped else None
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__ or error.__context__
    if report.skipped and "unable to import" in report.longrepr[2]:
        if error is not None:
            report.longrepr = (*report.longrepr[:2], f"Skipped: {error.name} is not installed")
        elif collector.path.is_relative_to(
            Path(__file__).parent
        ):  # a fault: pytest would pass over its tests
            report.outcome, report.longrepr = "failed", f"{collector.path} cannot be imported"
    return report


def pytest_collectreport(report):
    """Remember the files that were asked for by name, and cannot run here."""
    if report.skipped:
        _cannot_run[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Fail where a named file was skipped as a whole: "1 skipped" looks green."""
    arguments = {argument.partition("::")[0] for argument in session.config.args}
    named = {(session.config.invocation_params.dir / one).resolve() for one in arguments}
    root = session.config.rootpath
    missing = [f"{file}: {why}" for file, why in _cannot_run.items() if (root / file).resolve() in named]
    if missing and not hasattr(session.config, "workerinput"):
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        for line in missing:
            reporter.write_line(f"\nERROR {line}", red=True)
        reporter.write_line(
            "`pip install '.[test]'` brings what the tests need; napari has an extra of its own"
        )
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.USAGE_ERROR


_cannot_run: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _same_random_numbers(request):
    """Start every test from the same state, whichever tests ran before it."""
    emulated_cupy.shuffle(zlib.crc32(request.node.nodeid.encode()) & 0xFFFFFF)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
