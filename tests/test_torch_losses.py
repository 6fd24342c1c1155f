"""Every loss against its formula, pixel by pixel in plain Python, and its gradient."""

import functools
import itertools
import math

import numpy as np
import pytest

from aproarray import reference

torch = pytest.importorskip("torch", reason="torch is not installed")

from aproarray.torch import (  # noqa: E402
    AffinityPropagation,
    GlobalPropagation,
    LocalPropagation,
    _ops,
    apro_loss,
    gated_crf_loss,
    global_propagate,
    local_propagate,
    mean_field_loss,
    mst,
    pairwise_loss,
    partial_cross_entropy,
    projection_loss,
    proposal_segmentation,
    similarity_distillation_loss,
    similarity_learning_loss,
    spml_loss,
    tree_energy_loss,
)

D = torch.float64
SHAPE = (5, 4)
PIXELS = list(np.ndindex(*SHAPE))
gradcheck = functools.partial(torch.autograd.gradcheck, atol=1e-6)


def number(tensor):
    return tensor.detach().item()


def rand(*shape, seed=0, grad=False):
    tensor = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)
    return tensor.requires_grad_(grad)


IMAGE = rand(2, 3, *SHAPE)
CLASSES = rand(2, 3, *SHAPE, seed=1).mul(3).softmax(1).requires_grad_()
REGION = rand(2, 1, *SHAPE, seed=2) < 0.6
INSTANCES, INDEX = rand(3, 1, *SHAPE, seed=3, grad=True), torch.tensor([1, 0, 1])
BOXES = torch.zeros(3, 1, *SHAPE, dtype=D)
for _k, (_rows, _columns) in enumerate([((0, 3), (1, 4)), ((1, 5), (0, 2)), ((2, 4), (1, 3))]):
    BOXES[_k, 0, slice(*_rows), slice(*_columns)] = 1
SMALL = AffinityPropagation(
    "parallel", GlobalPropagation(0.3, feature_zeta=0.2), LocalPropagation(0.4, kernel_size=3, iterations=3)
)


def absolute_difference(y, p, region):
    return number(((y - p).abs() * region).sum() / max(region.sum(), 1))


def test_apro_loss_of_unlabelled_pixels():
    p, tree = CLASSES.detach(), mst(IMAGE)
    first = global_propagate(p, tree, zeta=0.3)
    by_tree = global_propagate(first, tree, zeta=0.2, features=first)
    by_window = local_propagate(p, IMAGE, zeta=0.4, kernel_size=3, iterations=3)
    terms = [absolute_difference(y, p, REGION) for y in (by_tree, by_window)]
    loss = apro_loss(CLASSES, IMAGE, REGION, propagation=SMALL, weights=(2.0, 0.5))
    assert number(loss) == pytest.approx(2 * terms[0] + 0.5 * terms[1])
    only_tree = apro_loss(CLASSES, IMAGE, REGION, propagation=SMALL, weights=(1.0, 0.0), tree=tree)
    assert number(only_tree) == pytest.approx(terms[0])
    cascade = AffinityPropagation("local-global", SMALL.global_propagation, SMALL.local_propagation)
    y = SMALL.global_propagation(by_window, tree)
    assert number(apro_loss(CLASSES, IMAGE, REGION, propagation=cascade)) == pytest.approx(
        0.3 * absolute_difference(y, p, REGION)
    )


def test_apro_loss_of_boxes():
    p = INSTANCES.detach()
    first = global_propagate(p, mst(IMAGE), zeta=0.3, tree_index=INDEX)
    by_tree = global_propagate(first, mst(IMAGE[INDEX]), zeta=0.2, features=first)
    by_window = p * BOXES
    for _ in range(3):
        by_window = BOXES * local_propagate(by_window, IMAGE[INDEX], zeta=0.4, kernel_size=3, iterations=1)
    expected = sum(
        absolute_difference(y[k], p[k], BOXES[k]) / 3 for y in (by_tree, by_window) for k in range(3)
    )
    loss = apro_loss(INSTANCES, IMAGE, BOXES, propagation=SMALL, per_instance=True, image_index=INDEX)
    assert number(loss) == pytest.approx(expected)
    published = apro_loss(
        INSTANCES, IMAGE, BOXES, propagation=SMALL, per_instance=True, image_index=INDEX,
        weights=(1.0, 1.0), constant_targets=True,
    )  # fmt: skip
    assert torch.equal(*(torch.autograd.grad(each, INSTANCES)[0] for each in (loss, published)))


