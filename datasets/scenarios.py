"""From scenarios to a plan: the episodes of ``worldsim generate``, and who drives each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from worldsim.datasets.layout import DatasetError
from worldsim.datasets.plan import Plan, make_plan
from worldsim.datasets.reader import EpisodeReader
from worldsim.episode import Conditioning
from worldsim.rollout import EpisodeJob
from worldsim.scenario import Scenario, expand
from worldsim.scenario.director_random import stream
from worldsim.scenario.parts import (
    ClipStart,
    ContextStart,
    DatasetStart,
    GeneratedStart,
    ImageStart,
    SnapshotStart,
    Start,
    Where,
)
from worldsim.scenario.script import Script, script
from worldsim.scenario.template import Template

_STATIC = ("initial", "conditioning", "policy", "horizon")


def plan_scenarios(scenarios: Sequence[Scenario], *, root_seed: int, batch: int) -> Plan:
    """Expand scenarios to episodes; the plan holds each scenario's body once, and of each episode what its values are.

    Raises:
        ValueError: There are too many episodes, or a start's query finds nothing.
    """
    bodies = {scenario.name: scenario.body for scenario in scenarios}
    known: dict[str, Script] = {}
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
            known[key] = script(job, bodies[episode.scenario])
        told = known[key]
        jobs.append(
            EpisodeJob(
                id=episode.id,
                seed=episode.seed,
                horizon=told.horizon,
                scenario=episode.scenario,
                policy=told.policy,
                options=_options(told, episode.seed),
                conditioning=told.conditioning or Conditioning(),
                params=params,
            )
        )
    return make_plan(jobs, batch=batch, scenarios=bodies)


def is_scripted(scenario: Mapping[str, Any]) -> bool:
    """Whether a plan's scenario says what happens; else it is a recording from a source: one policy and one noise."""
    return "policies" in scenario


def driver_of(scenario: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the configs of the policy that records a source, and of the noise around it (empty for none)."""
    return scenario["policy"], scenario.get("action_noise") or {}


def _options(told: Script, seed: int) -> dict[str, Any]:
    """Reset options of a row: ``context`` and ``conditioning``, where the scenario sets them."""
    options = start_options(told.initial, seed)
    if told.conditioning is not None:
        options["conditioning"] = told.conditioning.to_json()
    return options


def start_options(start: Start, seed: int) -> dict[str, Any]:
    """Return the reset options of a row that starts there; ``seed`` draws the episode that a query leaves open.

    Raises:
        ValueError: A query finds nothing, or its dataset cannot be read.
    """
    context = _queried(start, seed) if isinstance(start, DatasetStart) and start.where is not None else _context(start)
    return {} if context is None else {"context": context}


def _queried(start: DatasetStart, seed: int) -> dict[str, Any]:
    assert start.where is not None
    found = _matching(start.dataset, start.where)
    if not found:
        raise DatasetError(
            f"initial: no episode of dataset {start.dataset} is {_asked(start.where)}: ask for less, or take another dataset"
        )
    return {**_context(start), "episode": found[int(stream(seed, 0, "initial").integers(len(found)))]}


def _matching(dataset: str, where: Where) -> list[int]:
    """Return the indices of the usable episodes that a query finds."""
    key = dataset, repr(where)
    if key not in _FOUND:
        if len(_FOUND) >= 100:
            _FOUND.clear()
        records = EpisodeReader(dataset, decode=False).records
        _FOUND[key] = [index for index, record in enumerate(records) if _matches(record, where)]
    return _FOUND[key]


_FOUND: dict[tuple[str, str], list[int]] = {}


def _matches(record: Mapping[str, Any], where: Where) -> bool:
    told = Conditioning.from_json(record.get("conditioning") or {})
    return (
        set(where.tags) <= set(told.tags)
        and (not where.scenarios or record["scenario"] in where.scenarios)
        and (not where.policies or record["policy"] in where.policies)
        and all(name in told.numbers and low <= told.numbers[name] <= high for name, (low, high) in where.numbers.items())
    )


def _asked(where: Where) -> str:
    return ", ".join(f"{name}={value}" for name, value in asdict(where).items() if value)


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
        case SnapshotStart(snapshot=path):
            return {"snapshot": path}
        case GeneratedStart():
            return "generate"
        case _:
            return None
    return {key: value for key, value in given.items() if value is not None}
