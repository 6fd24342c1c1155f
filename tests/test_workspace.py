"""Memory that threads keep between calls: bounded, given back, and never seen in a result."""

import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import aproarray
from aproarray.cpu import _workspace
from aproarray.cpu._workspace import Workspace

pytestmark = pytest.mark.numpy_only("memory of CPU threads")


@pytest.fixture(autouse=True)
def nothing_kept():
    aproarray.release_memory()
    yield
    aproarray.release_memory()


@pytest.fixture
def traced():
    """Return a function that says how many bytes were allocated since, and still are."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield lambda: tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()


def use(*sizes):
    """Take arrays of bytes in a workspace; return where they lie."""
    with Workspace() as workspace:
        return [workspace.array((size,), np.uint8).ctypes.data for size in sizes]


def test_calls_find_the_memory_of_the_last_one():
    use(1000, 500)
    first = use(1000, 500)
    assert first == use(1000, 500) == use(1000, 500)
    assert first[1] - first[0] == 1024
    assert all(place % 64 == 0 for place in first)


def test_arrays_have_their_shape_and_type_and_do_not_overlap():
    for _ in range(2):
        with Workspace() as workspace:
            arrays = [
                workspace.array(shape, dtype) for shape in ((3, 5), (0,), (7,)) for dtype in ("f4", "i8")
            ]
            for number, array in enumerate(arrays):
                array[...] = number
        for number, array in enumerate(arrays):
            assert array.shape == ((3, 5), (0,), (7,))[number // 2]
            assert array.dtype == ("f4", "i8")[number % 2]
            assert np.all(array == number)


def test_what_is_kept_is_bounded(monkeypatch, traced):
    monkeypatch.setattr(_workspace, "LARGEST", 100_000)
    for _ in range(3):
        use(90_000, 500_000, 90_000)
    assert 90_000 < traced() < 120_000


def test_memory_is_given_back_when_asked_for(traced):
    image = np.random.default_rng(0).random((300, 300), np.float32)
    aproarray.mst(image, workers=1)
    kept = traced()
    aproarray.release_memory()
    assert kept - traced() > 20 * image.size


def started():
    """Return a thread that has used its working memory, and the event that it waits for."""
    done, end = threading.Event(), threading.Event()

    def work():
        use(1_000_000)
        done.set()
        end.wait()

    thread = threading.Thread(target=work)
    thread.start()
    done.wait()
    return thread, end


def test_memory_is_given_back_when_a_thread_ends(traced):
    thread, end = started()
    assert traced() > 900_000
    end.set()
    thread.join()
    assert traced() < 100_000


def test_any_thread_may_release_the_memory_of_all(traced):
    thread, end = started()
    aproarray.release_memory()
    assert traced() < 100_000
    end.set()
    thread.join()


def test_released_memory_stays_with_the_call_that_uses_it():
    use(1000)
    with Workspace() as workspace:
        array = workspace.array((1000,), np.uint8)
        array[:] = 7
        aproarray.release_memory()
        assert use(1000) != [array.ctypes.data]
        assert np.all(array == 7)


def test_nested_calls_have_memory_of_their_own():
    use(1000)
    with Workspace() as outer:
        one = outer.array((1000,), np.uint8)
        with Workspace() as inner:
            two = inner.array((1000,), np.uint8)
            assert not np.shares_memory(one, two)


def test_memory_of_a_call_that_failed_is_dropped():
    """A thread that Ctrl-C has left may still be writing to it."""
    use(1000)
    arrays = []

    def fail():
        with Workspace() as workspace:
            arrays.append(workspace.array((1000,), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    for _ in range(3):
        with Workspace() as workspace:
            assert not np.shares_memory(arrays[0], workspace.array((1000,), np.uint8))


def results(seed):
    rng = np.random.default_rng(seed)
    image, values = rng.random((40, 30, 3), np.float32), rng.random((30, 40, 30), np.float32)
    tree = aproarray.mst(image)
    features = tree.reweight(rng.random((40, 30, 5), np.float32))
    last = aproarray.global_propagate(np.moveaxis(values, 0, -1).copy(), tree, zeta=0.1, channel_axis=-1)
    first = aproarray.global_propagate(values, tree, zeta=0.1, channel_axis=0)
    return [tree.order, tree.gaps, tree.gap_edges, features.order, features.gaps, first, last]


def test_results_are_the_same_whatever_was_kept():
    expected = results(0)
    copies = [array.copy() for array in expected]
    results(1)  # in the memory that these results were made with
    again = results(0)
    for array, copy, other in zip(expected, copies, again, strict=True):
        np.testing.assert_array_equal(array, copy)
        np.testing.assert_array_equal(other, copy)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_works_while_another_thread_looks_at_what_is_kept():
    script = """
import os, sys, warnings
import numpy as np, aproarray
from aproarray.cpu import _recent, _workspace, recent_lines
warnings.simplefilter("ignore")  # of threads, which Python sees from 3.12 on
image = np.random.default_rng(0).random((50, 60))
expected = aproarray.mst(image).order
with _workspace._lock, _recent.recent._lock:  # as another thread might hold them
    child = os.fork()
if child == 0:
    recent_lines(image, image, 1)
    aproarray.release_memory()
    os._exit(0 if np.array_equal(aproarray.mst(image).order, expected) else 1)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(aproarray.mst(image).order, expected)
"""
    root = Path(aproarray.__file__).parents[1]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True, timeout=60)
