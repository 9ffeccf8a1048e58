"""Episode: one recorded rollout, the record that recorders, generators, stores and training exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Conditioning:
    """What is told to a world beside the actions; every part may be absent.

    Attributes:
        tags: Names from an open vocabulary, as ``("night", "wet")``.
        numbers: Named scalars, as ``{"road_red": 0.4}``; ranges are the source's, training standardises them.
        text: A short description in words.
    """

    tags: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """Describe it in JSON types."""
        return {"tags": list(self.tags), "numbers": {name: float(value) for name, value in self.numbers.items()}, "text": self.text}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Conditioning:
        """Build what ``to_json`` described; parts may be absent."""
        numbers = {str(name): float(value) for name, value in data.get("numbers", {}).items()}
        return Conditioning(tuple(map(str, data.get("tags", ()))), numbers, str(data.get("text", "")))


@dataclass(frozen=True)
class Episode:
    """T steps and T + 1 frames.

    Attributes:
        frames: ``(T + 1, H, W, 3)`` uint8; ``(T + 1, 0, 0, 3)`` where latents were recorded instead.
        actions: ``(T, A)`` float32 or int64, as ``worldsim.spaces.to_rows`` lays them out.
        rewards: ``(T,)`` float32.
        terminated: ``(T,)`` bool.
        truncated: ``(T,)`` bool.
        state: ``(T + 1, S)`` float32 in physical units, S may be 0.
        seed: The seed the episode was reset with.
        scenario: Name of the scenario, or of the source's recording setting.
        policy: Name of the policy.
        conditioning: What the world was told.
        params: Whatever else describes how the episode was made; JSON types only.
        status: ``ok``, ``rejected`` or ``failed``.
        reason: Why it was rejected or failed; empty for ``ok``.
        latents: ``(T + 1, C, h, w)`` float16, what a learned world decoded its frames from; None where they were not recorded.
            The first is the start's last frame as the world's tokenizer encodes it.
        labels: Pictures of what frames show, by name: ``segmentation`` ``(T + 1, H, W)`` uint8, class numbers that the source or the
            world names; empty where none were recorded.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[Any]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    state: NDArray[np.float32]
    seed: int = 0
    scenario: str = ""
    policy: str = ""
    conditioning: Conditioning = field(default_factory=Conditioning)
    params: Mapping[str, Any] = field(default_factory=dict)
    status: str = "ok"
    reason: str = ""
    latents: NDArray[np.float16] | None = None
    labels: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of steps T."""
        return len(self.actions)

    def cuts(self) -> list[int]:
        """Return the frames, above 0 and ascending, that do not follow from the one before: where a scenario cut the episode."""
        return cut_frames(self.params)


def cut_frames(params: Mapping[str, Any]) -> list[int]:
    """Return ``Episode.cuts`` of an episode's params."""
    return sorted({int(step) for step in params.get("cuts") or () if step > 0})
