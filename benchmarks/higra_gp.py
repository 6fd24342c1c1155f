"""Global propagation written with Higra's public functions.

With a the altitudes of the binary partition tree, S_n the sum of the values under node n, c a node and
p its parent, what c's pixels receive from the rest of p is

    delta_c = exp(-a_p / zeta^2) (S_p - S_c),

and ``y_i z_i`` is phi_i plus the deltas from pixel i up to the root: one accumulation from the leaves, one
propagation from the root. z is the same for values of one, carried along as a last channel.
"""

from __future__ import annotations

from typing import Any

import higra as hg
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def global_propagate(values: Array, image: Array, zeta: float, tuned: bool) -> Array:
    """Propagate values (H, W, C) over the tree of an image (H, W, Ci).

    Sums are kept in float64, as ours are: in float32 they lose their digits on large images. `tuned`: in
    float32 all the same, edges sorted in float32, no explicit graph of the spanning tree.
    """
    n_pixels, channels = image.shape[0] * image.shape[1], values.shape[-1]
    graph = hg.get_4_adjacency_graph(image.shape[:2])
    weights = hg.weight_graph(graph, image.reshape(n_pixels, -1), hg.WeightFunction.L2_squared)
    if tuned:
        tree, altitudes = hg.bpt_canonical(graph, weights.astype(np.float32), compute_mst=False)
    else:
        tree, altitudes = hg.bpt_canonical(graph, weights)

    dtype = np.float32 if tuned else np.float64
    leaves = np.ones((n_pixels, channels + 1), dtype)
    leaves[:, :channels] = values.reshape(n_pixels, channels)
    sums = hg.accumulate_sequential(tree, leaves, hg.Accumulators.sum)
    alike = np.exp(altitudes * (-1 / zeta**2)).astype(dtype)
    delta = hg.propagate_parallel(tree, sums)  # of the parent; the root is its own, and its delta is 0
    delta -= sums
    delta *= hg.propagate_parallel(tree, alike)[:, None]
    delta[:n_pixels] += leaves
    received = hg.propagate_sequential_and_accumulate(tree, delta, hg.Accumulators.sum)[:n_pixels]
    result: Array = received[:, :channels] / received[:, channels:]
    return result.reshape(values.shape).astype(values.dtype, copy=False)
