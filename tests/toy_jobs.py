"""A toy world that fails as a job's worst days do; importable by worker processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import toy_sources
from numpy.typing import NDArray


class FailingWorld(toy_sources.ToyWorld):
    """Breaks where a seed is in the batch, dies once, shows other frames, or has other weights."""

    def __init__(self, num_envs: int = 1, *, world: str = "toy", horizon: int = 40, fail_seed: int = -1, die_once: str = "") -> None:
        super().__init__(num_envs, world=world, horizon=horizon)
        self.fail_seed, self.die_once = fail_seed, die_once
        self.metadata = {**self.metadata, "checkpoint": {"name": world, "sha256": "0" if world == "toy" else "1"}}
        self.seeds: list[int] = []

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        self.seeds = list(seed)
        return super().reset(seed=seed, options=options)

    def step(self, actions: NDArray[np.float32]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.fail_seed in self.seeds and "TOY_MENDED" not in os.environ:
            raise RuntimeError("the toy broke")
        if self.die_once and self.num_envs > 1 and self.steps.max() > 2 and not Path(self.die_once).exists():
            Path(self.die_once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(actions)

    def _frames(self, actions: NDArray[Any]) -> NDArray[np.uint8]:
        return super()._frames(actions) + np.uint8(os.environ.get("TOY_SHIFT", "0"))


gym.register("FailingWorld-v0", entry_point="toy_sources:ToySource", vector_entry_point="toy_jobs:FailingWorld")
