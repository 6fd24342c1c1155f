"""Probabilities of labels: what they promise, and by what rule they are made."""

import numpy as np
import pytest
from scipy import ndimage

from aproarray import LabelPropagator, cpu, propagate_labels


def painted(seed):
    """Three noisy regions, of which two are alike, with a point in each."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((60, 80))
    truth = np.where(rows < 25, 1, np.where(columns < 40 + 6 * np.sin(rows / 4), 2, 3))
    image = np.array([0, 0.2, 0.6, 0.66])[truth] + 0.08 * rng.standard_normal(truth.shape)
    seeds = np.zeros(truth.shape, int)
    for label, at in ((1, (5, 70)), (2, (50, 10)), (3, (40, 70))):
        seeds[at[0] - 1 : at[0] + 2, at[1] - 1 : at[1] + 2] = label
    return image, seeds, truth


def test_the_chosen_label_is_the_most_probable():
    for seed in range(5):
        image, seeds, _ = painted(seed)
        labels = propagate_labels(image, seeds)
        shares = propagate_labels(image, seeds, return_full_prob=True)
        np.testing.assert_allclose(shares.sum(0), 1, rtol=1e-5)
        assert np.array_equal(shares.argmax(0) + 1, labels)
        assert (shares.max(0)[seeds > 0] == 1).all()
        ranked = np.sort(shares, axis=0)
        assert (ranked[-1] > ranked[-2]).all()


def test_wrong_pixels_are_less_certain():
    confidence, right = [], []
    for seed in range(8):
        image, seeds, truth = painted(seed)
        shares = propagate_labels(image, seeds, return_full_prob=True)
        confidence.append(shares.max(0)[seeds == 0])
        right.append((shares.argmax(0) + 1 == truth)[seeds == 0])
    confidence, right = np.concatenate(confidence), np.concatenate(right)
    assert 0.5 < right.mean() < 0.99
    assert np.median(confidence[~right]) < 0.75 < np.median(confidence[right])
    assert abs(confidence.mean() - right.mean()) < 0.1


def test_probabilities_follow_the_strokes():
    """A propagator that has answered before gives what a new one does."""
    image, seeds, _ = painted(0)
    propagator = LabelPropagator(image)
    propagator.propagate(seeds, return_full_prob=True)
    seeds[30:33, 20:60] = 7
    seeds[4:7, 69:72] = 0
    expected = propagate_labels(image, seeds, return_full_prob=True)
    assert np.array_equal(propagator.propagate(seeds, return_full_prob=True), expected)
    assert np.array_equal(propagator.propagate(seeds), np.unique(seeds)[1:][expected.argmax(0)])


@pytest.mark.parametrize("spacing", [None, (1, 3), (2, 1)])
def test_no_label_is_probable_beyond_a_wall(spacing):
    image, seeds, _ = painted(0)
    mask = np.ones(seeds.shape, bool)
    mask[:, 33] = False  # inside of a block of pixels, so that half the resolution does not show it
    seeds[seeds == 2] = 0
    seeds[50, 10], seeds[3, 3] = 2, 4
    shares = propagate_labels(image, seeds, mask=mask, spacing=spacing, return_full_prob=True)
    assert not shares[np.ix_([1, 3], range(60), range(34, 80))].any()
    assert not shares[np.ix_([0, 2], range(60), range(33))].any()
    assert not shares[:, :, 33].any()
    np.testing.assert_allclose(shares[:, mask].sum(0), 1, rtol=1e-5)
    alone = np.where(np.isin(seeds, (2, 4)), 0, seeds)
    alone[seeds == 3] = 1
    shares = propagate_labels(image, alone, mask=mask, return_full_prob=True)
    assert (shares[0, :, 34:] == 1).all()  # one label is certain


@pytest.mark.parametrize("shape", [(1,), (7,), (1, 1), (1, 9), (2, 3), (5, 4, 3), (1, 6, 7), (3, 2, 3, 4)])
def test_any_shape(shape):
    rng = np.random.default_rng(0)
    image = rng.random(shape)
    seeds = np.zeros(shape, int)
    seeds.reshape(-1)[[0, -1]] = 1, 2
    shares = propagate_labels(image, seeds, return_full_prob=True)
    np.testing.assert_allclose(shares.sum(0), 1, rtol=1e-5)
    labels = propagate_labels(image, seeds)
    assert np.array_equal(np.unique(seeds)[-len(shares) :][shares.argmax(0)], labels)


def test_workers_and_edges():
    image, seeds, _ = painted(0)
    edges = ndimage.gaussian_gradient_magnitude(image, 2)
    for options in ({}, {"edges": edges}, {"spacing": (1, 1.5)}):
        one, four = (
            propagate_labels(image, seeds, return_full_prob=True, workers=workers, **options)
            for workers in (1, 4)
        )
        assert np.array_equal(one, four)
        assert np.array_equal(one.argmax(0) + 1, propagate_labels(image, seeds, **options))


def test_tally_by_definition():
    rng = np.random.default_rng(0)
    n, n_labels, n_maps, n_coarse = 200, 5, 3, 13
    labels = rng.integers(-1, n_labels + 1, n, np.int32)
    held = ((rng.random(n) < 0.2) & (labels > 0)).astype(np.uint8)
    maps = rng.integers(1, n_labels + 1, (n_maps, n), np.int32)
    coarse = rng.integers(-1, n_labels + 1, (60, n_coarse), np.int32)
    coarse[:5] = -1
    block = rng.integers(0, 60, n, np.int32)
    zones = rng.integers(0, 3, n, np.int32)
    common = rng.random((3, n_labels)).astype(np.float32)
    weights = rng.normal(size=5)
    votes = rng.dirichlet(np.ones(n_labels), n).astype(np.float32)
    found = votes.copy()
    cpu.tally(labels, held, maps, coarse, block, zones, common, weights, found, 2)
    for i in range(n):
        own = labels[i]
        if own < 1 or held[i]:
            assert np.array_equal(found[i], votes[i])
            continue
        *others, plain = coarse[block[i]]
        others = [label for label in others if label > 0]
        agreed = np.mean(maps[:, i] == own)
        share = np.mean([label == own for label in others]) if others else agreed
        by_distance = plain == own if plain > 0 else agreed
        z = weights @ [1, share, by_distance, agreed, votes[i, own - 1]]
        rest = common[zones[i]].astype(float)
        for label in [*maps[:, i], *others, *([plain] if plain > 0 else [])]:
            rest[label - 1] += 1
        rest[own - 1] = 0
        rest /= rest.sum()
        probability = max(1 / (1 + np.exp(-z)), 1.0001 * rest.max() / (1 + rest.max()))
        expected = rest * (1 - probability)
        expected[own - 1] = probability
        np.testing.assert_allclose(found[i], expected, rtol=1e-5)
