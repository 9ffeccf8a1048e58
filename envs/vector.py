"""``WorldSim-v0`` for ``gym.make_vec``: B rows in one batch of one learned world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from worldsim.envs.actions import action_row
from worldsim.envs.rows import Rows
from worldsim.envs.window import Window
from worldsim.types import Actions, Frames


class WorldSimVectorEnv(VectorEnv[Frames, Actions, NDArray[Any]]):
    """B episodes in a learned world, stepped as one batch.

    Row i seeded with s gives what ``WorldSimEnv`` seeded with s gives (frames within 1/255), whatever its neighbours do.
    Autoreset is disabled: whoever steps resets the rows that are over, by ``options={"reset_mask": terminated | truncated}``.
    Infos are in Gymnasium's vector layout: arrays ``(B,)`` beside masks ``_name``; what they hold is said at ``WorldSimEnv``.

    Args:
        num_envs: B.
        world: Name of a shipped world, folder, or Hub repository.
        render_mode: ``rgb_array`` (one frame a row), ``human`` (all rows in one window) or None.
        horizon: Most steps of an episode; None for no limit.
        max_episode_steps: Gymnasium's name for the same; the lower one holds.
        device: Where the world runs, as ``cpu`` or ``cuda``.
        steps: Denoising steps a frame; None for the world's own number.
        context: Where episodes start unless a reset says otherwise; None draws one of the world's own for each.
        conditioning: What the world is told unless a reset says otherwise; None leaves the context's own.
        autoreset_mode: Only ``Disabled`` so far.

    Raises:
        ValueError: The world cannot be loaded, or an argument is out of its range.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 25, "autoreset_mode": AutoresetMode.DISABLED}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: str = "carracing-nano",
        render_mode: str | None = None,
        horizon: int | None = 1000,
        max_episode_steps: int | None = None,
        device: str | None = "cpu",
        steps: int | None = None,
        context: Any = None,
        conditioning: Mapping[str, Any] | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.DISABLED,
    ) -> None:
        if render_mode not in (None, "rgb_array", "human"):
            raise ValueError(f"render_mode={render_mode!r} is unknown: use 'rgb_array', 'human' or None")
        self.autoreset_mode = _mode(autoreset_mode)
        limits = [limit for limit in (horizon, max_episode_steps) if limit is not None]
        self.rows = Rows(
            world,
            count=num_envs,
            device=device,
            steps=steps,
            horizon=min(limits, default=None),
            context=context,
            conditioning=conditioning,
        )
        self.num_envs, self.render_mode, self.world_spec = num_envs, render_mode, self.rows.spec
        self.metadata = {**self.rows.metadata(), "autoreset_mode": self.autoreset_mode}
        self.single_action_space = deepcopy(self.world_spec.action_space)  # its own randomness
        self.single_observation_space = spaces.Box(0, 255, (*self.world_spec.frame_size, 3), np.uint8)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._window = Window(self.world_spec.name, self.rows.fps) if render_mode == "human" else None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frames, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: One a row, or an int s for ``s, s + 1, ...``; None goes on with the row's stream.
            options: ``"reset_mask"``, bool ``(B,)``: start these rows alone, the others go on untouched. ``"rows"``: a list of
                B dicts, the options of each row as in ``WorldSimEnv.reset``. Other keys hold for all rows.

        Returns:
            The newest frames of all rows ``(B, H, W, 3)``, and infos of the rows that were started.

        Raises:
            ValueError: An option is unknown, or what it names is not there or does not fit the world; no row has changed then.
        """
        rest = dict(options or {})
        mask = self._mask(rest.pop("reset_mask", None))
        rows = [int(row) for row in np.flatnonzero(mask)]
        own = self._row_options(rest)
        seeds = self._seeds(seed)
        for row in rows:
            if seeds[row] is not None or self._generators[row] is None:
                self._generators[row], _ = seeding.np_random(seeds[row])
        generators = [generator for row in rows if (generator := self._generators[row]) is not None]
        found = self.rows.reset(rows, generators, [own[row] for row in rows])
        self._show()
        return self.rows.frames.copy(), self._infos(rows, found)

    def step(self, actions: Actions) -> tuple[Frames, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Move every row one frame on.

        Args:
            actions: A batch as ``action_space`` lays it out.

        Returns:
            Frames ``(B, H, W, 3)``, rewards, terminated, truncated, each ``(B,)``, and infos.

        Raises:
            ValueError: There are not B actions, or one is outside its space.
            ResetNeeded: A row has no running episode.
        """
        if self.rows.over.any():
            over = np.flatnonzero(self.rows.over).tolist()
            way_out = "call reset() first" if self.rows.state is None else "reset them by options={'reset_mask': terminated | truncated}"
            raise ResetNeeded(f"rows {over} have no running episode, and autoreset is disabled: {way_out}")
        out = self.rows.step(self._action_rows(actions))
        self._show()
        return out.frames, out.rewards, out.terminated, out.truncated, self._infos(range(self.num_envs), out.infos)

    def render(self) -> tuple[Frames, ...] | None:
        """Return the newest frame of each row with ``render_mode="rgb_array"``; show them with ``"human"``."""
        self._show()
        return tuple(self.rows.frames.copy()) if self.render_mode == "rgb_array" else None

    def close_extras(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()

    def _mask(self, given: Any) -> NDArray[np.bool_]:
        if given is None:
            return np.ones(self.num_envs, np.bool_)
        if not isinstance(given, np.ndarray) or given.dtype != np.bool_ or given.shape != (self.num_envs,) or not given.any():
            raise ValueError(f"reset_mask={given!r} must be a bool array of shape ({self.num_envs},) with at least one True")
        if self.rows.state is None and not given.all():
            raise ResetNeeded("the first reset starts all rows: leave reset_mask out")
        return given

    def _row_options(self, rest: dict[str, Any]) -> list[dict[str, Any]]:
        given = rest.pop("rows", None)
        if given is None:
            return [rest] * self.num_envs
        if not isinstance(given, Sequence) or len(given) != self.num_envs:
            raise ValueError(f"options['rows']={given!r} must be a list of {self.num_envs} mappings, one a row")
        return [{**rest, **(row or {})} for row in given]

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"there are {len(seed)} seeds for {self.num_envs} rows: give one a row, or an int")
        return [None if one is None else int(one) for one in seed]

    def _action_rows(self, actions: Actions) -> NDArray[Any]:
        given = list(iterate(self.action_space, actions))
        if len(given) != self.num_envs:
            raise ValueError(
                f"there are {len(given)} actions for {self.num_envs} rows: give what action_space lays out, as action_space.sample()"
            )
        return np.stack([action_row(self.single_action_space, action) for action in given])

    def _infos(self, rows: Sequence[int], found: Sequence[dict[str, Any]]) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for row, info in zip(rows, found, strict=True):
            infos = self._add_info(infos, info, row)
        return infos

    def _show(self) -> None:
        if self._window is not None:
            self._window.show(np.concatenate(tuple(self.rows.frames), axis=1))


def _mode(given: str | AutoresetMode) -> AutoresetMode:
    mode = AutoresetMode(given)
    if mode is not AutoresetMode.DISABLED:
        raise ValueError(
            f"autoreset_mode={mode.value!r} is not there yet: use 'Disabled', and reset rows that are over by options={{'reset_mask': ...}}"
        )
    return mode
