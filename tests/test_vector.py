"""``WorldSim-v0`` in batches: every row is an episode of its own, whatever its neighbours do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import Space, spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from numpy.typing import NDArray

from worldsim.envs.rows import NOT_FINITE
from worldsim.envs.vector import WorldSimVectorEnv
from worldsim.envs.world import WorldSimEnv
from worldsim.rollout import EpisodeJob, rollout, row_info

ROWS = 3


@pytest.fixture
def env(endless_path: Path) -> WorldSimVectorEnv:
    return WorldSimVectorEnv(ROWS, world=str(endless_path))


def tape(steps: int, rows: int = ROWS, *, seed: int = 0) -> NDArray[np.float32]:
    """Actions ``(steps, rows, 3)``."""
    random = np.random.default_rng(seed)
    return np.stack([random.uniform(-1, 1, (steps, rows)), random.random((steps, rows)), random.random((steps, rows))], -1).astype(
        np.float32
    )


def close(one: Any, other: Any) -> bool:
    """Whether frames differ by 1/255 at most."""
    return bool(np.abs(one.astype(np.int64) - other.astype(np.int64)).max() <= 1)


def break_row(env: WorldSimVectorEnv, row: int) -> None:
    """Put NaN into what a row remembers."""
    state = env.rows.state
    assert state is not None
    history = state.history.clone()
    history[row] = torch.nan
    env.rows.state = replace(state, history=history)


# ---------------------------------------------------------------- Gymnasium's contract


def test_make_vec_gives_one_batch(endless_path: Path) -> None:
    env = gym.make_vec("WorldSim-v0", num_envs=4, world=str(endless_path))
    assert isinstance(env, WorldSimVectorEnv)
    assert env.num_envs == 4
    assert env.metadata["autoreset_mode"] is env.autoreset_mode is AutoresetMode.NEXT_STEP
    assert env.metadata["render_fps"] == 25
    assert env.metadata["checkpoint"]["name"] == "tiny"
    assert env.observation_space.shape == (4, 16, 16, 3)
    assert env.single_observation_space.shape == (16, 16, 3)
    frames, infos = env.reset(seed=0)
    assert env.observation_space.contains(frames)
    frames, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
    assert env.observation_space.contains(frames)
    assert rewards.shape == terminated.shape == truncated.shape == (4,)
    assert [str(array.dtype) for array in (rewards, terminated, truncated)] == ["float64", "bool", "bool"]
    assert infos["_state"].tolist() == [True] * 4
    env.close()
    env.close()


def test_infos_are_laid_out_as_gymnasium_lays_them_out(endless_path: Path) -> None:
    """The same episodes, in our batch and in Gymnasium's own batch of single environments."""
    ours = WorldSimVectorEnv(ROWS, world=str(endless_path), horizon=2, autoreset_mode=AutoresetMode.DISABLED)
    theirs = SyncVectorEnv([lambda: WorldSimEnv(str(endless_path), horizon=2)] * ROWS, autoreset_mode=AutoresetMode.DISABLED)
    pairs: list[Any] = [(ours.reset(seed=3), theirs.reset(seed=3)), *((ours.step(actions), theirs.step(actions)) for actions in tape(2))]
    for (frames, *flags, infos), (other, *their_flags, their_infos) in pairs:
        assert close(frames, other)
        for one, two in zip(flags, their_flags, strict=True):
            assert one.dtype == two.dtype
            np.testing.assert_allclose(one, two, atol=1e-4)
        assert_alike(infos, their_infos)
    assert pairs[-1][0][3].all()


