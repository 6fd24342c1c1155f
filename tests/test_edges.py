"""Maps of boundaries that come with an image, or in its place: labels and scores follow them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aproarray import LabelPropagator, _edges, propagate_labels, reference, refine


@pytest.fixture(scope="module")
def cells():
    """Cells between dark walls, two pixels thick and noisy; a point in each; the same for scores."""
    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:60, :80]
    truth = 1 + 4 * (rows // 20) + columns // 20
    image = 0.7 + 0.06 * rng.standard_normal((60, 80))
    wall = ((rows + 1) % 20 < 2) | ((columns + 1) % 20 < 2)
    image[wall] -= 0.4
    seeds = np.where((rows % 20 == 4) & (columns % 20 == 5), truth, 0)
    return image, seeds, truth, wall


def right(labels, cells):
    _, _, truth, wall = cells
    return (labels == truth)[~wall].mean()


def test_labels_follow_walls(cells):
    image, seeds, *_ = cells
    assert right(propagate_labels(image, seeds), cells) < 0.98
    assert right(propagate_labels(image, seeds, edges=-image), cells) > 0.995
    assert right(propagate_labels(None, seeds, edges=-image), cells) > 0.99


def test_walls_of_a_volume():
    rng = np.random.default_rng(0)
    wall = np.zeros((16, 20, 20), bool)
    wall[8] = wall[:, 9:11] = True
    truth = np.ones((16, 20, 20), int)
    truth[9:] += 1
    truth[:, 10:] += 2
    stain = wall + 0.1 * rng.standard_normal(wall.shape)
    seeds = np.zeros_like(truth)
    for row, column in ((2, 2), (2, 17), (14, 2), (14, 17)):
        seeds[row, column, 10] = truth[row, column, 10]
    labels = propagate_labels(stain, seeds, edges=stain)
    assert (labels == truth)[~wall].mean() > 0.98


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_edges_alone_bring_the_label_of_a_nearest_seed_by_minimax_distance(seed, ndim):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 7, ndim))
    height = rng.integers(0, 30, shape).astype(np.float32)
    labels = rng.choice([0, 0, 0, 0, 1, 2, 3], shape)
    labels.flat[0] = 1
    result = propagate_labels(None, labels, edges=height).reshape(-1)
    pairs = reference.pixel_graph(shape, 1)
    weights = height.reshape(-1)[pairs].sum(-1)
    rows = reference.mst(pairs, weights, height.size)
    distances = reference.minimax_distances(pairs[rows], weights[rows], height.size)
    seeds = np.flatnonzero(labels.reshape(-1))
    for pixel in range(height.size):
        to_seeds = distances[pixel, seeds]
        nearest = seeds[to_seeds == to_seeds.min()]
        assert result[pixel] in ([labels.flat[pixel]] if labels.flat[pixel] else labels.flat[nearest])


@pytest.mark.parametrize("image", ["none", "beside"])
def test_their_scale_and_layout_do_not_matter(cells, image):
    image, seeds = cells[0] if image == "beside" else None, cells[1]
    edges = np.rint(-cells[0] * 100) + 150
    expected = propagate_labels(image, seeds, edges=edges, return_full_prob=True)
    for same in (
        4 * edges,
        edges - 2.0**10,
        edges.astype(np.uint8),
        edges.astype(np.float16),
        edges.astype(np.int64) + 2**60,
        np.asfortranarray(edges),
        edges[::-1].copy()[::-1],
        edges.tolist(),
    ):
        assert np.array_equal(propagate_labels(image, seeds, edges=same, return_full_prob=True), expected)


def test_a_plain_map_says_nothing(cells):
    image, seeds, *_ = cells
    plain = np.full(image.shape, 7)
    assert np.array_equal(propagate_labels(image, seeds, edges=plain), propagate_labels(image, seeds))
    assert np.array_equal(
        propagate_labels(None, seeds, edges=plain),
        propagate_labels(None, seeds, edges=np.zeros(image.shape, bool)),
    )


def test_gradients_that_contradict_a_map_do_not_count(cells):
    _, seeds, truth, _ = cells
    rows, columns = np.ogrid[:60, :80]
    stain = np.abs((columns % 20) - 9.5) + np.abs((rows % 20) - 9.5)  # highest where cells meet
    texture = np.sin(1.5 * rows) * np.sin(1.5 * columns) * (stain < 9)  # within cells, plain between them
    alone = propagate_labels(None, seeds, edges=stain)
    beside = propagate_labels(texture, seeds, edges=stain)
    assert (alone == truth).mean() > 0.97
    assert (beside == truth).mean() > 0.97
    assert (propagate_labels(texture, seeds) == truth).mean() < 0.9


def test_a_propagator_does_the_same(cells):
    image, seeds, *_ = cells
    edges = -image
    for one in (image, None):
        propagator = LabelPropagator(one, edges=edges)
        edges += 1  # what the caller does later is no part of it
        assert propagator.shape == (60, 80)
        for workers in (1, 3):
            assert np.array_equal(
                propagator.propagate(seeds, workers=workers), propagate_labels(one, seeds, edges=-image)
            )
        edges -= 1


@pytest.mark.parametrize("one_map", [False, True])
def test_a_batch_is_its_images(cells, one_map):
    image, seeds, *_ = cells
    images = np.stack([image, image[:, ::-1]])
    labels = np.stack([seeds, seeds[:, ::-1]])
    maps = -image if one_map else -images
    for batch in (images, None):
        found = propagate_labels(batch, labels, edges=maps, spatial_ndim=2)
        for item in range(2):
            own = maps if one_map else maps[item]
            alone = None if batch is None else batch[item]
            assert np.array_equal(found[item], propagate_labels(alone, labels[item], edges=own))
    scores = labels / 12
    options = {"class_axis": None, "channel_axis": None, "iterations": 3}
    refined = refine(images, scores, edges=maps, **options)
    for item in range(2):
        own = maps if one_map else maps[item]
        alone = refine(images[item], scores[item], edges=own, **options)
        assert np.array_equal(refined[item], alone)


def test_numbers_outside_the_mask_are_not_looked_at(cells):
    image, seeds, *_ = cells
    inside = np.ones(image.shape, bool)
    inside[20:40, :20] = False
    broken = -image
    broken[~inside] = 1e9
    expected = propagate_labels(image, seeds, edges=broken, mask=inside)
    broken[~inside] = np.nan
    assert np.array_equal(propagate_labels(image, seeds, edges=broken, mask=inside), expected)
    void = np.where(inside, seeds, -1)
    assert np.array_equal(propagate_labels(image, void, edges=broken)[inside], expected[inside])
    stroke_by_stroke = LabelPropagator(image, edges=-image).propagate(void)
    assert np.array_equal(stroke_by_stroke[inside], expected[inside])
    scores = np.where(inside, seeds / 12, np.nan)
    for mode in ("local", "global"):
        refined = refine(image, scores, mode=mode, edges=broken, mask=inside)
        assert np.isfinite(refined[inside]).all()
        assert np.isnan(refined[~inside]).all()
    with pytest.raises(ValueError, match="edges must be finite, but 400 of its 4800 numbers are NaN or inf"):
        propagate_labels(image, seeds, edges=broken)
    with pytest.raises(ValueError, match="edges must be finite"):
        refine(image, scores * 0, edges=broken)


@pytest.mark.parametrize(
    ("edges", "error", "message"),
    [
        (np.zeros((60, 79)), ValueError, r"edges of shape \(60, 79\) do not fit an image of 60 x 80 pixels"),
        (np.zeros((60, 80, 3)), ValueError, r"expected \(60, 80\), one number for each pixel"),
        (np.zeros((60, 80), complex), TypeError, "edges .* complex128"),
        ("hed", TypeError, "edges must"),
    ],
)
def test_maps_that_do_not_fit_say_so(cells, edges, error, message):
    image, seeds, *_ = cells
    for call in (
        lambda: propagate_labels(image, seeds, edges=edges),
        lambda: LabelPropagator(image, edges=edges),
        lambda: refine(image, np.zeros((60, 80)), edges=edges),
    ):
        with pytest.raises(error, match=message):
            call()


def test_arrays_of_other_libraries(cells):
    torch = pytest.importorskip("torch")
    image, seeds, *_ = cells
    found = propagate_labels(torch.tensor(image), torch.tensor(seeds), edges=torch.tensor(-image))
    assert np.array_equal(found.numpy(), propagate_labels(image, seeds, edges=-image))
    found = propagate_labels(None, torch.tensor(seeds), edges=torch.tensor(-image))
    assert np.array_equal(found.numpy(), propagate_labels(None, seeds, edges=-image))
    with pytest.raises(TypeError, match="edges"):
        propagate_labels(image, torch.tensor(seeds), edges=torch.tensor(-image))


def test_neither_image_nor_edges_says_so(cells):
    for call in (lambda: propagate_labels(None, cells[1]), lambda: LabelPropagator(None)):
        with pytest.raises(
            TypeError, match="image must be an array, got None: only edges can take its place"
        ):
            call()


@pytest.fixture(scope="module")
def coarse(cells):
    """Scores of whole patches of 5 pixels, a fifth of which are those of another one."""
    truth = cells[2]
    rng = np.random.default_rng(0)
    patches = np.eye(12)[truth[2::5, 2::5] - 1]
    wrong = rng.random(patches.shape[:2]) < 0.2
    patches[wrong] = np.eye(12)[rng.integers(0, 12, wrong.sum())]
    return patches


@pytest.mark.parametrize("mode", [None, "global", "global-local", "local-global", "parallel"])
def test_scores_follow_walls(cells, coarse, mode):
    image = cells[0]
    found = refine(image, coarse, edges=-image, mode=mode)
    assert right(found.argmax(-1) + 1, cells) > {"global": 0.85, "parallel": 0.96}.get(mode, 0.999)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)


def test_the_tree_of_a_map_outvotes_what_that_of_an_image_does_not(cells, coarse):
    image = cells[0]
    without = refine(image, coarse, mode="global")
    assert right(without.argmax(-1) + 1, cells) < right(
        refine(image, coarse, edges=-image, mode="global").argmax(-1) + 1, cells
    )


def test_modes_with_edges(cells, coarse):
    image = cells[0]
    over_pixels = refine(image, coarse, iterations=0)
    by_tree = refine(image, coarse, edges=-image, mode="global")
    for mode, first in (("global-local", by_tree), (None, (over_pixels + by_tree) / 2)):
        found = refine(image, first, edges=-image, mode="local")
        np.testing.assert_allclose(refine(image, coarse, edges=-image, mode=mode), found, rtol=1e-6)
    np.testing.assert_array_equal(refine(image, coarse), refine(image, coarse, mode="local"))
    local = refine(image, coarse, edges=-image, mode="local")
    assert not np.array_equal(local, refine(image, coarse, mode="local"))
    plain = refine(np.ones((60, 80)), coarse, edges=np.zeros((60, 80)), mode="global")
    np.testing.assert_allclose(plain, np.broadcast_to(coarse.mean((0, 1)), plain.shape))


@pytest.mark.parametrize("thick", [False, True])
@pytest.mark.parametrize("with_gaps", [False, True])
def test_true_boundaries_at_any_scale_help_scores(cells, thick, with_gaps):
    """A map that is 0 in most places, as a true one is: its median weight says nothing of its outlines."""
    _, _, truth, wall = cells
    rng = np.random.default_rng(1)
    image = truth % 2 + rng.normal(0, 0.5, truth.shape)
    patches = np.eye(12)[truth[2::5, 2::5] - 1]
    wrong = rng.random(patches.shape[:2]) < 0.4
    patches[wrong] = np.eye(12)[rng.integers(0, 12, wrong.sum())]
    boundaries = wall.astype(float)
    if not thick:
        boundaries[20::20] = boundaries[:, 20::20] = 0  # One row is left, and one column.
    if with_gaps:
        boundaries[5::10] = boundaries[:, 5::10] = 0
    without = right(refine(image, patches).argmax(-1) + 1, cells)
    found = [refine(image, patches, edges=scale * boundaries).argmax(-1) + 1 for scale in (0.01, 1, 100)]
    # Windows of local steps reach over a wall of one pixel.
    assert right(found[1], cells) > max(without, 0.97 if thick else 0)
    for other in found[::2]:
        np.testing.assert_array_equal(other, found[1])


@given(st.integers(0, 2**32), st.integers(1, 3), st.booleans())
def test_edges_of_a_pixel_graph_are_those_of_the_definition(seed, connectivity, masked):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 5, 3))
    mask = rng.random(shape) < 0.7 if masked else None
    found = _edges.ends(shape, connectivity, mask)
    assert np.array_equal(found[np.lexsort(found.T[::-1])], reference.pixel_graph(shape, connectivity, mask))
