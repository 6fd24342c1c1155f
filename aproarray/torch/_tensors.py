"""Tensors as arguments: what they must be, how they are laid out flat, and the type they are computed in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from aproarray import _validate
from aproarray.torch import _ops


def check_tensor(tensor: Any, name: str) -> None:
    """Check that something is a dense tensor of real numbers, without a tangent."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got a {type(tensor).__name__}")
    strided = tensor.layout == torch.strided and not tensor.is_mkldnn and not tensor.is_nested
    if tensor.is_complex() or tensor.is_quantized or not strided:
        raise TypeError(
            f"{name} must be a dense tensor of real numbers, got one of {tensor.dtype}, {tensor.layout}"
        )
    # Custom operators drop tangents silently.
    if forward_ad.unpack_dual(tensor).tangent is not None:  # type: ignore[no-untyped-call]
        raise NotImplementedError(
            f"{name} has a tangent, but aproarray.torch has no forward-mode derivatives (torch.func.jvp, "
            "torch.autograd.forward_ad): use torch.autograd.grad"
        )


def check_floating(tensor: Any, name: str) -> None:
    """Check that something is a tensor as `check_tensor` has it, of floating point."""
    check_tensor(tensor, name)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got dtype {tensor.dtype}: pass {name}.float()")


def check_device(like: Tensor, **tensors: Tensor | None) -> None:
    """Check that tensors lie on one device; indices may also lie on the CPU."""
    for name, tensor in tensors.items():
        if tensor is None or not isinstance(tensor, Tensor) or tensor.device == like.device:
            continue
        if not name.endswith("_index"):
            where = ", ".join(f"{n} on {t.device}" for n, t in tensors.items() if isinstance(t, Tensor))
            raise TypeError(f"all tensors of one call must be on one device, but got {where}")


WIDE = torch.float32, torch.float64


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in the float type to compute in."""
    return tensor.to(compute_dtype(tensor))


def wide_image(image: Tensor, spatial_ndim: int = 2) -> Tensor:
    """Return an image, of which only differences count, in the float type to compute in.

    64-bit integers that float64 does not hold are taken less the smallest number of their channel, where that
    makes differences exact: up to a range of 2^53. `_validate.as_floats` does the same for arrays.
    """
    if image.dtype not in (torch.int64, torch.uint64) or image.numel() == 0:
        return wide(image)
    signed = image
    if image.dtype == torch.uint64:  # torch finds no extremes of these: 2^63 less is the same differences
        signed = image.view(torch.int64) ^ torch.iinfo(torch.int64).min
    pixels = tuple(range(image.ndim - spatial_ndim, image.ndim))
    low = signed.amin(pixels, keepdim=True)
    range_ = signed.amax(pixels, keepdim=True) - low  # modulo 2^64: below 0 where it is 2^63 or more
    exact = (range_ >= 0) & (range_ <= 2**53)
    return torch.where(exact, wide(signed - low), wide(image))


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b in their own type, whatever autocast has for such products."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the float type to compute in, as `_validate.compute_dtype` does, for bfloat16 too."""
    narrow = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.float16, torch.bfloat16, torch.float32)
    return torch.float32 if tensor.dtype in narrow else torch.float64


def spatial_shape(tensor: Tensor, name: str, spatial_ndim: int) -> tuple[int, ...]:
    """Return the spatial shape of (B, C, ...) or (C, ...)."""
    if tensor.ndim not in (spatial_ndim + 1, spatial_ndim + 2):
        raise ValueError(
            f"{name} must have {spatial_ndim + 2} axes (batch, channels, {spatial_ndim} spatial ones), or "
            f"one less for a single {name}, got shape {tuple(tensor.shape)}"
        )
    return tuple(tensor.shape[-spatial_ndim:])


def flatten(tensor: Tensor, spatial_ndim: int) -> Tensor:
    """Return (B, C, N), B = 1 where there is no batch."""
    return (tensor if tensor.ndim == spatial_ndim + 2 else tensor[None]).flatten(2)


def fitting(tensor: Tensor, owners: Sequence[int], shape: tuple[int, ...], name: str, what: str) -> Tensor:
    """Check that a tensor has the shape owners + (C,) + shape, and return it."""
    n = len(owners)
    if tensor.ndim != n + 1 + len(shape) or (*tensor.shape[:n], *tensor.shape[n + 1 :]) != (*owners, *shape):
        expected = ", ".join(map(str, (*owners, "channels", *shape)))
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, which does not fit {what} of shape {shape}: "
            f"expected ({expected})"
        )
    return tensor


def masks(mask: Tensor | None, image: Tensor, shape: tuple[int, ...], name: str) -> Tensor | None:
    """Return a mask as (B or 1, N)."""
    if mask is None:
        return None
    check_tensor(mask, name)
    if mask.dtype != torch.bool:
        raise TypeError(f"{name} must be boolean (True: the pixel takes part), got dtype {mask.dtype}")
    batch = (image.shape[0], *shape)
    if tuple(mask.shape) not in (shape, batch):
        raise ValueError(f"{name} of shape {tuple(mask.shape)} does not fit: expected {shape} or {batch}")
    return mask.reshape(-1, math.prod(shape))


def indices(index: Any, stop: int, name: str) -> Tensor:
    """Return the numbers (K,) of images or trees as int64, after a look whether all are in [0, stop)."""
    try:
        result = torch.as_tensor(index, dtype=torch.int64 if isinstance(index, list) and not index else None)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a (K,) tensor of integers, got {index!r}") from error
    integers = torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8
    if result.ndim != 1 or result.dtype not in integers:
        raise TypeError(
            f"{name} must be a (K,) tensor of integers up to int64, got {result.dtype} {tuple(result.shape)}"
        )
    return _ops.checked_index(result, stop, name)


def scale(zeta: Any) -> Tensor:
    """Return zeta as a tensor of no axes."""
    if not isinstance(zeta, Tensor):
        return torch.tensor(_validate.positive(zeta, "zeta"), dtype=torch.float64)
    return one_number(zeta, "zeta")


def one_number(value: Any, name: str) -> Tensor:
    """Return a number, or a tensor of one, as a tensor of no axes."""
    if not isinstance(value, Tensor):
        number = _validate.real_number(value, name)
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number}")
        return torch.tensor(number, dtype=torch.float64)
    check_tensor(value, name)
    if value.numel() != 1 or not value.is_floating_point():
        raise ValueError(f"{name} must be one floating-point number, got {value.dtype} {tuple(value.shape)}")
    return value.reshape(())


def look_at_shares(
    shares: Tensor,
    name: str,
    advice: str = "pass logits.softmax(1) of classes or logits.sigmoid() of masks, not logits",
) -> Tensor:
    """Return 0, to be added to a result, after a look whether shares are in [0, 1] (on a device: none)."""
    return _ops.checked_shares(shares.detach(), name, advice)


def mean(losses: Tensor) -> Tensor:
    """Return the mean of losses (K,), and 0 of none."""
    return losses.sum() / max(losses.numel(), 1)
