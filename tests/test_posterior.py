"""Noise that tells what cannot be foreseen: what it costs, and that a world trained with it chooses one future."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import dynamics_trainer, weights
from torch import Tensor

from worldsim.clips import LatentEpisodes
from worldsim.conditioning import Vocabulary
from worldsim.dit import VideoDiT
from worldsim.heads import Heads
from worldsim.training.dynamics_task import Draw, DynamicsLoss, DynamicsTask
from worldsim.training.objective import Objective
from worldsim.training.posterior import CHANGE, PRICE, Posterior

SHAPE = (2, 4, 4)
FRAMES = 5


def coins(count: int = 400) -> LatentEpisodes:
    """An episode whose frames are all 1 or all -1, as a coin falls."""
    sides = np.random.default_rng(0).choice([-1.0, 1.0], size=(count, 1, 1, 1))
    return LatentEpisodes(
        latents=np.broadcast_to(sides, (count, *SHAPE)).astype(np.float16),
        actions=np.zeros((count, 1), np.float32),
        rewards=np.zeros(count, np.float32),
        ends=np.zeros(count, np.float32),
        state=np.zeros((count, 0), np.float32),
        condition=torch.zeros(1, 2),
        starts=np.array([0, count]),
    )


def untrained(nats: float, self_context: float = 0.0) -> tuple[DynamicsLoss, DynamicsTask]:
    torch.manual_seed(0)
    dynamics = VideoDiT(latent_shape=SHAPE, action_features=1, width=32, depth=2, heads=2, temporal_every=2, window=2, history=1)
    heads = Heads(tokens=len(dynamics.place), width=32, state_size=0)
    objective = Objective(forcing=0, from_noise=1, skip=1, nats=nats, self_context=self_context, self_rounds=2, reward_loss=0, end_loss=0)
    loss = DynamicsLoss(dynamics, heads, objective)
    return loss, DynamicsTask(loss, coins(), Vocabulary(), batch_size=8, clip=FRAMES, frame_size=(8, 8))


def draw(task: DynamicsTask, step: int) -> Draw:
    return task.batch(step, torch.Generator().manual_seed(step), torch.device("cpu"))


def imagined(nats: float, *, steps: int = 120, self_context: float = 0.0) -> Tensor:
    """Frames ``(N, C, h, w)`` that a network trained on coins makes of plain noise."""
    loss, task = untrained(nats, self_context)
    optimizer = torch.optim.Adam(loss.parameters(), 3e-3)
    for step in range(steps):
        value, _ = loss(draw(task, step))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    last = draw(task, steps)
    with torch.no_grad():
        made = loss.streams(last, last.clip.latents, last.noise).latents[:, FRAMES:]  # (B, F - skip, C, h, w)
    return made.flatten(0, 1)


@pytest.mark.parametrize("self_context", [0.0, 0.5])
def test_a_world_that_is_told_of_coins_throws_one_and_one_that_is_not_gives_the_mean(self_context: float) -> None:
    mean = imagined(0.0, self_context=self_context)
    sides = imagined(2.0, self_context=self_context).mean((1, 2, 3))
    assert float(mean.abs().mean()) < 0.4
    assert float(sides.abs().mean()) > 0.7
    assert 0.2 < float((sides > 0).float().mean()) < 0.8


def test_nats_are_free_up_to_the_limit_and_cost_beyond_it() -> None:
    losses, told = dict[float, float](), 0.0
    for nats in (1.0, 2.0, 1e6):
        loss, task = untrained(nats)
        with torch.no_grad():
            value, logs = loss(draw(task, 0))
        losses[nats], told = float(value), float(logs["nats"])
    assert told > 2
    assert losses[1.0] - losses[2.0] == pytest.approx(PRICE, rel=1e-3)
    assert losses[1.0] - losses[1e6] == pytest.approx(PRICE * (told - 1), rel=1e-3)
    assert "nats" not in untrained(0.0)[0](draw(task, 0))[1]


def test_noise_tells_of_the_change_and_is_charged_for_it() -> None:
    posterior = Posterior(channels=2, history=1, action_features=3, width=8)
    still, actions, noise = (torch.randn(4, 5, *shape, generator=torch.Generator().manual_seed(0)) for shape in (SHAPE, (3,), SHAPE))
    same, free = posterior(still, still, actions, noise)
    assert torch.equal(same, noise)
    assert torch.equal(free, torch.zeros(4, 5))
    other, charged = posterior(still + 1, still, actions, noise)
    torch.testing.assert_close(other, noise + CHANGE)
    torch.testing.assert_close(charged, torch.full((4, 5), 32 * CHANGE**2 / 2))  # Kingma and Welling 2014, appendix B
    torch.nn.init.constant_(posterior.last.get_parameter("bias"), 0.5)
    wider, dearer = posterior(still, still, actions, noise)
    log_std = 3 * np.tanh(0.5 / 3)
    torch.testing.assert_close(wider, 0.5 + float(np.exp(log_std)) * noise)
    torch.testing.assert_close(dearer, torch.full((4, 5), float(16 * (0.25 + np.exp(2 * log_std) - 1 - 2 * log_std))))


def test_training_with_it_is_another_training_the_same_each_time_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    def train(name: str, *more: str, stop_after: int | None = None) -> dict[str, Tensor]:
        trainer, _ = dynamics_trainer(tmp_path / name, "loop.steps=4", "objective.self_from=0", *more)
        trainer.run(stop_after=stop_after)
        return weights(trainer)

    plain, one = train("plain"), train("one", "objective.nats=2")
    train("killed", "objective.nats=2", stop_after=2)
    again = train("killed", "objective.nats=2")
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(plain[name], one[name]) for name in plain)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_less_than_nothing_and_no_number_cannot_be_told(wrong: float) -> None:
    with pytest.raises(ValueError, match=rf"objective\.nats={wrong} must be 0, which turns it off, or more"):
        Objective(nats=wrong)
    assert Objective(nats=1.0).nats == 1.0
