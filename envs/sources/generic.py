"""Any Gymnasium environment that renders, as a source to record."""

from __future__ import annotations

import difflib
import importlib
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from PIL import Image

from worldsim.types import Frames

_MOST_STATE = 64


class GymSource(gym.Env[Frames, Any]):
    """An environment by its id, seen through square frames, with its few-number observation as labelled state.

    Actions, rewards and endings are the environment's own, its time limit included. Frames are squeezed to
    ``(size, size, 3)`` uint8 by area averaging; an aspect ratio is not kept.
    ``info["state"]`` holds a 1-D Box observation of up to 64 numbers, named ``obs_0`` and on; of others it is empty.
    ``info["conditioning"]`` of a reset is empty.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        id: str,
        *,
        size: int = 64,
        action_repeat: int = 1,
        kwargs: Mapping[str, Any] | None = None,
        observation: Literal["render", "observation"] = "render",
        state: Sequence[str] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            id: Gymnasium id; ``module:Id-v0`` imports ``module`` first.
            size: Height and width of frames in pixels, 16 to 512.
            action_repeat: Steps of the environment that one action is held for; rewards are summed.
            kwargs: Keywords for the environment.
            observation: Where frames come from: ``render()``, or the observation where that is an RGB image.
            state: Names of the observation's numbers; an empty list leaves them out.
            render_mode: ``rgb_array`` or None.

        Raises:
            ValueError: The id is unknown, the environment cannot be made or gives no RGB frames, or an argument is out of range.
        """
        if not 16 <= size <= 512:
            raise ValueError(f"size={size} is outside 16..512")
        if action_repeat < 1:
            raise ValueError(f"action_repeat={action_repeat} must be 1 or more")
        if observation not in ("render", "observation"):
            raise ValueError(f"observation={observation!r} is unknown: use 'render' or 'observation'")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} is unknown: use 'rgb_array' or None")
        self.size, self.action_repeat, self.render_mode = size, action_repeat, render_mode
        self._id, self._rendered = id, observation == "render"
        self.env = _make(id, dict(kwargs or {}), rendered=self._rendered)
        self.action_space = self.env.action_space
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.metadata = {**self.metadata, "render_fps": self.env.metadata.get("render_fps", 30) / action_repeat}
        self.state_names = _state_names(id, self.env.observation_space, state)
        self.state_units = dict.fromkeys(self.state_names, "")
        self._frame: Frames | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frames, dict[str, Any]]:
        """Reset the environment with ``seed`` and ``options``."""
        super().reset(seed=seed)
        inner, info = self.env.reset(seed=seed, options=options)
        conditioning = {"tags": (), "numbers": {}, "text": ""}
        return self._see(inner), {**info, "state": self._state(inner), "conditioning": conditioning}

    def step(self, action: Any) -> tuple[Frames, float, bool, bool, dict[str, Any]]:
        """Hold ``action`` for ``action_repeat`` steps, fewer where the episode ends.

        Raises:
            ValueError: The action is outside the action space.
        """
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is outside {self.action_space} of {self._id}")
        info: dict[str, Any] = {}
        reward, inner, terminated, truncated = 0.0, None, False, False
        for _ in range(self.action_repeat):
            inner, gained, terminated, truncated, info = self.env.step(action)
            reward += float(gained)
            if terminated or truncated:
                break
        return self._see(inner), reward, bool(terminated), bool(truncated), {**info, "state": self._state(inner)}

    def render(self) -> Frames | None:
        """Return the newest frame, or None without a render mode or before the first reset."""
        return None if self.render_mode is None or self._frame is None else self._frame.copy()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _see(self, inner: Any) -> Frames:
        """Return the newest frame, ``(size, size, 3)`` uint8 in memory of its own."""
        frame = self.env.render() if self._rendered else inner
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            kind = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            where = "render()" if self._rendered else "the observation"
            raise ValueError(f"{where} of {self._id} gives {kind}, not uint8 (height, width, 3): wrap the environment")
        self._frame = np.array(Image.fromarray(frame).resize((self.size, self.size), Image.Resampling.BOX))
        return self._frame.copy()

    def _state(self, inner: Any) -> dict[str, float]:
        return {name: float(value) for name, value in zip(self.state_names, inner, strict=True)} if self.state_names else {}


def _make(id: str, kwargs: dict[str, Any], *, rendered: bool) -> gym.Env[Any, Any]:
    try:
        module, _, name = id.rpartition(":")
        if module:
            importlib.import_module(module)
        spec = gym.spec(name)
        if rendered:
            _draw_without_a_display()
            kwargs = {**kwargs, "render_mode": "rgb_array"}
        env: gym.Env[Any, Any] = gym.make(spec, disable_env_checker=True, **kwargs)
    except (gym.error.UnregisteredEnv, gym.error.RegistrationError) as error:
        close = difflib.get_close_matches(id, list(gym.registry), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "is the package that registers it imported? 'package:Id-v0' imports it"
        raise ValueError(f"environment {id!r} is unknown: {hint}") from error
    except (gym.error.Error, ImportError, TypeError) as error:
        raise ValueError(f"environment {id!r} with {kwargs} cannot be made: {error}") from error
    if rendered and "rgb_array" not in (env.metadata.get("render_modes") or ()):
        modes = ", ".join(map(str, env.metadata.get("render_modes", []))) or "none"
        env.close()
        raise ValueError(f"environment {id!r} does not render 'rgb_array' ({modes}): try observation='observation' if it observes images")
    return env


def _draw_without_a_display() -> None:
    """Keep SDL, which most environments draw with, from looking for a display where there is none, and complaining."""
    if sys.platform.startswith("linux") and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _state_names(id: str, space: gym.Space[Any], names: Sequence[str] | None) -> tuple[str, ...]:
    count = math.prod(space.shape) if isinstance(space, spaces.Box) and len(space.shape) == 1 else 0
    if names is None:
        return tuple(f"obs_{i}" for i in range(count)) if count <= _MOST_STATE else ()
    if names and len(names) != count:
        raise ValueError(f"state has {len(names)} names, but the observation of {id} has {count} numbers: {space}")
    return tuple(names)
