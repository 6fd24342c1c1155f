"""Local propagation as training code in torch writes it, with Unfold, on one thread."""

from __future__ import annotations

import torch
from torch.nn.functional import unfold

torch.set_num_threads(1)


def local_propagate(
    values: torch.Tensor,
    image: torch.Tensor,
    zeta: float,
    kernel_size: int,
    iterations: int,
    at_once: int,
    boxes: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """Propagate values (V, 1, H, W) along one image (1, C, H, W), unfolding `at_once` of them together.

    The affinities are computed once, already divided by their sums, and shared by all values. Values are
    multiplied by boxes (V, 1, H, W) before and after every iteration.
    """
    radius = kernel_size // 2
    pixels = image.shape[2] * image.shape[3]
    windows = unfold(image, kernel_size, padding=radius).view(image.shape[1], -1, pixels)
    distances = (windows - image.view(-1, 1, pixels)).square_().sum(0)
    affinity = distances.mul_(-1 / zeta**2).exp_()
    affinity *= unfold(torch.ones_like(image[:, :1]), kernel_size, padding=radius)[0]  # 0 outside
    affinity /= affinity.sum(0)
    batches = []
    boxes = torch.as_tensor(boxes).expand_as(values)
    for batch, inside in zip((values * boxes).split(at_once), boxes.split(at_once), strict=True):
        for _ in range(iterations):
            windows = unfold(batch, kernel_size, padding=radius)
            batch = windows.mul_(affinity).sum(1).view_as(batch).mul_(inside)
        batches.append(batch)
    return torch.cat(batches)
