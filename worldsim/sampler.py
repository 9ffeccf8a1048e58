"""Samplers: from noise to clean latents by a few calls of a denoiser; they know nothing of networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, int], Tensor]
"""``(latents at the signal level of a step, number of the step) -> estimate of the clean latents``."""


def levels(steps: int) -> list[float]:
    """Return the signal level that each step of ``euler`` starts from."""
    return [i / steps for i in range(steps)]


def euler(denoise: Denoiser, noise: Tensor, *, steps: int) -> Tensor:
    """Walk the straight path from noise to data in ``steps`` even Euler steps (Liu et al. 2023, algorithm 1).

    With a clean estimate x the velocity at signal level tau is ``(x - z) / (1 - tau)``, so a step goes ``1 / (steps left)`` of the way
    to x, and the last one all of it.
    """
    z = noise
    for i in range(steps - 1):
        z = torch.lerp(z, denoise(z, i), 1 / (steps - i))
    return denoise(z, steps - 1)
