"""Contexts: the real frames and actions that rollouts start from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from worldsim.episode import Conditioning
from worldsim.files import save_tensors

FILE = "contexts.safetensors"


@dataclass(frozen=True)
class Context:
    """One start: frames, the actions between them, and what the world is told.

    Attributes:
        frames: ``(F, H, W, 3)`` uint8, at least one.
        actions: ``(F - 1, A)`` rows of the action space.
        conditioning: Tags, numbers and text.
        name: Where it comes from, for people.
        state: ``(S,)`` float32 labelled state of the last frame in the source's units, where it is known. A world whose heads have recall
            begins from it; the others read it from frames.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[Any]
    conditioning: Conditioning = field(default_factory=Conditioning)
    name: str = ""
    state: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Refuse frames that are no frames and actions that do not lie between them."""
        if self.frames.ndim != 4 or self.frames.dtype != np.uint8 or self.frames.shape[-1] != 3 or not len(self.frames):
            raise ValueError(f"context frames must be uint8 of shape (F, H, W, 3) with F >= 1, got {self.frames.dtype} {self.frames.shape}")
        if len(self.actions) != len(self.frames) - 1:
            raise ValueError(
                f"context has {len(self.frames)} frames and {len(self.actions)} actions: it needs one action between two frames"
            )


@dataclass(frozen=True)
class Contexts:
    """The start contexts that ship with a world, all of one length."""

    items: Sequence[Context]

    def __len__(self) -> int:
        """Number of contexts."""
        return len(self.items)

    def __iter__(self) -> Iterator[Context]:
        """Go through all of them."""
        return iter(self.items)

    def __getitem__(self, index: int) -> Context:
        """Return one context.

        Raises:
            ValueError: There is no such context.
        """
        if not 0 <= index < len(self.items):
            raise ValueError(f"start context {index} does not exist: this world ships contexts 0..{len(self.items) - 1}")
        return self.items[index]

    def save(self, folder: Path) -> None:
        """Write ``contexts.safetensors``; nothing where there are none.

        Raises:
            ValueError: They are not all of one length, or the disk refuses.
        """
        if not self.items:
            return
        lengths = [len(item.frames) for item in self.items]
        if len(set(lengths)) > 1:
            raise ValueError(f"start contexts have {min(lengths)} to {max(lengths)} frames: they must all be of one length")
        notes = [{"conditioning": item.conditioning.to_json(), "name": item.name} for item in self.items]
        arrays = {"frames": np.stack([item.frames for item in self.items]), "actions": np.stack([item.actions for item in self.items])}
        states = [item.state for item in self.items if item.state is not None]
        if len(states) == len(self.items):
            arrays["state"] = np.stack(states).astype(np.float32)  # (contexts, S)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        save_tensors(tensors, folder / FILE, metadata={"contexts": json.dumps(notes)})

    @staticmethod
    def load(folder: Path) -> Contexts:
        """Read ``contexts.safetensors``; a world without it has no contexts.

        Raises:
            ValueError: The file is damaged.
        """
        file = folder / FILE
        if not file.exists():
            return Contexts(())
        try:
            with safe_open(file, "numpy") as handle:
                frames, actions = handle.get_tensor("frames"), handle.get_tensor("actions")
                known = "state" in set(handle.keys())
                states = handle.get_tensor("state") if known else [None] * len(frames)
                notes = json.loads(handle.metadata()["contexts"])
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(
                f"start contexts {file} are truncated or damaged ({error}): restore the file from a copy of the checkpoint"
            ) from error
        return Contexts(
            tuple(
                Context(f, a, Conditioning.from_json(n["conditioning"]), n["name"], s)
                for f, a, n, s in zip(frames, actions, notes, states, strict=True)
            )
        )
