"""What scenarios say happens, in a tiny world: every trigger and effect, with it and without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldsim.datasets.scenarios import plan_scenarios, start_options
from worldsim.envs.vector import WorldSimVectorEnv
from worldsim.episode import Episode
from worldsim.policies import RandomPolicy, RecordedPolicy
from worldsim.rollout import rollout
from worldsim.scenario import parse_scenario, script
from worldsim.scenario.director import Director
from worldsim.targets import instantiate_allowed
from worldsim.types import Actions, Observation

RANDOM = {"_target_": "worldsim.policies.random.RandomPolicy", "hold": [1, 1]}
STILL = {"_target_": "worldsim.policies.recorded.RecordedPolicy", "actions": [[0.0, 0.0, 0.0]]}
BRAKE = {"_target_": "worldsim.policies.recorded.RecordedPolicy", "actions": [[0.0, 0.0, 1.0]]}
COUNT = {"_target_": "worldsim.policies.recorded.RecordedPolicy", "actions": [[0.0, 0.1 * i, 0.0] for i in range(10)], "after": "loop"}
ROWS = 4

Run = Callable[..., list[Episode]]


@pytest.fixture(scope="module")
def env(endless_path: Path) -> WorldSimVectorEnv:
    return WorldSimVectorEnv(ROWS, world=str(endless_path), autoreset_mode="Disabled")


@pytest.fixture
def run(env: WorldSimVectorEnv) -> Run:
    """Run the episodes of one scenario as groups, and return them."""

    def go(build: Callable[..., Any] | None = None, **keys: Any) -> list[Episode]:
        keys = {"policy": RANDOM, "horizon": 8, "seeds": [3], **keys}
        plan = plan_scenarios([parse_scenario("one", keys, where="here")], root_seed=0, batch=ROWS)
        return [episode for group in plan.groups() for episode in play(env, plan, group, build)]

    return go


def play(env: WorldSimVectorEnv, plan: Any, group: Any, build: Callable[..., Any] | None) -> list[Episode]:
    scripts = [script(job, plan.scenarios[job.scenario]) for job in group]
    idle = env.num_envs - len(group)
    space = env.single_action_space

    def made(config: Mapping[str, Any]) -> Any:
        policy = instantiate_allowed(config, action_space=space)
        return policy if build is None else build(policy)

    director = Director(
        [*scripts, *[scripts[-1]] * idle],
        [*(job.seed for job in group), *[group[-1].seed] * idle],
        space,
        build=made,
        fps=25.0,
        start_options=start_options,
    )
    episodes = rollout(env, director, group, state_names=("speed", "offset"), watcher=director)
    return [
        Episode(**{**{name: getattr(one, name) for name in one.__dataclass_fields__}, "params": {**one.params, **director.notes(row)}})
        for row, one in enumerate(episodes)
    ]


def event(do: Any, **when: Any) -> list[dict[str, Any]]:
    return [{"when": when, "do": do}]


def steps(episode: Episode) -> list[int]:
    return [entry[0] for entry in episode.params.get("happened", [])]


def same(one: Episode, other: Episode) -> bool:
    return bool(np.array_equal(one.frames, other.frames) and np.array_equal(one.actions, other.actions))


# ---------------------------------------------------------------- triggers


NOTHING: dict[str, Any] = {"frame": {}}


@pytest.mark.parametrize(
    ("when", "fired"),
    [
        ({"step": 0}, [0]),
        ({"step": 3}, [3]),
        ({"step": 99}, []),
        ({"step": 3, "after": 4}, []),
        ({"time": 0.1}, [3]),
        ({"time": 0.12}, [3]),
        ({"time": 0.04, "after": 5}, [5]),
        ({"rate": 1, "per": "step"}, list(range(8))),
        ({"rate": 25}, list(range(8))),
        ({"rate": 1, "per": "step", "times": 2, "after": 3}, [3, 4]),
        ({"predicate": "step >= 2"}, [2]),
        ({"predicate": "step >= 2", "times": 3}, [2, 3, 4]),
        ({"predicate": "time > 0.17"}, [5]),
        ({"predicate": "action[2] > 0.5"}, []),
        ({"predicate": "action[1] < 1.5"}, [1]),
        ({"predicate": "abs(reward) < 2"}, [1]),
        ({"predicate": "not (abs(reward) > 2)"}, [1]),
        ({"predicate": "speed > -1e9 and offset < 1e9"}, [0]),
        ({"predicate": "speed > 1e9"}, []),
    ],
)
def test_triggers(run: Run, when: dict[str, Any], fired: list[int]) -> None:
    (episode,) = run(policy=STILL, events=event(NOTHING, **when))
    assert steps(episode) == fired


def test_a_rate_is_drawn_from_the_seed_and_on_average_what_it_says(run: Run) -> None:
    happens = event(NOTHING, rate=0.3, per="step")
    one, two, other = (run(policy=STILL, horizon=120, seeds=[seed], events=happens)[0] for seed in (3, 3, 4))
    assert steps(one) == steps(two) != steps(other)
    assert 15 < len(steps(one)) < 60


def test_a_predicate_reads_the_action_and_the_state_of_its_moment(run: Run) -> None:
    (episode,) = run(policy=COUNT, events=event(NOTHING, predicate="action[1] > 0.35", times=8))
    assert steps(episode) == [5, 6, 7]  # action 4 is the first, and is known at step 5
    middle = float(np.sort(episode.state[:8, 0])[4])
    (split,) = run(policy=COUNT, events=event(NOTHING, predicate=f"speed >= {middle!r}", times=8))
    assert steps(split) == [t for t in range(8) if episode.state[t, 0] >= middle]


# ---------------------------------------------------------------- effects


def test_a_switch_changes_who_drives(run: Run) -> None:
    policies = {"still": STILL, "brake": BRAKE, "count": COUNT}
    before, after = ([0.0] * 8, [0.0] * 3 + [1.0] * 5)
    (plain,) = run(policies=policies, policy="still")
    (switched,) = run(policies=policies, policy="still", events=event({"switch": "brake"}, step=3))
    assert (plain.actions[:, 2].tolist(), switched.actions[:, 2].tolist()) == (before, after)
    assert np.array_equal(plain.frames[:4], switched.frames[:4])
    assert not np.array_equal(plain.frames[4], switched.frames[4])
    assert switched.params["happened"] == [[3, 0, ["switch"]]]
    (late,) = run(policies=policies, policy="still", events=event({"switch": "count"}, step=3))
    np.testing.assert_allclose(late.actions[3:, 1], [0.0, 0.1, 0.2, 0.3, 0.4], atol=1e-6)  # it begins when it takes over


def test_who_comes_back_does_not_repeat_itself(run: Run) -> None:
    back = [*event({"switch": "still"}, step=2), *event({"switch": "wild"}, step=4)]
    policies = {"wild": RANDOM, "still": STILL}
    one, two, other = (run(policies=policies, policy="wild", seeds=[seed], events=back)[0] for seed in (3, 3, 4))
    assert same(one, two)
    assert not np.array_equal(one.actions, other.actions)
    assert not one.actions[2:4].any()
    assert not np.array_equal(one.actions[:2], one.actions[4:6])


class Listening:
    """A policy that keeps what it was told."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.first: list[list[bool]] = []

    def act(self, observation: Observation) -> Actions:
        self.first.append(observation.first.tolist())
        made: Actions = self.policy.act(observation)
        return made


