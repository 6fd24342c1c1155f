"""Threads: the number of workers and what else runs at the time change no bit of any result. Ctrl-C works."""

import _thread
import gc
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

import aproarray
from aproarray.cpu import _global, _mst, _workers


@pytest.fixture(params=["as many threads as are worth it", "as many as possible"])
def splitting(request, monkeypatch):
    """Make work on small images, too, be split among threads, into pieces of a few pixels each."""

    def split():
        if request.param == "as many as possible":
            monkeypatch.setattr(_workers, "STEP", 64)

    return split


def build(seed, workers=None):
    rng = np.random.default_rng(seed)
    images = rng.integers(8, size=(5, 24, 20, 3), dtype=np.uint8)
    return aproarray.mst(images, connectivity=2, mask=rng.random((24, 20)) < 0.9, workers=workers)


def reweigh(seed, workers=None):
    return build(seed, 1).reweight(np.random.default_rng(seed).random((5, 24, 20, 2)), workers=workers)


def propagate_globally(seed, workers=None, channels=70):
    values = np.random.default_rng(seed).random((5, 24, 20, channels), np.float32)
    return aproarray.global_propagate(values, build(seed, 1), zeta=3.0, workers=workers)


def propagate_over_one_tree(seed, workers=None):
    rng = np.random.default_rng(seed)
    tree = aproarray.mst(rng.integers(8, size=(24, 20)))
    return aproarray.global_propagate(rng.random((24, 20, 70)), tree, zeta=[1.0, 4.0], workers=workers)


def propagate_by_features(seed, workers=None):
    rng = np.random.default_rng(seed)
    values, features = rng.random((5, 24, 20, 2), np.float32), rng.random((5, 24, 20, 3), np.float32)
    index = [4, 0, 0, 2, 1]
    return aproarray.global_propagate(
        values, build(seed, 1), zeta=0.3, features=features, tree_index=index, workers=workers
    )


def propagate_locally(seed, workers=None):
    rng = np.random.default_rng(seed)
    values, images = rng.random((2, 120, 9, 3), np.float32), rng.random((2, 120, 9, 3), np.float32)
    return aproarray.local_propagate(values, images, zeta=0.3, kernel_size=3, iterations=10, workers=workers)


def propagate_labels(seed, workers=None, spacing=None):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 3, 70000, -1], (24, 20), p=[0.9, 0.02, 0.02, 0.02, 0.02, 0.02])
    propagator = aproarray.LabelPropagator(rng.random((24, 20, 3)), spacing=spacing)
    shares = propagator.propagate(labels, return_full_prob=True, workers=workers)
    return np.concatenate([shares, propagator.propagate(labels, workers=workers)[None]])


VERBS = [
    build,
    reweigh,
    propagate_globally,
    propagate_over_one_tree,
    propagate_by_features,
    propagate_locally,
    propagate_labels,
    partial(propagate_labels, spacing=(3, 1)),
]


def assert_same(a, b):
    if isinstance(a, aproarray.SpanningTree):
        assert a == b
        a, b = (np.concatenate([tree.order.ravel(), tree.gaps.ravel()]) for tree in (a, b))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("channels", "widths"), [(15, [15]), (21, [10, 11]), (32, [8] * 4), (70, [8] * 2 + [9] * 6)]
)
def test_columns_side_by_side_are_not_shared_out_in_narrow_blocks(channels, widths, monkeypatch):
    monkeypatch.setattr(_workers, "STEP", 64)
    rng, found = np.random.default_rng(0), []
    tree, values = aproarray.mst(rng.random((24, 20))), rng.random((24, 20, channels))
    sweep = _global._sweep_blocks
    monkeypatch.setattr(
        _global, "_sweep_blocks", lambda *x: found.extend(len(block) for block in x[2]) or sweep(*x)
    )
    result = aproarray.global_propagate(values, tree, zeta=0.3, workers=16)
    assert sorted(found) == widths
    np.testing.assert_array_equal(result, aproarray.global_propagate(values, tree, zeta=0.3, workers=1))


@pytest.mark.parametrize("verb", VERBS)
def test_result_does_not_depend_on_workers(verb, splitting):
    expected = verb(0, workers=1)
    splitting()
    for workers in (2, 3, 8, 1000, np.int64(2), None):
        assert_same(verb(0, workers=workers), expected)


@pytest.mark.parametrize("channels", [1, 2, 5, 31, 32, 64])
def test_sharing_out_of_channels_does_not_matter(channels, splitting):
    expected = propagate_globally(1, workers=1, channels=channels)
    splitting()
    for workers in (2, 8, 13, 200):
        assert_same(propagate_globally(1, workers=workers, channels=channels), expected)


