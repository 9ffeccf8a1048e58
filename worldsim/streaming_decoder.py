"""StreamingDecoder: the decoder of a ``FrameAutoencoder``, run in the memory layout and the few buffers that are fastest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.tokenizer import FrameAutoencoder, Grain, ResidualBlock

Operation = Callable[[Tensor], Tensor]


class StreamingDecoder:
    """Gives the numbers of ``FrameAutoencoder.decode`` but for rounding, with channels last in memory and activations in place.

    The weights are copied here, once. It does not follow changes made to the autoencoder later.

    Args:
        tokenizer: The autoencoder.
        dtype: Type to compute in.
    """

    def __init__(self, tokenizer: FrameAutoencoder, *, dtype: torch.dtype = torch.float32) -> None:
        layers = tokenizer.decoder if tokenizer.add_grain is None else [tokenizer.add_grain, *tokenizer.decoder]
        self._operations = [_operation(layer, dtype) for layer in layers]

    def __call__(self, latents: Tensor) -> Tensor:
        """Map latents ``(N, C, h, w)`` of the type to frames ``(N, 3, H, W)``, which are the caller's to write into."""
        x = latents.contiguous(memory_format=torch.channels_last)  # (N, C, h, w)
        for operation in self._operations:
            x = operation(x)
        return x  # (N, 3, H, W)


def _operation(layer: nn.Module, dtype: torch.dtype) -> Operation:
    """Return what a layer does, with weights of its own; what comes before an activation is of use to nobody else."""
    if isinstance(layer, ResidualBlock):
        norm1, conv1, norm2, conv2 = (_operation(part, dtype) for part in (layer.norm1, layer.conv1, layer.norm2, layer.conv2))
        return partial(_residual, norm1, conv1, norm2, conv2)
    if isinstance(layer, nn.SiLU):
        return partial(F.silu, inplace=True)
    if isinstance(layer, nn.PixelShuffle):
        return partial(F.pixel_shuffle, upscale_factor=layer.upscale_factor)
    if isinstance(layer, Grain):
        return partial(torch.add, (layer.strength * layer.noise).detach().to(dtype))
    assert isinstance(layer, nn.Conv2d | nn.GroupNorm), layer
    assert layer.bias is not None
    weight, bias = (one.detach().to(dtype, copy=True) for one in (layer.weight, layer.bias))
    if isinstance(layer, nn.Conv2d):
        weight = weight.contiguous(memory_format=torch.channels_last)  # (out, in, kh, kw)
        return partial(F.conv2d, weight=weight, bias=bias, stride=layer.stride, padding=layer.padding)
    groups, eps = layer.num_groups, layer.eps
    return lambda x: torch.group_norm(x, groups, weight, bias, eps)


def _residual(norm1: Operation, conv1: Operation, norm2: Operation, conv2: Operation, x: Tensor) -> Tensor:
    y = conv1(F.silu(norm1(x), inplace=True))  # (N, C, h, w)
    y = conv2(F.silu(norm2(y), inplace=True))  # (N, C, h, w)
    return y.add_(x)  # (N, C, h, w)
