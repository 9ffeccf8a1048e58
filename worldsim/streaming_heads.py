"""Heads of a world as a rollout reads them: one frame a row, straight to what a step tells."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.heads import Heads, symexp
from worldsim.recall import tell
from worldsim.uncertainty import ErrorHead

Pairs = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Told:
    """What the heads tell of B frames.

    Attributes:
        end: ``(B, 1)`` float32, logit of the episode having ended with this step.
        reward: ``(B, 1)`` float32, expected reward.
        state: ``(B, S)`` float32, labelled state in physical units.
    """

    end: Tensor
    reward: Tensor
    state: Tensor


class StreamingHeads:
    """Gives the numbers of ``Heads.forward`` but for rounding; mean and deviation of the state are part of the last layer.

    The weights are copied here, once. It does not follow changes made to the heads later.

    Args:
        heads: The heads.
        mean: Mean of each of S numbers of the labelled state in training.
        std: Their standard deviations.
        dtype: Type to compute in. The last layer is float32: physical units need more digits than half precision has; so is recall.
    """

    def __init__(self, heads: Heads, *, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32) -> None:
        self.dtype, self._sizes, self._values = dtype, list(heads.sizes), symexp(heads.grid.float())  # (bins,)
        *layers, (weight, bias) = _layers([heads.squeeze, *heads.mlp], torch.float32)
        self._layers = [(one.to(dtype), other.to(dtype)) for one, other in layers]
        self._scale, self._middle = (
            torch.tensor(list(values), dtype=torch.float32, device=weight.device) for values in (std, mean)
        )  # each (S,)
        self._recall = None if heads.memory is None else copy.deepcopy(heads.memory).float().requires_grad_(False)
        if self._recall is None:
            states = len(weight) - len(self._scale)
            weight[states:] *= self._scale.unsqueeze(1)
            bias[states:] = bias[states:] * self._scale + self._middle
        self._last = (weight, bias)

    def __call__(self, hidden: Tensor, told: Tensor | None = None) -> Told:
        """Read last tokens ``(B, N, D)``; with recall, by the state of the frames before ``(B, S)``, in physical units."""
        features = _squeezed(self._layers, hidden.to(self.dtype))  # (B, N * token_features)
        x = F.linear(_read(self._layers, features).float(), *self._last)  # (B, bins + 1 + S)
        logits, end, state = torch.split(x, self._sizes, dim=-1)  # (B, bins), (B, 1), (B, S)
        if self._recall is not None:
            if told is not None:
                logits, end, state = self._recall(features.float(), logits, end, state, tell((told - self._middle) / self._scale))
            state = state * self._scale + self._middle  # (B, S)
        return Told(
            end, (logits.softmax(-1) * self._values).sum(-1, keepdim=True), state
        )  # a product with a matrix would mix rows' rounding


class StreamingErrorHead:
    """Gives the numbers of ``ErrorHead.chance`` but for rounding, of a head as it is now.

    Args:
        head: The head.
        dtype: Type to compute in.
    """

    def __init__(self, head: ErrorHead, *, dtype: torch.dtype = torch.float32) -> None:
        *self._layers, (weight, bias) = _layers([head.squeeze, *head.mlp], dtype)
        bias[0] += (head.mean - head.threshold) / head.spread  # above the threshold, in standard deviations of training
        self._last, self.dtype = (weight, bias), dtype

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the probability ``(B, 1)`` in 0..1 that the error is above the threshold, for last tokens ``(B, N, D)``."""
        x = F.linear(_read(self._layers, _squeezed(self._layers, hidden.to(self.dtype))), *self._last).float()  # (B, 2)
        mean, log_spread = torch.split(x, 1, dim=-1)  # each (B, 1)
        above: Tensor = torch.special.ndtr(mean * log_spread.clamp(-4, 2).neg_().exp_())  # (B, 1)
        return above


def _layers(modules: Sequence[nn.Module], dtype: torch.dtype) -> Pairs:
    """Copy weights and biases of the linear layers among modules."""
    linear = [module for module in modules if isinstance(module, nn.Linear)]
    return [(one.weight.detach().to(dtype, copy=True), one.bias.detach().to(dtype, copy=True)) for one in linear]


def _squeezed(layers: Pairs, hidden: Tensor) -> Tensor:
    """Squeeze each token by the first layer: ``(B, N, D)`` to ``(B, N * token_features)``."""
    return F.silu(F.linear(hidden, *layers[0]), inplace=True).flatten(1)  # (B, N * token_features)


def _read(layers: Pairs, x: Tensor) -> Tensor:
    """Run the other layers over what was squeezed: ``(B, N * token_features)`` to ``(B, hidden)``."""
    for layer in layers[1:]:
        x = F.silu(F.linear(x, *layer), inplace=True)  # (B, hidden)
    return x
