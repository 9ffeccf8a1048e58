"""Building blocks of the video DiT: rotary positions, attention over space and time, adaLN-zero."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"silu": nn.SiLU, "gelu": partial(nn.GELU, approximate="tanh")}


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale normalised tokens ``(B, F, N, D)`` by per-frame ``(B, F, 1, D)`` (adaLN, Peebles and Xie 2023, section 3.2)."""
    return torch.addcmul(shift, x, 1 + scale)


def rotary_angles(positions: Tensor, dim: int, *, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Return cosine and sine ``(..., dim / 2)`` of rotary angles at absolute ``positions`` (Su et al. 2021, equation 15).

    Angles are computed in float64 on the fly, so that there is no table that ends and no loss after a million frames.
    """
    return turn(positions, rotary_frequencies(dim, positions.device, base=base))


def rotary_frequencies(dim: int, device: torch.device, *, base: float = 10000.0) -> Tensor:
    """Return angles a frame ``(dim / 2,)`` float64."""
    frequencies: Tensor = base ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim)
    return frequencies


def turn(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine ``(..., dim / 2)`` of ``rotary_frequencies`` at ``positions``."""
    angles = positions.to(torch.float64).unsqueeze(-1) * frequencies  # (..., dim / 2)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of the last axis of ``x`` by the angles; the shape stays."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention over the last two axes; in float32 on CPUs, whose bfloat16 backward is far slower at our sizes."""
    if q.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask).to(v.dtype)
    return F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=None if mask is None else mask.to(v.dtype))


def _norm(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """Normalise in the type of ``x``: torch has no fused kernel for weights of another type."""
    return F.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.eps)


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys (QK-norm, Henry et al. 2020); the mask is the caller's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.norm_q, self.norm_k = nn.RMSNorm(self.head_dim, eps=1e-6), nn.RMSNorm(self.head_dim, eps=1e-6)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map tokens ``(..., N, D)`` to queries, keys and values, each ``(..., N, heads, d)``."""
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(-3)  # each (..., N, heads, d)
        return _norm(self.norm_q, q), _norm(self.norm_k, k), v


class SpaceAttention(Attention):
    """Full attention among the N tokens of one frame."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, F, N, D)`` to the same shape."""
        q, k, v = (y.flatten(0, 1).transpose(1, 2) for y in self.project(x))  # each (B*F, heads, N, d)
        out = attend(q, k, v)  # (B*F, heads, N, d)
        return self.to_out(out.transpose(1, 2).flatten(2).view_as(x))  # (B, F, N, D)


class TimeAttention(Attention):
    """Attention of each of the N positions over frames, under a mask, with remembered keys and values in front."""

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend over frames.

        Args:
            x: Tokens ``(B, F, N, D)``.
            rotary: Cosine and sine ``(B, F, d / 2)`` at the frames' absolute positions.
            mask: ``(B, F, K)`` additive, K = remembered frames + F.
            past: Rotated keys and values ``(B, N, heads, P, d)`` of P remembered frames.

        Returns:
            Tokens ``(B, F, N, D)``, and this call's rotated keys and values ``(B, N, heads, F, d)``.
        """
        b, f, n, _ = x.shape
        cos, sin = (angle[:, :, None, None] for angle in rotary)  # (B, F, 1, 1, d/2)
        q, k, v = self.project(x)  # each (B, F, N, heads, d)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        q, k, v = (y.permute(0, 2, 3, 1, 4) for y in (q, k, v))  # each (B, N, heads, F, d)
        keys, values = (k, v) if past is None else (torch.cat((past[0], k), dim=3), torch.cat((past[1], v), dim=3))
        out = attend(q.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2), mask[:, None])  # (B, N*heads, F, d)
        out = out.view(b, n, self.heads, f, self.head_dim).permute(0, 3, 1, 2, 4).flatten(3)  # (B, F, N, D)
        return self.to_out(out), k, v


class DiTBlock(nn.Module):
    """A DiT block with adaLN-zero: attention over space or time, then an MLP, both gated per frame.

    Args:
        width: D.
        heads: Attention heads.
        mlp_ratio: Width of the MLP over D.
        time: Attend over frames rather than within one.
        conv: Put a depthwise 3x3 convolution over the token grid before attention.
        activation: Of the MLP: ``silu``, the cheapest on CPUs, or ``gelu`` (approximated by tanh).
    """

    def __init__(self, width: int, heads: int, *, mlp_ratio: float, time: bool, conv: bool, activation: str) -> None:
        super().__init__()
        self.time = time
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.attention: SpaceAttention | TimeAttention = TimeAttention(width, heads) if time else SpaceAttention(width, heads)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), ACTIVATIONS[activation](), nn.Linear(hidden, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width) if conv else None

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add the depthwise convolution over the grid; ``(B, F, N, D)`` stays."""
        if self.conv is None:
            return x
        y = x.flatten(0, 1).transpose(1, 2).unflatten(2, grid)  # (B*F, D, h', w')
        return x + self.conv(y).flatten(2).transpose(1, 2).view_as(x)  # (B, F, N, D)

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        grid: tuple[int, int],
        rotary: tuple[Tensor, Tensor],
        mask: Tensor,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Map tokens ``(B, F, N, D)`` under the per-frame condition ``c (B, F, D)``; see ``TimeAttention`` for the rest."""
        modulation = self.modulation(c).unsqueeze(2).chunk(6, dim=-1)  # six of (B, F, 1, D)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation
        x = self.mix(x, grid)
        y, written = modulate(self.norm1(x), shift_a, scale_a), None
        if isinstance(self.attention, TimeAttention):
            y, k, v = self.attention(y, rotary, mask, past)
            written = (k, v)
        else:
            y = self.attention(y)
        x = torch.addcmul(x, gate_a, y)  # (B, F, N, D)
        x = torch.addcmul(x, gate_m, self.mlp(modulate(self.norm2(x), shift_m, scale_m)))  # (B, F, N, D)
        return x, written
