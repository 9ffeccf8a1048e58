"""Before anything is recorded: what scenarios want recorded, and whether a world can do what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from worldsim.datasets.layout import DatasetError
from worldsim.datasets.plan import Plan
from worldsim.datasets.scenarios import start_options
from worldsim.datasets.work import Recipe, build_policy, make_env
from worldsim.episode import Conditioning
from worldsim.rollout import EpisodeJob, reset
from worldsim.scenario import Scenario, Script, script
from worldsim.scenario.director import changed, set_conditioning
from worldsim.scenario.director_actions import check_override, check_perturbs
from worldsim.scenario.events import Condition, Cut, EditFrames, Override
from worldsim.scenario.expressions import EPISODE_FUNCTIONS, EPISODE_SIGNALS, parse_expression

UNCERTAINTY = "uncertainty"
_MOST = 200  # episodes that are tried


def with_streams(recipe: Recipe, scenarios: Sequence[Scenario]) -> Recipe:
    """Return a recipe that also records what any of the scenarios names in ``record``: a dataset holds the same for all of them."""
    wanted = {name for scenario in scenarios for name in scenario.body["record"]}
    latents = "beside" if "latents" in wanted and recipe.latents == "none" else recipe.latents
    return replace(recipe, latents=latents, labels=recipe.labels or "labels" in wanted)


def with_state(recipe: Recipe, scenarios: Sequence[Scenario]) -> Recipe:
    """Return a recipe that stores as much of the labelled state as any of the scenarios names in ``record``.

    Raises:
        DatasetError: ``uncertainty`` is wanted of a world that does not foretell its errors.
    """
    wanted = {name for scenario in scenarios for name in scenario.body["record"]}
    if UNCERTAINTY in wanted and UNCERTAINTY not in recipe.state_names:
        names = [scenario.name for scenario in scenarios if UNCERTAINTY in scenario.body["record"]]
        raise DatasetError(f"scenario {names[0]!r} records uncertainty, which the world does not foretell: take it out of 'record'")
    if "state" in wanted:
        return recipe
    return replace(recipe, stored=(UNCERTAINTY,) if UNCERTAINTY in wanted else ())


def rehearse(plan: Plan, recipe: Recipe) -> None:
    """Try every scenario's starts, policies and effects once in a world of one row, without a step.

    Raises:
        DatasetError: Something does not fit the world; names the scenario.
    """
    env = make_env(replace(recipe, rows=1))
    try:
        for job in _samples(plan):
            told = script(job, plan.scenarios[job.scenario])
            try:
                _try(env, job, told, recipe)
            except DatasetError:
                raise
            except (ValueError, gym.error.Error) as error:
                raise DatasetError(f"scenario {job.scenario!r}: {error}") from error
    finally:
        env.close()


def _samples(plan: Plan) -> Iterator[EpisodeJob]:
    """Yield the first episode of every scenario, start and branch."""
    seen: set[Any] = set()
    for job in plan.jobs:
        key = job.scenario, job.params.get("draws", {}).get("initial"), job.params.get("branch")
        if key not in seen and len(seen) < _MOST:
            seen.add(key)
            yield job


def _try(env: VectorEnv[Any, Any, Any], job: EpisodeJob, told: Script, recipe: Recipe) -> None:
    space = env.single_action_space
    _check_names(told, recipe)
    check_perturbs(space, told.perturb)
    for config in told.policies.values():
        build_policy(recipe, config, {}, space)
    _reset(env, job.seed, job.options)
    for effect in (effect for event in told.events for effect in event.do):
        match effect:
            case Override(action=action):
                check_override(space, action)
            case Condition(told=change):
                set_conditioning(env, [0], [changed(Conditioning(), [change])])
            case Cut(to=start):
                _reset(env, job.seed, start_options(start, job.seed))
            case EditFrames() if recipe.latents == "instead":
                raise ValueError("frames are edited, and record.latents=instead makes none: use record.latents=beside")
            case _:
                pass


def _reset(env: VectorEnv[Any, Any, Any], seed: int, options: Mapping[str, Any]) -> None:
    reset(env, seeds=[seed], options={"rows": [dict(options)]} if options else None)


def _check_names(told: Script, recipe: Recipe) -> None:
    """Refuse expressions that read what the world does not tell."""
    lines = [event.when.predicate for event in told.events if event.when.predicate is not None]
    known = {name for name in EPISODE_SIGNALS if name != UNCERTAINTY} | {*recipe.state_names}
    for line in (*lines, *(one.that for one in told.filters), *(one.that for one in told.expects)):
        parse_expression(line, functions=EPISODE_FUNCTIONS).check_names(known)
