"""The fuzzer's cases pass for a few seeds and for those it found faults with, and leave no function out."""

import importlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import fuzz
import fuzz_cases
import pytest

import aproarray
from aproarray import related

# The files that compare the gradients of these with finite differences, and their values with loops.
ELSEWHERE = {
    "test_widget.py": {"widget"},
    "test_torch.py": {"AffinityPropagation", "GlobalPropagation", "LocalPropagation"},
    "test_torch_tree_filter.py": {"tree_filter_v2"},
    "test_torch_losses.py": {
        "apro_loss", "gated_crf_loss", "mean_field_loss", "pairwise_loss", "partial_cross_entropy",
        "projection_loss", "tree_energy_loss",
    },
    "test_torch_segments.py": {
        "SegmentBank", "segment_contrastive_loss", "segment_prototypes", "segment_relationship", "spml_loss",
    },
    "test_torch_similarity.py": {
        "PairSimilarity", "gather_pixels", "proposal_masks", "proposal_segmentation", "sample_pixels",
        "similarity_distillation_loss", "similarity_learning_loss",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", fuzz.CASES)
def test_cases_pass_and_what_was_found_stays_mended(name):
    pytest.importorskip(fuzz.NEEDS.get(name, "numpy"))
    for seed in [*range(5), *(seed for case, seed, _ in fuzz.FOUND if case == name)]:
        fuzz.run(name, seed)


def test_every_public_function_is_fuzzed():
    covered = set().union(*fuzz_cases.COVERED.values())
    assert {*aproarray.__all__, *related.__all__} <= covered | ELSEWHERE["test_widget.py"]
    for library in ("torch", "jax"):
        if find_spec(library):
            module = importlib.import_module(f"aproarray.{library}")
            of_module = {name: getattr(module, name) for name in module.__all__}
            data = {name for name, one in of_module.items() if not callable(one) or hasattr(one, "_fields")}
            elsewhere = set().union(*(names for file, names in ELSEWHERE.items() if f"_{library}" in file))
            here = {one.removeprefix(f"{library}.") for one in covered if one.startswith(f"{library}.")}
            assert set(of_module) == here | elsewhere | data
    for file, names in ELSEWHERE.items():
        text = (Path(__file__).parent / file).read_text(encoding="utf-8")
        assert all(name in text for name in names), file


@pytest.mark.parametrize(
    ("fault", "said"),
    [("lambda edges, weights, n: right(edges, -np.asarray(weights), n)", "AssertionError"),
     ("lambda *arguments: os.abort()", "the call ends the process")],
    ids=["wrong", "crash"],
)  # fmt: skip
def test_faults_are_found_and_said_how_to_repeat(fault, said, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, numpy as np, aproarray.reference as r\nright = r.mst\nr.mst = {fault}\n"
    )
    root = Path(__file__).parents[1]
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--only",
        "trees_of_images",
        "--most",
        "1",
        "--minutes",
        "2",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert said in done.stdout
    assert "FAILED: python -m tests.fuzz --only trees_of_images --seed 0" in done.stdout
