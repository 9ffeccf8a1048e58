"""The learned world among Gymnasium's own tools: checkers, wrappers, vectors and recorders take it without a warning.

Libraries for reinforcement learning are in ``test_adapters.py``.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import FrameStackObservation, GrayscaleObservation, RecordEpisodeStatistics, RecordVideo
from gymnasium.wrappers import vector as wrappers

MODES = list(AutoresetMode)
needs_moviepy = pytest.mark.skipif(importlib.util.find_spec("moviepy") is None, reason="moviepy is not installed")
needs_minari = pytest.mark.skipif(
    importlib.util.find_spec("minari") is None or importlib.util.find_spec("jax") is None, reason="Minari cannot record here"
)


@pytest.fixture(autouse=True)
def _headless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.fixture
def world_path(endless_path: Path) -> str:
    return str(endless_path)


def batch(world: str, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **keywords: Any) -> VectorEnv[Any, Any, Any]:
    env: VectorEnv[Any, Any, Any] = gym.make_vec("WorldSim-v0", num_envs=2, world=world, autoreset_mode=mode.value, **keywords)
    return env


def run(env: Any, steps: int) -> list[Any]:
    """Reset and step, starting rows that are over where nobody else does."""
    env.reset(seed=0)
    env.action_space.seed(0)
    over, out = np.zeros(2, np.bool_), []
    for _ in range(steps):
        if over.any() and env.metadata["autoreset_mode"] is AutoresetMode.DISABLED:
            env.reset(options={"reset_mask": over})
        out.append(env.step(env.action_space.sample()))
        over = out[-1][2] | out[-1][3]
    return out


# ---------------------------------------------------------------- one episode at a time


@pytest.mark.parametrize("observation", ["frame", "latent"])
def test_the_checker_is_content(world_path: str, observation: str) -> None:
    with warnings.catch_warnings():
        if observation == "latent":  # numbers without limits are meant
            warnings.filterwarnings("ignore", ".*Box observation space (minimum|maximum) value is.*", UserWarning)
        check_env(gym.make("WorldSim-v0", world=world_path, observation=observation).unwrapped)


def test_the_shipped_world_passes_too() -> None:
    check_env(gym.make("WorldSim-v0").unwrapped)


def test_wrappers_of_frames(world_path: str) -> None:
    env: Any = gym.make("WorldSim-v0", world=world_path, horizon=3)
    env = RecordEpisodeStatistics(FrameStackObservation(GrayscaleObservation(env), 4))
    env.reset(seed=0)
    *_, (frames, _, _, truncated, info) = [env.step(env.action_space.sample()) for _ in range(3)]
    assert frames.shape == (4, 16, 16)
    assert truncated
    assert info["episode"]["l"] == 3


@needs_moviepy
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_videos_are_recorded(world_path: str, tmp_path: Path) -> None:
    env: Any = RecordVideo(gym.make("WorldSim-v0", world=world_path, horizon=4, render_mode="rgb_array"), str(tmp_path / "one"))
    env.reset(seed=0)
    for _ in range(4):
        env.step(env.action_space.sample())
    env.close()
    assert [file.suffix for file in (tmp_path / "one").iterdir() if file.suffix == ".mp4"] == [".mp4"]
    many = wrappers.RecordVideo(batch(world_path, horizon=4, render_mode="rgb_array"), str(tmp_path / "many"))
    run(many, 6)
    many.close()
    assert list((tmp_path / "many").glob("*.mp4"))


@needs_minari
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_minari_collects_it(world_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gym.make("WorldSim-v0", world=world_path, horizon=3))
    for seed in range(2):
        env.reset(seed=seed)
        for _ in range(3):
            env.step(env.action_space.sample())
    dataset = env.create_dataset("worldsim/tiny-v0")
    env.close()
    assert (dataset.total_episodes, dataset.total_steps) == (2, 6)
    episode = next(iter(dataset))
    assert np.asarray(episode.observations).shape == (4, 16, 16, 3)
    assert dataset.recover_environment().reset(seed=0)[0].shape == (16, 16, 3)


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("mode", MODES)
def test_statistics_of_episodes(world_path: str, mode: AutoresetMode) -> None:
    env = wrappers.RecordEpisodeStatistics(batch(world_path, mode, horizon=3))
    lengths = [out[4]["episode"]["l"].tolist() for out in run(env, 9) if "episode" in out[4]]
    assert lengths[:2] == [[3, 3], [3, 3]]


def test_normalised_observations_and_rewards(world_path: str) -> None:
    env = wrappers.NormalizeReward(wrappers.NormalizeObservation(batch(world_path, horizon=3)))
    assert np.isfinite(run(env, 8)[-1][0]).all()


@pytest.mark.parametrize("mode", MODES)
def test_wrappers_of_batches(world_path: str, mode: AutoresetMode) -> None:
    env: Any = wrappers.ClipReward(batch(world_path, mode, horizon=3), -0.1, 0.1)
    if mode is not AutoresetMode.SAME_STEP:  # Gymnasium's wrappers of observations do not know final_obs
        env = wrappers.GrayscaleObservation(env)
    out = run(env, 7)
    assert out[-1][0].shape == env.observation_space.shape
    assert all(np.abs(step[1]).max() <= 0.1 for step in out)
    listed: Any = wrappers.DictInfoToList(batch(world_path, mode, horizon=3))
    infos = [step[4] for step in run(listed, 7)]
    assert [len(info) for info in infos] == [2] * 7
    assert all("state" in info for step in infos for info in step)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vectorization", ["sync", "vector_entry_point"])
def test_both_ways_of_make_vec(world_path: str, mode: AutoresetMode, vectorization: str) -> None:
    own: dict[str, Any] = {"autoreset_mode": mode} if vectorization == "vector_entry_point" else {"vector_kwargs": {"autoreset_mode": mode}}
    env = gym.make_vec("WorldSim-v0", num_envs=2, vectorization_mode=vectorization, world=world_path, horizon=3, **own)
    assert env.metadata["autoreset_mode"] is mode
    assert isinstance(env.unwrapped, SyncVectorEnv) == (vectorization == "sync")
    truncated = [bool(step[3].all()) for step in run(env, 7)]
    assert [t for t, over in enumerate(truncated) if over] == ([2, 6] if mode is AutoresetMode.NEXT_STEP else [2, 5])
    env.close()


def test_processes_that_are_spawned(world_path: str) -> None:
    env = AsyncVectorEnv([lambda: gym.make("worldsim:WorldSim-v0", world=world_path, horizon=3)] * 2, context="spawn", shared_memory=True)
    try:
        frames, infos = env.reset(seed=5)
        assert infos["_state"].all()
        ours = batch(world_path, horizon=3)
        np.testing.assert_array_equal(ours.reset(seed=5)[0], frames)
        for _ in range(4):
            actions = ours.action_space.sample()
            one, other = env.step(actions), ours.step(actions)
            assert np.abs(one[0].astype(int) - other[0]).max() <= 1
            assert one[3].tolist() == other[3].tolist()
    finally:
        env.close()