@pytest.mark.parametrize("workers", [1, 4])
def test_calls_from_8_threads_at_once(workers, splitting):
    splitting()
    # Same and different inputs, all verbs at the same time.
    calls = [partial(verb, seed, workers) for verb in VERBS for seed in (0, 0, 1, 2)]
    expected = [call() for call in calls]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            for result, one in zip(pool.map(lambda call: call(), calls), expected, strict=True):
                assert_same(result, one)


def test_one_tree_serves_8_threads_at_once():
    tree = build(3)[0]
    values = np.random.default_rng(3).random((24, 20, 4))

    def use(k):
        return (
            aproarray.global_propagate(values, tree, zeta=1.0 + k % 2),
            tree.cut(k % 2),
            tree.affinity(k % 2, 2.0),
            tree.minimax(np.arange(400), k % 2),
        )

    expected = [use(0), use(1)]
    with ThreadPoolExecutor(8) as pool:
        for k, results in enumerate(pool.map(use, range(64))):
            for result, one in zip(results, expected[k % 2], strict=True):
                np.testing.assert_array_equal(result, one)


def test_one_propagator_serves_8_threads_at_once():
    rng = np.random.default_rng(0)
    image = rng.random((40, 50))
    strokes = [np.where(rng.random((40, 50)) < 0.02, rng.integers(1, 9, (40, 50)), 0) for _ in range(5)]
    expected = [aproarray.propagate_labels(image, one) for one in strokes]
    propagator = aproarray.LabelPropagator(image)
    with ThreadPoolExecutor(8) as pool:
        calls = pool.map(lambda k: propagator.propagate(strokes[k % 5]), range(200))
        for k, result in enumerate(calls):
            np.testing.assert_array_equal(result, expected[k % 5])


def test_errors_come_out_of_threads():
    values = np.full((4, 24, 20), np.nan)
    with pytest.raises(ValueError, match="image must be finite"):
        aproarray.mst(values, channel_axis=None, workers=4)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system cannot signal a thread")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "verb", ["mst", "global", "channels first", "local", "labels", "another stroke", "labels, spacing"]
)
def test_an_interrupted_call_ends_early_and_leaves_nothing_broken(verb, workers, monkeypatch):
    monkeypatch.setattr(_workers, "STEP", 1 << 10)  # many pieces
    rng = np.random.default_rng(0)
    image = rng.random((600, 700, 2), np.float32)
    values = rng.random((3, 600, 700), np.float32)
    values = values if verb == "channels first" else np.ascontiguousarray(np.moveaxis(values, 0, -1))
    tree = aproarray.mst(image)
    labels = np.where(rng.random((600, 700)) < 1e-3, rng.integers(1, 400, (600, 700)), 0)
    propagators = [aproarray.LabelPropagator(image, spacing=spacing) for spacing in (None, (1, 2))]

    def another_stroke():
        propagators[0].propagate(np.where(labels < 300, labels, 0), workers=workers)
        return propagators[0].propagate(labels, workers=workers)

    calls = {
        "labels": lambda: aproarray.LabelPropagator(image).propagate(labels, workers=workers),
        "another stroke": another_stroke,
        "labels, spacing": lambda: propagators[1].propagate(labels, workers=workers),
        "mst": lambda: aproarray.mst(image, workers=workers),
        "global": lambda: aproarray.global_propagate(values, tree, zeta=1, workers=workers),
        "channels first": lambda: aproarray.global_propagate(
            values, tree, zeta=1, channel_axis=0, workers=workers
        ),
        "local": lambda: aproarray.local_propagate(values, image, iterations=10, workers=workers, zeta=0.15),
    }
    expected = calls[verb]()
    passed, interrupt_at = [], None
    check_stop = _workers.check_stop

    def count_and_check():
        passed.append(True)
        if len(passed) == interrupt_at:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        check_stop()

    monkeypatch.setattr(_workers, "check_stop", count_and_check)
    # Whoever runs the tests may have Ctrl-C ignored.
    monkeypatch.setattr(signal, "interrupts", signal.signal(signal.SIGINT, signal.default_int_handler), False)
    calls[verb]()
    pieces = len(passed)
    passed.clear()
    interrupt_at = pieces // 3
    with pytest.raises(KeyboardInterrupt):
        calls[verb]()
    assert interrupt_at <= len(passed) < pieces
    assert_same(calls[verb](), expected)


def test_a_task_that_fails_ends_the_others():
    begun, ended = threading.Event(), []

    def fails():
        begun.wait()
        raise MemoryError("no more")

    def goes_on():
        begun.set()
        while not ended:
            try:
                _workers.check_stop()
            except _workers.Stopped:
                ended.append(True)
                raise

    with pytest.raises(MemoryError, match="no more"):
        _workers.run([goes_on, fails, goes_on], 2)
    assert ended
    _workers.check_stop()  # this thread's own work goes on


