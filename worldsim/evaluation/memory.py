"""Memory: turn away and come back; does the same place reappear?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.evaluation.openloop import Segment, cut_segment, imagine, psnr, ssim
from worldsim.simulator import Simulator
from worldsim.types import EpisodeStore


@dataclass(frozen=True)
class Memory:
    """What turning away and coming back means.

    Attributes:
        heading: Name of the labelled state that tells where the camera looks, or two: of its sine and its cosine; None leaves the
            section out.
        period: What a full turn is in its units: 360 for degrees, as for sine and cosine.
        position: Names of the state that tells where the camera is; empty where it does not move.
        turn: Least turn away, in units of the heading.
        tolerance: Most that the heading differs afterwards.
        reach: Most that each position differs afterwards, in its own units.
        horizon: Most steps from the first sight to the second.
        segments: Most such stretches.
    """

    heading: str | Sequence[str] | None = None
    period: float = 360.0
    position: Sequence[str] = ()
    turn: float = 60.0
    tolerance: float = 5.0
    reach: float = 16.0
    horizon: int = 64
    segments: int = 64

    def __post_init__(self) -> None:
        """Refuse what is no turn."""
        if not 0 < self.tolerance < self.turn <= self.period / 2:
            raise ValueError(f"memory needs 0 < tolerance < turn <= period / 2, got {self.tolerance}, {self.turn} and {self.period}")
        if len(self.looks) not in (0, 1, 2):
            raise ValueError(f"memory.heading={list(self.looks)} must be the name of an angle, or two: of its sine and its cosine")

    @property
    def looks(self) -> tuple[str, ...]:
        """Names of the heading: one of an angle, or two of its sine and its cosine."""
        return (self.heading,) if isinstance(self.heading, str) else tuple(self.heading or ())


def memory(simulator: Simulator, store: EpisodeStore, plan: Memory, *, split: str, context: int, batch: int = 16) -> dict[str, Any]:
    """Roll the world over recorded stretches that turn away and come back, and compare the frames at both ends.

    Returns:
        ``segments``, how many there are; ``steps``, their mean length; and PSNR in dB and SSIM of the last context frame with the real
        frame on return (``real``: as much as there is to reach), with the imagined one (``world``), and with the imagined one while turned
        away most (``away``: what forgetting gives); ``world_to_real`` compares the imagined with the real frame on return.

    Raises:
        ValueError: The dataset has no state of the names that are given.
    """
    names = [*plan.looks, *plan.position]
    missing = [name for name in names if name not in store.info.state_names]
    if missing:
        known = ", ".join(store.info.state_names) or "none"
        raise ValueError(f"memory needs the labelled state {', '.join(missing)}, the dataset has {known}: set memory.heading=null")
    columns = [store.info.state_names.index(name) for name in names]
    segments, away = list[Segment](), list[int]()
    for i in store.split(split):
        episode = store[i]
        for start, most, end in returns(_headed(episode.state[:, columns], plan), plan, first=context - 1):
            horizon = end - start
            segments.append(cut_segment(episode, start + 1 - context, context, horizon, seed=len(segments)))
            away.append(most - start - 1)
        if len(segments) >= plan.segments:
            break
    segments, away = segments[: plan.segments], away[: plan.segments]
    if not segments:
        return {"segments": 0}
    before, after, made, turned = _ends(simulator, segments, away, batch)
    pairs = {"real": (before, after), "world": (before, made), "away": (before, turned), "world_to_real": (after, made)}
    return {
        "segments": len(segments),
        "steps": float(np.mean([len(segment.actions) for segment in segments])),
        **{name: {"psnr": float(psnr(a, b).mean()), "ssim": float(ssim(a, b).mean())} for name, (a, b) in pairs.items()},
    }


def _headed(state: NDArray[np.floating], plan: Memory) -> NDArray[np.floating]:
    """Return ``(T + 1, 1 + P)`` heading and positions, the heading as an angle if it is told as sine and cosine."""
    if len(plan.looks) == 1:
        return state
    angle = np.arctan2(state[:, 0], state[:, 1]) / (2 * np.pi) * plan.period
    return np.column_stack((angle, state[:, 2:]))


def _ends(
    simulator: Simulator, segments: Sequence[Segment], away: Sequence[int], batch: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Return last context frames, real and imagined last frames, and those imagined while turned away most, each ``(N, H, W, 3)``."""
    lengths = np.array([len(segment.actions) for segment in segments])
    longest = [replace(s, actions=np.pad(s.actions, ((0, lengths.max() - len(s.actions)), (0, 0)), mode="edge")) for s in segments]
    made, rows = imagine(simulator, longest, batch=batch).frames, np.arange(len(segments))
    before, after = (np.stack(x) for x in zip(*((s.context.frames[-1], s.frames[-1]) for s in segments), strict=True))
    return before, after, made[rows, lengths - 1], made[rows, np.asarray(away)]


def returns(state: NDArray[np.floating], plan: Memory, *, first: int = 0) -> list[tuple[int, int, int]]:
    """Find where the camera looks away and comes back to the same place, without overlap.

    Args:
        state: ``(T + 1, 1 + P)`` heading and positions of an episode.
        plan: What counts.
        first: First frame that may be looked at before.

    Returns:
        Numbers of three frames: before, turned away most, and back.
    """
    found, start = list[tuple[int, int, int]](), first
    while start < len(state) - 1:
        later = state[start + 1 : start + 1 + plan.horizon]
        angle = np.abs((later[:, 0] - state[start, 0] + plan.period / 2) % plan.period - plan.period / 2)  # (<= horizon,)
        near = (np.abs(later[:, 1:] - state[start, 1:]) <= plan.reach).all(axis=1)
        turned = np.maximum.accumulate(angle) >= plan.turn
        back = np.flatnonzero(turned & (angle <= plan.tolerance) & near)
        if len(back):
            end = start + 1 + int(back[0])
            found.append((start, start + 1 + int(angle[: back[0]].argmax()), end))
            start = end
        start += 1
    return found
