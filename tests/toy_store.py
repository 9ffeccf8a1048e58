"""Episodes in memory, as a store: every third one is held out."""

from __future__ import annotations

from collections.abc import Sequence

from worldsim.episode import Episode
from worldsim.types import StoreInfo


class ListStore:
    """An ``EpisodeStore`` of a list."""

    def __init__(self, info: StoreInfo, episodes: Sequence[Episode]) -> None:
        self.info, self.episodes = info, list(episodes)

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Episode:
        return self.episodes[index]

    def split(self, name: str) -> list[int]:
        return [i for i in range(len(self)) if (i % 3 == 0) == (name == "heldout")]
