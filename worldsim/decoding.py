"""Recorded latents back into frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.engine import World, open_world
from worldsim.tokenizer import to_uint8
from worldsim.types import Frames

_PIECE = 32  # frames decoded at a time


class FrameDecoder:
    """Decodes what a world has made.

    Args:
        world: The world that the latents are of.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    @staticmethod
    def open(name: str, *, sha256: str | None = None, device: str | torch.device = "cpu") -> FrameDecoder:
        """Load the world of recorded latents.

        Args:
            name: A shipped world, a folder, or a Hub repository.
            sha256: What the hash over its files must be; None takes whatever it is.
            device: Where it decodes.

        Raises:
            ValueError: There is no such world or device, or it is not the one of that hash.
        """
        world, _ = open_world(name, device=device)
        if sha256 not in (None, world.fingerprint):
            raise ValueError(f"world {name!r} is not the one that made the latents: its weights are {world.fingerprint}, theirs {sha256}")
        return FrameDecoder(world)

    @torch.inference_mode()
    def __call__(self, latents: NDArray[Any]) -> Frames:
        """Decode latents ``(N, C, h, w)`` of any float type.

        Returns:
            ``(N, H, W, 3)`` uint8, those that the world showed within 1/255.

        Raises:
            ValueError: They are not of the world's shape.
        """
        wanted = tuple(self.world.tokenizer.latent_shape)
        if latents.ndim != 4 or latents.shape[1:] != wanted:
            raise ValueError(f"latents of shape {latents.shape} are not of this world, whose own are (N, {', '.join(map(str, wanted))})")
        height, width = self.world.spec.frame_size
        frames = np.empty((len(latents), height, width, 3), np.uint8)
        for start in range(0, len(latents), _PIECE):
            piece = torch.from_numpy(latents[start : start + _PIECE].astype(np.float32))  # (n, C, h, w)
            made = self.world.tokenizer.decode(piece.to(self.world.device, self.world.dtype))  # (n, 3, H, W)
            frames[start : start + _PIECE] = to_uint8(made.float().nan_to_num()).cpu().numpy()  # (n, H, W, 3)
        return frames
