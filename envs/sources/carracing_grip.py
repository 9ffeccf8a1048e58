"""Grip and track of a CarRacing episode: how much force tyres bear before they slide, how much the road turns, and what is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any

import numpy as np

LOWEST, HIGHEST = 0.3, 2.0
"""Bounds of the factor; below, no driver stays on the road."""
SLIPPERY, WINDING = 0.75, 0.0145
"""Factor below which an episode is slippery, and mean curvature [rad/unit] above which it is winding, as a third of all tracks are."""


def check_grip(grip: float | Sequence[float] | None) -> tuple[float, float] | None:
    """Return the lowest and highest factor that a setting asks for; None for the stock tyres.

    Raises:
        ValueError: It is neither one factor nor two in order, or out of range.
    """
    if grip is None:
        return None
    ends = [float(value) for value in (grip if isinstance(grip, Sequence) else (grip, grip))]
    if len(ends) != 2 or not LOWEST <= ends[0] <= ends[1] <= HIGHEST:
        raise ValueError(f"grip={grip!r} must be a factor in {LOWEST}..{HIGHEST}, or [lowest, highest] of them; null for the stock tyres")
    return ends[0], ends[1]


def draw_grip(bounds: tuple[float, float], generator: np.random.Generator) -> float:
    """Draw an episode's factor, uniformly, from a stream beside that of ``generator``, whose own draws stay what they are."""
    return float(generator.spawn(1)[0].uniform(*bounds))


def set_grip(car: Any, grip: float) -> None:
    """Let the tyres of ``car`` bear ``grip`` times the stock force, on road and on grass, before they slide.

    The stock step takes that limit from a constant of its module; this car's step sees another one, no other car's does.
    """
    step: Any = type(car).step
    names = {**step.__globals__, "FRICTION_LIMIT": grip * step.__globals__["FRICTION_LIMIT"]}
    car.step = MethodType(FunctionType(step.__code__, names, "step"), car)


def track_curvature(track: Sequence[tuple[float, float, float, float]]) -> float:
    """Return the mean absolute curvature of a whole track [rad/unit], the simulator's rows of (angle, heading, x, y)."""
    rows = np.asarray(track, dtype=np.float64)
    length = np.hypot(*(np.roll(rows[:, 2:4], -1, axis=0) - rows[:, 2:4]).T).sum()
    turns = (np.roll(rows[:, 1], -1) - rows[:, 1] + np.pi) % (2 * np.pi) - np.pi
    return float(np.abs(turns).sum() / length)


def tell(told: Mapping[str, Any], *, grip: float | None, curvature: float | None) -> dict[str, Any]:
    """Add to the conditioning of an episode what is given: numbers, tags, and words before the text.

    Args:
        told: ``tags``, ``numbers`` and ``text``.
        grip: Factor of the tyres' force.
        curvature: Mean absolute curvature [rad/unit].
    """
    numbers = {name: value for name, value in (("grip", grip), ("curvature", curvature)) if value is not None}
    tags = [name for name, holds in (("winding", (curvature or 0) > WINDING), ("slippery", grip is not None and grip < SLIPPERY)) if holds]
    text = f"{', '.join(tags)} {told['text']}".strip()
    return {"tags": (*told["tags"], *tags), "numbers": {**told["numbers"], **numbers}, "text": text}
