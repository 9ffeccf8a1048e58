"""Exponential moving average of weights, with a warm-up so that early averages are young."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """EMA over parameters; buffers are copied.

    Args:
        model: The model to follow.
        decay: Largest decay; at step t it is ``min(decay, (1 + t) / (10 + t))``.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.tensors: dict[str, Tensor] = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the averages toward ``model`` after optimiser step ``step``."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        averaged, live = [], []
        for name, value in model.state_dict().items():
            if value.is_floating_point() and "running_" not in name:
                averaged.append(self.tensors[name])
                live.append(value)
            else:
                self.tensors[name].copy_(value)
        torch._foreach_lerp_(averaged, live, weight)  # pyright: ignore[reportPrivateImportUsage]
