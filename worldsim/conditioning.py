"""What a world is told per frame: signal level, step size, action, and tags, numbers and words."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from worldsim.episode import Conditioning
from worldsim.text_encoder import TextEncoding


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
        text: How texts are embedded, in place of words; None for a world that knows words.
        pairs: Neighbouring words of the texts, ``red road``, one input each: they tell which word goes with which, as a bag of words does
            not (bags of n-grams, Joulin et al. 2017, section 2.1).
    """

    tags: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    numbers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    text: TextEncoding | None = None
    pairs: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Length of a feature vector: tags, words and pairs or text, value and presence of each number, presence of tags and of text."""
        return len(self.tags) + self._text_size + 2 * len(self.numbers) + 2

    @property
    def _text_size(self) -> int:
        return len(self.words) + len(self.pairs) if self.text is None else self.text.size

    def columns(self) -> tuple[str, ...]:
        """Name each place of a feature vector; two vocabularies that share a name mean the same by it."""
        words = [f"text {i}" for i in range(self._text_size)]
        if self.text is None:
            words = [*(f"word {word}" for word in self.words), *(f"pair {pair}" for pair in self.pairs)]
        values, known = ([f"{kind} {name}" for name in self.numbers] for kind in ("value", "known"))
        return (*(f"tag {tag}" for tag in self.tags), *words, *values, *known, "tags", "text")

    def grown(self, other: Vocabulary) -> Vocabulary:
        """Return this vocabulary and what ``other`` has besides. Numbers and texts of this one are standardised as ever.

        Raises:
            ValueError: They tell texts in different ways.
        """
        text = self._grown_text(other)
        return Vocabulary(
            tags=tuple(sorted({*self.tags, *other.tags})),
            words=tuple(sorted({*self.words, *other.words})) if text is None else (),
            numbers=dict(sorted({**other.numbers, **self.numbers}.items())),
            text=text,
            pairs=tuple(sorted({*self.pairs, *other.pairs})) if text is None else (),
        )

    def _grown_text(self, other: Vocabulary) -> TextEncoding | None:
        mine, theirs = self.text, other.text
        if theirs is not None and (self.words or (mine and (mine.encoder, mine.pooling) != (theirs.encoder, theirs.pooling))):
            known = "single words" if mine is None else f"the text encoder {mine.encoder!r}, pooling {mine.pooling!r}"
            raise ValueError(f"text_encoder={theirs.encoder!r} does not fit the world to go on from, which knows {known}: set it to null")
        return mine or theirs

    def to_json(self) -> dict[str, Any]:
        """Describe it in JSON types; ``text`` and ``pairs`` only where there are some."""
        numbers = {name: list(pair) for name, pair in self.numbers.items()}
        data: dict[str, Any] = {"tags": list(self.tags), "words": list(self.words), "numbers": numbers}
        pairs = {"pairs": list(self.pairs)} if self.pairs else {}
        return {**data, **pairs} if self.text is None else {**data, "text": self.text.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Vocabulary:
        """Build what ``to_json`` described.

        Raises:
            KeyError, TypeError: A part is missing, or of another type.
        """
        return Vocabulary(
            tags=tuple(data["tags"]),
            words=tuple(data["words"]),
            numbers={key: (value[0], value[1]) for key, value in data["numbers"].items()},
            text=None if data.get("text") is None else TextEncoding.from_json(data["text"]),
            pairs=tuple(data.get("pairs", ())),
        )

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
            pairs=tuple(sorted({pair for c in conditionings for pair in _pairs(split_words(c.text))})),
        )

    def features(self, conditioning: Conditioning) -> Tensor:
        """Encode one conditioning as ``(size,)`` float32.

        Words that the world was not trained with are left out, with a ``UserWarning`` that names them; a text encoder knows all words.

        Raises:
            ValueError: It names a tag or number that the world was not trained with, or its text needs an encoder that is not there.
        """
        self._refuse_unknown("tag", conditioning.tags, self.tags)
        text, told = self._text_features(conditioning.text)
        self._refuse_unknown("number", list(conditioning.numbers), list(self.numbers))
        tags = [float(tag in conditioning.tags) for tag in self.tags]
        values, known = [], []
        for name, (mean, std) in self.numbers.items():
            known.append(float(name in conditioning.numbers))
            values.append((conditioning.numbers[name] - mean) / std if name in conditioning.numbers else 0.0)
        return torch.tensor([*tags, *text, *values, *known, float(bool(conditioning.tags)), float(told)])

    def _text_features(self, text: str) -> tuple[list[float], bool]:
        """Return the features of a text, and whether it tells anything."""
        if self.text is None:
            words, pairs = self._known_words(text), _pairs(split_words(text))
            return [*(float(word in words) for word in self.words), *(float(pair in pairs) for pair in self.pairs)], bool(words)
        return (self.text.embed(text).tolist(), True) if text.strip() else ([0.0] * self.text.size, False)

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
        b, t, w, n = features.shape[0], len(self.tags), self._text_size, len(self.numbers)
        keep = (torch.rand(b, 2 + n, generator=generator) >= rate).float()  # (B, 2 + n)
        if whole:
            keep = keep * (torch.rand(b, 1, generator=generator) >= whole)  # (B, 2 + n)
        tags, words, numbers = keep[:, :1], keep[:, 1:2], keep[:, 2:]
        columns = [tags.expand(b, t), words.expand(b, w), numbers, numbers, tags, words]
        return features * torch.cat(columns, dim=1).to(features.device)  # (B, size)

    def thin(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Blank parts of rows ``(B, size)`` at random, so that any part of a conditioning comes alone.

        Tags, text and numbers are each left out of half the rows. Of what is left, each tag, word and number is blanked independently; a
        pair goes with either of its words, and the embedding of a text is one part. Each row has its own rate for that, uniform in 0..1.
        """
        b, t, w, n = features.shape[0], len(self.tags), self._text_size, len(self.numbers)
        parts = len(self.words) if self.text is None else 1
        rate = torch.rand(b, 1, generator=generator)  # (B, 1)
        keep = (torch.rand(b, t + parts + n, generator=generator) >= rate).to(features)  # (B, t + parts + n)
        kinds = (torch.rand(b, 3, generator=generator) < 0.5).to(features)  # (B, 3)
        tags = features[:, :t] * keep[:, :t] * kinds[:, :1]  # (B, t)
        words = features[:, t : t + w] * self._keep_text(keep[:, t : t + parts]) * kinds[:, 1:2]  # (B, w)
        numbers = features[:, t + w : t + w + 2 * n] * keep[:, t + parts :].repeat(1, 2) * kinds[:, 2:]  # (B, 2 n)
        present = [part.any(dim=1, keepdim=True).to(features) for part in (tags, words)]  # each (B, 1)
        return torch.cat((tags, words, numbers, *present), dim=1)  # (B, size)

    def _keep_text(self, keep: Tensor) -> Tensor:
        """Spread what is kept of words ``(B, words)`` over words and pairs ``(B, words + pairs)``; of an embedding ``(B, 1)`` as it is."""
        if self.text is not None:
            return keep  # (B, 1)
        places = [[self.words.index(word) for word in pair.split()] for pair in self.pairs]
        both = keep[:, torch.tensor(places, dtype=torch.int64).reshape(-1, 2)].prod(dim=2)  # (B, pairs)
        return torch.cat((keep, both), dim=1)  # (B, words + pairs)


