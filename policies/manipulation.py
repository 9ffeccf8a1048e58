"""Scripted policies for a robot arm that handles things on a table: experts, cleanly or badly on purpose, and aimless motion."""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from worldsim.policies.rows import Rows
from worldsim.types import Actions, Observation

TASKS = ("push", "pick-place", "button-press", "drawer-open", "door-open")
"""What the numbers of the labelled state ``task`` mean."""
FAULTS = ("other", "miss", "stop", "release", "back")
_GRIPPER = ("gripper_x", "gripper_y", "gripper_z")
_NEEDED = (*_GRIPPER, "opening", "object_x", "object_y", "object_z", "goal_x", "goal_y", "goal_z", "task")
_NOISE_SECONDS = 0.2  # correlation time of the noise
_PASSING = 0.6  # share of faults that pass
_LOW, _HIGH = (-0.3, 0.42, 0.06), (0.25, 0.85, 0.3)  # corners [m] of the box that aimless motion stays in

Expert = Callable[[NDArray[np.float64]], NDArray[np.float32]]


@dataclass(frozen=True)
class Temper:
    """How one episode is handled.

    Attributes:
        speed: Factor on the hand's motion.
        noise: Standard deviation of the slowly varying noise on actions.
        bursts: Probability that a step begins a burst of one random action.
        fault: One of ``FAULTS``, or empty.
        faulty: Steps in which it shows.
        other: How many tasks farther the expert is that acts by mistake.
        miss: Where the object is taken to be, ``(x, y, z)`` [m] from where it is.
    """

    speed: float
    noise: float
    bursts: float
    fault: str
    faulty: range
    other: int
    miss: tuple[float, float, float]


class MetaWorldExpert:
    """Meta-World's scripted expert of the task at hand, as well or as badly as each episode's draw says.

    Needs the labelled state of ``worldsim/MetaWorld-v0`` (places of gripper, object and goal [m], ``opening`` in 0..1, and ``task``), so
    it drives the simulator and any learned world that predicts these names. Every episode draws from its seed how fast the hand moves,
    one of ``noises``, and one of ``faults``, which begins within the first second, and in three of five episodes ends after 10 to 50 steps:

    - ``other``: the expert of another task acts.
    - ``miss``: the object is taken to be 3 to 10 cm from where it is.
    - ``stop``: the hand stays where it is.
    - ``release``: the gripper opens and the hand goes up.
    - ``back``: the hand does the opposite of what it should.
    """

    def __init__(
        self,
        action_space: Space[Any],
        *,
        speeds: tuple[float, float] = (0.4, 1.0),
        noises: Sequence[float] = (0.0,),
        faults: Sequence[str] = (),
        bursts: float = 0.0,
        fps: float = 40.0,
    ) -> None:
        """Build the policy.

        Args:
            action_space: ``Box(4)``: motion along x, y, z, and the gripper's effort.
            speeds: Range of the factor on the hand's motion.
            noises: Strengths of the noise on actions, of which every episode draws one; 0 is clean, 1 as strong as any action.
            faults: Faults of which every episode draws one; empty for none.
            bursts: Times a second that a random action is held for a fraction of a second.
            fps: Actions a second.

        Raises:
            ValueError: Meta-World is not installed, the action space is not a Box of four, or an argument is out of its range.
        """
        check_space("MetaWorldExpert", action_space)
        if not 0 < speeds[0] <= speeds[1] <= 1:
            raise ValueError(f"speeds={tuple(speeds)} must be (lowest, highest) with 0 < lowest <= highest <= 1")
        if not noises or min(noises) < 0 or bursts < 0 or fps <= 0:
            raise ValueError(
                f"noises={tuple(noises)} must hold at least one strength of 0 or more, bursts={bursts} 0 or more, fps={fps} above 0"
            )
        if unknown := [fault for fault in faults if fault not in FAULTS]:
            raise ValueError(f"faults={list(faults)}: {unknown} are unknown; allowed: {', '.join(FAULTS)}")
        self._speeds, self._noises, self._faults = (speeds[0], speeds[1]), tuple(noises), tuple(faults)
        self._bursts, self._keep = bursts / fps, math.exp(-1 / (_NOISE_SECONDS * fps))
        self._experts = _experts()
        self._rows = Rows(self._begin, salt=0x3E7A)

    def act(self, observation: Observation) -> Actions:
        """Return actions ``(B, 4)`` float32 in [-1, 1].

        Raises:
            ValueError: The world has no labelled state of the needed names.
        """
        places = read_state(observation, _NEEDED, "MetaWorldExpert")  # (B, 11)
        rows = [hand.act(place) for hand, place in zip(self._rows.update(observation), places, strict=True)]
        return np.clip(np.array(rows, dtype=np.float32).reshape(-1, 4), -1, 1)

    def _begin(self, rng: np.random.Generator) -> _Hand:
        noise = float(self._noises[int(rng.integers(len(self._noises)))])
        fault = self._faults[int(rng.integers(len(self._faults)))] if self._faults else ""
        speed, drift = float(rng.uniform(*self._speeds)), rng.standard_normal(4)
        other = int(rng.integers(1, len(self._experts)))
        angle, far, high = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0.03, 0.1)), float(rng.uniform(-0.02, 0.04))
        begin, lasts = int(rng.integers(0, 40)), int(rng.integers(10, 50))
        end = begin + lasts if rng.random() < _PASSING else sys.maxsize
        miss = (far * math.cos(angle), far * math.sin(angle), high)
        temper = Temper(speed, noise, self._bursts, fault, range(begin, end) if fault else range(0), other, miss)
        return _Hand(self._experts, temper, rng, drift, self._keep)