def assert_alike(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            assert_alike(one[key], other[key])
    elif one.dtype.kind == "f":
        np.testing.assert_allclose(one, other, atol=1e-3)
    else:
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()


def test_gymnasiums_wrappers_count_episodes(endless_path: Path) -> None:
    env = RecordEpisodeStatistics(gym.make_vec("WorldSim-v0", num_envs=2, world=str(endless_path), max_episode_steps=2))
    env.reset(seed=0)
    env.step(tape(1, 2)[0])
    _, _, _, truncated, infos = env.step(tape(1, 2)[0])
    assert truncated.all()
    assert infos["episode"]["l"].tolist() == [2, 2]


def test_what_is_returned_stays_as_it_was(env: WorldSimVectorEnv) -> None:
    frames, _ = env.reset(seed=0)
    kept = frames.copy()
    stepped, *_ = env.step(tape(1)[0])
    np.testing.assert_array_equal(frames, kept)
    before = stepped.copy()
    stepped[:] = 0
    again, _ = env.reset(seed=9, options={"reset_mask": np.array([True, False, False])})
    np.testing.assert_array_equal(again[1:], before[1:])


# ---------------------------------------------------------------- rows


def test_a_row_is_the_single_environment_with_its_seed(env: WorldSimVectorEnv, endless_path: Path) -> None:
    frames, infos = env.reset(seed=[11, 12, 13])
    out = [env.step(actions) for actions in tape(6)]
    for row in range(ROWS):
        single = WorldSimEnv(str(endless_path))
        frame, info = single.reset(seed=11 + row)
        np.testing.assert_array_equal(frames[row], frame)
        found = row_info(infos, row)
        assert (found["context"], found["conditioning"]) == (info["context"], info["conditioning"])
        for actions, (stepped, rewards, _, _, told) in zip(tape(6), out, strict=True):
            frame, reward, _, _, info = single.step(actions[row])
            assert close(stepped[row], frame)
            assert rewards[row] == pytest.approx(reward, abs=1e-4)
            assert row_info(told, row)["state"] == pytest.approx(info["state"], abs=1e-3)


def test_an_int_seeds_the_rows_in_turn_and_none_goes_on(env: WorldSimVectorEnv) -> None:
    first, _ = env.reset(seed=5)
    after, _ = env.reset()
    np.testing.assert_array_equal(env.reset(seed=[5, 6, 7])[0], first)
    np.testing.assert_array_equal(env.reset(seed=[None] * ROWS)[0], after)
    assert (env.reset(seed=40)[0] != first).any()
    with pytest.raises(ValueError, match="there are 2 seeds for 3 rows"):
        env.reset(seed=[1, 2])


def test_a_masked_reset_leaves_the_neighbours_alone(env: WorldSimVectorEnv, endless_path: Path) -> None:
    plain = WorldSimVectorEnv(ROWS, world=str(endless_path))
    actions = tape(6)
    for one in (env, plain):
        one.reset(seed=0)
        for t in range(3):
            one.step(actions[t])
    mask = np.array([False, True, False])
    frames, infos = env.reset(seed=[99, 50, 99], options={"reset_mask": mask})
    assert infos["_context"].tolist() == infos["_state"].tolist() == mask.tolist()
    single = WorldSimEnv(str(endless_path))
    first, _ = single.reset(seed=50)
    np.testing.assert_array_equal(frames[1], first)
    for t in range(3, 6):
        mixed, kept = env.step(actions[t]), plain.step(actions[t])
        assert close(mixed[0][[0, 2]], kept[0][[0, 2]])
        assert close(mixed[0][1], single.step(actions[t, 1])[0])


def test_each_row_has_its_own_options_and_others_hold_for_all(env: WorldSimVectorEnv) -> None:
    own = [{"context": 3}, {"context": 1, "conditioning": {"tags": ["wet"]}}, {}]
    frames, infos = env.reset(seed=0, options={"rows": own, "conditioning": {"text": "road"}})
    assert infos["context"].tolist()[:2] == ["context 3", "context 1"]
    assert [row_info(infos, row)["conditioning"]["text"] for row in range(ROWS)] == ["road", "", "road"]
    assert row_info(infos, 1)["conditioning"]["tags"] == ("wet",)
    everywhere, _ = env.reset(seed=0, options={"context": 2})
    assert (everywhere == everywhere[:1]).all()
    assert frames.shape == everywhere.shape


def test_a_wrong_option_of_one_row_loses_no_row(env: WorldSimVectorEnv) -> None:
    env.reset(seed=0)
    state = env.rows.state
    for options, message in (
        ({"rows": [{}, {"context": 77}, {}]}, "start context 77 does not exist"),
        ({"rows": [{}]}, r"options\['rows'\].* must be a list of 3 mappings"),
        ({"reset_mask": [True, False, False]}, r"reset_mask=.* must be a bool array of shape \(3,\)"),
        ({"reset_mask": np.zeros(3, bool)}, "with at least one True"),
        ({"contexts": 1}, "reset option 'contexts' is unknown: did you mean 'context'"),
    ):
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)
    assert env.rows.state is state
    env.step(tape(1)[0])


# ---------------------------------------------------------------- ends


def test_a_finished_row_waits_for_its_reset(endless_path: Path) -> None:
    env = WorldSimVectorEnv(2, world=str(endless_path), horizon=2, autoreset_mode="Disabled")
    env.reset(seed=0)
    env.step(tape(1, 2)[0])
    env.reset(seed=0, options={"reset_mask": np.array([False, True])})
    _, _, terminated, truncated, infos = env.step(tape(1, 2)[0])
    assert truncated.tolist() == [True, False]
    assert "truncation_reason" not in infos
    with pytest.raises(ResetNeeded, match=r"rows \[0\] have no running episode, and autoreset is disabled: reset them by options="):
        env.step(tape(1, 2)[0])
    env.reset(options={"reset_mask": terminated | truncated})
    assert env.step(tape(1, 2)[0])[3].tolist() == [False, True]


def test_the_end_head_terminates(make_world: Any, tmp_path: Path) -> None:
    make_world(end_logit=50.0).save_pretrained(tmp_path)
    env = WorldSimVectorEnv(2, world=str(tmp_path), horizon=1)
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step(tape(1, 2)[0])
    assert (terminated.tolist(), truncated.tolist()) == ([True, True], [False, False])