def move_columns(weight: Tensor, old: Vocabulary, new: Vocabulary) -> Tensor:
    """Move the columns of a layer over conditions to their places in a larger vocabulary, where it gives the same for what it knew.

    Args:
        weight: ``(D, old.size)``.
        old: The vocabulary that it was trained with.
        new: The vocabulary it is to read; what ``old`` does not know is ignored at first, its columns are zero.

    Returns:
        ``(D, new.size)``.

    Raises:
        ValueError: ``new`` lacks something that ``old`` knows, or standardises it otherwise.
    """
    place = {name: i for i, name in enumerate(new.columns())}
    if lost := [name for name in old.columns() if name not in place]:
        raise ValueError(f"the world to go on from knows what is unknown here, as {lost[0]!r}: go on with a vocabulary that has it")
    texts = [] if old.text in (None, new.text) else ["texts"]
    if other := [name for name, pair in old.numbers.items() if new.numbers[name] != pair] + texts:
        raise ValueError(f"the world to go on from standardises {', '.join(other)} otherwise: go on with its statistics")
    moved = weight.new_zeros(len(weight), new.size)  # (D, new.size)
    moved[:, [place[name] for name in old.columns()]] = weight
    return moved


def split_words(text: str) -> list[str]:
    """Split a text into lower-case words."""
    return text.lower().replace(",", " ").replace(".", " ").split()


def _pairs(words: Sequence[str]) -> list[str]:
    """Join neighbouring words: ``red road``, ``road on``."""
    return [f"{one} {other}" for one, other in pairwise(words)]
