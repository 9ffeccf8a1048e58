"""OasisDiT: the denoiser of Oasis, over a whole window or one frame at a time against remembered keys and values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.oasis.memory import LayerMemory, Memory
from worldsim.oasis.rotary import Angles, Frequencies, grid_angles, pixel_frequencies, rotate, time_angles, time_frequencies

TIME_FEATURES = 256


class Modulation(NamedTuple):
    """Shifts, scales and gates of the frames ``(B, T, ...)``: all that the network takes from noise step and action.

    Attributes:
        space: One ``(B, T, 6 * D)`` a block.
        time: One ``(B, T, 6 * D)`` a block.
        last: ``(B, T, 2 * D)`` of the output layer.
    """

    space: tuple[Tensor, ...]
    time: tuple[Tensor, ...]
    last: Tensor

    def frame(self, index: int) -> Modulation:
        """Return that of one of the T frames, each ``(B, 1, ...)``."""
        here = slice(index, index + 1)
        return Modulation(tuple(x[:, here] for x in self.space), tuple(x[:, here] for x in self.time), self.last[:, here])


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, hidden: int, *, approximate: str) -> None:
        super().__init__()
        self.fc1, self.fc2, self.approximate = nn.Linear(width, hidden), nn.Linear(hidden, width), approximate

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., D)`` to the same shape."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))  # (..., D)
        return y


class Attention(nn.Module):
    """Multi-head self-attention whose queries, keys and values come from one matrix."""

    def __init__(self, width: int, heads: int, rotary: Frequencies) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.rotary_emb = rotary

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map tokens ``(B, T, N, D)`` to queries, keys and values, each ``(B, T, N, heads, d)``."""
        q, k, v = self.to_qkv(x).view(*x.shape[:-1], 3, self.heads, -1).unbind(-3)  # each (B, T, N, heads, d)
        return q, k, v


class SpaceAttention(Attention):
    """Full attention among the N tokens of one frame."""

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        """Map ``(B, T, N, D)`` to the same shape, with angles ``(N, d / 2)``."""
        q, k, v = (y.flatten(0, 1).transpose(1, 2) for y in self.project(x))  # each (B*T, heads, N, d)
        out = F.scaled_dot_product_attention(rotate(q, angles), rotate(k, angles), v)  # (B*T, heads, N, d)
        y: Tensor = self.to_out(out.transpose(1, 2).flatten(2).view_as(x))  # (B, T, N, D)
        return y


class TimeAttention(Attention):
    """Causal attention of each of the N positions over frames."""

    def forward(self, x: Tensor, angles: Angles, memory: LayerMemory | None) -> Tensor:
        """Map ``(B, T, N, D)`` to the same shape, with angles ``(T, d / 2)``.

        With a memory, keys and values go into it; a single frame then attends over all that it holds.
        """
        b, t, n, _ = x.shape
        q, k, v = (y.permute(0, 2, 3, 1, 4).flatten(0, 1) for y in self.project(x))  # each (B*N, heads, T, d)
        q, k = rotate(q, angles), rotate(k, angles)  # each (B*N, heads, T, d)
        if memory is not None:
            memory.write(k, v)
            if t == 1:
                k, v = memory.read()  # each (B*N, heads, held, d)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)  # (B*N, heads, T, d)
        y: Tensor = self.to_out(out.view(b, n, self.heads, t, -1).permute(0, 3, 1, 2, 4).flatten(3))  # (B, T, N, D)
        return y


class Block(nn.Module):
    """Space attention, MLP, time attention, MLP: each normalised, shifted, scaled and gated per frame (adaLN-zero)."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: float, space: Frequencies, time: Frequencies) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.s_attn, self.s_mlp = SpaceAttention(width, heads, space), Mlp(width, hidden, approximate="tanh")
        self.s_adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.t_attn, self.t_mlp = TimeAttention(width, heads, time), Mlp(width, hidden, approximate="tanh")
        self.t_adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(
        self, x: Tensor, space: Tensor, time: Tensor, grid: Angles, frames: Angles, memory: LayerMemory | None, *, keys_only: bool
    ) -> Tensor:
        """Map ``(B, T, N, D)`` to the same shape; with ``keys_only`` what comes after the writing of keys is left out.

        Args:
            x: Tokens.
            space: Modulation ``(B, T, 6 * D)`` of the first half.
            time: That of the second half.
            grid: Angles of the N positions.
            frames: Angles of the T frames.
            memory: Remembered keys and values of this block.
            keys_only: Whether the output is of no interest.
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = space.unsqueeze(2).chunk(6, dim=-1)  # each (B, T, 1, D)
        x = torch.addcmul(x, gate_a, self.s_attn(normalise(x, shift_a, scale_a), grid))  # (B, T, N, D)
        x = torch.addcmul(x, gate_m, self.s_mlp(normalise(x, shift_m, scale_m)))  # (B, T, N, D)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = time.unsqueeze(2).chunk(6, dim=-1)  # each (B, T, 1, D)
        y = self.t_attn(normalise(x, shift_a, scale_a), frames, memory)  # (B, T, N, D)
        if keys_only:
            return x
        x = torch.addcmul(x, gate_a, y)  # (B, T, N, D)
        return torch.addcmul(x, gate_m, self.t_mlp(normalise(x, shift_m, scale_m)))  # (B, T, N, D)