def test_what_cannot_be_resumed_goes_on_apart_from_the_caller():
    assert _workers.run_apart(threading.get_ident, pixels=0) == threading.get_ident()
    assert _workers.run_apart(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        _workers.run_apart(divmod, 1, 0)


@pytest.fixture(params=["none starts", "the second does not", "they start and die"])
def few_threads(request, monkeypatch):
    """Let threads fail to start, as they do under the limits of a container."""
    start, asked = _thread.start_new_thread, []

    def fails(function, arguments):
        asked.append(function)
        if request.param == "none starts" or (request.param == "the second does not" and len(asked) % 2 == 0):
            raise RuntimeError("can't start new thread")
        if request.param != "they start and die":
            start(function, arguments)

    monkeypatch.setattr(_thread, "start_new_thread", fails)
    monkeypatch.setattr(_workers, "_PATIENCE", 0.01)
    yield asked
    assert asked


@pytest.mark.parametrize("verb", VERBS)
def test_fewer_threads_than_asked_for(verb, few_threads, monkeypatch):
    monkeypatch.setattr(_workers, "STEP", 64)
    result = verb(0, workers=4)
    monkeypatch.undo()
    assert_same(result, verb(0, workers=1))


@pytest.mark.usefixtures("few_threads")
def test_errors_come_out_where_threads_do_not_start():
    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _workers.run([fails] * 3, 3)
    with pytest.raises(ZeroDivisionError):
        _workers.run_apart(divmod, 1, 0)
    assert _workers.run([lambda: 1, lambda: 2, lambda: 3], 3) == [1, 2, 3]


def test_a_thread_that_begins_late_finds_nothing_to_do(monkeypatch):
    late, calls = [], []
    monkeypatch.setattr(_thread, "start_new_thread", lambda function, arguments: late.append(function))
    monkeypatch.setattr(_workers, "_PATIENCE", 0.01)
    assert _workers.run_apart(lambda: calls.append(1)) is None
    assert _workers.run([lambda: calls.append(2)] * 3, 3) == [None] * 3
    for function in late:
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()
    assert calls == [1, 2, 2, 2]


def test_an_inner_call_ends_with_the_outer_one():
    begun = []

    def outer():
        while not begun:
            time.sleep(0.001)
        while True:
            _workers.run([lambda: None] * 2, 2)

    def fails():
        begun.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _workers.run([outer, fails, outer], 3)


def test_a_task_that_waits_for_a_thread_apart_ends_with_the_others():
    begun, released = threading.Event(), threading.Event()

    def single_call():
        begun.set()
        released.wait()

    def fails():
        begun.wait()
        raise MemoryError("no more")

    try:
        with pytest.raises(MemoryError, match="no more"):
            _workers.run([lambda: _workers.run_apart(single_call), fails], 2)
        assert not released.is_set()
    finally:
        released.set()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_does_not_keep_the_arrays_of_a_call(workers):
    def fails(array):
        raise ValueError("of no use")

    def call():
        arrays = [np.zeros(3), np.zeros(3)]
        tasks = [partial(_workers.run_apart, fails, array) for array in arrays]
        with pytest.raises(ValueError, match="of no use"):
            _workers.run(tasks, workers)
        return [weakref.ref(array) for array in arrays]

    gc.disable()  # counts of references alone
    try:
        left = call()
        for _ in range(100):  # a thread that has done its work takes a moment to end
            left = [array for array in left if array() is not None]
            time.sleep(0.01 if left else 0)
        assert not left
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system cannot signal a thread")
@pytest.mark.parametrize(
    ("single", "act"),
    [
        ("canonical_edges", lambda tree: tree.edges),
        ("sort_by_weight", lambda tree: tree.edges),
        ("linkage", lambda tree: tree.to_linkage()),
    ],
)
def test_single_calls_do_not_hold_up_an_interrupt(single, act, monkeypatch):
    tree = aproarray.mst(np.random.default_rng(0).random((24, 20)))
    monkeypatch.setattr(_workers, "STEP", 64)
    monkeypatch.setattr(signal, "interrupts", signal.signal(signal.SIGINT, signal.default_int_handler), False)
    released = threading.Event()

    def interrupt_and_wait(*_):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        released.wait()

    monkeypatch.setattr(_mst, single, interrupt_and_wait)
    try:
        with pytest.raises(KeyboardInterrupt):
            act(tree)
        assert not released.is_set()
    finally:
        released.set()
