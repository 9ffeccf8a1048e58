"""The source itself under the policies that drive a world: how long recorded drives stay in the real range, the ceiling of drift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.evaluation.drift import STRETCHES
from worldsim.evaluation.judge import Judge, clips_of
from worldsim.types import EpisodeStore

_CHUNK = 256  # clips that are judged at once


def judge_recorded(judge: Judge, store: EpisodeStore, *, context: int, steps: int, total: int) -> list[NDArray[np.bool_]]:
    """Judge the first recorded drives, from where an imagined one would begin.

    Args:
        judge: Judges their frames alone.
        store: Episodes of the source under one policy, longer than those that the world was trained on.
        context: First frames of an episode, which an imagined drive would start from.
        steps: Most steps of each episode.
        total: Steps of all after which no further episode is read.

    Returns:
        By which criteria each step is not in the real range, ``(T, S + 2)`` an episode; T differs where some end early.

    Raises:
        ValueError: No episode goes on after ``context`` frames.
    """
    before, kept = max(0, context + 1 - judge.sight.frames), list[NDArray[np.bool_]]()
    for index in range(len(store)):
        if sum(map(len, kept)) >= total:
            break
        frames = np.asarray(store[index].frames)[before : context + steps]
        if len(frames) + before > context:
            clips = clips_of(frames, judge.sight.frames)  # (T, K, H, W, 3)
            kept.append(np.concatenate([judge.outside(clips[i : i + _CHUNK]) for i in range(0, len(clips), _CHUNK)]))
    if not kept:
        raise ValueError(f"drift.source: no episode of {store.info.name!r} goes on after {context} frames: record longer ones")
    return kept


def figures_of_recorded(outside: Sequence[NDArray[np.bool_]], criteria: Sequence[str], *, steps: int) -> dict[str, Any]:
    """Return what recorded drives ``(T, S + 2)``, of any length, come to, in JSON types.

    Args:
        outside: As of ``judge_recorded``.
        criteria: Names of the S + 2.
        steps: Steps of an imagined drive; the curve has the same places.

    Returns:
        ``rows`` and ``steps``, all of theirs; ``inside``, the share of those in the real range by every criterion; ``outside``, the
        share outside by each; and ``curve``, the share inside by the places of an imagined drive's curve, None where none went so far.
    """
    every = np.concatenate(outside)
    inside = np.full((len(outside), steps), np.nan)
    for row, each in zip(inside, outside, strict=True):
        row[: len(each)] = ~each.any(axis=1)
    pieces = [inside[:, piece] for piece in np.array_split(np.arange(steps), min(STRETCHES, steps))]
    return {
        "rows": len(outside),
        "steps": len(every),
        "inside": float((~every.any(axis=1)).mean()),
        "outside": {name: float(every[:, k].mean()) for k, name in enumerate(criteria)},
        "curve": [None if np.isnan(piece).all() else round(float(np.nanmean(piece)), 4) for piece in pieces],
    }
