"""``worldsim scenario list | show | validate | expand``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from worldsim.config import compose, group_options
from worldsim.scenario.expand import ConcreteEpisode, plan_hash
from worldsim.scenario.expand import expand as expand_all
from worldsim.scenario.files import load_many, parse_scenarios, read_scenarios, unique
from worldsim.scenario.problems import ScenarioError
from worldsim.scenario.scenario import Scenario, check_size
from worldsim.scenario.support import check_world
from worldsim.scenario.template import canonical
from worldsim.targets import suggest

_WORLDS = Path(__file__).parents[1] / "worlds"


def list_scenarios(cfg: DictConfig) -> None:
    """Print name, number of episodes and description of every scenario.

    Raises:
        ValueError: A scenario is wrong.
    """
    scenarios = [*_shipped(cfg), *load_many(cfg.files, defaults=_defaults(cfg))]
    width = max((len(scenario.name) for scenario in scenarios), default=0) + 2
    for scenario in scenarios:
        told = f"  [{scenario.world}]" if scenario.world else ""
        print(f"{scenario.name:<{width}}{scenario.size():>8}  {scenario.description}{told}".rstrip())


def show(cfg: DictConfig) -> None:
    """Print one scenario as YAML, with everything that defaults fill in.

    Raises:
        ValueError: There is none of that name, or it is wrong.
    """
    scenarios = load_many(cfg.files, defaults=_defaults(cfg)) + _shipped(cfg)
    found = next((scenario for scenario in scenarios if scenario.name == cfg.name), None)
    if found is None:
        raise ScenarioError([f"there is no scenario {cfg.name!r}: {suggest(str(cfg.name), {item.name for item in scenarios})}"])
    print(yaml.safe_dump({found.name: found.to_json()}, sort_keys=False, allow_unicode=True, width=120), end="")


def validate(cfg: DictConfig) -> None:
    """Check files, and print how many scenarios and episodes they hold.

    Raises:
        ValueError: Something is wrong; tells all mistakes of all files.
    """
    scenarios = load_many(cfg.files, defaults=_defaults(cfg)) if cfg.files else _shipped(cfg)
    unique(scenarios)
    total = check_size(scenarios)
    if cfg.world is not None:
        _check_fit(scenarios, str(cfg.world))
    else:
        for world in sorted({scenario.world for scenario in scenarios if _is_here(scenario.world)}):
            _check_fit([scenario for scenario in scenarios if scenario.world == world], world)
    print(f"{len(scenarios)} scenarios, {total} episodes")


def _check_fit(scenarios: Sequence[Scenario], world: str) -> None:
    spec = _world(world)
    vocabulary = spec.get("vocabulary", {})
    check_world(
        scenarios,
        fps=float(spec["fps"]),
        state_names=spec.get("state_names", ()),
        tags=vocabulary.get("tags", ()),
        numbers=vocabulary.get("numbers", {}),
        world=f"world {world}",
    )


def _is_here(world: str) -> bool:
    """Whether a scenario names a world that has to be on this machine: not a Hub repository that nobody has fetched."""
    return bool(world) and ("/" not in world or Path(world).exists())


def expand(cfg: DictConfig) -> None:
    """Print the first episodes and the hash of all, and write all of them where ``out`` is given.

    Raises:
        ValueError: A scenario is wrong, or the file cannot be written.
    """
    scenarios = read_scenarios(_plain(cfg))
    total = check_size(scenarios)
    if cfg.out is not None:
        print(f"{total} episodes in {cfg.out}, plan {_write(Path(cfg.out), scenarios, int(cfg.seed))}")
        return
    rows = list(islice(expand_all(scenarios, int(cfg.seed)), int(cfg.rows)))
    print(_table(rows))
    if total > len(rows):
        print(f"... and {total - len(rows)} more")
    print(f"{total} episodes, plan {plan_hash(expand_all(scenarios, int(cfg.seed)))}")


def _write(path: Path, scenarios: Sequence[Scenario], seed: int) -> str:
    """Write JSON lines, whole or not at all; return the hash of the plan."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")

    def written() -> Any:
        with partial.open("w", encoding="utf-8") as file:
            for episode in expand_all(scenarios, seed):
                about = {"id": episode.id, "tries": episode.tries, "parent": episode.parent, "sha256": episode.sha256}
                file.write(canonical({**about, "episode": episode.resolved()}) + "\n")
                yield episode

    told = plan_hash(written())
    partial.replace(path)
    return told


def _table(rows: Sequence[ConcreteEpisode]) -> str:
    lines = [("id", "scenario", "seed", "branch", "sha256", "values")]
    for row in rows:
        values = ", ".join(f"{name}={_short(value)}" for name, value in {**row.values, **row.draws}.items())
        lines.append((str(row.id), row.scenario, str(row.seed), "" if row.branch is None else str(row.branch), row.sha256[:12], values))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join("  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[5]]).rstrip() for line in lines)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shipped(cfg: DictConfig) -> list[Scenario]:
    """Return all options of the group ``scenario``: what is shipped, and what packs add."""
    names = group_options("scenario_expand")["scenario"]
    composed = compose("scenario_expand", [f"scenario=[{','.join(names)}]"])
    return parse_scenarios(_plain(composed)["scenario"], where="scenario", defaults=_defaults(cfg))


def _defaults(cfg: DictConfig) -> dict[str, Any]:
    return {"horizon": cfg.horizon, "count": cfg.count}


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    return {str(key): value for key, value in plain.items()}


def _world(name: str) -> Mapping[str, Any]:
    path = (_WORLDS / name if (_WORLDS / name).is_dir() else Path(name)) / "world.json"
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        shipped = [item.parent.name for item in _WORLDS.glob("*/world.json")]
        raise ScenarioError([f"world={name}: {path} cannot be read: {suggest(name, shipped)}, or a folder with world.json"]) from error
    if not isinstance(spec, Mapping) or "fps" not in spec:
        raise ScenarioError([f"world={name}: {path} is no world"])
    return spec
