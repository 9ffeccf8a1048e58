"""VideoDiT: from noisy latents, their levels and actions to clean latents, frame after frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from worldsim.conditioning import ActionEncoder, FourierEmbedding
from worldsim.layers import ACTIVATIONS, DiTBlock, modulate, rotary_angles


@dataclass(frozen=True)
class FrameInputs:
    """F frames of each row, as the network takes them.

    Attributes:
        latents: ``(B, F, C, h, w)``, at their signal level.
        history: ``(B, F, H*C, h, w)``, the latents of the H frames before each, newest first; zeros where there is none. A network with an
            anchor takes it behind them, ``(B, F, (H+1)*C, h, w)``.
        level: ``(B, F)`` signal level in [0, 1]: 0 is noise, 1 is clean.
        step: ``(B, F)`` size of the sampling step that is asked for in [0, 1]; 0 asks for the mean of what is possible.
        history_level: ``(B, F)`` signal level of the newest history frame.
        actions: ``(B, F, A)`` features of the action that led to each frame.
        known: ``(B, F)`` bool, whether that action is known.
        condition: ``(B, V)`` features of tags, numbers and words.
        positions: ``(B, F)`` absolute frame numbers.
    """

    latents: Tensor
    history: Tensor
    level: Tensor
    step: Tensor
    history_level: Tensor
    actions: Tensor
    known: Tensor
    condition: Tensor
    positions: Tensor


@dataclass(frozen=True)
class FrameOutputs:
    """What the network makes of F frames.

    Attributes:
        latents: Estimate of the clean latents ``(B, F, C, h, w)``; empty where none was asked for.
        hidden: Last tokens ``(B, F, N, D)``, what heads read.
        keys: Rotated keys of each temporal layer ``(layers, B, N, heads, F, d)``.
        values: Values likewise.
    """

    latents: Tensor
    hidden: Tensor
    keys: Tensor
    values: Tensor


class VideoDiT(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Diffusion transformer over the frames of a video (DiT, Peebles and Xie 2023) that predicts clean latents.

    Frames are cut into patches; blocks attend within a frame, every ``temporal_every``-th over frames. Signal level, step size
    and action enter per frame through adaLN-zero. The latents of the ``history`` frames before are stacked to each frame's
    channels (as DIAMOND stacks frames, Alonso et al. 2024, section 3.1), and the output starts as a copy of the newest of them.

    Args:
        latent_shape: ``(C, h, w)`` of the tokenizer.
        action_features: A of ``worldsim.spaces.feature_size``.
        condition_features: V of ``Vocabulary.size``.
        patch_size: Side of a patch in latents.
        width: D.
        depth: Blocks.
        heads: Attention heads.
        mlp_ratio: Width of a block's MLP over D.
        temporal_every: Every how many blocks one attends over time, the last of each group.
        window: Past frames that temporal attention sees.
        history: Past frames stacked to each frame's channels; 0 turns it off.
        anchor: Behind them also stack the frame that the rollout began from, which stays: what the world looks like is not forgotten with
            the frames that showed it (as attention sinks keep first tokens, Xiao et al. 2024, section 3.2, but seen by every block).
        carry: Side of the kernels by which each latent of the frame before is also carried along, one kernel a place, read from the last
            tokens (dynamic filters, Jia et al. 2016, section 3.2); odd, 0 turns it off. What is seen and moves need not be drawn anew.
        conv: Depthwise 3x3 convolution over the token grid before each block.
        long_skips: Feed each block of the first half to its mirror in the second (U-ViT, Bao et al. 2023, section 3.1).
        activation: Of the MLPs: ``silu`` or ``gelu``.
        registers: Learned tokens added to every frame's own (Darcet et al. 2024).
    """

    config: Any
    blocks: Sequence[DiTBlock]
    skips: Sequence[nn.Linear]

    @register_to_config
    def __init__(
        self,
        *,
        latent_shape: Sequence[int] = (16, 8, 8),
        action_features: int = 3,
        condition_features: int = 2,
        patch_size: int = 2,
        width: int = 224,
        depth: int = 6,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        temporal_every: int = 3,
        window: int = 8,
        history: int = 2,
        anchor: bool = False,
        carry: int = 0,
        conv: bool = False,
        long_skips: bool = False,
        registers: int = 0,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        c, h, w = latent_shape
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is unknown: use one of {sorted(ACTIVATIONS)}")
        if width % heads or (width // heads) % 2:
            raise ValueError(f"width {width} over heads {heads} must be an even whole number: rotary positions turn pairs")
        if h % patch_size or w % patch_size:
            raise ValueError(f"latent size {h}x{w} must be a multiple of patch_size {patch_size}")
        if anchor and not history:
            raise ValueError("anchor=true needs history=1 or more: the output begins as a copy of the frame before, not of the anchor")
        if carry and (carry < 0 or carry % 2 == 0 or not history):
            raise ValueError(
                f"carry={carry} must be an odd side of kernels, or 0, and needs history=1 or more: it carries the frame before"
            )
        self.grid = (h // patch_size, w // patch_size)
        self.embed = nn.Conv2d(c * (1 + history + anchor), width, patch_size, stride=patch_size)
        self.place = nn.Parameter(torch.zeros(self.grid[0] * self.grid[1] + registers, width))
        self.level_embed, self.step_embed, self.history_embed = (FourierEmbedding(width) for _ in range(3))
        self.action_embed = ActionEncoder(action_features, width)
        self.condition_embed = nn.Linear(condition_features, width)
        blocks = (
            DiTBlock(
                width,
                heads,
                mlp_ratio=mlp_ratio,
                time=(i + 1) % temporal_every == 0,
                conv=conv and registers == 0,
                activation=activation,
            )
            for i in range(depth)
        )
        self.blocks = cast("Sequence[DiTBlock]", nn.ModuleList(blocks))
        skips = (nn.Linear(2 * width, width) for _ in range(depth // 2 if long_skips else 0))
        self.skips = cast("Sequence[nn.Linear]", nn.ModuleList(skips))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation_out = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width + 2 * c))
        self.project_out = nn.Linear(width, c * patch_size**2)
        self.kernels = nn.Linear(width, (carry * patch_size) ** 2) if carry else None
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.place, std=0.02)
        for block in self.blocks:
            nn.init.zeros_(block.modulation.get_parameter("1.weight"))
            if block.conv is not None:
                nn.init.zeros_(block.conv.weight)
        nn.init.zeros_(self.modulation_out.get_parameter("1.weight"))
        nn.init.zeros_(self.project_out.weight)
        if self.kernels is not None:
            nn.init.zeros_(self.kernels.weight)
        for skip in self.skips:
            with torch.no_grad():
                skip.weight.copy_(torch.cat((torch.eye(skip.out_features), torch.zeros(skip.out_features, skip.out_features)), dim=1))

    @property
    def temporal_layers(self) -> int:
        """Number of blocks that attend over time."""
        return sum(block.time for block in self.blocks)

    def cache_shape(self) -> tuple[int, int, int, int]:
        """Return ``(layers, N, heads, d)`` of remembered keys: what one frame of one row costs."""
        attention = self.blocks[0].attention
        return self.temporal_layers, len(self.place), attention.heads, attention.head_dim

    def _condition(self, x: FrameInputs) -> Tensor:
        c = self.level_embed(x.level) + self.step_embed(x.step) + self.action_embed(x.actions, x.known)  # (B, F, D)
        if self.config.history:
            c = c + self.history_embed(x.history_level)  # (B, F, D)
        return c + self.condition_embed(x.condition).unsqueeze(1)  # (B, F, D)

    def forward(self, x: FrameInputs, mask: Tensor, past: tuple[Tensor, Tensor] | None = None, *, estimate: bool = True) -> FrameOutputs:
        """Estimate clean latents.

        Args:
            x: The frames.
            mask: ``(B or 1, F, K)`` additive mask of temporal attention over P remembered frames and these F, K = P + F.
            past: Keys and values ``(layers, B, N, heads, P, d)`` of remembered frames.
            estimate: Whether latents are wanted; a pass that only remembers frames and reads heads goes without.
        """
        b, f = x.latents.shape[:2]
        stacked = torch.cat((x.latents, x.history), dim=2) if self.config.history else x.latents  # (B, F, (1+H)*C, h, w)
        tokens = self.embed(stacked.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, (b, f))  # (B, F, N, D)
        if self.config.registers:
            tokens = torch.cat((tokens, tokens.new_zeros(b, f, self.config.registers, tokens.shape[-1])), dim=2)  # (B, F, N+R, D)
        tokens = tokens + self.place  # (B, F, N, D)
        c = self._condition(x)  # (B, F, D)
        tokens, keys, values = self._run_blocks(tokens, c, x.positions, mask, past)
        shift, scale, skip_self, skip_last = self._modulation_out(c)
        hidden = modulate(self.norm_out(tokens), shift, scale)  # (B, F, N, D)
        if not estimate:
            return FrameOutputs(hidden.new_empty(0), hidden, keys, values)
        latents = self._unpatchify(self.project_out(hidden))  # (B, F, C, h, w)
        latents = latents + skip_self * x.latents  # (B, F, C, h, w)
        if self.config.history:
            latents = latents + (1 + skip_last) * x.history[:, :, : x.latents.shape[2]]  # (B, F, C, h, w)
        if self.kernels is not None:
            kernels = self._unpatchify(self.kernels(hidden))  # (B, F, k*k, h, w)
            latents = latents + carried(x.history[:, :, : x.latents.shape[2]], kernels)  # (B, F, C, h, w)
        return FrameOutputs(latents, hidden, keys, values)

    def _run_blocks(
        self, tokens: Tensor, c: Tensor, positions: Tensor, mask: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        rotary = rotary_angles(positions, self.cache_shape()[-1])  # (B, F, d/2)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        kept: list[Tensor] = []
        half = len(self.blocks) // 2
        for i, block in enumerate(self.blocks):
            if self.skips and i >= len(self.blocks) - half:
                tokens = self.skips[i - len(self.blocks) + half](torch.cat((tokens, kept.pop()), dim=-1))  # (B, F, N, D)
            layer = None if past is None or not block.time else (past[0][len(keys)], past[1][len(keys)])
            tokens, written = block(tokens, c, self.grid, rotary, mask, layer)
            if written is not None:
                keys.append(written[0])
                values.append(written[1])
            if self.skips and i < half:
                kept.append(tokens)
        none = tokens.new_empty(0)
        return tokens, torch.stack(keys) if keys else none, torch.stack(values) if values else none

    def _modulation_out(self, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        d, channels = self.config.width, self.config.latent_shape[0]
        shift, scale, own, last = self.modulation_out(c).split((d, d, channels, channels), dim=-1)  # (B, F, ...)
        return shift.unsqueeze(2), scale.unsqueeze(2), own[..., None, None], last[..., None, None]

    def _unpatchify(self, tokens: Tensor) -> Tensor:
        p, (rows, columns) = self.config.patch_size, self.grid
        x = tokens[:, :, : rows * columns].unflatten(-1, (p, p, -1)).unflatten(2, (rows, columns))  # (B, F, h', w', p, p, C)
        return x.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)  # (B, F, C, h, w)


def carried(latents: Tensor, kernels: Tensor) -> Tensor:
    """Give each place the sum of the latents round it ``(B, F, C, h, w)``, none beyond the edge, by its kernel ``(B, F, k*k, h, w)``."""
    b, f, c, h, w = latents.shape
    side = round(kernels.shape[2] ** 0.5)
    around = nn.functional.unfold(latents.flatten(0, 1).to(kernels.dtype), side, padding=side // 2)  # (B*F, C*k*k, h*w)
    return (around.view(b, f, c, -1, h, w) * kernels.unsqueeze(2)).sum(3)  # (B, F, C, h, w)
