"""Sums over commit records, by scenario, policy or whatever key they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tally:
    """What the episodes of one name come to.

    Attributes:
        name: The scenario, policy or other value that they share.
        episodes: How many are ``ok``.
        frames: Their frames.
        steps: Their steps T.
        lengths: Steps of each.
        returns: Sum of rewards of each.
        rejected: How many were rejected.
        failed: How many failed.
    """

    name: str
    episodes: int
    frames: int
    steps: int
    lengths: tuple[int, ...]
    returns: tuple[float, ...]
    rejected: int
    failed: int

    @property
    def mean_return(self) -> float:
        """Mean return of the ``ok`` episodes, 0 where there is none."""
        return sum(self.returns) / len(self.returns) if self.returns else 0.0


def tally(records: Sequence[Mapping[str, Any]], key: str) -> list[Tally]:
    """Sum commit records by the value of ``key``, in the order the values first appear."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(str(record[key]), []).append(record)
    return [tally_all(group, name) for name, group in groups.items()]


def tally_all(records: Sequence[Mapping[str, Any]], name: str = "all") -> Tally:
    """Sum all of the given commit records."""
    good = [record for record in records if record["status"] == "ok"]
    statuses = Counter(record["status"] for record in records)
    return Tally(
        name=name,
        episodes=len(good),
        frames=sum(int(record["frames"]) for record in good),
        steps=sum(int(record["length"]) for record in good),
        lengths=tuple(int(record["length"]) for record in good),
        returns=tuple(float(record["return"]) for record in good),
        rejected=statuses["rejected"],
        failed=statuses["failed"],
    )


def reasons(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count why episodes were rejected or failed, the most frequent first: ``{"rejected: dark": 3}``."""
    lost = Counter(f"{record['status']}: {record['reason'] or 'no reason given'}" for record in records if record["status"] != "ok")
    return dict(lost.most_common())
