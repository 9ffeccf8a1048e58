"""What environments need of a world and of what runs it, and the opening of both by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.contexts import Context, Contexts
from worldsim.model import WorldModel
from worldsim.networks import check_compile, check_precision
from worldsim.simulator import Simulator, State
from worldsim.spec import OASIS, Sampling, WorldSpec
from worldsim.step import TensorStep


class World(Protocol):
    """A trained world: its spec, start contexts, tokenizer, and the sha256 over its files."""

    spec: WorldSpec
    contexts: Contexts
    fingerprint: str

    @property
    def uncertainty(self) -> Any:
        """What foretells the error of made frames, or None."""
        ...

    @property
    def starter(self) -> Any:
        """What makes first frames from conditioning alone, or None."""
        ...

    @property
    def labeller(self) -> Any:
        """What tells the class of each pixel from latents, or None."""
        ...

    @property
    def tokenizer(self) -> Any:
        """Frames to latents and back."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of what rollouts remember."""
        ...


class Engine(Protocol):
    """Runs B rows of a world forward in time, as ``worldsim.simulator.Simulator`` does."""

    sampling: Sampling
    device: torch.device

    @property
    def world(self) -> World:
        """What is run."""
        ...

    def begin(self, contexts: Sequence[Context], seeds: Sequence[int]) -> tuple[State, NDArray[np.float32]]:
        """Begin one row a context; also read the labelled state ``(B, S)`` of each context's last frame."""
        ...

    def step_tensors(self, state: State, features: Tensor, *, decode: bool = True) -> tuple[State, TensorStep]:
        """Move every row one frame on by action features ``(B, A)``."""
        ...


def open_world(
    name: str,
    *,
    device: str | torch.device = "cpu",
    steps: int | None = None,
    guidance: float | None = None,
    precision: str = "fp32",
    compile: bool = False,
    in_place: bool = False,
) -> tuple[World, Engine]:
    """Load a world and what runs it.

    Args:
        name: A shipped world, a folder, a Hub repository, or ``oasis-500m``, whose weights the user has fetched.
        device: Where to run it.
        steps: Denoising steps a frame; None for the world's own number.
        guidance: See ``worldsim.spec.Sampling``; None for the world's own. Oasis, which is told actions alone, has none.
        precision: See ``worldsim.simulator.Simulator``; Oasis runs in ``fp32`` alone.
        compile: See there; not for Oasis.
        in_place: Whether a state that was stepped is of no more use, see there.

    Raises:
        ValueError: There is no such world or device, its files are damaged, steps, guidance or precision are out of range,
            or there is nothing to compile with.
    """
    if name == OASIS:
        from worldsim import oasis

        check_precision(precision)
        check_compile(compile, torch.device(device))
        if precision != "fp32" or compile:
            raise ValueError(f"world {name!r} runs with precision='fp32' and compile=False alone, got {precision!r} and {compile}")
        published = oasis.from_pretrained(device=device)
        if guidance not in (None, 1):
            raise ValueError(f"world {name!r} is told nothing but actions, so guidance={guidance} has nothing to stress: leave it out")
        return published, oasis.OasisSimulator(published, sampling=_sampling(published.spec, steps, None))
    world = WorldModel.from_pretrained(name, device=device)
    sampling = _sampling(world.spec, steps, guidance)
    return world, Simulator(world, sampling=sampling, precision=precision, compile=compile, in_place=in_place)


def _sampling(spec: WorldSpec, steps: int | None, guidance: float | None) -> Sampling:
    own = spec.sampling
    return dataclasses.replace(own, steps=own.steps if steps is None else steps, guidance=own.guidance if guidance is None else guidance)
