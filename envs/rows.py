"""Episodes of B rows in a learned world: what the single and the batched environment both stand on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.contexts import Context
from worldsim.envs.start import Starts
from worldsim.model import WorldModel
from worldsim.simulator import Simulator, State
from worldsim.types import Frames

NOT_FINITE = "model gave values that are not finite"
"""``info["truncation_reason"]`` where a world broke down."""


@dataclass(frozen=True)
class Outcome:
    """What a step of B rows gave.

    Attributes:
        frames: ``(B, H, W, 3)`` uint8, its own memory.
        rewards: ``(B,)`` float64.
        terminated: ``(B,)`` bool.
        truncated: ``(B,)`` bool.
        infos: One a row.
    """

    frames: Frames
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    infos: list[dict[str, Any]]


class Rows:
    """B episodes that run side by side.

    A step terminates an episode where the world gives its end a probability above one half. It truncates an episode at the
    horizon, and where the model gives NaN or infinity: the last good frame and state are then given again, with reward 0 and
    ``truncation_reason`` in the info.

    Args:
        world: Name of a shipped world, folder, or Hub repository.
        count: B.
        device: Where the world runs.
        steps: Denoising steps a frame; None for the world's own number.
        horizon: Most steps of an episode; None for no limit.
        context: See ``Starts``.
        conditioning: See ``Starts``.

    Raises:
        ValueError: The world cannot be loaded, or a number is out of its range.
    """

    def __init__(
        self,
        world: str,
        *,
        count: int,
        device: str | None,
        steps: int | None,
        horizon: int | None,
        context: Any,
        conditioning: Mapping[str, Any] | None,
    ) -> None:
        if count < 1:
            raise ValueError(f"num_envs={count} must be 1 or more")
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon={horizon} must be 1 or more steps, or None for no limit")
        model = WorldModel.from_pretrained(world, device=device or "cpu")
        self.spec, self.horizon, self.fingerprint = model.spec, horizon, model.fingerprint
        sampling = model.spec.sampling if steps is None else dataclasses.replace(model.spec.sampling, steps=steps)
        self.simulator = Simulator(model, sampling=sampling)
        self.starts = Starts(model, context=context, conditioning=conditioning)
        self.state: State | None = None
        self.frames: Frames = np.zeros((count, *self.spec.frame_size, 3), np.uint8)
        self.labels = np.zeros((count, len(self.spec.state_names)), np.float32)
        self.elapsed = np.zeros(count, np.int64)
        self.over = np.ones(count, np.bool_)

    @property
    def fps(self) -> float:
        """Frames a second; whole numbers as int."""
        return int(self.spec.fps) if float(self.spec.fps).is_integer() else self.spec.fps

    def metadata(self) -> dict[str, Any]:
        """Return what an environment's ``metadata`` says of the world."""
        checkpoint = {"name": self.spec.name, "sha256": self.fingerprint}
        return {"render_modes": ["rgb_array", "human"], "render_fps": self.fps, "checkpoint": checkpoint}

    def reset(
        self, rows: Sequence[int], generators: Sequence[np.random.Generator], options: Sequence[Mapping[str, Any] | None]
    ) -> list[dict[str, Any]]:
        """Start the named rows anew, all of them at first, and return an info for each.

        Args:
            rows: The n rows, ascending.
            generators: One for each, what is drawn is drawn from it.
            options: One for each, see ``Starts.draw``.

        Raises:
            ValueError: As ``Starts.draw``; all rows stay as they were.
        """
        starts = [self.starts.draw(own, generator) for own, generator in zip(options, generators, strict=True)]
        state, labels = self.simulator.begin([start.context for start in starts], [start.seed for start in starts])
        self.state = state if self.state is None or len(rows) == len(self.over) else self.state.put(rows, state)
        self.frames[rows] = [start.context.frames[-1] for start in starts]
        self.labels[rows] = labels
        self.elapsed[rows] = 0
        self.over[rows] = False
        return [{"state": self._labels(row), **_told(start.context)} for row, start in zip(rows, starts, strict=True)]

    def step(self, actions: NDArray[Any]) -> Outcome:
        """Move every row one frame on by ``actions (B, A)``."""
        assert self.state is not None, "reset comes before step"
        self.state, step = self.simulator.step(self.state, actions)
        self.frames = np.where(step.finite[:, None, None, None], step.frames, self.frames)
        self.labels = np.where(step.finite[:, None], step.state, self.labels)
        self.elapsed += 1
        terminated = step.finite & (step.end > 0.5)
        late = np.zeros_like(terminated) if self.horizon is None else self.elapsed >= self.horizon
        truncated = ~terminated & (late | ~step.finite)
        self.over = terminated | truncated
        infos: list[dict[str, Any]] = [{"state": self._labels(row)} for row in range(len(self.over))]
        for row in np.flatnonzero(~step.finite):
            infos[row]["truncation_reason"] = NOT_FINITE
        return Outcome(self.frames.copy(), np.where(step.finite, step.reward, 0.0).astype(np.float64), terminated, truncated, infos)

    def _labels(self, row: int) -> dict[str, float]:
        return dict(zip(self.spec.state_names, self.labels[row].tolist(), strict=True))


def _told(context: Context) -> dict[str, Any]:
    """Return the part of a reset's info that comes from the context."""
    told = context.conditioning
    return {"conditioning": {"tags": tuple(told.tags), "numbers": dict(told.numbers), "text": told.text}, "context": context.name}
