"""Run scenarios in a learned world: ``worldsim generate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from worldsim.datasets.batch import Probe, close_run, probe, run_plan
from worldsim.datasets.layout import DatasetError, DatasetSpec
from worldsim.datasets.lock import job_lock
from worldsim.datasets.plan import Plan, make_plan
from worldsim.datasets.progress import Meter
from worldsim.datasets.reader import EpisodeReader
from worldsim.datasets.storage import place
from worldsim.datasets.work import Recipe, build_policy
from worldsim.datasets.writer import create_dataset, make_spec, write_error
from worldsim.episode import Conditioning
from worldsim.rollout import LATENTS, EpisodeJob
from worldsim.scenario import Scenario, load_scenarios, parse_scenarios


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
    spec, plan, recipe = _prepare(cfg, console)
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
    spec, plan, recipe = _prepare(cfg, console)
    try:
        with job_lock(root):
            plan = create_dataset(root, spec, replace(plan, recipe=recipe.to_json()))
    except OSError as error:
        raise write_error(root, error) from error
    console.print(f"{len(plan.groups())} groups of up to {plan.batch}, plan {plan.sha256()}", soft_wrap=True, markup=False)
    console.print(f"'worldsim data run {root}' records them", soft_wrap=True, markup=False)
    return plan


def _prepare(cfg: Mapping[str, Any], console: Console) -> tuple[DatasetSpec, Plan, Recipe]:
    if int(cfg["batch"]) < 1:
        raise DatasetError(f"batch={cfg['batch']} must be 1 or more")
    plan = plan_scenarios(read_scenarios(cfg), root_seed=int(cfg["seed"]), batch=int(cfg["batch"]))
    console.print(f"{len(plan.jobs)} episodes of {len(plan.scenarios)} scenarios in world {cfg['world']}")
    rows = min(plan.batch, len(plan.jobs))
    latents = str((cfg.get("record") or {}).get("latents") or "none")
    if latents not in LATENTS:
        raise DatasetError(f"record.latents={latents} must be one of {', '.join(LATENTS)}")
    noise = cfg.get("action_noise") or {}
    recipe = Recipe(cfg["env"], _world_keywords(cfg), rows=rows, batched=True, noise=noise, latents=latents)
    found = probe(recipe, seed=plan.jobs[0].seed, options={"rows": [dict(plan.jobs[0].options)]} if plan.jobs[0].options else None)
    recipe = replace(recipe, state_names=found.state_names, checkpoint=found.checkpoint)
    if latents == "instead":
        _check_blind(plan, recipe, found)
    spec = make_spec(
        name=f"{Path(str(cfg['world'])).name}-scenarios",
        frame_size=found.frame_size,
        fps=found.fps,
        action_space=found.action_space,
        state_names=found.state_names,
        source={"id": recipe.env, "kwargs": {"world": cfg["world"]}, "checkpoint": found.checkpoint},
        licence=cfg.get("licence") or "unknown",
        root_seed=int(cfg["seed"]),
        latents=found.latents,
    )
    return spec, plan, recipe


def _check_blind(plan: Plan, recipe: Recipe, found: Probe) -> None:
    """Have every scenario's policy act once without a frame.

    Raises:
        DatasetError: One cannot.
    """
    for name, scenario in plan.scenarios.items():
        policy = build_policy(recipe, scenario, found.action_space)
        try:
            policy.act(found.observation)
        except Exception as error:
            what = f"scenario {name!r}: its policy cannot act without frames ({type(error).__name__}: {error})"
            raise DatasetError(f"{what}, and record.latents=instead makes none: use record.latents=beside") from error


def read_scenarios(cfg: Mapping[str, Any]) -> list[Scenario]:
    """Parse the scenarios of a config: those under ``scenario`` and those in ``files``.

    Raises:
        ValueError: There are none, a name comes twice, or one is wrong.
    """
    defaults = {key: cfg[key] for key in ("horizon", "count") if key in cfg}
    scenarios = parse_scenarios(cfg.get("scenario") or {}, where="scenario", defaults=defaults)
    for file in cfg.get("files") or []:
        scenarios += load_scenarios(file, defaults=defaults)
    names = [scenario.name for scenario in scenarios]
    if not names:
        raise DatasetError("there is no scenario: name some, as 'scenario=[calm,random]', or give 'files=[my_scenarios.yaml]'")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DatasetError(f"scenario {twice[0]!r} is there twice: rename one of them")
    return scenarios


def plan_scenarios(scenarios: Sequence[Scenario], *, root_seed: int, batch: int) -> Plan:
    """Expand scenarios to one episode a seed."""
    pairs = [(scenario, seed) for scenario in scenarios for seed in scenario.episode_seeds(root_seed)]
    jobs = [
        EpisodeJob(
            id=i,
            seed=seed,
            horizon=scenario.horizon,
            scenario=scenario.name,
            policy=str(scenario.policy["_target_"]).rpartition(".")[2],
            options=_options(scenario),
            conditioning=scenario.conditioning,
            params={"context": scenario.context, "action_noise": dict(scenario.action_noise)},
        )
        for i, (scenario, seed) in enumerate(pairs)
    ]
    return make_plan(jobs, batch=batch, scenarios={scenario.name: scenario.to_json() for scenario in scenarios})


def _options(scenario: Scenario) -> dict[str, Any]:
    """Reset options of a row: ``context`` and ``conditioning``, where the scenario sets them."""
    options: dict[str, Any] = {} if scenario.context == "random" else {"context": scenario.context}
    if scenario.conditioning != Conditioning():
        options["conditioning"] = scenario.conditioning.to_json()
    return options


def _world_keywords(cfg: Mapping[str, Any]) -> dict[str, Any]:
    keywords = {"world": cfg["world"]}
    return {**keywords, **{key: value for key, value in (cfg.get("world_options") or {}).items() if value is not None}}
