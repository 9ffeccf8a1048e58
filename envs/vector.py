"""``WorldSim-v0`` for ``gym.make_vec``: B rows in one batch of one learned world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from worldsim.envs.actions import action_rows
from worldsim.envs.batch import Batch, Taken
from worldsim.envs.rows import Rows, to_host
from worldsim.envs.snapshot import WorldSnapshot
from worldsim.envs.window import Window
from worldsim.episode import Conditioning
from worldsim.spaces import feature_maker, rest_action, to_row
from worldsim.types import Actions, Frames


class WorldSimVectorEnv(VectorEnv[NDArray[Any], Actions, NDArray[Any]]):
    """B episodes in a learned world, stepped as one batch.

    Row i seeded with s gives what ``WorldSimEnv`` seeded with s gives (frames within 1/255), whatever its neighbours do.
    Infos are in Gymnasium's vector layout: arrays ``(B,)`` beside masks ``_name``; what they hold is said at ``WorldSimEnv``.

    Rows that are over start anew as in Gymnasium's ``SyncVectorEnv``, by ``autoreset_mode``:

    - ``NextStep``: the next step starts them; it ignores their action and gives reward 0 and no flag.
    - ``SameStep``: the step that ended them starts them; the last observation and info are ``infos["final_obs"]`` and
      ``infos["final_info"]``.
    - ``Disabled``: whoever steps resets them, by ``options={"reset_mask": terminated | truncated}``.

    Args:
        num_envs: B.
        world: Name of a shipped world, folder, or Hub repository.
        render_mode: ``rgb_array`` (one frame a row), ``human`` (all rows in one window) or None.
        horizon: Most steps of an episode; None for no limit.
        max_episode_steps: Gymnasium's name for the same; the lower one holds.
        device: Where the world runs, as ``cpu`` or ``cuda``.
        steps: Denoising steps a frame; None for the world's own number.
        guidance: How much what the world is told is stressed: 1 not at all, more at up to twice the cost of a frame; None for the
            world's own.
        context: Where episodes start unless a reset says otherwise; None draws one of the world's own for each.
        conditioning: What the world is told unless a reset says otherwise; None leaves the context's own.
        observation: ``frame`` for ``(H, W, 3)`` uint8, or ``latent`` for ``(C, h, w)`` float32, which costs no decoding.
        latents: Whether infos hold, beside the frame of each row, its ``"latent"`` ``(C, h, w)`` float32: what the world made and the
            frame was decoded from; at a start, the frame encoded.
        labels: Whether infos hold the ``"segmentation"`` ``(H, W)`` uint8 of each row, what each pixel shows; see ``WorldSimEnv``.
        precision: ``fp32``, or ``bf16`` for networks that are faster where the processor has it, and a little less exact.
        compile: Compile the dynamics: up to a minute at the first step, then the same but for rounding; measure whether it pays.
        autoreset_mode: ``NextStep``, ``SameStep`` or ``Disabled``.

    Raises:
        ValueError: The world cannot be loaded, or an argument is out of its range.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 25, "autoreset_mode": AutoresetMode.NEXT_STEP}

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
        guidance: float | None = None,
        context: Any = None,
        conditioning: Mapping[str, Any] | None = None,
        observation: str = "frame",
        latents: bool = False,
        labels: bool = False,
        precision: str = "fp32",
        compile: bool = False,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        if render_mode not in (None, "rgb_array", "human"):
            raise ValueError(f"render_mode={render_mode!r} is unknown: use 'rgb_array', 'human' or None")
        limits = [limit for limit in (horizon, max_episode_steps) if limit is not None]
        self.rows = Rows(
            world,
            count=num_envs,
            device=device,
            steps=steps,
            guidance=guidance,
            horizon=min(limits, default=None),
            context=context,
            conditioning=conditioning,
            observation=observation,
            latents=latents,
            labels=labels,
            precision=precision,
            compile=compile,
        )
        self.batch = Batch(self.rows, autoreset_mode)
        self.autoreset_mode = self.batch.mode
        self.num_envs, self.render_mode, self.world_spec = num_envs, render_mode, self.rows.spec
        self.metadata = {**self.rows.metadata(), "autoreset_mode": self.autoreset_mode}
        self.single_action_space = deepcopy(self.world_spec.action_space)  # its own randomness
        self.single_observation_space = self.rows.space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._features = feature_maker(self.single_action_space)
        self._rest = to_row(self.single_action_space, rest_action(self.single_action_space))
        self._window = Window(self.world_spec.name, self.rows.fps) if render_mode == "human" else None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start episodes.

        Args:
            seed: One a row, or an int s for ``s, s + 1, ...``; None goes on with the row's stream.
            options: ``"reset_mask"``, bool ``(B,)``: start these rows alone, the others go on untouched. ``"rows"``: a list of
                B dicts, the options of each row as in ``WorldSimEnv.reset``. Other keys hold for all rows.

        Returns:
            The newest observations of all rows ``(B, ...)``, and infos of the rows that were started.

        Raises:
            ValueError: An option is unknown, or what it names is not there or does not fit the world; no row has changed then.
        """
        infos: dict[str, Any] = {}
        for row, info in self.batch.reset(seed, options).items():
            infos = self._add_info(infos, info, row)
        self._show()
        return to_host(self.rows.observations), infos | self._beside()

    def step(self, actions: Actions) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Move every row one frame on.

        Args:
            actions: A batch as ``action_space`` lays it out.

        Returns:
            Observations ``(B, ...)``, rewards, terminated, truncated, each ``(B,)``, and infos.

        Raises:
            ValueError: There are not B actions, or one is outside its space.
            ResetNeeded: There was no reset, or a row is over and autoreset is disabled.
        """
        waiting = self.batch.waiting()
        rows = action_rows(self.single_action_space, actions, waiting)
        rows[waiting] = self._rest
        taken = self.batch.step(torch.from_numpy(self._features(rows)), waiting)
        out = taken.outcome
        self._show()
        rewards = np.array([row[0] for row in out.read])  # (B,)
        return to_host(self.rows.observations), rewards, out.terminated, out.truncated, self._infos(taken)

    def render(self) -> tuple[Frames, ...] | None:
        """Return the newest frame of each row with ``render_mode="rgb_array"``; show them with ``"human"``."""
        self._show()
        return tuple(to_host(self.rows.frames())) if self.render_mode == "rgb_array" else None

    def close_extras(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()

    def set_conditioning(self, rows: Sequence[int] | NDArray[Any], conditionings: Sequence[Conditioning | Mapping[str, Any]]) -> None:
        """Tell the world something else of ``rows`` from the next step on; frames that it remembers stay as they are.

        Args:
            rows: n rows, each once.
            conditionings: One for each, in place of all that the row was told before; mappings as in a reset's options.

        Raises:
            ValueError: There is no such row or no running episode, or the world does not know a tag or number; no row has changed then.
        """
        self.batch.tell(rows, conditionings)

    def clone_state(self, indices: Sequence[int] | NDArray[Any] | int | None = None, *, include_rng: bool = True) -> WorldSnapshot:
        """Return a snapshot of rows, a value that nothing changes any more.

        Args:
            indices: The rows, in any order and as often as wanted; None for all.
            include_rng: Whether later starts are to be drawn as they will be here. A running episode never depends on it.

        Raises:
            ValueError: There is no such row, or there was no reset yet.
        """
        return self.batch.clone_state(indices, include_rng=include_rng)

    def restore_state(self, snapshot: WorldSnapshot | bytes, indices: Sequence[int] | NDArray[Any] | int | None = None) -> NDArray[Any]:
        """Go on from a snapshot: bit-equal in rows of the same batch size, within 1/255 in others.

        Args:
            snapshot: What ``clone_state`` gave here or in the single environment, or its ``to_bytes()``. One row may go to many.
            indices: The rows to put it in; None for all.

        Returns:
            The newest observations of all rows ``(B, ...)``.

        Raises:
            ValueError: There is no such row or it is named twice, or the snapshot is of another checkpoint, kind of
                observation or number of rows.
        """
        self.batch.restore_state(snapshot, indices)
        self._show()
        return to_host(self.rows.observations)

    def _infos(self, taken: Taken) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for row in taken.ended:
            final = {"final_obs": to_host(taken.outcome.observations[row]), "final_info": self.batch.info(taken, row)}
            infos = self._add_info(infos, final, row)
        everywhere = np.ones(self.num_envs, np.bool_)
        labels = self.rows.labels.tolist() if taken.started else [row[1:] for row in taken.outcome.read]  # (B, S)
        state = {name: np.array(column) for name, column in zip(self.rows.state_names, zip(*labels, strict=True), strict=True)}  # each (B,)
        infos |= {"state": state | {f"_{name}": everywhere.copy() for name in state}, "_state": everywhere}
        for row in np.flatnonzero(taken.broken).tolist():
            if row not in taken.started:
                infos = self._add_info(infos, {"truncation_reason": self.batch.info(taken, row)["truncation_reason"]}, row)
        for row, info in taken.started.items():
            infos = self._add_info(infos, info, row)
        return infos | self._beside()

    def _beside(self) -> dict[str, Any]:
        """Return the part of infos that holds latents and labels of all rows."""
        told = self.rows.beside()
        return {**told, **{f"_{name}": np.ones(self.num_envs, np.bool_) for name in told}}

    def _show(self) -> None:
        if self._window is not None:
            self._window.show(np.concatenate(tuple(to_host(self.rows.frames())), axis=1))
