"""Appearance: plain statistics of a frame, which tell frames that no simulator draws, as black, blurred or noisy ones, from real ones.

Features of networks that were trained on real frames alone do not: they leave out what does not help their task, and map black frames,
noise and blur into the midst of real ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRID = 8
"""Frames are averaged down to at most so many rows and columns."""
_SCALES = 3  # texture is measured at full size, half, and a quarter
_SHRINK = 0.01  # least variance of colours in any direction, as a share of the mean one: real frames leave some directions empty
_FAINT = 1e-5  # mean squared difference that is nothing: a step of 8-bit frames is 1.5e-5


def colours(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean colours of frames ``(N, H, W, 3)`` on an 8x8 grid, ``(N, F)`` in 0..1."""
    return _grid(_light(frames)).reshape(len(frames), -1)


def texture(pairs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return texture and motion ``(N, 7)`` of pairs of frames ``(N, 2, H, W, 3)``, as log10 of mean squares.

    They are the differences of the later frame from pixel to pixel, across and down, at three scales, and that from the frame before.
    """
    before, after = (_light(pairs[:, k]) for k in (0, 1))
    found, shown = list[NDArray[np.float32]](), after
    for _ in range(_SCALES):
        found += [_energy(np.diff(shown, axis=axis)) for axis in (1, 2)]
        shown = _halved(shown)
    return np.concatenate([*found, _energy(after - before)], axis=1)


def _light(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(frames, np.float32) / np.float32(255)


def _energy(difference: NDArray[np.float32]) -> NDArray[np.float32]:
    count = max(1, difference[0].size)
    logarithm: NDArray[np.float32] = np.log10(_FAINT + np.square(difference).sum(axis=(1, 2, 3)) / count)[:, None]
    return logarithm


def _grid(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average ``(N, H, W, 3)`` over a grid of at most ``GRID`` by ``GRID`` cells, whose edges are cut off where they do not divide."""
    rows, columns = (-(-side // GRID) for side in frames.shape[1:3])
    tall, wide = frames.shape[1] // rows, frames.shape[2] // columns
    cut = frames[:, : tall * rows, : wide * columns]
    means: NDArray[np.float32] = cut.reshape(len(cut), tall, rows, wide, columns, 3).mean(axis=(2, 4))  # (N, tall, wide, 3)
    return means


def _halved(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    even: NDArray[np.float32] = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    means: NDArray[np.float32] = (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / np.float32(4)
    return means


@dataclass(frozen=True)
class Appearance:
    """What real frames look like.

    Attributes:
        mean: ``(F,)`` mean colours.
        whiten: ``(F, F)``: colours less the mean, times it, are as far apart as ``distance`` says.
        far: Largest distance.
        low: ``(7,)`` lowest value of each measure of texture and motion.
        high: ``(7,)`` highest.
    """

    mean: NDArray[np.float64]
    whiten: NDArray[np.float64]
    far: float
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @staticmethod
    def of(pairs: NDArray[np.uint8], *, edge: float) -> Appearance:
        """Learn from two or more real pairs ``(N, 2, H, W, 3)``; a share ``edge`` of them is beyond each limit.

        Distances of colours are learned from one half of the pairs, and their limit from the other.
        """
        found = colours(pairs[::2, 1]).astype(np.float64)
        mean = found.mean(0)
        values, vectors = np.linalg.eigh((found - mean).T @ (found - mean) / len(found))
        whiten = vectors / np.sqrt(np.maximum(values, 0) + _SHRINK * values.mean() + 1e-6)
        low, high = (np.quantile(texture(pairs), q, axis=0).astype(np.float32) for q in (edge, 1 - edge))
        far = float(np.quantile(_length(colours(pairs[1::2, 1]), mean, whiten), 1 - edge))
        return Appearance(mean, whiten, far, low, high)

    def outside(self, pairs: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return whether colours, and whether texture or motion, of pairs are beyond the limits, ``(N, 2)``."""
        strange = _length(colours(pairs[:, 1]), self.mean, self.whiten) > self.far
        found = texture(pairs)
        return np.stack((strange, ((found < self.low) | (found > self.high)).any(axis=1)), axis=1)


def _length(found: NDArray[np.float32], mean: NDArray[np.float64], whiten: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Mahalanobis distance ``(N,)`` of colours ``(N, F)``."""
    length: NDArray[np.float64] = np.sqrt(np.square((found - mean) @ whiten).sum(1))
    return length
