"""A scripted hand that takes an object to its goal, by nothing but the labelled state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from worldsim.policies.manipulation import check_space, read_state
from worldsim.policies.rows import Rows
from worldsim.types import Actions, Observation

_NAMES = tuple(f"{thing}_{axis}" for thing in ("gripper", "object", "goal") for axis in "xyz")
_NEAR = 0.025  # m from a place that counts as there
_PATIENCE = 40  # steps after which the next phase begins all the same
_GRASP = 8  # steps that the fingers get to close
_GAIN = 20.0  # action for a metre of distance


@dataclass
class _Phase:
    """Where one row is: its draws, and how far it has come."""

    speed: float
    miss: NDArray[np.float64]
    number: int = 0
    steps: int = 0


class Handling:
    """Goes beside the object, to it, closes the fingers, and goes to the goal, whatever comes of it.

    Needs the labelled state ``gripper_*``, ``object_*`` and ``goal_*`` (``_x``, ``_y``, ``_z``) [m], so it drives any world or simulator
    that tells them. As it stands it does Meta-World's push, pick-place, drawer-open and door-open; ``approach=(0, -0.08, 0.08)``, from
    before and above, presses buttons.
    """

    def __init__(
        self,
        action_space: Space[Any],
        *,
        approach: Sequence[float] = (0.0, 0.0, 0.12),
        speeds: tuple[float, float] = (0.6, 1.0),
        miss: float = 0.0,
    ) -> None:
        """Build the policy.

        Args:
            action_space: ``Box(4)``: motion along x, y, z, and the gripper's effort.
            approach: Place [m] beside the object, from it, that the hand takes first.
            speeds: Range of the share of full speed; each episode draws one.
            miss: Standard deviation [m], along x and y, of how wrong the object's place is taken to be in an episode.

        Raises:
            ValueError: The action space is not a Box of four, or an argument is out of its range.
        """
        check_space("Handling", action_space)
        self._approach = np.asarray(approach, dtype=np.float64)
        if self._approach.shape != (3,):
            raise ValueError(f"approach={tuple(approach)} must be a place (x, y, z) [m] from the object")
        if not 0 < speeds[0] <= speeds[1] <= 1:
            raise ValueError(f"speeds={tuple(speeds)} must be (lowest, highest) with 0 < lowest <= highest <= 1")
        if miss < 0:
            raise ValueError(f"miss={miss} must be 0 or more")
        self._speeds, self._miss = (speeds[0], speeds[1]), miss
        self._rows = Rows(self._begin, salt=0x4A4D)

    def act(self, observation: Observation) -> Actions:
        """Return actions ``(B, 4)`` float32 in [-1, 1].

        Raises:
            ValueError: The world has no labelled state of the needed names.
        """
        places = read_state(observation, _NAMES, "Handling")  # (B, 9)
        rows = [self._move(row, *place.reshape(3, 3)) for row, place in zip(self._rows.update(observation), places, strict=True)]
        return np.clip(np.array(rows, dtype=np.float32).reshape(-1, 4), -1, 1)

    def _begin(self, rng: np.random.Generator) -> _Phase:
        return _Phase(float(rng.uniform(*self._speeds)), self._miss * rng.standard_normal(3) * (1, 1, 0))

    def _move(self, row: _Phase, hand: NDArray[np.float64], thing: NDArray[np.float64], goal: NDArray[np.float64]) -> NDArray[np.float64]:
        touch = thing + row.miss
        place = (touch + self._approach, touch, touch, goal)[row.number]
        there = row.steps >= _GRASP if row.number == 2 else bool(np.abs(place - hand).max() < _NEAR)
        row.steps += 1
        if row.number < 3 and (there or row.steps > _PATIENCE):
            row.number, row.steps = row.number + 1, 0
        motion = row.speed * np.clip(_GAIN * (place - hand), -1, 1)
        return np.append(motion, 1.0 if row.number >= 2 else -1.0)
