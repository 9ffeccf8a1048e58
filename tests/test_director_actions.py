"""What becomes of actions on their way: every disturbance, with it and without, in every kind of action space."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from worldsim.scenario.director_actions import check_override, check_perturbs, clip_action, make_stages, overridden
from worldsim.scenario.director_random import derived_seed, stream
from worldsim.scenario.parts import BiasPerturb, DelayPerturb, DropoutPerturb, NoisePerturb, Perturb, StickyPerturb

BOX = spaces.Box(np.array([-1, 0, 0], np.float32), np.array([1, 1, 1], np.float32))
PARTS = spaces.Dict({"gear": spaces.Discrete(3, start=1), "wheel": spaces.Box(-1, 1, (2,), np.float32)})
SPACES = [BOX, PARTS, spaces.Discrete(5), spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(3), spaces.Box(0, 9, (2,), np.int64)]


def count(steps: int = 12) -> list[Any]:
    return [np.array([0.01 * t, 0.5, 0.0], np.float32) for t in range(steps)]


def play(*perturbs: Perturb, seed: int = 1, actions: list[Any] | None = None, space: Any = BOX) -> list[Any]:
    stages = make_stages(space, perturbs, seed)
    made = []
    for step, action in enumerate(count() if actions is None else actions):
        for stage in stages:
            action = stage(action, step)
        made.append(action)
    return made


def heads(actions: list[Any]) -> list[int]:
    """Read back which action of ``count()`` was done at each step; 0 also where it rested."""
    return [round(float(action[0]) * 100) for action in actions]


def test_streams_depend_on_seed_step_and_name_alone() -> None:
    one = stream(1, 2, "a").random(4).tolist()
    stream(5, 6, "b").random(100)
    assert stream(1, 2, "a").random(4).tolist() == one
    for other in ((2, 2, "a"), (1, 3, "a"), (1, 2, "b")):
        assert stream(*other).random(4).tolist() != one
    assert derived_seed(1, 2, "a") == derived_seed(1, 2, "a") != derived_seed(1, 2, "b")
    assert 0 <= derived_seed(2**63, 0, "x") < 2**62


def test_nothing_disturbs_nothing() -> None:
    assert heads(play()) == list(range(12))
    assert heads(play(NoisePerturb(), StickyPerturb(p=0.0), DropoutPerturb(p=0.0))) == list(range(12))


def test_delay() -> None:
    assert heads(play(DelayPerturb(steps=3))) == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert heads(play(DelayPerturb(steps=2, start=4, stop=8))) == [0, 1, 2, 3, 4, 4, 4, 5, 8, 9, 10, 11]


def test_sticky() -> None:
    assert heads(play(StickyPerturb(p=1.0, start=3, stop=6))) == [0, 1, 2, 2, 2, 2, 6, 7, 8, 9, 10, 11]
    some = heads(play(StickyPerturb(p=0.5)))
    assert some == heads(play(StickyPerturb(p=0.5))) != heads(play(StickyPerturb(p=0.5), seed=2))
    assert all(now in (before, t) for t, (before, now) in enumerate(itertools.pairwise(some), start=1))


def test_dropout() -> None:
    assert heads(play(DropoutPerturb(p=1.0, start=3, stop=6))) == [0, 1, 2, 0, 0, 0, 6, 7, 8, 9, 10, 11]
    assert heads(play(DropoutPerturb(p=1.0, fill="hold", start=3, stop=6))) == [0, 1, 2, 2, 2, 2, 6, 7, 8, 9, 10, 11]
    lost = [head == 0 for head in heads(play(DropoutPerturb(p=0.2, steps=3), actions=count(100), seed=3))][1:]
    runs = [len(run) for run in "".join("x" if one else " " for one in lost).split()]
    assert runs
    assert all(run % 3 == 0 for run in runs[1:-1])


def test_bias_stays_in_the_space() -> None:
    moved = play(BiasPerturb(amount=(0.25,)))
    np.testing.assert_allclose(moved[3], [0.28, 0.75, 0.25], atol=1e-6)
    moved = play(BiasPerturb(amount=(-5.0, 0.0, 0.5), start=2))
    np.testing.assert_allclose(moved[1], [0.01, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(moved[2], [-1.0, 0.5, 0.5], atol=1e-6)


def test_noise() -> None:
    noisy = play(NoisePerturb(gaussian=0.1), actions=count(200))
    off = np.stack(noisy) - np.stack(count(200))
    assert 0.08 < off[:100, 0].std() < 0.12
    assert 0.03 < off[:, 1].std() < 0.07
    again, other = (play(NoisePerturb(gaussian=0.1), actions=count(200), seed=seed) for seed in (1, 2))
    assert np.array_equal(noisy, again)
    assert not np.array_equal(noisy, other)
    replaced = np.stack(play(NoisePerturb(epsilon=0.5), actions=count(200)))
    share = (replaced != np.stack(count(200))).any(axis=1).mean()
    assert 0.35 < share < 0.65


def test_order_counts() -> None:
    late = heads(play(DelayPerturb(steps=2), DropoutPerturb(p=1.0, start=5, stop=6)))
    early = heads(play(DropoutPerturb(p=1.0, start=5, stop=6), DelayPerturb(steps=2)))
    assert late[4:9] == [2, 0, 4, 5, 6]
    assert early[4:9] == [2, 3, 4, 0, 6]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_every_space_stays_a_space(space: Any) -> None:
    space.seed(0)
    given = [space.sample() for _ in range(30)]
    parts: list[Perturb] = [
        NoisePerturb(epsilon=0.3),
        DelayPerturb(steps=2),
        StickyPerturb(p=0.3),
        DropoutPerturb(p=0.2, steps=2),
        BiasPerturb(amount=(1.0,)),
    ]
    check_perturbs(space, parts)
    assert all(space.contains(action) for action in play(*parts, actions=given, space=space))
    assert all(space.contains(clip_action(space, action)) for action in given)


def test_overrides_by_space() -> None:
    assert overridden(BOX, np.array([0.5, 0.5, 0.5], np.float32), [None, 0, 1]).tolist() == [0.5, 0.0, 1.0]
    assert overridden(spaces.Discrete(5), np.int64(1), 3) == 3
    assert overridden(spaces.MultiDiscrete([3, 4]), np.array([1, 1]), [None, 3]).tolist() == [1, 3]
    told = overridden(PARTS, {"gear": np.int64(1), "wheel": np.array([0.5, 0.5], np.float32)}, {"gear": 3, "wheel": [None, 0]})
    assert (told["gear"], told["wheel"].tolist()) == (3, [0.5, 0.0])
    misfits: list[tuple[Any, Any]] = [(BOX, [0, 0]), (BOX, {"gas": 1}), (PARTS, {"gas": 1}), (PARTS, 3)]
    for space, given in misfits:
        with pytest.raises(ValueError, match="does not fit"):
            check_override(space, given)
    outside: list[tuple[Any, Any]] = [(BOX, [2, 0, 0]), (spaces.Discrete(5), 5), (spaces.Discrete(5), 1.5)]
    for space, given in outside:
        with pytest.raises(ValueError, match="is outside"):
            check_override(space, given)
    check_override(BOX, [None, None, 1])


def test_disturbances_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gaussian=0\.1 needs a Box"):
        check_perturbs(spaces.Discrete(3), [NoisePerturb(gaussian=0.1)])
    with pytest.raises(ValueError, match=r"bias has 2 amounts, an action of .* has 3 numbers: give 1 or 3"):
        check_perturbs(BOX, [BiasPerturb(amount=(1.0, 2.0))])
