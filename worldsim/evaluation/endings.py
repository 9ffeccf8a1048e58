"""Endings: whether a world knows when an episode is over, on the last stretches of held-out episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.episode import Episode
from worldsim.evaluation.openloop import Segment, cut_segments
from worldsim.evaluation.scores import area_under_curve
from worldsim.simulator import Simulator
from worldsim.types import EpisodeStore, StoreInfo

THRESHOLD = 0.5


@dataclass(frozen=True)
class Tails:
    """The last ``steps`` steps of the long enough episodes of one split, as a store.

    Attributes:
        store: The whole dataset.
        episodes: Indices into it.
        steps: Steps that are kept.
    """

    store: EpisodeStore
    episodes: Sequence[int]
    steps: int

    @property
    def info(self) -> StoreInfo:
        """What the dataset says of itself."""
        return self.store.info

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.episodes)

    def __getitem__(self, index: int) -> Episode:
        """Read the end of an episode."""
        episode, steps = self.store[self.episodes[index]], self.steps
        return replace(
            episode,
            frames=episode.frames[-steps - 1 :],
            actions=episode.actions[-steps:],
            rewards=episode.rewards[-steps:],
            terminated=episode.terminated[-steps:],
            truncated=episode.truncated[-steps:],
            state=episode.state[-steps - 1 :],
        )

    def split(self, name: str) -> list[int]:
        """Return all episodes: they are of one split already."""
        return list(range(len(self)))


def endings(simulator: Simulator, store: EpisodeStore, *, split: str, context: int, horizon: int = 16, limit: int = 64) -> dict[str, Any]:
    """Roll the world over the ends of episodes with their recorded actions, and compare its end probability with what happened.

    Returns:
        ``episodes`` and ``terminated`` (how many were rolled out, and how many of them ended by termination), and, where some did,
        ``auc`` of the end probability over all steps, ``found`` (terminated episodes with a probability above one half in the last
        four steps) and ``false_alarms`` (others with one anywhere).
    """
    chosen = [i for i in store.split(split) if len(store[i]) >= context + horizon - 1][:limit]
    if not chosen:
        return {"episodes": 0, "terminated": 0}
    tails = Tails(store, chosen, context + horizon - 1)
    truth = np.stack([tails[i].terminated[-horizon:] for i in range(len(tails))])  # (N, T)
    ended = truth.any(axis=1)
    report: dict[str, Any] = {"episodes": len(tails), "terminated": int(ended.sum()), "horizon": horizon}
    if ended.any():
        segments = cut_segments(tails, split=split, context=context, horizon=horizon, per_episode=1, limit=len(tails))
        made = end_probabilities(simulator, segments)  # (N, T)
        report["auc"] = area_under_curve(made[truth], made[~truth])
        report["found"] = int((made[ended, -4:].max(axis=1) > THRESHOLD).sum())
        report["false_alarms"] = int((made[~ended].max(axis=1, initial=0) > THRESHOLD).sum())
    return report


def end_probabilities(simulator: Simulator, segments: Sequence[Segment], *, batch: int = 16) -> NDArray[np.float32]:
    """Return the probability that each step of N segments ended the episode, ``(N, T)``."""
    rows: list[NDArray[np.float32]] = []
    for first in range(0, len(segments), batch):
        part = segments[first : first + batch]
        state, ends = simulator.start([segment.context for segment in part], [segment.seed for segment in part]), []
        for t in range(len(part[0].actions)):
            state, step = simulator.step(state, np.stack([segment.actions[t] for segment in part]))
            ends.append(step.end)
        rows.append(np.stack(ends, axis=1))
    return np.concatenate(rows)
