"""Record a real simulator: ``worldsim collect``."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from worldsim.datasets.batch import close_run, probe, run_plan
from worldsim.datasets.layout import DatasetError
from worldsim.datasets.plan import Plan, make_plan
from worldsim.datasets.progress import Meter
from worldsim.datasets.reader import EpisodeReader, read_commits
from worldsim.datasets.storage import Root, place
from worldsim.datasets.work import Recipe
from worldsim.datasets.writer import make_spec
from worldsim.episode import Conditioning
from worldsim.rollout import EpisodeJob

_OWN_KEYS = ("name", "env", "licence")


def main(cfg: DictConfig) -> None:
    """Record by a composed ``configs/collect.yaml``; see there for the keys.

    Raises:
        ValueError: A value is out of range, the source cannot be recorded, or the folder cannot be written.
    """
    collect(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]


def collect(cfg: Mapping[str, Any], *, console: Console | None = None) -> EpisodeReader:
    """Record a source until ``cfg["frames"]`` frames are there.

    Args:
        cfg: The keys of ``configs/collect.yaml``.
        console: Where progress is shown; default: standard output.

    Returns:
        The dataset, open for reading.

    Raises:
        ValueError: A value is out of range, the source cannot be recorded, or the folder cannot be written.
    """
    console = console or Console()
    for name in ("frames", "horizon"):
        if int(cfg[name]) < 1:
            raise DatasetError(f"{name}={cfg[name]} must be 1 or more")
    scenarios = policy_mix(cfg["policy"], cfg.get("action_noise_strength") or {}, int(cfg["horizon"]))
    source = {key: value for key, value in cfg["source"].items() if key not in _OWN_KEYS}
    wrappers = (cfg["watch"],) if cfg.get("watch") else ()
    labels = bool((cfg.get("record") or {}).get("labels"))
    recipe = Recipe(cfg["source"]["env"], source, wrappers=wrappers, noise=cfg.get("action_noise") or {}, labels=labels)
    found = probe(recipe, seed=int(cfg["seed"]))
    recipe = replace(recipe, state_names=found.state_names)
    spec = make_spec(
        name=cfg["source"]["name"],
        frame_size=found.frame_size,
        fps=found.fps,
        action_space=found.action_space,
        state_names=found.state_names,
        source={"id": recipe.env, "kwargs": dict(recipe.kwargs)},
        licence=cfg["source"].get("licence") or "unknown",
        root_seed=int(cfg["seed"]),
        labels=found.labels,
    )
    meter = Meter(f"recording {cfg['source']['name']}", console=console)
    path = place(cfg["out"])
    workers = int(cfg.get("workers") or os.cpu_count() or 1)
    plan: Plan | None = None
    while (missing := _missing_episodes(path, plan, cfg)) > 0:
        plan = _extend(plan, scenarios, missing, seed=int(cfg["seed"]), horizon=int(cfg["horizon"]))
        plan = run_plan(path, spec, plan, recipe, workers=workers, meter=meter)
    return close_run(path, meter, console, preview=bool((cfg.get("writer") or {}).get("preview")))


@dataclass(frozen=True)
class Driver:
    """Who drives a share of the episodes.

    Attributes:
        name: Stands in place of a scenario's name.
        policy: Config of the policy, with its ``_target_``.
        action_noise: Keywords of the action noise around it; empty for none.
        horizon: Most steps of an episode.
        weight: Share of the episodes.
    """

    name: str
    policy: Mapping[str, Any]
    action_noise: Mapping[str, Any]
    horizon: int
    weight: float

    def to_json(self) -> dict[str, Any]:
        """Describe it as plans have held it from the first release on, so that recordings go on."""
        return {**asdict(self), "context": "random", "seeds": [], "count": 1, "conditioning": Conditioning().to_json()}


def policy_mix(config: Mapping[str, Any], noise: Mapping[str, Any], horizon: int) -> list[Driver]:
    """Turn the ``policy`` group into drivers: one policy, or a ``mix`` of them with weights.

    Raises:
        ValueError: A weight is not above 0, or two parts of a mix have the same name.
    """
    parts = config.get("mix") or [{"name": config.get("name", "policy"), "policy": {k: v for k, v in config.items() if k != "name"}}]
    names = [part["name"] for part in parts]
    if len(set(names)) < len(names):
        raise DatasetError(f"policy.mix has two parts of one name among {names}: name each once")
    for part in parts:
        if not float(part.get("weight", 1)) > 0:
            raise DatasetError(f"policy.mix: weight={part['weight']} of {part['name']!r} must be above 0")
    return [
        Driver(
            name=part["name"],
            policy=part["policy"],
            action_noise={**noise, **part.get("action_noise", {})},
            horizon=horizon,
            weight=float(part.get("weight", 1)),
        )
        for part in parts
    ]


def _missing_episodes(path: Root, plan: Plan | None, cfg: Mapping[str, Any]) -> int:
    """How many more episodes to plan: full ones at first, then by the mean length of what came."""
    frames = int(cfg["frames"])
    if plan is None:
        return math.ceil(frames / (int(cfg["horizon"]) + 1))
    records = read_commits(path)[: len(plan.jobs)]
    there = sum(int(record["frames"]) for record in records if record["status"] == "ok")
    if there == 0:
        raise DatasetError(f"none of the {len(records)} episodes is usable; the first reason: {records[0]['reason']}")
    return math.ceil((frames - there) * len(records) / there)


def _extend(plan: Plan | None, scenarios: Sequence[Driver], count: int, *, seed: int, horizon: int) -> Plan:
    first = 0 if plan is None else len(plan.jobs)
    jobs = []
    for i, scenario in enumerate(_in_turn(scenarios, first + count)):
        if i >= first:
            own = int(np.random.SeedSequence([seed, i]).generate_state(1)[0]) >> 1
            jobs.append(EpisodeJob(i, own, horizon, scenario.name, scenario.name))
    if plan is None:
        return make_plan(jobs, scenarios={scenario.name: scenario.to_json() for scenario in scenarios})
    return plan.extended(jobs)


def _in_turn(scenarios: Sequence[Driver], count: int) -> list[Driver]:
    """Deal ``count`` episodes out by weight, evenly over time."""
    shares = np.array([scenario.weight for scenario in scenarios]) / sum(scenario.weight for scenario in scenarios)
    dealt = np.zeros(len(scenarios))
    order = []
    for i in range(count):
        pick = int(np.argmax(shares * (i + 1) - dealt))
        dealt[pick] += 1
        order.append(scenarios[pick])
    return order