def test_targets_of_apro_loss_have_gradients_by_values_alone():
    loss = apro_loss(CLASSES, IMAGE, REGION, propagation=SMALL)
    (gradient,) = torch.autograd.grad(loss, CLASSES)
    tree = mst(IMAGE)
    first = global_propagate(CLASSES, tree, zeta=0.3)
    targets = (
        global_propagate(first, tree, zeta=0.2, features=first.detach()),
        SMALL.local_propagation(CLASSES, IMAGE),
    )
    expected = sum(0.3 * ((y - CLASSES).abs() * REGION).sum() / REGION.sum() for y in targets)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, CLASSES)[0])
    # No class grows or shrinks as a whole: the term moves shares from pixel to pixel.
    everywhere = torch.ones_like(REGION)
    (gradient,) = torch.autograd.grad(apro_loss(CLASSES, IMAGE, everywhere, propagation=SMALL), CLASSES)
    assert gradient.sum((2, 3)).abs().max() < 1e-12
    assert gradient.abs().max() > 1e-3


def test_constant_targets_of_apro_loss():
    loss = apro_loss(CLASSES, IMAGE, REGION, propagation=SMALL, constant_targets=True, weights=(1.0, 0.5))
    (gradient,) = torch.autograd.grad(loss, CLASSES)
    targets = SMALL(CLASSES.detach(), IMAGE)
    signs = sum(w * torch.sign(CLASSES - y) for w, y in zip((1.0, 0.5), targets, strict=True))
    torch.testing.assert_close(gradient, signs * REGION / REGION.sum())


@pytest.mark.parametrize("mode", AffinityPropagation.MODES)
def test_apro_loss_trains_no_scales(mode):
    learned = AffinityPropagation(
        mode, GlobalPropagation(0.3, feature_zeta=0.2, learnable=True), LocalPropagation(0.4, learnable=True)
    ).double()
    constant = AffinityPropagation(mode, GlobalPropagation(0.3, feature_zeta=0.2), LocalPropagation(0.4))
    losses = [apro_loss(CLASSES, IMAGE, REGION, propagation=module) for module in (learned, constant)]
    torch.testing.assert_close(*losses)
    gradients = (torch.autograd.grad(loss, CLASSES, retain_graph=True)[0] for loss in losses)
    torch.testing.assert_close(*gradients)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(losses[0], list(learned.parameters()))


@pytest.mark.parametrize("options", [{}, {"weights": (1.0, 1.0), "constant_targets": True}])
def test_the_published_scales_are_the_defaults(options):
    p, image = CLASSES.detach(), 3 * IMAGE
    tree = mst(image)
    first = global_propagate(p, tree, zeta=0.01)
    targets = (
        global_propagate(first, tree, zeta=0.07, features=first),
        local_propagate(p, image, zeta=0.15, kernel_size=5, iterations=20),
    )
    expected = sum(absolute_difference(y, p, REGION) for y in targets)
    weight = 1.0 if options else 0.3
    assert number(apro_loss(CLASSES, image, REGION, **options)) == pytest.approx(weight * expected)


def dice(a, b):
    return 1 - 2 * sum(x * y for x, y in zip(a, b, strict=True)) / (
        sum(x * x for x in a) + sum(y * y for y in b)
    )


def test_projection_loss():
    expected = []
    for m, b in zip(INSTANCES[:, 0].tolist(), BOXES[:, 0].tolist(), strict=True):
        rows = dice([max(row) for row in m], [max(row) for row in b])
        columns = dice(*([max(column) for column in zip(*x, strict=True)] for x in (m, b)))
        expected.append(rows + columns)
    assert number(projection_loss(INSTANCES, BOXES)) == pytest.approx(sum(expected) / 3)
    assert gradcheck(lambda m: projection_loss(m, BOXES), (INSTANCES,))
    assert number(projection_loss(BOXES, BOXES)) == pytest.approx(0)


