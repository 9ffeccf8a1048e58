"""What a finished episode is worth: filters and expectations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from worldsim.episode import Episode
from worldsim.scenario.expressions import EPISODE_FUNCTIONS, parse_expression
from worldsim.scenario.script import Script


def judge(episode: Episode, script: Script, *, state_names: Sequence[str], fps: float) -> Episode:
    """Return an episode with what its filters and expectations say; one that failed as it is.

    A filter that does not hold makes the episode ``rejected``, or with ``else: mark`` adds its reason to ``params["marked"]``.
    ``params["expect"]`` holds each expectation's result by name: true, false or a number.

    Args:
        episode: At least one step.
        script: Its script.
        state_names: Names of the columns of ``episode.state``.
        fps: Steps a second.

    Raises:
        ExpressionError: An expression reads what the episode does not have.
    """
    if episode.status == "failed" or not (script.filters or script.expects):
        return episode
    values = columns(episode, state_names=state_names, fps=fps)
    broken = [one for one in script.filters if not parse_expression(one.that, functions=EPISODE_FUNCTIONS).holds(values)]
    params = dict(episode.params)
    if marked := [one.reason or one.that for one in broken if one.otherwise == "mark"]:
        params["marked"] = marked
    if script.expects:
        params["expect"] = {one.name: _result(one.that, values) for one in script.expects}
    dropped = [one.reason or one.that for one in broken if one.otherwise == "drop"]
    if not dropped or episode.status != "ok":
        return replace(episode, params=params)
    return replace(episode, params=params, status="rejected", reason="; ".join(dropped))


def columns(episode: Episode, *, state_names: Sequence[str], fps: float) -> dict[str, Any]:
    """Return what expressions over an episode of T steps read, by name.

    Row t of a column is the moment after t + 1 steps: the state there, and the action and the reward that led there; ``step`` is
    1..T. The start has no action and is in no column. ``length``, ``terminated`` and ``truncated`` are single values.
    """
    step = np.arange(1, len(episode) + 1, dtype=np.float64)
    state = episode.state[1:].astype(np.float64)  # (T, S)
    return {
        **{name: state[:, i] for i, name in enumerate(state_names)},
        "step": step,
        "time": step / fps,
        "action": episode.actions.astype(np.float64),
        "reward": episode.rewards.astype(np.float64),
        "length": float(len(episode)),
        "terminated": bool(episode.terminated.any()),
        "truncated": bool(episode.truncated.any()),
    }


def _result(line: str, values: dict[str, Any]) -> bool | float:
    expression = parse_expression(line, functions=EPISODE_FUNCTIONS)
    found = np.asarray(expression(values))
    if found.ndim or found.dtype == np.bool_:
        return expression.holds(values)
    number = float(found)
    return number if math.isfinite(number) else False
