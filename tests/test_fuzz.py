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
    "test_torch.py": {"AffinityPropagation", "GlobalPropagation", "LocalPropagation", "Tree"},
    "test_torch_tree_filter.py": {"tree_filter_v2"},
    "test_torch_losses.py": {
        "apro_loss", "gated_crf_loss", "mean_field_loss", "pairwise_loss", "partial_cross_entropy",
        "projection_loss", "tree_energy_loss",
    },
    "test_torch_segments.py": {
        "SPML_WEIGHTS", "SegmentBank", "SegmentWeights", "Segments", "segment_contrastive_loss",
        "segment_prototypes", "segment_relationship", "spml_loss",
    },
    "test_torch_similarity.py": {
        "PairSimilarity", "gather_pixels", "proposal_masks", "proposal_segmentation", "sample_pixels",
        "similarity_distillation_loss", "similarity_learning_loss",
    },
    "test_jax.py": {"Tree"},
}  # fmt: skip


@pytest.mark.parametrize("name", fuzz.CASES)
def test_cases_pass(name):
    pytest.importorskip(fuzz.NEEDS.get(name, "numpy"))
    for seed in range(5):
        fuzz.run(name, seed)


@pytest.mark.parametrize(("name", "seed", "fault"), fuzz.FOUND)
def test_what_was_found_stays_mended(name, seed, fault):
    pytest.importorskip(fuzz.NEEDS.get(name, "numpy"))
    fuzz.run(name, seed)


def test_every_public_function_is_fuzzed():
    covered = set().union(*fuzz_cases.COVERED.values())
    assert {*aproarray.__all__, *related.__all__} <= covered
    for library in ("torch", "jax"):
        if find_spec(library):
            names = set(importlib.import_module(f"aproarray.{library}").__all__)
            elsewhere = set().union(*(names for file, names in ELSEWHERE.items() if f"_{library}" in file))
            assert names <= {one.removeprefix(f"{library}.") for one in covered} | elsewhere
    for file, names in ELSEWHERE.items():
        text = (Path(__file__).parent / file).read_text(encoding="utf-8")
        assert all(name in text for name in names), file


def test_a_fault_is_found_and_said_how_to_repeat(tmp_path):
    """The order of equal edges reversed: trees of images with ties differ from the definition's."""
    (tmp_path / "sitecustomize.py").write_text(
        "import numpy as np, aproarray.reference as r\n"
        "right = r.mst\n"
        "r.mst = lambda edges, weights, n: right(edges, -np.asarray(weights), n)\n"
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
    done = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: python -m tests.fuzz --only trees_of_images --seed 0" in done.stdout
