"""Lines of chunks: their reduction and expansion in `_reduce`, and the weights of edges between them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aproarray.cpu import _processor
from aproarray.cpu._reduce import expand_line, reduce_line, sum_stretches

__all__ = ["edge_weights", "expand_line", "reduce_line", "sum_stretches"]

Array = NDArray[Any]


def edge_weights(features: Array, ends: Array) -> Array:
    """Return ``|f_u - f_v|^2`` for edges (E, 2) between rows of features (N, C), as in a tree of them."""
    weights = np.empty(len(ends), features.dtype)
    _processor.weighing.weigh_edges(features, ends, weights)
    return weights
