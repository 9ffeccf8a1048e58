"""StreamingDiT: ``VideoDiT`` for one new frame a row, with all that the passes of a step share computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.dit import VideoDiT
from worldsim.layers import ACTIVATIONS, DiTBlock, rotary_frequencies, turn


@dataclass(frozen=True)
class Shared:
    """What all passes over one new frame a row have in common.

    Attributes:
        modulation: Shifts, scales and gates of each pass ``(passes, B, M)``: six D a block, then those of the output.
        rotary: For each temporal layer what queries and keys are multiplied with ``(2, B, 1, 1, d)``, and then what the other half of
            each, times this ``(2, B, 1, 1, d)``, adds: the turn to the new frame's place in time, and the weights of their norms.
        mask: ``(B, 1, 1, P)`` additive.
        base: ``(B, N, D)``, what every pass adds to its tokens: their place, and the frames before.
        newest: Patches of the newest frame before ``(B, n, p*p*C)`` float32; None without history.
        keys: Remembered keys ``(layers, B, N, heads, P, d)`` float32; each pass writes the new frame's into its slot.
        values: Remembered values, likewise.
        slot: The new frame's slot, or ``(B*N*heads,)`` its place in ``(B*N*heads*P, d)`` of a layer where slots differ.
    """

    modulation: Tensor
    rotary: list[tuple[Tensor, Tensor]]
    mask: Tensor
    base: Tensor
    newest: Tensor | None
    keys: Tensor
    values: Tensor
    slot: int | Tensor


@dataclass(frozen=True)
class _Block:
    """Weights of one block; ``norms`` are those of queries and keys ``(2, 1, d)``, times the square root of d.

    Over time, that of queries has the scale of attention in it.
    """

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
        self._activation = partial(F.silu, inplace=True) if config.activation == "silu" else ACTIVATIONS[config.activation]()
        self._size = (self.grid[0] * self.patch, self.grid[1] * self.patch)
        self._cut, self._joined = self._orders(dit.place.device)
        self._frequencies = rotary_frequencies(self.head_dim, dit.place.device)
        weight = torch.unflatten(dit.embed.weight, 1, (-1, self.channels)).permute(1, 0, 3, 4, 2).flatten(2)  # (1+H, D, p*p*C)
        self._embed = self._matrix(weight[0])
        self._embed_history = self._matrix(weight[1:].transpose(0, 1).flatten(1)) if config.history else None  # (D, H*p*p*C)
        bias = dit.embed.bias if dit.embed.bias is not None else torch.zeros_like(dit.place[0])
        own_place = dit.place.detach().clone()  # (N, D)
        own_place[: self.grid[0] * self.grid[1]] += bias.detach()
        self._place = self._own(own_place)
        self._blocks = [self._read_block(block) for block in dit.blocks]
        self._skips = [self._layer(skip) for skip in dit.skips]
        self._modulate = self._read_modulation(dit)
        self._project = self._layer(dit.project_out)
        self._carry = None if dit.kernels is None else self._layer(dit.kernels)
        self._around = _around(self._cut, self.channels, self._size, config.carry) if config.carry else None
        first, last = (cast("nn.Linear", dit.action_embed.mlp[i]) for i in (0, 2))
        self._action = (*_floats(first), *_floats(last))
        self._condition = _floats(dit.condition_embed)

    def _own(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self.dtype, copy=True).contiguous()

    def _layer(self, layer: Any) -> tuple[Tensor, Tensor]:
        return self._matrix(layer.weight), self._own(layer.bias)

    def _matrix(self, weight: Tensor) -> Tensor:
        """Copy a weight ``(out, in)`` so that outputs lie side by side in memory: a few rows are multiplied faster so."""
        return self._own(weight.T).T

    def _orders(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the place of each number of patches in latents, and of each number of latents, channels last, in patches."""
        p, (rows, columns), size = self.patch, self.grid, self.channels * self._size[0] * self._size[1]
        places = torch.arange(size, device=device)
        cut = places.view(self.channels, rows, p, columns, p).permute(1, 3, 2, 4, 0).flatten()  # of (h', w', p, p, C)
        joined = places.view(rows, columns, p, p, self.channels).transpose(1, 2).flatten()  # of (h', p, w', p, C)
        return cut, joined

    def _read_block(self, block: DiTBlock) -> _Block:
        attention, up, down = block.attention, block.mlp[0], block.mlp[2]
        norms = torch.stack((attention.norm_q.weight, attention.norm_k.weight)).detach()[:, None] * self.head_dim**0.5  # (2, 1, d)
        if block.time:
            norms[0] *= self.head_dim**-0.5
        return _Block(
            time=block.time,
            qkv=self._matrix(attention.to_qkv.weight),
            norms=_float(norms) if block.time else self._own(norms),
            out=self._layer(attention.to_out),
            mlp=(*self._layer(up), *self._layer(down)),
            conv=None if (conv := block.conv) is None else (self._own(conv.weight), self._own(cast("Tensor", conv.bias))),
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
        return self._matrix(torch.cat(weights)), self._own(torch.cat(biases))

    def patches(self, latents: Tensor) -> Tensor:
        """Cut ``(..., C, h, w)`` into patches ``(..., n, p*p*C)``."""
        cut = latents.reshape(-1, self._cut.shape[0]).index_select(1, self._cut)  # (R, n*p*p*C)
        return cut.view(*latents.shape[:-3], self.grid[0] * self.grid[1], self.patch**2 * self.channels)  # (..., n, p*p*C)

    def latents(self, patches: Tensor) -> Tensor:
        """Put patches ``(..., n, p*p*C)`` together again, ``(..., C, h, w)`` with channels last in memory, as decoders take them."""
        joined = patches.reshape(-1, self._joined.shape[0]).index_select(1, self._joined)  # (R, h*w*C)
        return joined.view(*patches.shape[:-2], *self._size, self.channels).movedim(-1, -3)  # (..., C, h, w)

    def share(
        self,
        levels: Tensor,
        features: Tensor,
        condition: Tensor,
        history: Tensor,
        position: Tensor,
        mask: Tensor,
        ring: tuple[Tensor, Tensor],
        slot: int | Tensor,
        in_place: bool = False,
    ) -> Shared:
        """Compute what all passes of a step share.

        Args:
            levels: ``(passes, D)`` of ``level_embedding``.
            features: ``(B, A)`` features of the actions, all known.
            condition: ``(B, V)``.
            history: ``(B, H, n, p*p*C)`` patches of the frames before, newest first.
            position: ``(B,)`` absolute frame numbers.
            mask: ``(B, 1, P)`` additive, of attention over the slots of the ring.
            ring: Remembered keys and values ``(B, layers, N, heads, P, d)``.
            slot: Slot of the ring that is the new frame's: of all rows, or ``(B,)`` of each.
            in_place: Whether the ring may be written into, where it is laid out as is best: where it is of ``Shared``.
        """
        modulation = self.modulate(levels, features, condition)  # (passes, B, M)
        base, newest = self._place.expand(features.shape[0], -1, -1), None  # (B, N, D)
        if self._embed_history is not None:
            past = history.float()  # (B, H, n, p*p*C)
            newest = past[:, 0]  # (B, n, p*p*C)
            embedded = F.linear(past.transpose(1, 2).flatten(2).to(self.dtype), self._embed_history)  # (B, n, D)
            base = base + self._pad(embedded)  # (B, N, D)
        keys, values = (_writable(x, in_place=in_place) for x in ring)  # (layers, B, N, heads, P, d)
        place = slot if isinstance(slot, int) else _places(slot, keys)
        return Shared(modulation, self._turns(position), mask[:, None], base, newest, keys, values, place)

    def modulate(self, levels: Tensor, features: Tensor, condition: Tensor) -> Tensor:
        """Return the ``modulation`` of ``Shared``, the only part of it in which levels, actions and conditions are.

        Args:
            levels: ``(passes, D)`` of ``level_embedding``.
            features: ``(B, A)`` features of the actions, all known.
            condition: ``(B, V)``.
        """
        up, up_bias, down, down_bias = self._action
        told = F.linear(F.silu(F.linear(features.float(), up, up_bias)), down, down_bias)  # (B, D)
        told = told + F.linear(condition.float(), *self._condition)  # (B, D)
        told = F.silu(levels[:, None] + told, inplace=True).to(self.dtype)  # (passes, B, D)
        return torch.unflatten(F.linear(told.flatten(0, 1), *self._modulate), 0, (-1, features.shape[0]))  # (passes, B, M)

    def _turns(self, position: Tensor) -> list[tuple[Tensor, Tensor]]:
        cos, sin = (angle[:, None, None] for angle in turn(position, self._frequencies))  # (B, 1, 1, d/2)
        along, across = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)  # each (B, 1, 1, d)
        norms = [block.norms.unsqueeze(1).unsqueeze(1) for block in self._blocks if block.time]  # each (2, 1, 1, 1, d)
        return [(along * norm, across * norm.roll(self.head_dim // 2, -1)) for norm in norms]  # each (2, B, 1, 1, d)

    def run(self, patches: Tensor, modulation: Tensor, shared: Shared) -> Tensor:
        """Do one pass, which leaves the frame's rotated keys and its values in its slot of those of ``shared``.

        Args:
            patches: ``(B, n, p*p*C)`` of the frame at its signal level.
            modulation: Of this pass ``(B, M)``, one of those in ``shared``.
            shared: Of ``share``.

        Returns:
            Last tokens ``(B, N, D)``.
        """
        rows, layer = patches.shape[0], 0
        x = self._pad(F.linear(patches.to(self.dtype), self._embed)).add_(shared.base)  # (B, N, D)
        parts = self._parts(modulation)
        kept: list[Tensor] = []
        half = len(self._blocks) // 2
        for i, block in enumerate(self._blocks):
            if self._skips and i >= len(self._blocks) - half:
                x = F.linear(torch.cat((x, kept.pop()), dim=-1), *self._skips[i - len(self._blocks) + half])  # (B, N, D)
            shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts[6 * i : 6 * i + 6]
            x = self._mix(x, block)  # (B, N, D)
            y = F.linear(self._modulated(x, shift, scale), block.qkv)  # (B*N, 3 D)
            qkv = y.view(rows, -1, 3, self.heads, self.head_dim)  # (B, N, 3, heads, d)
            y = self._over_time(qkv, layer, shared) if block.time else self._over_space(qkv, block.norms)  # (B, N, heads, d)
            layer += block.time
            x.addcmul_(gate, F.linear(y.reshape(-1, self.width), *block.out).view_as(x))  # (B, N, D)
            up, up_bias, down, down_bias = block.mlp
            y = self._activation(F.linear(self._modulated(x, shift_mlp, scale_mlp), up, up_bias))  # (B*N, hidden)
            x.addcmul_(gate_mlp, F.linear(y, down, down_bias).view_as(x))  # (B, N, D)
            if self._skips and i < half:
                kept.append(x.clone())
        return self._modulated(x, *parts[-2:]).view_as(x)  # (B, N, D)

    def _parts(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Cut ``(B, M)`` into shifts, scales and gates ``(B, 1, D)``; into ``(D,)`` for a single row that ``_modulated`` takes so."""
        rows = modulation.shape[0]
        cut = modulation[:, : (6 * len(self._blocks) + 2) * self.width].view(rows, -1, self.width)  # (B, parts, D)
        if rows == 1 and self.dtype == torch.float32:
            return cut[0].unbind()
        return cut.unsqueeze(1).unbind(2)

    def estimate(self, hidden: Tensor, patches: Tensor, modulation: Tensor, shared: Shared) -> Tensor:
        """Return the estimate of the clean patches ``(B, n, p*p*C)`` float32, from last tokens and what went into the pass."""
        made = F.linear(hidden[:, : patches.shape[1]], *self._project).float()  # (B, n, p*p*C)
        size = patches.shape[-1]
        gates = modulation[:, None, (6 * len(self._blocks) + 2) * self.width :].float()  # (B, 1, 1 or 2 p*p*C)
        made = torch.addcmul(made, gates[..., :size], patches)  # (B, n, p*p*C)
        if shared.newest is None:
            return made
        made = torch.addcmul(made, gates[..., size:], shared.newest)  # (B, n, p*p*C)
        return made if self._carry is None else made + self._carried(hidden, shared.newest)  # (B, n, p*p*C)

    def _carried(self, hidden: Tensor, newest: Tensor) -> Tensor:
        """Carry patches ``(B, n, p*p*C)`` along by the kernels that last tokens ``(B, N, D)`` hold."""
        assert self._carry is not None
        assert self._around is not None
        kernels = F.linear(hidden[:, : newest.shape[1]], *self._carry).float()  # (B, n, p*p*k*k)
        places = F.pad(newest.reshape(newest.shape[0], -1, self.channels), (0, 0, 0, 1))  # (B, n*p*p + 1, C), the last beyond the edge
        around = places[:, self._around]  # (B, n*p*p, k*k, C)
        taken = torch.matmul(kernels.view(*around.shape[:2], 1, -1), around)  # (B, n*p*p, 1, C)
        return taken.view_as(newest)  # (B, n, p*p*C)

    def _pad(self, tokens: Tensor) -> Tensor:
        return F.pad(tokens, (0, 0, 0, self.registers)) if self.registers else tokens  # (B, N, D)

    def _modulated(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Normalise tokens ``(B, N, D)``, scale and shift them by ``(B, 1, D)`` or ``(D,)``; returns ``(B*N, D)``."""
        if shift.ndim == 1:  # the norm's own weights; they round otherwise, which shows in half precision
            return torch.layer_norm(x[0], (self.width,), scale, shift, 1e-6)  # (N, D)
        y = torch.layer_norm(x, (self.width,), eps=1e-6)  # (B, N, D)
        return torch.addcmul(shift, y, scale, out=y).flatten(0, 1)  # (B*N, D)

    def _mix(self, x: Tensor, block: _Block) -> Tensor:
        if block.conv is None:
            return x
        y = torch.unflatten(x.transpose(1, 2), 2, self.grid)  # (B, D, h', w')
        y = F.conv2d(y, *block.conv, padding=1, groups=self.width)  # (B, D, h', w')
        return x + y.flatten(2).transpose(1, 2)  # (B, N, D)

    def _over_space(self, qkv: Tensor, norms: Tensor) -> Tensor:
        """Attend within each frame: ``(B, N, 3, heads, d)``, which is written into, to ``(B, N, heads, d)``."""
        qk = qkv[:, :, :2]  # (B, N, 2, heads, d)
        qk.mul_(self._over_length(qk)).mul_(norms)
        q, k, v = torch.unbind(qkv.transpose(1, 3), 2)  # each (B, heads, N, d)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # (B, N, heads, d)

    def _over_length(self, x: Tensor) -> Tensor:
        """Return ``1 / sqrt(|x|^2 + 1e-6 d)`` ``(..., 1)``: times the square root of d, that is RMS-norm."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)  # (..., 1)
        inverse: Tensor = length.square_().add_(1e-6 * self.head_dim).rsqrt_()  # (..., 1)
        return inverse

    def _over_time(self, qkv: Tensor, layer: int, shared: Shared) -> Tensor:
        """Attend over remembered frames and the new one, each position for itself, in float32; ``(B, N, 3, heads, d)`` loses its 3."""
        (along, across), half = shared.rotary[layer], self.head_dim // 2
        qk, keys, values = qkv[:, :, :2].movedim(2, 0), shared.keys[layer], shared.values[layer]  # (2, B, N, heads, d), ring
        turned = torch.empty(qk.shape, dtype=torch.float32, device=qk.device)  # (2, B, N, heads, d)
        torch.mul(qk, along, out=turned)
        turned[..., :half].addcmul_(qk[..., half:], across[..., :half])
        turned[..., half:].addcmul_(qk[..., :half], across[..., half:])
        q, k = turned.mul_(self._over_length(qk)).unbind(0)  # each (B, N, heads, d)
        _write(keys, shared.slot, k)
        _write(values, shared.slot, qkv[:, :, 2])
        places, size = keys.shape[-2], (*k.shape[:3], -1)
        scores = torch.bmm(q.reshape(-1, 1, self.head_dim), keys.view(-1, places, self.head_dim).transpose(1, 2)).view(size)
        shares = torch.softmax(scores.add_(shared.mask), dim=-1)  # (B, N, heads, P)
        seen = torch.bmm(shares.view(-1, 1, places), values.view(-1, places, self.head_dim)).view(size)  # (B, N, heads, d)
        return seen.to(self.dtype)


def _around(cut: Tensor, channels: int, size: tuple[int, int], side: int) -> Tensor:
    """Return which places each place of patches is carried from, ``(n*p*p, k*k)``, as places of patches; ``n*p*p`` beyond the edge."""
    own = cut.view(-1, channels)[:, 0]  # (n*p*p,) of (h, w), the first channel's
    numbers = F.pad(own.argsort().view(size), (side // 2,) * 4, value=len(own))  # (h + k - 1, w + k - 1)
    return numbers.unfold(0, side, 1).unfold(1, side, 1).flatten(2).flatten(0, 1)[own]  # (n*p*p, k*k)


def _writable(held: Tensor, *, in_place: bool) -> Tensor:
    """Lay remembered ``(B, layers, N, heads, P, d)`` out as ``(layers, B, N, heads, P, d)`` float32, in memory of its own or in place."""
    ring = held.transpose(0, 1)  # (layers, B, N, heads, P, d)
    ours = in_place and ring.dtype == torch.float32 and ring.is_contiguous()
    return ring if ours else ring.float().clone(memory_format=torch.contiguous_format)


def _places(slots: Tensor, ring: Tensor) -> Tensor:
    """Return where the slot ``(B,)`` of each row is in ``(B*N*heads*P, d)`` of a layer of the ring, ``(B*N*heads,)``."""
    _, rows, tokens, heads, count, _ = ring.shape
    first = torch.arange(0, rows * tokens * heads * count, count, device=ring.device).view(rows, -1)  # (B, N*heads)
    return (first + slots.unsqueeze(1)).flatten()


def _write(ring: Tensor, slot: int | Tensor, new: Tensor) -> None:
    """Put ``(B, N, heads, d)`` into its slot of a layer ``(B, N, heads, P, d)``."""
    if isinstance(slot, int):
        ring.select(-2, slot).copy_(new)
    else:
        ring.view(-1, ring.shape[-1]).index_copy_(0, slot, new.reshape(-1, ring.shape[-1]))


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


def _floats(layer: Any) -> tuple[Tensor, Tensor]:
    return _float(layer.weight), _float(layer.bias)
