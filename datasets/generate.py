"""Run scenarios in a learned world: ``worldsim generate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from worldsim.datasets.batch import Probe, close_run, probe, run_plan
from worldsim.datasets.layout import DatasetError, DatasetSpec
from worldsim.datasets.lock import job_lock
from worldsim.datasets.plan import Plan
from worldsim.datasets.progress import Meter
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.rehearsal import rehearse, with_state, with_streams
from worldsim.datasets.scenarios import plan_scenarios
from worldsim.datasets.storage import place
from worldsim.datasets.work import Recipe, build_policy
from worldsim.datasets.writer import create_dataset, make_spec, write_error
from worldsim.rollout import LATENTS
from worldsim.scenario import check_world, read_scenarios, script, world_of

DEFAULT_WORLD = "carracing-nano"
"""Where scenarios run that name no world."""


def main(cfg: DictConfig) -> None:
    """Generate by a composed ``configs/generate.yaml``; see there for the keys.

    Raises:
        ValueError: A scenario or value is wrong, the world cannot be loaded, or the folder cannot be written.
    """
    generate(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]


def generate(cfg: Mapping[str, Any], *, console: Console | None = None) -> EpisodeReader:
    """Run every scenario with each of its seeds in a world, and write a dataset.

    Args:
        cfg: The keys of ``configs/generate.yaml``.
        console: Where progress is shown; default: standard output.

    Returns:
        The dataset, open for reading.

    Raises:
        ValueError: A scenario or value is wrong, the world cannot be loaded, or the folder cannot be written.
    """
    console = console or Console()
    spec, plan, recipe = prepare(cfg, console)
    meter = Meter("generating", console=console)
    run_plan(cfg["out"], spec, plan, recipe, workers=int(cfg.get("workers") or 1), meter=meter)
    return close_run(cfg["out"], meter, console, preview=bool((cfg.get("writer") or {}).get("preview")))


def plan_dataset(cfg: Mapping[str, Any], *, console: Console | None = None) -> Plan:
    """Write down every episode of a dataset, and record none: a folder that ``worldsim data run`` fills, here or on other machines.

    Args:
        cfg: The keys of ``configs/data_plan.yaml``.
        console: Where the plan is shown; default: standard output.

    Returns:
        The plan.

    Raises:
        ValueError: A scenario or value is wrong, the world cannot be loaded, or the folder holds another plan or cannot be written.
    """
    console = console or Console()
    root = place(cfg["out"])
    spec, plan, recipe = prepare(cfg, console)
    try:
        with job_lock(root):
            plan = create_dataset(root, spec, replace(plan, recipe=recipe.to_json()))
    except OSError as error:
        raise write_error(root, error) from error
    console.print(f"{len(plan.groups())} groups of up to {plan.batch}, plan {plan.sha256()}", soft_wrap=True, markup=False)
    console.print(f"'worldsim data run {root}' records them", soft_wrap=True, markup=False)
    return plan


def prepare(cfg: Mapping[str, Any], console: Console) -> tuple[DatasetSpec, Plan, Recipe]:
    """Plan what ``generate`` would run, and write nothing.

    Args:
        cfg: The keys of ``configs/generate.yaml``.
        console: Where the number of episodes is shown.

    Returns:
        What the dataset would say of itself, its episodes, and how each group of them is made.

    Raises:
        ValueError: A scenario or value is wrong, or the world cannot be loaded.
    """
    if int(cfg["batch"]) < 1:
        raise DatasetError(f"batch={cfg['batch']} must be 1 or more")
    scenarios = read_scenarios(cfg)
    cfg = {**cfg, "world": world_of(scenarios, cfg.get("world"), default=DEFAULT_WORLD)}
    plan = plan_scenarios(scenarios, root_seed=int(cfg["seed"]), batch=int(cfg["batch"]))
    console.print(f"{len(plan.jobs)} episodes of {len(plan.scenarios)} scenarios in world {cfg['world']}")
    rows = min(plan.batch, len(plan.jobs))
    latents = str((cfg.get("record") or {}).get("latents") or "none")
    if latents not in LATENTS:
        raise DatasetError(f"record.latents={latents} must be one of {', '.join(LATENTS)}")
    labels = bool((cfg.get("record") or {}).get("labels"))
    recipe = Recipe(cfg["env"], _world_keywords(cfg), rows=rows, batched=True, latents=latents, labels=labels)
    recipe = with_streams(recipe, scenarios)
    found = probe(recipe, seed=plan.jobs[0].seed, options={"rows": [dict(plan.jobs[0].options)]} if plan.jobs[0].options else None)
    check_world(scenarios, fps=found.fps, state_names=found.state_names, world=f"world {cfg['world']}")
    recipe = with_state(replace(recipe, state_names=found.state_names, checkpoint=found.checkpoint), scenarios)
    rehearse(plan, recipe)
    if latents == "instead":
        _check_blind(plan, recipe, found)
    spec = make_spec(
        name=f"{Path(str(cfg['world'])).name}-scenarios",
        frame_size=found.frame_size,
        fps=found.fps,
        action_space=found.action_space,
        state_names=found.state_names if recipe.stored is None else recipe.stored,
        source={"id": recipe.env, "kwargs": {"world": cfg["world"]}, "checkpoint": found.checkpoint},
        licence=cfg.get("licence") or "unknown",
        root_seed=int(cfg["seed"]),
        latents=found.latents,
        labels=found.labels,
    )
    return spec, plan, recipe


def _check_blind(plan: Plan, recipe: Recipe, found: Probe) -> None:
    """Have every scenario's policy act once without a frame.

    Raises:
        DatasetError: One cannot.
    """
    first = {job.scenario: job for job in reversed(plan.jobs)}
    for name, job in first.items():
        told = script(job, plan.scenarios[name])
        try:
            for config in told.policies.values():
                build_policy(recipe, config, {}, found.action_space).act(found.observation)
        except Exception as error:
            what = f"scenario {name!r}: its policy cannot act without frames ({type(error).__name__}: {error})"
            raise DatasetError(f"{what}, and record.latents=instead makes none: use record.latents=beside") from error


def _world_keywords(cfg: Mapping[str, Any]) -> dict[str, Any]:
    keywords = {"world": cfg["world"]}
    return {**keywords, **{key: value for key, value in (cfg.get("world_options") or {}).items() if value is not None}}


__all__ = ["generate", "main", "plan_dataset", "plan_scenarios", "read_scenarios"]
