"""Endings, state, memory, long rollouts and charts of the evaluation, on data where the truth is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image
from toy_store import ListStore

from worldsim.episode import Episode
from worldsim.evaluation import endings as endings_module
from worldsim.evaluation.chart import line_chart, point_chart
from worldsim.evaluation.endings import (
    Endings,
    any_end,
    best_threshold,
    calibration,
    choose_threshold,
    endings,
    f1,
    find_windows,
    highest_threshold,
)
from worldsim.evaluation.figures import mean_correlation, normalised_error
from worldsim.evaluation.memory import Memory, memory, returns
from worldsim.evaluation.openloop import longest_horizon
from worldsim.model import WorldModel
from worldsim.simulator import Simulator
from worldsim.types import StoreInfo

MakeWorld = Callable[..., WorldModel]
Array = np.ndarray[Any, Any]
SPACE = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))


class Store(ListStore):
    """Episodes of noise in which the camera swings to and fro, some of them ended by termination."""

    def __init__(self, *, episodes: int = 12, steps: int = 30, ends: Callable[[int], bool] = lambda _: False) -> None:
        info = StoreInfo("toy", (16, 16), 25.0, SPACE, ("heading", "x"), {"id": "toy"}, "0" * 64, "CC0-1.0")
        super().__init__(info, [_episode(seed, steps, ends(seed)) for seed in range(episodes)])


def _episode(seed: int, steps: int, ended: bool) -> Episode:
    random = np.random.default_rng(seed)
    frames = np.asarray(random.integers(0, 256, (steps + 1, 16, 16, 3)), np.uint8)
    actions = random.uniform(0, 1, (steps, 3)).astype(np.float32)
    over = np.zeros(steps, np.bool_)
    over[-1] = ended
    heading = 90 * np.sin(np.arange(steps + 1) * 2 * np.pi / 12)
    state = np.stack((heading, np.zeros(steps + 1)), axis=1).astype(np.float32)
    return Episode(frames, actions, np.zeros(steps, np.float32), over, np.zeros(steps, np.bool_), state, seed=seed)


# ---------------------------------------------------------------- endings


def test_windows_that_end_and_windows_that_do_not() -> None:
    store = Store(ends=lambda seed: seed % 2 == 0)
    found = find_windows(store, Endings(horizon=6), split="heldout", context=4)
    assert found.ends.any(axis=1).tolist() == [True, True, False, False, False, False]
    assert found.natural == pytest.approx(2 / (4 * 30))
    for segment, ends in zip(found.segments, found.ends, strict=True):
        seed = int(segment.context.name.split()[2].rstrip(","))
        last = (segment.actions[-1] == store[seed].actions[-1]).all()
        assert last == (ends[-1] or seed % 2 == 1)


def test_f1_and_its_best_threshold() -> None:
    truth = np.array([True, True, False, False])
    assert f1(truth, truth)["f1"] == 1
    assert f1(truth, np.array([True, False, True, False])) == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert f1(~truth & truth, truth & ~truth) == {"precision": None, "recall": None, "f1": None}
    threshold = best_threshold(truth, np.array([0.2, 0.15, 0.05, 0.01]))
    assert 0.05 < threshold < 0.15
    assert any_end(np.array([[0.5, 0.5], [0.0, 0.0]], np.float32)).tolist() == [0.75, 0]


def test_the_threshold_of_ends_is_the_highest_of_the_best_that_are_precise() -> None:
    truth, told = np.arange(200) < 100, np.full(200, 0.002)
    told[:100] = np.linspace(0.01, 0.3, 100)
    assert 0.01 < highest_threshold(truth, told) < 0.03  # some of the latest are given up, not many
    told[:100] = 0.2
    assert highest_threshold(truth, told) == pytest.approx(0.101)
    told[:100] = 0.9
    assert highest_threshold(truth, told) == 0.5  # it is right on all already
    assert highest_threshold(truth, np.random.default_rng(0).uniform(0, 0.4, 200)) == 0.5  # none is precise


def test_a_threshold_is_chosen_by_stretches_of_the_train_split_and_makes_the_rule(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(simulator: Simulator, segments: Sequence[Any], *, batch: int = 16) -> Array:
        size = 0.1 if len(segments[0].terminated) == 6 else 0.05
        return np.stack([0.01 + size * segment.terminated for segment in segments]).astype(np.float32)

    monkeypatch.setattr(endings_module, "end_probabilities", told)
    world, plan, store = make_world(), Endings(horizon=6), Store(episodes=40, ends=lambda seed: seed % 2 == 0)
    chosen = choose_threshold(Simulator(world), store, plan, context=4)
    assert 0.01 < chosen < 0.11
    assert choose_threshold(Simulator(world), Store(), plan, context=4) == 0.5  # nothing ends there
    long = Endings(horizon=8)  # what is told of these is half as much
    half = choose_threshold(Simulator(world), store, plan, long, context=4)
    assert half < chosen, "ends of all plans are to be found"
    found = {}
    for threshold in (0.5, chosen):
        world.spec = replace(world.spec, end_threshold=threshold)
        found[threshold] = endings(Simulator(world), store, plan, split="heldout", context=4)
        assert found[threshold]["threshold"] == threshold
    assert found[0.5]["rule"]["f1"] == 0.0
    assert found[chosen]["rule"]["f1"] == 1.0


def test_calibration_of_what_is_foretold() -> None:
    generator = np.random.default_rng(0)
    told = generator.uniform(0, 1, (200, 50)).astype(np.float32)
    right = calibration(generator.uniform(size=told.shape) < told, told)
    wrong = calibration(generator.uniform(size=told.shape) < 1 - told, told)
    assert all(each["foretold"] == pytest.approx(each["found"], abs=0.05) for each in right["bins"])
    assert sum(each["count"] for each in right["bins"]) == told.size
    assert right["brier"] < right["brier_base"] < wrong["brier"]


# ---------------------------------------------------------------- state, memory, long rollouts, pictures


def test_state_in_one_number() -> None:
    truth = np.random.default_rng(0).normal(size=(50, 6, 3)).astype(np.float32)
    truth[..., 2] = 7  # never varies: counts nowhere
    assert mean_correlation(truth, truth) == pytest.approx(1)
    assert mean_correlation(truth, truth * np.array([1, -1, 1], np.float32)) == pytest.approx(0)
    assert mean_correlation(truth[..., 2:], truth[..., 2:]) is None
    assert normalised_error(truth, truth) == [0.0] * 6
    guess = np.broadcast_to(np.median(truth, axis=0), truth.shape)
    assert normalised_error(truth, guess.astype(np.float32)) == pytest.approx([1.0] * 6, abs=1e-3)


def test_looking_away_and_back_is_found() -> None:
    plan = Memory(heading="heading", position=("x",), turn=60, tolerance=10, horizon=12)
    state = Store()[0].state
    found = returns(state, plan)
    assert found
    for before, away, back in found:
        assert abs(state[away, 0] - state[before, 0]) >= 60
        assert abs(state[back, 0] - state[before, 0]) <= 10
        assert before < away < back <= before + 12
    assert not returns(state, Memory(heading="heading", turn=179, tolerance=10, horizon=5))
    around = np.stack((np.arange(0, 720, 30.0) % 360, np.zeros(24)), axis=1)
    assert returns(around, plan)[0] == (0, 6, 12)
    moved = around + np.stack((np.zeros(24), np.arange(24) * 5), axis=1)
    assert not returns(moved, plan)


def test_memory_compares_both_ends(make_world: MakeWorld) -> None:
    store = Store()
    plan = Memory(heading="heading", turn=60, tolerance=10, horizon=12, segments=5)
    found = memory(Simulator(make_world()), store, plan, split="heldout", context=4)
    assert found["segments"] == 5
    assert {"real", "world", "away", "world_to_real"} < set(found)
    with pytest.raises(ValueError, match=r"compass.*heading=null"):
        memory(Simulator(make_world()), store, Memory(heading="compass"), split="heldout", context=4)


def test_a_heading_may_be_told_as_sine_and_cosine(make_world: MakeWorld) -> None:
    store, round_ = Store(), Store()
    round_.info = replace(store.info, state_names=("sin", "cos", "x"))
    angles = [np.radians(episode.state[:, :1]) for episode in store.episodes]
    columns = [np.hstack((np.sin(a), np.cos(a), e.state[:, 1:])) for a, e in zip(angles, store.episodes, strict=True)]
    round_.episodes = [replace(e, state=state.astype(np.float32)) for e, state in zip(store.episodes, columns, strict=True)]
    plain = Memory(heading="heading", position=("x",), turn=60, tolerance=10, horizon=12, segments=5)
    simulator = Simulator(make_world())
    found = memory(simulator, round_, replace(plain, heading=("sin", "cos")), split="heldout", context=4)
    assert found == memory(simulator, store, plain, split="heldout", context=4)
    with pytest.raises(ValueError, match="sine and its cosine"):
        Memory(heading=("a", "b", "c"))


def test_long_rollouts_go_as_far_as_episodes() -> None:
    store = Store(steps=30)
    assert longest_horizon(store, split="heldout", context=4, wanted=25) == 25
    assert longest_horizon(store, split="heldout", context=4, wanted=256) == 20
    assert longest_horizon(Store(episodes=0), split="heldout", context=4, wanted=256) == 0


def _look(path: Path) -> Array:
    with Image.open(path) as image:
        return np.asarray(image)


def test_charts_show_points_and_steps(tmp_path: Path) -> None:
    points: dict[str, Sequence[tuple[float, float]]] = {"a": [(0.0, 0.1), (1.0, 0.9)]}
    point_chart(tmp_path / "points.png", points, title="t", size=(200, 200))
    point_chart(tmp_path / "joined.png", points, title="t", size=(200, 200), joined=True)
    assert _look(tmp_path / "points.png").shape == (200, 200, 3)
    assert (_look(tmp_path / "points.png") != _look(tmp_path / "joined.png")).any()
    line_chart(tmp_path / "at.png", {"a": [0.1, 0.9]}, title="t", at=[40, 400])
    line_chart(tmp_path / "first.png", {"a": [0.1, 0.9]}, title="t")
    assert (_look(tmp_path / "at.png") != _look(tmp_path / "first.png")).any()
