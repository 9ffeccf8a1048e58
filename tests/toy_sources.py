"""Tiny environments and a policy whose frames show what happened, for tests of recording; importable by worker processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from worldsim.types import Actions, Observation

SIZE = 16
FRAMES = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
ACTIONS = spaces.Box(-1, 1, (2,), np.float32)


def draw(color: int, action: float, step: int) -> NDArray[np.uint8]:
    """A frame that shows the episode's colour, the action that led to it, and its number."""
    frame = np.full((SIZE, SIZE, 3), color, np.uint8)
    frame[:8] = round((action + 1) * 100)
    frame[8:10] = step
    return frame


def shown_action(frames: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Read back what ``draw`` drew of the action."""
    return frames[..., 0, 0, 0].astype(np.int64)


class ToySource(gym.Env[NDArray[np.uint8], NDArray[np.float32]]):
    """Ends by itself at a step drawn from the seed; fails as asked."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = FRAMES
    action_space = ACTIONS

    def __init__(
        self,
        length: int = 40,
        *,
        fail_at: int = -1,
        kill_at: int = -1,
        nan_at: int = -1,
        hang_at: int = -1,
        render_mode: str | None = None,
    ) -> None:
        self.length, self.fail_at, self.kill_at, self.nan_at, self.hang_at = length, fail_at, kill_at, nan_at, hang_at
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.color = int(self.np_random.integers(1, 100)) if not options else int(options["color"])
        self.end = int(self.np_random.integers(self.length // 2, self.length))
        told = {"tags": ("plain",), "numbers": {"color": self.color / 100}, "text": f"color {self.color}"}
        return draw(self.color, 0.0, 0), {"state": self._state(), "conditioning": told}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps == self.fail_at:
            raise RuntimeError("the toy broke")
        if self.steps == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == self.hang_at:
            sys.stdout.write("hangs\n")  # at once: print() may write the end of a line by itself, after another process's line
            sys.stdout.flush()
            time.sleep(600)
        reward = float("nan") if self.steps == self.nan_at else float(action[1])
        frame = draw(self.color, float(action[0]), self.steps)
        return frame, reward, self.steps >= self.end, False, {"state": self._state()}

    def render(self) -> NDArray[np.uint8]:
        return draw(self.color, 0.0, self.steps)

    def _state(self) -> dict[str, float]:
        return {"step": float(self.steps), "color": float(self.color)}


class ToyWorld(VectorEnv[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]):
    """B rows as one batch; rows end at different steps, and may be rejected."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_fps": 10, "checkpoint": {"name": "toy", "sha256": "0"}}

    def __init__(self, num_envs: int = 1, *, world: str = "toy", reject_at: int = -1, horizon: int = 40) -> None:
        assert horizon > 0, "horizon must be positive"
        self.num_envs, self.world, self.reject_at = num_envs, world, reject_at
        self.single_observation_space, self.single_action_space = FRAMES, ACTIONS
        self.observation_space, self.action_space = batch_space(FRAMES, num_envs), batch_space(ACTIONS, num_envs)
        self.resets: list[list[bool]] = []
        self.colors = self.steps = self.ends = np.zeros(num_envs, np.int64)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        given = options or {}
        mask = np.asarray(given.get("reset_mask", np.ones(self.num_envs, bool)))
        self.resets.append(mask.tolist())
        rows = given.get("rows", [{}] * self.num_envs)
        assert len(rows) == len(seed) == self.num_envs
        fresh = [np.random.default_rng(one) for one in seed]
        drawn = [row.get("context", int(rng.integers(1, 100))) for row, rng in zip(rows, fresh, strict=True)]
        self.colors = np.where(mask, drawn, self.colors)
        self.ends = np.where(mask, [int(rng.integers(10, 30)) for rng in fresh], self.ends)
        self.steps = np.where(mask, 0, self.steps)
        told = {"text": np.array([str(row.get("conditioning", {}).get("text", "")) for row in rows], dtype=object), "_text": mask}
        infos = {"state": self._state(), "_state": mask, "conditioning": told, "_conditioning": mask}
        return self._frames(np.zeros((self.num_envs, 2))), infos

    def step(self, actions: NDArray[np.float32]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.steps = self.steps + 1
        ended = self.steps >= self.ends
        cut = (self.steps == self.reject_at) & ~ended
        reasons = np.array(["too blurred" if one else None for one in cut], dtype=object)
        infos = {"state": self._state(), "_state": np.ones(self.num_envs, bool), "truncation_reason": reasons, "_truncation_reason": cut}
        return self._frames(actions), actions[:, 1].astype(np.float32), ended, cut, infos

    def _frames(self, actions: NDArray[Any]) -> NDArray[np.uint8]:
        return np.stack([draw(int(self.colors[b]), float(actions[b, 0]), int(self.steps[b])) for b in range(self.num_envs)])

    def _state(self) -> dict[str, Any]:
        every = np.ones(self.num_envs, bool)
        return {"step": self.steps.astype(np.float32), "_step": every, "color": self.colors.astype(np.float32), "_color": every}


class Dice:
    """Uniform actions, each row from its own seed."""

    def __init__(self, action_space: spaces.Box, *, scale: float = 1.0) -> None:
        self.scale = scale
        self.rows: dict[int, np.random.Generator] = {}

    def act(self, observation: Observation) -> Actions:
        for row, (seed, first) in enumerate(zip(observation.seeds.tolist(), observation.first.tolist(), strict=True)):
            if first:
                self.rows[row] = np.random.default_rng(seed)
        count = len(observation.seeds)
        return np.stack([self.rows[row].uniform(-self.scale, self.scale, 2) for row in range(count)]).astype(np.float32)


gym.register("ToySource-v0", entry_point="toy_sources:ToySource")
gym.register("ToyWorld-v0", entry_point="toy_sources:ToySource", vector_entry_point="toy_sources:ToyWorld")
