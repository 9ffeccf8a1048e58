"""Training of the error head: roll a finished world out beside recorded episodes, and learn where it went wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from worldsim.checkpoint import content_hash, resolve, save_component
from worldsim.evaluation.figures import episode_name
from worldsim.evaluation.openloop import Segment, cut_segments, log_error
from worldsim.evaluation.scores import area_under_curve
from worldsim.files import save_tensors
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
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
    cut: dict[str, Any] = {"context": cfg.context, "horizon": cfg.horizon, "per_episode": cfg.per_episode, "seed": cfg.seed}
    segments = cut_segments(store, split="train", limit=cfg.segments, **cut)
    kept = calibrating(segments)
    heldout = cut_segments(store, split="heldout", limit=max(1, cfg.segments // 5), **cut) if store.split("heldout") else []
    done = _Done(Path(cfg.out) / _key(cfg, store.info.fingerprint))
    errors = _gather(world, [segments[:kept], segments[kept:], heldout], cfg, done)
    head = fit(errors[0], steps=cfg.steps, batch_size=cfg.batch_size, lr=cfg.lr, seed=cfg.seed)
    if segments[kept:]:
        calibrate(head, errors[1])
    quality = float("nan")
    if heldout:
        quality = rank(head, errors[2])
        foretold, found = float(chances(head, errors[2]).mean()), float((errors[2].error > head.threshold).float().mean())
        print(f"area under the ROC curve for errors above the 90th percentile: {quality:.3f} over {len(errors[2].error):,} held-out frames")
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


class _Done:
    """Batches of rollouts on disk, so that training that is killed rolls none out again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, number: int) -> Errors | None:
        """Return what was kept by this number."""
        file = self._file(number)
        return Errors(**load_file(file)) if file.exists() else None

    def keep(self, number: int, errors: Errors) -> None:
        """Write it down."""
        save_tensors(vars(errors), self._file(number))

    def forget(self) -> None:
        """Remove all."""
        shutil.rmtree(self.folder)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"


def _key(cfg: DictConfig, fingerprint: str) -> str:
    """Name what rollouts depend on: the world's files, the data and how they are cut."""
    settings = {name: cfg[name] for name in ("segments", "per_episode", "context", "horizon", "every", "batch", "seed")}
    told = json.dumps([content_hash(resolve(cfg.world)), fingerprint, settings])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _gather(world: WorldModel, parts: Sequence[Sequence[Segment]], cfg: DictConfig, done: _Done) -> list[Errors]:
    """Roll out several lists of segments, ``cfg.batch`` together, and say how it goes."""
    simulator, found = Simulator(world, in_place=True), [list[Errors]() for _ in parts]
    total, count, fresh, begun = sum(map(len, parts)), 0, 0, time.monotonic()
    batches = [(kept, part[i : i + cfg.batch]) for kept, part in zip(found, parts, strict=True) for i in range(0, len(part), cfg.batch)]
    for number, (kept, batch) in enumerate(batches):
        errors = done.read(number)
        if errors is None:
            errors, fresh = _join(list(_roll(simulator, batch, cfg.every))), fresh + len(batch)
            done.keep(number, errors)
        kept.append(errors)
        count += len(batch)
        left = (time.monotonic() - begun) / max(fresh, 1) * (total - count)
        print(f"rolled out {count}/{total} segments, {left:.0f} s left", flush=True)
    return [_join(kept) for kept in found]


def _join(parts: Sequence[Errors]) -> Errors:
    """Lay parts end to end; nothing of none."""
    if not parts:
        return Errors(torch.zeros(0, 0, 0), torch.zeros(0))
    return Errors(torch.cat([one.hidden for one in parts]), torch.cat([one.error for one in parts]))


def _roll(simulator: Simulator, segments: Sequence[Segment], every: int) -> Iterator[Errors]:
    """Roll segments out with their recorded actions beside what happened; keep the first 8 steps and then every so many."""
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
