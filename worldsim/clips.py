"""Latent clips: a dataset's latents, actions, rewards and labels in memory, and the drawing of training clips from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.conditioning import Vocabulary
from worldsim.devices import resident, send
from worldsim.encoding import encode_episodes
from worldsim.episode import Episode
from worldsim.spaces import to_features
from worldsim.types import EpisodeStore


@dataclass(frozen=True)
class Clip:
    """B clips of F frames. Entry i of actions, rewards and ends belongs to the step that led to frame i.

    Attributes:
        latents: ``(B, F, C, h, w)``.
        actions: ``(B, F, A)`` features.
        known: ``(B, F)`` bool: False where no action led to the frame (the first of an episode) or it was dropped.
        rewards: ``(B, F)``, 0 where none is known.
        ends: ``(B, F)`` float, 1 where the step terminated.
        stepped: ``(B, F)`` bool: whether a step led to the frame, so that reward and end are known.
        state: ``(B, F, S)`` standardised.
        condition: ``(B, V)``.
        anchor: ``(B, C, h, w)`` a frame of each clip's episode, no later than its first.
    """

    latents: Tensor
    actions: Tensor
    known: Tensor
    rewards: Tensor
    ends: Tensor
    stepped: Tensor
    state: Tensor
    condition: Tensor
    anchor: Tensor

    def to(self, device: torch.device) -> Clip:
        """Move to a device."""
        return Clip(*(send(value, device) for value in vars(self).values()))


@dataclass(frozen=True)
class LatentEpisodes:
    """Whole episodes laid end to end along frames; what a scenario cut counts as several.

    Attributes:
        latents: ``(frames, C, h, w)`` float16.
        actions: ``(frames, A)``; row i led to frame i, zeros for first frames.
        rewards: ``(frames,)``.
        ends: ``(frames,)``.
        state: ``(frames, S)`` standardised.
        condition: ``(episodes, V)``.
        starts: ``(episodes + 1,)`` first frame of each episode, and the total.
        there: The latents once more in a GPU's memory, from where clips are then cut; None to cut them here.
    """

    latents: NDArray[np.float16]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    ends: NDArray[np.float32]
    state: NDArray[np.float32]
    condition: Tensor
    starts: NDArray[np.int64]
    there: Tensor | None = None

    def draw(self, batch: int, frames: int, generator: torch.Generator) -> Clip:
        """Draw clips at ``places``."""
        return self.cut(*self.places(batch, frames, generator), frames)

    def places(self, batch: int, frames: int, generator: torch.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw episodes ``(B,)`` and first frame numbers ``(B,)`` of clips.

        An episode's first and last frames come as often as those far from its ends, not in one clip of ``frames``. Frames near the ends
        come up to twice as often. Starts are uniform from ``frames - 1`` before the episode to its last frame, and move to the nearest
        place where a clip fits.

        Raises:
            ValueError: No episode has that many frames.
        """
        lengths = np.diff(self.starts)
        room = np.where(lengths < frames, 0, lengths + frames - 1)
        ends = np.cumsum(room)
        if not len(ends) or ends[-1] == 0:
            raise ValueError(
                f"clips of {frames} frames do not fit: the longest episode has {lengths.max(initial=0)} frames; use a shorter clip"
            )
        picks = torch.randint(int(ends[-1]), (batch,), generator=generator).numpy()
        episodes = np.searchsorted(ends, picks, side="right")
        places = picks - (ends[episodes] - room[episodes]) - (frames - 1)
        offsets = np.clip(places, 0, lengths[episodes] - frames)
        return episodes, self.starts[episodes] + offsets

    def anchors(self, episodes: NDArray[np.int64], first: NDArray[np.int64], generator: torch.Generator) -> NDArray[np.int64]:
        """Draw frame numbers ``(B,)`` of anchors: any frame from the episode's start to the clip's own first, all as often."""
        share = torch.rand(len(first), generator=generator, dtype=torch.float64).numpy()  # (B,)
        age: NDArray[np.int64] = np.floor(share * (first - self.starts[episodes] + 1)).astype(np.int64)
        return first - age

    def cut(self, episodes: NDArray[np.int64], first: NDArray[np.int64], frames: int, *, anchors: NDArray[np.int64] | None = None) -> Clip:
        """Return the clips of ``frames`` frames that begin at frame numbers ``first`` of the whole, anchored to them or to others."""
        rows = first[:, None] + np.arange(frames)  # (B, F)
        stepped = torch.from_numpy(rows != self.starts[episodes][:, None])  # (B, F)
        return Clip(
            latents=self._latents(rows),  # (B, F, C, h, w)
            actions=torch.from_numpy(self.actions[rows]),  # (B, F, A)
            known=stepped,
            rewards=torch.from_numpy(self.rewards[rows]),
            ends=torch.from_numpy(self.ends[rows]),
            stepped=stepped,
            state=torch.from_numpy(self.state[rows]),
            condition=self.condition[torch.from_numpy(episodes)],
            anchor=self._latents(first if anchors is None else anchors),  # (B, C, h, w)
        )

    def _latents(self, rows: NDArray[np.int64]) -> Tensor:
        if self.there is None:
            return torch.from_numpy(self.latents[rows]).float()
        return self.there[send(torch.from_numpy(rows), self.there.device)].float()


