"""Which episodes a file of a dataset belongs to, by its path alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from worldsim.datasets.plan import Plan

_SHARD = re.compile(r"parts/p(\d{5})/(.+)/c\.(\d+)(?:\.0)+")
_COMMIT = re.compile(r"commits/p(\d{5})/(\d{6})\.json")
_PART = re.compile(r"(?:parts|commits)/p(\d{5})/")


@dataclass(frozen=True)
class Places:
    """Where the episodes of a dataset lie.

    Attributes:
        episodes: Episode by part and slot.
        arrays: Names of the arrays of every part.
    """

    episodes: Mapping[tuple[int, int], int]
    arrays: frozenset[str]

    @staticmethod
    def of(plan: Plan, arrays: frozenset[str]) -> Places:
        """Return the places that a plan gives."""
        return Places({(n, i): part.first + i for n, part in enumerate(plan.parts) for i in range(part.count)}, arrays)

    def episode(self, file: str) -> int | None:
        """Return the episode that owns a shard or a commit record; None for every other file."""
        place = slot_of(file)
        return None if place is None else self.episodes.get(place)

    def affects(self, file: str) -> str:
        """Say in words which episodes need a file: ``episode 7``, ``episodes 0 to 255`` or ``all episodes``."""
        episode = self.episode(file)
        if episode is not None:
            return f"episode {episode}"
        part = _PART.match(file)
        if part is None:
            return "all episodes"
        own = [number for (n, _), number in self.episodes.items() if n == int(part[1])]
        if slot_of(file) is not None or not own:
            return "no episode"
        return f"episodes {min(own)} to {max(own)}" if len(own) > 1 else f"episode {own[0]}"

    def belongs(self, file: str) -> bool:
        """Whether the layout has a place for a file below ``parts/`` or ``commits/``."""
        if not file.startswith(("parts/", "commits/")) or (file.startswith("parts/") and file.endswith("/zarr.json")):
            return True
        shard = _SHARD.fullmatch(file)
        return self.episode(file) is not None and (shard is None or shard[2] in self.arrays)


def slot_of(file: str) -> tuple[int, int] | None:
    """Return part and slot of a shard or a commit record, by its path; None for every other file."""
    if shard := _SHARD.fullmatch(file):
        return int(shard[1]), int(shard[3])
    commit = _COMMIT.fullmatch(file)
    return None if commit is None else (int(commit[1]), int(commit[2]))
