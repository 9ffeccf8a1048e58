"""The training loop: steps, averages, logs, samples and states, the same for every model.

Everything random in step n comes from (seed, n, device rank) alone, so a killed run that resumes equals one that was never killed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import TorchDynamoPlugin, broadcast
from torch import Tensor, nn

from worldsim.training.ema import WeightAverage
from worldsim.training.optimizers import OPTIMIZERS, build_optimizer
from worldsim.training.progress import TrainingProgress
from worldsim.training.state import find_state, load_state, restore_optimizer, save_state


@dataclass(frozen=True)
class LoopConfig:
    """How a model is trained.

    Attributes:
        steps: Optimiser steps in all.
        lr: Peak learning rate.
        warmup: Steps of linear rise of the learning rate.
        decay: Steps at the end over which the rate falls to 0 (linearly; warm-up, stable, decay).
        weight_decay: Decoupled, on matrices only.
        minutes: Wall-clock minutes of training in all, earlier runs of it included. It ends then or after ``steps``, whichever comes
            first, and the rate falls over the same share, ``decay / steps``, of what ends it. None: the clock does not matter.
        optimizer: ``adamw``, or ``muon`` for the matrices inside blocks (see ``worldsim.training.optimizers``).
        grad_clip: Largest gradient norm.
        ema: Decay of the averaged weights that are shipped.
        precision: ``no`` (fp32), ``bf16``, or ``auto``: bf16 on GPUs, fp32 on CPUs.
        compile: Compile the model with inductor.
        compile_blocks: Compile its repeated blocks instead: seconds where the whole model takes minutes, and somewhat slower steps.
        seed: Everything random comes from it.
        log_every: Steps between log lines.
        save_every: Steps between training states on disk.
        sample_every: Steps between samples to look at; 0 for none.
        threads: CPU threads; null for torch's own choice.
    """

    steps: int
    lr: float = 1e-3
    warmup: int = 200
    decay: int = 0
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    ema: float = 0.999
    precision: str = "auto"
    compile: bool = False
    seed: int = 0
    log_every: int = 20
    save_every: int = 500
    sample_every: int = 0
    threads: int | None = None
    optimizer: str = "adamw"
    minutes: float | None = None
    compile_blocks: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.precision not in ("auto", "no", "bf16"):
            raise ValueError(f"precision {self.precision!r} is unknown: use auto, no (fp32) or bf16")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"loop.optimizer={self.optimizer!r} is unknown: use {' or '.join(OPTIMIZERS)}")
        if self.steps < 1 or not 0 <= self.decay <= self.steps:
            raise ValueError(f"steps={self.steps} must be at least 1 and decay={self.decay} between 0 and steps")
        for name in ("log_every", "save_every", "threads"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"loop.{name}={getattr(self, name)} must be 1 or more")

        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"loop.minutes={self.minutes} must be above 0, or null to train for all steps")

    def rate(self, step: int, share: float = 0.0) -> float:
        """Return the learning rate of optimiser step ``step``, when ``share`` of ``minutes`` is over."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        done = max(step, min(share, 1.0) * self.steps)
        fall = min(1.0, (self.steps - done) / self.decay) if self.decay else 1.0
        return self.lr * rise * fall