class _Hand:
    """One row of ``MetaWorldExpert``: a temper, its noise, and the burst it may be in."""

    def __init__(
        self, experts: Sequence[Expert], temper: Temper, rng: np.random.Generator, drift: NDArray[np.float64], keep: float
    ) -> None:
        self._experts, self._temper, self._rng, self._drift, self._keep = experts, temper, rng, drift, keep
        self._held, self._left = np.zeros(4), 0
        self._step = 0

    def act(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the action ``(4,)`` for the needed state ``(11,)``."""
        fault = self._temper.fault if self._step in self._temper.faulty else ""
        self._step += 1
        self._drift = self._keep * self._drift + math.sqrt(1 - self._keep**2) * self._rng.standard_normal(4)
        if self._left == 0 and self._rng.random() < self._temper.bursts:
            self._held, self._left = self._rng.uniform(-1, 1, size=4), int(self._rng.integers(4, 16))
        if self._left > 0:
            self._left -= 1
            return self._held
        return self._move(place, fault) + self._temper.noise * self._drift

    def _move(self, place: NDArray[np.float64], fault: str) -> NDArray[np.float64]:
        if fault == "release":
            return np.array([0, 0, 10 * (0.25 - place[2]), -1])
        action = self._ask(place, fault)
        action[:3] *= self._temper.speed * {"stop": 0.0, "back": -1.0}.get(fault, 1.0)
        return action

    def _ask(self, place: NDArray[np.float64], fault: str) -> NDArray[np.float64]:
        """Ask the expert: it sees the hand, the opening, the object and the goal in an observation of 39 numbers."""
        seen = np.zeros(39)
        seen[:7], seen[-3:] = place[:7], place[7:10]
        if fault == "miss":
            seen[4:7] += self._temper.miss
        number = min(max(round(float(place[10])), 0), len(self._experts) - 1)
        if fault == "other":
            number = (number + self._temper.other) % len(self._experts)
        return np.clip(np.asarray(self._experts[number](seen), dtype=np.float64), -1, 1)


class Reaching:
    """Moves a robot's hand to one random place after another, opening and closing the gripper, whatever is on the table.

    Needs the labelled state ``gripper_x``, ``gripper_y`` and ``gripper_z`` [m]. Speeds and places are drawn from each episode's seed.
    """

    def __init__(self, action_space: Space[Any], *, low: Sequence[float] = _LOW, high: Sequence[float] = _HIGH, stay: int = 30) -> None:
        """Build the policy.

        Args:
            action_space: ``Box(4)``: motion along x, y, z, and the gripper's effort.
            low: Lowest x, y, z [m] of places.
            high: Highest x, y, z [m] of places.
            stay: Most steps before the next place is drawn.

        Raises:
            ValueError: The action space is not a Box of four, or an argument is out of its range.
        """
        check_space("Reaching", action_space)
        self._low, self._high, self._stay = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64), stay
        if self._low.shape != (3,) or self._high.shape != (3,) or (self._low > self._high).any():
            raise ValueError(f"low={tuple(low)} and high={tuple(high)} must be corners (x, y, z) [m] of a box, low below high")
        if stay < 1:
            raise ValueError(f"stay={stay} must be 1 or more")
        self._rows = Rows(lambda rng: _Reach(rng, self._low, self._high, self._stay), salt=0x7EAC)

    def act(self, observation: Observation) -> Actions:
        """Return actions ``(B, 4)`` float32 in [-1, 1].

        Raises:
            ValueError: The world has no labelled state of the needed names.
        """
        places = read_state(observation, _GRIPPER, "Reaching")  # (B, 3)
        rows = [reach.act(place) for reach, place in zip(self._rows.update(observation), places, strict=True)]
        return np.clip(np.array(rows, dtype=np.float32).reshape(-1, 4), -1, 1)


class _Reach:
    """One row of ``Reaching``: the place to go to, and the steps left for it."""

    def __init__(self, rng: np.random.Generator, low: NDArray[np.float64], high: NDArray[np.float64], stay: int) -> None:
        self._rng, self._low, self._high, self._stay = rng, low, high, stay
        self._speed = float(rng.uniform(0.3, 1.0))
        self._place, self._grip, self._left = low, 0.0, 0

    def act(self, gripper: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the action ``(4,)`` for the hand's place ``(3,)``."""
        if self._left == 0 or float(np.abs(self._place - gripper).max()) < 0.02:
            self._place = self._rng.uniform(self._low, self._high)
            self._grip, self._left = float(self._rng.uniform(-1, 1)), int(self._rng.integers(1, self._stay, endpoint=True))
        self._left -= 1
        return np.append(self._speed * np.clip(20 * (self._place - gripper), -1, 1), self._grip)


def check_space(name: str, space: Space[Any]) -> None:
    """Refuse an action space that is not the hand's, in the name of policy ``name``."""
    if not isinstance(space, spaces.Box) or space.shape != (4,):
        raise ValueError(f"{name} moves a hand by Box(4) actions (x, y, z, gripper), not {space}: choose another policy")


def read_state(observation: Observation, names: Sequence[str], policy: str) -> NDArray[np.float64]:
    """Return the labelled state of ``names``, ``(B, len(names))``."""
    if missing := [name for name in names if name not in observation.state]:
        raise ValueError(f"{policy} needs the labelled state {missing}; the world has {sorted(observation.state)}: use another policy")
    return np.stack([np.asarray(observation.state[name], dtype=np.float64) for name in names], axis=1)


def _experts() -> list[Expert]:
    """Return the experts of ``TASKS``, in order."""
    try:
        known = importlib.import_module("metaworld.policies").ENV_POLICY_MAP
    except ImportError as error:
        raise ValueError(f"MetaWorldExpert takes its experts from Meta-World ({error}): pip install 'worldsim-gym[metaworld]'") from error
    return [_quiet(known[f"{task}-v3"]().get_action) for task in TASKS]


def _quiet(expert: Expert) -> Expert:
    """Keep an expert from warning that its actions are to be clipped, which they are."""

    def act(seen: NDArray[np.float64]) -> NDArray[np.float32]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return expert(seen)

    return act
