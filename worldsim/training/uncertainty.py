"""Training of the error head: roll a finished world out beside recorded episodes, and learn where it went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from worldsim.checkpoint import resolve, save_component
from worldsim.evaluation.figures import episode_name
from worldsim.evaluation.openloop import Segment, check_fit, cut_segments, log_error
from worldsim.evaluation.scores import area_under_curve
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.training.rollouts import Kept, roll_out
from worldsim.training.run import check_counts, open_data, seeded
from worldsim.uncertainty import NAME, ErrorHead, likelihood_loss

RANK = 0.9
"""An error is high above this quantile of the errors."""


@dataclass(frozen=True)
class Errors:
    """What K made frames were like: last tokens ``(K, N, D)`` float16 and log10 of the mean squared pixel error ``(K,)``."""

    hidden: Tensor
    error: Tensor


def train_uncertainty(cfg: DictConfig) -> float:
    """Train the error head of ``cfg.world`` by ``configs/train_uncertainty.yaml`` and save it into the world's folder.

    Returns:
        Area under the ROC curve for high errors over the held-out rollouts.

    Raises:
        ValueError: A count is below 1, or world and dataset cannot be read or do not fit each other.
    """
    check_counts(cfg, "segments", "per_episode", "context", "horizon", "every", "batch", "steps", "batch_size")
    folder, store = resolve(cfg.world), open_data(cfg)
    world = WorldModel.from_pretrained(cfg.world, device=cfg.device or "cpu")
    check_fit(world.spec, store)
    cut: dict[str, Any] = {"context": cfg.context, "horizon": cfg.horizon, "per_episode": cfg.per_episode, "seed": cfg.seed}
    segments = cut_segments(store, split="train", limit=cfg.segments, **cut)
    kept = calibrating(segments)
    heldout = cut_segments(store, split="heldout", limit=max(1, cfg.segments // 5), **cut) if store.split("heldout") else []
    done = Kept(cfg, store.info.fingerprint, ("segments", "per_episode", "context", "horizon", "every", "batch", "seed"))
    parts = [segments[:kept], segments[kept:], heldout]
    learned, spared, unseen = roll_out(world, parts, partial(_roll, every=cfg.every), batch=cfg.batch, kept=done)
    head = fit(Errors(**learned), steps=cfg.steps, batch_size=cfg.batch_size, lr=cfg.lr, seed=cfg.seed)
    if spared:
        calibrate(head, Errors(**spared))
    quality = float("nan")
    if unseen:
        errors = Errors(**unseen)
        quality = rank(head, errors)
        foretold, found = float(chances(head, errors).mean()), float((errors.error > head.threshold).float().mean())
        print(f"area under the ROC curve for errors above the 90th percentile: {quality:.3f} over {len(errors.error):,} held-out frames")
        print(f"high errors among them: {foretold:.1%} foretold, {found:.1%} found")
    save_component(head, folder / NAME)
    done.forget()
    print(f"error head saved to {folder / NAME}")
    return quality


def calibrating(segments: Sequence[Segment]) -> int:
    """Return from which segment on they are kept for ``calibrate``: those of the last sixth of the episodes, none of fewer than six."""
    names = [episode_name(segment) for segment in segments]
    order = list(dict.fromkeys(names))
    kept = set(order[len(order) - len(order) // 6 :])
    return next((i for i, name in enumerate(names) if name in kept), len(segments))


def _roll(simulator: Simulator, segments: Sequence[Segment], *, every: int) -> dict[str, Tensor]:
    """Roll segments out with their recorded actions beside what happened; keep the first 8 steps and then every so many."""
    state = simulator.start([segment.context for segment in segments], [segment.seed for segment in segments])
    hidden, error = list[Tensor](), list[Tensor]()
    for t in range(len(segments[0].actions)):
        state, step = simulator.step(state, np.stack([segment.actions[t] for segment in segments]))
        if t < 8 or t % every == 0:
            truth = np.stack([segment.frames[t] for segment in segments])
            hidden.append(step.hidden.cpu().half())
            error.append(torch.from_numpy(log_error(truth, step.frames)))
    return {"hidden": torch.cat(hidden), "error": torch.cat(error)}


def fit(data: Errors, *, steps: int, batch_size: int, lr: float, seed: int) -> ErrorHead:
    """Fit a head to errors; the same data and seed give the same head."""
    generator = torch.Generator().manual_seed(seed)
    spread = max(float(data.error.std(correction=0)), 1e-3)
    with seeded(seed):  # dropout draws from torch's own generator too
        head = ErrorHead(
            tokens=data.hidden.shape[1],
            width=data.hidden.shape[2],
            mean=float(data.error.mean()),
            spread=spread,
            threshold=float(data.error.quantile(RANK)),
        )
        optimizer = torch.optim.AdamW(head.parameters(), lr, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
        head.train()
        for _ in range(steps):
            rows = torch.randint(len(data.error), (batch_size,), generator=generator)
            mean, deviation = head(data.hidden[rows].float())
            loss = likelihood_loss(mean, deviation, data.error[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return head.eval().requires_grad_(False)


@torch.no_grad()
def calibrate(head: ErrorHead, data: Errors) -> None:
    """Shift and stretch what a head foretells, so that its normal distributions are likeliest for errors that it did not learn from.

    A network that learned few rollouts is surer of new ones than it should be (Guo et al. 2017, section 4.2, for classes). The two
    numbers that are best have a closed form; they go into the biases of the last layer.
    """
    told = [head(part.float()) for part in data.hidden.split(512)]
    mean, spread = (torch.cat(values).double() for values in zip(*told, strict=True))  # each (K,)
    weight = spread.pow(-2)
    shift = (weight * (data.error - mean)).sum() / weight.sum()
    stretch = ((data.error - mean - shift) / spread).square().mean().sqrt()
    bias: Tensor = head.mlp[-1].bias  # type: ignore[assignment]
    bias += torch.stack((shift / head.spread, stretch.log())).to(bias)  # (2,)


@torch.no_grad()
def chances(head: ErrorHead, data: Errors) -> Tensor:
    """Return ``ErrorHead.chance`` of K frames ``(K,)``."""
    return torch.cat([head.chance(part.float()) for part in data.hidden.split(512)])


def rank(head: ErrorHead, data: Errors) -> float:
    """Return the area under the ROC curve of ``head`` for errors above their 90th percentile."""
    chance, high = chances(head, data).numpy(), (data.error > data.error.quantile(RANK)).numpy()
    area = area_under_curve(chance[high], chance[~high])
    return float("nan") if area is None else area