def test_partial_cross_entropy():
    labels = torch.randint(0, 3, (2, *SHAPE), generator=torch.Generator().manual_seed(0))
    labels[REGION[:, 0]] = -100
    scores = CLASSES.detach().log().requires_grad_()  # whose softmax they are
    terms = [
        -math.log(number(CLASSES[b, labels[b, r, c], r, c]))
        for b, (r, c) in itertools.product(range(2), PIXELS)
        if labels[b, r, c] != -100
    ]
    assert number(partial_cross_entropy(scores, labels)) == pytest.approx(sum(terms) / len(terms))
    assert gradcheck(lambda s: partial_cross_entropy(s, labels), (scores,))


def test_pairwise_loss():
    lab, total, count = 6 * IMAGE, 0.0, 0
    for k, image in enumerate(INDEX.tolist()):
        p = INSTANCES[k, 0].tolist()
        for i, j in itertools.permutations(PIXELS, 2):
            steps = {abs(a - b) for a, b in zip(i, j, strict=True)}
            if not steps <= {0, 2} or BOXES[k, 0][i] == 0:
                continue
            similar = math.exp(-number((lab[image][:, *i] - lab[image][:, *j]).norm()) / 2)
            if similar >= 0.3:
                a, b = p[i[0]][i[1]], p[j[0]][j[1]]
                total -= math.log(a * b + (1 - a) * (1 - b))
                count += 1
    assert 10 < count < 100
    assert number(pairwise_loss(INSTANCES, lab, BOXES, image_index=INDEX)) == pytest.approx(total / count)
    assert gradcheck(lambda m: pairwise_loss(m, lab, BOXES, image_index=INDEX), (INSTANCES,))


def test_pairwise_loss_of_certainties_is_finite():
    certain = BOXES.clone().requires_grad_()
    pairwise_loss(certain, 0 * IMAGE, BOXES, image_index=INDEX).backward()
    assert torch.isfinite(certain.grad).all()


def filtered(values, image, sigma):
    """Tree filtering by definition: products of edge affinities along the paths."""
    shape, f = image.shape[-2:], np.moveaxis(image.numpy(), 0, -1)
    edges = reference.pixel_graph(shape)
    edges = edges[reference.mst(edges, reference.edge_weights(f, edges), math.prod(shape))]
    d = reference.edge_weights(f, edges)
    affinity = np.eye(math.prod(shape))
    for source in range(len(affinity)):
        reached = {source}
        while len(reached) < len(affinity):
            for (u, v), w in zip(edges.tolist(), d, strict=True):
                for a, b in ((u, v), (v, u)):
                    if a in reached and b not in reached:
                        reached.add(b)
                        affinity[source, b] = affinity[source, a] * math.exp(-w / sigma)
    flat = values.numpy().reshape(len(values), -1).T
    return torch.from_numpy((affinity @ flat / affinity.sum(1)[:, None]).T.reshape(values.shape))


def test_tree_energy_loss():
    p, features = CLASSES.detach(), 2 * rand(2, 2, *SHAPE, seed=7)
    low = torch.stack([filtered(p[b], IMAGE[b], 0.3) for b in range(2)])
    high = torch.stack([filtered(low[b], features[b], 1.0) for b in range(2)])
    for y, of in ((low, None), (high, features)):
        expected = 0.4 * absolute_difference(y, p, REGION)
        assert number(tree_energy_loss(p, IMAGE, REGION, features=of, sigma=0.3)) == pytest.approx(expected)
    tree = mst(features)
    assert gradcheck(
        lambda p, f: tree_energy_loss(p, IMAGE, REGION, features=f, sigma=0.3, feature_tree=tree),
        (CLASSES, features.requires_grad_()),
    )


def test_tree_energy_loss_of_forests():
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[2] = False  # two components, and pixels that stand alone
    p = CLASSES.detach()
    y = p.clone()
    for rows in (slice(0, 2), slice(3, 5)):
        for b in range(2):
            y[b, :, rows] = filtered(p[b, :, rows].contiguous(), IMAGE[b, :, rows].contiguous(), 0.3)
    loss = tree_energy_loss(p, IMAGE, REGION, sigma=0.3, tree=mst(IMAGE, mask=mask))
    assert number(loss) == pytest.approx(0.4 * absolute_difference(y, p, REGION))


