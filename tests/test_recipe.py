"""Switches of the training recipe: what each changes, and that those left alone change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from worldsim.config import ConfigError, compose
from worldsim.diffusion import ramp_weight, velocity_weight
from worldsim.training.loop import LoopConfig, Trainer
from worldsim.training.objective import Objective
from worldsim.training.optimizers import MuonAdamW, build_optimizer, hidden_matrices, parameter_groups
from worldsim.windows import training_mask


class Toy(nn.Module):
    """Two blocks with matrices and vectors, an embedding and an output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.out = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = self.embed(x).flatten(1)  # (N, 8)
        for block in self.blocks:
            y = y + block(y).tanh()  # (N, 8)
        return (self.out(y) - x.sum((1, 2, 3), keepdim=False)[:, None]).square().mean(), {}


class ToyTask:
    """Random frames, and their sums to learn."""

    frames_per_step = 4

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.module: nn.Module = Toy()

    def batch(self, step: int, generator: torch.Generator, device: torch.device) -> Tensor:
        return torch.randn(4, 3, 2, 2, generator=generator)

    def sample(self, step: int, folder: Path) -> None:
        """Nothing to look at."""


def train(folder: Path, *, steps: int = 6, stop_after: int | None = None, **given: Any) -> Trainer:
    settings: dict[str, Any] = {"lr": 1e-2, "warmup": 2, "log_every": 1, "save_every": 3, "ema": 0.9, **given}
    trainer = Trainer(ToyTask(), LoopConfig(steps=steps, **settings), folder)
    trainer.run(stop_after=stop_after)
    return trainer


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.task.module.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_default_optimizer_is_adamw_as_ever(tmp_path: Path) -> None:
    """Training by hand with torch's AdamW, decay on matrices alone, gives the very weights of the loop."""
    made, task = train(tmp_path), ToyTask()
    parameters = list(task.module.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99))
    for step in range(6):
        generator = torch.Generator().manual_seed(step * 1_009)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 2)
        task.module(task.batch(step, generator, torch.device("cpu")))[0].backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert same(weights(made), [p.detach() for p in parameters])
    assert isinstance(made.optimizer.optimizer, torch.optim.AdamW)


def test_muon_trains_another_model_that_learns(tmp_path: Path) -> None:
    adamw, muon = train(tmp_path / "adamw", steps=40), train(tmp_path / "muon", steps=40, optimizer="muon")
    assert not same(weights(adamw), weights(muon))
    x = torch.randn(64, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    assert float(muon.task.module(x)[0].detach()) < float(ToyTask().module(x)[0].detach()) / 2


def test_muon_killed_and_resumed_equals_muon_uninterrupted(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", optimizer="muon")
    train(tmp_path / "cut", optimizer="muon", stop_after=4)
    second = train(tmp_path / "cut", optimizer="muon")
    assert second.step == 6
    assert same(weights(whole), weights(second))
    remembered = second.optimizer.optimizer.state[second.task.module.get_submodule("blocks.0").weight]
    assert set(remembered) == {"momentum_buffer"}


def test_muon_takes_matrices_in_blocks_and_adamw_all_else_once() -> None:
    module = Toy()
    optimizer = build_optimizer(module, "muon", lr=0.1, weight_decay=0.3)
    assert isinstance(optimizer, MuonAdamW)
    assert [id(p) for p in hidden_matrices(module)] == [id(block.weight) for block in module.blocks]
    taken = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, taken)) == sorted(map(id, module.parameters()))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0.0]
    assert [len(group["params"]) for group in parameter_groups(module, 0.3)] == [4, 4]


def test_optimizers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"loop\.optimizer='sgd' is unknown: use adamw or muon"):
        LoopConfig(steps=1, optimizer="sgd")
    with pytest.raises(ValueError, match="Linear has no matrices in blocks to use it on; use adamw"):
        build_optimizer(nn.Linear(2, 2), "muon", lr=0.1, weight_decay=0.0)


def test_a_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    train(tmp_path, stop_after=3)
    with pytest.raises(ValueError, match=r"is of loop\.optimizer=adamw: go on with that, choose another 'out'"):
        train(tmp_path, optimizer="muon")


def test_sinks_are_seen_beyond_the_window_and_only_where_asked_for() -> None:
    plain, sunk = training_mask(8, 2, 3)[0], training_mask(8, 2, 3, sink=1)[0]
    assert torch.equal(training_mask(8, 2, 3, sink=0)[0], plain)
    assert plain[7, 0] == float("-inf")
    assert sunk[7, 0] == 0.0  # the last context frame
    assert sunk[13, 0] == 0.0  # the last target frame
    assert sunk[0, 7] == float("-inf")  # nobody sees the future
    opened = (sunk == 0) & (plain != 0)
    assert set(opened.nonzero()[:, 1].tolist()) == {0}


def test_errors_in_velocities_weigh_more_near_clean_and_the_same_at_noise() -> None:
    level = torch.tensor([0.0, 0.5, 0.999, 1.0])
    assert velocity_weight(level, cap=100.0).tolist() == pytest.approx([1.0, 4.0, 100.0, 100.0])
    assert torch.equal(Objective(weight_floor=0.1).weight(level), ramp_weight(level, 0.1))
    assert Objective(loss_space="velocity").weight(level)[:2].tolist() == [1.0, 4.0]
    with pytest.raises(ValueError, match=r"objective\.loss_space='noise' is unknown: use clean or velocity"):
        Objective(loss_space="noise")


def test_the_switches_are_settings() -> None:
    cfg = compose("train_dynamics", ["loop.optimizer=muon", "objective.sink=1", "objective.loss_space=velocity"])
    assert (cfg.loop.optimizer, cfg.objective.sink, cfg.objective.loss_space) == ("muon", 1, "velocity")
    plain = compose("train_dynamics")
    assert (plain.loop.optimizer, plain.objective.sink, plain.objective.loss_space) == ("adamw", 0, "clean")
    with pytest.raises(ConfigError, match="optimiser"):
        compose("train_dynamics", ["loop.optimiser=muon"])
