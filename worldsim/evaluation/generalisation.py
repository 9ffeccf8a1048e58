"""How much of a world's advantage is lost on episodes that it has not learned from: by heart, or in general?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.evaluation.figures import STEPS, Evidence, episode_name
from worldsim.evaluation.openloop import copy_last, cut_segments, imagine, psnr, real
from worldsim.evaluation.scores import mean_and_error
from worldsim.simulator import Simulator
from worldsim.types import EpisodeStore


@dataclass(frozen=True)
class Generalisation:
    """Rollouts of the train split beside those of the evaluated one; at most ``segments``, one an episode."""

    segments: int = 64

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        if self.segments < 1:
            raise ValueError(f"generalisation.segments={self.segments} must be 1 or more; generalisation=null leaves the section out")


def generalisation(
    simulator: Simulator, store: EpisodeStore, plan: Generalisation, evidence: Evidence, *, context: int, seed: int, batch: int
) -> dict[str, Any]:
    """Return the advantage over a copy of the last frame, in dB of PSNR, on episodes of the train split and on those of ``evidence``.

    Differences to a copy are compared, not PSNR itself, for some episodes are harder than others.

    Returns:
        ``steps``; ``own``, whether the world names this very dataset as what it learned from; for ``train`` and ``unseen`` the number of
        ``segments`` and ``episodes``, and at each step ``db`` and its ``standard_error``; and ``lost``, their difference with its own.
    """
    horizon = len(evidence.segments[0].actions)
    segments = cut_segments(store, split="train", context=context, horizon=horizon, per_episode=1, limit=plan.segments, seed=seed)
    told = Evidence(segments, made := imagine(simulator, segments, batch=batch), made)
    steps = [step for step in STEPS if step <= horizon]
    parts = {name: _advantage(each, steps) for name, each in (("train", told), ("unseen", evidence))}
    lost = np.subtract(parts["train"]["db"], parts["unseen"]["db"])  # (K,)
    error = np.hypot(parts["train"]["standard_error"], parts["unseen"]["standard_error"])  # (K,)
    own = simulator.world.spec.dataset.get("fingerprint") == store.info.fingerprint
    return {"steps": steps, "own": own, **parts, "lost": {"db": _rounded(lost), "standard_error": _rounded(error)}}


def _advantage(evidence: Evidence, steps: list[int]) -> dict[str, Any]:
    truth, at = real(evidence.segments), [step - 1 for step in steps]
    own, copied = (psnr(truth, frames)[:, at] for frames in (evidence.made.frames, copy_last(evidence.segments)))  # (N, K)
    found = [mean_and_error(column) for column in (own - copied).T]
    return {
        "segments": len(truth),
        "episodes": len({episode_name(segment) for segment in evidence.segments}),
        "db": _rounded([mean for mean, _ in found]),
        "standard_error": _rounded([error for _, error in found]),
    }


def _rounded(values: Any) -> list[float]:
    numbers: NDArray[np.float64] = np.asarray(values, np.float64)
    return [round(float(x), 3) for x in numbers]
