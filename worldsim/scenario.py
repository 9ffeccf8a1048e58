"""A scenario: where an episode starts, who drives, what disturbs the driver, how long, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from worldsim.episode import Conditioning


@dataclass(frozen=True)
class Scenario:
    """One line of a batch job; it expands to one episode a seed.

    Attributes:
        name: Unique in a job.
        policy: Config of the policy, with its ``_target_``.
        action_noise: Keywords of the action noise around the policy; empty for none.
        context: Index of the world's start context, or ``random``: drawn by the episode's seed.
        horizon: Most steps of an episode, at least 1.
        seeds: Seeds of its episodes; empty to take ``count`` seeds from the job's root seed on.
        count: Number of episodes where no seeds are given.
        conditioning: What the world is told in place of the context's own conditioning.
        weight: Share of episodes where a job divides a number of frames among scenarios.
    """

    name: str
    policy: Mapping[str, Any]
    action_noise: Mapping[str, Any] = field(default_factory=dict)
    context: int | str = "random"
    horizon: int = 128
    seeds: tuple[int, ...] = ()
    count: int = 1
    conditioning: Conditioning = field(default_factory=Conditioning)
    weight: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Describe the scenario in JSON types."""
        conditioning = {"tags": list(self.conditioning.tags), "numbers": dict(self.conditioning.numbers), "text": self.conditioning.text}
        return {**asdict(self), "seeds": list(self.seeds), "conditioning": conditioning}
