"""Policies: rows on their own, layouts of every action space, and what each of them promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import Space, spaces
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from worldsim.envs.sources.carracing import CarRacingSource
from worldsim.policies import ActionNoise, PurePursuit, RandomPolicy, RecordedPolicy
from worldsim.types import Observation, Policy

DRIVE = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
SPACES: dict[str, Space[Any]] = {
    "box": DRIVE,
    "discrete": spaces.Discrete(5, start=2),
    "multi": spaces.MultiDiscrete([3, 4]),
    "binary": spaces.MultiBinary(3),
    "dict": spaces.Dict({"look": spaces.Box(-2, 2, (2,), np.float32), "jump": spaces.Discrete(3)}),
}


def seen(seeds: list[int], *, first: bool, state: Mapping[str, list[float]] | None = None) -> Observation:
    names = {"path_angle_near": 0.1, "path_angle_far": -0.2, "speed": 30.0}
    values = state or {name: [value] * len(seeds) for name, value in names.items()}
    return Observation(
        np.zeros((len(seeds), 8, 8, 3), np.uint8),
        {name: np.array(value, np.float32) for name, value in values.items()},
        np.full(len(seeds), first),
        np.array(seeds, np.int64),
    )


def play(policy: Policy, space: Space[Any], seeds: list[int], steps: int) -> list[list[Any]]:
    """Actions by step and row."""
    batch = batch_space(space, len(seeds))
    return [list(iterate(batch, policy.act(seen(seeds, first=step == 0)))) for step in range(steps)]


def same(a: Any, b: Any) -> bool:
    return all(same(a[k], b[k]) for k in a) if isinstance(a, dict) else bool(np.array_equal(a, b))


def disturbed(space: Space[Any]) -> Policy:
    return ActionNoise(
        RandomPolicy(space, hold=(3, 3)), space, gaussian=0.2 if isinstance(space, spaces.Box) else 0.0, sticky=0.3, epsilon=0.2
    )


def recorded(space: Space[Any]) -> Policy:
    return RecordedPolicy(space, actions=[[0.5, 1, 0], [-0.5, 0, 1], [0, 0, 0]])


MAKERS: list[tuple[Callable[[Space[Any]], Policy], str]] = [
    *((RandomPolicy, name) for name in SPACES),
    *((disturbed, name) for name in SPACES),
    (PurePursuit, "box"),
    (recorded, "box"),
]


@pytest.mark.parametrize(("make", "name"), MAKERS)
def test_a_row_depends_on_itself_alone(make: Callable[[Space[Any]], Policy], name: str) -> None:
    space = SPACES[name]
    assert isinstance(make(space), Policy)
    together, alone, moved = (play(make(space), space, seeds, 60) for seeds in ([3, 1, 2], [1], [1, 9]))
    for step in range(60):
        assert same(together[step][1], alone[step][0])
        assert same(together[step][1], moved[step][0])
        assert all(space.contains(action) for action in together[step])


@pytest.mark.parametrize(("make", "name"), MAKERS[:-1])
def test_other_seeds_other_actions(make: Callable[[Space[Any]], Policy], name: str) -> None:
    runs = play(make(SPACES[name]), SPACES[name], [1, 2], 60)
    assert any(not same(a, b) for a, b in runs)


@pytest.mark.parametrize(("make", "name"), MAKERS)
def test_an_episode_begins_afresh(make: Callable[[Space[Any]], Policy], name: str) -> None:
    policy, space = make(SPACES[name]), SPACES[name]
    for a, b in zip(play(policy, space, [-4], 25), play(policy, space, [-4], 25), strict=True):
        assert same(a[0], b[0])


@pytest.mark.parametrize("name", SPACES)
def test_batches_are_laid_out_as_the_batch_space(name: str) -> None:
    policy = RandomPolicy(SPACES[name])
    batch = policy.act(seen([0, 1, 2, 3], first=True))
    assert batch_space(SPACES[name], 4).contains(batch)


# ---------------------------------------------------------------- random


def test_samples_are_held() -> None:
    actions = np.stack([rows[0] for rows in play(RandomPolicy(DRIVE, hold=(4, 4)), DRIVE, [0], 40)])
    changes = np.flatnonzero((np.diff(actions, axis=0) != 0).any(axis=1)) + 1
    np.testing.assert_array_equal(changes, np.arange(4, 40, 4))


@pytest.mark.parametrize("hold", [(0, 3), (5, 2)])
def test_holds_below_one_step_are_refused(hold: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="hold="):
        RandomPolicy(DRIVE, hold=hold)


# ---------------------------------------------------------------- recorded

TABLE = np.array([[0.5, 1, 0], [-0.5, 0, 1]], np.float32)


@pytest.mark.parametrize(("after", "order"), [("repeat_last", [0, 1, 1, 1, 1]), ("loop", [0, 1, 0, 1, 0])])
def test_what_follows_the_recording(after: Any, order: list[int], tmp_path: Path) -> None:
    np.save(tmp_path / "actions.npy", TABLE)
    policy = RecordedPolicy(DRIVE, path=tmp_path / "actions.npy", after=after)
    actions = np.stack([rows[1] for rows in play(policy, DRIVE, [0, 7], 5)])
    np.testing.assert_array_equal(actions, TABLE[order])


def test_a_recording_that_is_too_short_can_be_an_error() -> None:
    policy = RecordedPolicy(DRIVE, actions=TABLE, after="error")
    play(policy, DRIVE, [0], 2)
    with pytest.raises(ValueError, match=r"step 2 .* 2 are there"):
        policy.act(seen([0], first=False))


def test_discrete_recordings() -> None:
    policy = RecordedPolicy(SPACES["discrete"], actions=[2, 6, 3])
    np.testing.assert_array_equal([rows[0] for rows in play(policy, SPACES["discrete"], [0], 4)], [2, 6, 3, 3])


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "either actions"),
        ({"actions": TABLE, "path": "x.npy"}, "either actions"),
        ({"actions": TABLE, "after": "stop"}, "after='stop'"),
        ({"actions": TABLE[:, :2]}, r"needs numbers \(T, 3\)"),
        ({"actions": TABLE[:0]}, "T >= 1"),
        ({"actions": TABLE * 3}, r"recorded action 0 is .* outside"),
        ({"path": "missing.npy"}, r"missing\.npy cannot be read"),
    ],
)
def test_unusable_recordings_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecordedPolicy(DRIVE, **keywords)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "actions.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read"):
        RecordedPolicy(DRIVE, path=tmp_path / "actions.npy")


# ---------------------------------------------------------------- noise


def noisy(space: Space[Any], steps: int = 400, **strengths: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Actions without and with noise, ``(T, ...)``."""
    clean = play(RandomPolicy(space, hold=(1, 1)), space, [0], steps)
    changed = play(ActionNoise(RandomPolicy(space, hold=(1, 1)), space, **strengths), space, [0], steps)
    return np.stack([rows[0] for rows in clean]), np.stack([rows[0] for rows in changed])


