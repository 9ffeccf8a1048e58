"""When events happen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldsim.scenario.director_random import stream
from worldsim.scenario.events import When
from worldsim.scenario.expressions import Expression, parse_expression

_PAST = frozenset({"action", "reward"})
"""What is known from the first action on."""


class Trigger:
    """One event's trigger in one episode; asked once a step, in order.

    Args:
        when: What fires it.
        seed: Seed of the episode.
        name: What its randomness is drawn for.
        fps: Steps a second.
    """

    def __init__(self, when: When, *, seed: int, name: str, fps: float) -> None:
        self._when, self._seed, self._name, self._fps = when, seed, name, fps
        self._left = 1 if when.step is not None or when.time is not None else when.times
        self._predicate: Expression | None = None if when.predicate is None else parse_expression(when.predicate)
        rate = when.rate or 0.0
        self._chance = rate if when.per == "step" else rate / fps

    def fires(self, step: int, values: Mapping[str, Any]) -> bool:
        """Whether it fires at ``step``, by the names and ``values`` of this moment."""
        if self._left == 0 or step < self._when.after or not self._holds(step, values):
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def _holds(self, step: int, values: Mapping[str, Any]) -> bool:
        if self._when.step is not None:
            return step == self._when.step
        if self._when.time is not None:
            return step / self._fps >= self._when.time - 1e-9
        if self._predicate is not None:
            return not (step == 0 and self._predicate.names & _PAST) and self._predicate.holds(values)
        return bool(stream(self._seed, step, self._name).random() < self._chance)