class Task(Protocol):
    """What is trained: a module whose forward gives the loss, and where its batches come from."""

    frames_per_step: int

    @property
    def module(self) -> nn.Module:
        """Called with a batch, gives ``(loss, logs)``."""
        ...

    def batch(self, step: int, generator: torch.Generator, device: torch.device) -> Any:
        """Draw the batch of optimiser step ``step``."""
        ...

    def sample(self, step: int, folder: Path) -> None:
        """Write something to look at, with the averaged weights in ``module``."""
        ...


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """Return the generator of everything random in one step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_009 + rank)


def compile_blocks(module: nn.Module) -> None:
    """Compile the repeated blocks of a model with inductor, where they are; what they share is compiled once.

    Raises:
        ValueError: The model has none.
    """
    blocks = [block for part in module.modules() if isinstance(part, nn.ModuleList) for block in part]
    if not blocks:
        raise ValueError(f"loop.compile_blocks=true: {type(module).__name__} has no repeated blocks; use loop.compile=true")
    for block in blocks:
        block.compile()


def processes() -> PartialState:
    """Join the processes that ``torchrun`` started, on CPUs too where there is nothing else."""
    return PartialState(cpu=not torch.accelerator.is_available())


class Trainer:
    """Runs a ``Task`` by a ``LoopConfig`` in a folder, and goes on from the state it finds there."""

    def __init__(self, task: Task, config: LoopConfig, folder: Path) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.task, self.config, self.folder = task, config, folder
        precision = config.precision if config.precision != "auto" else "bf16" if torch.cuda.is_available() else "no"
        backend: Any = "inductor" if config.compile and not config.compile_blocks else "no"
        plugin = TorchDynamoPlugin(backend=backend)
        if config.compile_blocks:
            compile_blocks(task.module)
        processes()
        self.accelerator = Accelerator(mixed_precision=precision, dynamo_plugin=plugin)
        optimizer = build_optimizer(task.module, config.optimizer, lr=config.lr, weight_decay=config.weight_decay)
        self.model, self.optimizer = self.accelerator.prepare(task.module, optimizer)
        self.ema = WeightAverage(task.module, decay=config.ema)
        self.step, self.seconds = 0, 0.0
        self._norm: tuple[Tensor, int, float] | None = None
        self._resume()

    def _resume(self) -> None:
        found = find_state(self.folder / "state")
        if found is None:
            return
        tensors, meta = load_state(found)
        theirs = meta.get("optimizer", "adamw")
        if theirs != self.config.optimizer:
            raise ValueError(
                f"training state {found} is of loop.optimizer={theirs}: go on with that, choose another 'out', or remove the folder"
            )
        try:
            self.task.module.load_state_dict(tensors["model"])
            restore_optimizer(self.optimizer.optimizer, tensors["optimizer"])
            for name, value in tensors["ema"].items():
                self.ema.tensors[name].copy_(value)
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"training state {found} is of another model: choose another 'out', or remove the folder") from error
        self.step, self.seconds = int(meta["step"]), float(meta.get("seconds", 0.0))

    def run(self, *, stop_after: int | None = None) -> None:
        """Train to ``config.steps`` or ``config.minutes``, or ``stop_after`` steps from here."""
        last = self.config.steps if stop_after is None else min(self.config.steps, self.step + stop_after)
        begun, earlier = time.monotonic(), self.seconds
        share = self._share()
        with TrainingProgress(self.folder, total=self.config.steps, start=self.step, show=self.accelerator.is_main_process) as progress:
            while self.step < last and share < 1:
                logs = self._train_step(share)
                self.step, self.seconds = self.step + 1, earlier + time.monotonic() - begun
                share = self._share()
                frames = self.task.frames_per_step * self.accelerator.num_processes
                progress.advance(self.step, frames, logs, log=self.step % self.config.log_every == 0, share=share)
                self._milestones(done=self.step == last or share >= 1)

    def _share(self) -> float:
        """Return how much of ``config.minutes`` is over, the same on all devices; 0 where there is no such limit."""
        if self.config.minutes is None:
            return 0.0
        share = self.seconds / (60 * self.config.minutes)
        if self.accelerator.num_processes == 1:
            return share
        agreed: Any = broadcast(torch.tensor(share, device=self.accelerator.device))
        return float(agreed)

    def _train_step(self, share: float) -> Mapping[str, Tensor]:
        generator = step_generator(self.config.seed, self.step, self.accelerator.process_index)
        batch = self.task.batch(self.step, generator, self.accelerator.device)
        rate = self.config.rate(self.step, share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        with self.accelerator.autocast():
            loss, logs = self.model(batch)
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self._check_norm()  # on a GPU that of the step before: to ask for this one now would be to wait for it
        self._norm = None if norm is None else (norm, self.step, rate)
        if self.accelerator.device.type == "cpu":
            self._check_norm()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.task.module, self.step)
        return {"loss": loss.detach(), **logs}

    def _check_norm(self) -> None:
        if self._norm is None:
            return
        (norm, step, rate), self._norm = self._norm, None
        if not math.isfinite(float(norm)):
            raise ValueError(f"training step {step}: the gradient is not finite; lower lr (now {rate:.1e}) and start from the last state")

    def _milestones(self, *, done: bool) -> None:
        if not self.accelerator.is_main_process:
            return
        if done or self.step % self.config.save_every == 0:
            self._check_norm()
            save_state(
                self.folder / "state",
                model=self.task.module,
                ema=self.ema.tensors,
                optimizer=self.optimizer.optimizer,
                meta={"step": self.step, "seconds": self.seconds, "optimizer": self.config.optimizer},
            )
        if self.config.sample_every and (done or self.step % self.config.sample_every == 0):
            with self.averaged():
                self.task.sample(self.step, self.folder / "samples")

    def averaged(self) -> _Swapped:
        """Return a context in which ``task.module`` carries the averaged weights and is in evaluation mode."""
        return _Swapped(self.task.module, self.ema.tensors)


class _Swapped:
    """Puts other weights into a module for a while."""

    def __init__(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        self.module, self.tensors = module, tensors

    def __enter__(self) -> nn.Module:
        self.own = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(dict(self.tensors))
        return self.module.eval()

    def __exit__(self, *_: object) -> None:
        self.module.load_state_dict(self.own)
        self.module.train()
