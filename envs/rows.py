"""Episodes of B rows in a learned world: what every environment of it stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, log
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from worldsim.contexts import Context
from worldsim.engine import World, open_world
from worldsim.envs.snapshot import WorldSnapshot, generator_from
from worldsim.envs.start import Start, Starts
from worldsim.episode import Conditioning
from worldsim.labeller import SEGMENTATION
from worldsim.simulator import State
from worldsim.step import END, REWARD, STATE
from worldsim.tokenizer import to_model, to_uint8
from worldsim.uncertainty import NAME as UNCERTAINTY

NOT_FINITE = "model gave values that are not finite"
"""``info["truncation_reason"]`` where a world broke down."""

OBSERVATIONS = ("frame", "latent")


@dataclass(frozen=True)
class Outcome:
    """What a step of B rows gave, on the world's device.

    Attributes:
        observations: ``(B, H, W, 3)`` uint8 frames or ``(B, C, h, w)`` float32 latents.
        rewards: ``(B,)`` float32.
        terminated: ``(B,)`` bool, on the host.
        truncated: ``(B,)`` bool, on the host.
        finite: ``(B,)`` bool, on the host, False where the world broke down.
        labels: ``(B, S)`` float32, the labelled state, see ``Rows.state_names``.
        read: ``(B, 1 + S)``, rewards and labels on the host.
    """

    observations: Tensor
    rewards: Tensor
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    finite: NDArray[np.bool_]
    labels: Tensor
    read: list[list[float]]


class Rows:
    """B episodes that run side by side, as tensors on the world's device.

    A step terminates an episode where the world gives its end a probability above one half. It truncates an episode at the
    horizon, and where the model gives NaN or infinity: the last good observation and state are then given again, with reward 0.

    Tensors are replaced, never written into: what was handed out stays as it was. ``state`` alone is not: a step uses it up, and
    snapshots are copies.

    Args:
        world: As ``worldsim.engine.open_world`` takes it.
        count: B.
        device: Where the world runs.
        steps: Denoising steps a frame; None for the world's own number.
        guidance: How much what the world is told is stressed: 1 not at all, more at up to twice the cost of a frame; None for the
            world's own.
        horizon: Most steps of an episode; None for no limit.
        context: See ``Starts``.
        conditioning: See ``Starts``.
        observation: ``frame`` or ``latent``.
        latents: Whether ``beside`` gives latents.
        labels: Whether ``beside`` gives what each pixel shows.
        precision: ``fp32``, or ``bf16`` for networks that are faster where the processor has it, and a little less exact.
        compile: Compile the dynamics: up to a minute at the first step, then the same but for rounding; measure whether it pays.

    Raises:
        ValueError: The world cannot be loaded, or an argument is out of its range.
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
        observation: str = "frame",
        guidance: float | None = None,
        latents: bool = False,
        labels: bool = False,
        precision: str = "fp32",
        compile: bool = False,
    ) -> None:
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise ValueError(f"num_envs={count!r} must be a whole number, 1 or more")
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon={horizon} must be 1 or more steps, or None for no limit")
        if observation not in OBSERVATIONS:
            raise ValueError(f"observation={observation!r} is unknown: use 'frame' or 'latent'")
        model, self.simulator = open_world(
            world, device=device or "cpu", steps=steps, guidance=guidance, precision=precision, compile=compile, in_place=True
        )
        self.model, self.device = model, model.device
        self.spec, self.horizon, self.fingerprint = model.spec, horizon, model.fingerprint
        self.starts = Starts(model, context=context, conditioning=conditioning)
        self.end_logit = log(self.spec.end_threshold / (1 - self.spec.end_threshold))
        self.latent = observation == "latent"
        self.space = _space(model, latent=self.latent)
        self.state: State | None = None
        self.observations = torch.zeros((count, *self.space.shape), dtype=torch.float32 if self.latent else torch.uint8, device=self.device)
        if labels and model.labeller is None:
            raise ValueError(
                f"world {self.spec.name!r} does not tell what pixels show: leave labels=True out, or teach it with 'worldsim train labels'"
            )
        self.tells_latents, self.classes = latents, tuple(model.labeller.classes) if labels else ()
        self.latents = torch.zeros((count, *model.tokenizer.latent_shape), device=self.device) if latents or labels else None
        """Latents ``(B, C, h, w)`` float32 of the newest frames, where they or labels were asked for."""
        self.unsure = model.uncertainty is not None
        self.state_names = (*self.spec.state_names, *([UNCERTAINTY] if self.unsure else []))
        """Names of the labelled state, S: the source's, and ``uncertainty`` (0..1) of a world that foretells its errors."""
        self.labels = torch.zeros(count, len(self.state_names), device=self.device)
        self.elapsed = [0] * count
        self.over = np.ones(count, np.bool_)
        self.generators: list[np.random.Generator | None] = [None] * count

    def __len__(self) -> int:
        """B."""
        return len(self.over)

    @property
    def fps(self) -> float:
        """Frames a second; whole numbers as int."""
        return int(self.spec.fps) if float(self.spec.fps).is_integer() else self.spec.fps

    def metadata(self) -> dict[str, Any]:
        """Return what an environment's ``metadata`` says of the world."""
        checkpoint = {"name": self.spec.name, "sha256": self.fingerprint}
        labels = {"labels": {SEGMENTATION: self.classes}} if self.classes else {}
        return {"render_modes": ["rgb_array", "human"], "render_fps": self.fps, "checkpoint": checkpoint, **labels}

    def beside(self) -> dict[str, NDArray[Any]]:
        """Return what infos hold beside the newest frames, where it was asked for.

        Returns:
            ``latent`` ``(B, C, h, w)`` float32, and ``segmentation`` ``(B, H, W)`` uint8, the class of each pixel.
        """
        told: dict[str, NDArray[Any]] = {}
        if self.latents is not None and self.tells_latents:
            told["latent"] = to_host(self.latents)
        if self.latents is not None and self.classes:
            with torch.no_grad():
                told[SEGMENTATION] = to_host(self.model.labeller.classify(self.latents.to(self.model.dtype)))
        return told

    def frames(self) -> Tensor:
        """Return the newest frames ``(B, H, W, 3)`` uint8; latents are decoded for it."""
        if not self.latent:
            return self.observations.clone()
        with torch.no_grad():
            made = self.model.tokenizer.decode(self.observations.to(self.model.dtype))  # (B, 3, H, W)
            return to_uint8(made.float().nan_to_num())  # (B, H, W, 3)

    def reset(
        self, rows: Sequence[int], generators: Sequence[np.random.Generator], options: Sequence[Mapping[str, Any] | None]
    ) -> list[dict[str, Any]]:
        """Start the named rows anew, all of them at first, and return an info for each.

        Args:
            rows: The n rows, ascending.
            generators: One for each, what is drawn is drawn from it and from now on is the row's.
            options: One for each, see ``Starts.draw``.

        Raises:
            ValueError: As ``Starts.draw``; all rows stay as they were.
        """
        starts = [self.starts.draw(own, generator) for own, generator in zip(options, generators, strict=True)]
        begun = self._begin(starts)
        observations = torch.cat([self._observe(start) for start in starts])
        self._put(rows, begun[0], observations, begun[1], [0] * len(rows))
        self._put_latents(rows)
        self.over[list(rows)] = False
        for row, generator in zip(rows, generators, strict=True):
            self.generators[row] = generator
        labels = self.labels.tolist()  # (B, S)
        return [{"state": self.labelled(labels[row]), **_told(start)} for row, start in zip(rows, starts, strict=True)]

    def _begin(self, starts: Sequence[Start]) -> tuple[State, Tensor]:
        """Begin n rows; return their states and the labelled state ``(n, S)``."""
        contexts = [start.context for start in starts if start.context is not None]
        if len(contexts) == len(starts):
            return self._begin_new(contexts, [start.seed for start in starts])
        each = [self._resume(one) if one.context is None else self._begin_new([one.context], [one.seed]) for one in starts]
        return State.stack([state for state, _ in each]), torch.cat([labels for _, labels in each])

    def _begin_new(self, contexts: Sequence[Context], seeds: Sequence[int]) -> tuple[State, Tensor]:
        state, labels = self.simulator.begin(contexts, seeds)
        sure = torch.zeros(len(seeds), len(self.state_names) - labels.shape[1])  # a start is real
        return state, torch.cat((torch.from_numpy(labels), sure), dim=1).to(self.device)  # (n, S)

    def _resume(self, start: Start) -> tuple[State, Tensor]:
        """Go on from a stored state, with noise and conditioning of the start's own."""
        assert start.snapshot is not None
        start.snapshot.check(self.model, latent=self.latent)
        stored = start.snapshot.state
        state = replace(stored, seed=torch.full_like(stored.seed, start.seed))
        if start.told is not None:
            state = replace(state, condition=self._encoded([start.told], stored.condition))
        return state, start.snapshot.labels

    def tell(self, rows: Sequence[int], conditionings: Sequence[Conditioning]) -> None:
        """Tell the world something else of ``rows`` from the next frame on; what it remembers of the frames before stays.

        Raises:
            ValueError: There is no such row or no running episode, or the world does not know a tag or number; no row has changed then.
        """
        if self.state is None:
            raise ValueError("there is no episode to condition yet: call reset() first")
        condition = self.state.condition
        self.state = replace(self.state, condition=condition.index_copy(0, self._index(rows), self._encoded(conditionings, condition)))

    def _encoded(self, conditionings: Sequence[Conditioning], like: Tensor) -> Tensor:
        return torch.stack([self.spec.vocabulary.features(one) for one in conditionings]).to(like)  # (n, V)

    def step(self, features: Tensor) -> Outcome:
        """Move every row one frame on by actions as features ``(B, F)``."""
        assert self.state is not None, "reset comes before step"
        self.state, made = self.simulator.step_tensors(self.state, features, decode=not self.latent)
        observations = made.latents.float() if self.latent else made.frames
        latents = None if self.latents is None else made.latents.float()
        columns = slice(REWARD, STATE + len(self.state_names))
        told, read = made.readout[:, columns], made.readout.tolist()  # (B, 1 + S); of (B, 4 + S), the one wait for the device
        finite = [isfinite(sum(row[:-1])) for row in read]
        ended = [known and row[END] > self.end_logit for known, row in zip(finite, read, strict=True)]
        self.elapsed = [count + 1 for count in self.elapsed]
        read = [row[columns] for row in read]
        if not all(finite):
            known, whole = made.finite[:, None], made.finite[:, None, None, None]  # (B, 1), (B, 1, 1, 1)
            observations = torch.where(whole, observations, self.observations)
            latents = None if latents is None or self.latents is None else torch.where(whole, latents, self.latents)
            told = torch.where(known, told, torch.nn.functional.pad(self.labels, (1, 0)))
            read = told.tolist()
        self.observations, self.latents, self.labels = observations, latents, told[:, 1:]
        return Outcome(observations, told[:, 0], *self._flags(finite, ended), self.labels, read)

    def _flags(self, finite: Sequence[bool], ended: Sequence[bool]) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return ``terminated``, ``truncated`` and ``finite`` of an outcome, and keep in mind which rows are over."""
        limit = inf if self.horizon is None else self.horizon
        cut = [not end and (not known or count >= limit) for end, known, count in zip(ended, finite, self.elapsed, strict=True)]
        over = [one or other for one, other in zip(ended, cut, strict=True)]
        self.over, terminated, truncated, known = np.array((over, ended, cut, finite), np.bool_)
        return terminated, truncated, known

    def labelled(self, labels: Sequence[float]) -> dict[str, float]:
        """Return the labelled state of a row ``(S,)`` by name."""
        return dict(zip(self.state_names, labels, strict=True))

    def clone(self, rows: Sequence[int], *, include_rng: bool) -> WorldSnapshot:
        """Return a snapshot of ``rows``, in that order.

        Raises:
            ValueError: There is nothing to copy yet.
        """
        if self.state is None:
            raise ValueError("there is no state to clone yet: call reset() first")
        index = self._index(rows)
        return WorldSnapshot(
            world=self.model,
            latent=self.latent,
            state=self.state.take(rows),
            observations=self.observations[index],
            labels=self.labels[index],
            elapsed=torch.tensor([self.elapsed[row] for row in rows], device=self.device),
            over=self.over[list(rows)],
            generators=tuple(_bits(self.generators[row]) if include_rng else None for row in rows),
        )

    def restore(self, snapshot: WorldSnapshot, rows: Sequence[int]) -> None:
        """Put the snapshot's rows in the place of ``rows``; a snapshot of one row goes to all of them.

        Raises:
            ValueError: The snapshot is of another checkpoint, device, kind of observation or number of rows.
        """
        snapshot.check(self.model, latent=self.latent)
        source = [0] * len(rows) if len(snapshot) == 1 else list(range(len(snapshot)))
        if len(source) != len(rows):
            raise ValueError(f"snapshot holds {len(snapshot)} rows, {len(rows)} are to be restored: name as many, or clone a single one")
        if self.state is None and len(rows) != len(self):
            raise ValueError(f"rows {list(rows)} cannot be restored before the first reset: call reset() first, or restore all rows")
        index = self._index(source)
        self._put(rows, snapshot.state.take(source), snapshot.observations[index], snapshot.labels[index], snapshot.elapsed[index].tolist())
        self._put_latents(rows)
        self.over[list(rows)] = snapshot.over[source]
        for row, origin in zip(rows, source, strict=True):
            if (bits := snapshot.generators[origin]) is not None:
                self.generators[row] = generator_from(bits)
            elif self.generators[row] is None:
                self.generators[row] = np.random.default_rng()

    def _put(self, rows: Sequence[int], state: State, observations: Tensor, labels: Tensor, elapsed: Sequence[int]) -> None:
        index = self._index(rows)
        if self.state is None or len(rows) == len(self):
            order = np.argsort(rows).tolist()  # where each row comes from
            self.state = state if order == list(range(len(self))) else state.take(order)
        else:
            self.state = self.state.put(rows, state)
        self.observations = self.observations.index_copy(0, index, observations)
        self.labels = self.labels.index_copy(0, index, labels)
        for row, count in zip(rows, elapsed, strict=True):
            self.elapsed[row] = count

    @torch.no_grad()
    def _put_latents(self, rows: Sequence[int]) -> None:
        """Have the latents of ``rows`` be those of what they observe now; each on its own, so a row does not depend on the others."""
        if self.latents is None:
            return
        index = self._index(rows)
        self.latents = self.latents.index_copy(0, index, torch.cat([self._encode(one[None]) for one in self.observations[index]]))

    def _index(self, rows: Sequence[int]) -> Tensor:
        return torch.as_tensor(list(rows), dtype=torch.int64, device=self.device)

    @torch.no_grad()
    def _observe(self, start: Start) -> Tensor:
        """Return the start's last frame as an observation ``(1, ...)``; each on its own, so a row does not depend on the others."""
        if start.context is None:
            assert start.snapshot is not None
            return start.snapshot.observations
        frame = torch.tensor(start.context.frames[-1:], device=self.device)  # (1, H, W, 3)
        return self._encode(frame) if self.latent else frame

    def _encode(self, observation: Tensor) -> Tensor:
        """Return observations as latents ``(N, C, h, w)`` float32."""
        if observation.dtype != torch.uint8:
            return observation
        latents: Tensor = self.model.tokenizer.encode(to_model(observation).to(self.model.dtype)).float()  # (N, C, h, w)
        return latents


def to_host(values: Tensor) -> NDArray[Any]:
    """Return a copy as a NumPy array, dense in the order of its axes."""
    array: NDArray[Any] = values.cpu().numpy()
    return array.copy() if values.is_cpu else np.ascontiguousarray(array)


def _space(model: World, *, latent: bool) -> spaces.Box:
    if latent:
        return spaces.Box(-np.inf, np.inf, tuple(model.tokenizer.latent_shape), np.float32)
    return spaces.Box(0, 255, (*model.spec.frame_size, 3), np.uint8)


def _bits(generator: np.random.Generator | None) -> Mapping[str, Any] | None:
    return None if generator is None else generator.bit_generator.state


def _told(start: Start) -> dict[str, Any]:
    """Return the part of a reset's info that tells of the start."""
    told = start.told or Conditioning()  # a snapshot does not say in words what its world was told
    return {"conditioning": {"tags": tuple(told.tags), "numbers": dict(told.numbers), "text": told.text}, "context": start.name}
