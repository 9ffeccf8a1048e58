"""A scripted driver that follows a road by the bearings of points ahead, cleanly or badly on purpose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from worldsim.policies.rows import Rows
from worldsim.types import Actions, Observation

_NEEDED = ("path_angle_near", "path_angle_far", "speed")
_NEAR, _FAR = 8.0, 22.0  # units along the road to the two points
_CALM = 25.0  # units/s from which on a steady hand looks farther ahead
_STEER_SECONDS, _PEDAL_SECONDS = 0.4, 0.8  # correlation times of the noise
_STRONG = 0.3  # noise from which on bursts happen


@dataclass(frozen=True)
class Style:
    """How one episode is driven.

    Attributes:
        speed: Speed on straights [units/s].
        noise: Standard deviation of the steering noise, in units of full lock; the pedals' is half of it.
        grip: Sideways acceleration allowed in corners [units/s^2].
        gain: Steering (fraction of full lock) for each rad of bearing.
        lane: Distance kept from the centre line [units], left positive.
        bursts: Bursts of held random actions a second.
        weaves: Whether the near point alone is steered at, which sways from side to side above some 35 units/s.
    """

    speed: float
    noise: float
    grip: float
    gain: float
    lane: float
    bursts: float
    weaves: bool


class PurePursuit:
    """Steers at a point ahead, brakes for corners, and drives as badly as each episode's draw says.

    Needs the labelled state ``path_angle_near``, ``path_angle_far`` [rad, left positive] and ``speed`` [units/s],
    so it drives a recorded simulator and any learned world that predicts these names.
    Every episode draws its style from its seed: speed, cornering, lane, a steady or a weaving hand, and one of ``noises``:
    slowly varying noise on wheel and pedals, from 0.3 on also bursts in which a random action, a skid, a full stop or a turn
    off the road is held.
    """

    def __init__(
        self,
        action_space: Space[Any],
        *,
        speeds: tuple[float, float] = (15.0, 65.0),
        noises: Sequence[float] = (0.0, 0.1, 0.3, 0.6),
        burst: float = 0.6,
        lane: float = 2.0,
        weaving: float = 0.3,
        fps: float = 25.0,
    ) -> None:
        """Build the driver.

        Args:
            action_space: ``Box(3)``: steering (right positive), gas, brake.
            speeds: Range of the speed on straights [units/s].
            noises: Strengths of which every episode draws one; 0 drives cleanly.
            burst: Bursts a second at noise 1; in proportion below, none under 0.3.
            lane: Farthest distance kept from the centre line [units].
            weaving: Share of episodes that are driven with a weaving hand, with hard steering at speed.
            fps: Actions a second.

        Raises:
            ValueError: The action space is not a Box of three, or an argument is out of its range.
        """
        if not isinstance(action_space, spaces.Box) or action_space.shape != (3,):
            raise ValueError(f"PurePursuit drives Box(3) actions (steering, gas, brake), not {action_space}: choose another policy")
        if not 0 < speeds[0] <= speeds[1]:
            raise ValueError(f"speeds={tuple(speeds)} must be (lowest, highest) with 0 < lowest <= highest")
        if not noises or min(noises) < 0:
            raise ValueError(f"noises={tuple(noises)} must hold at least one strength, none below 0")
        if burst < 0 or fps <= 0:
            raise ValueError(f"burst={burst} must be 0 or more and fps={fps} above 0")
        if not 0 <= weaving <= 1:
            raise ValueError(f"weaving={weaving} must be a share in 0..1")
        self._low, self._high = action_space.low.tolist(), action_space.high.tolist()
        self._speeds, self._noises, self._burst, self._lane, self._fps = speeds, tuple(noises), burst, lane, fps
        self._weaving = weaving
        self._rows = Rows(self._begin, salt=0x9E37)

    def act(self, observation: Observation) -> Actions:
        """Return actions ``(B, 3)`` float32.

        Raises:
            ValueError: The world has no labelled state of the needed names.
        """
        missing = [name for name in _NEEDED if name not in observation.state]
        if missing:
            raise ValueError(
                f"PurePursuit needs the labelled state {missing}; the world has {sorted(observation.state)}: use another policy"
            )
        states = zip(*(observation.state[name].tolist() for name in _NEEDED), strict=True)
        rows = [driver.act(*state) for driver, state in zip(self._rows.update(observation), states, strict=True)]
        return np.clip(np.array(rows, dtype=np.float32).reshape(-1, 3), self._low, self._high).astype(np.float32)

    def _begin(self, rng: np.random.Generator) -> Driver:
        noise = float(self._noises[int(rng.integers(len(self._noises)))])
        style = Style(
            speed=float(rng.uniform(*self._speeds)),
            noise=noise,
            grip=float(rng.uniform(60, 110)),
            gain=float(rng.uniform(1.6, 2.2)),
            lane=float(rng.uniform(-self._lane, self._lane)),
            bursts=self._burst * noise if noise >= _STRONG else 0.0,
            weaves=float(rng.spawn(1)[0].random()) < self._weaving,
        )
        return Driver(style, rng, 1 / self._fps)


class Driver:
    """One row of ``PurePursuit``: a style, its noise, and the burst it may be in."""

    def __init__(self, style: Style, rng: np.random.Generator, seconds: float) -> None:
        """Drive in ``style``, one action every ``seconds``."""
        self._style, self._rng, self._seconds = style, rng, seconds
        self._wheel, self._pedals = 0.0, 0.0
        self._held, self._left = (0.0, 0.0, 0.0), 0

    def act(self, near: float, far: float, speed: float) -> tuple[float, float, float]:
        """Return steering, gas and brake for bearings ``near`` and ``far`` [rad] and ``speed`` [units/s]."""
        style = self._style
        if style.noise > 0:
            self._wheel = self._drift(self._wheel, _STEER_SECONDS)
            self._pedals = self._drift(self._pedals, _PEDAL_SECONDS)
            if self._left == 0 and self._rng.random() < style.bursts * self._seconds:
                self._held, self._left = self._burst()
        if self._left > 0:
            self._left -= 1
            return self._held
        steer = self._steer(near, far, speed) + style.noise * self._wheel
        pedal = 0.08 * (self._wanted(near, far) - speed) + 0.5 * style.noise * self._pedals
        gas = min(max(pedal, 0.0), 0.7) * (1 - 0.6 * min(abs(steer), 1.0))
        return steer, gas, min(max(-pedal - 0.1, 0.0), 0.8)

    def _steer(self, near: float, far: float, speed: float) -> float:
        """Steer at the near point, shifted by the lane; a steady hand goes over to the far point with speed."""
        close = self._style.gain * (near + math.atan2(self._style.lane, _NEAR))
        if self._style.weaves:
            return -close - 0.4 * far
        share = min(1.0, _CALM / max(speed, 1e-6)) ** 2
        return -share * (close + 0.2 * far) - (1 - share) * 0.5 * (far + math.atan2(self._style.lane, _FAR))

    def _wanted(self, near: float, far: float) -> float:
        """Speed [units/s] at which the bend ahead is taken with the style's grip; slow where the road is out of sight."""
        if max(abs(near), abs(far)) > 1.2:
            return min(self._style.speed, 14.0)
        bend = 2 * abs(math.sin(far)) / _FAR
        return min(self._style.speed, math.sqrt(self._style.grip / max(bend, 1e-6)))

    def _drift(self, value: float, correlation: float) -> float:
        """Step an Ornstein-Uhlenbeck process of standard deviation 1."""
        keep = math.exp(-self._seconds / correlation)
        return keep * value + math.sqrt(1 - keep * keep) * float(self._rng.standard_normal())

    def _burst(self) -> tuple[tuple[float, float, float], int]:
        """Draw a held action and the number of steps it is held for."""
        rng, kind = self._rng, int(self._rng.integers(4))
        seconds, side = float(rng.uniform(0.3, 1.0)), float(rng.choice((-1.0, 1.0)))
        if kind == 0:  # anything
            held = (float(rng.uniform(-1, 1)), float(rng.uniform(0, 1)), float(rng.uniform(0, 1)) * float(rng.random() < 0.3))
        elif kind == 1:  # full lock on power: a skid or a spin
            held = (side * float(rng.uniform(0.6, 1.0)), float(rng.uniform(0.5, 1.0)), 0.0)
        elif kind == 2:  # a stop, and a while standing
            held, seconds = (0.2 * side, 0.0, float(rng.uniform(0.4, 1.0))), 2 * seconds
        else:  # off the road in a wide arc
            held, seconds = (0.15 * side, float(rng.uniform(0.2, 0.6)), 0.0), 1.5 * seconds
        return held, max(1, round(seconds / self._seconds))
