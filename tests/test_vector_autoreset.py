"""The three autoreset modes, held against Gymnasium's own ``SyncVectorEnv`` of single environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from worldsim.envs.rows import NOT_FINITE
from worldsim.envs.vector import WorldSimVectorEnv

ROWS = 3
MODES = list(AutoresetMode)


@pytest.fixture(scope="module")
def world_path(make_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny world that ends some episodes by itself, at different steps."""
    world, folder = make_world(), tmp_path_factory.mktemp("ending") / "tiny"
    last: Any = world.heads.mlp[-1]
    first = world.heads.sizes[0]
    last.weight[first] *= 6000.0
    last.bias[first] = 15.0
    world.save_pretrained(folder)
    return folder


def tape(steps: int, rows: int = ROWS, *, seed: int = 0) -> NDArray[np.float32]:
    """Actions ``(steps, rows, 3)``."""
    return np.random.default_rng(seed).random((steps, rows, 3), dtype=np.float32)


def pair(world_path: Path, mode: AutoresetMode, **keywords: Any) -> tuple[WorldSimVectorEnv, SyncVectorEnv]:
    """Return our batch and Gymnasium's."""
    given = {"world": str(world_path), "horizon": 4, **keywords}
    ours = gym.make_vec("WorldSim-v0", num_envs=ROWS, autoreset_mode=mode.value, **given)
    assert isinstance(ours, WorldSimVectorEnv)
    return ours, SyncVectorEnv([lambda: gym.make("WorldSim-v0", **given).unwrapped] * ROWS, autoreset_mode=mode)


