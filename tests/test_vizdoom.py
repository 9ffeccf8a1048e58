"""The ViZDoom source: seeded episodes, buttons that do what they say, labels; skipped where ViZDoom is not installed."""

from __future__ import annotations

import importlib.util
import math
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from children import gone
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

import worldsim  # noqa: F401  (registers the source)
from worldsim.envs.sources.vizdoom import VizdoomSource
from worldsim.envs.sources.vizdoom_engine import check_scenario

needs_vizdoom = pytest.mark.skipif(importlib.util.find_spec("vizdoom") is None, reason="vizdoom is not installed")
STILL = np.zeros(6, np.int8)


@pytest.fixture(scope="module")
def env() -> Iterator[VizdoomSource]:
    source = VizdoomSource(labels=True)
    yield source
    source.close()


def press(*names: str) -> Any:
    return np.array([name in names for name in ("forward", "back", "left", "right", "turn_left", "turn_right")], np.int8)


def walk(source: VizdoomSource, seed: int, steps: int = 12) -> Any:
    rng = np.random.default_rng(0)
    frames, states = [source.reset(seed=seed)[0]], []
    for _ in range(steps):
        frame, _, _, _, info = source.step((rng.random(6) < 0.4).astype(np.int8))
        frames.append(frame)
        states.append(tuple(info["state"].values()))
    return np.stack(frames), np.array(states)


@needs_vizdoom
def test_same_seed_same_episode_other_seed_another(env: VizdoomSource) -> None:
    first, other, again = walk(env, 5), walk(env, 6), walk(env, 5)
    fresh = VizdoomSource()
    elsewhere = walk(fresh, 5)
    fresh.close()
    for one in (again, elsewhere):
        np.testing.assert_array_equal(one[0], first[0])
        np.testing.assert_array_equal(one[1], first[1])
    assert (first[0] != other[0]).any(axis=(1, 2, 3)).all()


@needs_vizdoom
def test_the_stream_of_a_seed_goes_on(env: VizdoomSource) -> None:
    def three() -> list[Any]:
        return [env.reset(seed=9)[0], env.reset()[0], env.reset()[0]]

    first, again = three(), three()
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any()


@needs_vizdoom
def test_the_frame_after_a_turn_shows_it(env: VizdoomSource) -> None:
    before = env.reset(seed=3)[0]
    turned, *_, info = env.step(press("turn_left"))
    state, moved = info["state"], np.abs(turned.astype(int) - before).mean()
    heading = math.atan2(state["heading_sin"], state["heading_cos"])
    still, *_, info = env.step(STILL)
    later = info["state"]
    assert moved > 1
    assert heading == pytest.approx(math.atan2(later["heading_sin"], later["heading_cos"]))
    np.testing.assert_array_equal(still, turned)


@needs_vizdoom
def test_turning_away_and_back_shows_the_same(env: VizdoomSource) -> None:
    frame, info = env.reset(seed=3)
    state = info["state"]
    for _ in range(9):
        info = env.step(press("turn_right"))[4]
    there = info["state"]
    assert state["heading_sin"] * there["heading_sin"] + state["heading_cos"] * there["heading_cos"] == pytest.approx(0, abs=0.01)
    back = frame
    for _ in range(9):
        back, *_, info = env.step(press("turn_left"))
    assert info["state"]["heading_sin"] == pytest.approx(state["heading_sin"], abs=1e-3)
    assert np.abs(back.astype(int) - frame).mean() < 2


@needs_vizdoom
@pytest.mark.parametrize(
    ("name", "speed", "sign"), [("forward", "speed_forward", 1), ("back", "speed_forward", -1), ("left", "speed_left", 1)]
)
def test_buttons_push_where_they_say(env: VizdoomSource, name: str, speed: str, sign: int) -> None:
    before = env.reset(seed=7)[1]["state"]
    env.step(press(name))
    state = env.step(press(name))[4]["state"]
    assert sign * state[speed] > 50
    assert sign * state[speed] > 3 * max(abs(value) for key, value in state.items() if key.startswith("speed") and key != speed)
    aside = (before["heading_cos"], before["heading_sin"]) if speed == "speed_forward" else (-before["heading_sin"], before["heading_cos"])
    assert sign * ((state["x"] - before["x"]) * aside[0] + (state["y"] - before["y"]) * aside[1]) > 10


