"""Training of a finished world's decoder: detail in what the world imagines, where a mean of many would be blurred."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.devices import draw_noise
from worldsim.tokenizer import FrameAutoencoder, to_model, to_uint8
from worldsim.training.texture import Texture

PAIR = 2
"""Successive frames that are looked at together: what stands still that should move counts as well."""


@dataclass(frozen=True)
class Rolled:
    """S rollouts of T steps beside what happened: latents ``(S, T, C, h, w)`` float16, and real frames ``(S, T, H, W, 3)`` uint8."""

    latents: Tensor
    frames: NDArray[np.uint8]


@dataclass(frozen=True)
class DecoderBatch:
    """N pairs of successive frames.

    Attributes:
        made: ``(2 N, C, h, w)`` latents that the world imagined, those of a pair beside each other.
        frames: ``(2 N, 3, H, W)`` what happened at the same steps.
        noise: ``(2 N, C, h, w)``, added to the latents of real frames as in the training of the tokenizer.
    """

    made: Tensor
    frames: Tensor
    noise: Tensor


class DecoderLoss(nn.Module):
    """What a decoder shows of imagined latents is to be as rich in detail as what happened, and real frames are to stay as they are.

    Imagined latents are means over what cannot be foreseen, and decode to plain surfaces. Here the ``Texture`` of their frames, and of
    decoded real ones, is held to that of the real frames of the same steps, by squared error. Beyond that, decoded real frames are held to
    the real ones, and imagined ones to those of the old decoder up to details smaller than ``coarse`` pixels, so colours and shapes stay.
    The same pattern in the cells of all latents, the easiest way to have texture, is held to nothing: ``Grain`` tells cells apart.
    Latents do not change, and so neither does what the world imagines.

    Args:
        autoencoder: The tokenizer; its encoder stays as it is.
        texture: Weight of the texture.
        coarse: Side in pixels of the squares over which frames are averaged to be compared with the old decoder's.
    """

    def __init__(self, autoencoder: FrameAutoencoder, *, texture: float, coarse: int) -> None:
        super().__init__()
        self.autoencoder, self.weight, self.coarse = autoencoder.requires_grad_(False), texture, coarse
        self.old = copy.deepcopy(autoencoder)
        for part in (autoencoder.decoder, autoencoder.add_grain):
            if part is not None:
                part.requires_grad_(True)
        self.texture = Texture(3 * PAIR)

    def train(self, mode: bool = True) -> DecoderLoss:
        """Keep the statistics of latents as they are."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def forward(self, batch: DecoderBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Map a batch to the loss and logs."""
        with torch.no_grad():
            latents = self.autoencoder.encode(batch.frames) + self.autoencoder.latent_noise * batch.noise  # (2 N, C, h, w)
            before = self.old.decode(batch.made)  # (2 N, 3, H, W)
            detail = self.texture(_pairs(batch.frames))  # (N, F)
        decoded = self.autoencoder.decode(torch.cat((latents, batch.made))).float()  # (4 N, 3, H, W)
        seen, made = decoded.chunk(2)  # each (2 N, 3, H, W)
        kept = (seen - batch.frames).square().mean()
        change = made - before  # (2 N, 3, H, W)
        held = F.avg_pool2d(change, self.coarse).square().mean()
        repeated = self.repeated(change).square().mean()
        shown, imagined = ((found - detail).square().mean() for found in self.texture(_pairs(decoded)).chunk(2))
        logs = {"psnr": 10 * torch.log10(4 / kept.detach()), "shown": shown.detach(), "imagined": imagined.detach()}
        logs["repeated"] = repeated.detach()
        return kept + held + repeated + self.weight * (shown + imagined), logs

    def repeated(self, change: Tensor) -> Tensor:
        """Return what ``(2 N, 3, H, W)`` has in common in the pixels of all latents' cells, c by c pixels each: ``(2 N, 3, c, c)``."""
        _, rows, columns = self.autoencoder.latent_shape
        return change.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).mean((2, 4))  # (2 N, 3, c, c)


def _pairs(frames: Tensor) -> Tensor:
    """Lay successive frames ``(2 N, 3, H, W)`` on top of each other: ``(N, 6, H, W)``."""
    return frames.unflatten(0, (-1, PAIR)).flatten(1, 2)  # (N, 6, H, W)


class DecoderTask:
    """Pairs drawn at random from rollouts that are held in memory.

    Args:
        module: What is trained.
        rolled: Rollouts to train on.
        shown: Rollouts to show.
        batch_size: Pairs a step.
    """

    def __init__(self, module: DecoderLoss, rolled: Rolled, shown: Rolled, *, batch_size: int) -> None:
        self.module, self.rolled, self.shown, self.batch_size = module, rolled, shown, batch_size
        self.frames_per_step = 2 * PAIR * batch_size

    def batch(self, step: int, generator: torch.Generator, device: torch.device) -> DecoderBatch:
        """Draw pairs and noise."""
        s, t = self.rolled.frames.shape[:2]
        row = torch.randint(s, (self.batch_size, 1), generator=generator)
        at = torch.randint(t + 1 - PAIR, (self.batch_size, 1), generator=generator) + torch.arange(PAIR)  # (N, 2)
        made = self.rolled.latents[row, at].flatten(0, 1).to(device).float()  # (2 N, C, h, w)
        frames = to_model(torch.from_numpy(self.rolled.frames[row.numpy(), at.numpy()])).flatten(0, 1).to(device)  # (2 N, 3, H, W)
        return DecoderBatch(made, frames, draw_noise(tuple(made.shape), generator, device))

    @torch.no_grad()
    def sample(self, step: int, folder: Path) -> None:
        """Write what happened, the old decoder's frames, and the new one's below, of one step of some rollouts."""
        folder.mkdir(parents=True, exist_ok=True)
        at = self.shown.frames.shape[1] // 4
        latents = self.shown.latents[:16, at].float().to(next(self.module.parameters()).device)
        made = [to_uint8(one.decode(latents)).cpu().numpy() for one in (self.module.old, self.module.autoencoder)]
        rows = [np.concatenate(list(frames), axis=1) for frames in (self.shown.frames[:16, at], *made)]
        sheet = np.concatenate(rows)
        Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), Image.Resampling.NEAREST).save(folder / f"{step:07d}.png")
