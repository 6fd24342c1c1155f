"""The segment contrastive loss against its formula, pixel by pixel, its relationships and its memory bank."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from aproarray.related import nearest_neighbor_labels, spherical_kmeans  # noqa: E402
from aproarray.torch import (  # noqa: E402
    SPML_WEIGHTS,
    SegmentBank,
    SegmentWeights,
    segment_contrastive_loss,
    segment_prototypes,
    segment_relationship,
    spml_loss,
)

D = torch.float64
GENERATOR = torch.Generator().manual_seed(0)
SHAPE = (2, 4, 5)
EMBEDDINGS = torch.randn(2, 3, 4, 5, generator=GENERATOR, dtype=D)
SEGMENTS = torch.randint(0, 4, SHAPE, generator=GENERATOR)
SEGMENTS[0][SEGMENTS[0] == 2] = 7  # numbers need not be without gaps
LABELS = torch.randint(0, 3, SHAPE, generator=GENERATOR)
LABELS[torch.rand(SHAPE, generator=GENERATOR) < 0.5] = -100
LABELS[SEGMENTS == 1] = -100  # a segment without labels in each image
REGIONS = torch.randint(0, 2, SHAPE, generator=GENERATOR)
TAGS = torch.tensor([[True, False, True], [False, True, False]])
EARLIER = torch.randn(2, 3, 4, 5, generator=GENERATOR, dtype=D)
OPTIONS = {"labels": LABELS, "regions": REGIONS, "tags": TAGS}


@pytest.fixture(autouse=True)
def _same_numbers():
    """Let what a test draws not depend on the tests before it."""
    GENERATOR.manual_seed(1)


def direction(vector):
    return vector / np.linalg.norm(vector)


def majority(values):
    return min(set(values), key=lambda value: (-values.count(value), value)) if values else None


def brute_segments(embeddings, batch):
    """Return dicts of the segments of a batch, whose keys begin with the batch's number."""
    members = {}
    for b, r, c in np.ndindex(*SHAPE):
        members.setdefault((batch, b, int(SEGMENTS[b, r, c])), []).append((b, r, c))
    found = {}
    for key, pixels in sorted(members.items()):
        vectors = [direction(embeddings[b, :, r, c].numpy()) for b, r, c in pixels]
        found[key] = {
            "mean": direction(sum(vectors)),
            "label": majority([int(LABELS[p]) for p in pixels if LABELS[p] != -100]),
            "region": majority([int(REGIONS[p]) for p in pixels]),
            "tags": {c for c in range(3) if TAGS[key[1], c]},
            "pixels": dict(zip(pixels, vectors, strict=True)),
        }
    return found


def affine(found):
    """Give segments without a label that of the most similar labelled one of their image."""
    result = {}
    for key, segment in found.items():
        near = [
            (segment["mean"] @ other["mean"], other["label"])
            for k, other in found.items()
            if k[:2] == key[:2] and other["label"] is not None
        ]
        nearest = max(near)[1] if near and key[0] == 0 else None
        result[key] = nearest if segment["label"] is None else segment["label"]
    return result


def related_by(kind, found):
    """Return a function of two keys: 1 where they attract, -1 where they repel, 0 where neither."""
    labels = affine(found) if kind == "affinity" else {k: s["label"] for k, s in found.items()}

    def relation(a, b):
        one, other = found[a], found[b]
        if kind == "image":
            return (1 if one["region"] == other["region"] else -1) if a[:2] == b[:2] else 0
        if kind == "cooccurrence":
            return 1 if one["tags"] & other["tags"] else -1
        if labels[a] is None or labels[b] is None:
            return 0
        return 1 if labels[a] == labels[b] else -1

    return relation