def test_no_noise_changes_nothing() -> None:
    clean, same_again = noisy(DRIVE)
    np.testing.assert_array_equal(clean, same_again)


def test_jitter_has_the_asked_strength_and_stays_inside() -> None:
    clean, changed = noisy(DRIVE, gaussian=0.05)
    inside = (changed > DRIVE.low) & (changed < DRIVE.high)
    moves = [float(np.std((changed - clean)[:, i][inside[:, i]])) for i in range(3)]
    np.testing.assert_allclose(moves, [0.05, 0.025, 0.025], rtol=0.2)
    assert DRIVE.contains(changed.min(axis=0))
    assert DRIVE.contains(changed.max(axis=0))


def test_sticky_rows_do_their_last_action_again() -> None:
    clean, changed = noisy(DRIVE, sticky=0.4)
    again = (changed[1:] == changed[:-1]).all(axis=1)
    assert 0.3 < again.mean() < 0.5
    np.testing.assert_array_equal(changed[1:][~again], clean[1:][~again])


def test_epsilon_replaces_actions() -> None:
    space = spaces.Discrete(50)
    clean, changed = noisy(space, epsilon=0.25)
    assert 0.15 < (clean != changed).mean() < 0.35


def test_jitter_reaches_the_box_inside_a_dict() -> None:
    space = SPACES["dict"]
    plain = play(RandomPolicy(space), space, [0], 5)
    moved = play(ActionNoise(RandomPolicy(space), space, gaussian=0.1), space, [0], 5)
    assert all((a[0]["look"] != b[0]["look"]).any() and a[0]["jump"] == b[0]["jump"] for a, b in zip(plain, moved, strict=True))


