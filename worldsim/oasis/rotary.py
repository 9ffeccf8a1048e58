"""Rotary positions as Oasis has them: neighbouring numbers are a pair, and space uses pixel frequencies on both axes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Angles(NamedTuple):
    """Cosine and sine of rotary angles, one a pair of numbers."""

    cos: Tensor
    sin: Tensor


class Frequencies(nn.Module):
    """Holder of rotary frequencies; one is shared by all blocks, so that the state dict names it once a block."""

    freqs: Tensor

    def __init__(self, freqs: Tensor) -> None:
        super().__init__()
        self.register_buffer("freqs", freqs)


def pixel_frequencies(count: int, highest: float) -> Tensor:
    """Return ``(count,)`` frequencies that rise evenly from pi to ``highest * pi / 2``."""
    return torch.linspace(1.0, highest / 2, count) * math.pi


def time_frequencies(count: int) -> Tensor:
    """Return ``(count,)`` frequencies ``10000^(-i / count)`` (Su et al. 2021, section 3.2.2)."""
    return 10000.0 ** (-torch.arange(count, dtype=torch.float32) / count)


def grid_angles(freqs: Tensor, grid: tuple[int, int]) -> Angles:
    """Return angles ``(rows * columns, 2 * count)`` for tokens on a grid whose axes run from -1 to 1: rows first, then columns.

    The highest frequencies turn hundreds of radians, so these are kept in float32 whatever the model's type.
    """
    freqs = freqs.float()
    down, across = (torch.linspace(-1.0, 1.0, size, device=freqs.device)[:, None] * freqs for size in grid)  # each (size, count)
    rows, columns = grid
    both = torch.cat((down[:, None].expand(-1, columns, -1), across[None].expand(rows, -1, -1)), dim=-1)  # (rows, columns, 2*count)
    angles = both.flatten(0, 1)  # (rows*columns, 2*count)
    return Angles(angles.cos(), angles.sin())


def time_angles(freqs: Tensor, positions: Tensor) -> Angles:
    """Return angles ``(T, count)`` at absolute frame numbers ``(T,)``, computed in float64: there is no table that ends."""
    angles = positions.to(torch.float64)[:, None] * freqs.to(torch.float64)  # (T, count)
    return Angles(angles.cos().float(), angles.sin().float())


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Rotate the first ``2 * count`` numbers of the last axis of ``x``, pair by pair; the rest and the shape stay.

    Args:
        x: ``(..., d)``.
        angles: Each ``(..., count)``, broadcast against ``x``, with ``2 * count <= d``.
    """
    cos, sin = angles.cos.to(x.dtype), angles.sin.to(x.dtype)
    turned = 2 * cos.shape[-1]
    a, b = x[..., :turned].reshape(*x.shape[:-1], turned // 2, 2).unbind(-1)  # each (..., count)
    pairs = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)  # (..., 2*count)
    return pairs if turned == x.shape[-1] else torch.cat((pairs, x[..., turned:]), dim=-1)  # (..., d)
