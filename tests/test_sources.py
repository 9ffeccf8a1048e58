"""Any Gymnasium environment as a source, and the watch over frames."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from PIL import Image

from worldsim.envs.sources.generic import GymSource
from worldsim.envs.sources.watch import FrameWatch, SourceFrameError
from worldsim.types import Frames


class Screen(gym.Env[Frames, np.int64]):
    """Shows what it is told to: a picture by step."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, *, picture: str = "noise", shape: tuple[int, ...] = (40, 60, 3), render_mode: str | None = None) -> None:
        self.picture, self.shape, self.render_mode = picture, shape, render_mode
        self.action_space = spaces.Discrete(3)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frames, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.show(), {}

    def step(self, action: np.int64) -> tuple[Frames, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.show(), 1.0, self.steps >= 1000, False, {}

    def render(self) -> Frames:
        return self.show()

    def show(self) -> Frames:
        if self.picture == "black":
            return np.zeros(self.shape, np.uint8)
        if self.picture == "float":
            return np.zeros(self.shape, np.float32)  # pyright: ignore[reportReturnType]
        seed = 0 if self.picture == "frozen" else self.steps
        return np.random.default_rng(seed).integers(0, 256, self.shape, dtype=np.uint8)


@pytest.fixture(autouse=True)
def _registered() -> Any:
    gym.register("Screen-v0", entry_point=lambda **keywords: Screen(**keywords))
    yield
    del gym.registry["Screen-v0"]


# ---------------------------------------------------------------- any environment


def test_frames_are_area_averages_of_what_is_rendered() -> None:
    env = GymSource("Screen-v0", size=20)
    frame, info = env.reset(seed=0)
    shown = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    mean = shown.reshape(20, 2, 20, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(frame, mean, atol=1)
    assert info == {"state": {}, "conditioning": {"tags": (), "numbers": {}, "text": ""}}


def test_observed_images_can_be_the_frames() -> None:
    env = GymSource("Screen-v0", size=30, observation="observation")
    env.reset(seed=0)
    shown = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(env.step(np.int64(0))[0], np.array(Image.fromarray(shown).resize((30, 30), Image.Resampling.BOX)))


def test_repeated_actions_sum_rewards_and_slow_the_clock() -> None:
    env = GymSource("Screen-v0", action_repeat=4)
    env.reset(seed=0)
    assert env.step(np.int64(1))[1] == 4.0
    assert env.metadata["render_fps"] == 5


def test_small_observations_are_labelled_state() -> None:
    env = GymSource("CartPole-v1", state=["x", "speed", "angle", "turn"])
    assert env.state_names == ("x", "speed", "angle", "turn")
    _, info = env.reset(seed=0)
    assert list(info["state"]) == list(env.state_names)
    assert env.step(np.int64(1))[4]["state"]["speed"] > info["state"]["speed"]
    assert tuple(GymSource("CartPole-v1").state_names) == ("obs_0", "obs_1", "obs_2", "obs_3")
    assert GymSource("CartPole-v1", state=[]).reset(seed=0)[1]["state"] == {}


def test_same_seed_same_frames_other_seed_others() -> None:
    frames = []
    for seed in (1, 1, 2):
        env = GymSource("CartPole-v1")
        frames.append(np.stack([env.reset(seed=seed)[0], *(env.step(np.int64(1))[0] for _ in range(5))]))
    np.testing.assert_array_equal(frames[0], frames[1])
    assert (frames[0] != frames[2]).any()


def test_the_time_limit_of_the_environment_holds() -> None:
    env = GymSource("Screen-v0", kwargs={"max_episode_steps": 3})
    env.reset(seed=0)
    assert [env.step(np.int64(0))[3] for _ in range(3)] == [False, False, True]


def test_environment_checker_is_content() -> None:
    gym.register("Source-v0", entry_point="worldsim.envs.sources.generic:GymSource")
    spec = gym.spec("Source-v0")
    spec.kwargs["id"] = "CartPole-v1"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(spec, render_mode="rgb_array").unwrapped)
    del gym.registry["Source-v0"]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"id": "CartPol-v1"}, "did you mean CartPole-v1"),
        ({"id": "CartPole-v99"}, "'CartPole-v99' is unknown"),
        ({"id": "no_such_package:Thing-v0"}, "No module named .no_such_package."),
        ({"id": "CartPole-v1", "kwargs": {"colour": 1}}, "cannot be made.*colour"),
        ({"id": "CartPole-v1", "size": 4}, "size=4"),
        ({"id": "CartPole-v1", "action_repeat": 0}, "action_repeat=0"),
        ({"id": "CartPole-v1", "observation": "pixels"}, "observation='pixels'"),
        ({"id": "CartPole-v1", "state": ["x"]}, "1 names.*4 numbers"),
    ],
)
def test_what_cannot_be_a_source_is_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GymSource(**keywords)


def test_environments_without_pictures_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Screen, "metadata", {"render_modes": ["ansi"]})
    with pytest.raises(ValueError, match=r"'Screen-v0' does not render 'rgb_array' \(ansi\)"):
        GymSource("Screen-v0")


@pytest.mark.parametrize("kwargs", [{"picture": "float"}, {"shape": (40, 60)}])
def test_frames_of_another_kind_are_refused(kwargs: dict[str, Any]) -> None:
    env = GymSource("Screen-v0", kwargs=kwargs)
    with pytest.raises(ValueError, match=r"render\(\) of Screen-v0 gives"):
        env.reset(seed=0)


def test_actions_outside_the_space_are_refused() -> None:
    env = GymSource("Screen-v0")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action 7 is outside"):
        env.step(7)


# ---------------------------------------------------------------- the watch


def run(env: gym.Env[Any, Any], steps: int, *, vary: bool = True) -> None:
    env.reset(seed=11)
    for step in range(steps):
        env.step(step % 3 if vary else 0)


def run_often(env: gym.Env[Any, Any], times: int, *, steps: int) -> None:
    for _ in range(times):
        run(env, steps)


def test_moving_pictures_pass() -> None:
    env = FrameWatch(gym.make("Screen-v0"), frozen_after=5, blank_after=2)
    run(env, 60)


def test_black_frames_are_noticed() -> None:
    env = FrameWatch(gym.make("Screen-v0", picture="black"), blank_after=5)
    with pytest.raises(SourceFrameError, match=r"Screen-v0, seed 11, step 4: the last 5 frames are blank.*SDL_VIDEODRIVER.*MUJOCO_GL"):
        run(env, 20)


def test_frozen_frames_are_noticed_where_actions_differ() -> None:
    env = FrameWatch(gym.make("Screen-v0", picture="frozen"), frozen_after=20)
    with pytest.raises(SourceFrameError, match="step 20: 20 frames in a row are equal although actions differ"):
        run(env, 30)


def test_what_stands_still_under_one_action_passes() -> None:
    run(FrameWatch(gym.make("Screen-v0", picture="frozen"), frozen_after=20), 60, vary=False)


def test_short_episodes_hide_nothing() -> None:
    env = FrameWatch(gym.make("Screen-v0", picture="frozen"), frozen_after=20)
    with pytest.raises(SourceFrameError, match="frames in a row are equal"):
        run_often(env, 5, steps=6)


@pytest.mark.parametrize("keywords", [{"frozen_after": 0}, {"blank_after": 0}])
def test_impossible_numbers_are_refused(keywords: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        FrameWatch(gym.make("Screen-v0"), **keywords)


def test_recording_needs_no_display_and_says_nothing() -> None:
    code = "from worldsim.envs.sources.generic import GymSource; GymSource('CartPole-v1').reset(seed=0)"
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
