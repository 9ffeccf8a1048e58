"""``worldsim train heads``: heads that tell better what imagined frames are worth, and nothing else of the world changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from test_uncertainty import _episode as episode

from worldsim.checkpoint import content_hash
from worldsim.config import compose
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.writer import write_dataset
from worldsim.episode import Episode
from worldsim.evaluation.openloop import cut_segments
from worldsim.heads import Heads
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.training.heads import Told, between, fit, measure, train_heads
from worldsim.training.lesson import end_share, ending, spare
from worldsim.training.outcomes import end_weight
from worldsim.training.recall import with_recall

MakeWorld = Callable[..., WorldModel]
SMALL = ["segments=10", "context=4", "horizon=6", "batch=4", "steps=3", "batch_size=8"]
NATURAL = 0.25


def heads() -> Heads:
    torch.manual_seed(0)
    made: Any = Heads(tokens=4, width=8, state_size=2, hidden=32)
    fresh: Heads = made.eval()
    return fresh


def frames(seed: int, count: int = 400, *, noise: bool = False) -> Told:
    """Make frames whose first token tells their reward, end and state; with ``noise``, nothing tells it."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 4, 8, generator=generator)
    told = torch.randn(count, 4, 8, generator=generator) if noise else hidden
    return Told(hidden.half(), 3 * told[:, 0, 0], (told[:, 0, 1] > 0.67).float(), told[:, 0, 2:4])


def learn(start: Heads, data: Told, spared: Told, *, steps: int = 300, seed: int = 0) -> Heads:
    return fit(start, data, spared, natural=NATURAL, steps=steps, batch_size=64, lr=3e-3, seed=seed)


def test_heads_that_learned_tell_new_frames_better_in_each_respect_and_the_old_ones_stay_as_they_were() -> None:
    old, new = heads(), frames(2)
    before = measure(old, new, natural=NATURAL)
    after = measure(learn(old, frames(0), frames(1)), new, natural=NATURAL)
    assert all(after[name] < 0.85 * before[name] for name in ("reward", "end", "state"))
    assert measure(old, new, natural=NATURAL) == before


def test_where_there_is_nothing_to_learn_heads_stay_as_they_are() -> None:
    good = learn(heads(), frames(0), frames(1))
    kept = learn(good, frames(3, noise=True), frames(1), steps=100)
    assert all(torch.equal(value, kept.state_dict()[name]) for name, value in good.state_dict().items())


