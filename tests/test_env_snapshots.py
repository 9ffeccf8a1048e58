"""Snapshots of environments: what is restored goes on bit for bit, in other rows, batches and processes too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from worldsim.envs.snapshot import WorldSnapshot
from worldsim.envs.vector import WorldSimVectorEnv
from worldsim.envs.world import WorldSimEnv

ROWS = 3


@pytest.fixture
def env(endless_path: Path) -> WorldSimVectorEnv:
    return WorldSimVectorEnv(ROWS, world=str(endless_path), horizon=30)


def tape(steps: int, rows: int = ROWS, *, seed: int = 0) -> NDArray[np.float32]:
    """Actions ``(steps, rows, 3)``."""
    return np.random.default_rng(seed).random((steps, rows, 3), dtype=np.float32)


def assert_equal(one: Any, other: Any) -> None:
    """Compare what steps gave, bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple) or (isinstance(one, np.ndarray) and one.dtype == object):
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("mode", "observation"), [("NextStep", "frame"), ("SameStep", "latent")])
def test_a_restored_batch_replays_a_hundred_actions(endless_path: Path, mode: str, observation: str) -> None:
    """Through several ends and starts."""
    env = WorldSimVectorEnv(ROWS, world=str(endless_path), horizon=30, autoreset_mode=mode, observation=observation)
    env.reset(seed=0)
    before = [env.step(actions) for actions in tape(7)][-1]
    snapshot = env.clone_state()
    first = [env.step(actions) for actions in tape(100, seed=1)]
    np.testing.assert_array_equal(env.restore_state(snapshot), before[0])
    assert_equal([env.step(actions) for actions in tape(40, seed=1)], first[:40])
    other = WorldSimVectorEnv(ROWS, world=str(endless_path), horizon=30, autoreset_mode=mode, observation=observation)
    other.restore_state(snapshot.to_bytes())
    assert_equal([other.step(actions) for actions in tape(100, seed=1)], first)


def test_a_restored_episode_replays_a_hundred_actions(endless_path: Path) -> None:
    env = WorldSimEnv(str(endless_path), horizon=200)
    env.reset(seed=4)
    frame = [env.step(action) for action in tape(5)[:, 0]][-1][0]
    snapshot = env.clone_state()
    assert len(snapshot) == 1
    first = [env.step(action) for action in tape(100)[:, 1]]
    then: Any = env.reset()
    np.testing.assert_array_equal(env.restore_state(snapshot), frame)
    assert_equal([env.step(action) for action in tape(100)[:, 1]], first)
    assert_equal(env.reset(), then)  # the next start too
    fresh = WorldSimEnv(str(endless_path), horizon=200)
    fresh.restore_state(snapshot.to_bytes())
    assert_equal([fresh.step(action) for action in tape(100)[:, 1]], first)
    assert_equal(fresh.reset(), then)


REPLAY = """
import hashlib, sys
import numpy as np
from pathlib import Path
from worldsim.envs.vector import WorldSimVectorEnv
env = WorldSimVectorEnv(3, world=sys.argv[1], horizon=30)
env.restore_state(Path(sys.argv[2]).read_bytes())
digest = hashlib.sha256()
for actions in np.random.default_rng(1).random((100, 3, 3), dtype=np.float32):
    frames, rewards, terminated, truncated, infos = env.step(actions)
    for array in (frames, rewards, terminated, truncated, *(infos["state"][name] for name in ("speed", "offset"))):
        digest.update(array.tobytes())
print(digest.hexdigest())
"""


def test_another_process_goes_on(env: WorldSimVectorEnv, endless_path: Path, tmp_path: Path) -> None:
    env.reset(seed=0)
    env.step(tape(1)[0])
    file = tmp_path / "snapshot.safetensors"
    file.write_bytes(env.clone_state().to_bytes())
    code = "import torch; torch.set_num_threads(1)\n" + REPLAY
    done = subprocess.run([sys.executable, "-c", code, str(endless_path), str(file)], capture_output=True, text=True, check=True)
    printed: list[str] = []
    argv, sys.argv = sys.argv, ["", str(endless_path), str(file)]
    try:
        exec(REPLAY, {"print": printed.append})
    finally:
        sys.argv = argv
    assert done.stdout == f"{printed[0]}\n"


