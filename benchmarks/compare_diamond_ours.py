"""This package's training against a clock, and resumable: first a tokenizer, then the dynamics on its latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from compare_diamond_footage import WAYS, Clock, Settings, forward_backward, median_seconds
from numpy.typing import NDArray

from worldsim.checkpoint import load_component, save_component
from worldsim.config import compose
from worldsim.evaluation.openloop import Segment, imagine
from worldsim.evaluation.speed import frame_flops
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.spec import Sampling
from worldsim.targets import instantiate_allowed
from worldsim.tokenizer import FrameAutoencoder
from worldsim.training.build import WorldBuilder
from worldsim.training.loop import LoopConfig, Trainer
from worldsim.training.run import seeded
from worldsim.training.state import find_state
from worldsim.training.tokenizer_task import TokenizerTask
from worldsim.types import EpisodeStore


@dataclass(frozen=True)
class TimedLoop(LoopConfig):
    """A loop whose learning rate falls over the last share ``fall`` of the time; ``gone`` tells the share that is gone."""

    gone: Callable[[], float] = lambda: 0.0
    fall: float = 0.4

    def rate(self, step: int, share: float = 0.0) -> float:
        """Return the learning rate of optimiser step ``step``."""
        return self.lr * min(1.0, (step + 1) / max(1, self.warmup)) * min(1.0, max(0.0, (1 - self.gone()) / self.fall))


@dataclass(frozen=True)
class Recipe:
    """One of ours: settings of tokenizer and dynamics, those that come ``late`` in the dynamics, and the ways to sample."""

    name: str
    said: str
    tokenizer: tuple[str, ...]
    dynamics: tuple[str, ...]
    late: dict[str, Any]
    sampling: dict[str, Sampling]


class Ours:
    """This package's training: a tokenizer for a share of the time, its latents, then the dynamics for the rest."""

    def __init__(self, settings: Settings, recipe: Recipe, way: str, *, tokenizer_share: float, late: float = 0.5) -> None:
        self.settings, self.recipe, self.name, self.late = settings, recipe, recipe.name, late
        self.folder = settings.work / recipe.name
        self.clock = Clock(self.folder / "clock.json", settings.now)
        self.first = tokenizer_share * settings.budget
        self.loop: dict[str, Any] = {
            "precision": "bf16" if WAYS[way][0] else "no",
            "compile": WAYS[way][1],
            "threads": torch.get_num_threads(),
        }
        self.way, self.pace = WAYS[way], 0.0
        file = self.folder / "tokenizer"
        self.tokenizer: Any = load_component(FrameAutoencoder, file) if (file / "config.json").exists() else None
        self.trainer: Trainer | None = None
        self.builder: WorldBuilder | None = None

    def _open(self) -> Trainer:
        if self.trainer is None:
            self.trainer = self._open_tokenizer() if self.tokenizer is None else self._open_dynamics()
        return self.trainer

    def _timed(self, cfg: Any, fall: float, gone: Callable[[], float]) -> TimedLoop:
        quiet, loop = 10**9, cfg.loop
        rates = {
            "lr": loop.lr,
            "warmup": min(loop.warmup, 100),
            "weight_decay": loop.weight_decay,
            "grad_clip": loop.grad_clip,
            "ema": loop.ema,
        }
        told = {"seed": self.settings.seed, "log_every": quiet, "save_every": quiet, **self.loop}
        return TimedLoop(steps=quiet, gone=gone, fall=fall, **rates, **told)

    def _open_tokenizer(self) -> Trainer:
        cfg = compose("train_tokenizer", list(self.recipe.tokenizer))
        with seeded(self.settings.seed):
            made = instantiate_allowed(cfg.model, frame_size=list(self.settings.store.info.frame_size))
        frames, heldout = self.settings.footage.frames, self.settings.heldout
        task = TokenizerTask(made, frames, heldout, batch_size=cfg.batch_size, edges=cfg.edges, equivariance=cfg.equivariance)
        return Trainer(task, self._timed(cfg, 0.5, lambda: self.clock.used / self.first), self.folder / "of_tokenizer")

    def _open_dynamics(self) -> Trainer:
        overrides = [f"data.path={self.settings.data}", f"tokenizer_dir={self.folder / 'tokenizer'}", "contexts=1", *self.recipe.dynamics]
        cfg = compose("train_dynamics", overrides)
        tokenizer = self.tokenizer.to(self.settings.device).eval().requires_grad_(False)
        with seeded(self.settings.seed):
            self.builder = WorldBuilder(self.settings.store, tokenizer, cfg, self.folder)
        rest = self.settings.budget - self.first
        loop = self._timed(cfg, 0.4, lambda: (self.clock.used - self.first) / rest)
        return Trainer(self.builder.task, loop, self.folder / "of_dynamics")

    def seconds_a_step(self, count: int) -> float:
        """Measure the costly part of a training step of the dynamics, with an untrained tokenizer."""
        cfg = compose("train_tokenizer", list(self.recipe.tokenizer))
        made = instantiate_allowed(cfg.model, frame_size=list(self.settings.store.info.frame_size))
        tokenizer = made.to(self.settings.device).eval().requires_grad_(False)
        few = _Few(self.settings.store)
        data = [f"data.path={self.settings.data}", "contexts=1", *self.recipe.dynamics]
        task = WorldBuilder(few, tokenizer, compose("train_dynamics", data), self.folder / "untrained").task
        run = forward_backward(task.module, *self.way, self.settings.device)
        draw = lambda i: task.batch(i, torch.Generator().manual_seed(i), self.settings.device)  # noqa: E731
        return median_seconds(lambda i: run(draw(i)), count, self.settings.now)

    def train(self, seconds: float) -> None:
        """Train for about so many seconds more, at least a step, and keep the state."""
        if self.tokenizer is not None and find_state(self.folder / "of_dynamics" / "state") is not None:
            self._open()  # what is read again after a kill is no training
        self.clock.start()
        trainer = self._open()
        end = min(self.clock.used + seconds, self.first if self.tokenizer is None else self.settings.budget)
        self._mind_late()
        while True:
            since, count = self.clock.used, 1 if not self.pace else max(1, round(min(end - self.clock.used, seconds) / self.pace))
            trainer.run(stop_after=count)
            self.pace = (self.clock.used - since) / count
            if self.clock.used + self.pace / 2 >= end:
                break
        if self.tokenizer is None and self.clock.used + self.pace >= self.first:
            self._finish_tokenizer(trainer)
        self.clock.stop(step=trainer.step)

    def _mind_late(self) -> None:
        if self.builder is not None and self.clock.used - self.first >= self.late * (self.settings.budget - self.first):
            loss = self.builder.task.module
            loss.objective = replace(loss.objective, **self.recipe.late)

    def _finish_tokenizer(self, trainer: Trainer) -> None:
        """Keep the tokenizer's averaged weights; its latents are made in the time of the dynamics."""
        with trainer.averaged() as module:
            made: Any = module.autoencoder
            save_component(made, self.folder / "tokenizer")
        self.tokenizer, self.trainer, self.pace = load_component(FrameAutoencoder, self.folder / "tokenizer"), None, 0.0

    def told(self) -> dict[str, Any]:
        """Return what was trained."""
        trainer, builder = self._open(), self.builder
        assert builder is not None
        counted = {
            name: sum(p.numel() for p in part.parameters()) for name, part in (("dynamics", builder.dynamics), ("heads", builder.heads))
        }
        tokenizer = sum(p.numel() for p in self.tokenizer.parameters())
        return {"steps": trainer.step, "batch": builder.task.batch_size, "parameters": sum(counted.values()) + tokenizer}

    def ways(self) -> dict[str, tuple[str, Callable[[Sequence[Segment]], NDArray[np.uint8]], float]]:
        """Return what is judged: name to (what it is, frames of segments, GFLOP a frame)."""
        trainer, found = self._open(), {}
        assert self.builder is not None
        with trainer.averaged():
            world = self.builder.world(contexts=False)
            world.save_pretrained(self.folder / "world")
        kept = WorldModel.from_pretrained(self.folder / "world", device=str(self.settings.device))

        def rolled(sampling: Sampling) -> Callable[[Sequence[Segment]], NDArray[np.uint8]]:
            return lambda segments: imagine(Simulator(kept, sampling=sampling), segments).frames

        for way, sampling in self.recipe.sampling.items():
            name = f"{self.name} {way}".strip()
            steps = f"{sampling.steps} denoising step{'s' * (sampling.steps > 1)}"
            found[name] = (f"{self.recipe.said}, {steps}", rolled(sampling), frame_flops(kept, sampling)["total"])
        return found


class _Few:
    """The first episodes of a dataset: enough to measure a step on."""

    def __init__(self, store: EpisodeStore) -> None:
        self.store, self.info = store, store.info

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> Any:
        return self.store[index]

    def split(self, name: str) -> list[int]:
        return list(self.store.split(name))[:2]