def test_the_same_seed_fits_the_same_heads_and_another_seed_others() -> None:
    one, same, other = (learn(heads(), frames(0), frames(1), steps=5, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not all(torch.equal(value, other[name]) for name, value in one.items())


def test_heads_halfway_to_the_new_ones_lie_between_and_those_all_of_the_way_are_they() -> None:
    old, new = heads(), learn(heads(), frames(0), frames(1), steps=100)
    half, whole = (between(old, new, share=share).state_dict() for share in (0.5, 1.0))
    for name, value in old.state_dict().items():
        torch.testing.assert_close(half[name], (value + new.state_dict()[name]) / 2)
        assert torch.equal(whole[name], new.state_dict()[name])


def test_ends_count_as_they_do_in_whole_episodes() -> None:
    """Heads that see nothing and always tell the natural share lose least, whatever share the data has."""
    data = frames(0)
    assert float(data.end.mean()) == pytest.approx(0.25, abs=0.05)
    for natural in (0.05, 0.5):
        weight = end_weight(data.end, torch.ones_like(data.end), natural)
        ends, others = weight * float(data.end.sum()), float((1 - data.end).sum())
        assert ends / (ends + others) == pytest.approx(natural)
        blind, loss = heads(), dict[float, float]()
        for share in (natural / 2, natural, 1.5 * natural):
            torch.nn.init.constant_(blind.mlp.get_parameter("4.bias")[63:64], float(torch.tensor(share).logit()))
            loss[share] = measure(blind, data, natural=natural)["end"]
        assert min(loss, key=loss.__getitem__) == natural
    assert end_weight(torch.zeros(4), torch.ones(4), 0.1) == 1.0


def test_every_sixth_episode_is_spared_of_all_parts() -> None:
    def segment(number: int) -> Any:
        return SimpleNamespace(context=SimpleNamespace(name=f"episode seed {number}, frame 3"))

    left, spared = spare([[segment(i // 2) for i in range(24)], [segment(i) for i in (0, 11, 5, 10)]])
    assert [len(part) for part in left] == [20, 2]
    assert [[one.context.name.split()[2] for one in part] for part in spared] == [["5,", "5,", "11,", "11,"], ["11,", "5,"]]
    assert spare([[segment(0), segment(4)]])[1] == [[]]


@pytest.fixture(scope="module")
def data(make_world: MakeWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of 24 episodes, of which every second one is terminated by its last step."""
    path = tmp_path_factory.mktemp("data") / "toy.worldsim"
    _write(path, make_world(), [episode(seed) for seed in range(24)])
    return path


def _write(path: Path, world: WorldModel, episodes: list[Episode], *, names: tuple[str, ...] = ("speed", "offset")) -> None:
    for number, one in enumerate(episodes):
        one.terminated[-1] = number % 2 == 0
    write_dataset(path, episodes, name="toy", fps=25.0, action_space=world.spec.action_space, state_names=names)


def configured(world: Path, path: Path, out: Path, *more: str) -> DictConfig:
    return compose("train_heads", [f"world={world}", f"data.path={path}", f"out={out}", *SMALL, *more])


def test_stretches_that_end_with_their_episode_do_so_at_their_last_step(data: Path) -> None:
    store = EpisodeReader(data)
    found = ending(store, split="train", context=4, horizon=6, limit=5)
    assert len(found) == 5
    assert all(list(np.flatnonzero(segment.terminated)) == [5] for segment in found)
    assert not ending(store, split="train", context=4, horizon=40, limit=5)
    others = cut_segments(store, split="train", context=4, horizon=6, per_episode=1, limit=20)
    assert not any(segment.terminated[:-1].any() for segment in others)
    assert 0.02 < end_share(store) < 0.03  # of 20 steps, in about half of the episodes


def test_training_writes_a_world_that_imagines_the_same_and_tells_other_rewards(
    endless_path: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content_hash(endless_path)
    train_heads(configured(endless_path, data, tmp_path, "steps=40", "lr=0.01"))
    assert "after, held-out rollouts: reward" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
    assert content_hash(endless_path) == before
    old, new = WorldModel.from_pretrained(endless_path), WorldModel.from_pretrained(tmp_path / "world")
    assert new.spec.recipe["heads"]["horizon"] == 6
    made = []
    for world in (old, new):
        simulator = Simulator(world)
        made.append(simulator.step(simulator.start([old.contexts[0]], [0]), np.zeros((1, 3), np.float32))[1])
    assert (made[0].frames == made[1].frames).all()
    assert made[0].reward != made[1].reward


class _Killed(Exception):
    """What a test ends training with."""


def test_training_that_was_killed_goes_on_to_the_same_heads(
    endless_path: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, most, step = [0], [1000], Simulator.step

    def counted(self: Simulator, *args: Any, **more: Any) -> Any:
        steps[0] += 1
        if steps[0] > most[0]:
            raise _Killed
        return step(self, *args, **more)

    monkeypatch.setattr(Simulator, "step", counted)

    def train(name: str) -> dict[str, torch.Tensor]:
        steps[0] = 0
        train_heads(configured(endless_path, data, tmp_path / name, "steps=40", "lr=0.01"))
        return WorldModel.from_pretrained(tmp_path / name / "world").heads.state_dict()

    whole, in_all = train("whole"), steps[0]
    most[0] = 14
    with pytest.raises(_Killed):
        train("killed")
    most[0] = 1000
    resumed = train("killed")
    assert steps[0] < in_all - 6
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_cannot_be_learned_from_is_refused(endless_path: Path, data: Path, tmp_path: Path, make_world: MakeWorld) -> None:
    few, other = tmp_path / "few.worldsim", tmp_path / "other.worldsim"
    _write(few, make_world(), [episode(seed) for seed in range(4)])
    _write(other, make_world(), [episode(seed) for seed in range(24)], names=("speed", "slip"))
    for path, more, message in (
        (few, (), "record at least two episodes|segments=10 of 10 frames come from fewer than 6 training episodes"),
        (other, (), r"labels \['speed', 'slip'\], world 'tiny' tells \['speed', 'offset'\]"),
        (data, ("segments=1",), "segments=1 of 10 frames come from fewer than 6 training episodes of .*: ask for more"),
        (data, ("every=0",), "every=0 must be 1 or more"),
        (data, ("share=0",), r"share=0\.0 must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            train_heads(configured(endless_path, path, tmp_path / "out", *more))


def test_recall_of_the_old_heads_is_left_out(endless_path: Path, data: Path, tmp_path: Path) -> None:
    old = WorldModel.from_pretrained(endless_path)
    old.replaced(heads=with_recall(old.heads, seed=0)).save_pretrained(tmp_path / "told")
    train_heads(configured(tmp_path / "told", data, tmp_path / "out"))
    assert WorldModel.from_pretrained(tmp_path / "told").heads.memory is not None
    assert WorldModel.from_pretrained(tmp_path / "out" / "world").heads.memory is None
