"""Noise around any policy: jitter, sticky actions and random replacements. Scenarios have ``perturb`` for it, and more."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.vector.utils import batch_space, iterate

from worldsim.policies.random import seeded
from worldsim.policies.rows import Rows, stack
from worldsim.scenario.director_actions import has_box, jitter
from worldsim.types import Actions, Observation, Policy


class ActionNoise:
    """Disturbs the actions of another policy, each row from its own seed."""

    def __init__(
        self,
        policy: Policy | Callable[..., Policy],
        action_space: Space[Any],
        *,
        gaussian: float = 0.0,
        sticky: float = 0.0,
        epsilon: float = 0.0,
    ) -> None:
        """Wrap ``policy``.

        Args:
            policy: A policy, or what builds one from ``action_space=``.
            action_space: Space of one action.
            gaussian: Standard deviation of the jitter on Box actions, as a fraction of half a bounded number's range;
                in the number's own units where it has no bounds. Actions stay within the space.
            sticky: Probability that a row does its last action again.
            epsilon: Probability that an action is replaced by a sample of the space.

        Raises:
            ValueError: A strength is out of its range, or ``gaussian`` is given for a space without Box numbers.
        """
        if gaussian < 0 or not 0 <= sticky <= 1 or not 0 <= epsilon <= 1:
            raise ValueError(f"gaussian={gaussian} must be 0 or more, sticky={sticky} and epsilon={epsilon} probabilities in 0..1")
        if gaussian > 0 and not has_box(action_space):
            raise ValueError(f"gaussian={gaussian} needs a Box in the action space, which is {action_space}: use epsilon or sticky")
        self.policy = _built(policy, action_space)
        self._space, self._gaussian, self._sticky, self._epsilon = action_space, gaussian, sticky, epsilon
        self._rows = Rows(lambda rng: _Row(seeded(action_space, rng), rng), salt=0x0157)

    def act(self, observation: Observation) -> Actions:
        """Return the disturbed actions ``(B, ...)``, laid out as the wrapped policy's."""
        rows = self._rows.update(observation)
        given = iterate(batch_space(self._space, len(rows)), self.policy.act(observation))
        return stack(self._space, [self._disturb(row, action) for row, action in zip(rows, given, strict=True)])

    def _disturb(self, row: _Row, action: Any) -> Any:
        if row.last is not None and row.rng.random() < self._sticky:
            return row.last
        if row.rng.random() < self._epsilon:
            row.last = row.space.sample()
        else:
            row.last = jitter(self._space, action, self._gaussian, row.rng) if self._gaussian > 0 else copy.deepcopy(action)
        return row.last


class _Row:
    """One row's generator, its space for samples, and the action it did last."""

    def __init__(self, space: Space[Any], rng: np.random.Generator) -> None:
        self.space, self.rng = space, rng
        self.last: Any = None


def _built(policy: Policy | Callable[..., Policy], action_space: Space[Any]) -> Policy:
    if isinstance(policy, Policy) and not isinstance(policy, type):
        return policy
    assert callable(policy), "what is no policy builds one"
    return policy(action_space=action_space)
