"""Tokenizers: per-frame autoencoders behind one ``encode`` / ``decode``, ours and any of diffusers'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F


class Tokenizer(Protocol):
    """What the rest of worldsim needs of an autoencoder.

    Frames are float in [-1, 1]; latents have about zero mean and unit variance in every channel.
    """

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)``."""
        ...

    def encode(self, frames: Tensor) -> Tensor:
        """Map ``(N, 3, H, W)`` to ``(N, C, h, w)``."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Map ``(N, C, h, w)`` to ``(N, 3, H, W)``."""
        ...


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1, self.conv2 = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, h, w)`` to the same shape."""
        y = self.conv1(F.silu(self.norm1(x)))  # (N, C, h, w)
        return x + self.conv2(F.silu(self.norm2(y)))  # (N, C, h, w)


def _encoder(latent_channels: int, widths: Sequence[int], blocks: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, widths[0], 3, padding=1)]
    for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        layers += [ResidualBlock(width) for _ in range(count)]
        if level + 1 < len(widths):
            layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * width, widths[level + 1], 1)]
    return nn.Sequential(*layers, nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], latent_channels, 3, padding=1))


def _decoder(latent_channels: int, widths: Sequence[int], blocks: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(latent_channels, widths[-1], 3, padding=1)]
    for level in range(len(widths) - 1, -1, -1):
        layers += [ResidualBlock(widths[level]) for _ in range(blocks[level])]
        if level > 0:
            layers += [nn.Conv2d(widths[level], 4 * widths[level - 1], 1), nn.PixelShuffle(2)]
    return nn.Sequential(*layers, nn.GroupNorm(8, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], 12, 3, padding=1), nn.PixelShuffle(2))


class Grain(nn.Module):
    """Noise that is always the same at the same place of a frame: what a decoder makes of it differs from place to place.

    Args:
        shape: ``(C, h, w)`` of latents.
    """

    noise: Tensor

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("noise", torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        self.strength = nn.Parameter(torch.full((shape[0], 1, 1), 0.2))

    def forward(self, latents: Tensor) -> Tensor:
        """Add it to latents ``(N, C, h, w)``."""
        return latents + self.strength * self.noise  # (N, C, h, w)


class FrameAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Convolutional per-frame autoencoder whose latents are batch-normalised, so unit variance is built in.

    The bottleneck is ``BatchNorm2d`` without affine part; in training Gaussian noise is added to it, which keeps the decoder
    smooth where a dynamics model will be a little wrong (in place of a KL term; the idea of a fixed-variance encoder, Ghosh
    et al. 2020, "From Variational to Deterministic Autoencoders").

    Args:
        frame_size: Height and width in pixels, multiples of ``2 ** len(widths)``.
        latent_channels: C of the latents.
        widths: Channels at 1/2, 1/4, 1/8, ... of the frame size.
        encoder_blocks: Residual blocks at each of these sizes on the way in.
        decoder_blocks: The same on the way out: the part that every imagined frame pays for.
        latent_noise: Standard deviation of the noise added to latents in training.
        grain: Whether the decoder is given ``Grain`` to make detail of, see ``worldsim train decoder``.
    """

    @register_to_config
    def __init__(
        self,
        *,
        frame_size: Sequence[int] = (64, 64),
        latent_channels: int = 16,
        widths: Sequence[int] = (32, 64, 128),
        encoder_blocks: Sequence[int] = (2, 2, 2),
        decoder_blocks: Sequence[int] = (1, 1, 1),
        latent_noise: float = 0.1,
        grain: bool = False,
    ) -> None:
        super().__init__()
        factor = 2 ** len(widths)
        if any(side % factor for side in frame_size):
            raise ValueError(
                f"frame_size {tuple(frame_size)} must be a multiple of {factor}, the tokenizer's downsampling with {len(widths)} widths"
            )
        self.latent_shape = (latent_channels, frame_size[0] // factor, frame_size[1] // factor)
        self.latent_noise = latent_noise
        self.encoder = _encoder(latent_channels, widths, encoder_blocks)
        self.normalise = nn.BatchNorm2d(latent_channels, affine=False, momentum=0.02)
        self.decoder = _decoder(latent_channels, widths, decoder_blocks)
        self.add_grain = Grain(self.latent_shape) if grain else None

    def encode(self, frames: Tensor) -> Tensor:
        """Map frames ``(N, 3, H, W)`` in [-1, 1] to latents ``(N, C, h, w)``."""
        return self.normalise(self.encoder(frames))  # (N, C, h, w)

    def decode(self, latents: Tensor) -> Tensor:
        """Map latents ``(N, C, h, w)`` to frames ``(N, 3, H, W)``, about [-1, 1], not clamped."""
        return self.decoder(latents if self.add_grain is None else self.add_grain(latents))  # (N, 3, H, W)


class DiffusersTokenizer(nn.Module):
    """Any of diffusers' autoencoders (``AutoencoderKL``, ``AutoencoderDC``, ``AutoencoderTiny``, Wan's) as a ``Tokenizer``.

    Args:
        autoencoder: The diffusers model.
        frame_size: Height and width it will be used at.
        mean: Mean of its latents a channel, 0 if not given.
        std: Standard deviation of its latents a channel, 1 if not given; measure both with ``latent_statistics``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, autoencoder: Any, *, frame_size: Sequence[int], mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self._video = getattr(autoencoder.config, "temperal_downsample", None) is not None
        with torch.no_grad():
            shape = self._raw_encode(torch.zeros(1, 3, *frame_size)).shape
        self.latent_shape = (int(shape[1]), int(shape[2]), int(shape[3]))
        self.register_buffer("mean", torch.tensor(mean if mean is not None else [0.0] * shape[1]).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std if std is not None else [1.0] * shape[1]).view(1, -1, 1, 1))

    def _raw_encode(self, frames: Tensor) -> Tensor:
        out = self.autoencoder.encode(frames.unsqueeze(2) if self._video else frames)
        latents = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latents if hasattr(out, "latents") else out.latent
        return latents.squeeze(2) if self._video else latents

    def encode(self, frames: Tensor) -> Tensor:
        """Map frames ``(N, 3, H, W)`` in [-1, 1] to standardised latents ``(N, C, h, w)``."""
        return (self._raw_encode(frames) - self.mean) / self.std  # (N, C, h, w)

    def decode(self, latents: Tensor) -> Tensor:
        """Map standardised latents ``(N, C, h, w)`` to frames ``(N, 3, H, W)``."""
        raw = latents * self.std + self.mean  # (N, C, h, w)
        frames: Tensor = self.autoencoder.decode(raw.unsqueeze(2) if self._video else raw).sample
        return frames.squeeze(2) if self._video else frames  # (N, 3, H, W)


def to_model(frames: Tensor) -> Tensor:
    """Turn uint8 ``(..., H, W, 3)`` into float ``(..., 3, H, W)`` in [-1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1.0


_GREY = torch.tensor(128.0)
"""Half a step above the middle of 0..255: what is cut off then rounds to the nearest."""


def to_uint8(frames: Tensor, *, in_place: bool = False, numbers: bool = False) -> Tensor:
    """Turn float ``(..., 3, H, W)`` in [-1, 1] into uint8 ``(..., H, W, 3)``, rounded and clamped; NaN is grey.

    With ``in_place``, ``frames`` of float32 are of no use afterwards: that takes half the time. With ``numbers``, none of them is NaN.
    """
    values = frames.float()
    scaled = torch.add(_GREY, values, alpha=127.5, out=values if in_place else None)  # (..., 3, H, W)
    if not numbers:
        scaled.nan_to_num_(nan=128.0)
    return scaled.clamp_(0, 255).to(torch.uint8).movedim(-3, -1).contiguous()  # (..., H, W, 3)
