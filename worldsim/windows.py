"""Who sees whom: masks of temporal attention for training and for streaming, and the frames stacked as history."""

from __future__ import annotations

import torch
from torch import Tensor


def additive(allowed: Tensor) -> Tensor:
    """Turn a bool mask into 0 where attention is allowed and -inf elsewhere."""
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, float("-inf"))


def training_mask(frames: int, skip: int, window: int, device: torch.device | None = None, *, sink: int = 0) -> Tensor:
    """Return the mask of a context stream of all frames followed by a target stream of frames ``skip`` and on.

    A context frame sees the ``window`` context frames before it and itself; a target frame sees the ``window`` context frames
    before it and itself: what a step of a rollout sees. Both see the first ``sink`` context frames whatever the window.

    Returns:
        ``(1, F, F)`` additive, F = 2 * frames - skip.
    """
    number = torch.arange(frames, device=device)
    place = torch.cat((number, number[skip:]))  # (F,)
    target = torch.arange(len(place), device=device) >= frames  # (F,)
    gap = place[:, None] - place[None, :]  # (F, F)
    seen = (gap <= window) | (place < sink)[None, :]  # (F, F)
    in_window = (gap >= target[:, None].long()) & seen & ~target[None, :]
    same = torch.eye(len(place), dtype=torch.bool, device=device)
    return additive(in_window | same).unsqueeze(0)


def streaming_mask(positions: Tensor, remembered: Tensor, window: int, *, sink: int = 0) -> Tensor:
    """Return the mask of one new frame a row over remembered frames and itself.

    Args:
        positions: ``(B, 1)`` absolute number of the new frame.
        remembered: ``(B, P)`` absolute numbers of remembered frames, negative where a slot is empty.
        window: Past frames that may be seen.
        sink: First frames of the rollout that may be seen for ever.

    Returns:
        ``(B, 1, P + 1)`` additive.
    """
    gap = positions - remembered  # (B, P)
    seen = (remembered >= 0) & (gap >= 1) & ((gap <= window) | (remembered < sink))  # (B, P)
    return additive(torch.cat((seen, torch.ones_like(seen[:, :1])), dim=1)).unsqueeze(1)


def ring_mask(remembered: Tensor) -> Tensor:
    """Return the mask ``(B, 1, P)`` of attention over a ring ``(B, P)`` that holds only what may be seen, the new frame among it."""
    return torch.where(remembered < 0, float("-inf"), 0.0).unsqueeze(1)


def stack_history(latents: Tensor, count: int, anchor: Tensor | None = None) -> Tensor:
    """Stack to each frame the ``count`` frames before it, newest first: ``(B, F, C, h, w)`` to ``(B, F, count*C, h, w)``.

    An anchor ``(B, C, h, w)`` comes behind them for every frame, ``(B, F, (count+1)*C, h, w)``.
    """
    if count == 0:
        return latents[:, :, :0]
    shifted = [torch.cat((torch.zeros_like(latents[:, :i]), latents[:, :-i]), dim=1) for i in range(1, count + 1)]
    if anchor is not None:
        shifted.append(anchor.to(latents.dtype).unsqueeze(1).expand_as(latents))
    return torch.cat(shifted, dim=2)  # (B, F, count*C, h, w), or one more of them


def push_history(history: Tensor, newest: Tensor, *, anchor: bool = False) -> Tensor:
    """Put the newest frames ``(B, ...)`` in front of a history ``(B, H, ...)``, which the oldest leave, but for an anchor at its end."""
    if not history.shape[1]:
        return history
    kept = [newest.unsqueeze(1).to(history.dtype), history[:, : history.shape[1] - 1 - anchor]]
    return torch.cat([*kept, history[:, -1:]] if anchor else kept, dim=1)  # (B, H, ...)


def shift_levels(level: Tensor) -> Tensor:
    """Give each frame the level of the frame before it, 0 for the first: ``(B, F)``."""
    return torch.cat((torch.zeros_like(level[:, :1]), level[:, :-1]), dim=1)
