"""The CarRacing source: the stock simulator's pixels, rewards and endings, with starts at speed and labels."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

import worldsim  # noqa: F401  (registers the source)
from worldsim.envs.sources.carracing import CarRacingSource
from worldsim.envs.sources.carracing_colors import color_name
from worldsim.envs.sources.carracing_render import FastCarRacing
from worldsim.envs.sources.carracing_track import CentreLine, wrap

stock: Any = sys.modules["gymnasium.envs.box2d.car_racing"]


def short(**keywords: Any) -> CarRacingSource:
    return CarRacingSource(**{"warmup": (50, 60), **keywords})


def random_actions(seed: int, count: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    held = rng.uniform((-1, 0, 0), (1, 1, 0.3), size=(count // 10 + 1, 3))
    return held.repeat(10, axis=0)[:count].astype(np.float32)


# ---------------------------------------------------------------- pixels


@pytest.mark.parametrize(("seed", "domain_randomize"), [(0, True), (1, False), (2, True)])
def test_frames_are_the_stock_ones_to_the_last_bit(seed: int, domain_randomize: bool) -> None:
    theirs, ours = stock.CarRacing(domain_randomize=domain_randomize), FastCarRacing(domain_randomize=domain_randomize)
    frame, _ = theirs.reset(seed=seed)
    ours.reset(seed=seed)
    np.testing.assert_array_equal(ours.draw(96), frame)
    for step, action in enumerate(random_actions(seed, 90)):
        frame, reward, terminated, _, _ = theirs.step(action)
        _, our_reward, our_end, _, _ = ours.step(action)
        assert (our_reward, our_end) == (reward, terminated)
        if step % 4 == 0:
            np.testing.assert_array_equal(ours.draw(96), frame)


def test_frames_are_the_stock_ones_at_the_edge_of_the_playfield() -> None:
    theirs, ours = stock.CarRacing(), FastCarRacing(domain_randomize=False)
    for simulator in (theirs, ours):
        simulator.reset(seed=3)
        simulator.t = 2.0
        assert simulator.car is not None
        for body in (simulator.car.hull, *simulator.car.wheels):
            body.position = (stock.PLAYFIELD - 9.0, 20.0)
    for _ in range(3):
        frame = theirs.step(np.array([0.3, 0.5, 0.0]))[0]
        ours.step(np.array([0.3, 0.5, 0.0]))
        np.testing.assert_array_equal(ours.draw(96), frame)


@pytest.mark.parametrize("size", [64, 128])
def test_other_sizes_scale_the_same_window(size: int) -> None:
    theirs = stock.CarRacing()
    ours = FastCarRacing(domain_randomize=False)
    theirs.reset(seed=0)
    ours.reset(seed=0)
    np.testing.assert_array_equal(ours.draw(size), theirs._create_image_array(theirs.surf, (size, size)))


# ---------------------------------------------------------------- episodes


def test_same_seed_same_episode_other_seed_another() -> None:
    actions = random_actions(0, 12)
    runs = []
    for seed in (5, 5, 6):
        env = short()
        frames = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]
        runs.append(np.stack([*frames, env.reset()[0]]))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any(axis=(1, 2, 3)).all()


def test_episodes_start_on_the_road_at_speed_after_the_zoom() -> None:
    env = short(warmup=(0, 400))
    starts = []
    for seed in range(6):
        _, info = env.reset(seed=seed)
        assert env.core.t >= 1.0
        assert info["state"]["on_road"] == 1.0
        assert info["state"]["speed"] > 8
        starts.append(env.core.tile_visited_count)
    assert len(set(starts)) > 3


def test_warming_up_stops_short_of_the_lap() -> None:
    env = short(warmup=(5000, 5000))
    env.reset(seed=1)
    share = env.core.tile_visited_count / len(env.core.track)
    assert 0.8 < share < 0.9
    assert not env.step(np.zeros(3, np.float32))[2]


def test_rewards_of_repeated_physics_steps_are_summed() -> None:
    once, twice = short(action_repeat=1), short(action_repeat=2)
    once.reset(seed=7)
    twice.reset(seed=7)
    for action in random_actions(7, 8):
        expected = once.step(action)[1] + once.step(action)[1]
        assert twice.step(action)[1] == pytest.approx(expected, abs=1e-9)
    assert twice.metadata["render_fps"] == 25


def test_leaving_the_playfield_terminates() -> None:
    env = short()
    env.reset(seed=0)
    assert env.core.car is not None
    env.core.car.hull.position = (stock.PLAYFIELD + 5, 0)
    _, reward, terminated, truncated, info = env.step(np.zeros(3, np.float32))
    assert (reward, terminated, truncated, info["lap_finished"]) == (-100.0, True, False, False)


def test_a_driven_lap_terminates(monkeypatch: pytest.MonkeyPatch) -> None:
    env = short()
    monkeypatch.setattr(env.core, "draw", lambda size: np.zeros((size, size, 3), np.uint8))
    _, info = env.reset(seed=0)
    terminated = False
    for _ in range(1500):
        state = info["state"]
        steer = np.clip(-1.6 * state["path_angle_near"] - 0.4 * state["path_angle_far"], -1, 1)
        gas = np.clip(0.1 * (35 - state["speed"]), 0, 0.5)
        _, _, terminated, _, info = env.step(np.array([steer, gas, 0.0], np.float32))
        if terminated:
            break
    assert terminated
    assert info["lap_finished"]


def test_frames_do_not_share_memory() -> None:
    env = short(render_mode="rgb_array")
    first, _ = env.reset(seed=0)
    kept = first.copy()
    second = env.step(np.array([0.5, 1, 0], np.float32))[0]
    shown = env.render()
    assert shown is not None
    np.testing.assert_array_equal(shown, second)
    assert not np.shares_memory(shown, second)
    np.testing.assert_array_equal(first, kept)
    assert short().render() is None


def test_environment_checker_is_content() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("worldsim/CarRacing-v0", warmup=(50, 55)).unwrapped)


# ---------------------------------------------------------------- labels


def test_state_has_the_named_numbers() -> None:
    env = short()
    _, info = env.reset(seed=0)
    assert tuple(info["state"]) == env.state_names == tuple(env.state_units)
    later = env.step(np.array([0, 0, 1], np.float32))[4]["state"]
    assert all(isinstance(value, float) and math.isfinite(value) for value in later.values())
    assert later["speed"] < info["state"]["speed"]


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_steering_to_one_side_shows_in_every_label(side: float) -> None:
    env = short()
    _, info = env.reset(seed=0)  # starts on a long straight
    for _ in range(12):
        info = env.step(np.array([side * 0.2, 0, 0], np.float32))[4]
    state = info["state"]
    left = -side
    assert state["yaw_rate"] * left > 0
    assert state["heading_error"] * left > 0
    assert state["offset"] * left > 0
    assert state["path_angle_near"] * left < 0


def test_off_the_road_is_off_the_road() -> None:
    env = short()
    env.reset(seed=0)
    on = [env.step(np.array([-0.15, 0.3, 0], np.float32))[4]["state"] for _ in range(40)]
    assert on[0]["on_road"] == 1.0
    assert on[-1]["on_road"] == 0.0
    assert on[-1]["offset"] > 7


def test_centre_line_on_a_circle() -> None:
    radius, count = 50.0, 90
    angles = np.arange(count) * 2 * np.pi / count
    line = CentreLine([(a, a, radius * np.cos(a), radius * np.sin(a)) for a in angles])
    place = line.place(radius - 2.0, 0.0, 0.1, (10.0,))
    assert place.offset == pytest.approx(2.0)
    assert place.heading_error == pytest.approx(0.1)
    ahead = radius * np.exp(0.2j) - (radius - 2.0)
    assert place.bearings[0] == pytest.approx(np.angle(ahead) - np.pi / 2 - 0.1, abs=0.01)


def test_wrapping() -> None:
    assert wrap(3 * math.pi + 0.1) == pytest.approx(-math.pi + 0.1)
    assert wrap(0.4) == pytest.approx(0.4)


def test_conditioning_tells_the_colors_that_are_seen() -> None:
    env = short(size=96)
    texts = set()
    for seed in range(4):
        frame, info = env.reset(seed=seed)
        told = info["conditioning"]
        assert all(0 <= value <= 1 for value in told["numbers"].values())
        assert told["text"] == f"{told['tags'][0].removeprefix('road:')} road on {told['tags'][1].removeprefix('grass:')} grass"
        texts.add(told["text"])
        grass = [int(told["numbers"][f"grass_{c}"] * 255) for c in ("red", "green", "blue")]
        assert (np.abs(frame.astype(int) - grass) <= 3).all(axis=-1).mean() > 0.2
    assert len(texts) > 1


def test_colors_stay_where_they_are_asked_to() -> None:
    env = short()
    before = env.reset(seed=0)[1]["conditioning"]
    kept = env.reset(options={"randomize": False})[1]["conditioning"]
    new = env.reset()[1]["conditioning"]
    assert kept == before
    assert new["numbers"] != before["numbers"]
    plain = short(domain_randomize=False).reset(seed=1)[1]["conditioning"]
    assert plain["text"] == "grey road on green grass"


@pytest.mark.parametrize(
    ("color", "name"),
    [
        ((102, 102, 102), "grey"),
        ((102, 204, 102), "green"),
        ((120, 60, 20), "brown"),
        ((20, 10, 30), "black"),
        ((200, 20, 190), "pink"),
        ((210, 205, 200), "white"),
    ],
)
def test_color_names(color: tuple[int, int, int], name: str) -> None:
    assert color_name(np.array(color, dtype=np.float64)) == name


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"size": 8}, "size=8"),
        ({"action_repeat": 0}, "action_repeat=0"),
        ({"warmup": (90, 50)}, r"warmup=\(90, 50\)"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_keywords_out_of_range_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CarRacingSource(**keywords)


@pytest.mark.parametrize("action", [(2.0, 0, 0), (0, -0.5, 0), (math.nan, 0, 0), (0, 0)])
def test_actions_outside_the_space_are_refused(action: tuple[float, ...]) -> None:
    env = short()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="outside"):
        env.step(np.array(action, np.float32))
