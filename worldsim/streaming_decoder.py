"""StreamingDecoder: the decoder of a ``FrameAutoencoder``, run in the memory layout and the few buffers that are fastest."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import convert_conv2d_weight_memory_format

from worldsim.tokenizer import FrameAutoencoder, ResidualBlock


class StreamingDecoder:
    """Gives the numbers of ``FrameAutoencoder.decode`` but for rounding, with channels last in memory and activations in place.

    The weights are copied here, once. It does not follow changes made to the autoencoder later.

    Args:
        tokenizer: The autoencoder.
        dtype: Type to compute in.
    """

    def __init__(self, tokenizer: FrameAutoencoder, *, dtype: torch.dtype = torch.float32) -> None:
        decoder = deepcopy(tokenizer.decoder).to(dtype).requires_grad_(False)
        convert_conv2d_weight_memory_format(decoder, torch.channels_last)
        self._layers: list[Any] = list(decoder)

    def __call__(self, latents: Tensor) -> Tensor:
        """Map latents ``(N, C, h, w)`` of the type to frames ``(N, 3, H, W)``, which are the caller's to write into."""
        x = latents.contiguous(memory_format=torch.channels_last)  # (N, C, h, w)
        for layer in self._layers:
            x = _residual(layer, x) if isinstance(layer, ResidualBlock) else _activated(layer, x)
        return x  # (N, 3, H, W)


def _residual(block: ResidualBlock, x: Tensor) -> Tensor:
    y = block.conv1(F.silu(block.norm1(x), inplace=True))  # (N, C, h, w)
    y = block.conv2(F.silu(block.norm2(y), inplace=True))  # (N, C, h, w)
    made: Tensor = y.add_(x)  # (N, C, h, w)
    return made


def _activated(layer: nn.Module, x: Tensor) -> Tensor:
    """Run a layer; what comes before an activation is of use to nobody else."""
    made: Tensor = F.silu(x, inplace=True) if isinstance(layer, nn.SiLU) else layer(x)
    return made
