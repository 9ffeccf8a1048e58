"""Figures: what is computed from segments and a world's rollouts of them, in JSON types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldsim.evaluation.openloop import Rollouts, Segment, copy_last, log_error, psnr, real, ssim
from worldsim.evaluation.probe import Probe, columns, pairs_at
from worldsim.evaluation.scores import area_under_curve, compare, correlation, mean_and_error, mean_error, slope
from worldsim.model import WorldModel
from worldsim.tokenizer import to_model
from worldsim.training.tokenizer_task import draw_motion, interior, move, reconstruct

STEPS = (1, 4, 16, 64)
STATE_STEPS = (16, 64)
LONG_STEPS = (64, 128, 256)
BAR_STEP = 16
BARS = {"copy_last": 6.0, "other_actions": 3.0}
"""Least advantage of the world over each baseline at step 16, in dB of PSNR."""


@dataclass(frozen=True)
class Evidence:
    """What the figures are computed from.

    Attributes:
        segments: N stretches of recorded episodes.
        made: The world's rollouts of them.
        others: Those with other episodes' actions.
        driven: Frames ``(B, H, W, 3)`` that policies drove to, by name and step.
    """

    segments: Sequence[Segment]
    made: Rollouts
    others: Rollouts
    driven: Mapping[str, Mapping[int, NDArray[np.uint8]]] = field(default_factory=dict)


def episode_name(segment: Segment) -> str:
    """Name of the episode that a segment was cut from."""
    return segment.context.name.partition(", frame")[0]


# ---------------------------------------------------------------- frames


def open_loop(world: WorldModel, evidence: Evidence, *, steps: Sequence[int] = STEPS) -> dict[str, Any]:
    """Return PSNR and SSIM at chosen steps of the world, its baselines and its tokenizer, the PSNR curves, and the margins at step 16."""
    truth, foreign = real(evidence.segments), from_another_episode(evidence.segments)
    steps = [step for step in steps if step <= truth.shape[1]]
    shown = truth[:, [step - 1 for step in steps]]
    made = {"world": evidence.made.frames, "other_actions": evidence.others.frames, "copy_last": copy_last(evidence.segments)}
    curves = {name: psnr(truth, frames) for name, frames in made.items()}  # each (N, T)
    curves["other_actions"] = curves["other_actions"][foreign]
    at = {name: np.stack([curve[:, step - 1] for step in steps], axis=1) for name, curve in curves.items()}
    rebuilt = reconstruct(world.tokenizer, shown.reshape(-1, *shown.shape[2:])).reshape(shown.shape)
    at["tokenizer"] = psnr(shown, rebuilt)
    chosen = {name: frames[:, [step - 1 for step in steps]] for name, frames in made.items()} | {"tokenizer": rebuilt}
    likeness = {name: ssim(shown, frames) for name, frames in chosen.items()}
    likeness["other_actions"] = likeness["other_actions"][foreign]
    order = ("tokenizer", "world", "other_actions", "copy_last")
    return {
        "steps": steps,
        "psnr": {name: _means(at[name]) for name in order},
        "ssim": {name: _means(likeness[name]) for name in order},
        "curve": {name: _means(curves[name]) for name in order[1:]},
        "other_actions_segments": int(foreign.sum()),
        "margins": _margins(curves, foreign, min(BAR_STEP, truth.shape[1])),
        "moved": moved(world, truth[:, 0]),
    }


@torch.no_grad()
def moved(world: WorldModel, frames: NDArray[np.uint8], *, seed: int = 0) -> float:
    """PSNR in dB between frames ``(N, H, W, 3)`` turned and shifted, and what their latents, turned and shifted alike, decode to.

    It tells whether latents move as frames move (equivariance: EQ-VAE, Kouzelis et al. 2025, section 3), which dynamics are far easier
    to learn on. What comes in from outside the frame does not count.
    """
    shown = to_model(torch.from_numpy(np.ascontiguousarray(frames))).to(world.device)  # (N, 3, H, W)
    motion = draw_motion(len(shown), torch.Generator().manual_seed(seed)).to(world.device)  # (N, 2, 3)
    made = world.tokenizer.decode(move(world.tokenizer.encode(shown), motion))  # (N, 3, H, W)
    seen = interior(motion, shown)  # (N, 1, H, W)
    square = ((made - move(shown, motion)).square() * seen).sum((1, 2, 3)) / (3 * seen.sum((1, 2, 3)))  # (N,)
    return round(float((10 * torch.log10(4 / square)).mean()), 2)


def from_another_episode(segments: Sequence[Segment]) -> NDArray[np.bool_]:
    """Return for which segments ``other_actions`` takes the actions of another episode, ``(N,)``."""
    shift = len(segments) // 2
    return np.array([episode_name(segment) != episode_name(segments[(i + shift) % len(segments)]) for i, segment in enumerate(segments)])


def _means(values: NDArray[np.float64]) -> list[float | None]:
    """Mean over rows ``(N, K)``; None where there are none."""
    return [round(float(x), 4) for x in values.mean(axis=0)] if len(values) else [None] * values.shape[1]


def _margins(curves: dict[str, NDArray[np.float64]], foreign: NDArray[np.bool_], step: int) -> dict[str, Any]:
    """Advantage of the world over each baseline at ``step``: mean of the differences, its standard error, and the bar."""
    world = curves["world"][:, step - 1]
    apart = {"copy_last": world - curves["copy_last"][:, step - 1], "other_actions": world[foreign] - curves["other_actions"][:, step - 1]}
    margins: dict[str, Any] = {"step": step}
    for name, values in apart.items():
        if len(values):
            mean, error = mean_and_error(values)
            margins[name] = {"db": round(mean, 3), "standard_error": round(error, 3), "bar": BARS[name], "met": mean >= BARS[name]}
    return margins


# ---------------------------------------------------------------- reward, uncertainty and state


def reward(segments: Sequence[Segment], made: Rollouts) -> dict[str, Any]:
    """Return the correlation of predicted with true reward, a step and summed over the horizon, and the mean rewards.

    ``slope_of_sums`` is the least-squares slope of true on predicted sums, 1 where predictions are calibrated; ``sums`` are the pairs.
    """
    truth = np.stack([segment.rewards for segment in segments])  # (N, T)
    total, imagined = truth.sum(axis=1), made.rewards.sum(axis=1)
    return {
        "steps": truth.shape[1],
        "correlation_per_step": correlation(truth, made.rewards),
        "correlation_of_sums": correlation(total, imagined),
        "error_of_sums": mean_error(total, imagined),
        "mean_true": float(truth.mean()),
        "mean_predicted": float(made.rewards.mean()),
        "slope_of_sums": slope(imagined, total),
        "sums": [[round(float(a), 4), round(float(b), 4)] for a, b in zip(total, imagined, strict=True)],
    }


def uncertainty(evidence: Evidence, threshold: float) -> dict[str, Any]:
    """Return how well the world foretells its own errors, over all frames of the rollouts.

    Args:
        evidence: What was rolled out.
        threshold: Error that the uncertainty is the probability of, log10 of the mean squared pixel error.

    Returns:
        ``auroc`` for errors above their 90th percentile; ``auroc_age``, the same for the number of the step as a score;
        ``correlation`` with the logarithm of the error; ``foretold`` and ``found``, mean probability and true share of errors above
        the threshold; and ``threshold_psnr`` in dB.
    """
    error = log_error(real(evidence.segments), evidence.made.frames)  # (N, T)
    told, age = evidence.made.uncertainty, np.broadcast_to(np.arange(error.shape[1]), error.shape)  # each (N, T)
    high = error > np.quantile(error, 0.9)
    return {
        "auroc": area_under_curve(told[high], told[~high]),
        "auroc_age": area_under_curve(age[high], age[~high]),
        "correlation": correlation(error, told),
        "foretold": float(told.mean()),
        "found": float((error > threshold).mean()),
        "threshold_psnr": 20 * float(np.log10(255)) - 10 * threshold,
    }


def state(
    evidence: Evidence, names: Sequence[str], of_world: Sequence[str], of_store: Sequence[str], probe: Probe | None
) -> dict[str, Any]:
    """Return how well state can be read back: by the probe from real and imagined frames, and by the world's own head.

    Errors are in physical units; ``guess`` is what always answering with the median of the true values gives.

    Returns:
        ``figures`` by name and step; ``curve``, by reader, the error over the guess's at each step, mean over names;
        ``normalised_error``, the same at chosen steps; and ``accuracy``, by reader, the correlation with the true value over all steps,
        mean over names: one number to compare worlds by.
    """
    mine, theirs = columns(names, of_store), columns(names, of_world)
    truth = np.stack([segment.state for segment in evidence.segments])[..., mine]  # (N, T, S)
    steps = [step for step in STATE_STEPS if step <= truth.shape[1]] or [truth.shape[1]]
    read = {"head": evidence.made.state[..., theirs]}  # each (N, T, S)
    if probe is not None:
        read["probe_real"] = read_rollouts(probe, evidence.segments, real(evidence.segments))[..., mine]
        read["probe_imagined"] = read_rollouts(probe, evidence.segments, evidence.made.frames)[..., mine]
    figures: dict[str, Any] = {name: {} for name in names}
    for s, name in enumerate(names):
        for step in steps:
            true = truth[:, step - 1, s]
            figures[name][str(step)] = {key: compare(true, value[:, step - 1, s]) for key, value in read.items()}
            figures[name][str(step)]["guess"] = compare(true, np.full_like(true, np.median(true)))
    curve = {key: normalised_error(truth, value) for key, value in read.items()}
    return {
        "steps": steps,
        "names": list(names),
        "figures": figures,
        "curve": curve,
        "normalised_error": {str(step): {key: values[step - 1] for key, values in curve.items()} for step in steps},
        "accuracy": {key: mean_correlation(truth, value) for key, value in read.items()},
    }


def read_rollouts(probe: Probe, segments: Sequence[Segment], frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Read the state ``(N, T, S)`` from frames ``(N, T, H, W, 3)`` that follow N segments' contexts, each with the one before it."""
    last = np.stack([segment.context.frames[-1] for segment in segments])
    return np.stack([probe.read(pairs_at(step, last, frames)) for step in range(1, frames.shape[1] + 1)], axis=1)


def normalised_error(truth: NDArray[np.float32], read: NDArray[np.float32]) -> list[float | None]:
    """Return the mean absolute error by step over that of the best constant answer, mean over the state that varies; all ``(N, T, S)``."""
    guess = np.abs(truth - np.median(truth, axis=0)).mean(axis=0, dtype=np.float64)  # (T, S)
    error = np.abs(truth - read).mean(axis=0, dtype=np.float64)  # (T, S)
    shares = (own[varies] / other[varies] for own, other in zip(error, guess, strict=True) for varies in [other > 0])
    return [round(float(share.mean()), 4) if len(share) else None for share in shares]


def mean_correlation(truth: NDArray[np.float32], read: NDArray[np.float32]) -> float | None:
    """Return Pearson's correlation over all values of each state ``(..., S)``, mean over those that vary; None where none does.

    What is read without any variation has a correlation of 0.
    """
    found = [correlation(truth[..., s], read[..., s]) or 0.0 for s in range(truth.shape[-1]) if np.ptp(truth[..., s]) > 0]
    return float(np.mean(found)) if found else None
