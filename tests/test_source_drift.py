"""Recorded drives of the source, judged beside a world's: the ceiling of drift."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toy_store import ListStore

from worldsim.episode import Episode
from worldsim.evaluation.judge import Judge
from worldsim.evaluation.sight import Sight
from worldsim.evaluation.source_drift import figures_of_recorded, judge_recorded
from worldsim.evaluation.suite import Suite
from worldsim.evaluation.tables import figures
from worldsim.targets import instantiate_allowed
from worldsim.types import StoreInfo

Array = np.ndarray[Any, Any]
BOX = spaces.Box(-1, 1, (2,), np.float32)
RANDOM = {"_target_": "worldsim.policies.random.RandomPolicy"}


def noise(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(100, 256, (count, 16, 16, 3), dtype=np.uint8)


def store_of(*frames: Array) -> ListStore:
    info = StoreInfo("long", (16, 16), 25.0, BOX, (), {"id": "toy"}, "0" * 64, "CC0-1.0")

    def episode(shown: Array) -> Episode:
        steps = len(shown) - 1
        still = np.zeros(steps, np.bool_)
        return Episode(
            shown, np.zeros((steps, 2), np.float32), still.astype(np.float32), still, still, np.zeros((steps + 1, 0), np.float32)
        )

    return ListStore(info, [episode(each) for each in frames])


def judge_of(frames: Array) -> Judge:
    torch.manual_seed(0)
    return Judge.of(Sight(2).eval(), frames)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return judge_of(noise(600).reshape(300, 2, 16, 16, 3))


def test_every_step_after_the_context_is_judged_by_the_frames_that_lead_to_it(judge: Judge) -> None:
    dark = noise(31, seed=1)
    dark[20:] = 0
    (found,) = judge_recorded(judge, store_of(dark), context=4, steps=100, total=1000)
    assert len(found) == 31 - 4
    bad = np.asarray(found.any(axis=1))
    assert bad[16:].all()  # step 17 leads to frame 20, the first that is black
    assert not bad[:16].all()
    whole, short = judge_recorded(judge, store_of(dark, dark[:13]), context=4, steps=100, total=1000)
    assert (whole == found).all()
    assert (short == found[:9]).all()
    assert (judge_recorded(judge, store_of(dark), context=4, steps=6, total=1000)[0] == found[:6]).all()
    assert (judge_recorded(judge, store_of(dark), context=1, steps=100, total=1000)[0][3:] == found).all()


def test_as_many_drives_as_make_the_steps_asked_for_those_that_are_too_short_aside(judge: Judge) -> None:
    store = store_of(noise(5), noise(4), *(noise(12, seed) for seed in range(3)))

    def lengths(total: int, steps: int = 100) -> list[int]:
        return [len(each) for each in judge_recorded(judge, store, context=4, steps=steps, total=total)]

    assert lengths(9) == [1, 8]
    assert lengths(10) == [1, 8, 8]
    assert lengths(1000) == [1, 8, 8, 8]
    assert lengths(10, steps=3) == [1, 3, 3, 3]
    with pytest.raises(ValueError, match=r"drift.source: no episode of 'long' goes on after 20 frames: record longer ones"):
        judge_recorded(judge, store, context=20, steps=100, total=10)


def test_shares_are_of_the_steps_there_are() -> None:
    long, short = np.zeros((80, 2), np.bool_), np.zeros((20, 2), np.bool_)
    long[40:, 1] = True
    short[:, 0] = True
    found = figures_of_recorded([long, short], ("colours", "texture"), steps=100)
    assert (found["rows"], found["steps"], found["inside"]) == (2, 100, 0.4)
    assert found["outside"] == {"colours": 0.2, "texture": 0.4}
    assert found["curve"][:5] == [0.5] * 5
    assert found["curve"][5:10] == [1.0] * 5
    assert found["curve"][10:20] == [0.0] * 10
    assert found["curve"][20:] == [None] * 5


def test_drives_are_of_policies_that_drive() -> None:
    camera = {"_target_": "worldsim.policies.camera.RoadCamera"}

    def build(given: dict[str, Any], **extra: Any) -> Any:
        return f"opened {given['path']}" if "path" in given else instantiate_allowed(given, **extra)

    def suite(source: dict[str, str | None]) -> Suite:
        drift = {"steps": 10, "rows": 1, "policies": {"random": RANDOM, "camera": camera, "own": None}, "source": source}
        return Suite.from_settings({"drift": drift}, BOX, build)

    opened: Any = suite({"random": "a", "camera": "b", "own": None}).sources  # the camera refuses Box(2)
    assert opened == {"random": "opened a"}
    assert not suite({}).sources
    with pytest.raises(ValueError, match=r"drift.source.own='c' is of a policy that does not drive: set drift.policies.own"):
        suite({"own": "c"})


def test_the_report_has_a_line_for_the_source() -> None:
    own = {
        "inside": 0.5,
        "failed": 1,
        "rows": 2,
        "median_failure": 3,
        "first_failure": [3, None],
        "longest": 9,
        "outside": {"colours": 0.5},
    }
    source = {"steps": 1999, "inside": 0.673, "outside": {"texture": 0.25, "colours": 0.1}}
    part = {"edge": 0.001, "steps": 1000, "rows": 2, "sustained": 5, "real": 0.97, "bar": 0.95, "left_out": {}}

    def text(sources: dict[str, Any]) -> str:
        return figures({"drift": {**part, "policies": {"random": own}, "source": sources}})[0]

    assert "| random, the source (1,999 steps) | 67.3% |" in text({"random": source})
    assert "`texture` (25.0%)" in text({"random": source})
    assert "the source" not in text({})
