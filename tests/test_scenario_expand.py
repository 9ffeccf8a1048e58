"""Expansion: the same file gives the same episodes everywhere, and a change moves what it changes alone."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from worldsim.datasets.plan import plan_from_json
from worldsim.datasets.scenarios import plan_scenarios
from worldsim.scenario import (
    ConcreteEpisode,
    Scenario,
    ScenarioError,
    check_size,
    expand,
    load_scenarios,
    parse_scenario,
    plan_hash,
    script,
)
from worldsim.scenario.distributions import make_draw, uniform
from worldsim.scenario.parts import StickyPerturb
from worldsim.scenario.template import canonical

RANDOM = {"_target_": "worldsim.policies.random.RandomPolicy"}
GOLDEN = Path(__file__).parent / "golden" / "scenarios.yaml"
GOLDEN_HASH = "634f13e7495a5ccede55d09c6d5a18316653ea1f6c028a3432b7a8f6a7868049"


def parse(name: str = "one", /, **keys: Any) -> Scenario:
    return parse_scenario(name, {"policy": RANDOM, **keys}, where="here")


def episodes(*scenarios: Scenario, root_seed: int = 0) -> list[ConcreteEpisode]:
    return list(expand(scenarios, root_seed))


def drawn(**keys: Any) -> list[ConcreteEpisode]:
    return episodes(parse(**keys))


SWEEP: dict[str, Any] = {
    "randomize": {"x": {"uniform": [0, 1]}, "y": {"normal": [0, 1]}},
    "variants": {"grid": {"a": [1, 2], "b": ["p", "q"]}},
    "seeds": 3,
}


# ---------------------------------------------------------------- the same, and other


def test_a_file_expands_to_the_same_episodes_on_every_machine() -> None:
    assert plan_hash(expand(load_scenarios(GOLDEN), 7)) == GOLDEN_HASH


def test_same_seed_same_episodes_and_another_seed_others() -> None:
    first, again, other = (episodes(parse(**SWEEP), root_seed=seed) for seed in (1, 1, 2))
    assert plan_hash(first) == plan_hash(again) != plan_hash(other)
    assert [e.sha256 for e in first] == [e.sha256 for e in again]
    assert not {e.sha256 for e in first} & {e.sha256 for e in other}
    assert len({e.seed for e in first}) == len(first) == 12


def test_listed_seeds_are_those_and_do_not_depend_on_the_root_seed() -> None:
    scenario = parse(**{**SWEEP, "seeds": [5, 9]})
    first, other = episodes(scenario, root_seed=1), episodes(scenario, root_seed=2)
    assert [e.seed for e in first] == [5, 9] * 4
    assert plan_hash(first) == plan_hash(other)


def test_what_is_added_moves_nothing_else() -> None:
    before = {e.sha256 for e in episodes(parse(**SWEEP))}
    more_seeds = episodes(parse(**{**SWEEP, "seeds": 5}))
    more_variants = episodes(parse(**{**SWEEP, "variants": {"grid": {"a": [0, 1, 2], "b": ["o", "p", "q"]}}}))
    more_scenarios = episodes(parse("zero", **SWEEP), parse(**SWEEP))
    for more in (more_seeds, more_variants, more_scenarios):
        assert before < {e.sha256 for e in more}
    named = drawn(**{**SWEEP, "randomize": {"w": {"uniform": [0, 1]}, **SWEEP["randomize"]}})
    assert [(e.draws["x"], e.draws["y"]) for e in named] == [(e.draws["x"], e.draws["y"]) for e in drawn(**SWEEP)]
    points = [[e.values["a"] for e in drawn(variants={"sobol": {"ranges": {"a": [0, 1]}, "n": n}})] for n in (8, 16)]
    assert points[1][:8] == points[0]


def test_the_hash_is_of_the_content_wherever_it_stands() -> None:
    alone, behind = episodes(parse(**SWEEP)), episodes(parse("zero", seeds=5), parse(**SWEEP))[5:]
    assert [e.sha256 for e in alone] == [e.sha256 for e in behind]
    assert [e.id for e in behind] == list(range(5, 17))
    for episode in alone:
        assert hashlib.sha256(canonical(episode.resolved()).encode()).hexdigest() == episode.sha256
    changed = episodes(parse(**SWEEP, horizon=9))
    assert not {e.sha256 for e in changed} & {e.sha256 for e in alone}


def test_equal_variants_are_different_episodes() -> None:
    assert len({e.seed for e in drawn(variants={"list": [{"a": 1}, {"a": 1}]}, seeds=2)}) == 4


# ---------------------------------------------------------------- variants and draws


@pytest.mark.parametrize(
    ("variants", "values"),
    [
        ({"grid": {"a": [1, 2], "b": ["x", "y"]}}, [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]),
        ({"zip": {"a": [1, 2], "b": ["x", "y"]}}, [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]),
        ({"list": [{"a": 1}, {"a": [1, {"b": 2}]}]}, [{"a": 1}, {"a": [1, {"b": 2}]}]),
        ({"grid": {"a": {"range": [0, 1, 0.25]}}}, [{"a": value} for value in (0.0, 0.25, 0.5, 0.75, 1.0)]),
        ({"grid": {"a": {"range": [3, 5]}}}, [{"a": value} for value in (3, 4, 5)]),
    ],
)
def test_variants(variants: Any, values: Any) -> None:
    found = drawn(variants=variants)
    assert [e.values for e in found] == values
    assert [e.variant for e in found] == list(range(len(values)))


def test_sobol_points_fill_their_ranges_evenly() -> None:
    found = drawn(variants={"sobol": {"ranges": {"a": [0, 4], "b": {"choice": ["x", "y"]}}, "n": 64}})
    assert sorted(int(e.values["a"] * 4) for e in found) == sorted(list(range(16)) * 4)
    assert sum(e.values["b"] == "x" for e in found) == 32


@pytest.mark.parametrize(
    ("distribution", "mean", "low", "high"),
    [
        ({"uniform": [2, 4]}, 3, 2, 4),
        ({"loguniform": [1, math.e]}, math.e - 1, 1, math.e),
        ({"normal": [5, 2]}, 5, -9, 19),
        ({"truncnormal": [0, 1, 0, 10]}, math.sqrt(2 / math.pi), 0, 10),
        ({"truncnormal": [0, 1, 8, 9]}, 8.12, 8, 9),
        ({"range": [1, 5]}, 3, 1, 5),
        ({"choice": [1, 2, 6]}, 3, 1, 6),
        ({"weighted": [[1, 3], [5, 1]]}, 2, 1, 5),
    ],
    ids=str,
)
def test_distributions_have_their_mean_and_stay_in_their_range(distribution: Any, mean: float, low: float, high: float) -> None:
    draw = make_draw(distribution)
    values = [draw((i + 0.5) / 2000) for i in range(2000)]
    assert statistics.fmean(values) == pytest.approx(mean, abs=0.01)
    assert low <= min(values) <= max(values) <= high
    assert values == sorted(values)


def test_uniform_numbers_are_a_function_of_their_text() -> None:
    assert uniform("a", 1) == uniform("a", 1) != uniform("a", 2)
    numbers = [uniform("mean", i) for i in range(4000)]
    assert statistics.fmean(numbers) == pytest.approx(0.5, abs=0.02)
    assert 0 < min(numbers) < max(numbers) < 1


def test_draws_may_depend_on_values_and_earlier_draws() -> None:
    found = drawn(
        variants={"grid": {"top": [2, 3]}},
        randomize={"low": {"uniform": [0, 1]}, "high": {"uniform": ["$low", "$top"]}, "one": {"choice": ["$low", "$high"]}},
        seeds=20,
    )
    for e in found:
        assert 0 <= e.draws["low"] <= e.draws["high"] <= e.values["top"]
        assert e.draws["one"] in (e.draws["low"], e.draws["high"])


def test_constraints_reject_and_count() -> None:
    found = drawn(randomize={"x": {"uniform": [0, 1]}, "y": {"uniform": [0, 1]}}, require={"before": ["x + y < 0.5"]}, seeds=50)
    assert all(e.draws["x"] + e.draws["y"] < 0.5 for e in found)
    assert statistics.fmean(e.tries for e in found) == pytest.approx(7, abs=4)
    free = drawn(randomize={"x": {"uniform": [0, 1]}, "y": {"uniform": [0, 1]}}, seeds=50)
    kept = [i for i, e in enumerate(free) if e.draws["x"] + e.draws["y"] < 0.5]
    assert kept == [i for i, e in enumerate(found) if e.tries == 0]


def test_one_of_several_starts_is_drawn() -> None:
    found = drawn(initial=["random", 3, {"image": "$file"}], variants={"grid": {"file": ["a.png"]}}, seeds=60)
    picked = [e.resolved()["initial"] for e in found]
    assert {json.dumps(start) for start in picked} == {'"random"', "3", '{"image": "a.png"}'}
    assert all(10 <= picked.count(start) <= 32 for start in ("random", 3))
    assert [e.draws["initial"] for e in found] == [["random", 3, {"image": "a.png"}].index(start) for start in picked]


# ---------------------------------------------------------------- sizes and plans


def test_too_many_episodes_are_refused_before_any_is_made() -> None:
    wide = {name: {"range": [1, 1000]} for name in "abcd"}
    with pytest.raises(ScenarioError, match=r"1 scenarios expand to 1000000000000 episodes, .* from 'one': at most 10000000"):
        episodes(parse(variants={"grid": wide}))
    assert check_size([parse(seeds=10_000_000)]) == 10_000_000
    with pytest.raises(ScenarioError, match="at most 10000000 are allowed"):
        episodes(parse(seeds=10_000_001))


def test_a_plan_holds_the_scenario_once_and_the_values_of_each_episode() -> None:
    scenario = parse(
        variants={"grid": {"p": [0.1, 0.2]}},
        randomize={"hold": {"choice": [3, 4]}, "grip": {"uniform": [0, 1]}},
        policy={**RANDOM, "hold": [1, "$hold"]},
        perturb=[{"kind": "sticky", "p": "$p"}],
        conditioning={"numbers": {"grip": "$grip"}},
        seeds=3,
    )
    plan = plan_scenarios([scenario], root_seed=4, batch=2)
    again = plan_from_json(json.loads(plan.text()))
    assert again.sha256() == plan.sha256() == plan_scenarios([scenario], root_seed=4, batch=2).sha256()
    assert plan.text().count('"perturb"') == 1
    for job, episode in zip(again.jobs, expand([scenario], 4), strict=True):
        told = script(job, again.scenarios["one"])
        assert told.policies[told.policy]["hold"] == [1, episode.draws["hold"]]
        assert told.perturb == (StickyPerturb(p=episode.values["p"]),)
        assert told.conditioning == job.conditioning
        assert job.conditioning.numbers == {"grip": episode.draws["grip"]}
        assert job.options == {"conditioning": job.conditioning.to_json()}
        assert (job.id, job.seed, job.params["sha256"]) == (episode.id, episode.seed, episode.sha256)


def test_starts_become_reset_options() -> None:
    starts: list[tuple[Any, Any]] = [
        ("random", {}),
        (3, {"context": 3}),
        ({"clip": {"dataset": "d", "episode": 2, "step": 4}}, {"context": {"dataset": "d", "episode": 2, "start": 4}}),
        ({"image": "x.png", "resize": True}, {"context": {"frames": "x.png", "resize": True}}),
        ({"dataset": "d"}, {"context": {"dataset": "d"}}),
    ]
    for written, options in starts:
        assert plan_scenarios([parse(initial=written)], root_seed=0, batch=1).jobs[0].options == options
