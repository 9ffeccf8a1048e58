"""Recall: heads that are told the state of the frame before keep count of what frames do not show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from test_grown_world import Store, build, plain
from test_simulator import draw_actions, run
from test_train_heads import _write as write
from test_uncertainty import _episode as episode

from worldsim.config import compose
from worldsim.contexts import Context, Contexts
from worldsim.datasets.reader import EpisodeReader
from worldsim.envs.start import Starts
from worldsim.evaluation.openloop import cut_segments
from worldsim.heads import Heads
from worldsim.model import WorldModel
from worldsim.recall import GAIN, LIMIT, tell
from worldsim.simulator import Simulator
from worldsim.snapshot import Snapshot, _digest, _header, from_bytes, to_bytes
from worldsim.streaming_heads import StreamingHeads
from worldsim.training.recall import Tapes, fit, losses, measure, train_recall, with_recall, with_states

SMALL = ["segments=10", "context=4", "horizon=6", "batch=4", "steps=3", "batch_size=4"]
NATURAL = 0.3


def shaken(module: Any, *, std: float = 0.3) -> Any:
    torch.manual_seed(3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return module.eval().requires_grad_(False)


def tiny(*, recall: bool = True) -> Heads:
    heads: Heads = shaken(Heads(tokens=4, width=8, state_size=2, recall=recall))
    return heads


@pytest.fixture(scope="module")
def world(make_world: Any) -> WorldModel:
    """The tiny world with a recall of random weights."""
    built: WorldModel = make_world()
    return built.replaced(heads=shaken(with_recall(built.heads, seed=0), std=0.08))


def known(context: Context, *state: float) -> Context:
    return replace(context, state=np.array(state, np.float32))


# ---------------------------------------------------------------- heads


def test_a_recall_that_learned_nothing_goes_a_little_way_from_what_is_told_to_what_is_read() -> None:
    plain_heads = tiny(recall=False)
    heads, hidden, told = with_recall(plain_heads, seed=0), torch.randn(3, 5, 4, 8), torch.randn(3, 5, 2)
    before, alone, after = plain_heads(hidden), heads(hidden), heads(hidden, told)
    torch.testing.assert_close(after.state, told + torch.tensor(GAIN).sigmoid() * (before.state - told))
    for name in ("reward", "reward_logits", "end_logit"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    assert torch.equal(alone.state, before.state)


def test_what_is_told_changes_what_heads_say_and_what_is_not_told_does_not() -> None:
    heads, hidden, told = tiny(), torch.randn(2, 1, 4, 8), torch.randn(2, 1, 2)
    one, same, other = (heads(hidden, given) for given in (told, told.clone(), told + 1))
    for name in ("reward", "end_logit", "state"):
        assert torch.equal(getattr(one, name), getattr(same, name))
        assert not torch.allclose(getattr(one, name), getattr(other, name), atol=1e-3)


def test_a_state_that_ran_away_is_told_within_limits() -> None:
    assert tell(torch.tensor([1e9, -1e9, 0.5])).tolist() == [LIMIT, -LIMIT, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rollouts_read_the_same_in_physical_units(dtype: torch.dtype) -> None:
    heads, hidden, told = tiny(), torch.randn(3, 4, 8), torch.randn(3, 2)
    mean, std = torch.tensor([100.0, -3.0]), torch.tensor([20.0, 0.5])
    lean, slack = StreamingHeads(heads, mean=mean.tolist(), std=std.tolist(), dtype=dtype), 1e-4 if dtype == torch.float32 else 0.3
    for given in (told, None):
        plain_read = heads(hidden[:, None], None if given is None else given[:, None])
        read = lean(hidden.to(dtype), None if given is None else given * std + mean)
        torch.testing.assert_close((read.state - mean) / std, plain_read.state[:, 0], atol=slack, rtol=slack)
        torch.testing.assert_close(read.end, plain_read.end_logit, atol=slack, rtol=slack)
        torch.testing.assert_close(read.reward, plain_read.reward, atol=2 * slack, rtol=10 * slack)


# ---------------------------------------------------------------- rollouts


def test_a_rollout_begins_from_a_known_state_and_goes_on_from_what_it_told(world: WorldModel) -> None:
    simulator, context = Simulator(world), world.contexts[0]
    state, begun = simulator.begin([known(context, 33.0, 2.0)], [0])
    assert begun.tolist() == [[33.0, 2.0]]
    after, step = simulator.step(state, draw_actions(world, 1, 1)[0])
    np.testing.assert_array_equal(after.told.numpy(), step.state)
    _, unknown = simulator.begin([context], [0])
    assert not np.allclose(unknown, begun)


def test_frames_do_not_depend_on_what_is_told_but_state_reward_and_end_do(world: WorldModel) -> None:
    simulator, actions = Simulator(world), draw_actions(world, 3, 1)
    contexts = [known(world.contexts[0], 20.0, 0.0), known(world.contexts[0], 20.0, 0.0), known(world.contexts[0], 40.0, 3.0)]
    one, same, other = (run(simulator, simulator.start([context], [0]), actions)[1][-1] for context in contexts)
    assert (one.frames == other.frames).all()
    for name in ("state", "reward", "end"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
        assert not np.allclose(getattr(one, name), getattr(other, name), atol=1e-5), name


def test_rows_are_told_their_own_state(world: WorldModel) -> None:
    simulator, actions = Simulator(world), draw_actions(world, 3, 2)
    contexts = [known(world.contexts[0], 40.0, 1.0), world.contexts[1]]
    _, together = run(simulator, simulator.start(contexts, [0, 1]), actions)
    for row in range(2):
        _, alone = run(simulator, simulator.start([contexts[row]], [row]), actions[:, [row]])
        np.testing.assert_allclose(alone[-1].state[0], together[-1].state[row], atol=1e-4)


def test_a_snapshot_keeps_what_is_told_and_one_of_before_is_read(make_world: Any, world: WorldModel, tmp_path: Path) -> None:
    world.save_pretrained(tmp_path / "world")
    loaded = WorldModel.from_pretrained(tmp_path / "world")
    simulator, actions = Simulator(loaded), draw_actions(loaded, 2, 1)
    state, _ = run(simulator, simulator.start([known(loaded.contexts[0], 40.0, 3.0)], [0]), actions)
    kept = from_bytes(to_bytes(Snapshot(state), loaded), loaded).state
    for one, other in zip(run(simulator, state, actions)[1], run(simulator, kept, actions)[1], strict=True):
        np.testing.assert_array_equal(one.state, other.state)

    make_world().save_pretrained(tmp_path / "plain")
    plain_world = WorldModel.from_pretrained(tmp_path / "plain")
    state = Simulator(plain_world).start([plain_world.contexts[0]], [0])
    assert state.told.shape == (1, 0)
    written = to_bytes(Snapshot(state), plain_world)
    assert from_bytes(_forgetful(written), plain_world).state.told.shape == (1, 0)


def _forgetful(data: bytes) -> bytes:
    """Write a snapshot as it was written before there was recall."""
    tensors, header = load(data), _header(data)
    del tensors["state.told"]
    return save(tensors, metadata={"worldsim": json.dumps({**header, "sha256": _digest(tensors, header["notes"])})})


def test_a_state_of_another_size_is_refused(world: WorldModel) -> None:
    with pytest.raises(ValueError, match=r"state of shape \(3,\), world 'tiny' tells \['speed', 'offset'\]"):
        Simulator(world).start([known(world.contexts[0], 1.0, 2.0, 3.0)], [0])


def test_contexts_keep_their_states_if_all_have_one(world: WorldModel, tmp_path: Path) -> None:
    some = [world.contexts[0], world.contexts[1]]
    told = [known(context, i, -i) for i, context in enumerate(some)]
    for name, items in (("all", told), ("one", [told[0], some[1]])):
        (tmp_path / name).mkdir()
        Contexts(tuple(items)).save(tmp_path / name)
    states = [context.state for context in Contexts.load(tmp_path / "all")]
    assert [None if state is None else state.tolist() for state in states] == [[0, 0], [1, -1]]
    assert [context.state for context in Contexts.load(tmp_path / "one")] == [None, None]


# ---------------------------------------------------------------- training


def tapes(seed: int, count: int = 60, steps: int = 12) -> Tapes:
    """Rollouts whose state counts down by a tenth a step, which nothing shows; below zero it is over, and costs 5."""
    generator, heads = torch.Generator().manual_seed(seed), tiny(recall=False)
    features, logits, end, state = heads.look(torch.ones(count, steps, 4, 8))
    begun = torch.rand(count, 2, generator=generator) * 2
    truth = begun[:, None] - 0.1 * torch.arange(1, steps + 1)[:, None]  # (N, T, S)
    ended = (truth[..., 0] < 0).float()
    return Tapes(features, logits, end, state, torch.zeros_like(begun), begun, truth, -5 * ended, ended, torch.ones_like(ended))


def learn(*, seed: int = 0, steps: int = 400) -> Heads:
    heads = with_recall(tiny(recall=False), seed=seed)
    made = fit(heads, tapes(0), tapes(1), natural=NATURAL, steps=steps, batch_size=16, lr=3e-3, unknown=0.1, seed=seed)
    assert heads.memory is not None
    heads.memory.load_state_dict(made.state_dict())
    return heads


def test_what_no_frame_shows_is_counted_and_ends_and_rewards_are_told_by_it() -> None:
    new, blind, taught = tapes(2), tiny(recall=False), learn()
    before, after = (measure(heads, new, natural=NATURAL) for heads in (blind, taught))
    assert after["state"] < 0.05 * before["state"]
    assert after["end"] < 0.5 * before["end"]
    assert after["reward"] < 0.7 * before["reward"]
    wrong = replace(new, begun=new.begun + 1)
    assert measure(taught, wrong, natural=NATURAL)["end"] > 1.5 * after["end"]


def test_the_same_seed_learns_the_same_and_another_seed_something_else() -> None:
    one, same, other = (learn(seed=seed, steps=5).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not all(torch.equal(value, other[name]) for name, value in one.items() if name.startswith("memory."))


def test_what_lies_beyond_the_end_of_a_short_rollout_does_not_count() -> None:
    long, short = vars(tapes(0)), vars(tapes(1, count=7, steps=5))
    heads, joined = tiny(recall=False), Tapes.join([long, {}, short])
    assert joined.features.shape[:2] == (67, 12)
    last = joined.rows(torch.arange(60, 67))
    for one, other in ((joined.rows(torch.arange(60)), Tapes(**long)), (last, Tapes(**short))):
        for name, value in losses(heads, one, weight=2.0).items():
            torch.testing.assert_close(value, losses(heads, other, weight=2.0)[name])
    assert float(last.there.sum()) == 35


def test_ends_count_as_they_do_in_whole_episodes() -> None:
    heads, data = tiny(recall=False), tapes(0)
    light, heavy = (losses(heads, data, weight=weight)["end"] for weight in (0.1, 10.0))
    assert light < heavy, "these heads hardly expect ends"


@pytest.fixture(scope="module")
def data(make_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of 24 episodes, of which every second one is terminated by its last step."""
    path = tmp_path_factory.mktemp("data") / "toy.worldsim"
    write(path, make_world(), [episode(seed) for seed in range(24)])
    return path


