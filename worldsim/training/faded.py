"""Contexts as they look after a long rollout: faded, or in colours that are not the scene's own, to be put right by the anchor."""

from __future__ import annotations

import torch
from torch import Tensor

FARTHEST = 0.5
"""Largest share of the way to another clip's colours, and of contrast that is lost."""


def draw_fading(rows: int, generator: torch.Generator, *, share: float) -> Tensor:
    """Draw how each of B rows is faded, ``(B, 2)``: share of the way to other colours, and of contrast lost, 0 for most where share is low.

    Args:
        rows: B.
        generator: Source of randomness.
        share: Of rows that are faded at all.
    """
    chosen = torch.rand(rows, 1, generator=generator) < share
    return torch.rand(rows, 2, generator=generator) * FARTHEST * chosen  # (B, 2)


def fade(latents: Tensor, strength: Tensor) -> Tensor:
    """Fade clips ``(B, F, C, h, w)`` by ``(B, 2)``: towards the mean latent of the clip before in the batch, and towards their own."""
    turned, lost = strength[..., None, None, None, None].unbind(1)  # each (B, 1, 1, 1, 1)
    mean = latents.mean((3, 4), keepdim=True)  # (B, F, C, 1, 1)
    whole = mean.mean(1, keepdim=True)  # (B, 1, C, 1, 1)
    return latents + (mean - latents) * lost + (whole.roll(1, 0) - whole) * turned  # (B, F, C, h, w)
