"""Judges of imagined frames, on data where the truth is known: distances, inverse dynamics, appearance, drift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Space, spaces
from skimage.filters import gaussian
from toy_store import ListStore

from worldsim.contexts import Context
from worldsim.episode import Episode
from worldsim.evaluation.action_parts import parts_of
from worldsim.evaluation.appearance import Appearance, colours, texture
from worldsim.evaluation.crowd import blurred, clips_ending, distances, noised
from worldsim.evaluation.distance import Basis, band, frechet
from worldsim.evaluation.drift import Drift, drive, figures_of, first_stretch, longest_stretch
from worldsim.evaluation.fidelity import fidelity
from worldsim.evaluation.figures import Evidence
from worldsim.evaluation.inverse import CLIP, accuracy, clips_at, draw_clips, train_inverse
from worldsim.evaluation.judge import Judge, clips_of
from worldsim.evaluation.openloop import Rollouts, cut_segments, other_actions, real
from worldsim.evaluation.probe import draw_pairs
from worldsim.evaluation.sight import PER_EPISODE, Sight, share_out
from worldsim.evaluation.suite import Suite
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.spaces import to_row
from worldsim.targets import instantiate_allowed
from worldsim.types import Observation, StoreInfo

MakeWorld = Callable[..., WorldModel]
Array = np.ndarray[Any, Any]
BOX = spaces.Box(-1, 1, (2,), np.float32)
SIZE = 16


class Store(ListStore):
    """Episodes whose frame ``t + 1`` shows ``action[t]``: the left half by the first feature, the right half by the second."""

    def __init__(
        self, *, space: Space[Any] = BOX, episodes: int = 12, steps: int = 30, ends: Callable[[int], bool] = lambda _: False
    ) -> None:
        names = ("heading", "x")
        info = StoreInfo("toy", (SIZE, SIZE), 25.0, space, names, {"id": "toy"}, "0" * 64, "CC0-1.0")
        super().__init__(info, [_episode(space, seed, steps, ends(seed)) for seed in range(episodes)])


def _episode(space: Space[Any], seed: int, steps: int, ended: bool) -> Episode:
    space.seed(seed)
    actions = np.stack([to_row(space, space.sample()) for _ in range(steps)])
    light = np.stack([(actions[:, i] - actions[:, i].min()) / max(float(np.ptp(actions[:, i])), 1e-6) for i in (0, -1)], axis=1)
    light = np.concatenate((np.zeros((1, 2)), light))
    frames = np.zeros((steps + 1, SIZE, SIZE, 3), np.uint8)
    frames[:, :, : SIZE // 2] = (light[:, 0] * 255).round().astype(np.uint8)[:, None, None, None]
    frames[:, :, SIZE // 2 :] = (light[:, 1] * 255).round().astype(np.uint8)[:, None, None, None]
    over = np.zeros(steps, np.bool_)
    over[-1] = ended
    heading = 90 * np.sin(np.arange(steps + 1) * 2 * np.pi / 12)
    state = np.stack((heading, np.zeros(steps + 1)), axis=1).astype(np.float32)
    return Episode(frames, actions, np.zeros(steps, np.float32), over, np.zeros(steps, np.bool_), state, seed=seed)


def evidence_of(store: Store, *, horizon: int = 20) -> Evidence:
    """Return the rollouts of a world that knows everything and, under other actions, shows those."""
    segments = cut_segments(store, split="heldout", context=4, horizon=horizon, per_episode=3, limit=12)
    zero = np.zeros((len(segments), horizon), np.float32)
    n = len(segments)
    others = np.stack([segments[(i + n // 2) % n].frames for i in range(n)])
    return Evidence(segments, Rollouts(real(segments), zero, zero, zero), Rollouts(others, zero, zero, zero))


# ---------------------------------------------------------------- distances


def test_frechet_is_nothing_for_equal_sets_and_the_square_of_a_shift() -> None:
    a = np.random.default_rng(0).normal(size=(500, 5))
    assert frechet(a, a) == pytest.approx(0, abs=1e-8)
    assert [round(frechet(a, a + shift * np.eye(5)[0]), 6) for shift in (0.5, 1, 2)] == [0.25, 1, 4]
    assert frechet(a, a + 1) == pytest.approx(frechet(a + 1, a))


def test_frechet_of_known_spreads() -> None:
    a = np.random.default_rng(0).normal(size=(400, 3))
    a = a - a.mean(0)
    expected = np.trace(np.cov(a, rowvar=False)) * (1 - 3) ** 2  # (sigma - sigma')^2 along each direction
    assert frechet(a, 3 * a) == pytest.approx(expected)


def test_basis_has_unit_variance() -> None:
    x = np.random.default_rng(0).normal(size=(1000, 40)) * np.linspace(3, 0.1, 40)
    basis = Basis.of(x, kept=8)
    assert basis.project(x).shape == (1000, 8)
    assert basis.project(x).var(0).sum() == pytest.approx(1, rel=0.01)


def test_bands_stay_inside() -> None:
    assert list(band(1, 64, width=4)) == [1, 2, 3, 4]
    assert list(band(16, 64, width=4)) == [14, 15, 16, 17]
    assert list(band(64, 64, width=4)) == [61, 62, 63, 64]
    assert list(band(2, 3, width=4)) == [1, 2, 3]


def test_clips_end_where_they_should() -> None:
    store = Store()
    evidence = evidence_of(store)
    frames = real(evidence.segments)
    clips = clips_ending([1, 2], evidence.segments, frames, 2).reshape(-1, 2, 2, SIZE, SIZE, 3)
    assert (clips[:, 0, 0] == np.stack([segment.context.frames[-1] for segment in evidence.segments])).all()
    assert (clips[:, 0, 1] == frames[:, 0]).all()
    assert (clips[:, 1, 1] == frames[:, 1]).all()
    assert (clips_of(frames, 3)[:, 5] == frames[:, 5:8]).all()


def test_distance_of_perfect_frames_is_nothing_and_damage_is_farther() -> None:
    store = Store(episodes=60)
    torch.manual_seed(0)
    sight = Sight(2).eval()
    pairs = np.concatenate([clips_of(store[i].frames, 2) for i in store.split("train")])
    judge = Judge.of(sight, pairs)
    found = distances(evidence_of(store), judge, width=4)
    assert found["steps"] == [1, 4, 16]
    assert found["world"] == pytest.approx([0, 0, 0], abs=1e-6)
    assert min(found["copy_last"]) > 0.05
    assert min(found["noised"]) > 0.001


def test_damage_keeps_shape_and_depends_on_its_generator() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, SIZE, SIZE, 3), dtype=np.uint8)
    assert blurred(frames).shape == noised(frames, np.random.default_rng(0)).shape == frames.shape
    assert blurred(np.repeat(np.repeat(frames, 4, axis=2), 4, axis=3)).std() < frames.std()
    assert (noised(frames, np.random.default_rng(0)) == noised(frames, np.random.default_rng(0))).all()
    assert (noised(frames, np.random.default_rng(0)) != noised(frames, np.random.default_rng(1))).any()


# ---------------------------------------------------------------- actions


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (BOX, ["action[0]", "action[1]"]),
        (spaces.Discrete(4, start=2), ["action"]),
        (spaces.MultiDiscrete([2, 3]), ["action[0]", "action[1]"]),
        (spaces.MultiBinary(3), ["action[0]", "action[1]", "action[2]"]),
        (spaces.Dict(go=spaces.Box(-1, 1, (2,)), way=spaces.Discrete(3)), ["action[go][0]", "action[go][1]", "action[way]"]),
    ],
)
def test_parts_of_every_action_space(space: Space[Any], names: list[str]) -> None:
    space.seed(0)
    samples = [space.sample() for _ in range(200)]
    rows = np.stack([to_row(space, sample) for sample in samples])
    parts = parts_of(space, rows)
    assert [part.name for part in parts] == names
    for part in parts:
        label = part.label(rows)
        assert set(label.tolist()) == set(range(part.classes))
        assert part.is_number == ("Box" in str(space) and "way" not in part.name)
    if isinstance(space, spaces.Discrete):
        assert (parts[0].label(rows) == np.array(samples) - 2).all()
    if isinstance(space, spaces.Dict):
        assert (parts[-1].label(rows) == [sample["way"] for sample in samples]).all()


def test_actions_that_never_vary_are_refused() -> None:
    rows = np.zeros((10, 2), np.float32)
    with pytest.raises(ValueError, match="fidelity=null"):
        parts_of(BOX, rows)
    rows[:, 1] = np.linspace(-1, 1, 10)
    assert [part.name for part in parts_of(BOX, rows)] == ["action[1]"]


def test_balanced_accuracy_does_not_reward_the_common_class() -> None:
    truth = np.array([0] * 90 + [1] * 10)
    assert accuracy(truth, np.zeros(100, np.int64)) == 0.5
    assert accuracy(truth, truth) == 1
    assert accuracy(np.zeros(100, np.int64), truth) is None


def test_clips_are_round_the_action() -> None:
    store = Store()
    clips = draw_clips(store, "train", 40)
    seen = clips.frames[:, 2, 0, 0, 0] / 255  # what the action led to
    assert len(clips.frames) == 40
    assert np.corrcoef(seen, clips.actions[:, 0])[0, 1] > 0.95
    evidence = evidence_of(store)
    found = clips_at([1, 5], evidence.segments, real(evidence.segments))
    assert found.shape[1:3] == (2, CLIP)
    assert (found[:, 0, 1] == np.stack([segment.context.frames[-1] for segment in evidence.segments])).all()
    assert (found[:, 1, 2] == real(evidence.segments)[:, 4]).all()


class Glass(torch.nn.Module):
    """A tokenizer that loses nothing, or shows grey through which frames come with a given strength."""

    def __init__(self, clear: float = 1.0) -> None:
        super().__init__()
        self.clear = torch.nn.Parameter(torch.tensor(clear), requires_grad=False)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return frames

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents * self.clear


def test_inverse_dynamics_tell_actions_that_can_be_seen() -> None:
    store = Store(episodes=30)
    data = draw_clips(store, "train", 600)
    network = train_inverse(data, BOX, steps=60, batch=32)
    evidence = evidence_of(store)
    found = fidelity(evidence, network, Glass())["periods"]["all"]
    assert found["steps"] == [1, 16]
    assert found["ratio"] == found["ceiling"] == 1
    assert fidelity(evidence, network, Glass(0.0))["periods"]["all"]["ceiling"] < 0.7
    assert found["mean"]["real"] > 0.75
    assert found["mean"]["other_actions"] > 0.75
    assert found["parts"]["action[0]"]["correlation"]["world"] > 0.9
    deaf = Evidence(evidence.segments, evidence.others, evidence.made)
    assert fidelity(deaf, network, Glass())["periods"]["all"]["ratio"] < 0.7
    late = fidelity(evidence_of(Store(episodes=30, steps=50), horizon=40), network, Glass())["periods"]
    assert [late[name]["steps"] for name in ("early", "late", "all")] == [[1, 16], [25, 39], [1, 39]]


def test_inverse_dynamics_depend_on_their_seed_alone() -> None:
    data = draw_clips(Store(space=spaces.MultiBinary(3)), "train", 40)
    torch.manual_seed(1)
    one = train_inverse(data, spaces.MultiBinary(3), steps=3, batch=8).tell(data.frames)
    torch.manual_seed(2)
    again, other = (train_inverse(data, spaces.MultiBinary(3), steps=3, batch=8, seed=seed).tell(data.frames) for seed in (0, 1))
    assert (one.classes == again.classes).all()
    assert (one.classes != other.classes).any()
    assert np.isnan(one.numbers).all()


def test_clips_need_frames() -> None:
    with pytest.raises(ValueError, match="fidelity=null"):
        draw_clips(Store(steps=2), "train", 4)


# ---------------------------------------------------------------- what judges learn from


def test_no_episode_is_both_learned_from_and_judged_by() -> None:
    episodes = list(range(100, 130))
    own, others = share_out(episodes, 5 * PER_EPISODE, seed=0)
    assert (len(own), sorted(own + others)) == (5, episodes)
    assert (own, others) == share_out(episodes, 5 * PER_EPISODE, seed=0)
    assert own != share_out(episodes, 5 * PER_EPISODE, seed=1)[0]
    assert [len(part) for part in share_out(episodes, 10**6, seed=0)] == [20, 10]
    assert share_out([7], 10, seed=0) == ([7], [7])
    assert share_out([], 10, seed=0) == ([], [])


def test_all_that_are_named_are_drawn_from_and_no_other() -> None:
    store = Store(episodes=30)
    named = store.split("train")[:7]
    pairs, clips = draw_pairs(store, "train", 14, among=named), draw_clips(store, "train", 14, among=named)
    assert (len(pairs.frames), len(clips.frames)) == (14, 14)
    seen = [store[i].frames for i in named]
    for drawn in (*pairs.frames[:, 0], *clips.frames[:, 0]):
        assert any((drawn == frame).all() for frames in seen for frame in frames)
    assert len(draw_pairs(store, "train", 14).frames) == 14, "one episode is enough"


# ---------------------------------------------------------------- drift


class Still:
    """A policy that always does the same, and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[Observation] = []

    def act(self, observation: Observation) -> Array:
        self.seen.append(observation)
        return np.zeros((len(observation.first), 3), np.float32)


