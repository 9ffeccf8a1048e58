"""Pictures of rollouts: real above imagined, as a sheet of chosen steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).resize((sheet.shape[1] * scale, sheet.shape[0] * scale), Image.Resampling.NEAREST).save(path)


def _row(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate(list(frames), axis=1)


def _frame(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(image, ((4, 4), (4, 4), (0, 0)), constant_values=255)
