"""Recall: heads that are told the labelled state of the frame before, and so know on what frames do not show, as health or fuel.

A few frames show such numbers roughly or not at all. Told what they were, and seeing what happens, a small network says what they are now:
a recurrent state (RSSM, Hafner et al. 2019, section 3) whose numbers have names. Frames do not depend on it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LIMIT = 5.0
"""Largest size of what is told, in standard deviations of training: a state that ran away must not grow for ever."""

GAIN = -2.0
"""Logit of the gain at first."""


def tell(state: Tensor) -> Tensor:
    """Return what the next frame is told of a standardised state ``(..., S)``: the state within limits."""
    return state.clamp(-LIMIT, LIMIT)


class Recall(nn.Module):
    """Puts right what heads read of a frame by the state of the frame before.

    The state becomes ``told + gain * (read - told) + change``, as a filter's does (Kalman 1960) whose gain, and what changes by itself,
    are read from tokens; at first ``gain`` is an eighth, which goes slowly to what is read, and nothing else is added.

    Args:
        features: Numbers that heads keep of a frame's tokens.
        state_size: S.
        bins: Reward bins.
        hidden: Width of the hidden layers.
    """

    def __init__(self, features: int, *, state_size: int, bins: int, hidden: int = 128) -> None:
        super().__init__()
        self.sizes = [bins, 1, state_size, state_size]
        self.mlp = nn.Sequential(
            nn.Linear(features + 2 * state_size, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, sum(self.sizes)),
        )
        nn.init.zeros_(self.mlp.get_parameter("6.weight"))
        with torch.no_grad():
            self.mlp.get_parameter("6.bias").zero_()[bins + 1 : bins + 1 + state_size] = GAIN

    def forward(self, features: Tensor, logits: Tensor, end: Tensor, state: Tensor, told: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return reward logits, end logit and state as they are with what is told.

        Args:
            features: ``(..., features)`` of the frame's tokens.
            logits: Reward logits as read ``(..., bins)``.
            end: End logit as read ``(..., 1)``.
            state: Standardised state as read ``(..., S)``.
            told: State of the frame before ``(..., S)``, of ``tell``.
        """
        given = torch.cat((features, told, state), dim=-1)  # (..., features + 2S)
        more, ended, gain, change = self.mlp(given).split(self.sizes, dim=-1)  # (..., bins), (..., 1), (..., S), (..., S)
        return logits + more, end + ended, torch.lerp(told, state, F.sigmoid(gain)) + change
