"""Simulator: the only place that runs a world forward in time, B rows at once, each its own episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.contexts import Context
from worldsim.diffusion import SMALLEST_SHORTCUT, corrupt, draw_noises
from worldsim.dit import FrameInputs, FrameOutputs
from worldsim.model import WorldModel
from worldsim.networks import check_compile, networks_of
from worldsim.sampler import euler, levels
from worldsim.spaces import feature_maker, to_features
from worldsim.spec import Sampling
from worldsim.step import Step, TensorStep
from worldsim.streaming_dit import level_embedding
from worldsim.streaming_heads import StreamingErrorHead
from worldsim.tokenizer import to_model, to_uint8
from worldsim.windows import push_history, ring_mask, shift_levels, stack_history, training_mask


@dataclass(frozen=True)
class State:
    """B rows of a rollout. It is a value: ``step`` returns another one, and to fork a row is to take it twice.

    Attributes:
        keys: Ring of rotated keys ``(B, layers, N, heads, P, d)``, P the frames that a frame sees, itself among them.
        values: Ring of values, likewise.
        remembered: ``(B, P)`` int64 frame number in each slot of the ring, -1 where empty. The next frame takes the place of the oldest
            but the sinks.
        history: ``(B, H, n, p*p*C)`` newest frames as remembered, newest first, as patches (``StreamingDiT.patches``). That of a world with
            an anchor has one more, ``(B, H + 1, n, p*p*C)``: the first frame of the context.
        position: ``(B,)`` int64 number of the next frame.
        seed: ``(B,)`` int64.
        condition: ``(B, V)``.
        told: ``(B, S)`` float32 labelled state of the newest frame in physical units, which heads with recall are told with the next;
            ``(B, 0)`` in a world without.
    """

    keys: Tensor
    values: Tensor
    remembered: Tensor
    history: Tensor
    position: Tensor
    seed: Tensor
    condition: Tensor
    told: Tensor

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.position)

    def take(self, rows: Sequence[int]) -> State:
        """Return the given rows, in that order; a row may be named several times."""
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.position.device)
        return State(*(getattr(self, f.name)[index] for f in fields(self)))

    def put(self, rows: Sequence[int], other: State) -> State:
        """Return this state with ``rows`` replaced by the rows of ``other``."""
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.position.device)
        return State(*(getattr(self, f.name).index_copy(0, index, getattr(other, f.name)) for f in fields(self)))

    @staticmethod
    def stack(states: Sequence[State]) -> State:
        """Lay the rows of several states one after another."""
        return State(*(torch.cat([getattr(state, f.name) for state in states]) for f in fields(State)))


class Simulator:
    """Runs one world.

    Noise comes from (seed, frame number) alone, so a row depends neither on the batch it sits in nor on its place there.

    Each frame takes the passes of the sampler and one more over the finished frame, which is what is remembered and what heads read.
    That pass cannot share a forward with the first one of the frame after, though weights would be read half as often: reward, end and
    state of a step come from it, and the action that the other one needs is only chosen once they are known.

    Steps run in ``worldsim.streaming_dit.StreamingDiT``, which reads the weights of the dynamics when the simulator is built: train
    a world on, and build another simulator. Those of a world that was loaded from files must not change at all.

    Args:
        world: The trained world.
        sampling: How frames are made; the world's own by default.
        sink: First frames of a rollout that stay in view for ever beside the window (attention sinks, Xiao et al. 2024, section 3.2).
            0 is what worlds are trained with.
        precision: ``fp32``, or ``bf16`` for faster networks where the processor has it. Latents, embeddings, attention over time and
            states stay in the world's own type, so a state may go on in either.
        compile: Compile the dynamics (``torch.compile``): up to a minute at the first step of a batch size, then the same but for
            rounding; measure whether it pays.
        in_place: Write each frame into the memory of the state that is stepped, which must not be used again: saves a copy of the ring.

    Raises:
        ValueError: ``sink`` is negative, ``precision`` is unknown, or there is nothing to compile with.
    """

    def __init__(
        self,
        world: WorldModel,
        *,
        sampling: Sampling | None = None,
        sink: int = 0,
        precision: str = "fp32",
        compile: bool = False,
        in_place: bool = False,
    ) -> None:
        if sink < 0:
            raise ValueError(f"sink={sink} must be 0 or more frames")
        check_compile(compile, world.device)
        self.world, self.spec, self.sink = world, world.spec, sink
        self.sampling = sampling or world.spec.sampling
        self.config: Any = world.dynamics.config
        self.dynamics, self.device, self.dtype = world.dynamics, world.device, world.dynamics.place.dtype
        self.precision, self.compile, self.in_place = precision, compile, in_place
        self.networks = networks_of(world, precision)
        # every pass of a step is the same graph: to compile the whole step would take longer; the decoder gains nothing
        self._pass = torch.compile(self.networks.dit.run) if compile else self.networks.dit.run
        self._levels, self._to_features = self._embed_levels(), feature_maker(self.spec.action_space)
        self._chance = None if world.uncertainty is None else StreamingErrorHead(world.uncertainty, dtype=self.dtype)
        self._unknown = torch.full((1, 1), float("nan"), device=self.device)
        self._recall = world.heads.memory is not None
        self._slots = sink + self.spec.window + 1
        self._open_mask = torch.zeros(1, 1, self._slots, device=self.device)  # (B, 1, P) of the newest step
        self._noise_shape = (1 if self.sampling.context_level == 1 else 2, *world.tokenizer.latent_shape)

    def _embed_levels(self) -> Tensor:
        """Embed the levels ``(steps + 1, D)`` of the passes of a step; the last one is that in which the frame is remembered."""
        chosen = self.sampling
        size = 1 / chosen.steps
        asked = size if chosen.shortcut and size >= SMALLEST_SHORTCUT else 0.0
        each = [*levels(chosen.steps), chosen.context_level]
        return level_embedding(self.dynamics, each, [asked] * chosen.steps + [0.0], chosen.context_level)

    def start(self, contexts: Sequence[Context], seeds: Sequence[int]) -> State:
        """Begin one row a context; each is prepared on its own, so a row does not depend on the others.

        Args:
            contexts: Where the B rows start.
            seeds: What each row's noise is drawn from, at least 0.

        Raises:
            ValueError: A context has frames of another size, or tags, words or numbers that the world does not know.
        """
        return self.begin(contexts, seeds)[0]

    @torch.inference_mode()
    def begin(self, contexts: Sequence[Context], seeds: Sequence[int]) -> tuple[State, NDArray[np.float32]]:
        """Do as ``start``, and also read the labelled state ``(B, S)`` of each context's last frame."""
        begun = [self._start_one(context, seed) for context, seed in zip(contexts, seeds, strict=True)]
        return State.stack([state for state, _ in begun]), np.concatenate([labels for _, labels in begun])

    def _start_one(self, context: Context, seed: int) -> tuple[State, NDArray[np.float32]]:
        size = tuple(context.frames.shape[1:3])
        if size != tuple(self.spec.frame_size):
            wanted = self.spec.frame_size
            raise ValueError(
                f"start context has frames of {size[0]}x{size[1]}, world {self.spec.name!r} makes {wanted[0]}x{wanted[1]}: resize them"
            )
        frames, features, shown = self._unfold(context)
        f = len(frames)
        latents = self.world.tokenizer.encode(to_model(torch.tensor(frames)).to(self.device, self.dtype))[None].float()  # (1, F, C, h, w)
        noise = torch.from_numpy(draw_noises([seed] * f, range(f), (2, *latents.shape[2:])))[None, :, 1].to(self.device)  # (1, F, C, h, w)
        level = torch.full((1, f), self.sampling.context_level, device=self.device)
        seen = corrupt(latents, noise, level).to(self.dtype)  # (1, F, C, h, w)
        actions = torch.from_numpy(features)[None].to(self.device, self.dtype)  # (1, F, A)
        known = torch.from_numpy(shown)[None].to(self.device)  # (1, F)
        condition = self.spec.vocabulary.features(context.conditioning)[None].to(self.device, self.dtype)  # (1, V)
        inputs = FrameInputs(
            latents=seen,
            history=stack_history(seen, self.config.history, latents[:, 0] if self.config.anchor else None),
            level=level,
            step=torch.zeros_like(level),
            history_level=shift_levels(level),
            actions=actions,
            known=known,
            condition=condition,
            positions=torch.arange(f, device=self.device)[None],
        )
        out = self.dynamics(inputs, training_mask(f, f, self.spec.window, self.device), estimate=False)
        told = self.networks.heads(out.hidden[:, -1], None).state  # (1, S)
        if self._recall and context.state is not None:
            told = torch.from_numpy(self._given(context.state))[None].to(self.device)  # (1, S)
        return self._first_state(out, seen, latents[:, :1], condition, seed, self._keep(told)), told.cpu().numpy()

    def _given(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Refuse a context's state that is not this world's."""
        if state.shape != (len(self.spec.state_names),):
            names = list(self.spec.state_names)
            raise ValueError(
                f"start context has a state of shape {state.shape}, world {self.spec.name!r} tells {names}: give these, or None"
            )
        return state.astype(np.float32)

    def _keep(self, state: Tensor) -> Tensor:
        """Return of a labelled state ``(B, S)`` what is remembered of it: ``(B, S)``, or ``(B, 0)`` without recall."""
        return state if self._recall else state[:, :0]

    def _unfold(self, context: Context) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
        """Keep the newest frames that fit the window; show a single image twice, so that the world starts at rest.

        Returns:
            Frames ``(F, H, W, 3)``, features ``(F, A)`` of the action that led to each, and ``(F,)`` whether that action is known.
        """
        frames = context.frames[-self.spec.window :]
        rows = context.actions[len(context.actions) - len(frames) + 1 :]
        if len(context.frames) == 1:
            frames = np.repeat(frames, min(2, self.spec.window), axis=0)
        features = np.zeros((len(frames), self.config.action_features), np.float32)
        if len(rows):
            features[1:] = to_features(self.spec.action_space, rows)
        return frames, features, (np.arange(len(frames)) > 0) & (len(rows) > 0)

    def _first_state(self, out: FrameOutputs, seen: Tensor, anchor: Tensor, condition: Tensor, seed: int, told: Tensor) -> State:
        f, h = seen.shape[1], self.config.history
        empty = self._slots - f
        remembered = torch.cat((torch.arange(f), torch.full((empty,), -1)))[None].to(self.device)  # (1, P)
        newest = self.networks.dit.patches(seen.flip(1)[:, :h])  # (1, <=H, n, p*p*C)
        history = torch.nn.functional.pad(newest, (0, 0, 0, 0, 0, h - newest.shape[1]))  # (1, H, n, p*p*C)
        if self.config.anchor:
            history = torch.cat((history, self.networks.dit.patches(anchor.to(history.dtype))), dim=1)  # (1, H + 1, n, p*p*C)
        keys, values = (torch.nn.functional.pad(x, (0, 0, 0, empty)).transpose(0, 1).contiguous() for x in (out.keys, out.values))
        position, seeds = torch.tensor([f], device=self.device), torch.tensor([seed], device=self.device)
        return State(keys, values, remembered, history, position, seeds, condition, told)

    def step(self, state: State, actions: NDArray[np.generic], *, decode: bool = True) -> tuple[State, Step]:
        """Move every row one frame on.

        Args:
            state: B rows.
            actions: ``(B, A)`` rows of the action space.
            decode: Whether frames are wanted; latents cost less.
        """
        state, made = self.step_tensors(state, torch.from_numpy(self._to_features(actions)), decode=decode)
        return state, made.numpy()

    @torch.inference_mode()
    def step_tensors(self, state: State, features: Tensor, *, decode: bool = True) -> tuple[State, TensorStep]:
        """Do as ``step``, with actions as features ``(B, A)`` (see ``worldsim.spaces.to_features``) and results on the world's device."""
        if (slots := state.remembered.shape[1]) != self._slots:
            own = f"{self.sink} + {self.spec.window}"
            raise ValueError(f"state remembers {slots - 1} frames, this simulator {own}: step it with its own sink")
        positions = state.position.tolist()
        drawn = torch.from_numpy(draw_noises(state.seed.tolist(), positions, self._noise_shape))  # (B, 1 or 2, C, h, w)
        return self._make_frame(state, positions, features.to(self.device), drawn.to(self.device), decode=decode)

    def _make_frame(self, state: State, positions: list[int], features: Tensor, drawn: Tensor, *, decode: bool) -> tuple[State, TensorStep]:
        """Make the next frame of every row from noise ``(B, 1 or 2, C, h, w)``: what it starts from, and what it is remembered with."""
        dit, level = self.networks.dit, self.sampling.context_level
        remembered, slot = self._make_room(state, positions)  # (B, P)
        mask = self._mask(remembered, positions)  # (B, 1, P)
        keys, values = state.keys, state.values  # (B, layers, N, heads, P, d)
        shared = dit.share(
            self._levels, features, state.condition, state.history, state.position, mask, (keys, values), slot, in_place=self.in_place
        )
        noise = dit.patches(drawn)  # (B, 1 or 2, n, p*p*C)

        def estimate(patches: Tensor, modulation: Tensor) -> Tensor:
            hidden = self._pass(patches, modulation, shared)  # (B, N, D)
            return dit.estimate(hidden, patches, modulation, shared)  # (B, n, p*p*C)

        def denoise(patches: Tensor, number: int) -> Tensor:
            asked = estimate(patches, shared.modulation[number])  # (B, n, p*p*C)
            return asked if untold is None else torch.lerp(estimate(patches, untold[number]), asked, guidance)  # (B, n, p*p*C)

        guidance = self.sampling.guidance
        untold = None if guidance == 1 else self._untold(features, state.condition)  # (steps, B, M)
        start = noise[:, 0] if self.sampling.temperature == 1 else noise[:, 0] * self.sampling.temperature  # (B, n, p*p*C)
        made = euler(denoise, start, steps=self.sampling.steps)  # (B, n, p*p*C)
        seen = made if level == 1 else torch.lerp(noise[:, 1], made, level)  # (B, n, p*p*C)
        hidden = self._pass(seen, shared.modulation[-1], shared)  # (B, N, D)
        if shared.keys.data_ptr() != keys.data_ptr():  # it was not written in place
            keys, values = (one.transpose(0, 1).to(self.dtype) for one in (shared.keys, shared.values))  # (B, layers, N, heads, P, d)
        history = push_history(state.history, seen, anchor=self.config.anchor)  # (B, H, n, p*p*C)
        step = self._read(dit.latents(made), hidden, state.told if self._recall else None, decode=decode)
        after = State(keys, values, remembered, history, state.position + 1, state.seed, state.condition, self._keep(step.state))
        return after, step

    def _untold(self, features: Tensor, condition: Tensor) -> Tensor:
        """Return the modulation ``(steps, B, M)`` of the denoising passes for rows that are told nothing but actions.

        What such a pass leaves in the ring, the pass in which the frame is remembered writes over.
        """
        return self.networks.dit.modulate(self._levels[: self.sampling.steps], features, torch.zeros_like(condition))

    def _make_room(self, state: State, positions: list[int]) -> tuple[Tensor, int | Tensor]:
        """Put the new frame of each row in the place of the oldest; return ``remembered``, and its slot, ``(B,)`` where they differ."""
        window = self.spec.window + 1
        slots = [p if p < self.sink else self.sink + (p - self.sink) % window for p in positions]
        remembered = state.remembered if self.in_place else state.remembered.clone()  # (B, P)
        if len(set(slots)) == 1 and not self.compile:  # a graph that is compiled takes no slot for granted
            remembered.select(1, slots[0]).copy_(state.position)
            return remembered, slots[0]
        index = torch.tensor(slots, device=self.device)  # (B,)
        return remembered.scatter_(1, index.unsqueeze(1), state.position.unsqueeze(1)), index

    def _mask(self, remembered: Tensor, positions: list[int]) -> Tensor:
        rows, slots = remembered.shape
        if min(positions) + 1 < slots:
            return ring_mask(remembered)  # (B, 1, P)
        if self._open_mask.shape[0] != rows:
            self._open_mask = torch.zeros(rows, 1, slots, device=self.device)
        return self._open_mask  # (B, 1, P)

    def _read(self, latents: Tensor, hidden: Tensor, before: Tensor | None, *, decode: bool) -> TensorStep:
        told, uncertainty = self.networks.heads(hidden, before), self._uncertainty(hidden)
        if decode:
            made = self.networks.decode(latents.to(self.networks.dtype)).float()  # (B, 3, H, W)
            pixels = made.sum((1, 2, 3))  # (B,) keeps NaN and infinity
            numbers = pixels.is_cpu and isfinite(sum(pixels.tolist()))  # elsewhere, to look would be to wait for the device
            frames = to_uint8(made, in_place=True, numbers=numbers)  # (B, H, W, 3)
        else:
            pixels = torch.zeros(len(latents), device=self.device)  # (B,)
            frames = torch.empty(len(latents), 0, 0, 3, dtype=torch.uint8, device=self.device)  # (B, 0, 0, 3)
        reward = told.reward.clamp_(*self.spec.reward_range)  # (B, 1)
        readout = torch.cat((pixels.unsqueeze(1), told.end, reward, told.state, uncertainty), dim=1)  # (B, 4 + S)
        return TensorStep(frames, latents, hidden, readout)

    def _uncertainty(self, hidden: Tensor) -> Tensor:
        return self._unknown.expand(len(hidden), 1) if self._chance is None else self._chance(hidden)  # (B, 1)
