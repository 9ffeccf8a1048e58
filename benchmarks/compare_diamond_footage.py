"""What contestants share: the recorded data in memory, the clock they are trained against, and how long a step takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from worldsim.spaces import to_features
from worldsim.types import EpisodeStore

WAYS = {"fp32": (False, False), "bf16": (True, False), "bf16+compile": (True, True)}
"""Name to (bf16, compiled)."""


@dataclass(frozen=True)
class Footage:
    """The recorded data in memory.

    Attributes:
        frames: ``(frames, H, W, 3)``.
        actions: ``(frames, A)`` features of the action taken at each frame; zeros at the last of an episode.
        starts: ``(episodes + 1,)`` frame numbers where episodes start, and the total.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    starts: NDArray[np.int64]

    @staticmethod
    def load(store: EpisodeStore, split: str) -> Footage:
        """Read all episodes of a split."""
        frames, actions, starts = list[NDArray[np.uint8]](), list[NDArray[np.float32]](), [0]
        for episode in (store[i] for i in store.split(split)):
            taken = to_features(store.info.action_space, episode.actions)
            frames.append(episode.frames)
            actions.append(np.concatenate((taken, np.zeros_like(taken[:1]))))
            starts.append(starts[-1] + len(episode.frames))
        return Footage(np.concatenate(frames), np.concatenate(actions), np.array(starts))

    def clips(self, batch: int, length: int, generator: torch.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Draw frames ``(batch, length, H, W, 3)`` and actions ``(batch, length, A)``, evenly over all places, inside episodes."""
        room = np.maximum(np.diff(self.starts) - length + 1, 0)
        ends = np.cumsum(room)
        picks = torch.randint(int(ends[-1]), (batch,), generator=generator).numpy()
        episodes = np.searchsorted(ends, picks, side="right")
        rows = (self.starts[episodes] + picks - (ends[episodes] - room[episodes]))[:, None] + np.arange(length)
        return self.frames[rows], self.actions[rows]


class Clock:
    """Seconds that a contestant has trained, over all its runs; a run that is killed loses what came after its last state."""

    def __init__(self, file: Path, now: Callable[[], float]) -> None:
        self.file, self.now = file, now
        self.kept: float = json.loads(file.read_text())["seconds"] if file.exists() else 0.0
        self.since: float | None = None

    @property
    def used(self) -> float:
        """Seconds used, those of the present stretch among them."""
        return self.kept + (0.0 if self.since is None else self.now() - self.since)

    def start(self) -> None:
        """Begin a stretch."""
        self.since = self.now()

    def stop(self, **told: Any) -> None:
        """End a stretch and write down what it took."""
        self.kept, self.since = self.used, None
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps({"seconds": self.kept, **told}) + "\n", encoding="utf-8")
        part.replace(self.file)


@dataclass(frozen=True)
class Settings:
    """What all contestants are given: footage to train on, held-out frames, device, seconds, seed, and a folder each."""

    store: EpisodeStore
    footage: Footage
    heldout: NDArray[np.uint8]
    data: Path
    device: torch.device
    now: Callable[[], float]
    budget: float
    seed: int
    work: Path


def median_seconds(step: Callable[[int], object], count: int, now: Callable[[], float]) -> float:
    """Return the median seconds of ``count`` calls after two that do not count: they compile and warm up."""
    taken = []
    for i in range(count + 2):
        since = now()
        step(i)
        taken.append(now() - since)
    return float(np.median(taken[2:]))


def forward_backward(module: nn.Module, bf16: bool, compiled: bool, device: torch.device) -> Callable[[Any], None]:
    """Return what does the costly part of a training step of ``module``, whose forward gives (loss, logs)."""
    call: Any = torch.compile(module) if compiled else module

    def run(batch: Any) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = call(batch)[0]
        loss.backward()
        module.zero_grad()

    return run