def state_statistics(episodes: Sequence[Episode], size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and standard deviation ``(S,)`` of the labelled state, the latter at least 1e-6."""
    if not episodes or not size:
        return np.zeros(size, np.float32), np.ones(size, np.float32)
    rows = np.concatenate([episode.state for episode in episodes])
    return rows.mean(0).astype(np.float32), np.maximum(rows.std(0), 1e-6).astype(np.float32)


def load_episodes(
    store: EpisodeStore,
    split: str,
    tokenizer: Any,
    *,
    vocabulary: Vocabulary,
    statistics: tuple[NDArray[np.float32], NDArray[np.float32]],
    cache: Path | None = None,
    device: torch.device | None = None,
) -> LatentEpisodes:
    """Encode one split of a dataset, or read its latents from ``cache``.

    Args:
        store: The dataset.
        split: ``train`` or ``heldout``.
        tokenizer: A module with ``encode``.
        vocabulary: Encodes the conditioning.
        statistics: Mean and standard deviation of the labelled state.
        cache: Folder of encoded latents, keyed by content; None to keep none.
        device: Where to encode; latents stay there too, if it is a GPU and has room.
    """
    chosen = store.split(split)
    actions, rewards, ends, state, condition, starts, wholes = [], [], [], [], [], [0], [0]
    mean, std = statistics
    for i in chosen:
        episode = store[i]
        features = to_features(store.info.action_space, episode.actions)
        actions.append(np.concatenate((np.zeros_like(features[:1]), features)))
        rewards.append(np.concatenate((np.zeros(1, np.float32), episode.rewards.astype(np.float32))))
        ends.append(np.concatenate((np.zeros(1, np.float32), episode.terminated.astype(np.float32))))
        state.append((episode.state - mean) / std)
        parts = [*episode.cuts(), len(episode) + 1]
        condition += [vocabulary.features(episode.conditioning)] * len(parts)
        starts += [starts[-1] + end for end in parts]
        wholes.append(starts[-1])
    latents = encode_episodes(store, chosen, wholes, tokenizer, device or torch.device("cpu"), cache)
    return LatentEpisodes(
        latents=latents,
        actions=np.concatenate(actions),
        rewards=np.concatenate(rewards),
        ends=np.concatenate(ends),
        state=np.concatenate(state).astype(np.float32),
        condition=torch.stack(condition),
        starts=np.array(starts, dtype=np.int64),
        there=None if device is None else resident(latents, device),
    )
