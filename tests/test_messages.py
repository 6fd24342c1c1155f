"""Wrong arguments of every public function: a TypeError or ValueError that names the argument."""

import importlib.util
import inspect
import re

import numpy as np
import pytest

import aproarray
from aproarray import SpanningTree, related

IMAGE = np.arange(12.0).reshape(3, 4)
VALUES = np.ones((3, 4, 2))
TREE = aproarray.mst(IMAGE)
LABELS = np.array([[1, 0, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0]])


class BrokenArray:
    """An array whose numbers cannot be had."""

    shape, dtype, ndim = (3, 4), np.dtype(float), 2

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no numbers here")


class BrokenDlpack:
    """A tensor that cannot be handed over."""

    shape, dtype, ndim = (3, 4), "float32", 2

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **options):
        raise RuntimeError("no memory here")


class OnDevice(BrokenDlpack):
    """A tensor on a CUDA device that nobody here has."""

    def __dlpack_device__(self):
        return 2, 0


class Indifferent:
    """A thing whose truth and order are unknown."""

    def __bool__(self):
        raise RuntimeError("neither true nor false")

    __lt__ = __gt__ = __le__ = __ge__ = __eq__ = lambda self, other: self
    __hash__ = None


# Nothing that any argument takes, or (a number, a string, True) that not all do.
WRONG = {
    "object": object(),
    "a string": "2",
    "bytes": b"2",
    "a dict": {"a": 1},
    "a set": {1},
    "a function": len,
    "a complex number": 1j,
    "True twice": np.array([True, True]),
    "an array of bools": np.ones((2, 2), bool),
    "an array of objects": np.array([None, 1], object),
    "strings": np.array(["a", "b"]),
    "a ragged list": [[1, 2], [3]],
    "a ragged list of arrays": [np.ones(2), np.ones((3, 3))],
    "a generator": iter([1, 2]),
    "a broken array": BrokenArray(),
    "a broken tensor": BrokenDlpack(),
    "a tensor on a device": OnDevice(),
    "neither true nor false": Indifferent(),
    "a masked array": np.ma.masked_equal(np.ones((3, 4)), 1),
    "nan": float("nan"),
    "-1": -1,
    "-1.5": -1.5,
    "an array of nan": np.full((3, 4), np.nan),
    "7 axes": np.zeros((1,) * 7),
}

# Every verb, with arguments that are right.
CALLS = {
    aproarray.release_memory: {},
    aproarray.mst: {"image": IMAGE},
    aproarray.global_propagate: {"values": VALUES, "tree": TREE, "zeta": 1.0},
    aproarray.local_propagate: {"values": VALUES, "image": IMAGE, "zeta": 1.0},
    aproarray.propagate_labels: {"image": IMAGE, "labels": LABELS},
    aproarray.refine: {"image": IMAGE, "scores": VALUES},
    aproarray.affinity_map: {"image": IMAGE, "pixel": (0, 0)},
    aproarray.LabelPropagator: {"image": IMAGE},
    aproarray.LabelPropagator(IMAGE).propagate: {"labels": LABELS},
    SpanningTree.from_edges: {"edges": [[0, 1]], "weights": [1.0], "n_nodes": 2},
    TREE.reweight: {"features": IMAGE},
    TREE.minimax: {"i": 0, "j": 1},
    TREE.affinity: {"index": 0, "zeta": 1.0},
    TREE.cut: {"threshold": 1.0},
    SpanningTree: {"shape": TREE.shape, "order": TREE.order, "gaps": TREE.gaps, "gap_edges": TREE.gap_edges},
    related.mean_field: {"values": VALUES, "image": IMAGE, "zeta": 1.0},
    related.pamr: {"values": VALUES, "image": IMAGE},
    related.pairwise_affinity: {"image": IMAGE},
    related.tree_filter: {"values": VALUES, "tree": TREE, "zeta": 1.0, "features": IMAGE},
    related.tree_filter_v2: {"values": VALUES, "tree": TREE, "zeta": 1.0, "beta": 1.0, "gamma": 1.0},
    related.cam_to_scores: {"cams": VALUES},
    related.cam_to_labels: {"cams": VALUES},
    related.key_smoothing: {"scores": VALUES, "keys": VALUES},
    related.keypoints_to_regions: {"keypoints": [[1, 1]], "labels": [1], "sizes": [2.0], "shape": (3, 4)},
    related.mean_iou: {"predicted": LABELS, "truth": LABELS},
    related.nearest_neighbor_labels: {
        "embeddings": np.ones((5, 2)),
        "bank": np.ones((3, 2)),
        "bank_labels": [1, 2, 3],
    },
    related.prompt_denoising: {"scores": VALUES},
    related.random_walk_propagate: {"values": VALUES, "embeddings": VALUES},
    related.spherical_kmeans: {"embeddings": VALUES},
}
NEEDS_MORE = set() if importlib.util.find_spec("anywidget") else {"widget"}
if not NEEDS_MORE:
    CALLS[aproarray.widget] = {"image": IMAGE}
CASES = [(call, name) for call in CALLS for name in inspect.signature(call).parameters]
FLAGS = ("check_finite", "return_full_prob", "convert2lab")


def test_every_function_is_here():
    functions = {name for name, one in vars(aproarray).items() if callable(one) and name[0] != "_"}
    assert {call.__name__ for call in CALLS} >= functions - NEEDS_MORE | {*related.__all__}


@pytest.mark.parametrize(("call", "name"), CASES, ids=lambda one: getattr(one, "__name__", one))
def test_errors_name_the_argument(call, name):
    failures = []
    for kind, wrong in WRONG.items():
        try:
            call(**CALLS[call] | {name: wrong})
        except (TypeError, ValueError, ImportError) as error:
            # Of two arrays that do not fit, either may be named.
            names = [name, *CALLS[call]] if "shape" in str(error) else [name]
            if not re.search(rf"\b({'|'.join(names)})\b", str(error)):
                failures.append(f"{kind}: {type(error).__name__}: {error}")
        except Exception as error:
            failures.append(f"{kind}: {type(error).__name__}: {error}")
        else:
            if name in FLAGS:
                failures.append(f"{kind} is no flag")
    assert not failures, "\n".join(failures)
