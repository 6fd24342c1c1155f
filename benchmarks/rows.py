"""The rows of the table: what is compared with what, on which input. One thread unless the row says more.

A function here yields the rows that share an input, after checking that others compute the same.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np

import aproarray
from benchmarks import algorithm_1, inputs, machine, memory, spanning_trees
from benchmarks.timing import Row, Skip, check_equal, cost, one_cpu, speedup

# In the units of images in [0, 1]: five grey levels for global, 38 for local propagation.
GLOBAL_ZETA, LOCAL_ZETA = 0.02, 0.15


def tree_and_gp(
    values: inputs.Array, image: inputs.Array, workers: int = 1, **options: object
) -> inputs.Array:
    tree = aproarray.mst(image, workers=workers)
    return aproarray.global_propagate(values, tree, zeta=GLOBAL_ZETA, workers=workers, **options)


def higra(repeats: int) -> Iterator[Row]:
    try:
        from benchmarks import higra_gp
    except ImportError as error:
        raise Skip(f"Higra cannot be imported ({error})") from error
    image = inputs.astronaut()
    for channels in (1, 21):
        values = inputs.values((512, 512, channels))
        for tuned, written in ((False, "Higra, sums in float64 as ours"), (True, "Higra, tuned, in float32")):

            def theirs(values: inputs.Array = values, tuned: bool = tuned) -> inputs.Array:
                return higra_gp.global_propagate(values, image, GLOBAL_ZETA, tuned)

            def ours(values: inputs.Array = values) -> inputs.Array:
                return tree_and_gp(values, image)

            with one_cpu():
                check_equal(ours(), theirs(), 1e-4, "Higra")
                yield speedup(f"tree + GP, 512 x 512, {channels} ch", written, ours, theirs, repeats)


def paper(repeats: int) -> Iterator[Row]:
    image = inputs.astronaut()
    for channels in (1, 21):
        values = inputs.values((channels, 512, 512))
        ours_values = np.ascontiguousarray(np.moveaxis(values, 0, -1))

        def theirs(values: inputs.Array = values) -> inputs.Array:
            return algorithm_1.propagate(values, *algorithm_1.spanning_tree(image), GLOBAL_ZETA)

        def ours(values: inputs.Array = ours_values) -> inputs.Array:
            return tree_and_gp(values, image)

        check_equal(np.moveaxis(ours(), -1, 0), theirs(), 1e-3, "Algorithm 1")
        yield speedup(f"tree + GP, 512 x 512, {channels} ch", "Algorithm 1 in C++", ours, theirs, repeats)


def masks(repeats: int) -> Iterator[Row]:
    image = np.ascontiguousarray(inputs.astronaut()[:160, 150:350])
    values = inputs.values((80, 160, 200))

    def ours() -> inputs.Array:
        return tree_and_gp(values, image, channel_axis=0)

    def theirs() -> inputs.Array:
        return np.concatenate(
            [
                algorithm_1.propagate(one[None], *algorithm_1.spanning_tree(image), GLOBAL_ZETA)
                for one in values
            ]
        )

    check_equal(ours(), theirs(), 1e-3, "Algorithm 1")
    yield speedup("80 masks of one 160 x 200 image", "Algorithm 1, a tree each", ours, theirs, repeats)


def spanning_tree(package: str, repeats: int) -> Iterator[Row]:
    image = inputs.astronaut()
    pixels = np.arange(image.shape[0] * image.shape[1]).reshape(image.shape[:2])
    u = np.concatenate([pixels[:, :-1].ravel(), pixels[:-1].ravel()])
    v = np.concatenate([pixels[:, 1:].ravel(), pixels[1:].ravel()])
    flat = image.reshape(-1, 3).astype(np.float64)
    weights = ((flat[u] - flat[v]) ** 2).sum(1) + 1e-12  # csgraph takes a weight of 0 for no edge
    try:
        written, theirs = getattr(spanning_trees, package)(pixels.size, u, v, weights)
    except ImportError as error:
        raise Skip(f"{package} cannot be imported ({error})") from error

    def ours() -> aproarray.SpanningTree:
        return aproarray.mst(image, workers=1)

    check_equal(ours().weights.sum(dtype=np.float64), theirs(), 1e-4, package)
    yield speedup("tree, 512 x 512", written, ours, theirs, repeats)


def torch_unfold(repeats: int) -> Iterator[Row]:
    try:
        import torch

        from benchmarks import torch_lp
    except ImportError as error:
        raise Skip(f"torch cannot be imported ({error})") from error
    image = inputs.astronaut()
    torch_image = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))[None]
    for channels in (1, 21):
        values = inputs.values((channels, 512, 512))
        torch_values = torch.from_numpy(values)[:, None]
        ours_values = np.ascontiguousarray(np.moveaxis(values, 0, -1))

        def ours(values: inputs.Array = ours_values) -> inputs.Array:
            return aproarray.local_propagate(
                values, image, zeta=LOCAL_ZETA, kernel_size=5, iterations=20, workers=1
            )

        # One by one, the unfolded values stay smaller and torch is faster than on the whole batch.
        for at_once in sorted({1, channels}):

            def theirs(values: torch.Tensor = torch_values, at_once: int = at_once) -> torch.Tensor:
                return torch_lp.local_propagate(values, torch_image, LOCAL_ZETA, 5, 20, at_once)

            check_equal(np.moveaxis(ours(), -1, 0), theirs()[:, 0].numpy(), 1e-3, "torch")
            pairs = repeats if channels == 1 else min(repeats, 2)  # theirs takes many seconds
            what = f"LP, 5 x 5, 20 iterations, 512 x 512, {channels} ch"
            yield speedup(what, f"torch Unfold, {at_once} ch at once", ours, theirs, pairs)


def torch_gradients(repeats: int) -> Iterator[Row]:
    try:
        import torch

        import aproarray.torch as apro
    except ImportError as error:
        raise Skip(f"torch cannot be imported ({error})") from error
    torch.set_num_threads(1)
    picture = np.ascontiguousarray(np.moveaxis(inputs.astronaut(), -1, 0)[None])
    image, array_tree = torch.from_numpy(picture), aproarray.mst(picture, channel_axis=1)
    tree = apro.mst(image)
    for channels in (1, 21):
        array = inputs.values((1, channels, 512, 512))
        values = torch.from_numpy(array).requires_grad_()
        features = torch.from_numpy(inputs.values((1, 3, 512, 512))).requires_grad_()
        size = f"512 x 512, {channels} ch"
        upstream = torch.from_numpy(array[:, ::-1].copy())

        def arrays(array: inputs.Array = array) -> inputs.Array:
            return aproarray.global_propagate(array, array_tree, zeta=GLOBAL_ZETA, channel_axis=1, workers=1)

        def tensors(values: torch.Tensor = values, **options: torch.Tensor) -> torch.Tensor:
            return apro.global_propagate(values, tree, zeta=GLOBAL_ZETA, **options)

        def local(values: torch.Tensor = values, image: torch.Tensor = image) -> torch.Tensor:
            return apro.local_propagate(values, image, zeta=LOCAL_ZETA, kernel_size=5, iterations=20)

        def backward(
            result: torch.Tensor, *to: torch.Tensor, upstream: torch.Tensor = upstream
        ) -> Callable[[], tuple[torch.Tensor, ...]]:
            return lambda: torch.autograd.grad(result, to, upstream, retain_graph=True)

        check_equal(tensors().detach(), arrays(), 0, "the call on arrays")
        yield cost(f"GP on tensors, {size}", "on arrays", tensors, arrays, 2 * repeats)
        yield cost(
            f"GP, backward to values, {size}", "forward", backward(tensors(), values), tensors, 2 * repeats
        )
        yield cost(
            f"GP, backward to values and features, {size}",
            "forward",
            backward(tensors(features=features), values, features),
            lambda tensors=tensors, features=features: tensors(features=features),
            repeats,
        )
        pairs = repeats if channels == 1 else min(repeats, 3)
        yield cost(f"LP, backward to values, {size}", "forward", backward(local(), values), local, pairs)
        learned = image.clone().requires_grad_()
        yield cost(
            f"LP, backward to values and image, {size}",
            "forward",
            backward(local(image=learned), values, learned),
            local,
            pairs,
        )

    crops = torch.stack([image[0, :, :160, x : x + 200] for x in range(0, 280, 40)][:4])
    masks = torch.from_numpy(inputs.values((80, 1, 160, 200)))
    tree_index = torch.arange(80) // 20

    def together() -> torch.Tensor:
        return apro.global_propagate(masks, apro.mst(crops), zeta=GLOBAL_ZETA, tree_index=tree_index)

    def one_by_one() -> torch.Tensor:
        return torch.stack(
            [
                apro.global_propagate(mask, apro.mst(crops[i]), zeta=GLOBAL_ZETA)
                for mask, i in zip(masks, tree_index.tolist(), strict=True)
            ]
        )

    check_equal(together(), one_by_one(), 1e-6, "one by one")
    yield speedup(
        "80 masks of four 160 x 200 images, torch", "a tree for each mask", together, one_by_one, repeats
    )

    from benchmarks import torch_lp

    boxes = torch.zeros_like(masks)
    for box, (top, left, height, width) in zip(boxes, inputs.boxes(80, 160, 200), strict=True):
        box[:, top : top + height, left : left + width] = 1

    def within_boxes() -> torch.Tensor:
        return apro.local_propagate(
            masks, crops, zeta=LOCAL_ZETA, kernel_size=5, iterations=20, region=boxes, image_index=tree_index
        )

    def unfolded() -> torch.Tensor:
        options = LOCAL_ZETA, 5, 20, 1
        quarters = [slice(first, first + 20) for first in range(0, 80, 20)]
        return torch.cat(
            [
                torch_lp.local_propagate(masks[of], crops[g : g + 1], *options, boxes[of])
                for g, of in enumerate(quarters)
            ]
        )

    check_equal(within_boxes()[boxes > 0], unfolded()[boxes > 0], 1e-3, "torch")
    what = f"LP, 5 x 5, 20 iterations, 80 boxes of {boxes.mean():.0%}, four 160 x 200 images"
    yield speedup(what, "torch Unfold, multiplied by boxes", within_boxes, unfolded, min(repeats, 2))


def labels(repeats: int) -> Iterator[Row]:
    try:
        from skimage.segmentation import random_walker
    except ImportError as error:
        raise Skip(f"scikit-image cannot be imported ({error})") from error
    # What they compute is not the same: docs/quality.md says how good each is.
    image = inputs.mosaic(256)  # theirs takes minutes for larger ones
    for n_labels in (5, 20):
        strokes = inputs.strokes((256, 256), n_labels)

        def ours(strokes: inputs.Array = strokes) -> inputs.Array:
            return aproarray.propagate_labels(image, strokes)

        def theirs(strokes: inputs.Array = strokes) -> inputs.Array:
            return random_walker(image, strokes, beta=130, mode="cg_j", tol=1e-3, channel_axis=-1)

        with one_cpu():
            what = f"propagate_labels, 256 x 256, {n_labels} labels"
            yield speedup(what, "skimage random_walker, cg_j", ours, theirs, min(repeats, 3))
    large, strokes = inputs.mosaic(1024), inputs.strokes((1024, 1024), 5)
    # Both sides get the same strokes, one more at every call. After the last one, all but the first are gone.
    # Some strokes change three times as much as others: two whole rounds.
    others, same = itertools.tee(itertools.cycle(inputs.more_strokes(strokes, 6)))
    propagator = aproarray.LabelPropagator(large)
    propagator.propagate(strokes)
    with one_cpu():
        yield cost(
            "another stroke, 1024 x 1024, 5 labels",
            "the first call",
            lambda: propagator.propagate(next(others)),
            lambda: aproarray.propagate_labels(large, next(same)),
            12,
        )


def memcpy(repeats: int) -> Iterator[Row]:
    image, values = inputs.astronaut(), inputs.values((512, 512, 21))
    out, copy = np.empty_like(values), np.empty_like(values)
    yield cost(
        "tree + GP, 512 x 512, 21 ch",
        "memcpy of the values",
        lambda: tree_and_gp(values, image, out=out),
        lambda: np.copyto(copy, values),
        2 * repeats,
    )


def scale(repeats: int) -> Iterator[Row]:
    large, side = inputs.mosaic(4096), 512
    # Small images that are, together, as the large one is: one from every corner of its first quarter.
    crops = [
        np.ascontiguousarray(large[row : row + side, column : column + side])
        for row in range(0, 2048, side)
        for column in range(0, 1024, side)
    ]
    pixels, per = large.shape[0] * large.shape[1], {"scale": 1e9, "unit": "ns / pixel"}
    pairs = min(repeats, 3)
    yield cost(
        "tree, 4096 x 4096",
        "the same at 512 x 512",
        lambda: aproarray.mst(large, workers=1),
        lambda: [aproarray.mst(crop, workers=1) for crop in crops],
        pairs,
        per=(pixels, len(crops) * side * side),
        **per,
    )
    large_values, small_values = inputs.values(large.shape[:2]), inputs.values((side, side))
    large_tree, trees = aproarray.mst(large), [aproarray.mst(crop) for crop in crops]

    def propagate(values: inputs.Array, tree: aproarray.SpanningTree) -> inputs.Array:
        return aproarray.global_propagate(values, tree, zeta=GLOBAL_ZETA, workers=1)

    yield cost(
        "GP, 4096 x 4096, 1 ch",
        "the same at 512 x 512",
        lambda: propagate(large_values, large_tree),
        lambda: [propagate(small_values, tree) for tree in trees],
        pairs,
        per=(pixels, len(crops) * side * side),
        **per,
    )


def workers(repeats: int) -> Iterator[Row]:
    if machine.cores() < 2:
        raise Skip("two workers need two cores")
    image, values = inputs.mosaic(2048), inputs.values((2048, 2048, 21))
    # A new result of this size costs as much in the system's memory management as in computation.
    for out, into in ((None, "a new array"), (np.zeros_like(values), "out=")):
        yield speedup(
            f"tree + GP, 2048 x 2048, 21 ch, into {into}, 2 workers",
            "1 worker",
            lambda out=out: tree_and_gp(values, image, workers=2, out=out),
            lambda out=out: tree_and_gp(values, image, workers=1, out=out),
            min(repeats, 3),
        )


def peak_memory(repeats: int) -> Iterator[Row]:
    image = inputs.mosaic(2048)
    values_bytes, image_bytes = 4, 12
    for what, input_bytes, call in (
        ("tree", image_bytes, ("tree",)),
        ("LP, 3 x 3", image_bytes + values_bytes, ("lp", "3")),
        ("LP, 7 x 7", image_bytes + values_bytes, ("lp", "7")),
    ):
        ours = memory.peak(image, *call)
        yield Row(
            f"peak memory, 2048 x 2048, {what}",
            ours,
            "its input",
            input_bytes,
            ours / input_bytes,
            "ours / theirs",
            "bytes / pixel",
        )


def adversarial(repeats: int) -> Iterator[Row]:
    side = 1024
    photograph, values = inputs.mosaic(side)[..., 1], inputs.values((side, side))
    for name, image in inputs.adversarial(side).items():
        paired_with = photograph.astype(image.dtype)
        yield cost(
            f"tree + GP, 1024 x 1024, 1 ch, {name}",
            f"a photograph, {image.dtype}",
            lambda image=image: tree_and_gp(values, image),
            lambda image=paired_with: tree_and_gp(values, image),
            min(repeats, 5),
            per=(side * side, side * side),
            scale=1e9,
            unit="ns / pixel",
        )


ROWS: dict[str, Callable[[int], Iterator[Row]]] = {
    "higra": higra,
    "algorithm-1": paper,
    "masks": masks,
    **{
        package: functools.partial(spanning_tree, package)
        for package in ("csgraph", "rustworkx", "fast_hdbscan", "networkit")
    },
    "torch-unfold": torch_unfold,
    "torch-gradients": torch_gradients,
    "labels": labels,
    "memcpy": memcpy,
    "scale": scale,
    "workers": workers,
    "memory": peak_memory,
    "adversarial": adversarial,
}
