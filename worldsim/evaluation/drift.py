"""Drift: a policy drives the world for thousands of steps, and a judge tells how long what it sees stays in the real range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.contexts import Context
from worldsim.evaluation.judge import Judge, clips_of
from worldsim.rollout import iterate_actions
from worldsim.simulator import Simulator
from worldsim.spaces import to_row
from worldsim.step import Step
from worldsim.types import Observation, Policy

BAR = 0.95
"""Least share of steps in the real range."""
SHOWN = (0, 100, 1000, 5000, 10_000)
STRETCHES = 25
"""Points of the curve, at most."""
_CHUNK = 32  # steps that are judged at once


@dataclass(frozen=True)
class Drift:
    """How far a world is driven.

    Attributes:
        steps: Steps in all.
        rows: Rollouts they are shared by; 1 makes one of all steps.
        sustained: A rollout fails where so many steps in a row are outside the real range.
        edge: Share of real clips that counts as outside, at either end of a state's range and in appearance.
    """

    steps: int = 10_000
    rows: int = 8
    sustained: int = 10
    edge: float = 0.001

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        if self.steps < self.rows or self.rows < 1 or self.sustained < 1:
            raise ValueError(f"drift needs steps >= rows >= 1 and sustained >= 1, got {self.steps}, {self.rows} and {self.sustained}")
        if not 0 < self.edge < 0.5:
            raise ValueError(f"drift.edge={self.edge} must be a share between 0 and 0.5")


@dataclass(frozen=True)
class Drive:
    """What came of a drive of B rows over T steps.

    Attributes:
        outside: ``(B, T, S + 2)`` by which criteria each step is not in the real range.
        shown: Frames ``(B, H, W, 3)`` after some steps, for people.
    """

    outside: NDArray[np.bool_]
    shown: dict[int, NDArray[np.uint8]]


def driven(simulator: Simulator, contexts: Sequence[Context], policy: Policy, *, seeds: NDArray[np.int64], steps: int) -> Iterator[Step]:
    """Give the ``steps`` steps of one row a context that a policy drives by what it sees; endings are ignored.

    Args:
        simulator: Runs the world.
        contexts: Where the B rows start.
        policy: Drives them.
        seeds: ``(B,)``, for the noise of each row and for the policy.
        steps: Steps of each row.
    """
    spec = simulator.spec
    state, labels = simulator.begin(contexts, seeds.tolist())
    newest, first = np.stack([context.frames[-1] for context in contexts]), np.ones(len(contexts), np.bool_)
    for _ in range(steps):
        read = {name: labels[:, i] for i, name in enumerate(spec.state_names)}
        actions = policy.act(Observation(newest, read, first, seeds))
        rows = np.stack([to_row(spec.action_space, action) for action in iterate_actions(spec.action_space, actions)])
        state, step = simulator.step(state, rows)
        newest, labels, first = step.frames, step.state, np.zeros_like(first)
        yield step


def drive(simulator: Simulator, contexts: Sequence[Context], policy: Policy, judge: Judge, *, steps: int) -> Drive:
    """Drive one row a context for ``steps`` steps, and judge them: what is measured is whether frames last. Row b has the seed b."""
    wanted = {*SHOWN, steps}
    shown = {0: np.stack([context.frames[-1] for context in contexts])}
    recent = [
        np.stack([context.frames[-min(k, len(context.frames))] for context in contexts]) for k in range(judge.sight.frames - 1, 0, -1)
    ]
    outside, finite = list[NDArray[np.bool_]](), list[NDArray[np.bool_]]()
    for t, step in enumerate(driven(simulator, contexts, policy, seeds=np.arange(len(contexts)), steps=steps), start=1):
        recent.append(step.frames)
        finite.append(step.finite)
        if t in wanted:
            shown[t] = step.frames
        if len(finite) == _CHUNK or t == steps:
            outside.append(_judge(judge, np.stack(recent, axis=1)) | ~np.stack(finite, axis=1)[..., None])
            recent, finite = recent[len(finite) :], []
    return Drive(np.concatenate(outside, axis=1), shown)


def _judge(judge: Judge, frames: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Judge every clip of frames ``(B, T + K - 1, H, W, 3)``: ``(B, T, S + 2)``."""
    clips = clips_of(frames, judge.sight.frames)  # (B, T, K, H, W, 3)
    return judge.outside(clips.reshape(-1, *clips.shape[2:])).reshape(*clips.shape[:2], -1)


def figures_of(outside: NDArray[np.bool_], criteria: Sequence[str], *, sustained: int) -> dict[str, Any]:
    """Return what a drive ``(B, T, S + 2)`` comes to, in JSON types.

    Returns:
        ``inside``, the share of steps in the real range by every criterion; ``outside``, the share outside by each; ``failed``, how many
        rows were outside for ``sustained`` steps in a row, ``first_failure``, the steps at which they first began to (None for
        the others) and their ``median_failure`` (None where more than half of the rows never failed); ``longest``, the longest stretch of
        steps inside; and ``curve``, the share inside by ``curve_steps``.
    """
    inside = ~np.asarray(outside.any(axis=-1))  # (B, T)
    began = [first_stretch(~row, sustained) for row in inside]
    failed = sorted(step for step in began if step is not None)
    middle = (len(began) + 1) // 2
    pieces = np.array_split(np.arange(inside.shape[1]), min(STRETCHES, inside.shape[1]))
    return {
        "rows": len(inside),
        "steps": inside.shape[1],
        "inside": float(inside.mean()),
        "outside": {name: float(outside[..., k].mean()) for k, name in enumerate(criteria)},
        "failed": len(failed),
        "first_failure": began,
        "median_failure": failed[middle - 1] if len(failed) >= middle else None,
        "longest": max(longest_stretch(row) for row in inside),
        "curve": [round(float(inside[:, piece].mean()), 4) for piece in pieces],
        "curve_steps": [int(piece[-1]) + 1 for piece in pieces],
    }


def first_stretch(flags: NDArray[np.bool_], length: int) -> int | None:
    """Return the first step (1 is the first) from which ``length`` flags in a row are set, None where there is none."""
    if len(flags) < length:
        return None
    runs = np.lib.stride_tricks.sliding_window_view(flags, length).all(axis=-1)
    return int(runs.argmax()) + 1 if runs.any() else None


def longest_stretch(flags: NDArray[np.bool_]) -> int:
    """Return how many flags in a row are set at most."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))
