"""The scenario language: what is read, what it becomes, and how mistakes are told."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from worldsim.episode import Conditioning
from worldsim.rollout import EpisodeJob
from worldsim.scenario import Scenario, ScenarioError, expand, load_many, load_scenarios, parse_scenario, script, world_of
from worldsim.scenario.events import Condition, Cut, EditFrames, Event, FrameEdit, Occlude, Override, Stop, Switch, When
from worldsim.scenario.parts import (
    BiasPerturb,
    ClipStart,
    ContextStart,
    DatasetStart,
    DelayPerturb,
    DropoutPerturb,
    Expect,
    Filter,
    GeneratedStart,
    ImageStart,
    NoisePerturb,
    RandomStart,
    SnapshotStart,
    StickyPerturb,
    Told,
    Where,
)
from worldsim.scenario.support import check_world

RANDOM = {"_target_": "worldsim.policies.random.RandomPolicy"}
PURSUIT = "worldsim.policies.pursuit.PurePursuit"


def parse(name: str = "one", /, **keys: Any) -> Scenario:
    return parse_scenario(name, {"policy": RANDOM, **keys}, where="here")


def scripts(scenario: Scenario, root_seed: int = 0) -> list[Any]:
    jobs = [EpisodeJob(e.id, e.seed, 1, e.scenario, params=json.loads(json.dumps(e.params()))) for e in expand([scenario], root_seed)]
    return [script(job, json.loads(json.dumps(scenario.body))) for job in jobs]


def mistakes(**keys: Any) -> str:
    with pytest.raises(ScenarioError) as caught:
        parse(**keys)
    return str(caught.value)


# ---------------------------------------------------------------- what it becomes


def test_nothing_said_is_a_random_start_and_no_disturbance() -> None:
    (told,) = scripts(parse())
    assert (told.initial, told.conditioning, told.perturb, told.events, told.horizon) == (RandomStart(), None, (), (), 128)
    assert told.policies == {"RandomPolicy": RANDOM}
    assert told.policy == "RandomPolicy"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("random", RandomStart()),
        ("generate", GeneratedStart()),
        (3, ContextStart(3)),
        ({"clip": {"dataset": "d", "episode": 2, "step": 5}}, ClipStart("d", 2, 5)),
        ({"clip": {"dataset": "d"}}, ClipStart("d")),
        ({"image": "x.png", "resize": True}, ImageStart("x.png", True)),
        (
            {"dataset": "d", "where": {"tags": ["wet"], "numbers": {"grip": [0, 1]}}},
            DatasetStart("d", Where(("wet",), {"grip": (0.0, 1.0)})),
        ),
        ({"snapshot": "s.safetensors"}, SnapshotStart("s.safetensors")),
    ],
)
def test_starts(written: Any, read: Any) -> None:
    assert scripts(parse(initial=written))[0].initial == read


def test_disturbances_in_their_order() -> None:
    perturb = [
        {"kind": "delay", "steps": 3, "start": 5, "stop": 9},
        {"kind": "noise", "gaussian": 0.1, "epsilon": 0.2},
        {"kind": "sticky", "p": 0.25},
        {"kind": "dropout", "p": 0.1, "steps": 4, "fill": "hold"},
        {"kind": "bias", "amount": [0.1, 0, 0]},
        {"kind": "bias", "amount": 1},
    ]
    assert scripts(parse(perturb=perturb))[0].perturb == (
        DelayPerturb(steps=3, start=5, stop=9),
        NoisePerturb(gaussian=0.1, epsilon=0.2),
        StickyPerturb(p=0.25),
        DropoutPerturb(p=0.1, steps=4, fill="hold"),
        BiasPerturb(amount=(0.1, 0.0, 0.0)),
        BiasPerturb(amount=(1.0,)),
    )


def test_events() -> None:
    events = [
        {"when": {"step": 3}, "do": {"switch": "b"}},
        {"when": {"time": 1.5}, "do": [{"action": [None, 0, 1], "for": 4}, {"condition": {"tags": ["dark"]}}]},
        {"when": {"rate": 0.1, "per": "step", "after": 9}, "do": {"frame": {"drop": True, "occlude": {"box": [0, 0, 0.5, 1]}}, "for": 2}},
        {"when": {"predicate": "speed > 3 and action[0] < 0.5", "times": 2}, "do": [{"cut": 4}, {"stop": "too fast"}]},
    ]
    told = scripts(parse(policy="a", policies={"a": RANDOM, "b": RANDOM}, events=events))[0]
    assert told.events == (
        Event(When(step=3, times=1), (Switch("b"),)),
        Event(When(time=1.5, times=1), (Override([None, 0, 1], 4), Condition(Told(tags=("dark",))))),
        Event(When(rate=0.1, per="step", after=9), (EditFrames(FrameEdit(drop=True, occlude=Occlude((0.0, 0.0, 0.5, 1.0))), 2),)),
        Event(When(predicate="speed > 3 and action[0] < 0.5", times=2), (Cut(ContextStart(4)), Stop("too fast"))),
    )
    assert (told.policy, set(told.policies)) == ("a", {"a", "b"})


def test_a_fork_becomes_siblings_with_one_branch_each() -> None:
    fork = {"when": {"step": 5}, "do": [{"condition": {"text": "rain"}}, {"fork": [[], [{"stop": "left"}], {"switch": "a"}]}]}
    scenario = parse(policy="a", policies={"a": RANDOM}, events=[fork], seeds=2)
    rain = Condition(Told(text="rain"))
    effects = [told.events[0].do for told in scripts(scenario)]
    assert effects == [(rain,), (rain, Stop("left")), (rain, Switch("a"))] * 2
    episodes = list(expand([scenario]))
    assert [(e.id, e.branch, e.parent) for e in episodes[:4]] == [(0, 0, None), (1, 1, 0), (2, 2, 0), (3, 0, None)]
    assert len({e.seed for e in episodes[:3]}) == 1
    assert len({e.sha256 for e in episodes}) == 6


def test_filters_and_expectations() -> None:
    told = scripts(
        parse(
            require={"after": ["length >= 20", {"that": "max(speed) < 90", "else": "mark", "reason": "fast"}]},
            expect=[{"name": "slow", "that": "mean(offset) < 2", "share": 0.9}, "terminated == false"],
        )
    )[0]
    assert told.filters == (Filter("length >= 20"), Filter("max(speed) < 90", "mark", "fast"))
    assert told.expects == (Expect("slow", "mean(offset) < 2", 0.9), Expect("terminated == false", "terminated == false"))


def test_names_take_their_values_with_their_types() -> None:
    scenario = parse(
        policy={"_target_": PURSUIT, "speeds": ["$low", 60]},
        conditioning={"tags": ["$weather"], "numbers": {"grip": "$grip"}, "text": "a $weather road, $$5, $grip"},
        horizon="$steps",
        events=[{"when": {"predicate": "speed > $low"}, "do": {"stop": "$weather"}}],
        variants={"list": [{"low": 20, "grip": 0.5, "weather": 'so "wet"', "steps": 7}]},
    )
    (told,) = scripts(scenario)
    assert told.policies["PurePursuit"]["speeds"] == [20, 60]
    assert told.conditioning == Conditioning(('so "wet"',), {"grip": 0.5}, 'a so "wet" road, $5, 0.5')
    assert (told.horizon, told.events[0].when.predicate, told.events[0].do) == (7, "speed > 20", (Stop('so "wet"'),))
    (episode,) = expand([scenario])
    assert episode.resolved()["conditioning"]["text"] == told.conditioning.text


def test_earlier_spellings_mean_what_they_meant() -> None:
    old = parse(context=3, action_noise={"gaussian": 0.1, "sticky": 0.5}, count=4)
    new = parse(initial=3, perturb=[{"kind": "noise", "gaussian": 0.1}, {"kind": "sticky", "p": 0.5}], seeds=4)
    assert old == new
    plan = {"policy": RANDOM, "action_noise": {"sticky": 0.5}, "context": "random", "seeds": [], "count": 1, "name": "x", "horizon": 9}
    assert script(EpisodeJob(0, 1, 9, "x"), plan).perturb == (StickyPerturb(p=0.5),)


def test_what_is_shown_reads_back_the_same(tmp_path: Path) -> None:
    scenario = parse(
        variants={"grid": {"a": [1, 2]}}, randomize={"b": {"uniform": [0, 1]}}, seeds=[3], require={"before": "b < 0.9"}, weight=2
    )
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump({"one": scenario.to_json()}))
    assert load_scenarios(file) == [scenario]


def test_descriptions_come_from_the_key_or_the_comment_above(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    policy = f"policy: {{_target_: {RANDOM['_target_']}}}"
    file.write_text(f"# Wet and slow.\n# More of it.\nwet:\n  {policy}\n\ndry:\n  description: Dry.\n  {policy}\nbare:\n  {policy}\n")
    assert [scenario.description for scenario in load_scenarios(file)] == ["Wet and slow.", "Dry.", ""]
    packed = tmp_path / "packed.yaml"
    packed.write_text(f"# @package scenario.storm\n# A storm.\n{policy}\n")
    assert [(scenario.name, scenario.description) for scenario in load_scenarios(packed)] == [("storm", "A storm.")]


def test_the_world_that_a_scenario_is_for() -> None:
    drive, reach = parse(), parse(world="arm")
    other = replace(drive, name="two")
    assert (drive.world, reach.world, reach.to_json()["world"]) == ("", "arm", "arm")
    assert "world" not in drive.to_json()
    assert world_of([drive, other], None, default="road") == "road"
    assert world_of([reach], None, default="road") == "arm"
    assert world_of([drive, reach], "mine", default="road") == "mine"
    assert [episode.sha256 for episode in expand([drive])] == [episode.sha256 for episode in expand([reach])]
    with pytest.raises(ScenarioError, match=r"'two' is for world road, 'one' for arm: run them apart, or choose"):
        world_of([other, reach], None, default="road")
    with pytest.raises(ScenarioError, match=r"'one': world=someone/else is not on this machine: choose it yourself"):
        world_of([parse(world="someone/else")], None, default="road")
    assert world_of([parse(world="someone/else")], "someone/else", default="road") == "someone/else"
    with pytest.raises(ScenarioError, match="world=3 must be text"):
        parse(world=3)


# ---------------------------------------------------------------- mistakes


def test_all_mistakes_are_told_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("""\
one:
  policy:
    _target_: worldsim.policies.pursuit.PurePursuit
    speds: [1, 2]
  perturb:
    - kind: stiky
    - {kind: sticky, p: 2}
  horizn: 3
