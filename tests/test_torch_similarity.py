"""Similarity transfer: sampling, losses, masks of proposals, each against its formula pair by pair."""

import itertools
import math

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from aproarray.torch import (  # noqa: E402
    PairSimilarity,
    gather_pixels,
    proposal_masks,
    proposal_segmentation,
    sample_pixels,
    similarity_distillation_loss,
    similarity_learning_loss,
)

D = torch.float64
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 4, 5, generator=GENERATOR, dtype=D)
LABELS, OTHER_LABELS = (torch.randint(0, 3, (2, n), generator=GENERATOR) for n in (4, 5))
SHARES, OTHER_SHARES = (torch.rand(2, n, 3, generator=GENERATOR, dtype=D).softmax(-1) for n in (4, 5))
PAIRS = list(itertools.product(range(2), range(4), range(5)))


@pytest.fixture(autouse=True)
def _same_numbers():
    """Let what a test draws not depend on the tests before it."""
    GENERATOR.manual_seed(1)


def sigmoid(x):
    return 1 / (1 + math.exp(-float(x)))


def test_sampled_pixels_are_allowed_and_distinct():
    masks = torch.rand(3, 6, 7, generator=GENERATOR) < 0.5
    index = sample_pixels(masks, 12, generator=GENERATOR)
    assert index.shape == (3, 12)
    assert masks.flatten(1).gather(1, index).all()
    assert all(len(set(row.tolist())) == 12 for row in index)
    everywhere = torch.ones(1, 30, 30, dtype=torch.bool)
    seen = torch.zeros(900)
    for _ in range(60):
        seen[sample_pixels(everywhere, generator=GENERATOR)[0]] += 1
    assert seen.sum() == 6000
    # Uniformly: 60 draws with probability 1/9 each.
    assert seen.mean() == pytest.approx(60 / 9)
    assert seen.var() == pytest.approx(60 / 9 * 8 / 9, rel=0.3)


