"""Libraries for reinforcement learning: each takes the learned world as it is, or through its adapter. Skipped where missing."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from worldsim.envs.plain import WithoutInfos

needs_sb3 = pytest.mark.skipif(importlib.util.find_spec("stable_baselines3") is None, reason="Stable-Baselines3 is not installed")
needs_torchrl = pytest.mark.skipif(importlib.util.find_spec("torchrl") is None, reason="TorchRL is not installed")


@pytest.fixture(autouse=True)
def _libraries_warn() -> Iterator[None]:
    """Let the libraries warn about themselves and each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def batch(endless_path: Path, **keywords: Any) -> Any:
    return gym.make_vec("WorldSim-v0", num_envs=2, world=str(endless_path), **keywords)


# ---------------------------------------------------------------- Stable-Baselines3


def sb3(endless_path: Path, **keywords: Any) -> Any:
    from worldsim.envs.sb3 import SB3VecEnv

    return SB3VecEnv(batch(endless_path, autoreset_mode="SameStep", **keywords))


@needs_sb3
def test_sb3_checks_the_single_environment(endless_path: Path) -> None:
    check_env = pytest.importorskip("stable_baselines3.common.env_checker").check_env

    check_env(gym.make("WorldSim-v0", world=str(endless_path)))


@needs_sb3
def test_the_vec_env_gives_what_sb3_makes_of_single_environments(endless_path: Path) -> None:
    DummyVecEnv = pytest.importorskip("stable_baselines3.common.vec_env").DummyVecEnv

    ours = sb3(endless_path, horizon=2)
    theirs = DummyVecEnv([lambda: gym.make("WorldSim-v0", world=str(endless_path), horizon=2)] * 2)
    for env in (ours, theirs):
        env.seed(7)
        env.set_options({"context": 2})
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    assert [info["context"] for info in ours.reset_infos] == [info["context"] for info in theirs.reset_infos] == ["context 2"] * 2
    ours.action_space.seed(0)
    for t in range(5):
        actions = np.stack([ours.action_space.sample() for _ in range(2)])
        (frames, rewards, over, infos), (other, their_rewards, their_over, their_infos) = ours.step(actions), theirs.step(actions)
        assert np.abs(frames.astype(int) - other).max() <= 1
        np.testing.assert_allclose(rewards, their_rewards, atol=1e-4)
        assert (rewards.dtype, over.dtype) == (their_rewards.dtype, their_over.dtype)
        assert over.tolist() == their_over.tolist() == [t % 2 == 1] * 2
        for info, their_info in zip(infos, their_infos, strict=True):
            assert info["state"] == pytest.approx(their_info["state"], abs=1e-3)
            assert info.get("TimeLimit.truncated", False) == their_info["TimeLimit.truncated"]
            assert ("terminal_observation" in info) == ("terminal_observation" in their_info) == over[0]
            if over[0]:
                assert np.abs(info["terminal_observation"].astype(int) - their_info["terminal_observation"]).max() <= 1
        assert [info["context"] for info in ours.reset_infos] == [info["context"] for info in theirs.reset_infos]


@needs_sb3
@pytest.mark.parametrize("observation", ["frame", "latent"])
def test_ppo_learns_on_it(endless_path: Path, observation: str) -> None:
    PPO = pytest.importorskip("stable_baselines3").PPO
    VecMonitor = pytest.importorskip("stable_baselines3.common.vec_env").VecMonitor

    env = VecMonitor(sb3(endless_path, horizon=16, observation=observation))
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu").learn(128)
    assert model.num_timesteps == 128
    assert len(model.ep_info_buffer) == 8


@needs_sb3
def test_ppo_learns_on_the_single_environment(endless_path: Path) -> None:
    PPO = pytest.importorskip("stable_baselines3").PPO

    env = gym.make("WorldSim-v0", world=str(endless_path), horizon=16)
    assert PPO("MlpPolicy", env, n_steps=128, batch_size=64, n_epochs=1, device="cpu").learn(256).num_timesteps == 256


