"""A batched learned world with tensors in and tensors out, for reinforcement learning that lives on the GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from worldsim.envs.batch import Batch
from worldsim.envs.rows import Rows
from worldsim.envs.snapshot import WorldSnapshot
from worldsim.envs.tensor_actions import TensorActions
from worldsim.episode import Conditioning


class TorchWorldEnv:
    """``WorldSimVectorEnv`` on tensors: the same rows, seeds, options, ends and snapshots, and no copy through the host.

    Tensors that it gives are the caller's own and may enter autograd. Infos are a dict of tensors:

    - ``state``: ``(B, S)`` float32, the labelled state; ``state_names`` says which.
    - ``finite``: ``(B,)`` bool after a step, False where the world broke down.
    - ``final_obs``, ``final_state``: after a step with ``SameStep``, what the step led to in all rows, before those that are over
      (``terminated | truncated``) were started anew.

    A step waits for the device once to learn which rows are over, and once more to check the actions.

    Args:
        num_envs: B.
        world: Name of a shipped world, folder, or Hub repository.
        device: Where the world runs; None for ``cuda`` where there is one, else ``cpu``.
        horizon: Most steps of an episode; None for no limit.
        steps: Denoising steps a frame; None for the world's own number.
        guidance: How much what the world is told is stressed: 1 not at all, more at up to twice the cost of a frame; None for the
            world's own.
        context: Where episodes start unless a reset says otherwise; None draws one of the world's own for each.
        conditioning: What the world is told unless a reset says otherwise; None leaves the context's own.
        observation: ``frame`` for ``(H, W, 3)`` uint8, or ``latent`` for ``(C, h, w)`` float32, which costs no decoding.
        precision: ``fp32``, or ``bf16`` for networks that are faster where the processor has it, and a little less exact.
        compile: Compile the dynamics: up to a minute at the first step, then the same but for rounding; measure whether it pays.
        autoreset_mode: ``NextStep``, ``SameStep`` or ``Disabled``, see ``WorldSimVectorEnv``.
        check_actions: Whether to refuse actions outside the space; without it they must be inside.

    Raises:
        ValueError: The world cannot be loaded, or an argument is out of its range.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        world: str = "carracing-nano",
        device: str | None = None,
        horizon: int | None = 1000,
        steps: int | None = None,
        guidance: float | None = None,
        context: Any = None,
        conditioning: Mapping[str, Any] | None = None,
        observation: str = "frame",
        precision: str = "fp32",
        compile: bool = False,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        check_actions: bool = True,
    ) -> None:
        self.rows = Rows(
            world,
            count=num_envs,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            steps=steps,
            guidance=guidance,
            horizon=horizon,
            context=context,
            conditioning=conditioning,
            observation=observation,
            precision=precision,
            compile=compile,
        )
        self.batch = Batch(self.rows, autoreset_mode)
        self.autoreset_mode, self.num_envs, self.device = self.batch.mode, num_envs, self.rows.device
        self.world_spec, self.state_names = self.rows.spec, self.rows.state_names
        self.metadata = {**self.rows.metadata(), "autoreset_mode": self.autoreset_mode}
        self.single_action_space = deepcopy(self.world_spec.action_space)  # its own randomness
        self.single_observation_space = self.rows.space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._actions = TensorActions(self.single_action_space, self.device, check=check_actions)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Start episodes.

        Args:
            seed: One a row, or an int s for ``s, s + 1, ...``; None goes on with the row's stream.
            options: As in ``WorldSimVectorEnv.reset``; ``"reset_mask"`` may be a bool tensor ``(B,)``.

        Returns:
            The newest observations of all rows ``(B, ...)``, and infos of all rows.

        Raises:
            ValueError: An option is unknown, or what it names is not there or does not fit the world; no row has changed then.
        """
        given = dict(options or {})
        if isinstance(mask := given.get("reset_mask"), Tensor):
            given["reset_mask"] = mask.cpu().numpy()
        self.batch.reset(seed, given)
        return self.rows.observations.clone(), {"state": self.rows.labels.clone()}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Move every row one frame on.

        Args:
            actions: ``(B, ...)`` as the action space has it, or rows ``(B, A)`` (a Dict space takes only these, see
                ``worldsim.spaces.to_row``); whole numbers for spaces of whole numbers.

        Returns:
            Observations ``(B, ...)``, rewards ``(B,)`` float32, terminated and truncated ``(B,)`` bool, and infos.

        Raises:
            ValueError: The actions have another shape or type, or one is outside its space.
            ResetNeeded: There was no reset, or a row is over and autoreset is disabled.
        """
        waiting = self.batch.waiting()
        skip = torch.from_numpy(waiting).to(self.device)
        out = self.batch.step(self._actions.features(actions, skip), waiting).outcome
        infos = {"state": self.rows.labels.clone(), "finite": self._flags(out.finite | waiting)}
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            infos |= {"final_obs": out.observations.clone(), "final_state": out.labels.clone()}
        return self.rows.observations.clone(), out.rewards.clone(), self._flags(out.terminated), self._flags(out.truncated), infos

    def frames(self) -> Tensor:
        """Return the newest frame of each row, ``(B, H, W, 3)`` uint8; latents are decoded for it."""
        return self.rows.frames()

    def set_conditioning(self, rows: Any, conditionings: Sequence[Conditioning | Mapping[str, Any]]) -> None:
        """Tell the world something else of ``rows`` from the next step on, see ``WorldSimVectorEnv.set_conditioning``.

        Raises:
            ValueError: There is no such row or no running episode, or the world does not know a tag or number; no row has changed then.
        """
        self.batch.tell(rows, conditionings)

    def clone_state(self, indices: Any = None, *, include_rng: bool = True) -> WorldSnapshot:
        """Return a snapshot of rows, see ``WorldSimVectorEnv.clone_state``.

        Raises:
            ValueError: There is no such row, or there was no reset yet.
        """
        return self.batch.clone_state(indices, include_rng=include_rng)

    def restore_state(self, snapshot: WorldSnapshot | bytes, indices: Any = None) -> Tensor:
        """Go on from a snapshot and return the newest observations ``(B, ...)``, see ``WorldSimVectorEnv.restore_state``.

        Raises:
            ValueError: There is no such row or it is named twice, or the snapshot does not fit.
        """
        self.batch.restore_state(snapshot, indices)
        return self.rows.observations.clone()

    def _flags(self, given: NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(given).to(self.device)  # (B,)

    def close(self) -> None:
        """Do nothing: weights stay for other environments of the process."""