def test_sampling_repeats():
    masks = torch.ones(2, 9, 9, dtype=torch.bool)
    draws = [sample_pixels(masks, 5, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_few_pixels_are_drawn_equally_often():
    masks = torch.zeros(1, 3, 3, dtype=torch.bool)
    masks[0, 1] = True
    counts = torch.bincount(sample_pixels(masks, 8, generator=GENERATOR)[0], minlength=9)
    assert sorted(counts.tolist()) == [0] * 6 + [2, 3, 3]


def test_gather_pixels():
    values = torch.rand(2, 3, 4, 5, generator=GENERATOR, dtype=D, requires_grad=True)
    index = sample_pixels(torch.ones(2, 4, 5, dtype=torch.bool), 6, generator=GENERATOR)
    result = gather_pixels(values, index)
    for b, j in itertools.product(range(2), range(6)):
        row, column = divmod(int(index[b, j]), 5)
        assert torch.equal(result[b, j], values[b, :, row, column])
    assert torch.autograd.gradcheck(lambda v: gather_pixels(v, index), (values,))


def test_pair_similarity_is_a_perceptron_over_both_features():
    network = PairSimilarity(3, hidden=7).double()
    f, g = (torch.rand(2, n, 3, generator=GENERATOR, dtype=D) for n in (4, 5))
    weights = torch.cat([network.first.weight, network.second.weight], 1)
    for b, i, j in PAIRS:
        hidden = torch.relu(weights @ torch.cat([f[b, i], g[b, j]]) + network.first.bias)
        torch.testing.assert_close(network(f, g)[b, i, j], network.score(hidden)[0])


@pytest.mark.parametrize("kinds", ["both", "one", "other"])
def test_similarity_learning_loss(kinds):
    labels, others = LABELS, OTHER_LABELS
    if kinds != "both":
        labels, others = torch.zeros_like(labels), torch.full_like(others, kinds == "other")
    terms = {True: [], False: []}
    for b, i, j in PAIRS:
        s, same = sigmoid(LOGITS[b, i, j]), bool(labels[b, i] == others[b, j])
        terms[same].append(-math.log(s if same else 1 - s))
    means = [sum(part) / len(part) for part in terms.values() if part]
    assert len(means) == (2 if kinds == "both" else 1)
    loss = similarity_learning_loss(LOGITS, labels, others)
    assert loss.item() == pytest.approx(sum(means) / len(means))
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: similarity_learning_loss(x, labels, others), (logits,))


def test_similarity_distillation_loss():
    terms = []
    for b, i, j in PAIRS:
        p, q, s = SHARES[b, i], OTHER_SHARES[b, j], sigmoid(LOGITS[b, i, j])
        a = float(p @ q / p.norm() / q.norm())
        terms.append(-(s * math.log(a) + (1 - s) * math.log(1 - a)))
    loss = similarity_distillation_loss(LOGITS, SHARES, OTHER_SHARES)
    assert loss.item() == pytest.approx(sum(terms) / len(terms))
    shares = [part.clone().requires_grad_() for part in (SHARES, OTHER_SHARES)]
    assert torch.autograd.gradcheck(lambda p, q: similarity_distillation_loss(LOGITS, p, q), shares)
    logits = LOGITS.clone().requires_grad_()
    similarity_distillation_loss(logits, *shares).backward()
    assert logits.grad is None  # the learned likeness is what is learned from


def test_distillation_of_certainties_is_finite():
    shares = torch.eye(3, dtype=D)[None].requires_grad_()
    loss = similarity_distillation_loss(torch.zeros(1, 3, 3), shares, shares)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(shares.grad).all()


def test_losses_of_nothing_are_zero():
    empty = torch.zeros(0, 4, 5, requires_grad=True)
    assert similarity_learning_loss(empty, LABELS[:0], OTHER_LABELS[:0]).item() == 0
    assert similarity_distillation_loss(empty, SHARES[:0], OTHER_SHARES[:0]).item() == 0


def test_proposals():
    proposals = torch.randn(2, 3, 4, generator=GENERATOR, dtype=D, requires_grad=True)
    embeddings = torch.randn(2, 4, 2, 3, generator=GENERATOR, dtype=D, requires_grad=True)
    scores = torch.rand(2, 3, 5, generator=GENERATOR, dtype=D, requires_grad=True)
    masks = proposal_masks(proposals, embeddings)
    classes = proposal_segmentation(scores, masks)
    for b, r, c in itertools.product(range(2), range(2), range(3)):
        expected = [sigmoid(proposals[b, k].detach() @ embeddings[b, :, r, c].detach()) for k in range(3)]
        assert masks[b, :, r, c].tolist() == pytest.approx(expected)
        sums = [sum(float(scores[b, k, n].detach()) * expected[k] for k in range(3)) for n in range(5)]
        assert classes[b, :, r, c].tolist() == pytest.approx(sums)
    assert torch.autograd.gradcheck(
        lambda q, e, s: proposal_segmentation(s, proposal_masks(q, e)), (proposals, embeddings, scores)
    )


@pytest.mark.parametrize(
    ("message", "act"),
    [
        (r"expected masks \(B, H, W\), boolean", lambda: sample_pixels(torch.ones(2, 3, 3))),
        (
            r"no pixel can be drawn in images \[1\]",
            lambda: sample_pixels(torch.tensor([[[True]], [[False]]])),
        ),
        ("count must be at least 1", lambda: sample_pixels(torch.ones(1, 2, 2) > 0, 0)),
        ("expected values", lambda: gather_pixels(torch.ones(2, 3, 4), torch.zeros(2, 1).long())),
        (r"got \(2, 4, 5\), \(2, 5\)", lambda: similarity_learning_loss(LOGITS, OTHER_LABELS, LABELS)),
        (
            r"pixels \(B, J, C\)",
            lambda: similarity_distillation_loss(LOGITS, SHARES, OTHER_SHARES[..., :2]),
        ),
        ("expected proposals", lambda: proposal_masks(torch.ones(2, 3, 4), torch.ones(2, 5, 1, 1))),
        ("expected class_scores", lambda: proposal_segmentation(torch.ones(2, 3, 4), torch.ones(2, 5, 1, 1))),
    ],
)
def test_errors(message, act):
    with pytest.raises(ValueError, match=message):
        act()
