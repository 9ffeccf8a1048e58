"""``WorldSim-v0``, the single environment: Gymnasium's contract, starts, ends and rendering."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import Space, spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.wrappers import RecordEpisodeStatistics

from worldsim.envs.rows import NOT_FINITE
from worldsim.envs.world import WorldSimEnv
from worldsim.model import WorldModel

SPACES: list[Space[Any]] = [
    spaces.Discrete(3, start=2),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(2),
    spaces.Dict({"steer": spaces.Box(-1, 1, (2,), np.float32), "gear": spaces.Discrete(2)}),
]


@pytest.fixture(autouse=True)
def _headless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.fixture
def env(endless_path: Path) -> WorldSimEnv:
    return WorldSimEnv(str(endless_path))


@pytest.fixture
def save(make_world: Any, tmp_path: Path) -> Any:
    """Save a tiny world, some fields of its spec changed, and return its folder."""

    def run(space: Space[Any] | None = None, end_logit: float = -50.0, **fields: Any) -> str:
        world: WorldModel = make_world(space, end_logit=end_logit)
        world.spec = replace(world.spec, **fields)
        folder = tmp_path / "changed"
        world.save_pretrained(folder)
        return str(folder)

    return run


# ---------------------------------------------------------------- Gymnasium's contract


def test_check_env_has_nothing_to_say(endless_path: Path) -> None:
    check_env(gym.make("WorldSim-v0", world=str(endless_path)).unwrapped)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_check_env_with_every_action_space(save: Any, space: Space[Any]) -> None:
    env = gym.make("WorldSim-v0", world=save(space)).unwrapped
    assert env.action_space == space
    if not isinstance(space, spaces.Discrete):  # a start other than 0 is not what the checker's stable-baselines hints expect
        check_env(env)
    env.reset(seed=0)
    env.step(env.action_space.sample())


def test_make_passes_the_passive_checks_and_wrappers(endless_path: Path) -> None:
    env = RecordEpisodeStatistics(gym.make("worldsim:WorldSim-v0", world=str(endless_path), horizon=3, render_mode="rgb_array"))
    env.reset(seed=0)
    *_, (_, _, _, truncated, info) = [env.step(env.action_space.sample()) for _ in range(3)]
    assert truncated
    assert info["episode"]["l"] == 3
    env.close()


def test_types_are_pythons_own(env: WorldSimEnv) -> None:
    frame, info = env.reset(seed=1)
    assert env.observation_space.contains(frame)
    assert frame.shape == (16, 16, 3)
    assert type(info) is dict
    frame, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(frame)
    assert frame.shape == (16, 16, 3)
    assert (type(reward), type(terminated), type(truncated), type(info)) == (float, bool, bool, dict)
    assert list(info["state"]) == ["speed", "offset"]
    assert all(type(value) is float for value in info["state"].values())


def test_same_seed_same_episode_and_unseeded_resets_follow_it(env: WorldSimEnv) -> None:
    tapes = []
    for seed in (7, 7, 8):
        env.action_space.seed(0)
        tape: list[Any] = [env.reset(seed=seed), env.step(env.action_space.sample()), env.reset(), env.step(env.action_space.sample())]
        tapes.append(tape)
    assert data_equivalence(tuple(tapes[0]), tuple(tapes[1]), exact=True)
    assert not np.array_equal(tapes[0][1][0], tapes[2][1][0])
    assert not np.array_equal(tapes[0][1][0], tapes[0][3][0])


def global_numbers() -> list[int]:
    state: Any = np.random.get_state()  # noqa: NPY002
    return [int(number) for number in state[1]]


def test_global_randomness_is_neither_used_nor_touched(env: WorldSimEnv) -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), global_numbers()
    env.reset(seed=7)
    first = env.step(np.zeros(3))[0]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert global_numbers() == before[1]
    torch.manual_seed(2)
    env.reset(seed=7)
    np.testing.assert_array_equal(env.step(np.zeros(3))[0], first)


def test_actions_show_in_the_next_frame(env: WorldSimEnv) -> None:
    seen = []
    for action in ([-1, 0, 0], [1, 1, 1]):
        env.reset(seed=7)
        seen.append(env.step(action)[0])
    assert (seen[0] != seen[1]).any()


def test_what_is_returned_stays_as_it_was(endless_path: Path) -> None:
    env = WorldSimEnv(str(endless_path), render_mode="rgb_array")
    frame, info = env.reset(seed=1)
    kept = frame.copy(), deepcopy(info)
    rendered = env.render()
    stepped = env.step(np.zeros(3))
    assert rendered is not None
    for array in (frame, rendered, stepped[0]):
        array[:] = 0
    info["state"]["speed"] = -1.0
    again, fresh = env.reset(seed=1)
    np.testing.assert_array_equal(again, kept[0])
    assert fresh == kept[1]


def test_spec_is_json_and_the_environment_pickles(endless_path: Path) -> None:
    env = gym.make("WorldSim-v0", world=str(endless_path), horizon=5, steps=1, context=2, conditioning={"tags": ["wet"]})
    assert env.spec is not None
    again = EnvSpec.from_json(env.spec.to_json()).make()
    copied = pickle.loads(pickle.dumps(env.unwrapped))
    frames = []
    for one in (env, again, copied):
        assert one.reset(seed=3)[1]["context"] == "context 2"
        frames.append(one.step(np.zeros(3, np.float32))[0])
    np.testing.assert_array_equal(frames[0], frames[1])
    np.testing.assert_array_equal(frames[0], frames[2])
    json.dumps(env.spec.kwargs)


def test_two_environments_share_weights_and_nothing_else(endless_path: Path) -> None:
    one, two = WorldSimEnv(str(endless_path)), WorldSimEnv(str(endless_path))
    assert one.rows.simulator.world is two.rows.simulator.world
    one.action_space.seed(0)
    first = one.action_space.sample()
    one.action_space.seed(0)
    two.action_space.seed(1)
    np.testing.assert_array_equal(one.action_space.sample(), first)
    one.reset(seed=0)
    with pytest.raises(ResetNeeded):
        two.step(np.zeros(3))


def test_closing_twice_is_harmless(endless_path: Path) -> None:
    for mode in (None, "rgb_array", "human"):
        env = WorldSimEnv(str(endless_path), render_mode=mode)
        env.reset(seed=0)
        env.close()
        env.close()


def test_metadata_names_the_checkpoint(env: WorldSimEnv) -> None:
    assert env.metadata["render_modes"] == ["rgb_array", "human"]
    assert env.metadata["render_fps"] == 25
    assert type(env.metadata["render_fps"]) is int
    assert env.metadata["checkpoint"]["name"] == "tiny"
    assert len(env.metadata["checkpoint"]["sha256"]) == 64


def test_importing_worldsim_registers_without_torch() -> None:
    code = "import sys, worldsim, gymnasium as gym; gym.spec('WorldSim-v0'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


# ---------------------------------------------------------------- steps and ends


@pytest.mark.parametrize("action", [[2, 0, 0], [0, 0], [np.nan, 0, 0], "left", [[0, 0, 0]], None], ids=repr)
def test_an_action_outside_its_space_is_refused_and_nothing_is_lost(env: WorldSimEnv, action: Any) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action .* is outside Box.*: give \(3,\) finite numbers, and clip them"):
        env.step(action)
    stepped = env.step(np.zeros(3))[0]
    env.reset(seed=0)
    np.testing.assert_array_equal(env.step(np.zeros(3))[0], stepped)


def test_an_action_outside_a_discrete_space_is_refused(save: Any) -> None:
    env = WorldSimEnv(save(spaces.Discrete(3, start=2)))
    env.reset(seed=0)
    env.step(np.int64(4))
    for action in (5, 1, 2.5):
        with pytest.raises(ValueError, match=r"is outside Discrete\(3, start=2\): give a whole number in 2\.\.4"):
            env.step(action)


def test_a_step_needs_a_running_episode(endless_path: Path) -> None:
    env = WorldSimEnv(str(endless_path), horizon=2)
    with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
        env.step(np.zeros(3))
    env.reset(seed=0)
    assert [env.step(np.zeros(3))[3] for _ in range(2)] == [False, True]
    with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
        env.step(np.zeros(3))
    env.reset()
    assert env.step(np.zeros(3))[3] is False


def test_a_horizon_truncates_without_a_reason_and_none_never_does(endless_path: Path) -> None:
    env = WorldSimEnv(str(endless_path), horizon=3)
    env.reset(seed=0)
    out = [env.step(np.zeros(3)) for _ in range(3)]
    assert [step[3] for step in out] == [False, False, True]
    assert "truncation_reason" not in out[-1][4]
    endless = WorldSimEnv(str(endless_path), horizon=None)
    endless.reset(seed=0)
    assert not any(endless.step(np.zeros(3))[3] for _ in range(10))


def test_the_end_head_terminates(save: Any) -> None:
    env = WorldSimEnv(save(end_logit=50.0), horizon=1)
    env.reset(seed=0)
    _, _, terminated, truncated, info = env.step(np.zeros(3))
    assert (terminated, truncated) == (True, False)
    assert "truncation_reason" not in info


def test_it_does_so_above_the_threshold_of_the_world(save: Any) -> None:
    """An end that is foretold with some 0.1 is none for a world that asks for 0.5, and one for a world that asks for 0.001."""
    for threshold, ends in ((0.5, False), (0.001, True)):
        env = WorldSimEnv(save(end_logit=-2.2, end_threshold=threshold))
        env.reset(seed=0)
        assert env.step(np.zeros(3))[2] is ends


def test_nan_truncates_and_repeats_the_last_good_frame(env: WorldSimEnv) -> None:
    env.reset(seed=0)
    good, _, _, _, info = env.step(np.zeros(3))
    state = env.rows.state
    assert state is not None
    env.rows.state = replace(state, history=torch.full_like(state.history, torch.nan))
    frame, reward, terminated, truncated, broken = env.step(np.zeros(3))
    np.testing.assert_array_equal(frame, good)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert broken == {"state": info["state"], "truncation_reason": NOT_FINITE}
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(3))
    env.reset(seed=0)
    np.testing.assert_array_equal(env.step(np.zeros(3))[0], good)


def test_sampling_steps_and_wrong_numbers(endless_path: Path) -> None:
    assert WorldSimEnv(str(endless_path), steps=4).rows.simulator.sampling.steps == 4
    assert WorldSimEnv(str(endless_path), device=None).rows.simulator.device.type == "cpu"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"steps": 0}, "steps >= 1"),
        ({"horizon": 0}, "horizon=0 must be 1 or more steps, or None"),
        ({"render_mode": "ansi"}, "render_mode='ansi' is unknown: use 'rgb_array', 'human' or None"),
    ]
    for keywords, message in wrong:
        with pytest.raises(ValueError, match=message):
            WorldSimEnv(str(endless_path), **keywords)


# ---------------------------------------------------------------- rendering and keys


def test_rgb_array_is_the_newest_frame(endless_path: Path) -> None:
    env = WorldSimEnv(str(endless_path), render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.step(np.zeros(3))[0]
    rendered = env.render()
    assert rendered is not None
    np.testing.assert_array_equal(rendered, frame)


def test_human_shows_the_frame_enlarged(endless_path: Path) -> None:
    import pygame

    env = WorldSimEnv(str(endless_path), render_mode="human")
    frame, _ = env.reset(seed=0)
    assert env.render() is None
    surface = pygame.display.get_surface()
    assert surface is not None
    shown = pygame.surfarray.array3d(surface).swapaxes(0, 1)
    np.testing.assert_array_equal(shown[::32, ::32], frame)
    assert shown.shape == (512, 512, 3)
    env.close()
    assert not pygame.display.get_init()


def test_no_display_is_an_error_with_a_way_out(endless_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "nothing")
    env = WorldSimEnv(str(endless_path), render_mode="human")
    with pytest.raises(ValueError, match=r"no window can be opened here .*: use render_mode='rgb_array'"):
        env.reset(seed=0)


def test_actions_have_meanings_where_they_are_discrete(save: Any, env: WorldSimEnv) -> None:
    assert WorldSimEnv(save(spaces.Discrete(3), keys={"left": 1, "right": 2})).get_action_meanings() == ["ACTION 0", "LEFT", "RIGHT"]
    with pytest.raises(ValueError, match="have no names: only those of a Discrete space do"):
        env.get_action_meanings()