def assert_alike(one: Any, other: Any, where: str = "") -> None:
    """Compare infos and observations: same layout, types and masks, equal up to rounding."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert set(one) == set(other), where
        for key in one:
            assert_alike(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, tuple) or (isinstance(one, np.ndarray) and one.dtype == object):
        for left, right in zip(one, other, strict=True):
            assert_alike(left, right, where)
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), where
        tolerance = {"u": 1, "f": 1e-3}.get(one.dtype.kind, 0)
        np.testing.assert_allclose(one.astype(float), other.astype(float), atol=tolerance, err_msg=where)
    else:
        assert one == other, where


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("observation", ["frame", "latent"])
def test_every_mode_is_gymnasiums(world_path: Path, mode: AutoresetMode, observation: str) -> None:
    ours, theirs = pair(world_path, mode, observation=observation)
    assert ours.metadata["autoreset_mode"] is ours.autoreset_mode is mode
    assert_alike(ours.reset(seed=3), theirs.reset(seed=3))
    ends, over = [], np.zeros(ROWS, np.bool_)
    for actions in tape(24):
        if mode is AutoresetMode.DISABLED and over.any():
            assert_alike(ours.reset(options={"reset_mask": over}), theirs.reset(options={"reset_mask": over.copy()}))
        one, other = ours.step(actions), theirs.step(actions)
        assert_alike(one, other)
        over = one[2] | one[3]
        ends.append(over)
        assert ("final_obs" in one[4]) == (mode is AutoresetMode.SAME_STEP and over.any())
    assert {bool(mask.all()) for mask in ends if mask.any()} == {True, False}, "rows are to end together and apart"


@pytest.mark.parametrize("mode", MODES)
def test_a_masked_reset_between_steps_is_gymnasiums(world_path: Path, mode: AutoresetMode) -> None:
    ours, theirs = pair(world_path, mode, horizon=2)
    assert_alike(ours.reset(seed=[5, 1, 9]), theirs.reset(seed=[5, 1, 9]))
    over = np.zeros(ROWS, np.bool_)
    for t, actions in enumerate(tape(7, seed=1)):
        mask = over if mode is AutoresetMode.DISABLED else np.zeros(ROWS, np.bool_)
        if t in (1, 4):  # rows that are over, and rows that are not
            mask = mask | np.array([True, False, True])
        if mask.any():
            for env in (ours, theirs):
                env.reset(seed=[t, t + 1, None], options={"reset_mask": mask.copy(), "context": 1})
        one, other = ours.step(actions), theirs.step(actions)
        assert_alike(one, other)
        over = one[2] | one[3]


def test_the_default_is_next_step(world_path: Path) -> None:
    env = gym.make_vec("WorldSim-v0", num_envs=2, world=str(world_path))
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP is SyncVectorEnv([lambda: gym.make("CartPole-v1")]).autoreset_mode


def test_an_action_counts_for_nothing_where_a_row_starts(world_path: Path) -> None:
    wrong = np.full((ROWS, 3), np.nan, np.float32)
    env = WorldSimVectorEnv(ROWS, world=str(world_path), horizon=1)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"row 0: action .* is outside Box"):
        env.step(wrong)
    env.step(tape(1)[0])
    frames, rewards, terminated, truncated, infos = env.step(wrong)
    assert not np.any([rewards, terminated, truncated])
    assert infos["_context"].all()
    assert (env.reset(seed=0)[0] != frames).any()


def test_an_action_of_a_space_that_starts_elsewhere_counts_for_nothing_too(make_world: Any, tmp_path: Path) -> None:
    make_world(spaces.Discrete(3, start=20)).save_pretrained(tmp_path)
    env = WorldSimVectorEnv(2, world=str(tmp_path), horizon=1)
    env.reset(seed=0)
    env.step(np.array([20, 22]))
    env.step(np.array([0, 99]))
    with pytest.raises(ValueError, match=r"row 1: action .* give a whole number in 20\.\.22"):
        env.step(np.array([20, 23]))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_broken_row_starts_anew(world_path: Path, mode: AutoresetMode) -> None:
    env = WorldSimVectorEnv(ROWS, world=str(world_path), horizon=None, autoreset_mode=mode)
    env.reset(seed=0)
    assert env.rows.state is not None
    one = env.rows.state.take([1])
    one.history.fill_(np.nan)
    env.rows.state = env.rows.state.put([1], one)
    _, _, _, truncated, infos = env.step(tape(1)[0])
    told = infos["final_info"] if mode is AutoresetMode.SAME_STEP else infos
    assert told["truncation_reason"].tolist() == [None, NOT_FINITE, None]
    assert truncated[1]
    infos = env.step(tape(1)[0])[4] if mode is AutoresetMode.NEXT_STEP else infos
    assert "truncation_reason" not in infos
    assert infos["_context"][1]
    assert not env.step(tape(1)[0])[3].any()


def test_final_observations_stay_as_they_were(world_path: Path) -> None:
    env = WorldSimVectorEnv(ROWS, world=str(world_path), horizon=1, autoreset_mode="SameStep")
    env.reset(seed=0)
    infos = env.step(tape(1)[0])[4]
    kept = [frame.copy() for frame in infos["final_obs"]]
    env.step(tape(1)[0])
    np.testing.assert_array_equal(np.stack(infos["final_obs"]), np.stack(kept))


@pytest.mark.parametrize("mode", MODES)
def test_nothing_steps_before_the_first_reset(world_path: Path, mode: AutoresetMode) -> None:
    env = WorldSimVectorEnv(ROWS, world=str(world_path), autoreset_mode=mode)
    with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
        env.step(tape(1)[0])


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (None, "are no batch of 3 of Box"),
        (np.zeros(3, np.float32), "row 0: action .* is outside Box"),
        (np.zeros((3, 2), np.float32), r"row 0: action .* is outside Box.*: give \(3,\) finite numbers"),
        (np.zeros((4, 3), np.float32), "there are 4 actions for 3 rows"),
        (np.array([[0, 0, 0], [0, np.nan, 0], [0, 0, 0]], np.float32), "row 1: action .* is outside Box"),
        ([[0, 0, 0], [0, 0, 0], ["left", 0, 0]], "row 2: action .* is outside Box"),
    ],
    ids=["none", "flat", "narrow", "long", "nan", "words"],
)
def test_wrong_batches_of_actions_are_refused_and_lose_nothing(world_path: Path, actions: Any, message: str) -> None:
    env = WorldSimVectorEnv(ROWS, world=str(world_path), horizon=None)
    env.reset(seed=0)
    state = env.rows.state
    with pytest.raises(ValueError, match=message):
        env.step(actions)
    assert env.rows.state is state
    env.step(tape(1)[0].tolist())  # lists do
