"""Memory: a ring of the rotated temporal keys and values of the newest frames, for every block of an OasisDiT."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerMemory:
    """The part of a memory that one block writes and reads.

    Attributes:
        keys: ``(B*N, heads, W, d)``.
        values: Likewise.
        slot: Where the next frame goes.
        held: Frames that a frame in that slot sees, itself among them.
    """

    keys: Tensor
    values: Tensor
    slot: int
    held: int

    def write(self, keys: Tensor, values: Tensor) -> None:
        """Put keys and values ``(B*N, heads, T, d)`` into the T slots from ``slot`` on."""
        self.keys.narrow(2, self.slot, keys.shape[2]).copy_(keys)
        self.values.narrow(2, self.slot, keys.shape[2]).copy_(values)

    def read(self) -> tuple[Tensor, Tensor]:
        """Return the keys and values ``(B*N, heads, held, d)``, in no particular order of frames."""
        return self.keys[:, :, : self.held], self.values[:, :, : self.held]


@dataclass
class Memory:
    """W frames of keys and values, those of the frame that is being made among them.

    The frame at ``position`` may be written again and again, as its noise falls; ``advance`` makes it the past. Keys are rotated
    at absolute frame numbers and never again: attention sees only differences of positions. The frame W behind is written over.

    Attributes:
        keys: ``(depth, B*N, heads, W, d)``.
        values: Likewise.
        position: Number of the next frame.
    """

    keys: Tensor
    values: Tensor
    position: int = 0

    @staticmethod
    def empty(
        *, depth: int, rows: int, tokens: int, heads: int, window: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> Memory:
        """Return one that holds nothing, of B ``rows`` with N ``tokens`` a frame."""
        shape = (depth, rows * tokens, heads, window, head_dim)
        return Memory(torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype))

    @property
    def window(self) -> int:
        """W."""
        return self.keys.shape[3]

    def layer(self, index: int) -> LayerMemory:
        """Return what block ``index`` writes and reads."""
        held = min(self.position + 1, self.window)
        return LayerMemory(self.keys[index], self.values[index], self.position % self.window, held)

    def advance(self, frames: int = 1) -> None:
        """Go on by ``frames`` frames that have been written."""
        self.position += frames

    def clear(self) -> None:
        """Hold nothing, from frame 0 on."""
        self.position = 0

    def clone(self) -> Memory:
        """Return a copy that shares nothing."""
        return replace(self, keys=self.keys.clone(), values=self.values.clone())
