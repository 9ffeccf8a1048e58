"""The simulator: what a frame depends on and what not, the ring of remembered frames, and rows as values."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Space, spaces
from numpy.typing import NDArray
from torch import Tensor

from worldsim.contexts import Context
from worldsim.dit import FrameInputs, VideoDiT
from worldsim.episode import Conditioning
from worldsim.model import WorldModel
from worldsim.simulator import Simulator, State
from worldsim.spaces import feature_size, to_features, to_row
from worldsim.spec import Sampling
from worldsim.step import Step
from worldsim.streaming_dit import StreamingDiT
from worldsim.windows import shift_levels, stack_history, training_mask

ACTIONS: list[Space[Any]] = [
    spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32)),
    spaces.Discrete(3, start=2),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(2),
    spaces.Dict({"steer": spaces.Box(-1, 1, (2,), np.float32), "gear": spaces.Discrete(2)}),
]


def draw_actions(world: WorldModel, steps: int, rows: int, *, seed: int = 0) -> NDArray[Any]:
    """Actions ``(steps, rows, A)``."""
    space = world.spec.action_space
    space.seed(seed)
    return np.stack([np.stack([to_row(space, space.sample()) for _ in range(rows)]) for _ in range(steps)])


def run(simulator: Simulator, state: State, actions: NDArray[Any]) -> tuple[State, list[Step]]:
    steps = []
    for row_actions in actions:
        state, step = simulator.step(state, row_actions)
        steps.append(step)
    return state, steps


def frames(steps: list[Step]) -> NDArray[np.int64]:
    """``(T, B, H, W, 3)``, signed, so that differences are."""
    return np.stack([step.frames for step in steps]).astype(np.int64)


@pytest.fixture(scope="module")
def world(make_world: Any) -> WorldModel:
    built: WorldModel = make_world()
    return built


def test_a_row_depends_neither_on_the_batch_nor_on_its_place(world: WorldModel) -> None:
    simulator, actions = Simulator(world), draw_actions(world, 8, 3)
    contexts, seeds = [world.contexts[i] for i in range(3)], [5, 6, 7]
    _, together = run(simulator, simulator.start(contexts, seeds), actions)
    order = [2, 0, 1]
    _, shuffled = run(simulator, simulator.start([contexts[i] for i in order], [seeds[i] for i in order]), actions[:, order])
    assert np.abs(frames(shuffled) - frames(together)[:, order]).max() <= 1
    for row in range(3):
        _, alone = run(simulator, simulator.start([contexts[row]], [seeds[row]]), actions[:, [row]])
        assert np.abs(frames(alone)[:, 0] - frames(together)[:, row]).max() <= 1
        for name in ("reward", "end", "state"):
            np.testing.assert_allclose([getattr(s, name)[0] for s in alone], [getattr(s, name)[row] for s in together], atol=1e-4)


def test_same_seed_same_frames_other_seed_other(world: WorldModel) -> None:
    simulator, actions = Simulator(world), draw_actions(world, 3, 1)
    first, again, other = (run(simulator, simulator.start([world.contexts[0]], [seed]), actions)[1] for seed in (3, 3, 4))
    np.testing.assert_array_equal(frames(first), frames(again))
    assert (frames(first) != frames(other)).any()


def test_an_action_changes_the_very_next_frame_and_none_before(world: WorldModel) -> None:
    simulator, actions = Simulator(world), draw_actions(world, 5, 1)
    changed = actions.copy()
    changed[2, 0] = -changed[2, 0] + 0.5
    (_, plain), (_, bent) = (run(simulator, simulator.start([world.contexts[0]], [1]), tape) for tape in (actions, changed))
    differs = (frames(plain) != frames(bent)).reshape(5, -1).any(1)
    assert differs[:3].tolist() == [False, False, True]


def test_other_context_conditioning_and_context_actions_show(world: WorldModel) -> None:
    simulator, actions, context = Simulator(world), draw_actions(world, 1, 1), world.contexts[0]
    variants = [
        context,
        world.contexts[1],
        replace(context, conditioning=Conditioning(("wet",), {"red": 0.9}, "road")),
        replace(context, actions=-context.actions),
    ]
    seen = [frames(run(simulator, simulator.start([variant], [1]), actions)[1]) for variant in variants]
    assert all((seen[0] != other).any() for other in seen[1:])


@pytest.mark.parametrize("space", ACTIONS, ids=lambda space: type(space).__name__)
def test_every_action_space_starts_and_steps(make_world: Any, space: Space[Any]) -> None:
    world = make_world(space)
    simulator, actions = Simulator(world), draw_actions(world, 2, 2)
    image = Context(world.contexts[0].frames[:1], np.zeros((0, actions.shape[-1]), actions.dtype))
    state, steps = run(simulator, simulator.start([world.contexts[0], image], [1, 2]), actions)
    assert frames(steps).shape == (2, 2, 16, 16, 3)
    assert state.position.tolist() == [6, 4]
    assert all(step.finite.all() for step in steps)


# ---------------------------------------------------------------- the ring


def from_scratch(world: WorldModel, seen: list[Tensor], actions: NDArray[Any], conditioning: Conditioning) -> Any:
    """Run all frames ``(C, h, w)`` as remembered through the network in one pass; ``actions (F - 1, A)`` lie between them."""
    latents = torch.stack(seen)[None]  # (1, F, C, h, w)
    count = latents.shape[1]
    features = np.concatenate(
        (np.zeros((1, feature_size(world.spec.action_space)), np.float32), to_features(world.spec.action_space, actions))
    )
    level = torch.full((1, count), world.spec.sampling.context_level)
    inputs = FrameInputs(
        latents=latents,
        history=stack_history(latents, world.dynamics.config["history"]),
        level=level,
        step=torch.zeros_like(level),
        history_level=shift_levels(level),
        actions=torch.from_numpy(features)[None],
        known=torch.arange(count)[None] > 0,
        condition=world.spec.vocabulary.features(conditioning)[None],
        positions=torch.arange(count)[None],
    )
    with torch.inference_mode():
        return world.dynamics(inputs, training_mask(count, count, world.spec.window))


@pytest.fixture(scope="module")
def deep(world: WorldModel) -> WorldModel:
    """The world with two temporal layers, so that remembered keys depend on what was seen when they were made."""
    torch.manual_seed(1)
    dynamics = VideoDiT(**{**world.dynamics.config, "depth": 4})
    for parameter in dynamics.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    return WorldModel(world.tokenizer, dynamics.eval().requires_grad_(False), world.heads, world.spec, world.contexts)


@pytest.mark.parametrize("start", [2, 4], ids=lambda count: f"{count} context frames")
def test_the_ring_equals_a_pass_over_all_frames(deep: WorldModel, start: int) -> None:
    """Before the window slides and after it: what is out of the window is masked in the one and overwritten in the other."""
    simulator, tape = Simulator(deep), draw_actions(deep, 7, 1)
    full = deep.contexts[0]
    context = Context(full.frames[:start], full.actions[: start - 1], full.conditioning)
    seen = list(start_latents(simulator, context, 9))
    state, rows = simulator.start([context], [9]), list(context.actions)
    for actions in tape:
        state, step = simulator.step(state, actions)
        seen.append(simulator.networks.dit.latents(state.history[0, 0]))
        rows.append(actions[0])
        out = from_scratch(deep, seen, np.stack(rows), full.conditioning)
        for back in range(min(deep.spec.window, len(seen))):
            number = len(seen) - 1 - back
            slot = number % (deep.spec.window + 1)
            assert state.remembered[0, slot] == number
            torch.testing.assert_close(state.keys[0, :, :, :, slot], out.keys[:, 0, :, :, number], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(state.values[0, :, :, :, slot], out.values[:, 0, :, :, number], atol=1e-4, rtol=1e-4)
        readings = deep.heads(out.hidden[:, -1:])
        np.testing.assert_allclose(readings.state[:, 0] * torch.tensor([5.0, 1.0]) + torch.tensor([20.0, 0.0]), step.state, atol=1e-3)


def start_latents(simulator: Simulator, context: Context, seed: int) -> Tensor:
    """Latents of a context as they are remembered, ``(F, C, h, w)``, collected from starts of growing length."""
    parts = [Context(context.frames[: n + 1], context.actions[:n], context.conditioning) for n in range(1, len(context.frames))]
    states = [simulator.start([part], [seed]) for part in parts]
    kept = torch.stack([states[0].history[0, 1], *(state.history[0, 0] for state in states)])  # (F, n, p*p*C)
    return simulator.networks.dit.latents(kept)


def test_a_rollout_does_not_grow(world: WorldModel) -> None:
    simulator = Simulator(world)
    state = simulator.start([world.contexts[0]], [0])
    after, steps = run(simulator, state, draw_actions(world, 30, 1))
    assert [getattr(after, f.name).shape for f in fields(State)] == [getattr(state, f.name).shape for f in fields(State)]
    assert after.position.tolist() == [34]
    assert all(step.finite.all() for step in steps)


def test_sinks_stay_in_view_when_the_window_has_moved_on(deep: WorldModel) -> None:
    actions, context = draw_actions(deep, 12, 1), deep.contexts[0]
    plain, sunk = Simulator(deep), Simulator(deep, sink=2)
    first, without = run(plain, plain.start([context], [9]), actions)
    started = sunk.start([context], [9])
    second, having = run(sunk, started, actions)
    assert first.remembered[0].tolist() == [15, 11, 12, 13, 14]
    assert second.remembered[0].tolist() == [0, 1, 12, 13, 14, 15, 11]
    assert torch.equal(second.keys[..., :2, :], started.keys[..., :2, :])
    same = [bool((a.latents - b.latents).abs().max() < 1e-5) for a, b in zip(without, having, strict=True)]
    assert same[0]
    assert not any(same[2:])
    with pytest.raises(ValueError, match=r"state remembers 4 frames, this simulator 2 \+ 4: step it with its own sink"):
        sunk.step(first, actions[0])
    with pytest.raises(ValueError, match="sink=-1 must be 0 or more"):
        Simulator(deep, sink=-1)


# ---------------------------------------------------------------- rows as values


def test_a_fork_goes_its_own_way_and_leaves_the_other_alone(world: WorldModel) -> None:
    simulator, actions = Simulator(world), draw_actions(world, 4, 1)
    state, _ = run(simulator, simulator.start([world.contexts[0]], [3]), actions[:2])
    fork = state.take([0, 0])
    assert (len(state), len(fork)) == (1, 2)
    _, plain = run(simulator, state, actions[2:])
    branched = np.concatenate((actions[2:], -actions[2:]), axis=1)
    _, both = run(simulator, fork, branched)
    assert np.abs(frames(both)[:, :1] - frames(plain)).max() <= 1
    assert (frames(both)[:, 1] != frames(both)[:, 0]).any()


def test_put_replaces_the_named_rows_alone(world: WorldModel) -> None:
    simulator, actions = Simulator(world), draw_actions(world, 4, 2)
    state, _ = run(simulator, simulator.start([world.contexts[0], world.contexts[1]], [3, 4]), actions[:2])
    fresh = simulator.start([world.contexts[2]], [5])
    mixed = state.put([1], fresh)
    assert mixed.position.tolist() == [6, 4]
    assert state.position.tolist() == [6, 6]
    _, got = run(simulator, mixed, actions[2:])
    _, kept = run(simulator, state.take([0]), actions[2:, :1])
    _, new = run(simulator, fresh, actions[2:, 1:])
    assert np.abs(frames(got) - np.concatenate((frames(kept), frames(new)), axis=1)).max() <= 1


def test_a_dead_row_can_be_replaced_and_never_touches_its_neighbour(world: WorldModel) -> None:
    simulator, actions = Simulator(world), draw_actions(world, 3, 2)
    state = simulator.start([world.contexts[0], world.contexts[1]], [3, 4])
    broken = state.put([1], replace(state.take([1]), history=torch.full_like(state.history[1:], torch.nan)))
    after, step = simulator.step(broken, actions[0])
    _, clean = simulator.step(state, actions[0])
    assert step.finite.tolist() == [True, False]
    assert step.frames.dtype == np.uint8
    np.testing.assert_array_equal(step.frames[0], clean.frames[0])
    _, steps = run(simulator, after.put([1], simulator.start([world.contexts[1]], [4])), actions[1:])
    assert all(one.finite.all() for one in steps)


# ---------------------------------------------------------------- contexts and sampling


def test_a_single_image_starts_at_rest(world: WorldModel) -> None:
    simulator = Simulator(world)
    image = Context(world.contexts[0].frames[:1], np.zeros((0, 3), np.float32))
    state = simulator.start([image], [3])
    assert state.remembered.tolist() == [[0, 1, -1, -1, -1]]
    _, steps = run(simulator, state, draw_actions(world, 6, 1))
    assert all(step.finite.all() for step in steps)


def test_a_longer_context_is_cut_to_the_newest_frames(world: WorldModel) -> None:
    simulator, actions, items = Simulator(world), draw_actions(world, 2, 1), world.contexts
    between = np.concatenate((items[0].actions, items[0].actions[:1], items[1].actions))
    longer = Context(np.concatenate((items[0].frames, items[1].frames)), between, items[1].conditioning)
    cut, plain = (run(simulator, simulator.start([context], [1]), actions)[1] for context in (longer, items[1]))
    np.testing.assert_array_equal(frames(cut), frames(plain))


def test_begin_reads_the_state_of_the_last_context_frame(world: WorldModel) -> None:
    simulator, contexts = Simulator(world), [world.contexts[0], world.contexts[1]]
    state, labels = simulator.begin(contexts, [1, 2])
    assert labels.shape == (2, 2)
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(simulator.begin(contexts[1:], [2])[1][0], labels[1])
    assert len(state) == 2


def test_wrong_contexts_are_refused(world: WorldModel) -> None:
    simulator, small = Simulator(world), Context(np.zeros((1, 8, 16, 3), np.uint8), np.zeros((0, 3), np.float32))
    with pytest.raises(ValueError, match=r"has frames of 8x16, world 'tiny' makes 16x16: resize them"):
        simulator.start([small], [0])
    with pytest.raises(ValueError, match=r"conditioning tag 'snow' is unknown to this world: it was trained with \['dark', 'wet'\]"):
        simulator.start([replace(world.contexts[0], conditioning=Conditioning(("snow",)))], [0])
    with pytest.raises(ValueError, match=r"must be uint8 of shape \(F, H, W, 3\)"):
        Context(np.zeros((16, 16, 3), np.uint8), np.zeros((0, 3), np.float32))
    with pytest.raises(ValueError, match=r"2 frames and 0 actions: it needs one action between two frames"):
        Context(np.zeros((2, 16, 16, 3), np.uint8), np.zeros((0, 3), np.float32))


def test_sampling_steps_are_as_asked(world: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    actions, calls, seen, run_pass = draw_actions(world, 1, 1), list[int](), list[Tensor](), StreamingDiT.run

    def counting(*args: Any) -> Any:
        calls.append(1)
        return run_pass(*args)

    monkeypatch.setattr(StreamingDiT, "run", counting)
    for steps in (1, 2, 4):
        simulator = Simulator(world, sampling=Sampling(steps=steps))
        calls.clear()
        _, step = simulator.step(simulator.start([world.contexts[0]], [1]), actions[0])
        assert len(calls) == steps + 1
        assert step.finite.all()
        seen.append(step.latents)
    assert not torch.equal(seen[0], seen[1])
    with pytest.raises(ValueError, match="steps >= 1"):
        Sampling(steps=0)


def test_rewards_stay_in_the_range_of_the_training_data(make_world: Any) -> None:
    world: WorldModel = make_world()
    world.spec = replace(world.spec, reward_range=(0.25, 0.5))
    simulator = Simulator(world)
    _, steps = run(simulator, simulator.start([world.contexts[0]], [1]), draw_actions(world, 3, 1))
    assert all(0.25 <= step.reward[0] <= 0.5 for step in steps)


def test_half_precision_steps_too(make_world: Any) -> None:
    world: WorldModel = make_world().to(torch.bfloat16)
    simulator = Simulator(world)
    _, steps = run(simulator, simulator.start([world.contexts[0]], [1]), draw_actions(world, 2, 1))
    assert all(step.finite.all() for step in steps)
    assert steps[0].state.dtype == np.float32
