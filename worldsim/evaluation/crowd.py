"""Frames as a crowd: frozen-feature Frechet distances of imagined frames by step, beside real, other and damaged ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.filters import gaussian

from worldsim.evaluation.distance import band, frechet
from worldsim.evaluation.figures import STEPS, Evidence
from worldsim.evaluation.judge import Judge, clips_of
from worldsim.evaluation.openloop import Segment, copy_last, real

BLUR, NOISE = 1.0, 16.0
"""Damage done to real frames for comparison: a Gaussian blur in pixels at 64 rows, and Gaussian noise in units of 1/255."""


def distances(evidence: Evidence, judge: Judge, *, width: int, seed: int = 0) -> dict[str, Any]:
    """Return the distance of clips round chosen steps from the real clips of the same segments and steps.

    The set on the other side shows the same places, so that what they happen to be, which weighs more than any damage, cancels out.

    Args:
        evidence: Segments and their rollouts.
        judge: Whose features are compared, with its reference of other real clips.
        width: Steps round each chosen one that are pooled.
        seed: For the noise.

    Returns:
        ``steps``, ``frames`` pooled at each, and the distances at each of ``world``, ``other_actions``, ``copy_last``, of the same real
        clips ``blurred`` and ``noised``, and of ``elsewhere``, real clips of the train split. A perfect world gets 0.
    """
    truth = real(evidence.segments)
    last, generator = truth.shape[1], np.random.default_rng(seed)
    steps = [step for step in STEPS if step <= last]
    made = {
        "real": truth,
        "world": evidence.made.frames,
        "other_actions": evidence.others.frames,
        "copy_last": copy_last(evidence.segments),
    }
    found: dict[str, list[float]] = {name: [] for name in (*made, "blurred", "noised", "elsewhere")}
    for step in steps:
        near = band(step, last, width=width)
        clips = {name: clips_ending(near, evidence.segments, frames, judge.sight.frames) for name, frames in made.items()}
        true = clips_ending(near, evidence.segments, truth, judge.sight.frames)
        clips |= {"blurred": blurred(true), "noised": noised(true, generator)}
        features, floor = {name: judge.features(own) for name, own in clips.items()}, judge.features(true)
        for name, own in (features | {"elsewhere": judge.reference}).items():
            found[name].append(round(frechet(own, floor), 4))
    return {"steps": steps, "width": min(width, last), "frames": len(truth) * min(width, last), **found}


def clips_ending(steps: Sequence[int], segments: Sequence[Segment], frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return the clips ``(N * len(steps), size, H, W, 3)`` whose last frames are those of the steps, among frames ``(N, T, H, W, 3)``."""
    before = np.stack([s.context.frames[[-min(k, len(s.context.frames)) for k in range(size - 1, 0, -1)]] for s in segments])
    whole = np.concatenate((before, frames), axis=1)  # step t is frame t + size - 2 of it
    clips = clips_of(whole[:, steps[0] - 1 : steps[-1] + size - 1], size)  # (N, len(steps), size, H, W, 3)
    return clips.reshape(-1, *clips.shape[2:])


def blurred(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blur frames ``(..., H, W, 3)``."""
    sigma = BLUR * frames.shape[-3] / 64
    flat = frames.reshape(-1, *frames.shape[-3:])
    made = [gaussian(frame, sigma, preserve_range=True, channel_axis=-1).round() for frame in flat]
    return np.stack(made).astype(np.uint8).reshape(frames.shape)


def noised(frames: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Add noise to frames ``(..., H, W, 3)``."""
    return np.clip(frames + generator.normal(0, NOISE, frames.shape).round(), 0, 255).astype(np.uint8)