def test_mean_field_loss():
    expected = []
    for k, image in enumerate(INDEX.tolist()):
        affinity = reference.window_affinity(
            np.moveaxis(IMAGE[image].numpy(), 0, -1), 0.4 * math.sqrt(2), kernel_size=3
        )
        box = BOXES[k, 0].numpy().ravel()
        p = INSTANCES[k, 0].detach().numpy().ravel()
        q = np.clip(np.stack([1 - p, p]), 0.1, 0.9)
        for _ in range(5):
            q = np.exp(np.log(q) @ affinity)
            q[1] *= box
            q = np.clip(q / (q.sum(0) + 1e-6), 0.1, 0.9)
        expected.append(dice(p, q[1] > 0.5))
    loss = mean_field_loss(INSTANCES, IMAGE, BOXES, zeta=0.4, iterations=5, image_index=INDEX)
    assert number(loss) == pytest.approx(sum(expected) / 3)
    assert gradcheck(lambda m: mean_field_loss(m, IMAGE, BOXES, zeta=0.4, image_index=INDEX), (INSTANCES,))


@pytest.mark.parametrize("region", [None, REGION], ids=["everywhere", "gated"])
def test_gated_crf_loss(region):
    gate = torch.ones_like(REGION) if region is None else REGION
    total = 0.0
    for b, (i, j) in itertools.product(range(2), itertools.permutations(PIXELS, 2)):
        apart = [abs(a - c) for a, c in zip(i, j, strict=True)]
        if max(apart) <= 2 and gate[b, 0][i]:
            color = number((IMAGE[b][:, *i] - IMAGE[b][:, *j]).square().sum())
            k = math.exp(-(apart[0] ** 2 + apart[1] ** 2) / 2 / 3**2 - color / 2 / 0.4**2)
            total += k * (1 - number(CLASSES[b][:, *i] @ CLASSES[b][:, *j]))
    options = {"radius": 2, "position_sigma": 3.0, "color_sigma": 0.4}
    expected = total / int(gate.sum())
    assert number(gated_crf_loss(CLASSES, IMAGE, region, **options)) == pytest.approx(expected)
    assert gradcheck(lambda p: gated_crf_loss(p, IMAGE, region, **options), (CLASSES,))


def test_windows_larger_than_the_image():
    tiny = rand(1, 2, 2, 2).softmax(1).requires_grad_()
    gated_crf_loss(tiny, rand(1, 3, 2, 2)).backward()
    assert torch.isfinite(tiny.grad).all()


# As many pixels or pairs as make sums that float16 does not hold.
LARGE = (300, 300)
SCRIBBLES = torch.randint(0, 4, (1, *LARGE), generator=torch.Generator().manual_seed(4))
SEGMENTS = (torch.arange(300)[:, None] // 150 * 2 + torch.arange(300) // 150)[None]
CLASSES_OF_PAIRS = SCRIBBLES.flatten()[:1200].reshape(4, 300) % 2
TAGS = torch.ones(1, 2, dtype=torch.bool)
LARGE_LOSSES = {
    "apro": (4, lambda p, image, region: apro_loss(p, image, region)),
    "apro of instances": (1, lambda p, image, region: apro_loss(p, image, region, per_instance=True)),
    "projection": (1, lambda p, image, region: projection_loss(p, region)),
    "partial cross-entropy": (4, lambda p, image, region: partial_cross_entropy(p, SCRIBBLES)),
    "pairwise": (1, lambda p, image, region: pairwise_loss(p, image, region)),
    "tree energy": (4, lambda p, image, region: tree_energy_loss(p, image, region, features=image)),
    "mean field": (1, lambda p, image, region: mean_field_loss(p, image, region, iterations=2)),
    "gated CRF": (4, lambda p, image, region: gated_crf_loss(p, image, region, radius=1)),
    "SPML": (8, lambda p, image, region: spml_loss(p, SEGMENTS, labels=SCRIBBLES, tags=TAGS)),
    "similarity learning": (
        4,
        lambda p, image, region: similarity_learning_loss(p[0], *[CLASSES_OF_PAIRS] * 2),
    ),
    "similarity distillation": (
        4,
        lambda p, image, region: similarity_distillation_loss(p[0], p[0], p[0].detach()),
    ),
}


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LARGE_LOSSES)
def test_half_precision_is_computed_in_single(name, dtype, autocast):
    channels, loss = LARGE_LOSSES[name]
    p, image = rand(1, channels, *LARGE).to(dtype), rand(1, 3, *LARGE, seed=1).to(dtype)
    if channels > 1:
        p = p.mul(3).softmax(1)
    region = torch.zeros(1, 1, *LARGE, dtype=torch.bool)
    region[..., 10:, :290] = True
    found = []
    for given in (p, p.float()):
        given.requires_grad_()
        with torch.autocast("cpu", dtype, enabled=autocast):
            value = loss(given, image.to(given.dtype), region)
        assert value.dtype == torch.float32
        found.append((value, *torch.autograd.grad(value, given)))
    (value, gradient), (expected, of_single) = found
    assert torch.equal(value, expected)
    assert 1e-4 < number(value) < 100
    assert gradient.dtype == dtype
    assert torch.equal(gradient, of_single.to(dtype))
    assert gradient.count_nonzero() > 100


