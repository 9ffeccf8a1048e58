"""Heads on the clean-context pass: reward, continue, and the source's labelled state. They cost no extra forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.recall import Recall


def symlog(x: Tensor) -> Tensor:
    """Compress a scalar of any size: ``sign(x) log(1 + |x|)`` (DreamerV3, Hafner et al. 2023, equation 1)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Undo ``symlog``."""
    return x.sign() * x.abs().expm1()


@dataclass(frozen=True)
class Readings:
    """What the heads read of F frames.

    Attributes:
        reward: ``(B, F)`` expected reward of the step that led to the frame.
        reward_logits: ``(B, F, bins)``.
        end_logit: ``(B, F)`` logit of that step having terminated the episode.
        state: ``(B, F, S)`` standardised labelled state of the frame.
    """

    reward: Tensor
    reward_logits: Tensor
    end_logit: Tensor
    state: Tensor


class Heads(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Reads reward, end and state from a frame's tokens.

    The reward is a distribution over bins at ``symexp`` of an even grid, trained against a two-hot target (DreamerV3, section 3).

    Args:
        tokens: N tokens of a frame.
        width: D.
        state_size: S.
        bins: Reward bins.
        reward_limit: Largest size of ``symlog(reward)``.
        token_features: Numbers kept of each token.
        hidden: Width of the hidden layer.
        recall: Whether they are told the state of the frame before (``worldsim.recall``).
    """

    grid: Tensor

    @register_to_config
    def __init__(
        self,
        *,
        tokens: int,
        width: int,
        state_size: int,
        bins: int = 63,
        reward_limit: float = 5.0,
        token_features: int = 16,
        hidden: int = 256,
        recall: bool = False,
    ) -> None:
        super().__init__()
        self.sizes = (bins, 1, state_size)
        self.squeeze = nn.Linear(width, token_features)
        self.mlp = nn.Sequential(
            nn.Linear(tokens * token_features, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, sum(self.sizes))
        )
        self.register_buffer("grid", torch.linspace(-reward_limit, reward_limit, bins), persistent=False)
        nn.init.zeros_(self.mlp.get_parameter("4.weight"))
        self.memory = Recall(tokens * token_features, state_size=state_size, bins=bins) if recall else None

    def forward(self, hidden: Tensor, told: Tensor | None = None) -> Readings:
        """Read ``hidden (B, F, N, D)``; with recall, also by the state of each frame before as told, ``(B, F, S)``, where it is known."""
        features, logits, end, state = self.look(hidden)
        if self.memory is not None and told is not None:
            logits, end, state = self.memory(features, logits, end, state, told)
        reward = (logits.softmax(-1) * symexp(self.grid)).sum(-1)  # (B, F)
        return Readings(reward, logits, end.squeeze(-1), state)

    def look(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Read tokens ``(B, F, N, D)`` alone: their features, reward logits, end logit ``(B, F, 1)`` and state, what recall starts from."""
        features = F.silu(self.squeeze(hidden)).flatten(2)  # (B, F, N * token_features)
        logits, end, state = self.mlp(features).float().split(self.sizes, dim=-1)  # (B, F, bins), (B, F, 1), (B, F, S)
        return features.float(), logits, end, state

    def without_recall(self) -> Heads:
        """Return these heads without recall, on the same device."""
        plain: Any = Heads(**{**self.config, "recall": False})
        plain.load_state_dict({name: value for name, value in self.state_dict().items() if not name.startswith("memory.")})
        made: Heads = plain.to(self.grid.device).eval()
        return made

    def two_hot(self, reward: Tensor) -> Tensor:
        """Spread rewards ``(B, F)`` over the two nearest bins so that their expectation is the reward; ``(B, F, bins)``."""
        values = symexp(self.grid)
        reward = reward.clamp(values[0], values[-1])
        upper = torch.searchsorted(values, reward.contiguous()).clamp(1, len(values) - 1)
        share = (reward - values[upper - 1]) / (values[upper] - values[upper - 1])
        hot = torch.zeros(*reward.shape, len(values), device=reward.device)
        return hot.scatter(-1, (upper - 1).unsqueeze(-1), (1 - share).unsqueeze(-1)).scatter(-1, upper.unsqueeze(-1), share.unsqueeze(-1))
