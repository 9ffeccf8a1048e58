"""The worlds in the package: complete, measured, repeatable, and steered by their actions."""

from __future__ import annotations

import json
import math
import zlib
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

import worldsim
from worldsim.checkpoint import SHIPPED, shipped_worlds
from worldsim.model import WorldModel
from worldsim.spaces import from_row, row_size

STEPS = 8
LARGEST = 24 * 2**20  # bytes of one world in a wheel, which is compressed: the package stays small


def rollout(name: str, *, seed: int, actions: NDArray[Any]) -> NDArray[np.uint8]:
    """Step a world from context 0 on, and return the frames ``(T + 1, H, W, 3)``."""
    env: gym.Env[Any, Any] = gym.make("WorldSim-v0", world=name)
    frames = [env.reset(seed=seed, options={"context": 0})[0]]
    for action in actions:
        frame, reward, _, truncated, info = env.step(action)
        assert math.isfinite(reward)
        assert all(map(math.isfinite, info["state"].values()))
        assert not truncated
        frames.append(frame)
    env.close()
    return np.stack(frames)


def constant(name: str, row: NDArray[Any]) -> NDArray[Any]:
    space = WorldModel.from_pretrained(name).spec.action_space
    return np.stack([from_row(space, row)] * STEPS)


def two_actions(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return two unlike actions for ``STEPS`` steps: the two ends of the space, as far as it has any."""
    space = WorldModel.from_pretrained(name).spec.action_space
    if isinstance(space, gym.spaces.Box):
        low, high = (np.clip(edge, -1, 1).reshape(-1) for edge in (space.low, space.high))
        return constant(name, low), constant(name, high)
    rows = np.zeros((2, row_size(space)), np.int64)
    rows[1] = 1
    return constant(name, rows[0]), constant(name, rows[1])


def test_the_default_world_is_shipped() -> None:
    assert "carracing-nano" in shipped_worlds()
    env: gym.Env[Any, Any] = gym.make("WorldSim-v0")
    assert env.unwrapped.metadata["checkpoint"]["name"] == "carracing-nano"
    assert worldsim.__version__


@pytest.mark.parametrize("name", shipped_worlds())
def test_a_shipped_world_is_complete(name: str) -> None:
    folder = SHIPPED / name
    world = WorldModel.from_pretrained(name)
    assert world.spec.name == name
    assert len(world.contexts) >= 64
    assert {context.frames.shape for context in world.contexts.items} == {(world.spec.context_frames, *world.spec.frame_size, 3)}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert name in card
    for word in ("PSNR", "licence"):
        assert word.lower() in card.lower()
    for picture in ("rollouts.png", "open_loop.png"):
        assert (folder / "pictures" / picture).stat().st_size > 0
    assert sum(len(zlib.compress(file.read_bytes(), 1)) for file in folder.rglob("*") if file.is_file()) < LARGEST


@pytest.mark.parametrize("name", shipped_worlds())
def test_a_shipped_world_tells_where_it_comes_from_and_what_was_measured(name: str) -> None:
    spec = WorldModel.from_pretrained(name).spec
    assert spec.source["id"] in gym.registry
    assert spec.licence
    assert len(spec.dataset["fingerprint"]) == 64
    assert spec.recipe["loop"]["steps"] > 0
    assert spec.keys
    assert spec.quality, "worldsim evaluate with card=true records the figures"
    text = json.dumps(spec.to_json())
    for place in ("/work", "/home", "/root", "/tmp"):
        assert place not in text


@pytest.mark.parametrize("name", shipped_worlds())
def test_the_same_seed_gives_the_same_frames_and_another_seed_others(name: str) -> None:
    actions, _ = two_actions(name)
    one, two, other = (rollout(name, seed=seed, actions=actions) for seed in (0, 0, 1))
    assert np.array_equal(one, two)
    assert np.array_equal(one[0], other[0])
    assert not np.array_equal(one[1:], other[1:])


@pytest.mark.parametrize("name", shipped_worlds())
def test_other_actions_give_other_frames_and_more_than_noise_does(name: str) -> None:
    actions, others = two_actions(name)
    runs = ((0, actions), (0, others), (1, actions))
    one, steered, noise = (rollout(name, seed=seed, actions=taken) for seed, taken in runs)

    def apart(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
        return float(np.abs(a.astype(np.float64) - b).mean())

    assert not np.array_equal(one[1], steered[1])
    assert apart(one[STEPS], steered[STEPS]) > apart(one[STEPS], noise[STEPS])


def test_recall_begins_from_the_recorded_state_of_contexts() -> None:
    recalling = [world for world in map(WorldModel.from_pretrained, shipped_worlds()) if world.heads.memory is not None]
    assert "vizdoom-nano" in [world.spec.name for world in recalling]
    for world in recalling:
        assert all(context.state is not None for context in world.contexts)


def test_a_room_is_lived_in_as_long_as_the_health_lasts_with_which_one_comes() -> None:
    context = WorldModel.from_pretrained("vizdoom-nano").contexts[0]
    env: gym.Env[Any, Any] = gym.make("WorldSim-v0", world="vizdoom-nano")
    space, name = env.action_space, "health"
    standing = from_row(space, np.zeros(row_size(space), np.int64))
    given = {"frames": context.frames, "actions": [from_row(space, row) for row in context.actions]}

    def lived(health: float, *, most: int = 60) -> int:
        assert context.state is not None
        state = context.state.copy()
        state[-1] = health
        _, info = env.reset(seed=0, options={"context": {**given, "state": state}})
        assert info["state"][name] == health
        for step in range(most):
            if env.step(standing)[2]:
                return step + 1
        return most

    assert lived(8) < 40
    assert lived(92) == 60
    env.close()
