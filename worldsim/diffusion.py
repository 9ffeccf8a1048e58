"""The noise process: signal levels, corruption, and the weight of the loss at each level.

Latents travel on the straight line ``z_tau = tau z + (1 - tau) noise`` (rectified flow, Liu et al. 2023, equation 1) and the
network predicts the clean end z (x-prediction; Dreamer 4, Hafner et al. 2025, section 3.2, with a ramp weight).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALLEST_SHORTCUT = 0.25
"""Sampling steps below this size are plain diffusion: the network is asked for the mean."""


def draw_noise(seed: int, position: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """Draw standard normal noise of ``shape`` for frame ``position`` of a rollout, from its seed and that number alone.

    Less of it is the beginning of more: noise of shape ``(1, ...)`` is the first of ``(2, ...)``.
    """
    noise: NDArray[np.float32] = draw_noises([seed], [position], shape)[0]
    return noise


def draw_noises(seeds: Sequence[int], positions: Sequence[int], shape: Sequence[int]) -> NDArray[np.float32]:
    """Draw for each of B rows what ``draw_noise`` draws, ``(B, *shape)``."""
    noise = np.empty((len(seeds), *shape), np.float32)
    bits, fresh, draw = _SOURCE.bits, _SOURCE.fresh, _SOURCE.generator.standard_normal
    for key, out in zip(zip(seeds, positions, strict=True), noise, strict=True):
        fresh["state"]["key"] = key
        bits.state = fresh
        draw(dtype=np.float32, out=out)
    return noise


class _Source(threading.local):
    """A generator a thread, since to make one costs as much as to draw a frame; each draw sets all of its state first."""

    def __init__(self) -> None:
        self.bits: Any = np.random.Philox(key=0)
        self.generator = np.random.Generator(self.bits)
        plain = {"state": {"counter": (0,) * 4, "key": (0, 0)}, "buffer": (0,) * 4}  # read faster than arrays are
        self.fresh: dict[str, Any] = {**self.bits.state, **plain}


_SOURCE = _Source()


def corrupt(latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Bring clean latents ``(B, F, C, h, w)`` to signal levels ``(B, F)``."""
    tau = level[..., None, None, None].to(latents.dtype)  # (B, F, 1, 1, 1)
    return torch.lerp(noise, latents, tau)  # (B, F, C, h, w)


def ramp_weight(level: Tensor, floor: float) -> Tensor:
    """Weight of the squared error in clean latents at each level: ``floor`` at noise, rising evenly to 1 at clean.

    Dreamer 4 (equation 8) has a floor of 0.1, for many sampling steps; with one or two, the steps near noise do all the work
    and 1 is right.
    """
    return floor + (1 - floor) * level


def velocity_weight(level: Tensor, *, cap: float) -> Tensor:
    """Weight that turns the squared error in clean latents into that in velocities, ``1 / (1 - level) ** 2``, at most ``cap``.

    With ``z_tau = tau z + (1 - tau) noise`` an error e in z is one of ``e / (1 - tau)`` in the velocity ``z - noise``.
    """
    return (1 / (1 - level).clamp(min=cap**-0.5)).square()


def draw_context_levels(shape: tuple[int, int], generator: torch.Generator, *, forcing: float, lowest: float) -> Tensor:
    """Draw signal levels ``(B, F)`` for the frames that others look back at.

    A share ``forcing`` of the rows is diffusion forcing: every frame at its own level, uniform in [0, 1] (Chen et al. 2024,
    algorithm 1). The others are in the pattern of inference: one level a row, uniform in [lowest, 1], a fifth of them exactly 1.
    """
    b, f = shape
    own = torch.rand(b, f, generator=generator)  # (B, F)
    shared = lowest + (1 - lowest) * torch.rand(b, 1, generator=generator)  # (B, 1)
    shared = torch.where(torch.rand(b, 1, generator=generator) < 0.2, torch.ones(()), shared)  # (B, 1)
    return torch.where(torch.rand(b, 1, generator=generator) < forcing, own, shared)  # (B, F)


def draw_target_levels(shape: tuple[int, int], generator: torch.Generator, *, from_noise: float) -> Tensor:
    """Draw signal levels ``(B, F)`` for the frames to be imagined: 0 for a share ``from_noise``, else uniform in [0, 1]."""
    level = torch.rand(shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < from_noise, torch.zeros(()), level)  # (B, F)
