"""Where an episode of ``WorldSim-v0`` starts: shipped contexts, given frames, images, datasets, and what the world is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import Space, spaces
from PIL import Image

from worldsim.datasets.plan import make_plan
from worldsim.datasets.writer import EpisodeWriter, create_dataset, make_spec
from worldsim.envs.world import WorldSimEnv
from worldsim.episode import Conditioning, Episode
from worldsim.rollout import EpisodeJob
from worldsim.spaces import to_row


@pytest.fixture
def env(endless_path: Path) -> WorldSimEnv:
    return WorldSimEnv(str(endless_path))


def test_the_first_frame_is_the_last_of_a_shipped_context(env: WorldSimEnv) -> None:
    contexts = env.rows.simulator.world.contexts
    drawn = {env.reset(seed=seed)[1]["context"] for seed in range(20)}
    assert len(drawn) > 1
    for index in range(len(contexts)):
        frame, info = env.reset(seed=0, options={"context": index})
        np.testing.assert_array_equal(frame, contexts[index].frames[-1])
        assert info["context"] == f"context {index}"
        assert info["conditioning"] == {"tags": ("dark",), "numbers": {"red": 0.4}, "text": "grey road"}
        assert set(info["state"]) == {"speed", "offset"}


def test_start_from_given_frames_and_actions(env: WorldSimEnv) -> None:
    random = np.random.default_rng(0)
    frames, actions = random.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8), [[0, 1, 0], [-1.0, 0.5, 0]]
    shown, info = env.reset(seed=0, options={"context": {"frames": frames, "actions": actions}})
    np.testing.assert_array_equal(shown, frames[-1])
    assert info["conditioning"] == {"tags": (), "numbers": {}, "text": ""}
    first = env.step(np.zeros(3))[0]
    env.reset(seed=0, options={"context": {"frames": frames, "actions": actions[::-1]}})
    assert (env.step(np.zeros(3))[0] != first).any()


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_start_from_an_image_file(endless_path: Path, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"start.{ending}"
    Image.fromarray(np.full((16, 16), 90, np.uint8)).save(file)
    env = gym.make("WorldSim-v0", world=str(endless_path), context={"frames": str(file)})
    frame, info = env.reset(seed=0)
    assert np.abs(frame.astype(int) - 90).max() <= 1
    assert info["context"] == str(file)
    env.step(env.action_space.sample())


def test_frames_of_another_size_need_leave_to_be_resized(env: WorldSimEnv) -> None:
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = 200
    with pytest.raises(ValueError, match=r"has frames of 32x64, world 'tiny' makes 16x16: resize them, or add 'resize': True"):
        env.reset(options={"context": {"frames": wide}})
    frame, _ = env.reset(options={"context": {"frames": wide, "resize": True}})
    assert frame.shape == (16, 16, 3)
    assert np.abs(frame.astype(int) - 200).max() < 20


@pytest.fixture
def dataset(tmp_path: Path, env: WorldSimEnv) -> Any:
    """Write a small dataset of the given action space."""

    def run(space: Space[Any] = env.action_space) -> tuple[Path, list[Episode]]:
        random, path = np.random.default_rng(0), tmp_path / "recorded"
        space.seed(0)
        spec = make_spec(
            name="recorded", frame_size=(16, 16), fps=25, action_space=space, state_names=(), source={}, licence="CC0-1.0", root_seed=0
        )
        plan = create_dataset(path, spec, make_plan([EpisodeJob(i, i, 9) for i in range(2)], batch=1, scenarios={}))
        episodes = [
            Episode(
                frames=random.integers(0, 256, (10, 16, 16, 3), dtype=np.uint8),
                actions=np.stack([to_row(space, space.sample()) for _ in range(9)]),
                rewards=np.zeros(9, np.float32),
                terminated=np.zeros(9, np.bool_),
                truncated=np.zeros(9, np.bool_),
                state=np.zeros((10, 0), np.float32),
                seed=i,
                conditioning=Conditioning(("wet",), {"red": 0.1}, "road"),
            )
            for i in range(2)
        ]
        writer = EpisodeWriter(path)
        for job, episode in zip(plan.jobs, episodes, strict=True):
            writer.write(job, episode)
        return path, episodes

    return run


def test_start_from_a_dataset(env: WorldSimEnv, dataset: Any) -> None:
    path, episodes = dataset()
    frame, info = env.reset(seed=0, options={"context": {"dataset": str(path), "episode": 1, "start": 2}})
    np.testing.assert_array_equal(frame, episodes[1].frames[5])
    assert info["conditioning"] == {"tags": ("wet",), "numbers": {"red": 0.1}, "text": "road"}
    given = {"frames": episodes[1].frames[2:6], "actions": episodes[1].actions[2:5]}
    stepped = env.step(np.zeros(3))[0]
    env.reset(seed=0, options={"context": given, "conditioning": {"tags": ["wet"], "numbers": {"red": 0.1}, "text": "road"}})
    np.testing.assert_array_equal(env.step(np.zeros(3))[0], stepped)
    drawn = {env.reset(seed=seed, options={"context": {"dataset": path}})[1]["context"] for seed in range(9)}
    assert len(drawn) > 2


def test_a_dataset_that_does_not_fit_is_refused(env: WorldSimEnv, dataset: Any) -> None:
    with pytest.raises(ValueError, match="does not exist: record one"):
        env.reset(options={"context": {"dataset": "nowhere"}})
    path, _ = dataset(spaces.Discrete(2))
    with pytest.raises(ValueError, match=r"has actions of Discrete\(2\), world 'tiny' takes Box"):
        env.reset(options={"context": {"dataset": path}})


@pytest.mark.parametrize(
    ("where", "message"), [({"episode": 2}, r"episode of .* is 2: .* 0\.\.1"), ({"start": 7}, r"start in .* is 7: .* 0\.\.6")]
)
def test_places_outside_a_dataset_are_refused(env: WorldSimEnv, dataset: Any, where: dict[str, int], message: str) -> None:
    path, _ = dataset()
    with pytest.raises(ValueError, match=message):
        env.reset(options={"context": {"dataset": str(path), **where}})


def test_conditioning_takes_the_place_of_the_contexts_own(endless_path: Path) -> None:
    env = WorldSimEnv(str(endless_path), conditioning={"tags": ["wet"]})
    _, told = env.reset(seed=0)
    assert told["conditioning"] == {"tags": ("wet",), "numbers": {}, "text": ""}
    first = env.step(np.zeros(3))[0]
    _, told = env.reset(seed=0, options={"conditioning": {"numbers": {"red": 0.9}, "text": "grey"}})
    assert told["conditioning"] == {"tags": (), "numbers": {"red": 0.9}, "text": "grey"}
    assert (env.step(np.zeros(3))[0] != first).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contxt": 1}, "reset option 'contxt' is unknown: did you mean 'context'"),
        ({"context": 9}, r"start context 9 does not exist: this world ships contexts 0\.\.3"),
        ({"context": "first"}, "context 'first' is no start: give the index"),
        ({"context": True}, "context True is no start"),
        ({"context": {"frame": 1}}, "is no start: give the index"),
        ({"context": {"frames": "nowhere.png"}}, r"context image nowhere.png cannot be read .*: give a PNG or JPEG file"),
        ({"context": {"frames": np.zeros((16, 16))}}, r"context frames are float64 of shape \(16, 16\): give uint8"),
        ({"context": {"frames": np.zeros((2, 16, 16, 3), np.uint8)}}, "2 frames and 0 actions: give one action between two frames"),
        ({"context": {"frames": np.zeros((2, 16, 16, 3), np.uint8), "actions": [[2, 0, 0]]}}, r"action \[2, 0, 0\] is outside Box"),
        ({"context": {"frames": np.zeros((16, 16, 3), np.uint8), "episode": 1}}, "key of context 'episode' is unknown"),
        ({"conditioning": {"tags": ["snow"]}}, r"conditioning tag 'snow' is unknown to this world: it was trained with \['dark', 'wet'\]"),
        ({"conditioning": {"tag": ["wet"]}}, "key of conditioning 'tag' is unknown: did you mean 'tags'"),
        ({"conditioning": {"tags": "wet"}}, "must have a list of tags"),
        ({"conditioning": "wet"}, "conditioning 'wet' must be a mapping"),
    ],
)
def test_wrong_options_are_named(env: WorldSimEnv, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        env.reset(seed=0, options=options)


def test_a_world_without_contexts_says_what_to_give(make_world: Any, tmp_path: Path) -> None:
    make_world().save_pretrained(tmp_path)
    (tmp_path / "contexts.safetensors").unlink()
    env = WorldSimEnv(str(tmp_path))
    with pytest.raises(ValueError, match="'tiny' ships no start contexts: give options="):
        env.reset(seed=0)
    env.reset(options={"context": {"frames": np.zeros((16, 16, 3), np.uint8)}})