def test_a_policy_is_told_first_when_it_takes_over_and_is_not_asked_while_nobody_needs_it(run: Run) -> None:
    heard: dict[type, Listening] = {}

    def listen(policy: Any) -> Listening:
        heard[type(policy)] = Listening(policy)
        return heard[type(policy)]

    run(listen, policies={"wild": RANDOM, "still": STILL}, policy="wild", events=event({"switch": "still"}, step=3))
    assert [row[0] for row in heard[RandomPolicy].first] == [True, False, False]
    assert [row[0] for row in heard[RecordedPolicy].first] == [True, False, False, False, False]


def test_an_override_takes_the_place_of_some_numbers_for_some_steps(run: Run) -> None:
    (plain,) = run()
    (forced,) = run(events=event({"action": [None, 0, 1], "for": 3}, step=2))
    assert forced.actions[2:5, 1:].tolist() == [[0.0, 1.0]] * 3
    assert np.array_equal(forced.actions[:, 0], plain.actions[:, 0])
    assert np.array_equal(forced.actions[[0, 1, 5, 6, 7]], plain.actions[[0, 1, 5, 6, 7]])


def test_a_condition_tells_the_world_something_else(run: Run) -> None:
    told = {"tags": ["wet"], "numbers": {"red": 2.0}}
    plain, wet, same_again = (
        run(policy=STILL, events=event({"condition": one}, step=4))[0]
        for one in ({}, told, {"tags": ["dark"], "numbers": {"red": 0.4}, "text": "grey road"})
    )
    assert np.array_equal(plain.frames, same_again.frames)  # what the start told already
    assert np.array_equal(plain.frames[:5], wet.frames[:5])
    assert not np.array_equal(plain.frames[5], wet.frames[5])
    assert wet.params["told"] == [[4, {"tags": ["wet"], "numbers": {"red": 2.0}, "text": "grey road"}]]
    assert wet.conditioning == plain.conditioning
    with pytest.raises(ValueError, match="tag 'snow' is unknown to this world"):
        run(events=event({"condition": {"tags": ["snow"]}}, step=1))