def test_the_inner_policy_may_be_what_builds_it() -> None:
    assert isinstance(ActionNoise(RandomPolicy, DRIVE).policy, RandomPolicy)


@pytest.mark.parametrize(("strengths", "space"), [({"gaussian": -1.0}, "box"), ({"sticky": 1.5}, "box"), ({"gaussian": 0.1}, "discrete")])
def test_impossible_noise_is_refused(strengths: dict[str, float], space: str) -> None:
    with pytest.raises(ValueError, match="="):
        ActionNoise(RandomPolicy(SPACES[space]), SPACES[space], **strengths)


# ---------------------------------------------------------------- pursuit


def drive(noise: float, seed: int, steps: int, monkeypatch: pytest.MonkeyPatch, **style: Any) -> NDArray[np.float64]:
    """Labelled state and steering by step of one driven episode, ``(T, S + 1)``."""
    env = CarRacingSource(warmup=(50, 200))
    monkeypatch.setattr(env.core, "draw", lambda size: np.zeros((size, size, 3), np.uint8))
    policy = PurePursuit(env.action_space, noises=(noise,), **style)
    _, info = env.reset(seed=seed)
    rows = []
    for step in range(steps):
        state = {name: [value] for name, value in info["state"].items()}
        action = policy.act(seen([seed], first=step == 0, state=state))[0]
        _, _, terminated, _, info = env.step(action)
        rows.append([*info["state"].values(), action[0]])
        if terminated:
            break
    return np.array(rows)


def test_without_noise_the_car_stays_on_the_road(monkeypatch: pytest.MonkeyPatch) -> None:
    on_road = [drive(0.0, seed, 400, monkeypatch)[:, CarRacingSource.state_names.index("on_road")] for seed in range(5)]
    assert np.concatenate(on_road).mean() > 0.99


def test_a_steady_hand_steers_less_at_speed_than_a_weaving_one(monkeypatch: pytest.MonkeyPatch) -> None:
    steady, weaving = (drive(0.0, 2, 150, monkeypatch, speeds=(55, 55), weaving=share)[:, -1] for share in (0.0, 1.0))
    assert np.abs(np.diff(steady)).mean() < 0.5 * np.abs(np.diff(weaving)).mean()


def test_strong_noise_leaves_the_road_stands_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [drive(0.6, seed, 400, monkeypatch) for seed in range(5)]
    on_road = [run[:, CarRacingSource.state_names.index("on_road")] for run in runs]
    speed = np.concatenate([run[:, CarRacingSource.state_names.index("speed")] for run in runs])
    assert np.concatenate(on_road).mean() < 0.95
    assert sum(int((np.diff(on) > 0).sum()) for on in on_road) >= 3
    assert speed.min() < 2


def test_pursuit_steers_towards_the_road_and_slows_for_bends() -> None:
    policy = PurePursuit(DRIVE, speeds=(50, 50), noises=(0.0,), lane=0.0)
    states = {"path_angle_near": [0.3, -0.3, 0.0, 0.0], "path_angle_far": [0.3, -0.3, 0.0, 1.0], "speed": [40.0] * 4}
    actions = policy.act(seen([0] * 4, first=True, state=states))
    assert actions[0, 0] < 0 < actions[1, 0]
    assert actions[2, 1] > 0 == actions[2, 2]
    assert actions[3, 2] > 0 == actions[3, 1]


def test_pursuit_needs_its_labels_and_a_drivers_space() -> None:
    with pytest.raises(ValueError, match=r"path_angle_far.*speed.*use another policy"):
        PurePursuit(DRIVE).act(seen([0], first=True, state={"path_angle_near": [0.0]}))
    with pytest.raises(ValueError, match=r"not Discrete\(5"):
        PurePursuit(SPACES["discrete"])


@pytest.mark.parametrize(
    "keywords", [{"speeds": (0, 5)}, {"speeds": (9, 5)}, {"noises": ()}, {"noises": (-0.1,)}, {"burst": -1}, {"weaving": 2}, {"fps": 0}]
)
def test_pursuit_refuses_impossible_keywords(keywords: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(keywords))):
        PurePursuit(DRIVE, **keywords)