@pytest.mark.parametrize("name", ["similarity distillation", "SPML"])
def test_autocast_leaves_losses_alone(name):
    channels, loss = LARGE_LOSSES[name]
    p = rand(1, channels, *LARGE).float()
    expected = loss(p, None, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(p, None, None), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float16])
@pytest.mark.parametrize(
    "loss",
    [
        lambda image: apro_loss(CLASSES, image, REGION),
        lambda image: pairwise_loss(INSTANCES, image, BOXES, image_index=INDEX, threshold=1e-9),
        lambda image: tree_energy_loss(CLASSES, image, REGION, features=image, sigma=1e4),
        lambda image: mean_field_loss(INSTANCES, image, BOXES, zeta=60.0, image_index=INDEX),
        lambda image: gated_crf_loss(CLASSES, image, radius=2, color_sigma=60.0),
    ],
    ids=["apro", "pairwise", "tree energy", "mean field", "gated CRF"],
)
def test_images_of_integers(loss, dtype):
    image = (255 * IMAGE).to(dtype)
    assert number(loss(image)) == pytest.approx(number(loss(image.double())), rel=1e-5)


NOTHING = torch.zeros(2, 1, *SHAPE)
NONE = torch.zeros(0, 1, *SHAPE)


@pytest.mark.parametrize(
    "loss",
    [
        lambda p: apro_loss(p, IMAGE, NOTHING),
        lambda p: apro_loss(p, IMAGE, REGION, weights=(0.0, 0.0)),
        lambda p: partial_cross_entropy(p, torch.full((2, *SHAPE), -100)),
        lambda p: tree_energy_loss(p, IMAGE, NOTHING),
        lambda p: gated_crf_loss(p, IMAGE, NOTHING),
        lambda p: pairwise_loss(p[:, :1], IMAGE, NOTHING),
        lambda p: projection_loss(p[:0, :1], NONE),
        lambda p: mean_field_loss(p[:0, :1], IMAGE, NONE, image_index=INDEX[:0]),
    ],
)
def test_a_loss_of_nothing_is_zero(loss):
    p = CLASSES.detach().clone().requires_grad_()
    value = loss(p)
    value.backward()
    assert number(value) == 0
    assert (p.grad == 0).all()


LOSSES_OF_SHARES = {
    "apro": lambda p, region: apro_loss(p, IMAGE, region),
    "tree energy": lambda p, region: tree_energy_loss(p, IMAGE, region),
    "gated CRF": lambda p, region: gated_crf_loss(p, IMAGE, region),
    "projection": lambda p, region: projection_loss(p[:, :1], region),
    "pairwise": lambda p, region: pairwise_loss(p[:, :1], IMAGE, region),
    "mean field": lambda p, region: mean_field_loss(p[:, :1], IMAGE, region),
}


