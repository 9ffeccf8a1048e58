"""A critic of frames: learns to tell decoded estimates from decoded truth, so that training keeps estimates from going blurred."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMOOTHING = 0.05
"""Standard deviation of the noise under which opinions are to hold still, frames in [-1, 1]."""


class Critic(nn.Module):
    """Opinions of patches and of the whole of a frame.

    Args:
        widths: Channels of the strided convolutions, each halving height and width.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        sizes = (3, *widths)
        self.layers = nn.ModuleList(nn.Conv2d(sizes[i], sizes[i + 1], 4, 2, 1) for i in range(len(widths)))
        self.patch = nn.Conv2d(widths[-1], 1, 1)
        self.whole = nn.Linear(widths[-1], 1)

    def forward(self, frames: Tensor, *, frozen: bool = False) -> Tensor:
        """Return opinions ``(N, P + 1)`` of frames ``(N, 3, H, W)``, higher where they look real: P of patches, then that of the whole.

        Args:
            frames: In [-1, 1].
            frozen: Pass gradients to the frames alone, not to the critic.
        """
        x = frames
        for layer in self.layers:
            weight, bias = _own(layer, frozen)
            x = F.silu(F.conv2d(x, weight, bias, stride=2, padding=1))  # (N, width, H', W')
        patches = F.conv2d(x, *_own(self.patch, frozen)).flatten(1)  # (N, P)
        whole = F.linear(F.silu(x).mean((2, 3)), *_own(self.whole, frozen))  # (N, 1)
        return torch.cat((patches, whole), dim=1)  # (N, P + 1)


def _own(layer: nn.Module, frozen: bool) -> tuple[Tensor, Tensor]:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    return (weight.detach(), bias.detach()) if frozen else (weight, bias)


def critic_losses(critic: Critic, made: Tensor, truth: Tensor, noise: Tensor, *, smoothing: float = 0.01) -> tuple[Tensor, Tensor]:
    """Return what the frames and what the critic are to lower, both relativistic (Jolicoeur-Martineau 2018, section 4.1).

    Each estimate is compared with the truth of its own step. The critic's opinions are kept from changing under small noise, which
    stands in for R1 and R2 gradient penalties (Lin et al. 2025, Diffusion Adversarial Post-Training, equation 6).

    Args:
        critic: Critic.
        made: Estimates ``(N, 3, H, W)``.
        truth: What they should be, likewise.
        noise: Standard normal, likewise.
        smoothing: Weight of the penalty.
    """
    frames = F.softplus(critic(truth, frozen=True) - critic(made, frozen=True)).mean()
    seen = torch.cat((made.detach(), truth))  # (2 N, 3, H, W)
    opinions = critic(torch.cat((seen, seen + SMOOTHING * torch.cat((noise, noise)))))  # (4 N, P + 1)
    clean, noisy = opinions.chunk(2)  # each (2 N, P + 1)
    of_made, of_truth = clean.chunk(2)  # each (N, P + 1)
    penalty = ((noisy - clean) / SMOOTHING).square().mean()
    return frames, F.softplus(of_made - of_truth).mean() + smoothing * penalty
