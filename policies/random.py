"""Uniform random actions, each held for a random number of steps."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from gymnasium import Space

from worldsim.policies.rows import Rows, stack
from worldsim.types import Actions, Observation


class RandomPolicy:
    """Samples the action space and holds each sample; works for every action space."""

    def __init__(self, action_space: Space[Any], *, hold: tuple[int, int] = (1, 10)) -> None:
        """Build the policy.

        Args:
            action_space: Space of one action.
            hold: Fewest and most steps that a sample is held.

        Raises:
            ValueError: ``hold`` is no range of 1 or more steps.
        """
        if not 1 <= hold[0] <= hold[1]:
            raise ValueError(f"hold={tuple(hold)} must be (fewest, most) steps with 1 <= fewest <= most")
        self._space, self._hold = action_space, (int(hold[0]), int(hold[1]))
        self._rows = Rows(self._begin, salt=0x51AB)

    def act(self, observation: Observation) -> Actions:
        """Return actions ``(B, ...)`` as the action space's batch space lays them out."""
        return stack(self._space, [sampler.next() for sampler in self._rows.update(observation)])

    def _begin(self, rng: np.random.Generator) -> _Sampler:
        return _Sampler(self._space, self._hold, rng)


class _Sampler:
    """One row: its own copy of the space, and the action held."""

    def __init__(self, space: Space[Any], hold: tuple[int, int], rng: np.random.Generator) -> None:
        self._space, self._hold, self._rng = seeded(space, rng), hold, rng
        self._action: Any = None
        self._left = 0

    def next(self) -> Any:
        if self._left == 0:
            self._action = self._space.sample()
            self._left = int(self._rng.integers(*self._hold, endpoint=True))
        self._left -= 1
        return self._action


def seeded(space: Space[Any], rng: np.random.Generator) -> Space[Any]:
    """Return a copy of ``space`` that samples from a stream drawn from ``rng``."""
    own = copy.deepcopy(space)
    own.seed(int(rng.integers(2**31)))
    return own
