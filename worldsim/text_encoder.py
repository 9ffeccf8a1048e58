"""Texts as embeddings of a pretrained encoder: any text model of Hugging Face's ``transformers``, loaded when a text is first met."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

POOLINGS = ("mean", "first")
_LONGEST = 512  # tokens of a text that are read, where a model says nothing of it
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")  # of a folder, that its hash is taken over


@dataclass(frozen=True)
class TextEncoding:
    """How a world's texts become numbers.

    Attributes:
        encoder: Hub id or folder of the model.
        revision: Commit on the Hub, or ``sha256:`` and the hash over the folder's files.
        pooling: ``mean`` of the last hidden states of a text's tokens, or the ``first`` of them.
        center: Mean embedding of the training data's texts, D numbers.
        scale: Root mean square of what their embeddings differ from it by.
    """

    encoder: str
    revision: str
    pooling: str
    center: tuple[float, ...]
    scale: float

    @property
    def size(self) -> int:
        """D."""
        return len(self.center)

    def embed(self, text: str) -> Tensor:
        """Return the standardised embedding of ``text``, ``(D,)`` float32 on the CPU.

        Raises:
            ValueError: The encoder cannot be loaded, or is not what it was in training.
        """
        return (_embed(self.encoder, self.revision, self.pooling, text) - torch.tensor(self.center)) / self.scale  # (D,)

    def to_json(self) -> dict[str, Any]:
        """Describe it in JSON types."""
        return {**asdict(self), "center": list(self.center)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TextEncoding:
        """Build what ``to_json`` described."""
        center = tuple(map(float, data["center"]))
        return TextEncoding(str(data["encoder"]), str(data["revision"]), str(data["pooling"]), center, float(data["scale"]))


def fit_encoding(encoder: str, texts: Sequence[str], *, pooling: str = "mean") -> TextEncoding:
    """Choose center and scale by the texts of a dataset; how often one occurs does not matter.

    Args:
        encoder: Hub id or folder.
        texts: The texts; empty ones do not count.
        pooling: ``mean`` or ``first``.

    Raises:
        ValueError: The pooling is unknown, there is no text, or the encoder cannot be loaded.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"text_encoder.pooling={pooling!r} is unknown: use {' or '.join(map(repr, POOLINGS))}")
    told = sorted({text for text in texts if text.strip()})
    if not told:
        raise ValueError(f"text_encoder.name={encoder!r} has nothing to read: no episode of the dataset has a text; set text_encoder=null")
    revision = _open(encoder, "").revision
    rows = torch.stack([_embed(encoder, revision, pooling, text) for text in told]).double()  # (texts, D)
    center = rows.mean(0)  # (D,)
    spread = (rows - center).square().mean().sqrt()
    scale = max(float(spread), 0.01 * float(rows.square().mean().sqrt()), 1e-6)  # a single text has no spread
    return TextEncoding(encoder, revision, pooling, tuple(center.float().tolist()), scale)


@dataclass(frozen=True)
class _Loaded:
    """A model in memory, its tokenizer, and which version of it this is."""

    model: Any
    tokenizer: Any
    revision: str


@lru_cache(maxsize=4096)
def _embed(encoder: str, revision: str, pooling: str, text: str) -> Tensor:
    """Return the pooled embedding ``(D,)`` float32."""
    loaded = _open(encoder, revision)
    own: Any = loaded.model.config
    longest = min(loaded.tokenizer.model_max_length, getattr(own, "max_position_embeddings", _LONGEST), _LONGEST)
    tokens = loaded.tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
    with torch.inference_mode():
        hidden = loaded.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state[0]  # (tokens, D)
        pooled: Tensor = hidden.mean(0) if pooling == "mean" else hidden[0]  # (D,)
    return pooled.float().clone()


_LOADED: dict[tuple[str, str], _Loaded] = {}
"""Encoders by name and revision."""


def _open(encoder: str, revision: str) -> _Loaded:
    """Return an encoder, loaded once a process; ``revision`` is the one that it must be, or empty for the newest."""
    if (encoder, revision) in _LOADED:
        return _LOADED[encoder, revision]
    folder = Path(encoder)
    found = _hash(folder) if folder.is_dir() else ""
    if found and revision not in ("", found):
        raise ValueError(f"text encoder {encoder!r} is not the one that the world was trained with: its files have changed; restore them")
    if (encoder, found) not in _LOADED:
        loaded = _load(encoder, found, revision)
        _LOADED[encoder, loaded.revision] = loaded
        return loaded
    return _LOADED[encoder, found]


def _load(encoder: str, found: str, revision: str) -> _Loaded:
    """Load from the folder whose hash is ``found``, or, where that is empty, ``revision`` from the Hub."""
    transformers = _need(encoder)
    version: Any = {} if found or not revision else {"revision": revision}
    try:
        with torch.random.fork_rng(devices=[]):  # parts without weights, as poolers, are drawn: nobody else's numbers
            tokenizer = transformers.AutoTokenizer.from_pretrained(encoder, trust_remote_code=False, **version)
            model = transformers.AutoModel.from_pretrained(encoder, trust_remote_code=False, use_safetensors=True, **version)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"text encoder {encoder!r} cannot be loaded: name a folder or Hub model of transformers with safetensors weights ({reason})"
        ) from error
    return _Loaded(_reader(model).float().eval().requires_grad_(False), tokenizer, found or str(model.config._commit_hash or ""))


def _need(encoder: str) -> Any:
    try:
        return import_module("transformers")
    except ImportError as error:
        raise ValueError(f"text encoder {encoder!r} needs transformers: run pip install 'worldsim-gym[text]' ({error})") from error


def _reader(model: Any) -> Any:
    """Return the part of a model that reads texts: the encoder of a translator, the text side of an image-text pair."""
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder()
    return getattr(model, "text_model", model)


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted({file for pattern in _FILES for file in folder.glob(pattern)}):
        digest.update(file.name.encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return f"sha256:{digest.hexdigest()}"
