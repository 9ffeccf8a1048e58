"""Action fidelity: whether an inverse-dynamics model, trained on real clips, finds the given actions in imagined ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.evaluation.figures import Evidence
from worldsim.evaluation.inverse import AFTER, CLIP, Inverse, Told, accuracy, clips_at
from worldsim.evaluation.openloop import Segment, other_actions, real
from worldsim.evaluation.scores import correlation
from worldsim.training.tokenizer_task import reconstruct

BAR = 0.95
"""Least accuracy on imagined clips over that on real ones."""
EARLY, LATE = 16, 16  # steps at either end of a rollout


@dataclass(frozen=True)
class Fidelity:
    """How the inverse-dynamics model is trained.

    Attributes:
        clips: Real clips that it learns from.
        steps: Training steps.
    """

    clips: int = 8000
    steps: int = 1000

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        if min(self.clips, self.steps) < 1:
            raise ValueError(f"fidelity.clips={self.clips} and fidelity.steps={self.steps} must be 1 or more; fidelity=null leaves it out")


def fidelity(evidence: Evidence, network: Inverse, tokenizer: Any) -> dict[str, Any]:
    """Return how well actions can be told from real clips, from imagined ones, and from imagined ones with another episode's actions.

    Args:
        evidence: Segments and rollouts.
        network: Tells actions.
        tokenizer: The world's: real clips that went through it tell what of actions it shows.

    Returns:
        ``clip``, frames in a clip, and ``periods``: ``early``, ``late`` and ``all`` steps, each with its ``steps``, by part of the action
        the balanced ``accuracy`` of ``real``, ``tokenizer``, ``world`` and ``other_actions``, and ``guess``, what guessing gives; for
        numbers ``r2`` and ``correlation`` too; ``mean``, accuracies over the parts; ``ceiling``, the tokenizer's over real; and
        ``ratio``, imagined over real, beside the bar.
    """
    segments = evidence.segments
    last = len(segments[0].actions) + 1 - AFTER
    early, late = range(1, min(EARLY, last) + 1), range(max(1, last + 2 - LATE), last + 1)
    periods = {"early": early, "late": late, "all": sorted({*early, *late})} if late[0] > early[-1] else {"all": early}
    shown = real(segments)
    kinds = {
        "real": (segments, shown),
        "tokenizer": (segments, reconstruct(tokenizer, shown.reshape(-1, *shown.shape[2:])).reshape(shown.shape)),
        "world": (segments, evidence.made.frames),
        "other_actions": (other_actions(segments), evidence.others.frames),
    }
    every = list(periods["all"])
    told = {name: network.tell(clips_at(every, own, frames).reshape(-1, CLIP, *frames.shape[2:])) for name, (own, frames) in kinds.items()}
    truth = {name: taken(own, every) for name, (own, _) in kinds.items()}
    report: dict[str, Any] = {"clip": CLIP, "parts": [part.name for part in network.parts], "periods": {}}
    for name, steps in periods.items():
        rows = np.tile(np.isin(every, list(steps)), len(segments))
        report["periods"][name] = {"steps": [steps[0], steps[-1]], **_compare(network, truth, told, rows)}
    return report


def taken(segments: Sequence[Segment], steps: Sequence[int]) -> NDArray[Any]:
    """Return the actions of the given steps, ``(N * len(steps), A)``."""
    chosen = np.asarray(steps) - 1
    return np.concatenate([segment.actions[chosen] for segment in segments])


def _compare(network: Inverse, truth: dict[str, NDArray[Any]], told: dict[str, Told], rows: NDArray[np.bool_]) -> dict[str, Any]:
    parts: dict[str, dict[str, Any]] = {}
    for p, part in enumerate(network.parts):
        right = {name: accuracy(part.label(truth[name][rows]), told[name].classes[rows, p]) for name in truth}
        if right["real"] is None:
            continue
        there = np.unique(part.label(truth["real"][rows]))
        parts[part.name] = {"accuracy": right, "guess": 1 / len(there)}
        if part.is_number:
            pairs = {name: (part.number(truth[name][rows]), told[name].numbers[rows, p]) for name in truth}
            parts[part.name] |= {
                "r2": {name: r2(*pair) for name, pair in pairs.items()},
                "correlation": {name: correlation(*pair) for name, pair in pairs.items()},
            }
    mean = {name: _mean([part["accuracy"][name] for part in parts.values()]) for name in truth} | {
        "guess": _mean([part["guess"] for part in parts.values()])
    }
    found: dict[str, Any] = {"parts": parts, "mean": mean}
    if mean["real"] and mean["tokenizer"] is not None and mean["world"] is not None:
        ratio = mean["world"] / mean["real"]
        found |= {"ceiling": mean["tokenizer"] / mean["real"], "ratio": ratio, "bar": BAR, "met": ratio >= BAR}
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def r2(truth: NDArray[np.float32], told: NDArray[np.float32]) -> float | None:
    """Return the share of the variance that is explained, None where there is none."""
    spread = float(truth.var(dtype=np.float64))
    return 1 - float(np.square(truth - told).mean(dtype=np.float64)) / spread if spread > 0 else None