def normalise(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer-normalise tokens ``(B, T, N, D)``, then scale and shift them by per-frame ``(B, T, 1, D)``."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class PatchEmbed(nn.Module):
    """Patches of an image as tokens."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(F, C, h, w)`` to tokens ``(F, N, D)``, row by row."""
        y: Tensor = self.proj(x).flatten(2).transpose(1, 2)  # (F, N, D)
        return y


class StepEmbed(nn.Module):
    """Noise steps as vectors: a sinusoid and an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, steps: Tensor) -> Tensor:
        """Map ``(B, T)`` to ``(B, T, D)``."""
        half = TIME_FEATURES // 2
        freqs = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=steps.device) / half)  # (half,)
        angles = steps.float()[..., None] * freqs  # (B, T, half)
        y: Tensor = self.mlp(torch.cat((angles.cos(), angles.sin()), dim=-1).to(self.dtype))  # (B, T, D)
        return y

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.mlp.parameters()).dtype


class OutputLayer(nn.Module):
    """Tokens to patches, under one last shift and scale."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Map ``(B, T, N, D)`` to ``(B, T, N, out)`` under ``(B, T, 2 * D)``."""
        shift, scale = modulation.unsqueeze(2).chunk(2, dim=-1)  # each (B, T, 1, D)
        y: Tensor = self.linear(normalise(x, shift, scale))  # (B, T, N, out)
        return y


class OasisDiT(nn.Module):
    """The denoiser of Oasis: predicts ``v = sqrt(signal) noise - sqrt(1 - signal) latents`` (Salimans and Ho 2022) for every frame.

    The defaults are Oasis-500M; its latents are ``(16, 18, 32)``.

    Args:
        channels: C of the latents.
        patch: Side of a patch in latents.
        width: D.
        depth: Blocks, each over space and over time.
        heads: Attention heads.
        actions: A.
        mlp_ratio: Width of the MLPs over D.
    """

    def __init__(
        self,
        *,
        channels: int = 16,
        patch: int = 2,
        width: int = 1024,
        depth: int = 16,
        heads: int = 16,
        actions: int = 25,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.channels, self.patch, self.width, self.heads = channels, patch, width, heads
        self.x_embedder, self.t_embedder = PatchEmbed(channels, width, patch), StepEmbed(width)
        self.external_cond = nn.Linear(actions, width)
        self.spatial_rotary_emb = Frequencies(pixel_frequencies(width // heads // 4, 256.0))
        self.temporal_rotary_emb = Frequencies(time_frequencies(width // heads // 2))
        rotary = {"space": self.spatial_rotary_emb, "time": self.temporal_rotary_emb}
        self.blocks: Sequence[Block] = nn.ModuleList(Block(width, heads, mlp_ratio=mlp_ratio, **rotary) for _ in range(depth))  # type: ignore[assignment]
        self.final_layer = OutputLayer(width, patch * patch * channels)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.external_cond.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.external_cond.weight.dtype

    def modulation(self, steps: Tensor, actions: Tensor) -> Modulation:
        """Compute what noise steps ``(B, T)`` in 0..999 and actions ``(B, T, A)`` do to each block.

        A frame's modulation depends on nothing else, so that for all steps of a sampler is one product here, not one a pass.
        """
        c = self.t_embedder(steps) + self.external_cond(actions.to(self.dtype))  # (B, T, D)
        c = F.silu(c)  # (B, T, D); every modulation begins with it
        return Modulation(
            space=tuple(block.s_adaLN_modulation[1](c) for block in self.blocks),
            time=tuple(block.t_adaLN_modulation[1](c) for block in self.blocks),
            last=self.final_layer.adaLN_modulation[1](c),
        )

    def forward(self, latents: Tensor, steps: Tensor, actions: Tensor) -> Tensor:
        """Predict v for every frame of a window, each seeing itself and those before it.

        Args:
            latents: ``(B, T, C, h, w)``.
            steps: ``(B, T)`` noise step of each frame, 0 (clean) to 999 (noise).
            actions: ``(B, T, A)``, the action that led to each frame.

        Returns:
            ``(B, T, C, h, w)``.
        """
        v = self.run(latents, self.modulation(steps, actions))  # (B, T, C, h, w)
        assert v is not None
        return v

    def run(self, latents: Tensor, modulation: Modulation, memory: Memory | None = None, *, keys_only: bool = False) -> Tensor | None:
        """Do as ``forward``, with remembered keys and values.

        Args:
            latents: ``(B, T, C, h, w)``.
            modulation: Of the T frames.
            memory: Where keys and values go. One frame attends over all frames that it holds; T > 1 frames must be its first.
            keys_only: Only fill the memory.

        Returns:
            ``(B, T, C, h, w)``, or None with ``keys_only``.
        """
        b, t, _, h, w = latents.shape
        grid = (h // self.patch, w // self.patch)
        first = 0 if memory is None else memory.position
        space = grid_angles(self.spatial_rotary_emb.freqs, grid)
        time = time_angles(self.temporal_rotary_emb.freqs, torch.arange(first, first + t, device=latents.device))
        x = self.x_embedder(latents.to(self.dtype).flatten(0, 1)).unflatten(0, (b, t))  # (B, T, N, D)
        for i, block in enumerate(self.blocks):
            kept = None if memory is None else memory.layer(i)
            x = block(x, modulation.space[i], modulation.time[i], space, time, kept, keys_only=keys_only and i == len(self.blocks) - 1)
        return None if keys_only else self._unpatch(self.final_layer(x, modulation.last), grid)

    def _unpatch(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Lay patches ``(B, T, N, p * p * C)`` out as ``(B, T, C, h, w)``."""
        p = self.patch
        x = x.reshape(*x.shape[:2], *grid, p, p, self.channels)  # (B, T, h', w', p, p, C)
        return x.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)  # (B, T, C, h, w)
