"""``worldsim play``: a person drives a learned world with the keyboard."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
from omegaconf import DictConfig, OmegaConf

import worldsim
from worldsim.envs.keys import keys_to_action
from worldsim.envs.window import SIDE, open_display
from worldsim.spaces import rest_action

__all__ = ["main", "worldsim"]


def main(cfg: DictConfig) -> None:
    """Play by a composed ``configs/play.yaml``; see there for the keys. Ends with Escape or when the window is closed.

    Raises:
        ValueError: The world cannot be loaded or names no keys, or no window can be opened.
    """
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*matplotlib is not installed", UserWarning)  # only its plots need it
        from gymnasium.utils.play import play
    env = gym.make(
        "WorldSim-v0",
        render_mode="rgb_array",
        **{key: settings[key] for key in ("world", "device", "steps", "guidance", "horizon", "context", "conditioning")},
    )
    spec = env.get_wrapper_attr("world_spec")
    keys = keys_to_action(spec, settings["keys"])
    open_display()
    print(f"{spec.name}: keys {' '.join(settings['keys'] or spec.keys)}, Escape ends")
    play(
        env,
        keys_to_action=keys,
        noop=rest_action(env.action_space),
        seed=settings["seed"],
        fps=settings["fps"] or max(1, round(spec.fps)),
        zoom=settings["zoom"] or max(1, SIDE // spec.frame_size[0]),
        callback=_Caption(spec.name),
    )
    env.close()


class _Caption:
    """Shows the episode's step and return above the window."""

    def __init__(self, title: str) -> None:
        self.title, self.steps, self.total = title, 0, 0.0

    def __call__(self, before: Any, after: Any, action: Any, reward: float, terminated: bool, truncated: bool, info: Any) -> None:
        """Count one step."""
        import pygame

        self.steps, self.total = self.steps + 1, self.total + reward
        pygame.display.set_caption(f"{self.title}   step {self.steps}   return {self.total:.1f}")
        if terminated or truncated:
            self.steps, self.total = 0, 0.0
