"""The walker of first-person worlds, on a flat plane with a wall: it needs no simulator."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.policies.explorer import BUTTONS, Explorer
from worldsim.types import Observation

BLANK = np.zeros((1, 8, 8, 3), np.uint8)
KEYS = spaces.MultiBinary(6)


def wander(space: Any, *, seed: int = 0, steps: int = 300, wall: float = math.inf, **keywords: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Walk in a world that is a square of half width ``wall``; return actions and places."""
    policy = Explorer(space, **keywords)
    x = y = heading = 0.0
    actions, places = [], []
    for step in range(steps):
        state = {"x": np.array([x], np.float32), "y": np.array([y], np.float32)}
        action: Any = policy.act(Observation(BLANK, state, np.array([step == 0]), np.array([seed])))[0]
        forward, back, left, right, turn_left, turn_right = (float(one) for one in action)
        heading += math.radians(10) * (turn_left - turn_right)
        x += (forward - back) * math.cos(heading) - (left - right) * math.sin(heading)
        y += (forward - back) * math.sin(heading) + (left - right) * math.cos(heading)
        x, y = (min(max(one, -wall), wall) for one in (x, y))
        actions.append(action)
        places.append((x, y))
    return np.array(actions), np.array(places)


def test_same_seed_same_walk_other_seed_another() -> None:
    first, again, other = (wander(KEYS, seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_rows_walk_by_their_own_seeds() -> None:
    alone, both = Explorer(KEYS), Explorer(KEYS)
    for step in range(60):
        first = np.full(2, step == 0)
        pair = both.act(Observation(np.zeros((2, 8, 8, 3), np.uint8), {}, first, np.array([7, 4])))
        one = alone.act(Observation(BLANK, {}, first[:1], np.array([4])))
        np.testing.assert_array_equal(pair[1], one[0])


def test_it_keeps_going_and_never_presses_against_itself() -> None:
    actions, places = wander(KEYS, seed=3)
    assert actions[:, 0].mean() > 0.3
    assert not (actions[:, 0] & actions[:, 1]).any()
    assert not (actions[:, 4] & actions[:, 5]).any()
    held = np.diff(np.flatnonzero(np.diff(actions[:, 0]) != 0))
    assert np.median(held) > 3
    assert np.abs(places).max() > 15


@pytest.mark.parametrize("seed", range(4))
def test_walls_do_not_hold_it(seed: int) -> None:
    _, places = wander(KEYS, seed=seed, steps=600, wall=10.0)
    still = np.abs(np.diff(places, axis=0)).sum(axis=1) == 0
    longest = max(len(run) for run in "".join("s" if one else "m" for one in still).split("m"))
    assert longest < 150  # looking away and back takes its time
    assert np.ptp(places, axis=0).min() > 10


def test_it_gets_out_by_frames_alone() -> None:
    policy = Explorer(KEYS, look_back=0)
    turned = 0
    for step in range(80):
        action = policy.act(Observation(BLANK, {}, np.array([step == 0]), np.array([5])))[0]
        turned += int(action[4] + action[5])
    assert turned > 20


def net_turns(actions: NDArray[Any]) -> list[tuple[int, int]]:
    """Return the lengths of turns to one side that the same turn to the other follows, with a pause at most between."""
    signs = actions[:, 5].astype(int) - actions[:, 4]
    signs[actions[:, :4].any(axis=1)] = 9  # walking
    runs: list[list[int]] = []
    for sign in signs.tolist():
        if sign == 0:
            continue
        if runs and runs[-1][0] == sign:
            runs[-1][1] += 1
        else:
            runs.append([sign, 1])
    pairs = itertools.pairwise(runs)
    return [(a[1], b[1]) for a, b in pairs if {a[0], b[0]} == {-1, 1} and a[1] == b[1] >= 6]


def test_it_looks_away_and_back_where_asked() -> None:
    assert len(net_turns(wander(KEYS, seed=1, steps=600, look_back=1.0)[0])) >= 3
    assert len(net_turns(wander(KEYS, seed=1, steps=600, look_back=0.0)[0])) <= 1


def test_every_layout_of_actions_is_its_spaces_own() -> None:
    names = ("forward", "back", "left", "right", "jump", "dig", "place")
    both = spaces.Dict(keys=spaces.MultiBinary(7), look=spaces.Box(-1, 1, (2,), np.float32))
    seen = set()
    rng = np.random.default_rng(0)
    for space, buttons in ((KEYS, BUTTONS), (spaces.Box(-1, 1, (3,), np.float32), BUTTONS), (both, names)):
        policy = Explorer(space, buttons=buttons, hands=0.3)
        for step in range(500):
            frame = rng.integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
            action: Any = policy.act(Observation(frame, {}, np.array([step == 0]), np.array([8])))
            one = {key: part[0] for key, part in action.items()} if isinstance(action, dict) else action[0]
            assert space.contains(one)
            if isinstance(one, dict):
                seen |= {name for name, held in zip(names, one["keys"], strict=True) if held}
    assert seen >= {"forward", "back", "jump", "dig", "place"}


@pytest.mark.parametrize(
    ("space", "keywords", "message"),
    [
        (spaces.Discrete(4), {}, "Discrete"),
        (spaces.MultiBinary(5), {}, "6 buttons .*MultiBinary"),
        (spaces.Dict(keys=KEYS), {}, "look"),
        (KEYS, {"look_back": 2}, "look_back=2"),
        (KEYS, {"half_circle": 0}, "half_circle=0"),
    ],
)
def test_what_cannot_be_walked_is_refused(space: Any, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Explorer(space, **keywords)
