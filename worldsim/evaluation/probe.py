"""Probe: a small network, trained on real frames alone, that reads labelled state from frames, real or imagined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.evaluation.sight import WIDTH, Sight, chosen_episodes, fit, look
from worldsim.tokenizer import to_model
from worldsim.types import EpisodeStore


@dataclass(frozen=True)
class Readable:
    """Pairs of successive frames, and the labelled state of the later one.

    Attributes:
        frames: ``(N, 2, H, W, 3)`` uint8.
        state: ``(N, S)`` float32 in physical units.
    """

    frames: NDArray[np.uint8]
    state: NDArray[np.float32]


def draw_pairs(store: EpisodeStore, split: str, count: int, *, seed: int = 0, among: Sequence[int] | None = None) -> Readable:
    """Draw about ``count`` pairs of successive frames from episodes spread over a split, or from all of ``among``.

    Raises:
        ValueError: The split has no episode of two frames.
    """
    generator = np.random.default_rng(seed)
    chosen = chosen_episodes(store.split(split), count, generator) if among is None else sorted(among)
    frames, state = list[NDArray[np.uint8]](), list[NDArray[np.float32]]()
    for i in chosen:
        episode = store[i]
        rows = generator.choice(len(episode), size=min(len(episode), -(-count // len(chosen))), replace=False)
        frames.append(np.stack((episode.frames[rows], episode.frames[rows + 1]), axis=1))
        state.append(episode.state[rows + 1])
    if not frames:
        raise ValueError(
            f"split {split!r} has no episodes to train the probe on: record more, or set protocol.pairs=0 to leave the probe out"
        )
    return Readable(np.concatenate(frames), np.concatenate(state))


class Probe(nn.Module):
    """``Sight`` on a pair of frames, and a linear layer to the labelled state of the later one.

    Args:
        mean: ``(S,)`` mean of the labels it learns.
        std: ``(S,)`` their standard deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: NDArray[np.float32], std: NDArray[np.float32]) -> None:
        super().__init__()
        self.sight = Sight(2)
        self.head = nn.Linear(WIDTH, len(mean))
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("std", torch.from_numpy(std))

    def forward(self, pairs: Tensor) -> Tensor:
        """Map ``(N, 2, 3, H, W)`` in [-1, 1] to standardised state ``(N, S)``."""
        y: Tensor = self.head(self.sight(pairs))  # (N, S)
        return y

    def read(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Read the state ``(N, S)`` in physical units of the later frame of each pair ``(N, 2, H, W, 3)``."""
        return self.named(look(self.sight, frames))

    @torch.inference_mode()
    def named(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Read the state ``(N, S)`` in physical units from what ``sight`` gives, ``(N, 128)``."""
        read: NDArray[np.float32] = (self.head(torch.from_numpy(features)) * self.std + self.mean).numpy()
        return read


def train_probe(data: Readable, *, steps: int = 1000, batch: int = 64, lr: float = 2e-3, seed: int = 0) -> Probe:
    """Train a probe on real frames; the same data and seed give the same probe.

    Args:
        data: What to learn from.
        steps: Optimiser steps; about 0.05 s each on one CPU core at 64x64.
        batch: Pairs a step.
        lr: Highest learning rate; it rises over a tenth of the steps and falls to 0.
        seed: For weights and order.
    """
    mean, std = data.state.mean(0), np.maximum(data.state.std(0), 1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = Probe(mean.astype(np.float32), std.astype(np.float32))
    labels = torch.from_numpy((data.state - mean) / std).float()  # (N, S)

    def loss(rows: NDArray[np.int64]) -> Tensor:
        return F.smooth_l1_loss(probe(to_model(torch.from_numpy(data.frames[rows]))), labels[torch.from_numpy(rows)])

    fit(probe, loss, len(labels), steps=steps, batch=batch, lr=lr, seed=seed)
    return probe


def pairs_at(step: int, last: NDArray[np.uint8], frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return frame ``step`` (1 is the first) of N rollouts behind the one before it, ``(N, 2, H, W, 3)``.

    Args:
        step: 1 to T.
        last: Last context frames ``(N, H, W, 3)``, which come before step 1.
        frames: ``(N, T, H, W, 3)``.
    """
    before = last if step == 1 else frames[:, step - 2]
    return np.stack((before, frames[:, step - 1]), axis=1)


def columns(names: Sequence[str], of: Sequence[str]) -> list[int]:
    """Return the places of ``names`` in ``of``."""
    return [list(of).index(name) for name in names]
