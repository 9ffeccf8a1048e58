"""Training of the tokenizer: reconstruct frames through noisy unit-variance latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from worldsim.tokenizer import FrameAutoencoder, to_model, to_uint8
from worldsim.types import EpisodeStore


class ReconstructionLoss(nn.Module):
    """Squared error plus squared error of image gradients, which keeps edges where plain squared error blurs them.

    Args:
        autoencoder: The tokenizer.
        edges: Weight of the gradient term.
    """

    def __init__(self, autoencoder: FrameAutoencoder, *, edges: float = 0.5) -> None:
        super().__init__()
        self.autoencoder, self.edges = autoencoder, edges

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Map ``frames (N, 3, H, W)`` and ``noise (N, C, h, w)`` to the loss and logs."""
        error = (self.autoencoder(batch["frames"], batch["noise"]) - batch["frames"]).float()  # (N, 3, H, W)
        square = error.square().mean()
        slopes = error.diff(dim=-1).square().mean() + error.diff(dim=-2).square().mean()
        return square + self.edges * slopes, {"psnr": 10 * torch.log10(4 / square.detach())}


def load_frames(store: EpisodeStore, episodes: list[int]) -> NDArray[np.uint8]:
    """Read all frames of the given episodes into one array ``(frames, H, W, 3)``."""
    return np.concatenate([store[i].frames for i in episodes])


class TokenizerTask:
    """Frames drawn at random from a dataset held in memory.

    Args:
        autoencoder: The tokenizer to train.
        frames: ``(frames, H, W, 3)`` uint8 to train on.
        heldout: Frames to show and measure on.
        batch_size: Frames a step.
        edges: Weight of the gradient term of the loss.
    """

    def __init__(
        self, autoencoder: FrameAutoencoder, frames: NDArray[np.uint8], heldout: NDArray[np.uint8], *, batch_size: int, edges: float
    ) -> None:
        self.module = ReconstructionLoss(autoencoder, edges=edges)
        self.frames, self.heldout, self.batch_size = frames, heldout, batch_size
        self.frames_per_step = batch_size

    def batch(self, step: int, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        """Draw frames and latent noise."""
        rows = torch.randint(len(self.frames), (self.batch_size,), generator=generator)
        frames = to_model(torch.from_numpy(self.frames[rows.numpy()]))  # (N, 3, H, W)
        noise = torch.randn(self.batch_size, *self.module.autoencoder.latent_shape, generator=generator)
        return {"frames": frames.to(device), "noise": noise.to(device)}

    def sample(self, step: int, folder: Path) -> None:
        """Write held-out frames above their reconstructions."""
        folder.mkdir(parents=True, exist_ok=True)
        rows = np.linspace(0, len(self.heldout) - 1, 16).astype(int)
        real = self.heldout[rows]
        pair = np.concatenate((np.concatenate(real, axis=1), np.concatenate(reconstruct(self.module.autoencoder, real), axis=1)))
        Image.fromarray(pair).resize((pair.shape[1] * 2, pair.shape[0] * 2), Image.Resampling.NEAREST).save(folder / f"{step:07d}.png")


@torch.no_grad()
def reconstruct(autoencoder: Any, frames: NDArray[np.uint8], *, batch_size: int = 256) -> NDArray[np.uint8]:
    """Encode and decode frames ``(N, H, W, 3)``."""
    device = next(autoencoder.parameters()).device
    chunks = [to_model(torch.from_numpy(frames[i : i + batch_size])).to(device) for i in range(0, len(frames), batch_size)]
    return np.concatenate([to_uint8(autoencoder.decode(autoencoder.encode(chunk))).cpu().numpy() for chunk in chunks])
