"""The rollout loop: what belongs to which step, and a batch that stays one batch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from worldsim.rollout import EpisodeJob, RowPolicies, rollout, row_info
from worldsim.types import Observation

NAMES = ("step", "color")


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return import_module("toy_sources")


def source(toys: Any, rows: int = 1, **kwargs: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: toys.ToySource(**kwargs)] * rows, autoreset_mode=AutoresetMode.DISABLED)


def test_frame_after_action_shows_that_action(toys: Any) -> None:
    (episode,) = rollout(source(toys), toys.Dice(toys.ACTIONS), [EpisodeJob(0, 7, 12)], state_names=NAMES)
    assert len(episode.frames) == len(episode) + 1 == 13
    assert toys.shown_action(episode.frames)[1:].tolist() == np.round((episode.actions[:, 0] + 1) * 100).tolist()
    assert episode.state[:, 0].tolist() == list(range(13))
    np.testing.assert_array_equal(episode.rewards, episode.actions[:, 1])
    assert episode.conditioning.tags == ("plain",)
    assert episode.conditioning.text == f"color {int(episode.state[0, 1])}"


def test_horizon_truncates_and_the_end_terminates(toys: Any) -> None:
    (cut,) = rollout(source(toys), toys.Dice(toys.ACTIONS), [EpisodeJob(0, 7, 5)])
    assert cut.truncated.tolist() == [False] * 4 + [True]
    assert not cut.terminated.any()
    (ended,) = rollout(source(toys, length=10), toys.Dice(toys.ACTIONS), [EpisodeJob(0, 7, 50)])
    assert ended.terminated.tolist() == [False] * (len(ended) - 1) + [True]
    assert not ended.truncated.any()
    assert 5 <= len(ended) < 10


def test_end_on_the_horizon_is_no_truncation(toys: Any) -> None:
    (ended,) = rollout(source(toys, length=10), toys.Dice(toys.ACTIONS), [EpisodeJob(0, 7, 50)])
    (same,) = rollout(source(toys, length=10), toys.Dice(toys.ACTIONS), [EpisodeJob(0, 7, len(ended))])
    assert same.terminated[-1]
    assert not same.truncated[-1]


@pytest.mark.parametrize("kind", ["source", "world"])
def test_a_row_is_the_same_alone_and_in_a_batch(toys: Any, kind: str) -> None:
    def make(rows: int) -> Any:
        return source(toys, rows, length=20) if kind == "source" else toys.ToyWorld(rows)

    jobs = [EpisodeJob(i, 10 + i, 18 + i) for i in range(4)]
    together = rollout(make(4), toys.Dice(toys.ACTIONS), jobs, state_names=NAMES)
    assert len({len(episode) for episode in together}) > 1
    for job, episode in zip(jobs, together, strict=True):
        (alone,) = rollout(make(1), toys.Dice(toys.ACTIONS), [job], state_names=NAMES)
        for name in ("frames", "actions", "rewards", "terminated", "truncated", "state"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(episode, name))


def test_ended_rows_are_reset_by_mask_and_the_group_stays_whole(toys: Any) -> None:
    world = toys.ToyWorld(3)
    episodes = rollout(world, toys.Dice(toys.ACTIONS), [EpisodeJob(i, i, 200) for i in range(3)])
    assert world.resets[0] == [True] * 3
    assert all(any(mask) for mask in world.resets)
    assert len(world.resets) > 1
    assert all(episode.terminated[-1] for episode in episodes)


def test_rows_of_a_world_get_their_own_options(toys: Any) -> None:
    jobs = [EpisodeJob(i, i, 5, options={"context": 50 + i, "conditioning": {"text": f"row {i}"}}) for i in range(2)]
    episodes = rollout(toys.ToyWorld(2), toys.Dice(toys.ACTIONS), jobs, state_names=NAMES)
    assert [episode.state[0, 1] for episode in episodes] == [50, 51]
    assert [episode.conditioning.text for episode in episodes] == ["row 0", "row 1"]


def test_a_source_takes_one_set_of_options(toys: Any) -> None:
    (episode,) = rollout(source(toys), toys.Dice(toys.ACTIONS), [EpisodeJob(0, 1, 3, options={"color": 33})], state_names=NAMES)
    assert episode.state[0, 1] == 33
    jobs = [EpisodeJob(i, 1, 3, options={"color": 33 + i}) for i in range(2)]
    with pytest.raises(ValueError, match="groups of 1"):
        rollout(source(toys, 2), toys.Dice(toys.ACTIONS), jobs)


def test_not_finite_fails_and_a_named_cut_rejects(toys: Any) -> None:
    (failed,) = rollout(source(toys, nan_at=4), toys.Dice(toys.ACTIONS), [EpisodeJob(0, 7, 12)], state_names=NAMES)
    assert (failed.status, failed.reason, len(failed)) == ("failed", "reward is not finite at step 4", 4)
    rejected = rollout(toys.ToyWorld(2, reject_at=6), toys.Dice(toys.ACTIONS), [EpisodeJob(i, i, 9) for i in range(2)])
    assert [(e.status, e.reason, len(e)) for e in rejected] == [("rejected", "too blurred", 6)] * 2


def test_missing_state_is_a_failure(toys: Any) -> None:
    (episode,) = rollout(source(toys), toys.Dice(toys.ACTIONS), [EpisodeJob(0, 7, 12)], state_names=("mass",))
    assert (episode.status, episode.reason) == ("failed", "state is not finite at step 0")


def test_policies_share_a_batch_by_rows(toys: Any) -> None:
    still, dice = toys.Dice(toys.ACTIONS, scale=0.0), toys.Dice(toys.ACTIONS)
    both = RowPolicies([([0, 2], still), ([1], dice)], toys.ACTIONS)
    episodes = rollout(toys.ToyWorld(3), both, [EpisodeJob(i, 3, 5) for i in range(3)])
    assert [bool(episode.actions.any()) for episode in episodes] == [False, True, False]
    (alone,) = rollout(toys.ToyWorld(1), toys.Dice(toys.ACTIONS), [EpisodeJob(0, 3, 5)])
    np.testing.assert_array_equal(alone.actions, episodes[1].actions)


def test_row_policies_lay_out_dict_actions() -> None:
    space = spaces.Dict({"wheel": spaces.Box(-1, 1, (1,), np.float32), "horn": spaces.Discrete(2)})

    class Fixed:
        def __init__(self, horn: int) -> None:
            self.horn = horn

        def act(self, observation: Observation) -> Any:
            count = len(observation.frames)
            return {"wheel": np.full((count, 1), 0.5, np.float32), "horn": np.full(count, self.horn)}

    observation = Observation(np.zeros((2, 4, 4, 3), np.uint8), {}, np.ones(2, bool), np.zeros(2, np.int64))
    actions: Any = RowPolicies([([1], Fixed(1)), ([0], Fixed(0))], space).act(observation)
    assert actions["horn"].tolist() == [0, 1]
    assert actions["wheel"].tolist() == [[0.5], [0.5]]


def test_fewer_jobs_than_rows_and_too_many(toys: Any) -> None:
    assert len(rollout(toys.ToyWorld(4), toys.Dice(toys.ACTIONS), [EpisodeJob(0, 1, 5)])) == 1
    with pytest.raises(ValueError, match="2 jobs do not fit an environment of 1 rows"):
        rollout(toys.ToyWorld(1), toys.Dice(toys.ACTIONS), [EpisodeJob(0, 1, 5), EpisodeJob(1, 1, 5)])


def test_observations_that_are_no_frames_are_refused() -> None:
    env = SyncVectorEnv([lambda: gym.make("CartPole-v1")], autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ValueError, match="worldsim/Gym-v0"):
        rollout(env, RowPolicies([], env.single_action_space), [EpisodeJob(0, 1, 5)])


def test_row_info_follows_masks() -> None:
    infos = {"a": np.array([1.0, 2.0]), "_a": np.array([True, False]), "inner": {"b": np.array([3, 4]), "_b": np.array([True, True])}}
    assert row_info(infos, 0) == {"a": 1.0, "inner": {"b": 3}}
    assert row_info(infos, 1) == {"inner": {"b": 4}}
