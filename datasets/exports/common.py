"""What all exporters share: which episodes, in which order, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.datasets.reader import EpisodeReader
from worldsim.episode import Episode
from worldsim.spaces import space_to_json


@dataclass(frozen=True)
class Export:
    """What is to be exported.

    Attributes:
        reader: The dataset.
        episodes: Indices in it; those of ``train`` come before those of ``heldout``.
        splits: The split of each.
        lossless: Exact pixels, for formats that have a choice.
        last_frame: ``drop`` or ``keep``, for formats with one row a frame: see ``rows_of``.
        advance: Told the number of frames after each episode.
    """

    reader: EpisodeReader
    episodes: Sequence[int]
    splits: Sequence[str]
    lossless: bool = False
    last_frame: str = "drop"
    advance: Callable[[int], None] = lambda _: None

    def read(self) -> Iterator[Episode]:
        """Read the episodes one after another."""
        for index in self.episodes:
            episode = self.reader[index]
            yield episode
            self.advance(len(episode.frames))

    def rows(self) -> NDArray[np.int64]:
        """Return the rows of each episode in a format with one row a frame, ``(episodes,)``."""
        return self.reader.lengths()[list(self.episodes)] + (self.last_frame == "keep")

    def about(self) -> dict[str, Any]:
        """Describe the dataset in JSON types, so that an import gives it back."""
        info = self.reader.info
        return {
            "name": info.name,
            "fps": info.fps,
            "frame_size": list(info.frame_size),
            "action_space": space_to_json(info.action_space),
            "state_names": list(info.state_names),
            "source": dict(info.source),
            "licence": info.licence,
            "fingerprint": info.fingerprint,
            "alignment": "action[t] takes frame[t] to frame[t + 1]; reward[t], terminated[t] and truncated[t] belong to that step",
        }

    def split_ranges(self) -> dict[str, tuple[int, int]]:
        """Return first and last (exclusive) exported episode of each split that has any."""
        counts = {name: list(self.splits).count(name) for name in dict.fromkeys(self.splits)}
        ends = np.cumsum(list(counts.values()))
        return {name: (int(end) - count, int(end)) for (name, count), end in zip(counts.items(), ends, strict=True)}


def about_episode(episode: Episode, split: str) -> dict[str, Any]:
    """Describe an episode in JSON types, its arrays aside."""
    return {
        "steps": len(episode),
        "split": split,
        "seed": episode.seed,
        "scenario": episode.scenario,
        "policy": episode.policy,
        "conditioning": episode.conditioning.to_json(),
        "params": dict(episode.params),
    }


def rows_of(episode: Episode, last_frame: str) -> dict[str, NDArray[Any]]:
    """Lay an episode out with one row a frame: row t has frame t, and the step that begins there.

    The last frame begins no step. ``drop`` leaves it out, so that every row is whole: T rows. ``keep`` adds it as row T with the
    last action again, reward 0 and no flags: T + 1 rows.
    """
    steps = {"action": episode.actions, "reward": episode.rewards, "terminated": episode.terminated, "truncated": episode.truncated}
    if last_frame == "drop":
        return {"frames": episode.frames[:-1], "state": episode.state[:-1], **steps}
    padded = {name: np.concatenate((values, np.zeros_like(values, shape=(1, *values.shape[1:])))) for name, values in steps.items()}
    if len(episode):
        padded["action"][-1] = episode.actions[-1]
    return {"frames": episode.frames, "state": episode.state, **padded}