@needs_vizdoom
def test_analog_actions_do_as_buttons(env: VizdoomSource) -> None:
    analog = VizdoomSource(analog=True)
    assert isinstance(analog.action_space, spaces.Box)
    env.reset(seed=7)
    analog.reset(seed=7)
    for keys, numbers in ((("forward", "turn_right"), (1, 1, 0)), (("left",), (0, 0, -1)), (("back", "turn_left"), (-1, -1, 0))):
        one, two = env.step(press(*keys)), analog.step(np.array(numbers, np.float32))
        np.testing.assert_array_equal(one[0], two[0])
    assert analog.step(np.array([0, 0.5, 0], np.float32))[4]["state"] != env.step(press("turn_right"))[4]["state"]
    analog.close()


@needs_vizdoom
def test_classes_and_health_where_there_are_some() -> None:
    source = VizdoomSource("health_gathering_supreme", labels=True, size=96)
    _, info = source.reset(seed=1)
    assert info["segmentation"].shape == (96, 96)
    seen = {0}
    for step in range(60):
        _, _, ended, _, info = source.step(press("turn_left") if step % 2 else press("forward"))
        seen |= set(np.unique(info["segmentation"]).tolist())
        if ended:
            break
    assert seen == {0, 1}
    assert info["state"]["health"] < 100
    source.close()


@needs_vizdoom
def test_death_terminates_and_shows_the_last_frame_again() -> None:
    source = VizdoomSource("health_gathering_supreme")
    source.reset(seed=0)
    last = frame = source.step(STILL)[0]
    for _ in range(400):
        last = frame
        frame, reward, ended, truncated, _ = source.step(STILL)
        assert not truncated
        assert (reward < 0) == ended
        if ended:
            break
    np.testing.assert_array_equal(frame, last)
    with pytest.raises(gym.error.ResetNeeded):
        source.step(STILL)
    source.reset(seed=0)
    assert not source.step(STILL)[2]
    source.close()


@needs_vizdoom
def test_maps_of_freedoom_and_other_buttons() -> None:
    source = VizdoomSource("freedoom2:MAP01", buttons=["forward", "run", "attack", "use"], render_mode="rgb_array")
    frame, info = source.reset(seed=0)
    shown = source.render()
    assert shown is not None
    np.testing.assert_array_equal(shown, frame)
    assert not np.shares_memory(shown, frame)
    assert info["conditioning"]["tags"] == ("scenario:freedoom2:MAP01",)
    fast = [source.step(np.array([1, 1, 0, 0], np.int8))[4]["state"]["speed_forward"] for _ in range(3)]
    source.reset(seed=0)
    slow = [source.step(np.array([1, 0, 0, 0], np.int8))[4]["state"]["speed_forward"] for _ in range(3)]
    assert fast[-1] > 1.5 * slow[-1] > 0
    source.close()


@needs_vizdoom
def test_environment_checker_is_content() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = gym.make("worldsim/ViZDoom-v0").unwrapped
        check_env(source)
    assert source.metadata["render_fps"] == 8.75
    source.close()


@needs_vizdoom
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_engine_dies_with_its_parent() -> None:
    code = (
        "import os, subprocess, signal\n"
        "from worldsim.envs.sources.vizdoom import VizdoomSource\n"
        "source = VizdoomSource(); source.reset(seed=0)\n"
        "own = f'/proc/{os.getpid()}/task'\n"
        "print([child for task in os.listdir(own) for child in open(f'{own}/{task}/children').read().split()], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == -signal.SIGKILL, done.stderr
    children = [int(part.strip("' ")) for part in done.stdout.strip().strip("[]").split(",")]
    assert children
    assert gone(children), "the engine outlives its parent"


@needs_vizdoom
def test_nothing_is_left_behind(tmp_path: Path) -> None:
    code = "from worldsim.envs.sources.vizdoom import VizdoomSource; VizdoomSource().reset(seed=0)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@needs_vizdoom
@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"size": 8}, "size=8"),
        ({"action_repeat": 0}, "action_repeat=0"),
        ({"buttons": ["forward", "fly"]}, "fly"),
        ({"buttons": ["use", "use"]}, "each once"),
        ({"turn": 0}, "turn=0"),
        ({"render_mode": "human"}, "render_mode='human'"),
    ],
)
def test_keywords_out_of_range_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VizdoomSource(**keywords)


@needs_vizdoom
def test_actions_outside_the_space_are_refused(env: VizdoomSource) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match="forward, back"):
        env.step(np.full(6, 2, np.int8))


@pytest.mark.parametrize("scenario", ["my_way_hom", "freedoom2:MAP33", "freedoom1:MAP01", "/etc/passwd"])
def test_unknown_scenarios_are_refused(scenario: str) -> None:
    with pytest.raises(ValueError, match=r"my_way_home.*freedoom2:MAP01"):
        check_scenario(scenario)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(ValueError, match=r"pip install 'worldsim-gym\[doom\]'"):
        VizdoomSource()