def brute_loss(found, kind, kappa):
    relation, terms = related_by(kind, found), []
    for own, segment in found.items():
        attract = [key for key in found if relation(own, key) == 1]
        attract = [key for key in attract if key != own] or attract
        repel = [key for key in found if relation(own, key) == -1]
        if own[0] or not attract:
            continue
        for e in segment["pixels"].values():
            drawn, pushed = (sum(math.exp(kappa * e @ found[t]["mean"]) for t in s) for s in (attract, repel))
            terms.append(-math.log(drawn / (drawn + pushed)))
    return sum(terms) / len(terms)


KINDS = ("image", "annotation", "cooccurrence", "affinity")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_bank", [False, True], ids=["alone", "bank"])
def test_every_relationship(kind, with_bank):
    weights = SegmentWeights(**{kind: (0.7, 3.0)})
    bank, found = None, brute_segments(EMBEDDINGS, 0)
    if with_bank:
        bank = SegmentBank()
        spml_loss(EARLIER, SEGMENTS, **OPTIONS, weights=weights, bank=bank)
        found |= brute_segments(EARLIER, 1)
    loss = spml_loss(EMBEDDINGS, SEGMENTS, **OPTIONS, weights=weights, bank=bank)
    assert loss.item() == pytest.approx(0.7 * brute_loss(found, kind, 3.0))
    if with_bank:
        assert len(bank) == len(found)


@pytest.mark.parametrize("annotation", SPML_WEIGHTS)
def test_published_weights(annotation):
    weights, found = SPML_WEIGHTS[annotation], brute_segments(EMBEDDINGS, 0)
    expected = sum(
        weight * brute_loss(found, kind, kappa)
        for kind, (weight, kappa) in weights._asdict().items()
        if weight
    )
    assert spml_loss(EMBEDDINGS, SEGMENTS, **OPTIONS, weights=annotation).item() == pytest.approx(expected)


def test_prototypes():
    segments, index = segment_prototypes(EMBEDDINGS, SEGMENTS, **OPTIONS)
    found = brute_segments(EMBEDDINGS, 0)
    for s, (key, segment) in enumerate(found.items()):
        np.testing.assert_allclose(segments.prototypes[s], segment["mean"])
        assert segments.images[s] == key[1]
        assert segments.labels[s] == (-100 if segment["label"] is None else segment["label"])
        assert segments.regions[s] == segment["region"]
        assert all(index[pixel] == s for pixel in segment["pixels"])
    alone, _ = segment_prototypes(EMBEDDINGS, SEGMENTS)
    assert (alone.labels == -100).all()
    assert alone.tags.shape == (len(found), 0)
    # Without regions, nothing but the own segment attracts.
    positive, negative = segment_relationship(alone, alone, "image")
    assert torch.equal(positive, torch.eye(len(found), dtype=torch.bool))
    assert torch.equal(positive | negative, alone.images[:, None] == alone.images)


def test_affinity_is_that_of_nearest_neighbor_labels():
    segments, _ = segment_prototypes(EMBEDDINGS, SEGMENTS, **OPTIONS)
    labels = nearest_neighbor_labels(
        segments.prototypes,
        segments.prototypes,
        segments.labels,
        k=1,
        images=segments.images,
        bank_images=segments.images,
        ignore_index=-100,
    )
    positive, _ = segment_relationship(segments, segments, "affinity")
    assert torch.equal(positive, labels[:, None] == labels)


def test_gradients():
    bank = SegmentBank(1)
    bank.append(segment_prototypes(EARLIER, SEGMENTS, **OPTIONS)[0])
    ours, index = segment_prototypes(EMBEDDINGS, SEGMENTS, **OPTIONS)
    positive, negative = segment_relationship(ours, bank.after(ours), "annotation")

    def loss(embeddings):
        segments, _ = segment_prototypes(embeddings, SEGMENTS, **OPTIONS)
        flat = embeddings.movedim(1, -1).reshape(-1, 3)
        prototypes = bank.after(segments).prototypes
        return segment_contrastive_loss(flat, index.flatten(), prototypes, positive, negative, kappa=2.0)

    embeddings = EMBEDDINGS.clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (embeddings,))
    spml_loss(embeddings, SEGMENTS, **OPTIONS, weights="densepose", bank=bank).backward()
    assert torch.isfinite(embeddings.grad).all()
    assert embeddings.grad.abs().sum() > 0


