"""Letters of all shapes, and the contracts at which the rooms meet.

Letters: B batch rows, T time steps, H W frame height and width, C channels, h w latent height and width,
A numbers in one action row, S labelled state values, N tokens of a frame, D model width.

``action[t]`` takes ``frame[t]`` to ``frame[t + 1]``; ``reward[t]`` and ``terminated[t]`` belong to that step.
An episode of T steps has T + 1 frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from worldsim.episode import Episode

Frames: TypeAlias = NDArray[np.uint8]
"""Frames for people and files, ``(..., H, W, 3)`` in 0..255."""

Actions: TypeAlias = NDArray[Any]
"""A batch of actions as Gymnasium's ``batch_space`` of the action space lays them out: ``(B, ...)``."""


@dataclass(frozen=True)
class Observation:
    """What a policy sees of B rows before it acts.

    Attributes:
        frames: Newest frames, ``(B, H, W, 3)`` uint8.
        state: Labelled state by name, each ``(B,)`` float32 in physical units; empty where a world has no labels.
        first: ``(B,)`` bool, True on the first step of an episode: a policy with memory clears those rows.
        seeds: ``(B,)`` int64, the seed of the episode each row is in. All randomness of a policy comes from it.
    """

    frames: Frames
    state: Mapping[str, NDArray[np.float32]]
    first: NDArray[np.bool_]
    seeds: NDArray[np.int64]


@runtime_checkable
class Policy(Protocol):
    """A batch function from what is seen to actions. Row b depends on row b alone."""

    def act(self, observation: Observation) -> Actions:
        """Return one action a row, laid out as ``batch_space(action_space, B)``."""
        ...


@dataclass(frozen=True)
class StoreInfo:
    """What a recorded dataset says of itself.

    Attributes:
        frame_size: Height and width of a frame in pixels.
        fps: Frames a second of simulated time, after any action repeat.
        action_space: The Gymnasium space that actions were taken from.
        state_names: Names of the S columns of ``Episode.state``.
        source: Where the frames come from: ``{"id": ..., "kwargs": {...}, ...}`` of a simulator or a world.
        fingerprint: sha256 over the content; equal for equal data, whatever its place or age.
        licence: SPDX identifier or a sentence.
        labels: What is in ``Episode.labels``: names of the classes by name of the picture.
    """

    name: str
    frame_size: tuple[int, int]
    fps: float
    action_space: Space[Any]
    state_names: tuple[str, ...]
    source: Mapping[str, Any]
    fingerprint: str
    licence: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class EpisodeStore(Protocol):
    """A dataset of whole episodes, as training and evaluation read it."""

    @property
    def info(self) -> StoreInfo:
        """What the dataset says of itself."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Episode:
        """Read episode ``index``.

        Raises:
            ValueError: The stored bytes are not what was committed (names episode and file).
        """
        ...

    def split(self, name: str) -> list[int]:
        """Return the episode indices of split ``train`` or ``heldout``."""
        ...
