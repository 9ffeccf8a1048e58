"""Anchors: the frame that a rollout began from stays in view, and tells what faded frames should look like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_grown_world import Store, build, grow, outcome, plain
from test_simulator import draw_actions, run
from torch import Tensor

from worldsim.clips import LatentEpisodes
from worldsim.conditioning import Vocabulary
from worldsim.contexts import Context
from worldsim.dit import VideoDiT
from worldsim.heads import Heads
from worldsim.model import WorldModel
from worldsim.simulator import Simulator, State
from worldsim.snapshot import Snapshot, from_bytes, to_bytes
from worldsim.training.dynamics_task import DynamicsLoss, DynamicsTask
from worldsim.training.faded import FARTHEST, draw_fading, fade
from worldsim.training.objective import Objective
from worldsim.windows import push_history, stack_history

SHAPE, FRAMES = (2, 4, 4), 5


@pytest.fixture(scope="module")
def anchored(make_world: Any) -> WorldModel:
    """The tiny world with an anchor."""
    plain_world: WorldModel = make_world()
    torch.manual_seed(1)
    dynamics = VideoDiT(**{**plain_world.dynamics.config, "anchor": True})
    for parameter in dynamics.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    return plain_world.replaced(dynamics=dynamics.eval().requires_grad_(False))


def shortened(context: Context, count: int) -> Context:
    return Context(context.frames[:count], context.actions[: count - 1], context.conditioning)


# ---------------------------------------------------------------- rollouts


def test_the_first_frame_of_the_context_stays_and_others_leave(anchored: WorldModel) -> None:
    simulator, context = Simulator(anchored), anchored.contexts[0]
    first = Simulator(anchored).start([shortened(context, 1)], [0]).history[:, -1]
    state = simulator.start([context], [0])
    begun = state.history.clone()
    assert begun.shape[1] == anchored.dynamics.config.history + 1
    torch.testing.assert_close(begun[:, -1], first)
    state, _ = run(simulator, state, draw_actions(anchored, 9, 1))
    assert torch.equal(state.history[:, -1], begun[:, -1])
    assert not torch.isclose(state.history[:, 0], begun[:, 0]).all()
    assert not torch.isclose(state.history[:, 1], begun[:, 1]).all()


def test_frames_depend_on_the_anchor_however_old_it_is(anchored: WorldModel) -> None:
    simulator = Simulator(anchored)
    state, _ = run(simulator, simulator.start([anchored.contexts[0]], [0]), draw_actions(anchored, 9, 1))
    action, turned = draw_actions(anchored, 1, 1)[0], state.history.clone()
    turned[:, -1] += 1
    _, same = simulator.step(state, action)
    _, again = simulator.step(state, action)
    _, other = simulator.step(replace(state, history=turned), action)
    assert torch.equal(same.latents, again.latents)
    assert not torch.allclose(same.latents, other.latents, atol=1e-3)


def test_rows_have_their_own_anchors(anchored: WorldModel) -> None:
    simulator, actions = Simulator(anchored), draw_actions(anchored, 4, 3)
    contexts, seeds = [anchored.contexts[i] for i in (0, 1, 0)], [0, 1, 2]
    together, steps = run(simulator, simulator.start(contexts, seeds), actions)
    assert torch.equal(together.history[0, -1], together.history[2, -1])
    assert not torch.equal(together.history[0, -1], together.history[1, -1])
    for row in range(3):
        alone, own = run(simulator, simulator.start([contexts[row]], [seeds[row]]), actions[:, [row]])
        torch.testing.assert_close(own[-1].latents[0], steps[-1].latents[row], atol=1e-5, rtol=1e-5)
        assert torch.equal(alone.history[0, -1], together.history[row, -1])


def test_a_snapshot_keeps_the_anchor(anchored: WorldModel, tmp_path: Path) -> None:
    anchored.save_pretrained(tmp_path / "world")
    world = WorldModel.from_pretrained(tmp_path / "world")
    assert world.dynamics.config.anchor
    simulator, actions = Simulator(world), draw_actions(world, 2, 1)
    state: State = simulator.start([world.contexts[1]], [4])
    kept = from_bytes(to_bytes(Snapshot(state), world), world).state
    for one, other in zip(run(simulator, state, actions)[1], run(simulator, kept, actions)[1], strict=True):
        assert torch.equal(one.latents, other.latents)


def test_the_newest_frame_pushes_out_the_oldest_but_the_anchor() -> None:
    history = torch.arange(4.0)[None]  # (1, H)
    assert push_history(history, torch.tensor([9.0])).tolist() == [[9, 0, 1, 2]]
    assert push_history(history, torch.tensor([9.0]), anchor=True).tolist() == [[9, 0, 1, 3]]
    assert push_history(history[:, :0], torch.tensor([9.0])).shape == (1, 0)


def test_an_anchor_is_stacked_behind_the_frames_before() -> None:
    latents, anchor = torch.randn(2, 3, *SHAPE), torch.randn(2, *SHAPE)
    stacked = stack_history(latents, 1, anchor)
    assert torch.equal(stacked[:, :, :2], stack_history(latents, 1))
    assert all(torch.equal(stacked[:, f, 2:], anchor) for f in range(3))


def test_an_anchor_needs_a_frame_before() -> None:
    with pytest.raises(ValueError, match="anchor=true needs history=1 or more"):
        VideoDiT(latent_shape=SHAPE, width=32, depth=1, heads=2, history=0, anchor=True)


# ---------------------------------------------------------------- training


def test_a_world_that_goes_on_with_an_anchor_begins_as_it_was(tmp_path: Path) -> None:
    before, grown = grow(tmp_path, "model.anchor=true")
    for one, other in zip(outcome(before, before.contexts[0]), outcome(grown.world(), before.contexts[0]), strict=True):
        np.testing.assert_array_equal(one, other)
    loss, _ = grown.task.module(grown.task.batch(0, torch.Generator().manual_seed(0), torch.device("cpu")))
    loss.backward()
    weight = grown.dynamics.embed.weight
    assert weight.grad is not None
    assert (weight.grad[:, -4:] != 0).any(), "an anchor that starts at nothing is to be learned from"


def test_a_world_with_an_anchor_does_not_go_on_without(tmp_path: Path) -> None:
    build(Store(plain), tmp_path / "old", "model.anchor=true").world().save_pretrained(tmp_path / "world")
    with pytest.raises(ValueError, match=r"dynamics embed\.weight has shape .*; use its settings"):
        build(Store(plain), tmp_path / "new", f"init={tmp_path / 'world'}")


def coloured(episodes: int = 8, length: int = 12) -> LatentEpisodes:
    """Episodes all of whose frames have one colour, their own."""
    sides = np.resize([1.0, -1.0], episodes).repeat(length).reshape(-1, 1, 1, 1)
    count = episodes * length
    return LatentEpisodes(
        latents=np.broadcast_to(sides, (count, *SHAPE)).astype(np.float16),
        actions=np.zeros((count, 1), np.float32),
        rewards=np.zeros(count, np.float32),
        ends=np.zeros(count, np.float32),
        state=np.zeros((count, 0), np.float32),
        condition=torch.zeros(episodes, 2),
        starts=np.arange(episodes + 1) * length,
    )


def task_of(**objective: Any) -> tuple[DynamicsLoss, DynamicsTask]:
    torch.manual_seed(0)
    dynamics = VideoDiT(
        latent_shape=SHAPE, action_features=1, width=32, depth=2, heads=2, temporal_every=2, window=2, history=1, anchor=True
    )
    given = {"forcing": 0, "from_noise": 1, "skip": 1, "lowest_context": 1, "reward_loss": 0, "end_loss": 0, **objective}
    loss = DynamicsLoss(dynamics, Heads(tokens=len(dynamics.place), width=32, state_size=0), Objective(**given))
    return loss, DynamicsTask(loss, coloured(), Vocabulary(), batch_size=8, clip=FRAMES, frame_size=(8, 8))


def after_grey(fading: float, *, steps: int = 150) -> tuple[Tensor, Tensor]:
    """Colours ``(B,)`` that a trained network makes after grey frames, and those of the anchors."""
    loss, task = task_of(fading=fading)
    optimizer = torch.optim.Adam(loss.parameters(), 3e-3)
    for step in range(steps):
        value, _ = loss(task.batch(step, torch.Generator().manual_seed(step), torch.device("cpu")))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    last = task.batch(steps, torch.Generator().manual_seed(steps), torch.device("cpu"))
    with torch.no_grad():
        made = loss.streams(last, torch.zeros_like(last.clip.latents), last.noise).latents[:, FRAMES:]  # (B, F - skip, C, h, w)
    return made.mean((1, 2, 3, 4)), last.clip.anchor.mean((1, 2, 3))


def test_what_has_faded_gets_the_colours_of_the_anchor_only_by_a_network_that_saw_fading() -> None:
    made, wanted = after_grey(1.0)
    assert {-1.0, 1.0} == set(wanted.tolist())
    assert float((made * wanted).min()) > 0.5
    plainly, wanted = after_grey(0.0)
    assert float((plainly * wanted).mean()) < 0.4


def test_anchors_come_from_all_of_the_episode_before_the_clip() -> None:
    episodes = LatentEpisodes(**{**vars(coloured(2, 40)), "latents": np.arange(80, dtype=np.float16).reshape(80, 1, 1, 1)})
    ages = list[NDArray[np.int64]]()
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        own, first = episodes.places(8, FRAMES, generator)
        anchors = episodes.anchors(own, first, generator)
        assert (anchors >= episodes.starts[own]).all()
        assert (anchors <= first).all()
        clip = episodes.cut(own, first, FRAMES, anchors=anchors)
        assert clip.anchor.flatten().tolist() == anchors.tolist()
        assert episodes.cut(own, first, FRAMES).anchor.flatten().tolist() == first.tolist()
        ages.append(first - anchors)
    assert {0, 10, 20, 30} <= set(np.concatenate(ages).tolist())


def test_fading_goes_towards_flat_and_towards_the_clip_before() -> None:
    clips = torch.randn(3, FRAMES, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fade(clips, torch.zeros(3, 2)), clips)
    flat = fade(clips, torch.tensor([[0.0, 1.0]] * 3))
    torch.testing.assert_close(flat, clips.mean((3, 4), keepdim=True).expand_as(clips))
    turned = fade(clips, torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(turned[0].mean((0, 2, 3)), clips[2].mean((0, 2, 3)))
    assert torch.equal(turned[1:], clips[1:])


def test_only_a_share_of_clips_with_real_context_is_faded() -> None:
    drawn = draw_fading(4000, torch.Generator().manual_seed(0), share=0.25)
    assert 0.2 < float((drawn > 0).any(1).float().mean()) < 0.3
    assert 0.95 * FARTHEST < float(drawn.max()) <= FARTHEST
    _, task = task_of(fading=1.0, self_context=0.5, self_rounds=2)
    batch = task.batch(0, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert batch.self_rows == 4
    assert bool((batch.fading[:4] > 0).all())
    assert not batch.fading[4:].any()


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective\.fading=1\.5 must be a share"):
        Objective(fading=1.5)
