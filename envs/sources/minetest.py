"""Minetest as a source to record: block landscapes in the first person, one exact step at a time."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from PIL import Image

from worldsim.envs.sources.minetest_client import Client, Told
from worldsim.envs.sources.minetest_screen import KEYS
from worldsim.envs.sources.minetest_start import find_programs
from worldsim.types import Frames

_TIMES = {"day": 0.5, "dusk": 0.785, "night": 0.0}  # of the day, which begins at midnight
_SHARES = (0.6, 0.2, 0.2)


class MinetestSource(gym.Env[Frames, dict[str, Any]]):
    """A landscape of Minetest Game, walked, dug and built in at ``fps`` steps a second of its time, whatever the machine's speed.

    The game runs on an X server of its own under a clock of its own that stands still between steps, so that a frame shows exactly
    what its action did in ``1 / fps`` s: a look all of it at once, a walk from that step on. It is no exact simulator, though: how much
    of the ground is sent and drawn at what step is left to its threads, so equal seeds give nearly but not always equal frames.
    Linux only. The first reset starts the game, and the first visit of a place makes its ground: seconds each.

    Reset puts the player to one of ``places`` places in a world, takes back what was dug and built before, and draws heading and time
    of day. Creative mode, no damage, no end, no reward. Frames carry graphics of Minetest Game under CC BY-SA 3.0.

    Actions: ``Dict`` of ``keys``, ``MultiBinary(7)``: forward, back, left, right, jump, dig, place; and ``look``, ``Box(2)`` float32 in
    [-1, 1]: right and up, as shares of ``turn`` degrees a step.
    Observations: frames ``(size, size, 3)`` uint8, 91 degrees wide and high.
    ``info["state"]`` holds ``state_names`` in ``state_units``: the place, with ``x`` east, ``y`` north and ``z`` up; the heading counted
    from east to the left; the pitch, up positive; and the velocity as the player feels it.
    ``info["conditioning"]`` of a reset holds tags for the time of day and the biome, the time of day as a number, and a text.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}
    state_units: ClassVar[dict[str, str]] = {
        "x": "nodes",
        "y": "nodes",
        "z": "nodes",
        "heading_sin": "",
        "heading_cos": "",
        "pitch": "rad",
        "speed_forward": "nodes/s",
        "speed_left": "nodes/s",
        "speed_up": "nodes/s",
    }
    state_names: ClassVar[tuple[str, ...]] = tuple(state_units)

    def __init__(
        self,
        size: int = 64,
        *,
        fps: float = 10.0,
        world_seed: int = 1,
        places: int = 32,
        view: int = 40,
        turn: float = 15.0,
        render_mode: str | None = None,
    ) -> None:
        """Build the source; the game starts with the first reset.

        Args:
            size: Height and width of frames in pixels, 16 to 256; up to 128, twice that or more is drawn, and averaged.
            fps: Steps a second of game time, 2 to 30.
            world_seed: Settles the world, 0 to 2^31 - 1.
            places: How many places of the world episodes begin in.
            view: How far one sees [nodes], 16 to 120; ground takes time in proportion to its square.
            turn: Degrees of the strongest look in one step, at most 30.
            render_mode: ``rgb_array`` or None.

        Raises:
            ValueError: A program or package is not installed, or an argument is out of its range.
        """
        if not 16 <= size <= 256:
            raise ValueError(f"size={size} is outside 16..256: take 64, 96 or 128")
        if not 2 <= fps <= 30:
            raise ValueError(f"fps={fps} is outside 2..30")
        if not 0 <= world_seed < 2**31 or places < 1:
            raise ValueError(f"world_seed={world_seed} must be in 0..2^31 - 1, and places={places} 1 or more")
        if not 16 <= view <= 120:
            raise ValueError(f"view={view} is outside 16..120 nodes")
        if not 0 < turn <= 30:
            raise ValueError(f"turn={turn} must be above 0 and at most 30 degrees a step")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} is unknown: use 'rgb_array' or None")
        find_programs()
        self.size, self.fps, self.world_seed, self.places, self.view, self.turn = size, fps, world_seed, places, view, turn
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": fps}
        look = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = spaces.Dict({"keys": spaces.MultiBinary(len(KEYS)), "look": look})
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self._client: Client | None = None
        self._frame: Frames | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frames, dict[str, Any]]:
        """Begin an episode at a place with its ground ready.

        Args:
            seed: Settles place, heading and time of day; None goes on with the stream of the last seed.
            options: Not used.

        Raises:
            ValueError: The game does not start, or hangs.
        """
        super().reset(seed=seed)
        if self._client is None:
            width = 128 if self.size <= 64 else 2 * self.size if self.size <= 128 else self.size
            self._client = Client(width=width, world_seed=self.world_seed, view=self.view)
        place = int(self.np_random.integers(self.places))
        when = str(self.np_random.choice(list(_TIMES), p=_SHARES))
        heading = float(self.np_random.uniform(0, 2 * math.pi))
        told = self._client.begin(seed=place, time_of_day=_TIMES[when], heading=heading)
        tags = (f"time:{when}", f"biome:{told.biome}")
        text = f"{told.biome.replace('_', ' ')} at {'noon' if when == 'day' else when}"
        return self._see(), {"state": _state(told), "conditioning": {"tags": tags, "numbers": {"time_of_day": _TIMES[when]}, "text": text}}

    def step(self, action: dict[str, Any]) -> tuple[Frames, float, bool, bool, dict[str, Any]]:
        """Hold keys and look for ``1 / fps`` s of game time.

        Raises:
            ValueError: The action is outside the action space, or the game has ended or hangs.
        """
        if self._client is None:
            raise gym.error.ResetNeeded("no episode has begun: call reset() before step()")
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is outside {self.action_space}: keys {', '.join(KEYS)}; look right and up in [-1, 1]")
        self._client.hold(name for name, held in zip(KEYS, action["keys"].tolist(), strict=True) if held)
        right, up = action["look"].tolist()
        self._client.turn(self.turn * right, self.turn * up)
        self._client.advance(1 / self.fps)
        return self._see(), 0.0, False, False, {"state": _state(self._client.told())}

    def render(self) -> Frames | None:
        """Return the newest frame, or None without a render mode or before the first reset."""
        return None if self.render_mode is None or self._frame is None else self._frame.copy()

    def close(self) -> None:
        """End the game and its X server."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _see(self) -> Frames:
        assert self._client is not None, "reset comes first"
        self._frame = np.array(Image.fromarray(self._client.grab()).resize((self.size, self.size), Image.Resampling.BOX))
        return self._frame.copy()


def _state(told: Told) -> dict[str, float]:
    """Turn the game's axes (y up, headings from north) into the source's."""
    heading = told.yaw + math.pi / 2
    sin, cos = math.sin(heading), math.cos(heading)
    east, up, north = told.speed
    values = (told.place[0], told.place[2], told.place[1], sin, cos, -told.pitch, east * cos + north * sin, north * cos - east * sin, up)
    return dict(zip(MinetestSource.state_names, values, strict=True))
