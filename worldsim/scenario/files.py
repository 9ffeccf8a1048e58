"""Scenarios from YAML files and from settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldsim.scenario.check import check_episodes
from worldsim.scenario.problems import Problems, ScenarioError, shorten
from worldsim.scenario.scenario import Scenario, read_scenario
from worldsim.targets import ConfigError
from worldsim.user_yaml import Lines, parse_yaml

_PACKAGE = re.compile(r"^#\s*@package\s+scenario\.([\w-]+)\s*$")


def parse_scenario(name: str, data: Any, *, where: str, defaults: Mapping[str, Any] | None = None) -> Scenario:
    """Build one scenario from what a file or an override says, strictly.

    Args:
        name: Its name.
        data: Keys of the language in JSON types.
        where: File or key that ``data`` comes from, for messages.
        defaults: ``horizon`` and ``seeds`` of a scenario that does not say.

    Raises:
        ScenarioError: All mistakes, one a line; each names place, key, what was found and what is allowed.
    """
    return parse_scenarios({name: data}, where=where, defaults=defaults)[0]


def parse_scenarios(
    data: Any, *, where: str, defaults: Mapping[str, Any] | None = None, lines: Lines | None = None, at_root: bool = False
) -> list[Scenario]:
    """Build scenarios from a mapping of names to scenarios.

    Args:
        data: The mapping.
        where: File or key that it comes from.
        defaults: As for ``parse_scenario``.
        lines: Line of every key in the file.
        at_root: Whether the one scenario's keys stand at the root of the file.

    Raises:
        ScenarioError: As ``parse_scenario``.
    """
    log = Problems(where, lines or {})
    if not isinstance(data, Mapping):
        raise ScenarioError([f"{where} is {shorten(data)}, not a mapping: write 'name: {{policy: ...}}'"])
    scenarios = []
    for name, body in data.items():
        root = () if at_root else tuple(str(name).split("."))
        made = read_scenario(str(name), body, log, root=root, defaults=defaults)
        if made is not None:
            check_episodes(made, log, root)
            scenarios.append(made)
    log.raise_any()
    return scenarios


def load_scenarios(path: Path | str, *, defaults: Mapping[str, Any] | None = None) -> list[Scenario]:
    """Read scenarios from a YAML file: a mapping of names to scenarios, or one scenario under ``# @package scenario.NAME``.

    Raises:
        ScenarioError: As ``parse_scenario``, with file and line.
        ConfigError: The file is no such YAML; names file and line.
        OSError: The file cannot be read.
    """
    path = Path(path)
    content, lines = parse_yaml(path)
    text = path.read_text(encoding="utf-8").splitlines()
    packaged = next((match[1] for line in text[:5] if (match := _PACKAGE.match(line))), None)
    if packaged is not None:
        content = {packaged: {"description": comment_above(text, _first_key(text)), **content}}
    else:
        content = {name: _described(body, text, lines.get((name,))) for name, body in content.items()}
    return parse_scenarios(content, where=str(path), defaults=defaults, lines=lines, at_root=packaged is not None)


def load_many(paths: Sequence[Path | str], *, defaults: Mapping[str, Any] | None = None) -> list[Scenario]:
    """Read several files, and tell the mistakes of all of them.

    Raises:
        ScenarioError: As ``load_scenarios``, for any of the files.
    """
    scenarios: list[Scenario] = []
    problems: list[str] = []
    for path in paths:
        try:
            scenarios += load_scenarios(path, defaults=defaults)
        except ScenarioError as error:
            problems += error.problems
        except ConfigError as error:
            problems.append(" ".join(str(error).split()))
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
    if problems:
        raise ScenarioError(problems)
    return scenarios


def read_scenarios(cfg: Mapping[str, Any]) -> list[Scenario]:
    """Read the scenarios of settings: those under ``scenario`` and those in ``files``.

    Args:
        cfg: Plain settings; ``horizon`` and ``count`` are the defaults of scenarios that do not say.

    Raises:
        ScenarioError: There are none, a name comes twice, or one is wrong.
    """
    defaults = {key: cfg[key] for key in ("horizon", "count") if key in cfg}
    scenarios = parse_scenarios(cfg.get("scenario") or {}, where="scenario", defaults=defaults)
    scenarios += load_many(cfg.get("files") or [], defaults=defaults)
    if not scenarios:
        raise ScenarioError(["there is no scenario: name some, as 'scenario=[calm,night]', or give 'files=[my_scenarios.yaml]'"])
    unique(scenarios)
    return scenarios


def unique(scenarios: Sequence[Scenario]) -> None:
    """Refuse two scenarios of one name.

    Raises:
        ScenarioError: Names the first that is there twice.
    """
    names = [scenario.name for scenario in scenarios]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ScenarioError([f"scenario {twice[0]!r} is there twice: rename one of them"])


def comment_above(text: Sequence[str], line: int | None) -> str:
    """Return the first line of the comment right above ``line`` (from 1), as a description; Hydra's own comments are none."""
    if line is None:
        return ""
    said: list[str] = []
    for above in reversed(text[: line - 1]):
        if not above.startswith("#"):
            break
        if "@package" not in above:
            said.append(above.lstrip("# ").strip())
    return said[-1][:200] if said else ""


def _described(body: Any, text: Sequence[str], line: int | None) -> Any:
    if not isinstance(body, dict) or "description" in body or not (said := comment_above(text, line)):
        return body
    return {"description": said.replace("$", "$$"), **body}


def _first_key(text: Sequence[str]) -> int | None:
    return next((i for i, line in enumerate(text, start=1) if line.strip() and not line.startswith("#")), None)
