"""Grip and curvature of the CarRacing source: the physics follow what is told, and without the settings all is as it was."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import worldsim  # noqa: F401  registers the source
from worldsim.config import compose
from worldsim.envs.sources.carracing import CarRacingSource
from worldsim.envs.sources.carracing_grip import SLIPPERY, WINDING, tell, track_curvature

TURN = np.array([0.5, 0.1, 0.0], np.float32)
STOP = np.array([0.0, 0.0, 0.8], np.float32)
NUMBERS = {f"{part}_{color}" for part in ("road", "grass", "patch") for color in ("red", "green", "blue")}


def source(**keywords: Any) -> CarRacingSource:
    made = CarRacingSource(**{"warmup": (50, 60), **keywords})
    made.core.draw = lambda size: np.zeros((size, size, 3), np.uint8)  # type: ignore[method-assign]
    return made


def drive(action: NDArray[np.float32], *, seed: int = 0, steps: int = 25, **keywords: Any) -> list[dict[str, float]]:
    env = source(**keywords)
    return [env.reset(seed=seed)[1]["state"], *(env.step(action)[4]["state"] for _ in range(steps))]


def told(seed: int = 0, **keywords: Any) -> dict[str, Any]:
    found: dict[str, Any] = source(**keywords).reset(seed=seed)[1]["conditioning"]
    return found


# ---------------------------------------------------------------- physics


def test_the_stock_grip_is_the_stock_car() -> None:
    assert drive(TURN, grip=1.0) == drive(TURN)


def test_less_grip_brakes_later_and_slides_more() -> None:
    start = drive(STOP, steps=0, grip=1.0)[0]["speed"]
    speeds = [drive(STOP, steps=5, grip=grip)[-1]["speed"] / drive(STOP, steps=0, grip=grip)[0]["speed"] for grip in (0.4, 1.0, 1.6)]
    assert start > 8
    assert speeds[0] > speeds[1] + 0.05
    slips = [max(state["wheel_slip"] for state in drive(TURN, grip=grip)) for grip in (0.3, 1.0)]
    assert slips[0] > 1.5 * slips[1]


def test_grip_holds_on_grass_too() -> None:
    def slowed(grip: float) -> float:
        env = source(grip=grip)
        env.reset(seed=0)
        assert env.core.car is not None
        place = np.array(env.core.car.hull.position)
        for body in (env.core.car.hull, *env.core.car.wheels):
            body.position, body.linearVelocity = tuple(np.array(body.position) - place + 280.0), (0.0, 30.0)
        state: dict[str, float] = {}
        for _ in range(6):
            state = env.step(STOP)[4]["state"]
            assert state["on_road"] == 0.0
        return state["speed"]

    assert slowed(0.4) > slowed(1.0) + 1


def test_one_car_s_grip_is_no_other_car_s() -> None:
    dynamics: Any = sys.modules["gymnasium.envs.box2d.car_dynamics"]
    limit, slick, stock = dynamics.FRICTION_LIMIT, source(grip=0.3), source()
    slick.reset(seed=0)
    state = [stock.reset(seed=0)[1]["state"], *(stock.step(TURN)[4]["state"] for _ in range(25))]
    assert state == drive(TURN)
    assert limit == dynamics.FRICTION_LIMIT


@pytest.mark.parametrize("grip", [0.3, 0.5, 2.0])
def test_episodes_start_on_the_road_whatever_the_grip(grip: float) -> None:
    env = source(grip=grip, warmup=(0, 400))
    starts = [env.reset(seed=seed)[1]["state"] for seed in range(5)]
    assert np.mean([state["on_road"] for state in starts]) >= 0.8
    assert min(state["speed"] for state in starts) > 4


# ---------------------------------------------------------------- what is told


def test_without_the_settings_nothing_else_is_told_or_drawn() -> None:
    plain = told(3)
    assert set(plain["numbers"]) == NUMBERS
    assert not {"slippery", "winding"} & set(plain["tags"])
    full = told(3, grip=(0.5, 1.2), curvature=True)
    assert full["tags"][: len(plain["tags"])] == plain["tags"]
    assert full["text"].endswith(plain["text"])
    assert {name: full["numbers"][name] for name in NUMBERS} == plain["numbers"]


def test_the_draw_of_grip_leaves_all_other_draws_as_they_are() -> None:
    plain, slick = source(), source(grip=(0.5, 1.2))
    for env in (plain, slick):
        env.reset(seed=11)
    assert plain.np_random.bit_generator.state == slick.np_random.bit_generator.state


def test_the_same_seed_draws_the_same_grip_another_seed_another() -> None:
    env = source(grip=(0.5, 1.2))
    grips = [env.reset(seed=seed)[1]["conditioning"]["numbers"]["grip"] for seed in (1, 1, 2)]
    grips.append(env.reset()[1]["conditioning"]["numbers"]["grip"])
    assert grips[0] == grips[1] != grips[2] != grips[3]
    assert all(0.5 <= grip <= 1.2 for grip in grips)
    assert told(1, grip=0.7)["numbers"]["grip"] == 0.7


def test_numbers_tags_and_words_agree() -> None:
    env = source(grip=(0.5, 1.0), curvature=True)
    kinds = set()
    for seed in range(8):
        given = env.reset(seed=seed)[1]["conditioning"]
        slippery, winding = given["numbers"]["grip"] < SLIPPERY, given["numbers"]["curvature"] > WINDING
        words = given["text"].replace(",", "").split()
        assert ("slippery" in given["tags"]) is ("slippery" in words) is slippery
        assert ("winding" in given["tags"]) is ("winding" in words) is winding
        kinds.add((slippery, winding))
    assert len(kinds) >= 3


def test_the_caption_reads_as_one_would_say_it() -> None:
    plain = {"tags": ("road:blue",), "numbers": {}, "text": "blue road on green grass"}
    assert tell(plain, grip=0.6, curvature=0.02)["text"] == "winding, slippery blue road on green grass"
    assert tell(plain, grip=1.0, curvature=0.02)["text"] == "winding blue road on green grass"
    assert tell(plain, grip=1.0, curvature=0.01)["text"] == "blue road on green grass"


def test_curvature_of_a_circle() -> None:
    angles = np.arange(90) * 2 * np.pi / 90
    circle = [(a, a, 50 * np.cos(a), 50 * np.sin(a)) for a in angles]
    assert track_curvature(circle) == pytest.approx(1 / 50, rel=1e-3)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("wrong", [0.1, 3.0, (1.2, 0.5), (0.5, 0.7, 0.9), float("nan")])
def test_grip_out_of_range_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"grip=.* must be a factor in 0.3..2.0, or \[lowest, highest\]"):
        CarRacingSource(grip=wrong)


def test_the_settings_have_a_source_of_their_own() -> None:
    given = compose("collect", ["source=carracing_grip", "source.grip=[0.4,0.6]"]).source
    assert (list(given.grip), given.curvature) == ([0.4, 0.6], True)
    assert "grip" not in compose("collect", []).source
