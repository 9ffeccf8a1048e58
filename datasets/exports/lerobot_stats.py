"""The statistics that LeRobot normalises by: ``meta/stats.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FRAMES = 16  # frames of an episode that pixel statistics are taken from, at most
_SIDE = 32  # pixels a side of those, at most
_QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)


class Statistics:
    """Gathers the values of all episodes.

    Args:
        fps: Frames a second.
    """

    def __init__(self, *, fps: float) -> None:
        self.fps = fps
        self._columns: dict[str, list[NDArray[Any]]] = {}
        self._pixels: list[NDArray[np.uint8]] = []
        self._frames = 0

    def add(self, columns: Mapping[str, NDArray[Any]], frames: NDArray[np.uint8]) -> None:
        """Add an episode: its columns ``(T,)`` or ``(T, N)``, and frames ``(T, H, W, 3)``."""
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values.reshape(len(values), -1))
        every = [max(1, -(-size // most)) for size, most in zip(frames.shape[:3], (_FRAMES, _SIDE, _SIDE), strict=True)]
        picked = frames[:: every[0], :: every[1], :: every[2]]
        self._frames += len(picked)
        self._pixels.append(picked.reshape(-1, 3))

    def result(self, camera: str) -> dict[str, Any]:
        """Return min, max, mean, std, count and quantiles by feature; those of images ``[3][1][1]``, in 0..1."""
        described = {name: _describe(np.concatenate(parts)) for name, parts in self._columns.items()}
        if self._pixels:
            image = _describe(np.concatenate(self._pixels) / 255)
            image = {name: [[[x]] for x in values] for name, values in image.items()}
            described[camera] = {**image, "count": [self._frames]}
        return described


def _describe(values: NDArray[Any]) -> dict[str, Any]:
    values = values.astype(np.float64)
    told = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    told |= {f"q{q * 100:02.0f}": np.quantile(values, q, axis=0) for q in _QUANTILES}
    return {**{name: column.tolist() for name, column in told.items()}, "count": [len(values)]}
