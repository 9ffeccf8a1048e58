"""Frozen-feature Frechet distance: how far frames are from real ones as a crowd, by the features of a network that knows real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEPT = 16
"""Most principal directions that features are brought down to."""


@dataclass(frozen=True)
class Basis:
    """Principal directions of the features of real frames, scaled so that real features have a total variance of 1.

    Attributes:
        mean: ``(D,)``.
        directions: ``(D, K)``, along which the variance falls.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]

    @staticmethod
    def of(features: NDArray[np.floating], *, kept: int = KEPT) -> Basis:
        """Find the directions of real features ``(N, D)``."""
        mean = features.mean(0, dtype=np.float64)
        values, vectors = np.linalg.eigh(np.cov(features - mean, rowvar=False).reshape(len(mean), len(mean)))
        order = np.argsort(values)[::-1][:kept]
        values = np.maximum(values[order], 1e-12)
        scale = 1 / np.sqrt(values.sum())
        return Basis(mean, vectors[:, order] * scale)

    def project(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Bring features ``(N, D)`` down to ``(N, K)``."""
        along: NDArray[np.float64] = (features - self.mean) @ self.directions
        return along


def frechet(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the Frechet distance between two sets of features ``(N, K)`` and ``(M, K)``, each taken for Gaussian.

    It is ``|m - m'|^2 + Tr(C + C' - 2 (C C')^(1/2))`` (Heusel et al. 2017, equation 6) of means and covariances: 0 for equal sets;
    for sets of one shape that lie apart, the square of how far.
    """
    apart = a.mean(0) - b.mean(0)
    first, second = (np.asarray(np.cov(x, rowvar=False), np.float64).reshape(x.shape[1], x.shape[1]) for x in (a, b))
    root = _root(first)
    both = np.linalg.eigvalsh(root @ second @ root)  # eigenvalues of C C', in a symmetric form
    shape = np.trace(first) + np.trace(second) - 2 * np.sqrt(np.maximum(both, 0)).sum()
    return float(apart @ apart + max(shape, 0.0))


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    half: NDArray[np.float64] = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return half


def band(step: int, last: int, *, width: int) -> Sequence[int]:
    """Return ``width`` steps round ``step`` inside 1..``last``, over which frames are pooled."""
    width = min(width, last)
    first = min(max(1, step - width // 2), last - width + 1)
    return range(first, first + width)
