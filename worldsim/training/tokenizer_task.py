"""Training of the tokenizer: reconstruct frames through noisy unit-variance latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.devices import draw_noise, resident, send
from worldsim.tokenizer import FrameAutoencoder, to_model, to_uint8
from worldsim.types import EpisodeStore


class ReconstructionLoss(nn.Module):
    """Squared error plus squared error of image gradients, which keeps edges where plain squared error blurs them.

    With ``equivariance``, latents that are turned and shifted must also decode to the frame turned and shifted (EQ-VAE, Kouzelis
    et al. 2025, equation 7). What moves in a frame then moves in its latents, and a dynamics model has far less to learn.

    Args:
        autoencoder: The tokenizer.
        edges: Weight of the gradient term.
        equivariance: Weight of the same loss on moved latents.
    """

    def __init__(self, autoencoder: FrameAutoencoder, *, edges: float = 0.5, equivariance: float = 0.0) -> None:
        super().__init__()
        self.autoencoder, self.edges, self.equivariance = autoencoder, edges, equivariance

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Map ``frames (N, 3, H, W)``, ``noise (N, C, h, w)`` and ``motion (M, 2, 3)`` of the first M frames to the loss and logs."""
        frames, motion = batch["frames"], batch["motion"]
        latents = self.autoencoder.encode(frames) + self.autoencoder.latent_noise * batch["noise"]  # (N, C, h, w)
        if len(motion):
            moved = move(latents[: len(motion)], motion)  # (M, C, h, w)
            latents = torch.cat((latents, moved.to(latents.dtype)))  # (N + M, C, h, w)
        decoded = self.autoencoder.decode(latents).float()  # (N + M, 3, H, W)
        error = decoded[: len(frames)] - frames  # (N, 3, H, W)
        loss = self._loss(error)
        logs = {"psnr": _psnr(error.square().mean())}
        if len(motion):
            visible = interior(motion, frames)  # (M, 1, H, W)
            error = (decoded[len(frames) :] - move(frames[: len(motion)], motion)) * visible  # (M, 3, H, W)
            share = visible.mean()
            loss, logs = loss + self.equivariance * self._loss(error) / share, {**logs, "moved": _psnr(error.square().mean() / share)}
        return loss, logs

    def _loss(self, error: Tensor) -> Tensor:
        slopes = error.diff(dim=-1).square().mean() + error.diff(dim=-2).square().mean()
        return error.square().mean() + self.edges * slopes


def _psnr(square: Tensor) -> Tensor:
    return 10 * torch.log10(4 / square.detach())


def draw_motion(count: int, generator: torch.Generator, *, turn: float = 0.35, shift: float = 0.3) -> Tensor:
    """Draw affine maps ``(count, 2, 3)``: a turn of up to ``turn`` radians and a shift of up to ``shift`` half frames each way."""
    angle = (torch.rand(count, generator=generator) * 2 - 1) * turn
    offset = (torch.rand(count, 2, generator=generator) * 2 - 1) * shift
    rows = (torch.stack((angle.cos(), -angle.sin(), offset[:, 0]), 1), torch.stack((angle.sin(), angle.cos(), offset[:, 1]), 1))
    return torch.stack(rows, 1)  # (count, 2, 3)


def move(x: Tensor, motion: Tensor) -> Tensor:
    """Turn and shift ``(N, C, h, w)`` by ``motion (N, 2, 3)``, bilinearly, zeros from outside; the shape stays."""
    with torch.autocast(x.device.type, enabled=False):
        return F.grid_sample(x.float(), F.affine_grid(motion, list(x.shape), align_corners=False), align_corners=False)


def interior(motion: Tensor, frames: Tensor, *, border: int = 4) -> Tensor:
    """Where moved frames ``(M, 3, H, W)`` show nothing from outside: ``(M, 1, H, W)`` of 0 and 1."""
    whole = torch.ones(len(motion), 1, *frames.shape[-2:], device=frames.device)
    whole = F.pad(whole[..., border:-border, border:-border], (border,) * 4)  # (M, 1, H, W)
    return (move(whole, motion) > 0.99).float()


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
        equivariance: Weight of the loss on moved latents, of half the frames.
    """

    def __init__(
        self,
        autoencoder: FrameAutoencoder,
        frames: NDArray[np.uint8],
        heldout: NDArray[np.uint8],
        *,
        batch_size: int,
        edges: float,
        equivariance: float = 0.0,
    ) -> None:
        self.module = ReconstructionLoss(autoencoder, edges=edges, equivariance=equivariance)
        self.frames, self.heldout, self.batch_size = frames, heldout, batch_size
        self.frames_per_step = batch_size
        self._there: Tensor | None = None
        self._asked = False

    def batch(self, step: int, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        """Draw frames, latent noise and motion."""
        rows = torch.randint(len(self.frames), (self.batch_size,), generator=generator)
        if not self._asked:
            self._there, self._asked = resident(self.frames, device), True
        if self._there is None:
            frames = to_model(torch.from_numpy(self.frames[rows.numpy()])).to(device)  # (N, 3, H, W)
        else:
            frames = to_model(self._there[send(rows, device)])  # (N, 3, H, W)
        noise = draw_noise((self.batch_size, *self.module.autoencoder.latent_shape), generator, device)
        motion = draw_motion(self.batch_size // 2 if self.module.equivariance else 0, generator)
        return {"frames": frames, "noise": noise, "motion": send(motion, device)}

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
