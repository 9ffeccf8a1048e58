"""Training of the error head: roll a finished world out beside recorded episodes, and learn where it went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from worldsim.checkpoint import resolve, save_component
from worldsim.evaluation.openloop import Segment, cut_segments, log_error
from worldsim.evaluation.scores import area_under_curve
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.training.run import check_counts, open_data, seeded
from worldsim.types import EpisodeStore
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
    cut: dict[str, Any] = {"context": cfg.context, "horizon": cfg.horizon, "per_episode": cfg.per_episode, "seed": cfg.seed}
    train = _gather(world, store, "train", cfg, cut, limit=cfg.segments)
    head = fit(train, steps=cfg.steps, batch_size=cfg.batch_size, lr=cfg.lr, seed=cfg.seed)
    quality = float("nan")
    if store.split("heldout"):
        heldout = _gather(world, store, "heldout", cfg, cut, limit=max(1, cfg.segments // 5))
        quality = rank(head, heldout)
        print(f"area under the ROC curve for errors above the 90th percentile: {quality:.3f} over {len(heldout.error):,} held-out frames")
    save_component(head, folder / NAME)
    print(f"error head saved to {folder / NAME}")
    return quality


def _gather(world: WorldModel, store: EpisodeStore, split: str, cfg: DictConfig, cut: dict[str, Any], *, limit: int) -> Errors:
    segments = cut_segments(store, split=split, limit=limit, **cut)
    done = 0

    def say(count: int) -> None:
        nonlocal done
        done += count
        print(f"rolled out {done}/{len(segments)} {split} segments", flush=True)

    return gather(world, segments, batch=cfg.batch, every=cfg.every, say=say)


def gather(
    world: WorldModel, segments: Sequence[Segment], *, batch: int, every: int, say: Callable[[int], None] = lambda _: None
) -> Errors:
    """Roll segments out with their recorded actions and compare with what happened.

    Args:
        world: The finished world.
        segments: Stretches of episodes.
        batch: How many run together.
        every: Keep the first 8 steps and then every so many.
        say: Is told the number of segments after each batch.
    """
    simulator, kept = Simulator(world, in_place=True), list[Errors]()
    for start in range(0, len(segments), batch):
        part = segments[start : start + batch]
        kept += _roll(simulator, part, every)
        say(len(part))
    return Errors(torch.cat([one.hidden for one in kept]), torch.cat([one.error for one in kept]))


def _roll(simulator: Simulator, segments: Sequence[Segment], every: int) -> Iterator[Errors]:
    state = simulator.start([segment.context for segment in segments], [segment.seed for segment in segments])
    for t in range(len(segments[0].actions)):
        state, step = simulator.step(state, np.stack([segment.actions[t] for segment in segments]))
        if t < 8 or t % every == 0:
            truth = np.stack([segment.frames[t] for segment in segments])
            yield Errors(step.hidden.cpu().half(), torch.from_numpy(log_error(truth, step.frames)))


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
def rank(head: ErrorHead, data: Errors) -> float:
    """Return the area under the ROC curve of ``head`` for errors above their 90th percentile."""
    chance = torch.cat([head.chance(part.float()) for part in data.hidden.split(512)]).numpy()
    high = (data.error > data.error.quantile(RANK)).numpy()
    area = area_under_curve(chance[high], chance[~high])
    return float("nan") if area is None else area