def test_a_bank_forgets_the_oldest_and_keeps_no_graph():
    bank, sizes = SegmentBank(2), []
    embeddings = EMBEDDINGS.clone().requires_grad_()
    for _ in range(4):
        spml_loss(embeddings, SEGMENTS, **OPTIONS, bank=bank)
        sizes.append(len(bank))
    assert sizes == [sizes[0], 2 * sizes[0], 2 * sizes[0], 2 * sizes[0]]
    ours, _ = segment_prototypes(EMBEDDINGS, SEGMENTS, **OPTIONS)
    others = bank.after(ours)
    assert not others.prototypes.requires_grad
    assert (others.images[len(ours.images) :] == -1).all()


def test_segments_learn_their_labels():
    """A few steps on bare embeddings: segments of a class come together, the others part."""
    truth = torch.zeros(1, 12, 12, dtype=torch.int64)
    truth[:, :, 6:] = 1
    embeddings = torch.randn(1, 8, 12, 12, generator=GENERATOR).requires_grad_()
    segments = torch.arange(16).reshape(1, 4, 4).repeat_interleave(3, 1).repeat_interleave(3, 2)
    optimizer = torch.optim.Adam([embeddings], 0.1)
    for _ in range(40):
        loss = spml_loss(embeddings, segments, labels=truth, weights=SegmentWeights(annotation=(1.0, 6.0)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = spherical_kmeans(embeddings.detach(), grid=2, channel_axis=1)
    learned, _ = segment_prototypes(embeddings.detach(), found, labels=truth)
    alike = learned.prototypes @ learned.prototypes.T
    same = learned.labels[:, None] == learned.labels
    assert alike[same].min() > alike[~same].max()


def test_losses_of_nothing_are_zero():
    unlabelled = torch.full(SHAPE, -100)
    only = SegmentWeights(annotation=(1.0, 6.0), affinity=(1.0, 6.0))
    for embeddings, segments, labels in (
        (EMBEDDINGS, SEGMENTS, unlabelled),
        (EMBEDDINGS[:0], SEGMENTS[:0], LABELS[:0]),
    ):
        embeddings = embeddings.clone().requires_grad_()
        loss = spml_loss(embeddings, segments, labels=labels, weights=only)
        loss.backward()
        assert loss.item() == 0
        assert (embeddings.grad == 0).all()


@pytest.mark.parametrize(
    ("error", "message", "act"),
    [
        (
            ValueError,
            r"expected embeddings \(B, D, H, W\)",
            lambda: segment_prototypes(EMBEDDINGS[0], SEGMENTS),
        ),
        (
            ValueError,
            r"expected segments of shape \(2, 4, 5\), got \(1, 4, 5\)",
            lambda: segment_prototypes(EMBEDDINGS, SEGMENTS[:1]),
        ),
        (TypeError, "segments must hold integers", lambda: segment_prototypes(EMBEDDINGS, SEGMENTS / 2)),
        (
            ValueError,
            "labels must not be negative, got -1",
            lambda: segment_prototypes(EMBEDDINGS, SEGMENTS, labels=LABELS.where(LABELS != -100, -1)),
        ),
        (
            ValueError,
            r"expected tags \(2, C\), boolean",
            lambda: segment_prototypes(EMBEDDINGS, SEGMENTS, tags=TAGS.int()),
        ),
        (
            ValueError,
            "the weight of annotation is 1.0: it needs labels, got none",
            lambda: spml_loss(EMBEDDINGS, SEGMENTS, tags=TAGS),
        ),
        (
            ValueError,
            "the weight of cooccurrence is 1.0: it needs tags, got none",
            lambda: spml_loss(EMBEDDINGS, SEGMENTS, labels=LABELS),
        ),
        (
            ValueError,
            "weights must be one of scribbles, points, boxes, tags, densepose, got 'dots'",
            lambda: spml_loss(EMBEDDINGS, SEGMENTS, weights="dots"),
        ),
        (
            ValueError,
            "kind must be one of image",
            lambda: segment_relationship(*[segment_prototypes(EMBEDDINGS, SEGMENTS)[0]] * 2, "same"),
        ),
        (
            ValueError,
            "kappa must be above 0",
            lambda: segment_contrastive_loss(
                torch.ones(1, 2),
                torch.zeros(1).long(),
                torch.ones(1, 2),
                *[torch.ones(1, 1) > 0] * 2,
                kappa=0,
            ),
        ),
        (
            ValueError,
            "co-occurrence needs the tags of the images, got none",
            lambda: segment_relationship(*[segment_prototypes(EMBEDDINGS, SEGMENTS)[0]] * 2, "cooccurrence"),
        ),
        (
            ValueError,
            r"expected positive and negative \(S, 3\), got \(1, 2\) and \(1, 3\)",
            lambda: segment_contrastive_loss(
                torch.ones(1, 2),
                torch.zeros(1).long(),
                torch.ones(3, 2),
                torch.ones(1, 2) > 0,
                torch.ones(1, 3) > 0,
                kappa=1,
            ),
        ),
        (
            ValueError,
            r"expected embeddings \(P, 2\) and own \(P,\), got \(1, 3\) and \(1,\)",
            lambda: segment_contrastive_loss(
                torch.ones(1, 3),
                torch.zeros(1).long(),
                torch.ones(3, 2),
                torch.ones(1, 3) > 0,
                torch.ones(1, 3) > 0,
                kappa=1,
            ),
        ),
        (ValueError, "batches must be at least 1", lambda: SegmentBank(0)),
    ],
)
def test_errors(error, message, act):
    with pytest.raises(error, match=message):
        act()


def test_labels_of_data_sets_that_write_255():
    labels = LABELS.where(LABELS != -100, 255)
    expected = spml_loss(EMBEDDINGS, SEGMENTS, **OPTIONS)
    options = OPTIONS | {"labels": labels}
    assert torch.equal(spml_loss(EMBEDDINGS, SEGMENTS, **options, ignore_index=255), expected)
    with pytest.warns(UserWarning, match=r"largest of the labels is 255.*Pass ignore_index=255"):
        spml_loss(EMBEDDINGS, SEGMENTS, **options)
    # Not where there are that many classes, nor of regions.
    segment_prototypes(EMBEDDINGS, SEGMENTS, labels=labels + 1, regions=labels, ignore_index=-1)


def test_a_bank_of_other_tags_is_refused():
    bank = SegmentBank()
    bank.append(segment_prototypes(EMBEDDINGS, SEGMENTS, tags=TAGS)[0])
    for act in (
        lambda: bank.append(segment_prototypes(EMBEDDINGS, SEGMENTS)[0]),
        lambda: spml_loss(EMBEDDINGS, SEGMENTS, labels=LABELS, tags=TAGS[:, :2], bank=bank),
    ):
        with pytest.raises(ValueError, match="the same features and tags, but tags of one are"):
            act()


def test_prototypes_of_half_precision_are_computed_in_single():
    # So many pixels that another one does not change their sum in half precision.
    embeddings, segments = torch.ones(1, 3, 100, 100), torch.zeros(1, 100, 100, dtype=torch.int64)
    embeddings[:, 0, 50:] = -1
    expected = segment_prototypes(embeddings, segments)[0].prototypes
    for dtype in (torch.float16, torch.bfloat16):
        found = segment_prototypes(embeddings.to(dtype), segments)[0].prototypes
        torch.testing.assert_close(found, expected)
