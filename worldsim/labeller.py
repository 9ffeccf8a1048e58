"""Labeller: what each pixel of a frame shows, decoded from the latents that the frame is decoded from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.tokenizer import ResidualBlock

NAME = "labels"
"""Folder of the labeller in a world."""
SEGMENTATION = "segmentation"
"""Name of what it tells, in ``info``, in episodes and in datasets."""


class Labeller(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Decodes latents to a class for each pixel: segmentation as a decoder head, as in U-Net (Ronneberger et al. 2015) without skips.

    It is learned from real frames of a source that draws its own segmentation, with noise on their latents, so that it can read those
    of imagined frames, which are never quite right.

    Args:
        latent_shape: ``(C, h, w)``.
        frame_size: ``(H, W)``, h and w times the same power of two, at least 2.
        classes: Names of the K classes, at least 2.
        widths: Channels at h x w, at twice that, and so on; the last ones stay as they are up to half the frame's size.
    """

    @register_to_config
    def __init__(
        self, *, latent_shape: Sequence[int], frame_size: Sequence[int], classes: Sequence[str], widths: Sequence[int] = (64, 32, 24)
    ) -> None:
        super().__init__()
        channels, height, width = latent_shape
        factor = frame_size[0] // height
        if factor < 2 or factor & (factor - 1) or (height * factor, width * factor) != tuple(frame_size):
            size = f"{frame_size[0]}x{frame_size[1]}"
            raise ValueError(
                f"frames of {size} are not latents of {height}x{width} times a power of two: a labeller needs a tokenizer that halves"
            )
        if len(classes) < 2:
            raise ValueError(f"classes={list(classes)} must name 2 or more: there is nothing to tell apart")
        self.classes = tuple(classes)
        levels = int(math.log2(factor))
        each = [widths[min(level, len(widths) - 1)] for level in range(levels)]
        layers: list[nn.Module] = [nn.Conv2d(channels, each[0], 3, padding=1)]
        for level, own in enumerate(each):
            if level:
                layers += [nn.Conv2d(each[level - 1], 4 * own, 1), nn.PixelShuffle(2)]
            layers += [ResidualBlock(own)] if level < levels - 1 or levels == 1 else []
        self.layers = nn.Sequential(*layers, nn.GroupNorm(8, each[-1]), nn.SiLU(), nn.Conv2d(each[-1], 4 * len(classes), 3, padding=1))

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents ``(N, C, h, w)`` to logits ``(N, K, H, W)`` of the classes."""
        return F.pixel_shuffle(self.layers(latents), 2)  # (N, K, H, W)

    def classify(self, latents: Tensor) -> Tensor:
        """Map latents ``(N, C, h, w)`` to the likeliest class of each pixel, ``(N, H, W)`` uint8."""
        return self(latents).argmax(1).to(torch.uint8)  # (N, H, W)