def test_one_row_branches_into_many(env: WorldSimVectorEnv) -> None:
    env.reset(seed=0)
    for actions in tape(3):
        env.step(actions)
    frames = env.restore_state(env.clone_state([1]))
    assert (frames == frames[1]).all()
    same = np.repeat(tape(1)[0][:1], ROWS, axis=0)
    stepped = env.step(same)
    assert (stepped[0] == stepped[0][:1]).all()
    apart = env.step(np.array([[-1, 0, 0], [1, 0, 0], [0, 1, 1]], np.float32))
    assert len({frame.tobytes() for frame in apart[0]}) == ROWS


def test_rows_are_put_where_they_are_wanted(env: WorldSimVectorEnv, endless_path: Path) -> None:
    env.reset(seed=0)
    plain = WorldSimVectorEnv(ROWS, world=str(endless_path), horizon=30)
    plain.reset(seed=0)
    for actions in tape(3):
        env.step(actions)
        plain.step(actions)
    kept = env.rows.frames().numpy()
    frames = env.restore_state(env.clone_state([2, 0]), [0, 1])
    np.testing.assert_array_equal(frames, kept[[2, 0, 2]])
    order = np.array([2, 0, 2])
    for actions in tape(4, seed=2):
        moved, straight = env.step(actions[order]), plain.step(actions)
        np.testing.assert_array_equal(moved[0], straight[0][order])
        np.testing.assert_array_equal(moved[1], straight[1][order])


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 2, 0], [2, 1, 0]])
def test_all_rows_in_another_order(env: WorldSimVectorEnv, order: list[int]) -> None:
    env.reset(seed=0)
    env.step(tape(1)[0])
    snapshot, actions = env.clone_state(), tape(1, seed=3)[0]
    straight = env.step(actions)[0]
    env.restore_state(env.clone_state(order), None)
    env.restore_state(snapshot, order)  # row order[i] gets row i
    moved = np.empty_like(actions)
    moved[order] = actions
    np.testing.assert_array_equal(env.step(moved)[0][order], straight)


def test_single_and_batch_exchange_rows(env: WorldSimVectorEnv, endless_path: Path) -> None:
    env.reset(seed=0)
    env.step(tape(1)[0])
    single = WorldSimEnv(str(endless_path))
    single.restore_state(env.clone_state(1))
    for actions in tape(4, seed=5):
        difference = single.step(actions[1])[0].astype(int) - env.step(actions)[0][1].astype(int)
        assert np.abs(difference).max() <= 1
    env.restore_state(single.clone_state(), [0])


def test_a_snapshot_is_a_value(env: WorldSimVectorEnv) -> None:
    env.reset(seed=0)
    snapshot = env.clone_state()
    kept = snapshot.to_bytes()
    for actions in tape(3):
        env.step(actions)
    env.restore_state(snapshot)
    frames = env.step(tape(1)[0])[0]
    frames[:] = 0
    env.reset()
    assert snapshot.to_bytes() == kept


def test_a_running_episode_does_not_need_the_generator_and_later_starts_do(env: WorldSimVectorEnv) -> None:
    env.reset(seed=0)
    without, fully = env.clone_state(include_rng=False), env.clone_state()
    first, then = env.step(tape(1)[0])[0], env.reset()[0]
    env.restore_state(without)
    np.testing.assert_array_equal(env.step(tape(1)[0])[0], first)
    assert (env.reset()[0] != then).any()
    env.restore_state(fully)
    np.testing.assert_array_equal(env.reset()[0], then)


def test_an_episode_that_is_over_stays_over(endless_path: Path) -> None:
    env = WorldSimVectorEnv(2, world=str(endless_path), horizon=2, autoreset_mode="Disabled")
    env.reset(seed=0)
    env.step(tape(1, 2)[0])
    running = env.clone_state()
    env.step(tape(1, 2)[0])
    over = env.clone_state()
    env.restore_state(running)
    assert env.step(tape(1, 2)[0])[3].all()
    env.restore_state(running, [0, 1])
    env.restore_state(over, [0, 1])
    with pytest.raises(ResetNeeded, match="autoreset is disabled"):
        env.step(tape(1, 2)[0])