@pytest.mark.parametrize("name", LOSSES_OF_SHARES)
def test_logits_are_no_probabilities(name):
    loss = LOSSES_OF_SHARES[name]
    expected = loss(CLASSES.detach(), REGION)
    # Rounding of interpolation and of half precision passes, and so does a region of numbers.
    assert loss(CLASSES.detach() * 1.0005 - 2e-4, REGION.double()).isfinite()
    assert loss(CLASSES.detach().bfloat16() * 1.01, REGION).isfinite()
    kind = "masks" if name in ("projection", "pairwise", "mean field") else "probabilities"
    message = rf"{kind} must be in \[0, 1\], got numbers from .*: pass logits\.softmax\(1\)"
    for logits in (CLASSES.detach().log(), CLASSES.detach() + 0.9, (4 * CLASSES.detach() - 1).half()):
        with pytest.raises(ValueError, match=message):
            loss(logits, REGION)
    with pytest.raises(
        ValueError, match=r"region must be in \[0, 1\], got numbers from 0 to 255: pass region > 0"
    ):
        loss(CLASSES.detach(), 255 * REGION.to(torch.uint8))
    assert torch.equal(loss(CLASSES.detach(), REGION), expected)


def test_other_shares_that_are_none():
    scores, masks = rand(2, 3, 4).softmax(-1), rand(2, 3, *SHAPE)
    logits = rand(2, 3, 3)
    for name, act in (
        ("class_scores", lambda: proposal_segmentation(5 * scores, masks)),
        ("masks", lambda: proposal_segmentation(scores, masks - 1)),
        ("assignments", lambda: similarity_distillation_loss(logits, scores.log(), scores)),
        ("reference_assignments", lambda: similarity_distillation_loss(logits, scores, scores.log())),
    ):
        with pytest.raises(ValueError, match=rf"^{name} must be in \[0, 1\]"):
            act()


def test_compiled_losses_look_at_probabilities():
    compiled = torch.compile(lambda p: projection_loss(p, BOXES), backend="aot_eager", fullgraph=True)
    p = INSTANCES.detach()
    assert torch.equal(compiled(p), projection_loss(p, BOXES))
    with pytest.raises(ValueError, match="masks must be in"):
        compiled(p - 1)
    classify = torch.compile(partial_cross_entropy, backend="aot_eager", fullgraph=True)
    labels = torch.zeros(2, *SHAPE, dtype=torch.int64)
    assert torch.equal(classify(CLASSES.detach(), labels), partial_cross_entropy(CLASSES.detach(), labels))
    with pytest.raises(ValueError, match="pass ignore_index=255"):
        classify(CLASSES.detach(), labels + 255)


@pytest.mark.parametrize(
    "options", [{}, {"per_instance": True, "image_index": INDEX}], ids=["classes", "instances"]
)
def test_a_compiled_apro_loss_has_no_graph_breaks(options):
    def loss(p):
        return apro_loss(p, IMAGE, BOXES if options else REGION, **options)

    p = INSTANCES if options else CLASSES
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(p), loss(p))
    torch.testing.assert_close(*(torch.autograd.grad(act(p), p)[0] for act in (compiled, loss)))


def test_a_look_waits_for_no_device():
    # A tensor without numbers stands for one on a device: nobody may look at them.
    shares = torch.empty(2, 3, device="meta")
    assert _ops.checked_shares(shares, "p", "").device.type == "meta"
    assert _ops.checked_labels(shares.long(), 3, 0).device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_data_sets_that_write_255(dtype):
    labels = torch.zeros(2, *SHAPE, dtype=dtype)
    labels[:, 1:] = 255
    scores = CLASSES.detach()
    of_rows = partial_cross_entropy(scores[:, :, :1], labels[:, :1])
    assert number(partial_cross_entropy(scores, labels, ignore_index=255)) == pytest.approx(number(of_rows))
    message = (
        r"labels must be in \[0, 3\), or -100 where a pixel is unlabelled, got 255: pass ignore_index=255"
    )
    with pytest.raises(ValueError, match=message):
        partial_cross_entropy(scores, labels)
    with pytest.raises(TypeError, match="ignore_index must be an integer"):
        partial_cross_entropy(scores, labels, ignore_index=None)


def test_nan_is_not_hidden():
    masks = rand(3, 1, *SHAPE)
    masks[1, 0, 2, 2] = torch.nan
    assert projection_loss(masks, BOXES).isnan()
    assert mean_field_loss(masks, IMAGE, BOXES, image_index=INDEX).isnan()


