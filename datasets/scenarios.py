"""From scenarios to a plan: the episodes of ``worldsim generate``, and who drives each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worldsim.datasets.plan import Plan, make_plan
from worldsim.episode import Conditioning
from worldsim.rollout import EpisodeJob
from worldsim.scenario import Scenario, expand, refuse_unsupported
from worldsim.scenario.parts import ClipStart, ContextStart, DatasetStart, ImageStart, NoisePerturb, Perturb, Start, StickyPerturb
from worldsim.scenario.script import Script, script
from worldsim.scenario.template import Template

_STATIC = ("initial", "conditioning", "policy", "horizon")


def plan_scenarios(scenarios: Sequence[Scenario], *, root_seed: int, batch: int) -> Plan:
    """Expand scenarios to episodes; the plan holds each scenario's body once, and of each episode what its values are.

    Raises:
        ValueError: A scenario uses what cannot run yet, or there are too many episodes.
    """
    refuse_unsupported(scenarios)
    bodies = {scenario.name: scenario.body for scenario in scenarios}
    known: dict[str, tuple[Script, dict[str, Any]]] = {}
    templates = {name: Template({key: body[key] for key in _STATIC}) for name, body in bodies.items()}
    jobs = []
    for episode in expand(scenarios, root_seed):
        params = episode.params()
        job = EpisodeJob(episode.id, episode.seed, 1, episode.scenario, params=params)
        # Most episodes of a scenario start alike: what they have in common is worked out once.
        values = {**episode.values, **episode.draws, "seed": episode.seed}
        key = f"{episode.scenario}\0{templates[episode.scenario].text(values)}\0{episode.draws.get('initial')}"
        if key not in known:
            if len(known) >= 1000:
                known.clear()
            told = script(job, bodies[episode.scenario])
            known[key] = told, _options(told)
        told, options = known[key]
        jobs.append(
            EpisodeJob(
                id=episode.id,
                seed=episode.seed,
                horizon=told.horizon,
                scenario=episode.scenario,
                policy=told.policy,
                options=options,
                conditioning=told.conditioning or Conditioning(),
                params=params,
            )
        )
    return make_plan(jobs, batch=batch, scenarios=bodies)


def driver_of(job: EpisodeJob, scenario: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the configs of an episode's policy and of the noise around it (empty for none), as its plan says.

    Raises:
        ValueError: The plan's scenario cannot be read.
    """
    if "policies" not in scenario:  # recorded from a source: one policy and one noise for all of its episodes
        return scenario["policy"], scenario.get("action_noise") or {}
    told = script(job, scenario)
    return told.policies[told.policy], _noise(told.perturb)


def _noise(perturb: Sequence[Perturb]) -> dict[str, float]:
    amounts: dict[str, float] = {}
    for part in perturb:
        if isinstance(part, NoisePerturb):
            amounts |= {"gaussian": part.gaussian, "epsilon": part.epsilon}
        elif isinstance(part, StickyPerturb):
            amounts["sticky"] = part.p
    return amounts


def _options(told: Script) -> dict[str, Any]:
    """Reset options of a row: ``context`` and ``conditioning``, where the scenario sets them."""
    context = _context(told.initial)
    options: dict[str, Any] = {} if context is None else {"context": context}
    if told.conditioning is not None:
        options["conditioning"] = told.conditioning.to_json()
    return options


def _context(start: Start) -> Any:
    given: dict[str, Any]
    match start:
        case ContextStart(index=index):
            return index
        case ClipStart():
            given = {"dataset": start.dataset, "episode": start.episode, "start": start.step, "resize": start.resize or None}
        case ImageStart():
            given = {"frames": start.image, "resize": start.resize or None}
        case DatasetStart():
            given = {"dataset": start.dataset, "resize": start.resize or None}
        case _:
            return None
    return {key: value for key, value in given.items() if value is not None}
