"""Rollouts in training that errors flow back through: the frames are those of a rollout, and what made them is learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_anchor import FRAMES, task_of
from test_training import dynamics_trainer, weights
from torch import Tensor

from worldsim.training.dynamics_task import Draw, DynamicsLoss
from worldsim.training.objective import Objective
from worldsim.training.unrolled import unroll

SKIP = 1  # of ``task_of``


def drawn(**more: Any) -> tuple[DynamicsLoss, Draw]:
    """Weights that are not those of a new network, and a draw half of whose clips are made on own frames."""
    loss, task = task_of(self_context=0.5, lowest_context=1.0, action_drop=0.0, **more)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in loss.dynamics.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return loss, task.batch(0, torch.Generator().manual_seed(0), torch.device("cpu"))


def test_frames_are_those_that_rounds_of_own_frames_come_to() -> None:
    rounds = FRAMES - SKIP
    loss, draw = drawn(self_rounds=rounds)
    wanted = loss.own_context(draw)[-draw.self_rows :, SKIP:]
    part = draw.rows(slice(-draw.self_rows, None))
    with torch.no_grad():
        made, hidden = unroll(loss.dynamics, part.clip, draw.begun, part.noise, through=rounds)
    torch.testing.assert_close(made, wanted, atol=1e-4, rtol=1e-4)
    assert hidden.shape[:2] == (draw.self_rows, FRAMES)
    assert not torch.allclose(loss.own_context(replace(draw, noise=draw.noise + 1))[-draw.self_rows :, SKIP:], wanted, atol=1e-2)


def reach(through: int) -> list[float]:
    """How much the noise of each frame bears on the last, in gradients."""
    loss, draw = drawn()
    part = draw.rows(slice(-draw.self_rows, None))
    noise = part.noise.clone().requires_grad_()
    made, _ = unroll(loss.dynamics, part.clip, draw.begun, noise, through=through)
    made[:, -1].square().sum().backward()  # type: ignore[no-untyped-call]
    assert noise.grad is not None
    return [float(value) for value in noise.grad.abs().sum((0, 2, 3, 4))]


def test_errors_flow_back_as_far_as_asked_and_no_farther() -> None:
    frames = FRAMES - SKIP
    assert all(value > 0 for value in reach(frames))
    assert [value > 0 for value in reach(2)] == [number >= (frames - 1) // 2 * 2 for number in range(frames)]


def test_what_was_made_is_kept_for_clips_that_go_on_from_it() -> None:
    loss, draw = drawn(unrolled=FRAMES, self_depth=3 * FRAMES)
    total, logs = loss(draw)
    assert total.requires_grad
    assert loss.own is not None
    assert not loss.own.requires_grad
    assert loss.own.shape == (draw.self_rows, FRAMES, *draw.clip.latents.shape[2:])
    assert torch.equal(loss.own[:, :SKIP], draw.begun)
    assert not draw.level[-draw.self_rows :].any()
    assert {"target", "context", "from_noise"} <= set(logs)


def test_training_with_it_is_another_training_and_the_same_each_time(tmp_path: Path) -> None:
    settings = ("objective.pixel_loss=4", "objective.self_context=0.5", "objective.self_from=0", "objective.self_rounds=2", "loop.steps=4")

    def train(name: str, *more: str) -> dict[str, Tensor]:
        trainer, _ = dynamics_trainer(tmp_path / name, *settings, *more)
        trainer.run()
        return weights(trainer)

    plain, one, same = train("plain"), train("one", "objective.unrolled=4"), train("same", "objective.unrolled=4")
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(plain[name], one[name]) for name in plain)


@pytest.mark.parametrize("more", [{"unrolled": -1}, {"unrolled": 4, "nats": 10.0}, {"unrolled": 4, "sink": 1}])
def test_what_cannot_be_unrolled_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"objective\.unrolled=-?\d must be a number of frames, or 0"):
        Objective(**more)
    assert Objective(unrolled=4).unrolled == 4
