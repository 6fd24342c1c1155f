"""Refine the dense scores of language-image models, and make labels of class activation maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aproarray import _arrays, _dispatch, _validate
from aproarray.related._pixels import Pixels, pixels, same_pixels, unit

Array = NDArray[Any]


@_arrays.takes_dlpack
def key_smoothing(
    scores: ArrayLike,
    keys: ArrayLike,
    *,
    threshold: float = 1.0,
    channel_axis: int | None = -1,
    spatial_ndim: int = 2,
    check_finite: bool = True,
) -> Array:
    """Average the scores of uncertain pixels over all pixels, weighted by the similarity of their keys.

    Pixels with ``max_c P_ic < threshold`` get ``P_ic <- sum_j (k_i . k_j) P_jc``, where k are keys of unit
    length. The other pixels keep their scores. As published, the sum is not divided by the sum of the
    weights. Compare classes (`argmax`), or divide by the sum over the classes to get shares.

    Parameters
    ----------
    scores : array_like
        P, probabilities of classes: leading axes, spatial axes, and an axis of classes.
    keys : array_like
        Features of the same pixels, with any number of channels. The paper takes them from the last attention
        layer of the image encoder.
    threshold : float
        Pixels whose largest score is below it are smoothed. The published 1.0 smooths all pixels that are not
        certain.
    channel_axis : int or None
        Axis of the channels of `scores`, and of `keys`; None: there is none.
    spatial_ndim : int
        Number of spatial axes (2: images, 3: volumes).
    check_finite : bool
        Whether to look for NaN and inf.

    Returns
    -------
    array of the shape of `scores`
        Float32 or float64. Float16 also gives float32, since sums leave its range.

    Raises
    ------
    TypeError
        An argument of the wrong kind, or arrays of more than one library.
    ValueError
        Shapes that do not fit, NaN or inf.

    Notes
    -----
    O(N D C) time and O(N (D + C)) memory for N pixels with D features: ``K (K^T P)`` needs no matrix of all
    pairs.

    References
    ----------
    .. [1] C. Zhou et al., "Extract free dense labels from CLIP", ECCV 2022, "Key smoothing".

    Examples
    --------
    >>> import numpy as np
    >>> from aproarray.related import key_smoothing
    >>> scores = np.array([[[1.0, 0.0], [0.4, 0.6]]])  # 1 x 2 pixels, 2 classes
    >>> key_smoothing(scores, np.array([[[1.0, 0.0], [3.0, 4.0]]])).round(2)
    array([[[1. , 0. ],
            [1. , 0.6]]])
    """
    xp = _dispatch.backend(scores=scores, keys=keys).xp
    threshold = _validate.real_number(threshold, "threshold")
    p = pixels(scores, "scores", xp, channel_axis, spatial_ndim, check_finite)
    k = pixels(keys, "keys", xp, channel_axis, spatial_ndim, check_finite)
    same_pixels(p, k, "scores", "keys")
    p = p._replace(dtype=p.flat.dtype)
    if not p.flat.size:
        return p.restore(p.flat.copy(), xp)
    directions = unit(k.flat, xp).astype(p.flat.dtype, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        smoothed = directions @ (directions.transpose(0, 2, 1) @ p.flat)
    if check_finite:
        _validate.finite_means(smoothed, "scores", None)
    uncertain = p.flat.max(axis=-1, keepdims=True) < threshold
    return p.restore(xp.where(uncertain, smoothed, p.flat), xp)


@_arrays.takes_dlpack
def prompt_denoising(
    scores: ArrayLike,
    *,
    threshold: float = 0.5,
    channel_axis: int | None = -1,
    spatial_ndim: int = 2,
    check_finite: bool = True,
) -> Array:
    """Drop the classes that are unlikely everywhere in an image.

    A class whose largest probability over the image is below `threshold` gets 0 everywhere. The other classes
    are divided by their sum, which gives the softmax over them alone.

    Parameters
    ----------
    scores : array_like
        Probabilities of classes, not negative: leading axes, spatial axes, and an axis of classes.
    threshold : float
        The published one is 0.5.
    channel_axis : int or None
        Axis of the classes; None: there is one.
    spatial_ndim : int
        Number of spatial axes (2: images, 3: volumes).
    check_finite : bool
        Whether to look for NaN and inf.

    Returns
    -------
    array of the shape of `scores`
        Float32 or float64; float16 for float16. A pixel without a share of any kept class gets 0 for all
        classes. So does an image whose classes are all dropped.

    Raises
    ------
    TypeError
        An argument of the wrong kind.
    ValueError
        Scores below 0 (logits: take their softmax first), NaN or inf.

    Notes
    -----
    O(N C) time and memory.

    References
    ----------
    .. [1] C. Zhou et al., "Extract free dense labels from CLIP", ECCV 2022, "Prompt denoising".

    Examples
    --------
    >>> import numpy as np
    >>> from aproarray.related import prompt_denoising
    >>> scores = np.array([[[0.6, 0.3, 0.1], [0.2, 0.6, 0.2]]])
    >>> prompt_denoising(scores).round(2)
    array([[[0.67, 0.33, 0.  ],
            [0.25, 0.75, 0.  ]]])
    """
    xp = _dispatch.backend(scores=scores).xp
    threshold = _validate.real_number(threshold, "threshold")
    p = pixels(scores, "scores", xp, channel_axis, spatial_ndim, check_finite)
    if not p.flat.size:
        return p.restore(p.flat.copy(), xp)
    if (p.flat < 0).any():
        raise ValueError(
            f"scores must be probabilities, got numbers down to {float(p.flat.min()):g}: of logits, take the "
            "softmax over the classes first"
        )
    kept = p.flat.max(axis=1, keepdims=True) >= threshold
    denoised = p.flat * kept
    with np.errstate(over="ignore", invalid="ignore"):
        total = denoised.sum(axis=-1, keepdims=True)
    if check_finite:
        _validate.finite_means(total, "scores", None)
    return p.restore(denoised / xp.where(total > 0, total, 1), xp)


@_arrays.takes_dlpack
def cam_to_scores(
    cams: ArrayLike,
    *,
    tags: ArrayLike | None = None,
    boxes: ArrayLike | None = None,
    box_classes: ArrayLike | None = None,
    box_images: ArrayLike | None = None,
    alpha: float | None = None,
    channel_axis: int | None = -1,
    spatial_ndim: int = 2,
    check_finite: bool = True,
) -> Array:
    """Turn class activation maps into scores with a background, by an image's tags or by boxes.

    With tags, a class of the image gets ``M_c / max M_c``, with the maximum over the image. Other classes
    get 0. The background gets ``(1 - max_c M_c)^alpha``.

    With boxes, a class gets ``M_c / max M_c``, with the maximum over each of its boxes, and 0 outside of
    them. Where two boxes of a class overlap, the larger number counts. The background is 1 outside of all
    boxes, and 0 inside.

    Parameters
    ----------
    cams : array_like
        M, for the classes without the background: leading axes, spatial axes, and an axis of classes. Numbers
        below 0 count as 0.
    tags : array_like of bool, optional
        The classes of each image: leading axes, and an axis of classes (None: all classes).
    boxes : (K, 2 d) array_like of int, optional
        Corners, as in `skimage.measure.regionprops`: (first row, first column, last row + 1, last
        column + 1). Boxes lie within the image.
    box_classes : (K,) array_like of int, optional
        The class of each box: its place among the classes of `cams`.
    box_images : (K,) array_like of int, optional
        The image of each box, counted over the leading axes. None: there is one image.
    alpha : float, optional
        Exponent of the background, above 0 (None: the published 6). With boxes it has no meaning and must be
        None.
    channel_axis : int or None
        Axis of the classes. None: there is one class, and the scores get their axis last.
    spatial_ndim : int
        Number of spatial axes (2: images, 3: volumes).
    check_finite : bool
        Whether to look for NaN and inf.

    Returns
    -------
    array
        As `cams`, with one class more, from 0 to 1. Class 0 is the background, class c + 1 is class c of
        `cams`.

    Raises
    ------
    TypeError
        An argument of the wrong kind, or arrays of more than one library.
    ValueError
        Tags and boxes at once, boxes without classes or outside the image, shapes that do not fit, NaN or
        inf.

    Notes
    -----
    O(N C) time and memory, and O(pixels of the boxes).

    References
    ----------
    .. [1] T.-W. Ke et al., "Universal weakly supervised segmentation by pixel-to-segment contrastive
       learning", ICLR 2021.
    .. [2] J. Ahn, S. Kwak, "Learning pixel-level semantic affinity with image-level supervision for weakly
       supervised semantic segmentation", CVPR 2018 (the background).

    Examples
    --------
    >>> import numpy as np
    >>> from aproarray.related import cam_to_scores
    >>> cam_to_scores(np.array([[[0.0], [2.0], [4.0]]]))[0].round(3).tolist()
    [[1.0, 0.0], [0.016, 0.5], [0.0, 1.0]]
    """
    xp = _dispatch.backend(cams=cams).xp
    m = pixels(cams, "cams", xp, channel_axis, spatial_ndim, check_finite)
    return m.restore(_with_background(m, xp, tags, boxes, box_classes, box_images, alpha), xp)


@_arrays.takes_dlpack
def cam_to_labels(
    cams: ArrayLike,
    *,
    tags: ArrayLike | None = None,
    boxes: ArrayLike | None = None,
    box_classes: ArrayLike | None = None,
    box_images: ArrayLike | None = None,
    alpha: float | None = None,
    confidence: float | None = None,
    ignore_index: int = 255,
    channel_axis: int | None = -1,
    spatial_ndim: int = 2,
    check_finite: bool = True,
) -> Array:
    """Label the pixels that class activation maps are sure of, given an image's tags or boxes.

    A pixel gets the class of its largest score in `cam_to_scores`, if this score is at least `confidence`.

    Parameters
    ----------
    cams, tags, boxes, box_classes, box_images, alpha, channel_axis, spatial_ndim, check_finite
        As in `cam_to_scores`.
    confidence : float, optional
        None: the published 0.2 with tags, 0.5 with boxes.
    ignore_index : int
        Label of unlabelled pixels.

    Returns
    -------
    array of int64
        Leading and spatial axes. 0 is the background, c + 1 is class c of `cams`, `ignore_index` is
        unlabelled.

    Raises
    ------
    TypeError, ValueError
        As `cam_to_scores`.

    Notes
    -----
    With tags and alpha 6, the largest score of a pixel is at least 0.22 for any maps. A confidence of 0.2
    therefore leaves pixels unlabelled only if another step has lowered the scores, such as propagation:

        scores = random_walk_propagate(cam_to_scores(cams, tags=tags), embeddings)
        labels = np.where(scores.max(-1) >= 0.2, scores.argmax(-1), 255)

    References
    ----------
    .. [1] T.-W. Ke et al., "Universal weakly supervised segmentation by pixel-to-segment contrastive
       learning", ICLR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from aproarray.related import cam_to_labels
    >>> cams = np.array([[[0.0], [0.5], [2.0], [4.0]]])
    >>> cam_to_labels(cams, boxes=[[0, 1, 1, 4]], box_classes=[0]).tolist()
    [[0, 255, 1, 1]]
    """
    xp = _dispatch.backend(cams=cams).xp
    if confidence is None:
        confidence = 0.2 if boxes is None else 0.5
    confidence = _validate.real_number(confidence, "confidence")
    ignore_index = _validate.label(ignore_index, "ignore_index")
    m = pixels(cams, "cams", xp, channel_axis, spatial_ndim, check_finite)
    scores = _with_background(m, xp, tags, boxes, box_classes, box_images, alpha)
    labels: Array = xp.where(scores.max(axis=-1) >= confidence, scores.argmax(axis=-1), ignore_index)
    return labels.astype(np.int64, copy=False).reshape(m.layout.leading + m.layout.spatial)


def _with_background(
    m: Pixels, xp: Any, tags: Any, boxes: Any, box_classes: Any, box_images: Any, alpha: Any
) -> Array:
    """Return the scores of `cam_to_scores` as (items, pixels, 1 + classes)."""
    cams = xp.maximum(m.flat, 0)
    if boxes is None:
        for name, value in (("box_classes", box_classes), ("box_images", box_images)):
            if value is not None:
                raise ValueError(f"{name} needs boxes, got {name} alone")
        return _of_tags(cams, m, xp, tags, alpha)
    if tags is not None:
        raise ValueError("expected tags or boxes, got both")
    if alpha is not None:
        raise ValueError(f"alpha is of the background of tags, got alpha={alpha!r} with boxes")
    return _of_boxes(cams, m, xp, boxes, box_classes, box_images)


def _of_tags(cams: Array, m: Pixels, xp: Any, tags: Any, alpha: Any) -> Array:
    alpha = 6.0 if alpha is None else _validate.positive(alpha, "alpha")
    if tags is not None:
        present, expected = (
            _validate.as_array(_arrays.on_host(tags), "tags", xp),
            (*m.layout.leading, m.layout.n_channels),
        )
        if present.dtype != np.bool_:
            raise TypeError(
                f"tags must be boolean (True: the image has the class), got dtype {present.dtype}"
            )
        if present.shape != expected:
            raise ValueError(f"tags must have shape {expected} (images, classes), got {present.shape}")
        cams = cams * present.reshape(len(cams), 1, m.layout.n_channels)
    scores: Array = xp.zeros((*cams.shape[:2], 1 + cams.shape[2]), cams.dtype)
    if cams.size:
        largest = cams.max(axis=1, keepdims=True)
        scores[..., 1:] = cams / xp.where(largest > 0, largest, 1)
    # The background's own column is still 0.
    scores[..., 0] = (1 - scores.max(axis=-1)) ** alpha if scores.size else 0
    return scores


def _of_boxes(cams: Array, m: Pixels, xp: Any, boxes: Any, box_classes: Any, box_images: Any) -> Array:
    layout, ndim = m.layout, len(m.layout.spatial)
    if box_classes is None:
        raise ValueError("boxes need box_classes, the class of each, got none")
    corners = _validate.integer_array(_arrays.on_host(boxes), "boxes", (None, 2 * ndim))
    shape = (len(corners),)

    def numbers(value: Any, stop: int, name: str) -> Array:
        return _validate.in_range(_validate.integer_array(_arrays.on_host(value), name, shape), stop, name)

    classes = numbers(box_classes, layout.n_channels, "box_classes")
    if box_images is not None:
        images = numbers(box_images, len(cams), "box_images")
    elif len(cams) == 1:
        images = np.zeros(shape, np.intp)
    else:
        raise ValueError(f"boxes over {len(cams)} images need box_images, the image of each, got none")
    scores: Array = xp.zeros((len(cams), *layout.spatial, 1 + layout.n_channels), cams.dtype)
    scores[..., 0] = 1
    cams = cams.reshape(len(cams), *layout.spatial, layout.n_channels)
    for number, (corner, class_, image) in enumerate(zip(corners, classes, images, strict=True)):
        first, last = corner[:ndim], corner[ndim:]
        if (first < 0).any() or (last > layout.spatial).any() or (first >= last).any():
            raise ValueError(
                f"boxes[{number}] must have corners (first..., last + 1...) within {layout.spatial}, got "
                f"{corner.tolist()}"
            )
        place: tuple[Any, ...] = (
            int(image),
            *(slice(int(a), int(b)) for a, b in zip(first, last, strict=True)),
        )
        inside = cams[(*place, int(class_))]
        largest = inside.max()
        target = (*place, 1 + int(class_))
        scores[target] = xp.maximum(scores[target], inside / xp.where(largest > 0, largest, 1))
        scores[(*place, 0)] = 0
    return scores.reshape(len(cams), -1, 1 + layout.n_channels)
