"""First-person rooms of ViZDoom as a source to record: seeded, with buttons of fixed strength, labelled state and classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image

from worldsim.envs.sources.vizdoom_engine import BUTTONS, MOUSE, TICS, Engine, check_scenario, load_vizdoom
from worldsim.types import Frames

CLASSES = ("scenery", "item", "monster", "thing")
_WALK, _SIDESTEP = 25, 24  # the engine's numbers for walking
_ANGLE = 360 / 65536  # degrees; of parts of it the engine rounds left turns up and right turns down
_ITEMS = ("Ammo", "Armor", "Health", "Key", "Weapon", "Powerup", "Item")
_HARMLESS = ("my_way_home",)
_TOLD = {
    "my_way_home": "rooms and corridors of brick, stone and coloured panels",
    "health_gathering_supreme": "a stone maze on grass with medikits and poison",
    "health_gathering": "a room with an acid floor and medikits",
}


class VizdoomSource(gym.Env[Frames, NDArray[Any]]):
    """A scenario of ViZDoom, or a map of Freedoom, seen through the player's eyes.

    One step is ``action_repeat`` tics of 1/35 s, rewards summed, cut short by the end of the episode; only the last is drawn. The
    default of 4 gives 8.75 frames a second. Rewards and termination are the scenario's own; there is no time limit. Where an
    episode ends the engine draws nothing more, and the last frame and state are given again.
    The view is the square in the middle of the screen, 90 degrees wide and high, without weapon and status bar.

    Actions: ``MultiBinary``, one number a name of ``buttons``: any may be held together, as on a keyboard. A turn is ``turn`` degrees a
    step from the first step on, so that turns of equal length there and back cancel out.
    With ``analog``, ``Box(3)`` float32 in [-1, 1] instead: forward, turn and sideways (right positive), as shares of walking and ``turn``.
    Observations: frames ``(size, size, 3)`` uint8.
    ``info["state"]`` holds ``state_names`` in ``state_units``: the place on the map, the heading counted from the map's x axis to the
    left, the velocity as the player feels it and, where something can hurt, the health.
    ``info["segmentation"]``, with ``labels``, is ``(size, size)`` uint8: numbers of the classes that ``metadata["labels"]`` names. The
    engine tells objects apart, not walls from floors: these are all ``scenery``; ``thing`` is any object that is neither item nor monster.
    ``info["conditioning"]`` of a reset holds the scenario as tag and text; ``numbers`` is empty.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": TICS / 4}
    all_units: ClassVar[dict[str, str]] = {
        "x": "units",
        "y": "units",
        "heading_sin": "",
        "heading_cos": "",
        "speed_forward": "units/s",
        "speed_left": "units/s",
        "health": "points",
    }

    def __init__(
        self,
        scenario: str = "my_way_home",
        *,
        size: int = 64,
        action_repeat: int = 4,
        buttons: Sequence[str] = ("forward", "back", "left", "right", "turn_left", "turn_right"),
        analog: bool = False,
        turn: float = 10.0,
        labels: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Build the source; the engine starts with the first reset.

        Args:
            scenario: A scenario that ViZDoom ships, as ``my_way_home``, or a map, as ``freedoom2:MAP01``.
            size: Height and width of frames in pixels, 16 to 512.
            action_repeat: Tics of 1/35 s that one action is held for.
            buttons: What the numbers of an action hold down; also known: ``run``, ``jump``, ``attack`` and ``use``.
            analog: Whether actions are three numbers rather than buttons.
            turn: Degrees that a turn takes in one step, at most 90.
            labels: Whether ``info["segmentation"]`` tells what each pixel shows.
            render_mode: ``rgb_array`` or None.

        Raises:
            ValueError: ViZDoom is not installed, or an argument is unknown or out of its range.
        """
        check_scenario(scenario)
        if not 16 <= size <= 512:
            raise ValueError(f"size={size} is outside 16..512: take 64, 96 or 128")
        if action_repeat < 1:
            raise ValueError(f"action_repeat={action_repeat} must be 1 or more")
        if not buttons or len(set(buttons)) < len(buttons) or not set(buttons) <= set(BUTTONS):
            raise ValueError(f"buttons={list(buttons)} must be names, each once, out of {', '.join(BUTTONS)}")
        if not 0 < turn <= 90:
            raise ValueError(f"turn={turn} must be above 0 and at most 90 degrees a step")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} is unknown: use 'rgb_array' or None")
        load_vizdoom()
        self.scenario, self.size, self.action_repeat, self.turn = scenario, size, action_repeat, turn
        self.buttons = () if analog else tuple(buttons)
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": TICS / action_repeat}
        if labels:
            self.metadata["labels"] = {"segmentation": CLASSES}
        self.action_space = spaces.Box(-1, 1, (3,), np.float32) if analog else spaces.MultiBinary(len(self.buttons))
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.state_units = {name: unit for name, unit in self.all_units.items() if name != "health" or scenario not in _HARMLESS}
        self.state_names = tuple(self.state_units)
        self._labels = labels
        self._engine: Engine | None = None
        self._frame: Frames | None = None
        self._told: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frames, dict[str, Any]]:
        """Begin an episode where the scenario puts the player.

        Args:
            seed: Settles all that the scenario draws, as the starting place; None goes on with the stream of the last seed.
            options: Not used.
        """
        super().reset(seed=seed)
        if self._engine is None:
            self._engine = Engine(self.scenario, size=self.size, buttons=self.buttons, labels=self._labels)
        self._engine.begin(int(self.np_random.integers(2**31)))
        self._look()
        told = {"tags": (f"scenario:{self.scenario}",), "numbers": {}, "text": _TOLD.get(self.scenario, self.scenario.replace("_", " "))}
        return self._newest(), {**self._told, "conditioning": told}

    def step(self, action: NDArray[Any]) -> tuple[Frames, float, bool, bool, dict[str, Any]]:
        """Hold ``action`` for ``action_repeat`` tics.

        Raises:
            ValueError: The action is outside the action space.
        """
        engine = self._running()
        given = np.asarray(action, dtype=self.action_space.dtype)
        if not self.action_space.contains(given):
            raise ValueError(f"action {action!r} is outside {self.action_space}: {', '.join(self.buttons) or 'forward, turn, sideways'}")
        reward = float(engine.game.make_action(self._pressed(given), self.action_repeat))
        terminated = bool(engine.game.is_episode_finished())
        if not terminated:
            self._look()
        return self._newest(), reward, terminated, False, dict(self._told)

    def render(self) -> Frames | None:
        """Return the newest frame, or None without a render mode or before the first reset."""
        return None if self.render_mode is None or self._frame is None else self._frame.copy()

    def close(self) -> None:
        """End the engine."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _running(self) -> Engine:
        if self._engine is None or self._engine.game.is_episode_finished():
            raise gym.error.ResetNeeded("the episode has ended, or has not begun: call reset() before step()")
        return self._engine

    def _pressed(self, action: NDArray[Any]) -> list[float]:
        """Lay an action out as the engine takes it: ``MOUSE``, then buttons."""
        tic = self.turn / self.action_repeat
        if not self.buttons:
            forward, turn, aside = action.tolist()
            return [_whole(tic * turn), _WALK * forward, _SIDESTEP * aside]
        held = dict(zip(self.buttons, action.tolist(), strict=True))
        turning = held.get("turn_right", 0) - held.get("turn_left", 0)
        return [_whole(tic * turning), *(0.0 for _ in MOUSE[1:]), *(float(held[name]) for name in self.buttons if BUTTONS[name])]

    def _newest(self) -> Frames:
        assert self._frame is not None, "reset comes first"
        return self._frame.copy()

    def _look(self) -> None:
        """Take frame, state and classes over from the engine."""
        assert self._engine is not None, "reset comes first"
        seen = self._engine.game.get_state()
        self._frame = self._square(seen.screen_buffer, Image.Resampling.BOX)
        self._told = {"state": self._state(seen.game_variables.tolist())}
        if self._labels:
            classes = np.zeros(256, np.uint8)
            for label in seen.labels:
                classes[label.value] = _class_of(label.object_category)
            self._told["segmentation"] = self._square(classes[seen.labels_buffer], Image.Resampling.NEAREST)

    def _square(self, picture: NDArray[np.uint8], how: Image.Resampling) -> NDArray[np.uint8]:
        """Cut the square in the middle out and scale it to ``(size, size, ...)``."""
        height, width = picture.shape[:2]
        left = (width - height) // 2
        return np.array(Image.fromarray(picture).resize((self.size, self.size), how, box=(left, 0, left + height, height)))

    def _state(self, variables: list[float]) -> dict[str, float]:
        x, y, angle, across, along, health = variables
        sin, cos = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        forward, left = TICS * (across * cos + along * sin), TICS * (along * cos - across * sin)
        told = dict(zip(self.all_units, (x, y, sin, cos, forward, left, health), strict=True))
        return {name: told[name] for name in self.state_names}


def _whole(degrees: float) -> float:
    return round(degrees / _ANGLE) * _ANGLE


def _class_of(category: str) -> int:
    return 1 if category in _ITEMS else 2 if category == "Monster" else 3