@pytest.mark.parametrize(
    ("message", "act"),
    [
        ("must be a torch.Tensor, got a ndarray", lambda: projection_loss(BOXES.numpy(), BOXES)),
        (
            "must be on one device",
            lambda: mean_field_loss(INSTANCES, IMAGE.to("meta"), BOXES, image_index=INDEX),
        ),
        (
            "propagation must be an Aff",
            lambda: apro_loss(CLASSES, IMAGE, REGION, propagation=GlobalPropagation()),
        ),
        ("weights must be two numbers", lambda: apro_loss(CLASSES, IMAGE, REGION, weights=1.0)),
        ("constant_targets must be", lambda: apro_loss(CLASSES, IMAGE, REGION, constant_targets=1)),
        ("logits must be floating point", lambda: partial_cross_entropy(REGION.long(), REGION[:, 0].long())),
        ("labels must be integers, got torch.float64", lambda: partial_cross_entropy(CLASSES, IMAGE[:, 0])),
    ],
)
def test_kinds_that_do_not_fit(message, act):
    with pytest.raises(TypeError, match=message):
        act()


@pytest.mark.parametrize(
    ("message", "act"),
    [
        (r"expected masks \(K, 1, H, W\)", lambda: projection_loss(CLASSES, REGION)),
        (r"expected masks \(K, 1, H, W\)", lambda: pairwise_loss(CLASSES, IMAGE, REGION)),
        (
            "threshold must be a number",
            lambda: pairwise_loss(INSTANCES, IMAGE, BOXES, threshold=math.nan, image_index=INDEX),
        ),
        ("expected logits .* and labels", lambda: partial_cross_entropy(CLASSES, REGION.long())),
        (
            r"expected a region of shape \(2, 1, 5, 4\)",
            lambda: apro_loss(CLASSES, IMAGE, REGION[:1]),
        ),
        (r"expected masks \(K, 1, H, W\)", lambda: projection_loss(BOXES[0], BOXES[0])),
        ("do not fit masks .*: pass image_index", lambda: mean_field_loss(INSTANCES, IMAGE, BOXES)),
        ("do not fit masks .*: pass image_index", lambda: apro_loss(INSTANCES, IMAGE, BOXES)),
        ("do not fit masks", lambda: apro_loss(CLASSES, IMAGE[..., :3], REGION)),
        ("do not fit masks", lambda: tree_energy_loss(CLASSES, IMAGE[..., :3], REGION)),
        ("do not fit masks", lambda: pairwise_loss(INSTANCES, IMAGE[..., :3], BOXES, image_index=INDEX)),
        (
            r"image_index must be in \[0, 2\)",
            lambda: mean_field_loss(INSTANCES, IMAGE, BOXES, image_index=INDEX + 1),
        ),
        ("do not fit masks", lambda: gated_crf_loss(CLASSES, IMAGE[:1])),
        ("do not fit masks", lambda: gated_crf_loss(CLASSES, IMAGE[..., :3])),
        ("kernel_size must be odd", lambda: pairwise_loss(INSTANCES, IMAGE, BOXES, kernel_size=2)),
        ("sigma must be above 0", lambda: tree_energy_loss(CLASSES, IMAGE, REGION, sigma=0)),
        ("does not fit a tree", lambda: tree_energy_loss(CLASSES, IMAGE, REGION, tree=mst(IMAGE[:1]))),
    ],
)
def test_errors(message, act):
    with pytest.raises(ValueError, match=message):
        act()


THIN = rand(1, 1, 1, 9)
THIN_IMAGE = rand(1, 3, 1, 9, seed=1), torch.ones(1, 1, 1, 9)


@pytest.mark.parametrize(
    ("loss", "fitting"),
    [
        (
            lambda reach: pairwise_loss(
                THIN, *THIN_IMAGE, threshold=0, kernel_size=2 * reach + 1, dilation=1
            ),
            8,
        ),
        (lambda reach: pairwise_loss(THIN, *THIN_IMAGE, threshold=0, kernel_size=3, dilation=reach), 9),
        (lambda reach: gated_crf_loss(THIN, *THIN_IMAGE, radius=reach), 8),
    ],
    ids=["kernel_size", "dilation", "radius"],
)
def test_windows_end_where_the_image_does(loss, fitting):
    """The whole window would be 10^18 steps."""
    assert torch.equal(loss(10**9), loss(fitting))