def _judge(frames: Array) -> Judge:
    torch.manual_seed(0)
    return Judge.of(Sight(2).eval(), frames)


def test_a_drive_shows_the_policy_each_frame_and_repeats(make_world: MakeWorld) -> None:
    world, policy = make_world(), Still()
    contexts = [world.contexts[i] for i in (0, 1)]
    judge = _judge(np.random.default_rng(0).integers(0, 256, (50, 2, 16, 16, 3), dtype=np.uint8))
    made = drive(Simulator(world), contexts, policy, judge, steps=40)
    assert made.outside.shape == (2, 40, 2)
    assert sorted(made.shown) == [0, 40]
    assert (policy.seen[0].frames[0] == contexts[0].frames[-1]).all()
    assert policy.seen[0].first.all()
    assert not policy.seen[1].first.any()
    assert set(policy.seen[0].state) == {"speed", "offset"}
    again = drive(Simulator(world), contexts, Still(), judge, steps=40)
    assert (again.shown[40] == made.shown[40]).all()
    assert (again.outside == made.outside).all()


def test_frames_that_go_black_are_caught(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    simulator, step = Simulator(world), Simulator.step
    real_pairs = np.random.default_rng(0).integers(100, 256, (300, 2, 16, 16, 3), dtype=np.uint8)

    def darken(self: Simulator, state: Any, actions: Array, *, decode: bool = True) -> Any:
        after, made = step(self, state, actions, decode=decode)
        alive = int(after.position[0]) < 4 + 30
        frames = np.random.default_rng(int(after.position[0])).integers(100, 256, made.frames.shape, dtype=np.uint8)
        object.__setattr__(made, "frames", frames if alive else np.zeros_like(frames))
        return after, made

    monkeypatch.setattr(Simulator, "step", darken)
    context = Context(real_pairs[0], np.zeros((1, 3), np.float32))
    made = drive(simulator, [context] * 2, Still(), _judge(real_pairs), steps=60)
    found = figures_of(made.outside, ("colours", "texture"), sustained=5)
    assert found["failed"] == 2
    assert 28 <= found["median_failure"] <= 34
    assert found["inside"] == pytest.approx(0.5, abs=0.1)
    assert found["curve"][0] > 0.7
    assert found["curve"][-1] == 0
    assert found["outside"]["texture"] == pytest.approx(1 - found["inside"], abs=0.1)


def test_what_no_source_draws_is_told_from_real_frames() -> None:
    generator = np.random.default_rng(0)

    def scenes(count: int) -> Array:
        colours = generator.integers(40, 220, (count, 1, 8, 8, 3)).repeat(8, axis=2).repeat(8, axis=3)
        return np.repeat(colours, 2, axis=1).astype(np.uint8)

    looks, unseen = Appearance.of(scenes(1000), edge=0.001), scenes(100)
    assert looks.outside(unseen).any(axis=1).mean() <= 0.05
    bad: dict[str, Array] = {
        "black": np.zeros_like(unseen),
        "white": np.full_like(unseen, 255),
        "noise": np.asarray(generator.integers(0, 256, unseen.shape), np.uint8),
        "noisy": np.clip(unseen + generator.normal(0, 60, unseen.shape), 0, 255).astype(np.uint8),
        "blurred": np.stack([gaussian(frame, 4, preserve_range=True, channel_axis=-1) for frame in unseen[:, 1]])[:, None]
        .repeat(2, 1)
        .astype(np.uint8),
        "flicker": np.stack((unseen[:, 0], unseen[::-1, 0]), axis=1),
    }
    for name, frames in bad.items():
        assert looks.outside(frames).any(axis=1).mean() > 0.95, name


def test_statistics_of_small_frames() -> None:
    frames = np.zeros((3, 2, 6, 10, 3), np.uint8)
    assert colours(frames[:, 1]).shape == (3, 6 * 5 * 3)
    assert texture(frames).shape == (3, 7)
    assert np.isfinite(texture(frames)).all()


def test_stretches() -> None:
    flags = np.array([1, 0, 1, 1, 1, 0, 1], np.bool_)
    assert first_stretch(flags, 2) == 3
    assert first_stretch(flags, 4) is None
    assert first_stretch(flags, 8) is None
    assert longest_stretch(flags) == 3
    assert longest_stretch(~np.ones(3, np.bool_)) == 0
    outside = np.zeros((3, 20, 1), np.bool_)
    outside[0, 10:] = True
    found = figures_of(outside, ("x",), sustained=5)
    assert (found["failed"], found["first_failure"], found["median_failure"], found["longest"]) == (1, [11, None, None], None, 20)


def test_policies_that_refuse_the_world_are_left_out_with_a_word() -> None:
    policies = {
        "random": {"_target_": "worldsim.policies.random.RandomPolicy"},
        "camera": {"_target_": "worldsim.policies.camera.RoadCamera"},
        "own": None,
    }
    suite = Suite.from_settings({"drift": {"steps": 10, "rows": 1, "policies": policies}}, BOX, instantiate_allowed)
    assert list(suite.policies) == ["random"]
    assert "Box(3)" in suite.left_out["camera"]
    assert suite.drift == Drift(steps=10, rows=1)
    assert suite.endings is None
    with pytest.raises(ValueError, match="steps >= rows"):
        Drift(steps=1, rows=2)


def test_other_actions_are_those_of_the_segment_that_is_copied() -> None:
    evidence = evidence_of(Store())
    for segment, frames in zip(other_actions(evidence.segments), evidence.others.frames, strict=True):
        source = next(own for own in evidence.segments if (own.actions == segment.actions).all())
        assert (source.frames == frames).all()