def test_nan_truncates_its_row_alone(env: WorldSimVectorEnv) -> None:
    env.reset(seed=0)
    good, *_ = env.step(tape(1)[0])
    break_row(env, 1)
    frames, rewards, terminated, truncated, infos = env.step(tape(1)[0])
    np.testing.assert_array_equal(frames[1], good[1])
    assert (frames[[0, 2]] != good[[0, 2]]).any()
    assert rewards[1] == 0.0
    assert (terminated.tolist(), truncated.tolist()) == ([False] * 3, [False, True, False])
    assert infos["truncation_reason"].tolist() == [None, NOT_FINITE, None]
    assert infos["_truncation_reason"].tolist() == [False, True, False]
    env.reset(options={"reset_mask": truncated})
    frames, _, _, truncated, _ = env.step(tape(1)[0])
    assert not truncated.any()


def test_the_first_reset_starts_all_rows(env: WorldSimVectorEnv) -> None:
    with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
        env.step(tape(1)[0])
    with pytest.raises(ResetNeeded, match="leave reset_mask out"):
        env.reset(options={"reset_mask": np.array([True, False, False])})


def test_wrong_actions_and_arguments_are_named(env: WorldSimVectorEnv, endless_path: Path) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action .* is outside Box"):
        env.step(tape(1)[0] * 9)
    with pytest.raises(ValueError, match="there are 2 actions for 3 rows"):
        env.step(tape(1, 2)[0])
    with pytest.raises(ValueError, match="autoreset_mode='next' is unknown: use 'NextStep', 'SameStep', 'Disabled'"):
        WorldSimVectorEnv(2, world=str(endless_path), autoreset_mode="next")
    with pytest.raises(ValueError, match="num_envs=0 must be a whole number, 1 or more"):
        WorldSimVectorEnv(0, world=str(endless_path))
    with pytest.raises(ValueError, match="render_mode='ansi' is unknown"):
        WorldSimVectorEnv(1, world=str(endless_path), render_mode="ansi")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=2),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(2),
        spaces.Dict({"steer": spaces.Box(-1, 1, (2,), np.float32), "gear": spaces.Discrete(2)}),
    ],
    ids=lambda space: type(space).__name__,
)
def test_every_action_space_steps(make_world: Any, tmp_path: Path, space: Space[Any]) -> None:
    make_world(space).save_pretrained(tmp_path)
    env = WorldSimVectorEnv(2, world=str(tmp_path))
    env.reset(seed=0)
    frames, *_ = env.step(env.action_space.sample())
    assert frames.shape == (2, 16, 16, 3)


def test_rendering(endless_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = WorldSimVectorEnv(2, world=str(endless_path), render_mode="rgb_array")
    frames, _ = env.reset(seed=0)
    rendered = env.render()
    assert rendered is not None
    np.testing.assert_array_equal(np.stack(rendered), frames)
    window = WorldSimVectorEnv(2, world=str(endless_path), render_mode="human")
    window.reset(seed=0)
    assert window.render() is None
    window.close()


# ---------------------------------------------------------------- the rollout loop


class Straight:
    """Goes straight on."""

    def act(self, observation: Any) -> NDArray[np.float32]:
        return np.tile(np.array([0, 1, 0], np.float32), (len(observation.frames), 1))


def test_the_rollout_loop_records_it(env: WorldSimVectorEnv, endless_path: Path) -> None:
    jobs = [EpisodeJob(i, 20 + i, 3 + i, options={"context": i}) for i in range(ROWS)]
    episodes = rollout(env, Straight(), jobs, state_names=("speed", "offset"))
    assert [len(episode) for episode in episodes] == [3, 4, 5]
    assert [episode.status for episode in episodes] == ["ok"] * 3
    assert episodes[1].conditioning.tags == ("dark",)
    assert np.isfinite(episodes[1].state).all()
    single = WorldSimEnv(str(endless_path))
    frame, _ = single.reset(seed=21, options={"context": 1})
    np.testing.assert_array_equal(episodes[1].frames[0], frame)
    for t in range(4):
        assert close(episodes[1].frames[t + 1], single.step(np.array([0, 1, 0]))[0])


def test_a_broken_row_is_recorded_as_rejected(env: WorldSimVectorEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = env.rows.step

    def breaking(features: Any) -> Any:
        if env.rows.elapsed[1] == 2:
            break_row(env, 1)
        return plain(features)

    monkeypatch.setattr(env.rows, "step", breaking)
    episodes = rollout(env, Straight(), [EpisodeJob(i, i, 5) for i in range(ROWS)], state_names=("speed",))
    assert [(episode.status, len(episode)) for episode in episodes] == [("ok", 5), ("rejected", 3), ("ok", 5)]
    assert episodes[1].reason == NOT_FINITE