def test_frame_edits_are_the_cameras_alone(run: Run) -> None:
    (plain,) = run(policy=STILL)
    box = {"box": [0.25, 0.5, 0.75, 1.0], "shade": 1.0}
    (hidden,) = run(policy=STILL, events=event({"frame": {"occlude": box}, "for": 2}, step=3))
    assert (hidden.frames[3:5, 8:, 4:12] == 255).all()
    rest = hidden.frames.copy()
    rest[3:5, 8:, 4:12] = plain.frames[3:5, 8:, 4:12]
    assert np.array_equal(rest, plain.frames)
    (dark,) = run(policy=STILL, events=event({"frame": {"brightness": 0.5}, "for": None}, step=6))
    assert np.array_equal(dark.frames[:6], plain.frames[:6])
    assert np.abs(dark.frames[6:].astype(int) - plain.frames[6:] / 2).max() <= 0.5
    (held,) = run(policy=STILL, events=event({"frame": {"drop": True}, "for": 2}, step=3))
    assert np.array_equal(held.frames[[2, 2, 2]], held.frames[2:5])
    assert np.array_equal(held.frames[5:], plain.frames[5:])


def test_sensor_noise_is_drawn_from_the_seed(run: Run) -> None:
    noisy = event({"frame": {"noise": 0.1}, "for": 3}, step=2)
    one, two = run(policy=STILL, events=noisy)[0], run(policy=STILL, events=noisy)[0]
    (plain,) = run(policy=STILL)
    assert same(one, two)
    off = one.frames[2:5].astype(int) - plain.frames[2:5]
    assert 5 < off.std() < 40
    assert not np.array_equal(off[0], off[1])


def test_policies_see_edited_frames(run: Run) -> None:
    seen: list[np.ndarray[Any, Any]] = []

    class Looking(Listening):
        def act(self, observation: Observation) -> Actions:
            seen.append(observation.frames[0].copy())
            return super().act(observation)

    (episode,) = run(Looking, policy=STILL, events=event({"frame": {"brightness": 0}, "for": 1}, step=0))
    assert not episode.frames[0].any()
    assert np.array_equal(np.stack(seen), episode.frames[:-1])


