"""Scores of segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from aproarray import _arrays, _dispatch, _validate


@_arrays.takes_dlpack
def mean_iou(
    predicted: ArrayLike,
    truth: ArrayLike,
    *,
    classes: Sequence[int] | None = None,
    ignore_index: int = 255,
) -> float:
    """Return the mean over classes of intersection over union, counted over all pixels of all images.

    Parameters
    ----------
    predicted, truth : array_like of int
        Classes, of one shape. A pixel whose truth is `ignore_index` does not count. A prediction of
        `ignore_index` is wrong.
    classes : sequence of int, optional
        Classes to average over, such as the novel ones, whose masks no training has seen. All classes still
        compete for the pixels. None: all classes that occur in either array.
    ignore_index : int
        Number of pixels without a class.

    Returns
    -------
    float
        From 0 to 1. Classes that occur in neither array do not count. NaN if none is left.

    Raises
    ------
    TypeError
        Arrays that do not hold integers, or arrays of more than one library.
    ValueError
        Shapes that differ.

    Notes
    -----
    O(N classes) time.

    References
    ----------
    .. [1] J. Chen et al., "Weakly supervised semantic segmentation via dual similarity transfer" (SimFormer),
       2022 (mean IoU over the novel classes).

    Examples
    --------
    >>> from aproarray.related import mean_iou
    >>> mean_iou([[0, 0, 1, 1]], [[0, 1, 1, 255]])
    0.5
    >>> mean_iou([[0, 0, 1, 1]], [[0, 1, 1, 2]], classes=[2])
    0.0
    """
    xp = _dispatch.backend(predicted=predicted, truth=truth).xp
    said = _validate.as_array(predicted, "predicted", xp)
    said = _validate.integer_array(said, "predicted", said.shape, xp)
    there = _validate.integer_array(truth, "truth", said.shape, xp)
    ignore_index = _validate.label(ignore_index, "ignore_index")
    counted = there != ignore_index
    said, there = said[counted], there[counted]
    if classes is None:
        both = _arrays.on_host(xp.unique(xp.concatenate([xp.unique(said), xp.unique(there)])))
        classes = [number for number in both.tolist() if number != ignore_index]
    else:
        chosen: Any = _validate.as_array(classes, "classes")
        classes = _validate.integer_array(chosen, "classes", (None,)).tolist() if chosen.size else []
    ratios = []
    for number in classes:
        a, b = said == number, there == number
        either = int((a | b).sum())
        if either:
            ratios.append(int((a & b).sum()) / either)
    return float(np.mean(ratios)) if ratios else float("nan")
