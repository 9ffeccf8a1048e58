"""Inverse dynamics: a small network, trained on real clips alone, that tells which action was taken between two frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.evaluation.action_parts import Part, parts_of
from worldsim.evaluation.openloop import Segment
from worldsim.evaluation.sight import WIDTH, Sight, chosen_episodes, fit, look
from worldsim.tokenizer import to_model
from worldsim.types import EpisodeStore

BEFORE, AFTER = 1, 2
"""Frames of a clip before the frame in which the action is taken, and after it: what has a mass shows an action late."""
CLIP = BEFORE + 1 + AFTER
_HEAVIEST = 10.0  # most that a rare class counts over a common one in training
_FEWEST = 10  # a class that is true more rarely than this is not scored


@dataclass(frozen=True)
class Clips:
    """Clips of frames ``(N, CLIP, H, W, 3)`` uint8, and the action row ``(N, A)`` taken in frame ``BEFORE`` of each."""

    frames: NDArray[np.uint8]
    actions: NDArray[Any]


def draw_clips(store: EpisodeStore, split: str, count: int, *, seed: int = 0, among: Sequence[int] | None = None) -> Clips:
    """Draw about ``count`` clips from episodes spread over a split, or from all of ``among``.

    Raises:
        ValueError: The split has no episode of ``CLIP`` frames.
    """
    generator = np.random.default_rng((seed, 1))
    chosen = chosen_episodes(store.split(split), count, generator) if among is None else sorted(among)
    frames, actions = list[NDArray[np.uint8]](), list[NDArray[Any]]()
    for i in chosen:
        episode = store[i]
        room = len(episode) + 1 - CLIP
        if room >= 0:
            rows = BEFORE + generator.choice(room + 1, size=min(room + 1, -(-count // len(chosen))), replace=False)
            frames.append(np.stack([episode.frames[rows + k] for k in range(-BEFORE, AFTER + 1)], axis=1))
            actions.append(episode.actions[rows])
    if not frames:
        raise ValueError(f"split {split!r} has no episode of {CLIP} frames to learn actions from: record more, or set fidelity=null")
    return Clips(np.concatenate(frames), np.concatenate(actions))


def clips_at(steps: Sequence[int], segments: Sequence[Segment], frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the clips round the actions of the given steps (1 is the first), ``(N, len(steps), CLIP, H, W, 3)``.

    Args:
        steps: 1 to T + 1 - AFTER.
        segments: N segments, whose context gives the frames before the first step.
        frames: ``(N, T, H, W, 3)`` real or imagined frames after it.
    """
    first = np.stack([segment.context.frames[[-min(k, len(segment.context.frames)) for k in (2, 1)]] for segment in segments])
    whole = np.concatenate((first, frames), axis=1)  # frame t of it leads, two on, to what step t + 1 made
    return np.stack([whole[:, step - BEFORE : step - BEFORE + CLIP] for step in steps], axis=1)


@dataclass(frozen=True)
class Told:
    """What the network tells of N actions with P parts.

    Attributes:
        classes: ``(N, P)`` the likeliest class of each part.
        numbers: ``(N, P)`` the number, standardised; NaN for a choice.
    """

    classes: NDArray[np.int64]
    numbers: NDArray[np.float32]


class Inverse(nn.Module):
    """``Sight`` on a clip; for every part of the action the odds of its classes, and for a number also the number.

    Args:
        parts: What is told.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.sight = Sight(CLIP)
        self.sizes = [part.classes for part in parts] + [1] * sum(part.is_number for part in parts)
        self.head = nn.Linear(WIDTH, sum(self.sizes))

    def forward(self, clips: Tensor) -> Tensor:
        """Map ``(N, K, 3, H, W)`` in [-1, 1] to the odds of all classes and then the numbers, ``(N, sum(sizes))``."""
        y: Tensor = self.head(self.sight(clips))  # (N, sum(sizes))
        return y

    def tell(self, clips: NDArray[np.uint8]) -> Told:
        """Tell the actions of clips ``(N, CLIP, H, W, 3)``."""
        pieces = np.split(look(self, clips), np.cumsum(self.sizes)[:-1], axis=1)
        classes = np.stack([piece.argmax(1) for piece in pieces[: len(self.parts)]], axis=1)
        numbers, values = np.full(classes.shape, np.nan, np.float32), iter(pieces[len(self.parts) :])
        for p, part in enumerate(self.parts):
            if part.is_number:
                numbers[:, p] = next(values)[:, 0]
        return Told(classes, numbers)


def train_inverse(data: Clips, space: Space[Any], *, steps: int = 1000, batch: int = 64, lr: float = 2e-3, seed: int = 0) -> Inverse:
    """Train on real clips; the same data and seed give the same network.

    The loss is the mean over parts of cross-entropy, in which rare classes count more, and of a smooth L1 loss for numbers.

    Args:
        data: What to learn from.
        space: The action space that its rows are of.
        steps: Optimiser steps.
        batch: Clips a step.
        lr: Highest learning rate.
        seed: For weights and order.

    Raises:
        ValueError: No part of the actions varies.
    """
    parts = parts_of(space, data.actions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Inverse(parts)
    labels = [torch.from_numpy(part.label(data.actions)) for part in parts]
    weights = [_weights(label, part.classes) for label, part in zip(labels, parts, strict=True)]
    numbers = [torch.from_numpy(part.number(data.actions)) for part in parts if part.is_number]

    def loss(rows: NDArray[np.int64]) -> Tensor:
        index = torch.from_numpy(rows)
        pieces = network(to_model(torch.from_numpy(data.frames[rows]))).split(network.sizes, dim=1)
        chosen = [F.cross_entropy(piece, label[index], weight=w) for piece, label, w in zip(pieces, labels, weights, strict=False)]
        near = [F.smooth_l1_loss(piece[:, 0], number[index]) for piece, number in zip(pieces[len(parts) :], numbers, strict=True)]
        return torch.stack([*chosen, *near]).mean()

    fit(network, loss, len(data.actions), steps=steps, batch=batch, lr=lr, seed=seed)
    return network


def _weights(labels: Tensor, classes: int) -> Tensor:
    """Weigh classes by one over how often they occur, none more than ``_HEAVIEST`` times the commonest."""
    counts = torch.bincount(labels, minlength=classes).float()
    return (counts.max() / counts.clamp(min=1)).clamp(max=_HEAVIEST)


def accuracy(truth: NDArray[np.int64], told: NDArray[np.int64]) -> float | None:
    """Return the balanced accuracy: the mean over the true classes of the share of them that is told; guessing gives one over their number.

    Classes that are true fewer than ten times do not count; None where fewer than two are left.
    """
    kept = [k for k in np.unique(truth) if (truth == k).sum() >= _FEWEST]
    return float(np.mean([(told[truth == k] == k).mean() for k in kept])) if len(kept) > 1 else None
