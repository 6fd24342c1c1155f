"""Features that come with an image, such as a network's embedding: labels follow them beside the colours."""

import numpy as np
import pytest

from aproarray import LabelPropagator, propagate_labels


@pytest.fixture(scope="module")
def scene():
    """Two halves of one colour, which an embedding tells apart, and a stroke in each; not in the middle."""
    rng = np.random.default_rng(0)
    truth = np.where(np.arange(60) < 38, 1, 2) * np.ones((40, 1), int)
    image = 0.5 + 0.05 * rng.standard_normal((40, 60, 3))
    embedding = rng.standard_normal((2, 6))[truth - 1] + 0.1 * rng.standard_normal((40, 60, 6))
    seeds = np.zeros((40, 60), int)
    seeds[10:30, 5], seeds[10:30, 55] = 1, 2
    return image, embedding, seeds, truth


def test_labels_follow_features(scene):
    image, embedding, seeds, truth = scene
    assert (propagate_labels(image, seeds) == truth).mean() < 0.95
    assert (propagate_labels(image, seeds, features=embedding) == truth).mean() > 0.99
    plain = np.zeros((40, 60))
    assert (propagate_labels(plain, seeds, features=embedding) == truth).mean() > 0.99


def test_their_scale_and_layout_do_not_matter(scene):
    image, embedding, seeds, _ = scene
    whole = np.rint(embedding * 20)
    expected = propagate_labels(image, seeds, features=whole, return_full_prob=True)
    for same in (
        whole * 2.0**40,
        whole.astype(np.int8),
        whole.astype(np.float32),
        np.asfortranarray(whole),
        whole[:, ::-1].copy()[:, ::-1],
        whole.tolist(),
    ):
        assert np.array_equal(propagate_labels(image, seeds, features=same, return_full_prob=True), expected)
    assert np.array_equal(
        propagate_labels(image, seeds, features=np.full((40, 60, 2), 3)), propagate_labels(image, seeds)
    )


def test_a_batch_is_its_images_and_a_propagator_does_the_same(scene):
    image, embedding, seeds, _ = scene
    images, labels = np.stack([image, image[::-1]]), np.stack([seeds, seeds])
    for maps in (embedding, np.stack([embedding, embedding[:, ::-1]])):
        found = propagate_labels(images, labels, features=maps, spatial_ndim=2)
        for item in range(2):
            own = maps if maps.ndim == 3 else maps[item]
            propagator = LabelPropagator(images[item], features=own)
            assert np.array_equal(found[item], propagator.propagate(labels[item], workers=3))


def test_numbers_outside_the_mask_are_not_looked_at(scene):
    image, embedding, seeds, _ = scene
    inside = np.ones((40, 60), bool)
    inside[:, 25:30] = inside[:5] = False
    expected = propagate_labels(image, seeds, features=embedding, mask=inside)
    broken = np.where(inside[..., None], embedding, np.nan)
    assert np.array_equal(propagate_labels(image, seeds, features=broken, mask=inside), expected)
    void = np.where(inside, seeds, -1)
    assert np.array_equal(propagate_labels(image, void, features=broken)[inside], expected[inside])
    with pytest.raises(ValueError, match="features must be finite"):
        propagate_labels(image, seeds, features=broken)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (
            np.zeros((40, 60)),
            ValueError,
            r"features of shape \(40, 60\) do not fit .* expected \(40, 60, D\)",
        ),
        (np.zeros((40, 60, 0)), ValueError, "D numbers for each pixel"),
        (np.zeros((6, 40, 60)), ValueError, r"expected \(40, 60, D\)"),
        (np.zeros((40, 60, 2), complex), TypeError, "features .* complex128"),
    ],
)
def test_features_that_do_not_fit_say_so(scene, features, error, message):
    image, _, seeds, _ = scene
    with pytest.raises(error, match=message):
        propagate_labels(image, seeds, features=features)
