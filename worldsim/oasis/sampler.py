"""The noise schedule of Oasis and its DDIM steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

STEPS = 1000
"""Noise steps that the model was trained with: 0 is clean, 999 is noise."""

CONTEXT_STEP = 14
"""What remembered frames are labelled as. No noise is added to them: the label alone tells the model not to trust them fully."""

MOST_NOISE = 20.0
"""Noise is clamped to this either way."""


@cache
def signal_shares() -> tuple[float, ...]:
    """Return the share of signal left at each of the 1000 steps, falling from 0.9997 to 3e-7.

    It is the sigmoid schedule from -3 to 3 (Jabri et al. 2022, section 3.1), normalised, with each step losing at most 0.999.
    """
    edge = 1 / (1 + np.exp(3.0))
    time = np.linspace(0.0, 1.0, STEPS + 1)
    kept = (1 / (1 + np.exp(time * 6 - 3)) - edge) / (1 - 2 * edge)  # (1001,)
    lost = np.clip(1 - kept[1:] / kept[:-1], 0.0, 0.999)
    return tuple(np.cumprod(1 - lost).tolist())


def ladder(steps: int) -> list[int]:
    """Return the ``steps`` noise steps that a frame goes through, highest first, evenly spread from 999 down.

    Raises:
        ValueError: ``steps`` is not in 1..1000.
    """
    if not 1 <= steps <= STEPS:
        raise ValueError(f"steps={steps} must be 1 to {STEPS} denoising steps a frame")
    return [int(level) for level in torch.linspace(-1, STEPS - 1, steps + 1)[1:].flip(0)]


def ddim(predict: Callable[[Tensor, int], Tensor], noise: Tensor, *, steps: int) -> Tensor:
    """Turn noise into latents by deterministic DDIM (Song et al. 2021, equation 12 with sigma 0) under v-prediction.

    Args:
        predict: ``(latents, i) -> v`` at the i-th step of ``ladder(steps)``.
        noise: Any shape.
        steps: Denoising steps.

    Returns:
        Clean latents of the same shape.
    """
    shares = signal_shares()
    levels = ladder(steps)
    x = noise.clamp(-MOST_NOISE, MOST_NOISE)
    for i, level in enumerate(levels):
        signal, v = shares[level], predict(x, i)
        clean: Tensor = signal**0.5 * x - (1 - signal) ** 0.5 * v
        if i == steps - 1:
            return clean
        spread = (1 - signal) ** 0.5 * x + signal**0.5 * v
        left = shares[levels[i + 1]]
        x = left**0.5 * clean + (1 - left) ** 0.5 * spread
    raise AssertionError("a ladder has at least one step")
