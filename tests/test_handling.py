"""The scripted hand: it takes the object to the goal by the labelled state alone, as well or as badly as it is told to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.policies import Handling
from worldsim.types import Observation

HAND = spaces.Box(-1.0, 1.0, (4,), np.float32)
OBJECT, GOAL = np.array([0.1, 0.6, 0.02]), np.array([-0.1, 0.8, 0.15])


def table(policy: Handling, *, seeds: list[int], steps: int = 150) -> tuple[NDArray[Any], NDArray[Any]]:
    """A table on which a hand moves by a centimetre a step at most, and carries what it closed on; return objects and actions."""
    rows = len(seeds)
    hands, things = np.tile([0.0, 0.5, 0.2], (rows, 1)), np.tile(OBJECT, (rows, 1))
    held, taken = np.zeros(rows, bool), []
    for step in range(steps):
        places = {"gripper": hands, "object": things, "goal": np.tile(GOAL, (rows, 1))}
        state = {f"{name}_{axis}": place[:, i].astype(np.float32) for name, place in places.items() for i, axis in enumerate("xyz")}
        seen = Observation(np.zeros((rows, 8, 8, 3), np.uint8), state, np.full(rows, step == 0), np.array(seeds))
        actions = policy.act(seen)
        assert HAND.contains(actions[0])
        held = (actions[:, 3] > 0) & (held | (np.abs(hands - things).max(1) < 0.03))
        hands = hands + 0.01 * actions[:, :3]
        things = np.where(held[:, None], hands, things)
        taken.append(actions)
    return things, np.stack(taken)


def test_it_takes_the_object_to_the_goal() -> None:
    things, actions = table(Handling(HAND), seeds=[0, 1])
    assert np.abs(things - GOAL).max() < 0.05
    assert (actions[0, :, 3] < 0).all()  # open on the way
    assert (actions[-1, :, 3] > 0).all()


def test_who_is_told_to_miss_misses() -> None:
    things, _ = table(Handling(HAND, miss=1.0), seeds=[3])
    np.testing.assert_array_equal(things[0], OBJECT)


def test_it_comes_from_where_it_is_told_to() -> None:
    above, front = (table(Handling(HAND, approach=approach), seeds=[0], steps=20)[1][:, 0] for approach in ((0, 0, 0.3), (0, -0.3, 0)))
    assert above[:, 2].mean() > front[:, 2].mean()
    assert above[:, 1].mean() > front[:, 1].mean()


def test_an_episode_draws_from_its_seed_alone() -> None:
    policy: dict[str, Any] = {"miss": 0.05, "speeds": (0.2, 1.0)}
    one = table(Handling(HAND, **policy), seeds=[5, 6])[1]
    np.testing.assert_array_equal(one[:, 1], table(Handling(HAND, **policy), seeds=[6])[1][:, 0])
    assert (one[:, 0] != one[:, 1]).any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"approach": (0, 1)}, "must be a place"),
        ({"speeds": (0.0, 1.0)}, "0 < lowest <= highest <= 1"),
        ({"miss": -1.0}, "miss=-1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Handling(HAND, **options)


def test_other_actions_and_worlds_without_places_are_refused() -> None:
    with pytest.raises(ValueError, match="choose another policy"):
        Handling(spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"Handling needs the labelled state \['gripper_x'"):
        Handling(HAND).act(Observation(np.zeros((1, 8, 8, 3), np.uint8), {}, np.array([True]), np.array([0])))
