"""Tasks of the Meta-World source: what they are called, and what of an episode is told in tags, numbers and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

LOW, HIGH = (-0.3, 0.4, 0.0), (0.3, 0.9, 0.3)
"""Corners [m] of the box that told positions are scaled to 0..1 in."""
_ASIDE = 0.03  # metres from the middle from which a place is left or right
_DEEP, _RAISED = 0.85, 0.17  # y and z [m] from which a goal is far, and high


@dataclass(frozen=True)
class ManipulationTask:
    """One task.

    Attributes:
        id: Its name in Meta-World.
        words: What is done to what.
        told: Whose place the words tell: that of the goal, or that of the object.
        middle: x [m] of a place that is neither left nor right.
        raised: Whether goals differ in height.
    """

    id: str
    words: str
    told: Literal["goal", "object"]
    middle: float = 0.0
    raised: bool = False


TASKS: dict[str, ManipulationTask] = {
    "push": ManipulationTask("push-v3", "push the puck", "goal"),
    "pick-place": ManipulationTask("pick-place-v3", "lift the puck", "goal", raised=True),
    "button-press": ManipulationTask("button-press-v3", "press the button", "object"),
    "drawer-open": ManipulationTask("drawer-open-v3", "open the drawer", "object"),
    "door-open": ManipulationTask("door-open-v3", "open the door", "object", middle=0.24),
}
"""All tasks by name; the labelled state ``task`` numbers them from 0 in this order."""


def check_tasks(tasks: Sequence[str] | None, weights: Sequence[float] | None) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the names of the tasks that a setting asks for, and the probability of each.

    Raises:
        ValueError: A task is unknown or there is none, or the weights do not fit.
    """
    names = tuple(TASKS) if tasks is None else tuple(tasks)
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(f"tasks={list(names)} must hold one or more of {', '.join(TASKS)}, each once")
    shares = np.ones(len(names)) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (len(names),) or not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise ValueError(f"weights={weights} must hold a number of 0 or more for each of {list(names)}, one of them above 0")
    return names, tuple((shares / shares.sum()).tolist())


def tell(name: str, thing: NDArray[np.float64], goal: NDArray[np.float64]) -> dict[str, Any]:
    """Return ``{"tags", "numbers", "text"}`` of an episode of task ``name``, whose object is at ``thing (3,)`` and goal at ``goal (3,)``.

    Left and right are the robot's, which looks along y: to the left, x is lower.
    """
    task = TASKS[name]
    side = _side(float((goal if task.told == "goal" else thing)[0]) - task.middle)
    words = [side]
    if task.told == "goal":
        words.append("far" if goal[1] > _DEEP else "near")
    if task.raised:
        words.append("high" if goal[2] > _RAISED else "low")
    numbers = {f"{what}_{axis}": value for what, place in (("object", thing), ("goal", goal)) for axis, value in _scaled(place).items()}
    where = f"to the {', '.join(words)} goal" if task.told == "goal" else "in the middle" if side == "middle" else f"on the {side}"
    return {"tags": (name, *words), "numbers": numbers, "text": f"{task.words} {where}"}


def _side(x: float) -> str:
    return "left" if x < -_ASIDE else "right" if x > _ASIDE else "middle"


def _scaled(place: NDArray[np.float64]) -> dict[str, float]:
    scaled = np.clip((place - LOW) / (np.array(HIGH) - LOW), 0, 1)
    return dict(zip("xyz", scaled.tolist(), strict=True))