def test_training_writes_a_world_that_imagines_the_same_and_recalls(
    endless_path: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_recall(compose("train_recall", [f"world={endless_path}", f"data.path={data}", f"out={tmp_path}", *SMALL, "steps=40"]))
    assert "after, held-out rollouts: reward" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
    old, new = WorldModel.from_pretrained(endless_path), WorldModel.from_pretrained(tmp_path / "world")
    assert new.heads.memory is not None
    assert new.spec.recipe["recall"]["horizon"] == 6
    for name, value in old.heads.state_dict().items():
        assert torch.equal(value, new.heads.state_dict()[name])
    context = known(old.contexts[0], 1.0, 1.0)
    one, other = (Simulator(world).step(Simulator(world).start([context], [0]), np.zeros((1, 3), np.float32))[1] for world in (old, new))
    assert (one.frames == other.frames).all()
    assert not np.allclose(one.state, other.state, atol=1e-4)


def test_contexts_that_were_cut_from_the_dataset_are_given_their_states(data: Path, world: WorldModel) -> None:
    store = EpisodeReader(data)
    cut = [segment.context for segment in cut_segments(store, split="heldout", context=4, horizon=6, per_episode=2, limit=4)]
    blank = [replace(context, state=None) for context in cut]
    forged = replace(blank[0], frames=255 - blank[0].frames)
    told = with_states(Contexts((*blank, forged, world.contexts[0])), store)
    for one, context in zip(told, cut, strict=False):
        assert context.state is not None
        np.testing.assert_array_equal(one.state, context.state)
    assert [context.state for context in told][len(cut) :] == [None, None]


def test_what_was_taught_before_is_not_built_on(endless_path: Path, data: Path, tmp_path: Path) -> None:
    """Taught twice is taught once: what is learned begins from heads without recall."""
    made = []
    for name, start in (("one", endless_path), ("two", tmp_path / "one" / "world")):
        settings = [f"world={start}", f"data.path={data}", f"out={tmp_path / name}", *SMALL]
        train_recall(compose("train_recall", settings))
        made.append(WorldModel.from_pretrained(tmp_path / name / "world").heads)
    assert all(torch.equal(value, made[1].state_dict()[name]) for name, value in made[0].state_dict().items())
    assert made[1].without_recall().memory is None


def test_what_recall_cannot_be_learned_from_is_refused(endless_path: Path, data: Path, tmp_path: Path, make_world: Any) -> None:
    few, other = tmp_path / "few.worldsim", tmp_path / "other.worldsim"
    write(few, make_world(), [episode(seed) for seed in range(4)])
    write(other, make_world(), [episode(seed) for seed in range(24)], names=("speed", "slip"))
    for path, more, message in (
        (few, (), "segments=10 of 10 frames come from fewer than 6 training episodes"),
        (other, (), r"labels \['speed', 'slip'\], world 'tiny' tells \['speed', 'offset'\]"),
        (data, ("batch=0",), "batch=0 must be 1 or more"),
        (data, ("unknown=2",), r"unknown=2\.0 must be a share"),
        (data, ("horizon=90",), "no train episode has 94 frames"),
    ):
        with pytest.raises(ValueError, match=message):
            train_recall(compose("train_recall", [f"world={endless_path}", f"data.path={path}", f"out={tmp_path / 'out'}", *SMALL, *more]))


def test_dynamics_trained_on_begin_without_recall_and_keep_the_states_of_contexts(tmp_path: Path) -> None:
    builder = build(Store(plain), tmp_path / "old")
    old = builder.world()
    old.replaced(heads=with_recall(old.heads, seed=0)).save_pretrained(tmp_path / "world")
    grown = build(Store(plain), tmp_path / "new", f"init={tmp_path / 'world'}")
    assert grown.heads.memory is None
    torch.testing.assert_close(grown.heads.squeeze.weight, old.heads.squeeze.weight, atol=1e-3, rtol=1e-2)
    store = Store(plain)
    for context in grown.world().contexts:
        number = int(context.name.split("seed ")[1].split(",")[0])
        start = int(context.name.split("frame ")[1])
        np.testing.assert_array_equal(context.state, store.episodes[number].state[start + 3])


def test_recorded_starts_are_told_their_state_where_the_labels_are_the_worlds(data: Path, world: WorldModel) -> None:
    def state(**context: Any) -> Any:
        drawn = Starts(world).draw({"context": context}, np.random.default_rng(0)).context
        return None if drawn is None else drawn.state

    recorded = EpisodeReader(data)[1]
    np.testing.assert_array_equal(state(dataset=str(data), episode=1, start=2), recorded.state[5])
    assert state(frames=recorded.frames[0]) is None
    assert state(frames=recorded.frames[0], state=[3.0, 4.0]).tolist() == [3, 4]
    with pytest.raises(ValueError, match="state"):
        state(frames=recorded.frames[0], state="fast")
