"""Prompts of Oasis: the frames that a rollout starts from, checked, cut to the window, and encoded."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.contexts import Context
from worldsim.oasis.actions import ACTIONS, check_row
from worldsim.oasis.world import OasisWorld
from worldsim.tokenizer import to_model


class Prompt(NamedTuple):
    """The newest frames of a prompt, those that a new frame sees.

    Attributes:
        frames: ``(F, H, W, 3)`` uint8.
        actions: ``(F, 25)`` float32, the action that led to each; rest before the first of all.
        length: How many frames were given.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    length: int


def check_prompt(world: OasisWorld, frames: NDArray[np.uint8], actions: NDArray[Any] | None) -> Prompt:
    """Check a prompt and keep the newest frames that a new one sees.

    Args:
        world: The model.
        frames: ``(F, H, W, 3)`` uint8, or one frame ``(H, W, 3)``.
        actions: ``(F - 1, 25)``, those between the frames; None for rest.

    Raises:
        ValueError: Frames are of another kind or size, or actions are not one between two frames or not in the action space.
    """
    shown = np.asarray(frames)
    shown = shown[None] if shown.ndim == 3 else shown
    rest = np.zeros((1, len(ACTIONS)), np.float32)
    between = rest.repeat(max(0, len(shown) - 1), axis=0) if actions is None else [check_row(row) for row in actions]
    context = Context(shown, np.asarray(between, np.float32).reshape(-1, len(ACTIONS)))
    size, wanted = shown.shape[1:3], tuple(world.spec.frame_size)
    if size != wanted:
        raise ValueError(
            f"prompt has frames of {size[0]}x{size[1]}, world {world.spec.name!r} makes {wanted[0]}x{wanted[1]}: resize them first"
        )
    kept = world.spec.window - 1
    return Prompt(context.frames[-kept:], np.concatenate((rest, context.actions))[-kept:], len(shown))


@torch.inference_mode()
def encode(world: OasisWorld, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Return latents ``(1, F, C, h, w)`` float32, and actions ``(1, F, A)``."""
    place, frames = world.device, torch.from_numpy(prompt.frames.copy())
    latents = torch.cat([world.vae.encode(to_model(frame[None]).to(place)) for frame in frames])  # (F, C, h, w)
    return latents[None].float(), torch.from_numpy(prompt.actions)[None].to(place)