@needs_sb3
def test_the_vec_env_tells_and_shows(endless_path: Path) -> None:
    env = sb3(endless_path, render_mode="rgb_array")
    frames = env.reset()
    assert env.render_mode == "rgb_array"
    np.testing.assert_array_equal(np.stack(env.get_images()), frames)
    assert env.get_attr("world_spec")[1].name == "tiny"
    assert env.env_is_wrapped(gym.Wrapper) == [False] * 2
    snapshot = env.env_method("clone_state")[0]
    env.step(np.zeros((2, 3), np.float32))
    env.env_method("restore_state", snapshot)
    env.set_attr("note", 1)
    assert env.get_attr("note", indices=0) == [1]
    with pytest.raises(ValueError, match="method 'clone_state' belongs to all rows, indices=0 names some: leave indices out"):
        env.env_method("clone_state", indices=0)
    env.close()


@needs_sb3
def test_other_environments_are_refused(endless_path: Path) -> None:
    from worldsim.envs.sb3 import SB3VecEnv

    with pytest.raises(ValueError, match="autoreset_mode='NextStep' is not what Stable-Baselines3 expects: use 'SameStep'"):
        SB3VecEnv(batch(endless_path))
    with pytest.raises(ValueError, match="is no WorldSimVectorEnv"):
        SB3VecEnv(SyncVectorEnv([lambda: gym.make("CartPole-v1")]))


@pytest.mark.skipif(importlib.util.find_spec("stable_baselines3") is not None, reason="Stable-Baselines3 is installed")
def test_without_sb3_the_extra_is_named() -> None:
    with pytest.raises(ImportError, match=r"pip install 'worldsim-gym\[sb3\]'"):
        importlib.import_module("worldsim.envs.sb3")


# ---------------------------------------------------------------- TorchRL


@needs_torchrl
@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
@pytest.mark.parametrize("observation", ["frame", "latent"])
def test_torchrl_takes_the_batch(endless_path: Path, mode: str, observation: str) -> None:
    GymWrapper = pytest.importorskip("torchrl.envs").GymWrapper

    made = batch(endless_path, horizon=3, autoreset_mode=mode, observation=observation)
    env = GymWrapper(WithoutInfos(made) if mode == "SameStep" else made)
    assert tuple(env.batch_size) == (2,)
    out = env.rollout(8, break_when_any_done=False)
    assert tuple(out.batch_size) == (2, 8)
    assert out["next", "done"][..., 0].tolist() == [[t % 3 == 2 for t in range(8)]] * 2
    shape = (16, 16, 3) if observation == "frame" else (4, 4, 4)
    assert tuple(out["next", "observation"].shape) == (2, 8, *shape)
    np.testing.assert_array_equal(out["next", "observation"][:, 0], out["observation"][:, 1])
    assert (out["next", "observation"][:, 2] != out["observation"][:, 3]).any()  # the last one of its episode, and a first one


@needs_torchrl
def test_torchrl_takes_the_single_environment(endless_path: Path) -> None:
    GymEnv = pytest.importorskip("torchrl.envs").GymEnv
    check_env_specs = pytest.importorskip("torchrl.envs.utils").check_env_specs

    env = GymEnv("WorldSim-v0", world=str(endless_path), device="cpu")
    check_env_specs(env)
    assert env.rollout(4)["next", "reward"].shape == (4, 1)


# ---------------------------------------------------------------- examples


def run_example(name: str, *arguments: str) -> None:
    """Run ``examples/<name>.py``."""
    found = importlib.util.spec_from_file_location(f"example_{name}", Path(__file__).parents[1] / "examples" / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    module.main(list(arguments))


@pytest.mark.parametrize("observation", ["latent", "frame"])
def test_the_example_of_ppo_runs(endless_path: Path, observation: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_example(
        "ppo", f"--world={endless_path}", f"--observation={observation}", "--steps=128", "--rollout=32", "--num-envs=2", "--horizon=8"
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["steps 64", "steps 128"]
    assert "nan" not in lines[1]


@needs_torchrl
def test_the_example_of_a_torchrl_collector_runs(endless_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("torchrl_collector", f"--world={endless_path}", "--steps=64", "--num-envs=2", "--horizon=5")
    assert "steps 64" in capsys.readouterr().out
