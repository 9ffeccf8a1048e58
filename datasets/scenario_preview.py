"""A look at scenarios before they run in full: ``worldsim scenario preview``."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from worldsim.config import compose, group_options
from worldsim.datasets.batch import run_plan
from worldsim.datasets.generate import prepare
from worldsim.datasets.layout import DatasetError
from worldsim.datasets.plan import Plan, make_plan
from worldsim.datasets.preview import Note, contact_sheet, preview_video
from worldsim.datasets.progress import Meter
from worldsim.datasets.reader import EpisodeReader, read_commits
from worldsim.scenario import Scenario, ScenarioError, load_scenarios, parse_scenarios
from worldsim.scenario.expand import branch_events
from worldsim.scenario.template import Template
from worldsim.scenario.variants import count_variants, variant_values
from worldsim.targets import suggest


def main(cfg: DictConfig) -> None:
    """Draw scenarios by a composed ``configs/scenario_preview.yaml``; see there for the keys.

    Raises:
        ValueError: There is no such scenario, it is wrong, the world cannot be loaded, or the folder cannot be written.
    """
    preview(_plain(cfg))


def preview(cfg: Mapping[str, Any], *, console: Console | None = None) -> list[Path]:
    """Run one episode of every variant and branch, shortened, and draw a contact sheet and a video; no dataset is left.

    Args:
        cfg: The keys of ``configs/scenario_preview.yaml``.
        console: Where progress is shown; default: standard output.

    Returns:
        The files.

    Raises:
        ValueError: There is no such scenario, it is wrong, the world cannot be loaded, or the folder cannot be written.
    """
    console = console or Console()
    rows, frames = int(cfg["rows"]), int(cfg["frames"])
    if rows < 1 or frames < 2 * rows:
        raise DatasetError(f"rows={rows} must be 1 or more, and frames={frames} at least two for each of them")
    scenarios = find_scenarios(str(cfg["name"]), horizon=int(cfg["horizon"]))
    room = max(1, rows // len(scenarios))
    told = {scenario.name: thinned(scenario, max(1, room // scenario.branches())).to_json() for scenario in scenarios}
    fixed = {"scenario": told, "files": [], "count": 1, "batch": rows}
    spec, plan, recipe = prepare({**_plain(compose("generate", ["scenario=[]"])), **cfg, **fixed}, Console(quiet=True))
    plan = shortened(plan, rows, frames)
    recipe = replace(recipe, rows=len(plan.jobs))
    out = Path(str(cfg["out"] or f"{Path(str(cfg['name'])).stem}.preview"))
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "preview.worldsim"
        run_plan(dataset, spec, plan, recipe, meter=Meter("previewing", console=console))
        files = _draw(dataset, plan, out, alone=len(scenarios) == 1)
    longest = max(job.horizon for job in plan.jobs)
    episodes = sum(scenario.size() for scenario in scenarios)
    console.print(f"{len(plan.jobs)} of {episodes} episodes, {longest} steps of {_horizons(scenarios)}", markup=False, highlight=False)
    for file in files:
        console.print(str(file), soft_wrap=True, markup=False, highlight=False)
    return files


def find_scenarios(name: str, *, horizon: int = 128) -> list[Scenario]:
    """Return the scenarios of a YAML file, or the one of that name that is shipped or in a pack.

    Args:
        name: A path that ends with ``.yaml`` or ``.yml``, or a name.
        horizon: Most steps, where a scenario does not say.

    Raises:
        ScenarioError: There is none of that name, or it is wrong; with file and line.
    """
    defaults = {"horizon": horizon, "count": 1}
    if Path(name).suffix in (".yaml", ".yml"):
        try:
            return load_scenarios(name, defaults=defaults)
        except OSError as error:
            raise ScenarioError([f"{name}: {error.strerror or error}"]) from error
    names = group_options("scenario_expand")["scenario"]
    if name not in names:
        raise ScenarioError([f"there is no scenario {name!r}: {suggest(name, names)}; a file's name ends with .yaml"])
    composed = _plain(compose("scenario_expand", [f"scenario=[{name}]"]))
    return parse_scenarios(composed["scenario"], where="scenario", defaults=defaults)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return {str(key): value for key, value in plain.items()}


def thinned(scenario: Scenario, most: int) -> Scenario:
    """Return a scenario of one episode a variant, or one a branch, with at most ``most`` variants, spread evenly from first to last.

    The episodes that are left are the same ones, draw for draw, that the whole scenario has.
    """
    seeds = 1 if isinstance(scenario.seeds, int) else scenario.seeds[:1]
    count = count_variants(scenario.variants)
    if scenario.variants is None or count <= most:
        return replace(scenario, seeds=seeds)
    wanted = {round(i * (count - 1) / max(most - 1, 1)) for i in range(most)}
    values = itertools.compress(variant_values(scenario.variants), (i in wanted for i in range(count)))
    return replace(scenario, seeds=seeds, variants={"list": list(values)})


def shortened(plan: Plan, rows: int, frames: int) -> Plan:
    """Return the plan of the first ``rows`` episodes as one group, cut alike so that they have at most ``frames`` frames in all."""
    jobs = plan.jobs[:rows]
    most = max(1, frames // len(jobs) - 1)
    return make_plan([replace(job, horizon=min(job.horizon, most)) for job in jobs], batch=len(jobs), scenarios=plan.scenarios)


def _draw(dataset: Path, plan: Plan, out: Path, *, alone: bool) -> list[Path]:
    store = EpisodeReader(dataset)
    records = read_commits(dataset)
    shown = [record for record in records if int(record["frames"]) > 0]
    if not shown:
        raise DatasetError(f"no episode has a frame to show; the first reason: {records[0]['reason']}")
    store.info  # noqa: B018 - of the usable episodes, before the others join them
    store.records = shown
    notes = [note_of(record, plan, alone=alone) for record in shown]
    every = range(len(shown))
    try:
        out.mkdir(parents=True, exist_ok=True)
        return [
            contact_sheet(store, out / "contact_sheet.png", episodes=every, notes=notes),
            preview_video(store, out / "preview.mp4", episodes=every, notes=notes),
        ]
    except OSError as error:
        raise DatasetError(f"{out} cannot be written: {error.strerror or error}") from error


# ---------------------------------------------------------------- what is written beside an episode


def note_of(record: Mapping[str, Any], plan: Plan, *, alone: bool = False) -> Note:
    """Return what is written beside an episode: its variant and branch, when its events fired, and what became of it.

    Args:
        record: Its commit record.
        plan: The plan that it is in.
        alone: Whether all episodes are of one scenario, so that its name need not be told where there is more to tell.
    """
    params = record["params"]
    draws = {name: value for name, value in params.get("draws", {}).items() if name != "initial"}
    values = [f"{name}={_short(value)}" for name, value in {**params.get("values", {}), **draws}.items()]
    if (branch := params.get("branch")) is not None:
        values.append(_branch(plan.scenarios[record["scenario"]]["events"], int(branch)))
    words = values if alone and values else [record["scenario"], *values]
    judged = [f"{name}: {'yes' if held else 'no'}" for name, held in (params.get("expect") or {}).items()]
    lost = [f"{record['status']}: {record['reason']}"] if record["status"] != "ok" else []
    about = [f"{record['length']} steps, return {record['return']:.1f}", *judged, *lost]
    return Note("  ".join(words), _marks(params, plan.scenarios[record["scenario"]]), "   ".join(about))


def _marks(params: Mapping[str, Any], scenario: Mapping[str, Any]) -> dict[int, str]:
    """Say by step what the events did."""
    events = branch_events(scenario.get("events") or [], params.get("branch"))
    values = {**params.get("values", {}), **params.get("draws", {})}
    events = Template(events).fill({**dict.fromkeys(Template(events).names, "?"), **values})
    marks: dict[int, list[str]] = {}
    for step, number, _ in params.get("happened") or ():
        marks.setdefault(int(step), []).append(_said(events[number]["do"]) or "nothing")
    return {step: "; ".join(dict.fromkeys(words)) for step, words in marks.items()}


def _branch(events: Sequence[Mapping[str, Any]], branch: int) -> str:
    """Say what a branch of the scenario's fork does."""
    effects = itertools.chain.from_iterable(event["do"] if isinstance(event["do"], list) else [event["do"]] for event in events)
    fork = next(effect["fork"] for effect in effects if "fork" in effect)
    return f"branch {branch}: {_said(fork[branch]) or 'nothing'}"


def _said(effects: Any) -> str:
    return ", ".join(_effect(effect) for effect in (effects if isinstance(effects, list) else [effects]))


def _effect(effect: Mapping[str, Any]) -> str:
    kind, steps = next(key for key in effect if key != "for"), effect.get("for", 1)
    inner = effect[kind]
    if kind == "frame":
        inner = ", ".join(name if isinstance(value, Mapping | bool) else f"{name} {_short(value)}" for name, value in inner.items())
        kind = ""
    elif kind == "condition":
        kind, inner = "told", "; ".join(_short(value) for value in inner.values())
    lasts = f" for {steps}" if steps not in (None, 1) else ""
    return f"{kind} {_short(inner)}{lasts}".strip()


def _short(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _horizons(scenarios: Sequence[Scenario]) -> str:
    return ", ".join(dict.fromkeys(str(scenario.body["horizon"]) for scenario in scenarios))
