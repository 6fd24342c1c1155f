"""Masks from marks: what most people want, made of the relief of an image and two kernels.

`propagate_labels` for seeds, `LabelPropagator` where strokes follow one another on one image, `refine`
for soft scores, `affinity_map` to look at what a pixel sees.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, ParamSpec, TypedDict, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aproarray import _arrays, _certainty, _dispatch, _edges, _relief, _sure, _validate, cpu
from aproarray._api import global_propagate, local_propagate, mst
from aproarray._arrays import DaskArray, ForeignArray
from aproarray._tree import SpanningTree

if TYPE_CHECKING:
    import dask.array

Array = NDArray[Any]
P = ParamSpec("P")
R = TypeVar("R")

# One set of choices for all images and kinds of seeds; docs/quality.md has what each of them brings.
_RADIUS = 2  # of the window that votes: 5 x 5
_VOTES = (5, 1)  # of images, and of volumes
_VOTES_BESIDE_EDGES = (1, 0)  # Labels would run along walls, whose pixels are alike.
_TRUST = (1.5, 1.3, 1.3)  # in the forests at the middle scale, the finest, the coarsest; see `cpu.settle`
_TRUST_THE_FINEST = (1.0, 2.0, 0.9)  # the same in volumes, and for small objects in clean images
_SMALL = 100**2  # pixels for each label, at most
STRENGTH = 12.0
_ZETA_STEPS = 3.0  # zeta of a vote, in root mean square steps between neighbours
_REFINE_STEPS = 1.5  # the same for scores
_EDGES_SHARE = 0.1  # zeta^2 of scores over a map of boundaries, in medians of its tree's weights
_EDGES_BESIDE = 0.5  # steps between neighbours of a map of boundaries, in those of the colours


class LabelPropagator:
    """An image made ready for propagating labels over it again and again, as strokes are added.

    ``LabelPropagator(image).propagate(labels)`` is ``propagate_labels(image, labels)``. Everything that
    depends on the image alone is computed once.

    Parameters
    ----------
    image : array_like or None
        Bool, integer or float, at any scale: spatial axes, optionally channels, optionally leading axes.
        None: `edges` alone decide.
    edges, features : array_like, optional
        As for `propagate_labels`: of the spatial shape, or with the image's leading axes.
    channel_axis : int, None or "auto"
        Axis of the channels; None: there is none. "auto": the last one of three or more axes. An axis of
        more than 4 is not taken for channels unasked: the error names the readings.
    spatial_ndim : int, optional
        Number of spatial axes (2: images, 3: volumes), the last ones beside the channels. Those before are
        a batch. None: all axes beside the channels are spatial.
    mask : array_like of bool, optional
        True where a pixel takes part: of the spatial shape, or with the image's leading axes. NaN is allowed
        elsewhere.
    convert2lab, spacing
        As for `propagate_labels`.
    workers : int or None
        Threads that compute what depends on the image alone, as for `propagate_labels`.

    Attributes
    ----------
    shape : tuple of int
        The shape of labels: the image's leading and spatial axes.
    spatial_ndim : int
        The number of spatial axes.

    Raises
    ------
    TypeError, ValueError
        As for `propagate_labels`.

    Notes
    -----
    O(N C) time. Holds the image, and 4 (C + 3) + 1 bytes per pixel. Labels below 0 leave pixels out of all
    that is computed of the image, as `mask` does. It is computed again for them, and held once more; the next
    call uses it again if it leaves out the same pixels. NaN is allowed where `mask` is False alone.

    The floods and the votes of a call are held too: 42 bytes per pixel, and 66 from the second call on, and 4
    more with a mask. The next call goes on from them. It floods again only where seeds that came, went or
    changed their label make a difference, and votes anew where other labels do. Its labels are those of a
    first call, ties included. With `spacing`, each call floods from the start, and 5 bytes are held. Threads
    may share a propagator: of calls at the same time, one goes on from the last, the others from the start.
    Pickling keeps the image and the options. All else is computed again.

    A `SpanningTree` would not do in its place. Labels follow three forests: their edges weigh reliefs rather
    than differences of colours, and their roots are the seeds, which a tree cannot know.

    Examples
    --------
    >>> import numpy as np
    >>> import aproarray
    >>> image = np.zeros((6, 6))
    >>> image[:, 3:] = 1
    >>> propagator = aproarray.LabelPropagator(image)
    >>> strokes = np.zeros((6, 6), int)
    >>> strokes[0, 0], strokes[5, 5] = 1, 2
    >>> propagator.propagate(strokes)[2].tolist()
    [1, 1, 1, 2, 2, 2]
    """

    @_arrays.takes_dlpack
    def __init__(
        self,
        image: ArrayLike | None,
        *,
        edges: ArrayLike | None = None,
        features: ArrayLike | None = None,
        channel_axis: int | Literal["auto"] | None = "auto",
        spatial_ndim: int | None = None,
        mask: ArrayLike | None = None,
        convert2lab: bool | None = None,
        spacing: Sequence[float] | None = None,
        workers: int | None = None,
    ):
        """Smooth the image and compute its relief."""
        self._backend = _dispatch.backend(image=image, edges=edges, features=features, mask=mask)
        threads = _validate.workers(workers, cpu.available_workers())
        if image is None:
            image, channel_axis = _plain_image(edges), None
        images = _images(image, channel_axis, spatial_ndim, mask, edges, features)
        self.shape: tuple[int, ...] = images.leading + images.spatial
        self.spatial_ndim = len(images.spatial)
        self._like_seeds = _look_like_seeds(images.pixels, self._backend.xp)
        spacing = _units(spacing, self.spatial_ndim)
        self._prepared = [
            _Image(one, convert2lab, spacing, threads) for one in images.each() if 0 not in self.shape
        ]

    def __repr__(self) -> str:
        """Say what it is made for."""
        return f"LabelPropagator(shape={self.shape}, spatial_ndim={self.spatial_ndim})"

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of, for pickling: a backend is a module, and goes by name."""
        return self.__dict__ | {"_backend": self._backend.__name__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` returned."""
        self.__dict__.update(state, _backend=importlib.import_module(state["_backend"]))

    @overload
    def propagate(
        self, labels: Array, *, return_full_prob: Literal[False] = False, workers: int | None = None
    ) -> Array: ...
    @overload
    def propagate(
        self, labels: Array, *, return_full_prob: Literal[True], workers: int | None = None
    ) -> NDArray[np.float32]: ...
    @overload
    def propagate(
        self, labels: ForeignArray, *, return_full_prob: bool = False, workers: int | None = None
    ) -> ForeignArray: ...
    @overload
    def propagate(
        self, labels: ArrayLike, *, return_full_prob: bool = False, workers: int | None = None
    ) -> Array: ...

    @_arrays.takes_dlpack  # type: ignore[misc]  # which brings arrays of other libraries in and out
    def propagate(
        self, labels: ArrayLike, *, return_full_prob: bool = False, workers: int | None = None
    ) -> Any:
        """Return the labels of all pixels, or the probability of each label.

        Parameters
        ----------
        labels : array_like of int
            Seeds of `shape`, as for `propagate_labels`. They are not written to.
        return_full_prob, workers
            As for `propagate_labels`.

        Returns
        -------
        array of labels' shape and dtype, or float32 array (n_labels, ...)
            As `propagate_labels` returns them, with its warning where an image has no seed.

        Raises
        ------
        TypeError, ValueError
            Labels that `propagate_labels` refuses, or of another shape or library than the image.
        """
        backend = self._backend
        if _dispatch.backend(labels=labels) is not backend:
            library = "NumPy" if backend is cpu else "CuPy"
            raise TypeError(
                f"labels must be a {library} array, as the image was, got a {_arrays.kind_of(labels)}"
            )
        xp = backend.xp
        with_shares = _validate.flag(return_full_prob, "return_full_prob")
        threads = _validate.workers(workers, cpu.available_workers())
        seeds = _seeds(labels, self.shape, self._like_seeds, xp)
        result = seeds.copy()
        if not self._prepared:  # no pixels, or no images
            return xp.zeros((0, *self.shape), np.float32) if with_shares else result
        spatial = self.shape[len(self.shape) - self.spatial_ndim :]
        each = [
            image.prepared(one).propagate(one, with_shares, threads)
            for image, one in zip(self._prepared, result.reshape(-1, *spatial), strict=True)
        ]
        _warn_of_missing_seeds([len(values) for values, _ in each])
        if not with_shares:
            return result
        if len(each) == 1:
            ((_, shares),) = each
            return shares.reshape(len(shares), *self.shape)
        values = np.unique(np.concatenate([values for values, _ in each]))
        shares = xp.zeros((len(values), len(each), *spatial), np.float32)
        for item, (own, own_shares) in enumerate(each):
            for place, of_label in zip(np.searchsorted(values, own).tolist(), own_shares, strict=True):
                shares[place, item] = of_label
        return shares.reshape(len(values), *self.shape)


class Voters:
    """The pixels of an image, or of a part of one, that vote over windows.

    They are padded by pixels that take no part, so that a window is the same steps from every pixel. Votes
    are weighed by `features` (*spatial, C); `step` is their root mean square distance between neighbours.
    """

    def __init__(self, features: Array, step: float, iterations: int, spacing: tuple[float, ...] | None):
        shape = features.shape[:-1]
        self.inner = tuple(slice(_RADIUS, _RADIUS + extent) for extent in shape)
        self.shape = tuple(extent + 2 * _RADIUS for extent in shape)
        if np.prod(self.shape, dtype=float) >= 2**31:
            raise ValueError(f"labels are propagated over at most 2^31 pixels, got an image of {shape}")
        self._backend = _dispatch.backend(features=features)
        padded: Array = self._backend.xp.zeros((*self.shape, features.shape[-1]), np.float32)
        padded[self.inner] = features
        self.features = padded.reshape(math.prod(self.shape), features.shape[-1])
        self.neighbours = _edges.flat_steps(self.shape, _edges.hops(len(shape)))
        self._window = _window(self.shape, _RADIUS, spacing)
        self._scale = 1 / (_ZETA_STEPS * step) ** 2 if step > 0 else 1.0
        self._iterations = iterations

    def vote(
        self,
        labels: NDArray[np.int32],
        zones: NDArray[np.int32],
        held: NDArray[np.uint8],
        shares: NDArray[np.float32],
        workers: int,
    ) -> None:
        """Change labels (N) by votes; see `cpu.vote`."""
        cpu.vote(
            self.features, labels, zones, held, self._window, self.neighbours, self._scale, self._iterations,
            shares, workers,
        )  # fmt: skip

    def following(self, zones: NDArray[np.int32]) -> Any:
        """Return the same votes, which follow labels as they change; see `cpu.Votes`."""
        return self._backend.Votes(
            self.features, zones, self._window, self.neighbours, self._scale, self._iterations
        )


def votes_over(shape: tuple[int, ...]) -> int:
    """Return how often the pixels of an image vote."""
    return _VOTES[_relief.is_volume(shape)]


class _PreparedImage:
    """Everything that depends on one image alone."""

    def __init__(
        self, image: OneImage, convert2lab: bool | None, spacing: tuple[float, ...] | None, workers: int
    ):
        self._backend = _dispatch.backend(image=image.pixels)
        xp = self._backend.xp
        takes_part = self._mask = image.mask
        self._shape = image.pixels.shape[:-1]
        self._n_pixels = math.prod(self._shape) if takes_part is None else int(xp.count_nonzero(takes_part))
        self._spacing = spacing
        features, outliers = _relief.features_of(image.pixels, takes_part, convert2lab, spacing, workers)
        if image.features is not None:
            others = _relief.smoothed_features(image.features, takes_part, spacing, workers)
            features = _relief.beside(features, others, takes_part, outliers, spacing, workers=workers)
        step = _relief.typical_step(features, takes_part, outliers, spacing, workers)
        votes = votes_over(self._shape)
        gradients = _relief.scales(features, takes_part, spacing, workers)
        self._clean = _relief.is_clean(*_relief.square_sums(gradients, takes_part, outliers))
        reliefs = _relief.over_what_is_usual(gradients, takes_part, outliers, spacing, workers, None)
        followed = None if image.edges is None else _relief.with_edges(reliefs, image.edges, takes_part)
        self._follows_edges = followed is not None
        if followed is not None:
            reliefs = followed
            votes = _VOTES_BESIDE_EDGES[_relief.is_volume(self._shape)]
        if not step > 0 and (spacing is not None or image.edges is not None):
            # On a plain image every neighbour has the same vote, whatever the scale. They would round off
            # regions that are shared out by distance, and those of a map of boundaries alone.
            votes = 0
        self._voters = Voters(features, step, votes, spacing)
        self._inner, self._padded_shape = self._voters.inner, self._voters.shape
        self._reliefs = xp.zeros((len(reliefs), *self._padded_shape), np.float32)
        self._reliefs[(slice(None), *self._inner)] = reliefs
        self._reliefs = self._reliefs.reshape(len(reliefs), -1)
        self._floods = self._backend.Floods(
            self._reliefs, self._voters.neighbours, self._padded_shape, spacing
        )
        self._witnesses: _certainty.Witnesses | None = None  # until probabilities are asked for

    def propagate(self, seeds: Array, with_shares: bool, workers: int) -> tuple[Array, NDArray[np.float32]]:
        """Put the labels of all pixels in place of the seeds.

        Return the distinct ones, on the host, and their shares.
        """
        backend, xp = self._backend, self._backend.xp
        takes_part = self._mask
        seeded = seeds > 0 if takes_part is None else (seeds > 0) & takes_part
        at = xp.unravel_index(xp.flatnonzero(seeded), self._shape)
        distinct, numbers = xp.unique(seeds[at], return_inverse=True)
        values = _arrays.on_host(distinct)

        padded = xp.full(self._padded_shape, -1, np.int32)
        inner = padded[self._inner]
        inner[() if takes_part is None else takes_part] = 0
        inner[at] = numbers + 1
        flat = padded.reshape(-1)
        names = values.tolist()
        origin = (-_RADIUS,) * len(self._shape)
        pixels = cpu.Pixels(self._voters.features, self._padded_shape, origin, self._spacing)
        with self._floods.labels(self._with_sure(flat, pixels, len(values)), names, workers) as maps:
            if len(maps) == 1:
                flat = maps[0].copy()
            else:
                trust = _TRUST
                if not self._follows_edges:
                    trust = trust_in_forests(self._shape, self._clean, self._n_pixels, len(values))
                flat = backend.settle(maps, flat, pixels, trust, STRENGTH, workers)
            by_relief = xp.stack(maps) if with_shares else xp.empty((0, 0), np.int32)
        shares = xp.empty((0, *self._shape), np.float32)
        if with_shares:
            shares = self._shares(padded, names, by_relief, flat, workers)
        else:
            self._ballots.cast(flat, names, padded.reshape(-1), workers)
        chosen = flat.reshape(self._padded_shape)[self._inner]
        own = xp.concatenate([xp.zeros(1, seeds.dtype), distinct])
        if takes_part is None:
            seeds[...] = own[chosen]
        else:
            seeds[takes_part] = own[chosen[takes_part]]
        return values, shares

    def _with_sure(self, seeds: Array, pixels: cpu.Pixels, n_labels: int) -> Array:
        """Return seeds (N), and with them the pixels whose label is sure.

        Boundaries that are told say more than colours. So does a mask: pixels beyond its walls may be alike.
        """
        if self._follows_edges or self._n_pixels < math.prod(self._shape):
            return seeds
        step = _sure.step_between(self._shape, n_labels)
        if step is None:
            return seeds
        on_host, xp = _arrays.on_host, self._backend.xp
        at = xp.flatnonzero(seeds > 0)
        table = cpu.Seeds.at(on_host(at), on_host(seeds[at]), pixels, n_labels + 1)
        every = (slice(None, None, step),) * len(self._shape)
        lattice = self._voters.features.reshape(*self._padded_shape, -1)[self._inner][every]
        sure = _sure.sure_labels(on_host(lattice), step, table, pixels.units)
        if not sure.any():
            return seeds
        result = seeds.copy()
        own = result.reshape(self._padded_shape)[self._inner][every]
        own[...] = xp.where(own == 0, xp.asarray(sure), own)
        return result

    def _shares(
        self, seeds: Array, names: list[Any], maps: Array, labels: Array, workers: int
    ) -> NDArray[np.float32]:
        """Let labels (N) vote, and return their probabilities (labels, *spatial)."""
        on_host, xp = _arrays.on_host, self._backend.xp
        # Those of a label lie side by side, as they are returned.
        shares = on_host(self._ballots.shares(labels, len(names), seeds.reshape(-1), workers))
        # Witnesses are on the host, for both backends.
        if self._witnesses is None:
            self._witnesses = _certainty.Witnesses(
                on_host(self.reliefs), on_host(self._mask), self._spacing, _RADIUS, workers
            )
        self._witnesses.probabilities(
            on_host(seeds), names, on_host(maps), on_host(labels), on_host(self._zones), shares.T, workers
        )
        by_label = shares.reshape(len(names), *self._padded_shape)[(slice(None), *self._inner)]
        found: NDArray[np.float32] = xp.asarray(np.ascontiguousarray(by_label))
        return found

    @functools.cached_property
    def _zones(self) -> NDArray[np.int32]:
        """The connected parts of the mask (N), or no entries where all pixels take part.

        A window may reach across walls that labels must not cross.
        """
        xp = self._backend.xp
        zones: NDArray[np.int32]
        if self._mask is None or self._mask.all():
            zones = xp.empty(0, np.int32)
            return zones
        zones = xp.zeros(self._padded_shape, np.int32)
        graph = mst(xp.zeros(self._shape, np.uint8), mask=self._mask, spatial_ndim=len(self._shape))
        zones[self._inner] = graph.cut(0)
        return zones.reshape(-1)

    @functools.cached_property
    def _ballots(self) -> Any:
        return self._voters.following(self._zones)

    @property
    def reliefs(self) -> Array:
        """Return the reliefs (scales, *spatial)."""
        reliefs: Array = self._reliefs.reshape(-1, *self._padded_shape)[(slice(None), *self._inner)]
        return reliefs


def trust_in_forests(
    shape: tuple[int, ...], clean: bool, n_pixels: int, n_labels: int
) -> tuple[float, float, float]:
    """Return what the forests of an image count, at the middle scale, the finest and the coarsest.

    `n_pixels` take part of an image of a shape, `clean` or not, and the seeds have `n_labels`.
    """
    small = n_pixels < _SMALL * n_labels
    return _TRUST_THE_FINEST if _relief.is_volume(shape) or (clean and small) else _TRUST


# From a pixel to the farthest one that its votes depend on: they look at one window after another, and at
# smoothed colours.
VOTES_REACH = _RADIUS * max(_VOTES) + _relief.FEATURES_REACH


class _Image:
    """One image, prepared with and without the pixels of a void: those that labels below 0 leave out."""

    def __init__(
        self, image: OneImage, convert2lab: bool | None, spacing: tuple[float, ...] | None, workers: int
    ):
        # Copies: what the caller does with theirs between strokes is no part of this.
        self._image = OneImage(
            image.pixels.copy(),
            None if image.mask is None else image.mask.copy(),
            None if image.edges is None else image.edges.copy(),
            None if image.features is None else image.features.copy(),
        )
        self._options = convert2lab, spacing, workers
        self._whole = _PreparedImage(self._image, *self._options)
        self._beside: tuple[NDArray[np.uint8], _PreparedImage] | None = None  # the last void, as bits

    def __reduce__(self) -> tuple[type[_Image], tuple[Any, ...]]:
        """Pickle the image and the options: all else is computed again."""
        return _Image, (self._image, *self._options)

    def prepared(self, seeds: Array) -> _PreparedImage:
        """Return what depends on the pixels alone that seeds do not leave out."""
        void, mask = seeds < 0, self._image.mask
        if mask is not None:
            void &= mask
        if not void.any():
            return self._whole
        xp = _dispatch.backend(labels=seeds).xp
        bits = xp.packbits(void)
        beside = self._beside
        if beside is None or not xp.array_equal(beside[0], bits):
            without = self._image._replace(mask=~void if mask is None else mask & ~void)
            beside = self._beside = bits, _PreparedImage(without, *self._options)
        return beside[1]


class _LabelOptions(TypedDict, total=False):
    """The options of `propagate_labels`, for its overloads."""

    edges: ArrayLike | None
    features: ArrayLike | None
    channel_axis: int | Literal["auto"] | None
    spatial_ndim: int | None
    mask: ArrayLike | DaskArray | None
    convert2lab: bool | None
    spacing: Sequence[float] | None
    workers: int | None


# Options of `skimage.segmentation.random_walker`, in the order of its signature. None here does their job.
_OF_RANDOM_WALKER = {
    "beta": "edges are weighed by what is usual around them, so that there is no penalty to choose",
    "mode": "no system of equations is solved",
    "tol": "no system of equations is solved, so that there is no tolerance",
    "copy": "labels are never written to",
    "prob_tol": "shares are exact, so that there is no tolerance",
    "rng": "nothing is random",
}


def _refuse_options_of_random_walker(function: Callable[P, R]) -> Callable[P, R]:
    """Let `propagate_labels` say of each option of `random_walker` why there is none."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = [*zip(_OF_RANDOM_WALKER, args[2:], strict=False)]
        given += [(name, kwargs[name]) for name in _OF_RANDOM_WALKER if name in kwargs]
        if given:
            name, value = given[0]
            shown = value if isinstance(value, bool | float | int | str) else type(value).__name__
            raise TypeError(
                f"propagate_labels has no {name} as random_walker has (got {shown!r}): "
                f"{_OF_RANDOM_WALKER[name]}. Leave it out; other options are passed by name"
            )
        return function(*args, **kwargs)

    return call


@overload
def propagate_labels(
    image: DaskArray, labels: ArrayLike | DaskArray, **options: Unpack[_LabelOptions]
) -> dask.array.Array: ...
@overload
def propagate_labels(
    image: ArrayLike, labels: DaskArray, **options: Unpack[_LabelOptions]
) -> dask.array.Array: ...
@overload
def propagate_labels(
    image: ArrayLike | None,
    labels: Array,
    *,
    return_full_prob: Literal[False] = False,
    **options: Unpack[_LabelOptions],
) -> Array: ...
@overload
def propagate_labels(
    image: ArrayLike | None,
    labels: Array,
    *,
    return_full_prob: Literal[True],
    **options: Unpack[_LabelOptions],
) -> NDArray[np.float32]: ...
@overload
def propagate_labels(
    image: ArrayLike | None,
    labels: ForeignArray,
    *,
    return_full_prob: bool = False,
    **options: Unpack[_LabelOptions],
) -> ForeignArray: ...
@overload
def propagate_labels(
    image: ArrayLike | None,
    labels: ArrayLike,
    *,
    return_full_prob: bool = False,
    **options: Unpack[_LabelOptions],
) -> Array: ...


# The others bring arrays of dask and of other libraries in and out.
@_refuse_options_of_random_walker  # type: ignore[misc]
@_dispatch.takes_dask
@_arrays.takes_dlpack
def propagate_labels(
    image: ArrayLike | None,
    labels: ArrayLike,
    *,
    return_full_prob: bool = False,
    edges: ArrayLike | None = None,
    features: ArrayLike | None = None,
    channel_axis: int | Literal["auto"] | None = "auto",
    spatial_ndim: int | None = None,
    mask: ArrayLike | None = None,
    convert2lab: bool | None = None,
    spacing: Sequence[float] | None = None,
    workers: int | None = None,
) -> Any:
    """Segment an image from a few labelled pixels: scribbles, points, boxes.

    The image and the labels are those that `skimage.segmentation.random_walker` takes, and there is nothing
    to tune. To propagate again on the same image, keep a `LabelPropagator`.

    Parameters
    ----------
    image : array_like or None
        Bool, integer or float, at any scale (it is mapped from its own range to [0, 1]): the axes of
        `labels`, and optionally channels. An image of the shape of `labels` has no channels. None: `edges`
        alone decide.
    labels : array_like of int
        Seeds: above 0 a label, 0 unlabelled, below 0 a pixel that takes no part, as if `mask` left it out:
        NaN is allowed there in the image. Any number of axes. Floats that are whole numbers are taken, too.
    return_full_prob : bool
        Whether to return the probability of each label rather than labels: at two to three times the time.
    edges : array_like, optional
        A map of boundaries, higher where they are, at any scale: a membrane stain, the negative of an image
        whose walls are dark, a network's output. Of the shape of `labels`, or of its spatial axes. Labels
        follow it. The image's own gradients count as far as they agree with it.
    features : array_like, optional
        What else is known of each pixel, such as a network's embedding: real numbers, at any scale, of the
        shape of `labels`, or of its spatial axes, and a last axis of D channels. They count as much as the
        colours: both have the same root mean square step between neighbours.
    channel_axis : int, None or "auto"
        Axis of the channels of `image`; None: there is none. "auto": the last one, where the image has one
        more axis than `labels`.
    spatial_ndim : int, optional
        Number of spatial axes, the last ones of `labels`. Those before are a batch of images, each of which
        is treated as if it came alone. None: all axes of `labels` are spatial. Labels of three axes are a
        volume then.
    mask : array_like of bool, optional
        True where a pixel takes part: of the shape of `labels`, or of its spatial axes. NaN is allowed
        elsewhere in the image, and seeds are ignored there.
    convert2lab : bool or None
        Whether the channels are sRGB, to be compared as CIELAB. None: if there are three. A constant last
        one of two or four channels (opaque alpha) is left out first. Where it varies, it is a channel like
        the others; True makes a fourth channel alpha, which is left out.
    spacing : sequence of float, optional
        Distance of neighbouring pixels along each spatial axis, above 0, in any unit. None: all are equal.
        Gradients are per unit then, smoothing and the window that votes reach as far along each axis, and of
        equal edges the one nearest to its seed goes first: a plain volume is shared out by distance.
    workers : int or None
        Threads (None: the CPUs this process may use). The result does not depend on it.

    Returns
    -------
    array of labels' shape and dtype
        Seeds keep their label. A pixel that no seed can reach (a region that the mask or negative labels
        cut off, or no seed at all) stays 0; pixels that take no part come back as they went in.
    or, with return_full_prob, float32 array (n_labels, ...)
        In ascending order of labels: the probability of each. Sums to 1, or is 0 where no label is. The
        labels are where it is largest, and seeds are certain. A batch has the labels of all its images.

    Warns
    -----
    UserWarning
        An image has no seed: its labels come back as they went in. Of dask arrays, labels are not known when
        the function is called, and there is no warning.

    Raises
    ------
    TypeError
        Labels that are not numbers, or boolean ones; an image, edges, features or a mask of the wrong kind;
        neither an image nor edges; arrays of more than one library; an option of `random_walker` that means
        nothing here.
    ValueError
        Shapes that do not fit, labels that are not whole numbers or look like an image, NaN or inf in the
        image, the edges or the features.

    Notes
    -----
    The relief of the image is its gradient, over what is usual around a pixel, at each of three scales (see
    docs/quality.md). At each, labels follow the minimum spanning forest rooted at the seeds, edges weighing
    the relief of their two pixels: every pixel gets the label of a seed at the smallest minimax distance, as
    in `global_propagate` when zeta goes to 0, and whatever its distance from all seeds. Plain areas are
    shared out by the number of steps, or with `spacing` by distance.

    An object may have parts that no stroke touches. Pixels of every few become seeds, too, where one label is
    sure: its seeds alone are like the pixel, and the nearest of them is not much farther than those of other
    labels. Of many labels on one image hardly any is. Beside `edges`, and where a mask or negative labels
    leave pixels out, the seeds are those that came.

    Where the scales bring different labels, the number of scales that bring a label speaks for it. In volumes
    the finest one counts more than the two others, and so it does for small objects (less than 10^4 pixels
    for each label) in images without noise, texture or thin lines. Against a label speak the distance of its
    nearest seed, and the difference to the seed most like the pixel, each over what is usual for that label.
    These two count little where seeds are points, which do not say how far a label
    reaches, and much where they are drawn all over their regions (see docs/quality.md). Then pixels take the
    label of the largest vote over a 5 x 5 window, weighted by likeness as in `local_propagate`. There are
    five votes, one in volumes and one beside `edges`, none in volumes with them. Seeds are held.

    Of `edges`, one relief is made for each scale: the map, plus the gradient times their correlation, both in
    units of their standard deviation. A gradient that disagrees (correlation below 0) does not count.

    The image's own range leaves outliers out, such as hot and dead pixels, or -9999 for no data. They are at
    most one number in twenty at either end, past a gap of three times the range of the others. They keep
    their order beyond the range, on a logarithmic scale. Single ones are moved to its end. No mean counts
    them.

    Probabilities come from what else the labels might have been: by each relief, by twelve that noise
    disturbs, by distance alone, and by the votes. How often the label was right where they said the same,
    on photographs and nuclei, is the probability of the label.

    O(N C) time, or O(N (C + log N)) with `spacing`. At most 30 C + 60 bytes per pixel, and 50 more with a
    mask or negative labels. Neither depends on the number of labels, but for return_full_prob.
    docs/random_walker.md compares it with `random_walker`.

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023.
    .. [2] J. Cousty et al., "Watershed Cuts: Minimum Spanning Forests and the Drop of Water Principle",
       IEEE TPAMI 31, 2009.

    Examples
    --------
    >>> import numpy as np
    >>> import aproarray
    >>> image = np.zeros((5, 8), np.uint8)
    >>> image[:, 3:] = 200
    >>> seeds = np.zeros((5, 8), int)
    >>> seeds[2, 0], seeds[2, 7] = 1, 2
    >>> aproarray.propagate_labels(image, seeds)[0].tolist()
    [1, 1, 1, 2, 2, 2, 2, 2]
    """
    backend = _dispatch.backend(image=image, labels=labels, edges=edges, features=features, mask=mask)
    seeds = _validate.as_array(labels, "labels", backend.xp)
    if image is None:
        image, channel_axis = _plain_image(edges, seeds.shape), None
    pixels = _validate.real_array(image, "image", backend.xp)
    spatial_ndim, channel_axis = axes_beside_labels(pixels.shape, seeds.shape, channel_axis, spatial_ndim)
    propagator = LabelPropagator(
        pixels, edges=edges, features=features, channel_axis=channel_axis, spatial_ndim=spatial_ndim,
        convert2lab=convert2lab, spacing=spacing,
        mask=_without_void(mask, seeds, spatial_ndim, backend.xp),
        workers=workers,
    )  # fmt: skip
    return propagator.propagate(labels, return_full_prob=return_full_prob, workers=workers)


def _without_void(mask: ArrayLike | None, seeds: Array, spatial_ndim: int, xp: Any) -> ArrayLike | None:
    """Return the mask without the pixels of labels below 0. A mask that does not fit comes back as it is."""
    if seeds.dtype.kind not in "if" or not (seeds < 0).any():
        return mask
    takes_part: Array = seeds >= 0
    if mask is None:
        return takes_part
    inside = xp.asarray(mask)
    if inside.dtype != np.bool_ or inside.shape not in (seeds.shape, seeds.shape[-spatial_ndim:]):
        return mask
    beside: Array = takes_part & inside
    return beside


def _units(spacing: Any, ndim: int) -> tuple[float, ...] | None:
    """Return spacing in units of its smallest number, or None where all are equal."""
    if spacing is None:
        return None
    if isinstance(spacing, str | bytes) or not np.iterable(spacing):
        raise TypeError(f"spacing must be a sequence of numbers, one for each spatial axis, got {spacing!r}")
    units = [_validate.positive(one, f"spacing[{axis}]") for axis, one in enumerate(spacing)]
    if len(units) != ndim:
        raise ValueError(f"spacing must have one number for each of {ndim} spatial axes, got {len(units)}")
    if not all(map(math.isfinite, units)):
        raise ValueError(f"spacing must be finite, got {units}")
    if min(units) == max(units):
        return None
    return tuple(one / min(units) for one in units)


def axes_beside_labels(
    shape: tuple[int, ...], labels_shape: tuple[int, ...], channel_axis: Any, spatial_ndim: Any
) -> tuple[int, int | None]:
    """Return how many axes of an image are spatial, and which holds channels, as its labels tell."""
    told = spatial_ndim is not None
    ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM) if told else len(labels_shape)
    if len(labels_shape) < max(ndim, 1):
        raise ValueError(f"labels of shape {labels_shape} must have at least {max(ndim, 1)} axes")
    if shape == labels_shape:
        if not told and channel_axis is not None and _is_pictures_shape(shape):
            raise ValueError(
                f"labels of shape {shape} look like an RGB picture, as the image is: expected shape "
                f"{shape[:-1]}, one number for each pixel. {_HOW_TO_NUMBER_COLOURS}, or spatial_ndim="
                f"{len(shape)} if image and labels are volumes"
            )
        return ndim, None
    if _validate.is_auto(channel_axis):
        grey = len(shape) == len(labels_shape) - 1 or len(shape) == 1
        channel_axis = None if grey else -1
    if channel_axis is None:
        expected = shape
    else:
        channel_axis = _validate.integer(channel_axis, "channel_axis")
        if not -len(shape) <= channel_axis < len(shape):
            raise ValueError(f"channel_axis={channel_axis} is not an axis of image of shape {shape}")
        expected = _without(shape, channel_axis)
    if expected != labels_shape:
        fitting = [axis for axis in range(len(shape)) if _without(shape, axis) == labels_shape]
        hint = (
            f"pass channel_axis={fitting[0]} if that is the axis of the image's channels" if fitting else ""
        )
        raise ValueError(_misfit(labels_shape, expected, f"an image of shape {shape}", hint))
    return ndim, channel_axis


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]


_HOW_TO_NUMBER_COLOURS = (
    "Pass np.unique(labels.reshape(-1, labels.shape[-1]), axis=0, return_inverse=True)[1]"
    ".reshape(labels.shape[:-1]) to number colours, black being 0"
)


def _is_pictures_shape(shape: tuple[int, ...]) -> bool:
    """Return whether an array of more than two axes may well be a picture with colours."""
    return len(shape) > 2 and shape[-1] in (3, 4) and min(shape[:-1]) >= 16


def _misfit(shape: tuple[int, ...], expected: tuple[int, ...], owner: str, hint: str = "") -> str:
    """Say what labels came and what was expected, and what to write where that can be told."""
    if shape[:-1] == expected and shape[-1] == 1:
        hint = "pass labels[..., 0]"
    elif shape[:-1] == expected and shape[-1] in (3, 4):
        hint = f"they look like an RGB picture; is the image given second? {_HOW_TO_NUMBER_COLOURS}"
    said = f"labels of shape {shape} do not fit {owner}: expected shape {expected}"
    return f"{said}; {hint}" if hint else said


def _seeds(labels: ArrayLike, shape: tuple[int, ...], beside_seeds: bool, xp: Any) -> Array:
    """Return labels that are whole numbers of a shape; `beside_seeds`: the image looks like seeds itself."""
    seeds = _validate.as_array(labels, "labels", xp)
    if seeds.dtype == np.bool_:
        raise TypeError(
            "labels must hold integers (0: unlabelled), got booleans, which know one class alone: of two "
            "boolean arrays of seeds, pass np.where(background, 2, foreground)"
        )
    if seeds.dtype.kind not in "iuf" or seeds.dtype.itemsize > 8:
        raise TypeError(f"labels must hold integers (0: unlabelled), got dtype {seeds.dtype}")
    if seeds.shape != shape:
        raise ValueError(_misfit(seeds.shape, shape, "the image"))
    if beside_seeds and _look_like_an_image(seeds, xp):
        raise ValueError(
            "labels and image look swapped: neighbours in labels differ, and most of the image is 0. The "
            "image comes first"
        )
    if seeds.dtype.kind == "f":
        broken = _arrays.on_host(seeds[~(xp.isfinite(seeds) & (seeds == xp.rint(seeds)))])
        if broken.size:
            if beside_seeds:
                hint = "Are image and labels swapped? The image comes first"
            elif np.isnan(broken).all():
                hint = "Pass np.nan_to_num(labels).astype(int) if NaN means unlabelled"
            else:
                hint = "Pass np.rint(labels).astype(int) if they were meant to be"
            raise ValueError(
                f"labels must be whole numbers (0: unlabelled), but {broken.size} of {seeds.size} are not, "
                f"such as {broken[0]}. {hint}"
            )
    return seeds


def _look_like_seeds(pixels: Array, xp: Any) -> bool:
    """Return whether an image may be seeds: integers, most of them 0."""
    return pixels.dtype.kind in "iu" and 2 * int(xp.count_nonzero(pixels)) < pixels.size


def _look_like_an_image(labels: Array, xp: Any) -> bool:
    """Return whether labels may be an image: many numbers, and neighbours that differ."""
    if 2 * int(xp.count_nonzero(labels)) < labels.size or labels.shape[-1] < 2:
        return False
    same = int(xp.count_nonzero(labels[..., 1:] == labels[..., :-1]))
    return 4 * same < 3 * labels[..., 1:].size and len(xp.unique(labels)) > 32


def _warn_of_missing_seeds(numbers: list[int]) -> None:
    """Warn of images whose number of distinct labels is 0, where the caller of the package is."""
    missing = [item for item, n in enumerate(numbers) if n == 0]
    if not missing:
        return
    which = f" for {len(missing)} of {len(numbers)} images (number {missing[0]} first)" if numbers[1:] else ""
    depth, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "aproarray":
        depth, frame = depth + 1, frame.f_back
    warnings.warn(
        f"labels hold no seed{which}, a number above 0 that takes part: they come back as they went in",
        stacklevel=depth,
    )


class OneImage(NamedTuple):
    """An image and everything of the caller's that lies over it."""

    pixels: Array
    """(*spatial, channels)."""
    mask: NDArray[np.bool_] | None
    """(*spatial)."""
    edges: Array | None = None
    """(*spatial)."""
    features: Array | None = None
    """(*spatial, channels)."""


class Images(NamedTuple):
    """An image or a batch of them, channels last, and what lies over each."""

    leading: tuple[int, ...]
    spatial: tuple[int, ...]
    pixels: Array
    """(images, *spatial, channels)."""
    masks: NDArray[np.bool_] | None
    """(1 or images, *spatial)."""
    edges: Array | None
    """(images, *spatial)."""
    features: Array | None
    """(images, *spatial, channels)."""

    def each(self) -> Iterator[OneImage]:
        """Yield each image."""
        for item, one in enumerate(self.pixels):
            yield OneImage(
                one,
                None if self.masks is None else self.masks[item % len(self.masks)],
                None if self.edges is None else self.edges[item],
                None if self.features is None else self.features[item],
            )


def _images(
    image: ArrayLike,
    channel_axis: Any,
    spatial_ndim: int | None,
    mask: ArrayLike | None,
    edges: ArrayLike | None = None,
    features: ArrayLike | None = None,
    batches: bool = True,
) -> Images:
    """Check one image or a batch of them with what lies over it, and lay it out."""
    xp = _dispatch.backend(image=image, mask=mask, edges=edges, features=features).xp
    pixels = _validate.real_array(image, "image", xp)
    batches = batches and spatial_ndim is not None
    if spatial_ndim is None:
        spatial_ndim = max(pixels.ndim - (channel_axis is not None and pixels.ndim > 2), 1)
    spatial_ndim = _validate.integer(spatial_ndim, "spatial_ndim", 1, _edges.MAX_NDIM)
    layout = _validate.image_layout(pixels.shape, spatial_ndim, channel_axis, batches)
    takes_part = _validate.mask(mask, layout.leading, layout.spatial, f"an image of shape {pixels.shape}", xp)
    flat = layout.flatten(pixels)
    _validate.finite(flat, "image", takes_part, _validate.BY_MASK)
    n_images, masks = math.prod(layout.leading), None
    if takes_part is not None:
        masks = takes_part.reshape(len(takes_part), *layout.spatial)
    return Images(
        layout.leading,
        layout.spatial,
        flat.reshape(n_images, *layout.spatial, layout.n_channels),
        masks,
        None if edges is None else _edge_maps(edges, layout.leading, layout.spatial, takes_part),
        None if features is None else _feature_maps(features, layout.leading, layout.spatial, takes_part),
    )


def _edge_maps(
    edges: ArrayLike, leading: tuple[int, ...], spatial: tuple[int, ...], takes_part: NDArray[np.bool_] | None
) -> Array:
    """Check a map of boundaries, and return it for each image, (images, *spatial)."""
    maps = _validate.real_array(edges, "edges", _dispatch.backend(edges=edges).xp)
    if maps.shape not in (spatial, leading + spatial):
        raise ValueError(
            f"edges of shape {maps.shape} do not fit an image of {_by(leading + spatial)} pixels: expected "
            f"{spatial}" + (f" or {leading + spatial}" if leading else "") + ", one number for each pixel"
        )
    return _for_each_image(maps[..., None], "edges", leading, spatial, takes_part)[..., 0]


def _feature_maps(
    features: ArrayLike,
    leading: tuple[int, ...],
    spatial: tuple[int, ...],
    takes_part: NDArray[np.bool_] | None,
) -> Array:
    """Check features that come with an image, and return them for each, (images, *spatial, channels)."""
    maps = _validate.real_array(features, "features", _dispatch.backend(features=features).xp)
    if maps.shape[:-1] not in (spatial, leading + spatial) or maps.shape[-1] == 0:
        shapes = dict.fromkeys((spatial, leading + spatial))
        expected = " or ".join(f"({', '.join(map(str, shape))}, D)" for shape in shapes)
        raise ValueError(
            f"features of shape {maps.shape} do not fit an image of {_by(leading + spatial)} pixels: "
            f"expected {expected}, D numbers for each pixel"
        )
    return _for_each_image(maps, "features", leading, spatial, takes_part)


def _for_each_image(
    maps: Array,
    name: str,
    leading: tuple[int, ...],
    spatial: tuple[int, ...],
    takes_part: NDArray[np.bool_] | None,
) -> Array:
    """Return maps (leading or nothing, *spatial, C) as (images, *spatial, C), finite in the mask."""
    n_images, n_channels = math.prod(leading), maps.shape[-1]
    xp = _dispatch.backend(**{name: maps}).xp
    maps = xp.broadcast_to(maps, (*leading, *spatial, n_channels)).reshape(n_images, *spatial, n_channels)
    flat = maps.reshape(n_images, math.prod(spatial), n_channels)
    _validate.finite(flat, name, takes_part, _validate.BY_MASK)
    return maps


def _plain_image(edges: ArrayLike | None, shape: tuple[int, ...] | None = None) -> Array:
    """Return an image without any contrast, for edges that come without one."""
    if edges is None:
        raise TypeError("image must be an array, got None: only edges can take its place")
    xp = _dispatch.backend(edges=edges).xp
    plain: Array = xp.ones(_validate.as_array(edges, "edges", xp).shape if shape is None else shape, np.uint8)
    return plain


def _one_image(
    image: ArrayLike, channel_axis: Any, spatial_ndim: int, mask: ArrayLike | None
) -> tuple[Array, NDArray[np.bool_] | None]:
    """Check one image, and return it with its channels last, and its mask."""
    images = _images(image, channel_axis, spatial_ndim, mask, batches=False)
    if images.leading:
        raise ValueError(
            f"image of shape {np.shape(image)} has more than {spatial_ndim} spatial axes beside its "
            "channels: expected one image, not a batch"
        )
    one = next(images.each())
    return one.pixels, one.mask


def _window(shape: tuple[int, ...], reach: int, spacing: tuple[float, ...] | None) -> NDArray[np.intp]:
    """Return the flat steps in an array to the other pixels of a window.

    With a spacing, a window reaches so many of its units along each axis.
    """
    steps = [
        step
        for step in _edges.window_steps(len(shape), 2 * reach + 1)
        if spacing is None or all(abs(a) * unit <= reach for a, unit in zip(step, spacing, strict=True))
    ]
    return _edges.flat_steps(shape, steps)


MODES = ("local", "global", "global-local", "local-global", "parallel")


class _RefineOptions(TypedDict, total=False):
    """The options of `refine`, for its overloads."""

    mode: Literal["local", "global", "global-local", "local-global", "parallel"] | None
    iterations: int
    edges: ArrayLike | None
    features: ArrayLike | None
    class_axis: int | None
    channel_axis: int | Literal["auto"] | None
    spatial_ndim: int
    mask: ArrayLike | DaskArray | None
    convert2lab: bool | None
    workers: int | None


@overload
def refine(
    image: DaskArray, scores: ArrayLike | DaskArray, **options: Unpack[_RefineOptions]
) -> dask.array.Array: ...
@overload
def refine(image: ArrayLike, scores: DaskArray, **options: Unpack[_RefineOptions]) -> dask.array.Array: ...
@overload
def refine(image: ArrayLike, scores: ArrayLike, **options: Unpack[_RefineOptions]) -> Array: ...


@_dispatch.takes_dask  # type: ignore[misc]  # as above
@_arrays.takes_dlpack
def refine(
    image: ArrayLike,
    scores: ArrayLike,
    *,
    mode: Literal["local", "global", "global-local", "local-global", "parallel"] | None = None,
    iterations: int = 60,
    edges: ArrayLike | None = None,
    features: ArrayLike | None = None,
    class_axis: int | None = -1,
    channel_axis: int | Literal["auto"] | None = "auto",
    spatial_ndim: int = 2,
    mask: ArrayLike | None = None,
    convert2lab: bool | None = None,
    workers: int | None = None,
) -> Array:
    """Make soft class scores follow an image: those of a network, of CLIP, class activation maps.

    Parameters
    ----------
    image : array_like
        Bool, integer or float, at any scale (it is mapped from its own range to [0, 1]): spatial axes,
        optionally channels, optionally leading axes.
    scores : array_like of real numbers
        The image's leading axes, spatial axes, optionally classes. Scores of fewer pixels than the image are
        resampled to its shape first (linearly, pixels being areas): 14 x 14 or 32 x 32 for a square
        photograph, say. Their height to width is the image's, but for rounding to whole patches.
    mode : str or None
        Which propagation, as in the paper's Table 7: "local", "global", one after the other
        ("global-local", "local-global"), or the mean of both ("parallel"). None: "local", and with edges
        local propagation of the mean of the scores and of their global propagation.
    iterations : int
        Number of local steps, 5 x 5 each.
    edges : array_like, optional
        A map of boundaries, as for `propagate_labels`: of the image's spatial shape, or with its leading
        axes. The tree follows it rather than the image, and the local steps see it beside the colours.
    features : array_like, optional
        What else is known of each pixel, as for `propagate_labels`: of the image's spatial shape, or with its
        leading axes, and a last axis of D channels. They count as much as the colours, to the tree and to
        the local steps.
    class_axis : int or None
        Axis of the classes of `scores`; None: there is none. Scores without an axis for them have none.
    channel_axis : int, None or "auto"
        Axis of the channels of `image`; None: there is none. "auto": the last one, where there are more axes
        than `spatial_ndim`. An axis of more than 4 is not taken for channels unasked: the error names the
        readings.
    spatial_ndim : int
        Number of spatial axes (2: images, 3: volumes). Axes before them are a batch, each image of which is
        treated as if it came alone.
    mask : array_like of bool, optional
        True where a pixel takes part: of the image's spatial shape, or with its leading axes. NaN is allowed
        elsewhere, in the image and in the scores.
    convert2lab : bool or None
        As for `propagate_labels`.
    workers : int or None
        Threads (None: the CPUs this process may use). The result does not depend on it.

    Returns
    -------
    array of the image's spatial shape and the scores' classes, at `class_axis`
        float32 for scores of up to 16 bits and float32, float64 above. Propagation averages: scores that
        sum to 1 still do. Pixels that the mask leaves out keep their (resampled) scores.

    Raises
    ------
    TypeError
        An argument of the wrong kind, or arrays of more than one library.
    ValueError
        Shapes that do not fit: scores of more pixels than the image, or of other proportions; an unknown
        mode; NaN or inf.

    Notes
    -----
    O(N C k^d iterations) time for the local part, O(N C) for the global one: N pixels, C classes, windows of
    k = 5 pixels along d axes.

    zeta is chosen from the smoothed image: 1.5 root mean square steps between neighbours for the local part,
    a quarter of the median step of the spanning tree for the global one. With global propagation,
    wrong scores spread as far as right ones: it pays where scores are sparse, or errors small.

    A few steps far larger than those that matter make zeta too large, and small regions vanish: soft tissue
    in a CT scan with its air, for instance. Clip such an image first, as for a look at it.

    With `edges`, the tree's edges weigh the square of the map's larger end, from 0 where the map is lowest,
    and zeta^2 is 0.1 times their median (of those that are not 0, if that is). Few wrong scores then are
    outvoted within their outline. An outline that has a gap is none to the tree: by default, the scores
    themselves count as much as what it makes of them. The map is one more channel to the local steps, half as
    far apart between neighbours as the colours are.

    Scores that a network made of an image resized to other proportions (to a square, often) do not lie over
    the image as they are. Resize the scores to the image's shape first, or refine them on the resized image.

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023, Table 7.

    Examples
    --------
    >>> import numpy as np
    >>> import aproarray
    >>> image = np.zeros((8, 8))
    >>> image[:, 3:] = 1
    >>> coarse = np.array([[1.0, 0.0], [1.0, 0.0]])
    >>> (aproarray.refine(image, coarse)[0] > 0.5).tolist()
    [True, True, True, False, False, False, False, False]
    """
    xp = _dispatch.backend(image=image, scores=scores, edges=edges, features=features, mask=mask).xp
    if mode is not None:
        _validate.choice(mode, "mode", MODES)
    iterations = _validate.integer(iterations, "iterations", 0)
    images = _images(image, channel_axis, spatial_ndim, mask, edges, features)
    values = _validate.real_array(scores, "scores", xp)
    layout = scores_layout(values.shape, images, class_axis)
    flat = layout.flatten(values.astype(_validate.compute_dtype(values.dtype), copy=False))
    stack = flat.reshape(len(flat), *layout.spatial, layout.n_channels)
    if images.masks is None:
        _validate.finite(flat, "scores")
    shape = (*images.leading, *images.spatial, layout.n_channels)
    results: Array
    if 0 in shape:
        results = xp.empty(shape, flat.dtype)
    else:
        each = []
        for one, over in zip(stack, images.each(), strict=True):
            over_pixels = resampled(one, images.spatial, over.mask)
            each.append(_refined(over_pixels, over, convert2lab, mode, iterations, workers))
        results = (each[0] if len(each) == 1 else xp.stack(each)).reshape(shape)
    if layout.channel_axis is None:
        return results[..., 0]
    moved: Array = xp.moveaxis(results, -1, layout.channel_axis)
    return moved


def _refined(
    scores: Array,
    image: OneImage,
    convert2lab: bool | None,
    mode: str | None,
    iterations: int,
    workers: int | None,
) -> Array:
    """Return scores (..., C) of one image, propagated over its features."""
    takes_part = image.mask
    features, outliers = _relief.features_of(image.pixels, takes_part, convert2lab)
    if image.features is not None:
        others = _relief.smoothed_features(image.features, takes_part)
        features = _relief.beside(features, others, takes_part, outliers)
    ndim = features.ndim - 1
    boundaries = None if image.edges is None else _relief.edge_map(image.edges, takes_part)
    if boundaries is None:
        beside = features
    else:
        beside = _relief.beside(features, boundaries[..., None], takes_part, outliers, share=_EDGES_BESIDE)

    def local_part(scores: Array) -> Array:
        step = _relief.typical_step(beside, takes_part, outliers)
        return local_propagate(
            scores, beside, zeta=local_zeta(step), kernel_size=KERNEL_SIZE,
            iterations=iterations, mask=takes_part, channel_axis=-1, spatial_ndim=ndim, workers=workers,
        )  # fmt: skip

    def global_part(scores: Array) -> Array:
        if boundaries is not None:
            return _within_boundaries(scores, boundaries, takes_part, workers)
        tree = mst(features, channel_axis=-1, mask=takes_part, spatial_ndim=ndim, workers=workers)
        return global_propagate(scores, tree, zeta=_tree_zeta(tree), workers=workers)

    if mode is None and boundaries is not None:
        # An outline has gaps. Through one, an average is that of two objects: a place's own count, too.
        return local_part(scores / 2 + global_part(scores) / 2)
    if mode in (None, "local"):
        return local_part(scores)
    if mode == "global":
        return global_part(scores)
    if mode == "global-local":
        return local_part(global_part(scores))
    if mode == "local-global":
        return global_part(local_part(scores))
    return local_part(scores) / 2 + global_part(scores) / 2  # the sum of two numbers may overflow


def _within_boundaries(
    scores: Array,
    boundaries: NDArray[np.float32],
    takes_part: NDArray[np.bool_] | None,
    workers: int | None,
) -> Array:
    """Return scores (..., C) propagated over the tree whose edges weigh the higher end on a map, squared."""
    n, flat, xp = boundaries.size, boundaries.reshape(-1), _dispatch.backend(scores=scores).xp
    edges = _edges.ends(boundaries.shape, 1, takes_part, xp)
    tree = SpanningTree.from_edges(edges, flat[edges].max(-1) ** 2, n)
    rows = scores.reshape(n, scores.shape[-1])
    if takes_part is not None:  # which may be NaN elsewhere
        rows = xp.where(takes_part.reshape(-1, 1), rows, rows.dtype.type(0))
    zeta = math.sqrt(_EDGES_SHARE * typical) if (typical := _typical_weight(tree)) > 0 else 1.0
    found = global_propagate(rows, tree, zeta=zeta, workers=workers).reshape(scores.shape)
    if takes_part is not None:
        found = xp.where(takes_part[..., None], found, scores)
    return found


# Pixels along each axis of the window of local propagation.
KERNEL_SIZE = 2 * _RADIUS + 1


def local_zeta(step: float) -> float:
    """Return the zeta of local propagation over features, from their typical step."""
    return _REFINE_STEPS * step if step > 0 else 1.0


def scores_layout(shape: tuple[int, ...], images: Images, class_axis: Any) -> _validate.Layout:
    """Return where the axes of scores are; refuse those that do not lie over the images."""
    ndim = len(images.leading) + len(images.spatial)
    if class_axis is not None:
        class_axis = _validate.integer(class_axis, "class_axis")
        if not -len(shape) <= class_axis < max(len(shape), 1):
            raise ValueError(f"class_axis={class_axis} is not an axis of scores of shape {shape}")
    if len(shape) == ndim:
        class_axis = None
    if len(shape) != ndim + (class_axis is not None):
        raise ValueError(
            f"scores of shape {shape} do not fit an image of {_by(images.leading + images.spatial)} pixels: "
            f"expected {ndim} axes, and one of classes at class_axis"
        )
    layout = _validate.layout(shape, len(images.spatial), class_axis, "scores")
    if layout.leading != images.leading:
        raise ValueError(
            f"scores of shape {shape} with class_axis={class_axis} have leading axes {layout.leading}, "
            f"expected the image's {images.leading}{_other_class_axis(shape, images)}"
        )
    if (wrong := _wrong_extents(layout.spatial, images.spatial)) is not None:
        raise ValueError(
            f"scores of shape {shape} with class_axis={class_axis} are over {_by(layout.spatial)} pixels, "
            f"{wrong} the image's {_by(images.spatial)}"
            + (_other_class_axis(shape, images) or _how_to_resize(layout, images))
        )
    return layout


def _by(extents: tuple[int, ...]) -> str:
    return " x ".join(map(str, extents))


def _wrong_extents(extents: tuple[int, ...], image: tuple[int, ...]) -> str | None:
    """Return what is wrong with the extents of scores over an image; None: nothing is.

    A network sees whole patches of one size. The extents are those of the image over that size, give or take
    one.
    """
    if any(mine > its for mine, its in zip(extents, image, strict=True)):
        return "more than"
    if 0 in extents:
        return None if 0 in image else "too few for"
    smallest = max(its / (mine + 1) for mine, its in zip(extents, image, strict=True))
    largest = min(
        its / (mine - 1) if mine > 1 else math.inf for mine, its in zip(extents, image, strict=True)
    )
    return None if smallest <= largest else "and have another height to width than"


def _other_class_axis(shape: tuple[int, ...], images: Images) -> str:
    """Return a hint, where scores would fit with another class_axis."""
    if len(shape) == len(images.leading) + len(images.spatial) + 1:
        for axis in range(len(shape)):
            rest = _without(shape, axis)
            leading, extents = rest[: len(images.leading)], rest[len(images.leading) :]
            if leading == images.leading and _wrong_extents(extents, images.spatial) is None:
                return f"; pass class_axis={axis} if that is the axis of classes"
    return ""


def _how_to_resize(layout: _validate.Layout, images: Images) -> str:
    if any(mine > its for mine, its in zip(layout.spatial, images.spatial, strict=True)):
        return ". The image comes first, then scores of as many pixels or fewer"
    target = list(images.leading + images.spatial)
    if layout.channel_axis is not None:
        target.insert(layout.channel_axis, layout.n_channels)
    return (
        ". If a network saw the image in other proportions, resize its scores first: "
        f"skimage.transform.resize(scores, {tuple(target)})"
    )


def _tree_zeta(tree: SpanningTree) -> float:
    """Return a quarter of a tree's typical step, 1 if there is none."""
    return 0.25 * math.sqrt(typical) if (typical := _typical_weight(tree)) > 0 else 1.0


def _typical_weight(tree: SpanningTree) -> float:
    """Return the median weight of a tree's edges: of those that are not 0, if the median is; 0 of none."""
    xp = _dispatch.backend(gaps=tree.gaps).xp
    weights = tree.gaps[xp.isfinite(tree.gaps)]
    if not float(xp.median(weights)) > 0 if weights.size else True:
        weights = weights[weights > 0]
    return float(xp.median(weights)) if weights.size else 0.0


def _map_zeta(tree: SpanningTree, outliers: NDArray[np.bool_] | None = None) -> float:
    """Return twice the root mean square step of a tree's edges.

    An object's texture is below that, and its outline above. On photographs it is the root mean square step
    between all neighbours, of which a tree does not know. Edges that outliers reach do not count, unless
    there are no others.
    """
    counted = _dispatch.backend(gaps=tree.gaps).xp.isfinite(tree.gaps)
    if outliers is not None:
        ordinary = counted & ~_relief.blurred_with(outliers).reshape(-1)[tree.gap_edges].any(-1)
        counted = ordinary if ordinary.any() else counted
    weights = tree.gaps[counted]
    largest = float(weights.max()) if weights.size else 0.0
    # Shares of the largest: the sum of weights may be too large for their type.
    return 2 * math.sqrt(largest * float((weights / largest).mean(dtype=np.float64))) if largest > 0 else 1.0


def resampled(
    scores: Array,
    shape: tuple[int, ...],
    takes_part: NDArray[np.bool_] | None,
    within: tuple[slice, ...] | None = None,
) -> Array:
    """Return scores (..., C) on a grid of another shape, linearly, where pixels are areas.

    Scores that are NaN or inf take no part. They may only lie where the mask is False. `within` is the part
    of the grid that is wanted, and that the mask is of.
    """
    within = (slice(None),) * len(shape) if within is None else within
    xp = _dispatch.backend(scores=scores).xp
    finite = xp.asarray(xp.isfinite(scores).all(-1))
    if takes_part is None or finite.all():
        return _interpolated(scores, shape, within)
    positions = [_positions(*along) for along in zip(finite.shape, shape, within, strict=True)]
    nearest = finite
    for axis, along in enumerate(positions):
        nearest = xp.take(nearest, xp.asarray(along.round().astype(np.intp)), axis)
    bad = ~nearest & takes_part
    if bad.any():
        raise ValueError(
            f"scores must be finite where mask is True, but {int(xp.count_nonzero(bad))} of "
            f"{int(xp.count_nonzero(takes_part))} pixels there have NaN or inf"
        )
    if finite.shape == shape:
        return scores
    known = xp.where(finite[..., None], scores, scores.dtype.type(0))
    weight = _interpolated(finite[..., None].astype(scores.dtype), shape, within)
    found = _interpolated(known, shape, within)
    divided: Array = xp.where(
        weight > 0, found / xp.where(weight > 0, weight, weight.dtype.type(1)), found.dtype.type(np.nan)
    )
    return divided


def _positions(extent: int, wanted: int, within: slice) -> NDArray[np.float64]:
    """Return where the centres of `wanted` pixels lie among `extent` ones, along an axis of equal length."""
    at = (np.arange(wanted)[within] + 0.5) * (extent / wanted) - 0.5
    return np.asarray(np.clip(at, 0, extent - 1), np.float64)


def _interpolated(scores: Array, shape: tuple[int, ...], within: tuple[slice, ...]) -> Array:
    xp = _dispatch.backend(scores=scores).xp
    for axis, (extent, wanted) in enumerate(zip(scores.shape[:-1], shape, strict=True)):
        if extent == wanted:
            scores = scores[(slice(None),) * axis + (within[axis],)]
            continue
        at = _positions(extent, wanted, within[axis])
        below = at.astype(np.intp)
        above = np.minimum(below + 1, extent - 1)
        weight = xp.asarray((at - below).astype(scores.dtype)).reshape(-1, *(1,) * (scores.ndim - axis - 1))
        first, second = (xp.take(scores, xp.asarray(side), axis) for side in (below, above))
        scores = first * (1 - weight) + second * weight
    return scores


class _MapOptions(TypedDict, total=False):
    """The options of `affinity_map`, for its overloads."""

    kind: Literal["global", "local"]
    zeta: float | None
    iterations: int
    channel_axis: int | Literal["auto"] | None
    spatial_ndim: int
    mask: ArrayLike | DaskArray | None
    convert2lab: bool | None


_Pixel = int | Sequence[int] | NDArray[np.integer[Any]]


@overload
def affinity_map(image: DaskArray, pixel: _Pixel, **options: Unpack[_MapOptions]) -> dask.array.Array: ...
@overload
def affinity_map(image: ArrayLike, pixel: _Pixel, **options: Unpack[_MapOptions]) -> Array: ...


@_dispatch.takes_dask  # type: ignore[misc]  # as above
@_arrays.takes_dlpack
def affinity_map(
    image: ArrayLike,
    pixel: _Pixel,
    *,
    kind: Literal["global", "local"] = "global",
    zeta: float | None = None,
    iterations: int = 60,
    channel_axis: int | Literal["auto"] | None = "auto",
    spatial_ndim: int = 2,
    mask: ArrayLike | None = None,
    convert2lab: bool | None = None,
) -> Array:
    """Return how alike all pixels are to one pixel, as propagation sees it (the paper's Figure 3).

    `SpanningTree.affinity` does the same for a tree that is already there.

    Parameters
    ----------
    image : array_like
        One image, at any scale: spatial axes, optionally channels.
    pixel : int or sequence of int
        The pixel: its flat index, or its coordinates.
    kind : str
        "global": ``exp(-d / zeta^2)``, d being the largest edge weight on the tree's path to the pixel.
        "local": what reaches the others of a 1 at the pixel in `iterations` steps over 5 x 5 windows.
    zeta : float, optional
        Scale, above 0, of steps of the image's smoothed colours (CIELAB / 100, or channels mapped to [0, 1]).
        None: chosen from the image: twice the root mean square step of the tree's edges (global), or 1.5
        times that between neighbours (local).
    iterations : int
        Number of local steps.
    channel_axis : int, None or "auto"
        Axis of the channels of `image`; None: there is none. "auto": the last one, where there are more axes
        than `spatial_ndim`. An axis of more than 4 is not taken for channels unasked: the error names the
        readings.
    spatial_ndim : int
        Number of spatial axes (2: images, 3: volumes).
    mask : array_like of bool, optional
        True where a pixel takes part, of the spatial shape.
    convert2lab : bool or None
        As for `propagate_labels`.

    Returns
    -------
    float32 array of the spatial shape
        From 0 to 1. Global affinity is 1 at the pixel itself. A local map is divided by its largest number,
        which is near the pixel, where most neighbours are like it.

    Raises
    ------
    TypeError
        An argument of the wrong kind, a `SpanningTree` among them.
    ValueError
        An image without pixels, a pixel outside the image or the mask, an unknown kind, zeta not above 0,
        NaN or inf.

    Notes
    -----
    O(N C) time for the global map. The local one takes O(N k^d iterations), for windows of k = 5 pixels along
    d axes.

    References
    ----------
    .. [1] W. Li et al., "Label-efficient Segmentation via Affinity Propagation", NeurIPS 2023, Figure 3.

    Examples
    --------
    >>> import numpy as np
    >>> import aproarray
    >>> image = np.zeros((3, 6))
    >>> image[:, 3:] = 1
    >>> aproarray.affinity_map(image, (1, 0), zeta=0.4)[1].round().tolist()
    [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    """
    _validate.choice(kind, "kind", ("global", "local"))
    if zeta is not None:
        zeta = _validate.positive(zeta, "zeta")
    iterations = _validate.integer(iterations, "iterations", 0)
    if isinstance(image, SpanningTree):
        raise TypeError("image must be an array, got a SpanningTree, which has affinity(pixel, zeta) itself")
    xp = _dispatch.backend(image=image, mask=mask).xp
    pixels, takes_part = _one_image(image, channel_axis, spatial_ndim, mask)
    index = pixel_of(pixel, pixels.shape[:-1])
    if takes_part is not None and not takes_part[index]:
        raise ValueError(f"pixel {index} is not in the mask")
    features, outliers = _relief.features_of(pixels, takes_part, convert2lab)
    if kind == "global":
        tree = mst(features, channel_axis=-1, mask=takes_part, spatial_ndim=spatial_ndim)
        return tree.affinity(index, _map_zeta(tree, outliers) if zeta is None else zeta)
    if zeta is None:
        zeta = local_zeta(_relief.typical_step(features, takes_part, outliers))
    one: Array = xp.zeros(features.shape[:-1], np.float32)
    one[index] = 1
    spread = local_propagate(
        one, features, zeta=zeta, iterations=iterations, mask=takes_part, channel_axis=-1,
        spatial_ndim=spatial_ndim,
    )  # fmt: skip
    largest = spread.max()
    return spread / largest if largest > 0 else one


def pixel_of(pixel: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the coordinates of a pixel, which is given by them or by its flat index."""
    if 0 in shape:
        raise ValueError(f"image must have pixels to choose one of, got {_by(shape)}")
    if _validate.as_array(pixel, "pixel").ndim == 0:
        flat = _validate.integer(pixel, "pixel", 0, math.prod(shape) - 1)
        return tuple(map(int, np.unravel_index(flat, shape)))
    if len(pixel) != len(shape):
        raise ValueError(f"pixel must have one coordinate for each axis of {shape}, got {pixel}")
    return tuple(
        _validate.integer(coordinate, f"pixel[{axis}]", 0, extent - 1)
        for axis, (coordinate, extent) in enumerate(zip(pixel, shape, strict=True))
    )
