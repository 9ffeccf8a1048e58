"""The plan of a dataset: its concrete episodes and the part and slot of each, fixed before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from worldsim.datasets.layout import PART_SLOTS, canonical_json, sha256_text
from worldsim.episode import Conditioning
from worldsim.rollout import EpisodeJob


@dataclass(frozen=True)
class Part:
    """Consecutive episodes that share arrays: ids ``first`` to ``first + count - 1``, at most ``horizon`` steps each."""

    first: int
    count: int
    horizon: int


@dataclass(frozen=True)
class Plan:
    """All episodes of a dataset.

    Attributes:
        batch: Episodes that run as one group.
        scenarios: How the episodes of each scenario name are driven, JSON types only.
        jobs: The episodes; ``jobs[i].id == i``.
        parts: Where they lie.
        recipe: How every group is made, ``worldsim.datasets.work.Recipe`` in JSON types; empty where episodes come from elsewhere.
    """

    batch: int
    scenarios: Mapping[str, Any]
    jobs: tuple[EpisodeJob, ...]
    parts: tuple[Part, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def place(self, episode: int) -> tuple[int, int]:
        """Return part and slot of an episode."""
        for number, part in enumerate(self.parts):
            if part.first <= episode < part.first + part.count:
                return number, episode - part.first
        raise ValueError(f"episode {episode} is not in the plan: it has episodes 0 to {len(self.jobs) - 1}")

    def groups(self) -> list[tuple[EpisodeJob, ...]]:
        """Return the groups that run as one batch; none crosses a part."""
        parts = [self.jobs[part.first : part.first + part.count] for part in self.parts]
        return [jobs[start : start + self.batch] for jobs in parts for start in range(0, len(jobs), self.batch)]

    def extended(self, jobs: Sequence[EpisodeJob]) -> Plan:
        """Return this plan with more episodes, in parts of their own."""
        return replace(self, jobs=(*self.jobs, *jobs), parts=(*self.parts, *_parts(jobs)))

    def cut(self, count: int) -> Plan:
        """Return the plan of the first ``count`` episodes."""
        parts = [Part(p.first, min(p.count, count - p.first), p.horizon) for p in self.parts if p.first < count]
        return replace(self, jobs=self.jobs[:count], parts=tuple(parts))

    def same_episodes(self, other: Plan, count: int) -> bool:
        """Whether the first ``count`` episodes of two plans are made alike, wherever they lie."""
        mine, theirs = self.to_json(), other.to_json()
        same = ("batch", "scenarios", "recipe") if self.recipe and other.recipe else ("batch", "scenarios")
        pairs = [(mine["episodes"][:count], theirs["episodes"][:count]), *((mine[key], theirs[key]) for key in same)]
        return all(canonical_json(a) == canonical_json(b) for a, b in pairs)

    def to_json(self) -> dict[str, Any]:
        """Describe the plan in JSON types."""
        return {
            "format": "worldsim-plan",
            "version": "1.0",
            "batch": self.batch,
            "scenarios": dict(self.scenarios),
            "parts": [asdict(part) for part in self.parts],
            "episodes": [_job_to_json(job) for job in self.jobs],
            **({"recipe": dict(self.recipe)} if self.recipe else {}),
        }

    def text(self) -> str:
        """Return the canonical JSON text; its sha256 is the plan's identity."""
        return canonical_json(self.to_json())

    def sha256(self) -> str:
        """Return the plan's identity."""
        return sha256_text(self.text())


def make_plan(jobs: Sequence[EpisodeJob], *, batch: int = 1, scenarios: Mapping[str, Any] | None = None) -> Plan:
    """Lay jobs out in parts.

    Args:
        jobs: At least one, with ids 0, 1, 2, ...
        batch: Episodes that run as one group, at least 1.
        scenarios: How each scenario's episodes are driven, JSON types only.

    Raises:
        ValueError: There are no jobs.
    """
    if not jobs:
        raise ValueError("a plan needs at least one episode, this one has none: ask for more frames, seeds or scenarios")
    return Plan(batch, dict(scenarios or {}), tuple(jobs), tuple(_parts(jobs)))


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """Build the plan that ``Plan.to_json`` described."""
    jobs = tuple(_job_from_json(job) for job in data["episodes"])
    parts = tuple(Part(**part) for part in data["parts"])
    return Plan(int(data["batch"]), dict(data["scenarios"]), jobs, parts, dict(data.get("recipe", {})))


def _parts(jobs: Sequence[EpisodeJob]) -> list[Part]:
    pieces = [jobs[start : start + PART_SLOTS] for start in range(0, len(jobs), PART_SLOTS)]
    return [Part(piece[0].id, len(piece), max(job.horizon for job in piece)) for piece in pieces]


def _job_to_json(job: EpisodeJob) -> dict[str, Any]:
    return {**asdict(job), "conditioning": job.conditioning.to_json()}


def _job_from_json(data: Mapping[str, Any]) -> EpisodeJob:
    return EpisodeJob(**{**data, "conditioning": Conditioning.from_json(data["conditioning"])})
