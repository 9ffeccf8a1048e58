"""Texture: how strong the details of frames are, place by place, in the eyes of fixed random filters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOOR = 1e-4
"""Energy that is nothing, of frames in [-1, 1]: a step of 8-bit frames is 6e-5."""


class Texture(nn.Module):
    """Log energies of the responses of random filters, in windows that overlap by half, at full size, half and a quarter.

    Random filters of one layer describe textures as well as trained deep ones do (Ustyuzhaninov et al. 2017, "What does it take to
    generate natural textures?", section 3). They have no mean, so plain colours are nothing to them.

    Args:
        channels: K of what is looked at: 3 for a frame, 6 for two successive ones, whose differences then count as well.
        filters: How many a scale.
        size: Their side in pixels.
        window: Side in pixels of the squares over which energies are averaged, at each scale.
        scales: How often the size is halved, and once more.
        seed: Of the filters.
    """

    filters: Tensor

    def __init__(self, channels: int, *, filters: int = 32, size: int = 5, window: int = 8, scales: int = 3, seed: int = 0) -> None:
        super().__init__()
        drawn = torch.randn(scales, filters, channels, size, size, generator=torch.Generator().manual_seed(seed))
        drawn = drawn - drawn.mean((3, 4), keepdim=True)
        self.window = window
        self.register_buffer("filters", drawn / drawn.flatten(2).norm(dim=2)[..., None, None, None], persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Map ``(N, K, H, W)`` in [-1, 1] to ``(N, F)`` natural logarithms."""
        found, shown = list[Tensor](), frames.float()
        with torch.autocast(frames.device.type, enabled=False):  # faint detail is lost in half precision
            for filters in self.filters:
                if min(shown.shape[-2:]) < filters.shape[-1]:
                    break
                energy = F.conv2d(shown, filters).square()  # (N, filters, H', W')
                side = min(self.window, *energy.shape[-2:])
                found.append(F.avg_pool2d(energy, side, max(1, side // 2)).flatten(1))  # (N, F')
                shown = F.avg_pool2d(shown, 2)  # (N, K, H / 2, W / 2)
        return (FLOOR + torch.cat(found, dim=1)).log()  # (N, F)
