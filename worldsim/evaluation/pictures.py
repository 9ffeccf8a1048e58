"""Pictures of rollouts: real above imagined, as a sheet of chosen steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldsim.video import write_video

STEPS = (1, 4, 8, 16, 32, 64)


def real_above_imagined(
    path: Path, truth: NDArray[np.uint8], made: NDArray[np.uint8], *, steps: Sequence[int] = STEPS, columns: int = 2, scale: int = 2
) -> None:
    """Write a sheet: for each of N rollouts the real frames above the imagined ones at the given steps (1 is the first).

    Args:
        path: PNG to write.
        truth: ``(N, T, H, W, 3)``.
        made: ``(N, T, H, W, 3)``.
        steps: Steps to show; those beyond T are left out.
        columns: Rollouts side by side.
        scale: Enlargement, nearest neighbour.
    """
    chosen = [step - 1 for step in steps if step <= truth.shape[1]]
    cells = [_frame(np.concatenate((_row(t[chosen]), _row(m[chosen])))) for t, m in zip(truth, made, strict=True)]
    while len(cells) % columns:
        cells.append(np.full_like(cells[0], 255))
    sheet = np.concatenate([np.concatenate(cells[i : i + columns], axis=1) for i in range(0, len(cells), columns)])
    save_sheet(path, sheet, scale=scale)


def save_sheet(path: Path, sheet: NDArray[np.uint8], *, scale: int = 2) -> None:
    """Write a picture ``(H, W, 3)``, enlarged by ``scale``, nearest neighbour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).resize((sheet.shape[1] * scale, sheet.shape[0] * scale), Image.Resampling.NEAREST).save(path)


def rollout_video(path: Path, truth: NDArray[np.uint8], made: NDArray[np.uint8], fps: float, *, columns: int = 4, scale: int = 2) -> Path:
    """Write a video of N rollouts, each with the real frame above the imagined one.

    Args:
        path: MP4 to write.
        truth: ``(N, T, H, W, 3)``.
        made: ``(N, T, H, W, 3)``.
        fps: Frames per second.
        columns: Rollouts side by side.
        scale: Enlargement, nearest neighbour.

    Returns:
        The file that was written.
    """
    pairs = np.concatenate((truth, made), axis=2)  # (N, T, 2H, W, 3)
    pairs = np.pad(pairs, ((0, -len(truth) % columns), (0, 0), (2, 2), (2, 2), (0, 0)))  # (N', T, 2H+4, W+4, 3)
    grids = pairs.reshape(-1, columns, *pairs.shape[1:]).transpose(2, 0, 3, 1, 4, 5)  # (T, rows, 2H+4, columns, W+4, 3)
    frames = (grid.reshape(grid.shape[0] * grid.shape[1], -1, 3).repeat(scale, axis=0).repeat(scale, axis=1) for grid in grids)
    return write_video(frames, path, fps)


def _row(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate(list(frames), axis=1)


def _frame(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(image, ((4, 4), (4, 4), (0, 0)), constant_values=255)
