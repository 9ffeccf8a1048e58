"""ErrorHead: how far a made frame probably is from the truth, read from the tokens that made it."""

from __future__ import annotations

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

NAME = "uncertainty"
"""Folder of the head in a world, and its name in ``info`` and in datasets."""


class ErrorHead(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Foretells the error of a made frame as a normal distribution of its logarithm.

    It is learned from rollouts of the finished world beside what really happened (loss prediction: Yoo and Kweon 2019, section 3;
    likelihood: Kendall and Gal 2017, equation 5), so it knows the drift of long rollouts as well as hard scenes. Errors are
    log10 of the mean squared error of pixels in 0..255.

    Args:
        tokens: N tokens of a frame.
        width: D.
        mean: Mean error in training.
        spread: Standard deviation of the errors in training.
        threshold: Error that ``chance`` is about: the 90th percentile in training.
        token_features: Numbers kept of each token.
        hidden: Width of the hidden layers.
        dropout: Share of numbers left out in training.
    """

    @register_to_config
    def __init__(
        self,
        *,
        tokens: int,
        width: int,
        mean: float = 0.0,
        spread: float = 1.0,
        threshold: float = 0.0,
        token_features: int = 16,
        hidden: int = 128,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.mean, self.spread, self.threshold = mean, spread, threshold
        self.squeeze = nn.Linear(width, token_features)
        self.mlp = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(tokens * token_features, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2),
        )

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens ``(..., N, D)`` to mean and standard deviation of the error, each ``(...)``."""
        x = self.mlp(F.silu(self.squeeze(hidden)).flatten(-2)).float()  # (..., 2)
        mean, log_spread = x.unbind(-1)  # each (...)
        return self.mean + self.spread * mean, self.spread * log_spread.clamp(-4, 2).exp()

    def chance(self, hidden: Tensor) -> Tensor:
        """Return the probability ``(...)`` in 0..1 that the error is above ``threshold``, for tokens ``(..., N, D)``."""
        mean, spread = self(hidden)
        above: Tensor = torch.special.ndtr((mean - self.threshold) / spread)  # (...)
        return above


def likelihood_loss(mean: Tensor, spread: Tensor, errors: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of ``errors (N,)`` under normal distributions (Kendall and Gal 2017, equation 5)."""
    return (0.5 * ((errors - mean) / spread).square() + spread.log()).mean() + 0.5 * math.log(2 * math.pi)