two:
  policy: {_target_: os.system}
  initial: {clip: {dataste: x}}
""")
    with pytest.raises(ScenarioError) as caught:
        load_scenarios(file)
    lines = caught.value.problems
    for start, words in [
        (f"{file}:4: scenario 'one': policy.speds", "did you mean 'speeds'"),
        (f"{file}:6: scenario 'one': perturb.0: kind='stiky'", "did you mean 'sticky'"),
        (f"{file}:7: scenario 'one': perturb.1.p=2 ", "must be a number in 0..1"),
        (f"{file}:8: scenario 'one': key 'horizn'", "did you mean 'horizon'"),
        (f"{file}:10: scenario 'two': policy._target_", "'os.system' is not allowed"),
        (f"{file}:11: scenario 'two': initial.clip: key 'dataste'", "did you mean 'dataset'"),
        (f"{file}:11: scenario 'two': initial.clip has no 'dataset'", "add it"),
    ]:
        assert any(line.startswith(start) and words in line for line in lines), (start, lines)
    assert str(caught.value) == "\n".join(lines)


def test_mistakes_of_several_files_come_together(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(f"{name}: {{policy: 3}}\n")
    (tmp_path / "c").write_text("x: [1")
    with pytest.raises(ScenarioError) as caught:
        load_many([tmp_path / "a", tmp_path / "b", tmp_path / "c", tmp_path / "d"])
    assert [line.split(":")[0] for line in caught.value.problems] == [str(tmp_path / name) for name in "abcd"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"initial": "rndom"}, r"initial='rndom' must be .* did you mean 'random'"),
    ({"initial": []}, r"initial has 0 items: it must have 1"),
    ({"initial": {"image": "a", "snapshot": "b"}}, r"initial=.* must have exactly one of the keys"),
    ({"initial": {"dataset": "d", "where": {"tag": []}}}, r"initial.where: key 'tag' is unknown: did you mean 'tags'"),
    ({"initial": {"dataset": "d", "where": {"numbers": {"x": [2, 1]}}}}, r"where.numbers.x=\[2, 1\] must be \[lowest, highest\]"),
    ({"perturb": [{"kind": "sticky", "p": 0.1, "start": 9, "stop": 9}]}, r"perturb.0.stop=9 must be after start=9"),
    ({"perturb": [{"kind": "delay", "p": 3}]}, r"perturb.0: key 'p' is unknown: Allowed: start, steps, stop"),
    ({"perturb": [{"p": 3}]}, r"perturb.0: there is no 'kind'"),
    ({"events": [{"when": {"step": 3}}]}, r"events.0 has no 'do'"),
    (
        {"events": [{"when": {"step": 1, "time": 2}, "do": {"stop": "x"}}]},
        r"events.0.when=.* exactly one of the keys step, time, rate, predicate",
    ),
    ({"events": [{"when": {"stp": 1}, "do": {"stop": "x"}}]}, r"events.0.when: key 'stp' is unknown: did you mean 'step'"),
    ({"events": [{"when": {"rate": 2, "per": "step"}, "do": {"stop": "x"}}]}, r"rate=2 must be at most 1 a step"),
    ({"events": [{"when": {"step": 1}, "do": {"swich": "x"}}]}, r"events.0.do.0|did you mean 'switch'"),
    ({"events": [{"when": {"step": 1}, "do": {"switch": "RandomPolcy"}}]}, r"did you mean 'RandomPolicy'"),
    ({"events": [{"when": {"step": 1}, "do": {"stop": "x", "for": 3}}]}, r"key 'for' is unknown"),
    ({"events": [{"when": {"step": 1}, "do": {"frame": {"occlude": {"box": [0.5, 0, 0.2, 1]}}}}]}, r"box=.* left < right"),
    ({"events": [{"when": {"step": 1}, "do": {"fork": [[]]}}]}, r"fork has 1 items: it must have 2"),
    ({"events": [{"when": {"step": 1}, "do": {"fork": [[], [{"fork": [[], []]}]]}}]}, r"a scenario forks once"),
    ({"events": [{"when": {"step": 1}, "do": {"fork": [[], []]}}] * 2}, r"events fork more than once"),
    ({"events": [{"when": {"predicate": "speed >"}, "do": {"stop": "x"}}]}, r"predicate: 'speed >' is no expression"),
    ({"events": [{"when": {"predicate": "mean(speed) > 3"}, "do": {"stop": "x"}}]}, r"there is no function 'mean'"),
    ({"expect": [{"name": "a", "that": "meen(speed) < 3"}]}, r"there is no function 'meen': did you mean 'mean'"),
    ({"expect": [{"name": "a", "that": "length > 3", "share": 0}]}, r"share=0 must be a number above 0, at most 1"),
    ({"record": ["frams"]}, r"record.0='frams' is no stream: did you mean 'frames'"),
    ({"record": ["state"]}, r"record=\['state'\] must have 'frames'"),
    ({"fps": 0}, r"fps=0 must be a number above 0"),
    ({"horizon": "$stps", "randomize": {"steps": {"choice": [1]}}}, r"nothing defines \$stps: did you mean 'steps'"),
    (
        {"conditioning": {"text": "a $wether"}, "randomize": {"weather": {"choice": [1]}}},
        r"nothing defines \$wether: did you mean 'weather'",
    ),
    ({"randomize": {"x": {"unifrm": [0, 1]}}}, r"randomize.x: key 'unifrm' is unknown: did you mean 'uniform'"),
    ({"randomize": {"x": {"uniform": [1, 0]}}}, r"uniform=\[1, 0\] must be \[low, high\] with low < high"),
    ({"randomize": {"x": {"uniform": [1]}}}, r"uniform has 1 items"),
    ({"randomize": {"x": {"loguniform": [0, 1]}}}, r"low above 0"),
    ({"randomize": {"x": {"normal": [0, 0]}}}, r"std above 0"),
    ({"randomize": {"x": {"choice": []}}}, r"choice has 0 items"),
    ({"randomize": {"x": {"weighted": {"a": -1}}}}, r"weighted.a=-1 must be a number, 0 or more"),
    ({"randomize": {"x": {"weighted": {"a": 0}}}}, r"must have a weight above 0"),
    ({"randomize": {"x": {"range": [0, 1, 0]}}}, r"step above 0"),
    ({"randomize": {"seed": {"choice": [1]}}}, r"'seed' has a meaning of its own"),
    ({"randomize": {"a b": {"choice": [1]}}}, r"'a b' is no name"),
    ({"randomize": {"a": {"uniform": [0, "$b"]}, "b": {"choice": [1]}}}, r"nothing defines \$b"),
    ({"randomize": {"a": {"choice": [1]}}, "variants": {"grid": {"a": [1]}}}, r"'a' has a value from 'variants' already"),
    ({"variants": {"gird": {}}}, r"variants: key 'gird' is unknown: did you mean 'grid'"),
    ({"variants": {"zip": {"a": [1], "b": [1, 2]}}}, r"zip has lists of 1 \(a\), 2 \(b\) values: they must be equally long"),
    ({"variants": {"list": [{"a": 1}, {"b": 1}]}}, r"every variant must have those of the first"),
    ({"variants": {"sobol": {"ranges": {"a": [0, 1]}}}}, r"sobol has no 'n'"),
    ({"variants": {"sobol": {"ranges": {"a": [1, 0]}, "n": 4}}}, r"low < high"),
    ({"variants": {"grid": {"p": [0.5, 2]}}, "perturb": [{"kind": "sticky", "p": "$p"}]}, r'perturb.0.p=2 must be .*with \{"p":2\}'),
    (
        {"randomize": {"p": {"uniform": [0, 2]}}, "perturb": [{"kind": "sticky", "p": "$p"}]},
        r"perturb.0.p=1\.99\d* must be a number in 0\.\.1",
    ),
    ({"randomize": {"p": {"uniform": [0, 2]}}, "require": {"before": ["q < 1"]}}, r"require.before.0: 'q < 1' reads 'q'"),
    ({"randomize": {"p": {"uniform": [0, 2]}}, "require": {"before": ["p > 3"]}}, r"none of 100 draws meets require.before 'p > 3'"),
    ({"seeds": [1, 1]}, r"seeds names a seed twice"),
    ({"seeds": "many"}, r"seeds='many' must be a list"),
    ({"context": 1, "initial": 1}, r"context and 'initial' say the same: keep 'initial'"),
    ({"policy": "b", "policies": {"a": RANDOM}}, r"policy='b' is none of the policies: Allowed: a"),
    ({"policy": {"_target_": "worldsim.episode.Conditioning"}}, r"is no policy: it takes no action_space"),
    ({"policy": {"_target_": "worldsim.policies.rnd.X"}}, r"'worldsim.policies.rnd.X' does not exist"),
    ({"policy": {**RANDOM, "hold": "$h"}}, r"nothing defines \$h"),
    ({"randomize": {"p": {"choice": [{"_target_": "os.system"}]}}}, r"_target_ is no key of a value"),
]


@pytest.mark.parametrize(("keys", "message"), WRONG, ids=lambda value: str(value)[:60])
def test_a_mistake_names_its_key_and_the_way_out(keys: dict[str, Any], message: str) -> None:
    told = mistakes(**keys)
    assert re.search(message, told), told
    assert told.startswith("here: scenario 'one': ")
    assert len(told) < 2000


# ---------------------------------------------------------------- worlds


def test_a_world_has_its_frame_rate_and_its_names() -> None:
    fits = parse(fps=25, expect=["max(speed) < 3 and length > 2"], conditioning={"tags": ["dark"]})
    world: dict[str, Any] = {"fps": 25.0, "state_names": ("speed",), "tags": ("dark",), "numbers": ("grip",)}
    check_world([fits], **world)
    other = parse(fps=10, expect=["max(sped) < 3"], conditioning={"tags": ["drak"], "numbers": {"grp": 1}})
    with pytest.raises(ScenarioError) as caught:
        check_world([fits, other], **world)
    told = str(caught.value)
    for words in ("fps=10, but the world runs at 25", "reads 'sped'", "did you mean 'speed'", "no tag 'drak'", "did you mean 'grip'"):
        assert words in told
    assert len(caught.value.problems) == 4
