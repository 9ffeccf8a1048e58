"""Actions as tensors: checked and turned into features without leaving the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor
from torch.nn.functional import one_hot

from worldsim.spaces import is_integer, rest_action, row_size, to_features, to_row


class TensorActions:
    """What ``action_rows`` and ``to_features`` do, for tensors on ``device``.

    Args:
        space: The space of one action.
        device: Where the features are wanted.
        check: Whether values are looked at, which waits for the device; shapes and types are always looked at.
    """

    def __init__(self, space: Space[Any], device: torch.device, *, check: bool = True) -> None:
        self.space, self.device, self.check = space, device, check
        self.width, self.whole = row_size(space), is_integer(space)
        low, high = _bounds(space)
        self.low, self.high = (torch.as_tensor(edge, dtype=torch.float32, device=device) for edge in (low, high))
        self.rest = torch.as_tensor(to_row(space, rest_action(space)), device=device)  # (A,)
        self.sizes = (high - low + 1).astype(int).tolist() if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else None
        if self.sizes is None:
            self.middle, self.half = (torch.as_tensor(part, dtype=torch.float32, device=device) for part in _affine(space, self.width))

    def features(self, actions: Any, skip: Tensor) -> Tensor:
        """Turn actions ``(B, ...)`` or rows of them ``(B, A)`` into features ``(B, F)``.

        Args:
            actions: The batch.
            skip: ``(B,)`` bool, True where an action counts for nothing.

        Raises:
            ValueError: It is no tensor of that shape and type, or an action is outside the space.
        """
        if not isinstance(actions, Tensor):
            raise ValueError(f"actions are {type(actions).__name__}: give a tensor, or use the NumPy environment")
        if actions.shape not in ((len(skip), self.width), (len(skip), *(self.space.shape or ()))):
            raise ValueError(f"actions have shape {tuple(actions.shape)}: {len(skip)} of {self.space} are ({len(skip)}, {self.width})")
        if self.whole and (actions.is_floating_point() or actions.is_complex()):
            raise ValueError(f"actions are {actions.dtype}: {self.space} takes whole numbers, as torch.int64")
        rows = actions.detach().to(self.device).reshape(len(skip), self.width)  # (B, A)
        rows = torch.where(skip[:, None], self.rest, rows.long() if self.whole else rows.float())  # (B, A)
        if self.check:
            self._look(rows)
        if self.sizes is None:
            return (rows - self.middle) / self.half  # (B, F)
        return torch.cat([one_hot(rows[:, i] - int(self.low[i]), n) for i, n in enumerate(self.sizes)], dim=1).float()  # (B, F)

    def _look(self, rows: Tensor) -> None:
        inside = ((rows >= self.low) & (rows <= self.high)).all(1)  # (B,)
        if not bool(inside.all()):
            row = int((~inside).nonzero()[0])
            limits = f"{self.low.tolist()}..{self.high.tolist()}"
            raise ValueError(f"row {row}: action {rows[row].tolist()} is outside {self.space}: keep each number in {limits}")


def _bounds(space: Space[Any]) -> tuple[Any, Any]:
    """Return the lowest and highest row, each ``(A,)``."""
    if isinstance(space, spaces.Discrete):
        return np.array([space.start]), np.array([space.start + space.n - 1])
    if isinstance(space, spaces.MultiDiscrete):
        return space.start.reshape(-1), (space.start + space.nvec - 1).reshape(-1)
    flat: Any = spaces.flatten_space(space)  # a Box of A numbers, or MultiBinary
    return (flat.low, flat.high) if isinstance(flat, spaces.Box) else (np.zeros(flat.n), np.ones(flat.n))


def _affine(space: Space[Any], width: int) -> tuple[Any, Any]:
    """Return middle and half width of each number, for features ``(row - middle) / half``, which is what ``to_features`` does."""
    kind = np.int64 if is_integer(space) else np.float32
    at_zero, at_one = (to_features(space, np.full((1, width), value, kind))[0].astype(np.float64) for value in (0, 1))
    half = 1 / (at_one - at_zero)
    return -at_zero * half, half
