"""Open-loop evaluation: from real context frames on, the recorded actions, and how far imagined frames stay from the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from worldsim.contexts import Context
from worldsim.episode import Episode
from worldsim.labeller import SEGMENTATION
from worldsim.simulator import Simulator
from worldsim.spec import WorldSpec
from worldsim.types import EpisodeStore


@dataclass(frozen=True)
class Segment:
    """A stretch of a recorded episode: context, and what really happened after it.

    Attributes:
        context: The start.
        actions: ``(T, A)`` rows taken from there.
        frames: ``(T, H, W, 3)`` real frames after each action.
        rewards: ``(T,)``.
        state: ``(T, S)``.
        terminated: ``(T,)`` bool, whether the step ended the episode.
        seed: For the rollout's noise.
        segmentation: ``(1 + T, H, W)`` true class of each pixel, of the last context frame and of ``frames``; None where there is none.
    """

    context: Context
    actions: NDArray[Any]
    frames: NDArray[np.uint8]
    rewards: NDArray[np.float32]
    state: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    seed: int
    segmentation: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Rollouts:
    """Imagined continuations of N segments over T steps.

    Attributes:
        frames: ``(N, T, H, W, 3)``.
        rewards: ``(N, T)``.
        state: ``(N, T, S)``.
        uncertainty: ``(N, T)`` in 0..1, NaN where the world does not tell it.
        segmentation: ``(N, T, H, W)`` class of each pixel as the world tells it; empty where it does not, or the truth is not known.
    """

    frames: NDArray[np.uint8]
    rewards: NDArray[np.float32]
    state: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    segmentation: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 0, 0), np.uint8))


def check_fit(spec: WorldSpec, store: EpisodeStore) -> None:
    """Refuse a dataset whose episodes a world cannot imagine.

    Raises:
        ValueError: Its frames have another size, or its actions are others.
    """
    info = store.info
    if tuple(info.frame_size) != tuple(spec.frame_size):
        theirs, mine = ("x".join(map(str, size)) for size in (info.frame_size, spec.frame_size))
        raise ValueError(f"dataset {info.name!r} has frames of {theirs}, world {spec.name!r} makes {mine}: record some of that size")
    if info.action_space != spec.action_space:
        told = f"dataset {info.name!r} has actions {info.action_space}, world {spec.name!r} takes {spec.action_space}"
        raise ValueError(f"{told}: use data of its own source")


def cut_segments(
    store: EpisodeStore, *, split: str, context: int, horizon: int, per_episode: int, limit: int, seed: int = 0
) -> list[Segment]:
    """Cut stretches of ``horizon`` steps out of the episodes of a split, at random places, ``per_episode`` from each.

    Raises:
        ValueError: No episode is long enough.
    """
    generator, segments = np.random.default_rng(seed), list[Segment]()
    for i in store.split(split):
        episode = store[i]
        room = len(episode) + 1 - context - horizon
        for start in sorted(generator.choice(room + 1, size=min(per_episode, room + 1), replace=False)) if room >= 0 else ():
            segments.append(cut_segment(episode, int(start), context, horizon, seed=len(segments)))
        if len(segments) >= limit:
            break
    if not segments:
        raise ValueError(f"no {split} episode has {context + horizon} frames: use a shorter horizon")
    return segments[:limit]


def cut_segment(episode: Episode, start: int, context: int, horizon: int, *, seed: int) -> Segment:
    """Cut one stretch out of an episode, as a copy, whose context begins at frame ``start``."""
    now = start + context - 1  # number of the last context frame: action[now] leads to frame[now + 1]
    name = f"episode seed {episode.seed}, frame {start}"
    return Segment(
        context=Context(episode.frames[start : now + 1].copy(), episode.actions[start:now], episode.conditioning, name, episode.state[now]),
        actions=episode.actions[now : now + horizon],
        frames=episode.frames[now + 1 : now + 1 + horizon].copy(),
        rewards=episode.rewards[now : now + horizon],
        state=episode.state[now + 1 : now + 1 + horizon],
        terminated=episode.terminated[now : now + horizon],
        seed=seed,
        segmentation=episode.labels[SEGMENTATION][now : now + 1 + horizon] if SEGMENTATION in episode.labels else None,
    )


def longest_horizon(store: EpisodeStore, *, split: str, context: int, wanted: int, read: int = 32) -> int:
    """Return ``wanted``, or the longest horizon, to ten steps, that half of the first ``read`` episodes have room for."""
    lengths = sorted(len(store[i]) for i in store.split(split)[:read])
    if not lengths:
        return 0
    room = lengths[len(lengths) // 2] + 1 - context
    return wanted if room >= wanted else max(0, room // 10 * 10)


def other_actions(segments: Sequence[Segment]) -> list[Segment]:
    """Give each segment the actions of a segment half the list away: of another episode."""
    n = len(segments)
    return [replace(segment, actions=segments[(i + n // 2) % n].actions) for i, segment in enumerate(segments)]


def imagine(simulator: Simulator, segments: Sequence[Segment], *, batch: int = 16) -> Rollouts:
    """Roll the segments out in the learned world."""
    parts = [_imagine_batch(simulator, segments[i : i + batch]) for i in range(0, len(segments), batch)]
    return Rollouts(*(np.concatenate([getattr(part, own.name) for part in parts]) for own in fields(Rollouts)))


def _imagine_batch(simulator: Simulator, segments: Sequence[Segment]) -> Rollouts:
    state = simulator.start([segment.context for segment in segments], [segment.seed for segment in segments])
    frames, rewards, labels, unsure, pictures = [], [], [], [], []
    labeller = simulator.world.labeller if segments[0].segmentation is not None else None
    for t in range(len(segments[0].actions)):
        state, step = simulator.step(state, np.stack([segment.actions[t] for segment in segments]))
        frames.append(step.frames)
        rewards.append(step.reward)
        labels.append(step.state)
        unsure.append(step.uncertainty)
        if labeller is not None:
            with torch.inference_mode():
                pictures.append(labeller.classify(step.latents.to(simulator.dtype)).cpu().numpy())
    seen = np.stack(pictures, 1) if pictures else np.zeros((len(segments), len(frames), 0, 0), np.uint8)
    return Rollouts(np.stack(frames, 1), np.stack(rewards, 1), np.stack(labels, 1), np.stack(unsure, 1), seen)


def real(segments: Sequence[Segment]) -> NDArray[np.uint8]:
    """Return the real frames ``(N, T, H, W, 3)``."""
    return np.stack([segment.frames for segment in segments])


def copy_last(segments: Sequence[Segment]) -> NDArray[np.uint8]:
    """Return the last context frame repeated, ``(N, T, H, W, 3)``."""
    return np.stack([np.repeat(segment.context.frames[-1:], len(segment.actions), axis=0) for segment in segments])


def log_error(truth: NDArray[np.uint8], made: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return log10 of the mean squared error ``(...)`` of frames ``(..., H, W, 3)``; equal frames count as an error of 0.1."""
    square = np.mean((truth.astype(np.float32) - made.astype(np.float32)) ** 2, axis=(-3, -2, -1))
    logarithm: NDArray[np.float32] = np.log10(np.maximum(square, 0.1))
    return logarithm


def psnr(truth: NDArray[np.uint8], made: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio in dB of each frame: ``(...)`` for ``(..., H, W, 3)``; equal frames give 78 dB."""
    square = np.mean((truth.astype(np.float32) - made.astype(np.float32)) ** 2, axis=(-3, -2, -1), dtype=np.float64)
    return 10 * np.log10(255**2 / np.maximum(square, 1e-3))


def ssim(truth: NDArray[np.uint8], made: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the structural similarity (Wang et al. 2004) of each frame: ``(...)`` for ``(..., H, W, 3)``."""
    pairs = zip(truth.reshape(-1, *truth.shape[-3:]), made.reshape(-1, *made.shape[-3:]), strict=True)
    return np.array([structural_similarity(a, b, channel_axis=-1, data_range=255) for a, b in pairs]).reshape(truth.shape[:-3])
