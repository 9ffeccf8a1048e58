"""Clips that go on from the network's own frames, and the critic of decoded ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import dynamics_trainer, weights
from torch import Tensor

from worldsim.clips import LatentEpisodes
from worldsim.training.critic import Critic, critic_losses
from worldsim.training.objective import Objective
from worldsim.training.own_frames import OwnFrames

FRAMES, SKIP, AHEAD = 6, 2, 3


def numbered(lengths: tuple[int, ...] = (40, 40)) -> LatentEpisodes:
    """Episodes whose latents are the numbers of their frames."""
    total = sum(lengths)
    return LatentEpisodes(
        latents=np.arange(total, dtype=np.float16).reshape(total, 1, 1, 1),
        actions=np.zeros((total, 1), np.float32),
        rewards=np.zeros(total, np.float32),
        ends=np.zeros(total, np.float32),
        state=np.zeros((total, 0), np.float32),
        condition=torch.zeros(len(lengths), 2),
        starts=np.array([0, *np.cumsum(lengths)]),
    )


def draws(depth: int, count: int, *, lengths: tuple[int, ...] = (40, 40), seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Frame numbers ``(2,)`` where the two own clips begin, and what they look back at ``(2, SKIP)``; minus the truth is made."""
    own, made, found = OwnFrames(numbered(lengths), skip=SKIP, ahead=AHEAD, depth=depth), None, []
    for step in range(count):
        clip, begun = own.draw(4, FRAMES, torch.Generator().manual_seed(1000 * seed + step), rows=2, made=made)
        made = -clip.latents[2:]
        found.append((clip.latents[2:, 0].flatten(), begun.flatten(1)))
    return found


def test_clips_go_on_where_those_before_ended_looking_back_at_what_was_made() -> None:
    (first, real), (then, own) = draws(100, 2, lengths=(400, 400))
    assert torch.equal(real, first[:, None] + torch.arange(SKIP))
    assert torch.equal(then, first + AHEAD)
    assert torch.equal(own, -(then[:, None] + torch.arange(SKIP)))


def test_rollouts_begin_anew_at_their_depth_and_at_the_end_of_an_episode() -> None:
    at_once = draws(AHEAD, 30)
    assert all(float(begun.min()) >= 0 for _, begun in at_once)
    ages = [int(float(begun[0].min()) < 0) for _, begun in draws(3 * AHEAD, 30, lengths=(4000,))]
    assert ages == [0, 1, 1] * 10
    for (before, _), (then, begun) in zip(draws(10**6, 60), draws(10**6, 60)[1:], strict=False):
        own = begun[:, 0] < 0
        assert torch.equal(then[own], before[own] + AHEAD)
        assert bool(((then % 40) <= 40 - FRAMES).all())


def test_own_clips_are_drawn_by_the_seed() -> None:
    one, same, other = draws(9, 8), draws(9, 8), draws(9, 8, seed=1)
    assert all(torch.equal(a, b) for a, b in zip([x for pair in one for x in pair], [x for pair in same for x in pair], strict=True))
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(one, other, strict=True))


def sharp_and_blurred(count: int, seed: int) -> tuple[Tensor, Tensor]:
    sharp = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).sign() / 2
    return sharp, torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)


def test_a_critic_learns_to_tell_blurred_frames_from_sharp_ones() -> None:
    torch.manual_seed(0)
    critic = Critic((8, 8))
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3)
    for step in range(60):
        sharp, blurred = sharp_and_blurred(8, step)
        loss = critic_losses(critic, blurred, sharp, torch.zeros_like(sharp))[1]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    sharp, blurred = sharp_and_blurred(32, 1000)
    opinions = critic(sharp)
    assert opinions.shape == (32, 4 * 4 + 1)
    assert float((opinions.mean(1) > critic(blurred).mean(1)).float().mean()) > 0.9


def test_frames_are_pulled_by_the_critic_and_the_critic_by_its_own_loss_alone() -> None:
    torch.manual_seed(0)
    critic = Critic((8, 8))
    sharp, blurred = sharp_and_blurred(4, 0)
    made = blurred.clone().requires_grad_()
    frames, own = critic_losses(critic, made, sharp, torch.randn(sharp.shape, generator=torch.Generator().manual_seed(1)))
    frames.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in critic.parameters())
    pulled = made.grad
    assert pulled is not None
    assert float(pulled.abs().sum()) > 0
    made.grad = None
    own.backward()  # type: ignore[no-untyped-call]
    assert made.grad is None
    assert all(p.grad is not None for p in critic.parameters())


def test_a_critic_needs_decoded_frames() -> None:
    with pytest.raises(ValueError, match=r"objective\.critic=0\.1 looks at decoded frames: set objective\.pixel_loss above 0"):
        Objective(critic=0.1)
    assert Objective(critic=0.1, pixel_loss=1.0).critic == 0.1


@pytest.mark.parametrize("switch", ["objective.self_depth=12", "objective.critic=0.1"])
def test_training_with_either_is_another_training_and_the_same_each_time(tmp_path: Path, switch: str) -> None:
    pixels = ("objective.pixel_loss=4", "objective.self_from=0", "objective.self_rounds=2", "loop.steps=4")

    def train(name: str, *more: str) -> dict[str, Tensor]:
        trainer, _ = dynamics_trainer(tmp_path / name, *pixels, *more)
        trainer.run()
        return weights(trainer)

    plain, one, same = train("plain"), train("one", switch), train("same", switch)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(plain[name], one[name]) for name in plain)
