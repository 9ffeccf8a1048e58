"""OasisVAE: the ViT autoencoder of Oasis, 360x640 frames to 18x32 latents of 16 channels and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.oasis.dit import Mlp, PatchEmbed
from worldsim.oasis.rotary import Angles, grid_angles, pixel_frequencies, rotate

SCALE = 0.07843137255
"""What latents are multiplied with before the denoiser sees them."""


class Attention(nn.Module):
    """Full attention among tokens; the first half of each head is rotated by the token's place on the grid."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        """Map ``(B, N, D)`` to the same shape, with angles ``(N, d / 4)``."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
        out = F.scaled_dot_product_attention(rotate(q, angles), rotate(k, angles), v)  # (B, heads, N, d)
        y: Tensor = self.proj(out.transpose(1, 2).flatten(2))  # (B, N, D)
        return y


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), Mlp(width, int(width * mlp_ratio), approximate="none")

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        """Map ``(B, N, D)`` to the same shape."""
        x = x + self.attn(self.norm1(x), angles)  # (B, N, D)
        y: Tensor = x + self.mlp(self.norm2(x))  # (B, N, D)
        return y


class OasisVAE(nn.Module):
    """The autoencoder of Oasis. The defaults are the published one.

    Args:
        frame_size: Height and width of frames in pixels, multiples of ``patch``.
        channels: C of the latents.
        patch: Pixels that a latent spans.
        width: D.
        encoder_depth: Blocks.
        decoder_depth: Blocks.
        heads: Attention heads.
        mlp_ratio: Width of the MLPs over D.

    Raises:
        ValueError: Frames are no whole number of patches.
    """

    def __init__(
        self,
        *,
        frame_size: tuple[int, int] = (360, 640),
        channels: int = 16,
        patch: int = 20,
        width: int = 1024,
        encoder_depth: int = 6,
        decoder_depth: int = 12,
        heads: int = 16,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if frame_size[0] % patch or frame_size[1] % patch:
            raise ValueError(f"frame_size={frame_size} must be multiples of the patch of {patch} pixels")
        self.frame_size, self.channels, self.patch = frame_size, channels, patch
        self.grid = (frame_size[0] // patch, frame_size[1] // patch)
        self.rotated = width // heads // 8  # frequencies an axis
        self.patch_embed = PatchEmbed(3, width, patch)
        self.encoder = _blocks(width, heads, mlp_ratio, encoder_depth)
        self.enc_norm = nn.LayerNorm(width, eps=1e-6)
        self.quant_conv, self.post_quant_conv = nn.Linear(width, 2 * channels), nn.Linear(channels, width)
        self.decoder = _blocks(width, heads, mlp_ratio, decoder_depth)
        self.dec_norm = nn.LayerNorm(width, eps=1e-6)
        self.predictor = nn.Linear(width, 3 * patch * patch)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, h, w)`` of a frame's latents."""
        return (self.channels, *self.grid)

    def encode(self, frames: Tensor) -> Tensor:
        """Map frames ``(B, 3, H, W)`` in [-1, 1] to latents ``(B, C, h, w)``: the mean of the posterior, scaled for the denoiser."""
        x, angles = self.patch_embed(frames.to(self.dtype)), self._angles()  # (B, N, D)
        for block in self.encoder:
            x = block(x, angles)  # (B, N, D)
        mean, _ = self.quant_conv(self.enc_norm(x)).chunk(2, dim=-1)  # (B, N, C)
        latents: Tensor = (mean * SCALE).transpose(1, 2).unflatten(2, self.grid)  # (B, C, h, w)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Map latents ``(B, C, h, w)`` to frames ``(B, 3, H, W)`` near [-1, 1]; they are not clamped."""
        x = self.post_quant_conv(latents.to(self.dtype).flatten(2).transpose(1, 2) / SCALE)  # (B, N, D)
        angles = self._angles()
        for block in self.decoder:
            x = block(x, angles)  # (B, N, D)
        x = self.predictor(self.dec_norm(x)).unflatten(2, (3, self.patch, self.patch)).unflatten(1, self.grid)  # (B, h, w, 3, p, p)
        frames: Tensor = x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)  # (B, 3, H, W)
        return frames

    def forward(self, frames: Tensor) -> Tensor:
        """Encode and decode frames ``(B, 3, H, W)`` in [-1, 1]."""
        return self.decode(self.encode(frames))  # (B, 3, H, W)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.predictor.weight.dtype

    def _angles(self) -> Angles:
        rows, columns = self.grid
        freqs = pixel_frequencies(self.rotated, float(rows * columns))
        return grid_angles(freqs.to(self.predictor.weight.device), self.grid)


def _blocks(width: int, heads: int, mlp_ratio: float, depth: int) -> Sequence[Block]:
    blocks: Sequence[Block] = nn.ModuleList(Block(width, heads, mlp_ratio=mlp_ratio) for _ in range(depth))  # type: ignore[assignment]
    return blocks
