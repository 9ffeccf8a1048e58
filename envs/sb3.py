"""A batched learned world for Stable-Baselines3, which has a vector interface of its own; needs the extra ``sb3``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from worldsim.envs.vector import WorldSimVectorEnv

try:
    from stable_baselines3.common.vec_env import VecEnv  # type: ignore[import-not-found, unused-ignore]
except ImportError as error:
    raise ImportError("Stable-Baselines3 is not installed: pip install 'worldsim-gym[sb3]'") from error

_STEP_KEYS = ("state", "truncation_reason")


class SB3VecEnv(VecEnv):  # type: ignore[misc, unused-ignore]
    """``WorldSimVectorEnv`` behind Stable-Baselines3's ``VecEnv``.

    ``SB3VecEnv(gym.make_vec("WorldSim-v0", num_envs=8, autoreset_mode="SameStep"))``. Infos hold ``state``; where an episode
    ended also ``terminal_observation``, ``TimeLimit.truncated`` and, where the world broke down, ``truncation_reason``.

    Args:
        env: The environment, with autoreset in the same step. Its ``unwrapped`` is used.

    Raises:
        ValueError: It is another kind of environment, or of another autoreset mode.
    """

    def __init__(self, env: Any) -> None:
        inner = getattr(env, "unwrapped", env)
        if not isinstance(inner, WorldSimVectorEnv):
            raise ValueError(f"environment {inner} is no WorldSimVectorEnv: give what gym.make_vec('WorldSim-v0', ...) gives")
        if inner.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise ValueError(f"autoreset_mode={inner.autoreset_mode.value!r} is not what Stable-Baselines3 expects: use 'SameStep'")
        self.env = inner
        super().__init__(inner.num_envs, inner.single_observation_space, inner.single_action_space)
        self._waiting: NDArray[Any] | None = None

    def reset(self) -> NDArray[Any]:
        """Start all episodes, with what ``seed`` and ``set_options`` said before, and return the observations ``(B, ...)``."""
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        options = {"rows": [dict(own) for own in self._options]} if any(self._options) else None
        observations, infos = self.env.reset(seed=seeds, options=options)
        self.reset_infos = [_row(infos, row) for row in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep ``actions (B, ...)`` for ``step_wait``."""
        self._waiting = actions

    def step_wait(self) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Move every row one frame on: observations, rewards ``(B,)`` float32, ends ``(B,)`` and an info a row."""
        assert self._waiting is not None, "step_async comes before step_wait"
        observations, rewards, terminated, truncated, told = self.env.step(self._waiting)
        over = terminated | truncated
        infos = [{name: value for name, value in _row(told, row).items() if name in _STEP_KEYS} for row in range(self.num_envs)]
        for row in np.flatnonzero(over).tolist():
            self.reset_infos[row] = {name: value for name, value in _row(told, row).items() if name not in ("final_obs", "final_info")}
            limited = bool(truncated[row] and not terminated[row])
            infos[row] = {
                **_row(told["final_info"], row),
                "terminal_observation": told["final_obs"][row],
                "TimeLimit.truncated": limited,
            }
        return observations, rewards.astype(np.float32), over, infos

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return the newest frame of each row."""
        return self.env.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the environment, once a row: rows share it."""
        return [getattr(self.env, attr_name)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the environment; rows share it.

        Raises:
            ValueError: Only some rows are named.
        """
        self._only_all(indices, f"attribute {attr_name!r}")
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of the environment once, and return what it gave once a row.

        Raises:
            ValueError: Only some rows are named.
        """
        self._only_all(indices, f"method {method_name!r}")
        return [getattr(self.env, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Return False for each row: rows have no wrappers of their own."""
        return [False] * len(self._indices(indices))

    def _indices(self, indices: Any) -> list[int]:
        return list(self._get_indices(indices))

    def _only_all(self, indices: Any, what: str) -> None:
        if sorted(self._indices(indices)) != list(range(self.num_envs)):
            raise ValueError(f"{what} belongs to all rows, indices={indices!r} names some: leave indices out")


def _row(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """Take one row's info out of a batch's, following its ``_name`` masks."""
    found: dict[str, Any] = {}
    for name, value in infos.items():
        if f"_{name}" in infos and infos[f"_{name}"][row]:
            found[name] = _row(value, row) if isinstance(value, dict) else value[row]
    return found
