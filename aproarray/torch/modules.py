"""Propagation as layers: the functions of `functional`, with their options as constructor arguments."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from aproarray import _validate
from aproarray.torch import _tensors, functional
from aproarray.torch.functional import Tree


class _Zeta(nn.Module):
    """A zeta above 0: a constant, or learned as its logarithm."""

    def __init__(self, zeta: float, name: str, learnable: bool):
        super().__init__()
        self.constant = _validate.positive(zeta, name)
        if learnable and math.isinf(self.constant):
            raise ValueError(f"{name} must be finite to be learned, got {zeta}")
        self.logarithm = nn.Parameter(torch.tensor(math.log(self.constant))) if learnable else None

    def forward(self) -> float | Tensor:
        return self.constant if self.logarithm is None else self.logarithm.double().exp()

    def extra_repr(self) -> str:
        if self.logarithm is None:
            return f"{self.constant:g}"
        return f"{float(self.logarithm.detach().double().exp()):.4g}, learnable"


class GlobalPropagation(nn.Module):
    """`global_propagate` along the minimum spanning trees of images, once or twice in a row.

    Parameters
    ----------
    zeta : float
        Scale of the image's affinity, above 0 (paper: 0.01, for images normalised by the ImageNet mean and
        standard deviation; 0.0023 for images in [0, 1]).
    feature_zeta : float or None
        Scale of a second propagation, of the first one's result, whose weights come from `features`, or from
        the first result itself (paper: 0.07). In the latter case no gradient passes through the weights.
        None: there is no second one.
    learnable : bool
        Whether the scales are parameters. They are kept as logarithms, so that they stay above 0.
    connectivity : int
        Of the image's pixel graph: 1 (4 neighbours) or 2 (8).

    Examples
    --------
    >>> import torch
    >>> from aproarray.torch import GlobalPropagation
    >>> GlobalPropagation(zeta=0.01)(torch.rand(2, 21, 8, 9), torch.rand(2, 3, 8, 9)).shape
    torch.Size([2, 21, 8, 9])
    """

    def __init__(
        self,
        zeta: float = 0.01,
        *,
        feature_zeta: float | None = None,
        learnable: bool = False,
        connectivity: int = 1,
    ):
        super().__init__()
        self.zeta = _Zeta(zeta, "zeta", learnable)
        self.feature_zeta = None if feature_zeta is None else _Zeta(feature_zeta, "feature_zeta", learnable)
        self.connectivity = _validate.integer(connectivity, "connectivity", 1, 2)

    def forward(
        self,
        values: Tensor,
        image: Tensor | Tree,
        features: Tensor | None = None,
        tree_index: Tensor | None = None,
    ) -> Tensor:
        """Propagate values (B, C, H, W) along the trees of images (B, C', H, W), or along given ones.

        features (B, C'', H, W) weigh the trees in the second propagation, or in the only one. tree_index
        (K,) names the tree of each of K masks.
        """
        tree = image
        if not isinstance(tree, Tree):
            _tensors.check_tensor(tree, "image (or tree)")
            tree = functional.mst(tree.detach(), connectivity=self.connectivity)
        if self.feature_zeta is None:
            return functional.global_propagate(
                values, tree, zeta=self.zeta(), features=features, tree_index=tree_index
            )
        first = functional.global_propagate(values, tree, zeta=self.zeta(), tree_index=tree_index)
        return functional.global_propagate(
            first,
            tree,
            zeta=self.feature_zeta(),
            features=first.detach() if features is None else features,
            tree_index=tree_index,
        )

    def extra_repr(self) -> str:
        """Return the options that are no modules."""
        return f"connectivity={self.connectivity}"


class LocalPropagation(nn.Module):
    """`local_propagate` along the windows of images.

    Parameters
    ----------
    zeta : float
        Scale, above 0 (paper: 0.15, for images normalised by the ImageNet mean and standard deviation;
        0.034 for images in [0, 1]).
    kernel_size : int
        Pixels along each axis of the window, odd (paper: 5 for Pascal VOC, 3 for COCO).
    iterations : int
        Number of steps (paper: 20).
    learnable : bool
        Whether the scale is a parameter. It is kept as its logarithm, so that it stays above 0.

    Examples
    --------
    >>> import torch
    >>> from aproarray.torch import LocalPropagation
    >>> LocalPropagation(kernel_size=3)(torch.rand(2, 21, 8, 9), torch.rand(2, 3, 8, 9)).shape
    torch.Size([2, 21, 8, 9])
    """

    def __init__(
        self, zeta: float = 0.15, *, kernel_size: int = 5, iterations: int = 20, learnable: bool = False
    ):
        super().__init__()
        self.zeta = _Zeta(zeta, "zeta", learnable)
        self.kernel_size = _validate.odd(kernel_size, "kernel_size")
        self.iterations = _validate.integer(iterations, "iterations", 0)

    def forward(
        self,
        values: Tensor,
        image: Tensor,
        region: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> Tensor:
        """Propagate values (B, C, H, W) along images (B, C', H, W).

        region (B, 1, H, W), 0 outside: values are 0 there before and after every step, as the paper has it
        for box supervision. image_index (K,) names the image of each of K masks.
        """
        return functional.local_propagate(
            values,
            image,
            zeta=self.zeta(),
            kernel_size=self.kernel_size,
            iterations=self.iterations,
            region=region,
            image_index=image_index,
        )

    def extra_repr(self) -> str:
        """Return the options that are no modules."""
        return f"kernel_size={self.kernel_size}, iterations={self.iterations}"


class AffinityPropagation(nn.Module):
    """Global and local propagation together (the paper's Table 7).

    Parameters
    ----------
    mode : {"parallel", "global-local", "local-global"}
        Both side by side, two results (the best one for training, says the paper); or in cascade, where the
        second takes the first one's result.
    global_propagation, local_propagation : module, optional
        `GlobalPropagation` and `LocalPropagation` with the options that are wanted. None: the published
        ones, for images normalised by the ImageNet mean and standard deviation: GP twice in a row (zeta
        0.01, then 0.07 with its own result as features), LP with 20 steps of 5 x 5 and zeta 0.15.

    Examples
    --------
    >>> import torch
    >>> from aproarray.torch import AffinityPropagation
    >>> by_tree, by_window = AffinityPropagation()(torch.rand(2, 21, 8, 9), torch.rand(2, 3, 8, 9))
    >>> (cascaded,) = AffinityPropagation("global-local")(torch.rand(2, 21, 8, 9), torch.rand(2, 3, 8, 9))
    """

    MODES = ("parallel", "global-local", "local-global")

    def __init__(
        self,
        mode: Literal["parallel", "global-local", "local-global"] = "parallel",
        global_propagation: GlobalPropagation | None = None,
        local_propagation: LocalPropagation | None = None,
    ):
        super().__init__()
        if mode not in self.MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, self.MODES))}, got {mode!r}")
        self.mode = mode
        if global_propagation is None:
            global_propagation = GlobalPropagation(0.01, feature_zeta=0.07)
        if local_propagation is None:
            local_propagation = LocalPropagation()
        for name, given, other in (
            ("global_propagation", global_propagation, LocalPropagation),
            ("local_propagation", local_propagation, GlobalPropagation),
        ):
            if not callable(given) or isinstance(given, other):
                raise TypeError(f"{name} must be a module of that kind, got {given!r}")
        self.global_propagation = global_propagation
        self.local_propagation = local_propagation

    def forward(
        self,
        values: Tensor,
        image: Tensor,
        *,
        tree: Tree | None = None,
        region: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Propagate values (B, C, H, W) along images (B, C', H, W): one result, or two (GP's, LP's).

        tree: those of the images, where they are known already. region: see `LocalPropagation`. image_index
        (K,) names the image of each of K masks, and with it the tree.
        """

        def by_tree(values: Tensor) -> Tensor:
            result: Tensor = self.global_propagation(
                values, image if tree is None else tree, tree_index=image_index
            )
            return result

        def by_window(values: Tensor) -> Tensor:
            result: Tensor = self.local_propagation(values, image, region=region, image_index=image_index)
            return result

        if self.mode == "global-local":
            return (by_window(by_tree(values)),)
        if self.mode == "local-global":
            return (by_tree(by_window(values)),)
        return by_tree(values), by_window(values)

    def extra_repr(self) -> str:
        """Return the options that are no modules."""
        return f"mode={self.mode!r}"
