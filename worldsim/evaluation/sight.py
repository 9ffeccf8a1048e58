"""What the judges share: a small network on a few successive frames, trained on real ones alone, and its training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.tokenizer import to_model

SIDE = 64
"""Larger frames are averaged down to this height and width in pixels."""
PER_EPISODE = 32
"""Clips that are drawn from an episode, where there are episodes enough."""
WIDTH = 128
"""Numbers that ``Sight`` gives for a clip."""


class Sight(nn.Module):
    """Four strided convolutions and a linear layer on a clip of successive frames.

    Args:
        frames: Frames in a clip, K.
    """

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames
        widths = (3 * frames, 32, 48, 64, 64)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * widths[-1], WIDTH), nn.SiLU())

    def forward(self, clips: Tensor) -> Tensor:
        """Map ``(N, K, 3, H, W)`` in [-1, 1] to ``(N, 128)``."""
        x = clips.flatten(1, 2)  # (N, 3K, H, W)
        if max(x.shape[-2:]) > SIDE:
            x = F.interpolate(x, size=(SIDE, SIDE), mode="area")  # (N, 3K, 64, 64)
        y: Tensor = self.body(x)  # (N, 128)
        return y


def chosen_episodes(episodes: Sequence[int], count: int, generator: np.random.Generator) -> list[int]:
    """Choose episodes to draw ``count`` clips from, in their order."""
    wanted = min(len(episodes), -(-count // PER_EPISODE))
    return [episodes[i] for i in sorted(generator.choice(len(episodes), size=wanted, replace=False))] if wanted else []


def share_out(episodes: Sequence[int], count: int, *, seed: int) -> tuple[list[int], list[int]]:
    """Share episodes out: some to draw ``count`` clips from and to learn from, at most two thirds, and all others to judge by.

    What was learned from is read more surely than what was not, and what stays the same throughout an episode varies from one to the next
    alone: a real range is only as wide as it should be where it is told by many episodes that nothing was learned from. A single episode is
    used for both.
    """
    order = [episodes[i] for i in np.random.default_rng(seed).permutation(len(episodes))]
    own = min(-(-count // PER_EPISODE), max(1, len(order) * 2 // 3))
    return sorted(order[:own]), sorted(order[own:]) or sorted(order)


@torch.inference_mode()
def look(network: Callable[[Tensor], Tensor], clips: NDArray[np.uint8], *, batch: int = 256) -> NDArray[np.float32]:
    """Run a network on clips ``(N, K, H, W, 3)``, ``batch`` at a time: ``(N, ...)``."""
    parts = [network(to_model(torch.from_numpy(np.array(clips[i : i + batch])))) for i in range(0, len(clips), batch)]
    return torch.cat(parts).numpy().astype(np.float32)


def fit(
    network: nn.Module,
    loss: Callable[[NDArray[np.int64]], Tensor],
    count: int,
    *,
    steps: int,
    batch: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
) -> None:
    """Train in place with AdamW and a learning rate that rises over a tenth of the steps and falls to 0.

    Args:
        network: What is trained.
        loss: Maps row numbers ``(batch,)`` to the mean loss over them.
        count: Rows there are.
        steps: Optimiser steps.
        batch: Rows a step, drawn with replacement.
        lr: Highest learning rate.
        seed: For the order of rows.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        value = loss(torch.randint(count, (batch,), generator=generator).numpy())
        optimiser.zero_grad()
        torch.autograd.backward(value)
        optimiser.step()
        schedule.step()
    network.eval()