def test_a_cut_goes_on_from_another_start(run: Run) -> None:
    (plain,) = run(policy=COUNT, initial=0)
    (cut,) = run(policy=COUNT, initial=0, events=event({"cut": 2}, step=4))
    (other,) = run(policy=COUNT, initial=2)
    assert np.array_equal(plain.frames[:4], cut.frames[:4])
    assert np.array_equal(cut.frames[4], other.frames[0])
    assert np.abs(cut.state[4] - other.state[0]).max() < np.abs(cut.state[4] - plain.state[4]).max()
    assert len(cut) == len(plain) == 8
    assert np.array_equal(cut.actions, plain.actions)  # who drives goes on
    assert cut.params["cuts"] == [4]
    assert not cut.truncated[:-1].any()
    one, two = (run(policy=COUNT, seeds=[seed], events=event({"cut": "random"}, step=4))[0] for seed in (3, 3))
    assert same(one, two)


def test_a_cut_keeps_what_the_scenario_tells_the_world(run: Run) -> None:
    told = {"tags": ["wet"]}
    (cut,) = run(policy=STILL, initial=0, conditioning=told, events=event({"cut": 2}, step=0))
    (other,) = run(policy=STILL, initial=2, conditioning=told)
    (free,) = run(policy=STILL, initial=0, events=event({"cut": 2}, step=0))
    assert np.array_equal(cut.frames[0], other.frames[0])
    assert np.array_equal(cut.frames[0], free.frames[0])
    assert not np.array_equal(cut.frames[1:], free.frames[1:])
    assert "told" not in cut.params


def test_a_stop_truncates_with_its_reason(run: Run) -> None:
    (stopped,) = run(events=event({"stop": "enough"}, step=5))
    (plain,) = run()
    assert (len(stopped), stopped.truncated.tolist(), stopped.status) == (5, [False] * 4 + [True], "ok")
    assert stopped.params["stopped"] == [5, "enough"]
    assert np.array_equal(stopped.frames, plain.frames[:6])
    (at_once,) = run(events=event({"stop": "enough"}, step=0))
    assert (len(at_once), at_once.params["stopped"]) == (1, [1, "enough"])


def test_events_of_one_row_leave_its_neighbours_alone(run: Run) -> None:
    sometimes = event([{"cut": "random"}, {"switch": "still"}, {"frame": {"noise": 0.5}}], rate=0.3, per="step", times=1)
    keys: dict[str, Any] = {"policies": {"wild": RANDOM, "still": STILL}, "policy": "wild", "perturb": [{"kind": "sticky", "p": 0.5}]}
    together = run(seeds=[3, 4, 5, 6], events=sometimes, **keys)
    assert len({tuple(steps(one)) for one in together}) > 1
    for seed, episode in zip((3, 4, 5, 6), together, strict=True):
        (alone,) = run(seeds=[seed], events=sometimes, **keys)
        assert np.array_equal(alone.actions, episode.actions)
        assert np.abs(alone.frames.astype(int) - episode.frames.astype(int)).max() <= 1


# ---------------------------------------------------------------- forks


def test_siblings_share_their_past_bit_for_bit(run: Run) -> None:
    fork = [
        *event({"frame": {"noise": 0.2}}, rate=0.5, per="step"),
        *event({"fork": [[], {"switch": "brake"}, {"action": [-1, 0, 0], "for": 9}, {"condition": {"tags": ["wet"]}}]}, step=4),
    ]
    family = run(
        policies={"wild": RANDOM, "brake": BRAKE},
        policy="wild",
        perturb=[{"kind": "noise", "gaussian": 0.1, "epsilon": 0.2}],
        events=fork,
        seeds=[3, 9],
    )
    assert len(family) == 8
    for siblings in (family[:4], family[4:]):
        for other in siblings[1:]:
            assert np.array_equal(siblings[0].frames[:5], other.frames[:5])
            assert np.array_equal(siblings[0].actions[:4], other.actions[:4])
            assert np.array_equal(siblings[0].state[:5], other.state[:5])
            assert not np.array_equal(siblings[0].frames[5:], other.frames[5:])
        forked = [next(entry for entry in one.params["happened"] if entry[1] == 1) for one in siblings]
        assert forked == [[4, 1, ["fork", *more]] for more in ([], ["switch"], ["action"], ["condition"])]
    assert not np.array_equal(family[0].frames, family[4].frames)
