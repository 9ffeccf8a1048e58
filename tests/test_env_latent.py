"""``observation="latent"``: episodes without decoding, and frames when they are asked for."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec

from worldsim.envs.vector import WorldSimVectorEnv
from worldsim.envs.world import WorldSimEnv
from worldsim.tokenizer import to_uint8

ACTION = np.array([0.5, 1, 0], np.float32)


def both(endless_path: Path, **keywords: Any) -> tuple[WorldSimEnv, WorldSimEnv]:
    """Return an environment of frames and one of latents."""
    return WorldSimEnv(str(endless_path), **keywords), WorldSimEnv(str(endless_path), observation="latent", **keywords)


def close(one: Any, other: Any) -> bool:
    """Whether frames differ by 1/255 at most."""
    return bool(np.abs(one.astype(int) - other.astype(int)).max() <= 1)


def test_latents_are_observations(endless_path: Path) -> None:
    env = gym.make("WorldSim-v0", world=str(endless_path), observation="latent")
    assert env.observation_space == gym.spaces.Box(-np.inf, np.inf, (4, 4, 4), np.float32)
    latents, _ = env.reset(seed=0)
    assert env.observation_space.contains(latents)
    assert env.observation_space.contains(env.step(ACTION)[0])
    batch = gym.make_vec("WorldSim-v0", num_envs=2, world=str(endless_path), observation="latent")
    assert batch.observation_space.shape == (2, 4, 4, 4)
    assert batch.observation_space.contains(batch.reset(seed=0)[0])
    assert batch.observation_space.contains(batch.step(np.stack([ACTION] * 2))[0])


def test_the_episode_is_the_one_of_frames(endless_path: Path) -> None:
    frames, latents = both(endless_path, render_mode="rgb_array")
    frames.reset(seed=3)
    latents.reset(seed=3)
    for _ in range(6):
        seen, reward, *ends, info = frames.step(ACTION)
        latent, same_reward, *same_ends, same_info = latents.step(ACTION)
        assert (reward, ends, info) == (same_reward, same_ends, same_info)
        rendered = latents.render()
        assert rendered is not None
        assert close(rendered, seen)
        decoded = to_uint8(latents.rows.model.tokenizer.decode(torch.from_numpy(latent)[None]))[0]
        np.testing.assert_array_equal(decoded.numpy(), rendered)


def test_the_first_latent_is_the_last_frame_of_the_context_encoded(endless_path: Path) -> None:
    frames, latents = both(endless_path)
    frame, _ = frames.reset(seed=3)
    latent, _ = latents.reset(seed=3)
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 127.5 - 1
    np.testing.assert_allclose(latents.rows.model.tokenizer.encode(pixels)[0].numpy(), latent, atol=1e-5)


def test_no_frame_is_decoded_until_it_is_asked_for(endless_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = WorldSimVectorEnv(2, world=str(endless_path), observation="latent", render_mode="rgb_array", horizon=2)
    decoded: list[tuple[int, ...]] = []
    tokenizer: Any = env.rows.model.tokenizer
    decode = tokenizer.decode

    def counting(latents: torch.Tensor) -> torch.Tensor:
        decoded.append(tuple(latents.shape))
        made: torch.Tensor = decode(latents)
        return made

    monkeypatch.setattr(tokenizer, "decode", counting)
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.stack([ACTION] * 2))
    assert not decoded
    rendered = env.render()
    assert rendered is not None
    assert [(frame.shape, str(frame.dtype)) for frame in rendered] == [((16, 16, 3), "uint8")] * 2
    assert decoded == [(2, 4, 4, 4)]


def test_a_row_of_latents_is_the_single_environment(endless_path: Path) -> None:
    batch = WorldSimVectorEnv(2, world=str(endless_path), observation="latent")
    first, _ = batch.reset(seed=[8, 9])
    out = [batch.step(np.stack([ACTION] * 2))[0] for _ in range(4)]
    for row in range(2):
        single = WorldSimEnv(str(endless_path), observation="latent")
        np.testing.assert_array_equal(single.reset(seed=8 + row)[0], first[row])
        for latents in out:
            np.testing.assert_allclose(single.step(ACTION)[0], latents[row], atol=1e-4)


def test_what_is_returned_stays_as_it_was(endless_path: Path) -> None:
    env = WorldSimEnv(str(endless_path), observation="latent")
    latent, _ = env.reset(seed=0)
    kept = latent.copy()
    stepped = env.step(ACTION)[0]
    np.testing.assert_array_equal(latent, kept)
    stepped[:] = np.nan
    assert np.isfinite(env.step(ACTION)[0]).all()


def test_nan_gives_the_last_good_latent_again(endless_path: Path) -> None:
    env = WorldSimEnv(str(endless_path), observation="latent")
    env.reset(seed=0)
    good = env.step(ACTION)[0]
    assert env.rows.state is not None
    env.rows.state = replace(env.rows.state, history=torch.full_like(env.rows.state.history, torch.nan))
    latent, _, terminated, truncated, info = env.step(ACTION)
    np.testing.assert_array_equal(latent, good)
    assert (terminated, truncated) == (False, True)
    assert "truncation_reason" in info


def test_it_survives_a_spec_and_a_pickle(endless_path: Path) -> None:
    env = gym.make("WorldSim-v0", world=str(endless_path), observation="latent")
    assert env.spec is not None
    for again in (EnvSpec.from_json(env.spec.to_json()).make(), pickle.loads(pickle.dumps(env.unwrapped))):
        np.testing.assert_array_equal(again.reset(seed=1)[0], env.reset(seed=1)[0])


def test_other_observations_are_refused(endless_path: Path) -> None:
    for make in (lambda: WorldSimEnv(str(endless_path), observation="pixels"), lambda: WorldSimVectorEnv(2, observation="pixels")):
        with pytest.raises(ValueError, match="observation='pixels' is unknown: use 'frame' or 'latent'"):
            make()
