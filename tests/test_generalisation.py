"""What a world loses on episodes that it has not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import MakeWorld
from gymnasium import spaces
from toy_store import ListStore

from worldsim.episode import Episode
from worldsim.evaluation import generalisation as module
from worldsim.evaluation.figures import Evidence
from worldsim.evaluation.generalisation import Generalisation, generalisation
from worldsim.evaluation.openloop import Rollouts, Segment, cut_segments, real
from worldsim.evaluation.run import evaluate
from worldsim.evaluation.suite import Protocol, Suite
from worldsim.evaluation.tables import figures
from worldsim.simulator import Simulator
from worldsim.types import StoreInfo

SPACE = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
SEEN, UNSEEN = 1, 10  # errors of each pixel


def episode(seed: int) -> Episode:
    random, still = np.random.default_rng(seed), np.zeros(20, np.bool_)
    frames = random.integers(20, 236, (21, 16, 16, 3), dtype=np.uint8)
    actions = random.uniform(0, 1, (20, 3)).astype(np.float32)
    return Episode(frames, actions, actions[:, 0], still, still, np.zeros((21, 0), np.float32), seed=seed)


@pytest.fixture
def store() -> ListStore:
    info = StoreInfo("toy", (16, 16), 25.0, SPACE, (), {"id": "toy"}, "0" * 64, "CC0-1.0")
    return ListStore(info, [episode(seed) for seed in range(6)])


def off_by(error: int, segments: Sequence[Segment]) -> Rollouts:
    nothing: Any = np.zeros((len(segments), 6), np.float32)
    return Rollouts(real(segments) + np.uint8(error), nothing, nothing[..., None], nothing)


def told(world: Any, store: ListStore, monkeypatch: pytest.MonkeyPatch, *, seen: int = SEEN) -> dict[str, Any]:
    monkeypatch.setattr(module, "imagine", lambda _, segments, batch: off_by(seen, segments))
    segments = cut_segments(store, split="heldout", context=4, horizon=6, per_episode=2, limit=4)
    made = off_by(UNSEEN, segments)
    return generalisation(Simulator(world), store, Generalisation(3), Evidence(segments, made, made), context=4, seed=0, batch=2)


def test_what_is_lost_is_the_difference_of_both_advantages(
    make_world: MakeWorld, store: ListStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = told(make_world(), store, monkeypatch)
    assert found["steps"] == [1, 4]
    assert (found["train"]["segments"], found["train"]["episodes"]) == (3, 3)
    assert (found["unseen"]["segments"], found["unseen"]["episodes"]) == (4, 2)
    np.testing.assert_allclose(found["lost"]["db"], 20 * np.log10(UNSEEN / SEEN), atol=0.5)  # all copies are as far off
    np.testing.assert_allclose(np.subtract(found["train"]["db"], found["unseen"]["db"]), found["lost"]["db"], atol=0.002)
    assert "+20." in figures({"generalisation": found})[0] or "+19." in figures({"generalisation": found})[0]
    nothing = told(make_world(), store, monkeypatch, seen=UNSEEN)
    np.testing.assert_allclose(nothing["lost"]["db"], 0, atol=0.5)


def test_a_world_of_another_dataset_is_said_to_be_one(make_world: MakeWorld, store: ListStore, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    assert "which may hold them or not" in figures({"generalisation": told(world, store, monkeypatch)})[0]
    world.spec = replace(world.spec, dataset={"fingerprint": store.info.fingerprint})
    assert "which may hold them or not" not in figures({"generalisation": told(world, store, monkeypatch)})[0]


@pytest.mark.parametrize(("split", "there"), [("heldout", True), ("train", False)])
def test_the_train_split_is_not_set_beside_itself(make_world: MakeWorld, store: ListStore, split: str, there: bool) -> None:
    small = Protocol(split=split, context=4, horizon=6, segments=4, per_episode=2, batch=2, pairs=0)
    report, _ = evaluate(make_world(), store, small, suite=Suite(generalisation=Generalisation(2), endings=None), say=lambda _: None)
    assert ("generalisation" in report) == there


def test_no_segments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"generalisation\.segments=0 must be 1 or more"):
        Generalisation(0)
