"""The Meta-World source: five tasks in one world, seeded to the last bit, and the experts that solve them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from hydra import compose, initialize_config_module
from numpy.typing import NDArray

pytest.importorskip("metaworld")

from worldsim.datasets.collect import main
from worldsim.datasets.reader import EpisodeReader
from worldsim.envs.sources.metaworld import MetaWorldSource
from worldsim.envs.sources.metaworld_scene import CLASSES, ManipulationScene
from worldsim.envs.sources.metaworld_tasks import TASKS
from worldsim.policies.handling import Handling
from worldsim.policies.manipulation import FAULTS, MetaWorldExpert
from worldsim.types import Frames, Observation

NO_FRAMES = np.zeros((1, 8, 8, 3), np.uint8)


def like(arm: MetaWorldSource, **keywords: Any) -> MetaWorldSource:
    """Return another source that shares what has been built."""
    env = MetaWorldSource(**keywords)
    env._scenes = arm._scenes
    return env


def seen(info: dict[str, Any], *, seed: int, first: bool) -> Observation:
    state = {name: np.array([value], np.float32) for name, value in info["state"].items()}
    return Observation(NO_FRAMES, state, np.array([first]), np.array([seed]))


def play(env: MetaWorldSource, policy: MetaWorldExpert | Handling, task: str, seed: int) -> list[dict[str, Any]]:
    """Infos of an episode's steps, with reward and end in them."""
    _, info = env.reset(seed=seed, options={"task": task})
    steps: list[dict[str, Any]] = []
    while not steps or not (steps[-1]["terminated"] or steps[-1]["truncated"]):
        action = policy.act(seen(info, seed=seed, first=not steps))[0]
        _, reward, terminated, truncated, info = env.step(action)
        steps.append({**info, "reward": reward, "terminated": terminated, "truncated": truncated, "action": action})
    return steps


def film(env: MetaWorldSource, seed: int, actions: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.stack([env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)])


