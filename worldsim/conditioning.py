"""What a world is told per frame: signal level, step size, action, and tags, numbers and words."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from worldsim.episode import Conditioning


class FourierEmbedding(nn.Module):
    """Sinusoidal embedding of a scalar in [0, 1] followed by an MLP."""

    frequencies: Tensor

    def __init__(self, width: int, *, features: int = 64, max_frequency: float = 64.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, math.log10(max_frequency), features // 2) * math.pi / 2, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, F)`` to ``(B, F, D)``."""
        angles = x.float().unsqueeze(-1) * self.frequencies  # (B, F, features/2)
        first = cast("nn.Linear", self.mlp[0])
        return self.mlp(torch.cat((angles.cos(), angles.sin()), dim=-1).to(first.weight.dtype))  # (B, F, D)


class ActionEncoder(nn.Module):
    """Embed action features; frames with no action (the first, or dropped ones) get a learned vector.

    It takes the output of ``worldsim.spaces.to_features``, so every supported Gymnasium space ends here.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        self.missing = nn.Parameter(torch.zeros(width))

    def forward(self, actions: Tensor, known: Tensor) -> Tensor:
        """Map ``(B, F, A)`` and the mask ``(B, F)`` to ``(B, F, D)``."""
        return torch.where(known.unsqueeze(-1), self.mlp(actions), self.missing.to(actions.dtype))  # (B, F, D)


@dataclass(frozen=True)
class Vocabulary:
    """The conditioning a world knows.

    Attributes:
        tags: Tag names, one input each.
        words: Words of the texts, one input each.
        numbers: Name to (mean, standard deviation) in the training data.
    """

    tags: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    numbers: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Length of a feature vector: tags, words, then value and presence of each number, then presence of tags and words."""
        return len(self.tags) + len(self.words) + 2 * len(self.numbers) + 2

    @staticmethod
    def build(conditionings: Sequence[Conditioning]) -> Vocabulary:
        """Collect the vocabulary of a dataset, sorted by name."""
        names = sorted({name for c in conditionings for name in c.numbers})
        numbers: dict[str, tuple[float, float]] = {}
        for name in names:
            values = torch.tensor([c.numbers[name] for c in conditionings if name in c.numbers], dtype=torch.float64)
            numbers[name] = (float(values.mean()), float(values.std(unbiased=False).clamp(min=1e-6)))
        return Vocabulary(
            tags=tuple(sorted({tag for c in conditionings for tag in c.tags})),
            words=tuple(sorted({word for c in conditionings for word in split_words(c.text)})),
            numbers=numbers,
        )

    def features(self, conditioning: Conditioning) -> Tensor:
        """Encode one conditioning as ``(size,)`` float32.

        Words that the world was not trained with are left out, with a ``UserWarning`` that names them.

        Raises:
            ValueError: It names a tag or number that the world was not trained with.
        """
        self._refuse_unknown("tag", conditioning.tags, self.tags)
        words = self._known_words(conditioning.text)
        self._refuse_unknown("number", list(conditioning.numbers), list(self.numbers))
        tags = [float(tag in conditioning.tags) for tag in self.tags]
        text = [float(word in words) for word in self.words]
        values, known = [], []
        for name, (mean, std) in self.numbers.items():
            known.append(float(name in conditioning.numbers))
            values.append((conditioning.numbers[name] - mean) / std if name in conditioning.numbers else 0.0)
        return torch.tensor([*tags, *text, *values, *known, float(bool(conditioning.tags)), float(bool(words))])

    def _known_words(self, text: str) -> list[str]:
        words = split_words(text)
        if unknown := [word for word in dict.fromkeys(words) if word not in self.words]:
            known = ", ".join(self.words) or "none"
            warnings.warn(f"conditioning words {', '.join(unknown)} are unknown to this world and left out: it knows {known}", stacklevel=3)
        return [word for word in words if word in self.words]

    def _refuse_unknown(self, kind: str, given: Sequence[str], known: Sequence[str]) -> None:
        for name in given:
            if name not in known:
                raise ValueError(f"conditioning {kind} {name!r} is unknown to this world: it was trained with {sorted(known) or 'none'}")

    def drop(self, features: Tensor, generator: torch.Generator, *, rate: float, whole: float = 0.0) -> Tensor:
        """Blank tags, words and each number of rows ``(B, size)`` independently with probability ``rate``, whole rows with ``whole``."""
        b, t, w, n = features.shape[0], len(self.tags), len(self.words), len(self.numbers)
        keep = (torch.rand(b, 2 + n, generator=generator) >= rate).float()  # (B, 2 + n)
        if whole:
            keep = keep * (torch.rand(b, 1, generator=generator) >= whole)  # (B, 2 + n)
        tags, words, numbers = keep[:, :1], keep[:, 1:2], keep[:, 2:]
        columns = [tags.expand(b, t), words.expand(b, w), numbers, numbers, tags, words]
        return features * torch.cat(columns, dim=1).to(features.device)  # (B, size)

    def thin(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Blank each tag, word and number of rows ``(B, size)`` independently, so that any part of a conditioning comes alone.

        Each row has its own rate, uniform in 0..1.25 and at most 1: a fifth of the rows are told nothing.
        """
        b, t, w, n = features.shape[0], len(self.tags), len(self.words), len(self.numbers)
        rate = torch.rand(b, 1, generator=generator) * 1.25  # (B, 1)
        keep = (torch.rand(b, t + w + n, generator=generator) >= rate).to(features)  # (B, t + w + n)
        tags, words = features[:, :t] * keep[:, :t], features[:, t : t + w] * keep[:, t : t + w]
        numbers = features[:, t + w : t + w + 2 * n] * keep[:, t + w :].repeat(1, 2)  # (B, 2 n)
        present = [part.any(dim=1, keepdim=True).to(features) for part in (tags, words)]  # each (B, 1)
        return torch.cat((tags, words, numbers, *present), dim=1)  # (B, size)


def split_words(text: str) -> list[str]:
    """Split a text into lower-case words."""
    return text.lower().replace(",", " ").replace(".", " ").split()
