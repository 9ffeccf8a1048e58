"""Judge: whether clips are in the range of real ones, by how they look and by the state that a probe reads from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldsim.evaluation.appearance import Appearance
from worldsim.evaluation.distance import Basis
from worldsim.evaluation.probe import Probe
from worldsim.evaluation.sight import Sight, look

LOOKS = ("colours", "texture or motion")
"""Names of the last criteria, beside those named after state."""


@dataclass(frozen=True)
class Judge:
    """What real clips are like. Clips are in the real range where every state that is read lies in it, and they look like real ones.

    Attributes:
        sight: Network whose features Frechet distances compare.
        basis: Principal directions of its features of real clips.
        probe: Reads state from the same features; None where there is none.
        names: Of that state, S of them.
        low: ``(S,)`` lowest value of the real range, in the source's units.
        high: ``(S,)`` highest.
        appearance: What real frames look like.
        reference: Features ``(N, K)`` of real clips along the principal directions.
    """

    sight: Sight
    basis: Basis
    probe: Probe | None
    names: tuple[str, ...]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    appearance: Appearance
    reference: NDArray[np.float64]

    @staticmethod
    def of(sight: Sight, clips: NDArray[np.uint8], *, probe: Probe | None = None, names: Sequence[str] = (), edge: float = 0.001) -> Judge:
        """Learn what real clips are like.

        Args:
            sight: A trained network, the probe's own where there is one; its features are for Frechet distances.
            clips: ``(N, K, H, W, 3)`` real clips, of other episodes than it was trained on.
            probe: The probe.
            names: Of the state that it reads.
            edge: Share of real clips that lies below the range of a state, and above it, and beyond each limit of
                appearance.
        """
        features = look(sight, clips)
        basis, read = Basis.of(features), probe.named(features) if probe is not None else np.zeros((len(features), 0), np.float32)
        low, high = (np.quantile(read, q, axis=0).astype(np.float32) for q in (edge, 1 - edge))
        return Judge(sight, basis, probe, tuple(names), low, high, Appearance.of(clips[:, -2:], edge=edge), basis.project(features))

    @property
    def criteria(self) -> tuple[str, ...]:
        """Names of what is judged by."""
        return (*self.names, *LOOKS)

    def features(self, clips: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the features ``(N, K)`` along the principal directions, see ``Basis``, of clips."""
        return self.basis.project(look(self.sight, clips))

    def outside(self, clips: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return by which criteria clips ``(N, K, H, W, 3)`` are not in the real range, ``(N, S + 2)``."""
        strange = self.appearance.outside(clips[:, -2:])
        if self.probe is None:
            return strange
        read = self.probe.read(clips[:, -2:])
        return np.concatenate(((read < self.low) | (read > self.high), strange), axis=1)


def clips_of(frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return every clip of ``size`` successive frames of ``(..., T, H, W, 3)``: ``(..., T + 1 - size, size, H, W, 3)``."""
    windows = np.lib.stride_tricks.sliding_window_view(frames, size, axis=-4)  # (..., T + 1 - size, H, W, 3, size)
    return np.moveaxis(windows, -1, -4)
