"""Moves of sweeps kept for trees of torch and JAX: found again, bounded, and never another tree's."""

import threading

import numpy as np
import pytest

import aproarray
from aproarray.cpu import _global, _recent

pytestmark = pytest.mark.numpy_only("memory of the CPU backend")


@pytest.fixture(autouse=True)
def nothing_kept():
    _recent.recent.forget()
    yield
    _recent.recent.forget()


@pytest.fixture
def found(monkeypatch):
    """Return the list of lines whose moves were not kept."""
    calls = []
    whole = _global._find_moves
    monkeypatch.setattr(_global, "_find_moves", lambda gaps, *x: calls.append(len(gaps)) or whole(gaps, *x))
    return calls


def random_gaps(seed, n_trees=1, n=300, dtype=np.float32):
    return np.random.default_rng(seed).random((n_trees, n), dtype)


def moves_of(gaps):
    return _global.recent_lines(np.empty((len(gaps), 0), np.int32), gaps, 2).moves


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_trees_are_known_by_all_of_their_gaps(found, dtype):
    gaps = random_gaps(0, 3, dtype=dtype)
    expected = _global.lines(gaps, gaps, 1).moves
    del found[:]
    np.testing.assert_array_equal(moves_of(gaps), expected)
    assert len(found) == 3
    np.testing.assert_array_equal(moves_of(gaps[[2, 0, 2]]), expected[[2, 0, 2]])  # of another batch
    assert len(found) == 3
    for place in range(300):
        changed = gaps[:1].copy()
        changed[0, place] = 2
        np.testing.assert_array_equal(moves_of(changed), _global.lines(changed, changed, 1).moves)
    assert len(found) == 3 + 2 * 300


def test_what_is_kept_does_not_follow_the_memory_it_came_from(found):
    gaps = random_gaps(0)
    given = gaps.copy()
    moves = moves_of(given)
    expected = moves.copy()
    given[:] = moves[:] = 7
    np.testing.assert_array_equal(moves_of(gaps), expected)
    assert len(found) == 1


def test_nan_is_known_again_and_zeros_of_two_signs_are_told_apart(found):
    moves_of(np.full((1, 5), np.nan, np.float32))
    moves_of(np.full((1, 5), np.nan, np.float32))
    assert len(found) == 1
    moves_of(np.zeros((1, 5), np.float32))
    moves_of(-np.zeros((1, 5), np.float32))
    assert len(found) == 3


def test_trees_without_gaps_have_no_moves():
    assert moves_of(np.empty((2, 0), np.float32)).shape == (2, 0)


def test_the_oldest_ones_are_dropped(found, monkeypatch):
    one = 5 * 300 + _recent._OVERHEAD
    monkeypatch.setattr(_recent, "LARGEST", 3 * one)
    trees = [random_gaps(seed) for seed in range(5)]
    for gaps in trees:
        moves_of(gaps)
    assert len(found) == 5
    for gaps in trees[2:]:
        moves_of(gaps)
    assert len(found) == 5
    moves_of(trees[0])
    assert len(found) == 6
    assert _recent.recent._bytes == 3 * one
    moves_of(random_gaps(9, n=3000))  # too large to be kept
    assert _recent.recent._bytes == 3 * one


def test_release_memory_forgets_them(found):
    gaps = random_gaps(0)
    moves_of(gaps)
    aproarray.release_memory()
    assert _recent.recent._bytes == 0
    moves_of(gaps)
    assert len(found) == 2


def test_threads_may_keep_trees_at_once(monkeypatch):
    monkeypatch.setattr(_recent, "LARGEST", 20_000)
    trees = [random_gaps(seed, n=500) for seed in range(12)]
    expected = [_global.lines(gaps, gaps, 1).moves for gaps in trees]
    wrong = []

    def work(first):
        for turn in range(60):
            k = (first + turn * 5) % len(trees)
            if not np.array_equal(moves_of(trees[k]), expected[k]):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert (
        _recent.recent._bytes
        == sum(_recent._size_of(*kept) for kept in _recent.recent._kept.values())
        <= 20_000
    )


def test_torch_finds_the_moves_of_a_batch_once(found):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from aproarray.torch import global_propagate, mst

    generator = torch.Generator().manual_seed(0)
    image, values = (torch.rand(3, 2, 6, 7, generator=generator) for _ in range(2))
    tree = mst(image)
    values.requires_grad_()
    for _ in range(2):
        global_propagate(values, tree, zeta=[0.3, 0.5]).sum().backward()
    assert len(found) == 3
    global_propagate(values[:2], mst(image[1:]), zeta=0.3).sum().backward()
    assert len(found) == 3
    global_propagate(values, tree, zeta=0.3, features=values).sum().backward()
    assert len(found) == 6


def test_jax_finds_the_moves_of_a_tree_once(found):
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    from aproarray.jax import global_propagate, mst

    rng = np.random.default_rng(0)
    image, values = rng.random((3, 6, 7, 2), np.float32), rng.random((3, 6, 7, 1), np.float32)
    trees = [mst(one) for one in image]
    for _ in range(2):
        for tree, v in zip(trees, values, strict=True):
            jax.grad(lambda v, tree=tree: global_propagate(v, tree, zeta=0.3)[0, 0, 0])(v)
    jax.vmap(lambda v: global_propagate(v, trees[1], zeta=0.3))(values)
    assert len(found) == 3
    changed = trees[0]._replace(gaps=trees[0].gaps.at[-1].mul(100))
    result = np.asarray(global_propagate(values[0], changed, zeta=0.3)).ravel()
    by_edges = aproarray.SpanningTree.from_edges(trees[0].gap_edges, changed.gaps, n_nodes=42)
    np.testing.assert_allclose(
        result, aproarray.global_propagate(values[0].reshape(42), by_edges, zeta=0.3), rtol=1e-5
    )
