"""Carrying: each latent of the frame before is moved along by a kernel of its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_grown_world import grow, outcome
from torch import Tensor

from worldsim.dit import FrameInputs, VideoDiT, carried
from worldsim.windows import training_mask

C, H, W = 3, 4, 6


def one_hot(place: int, side: int = 3) -> Tensor:
    kernels = torch.zeros(2, 1, side * side, H, W)
    kernels[:, :, place] = 1
    return kernels


def draw(seed: int = 0) -> Tensor:
    return torch.randn(2, 1, C, H, W, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- the operation


def test_a_kernel_of_one_place_moves_all_by_that_and_nothing_comes_from_beyond_the_edge() -> None:
    latents = draw()
    assert torch.equal(carried(latents, one_hot(4)), latents)
    down = carried(latents, one_hot(1))  # from the row above
    assert torch.equal(down[..., 1:, :], latents[..., :-1, :])
    assert not down[..., 0, :].any()
    left = carried(latents, one_hot(5))  # from the column to the right
    assert torch.equal(left[..., :-1], latents[..., 1:])
    assert not left[..., -1].any()
    assert torch.equal(carried(latents, one_hot(12, side=5)), latents)


def test_every_place_has_its_own_kernel_and_all_channels_share_it() -> None:
    latents, kernels = draw(), one_hot(4)
    kernels[0, 0, :, 2, 3] = torch.arange(9.0)
    moved = carried(latents, kernels)
    around = latents[0, 0, :, 1:4, 2:5].flatten(1)  # (C, 9)
    torch.testing.assert_close(moved[0, 0, :, 2, 3], around @ torch.arange(9.0))
    rest = torch.ones(H, W, dtype=torch.bool)
    rest[2, 3] = False
    assert torch.equal(moved[0, 0][:, rest], latents[0, 0][:, rest])
    assert torch.equal(moved[1], latents[1])


# ---------------------------------------------------------------- in the network


def network(**switches: object) -> VideoDiT:
    torch.manual_seed(0)
    given = {"latent_shape": (C, H, W), "action_features": 1, "condition_features": 1, "width": 32, "depth": 2, "heads": 2}
    dit: VideoDiT = VideoDiT(**{**given, "temporal_every": 2, "window": 2, "history": 1, "carry": 3, **switches})
    return dit


def inputs(before: Tensor, action: Tensor, history: Tensor | None = None) -> FrameInputs:
    b, ones = len(before), torch.ones(len(before), 1)
    return FrameInputs(
        latents=torch.zeros_like(before),
        history=before if history is None else history,
        level=0 * ones,
        step=0 * ones,
        history_level=ones,
        actions=action.view(b, 1, 1),
        known=ones.bool(),
        condition=ones,
        positions=torch.zeros(b, 1),
    )


def test_it_is_the_newest_frame_that_is_carried() -> None:
    dit = network(history=2, anchor=True)
    assert dit.kernels is not None
    torch.nn.init.zeros_(dit.embed.weight)
    history, mask = torch.cat((draw(1), draw(2), draw(3)), dim=2), training_mask(1, 0, 2)[:, :1, :1]
    with torch.no_grad():
        still = dit(inputs(draw(0), torch.zeros(2), history), mask).latents
        dit.kernels.bias.view(2, 2, 9)[..., 1] = 1
        moved = dit(inputs(draw(0), torch.zeros(2), history), mask).latents
    torch.testing.assert_close(moved - still, carried(draw(1), one_hot(1)))


def test_it_learns_to_move_what_it_never_saw_by_the_action() -> None:
    """All is moved a place to the right or left, as the action says: noise, so that there is nothing else to learn."""
    errors = dict[int, float]()
    for carry in (0, 3):
        dit = network(carry=carry)
        optimizer = torch.optim.Adam(dit.parameters(), 3e-3)
        mask = training_mask(1, 0, 2)[:, :1, :1]
        for step in range(250):
            generator = torch.Generator().manual_seed(step)
            before = torch.randn(16, 1, C, H, W, generator=generator)
            action = torch.randint(2, (16,), generator=generator).float() * 2 - 1
            wanted = torch.stack([torch.roll(x, int(a), -1) for x, a in zip(before, action, strict=True)])
            made = dit(inputs(before, action), mask).latents
            error = (made - wanted)[..., 1:-1].square().mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        errors[carry] = error.item()
    assert errors[3] < 0.1
    assert errors[0] > 3 * errors[3]


@pytest.mark.parametrize("carry", [2, -1, -3])
def test_kernels_have_a_middle(carry: int) -> None:
    with pytest.raises(ValueError, match=rf"carry={carry} must be an odd side of kernels, or 0"):
        network(carry=carry)


def test_there_must_be_a_frame_to_carry() -> None:
    with pytest.raises(ValueError, match=r"carry=3 .* needs history=1 or more"):
        network(history=0)


# ---------------------------------------------------------------- growing


def test_a_world_that_learns_to_carry_does_at_first_what_it_did(tmp_path: Path) -> None:
    before, grown = grow(tmp_path, "model.carry=3")
    after = grown.world()
    for one, other in zip(outcome(before, before.contexts[0]), outcome(after, before.contexts[0]), strict=True):
        np.testing.assert_array_equal(one, other)
    layer = grown.dynamics.kernels
    assert layer is not None
    torch.nn.init.normal_(layer.weight, std=0.1)
    changed = outcome(grown.world(), before.contexts[0])
    assert not np.allclose(changed[0], outcome(before, before.contexts[0])[0], atol=1e-3)
