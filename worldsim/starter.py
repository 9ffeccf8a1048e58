"""Generated starts: the first frames of a rollout, sampled from tags, numbers and words alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.contexts import Context
from worldsim.diffusion import draw_noises
from worldsim.dit import FrameInputs, VideoDiT
from worldsim.episode import Conditioning
from worldsim.sampler import euler, levels
from worldsim.spaces import rest_action, to_row
from worldsim.spec import WorldSpec
from worldsim.tokenizer import to_uint8

NAME = "starter"
"""Folder of the network in a world."""
FRAMES = 2
"""Frames that are made together, so that they tell how things move."""
_PLACE = 2**40  # number that the noise of starts is drawn for; no frame of a rollout has it


@dataclass(frozen=True)
class StartSampling:
    """How starts are sampled.

    Attributes:
        steps: Euler steps, at least 1.
        guidance: How far beyond the conditioned estimate to go, away from the unconditioned one (classifier-free guidance, Ho and
            Salimans 2022, equation 6); 1 is the conditioned estimate itself.
    """

    steps: int = 24
    guidance: float = 5.0


def starter_shape(latent_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the ``latent_shape`` of a starter for a tokenizer's ``(C, h, w)``."""
    c, h, w = latent_shape
    return FRAMES * c, h, w


def estimate(network: VideoDiT, noisy: Tensor, level: Tensor, condition: Tensor) -> Tensor:
    """Estimate clean starts.

    Args:
        network: A ``VideoDiT`` over single frames whose channels are those of ``FRAMES`` frames.
        noisy: ``(B, FRAMES * C, h, w)`` at their signal level.
        level: ``(B,)`` in [0, 1].
        condition: ``(B, V)``.

    Returns:
        ``(B, FRAMES * C, h, w)``.
    """
    b, nothing = len(noisy), torch.zeros(len(noisy), 1, device=noisy.device)  # (B, 1)
    inputs = FrameInputs(
        latents=noisy[:, None],  # (B, 1, FRAMES*C, h, w)
        history=noisy[:, None, :0],
        level=level[:, None],
        step=nothing,
        history_level=nothing,
        actions=torch.zeros(b, 1, network.config.action_features, device=noisy.device),
        known=torch.zeros(b, 1, dtype=torch.bool, device=noisy.device),
        condition=condition,
        positions=torch.zeros(b, 1, dtype=torch.int64, device=noisy.device),
    )
    made: Tensor = network(inputs, torch.zeros(1, 1, 1, device=noisy.device)).latents[:, 0]  # (B, FRAMES*C, h, w)
    return made


@torch.inference_mode()
def sample_starts(
    network: VideoDiT,
    tokenizer: Any,
    spec: WorldSpec,
    conditionings: Sequence[Conditioning],
    seeds: Sequence[int],
    *,
    sampling: StartSampling | None = None,
) -> list[Context]:
    """Sample one start a conditioning; the same seed gives the same start.

    Args:
        network: As in ``estimate``.
        tokenizer: Decodes the latents.
        spec: Of the world.
        conditionings: What each start is told; an empty one leaves all open.
        seeds: What each start's noise is drawn from, at least 0.
        sampling: How.

    Returns:
        Contexts of ``FRAMES`` frames, with actions at rest between them.

    Raises:
        ValueError: A tag or number is unknown to the world.
    """
    chosen = sampling or StartSampling()
    own = [_sample(network, tokenizer, spec, one, seed, chosen) for one, seed in zip(conditionings, seeds, strict=True)]
    actions = np.repeat(to_row(spec.action_space, rest_action(spec.action_space))[None], FRAMES - 1, axis=0)
    return [Context(frames, actions, told, "generated") for frames, told in zip(own, conditionings, strict=True)]


def _sample(
    network: VideoDiT, tokenizer: Any, spec: WorldSpec, told: Conditioning, seed: int, sampling: StartSampling
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return frames ``(FRAMES, H, W, 3)``; each start is made on its own, so it depends on no other."""
    device, dtype = network.place.device, network.place.dtype
    shape = network.config.latent_shape
    noise = torch.from_numpy(draw_noises([seed], [_PLACE], shape)).to(device, dtype)  # (1, FRAMES*C, h, w)
    known = spec.vocabulary.features(told)[None].to(device, dtype)  # (1, V)
    condition = torch.cat((known, torch.zeros_like(known)))  # (2, V)
    each = levels(sampling.steps)

    def denoise(z: Tensor, number: int) -> Tensor:
        level = torch.full((2,), each[number], device=device, dtype=dtype)
        asked, free = estimate(network, z.expand(2, -1, -1, -1), level, condition).chunk(2)  # each (1, FRAMES*C, h, w)
        return torch.lerp(free, asked, sampling.guidance)

    made = torch.unflatten(euler(denoise, noise, steps=sampling.steps), 1, (FRAMES, -1))[0]  # (FRAMES, C, h, w)
    frames: np.ndarray[Any, np.dtype[np.uint8]] = to_uint8(tokenizer.decode(made).float().nan_to_num()).cpu().numpy()  # (FRAMES, H, W, 3)
    return frames
