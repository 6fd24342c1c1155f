"""A file of tests that was asked for says which package it needs, and is not green without it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    ("file", "package", "said"),
    [
        ("test_torch.py", "torch", "torch is not installed"),
        ("test_mst.py", "skimage", "skimage is not installed"),
    ],
)
def test_a_named_file_names_the_package_that_is_missing(file, package, said, tmp_path):
    (tmp_path / f"{package}.py").write_text(
        f'raise ModuleNotFoundError("No module named {package!r}", name={package!r})'
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", TESTS / file]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    }
    done = subprocess.run(
        command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    assert f"ERROR tests/{file}: " in done.stdout
    assert said in done.stdout
    assert "pip install" in done.stdout
