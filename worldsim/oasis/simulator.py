"""OasisSimulator: B rows of an Oasis world behind the methods of ``worldsim.simulator.Simulator``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from worldsim.contexts import Context
from worldsim.oasis.memory import Memory
from worldsim.oasis.prompt import check_prompt, encode
from worldsim.oasis.sampler import ladder
from worldsim.oasis.streaming import conditions, draw_noise, empty_memory, imagine, keep, remember
from worldsim.oasis.world import OasisWorld
from worldsim.simulator import State
from worldsim.spec import Sampling
from worldsim.step import END, PIXELS, TensorStep
from worldsim.tokenizer import to_uint8

NEVER = -1e4
"""Logit of an end that never comes."""


class OasisSimulator:
    """Runs B rows of an Oasis world as ``OasisRollout`` runs one with ``cache="stream"``.

    Rows are made one after another, each from its own memory, so that a row does not depend on the others. The state holds the
    rings of keys and values, 0.6 GB a row for Oasis-500M in float32, and newest latents as history; it is a value.

    Args:
        world: The model.
        sampling: Its ``steps`` count, the rest is fixed by the model; None for the world's own.

    Raises:
        ValueError: The number of steps is out of its range.
    """

    def __init__(self, world: OasisWorld, *, sampling: Sampling | None = None) -> None:
        self.world, self.spec, self.sampling = world, world.spec, sampling or world.spec.sampling
        self.device, self.dtype = world.device, world.dit.dtype
        ladder(self.sampling.steps)  # refuses numbers out of range
        space = self.spec.action_space
        self._low, self._high = (torch.as_tensor(edge, device=self.device) for edge in (space.low, space.high))  # type: ignore[attr-defined]

    @torch.inference_mode()
    def begin(self, contexts: Sequence[Context], seeds: Sequence[int]) -> tuple[State, NDArray[np.float32]]:
        """Begin one row a context; there are no labels, so these are ``(B, 0)``.

        Args:
            contexts: Where the B rows start.
            seeds: What each row's noise is drawn from, at least 0.

        Raises:
            ValueError: A context has frames of another size, or actions that are not in the action space.
        """
        begun = [self._begin_one(context, seed) for context, seed in zip(contexts, seeds, strict=True)]
        return State.stack(begun), np.zeros((len(begun), 0), np.float32)

    def _begin_one(self, context: Context, seed: int) -> State:
        latents, actions = encode(self.world, check_prompt(self.world, context.frames, context.actions))
        memory = empty_memory(self.world)
        remember(self.world, memory, latents, actions)
        return self._state(memory, latents[:, -1:], seed, self.spec.vocabulary.features(context.conditioning)[None].to(self.device))

    @torch.inference_mode()
    def step_tensors(self, state: State, features: Tensor, *, decode: bool = True) -> tuple[State, TensorStep]:
        """Move every row one frame on.

        Args:
            state: B rows; it stays as it was.
            features: ``(B, 25)`` actions scaled to [-1, 1], as ``worldsim.spaces.to_features`` gives them.
            decode: Whether frames are wanted.
        """
        rows = self._low + (features.to(self.device, torch.float32) + 1) / 2 * (self._high - self._low)  # (B, A)
        made = [self._step_one(state.take([row]), action[None, None]) for row, action in enumerate(rows)]
        latents = torch.cat([newest for _, newest in made])  # (B, C, h, w)
        frames = torch.empty(len(made), 0, 0, 3, dtype=torch.uint8, device=self.device)  # (B, 0, 0, 3)
        readout = torch.zeros(len(made), 4, device=self.device)  # (B, 4)
        readout[:, PIXELS], readout[:, END], readout[:, -1] = latents.sum((1, 2, 3)), NEVER, float("nan")
        if decode:
            pictures = torch.cat([self.world.vae.decode(one[None]).float() for one in latents])  # (B, 3, H, W)
            readout[:, PIXELS] += pictures.sum((1, 2, 3))
            frames = to_uint8(pictures.nan_to_num())  # (B, H, W, 3)
        step = TensorStep(frames, latents, torch.zeros(len(made), 0, 0, device=self.device), readout)  # hidden (B, 0, 0)
        return State.stack([after for after, _ in made]), step

    def _step_one(self, state: State, action: Tensor) -> tuple[State, Tensor]:
        """Return a row's next state, and its new latents ``(1, C, h, w)``; ``take`` has copied the row already."""
        seed, position, steps = int(state.seed), int(state.position), self.sampling.steps
        memory = Memory(state.keys[0], state.values[0], position)
        told = conditions(self.world, action, steps=steps)
        noise = draw_noise(self.world, seed, position)[None, None].to(self.device)  # (1, 1, C, h, w)
        made = imagine(self.world, memory, noise, told, steps=steps)  # (1, 1, C, h, w)
        keep(self.world, memory, made, told, steps=steps)
        return self._state(memory, made, seed, state.condition), made[:, 0]

    def _state(self, memory: Memory, newest: Tensor, seed: int, condition: Tensor) -> State:
        held = min(memory.position, memory.window)
        numbers = torch.arange(memory.position - held, memory.position, device=self.device)  # (held,)
        slots = F.one_hot(numbers % memory.window, memory.window).bool()  # (held, P)
        remembered = torch.where(slots.any(0), (slots * numbers[:, None]).sum(0), -1)  # (P,)
        return State(
            keys=memory.keys[None],
            values=memory.values[None],
            remembered=remembered[None],
            history=newest,
            position=torch.tensor([memory.position], device=self.device),
            seed=torch.tensor([seed], device=self.device),
            condition=condition,
            told=condition.new_empty(len(condition), 0),
        )
