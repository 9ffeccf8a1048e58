"""A driver that brings the car to a stand and keeps to the road meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces

from worldsim.policies.pursuit import PurePursuit
from worldsim.types import Actions, Observation


class Braking:
    """Brakes by a fixed force, and steers along the road as ``PurePursuit`` does, or not at all.

    Needs the labelled state that ``PurePursuit`` needs.
    """

    def __init__(self, action_space: Space[Any], *, force: float = 0.8, steer: bool = True) -> None:
        """Build the driver.

        Args:
            action_space: ``Box(3)``: steering (right positive), gas, brake.
            force: Brake, 0..1; from about 0.9 on, wheels lock where the source models that.
            steer: Whether it steers along the road; otherwise the wheel is straight.

        Raises:
            ValueError: The action space is not a Box of three, or ``force`` is out of its range.
        """
        if not isinstance(action_space, spaces.Box) or action_space.shape != (3,):
            raise ValueError(f"Braking drives Box(3) actions (steering, gas, brake), not {action_space}: choose another policy")
        if not 0 < force <= 1:
            raise ValueError(f"force={force} must be above 0 and at most 1")
        self._force, self._steer = force, steer
        self._driver = PurePursuit(action_space, noises=(0.0,), lane=0.0, weaving=0.0)

    def act(self, observation: Observation) -> Actions:
        """Return actions ``(B, 3)`` float32.

        Raises:
            ValueError: The world has no labelled state of the needed names.
        """
        actions = np.array(self._driver.act(observation))
        actions[:, 1:] = 0.0, self._force
        if not self._steer:
            actions[:, 0] = 0.0
        return actions
