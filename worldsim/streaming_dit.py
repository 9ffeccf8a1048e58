"""StreamingDiT: ``VideoDiT`` for one new frame a row, with all that the passes of a step share computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.dit import VideoDiT
from worldsim.layers import ACTIVATIONS, DiTBlock, rotary_angles


@dataclass(frozen=True)
class Shared:
    """What all passes over one new frame a row have in common.

    Attributes:
        modulation: Shifts, scales and gates of each pass ``(passes, B, M)``: six D a block, then those of the output.
        rotary: Cosine and sine ``(B, 1, 1, 1, d / 2)`` of the new frame's place in time.
        mask: ``(B, 1, 1, P + 1)`` additive.
        base: ``(B, N, D)``, what every pass adds to its tokens: their place, and the frames before.
        newest: Patches of the newest frame before ``(B, n, p*p*C)`` float32; None without history.
        keys: Remembered keys ``(layers, B, N, heads, P, d)`` float32.
        values: Remembered values, likewise.
    """

    modulation: Tensor
    rotary: tuple[Tensor, Tensor]
    mask: Tensor
    base: Tensor
    newest: Tensor | None
    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class _Block:
    """Weights of one block; ``norms`` are those of queries and keys ``(2, 1, d)``."""

    time: bool
    qkv: Tensor
    norms: Tensor
    out: tuple[Tensor, Tensor]
    mlp: tuple[Tensor, Tensor, Tensor, Tensor]
    conv: tuple[Tensor, Tensor] | None


class StreamingDiT:
    """Gives the numbers of ``VideoDiT.forward`` for one new frame a row, in fewer and larger operations.

    Frames stay patches ``(B, n, p*p*C)`` from noise to result, n = h/p * w/p. The part of the frames before in the embedding, rotary
    angles, the mask, and the modulation of all blocks in all passes, one matrix product, are computed once a step: they depend on
    level, action and condition, never on the frame that is being made. It knows every switch of the architecture.

    The weights are copied here, once. It does not follow changes made to the ``VideoDiT`` later: build another one after those.

    Args:
        dit: The network.
        dtype: Type of what the blocks compute in. Embeddings, frames and attention over time stay float32.
    """

    def __init__(self, dit: VideoDiT, *, dtype: torch.dtype = torch.float32) -> None:
        config: Any = dit.config
        self.dtype, self.grid, self.patch, self.width, self.heads = dtype, dit.grid, config.patch_size, config.width, config.heads
        self.channels, self.registers, self.head_dim = config.latent_shape[0], config.registers, config.width // config.heads
        self._activation = ACTIVATIONS[config.activation]()
        weight = torch.unflatten(dit.embed.weight, 1, (-1, self.channels)).permute(1, 0, 3, 4, 2).flatten(2)  # (1+H, D, p*p*C)
        self._embed = self._own(weight[0])
        self._embed_history = self._own(weight[1:].transpose(0, 1).flatten(1)) if config.history else None  # (D, H*p*p*C)
        bias = dit.embed.bias if dit.embed.bias is not None else torch.zeros_like(dit.place[0])
        own_place = dit.place.detach().clone()  # (N, D)
        own_place[: self.grid[0] * self.grid[1]] += bias.detach()
        self._place = self._own(own_place)
        self._blocks = [self._read_block(block) for block in dit.blocks]
        self._skips = [_pair(self._own, skip) for skip in dit.skips]
        self._modulate = self._read_modulation(dit)
        self._project = _pair(self._own, dit.project_out)
        first, last = (cast("nn.Linear", dit.action_embed.mlp[i]) for i in (0, 2))
        self._action = (*_pair(_float, first), *_pair(_float, last))
        self._condition = _pair(_float, dit.condition_embed)

    def _own(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self.dtype, copy=True).contiguous()

    def _read_block(self, block: DiTBlock) -> _Block:
        attention, up, down = block.attention, block.mlp[0], block.mlp[2]
        norms = torch.stack((attention.norm_q.weight, attention.norm_k.weight))[:, None]  # (2, 1, d)
        return _Block(
            time=block.time,
            qkv=self._own(attention.to_qkv.weight),
            norms=self._own(norms),
            out=_pair(self._own, attention.to_out),
            mlp=(*_pair(self._own, up), *_pair(self._own, down)),
            conv=None if block.conv is None else _pair(self._own, block.conv),
        )

    def _read_modulation(self, dit: VideoDiT) -> tuple[Tensor, Tensor]:
        """Pack the modulations of all blocks and of the output into one layer ``(M, D)``; scales come out with their 1 added."""
        d, c, one = self.width, self.channels, torch.ones(self.width, device=dit.place.device)
        inner, weights, biases = torch.stack((0 * one, one, 0 * one, 0 * one, one, 0 * one)).flatten(), [], []  # (6 D,)
        for block in dit.blocks:
            layer = cast("nn.Linear", block.modulation[1])
            weights.append(layer.weight)
            biases.append(layer.bias + inner)
        layer = cast("nn.Linear", dit.modulation_out[1])
        shift, scale, own, newest = torch.split(layer.weight, [d, d, c, c])
        shift_b, scale_b, own_b, newest_b = torch.split(layer.bias, [d, d, c, c])
        weights += [shift, scale, *[own] * self.patch**2]  # what is per channel is repeated for each cell of a patch
        biases += [shift_b, scale_b + 1, *[own_b] * self.patch**2]
        if self._embed_history is not None:
            weights += [newest] * self.patch**2
            biases += [newest_b + 1] * self.patch**2
        return self._own(torch.cat(weights)), self._own(torch.cat(biases))

    def patches(self, latents: Tensor) -> Tensor:
        """Cut ``(..., C, h, w)`` into patches ``(..., n, p*p*C)``."""
        p, (rows, columns) = self.patch, self.grid
        x = torch.unflatten(torch.unflatten(latents, -1, (columns, p)), -3, (rows, p))  # (..., C, h', p, w', p)
        return x.movedim(-5, -1).transpose(-4, -3).flatten(-3).flatten(-3, -2)  # (..., n, p*p*C)

    def latents(self, patches: Tensor) -> Tensor:
        """Put patches ``(..., n, p*p*C)`` together again, ``(..., C, h, w)``."""
        p = self.patch
        x = torch.unflatten(torch.unflatten(patches, -1, (p, p, self.channels)), -4, self.grid)  # (..., h', w', p, p, C)
        return x.transpose(-4, -3).movedim(-1, -5).flatten(-2).flatten(-3, -2)  # (..., C, h, w)

    def share(
        self,
        levels: Tensor,
        features: Tensor,
        condition: Tensor,
        history: Tensor,
        position: Tensor,
        mask: Tensor,
        ring: tuple[Tensor, Tensor],
    ) -> Shared:
        """Compute what all passes of a step share.

        Args:
            levels: ``(passes, D)`` of ``level_embedding``.
            features: ``(B, A)`` features of the actions, all known.
            condition: ``(B, V)``.
            history: ``(B, H, C, h, w)`` latents of the frames before, newest first.
            position: ``(B,)`` absolute frame numbers.
            mask: ``(B, 1, P + 1)`` additive, of attention over the remembered frames and the new one.
            ring: Remembered keys and values ``(B, layers, N, heads, P, d)``.
        """
        up, up_bias, down, down_bias = self._action
        told = F.linear(F.silu(F.linear(features.float(), up, up_bias)), down, down_bias)  # (B, D)
        told = told + F.linear(condition.float(), *self._condition)  # (B, D)
        modulation = F.linear(F.silu(levels[:, None] + told).to(self.dtype), *self._modulate)  # (passes, B, M)
        base, newest = self._place.expand(len(features), -1, -1), None  # (B, N, D)
        if self._embed_history is not None:
            past = self.patches(history.float())  # (B, H, n, p*p*C)
            newest = past[:, 0]  # (B, n, p*p*C)
            embedded = F.linear(past.transpose(1, 2).flatten(2).to(self.dtype), self._embed_history)  # (B, n, D)
            base = base + self._pad(embedded)  # (B, N, D)
        cos, sin = (angle[:, None, None, None] for angle in rotary_angles(position, self.head_dim))  # (B, 1, 1, 1, d/2)
        keys, values = (x.transpose(0, 1).float().contiguous() for x in ring)  # (layers, B, N, heads, P, d)
        return Shared(modulation, (cos, sin), mask[:, None], base, newest, keys, values)

    def run(self, patches: Tensor, modulation: Tensor, shared: Shared) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Do one pass.

        Args:
            patches: ``(B, n, p*p*C)`` of the frame at its signal level.
            modulation: Of this pass ``(B, M)``, one of those in ``shared``.
            shared: Of ``share``.

        Returns:
            Last tokens ``(B, N, D)``, and of each temporal layer the frame's rotated key and its value ``(B, N, heads, d)``.
        """
        x = self._pad(F.linear(patches.to(self.dtype), self._embed)) + shared.base  # (B, N, D)
        parts = torch.split(modulation.unsqueeze(1), self.width, dim=-1)  # of (B, 1, D)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        kept: list[Tensor] = []
        half = len(self._blocks) // 2
        for i, block in enumerate(self._blocks):
            if self._skips and i >= len(self._blocks) - half:
                x = F.linear(torch.cat((x, kept.pop()), dim=-1), *self._skips[i - len(self._blocks) + half])  # (B, N, D)
            shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts[6 * i : 6 * i + 6]
            x = self._mix(x, block)  # (B, N, D)
            q, k, v = self._project_heads(torch.addcmul(shift, self._norm(x), scale), block)  # each (B, N, heads, d)
            if block.time:
                past = shared.keys[len(keys)], shared.values[len(keys)]
                y, k, v = self._over_time(q, k, v, shared, past)  # (B, N, heads, d)
                keys.append(k)
                values.append(v)
            else:
                q, k, v = (z.transpose(1, 2) for z in (q, k, v))  # each (B, heads, N, d)
                y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # (B, N, heads, d)
            x = torch.addcmul(x, gate, F.linear(y.flatten(2), *block.out))  # (B, N, D)
            up, up_bias, down, down_bias = block.mlp
            y = F.linear(torch.addcmul(shift_mlp, self._norm(x), scale_mlp), up, up_bias)  # (B, N, hidden)
            x = torch.addcmul(x, gate_mlp, F.linear(self._activation(y), down, down_bias))  # (B, N, D)
            if self._skips and i < half:
                kept.append(x)
        first = 6 * len(self._blocks)
        return torch.addcmul(parts[first], self._norm(x), parts[first + 1]), keys, values  # (B, N, D)

    def estimate(self, hidden: Tensor, patches: Tensor, modulation: Tensor, shared: Shared) -> Tensor:
        """Return the estimate of the clean patches ``(B, n, p*p*C)`` float32, from last tokens and what went into the pass."""
        made = F.linear(hidden[:, : patches.shape[1]], *self._project).float()  # (B, n, p*p*C)
        size = patches.shape[-1]
        gates = modulation[:, None, (6 * len(self._blocks) + 2) * self.width :].float()  # (B, 1, 1 or 2 p*p*C)
        made = torch.addcmul(made, gates[..., :size], patches)  # (B, n, p*p*C)
        return made if shared.newest is None else torch.addcmul(made, gates[..., size:], shared.newest)  # (B, n, p*p*C)

    def _pad(self, tokens: Tensor) -> Tensor:
        return F.pad(tokens, (0, 0, 0, self.registers)) if self.registers else tokens  # (B, N, D)

    def _norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), eps=1e-6)  # (B, N, D)

    def _mix(self, x: Tensor, block: _Block) -> Tensor:
        if block.conv is None:
            return x
        y = torch.unflatten(x.transpose(1, 2), 2, self.grid)  # (B, D, h', w')
        y = F.conv2d(y, *block.conv, padding=1, groups=self.width)  # (B, D, h', w')
        return x + y.flatten(2).transpose(1, 2)  # (B, N, D)

    def _project_heads(self, x: Tensor, block: _Block) -> tuple[Tensor, Tensor, Tensor]:
        qkv = torch.unflatten(F.linear(x, block.qkv), -1, (3, self.heads, self.head_dim))  # (B, N, 3, heads, d)
        qk = F.rms_norm(qkv[:, :, :2], (self.head_dim,), eps=1e-6) * block.norms  # (B, N, 2, heads, d)
        return qk[:, :, 0], qk[:, :, 1], qkv[:, :, 2]

    def _over_time(self, q: Tensor, k: Tensor, v: Tensor, shared: Shared, past: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Attend over remembered frames and the new one, each position for itself, in float32."""
        cos, sin = shared.rotary
        a, b = torch.stack((q, k), dim=2).float().chunk(2, dim=-1)  # each (B, N, 2, heads, d/2)
        q, k = torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).unbind(2)  # each (B, N, heads, d)
        v = v.float()
        keys, values = past  # (B, N, heads, P, d)
        scores = torch.matmul(keys, q.unsqueeze(-1)).squeeze(-1)  # (B, N, heads, P)
        scores = torch.cat((scores, (q * k).sum(-1, keepdim=True)), dim=-1)  # (B, N, heads, P + 1)
        shares = torch.softmax(torch.add(shared.mask, scores, alpha=self.head_dim**-0.5), dim=-1)  # (B, N, heads, P + 1)
        seen = torch.matmul(shares[..., None, :-1], values).squeeze(-2)  # (B, N, heads, d)
        return torch.addcmul(seen, shares[..., -1:], v).to(self.dtype), k, v


@torch.no_grad()
def level_embedding(dit: VideoDiT, levels: Sequence[float], sizes: Sequence[float], history_level: float) -> Tensor:
    """Embed signal level and step size of each pass ``(passes, D)`` float32; with history, also its level."""
    device = dit.place.device
    level, size = (torch.tensor([list(values)], device=device) for values in (levels, sizes))  # each (1, passes)
    embedded: Tensor = dit.level_embed(level).float() + dit.step_embed(size).float()  # (1, passes, D)
    if dit.config.history:
        embedded = embedded + dit.history_embed(torch.full_like(level, history_level)).float()  # (1, passes, D)
    return embedded[0]


def _float(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.float32, copy=True)


def _pair(own: Any, layer: Any) -> tuple[Tensor, Tensor]:
    """Copy weight and bias of a layer."""
    return own(layer.weight), own(layer.bias)
