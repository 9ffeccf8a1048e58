"""Clips that go on where those of the step before ended, on the network's own frames: rollouts as long as wanted, a clip a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.clips import Clip, LatentEpisodes


@dataclass(frozen=True)
class _Stretch:
    """Clips drawn last, each ``(b,)``: episodes, first frame numbers, and how many frames those are from real ones."""

    episodes: NDArray[np.int64]
    first: NDArray[np.int64]
    age: NDArray[np.int64]


class OwnFrames:
    """Draws clips whose last rows go on from the network's own frames.

    Args:
        episodes: What is drawn from.
        skip: First frames of a clip, which are looked back at alone.
        ahead: Frames by which a clip goes on from the one before.
        depth: Frames of a rollout, after which, as at the end of an episode, another begins on real ones.
        anchored: Whether anchors are drawn from all of the episode before a clip, as it may be far from where a rollout began.
    """

    def __init__(self, episodes: LatentEpisodes, *, skip: int, ahead: int, depth: int, anchored: bool = False) -> None:
        self.episodes, self.skip, self.ahead, self.depth, self.anchored = episodes, skip, ahead, depth, anchored
        self._last: _Stretch | None = None

    def draw(self, batch: int, frames: int, generator: torch.Generator, *, rows: int, made: Tensor | None) -> tuple[Clip, Tensor]:
        """Draw ``batch`` clips of ``frames`` frames.

        Args:
            batch: B.
            frames: F.
            generator: Source of everything random.
            rows: b, the last of the clips, whose context is the network's own.
            made: What it made of those of the draw before, ``(b, F, C, h, w)``; None at first.

        Returns:
            The clips, and what their last ones look back at first, ``(b, skip, C, h, w)``: real frames, or those that were made.
        """
        episodes, first = self.episodes.places(batch, frames, generator)
        age = np.zeros(rows, np.int64)
        if rows and self._last is not None and made is not None and len(made) == rows:
            age = self._go_on(episodes[-rows:], first[-rows:], frames)
        anchors = self.episodes.anchors(episodes, first, generator) if self.anchored else None
        clip = self.episodes.cut(episodes, first, frames, anchors=anchors)
        begun = clip.latents[batch - rows :, : self.skip].clone()  # (b, skip, C, h, w)
        if made is not None and age.any():
            kept = torch.from_numpy(age > 0)
            begun[kept] = made[:, self.ahead : self.ahead + self.skip].detach().to(begun)[kept]
        self._last = _Stretch(episodes[batch - rows :], first[batch - rows :], age)
        return clip, begun

    def _go_on(self, episodes: NDArray[np.int64], first: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
        """Put rows where the ones before go on, where they can, and return how far from real frames each begins, ``(b,)``."""
        assert self._last is not None
        last = self._last
        place, age = last.first + self.ahead, last.age + self.ahead
        fits = (age + self.ahead <= self.depth) & (place + frames <= self.episodes.starts[last.episodes + 1])
        episodes[fits], first[fits] = last.episodes[fits], place[fits]
        return np.where(fits, age, 0)
