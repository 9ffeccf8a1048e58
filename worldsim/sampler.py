"""Samplers: from noise to clean latents by a few calls of a denoiser; they know nothing of networks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Denoiser = Callable[[Tensor, float], Tensor]
"""``(latents at signal level tau, tau) -> estimate of the clean latents``."""


def euler(denoise: Denoiser, noise: Tensor, *, steps: int) -> Tensor:
    """Walk the straight path from noise to data in ``steps`` even Euler steps (Liu et al. 2023, algorithm 1).

    With a clean estimate x the velocity at signal level tau is ``(x - z) / (1 - tau)``.
    """
    z = noise
    for i in range(steps):
        tau = i / steps
        z = z + (denoise(z, tau) - z) * (1 / steps / (1 - tau))
    return z
