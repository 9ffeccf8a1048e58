"""One frame of Oasis from remembered keys and values: what rollouts and the batched simulator both stand on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worldsim import diffusion
from worldsim.oasis.dit import Modulation
from worldsim.oasis.memory import Memory
from worldsim.oasis.sampler import CONTEXT_STEP, ddim, ladder
from worldsim.oasis.world import OasisWorld


def empty_memory(world: OasisWorld) -> Memory:
    """Return a memory of the world's window that holds nothing, for one row."""
    dit, (_, height, width) = world.dit, world.vae.latent_shape
    return Memory.empty(
        depth=len(dit.blocks),
        rows=1,
        tokens=(height // dit.patch) * (width // dit.patch),
        heads=dit.heads,
        window=world.spec.window,
        head_dim=dit.width // dit.heads,
        device=dit.device,
        dtype=dit.dtype,
    )


def draw_noise(world: OasisWorld, seed: int, position: int) -> Tensor:
    """Draw the noise ``(C, h, w)`` that frame ``position`` starts from, from seed and number alone."""
    return torch.from_numpy(diffusion.draw_noise(seed, position, world.vae.latent_shape))


def labels(world: OasisWorld, steps: Sequence[int]) -> Tensor:
    """Return noise steps ``(1, T)`` on the world's device."""
    return torch.tensor([list(steps)], device=world.device)  # (1, T)


def remember(world: OasisWorld, memory: Memory, latents: Tensor, actions: Tensor) -> None:
    """Let the memory hold the given frames and nothing else.

    Args:
        world: The model.
        memory: Of one row.
        latents: ``(1, F, C, h, w)``, fewer than the window.
        actions: ``(1, F, A)``, the action that led to each.
    """
    frames = latents.shape[1]
    memory.clear()
    modulation = world.dit.modulation(labels(world, [CONTEXT_STEP] * frames), actions)
    world.dit.run(latents, modulation, memory, keys_only=True)
    memory.advance(frames)


def conditions(world: OasisWorld, action: Tensor, *, steps: int) -> Modulation:
    """Return the modulation of one frame at each of its noise steps, then as a remembered one.

    Args:
        world: The model.
        action: ``(1, 1, A)`` that leads to the frame.
        steps: Denoising steps.
    """
    return world.dit.modulation(labels(world, [*ladder(steps), CONTEXT_STEP]), action.expand(1, steps + 1, -1))


def imagine(world: OasisWorld, memory: Memory, noise: Tensor, told: Modulation, *, steps: int) -> Tensor:
    """Make the next frame ``(1, 1, C, h, w)`` float32 from noise of that shape; the memory does not go on."""

    def predict(x: Tensor, i: int) -> Tensor:
        v = world.dit.run(x, told.frame(i), memory)  # (1, 1, C, h, w)
        assert v is not None, "only a pass for keys gives none"
        return v.float()

    return ddim(predict, noise, steps=steps)


def keep(world: OasisWorld, memory: Memory, latents: Tensor, told: Modulation, *, steps: int) -> None:
    """Remember the frame ``(1, 1, C, h, w)`` that was made, and go on."""
    world.dit.run(latents, told.frame(steps), memory, keys_only=True)
    memory.advance()
