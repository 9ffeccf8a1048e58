"""Noise that tells what cannot be foreseen: a frame's starting noise, drawn with its truth in sight while a world is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRICE = 0.01
"""Loss for each nat beyond those that are free: so high that hardly any are bought."""

CHANGE = 0.5
"""Share of the change since the frame before that noise tells from the first step on: a network that has learned to take no notice of noise
and a posterior that tells nothing would teach each other nothing."""


class Posterior(nn.Module):
    """Draws the noise that a network makes a frame of from the frame itself, near a standard normal one.

    A network that makes frames of plain noise in one step learns the mean of all that is possible, and a mean of many roads is grass. Here
    the noise tells, in a few nats, which of them it was; in a rollout it is plain again, and chooses one. This is a conditional
    variational autoencoder (Sohn et al. 2015, equation 4) with a fixed prior (SVG-FP, Denton and Fergus 2018, section 3), whose latent is
    the noise of the sampler, so that nothing of a rollout changes.

    Args:
        channels: C of the latents.
        history: Frames before it that it sees.
        action_features: A.
        width: Channels inside.
    """

    def __init__(self, *, channels: int, history: int, action_features: int, width: int = 96) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels * (1 + history), width, 3, padding=1)
        self.action = nn.Linear(action_features, width)
        self.local, self.whole = nn.Conv2d(width, width, 3, padding=1), nn.Linear(width, width)
        self.last = nn.Conv2d(width, 2 * channels, 3, padding=1)
        self.change = nn.Parameter(torch.full((channels, 1, 1), CHANGE))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.get_parameter("bias"))

    def forward(self, truth: Tensor, past: Tensor, actions: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw noise, and say what it tells.

        Args:
            truth: Frames that are to be made ``(B, F, C, h, w)``.
            past: Frames before each ``(B, F, H*C, h, w)``, as the network looks back at them.
            actions: Features ``(B, F, A)`` of the action that led to each.
            noise: Standard normal ``(B, F, C, h, w)``.

        Returns:
            Noise ``(B, F, C, h, w)``, and the divergence ``(B, F)`` in nats of what it was drawn from to a standard normal distribution.
        """
        channels = truth.shape[2]
        change = truth - past[:, :, :channels] if past.shape[2] else truth  # (B, F, C, h, w)
        seen = torch.cat((change, past), dim=2).flatten(0, 1)  # (B*F, (1+H)*C, h, w)
        x = F.silu(self.first(seen) + self.action(actions).flatten(0, 1)[..., None, None])  # (B*F, width, h, w)
        x = F.silu(self.local(x) + self.whole(x.mean((2, 3)))[..., None, None])  # (B*F, width, h, w)
        mean, log_std = self.last(x).float().unflatten(0, truth.shape[:2]).chunk(2, dim=2)  # each (B, F, C, h, w)
        mean = mean + self.change * change  # (B, F, C, h, w)
        log_std = 3 * torch.tanh(log_std / 3)  # (B, F, C, h, w)
        nats = (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum((2, 3, 4)) / 2  # (B, F)
        return mean + log_std.exp() * noise, nats
