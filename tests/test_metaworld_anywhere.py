"""Meta-World's part that needs no Meta-World: what is told, settings, and what is said where it is not installed."""

from __future__ import annotations

import ctypes.util
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import worldsim  # noqa: F401  (registers the source)
from worldsim.datasets.collect import policy_mix
from worldsim.envs.sources.metaworld import MetaWorldSource
from worldsim.envs.sources.metaworld_tasks import TASKS, check_tasks, tell
from worldsim.policies import manipulation
from worldsim.policies.manipulation import MetaWorldExpert, Reaching
from worldsim.types import Observation

HAND = spaces.Box(-1.0, 1.0, (4,), np.float32)


def at(places: Sequence[Sequence[float]], *, seeds: Sequence[int], first: bool = False) -> Observation:
    state = {f"gripper_{axis}": np.array([place[i] for place in places], np.float32) for i, axis in enumerate("xyz")}
    return Observation(np.zeros((len(places), 8, 8, 3), np.uint8), state, np.full(len(places), first), np.array(seeds, np.int64))


# ---------------------------------------------------------------- without the extra


def test_the_source_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(ValueError, match=r"\['metaworld'.*\]: pip install 'worldsim-gym\[metaworld\]'"):
        MetaWorldSource()
    with pytest.raises(ValueError, match="metaworld"):
        gym.make("worldsim/MetaWorld-v0")


def test_the_expert_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld.policies", None)
    with pytest.raises(ValueError, match=r"pip install 'worldsim-gym\[metaworld\]'"):
        MetaWorldExpert(HAND)


def test_a_machine_that_cannot_draw_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ValueError, match="neither EGL nor OSMesa: apt-get install libegl1"):
        MetaWorldSource()


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"size": 8}, "size=8"),
        ({"action_repeat": 0}, "action_repeat=0"),
        ({"hold": 0}, "hold=0"),
        ({"max_steps": 300}, "max_steps=300 of action_repeat=2 must be 1 to 500"),
        ({"spread": (0.1, -0.1, 0)}, r"spread=\(0.1, -0.1, 0\)"),
        ({"render_mode": "human"}, "render_mode='human'"),
        ({"tasks": ["push", "fly"]}, r"tasks=\['push', 'fly'\] must hold one or more of push, pick-place"),
        ({"tasks": ["push"], "weights": [1, 2]}, r"weights=\[1, 2\]"),
        ({"weights": [0, 0, 0, 0, 0]}, "weights="),
    ],
)
def test_keywords_out_of_range_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MetaWorldSource(**keywords)


def test_weights_become_probabilities() -> None:
    assert check_tasks(["push", "door-open"], [3, 1]) == (("push", "door-open"), (0.75, 0.25))
    assert check_tasks(None, None) == (tuple(TASKS), (0.2,) * 5)


def test_source_and_experts_number_tasks_alike() -> None:
    assert tuple(TASKS) == manipulation.TASKS


def test_shipped_settings_compose() -> None:
    with initialize_config_module("worldsim.configs", version_base="1.3"):
        cfg: Any = OmegaConf.to_container(compose("collect", ["source=metaworld", "policy=manipulation"]), resolve=True)
    assert cfg["source"]["env"] in gym.registry
    assert tuple(cfg["source"]["tasks"]) == tuple(TASKS)
    mix = policy_mix(cfg["policy"], {}, cfg["horizon"])
    assert sum(part.weight for part in mix) == pytest.approx(1)


# ---------------------------------------------------------------- what is told


@pytest.mark.parametrize(
    ("task", "thing", "goal", "text"),
    [
        ("push", (0, 0.65, 0.02), (-0.08, 0.88, 0.02), "push the puck to the left, far goal"),
        ("pick-place", (0, 0.65, 0.02), (0.01, 0.82, 0.25), "lift the puck to the middle, near, high goal"),
        ("drawer-open", (0.09, 0.73, 0.09), (0.09, 0.54, 0.09), "open the drawer on the right"),
        ("door-open", (0.24, 0.7, 0.15), (-0.25, 0.45, 0.15), "open the door in the middle"),
    ],
)
def test_words_tell_where_to(task: str, thing: tuple[float, ...], goal: tuple[float, ...], text: str) -> None:
    told = tell(task, np.array(thing), np.array(goal))
    assert told["text"] == text
    assert told["tags"][0] == task
    assert set(told["tags"][1:]) <= set(text.replace(",", "").split())
    assert all(0 <= value <= 1 for value in told["numbers"].values())


def test_told_places_differ_as_places_do() -> None:
    here, there = (tell("push", np.array([x, 0.6, 0.02]), np.array([0, 0.8, 0.02]))["numbers"] for x in (-0.1, 0.1))
    assert there["object_x"] - here["object_x"] == pytest.approx(1 / 3)
    assert {name for name in here if here[name] != there[name]} == {"object_x"}


# ---------------------------------------------------------------- aimless motion


def test_reaching_depends_on_the_rows_own_seed() -> None:
    places = [(0.0, 0.6, 0.2)] * 3
    one, other = Reaching(HAND), Reaching(HAND)
    for step in range(5):
        three = one.act(at(places, seeds=(1, 2, 1), first=step == 0))
        np.testing.assert_array_equal(three[:2], other.act(at(places[:2], seeds=(1, 2), first=step == 0)))
        np.testing.assert_array_equal(three[0], three[2])
        assert (three[0] != three[1]).any()
        assert three.dtype == np.float32
        assert HAND.contains(three[0])


def test_reaching_comes_near_its_places() -> None:
    policy, place = Reaching(HAND, stay=200), np.array([0.0, 0.6, 0.2])
    been = []
    for step in range(400):
        place = place + 0.02 * policy.act(at([place.tolist()], seeds=(3,), first=step == 0))[0, :3]
        been.append(place)
    assert (np.ptp(been, axis=0) > (0.2, 0.2, 0.1)).all()


@pytest.mark.parametrize("policy", [MetaWorldExpert, Reaching])
def test_other_action_spaces_are_refused(policy: Any) -> None:
    with pytest.raises(ValueError, match=r"by Box\(4\) actions .* not Discrete\(3\)"):
        policy(spaces.Discrete(3))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"low": (0, 0, 1)}, "must be corners"), ({"stay": 0}, "stay=0")],
)
def test_reaching_refuses_what_is_no_box(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reaching(HAND, **keywords)


def test_state_that_is_missing_is_named() -> None:
    blind = Observation(np.zeros((1, 8, 8, 3), np.uint8), {"speed": np.zeros(1, np.float32)}, np.array([True]), np.array([1]))
    with pytest.raises(ValueError, match=r"Reaching needs the labelled state \['gripper_x', .*the world has \['speed'\]"):
        Reaching(HAND).act(blind)