@pytest.fixture(scope="module")
def arm() -> Iterator[MetaWorldSource]:
    """Return a source of all tasks, whose simulators are built once."""
    env = MetaWorldSource(labels=True, hold=3, spread=(0, 0, 0), render_mode="rgb_array")
    yield env
    env.close()


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the drawing out, where only the motion counts."""

    def draw(self: ManipulationScene) -> Frames:
        return np.zeros((self.size, self.size, 3), np.uint8)

    def draw_classes(self: ManipulationScene) -> NDArray[np.uint8]:
        return np.zeros((self.size, self.size), np.uint8)

    monkeypatch.setattr(ManipulationScene, "draw", draw)
    monkeypatch.setattr(ManipulationScene, "draw_classes", draw_classes)


# ---------------------------------------------------------------- episodes


def test_same_seed_same_frames_other_seed_others() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 4)).astype(np.float32)
    fresh, used = (MetaWorldSource(tasks=["drawer-open"]) for _ in range(2))
    expected = film(fresh, 5, actions)
    other = film(used, 6, actions)
    film(used, 9, actions)
    np.testing.assert_array_equal(film(used, 5, actions), expected)
    assert (expected != other).any(axis=(1, 2, 3)).all()
    assert all(a.std() > 10 for a in expected)
    for env in (fresh, used):
        env.close()


@pytest.mark.usefixtures("_undrawn")
def test_every_task_is_drawn_and_can_be_asked_for(arm: MetaWorldSource) -> None:
    env = like(arm, tasks=["push", "button-press"], weights=[1, 3])
    drawn = [env.reset(seed=seed)[1]["conditioning"]["tags"][0] for seed in range(24)]
    assert 12 < drawn.count("button-press") < 24
    for task in ("push", "button-press"):
        info = env.reset(seed=0, options={"task": task})[1]
        assert info["conditioning"]["tags"][0] == task
        assert info["state"]["task"] == list(TASKS).index(task)
    with pytest.raises(ValueError, match="task 'door-open' is none of push, button-press"):
        env.reset(options={"task": "door-open"})


@pytest.mark.usefixtures("_undrawn")
def test_the_hand_starts_elsewhere_where_it_may(arm: MetaWorldSource) -> None:
    free, fixed = like(arm, tasks=["push"]), like(arm, tasks=["push"], spread=(0, 0, 0))
    starts = {env: np.array([env.reset(seed=seed)[1]["state"]["gripper_x"] for seed in range(6)]) for env in (free, fixed)}
    assert np.ptp(starts[free]) > 0.1
    assert np.ptp(starts[fixed]) < 0.001


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("task", TASKS)
def test_experts_succeed_and_the_end_is_the_success_held(arm: MetaWorldSource, task: str) -> None:
    steps = play(arm, MetaWorldExpert(arm.action_space, speeds=(0.9, 1)), task, seed=7)
    assert steps[-1]["terminated"]
    assert [step["state"]["success"] for step in steps[-3:]] == [1, 1, 1]
    assert not any(step["terminated"] for step in steps[:-1])
    assert all(0 <= step["reward"] <= 10 for step in steps)
    assert np.mean([step["reward"] for step in steps[-3:]]) > np.mean([step["reward"] for step in steps[:3]])
    assert steps[-1]["state"]["distance"] < steps[0]["state"]["distance"]


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("task", TASKS)
def test_a_hand_that_knows_places_alone_does_every_task(arm: MetaWorldSource, task: str) -> None:
    given: dict[str, Any] = {"approach": (0, -0.08, 0.08) if task == "button-press" else (0, 0, 0.12), "speeds": (0.9, 1.0)}
    assert play(arm, Handling(arm.action_space, **given), task, seed=7)[-1]["terminated"]
    assert not play(arm, Handling(arm.action_space, **given, miss=0.5), task, seed=7)[-1]["terminated"]


@pytest.mark.usefixtures("_undrawn")
def test_time_runs_out(arm: MetaWorldSource) -> None:
    env = like(arm, tasks=["push"], max_steps=5, action_repeat=3)
    env.reset(seed=0)
    ends = [env.step(np.zeros(4, np.float32))[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]
    assert env.metadata["render_fps"] == pytest.approx(80 / 3)


@pytest.mark.usefixtures("_undrawn")
def test_actions_move_the_hand_along_their_axis_and_close_the_gripper(arm: MetaWorldSource) -> None:
    for axis, name in enumerate(("gripper_x", "gripper_y", "gripper_z")):
        for sign in (-1.0, 1.0):
            before = arm.reset(seed=1, options={"task": "push"})[1]["state"]
            action = np.zeros(4, np.float32)
            action[axis] = sign
            after = [arm.step(action)[4]["state"] for _ in range(3)][-1]
            moved = {key: after[key] - before[key] for key in ("gripper_x", "gripper_y", "gripper_z")}
            assert moved[name] * sign > 0.01
            assert all(abs(value) < 0.01 for key, value in moved.items() if key != name)
    opening = [arm.step(np.array([0, 0, 0, 1], np.float32))[4]["state"]["opening"] for _ in range(10)]
    assert opening[-1] < opening[0]


@pytest.mark.parametrize("action", [(2.0, 0, 0, 0), (0, 0, 0, math.nan), (0, 0, 0)])
@pytest.mark.usefixtures("_undrawn")
def test_actions_outside_the_space_are_refused(arm: MetaWorldSource, action: tuple[float, ...]) -> None:
    arm.reset(seed=0, options={"task": "push"})
    with pytest.raises(ValueError, match="outside"):
        arm.step(np.array(action, np.float32))


def test_environment_checker_is_content() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("worldsim/MetaWorld-v0", tasks=["button-press"], size=32, render_mode="rgb_array").unwrapped)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("task", TASKS)
def test_pictures_show_what_is_handled_and_classes_say_where(arm: MetaWorldSource, task: str) -> None:
    frame, info = arm.reset(seed=3, options={"task": task})
    shown = info["segmentation"]
    assert arm.metadata["labels"] == {"segmentation": CLASSES}
    assert (shown.shape, shown.dtype) == (frame.shape[:2], np.uint8)
    share = {name: float((shown == number).mean()) for number, name in enumerate(CLASSES)}
    assert share["table"] > 0.2
    assert share["robot"] > 0.02
    assert share["object"] > (0.001 if task in ("push", "pick-place") else 0.02)
    assert (share["goal"] > 0) == (task != "button-press")
    np.testing.assert_array_equal(arm.render(), frame)
    if task == "push":
        red, green, blue = np.median(frame[shown == CLASSES.index("object")], axis=0)
        assert min(red, green) > 2 * blue  # the puck is yellow


def test_what_is_left_out_of_pictures_is_in_none(arm: MetaWorldSource) -> None:
    policy = MetaWorldExpert(arm.action_space, noises=(1.0,))
    _, info = arm.reset(seed=2, options={"task": "pick-place"})
    scene = arm._scenes["pick-place"]
    groups = scene.core.model.geom_group.copy()
    for step in range(40):
        frame, _, _, _, info = arm.step(policy.act(seen(info, seed=2, first=step == 0))[0])
        if step % 10 == 0:
            scene.core.model.geom_group[groups == 5] = 1
            np.testing.assert_array_equal(scene.draw(), frame)
            scene.core.model.geom_group[:] = groups


def test_a_simulator_imported_before_can_draw_all_the_same() -> None:
    program = (
        "import mujoco\n"
        "from worldsim.envs.sources.metaworld import MetaWorldSource\n"
        "frame, _ = MetaWorldSource(tasks=['push']).reset(seed=0)\n"
        "assert frame.std() > 10\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "DISPLAY")}
    subprocess.run([sys.executable, "-c", program], check=True, env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)})


# ---------------------------------------------------------------- policies


@pytest.fixture
def start(arm: MetaWorldSource) -> dict[str, Any]:
    """Return the info of a reset."""
    return arm.reset(seed=0, options={"task": "pick-place"})[1]


def actions_of(info: dict[str, Any], seed: int, count: int = 30, **keywords: Any) -> NDArray[np.float32]:
    policy = MetaWorldExpert(spaces.Box(-1.0, 1.0, (4,), np.float32), **keywords)
    return np.concatenate([policy.act(seen(info, seed=seed, first=step == 0)) for step in range(count)])


@pytest.mark.usefixtures("_undrawn")
def test_experts_draw_their_temper_from_the_seed(start: dict[str, Any]) -> None:
    rough: dict[str, Any] = {"noises": (0.2, 0.4), "bursts": 1.0, "faults": FAULTS}
    np.testing.assert_array_equal(actions_of(start, 1, **rough), actions_of(start, 1, **rough))
    assert (actions_of(start, 1, **rough) != actions_of(start, 2, **rough)).any()
    assert np.abs(actions_of(start, 1, **rough)).max() <= 1


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_set_in_after_clean_steps_or_at_once(start: dict[str, Any], fault: str) -> None:
    differ = [(actions_of(start, seed, 60, faults=(fault,)) != actions_of(start, seed, 60)).any(axis=1) for seed in range(6)]
    assert all(one.any() for one in differ)
    assert not all(one.all() for one in differ)


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"speeds": (0, 1)}, r"speeds=\(0, 1\)"),
        ({"noises": ()}, r"noises=\(\)"),
        ({"faults": ("slip",)}, r"\['slip'\] are unknown; allowed: other, miss"),
    ],
)
def test_experts_refuse_settings_out_of_range(keywords: dict[str, Any], message: str, start: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        actions_of(start, 0, **keywords)


def test_a_recording_holds_tasks_states_and_labels(tmp_path: Path) -> None:
    overrides = ["source=metaworld", "source.tasks=[button-press]", "policy=manipulation", "frames=24", "horizon=5", "workers=1"]
    with initialize_config_module("worldsim.configs", version_base="1.3"):
        main(compose("collect", [*overrides, "record.labels=true", "writer.preview=false", f"out={tmp_path / 'arm'}"]))
    store = EpisodeReader(tmp_path / "arm")
    assert store.info.fps == 40
    assert tuple(store.info.state_names) == MetaWorldSource.state_names
    assert store.info.labels == {"segmentation": CLASSES}
    assert {store[i].conditioning.tags[0] for i in range(len(store))} == {"button-press"}
    assert {store[i].scenario for i in range(len(store))} >= {"expert", "noisy"}
    assert store[0].actions.shape[1] == 4