def test_it_works_behind_gymnasiums_wrappers(endless_path: Path) -> None:
    env: Any = gym.make("WorldSim-v0", world=str(endless_path))
    env.reset(seed=0)
    snapshot = env.unwrapped.clone_state()
    frame = env.step(np.zeros(3, np.float32))[0]
    env.unwrapped.restore_state(snapshot)
    np.testing.assert_array_equal(env.step(np.zeros(3, np.float32))[0], frame)


# ---------------------------------------------------------------- refusals


def test_snapshots_of_another_checkpoint_are_refused(env: WorldSimVectorEnv, make_world: Any, tmp_path: Path) -> None:
    make_world(seed=1).save_pretrained(tmp_path)
    other = WorldSimVectorEnv(ROWS, world=str(tmp_path))
    other.reset(seed=0)
    env.reset(seed=0)
    snapshot = other.clone_state()
    with pytest.raises(ValueError, match=r"snapshot is of world 'tiny' \(sha256 .*\), the environment runs .*same checkpoint"):
        env.restore_state(snapshot)
    with pytest.raises(ValueError, match=r"snapshot belongs to checkpoint .*: restore it in its own world"):
        env.restore_state(snapshot.to_bytes())
    env.step(tape(1)[0])


def test_what_does_not_fit_is_refused_and_changes_nothing(
    env: WorldSimVectorEnv, endless_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"there is no state to clone yet: call reset\(\) first"):
        env.clone_state()
    env.reset(seed=0)
    snapshot, state = env.clone_state(), env.rows.state
    fresh = WorldSimVectorEnv(ROWS, world=str(endless_path))
    latent = WorldSimVectorEnv(ROWS, world=str(endless_path), observation="latent")
    wrong: list[tuple[Any, Any, Any, str]] = [
        (env, snapshot, [0, 1], "snapshot holds 3 rows, 2 are to be restored: name as many, or clone a single one"),
        (env, snapshot, [0, 1, 3], r"indices=\[0, 1, 3\] must be whole numbers in 0\.\.2"),
        (env, snapshot, [0, 1, -1], "must be whole numbers in"),
        (env, snapshot, [0.0, 1.0, 2.0], "must be whole numbers in"),
        (env, snapshot, [], "at least one"),
        (env, snapshot, [0, 1, 1], "name a row twice"),
        (env, "a snapshot", None, r"snapshot str is none: give what clone_state\(\) gave"),
        (env, b"a snapshot", None, "snapshot is damaged or no snapshot at all"),
        (env, snapshot.to_bytes()[:-9], None, "snapshot is damaged or no snapshot at all"),
        (fresh, env.clone_state([0]), [1], r"rows \[1\] cannot be restored before the first reset"),
        (latent, snapshot, None, "snapshot holds observations of kind 'frame', the environment gives 'latent': use observation='frame'"),
    ]
    for target, given, indices, message in wrong:
        with pytest.raises(ValueError, match=message):
            target.restore_state(given, indices)
    assert env.rows.state is state
    with pytest.raises(ValueError, match="snapshot holds 3 rows, 1 are to be restored"):
        WorldSimEnv(str(endless_path)).restore_state(snapshot)


def test_a_snapshot_of_another_version_is_refused(env: WorldSimVectorEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    env.reset(seed=0)
    with monkeypatch.context() as later_release:
        later_release.setattr("worldsim.envs.snapshot.VERSION", "9")
        later = env.clone_state().to_bytes()
    with pytest.raises(ValueError, match="snapshot is of an environment's version '9', this release reads '1'"):
        env.restore_state(later)


def test_a_simulators_own_snapshot_is_refused(env: WorldSimVectorEnv) -> None:
    from worldsim.snapshot import Snapshot, to_bytes

    env.reset(seed=0)
    assert env.rows.state is not None
    with pytest.raises(ValueError, match=r"snapshot is a simulator's alone: give what clone_state\(\).to_bytes\(\) gave"):
        env.restore_state(to_bytes(Snapshot(env.rows.state), env.rows.model))
    assert isinstance(env.clone_state(), WorldSnapshot)
