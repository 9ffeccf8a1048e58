"""A driver that sees the road in the frames, and so is misled by what befalls the camera."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from worldsim.policies.rows import Rows
from worldsim.types import Actions, Frames, Observation

_HOOD = 0.70  # rows of the frame, as fractions from the top: just ahead of the car,
_NEAR, _FAR, _CAR = 0.52, 0.30, 0.75  # two places to look at, and the car itself
_ASIDE = 0.16  # how far, in widths, the road moves aside from one looked-at row to the next
_LEARN = 0.1  # share of a frame in the remembered colour of the road


class RoadCamera:
    """Follows the colour of the road as a bird's-eye camera with the car low in the middle sees it, heading up.

    It remembers the colour that it started on and steers at what has that colour ahead; where it sees none, it goes on as before.
    The pedals hold a speed, slower into bends, by the labelled state ``speed`` [units/s] where the world has it. Nothing is random.
    """

    def __init__(self, action_space: Space[Any], *, speed: float = 30.0, gain: float = 1.2) -> None:
        """Build the driver.

        Args:
            action_space: ``Box(3)``: steering (right positive), gas, brake.
            speed: Speed on straights [units/s].
            gain: Steering (fraction of full lock) for each rad between heading and road.

        Raises:
            ValueError: The action space is not a Box of three, or an argument is not above 0.
        """
        if not isinstance(action_space, spaces.Box) or action_space.shape != (3,):
            raise ValueError(f"RoadCamera drives Box(3) actions (steering, gas, brake), not {action_space}: choose another policy")
        if speed <= 0 or gain <= 0:
            raise ValueError(f"speed={speed} and gain={gain} must be above 0")
        self._low, self._high = action_space.low, action_space.high
        self._speed, self._gain = speed, gain
        self._rows = Rows(lambda _: _Eye(), salt=0)

    def act(self, observation: Observation) -> Actions:
        """Return actions ``(B, 3)`` float32.

        Raises:
            ValueError: There are no frames to look at.
        """
        if observation.frames.shape[1] < 8 or observation.frames.shape[2] < 8:
            raise ValueError(f"RoadCamera needs frames of 8x8 or more, not {observation.frames.shape[1:3]}: choose another policy")
        speeds = observation.state.get("speed", np.full(len(observation.first), self._speed / 2, np.float32)).tolist()
        eyes = self._rows.update(observation)
        rows = [self._drive(*eye.look(frame), speed) for eye, frame, speed in zip(eyes, observation.frames, speeds, strict=True)]
        return np.clip(np.array(rows, np.float32).reshape(-1, 3), self._low, self._high).astype(np.float32)

    def _drive(self, near: float, far: float, speed: float) -> tuple[float, float, float]:
        wanted = self._speed * max(0.35, 1 - 0.8 * abs(far))
        pedal = 0.08 * (wanted - speed)
        return self._gain * (0.7 * near + 0.3 * far), min(max(pedal, 0.0), 0.6), min(max(-pedal - 0.1, 0.0), 0.8)


class _Eye:
    """One row's memory: the colour of the road, and where it last was."""

    def __init__(self) -> None:
        self._colour: NDArray[np.float32] | None = None
        self._seen = (0.0, 0.0)

    def look(self, frame: Frames) -> tuple[float, float]:
        """Return the bearings [rad, right positive] of the road at the near and the far place; frame ``(H, W, 3)``."""
        height, width = frame.shape[:2]
        light = frame.astype(np.float32)
        hood, middle = int(_HOOD * height), width // 2
        here = np.median(light[hood - 2 : hood, middle - 3 : middle + 3].reshape(-1, 3), axis=0).astype(np.float32)
        if self._colour is None:
            self._colour = here
        away = np.abs(light[: hood + 1] - self._colour).sum(axis=-1)  # (hood + 1, W)
        limit = 0.4 * float(np.quantile(away, 0.9))
        if limit > 4 and float(np.abs(here - self._colour).sum()) < limit:
            self._colour = (self._colour + _LEARN * (here - self._colour)).astype(np.float32)
        places = self._follow(away < limit, hood, int(_FAR * height), width) if limit > 4 else {}
        self._seen = (
            _bearing(places, int(_NEAR * height), height, width, self._seen[0]),
            _bearing(places, int(_FAR * height), height, width, self._seen[1]),
        )
        return self._seen

    def _follow(self, road: NDArray[np.bool_], start: int, stop: int, width: int) -> dict[int, float]:
        """Return the middle of the road by row, upwards from the car, as far as it goes."""
        places: dict[int, float] = {}
        middle, reach = width / 2, max(2.0, _ASIDE * width)
        columns = np.arange(width) + 0.5
        for row in range(start, stop - 1, -1):
            there = columns[road[row] & (np.abs(columns - middle) < 2 * reach)]
            if len(there):
                middle += float(np.clip(there.mean() - middle, -reach, reach))
                places[row] = middle
        return places


def _bearing(places: dict[int, float], row: int, height: int, width: int, otherwise: float) -> float:
    """Return the bearing of the road at ``row`` or the nearest row below it where there is road."""
    found = [other for other in places if row <= other <= row + height // 8]
    return math.atan2(places[min(found)] - width / 2, _CAR * height - min(found)) if found else otherwise
